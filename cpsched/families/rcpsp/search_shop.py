"""The search of job shops and flexible job shops: tabu search beside proofs by CP-SAT."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cpsched.core import engine, jit, lns
from cpsched.families.rcpsp.arrays import kit_of
from cpsched.families.rcpsp.decision import decision
from cpsched.families.rcpsp.flow import IteratedGreedy, flow_of
from cpsched.families.rcpsp.neighbourhoods import neighbourhoods
from cpsched.families.rcpsp.orders import order_neighbourhoods, unit_shop_of
from cpsched.families.rcpsp.rolling import RollingHorizon
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.families.rcpsp.shop import Jobs, TabuSearch
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

#: Above this many operations CP-SAT proves nothing in useful time.
PROVABLE = 500
#: Up to this many operations a proof is likely once the best schedule is optimal.
SMALL = 320
#: Up to this many operations the first calls may decide a shop; they have so many seconds.
TINY, GLANCE = 60, 0.3
#: Gap of a flexible shop above which refutations are not tried after the short calls.
HOPELESS = 0.02
#: Operations of a flexible shop that float in a neighbourhood at first.
FLOATING = 20
#: Seconds of one slice of tabu search.
SLICE = 0.05
#: Seconds of the longest call that tries to raise the bound step by step.
LONGEST_STEP = 0.5
#: CP-SAT parameters of a decision about one makespan.
DECIDE: dict[str, Any] = {
    "linearization_level": 0,
    "use_strong_propagation_in_disjunctive": True,
    "use_dynamic_precedence_in_disjunctive": True,
}


def search_shop(instance: Instance, jobs: Jobs, run: Run) -> None:
    """Improve and prove the makespan until the run is done."""
    _one_route(instance, jobs, run)
    if run.deterministic or run.workers == 1:
        _in_turns(instance, jobs, run)
        return
    provable = instance.n <= PROVABLE
    threads = max(1, run.workers // 2) if provable else max(1, run.workers - 1)
    searches = [TabuSearch(instance, jobs, run, run.seed + k) for k in range(threads)]
    searchers = [Searcher(search, run) for search in searches]
    for one in searchers:
        one.start()
    others = max(1, run.workers - threads)
    try:
        if provable and engine.ready(run.clock):
            _prove(instance, jobs, run, others, run.seed + threads)
        if engine.ready(run.clock) and not run.done():
            _by_windows(instance, jobs, run, others)
        while not run.done():
            for one in searchers:
                one.join(0.1)
    finally:
        for one in searchers:
            one.stop()
    for one in searchers:
        if one.error is not None:
            raise one.error
    for search in searches:
        search.finish(run)


def _one_route(instance: Instance, jobs: Jobs, run: Run) -> None:
    """Start a flow shop from the best permutation schedule found in a tenth of the time."""
    flow = flow_of(jobs)
    if flow is None or not jit.ready(run.clock.remaining()):
        return
    left = run.clock.remaining()
    end = left - (0.1 * left if math.isfinite(left) else 10.0)
    search = IteratedGreedy(flow, run.seed)
    search.offer(instance, run, "greedy:neh")
    while not run.done() and run.clock.remaining() > end:
        search.step(run, SLICE)
        search.offer(instance, run, "iterated-greedy")


def _prove(instance: Instance, jobs: Jobs, run: Run, workers: int, seed: int) -> None:
    """Bounds from below while they are cheap; then refutations and neighbourhoods in turns.

    A makespan just below the optimum is often refuted within seconds, one above it never: small
    shops, where tabu search soon holds an optimum, mostly refute. Where short calls leave a wide
    gap in a flexible shop, nothing is refuted in useful time: tabu search has that time.
    """
    more: TabuSearch | None = None
    refuter = Refuter(instance, run)
    if instance.n <= TINY:
        end = run.clock.used() + GLANCE
        while not run.done() and run.clock.used() < end:
            refuter.decide(int(run.value() or 0) - 1, workers, end - run.clock.used())
    units = unit_shop_of(instance)
    floating = 0 if instance.single_mode else FLOATING
    neighbourhoods = (
        [] if units is None else order_neighbourhoods(instance, units, floating=floating)
    )
    small = instance.n <= SMALL and instance.single_mode
    while not run.done():
        left = run.clock.remaining()
        left = left if math.isfinite(left) else 600.0
        if neighbourhoods:
            seconds = max(1.0, (0.05 if small else 0.4 if instance.single_mode else 0.15) * left)
            lns.search(run, neighbourhoods, workers=workers, call_seconds=1.0, seconds=seconds)
        end = run.clock.remaining() - 0.05 * left
        while not run.done() and refuter.seconds <= LONGEST_STEP and run.clock.remaining() > end:
            refuter.advance(workers)
        end = run.clock.remaining() - max(1.0, (0.7 if small else 0.1) * left)
        if not instance.single_mode and (run.gap() or 0.0) > HOPELESS:
            more = more or TabuSearch(instance, jobs, run, seed)
            end = run.clock.remaining() - max(1.0, 0.5 * left)
        while more is not None and not run.done() and run.clock.remaining() > end:
            more.step(run, SLICE)
        while not run.done() and run.clock.remaining() > end:
            # An improvement ends the call, and the next one asks for less.
            refuter.decide(int(run.value() or 0) - 1, workers, run.clock.remaining() - end)


def _by_windows(instance: Instance, jobs: Jobs, run: Run, workers: int) -> None:
    """Rolling horizon and neighbourhoods in turns."""
    kit, units = kit_of(instance), unit_shop_of(instance)
    arms = [] if kit is None else neighbourhoods(instance, kit)
    arms += [] if units is None else order_neighbourhoods(instance, units)
    rolling = RollingHorizon(instance, jobs, run)
    while not run.done():
        left = run.clock.remaining()
        left = left if math.isfinite(left) else 600.0
        end = run.clock.remaining() - max(1.0, 0.2 * left)
        while not run.done() and run.clock.remaining() > end:
            rolling.step(run, workers)
        if arms:
            seconds = max(1.0, 0.1 * left)
            lns.search(run, arms, workers=workers, call_seconds=0.5, seconds=seconds)


class Steps(Protocol):
    """A search in short steps."""

    def step(self, run: Run, seconds: float) -> None:
        """Search for about that time."""


class Searcher(threading.Thread):
    """A thread of a heuristic search; the kernels release the GIL, and CP-SAT runs beside it."""

    def __init__(self, search: Steps, run: Run) -> None:
        super().__init__(name="cpsched-heuristic", daemon=True)
        self._search, self._run = search, run
        self._over = threading.Event()
        self.error: Exception | None = None

    def stop(self) -> None:
        """End within a slice, and wait for it."""
        self._over.set()
        self.join(1.0)

    def run(self) -> None:
        """The thread's work."""
        try:
            while not self._run.done() and not self._over.is_set():
                self._search.step(self._run, SLICE)
        except Exception as error:
            self.error = error


