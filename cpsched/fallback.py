"""The fallback step of a host scheduler: never worse, never late, never a crash of the host."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from cpsched.errors import ProblemError
from cpsched.families import family as family_of
from cpsched.result import Result, Status, StopReason

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase

logger = logging.getLogger("cpsched")


@dataclass
class Counters:
    """What a `Fallback` has done so far; read it at any time.

    Attributes
    ----------
    calls
        Placements asked for.
    improvements
        Answers better than the primary's, or given where the primary had no valid one.
    certificates
        Primary answers proved optimal.
    timeouts
        Searches that ended at their deadline with nothing better.
    errors
        Exceptions of the primary, and searches that failed.
    skipped
        Calls without a search: quick bounds showed that too little can be gained, or the circuit
        was open.
    """

    calls: int = 0
    improvements: int = 0
    certificates: int = 0
    timeouts: int = 0
    errors: int = 0
    skipped: int = 0

    def to_dict(self) -> dict[str, int]:
        """The counters as plain data, for a metrics endpoint."""
        return asdict(self)


class Fallback:
    """A placement function with cpsched behind it; made by `cpsched.fallback`."""

    def __init__(
        self,
        primary: Callable[[Any], Any],
        family: str,
        *,
        time_limit: float,
        min_gap: float,
        failures: int,
        cooldown: float,
        isolation: Literal["none", "process"],
        settings: dict[str, Any],
    ) -> None:
        self.primary = primary
        self.family = family_of(family)
        self.time_limit, self.min_gap = time_limit, min_gap
        self.failures, self.cooldown = failures, cooldown
        self.isolation: Literal["none", "process"] = isolation
        self.settings = settings
        self.counters = Counters()
        self._streak = 0
        self._closed_at = 0.0
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether the circuit is open: searches are skipped until the cool-down has passed."""
        return self._streak >= self.failures and time.monotonic() < self._closed_at

    def __call__(self, problem: ProblemBase) -> Result:
        """Place: the primary's answer when it is good enough, a better one otherwise.

        Returns
        -------
        Result
            A checked schedule that is never worse than the primary's, with ``certified``,
            ``initial`` and ``diff`` as `improve` gives them.

        Raises
        ------
        ProblemError
            For a problem of another kind.
        """
        if problem.kind != self.family.kind:
            raise ProblemError(
                f"this fallback places problems of kind {self.family.kind}",
                value=problem.kind,
                remedy="Make one fallback per kind.",
            )
        self._count(calls=1)
        from cpsched.improve import improve

        given = self._ask_primary(problem)
        limit = self.time_limit
        if self.open and given is not None and not self.family.check(problem, given):
            limit = 0.0
        gap = max(self.min_gap, self.settings.get("gap_limit", 0.0))
        settings = self.settings | {"gap_limit": gap, "isolation": self.isolation}
        result = improve(problem, given, time_limit=limit, **settings)
        self._account(result, searched=limit > 0.0)
        return result

    def _ask_primary(self, problem: ProblemBase) -> Any:
        try:
            return self.family.read_schedule(self.primary(problem))
        except Exception as error:
            logger.warning("the primary failed: %r", error)
            self._count(errors=1)
            return None

    def _account(self, result: Result, searched: bool) -> None:
        initial = result.extra["initial"]
        gained = result.schedule is not None and (
            not initial["valid"] or result.objective != initial["objective"]
        )
        failed = result.stop_reason in (StopReason.ERROR, StopReason.CONTRADICTION)
        enough = result.stop_reason is StopReason.GAP and not gained
        late = searched and not gained and result.stop_reason is StopReason.TIME_LIMIT
        self._count(
            improvements=int(gained),
            certificates=int(result.extra["certified"]),
            timeouts=int(late),
            errors=int(failed),
            skipped=int(not searched or enough),
        )
        if not searched:
            return
        hopeless = failed or (late and result.status is not Status.OPTIMAL)
        with self._lock:
            self._streak = self._streak + 1 if hopeless else 0
            if self._streak >= self.failures:
                self._closed_at = time.monotonic() + self.cooldown
                logger.warning(
                    "the fallback rests for %g s after %d searches without gain",
                    self.cooldown,
                    self._streak,
                )

    def _count(self, **increments: int) -> None:
        with self._lock:
            for name, amount in increments.items():
                setattr(self.counters, name, getattr(self.counters, name) + amount)


def fallback(
    primary: Callable[[Any], Any],
    *,
    family: str,
    time_limit: float = 1.0,
    min_gap: float = 0.0,
    failures: int = 5,
    cooldown: float = 30.0,
    isolation: Literal["none", "process"] = "process",
    **settings: Any,
) -> Fallback:
    """Wrap a host's placement function with a checked, time-bounded improvement step.

    Parameters
    ----------
    primary
        The host's placement function: takes the problem, gives a schedule in any form that
        `validate` takes. It may raise, or give a partial or invalid schedule.
    family
        Kind of the problems (``pods``, ``workflow``, ...).
    time_limit
        Seconds per call for everything but the primary itself.
    min_gap
        Stop as soon as the bounds show that less than this relative gain is possible.
    failures, cooldown
        After this many searches in a row without gain or with an error, rest for ``cooldown``
        seconds: a valid answer of the primary is returned at once. What is left out or invalid
        is placed all the same.
    isolation
        "process" (default) keeps native crashes and memory exhaustion away from the host.
    settings
        Further settings of `solve` (``workers``, ``objective``, ...).

    Returns
    -------
    Fallback
        Call it with a problem; ``counters`` tells what it has done.

    Raises
    ------
    ProblemError
        For an unknown kind or an argument out of range.
    """
    if not time_limit > 0.0:
        raise ProblemError(
            "time_limit must be positive",
            place="time_limit",
            value=time_limit,
            remedy="Pass seconds.",
        )
    if failures < 1:
        raise ProblemError(
            "failures must be at least 1", place="failures", value=failures, remedy="Pass 5."
        )
    if isolation == "process":
        from cpsched.core.isolate import warm

        # The worker starts now, not within the time of the first call.
        warm()
    return Fallback(
        primary,
        family,
        time_limit=time_limit,
        min_gap=min_gap,
        failures=failures,
        cooldown=cooldown,
        isolation=isolation,
        settings=settings,
    )
