"""Small loops for the tests: hand-made and random ones."""

from __future__ import annotations

import random
from typing import Any

from cpsched.families.kernel import KernelProblem


def loop(operations: list[dict[str, Any]], edges: list[dict[str, Any]] = (), **fields: Any):
    """A problem from short records; units A (capacity 1) and B (capacity 2) exist by default."""
    machine = {"units": [{"name": "A"}, {"name": "B", "capacity": 2}]} | fields.pop("machine", {})
    return KernelProblem.parse(
        {"operations": operations, "edges": list(edges), "machine": machine} | fields
    )


def edge(source: str, target: str, delay: int = 0, distance: int = 0, **fields: Any):
    """An edge as a record."""
    return {"source": source, "target": target, "delay": delay, "distance": distance} | fields


def op(name: str, latency: int = 1, unit: str | None = None, cycles: int = 1, **fields: Any):
    """An operation as a record, with at most one unit."""
    uses = [] if unit is None else [{"unit": unit, "cycles": cycles}]
    return {"id": name, "latency": latency, "uses": uses} | fields


def schedule(
    interval: int, starts: dict[str, int], problem=None, groups=None, depths=None, modes=None
):
    """A schedule as plain data, its derived fields filled in from the problem."""
    latency = {}
    for o in problem.operations if problem else ():
        mode = o.modes[(modes or {}).get(o.id, 0)] if o.modes else o
        latency[o.id] = o.latency if mode.latency is None else mode.latency
    length = max(s + max(1, latency.get(name, 1)) for name, s in starts.items())
    return {
        "initiation_interval": interval,
        "length": length,
        "stages": -(-length // interval),
        "operations": [
            {
                "operation": name,
                "start": s,
                "stage": s // interval,
                "slot": s % interval,
                "group": (groups or {}).get(name),
                "mode": (modes or {}).get(name, 0),
            }
            for name, s in starts.items()
        ],
        "buffers": [{"buffer": b, "depth": d} for b, d in (depths or {}).items()],
    }


def random_modes(rng: random.Random, grouped: bool) -> list[dict[str, Any]]:
    """Two ways to execute: slower ones use less."""
    out = []
    for _ in range(2):
        mode: dict[str, Any] = {"latency": rng.randint(0, 3)}
        if rng.random() < 0.7:
            unit, most = rng.choice([("A", 1), ("B", 2)])
            use = {"unit": unit, "cycles": rng.randint(1, 3), "amount": rng.randint(1, most)}
            mode["uses"] = [use | {"start": rng.choice([0, 0, 1])}]
        if rng.random() < 0.3:
            mode["extra_delay"] = rng.randint(0, 2)
        if grouped:
            mode["registers"] = rng.choice([None, 1, 3])
            mode["smem_bytes"] = rng.choice([None, 0, 2])
            mode["issue"] = rng.choice([None, 0, 2])
            mode["spill_cost"] = rng.choice([None, 0, 2])
            mode["min_warps"] = rng.choice([None, 2])
        out.append(mode)
    return out


def random_loop(
    seed: int, *, grouped: bool = False, size: int = 5, modes: bool = False
) -> KernelProblem:
    """A random tiny loop: a few operations, one or two recurrences, small numbers."""
    rng = random.Random(seed)
    n = rng.randint(2, size)
    operations = []
    for k in range(n):
        unit = rng.choice(["A", "B", None])
        fields: dict[str, Any] = {}
        if grouped:
            fields = {
                "registers": rng.choice([0, 0, 1, 2, 3]),
                "smem_bytes": rng.choice([0, 0, 1, 2]),
                "spill_cost": rng.choice([0, 1, 2]),
                "issue": rng.choice([0, 1, 2]),
                "variable_latency": k == 0 and rng.random() < 0.4,
            }
        if modes and rng.random() < 0.7:
            fields["modes"] = random_modes(rng, grouped)
        operations.append(op(f"o{k}", rng.randint(0, 3), unit, rng.randint(1, 3), **fields))
    edges = []
    for w in range(1, n):
        sources = [u for u in range(w) if rng.random() < 0.45]
        edges += [
            edge(f"o{u}", f"o{w}", rng.randint(0, 3), blocking=rng.random() < 0.3) for u in sources
        ]
    for _ in range(rng.randint(0, 2)):
        u, w = sorted(rng.choices(range(n), k=2))
        kind = rng.choice(["true", "true", "anti"])
        edges.append(edge(f"o{w}", f"o{u}", rng.randint(0, 3), rng.randint(1, 2), kind=kind))
    machine: dict[str, Any] = {}
    extra: dict[str, Any] = {"groups": 0}
    if grouped:
        machine = {"registers_per_warp": rng.choice([4, 6]), "smem_bytes": rng.choice([3, 5])}
        machine["signal_cost"] = rng.choice([0, 0, 1])
        extra = {"groups": rng.choice([2, 3])}
    return loop(operations, edges, machine=machine, **extra)
