"""Modes for the tasks of a multi-mode project, within the nonrenewable budgets."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import engine
from cpsched.errors import Infeasible, OutOfTime

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]


def first_modes(instance: Instance, run: Run, present: NDArray[np.bool_] | None = None) -> IntArray:
    """One usable mode per task, (n,), that keeps the budgets.

    Short modes that need little of the scarce resources first, then a tabu search over single
    changes; when that fails CP-SAT decides.

    Raises
    ------
    Infeasible
        When CP-SAT proves that no choice of modes keeps the budgets.
    OutOfTime
        When the clock ran out before any choice was found.
    """
    n = instance.n
    first = instance.mode_start[:-1]
    if instance.single_mode:
        return first.copy()
    owner = np.repeat(np.arange(n), np.diff(instance.mode_start))
    scarce = instance.demand / np.maximum(1, instance.capacity)
    work = instance.duration * (1.0 + scarce.sum(axis=1))
    share = instance.consumption / np.maximum(1, instance.budget)
    cost = np.where(instance.mode_usable, work, np.inf)
    choice = _cheapest(cost, owner, n)
    if not len(instance.budget):
        return choice
    if present is None:
        present = ~instance.optional
    found = _tabu(instance, choice, owner, work, share, present, run)
    return found if found is not None else _by_solver(instance, run, present)


def _cheapest(cost: NDArray[np.float64], owner: IntArray, n: int) -> IntArray:
    order = np.lexsort((cost, owner))
    first = np.searchsorted(owner[order], np.arange(n))
    return np.asarray(order[first], np.int64)


def _tabu(
    instance: Instance,
    choice: IntArray,
    owner: IntArray,
    work: NDArray[np.float64],
    share: NDArray[np.float64],
    present: NDArray[np.bool_],
    run: Run,
) -> IntArray | None:
    """Single changes that lower the relative excess most; None when it does not reach zero."""
    eat, budget = instance.consumption, instance.budget
    scale = 1.0 / np.maximum(1, budget)
    rng = random.Random(run.seed)
    choice = choice.copy()
    movable = instance.mode_usable & present[owner]
    until = np.zeros(len(owner), np.int64)
    little = 1e-4 / max(1.0, float(work.max(initial=1.0)))
    steps = min(3000, 200 + 20 * instance.n)
    for step in range(steps):
        used = eat[choice[present]].sum(axis=0)
        if (used <= budget).all():
            return choice
        run.clock.check()
        run.clock.spend(1e-8 * len(owner) * len(budget))
        after = used + eat - eat[choice[owner]]
        over = (np.maximum(0, after - budget) * scale).sum(axis=1)
        score = over + little * (work - work[choice[owner]])
        score[~movable | (until > step) | (choice[owner] == np.arange(len(owner)))] = np.inf
        best = int(score.argmin())
        if not np.isfinite(score[best]):
            until[:] = 0
            continue
        left = choice[owner[best]]
        until[left] = step + 3 + rng.randrange(6)
        choice[owner[best]] = best
    return None


def _by_solver(instance: Instance, run: Run, present: NDArray[np.bool_]) -> IntArray:
    if not engine.ready(run.clock):
        raise OutOfTime("no choice of modes was found in the time")
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    model.name = "modes"
    chosen = [model.new_bool_var("") for _ in instance.duration]
    choice = instance.mode_start[:-1].copy()
    for i in range(instance.n):
        if present[i]:
            model.add_exactly_one([chosen[m] for m in instance.modes(i)])
    owner = np.repeat(np.arange(instance.n), np.diff(instance.mode_start))
    kept = [m for m in range(len(owner)) if present[owner[m]]]
    for r in range(len(instance.budget)):
        model.add(
            cp_model.LinearExpr.weighted_sum(
                [chosen[m] for m in kept], [int(instance.consumption[m, r]) for m in kept]
            )
            <= int(instance.budget[r])
        )
    outcome = engine.solve(model, run.clock, workers=1, seed=run.seed)
    if outcome.values is None:
        # With optional tasks another choice of them may do.
        if outcome.status == "INFEASIBLE" and not (present & instance.optional).any():
            raise Infeasible(
                "no choice of modes keeps the budgets of the nonrenewable resources",
                "nonrenewable",
            )
        raise OutOfTime("no choice of modes was found in the time")
    for m in kept:
        if outcome.values[chosen[m].index]:
            choice[owner[m]] = m
    return choice
