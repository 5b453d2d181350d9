"""Local search over (order, option, machine) of every task, in numba's subset.

The order is a list in which every task comes after its predecessors; decoding places the tasks one
by one. On unit machines without breaks a task is appended (every semi-active schedule has such an
order); elsewhere it takes the first gap.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.workflow.kernels import earliest, occupy

NEVER = 2**60


@kernel
def arrival(
    t: int,
    p: int,
    pred_ptr: Any,
    pred_src: Any,
    pred_bytes: Any,
    link: Any,
    tpb: Any,
    lat: Any,
    end: Any,
    mach: Any,
    floor: int,
    cause: Any,
) -> int:
    """Earliest start of ``t`` on ``p`` by release and data; ``cause[t]`` is the latest source."""
    at = floor
    cause[t] = -1
    for e in range(pred_ptr[t], pred_ptr[t + 1]):
        u = pred_src[e]
        done = end[u]
        k = link[mach[u], p]
        if k >= 0 and pred_bytes[e] >= 0.0:
            done += np.int64(np.rint(pred_bytes[e] * tpb[k])) + lat[k]
        if done > at:
            at = done
            cause[t] = u
    return at


@kernel
def decode(
    first: int,
    order: Any,
    row: Any,
    mach: Any,
    simple: bool,
    dur: Any,
    demand: Any,
    cap: Any,
    unit: Any,
    pred_ptr: Any,
    pred_src: Any,
    pred_bytes: Any,
    link: Any,
    tpb: Any,
    lat: Any,
    release: Any,
    inputs: Any,
    has_inputs: bool,
    pt0: Any,
    pu0: Any,
    pn0: Any,
    pt: Any,
    pu: Any,
    pn: Any,
    start: Any,
    end: Any,
    cause: Any,
    last: Any,
    free: Any,
) -> Any:
    """Start and end of every task from position ``first`` of the order on; the makespan.

    ``last`` and ``free`` are scratch per machine. Returns NEVER when a task has no place.
    """
    n = len(order)
    m = dur.shape[1]
    makespan: Any = np.int64(0)
    if simple:
        for p in range(m):
            free[p] = 0
            last[p] = -1
        for i in range(first):
            t = order[i]
            p = mach[t]
            if end[t] >= free[p] and dur[row[t], p] > 0:
                free[p] = end[t]
                last[p] = t
            if end[t] > makespan:
                makespan = end[t]
    else:
        first = 0
        for p in range(m):
            pn[p] = pn0[p]
            for k in range(pn0[p]):
                pt[p, k] = pt0[p, k]
                pu[p, k, 0] = pu0[p, k, 0]
                pu[p, k, 1] = pu0[p, k, 1]
                pu[p, k, 2] = pu0[p, k, 2]
    for i in range(first, n):
        t = order[i]
        p = mach[t]
        r = row[t]
        length = dur[r, p]
        floor = release[t]
        if has_inputs and inputs[t, p] > floor:
            floor = inputs[t, p]
        at = arrival(t, p, pred_ptr, pred_src, pred_bytes, link, tpb, lat, end, mach, floor, cause)
        if simple:
            if length > 0:
                if free[p] > at:
                    at = free[p]
                    cause[t] = last[p]
                free[p] = at + length
                last[p] = t
        else:
            c0, c1, c2 = demand[r, 0], demand[r, 1], demand[r, 2]
            if unit[p]:
                c0, c1, c2 = np.int64(1), np.int64(0), np.int64(0)
            place = earliest(pt[p], pu[p], pn[p], at, length, c0, c1, c2, cap[p])
            if place >= NEVER:
                return NEVER
            if place > at:
                cause[t] = last[p]
                at = place
            last[p] = t
            if not occupy(pt, pu, pn, p, at, at + length, c0, c1, c2):
                return NEVER
        start[t] = at
        end[t] = at + length
        if at + length > makespan:
            makespan = at + length
    return makespan


@kernel
def anneal(
    iterations: int,
    warm: float,
    cold: float,
    seed: int,
    target: int,
    order: Any,
    row: Any,
    mach: Any,
    simple: bool,
    row_ptr: Any,
    dur: Any,
    demand: Any,
    cap: Any,
    unit: Any,
    pred_ptr: Any,
    pred_src: Any,
    pred_bytes: Any,
    succ_ptr: Any,
    succ_dst: Any,
    link: Any,
    tpb: Any,
    lat: Any,
    release: Any,
    deadline: Any,
    inputs: Any,
    has_inputs: bool,
    pt0: Any,
    pu0: Any,
    pn0: Any,
    best_order: Any,
    best_row: Any,
    best_mach: Any,
) -> Any:
    """Simulated annealing on the makespan; the best found goes into ``best_*``.

    ``order``, ``row`` and ``mach`` are the current state, changed in place. ``warm`` and ``cold``
    are the temperatures at the beginning and end, in ticks. Stops at ``target``. Tasks that end
    after their deadline cost ten times their lateness. Returns the best makespan, lateness
    included.
    """
    n = len(order)
    m = dur.shape[1]
    pt = pt0.copy()
    pu = pu0.copy()
    pn = pn0.copy()
    position = np.zeros(n, dtype=np.int64)
    for i in range(n):
        position[order[i]] = i
    start = np.zeros(n, dtype=np.int64)
    end = np.zeros(n, dtype=np.int64)
    cause = np.full(n, -1, dtype=np.int64)
    start2 = np.zeros(n, dtype=np.int64)
    end2 = np.zeros(n, dtype=np.int64)
    cause2 = np.full(n, -1, dtype=np.int64)
    last = np.full(m, -1, dtype=np.int64)
    free = np.zeros(m, dtype=np.int64)
    chain = np.zeros(n, dtype=np.int64)
    bounded = False
    for t in range(n):
        if deadline[t] < NEVER:
            bounded = True
    makespan = decode(
        0,
        order,
        row,
        mach,
        simple,
        dur,
        demand,
        cap,
        unit,
        pred_ptr,
        pred_src,
        pred_bytes,
        link,
        tpb,
        lat,
        release,
        inputs,
        has_inputs,
        pt0,
        pu0,
        pn0,
        pt,
        pu,
        pn,
        start,
        end,
        cause,
        last,
        free,
    )
    late: Any = np.int64(0)
    if bounded:
        for t in range(n):
            late += max(np.int64(0), end[t] - deadline[t])
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
                if end[t] > end[at]:
                    at = t
            while at >= 0 and length < n:
                chain[length] = at
                length += 1
                at = cause[at]
        state = state * 48271 % 2147483647
        if state % 10 < 7:
            state = state * 48271 % 2147483647
            t = chain[state % length]
        else:
            state = state * 48271 % 2147483647
            t = state % n
        old_row, old_mach, old_position = row[t], mach[t], position[t]
        state = state * 48271 % 2147483647
        kind = state % 12
        other = -1
        new_position = old_position
        moved = False
        if kind >= 9:
            # Exchange the machines of two tasks: balances loads to the last tick.
            state = state * 48271 % 2147483647
            u = state % n
            p, q = mach[t], mach[u]
            if p != q and dur[row[t], q] >= 0 and dur[row[u], p] >= 0:
                other = u
                mach[t] = q
                mach[u] = p
                moved = True
        elif kind < 6:
            rows = row_ptr[t + 1] - row_ptr[t]
            if rows * m > 1:
                state = state * 48271 % 2147483647
                pick = state % (rows * m)
                r = row_ptr[t] + pick // m
                p = pick % m
                if dur[r, p] >= 0 and (r != old_row or p != old_mach):
                    row[t] = r
                    mach[t] = p
                    moved = True
        if 4 <= kind < 9:
            low = 0
            for e in range(pred_ptr[t], pred_ptr[t + 1]):
                if position[pred_src[e]] + 1 > low:
                    low = position[pred_src[e]] + 1
            high = n - 1
            for e in range(succ_ptr[t], succ_ptr[t + 1]):
                if position[succ_dst[e]] - 1 < high:
                    high = position[succ_dst[e]] - 1
            if n > 400:
                # Far moves in long lists mostly destroy: keep them near.
                low = max(low, old_position - 200)
                high = min(high, old_position + 200)
            if high > low:
                state = state * 48271 % 2147483647
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
        end2[:] = end
        start2[:] = start
        cause2[:] = cause
        makespan2 = decode(
            first,
            order,
            row,
            mach,
            simple,
            dur,
            demand,
            cap,
            unit,
            pred_ptr,
            pred_src,
            pred_bytes,
            link,
            tpb,
            lat,
            release,
            inputs,
            has_inputs,
            pt0,
            pu0,
            pn0,
            pt,
            pu,
            pn,
            start2,
            end2,
            cause2,
            last,
            free,
        )
        late2 = np.int64(0)
        if bounded:
            for w in range(n):
                late2 += max(np.int64(0), end2[w] - deadline[w])
        spread = 0.0
        for p in range(m):
            spread += free[p]
        cost2 = float(makespan2 + 10 * late2) + 0.01 * spread / m
        state = state * 48271 % 2147483647
        chance = state / 2147483647.0
        if cost2 <= cost or chance < np.exp((cost - cost2) / heat):
            cost = cost2
            start, start2 = start2, start
            end, end2 = end2, end
            cause, cause2 = cause2, cause
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
    one = np.zeros(1, dtype=np.int64)
    for simple in (True, False):
        anneal(
            3,
            1.0,
            0.5,
            1,
            0,
            one.copy(),
            one.copy(),
            one.copy(),
            simple,
            np.array([0, 1], dtype=np.int64),
            np.ones((1, 1), dtype=np.int64),
            np.zeros((1, 3), dtype=np.int64),
            np.ones((1, 3), dtype=np.int64),
            np.ones(1, dtype=np.bool_),
            np.zeros(2, dtype=np.int64),
            one[:0],
            np.zeros(0),
            np.zeros(2, dtype=np.int64),
            one[:0],
            np.full((1, 1), -1, dtype=np.int64),
            np.zeros(1),
            one,
            one,
            one + NEVER,
            np.zeros((1, 1), dtype=np.int64),
            False,
            np.zeros((1, 4), dtype=np.int64),
            np.zeros((1, 4, 3), dtype=np.int64),
            one + 1,
            one.copy(),
            one.copy(),
            one.copy(),
        )
