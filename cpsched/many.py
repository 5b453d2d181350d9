"""Beyond one call and one machine: many problems, and one problem over an executor.

Everything that travels is JSON bytes, so any `concurrent.futures.Executor` serves: a process pool,
``distributed.Client.get_executor(pure=False)``, Parsl's. A problem is sent to a worker once and
found there by its hash afterwards.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Executor, Future, wait
from typing import TYPE_CHECKING, Any

from cpsched.result import Bound, Result

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.problem import ProblemBase

logger = logging.getLogger("cpsched")

#: Problems this (worker) process has seen, by hash; the oldest go first.
_seen: dict[str, Any] = {}
_SEEN_LIMIT = 64

#: Seconds of the first tasks of a search over an executor, and of the longest.
FIRST_SPAN, LONGEST_SPAN = 0.5, 2.0
#: After so many lost tasks in a row the executor is given up.
MOST_LOST = 8

#: How often a problem whose worker was lost is sent again before it is solved here.
RETRIES = 2


def solve_many(
    problems: Iterable[ProblemBase], executor: Executor | None = None, **settings: Any
) -> list[Result]:
    """Solve problems, in this process or over an executor; results in the order of the problems.

    Parameters
    ----------
    problems
        Problems of any kinds.
    executor
        Where to solve them; None solves one after the other here. A lost worker costs its problem
        another attempt, never the batch.
    settings
        As for `solve`; ``on_improvement``, ``on_progress`` and ``stop`` only without an executor.

    Raises
    ------
    ProblemError
        For a malformed problem or setting.
    """
    from cpsched.solve import solve

    listed = list(problems)
    if executor is None:
        return [solve(problem, **settings) for problem in listed]
    found: list[Result | None] = [None] * len(listed)
    for index, result in solve_as_completed(listed, executor, **settings):
        found[index] = result
    return [result for result in found if result is not None]


def solve_as_completed(
    problems: list[ProblemBase], executor: Executor, **settings: Any
) -> Iterator[tuple[int, Result]]:
    """As `solve_many` over an executor, giving ``(index, result)`` as they are ready."""
    from cpsched.solve import solve

    request = json.dumps(settings).encode()
    attempts = [0] * len(problems)
    running: dict[Future[bytes], int] = {}
    lost: list[int] = []
    for index, problem in enumerate(problems):
        submit(executor, running, lost, index, problem.to_json().encode(), request)
    while running or lost:
        for index in lost:
            yield index, solve(problems[index], **settings)
        lost.clear()
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            index = running.pop(future)
            try:
                yield index, Result.from_dict(json.loads(future.result()), problems[index])
            except Exception as error:
                logger.warning("problem %d was lost with its worker: %r", index, error)
                attempts[index] += 1
                if attempts[index] > RETRIES:
                    lost.append(index)
                else:
                    payload = problems[index].to_json().encode()
                    submit(executor, running, lost, index, payload, request)


def submit(
    executor: Executor,
    running: dict[Future[bytes], int],
    lost: list[int],
    index: int,
    payload: bytes,
    request: bytes,
) -> None:
    """Submit one problem; an executor that takes no more (a broken pool) leaves it as lost."""
    try:
        running[executor.submit(solve_payload, payload, request)] = index
    except RuntimeError as error:
        logger.warning("the executor takes no more work: %r", error)
        lost.append(index)


def solve_payload(payload: bytes, request: bytes) -> bytes:
    """What a worker runs: problem JSON and settings JSON in, result JSON out."""
    from cpsched.problem import loads
    from cpsched.solve import solve

    return solve(loads(payload), **json.loads(request)).to_json().encode()


# ------------------------------------------------------------------ one problem over an executor


def improve_remotely(key: str, problem: bytes | None, request: bytes) -> bytes:
    """What a worker runs for one task; answers ``b""`` when it lacks the problem."""
    from cpsched.core.session import visit
    from cpsched.problem import loads
    from cpsched.solve import solve

    if key not in _seen:
        if problem is None:
            return b""
        while len(_seen) >= _SEEN_LIMIT:
            _seen.pop(next(iter(_seen)))
        _seen[key] = loads(problem)
    settings = json.loads(request)
    if settings.pop("deterministic"):
        return answer_of(solve(_seen[key], deterministic=True, **settings))
    return answer_of(visit(_seen[key], **settings))


def answer_of(result: Result) -> bytes:
    """What a worker tells about a search: the best schedule, bounds, infeasibility."""
    out: dict[str, Any] = {"bounds": [b.to_dict() for b in result.bounds]}
    if result.schedule is not None:
        out |= {"schedule": result.schedule.to_dict(), "source": result.source}
    if result.status.value == "INFEASIBLE":
        out |= {"infeasible": result.message or "search"}
    return json.dumps(out).encode()


def search_over(run: Run, executor: Executor, tasks: int) -> None:
    """Search with ``tasks`` remote searches of different seeds, which share their best schedule.

    A worker keeps its search between two tasks and goes on from it. A deterministic run works in
    rounds of searches without memory, whose answers are merged in the order of their tasks, so
    that it does not depend on which worker was faster. A lost worker costs its task only; when
    all are lost, this returns before its time.
    """
    over = _Over(run, executor)
    running: dict[Future[bytes], bytes] = {}
    seconds = FIRST_SPAN
    while not run.done():
        while len(running) < tasks and over.submit(running, seconds):
            pass
        if not running:
            return
        mode = ALL_COMPLETED if run.deterministic else FIRST_COMPLETED
        _wait(run, running, mode)
        before = len(running)
        for future in [f for f in running if f.done()]:
            over.take(future, running.pop(future))
        run.clock.spend(seconds * (before - len(running)) / tasks)
        # Short tasks share improvements early, long ones waste less on sending.
        seconds = min(LONGEST_SPAN, seconds * 1.5 ** ((before - len(running)) / tasks))
    for future in running:
        future.cancel()


class _Over:
    """The host's side of one search over an executor."""

    def __init__(self, run: Run, executor: Executor) -> None:
        self.run, self.executor = run, executor
        self.key = run.problem.sha256()
        self.token = f"{os.getpid()}-{id(run)}-{time.time_ns()}"
        self.payload = run.problem.to_json().encode()
        self.number = 0
        self.answered = False
        self.lost = 0  # tasks in a row

    def submit(self, running: dict[Future[bytes], bytes], seconds: float) -> bool:
        """One more task; False when the executor takes no more."""
        if self.lost > MOST_LOST:
            return False
        self.number += 1
        request = self._request(seconds)
        payload = None if self.answered else self.payload
        try:
            running[self.executor.submit(improve_remotely, self.key, payload, request)] = request
        except RuntimeError as error:
            logger.warning("the executor takes no more work: %r", error)
            self.lost = MOST_LOST + 1
            return False
        return True

    def take(self, future: Future[bytes], request: bytes) -> None:
        """Merge a task's answer."""
        try:
            answer = future.result()
            if answer == b"":
                again = self.executor.submit(improve_remotely, self.key, self.payload, request)
                _wait(self.run, {again: request}, ALL_COMPLETED)
                answer = again.result(timeout=0)
        except TimeoutError:
            return
        except Exception as error:
            logger.warning("a task was lost with its worker: %r", error)
            self.lost += 1
            return
        self.answered, self.lost = True, 0
        merge(self.run, json.loads(answer))

    def _request(self, seconds: float) -> bytes:
        run = self.run
        span = min(run.clock.remaining(), seconds)
        settings: dict[str, Any] = {
            "time_limit": max(0.05, span),
            "objective": [o.name for o in run.objectives],
            "seed": (run.seed * 1009 + self.number) % 2**31,
            "hint": None if run.incumbent is None else run.incumbent.schedule.to_dict(),
            "deterministic": run.deterministic,
        }
        if run.deterministic:
            settings["workers"] = 1
        else:
            left = run.clock.remaining()
            settings |= {"token": self.token, "left": left if math.isfinite(left) else None}
        return json.dumps(settings).encode()


def _wait(run: Run, futures: Iterable[Future[bytes]], mode: str) -> None:
    """Until that many are done, or the run is."""
    end = time.monotonic() + LONGEST_SPAN + 60.0
    listed = list(futures)
    while run.clock.wall_remaining() > 0.0 and not run.clock.cancelled:
        done, pending = wait(listed, timeout=0.05, return_when=mode)
        if not pending or (done and mode == FIRST_COMPLETED) or time.monotonic() > end:
            return


def merge(run: Run, message: dict[str, Any]) -> None:
    """Take over schedules, bounds and proofs that another process reports.

    Everything is checked again here; the other process is trusted for its bounds only.
    """
    if message.get("schedule") is not None:
        run.offer(run.family.read_schedule(message["schedule"]), message["source"])
    for data in message.get("bounds", ()):
        run.raise_bound(Bound.from_dict(data))
    if message.get("infeasible"):
        run.claim_infeasible(message["infeasible"], message.get("message", ""))
    if message.get("error"):
        run.error = message["error"]
