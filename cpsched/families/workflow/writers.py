"""Writers of the workflow family: WfFormat with its execution, SAGA JSON, Gantt CSV, MiniZinc."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families import Writer
from cpsched.families.workflow.consistent import dependencies
from cpsched.families.workflow.problem import WorkflowProblem, WorkflowSchedule


def write_wfformat(problem: WorkflowProblem, schedule: WorkflowSchedule | None) -> str:
    """WfFormat 1.5; with a schedule, its machines, runtimes and makespan as the execution."""
    needs = dependencies(problem)
    placed = {p.task: p for p in schedule.tasks} if schedule else {}
    parents: dict[str, list[str]] = {t.id: [] for t in problem.tasks}
    children: dict[str, list[str]] = {t.id: [] for t in problem.tasks}
    inputs: dict[str, list[str]] = {t.id: [] for t in problem.tasks}
    outputs: dict[str, list[str]] = {t.id: [] for t in problem.tasks}
    sizes: dict[str, int] = {}
    for (source, target), carried in needs.items():
        parents[target].append(source)
        children[source].append(target)
        for file, size in carried:
            sizes[file] = round(size)
            inputs[target].append(file)
            if file not in outputs[source]:
                outputs[source].append(file)
    for entry in problem.files:
        if entry.producer is None:
            sizes[entry.id] = round(entry.size)
            for consumer in entry.consumers:
                inputs[consumer].append(entry.id)
    runs: list[dict[str, Any]] = []
    for task in problem.tasks:
        at = placed.get(task.id)
        option = task.choices[at.option if at else 0]
        run: dict[str, Any] = {"id": task.id}
        if at is not None:
            run |= {"runtimeInSeconds": at.end - at.start, "machines": [at.machine]}
        elif option.work is not None:
            run["runtimeInSeconds"] = option.work
        else:
            raise ProblemError(
                "a task with durations per machine has a runtime only in a schedule",
                place="tasks",
                value=task.id,
                remedy="Solve the problem and convert with its schedule.",
            )
        if option.cores >= 1:
            run["coreCount"] = option.cores
        if option.memory:
            run["memoryInBytes"] = option.memory
        runs.append(run)
    machines: list[dict[str, Any]] = []
    for machine in problem.machines:
        node: dict[str, Any] = {"nodeName": machine.name}
        if machine.cores is not None:
            node["cpu"] = {"coreCount": max(1, round(machine.cores))}
        if machine.memory is not None:
            node["memoryInBytes"] = max(1, round(machine.memory))
        machines.append(node)
    makespan = max((p.end for p in placed.values()), default=0.0)
    return _json(
        {
            "name": problem.name or "workflow",
            "schemaVersion": "1.5",
            "workflow": {
                "specification": {
                    "tasks": [
                        {
                            "name": t.id,
                            "id": t.id,
                            "parents": parents[t.id],
                            "children": children[t.id],
                            "inputFiles": inputs[t.id],
                            "outputFiles": outputs[t.id],
                        }
                        for t in problem.tasks
                    ],
                    "files": [{"id": k, "sizeInBytes": size} for k, size in sizes.items()],
                },
                "execution": {
                    "makespanInSeconds": makespan,
                    "executedAt": "1970-01-01T00:00:00Z",
                    "tasks": runs,
                    "machines": machines,
                },
            },
        }
    )


def write_saga(problem: WorkflowProblem, schedule: WorkflowSchedule | None) -> str:
    """SAGA JSON: works, bytes per dependency, speeds, and a complete network without latency."""
    tasks = []
    for task in problem.tasks:
        if len(task.choices) != 1 or task.choices[0].work is None:
            raise ProblemError(
                "SAGA knows one amount of work per task",
                place="tasks",
                value=task.id,
                remedy="Write cpsched JSON instead.",
            )
        tasks.append({"name": task.id, "cost": task.choices[0].work})
    from cpsched.families.workflow.terms import link_rates

    rates = link_rates(problem)
    names = [m.name for m in problem.machines]
    links = []
    for i, source in enumerate(names):
        for target in names[i + 1 :]:
            bandwidth, latency = rates.get((source, target), (problem.bandwidth, problem.latency))
            if latency or rates.get((target, source), (bandwidth, latency))[0] != bandwidth:
                raise ProblemError(
                    "SAGA links have no latency and are the same both ways",
                    place="links",
                    value=(source, target),
                    remedy="Write cpsched JSON instead.",
                )
            speed = 1e15 if bandwidth is None else bandwidth
            links.append({"source": source, "target": target, "speed": speed})
    return _json(
        {
            "name": problem.name,
            "task_graph": {
                "tasks": tasks,
                "dependencies": [
                    {"source": u, "target": v, "size": sum(size for _, size in carried)}
                    for (u, v), carried in dependencies(problem).items()
                ],
            },
            "network": {
                "nodes": [{"name": m.name, "speed": m.speed} for m in problem.machines],
                "edges": links,
            },
        }
    )


def write_gantt(problem: WorkflowProblem, schedule: WorkflowSchedule) -> str:
    """CSV: one row per task and transfer, by machine and start."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["machine", "kind", "item", "from", "start", "end"])
    rows: list[tuple[str, str, str, str, float, float]] = [
        (p.machine, "task", p.task, "", p.start, p.end) for p in schedule.tasks
    ]
    rows += [(t.target, "transfer", t.file, t.source, t.start, t.end) for t in schedule.transfers]
    position = {m.name: k for k, m in enumerate(problem.machines)}
    for row in sorted(rows, key=lambda r: (position.get(r[0], 0), r[4], r[5], r[2])):
        table.writerow(row)
    return out.getvalue()


