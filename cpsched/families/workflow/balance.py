"""Exchange of sets of tasks between machines until the machines finish together.

Annealing moves one or two tasks at a time: where machines hardly ever wait, they then finish within
some ten-thousandths of each other. Here tens of tasks are spread over the machines anew, by
`packing.partition`, so that every machine finishes at a goal: in every other round tasks that could
take each other's places, else any tasks, in the hope that none will have to wait.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cpsched.core.clock import Clock
from cpsched.families.workflow.area import least_span
from cpsched.families.workflow.extract import Plan, order_of
from cpsched.families.workflow.heads import heads_and_tails
from cpsched.families.workflow.packing import MOST_PACKED, partition, works
from cpsched.families.workflow.prepare import NEVER, Instance, Ints

#: The order, options and machines of a plan that is still to be decoded.
Placed = tuple[Ints, Ints, Ints]

#: Numbers of tasks that are spread anew at a time, where more could be.
SIZES = (16, 22, 28, 34)

#: The goal lies so far, as a part, from what the machines could reach to the best makespan.
SHARES = (0.0, 0.1, 0.5)

#: Subsets for a machine that are given up, one after the other, before the set of tasks is.
TRIES = 12


def seconds_of(size: int) -> float:
    """Estimated seconds of spreading ``size`` tasks anew."""
    return 1e-3 + 1e-7 * math.exp2(size / 2)


class Balancer:
    """Exchanges around a plan, one set of tasks after the other."""

    def __init__(self, inst: Instance, seed: int) -> None:
        self.inst = inst
        self.rng = np.random.default_rng(seed)
        self.round = 0
        #: Rounds in which sets of tasks could be spread at all.
        self.spread = 0

    def step(self, plan: Plan, best: int, goal: int, clock: Clock) -> Placed | None:
        """What may take less than ``best`` ticks, from a plan near it.

        Only decoding shows whether it does.
        """
        rng = self.rng
        seconds = 0.1 * clock.remaining()
        self.round += 1
        any_task = self.round % 2 == 0
        pool = spreadable(self.inst, plan) if any_task else movable(self.inst, plan, rng)
        size = SIZES[-1] if any_task else SIZES[int(rng.integers(len(SIZES)))]
        if len(pool) <= MOST_PACKED and seconds_of(len(pool)) <= seconds:
            size = MOST_PACKED
        while seconds_of(size) > seconds and size > SIZES[0]:
            size -= 6
        if len(pool) > size:
            pool = np.sort(rng.choice(pool, size, replace=False))
        clock.spend(seconds_of(len(pool)))
        free = (_idle_free if any_task else _free)(self.inst, plan, pool)
        target = _target(self.inst, plan, pool, free, best, goal)
        if target is None:
            return None
        self.spread += 1
        work, grain, span = target
        span += int(SHARES[self.round % 3] * (best - 1 - span))
        where = partition(work, np.maximum(0, span + free) // grain, rng, TRIES)
        return None if where is None else _placed(self.inst, plan, pool, where, any_task)

    def kicked(self, plan: Plan) -> Placed:
        """The plan with the machines of a few tasks of about the same length exchanged."""
        inst, rng = self.inst, self.rng
        length = inst.dur[plan.row, plan.mach]
        allowed = inst.dur[plan.row] >= 0
        mach = plan.mach.copy()
        for _ in range(int(rng.integers(1, 4))):
            # Every machine is as likely: those with few tasks have the fewest sums to choose from.
            here = np.flatnonzero((mach == rng.integers(inst.m)) & (length > 0))
            if not len(here):
                continue
            t = int(rng.choice(here))
            fits = allowed[:, mach[t]] & allowed[t, mach] & (mach != mach[t]) & (length > 0)
            others = np.flatnonzero(fits)
            if len(others):
                apart = np.abs(inst.dur[plan.row[others], mach[t]] - inst.dur[plan.row[t], mach[t]])
                u = int(rng.choice(others[np.argsort(apart, kind="stable")[:6]]))
                mach[t], mach[u] = mach[u], mach[t]
        return order_of(inst, plan), plan.row, mach


def spreadable(inst: Instance, plan: Plan) -> Ints:
    """Tasks that may run on any machine, take time there and have no deadline."""
    able = (inst.dur[plan.row] > 0).all(axis=1) & (inst.deadline >= NEVER)
    return np.flatnonzero(able)


def movable(inst: Instance, plan: Plan, rng: np.random.Generator) -> Ints:
    """Tasks that could take each other's places: all wait for nothing, and none waits for them.

    All of them could start at some time before the first of them starts, on any machine, and what
    comes after them starts when the last of them has started.
    """
    end = plan.end(inst)
    ready = np.maximum(inst.release, 0 if inst.inputs is None else inst.inputs.max(axis=1))
    target = np.repeat(np.arange(inst.n), np.diff(inst.pred_ptr))
    slow, late = float(inst.tpb.max()), int(inst.lat.max())
    carried = inst.pred_bytes >= 0
    lag = np.where(carried, np.rint(np.maximum(inst.pred_bytes, 0.0) * slow) + late, 0.0)
    np.maximum.at(ready, target, end[inst.pred_src] + lag.astype(np.int64))
    after = np.full(inst.n, NEVER, dtype=np.int64)
    source = np.repeat(np.arange(inst.n), np.diff(inst.succ_ptr))
    np.minimum.at(after, source, plan.start[inst.succ_dst])
    able = ready <= plan.start
    able[np.setdiff1d(np.arange(inst.n), spreadable(inst, plan))] = False
    starts = plan.start[able]
    if not len(starts):
        return np.zeros(0, dtype=np.int64)
    # Times at which many tasks are ready that have not started are tried more often.
    if len(starts) > 200:
        starts = rng.choice(starts, 200)
    waiting = (ready[able][None, :] <= starts[:, None]) & (
        plan.start[able][None, :] >= starts[:, None]
    )
    weight = waiting.sum(axis=1).astype(np.float64) ** 3
    since = int(rng.choice(starts, p=weight / weight.sum()))
    inside = able & (ready <= since) & (plan.start >= since)
    best = np.zeros(0, dtype=np.int64)
    for until in (NEVER, *rng.choice(after[inside], 4).tolist()):
        found = np.flatnonzero(inside & (plan.start < until) & (after >= until))
        if len(found) > len(best):
            best = found
    return best


def _target(
    inst: Instance, plan: Plan, pool: Ints, free: Ints, best: int, goal: int
) -> tuple[Ints, Ints, int] | None:
    """(work, grain, span): what is to be spread, and the least makespan that has room for it.

    ``free`` plus a makespan are the ticks of each machine for the pool; the makespan is at least
    the goal. None where none below the best one has room, or far too much of it: then the tasks of
    the pool are not what counts.
    """
    related = works(inst.dur[plan.row[pool]]) if len(pool) > 1 else None
    if related is None or best - 1 <= goal:
        return None
    work, grain = related
    need = int(work.sum())

    def room(span: int) -> int:
        return int((np.maximum(0, span + free) // grain).sum())

    if not need <= room(best - 1) <= 1.02 * need:
        return None
    return work, grain, least_span(lambda span: room(span) >= need, goal)


def _placed(inst: Instance, plan: Plan, pool: Ints, where: Ints, any_task: bool) -> Placed:
    """The tasks of the pool on their machines in each other's places, long tails first.

    Tasks that may wait for each other stay where they are in the order.
    """
    mach = plan.mach.copy()
    mach[pool] = where
    order = order_of(inst, plan)
    if any_task:
        return order, plan.row, mach
    places = np.flatnonzero(np.isin(order, pool))
    tails = heads_and_tails(inst)[1][pool, where]
    order[places] = pool[np.argsort(-tails, kind="stable")]
    return order, plan.row, mach


def _idle_free(inst: Instance, plan: Plan, pool: Ints) -> Ints:
    """The same as `_free` for a plan in which no task waits for any other."""
    heads, tails = heads_and_tails(inst)
    length = inst.dur[plan.row, plan.mach].copy()
    length[pool] = 0
    load = np.bincount(plan.mach, weights=length, minlength=inst.m).astype(np.int64)
    free: Ints = -load - heads.min(axis=0) - tails.min(axis=0)
    return free


def _free(inst: Instance, plan: Plan, pool: Ints) -> Ints:
    """Ticks that the tasks of the pool may take per machine, less the makespan aimed at.

    For tasks that come after the whole pool and wait for some of it the tails stand.
    """
    end, tails = plan.end(inst), heads_and_tails(inst)[1]
    chosen = np.zeros(inst.n, dtype=np.bool_)
    chosen[pool] = True
    later = _descendants(inst, chosen) & (plan.start >= int(end[pool].max()))
    out = np.zeros(inst.m, dtype=np.int64)
    least = tails[pool].min(axis=0)
    first = int(plan.start[pool].min())
    for p in range(inst.m):
        here = np.flatnonzero((plan.mach == p) & ~later)
        own = pool[plan.mach[pool] == p]
        if not len(here):
            out[p] = -first - int(least[p])
            continue
        last = int(here[np.argmax(end[here])])
        after = int(least[p] if chosen[last] else min(tails[last, p], NEVER))
        load = int((end[own] - plan.start[own]).sum())
        out[p] = load - max(int(end[last]), first) - after
    return out


def _descendants(inst: Instance, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    out = np.zeros(inst.n, dtype=np.bool_)
    stack = np.flatnonzero(chosen).tolist()
    while stack:
        t = stack.pop()
        for u in inst.succ_dst[inst.succ_ptr[t] : inst.succ_ptr[t + 1]].tolist():
            if not out[u]:
                out[u] = True
                stack.append(u)
    return out
