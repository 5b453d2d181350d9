"""Projects and shops: tasks with modes, resources, lags, calendars, reservoirs, due dates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cpsched.families import Family
from cpsched.families.rcpsp.bound import bounds, recompute
from cpsched.families.rcpsp.check import check, evaluate
from cpsched.families.rcpsp.draw import draw
from cpsched.families.rcpsp.explain import constraints, restrict
from cpsched.families.rcpsp.formats import FORMATS, WRITERS
from cpsched.families.rcpsp.generate import GENERATORS
from cpsched.families.rcpsp.greedy import greedy, repair
from cpsched.families.rcpsp.prepare import prepare
from cpsched.families.rcpsp.problem import OBJECTIVES, RcpspProblem, RcpspSchedule
from cpsched.result import Objective


def default_objectives(problem: RcpspProblem) -> tuple[Objective, ...]:
    """The objectives that the problem names, in order."""
    return tuple(Objective(name) for name in problem.objectives)


def objective(problem: RcpspProblem, name: str) -> Objective | None:
    """One of the family's objectives, by its name; all are minimised."""
    return Objective(name) if name in OBJECTIVES else None


def items(schedule: RcpspSchedule) -> dict[str, dict[str, Any]]:
    """Mode, start and end by task, for diffs."""
    return {d.task: {"mode": d.mode, "start": d.start, "end": d.end} for d in schedule.tasks}


def _lazily(module: str, function: str) -> Callable[..., Any]:
    """A function of a module of this family that is imported when first called.

    The search needs ortools, which reading, checking and first schedules do without.
    """

    def call(*arguments: Any) -> Any:
        import importlib

        loaded = importlib.import_module(f"cpsched.families.rcpsp.{module}")
        return getattr(loaded, function)(*arguments)

    call.__name__ = function
    return call


FAMILY: Family[RcpspProblem, RcpspSchedule, Any] = Family(
    kind="rcpsp",
    problem=RcpspProblem,
    schedule=RcpspSchedule,
    default_objectives=default_objectives,
    objective=objective,
    check=check,
    evaluate=evaluate,
    prepare=prepare,
    greedy=greedy,
    bounds=bounds,
    search=_lazily("search", "search"),
    recompute=recompute,
    repair=repair,
    constraints=constraints,
    restrict=restrict,
    items=items,
    draw=draw,
    prove=_lazily("preemptive", "raise_bound"),
    revise=_lazily("revise", "revise"),
    formats=FORMATS,
    writers=WRITERS,
    generators=GENERATORS,
)
