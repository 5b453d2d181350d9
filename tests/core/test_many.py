"""Many problems and one problem over executors: same results, lost workers cost only time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor

import pytest

import cpsched
from cpsched import many
from cpsched.families import family
from cpsched.result import Status


def shop(seed: int, jobs: int = 4, machines: int = 3):
    """A small random job shop."""
    make = {g.name: g for g in family("rcpsp").generators}["shop"]
    defaults = {key: value for key, (value, _) in make.options.items()}
    return make.make(defaults | {"jobs": str(jobs), "machines": str(machines), "seed": str(seed)})


PROBLEMS = [shop(seed) for seed in range(3)]
SETTINGS = {"time_limit": 30.0, "workers": 1}


@pytest.fixture(scope="module")
def here():
    """Optimal values, solved in this process."""
    results = cpsched.solve_many(PROBLEMS, **SETTINGS)
    assert {r.status for r in results} == {Status.OPTIMAL}
    return [r.objective for r in results]


@pytest.fixture(scope="module")
def pool():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        yield executor


@pytest.fixture(scope="module")
def dask():
    """A real local cluster of two worker processes."""
    distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


class Inline(Executor):
    """Runs every task at once and keeps what was sent."""

    def __init__(self, lose: int = 0) -> None:
        self.sent: list[tuple] = []
        self.lose = lose

    def submit(self, function, /, *args, **settings):
        self.sent.append(args)
        future: Future = Future()
        if self.lose > 0:
            self.lose -= 1
            future.set_exception(ConnectionError("the worker was lost"))
        else:
            future.set_result(function(*args, **settings))
        return future


def test_process_pool(here, pool):
    """A process pool gives the results of this process, in order."""
    results = cpsched.solve_many(PROBLEMS, pool, **SETTINGS)
    assert [r.objective for r in results] == here
    assert all(
        cpsched.validate(p, r.schedule).valid for p, r in zip(PROBLEMS, results, strict=True)
    )


def test_dask_cluster(here, dask):
    """A Dask cluster gives the same results, also for equal problems."""
    executor = dask.get_executor(pure=False)
    results = cpsched.solve_many([*PROBLEMS, PROBLEMS[0]], executor, **SETTINGS)
    assert [r.objective for r in results] == [*here, here[0]]


def test_dask_worker_is_killed(here, dask):
    """Killing a Dask worker process changes nothing but time."""
    pids = list(dask.run(os.getpid).values())
    threading.Timer(0.3, os.kill, (pids[0], signal.SIGKILL)).start()
    executor = dask.get_executor(pure=False)
    results = cpsched.solve_many(PROBLEMS * 2, executor, **SETTINGS)
    assert [r.objective for r in results] == here * 2


def test_pool_worker_is_killed(here):
    """A killed pool worker breaks the pool; the rest is solved here."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        executor.submit(os.getpid).result()

        def kill() -> None:
            time.sleep(0.1)
            for pid in list(executor._processes):
                os.kill(pid, signal.SIGKILL)
                return

        threading.Thread(target=kill).start()
        results = cpsched.solve_many(PROBLEMS, executor, **SETTINGS)
    assert [r.objective for r in results] == here


def test_lost_tasks_are_sent_again(here):
    """A task that fails with its worker is sent again."""
    executor = Inline(lose=2)
    results = cpsched.solve_many(PROBLEMS, executor, **SETTINGS)
    assert [r.objective for r in results] == here
    assert len(executor.sent) == len(PROBLEMS) + 2


def test_everything_is_lost(here):
    """When every attempt fails, the problems are solved here."""
    executor = Inline(lose=10**6)
    results = cpsched.solve_many(PROBLEMS[:2], executor, **SETTINGS)
    assert [r.objective for r in results] == here[:2]


def test_payloads_are_bytes():
    """Nothing but bytes travels: any executor can carry it."""
    executor = Inline()
    cpsched.solve_many(PROBLEMS[:1], executor, **SETTINGS)
    assert all(isinstance(a, bytes) for args in executor.sent for a in args)


def test_one_problem_over_an_executor(pool):
    """One problem is searched in rounds over the executor, to the same optimum."""
    problem = shop(9, 5, 4)
    there = cpsched.solve(problem, time_limit=30, workers=2, executor=pool)
    best = cpsched.solve(problem, time_limit=30, workers=1)
    assert there.objective == best.objective


def hard():
    """A project that is not proved optimal in a few rounds."""
    make = {g.name: g for g in family("rcpsp").generators}["project"]
    defaults = {key: value for key, (value, _) in make.options.items()}
    return make.make(defaults | {"tasks": "120", "seed": "5"})


def test_the_problem_is_sent_once(monkeypatch):
    """After the first round only its hash is sent."""
    monkeypatch.setattr(many, "improve_remotely", lambda *args: b'{"bounds": []}')
    executor = Inline()
    cpsched.solve(hard(), time_limit=1, workers=2, executor=executor)
    bodies = [args[1] for args in executor.sent]
    assert sum(body is not None for body in bodies) == 2
    assert len(bodies) > 2


def test_a_worker_without_the_problem_asks_for_it():
    """The answer to an unknown hash is empty."""
    many._seen.clear()
    assert many.improve_remotely("unknown", None, b"{}") == b""


def test_lost_worker_costs_its_task_only():
    """A lost task of a round leaves the other tasks' answers."""
    problem = hard()
    result = cpsched.solve(problem, time_limit=3, workers=2, executor=Inline(lose=1))
    assert cpsched.validate(problem, result.schedule).valid


def test_deterministic_over_an_executor():
    """A deterministic run over an executor gives the same schedule twice."""
    problem = shop(5, 8, 4)
    found = [
        cpsched.solve(
            problem, time_limit=5, workers=2, executor=Inline(), deterministic=True, seed=3
        )
        for _ in range(2)
    ]
    if all(r.environment["deterministic"] for r in found):
        assert found[0].schedule == found[1].schedule
