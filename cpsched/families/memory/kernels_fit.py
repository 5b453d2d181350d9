"""Compiled greedy placements: first fit in a given order, and a skyline over time."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def first_fit(
    order: Any,
    best: bool,
    limit: int,
    size: Any,
    modulus: Any,
    residue: Any,
    pin: Any,
    near_at: Any,
    near: Any,
    off: Any,
    low: Any,
    high: Any,
) -> int:
    """Place blocks one by one, each into the lowest (or the tightest) hole among its neighbours.

    Parameters
    ----------
    best
        Choose the tightest hole between placed neighbours, the lowest when none fits.
    limit
        Give up as soon as a block would end above it.
    off
        The offsets, filled in place.
    low, high
        Working memory, one entry per block.

    Returns
    -------
    int
        The height reached, or ``limit + 1`` when given up.
    """
    for b in range(len(off)):
        off[b] = pin[b]
    height = 0
    for b in range(len(off)):
        if off[b] >= 0 and off[b] + size[b] > height:
            height = off[b] + size[b]
    for k in range(len(order)):
        b = order[k]
        if off[b] >= 0:
            continue
        count = 0
        for i in range(near_at[b], near_at[b + 1]):
            v = near[i]
            if off[v] >= 0:
                # Sorted by insertion: most neighbours come in nearly sorted order.
                j = count
                while j > 0 and low[j - 1] > off[v]:
                    low[j] = low[j - 1]
                    high[j] = high[j - 1]
                    j -= 1
                low[j] = off[v]
                high[j] = off[v] + size[v]
                count += 1
        place = residue[b]
        chosen = -1
        slack = 0
        m = modulus[b]
        for j in range(count):
            if low[j] - place >= size[b]:
                if not best:
                    chosen = place
                    break
                if chosen < 0 or low[j] - place - size[b] < slack:
                    chosen = place
                    slack = low[j] - place - size[b]
            if high[j] > place:
                place = high[j]
                if m > 1:
                    place += (residue[b] - place) % m
        if chosen < 0:
            chosen = place
        off[b] = chosen
        if chosen + size[b] > height:
            height = chosen + size[b]
            if height > limit:
                return limit + 1
    return height


@kernel
def skyline(
    periods: int,
    start: Any,
    end: Any,
    size: Any,
    modulus: Any,
    residue: Any,
    score: Any,
    off: Any,
) -> int:
    """Place blocks from the bottom up: always into the lowest valley of the skyline over time.

    Among the open blocks that live within the valley the one with the highest score is taken; a
    valley that holds none is raised to its lower neighbour. Blocks must be sorted by ``start``.
    After the best-fit heuristic of Burke et al. for strip packing, with time as the strip's width.

    Parameters
    ----------
    periods
        Number of periods of compressed time.
    off
        The offsets, filled in place; -1 for every block on entry.

    Returns
    -------
    int
        The height reached.
    """
    n = len(start)
    # Segments of the skyline: a linked list over their starts, ordered in a heap by height.
    level = np.zeros(periods + 1, dtype=np.int64)
    until = np.zeros(periods + 1, dtype=np.int64)
    left = np.full(periods + 1, -1, dtype=np.int64)
    alive = np.zeros(periods + 1, dtype=np.int64)
    # Open blocks by start: skip[i] leads to the next open block at or after i.
    skip = np.arange(n + 1)
    at = np.zeros(periods + 2, dtype=np.int64)
    for b in range(n):
        at[start[b] + 1] += 1
    for t in range(periods + 1):
        at[t + 1] += at[t]
    heap_key = np.zeros(4 * n + 2 * periods + 16, dtype=np.int64)
    heap_at = np.zeros(4 * n + 2 * periods + 16, dtype=np.int64)
    filled = 0
    until[0] = periods
    alive[0] = 1
    heap_key[0] = 0
    heap_at[0] = 0
    filled = 1
    height = 0
    left_over = n
    while left_over > 0 and filled > 0:
        # Pop the lowest segment; entries of segments that changed since are stale.
        h = heap_key[0]
        s = heap_at[0]
        filled -= 1
        k = filled
        key = heap_key[k]
        value = heap_at[k]
        i = 0
        while True:
            child = 2 * i + 1
            if child >= filled:
                break
            if child + 1 < filled and (
                heap_key[child + 1] < heap_key[child]
                or (heap_key[child + 1] == heap_key[child] and heap_at[child + 1] < heap_at[child])
            ):
                child += 1
            if heap_key[child] < key or (heap_key[child] == key and heap_at[child] < value):
                heap_key[i] = heap_key[child]
                heap_at[i] = heap_at[child]
                i = child
            else:
                break
        heap_key[i] = key
        heap_at[i] = value
        if alive[s] == 0 or level[s] != h:
            continue
        e = until[s]
        chosen = -1
        i = at[s]
        stop = at[e]
        while True:
            # Path-halving find of the next open block.
            while skip[i] != i:
                skip[i] = skip[skip[i]]
                i = skip[i]
            if i >= stop:
                break
            if end[i] <= e and (chosen < 0 or score[i] > score[chosen]):
                chosen = i
            i += 1
        pushed = 0
        first = s
        second = s
        third = s
        if chosen < 0:
            # Raise the valley to its lower neighbour and merge with it.
            right = e
            has_left = left[s] >= 0
            has_right = right < periods
            if not has_left and not has_right:
                break
            to_left = has_left and (not has_right or level[left[s]] <= level[right])
            to_right = has_right and (not has_left or level[right] <= level[left[s]])
            if to_right:
                alive[right] = 0
                until[s] = until[right]
                if until[s] < periods:
                    left[until[s]] = s
                level[s] = level[right]
            if to_left:
                p = left[s]
                level[s] = level[p]
                alive[s] = 0
                until[p] = until[s]
                if until[p] < periods:
                    left[until[p]] = p
                first = p
            pushed = 1
        else:
            b = chosen
            place = h
            m = modulus[b]
            if m > 1:
                place += (residue[b] - place) % m
            off[b] = place
            top = place + size[b]
            if top > height:
                height = top
            skip[b] = b + 1
            left_over -= 1
            x = start[b]
            y = end[b]
            # Cut [x, y) out of the valley.
            if y < e:
                level[y] = h
                until[y] = e
                alive[y] = 1
                left[y] = x
                if e < periods:
                    left[e] = y
                second = y
                pushed = 2
            if x > s:
                until[s] = x
                left[x] = s
                alive[x] = 1
                third = s
                pushed = 3 if pushed == 2 else 4
            level[x] = top
            until[x] = y
            first = x
            if y == e and e < periods:
                left[e] = x
            # Equal levels side by side are one segment.
            if y == e and e < periods and level[e] == top:
                alive[e] = 0
                until[x] = until[e]
                if until[x] < periods:
                    left[until[x]] = x
            if x == s and left[x] >= 0 and level[left[x]] == top:
                p = left[x]
                alive[x] = 0
                until[p] = until[x]
                if until[p] < periods:
                    left[until[p]] = p
                first = p
        for r in range(3):
            if r == 0:
                segment = first
            elif r == 1:
                if pushed != 2 and pushed != 3:
                    continue
                segment = second
            else:
                if pushed != 3 and pushed != 4:
                    continue
                segment = third
            i = filled
            filled += 1
            while i > 0:
                parent = (i - 1) // 2
                if heap_key[parent] > level[segment] or (
                    heap_key[parent] == level[segment] and heap_at[parent] > segment
                ):
                    heap_key[i] = heap_key[parent]
                    heap_at[i] = heap_at[parent]
                    i = parent
                else:
                    break
            heap_key[i] = level[segment]
            heap_at[i] = segment
    return height


def warm_up() -> None:
    """Call every kernel once with the types used in production."""
    one = np.array([0], dtype=np.int64)
    none = np.array([0, 0], dtype=np.int64)
    near = np.zeros(0, dtype=np.int64)
    ones = np.array([1], dtype=np.int64)
    minus = np.array([-1], dtype=np.int64)
    first_fit(one, False, 9, ones, ones, one, minus, none, near, one.copy(), one.copy(), one.copy())
    skyline(1, one, ones, ones, ones, one, np.array([1.0]), minus.copy())
