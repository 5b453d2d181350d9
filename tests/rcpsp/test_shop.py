"""Tabu search, dispatching and bounds of job shops and flexible job shops."""

from __future__ import annotations

import random
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest

import cpsched
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.rcpsp import (
    kernels_shop,
    kernels_shop_graph,
    kernels_shop_moves,
    search_shop,
    shop,
)
from cpsched.families.rcpsp.bound import bounds
from cpsched.families.rcpsp.prepare import Instance, prepare
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.result import Objective


def shop_problem(seed: int, jobs: int, machines: int, alternatives: int = 1) -> RcpspProblem:
    """A random shop; with alternatives every operation may choose among machines."""
    rng = random.Random(seed)
    tasks: list[dict[str, Any]] = []
    precedences = []
    for j in range(jobs):
        route = rng.sample(range(machines), machines)
        for k, machine in enumerate(route):
            others = rng.sample([m for m in range(machines) if m != machine], alternatives - 1)
            modes = [
                {"duration": rng.randint(1, 9), "demands": {f"M{m}": 1}} for m in (machine, *others)
            ]
            tasks.append({"id": f"{j}-{k}", "modes": modes})
            if k:
                precedences.append({"before": f"{j}-{k - 1}", "after": f"{j}-{k}"})
    resources = [{"name": f"M{k}"} for k in range(machines)]
    return RcpspProblem.parse({"tasks": tasks, "resources": resources, "precedences": precedences})


def begun(problem: RcpspProblem) -> tuple[Instance, Run]:
    """A prepared instance and a strict run that counts work instead of time."""
    clock, objectives = Clock(None, deterministic=True), (Objective("makespan"),)
    run = Run(problem, family("rcpsp"), objectives, clock, deterministic=True, strict=True)
    return prepare(problem, run), run


def optimum(problem: RcpspProblem) -> int:
    """The least makespan over all choices of modes and orders of operations, by recursion."""
    instance, _ = begun(problem)
    jobs = shop.jobs_of(instance)
    assert jobs is not None
    net = jobs.shop
    first = [i for i in range(jobs.n) if net.before[i] < 0]
    best = [10**9]

    def extend(ready: dict[int, int], free: dict[int, int], makespan: int) -> None:
        if makespan >= best[0]:
            return
        if not ready:
            best[0] = makespan
            return
        for i, at in list(ready.items()):
            for m in instance.modes(i):
                k = int(net.machine[m])
                end = max(at, free.get(k, 0)) + int(net.dur[m])
                rest = {j: t for j, t in ready.items() if j != i}
                if net.after[i] >= 0:
                    rest[int(net.after[i])] = end
                extend(rest, free | {k: end}, max(makespan, end))

    extend(dict.fromkeys(first, 0), {}, 0)
    return best[0]


def test_recognises_a_job_shop() -> None:
    """Chains of operations on single machines are a shop."""
    instance, _ = begun(shop_problem(1, 3, 3))
    jobs = shop.jobs_of(instance)
    assert jobs is not None
    assert (jobs.n, jobs.machines) == (9, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"resources": [{"name": "M0", "capacity": 2}, {"name": "M1"}]},
        {"horizon": 50},
        {"precedences": [{"before": "0-0", "after": "0-1", "min_lag": 2}]},
        {"disjunctive": [{"tasks": ["0-0", "1-1"]}]},
        {
            "precedences": [
                {"before": "0-0", "after": "0-1"},
                {"before": "0-0", "after": "1-1"},
            ]
        },
    ],
)
def test_leaves_other_problems_alone(change: dict[str, Any]) -> None:
    """Capacities above 1, dates, lags, disjunctive groups and joins are no plain shop."""
    data = shop_problem(1, 2, 2).model_dump(mode="json") | change
    instance, _ = begun(RcpspProblem.parse(data))
    assert shop.jobs_of(instance) is None


@pytest.mark.parametrize(("seed", "alternatives"), list(product(range(3), (1, 2))))
def test_tabu_search_reaches_the_optimum_of_tiny_shops(seed: int, alternatives: int) -> None:
    """Counted work suffices for shops that recursion over all orders can solve."""
    problem = shop_problem(seed, 3, 2 if alternatives > 1 else 3, alternatives)
    best = optimum(problem)
    instance, run = begun(problem)
    jobs = shop.jobs_of(instance)
    assert jobs is not None
    shop.dispatch(instance, jobs, run)
    before = run.value()
    bounds(instance, run)
    assert run.bound() is not None
    assert run.bound() <= best  # type: ignore[operator]
    search = shop.TabuSearch(instance, jobs, run, seed)
    for _ in range(20):
        search.step(run, 5e-4)
    assert before is not None
    assert run.value() == best <= before


