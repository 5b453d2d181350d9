"""Array kernels of blocking shops: one job after the other finds its way through what is free.

A job that enters a machine stays there until it enters the next one. With the other jobs' times
given, every machine is free in gaps, and the earliest way of a job through the gaps is a longest
path, operation by operation: to reach a gap earlier never hurts, since a job may wait where it is.
Whatever the order of the jobs, the schedule has no deadlock.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.rcpsp.kernels import draw

NEVER = 2**60


class Jobs(NamedTuple):
    """Operations in the order of the jobs, int64: n operations, M modes, J jobs."""

    first: Any  # (J + 1,) first operation of each job
    mode_start: Any  # (n + 1,)
    usable: Any  # (M,) bool
    dur: Any  # (M,)
    machine: Any  # (M,) -1 for none
    release: Any  # (n,)
    lag: Any  # (n,) least time between the end and the next operation's start
    stays: Any  # (n,) bool: keeps its machine until the next operation starts


@kernel
def enter(
    first: Any,
    mode_start: Any,
    usable: Any,
    dur: Any,
    machine: Any,
    release: Any,
    lag: Any,
    stays: Any,
    swap: bool,
    j: int,
    busy: Any,
    count: Any,
    at: Any,
    gap: Any,
    start: Any,
    mode: Any,
) -> int:
    """Take job ``j`` through the gaps so that it ends as early as possible; its end.

    ``busy`` (machines, slots, 2) are the times, sorted, in which ``count`` (machines,) stretches
    of each machine are taken; the job's are added. ``at`` (longest job, W) and ``gap``
    (longest job, W, 3: mode, gap's end, state before) are scratch; W bounds modes times gaps.

    Without ``swap`` the job does not move at the moment in which another comes to its machine and
    another leaves the one it goes to: whatever moves at one time then has an order.
    """
    begin, end = first[j], first[j + 1]
    states = 0
    for i in range(begin, end):
        p = i - begin
        before, states = states, 0
        for m in range(mode_start[i], mode_start[i + 1]):
            if not usable[m]:
                continue
            k = machine[m]
            gaps = count[k] + 1 if k >= 0 else 1
            for g in range(gaps):
                low, high = 0, NEVER
                if k >= 0 and g > 0:
                    low = busy[k, g - 1, 1]
                if k >= 0 and g < count[k]:
                    high = busy[k, g, 0]
                low = max(low, release[i])
                if low + dur[m] > high:
                    continue
                best, via = NEVER, -1
                if p == 0:
                    best = low
                for x in range(before):
                    t = at[p - 1, x] + dur[gap[p - 1, x, 0]] + lag[i - 1]
                    t = max(t, low)
                    if t >= best:
                        continue
                    if stays[i - 1]:
                        late = t > gap[p - 1, x, 1]
                        chased = t == gap[p - 1, x, 1] and g > 0 and t == busy[k, g - 1, 1]
                        if late or (chased and not swap):
                            continue
                    best, via = t, x
                if best + dur[m] <= high:
                    at[p, states] = best
                    gap[p, states, 0], gap[p, states, 1], gap[p, states, 2] = m, high, via
                    states += 1
    last = end - 1 - begin
    ended, x = NEVER, -1
    for s in range(states):
        t = at[last, s] + dur[gap[last, s, 0]]
        if t < ended:
            ended, x = t, s
    for i in range(end - 1, begin - 1, -1):
        p = i - begin
        start[i], mode[i] = at[p, x], gap[p, x, 0]
        x = gap[p, x, 2]
    if last > 0:
        # A job that enters later leaves more room for others.
        start[begin] = start[begin + 1] - lag[begin] - dur[mode[begin]]
    for i in range(begin, end):
        k = machine[mode[i]]
        if k < 0:
            continue
        leave = start[i] + dur[mode[i]]
        if stays[i]:
            leave = start[i + 1]
        g = count[k]
        while g > 0 and busy[k, g - 1, 0] > start[i]:
            busy[k, g, 0], busy[k, g, 1] = busy[k, g - 1, 0], busy[k, g - 1, 1]
            g -= 1
        busy[k, g, 0], busy[k, g, 1] = start[i], leave
        count[k] += 1
    return ended


@kernel
def decode(
    jobs: Any,
    swap: bool,
    order: Any,
    busy: Any,
    count: Any,
    at: Any,
    gap: Any,
    start: Any,
    mode: Any,
    most: int,
) -> int:
    """The schedule in which the jobs enter in this order; its makespan.

    Gives up, with a value above ``most``, when a job ends later than that.
    """
    count[:] = 0
    makespan = 0
    for j in order:
        end = enter(
            jobs.first,
            jobs.mode_start,
            jobs.usable,
            jobs.dur,
            jobs.machine,
            jobs.release,
            jobs.lag,
            jobs.stays,
            swap,
            j,
            busy,
            count,
            at,
            gap,
            start,
            mode,
        )
        makespan = max(makespan, end)
        if makespan > most:
            break
    return makespan


@kernel
def anneal(
    jobs: Any,
    swap: bool,
    order: Any,
    value: int,
    busy: Any,
    count: Any,
    at: Any,
    gap: Any,
    start: Any,
    mode: Any,
    rng: Any,
    moves: int,
    slack: int,
    best: Any,
) -> int:
    """Change the order of entry ``moves`` times; the value of ``order``, which changes in place.

    Accepts what is at most a random part of ``slack`` above the present value. ``best`` (2, n)
    holds starts and modes of the best schedule and ``best[0, n]`` its makespan.
    """
    n = order.shape[0]
    size = start.shape[0]
    trial = order.copy()
    for _ in range(moves):
        trial[:] = order
        a, b = draw(rng, n), draw(rng, n)
        if a == b:
            continue
        if draw(rng, 2) == 0:
            trial[a], trial[b] = trial[b], trial[a]
        else:
            moved = trial[a]
            step = 1 if b > a else -1
            k = a
            while k != b:
                trial[k] = trial[k + step]
                k += step
            trial[b] = moved
        # The square favours small losses.
        share = draw(rng, 1024)
        most = value + slack * share * share // 1048576
        made = decode(jobs, swap, trial, busy, count, at, gap, start, mode, most)
        if made > most:
            continue
        value = made
        order[:] = trial
        if made < best[0, size]:
            best[0, :size] = start
            best[1, :size] = mode
            best[0, size] = made
    return value


def warm_up() -> None:
    """Run every kernel once on two jobs, so that the compiler caches all of them."""
    jobs = Jobs(
        np.array([0, 2, 4]),
        np.arange(5),
        np.ones(4, np.bool_),
        np.array([2, 3, 1, 2]),
        np.array([0, 1, 1, 0]),
        np.zeros(4, np.int64),
        np.zeros(4, np.int64),
        np.array([True, False, True, False]),
    )
    order = np.arange(2)
    busy, count, at, gap, start, mode = room_of(jobs, 2)
    best = np.full((2, 5), NEVER)
    value = decode(jobs, True, order, busy, count, at, gap, start, mode, NEVER)
    anneal(jobs, True, order, value, busy, count, at, gap, start, mode, np.array([7]), 3, 1, best)


def room_of(jobs: Jobs, machines: int) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Scratch for `enter`: busy, count, at, gap, start, mode."""
    n = len(jobs.release)
    longest = int(np.diff(jobs.first).max())
    modes = int(np.diff(jobs.mode_start).max())
    slots = np.zeros(machines + 1, np.int64)
    for i in range(n):
        own = jobs.machine[jobs.mode_start[i] : jobs.mode_start[i + 1]]
        slots[np.unique(own)] += 1
    most = int(slots.max()) + 1
    return (
        np.zeros((machines, most, 2), np.int64),
        np.zeros(machines, np.int64),
        np.zeros((longest, modes * (most + 1)), np.int64),
        np.zeros((longest, modes * (most + 1), 3), np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )
