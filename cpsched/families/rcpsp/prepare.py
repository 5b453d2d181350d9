"""From the problem's names to arrays: what greedy, bounds, model and search work on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.errors import Infeasible, ProblemError
from cpsched.families.rcpsp.graph import Arc, longest_paths, reduced_edges
from cpsched.families.rcpsp.horizon import horizon_of
from cpsched.families.rcpsp.profile import Piece, Span, breaks_of, capacity_profiles

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.problem import RcpspProblem

IntArray = NDArray[np.int64]

#: Stands for "no maximum lag" and "no deadline" in arrays.
FAR = 2**60
#: Sums of times, and of times and units, stay below this, so that 64 bits hold them.
LARGEST_SUM = 2**53

#: Type codes of `Instance.edges`.
EDGE_TYPES = ("end-start", "start-start", "end-end", "start-end")

#: Objectives that a task's earlier end never makes worse.
REGULAR = frozenset(
    {"makespan", "weighted_tardiness", "late_tasks", "weighted_flow_time", "max_lateness"}
)


@dataclass(frozen=True)
class Reservoir:
    """A reservoir with indices: events are rows (task, amount, at end), levels stay in range."""

    name: str
    initial: int
    minimum: int
    maximum: int | None
    events: IntArray

    def holds(self, level: int) -> bool:
        """Whether a level lies in the range."""
        return level >= self.minimum and (self.maximum is None or level <= self.maximum)


@dataclass(frozen=True)
class Chosen:
    """A selection with indices for names; ``condition`` is -1 without one."""

    type: str
    tasks: tuple[int, ...]
    condition: int


@dataclass(frozen=True)
class SetupRule:
    """Setups of one renewable resource: a state per task (n,), -1 for tasks that never use it."""

    resource: int
    state: IntArray
    times: IntArray
    costs: IntArray


@dataclass(frozen=True)
class Instance:
    """An RCPSP with indices for names.

    With n tasks, M modes over all tasks, R renewable and K nonrenewable resources:

    Attributes
    ----------
    mode_start : (n + 1,)
        Modes of task i are ``mode_start[i] .. mode_start[i + 1] - 1``. Modes that can never be
        used are still listed; ``mode_usable`` masks them. An optional task may have none left: it
        is absent from every schedule.
    duration : (M,)
    demand : (M, R)
        Units of renewable resources; 0 for modes without a duration.
    consumption : (M, K)
        Units of nonrenewable resources.
    capacity : (R,)
        Largest capacity over time of each renewable resource.
    budget : (K,)
    edges : (E, 5)
        Generalized precedences: before, after, type (0 end-start, 1 start-start, 2 end-end,
        3 start-end), minimum lag (``-FAR`` for none), maximum lag (``FAR`` for none). Edges that
        follow from others are left out.
    release, deadline, due, weight, earliness_weight : (n,)
        ``deadline`` and ``due`` are ``FAR`` where there is none. Deadlines include the problem's
        horizon and what follows from the deadlines of other tasks.
    optional, pausable : (n,) bool
    head, tail : (n,)
        Earliest start, and least time from the task's start to the project's end, by longest
        paths over minimum lags with shortest durations.
    horizon
        No schedule worth considering ends later.
    plain
        Only end-start minimum lags, no calendars, reservoirs, setups, optional, disjunctive or
        blocking tasks, deadlines or releases that bind: what the array kernels handle directly.
    renewable, nonrenewable
        Names of the resources in the order of the columns.
    profiles
        Per renewable resource the pieces ``(start, end, capacity)``, sorted and disjoint, in which
        the capacity is not ``base[r]``.
    base : (R,)
        Ordinary capacity of each renewable resource, outside its pieces.
    blocks_until : (n,)
        The task until whose start a task keeps its resources, or -1.
    """

    problem: RcpspProblem
    objectives: tuple[str, ...]
    ids: tuple[str, ...]
    mode_start: IntArray
    duration: IntArray
    demand: IntArray
    consumption: IntArray
    mode_usable: NDArray[np.bool_]
    capacity: IntArray
    budget: IntArray
    edges: IntArray
    release: IntArray
    deadline: IntArray
    due: IntArray
    weight: IntArray
    earliness_weight: IntArray
    optional: NDArray[np.bool_]
    pausable: NDArray[np.bool_]
    head: IntArray
    tail: IntArray
    horizon: int
    plain: bool
    extras: dict[str, Any]
    renewable: tuple[str, ...]
    nonrenewable: tuple[str, ...]
    base: IntArray
    profiles: tuple[tuple[Piece, ...], ...]
    reservoirs: tuple[Reservoir, ...]
    disjunctive: tuple[tuple[int, ...], ...]
    selections: tuple[Chosen, ...]
    blocks_until: IntArray
    setups: tuple[SetupRule, ...]

    @property
    def by_lists(self) -> bool:
        """Whether the list kernels know all rules: no blocking, no setups."""
        return not self.setups and bool((self.blocks_until < 0).all())

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.ids)

    @property
    def single_mode(self) -> bool:
        """Whether every task has exactly one mode."""
        return len(self.duration) == self.n

    def modes(self, task: int) -> list[int]:
        """The usable modes of a task, as indices into the mode arrays."""
        first, last = int(self.mode_start[task]), int(self.mode_start[task + 1])
        return [m for m in range(first, last) if self.mode_usable[m]]

    def breaks(self, task: int, mode: int) -> list[Span]:
        """The breaks in which a pausable task rests in that mode (none when not pausable)."""
        if not self.pausable[task] or not self.duration[mode]:
            return []
        held = np.flatnonzero(self.demand[mode]).tolist()
        return self.breaks_of([r for r in held if self.profiles[r]])

    def breaks_of(self, resources: Sequence[int]) -> list[Span]:
        """The times in which one of these renewable resources has no capacity."""
        known: dict[tuple[int, ...], list[Span]] = self.extras.setdefault("breaks", {})
        held = tuple(resources)
        if held not in known:
            named = {str(r): list(self.profiles[r]) for r in held}
            known[held] = breaks_of(named, named)
        return known[held]


def prepare(problem: RcpspProblem, run: Run) -> Instance:
    """Index the problem, tighten it, and prove it infeasible where that is easy.

    Raises
    ------
    Infeasible
        With the task, resource or cycle of precedences that makes a schedule impossible.
    ProblemError
        When times or units are too large to be added up in 64 bits.
    OutOfTime
        When the clock ran out on the way.
    """
    tasks = problem.tasks
    # Making and checking one schedule takes about this long; later offers measure it.
    run.clock.reserve = max(run.clock.reserve, min(2e-5 * len(tasks), 0.2 * run.clock.limit))
    objectives = tuple(o.name for o in run.objectives)
    n = len(tasks)
    ids = tuple(t.id for t in tasks)
    index = {name: i for i, name in enumerate(ids)}
    renewable = [r for r in problem.resources if r.type == "renewable"]
    nonrenewable = [r for r in problem.resources if r.type == "nonrenewable"]
    mode_start = np.zeros(n + 1, np.int64)
    mode_start[1:] = np.cumsum([len(t.modes) for t in tasks])
    total = int(mode_start[-1])
    duration = np.fromiter((m.duration for t in tasks for m in t.modes), np.int64, total)
    column = {r.name: k for k, r in enumerate(renewable)}
    column |= {r.name: len(renewable) + k for k, r in enumerate(nonrenewable)}
    units = np.zeros((total, len(column)), np.int64)
    cells = [
        (m, column[name], amount)
        for m, mode in enumerate(mode for t in tasks for mode in t.modes)
        for name, amount in mode.demands.items()
    ]
    if cells:
        rows, columns, amounts = np.array(cells, np.int64).T
        units[rows, columns] = amounts
    fixed = [(i, t.fixed) for i, t in enumerate(tasks) if t.fixed is not None]
    for i, fact in fixed:
        duration[mode_start[i] + fact.mode] = fact.end - fact.start
    demand = np.ascontiguousarray(units[:, : len(renewable)])
    demand[duration == 0] = 0  # what takes no time holds nothing
    consumption = np.ascontiguousarray(units[:, len(renewable) :])
    run.clock.check()

    profiles = capacity_profiles(problem)
    extras: dict[str, Any] = {}
    if fixed:
        # Facts are taken out of the resources: the others get what they leave.
        profiles = without_facts(problem, profiles)
        extras["held"] = held_names([r.name for r in renewable], demand)
    pieces = tuple(tuple(profiles.get(r.name, ())) for r in renewable)
    base = np.array([r.capacity for r in renewable], np.int64)
    capacity = np.array(
        [max([r.capacity, *(p[2] for p in own)]) for r, own in zip(renewable, pieces, strict=True)],
        np.int64,
    )
    budget = np.array([r.capacity for r in nonrenewable], np.int64)
    optional = np.array([t.optional and t.fixed is None for t in tasks], bool)
    pausable = np.array([t.pausable and t.fixed is None for t in tasks], bool)
    release = np.array([t.release for t in tasks], np.int64)
    for i, fact in fixed:
        mode = mode_start[i] + fact.mode
        budget = np.maximum(0, budget - consumption[mode])
        consumption[mode_start[i] : mode_start[i + 1]] = 0
        demand[mode_start[i] : mode_start[i + 1]] = 0
        release[i] = fact.start
    latest = FAR if problem.horizon is None else problem.horizon
    deadline = np.array(
        [latest if t.deadline is None else min(t.deadline, latest) for t in tasks], np.int64
    )
    for i, fact in fixed:
        deadline[i] = fact.end
    due = np.array([FAR if t.due is None else t.due for t in tasks], np.int64)

    names = [r.name for r in nonrenewable]
    usable = _usable_modes(ids, names, mode_start, demand, consumption, capacity, budget, optional)
    for i, fact in fixed:
        usable[mode_start[i] : mode_start[i + 1]] = False
        usable[mode_start[i] + fact.mode] = True
    shortest, longest = _duration_range(mode_start, duration, usable)
    _refuse_huge(problem, duration, longest, units)
    edges = _edges(problem, index)
    stretch = _longest_rest(pieces) if pausable.any() else 0
    worked, longest = longest, np.where(pausable & (longest > 0), longest + stretch, longest)
    arcs = _arcs(edges, shortest, longest)
    run.clock.check()

    head = longest_paths(n, arcs[~optional[arcs[:, 0]]], release.tolist(), ids, run)
    back = arcs[~optional[arcs[:, 1]]][:, [1, 0, 2]]
    tail = longest_paths(n, back, shortest.tolist(), ids, run)
    latest_start = (deadline - shortest).tolist()
    if n and deadline.min() < FAR:
        latest_start = [-x for x in longest_paths(n, back, [-x for x in latest_start], ids, run)]
    deadline = np.minimum(deadline, np.array(latest_start, np.int64) + longest)
    deadline[deadline > FAR // 2] = FAR
    heads = np.array(head, np.int64)
    for i in np.flatnonzero(heads > np.array(latest_start)).tolist():
        if not optional[i]:
            raise Infeasible(
                f"task {ids[i]!r} cannot start before {head[i]} by its releases and precedences, "
                f"but must start by {latest_start[i]} by its deadlines",
                "critical-path",
            )
        usable[mode_start[i] : mode_start[i + 1]] = False

    blocks_until = np.array(
        [-1 if t.blocks_until is None or t.fixed else index[t.blocks_until] for t in tasks],
        np.int64,
    )
    setups = _setups(problem, index, [r.name for r in renewable])
    varies = np.array([bool(own) for own in pieces], bool)
    placements = {
        (tuple(np.flatnonzero((demand[m] > 0) & varies).tolist()), bool(pausable[i]), duration[m])
        for i in range(n if varies.any() else 0)
        for m in range(mode_start[i], mode_start[i + 1])
        if usable[m]
    }
    horizon = horizon_of(
        max(int(release.max(initial=0)), int(due[due < FAR].max(initial=0))),
        shortest.tolist(),
        worked.tolist(),
        [(i, j, w) for i, j, w in _arcs(edges, worked, shortest).tolist()]
        + _setup_steps(setups, blocks_until, worked),
        pieces,
        base.tolist(),
        [(held, rests, int(d)) for held, rests, d in placements],
        "resource_levelling" in objectives,
    )
    if n and deadline.max() < FAR:
        horizon = min(horizon, int(deadline.max()))
    if horizon > LARGEST_SUM:
        raise ProblemError(
            "the sum of all durations, lags and dates is too large",
            value=horizon,
            remedy="Use a coarser time unit.",
        )
    reservoirs, disjunctive, selections = _groups(problem, index)
    _refuse_levels(reservoirs, heads + shortest, heads)
    plain = (
        bool((blocks_until < 0).all())
        and not problem.setups
        and not optional.any()
        and not pausable.any()
        and not any(pieces)
        and not reservoirs
        and not disjunctive
        and not selections
        and not release.any()
        and bool((deadline == FAR).all())
        and bool((edges[:, 2] == 0).all())
        and bool((edges[:, 3] >= 0).all())
        and bool((edges[:, 4] == FAR).all())
    )
    return Instance(
        problem=problem,
        objectives=objectives,
        ids=ids,
        mode_start=mode_start,
        duration=duration,
        demand=demand,
        consumption=consumption,
        mode_usable=usable,
        capacity=capacity,
        budget=budget,
        edges=reduced_edges(n, edges, shortest, optional, run),
        release=release,
        deadline=deadline,
        due=due,
        weight=np.array([t.weight for t in tasks], np.int64),
        earliness_weight=np.array([t.earliness_weight for t in tasks], np.int64),
        optional=optional,
        pausable=pausable,
        head=heads,
        tail=np.array(tail, np.int64),
        horizon=horizon,
        plain=plain,
        extras=extras,
        renewable=tuple(r.name for r in renewable),
        nonrenewable=tuple(r.name for r in nonrenewable),
        base=base,
        profiles=pieces,
        reservoirs=reservoirs,
        disjunctive=disjunctive,
        selections=selections,
        blocks_until=blocks_until,
        setups=setups,
    )


def without_facts(
    problem: RcpspProblem, profiles: dict[str, list[Piece]]
) -> dict[str, list[Piece]]:
    """Capacity profiles of the renewable resources, less what facts hold outside breaks."""
    used: dict[str, list[Piece]] = {}
    for task in problem.tasks:
        if task.fixed is None or task.fixed.end == task.fixed.start:
            continue
        for name, units in task.modes[task.fixed.mode].demands.items():
            if units:
                used.setdefault(name, []).append((task.fixed.start, task.fixed.end, units))
    out = dict(profiles)
    for resource in problem.resources:
        if resource.type == "renewable" and resource.name in used:
            out[resource.name] = _less(
                resource.capacity, profiles.get(resource.name, []), used[resource.name]
            )
    return out


def _less(ordinary: int, profile: Sequence[Piece], used: list[Piece]) -> list[Piece]:
    steps: dict[int, list[int]] = {}
    for start, end, capacity in profile:
        for time, sign in ((start, 1), (end, -1)):
            steps.setdefault(time, [0, 0])[0] += sign * (capacity - ordinary)
    for start, end, units in used:
        for time, sign in ((start, 1), (end, -1)):
            steps.setdefault(time, [0, 0])[1] += sign * units
    out: list[Piece] = []
    capacity, held = ordinary, 0
    times = sorted(steps)
    for time, until in itertools.pairwise(times):
        capacity += steps[time][0]
        held += steps[time][1]
        left = max(0, capacity - held)
        if left != ordinary:
            if out and out[-1][1] == time and out[-1][2] == left:
                out[-1] = (out[-1][0], until, left)
            else:
                out.append((time, until, left))
    return out


def held_names(renewable: Sequence[str], demand: IntArray) -> list[tuple[str, ...]]:
    """Names of the renewable resources that each mode holds."""
    lists: list[list[str]] = [[] for _ in range(len(demand))]
    for m, r in np.argwhere(demand > 0).tolist():
        lists[m].append(renewable[r])
    return [tuple(names) for names in lists]


def _refuse_huge(
    problem: RcpspProblem, duration: IntArray, longest: IntArray, units: IntArray
) -> None:
    """Raise unless sums of times, of times and units, and of times and weights fit 64 bits."""
    energy = (units * duration[:, None].astype(float)).sum(axis=0).max(initial=0.0)
    dates = [float(x) for t in problem.tasks for x in (t.release, t.due) if x is not None]
    time = float(longest.sum()) + max(dates, default=0.0)
    weights = sum(float(t.weight) + t.earliness_weight for t in problem.tasks)
    if max(time, energy, time * weights) > 2**60:
        raise ProblemError(
            "durations times demands, or times weights, add up to more than 64 bits hold",
            place="tasks",
            value=max(time, energy, time * weights),
            remedy="Use coarser units of time, demand or weight.",
        )


def _usable_modes(
    ids: tuple[str, ...],
    names: list[str],
    mode_start: IntArray,
    demand: IntArray,
    consumption: IntArray,
    capacity: IntArray,
    budget: IntArray,
    optional: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Modes that fit the capacities, and the budgets when all others consume their least."""
    usable: NDArray[np.bool_] = np.all(demand <= capacity, axis=1)
    mandatory = ~optional
    owner = np.repeat(np.arange(len(ids)), np.diff(mode_start))
    while True:
        any_left = np.zeros(len(ids), bool)
        any_left[owner[usable]] = True
        for i in np.flatnonzero(~any_left & mandatory).tolist():
            raise Infeasible(
                f"task {ids[i]!r} fits in none of its modes: each demands or consumes more than "
                "there is",
                "mode",
            )
        if not len(budget):
            return usable
        least = np.full((len(ids), len(budget)), FAR, np.int64)
        np.minimum.at(least, owner[usable], consumption[usable])
        least[~mandatory | ~any_left] = 0
        spare = budget - least.sum(axis=0)
        if (spare < 0).any():
            k = int(np.flatnonzero(spare < 0)[0])
            raise Infeasible(
                f"the tasks consume at least {int(least[:, k].sum())} units of nonrenewable "
                f"resource {names[k]!r}, there are {int(budget[k])}",
                "nonrenewable",
            )
        fits: NDArray[np.bool_] = np.all(consumption - least[owner] <= spare, axis=1)
        tight: NDArray[np.bool_] = np.logical_and(usable, fits)
        if (tight == usable).all():
            return usable
        usable = tight


