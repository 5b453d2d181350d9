"""Loading what the search needs without missing a deadline: in the background, meanwhile.

The linear solver comes first, then the compiled kernels (when they are in the cache on disk), then
CP-SAT, whose import takes longest and which the placed counts do not need.
"""

from __future__ import annotations

import atexit
import threading

from cpsched.core.clock import Clock

_linear = threading.Event()
_all = threading.Event()
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


def ready(clock: Clock) -> bool:
    """Wait for the linear solver as long as the clock allows; whether it is there.

    A deterministic run waits for everything: what is loaded must not depend on the machine.
    """
    start()
    wanted = _all if clock.deterministic else _linear
    while not wanted.wait(min(0.02, clock.wall_remaining())):
        if clock.wall_remaining() <= 0.02 or clock.cancelled:
            return wanted.is_set()
    return True


def _leave() -> None:
    """Let the import that is under way end: a process must not be torn down in the midst of it."""
    _leaving.set()
    if _thread is not None:
        _thread.join(5.0)


def _load() -> None:
    import ortools.graph.python.linear_sum_assignment
    import ortools.linear_solver.pywraplp

    _linear.set()
    try:
        if not _leaving.is_set():
            from cpsched.core import jit
            from cpsched.families.pods import kernels

            if jit.ready():
                kernels.warm_up()
        if not _leaving.is_set():
            import ortools.sat.python.cp_model  # noqa: F401
    finally:
        _all.set()
