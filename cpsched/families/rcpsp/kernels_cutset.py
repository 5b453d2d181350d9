"""Exact search over sets of started tasks, level by level, as kernels.

A state is a set of scheduled tasks, the start of the last one and the finishes of those that end
no earlier. Tasks are added in the order of their starts, each at its earliest time. Of two states
of one set the one that is nowhere later makes the other superfluous: the cutset dominance of
Demeulemeester and Herroelen (1992).

A level holds the states with equally many scheduled tasks, one row of 32-bit integers each: see
the column names. A running task is kept as ``finish * 64 + task``, in the order of the tasks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cpsched.core.jit import kernel

#: Columns of a state: the set as 31 low and 31 high bits, the start of the last task, how many run,
#: the sum over the set of ``max(finish, last)``, the next state of the same hash (-1: none),
#: whether another state replaces it, the state of the level before it comes from, the task added.
LOW, HIGH, LAST, RUNNING, SUM, CHAIN, DEAD, PARENT, ADDED, SLOTS = range(10)
BITS = 31
HALF = (1 << BITS) - 1


class Plan(NamedTuple):
    """The project: n tasks, R resources.

    ``before`` (n,) holds the direct predecessors of a task as bits, ``latest`` (n,) its latest
    start, ``after`` (n,) the least time between its finish and the project's end, ``by_after``
    (n,) the tasks by that time, longest first.
    """

    dur: Any
    need: Any
    capacity: Any
    before: Any
    head: Any
    latest: Any
    after: Any
    by_after: Any


class Scratch(NamedTuple):
    """Room for one expansion when P tasks may run at once.

    (n,) ``start`` and ``rest`` (zero), (R,) ``work``, (P + 2,) ``times``, (P + 3, R) ``free``.
    """

    start: Any
    rest: Any
    work: Any
    times: Any
    free: Any


@kernel
def profile(plan: Any, state: Any, times: Any, free: Any) -> int:
    """What is free in a state: from ``times[k]`` on, ``free[k]`` (R,) until the next time.

    Returns how many times there are. ``free[-1]`` is what is free just before the last start.
    """
    resources = plan.capacity.shape[0]
    last = state[LAST]
    before = free.shape[0] - 1
    for r in range(resources):
        free[0, r] = plan.capacity[r]
        free[before, r] = plan.capacity[r]
    times[0] = last
    count = 1
    for k in range(state[RUNNING]):
        f, i = state[SLOTS + k] >> 6, state[SLOTS + k] & 63
        if f - plan.dur[i] < last:
            for r in range(resources):
                free[before, r] -= plan.need[i, r]
        if f <= last:
            continue
        x = count
        while times[x - 1] > f:
            x -= 1
        if times[x - 1] < f:
            for y in range(count, x, -1):
                times[y] = times[y - 1]
                for r in range(resources):
                    free[y, r] = free[y - 1, r]
            times[x] = f
            for r in range(resources):
                free[x, r] = free[x - 1, r]
            count += 1
            x += 1
        for y in range(x - 1):
            for r in range(resources):
                free[y, r] -= plan.need[i, r]
    return count


@kernel
def earliest(plan: Any, state: Any, j: int, times: Any, free: Any, count: int) -> int:
    """The earliest start of task j in a state; its predecessors are scheduled."""
    time: int = max(state[LAST], plan.head[j])
    for k in range(state[RUNNING]):
        if (plan.before[j] >> (state[SLOTS + k] & 63)) & 1:
            time = max(time, state[SLOTS + k] >> 6)
    for x in range(count):
        if x + 1 < count and times[x + 1] <= time:
            continue
        room = True
        for r in range(plan.capacity.shape[0]):
            if plan.need[j, r] > free[x, r]:
                room = False
                break
        if room:
            time = max(time, times[x])
            break
    return time


@kernel
def movable(plan: Any, state: Any, j: int, start: int, free: Any) -> bool:
    """Whether task j, put at the last start of a state, could start one unit earlier."""
    if start != state[LAST] or start <= plan.head[j] or plan.dur[j] == 0:
        return False
    before = free.shape[0] - 1
    for r in range(plan.capacity.shape[0]):
        if plan.need[j, r] > free[before, r]:
            return False
    for k in range(state[RUNNING]):
        running = state[SLOTS + k]
        if (plan.before[j] >> (running & 63)) & 1 and running >> 6 == start:
            return False
    return True


@kernel
def hopeless(plan: Any, limit: int, mask: int, start: int, rest: Any, work: Any) -> bool:
    """Whether the work left after ``start`` exceeds what the resources give until the limit.

    ``rest`` (n,) is what is left of the running tasks at ``start``; ``work`` (R,) is scratch.
    """
    resources = plan.capacity.shape[0]
    work[:] = 0
    for x in range(plan.by_after.shape[0]):
        j = plan.by_after[x]
        left = rest[j] if (mask >> j) & 1 else plan.dur[j]
        if left == 0:
            continue
        span = limit - plan.after[j] - start
        for r in range(resources):
            work[r] += left * plan.need[j, r]
            if work[r] > plan.capacity[r] * span:
                return True
    return False


@kernel
def no_later(rows: Any, p: int, q: int) -> bool:
    """Whether every task ends no later in state p of a level, or before the last start of q."""
    last = rows[q, LAST]
    if rows[p, LAST] > last:
        return False
    x, others = 0, rows[q, RUNNING]
    for k in range(rows[p, RUNNING]):
        one = rows[p, SLOTS + k]
        if one >> 6 > last:
            task = one & 63
            while x < others and (rows[q, SLOTS + x] & 63) < task:
                x += 1
            if x == others or rows[q, SLOTS + x] < one or (rows[q, SLOTS + x] & 63) != task:
                return False
    return True


@kernel
def keep(rows: Any, count: Any, table: Any) -> bool:
    """Add the state in row ``count[0]`` unless one of its set is as good.

    False when the level is full: its last row is room for the next state.
    """
    new = count[0]
    low, high, total = np.int64(rows[new, LOW]), np.int64(rows[new, HIGH]), rows[new, SUM]
    slot = ((low * 0x9E3779B1) ^ (high * 0x85EBCA77)) >> 7 & (table.shape[0] - 1)
    place = -1
    q = table[slot]
    while q >= 0:
        if rows[q, LOW] == low and rows[q, HIGH] == high and rows[q, DEAD] == 0:
            if rows[q, SUM] <= total:
                if no_later(rows, q, new):
                    return True
            elif no_later(rows, new, q):
                if place < 0:
                    place = q
                else:
                    rows[q, DEAD] = 1
        q = rows[q, CHAIN]
    if place >= 0:
        chain = rows[place, CHAIN]
        for k in range(SLOTS + rows[new, RUNNING]):
            rows[place, k] = rows[new, k]
        rows[place, CHAIN] = chain
        return True
    rows[new, CHAIN] = table[slot]
    table[slot] = new
    count[0] = new + 1
    return bool(new + 2 < rows.shape[0])


@kernel
def expand(
    plan: Any,
    limit: int,
    rows: Any,
    first: int,
    beyond: int,
    into: Any,
    count: Any,
    table: Any,
    scratch: Any,
    size: int,
) -> bool:
    """Add every task that can come next to the states ``first .. beyond - 1`` of a level.

    ``into`` (C, W) are the rows of the next level, ``count`` (1,) how many it has, ``table`` the
    first state of each hash; ``size`` tasks are in its sets. False when it is full or too many
    tasks run at once.
    """
    n = plan.dur.shape[0]
    start, rest = scratch.start, scratch.rest
    most = into.shape[1] - SLOTS
    for p in range(first, beyond):
        state = rows[p]
        if state[DEAD] != 0:
            continue
        mask: Any = np.int64(state[LOW]) | (np.int64(state[HIGH]) << BITS)
        pieces = profile(plan, state, scratch.times, scratch.free)
        late = False
        for j in range(n):
            start[j] = -1
            if not (mask >> j) & 1 and (mask & plan.before[j]) == plan.before[j]:
                start[j] = earliest(plan, state, j, scratch.times, scratch.free, pieces)
                if start[j] > plan.latest[j]:
                    late = True
                    break
        if late:
            continue
        for j in range(n):
            time = start[j]
            if time < 0 or movable(plan, state, j, time, scratch.free):
                continue
            own = (time + plan.dur[j]) * 64 + j
            total = size * time + plan.dur[j]
            new = count[0]
            running = 0
            placed = False
            for k in range(state[RUNNING] + 1):
                if running + 1 >= most:
                    return False
                one = state[SLOTS + k] if k < state[RUNNING] else own
                if not placed and (one & 63) >= j:
                    into[new, SLOTS + running] = own
                    running += 1
                    placed = True
                if k == state[RUNNING] or one >> 6 < time:
                    continue
                into[new, SLOTS + running] = one
                running += 1
                total += (one >> 6) - time
            for k in range(running):
                rest[into[new, SLOTS + k] & 63] = (into[new, SLOTS + k] >> 6) - time
            bad = hopeless(plan, limit, mask | (1 << j), time, rest, scratch.work)
            for k in range(running):
                rest[into[new, SLOTS + k] & 63] = 0
            if bad:
                continue
            into[new, LOW] = (mask | (1 << j)) & HALF
            into[new, HIGH] = (mask | (1 << j)) >> BITS
            into[new, LAST] = time
            into[new, RUNNING] = running
            into[new, SUM] = total
            into[new, DEAD] = 0
            into[new, PARENT] = p
            into[new, ADDED] = j
            if not keep(into, count, table):
                return False
    return True


def warm_up() -> None:
    """Run every kernel once on a tiny project, so that the compiler caches all of them."""
    one = np.ones(2, np.int64)
    plan = Plan(
        dur=one,
        need=np.ones((2, 1), np.int64),
        capacity=np.ones(1, np.int64),
        before=np.array([0, 1]),
        head=np.array([0, 1]),
        latest=np.array([0, 1]),
        after=np.array([1, 0]),
        by_after=np.arange(2),
    )
    scratch = Scratch(
        start=np.zeros(2, np.int64),
        rest=np.zeros(2, np.int64),
        work=np.zeros(1, np.int64),
        times=np.zeros(4, np.int64),
        free=np.zeros((5, 1), np.int64),
    )
    rows = np.zeros((4, SLOTS + 2), np.int32)
    table = np.full(4, -1, np.int32)
    expand(plan, 2, rows, 0, 1, rows.copy(), np.zeros(1, np.int64), table, scratch, 1)
