"""From slots, groups and depths to a schedule: the earliest stages that satisfy every edge."""

from __future__ import annotations

import numpy as np

from cpsched.families.kernel.check import stage_count
from cpsched.families.kernel.live import lifetimes
from cpsched.families.kernel.prepare import Instance, Ints
from cpsched.families.kernel.problem import BufferDepth, KernelSchedule, Placement


def edge_delays(instance: Instance, group: list[int | None]) -> Ints:
    """Delay of every edge under an assignment to groups, spill and signal included."""
    if not instance.problem.grouped:
        return instance.delay
    g = np.array([-1 if x is None else x for x in group], dtype=np.int64)
    crosses = g[instance.source] != g[instance.target]
    delays: Ints = instance.delay + instance.crossing * crosses
    return delays


def edge_reach(instance: Instance, depth: list[int]) -> Ints:
    """Iteration distance of every edge with the depths of its ring."""
    if not depth:
        return instance.distance
    table = np.array([*depth, 0], dtype=np.int64)
    return instance.distance + table[instance.buffer]


def stages_for(
    instance: Instance,
    interval: int,
    slot: list[int],
    group: list[int | None],
    depth: list[int],
    *,
    late: bool = False,
) -> Ints | None:
    """Smallest stages, from 0, at which every edge holds; None when a recurrence cannot.

    With ``late``, the largest stages within the same number of stages: values are then made as
    late as their uses allow.
    """
    slots = np.array(slot, dtype=np.int64)
    source, target = instance.source, instance.target
    need = edge_delays(instance, group) - interval * edge_reach(instance, depth)
    # Whole periods between the ends: the smallest k with k * II + slot difference >= need.
    steps = -((slots[target] - slots[source] - need) // interval)
    early = _longest(instance.n, source, target, steps)
    if early is None or not late:
        return early
    back = _longest(instance.n, target, source, steps)
    assert back is not None
    latest: Ints = early.max() - back
    return latest


def _longest(n: int, source: Ints, target: Ints, weight: Ints) -> Ints | None:
    value = np.zeros(n, dtype=np.int64)
    if len(weight) == 0:
        return value
    for _ in range(n + 1):
        before = value.copy()
        np.maximum.at(value, target, value[source] + weight)
        if (before == value).all():
            return value
    return None


def schedule_from(
    instance: Instance,
    interval: int,
    starts: list[int],
    group: list[int | None],
    depth: list[int],
) -> KernelSchedule:
    """The schedule with these starts, moved so that the earliest is cycle 0."""
    problem = instance.problem
    first = min(starts)
    starts = [int(s) - first for s in starts]
    operations = tuple(
        Placement(
            operation=instance.ids[o],
            start=starts[o],
            stage=starts[o] // interval,
            slot=starts[o] % interval,
            group=group[o],
        )
        for o in range(instance.n)
    )
    length = max(int(s + latency) for s, latency in zip(starts, instance.latency, strict=True))
    rings = {b.name: d for b, d in zip(problem.buffers, depth, strict=True)}
    alive = lifetimes(
        problem, dict(zip(instance.ids, starts, strict=True)), interval, rings, instance.uses_of
    )
    held = {
        o.id: max(1, -(-alive[o.id] // interval))
        for o in problem.operations
        if o.smem_bytes or o.tmem_columns
    }
    return KernelSchedule(
        initiation_interval=interval,
        length=length,
        stages=stage_count(interval, length),
        operations=operations,
        buffers=tuple(BufferDepth(buffer=n, depth=d) for n, d in (rings | held).items()),
    )
