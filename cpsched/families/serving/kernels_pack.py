"""Packing growing requests from the end backwards, in numba's subset: it also runs interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.serving.kernels_search import chance, draw


@kernel
def pack_back(
    order: Any, length: Any, offset: Any, memory: Any, limits: Any, kind: Any, late: Any, where: Any
) -> int:
    """List scheduling in reversed time: whoever fits now fits until it is through.

    Memory grows until a request ends, so backwards it only falls, and looking at the present is
    enough. ``late`` and ``where`` receive the rounds between the end of everything and the end of
    the request, and its machine.

    Returns
    -------
    int
        The makespan.
    """
    n = len(order)
    m = len(kind)
    longest = np.int64(1)
    total = np.int64(0)
    for i in range(n):
        longest = max(longest, length[0, i])
        total += length[0, i]
    free = limits[0].copy()
    seats = limits[1].copy()
    queue = order.copy()
    waiting = n
    running = np.zeros(n, np.int64)
    count = 0
    t = np.int64(0)
    top = np.int64(0)
    while waiting > 0 and t <= total:
        kept = 0
        for position in range(waiting):
            i = queue[position]
            best = -1
            for g in range(m):
                c = kind[g]
                rounds = length[c, i]
                peak = memory[offset[c, i] + rounds - 1] if rounds > 0 else 0
                room = peak <= free[g] and (seats[g] > 0 or rounds == 0)
                if room and (best < 0 or free[g] > free[best]):
                    best = g
            if best < 0:
                queue[kept] = i
                kept += 1
                continue
            c = kind[best]
            rounds = length[c, i]
            late[i] = t
            where[i] = best
            top = max(top, t + rounds)
            if rounds > 0:
                free[best] -= memory[offset[c, i] + rounds - 1]
                seats[best] -= 1
                running[count] = i
                count += 1
        waiting = kept
        t += 1
        left = 0
        for k in range(count):
            i = running[k]
            g = where[i]
            a = offset[kind[g], i]
            age = length[kind[g], i] - (t - late[i])
            if age <= 0:
                free[g] += memory[a]
                seats[g] += 1
            else:
                free[g] += memory[a + age] - memory[a + age - 1]
                running[left] = i
                left += 1
        count = left
    return int(top) if waiting == 0 else -1


@kernel
def pack_search(
    order: Any,
    length: Any,
    offset: Any,
    memory: Any,
    limits: Any,
    kind: Any,
    target: int,
    iterations: int,
    seed: int,
    late: Any,
    where: Any,
) -> int:
    """Change the order of `pack_back` a little, keep what leaves less work beyond the target.

    ``order``, ``late`` and ``where`` end as those of the best packing; its makespan is returned.
    """
    rng = np.full(1, 1 + (seed * 2654435769 + 12345) % 4294967295, np.int64)
    for _ in range(8):
        draw(rng, 2)
    n = len(order)
    best = pack_back(order, length, offset, memory, limits, kind, late, where)
    now = order.copy()
    late_now = late.copy()
    where_now = where.copy()
    least = np.int64(2**60)
    trial = now.copy()
    for step in range(iterations):
        if best <= target:
            break
        trial[:] = now
        if step > 0:
            for _ in range(1 + draw(rng, 3)):
                a = draw(rng, n)
                reach = n if chance(rng) < 0.3 else 12
                b = min(n - 1, max(0, a + draw(rng, 2 * reach + 1) - reach))
                one = trial[a]
                if chance(rng) < 0.5:
                    trial[a] = trial[b]
                    trial[b] = one
                else:
                    while a < b:
                        trial[a] = trial[a + 1]
                        a += 1
                    while a > b:
                        trial[a] = trial[a - 1]
                        a -= 1
                    trial[b] = one
        top = pack_back(trial, length, offset, memory, limits, kind, late_now, where_now)
        beyond = np.int64(0)
        for i in range(n):
            c = kind[where_now[i]]
            # Forward rounds of the request that lie before the start of the target.
            over = min(length[c, i], late_now[i] + length[c, i] - target)
            a = offset[c, i]
            for k in range(over):
                beyond += memory[a + k]
        if beyond <= least:
            least = beyond
            now[:] = trial
        if top < best:
            best = top
            order[:] = trial
            late[:] = late_now
            where[:] = where_now
    return int(best)


def warm_up() -> None:
    """Call every kernel once with the types used in production."""
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    table, offset = np.ones((1, 1), np.int64), np.array([[0, 1]], np.int64)
    pack_search(
        zero.copy(), table, offset, one, np.full((3, 1), 5, np.int64), zero, 0, 2, 1,
        zero.copy(), zero.copy(),
    )  # fmt: skip
