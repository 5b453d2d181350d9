"""VM rescheduling by class flow: cells with the same content are one class, VMs of a type one flow.

A cell (NUMA node) of an active host may end with any numbers of the small VMs that fit in it; an
option is the change of those numbers. With integer variables "k cells of this class take this
option", flow balance per VM type and the migration limit, the least total fragment is an integer
program. VMs whose cores are a multiple of X never change a cell's remainder; in the relaxation they
may leave a cell at the price of their migration and need no other place, so its optimum bounds
every plan.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpsched.core import engine
from cpsched.core.clock import Clock
from cpsched.errors import OutOfTime
from cpsched.families.pods.prepare import Instance, Ints

#: Migrations are counted in halves: a VM on two cells charges each of them one half.
HALVES = 2


@dataclass(frozen=True)
class CellClass:
    """Cells with equal room for small VMs and equal small VMs that may leave."""

    cells: tuple[tuple[int, int], ...]
    room: int
    memory: int
    counts: tuple[int, ...]
    #: What leaves with each further large VM: (cores, memory, price in halves).
    large: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Option:
    """A change of the small VMs of one cell: ``delta`` per type, resulting fragment, price."""

    group: int
    delta: tuple[int, ...]
    fragment: int
    price: int
    large: int


@dataclass
class Flow:
    """The class-flow model of an instance.

    ``types`` are the (cores, memory) of small VMs, in the units of the instance; ``exact`` tells
    whether the relaxation covers every VM that may move.
    """

    instance: Instance
    size: int
    types: list[tuple[int, int]]
    classes: list[CellClass]
    options: list[Option]
    limit: int
    exact: bool
    constant: int
    free: int


def build(instance: Instance, clock: Clock) -> Flow:
    """Group the cells and list every option of every class."""
    problem = instance.problem
    size = 1000 * problem.fragment_cores
    names = instance.cell_resources
    cpu = names.index("cpu")
    memory = names.index("memory") if "memory" in names else -1
    active = np.array([not n.unschedulable for n in problem.nodes], dtype=bool)

    def amounts(c: int) -> tuple[int, int]:
        need = instance.cell_requests[c]
        return int(need[cpu]), int(need[memory]) if memory >= 0 else 0

    small: dict[tuple[int, int], int] = {}
    exact = True
    shapes = {
        tuple(row[:, cpu].tolist())
        for row, on in zip(instance.cell_capacity, active, strict=True)
        if on
    }
    content: dict[tuple[int, int], list[int]] = defaultdict(list)
    for p, n in enumerate(instance.at.tolist()):
        c = int(instance.class_of[p])
        group = instance.classes[c]
        if n < 0 or not instance.cell_count[c]:
            exact = exact and n >= 0
            continue
        for cell in instance.cells_at[p]:
            content[n, cell].append(c)
        if group.fixed:
            continue
        cores, mem = amounts(c)
        if not active[n]:
            exact = False
        elif instance.cell_count[c] == 1 and cores % size:
            small.setdefault((cores, mem), len(small))
        elif cores % size and not (
            len(shapes) == 1
            and instance.cell_count[c] == len(next(iter(shapes)))
            and set(next(iter(shapes))) == {cores}
        ):
            # A VM that fills its host only changes places with an empty host; others may matter.
            exact = False
    types = sorted(small)
    index = {t: k for k, t in enumerate(types)}
    groups: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    free_total = 0
    for n in np.flatnonzero(active).tolist():
        for cell in range(instance.cell_capacity.shape[1]):
            if instance.cell_capacity[n, cell, cpu] < 0:
                continue
            room = int(instance.cell_capacity[n, cell, cpu])
            mem = int(instance.cell_capacity[n, cell, memory]) if memory >= 0 else 0
            counts = [0] * len(types)
            large: list[tuple[int, int, int]] = []
            free = room
            for c in content[n, cell]:
                need = amounts(c)
                free -= need[0]
                if not instance.classes[c].fixed and instance.cell_count[c] == 1 and need in index:
                    counts[index[need]] += 1
                    continue
                room -= need[0]
                mem -= need[1]
                if not instance.classes[c].fixed and need[0] % size == 0:
                    price = HALVES if instance.cell_count[c] == 1 else HALVES // 2
                    large.append((*need, price))
            free_total += max(0, free)
            large.sort(key=lambda x: (x[2], -x[0], -x[1]))
            groups[room, mem, tuple(counts), tuple(large)].append((n, cell))
    classes = [
        CellClass(tuple(cells), room, mem, counts, large)
        for (room, mem, counts, large), cells in groups.items()
    ]
    options = []
    for k, group_ in enumerate(classes):
        clock.check()
        options += _options(k, group_, types, size)
    still = [o for o in options if not any(o.delta) and not o.large]
    constant = sum(o.fragment * len(classes[o.group].cells) for o in still)
    limit = problem.migration_limit
    most = len(problem.pods) if limit is None else min(limit, len(problem.pods))
    return Flow(instance, size, types, classes, options, most, exact, constant, free_total)


def _options(k: int, group: CellClass, types: list[tuple[int, int]], size: int) -> list[Option]:
    """Every end content of a cell; with large VMs leaving only where the room needs it."""
    out: list[Option] = []
    room, memory, price = group.room, group.memory, 0
    before = -1
    for large in range(min(len(group.large), 2) + 1):
        if large:
            # The cheapest and largest leave first: no other choice gives more room for the price.
            room += max(x[0] for x in group.large)
            memory += max(x[1] for x in group.large)
            price += min(x[2] for x in group.large)
        _fill(k, group, types, size, room, memory, price, large, before, out)
        before = room
    return out


def _fill(
    k: int,
    group: CellClass,
    types: list[tuple[int, int]],
    size: int,
    room: int,
    memory: int,
    price: int,
    large: int,
    before: int,
    out: list[Option],
) -> None:
    counts = [0] * len(types)

    def extend(t: int, left: int, mem: int) -> None:
        if t == len(types):
            used = room - left
            delta = tuple(c - b for c, b in zip(counts, group.counts, strict=True))
            # Contents that fit without the further large VM leaving are options already.
            if used > before or not large:
                leaving = sum(-d for d in delta if d < 0)
                out.append(Option(k, delta, left % size, price + HALVES * leaving, large))
            return
        cores, each = types[t]
        most = left // cores
        if each:
            most = min(most, mem // each)
        for count in range(most + 1):
            counts[t] = count
            extend(t + 1, left - count * cores, mem - count * each)
        counts[t] = 0

    extend(0, room, memory)


@dataclass(frozen=True)
class Solved:
    """Solution of the flow program: copies per option, its value, a proven bound on the value."""

    copies: dict[int, int]
    value: int | None
    bound: int


def solve(
    flow: Flow,
    clock: Clock,
    *,
    workers: int,
    seed: int,
    goal: str = "fragment",
    fragment: int | None = None,
    plain: bool = False,
    hint: int | None = None,
) -> Solved:
    """Solve the flow program: linear relaxation, reduced-cost fixing, CP-SAT on what is left.

    Parameters
    ----------
    goal
        "fragment": least total fragment; "moves": least price (in halves) with at most
        ``fragment``.
    plain
        Only small VMs may move: solutions can be laid out, bounds hold for that move set only.
    hint
        Value of a known solution, which limits the options that need be looked at.
    """
    from ortools.linear_solver import pywraplp

    options = [o for o in flow.options if (any(o.delta) or o.large) and not (plain and o.large)]
    base = {o.group: o.fragment for o in flow.options if not any(o.delta) and not o.large}
    gain = np.array([o.fragment - base[o.group] for o in options], dtype=np.int64)
    price = np.array([o.price for o in options], dtype=np.int64)
    delta = np.array([o.delta for o in options], dtype=np.int64).reshape(len(options), -1)
    group = np.array([o.group for o in options], dtype=np.int64)
    members = np.array([len(c.cells) for c in flow.classes], dtype=np.int64)
    cost = gain if goal == "fragment" else price
    offset = flow.constant if goal == "fragment" else 0
    target = None if fragment is None else fragment - flow.constant
    duals = _linear(pywraplp, flow, cost, gain, price, delta, group, members, target)
    clock.check()
    bound, reduced = _lagrangian(flow, cost, gain, price, delta, group, members, target, duals)
    step = _granularity(flow, goal)
    lower = _round_up(bound + offset, step)
    # Try small gaps first: options whose reduced cost exceeds the gap cannot improve on it.
    for slack in (2 * step, 6 * step, 20 * step, None):
        keep = (
            np.arange(len(options))
            if slack is None
            else np.flatnonzero(reduced <= float(lower - offset - bound) + slack)
        )
        ceiling = None if slack is None else lower + slack
        found = _integer(
            flow, clock, workers, seed, keep, cost, gain, price, delta, group, members, target,
            None if ceiling is None else ceiling - offset,
        )  # fmt: skip
        if found is None:
            raise OutOfTime("the flow program was not solved")
        copies, value, proved = found
        if value is not None:
            return Solved(copies, value + offset, max(lower, _round_up(proved + offset, step)))
        if ceiling is not None:
            lower = max(lower, ceiling + step)
        else:
            return Solved({}, None, lower)
    raise AssertionError("the last slack is unlimited")


def _granularity(flow: Flow, goal: str) -> int:
    if goal != "fragment":
        return HALVES
    sizes = [t[0] for t in flow.types] + [c.room for c in flow.classes] + [flow.size]
    return int(np.gcd.reduce(np.array(sizes, dtype=np.int64)))


def _round_up(value: float, step: int) -> int:
    return int(-((-(value - 1e-6 * step)) // step)) * step


def _linear(
    pywraplp: Any,
    flow: Flow,
    cost: Ints,
    gain: Ints,
    price: Ints,
    delta: Ints,
    group: Ints,
    members: Ints,
    target: int | None,
) -> tuple[Any, Any, float, float]:
    """Duals of the linear relaxation: flow, classes (unused), migrations, fragment."""
    solver = pywraplp.Solver.CreateSolver("GLOP")
    infinity = solver.infinity()
    balance = [solver.Constraint(0.0, 0.0) for _ in flow.types]
    rows = [solver.Constraint(-infinity, float(m)) for m in members]
    limit = solver.Constraint(-infinity, float(HALVES * flow.limit))
    goal = None if target is None else solver.Constraint(-infinity, float(target))
    objective = solver.Objective()
    objective.SetMinimization()
    for k in range(len(cost)):
        x = solver.NumVar(0.0, infinity, "")
        objective.SetCoefficient(x, float(cost[k]))
        rows[group[k]].SetCoefficient(x, 1.0)
        for t, d in enumerate(delta[k].tolist()):
            if d:
                balance[t].SetCoefficient(x, float(d))
        if price[k]:
            limit.SetCoefficient(x, float(price[k]))
        if goal is not None and gain[k]:
            goal.SetCoefficient(x, float(gain[k]))
    if solver.Solve() != solver.OPTIMAL:
        return np.zeros(len(flow.types)), None, 0.0, 0.0
    return (
        np.array([row.dual_value() for row in balance]),
        None,
        min(0.0, limit.dual_value()),
        0.0 if goal is None else min(0.0, goal.dual_value()),
    )


def _lagrangian(
    flow: Flow,
    cost: Ints,
    gain: Ints,
    price: Ints,
    delta: Ints,
    group: Ints,
    members: Ints,
    target: int | None,
    duals: tuple[Any, Any, float, float],
) -> tuple[float, Any]:
    """The bound for the multipliers, and every option's distance from its class's best one."""
    balance, _, migrations, fragments = duals
    worth = cost - delta @ balance - price * migrations - gain * fragments
    best = np.zeros(len(members))
    np.minimum.at(best, group, worth)
    total = float(best @ members) + HALVES * flow.limit * migrations
    if target is not None:
        total += target * fragments
    return total, worth - best[group]


def _integer(
    flow: Flow,
    clock: Clock,
    workers: int,
    seed: int,
    keep: Ints,
    cost: Ints,
    gain: Ints,
    price: Ints,
    delta: Ints,
    group: Ints,
    members: Ints,
    target: int | None,
    ceiling: int | None,
) -> tuple[dict[int, int], int | None, float] | None:
    """CP-SAT on the kept options; copies by index into the non-trivial options."""
    from ortools.sat.python import cp_model

    total = cp_model.LinearExpr.weighted_sum
    model = cp_model.CpModel()
    x = [model.new_int_var(0, int(members[group[k]]), "") for k in keep.tolist()]
    per_group: dict[int, list[Any]] = defaultdict(list)
    for v, k in zip(x, keep.tolist(), strict=True):
        per_group[int(group[k])].append(v)
    for g, listed in per_group.items():
        model.add(cp_model.LinearExpr.sum(listed) <= int(members[g]))
    for t in range(len(flow.types)):
        model.add(total(x, delta[keep, t].tolist()) == 0)
    model.add(total(x, price[keep].tolist()) <= HALVES * flow.limit)
    if target is not None:
        model.add(total(x, gain[keep].tolist()) <= target)
    expression = total(x, cost[keep].tolist())
    if ceiling is not None:
        model.add(expression <= ceiling)
    model.minimize(expression)
    # A solution without any option exists unless a row forbids it.
    outcome = engine.solve(model, clock, workers=workers, seed=seed)
    if outcome.status == "INFEASIBLE":
        return {}, None, 0.0
    if outcome.values is None or outcome.objective is None:
        return None
    copies = {
        int(k): outcome.values[v.index]
        for v, k in zip(x, keep.tolist(), strict=True)
        if outcome.values[v.index]
    }
    bound = outcome.objective if outcome.status == "OPTIMAL" else (outcome.bound or -np.inf)
    return copies, round(outcome.objective), float(bound)
