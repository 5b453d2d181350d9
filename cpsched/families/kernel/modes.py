"""A loop in chosen modes: the plain loop in which every operation has one way to execute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cpsched.families.kernel.problem import (
    KernelProblem,
    KernelSchedule,
    Mode,
    Operation,
    extra_delay,
)


def modes_of(operation: Operation) -> tuple[Mode, ...]:
    """The modes of an operation; without any, the one that changes nothing."""
    return operation.modes or (Mode(),)


def in_mode(operation: Operation, mode: Mode) -> Operation:
    """The operation with a mode's fields, and without modes."""
    update: dict[str, Any] = {
        field: value
        for field in Mode.model_fields
        if field not in ("name", "extra_delay") and (value := getattr(mode, field)) is not None
    }
    return operation.model_copy(update=update | {"modes": ()})


def in_modes(problem: KernelProblem, chosen: Mapping[str, int]) -> KernelProblem:
    """The problem with every operation in its chosen mode (the first one where none is named).

    A problem without modes is returned as it is.
    """
    if not any(o.modes for o in problem.operations):
        return problem
    extra: dict[str, int] = {}
    operations = []
    for o in problem.operations:
        if o.modes:
            mode = o.modes[chosen.get(o.id, 0)]
            extra[o.id] = extra_delay(o, mode)
            o = in_mode(o, mode)
        operations.append(o)
    edges = tuple(
        e.model_copy(update={"delay": e.delay + more}) if (more := extra.get(e.source)) else e
        for e in problem.edges
    )
    return problem.model_copy(update={"operations": tuple(operations), "edges": edges})


def as_scheduled(problem: KernelProblem, schedule: KernelSchedule) -> KernelProblem:
    """The problem in the modes that a schedule chose."""
    return in_modes(problem, {p.operation: p.mode for p in schedule.operations})
