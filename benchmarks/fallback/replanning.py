"""How fast one event is answered: projects, clusters and request windows of the sizes promised."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import cpsched
from cpsched.families import family


def generated(kind: str, name: str, **options: Any) -> Any:
    """A problem of a family's generator."""
    generator = next(g for g in family(kind).generators if g.name == name)
    defaults = {key: value for key, (value, _) in generator.options.items()}
    return generator.make(defaults | {key: str(value) for key, value in options.items()})


def project(seed: int) -> Iterator[tuple[str, Any, Any, float, list[dict[str, Any]]]]:
    """A project of 120 tasks, and one event of every type at a moment of its execution."""
    problem = generated("rcpsp", "project", tasks=120, seed=seed)
    plan = cpsched.solve(problem, time_limit=1.0, seed=seed).schedule
    rng = random.Random(seed)
    now = rng.randint(1, max(2, plan.makespan // 2))
    running = [t for t in plan.tasks if t.start < now < t.end]
    later = [t for t in plan.tasks if t.start > now]
    first, second = rng.choice(running or later), rng.choice(later)
    resource = problem.resources[rng.randrange(len(problem.resources))]
    item = {"modes": [{"duration": 5, "demands": {resource.name: 1}}]}
    events: list[dict[str, Any]] = [
        {"type": "delay", "id": first.task, "by": rng.randint(1, 8)},
        {"type": "delay", "id": second.task, "by": rng.randint(1, 8)},
        {"type": "resource_down", "id": resource.name, "until": now + rng.randint(2, 10)},
        {"type": "capacity", "id": resource.name, "capacity": resource.capacity - 1},
        {"type": "insert", "id": "new", "item": item, "after": [second.task]},
        {"type": "cancel", "id": second.task},
        {"type": "due_date", "id": second.task, "due": now + 5},
        {"type": "priority", "id": second.task, "weight": 9},
    ]
    if running:
        events.append({"type": "finish", "id": first.task})
    for event in events:
        yield event["type"], problem, plan, now, [event | {"time": now}]


def cluster(seed: int) -> Iterator[tuple[str, Any, Any, float, list[dict[str, Any]]]]:
    """A cluster of 500 pods, and one event of every type."""
    problem = generated(
        "pods",
        "pod-scenario",
        seed=seed + 1,
        nodes=64,
        pods_per_node=8,
        priorities=4,
        utilisation=0.9,
    )
    plan = cpsched.solve(problem, time_limit=2.0, seed=seed).schedule
    rng = random.Random(seed)
    node = rng.choice(problem.nodes)
    pod = rng.choice(problem.pods)
    amounts = {r: a // 2 for r, a in node.allocatable.items() if r != "pods"}
    item = {"requests": dict(pod.to_dict()["requests"]), "priority": pod.priority}
    events: list[dict[str, Any]] = [
        {"type": "resource_down", "id": node.name},
        {"type": "capacity", "id": node.name, "amounts": shown(amounts)},
        {"type": "insert", "id": "default/new", "item": item},
        {"type": "cancel", "id": pod.name},
        {"type": "priority", "id": pod.name, "weight": pod.priority + 1},
    ]
    for event in events:
        yield event["type"], problem, plan, 10**6, [event | {"time": 0}]


def shown(amounts: dict[str, int]) -> dict[str, Any]:
    """Amounts in the units of files."""
    return {r: f"{a}m" if r == "cpu" else a for r, a in amounts.items()}


def window(seed: int) -> Iterator[tuple[str, Any, Any, float, list[dict[str, Any]]]]:
    """A window of 100 requests, and one event of every type."""
    problem = generated(
        "serving",
        "serving-trace",
        trace=("conversation", "code")[seed % 2],
        requests=100,
        instances=2,
        seed=seed,
    )
    plan = cpsched.solve(problem, time_limit=1.0, seed=seed).schedule
    rng = random.Random(seed)
    starts = sorted(r.start for r in plan.requests)
    now = starts[len(starts) // 2] + 1
    running = [r for r in plan.requests if r.start < now < r.end]
    later = [r for r in plan.requests if r.start >= now]
    first, second = rng.choice(running or later), rng.choice(later or running)
    capacity = problem.machines[0].capacity
    events: list[dict[str, Any]] = [
        {"type": "delay", "id": first.request, "by": rng.randint(1, 8)},
        {"type": "resource_down", "id": "1"},
        {"type": "insert", "id": "new", "item": {"prompt": 8, "output": 8}},
        {"type": "cancel", "id": second.request},
        {"type": "priority", "id": second.request, "weight": 5},
        {"type": "capacity", "id": "0", "capacity": capacity - capacity // 8},
    ]
    for event in events:
        yield event["type"], problem, plan, now, [event | {"time": now}]


CASES = {"project of 120 tasks": project, "cluster of 500 pods": cluster, "100 requests": window}


def measure(count: int, limit: float) -> list[dict[str, Any]]:
    """Replan ``count`` times per kind of problem; one record per call."""
    from cpsched.core import engine, jit
    from cpsched.core.clock import Clock

    for kind in ("rcpsp", "pods", "serving"):
        jit.load(kind)
    engine.ready(Clock(60.0))
    out: list[dict[str, Any]] = []
    for name, cases in CASES.items():
        done = 0
        seed = 0
        while done < count:
            for kind, problem, plan, now, events in cases(seed):
                if done == 0 and not out:
                    cpsched.replan(problem, plan, now=now, events=events, time_limit=limit)
                started = time.perf_counter()
                result = cpsched.replan(
                    problem, plan, now=now, events=events, time_limit=limit, seed=seed
                )
                wall = time.perf_counter() - started
                valid = (
                    result.schedule is not None
                    and cpsched.validate(result.problem, result.schedule).valid
                )
                first = result.trace[0].time if result.trace else None
                out.append(
                    {
                        "case": name,
                        "event": kind,
                        "seconds": wall,
                        "valid": valid,
                        "first": first,
                        "status": result.status.value,
                    }
                )
                done += 1
                if done >= count:
                    break
            seed += 1
    return out


def table(records: list[dict[str, Any]]) -> str:
    """Percentiles per kind of problem."""
    rows = [
        "| case | calls | checked plans | median ms | p95 ms | most ms |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in CASES:
        mine = sorted(r["seconds"] for r in records if r["case"] == name)
        if not mine:
            continue
        valid = sum(r["valid"] for r in records if r["case"] == name)
        p95 = mine[min(len(mine) - 1, int(0.95 * len(mine)))]
        median = mine[len(mine) // 2]
        rows.append(
            f"| {name} | {len(mine)} | {valid} | {1e3 * median:.0f} | {1e3 * p95:.0f} "
            f"| {1e3 * mine[-1]:.0f} |"
        )
    return "\n".join(rows)
