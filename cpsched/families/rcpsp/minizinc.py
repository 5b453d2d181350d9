"""The data of models/rcpsp.mzn, as JSON."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

from cpsched.families.rcpsp.evaluate import mode_cost
from cpsched.families.rcpsp.problem import OBJECTIVES, RcpspProblem
from cpsched.families.rcpsp.profile import capacity_profiles
from cpsched.problem import LARGEST

_LAG_TYPES = ("end-start", "start-start", "end-end", "start-end")
_SELECTION_TYPES = ("exactly_one", "at_least_one", "all_or_none", "implication")


def write_minizinc(problem: RcpspProblem, schedule: object = None) -> str:
    """Data for models/rcpsp.mzn; of several objectives the first is taken."""
    return json.dumps(data_of(problem))


def data_of(problem: RcpspProblem) -> dict[str, Any]:
    """The parameters of models/rcpsp.mzn, by name; indices there start at 1."""
    tasks = problem.tasks
    number = {t.id: i for i, t in enumerate(tasks, 1)}
    modes = [(i, mode) for i, t in enumerate(tasks, 1) for mode in t.modes]
    renewable = [r for r in problem.resources if r.type == "renewable"]
    nonrenewable = [r for r in problem.resources if r.type == "nonrenewable"]
    tanks = [r for r in problem.resources if r.type == "reservoir"]
    profiles = capacity_profiles(problem)
    pieces = [(k, *piece) for k, r in enumerate(renewable, 1) for piece in profiles.get(r.name, ())]
    column = {r.name: k for k, r in enumerate(tanks, 1)}
    events = [
        (i, column[e.resource], e.amount, e.at == "end")
        for i, t in enumerate(tasks, 1)
        for e in t.events
    ]
    changes = sum(abs(amount) for _, _, amount, _ in events)
    horizon = horizon_of(problem)
    groups = [{"set": sorted(number[t] for t in g.tasks)} for g in problem.disjunctive]
    chosen = [{"set": sorted({number[t] for t in s.tasks})} for s in problem.selections]
    lags = problem.precedences
    names = problem.objectives
    states = max((len(s.times) for s in problem.setups), default=0)
    pieces = [(k, start, min(end, horizon), c) for k, start, end, c in pieces if start < horizon]
    return {
        "n": len(tasks),
        "m": len(modes),
        "horizon": horizon,
        "mode_task": [i for i, _ in modes],
        "duration": [mode.duration for _, mode in modes],
        "mode_cost": [mode_cost(problem, mode) for _, mode in modes],
        "release": [t.release for t in tasks],
        "deadline": [horizon if t.deadline is None else min(t.deadline, horizon) for t in tasks],
        "due": [-1 if t.due is None else t.due for t in tasks],
        "weight": [t.weight for t in tasks],
        "earliness_weight": [t.earliness_weight for t in tasks],
        "optional": [t.optional for t in tasks],
        "pausable": [t.pausable for t in tasks],
        "blocks_until": [number.get(t.blocks_until or "", 0) for t in tasks],
        "resources": len(renewable),
        "capacity": [r.capacity for r in renewable],
        "demand": [[mode.demands.get(r.name, 0) for r in renewable] for _, mode in modes],
        "pieces": len(pieces),
        "piece_resource": [k for k, *_ in pieces],
        "piece_start": [start for _, start, _, _ in pieces],
        "piece_end": [end for _, _, end, _ in pieces],
        "piece_capacity": [capacity for *_, capacity in pieces],
        "budgets": len(nonrenewable),
        "budget": [r.capacity for r in nonrenewable],
        "consumption": [[mode.demands.get(r.name, 0) for r in nonrenewable] for _, mode in modes],
        "reservoirs": len(tanks),
        "initial": [r.initial for r in tanks],
        "minimum": [r.minimum for r in tanks],
        "maximum": [r.initial + changes if r.maximum is None else r.maximum for r in tanks],
        "events": len(events),
        "event_task": [i for i, *_ in events],
        "event_reservoir": [k for _, k, _, _ in events],
        "event_amount": [amount for _, _, amount, _ in events],
        "event_at_end": [at_end for *_, at_end in events],
        "precedences": len(lags),
        "before": [number[p.before] for p in lags],
        "after": [number[p.after] for p in lags],
        "lag_type": [1 + _LAG_TYPES.index(p.type) for p in lags],
        "has_min_lag": [p.min_lag is not None for p in lags],
        "min_lag": [p.min_lag or 0 for p in lags],
        "has_max_lag": [p.max_lag is not None for p in lags],
        "max_lag": [p.max_lag or 0 for p in lags],
        "disjunctives": len(groups),
        "disjunctive_tasks": groups,
        "selections": len(chosen),
        "selection_type": [1 + _SELECTION_TYPES.index(s.type) for s in problem.selections],
        "selection_tasks": chosen,
        "selection_first": [number[s.tasks[0]] for s in problem.selections],
        "selection_condition": [
            0 if s.condition is None else number[s.condition] for s in problem.selections
        ],
        "setup_rules": len(problem.setups),
        "setup_states": states,
        "setup_resource": [
            1 + [r.name for r in renewable].index(s.resource) for s in problem.setups
        ],
        "setup_state": [[1 + s.states.get(t.id, 0) for t in tasks] for s in problem.setups],
        "setup_time": [_padded(s.times, states) for s in problem.setups],
        "setup_price": [_padded(s.costs, states) for s in problem.setups],
        "setup_demand": [[s.demands.get(r.name, 0) for r in renewable] for s in problem.setups],
        **_shop(problem, number, [r.name for r in renewable]),
        "objective_number": 1 + OBJECTIVES.index(names[0]) if names else 0,
    }


def _shop(problem: RcpspProblem, number: dict[str, int], renewable: list[str]) -> dict[str, Any]:
    """The rules of shops; a list of tasks in one sequence becomes pairs that do not overtake."""
    modes = [mode for task in problem.tasks for mode in task.modes]
    column = {name: k for k, name in enumerate(renewable, 1)}
    pairs = [
        [number[name] for name in (first[a], first[b], second[a], second[b])]
        for same in problem.same_sequence
        for first, second in combinations(same.lists, 2)
        for a, b in combinations(range(len(first)), 2)
    ]
    place = [0] * len(modes)
    times: tuple[tuple[int, ...], ...] = ()
    if problem.transport is not None:
        row = {name: k for k, name in enumerate(problem.transport.resources, 1)}
        times = problem.transport.times
        # Only tasks without transport can hold several machines: their place does not matter.
        place = [
            max((row.get(n, 0) for n, u in mode.demands.items() if u), default=0) for mode in modes
        ]
    families = [
        {name: k for k, name in enumerate(sorted(set(b.families.values())), 1)}
        for b in problem.batching
    ]
    return {
        "swap": problem.swap,
        "no_idle": [next(r for r in problem.resources if r.name == n).no_idle for n in renewable],
        "overtakings": len(pairs),
        "overtaking": pairs,
        "places": len(times),
        "place": place,
        "transport_time": [list(row) for row in times],
        "transport": [p.transport for p in problem.precedences],
        "batch_rules": len(problem.batching),
        "batch_resource": [column[b.resource] for b in problem.batching],
        "family": [
            [codes.get(b.families.get(t.id, ""), 0) for t in problem.tasks]
            for b, codes in zip(problem.batching, families, strict=True)
        ],
        "assignments": len(problem.assignments),
        "assignment_different": [a.type == "different" for a in problem.assignments],
        "assignment_tasks": [
            {"set": sorted(number[t] for t in a.tasks)} for a in problem.assignments
        ],
        "assignment_resources": [
            {"set": sorted(column[name] for name in a.resources or renewable)}
            for a in problem.assignments
        ],
    }


def _padded(matrix: tuple[tuple[int, ...], ...], size: int) -> list[list[int]]:
    """A square matrix of that size, filled up with 0."""
    rows = [list(row) + [0] * (size - len(row)) for row in matrix]
    return rows + [[0] * size] * (size - len(rows))


def horizon_of(problem: RcpspProblem) -> int:
    """A time by which some best schedule has ended: a plain sum, not the tightest."""
    if problem.horizon is not None:
        return problem.horizon
    dates = [x for t in problem.tasks for x in (t.release, t.due or 0)]
    profiles = capacity_profiles(problem).values()
    dates += [piece[1] for pieces in profiles for piece in pieces if piece[1] < LARGEST]
    work = sum(max(mode.duration for mode in t.modes) for t in problem.tasks)
    lags = sum(abs(p.min_lag or 0) for p in problem.precedences)
    setups = sum(max(map(max, s.times), default=0) * len(problem.tasks) for s in problem.setups)
    times = [0] if problem.transport is None else [max(row) for row in problem.transport.times]
    moves = max(times) * sum(p.transport for p in problem.precedences)
    return max(dates, default=0) + work + lags + setups + moves
