"""The disruption stage: with the placed counts fixed, least evictions and moves.

Columns are fillings of single nodes; a pod of a class that runs on the node stays. Per class, with
R running, Q pending, F placed and S staying pods, E evicted for good and M moved:

    E + M >= R - S        every leaving pod is one or the other
    M >= F - S - Q        places beyond the pending pods are taken by moved ones
    E >= R - F            as many are evicted as there are fewer places
    F <= R + Q, per tier the weight of F at least its fixed value

Lower bounds are Lagrangian for any multipliers, hence valid when interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cpsched.core import engine, jit
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.errors import OutOfTime
from cpsched.families.pods import kernels
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.dive import running_counts
from cpsched.families.pods.patterns import DIVE_NODES, LEAST_NODES, SCALE, Packing, in_time

#: Multipliers of a Lagrangian bound, scaled integers: rows E+M, M, E, F per class; one per tier.
Multipliers = tuple[Ints, Ints, Ints, Ints, Ints]


class Stage:
    """The constants of the stage."""

    def __init__(self, pack: Packing, values: list[int]) -> None:
        problem = pack.instance.problem
        self.pack, self.values = pack, values
        self.here = running_counts(pack)
        self.running = sum(self.here.values(), np.zeros(len(pack.classes), dtype=np.int64))
        self.pending = pack.available - self.running
        self.eviction, self.move = problem.eviction_weight, problem.move_weight
        self.below = (
            np.array([pack.tier <= t for t in range(len(values))], dtype=bool)
            * pack.weight[None, :]
        )
        # A class that runs on a node is two items there: pods that stay, and further ones.
        self.items: list[tuple[Ints, Ints, Ints, Ints]] = []
        for group in pack.groups:
            n = group.members[0]
            usable = np.flatnonzero(group.limit)
            staying = usable[self.here[n][usable] > 0]
            index = np.concatenate([staying, usable])
            limit = np.concatenate(
                [self.here[n][staying], group.limit[usable] - self.here[n][usable]]
            )
            bonus = np.concatenate(
                [np.ones(len(staying), dtype=np.int64), np.zeros(len(usable), dtype=np.int64)]
            )
            size = np.ascontiguousarray(pack.size[index])
            self.items.append((index, np.maximum(limit, 0), bonus, size))

    def rounded(self, scaled: int) -> int:
        """A scaled bound, rounded up to a disruption that is possible.

        When every pod is placed none is evicted for good: the disruption is a number of moves.
        """
        pack = self.pack
        everything = self.values[-1] == int((pack.available * pack.weight).sum())
        step = self.move if everything and self.move and bool(pack.weight.all()) else 1
        return -(-scaled // (SCALE * step)) * step

    def clamp(self, m: Multipliers) -> Multipliers:
        """Multipliers for which the bound is finite: a+c <= eviction, a+b <= move weight."""
        a, b, c, d, t = (np.maximum(x, 0) for x in m)
        a = np.minimum(a, SCALE * min(self.eviction, self.move))
        return (
            a,
            np.minimum(b, SCALE * self.move - a),
            np.minimum(c, SCALE * self.eviction - a),
            d,
            t,
        )

    def profits(self, m: Multipliers) -> tuple[Ints, Ints]:
        """Profit of a placed pod of each class, and the bonus when it stays."""
        a, b, c, d, t = m
        base: Ints = c - b - d + (t[:, None] * self.below).sum(axis=0)
        return base, a + b

    def price(self, g: int, base: Ints, stay: Ints, least: int, left: Ints) -> list[Ints]:
        """Good fillings of a node from what is left of each class, worth more than ``least``."""
        index, limit, bonus, size = self.items[g]
        found = np.zeros((2, len(index)), dtype=np.int64)
        profit = base[index] + bonus * stay[index]
        _, _, filled, _ = kernels.knapsack(
            profit,
            size,
            np.minimum(limit, left[index]),
            self.pack.groups[g].room,
            DIVE_NODES,
            least,
            found,
        )
        out = []
        for row in range(filled):
            filling = np.zeros(len(left), dtype=np.int64)
            np.add.at(filling, index, found[row])
            out.append(filling)
        return [f for f in out if bool((f <= left).all())]

    def bound(
        self,
        m: Multipliers,
        least: Callable[[Ints, Ints], list[int]] | None = None,
        rows: int = 4,
        check: Callable[[], object] = lambda: None,
    ) -> tuple[int, list[Ints]]:
        """A lower bound on the disruption (scaled), and good fillings per node.

        ``m`` must be clamped. ``least`` gives per node the value of a known filling, from the
        profit of a pod of each class and the bonus when it stays. ``check`` is called before every
        node and may raise to stop.
        """
        a, b, c, d, t = m
        total = int(((a + c) * self.running).sum() - (b * self.pending).sum())
        total -= int((d * self.pack.available).sum())
        total += sum(int(x) * v for x, v in zip(t.tolist(), self.values, strict=True))
        base, stay = self.profits(m)
        fillings = []
        nodes = DIVE_NODES // 10 if jit.slowdown("pods") > 1.0 else LEAST_NODES
        known = [0] * len(self.items) if least is None else least(base, stay)
        for g, ((index, limit, bonus, size), group) in enumerate(
            zip(self.items, self.pack.groups, strict=True)
        ):
            check()
            found = np.zeros((rows, len(index)), dtype=np.int64)
            profit = base[index] + bonus * stay[index]
            _, best, filled, _ = kernels.knapsack(
                profit, size, limit, group.room, nodes, known[g], found
            )
            total -= int(best)
            per_class = np.zeros((filled, len(self.running)), dtype=np.int64)
            for row in range(filled):
                np.add.at(per_class[row], index, found[row])
            fillings.append(per_class)
        return total, fillings


class DisruptionMaster:
    """The restricted master: one filling per node."""

    def __init__(self, stage: Stage) -> None:
        from ortools.linear_solver import pywraplp

        self.stage = stage
        pack = stage.pack
        self.solver = pywraplp.Solver.CreateSolver("GLOP")
        infinity = self.solver.infinity()
        classes = range(len(pack.classes))
        self.leaving = [self.solver.Constraint(float(stage.running[k]), infinity) for k in classes]
        self.moving = [self.solver.Constraint(-float(stage.pending[k]), infinity) for k in classes]
        self.evicting = [self.solver.Constraint(float(stage.running[k]), infinity) for k in classes]
        self.available = [
            self.solver.Constraint(-infinity, float(pack.available[k])) for k in classes
        ]
        self.tiers = [self.solver.Constraint(float(v), infinity) for v in stage.values]
        self.nodes = [self.solver.Constraint(-infinity, 1.0) for _ in pack.groups]
        objective = self.solver.Objective()
        objective.SetMinimization()
        for k in classes:
            evicted = self.solver.NumVar(0.0, infinity, "")
            moved = self.solver.NumVar(0.0, infinity, "")
            objective.SetCoefficient(evicted, float(stage.eviction))
            objective.SetCoefficient(moved, float(stage.move))
            self.leaving[k].SetCoefficient(evicted, 1.0)
            self.leaving[k].SetCoefficient(moved, 1.0)
            self.moving[k].SetCoefficient(moved, 1.0)
            self.evicting[k].SetCoefficient(evicted, 1.0)
        self.objective = objective
        for row in self.tiers:
            short = self.solver.NumVar(0.0, infinity, "")
            row.SetCoefficient(short, 1.0)
            objective.SetCoefficient(short, 1000.0)
        self.columns: list[tuple[int, Ints, Any]] = []
        self._seen: set[tuple[int, bytes]] = set()
        self._placed = np.zeros((0, len(pack.classes)), dtype=np.int64)
        self._stays = np.zeros((0, len(pack.classes)), dtype=np.int64)

    def add(self, node: int, filling: Ints) -> bool:
        """Add a filling of a node; False when it is known."""
        key = (node, filling.tobytes())
        if key in self._seen:
            return False
        self._seen.add(key)
        stage = self.stage
        here = stage.here[stage.pack.groups[node].members[0]]
        x = self.solver.NumVar(0.0, self.solver.infinity(), "")
        self.nodes[node].SetCoefficient(x, 1.0)
        for k in np.flatnonzero(filling).tolist():
            placed, stays = float(filling[k]), float(min(filling[k], here[k]))
            if stays:
                self.leaving[k].SetCoefficient(x, stays)
            if stays != placed:
                self.moving[k].SetCoefficient(x, stays - placed)
            self.evicting[k].SetCoefficient(x, placed)
            self.available[k].SetCoefficient(x, placed)
        for row, below in zip(self.tiers, stage.below, strict=True):
            part = float((filling * below).sum())
            if part:
                row.SetCoefficient(x, part)
        self.columns.append((node, filling, x))
        return True

    def known_values(self, base: Ints, stay: Ints) -> list[int]:
        """Per node the best value of a known filling for the profits and bonuses."""
        missing = len(self.columns) - len(self._placed)
        if missing:
            fresh = self.columns[-missing:]
            here = [self.stage.here[self.stage.pack.groups[n].members[0]] for n, _, _ in fresh]
            placed = np.array([f for _, f, _ in fresh], dtype=np.int64)
            self._placed = np.concatenate([self._placed, placed])
            self._stays = np.concatenate([self._stays, np.minimum(placed, np.array(here))])
        worth = self._placed @ base + self._stays @ stay
        out = [0] * len(self.stage.pack.groups)
        for (node, _, _), value in zip(self.columns, worth.tolist(), strict=True):
            out[node] = max(out[node], value)
        return out

    def solve(self) -> float | None:
        """Value of the restricted master, None when the LP solver failed."""
        if self.solver.Solve() != self.solver.OPTIMAL:
            return None
        return float(self.objective.Value())

    def leave(
        self,
        left: Ints,
        leaving: Ints,
        moving: Ints,
        evicting: Ints,
        need: list[int],
        open_nodes: set[int],
    ) -> None:
        """Leave the master with the rows of what is not fixed yet."""
        for k in range(len(left)):
            self.available[k].SetUb(float(left[k]))
            self.leaving[k].SetLb(float(leaving[k]))
            self.moving[k].SetLb(float(moving[k]))
            self.evicting[k].SetLb(float(evicting[k]))
        for row, value in zip(self.tiers, need, strict=True):
            row.SetLb(float(max(0, value)))
        for node, filling, x in self.columns:
            usable = node in open_nodes and bool((filling <= left).all())
            x.SetUb(1.0 if usable else 0.0)

    def multipliers(self) -> Multipliers:
        """Duals of the rows as scaled integers, clamped."""

        def scaled(rows: list[Any], sign: int) -> Ints:
            return np.array([round(sign * SCALE * r.dual_value()) for r in rows], dtype=np.int64)

        return self.stage.clamp(
            (
                scaled(self.leaving, 1),
                scaled(self.moving, 1),
                scaled(self.evicting, 1),
                scaled(self.available, -1),
                scaled(self.tiers, 1),
            )
        )


def generate(
    stage: Stage,
    start: list[tuple[int, Ints]],
    clock: Clock,
    *,
    reached: int,
    until: float = 0.0,
) -> tuple[int, Multipliers | None, DisruptionMaster]:
    """Column generation: the best bound (rounded up), its multipliers, and the master.

    Stops when the bound meets ``reached``, the disruption of a known plan.
    """
    master = DisruptionMaster(stage)
    for node, filling in start:
        master.add(node, filling)
    for node, group in enumerate(stage.pack.groups):
        master.add(node, np.minimum(stage.here[group.members[0]], group.limit))
    best, at_best = 0, None
    centre: Multipliers | None = None
    centre_value = 0
    misses = 0
    while clock.remaining() > until and not clock.cancelled:
        value = master.solve()
        if value is None:
            break
        duals = master.multipliers()
        at = duals
        if centre is not None and misses % 2 == 0:
            mixed = tuple((3 * x + 7 * y) // 10 for x, y in zip(centre, duals, strict=True))
            at = stage.clamp(mixed)  # type: ignore[arg-type]
        try:
            scaled, fillings = stage.bound(at, master.known_values, check=in_time(clock, until))
        except OutOfTime:
            break
        clock.spend(1e-3 * len(stage.pack.groups))
        bound = stage.rounded(scaled)
        if centre is None or scaled > centre_value:
            centre, centre_value = at, scaled
        if bound > best:
            best, at_best = bound, at
        added = 0
        for node, rows in enumerate(fillings):
            for filling in rows:
                added += master.add(node, filling)
        if best >= reached or best >= value - 1e-6:
            break
        if added:
            misses = 0
        else:
            misses += 1
            if misses > 2:
                break
    return best, at_best, master


def dive(
    stage: Stage, master: DisruptionMaster, clock: Clock, until: float = 0.0
) -> dict[tuple[int, int], int] | None:
    """Fix the strongest fillings node by node, pricing new ones in between.

    The master's rows are changed: it serves one dive. None when out of time or short of counts.
    """
    pack = stage.pack
    left = pack.available.copy()
    leaving, moving = stage.running.copy(), -stage.pending
    evicting = stage.running.copy()
    need = list(stage.values)
    open_nodes = set(range(len(pack.groups)))
    counts: dict[tuple[int, int], int] = {}
    while open_nodes:
        for _ in range(2):
            if clock.remaining() <= until or clock.cancelled or master.solve() is None:
                return None
            base, stay = stage.profits(master.multipliers())
            worth = [max(0, int(SCALE * row.dual_value() * -1) + 1) for row in master.nodes]
            added = 0
            for g in open_nodes:
                if clock.remaining() <= until:
                    return None
                for filling in stage.price(g, base, stay, worth[g], left):
                    added += master.add(g, filling)
            clock.spend(1e-3 * len(open_nodes))
            if not added:
                break
        if master.solve() is None:
            return None
        values = [x.solution_value() for _, _, x in master.columns]
        fixed = 0
        for k in sorted(range(len(values)), key=lambda k: -values[k]):
            g, filling, _ = master.columns[k]
            if values[k] < 1e-6 or (fixed >= max(1, len(open_nodes) // 8) and values[k] < 0.999):
                break
            if g not in open_nodes or not bool((filling <= left).all()):
                continue
            if fixed and values[k] < 0.3:
                break
            n = pack.groups[g].members[0]
            kept = np.minimum(filling, stage.here[n])
            left -= filling
            leaving -= kept
            moving += filling - kept
            evicting -= filling
            for t, below in enumerate(stage.below):
                need[t] -= int((filling * below).sum())
            open_nodes.discard(g)
            fixed += 1
            for c in np.flatnonzero(filling).tolist():
                counts[int(pack.classes[c]), n] = int(filling[c])
        if not fixed:
            break
        master.leave(left, leaving, moving, evicting, need, open_nodes)
    return counts if max(need, default=0) <= 0 else None


def choose(
    stage: Stage, columns: list[tuple[int, Ints]], run: Run, seconds: float, below: int
) -> dict[tuple[int, int], int] | None:
    """The selection of known fillings with least disruption, below a known one, by CP-SAT."""
    from ortools.sat.python import cp_model

    pack = stage.pack
    model = cp_model.CpModel()
    picks = [model.new_bool_var("") for _ in columns]
    per_node: dict[int, list[int]] = {}
    for k, (node, _) in enumerate(columns):
        per_node.setdefault(node, []).append(k)
    for members in per_node.values():
        model.add_at_most_one([picks[k] for k in members])
    total = cp_model.LinearExpr.weighted_sum
    costs, weights = [], []
    placed = []
    for c in range(len(pack.classes)):
        hold = [(k, int(f[c])) for k, (_, f) in enumerate(columns) if f[c]]
        stay = []
        for k, amount in hold:
            kept = min(amount, int(stage.here[pack.groups[columns[k][0]].members[0]][c]))
            if kept:
                stay.append((k, kept))
        f = total([picks[k] for k, _ in hold], [a for _, a in hold])
        s = total([picks[k] for k, _ in stay], [a for _, a in stay])
        running, pending = int(stage.running[c]), int(stage.pending[c])
        model.add(f <= running + pending)
        placed.append(f)
        if running:
            evicted = model.new_int_var(0, running, "")
            moved = model.new_int_var(0, running, "")
            model.add(evicted + moved + s >= running)
            model.add(moved - f + s >= -pending)
            model.add(evicted + f >= running)
            costs += [evicted, moved]
            weights += [stage.eviction, stage.move]
    for row, value in zip(stage.below, stage.values, strict=True):
        model.add(sum(int(w) * f for w, f in zip(row, placed, strict=True) if w) >= value)
    if costs:
        cost = total(costs, weights)
        model.add(cost <= below - 1)
        model.minimize(cost)
    outcome = engine.solve(model, run.clock, workers=run.workers, seed=run.seed, seconds=seconds)
    if outcome.values is None:
        return None
    counts: dict[tuple[int, int], int] = {}
    for x, (node, filling) in zip(picks, columns, strict=True):
        if outcome.values[x.index]:
            n = pack.groups[node].members[0]
            for k in np.flatnonzero(filling).tolist():
                counts[int(pack.classes[k]), n] = int(filling[k])
    return counts
