"""Process isolation: a worker that dies costs the caller nothing but the search."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import cpsched
from cpsched.core import isolate
from cpsched.result import Status, StopReason

HOUSE = Path(__file__).resolve().parents[2] / "instances" / "rcpsp" / "house.json"


@pytest.fixture(autouse=True)
def fresh_workers():
    """Every test starts without a warm worker and leaves none behind."""
    drop_workers()
    yield
    drop_workers()


def drop_workers() -> None:
    while isolate._idle_workers:
        isolate._idle_workers.pop().kill()


def hard_problem():
    """A project that is not proved optimal within a few seconds."""
    from cpsched.families import family

    make = {g.name: g for g in family("rcpsp").generators}["project"]
    defaults = {key: value for key, (value, _) in make.options.items()}
    return make.make(defaults | {"tasks": "200", "seed": "5"})


def test_isolated_search_solves():
    """The worker's schedules and bounds arrive, and the status is proved."""
    problem = cpsched.load(HOUSE)
    objectives = ["makespan", "weighted_flow_time"]
    result = cpsched.solve(
        problem, time_limit=30, objective=objectives, workers=1, isolation="process"
    )
    here = cpsched.solve(problem, time_limit=30, objective=objectives, workers=1)
    assert result.status is here.status is Status.OPTIMAL
    assert result.objective == here.objective


def test_the_worker_stays_warm():
    """A second call uses the same worker process."""
    first = None
    problem = cpsched.load(HOUSE)
    for _ in range(2):
        cpsched.solve(
            problem,
            time_limit=30,
            objective="weighted_flow_time",
            workers=1,
            isolation="process",
        )
        first = first or isolate._idle_workers[-1].process.pid
    assert isolate._idle_workers[-1].process.pid == first


def test_killed_worker_keeps_the_schedule():
    """SIGKILL of the worker leaves the greedy schedule and stop reason 'error'."""

    def kill() -> None:
        for _ in range(500):
            for worker in _running_workers:
                os.kill(worker.process.pid, signal.SIGKILL)
                return
            time.sleep(0.01)

    _running_workers: list[isolate.Worker] = []
    original = isolate.Worker.post

    def post(self, message):
        _running_workers.append(self)
        return original(self, message)

    isolate.Worker.post = post
    try:
        thread = threading.Thread(target=kill)
        thread.start()
        result = cpsched.solve(hard_problem(), time_limit=30, workers=1, isolation="process")
        thread.join()
    finally:
        isolate.Worker.post = original
    assert result.schedule is not None
    assert result.stop_reason is StopReason.ERROR
    assert "worker process died" in result.message


def test_memory_limit_keeps_the_schedule(monkeypatch):
    """A worker that may not have memory fails alone."""
    monkeypatch.setenv("CPSCHED_WORKER_MEMORY", str(150 * 2**20))
    result = cpsched.solve(hard_problem(), time_limit=5, workers=1, isolation="process")
    assert result.schedule is not None
    assert cpsched.validate(hard_problem(), result.schedule).valid
