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


@kernel
def cell(n: int, i: int, j: int) -> int:
    """The table's cell of "i before j"."""
    return (i * n + j) & (CELLS - 1)


# The kernels of a single move take plain arrays: compiled functions count references to tuples of
# arrays on every call, which costs more than the move itself.


@kernel
def later(
    before: Any,
    after: Any,
    prev: Any,
    following: Any,
    length: Any,
    head: Any,
    tail: Any,
    reach: Any,
    until: Any,
    move_number: int,
    u: int,
    v: int,
) -> int:
    """Estimated makespan with ``u`` right behind ``v``; -1 when that may close a cycle.

    Twice the estimate; the lowest bit tells whether the move is forbidden, which it is when it
    only restores orders that are.
    """
    n = before.shape[0]
    j = after[u]
    rest = 0
    if j >= 0:
        if j == v or tail[v] + length[j] <= tail[j]:
            return -1
        rest = tail[j]
    forbidden = 1
    end = 0
    p = prev[u]
    if p >= 0:
        end = head[p] + length[p]
    w = u
    while w != v:
        w = following[w]
        j = before[w]
        if j >= 0 and head[j] + length[j] > end:
            end = head[j] + length[j]
        reach[w] = end
        end += length[w]
        if until[cell(n, w, u)] <= move_number:
            forbidden = 0
    j = before[u]
    if j >= 0 and head[j] + length[j] > end:
        end = head[j] + length[j]
    s = following[v]
    if s >= 0 and tail[s] > rest:
        rest = tail[s]
    rest += length[u]
    longest = end + rest
    while w != u:
        j = after[w]
        if j >= 0 and tail[j] > rest:
            rest = tail[j]
        rest += length[w]
        if reach[w] + rest > longest:
            longest = reach[w] + rest
        w = prev[w]
    value: int = 2 * longest + forbidden
    return value


@kernel
def sooner(
    before: Any,
    after: Any,
    prev: Any,
    following: Any,
    length: Any,
    head: Any,
    tail: Any,
    reach: Any,
    until: Any,
    move_number: int,
    v: int,
    u: int,
) -> int:
    """Estimated makespan with ``v`` right before ``u``, as in `later`."""
    n = before.shape[0]
    j = before[v]
    end = 0
    if j >= 0:
        if j == u or head[u] + length[u] <= head[j]:
            return -1
        end = head[j] + length[j]
    forbidden = 1
    p = prev[u]
    if p >= 0 and head[p] + length[p] > end:
        end = head[p] + length[p]
    own = end
    end += length[v]
    w = u
    while w != v:
        j = before[w]
        if j >= 0 and head[j] + length[j] > end:
            end = head[j] + length[j]
        reach[w] = end
        end += length[w]
        if until[cell(n, v, w)] <= move_number:
            forbidden = 0
        w = following[w]
    rest = 0
    s = following[v]
    if s >= 0:
        rest = tail[s]
    longest = 0
    while w != u:
        w = prev[w]
        j = after[w]
        if j >= 0 and tail[j] > rest:
            rest = tail[j]
        rest += length[w]
        if reach[w] + rest > longest:
            longest = reach[w] + rest
    j = after[v]
    if j >= 0 and tail[j] > rest:
        rest = tail[j]
    rest += length[v]
    value: int = 2 * max(longest, own + rest) + forbidden
    return value


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


@kernel
def other_machine(
    before: Any,
    after: Any,
    following: Any,
    first_on: Any,
    length: Any,
    head: Any,
    tail: Any,
    mode_until: Any,
    rng: Any,
    u: int,
    m: int,
    k: int,
    duration: int,
    state: Any,
    found: Any,
) -> None:
    """Compare all places for ``u`` in mode ``m`` on machine ``k`` with the best move in ``found``.

    ``found``: value, equal ones seen, operation, mode, place; options seen, one of them at random.
    """
    begin, rest = 0, 0
    job_before, job_after = before[u], after[u]
    if job_before >= 0:
        begin = head[job_before] + length[job_before]
    if job_after >= 0:
        rest = tail[job_after]
    a, b = -1, first_on[k]
    while True:
        # Before b unless b leads to u's job, behind a unless u's job leads to it: heads and tails
        # that overlap exclude such paths.
        leads = a >= 0 and job_after >= 0
        if leads and (a == job_after or tail[a] + length[job_after] <= tail[job_after]):
            return
        fits = True
        if b >= 0 and job_before >= 0:
            fits = b != job_before and head[b] + length[b] > head[job_before]
        if fits:
            own, behind = begin, rest
            if a >= 0:
                own = max(own, head[a] + length[a])
            if b >= 0:
                behind = max(behind, tail[b])
            value = own + duration + behind
            found[5] += 1
            if draw(rng, found[5]) == 0:
                found[6], found[7], found[8] = u, m, a
            if mode_until[m] <= state[0] or value < state[1]:
                found[1] = found[1] + 1 if value == found[0] else 1
                if value < found[0] or (value == found[0] and draw(rng, found[1]) == 0):
                    found[0], found[2], found[3], found[4] = value, u, m, a
        if b < 0:
            return
        a, b = b, following[b]


