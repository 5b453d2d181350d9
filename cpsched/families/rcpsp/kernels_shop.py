"""Array kernels of job shops: tabu search on the disjunctive graph, path relinking by ranks.

An operation runs on one machine per mode; jobs are chains. A schedule is the order of operations
on each machine, as linked lists: the graph of the chains and of these lists is acyclic, and each
operation starts at its head, the longest path before it. Moves take a critical operation to
another place of its block (Nowicki and Smutnicki 1996; Balas and Vazacopoulos 1998; Zhang et al.
2007) or to another machine (Mastrolilli and Gambardella 2000).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.rcpsp.kernels import draw

#: Cells of the table of forbidden orders; pairs that share a cell are forbidden together.
CELLS = 1 << 16


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
    degree, topo, head, tail = work.degree, work.topo, work.head, work.tail
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
    for k in range(n - 1, -1, -1):
        i = topo[k]
        longest = 0
        j = shop.after[i]
        if j >= 0:
            longest = tail[j]
        j = order.next[i]
        if j >= 0 and tail[j] > longest:
            longest = tail[j]
        tail[i] = longest + shop.dur[order.mode[i]]
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


@kernel
def ready_at(shop: Any, order: Any, head: Any, i: int) -> int:
    """When an operation's job reaches it."""
    j = shop.before[i]
    if j < 0:
        return 0
    end: int = head[j] + shop.dur[order.mode[j]]
    return end


@kernel
def rest_of(shop: Any, tail: Any, i: int) -> int:
    """The longest path behind an operation in its job."""
    j = shop.after[i]
    if j < 0:
        return 0
    rest: int = tail[j]
    return rest


@kernel
def cell(n: int, i: int, j: int) -> int:
    """The table's cell of "i before j"."""
    return ((i * n + j) * 2654435761 >> 7) & (CELLS - 1)


@kernel
def later(shop: Any, order: Any, work: Any, u: int, v: int) -> int:
    """Estimated makespan with ``u`` right behind ``v``; -1 when that may close a cycle.

    The sign is never used otherwise; the lowest bit tells whether the move is forbidden.
    """
    n, head, tail, reach = shop.before.shape[0], work.head, work.tail, work.reach
    j = shop.after[u]
    if j >= 0 and (j == v or tail[v] + shop.dur[order.mode[j]] <= tail[j]):
        return -1
    moves, until = work.state[0], work.order_until
    forbidden = 0
    end = 0
    p = order.prev[u]
    if p >= 0:
        end = head[p] + shop.dur[order.mode[p]]
    w = u
    while w != v:
        w = order.next[w]
        reach[w] = max(ready_at(shop, order, head, w), end)
        end = reach[w] + shop.dur[order.mode[w]]
        if until[cell(n, w, u)] > moves:
            forbidden = 1
    own = max(ready_at(shop, order, head, u), end)
    rest = rest_of(shop, tail, u)
    s = order.next[v]
    if s >= 0 and tail[s] > rest:
        rest = tail[s]
    rest += shop.dur[order.mode[u]]
    longest = own + rest
    while w != u:
        rest = max(rest, rest_of(shop, tail, w)) + shop.dur[order.mode[w]]
        if reach[w] + rest > longest:
            longest = reach[w] + rest
        w = order.prev[w]
    value: int = 2 * longest + forbidden
    return value


@kernel
def sooner(shop: Any, order: Any, work: Any, v: int, u: int) -> int:
    """Estimated makespan with ``v`` right before ``u``, as in `later`."""
    n, head, tail, reach = shop.before.shape[0], work.head, work.tail, work.reach
    j = shop.before[v]
    if j >= 0 and (j == u or head[u] + shop.dur[order.mode[u]] <= head[j]):
        return -1
    moves, until = work.state[0], work.order_until
    forbidden = 0
    end = ready_at(shop, order, head, v)
    p = order.prev[u]
    if p >= 0:
        end = max(end, head[p] + shop.dur[order.mode[p]])
    own = end
    end += shop.dur[order.mode[v]]
    w = u
    while w != v:
        reach[w] = max(ready_at(shop, order, head, w), end)
        end = reach[w] + shop.dur[order.mode[w]]
        if until[cell(n, v, w)] > moves:
            forbidden = 1
        w = order.next[w]
    rest = 0
    s = order.next[v]
    if s >= 0:
        rest = tail[s]
    longest = 0
    while w != u:
        w = order.prev[w]
        rest = max(rest, rest_of(shop, tail, w)) + shop.dur[order.mode[w]]
        if reach[w] + rest > longest:
            longest = reach[w] + rest
    rest = max(rest, rest_of(shop, tail, v)) + shop.dur[order.mode[v]]
    value: int = 2 * max(longest, own + rest) + forbidden
    return value


