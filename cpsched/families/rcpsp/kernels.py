"""Array kernels of the project heuristics: schedule generation, justification, crossover.

They cover what `Instance.plain` allows: end-start lags of at least 0 and constant capacities, one
or several modes. Demands are packed: every 64-bit word holds several resources, each in a field of
its own with a guard bit above it, so that one subtraction compares all of them with the capacity.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cpsched.core.jit import kernel

#: Objective codes of `Net.objective`.
MAKESPAN, TARDINESS, LATE, FLOW, LATENESS, EARLY_TARDY, COST = range(7)


class Net(NamedTuple):
    """A project as arrays; times, lags and indices int64.

    With n tasks, M modes, W words per packed demand:
    """

    mode_start: Any  # (n + 1,) modes of task i are mode_start[i] .. mode_start[i + 1] - 1
    usable: Any  # (M,) bool
    dur: Any  # (M,)
    need: Any  # (M, W) packed demands
    guard: Any  # (W,) the guard bits
    full: Any  # (W,) packed capacities, guard bits set
    eat: Any  # (M, K) consumption of nonrenewable resources
    budget: Any  # (K,)
    pred_ptr: Any  # (n + 1,)
    pred: Any
    pred_lag: Any
    succ_ptr: Any  # (n + 1,)
    succ: Any
    succ_lag: Any
    topo: Any  # (n,) a topological order
    due: Any  # (n,)
    weight: Any  # (n,)
    earliness: Any  # (n,)
    cost: Any  # (M,)
    objective: Any  # (k,) codes, most important first


@kernel
def draw(rng: Any, bound: int) -> int:
    """A pseudo-random integer in ``[0, bound)``: PCG with 32 bits of state in ``rng[0]``."""
    state = rng[0]
    rng[0] = (state * 747796405 + 2891336453) & 0xFFFFFFFF
    word = ((state >> ((state >> 28) + 4)) ^ state) * 277803737 & 0xFFFFFFFF
    drawn: int = ((word >> 22) ^ word) * bound >> 32
    return drawn


@kernel
def first_fit(begin: int, length: int, m: int, need: Any, guard: Any, free: Any) -> int:
    """The first time from ``begin`` on at which mode ``m`` fits for ``length`` time units."""
    words = guard.shape[0]
    at = begin
    if words == 1:
        demand, mask = need[m, 0], guard[0]
        if demand == 0:
            return at
        u = at
        while u < at + length:
            if (free[0, u] - demand) & mask != mask:
                at = u + 1
            u += 1
        return at
    u = at
    while u < at + length:
        for w in range(words):
            if (free[w, u] - need[m, w]) & guard[w] != guard[w]:
                at = u + 1
                break
        u += 1
    return at


@kernel
def occupy(begin: int, length: int, m: int, need: Any, free: Any, sign: int) -> None:
    """Take (sign 1) or give back (sign -1) the demand of mode ``m`` in the profile."""
    for w in range(free.shape[0]):
        demand = sign * need[m, w]
        if demand != 0:
            for u in range(begin, begin + length):
                free[w, u] -= demand


@kernel
def clear(full: Any, free: Any, until: int) -> None:
    """Reset the profile in ``[0, until)``."""
    for w in range(free.shape[0]):
        value = full[w]
        for u in range(until):
            free[w, u] = value


@kernel
def serial(
    net: Any, order: Any, first: int, last: int, mode: Any, reach: Any, free: Any, start: Any
) -> int:
    """Serial schedule generation of ``order[first:last]``, which follows the precedences.

    Every task starts as early as precedences and the tasks before it allow, but not before
    ``reach`` when that is given (an empty array otherwise). Returns the latest end.
    """
    makespan = 0
    limited = reach.shape[0] > 0
    for k in range(first, last):
        j = order[k]
        at = 0
        for e in range(net.pred_ptr[j], net.pred_ptr[j + 1]):
            i = net.pred[e]
            ready = start[i] + net.dur[mode[i]] + net.pred_lag[e]
            if ready > at:
                at = ready
        if limited and reach[j] > at:
            at = reach[j]
        m = mode[j]
        length = net.dur[m]
        if length > 0:
            at = first_fit(at, length, m, net.need, net.guard, free)
            occupy(at, length, m, net.need, free, 1)
        start[j] = at
        if at + length > makespan:
            makespan = at + length
    return makespan


@kernel
def serial_modes(net: Any, order: Any, mode: Any, used: Any, free: Any, start: Any) -> int:
    """Serial schedule generation that gives each task the mode in which it ends first.

    A mode may be taken when the nonrenewable resources allow it (``used`` counts all tasks in
    their present modes), or when it does not add to what exceeds them.
    """
    makespan = 0
    kinds = net.budget.shape[0]
    for k in range(order.shape[0]):
        j = order[k]
        ready = 0
        for e in range(net.pred_ptr[j], net.pred_ptr[j + 1]):
            i = net.pred[e]
            at = start[i] + net.dur[mode[i]] + net.pred_lag[e]
            if at > ready:
                ready = at
        kept = mode[j]
        best, best_at = kept, first_fit(ready, net.dur[kept], kept, net.need, net.guard, free)
        for m in range(net.mode_start[j], net.mode_start[j + 1]):
            if m == kept or not net.usable[m] or ready + net.dur[m] >= best_at + net.dur[best]:
                continue
            allowed = True
            for r in range(kinds):
                more = net.eat[m, r] - net.eat[kept, r]
                if more > 0 and used[r] + more > net.budget[r]:
                    allowed = False
                    break
            if allowed:
                at = first_fit(ready, net.dur[m], m, net.need, net.guard, free)
                if at + net.dur[m] < best_at + net.dur[best]:
                    best, best_at = m, at
        if best != kept:
            for r in range(kinds):
                used[r] += net.eat[best, r] - net.eat[kept, r]
            mode[j] = best
        occupy(best_at, net.dur[best], best, net.need, free, 1)
        start[j] = best_at
        if best_at + net.dur[best] > makespan:
            makespan = best_at + net.dur[best]
    return makespan


@kernel
def sort_by_time(times: Any, ties: Any, until: int, count: Any, order: Any) -> None:
    """Tasks by time, equal ones in the order of ``ties``: counting sort over ``[0, until]``.

    ``count`` is scratch of at least ``until + 2`` cells.
    """
    n = ties.shape[0]
    for t in range(until + 2):
        count[t] = 0
    for j in range(n):
        count[times[j] + 1] += 1
    for t in range(until + 1):
        count[t + 1] += count[t]
    for k in range(n):
        j = ties[k]
        order[count[times[j]]] = j
        count[times[j]] += 1


@kernel
def mirror(net: Any, mode: Any, makespan: int, start: Any, out: Any) -> None:
    """Starts in reversed time: a task that ends at ``makespan`` starts at 0."""
    for j in range(start.shape[0]):
        out[j] = makespan - start[j] - net.dur[mode[j]]


@kernel
def justify(
    net: Any,
    back: Any,
    mode: Any,
    used: Any,
    change_modes: bool,
    makespan: int,
    window: int,
    free: Any,
    count: Any,
    order: Any,
    mirrored: Any,
    reach: Any,
    start: Any,
) -> int:
    """Forward-backward improvement: shift all tasks right, then all left; never longer.

    ``back`` is ``net`` reversed. ``start`` and ``order`` become those of the new schedule;
    ``window`` limits how far one task may move in one pass (0: not at all limited).
    """
    n = start.shape[0]
    top = makespan
    # Backward: reversed start times of the tasks as they lie, then scheduled in that order.
    mirror(net, mode, makespan, start, mirrored)
    sort_by_time(mirrored, back.topo, makespan, count, order)
    limit = reach[:0]
    if window > 0:
        limit = reach
        for j in range(n):
            reach[j] = mirrored[j] - window
    clear(net.full, free, top)
    if change_modes:
        makespan = serial_modes(back, order, mode, used, free, mirrored)
    else:
        makespan = serial(back, order, 0, n, mode, limit, free, mirrored)
    top = max(top, makespan)
    mirror(net, mode, makespan, mirrored, start)
    sort_by_time(start, net.topo, makespan, count, order)
    if window > 0:
        for j in range(n):
            reach[j] = start[j] - window
    clear(net.full, free, top)
    if change_modes:
        makespan = serial_modes(net, order, mode, used, free, start)
    else:
        makespan = serial(net, order, 0, n, mode, limit, free, start)
    top = max(top, makespan)
    clear(net.full, free, top)
    sort_by_time(start, net.topo, makespan, count, order)
    return makespan


# ---------------------------------------------------------------------- parallel generation


@kernel
def push(heap: Any, size: int, value: int) -> int:
    """Add a value to the binary min-heap ``heap[:size]``; the new size."""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent] <= value:
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = value
    return size + 1


@kernel
def pop(heap: Any, size: int) -> int:
    """Move the least value of ``heap[:size]`` to ``heap[size - 1]``; the new size."""
    size -= 1
    least = heap[0]
    value = heap[size]
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = value
    heap[size] = least
    return size


@kernel
def parallel(
    net: Any,
    rank: Any,
    by_rank: Any,
    mode: Any,
    patience: int,
    steps: int,
    state: Any,
    level: Any,
    waiting: Any,
    ready_at: Any,
    events: Any,
    eligible: Any,
    aside: Any,
    start: Any,
) -> int:
    """Parallel schedule generation: at each time, start what fits, by rank.

    Resumable: it handles at most ``steps`` event times per call and returns the makespan, or -1
    when tasks are left. ``patience`` limits the tasks that fail to fit before the time moves on,
    so that a long queue costs no quadratic time. ``state`` is (events, eligible, started, latest
    end), all zero at first; ``events`` holds ``2 * time * n + 2 * task + kind``, kind 0 an end,
    kind 1 a task that becomes ready; ``level`` the free units, ``waiting`` the open predecessors.
    """
    n = start.shape[0]
    words = level.shape[0]
    n_events, n_eligible, started, latest = state[0], state[1], state[2], state[3]
    now = 0
    while started < n and steps > 0:
        steps -= 1
        if n_eligible == 0 or n_events > 0:
            now = events[0] // (2 * n)
        while n_events > 0 and events[0] // (2 * n) == now:
            n_events = pop(events, n_events)
            code = events[n_events] - 2 * n * now
            j = code >> 1
            if code & 1:
                n_eligible = push(eligible, n_eligible, rank[j])
                continue
            for w in range(words):
                level[w] += net.need[mode[j], w]
            for e in range(net.succ_ptr[j], net.succ_ptr[j + 1]):
                k = net.succ[e]
                ready_at[k] = max(ready_at[k], now + net.succ_lag[e])
                waiting[k] -= 1
                if waiting[k] == 0:
                    if ready_at[k] <= now:
                        n_eligible = push(eligible, n_eligible, rank[k])
                    else:
                        n_events = push(events, n_events, 2 * n * ready_at[k] + 2 * k + 1)
        failed = 0
        while n_eligible > 0 and failed < patience:
            n_eligible = pop(eligible, n_eligible)
            j = by_rank[eligible[n_eligible]]
            m = mode[j]
            fits = True
            if net.dur[m] > 0:
                for w in range(words):
                    if (level[w] - net.need[m, w]) & net.guard[w] != net.guard[w]:
                        fits = False
                        break
            if not fits:
                aside[failed] = rank[j]
                failed += 1
                continue
            start[j] = now
            started += 1
            end = now + net.dur[m]
            latest = max(latest, end)
            for w in range(words):
                level[w] -= net.need[m, w]
            n_events = push(events, n_events, 2 * n * end + 2 * j)
            if end == now:
                # Its end belongs to this very time: handle the events first.
                break
        for k in range(failed):
            n_eligible = push(eligible, n_eligible, aside[k])
    state[0], state[1], state[2], state[3] = n_events, n_eligible, started, latest
    return latest if started == n else -1


# ---------------------------------------------------------------------- values


@kernel
def excess(net: Any, mode: Any, used: Any) -> int:
    """Units by which the modes exceed the nonrenewable resources; ``used`` is filled."""
    total = 0
    for r in range(net.budget.shape[0]):
        used[r] = 0
        for j in range(mode.shape[0]):
            used[r] += net.eat[mode[j], r]
        if used[r] > net.budget[r]:
            total += used[r] - net.budget[r]
    return total


@kernel
def value(net: Any, code: int, mode: Any, start: Any) -> int:
    """Value of one objective of a schedule."""
    n = start.shape[0]
    total = 0
    if code == 4:
        total = -(2**60)
    for j in range(n):
        end = start[j] + net.dur[mode[j]]
        if code == 0:
            total = max(total, end)
        elif code == 3:
            total += net.weight[j] * end
        elif code == 6:
            total += net.cost[mode[j]]
        elif net.due[j] < 2**59:
            late = end - net.due[j]
            if code == 1:
                total += net.weight[j] * max(0, late)
            elif code == 2:
                total += 1 if late > 0 else 0
            elif code == 4:
                total = max(total, late)
            elif late > 0:
                total += net.weight[j] * late
            else:
                total -= net.earliness[j] * late
    if code == 4 and total == -(2**60):
        total = 0
    return total


@kernel
def crossover(mother: Any, father: Any, low: int, high: int, taken: Any, child: Any) -> None:
    """List crossover: the father's positions ``low .. high`` inside the mother's list.

    The child begins with the mother's first ``low`` tasks, goes on up to position ``high`` with
    tasks in the father's order, and ends with the rest in the mother's order. It follows the
    precedences when both parents do.
    """
    n = mother.shape[0]
    for j in range(n):
        taken[j] = False
    k = 0
    for p in range(low):
        child[k] = mother[p]
        taken[mother[p]] = True
        k += 1
    for p in range(n):
        if k >= high:
            break
        if not taken[father[p]]:
            child[k] = father[p]
            taken[father[p]] = True
            k += 1
    for p in range(low, n):
        if not taken[mother[p]]:
            child[k] = mother[p]
            k += 1


def warm_up() -> None:
    """Run every kernel once on a tiny project, so that the compiler caches all of them."""
    from cpsched.families.rcpsp.arrays import tiny_kit

    kit = tiny_kit()
    net = kit.net
    mode = np.arange(2)
    rng = np.ones(1, np.int64)
    draw(rng, 5)
    start = kit.serial(net.topo, mode)
    kit.serial_modes(net.topo, mode)
    kit.improve(start, mode)
    kit.by_rank(np.arange(2), mode, lambda: False)
    value(net, 0, mode, start)
    crossover(net.topo, net.topo, 0, 1, np.zeros(2, np.bool_), net.topo.copy())