def _in_turns(instance: Instance, jobs: Jobs, run: Run) -> None:
    search, refuter = TabuSearch(instance, jobs, run, run.seed), Refuter(instance, run)
    provable = instance.n <= PROVABLE
    rolling = None if provable else RollingHorizon(instance, jobs, run)
    longest = max(0.05, 0.004 * instance.n)  # small shops are decided in the first turns
    while not run.done():
        share = min(0.1 * run.clock.remaining(), longest, 2.0)
        longest *= 2.0
        end = run.clock.remaining() - share
        while not run.done() and run.clock.remaining() > end:
            search.step(run, SLICE)
        end = run.clock.remaining() - max(0.1, 2.0 * share)
        if provable and engine.ready(run.clock):
            while not run.done() and run.clock.remaining() > end:
                refuter.advance(1, run.clock.remaining() - end)
        elif rolling is not None and engine.ready(run.clock) and not run.done():
            rolling.step(run, 1)


class Refuter:
    """Decides with CP-SAT whether there is a schedule of a given makespan, call by call.

    First from the bound upwards, in steps that double while short calls refute them; then the
    makespan just below the incumbent, until that is decided or the incumbent improves.
    """

    def __init__(self, instance: Instance, run: Run) -> None:
        self.instance, self.run = instance, run
        self.stride, self.seconds = 1, 0.1

    def advance(self, workers: int, seconds: float = math.inf) -> None:
        """One call, of at most that many seconds."""
        bound, value = self.run.bound(), self.run.value()
        assert bound is not None
        assert value is not None
        low, high = int(bound), int(value) - 1
        if self.seconds > LONGEST_STEP:
            self.decide(high, workers, seconds)
            return
        status = self.decide(min(high, low + self.stride - 1), workers, min(seconds, self.seconds))
        if status == "INFEASIBLE":
            self.stride *= 2
        elif self.stride > 1:
            self.stride = max(1, self.stride // 4)
        else:
            self.seconds *= 2.1

    def decide(self, limit: int, workers: int, seconds: float) -> str:
        """Ask for a schedule of at most that makespan; keep it, or the bound that refutes it."""
        instance, run = self.instance, self.run
        low, high = instance.head, limit - instance.tail
        model = decision(instance, range(instance.n), low, high)
        status = "INFEASIBLE"
        if model is not None:
            outcome = engine.solve(
                model.model,
                run.clock,
                workers=workers,
                seed=run.seed,
                seconds=seconds,
                parameters=DECIDE,
                stop_when=lambda: run.done() or int(run.value() or 0) <= limit,
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
