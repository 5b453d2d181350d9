"""Task graphs on heterogeneous machines, with data, options, budgets and deadlines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cpsched.families import Family
from cpsched.families.workflow.check import check, evaluate
from cpsched.families.workflow.draw import draw
from cpsched.families.workflow.explain import constraints, restrict
from cpsched.families.workflow.formats import FORMATS
from cpsched.families.workflow.generate import GENERATORS
from cpsched.families.workflow.problem import (
    MAXIMISED,
    OBJECTIVES,
    WorkflowProblem,
    WorkflowSchedule,
)
from cpsched.families.workflow.writers import WRITERS
from cpsched.result import Objective


def default_objectives(problem: WorkflowProblem) -> tuple[Objective, ...]:
    """The objectives that the problem names, in order."""
    return tuple(Objective(name, name in MAXIMISED) for name in problem.objectives)


def objective(problem: WorkflowProblem, name: str) -> Objective | None:
    """One of the family's objectives, by its name; `log_success` is maximised."""
    return Objective(name, name in MAXIMISED) if name in OBJECTIVES else None


def limit(problem: WorkflowProblem, name: str, value: float) -> WorkflowProblem | None:
    """The problem with a hard limit on an objective, besides the limits it has.

    None for a limit below 0, or above the logarithm 0 of certain success.
    """
    if (value > 0) if name in MAXIMISED else (value < 0):
        return None
    limits = {str(known): most for known, most in problem.limits.items()}
    tighter = max if name in MAXIMISED else min
    limits[name] = tighter(limits.get(name, value), value)
    return problem.model_copy(update={"limits": limits})


def items(schedule: WorkflowSchedule) -> dict[str, dict[str, Any]]:
    """Machine, option and times by task, for diffs."""
    return {
        p.task: {"machine": p.machine, "option": p.option, "start": p.start, "end": p.end}
        for p in schedule.tasks
    }


def _lazily(module: str, function: str) -> Callable[..., Any]:
    """A function of a module of this family that is imported when first called.

    The solving modules need ortools and numba, which reading and checking do without.
    """

    def call(*arguments: Any, **named: Any) -> Any:
        import importlib

        loaded = importlib.import_module(f"cpsched.families.workflow.{module}")
        return getattr(loaded, function)(*arguments, **named)

    call.__name__ = function
    return call


def _prepare(problem: WorkflowProblem, run: Any) -> Any:
    from cpsched.families.workflow.prepare import prepare

    # With next to no time small problems are prepared all the same, for a first schedule.
    return prepare(problem, run.clock.check) if len(problem.tasks) > 1000 else prepare(problem)


FAMILY: Family[WorkflowProblem, WorkflowSchedule, Any] = Family(
    kind="workflow",
    problem=WorkflowProblem,
    schedule=WorkflowSchedule,
    default_objectives=default_objectives,
    objective=objective,
    check=check,
    evaluate=evaluate,
    prepare=_prepare,
    greedy=_lazily("search", "first_schedules"),
    bounds=_lazily("bound", "quick_bounds"),
    search=_lazily("search", "search"),
    recompute=_lazily("bound", "recompute"),
    repair=_lazily("search", "repair"),
    constraints=constraints,
    restrict=restrict,
    items=items,
    draw=draw,
    revise=_lazily("revise", "revise"),
    limit=limit,
    tools={"replay": _lazily("agents", "replay_by_name")},
    formats=FORMATS,
    writers=WRITERS,
    generators=GENERATORS,
)
