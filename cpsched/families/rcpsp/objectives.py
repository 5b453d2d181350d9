"""The objectives of the family as CP-SAT expressions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from cpsched.families.rcpsp.evaluate import mode_cost
from cpsched.families.rcpsp.model import Model
from cpsched.families.rcpsp.prepare import FAR
from cpsched.families.rcpsp.schedule import State


def objective_expression(model: Model, name: str) -> Any:
    """An integer expression with the objective's value, posted into the model.

    In a minimal solution it equals the objective; in others it may be larger.
    """
    expressions = {
        "makespan": _makespan,
        "weighted_tardiness": _weighted_tardiness,
        "late_tasks": _late_tasks,
        "weighted_flow_time": _weighted_flow_time,
        "max_lateness": _max_lateness,
        "earliness_tardiness": _earliness_tardiness,
        "setup_cost": _setup_cost,
        "resource_cost": _resource_cost,
        "resource_levelling": _resource_levelling,
        "replan_cost": _replan_cost,
    }
    return expressions[name](model)


def _makespan(model: Model) -> Any:
    return model.makespan


def _due(model: Model) -> list[tuple[int, int]]:
    """Tasks with a due date, and the date."""
    return [(i, d) for i, d in enumerate(model.instance.due.tolist()) if d < FAR]


def _present(s: State, i: int) -> bool:
    return s.mode[i] >= 0


def _tardiness(model: Model, i: int, due: int) -> Any:
    high = max(0, model.limit - due)
    if not high:
        return 0
    late = model.integer(
        0, high, f"tardiness_{i}", lambda s: max(0, s.end[i] - due) if _present(s, i) else 0
    )
    model.enforced(model.cp.add(late >= model.end[i] - due), model.present[i])
    return late


def _earliness(model: Model, i: int, due: int) -> Any:
    early = model.integer(
        0, due, f"earliness_{i}", lambda s: max(0, due - s.end[i]) if _present(s, i) else 0
    )
    model.enforced(model.cp.add(early >= due - model.end[i]), model.present[i])
    return early


def _weighted_tardiness(model: Model) -> Any:
    weights = model.instance.weight.tolist()
    return _sum([(weights[i], _tardiness(model, i, due)) for i, due in _due(model) if weights[i]])


def _earliness_tardiness(model: Model) -> Any:
    inst = model.instance
    terms = []
    for i, due in _due(model):
        if inst.weight[i]:
            terms.append((int(inst.weight[i]), _tardiness(model, i, due)))
        if inst.earliness_weight[i]:
            terms.append((int(inst.earliness_weight[i]), _earliness(model, i, due)))
    return _sum(terms)


def _late_tasks(model: Model) -> Any:
    terms = []
    for i, due in _due(model):
        late = model.boolean(f"late_{i}", _is_late(i, due))
        model.enforced(model.cp.add(model.end[i] <= due), late.negated(), model.present[i])
        terms.append((1, late))
    return _sum(terms)


def _is_late(i: int, due: int) -> Callable[[State], bool]:
    return lambda s: _present(s, i) and s.end[i] > due


def _weighted_flow_time(model: Model) -> Any:
    terms: list[tuple[int, Any]] = []
    for i, weight in enumerate(model.instance.weight.tolist()):
        if not weight:
            continue
        end = model.end[i]
        if model.present[i] is not None:
            end = model.integer(0, model.limit, f"flow_{i}", _end_if_present(i))
            model.enforced(model.cp.add(end >= model.end[i]), model.present[i])
        terms.append((weight, end))
    return _sum(terms)


def _end_if_present(i: int) -> Callable[[State], int]:
    return lambda s: s.end[i] if _present(s, i) else 0


def _max_lateness(model: Model) -> Any:
    due = _due(model)
    if not due:
        return 0

    def value(s: State) -> int:
        return max((s.end[i] - d for i, d in due if _present(s, i)), default=0)

    low = min([0, *(-d for _, d in due)])
    worst = model.integer(low, max(0, model.limit - low), "max_lateness", value)
    for i, d in due:
        model.enforced(model.cp.add(worst >= model.end[i] - d), model.present[i])
    present = [p for i, _ in due if (p := model.present[i]) is not None]
    if len(present) == len(due):
        nobody = model.boolean("nobody_due", lambda s: not any(_present(s, i) for i, _ in due))
        model.cp.add_bool_or([*present, nobody])
        model.cp.add(worst >= 0).only_enforce_if(nobody)
    return worst


def _setup_cost(model: Model) -> Any:
    return _sum(list(model.setup_costs))


def _replan_cost(model: Model) -> Any:
    problem = model.instance.problem
    terms = []
    for i, task in enumerate(problem.tasks):
        if task.planned is None or task.fixed is not None or not problem.stability:
            continue
        moved = model.integer(0, max(model.limit, task.planned), "", _moved(i, task.planned))
        for sign in (1, -1):
            difference = sign * (model.start[i] - task.planned)
            model.enforced(model.cp.add(moved >= difference), model.present[i])
        terms.append((problem.stability, moved))
    facts = sum(
        abs(t.fixed.start - t.planned) for t in problem.tasks if t.fixed and t.planned is not None
    )
    base = objective_expression(model, problem.stable_objective)
    return base + _sum(terms) + problem.stability * facts


def _moved(i: int, planned: int) -> Callable[[State], int]:
    return lambda s: abs(s.start[i] - planned) if _present(s, i) else 0


def _resource_cost(model: Model) -> Any:
    inst = model.instance
    terms: list[tuple[int, Any]] = []
    constant = 0
    for i, literals in enumerate(model.chosen):
        first = int(inst.mode_start[i])
        for m, literal in literals.items():
            cost = mode_cost(inst.problem, inst.problem.tasks[i].modes[m - first])
            if literal is None:
                constant += cost
            elif cost:
                terms.append((cost, literal))
    return _sum(terms) + constant


def _resource_levelling(model: Model) -> Any:
    """Squared use over time: each task's own square, and twice the overlap of each pair."""
    inst = model.instance
    column = {name: r for r, name in enumerate(inst.renewable)}
    units = np.zeros_like(inst.demand)  # unlike `inst.demand`, with what facts hold
    for m, mode in enumerate(mode for task in inst.problem.tasks for mode in task.modes):
        for name, amount in mode.demands.items():
            if name in column:
                units[m, column[name]] = amount
    terms: list[tuple[int, Any]] = []
    constant = 0
    for r in range(len(inst.capacity)):
        uses = [
            (i, m, literal)
            for i, literals in enumerate(model.chosen)
            for m, literal in literals.items()
            if units[m, r] and inst.duration[m]
        ]
        for i, m, literal in uses:
            square = int(units[m, r]) ** 2
            time = _time(model, i, m, literal)
            if isinstance(time, int):
                constant += square * time
            else:
                terms.append((square, time))
        for first, second in combinations(uses, 2):
            if first[0] == second[0]:
                continue
            model.run.clock.check()
            weight = 2 * int(units[first[1], r] * units[second[1], r])
            terms.append((weight, _overlap(model, first, second)))
    return _sum(terms) + constant


