"""Node-pattern column generation: what one node can hold, priced by a bounded knapsack.

The bounds are Lagrangian, so an interrupted run has one too: for any multipliers the value of the
rows plus the best filling of every node bounds what all nodes can hold. Other constraints than
the resources of nodes, static rules and at most one pod per node are relaxed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpsched.core import jit
from cpsched.core.clock import Clock
from cpsched.errors import OutOfTime
from cpsched.families.pods import kernels
from cpsched.families.pods.arrays import Bools, Ints
from cpsched.families.pods.prepare import Instance

#: Multipliers are rounded to integers of this scale, so that the bound is exact.
SCALE = 10**6
#: Branch-and-bound nodes of one pricing, over all groups, before it settles for the fractional
#: bound; and at least per group.
PRICING_NODES = 400_000
LEAST_NODES = 20_000
#: The same where no proof is needed, and where there is time.
DIVE_NODES = 3_000
HARDEST_NODES = 60_000_000
#: Estimated seconds of one branch-and-bound node of the compiled kernel.
NODE_SECONDS = 2e-7
#: Further fillings from one pricing.
REPEATS = 4


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes: what is left beside the pods that stay, and the most of each class on one."""

    members: tuple[int, ...]
    room: Ints
    limit: Ints


@dataclass(frozen=True)
class Packing:
    """The relaxation: classes of pods that may be anywhere, and groups of nodes."""

    instance: Instance
    classes: Ints
    size: Ints
    available: Ints
    weight: Ints
    tier: Ints
    groups: tuple[NodeGroup, ...]


def packing(instance: Instance, *, distinct: bool = False, keep_all: bool = False) -> Packing:
    """The packing relaxation of an instance.

    Parameters
    ----------
    distinct
        Keep every node apart (its running pods matter), instead of merging equal nodes.
    keep_all
        Tell nodes of different cells apart, too.
    """
    from cpsched.families.pods.bound import fixed_room

    # What runs may stay, also on an over-committed node.
    room = np.maximum(fixed_room(instance), _held(instance))
    fixed = np.array([g.fixed for g in instance.classes], dtype=bool)
    used = [g.index for g in instance.classes if not g.fixed and g.members]
    classes = np.array(used, dtype=np.int64)
    size = instance.requests[classes]
    # Resources that no node can run out of need no row.
    total = (size * np.array([[len(instance.classes[c].members)] for c in used])).sum(axis=0)
    binding = np.flatnonzero((room < total).any(axis=0)) if len(used) else np.arange(0)
    if not len(binding):
        binding = np.arange(1)
    available = np.array([len(instance.classes[c].members) for c in used], dtype=np.int64)
    limit = _limits(instance, classes, available, fixed)
    merged: dict[Any, list[int]] = defaultdict(list)
    for n in range(instance.nodes):
        cells = instance.cell_capacity[n].tobytes() if keep_all else b""
        key = (room[n, binding].tobytes(), limit[:, n].tobytes(), cells, n if distinct else -1)
        merged[key].append(n)
    groups = tuple(
        NodeGroup(
            tuple(nodes), np.ascontiguousarray(room[nodes[0], binding]), limit[:, nodes[0]].copy()
        )
        for nodes in merged.values()
    )
    return Packing(
        instance,
        classes,
        np.ascontiguousarray(size[:, binding]),
        available,
        np.array([instance.classes[c].weight for c in used], dtype=np.int64),
        instance.tier_of[classes],
        groups,
    )


def _held(instance: Instance) -> Ints:
    """What the running pods that may move take of each node."""
    free = np.array([not g.fixed for g in instance.classes], dtype=bool)
    stays = np.flatnonzero((instance.at >= 0) & free[instance.class_of])
    out = np.zeros_like(instance.capacity)
    np.add.at(out, instance.at[stays], instance.requests[instance.class_of[stays]])
    return out


