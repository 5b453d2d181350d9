"""The search of the `rcpsp` family: a portfolio of population search, CP-SAT and neighbourhoods.

Who runs when is decided by size and workers; the measurements behind it are in
``benchmarks/results/rcpsp-portfolio.md``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import engine, jit, lns
from cpsched.core.exact import solve_levels
from cpsched.families.rcpsp import blocking, cutset, open_shop, preemptive, tardiness
from cpsched.families.rcpsp.arrays import CODES, Kit, kit_of
from cpsched.families.rcpsp.decision import decision
from cpsched.families.rcpsp.improve import improve_lists
from cpsched.families.rcpsp.neighbourhoods import neighbourhoods
from cpsched.families.rcpsp.population import Restarts, restarts_of
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.families.rcpsp.search_rules import search_rules
from cpsched.families.rcpsp.search_shop import search_shop
from cpsched.families.rcpsp.shop import jobs_of
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

#: Above this many tasks CP-SAT on the whole project proves nothing in useful time.
PROVABLE = 200
#: Above this many tasks a lone worker spends half of its time on neighbourhoods.
HUGE = 2000
#: Up to this many tasks CP-SAT gets so many seconds before anything else under all rules.
FEW, AT_ONCE = 30, 0.2
#: Seconds of one slice of population search.
SLICE = 0.02
#: Up to this many tasks a refutation by plain clause learning ends within seconds.
SMALL = 45
#: Up to this many tasks a share of the time goes into closing the gap from above.
MEDIUM, TRYING, CLOSING = 70, 0.3, 0.8
#: Share of the time left that the preemptive relaxation may take.
RELAXING = 0.4
#: A proof from above is near within this gap; far from it, calls of so many seconds are enough.
NEAR, HOPELESS = 0.03, 0.7
#: Seconds without a better schedule after which the populations of a small project have converged.
CONVERGED = 0.25
#: CP-SAT parameters for refuting a makespan.
REFUTE: dict[str, Any] = {
    "use_timetable_edge_finding_in_cumulative": True,
    "max_num_intervals_for_timetable_edge_finding": 200,
    "use_strong_propagation_in_disjunctive": True,
    "use_dynamic_precedence_in_disjunctive": True,
    "use_dynamic_precedence_in_cumulative": True,
}
#: For one just below the incumbent, which may as well be reached; without disjunctive cliques.
DECIDE: dict[str, Any] = {"linearization_level": 0}
#: For a proof within reach: the more conflicts per second, the sooner it ends.
REFUTE_CLOSE: dict[str, Any] = {
    "linearization_level": 0,
    "use_disjunctive_constraint_in_cumulative": False,
}


def search(instance: Instance, run: Run) -> None:
    """Improve and prove until the run is done."""
    if not engine.ready(run.clock):
        return
    jobs = jobs_of(instance)
    if jobs is not None and run.incumbent is not None and _only_makespan(run):
        search_shop(instance, jobs, run)
        return
    single = tardiness.single_of(instance)
    if single is not None and run.incumbent is not None and tardiness.only_tardiness(run):
        tardiness.search(instance, single, run, partial(_exact, instance, run))
        return
    if run.incumbent is not None and _only_makespan(run):
        blocked = blocking.blocking_of(instance)
        if blocked is not None:
            blocking.search(instance, blocked, run, partial(_exact, instance, run))
            return
        units = open_shop.open_shop_of(instance)
        if units is not None:
            open_shop.search(instance, units, run)
    kit = kit_of(instance)
    names = [o.name for o in run.objectives]
    if kit is None or run.incumbent is None or not names or any(n not in CODES for n in names):
        _under_all_rules(instance, run)
    elif run.deterministic or run.workers == 1:
        _in_turns(instance, kit, run)
    else:
        _side_by_side(instance, kit, run)


def _under_all_rules(instance: Instance, run: Run) -> None:
    """Random changes of the list for a while, then CP-SAT and neighbourhoods in turns.

    What CP-SAT decides in a moment needs none of it.
    """
    left = run.clock.remaining()
    if instance.n <= FEW:
        _exact(instance, run, run.workers, min(AT_ONCE, 0.2 * left))
    share = 0.5 if instance.n > HUGE else 0.1
    improve_lists(instance, run, share * left if math.isfinite(left) else 5.0)
    if not run.done():
        search_rules(instance, run)


def _exact(instance: Instance, run: Run, workers: int, seconds: float = math.inf) -> None:
    from cpsched.families.rcpsp.model import build

    solve_levels(run, lambda level: build(instance, run, level), workers=workers, seconds=seconds)


# ---------------------------------------------------------------------- side by side


def _side_by_side(instance: Instance, kit: Kit, run: Run) -> None:
    """Populations in threads of their own, the solver with the other workers."""
    threads = max(1, run.workers // 4) if _evolves(instance, run) else 0
    evolvers = [Evolver(instance, kit.copy(), run, k) for k in range(threads)]
    for one in evolvers:
        one.start()
    others = run.workers - threads
    try:
        if not _only_makespan(run) or not instance.single_mode:
            _exact(instance, run, others)
        elif instance.n <= PROVABLE:
            prover = Prover(instance, run)
            closer = Closer(instance, run, evolvers) if instance.n <= MEDIUM else None
            if closer is not None:
                closer.start()
            while engine.ready(run.clock) and not run.done():
                if threads and prover.hopeless():
                    break
                prover.advance(1 if closer is not None else others)
            if closer is not None:
                closer.stop()
                if closer.error is not None:
                    raise closer.error
        if threads and not run.done() and _only_makespan(run) and instance.single_mode:
            more = [Evolver(instance, kit.copy(), run, threads + k) for k in range(others)]
            evolvers += more
            for one in more:
                one.start()
            for one in evolvers:
                one.join()
        if engine.ready(run.clock) and not run.done():
            lns.search(run, neighbourhoods(instance, kit), workers=others, call_seconds=0.5)
    finally:
        for one in evolvers:
            one.stop()
    if evolvers:
        min(evolvers, key=lambda one: one.worth()).finish()
    for one in evolvers:
        if one.error is not None:
            raise one.error


class Evolver(threading.Thread):
    """A thread that improves the run's incumbent by population search.

    The kernels release the GIL, so that it runs beside CP-SAT.
    """

    def __init__(self, instance: Instance, kit: Kit, run: Run, index: int) -> None:
        super().__init__(name="cpsched-population", daemon=True)
        self._search = restarts_of(instance, kit, run, run.seed + 7919 * index)
        self._run = run
        self.error: Exception | None = None
        self._over = threading.Event()
        self.paused = False

    def stop(self) -> None:
        """End within a few milliseconds, and wait for it."""
        self._over.set()
        self.join(1.0)

    def worth(self) -> int:
        """Of its best schedule, see `Restarts.worth`."""
        return self._search.worth()

    def finish(self) -> None:
        """Offer its best schedule, which it may have held back; only when it has ended."""
        if self.error is None and not self.is_alive():
            self._search.finish(self._run)

    def run(self) -> None:
        """The thread's work."""
        try:
            while not self._run.done() and not self._over.is_set():
                if self.paused:
                    time.sleep(SLICE)
                else:
                    self._search.step(self._run, SLICE)
        except Exception as error:
            self.error = error


