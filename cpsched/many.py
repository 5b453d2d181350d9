"""Beyond one call and one machine: many problems, and one problem over an executor.

Everything that travels is JSON bytes, so any `concurrent.futures.Executor` serves: a process pool,
``distributed.Client.get_executor(pure=False)``, Parsl's. A problem is sent to a worker once and
found there by its hash afterwards.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TYPE_CHECKING, Any

from cpsched.result import Bound, Result

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.problem import ProblemBase

logger = logging.getLogger("cpsched")

#: Problems this (worker) process has seen, by hash; the oldest go first.
_seen: dict[str, Any] = {}
_SEEN_LIMIT = 64

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
    """What a worker runs for one task of a round; answers ``b""`` when it lacks the problem."""
    from cpsched.problem import loads
    from cpsched.solve import solve

    if key not in _seen:
        if problem is None:
            return b""
        while len(_seen) >= _SEEN_LIMIT:
            _seen.pop(next(iter(_seen)))
        _seen[key] = loads(problem)
    result = solve(_seen[key], **json.loads(request))
    out: dict[str, Any] = {"bounds": [b.to_dict() for b in result.bounds]}
    if result.schedule is not None:
        out |= {"schedule": result.schedule.to_dict(), "source": result.source}
    if result.status.value == "INFEASIBLE":
        out |= {"infeasible": result.message or "search"}
    return json.dumps(out).encode()


def search_over(run: Run, executor: Executor, tasks: int) -> None:
    """Search in rounds of ``tasks`` remote searches with different seeds from the best schedule.

    A round's answers are merged in the order of its tasks, so a deterministic run does not depend
    on which worker was faster. A lost worker costs its task of the round only.
    """
    key = run.problem.sha256()
    payload = run.problem.to_json().encode()
    sent = False
    seconds = 1.0
    number = 0
    while not run.done():
        left = run.clock.remaining()
        span = min(left, seconds)
        started = time.monotonic()
        futures: list[Future[bytes]] = []
        requests = [_request(run, span, 1 + number * tasks + i) for i in range(tasks)]
        try:
            futures = [
                executor.submit(improve_remotely, key, None if sent else payload, request)
                for request in requests
            ]
        except RuntimeError as error:
            run.error = f"the executor takes no more work: {error}"
            return
        answers = _gather(run, futures)
        for i, answer in enumerate(answers):
            if answer == b"" and not run.done():
                again = executor.submit(improve_remotely, key, payload, requests[i])
                answer = _gather(run, [again])[0]
            if answer:
                merge(run, json.loads(answer))
        sent = True
        number += 1
        run.clock.spend(span)
        # Short rounds share improvements early, long ones waste less on sending.
        seconds = min(10.0, seconds * 1.5)
        if time.monotonic() - started < 0.01 and not any(answers):
            run.error = "every worker of the executor was lost"
            return


def _request(run: Run, seconds: float, seed: int) -> bytes:
    hint = None if run.incumbent is None else run.incumbent.schedule.to_dict()
    settings = {
        "time_limit": max(0.05, seconds) if math.isfinite(seconds) else None,
        "objective": [o.name for o in run.objectives],
        "workers": 1,
        "seed": (run.seed * 1009 + seed) % 2**31,
        "hint": hint,
        "deterministic": run.deterministic,
    }
    return json.dumps(settings).encode()


def _gather(run: Run, futures: list[Future[bytes]]) -> list[bytes | None]:
    """The answers in order; None for a lost one, or one that the deadline left behind."""
    out: list[bytes | None] = []
    for future in futures:
        while not future.done() and run.clock.wall_remaining() > 0.0 and not run.clock.cancelled:
            wait([future], timeout=0.05)
        try:
            out.append(future.result(timeout=0) if future.done() else None)
        except Exception as error:
            logger.warning("a task was lost with its worker: %r", error)
            out.append(None)
        if not future.done():
            future.cancel()
    return out


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
