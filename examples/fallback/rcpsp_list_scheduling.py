"""A project planner's list scheduling, with cpsched behind it.

The primary is the serial schedule-generation scheme: tasks in the order of their longest chain of
successors, each at the earliest time at which its predecessors have ended and resources are free.
"""

from __future__ import annotations

import sys
from typing import Any

import cpsched


def list_scheduling(problem: Any) -> dict[str, Any]:
    """A schedule by the serial scheme; knows single modes and plain precedences."""
    duration = {t.id: t.modes[0].duration for t in problem.tasks}
    demands = {t.id: t.modes[0].demands for t in problem.tasks}
    before: dict[str, list[str]] = {t: [] for t in duration}
    after: dict[str, list[str]] = {t: [] for t in duration}
    for p in problem.precedences:
        before[p.after].append(p.before)
        after[p.before].append(p.after)
    tail: dict[str, int] = {}

    def chain(task: str) -> int:
        if task not in tail:
            tail[task] = duration[task] + max((chain(s) for s in after[task]), default=0)
        return tail[task]

    capacity = {r.name: r.capacity for r in problem.resources}
    used: dict[tuple[str, int], int] = {}
    end: dict[str, int] = {}
    start: dict[str, int] = {}
    while len(end) < len(duration):
        ready = [t for t in duration if t not in end and all(b in end for b in before[t])]
        task = max(ready, key=chain)
        time = max((end[b] for b in before[task]), default=0)
        while any(
            used.get((r, t), 0) + units > capacity[r]
            for r, units in demands[task].items()
            for t in range(time, time + duration[task])
        ):
            time += 1
        for r, units in demands[task].items():
            for t in range(time, time + duration[task]):
                used[r, t] = used.get((r, t), 0) + units
        start[task], end[task] = time, time + duration[task]
    return {
        "tasks": [{"task": t, "start": start[t], "end": end[t]} for t in duration],
        "makespan": max(end.values()),
    }


def main(path: str = "instances/rcpsp/small.sm", **settings: Any) -> Any:
    """Place the problem in a file and say what cpsched made of it."""
    place = cpsched.fallback(list_scheduling, family="rcpsp", **settings)
    result = place(cpsched.load(path))
    print(f"primary {result.initial['objective']}, now {result.objective}, bound {result.bound}")
    print("already optimal" if result.certified else f"{len(result.diff)} tasks change")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
