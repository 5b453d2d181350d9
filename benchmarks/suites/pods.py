"""Suites of the `pods` family: the paper's grid, VM rescheduling, OpenB, machine reassignment."""

from __future__ import annotations

import functools
import itertools
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpsched
from benchmarks.suite import Answer, Case, Suite
from cpsched.families.pods import fgd
from cpsched.families.pods.problem import PodsProblem
from cpsched.families.pods.scenario import default_placement, scenario

#: Nodes, pods per node, priorities, utilisation of 'Priority Matters' (arXiv 2511.08373).
GRID = list(itertools.product((4, 8, 16, 32), (4, 8), (1, 2, 4), ("0.90", "0.95", "1.00", "1.05")))


def grid(per_cell: int, every: int = 1) -> Callable[[Path | None], list[Case]]:
    """The first seeds of each cell that the default scheduler leaves with pending pods."""

    def cases(data: Path | None) -> list[Case]:
        if data is None:
            return []
        seeds = (data / "pods" / "priority_matters" / "seeds_100.txt").read_text().split()
        out = []
        for nodes, pods, priorities, use in GRID[::every]:
            found = 0
            for seed in seeds:
                if found == per_cell:
                    break
                problem = default_placement(scenario(int(seed), nodes, pods, priorities, use))
                if all(p.node is not None for p in problem.pods):
                    continue
                found += 1
                # The paper's weights: an eviction 1, a move 2.
                weighted = problem.model_copy(update={"eviction_weight": 1, "move_weight": 2})
                name = f"{nodes}x{nodes * pods}-p{priorities}-u{use}-{seed}"
                out.append(Case(name, lambda p=weighted: p, maximise=True))
        return out

    return cases


def outcome(case: Case, problem: PodsProblem, result: Any) -> dict[str, Any]:
    """Whether the counts are better than the default's, certified, and the stage proved."""
    tiers = sorted({p.priority for p in problem.pods}, reverse=True)
    default = [sum(p.node is not None and p.priority >= t for p in problem.pods) for t in tiers]
    if result.schedule is None or not isinstance(result.objective, list):
        return {"failed": True}
    levels = len(tiers)
    bound = result.bound or [None] * (levels + 1)
    certified = result.objective[:levels] == bound[:levels]
    return {
        "failed": False,
        "default": default,
        "better": result.objective[:levels] > default,
        "certified": certified,
        "disruption_proved": certified and result.objective[-1] == bound[-1],
        "disruption": result.objective[-1],
    }


def naive(case: Case, problem: PodsProblem, limit: float, workers: int, seed: int) -> Answer:
    """The paper's model in CP-SAT: a Boolean per pod and node, tier by tier, hinted."""
    from ortools.sat.python import cp_model

    begun = time.perf_counter()
    nodes = range(len(problem.nodes))
    where = {n.name: i for i, n in enumerate(problem.nodes)}
    model = cp_model.CpModel()
    x = [[model.new_bool_var("") for _ in nodes] for _ in problem.pods]
    for i, pod in enumerate(problem.pods):
        model.add_at_most_one(x[i])
        for j in nodes:
            model.add_hint(x[i][j], int(pod.node is not None and where[pod.node] == j))
    for j, node in enumerate(problem.nodes):
        for name in ("cpu", "memory"):
            terms = [(x[i][j], p.requests[name]) for i, p in enumerate(problem.pods)]
            used = cp_model.LinearExpr.weighted_sum([t[0] for t in terms], [t[1] for t in terms])
            model.add(used <= node.allocatable[name])
    tiers = sorted({p.priority for p in problem.pods}, reverse=True)
    values: list[float] = []
    proved = True
    for k, tier in enumerate(tiers):
        placed = sum(sum(x[i]) for i, p in enumerate(problem.pods) if p.priority >= tier)
        model.maximize(placed)
        solver = cp_model.CpSolver()
        left = limit - (time.perf_counter() - begun)
        solver.parameters.max_time_in_seconds = max(0.01, left / (len(tiers) - k))
        solver.parameters.num_workers = workers
        solver.parameters.random_seed = seed
        status = solver.solve(model)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return Answer("UNKNOWN", None)
        proved = proved and status == cp_model.OPTIMAL
        values.append(round(solver.objective_value))
        model.add(placed >= int(values[-1]))
        hints = [[solver.value(v) for v in row] for row in x]
        model.clear_hints()
        for row, hint in zip(x, hints, strict=True):
            for v, h in zip(row, hint, strict=True):
                model.add_hint(v, h)
    status_name = "OPTIMAL" if proved else "FEASIBLE"
    return Answer(status_name, values[0], extra={"placed": values, "certified": proved})


def vm_cases(data: Path | None) -> list[Case]:
    """Both shared snapshots, each cluster alone and merged, limits 25 and 50."""
    if data is None:
        return []
    out = []
    for path in sorted((data / "pods" / "vmr2l").glob("*.json")):
        for cluster, limit, moves in itertools.product(
            ("0", "1", "merged"), ("25", "50"), ("small", "all")
        ):
            options = {"cluster": cluster, "migration_limit": limit, "moves": moves}
            name = f"{path.stem}-{cluster}-{limit}-{moves}"
            out.append(Case(name, lambda p=path, o=options: cpsched.load(p, options=o), path))
    return out


def openb_cases(data: Path | None) -> list[Case]:
    """The default pod list on the 1,213 GPU nodes, offline."""
    if data is None:
        return []
    folder = data / "pods" / "openb"
    options = {"nodes": str(folder / "openb_node_list_gpu_node.csv")}
    path = folder / "openb_pod_list_default.csv"
    return [Case(path.stem, lambda: cpsched.load(path, options=options), path, maximise=True)]


