"""The objectives as expressions over a model's variables, named like those of the checker."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cpsched.families.kernel.check import TMEM_COLUMN_BYTES, crossing_weight
from cpsched.families.kernel.model import KernelModel, Term


def length(m: KernelModel) -> Term:
    """Completion of the last operation."""
    last = m.model.new_int_var(0, m.horizon, "length")
    for o in range(m.instance.n):
        m.model.add(last >= m.start(o) + int(m.instance.latency[o]))
    return last


def groups(m: KernelModel) -> Term:
    """Warp groups in use."""
    return sum(m.v.used) if m.instance.problem.grouped else 0


def communication(m: KernelModel) -> Term:
    """Barrier pairs between groups and the KiB of registers that cross."""
    instance, problem = m.instance, m.instance.problem
    if not problem.grouped:
        return 0
    readers: dict[int, set[int]] = {}
    for e, edge in enumerate(problem.edges):
        if edge.kind == "true" and edge.source != edge.target:
            readers.setdefault(int(instance.source[e]), set()).add(int(instance.target[e]))
    terms: list[Term] = []
    for u, targets in readers.items():
        weight = crossing_weight(problem.operations[u])
        for g in range(instance.groups):
            crossing = m.model.new_bool_var(f"crosses {u} {g}")
            for w in sorted(targets):
                # A reader in group g while the source is not.
                m.model.add(crossing >= m.v.member[w][g] - m.v.member[u][g])
            terms.append(weight * crossing)
    return sum(terms)


def recurrence_span(m: KernelModel) -> Term:
    """Sum over the recurrences of last minus first start."""
    terms: list[Term] = []
    for part in np.unique(m.instance.part[m.instance.cyclic]).tolist():
        members = np.flatnonzero(m.instance.part == part).tolist()
        if len(members) < 2:
            continue
        first = m.model.new_int_var(0, m.horizon, f"first {part}")
        last = m.model.new_int_var(0, m.horizon, f"last {part}")
        for o in members:
            m.model.add(first <= m.start(o))
            m.model.add(last >= m.start(o))
        terms.append(last - first)
    return sum(terms)


def register_pressure(m: KernelModel) -> Term:
    """Register words times the cycles they are live."""
    words = [o.registers for o in m.instance.problem.operations]
    if not any(words):
        words = [1] * m.instance.n
    terms: list[Term] = []
    for o, amount in enumerate(words):
        life = m.lifetime(o) if amount else None
        if life is not None:
            terms.append(amount * (m.interval * life[0] + life[1]))
    return sum(terms)


def buffer_bytes(m: KernelModel) -> Term:
    """Bytes of all rings, declared ones and those of memory that operations hold."""
    total: Term = m.rings("smem") + TMEM_COLUMN_BYTES * m.rings("tmem")
    for o, operation in enumerate(m.instance.problem.operations):
        held = operation.smem_bytes + TMEM_COLUMN_BYTES * operation.tmem_columns
        life = m.lifetime(o) if held else None
        if life is not None:
            copies = m.model.new_int_var(0, life[3] + 1, f"copies {o}")
            m.model.add(m.interval * copies >= m.interval * life[0] + life[1])
            total = total + held * copies
    return total


EXPRESSIONS: dict[str, Callable[[KernelModel], Term]] = {
    "length": length,
    "groups": groups,
    "communication": communication,
    "recurrence_span": recurrence_span,
    "register_pressure": register_pressure,
    "buffer_bytes": buffer_bytes,
}
