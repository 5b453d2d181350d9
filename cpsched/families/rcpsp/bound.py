"""Lower bounds on the makespan, each with the argument that proves it.

All of them count, for some set of tasks, work that a resource of some capacity must do: after the
earliest start of the set (its least head) and before the least time that must follow it (its
least tail). They differ in what is work and what is capacity, see `Line`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.errors import Infeasible, ProblemError
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance
    from cpsched.families.rcpsp.problem import RcpspProblem

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Above this many tasks only a sample of the tails and the plain lines are tried.
LARGE = 400

#: Sets of alternative machines that are looked at.
MOST_SETS = 40


@dataclass(frozen=True)
class Line:
    """Work per task (n,) and the capacity that does it, at every time in every schedule.

    ``data`` says how they follow from the problem: a resource and a function of its demands, or a
    set of tasks that exclude each other.
    """

    argument: str
    data: dict[str, Any]
    work: IntArray
    capacity: int


def bounds(instance: Instance, run: Run) -> None:
    """Give the run the quick bounds on every objective that has one."""
    from cpsched.families.rcpsp.bound_objectives import objective_bounds

    if instance.n:
        objective_bounds(instance, run)
    if "makespan" not in [o.name for o in run.objectives] or not instance.n:
        return
    if instance.optional.all():
        run.raise_bound(Bound(0, "trivial", "makespan"))
        return
    run.raise_bound(critical_path(instance))
    _windows(instance, run)
    if run.done():
        return
    if instance.n <= LARGE:
        from cpsched.families.rcpsp.heads import raise_heads

        if raise_heads(instance):
            run.raise_bound(critical_path(instance))
            _windows(instance, run)
    from cpsched.families.rcpsp.one_machine import one_machine

    if len(instance.capacity) and not instance.single_mode:
        run.raise_bound(Bound(all_machines(instance), "total-work", "makespan"))
    one_machine(instance, run)


def _windows(instance: Instance, run: Run) -> None:
    for group in lines(instance):
        for found in sorted(best_windows(instance, group, run), key=lambda b: -b.value)[:1]:
            run.raise_bound(found)
        if run.done():
            return


def delays(instance: Instance) -> dict[str, bool]:
    """What the data of a bound must say about its heads and tails."""
    return {"delays": True} if "delays" in instance.extras else {}


def critical_path(instance: Instance) -> Bound:
    """The longest chain of lags and shortest durations, from its first task's earliest start."""
    total = np.where(instance.optional, -1, instance.head + instance.tail)
    i = int(total.argmax())
    value = int(total[i])
    data = {"task": instance.ids[i], **delays(instance)}
    return Bound(value, "critical-path", "makespan", data)


