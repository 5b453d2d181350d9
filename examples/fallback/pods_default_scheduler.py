"""The default scheduler of a cluster, with cpsched behind it.

The primary takes pending pods by priority, filters the nodes that have room, and binds to the one
with the most left: the score LeastAllocated. It never moves a running pod.
"""

from __future__ import annotations

import sys
from typing import Any

import cpsched


def default_scheduler(problem: Any) -> dict[str, Any]:
    """Binds for the pending pods; knows requests only (no affinity, ports or taints)."""
    room = {n.name: dict(n.allocatable) for n in problem.nodes}
    placements, steps = [], []
    for pod in problem.pods:
        if pod.node is not None:
            placements.append({"pod": pod.name, "node": pod.node})
            take(room[pod.node], pod.requests)
    for pod in sorted((p for p in problem.pods if p.node is None), key=lambda p: -p.priority):
        fitting = [
            name
            for name, left in room.items()
            if all(left.get(r, 0) >= amount for r, amount in pod.requests.items())
        ]
        node = max(fitting, key=lambda name: share_left(problem, room, name), default=None)
        placements.append({"pod": pod.name, "node": node})
        if node is not None:
            steps.append({"action": "bind", "pod": pod.name, "node": node})
            take(room[node], pod.requests)
    return {"placements": placements, "steps": steps}


def take(left: dict[str, int], requests: dict[str, int]) -> None:
    """Reserve the requests."""
    for resource, amount in requests.items():
        left[resource] = left.get(resource, 0) - amount


def share_left(problem: Any, room: dict[str, dict[str, int]], name: str) -> float:
    """Mean free share of a node's resources."""
    whole = next(n for n in problem.nodes if n.name == name).allocatable
    return sum(room[name][r] / whole[r] for r in whole if whole[r]) / max(1, len(whole))


def main(path: str = "instances/pods/scenario-8x32.json", **settings: Any) -> Any:
    """Place the problem in a file and say what cpsched made of it."""
    place = cpsched.fallback(default_scheduler, family="pods", **settings)
    result = place(cpsched.load(path))
    print(f"primary {result.initial['objective']}, now {result.objective} {result.objective_name}")
    for step in result.schedule.steps:
        print(f"  {step.action} {step.pod} {step.node}")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
