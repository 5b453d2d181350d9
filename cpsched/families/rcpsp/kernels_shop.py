"""Array kernels of job shops: dispatching, and tabu search on the disjunctive graph.

The graph is that of `kernels_shop_graph`, the moves are those of `kernels_shop_moves`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.rcpsp.kernels import draw
from cpsched.families.rcpsp.kernels_shop_graph import (
    Shop,
    critical_path,
    evaluate,
    load,
    move,
    order_of,
    reorder,
    sweep_heads,
    sweep_tails,
    work_of,
)
from cpsched.families.rcpsp.kernels_shop_moves import best_move, cell, other_machine


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
def dispatch(shop: Any, rank: Any, price: Any, machines: int, sequence: Any, mode: Any) -> int:
    """A schedule without delay: the operation that can start first, by rank among equals.

    Each takes the mode of the least end plus ``price`` (M,). Writes operations in the order of
    their starts and their modes; returns the makespan. ``rank`` (n,): smallest first.
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
            least, own_start, own_mode = 2**62, 0, -1
            for m in range(shop.mode_start[i], shop.mode_start[i + 1]):
                if not shop.usable[m]:
                    continue
                k = shop.machine[m]
                start = ready[i]
                if k >= 0 and free[k] > start:
                    start = free[k]
                cost = start + shop.dur[m] + price[m]
                if cost < least:
                    least, own_start, own_mode = cost, start, m
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


@kernel
def balance(shop: Any, machines: int, mode: Any, rng: Any, rounds: int) -> int:
    """Change modes in place so that the work is spread over the machines; the largest load.

    Each operation in turn, in a random cyclic order, takes the mode that gives the least sum of
    the fourth powers of the loads.
    """
    n = shop.before.shape[0]
    load = np.zeros(machines + 1)
    for i in range(n):
        load[shop.machine[mode[i]]] += shop.dur[mode[i]]
    for _ in range(rounds):
        changed = 0
        scale = max(1.0, load[:machines].mean())
        offset = draw(rng, n)
        for x in range(n):
            i = (x + offset) % n
            own = mode[i]
            k, best, gain = shop.machine[own], own, 0.0
            old = load[k] / scale
            rest = (load[k] - shop.dur[own]) / scale
            for m in range(shop.mode_start[i], shop.mode_start[i + 1]):
                if m == own or not shop.usable[m]:
                    continue
                q = shop.machine[m]
                if q == k:
                    won = float(shop.dur[own] - shop.dur[m])
                else:
                    new = (load[q] + shop.dur[m]) / scale
                    won = old**4 + (load[q] / scale) ** 4 - rest**4 - new**4
                if won > gain + 1e-12:
                    best, gain = m, won
            if best != own:
                load[k] -= shop.dur[own]
                load[shop.machine[best]] += shop.dur[best]
                mode[i] = best
                changed += 1
        if changed == 0:
            break
    return int(load[:machines].max())


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
    dispatch(shop, np.arange(n), np.zeros(5, np.int64), machines, sequence, mode)
    balance(shop, machines, mode.copy(), np.array([5]), 2)
    load(shop, sequence, mode, order, np.zeros(machines, np.int64))
    tabu(shop, order, work, 5, 2)
