"""The branch and bound over starts, in numba's subset: it also runs interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel

#: Rows of the table of counters that `branch` keeps between calls.
DEPTH, NODES, FOUND, UPPER, COMPLETE = range(5)
#: Hash values are kept to 62 bits.
MASK = 2**62 - 1


@kernel
def branch(
    state: Any,
    frame_time: Any,
    frame_next: Any,
    frame_job: Any,
    start: Any,
    best: Any,
    use: Any,
    paid: Any,
    seen: Any,
    seen_cost: Any,
    marks: Any,
    release: Any,
    weight: Any,
    length: Any,
    offset: Any,
    memory: Any,
    capacity: int,
    batch: int,
    twin: Any,
    cost: Any,
    least: Any,
    scale: int,
    budget: int,
) -> int:
    """Depth-first search over the starts on one machine, round by round; resumes where it stopped.

    In every round each unstarted request in turn is started or not, then the round is closed. A
    branch is cut when the prices prove it too dear, when the same requests have started with the
    same memory to come at no greater cost, or when a request could start a round earlier whatever
    follows.

    Parameters
    ----------
    state
        Counters (see the constants above), kept between calls.
    frame_time, frame_next, frame_job
        The stack: round, next request to try, and request started by the frame (-1: round closed).
    start, best
        Starts of the branch (-1: not started) and of the best schedule found.
    use
        Memory and requests by round, shape (2, rounds).
    paid
        By price set: what the started requests pay, and the least of the others, in 1/scale.
    seen, seen_cost
        Open-addressed table of states: two hash values each, and the least cost they were seen at.
    marks
        Random 31-bit numbers, shape (2, requests + longest).
    twin
        The identical request that must start first (-1: none).
    cost, least
        Price of a start by set, request and start, less the constant of the set; and the least
        price at that start or later.
    budget
        Nodes to look at in this call.

    Returns
    -------
    int
        1 when the search is over, else 0.
    """
    n = len(start)
    sets = cost.shape[0]
    limit = cost.shape[2]
    longest = marks.shape[1] - n
    slots = seen.shape[0]
    depth = state[0]
    while budget > 0:
        t = frame_time[depth]
        j = frame_next[depth]
        moved = False
        # A request to start in this round.
        while j < n:
            i = j
            j += 1
            if start[i] >= 0 or release[i] > t or (twin[i] >= 0 and start[twin[i]] < 0):
                continue
            a, rounds = offset[i], length[i]
            fits = True
            for k in range(rounds - 1, -1, -1):
                if use[0, t + 1 + k] + memory[a + k] > capacity or use[1, t + 1 + k] >= batch:
                    fits = False
                    break
            if not fits:
                continue
            cheap = True
            for s in range(sets):
                if paid[s] + cost[s, i, t] - least[s, i, t] > (state[3] - 1) * scale:
                    cheap = False
                    break
            if not cheap:
                continue
            budget -= 1
            state[1] += 1
            for s in range(sets):
                paid[s] += cost[s, i, t] - least[s, i, t]
            start[i] = t
            for k in range(rounds):
                use[0, t + 1 + k] += memory[a + k]
                use[1, t + 1 + k] += 1
            frame_next[depth] = j
            depth += 1
            frame_time[depth] = t
            frame_next[depth] = j
            frame_job[depth] = i
            moved = True
            break
        if moved:
            continue
        if j == n:
            # Close the round; n + 1 marks it as closed.
            frame_next[depth] = n + 1
            waiting = 0
            shortest = 2**40
            for i in range(n):
                if start[i] < 0:
                    waiting += 1
                    shortest = min(shortest, length[i])
            if waiting == 0:
                value = np.int64(0)
                for i in range(n):
                    value += weight[i] * (start[i] + length[i])
                if value < state[3]:
                    state[3] = value
                    state[2] += 1
                    best[:] = start
            elif t + 1 < limit:
                open_ = True
                for s in range(sets):
                    later = paid[s]
                    for i in range(n):
                        if start[i] < 0:
                            later += least[s, i, t + 1] - least[s, i, t]
                    if later > (state[3] - 1) * scale:
                        open_ = False
                        break
                # Whoever could run a round earlier, whatever starts from now on, should.
                for i in range(n):
                    if not open_:
                        break
                    at = start[i]
                    if at <= release[i] or at + length[i] <= t:
                        continue
                    if at + length[i] > t + 1 + shortest:
                        continue
                    a, rounds = offset[i], length[i]
                    free = use[1, at] < batch and use[0, at] + memory[a] <= capacity
                    for k in range(1, rounds):
                        if not free:
                            break
                        free = use[0, at + k] - memory[a + k - 1] + memory[a + k] <= capacity
                    if free:
                        open_ = False
                if open_:
                    first = np.int64(0)
                    second = np.int64(0)
                    value = np.int64(0)
                    late = np.int64(0)
                    for i in range(n):
                        if start[i] >= 0:
                            value += weight[i] * (start[i] + length[i])
                            first ^= marks[0, i]
                            second ^= marks[1, i]
                        else:
                            late = max(late, release[i])
                            value += weight[i] * (t + 1)
                    for k in range(longest):
                        units = use[0, t + 2 + k] * 32 + use[1, t + 2 + k]
                        if units == 0:
                            break
                        # Factors below 2**31 keep every product and sum in 63 bits.
                        first = (first + marks[0, n + k] * units) & MASK
                        second = (second + marks[1, n + k] * units) & MASK
                    if late > t + 1:
                        # Before the last arrival the same state at another time is another state.
                        first = (first + marks[0, n] * (7 + 2 * t)) & MASK
                        second = (second + marks[1, n] * (7 + 2 * t)) & MASK
                    spot = ((first >> 7) ^ first) & (slots - 1)
                    for _ in range(16):
                        if seen[spot, 0] == 0 and seen[spot, 1] == 0:
                            break
                        if seen[spot, 0] == first and seen[spot, 1] == second:
                            break
                        spot = (spot + 1) & (slots - 1)
                    same = seen[spot, 0] == first and seen[spot, 1] == second
                    if same and seen_cost[spot] <= value:
                        open_ = False
                    # A full neighbourhood gives up its last entry: that only costs time.
                    if open_:
                        seen[spot, 0] = first
                        seen[spot, 1] = second
                        seen_cost[spot] = value
                if open_:
                    budget -= 1
                    state[1] += 1
                    for s in range(sets):
                        for i in range(n):
                            if start[i] < 0:
                                paid[s] += least[s, i, t + 1] - least[s, i, t]
                    depth += 1
                    frame_time[depth] = t + 1
                    frame_next[depth] = 0
                    frame_job[depth] = -1
                    continue
        # Done with this frame: undo what made it.
        if depth == 0:
            state[0] = 0
            state[4] = 1
            return 1
        i = frame_job[depth]
        if i >= 0:
            a = offset[i]
            for s in range(sets):
                paid[s] -= cost[s, i, t] - least[s, i, t]
            start[i] = -1
            for k in range(length[i]):
                use[0, t + 1 + k] -= memory[a + k]
                use[1, t + 1 + k] -= 1
        else:
            for s in range(sets):
                for k in range(n):
                    if start[k] < 0:
                        paid[s] -= least[s, k, t] - least[s, k, t - 1]
        depth -= 1
    state[0] = depth
    return 0


def warm_up() -> None:
    """Call the kernel once with the types used in production."""
    one, table = np.ones(1, np.int64), np.zeros((1, 1, 4), np.int64)
    frames = np.zeros((3, 8), np.int64)
    branch(
        np.array([0, 0, 0, 5, 0], np.int64), frames[0], frames[1], frames[2], -one, -one,
        np.zeros((2, 16), np.int64), np.zeros(1, np.int64), np.zeros((64, 2), np.int64),
        np.zeros(64, np.int64), np.ones((2, 4), np.int64), 0 * one, one, one, 0 * one, one,
        5, 5, -one, table, table, 1, 10,
    )  # fmt: skip
