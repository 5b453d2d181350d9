"""Objectives that come before the interval: their best values may lie at any interval."""

from __future__ import annotations

import math

from cpsched.core import engine
from cpsched.core.run import Run
from cpsched.families.kernel import search as searching
from cpsched.families.kernel.model import KernelModel
from cpsched.families.kernel.objectives import EXPRESSIONS
from cpsched.families.kernel.prepare import Instance
from cpsched.result import Bound

#: Seconds of the first call at an interval; what stays open gets twice as many each round.
FIRST = 0.2
#: Intervals up to which all are looked at, for a proof.
MOST = 300


def search(instance: Instance, run: Run) -> None:
    """Ask every interval for better values, level by level, until the run is done.

    An interval beyond `saturation` has a slot that meets no busy operation. Taking it out of the
    circle makes no objective larger, so intervals up to there prove a value.
    """
    names = [o.name for o in run.objectives]
    if run.incumbent is None or not names or names[0] == "initiation_interval":
        return
    limit = instance.problem.max_initiation_interval
    last = max(searching.saturation(instance), instance.mii)
    proves = searching.monotone(instance) or limit is not None
    if limit is not None:
        last = limit if not searching.monotone(instance) else min(last, limit)
    intervals = list(range(instance.mii, last + 1))
    if len(intervals) > MOST:
        steps = math.log(last / instance.mii) / MOST
        spread = (round(instance.mii * math.exp(k * steps)) for k in range(MOST + 1))
        intervals, proves = sorted(set(spread)), False
    for level in range(len(names)):
        seconds, left = FIRST, intervals
        while left and not run.done() and not run.proved(level):
            left = [i for i in left if not _closed(instance, run, level, i, seconds)]
            seconds *= 2.0
        if run.done() or not proves:
            return
        values = run.incumbent.values
        run.raise_bound(Bound(values[level], "cp-sat", names[level], {}, values[:level] or None))


def _closed(instance: Instance, run: Run, level: int, interval: int, seconds: float) -> bool:
    """Take the best value that an interval has at a level; whether there is no better one."""
    if run.done():
        return False
    assert run.incumbent is not None
    names = [o.name for o in run.objectives]
    values = dict(zip(names, (int(v) for v in run.incumbent.values), strict=True))
    name = names[level]
    earlier = {n: values[n] for n in names[:level]}
    least = {**earlier, name: values[name] - 1}
    if interval > least.get("initiation_interval", interval):
        return True
    horizon = searching.sufficient_horizon(instance, interval)
    horizon = min(searching.within_limit(instance, horizon), least.get("length", horizon))
    model = KernelModel(instance, interval, run.clock, horizon=horizon)
    if not model.possible:
        return True
    for n, value in least.items():
        if n == "initiation_interval":
            continue
        term = EXPRESSIONS[n](model)
        if isinstance(term, int) and term > value:
            return True
        if not isinstance(term, int):
            model.model.add(term <= value)
            if n == name:
                model.model.minimize(term)

    def on_solution(found: list[int]) -> None:
        run.offer(lambda: searching.extract(instance, model, found), "cp-sat", model=model.model)

    outcome = engine.solve(
        model.model,
        run.clock,
        seed=run.seed,
        seconds=seconds,
        parameters=searching.PARAMETERS,
        on_solution=on_solution,
    )
    if outcome.values is not None:
        on_solution(outcome.values)
    return outcome.status in ("OPTIMAL", "INFEASIBLE")
