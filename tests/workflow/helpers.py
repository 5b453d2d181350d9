"""Small problems and schedules that the tests of the family share."""

from __future__ import annotations

import itertools
import random
from typing import Any

import cpsched
from cpsched.families.workflow.check import check
from cpsched.families.workflow.problem import WorkflowProblem, WorkflowSchedule

#: The example of Topcuoglu, Hariri and Wu (2002), as (durations on three machines) and edges.
CANONICAL = {
    "processors": ["P1", "P2", "P3"],
    "w": [
        [14, 16, 9], [13, 19, 18], [11, 13, 19], [13, 8, 17], [12, 13, 10],
        [13, 16, 9], [7, 15, 11], [5, 11, 14], [18, 12, 20], [21, 7, 16],
    ],
    "edges": [
        [0, 1, 18], [0, 2, 12], [0, 3, 9], [0, 4, 11], [0, 5, 14], [1, 7, 19], [1, 8, 16],
        [2, 6, 23], [3, 7, 27], [3, 8, 23], [4, 8, 13], [5, 7, 15], [6, 9, 17], [7, 9, 11],
        [8, 9, 13],
    ],
}  # fmt: skip


def problem(**fields: Any) -> WorkflowProblem:
    """A problem from plain data; two machines, m0 and m1 of speed 2, unless given."""
    fields.setdefault("machines", [{"name": "m0"}, {"name": "m1", "speed": 2}])
    return WorkflowProblem.parse(fields)


def schedule(*tasks: tuple[Any, ...], transfers: tuple[Any, ...] = ()) -> WorkflowSchedule:
    """From (task, machine, start, end[, option]) and (file, producer, from, to, start, end)."""
    return WorkflowSchedule.parse(
        {
            "tasks": [
                dict(zip(("task", "machine", "start", "end", "option"), t, strict=False))
                for t in tasks
            ],
            "transfers": [
                dict(zip(("file", "producer", "from", "to", "start", "end"), t, strict=True))
                for t in transfers
            ],
        }
    )


def rules(p: WorkflowProblem, s: WorkflowSchedule) -> set[str]:
    """The names of the broken rules."""
    return {v.rule for v in check(p, s)}


def solved(p: WorkflowProblem, seconds: float = 60.0, **settings: Any) -> cpsched.Result:
    """The result of a call that contradicts nothing."""
    settings.setdefault("workers", 2)
    return cpsched.solve(p, time_limit=seconds, strict=True, **settings)


def random_problem(seed: int, tasks: int = 5, **fields: Any) -> WorkflowProblem:
    """A tiny random problem with unrelated durations and data on edges."""
    rng = random.Random(seed)
    machines = [{"name": f"m{p}"} for p in range(rng.choice([2, 3]))]
    made = [
        {
            "id": f"t{t}",
            "durations": {m["name"]: rng.randint(1, 9) for m in machines if rng.random() < 0.9}
            or {"m0": 5},
        }
        for t in range(tasks)
    ]
    edges = [
        {"source": f"t{u}", "target": f"t{t}", "size": rng.choice([0, 1, 3, 8])}
        for u, t in itertools.combinations(range(tasks), 2)
        if rng.random() < 0.35
    ]
    data: dict[str, Any] = {"tasks": made, "edges": edges, "machines": machines, "bandwidth": 1}
    return WorkflowProblem.parse(data | fields)


def brute_force(p: WorkflowProblem) -> float:
    """The least makespan over all orders and assignments, by appending (unit machines only)."""
    names = [t.id for t in p.tasks]
    size = {(e.source, e.target): e.size for e in p.edges}
    before: dict[str, list[str]] = {n: [] for n in names}
    for u, v in size:
        before[v].append(u)
    best = float("inf")
    choices = [list((t.durations or {}).items()) for t in p.tasks]
    for order in itertools.permutations(range(len(names))):
        position = {names[t]: k for k, t in enumerate(order)}
        if any(position[u] > position[v] for u, v in size):
            continue
        for cells in itertools.product(*choices):
            end: dict[str, float] = {}
            free: dict[str, float] = {}
            for t in order:
                machine, length = cells[t]
                at = free.get(machine, 0.0)
                for u in before[names[t]]:
                    far = cells[names.index(u)][0] != machine
                    data = size[u, names[t]]
                    at = max(at, end[u] + (data if far and data else 0))
                end[names[t]] = free[machine] = at + length
                if at + length >= best:
                    break
            else:
                best = min(best, max(end.values()))
    return best
