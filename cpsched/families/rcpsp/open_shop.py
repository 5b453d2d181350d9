"""Open shops: most have a schedule as short as their longest job or fullest machine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cpsched.core import engine, lns
from cpsched.families.rcpsp.improve import improve_lists
from cpsched.families.rcpsp.orders import (
    PARAMETERS,
    UnitShop,
    order_neighbourhoods,
    sub_model,
    unit_shop_of,
)
from cpsched.families.rcpsp.schedule import state_of
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

#: Seconds of the first calls, which decide tiny shops.
GLANCE = 0.3


def open_shop_of(instance: Instance) -> UnitShop | None:
    """The open shop that an instance is, or None: jobs and machines take one task at a time."""
    if not instance.disjunctive or not instance.single_mode or len(instance.edges):
        return None
    return None if (instance.blocks_until >= 0).any() else unit_shop_of(instance)


def search(instance: Instance, shop: UnitShop, run: Run) -> None:
    """Ask for a schedule that meets the bound; neighbourhoods of the incumbent in between.

    The bound is usually the optimum (Taillard 1993), and a solver that is asked for it finds it
    sooner than one that minimises step by step. Ends when turns do not pay any more.
    """
    left = run.clock.remaining()
    whole = left if math.isfinite(left) else 60.0
    _from_below(instance, shop, run, min(GLANCE, 0.1 * whole))
    improve_lists(instance, run, 0.1 * whole)
    neighbourhoods = order_neighbourhoods(instance, shop)
    seconds = 0.05 * whole
    while not run.done() and seconds < 0.5 * whole:
        _from_below(instance, shop, run, seconds)
        lns.search(run, neighbourhoods, call_seconds=0.5, seconds=0.5 * seconds)
        seconds *= 2.0


def _from_below(instance: Instance, shop: UnitShop, run: Run, seconds: float) -> None:
    """Ask for schedules that meet the bound, which every refutation raises."""
    end = run.clock.used() + seconds
    while not run.done() and run.clock.used() < end:
        if _meet_bound(instance, shop, run, end - run.clock.used()) != "INFEASIBLE":
            return


def _meet_bound(instance: Instance, shop: UnitShop, run: Run, seconds: float) -> str:
    """Decide with all workers whether the bound can be met."""
    limit = run.bound()
    if limit is None or run.incumbent is None:
        return "UNKNOWN"
    state = state_of(instance, run.incumbent.schedule)
    model = sub_model(instance, shop, state, np.ones(instance.n, bool), int(limit))
    status = "INFEASIBLE"
    if model is not None:
        outcome = engine.solve(
            model.model,
            run.clock,
            workers=run.workers,
            seed=run.seed,
            seconds=seconds,
            parameters=PARAMETERS,
            stop_when=run.done,
        )
        status = outcome.status
        if outcome.values is not None:
            run.offer(model.extract(outcome.values), "cp-sat", model=model.model)
    if status == "INFEASIBLE":
        run.raise_bound(Bound(int(limit) + 1, "destructive", "makespan", {"limit": int(limit)}))
    return status
