"""Random changes of the placing order, decoded under all rules: for what is not plain."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.families.rcpsp.construct import Constructor
from cpsched.families.rcpsp.general import general_kit
from cpsched.families.rcpsp.prepare import FAR
from cpsched.families.rcpsp.schedule import schedule_of, state_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance
    from cpsched.families.rcpsp.problem import RcpspSchedule

IntArray = NDArray[np.int64]

#: Virtual seconds per decoding and task.
COST = 2e-6
#: Rounds of repair within one decoding.
ROUNDS = 40


def improve_lists(instance: Instance, run: Run, seconds: float) -> None:
    """Move tasks in the list of the incumbent, change modes, and keep what is not worse.

    Ends after ``seconds``, or when many changes in a row did not help.
    """
    known = instance.by_lists and run.incumbent is not None and run.objectives
    if not known or run.incumbent is None or not jit.ready(seconds):
        return
    kit = general_kit(instance)
    rng = random.Random(run.seed + 1)
    state = state_of(instance, run.incumbent.schedule)
    mode = np.array(state.mode, np.int64)
    present = mode >= 0
    mode = np.where(present, mode, instance.mode_start[:-1])
    key = np.array(state.start, float) + 1e-6 * instance.head
    best = _worth(instance, run, np.array(state.start), np.array(state.end), mode, present)
    end = run.clock.remaining() - seconds
    idle = 0
    movable = np.flatnonzero(present)
    if not len(movable):
        return
    while not run.done() and run.clock.remaining() > end and idle < 200 + 20 * instance.n:
        run.clock.spend(COST * instance.n)
        idle += 1
        trial, changed = key.copy(), mode
        span = max(1.0, float(key[present].max()))
        for _ in range(1 + rng.randrange(3)):
            i = int(movable[rng.randrange(len(movable))])
            trial[i] += rng.gauss(0.0, 0.1 * span)
        if not instance.single_mode and rng.random() < 0.5:
            changed = _other_mode(instance, mode, present, rng)
        rank = np.argsort(np.argsort(trial, kind="stable"), kind="stable")
        made = kit.construct(
            rank, changed, present, rng, run.clock.expired, 2 * instance.horizon, ROUNDS
        )
        if made is None:
            continue
        worth = _worth(instance, run, made.start, made.end, changed, present)
        if worth > best:
            continue
        key, mode = made.start + 1e-6 * trial, changed
        if worth < best:
            best, idle = worth, 0
            starts, modes = made.start.tolist(), np.where(present, mode, -1).tolist()
            run.offer(lambda: schedule_of(instance, starts, modes), "local-search")  # noqa: B023


def vary(instance: Instance, run: Run, seconds: float) -> None:
    """The same by `construct`, for rules that the list kernels do not know."""
    if run.incumbent is None or not run.objectives or instance.by_lists:
        return
    maker = Constructor(instance, run)
    rng = maker.rng
    names = [o.name for o in run.objectives]

    def cost(schedule: RcpspSchedule) -> tuple[float, ...]:
        values = run.family.evaluate(run.problem, schedule, names)
        signed = [-v if o.maximise else v for v, o in zip(values, run.objectives, strict=True)]
        return (*signed, sum(d.end for d in schedule.tasks))

    state = state_of(instance, run.incumbent.schedule)
    best = cost(run.incumbent.schedule)
    key, mode = np.array(state.start, float) + 1e-6 * instance.head, state.mode
    end = run.clock.remaining() - seconds
    movable = [i for i in range(instance.n) if mode[i] >= 0 and not instance.fixed[i]]
    while movable and not run.done() and run.clock.remaining() > end:
        trial = key.copy()
        spread = 0.1 * max(1.0, float(np.ptp(key)))
        modes = [[m] if m >= 0 else [] for m in mode]
        for _ in range(1 + rng.randrange(4)):
            i = rng.choice(movable)
            trial[i] += rng.gauss(0.0, spread)
            if rng.random() < 0.5 and not len(instance.budget):
                modes[i] = instance.modes(i)
        found = maker.make(trial.tolist(), rng.choice((0.0, 0.0, 1.0)), modes)
        if found is None:
            continue
        schedule, starts, chosen = found
        made = cost(schedule)
        if made <= best:
            key, mode = np.array(starts, float) + 1e-6 * trial, chosen
            if made[:-1] < best[:-1]:
                run.offer(schedule, "local-search")
            best = made


def _other_mode(
    instance: Instance, mode: IntArray, present: NDArray[np.bool_], rng: random.Random
) -> IntArray:
    """The modes with one changed at random, when the budgets allow it."""
    i = rng.randrange(instance.n)
    choice = instance.modes(i)
    if not present[i] or len(choice) < 2:
        return mode
    changed = mode.copy()
    changed[i] = rng.choice(choice)
    used = instance.consumption[changed[present]].sum(axis=0)
    return changed if (used <= instance.budget).all() else mode


def _worth(
    instance: Instance,
    run: Run,
    start: IntArray,
    end: IntArray,
    mode: IntArray,
    present: NDArray[np.bool_],
) -> tuple[int, ...]:
    """The objectives of a schedule in order; the sum of ends, as a tie-breaker, last."""
    ends = end[present]
    due = (instance.due < FAR) & present
    late = end[due] - instance.due[due]
    weight, early = instance.weight[due], instance.earliness_weight[due]
    values = []
    for objective in run.objectives:
        if objective.name == "makespan":
            value = ends.max(initial=0)
        elif objective.name == "weighted_tardiness":
            value = (weight * np.maximum(late, 0)).sum()
        elif objective.name == "late_tasks":
            value = (late > 0).sum()
        elif objective.name == "weighted_flow_time":
            value = (instance.weight[present] * ends).sum()
        elif objective.name == "max_lateness":
            value = late.max() if len(late) else 0
        elif objective.name == "earliness_tardiness":
            value = (weight * np.maximum(late, 0) + early * np.maximum(-late, 0)).sum()
        else:
            value = 0
        values.append(int(value))
    return (*values, int(ends.sum()))
