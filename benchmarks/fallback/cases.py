"""Small random problems of every family, and placements as a host might hand them over."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import cpsched
from benchmarks.fallback.replanning import generated

#: Generators and the options drawn for small problems, by family.
SMALL: dict[str, tuple[tuple[str, dict[str, tuple[Any, ...]]], ...]] = {
    "rcpsp": (
        ("project", {"tasks": (6, 10, 15, 30), "resources": (1, 2), "modes": (1, 2)}),
        ("shop", {"jobs": (3, 5), "machines": (2, 3), "alternatives": (1, 2), "due": (0, 1.2)}),
        ("total-tardiness", {"n": (5, 8)}),
    ),
    "workflow": (
        ("layered", {"tasks": (6, 10, 20), "machines": (2, 3), "ccr": (0.1, 1, 5)}),
        ("agent", {"tasks": (5, 8)}),
    ),
    "serving": (
        ("serving-synthetic", {"requests": (8, 14)}),
        ("serving-trace", {"requests": (10, 20), "instances": (1, 2)}),
        ("serving-experts", {"experts": (8,), "replicas": (12,), "gpus": (4,), "nodes": (2,)}),
    ),
    "pods": (
        (
            "pod-scenario",
            {"nodes": (2, 4), "pods_per_node": (3, 4), "priorities": (1, 2, 4)}
            | {"utilisation": (0.9, 1.0, 1.05)},
        ),
    ),
    "kernel": (
        ("random-loop", {"operations": (4, 8, 12), "units": (2, 3)}),
        ("round-robin", {"stages": (3, 4), "devices": (2, 3)}),
    ),
    "memory": (("memory", {"style": ("random", "training"), "n": (4, 8, 16)}),),
}


def problem(kind: str, seed: int) -> Any:
    """A small random problem of a family."""
    rng = random.Random(f"{kind} {seed}")
    name, options = rng.choice(SMALL[kind])
    drawn = {key: rng.choice(values) for key, values in options.items()}
    return generated(kind, name, seed=rng.randrange(10**6), **drawn)


def answers(instance: Any) -> list[Any]:
    """Schedules met while solving for a moment: poor ones first, the best last."""
    met: list[Any] = []
    for limit in (0.1, 2.0):
        cpsched.solve(
            instance, time_limit=limit, workers=1, on_improvement=lambda i: met.append(i.schedule)
        )
        if met:
            break
    return [schedule.to_dict() for schedule in met]


def placements(instance: Any, count: int, rng: random.Random) -> Iterator[tuple[str, Any]]:
    """What a host might hand over: good, poor, partial, wrong, of another problem, nothing."""
    known = answers(instance) or [{}]
    for _ in range(count):
        given = copy.deepcopy(rng.choice(known))
        what = rng.choice(("valid", "valid", "partial", "changed", "changed", "swapped", "none"))
        if what == "none":
            yield what, None
            continue
        if what != "valid":
            for _ in range(rng.choice((1, 1, 2, 5))):
                _spoil(given, what, rng)
        yield what, given


def _spoil(given: dict[str, Any], what: str, rng: random.Random) -> None:
    lists = [v for v in given.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    if not lists:
        return
    entries = rng.choice(lists)
    if not entries:
        return
    if what == "partial":
        del entries[rng.randrange(len(entries))]
        return
    entry = rng.choice(entries)
    field = rng.choice(sorted(entry))
    if what == "swapped":
        other = rng.choice(entries)
        if field in other:
            entry[field], other[field] = other[field], entry[field]
        return
    value = entry[field]
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        entry[field] = max(0, value + rng.choice((-100, -3, -1, 1, 2, 50)))
    elif isinstance(value, str):
        entry[field] = rng.choice((value + "?", "0", str(rng.choice(entries).get(field))))