def _time(model: Model, i: int, mode: int, chosen: Any) -> Any:
    """The time from start to end if that mode is chosen, else 0; a plain number if it is known."""
    inst = model.instance
    duration = int(inst.duration[mode])
    if not inst.pausable[i]:
        return duration if chosen is None else duration * chosen
    if chosen is None:
        return model.end[i] - model.start[i]
    time = model.integer(
        0, model.limit, f"time_{mode}", lambda s: s.end[i] - s.start[i] if s.mode[i] == mode else 0
    )
    model.enforced(model.cp.add(time >= model.end[i] - model.start[i]), chosen)
    return time


def _overlap(model: Model, first: tuple[int, int, Any], second: tuple[int, int, Any]) -> Any:
    """At least the time in which two tasks in given modes run together, in whatever order."""
    known = model.overlaps
    key = (first[1], second[1])
    if key in known:
        return known[key]
    inst = model.instance
    (i, m, chosen_i), (j, k, chosen_j) = first, second
    high = int(min(inst.duration[m], inst.duration[k]))

    def value(s: State) -> int:
        if s.mode[i] != m or s.mode[j] != k:
            return 0
        return max(0, min(s.end[i], s.end[j]) - max(s.start[i], s.start[j]))

    shared = model.integer(0, high, f"overlap_{m}_{k}", value)
    # The overlap is at least the least of the four differences of an end and a start.
    least = []
    for c, (end, start) in enumerate(product((i, j), (i, j))):
        literal = model.boolean(f"least_{m}_{k}_{c}", _is_least(i, j, c))
        difference = model.end[end] - model.start[start]
        model.enforced(model.cp.add(shared >= difference), literal, chosen_i, chosen_j)
        least.append(literal)
    model.cp.add_bool_or(least)
    known[key] = shared
    return shared


def _is_least(i: int, j: int, case: int) -> Callable[[State], bool]:
    """Whether that difference of an end and a start is the overlap: see `_overlap`."""

    def holds(s: State) -> bool:
        differences = [s.end[a] - s.start[b] for a, b in product((i, j), (i, j))]
        return int(np.argmin(differences)) == case

    return holds


def _sum(terms: list[tuple[int, Any]]) -> Any:
    terms = [(w, x) for w, x in terms if not isinstance(x, int)]
    if not terms:
        return 0
    return cp_model.LinearExpr.weighted_sum([x for _, x in terms], [w for w, _ in terms])
