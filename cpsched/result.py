"""What a call returns: status, schedule, objective, bounds with their arguments, and the trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from cpsched.validate import Report, Violation

#: Objective values: integers, or floats where a family's unit is not integral.
Number = int | float
#: The values of a lexicographic list of objectives, most important first.
Values = tuple[Number, ...]


class Status(StrEnum):
    """What is known about the problem when a call returns."""

    OPTIMAL = "OPTIMAL"
    FEASIBLE = "FEASIBLE"
    INFEASIBLE = "INFEASIBLE"
    UNKNOWN = "UNKNOWN"


class StopReason(StrEnum):
    """Why a call returned."""

    PROVED = "proved"
    GAP = "gap"
    TIME_LIMIT = "time_limit"
    CANCELLED = "cancelled"
    CONTRADICTION = "contradiction"
    ERROR = "error"


@dataclass(frozen=True)
class Objective:
    """One objective of a problem, by its name in the contract."""

    name: str
    maximise: bool = False


@dataclass(frozen=True)
class Bound:
    """A bound on one objective, with the argument that proves it.

    Parameters
    ----------
    value
        Lower bound of a minimised, upper bound of a maximised objective.
    argument
        Name of the proof (``critical-path``, ``energy-window``, ``cp-sat``, ...).
    objective
        Name of the objective it bounds.
    data
        What is needed to recompute the value from the problem alone; JSON-compatible.
    given
        None when the bound holds for every schedule; otherwise the values of the more important
        objectives for which it was proved.
    """

    value: Number
    argument: str
    objective: str
    data: dict[str, Any] = field(default_factory=dict)
    given: Values | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form used in a result's ``bounds``."""
        out: dict[str, Any] = {
            "value": self.value,
            "argument": self.argument,
            "objective": self.objective,
        }
        if self.data:
            out["data"] = self.data
        if self.given:
            out["given"] = list(self.given)
        return out

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Bound:
        """The bound of a JSON form."""
        given = data.get("given")
        return cls(
            data["value"],
            data["argument"],
            data["objective"],
            data.get("data", {}),
            None if given is None else tuple(given),
        )


@dataclass(frozen=True)
class Incumbent:
    """A checked schedule that was the best known at some moment of a call."""

    schedule: Any
    values: Values
    source: str
    time: float

    @property
    def objective(self) -> Any:
        """The value, or the list of values when there are several objectives."""
        return unlist(self.values)


@dataclass(frozen=True)
class TracePoint:
    """One improvement of the schedule or the bound, at ``time`` seconds from the call."""

    time: float
    objective: Any
    bound: Any
    source: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON form used in a result's ``trace``."""
        return {
            "time": round(self.time, 4),
            "objective": self.objective,
            "bound": self.bound,
            "source": self.source,
        }


def unlist(values: Sequence[Any] | None) -> Any:
    """A single value for one objective, a list for several, None for none."""
    if not values:
        return None
    return values[0] if len(values) == 1 else list(values)


def gap_of(objective: Number, bound: Number) -> float:
    """Relative gap of the contract: ``|objective - bound| / max(1, |objective|)``."""
    return abs(objective - bound) / max(1.0, abs(objective))


@dataclass(frozen=True)
class Result:
    """The answer of `solve`, `improve` and `replan`: see CONTRACT section 4 for its JSON.

    ``objective``, ``bound`` and ``gap`` are None where unknown, and lists when the problem has
    several objectives. ``schedule`` is the family's schedule object (fields by attribute or by
    key), or None.
    """

    kind: str
    status: Status
    stop_reason: StopReason
    schedule: Any
    objective: Any
    objective_name: Any
    bound: Any
    gap: Any
    bounds: tuple[Bound, ...]
    source: str | None
    trace: tuple[TracePoint, ...]
    validation: Report
    wall_time: float
    problem_name: str
    environment: dict[str, Any]
    message: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    problem: Any = field(repr=False, compare=False, kw_only=True)

    def __getattr__(self, name: str) -> Any:
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        raise AttributeError(name)

    def to_dict(self) -> dict[str, Any]:
        """The result as the JSON object of the contract."""
        out: dict[str, Any] = {
            "schema_version": "1",
            "kind": self.kind,
            "problem": {"name": self.problem_name, "sha256": self.problem.sha256()},
            "status": self.status.value,
            "stop_reason": self.stop_reason.value,
            "objective": self.objective,
            "objective_name": self.objective_name,
            "bound": self.bound,
            "gap": self.gap,
            "bounds": [b.to_dict() for b in self.bounds],
            "source": self.source,
            "wall_time": round(self.wall_time, 4),
            "trace": [point.to_dict() for point in self.trace],
            "schedule": None if self.schedule is None else self.schedule.to_dict(),
            "validation": self.validation.to_dict(),
            "environment": self.environment,
        }
        if self.message:
            out["message"] = self.message
        for key, value in self.extra.items():
            listed = isinstance(value, list)
            parts = [
                v.to_dict() if hasattr(v, "to_dict") else v for v in (value if listed else [value])
            ]
            out[key] = parts if listed else parts[0]
        return out

    def to_json(self, indent: int | None = None) -> str:
        """The result as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_dict(cls, data: dict[str, Any], problem: Any) -> Result:
        """The result of a JSON form, for the problem it was made from.

        Its schedule is parsed, not checked: `cpsched.validate` does that.
        """
        from cpsched.families import family

        schedule = data["schedule"]
        known = {f.name for f in fields(cls)} | {"schema_version"}
        return cls(
            kind=data["kind"],
            status=Status(data["status"]),
            stop_reason=StopReason(data["stop_reason"]),
            schedule=None if schedule is None else family(data["kind"]).read_schedule(schedule),
            objective=data["objective"],
            objective_name=data["objective_name"],
            bound=data["bound"],
            gap=data["gap"],
            bounds=tuple(Bound.from_dict(b) for b in data["bounds"]),
            source=data["source"],
            trace=tuple(TracePoint(**point) for point in data["trace"]),
            validation=Report(
                data["validation"]["valid"],
                tuple(Violation(**v) for v in data["validation"]["violations"]),
            ),
            wall_time=data["wall_time"],
            problem_name=data["problem"]["name"],
            environment=data["environment"],
            message=data.get("message", ""),
            extra={key: value for key, value in data.items() if key not in known},
            problem=problem,
        )

    def save(self, path: str | Path) -> None:
        """Write the JSON of the result to a file."""
        Path(path).write_text(self.to_json(indent=1) + "\n")

    def _repr_html_(self) -> str:
        from cpsched.plot.html import notebook_html

        return notebook_html(self)
