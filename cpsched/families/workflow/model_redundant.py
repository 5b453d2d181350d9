"""Redundant constraints of the makespan model: area rows, work around joins, symmetry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from cpsched.families.workflow.heads import heads_and_tails
from cpsched.families.workflow.merge import siblings
from cpsched.families.workflow.model import Variables

#: Terms of `joins` in one model.
MOST_JOINED = 20_000


def energy(v: Variables, rows: Sequence[Sequence[Any]]) -> None:
    """Redundant: the area rows that prove the best bound, for the solver's linear relaxation."""
    inst = v.inst
    heads, tails = heads_and_tails(inst)
    for p, r, a, b, _ in rows:
        terms_: list[Any] = []
        for t in range(inst.n):
            if inst.conditional[t]:
                continue
            for row, group, x in v.use[t]:
                if group == (p,) and heads[t, p] >= a and tails[t, p] >= b:
                    need = (1 if r == 0 else 0) if inst.unit[p] else int(inst.demand[row, r])
                    amount = need * v.length(row, p)
                    if amount:
                        terms_.append(amount * x)
        if terms_:
            capacity = int(inst.cap[p, r])
            # Rounding down ends and tails may each gain less than one unit.
            span = v.makespan - v.coarse(a) - v.coarse(b)
            slack = 2 * capacity if v.factor > 1 else 0
            v.model.add(sum(terms_) <= capacity * span + slack)


def joins(v: Variables) -> None:
    """Redundant: what every machine processes of the ancestors of a task comes before its start.

    And of its descendants after its end. One inequality per task and machine, for the solver's
    linear relaxation; only for tasks with several predecessors (successors), as a single one
    says as much.
    """
    inst = v.inst
    heads, tails = heads_and_tails(inst)
    for backwards in (False, True):
        ptr, other = (inst.succ_ptr, inst.succ_dst) if backwards else (inst.pred_ptr, inst.pred_src)
        edge = tails if backwards else heads
        related: list[set[int]] = [set() for _ in range(inst.n)]
        rows: list[tuple[int, int]] = []
        for t in (inst.topo[::-1] if backwards else inst.topo).tolist():
            for u in other[ptr[t] : ptr[t + 1]].tolist():
                related[t] |= related[u] | {u}
            if ptr[t + 1] - ptr[t] > 1 and len(related[t]) > 2 and v.use[t]:
                rows.append((len(related[t]), t))
        room = MOST_JOINED
        for count, t in sorted(rows, reverse=True):
            room -= count * inst.m
            if room < 0:
                break
            _join(v, sorted(related[t]), edge, v.makespan - v.end[t] if backwards else v.start[t])


def _join(v: Variables, tasks: Sequence[int], edge: Any, span: Any) -> None:
    """The work of some tasks on every machine fits between their heads (tails) and a task."""
    inst = v.inst
    cells: dict[tuple[int, ...], list[tuple[int, int, int, Any]]] = defaultdict(list)
    for t in tasks:
        if not inst.conditional[t]:
            for r, group, x in v.use[t]:
                cells[group].append((t, r, v.length(r, group[0]), x))
    for group, found in cells.items():
        p = group[0]
        capacity = len(group) * (1 if inst.unit[p] else int(inst.cap[p, 0]))
        needs = [1 if inst.unit[p] else int(inst.demand[r, 0]) for _, r, _, _ in found]
        work = [n * d * x for n, (_, _, d, x) in zip(needs, found, strict=True) if n * d]
        if len(work) < 2 or capacity >= 2**40:
            continue
        first = min(v.coarse(edge[t, p]) for t, *_ in found)
        # Rounding down what is on the right may gain less than one unit.
        slack = capacity - 1 if v.factor > 1 else 0
        v.model.add(sum(work) <= capacity * (span - first) + slack)


def symmetry(v: Variables) -> list[list[int]]:
    """Redundant: identical siblings start in the order of their index; returns their groups.

    Only for the makespan: other objectives and files may tell siblings apart.
    """
    groups = siblings(v.inst)
    for group in groups:
        for t, other in pairwise(group):
            v.model.add(v.start[t] <= v.start[other])
    return groups