def _evolves(instance: Instance, run: Run) -> bool:
    """Whether populations pay: interpreted kernels handle only small projects in useful time."""
    return jit.ready(run.clock.remaining()) or instance.n <= PROVABLE


def _only_makespan(run: Run) -> bool:
    return [o.name for o in run.objectives] == ["makespan"]


# ---------------------------------------------------------------------- in turns


def _in_turns(instance: Instance, kit: Kit, run: Run) -> None:
    """One worker: population search and proofs in turns, by the clock or by counted work."""
    evolves = _evolves(instance, run)
    populations = restarts_of(instance, kit, run, run.seed)
    prover = Prover(instance, run)
    proves = _only_makespan(run) and instance.n <= PROVABLE and instance.single_mode
    longest = max(0.05, 0.004 * instance.n)  # small problems are decided in the first turns
    while not run.done():
        share = min(0.1 * run.clock.remaining(), longest, 2.0)
        longest *= 2.0
        if evolves:
            _for(run, share, populations)
        if run.done():
            return
        if proves and not (evolves and prover.hopeless()):
            _for(run, share, prover)
        elif instance.n <= PROVABLE or not _only_makespan(run):
            _exact(instance, run, 1, 4.0 * share)
        elif instance.n > HUGE:
            lns.search(
                run, neighbourhoods(instance, kit), workers=1, call_seconds=0.5, seconds=share
            )


def _for(run: Run, seconds: float, member: Restarts | Prover) -> None:
    end = run.clock.remaining() - seconds
    while not run.done() and run.clock.remaining() > end:
        if isinstance(member, Prover):
            member.advance(1)
        else:
            member.step(run, SLICE)


