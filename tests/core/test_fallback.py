"""The fallback step: never worse, counted, rested when hopeless, and no crash of the host."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import pytest

import cpsched
from cpsched.core import isolate
from cpsched.errors import ProblemError

HOUSE = Path(__file__).resolve().parents[2] / "instances" / "rcpsp" / "house.json"


@pytest.fixture(scope="module")
def house():
    return cpsched.load(HOUSE)


@pytest.fixture(scope="module")
def best(house):
    return cpsched.solve(house, time_limit=30, workers=1)


def slow(house):
    """Every task after the one before it."""
    time, tasks = 0, []
    for task in house.tasks:
        end = time + task.modes[0].duration
        tasks.append({"task": task.id, "start": time, "end": end})
        time = end
    return {"tasks": tasks, "makespan": time}


def wrap(primary, **settings):
    settings = {"time_limit": 20.0, "isolation": "none", "workers": 1} | settings
    return cpsched.fallback(primary, family="rcpsp", **settings)


def test_improves_a_poor_primary(house, best):
    """A valid but poor answer is improved, and counted."""
    place = wrap(slow)
    result = place(house)
    assert result.objective == best.objective
    assert place.counters.improvements == 1


def test_certifies_an_optimal_primary(house, best):
    """An optimal answer comes back unchanged with a certificate."""
    place = wrap(lambda problem: best)
    result = place(house)
    assert result.certified
    assert result.diff == []
    assert place.counters.certificates == 1
    assert place.counters.improvements == 0


@pytest.mark.parametrize("answer", [None, 7, {"tasks": [{"task": 1}]}, {"pods": []}])
def test_nonsense_from_the_primary(house, best, answer):
    """An answer that is no schedule is an error of the primary; one is found all the same."""
    place = wrap(lambda problem: answer)
    assert place(house).objective == best.objective
    assert place.counters.errors == 1


def test_raising_primary(house, best):
    """A primary that raises costs the host nothing."""

    def primary(problem):
        raise RuntimeError("no")

    place = wrap(primary)
    assert place(house).objective == best.objective
    assert place.counters.errors == 1


def test_half_a_schedule(house, best):
    """What is left out is placed, and the violations are named."""

    def half(problem):
        return {"tasks": slow(problem)["tasks"][::2], "makespan": 0}

    result = wrap(half)(house)
    assert result.objective == best.objective
    assert not result.initial["valid"]
    assert result.initial["violations"]


def test_small_gains_are_not_searched_for(house, best):
    """With min_gap the search stops where bounds show that little can be gained."""
    place = wrap(lambda problem: best, min_gap=0.9)
    assert place(house).objective == best.objective
    assert place.counters.timeouts == 0


def hard():
    """A project that is not proved optimal soon."""
    from cpsched.families import family

    make = {g.name: g for g in family("rcpsp").generators}["project"]
    defaults = {key: value for key, (value, _) in make.options.items()}
    return make.make(defaults | {"tasks": "150", "seed": "5"})


def test_circuit_opens_and_closes():
    """After searches without gain valid answers pass at once, until the cool-down is over."""
    problem = hard()
    given = cpsched.solve(problem, time_limit=3, workers=1)
    place = wrap(lambda problem: given, time_limit=0.02, failures=2, cooldown=0.3)
    for _ in range(2):
        place(problem)
    if place.counters.timeouts < 2:
        pytest.skip("this machine improved or proved the plan in 20 ms")
    assert place.open
    assert place(problem).schedule is not None
    assert place.counters.skipped == 1
    time.sleep(0.35)
    assert not place.open


def test_open_circuit_still_places_what_is_missing():
    """While the circuit is open an invalid answer is repaired all the same."""
    problem = hard()
    place = wrap(lambda problem: {"tasks": [], "makespan": 0}, time_limit=1.0)
    place._streak, place._closed_at = place.failures, time.monotonic() + 100
    assert place.open
    result = place(problem)
    assert cpsched.validate(problem, result.schedule).valid


def test_wrong_kind_and_arguments(house):
    """Another kind, and arguments out of range, are refused by name."""
    place = cpsched.fallback(slow, family="pods", isolation="none")
    with pytest.raises(ProblemError, match="kind pods"):
        place(house)
    with pytest.raises(ProblemError, match="time_limit"):
        wrap(slow, time_limit=0)
    with pytest.raises(ProblemError, match="failures"):
        wrap(slow, failures=0)
    with pytest.raises(ProblemError, match="kind must be one of"):
        cpsched.fallback(slow, family="trains")


def test_worker_is_started_with_the_fallback(house):
    """The worker process starts when the fallback is made, not within the first call's time."""
    before = set(isolate._idle_workers)
    wrap(slow, isolation="process")
    assert isolate._idle_workers
    for worker in set(isolate._idle_workers) - before:
        isolate._idle_workers.remove(worker)
        worker.kill()


def test_killed_worker(house):
    """SIGKILL of the worker in the middle of a search leaves a checked answer."""
    problem = hard()
    place = wrap(slow, isolation="process", time_limit=1.5)
    worker = isolate._idle_workers[-1]
    timer = threading.Timer(0.7, os.kill, (worker.process.pid, signal.SIGKILL))
    timer.start()
    result = place(problem)
    timer.join()
    assert cpsched.validate(problem, result.schedule).valid


def test_stopped_worker_does_not_hold_up_the_host():
    """A worker that reads nothing cannot block the host, however large the problem is."""
    worker = isolate.Worker()
    os.kill(worker.process.pid, signal.SIGSTOP)
    done = threading.Event()

    def post() -> None:
        worker.post({"problem": "x" * 2_000_000})
        done.set()

    threading.Thread(target=post, daemon=True).start()
    assert done.wait(30)
    worker.kill()


def test_counters_are_plain_data(house, best):
    """Counters can be read as a dict at any time."""
    place = wrap(lambda problem: best)
    place(house)
    counters = place.counters.to_dict()
    assert counters["calls"] == 1
    assert set(counters) == {f.name for f in dataclasses.fields(place.counters)}
