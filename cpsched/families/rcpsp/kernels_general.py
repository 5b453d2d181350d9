"""Serial schedule generation with everything the schema knows, over a list of event points.

Calendars, pausable tasks, releases, deadlines, minimum and maximum lags of all four types,
reservoirs; groups that must not overlap are resources of capacity 1. Between two event points
nothing changes, so the cost depends on the number of tasks and breaks, not on the time unit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cpsched.core.jit import kernel

#: No limit on a time.
NEVER = 2**60


class GeneralNet(NamedTuple):
    """A project with all its rules as arrays, int64 unless said otherwise.

    With n tasks, M modes, W words per packed demand, Q reservoirs, S points in which capacities
    change:
    """

    dur: Any  # (M,)
    need: Any  # (M, W) packed demands
    field: Any  # (M, W) all bits of the fields with a demand
    guard: Any  # (W,)
    point: Any  # (S,) times, the first is 0
    full: Any  # (S, W) packed capacities from each point on, guard bits set
    closed: Any  # (S, W) all bits of the fields with capacity 0
    pausable: Any  # (n,) bool
    release: Any  # (n,)
    deadline: Any  # (n,)
    edge_ptr: Any  # (n + 1,) edges of a task, whichever end it is
    edge: Any  # (X, 5) other task, 1 when it is the one before, type, minimum and maximum lag
    before_ptr: Any  # (n + 1,) tasks to be placed before a task
    before: Any
    event_ptr: Any  # (n + 1,) reservoirs that a task changes
    event: Any  # (Y, 3) reservoir, amount at the start, amount at the end
    initial: Any  # (Q,)
    least: Any  # (Q,)
    most: Any  # (Q,)


@kernel
def split(
    at: int, time: int, times: Any, after: Any, free: Any, shut: Any, level: Any, k: int
) -> Any:
    """The node at ``time``, which lies in the interval of ``at`` or ends it.

    ``k`` is the next unused node.
    """
    if times[at] == time:
        return at
    if after[at] >= 0 and times[after[at]] == time:
        return after[at]
    times[k] = time
    after[k] = after[at]
    after[at] = k
    for w in range(free.shape[1]):
        free[k, w] = free[at, w]
        shut[k, w] = shut[at, w]
    for q in range(level.shape[1]):
        level[k, q] = level[at, q]
    return k


@kernel
def delay(
    net: Any, j: int, begin: int, end: int, node: int, times: Any, after: Any, level: Any
) -> int:
    """How much later task ``j`` must start than at ``begin`` for the levels to stay in range.

    ``node`` holds ``begin``. 0 when all is well, NEVER when no later start helps. A level that is
    wrong while the task runs is so until the task starts after that stretch; one that is wrong
    after its end until it ends after that stretch: the delay is necessary.
    """
    wait = 0
    first, last = net.event_ptr[j], net.event_ptr[j + 1]
    while node >= 0:
        following = NEVER
        if after[node] >= 0:
            following = times[after[node]]
        for x in range(first, last):
            q = net.event[x, 0]
            now = level[node, q] + net.event[x, 1]
            running = begin < following and times[node] < end and begin < end
            if running and (now < net.least[q] or now > net.most[q]):
                if following == NEVER:
                    return NEVER
                wait = max(wait, following - begin)
            now += net.event[x, 2]
            if following > end and (now < net.least[q] or now > net.most[q]):
                if following == NEVER:
                    return NEVER
                wait = max(wait, following - end)
        node = after[node]
    return wait


@kernel
def general(
    net: Any,
    order: Any,
    mode: Any,
    present: Any,
    lower: Any,
    times: Any,
    after: Any,
    free: Any,
    shut: Any,
    level: Any,
    placed: Any,
    end_node: Any,
    start: Any,
    end: Any,
    why: Any,
) -> int:
    """Place the tasks in list order, each as early as all rules allow.

    ``lower`` are further earliest starts. A task that no reservoir level admits yet waits until
    others are placed. Returns the number of tasks placed; when some are left, ``why`` says
    (the task in the way, how much later the culprit should start, the culprit or -1).
    """
    n = order.shape[0]
    points = net.point.shape[0]
    words = net.guard.shape[0]
    tanks = net.initial.shape[0]
    for s in range(points):
        times[s] = net.point[s]
        after[s] = s + 1 if s + 1 < points else -1
        for w in range(words):
            free[s, w] = net.full[s, w]
            shut[s, w] = net.closed[s, w]
        for q in range(tanks):
            level[s, q] = net.initial[q]
    nodes = points
    count = 0
    for j in range(n):
        placed[j] = not present[j]
        if placed[j]:
            count += 1
    why[0], why[1], why[2] = -1, 0, -1
    head = 0
    k = 0
    skipped = False
    while count < n:
        while head < n and placed[order[head]]:
            head += 1
        k = max(k, head)
        if k >= n:
            return count
        j = order[k]
        k += 1
        if placed[j]:
            continue
        ready = True
        for e in range(net.before_ptr[j], net.before_ptr[j + 1]):
            if not placed[net.before[e]]:
                ready = False
                break
        if not ready:
            skipped = True
            continue
        m = mode[j]
        length = net.dur[m]
        low, high = max(net.release[j], lower[j]), NEVER
        end_low, end_high = 0, net.deadline[j]
        culprit, end_culprit = -1, -1
        from_node = 0
        for e in range(net.edge_ptr[j], net.edge_ptr[j + 1]):
            i = net.edge[e, 0]
            if not placed[i] or not present[i]:
                continue
            kind = net.edge[e, 2]
            least, most = net.edge[e, 3], net.edge[e, 4]
            if net.edge[e, 1] == 1:
                # i before j
                origin = end[i] if kind == 0 or kind == 2 else start[i]
                a, b = origin + least, origin + most
                at_start = kind < 2
                if kind == 0 and least >= 0 and times[end_node[i]] > times[from_node]:
                    from_node = end_node[i]
            else:
                target = start[i] if kind < 2 else end[i]
                a, b = target - most, target - least
                at_start = kind == 1 or kind == 3
            if at_start:
                low = max(low, a)
                if b < high:
                    high, culprit = b, i
            else:
                end_low = max(end_low, a)
                if b < end_high:
                    end_high, end_culprit = b, i
        low = max(low, 0)
        if not net.pausable[j]:
            low = max(low, end_low - length)
        node = from_node
        while after[node] >= 0 and times[after[node]] <= low:
            node = after[node]
        # Search: `at` is the candidate start, inside the interval of `node`.
        at = low
        finish = -1
        last = node
        while True:
            done = 0
            cursor = node
            begun = at
            conflict = False
            while True:
                following = NEVER
                if after[cursor] >= 0:
                    following = times[after[cursor]]
                rests = False
                fits = True
                if length > 0:
                    for w in range(words):
                        demand = net.need[m, w]
                        if net.pausable[j]:
                            hidden = shut[cursor, w] & net.field[m, w]
                            if hidden != 0:
                                rests = True
                                demand = demand & ~shut[cursor, w]
                        if (free[cursor, w] - demand) & net.guard[w] != net.guard[w]:
                            fits = False
                            break
                if not fits or (rests and done == 0 and length > 0):
                    conflict = True
                    break
                if length == 0:
                    finish = at
                    last = cursor
                    break
                if not rests:
                    step = following - begun
                    if done + step >= length:
                        finish = begun + length - done
                        last = cursor
                        break
                    done += step
                begun = following
                cursor = after[cursor]
                if cursor < 0:  # closed for good
                    conflict = True
                    break
            if conflict:
                if cursor < 0 or after[cursor] < 0:
                    finish = -1
                    break
                at = times[after[cursor]]
                node = after[cursor]
                if at > high:
                    break
                continue
            if finish < end_low:
                at += max(1, end_low - finish)
            elif at > high or finish > end_high:
                break
            else:
                wait = 0
                if net.event_ptr[j + 1] > net.event_ptr[j]:
                    wait = delay(net, j, at, finish, node, times, after, level)
                if wait == 0:
                    break
                if wait == NEVER:
                    finish = -2
                    break
                at += wait
            while after[node] >= 0 and times[after[node]] <= at:
                node = after[node]
        if finish == -2:
            # No level admits it yet: others first.
            why[0] = j
            skipped = True
            continue
        if finish == -1 or at > high or finish > end_high:
            late, blame = at - high, culprit
            if at <= high:
                late, blame = finish - end_high, end_culprit
            why[0], why[1], why[2] = j, max(1, late), blame
            return count
        placed[j] = True
        count += 1
        start[j], end[j] = at, finish
        one = split(node, at, times, after, free, shut, level, nodes)
        if one == nodes:
            nodes += 1
        if last == node:
            last = one
        two = split(last, finish, times, after, free, shut, level, nodes)
        if two == nodes:
            nodes += 1
        end_node[j] = two
        cursor = one
        while cursor != two:
            for w in range(words):
                demand = net.need[m, w]
                if net.pausable[j]:
                    demand = demand & ~shut[cursor, w]
                free[cursor, w] -= demand
            cursor = after[cursor]
        for x in range(net.event_ptr[j], net.event_ptr[j + 1]):
            for half in range(2):
                cursor = two if half == 1 else one
                while cursor >= 0 and net.event[x, 1 + half] != 0:
                    level[cursor, net.event[x, 0]] += net.event[x, 1 + half]
                    cursor = after[cursor]
        if skipped:
            k, skipped = head, False
    return count


def warm_up() -> None:
    """Run every kernel once on a tiny project, so that the compiler caches all of them."""
    from cpsched.families.rcpsp.general import GeneralKit

    one = np.ones(2, np.int64)
    net = GeneralNet(
        dur=one,
        need=np.ones((2, 1), np.int64),
        field=np.full((2, 1), 3, np.int64),
        guard=np.full(1, 2, np.int64),
        point=np.zeros(1, np.int64),
        full=np.full((1, 1), 3, np.int64),
        closed=np.zeros((1, 1), np.int64),
        pausable=np.zeros(2, np.bool_),
        release=np.zeros(2, np.int64),
        deadline=np.full(2, NEVER, np.int64),
        edge_ptr=np.array([0, 1, 2]),
        edge=np.array([[1, 0, 0, 0, NEVER], [0, 1, 0, 0, NEVER]]),
        before_ptr=np.array([0, 0, 1]),
        before=np.zeros(1, np.int64),
        event_ptr=np.array([0, 1, 1]),
        event=np.array([[0, 1, 1]]),
        initial=np.zeros(1, np.int64),
        least=np.zeros(1, np.int64),
        most=np.full(1, NEVER, np.int64),
    )
    GeneralKit(net).generate(np.arange(2), np.arange(2), np.ones(2, np.bool_))
