"""VM rescheduling by class flow: cells with the same content are one class, VMs of a type one flow.

A cell (NUMA node) of an active host may end with any numbers of the small VMs that fit in it; an
option is the change of those numbers. With integer variables "k cells of this class take this
option", flow balance per VM type and the migration limit, the least total fragment is an integer
program. VMs whose cores are a multiple of X never change a cell's remainder; in the relaxation they
may leave a cell at the price of their migration and need no other place; the halves of a small VM
on two cells may go separate ways at half the price each. So its optimum bounds every plan.
The linear relaxation is solved by column generation over all options, and options
whose reduced cost exceeds the gap are left out of the integer program.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpsched.core import engine
from cpsched.core.clock import Clock
from cpsched.errors import OutOfTime
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.prepare import Instance

#: Migrations are counted in halves: a VM on two cells charges each of them one half.
HALVES = 2


@dataclass(frozen=True)
class CellClass:
    """Cells with equal room for small VMs, equal small VMs that may leave, equal large ones.

    ``counts`` are all small VMs per type, ``halves`` those of them that are on two cells;
    ``large`` lists (cores, memory, price in halves) of the large VMs that may leave.
    """

    cells: tuple[tuple[int, int], ...]
    room: int
    memory: int
    counts: tuple[int, ...]
    halves: tuple[int, ...]
    large: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Options:
    """Every change of every class, row by row: class, change per type, fragment gained, price.

    ``plain`` is the price when only small VMs on one cell move, -1 where that is not enough.
    """

    group: Ints
    delta: Ints
    gain: Ints
    price: Ints
    plain: Ints


@dataclass(frozen=True)
class Flow:
    """The class-flow model of an instance.

    ``types`` are (cores, memory) of small VMs; ``exact`` tells whether the relaxation covers
    every VM that may move; ``constant`` is the fragment now, ``free`` the free cores.
    """

    instance: Instance
    types: list[tuple[int, int]]
    classes: list[CellClass]
    options: Options
    limit: int
    exact: bool
    constant: int
    free: int


class _Amounts:
    """Cores and memory that a class of VMs takes in each of its cells."""

    def __init__(self, instance: Instance) -> None:
        names = instance.cell_resources
        self.cpu = names.index("cpu")
        self.memory = names.index("memory") if "memory" in names else -1
        self.instance = instance

    def of(self, row: Ints) -> tuple[int, int]:
        return int(row[self.cpu]), int(row[self.memory]) if self.memory >= 0 else 0

    def need(self, c: int) -> tuple[int, int]:
        return self.of(self.instance.cell_requests[c])


def build(instance: Instance, clock: Clock) -> Flow:
    """Group the cells and list every option of every class."""
    problem = instance.problem
    size = 1000 * problem.fragment_cores
    amounts = _Amounts(instance)
    types, exact = _small_types(instance, amounts, size)
    classes, constant, free = _cell_classes(instance, amounts, types, size)
    parts = []
    contents: dict[tuple[int, int], tuple[Ints, Ints]] = {}
    for k, group in enumerate(classes):
        clock.check()
        parts.append(_options(k, group, types, size, contents))
    stacked = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    limit = problem.migration_limit
    most = len(problem.pods) if limit is None else min(limit, len(problem.pods))
    options = Options(*stacked) if parts else Options(*[np.zeros(0, dtype=np.int64)] * 5)
    return Flow(instance, types, classes, options, most, exact, constant, free)


def _small_types(
    instance: Instance, amounts: _Amounts, size: int
) -> tuple[list[tuple[int, int]], bool]:
    """Types of the VMs that change remainders, and whether they and the large ones are all."""
    nodes = instance.problem.nodes
    shapes = {
        tuple(row[:, amounts.cpu].tolist())
        for row, node in zip(instance.cell_capacity, nodes, strict=True)
        if not node.unschedulable
    }
    uniform = next(iter(shapes)) if len(shapes) == 1 else ()
    types = set()
    exact = True
    for group in instance.classes:
        if group.fixed:
            continue
        active = [p for p in group.members if not nodes[instance.at[p]].unschedulable]
        exact = exact and len(active) == len(group.members)
        cores, _ = need = amounts.need(group.index)
        count = int(instance.cell_count[group.index])
        # A VM that fills its host only changes places with an empty host.
        if not cores % size or (count == len(uniform) and set(uniform) == {cores}):
            continue
        exact = exact and count <= 2
        if count <= 2:
            types.add(need)
    return sorted(types), exact


def _cell_classes(
    instance: Instance, amounts: _Amounts, types: list[tuple[int, int]], size: int
) -> tuple[list[CellClass], int, int]:
    index = {t: k for k, t in enumerate(types)}
    content: dict[tuple[int, int], list[int]] = defaultdict(list)
    for p, n in enumerate(instance.at.tolist()):
        for cell in instance.cells_at[p]:
            content[n, cell].append(int(instance.class_of[p]))
    groups: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    fragments = total = 0
    for n, node in enumerate(instance.problem.nodes):
        if node.unschedulable:
            continue
        for cell in range(len(node.cells)):
            room, memory = amounts.of(instance.cell_capacity[n, cell])
            counts, halves = [0] * len(types), [0] * len(types)
            large: list[tuple[int, int, int]] = []
            free = room
            for c in content[n, cell]:
                need = amounts.need(c)
                free -= need[0]
                group = instance.classes[c]
                single = instance.cell_count[c] == 1
                if not group.fixed and instance.cell_count[c] <= 2 and need in index:
                    counts[index[need]] += 1
                    halves[index[need]] += not single
                    continue
                room -= need[0]
                memory -= need[1]
                if not group.fixed and need[0] % size == 0:
                    large.append((*need, HALVES if single else HALVES // 2))
            total += max(0, free)
            fragments += max(0, free) % size
            groups[room, memory, tuple(counts), tuple(halves), tuple(sorted(large))].append(
                (n, cell)
            )
    classes = [CellClass(tuple(cells), *content_) for content_, cells in groups.items()]
    return classes, fragments, total


def _options(
    k: int,
    group: CellClass,
    types: list[tuple[int, int]],
    size: int,
    contents: dict[tuple[int, int], tuple[Ints, Ints]],
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Every end content of a cell; with large VMs leaving only where the room needs it."""
    room, memory, price = group.room, group.memory, 0
    now = group.room - sum(n * t[0] for n, t in zip(group.counts, types, strict=True))
    before, fragment = -1, max(0, now) % size
    halves = np.array(group.halves, dtype=np.int64)
    singles = np.array(group.counts, dtype=np.int64) - halves
    deltas, gains, prices, plains = [], [], [], []
    for large in range(len(group.large) + 1):
        if large:
            # At least as much room, at most the price, of any choice of so many large VMs.
            room += max(x[0] for x in group.large)
            memory += max(x[1] for x in group.large)
            price += min(x[2] for x in group.large)
        if (room, memory) not in contents:
            contents[room, memory] = _fillings(types, room, memory)
        counts, left = contents[room, memory]
        # Contents that fit without the further large VM leaving are options already.
        chosen = (room - left) > before
        counts, left = counts[chosen], left[chosen]
        delta = counts - np.array(group.counts, dtype=np.int64)
        deltas.append(delta)
        gains.append(left % size - fragment)
        leaving = np.maximum(0, -delta)
        cheap = np.minimum(leaving, halves).sum(axis=1)
        whole = HALVES * leaving.sum(axis=1)
        prices.append(price + whole - cheap)
        plains.append(np.where((leaving <= singles).all(axis=1) & (large == 0), whole, -1))
        before = room
    delta = np.concatenate(deltas)
    rows = len(delta)
    return (
        np.full(rows, k, dtype=np.int64),
        delta,
        np.concatenate(gains),
        np.concatenate(prices),
        np.concatenate(plains),
    )


