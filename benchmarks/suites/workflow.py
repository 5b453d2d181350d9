"""Suites of the `workflow` family: WfInstances, STG, random graphs, large graphs, agents.

Peers: HEFT, CPOP and the SMT solver of anrg-saga (extra ``bench-saga``, or without the headers of
graphviz ``pip install --no-deps anrg-saga==2.0.2`` and networkx, pysmt, z3-solver; its licence
allows no more than comparing with it) and a plain CP-SAT model with default parameters.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpsched
from benchmarks.suite import Case, Suite
from benchmarks.suites.workflow_peers import cp_sat, saga_cpop, saga_heft, saga_smt
from cpsched.families.workflow.formats import read_stg
from cpsched.families.workflow.generate import agent, layered
from cpsched.families.workflow.problem import Edge, Machine, Task, WorkflowProblem
from cpsched.families.workflow.wfformat import read_wfformat

PEERS = {"saga-heft": saga_heft, "saga-cpop": saga_cpop, "cp-sat": cp_sat}
#: The SMT solver is asked for by name: it takes minutes from 22 tasks on.
EXACT = {**PEERS, "saga-smt": saga_smt}

#: Machines of speed 0.5, 1, 1.5 and 2 as in the published comparison.
SPEEDS = (0.5, 1.0, 1.5, 2.0)

#: Structure, communication ratio and seed of the large graphs; machines are 100.
LARGE = [(10_000, 0.2, 1), (10_000, 1.0, 2), (50_000, 0.2, 3), (50_000, 1.0, 4)]


def wfinstances(bandwidth: float) -> Callable[[Path | None], list[Case]]:
    """Every recorded workflow on four machines, at bytes per second."""

    def cases(data: Path | None) -> list[Case]:
        if data is None:
            return []
        root = data / "workflows" / "wfinstances"
        paths = sorted(root.rglob("*.json"), key=lambda p: (p.stat().st_size, p.name))
        return [_wfinstance(path, bandwidth) for path in paths]

    return cases


def _wfinstance(path: Path, bandwidth: float) -> Case:
    def load() -> WorkflowProblem:
        problem = read_wfformat(path.read_text(), str(path), {})
        machines = tuple(Machine(name=f"m{k}", speed=s) for k, s in enumerate(SPEEDS))
        return WorkflowProblem(
            name=path.stem,
            tasks=problem.tasks,
            edges=problem.edges,
            files=problem.files,
            machines=machines,
            bandwidth=bandwidth,
        )

    return Case(path.stem, load, path)


def stg(size: int) -> Callable[[Path | None], list[Case]]:
    """Standard Task Graphs with published makespans; a best value may be an unproved one."""

    def cases(data: Path | None) -> list[Case]:
        if data is None:
            return []
        root = data / "workflows" / "stg"
        out = []
        for processors in (2, 4, 8, 16):
            table = root / "Optimal_values" / f"Case{size}_{processors}_OPT.csv"
            with table.open(newline="") as stream:
                rows = [r for r in csv.reader(stream) if (root / r[0]).is_file()]
            out += [_stg(root / r[0], processors, float(r[-1])) for r in rows]
        return out

    return cases


def _stg(path: Path, processors: int, best: float) -> Case:
    def load() -> Any:
        return read_stg(path.read_text(), str(path), {"processors": str(processors)})

    return Case(f"{path.stem}-p{processors}", load, path, best)


def random_graph(tasks: int, seed: int) -> WorkflowProblem:
    """A random graph on three machines with own links, data about as long as work."""
    rng = random.Random(seed)
    names = ("a", "b", "c")
    edges = [
        Edge(source=f"t{u}", target=f"t{v}", size=rng.randint(1, 20))
        for v in range(tasks)
        for u in sorted(rng.sample(range(v), min(v, rng.randint(1, 2))))
    ]
    return WorkflowProblem.parse(
        {
            "name": f"random-{tasks}-{seed}",
            "tasks": [Task(id=f"t{t}", work=rng.randint(1, 20)) for t in range(tasks)],
            "edges": edges,
            "machines": [Machine(name=n, speed=rng.choice([0.5, 1.0, 2.0])) for n in names],
            "links": [
                {"from": a, "to": b, "bandwidth": rng.choice([0.5, 1.0, 2.0])}
                for a, b in (("a", "b"), ("a", "c"), ("b", "c"))
            ],
        }
    )


def _generated(make: Callable[..., WorkflowProblem], *arguments: Any, **solve: Any) -> Case:
    name = "-".join(str(a) for a in arguments)
    return Case(name, lambda: make(*arguments), solve=solve)


def random_cases(data: Path | None) -> list[Case]:
    """Random graphs of 14 to 40 tasks."""
    sizes = (14, 16, 18, 20, 22, 30, 40)
    return [_generated(random_graph, n, seed) for n in sizes for seed in range(3)]


def large_cases(data: Path | None) -> list[Case]:
    """10,000 and 50,000 tasks on 100 machines."""
    return [_generated(layered, n, 100, ccr, 1.0, 2.5, seed) for n, ccr, seed in LARGE]


def agent_cases(data: Path | None) -> list[Case]:
    """Budgeted agent workflows of 20 to 60 subtasks with 3 to 6 models."""
    shapes = [(20, 3), (30, 4), (40, 4), (50, 5), (60, 6)]
    return [
        Case(
            f"agent-{n}-{m}-{seed}",
            lambda n=n, m=m, seed=seed: agent(n, m, 3, 0.15, seed),  # type: ignore[misc]
            maximise=True,
            solve={"objective": "log_success"},
        )
        for n, m in shapes
        for seed in range(2)
    ]


def replayed(case: Case, problem: WorkflowProblem, result: cpsched.Result) -> dict[str, Any]:
    """Monte-Carlo success of the replanning loop and of two baselines, with 95 % intervals."""
    from cpsched.families.workflow import agents

    policies: dict[str, agents.Policy] = {
        "planner": agents.Planner(2.0),
        "greedy": agents.greedy_policy,
        "cost-aware": agents.cost_aware_policy,
    }
    out = {}
    for name, policy in policies.items():
        played = agents.replay(problem, policy, 100)
        out[name] = [played.probability, played.low, played.high, played.mean_spent]
    return out


SUITES = {
    suite.name: suite
    for suite in (
        *(
            Suite(
                f"wfinstances-{megabytes}",
                f"recorded workflows on four machines at {megabytes} MB/s",
                wfinstances(megabytes * 1e6),
                60.0,
                PEERS,
            )
            for megabytes in (1, 10, 100)
        ),
        *(Suite(f"stg-{n}", f"STG graphs of {n} tasks", stg(n), 10.0) for n in (50, 100)),
        Suite("workflow-random", "random graphs, three machines", random_cases, 10.0, EXACT),
        Suite("workflow-large", "10,000 and 50,000 tasks", large_cases, 60.0),
        Suite("workflow-agents", "budgeted agents", agent_cases, 5.0, {}, replayed),
    )
}
