"""A workflow engine's HEFT, with cpsched behind it.

The primary ranks tasks by their mean work and communication to the end, and puts each on the
machine where it ends first, after everything that is on that machine already.
"""

from __future__ import annotations

import sys
from typing import Any

import cpsched


def heft(problem: Any) -> dict[str, Any]:
    """A schedule by HEFT without insertion; knows works, speeds and one bandwidth."""
    speed = {m.name: m.speed for m in problem.machines}
    mean_speed = sum(speed.values()) / len(speed)
    work = {t.id: t.work for t in problem.tasks}
    sources: dict[str, list[tuple[str, float]]] = {t: [] for t in work}
    targets: dict[str, list[tuple[str, float]]] = {t: [] for t in work}
    for e in problem.edges:
        delay = problem.latency + (e.size / problem.bandwidth if problem.bandwidth else 0.0)
        sources[e.target].append((e.source, delay))
        targets[e.source].append((e.target, delay))
    rank: dict[str, float] = {}

    def rank_of(task: str) -> float:
        if task not in rank:
            rest = max((delay + rank_of(t) for t, delay in targets[task]), default=0.0)
            rank[task] = work[task] / mean_speed + rest
        return rank[task]

    free = dict.fromkeys(speed, 0.0)
    place: dict[str, tuple[str, float, float]] = {}
    for task in sorted(work, key=rank_of, reverse=True):
        best = None
        for machine in speed:
            ready = max(
                (place[s][2] + (0.0 if place[s][0] == machine else d) for s, d in sources[task]),
                default=0.0,
            )
            start = max(ready, free[machine])
            end = start + work[task] / speed[machine]
            if best is None or end < best[2]:
                best = (machine, start, end)
        assert best is not None
        place[task] = best
        free[best[0]] = best[2]
    return {
        "tasks": [
            {"task": t, "machine": m, "option": 0, "start": a, "end": b}
            for t, (m, a, b) in place.items()
        ]
    }


def main(path: str = "instances/workflow/layered-30.json", **settings: Any) -> Any:
    """Place the problem in a file and say what cpsched made of it."""
    place = cpsched.fallback(heft, family="workflow", **settings)
    result = place(cpsched.load(path))
    print(f"HEFT {result.initial['objective']}, now {result.objective}, bound {result.bound}")
    print("already optimal" if result.certified else f"{len(result.diff)} items change")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