def _fillings(types: list[tuple[int, int]], room: int, memory: int) -> tuple[Ints, Ints]:
    """All numbers of VMs per type that fit, and the cores left."""
    rows = np.zeros((1, 0), dtype=np.int64)
    left = np.array([room], dtype=np.int64)
    mem = np.array([memory], dtype=np.int64)
    if room < 0:
        return np.zeros((0, len(types)), dtype=np.int64), np.zeros(0, dtype=np.int64)
    for cores, each in types:
        most = left // cores
        if each:
            most = np.minimum(most, np.maximum(mem, 0) // each)
        source = np.repeat(np.arange(len(rows)), most + 1)
        count = np.concatenate([np.arange(m + 1) for m in most])
        rows = np.column_stack([rows[source], count])
        left = left[source] - count * cores
        mem = mem[source] - count * each
    return rows, left


# ---------------------------------------------------------------------- solving


@dataclass(frozen=True)
class Solved:
    """Copies per option (row of the options), the value, and a proven bound on it."""

    copies: dict[int, int]
    value: int | None
    bound: int


@dataclass(frozen=True)
class _Program:
    """One integer program over the options: minimise cost, with at most ``target`` gained."""

    flow: Flow
    rows: Ints
    cost: Ints
    price: Ints
    target: int | None
    members: Ints

    def lagrangian(self, balance: Any, migrations: float, fragments: float) -> tuple[float, Any]:
        """The bound of the multipliers, and every row's distance from its class's best."""
        o = self.flow.options
        worth = self.cost - o.delta[self.rows] @ balance
        worth = worth - self.price * migrations - o.gain[self.rows] * fragments
        best = np.zeros(len(self.members))
        np.minimum.at(best, o.group[self.rows], worth)
        total = float(best @ self.members) + HALVES * self.flow.limit * migrations
        if self.target is not None:
            total += self.target * fragments
        return total, worth - best[o.group[self.rows]]


def solve(
    flow: Flow,
    clock: Clock,
    *,
    workers: int,
    seed: int,
    goal: str = "fragment",
    fragment: int | None = None,
    plain: bool = False,
) -> Solved:
    """Solve the flow program.

    Parameters
    ----------
    goal
        "fragment": least total fragment; "moves": least price (in halves) with at most
        ``fragment``.
    plain
        Only small VMs on one cell may move.

    Raises
    ------
    OutOfTime
        When there is not even a solution.
    """
    o = flow.options
    rows = np.flatnonzero(o.plain >= 0) if plain else np.arange(len(o.group))
    price = (o.plain if plain else o.price)[rows]
    members = np.array([len(c.cells) for c in flow.classes], dtype=np.int64)
    cost = o.gain[rows] if goal == "fragment" else price
    offset = flow.constant if goal == "fragment" else 0
    target = None if fragment is None else fragment - flow.constant
    program = _Program(flow, rows, cost, price, target, members)
    bound, reduced = _relax(program, clock)
    step = _granularity(flow) if goal == "fragment" else HALVES if plain else 1
    lower = _round_up(bound + offset, step)
    # Options whose reduced cost exceeds the gap between a solution and the bound are in no better
    # solution: solve with few of them, and again with more when the solution leaves a larger gap.
    slack = 4 * step
    while True:
        keep = np.flatnonzero(reduced <= float(lower - offset - bound) + slack)
        found = _integer(program, keep, step, clock, workers, seed)
        whole = len(keep) == len(rows)
        if found is None:
            if whole:
                return Solved({}, None, lower)
            slack *= 8
            continue
        copies, value, proved = found
        total = value * step + offset
        if whole or total <= lower + slack:
            reached = _round_up(proved * step + offset, step)
            return Solved(copies, total, max(lower, min(reached, lower + slack)))
        slack = total - lower


def _granularity(flow: Flow) -> int:
    """A number that divides every possible total fragment."""
    sizes = [t[0] for t in flow.types] + [c.room for c in flow.classes]
    for c in flow.classes:
        sizes += [x[0] for x in c.large]
    step = np.gcd.reduce(np.array([*sizes, 1000 * flow.instance.problem.fragment_cores]))
    return max(1, int(step))


def _round_up(value: float, step: int) -> int:
    return int(-((-(value - 1e-6 * step)) // step)) * step


def _relax(program: _Program, clock: Clock) -> tuple[float, Any]:
    """The best Lagrangian bound found by column generation, and reduced costs of all rows."""
    from ortools.linear_solver import pywraplp

    flow = program.flow
    o = flow.options
    solver = pywraplp.Solver.CreateSolver("GLOP")
    infinity = solver.infinity()
    balance = [solver.Constraint(0.0, 0.0) for _ in flow.types]
    rows = [solver.Constraint(-infinity, float(m)) for m in program.members]
    limit = solver.Constraint(-infinity, float(HALVES * flow.limit))
    goal = solver.Constraint(-infinity, infinity if program.target is None else program.target)
    objective = solver.Objective()
    objective.SetMinimization()
    scale = float(max(1, np.abs(program.cost).max(initial=1)))
    for row in balance:
        for sign in (1.0, -1.0):
            # An imbalance at a price keeps the first masters feasible.
            x = solver.NumVar(0.0, infinity, "")
            row.SetCoefficient(x, sign)
            objective.SetCoefficient(x, 4.0 * scale)
    short = solver.NumVar(0.0, infinity, "")
    goal.SetCoefficient(short, -1.0)
    objective.SetCoefficient(short, 4.0)
    known = np.zeros(len(program.rows), dtype=bool)
    best, reduced = -np.inf, np.zeros(len(program.rows))
    fresh = np.flatnonzero(program.price <= HALVES)
    fresh = fresh[np.abs(o.delta[program.rows[fresh]]).sum(axis=1) <= 2]
    for _ in range(200):
        for k in fresh.tolist():
            row = int(program.rows[k])
            x = solver.NumVar(0.0, infinity, "")
            objective.SetCoefficient(x, float(program.cost[k]))
            rows[o.group[row]].SetCoefficient(x, 1.0)
            for t in np.flatnonzero(o.delta[row]).tolist():
                balance[t].SetCoefficient(x, float(o.delta[row, t]))
            limit.SetCoefficient(x, float(program.price[k]))
            goal.SetCoefficient(x, float(o.gain[row]))
        known[fresh] = True
        clock.check()
        if solver.Solve() != solver.OPTIMAL:
            break
        duals = (
            np.array([row.dual_value() for row in balance]),
            min(0.0, limit.dual_value()),
            0.0 if program.target is None else min(0.0, goal.dual_value()),
        )
        value, distance = program.lagrangian(*duals)
        if value > best:
            best, reduced = value, distance
        clock.spend(0.01)
        if best >= float(objective.Value()) - 1e-6 * scale:
            break
        # Of each class the rows nearest to its best.
        candidates = np.flatnonzero(~known & (distance <= 1e-9 + 0.02 * scale))
        order = candidates[np.argsort(distance[candidates], kind="stable")]
        fresh = order[: 4 * len(flow.classes)]
        if not len(fresh):
            fresh = np.flatnonzero(~known)[: 4 * len(flow.classes)]
            if not len(fresh):
                break
    return best, reduced


def _integer(
    program: _Program, keep: Ints, step: int, clock: Clock, workers: int, seed: int
) -> tuple[dict[int, int], int, float] | None:
    """CP-SAT on the kept rows: copies, value and bound in steps; None when infeasible."""
    from ortools.sat.python import cp_model

    flow = program.flow
    o = flow.options
    rows = program.rows[keep]
    useful = (o.delta[rows] != 0).any(axis=1)
    keep, rows = keep[useful], rows[useful]
    total = cp_model.LinearExpr.weighted_sum
    model = cp_model.CpModel()
    x = [model.new_int_var(0, int(program.members[g]), "") for g in o.group[rows].tolist()]
    per_group: dict[int, list[Any]] = defaultdict(list)
    for v, g in zip(x, o.group[rows].tolist(), strict=True):
        per_group[g].append(v)
    for g, listed in per_group.items():
        model.add(cp_model.LinearExpr.sum(listed) <= int(program.members[g]))
    for t in range(len(flow.types)):
        model.add(total(x, o.delta[rows, t].tolist()) == 0)
    model.add(total(x, program.price[keep].tolist()) <= HALVES * flow.limit)
    if program.target is not None:
        unit = _granularity(flow)
        model.add(total(x, (o.gain[rows] // unit).tolist()) <= program.target // unit)
    model.minimize(total(x, (program.cost[keep] // step).tolist()))
    outcome = engine.solve(model, clock, workers=workers, seed=seed)
    if outcome.status == "INFEASIBLE":
        return None
    if outcome.values is None or outcome.objective is None:
        raise OutOfTime("the flow program was not solved")
    copies = {
        int(row): outcome.values[v.index]
        for v, row in zip(x, rows.tolist(), strict=True)
        if outcome.values[v.index]
    }
    return copies, round(outcome.objective), float(outcome.bound or 0.0)
