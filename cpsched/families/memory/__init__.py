"""The `memory` family: buffers and tensors into memory over time."""

from __future__ import annotations

from typing import Any

from cpsched.core.run import Run
from cpsched.families import Family
from cpsched.families.memory.bound import recompute
from cpsched.families.memory.check import check, evaluate
from cpsched.families.memory.draw import draw
from cpsched.families.memory.explain import constraints, restrict
from cpsched.families.memory.formats import FORMATS, WRITERS
from cpsched.families.memory.generate import GENERATORS
from cpsched.families.memory.problem import (
    Alias,
    Buffer,
    CopyEngine,
    Gap,
    MemoryProblem,
    MemorySchedule,
    Operation,
    PlacedBuffer,
    ScheduledCopy,
    Space,
    Use,
    default_objectives,
    objectives_of_form,
)
from cpsched.families.memory.revise import revise
from cpsched.result import Objective

__all__ = [
    "FAMILY",
    "Alias",
    "Buffer",
    "CopyEngine",
    "Gap",
    "MemoryProblem",
    "MemorySchedule",
    "Operation",
    "PlacedBuffer",
    "ScheduledCopy",
    "Space",
    "Use",
]


def _default_objectives(problem: MemoryProblem) -> tuple[Objective, ...]:
    return tuple(Objective(name) for name in default_objectives(problem))


def _objective(problem: MemoryProblem, name: str) -> Objective | None:
    return Objective(name) if name in objectives_of_form(problem.form) else None


def _prepare(problem: MemoryProblem, run: Run) -> Any:
    """The solver of the problem's form: an object with greedy, bounds, search and repair."""
    if problem.form == "mapping":
        from cpsched.families.memory.mapping import MappingSolver

        return MappingSolver(problem, run)
    if problem.form == "ordering":
        from cpsched.families.memory.ordering import OrderingSolver

        return OrderingSolver(problem, run)
    from cpsched.families.memory.search import AllocationSolver

    return AllocationSolver(problem, run)


def _items(schedule: MemorySchedule) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for place in schedule.buffers:
        key = place.buffer if place.start is None else f"{place.buffer}@{place.start}"
        out[key] = {"offset": place.offset, "space": place.space}
        if place.start is not None:
            out[key] |= {"from": place.start, "to": place.end}
    for copy in schedule.copies:
        out[f"copy of {copy.buffer} to {copy.target}@{copy.start}"] = {
            "start": copy.start,
            "end": copy.end,
        }
    for step, name in enumerate(schedule.order):
        out[f"step {step}"] = {"operation": name}
    return out


FAMILY: Family[MemoryProblem, MemorySchedule, Any] = Family(
    kind="memory",
    problem=MemoryProblem,
    schedule=MemorySchedule,
    default_objectives=_default_objectives,
    objective=_objective,
    check=check,
    evaluate=evaluate,
    prepare=_prepare,
    greedy=lambda solver, run: solver.greedy(),
    bounds=lambda solver, run: solver.bounds(),
    search=lambda solver, run: solver.search(),
    recompute=recompute,
    repair=lambda solver, run, schedule: solver.repair(schedule),
    constraints=constraints,
    restrict=restrict,
    revise=revise,
    items=_items,
    draw=draw,
    formats=FORMATS,
    writers=WRITERS,
    generators=GENERATORS,
)
