"""Work that waits for a pause between calls: loading a compiler or a solver takes up to a second
of the interpreter, which a call with a short limit cannot spare.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

#: Seconds between two looks for such a pause.
PATIENCE = 0.05
#: Where calls follow each other faster than this, the next one would be disturbed.
PAUSE = 0.25

_lock = threading.Lock()
_calls = 0
_ended = -PAUSE


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """While a call with a deadline runs, in whatever thread."""
    global _calls, _ended
    with _lock:
        _calls += 1
    try:
        yield
    finally:
        with _lock:
            _calls -= 1
            _ended = time.monotonic()


def when_idle(delay: float, action: Callable[[], object]) -> None:
    """Run the action in a thread of its own, ``delay`` seconds from now or in a pause of calls."""

    def attempt() -> None:
        if _calls or time.monotonic() - _ended < PAUSE:
            when_idle(PATIENCE, action)
        else:
            action()

    timer = threading.Timer(delay, attempt)
    timer.daemon = True
    timer.start()
