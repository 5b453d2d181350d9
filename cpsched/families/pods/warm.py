"""Loading OR-Tools without missing a deadline: in the background, while the heuristics run."""

from __future__ import annotations

import atexit
import threading

from cpsched.core import engine, idle
from cpsched.core.clock import Clock

_loaded = threading.Event()
_started = threading.Lock()
_leaving = threading.Event()
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
    if clock.wall_remaining() >= engine.LOAD_BEGIN:
        start()
    elif _thread is None:
        idle.when_idle(0.2, start)


def ready(clock: Clock) -> bool:
    """Wait for the solvers as long as the clock allows; whether they are there."""
    start_within(clock)
    if _thread is None:
        return False
    while not _loaded.wait(min(0.02, clock.wall_remaining())):
        if clock.wall_remaining() <= 0.02 or clock.cancelled:
            return _loaded.is_set()
    return True


def _leave() -> None:
    """Let the import that is under way end: a process must not be torn down in the midst of it."""
    _leaving.set()
    if _thread is not None:
        _thread.join(5.0)


def _load() -> None:
    try:
        import ortools.graph.python.linear_sum_assignment
        import ortools.linear_solver.pywraplp
        import ortools.sat.python.cp_model  # noqa: F401
    except RuntimeError:
        # A process that is leaving refuses what an import would register for its end.
        if not _leaving.is_set():
            raise
    else:
        _loaded.set()
