"""From the problem's names to arrays: what greedy, bounds, model and search work on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.errors import Infeasible, ProblemError
from cpsched.families.rcpsp.facts import held_names, without_facts
from cpsched.families.rcpsp.graph import AT_ONCE, longest_paths, reduced_edges
from cpsched.families.rcpsp.horizon import horizon_of
from cpsched.families.rcpsp.instance import (
    EDGE_TYPES,
    FAR,
    LARGEST_SUM,
    Chosen,
    Instance,
    IntArray,
    Reservoir,
)
from cpsched.families.rcpsp.prepare_modes import (
    duration_range,
    longest_rest,
    refuse_huge,
    usable_modes,
)
from cpsched.families.rcpsp.prepare_shop import (
    Transports,
    extra_steps,
    refuse_shop,
    setup_rules,
    shop_rules,
)
from cpsched.families.rcpsp.profile import NEVER, Piece, capacity_profiles
from cpsched.problem import LARGEST

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.problem import RcpspProblem

__all__ = ["FAR", "Instance", "prepare"]


def prepare(problem: RcpspProblem, run: Run) -> Instance:
    """Index the problem, tighten it, and prove it infeasible where that is easy.

    Raises
    ------
    Infeasible
        With the task, resource or cycle of precedences that makes a schedule impossible.
    ProblemError
        When times or units are too large to be added up in 64 bits.
    OutOfTime
        When the clock ran out on the way and there are more than `AT_ONCE` tasks.
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
    holds = demand > 0
    consumption = np.ascontiguousarray(units[:, len(renewable) :])
    if n > AT_ONCE:
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
    usable = usable_modes(ids, names, mode_start, demand, consumption, capacity, budget, optional)
    for i, fact in fixed:
        usable[mode_start[i] : mode_start[i + 1]] = False
        usable[mode_start[i] + fact.mode] = True
    deadline = np.minimum(deadline, _closing(pieces, demand, usable, mode_start))
    shortest, longest = duration_range(mode_start, duration, usable)
    refuse_huge(problem, duration, longest, units)
    transports = Transports(problem, mode_start, usable)
    edges = _edges(problem, index, transports)
    stretch = longest_rest(pieces) if pausable.any() else 0
    worked, longest = longest, np.where(pausable & (longest > 0), longest + stretch, longest)
    arcs = _arcs(edges, shortest, longest)
    if n > AT_ONCE:
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
    setups = setup_rules(problem, index, [r.name for r in renewable])
    shop = shop_rules(problem, index, [r.name for r in renewable], mode_start, transports)
    # Rules under which a task that finds a place may have to wait for others to find theirs.
    together = bool(shop.no_idle or shop.batches or any(rule.demand.any() for rule in setups))
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
        + extra_steps(setups, shop, blocks_until, worked),
        _changing(pieces, base),
        base.tolist(),
        [(held, rests, int(d)) for held, rests, d in placements],
        together or "resource_levelling" in objectives,
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
    extras["ordered"] = plain and shop.only_sequences()
    instance = Instance(
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
        plain=plain and not shop,
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
        fixed=np.array([t.fixed is not None for t in tasks], bool),
        holds=holds,
        shop=shop,
    )
    refuse_shop(instance)
    return instance


def _closing(
    pieces: tuple[tuple[Piece, ...], ...],
    demand: IntArray,
    usable: NDArray[np.bool_],
    mode_start: IntArray,
) -> IntArray:
    """When the last machine closes for good on which each task can be done, (n,)."""
    close = np.array([own[-1][0] if own and own[-1][1] >= NEVER else FAR for own in pieces])
    by_mode = np.where(demand > 0, close.reshape(1, -1), FAR).min(axis=1, initial=FAR)
    latest = np.zeros(len(mode_start) - 1, np.int64)
    owner = np.repeat(np.arange(len(latest)), np.diff(mode_start))
    np.maximum.at(latest, owner[usable], by_mode[usable])
    latest[~np.isin(np.arange(len(latest)), owner[usable])] = FAR
    return latest


def _changing(pieces: tuple[tuple[Piece, ...], ...], base: IntArray) -> list[list[Piece]]:
    """The profiles without a last piece of less capacity that never ends.

    Whatever ends before it begins may be done earlier, so it delays nothing.
    """
    return [
        [p for p in own if p[1] < LARGEST or p[2] > usual]
        for own, usual in zip(pieces, base.tolist(), strict=True)
    ]


def _edges(problem: RcpspProblem, index: dict[str, int], transports: Transports) -> IntArray:
    """The precedences as rows of `Instance.edges`, (E, 5), with the least times of transport."""
    code = {name: k for k, name in enumerate(EDGE_TYPES)}
    rows = []
    for p in problem.precedences:
        i, j = index[p.before], index[p.after]
        if problem.tasks[i].fixed is not None and problem.tasks[j].fixed is not None:
            continue
        least = -FAR if p.min_lag is None else p.min_lag
        if p.transport:
            least = (p.min_lag or 0) + transports.range_of(p, i, j)[0]
        rows.append((i, j, code[p.type], least, FAR if p.max_lag is None else p.max_lag))
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
