"""Area bounds: what the machines can process between the heads and tails of a set of tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpsched.core.clock import Clock
from cpsched.families.workflow.greedy import least_durations
from cpsched.families.workflow.heads import critical_path, heads_and_tails
from cpsched.families.workflow.prepare import NEVER, Floats, Instance, Ints

#: One row of an area proof: (machine, resource, head, tail, weight).
AreaRow = tuple[int, int, int, int, float]


def area_value(
    inst: Instance, rows: Sequence[Sequence[Any]], paths: Sequence[Sequence[Any]] = ()
) -> int:
    """Ticks proved by an area argument.

    A row (p, r, a, b, y) says: the tasks with head at least ``a`` and tail at least ``b`` on
    machine ``p`` use its resource ``r`` only between ``a`` and the makespan less ``b``. Perhaps
    none of them runs there, so ``a + b`` must not exceed the critical path. A path (t, z) says:
    the makespan is at least head, duration and tail of ``t`` where it runs. Adding them up with
    the weights y and z, every task on the machine that is best for the sum:

    ``C (sum y cap + sum z) >= sum_t min_p [...] + sum y cap (a + b)``.
    """
    zero = np.broadcast_to(np.int64(0), (inst.n, inst.m))
    heads, tails, longest = zero, zero, 0
    if paths or any(a or b for _, _, a, b, _ in rows):
        heads, tails = heads_and_tails(inst)
        longest = critical_path(inst)
    owner = inst.row_task
    cost = np.zeros((inst.rows, inst.m))
    base = Fraction(0)
    total = Fraction(0)
    free = ~inst.conditional[owner]
    for p, r, a, b, y in rows:
        if y <= 0 or a + b > longest:
            continue
        need = _need(inst, p, r)
        inside = (heads[owner, p] >= a) & (tails[owner, p] >= b) & free
        cost[:, p] += np.where(inside, y * need * np.maximum(0, inst.dur[:, p]), 0.0)
        capacity = int(inst.cap[p, r])
        base += Fraction(y) * capacity * (a + b)
        total += Fraction(y) * capacity
    for t, z in paths:
        if z <= 0:
            continue
        span = slice(int(inst.row_ptr[t]), int(inst.row_ptr[t + 1]))
        way = heads[t] + np.maximum(0, inst.dur[span]) + tails[t]
        cost[span] += z * np.where(inst.dur[span] < 0, 0, way)
        total += Fraction(z)
    if total <= 0:
        return 0
    cost[inst.dur < 0] = np.inf
    least = np.minimum.reduceat(cost.min(axis=1), inst.row_ptr[:-1])
    # Sums of floats err by less than one part in 1e14 here: the sum is lowered by more than that.
    summed = Fraction(math.fsum(least.tolist())) * (1 - Fraction(1, 10**13))
    return max(0, math.ceil((summed + base) / total - Fraction(1, 1000)))


def _need(inst: Instance, p: int, r: int) -> Floats:
    if inst.unit[p]:
        return np.full(inst.rows, 1.0 if r == 0 else 0.0)
    return inst.demand[:, r].astype(np.float64)


def _thresholds(values: Ints, most: int) -> Ints:
    unique = np.unique(values[values < NEVER])
    if len(unique) > most:
        unique = np.unique(unique[np.linspace(0, len(unique) - 1, most).astype(np.int64)])
    return unique


def _speeds(inst: Instance) -> Floats:
    """One over the mean duration per machine; 0 where nothing can run."""
    dur = inst.dur.astype(np.float64)
    return np.array(
        [
            (1.0 / max(1.0, dur[dur[:, p] >= 0, p].mean())) if (dur[:, p] >= 0).any() else 0.0
            for p in range(inst.m)
        ]
    )


def whole_time(inst: Instance) -> list[AreaRow]:
    """Rows of the plain area argument: no heads, no tails, the first resource of all machines."""
    return [(p, 0, 0, 0, y) for p, y in enumerate(_speeds(inst).tolist()) if inst.cap[p, 0] > 0]


def best_window(inst: Instance, heads: Ints, tails: Ints) -> tuple[list[AreaRow], int]:
    """The best single (head, tail) for all machines, weighted by how fast they are on average."""
    dur = inst.dur.astype(np.float64)
    speed = _speeds(inst)
    if speed.sum() <= 0:
        return [], 0
    best: tuple[list[AreaRow], int] = ([], 0)
    for r in range(3):
        weight = np.where(inst.cap[:, r] < 2**49, speed, 0.0)
        limited = [p for p in range(inst.m) if weight[p] > 0 and inst.cap[p, r] > 0]
        if not limited:
            continue
        cost = np.zeros((inst.rows, inst.m))
        for p in limited:
            cost[:, p] = weight[p] * _need(inst, p, r) * np.maximum(0.0, dur[:, p])
        cost[inst.dur < 0] = np.inf
        least = np.minimum.reduceat(cost.min(axis=1), inst.row_ptr[:-1])
        least = np.where(inst.conditional, 0.0, least)
        total = float((weight[limited] * inst.cap[limited, r]).sum())
        first, last = heads.min(axis=1), tails.min(axis=1)
        a, b, _ = _window(first, last, least / total, critical_path(inst))
        rows = [(p, r, a, b, float(weight[p])) for p in limited]
        value = area_value(inst, rows)
        if value > best[1]:
            best = (rows, value)
    return best


def _window(first: Ints, last: Ints, load: Floats, longest: int) -> tuple[int, int, float]:
    """Thresholds (a, b), at most ``longest`` together, with the largest a + b + load beyond."""
    heads, tails = _thresholds(first, 200), _thresholds(last, 200)
    grid = np.zeros((len(heads), len(tails)))
    i = np.searchsorted(heads, first, side="right") - 1
    j = np.searchsorted(tails, last, side="right") - 1
    np.add.at(grid, (i, j), load)
    sums = grid[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
    both = heads[:, None] + tails[None, :]
    value = np.where((sums > 0) & (both <= longest), sums + both, 0.0)
    at = np.unravel_index(int(np.argmax(value)), value.shape)
    return int(heads[at[0]]), int(tails[at[1]]), float(value[at])


def area_lp(
    inst: Instance,
    clock: Clock,
    seed_rows: Sequence[AreaRow],
    enough: float = math.inf,
    rounds: int = 12,
) -> tuple[list[AreaRow], list[tuple[int, float]], int]:
    """The best weights for `area_value` by linear programming with row generation.

    The linear program spreads every task over options and machines and minimises the makespan
    under area rows; its dual values are the weights. Violated (head, tail) pairs are added until
    there are none, or the bound exceeds ``enough``; it is computed exactly only then, where one is
    given.
    """
    from ortools.linear_solver.pywraplp import Solver

    heads, tails = heads_and_tails(inst)
    solver = Solver.CreateSolver("GLOP")
    longest = critical_path(inst)
    unit = float(max(1, longest))
    makespan = solver.NumVar(0.0, solver.infinity(), "C")
    solver.Minimize(makespan)
    owner = inst.row_task
    rows, machines = np.nonzero(inst.dur >= 0)
    x = [solver.NumVar(0.0, 1.0, "") for _ in range(len(rows))]
    tasks = owner[rows]
    one = [solver.Constraint(1.0, 1.0) for _ in range(inst.n)]
    for variable, t in zip(x, tasks.tolist(), strict=True):
        one[t].SetCoefficient(variable, 1.0)
    length = inst.dur[rows, machines].astype(np.float64)
    free = ~inst.conditional[tasks]
    cell_head, cell_tail = heads[tasks, machines], tails[tasks, machines]
    known: dict[tuple[int, int, int, int], Any] = {}
    on = [
        [(r, np.flatnonzero((machines == p) & free)) for r in range(3) if inst.cap[p, r] < 2**49]
        for p in range(inst.m)
    ]
    load = {
        (p, r): length[cells] * _need(inst, p, r)[rows[cells]] / max(1, int(inst.cap[p, r]))
        for p in range(inst.m)
        for r, cells in on[p]
    }

    def add(p: int, r: int, a: int, b: int) -> bool:
        if (p, r, a, b) in known or a + b > longest:
            return False
        cells = next(c for q, c in on[p] if q == r)
        row = solver.Constraint((a + b) / unit, solver.infinity())
        row.SetCoefficient(makespan, 1.0)
        inside = (cell_head[cells] >= a) & (cell_tail[cells] >= b)
        for k, amount in zip(cells[inside].tolist(), load[p, r][inside].tolist(), strict=True):
            if amount:
                row.SetCoefficient(x[k], -amount / unit)
        known[p, r, a, b] = row
        return True

    for p in range(inst.m):
        for r, cells in on[p]:
            if len(cells) and load[p, r].any():
                add(p, r, int(cell_head[cells].min()), int(cell_tail[cells].min()))
    for p, r, a, b, _ in seed_rows:
        add(p, r, a, b)
    paths: dict[int, Any] = {}
    way = cell_head + length + cell_tail
    best: tuple[list[AreaRow], list[tuple[int, float]], int] = ([], [], 0)
    for _ in range(rounds):
        clock.check()
        clock.spend(2e-6 * len(x) * (1 + len(known)))
        left = 0.3 * clock.wall_remaining()
        if math.isfinite(left):
            solver.SetTimeLimit(max(1, int(1000 * left)))
        if solver.Solve() != Solver.OPTIMAL:
            break
        span = makespan.solution_value() * unit
        weights = [
            (p, r, a, b, max(0.0, row.dual_value()) / max(1, int(inst.cap[p, r])))
            for (p, r, a, b), row in known.items()
        ]
        duals = [(t, max(0.0, row.dual_value())) for t, row in paths.items()]
        used = [w for w in weights if w[4] > 1e-12]
        ways = [d for d in duals if d[1] > 1e-12]
        known_short = math.isfinite(enough) and span < enough
        value = math.floor(span) if known_short else area_value(inst, used, ways)
        if value >= best[2]:
            best = (used, ways, value)
        if value > enough:
            break
        spread = np.array([v.solution_value() for v in x])
        grew = False
        for p in range(inst.m):
            for r, cells in on[p]:
                if not len(cells):
                    continue
                a, b, height = _window(
                    cell_head[cells], cell_tail[cells], load[p, r] * spread[cells], longest
                )
                if height > span * (1 + 1e-7):
                    grew |= add(p, r, a, b)
        through = np.zeros(inst.n)
        np.add.at(through, tasks, way * spread)
        for t in np.argsort(-through)[:20].tolist():
            if through[t] > span * (1 + 1e-7) and t not in paths:
                row = solver.Constraint(0.0, solver.infinity())
                row.SetCoefficient(makespan, 1.0)
                for k in np.flatnonzero(tasks == t).tolist():
                    row.SetCoefficient(x[k], -float(way[k]) / unit)
                paths[t] = row
                grew = True
        if not grew:
            inst.cache["lp_spread"] = (rows, machines, spread)
            break
    return best


def windows(inst: Instance, a: int, b: int, least: int) -> tuple[NDArray[np.bool_], Ints]:
    """Tasks with head and tail at least (a, b) and duration at least ``least`` wherever they run.

    With them, per machine, the ticks before and after all of those that run there.
    """
    heads, tails = heads_and_tails(inst)
    inside = (heads.min(axis=1) >= a) & (tails.min(axis=1) >= b) & ~inst.conditional
    inside &= least_durations(inst).min(axis=1) >= least
    if not inside.any():
        return inside, np.zeros(inst.m, dtype=np.int64)
    return inside, heads[inside].min(axis=0) + np.minimum(tails[inside].min(axis=0), NEVER)


def grain_value(inst: Instance, a: int, b: int, least: int = 0) -> int:
    """Ticks proved by an area argument in whole grains; unit machines only.

    Of the tasks with head and tail at least (a, b) that take at least ``least`` ticks wherever they
    run, the durations on machine ``p`` are multiples of their common divisor ``g[p]``. With
    ``around[p]`` the least head plus the least tail of any of them there, the machine processes at
    most ``floor((C - around[p]) / g[p])`` grains of them within the makespan C. With every grain
    weighing the same, the least C that has room for all, each where it weighs least, is a bound.
    """
    if not bool(inst.unit.all()):
        return 0
    inside, around = windows(inst, a, b, least)
    rows = inst.dur[inside[inst.row_task]]
    if not (rows > 0).any():
        return 0
    grains = [int(np.gcd.reduce(c[c > 0])) if (c > 0).any() else 0 for c in rows.T]
    counts = [np.where(c < 0, 2**60, c // max(1, g)) for c, g in zip(rows.T, grains, strict=True)]
    starts = np.flatnonzero(np.diff(inst.row_task[inside[inst.row_task]], prepend=-1))
    fewest = np.minimum.reduceat(np.min(counts, axis=0), starts)
    need = int(fewest.sum())
    used = [(g, int(w)) for g, w in zip(grains, around, strict=True) if g > 0]
    return least_span(lambda span: sum(max(0, span - w) // g for g, w in used) >= need)


def least_span(enough: Callable[[int], bool], low: int = 0) -> int:
    """The least span from ``low`` on that is enough, where every longer one is too."""
    step = 1
    while not enough(low + step):
        step *= 2
    high = low + step
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low


def best_grain(inst: Instance, a: int, b: int) -> tuple[int, int, int, int]:
    """The best `grain_value` as (value, a, b, least): of long tasks alone grains are coarser."""
    if inst.rows != inst.n or inst.rows * inst.m > 200_000:
        return grain_value(inst, a, b), a, b, 0
    heads, tails = heads_and_tails(inst)
    first, last = heads.min(axis=1), tails.min(axis=1)
    shortest = least_durations(inst).min(axis=1)
    order = np.argsort(-shortest, kind="stable")
    # The common divisors of the longest tasks, from the longest on.
    divisors = np.gcd.accumulate(np.maximum(0, inst.dur[order]), axis=0)
    changes = np.flatnonzero((divisors[1:] != divisors[:-1]).any(axis=1)) + 1
    best = (0, a, b, 0)
    for count in [inst.n, *changes[::-1][:40].tolist()]:
        least = int(shortest[order[count - 1]])
        chosen = order[shortest[order] >= least]
        for window in ((a, b), (int(first[chosen].min()), int(last[chosen].min()))):
            value = grain_value(inst, *window, least)
            if value > best[0]:
                best = (value, *window, least)
    return best
