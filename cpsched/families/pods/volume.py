"""A quick bound on placed pods: nodes of a group as one large node, pods divisible.

For any non-negative prices of the groups' resources and multipliers of the earlier tiers, a pod is
worth at most its gain less what it pays where it pays least, and the resources earn at most their
total. Prices are integers of a common scale, so the value is exact.
"""

from __future__ import annotations

import math

import numpy as np

from cpsched.core.clock import Clock
from cpsched.families.pods.patterns import Packing

#: Scale of prices and multipliers.
FINE = 10**18
#: Pairs of a class and a group up to which the linear program is quick.
MOST_PAIRS = 20_000
#: Estimated seconds of the program per pair.
PAIR_SECONDS = 6e-5

#: Prices per group and resource, multipliers per earlier tier.
Prices = tuple[list[list[int]], list[int]]


def prices(pack: Packing, tier: int, frozen: list[int], clock: Clock) -> Prices | None:
    """Good prices for the pods of a tier and above, from a linear program.

    None when that would take too long.
    """
    from ortools.linear_solver import pywraplp

    pairs = len(pack.groups) * len(pack.classes)
    left = 0.2 * clock.remaining()
    if pairs > MOST_PAIRS or PAIR_SECONDS * pairs > left:
        return None
    clock.spend(PAIR_SECONDS * pairs)
    solver = pywraplp.Solver.CreateSolver("GLOP")
    if math.isfinite(left) and not clock.deterministic:
        solver.SetTimeLimit(max(1, int(1000 * left)))
    infinity = solver.infinity()
    unit = np.maximum(1.0, np.max([g.room for g in pack.groups], axis=0).astype(float))
    objective = solver.Objective()
    objective.SetMaximization()
    active = pack.tier <= tier
    available = [solver.Constraint(-infinity, float(a)) for a in pack.available]
    reached = [solver.Constraint(float(v), infinity) for v in frozen]
    rows = []
    for group in pack.groups:
        room = group.room * len(group.members) / unit
        row = [solver.Constraint(-infinity, float(v)) for v in room]
        rows.append(row)
        for k in np.flatnonzero((group.limit > 0) & active).tolist():
            x = solver.NumVar(0.0, infinity, "")
            objective.SetCoefficient(x, float(pack.weight[k]))
            available[k].SetCoefficient(x, 1.0)
            for t in range(int(pack.tier[k]), len(reached)):
                reached[t].SetCoefficient(x, float(pack.weight[k]))
            for r, amount in enumerate((pack.size[k] / unit).tolist()):
                if amount:
                    row[r].SetCoefficient(x, amount)
    if solver.Solve() != solver.OPTIMAL:
        return None
    scaled = [
        [max(0, round(FINE * c.dual_value() / u)) for c, u in zip(row, unit.tolist(), strict=True)]
        for row in rows
    ]
    return scaled, [max(0, round(-FINE * row.dual_value())) for row in reached]


def bound(pack: Packing, tier: int, frozen: list[int], given: Prices) -> int:
    """Most weight of a tier and above that can be placed, for the prices, rounded down."""
    priced, tiers = given
    total = -sum(m * v for m, v in zip(tiers, frozen, strict=True))
    sizes = pack.size.tolist()
    least: list[int | None] = [None] * len(pack.classes)
    for group, price in zip(pack.groups, priced, strict=True):
        total += len(group.members) * sum(
            int(room) * p for room, p in zip(group.room.tolist(), price, strict=True)
        )
        for k in np.flatnonzero((group.limit > 0) & (pack.tier <= tier)).tolist():
            paid = sum(a * p for a, p in zip(sizes[k], price, strict=True))
            known = least[k]
            least[k] = paid if known is None else min(known, paid)
    for k, paid in enumerate(least):
        if paid is not None:
            gain = int(pack.weight[k]) * (FINE + sum(tiers[int(pack.tier[k]) :]))
            total += int(pack.available[k]) * max(0, gain - paid)
    return total // FINE
