"""Peers of the `rcpsp` family: PyJobShop, and a direct CP-SAT model with default parameters."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.suite import Answer, Case, Peer
from cpsched.families.rcpsp.problem import RcpspProblem

UNSUPPORTED = Answer("UNSUPPORTED", None)


def rule_with_swaps(rule: str) -> Peer:
    """Earliest (modified) due date on one machine, then swaps of neighbours while they help."""

    def peer(case: Case, problem: RcpspProblem, limit: float, workers: int, seed: int) -> Answer:
        jobs = [(t.modes[0].duration, t.due or 0, t.weight) for t in problem.tasks]
        order = sorted(range(len(jobs)), key=lambda j: jobs[j][1])
        if rule == "mdd":
            now, left, order = 0, set(order), []
            while left:
                j = min(left, key=lambda i: (max(now + jobs[i][0], jobs[i][1]), i))
                left.remove(j)
                order.append(j)
                now += jobs[j][0]

        def cost(j: int, end: int) -> int:
            return jobs[j][2] * max(0, end - jobs[j][1])

        improved = True
        while improved:
            improved, now = False, 0
            for k in range(len(order) - 1):
                i, j = order[k], order[k + 1]
                end = now + jobs[i][0] + jobs[j][0]
                kept = cost(i, now + jobs[i][0]) + cost(j, end)
                if cost(j, now + jobs[j][0]) + cost(i, end) < kept:
                    order[k], order[k + 1] = j, i
                    improved = True
                now += jobs[order[k]][0]
        total = now = 0
        for j in order:
            now += jobs[j][0]
            total += cost(j, now)
        return Answer("FEASIBLE", total)

    return peer


def expressible(problem: RcpspProblem) -> bool:
    """Whether the peers' models below cover the problem."""
    plain_tasks = all(not (t.optional or t.pausable) for t in problem.tasks)
    plain_resources = all(not r.capacity_changes for r in problem.resources)
    return (
        plain_tasks
        and plain_resources
        and problem.calendar is None
        and not problem.selections
        and not problem.setups
        and all(t.blocks_until is None or len(t.modes) == 1 for t in problem.tasks)
        and problem.objectives in (("makespan",), ("weighted_tardiness",))
    )


def pyjobshop(case: Case, problem: RcpspProblem, limit: float, workers: int, seed: int) -> Answer:
    """PyJobShop with its OR-Tools backend; only demands that are not zero are passed on."""
    blocking = any(t.blocks_until is not None for t in problem.tasks)
    tanks = any(r.type == "reservoir" for r in problem.resources)
    if blocking or tanks or not expressible(problem):
        return UNSUPPORTED
    from pyjobshop import Machine, Model

    model = Model()
    resources: dict[str, Any] = {}
    for r in problem.resources:
        if r.type == "nonrenewable":
            resources[r.name] = model.add_consumable(r.capacity)
        elif r.capacity == 1:
            resources[r.name] = model.add_machine()
        else:
            resources[r.name] = model.add_renewable(r.capacity)
    rooms: dict[str, list[Any]] = {t.id: [] for t in problem.tasks}
    for group in problem.disjunctive:
        room = model.add_machine()
        for name in group.tasks:
            rooms[name].append(room)
    tasks = {}
    for t in problem.tasks:
        job = None
        if t.due is not None and problem.objectives == ("weighted_tardiness",):
            job = model.add_job(weight=t.weight, due_date=t.due)
        bounds = {"earliest_start": t.release}
        if t.deadline is not None:
            bounds["latest_end"] = t.deadline
        tasks[t.id] = task = model.add_task(job=job, **bounds)
        for mode in t.modes:
            # PyJobShop's machines take one task at a time without a demand.
            needs = [
                (resources[name], 0 if isinstance(resources[name], Machine) else units)
                for name, units in mode.demands.items()
                if units
            ]
            needs += [(room, 0) for room in rooms[t.id]]
            model.add_mode(task, [r for r, _ in needs], mode.duration, [u for _, u in needs])
    before = {
        "end-start": model.add_end_before_start,
        "start-start": model.add_start_before_start,
        "end-end": model.add_end_before_end,
        "start-end": model.add_start_before_end,
    }
    for p in problem.precedences:
        first, second = p.type.split("-")
        if p.min_lag is not None:
            before[p.type](tasks[p.before], tasks[p.after], delay=p.min_lag)
        if p.max_lag is not None:
            before[f"{second}-{first}"](tasks[p.after], tasks[p.before], delay=-p.max_lag)
    if problem.objectives == ("weighted_tardiness",):
        model.set_objective(weight_total_tardiness=1)
    else:
        model.set_objective(weight_makespan=1)
    began = time.perf_counter()
    with captured() as log:
        result = model.solve(time_limit=limit, display=True, num_workers=workers, random_seed=seed)
    built = time.perf_counter() - began - result.runtime
    found = result.best is not None and bool(result.best.tasks)
    status = {"Optimal": "OPTIMAL", "Feasible": "FEASIBLE", "Infeasible": "INFEASIBLE"}.get(
        result.status.value, "UNKNOWN"
    )
    return Answer(
        status,
        result.objective if found else None,
        result.lower_bound if found else None,
        tuple((built + float(t), float(v)) for t, v in SOLUTION.findall(log.text)),
        extra={"solver_time": round(result.runtime, 3)},
    )