def write_minizinc(problem: WorkflowProblem, schedule: WorkflowSchedule | None) -> str:
    """JSON data for models/workflow.mzn: durations, lags and requirements in integer ticks.

    Raises
    ------
    ProblemError
        For what the reference model does not state: see its first comment.
    """
    from cpsched.families.workflow.prepare import NEVER, prepare

    if (
        problem.contention
        or problem.branches
        or problem.fair_share is not None
        or any(m.storage is not None or m.billing_quantum or m.prices for m in problem.machines)
    ):
        raise ProblemError(
            "models/workflow.mzn states neither link contention, branches, storage, fair shares "
            "nor billing quanta and prices over time",
            remedy="Write cpsched JSON instead.",
        )
    inst = prepare(problem)
    n, m = inst.n, inst.m
    edges = [
        (int(inst.pred_src[e]), t, float(inst.pred_bytes[e]))
        for t in range(n)
        for e in range(int(inst.pred_ptr[t]), int(inst.pred_ptr[t + 1]))
    ]
    from cpsched.families.workflow.model import horizon_of

    horizon = horizon_of(inst, None)
    from cpsched.families.workflow.terms import exact, own_use

    def cost(row: int, machine: int) -> float:
        task = problem.tasks[int(inst.row_task[row])]
        option = task.choices[int(inst.row_option[row])]
        return own_use(option, "cost") if machine >= 0 else 0.0

    costs = [cost(r, 0) for r in range(inst.rows)]
    whole = all(exact(c).denominator == 1 for c in costs)
    budget = problem.budgets.cost
    return _json(
        {
            "n": n,
            "m": m,
            "R": inst.rows,
            "E": len(edges),
            "horizon": horizon,
            "task_of": [int(t) + 1 for t in inst.row_task],
            "duration": inst.dur.tolist(),
            "demand": inst.demand.tolist(),
            "capacity": [[min(int(c), 2**30) for c in row] for row in inst.cap],
            "one_at_a_time": [bool(u) for u in inst.unit],
            "release": [
                [
                    max(
                        int(inst.release[t]),
                        int(inst.inputs[t, p]) if inst.inputs is not None else 0,
                    )
                    for p in range(m)
                ]
                for t in range(n)
            ],
            "deadline": [min(int(d), horizon) if d < NEVER else horizon for d in inst.deadline],
            "before": [u + 1 for u, _, _ in edges],
            "after": [t + 1 for _, t, _ in edges],
            "lag": [
                [inst.lag(size, p, q) for p in range(m) for q in range(m)] for _, _, size in edges
            ],
            "breaks": [
                [p + 1, a, min(b, horizon + 1)] for p in range(m) for a, b in inst.blocked[p]
            ],
            "B": sum(len(b) for b in inst.blocked),
            "cost": [round(c) if whole else 0 for c in costs],
            "budget": -1 if budget is None or not whole else int(budget),
        }
    )


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


WRITERS = (
    Writer("wfformat", "WfFormat 1.5, with the schedule as its execution", write_wfformat),
    Writer("saga", "SAGA / DAGBench JSON", write_saga),
    Writer("gantt", "CSV of tasks and transfers per machine", write_gantt, needs_schedule=True),
    Writer("minizinc", "data for models/workflow.mzn", write_minizinc),
)