@kernel
def critical_path(shop: Any, order: Any, work: Any, makespan: int) -> int:
    """Write one critical path, drawn at random, into ``work.path``; its length."""
    n, head, path = shop.before.shape[0], work.head, work.path
    seen = 0
    i = -1
    for k in range(n):
        if head[k] + shop.dur[order.mode[k]] == makespan:
            seen += 1
            if draw(work.rng, seen) == 0:
                i = k
    length = 0
    while i >= 0:
        path[length] = i
        length += 1
        a, b = shop.before[i], order.prev[i]
        if a >= 0 and head[a] + shop.dur[order.mode[a]] != head[i]:
            a = -1
        if b >= 0 and head[b] + shop.dur[order.mode[b]] != head[i]:
            b = -1
        if a >= 0 and b >= 0 and draw(work.rng, 2) == 0:
            a = -1
        i = a if a >= 0 else b
    for k in range(length // 2):
        path[k], path[length - 1 - k] = path[length - 1 - k], path[k]
    return length


@kernel
def tabu(shop: Any, order: Any, work: Any, count: int, tenure: int) -> int:
    """Make up to ``count`` moves; the value of the best schedule of this search.

    ``work.state`` carries on from call to call. Each step makes the best move by estimate that is
    not forbidden, or one that promises a new best schedule.
    """
    n = shop.before.shape[0]
    state, head, tail, path = work.state, work.head, work.tail, work.path
    makespan = evaluate(shop, order, work)
    for _ in range(count):
        if makespan < state[1]:
            state[1], state[2] = makespan, state[0]
            work.best[0, :] = work.topo
            work.best[1, :] = order.mode
        state[0] += 1
        length = critical_path(shop, order, work, makespan)
        chosen, to_mode, to = -1, -1, -1
        best, ties = 2**62, 0
        any_u, any_mode, any_to, options = -1, -1, -1, 0
        left = 0
        while left < length:
            right = left
            while right + 1 < length and order.prev[path[right + 1]] == path[right]:
                right += 1
            for x in range(left, right + 1):
                for kind in range(4):
                    if kind == 0 and x < right:
                        u, v = path[x], path[right]
                    elif kind == 1 and x > left and right > left + 1:
                        v, u = path[x], path[left]
                    elif kind == 2 and left < x < right:
                        u, v = path[left], path[x]
                    elif kind == 3 and left < x < right:
                        v, u = path[right], path[x]
                    else:
                        continue
                    if kind % 2 == 0:
                        value, taken, place = later(shop, order, work, u, v), u, v
                    else:
                        value, taken, place = sooner(shop, order, work, v, u), v, order.prev[u]
                    if value < 0:
                        continue
                    options += 1
                    if draw(work.rng, options) == 0:
                        any_u, any_mode, any_to = taken, order.mode[taken], place
                    if value % 2 == 1 and value // 2 >= state[1]:
                        continue
                    ties = ties + 1 if value // 2 == best else 1
                    if value // 2 < best or (value // 2 == best and draw(work.rng, ties) == 0):
                        best, chosen = value // 2, taken
                        to_mode, to = order.mode[taken], place
            left = right + 1
        for x in range(length):
            u = path[x]
            if shop.mode_start[u + 1] - shop.mode_start[u] == 1:
                continue
            here = shop.machine[order.mode[u]]
            begin, rest = ready_at(shop, order, head, u), rest_of(shop, tail, u)
            job_before, job_after = shop.before[u], shop.after[u]
            for m in range(shop.mode_start[u], shop.mode_start[u + 1]):
                k = shop.machine[m]
                if not shop.usable[m] or k == here:
                    continue
                a, b = -1, order.first[k]
                while True:
                    # Before ``b`` unless b leads to u's job, behind ``a`` unless u's job leads to
                    # it: heads and tails that overlap exclude such paths.
                    fits = True
                    if b >= 0 and job_before >= 0:
                        late = head[b] + shop.dur[order.mode[b]] > head[job_before]
                        fits = b != job_before and late
                    if a >= 0 and job_after >= 0:
                        early = tail[a] + shop.dur[order.mode[job_after]] > tail[job_after]
                        if a == job_after or not early:
                            break
                    if fits:
                        own, behind = begin, rest
                        if a >= 0:
                            own = max(own, head[a] + shop.dur[order.mode[a]])
                        if b >= 0:
                            behind = max(behind, tail[b])
                        value = own + shop.dur[m] + behind
                        options += 1
                        if draw(work.rng, options) == 0:
                            any_u, any_mode, any_to = u, m, a
                        if work.mode_until[m] <= state[0] or value < state[1]:
                            ties = ties + 1 if value == best else 1
                            if value < best or (value == best and draw(work.rng, ties) == 0):
                                best, chosen, to_mode, to = value, u, m, a
                    if b < 0:
                        break
                    a, b = b, order.next[b]
        if chosen < 0:
            chosen, to_mode, to = any_u, any_mode, any_to
        if chosen < 0:
            return int(state[1])
        until = state[0] + tenure + draw(work.rng, tenure // 2 + 1)
        old_mode, old = order.mode[chosen], order.prev[chosen]
        if to_mode == old_mode:
            w = order.next[chosen]
            behind_it = False
            while w >= 0:
                if w == to:
                    behind_it = True
                    break
                w = order.next[w]
            if behind_it:
                w = order.next[chosen]
                while True:
                    work.order_until[cell(n, chosen, w)] = until
                    if w == to:
                        break
                    w = order.next[w]
            else:
                w = order.prev[chosen]
                while w != to:
                    work.order_until[cell(n, w, chosen)] = until
                    w = order.prev[w]
        else:
            work.mode_until[old_mode] = until
        move(shop, order, chosen, to_mode, to)
        makespan = evaluate(shop, order, work)
        if makespan < 0:
            # The estimates exclude cycles, except through operations that take no time.
            move(shop, order, chosen, old_mode, old)
            makespan = evaluate(shop, order, work)
            work.mode_until[to_mode] = until
    if makespan < state[1]:
        state[1], state[2] = makespan, state[0]
        work.best[0, :] = work.topo
        work.best[1, :] = order.mode
    state[3] = makespan
    return int(state[1])


@kernel
def dispatch(shop: Any, rank: Any, machines: int, sequence: Any, mode: Any) -> int:
    """A schedule without delay: the operation that can start first, by rank among equals.

    Each takes the mode in which it ends first. Writes operations in the order of their starts and
    their modes; returns the makespan. ``rank`` (n,): smallest first.
    """
    n = shop.before.shape[0]
    free = np.zeros(machines + 1, np.int64)
    ready = np.zeros(n, np.int64)
    waiting = np.zeros(n, np.int64)
    count = 0
    for i in range(n):
        if shop.before[i] < 0:
            waiting[count] = i
            count += 1
    makespan, made = 0, 0
    while count > 0:
        best, place, best_start, best_mode = -1, -1, 2**62, -1
        for w in range(count):
            i = waiting[w]
            own_end, own_start, own_mode = 2**62, 0, -1
            for m in range(shop.mode_start[i], shop.mode_start[i + 1]):
                if not shop.usable[m]:
                    continue
                k = shop.machine[m]
                start = ready[i]
                if k >= 0 and free[k] > start:
                    start = free[k]
                if start + shop.dur[m] < own_end:
                    own_end, own_start, own_mode = start + shop.dur[m], start, m
            if own_start < best_start or (own_start == best_start and rank[i] < rank[best]):
                best, place, best_start, best_mode = i, w, own_start, own_mode
        mode[best] = best_mode
        sequence[made] = best
        made += 1
        end = best_start + shop.dur[best_mode]
        makespan = max(makespan, end)
        k = shop.machine[best_mode]
        if k >= 0:
            free[k] = end
        j = shop.after[best]
        if j >= 0:
            ready[j] = end
            waiting[place] = j
        else:
            count -= 1
            waiting[place] = waiting[count]
    return makespan


def warm_up() -> None:
    """Run every kernel once on a tiny shop, so that the compiler caches all of them."""
    n, machines = 4, 2
    shop = Shop(
        np.array([-1, 0, -1, 2]),
        np.array([1, -1, 3, -1]),
        np.array([0, 2, 3, 4, 5]),
        np.ones(5, np.bool_),
        np.array([2, 3, 2, 1, 2]),
        np.array([0, 1, 1, 1, 0]),
    )
    order, work = order_of(n, machines), work_of(n, 5, 1)
    sequence, mode = np.zeros(n, np.int64), np.zeros(n, np.int64)
    dispatch(shop, np.arange(n), machines, sequence, mode)
    load(shop, sequence, mode, order, np.zeros(machines, np.int64))
    tabu(shop, order, work, 5, 2)


def order_of(n: int, machines: int) -> Order:
    """An empty schedule."""
    mode, previous, following = (np.zeros(n, np.int64) for _ in range(3))
    return Order(mode, previous, following, np.zeros(machines, np.int64))


def work_of(n: int, modes: int, seed: int) -> Work:
    """Fresh scratch."""
    degree, topo, head, tail, path, reach = (np.zeros(n, np.int64) for _ in range(6))
    return Work(
        degree,
        topo,
        head,
        tail,
        path,
        reach,
        order_until=np.zeros(CELLS, np.int64),
        mode_until=np.zeros(modes, np.int64),
        state=np.array([0, 2**62, 0, 2**62]),
        rng=np.array([(seed * 2654435761 + 977) & 0xFFFFFFFF]),
        best=np.zeros((2, n), np.int64),
    )
