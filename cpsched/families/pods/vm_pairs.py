"""Migrations of VMs that lie on several cells of a host: each counts once and changes them all.

A migration gains a multiple of X cores in total: X at best for a VM on one cell, 2 X for one on two
cells. Migrations that gain X or more are carried out one after the other, those of 2 X first; the
class flow plans the rest.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cpsched.families.pods.arrays import Bools
from cpsched.families.pods.board import Action, Board
from cpsched.families.pods.prepare import Instance


def best_moves(instance: Instance, most: int) -> list[Action]:
    """Up to ``most`` migrations that gain X cores or more each, in an executable order."""
    board = Board(instance)
    actions: list[Action] = []
    size = 1000 * instance.problem.fragment_cores
    cpu = instance.cell_resources.index("cpu")
    active = np.array([not n.unschedulable for n in instance.problem.nodes], dtype=bool)
    used: set[int] = set()
    candidates = _candidates(instance, cpu, size)
    for gain in (2 * size, size):
        for p in candidates:
            source, cells = int(board.at[p]), board.cells[p]
            if len(actions) >= most:
                return actions
            if source in used or not active[source]:
                continue
            need = int(instance.cell_requests[instance.class_of[p], cpu])
            rest = board.cell_free[source, list(cells), cpu] % size
            freed = int((rest - (rest + need) % size).sum())
            found = _target(board, p, need, size, gain - freed, active, used)
            if found is None:
                continue
            node, chosen = found
            board.evict(p)
            if not board.can(int(instance.class_of[p]), node):
                board.bind(p, source, cells)
                continue
            board.bind(p, node, chosen)
            actions.append(("move", p, node, chosen))
            used |= {source, node}
    return actions


def _candidates(instance: Instance, cpu: int, size: int) -> list[int]:
    """VMs on several cells that change remainders, the largest first."""
    out = []
    for group in instance.classes:
        need = int(instance.cell_requests[group.index, cpu])
        if instance.cell_count[group.index] > 1 and need % size and not group.fixed:
            out += [(-need, p) for p in group.members if instance.at[p] >= 0]
    return [p for _, p in sorted(out)]


def _target(
    board: Board, p: int, need: int, size: int, wanted: int, active: Bools, used: set[int]
) -> tuple[int, tuple[int, ...]] | None:
    """A host, and its cells, where the VM takes at least ``wanted`` of the fragments."""
    instance = board.instance
    c = int(instance.class_of[p])
    cpu = instance.cell_resources.index("cpu")
    count = int(instance.cell_count[c])
    free = board.cell_free
    rest = free[:, :, cpu] % size
    fits = np.all(free >= instance.cell_requests[c], axis=2)
    gain = np.where(fits, rest - (rest - need) % size, -size)
    total = np.sort(gain, axis=1)[:, -count:].sum(axis=1)
    possible = instance.allowed[c] & active & (fits.sum(axis=1) >= count) & (total >= wanted)
    possible[[*used, int(board.at[p])]] = False
    hosts = np.flatnonzero(possible)
    if not len(hosts):
        return None
    # The tightest: what stays free beyond a multiple of X may serve others.
    left = np.where(fits, (rest - need) % size, 0).sum(axis=1)
    n = int(hosts[np.argmin(left[hosts])])
    cells = sorted(np.flatnonzero(fits[n]).tolist(), key=lambda k: -int(gain[n, k]))[:count]
    return n, tuple(sorted(cells))


def after(instance: Instance, actions: list[Action]) -> Instance:
    """The instance in the state after some migrations, with as many fewer left."""
    at, cells = instance.at.copy(), list(instance.cells_at)
    for _, p, n, chosen in actions:
        at[p], cells[p] = n, chosen
    limit = instance.problem.migration_limit
    left = None if limit is None else limit - len(actions)
    problem = instance.problem.model_copy(update={"migration_limit": left})
    return dataclasses.replace(instance, at=at, cells_at=cells, problem=problem)
