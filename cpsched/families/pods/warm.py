"""Loading what the search needs without missing a deadline: in the background, while others work.

In the order of use: the linear solver, the compiled kernels, CP-SAT. The last one is the largest
and would take the interpreter from the column generation of a short call, so it is loaded when it
is asked for, or at once when there is time.
"""

from __future__ import annotations

import atexit
import threading

from cpsched.core import engine, idle, jit
from cpsched.core.clock import Clock

#: With this much time CP-SAT is loaded at once, too.
PLENTY = 3.0
#: Seconds that are kept for a search with interpreted kernels.
KERNEL_RESERVE = 0.3

_linear = threading.Event()
_kernels = threading.Event()
_loaded = threading.Event()
_wanted = threading.Event()
_leaving = threading.Event()
_started = threading.Lock()
_thread: threading.Thread | None = None


def start() -> None:
    """Begin to load, once per process; returns at once."""
    global _thread
    with _started:
        if _thread is None:
            _thread = threading.Thread(target=_load, name="cpsched-import", daemon=True)
            _thread.start()
            atexit.register(_leave)


def start_within(clock: Clock) -> None:
    """Begin to load; with next to no time left, when no call runs, for later ones."""
    left = clock.wall_remaining()
    if left >= PLENTY:
        _wanted.set()
    if left >= engine.LOAD_BEGIN:
        start()
    elif _thread is None:
        idle.when_idle(0.2, start)


def linear(clock: Clock) -> bool:
    """Wait for the linear solver, and for the kernels while that leaves time to use them.

    Returns whether the linear solver is there.
    """
    start_within(clock)
    if not _wait(_linear, clock, 0.02):
        return False
    _wait(_kernels, clock, KERNEL_RESERVE)
    return True


def ready(clock: Clock) -> bool:
    """Wait for all the solvers as long as the clock allows; whether they are there."""
    start_within(clock)
    if _thread is not None:
        _wanted.set()
    return _wait(_loaded, clock, 0.02)


def _wait(event: threading.Event, clock: Clock, reserve: float) -> bool:
    if _thread is None:
        return False
    while not event.wait(min(0.02, clock.wall_remaining())):
        if clock.wall_remaining() <= reserve or clock.cancelled:
            break
    return event.is_set()


def _leave() -> None:
    """Let the import that is under way end: a process must not be torn down in the midst of it."""
    _leaving.set()
    _wanted.set()
    if _thread is not None:
        _thread.join(5.0)


def _load() -> None:
    try:
        import ortools.graph.python.linear_sum_assignment
        import ortools.linear_solver.pywraplp

        _linear.set()
        if not _leaving.is_set():
            jit.load("pods")
        _kernels.set()
        _wanted.wait()
        if _leaving.is_set():
            return
        import ortools.sat.python.cp_model  # noqa: F401
    except RuntimeError:
        # A process that is leaving refuses what an import would register for its end.
        if not _leaving.is_set():
            raise
    else:
        _loaded.set()
