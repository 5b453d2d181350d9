"""Random combinations of features, against the enumeration of all schedules with whole times."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest

from cpsched.families.workflow import terms
from cpsched.families.workflow.check import check, evaluate
from cpsched.families.workflow.consistent import dependencies, fits
from cpsched.families.workflow.generate import layered
from cpsched.families.workflow.problem import (
    MAXIMISED,
    OBJECTIVES,
    WorkflowProblem,
    WorkflowSchedule,
)
from tests.workflow.helpers import schedule, solved

HORIZON = 6
LIMITS = {
    "makespan": 5, "cost": 12, "energy": 500, "carbon": 0.001, "weighted_flow_time": 12,
    "max_slowdown": 2.5, "weighted_tardiness": 4, "log_success": -1.5, "peak_storage": 5,
}  # fmt: skip


def machine(rng: random.Random, has: Any, name: str) -> dict[str, Any]:
    """A machine with some of the features."""
    out: dict[str, Any] = {"name": name, "speed": rng.choice([1, 2]), "power": 36}
    if has("cores"):
        out |= {"cores": rng.choice([1, 2]), "memory": rng.choice([4, 6]), "gpus": 1}
    if has("windows"):
        a = rng.randint(0, 1)
        out["windows"] = [[a, a + 3], [a + 4, a + 9]]
    if has("storage"):
        out["storage"] = rng.randint(2, 6)
    if has("quantum"):
        out |= {"price": 3600, "billing_quantum": 2}
    elif has("prices"):
        out["prices"] = [[0, 3600 * rng.randint(0, 4)], [rng.randint(1, 4), 3600]]
    if has("carbon"):
        out["carbon"] = [[0, rng.randint(0, 5)], [rng.randint(1, 4), rng.randint(0, 5)]]
    return out


def option(rng: random.Random, has: Any) -> dict[str, Any]:
    """Work and needs of an option."""
    out: dict[str, Any] = {"work": rng.choice([0, 2, 2, 4]), "cost": rng.randint(0, 3)}
    out |= {"tokens": rng.randint(0, 3), "success": rng.choice([0.5, 0.9, 1])}
    if has("cores"):
        out |= {"memory": rng.choice([0, 2, 3]), "gpus": rng.choice([0, 0, 1])}
    if has("retries"):
        out["retries"] = 1
    return out


def combined(seed: int) -> WorkflowProblem:
    """A problem of two or three tasks on two machines with about a third of the features."""
    rng = random.Random(seed)
    features = [
        "cores", "windows", "storage", "quantum", "prices", "carbon", "retries", "options",
        "release", "contention", "inputs", "latency", "workflows", "branches", "budgets",
        "limits", "min_success",
    ]  # fmt: skip
    chosen = set(rng.sample(features, 5))

    def has(feature: str) -> bool:
        return feature in chosen

    tasks: list[dict[str, Any]] = []
    for t in range(rng.choice([2, 3])):
        task: dict[str, Any] = {
            "id": f"t{t}",
            "due": rng.randint(0, 5),
            "weight": rng.choice([1, 2]),
        }
        both = [option(rng, has) for _ in range(2)]
        task |= {"options": both} if has("options") and t == 0 else both[0]
        if has("release"):
            task |= {"release": rng.randint(0, 2)}
        tasks.append(task)
    names = [t["id"] for t in tasks]
    fields: dict[str, Any] = {
        "tasks": tasks,
        "machines": [machine(rng, has, "m0"), machine(rng, has, "m1")],
        "edges": [
            {"source": u, "target": v, "size": rng.choice([0, 1, 2])}
            for u, v in itertools.combinations(names, 2)
            if rng.random() < 0.4
        ],
        "files": [{"id": "f", "size": 1, "producer": "t0", "consumers": names[1:]}],
        "bandwidth": 1,
        "latency": int(has("latency")),
        "contention": has("contention"),
        "deadline": HORIZON,
        "objectives": rng.sample(OBJECTIVES, rng.choice([1, 1, 2])),
    }
    if has("inputs"):
        fields["files"].append({"id": "g", "size": 1, "location": "m0", "consumers": names[:2]})
    if has("workflows"):
        fields["workflows"] = [{"id": "a", "tenant": "x"}, {"id": "b", "tenant": "y", "release": 1}]
        fields |= {"tenants": [{"id": "x", "weight": 2}, {"id": "y"}], "fair_share": 2}
        for task in tasks:
            task["workflow"] = rng.choice("ab")
    if has("branches"):
        sides = [{"probability": 0.5, "tasks": [name]} for name in rng.sample(names, 2)]
        fields["branches"] = [{"alternatives": sides}]
    if has("budgets"):
        fields["budgets"] = {"cost": rng.randint(4, 20), "tokens": rng.randint(2, 6)}
    if has("limits"):
        fields["limits"] = dict(rng.sample(sorted(LIMITS.items()), 1))
    if has("min_success"):
        fields["min_success"] = 0.3
    return WorkflowProblem.parse(fields)


def transfers(p: WorkflowProblem, placed: dict[str, tuple[str, int, int]]) -> Any:
    """Every way to send what the placements need, at whole times."""
    if not p.contention:
        return [()]
    rates = terms.link_rates(p)
    needed: dict[tuple[str, str], Any] = {}
    data = [(f, u, placed[u][0], placed[u][2], v, s) for (u, v), fs in dependencies(p).items()
            for f, s in fs]  # fmt: skip
    data += [(f.id, None, f.location, 0, v, f.size) for f in p.files if f.location
             for v in f.consumers]  # fmt: skip
    for file, producer, home, since, reader, size in data:
        target, by, _ = placed[reader]
        if home != target:
            bandwidth, latency = rates.get((home, target), (p.bandwidth, p.latency))
            length = math.ceil(latency + size / bandwidth)
            known = needed.get((file, target))
            needed[file, target] = (
                producer,
                home,
                since,
                length,
                min(by, known[4] if known else by),
            )
    return itertools.product(
        *(
            [(f, u, home, to, s, s + length) for s in range(since, by - length + 1)]
            for (f, to), (u, home, since, length, by) in needed.items()
        )
    )


def schedules(p: WorkflowProblem) -> Any:
    """Every schedule with whole times within the horizon that keeps the order of the tasks."""
    cells = [
        [(k, m.name, round(terms.duration(o, m)))
         for k, o in enumerate(t.choices) for m in p.machines if fits(t, o, m)]
        for t in p.tasks
    ]  # fmt: skip
    for combination in itertools.product(*cells):
        for starts in itertools.product(range(HORIZON + 1), repeat=len(cells)):
            rows = [
                (t.id, m, s, s + d, k)
                for t, (k, m, d), s in zip(p.tasks, combination, starts, strict=True)
            ]
            placed = {name: (m, s, e) for name, m, s, e, _ in rows}
            if any(e > HORIZON for _, _, e in placed.values()):
                continue
            if any(placed[v][1] < placed[u][2] for u, v in dependencies(p)):
                continue
            for sent in transfers(p, placed):
                yield schedule(*rows, transfers=sent)


def values(p: WorkflowProblem, s: WorkflowSchedule) -> tuple[float, ...]:
    """Objective values, all to be minimised."""
    found = evaluate(p, s, p.objectives)
    return tuple(-x if o in MAXIMISED else x for o, x in zip(p.objectives, found, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_optimum_is_the_enumerated_one(seed):
    """Whatever is combined, the status and the optimum are those of full enumeration.

    Where a start between whole times may be better, the bound holds at least.
    """
    p = combined(seed)
    best: tuple[float, ...] | None = None
    for s in schedules(p):
        found = values(p, s)
        if (best is None or found < best) and not check(p, s):
            best = found
    result = solved(p)
    if terms.starts_between(p, p.objectives, p.objectives[:-1]) and result.status != "OPTIMAL":
        sign = -1 if p.objectives[0] in MAXIMISED else 1
        bound = result.bound[0] if isinstance(result.bound, list) else result.bound
        assert best is None or bound is None or sign * bound <= best[0] + 1e-6
        return
    assert result.status == ("INFEASIBLE" if best is None else "OPTIMAL")
    if best is not None:
        assert values(p, result.schedule) == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_peak_storage_of_many_files_on_one_machine():
    """Every file on every machine bounds the peak: larger domains overflow in the solver."""
    p = layered(20, 1, 1.0, 1.0, 5.0, 213473)
    result = solved(p, 5.0, workers=1, objective="peak_storage")
    assert result.status != "INFEASIBLE"
    assert result.objective >= result.bound
