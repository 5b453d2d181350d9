"""A search that a worker process keeps between two tasks of one run over an executor."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from cpsched.core import jit
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase
    from cpsched.result import Result

#: A search that no task has visited for so many seconds ends.
FORGOTTEN = 5.0
#: Loading a family's kernels at the start pays when at least this many seconds are left.
WORTH_LOADING = 5.0

#: A better schedule is reported when no other has followed for so many seconds.
PAUSE = 0.1

_idle: list[Session] = []
_lock = threading.Lock()


class Session(threading.Thread):
    """The search of one problem in a thread, from a seed; it goes on while nobody waits for it."""

    def __init__(
        self, token: str, problem: ProblemBase, objective: list[str], seed: int, left: float | None
    ) -> None:
        from cpsched.solve import objectives_of

        super().__init__(name="cpsched-session", daemon=True)
        self.token = token
        self.visited = time.monotonic() + FORGOTTEN
        chosen = family(problem.kind)
        clock = Clock(left, stop=self.forgotten)
        objectives = objectives_of(chosen, problem, objective)
        self.search = Run(problem, chosen, objectives, clock, workers=1, seed=seed)
        self.hint: Any = None

    def forgotten(self) -> bool:
        """Whether no task is waiting for it, and none has for a while."""
        return time.monotonic() > self.visited

    def run(self) -> None:
        """The thread's work."""
        from cpsched.solve import run_pipeline

        if self.search.clock.remaining() > WORTH_LOADING:
            jit.load(self.search.problem.kind)
        run_pipeline(self.search, self.hint)

    def wait(self, hint: Any, seconds: float) -> None:
        """Offer a schedule that another search found, and let it work for so many seconds.

        Less when it has found something better and then nothing for `PAUSE` seconds.
        """
        self.visited = time.monotonic() + seconds + FORGOTTEN
        if hint is not None:
            schedule = self.search.family.read_schedule(hint)
            if self.is_alive():
                self.search.offer(schedule, "hint")
            else:
                self.hint = schedule
        if self.ident is None:
            self.start()
        end = since = time.monotonic()
        end += seconds
        known = first = self.search.incumbent
        while self.is_alive() and time.monotonic() < end:
            self.join(0.02)
            if self.search.incumbent is not known:
                known, since = self.search.incumbent, time.monotonic()
            elif known is not first and time.monotonic() - since > PAUSE:
                return


def visit(
    problem: ProblemBase,
    *,
    token: str,
    left: float | None,
    time_limit: float,
    objective: list[str],
    seed: int,
    hint: Any,
) -> Result:
    """Let a search of this process work for ``time_limit`` seconds; what it knows then.

    Parameters
    ----------
    token
        Names the run of the host that the search belongs to.
    left
        Seconds that the whole run has left; None without a limit.
    seed
        For a new search; one that waits for this run is preferred.
    """
    from cpsched.solve import result_of

    with _lock:
        own = next((one for one in _idle if one.token == token), None)
        if own is not None:
            _idle.remove(own)
        _idle[:] = [one for one in _idle if one.is_alive()]
    if own is None or not own.is_alive():
        own = Session(token, problem, objective, seed, left)
    own.wait(hint, time_limit)
    with _lock:
        _idle.append(own)
    return result_of(own.search)
