"""From slots, groups and depths to a schedule: the earliest stages that satisfy every edge."""

from __future__ import annotations

import numpy as np

from cpsched.families.kernel.graph import longest
from cpsched.families.kernel.prepare import Instance, Ints
from cpsched.families.kernel.problem import BufferDepth, KernelSchedule, Placement
from cpsched.families.kernel.values import stage_count


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
    early = longest(instance.n, source, target, steps)
    if early is None or not late:
        return early
    back = longest(instance.n, target, source, steps)
    assert back is not None
    latest: Ints = early.max() - back
    return latest


def schedule_from(
    instance: Instance,
    interval: int,
    starts: list[int],
    group: list[int | None],
    depth: list[int],
) -> KernelSchedule:
    """The schedule with these starts, moved so that the earliest is cycle 0.

    The instance is in its chosen modes.
    """
    problem = instance.problem
    start = np.array(starts, dtype=np.int64)
    start -= start.min()
    operations = tuple(
        Placement(operation=name, start=s, stage=s // interval, slot=s % interval, group=g, mode=m)
        for name, s, g, m in zip(instance.ids, start.tolist(), group, instance.chosen, strict=True)
    )
    length = int((start + instance.latency).max())
    rings = {b.name: d for b, d in zip(problem.buffers, depth, strict=True)}
    copies = instance.live.lifetimes(start, interval, np.array(depth, dtype=np.int64))
    copies = np.maximum(1, -(-copies // interval))
    held = {
        o.id: int(copies[k])
        for k, o in enumerate(problem.operations)
        if o.smem_bytes or o.tmem_columns
    }
    return KernelSchedule(
        initiation_interval=interval,
        length=length,
        stages=stage_count(interval, length),
        operations=operations,
        buffers=tuple(BufferDepth(buffer=n, depth=d) for n, d in (rings | held).items()),
    )
