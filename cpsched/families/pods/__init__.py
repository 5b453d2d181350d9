"""The family `pods`: Kubernetes pod packing and VM rescheduling with executable plans."""

from __future__ import annotations

from typing import Any

from cpsched.core.run import Run
from cpsched.families import Family
from cpsched.families.pods import warm
from cpsched.families.pods.bound import bounds, recompute
from cpsched.families.pods.check import check
from cpsched.families.pods.describe import describe
from cpsched.families.pods.draw import draw
from cpsched.families.pods.explain import constraints, restrict
from cpsched.families.pods.formats import FORMATS
from cpsched.families.pods.greedy import LARGE, greedy
from cpsched.families.pods.objectives import OBJECTIVES, evaluate
from cpsched.families.pods.prepare import prepare
from cpsched.families.pods.problem import PodsProblem, PodsSchedule
from cpsched.families.pods.revise import revise
from cpsched.families.pods.scenario import GENERATORS
from cpsched.families.pods.writers import WRITERS
from cpsched.result import Bound, Number, Objective


def default_objectives(problem: PodsProblem) -> tuple[Objective, ...]:
    """Most pods per priority, the highest first, then the least disruption."""
    names = problem.objectives or (*tier_names(problem), "disruption")
    return tuple(o for n in names if (o := objective(problem, n)) is not None)


def tier_names(problem: PodsProblem) -> tuple[str, ...]:
    """The objectives placed@<priority>, descending."""
    return tuple(f"placed@{p}" for p in sorted({p.priority for p in problem.pods}, reverse=True))


def objective(problem: PodsProblem, name: str) -> Objective | None:
    """An objective by name."""
    if name in OBJECTIVES:
        needs = {"reassignment_cost": problem.reassignment is not None}
        return Objective(name, OBJECTIVES[name]) if needs.get(name, True) else None
    return Objective(name, True) if name in tier_names(problem) else None


def items(schedule: PodsSchedule) -> dict[str, dict[str, Any]]:
    """A plan as ``{pod: {node, numa}}``."""
    return {p.pod: {"node": p.node, "numa": list(p.numa)} for p in schedule.placements}


def _prepare(problem: PodsProblem, run: Run) -> Any:
    if problem.reassignment is not None:
        return problem
    instance = prepare(problem, run)
    bounds(instance, run)
    if len(problem.pods) <= LARGE:  # a large cluster needs the interpreter for its first plan
        warm.start_within(run.clock)
    return instance


def _greedy(instance: Any, run: Run) -> None:
    if isinstance(instance, PodsProblem):
        from cpsched.families.pods import reassign

        reassign.greedy(instance, run)
        return
    greedy(instance, run)


def _bounds(instance: Any, run: Run) -> None:
    """Clusters have their quick bounds since they were prepared."""
    if isinstance(instance, PodsProblem):
        from cpsched.families.pods import reassign

        reassign.raise_bounds(instance, run)


def _search(instance: Any, run: Run) -> None:
    if isinstance(instance, PodsProblem):
        from cpsched.families.pods import reassign

        reassign.search(instance, run)
        return
    from cpsched.families.pods.search import search

    search(instance, run)


def _repair(instance: Any, run: Run, schedule: PodsSchedule) -> None:
    if isinstance(instance, PodsProblem):
        return  # the initial assignment is always at hand
    from cpsched.families.pods.search import repair

    repair(instance, run, schedule)


def _recompute(problem: PodsProblem, bound: Bound) -> Number:
    return recompute(problem, bound)


FAMILY = Family(
    kind="pods",
    problem=PodsProblem,
    schedule=PodsSchedule,
    default_objectives=default_objectives,
    objective=objective,
    check=check,
    evaluate=evaluate,
    prepare=_prepare,
    greedy=_greedy,
    bounds=_bounds,
    search=_search,
    recompute=_recompute,
    repair=_repair,
    constraints=constraints,
    restrict=restrict,
    revise=revise,
    items=items,
    draw=draw,
    describe=describe,
    formats=FORMATS,
    writers=WRITERS,
    generators=GENERATORS,
)
