"""Local search over (order, option, machine) of every task, in numba's subset.

The order is a list in which every task comes after its predecessors; decoding places the tasks one
by one. On unit machines without breaks a task is appended (every semi-active schedule has such an
order); elsewhere it takes the first gap.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.workflow.kernels import (
    NEVER,
    Graph,
    Times,
    Use,
    arrival,
    book,
    earliest,
    tiny,
)


@kernel
def following(state: int) -> int:
    """The next state of a linear congruential generator."""
    return state * 48271 % 2147483647


@kernel
def decode(
    first: int, order: Any, row: Any, mach: Any, simple: bool, g: Graph, use0: Use, use: Use,
    out: Times, last: Any, free: Any,
) -> Any:  # fmt: skip
    """Times of every task from position ``first`` of the order on; the makespan.

    ``use0`` holds the breaks of the machines; ``use``, and ``last`` and ``free`` per machine, are
    scratch. Returns NEVER when a task has no place.
    """
    n = len(order)
    m = g.dur.shape[1]
    makespan: Any = np.int64(0)
    if simple:
        for p in range(m):
            free[p] = 0
            last[p] = -1
        for i in range(first):
            t = order[i]
            p = mach[t]
            if out.end[t] >= free[p] and g.dur[row[t], p] > 0:
                free[p] = out.end[t]
                last[p] = t
            if out.end[t] > makespan:
                makespan = out.end[t]
    else:
        first = 0
        for p in range(m):
            use.count[p] = use0.count[p]
            for k in range(use0.count[p]):
                use.time[p, k] = use0.time[p, k]
                use.amount[p, k, 0] = use0.amount[p, k, 0]
                use.amount[p, k, 1] = use0.amount[p, k, 1]
                use.amount[p, k, 2] = use0.amount[p, k, 2]
    for i in range(first, n):
        t = order[i]
        p = mach[t]
        length = g.dur[row[t], p]
        at = arrival(g, t, p, mach, out)
        if simple:
            if length > 0:
                if free[p] > at:
                    at = free[p]
                    out.cause[t] = last[p]
                free[p] = at + length
                last[p] = t
        else:
            fits = earliest(g, use, row[t], p, at)
            if fits >= NEVER:
                return NEVER
            if fits > at:
                out.cause[t] = last[p]
                at = fits
            last[p] = t
            if not book(g, use, row[t], p, at):
                return NEVER
        out.start[t] = at
        out.end[t] = at + length
        if at + length > makespan:
            makespan = at + length
    return makespan


@kernel
def anneal(
    iterations: int, warm: float, cold: float, seed: int, target: int, order: Any, row: Any,
    mach: Any, simple: bool, g: Graph, use0: Use, best_order: Any, best_row: Any, best_mach: Any,
) -> Any:  # fmt: skip
    """Simulated annealing on the makespan; the best found goes into ``best_*``.

    ``order``, ``row`` and ``mach`` are the current state, changed in place. ``warm`` and ``cold``
    are the temperatures at the beginning and end, in ticks. Stops at ``target``. Tasks that end
    after their deadline cost ten times their lateness. Returns the best makespan, lateness
    included.
    """
    n = len(order)
    m = g.dur.shape[1]
    use = Use(use0.time.copy(), use0.amount.copy(), use0.count.copy())
    position = np.zeros(n, dtype=np.int64)
    for i in range(n):
        position[order[i]] = i
    none = np.full(n, -1, dtype=np.int64)
    now = Times(np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), none)
    then = Times(now.start.copy(), now.end.copy(), none.copy())
    last = np.full(m, -1, dtype=np.int64)
    free = np.zeros(m, dtype=np.int64)
    chain = np.zeros(n, dtype=np.int64)
    bounded = False
    for t in range(n):
        if g.deadline[t] < NEVER:
            bounded = True
    makespan = decode(0, order, row, mach, simple, g, use0, use, now, last, free)
    late: Any = np.int64(0)
    if bounded:
        for t in range(n):
            late += max(np.int64(0), now.end[t] - g.deadline[t])
    spread = 0.0
    for p in range(m):
        spread += free[p]
    cost = float(makespan + 10 * late) + 0.01 * spread / m
    best = makespan + 10 * late
    best_order[:] = order
    best_row[:] = row
    best_mach[:] = mach
    length = -1
    state: Any = np.int64(seed % 2147483646 + 1)
    cooling = (cold / warm) ** (1.0 / max(1, iterations))
    heat = warm
    for _ in range(iterations):
        heat *= cooling
        if best <= target:
            break
        if length < 0:
            length = 0
            at = 0
            for t in range(n):
                if now.end[t] > now.end[at]:
                    at = t
            while at >= 0 and length < n:
                chain[length] = at
                length += 1
                at = now.cause[at]
        state = following(state)
        if state % 10 < 7:
            state = following(state)
            t = chain[state % length]
        else:
            state = following(state)
            t = state % n
        old_row, old_mach, old_position = row[t], mach[t], position[t]
        state = following(state)
        kind = state % 12
        other = -1
        new_position = old_position
        moved = False
        if kind >= 9:
            # Exchange the machines of two tasks: balances loads to the last tick.
            state = following(state)
            u = state % n
            p, q = mach[t], mach[u]
            if p != q and g.dur[row[t], q] >= 0 and g.dur[row[u], p] >= 0:
                other = u
                mach[t] = q
                mach[u] = p
                moved = True
        elif kind < 6:
            rows = g.row_ptr[t + 1] - g.row_ptr[t]
            if rows * m > 1:
                state = following(state)
                pick = state % (rows * m)
                r = g.row_ptr[t] + pick // m
                p = pick % m
                if g.dur[r, p] >= 0 and (r != old_row or p != old_mach):
                    row[t] = r
                    mach[t] = p
                    moved = True
        if 4 <= kind < 9:
            low = 0
            for e in range(g.pred_ptr[t], g.pred_ptr[t + 1]):
                if position[g.pred_src[e]] + 1 > low:
                    low = position[g.pred_src[e]] + 1
            high = n - 1
            for e in range(g.succ_ptr[t], g.succ_ptr[t + 1]):
                if position[g.succ_dst[e]] - 1 < high:
                    high = position[g.succ_dst[e]] - 1
            if n > 400:
                # Far moves in long lists mostly destroy: keep them near.
                low = max(low, old_position - 200)
                high = min(high, old_position + 200)
            if high > low:
                state = following(state)
                new_position = low + state % (high - low + 1)
        if new_position != old_position:
            moved = True
            step = 1 if new_position > old_position else -1
            i = old_position
            while i != new_position:
                order[i] = order[i + step]
                position[order[i]] = i
                i += step
            order[new_position] = t
            position[t] = new_position
        if not moved:
            continue
        first = min(old_position, new_position)
        if other >= 0:
            first = min(first, position[other])
        then.end[:] = now.end
        then.start[:] = now.start
        then.cause[:] = now.cause
        makespan2 = decode(first, order, row, mach, simple, g, use0, use, then, last, free)
        late2 = np.int64(0)
        if bounded:
            for w in range(n):
                late2 += max(np.int64(0), then.end[w] - g.deadline[w])
        spread = 0.0
        for p in range(m):
            spread += free[p]
        cost2 = float(makespan2 + 10 * late2) + 0.01 * spread / m
        state = following(state)
        chance = state / 2147483647.0
        if cost2 <= cost or chance < np.exp((cost - cost2) / heat):
            cost = cost2
            now, then = then, now
            length = -1
            if makespan2 + 10 * late2 < best:
                best = makespan2 + 10 * late2
                best_order[:] = order
                best_row[:] = row
                best_mach[:] = mach
        else:
            if other >= 0:
                mach[other] = mach[t]
            row[t] = old_row
            mach[t] = old_mach
            if new_position != old_position:
                step = 1 if old_position > new_position else -1
                i = new_position
                while i != old_position:
                    order[i] = order[i + step]
                    position[order[i]] = i
                    i += step
                order[old_position] = t
                position[t] = old_position
    return best


def warm_up() -> None:
    """Call every kernel once on tiny arrays of the production types."""
    graph, use, _, row, mach = tiny()
    best = row.copy(), row.copy(), row.copy()
    for simple in (True, False):
        anneal(3, 1.0, 0.5, 1, 0, row.copy(), row, mach, simple, graph, use, *best)