def _duration_range(
    mode_start: IntArray, duration: IntArray, usable: NDArray[np.bool_]
) -> tuple[IntArray, IntArray]:
    """Shortest and longest duration of each task over its usable modes, each (n,)."""
    n = len(mode_start) - 1
    owner = np.repeat(np.arange(n), np.diff(mode_start))
    shortest, longest = np.full(n, FAR, np.int64), np.zeros(n, np.int64)
    np.minimum.at(shortest, owner[usable], duration[usable])
    np.maximum.at(longest, owner[usable], duration[usable])
    shortest[shortest == FAR] = 0
    return shortest, longest


def _longest_rest(pieces: tuple[tuple[Piece, ...], ...]) -> int:
    """An upper limit on how long a pausable task can rest in total."""
    return sum(end - start for own in pieces for start, end, capacity in own if capacity == 0)


def _edges(problem: RcpspProblem, index: dict[str, int]) -> IntArray:
    """The precedences as rows of `Instance.edges`, (E, 5)."""
    code = {name: k for k, name in enumerate(EDGE_TYPES)}
    rows = [
        (
            index[p.before],
            index[p.after],
            code[p.type],
            -FAR if p.min_lag is None else p.min_lag,
            FAR if p.max_lag is None else p.max_lag,
        )
        for p in problem.precedences
        if problem.tasks[index[p.before]].fixed is None
        or problem.tasks[index[p.after]].fixed is None
    ]
    # Who takes over from a blocking task does not start before its end.
    rows += [
        (i, index[t.blocks_until], 0, 0, FAR)
        for i, t in enumerate(problem.tasks)
        if t.blocks_until is not None and t.fixed is None
    ]
    return np.array(rows, np.int64).reshape(-1, 5)


