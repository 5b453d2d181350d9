"""LLM serving: admission, cache, preemption, routing, capacity and placement with certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cpsched.families import Family
from cpsched.families.serving.check import check, evaluate
from cpsched.families.serving.draw import draw
from cpsched.families.serving.explain import constraints, restrict
from cpsched.families.serving.formats import FORMATS
from cpsched.families.serving.generate import GENERATORS
from cpsched.families.serving.prepare import prepare
from cpsched.families.serving.problem import (
    MAXIMISED,
    OBJECTIVES,
    ServingProblem,
    ServingSchedule,
)
from cpsched.families.serving.revise import revise
from cpsched.families.serving.writers import WRITERS
from cpsched.result import Bound, Number, Objective

if TYPE_CHECKING:
    from cpsched.core.run import Run


def default_objectives(problem: ServingProblem) -> tuple[Objective, ...]:
    """The problem's own list, or its question's first objective."""
    names = problem.objectives
    if not names:
        names = OBJECTIVES[problem.question][:1]
        if problem.question == "cache" and not any(r.prefix for r in problem.requests):
            names = ("recompute_tokens",)
    return tuple(Objective(name, name in MAXIMISED) for name in names)


def objective(problem: ServingProblem, name: str) -> Objective | None:
    """An objective of the problem's question."""
    return Objective(name, name in MAXIMISED) if name in OBJECTIVES[problem.question] else None


def _greedy(prepared: Any, run: Run) -> None:
    from cpsched.families.serving import pipeline

    pipeline.greedy(prepared, run)


def _bounds(prepared: Any, run: Run) -> None:
    from cpsched.families.serving import pipeline

    pipeline.bounds(prepared, run)


def _search(prepared: Any, run: Run) -> None:
    from cpsched.families.serving import pipeline

    pipeline.search(prepared, run)


def _repair(prepared: Any, run: Run, schedule: ServingSchedule) -> None:
    from cpsched.families.serving import pipeline

    pipeline.repair(prepared, run, schedule)


def _recompute(problem: ServingProblem, bound: Bound) -> Number:
    from cpsched.families.serving.bound import recompute

    return recompute(problem, bound)


def _replay(problem: ServingProblem, policy: Any, **settings: Any) -> Any:
    from cpsched.families.serving.replay import replay

    return replay(problem, policy, **settings)


def items(schedule: ServingSchedule) -> dict[str, dict[str, Any]]:
    """A schedule as items with fields, for diffs."""
    out: dict[str, dict[str, Any]] = {}
    for r in schedule.requests:
        out[r.request] = {"instance": r.instance, "start": r.start, "end": r.end}
        if r.decode is not None:
            out[r.request] |= {"decode": r.decode, "sent": r.sent}
        if r.pauses:
            out[r.request]["pauses"] = [list(one) for one in r.pauses]
    for pin in schedule.pins:
        out[f"pin {pin.item} {pin.from_}"] = {"to": pin.to, "place": pin.place}
    for one in schedule.evictions:
        out[f"evict {one.request}"] = {"how": one.how}
    for move in schedule.migrations:
        out[f"move {move.request}"] = {"from": move.from_, "to": move.to}
    for one_ttl in schedule.ttls:
        out[f"ttl {one_ttl.tool}"] = {"rounds": one_ttl.rounds}
    for item in schedule.placements:
        out[f"item {item.item}"] = {"gpus": list(item.gpus)}
    return out


FAMILY: Family[Any, Any, Any] = Family(
    kind="serving",
    problem=ServingProblem,
    schedule=ServingSchedule,
    default_objectives=default_objectives,
    objective=objective,
    check=check,
    evaluate=evaluate,
    prepare=prepare,
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
    formats=FORMATS,
    writers=WRITERS,
    generators=GENERATORS,
    tools={"replay": _replay},
)
