"""The deadline of a call: wall time, or work counted in virtual seconds when deterministic."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from cpsched.errors import OutOfTime

#: Virtual seconds per CP-SAT deterministic-time unit. One unit was seen to cost 4 to 17 seconds of
#: one core on scheduling models, so this lets a deterministic run end before its wall deadline.
SECONDS_PER_DETERMINISTIC_UNIT = 30.0

Stop = threading.Event | Callable[[], bool] | None


class Clock:
    """Counts the time of one call, and says when it is over.

    Parameters
    ----------
    time_limit
        Seconds from now; None or infinity for no limit.
    deterministic
        Count the work reported to `spend` instead of the wall, so that results do not depend on
        the load of the machine. The wall limit still holds as a guard; `overran` tells when it,
        and not the counted work, ended the run.
    stop
        An event or a callable that cancels the call when set or true.
    """

    def __init__(
        self, time_limit: float | None, *, deterministic: bool = False, stop: Stop = None
    ) -> None:
        self.started = time.perf_counter()
        self.limit = math.inf if time_limit is None else float(time_limit)
        self.deterministic = deterministic
        self.overran = False
        self.spent = 0.0
        self._stop = stop
        self._cancelled = threading.Event()
        #: Seconds kept back for extracting, checking and returning the last schedule.
        self.reserve = 0.0

    def elapsed(self) -> float:
        """Wall seconds since the call."""
        return time.perf_counter() - self.started

    def used(self) -> float:
        """Seconds used so far: virtual ones when deterministic, else wall seconds."""
        return self.spent if self.deterministic else self.elapsed()

    def wall_remaining(self) -> float:
        """Wall seconds until the deadline, less the reserve; never negative."""
        return max(0.0, self.limit - self.reserve - self.elapsed())

    def remaining(self) -> float:
        """Seconds left: virtual ones when deterministic, else wall seconds; never negative."""
        if self.deterministic:
            if self.wall_remaining() <= 0.0:
                self.overran = True
                return 0.0
            return max(0.0, self.limit - self.spent)
        return self.wall_remaining()

    def spend(self, seconds: float) -> None:
        """Report work done, in estimated seconds that depend on the input alone.

        Heuristics call this once per iteration; only deterministic runs use the count.
        """
        self.spent += seconds

    def cancel(self) -> None:
        """End the call as soon as its parts look at the clock."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether the caller asked to stop."""
        if self._cancelled.is_set():
            return True
        stop = self._stop
        if stop is not None and (stop.is_set() if isinstance(stop, threading.Event) else stop()):
            self._cancelled.set()
            return True
        return False

    def expired(self) -> bool:
        """Whether work should end now: out of time, or cancelled."""
        return self.remaining() <= 0.0 or self.cancelled

    def check(self) -> None:
        """Raise `OutOfTime` when expired: for steps that cannot give a partial answer."""
        if self.expired():
            raise OutOfTime("the time limit was reached")
