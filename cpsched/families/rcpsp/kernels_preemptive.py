"""Array kernels of the preemptive relaxation: the heaviest set of tasks that may run at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def by_ratio(items: Any, count: int, weight: Any, size: Any) -> None:
    """Sort items by weight per size, largest first; exact, by cross-multiplication."""
    for a in range(1, count):
        i = items[a]
        b = a
        while b > 0 and weight[items[b - 1]] * size[i] < weight[i] * size[items[b - 1]]:
            items[b] = items[b - 1]
            b -= 1
        items[b] = i


@kernel
def fractional(items: Any, first: int, count: int, weight: Any, size: Any, room: int) -> int:
    """The most weight that fits into the room when the last item, in ratio order, may be cut."""
    total = 0
    for a in range(first, count):
        i = items[a]
        if size[i] <= room:
            room -= size[i]
            total += weight[i]
        else:
            total += weight[i] * room // size[i]
            break
    return total


@kernel
def heaviest(
    items: Any,
    count: int,
    weight: Any,
    need: Any,
    free: Any,
    clash: Any,
    nodes: int,
    best_set: Any,
) -> Any:
    """The heaviest set of items that fit together, no two of which clash.

    Depth first over items by weight per size, cut off by the fractional knapsack of one surrogate
    resource: that single resource, or the sum of all with equal shares, whose bound is least.

    Parameters
    ----------
    items : (count,)
        Each fits alone. Reordered.
    weight : (n,)
        Below 2**30.
    need : (n, R), free : (R,)
        Units needed and free.
    clash : (n, n)
    nodes
        Give up after so many; the bound is returned then.
    best_set : (n,)
        Takes the best set found.

    Returns
    -------
    bound, size : (2,)
        An upper bound on the weight, exact unless given up, and the size of the best set found.
    """
    n, resources = need.shape
    size = np.zeros(n, np.int64)
    chosen, least = -1, 2**62
    for r in range(resources + 1):
        room = surrogate(items, count, need, free, r, size)
        by_ratio(items, count, weight, size)
        bound = fractional(items, 0, count, weight, size, room)
        if bound < least:
            chosen, least = r, bound
    answer = np.zeros(2, np.int64)
    room = surrogate(items, count, need, free, chosen, size)
    by_ratio(items, count, weight, size)
    lists = np.zeros((count + 1, count), np.int64)
    lengths = np.zeros(count + 1, np.int64)
    place = np.zeros(count + 1, np.int64)
    worth = np.zeros(count + 1, np.int64)
    rooms = np.zeros(count + 1, np.int64)
    left = np.zeros((count + 1, resources), np.int64)
    picked = np.zeros(count + 1, np.int64)
    lists[0, :count] = items[:count]
    lengths[0], rooms[0] = count, room
    left[0] = free
    depth, best, best_size = 0, 0, 0
    while depth >= 0:
        p = place[depth]
        ahead = fractional(lists[depth], p, lengths[depth], weight, size, rooms[depth])
        if p >= lengths[depth] or worth[depth] + ahead <= best:
            depth -= 1
            continue
        nodes -= 1
        if nodes < 0:
            answer[0], answer[1] = least, best_size
            return answer
        i = lists[depth, p]
        place[depth] = p + 1
        picked[depth] = i
        below = depth + 1
        worth[below] = worth[depth] + weight[i]
        rooms[below] = rooms[depth] - size[i]
        for r in range(resources):
            left[below, r] = left[depth, r] - need[i, r]
        if worth[below] > best:
            best, best_size = worth[below], below
            for d in range(below):
                best_set[d] = picked[d]
        length = 0
        for q in range(p + 1, lengths[depth]):
            j = lists[depth, q]
            if clash[i, j]:
                continue
            fits = True
            for r in range(resources):
                if need[j, r] > left[below, r]:
                    fits = False
                    break
            if fits:
                lists[below, length] = j
                length += 1
        lengths[below], place[below] = length, 0
        depth = below
    answer[0], answer[1] = best, best_size
    return answer


@kernel
def surrogate(items: Any, count: int, need: Any, free: Any, r: int, size: Any) -> int:
    """One resource in the place of all: resource ``r``, or all in equal shares; its room.

    Writes the sizes of the items, so that whatever fits into all fits into the one.
    """
    resources = free.shape[0]
    if r < resources:
        for a in range(count):
            size[items[a]] = need[items[a], r]
        return int(free[r])
    room = 0
    for k in range(resources):
        room += 1024 * free[k] // max(1, free[k])
    for a in range(count):
        i = items[a]
        size[i] = 0
        for k in range(resources):
            # Rounded down, so that sizes are never too large for the room.
            size[i] += 1024 * need[i, k] // max(1, free[k])
    return room


@kernel
def price(
    weight: Any,
    need: Any,
    capacity: Any,
    clash: Any,
    tasks: Any,
    must: Any,
    nodes: int,
    found: Any,
) -> Any:
    """The heaviest set of one interval.

    Parameters
    ----------
    weight : (n,)
        From 0 to below 2**30.
    tasks, must : (T,)
        Tasks that may run throughout the interval, and whether they do in every schedule.
    nodes
        Give up after so many; the bound is then not exact.
    found : (n,)
        Takes the best set found.

    Returns
    -------
    bound, size : (2,)
        An upper bound on the weight and the size of the best set; -1, 0 when the tasks that must
        run do not fit together.
    """
    n, resources = need.shape
    free = capacity.copy()
    items = np.zeros(tasks.shape[0], np.int64)
    chosen = np.zeros(n, np.int64)
    answer = np.zeros(2, np.int64)
    fixed, base = 0, 0
    for e in range(tasks.shape[0]):
        if must[e]:
            i = tasks[e]
            for f in range(fixed):
                if clash[i, found[f]]:
                    answer[0] = -1
            for r in range(resources):
                free[r] -= need[i, r]
                if free[r] < 0:
                    answer[0] = -1
            found[fixed] = i
            fixed += 1
            base += weight[i]
    if answer[0] < 0:
        return answer
    count = 0
    for e in range(tasks.shape[0]):
        i = tasks[e]
        if must[e] or weight[i] == 0:
            continue
        fits = True
        for r in range(resources):
            if need[i, r] > free[r]:
                fits = False
        for f in range(fixed):
            if clash[i, found[f]]:
                fits = False
        if fits:
            items[count] = i
            count += 1
    best = heaviest(items, count, weight, need, free, clash, nodes, chosen)
    for d in range(best[1]):
        found[fixed + d] = chosen[d]
    answer[0], answer[1] = base + best[0], fixed + best[1]
    return answer


def warm_up() -> None:
    """Run every kernel once on tiny arrays, so that the compiler caches all of them."""
    price(
        np.array([3, 2, 2]),
        np.array([[2, 1], [1, 1], [1, 1]]),
        np.array([2, 2]),
        np.zeros((3, 3), np.bool_),
        np.array([0, 1, 2]),
        np.zeros(3, np.bool_),
        100,
        np.zeros(3, np.int64),
    )
