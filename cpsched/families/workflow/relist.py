"""Iterated list scheduling for large graphs: the list scheduler again, with better priorities.

The rank of a task is its longest way to the end over the durations and transfers of the best plan
so far (instead of means over machines), disturbed a little. Every plan is then justified: its tasks
moved as late as they go, from the last one on, and as early as they go again, on their machines.
What improves is kept.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cpsched.core.run import Run
from cpsched.families.workflow import greedy, kernels_paths, local
from cpsched.families.workflow.extract import Plan, order_of
from cpsched.families.workflow.prepare import NEVER, Instance


def relist(inst: Instance, run: Run, plan: Plan, compiled: bool) -> Plan:
    """Rebuild the plan until the run is done; returns the best one."""
    rng = np.random.default_rng(run.seed)
    source = np.repeat(np.arange(inst.n), np.diff(inst.succ_ptr))
    comm = greedy.mean_transfers(inst, inst.succ_bytes)
    backwards = None if any(inst.blocked) else mirrored(inst)
    best, value = plan, plan.makespan(inst)
    offers = local.Offers(inst, run, "relist")
    cost = greedy.seconds_of(inst, compiled)
    noise = 0.0
    factors = np.ones(inst.n)
    trial: Plan | None = plan
    changed = factors
    try:
        while not run.done() and run.clock.remaining() > 2 * cost:
            run.clock.spend(cost)
            if trial is not None and backwards is not None:
                trial = justified(inst, backwards, trial, run)
            if trial is None:
                break
            made = trial.makespan(inst)
            if made < value:
                best, value = trial, made
                factors = factors * changed
                offers.put(trial)
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
            noise = float(rng.choice([0.005, 0.02, 0.08]))
    finally:
        offers.flush()
    return best


def mirrored(inst: Instance) -> Instance:
    """The instance with time running backwards, without releases and deadlines."""
    return dataclasses.replace(
        inst,
        release=np.zeros_like(inst.release),
        deadline=np.full_like(inst.deadline, NEVER),
        pred_ptr=inst.succ_ptr,
        pred_src=inst.succ_dst,
        pred_bytes=inst.succ_bytes,
        succ_ptr=inst.pred_ptr,
        succ_dst=inst.pred_src,
        succ_bytes=inst.pred_bytes,
        topo=inst.topo[::-1].copy(),
        link=np.ascontiguousarray(inst.link.T),
        inputs=None,
        cache={},
    )


def justified(inst: Instance, backwards: Instance, plan: Plan, run: Run) -> Plan:
    """The plan moved to the right and back to the left while that shortens it."""
    best = plan
    for _ in range(4):
        run.clock.check()
        late = _again(backwards, best, inst, run)
        early = None if late is None else _again(inst, late, backwards, run)
        if early is None or early.makespan(inst) >= best.makespan(inst):
            break
        best = early
    return best


def _again(there: Instance, plan: Plan, here: Instance, run: Run) -> Plan | None:
    """A plan of ``here`` placed anew in the other direction, on the same machines."""
    turned = Plan(plan.makespan(here) - plan.end(here), plan.row, plan.mach)
    order = order_of(there, turned)
    return greedy.list_plan(
        there, order, fix_row=plan.row, fix_mach=plan.mach, check=run.clock.check
    )
