"""Subgradient steps for the prices of patterns, in numba's subset: also interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def subgradient(
    price: Any,
    profile: Any,
    offer: Any,
    first: Any,
    release: Any,
    weight: Any,
    upper: float,
    step: float,
    iterations: int,
    best_price: Any,
    part: Any,
    importance: Any,
) -> float:
    """Raise the bound of prices for a while; see `lagrange` for the bound.

    Every request picks the start that is cheapest including what it pays; prices of what is then
    oversold rise, others fall. Steps are Polyak's towards a value between the bound and ``upper``,
    along directions smoothed over the iterations, and shorter when the bound stays.

    Parameters
    ----------
    price
        By pattern and round, shape (patterns, rounds). Changed in place.
    profile
        Weights by pattern and round of output, the requests one after the other:
        ``profile[:, first[i] : first[i + 1]]``.
    offer
        Limits by pattern and round, 1 but for the first rounds.
    step
        Length of the first steps, as a share.
    best_price
        Receives the best prices.
    part, importance
        Part of the time by round; receives what every round of output paid in the last half, by
        the part in which it lay.

    Returns
    -------
    float
        The best bound on the weighted sum of ends (from round 0).
    """
    patterns, rounds = price.shape
    n = len(first) - 1
    best = -1e300
    slope = np.zeros((patterns, rounds))
    direction = np.zeros((patterns, rounds))
    total = np.zeros(rounds)
    dull = 0
    importance[:, :] = 0.0
    for iteration in range(iterations):
        value = 0.0
        for t in range(rounds):
            total[t] = 0.0
            for k in range(patterns):
                slope[k, t] = -offer[k, t]
                total[t] += price[k, t]
                value -= price[k, t] * offer[k, t]
        for i in range(n):
            a = first[i]
            length = first[i + 1] - a
            least = 1e300
            at = 0
            for s in range(release[i], max(release[i], rounds) + 1):
                cost = weight[i] * float(s + length)
                if cost >= least:
                    break
                for k in range(patterns):
                    for j in range(min(length, rounds - s)):
                        cost += price[k, s + j] * profile[k, a + j]
                    if cost >= least:
                        break
                if cost < least:
                    least = cost
                    at = s
            value += least
            for j in range(min(length, rounds - at)):
                for k in range(patterns):
                    slope[k, at + j] += profile[k, a + j]
                if 2 * iteration >= iterations:
                    importance[part[at + j], a + j] += total[at + j]
        if value > best:
            if value > best + 2e-4 * abs(best):
                dull = 0
            best = value
            best_price[:] = price
        else:
            dull += 1
            if dull > 15:
                step *= 0.6
                dull = 0
                price[:] = best_price
        norm = 0.0
        for k in range(patterns):
            for t in range(rounds):
                now = slope[k, t]
                if price[k, t] <= 0.0 and now < 0.0:
                    now = 0.0
                if iteration > 0:
                    now = 0.3 * direction[k, t] + 0.7 * now
                direction[k, t] = now
                norm += now * now
        if norm <= 0.0:
            break
        length_of = step * max(best + 0.5 * (upper - best) - value, 1e-3 * abs(best)) / norm
        for k in range(patterns):
            for t in range(rounds):
                price[k, t] = max(0.0, price[k, t] + length_of * direction[k, t])
    return best


def warm_up() -> None:
    """Call the kernel once with the types used in production."""
    price, one = np.zeros((1, 3)), np.ones(1, np.int64)
    subgradient(
        price, np.ones((1, 1)), np.ones((1, 3)), np.array([0, 1], np.int64), 0 * one, one,
        2.0, 1.0, 2, price.copy(), np.zeros(3, np.int64), np.zeros((2, 1)),
    )  # fmt: skip