#: A line of CP-SAT's log that reports a solution: its time and value.
SOLUTION = re.compile(r"^#\d+\s+([\d.]+)s best:([\d.]+)", re.MULTILINE)


@dataclass
class Log:
    """What was printed, once it is complete."""

    text: str = ""


@contextmanager
def captured() -> Iterator[Log]:
    """What native code prints to standard output goes here."""
    log = Log()
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with tempfile.TemporaryFile("w+") as file:
            os.dup2(file.fileno(), 1)
            try:
                yield log
            finally:
                os.dup2(kept, 1)
            file.seek(0)
            log.text = file.read()
    finally:
        os.close(kept)


def cp_sat(case: Case, problem: RcpspProblem, limit: float, workers: int, seed: int) -> Answer:
    """CP-SAT on the direct model: intervals, cumulatives, no hint, default parameters."""
    if not expressible(problem):
        return UNSUPPORTED
    from ortools.sat.python import cp_model

    started = time.perf_counter()
    model = cp_model.CpModel()
    horizon = sum(max(m.duration for m in t.modes) for t in problem.tasks)
    horizon += sum(abs(p.min_lag or 0) for p in problem.precedences)
    horizon += max((t.release for t in problem.tasks), default=0)
    start, end = {}, {}
    uses: dict[str, list[Any]] = {}
    held: dict[str, Any] = {}
    by_resource: dict[str, list[tuple[Any, int]]] = {r.name: [] for r in problem.resources}
    consumed: dict[str, list[Any]] = {r.name: [] for r in problem.resources}
    renewable = {r.name for r in problem.resources if r.type == "renewable"}
    for t in problem.tasks:
        latest = horizon if t.deadline is None else min(horizon, t.deadline)
        start[t.id] = model.new_int_var(t.release, latest, "")
        end[t.id] = model.new_int_var(t.release, latest, "")
        literals = []
        uses[t.id] = []
        for mode in t.modes:
            if len(t.modes) == 1:
                literal: Any = 1
                interval = model.new_fixed_size_interval_var(start[t.id], mode.duration, "")
                model.add(end[t.id] == start[t.id] + mode.duration)
            else:
                literal = model.new_bool_var("")
                literals.append(literal)
                interval = model.new_optional_interval_var(
                    start[t.id], mode.duration, end[t.id], literal, ""
                )
            uses[t.id].append(interval)
            if t.blocks_until is not None and mode.duration:
                held[t.id] = interval = model.new_interval_var(
                    start[t.id],
                    model.new_int_var(mode.duration, horizon, ""),
                    model.new_int_var(0, horizon, ""),
                    "",
                )
            for name, units in mode.demands.items():
                if name in renewable:
                    by_resource[name].append((interval, units))
                else:
                    consumed[name].append(units * literal)
        if literals:
            model.add_exactly_one(literals)
    for t in problem.tasks:
        if t.id in held:
            model.add(held[t.id].end_expr() == start[t.blocks_until])
    for r in problem.resources:
        intervals, units = [i for i, _ in by_resource[r.name]], [u for _, u in by_resource[r.name]]
        if r.type == "reservoir":
            events = [
                (start[t.id] if e.at == "start" else end[t.id], e.amount)
                for t in problem.tasks
                for e in t.events
                if e.resource == r.name
            ]
            # CP-SAT's reservoirs start at level 0: count from the initial level.
            most = sum(amount for _, amount in events if amount > 0)
            model.add_reservoir_constraint(
                [moment for moment, _ in events],
                [amount for _, amount in events],
                r.minimum - r.initial,
                most if r.maximum is None else r.maximum - r.initial,
            )
        elif r.type == "nonrenewable":
            model.add(sum(consumed[r.name]) <= r.capacity)
        elif r.capacity == 1:
            model.add_no_overlap(intervals)
        else:
            model.add_cumulative(intervals, units, r.capacity)
    for group in problem.disjunctive:
        model.add_no_overlap([interval for name in group.tasks for interval in uses[name]])
    for p in problem.precedences:
        first, second = p.type.split("-")
        lag = (start if second == "start" else end)[p.after] - (start if first == "start" else end)[
            p.before
        ]
        if p.min_lag is not None:
            model.add(lag >= p.min_lag)
        if p.max_lag is not None:
            model.add(lag <= p.max_lag)
    if problem.objectives == ("makespan",):
        makespan = model.new_int_var(0, horizon, "")
        for t in problem.tasks:
            model.add(makespan >= end[t.id])
        model.minimize(makespan)
    else:
        late = []
        for t in problem.tasks:
            if t.due is not None:
                tardiness = model.new_int_var(0, horizon, "")
                model.add(tardiness >= end[t.id] - t.due)
                late.append(t.weight * tardiness)
        model.minimize(sum(late))

    class Trace(cp_model.CpSolverSolutionCallback):
        """Times and values of improvements."""

        points: list[tuple[float, float]]

        def on_solution_callback(self) -> None:
            self.points.append((time.perf_counter() - started, self.objective_value))

    trace = Trace()
    trace.points = []
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = seed
    solver.parameters.max_time_in_seconds = max(0.01, limit - (time.perf_counter() - started))
    status = solver.status_name(solver.solve(model, trace))
    found = status in ("OPTIMAL", "FEASIBLE")
    return Answer(
        status,
        solver.objective_value if found else None,
        solver.best_objective_bound if found else None,
        tuple(trace.points),
    )