@kernel
def best_move(
    before: Any,
    after: Any,
    prev: Any,
    following: Any,
    length: Any,
    head: Any,
    tail: Any,
    reach: Any,
    until: Any,
    path: Any,
    count: int,
    mode: Any,
    rng: Any,
    state: Any,
    found: Any,
) -> None:
    """The best move within the blocks of a critical path, into ``found`` as in `other_machine`."""
    left = 0
    while left < count:
        right = left
        while right + 1 < count and prev[path[right + 1]] == path[right]:
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
                    taken, place = u, v
                    value = later(
                        before,
                        after,
                        prev,
                        following,
                        length,
                        head,
                        tail,
                        reach,
                        until,
                        state[0],
                        u,
                        v,
                    )
                else:
                    taken, place = v, prev[u]
                    value = sooner(
                        before,
                        after,
                        prev,
                        following,
                        length,
                        head,
                        tail,
                        reach,
                        until,
                        state[0],
                        v,
                        u,
                    )
                if value < 0:
                    continue
                found[5] += 1
                if draw(rng, found[5]) == 0:
                    found[6], found[7], found[8] = taken, mode[taken], place
                if value % 2 == 1 and value // 2 >= state[1]:
                    continue
                value //= 2
                found[1] = found[1] + 1 if value == found[0] else 1
                if value < found[0] or (value == found[0] and draw(rng, found[1]) == 0):
                    found[0], found[2] = value, taken
                    found[3], found[4] = mode[taken], place
        left = right + 1


@kernel
def tabu(shop: Any, order: Any, work: Any, count: int, tenure: int) -> int:
    """Make up to ``count`` moves; the value of the best schedule of this search.

    ``work.state`` carries on from call to call. Each step makes the best move by estimate that is
    not forbidden, or one that promises a new best schedule.
    """
    before, after, machine = shop.before, shop.after, shop.machine
    prev, following, mode = order.prev, order.next, order.mode
    state, head, tail, path, length = work.state, work.head, work.tail, work.path, work.length
    topo, pos, until, rng = work.topo, work.pos, work.order_until, work.rng
    n = before.shape[0]
    choice = shop.dur.shape[0] > n
    found = np.zeros(9, np.int64)
    makespan = evaluate(shop, order, work)
    for _ in range(count):
        if makespan < state[1]:
            state[1], state[2] = makespan, state[0]
            work.best[0, :] = topo
            work.best[1, :] = mode
        state[0] += 1
        steps = critical_path(before, prev, length, head, path, rng, makespan)
        found[:] = -1
        found[0], found[1], found[5] = 2**62, 0, 0
        best_move(
            before,
            after,
            prev,
            following,
            length,
            head,
            tail,
            work.reach,
            until,
            path,
            steps,
            mode,
            rng,
            state,
            found,
        )
        if choice:
            for x in range(steps):
                u = path[x]
                for m in range(shop.mode_start[u], shop.mode_start[u + 1]):
                    k = machine[m]
                    if shop.usable[m] and k != machine[mode[u]]:
                        other_machine(
                            before,
                            after,
                            following,
                            order.first,
                            length,
                            head,
                            tail,
                            work.mode_until,
                            rng,
                            u,
                            m,
                            k,
                            shop.dur[m],
                            state,
                            found,
                        )
        u, to_mode, to = found[2], found[3], found[4]
        if u < 0:
            u, to_mode, to = found[6], found[7], found[8]
        if u < 0:
            return int(state[1])
        end = state[0] + tenure + draw(rng, tenure // 2 + 1)
        old_mode, old = mode[u], prev[u]
        if to_mode != old_mode:
            work.mode_until[old_mode] = end
            move(shop, order, u, to_mode, to)
            makespan = evaluate(shop, order, work)
            if makespan < 0:
                # The estimates exclude cycles, except through operations that take no time.
                move(shop, order, u, old_mode, old)
                makespan = evaluate(shop, order, work)
                work.mode_until[to_mode] = end
            continue
        w = u
        first = last = pos[u]
        if to >= 0 and pos[to] > first:
            last = pos[to]
            while w != to:
                w = following[w]
                until[cell(n, u, w)] = end
        else:
            while prev[w] != to:
                w = prev[w]
                until[cell(n, w, u)] = end
            first = pos[w]
        move(shop, order, u, to_mode, to)
        if pos[u] == first:
            reorder(before, prev, topo, pos, work.degree, path, u, first, last, 1)
            cycle = pos[u] < pos[to]
        else:
            reorder(after, following, topo, pos, work.degree, path, u, first, last, -1)
            cycle = pos[u] > pos[w]
        if cycle:
            move(shop, order, u, old_mode, old)
            makespan = evaluate(shop, order, work)
            continue
        makespan = sweep_heads(before, prev, length, topo, head, first)
        sweep_tails(after, following, length, topo, tail, last)
    if makespan < state[1]:
        state[1], state[2] = makespan, state[0]
        work.best[0, :] = topo
        work.best[1, :] = mode
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
