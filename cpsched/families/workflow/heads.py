"""Heads and tails: per task and machine, bounds on the time before its start and after its end."""

from __future__ import annotations

import numpy as np

from cpsched.families.workflow import kernels_paths
from cpsched.families.workflow.greedy import least_durations
from cpsched.families.workflow.prepare import NEVER, Instance, Ints


def heads_and_tails(inst: Instance) -> tuple[Ints, Ints]:
    """Heads and tails per task and machine, in ticks."""
    if "heads" not in inst.cache:
        dmin = least_durations(inst)
        low = np.repeat(inst.release[:, None], inst.m, axis=1)
        if inst.inputs is not None:
            low = np.maximum(low, inst.inputs)
        # Conditional tasks may overlap, so the chaining argument is left out with branches.
        exclusive = inst.unit & (not bool(inst.conditional.any()))
        args = (inst.link, inst.tpb, inst.lat)
        pairs = inst.m if inst.uniform else inst.m * inst.m
        if not inst.communicates or pairs * len(inst.pred_src) > 4e9:
            heads = _plain(inst, low, dmin, inst.topo, inst.pred_ptr, inst.pred_src)
            none = np.zeros_like(low)
            tails = _plain(inst, none, dmin, inst.topo[::-1], inst.succ_ptr, inst.succ_dst)
        else:
            heads = kernels_paths.machine_heads(
                inst.topo, inst.pred_ptr, inst.pred_src, inst.pred_bytes, *args, low, dmin,
                exclusive,
            )  # fmt: skip
            back = (np.ascontiguousarray(inst.link.T), inst.tpb, inst.lat)
            tails = kernels_paths.machine_heads(
                inst.topo[::-1].copy(), inst.succ_ptr, inst.succ_dst, inst.succ_bytes, *back,
                np.zeros_like(low), dmin, exclusive,
            )  # fmt: skip
        inst.cache["heads"] = (heads, tails)
    both: tuple[Ints, Ints] = inst.cache["heads"]
    return both


def _plain(inst: Instance, low: Ints, dmin: Ints, topo: Ints, ptr: Ints, src: Ints) -> Ints:
    """Heads without transfers: the longest way over least durations."""
    least = dmin.min(axis=1).tolist()
    floor = low.min(axis=1).tolist()
    begins, sources = ptr.tolist(), src.tolist()
    way = [0] * inst.n
    for t in topo.tolist():
        ready = max((way[u] + least[u] for u in sources[begins[t] : begins[t + 1]]), default=0)
        way[t] = max(floor[t], ready)
    heads = np.maximum(low, np.array(way, dtype=np.int64)[:, None])
    return np.where(dmin >= NEVER, NEVER, heads)


def critical_path(inst: Instance) -> int:
    """Longest way through any task, each on its best machine."""
    heads, tails = heads_and_tails(inst)
    dmin = least_durations(inst)
    ways = np.where(dmin >= NEVER, NEVER, heads + dmin + np.minimum(tails, NEVER))
    return int(ways.min(axis=1).max())
