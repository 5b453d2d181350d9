"""Hot loops of the `workflow` family in numba's subset: ranks, list scheduling, local search.

A machine's use over time is a step function: row ``k`` of ``pt[machine]`` is the time from which
``pu[machine, k]`` (cores, memory, GPUs) is in use, up to the next row; ``pn`` counts the rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel

NEVER = 2**60


@kernel
def upward_ranks(topo: Any, succ_ptr: Any, succ_dst: Any, comm: Any, mean: Any) -> Any:
    """Longest way to the end per task, its own mean duration and mean transfers included."""
    rank = np.zeros(len(topo))
    for i in range(len(topo) - 1, -1, -1):
        t = topo[i]
        best = 0.0
        for e in range(succ_ptr[t], succ_ptr[t + 1]):
            way = comm[e] + rank[succ_dst[e]]
            if way > best:
                best = way
        rank[t] = mean[t] + best
    return rank


@kernel
def optimistic_costs(topo: Any, succ_ptr: Any, succ_dst: Any, comm: Any, dmin: Any) -> Any:
    """PEFT's optimistic cost table: per task and machine the least remaining way after it."""
    n, m = dmin.shape
    table = np.zeros((n, m))
    for i in range(n - 1, -1, -1):
        t = topo[i]
        for e in range(succ_ptr[t], succ_ptr[t + 1]):
            w = succ_dst[e]
            low1 = np.inf
            low2 = np.inf
            where = -1
            for p in range(m):
                if dmin[w, p] < NEVER:
                    way = table[w, p] + dmin[w, p]
                    if way < low1:
                        low2 = low1
                        low1 = way
                        where = p
                    elif way < low2:
                        low2 = way
            for p in range(m):
                other = low2 if p == where else low1
                way = other + comm[e]
                if dmin[w, p] < NEVER:
                    here = table[w, p] + dmin[w, p]
                    if here < way:
                        way = here
                if way > table[t, p]:
                    table[t, p] = way
    return table


@kernel
def data_ready(
    t: int,
    pred_ptr: Any,
    pred_src: Any,
    pred_bytes: Any,
    link: Any,
    tpb: Any,
    lat: Any,
    end: Any,
    mach: Any,
    ready: Any,
) -> None:
    """Raise ``ready`` per machine to the arrival of the data of the predecessors of ``t``."""
    m = len(ready)
    for e in range(pred_ptr[t], pred_ptr[t + 1]):
        u = pred_src[e]
        done = end[u]
        size = pred_bytes[e]
        home = mach[u]
        for p in range(m):
            at = done
            k = link[home, p]
            if size >= 0.0 and k >= 0:
                at += np.int64(np.rint(size * tpb[k])) + lat[k]
            if at > ready[p]:
                ready[p] = at


@kernel
def earliest(
    pt: Any,
    pu: Any,
    count: int,
    ready: int,
    length: int,
    need0: int,
    need1: int,
    need2: int,
    cap: Any,
) -> int:
    """First time from ``ready`` on when the needs fit for ``length`` ticks; NEVER if none."""
    if length == 0:
        return ready
    low = 0
    high = count - 1
    while low < high:
        middle = (low + high + 1) // 2
        if pt[middle] <= ready:
            low = middle
        else:
            high = middle - 1
    at = ready
    k = low
    while k < count:
        if pu[k, 0] + need0 > cap[0] or pu[k, 1] + need1 > cap[1] or pu[k, 2] + need2 > cap[2]:
            if k + 1 >= count:
                return NEVER
            at = pt[k + 1]
        elif k + 1 >= count or pt[k + 1] >= at + length:
            return at
        k += 1
    return NEVER


