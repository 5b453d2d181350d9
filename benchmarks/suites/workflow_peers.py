"""Peers of the `workflow` family: anrg-saga's schedulers and a plain CP-SAT model."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.suite import Answer, Case
from cpsched.families.workflow.consistent import dependencies
from cpsched.families.workflow.problem import WorkflowProblem
from cpsched.families.workflow.terms import link_rates


def _saga(scheduler: str, problem: WorkflowProblem) -> Answer:
    """A schedule by anrg-saga, which knows works, speeds, bytes and link speeds.

    Tasks of no length get one of 1e-9; a task on the machine of its data pays next to nothing.
    """
    if any(len(t.choices) > 1 or t.work is None for t in problem.tasks):
        return Answer("UNSUPPORTED", None)
    from saga import Network, TaskGraph
    from saga.schedulers import CpopScheduler, HeftScheduler, SMTScheduler

    rates = link_rates(problem)
    names = [m.name for m in problem.machines]
    links = [(n, n, 1e18) for n in names]
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            bandwidth = rates.get((one, other), (problem.bandwidth, 0.0))[0]
            links.append((one, other, 1e18 if bandwidth is None else bandwidth))
    network = Network.create([(m.name, m.speed) for m in problem.machines], links)
    graph = TaskGraph.create(
        [(t.id, max(1e-9, t.work or 0.0)) for t in problem.tasks],
        [
            (u, v, max(1e-9, sum(size for _, size in carried)))
            for (u, v), carried in dependencies(problem).items()
        ],
    )
    made = {"heft": HeftScheduler, "cpop": CpopScheduler, "smt": SMTScheduler}[scheduler]()
    started = time.perf_counter()
    makespan = made.schedule(network, graph).makespan
    elapsed = time.perf_counter() - started
    return Answer("FEASIBLE", makespan, None, ((elapsed, makespan),))


def saga_heft(
    case: Case, problem: WorkflowProblem, limit: float, workers: int, seed: int
) -> Answer:
    """HEFT of anrg-saga 2.0.2."""
    return _saga("heft", problem)


def saga_cpop(
    case: Case, problem: WorkflowProblem, limit: float, workers: int, seed: int
) -> Answer:
    """CPOP of anrg-saga 2.0.2."""
    return _saga("cpop", problem)


def saga_smt(case: Case, problem: WorkflowProblem, limit: float, workers: int, seed: int) -> Answer:
    """The exact solver of anrg-saga 2.0.2: bisection on the makespan with z3, to 0.001.

    It knows no time limit, so it runs in a process of its own and is ended after ten limits.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_smt, args=(problem, sender), daemon=True)
    started = time.perf_counter()
    process.start()
    sender.close()
    try:
        if not receiver.poll(10 * limit):
            return Answer("UNKNOWN", None)
        makespan = receiver.recv()
    finally:
        process.kill()
        process.join()
    return Answer("OPTIMAL", makespan, makespan, ((time.perf_counter() - started, makespan),))


def _send_smt(problem: WorkflowProblem, sender: Connection) -> None:
    sender.send(_saga("smt", problem).objective)


def cp_sat(case: Case, problem: WorkflowProblem, limit: float, workers: int, seed: int) -> Answer:
    """Optional intervals, no-overlap, a Boolean 'same machine' per edge; default parameters.

    Times are hundredths, durations rounded to nearest and lags up, without a start.
    """
    from ortools.sat.python import cp_model

    if any(len(t.choices) > 1 for t in problem.tasks) or len(problem.tasks) > 2000:
        return Answer("UNSUPPORTED", None)
    model = cp_model.CpModel()
    unit = 100
    rates = link_rates(problem)
    names = [m.name for m in problem.machines]
    length = {
        (t.id, m.name): round(
            unit * (t.durations[m.name] if t.durations else (t.work or 0.0) / m.speed)
        )
        for t in problem.tasks
        for m in problem.machines
    }
    horizon = sum(max(length[t.id, n] for n in names) for t in problem.tasks) * 2 + 1000
    start, end, on = {}, {}, {}
    intervals: dict[str, list[Any]] = {n: [] for n in names}
    for task in problem.tasks:
        start[task.id] = model.new_int_var(0, horizon, "")
        end[task.id] = model.new_int_var(0, horizon, "")
        for n in names:
            x = on[task.id, n] = model.new_bool_var("")
            d = length[task.id, n]
            part = model.new_optional_interval_var(start[task.id], d, end[task.id], x, "")
            if d:
                intervals[n].append(part)
        model.add_exactly_one(on[task.id, n] for n in names)
    for n in names:
        model.add_no_overlap(intervals[n])
    for (u, v), carried in dependencies(problem).items():
        model.add(start[v] >= end[u])
        data = sum(size for _, size in carried)
        for a in names:
            for b in names:
                bandwidth, latency = rates.get((a, b), (problem.bandwidth, problem.latency))
                lag = -int(-unit * ((data / bandwidth if bandwidth else 0.0) + latency) // 1)
                if a != b and carried and lag:
                    model.add(start[v] >= end[u] + lag).only_enforce_if(on[u, a], on[v, b])
    makespan = model.new_int_var(0, horizon, "")
    model.add_max_equality(makespan, list(end.values()))
    model.minimize(makespan)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = limit
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = seed
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Answer(status.name, None)
    return Answer(status.name, solver.objective_value / unit, solver.best_objective_bound / unit)