def _arcs(edges: IntArray, shortest: IntArray, longest: IntArray) -> IntArray:
    """Every lag as a row (i, j, w) for ``start(j) >= start(i) + w``, with the least such w.

    With the two arguments swapped, the largest w that durations allow.
    """
    before, after, kind, least, most = edges.T
    ends_before, ends_after = (kind == 0) | (kind == 2), (kind == 2) | (kind == 3)
    forward = least + shortest[before] * ends_before - longest[after] * ends_after
    backward = shortest[after] * ends_after - most - longest[before] * ends_before
    low, high = least > -FAR, most < FAR
    return np.concatenate(
        [
            np.stack([before[low], after[low], forward[low]], axis=1),
            np.stack([after[high], before[high], backward[high]], axis=1),
        ]
    )


def _setups(
    problem: RcpspProblem, index: dict[str, int], renewable: list[str]
) -> tuple[SetupRule, ...]:
    rules = []
    for s in problem.setups:
        state = np.full(len(index), -1, np.int64)
        for name, value in s.states.items():
            state[index[name]] = value
        times = np.array(s.times, np.int64)
        costs = np.array(s.costs, np.int64) if s.costs else np.zeros_like(times)
        rules.append(SetupRule(renewable.index(s.resource), state, times, costs))
    return tuple(rules)


