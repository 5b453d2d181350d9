"""Family `kernel`: software pipelining and warp specialization of GPU loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpsched.errors import ProblemError
from cpsched.families import Family
from cpsched.families.kernel.build import Loop
from cpsched.families.kernel.check import check
from cpsched.families.kernel.explain import at_interval, constraints, restrict
from cpsched.families.kernel.formats import FORMATS
from cpsched.families.kernel.generate import GENERATORS
from cpsched.families.kernel.problem import (
    MODULO_OBJECTIVES,
    OBJECTIVES,
    KernelProblem,
    KernelSchedule,
)
from cpsched.families.kernel.revise import revise
from cpsched.families.kernel.sweep import sweep
from cpsched.families.kernel.values import evaluate
from cpsched.families.kernel.writers import WRITERS
from cpsched.result import Bound, Number, Objective, Values

if TYPE_CHECKING:
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run
    from cpsched.families.kernel.prepare import Instance
    from cpsched.plot.figure import Figure


def default_objectives(problem: KernelProblem) -> tuple[Objective, ...]:
    """All seven with warp groups; the interval and the length without."""
    names = OBJECTIVES if problem.grouped else MODULO_OBJECTIVES[:2]
    return tuple(Objective(name) for name in names)


def objective(problem: KernelProblem, name: str) -> Objective | None:
    """An objective by its contract name."""
    return Objective(name) if name in OBJECTIVES else None


def _prepare(problem: KernelProblem, run: Run) -> Instance:
    from cpsched.families.kernel.prepare import prepare

    return prepare(problem, run)


def _greedy(instance: Instance, run: Run) -> None:
    from cpsched.families.kernel.greedy import greedy

    greedy(instance, run)


def _bounds(instance: Instance, run: Run) -> None:
    from cpsched.families.kernel.bound import bounds

    bounds(instance, run)


def _search(instance: Instance, run: Run) -> None:
    from cpsched.core import engine

    if not engine.ready(run.clock):
        return
    from cpsched.families.kernel.search import search

    search(instance, run)


def _recompute(problem: KernelProblem, bound: Bound) -> int:
    from cpsched.families.kernel.bound import recompute

    return recompute(problem, bound)


def _repair(instance: Instance, run: Run, schedule: KernelSchedule) -> None:
    from cpsched.families.kernel.search import repair

    repair(instance, run, schedule)


def items(schedule: KernelSchedule) -> dict[str, dict[str, Any]]:
    """A schedule as items, for diffs."""
    out: dict[str, dict[str, Any]] = {
        f"operation {p.operation}": {"start": p.start, "group": p.group, "mode": p.mode}
        for p in schedule.operations
    }
    out |= {f"buffer {b.buffer}": {"depth": b.depth} for b in schedule.buffers}
    out["loop"] = {"initiation_interval": schedule.initiation_interval}
    return out


def _draw(problem: KernelProblem, schedule: KernelSchedule) -> Figure:
    from cpsched.families.kernel.draw import draw

    return draw(problem, schedule)


def _alternatives(
    problem: KernelProblem, schedule: KernelSchedule, count: int, clock: Clock
) -> list[KernelSchedule]:
    from cpsched.families.kernel.alternatives import alternatives

    return alternatives(problem, schedule, count, clock)


def limit(problem: KernelProblem, name: str, value: Number) -> KernelProblem | None:
    """The problem in which the interval or the length is at most a value; None below 1.

    Raises
    ------
    ProblemError
        For any other objective.
    """
    fields = {"initiation_interval": "max_initiation_interval", "length": "max_length"}
    if name not in fields:
        raise ProblemError(
            f"a limit can be set on {' and '.join(fields)}",
            place="objective",
            value=name,
            remedy="Pass one of these.",
        )
    if value < 1:
        return None
    if name == "initiation_interval":
        return at_interval(problem, int(value))
    return problem.model_copy(update={"max_length": int(value)})


def _evaluate(problem: KernelProblem, schedule: KernelSchedule, names: Sequence[str]) -> Values:
    return evaluate(problem, schedule, names)


FAMILY: Family[KernelProblem, KernelSchedule, Instance] = Family(
    kind="kernel",
    problem=KernelProblem,
    schedule=KernelSchedule,
    default_objectives=default_objectives,
    objective=objective,
    check=check,
    evaluate=_evaluate,
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
    draw=_draw,
    limit=limit,
    alternatives=_alternatives,
    tools={"sweep": sweep},
    formats=FORMATS,
    writers=WRITERS,
    generators=GENERATORS,
)

__all__ = [
    "FAMILY",
    "KernelProblem",
    "KernelSchedule",
    "Loop",
]
