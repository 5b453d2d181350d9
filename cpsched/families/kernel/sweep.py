"""What-if: the best initiation interval as a function of buffers, groups or registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cpsched.core.clock import Clock, Stop
from cpsched.errors import ProblemError
from cpsched.families.kernel.draw import sweep_figure
from cpsched.families.kernel.formats import free_depths
from cpsched.families.kernel.problem import KernelProblem
from cpsched.plot.figure import Figure
from cpsched.result import Result, Status

#: Resources a sweep knows, and what their values are.
OVER = {
    "buffers": "most slots of every ring (write-after-read distances become ring depths)",
    "groups": "warp groups, the producer included",
    "registers": "register words per warp",
}


@dataclass(frozen=True)
class SweepPoint:
    """One solve of a sweep: the resource's value, the interval found and the bound proved."""

    value: int
    interval: int | None
    bound: int | None
    status: Status

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "value": self.value,
            "initiation_interval": self.interval,
            "bound": self.bound,
            "status": self.status.value,
        }


@dataclass(frozen=True)
class Sweep:
    """A resource and the interval at each of its values, ascending."""

    over: str
    points: tuple[SweepPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form: ``over`` and ``points``."""
        return {"over": self.over, "points": [p.to_dict() for p in self.points]}

    def table(self) -> str:
        """The points as a text table."""
        rows = [f"{self.over:>12}  {'interval':>10}  {'bound':>10}  status"]
        for p in self.points:
            interval = "-" if p.interval is None else str(p.interval)
            bound = "-" if p.bound is None else str(p.bound)
            rows.append(f"{p.value:>12}  {interval:>10}  {bound:>10}  {p.status.value}")
        return "\n".join(rows)

    def figure(self) -> Figure:
        """The curve of the interval over the resource."""
        return sweep_figure(
            f"initiation interval over {self.over}",
            OVER[self.over],
            [(p.value, p.interval) for p in self.points],
        )


def default_values(problem: KernelProblem, over: str) -> tuple[int, ...]:
    """Values that show the shape of the curve, when the caller names none."""
    if over == "buffers":
        return (1, 2, 3, 4)
    if over == "groups":
        return tuple(range(2, max(3, problem.group_count + 1) + 1))
    full = problem.machine.registers_per_warp or 255 * 32
    return tuple(full * k // 8 for k in (4, 5, 6, 7, 8))


def with_value(problem: KernelProblem, over: str, value: int) -> KernelProblem:
    """The problem with one resource changed.

    Raises
    ------
    ProblemError
        For an unknown resource, or a value out of range.
    """
    if over not in OVER:
        raise ProblemError(
            f"a kernel sweep is over one of {', '.join(OVER)}",
            place="over",
            value=over,
            remedy="Correct --over.",
        )
    low, high = {"buffers": (1, 64), "groups": (0, 64), "registers": (0, 10**9)}[over]
    if not low <= value <= high:
        raise ProblemError(
            f"values of {over} lie between {low} and {high}",
            place="values",
            value=value,
            remedy="Correct the value.",
        )
    if over == "buffers":
        freed = free_depths(problem, value)
        rings = tuple(
            b.model_copy(update={"max_depth": max(b.min_depth, value)}) for b in freed.buffers
        )
        return freed.model_copy(update={"buffers": rings})
    if over == "groups":
        data = problem.model_copy(update={"groups": value}).to_dict()
        return KernelProblem.parse(data)
    machine = problem.machine.model_copy(update={"registers_per_warp": value})
    return problem.model_copy(update={"machine": machine})


def sweep(
    problem: KernelProblem,
    over: str,
    values: Sequence[int] | None = None,
    time_limit: float | None = 60.0,
    *,
    workers: int | None = None,
    seed: int = 0,
    stop: Stop = None,
) -> Sweep:
    """Solve for the smallest interval at each value of a resource.

    Parameters
    ----------
    over
        ``buffers``, ``groups`` or ``registers``.
    values
        Values to try; None for `default_values`.
    time_limit
        Seconds for all of them together.

    Raises
    ------
    ProblemError
        For an unknown resource or a value out of range.
    """
    from cpsched.solve import solve

    with_value(problem, over, 2)
    listed = sorted(set(values if values is not None else default_values(problem, over)))
    clock = Clock(time_limit, stop=stop)
    points = []
    known: Any = None  # what fits in less fits in more
    for k, value in enumerate(listed):
        changed = with_value(problem, over, value)
        left = clock.remaining() / (len(listed) - k)
        result: Result = solve(
            changed,
            time_limit=left,
            objective="initiation_interval",
            workers=workers,
            seed=seed,
            hint=known,
            stop=lambda: clock.cancelled,
        )
        known = result.schedule or known
        points.append(SweepPoint(value, result.objective, result.bound, result.status))
    return Sweep(over, tuple(points))