def all_machines(instance: Instance) -> int:
    """All work in its least demanding modes, shared evenly by all renewable resources.

    Where tasks choose among machines, no single machine's work is sure, but the sum is.
    """
    work = int(least_over_modes(instance, (instance.demand.sum(axis=1)) * instance.duration).sum())
    return -(-work // max(1, int(instance.capacity.sum())))


# ---------------------------------------------------------------------- lines


def lines(instance: Instance) -> Iterator[list[Line]]:
    """The lines worth trying in groups, simple ones first."""
    named = list(enumerate(instance.renewable))
    yield [resource_line(instance, r, name, {}) for r, name in named]
    yield [set_line(instance, chosen) for chosen in machine_sets(instance)]
    if instance.n > LARGE:
        return
    group = []
    for r, name in named:
        capacity = int(instance.capacity[r])
        reduced = reachable(demand_choices(instance, r), capacity)
        if reduced < capacity:
            group.append(resource_line(instance, r, name, {"subset_sum": reduced}))
    yield group
    yield [clique_line(instance, clique) for clique in cliques(instance)]
    for r, name in named:
        capacity = int(instance.capacity[r])
        if capacity > 1000:
            continue
        demands = {int(d) for d in np.unique(instance.demand[:, r]) if 0 < d <= capacity}
        steps = {d if 2 * d <= capacity else capacity - d + 1 for d in demands}
        steps = {k for k in steps if 1 < k <= capacity // 2}
        whole = {capacity // q for q in range(2, 8)}
        multiples = {k for k in steps | whole if 1 < k <= capacity // 2}
        yield [
            *(resource_line(instance, r, name, {"round": k}) for k in sorted(steps)),
            *(resource_line(instance, r, name, {"multiples": k}) for k in sorted(multiples)),
        ]


def resource_line(instance: Instance, r: int, name: str, how: dict[str, int]) -> Line:
    """Work on one resource, its demands passed through a dual-feasible function.

    Such a function keeps every set of demands that fits into the capacity fitting. ``round`` k:
    demands above C - k count as C, those below k as 0 (Fekete and Schepers). ``multiples`` k:
    demands below C / 2 count as full multiples of k (Carlier, Clautiaux and Moukrim).
    ``subset_sum``: only so much of the capacity can be used by any set of demands.
    """
    capacity = int(instance.capacity[r])
    demand = np.minimum(instance.demand[:, r], capacity)
    if "round" in how:
        k = how["round"]
        demand = np.where(demand > capacity - k, capacity, np.where(demand < k, 0, demand))
    elif "multiples" in how:
        k = how["multiples"]
        whole = capacity // k
        demand = np.where(
            2 * demand > capacity,
            2 * (whole - (capacity - demand) // k),
            np.where(2 * demand == capacity, whole, 2 * (demand // k)),
        )
        capacity = 2 * whole
    elif "subset_sum" in how:
        capacity = how["subset_sum"]
    work = least_over_modes(instance, demand * instance.duration)
    return Line("energy-window", {"resource": name, **how}, work, capacity)


def machine_sets(instance: Instance) -> list[tuple[int, ...]]:
    """Sets of machines on one of which some task must be done, and their connected unions.

    Machines are renewable resources of capacity 1; at most `MOST_SETS` sets, small ones first.
    """
    known: list[tuple[int, ...]] | None = instance.extras.get("machine_sets")
    if known is not None:
        return known
    choices: set[frozenset[int]] = set()
    machines = instance.capacity == 1
    for i in range(instance.n) if not instance.single_mode else ():
        modes = instance.modes(i)
        if len(modes) < 2 or not instance.duration[modes].all():
            continue
        held = instance.holds[modes] & machines
        if held.any(axis=1).all():
            choices.add(frozenset(np.flatnonzero(held.any(axis=0)).tolist()))
    unions: list[frozenset[int]] = []
    for one in sorted(choices, key=sorted):
        joined = [other for other in unions if other & one]
        unions = [other for other in unions if not other & one]
        unions.append(one.union(*joined))
    sets = sorted({tuple(sorted(s)) for s in choices | set(unions) if len(s) > 1})
    known = sorted(sets, key=len)[: MOST_SETS - len(unions)]
    known += [tuple(sorted(s)) for s in unions if len(s) > 1 and tuple(sorted(s)) not in known]
    instance.extras["machine_sets"] = known
    return known


def set_line(instance: Instance, chosen: Sequence[int]) -> Line:
    """Work on any of some resources, which all together do it: for tasks with alternatives."""
    columns = list(chosen)
    amount = instance.demand[:, columns].sum(axis=1) * instance.duration
    work = least_over_modes(instance, amount)
    names = [instance.renewable[r] for r in columns]
    return Line("machine-set", {"resources": names}, work, int(instance.capacity[columns].sum()))


def clique_line(instance: Instance, clique: list[int]) -> Line:
    """Tasks of which no two overlap in any schedule, one at a time: Carlier's bound."""
    work = np.zeros(instance.n, np.int64)
    work[clique] = shortest(instance)[clique]
    return Line("clique", {"tasks": [instance.ids[i] for i in clique]}, work, 1)


def least_over_modes(instance: Instance, amount: IntArray) -> IntArray:
    """The least amount (M,) over the usable modes of each task, (n,); 0 for optional tasks."""
    owner = np.repeat(np.arange(instance.n), np.diff(instance.mode_start))
    usable = instance.mode_usable
    least = np.full(instance.n, 2**60, np.int64)
    np.minimum.at(least, owner[usable], amount[usable])
    return np.where(instance.optional | (least == 2**60), 0, least)


def shortest(instance: Instance) -> IntArray:
    """Shortest duration of each task, (n,)."""
    return least_over_modes(instance, instance.duration)


def least_demand(instance: Instance, r: int) -> IntArray:
    """Least demand of each task for a resource, (n,); 0 for tasks with a choice of no demand."""
    return least_over_modes(instance, instance.demand[:, r])


def demand_choices(instance: Instance, r: int) -> list[list[int]]:
    """Per always present task the demands for a resource among which its mode chooses."""
    demand, duration = instance.demand[:, r], instance.duration
    choices = [
        sorted({int(demand[m]) for m in instance.modes(i) if duration[m] and demand[m]})
        for i in np.flatnonzero(~instance.optional).tolist()
    ]
    return [c for c in choices if c]


def reachable(choices: Sequence[Sequence[int]], capacity: int) -> int:
    """The largest sum, at most the capacity, of at most one demand from each choice."""
    if capacity > 100_000 or len(choices) > 5000:
        return capacity
    sums = 1
    mask = (1 << (capacity + 1)) - 1
    for choice in choices:
        before = sums
        for d in choice:
            sums |= (before << d) & mask
    return max(1, sums.bit_length() - 1)


def after_end(instance: Instance) -> IntArray:
    """Least time from each task's end to the project's end, (n,), in whatever mode.

    For tasks of one length it is the tail less that length; for others only what follows from
    their end counts.
    """
    known: IntArray | None = instance.extras.get("after_end")
    if known is not None:
        return known
    low, high = shortest(instance), -least_over_modes(instance, -instance.duration)
    known = instance.tail - low
    loose = ((low < high) | instance.pausable) & ~instance.optional
    if loose.any():
        known = np.where(loose, 0, known)
        edges = instance.edges
        chosen = (edges[:, 2] == 0) & loose[edges[:, 0]] & ~instance.optional[edges[:, 1]]
        chosen &= edges[:, 3] > -(2**59)
        np.maximum.at(known, edges[chosen, 0], edges[chosen, 3] + instance.tail[edges[chosen, 1]])
    instance.extras["after_end"] = known
    return known


# ---------------------------------------------------------------------- windows


def best_windows(instance: Instance, group: Sequence[Line], run: Run) -> list[Bound]:
    """The best bound of each line over all pairs of a least head and a least tail."""
    if not group:
        return []
    work = np.array([line.work for line in group])
    capacity = np.array([line.capacity for line in group])[:, None]
    chosen = np.flatnonzero(work.any(axis=0))
    if not len(chosen):
        return []
    head = instance.head[chosen]
    after = after_end(instance)[chosen]
    order = np.argsort(-head, kind="stable")
    head, after, work = head[order], after[order], work[:, chosen][:, order]
    tails = np.unique(after)
    if len(tails) * len(head) > 200_000:
        tails = tails[np.linspace(0, len(tails) - 1, min(50, len(tails))).astype(int)]
    best = np.full(len(group), -1)
    where = np.zeros((len(group), 2), np.int64)
    for tail in tails.tolist():
        run.clock.check()
        total = np.cumsum(np.where(after >= tail, work, 0), axis=1)
        value = np.where(total > 0, head - (-total // capacity) + tail, -1)
        k = value.argmax(axis=1)
        reached = value[np.arange(len(group)), k]
        better = reached > best
        best[better] = reached[better]
        where[better, 0], where[better, 1] = head[k[better]], tail
    how = delays(instance)
    return [
        Bound(value, line.argument, "makespan", {**line.data, "head": a, "tail": b, **how})
        for line, value, (a, b) in zip(group, best.tolist(), where.tolist(), strict=True)
        if value > 0
    ]


def window_value(instance: Instance, line: Line, head: int, tail: int) -> int:
    """The bound of one line and one window, task by task."""
    total = 0
    after = after_end(instance)
    for i in range(instance.n):
        if instance.head[i] >= head and after[i] >= tail:
            total += int(line.work[i])
    return head + -(-total // line.capacity) + tail


# ---------------------------------------------------------------------- cliques


def cliques(instance: Instance) -> list[list[int]]:
    """Sets of tasks that exclude each other, by resources or precedences, one per seed task."""
    known: list[list[int]] | None = instance.extras.get("exclusive")
    if known is not None:
        return known
    clash = exclusive(instance)
    n, lengths = instance.n, shortest(instance)
    weight = np.where(clash.any(axis=1), lengths, 0)
    near = clash.astype(np.float32)
    found: set[tuple[int, ...]] = set()
    seeds = min(n, 2_000_000 // (n * n + 1))
    for seed in np.argsort(-weight, kind="stable")[:seeds].tolist():
        if not weight[seed]:
            break
        clique, common = [seed], clash[seed] & (lengths > 0)
        while common.any():
            rest = near @ (common * lengths).astype(np.float32)
            j = int(np.where(common, rest + lengths, -1).argmax())
            clique.append(j)
            common = common & clash[j]
        if len(clique) > 1:
            found.add(tuple(sorted(clique)))
    known = instance.extras["exclusive"] = [list(c) for c in sorted(found)]
    return known


def exclusive(instance: Instance) -> BoolArray:
    """Pairs of always present tasks that overlap in no schedule, (n, n)."""
    n = instance.n
    lengths = shortest(instance)
    takes = (lengths > 0) & ~instance.optional & ~instance.pausable
    clash = before(instance)
    clash = clash | clash.T
    for r, capacity in enumerate(instance.capacity.tolist()):
        least = least_demand(instance, r)
        clash |= least[:, None] + least[None, :] > capacity
    for group in instance.disjunctive:
        clash[np.ix_(group, group)] = True
    clash &= takes[:, None] & takes[None, :]
    np.fill_diagonal(clash, False)
    return np.asarray(clash[:n, :n], bool)


def before(instance: Instance) -> BoolArray:
    """Pairs (i, j) where i ends before j starts in every schedule, (n, n)."""
    n = instance.n
    followers: list[list[int]] = [[] for _ in range(n)]
    for i, j, kind, least, _ in instance.edges.tolist():
        if kind == 0 and least >= 0 and not instance.optional[i] and not instance.optional[j]:
            followers[i].append(j)
    reach = np.zeros((n, n), bool)
    for i in np.argsort(-instance.head, kind="stable").tolist():
        _reach(i, followers, reach)
    return reach


def _reach(i: int, followers: list[list[int]], reach: BoolArray) -> None:
    stack = list(followers[i])
    while stack:
        j = stack.pop()
        if not reach[i, j]:
            reach[i, j] = True
            stack += followers[j]


# ---------------------------------------------------------------------- recomputing


def recompute(problem: RcpspProblem, bound: Bound) -> int:
    """The value that a bound's argument and data prove, from the problem alone.

    Raises
    ------
    ProblemError
        When the argument is not known, or the data do not fit the problem.
    """
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run
    from cpsched.families import family
    from cpsched.families.rcpsp.prepare import prepare
    from cpsched.result import Objective

    run = Run(problem, family("rcpsp"), (Objective("makespan"),), Clock(None))
    instance = prepare(problem, run)
    data = bound.data
    if data.get("delays"):
        from cpsched.families.rcpsp.heads import raise_heads

        raise_heads(instance)
    if bound.argument in ("earliest-ends", "fluid", "cheapest-modes", "separate-use"):
        from cpsched.families.rcpsp import bound_objectives

        return bound_objectives.recompute(instance, bound)
    if bound.argument == "trivial":
        return 0
    if bound.argument == "critical-path":
        i = instance.ids.index(data["task"])
        return int(instance.head[i] + instance.tail[i])
    if bound.argument == "energy-window":
        r = instance.renewable.index(data["resource"])
        kinds = ("round", "multiples", "subset_sum")
        how: dict[str, int] = {k: data[k] for k in kinds if k in data}
        if "subset_sum" in how:
            how["subset_sum"] = reachable(demand_choices(instance, r), int(instance.capacity[r]))
        line = resource_line(instance, r, data["resource"], how)
        return window_value(instance, line, data["head"], data["tail"])
    if bound.argument == "machine-set":
        line = set_line(instance, [instance.renewable.index(name) for name in data["resources"]])
        return window_value(instance, line, data["head"], data["tail"])
    if bound.argument == "clique":
        tasks = [instance.ids.index(name) for name in data["tasks"]]
        clash = exclusive(instance)
        if not all(clash[i, j] for i in tasks for j in tasks if i != j):
            raise ProblemError("the tasks of a clique must exclude each other", value=data["tasks"])
        return window_value(instance, clique_line(instance, tasks), data["head"], data["tail"])
    if bound.argument == "total-work":
        return all_machines(instance)
    if bound.argument == "one-machine":
        from cpsched.families.rcpsp import one_machine

        return one_machine.recompute(instance, bound)
    if bound.argument == "preemptive":
        from cpsched.families.rcpsp import preemptive

        return preemptive.recompute(instance, bound)
    if bound.argument == "lagrangian":
        from cpsched.families.rcpsp import tardiness

        return tardiness.recompute(instance, bound)
    if bound.argument in ("destructive", "cp-sat"):
        return _refuted(instance, run, bound)
    raise ProblemError("the argument must be known", value=bound.argument)


def _refuted(instance: Instance, run: Run, bound: Bound) -> int:
    """Prove with CP-SAT, from scratch, that no schedule is better than the bound."""
    from cpsched.core import engine
    from cpsched.families.rcpsp.model import Model, post

    limit = int(bound.value) - 1
    model = Model(instance, run, limit)
    try:
        model.add_tasks(instance.tail.tolist())
    except Infeasible:
        return int(bound.value)
    post(model)
    outcome = engine.solve(model.cp, run.clock, workers=1, seed=1)
    if outcome.status != "INFEASIBLE":
        raise ProblemError("the bound was not proved", value=bound.value)
    return int(bound.value)
