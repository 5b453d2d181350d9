"""Array kernels of total weighted tardiness on one machine: local search, Lagrangian bound."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.rcpsp.kernels import draw

#: Jobs farther apart than this many places are not swapped.
REACH = 60
#: More jobs than any improvement looks at.
EVERY = 2**60


@kernel
def cost_of(dur: Any, due: Any, weight: Any, order: Any) -> int:
    """Total weighted tardiness of the jobs in this order, without idle time."""
    end, total = 0, 0
    for j in order:
        end += dur[j]
        if end > due[j]:
            total += weight[j] * (end - due[j])
    return total


@kernel
def improve(dur: Any, due: Any, weight: Any, order: Any, ends: Any, rng: Any, most: int) -> int:
    """Insert and swap jobs, each the best of its moves, until no move helps; the cost.

    ``ends`` is scratch (n,). At most ``most`` jobs are looked at, in a cyclic order from a random
    place.
    """
    n = order.shape[0]
    end = 0
    for k in range(n):
        end += dur[order[k]]
        ends[k] = end
    quiet, at = 0, draw(rng, n)
    while quiet < n and most > 0:
        quiet += 1
        most -= 1
        at = (at + 1) % n
        a = order[at]
        own = weight[a] * max(0, ends[at] - due[a])
        best, kind, to = 0, 0, -1
        # Later: those in between start earlier.
        change = 0
        for k in range(at + 1, n):
            b = order[k]
            old = weight[b] * max(0, ends[k] - due[b])
            # Swap of a and b: b ends at begin + dur[b], a ends at ends[k].
            if k - at <= REACH:
                delta = weight[b] * max(0, ends[at] - dur[a] + dur[b] - due[b]) - old
                delta += weight[a] * max(0, ends[k] - due[a]) - own
                shift = dur[b] - dur[a]
                if shift != 0:
                    for x in range(at + 1, k):
                        c = order[x]
                        delta += weight[c] * (
                            max(0, ends[x] + shift - due[c]) - max(0, ends[x] - due[c])
                        )
                        if delta >= best and shift > 0:
                            break
                if delta < best:
                    best, kind, to = delta, 1, k
            change += weight[b] * max(0, ends[k] - dur[a] - due[b]) - old
            delta = change + weight[a] * max(0, ends[k] - due[a]) - own
            if delta < best:
                best, kind, to = delta, 2, k
        change = 0
        for k in range(at - 1, -1, -1):
            b = order[k]
            change += weight[b] * (max(0, ends[k] + dur[a] - due[b]) - max(0, ends[k] - due[b]))
            delta = change + weight[a] * max(0, ends[k] - dur[b] + dur[a] - due[a]) - own
            if delta < best:
                best, kind, to = delta, 3, k
        if kind == 0:
            continue
        quiet = 0
        if kind == 1:
            order[at], order[to] = order[to], a
        elif kind == 2:
            for k in range(at, to):
                order[k] = order[k + 1]
            order[to] = a
        else:
            for k in range(at, to, -1):
                order[k] = order[k - 1]
            order[to] = a
        first = min(at, to)
        end = 0 if first == 0 else ends[first - 1]
        for k in range(first, max(at, to) + 1):
            end += dur[order[k]]
            ends[k] = end
    return cost_of(dur, due, weight, order)


@kernel
def iterate(
    dur: Any,
    due: Any,
    weight: Any,
    order: Any,
    best: Any,
    ends: Any,
    rng: Any,
    count: int,
    most: int,
) -> int:
    """Iterated local search from ``order``: disturb, improve, go back when that got worse.

    Each of the ``count`` improvements looks at most at ``most`` jobs.

    ``best`` (n,) is the best order so far; every hundredth step or so begins there anew. Returns
    the best cost.
    """
    n = order.shape[0]
    before = order.copy()
    value = cost_of(dur, due, weight, order)
    least = cost_of(dur, due, weight, best)
    for _ in range(count):
        before[:] = order
        for _ in range(2 + draw(rng, 4)):
            a = draw(rng, n)
            b = min(n - 1, max(0, a + 1 + draw(rng, 20) - 10))
            order[a], order[b] = order[b], order[a]
        made = improve(dur, due, weight, order, ends, rng, most)
        if made < least:
            least = made
            best[:] = order
        if made <= value or draw(rng, 50) == 0:
            value = made
        else:
            order[:] = before
        if draw(rng, 100) == 0:
            order[:] = best
            value = least
    return least


@kernel
def relaxed(dur: Any, due: Any, weight: Any, price: Any, block: int, scale: int, busy: Any) -> int:
    """The Lagrangian bound, times ``scale``, for prices of machine time.

    Every job starts where its cost and the price of the time it takes are least; every time unit
    of block k has the price ``price[k]``, which one job at a time pays and is given back once.
    ``busy`` (blocks,) gets the time that the jobs take in each block, times nothing else. Time runs
    over ``[0, sum of dur)``: a best schedule has no idle time.
    """
    horizon = dur.sum()
    blocks = price.shape[0]
    busy[:] = 0
    paid = np.zeros(horizon + 1, np.int64)
    for t in range(horizon):
        paid[t + 1] = paid[t] + price[t // block]
    total = -paid[horizon]
    for j in range(dur.shape[0]):
        least, at = 2**62, 0
        for end in range(dur[j], horizon + 1):
            value = paid[end] - paid[end - dur[j]]
            if end > due[j]:
                value += scale * weight[j] * (end - due[j])
            if value < least:
                least, at = value, end
        total += least
        k = (at - dur[j]) // block
        t = at - dur[j]
        while t < at and k < blocks:
            until = min(at, (k + 1) * block)
            busy[k] += until - t
            t = until
            k += 1
    return int(total)


def warm_up() -> None:
    """Run every kernel once on three jobs, so that the compiler caches all of them."""
    dur, due, weight = np.array([2, 3, 1]), np.array([1, 3, 6]), np.array([1, 2, 1])
    order, best, ends = np.arange(3), np.arange(3), np.zeros(3, np.int64)
    iterate(dur, due, weight, order, best, ends, np.array([7]), 2, EVERY)
    relaxed(dur, due, weight, np.zeros(3, np.int64), 2, 100, ends)
