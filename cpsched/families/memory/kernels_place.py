"""Compiled placing of blocks, and taking placements back, for the branch-and-bound."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel

# Places in the vector of scalars that survive between calls.
PLACED, TRAIL, FRAMES, AGENDA, NODES_TOP, POOL_TOP, COUNT, BEGUN = range(8)


@kernel
def put(
    b: int,
    offset: int,
    capacity: int,
    size: Any,
    modulus: Any,
    residue: Any,
    off: Any,
    least: Any,
    rest: Any,
    cross: Any,
    stale: Any,
    sec_at: Any,
    sec: Any,
    near_at: Any,
    near: Any,
    first: Any,
    last: Any,
    placed: Any,
    trail: Any,
    state: Any,
) -> bool:
    """Put block ``b`` at ``offset`` and push its open neighbours up; whether they still fit."""
    k = state[PLACED]
    placed[k, 0] = b
    placed[k, 1] = state[TRAIL]
    state[PLACED] = k + 1
    off[b] = offset
    top = offset + size[b]
    t = state[TRAIL]
    for i in range(sec_at[b], sec_at[b + 1]):
        s = sec[i]
        rest[s] -= size[b]
        stale[s] = 1
    for c in range(first[b], last[b]):
        cross[c] -= 1
    fits = True
    for i in range(near_at[b], near_at[b + 1]):
        u = near[i]
        if off[u] < 0 and least[u] < top:
            raised = top
            m = modulus[u]
            if m > 1:
                raised += (residue[u] - top) % m
            trail[t, 0] = u
            trail[t, 1] = least[u]
            t += 1
            least[u] = raised
            if raised + size[u] > capacity:
                fits = False
                break
            for j in range(sec_at[u], sec_at[u + 1]):
                stale[sec[j]] = 1
    state[TRAIL] = t
    return fits


@kernel
def take_back(
    mark: int,
    size: Any,
    off: Any,
    least: Any,
    rest: Any,
    cross: Any,
    sec_at: Any,
    sec: Any,
    first: Any,
    last: Any,
    placed: Any,
    trail: Any,
    state: Any,
) -> None:
    """Take placements back until ``mark`` of them are left."""
    t = state[TRAIL]
    k = state[PLACED]
    while k > mark:
        k -= 1
        b = placed[k, 0]
        while t > placed[k, 1]:
            t -= 1
            least[trail[t, 0]] = trail[t, 1]
        for i in range(sec_at[b], sec_at[b + 1]):
            rest[sec[i]] += size[b]
        for c in range(first[b], last[b]):
            cross[c] += 1
        off[b] = -1
    state[TRAIL] = t
    state[PLACED] = k


@kernel
def safe(
    u: int, offset: int, size: Any, off: Any, least: Any, near_at: Any, near: Any, blocker: Any
) -> bool:
    """Whether a block at its least offset hinders no open neighbour: then it can stay there."""
    top = offset + size[u]
    v = blocker[u]
    if off[v] < 0 and least[v] < top and v != u:
        return False
    for i in range(near_at[u], near_at[u + 1]):
        v = near[i]
        if off[v] < 0 and least[v] < top:
            blocker[u] = v
            return False
    return True


@kernel
def lowest(
    u: int,
    bottom: int,
    size: Any,
    modulus: Any,
    residue: Any,
    off: Any,
    near_at: Any,
    near: Any,
    pin: Any,
) -> int:
    """The least offset of a block at or above ``bottom`` that avoids pinned open neighbours."""
    offset = bottom
    moved = True
    while moved:
        moved = False
        for i in range(near_at[u], near_at[u + 1]):
            v = near[i]
            if pin[v] < 0 or off[v] >= 0:
                continue
            if offset < pin[v] + size[v] and pin[v] < offset + size[u]:
                offset = pin[v] + size[v]
                if modulus[u] > 1:
                    offset += (residue[u] - offset) % modulus[u]
                moved = True
    return offset


def warm_up() -> None:
    """Compile what the branch-and-bound does not call without pinned blocks."""
    one = np.array([1], dtype=np.int64)
    zero = np.array([0], dtype=np.int64)
    lowest(0, 0, one, one, zero, zero, np.array([0, 0]), np.zeros(0, dtype=np.int64), zero)
