"""Lower bounds on the makespan, and on sums of what tasks cost one by one, with their proofs.

The proofs rest on heads and tails: ``head[t, p]`` bounds the start of task ``t`` on machine ``p``
from below, transfers included, ``tail[t, p]`` the time from its end there to the end of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from cpsched.core.run import Run
from cpsched.errors import Infeasible, OutOfTime, ProblemError
from cpsched.families.workflow import kernels, terms
from cpsched.families.workflow.greedy import least_durations
from cpsched.families.workflow.prepare import NEVER, Floats, Instance, Ints, prepare
from cpsched.families.workflow.problem import WorkflowProblem
from cpsched.result import Bound, Number

#: One row of an area proof: (machine, resource, head, tail, weight).
AreaRow = tuple[int, int, int, int, float]


def heads_and_tails(inst: Instance) -> tuple[Ints, Ints]:
    """Heads and tails per task and machine, in ticks."""
    if "heads" not in inst.cache:
        dmin = least_durations(inst)
        low = np.repeat(inst.release[:, None], inst.m, axis=1)
        if inst.inputs is not None:
            low = np.maximum(low, inst.inputs)
        # Conditional tasks may overlap, so the chaining argument is left out with branches.
        exclusive = inst.unit & (not bool(inst.conditional.any()))
        args = (inst.link, inst.tpb, inst.lat)
        pairs = inst.m if inst.uniform else inst.m * inst.m
        if not inst.communicates or pairs * len(inst.pred_src) > 4e9:
            heads = _plain(inst, low, dmin, inst.topo, inst.pred_ptr, inst.pred_src)
            none = np.zeros_like(low)
            tails = _plain(inst, none, dmin, inst.topo[::-1], inst.succ_ptr, inst.succ_dst)
        else:
            heads = kernels.machine_heads(
                inst.topo, inst.pred_ptr, inst.pred_src, inst.pred_bytes, *args, low, dmin,
                exclusive,
            )  # fmt: skip
            back = (np.ascontiguousarray(inst.link.T), inst.tpb, inst.lat)
            tails = kernels.machine_heads(
                inst.topo[::-1].copy(), inst.succ_ptr, inst.succ_dst, inst.succ_bytes, *back,
                np.zeros_like(low), dmin, exclusive,
            )  # fmt: skip
        inst.cache["heads"] = (heads, tails)
    both: tuple[Ints, Ints] = inst.cache["heads"]
    return both


def _plain(inst: Instance, low: Ints, dmin: Ints, topo: Ints, ptr: Ints, src: Ints) -> Ints:
    """Heads without transfers: the longest way over least durations."""
    least = dmin.min(axis=1).tolist()
    floor = low.min(axis=1).tolist()
    begins, sources = ptr.tolist(), src.tolist()
    way = [0] * inst.n
    for t in topo.tolist():
        ready = max((way[u] + least[u] for u in sources[begins[t] : begins[t + 1]]), default=0)
        way[t] = max(floor[t], ready)
    heads = np.maximum(low, np.array(way, dtype=np.int64)[:, None])
    return np.where(dmin >= NEVER, NEVER, heads)


def quick_bounds(inst: Instance, run: Run) -> None:
    """Give the run every bound that needs no search."""
    _separate(inst, run)
    if inst.n == 0:
        run.raise_bound(Bound(0.0, "empty", "makespan"))
        return
    cells = inst.m * (len(inst.pred_src) + inst.n)
    from cpsched.core import jit

    pairs = inst.m if inst.communicates and not inst.uniform else 1
    if cells * pairs > 1e5 and not jit.ready(run.clock.remaining()):
        return
    heads, tails = heads_and_tails(inst)
    _refute(inst, heads)
    if not any(o.name == "makespan" for o in run.objectives):
        return

    def give(ticks: int, argument: str, data: dict[str, Any]) -> None:
        run.raise_bound(Bound(inst.time(ticks), argument, "makespan", data))

    give(critical_path(inst), "critical-path", {})
    row, value = best_window(inst, heads, tails)
    if value > 0:
        give(value, "area", {"rows": row})
    if run.done():
        return
    if identical(inst) and inst.n <= 400:
        found = fernandez_bussell(inst)
        if found is not None:
            give(found[0], "fernandez-bussell", {"window": list(found[1:])})
    if run.done() or inst.rows * inst.m > 60_000:
        return
    try:
        rows, paths, value = area_lp(inst, run, row)
    except OutOfTime:
        return
    if value > 0:
        give(value, "area", {"rows": rows, "paths": paths})
        inst.cache["area_rows"] = rows


def _refute(inst: Instance, heads: Ints) -> None:
    late = (heads + least_durations(inst)).min(axis=1) > inst.deadline
    if bool(late.any()):
        task = inst.problem.tasks[int(np.argmax(late))].id
        raise Infeasible(f"task {task} cannot end before its deadline", "critical-path")


def critical_path(inst: Instance) -> int:
    """Longest way through any task, each on its best machine."""
    heads, tails = heads_and_tails(inst)
    dmin = least_durations(inst)
    ways = np.where(dmin >= NEVER, NEVER, heads + dmin + np.minimum(tails, NEVER))
    return int(ways.min(axis=1).max())


# ---------------------------------------------------------------------- area


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
    heads, tails = heads_and_tails(inst)
    owner = inst.row_task
    cost = np.zeros((inst.rows, inst.m))
    longest = critical_path(inst)
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


def best_window(inst: Instance, heads: Ints, tails: Ints) -> tuple[list[AreaRow], int]:
    """The best single (head, tail) for all machines, weighted by how fast they are on average."""
    dur = inst.dur.astype(np.float64)
    speed = np.array(
        [
            (1.0 / max(1.0, dur[dur[:, p] >= 0, p].mean())) if (dur[:, p] >= 0).any() else 0.0
            for p in range(inst.m)
        ]
    )
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
    inst: Instance, run: Run, seed_rows: Sequence[AreaRow]
) -> tuple[list[AreaRow], list[tuple[int, float]], int]:
    """The best weights for `area_value` by linear programming with row generation.

    The linear program spreads every task over options and machines and minimises the makespan
    under area rows; its dual values are the weights. Violated (head, tail) pairs are added until
    there are none.
    """
    from ortools.linear_solver import pywraplp

    heads, tails = heads_and_tails(inst)
    solver = pywraplp.Solver.CreateSolver("GLOP")
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
    for _ in range(12):
        run.clock.check()
        run.clock.spend(2e-6 * len(x) * (1 + len(known)))
        left = 0.3 * run.clock.wall_remaining()
        if math.isfinite(left):
            solver.SetTimeLimit(max(1, int(1000 * left)))
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            break
        weights = [
            (p, r, a, b, max(0.0, row.dual_value()) / max(1, int(inst.cap[p, r])))
            for (p, r, a, b), row in known.items()
        ]
        duals = [(t, max(0.0, row.dual_value())) for t, row in paths.items()]
        used = [w for w in weights if w[4] > 1e-12]
        value = area_value(inst, used, [d for d in duals if d[1] > 1e-12])
        if value > best[2]:
            best = (used, [d for d in duals if d[1] > 1e-12], value)
        span = makespan.solution_value() * unit
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


# ---------------------------------------------------------------------- identical machines


def identical(inst: Instance) -> bool:
    """Whether all machines run one task at a time and a task takes the same time on each."""
    if inst.rows != inst.n or not bool(inst.unit.all()) or bool(inst.conditional.any()):
        return False
    return bool((inst.dur == inst.dur[:, :1]).all()) and bool((inst.dur >= 0).all())


def fernandez_bussell(inst: Instance) -> tuple[int, int, int] | None:
    """(bound, a, b): the window whose forced work exceeds the machines most (1973).

    With the critical path as makespan every task lies between its head and its latest end. What
    must overlap the window [a, b) must still overlap [a, b + d) when all ends are ``d`` later, so
    the makespan grows by at least ``forced / machines - (b - a)``.
    """
    heads, tails = heads_and_tails(inst)
    first = heads.min(axis=1)
    length = inst.dur[:, 0]
    span = critical_path(inst)
    last = span - tails.min(axis=1)
    points = np.unique(np.concatenate([first, first + length, last, last - length]))
    points = points[(points >= 0) & (points <= span)]
    if len(points) > 400:
        points = points[np.linspace(0, len(points) - 1, 400).astype(np.int64)]
    best: tuple[int, int, int] | None = None
    for a in points.tolist():
        right = np.clip(first + length - a, 0, length)
        ends = points[points > a]
        if not len(ends):
            continue
        forced = np.minimum(
            np.minimum(right[:, None], np.clip(ends[None, :] - (last - length)[:, None], 0, None)),
            np.minimum(length[:, None], (ends - a)[None, :]),
        ).sum(axis=0)
        excess = -((-forced) // inst.m) - (ends - a)
        k = int(np.argmax(excess))
        if best is None or span + int(excess[k]) > best[0]:
            best = (span + int(excess[k]), int(a), int(ends[k]))
    return best


def _forced(inst: Instance, a: int, b: int) -> int:
    heads, tails = heads_and_tails(inst)
    first, length = heads.min(axis=1), inst.dur[:, 0]
    span = critical_path(inst)
    last = span - tails.min(axis=1)
    right = np.clip(first + length - a, 0, None)
    left = np.clip(b - (last - length), 0, None)
    forced = np.minimum(np.minimum(right, left), np.minimum(length, b - a)).sum()
    return span + -(-int(forced) // inst.m) - (b - a)


# ---------------------------------------------------------------------- other objectives


def separate_value(inst: Instance, name: str) -> float:
    """Sum (or maximum) over tasks of the least that each one costs by itself."""
    problem = inst.problem
    chance = terms.probabilities(problem)
    if name in ("cost", "energy", "carbon", "log_success"):
        best: list[float] = []
        for t, task in enumerate(problem.tasks):
            weight = chance.get(task.id, 1.0)
            values = []
            for r in inst.rows_of(t):
                option = task.choices[int(inst.row_option[r])]
                if name == "log_success":
                    if (inst.dur[r] >= 0).any():
                        values.append(-weight * terms.log_success(option))
                    continue
                own = 0.0 if name == "carbon" else terms.own_use(option, name)
                for p in np.flatnonzero(inst.dur[r] >= 0).tolist():
                    machine = problem.machines[p]
                    rate = min(v for _, v in terms.rate_steps(machine, name))
                    used = own + rate * terms.share(option, machine) * inst.time(inst.dur[r, p])
                    values.append(weight * terms.expected_part(option) * used)
            best.append(min(values))
        total = math.fsum(best)
        return -total if name == "log_success" else total * (1 - 1e-12)
    heads, _ = heads_and_tails(inst)
    ends = (heads + least_durations(inst)).min(axis=1)
    end = {task.id: inst.time(int(ends[t])) for t, task in enumerate(problem.tasks)}
    flows = terms.members(problem)
    finish = [max(end[t.id] for t in tasks) for _, tasks in flows]
    if name == "max_slowdown":
        ideal = terms.ideal_times(problem)
        return max(
            (
                (f - flow.release) / i
                for (flow, _), f, i in zip(flows, finish, ideal, strict=True)
                if i > 0
            ),
            default=0.0,
        )
    if name == "weighted_flow_time":
        if not problem.workflows:
            return math.fsum(t.weight * (end[t.id] - t.release) for t in problem.tasks)
        return math.fsum(
            flow.weight * (f - flow.release) for (flow, _), f in zip(flows, finish, strict=True)
        )
    if name == "weighted_tardiness":
        late = [t.weight * max(0.0, end[t.id] - t.due) for t in problem.tasks if t.due is not None]
        late += [
            flow.weight * max(0.0, f - flow.due)
            for (flow, _), f in zip(flows, finish, strict=True)
            if flow.due is not None
        ]
        return math.fsum(late)
    return 0.0


def _separate(inst: Instance, run: Run) -> None:
    for objective in run.objectives:
        if objective.name != "makespan" and inst.rows * inst.m <= 2_000_000:
            value = separate_value(inst, objective.name) if inst.n else 0.0
            run.raise_bound(Bound(value, "separate", objective.name))


def recompute(problem: WorkflowProblem, bound: Bound) -> Number:
    """The value that an argument proves, from the problem and the bound's data alone."""
    inst = prepare(problem)
    if bound.argument == "separate":
        return separate_value(inst, bound.objective) if inst.n else 0.0
    if bound.argument == "empty" and inst.n == 0:
        return 0.0
    if bound.argument == "critical-path":
        return inst.time(critical_path(inst))
    if bound.argument == "area":
        return inst.time(area_value(inst, bound.data["rows"], bound.data.get("paths", ())))
    if bound.argument == "fernandez-bussell" and identical(inst):
        a, b = bound.data["window"]
        return inst.time(_forced(inst, int(a), int(b)))
    raise ProblemError(
        f"the argument {bound.argument} cannot be recomputed without a search",
        place="bound",
        remedy="Solve the problem again.",
    )
