"""Compiled cuts of the branch-and-bound: whether the open blocks can still fit; their ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def sections_fit(
    lo: int,
    hi: int,
    low: int,
    capacity: int,
    least: Any,
    off: Any,
    rest: Any,
    live_at: Any,
    live: Any,
    witness: Any,
    blame: Any,
) -> bool:
    """Whether every section of a part still has room for its open blocks.

    All of them lie above ``low`` and above the least offset that any of them has. One open block
    with a low enough offset is witness enough; the last one found is asked first.
    """
    for s in range(lo, hi):
        if rest[s] == 0:
            continue
        most = capacity - rest[s]
        if low > most:
            blame[s] += 1
            return False
        w = witness[s]
        if off[w] < 0 and least[w] <= most:
            continue
        found = False
        for i in range(live_at[s], live_at[s + 1]):
            u = live[i]
            if off[u] < 0 and least[u] <= most:
                witness[s] = u
                found = True
                break
        if not found:
            blame[s] += 1
            return False
    return True


@kernel
def chains_fit(
    lo: int,
    hi: int,
    low: int,
    last_rank: int,
    capacity: int,
    size: Any,
    least: Any,
    off: Any,
    rest: Any,
    stale: Any,
    live_at: Any,
    live: Any,
    smallest: Any,
    place: Any,
    starts: Any,
    sizes: Any,
    blame: Any,
    pin: Any,
) -> bool:
    """Whether the open blocks of every changed section fit when stacked by their least offsets.

    That is the one-machine bound with release dates. A block whose least offset was passed over
    must rest on one that is still to come, so it starts above ``low`` plus its smallest neighbour.
    """
    for s in range(lo, hi):
        if stale[s] == 0:
            continue
        stale[s] = 0
        if rest[s] == 0:
            continue
        count = 0
        most = 0
        for i in range(live_at[s], live_at[s + 1]):
            u = live[i]
            if off[u] < 0:
                start = least[u]
                if pin[u] >= 0:
                    start = pin[u]
                elif start < low or (start == low and place[u] <= last_rank):
                    start = low + smallest[u]
                if start > most:
                    most = start
                j = count
                while j > 0 and starts[j - 1] > start:
                    starts[j] = starts[j - 1]
                    sizes[j] = sizes[j - 1]
                    j -= 1
                starts[j] = start
                sizes[j] = size[u]
                count += 1
        if most + rest[s] <= capacity:
            continue
        top = 0
        for i in range(count):
            if starts[i] > top:
                top = starts[i]
            top += sizes[i]
        if top > capacity:
            stale[s] = 1
            blame[s] += 1
            return False
    return True


@kernel
def rerank(
    begin: int, end: int, rank: Any, rest: Any, sec_at: Any, sec: Any, pool: Any, key: Any
) -> None:
    """Rank the blocks of a new part by the largest open load they are in, then as before."""
    for i in range(begin, end):
        b = pool[i, 0]
        load = 0
        for j in range(sec_at[b], sec_at[b + 1]):
            if rest[sec[j]] > load:
                load = rest[sec[j]]
        key[b] = load
        k = i
        while k > begin and (
            key[pool[k - 1, 0]] < load or (key[pool[k - 1, 0]] == load and pool[k - 1, 1] > rank[b])
        ):
            pool[k, 0] = pool[k - 1, 0]
            pool[k, 1] = pool[k - 1, 1]
            k -= 1
        pool[k, 0] = b
        pool[k, 1] = rank[b]
    for i in range(begin, end):
        pool[i, 1] = i - begin


def warm_up() -> None:
    """Compile what the branch-and-bound calls for parts that are ranked anew."""
    one = np.array([1], dtype=np.int64)
    zero = np.array([0], dtype=np.int64)
    rerank(0, 1, one, one, np.array([0, 1]), zero, np.zeros((1, 2), dtype=np.int64), one.copy())
