"""Plans from patterns: diving in the master, and patterns laid on nodes where most pods stay."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import numpy as np

from cpsched.core import engine
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.errors import OutOfTime
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.patterns import (
    DIVE_NODES,
    SCALE,
    Master,
    Packing,
    in_time,
    price,
    profits_of,
)

#: Pricing rounds after each fixing.
ROUNDS = 3
#: How far a shaken dive may prefer a column of a lower value.
SHAKE = 0.25

#: Chosen patterns: (group, filling), one per node in use.
Chosen = list[tuple[int, Ints]]


def dive(
    pack: Packing,
    master: Master,
    clock: Clock,
    until: float = 0.0,
    rng: random.Random | None = None,
) -> Chosen | None:
    """Fix the strongest columns of the master one after the other, pricing new ones in between.

    The master's rows are changed: `reset` it before the next dive. With ``rng`` the order of the
    fixings is shaken, so that each dive ends elsewhere. None when out of time.
    """
    counts = np.where(pack.tier <= master.tier, pack.available, 0)
    members = [len(g.members) for g in pack.groups]
    need = list(master.frozen)
    chosen: Chosen = []
    while sum(members) and counts.any():
        for _ in range(ROUNDS):
            if clock.remaining() <= until or clock.cancelled:
                return None
            if master.solve() is None:
                return None
            duals = master.multipliers()
            profits = profits_of(pack, master.tier, *duals)
            # The row of a group prices a node: only fillings above that can enter the basis.
            least = [
                max(0, int(SCALE * row.dual_value()) + 1) if free else 2**60
                for row, free in zip(master.group_rows, members, strict=True)
            ]
            check = in_time(clock, until)
            try:
                priced = price(pack, profits, least, counts=counts, nodes=DIVE_NODES, check=check)
            except OutOfTime:
                return None
            clock.spend(2e-3 * len(pack.groups))
            added = sum(
                master.add(g, filling)
                for g, fillings in enumerate(priced.fillings)
                for filling in fillings
            )
            if not added:
                break
        if master.solve() is None:
            return None
        values = master.values()
        shaken = values if rng is None else [v - SHAKE * rng.random() for v in values]
        order = sorted(range(len(values)), key=lambda k: -shaken[k])
        fixed = 0
        share = max(1, sum(members) // 8)
        for k in order:
            if values[k] < 1e-6 or (fixed and values[k] < 0.3):
                continue
            if fixed >= share and values[k] < 0.999:
                continue
            group, filling, _ = master.columns[k]
            copies = max(1, int(values[k] + 1e-6))
            while copies and members[group] and bool((filling <= counts).all()):
                chosen.append((group, filling))
                counts = counts - filling
                members[group] -= 1
                copies -= 1
                fixed += 1
                for t in range(len(need)):
                    need[t] -= int((filling * pack.weight)[pack.tier <= t].sum())
        if not fixed:
            break
        _shrink(pack, master, counts, members, need)
    return chosen


def reset(pack: Packing, master: Master) -> None:
    """Give the master the rows and columns back that a dive took."""
    counts = np.where(pack.tier <= master.tier, pack.available, 0)
    members = [len(g.members) for g in pack.groups]
    _shrink(pack, master, counts, members, master.frozen)


def _shrink(
    pack: Packing, master: Master, counts: Ints, members: list[int], need: list[int]
) -> None:
    """Leave the master with what is not fixed yet."""
    for k, row in master.class_rows.items():
        row.SetUb(float(counts[k]))
    for row, count in zip(master.group_rows, members, strict=True):
        row.SetUb(float(count))
    for row, value in zip(master.tier_rows, need, strict=True):
        row.SetLb(float(max(0, value)))
    for group, filling, variable in master.columns:
        usable = members[group] > 0 and bool((filling <= counts).all())
        variable.SetUb(float(members[group]) if usable else 0.0)


def choose(
    pack: Packing, columns: list[tuple[int, Ints]], run: Run, seconds: float
) -> Chosen | None:
    """The best selection of known patterns, by CP-SAT on the restricted master, lexicographic.

    Tiers are weighted so that no lower one outweighs a higher one.
    """
    from ortools.sat.python import cp_model

    unique = {(g, f.tobytes()): (g, f) for g, f in columns}
    columns = list(unique.values())
    if not columns:
        return None
    model = cp_model.CpModel()
    picks = [model.new_int_var(0, len(pack.groups[g].members), "") for g, _ in columns]
    for g, group in enumerate(pack.groups):
        mine = [x for x, (h, _) in zip(picks, columns, strict=True) if h == g]
        model.add(cp_model.LinearExpr.sum(mine) <= len(group.members))
    placed = []
    for k, available in enumerate(pack.available.tolist()):
        y = model.new_int_var(0, available, "")
        terms = [(x, int(f[k])) for x, (_, f) in zip(picks, columns, strict=True) if f[k]]
        model.add(
            cp_model.LinearExpr.weighted_sum([x for x, _ in terms], [a for _, a in terms]) >= y
        )
        placed.append(y)
    factor, factors = 1, {}
    for tier in sorted(set(pack.tier.tolist()), reverse=True):
        factors[tier] = factor
        factor *= 1 + int((pack.available * pack.weight)[pack.tier == tier].sum())
        if factor > 2**40:
            return None
    weights = [int(w) * factors[int(t)] for w, t in zip(pack.weight, pack.tier, strict=True)]
    model.maximize(cp_model.LinearExpr.weighted_sum(placed, weights))
    outcome = engine.solve(model, run.clock, workers=run.workers, seed=run.seed, seconds=seconds)
    if outcome.values is None:
        return None
    chosen: Chosen = []
    for x, (g, f) in zip(picks, columns, strict=True):
        chosen += [(g, f)] * outcome.values[x.index]
    return trim(pack, chosen)


def trim(pack: Packing, chosen: Chosen) -> Chosen:
    """Take surplus pods out of patterns that together hold more than there are."""
    left = pack.available.copy()
    out: Chosen = []
    for g, filling in chosen:
        held = np.minimum(filling, left)
        left -= held
        out.append((g, held))
    return out


def tier_values(pack: Packing, chosen: Chosen) -> list[int]:
    """Weight placed per tier, cumulative."""
    total = sum((f for _, f in chosen), np.zeros(len(pack.classes), dtype=np.int64))
    worth = total * pack.weight
    return [int(worth[pack.tier <= t].sum()) for t in range(len(pack.instance.tiers))]


def lay_out(pack: Packing, chosen: Chosen, run: Run) -> dict[tuple[int, int], int]:
    """Patterns on nodes so that most running pods stay: counts per (class, node)."""
    from ortools.graph.python import linear_sum_assignment

    here = running_counts(pack)
    counts: dict[tuple[int, int], int] = {}
    per_group: dict[int, list[Ints]] = defaultdict(list)
    for g, filling in chosen:
        per_group[g].append(filling)
    for g, fillings in per_group.items():
        nodes = pack.groups[g].members
        fillings = fillings + [np.zeros_like(fillings[0])] * (len(nodes) - len(fillings))
        table = np.array([[-int(np.minimum(f, here[n]).sum()) for n in nodes] for f in fillings])
        solver = linear_sum_assignment.SimpleLinearSumAssignment()
        size = len(nodes)
        left = np.repeat(np.arange(size, dtype=np.int32), size)
        right = np.tile(np.arange(size, dtype=np.int32), size)
        solver.add_arcs_with_cost(left, right, table.reshape(-1).astype(np.int64))
        solver.solve()
        for f, filling in enumerate(fillings):
            n = nodes[solver.right_mate(f)]
            for k in np.flatnonzero(filling).tolist():
                counts[int(pack.classes[k]), n] = int(filling[k])
    return counts


def running_counts(pack: Packing) -> dict[int, Ints]:
    """Per node the running pods of each class of the packing."""
    instance = pack.instance
    position = {int(c): k for k, c in enumerate(pack.classes)}
    out = {n: np.zeros(len(pack.classes), dtype=np.int64) for n in range(instance.nodes)}
    for p in np.flatnonzero(instance.at >= 0).tolist():
        k = position.get(int(instance.class_of[p]))
        if k is not None:
            out[int(instance.at[p])][k] += 1
    return out


def counts_of(pack: Packing, at: Ints) -> dict[int, Ints]:
    """Per node the pods of each class of the packing in a given end state."""
    instance = pack.instance
    position = {int(c): k for k, c in enumerate(pack.classes)}
    tally = Counter(
        (int(at[p]), position[int(instance.class_of[p])])
        for p in np.flatnonzero(at >= 0).tolist()
        if int(instance.class_of[p]) in position
    )
    out = {n: np.zeros(len(pack.classes), dtype=np.int64) for n in range(instance.nodes)}
    for (n, k), count in tally.items():
        out[n][k] = count
    return out