@kernel
def occupy(
    pt: Any, pu: Any, pn: Any, p: int, start: int, stop: int, need0: int, need1: int, need2: int
) -> bool:
    """Add a use to machine ``p``; False when its arrays are full."""
    if stop <= start:
        return True
    if pn[p] + 2 > pt.shape[1]:
        return False
    for side in range(2):
        time = start if side == 0 else stop
        count = pn[p]
        low = 0
        high = count - 1
        while low < high:
            middle = (low + high + 1) // 2
            if pt[p, middle] <= time:
                low = middle
            else:
                high = middle - 1
        if pt[p, low] != time:
            for j in range(count, low + 1, -1):
                pt[p, j] = pt[p, j - 1]
                pu[p, j, 0] = pu[p, j - 1, 0]
                pu[p, j, 1] = pu[p, j - 1, 1]
                pu[p, j, 2] = pu[p, j - 1, 2]
            pt[p, low + 1] = time
            pu[p, low + 1, 0] = pu[p, low, 0]
            pu[p, low + 1, 1] = pu[p, low, 1]
            pu[p, low + 1, 2] = pu[p, low, 2]
            pn[p] = count + 1
    first = 0
    high = pn[p] - 1
    while first < high:
        middle = (first + high + 1) // 2
        if pt[p, middle] <= start:
            first = middle
        else:
            high = middle - 1
    k = first
    while k < pn[p] and pt[p, k] < stop:
        pu[p, k, 0] += need0
        pu[p, k, 1] += need1
        pu[p, k, 2] += need2
        k += 1
    # Equal neighbours are merged, so that a machine without gaps stays two rows long.
    for at in (k, first):
        if (
            at > 0
            and at < pn[p]
            and pu[p, at, 0] == pu[p, at - 1, 0]
            and pu[p, at, 1] == pu[p, at - 1, 1]
            and pu[p, at, 2] == pu[p, at - 1, 2]
        ):
            for j in range(at, pn[p] - 1):
                pt[p, j] = pt[p, j + 1]
                pu[p, j, 0] = pu[p, j + 1, 0]
                pu[p, j, 1] = pu[p, j + 1, 1]
                pu[p, j, 2] = pu[p, j + 1, 2]
            pn[p] -= 1
    return True


@kernel
def place(
    t: int,
    row_ptr: Any,
    dur: Any,
    demand: Any,
    cap: Any,
    unit: Any,
    deadline: Any,
    fix_row: Any,
    fix_mach: Any,
    bias: Any,
    biased: bool,
    pt: Any,
    pu: Any,
    pn: Any,
    ready: Any,
    out: Any,
) -> float:
    """Best row, machine and start of a task by end (plus bias), into ``out``; its score.

    A choice that meets the deadline goes before one that does not.
    """
    m = dur.shape[1]
    best = np.inf
    late = True
    out[0] = -1
    for r in range(row_ptr[t], row_ptr[t + 1]):
        if fix_row[t] >= 0 and r != fix_row[t]:
            continue
        for p in range(m):
            length = dur[r, p]
            if length < 0 or (fix_mach[t] >= 0 and p != fix_mach[t]):
                continue
            extra = bias[t, p] if biased else 0.0
            if not late and ready[p] + length + extra >= best:
                continue
            if unit[p]:
                at = earliest(pt[p], pu[p], pn[p], ready[p], length, 1, 0, 0, cap[p])
            else:
                at = earliest(
                    pt[p],
                    pu[p],
                    pn[p],
                    ready[p],
                    length,
                    demand[r, 0],
                    demand[r, 1],
                    demand[r, 2],
                    cap[p],
                )
            if at >= NEVER:
                continue
            tardy = at + length > deadline[t]
            score = at + length + extra
            if (late and not tardy) or (late == tardy and score < best):
                best = score
                late = tardy
                out[0] = r
                out[1] = p
                out[2] = at
    return best


@kernel
def list_schedule(
    order: Any,
    row_ptr: Any,
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
    deadline: Any,
    inputs: Any,
    has_inputs: bool,
    fix_row: Any,
    fix_mach: Any,
    bias: Any,
    biased: bool,
    pt: Any,
    pu: Any,
    pn: Any,
    start: Any,
    end: Any,
    row: Any,
    mach: Any,
) -> int:
    """Place tasks in the given order where they end first, in gaps too.

    Returns the number of tasks placed: less than all when an array is full (``-1 - number``) or a
    task finds no place.
    """
    m = dur.shape[1]
    ready = np.zeros(m, dtype=np.int64)
    out = np.zeros(3, dtype=np.int64)
    for i in range(len(order)):
        t = order[i]
        for p in range(m):
            ready[p] = release[t]
            if has_inputs and inputs[t, p] > ready[p]:
                ready[p] = inputs[t, p]
        data_ready(t, pred_ptr, pred_src, pred_bytes, link, tpb, lat, end, mach, ready)
        place(
            t,
            row_ptr,
            dur,
            demand,
            cap,
            unit,
            deadline,
            fix_row,
            fix_mach,
            bias,
            biased,
            pt,
            pu,
            pn,
            ready,
            out,
        )
        if out[0] < 0:
            return i
        r, p, at = out[0], out[1], out[2]
        start[t] = at
        end[t] = at + dur[r, p]
        row[t] = r
        mach[t] = p
        if unit[p]:
            fits = occupy(pt, pu, pn, p, at, end[t], 1, 0, 0)
        else:
            fits = occupy(pt, pu, pn, p, at, end[t], demand[r, 0], demand[r, 1], demand[r, 2])
        if not fits:
            return -1 - i
    return len(order)


