"""Suites of the `memory` family: MiniMalloc's challenging set, scale, and generated mappings.

MiniMalloc's published seconds are in `PUBLISHED`; omnimalloc and a plain CP-SAT model are run
beside cpsched. omnimalloc has no capacity: it solves a case when its height fits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cpsched
from benchmarks.suite import Answer, Case, Suite
from cpsched.families.memory.check import height
from cpsched.families.memory.generate import (
    layered_allocation,
    mapping,
    random_allocation,
    steady_allocation,
)
from cpsched.families.memory.problem import MemoryProblem, MemorySchedule, PlacedBuffer

#: Seconds of MiniMalloc's C++ at 1 MiB, on a machine of the same kind with 2 cores.
PUBLISHED = {
    "A": 8.5,
    "B": 6.1,
    "C": 1.1,
    "D": 4.7,
    "E": 6.4,
    "F": 7.7,
    "G": 1.4,
    "H": 2.1,
    "I": 4.6,
    "J": 1.5,
    "K": 0.8,
}

#: Buffers and seeds of the scale class, on which first fit by size ends 8.7 % above the load
#: (100,000 buffers, seed 0).
SCALE = ((10_000, 0), (100_000, 0), (100_000, 1))


def minimalloc(names: str, capacity: str | None = None) -> Callable[[Path | None], list[Case]]:
    """Cases of the set, within 1 MiB or with another capacity option."""

    def cases(data: Path | None) -> list[Case]:
        if data is None:
            return []
        out = []
        for name in names:
            path = data / "memory" / "minimalloc" / f"{name}.1048576.csv"
            options = {} if capacity is None else {"capacity": capacity}
            out.append(Case(name, partial(cpsched.load, path, options=options), path))
        return out

    return cases


def generated(problems: list[Callable[[], MemoryProblem]]) -> Callable[[Path | None], list[Case]]:
    """Cases made on the spot."""

    def cases(data: Path | None) -> list[Case]:
        return [Case(make().name, make) for make in problems]

    return cases


def published(case: Case, problem: MemoryProblem, result: Any) -> Mapping[str, Any]:
    """MiniMalloc's figure beside ours."""
    return {"minimalloc_seconds": PUBLISHED.get(case.name)}


def prefetcher(case: Case, problem: MemoryProblem, result: Any) -> Mapping[str, Any]:
    """The best greedy mapping of the run."""
    values = [p.objective for p in result.trace if p.source.startswith("greedy:")]
    return {"greedy": min((v for v in values if v is not None), default=None)}


def over_load(case: Case, problem: MemoryProblem, result: Any) -> Mapping[str, Any]:
    """Height relative to the load bound."""
    load = next((b.value for b in result.bounds if b.argument == "load"), None)
    return {"over_load": result.objective / load if load and result.objective else None}


def exhaustive(case: Case, problem: MemoryProblem, result: Any) -> Mapping[str, Any]:
    """The optimum by exhaustive search, and whether ours is the same and proved."""
    from tests.memory.brute import stacked_height

    best = stacked_height(problem)
    return {"exhaustive": best, "equal": result.objective == best == result.bound}


def omnimalloc(case: Case, problem: MemoryProblem, limit: float, workers: int, seed: int) -> Answer:
    """omnimalloc's default allocator; its answer is checked like ours."""
    import omnimalloc as peer

    rows = [
        peer.Allocation(id=b.id, size=b.size, start=b.lower, end=b.upper) for b in problem.buffers
    ]
    placed = peer.allocate(rows, "supermalloc")
    schedule = MemorySchedule(
        buffers=tuple(PlacedBuffer(buffer=str(a.id), offset=a.offset) for a in placed)
    )
    reached = height(problem, schedule)
    fits = cpsched.validate(problem, schedule).valid
    if problem.capacity is not None:
        return Answer("OPTIMAL" if fits else "UNKNOWN", None, extra={"height": reached})
    return Answer("FEASIBLE" if fits else "ERROR", reached)


def cp_sat(case: Case, problem: MemoryProblem, limit: float, workers: int, seed: int) -> Answer:
    """CP-SAT with its 2-D constraint and a redundant cumulative, offsets in bytes."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    total = sum(b.size for b in problem.buffers)
    limit_bytes = total if problem.capacity is None else problem.capacity
    top = model.new_int_var(0, limit_bytes, "height")
    times, spaces, sizes = [], [], []
    for b in problem.buffers:
        assert b.lower is not None
        assert b.upper is not None
        times.append(model.new_fixed_size_interval_var(b.lower, b.upper - b.lower, ""))
        offset = model.new_int_var(0, limit_bytes - b.size, "")
        spaces.append(model.new_fixed_size_interval_var(offset, b.size, ""))
        sizes.append(b.size)
        model.add(offset + b.size <= top)
    model.add_no_overlap_2d(times, spaces)
    model.add_cumulative(times, sizes, top)
    if problem.capacity is None:
        model.minimize(top)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = workers
    solver.parameters.max_time_in_seconds = limit
    solver.parameters.random_seed = seed
    started = time.perf_counter()
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Answer(status.name, None)
    if problem.capacity is not None:
        return Answer("OPTIMAL", None)
    value = solver.objective_value
    seconds = time.perf_counter() - started
    return Answer(status.name, value, solver.best_objective_bound, ((seconds, value),))


PEERS = {"omnimalloc": omnimalloc, "cp-sat": cp_sat}

SUITES = {
    "minimalloc": Suite(
        "minimalloc",
        "MiniMalloc A to K within 1 MiB (feasibility)",
        minimalloc("ABCDEFGHIJK"),
        limit=30.0,
        peers=PEERS,
        extra=published,
    ),
    "minimalloc-height": Suite(
        "minimalloc-height",
        "MiniMalloc C, D and J: the least height found, and its bound",
        minimalloc("CDJ", "none"),
        limit=60.0,
        peers=PEERS,
    ),
    "memory-random": Suite(
        "memory-random",
        "generated buffers, 20 to 200",
        generated(
            [partial(random_allocation, n, seed) for n in (20, 50, 100, 200) for seed in range(3)]
        ),
        limit=10.0,
        peers=PEERS,
    ),
    "memory-steady": Suite(
        "memory-steady",
        "generated streams of a flat load, 30 to 200 buffers: the load is not tight",
        generated(
            [
                partial(steady_allocation, n, seed, low=low, high=high)
                for n in (30, 60, 200)
                for low, high in ((10, 40), (5, 25))
                for seed in range(3)
            ]
        ),
        limit=10.0,
        peers=PEERS,
        extra=over_load,
    ),
    "memory-exhaustive": Suite(
        "memory-exhaustive",
        "1,000 instances of 3 to 12 buffers against exhaustive search",
        generated(
            [
                partial(random_allocation, 3 + seed % 10, seed, largest=30, mean=0.4)
                for seed in range(1000)
            ]
        ),
        limit=30.0,
        extra=exhaustive,
    ),
    "memory-scale": Suite(
        "memory-scale",
        "up to 100,000 generated buffers: height relative to the load",
        generated([partial(layered_allocation, n, seed) for n, seed in SCALE]),
        limit=20.0,
        extra=over_load,
    ),
    "memory-mapping": Suite(
        "memory-mapping",
        "generated inference and training graphs of 20, 40 and 60 tensors",
        generated(
            [
                partial(mapping, n, seed, training=training)
                for n in (20, 40, 60)
                for seed in range(2)
                for training in (False, True)
            ]
        ),
        limit=30.0,
        extra=prefetcher,
    ),
}
