"""Hot loops of the `serving` family, in numba's subset: they also run interpreted.

Every function works on arrays prepared once (see `prepare.Prepared`).
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def list_schedule(
    order: Any,
    release: Any,
    kind: Any,
    length: Any,
    offset: Any,
    memory: Any,
    tokens: Any,
    limits: Any,
    node_offset: Any,
    nodes: Any,
    node_size: Any,
    pred_offset: Any,
    preds: Any,
    gap: Any,
    tool: Any,
    tool_rounds: Any,
    tool_capacity: Any,
    allowed: Any,
    fixed_start: Any,
    fixed_machine: Any,
    skip: int,
    age: int,
    scan: int,
    work: int,
    steps: int,
) -> tuple[Any, Any]:
    """Chronological list scheduling: in every round, admit in the given order what fits.

    Admission checks the memory, batch and token budget in every round until the request's end.

    Parameters
    ----------
    order
        Requests by priority.
    limits
        Capacity, most requests and token budget by machine, shape (3, machines).
    allowed
        (requests, machines), or shape (1, 1) when every machine is allowed.
    skip
        0: stop at the first request that does not fit; 1: look past it.
    age
        Requests that waited longer are no longer overtaken.
    scan
        Most requests that may fail a full check in one round before the scan ends.
    work
        Full checks after which nothing is looked past any more: what keeps the time bounded.
    steps
        Units of about 4 ns after which the rest is left out: 15 for a machine looked at, 1 for a
        move in the queue, 150 for a full check and two for each round and limit it looks at.

    Returns
    -------
    start, machine
        By request; machine -1 where it fits nowhere even on empty machines, or was left out.
    """
    n = len(order)
    m = len(kind)
    longest = 1
    for c in range(length.shape[0]):
        for i in range(n):
            longest = max(longest, length[c, i])
    hold_tool = 0
    for i in range(n):
        hold_tool = max(hold_tool, tool_rounds[i])
    width = longest + hold_tool + 4096
    span = longest + hold_tool + 2
    use = np.zeros((3, m, width + span), np.int64)
    tools = np.zeros((len(tool_capacity), width + span), np.int64)
    hold = np.full((m, max(1, len(node_size))), -(2**60), np.int64)
    rank = np.empty(n, np.int64)
    for k in range(n):
        rank[order[k]] = k
    waiting_for = np.zeros(n, np.int64)
    ready = release.copy()
    follow_offset = np.zeros(n + 1, np.int64)
    for j in preds:
        follow_offset[j + 1] += 1
    for i in range(n):
        follow_offset[i + 1] += follow_offset[i]
    followers = np.zeros(max(1, len(preds)), np.int64)
    fill = follow_offset.copy()
    for i in range(n):
        for q in range(pred_offset[i], pred_offset[i + 1]):
            followers[fill[preds[q]]] = i
            fill[preds[q]] += 1
            waiting_for[i] += 1
    start = np.zeros(n, np.int64)
    machine = np.full(n, -1, np.int64)
    # Popped at once: the first entry tells numba the types.
    future = [(np.int64(0), np.int64(0))]
    future.pop()
    ends = [np.int64(0)]
    ends.pop()
    for i in range(n):
        if waiting_for[i] == 0:
            heapq.heappush(future, (ready[i], rank[i]))
    queue = np.empty(n, np.int64)
    waiting = 0
    t = np.int64(0)
    base = np.int64(0)
    if len(future) > 0:
        t = future[0][0]
        base = t
    while waiting > 0 or len(future) > 0:
        if waiting == 0 and future[0][0] > t:
            t = future[0][0]
        if t - base > width - longest - hold_tool:
            shift = t - base
            if shift >= width + span:
                use[:] = 0
                tools[:] = 0
            else:
                keep = width + span - shift
                for r in range(3):
                    for g in range(m):
                        use[r, g, :keep] = use[r, g, shift:].copy()
                        use[r, g, keep:] = 0
                for k in range(tools.shape[0]):
                    tools[k, :keep] = tools[k, shift:].copy()
                    tools[k, keep:] = 0
            base = t
        while len(future) > 0 and future[0][0] <= t:
            one = heapq.heappop(future)
            spot = waiting
            while spot > 0 and queue[spot - 1] > one[1]:
                queue[spot] = queue[spot - 1]
                spot -= 1
            queue[spot] = one[1]
            steps -= waiting - spot
            waiting += 1
        while len(ends) > 0 and ends[0] <= t:
            heapq.heappop(ends)
        now = t - base
        kept = 0
        failed = 0
        tried = False
        if work <= 0:
            skip = 0
        for position in range(waiting):
            i = order[queue[position]]
            if steps < 0 and fixed_machine[i] < 0:
                return start, machine
            steps -= 15 * m  # three reads far apart in memory
            stopped = False
            done = False
            best = -1
            best_left = np.int64(-1)
            checks = 0
            fixed = fixed_machine[i]
            for g in range(m):
                if fixed >= 0 and g != fixed:
                    continue
                if allowed.shape[0] > 1 and not allowed[i, g]:
                    continue
                c = kind[g]
                a = offset[c, i]
                rounds = length[c, i]
                if rounds > 0:
                    if fixed < 0 and memory[a] + use[0, g, now] > limits[0, g]:
                        continue
                    tried = True
                    last = memory[a + rounds - 1] + use[0, g, now + rounds - 1]
                    if fixed < 0 and (
                        last > limits[0, g]
                        or tokens[a] + use[2, g, now] > limits[2, g]
                        or use[1, g, now] >= limits[1, g]
                    ):
                        continue
                    checks += 1
                    scans = 1 + (limits[1, g] < 2**59) + 2 * (limits[2, g] < 2**59)
                    steps -= 150 + 2 * rounds * scans
                    profile = use[0, g, now : now + rounds] + memory[a : a + rounds]
                    for q in range(node_offset[i], node_offset[i + 1]):
                        until = max(np.int64(0), hold[g, nodes[q]] - t)
                        if until < rounds:
                            profile[until:] += node_size[nodes[q]]
                    if fixed < 0:
                        if profile.max() > limits[0, g]:
                            continue
                        if limits[1, g] < 2**59 and (
                            use[1, g, now : now + rounds].max() >= limits[1, g]
                        ):
                            continue
                        if limits[2, g] < 2**59 and (
                            (use[2, g, now : now + rounds] + tokens[a : a + rounds]).max()
                            > limits[2, g]
                        ):
                            continue
                if tool[i] >= 0:
                    held = tools[tool[i], now + rounds : now + rounds + tool_rounds[i]]
                    if fixed < 0 and held.max() >= tool_capacity[tool[i]]:
                        continue
                left = np.int64(2**60)
                if rounds > 0:
                    left = limits[0, g] - use[0, g, now]
                if left > best_left:
                    best_left = left
                    best = g
            if best >= 0:
                c = kind[best]
                a = offset[c, i]
                rounds = length[c, i]
                use[0, best, now : now + rounds] += memory[a : a + rounds]
                use[1, best, now : now + rounds] += 1
                use[2, best, now : now + rounds] += tokens[a : a + rounds]
                for q in range(node_offset[i], node_offset[i + 1]):
                    until = max(np.int64(0), hold[best, nodes[q]] - t)
                    if until < rounds:
                        use[0, best, now + until : now + rounds] += node_size[nodes[q]]
                    hold[best, nodes[q]] = max(hold[best, nodes[q]], t + rounds)
                if tool[i] >= 0:
                    tools[tool[i], now + rounds : now + rounds + tool_rounds[i]] += 1
                    heapq.heappush(ends, t + rounds + tool_rounds[i])
                start[i] = t
                machine[i] = best
                done = True
                heapq.heappush(ends, t + rounds)
                for q in range(follow_offset[i], follow_offset[i + 1]):
                    j = followers[q]
                    ready[j] = max(ready[j], t + rounds + gap[j])
                    waiting_for[j] -= 1
                    if waiting_for[j] == 0:
                        heapq.heappush(future, (ready[j], rank[j]))
            else:
                failed += int(checks > 0)
                if skip == 0 or t - ready[i] > age or failed >= scan:
                    stopped = True
            work -= checks
            if not done:
                queue[kept] = queue[position]
                kept += 1
            if stopped:
                rest = waiting - position - 1
                if kept <= position:
                    queue[kept : kept + rest] = queue[position + 1 : waiting].copy()
                kept += rest
                break
        waiting = kept
        if waiting > 0:
            following = t + 1
            if not tried:
                # Memory only grows until somebody ends: nothing can start before that.
                following = np.int64(2**62)
            if len(ends) == 0 and len(future) == 0:
                return start, machine
            if len(ends) > 0 and not tried:
                following = min(following, ends[0])
            if len(future) > 0:
                following = min(following, future[0][0])
            t = max(following, t + 1)
        elif len(future) > 0:
            t = max(t, future[0][0])
    return start, machine


def warm_up() -> None:
    """Call the kernel once with the types used in production."""
    one, none = np.ones(1, np.int64), np.zeros(0, np.int64)
    zero, table = np.zeros(1, np.int64), np.ones((1, 1), np.int64)
    offset, limits = np.array([[0, 1]], np.int64), np.full((3, 1), 5, np.int64)
    allowed = np.ones((1, 1), np.bool_)
    list_schedule(
        zero, zero, zero, table, offset, one, one, limits, np.zeros(2, np.int64), none, none,
        np.zeros(2, np.int64), none, zero, -one, zero, zero, allowed, zero, -one, 1, 2**60, 10, 100,
        2**60,
    )  # fmt: skip
