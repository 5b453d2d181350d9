"""The state of one call: the incumbent, the bounds, the trace. It lives outside every solver."""

from __future__ import annotations

import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from cpsched.core.clock import Clock
from cpsched.errors import SolverContradiction
from cpsched.families import Family
from cpsched.result import (
    Bound,
    Incumbent,
    Number,
    Objective,
    Status,
    StopReason,
    TracePoint,
    Values,
    gap_of,
    unlist,
)

logger = logging.getLogger("cpsched")

#: Two float objective values closer than this (relative) count as equal.
TOLERANCE = 1e-9


def meets(objective: Number, bound: Number) -> bool:
    """Whether a bound proves an objective value optimal."""
    return abs(objective - bound) <= TOLERANCE * max(1.0, abs(objective))


class Run:
    """What is known during one call, and the only way to add to it.

    Families offer schedules and bounds; nothing enters unchecked. `offer` checks every schedule
    against the original problem, so that whatever a heuristic or a solver does, only a valid
    schedule can be returned. Methods may be called from several threads.

    Attributes
    ----------
    objectives
        The lexicographic list, most important first; empty for pure feasibility.
    incumbent
        The best checked schedule, or None.
    """

    def __init__(
        self,
        problem: Any,
        family: Family[Any, Any, Any],
        objectives: Sequence[Objective],
        clock: Clock,
        *,
        workers: int = 1,
        seed: int = 0,
        gap_limit: float = 0.0,
        deterministic: bool = False,
        strict: bool = False,
        executor: Executor | None = None,
        on_improvement: Callable[[Incumbent], object] | None = None,
        on_progress: Callable[[TracePoint], object] | None = None,
    ) -> None:
        self.problem, self.family, self.clock = problem, family, clock
        self.objectives = tuple(objectives)
        self.workers, self.seed, self.gap_limit = workers, seed, gap_limit
        self.deterministic, self.strict, self.executor = deterministic, strict, executor
        self.incumbent: Incumbent | None = None
        self.trace: list[TracePoint] = []
        self.infeasible: str | None = None
        self.contradiction: str | None = None
        self.error: str | None = None
        self.message = ""
        self._bounds: list[list[Bound]] = [[] for _ in self.objectives]
        #: Seconds that the longest check of a schedule took.
        self._check_seconds = 0.0
        self._on_improvement = on_improvement
        self._on_progress = on_progress
        self._lock = threading.RLock()

    # ------------------------------------------------------------------ schedules

    def offer(
        self,
        schedule: Any | Callable[[], Any],
        source: str,
        values: Values | None = None,
        model: Any = None,
    ) -> bool:
        """Check a schedule and keep it when it is better than the incumbent.

        Parameters
        ----------
        schedule
            The family's schedule object, or a function that makes it (called only when needed; None
            when there is none after all).
        source
            Who found it (``greedy:parallel-sgs``, ``cp-sat``, ``lns:window``).
        values
            Objective values claimed by the finder; when they do not beat the incumbent the
            schedule is not even built.
        model
            The CP-SAT model that gave it, exported when the check fails.

        Returns
        -------
        bool
            Whether it is the new incumbent.
        """
        with self._lock:
            if values is not None and not self._better(values):
                return False
            if self.incumbent is not None and not self._can_check():
                return False
            started = time.perf_counter()
            if callable(schedule):
                schedule = schedule()
            if schedule is None:
                return False
            violations = self.family.check(self.problem, schedule)
            if violations:
                self.contradict(f"{source} gave an invalid schedule: {violations[0]}", model)
                return False
            names = [o.name for o in self.objectives]
            values = tuple(self.family.evaluate(self.problem, schedule, names))
            cost = time.perf_counter() - started
            if not self._better(values):
                return False
            self.clock.reserve = max(self.clock.reserve, min(1.5 * cost, 0.2 * self.clock.limit))
            self._check_seconds = max(self._check_seconds, cost)
            if self.infeasible is not None:
                claim, self.infeasible = self.infeasible, None
                self.contradict(f"a checked schedule exists although {claim} claimed none")
            self.incumbent = Incumbent(schedule, values, source, self.clock.elapsed())
            self._drop_refuted_bounds(model)
            self._record(source)
            self._tell(self._on_improvement, self.incumbent)
            return True

    def _can_check(self) -> bool:
        """Whether another schedule can still be checked before the deadline (and its grace)."""
        if self.deterministic or self._check_seconds < 0.1:
            return True
        return self.clock.elapsed() + self._check_seconds < self.clock.limit + 0.1

    def _better(self, values: Values) -> bool:
        if self.incumbent is None:
            return True
        for new, old, objective in zip(values, self.incumbent.values, self.objectives, strict=True):
            if meets(old, new):
                continue
            return (new > old) == objective.maximise
        return False

    def _tell(self, listener: Callable[[Any], object] | None, news: Any) -> None:
        if listener is None:
            return
        try:
            listener(news)
        except Exception:
            logger.exception("a callback of the caller raised; the search goes on")

    # ------------------------------------------------------------------ bounds

    def raise_bound(self, bound: Bound, model: Any = None) -> bool:
        """Keep a proved bound when it is tighter than what is known; True when it is."""
        with self._lock:
            level = next(
                (i for i, o in enumerate(self.objectives) if o.name == bound.objective), None
            )
            if level is None or not math.isfinite(bound.value):
                return False
            if self._refuted(level, bound):
                self.contradict(
                    f"{bound.argument} claims a bound of {bound.value} on {bound.objective}, but a "
                    f"checked schedule has {self.incumbent.values[level]}",  # type: ignore[union-attr]
                    model,
                )
                return False
            sign = -1 if self.objectives[level].maximise else 1
            for known in self._bounds[level]:
                same = known.given is None or known.given == bound.given
                if same and sign * known.value >= sign * bound.value:
                    return False
            before = self.bound(level)
            self._bounds[level].append(bound)
            if self.bound(level) != before:
                self._record(bound.argument)
            return True

    def _refuted(self, level: int, bound: Bound) -> bool:
        if self.incumbent is None:
            return False
        if bound.given is not None and not _equal(bound.given, self.incumbent.values[:level]):
            return False
        value = self.incumbent.values[level]
        if meets(value, bound.value):
            return False
        return value > bound.value if self.objectives[level].maximise else value < bound.value

    def _drop_refuted_bounds(self, model: Any) -> None:
        for level, bounds in enumerate(self._bounds):
            for bound in [b for b in bounds if self._refuted(level, b)]:
                bounds.remove(bound)
                self.contradict(
                    f"a checked schedule refutes the bound {bound.value} on {bound.objective} by "
                    f"{bound.argument}",
                    model,
                )

    def best_bound(self, level: int) -> Bound | None:
        """The tightest bound that holds at that level of the lexicographic list, or None.

        A bound proved for given values of the earlier levels counts only while those values are
        the incumbent's and are proved optimal themselves.
        """
        with self._lock:
            holding = [b for b in self._bounds[level] if b.given is None]
            conditional = [b for b in self._bounds[level] if b.given is not None]
            if conditional and self.incumbent and all(self.proved(k) for k in range(level)):
                values = self.incumbent.values[:level]
                holding += [b for b in conditional if b.given and _equal(b.given, values)]
            if not holding:
                return None
            sign = -1 if self.objectives[level].maximise else 1
            return max(holding, key=lambda b: sign * b.value)

    def bound(self, level: int = 0) -> Number | None:
        """Value of `best_bound`."""
        best = self.best_bound(level)
        return None if best is None else best.value

    def bounds(self) -> tuple[Bound, ...]:
        """Every bound that holds, best first within each level."""
        out: list[Bound] = []
        for level, objective in enumerate(self.objectives):
            best = self.best_bound(level)
            sign = -1 if objective.maximise else 1
            holding = [b for b in self._bounds[level] if b.given is None or b is best]
            latest: dict[tuple[str, bool], Bound] = {}
            for b in holding:
                key = (b.argument, b.given is None)
                if key not in latest or sign * b.value > sign * latest[key].value:
                    latest[key] = b
            out += sorted(latest.values(), key=lambda b: -sign * b.value)
        return tuple(out)

    # ------------------------------------------------------------------ state

    def value(self, level: int = 0) -> Number | None:
        """Objective value of the incumbent at a level, or None without one."""
        return None if self.incumbent is None else self.incumbent.values[level]

    def proved(self, level: int) -> bool:
        """Whether the incumbent's value at a level is proved optimal given the levels before."""
        value, bound = self.value(level), self.bound(level)
        return value is not None and bound is not None and meets(value, bound)

    def level(self) -> int | None:
        """The first level that is not proved; None when all are (or without objectives)."""
        for k in range(len(self.objectives)):
            if not self.proved(k):
                return k
        return None

    def optimal(self) -> bool:
        """Whether the incumbent is proved optimal at every level."""
        return self.incumbent is not None and self.level() is None

    def gap(self, level: int = 0) -> float | None:
        """Relative gap at a level, or None where unknown."""
        value, bound = self.value(level), self.bound(level)
        return None if value is None or bound is None else gap_of(value, bound)

    def within_gap(self) -> bool:
        """Whether every level is within the gap limit (never with the limit 0)."""
        if self.gap_limit <= 0.0 or self.incumbent is None:
            return False
        gaps = [self.gap(k) for k in range(len(self.objectives))]
        return all(g is not None and g <= self.gap_limit for g in gaps)

    def done(self) -> bool:
        """Whether searching on is pointless: proved, within the gap, infeasible, or out of time."""
        return (
            self.optimal()
            or self.infeasible is not None
            or self.within_gap()
            or self.clock.expired()
        )

    def claim_infeasible(self, argument: str, message: str = "", model: Any = None) -> None:
        """Record a proof that no schedule exists; a checked schedule overrules it."""
        with self._lock:
            if self.incumbent is not None:
                self.contradict(
                    f"{argument} claims that no schedule exists, but a checked one does", model
                )
                return
            self.infeasible = argument
            self.message = message

    def contradict(self, message: str, model: Any = None) -> None:
        """Record that a claim was refuted by a check: logged, exported, raised when strict."""
        exported = None
        if model is not None:
            folder = Path(tempfile.mkdtemp(prefix="cpsched-contradiction-"))
            exported = folder / "model.pbtxt"
            model.export_to_file(str(exported))
        self.contradiction = message
        logger.error("contradiction: %s%s", message, f" ({exported})" if exported else "")
        if self.strict:
            raise SolverContradiction(message, exported)

    def status(self) -> Status:
        """The status to report now."""
        if self.incumbent is not None:
            return Status.OPTIMAL if self.optimal() else Status.FEASIBLE
        return Status.UNKNOWN if self.infeasible is None else Status.INFEASIBLE

    def stop_reason(self) -> StopReason:
        """Why the call ends now."""
        if self.contradiction is not None:
            return StopReason.CONTRADICTION
        if self.status() in (Status.OPTIMAL, Status.INFEASIBLE):
            return StopReason.PROVED
        if self.error is not None:
            return StopReason.ERROR
        if self.within_gap():
            return StopReason.GAP
        return StopReason.CANCELLED if self.clock.cancelled else StopReason.TIME_LIMIT

    def _record(self, source: str) -> None:
        values = None if self.incumbent is None else list(self.incumbent.values)
        bounds = [self.bound(k) for k in range(len(self.objectives))]
        point = TracePoint(self.clock.elapsed(), unlist(values), unlist(bounds), source)
        self.trace.append(point)
        self._tell(self._on_progress, point)


def _equal(left: Sequence[Number], right: Sequence[Number]) -> bool:
    return len(left) == len(right) and all(meets(a, b) for a, b in zip(left, right, strict=True))