def _limits(instance: Instance, classes: Ints, available: Ints, fixed: Bools) -> Ints:
    """Most pods of each class on each node by static rules and conflicts within a node.

    Pods that already run on a node may stay there whatever the rules say now.
    """
    limit = np.where(instance.allowed[classes], available[:, None], 0)
    position = {int(c): k for k, c in enumerate(classes)}
    for conflict in instance.conflicts:
        alone = np.flatnonzero(conflict.holders & conflict.matches)
        for c in alone.tolist():
            if c in position:
                row = limit[position[c]]
                np.minimum(row, np.where(conflict.domain >= 0, 1, row), out=row)
    running = np.flatnonzero(instance.at >= 0)
    here = np.zeros_like(limit)
    for p in running.tolist():
        k = position.get(int(instance.class_of[p]))
        if k is not None:
            here[k, instance.at[p]] += 1
    here[:, list(instance.drained)] = 0
    return np.maximum(limit, here)


@dataclass(frozen=True)
class Priced:
    """Bounds on the best filling of each group for some profits, and good fillings.

    ``visited`` counts branch-and-bound nodes.
    """

    bounds: list[int]
    fillings: list[list[Ints]]
    visited: int


def in_time(clock: Clock, until: float) -> Callable[[], None]:
    """A check between knapsacks, which take long without compiled kernels; raises `OutOfTime`."""

    def check() -> None:
        if clock.remaining() <= until or clock.cancelled:
            raise OutOfTime("pricing ran out of time")

    return check


