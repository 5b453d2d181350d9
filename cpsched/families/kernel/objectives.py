"""The objectives as expressions over a model's variables, named like those of `values`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cpsched.families.kernel.model import KernelModel, Term
from cpsched.families.kernel.model_memory import amounts, lifetime, rings
from cpsched.families.kernel.prepare import Choice
from cpsched.families.kernel.values import TMEM_COLUMN_BYTES, has_registers, kilobytes


def length(m: KernelModel) -> Term:
    """Completion of the last operation."""
    last = m.model.new_int_var(0, m.horizon, "length")
    for o, modes in enumerate(m.instance.modes):
        m.model.add(last >= m.start(o) + m.by_mode(o, [c.latency for c in modes]))
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
        for x, weight in amounts(m, u, lambda c: 1 + kilobytes(c.registers)):
            for g in range(instance.groups):
                crossing = m.model.new_bool_var(f"crosses {u} {g}")
                for w in sorted(targets):
                    # A reader in group g while the source, in this mode, is not.
                    m.model.add(crossing >= m.v.member[w][g] - m.v.member[u][g] + x - 1)
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

    def words(c: Choice) -> int:
        return c.registers if counted else 1

    counted = has_registers(m.instance.problem)
    terms: list[Term] = []
    for o in range(m.instance.n):
        for x, amount in amounts(m, o, words):
            life = lifetime(m, o)
            if life is not None:
                cycles = m.interval * life.whole + life.rest
                terms.append(amount * _when(m, x, cycles, m.interval * (life.most + 1)))
    return sum(terms)


def buffer_bytes(m: KernelModel) -> Term:
    """Bytes of all rings, declared ones and those of memory that operations hold."""
    total: Term = rings(m, "smem") + TMEM_COLUMN_BYTES * rings(m, "tmem")
    for o in range(m.instance.n):
        for x, held in amounts(m, o, lambda c: c.smem + TMEM_COLUMN_BYTES * c.tmem):
            life = lifetime(m, o)
            if life is None:
                continue
            copies = m.model.new_int_var(0, life.most + 1, f"copies {o}")
            m.model.add(m.interval * copies >= m.interval * life.whole + life.rest)
            total = total + held * _when(m, x, copies, life.most + 1)
    return total


def _when(m: KernelModel, literal: Term, value: Term, most: int) -> Term:
    """At least a value when a literal holds, at least 0 otherwise."""
    if isinstance(literal, int):
        return value
    counted = m.model.new_int_var(0, most, "counted")
    m.model.add(counted >= value).only_enforce_if(literal)
    return counted


EXPRESSIONS: dict[str, Callable[[KernelModel], Term]] = {
    "length": length,
    "groups": groups,
    "communication": communication,
    "recurrence_span": recurrence_span,
    "register_pressure": register_pressure,
    "buffer_bytes": buffer_bytes,
}
