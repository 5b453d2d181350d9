"""The only file that runs CP-SAT.

Every call runs in its own daemon thread and puts its solutions into a queue; the caller's thread
drains the queue, so that extraction, checks and user callbacks never run inside the solver. A call
that outlives its deadline is stopped, and abandoned when it does not react: that is what keeps the
promise of the time limit during long presolves.
"""

from __future__ import annotations

import atexit
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpsched.core import idle
from cpsched.core.clock import SECONDS_PER_DETERMINISTIC_UNIT, Clock
from cpsched.errors import ModelError

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

logger = logging.getLogger("cpsched")

#: Seconds that a stopped call is waited for before it is abandoned.
GRACE = 0.08

#: Importing CP-SAT takes up to this many seconds on a busy machine, once per process.
LOAD_SECONDS = 1.5
#: With less time than this the import is not even begun before the call ends.
LOAD_BEGIN = 0.3

#: Whether loading the solver waits for a moment between calls (1) or has begun (2).
_asked = 0
_running: set[Call] = set()
_running_lock = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """How a CP-SAT call ended.

    ``bound`` is None unless the solver proved one (it reports garbage bounds without a solution);
    ``objective`` and ``values`` (by variable index) are None without a solution.
    """

    status: str
    values: list[int] | None
    objective: float | None
    bound: float | None
    seconds: float
    deterministic_time: float

    @property
    def has_solution(self) -> bool:
        """Whether ``values`` are meaningful."""
        return self.values is not None


class Call:
    """One CP-SAT call, running in its own thread from `start` on."""

    def __init__(
        self,
        model: CpModel,
        *,
        seconds: float,
        workers: int = 1,
        seed: int = 0,
        deterministic_limit: float | None = None,
        parameters: Mapping[str, Any] | None = None,
        wake: threading.Event | None = None,
    ) -> None:
        from ortools.sat.python import cp_model

        self.model = model
        self.solutions: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self.bound: float | None = None
        self.finished = threading.Event()
        self.error: BaseException | None = None
        self.outcome: Outcome | None = None
        self._wake = wake or threading.Event()
        self._stopped = False
        self._begun = threading.Event()
        self._solver = solver = cp_model.CpSolver()
        p = solver.parameters
        p.max_time_in_seconds = max(1e-3, min(seconds, 1e9))
        p.num_workers = max(1, workers)
        p.random_seed = seed % (2**31 - 1)
        p.catch_sigint_signal = False
        if deterministic_limit is not None and math.isfinite(deterministic_limit):
            p.max_deterministic_time = max(1e-4, deterministic_limit)
        for name, value in (parameters or {}).items():
            field = getattr(p, name)
            if isinstance(value, list | tuple):
                field.extend(value)
            else:
                setattr(p, name, value)
        self._callback = _callback_class()(self)
        solver.best_bound_callback = self._on_bound
        self.thread = threading.Thread(target=self._work, name="cpsched-solver", daemon=True)

    def start(self) -> Call:
        """Begin solving; returns at once."""
        with _running_lock:
            _running.add(self)
        self.thread.start()
        return self

    def stop(self) -> None:
        """Ask the solver to end as soon as it can."""
        self._stopped = True
        # CP-SAT forgets a stop that comes before its search has begun: the callbacks repeat it,
        # and so do the waiting loops.
        self._solver.stop_search()

    def _on_bound(self, bound: float) -> None:
        if math.isfinite(bound):
            self.bound = bound
            self._wake.set()
        if self._stopped:
            self._solver.stop_search()

    def _work(self) -> None:
        from ortools.sat.python import cp_model

        started = time.perf_counter()
        try:
            if self._stopped:
                status = cp_model.UNKNOWN
            else:
                status = self._solver.solve(self.model, self._callback)
            name = status.name
            values = objective = None
            bound = self.bound
            spent = 0.0
            if not self._stopped or name != "UNKNOWN":
                spent = self._solver.response_proto.deterministic_time
            if name in ("OPTIMAL", "FEASIBLE"):
                values = list(self._solver.response_proto.solution)
                if self.model.proto.has_objective():
                    objective = self._solver.objective_value
                    bound = self._solver.best_objective_bound
            elif name == "MODEL_INVALID":
                raise ModelError(f"CP-SAT refuses the model: {self._solver.solution_info()}")
            elif name == "INFEASIBLE":
                bound = None
            self.outcome = Outcome(
                name, values, objective, bound, time.perf_counter() - started, spent
            )
        except BaseException as error:
            self.error = error
        finally:
            with _running_lock:
                _running.discard(self)
            self.finished.set()
            self._wake.set()


