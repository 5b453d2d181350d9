"""The CP-SAT model of a workflow problem: one function per constraint, named as in the checker.

Times are ticks divided by ``factor`` and rounded down. Rounding every time down relaxes the
problem (the rounded-down starts of any schedule satisfy the rounded-down rules), so bounds and
infeasibility of the model hold for the problem; with factor 1 and exact ticks nothing is rounded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.families.workflow.extract import Plan, needed_data
from cpsched.families.workflow.heads import heads_and_tails
from cpsched.families.workflow.merge import dominators
from cpsched.families.workflow.prepare import NEVER, Instance

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar

    Literal = IntVar | int

#: Horizons of models have at most this many ticks.
FINEST = 2**36


@dataclass
class Variables:
    """The variables of a model and what is derived from them.

    ``use[t]`` lists (row, machine class, literal) of a task; a class is a tuple of machines that
    are interchangeable. ``cells`` lists (row, machine, literal) with classes of one machine only.
    """

    model: CpModel
    inst: Instance
    factor: int
    horizon: int
    start: list[IntVar]
    end: list[Any]
    use: list[list[tuple[int, tuple[int, ...], Literal]]]
    makespan: IntVar
    on: dict[tuple[int, int], Any] = field(default_factory=dict)
    intervals: dict[tuple[int, int], Any] = field(default_factory=dict)
    transfers: dict[tuple[str, int], tuple[Any, Any, Any]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    notes: dict[str, Any] = field(default_factory=dict)
    #: Called in every loop of model building; raises when the time is over.
    check: Callable[[], object] = lambda: None

    def coarse(self, ticks: int) -> int:
        """Ticks in the model's unit, rounded down."""
        return int(ticks) // self.factor

    def length(self, row: int, machine: int) -> int:
        """Duration of a row on a machine in the model's unit."""
        return int(self.inst.dur[row, machine]) // self.factor

    def located(self, task: int, machine: int) -> Any:
        """Literal: the task runs on the machine."""
        return self.on.get((task, machine), 0)