def price(
    pack: Packing,
    profits: Ints,
    least: list[int],
    *,
    counts: Ints | None = None,
    nodes: int = 0,
    repeats: int = REPEATS,
    check: Callable[[], object] = lambda: None,
) -> Priced:
    """Solve the pricing problem of every group.

    Parameters
    ----------
    profits
        int64 per class.
    least
        Per group a value that some filling is known to have: only better ones are looked for.
    counts
        What is available of each class; all by default.
    nodes
        Branch-and-bound nodes per group; 0 for enough to prove most.
    repeats
        Further fillings per group from what the ones before leave, so that one round gives
        columns for all classes.
    check
        Called before every group; may raise to stop.
    """
    bounds, fillings, visited = [], [], 0
    available = pack.available if counts is None else counts
    found = np.zeros((1, len(profits)), dtype=np.int64)
    nodes = nodes or max(LEAST_NODES, PRICING_NODES // max(1, len(pack.groups)))
    for group, known in zip(pack.groups, least, strict=True):
        check()
        limit = np.minimum(group.limit, available)
        _, bound, rows, steps = kernels.knapsack(
            profits, pack.size, limit, group.room, nodes, known, found
        )
        visited += int(steps)
        bounds.append(int(bound))
        kept = [found[0].copy()] * rows
        for _ in range(min(repeats, len(group.members) - 1) if rows else 0):
            limit = np.minimum(limit, available - kept[-1]) if len(kept) == 1 else limit - kept[-1]
            limit = np.maximum(limit, 0)
            _, _, rows, _ = kernels.knapsack(
                profits, pack.size, limit, group.room, DIVE_NODES, known * 9 // 10, found
            )
            if not rows:
                break
            kept.append(found[0].copy())
        fillings.append(kept)
    return Priced(bounds, fillings, visited)


def fixed_weights(instance: Instance) -> list[int]:
    """Per tier the weight of the pods of that tier and above that stay whatever happens.

    A packing leaves them out, so that its values are without them.
    """
    per = [0] * len(instance.tiers)
    for group in instance.classes:
        if group.fixed:
            per[instance.tier_of[group.index]] += group.weight * len(group.members)
    return [sum(per[: t + 1]) for t in range(len(per))]


class Master:
    """The restricted master of one tier: place most pods of that tier and above.

    Rows: at most the available pods of each class; at most the nodes of each group; earlier tiers
    at their frozen values.
    """

    def __init__(self, pack: Packing, tier: int, frozen: list[int]) -> None:
        from ortools.linear_solver import pywraplp

        self.pack, self.tier, self.frozen = pack, tier, frozen
        self.active = np.flatnonzero(pack.tier <= tier)
        self.solver = pywraplp.Solver.CreateSolver("GLOP")
        infinity = self.solver.infinity()
        self.class_rows = {
            int(k): self.solver.Constraint(-infinity, float(pack.available[k])) for k in self.active
        }
        self.group_rows = [
            self.solver.Constraint(-infinity, float(len(g.members))) for g in pack.groups
        ]
        self.tier_rows = [self.solver.Constraint(float(v), infinity) for v in frozen]
        # Falling short of a frozen tier is possible at a price, so that the master is feasible.
        self.short = [self.solver.NumVar(0.0, infinity, "") for _ in frozen]
        self.objective = self.solver.Objective()
        self.objective.SetMaximization()
        for row, short in zip(self.tier_rows, self.short, strict=True):
            row.SetCoefficient(short, 1.0)
            self.objective.SetCoefficient(short, -1000.0)
        self.columns: list[tuple[int, Ints, Any]] = []
        self._seen: set[tuple[int, bytes]] = set()
        self._stacked = np.zeros((0, len(pack.classes)), dtype=np.int64)
        self.worth = np.where(pack.tier <= tier, pack.weight, 0)

    def add(self, group: int, filling: Ints) -> bool:
        """Add a column; False when it is known."""
        filling = np.where(self.pack.tier <= self.tier, filling, 0)
        key = (group, filling.tobytes())
        if key in self._seen or not filling.any():
            return False
        self._seen.add(key)
        variable = self.solver.NumVar(0.0, self.solver.infinity(), "")
        self.objective.SetCoefficient(variable, float(filling @ self.worth))
        self.group_rows[group].SetCoefficient(variable, 1.0)
        for k in np.flatnonzero(filling).tolist():
            self.class_rows[k].SetCoefficient(variable, float(filling[k]))
        for t, row in enumerate(self.tier_rows):
            part = float((filling * self.pack.weight)[self.pack.tier <= t].sum())
            if part:
                row.SetCoefficient(variable, part)
        self.columns.append((group, filling, variable))
        return True

    def solve(self) -> float | None:
        """Value of the restricted master, None when the LP solver failed."""
        status = self.solver.Solve()
        if status != self.solver.OPTIMAL:
            return None
        return float(self.objective.Value())

    def multipliers(self) -> tuple[Ints, Ints]:
        """Duals of the class rows and (negated) of the tier rows, non-negative, scaled integers."""
        classes = np.zeros(len(self.pack.classes), dtype=np.int64)
        for k, row in self.class_rows.items():
            classes[k] = max(0, round(SCALE * row.dual_value()))
        tiers = np.array(
            [max(0, round(-SCALE * row.dual_value())) for row in self.tier_rows], dtype=np.int64
        )
        return classes, tiers

    def known_values(self, profits: Ints) -> list[int]:
        """Best value that a known column of each group has for the profits."""
        out = [0] * len(self.pack.groups)
        for (group, _, _), value in zip(self.columns, self.fillings() @ profits, strict=True):
            out[group] = max(out[group], int(value))
        return out

    def fillings(self) -> Ints:
        """The fillings of all columns as rows."""
        missing = len(self.columns) - len(self._stacked)
        if missing:
            fresh = np.array([f for _, f, _ in self.columns[-missing:]], dtype=np.int64)
            self._stacked = np.concatenate([self._stacked, fresh])
        return self._stacked

    def values(self) -> list[float]:
        """Value of every column in the last solution."""
        return [v.solution_value() for _, _, v in self.columns]


def profits_of(pack: Packing, tier: int, classes: Ints, tiers: Ints) -> Ints:
    """Profit of one pod of each class for the given multipliers, scaled."""
    per = np.where(pack.tier <= tier, SCALE, 0)
    for t, multiplier in enumerate(tiers.tolist()):
        per = per + np.where(pack.tier <= t, multiplier, 0)
    out: Ints = np.where(pack.tier <= tier, per * pack.weight - classes, 0)
    return out


def lagrangian(pack: Packing, frozen: list[int], classes: Ints, tiers: Ints, priced: Priced) -> int:
    """Most pods (by weight) that the multipliers leave possible, rounded down."""
    total = int((classes * pack.available).sum())
    total -= sum(int(m) * v for m, v in zip(tiers.tolist(), frozen, strict=True))
    total += sum(b * len(g.members) for b, g in zip(priced.bounds, pack.groups, strict=True))
    return total // SCALE


@dataclass
class Certificate:
    """What column generation gave for one tier; ``nodes`` is how hard the bound was to price."""

    tier: int
    bound: int | None
    multipliers: tuple[Ints, Ints] | None
    master: Master
    nodes: int = 0


def generate(
    pack: Packing,
    tier: int,
    frozen: list[int],
    start: list[tuple[int, Ints]],
    clock: Clock,
    *,
    quick: bool = False,
    until: float = 0.0,
) -> Certificate:
    """Column generation for one tier.

    Parameters
    ----------
    frozen
        Values of the tiers before it.
    start
        Columns (group, filling) to begin with.
    quick
        Stop when quick pricing finds no more columns.
    until
        Stop when the clock has less than this left.
    """
    master = Master(pack, tier, frozen)
    everything = int((pack.available * master.worth).sum())
    for group, filling in start:
        master.add(group, filling)
    best = Certificate(tier, None, None, master)
    nodes = DIVE_NODES
    centre: tuple[Ints, Ints] | None = None
    misses = 0
    while clock.remaining() > until and not clock.cancelled:
        value = master.solve()
        if value is None:
            break
        if value >= everything - 1e-6:
            break  # nothing left to prove: no bound is below all pods
        duals = master.multipliers()
        at = duals if centre is None or misses % 2 else _between(centre, duals)
        profits = profits_of(pack, tier, *at)
        try:
            priced = price(
                pack,
                profits,
                master.known_values(profits),
                nodes=nodes,
                check=in_time(clock, until),
            )
        except OutOfTime:
            break
        bound = lagrangian(pack, frozen, *at, priced)
        clock.spend(2e-3 * len(pack.groups) + NODE_SECONDS * jit.slowdown("pods") * priced.visited)
        if best.bound is None or bound < best.bound:
            best.bound, best.multipliers, centre, best.nodes = bound, at, at, nodes
        added = 0
        for g, fillings in enumerate(priced.fillings):
            for filling in fillings:
                added += master.add(g, filling)
        if best.bound <= int(value + 1e-6):
            break
        if added:
            misses = 0
        elif quick:
            break
        elif 2 * nodes <= (harder := _affordable(pack, clock.remaining() - until)):
            # Nothing more by quick pricing: look, and prove, harder.
            nodes = min(harder, 12 * nodes)
        else:
            misses += 1
            if misses > 2:
                break
    return best


def _affordable(pack: Packing, seconds: float) -> int:
    """Branch-and-bound nodes per group that one pricing of all groups may take."""
    each = NODE_SECONDS * jit.slowdown("pods") * max(1, len(pack.groups))
    least = max(LEAST_NODES, PRICING_NODES // max(1, len(pack.groups)))
    if jit.slowdown("pods") > 1.0:
        least = DIVE_NODES
    return int(min(HARDEST_NODES, max(least, 0.25 * min(seconds, 1e9) / each)))


def _between(centre: tuple[Ints, Ints], duals: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    """Smoothed multipliers: a step from the best ones towards the master's."""
    return ((centre[0] + duals[0]) // 2, (centre[1] + duals[1]) // 2)
