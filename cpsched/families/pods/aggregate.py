"""A quick bound: groups of equal nodes as one large node each, pods divisible.

For any non-negative prices of the groups' rows, every pod is worth at most its weight less what it
pays where it pays least, and the rows earn at most their total.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.patterns import SCALE, Packing


def prices(pack: Packing) -> list[Ints]:
    """Good prices (scaled, per unit of ``unit``) of every group's rows, from a linear program."""
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver("GLOP")
    infinity = solver.infinity()
    unit = units(pack)
    objective = solver.Objective()
    objective.SetMaximization()
    available = [solver.Constraint(-infinity, float(a)) for a in pack.available]
    rows: list[list[Any]] = []
    for group in pack.groups:
        room = group.room * len(group.members) / unit
        row = [solver.Constraint(-infinity, float(v)) for v in room]
        rows.append(row)
        for k in np.flatnonzero(group.limit).tolist():
            x = solver.NumVar(0.0, infinity, "")
            objective.SetCoefficient(x, float(pack.weight[k]))
            available[k].SetCoefficient(x, 1.0)
            for r, amount in enumerate((pack.size[k] / unit).tolist()):
                if amount:
                    row[r].SetCoefficient(x, amount)
    if solver.Solve() != solver.OPTIMAL:
        return [np.zeros(pack.size.shape[1], dtype=np.int64) for _ in pack.groups]
    return [
        np.array([max(0, round(SCALE * c.dual_value())) for c in row], dtype=np.int64)
        for row in rows
    ]


def units(pack: Packing) -> Ints:
    """Per row the unit of its prices: a ten-thousandth of the largest room, at least 1."""
    room = np.max([g.room for g in pack.groups], axis=0)
    out: Ints = np.maximum(1, room // 10_000)
    return out


def bound(pack: Packing, priced: list[Ints]) -> int:
    """Most weight that can be placed, for the prices, rounded down; exact integers throughout."""
    unit = [int(u) for u in units(pack)]
    common = int(np.lcm.reduce(np.array(unit, dtype=object)))
    factor = [common // u for u in unit]
    total = 0
    best = [0] * len(pack.classes)
    for group, price in zip(pack.groups, priced, strict=True):
        scaled = [int(p) * f for p, f in zip(price.tolist(), factor, strict=True)]
        total += len(group.members) * sum(
            int(room) * p for room, p in zip(group.room.tolist(), scaled, strict=True)
        )
        for k in np.flatnonzero(group.limit).tolist():
            paid = sum(int(a) * p for a, p in zip(pack.size[k].tolist(), scaled, strict=True))
            best[k] = max(best[k], int(pack.weight[k]) * SCALE * common - paid)
    total += sum(b * int(a) for b, a in zip(best, pack.available.tolist(), strict=True))
    return total // (SCALE * common)