def _callback_class() -> Any:
    from ortools.sat.python import cp_model

    global _Callback
    if _Callback is None:

        class Callback(cp_model.CpSolverSolutionCallback):
            def __init__(self, call: Call) -> None:
                super().__init__()
                self._call = call

            def on_solution_callback(self) -> None:
                self._call.solutions.put(list(self.response_proto.solution))
                self._call._wake.set()
                if self._call._stopped:
                    self.stop_search()

        _Callback = Callback
    return _Callback


_Callback: Any = None


def ready(clock: Clock) -> bool:
    """Whether CP-SAT may be used: importing it must not eat the deadline.

    With time enough it is imported here. With less, a thread imports it while this waits until
    the clock runs out; with next to none, the thread begins when no call runs, for later ones.
    """
    global _asked
    if _loaded.is_set():
        return True
    left = clock.wall_remaining()
    if left >= LOAD_SECONDS:
        _load()
        return True
    with _running_lock:
        asked, _asked = _asked, max(_asked, 2 if left >= LOAD_BEGIN else 1)
    if _asked > asked:
        if _asked == 2:
            threading.Thread(target=_load, daemon=True).start()
        else:
            idle.when_idle(left + 0.2, _load)
    while not _loaded.wait(0.01):
        if clock.expired() or clock.wall_remaining() < 0.1:
            return False
    return True


def _load() -> None:
    import ortools.sat.python.cp_model  # noqa: F401

    _loaded.set()


_loaded = threading.Event()


def solve(
    model: CpModel,
    clock: Clock,
    *,
    workers: int = 1,
    seed: int = 0,
    seconds: float = math.inf,
    parameters: Mapping[str, Any] | None = None,
    on_solution: Callable[[list[int]], object] | None = None,
    on_bound: Callable[[float], object] | None = None,
    stop_when: Callable[[], bool] | None = None,
) -> Outcome:
    """Solve a model within the clock, handing over solutions and bounds as they come.

    Parameters
    ----------
    seconds
        Limit of this call, besides the clock's; virtual seconds in a deterministic run.
    on_solution, on_bound
        Called in the caller's thread with the values by variable index, and with a proved bound in
        the solver's objective unit.
    stop_when
        Asked after every event; True stops the call.

    Raises
    ------
    ModelError
        When CP-SAT refuses the model.
    """
    wake = threading.Event()
    call = start(
        model, clock, workers=workers, seed=seed, seconds=seconds, parameters=parameters, wake=wake
    )
    deadline = time.perf_counter() + min(
        clock.wall_remaining(), math.inf if clock.deterministic else seconds
    )
    bound: float | None = None
    while True:
        try:
            finished = call.finished.is_set()
            while not call.solutions.empty():
                values = call.solutions.get()
                if on_solution is not None:
                    on_solution(values)
            if on_bound is not None and call.bound is not None and call.bound != bound:
                bound = call.bound
                on_bound(bound)
            if finished:
                break
            late = time.perf_counter() - deadline
            if clock.cancelled or late > 0.0 or (stop_when is not None and stop_when()):
                call.stop()
                if call.finished.wait(GRACE):
                    continue
                if late > 0.0 or clock.cancelled:
                    logger.debug("a CP-SAT call did not stop in time and was abandoned")
                    return Outcome("UNKNOWN", None, None, bound, clock.elapsed(), 0.0)
            wake.wait(min(0.1, max(0.001, -late)))
            wake.clear()
        except KeyboardInterrupt:
            clock.cancel()
    return collect(call, clock)


def start(
    model: CpModel,
    clock: Clock,
    *,
    workers: int = 1,
    seed: int = 0,
    seconds: float = math.inf,
    parameters: Mapping[str, Any] | None = None,
    wake: threading.Event | None = None,
) -> Call:
    """Begin a call within the clock and return it running; finish it with `collect`."""
    limit = None
    wall = clock.wall_remaining()
    if clock.deterministic:
        limit = min(seconds, clock.remaining()) / SECONDS_PER_DETERMINISTIC_UNIT
        workers = 1
    else:
        wall = min(wall, seconds)
    return Call(
        model,
        seconds=wall,
        workers=workers,
        seed=seed,
        deterministic_limit=limit,
        parameters=parameters,
        wake=wake,
    ).start()


def collect(call: Call, clock: Clock) -> Outcome:
    """Outcome of a finished call; its deterministic time is charged to the clock."""
    if call.error is not None:
        raise call.error
    assert call.outcome is not None
    clock.spend(call.outcome.deterministic_time * SECONDS_PER_DETERMINISTIC_UNIT)
    return call.outcome


def running() -> bool:
    """Whether a call still runs (an abandoned one that has not noticed yet)."""
    return bool(_running)


@atexit.register
def _stop_all() -> None:
    # A solver thread that outlives the interpreter aborts the process: stop and wait shortly.
    with _running_lock:
        calls = list(_running)
    for call in calls:
        call.stop()
    for call in calls:
        for _ in range(50):
            if call.finished.wait(0.1):
                break
            call.stop()
