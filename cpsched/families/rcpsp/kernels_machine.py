"""Array kernels of one machine with heads and tails: Jackson's bound, Carlier's branch and bound.

Every task has a head (it cannot start earlier), a duration and a tail (time that must follow its
end). What the best order of the tasks of one machine needs is a bound of the whole shop.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def jackson(head: Any, dur: Any, tail: Any, left: Any) -> int:
    """Jackson's preemptive schedule: the ready task of the longest tail first; its length.

    No schedule is shorter, interrupted or not. ``left`` (n,) is scratch.
    """
    n = head.shape[0]
    left[:] = dur
    now, longest, open_ = 0, 0, n
    while open_ > 0:
        chosen, event = -1, 2**62
        for i in range(n):
            if left[i] <= 0:
                continue
            if head[i] <= now:
                if chosen < 0 or tail[i] > tail[chosen]:
                    chosen = i
            elif head[i] < event:
                event = head[i]
        if chosen < 0:
            if event == 2**62:
                break
            now = event
            continue
        step = min(left[chosen], event - now)
        now += step
        left[chosen] -= step
        if left[chosen] == 0:
            open_ -= 1
            longest = max(longest, now + tail[chosen])
    return longest


@kernel
def schrage(head: Any, dur: Any, tail: Any, order: Any, end: Any) -> int:
    """Schrage's schedule: the ready task of the longest tail first, without interruption.

    Writes the order and the ends by place; returns the length.
    """
    n = head.shape[0]
    done = np.zeros(n, np.bool_)
    now, longest = 0, 0
    for place in range(n):
        first = 2**62
        for i in range(n):
            if not done[i] and head[i] < first:
                first = head[i]
        now = max(now, first)
        chosen = -1
        for i in range(n):
            ready = not done[i] and head[i] <= now
            if ready and (chosen < 0 or (tail[i], dur[i]) > (tail[chosen], dur[chosen])):
                chosen = i
        done[chosen] = True
        now += dur[chosen]
        order[place], end[place] = chosen, now
        longest = max(longest, now + tail[chosen])
    return longest


@kernel
def carlier(heads: Any, dur: Any, tails: Any, nodes: int) -> int:
    """The least length of a schedule of the tasks, or a bound when ``nodes`` do not suffice.

    Carlier (1982): when Schrage's schedule is not optimal, one task of its critical block comes
    before or after all tasks of a set, and both cases are bounded.
    """
    n = heads.shape[0]
    head, tail = np.zeros((nodes + 2, n), np.int64), np.zeros((nodes + 2, n), np.int64)
    bound = np.zeros(nodes + 2, np.int64)
    order, end, left = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    head[0, :], tail[0, :] = heads, tails
    bound[0] = jackson(heads, dur, tails, left)
    size, best = 1, 2**62
    for _ in range(nodes):
        if size == 0:
            break
        size -= 1
        if bound[size] >= best:
            continue
        r, q = head[size].copy(), tail[size].copy()
        low = bound[size]
        length = schrage(r, dur, q, order, end)
        best = min(best, length)
        if low >= best:
            continue
        last = n - 1
        while end[last] + q[order[last]] != length:
            last -= 1
        first = last
        while first > 0 and end[first - 1] == end[first] - dur[order[first]]:
            first -= 1
        pivot = last
        while pivot >= first and q[order[pivot]] >= q[order[last]]:
            pivot -= 1
        if pivot < first:
            # No task of the block has a shorter tail: the schedule is optimal for this node.
            continue
        c = order[pivot]
        work, ready, rest = 0, 2**62, 2**62
        for k in range(pivot + 1, last + 1):
            i = order[k]
            work += dur[i]
            ready, rest = min(ready, r[i]), min(rest, q[i])
        for side in range(2):
            head[size, :], tail[size, :] = r, q
            if side == 0:
                head[size, c] = max(r[c], ready + work)
            else:
                tail[size, c] = max(q[c], work + rest)
            both = min(ready, head[size, c]) + work + dur[c] + min(rest, tail[size, c])
            below = max(low, both, jackson(head[size], dur, tail[size], left))
            if below < best:
                bound[size] = below
                size += 1
    for k in range(size):
        best = min(best, bound[k])
    return best


def warm_up() -> None:
    """Run every kernel once on three tasks, so that the compiler caches all of them."""
    carlier(np.array([0, 2, 1]), np.array([4, 3, 2]), np.array([1, 6, 3]), 10)