@kernel
def dynamic_schedule(
    rule: int,
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
    pt: Any,
    pu: Any,
    pn: Any,
    start: Any,
    end: Any,
    row: Any,
    mach: Any,
) -> int:
    """Min-min (rule 0), max-min (1) or sufferage (2) over the tasks whose data exist.

    Returns the number of tasks placed, or ``-1 - number`` when an array is full.
    """
    n = len(row_ptr) - 1
    m = dur.shape[1]
    waiting = np.zeros(n, dtype=np.int64)
    pool = np.zeros(n, dtype=np.int64)
    fresh = np.zeros(n, dtype=np.bool_)
    count = 0
    for t in range(n):
        waiting[t] = pred_ptr[t + 1] - pred_ptr[t]
        if waiting[t] == 0:
            pool[count] = t
            count += 1
    first = np.zeros(n)
    second = np.zeros(n)
    choice = np.zeros((n, 3), dtype=np.int64)
    runner = np.zeros(n, dtype=np.int64)
    ready = np.zeros(m, dtype=np.int64)
    done = 0
    touched = -1
    while count > 0:
        best = -1
        value = 0.0
        for i in range(count):
            t = pool[i]
            if not fresh[t] or choice[t, 1] == touched or runner[t] == touched:
                fresh[t] = True
                for p in range(m):
                    ready[p] = release[t]
                    if has_inputs and inputs[t, p] > ready[p]:
                        ready[p] = inputs[t, p]
                data_ready(t, pred_ptr, pred_src, pred_bytes, link, tpb, lat, end, mach, ready)
                first[t] = np.inf
                second[t] = np.inf
                runner[t] = -1
                choice[t, 1] = -1
                for r in range(row_ptr[t], row_ptr[t + 1]):
                    for p in range(m):
                        length = dur[r, p]
                        if length < 0:
                            continue
                        if ready[p] + length >= second[t]:
                            continue
                        if unit[p]:
                            at = earliest(pt[p], pu[p], pn[p], ready[p], length, 1, 0, 0, cap[p])
                        else:
                            at = earliest(
                                pt[p],
                                pu[p],
                                pn[p],
                                ready[p],
                                length,
                                demand[r, 0],
                                demand[r, 1],
                                demand[r, 2],
                                cap[p],
                            )
                        if at >= NEVER:
                            continue
                        score = float(at + length)
                        if score < first[t]:
                            if choice[t, 1] != p:
                                second[t] = first[t]
                                runner[t] = choice[t, 1]
                            first[t] = score
                            choice[t, 0] = r
                            choice[t, 1] = p
                            choice[t, 2] = at
                        elif p != choice[t, 1] and score < second[t]:
                            second[t] = score
                            runner[t] = p
                if choice[t, 1] < 0:
                    return done
            if rule == 0:
                score = -first[t]
            elif rule == 1:
                score = first[t]
            else:
                score = second[t] - first[t]
            if best < 0 or score > value:
                best = i
                value = score
        t = pool[best]
        count -= 1
        pool[best] = pool[count]
        r, p = choice[t, 0], choice[t, 1]
        start[t] = choice[t, 2]
        end[t] = start[t] + dur[r, p]
        row[t] = r
        mach[t] = p
        if unit[p]:
            fits = occupy(pt, pu, pn, p, start[t], end[t], 1, 0, 0)
        else:
            fits = occupy(pt, pu, pn, p, start[t], end[t], demand[r, 0], demand[r, 1], demand[r, 2])
        if not fits:
            return -1 - done
        touched = p
        done += 1
        for e in range(succ_ptr[t], succ_ptr[t + 1]):
            w = succ_dst[e]
            waiting[w] -= 1
            if waiting[w] == 0:
                pool[count] = w
                count += 1
    return done


