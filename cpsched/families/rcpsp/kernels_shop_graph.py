"""Array kernels of job shops: schedules as graphs, their heads, tails, critical paths and orders.

An operation runs on one machine per mode; jobs are chains. A schedule is the order of operations
on each machine, as linked lists: the graph of the chains and of these lists is acyclic, and each
operation starts at its head, the longest path before it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.rcpsp.kernels import draw

#: Cells of the table of forbidden orders; pairs that share a cell are forbidden together.
CELLS = 1 << 18


class Shop(NamedTuple):
    """A shop as arrays, int64: n operations, M modes; -1 for none."""

    before: Any  # (n,) operation before it in its job
    after: Any  # (n,) operation after it in its job
    mode_start: Any  # (n + 1,)
    usable: Any  # (M,) bool
    dur: Any  # (M,)
    machine: Any  # (M,) -1 for an operation that takes no time


class Order(NamedTuple):
    """One schedule: mode of each operation, and what comes next to it on its machine."""

    mode: Any  # (n,)
    prev: Any  # (n,)
    next: Any  # (n,)
    first: Any  # (machines,)


class Work(NamedTuple):
    """Scratch of the search, and what it found.

    ``state``: number of moves made, value of ``best``, move at which it was found, value of the
    current schedule.
    """

    degree: Any  # (n,)
    topo: Any  # (n,) a topological order of the current schedule
    head: Any  # (n,)
    tail: Any  # (n,) longest path from the operation's start to the end
    pos: Any  # (n,) place of each operation in that order
    length: Any  # (n,) duration in the current mode
    path: Any  # (n,) a critical path
    reach: Any  # (n,) new heads along a move
    order_until: Any  # (CELLS,) the move until which an order of two operations is forbidden
    mode_until: Any  # (M,) the move until which a mode is forbidden
    state: Any  # (4,)
    rng: Any  # (1,)
    best: Any  # (2, n) topological order and modes of the best schedule of this search


@kernel
def evaluate(shop: Any, order: Any, work: Any) -> int:
    """Heads, tails and a topological order; the makespan, or -1 when there is a cycle."""
    n = shop.before.shape[0]
    degree, topo, head = work.degree, work.topo, work.head
    filled = 0
    for i in range(n):
        degree[i] = 0
        if shop.before[i] >= 0:
            degree[i] += 1
        if order.prev[i] >= 0:
            degree[i] += 1
        head[i] = 0
        if degree[i] == 0:
            topo[filled] = i
            filled += 1
    makespan = 0
    at = 0
    while at < filled:
        i = topo[at]
        at += 1
        end = head[i] + shop.dur[order.mode[i]]
        if end > makespan:
            makespan = end
        for j in (shop.after[i], order.next[i]):
            if j >= 0:
                if head[j] < end:
                    head[j] = end
                degree[j] -= 1
                if degree[j] == 0:
                    topo[filled] = j
                    filled += 1
    if filled < n:
        return -1
    for k in range(n):
        work.pos[topo[k]] = k
        work.length[k] = shop.dur[order.mode[k]]
    sweep_tails(shop.after, order.next, work.length, topo, work.tail, n - 1)
    return makespan


@kernel
def load(shop: Any, sequence: Any, mode: Any, order: Any, last: Any) -> None:
    """Link the operations of each machine in the order of ``sequence``, in these modes."""
    last[:] = -1
    order.first[:] = -1
    for i in sequence:
        order.mode[i] = mode[i]
        order.prev[i] = order.next[i] = -1
        k = shop.machine[mode[i]]
        if k < 0:
            continue
        if last[k] < 0:
            order.first[k] = i
        else:
            order.next[last[k]] = i
            order.prev[i] = last[k]
        last[k] = i


@kernel
def move(shop: Any, order: Any, u: int, mode: int, behind: int) -> None:
    """Take ``u`` out and put it behind ``behind`` (-1: first) on the machine of ``mode``."""
    p, s = order.prev[u], order.next[u]
    if p >= 0:
        order.next[p] = s
    else:
        order.first[shop.machine[order.mode[u]]] = s
    if s >= 0:
        order.prev[s] = p
    k = shop.machine[mode]
    order.mode[u] = mode
    if behind >= 0:
        s = order.next[behind]
        order.next[behind] = u
    else:
        s = order.first[k]
        order.first[k] = u
    order.prev[u], order.next[u] = behind, s
    if s >= 0:
        order.prev[s] = u


# The kernels of a single move take plain arrays: compiled functions count references to tuples of
# arrays on every call, which costs more than the move itself.


@kernel
def critical_path(
    before: Any, prev: Any, length: Any, head: Any, path: Any, rng: Any, makespan: int
) -> int:
    """Write one critical path, drawn at random, into ``path``; its length."""
    seen = 0
    i = -1
    for k in range(before.shape[0]):
        if head[k] + length[k] == makespan:
            seen += 1
            if seen == 1 or draw(rng, seen) == 0:
                i = k
    count = 0
    while i >= 0:
        path[count] = i
        count += 1
        a, b = before[i], prev[i]
        if a >= 0 and head[a] + length[a] != head[i]:
            a = -1
        if b >= 0 and head[b] + length[b] != head[i]:
            b = -1
        if a >= 0 and b >= 0 and draw(rng, 2) == 0:
            a = -1
        i = a if a >= 0 else b
    for k in range(count // 2):
        path[k], path[count - 1 - k] = path[count - 1 - k], path[k]
    return count


@kernel
def sweep_heads(before: Any, prev: Any, length: Any, topo: Any, head: Any, first: int) -> int:
    """New heads from a place of the topological order on; the makespan."""
    for k in range(first, topo.shape[0]):
        i = topo[k]
        start = 0
        j = before[i]
        if j >= 0:
            start = head[j] + length[j]
        j = prev[i]
        if j >= 0 and head[j] + length[j] > start:
            start = head[j] + length[j]
        head[i] = start
    makespan = 0
    for i in range(topo.shape[0]):
        makespan = max(makespan, head[i] + length[i])
    return makespan


@kernel
def sweep_tails(after: Any, following: Any, length: Any, topo: Any, tail: Any, last: int) -> None:
    """New tails from a place of the topological order back to its beginning."""
    for k in range(last, -1, -1):
        i = topo[k]
        rest = 0
        j = after[i]
        if j >= 0:
            rest = tail[j]
        j = following[i]
        if j >= 0 and tail[j] > rest:
            rest = tail[j]
        tail[i] = rest + length[i]


@kernel
def reorder(
    before: Any,
    prev: Any,
    topo: Any,
    pos: Any,
    mark: Any,
    room: Any,
    u: int,
    first: int,
    last: int,
    step: int,
) -> None:
    """Repair the topological order after ``u`` moved on its machine, within places first..last.

    With step 1 ``u`` went back to the end of the stretch, and what follows it there goes behind
    the rest. With step -1 it went to the front, and ``before``, ``prev`` are given in reverse.
    """
    for k in range(first, last + 1):
        mark[topo[k]] = 0
    kept = first if step > 0 else last
    end = last if step > 0 else first
    moved = 0
    k = kept
    while True:
        w = topo[k]
        behind = w == u
        for j in (before[w], prev[w]):
            # Marks outside of the stretch are old.
            if j >= 0 and first <= pos[j] <= last and mark[j] == 1:
                behind = True
        if behind:
            mark[w] = 1
            room[moved] = w
            moved += 1
        else:
            topo[kept] = w
            kept += step
        if k == end:
            break
        k += step
    for k in range(moved):
        topo[kept + step * k] = room[k]
    for k in range(first, last + 1):
        pos[topo[k]] = k


def warm_up() -> None:
    """Run every kernel once on a tiny shop, so that the compiler caches all of them."""
    from cpsched.families.rcpsp import kernels_shop

    kernels_shop.warm_up()


def order_of(n: int, machines: int) -> Order:
    """An empty schedule."""
    mode, previous, following = (np.zeros(n, np.int64) for _ in range(3))
    return Order(mode, previous, following, np.zeros(machines, np.int64))


def work_of(n: int, modes: int, seed: int) -> Work:
    """Fresh scratch."""
    degree, topo, head, tail, pos, length, path, reach = np.zeros((8, n), np.int64)
    return Work(
        degree,
        topo,
        head,
        tail,
        pos,
        length,
        path,
        reach,
        order_until=np.zeros(CELLS, np.int64),
        mode_until=np.zeros(modes, np.int64),
        state=np.array([0, 2**62, 0, 2**62]),
        rng=np.array([(seed * 2654435761 + 977) & 0xFFFFFFFF]),
        best=np.zeros((2, n), np.int64),
    )
