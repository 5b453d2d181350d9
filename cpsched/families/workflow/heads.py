"""Heads and tails: per task and machine, bounds on the time before its start and after its end."""

from __future__ import annotations

import numpy as np

from cpsched.families.workflow import kernels_paths
from cpsched.families.workflow.greedy import least_durations
from cpsched.families.workflow.prepare import NEVER, Floats, Instance, Ints

#: Up to this many tasks, heads and tails count the work of all ancestors and descendants.
MOST_RELATED = 1500


def heads_and_tails(inst: Instance) -> tuple[Ints, Ints]:
    """Heads and tails per task and machine, in ticks."""
    if "heads" not in inst.cache:
        low = np.repeat(inst.release[:, None], inst.m, axis=1)
        if inst.inputs is not None:
            low = np.maximum(low, inst.inputs)
        none = np.zeros_like(low)
        inst.cache["heads"] = (_raised(inst, low, False), _raised(inst, none, True))
    both: tuple[Ints, Ints] = inst.cache["heads"]
    return both


def _raised(inst: Instance, low: Ints, backwards: bool) -> Ints:
    """Heads (tails when ``backwards``) by transfers along paths and by the work of ancestors."""
    heads = _by_paths(inst, low, backwards)
    if inst.n == 0 or inst.n > MOST_RELATED:
        return heads
    topo, ptr, src, _ = _direction(inst, backwards)
    least = least_durations(inst).min(axis=1)
    load = pool_loads(inst)
    for _ in range(3):
        first = heads.min(axis=1)
        raised = kernels_paths.raised_heads(topo, ptr, src, first, least, load, 12)
        if not bool((raised > first).any()):
            break
        heads = _by_paths(inst, np.maximum(low, raised[:, None]), backwards)
    return heads


def pool_loads(inst: Instance) -> Floats:
    """Least ticks per task for which it occupies all machines together; 0 for conditional tasks.

    With a weight y per machine that is ``min_p y[p] * use[t, p] / sum(y)``, where the use of a
    machine is the duration times the share of its cores. Any weights prove a bound; these are one
    over the mean use.
    """
    duration = inst.dur.astype(np.float64)
    speed = np.zeros(inst.m)
    use = np.full(duration.shape, np.inf)
    for p in range(inst.m):
        runs = inst.dur[:, p] >= 0
        if not runs.any():
            continue
        share = 1.0 if inst.unit[p] else inst.demand[runs, 0] / max(1, int(inst.cap[p, 0]))
        use[runs, p] = duration[runs, p] * share
        speed[p] = 1.0 / max(1e-6, float(use[runs, p].mean()))
    load = (use[:, speed > 0] * (speed[speed > 0] / speed.sum())).min(axis=1, initial=np.inf)
    least: Floats = np.minimum.reduceat(load, inst.row_ptr[:-1])
    return np.where(inst.conditional | ~np.isfinite(least), 0.0, least)


def _direction(inst: Instance, backwards: bool) -> tuple[Ints, Ints, Ints, Floats]:
    """Order, sources and bytes of the graph, or of the graph turned around."""
    if backwards:
        return inst.topo[::-1].copy(), inst.succ_ptr, inst.succ_dst, inst.succ_bytes
    return inst.topo, inst.pred_ptr, inst.pred_src, inst.pred_bytes


def _by_paths(inst: Instance, low: Ints, backwards: bool) -> Ints:
    topo, ptr, src, size = _direction(inst, backwards)
    dmin = least_durations(inst)
    pairs = inst.m if inst.uniform else inst.m * inst.m
    if not inst.communicates or pairs * len(inst.pred_src) > 4e9:
        return _plain(inst, low, dmin, topo, ptr, src)
    # Conditional tasks may overlap, so the chaining argument is left out with branches.
    exclusive = inst.unit & (not bool(inst.conditional.any()))
    link = np.ascontiguousarray(inst.link.T) if backwards else inst.link
    heads: Ints = kernels_paths.machine_heads(
        topo, ptr, src, size, link, inst.tpb, inst.lat, low, dmin, exclusive
    )
    return heads


def _plain(inst: Instance, low: Ints, dmin: Ints, topo: Ints, ptr: Ints, src: Ints) -> Ints:
    """Heads without transfers: the longest way over least durations."""
    least = dmin.min(axis=1).tolist()
    floor = low.min(axis=1).tolist()
    begins, sources = ptr.tolist(), src.tolist()
    way = [0] * inst.n
    for t in topo.tolist():
        ready = max((way[u] + least[u] for u in sources[begins[t] : begins[t + 1]]), default=0)
        way[t] = max(floor[t], ready)
    heads: Ints = np.maximum(low, np.array(way, dtype=np.int64)[:, None])
    return np.where(dmin >= NEVER, NEVER, heads)


def rough_heads_and_tails(inst: Instance) -> tuple[Ints, Ints]:
    """Heads as if data took no time, and no tails: much faster to compute, and valid."""
    low = np.repeat(inst.release[:, None], inst.m, axis=1)
    heads = _plain(inst, low, least_durations(inst), inst.topo, inst.pred_ptr, inst.pred_src)
    return heads, np.zeros_like(heads)


def path_without_transfers(inst: Instance) -> int:
    """Longest way over least durations, as if data took no time."""
    heads, _ = rough_heads_and_tails(inst)
    return int((heads + least_durations(inst)).min(axis=1).max(initial=0))


def critical_path(inst: Instance) -> int:
    """Longest way through any task, each on its best machine."""
    heads, tails = heads_and_tails(inst)
    dmin = least_durations(inst)
    ways = np.where(dmin >= NEVER, NEVER, heads + dmin + np.minimum(tails, NEVER))
    return int(ways.min(axis=1).max())
