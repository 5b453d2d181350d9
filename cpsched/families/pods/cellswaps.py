"""Exchanges after a packing: a pod without a place takes that of a smaller one, or of one that can
go elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cpsched.core.clock import Clock
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.board import Board

#: Nodes tried for one pair of classes.
TRIES = 12

#: Pods without a place by class.
Waiting = dict[int, list[int]]


def exchange(board: Board, waiting: Waiting, clock: Clock) -> None:
    """Exchange until nothing more of the cells can be taken that way, or time is up."""
    i = board.instance
    worth = (i.cell_count * i.cell_requests[:, 0]).astype(np.int64)
    here = np.zeros((len(i.classes), i.nodes), dtype=np.int64)
    placed = np.flatnonzero(board.at >= 0)
    np.add.at(here, (i.class_of[placed], board.at[placed]), 1)
    changed = True
    while changed:
        changed = False
        for u in sorted((c for c in waiting if waiting[c] and worth[c]), key=lambda c: -worth[c]):
            while waiting[u] and not clock.expired() and _place(board, u, waiting, worth, here):
                changed = True
                clock.spend(1e-2)


def _place(board: Board, u: int, waiting: Waiting, worth: Ints, here: Ints) -> bool:
    """Give one pod of the class a place, with more of the cells taken than before."""
    i = board.instance
    n = board.best_node(u)
    if n >= 0:
        board.bind(waiting[u].pop(), n)
        here[u, n] += 1
        return True
    suits = i.allowed[u]
    others = np.flatnonzero(here.any(axis=1) & (np.arange(len(i.classes)) != u))
    for smaller in (False, True):
        if smaller:
            others = others[worth[others] < worth[u]]
        for v in others[np.argsort(worth[others], kind="stable")].tolist():
            if not smaller and not board.mask(v).any():
                continue
            room = np.all(board.free + i.requests[v] >= i.requests[u], axis=1)
            nodes = np.flatnonzero((here[v] > 0) & suits & room)
            for n in nodes[:TRIES].tolist():
                if _swap(board, u, v, n, smaller, waiting, here):
                    return True
    return False


def _swap(board: Board, u: int, v: int, n: int, drop: bool, waiting: Waiting, here: Ints) -> bool:
    """Put a pod of class u in the place of one of class v, which goes elsewhere or is dropped."""
    i = board.instance
    for p in _one_per_cells(board, (p for p in board.guests[n] if i.class_of[p] == v)):
        if i.at[p] >= 0:
            continue
        mark = len(board.actions)
        board.evict(p)
        if board.can(u, n):
            board.bind(waiting[u][-1], n)
            target = board.best_node(v)
            if target >= 0 or drop:
                waiting[u].pop()
                here[u, n] += 1
                here[v, n] -= 1
                if target >= 0:
                    board.bind(p, target)
                    here[v, target] += 1
                else:
                    waiting.setdefault(v, []).append(p)
                return True
        board.undo(mark)
    return False


def _one_per_cells(board: Board, pods: Iterable[int]) -> list[int]:
    """One pod of those on the same cells: the others are no different."""
    return list({board.cells[p]: p for p in sorted(pods)}.values())
