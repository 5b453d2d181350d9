"""Helpers of the serving tests: problems in a line, brute force, a literal memory law."""

from __future__ import annotations

import itertools
import random
from typing import Any

from cpsched.families.serving.problem import Instance, Request, ServingProblem


def requests(*rows: tuple[int, ...], **common: Any) -> tuple[Request, ...]:
    """Requests from (prompt, output) or (prompt, output, arrival)."""
    return tuple(
        Request(id=str(i), prompt=r[0], output=r[1], arrival=r[2] if len(r) > 2 else 0, **common)
        for i, r in enumerate(rows)
    )


def problem(rows: Any, capacity: int | None, count: int = 1, **fields: Any) -> ServingProblem:
    """An admission problem on identical instances."""
    given = rows if rows and isinstance(rows[0], Request) else requests(*rows)
    limits = {
        k: fields.pop(k) for k in ("max_batch", "token_budget", "prefill_chunk") if k in fields
    }
    instances = (Instance(capacity=capacity, count=count, **limits),)
    return ServingProblem(requests=given, instances=instances, **fields)


def placed(*rows: tuple[int, int], p: ServingProblem, instance: int = 0) -> dict[str, Any]:
    """A schedule of (start, end) in the order of the requests."""
    return {
        "requests": [
            {"request": r.id, "instance": instance, "start": a, "end": b}
            for r, (a, b) in zip(p.requests, rows, strict=True)
        ]
    }


def memory(p: ServingProblem, starts: list[int], t: int) -> int:
    """Units held in round t, literally: prompt + t - start of everyone active."""
    return sum(
        r.prompt + t - s for r, s in zip(p.requests, starts, strict=True) if s < t <= s + r.output
    )


def brute_force(p: ServingProblem, makespan: bool = False) -> int:
    """The least total latency (or makespan) over every combination of starts, one instance."""
    capacity = p.instances[0].capacity
    horizon = max(r.arrival for r in p.requests) + sum(r.output for r in p.requests)
    best = None
    for starts in itertools.product(
        *(range(r.arrival, horizon - r.output + 1) for r in p.requests)
    ):
        ends = [s + r.output for s, r in zip(starts, p.requests, strict=True)]
        if makespan:
            value = max(ends)
        else:
            value = sum(e - r.arrival for e, r in zip(ends, p.requests, strict=True))
        if best is not None and value >= best:
            continue
        if all(memory(p, list(starts), t) <= capacity for t in range(1, max(ends) + 1)):
            best = value
    assert best is not None
    return best


def random_problem(seed: int, n: int = 4, arrivals: bool = False) -> ServingProblem:
    """A tight problem with few requests."""
    rng = random.Random(seed)
    rows = [
        (rng.randint(1, 4), rng.randint(1, 4), rng.randint(0, 3) if arrivals else 0)
        for _ in range(n)
    ]
    peak = max(s + o for s, o, _ in rows)
    return problem(rows, peak + rng.randint(0, 5))
