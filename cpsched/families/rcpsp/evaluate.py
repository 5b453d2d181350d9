"""The values of a schedule, from the definitions of the objectives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from cpsched.families.rcpsp.check_shop import by_resource
from cpsched.families.rcpsp.problem import Mode, RcpspProblem, RcpspSchedule
from cpsched.result import Values


def evaluate(problem: RcpspProblem, schedule: RcpspSchedule, names: Sequence[str]) -> Values:
    """Values of the named objectives of a valid schedule; all are minimised integers.

    ``weighted_flow_time`` is the sum of weight times end, ``max_lateness`` is 0 when no present
    task has a due date, and ``resource_levelling`` is the sum over renewable resources and time
    units of the squared use.
    """
    tasks = {t.id: t for t in problem.tasks}
    done = [(tasks[d.task], tasks[d.task].modes[d.mode], d) for d in schedule.tasks]
    due = [(t, d.end - t.due) for t, _, d in done if t.due is not None]
    values = []
    for name in names:
        if name == "makespan":
            value = max((d.end for d in schedule.tasks), default=0)
        elif name == "weighted_tardiness":
            value = sum(t.weight * max(0, late) for t, late in due)
        elif name == "late_tasks":
            value = sum(late > 0 for _, late in due)
        elif name == "weighted_flow_time":
            value = sum(t.weight * d.end for t, _, d in done)
        elif name == "max_lateness":
            value = max((late for _, late in due), default=0)
        elif name == "earliness_tardiness":
            value = sum(t.weight * max(0, x) + t.earliness_weight * max(0, -x) for t, x in due)
        elif name == "setup_cost":
            value = _setup_cost(problem, schedule)
        elif name == "resource_cost":
            value = sum(mode_cost(problem, m) for _, m, _ in done)
        elif name == "replan_cost":
            value = int(evaluate(problem, schedule, [problem.stable_objective])[0])
            value += problem.stability * sum(
                abs(d.start - t.planned) for t, _, d in done if t.planned is not None
            )
        else:
            value = _levelling(problem, schedule)
        values.append(value)
    return tuple(values)


def mode_cost(problem: RcpspProblem, mode: Mode) -> int:
    """Cost of executing a mode: its own, and its use and consumption of priced resources."""
    cost = mode.cost
    for resource in problem.resources:
        units = mode.demands.get(resource.name, 0)
        time = mode.duration if resource.type == "renewable" else 1
        cost += resource.unit_cost * units * time
    return cost


def _setup_cost(problem: RcpspProblem, schedule: RcpspSchedule) -> int:
    total = 0
    holding = by_resource(problem, schedule.tasks)
    for setups in problem.setups:
        if setups.costs:
            states = [setups.states[d.task] for d in holding.get(setups.resource, ())]
            total += sum(setups.costs[a][b] for a, b in pairwise(states))
    return total


def _levelling(problem: RcpspProblem, schedule: RcpspSchedule) -> int:
    """Resting tasks count: they keep their resources."""
    tasks = {t.id: t for t in problem.tasks}
    total = 0
    for resource in problem.resources:
        if resource.type != "renewable":
            continue
        steps: dict[int, int] = defaultdict(int)
        for d in schedule.tasks:
            units = tasks[d.task].modes[d.mode].demands.get(resource.name, 0)
            steps[d.start] += units
            steps[d.end] -= units
        use = last = 0
        for time in sorted(steps):
            total += use * use * (time - last)
            use, last = use + steps[time], time
    return total