def choose_factor(inst: Instance, horizon: int, *, fine: bool = True) -> int:
    """Ticks per model unit, so that the horizon stays within `FINEST`.

    Not ``fine``: the largest unit in which all durations are whole, where there is one. Only
    transfers are rounded then, and the solver's numbers stay small.
    """
    least = max(1, -(-horizon // FINEST))
    if not fine:
        unit = int(np.gcd.reduce(inst.dur[inst.dur > 0])) if (inst.dur > 0).any() else 1
        if least < unit and horizon >= 1000 * unit:
            return unit
    return least


def machine_classes(inst: Instance) -> list[tuple[int, ...]]:
    """Machines merged into classes that a cumulative constraint can stand for.

    Machines are interchangeable when they run one task at a time without breaks, every task takes
    the same time on them, nothing depends on which of them it is, and data costs no time.
    """
    problem = inst.problem
    plain = (
        not inst.communicates
        and inst.inputs is None
        and not problem.contention
        and not problem.branches
        and all(mc.storage is None and not mc.billing_quantum for mc in problem.machines)
    )
    groups: dict[Any, list[int]] = {}
    for p, mc in enumerate(problem.machines):
        key: Any = p
        if plain and inst.unit[p] and not inst.blocked[p]:
            key = (inst.dur[:, p].tobytes(), mc.price, mc.prices, mc.power, mc.carbon)
        groups.setdefault(key, []).append(p)
    return [tuple(g) for g in groups.values()]


def variables(
    inst: Instance, horizon: int, factor: int, check: Callable[[], object] = lambda: None
) -> Variables:
    """Starts, ends and choices with the domains that heads and tails leave."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    heads, _ = heads_and_tails(inst)
    v = Variables(model, inst, factor, horizon // factor, [], [], [], None)  # type: ignore[arg-type]
    v.check = check
    classes = machine_classes(inst)
    v.makespan = model.new_int_var(0, v.horizon, "makespan")
    needless = dominators(inst)
    for t in range(inst.n):
        check()
        last = min(int(inst.deadline[t]), horizon)
        choices: list[tuple[int, tuple[int, ...], Any]] = []
        for r in inst.rows_of(t):
            if r in needless:
                continue
            for group in classes:
                p = group[0]
                d = int(inst.dur[r, p])
                if d < 0:
                    continue
                if v.coarse(heads[t, p]) + v.length(r, p) > v.coarse(last):
                    continue
                choices.append((r, group, None))
        v.use.append(choices)
        if not choices:
            model.add_bool_or([])
            v.start.append(model.new_int_var(0, 0, ""))
            v.end.append(v.start[-1])
            continue
        first = min(v.coarse(heads[t, g[0]]) for _, g, _ in choices)
        lengths = {v.length(r, g[0]) for r, g, _ in choices}
        latest = v.coarse(last)
        start = model.new_int_var(first, latest - min(lengths), f"s{t}")
        v.start.append(start)
        if len(choices) == 1:
            v.use[t] = [(choices[0][0], choices[0][1], 1)]
        else:
            literals = [model.new_bool_var(f"x{t}_{r}_{g[0]}") for r, g, _ in choices]
            v.use[t] = [(r, g, x) for (r, g, _), x in zip(choices, literals, strict=True)]
            model.add_exactly_one(literals)
        if len(lengths) == 1:
            v.end.append(start + next(iter(lengths)))
        else:
            end = model.new_int_var(first + min(lengths), latest, f"e{t}")
            model.add(
                end
                == start
                + cp_model.LinearExpr.weighted_sum(
                    [x for _, _, x in v.use[t]], [v.length(r, g[0]) for r, g, _ in v.use[t]]
                )
            )
            v.end.append(end)
            v.ended.add(t)
        per_machine: dict[int, list[Any]] = defaultdict(list)
        for _, g, x in v.use[t]:
            if len(g) == 1:
                per_machine[g[0]].append(x)
        for p, xs in per_machine.items():
            v.on[t, p] = xs[0] if len(xs) == 1 else cp_model.LinearExpr.sum(xs)
    return v


def release(v: Variables) -> None:
    """Earliest starts per machine; later machines of a task are reached only with their head."""
    heads, _ = heads_and_tails(v.inst)
    for t in range(v.inst.n):
        v.check()
        if not v.use[t]:
            continue
        first = min(v.coarse(heads[t, g[0]]) for _, g, _ in v.use[t])
        extra = [(x, v.coarse(heads[t, g[0]]) - first) for _, g, x in v.use[t]]
        if any(e > 0 for _, e in extra):
            v.model.add(v.start[t] >= first + sum(e * x for x, e in extra if e > 0))


def precedence(v: Variables) -> None:
    """A task starts after its predecessors end, and after their data has come."""
    inst, model = v.inst, v.model
    for t in range(inst.n):
        for e in range(int(inst.pred_ptr[t]), int(inst.pred_ptr[t + 1])):
            v.check()
            u = int(inst.pred_src[e])
            model.add(v.start[t] >= v.end[u])
            size = float(inst.pred_bytes[e])
            if size >= 0 and inst.m > 1 and not inst.problem.contention:
                _transfer(v, u, t, size)


def _transfer(v: Variables, u: int, t: int, size: float) -> None:
    """The data of ``u`` for ``t`` reaches another machine only after its lag."""
    inst, model = v.inst, v.model
    pairs: dict[int, list[tuple[int, int]]] = defaultdict(list)
    here = machines_of(v, u)
    there = machines_of(v, t)
    for p in here:
        for q in there:
            pairs[v.coarse(inst.lag(size, p, q))].append((p, q))
    lags = sorted(pairs)
    if lags == [0]:
        return
    if lags[0] > 0:
        model.add(v.start[t] >= v.end[u] + lags[0])
    if len(lags) == 1:
        return
    if len(lags) == 2 and lags[0] == 0 and all(p == q for p, q in pairs[0]):
        model.add(v.start[t] >= v.end[u] + lags[1] - lags[1] * same_machine(v, u, t))
        return
    for p in here:
        by_lag: dict[int, list[int]] = defaultdict(list)
        for q in there:
            by_lag[v.coarse(inst.lag(size, p, q))].append(q)
        for lag, targets in by_lag.items():
            if lag > lags[0]:
                goal = (
                    v.located(t, targets[0])
                    if len(targets) == 1
                    else sum(v.located(t, q) for q in targets)
                )
                # Both literals true demand the lag; each alone demands nothing beyond the least.
                model.add(
                    v.start[t]
                    >= v.end[u] + lags[0] + (lag - lags[0]) * (v.located(u, p) + goal - 1)
                )


def machines_of(v: Variables, t: int) -> list[int]:
    """Machines on which the model lets a task run."""
    cached = v.notes.setdefault("machines_of", {})
    if t not in cached:
        cached[t] = sorted({p for _, g, _ in v.use[t] for p in g})
    out: list[int] = cached[t]
    return out


def same_machine(v: Variables, u: int, t: int) -> Any:
    """Literal that may be true only when both tasks run on one machine."""
    known = v.notes.setdefault("same", {})
    key = (min(u, t), max(u, t))
    if key not in known:
        model = v.model
        here, there = machines_of(v, u), machines_of(v, t)
        both = [p for p in here if p in set(there)]
        if not both:
            known[key] = 0
        elif len(here) == 1 and len(there) == 1:
            known[key] = 1
        else:
            same = model.new_bool_var(f"same{u}_{t}")
            for p in here:
                for a, b in ((u, t), (t, u)):
                    x, y = v.located(a, p), v.located(b, p)
                    # same and a on p imply b on p
                    model.add(y >= x + same - 1)
            for p in both:
                model.add(same >= v.located(u, p) + v.located(t, p) - 1)
            known[key] = same
    return known[key]


def resources(v: Variables) -> None:
    """Cores, memory and GPUs of every machine, and its windows as times of full use."""
    inst, model = v.inst, v.model
    loads: dict[tuple[int, ...], list[tuple[int, int, Any]]] = defaultdict(list)
    for t in range(inst.n):
        v.check()
        for r, group, x in v.use[t]:
            d = v.length(r, group[0])
            if d == 0:
                continue
            interval = (
                model.new_fixed_size_interval_var(v.start[t], d, f"i{t}")
                if isinstance(x, int)
                else model.new_optional_interval_var(v.start[t], d, v.start[t] + d, x, f"i{t}_{r}")
            )
            if len(group) == 1:
                v.intervals[r, group[0]] = interval
            loads[group].append((t, r, interval))
    scenarios = _scenarios(inst)
    for group, cells in loads.items():
        p = group[0]
        breaks = [
            model.new_fixed_size_interval_var(
                v.coarse(a), min(v.coarse(b), v.horizon + 1) - v.coarse(a), ""
            )
            for a, b in inst.blocked[p]
            if v.coarse(a) < min(v.coarse(b), v.horizon + 1)
        ]
        for active in scenarios:
            here = (
                [(r, i) for t, r, i in cells if t in active]
                if active
                else [(r, i) for _, r, i in cells]
            )
            if inst.unit[p] and len(group) == 1:
                model.add_no_overlap([*(i for _, i in here), *breaks])
                continue
            if inst.unit[p]:
                model.add_cumulative([i for _, i in here], [1] * len(here), len(group))
                continue
            for resource in range(3):
                capacity = int(inst.cap[p, resource])
                needs = [(i, int(inst.demand[r, resource])) for r, i in here]
                needs = [(i, d) for i, d in needs if d > 0]
                most: dict[int, int] = {}
                for t, r, _ in cells:
                    most[t] = max(most.get(t, 0), int(inst.demand[r, resource]))
                if sum(most.values()) <= capacity and not breaks:
                    continue
                model.add_cumulative(
                    [*(i for i, _ in needs), *breaks],
                    [*(d for _, d in needs), *([max(1, capacity)] * len(breaks))],
                    max(1, capacity) if not needs else capacity,
                )
            if breaks:
                # A break excludes every task, also those that need none of the resources.
                for _, interval in here:
                    model.add_no_overlap([interval, *breaks])


def _scenarios(inst: Instance) -> list[set[int] | None]:
    """The sets of tasks that can be executed together; None alone stands for all tasks."""
    branches = inst.problem.branches
    if not branches:
        return [None]
    always = {t for t in range(inst.n) if not inst.conditional[t]}
    out = [always]
    for branch in branches:
        out = [s | {inst.index[name] for name in a.tasks} for s in out for a in branch.alternatives]
    return list(out)


def makespan(v: Variables) -> None:
    """The makespan is after every end, by the tail of the machine the task runs on."""
    inst = v.inst
    _, tails = heads_and_tails(inst)
    if v.notes.get("tails", True):
        for t in range(inst.n):
            v.check()
            if not v.use[t]:
                continue
            ways = [v.coarse(tails[t, g[0]]) for _, g, _ in v.use[t]]
            least = min(ways)
            if least == 0 and inst.succ_ptr[t + 1] > inst.succ_ptr[t] and max(ways) == 0:
                continue
            extra = sum(
                (w - least) * x for w, (_, _, x) in zip(ways, v.use[t], strict=True) if w > least
            )
            v.model.add(v.makespan >= v.end[t] + least + extra)
    else:
        for t in range(inst.n):
            if inst.succ_ptr[t + 1] == inst.succ_ptr[t]:
                v.model.add(v.makespan >= v.end[t])


def hint(v: Variables, plan: Plan) -> None:
    """A complete start for the solver from a plan."""
    model = v.model
    ends = plan.end(v.inst)
    for t in range(v.inst.n):
        v.check()
        if not v.use[t]:
            continue
        model.add_hint(v.start[t], v.coarse(plan.start[t]))
        if t in v.ended:
            model.add_hint(v.end[t], v.coarse(plan.start[t]) + v.length(plan.row[t], plan.mach[t]))
        for r, g, x in v.use[t]:
            if not isinstance(x, int):
                model.add_hint(x, int(r == plan.row[t] and plan.mach[t] in g))
    for (u, t), same in v.notes.get("same", {}).items():
        if not isinstance(same, int):
            model.add_hint(same, int(plan.mach[u] == plan.mach[t]))
    if len(ends):
        model.add_hint(v.makespan, min(v.horizon, v.coarse(int(ends.max()))))


def plan_from(v: Variables, values: Sequence[int]) -> Plan:
    """The plan of a solver solution, in ticks, with classes unrolled into machines."""
    inst = v.inst
    start = np.zeros(inst.n, dtype=np.int64)
    row = np.zeros(inst.n, dtype=np.int64)
    mach = np.zeros(inst.n, dtype=np.int64)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for t in range(inst.n):
        start[t] = values[v.start[t].index] * v.factor
        for r, g, x in v.use[t]:
            chosen = x == 1 if isinstance(x, int) else values[x.index]
            if chosen:
                row[t], mach[t] = r, g[0]
                if len(g) > 1:
                    groups[g].append(t)
                break
    for group, tasks in groups.items():
        free = dict.fromkeys(group, 0)
        for t in sorted(tasks, key=lambda t: (start[t], inst.dur[row[t], group[0]])):
            p = min(free, key=lambda q: (free[q] > start[t], -free[q], q))
            mach[t] = p
            free[p] = max(free[p], int(start[t]) + v.length(row[t], p) * v.factor)
    sent = None
    if inst.problem.contention:
        sent = {
            key: (values[a.index] * v.factor, values[b.index] * v.factor)
            for key, (a, b, _) in v.transfers.items()
        }
    return Plan(start, row, mach, sent)


def horizon_of(inst: Instance, latest: int | None) -> int:
    """Ticks within which some optimal schedule lies."""
    if latest is not None:
        return latest
    longest = int(np.where(inst.dur < 0, 0, inst.dur).max(axis=1).sum()) if inst.n else 0
    tails = sum(b[-1][0] if b else 0 for b in inst.blocked)
    # It may pay to wait for the last change of a rate, but no longer.
    machines = inst.problem.machines
    changes = (s.start for mc in machines for s in (*mc.prices, *mc.carbon))
    waits = inst.ticks(max(changes, default=0.0))
    slow = float(inst.tpb.max()) if len(inst.tpb) else 0.0
    latency = int(inst.lat.max()) if len(inst.lat) else 0
    if inst.problem.contention:
        # At worst every file goes to every reader on its own, one after the other.
        sent = [size for *_, carried in needed_data(inst) for _, size in carried]
    else:
        sent = inst.pred_bytes[inst.pred_bytes >= 0].tolist()
    data = math.ceil(sum(sent) * slow) + (latency + 1) * len(sent)
    inputs = int(inst.inputs.max()) if inst.inputs is not None else 0
    total = longest + int(inst.release.max() if inst.n else 0) + tails + waits + data + inputs
    bounded = inst.deadline[inst.deadline < NEVER]
    if len(bounded) == inst.n and inst.n:
        total = min(total, int(bounded.max()))
    return total + 1
