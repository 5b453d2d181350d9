"""Search in a warm worker process: a native crash or exhausted memory costs the host nothing.

The host keeps the incumbent: the worker only reports schedules and bounds, which enter the run
through the same checks as any other. A worker that dies loses its last unreported improvement.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import queue
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from cpsched.core.run import Run
from cpsched.many import merge

logger = logging.getLogger("cpsched")

#: Seconds the worker is given to report after its deadline or a cancellation.
GRACE = 0.05


def send(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Write one length-prefixed JSON message."""
    data = json.dumps(message).encode()
    stream.write(struct.pack(">Q", len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; None at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    data = stream.read(struct.unpack(">Q", head)[0])
    message: dict[str, Any] = json.loads(data)
    return message


class Worker:
    """A worker process, ready for one search after another."""

    def __init__(self) -> None:
        folder = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cpsched.core.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
        )
        self.messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.idle = True
        # Written by a thread of its own: a worker that does not read must not hold up the host.
        self._outbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="cpsched-isolate-out", daemon=True).start()
        threading.Thread(target=self._read, name="cpsched-isolate", daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while True:
            try:
                message = receive(self.process.stdout)
            except (OSError, ValueError):
                message = None
            self.messages.put(message)
            if message is None:
                return

    def _write(self) -> None:
        assert self.process.stdin is not None
        while (message := self._outbox.get()) is not None:
            try:
                send(self.process.stdin, message)
            except (OSError, ValueError):
                return

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def post(self, message: dict[str, Any]) -> bool:
        """Send a message without waiting for it to be read; False when the worker has gone."""
        self._outbox.put(message)
        return self.alive()

    def settle(self, seconds: float) -> bool:
        """Whether the worker is ready for a new search (drains what a cancelled one left)."""
        end = time.perf_counter() + seconds
        while not self.idle:
            try:
                message = self.messages.get(timeout=max(0.0, end - time.perf_counter()))
            except queue.Empty:
                return False
            if message is None:
                return False
            self.idle = message.get("done", False)
        return self.alive()

    def kill(self) -> None:
        """End the process."""
        self._outbox.put(None)
        self.process.kill()
        self.process.wait()


_idle_workers: list[Worker] = []
_lock = threading.Lock()


def warm() -> None:
    """Start a worker ahead of the first isolated call (its start takes about a second)."""
    with _lock:
        if not _idle_workers:
            _idle_workers.append(Worker())


def _take(seconds: float) -> Worker:
    """A worker ready to search, waiting at most ``seconds`` for one that still winds up."""
    while True:
        with _lock:
            worker = _idle_workers.pop() if _idle_workers else None
        if worker is None:
            return Worker()
        if worker.settle(seconds):
            return worker
        worker.kill()


def search_isolated(run: Run, hint: Any = None) -> None:
    """Run the family's search in the worker process and merge what it reports into the run.

    The worker starts from ``hint``, a schedule that still has to be repaired, or from the
    incumbent.
    """
    if hint is None and run.incumbent is not None:
        hint = run.incumbent.schedule
    # Starting another worker takes about a second: waiting as long is never worse.
    worker = _take(min(1.0, 0.5 * run.clock.wall_remaining()))
    left = run.clock.remaining()
    request = {
        "problem": run.problem.to_dict(),
        "objectives": [o.name for o in run.objectives],
        "time_limit": left if math.isfinite(left) else None,
        "workers": run.workers,
        "seed": run.seed,
        "gap_limit": run.gap_limit,
        "deterministic": run.deterministic,
        "hint": None if hint is None else hint.to_dict(),
    }
    worker.idle = False
    if not worker.post(request):
        run.error = "the worker process could not be reached"
        worker.kill()
        return
    cancelled = False
    try:
        while True:
            expired = run.clock.wall_remaining() <= 0.0 or run.clock.cancelled or run.optimal()
            if expired and not cancelled:
                cancelled = True
                worker.post({"cancel": True})
            try:
                message = worker.messages.get(timeout=GRACE if expired else 0.05)
            except queue.Empty:
                if expired:
                    return
                continue
            if message is None:
                code = worker.process.wait()
                run.error = f"the worker process died (exit {code}); the best schedule is kept"
                logger.error("%s", run.error)
                return
            merge(run, message)
            if message.get("done"):
                worker.idle = True
                return
    finally:
        if worker.alive():
            with _lock:
                _idle_workers.append(worker)


@atexit.register
def _end_all() -> None:
    for worker in _idle_workers:
        worker.kill()