class Closer(threading.Thread):
    """Refutes the makespan below the incumbent once the populations have converged.

    They rest meanwhile: the core is better spent on the proof from above, beside the one from
    below. A small project is closed for good; a larger one gets a try, and a share of the time
    once the bound is near.
    """

    def __init__(self, instance: Instance, run: Run, evolvers: list[Evolver]) -> None:
        super().__init__(name="cpsched-closer", daemon=True)
        self._prover, self._run, self._evolvers = Prover(instance, run), run, evolvers
        self._small = instance.n <= SMALL
        self._over = threading.Event()
        self.error: Exception | None = None

    def stop(self) -> None:
        """End with the current call, and wait for it."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """The thread's work."""
        try:
            self._await_convergence()
            if self._small:
                self._close(math.inf)
            elif not _near(self._run):
                self._close(TRYING * self._run.clock.remaining())
            while not _near(self._run) and not self._ended():
                time.sleep(SLICE)
            self._close(CLOSING * self._run.clock.remaining())
        except Exception as error:
            self.error = error

    def _close(self, seconds: float) -> None:
        """Refute from above for so long, and as long again after every better schedule."""
        for one in self._evolvers:
            one.paused = True
        end = self._run.clock.elapsed() + seconds
        try:
            while not self._ended() and self._run.clock.elapsed() < end:
                value = self._run.value()
                assert value is not None
                status = self._prover.enumerate(int(value) - 1) if self._small else "UNKNOWN"
                if status == "UNKNOWN" and not self._run.done():
                    self._prover.seconds = end - self._run.clock.elapsed()
                    if self._prover.refute(int(value) - 1, 1) == "OPTIMAL":
                        end = self._run.clock.elapsed() + seconds
        finally:
            for one in self._evolvers:
                one.paused = False

    def _ended(self) -> bool:
        return self._over.is_set() or self._run.done()

    def _await_convergence(self) -> None:
        run = self._run
        patience = CONVERGED if self._small else 3.0 * CONVERGED
        last, since = run.value(), run.clock.elapsed()
        while not self._ended() and run.clock.elapsed() - since < patience:
            time.sleep(SLICE)
            if run.value() != last:
                last, since = run.value(), run.clock.elapsed()


def _near(run: Run) -> bool:
    """Whether a proof from above is within reach."""
    bound, value = run.bound(), run.value()
    return bound is not None and value is not None and value - bound <= NEAR * value


class Prover:
    """Raises the bound by refuting makespans with CP-SAT, one call at a time.

    From the bound upwards, in steps that double while calls succeed; a makespan just below the
    incumbent is tried as well, which improves the incumbent or proves it.
    """

    def __init__(self, instance: Instance, run: Run) -> None:
        from cpsched.families.rcpsp.model import incompatible_cliques

        self.instance, self.run = instance, run
        self.cliques = [] if instance.n <= SMALL else incompatible_cliques(instance)
        self.stride = 1
        self.seconds = 0.25
        self._above = False
        self._enumerated: int | None = None
        self._relaxed = not jit.ready(run.clock.remaining())

    def advance(self, workers: int) -> None:
        """One call."""
        if self.seconds > 0.25 and not self._relaxed:
            self._relaxed = True
            preemptive.raise_bound(self.instance, self.run, RELAXING * self.run.clock.remaining())
            return
        bound, value = self.run.bound(), self.run.value()
        assert bound is not None
        assert value is not None
        low, high = int(bound), int(value) - 1
        limit = high if self._above else min(high, low + self.stride - 1)
        status = "UNKNOWN"  # of the exact search, tried once for every makespan
        if self._above and self.instance.n <= SMALL and limit != self._enumerated:
            self._enumerated = limit
            status = self.enumerate(limit)
        if status == "UNKNOWN":
            status = self.refute(limit, workers)
        if self._above:
            self._above = False
        elif status == "INFEASIBLE":
            self.stride *= 2
        elif status == "UNKNOWN" and self.stride > 1:
            self.stride //= 2
        elif status == "UNKNOWN":
            self.seconds *= 1.6
            self._above = high > limit and (self.instance.n <= SMALL or _near(self.run))
        else:
            self.stride = max(1, self.stride // 2)

    def hopeless(self) -> bool:
        """Whether the time is better spent on schedules: far from them, calls prove no more."""
        tired = self._relaxed and self.seconds > HOPELESS
        return tired and self.instance.n > SMALL and not _near(self.run)

    def refute(self, limit: int, workers: int) -> str:
        """Ask for a schedule of at most that makespan; keep it, or the bound it would break."""
        instance, run = self.instance, self.run
        parameters, cliques = (REFUTE_CLOSE if instance.n <= SMALL else REFUTE), self.cliques
        if SMALL < instance.n <= MEDIUM and limit + 1 == run.value():
            parameters, cliques = DECIDE, []
        model = decision(
            instance,
            range(instance.n),
            instance.head,
            limit - instance.tail,
            exclusive=cliques,
        )
        status = "INFEASIBLE"
        if model is not None:
            outcome = engine.solve(
                model.model,
                run.clock,
                workers=workers,
                seed=run.seed,
                seconds=self.seconds,
                parameters=parameters,
                stop_when=self._pointless(limit),
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

    def enumerate(self, limit: int) -> str:
        """Ask the same of the exact search over sets; "UNKNOWN" where it does not apply."""
        instance, run = self.instance, self.run
        if not cutset.applies(instance) or not jit.ready(run.clock.remaining()):
            return "UNKNOWN"
        status, start = cutset.refute(instance, limit, run, self._pointless(limit))
        if start is not None:
            run.offer(schedule_of(instance, start.tolist()), "cutset")
        if status == "INFEASIBLE":
            run.raise_bound(Bound(limit + 1, "destructive", "makespan", {"limit": limit}))
        return status

    def _pointless(self, limit: int) -> Callable[[], bool]:
        def reached() -> bool:
            value = self.run.value()
            return self.run.done() or (value is not None and value <= limit)

        return reached
