"""The search of the `rcpsp` family: a portfolio of population search, CP-SAT and neighbourhoods."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cpsched.core import engine
from cpsched.core.exact import solve_levels
from cpsched.families.rcpsp.arrays import Kit, kit_of
from cpsched.families.rcpsp.decision import decision
from cpsched.families.rcpsp.population import restarts_of
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance


def search(instance: Instance, run: Run) -> None:
    """Improve and prove until the run is done."""
    kit = kit_of(instance)
    plain = kit is not None and [o.name for o in run.objectives] == ["makespan"]
    if kit is None or not plain or run.incumbent is None:
        _exact(instance, run, run.workers)
        return
    if run.deterministic or run.workers == 1:
        _alternate(instance, kit, run)
        return
    evolvers = [Evolver(instance, kit.copy(), run, k) for k in range(max(1, run.workers // 4))]
    for one in evolvers:
        one.start()
    try:
        _prove(instance, run, max(1, run.workers - len(evolvers)))
    finally:
        for one in evolvers:
            one.stop()
    for one in evolvers:
        if one.error is not None:
            raise one.error


def _exact(instance: Instance, run: Run, workers: int, seconds: float = math.inf) -> None:
    if not engine.ready(run.clock):
        return
    from cpsched.families.rcpsp.model import build

    solve_levels(run, lambda level: build(instance, run, level), workers=workers, seconds=seconds)


class Evolver(threading.Thread):
    """A thread that improves the run's incumbent by population search.

    The kernels release the GIL, so that it runs beside CP-SAT.
    """

    def __init__(self, instance: Instance, kit: Kit, run: Run, index: int) -> None:
        super().__init__(name="cpsched-population", daemon=True)
        self.instance, self.kit, self.run_, self.index = instance, kit, run, index
        self.error: Exception | None = None
        self._over = threading.Event()

    def stop(self) -> None:
        """End within a few milliseconds, and wait for it."""
        self._over.set()
        self.join(1.0)

    def run(self) -> None:
        """The thread's work."""
        try:
            evolve(self.instance, self.kit, self.run_, self.index, self._over.is_set)
        except Exception as error:
            self.error = error


def evolve(instance: Instance, kit: Kit, run: Run, index: int, over: Callable[[], bool]) -> None:
    """Population search until it is told to stop, in short slices."""
    populations = restarts_of(instance, kit, run, run.seed + 7919 * index)
    while not run.done() and not over():
        populations.step(run, 0.02)


def _prove(instance: Instance, run: Run, workers: int) -> None:
    """Raise the bound by refuting makespans, from the best bound upwards, then from above."""
    seconds = 2.0
    if not engine.ready(run.clock):
        while not run.done():
            time.sleep(0.005)
    while not run.done():
        bound, value = run.bound(), run.value()
        assert bound is not None
        assert value is not None
        target = int(bound)
        status = refute(instance, run, target, workers, seconds)
        if status == "UNKNOWN" and not run.done():
            seconds *= 2.0
            value = run.value()
            assert value is not None
            if value - 1 > target:
                refute(instance, run, int(value) - 1, workers, seconds)


def refute(instance: Instance, run: Run, limit: int, workers: int, seconds: float) -> str:
    """Ask CP-SAT for a schedule of at most that makespan; keep it, or the bound it proves."""
    model = decision(instance, range(instance.n), instance.head, limit - instance.tail)
    if model is None:
        status = "INFEASIBLE"
    else:
        outcome = engine.solve(
            model.model,
            run.clock,
            workers=workers,
            seed=run.seed,
            seconds=seconds,
            stop_when=lambda: run.done() or (run.value() or 0) <= limit,
        )
        status = outcome.status
        if outcome.values is not None:
            start = np.zeros(instance.n, np.int64)
            mode = instance.mode_start[:-1].copy()
            model.read(outcome.values, start, mode)
            run.offer(schedule_of(instance, start.tolist(), mode.tolist()), "cp-sat")
    if status == "INFEASIBLE":
        run.raise_bound(Bound(limit + 1, "destructive", "makespan", {"limit": limit}))
    return status


def _alternate(instance: Instance, kit: Kit, run: Run) -> None:
    """One worker: population search and proofs in turns, by the clock or by counted work."""
    populations = restarts_of(instance, kit, run, run.seed)
    share = 0.1 * run.clock.remaining() if math.isfinite(run.clock.remaining()) else 1.0
    while not run.done():
        end = run.clock.remaining() - share
        while not run.done() and run.clock.remaining() > end:
            populations.step(run, 0.02)
        if run.done():
            return
        if not engine.ready(run.clock):
            continue
        bound = run.bound()
        assert bound is not None
        if refute(instance, run, int(bound), 1, share) == "UNKNOWN" and not run.done():
            value = run.value()
            assert value is not None
            refute(instance, run, int(value) - 1, 1, share)