def _setup_steps(
    setups: tuple[SetupRule, ...], blocks_until: IntArray, worked: IntArray
) -> list[Arc]:
    """What setups add to the steps of `horizon_of`, after a task or after its taker's start."""
    out = []
    for rule in setups:
        for i in np.flatnonzero(rule.state >= 0).tolist():
            longest = int(rule.times[rule.state[i]].max(initial=0))
            taker = int(blocks_until[i])
            out.append((i, i, int(worked[i]) + longest) if taker < 0 else (taker, taker, longest))
    return out


def _refuse_levels(reservoirs: tuple[Reservoir, ...], end: IntArray, start: IntArray) -> None:
    """Raise `Infeasible` for a level that is out of its range before any event can happen."""
    for tank in reservoirs:
        first = np.where(tank.events[:, 2] > 0, end[tank.events[:, 0]], start[tank.events[:, 0]])
        if not tank.holds(tank.initial) and not (first <= 0).any():
            raise Infeasible(
                f"reservoir {tank.name!r} starts at level {tank.initial}, out of its range, and "
                "no task can change it at time 0",
                "reservoir",
            )


def _groups(
    problem: RcpspProblem, index: dict[str, int]
) -> tuple[tuple[Reservoir, ...], tuple[tuple[int, ...], ...], tuple[Chosen, ...]]:
    events: dict[str, list[tuple[int, int, int]]] = {}
    for i, task in enumerate(problem.tasks):
        for event in task.events:
            if event.amount:
                row = (i, event.amount, int(event.at == "end"))
                events.setdefault(event.resource, []).append(row)
    reservoirs = tuple(
        Reservoir(
            r.name,
            r.initial,
            r.minimum,
            r.maximum,
            np.array(events.get(r.name, []), np.int64).reshape(-1, 3),
        )
        for r in problem.resources
        if r.type == "reservoir"
    )
    disjunctive = tuple(tuple(index[t] for t in g.tasks) for g in problem.disjunctive)
    selections = tuple(
        Chosen(
            s.type,
            tuple(index[t] for t in s.tasks),
            -1 if s.condition is None else index[s.condition],
        )
        for s in problem.selections
    )
    return reservoirs, disjunctive, selections
