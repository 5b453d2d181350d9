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
def rest_ends(
    t: int,
    start: Any,
    length: Any,
    by_length: Any,
    totals: Any,
    by_total: Any,
    room: Any,
    used: Any,
) -> int:
    """Least sum of the ends of the waiting requests when they start at round t or later.

    For weights of which a round has ``room``: the j-th end comes no sooner than what the running
    requests leave suffices for the j smallest totals, nor than the j-th shortest run.

    Parameters
    ----------
    start
        By request; -1: waiting.
    totals, by_total, room, used
        Sums of the weights by pattern and request, the requests by them, weight per round, and
        what is used by pattern and round.
    """
    n = len(start)
    best = np.int64(0)
    rounds = used.shape[1]
    for p in range(totals.shape[0]):
        ends = np.int64(0)
        need = np.int64(0)
        offered = np.int64(0)
        at = t
        position = 0
        for q in range(n):
            i = by_total[p, q]
            if start[i] >= 0:
                continue
            need += totals[p, i]
            while offered < need and at + 1 < rounds:
                at += 1
                offered += room[p] - used[p, at]
            end = at
            if offered < need:
                end += -((offered - need) // room[p])
            while start[by_length[position]] >= 0:
                position += 1
            alone = t + length[by_length[position]]
            position += 1
            ends += max(end, alone)
        best = max(best, ends)
    return int(best)


@kernel
def dominated(key: Any, value: Any, now: Any, count: Any, cost: Any, profile: Any) -> bool:
    """Whether a state is no better than one seen before; if not it is remembered.

    Among states in which the same requests have started, one is no better than another that has
    cost no more and leaves no less memory in any round to come.

    Parameters
    ----------
    key, value, now
        The set of started requests, the cost so far, and the memory in use from now on.
    count, cost, profile
        The states seen: how many by slot, and of which set (plus 1), and what they were. Sets that
        fall into the same slot take it from each other, which only costs time.
    """
    most = cost.shape[1]
    rounds = profile.shape[2]
    slot = (key ^ (key >> 11)) & (len(count) - 1)
    if count[slot, 1] != key + 1:
        count[slot, 0] = 0
        count[slot, 1] = key + 1
    known = min(most, count[slot, 0])
    for k in range(known):
        if cost[slot, k] > value:
            continue
        worse = True
        for u in range(rounds):
            if profile[slot, k, u] > now[u]:
                worse = False
                break
        if worse:
            return True
    spot = -1
    for k in range(known):
        if cost[slot, k] < value:
            continue
        better = True
        for u in range(rounds):
            if profile[slot, k, u] < now[u]:
                better = False
                break
        if better:
            spot = k
            break
    if spot < 0:
        # Full: the oldest makes room.
        spot = count[slot, 0] % most
        count[slot, 0] += 1
    cost[slot, spot] = value
    for u in range(rounds):
        profile[slot, spot, u] = now[u]
    return False


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
    by_length: Any,
    heavy: Any,
    totals: Any,
    by_total: Any,
    room: Any,
    used: Any,
    label_count: Any,
    label_cost: Any,
    label_profile: Any,
    budget: int,
) -> int:
    """Depth-first search over the starts on one machine, round by round; resumes where it stopped.

    In every round each unstarted request in turn is started or not, then the round is closed. A
    branch is cut when the prices or `rest_ends` prove it too dear, when the same requests have
    started with no more memory to come at no greater cost, or when a request could start a round
    earlier whatever follows.

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
    by_length, heavy, totals, by_total, room, used
        Requests by length, and weights by pattern, laid out like ``memory``; see `rest_ends`. No
        pattern when the requests weigh differently.
    label_count, label_cost, label_profile
        See `dominated`; of no length when that is not asked.
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
    patterns = totals.shape[0]
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
            for p in range(patterns):
                for k in range(rounds):
                    used[p, t + 1 + k] += heavy[p, a + k]
            frame_next[depth] = j
            depth += 1
            frame_time[depth] = t
            frame_next[depth] = j
            frame_job[depth] = i
            moved = True
            if patterns > 0:
                rest = rest_ends(t, start, length, by_length, totals, by_total, room, used)
                for k in range(n):
                    if start[k] >= 0:
                        rest += start[k] + length[k]
                if rest * weight[0] >= state[3]:
                    frame_next[depth] = n + 1
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
                if open_ and patterns > 0:
                    rest = rest_ends(t + 1, start, length, by_length, totals, by_total, room, used)
                    for i in range(n):
                        if start[i] >= 0:
                            rest += start[i] + length[i]
                    open_ = rest * weight[0] < state[3]
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
                    if first == 0:
                        # Nothing runs and nothing came later: zeros are what an empty entry has.
                        first = np.int64(1)
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
                    if open_ and len(label_count) > 0 and late <= t + 1:
                        key = np.int64(0)
                        for i in range(n):
                            if start[i] >= 0:
                                key |= np.int64(1) << i
                        now = use[0, t + 2 : t + 2 + longest]
                        open_ = not dominated(
                            key, value, now, label_count, label_cost, label_profile
                        )
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
                for p in range(patterns):
                    used[p, t + 1 + k] -= heavy[p, a + k]
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
        5, 5, -one, table, table, 1, 0 * one, np.ones((1, 1), np.int64),
        np.ones((1, 1), np.int64), np.zeros((1, 1), np.int64), 5 * one,
        np.zeros((1, 16), np.int64), np.zeros((2, 2), np.int64), np.zeros((2, 3), np.int64),
        np.zeros((2, 3, 3), np.int32), 10,
    )  # fmt: skip
