"""Array kernels of job shops: what a move of the tabu search would make of the makespan.

Moves take a critical operation to another place of its block (Nowicki and Smutnicki 1996; Balas
and Vazacopoulos 1998; Zhang et al. 2007) or to another machine (Mastrolilli and Gambardella 2000).
"""

from __future__ import annotations

from typing import Any

from cpsched.core.jit import kernel
from cpsched.families.rcpsp.kernels import draw
from cpsched.families.rcpsp.kernels_shop_graph import CELLS


@kernel
def cell(n: int, i: int, j: int) -> int:
    """The table's cell of "i before j"."""
    return (i * n + j) & (CELLS - 1)


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


def warm_up() -> None:
    """Run every kernel once on a tiny shop, so that the compiler caches all of them."""
    from cpsched.families.rcpsp import kernels_shop

    kernels_shop.warm_up()
