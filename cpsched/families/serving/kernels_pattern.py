"""Heaviest sets of requests that can be active at once, in numba's subset: also interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def heaviest(
    held: Any, left: Any, copies: Any, weight: Any, capacity: int, seats: int, chosen: Any
) -> int:
    """The heaviest set of states that fits until everyone has ended.

    A state holds ``held`` units now, one more in every round, and ends after ``left`` rounds more.
    A set fits when at every end the others, grown until then, still fit beside: with the states by
    ``left`` descending, the units held so far and ``left`` for each of them fit.

    Parameters
    ----------
    held, left, copies, weight
        By state, ``left`` descending; a set takes each at most ``copies`` times; whole weights.
    chosen
        Shape (seats + 1, states), zeroed: row k receives the heaviest set of k states (all zero
        where there is none). With no row nothing is recorded.

    Returns
    -------
    int
        The largest weight.
    """
    states = len(held)
    value = np.full((seats + 1, capacity + 1), -1, np.int64)
    value[0, 0] = 0
    record = chosen.shape[0] > 0
    total = np.int64(0)
    for i in range(states):
        if weight[i] > 0:
            total += copies[i]
    rows = total if record else 0
    taken = np.zeros((rows, seats + 1, capacity + 1), np.bool_)
    item = np.zeros(total, np.int64)
    at = 0
    most = 0
    for i in range(states):
        if weight[i] <= 0:
            continue
        for _ in range(copies[i]):
            item[at] = i
            for k in range(min(most, seats - 1), -1, -1):
                top = capacity - held[i] - (k + 1) * left[i]
                for units in range(top + 1):
                    before = value[k, units]
                    if before >= 0 and before + weight[i] > value[k + 1, units + held[i]]:
                        value[k + 1, units + held[i]] = before + weight[i]
                        most = max(most, k + 1)
                        if record:
                            taken[at, k + 1, units + held[i]] = True
            at += 1
    best = np.int64(0)
    for k in range(seats + 1):
        top = -1
        for units in range(capacity + 1):
            if value[k, units] >= 0 and (top < 0 or value[k, units] > value[k, top]):
                top = units
        if top < 0:
            continue
        best = max(best, value[k, top])
        if record:
            units = top
            number = k
            for j in range(at - 1, -1, -1):
                if number > 0 and taken[j, number, units]:
                    chosen[k, item[j]] += 1
                    units -= held[item[j]]
                    number -= 1
    return int(best)


def warm_up() -> None:
    """Call the kernel once with the types used in production."""
    one = np.ones(1, np.int64)
    heaviest(one, one, one, one, 5, 2, np.zeros((3, 1), np.int64))