def fgd_policy(case: Case, problem: PodsProblem, limit: float, workers: int, seed: int) -> Answer:
    """FGD's online policy on the same list in its order (it ignores the limit)."""
    placed = fgd.fgd(problem)
    amounts = {p.name: p.cells * p.per_cell.get("gpu_milli", 0) for p in problem.pods}
    return Answer("FEASIBLE", sum(amounts[name] for name in placed))


def roadef_cases(data: Path | None) -> list[Case]:
    """Instances a1_1 to a1_5 of the challenge."""
    if data is None:
        return []
    paths = sorted((data / "pods" / "roadef2012").glob("model_*.txt"))
    best = {"model_a1_1": 44306501.0}
    return [Case(p.stem, lambda p=p: cpsched.load(p), p, best.get(p.stem)) for p in paths]


def large_cluster(nodes: int, seed: int = 0) -> PodsProblem:
    """A cluster of 40 node shapes with 10 running pods per node, and 200 pending (4 % of 5,000).

    The pending pods are replicas of apps that keep apart on hosts, and spread over 5 zones.
    """
    rng = random.Random(seed)
    shapes = [(rng.choice([8, 16, 32, 64]), rng.choice([16, 32, 64, 128, 256])) for _ in range(40)]
    listed = []
    room = []
    for n in range(nodes):
        cpu, memory = shapes[n % 40]
        labels = {"kubernetes.io/hostname": f"n{n}", "topology.kubernetes.io/zone": f"z{n % 5}"}
        allocatable = {"cpu": cpu, "memory": f"{memory}Gi", "pods": 110}
        listed.append({"name": f"n{n}", "allocatable": allocatable, "labels": labels})
        room.append([1000 * cpu, memory])
    pods: list[dict[str, Any]] = []
    for n in range(nodes):
        for i in range(10):
            cpu = rng.choice([250, 500, 1000, 2000])
            memory = rng.choice([1, 2, 4])
            if room[n][0] < cpu or room[n][1] < memory:
                cpu, memory = 0, 0
            room[n][0] -= cpu
            room[n][1] -= memory
            app = f"app-{(7 * n + i) % 400}"
            pods.append(
                {
                    "name": f"prod/{app}-{n}-{i}",
                    "node": f"n{n}",
                    "owner": f"ReplicaSet/prod/{app}",
                    "labels": {"app": app},
                    "requests": {"cpu": f"{cpu}m", "memory": f"{memory}Gi"},
                }
            )
    for k in range(max(20, nodes // 25)):
        app = f"new-{k % 20}"
        chosen = {"match_labels": {"app": app}}
        pods.append(
            {
                "name": f"prod/{app}-{k}",
                "owner": f"ReplicaSet/prod/{app}",
                "labels": {"app": app},
                "requests": {"cpu": 8 if k % 3 else 24, "memory": "16Gi"},
                "priority": 10,
                "pod_anti_affinity": [
                    {"topology_key": "kubernetes.io/hostname", "selector": chosen}
                ],
                "topology_spread": [
                    {"topology_key": "topology.kubernetes.io/zone", "selector": chosen}
                ],
            }
        )
    return PodsProblem.parse({"nodes": listed, "pods": pods})


def large_cases(data: Path | None) -> list[Case]:
    """16, 500 and 5,000 nodes."""
    return [
        Case(f"cluster-{n}", functools.partial(large_cluster, n), maximise=True)
        for n in (16, 500, 5000)
    ]


def large_extra(case: Case, problem: PodsProblem, result: Any) -> dict[str, Any]:
    """Pods, steps, pods left pending, and the largest memory of the process so far in MiB."""
    schedule = result.schedule
    return {
        "pods": len(problem.pods),
        "steps": 0 if schedule is None else len(schedule.steps),
        "pending": None if schedule is None else sum(p.node is None for p in schedule.placements),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def roadef_extra(case: Case, problem: PodsProblem, result: Any) -> dict[str, Any]:
    """Cost of the initial assignment, and after the greedy descent."""
    greedy = [t.objective for t in result.trace if t.source.startswith("greedy")]
    return {"initial": greedy[0] if greedy else None, "greedy": greedy[-1] if greedy else None}


SUITES = {
    "pods-grid": Suite(
        "pods-grid",
        "scenarios of 'Priority Matters': 96 cells, 10 seeds each",
        grid(10),
        limit=1.0,
        peers={"naive-cp-sat": naive},
        extra=outcome,
    ),
    "pods-grid-sample": Suite(
        "pods-grid-sample",
        "every fifth cell of the grid, 2 seeds each",
        grid(2, every=5),
        limit=1.0,
        peers={"naive-cp-sat": naive},
        extra=outcome,
    ),
    "pods-large": Suite(
        "pods-large",
        "clusters of 16, 500 and 5,000 nodes with 20 to 200 pending pods: deadlines and memory",
        large_cases,
        limit=10.0,
        extra=large_extra,
    ),
    "pods-vm": Suite("pods-vm", "VM rescheduling of two real snapshots", vm_cases, limit=5.0),
    "pods-openb": Suite(
        "pods-openb",
        "OpenB's default pod list as one packing",
        openb_cases,
        limit=60.0,
        peers={"fgd": fgd_policy},
    ),
    "pods-roadef": Suite(
        "pods-roadef",
        "machine reassignment a1_1 to a1_5",
        roadef_cases,
        limit=60.0,
        extra=roadef_extra,
    ),
}
