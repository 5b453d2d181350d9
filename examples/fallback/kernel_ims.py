"""A compiler's iterative modulo scheduling (Rau 1994), with cpsched behind it.

The primary tries one initiation interval after the other: operations by height, each in the first
slot of its window that the reservation table allows; what stands in the way is taken out again, and
after too many of these steps the next interval is tried.
"""

from __future__ import annotations

import sys
from typing import Any

import cpsched


def ims(problem: Any) -> dict[str, Any]:
    """A modulo schedule; knows units and dependences (no groups, buffers or registers)."""
    interval = max(
        1,
        *(
            -(
                -sum(
                    u.cycles * u.amount
                    for o in problem.operations
                    for u in o.uses
                    if u.unit == m.name
                )
                // m.capacity
            )
            for m in problem.machine.units
        ),
    )
    while True:
        start = attempt(problem, interval, 6 * len(problem.operations))
        if start is not None:
            break
        interval += 1
    length = max(start[o.id] + max(1, o.latency) for o in problem.operations)
    return {
        "initiation_interval": interval,
        "length": length,
        "stages": -(-length // interval),
        "operations": [
            {"operation": o, "start": s, "stage": s // interval, "slot": s % interval}
            for o, s in start.items()
        ],
    }


def attempt(problem: Any, interval: int, budget: int) -> dict[str, int] | None:
    """Starts at that interval, or None when the budget of placements is used up."""
    operations = {o.id: o for o in problem.operations}
    height = dict.fromkeys(operations, 0)
    for _ in operations:
        for e in problem.edges:
            via = height[e.target] + e.delay - e.distance * interval
            height[e.source] = max(height[e.source], via)
    capacity = {m.name: m.capacity for m in problem.machine.units}
    start: dict[str, int] = {}
    last: dict[str, int] = {}
    while len(start) < len(operations):
        if budget == 0:
            return None
        budget -= 1
        one = max((o for o in operations if o not in start), key=lambda o: height[o])
        early = max(
            (
                start[e.source] + e.delay - e.distance * interval
                for e in problem.edges
                if e.target == one and e.source in start
            ),
            default=0,
        )
        early = max(0, early)
        free = [
            t
            for t in range(early, early + interval)
            if not clashes(operations, capacity, start, interval, one, t)
        ]
        time = free[0] if free else max(early, last.get(one, -1) + 1)
        for other in clashes(operations, capacity, start, interval, one, time):
            del start[other]
        start[one] = last[one] = time
        for e in problem.edges:
            late = e.source == one and e.target in start and e.target != one
            if late and start[e.target] < time + e.delay - e.distance * interval:
                del start[e.target]
            early = e.target == one and e.source in start and e.source != one
            if early and time < start[e.source] + e.delay - e.distance * interval:
                del start[e.source]
    return start


def clashes(
    operations: Any, capacity: Any, start: Any, interval: int, one: str, time: int
) -> set[str]:
    """Operations in the reservation table that share an overfull slot with this one."""
    table: dict[tuple[str, int], int] = {}
    users: dict[tuple[str, int], set[str]] = {}
    for name, at in (*((n, t) for n, t in start.items() if n != one), (one, time)):
        for use in operations[name].uses:
            for c in range(use.start, use.start + use.cycles):
                slot = (use.unit, (at + c) % interval)
                table[slot] = table.get(slot, 0) + use.amount
                users.setdefault(slot, set()).add(name)
    out: set[str] = set()
    for slot, amount in table.items():
        if amount > capacity[slot[0]] and one in users[slot]:
            out |= users[slot]
    return out - {one}


def main(path: str = "instances/kernel/adaptive-filter.json", **settings: Any) -> Any:
    """Place the problem in a file and say what cpsched made of it."""
    place = cpsched.fallback(ims, family="kernel", **settings)
    result = place(cpsched.load(path))
    print(f"IMS {result.initial['objective']}, now {result.objective}, bound {result.bound}")
    print("already optimal" if result.certified else f"{len(result.diff)} items change")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
