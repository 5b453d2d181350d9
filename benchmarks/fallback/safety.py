"""A thousand ways to fail: the host gets a checked answer in time."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import cpsched
from benchmarks.fallback.cases import answers, problem
from cpsched.core import isolate
from cpsched.families import KINDS, family

#: Bytes of a worker that is to run out of memory while it solves or while it starts.
LITTLE_MEMORY = (150 * 2**20, 700 * 2**20, 1200 * 2**20)
FAULTS = ("kill", "kill", "stop", "memory", "raise", "nonsense", "half")


def trials(start: int, count: int, limit: float) -> Iterator[dict[str, Any]]:
    """One record per call of a fallback with a fault."""
    for number in range(start, start + count):
        rng = random.Random(number)
        kind = rng.choice(KINDS)
        instance = problem(kind, number % 200)
        fault = rng.choice(FAULTS)
        good = answers(instance)
        if not good:
            continue

        def primary(
            instance: Any, fault: str = fault, good: Any = good, rng: random.Random = rng
        ) -> Any:
            if fault == "raise":
                raise RuntimeError("the primary failed")
            if fault == "nonsense":
                return {"rubbish": [rng.random()]}
            first = dict(good[0])
            if fault == "half":
                for key, value in first.items():
                    if isinstance(value, list):
                        first[key] = value[: len(value) // 2]
            return first

        if fault == "memory":
            os.environ["CPSCHED_WORKER_MEMORY"] = str(rng.choice(LITTLE_MEMORY))
            while isolate._idle_workers:
                isolate._idle_workers.pop().kill()
        place = cpsched.fallback(primary, family=kind, time_limit=limit, workers=1)
        if fault in ("kill", "stop"):
            time.sleep(0.5)  # let the worker come up, so that the fault hits a search
            worker = isolate._idle_workers[-1]
            sign = signal.SIGKILL if fault == "kill" else signal.SIGSTOP
            timer = threading.Timer(rng.random() * limit, _strike, (worker.process.pid, sign))
            timer.daemon = True
            timer.start()
        started = time.perf_counter()
        result = place(instance)
        wall = time.perf_counter() - started
        os.environ.pop("CPSCHED_WORKER_MEMORY", None)
        if fault in ("memory", "stop"):
            while isolate._idle_workers:
                isolate._idle_workers.pop().kill()
        valid = result.schedule is not None and not family(kind).check(instance, result.schedule)
        yield {
            "trial": number,
            "kind": kind,
            "fault": fault,
            "seconds": wall,
            "valid": valid,
            "in_time": wall <= limit + 0.2,
            "stop_reason": result.stop_reason.value,
        }


def _strike(pid: int, sign: int) -> None:
    with suppress(ProcessLookupError):  # replaced meanwhile
        os.kill(pid, sign)
