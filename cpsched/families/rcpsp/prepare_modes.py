"""Which modes can be used, and how long tasks take in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.errors import Infeasible, ProblemError
from cpsched.families.rcpsp.instance import FAR, IntArray
from cpsched.families.rcpsp.profile import Piece
from cpsched.problem import LARGEST

if TYPE_CHECKING:
    from cpsched.families.rcpsp.problem import RcpspProblem


def refuse_huge(
    problem: RcpspProblem, duration: IntArray, longest: IntArray, units: IntArray
) -> None:
    """Raise unless sums of times, of times and units, and of times and weights fit 64 bits."""
    energy = (units * duration[:, None].astype(float)).sum(axis=0).max(initial=0.0)
    dates = [float(x) for t in problem.tasks for x in (t.release, t.due) if x is not None]
    time = float(longest.sum()) + max(dates, default=0.0)
    weights = sum(float(t.weight) + t.earliness_weight for t in problem.tasks)
    if max(time, energy, time * weights) > 2**60:
        raise ProblemError(
            "durations times demands, or times weights, add up to more than 64 bits hold",
            place="tasks",
            value=max(time, energy, time * weights),
            remedy="Use coarser units of time, demand or weight.",
        )


def usable_modes(
    ids: tuple[str, ...],
    names: list[str],
    mode_start: IntArray,
    demand: IntArray,
    consumption: IntArray,
    capacity: IntArray,
    budget: IntArray,
    optional: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Modes that fit the capacities, and the budgets when all others consume their least."""
    usable: NDArray[np.bool_] = np.all(demand <= capacity, axis=1)
    mandatory = ~optional
    owner = np.repeat(np.arange(len(ids)), np.diff(mode_start))
    while True:
        any_left = np.zeros(len(ids), bool)
        any_left[owner[usable]] = True
        for i in np.flatnonzero(~any_left & mandatory).tolist():
            raise Infeasible(
                f"task {ids[i]!r} fits in none of its modes: each demands or consumes more than "
                "there is",
                "mode",
            )
        if not len(budget):
            return usable
        least = np.full((len(ids), len(budget)), FAR, np.int64)
        np.minimum.at(least, owner[usable], consumption[usable])
        least[~mandatory | ~any_left] = 0
        spare = budget - least.sum(axis=0)
        if (spare < 0).any():
            k = int(np.flatnonzero(spare < 0)[0])
            raise Infeasible(
                f"the tasks consume at least {int(least[:, k].sum())} units of nonrenewable "
                f"resource {names[k]!r}, there are {int(budget[k])}",
                "nonrenewable",
            )
        fits: NDArray[np.bool_] = np.all(consumption - least[owner] <= spare, axis=1)
        tight: NDArray[np.bool_] = np.logical_and(usable, fits)
        if (tight == usable).all():
            return usable
        usable = tight


def duration_range(
    mode_start: IntArray, duration: IntArray, usable: NDArray[np.bool_]
) -> tuple[IntArray, IntArray]:
    """Shortest and longest duration of each task over its usable modes, each (n,)."""
    n = len(mode_start) - 1
    owner = np.repeat(np.arange(n), np.diff(mode_start))
    shortest, longest = np.full(n, FAR, np.int64), np.zeros(n, np.int64)
    np.minimum.at(shortest, owner[usable], duration[usable])
    np.maximum.at(longest, owner[usable], duration[usable])
    shortest[shortest == FAR] = 0
    return shortest, longest


def longest_rest(pieces: tuple[tuple[Piece, ...], ...]) -> int:
    """An upper limit on how long a pausable task can rest; not in a break that never ends."""
    return sum(
        end - start
        for own in pieces
        for start, end, capacity in own
        if capacity == 0 and end < LARGEST
    )
