"""The Pareto front of several objectives by epsilon constraints, each point certified by its bound.

Every point is a lexicographic solve in which all objectives but the first are limited to be better
than points found before; the front is complete when every point is proved and no region is left.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpsched.core.clock import Clock, Stop
from cpsched.errors import ProblemError
from cpsched.families import family
from cpsched.result import Number, Objective, Result, Status

if TYPE_CHECKING:
    from cpsched.plot.figure import Figure
    from cpsched.problem import ProblemBase


@dataclass(frozen=True)
class Front:
    """The answer of `pareto`.

    Attributes
    ----------
    objectives
        Names of the objectives, in the order of every point's values.
    points
        Results that do not dominate each other, by increasing first objective (decreasing when
        it is maximised).
    complete
        Whether every point is proved optimal and no further point exists at the resolution.
    """

    objectives: tuple[str, ...]
    points: tuple[Result, ...]
    complete: bool

    @property
    def values(self) -> list[tuple[Number, ...]]:
        """Objective values of the points."""
        return [tuple(point.objective) for point in self.points]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of the contract, with the names of the objectives."""
        return {
            "objectives": list(self.objectives),
            "points": [point.to_dict() for point in self.points],
            "complete": self.complete,
        }

    def to_json(self, indent: int | None = None) -> str:
        """The front as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def figure(self) -> Figure:
        """The first two objectives as a curve."""
        from cpsched.plot.figure import Curve, Figure

        pairs = tuple(sorted((float(v[0]), float(v[1])) for v in self.values))
        title = "Pareto front" if self.complete else "Pareto front (not complete)"
        return Figure(
            title=title,
            x_label=self.objectives[0],
            y_label=self.objectives[1],
            curves=(Curve("front", pairs, steps=True),),
        )


def pareto(
    problem: ProblemBase,
    objectives: Sequence[str],
    time_limit: float | None = 60.0,
    *,
    resolution: float = 1e-6,
    max_points: int = 1000,
    workers: int | None = None,
    seed: int = 0,
    stop: Stop = None,
) -> Front:
    """All non-dominated combinations of the values of two or more objectives.

    Parameters
    ----------
    problem
        A problem of a kind that supports limits on its objectives.
    objectives
        Names of two or more objectives.
    time_limit
        Seconds for the whole front.
    resolution
        Relative step between two points in the objectives after the first; integer objectives
        use at least 1.
    max_points
        Stop after so many points; the front is then not complete.

    Raises
    ------
    ProblemError
        When the kind knows no limits, or an objective is unknown or repeated.
    """
    from cpsched.solve import objectives_of, solve

    chosen = family(problem.kind)
    wanted = objectives_of(chosen, problem, objectives)
    if len(wanted) < 2:
        raise ProblemError(
            "a Pareto front needs two or more objectives",
            place="objectives",
            value=list(objectives),
            remedy="Name at least two.",
        )
    if chosen.limit is None:
        raise ProblemError(
            f"problems of kind {problem.kind} have no limits on objectives",
            place="objectives",
            remedy="Use a lexicographic list of objectives instead.",
        )
    clock = Clock(time_limit, stop=stop)
    names = [o.name for o in wanted]
    # A region is what the objectives after the first may be at most (at least when maximised).
    regions: list[tuple[Number | None, ...]] = [(None,) * (len(names) - 1)]
    points: dict[tuple[Number, ...], Result] = {}
    complete = True
    previous: Any = None
    while regions:
        if clock.expired() or len(points) >= max_points:
            complete = False
            break
        region = regions.pop()
        limited: Any = problem
        for objective, value in zip(wanted[1:], region, strict=True):
            if value is not None:
                limited = chosen.limit(limited, objective.name, value)
        left = clock.remaining()
        share = left / (2 + len(regions)) if math.isfinite(left) else None
        result = solve(
            limited,
            time_limit=share,
            workers=workers,
            seed=seed,
            objective=names,
            hint=previous,
            stop=lambda: clock.cancelled,
        )
        if result.schedule is None:
            complete = complete and result.status is Status.INFEASIBLE
            continue
        complete = complete and result.status is Status.OPTIMAL
        previous = result.schedule
        values = tuple(result.objective)
        points[values] = result
        for k, objective in enumerate(wanted[1:]):
            step = resolution * max(1.0, abs(values[k + 1]))
            if isinstance(values[k + 1], int):
                step = max(1, round(step))
            better = values[k + 1] + step if objective.maximise else values[k + 1] - step
            if chosen.limit(problem, objective.name, better) is None:
                continue  # no schedule can be that good
            narrowed = (*region[:k], better, *region[k + 1 :])
            if not any(_within(narrowed, other, wanted[1:]) for other in regions):
                regions.append(narrowed)
    signs = [-1 if o.maximise else 1 for o in wanted]
    kept = [v for v in points if not any(_dominates(w, v, signs) for w in points if w != v)]
    kept.sort(key=lambda v: [s * x for s, x in zip(signs, v, strict=True)])
    return Front(tuple(names), tuple(points[v] for v in kept), complete)


def _within(
    inner: Sequence[Number | None], outer: Sequence[Number | None], wanted: Sequence[Objective]
) -> bool:
    """Whether one region lies in another."""
    return all(
        b is None or (a is not None and (a >= b if o.maximise else a <= b))
        for a, b, o in zip(inner, outer, wanted, strict=True)
    )


def _dominates(one: Sequence[Number], other: Sequence[Number], signs: Sequence[int]) -> bool:
    return all(s * a <= s * b for s, a, b in zip(signs, one, other, strict=True))
