"""The worker process of `cpsched.core.isolate`: reads problems, reports schedules and bounds."""

from __future__ import annotations

import os
import sys
import threading
from typing import IO, Any

from cpsched.core.isolate import receive, send

#: Bytes of address space the worker may use; CPSCHED_WORKER_MEMORY overrides it.
MEMORY_LIMIT = 16 * 2**30


def main() -> None:
    """Serve searches until the host closes the pipe."""
    reports = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not end up between the messages.
    os.dup2(2, 1)
    _limit_memory(int(os.environ.get("CPSCHED_WORKER_MEMORY", MEMORY_LIMIT)))
    from ortools.sat.python import cp_model  # noqa: F401  warm: imported before the first request

    stop = threading.Event()
    requests: list[dict[str, Any]] = []
    arrived = threading.Condition()
    threading.Thread(target=_listen, args=(requests, arrived, stop), daemon=True).start()
    while True:
        with arrived:
            arrived.wait_for(lambda: requests)
            request = requests.pop(0)
        _serve(request, reports, stop)


def _listen(
    requests: list[dict[str, Any]], arrived: threading.Condition, stop: threading.Event
) -> None:
    while True:
        message = receive(sys.stdin.buffer)
        if message is None:
            os._exit(0)
        if message.get("cancel"):
            stop.set()
            continue
        stop.clear()
        with arrived:
            requests.append(message)
            arrived.notify()


def _serve(request: dict[str, Any], reports: IO[bytes], stop: threading.Event) -> None:
    from cpsched.problem import problem_from
    from cpsched.solve import solve

    def report(incumbent: Any) -> None:
        send(reports, {"schedule": incumbent.schedule.to_dict(), "source": incumbent.source})

    try:
        result = solve(
            problem_from(request["problem"]),
            time_limit=request["time_limit"],
            objective=request["objectives"],
            workers=request["workers"],
            seed=request["seed"],
            gap_limit=request["gap_limit"],
            deterministic=request["deterministic"],
            hint=request["hint"],
            on_improvement=report,
            stop=stop,
        )
        final: dict[str, Any] = {"bounds": [b.to_dict() for b in result.bounds], "done": True}
        if result.status.value == "INFEASIBLE":
            final |= {"infeasible": "cp-sat", "message": result.message}
        elif result.stop_reason.value == "error":
            final["error"] = result.message
        send(reports, final)
    except Exception as error:
        send(reports, {"done": True, "error": f"{type(error).__name__}: {error}"})


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # not on this platform
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
