"""Work that waits for a moment between calls: loading a compiler or a solver takes up to a second
of the interpreter, which a call with a short limit cannot spare.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

#: Seconds between two looks for such a moment.
PATIENCE = 0.05

_lock = threading.Lock()
_calls = 0


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """While a call with a deadline runs, in whatever thread."""
    global _calls
    with _lock:
        _calls += 1
    try:
        yield
    finally:
        with _lock:
            _calls -= 1


def when_idle(delay: float, action: Callable[[], object]) -> None:
    """Run the action in a thread of its own, ``delay`` seconds from now or when no call runs."""

    def attempt() -> None:
        if _calls:
            when_idle(PATIENCE, action)
        else:
            action()

    timer = threading.Timer(delay, attempt)
    timer.daemon = True
    timer.start()
