"""The kernel that looks for a filling of one node which wastes next to nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def within(sums: Any, row: Any, need: Any, slack: Any) -> Any:
    """Whether a tail leaves at most the slack of what is needed, in every resource."""
    for r in range(need.shape[0]):
        if sums[row, r] > need[r] or need[r] - sums[row, r] > slack[r]:
            return False
    return True


@kernel
def filling(size: Any, available: Any, room: Any, slack: Any, tails: Any, first: Any, starts: Any,
            width: Any, length: Any, most_nodes: Any) -> Any:  # fmt: skip
    """Look for a filling that leaves at most the slack of the room in every resource.

    Fillings are sequences of items in their order; the last ``length`` of them are looked up.

    Parameters
    ----------
    size, available
        int64 item x resource, sorted by descending size in resource 0; how many there are.
    tails, first
        int64 sums of all choices of ``length`` items, sorted by resource 0; their first item.
    starts, width
        Where the tails of each interval of ``width`` in resource 0 begin.
    most_nodes
        Give up after so many partial fillings.

    Returns
    -------
    tuple
        1 when one may exist, 0 when none does, -1 when given up; partial fillings looked at.
    """
    items, resources = size.shape
    least = size[items - 1, 0] * length
    high = np.zeros((items, resources))
    low = np.zeros((items, resources))
    for j in range(items - 1, -1, -1):
        for r in range(resources):
            ratio = size[j, r] / size[j, 0]
            high[j, r] = ratio
            low[j, r] = ratio
            if j + 1 < items:
                high[j, r] = max(ratio, high[j + 1, r])
                low[j, r] = min(ratio, low[j + 1, r])
    deepest = int(room[0] // size[items - 1, 0]) + 2
    need = np.zeros((deepest + 1, resources), dtype=np.int64)
    need[0, :] = room
    item = np.zeros(deepest + 1, dtype=np.int64)
    left = available.copy()
    visited = 0
    depth = 0
    item[0] = 0
    while depth >= 0:
        j = item[depth]
        if j >= items:
            depth -= 1
            if depth >= 0:
                left[item[depth]] += 1
                item[depth] += 1
            continue
        fits = left[j] > 0
        if fits:
            for r in range(resources):
                amount = need[depth, r] - size[j, r]
                need[depth + 1, r] = amount
                if amount < 0:
                    fits = False
        if fits and need[depth + 1, 0] < least:
            fits = False
        if fits:
            for r in range(1, resources):
                if need[depth + 1, r] - slack[r] > high[j, r] * need[depth + 1, 0] + 0.5:
                    fits = False
                if need[depth + 1, r] + 0.5 < low[j, r] * (need[depth + 1, 0] - slack[0]):
                    fits = False
        if not fits:
            item[depth] += 1
            continue
        visited += 1
        if visited > most_nodes:
            return -1, visited
        target = need[depth + 1, 0]
        bucket = max(0, target - slack[0]) // width
        if bucket + 1 < starts.shape[0]:
            row = starts[bucket]
            while row < tails.shape[0] and tails[row, 0] <= target:
                if first[row] >= j and within(tails, row, need[depth + 1], slack):
                    return 1, visited
                row += 1
        left[j] -= 1
        depth += 1
        item[depth] = j
    return 0, visited


def warm_up() -> None:
    """Compile every kernel for the types used in production."""
    size = np.array([[5, 2], [3, 3]], dtype=np.int64)
    tails = np.array([[3, 3], [5, 2]], dtype=np.int64)
    filling(
        size, np.array([2, 2], dtype=np.int64), np.array([12, 9], dtype=np.int64),
        np.array([0, 0], dtype=np.int64), tails, np.array([1, 0], dtype=np.int64),
        np.array([0, 1, 1, 2], dtype=np.int64), 3, 1, 100,
    )  # fmt: skip
