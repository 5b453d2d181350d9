"""Array kernels of blocking shops: one job after the other finds its way through what is free.

A job that enters a machine stays there until it enters the next one. With the other jobs' times
given, every machine is free in gaps, and the earliest way of a job through the gaps is a longest
path, operation by operation: to reach a gap earlier never hurts, since a job may wait where it is.
Whatever the order of the jobs, the schedule has no deadlock. Annealing then changes the sequences
of the machines; a simulation that lets jobs swap places turns any of them into a schedule.
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
                    if t < best and (t <= gap[p - 1, x, 1] or not stays[i - 1]):
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
def first_now(line: Any, begin: int, o: int) -> None:
    """Bring operation ``o`` of a machine's sequence to place ``begin``."""
    x = begin
    while line[x] != o:
        x += 1
    while x > begin:
        line[x] = line[x - 1]
        x -= 1
    line[begin] = o


@kernel
def simulate(
    first: Any,
    job: Any,
    machine: Any,
    dur: Any,
    release: Any,
    lag: Any,
    stays: Any,
    line: Any,
    count: Any,
    most: int,
    room: Any,
    start: Any,
) -> int:
    """Follow the machines' sequences in time; the makespan, or a value above ``most``.

    ``machine`` and ``dur`` (n,) are those of the chosen modes, ``line`` (machines, slots) the
    sequences with ``count`` operations each. Jobs that wait for each other's machines in a circle
    move together. Where sequences cannot go on, an operation jumps the queue, so that every call
    ends with a schedule; ``line`` is then changed to what happened. ``room`` (3, machines + jobs)
    is scratch.
    """
    jobs, machines, n = first.shape[0] - 1, count.shape[0], job.shape[0]
    holder, place, follow = room[0], room[1], room[2]
    ready, upcoming = room[0, machines:], room[1, machines:]
    for k in range(machines):
        holder[k], place[k] = -1, 0
    for j in range(jobs):
        upcoming[j], ready[j] = first[j], release[first[j]]
    now, begun, makespan = 0, 0, 0
    while begun < n:
        moved = True
        while moved:
            moved = False
            for k in range(machines):
                o = holder[k]
                gone = o >= 0 and start[o] + dur[o] <= now
                if gone and not stays[o]:
                    holder[k] = -1
                follow[k] = -1
            for j in range(jobs):
                o = upcoming[j]
                if o == first[j + 1] or ready[j] > now:
                    continue
                k = machine[o]
                if k >= 0 and line[k, place[k]] != o:
                    continue
                before = -1
                if o > first[j] and machine[o - 1] >= 0 and holder[machine[o - 1]] == o - 1:
                    before = machine[o - 1]
                if k >= 0 and holder[k] >= 0 and k != before:
                    follow[k] = before
                    continue
                if before >= 0:
                    holder[before] = -1
                if k >= 0:
                    holder[k] = o
                    place[k] += 1
                moved = True
                begun += 1
                start[o] = now
                makespan = max(makespan, now + dur[o])
                upcoming[j] = o + 1
                ready[j] = now + dur[o] + lag[o]
                if o + 1 < first[j + 1]:
                    ready[j] = max(ready[j], release[o + 1])
            if moved:
                continue
            for k in range(machines):
                # A circle of machines, each taken by the job that stands on the next.
                x = k
                for _ in range(machines):
                    if x >= 0:
                        x = follow[x]
                    if x == k:
                        break
                if x != k or follow[k] < 0:
                    continue
                while holder[x] >= 0:
                    holder[x] = -1
                    x = follow[x]
                moved = True
                break
            # The emptied machines of the circle are taken in the next round.
        if makespan > most:
            return makespan
        if begun == n:
            break
        event = NEVER
        for j in range(jobs):
            if upcoming[j] < first[j + 1] and now < ready[j] < event:
                event = ready[j]
        for k in range(machines):
            o = holder[k]
            if o >= 0 and now < start[o] + dur[o] < event:
                event = start[o] + dur[o]
        if event < NEVER:
            now = event
            continue
        stuck = -1
        for j in range(jobs):
            o = upcoming[j]
            if o == first[j + 1]:
                continue
            if holder[machine[o]] < 0:
                first_now(line[machine[o]], place[machine[o]], o)
                stuck = -1
                break
            if o > first[j]:
                stuck = o
        if stuck >= 0:
            # All wait for machines that others hold: some of them in a circle.
            for _ in range(machines):
                stuck = upcoming[job[holder[machine[stuck]]]]
            begin = stuck
            while True:
                k = machine[stuck]
                first_now(line[k], place[k], stuck)
                stuck = upcoming[job[holder[k]]]
                if stuck == begin:
                    break
    return makespan


@kernel
def anneal(
    first: Any,
    job: Any,
    machine: Any,
    dur: Any,
    release: Any,
    lag: Any,
    stays: Any,
    line: Any,
    count: Any,
    value: int,
    room: Any,
    start: Any,
    rng: Any,
    moves: int,
    slack: int,
    best: Any,
) -> int:
    """Change the machines' sequences ``moves`` times; the value of ``line``, changed in place.

    Accepts what is at most a random part of ``slack`` above the present value. ``best`` (n + 1,)
    holds the starts of the best schedule, and its makespan last.
    """
    n, machines = job.shape[0], count.shape[0]
    trial = line.copy()
    for _ in range(moves):
        k = draw(rng, machines)
        if count[k] < 2:
            continue
        a = draw(rng, count[k])
        b = min(count[k] - 1, max(0, a + 1 + draw(rng, 5) - 3))
        if a == b:
            continue
        trial[:, :] = line
        moved = trial[k, a]
        step = 1 if b > a else -1
        while a != b:
            trial[k, a] = trial[k, a + step]
            a += step
        trial[k, b] = moved
        # The square favours small losses.
        share = draw(rng, 1024)
        most = value + slack * share * share // 1048576
        made = simulate(
            first, job, machine, dur, release, lag, stays, trial, count, most, room, start
        )
        if made > most:
            continue
        value = made
        line[:, :] = trial
        if made < best[n]:
            best[:n] = start
            best[n] = made
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
    decode(jobs, order, busy, count, at, gap, start, mode, NEVER)
    anneal(
        jobs.first,
        np.array([0, 0, 1, 1]),
        jobs.machine,
        jobs.dur,
        jobs.release,
        jobs.lag,
        jobs.stays,
        np.array([[0, 3], [1, 2]]),
        np.array([2, 2]),
        NEVER,
        np.zeros((3, 4), np.int64),
        start,
        np.array([7]),
        3,
        1,
        np.full(5, NEVER),
    )


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
