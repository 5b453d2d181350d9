"""Iterated list scheduling for large graphs: the list scheduler again, with better priorities.

The rank of a task is its longest way to the end over the durations and transfers of the best plan
so far (instead of means over machines), disturbed a little; what improves is kept.
"""

from __future__ import annotations

import numpy as np

from cpsched.core.run import Run
from cpsched.families.workflow import greedy, kernels_paths, local
from cpsched.families.workflow.extract import Plan
from cpsched.families.workflow.prepare import Instance


def relist(inst: Instance, run: Run, plan: Plan, compiled: bool) -> Plan:
    """Rebuild the plan until the run is done; returns the best one."""
    rng = np.random.default_rng(run.seed)
    source = np.repeat(np.arange(inst.n), np.diff(inst.succ_ptr))
    comm = greedy.mean_transfers(inst, inst.succ_bytes)
    best, value = plan, plan.makespan(inst)
    offers = local.Offers(inst, run, "relist")
    cost = inst.rows * inst.m * (2e-7 if compiled else 1e-5)
    noise = 0.0
    factors = np.ones(inst.n)
    try:
        while not run.done() and run.clock.remaining() > 2 * cost:
            run.clock.spend(cost)
            length = inst.dur[best.row, best.mach].astype(np.float64)
            apart = best.mach[source] != best.mach[inst.succ_dst]
            rank = kernels_paths.upward_ranks(
                inst.topo, inst.succ_ptr, inst.succ_dst, np.where(apart, comm, 0.0), length
            )
            changed = np.where(
                rng.random(inst.n) < 0.3, rng.uniform(1 - noise, 1 + noise, inst.n), 1.0
            )
            keys = (-rank * factors * changed).tolist()
            order = greedy.ready_order(inst, [(0.0, k) for k in keys])
            trial = greedy.list_plan(inst, order, check=run.clock.check)
            if trial is None:
                break
            made = trial.makespan(inst)
            if made < value:
                best, value = trial, made
                factors = factors * changed
                offers.put(trial)
            noise = float(rng.choice([0.005, 0.02, 0.08]))
    finally:
        offers.flush()
    return best