@pytest.mark.parametrize("alternatives", [1, 2])
def test_moves_keep_schedules_valid(alternatives: int) -> None:
    """Whatever moves tabu search makes, its schedule passes the checker with its makespan."""
    problem = shop_problem(5, 5, 4, alternatives)
    instance, _ = begun(problem)
    jobs = shop.jobs_of(instance)
    assert jobs is not None
    order, work = kernels_shop_graph.order_of(jobs.n, 4), kernels_shop_graph.work_of(jobs.n, 40, 3)
    sequence, mode = np.zeros((2, jobs.n), np.int64)
    free = np.zeros(40, np.int64)
    made = kernels_shop.dispatch(jobs.shop, np.arange(jobs.n), free, 4, sequence, mode)
    kernels_shop_graph.load(jobs.shop, sequence, mode, order, np.zeros(4, np.int64))
    for _ in range(30):
        best = kernels_shop.tabu(jobs.shop, order, work, 3, 4)
        schedule = schedule_of(instance, work.head.tolist(), order.mode.tolist())
        report = cpsched.validate(problem, schedule)
        assert report.valid, report.violations
        assert schedule.makespan == work.state[3]
        head, tail = work.head.copy(), work.tail.copy()
        assert kernels_shop_graph.evaluate(jobs.shop, order, work) == work.state[3]
        assert head.tolist() == work.head.tolist()
        assert tail.tolist() == work.tail.tolist()
    assert best <= made


def test_estimates_never_close_a_cycle() -> None:
    """Every move that is not excluded leaves an acyclic graph."""
    problem = shop_problem(2, 4, 4)
    instance, _ = begun(problem)
    jobs = shop.jobs_of(instance)
    assert jobs is not None
    order, work = kernels_shop_graph.order_of(jobs.n, 4), kernels_shop_graph.work_of(jobs.n, 16, 3)
    sequence, mode = np.zeros((2, jobs.n), np.int64)
    free = np.zeros(16, np.int64)
    kernels_shop.dispatch(jobs.shop, np.arange(jobs.n), free, 4, sequence, mode)
    kernels_shop_graph.load(jobs.shop, sequence, mode, order, np.zeros(4, np.int64))
    tried = 0
    for u, v in permutations(range(jobs.n), 2):
        for behind in (True, False):
            kernels_shop_graph.evaluate(jobs.shop, order, work)
            on = [u]
            while order.next[on[-1]] >= 0:
                on.append(int(order.next[on[-1]]))
            if v not in on:
                continue
            arrays = (jobs.shop.before, jobs.shop.after, order.prev, order.next)
            arrays += (work.length, work.head, work.tail, work.reach, work.order_until)
            if behind:
                value, taken, to = kernels_shop_moves.later(*arrays, 0, u, v), u, v
            else:
                to = int(order.prev[u])
                value, taken = kernels_shop_moves.sooner(*arrays, 0, v, u), v
            if value < 0:
                continue
            tried += 1
            old = int(order.prev[taken])
            kernels_shop_graph.move(jobs.shop, order, taken, mode[taken], to)
            assert kernels_shop_graph.evaluate(jobs.shop, order, work) >= 0
            kernels_shop_graph.move(jobs.shop, order, taken, mode[taken], old)
    assert tried > 10


def test_relinking_gives_a_valid_order() -> None:
    """Averaged ranks respect the jobs: the child has no cycle."""
    instance, run = begun(shop_problem(4, 6, 4, 2))
    jobs = shop.jobs_of(instance)
    assert jobs is not None
    shop.dispatch(instance, jobs, run)
    search = shop.TabuSearch(instance, jobs, run, 0)
    elites = [shop.Elite(0, *search._random()) for _ in range(2)]
    for _ in range(20):
        sequence, mode = search._relink(*elites)
        order, work = (
            kernels_shop_graph.order_of(jobs.n, 4),
            kernels_shop_graph.work_of(jobs.n, 99, 0),
        )
        kernels_shop_graph.load(jobs.shop, sequence, mode, order, np.zeros(4, np.int64))
        assert kernels_shop_graph.evaluate(jobs.shop, order, work) > 0


def test_refuting_never_passes_the_optimum() -> None:
    """Steps of the refuter end with a bound and an incumbent equal to the brute-force optimum."""
    problem = shop_problem(7, 3, 3)
    instance, run = begun(problem)
    jobs = shop.jobs_of(instance)
    assert jobs is not None
    shop.dispatch(instance, jobs, run)
    bounds(instance, run)
    refuter = search_shop.Refuter(instance, run)
    while not run.done():
        refuter.advance(1)
    assert run.value() == run.bound() == optimum(problem)


@pytest.mark.parametrize("workers", [1, 2])
def test_solves_a_flexible_shop_to_optimality(workers: int) -> None:
    """The whole way from problem to proof, with one worker and with two."""
    problem = shop_problem(3, 3, 2, 2)
    result = cpsched.solve(problem, time_limit=20.0, workers=workers, strict=True)
    assert result.status.name == "OPTIMAL"
    assert result.objective == optimum(problem)


@pytest.mark.parametrize("alternatives", [1, 2])
def test_a_large_shop_has_a_schedule_at_once_without_compiled_kernels(
    alternatives: int, monkeypatch: Any
) -> None:
    """Where no dispatching rule ends in time, operations go by their heads."""
    monkeypatch.setattr(shop.jit, "slowdown", lambda *_: 400.0)
    monkeypatch.setattr(shop, "LOOK", 1.0)
    problem = shop_problem(3, 6, 4, alternatives)
    result = cpsched.solve(problem, time_limit=0.0, workers=1)
    assert result.status == "FEASIBLE"
    assert result.source == "greedy:heads"