@kernel
def machine_heads(
    topo: Any,
    pred_ptr: Any,
    pred_src: Any,
    pred_bytes: Any,
    link: Any,
    tpb: Any,
    lat: Any,
    low: Any,
    dmin: Any,
    exclusive: Any,
) -> Any:
    """Per task and machine a lower bound on its start there, transfers included.

    ``low`` holds releases per task and machine, ``dmin`` the least duration (NEVER where it cannot
    run). A predecessor either runs on the same machine or sends its data. On a machine that runs
    one task at a time (``exclusive``) the predecessors that must be there for the task to start
    before a given time run one after the other.
    """
    n, m = dmin.shape
    head = np.zeros((n, m), dtype=np.int64)
    # With one class of links the best other machine is the best or the second best of all.
    uniform = len(tpb) <= 1
    low1 = np.full(n, NEVER, dtype=np.int64)
    low2 = np.full(n, NEVER, dtype=np.int64)
    best_at = np.full(n, -1, dtype=np.int64)
    for i in range(n):
        t = topo[i]
        first, last = pred_ptr[t], pred_ptr[t + 1]
        degree = last - first
        remote = np.zeros(degree, dtype=np.int64)
        for p in range(m):
            if dmin[t, p] >= NEVER:
                head[t, p] = NEVER
                continue
            value = low[t, p]
            for j in range(degree):
                u = pred_src[first + j]
                size = pred_bytes[first + j]
                best: Any = np.int64(NEVER)
                if uniform:
                    best = low2[u] if best_at[u] == p else low1[u]
                    if size >= 0.0 and best < NEVER:
                        best += np.int64(np.rint(size * tpb[0])) + lat[0]
                for q in range(m):
                    if uniform:
                        break
                    if q == p or dmin[u, q] >= NEVER:
                        continue
                    at = head[u, q] + dmin[u, q]
                    k = link[q, p]
                    if size >= 0.0 and k >= 0:
                        at += np.int64(np.rint(size * tpb[k])) + lat[k]
                    if at < best:
                        best = at
                remote[j] = best
                here = NEVER
                if dmin[u, p] < NEVER:
                    here = head[u, p] + dmin[u, p]
                nearest = min(best, here)
                if nearest > value:
                    value = nearest
            if exclusive[p] and degree > 1:
                # The start is at least C only if all predecessors whose data come after C from
                # elsewhere run here before: the smallest C for which they fit is a bound.
                by_arrival = np.argsort(-remote)
                smallest = NEVER
                local = np.zeros(degree, dtype=np.int64)
                count = 0
                done: Any = np.int64(0)
                for j in range(degree + 1):
                    outside = remote[by_arrival[j]] if j < degree else np.int64(0)
                    here = max(outside, done)
                    if here < smallest:
                        smallest = here
                    if j == degree or done >= smallest or count >= 64:
                        if count >= 64 and j < degree:
                            smallest = min(smallest, done)
                        break
                    u = pred_src[first + by_arrival[j]]
                    if dmin[u, p] >= NEVER:
                        break
                    spot = count
                    while spot > 0 and head[local[spot - 1], p] > head[u, p]:
                        local[spot] = local[spot - 1]
                        spot -= 1
                    local[spot] = u
                    count = j + 1
                    done = np.int64(0)
                    for k in range(count):
                        w = local[k]
                        done = max(done, head[w, p]) + dmin[w, p]
                if smallest > value and smallest < NEVER:
                    value = smallest
            head[t, p] = value
            if uniform:
                done = value + dmin[t, p]
                if done < low1[t]:
                    low2[t] = low1[t]
                    low1[t] = done
                    best_at[t] = p
                elif done < low2[t]:
                    low2[t] = done
    return head


def warm_up() -> None:
    """Call every kernel once on tiny arrays of the production types."""
    one = np.zeros(1, dtype=np.int64)
    none = one[:0]
    two = np.array([0, 1], dtype=np.int64)
    empty = np.zeros(2, dtype=np.int64)
    square = np.ones((1, 1), dtype=np.int64)
    triple = np.ones((1, 3), dtype=np.int64)
    unit = np.ones(1, dtype=np.bool_)
    link = np.full((1, 1), -1, dtype=np.int64)

    def profile() -> tuple[Any, Any, Any]:
        return np.zeros((1, 8), dtype=np.int64), np.zeros((1, 8, 3), dtype=np.int64), one + 1

    def result() -> tuple[Any, Any, Any, Any]:
        return one.copy(), one.copy(), one.copy(), one.copy()

    times, used, count = profile()
    earliest(times[0], used[0], 1, 0, 1, 1, 0, 0, triple[0])
    occupy(times, used, count, 0, 0, 1, 1, 0, 0)
    upward_ranks(one, empty, none, np.zeros(0), np.ones(1))
    optimistic_costs(one, empty, none, np.zeros(0), square)
    machine_heads(one, empty, none, np.zeros(0), link, np.zeros(1), one, square, square, unit)
    list_schedule(
        one,
        two,
        square,
        triple,
        triple,
        unit,
        empty,
        none,
        np.zeros(0),
        link,
        np.zeros(1),
        one,
        one,
        one + NEVER,
        square,
        False,
        one - 1,
        one - 1,
        np.zeros((1, 1)),
        False,
        *profile(),
        *result(),
    )
    for rule in range(3):
        dynamic_schedule(
            rule,
            two,
            square,
            triple,
            triple,
            unit,
            empty,
            none,
            np.zeros(0),
            empty,
            none,
            link,
            np.zeros(1),
            one,
            one,
            one + NEVER,
            square,
            False,
            *profile(),
            *result(),
        )
