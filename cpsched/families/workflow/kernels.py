"""List scheduling in numba's subset: where a task fits on a machine, and what to place next.

The other hot loops of the family are in `kernels_paths` (ranks, heads) and `kernels_search`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cpsched.core.jit import kernel

NEVER = 2**60

#: Added to the score of a choice that misses its deadline: any other choice is better.
LATE = 2.0**61


class Graph(NamedTuple):
    """The arrays of an `Instance` that kernels read, by the same names.

    ``inputs`` is one by one where ``has_inputs`` is false.
    """

    row_ptr: Any
    dur: Any
    demand: Any
    cap: Any
    unit: Any
    pred_ptr: Any
    pred_src: Any
    pred_bytes: Any
    succ_ptr: Any
    succ_dst: Any
    link: Any
    tpb: Any
    lat: Any
    release: Any
    deadline: Any
    inputs: Any
    has_inputs: bool


class Use(NamedTuple):
    """What is in use on every machine over time, as step functions.

    ``amount[machine, k]`` (cores, memory, GPUs) is in use from ``time[machine, k]`` to the next
    row; ``count`` is the number of rows per machine.
    """

    time: Any
    amount: Any
    count: Any


class Times(NamedTuple):
    """Start and end per task, and the task that it waits for (-1: none)."""

    start: Any
    end: Any
    cause: Any


@kernel
def arrival(g: Graph, t: int, p: int, mach: Any, out: Times) -> int:
    """Earliest start of ``t`` on ``p`` by release, inputs and data; sets its cause."""
    at: int = g.release[t]
    if g.has_inputs and g.inputs[t, p] > at:
        at = g.inputs[t, p]
    out.cause[t] = -1
    for e in range(g.pred_ptr[t], g.pred_ptr[t + 1]):
        u = g.pred_src[e]
        done = out.end[u]
        k = g.link[mach[u], p]
        if k >= 0 and g.pred_bytes[e] >= 0.0:
            done += np.int64(np.rint(g.pred_bytes[e] * g.tpb[k])) + g.lat[k]
        if done > at:
            at = done
            out.cause[t] = u
    return at


@kernel
def row_before(times: Any, count: int, time: int) -> int:
    """The last of the first ``count`` rows that begins at ``time`` or before."""
    low = 0
    high = count - 1
    while low < high:
        middle = (low + high + 1) // 2
        if times[middle] <= time:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def earliest(g: Graph, use: Use, r: int, p: int, ready: int) -> int:
    """First time from ``ready`` on when row ``r`` fits on machine ``p``; NEVER if none."""
    length = g.dur[r, p]
    if length == 0:
        return ready
    need0, need1, need2 = np.int64(1), np.int64(0), np.int64(0)
    if not g.unit[p]:
        need0, need1, need2 = g.demand[r, 0], g.demand[r, 1], g.demand[r, 2]
    times = use.time[p]
    amount = use.amount[p]
    count = use.count[p]
    room0, room1, room2 = g.cap[p, 0] - need0, g.cap[p, 1] - need1, g.cap[p, 2] - need2
    k = row_before(times, count, ready)
    at = ready
    while k < count:
        if amount[k, 0] > room0 or amount[k, 1] > room1 or amount[k, 2] > room2:
            if k + 1 >= count:
                return NEVER
            at = times[k + 1]
        elif k + 1 >= count or times[k + 1] >= at + length:
            return at
        k += 1
    return NEVER


@kernel
def occupy(use: Use, p: int, start: int, stop: int, need0: int, need1: int, need2: int) -> bool:
    """Add a use to machine ``p``; False when its arrays are full."""
    if stop <= start:
        return True
    times = use.time[p]
    amount = use.amount[p]
    if use.count[p] + 2 > len(times):
        return False
    for side in range(2):
        time = start if side == 0 else stop
        count = use.count[p]
        low = row_before(times, count, time)
        if times[low] != time:
            for j in range(count, low + 1, -1):
                times[j] = times[j - 1]
                amount[j, 0] = amount[j - 1, 0]
                amount[j, 1] = amount[j - 1, 1]
                amount[j, 2] = amount[j - 1, 2]
            times[low + 1] = time
            amount[low + 1, 0] = amount[low, 0]
            amount[low + 1, 1] = amount[low, 1]
            amount[low + 1, 2] = amount[low, 2]
            use.count[p] = count + 1
    first = row_before(times, use.count[p], start)
    k = first
    while k < use.count[p] and times[k] < stop:
        amount[k, 0] += need0
        amount[k, 1] += need1
        amount[k, 2] += need2
        k += 1
    # Equal neighbours are merged, so that a machine without gaps stays two rows long.
    for at in (k, first):
        if (
            at > 0
            and at < use.count[p]
            and amount[at, 0] == amount[at - 1, 0]
            and amount[at, 1] == amount[at - 1, 1]
            and amount[at, 2] == amount[at - 1, 2]
        ):
            for j in range(at, use.count[p] - 1):
                times[j] = times[j + 1]
                amount[j, 0] = amount[j + 1, 0]
                amount[j, 1] = amount[j + 1, 1]
                amount[j, 2] = amount[j + 1, 2]
            use.count[p] -= 1
    return True


@kernel
def book(g: Graph, use: Use, r: int, p: int, at: int) -> bool:
    """Occupy machine ``p`` with row ``r`` from a time on; False when its arrays are full."""
    if g.unit[p]:
        return occupy(use, p, at, at + g.dur[r, p], 1, 0, 0)
    return occupy(use, p, at, at + g.dur[r, p], g.demand[r, 0], g.demand[r, 1], g.demand[r, 2])


@kernel
def place(
    g: Graph,
    t: int,
    fix_row: int,
    fix_mach: int,
    bias: Any,
    use: Use,
    mach: Any,
    out: Times,
    choice: Any,
    score: Any,
    runner: bool,
) -> None:
    """Best (row, machine, start) of a task by end plus bias, into ``choice``.

    ``score`` gets its score and, when the ``runner``-up is asked for, the best on another machine,
    which goes into ``choice[3]``; -1 where there is none. ``bias`` is empty for none.
    """
    m = g.dur.shape[1]
    choice[0] = choice[1] = choice[3] = -1
    score[0] = score[1] = np.inf
    for p in range(m):
        if fix_mach >= 0 and p != fix_mach:
            continue
        ready = arrival(g, t, p, mach, out)
        for r in range(g.row_ptr[t], g.row_ptr[t + 1]):
            length = g.dur[r, p]
            if length < 0 or (fix_row >= 0 and r != fix_row):
                continue
            extra = float(length)
            if len(bias) > 0:
                extra += bias[t, p]
            if ready + extra >= score[1 if runner else 0]:
                continue
            at = earliest(g, use, r, p, ready)
            if at >= NEVER:
                continue
            value = at + extra
            if at + length > g.deadline[t]:
                value += LATE
            if value < score[0]:
                if choice[1] != p:
                    score[1] = score[0]
                    choice[3] = choice[1]
                score[0] = value
                choice[0] = r
                choice[1] = p
                choice[2] = at
            elif p != choice[1] and value < score[1]:
                score[1] = value
                choice[3] = p


@kernel
def list_schedule(
    order: Any, g: Graph, fix_row: Any, fix_mach: Any, bias: Any, use: Use, out: Times, row: Any,
    mach: Any,
) -> int:  # fmt: skip
    """Place tasks in the given order where they end first, in gaps too.

    Returns the number of tasks placed: less than all when an array is full (``-1 - number``) or a
    task finds no place.
    """
    choice = np.zeros(4, dtype=np.int64)
    score = np.zeros(2)
    for i in range(len(order)):
        t = order[i]
        place(g, t, fix_row[t], fix_mach[t], bias, use, mach, out, choice, score, False)
        if choice[0] < 0:
            return i
        r, p, at = choice[0], choice[1], choice[2]
        out.start[t] = at
        out.end[t] = at + g.dur[r, p]
        row[t] = r
        mach[t] = p
        if not book(g, use, r, p, at):
            return -1 - i
    return len(order)


@kernel
def dynamic_schedule(rule: int, g: Graph, use: Use, out: Times, row: Any, mach: Any) -> int:
    """Min-min (rule 0), max-min (1) or sufferage (2) over the tasks whose data exist.

    Returns the number of tasks placed, or ``-1 - number`` when an array is full.
    """
    n = len(g.row_ptr) - 1
    waiting = np.zeros(n, dtype=np.int64)
    pool = np.zeros(n, dtype=np.int64)
    fresh = np.zeros(n, dtype=np.bool_)
    count = 0
    for t in range(n):
        waiting[t] = g.pred_ptr[t + 1] - g.pred_ptr[t]
        if waiting[t] == 0:
            pool[count] = t
            count += 1
    scores = np.zeros((n, 2))
    choices = np.zeros((n, 4), dtype=np.int64)
    unbiased = np.zeros((0, 0))
    done = 0
    touched = -1
    while count > 0:
        best = -1
        value = 0.0
        for i in range(count):
            t = pool[i]
            choice = choices[t]
            if not fresh[t] or choice[1] == touched or choice[3] == touched:
                fresh[t] = True
                place(g, t, -1, -1, unbiased, use, mach, out, choice, scores[t], True)
                if choice[1] < 0:
                    return done
            if rule == 0:
                score = -scores[t, 0]
            elif rule == 1:
                score = scores[t, 0]
            else:
                score = scores[t, 1] - scores[t, 0]
            if best < 0 or score > value:
                best = i
                value = score
        t = pool[best]
        count -= 1
        pool[best] = pool[count]
        r, p, at = choices[t, 0], choices[t, 1], choices[t, 2]
        out.start[t] = at
        out.end[t] = at + g.dur[r, p]
        row[t] = r
        mach[t] = p
        if not book(g, use, r, p, at):
            return -1 - done
        touched = p
        done += 1
        for e in range(g.succ_ptr[t], g.succ_ptr[t + 1]):
            w = g.succ_dst[e]
            waiting[w] -= 1
            if waiting[w] == 0:
                pool[count] = w
                count += 1
    return done


def tiny() -> tuple[Graph, Use, Times, Any, Any]:
    """One task on one machine, in arrays of the production types."""
    one = np.zeros(1, dtype=np.int64)
    none = one[:0]
    empty = np.zeros(2, dtype=np.int64)
    square = np.ones((1, 1), dtype=np.int64)
    triple = np.ones((1, 3), dtype=np.int64)
    graph = Graph(
        row_ptr=np.array([0, 1], dtype=np.int64),
        dur=square,
        demand=triple,
        cap=triple,
        unit=np.ones(1, dtype=np.bool_),
        pred_ptr=empty,
        pred_src=none,
        pred_bytes=np.zeros(0),
        succ_ptr=empty,
        succ_dst=none,
        link=square - 2,
        tpb=np.zeros(1),
        lat=one,
        release=one,
        deadline=one + NEVER,
        inputs=square,
        has_inputs=False,
    )
    use = Use(np.zeros((1, 8), dtype=np.int64), np.zeros((1, 8, 3), dtype=np.int64), one + 1)
    return graph, use, Times(one.copy(), one.copy(), one.copy()), one.copy(), one.copy()


def warm_up() -> None:
    """Call every kernel once on tiny arrays of the production types."""
    graph, use, times, row, mach = tiny()
    one = row.copy()
    book(graph, use, 0, 0, earliest(graph, use, 0, 0, 0))
    occupy(use, 0, 0, 1, 1, 0, 0)
    list_schedule(one, graph, one - 1, one - 1, np.zeros((1, 1)), use, times, row, mach)
    for rule in range(3):
        dynamic_schedule(rule, graph, use, times, row, mach)
