"""An inference server's first-come-first-served admission, with cpsched behind it.

The primary admits requests in the order of their arrival, each as soon as its memory and that of
everything running would never exceed the KV cache; nobody overtakes.
"""

from __future__ import annotations

import sys
from typing import Any

import cpsched


def fcfs(problem: Any) -> dict[str, Any]:
    """Starts in the order of arrival on the first instance; knows the memory law only."""
    capacity = problem.machines[0].capacity
    running: list[tuple[int, int, int]] = []  # start, end, prompt
    placed = []
    now = 0
    for request in sorted(problem.requests, key=lambda r: r.arrival):
        now = max(now, request.arrival)
        while not fits([*running, (now, now + request.output, request.prompt)], capacity):
            now += 1
        running = [r for r in running if r[1] > now]
        running.append((now, now + request.output, request.prompt))
        placed.append(
            {"request": request.id, "instance": 0, "start": now, "end": now + request.output}
        )
    return {"requests": placed}


def fits(running: list[tuple[int, int, int]], capacity: int) -> bool:
    """Whether the memory suffices in every round; it is fullest when a request ends."""
    return all(
        sum(prompt + t - start for start, end, prompt in running if start < t <= end) <= capacity
        for _, t, _ in running
    )


def main(path: str = "instances/serving/admission-conversation-60.json", **settings: Any) -> Any:
    """Place the problem in a file and say what cpsched made of it."""
    place = cpsched.fallback(fcfs, family="serving", **settings)
    result = place(cpsched.load(path))
    print(f"FCFS {result.initial['objective']}, now {result.objective}, bound {result.bound}")
    print("already optimal" if result.certified else f"{len(result.diff)} requests change")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
