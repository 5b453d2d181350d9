"""The objectives of a schedule, from their definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cpsched.families.kernel.flat import Layout
from cpsched.families.kernel.graph import strong_parts
from cpsched.families.kernel.problem import WORD_BYTES, KernelProblem, KernelSchedule

#: Bytes of a tensor-memory column (128 lanes of 4 bytes).
TMEM_COLUMN_BYTES = 512


def evaluate(
    problem: KernelProblem, schedule: KernelSchedule, names: Sequence[str]
) -> tuple[int, ...]:
    """Values of the named objectives of a valid schedule, from the definition."""
    layout = Layout(problem, schedule)
    return tuple(_OBJECTIVES[name](layout) for name in names)


def initiation_interval(layout: Layout) -> int:
    """Cycles between iterations."""
    return layout.period


def length(layout: Layout) -> int:
    """Completion of the last operation; an operation takes its issue cycle at least."""
    return max(
        p.start + max(1, o.latency) for o, p in zip(layout.operations, layout.placed, strict=True)
    )


def stage_count(period: int, length: int) -> int:
    """Number of iterations that overlap in the steady state."""
    return -(-length // period)


def groups(layout: Layout) -> int:
    """Warp groups in use."""
    return len(set(layout.group) - {None})


def communication(layout: Layout) -> int:
    """Barrier pairs between groups, plus the KiB of registers that pass between them.

    A result that several operations of one other group read crosses once.
    """
    crossing = {
        (int(layout.source[e]), layout.group[layout.target[e]])
        for e in np.flatnonzero(layout.crosses).tolist()
        if layout.problem.edges[e].kind == "true"
    }
    return sum(1 + kilobytes(layout.operations[source].registers) for source, _ in crossing)


def kilobytes(words: int) -> int:
    """KiB of register words, rounded up."""
    return -(-words * WORD_BYTES // 1024)


def recurrence_span(layout: Layout) -> int:
    """Sum over the recurrences (strongly connected parts) of last minus first start."""
    edges = zip(layout.source.tolist(), layout.target.tolist(), strict=True)
    parts = strong_parts(len(layout.operations), edges)
    return sum(int(np.ptp(layout.start[part])) for part in parts if len(part) > 1)


def register_pressure(layout: Layout) -> int:
    """Register words times the cycles they are live, per iteration; divided by the interval it is
    the average number of live words. One word per result in a graph without registers."""
    words = [o.registers for o in layout.operations]
    if not has_registers(layout.original):
        words = [1] * len(words)
    return sum(w * t for w, t in zip(words, layout.lifetime.tolist(), strict=True))


def has_registers(problem: KernelProblem) -> bool:
    """Whether any operation holds registers, in any of its modes."""
    return any(o.registers or any(m.registers for m in o.modes) for o in problem.operations)


def buffer_bytes(layout: Layout) -> int:
    """Shared and tensor memory (in bytes) of all rings, declared ones and those of operations."""
    total = layout.rings("smem") + TMEM_COLUMN_BYTES * layout.rings("tmem")
    for o, copies in zip(layout.operations, layout.copies.tolist(), strict=True):
        total += (o.smem_bytes + TMEM_COLUMN_BYTES * o.tmem_columns) * copies
    return total


_OBJECTIVES = {
    f.__name__: f
    for f in (
        initiation_interval,
        length,
        groups,
        communication,
        recurrence_span,
        register_pressure,
        buffer_bytes,
    )
}
