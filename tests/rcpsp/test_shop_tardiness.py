"""Total weighted tardiness on one machine: rules, local search, the Lagrangian bound."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import cpsched
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.rcpsp import bound, kernels_tardiness, tardiness
from cpsched.families.rcpsp.prepare import Instance, prepare
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.result import Objective


def jobs(seed: int, n: int) -> RcpspProblem:
    """Jobs on one machine, most of which cannot be in time."""
    rng = random.Random(seed)
    tasks: list[dict[str, Any]] = [
        {
            "id": str(i),
            "modes": [{"duration": rng.randint(1, 9), "demands": {"M": 1}}],
            "due": rng.randint(0, 4 * n),
            "weight": rng.randint(1, 5),
        }
        for i in range(n)
    ]
    return RcpspProblem.parse(
        {"tasks": tasks, "resources": [{"name": "M"}], "objectives": ["weighted_tardiness"]}
    )


def begun(problem: RcpspProblem) -> tuple[Instance, Run, tardiness.Single]:
    """A prepared instance, a strict run that counts work, and the single machine."""
    clock, objectives = Clock(None, deterministic=True), (Objective("weighted_tardiness"),)
    run = Run(problem, family("rcpsp"), objectives, clock, deterministic=True, strict=True)
    instance = prepare(problem, run)
    single = tardiness.single_of(instance)
    assert single is not None
    return instance, run, single


def optimum(single: tardiness.Single) -> int:
    """The least cost over all orders."""
    return min(
        sum(
            int(single.weight[j]) * max(0, int(single.dur[list(order[: k + 1])].sum()) - due)
            for k, j in enumerate(order)
            for due in [int(single.due[j])]
        )
        for order in permutations(range(single.n))
    )


@pytest.mark.parametrize("seed", range(4))
def test_search_and_bound_enclose_the_optimum(seed: int) -> None:
    """Local search reaches the optimum of six jobs; the Lagrangian bound stays below it."""
    problem = jobs(seed, 6)
    instance, run, single = begun(problem)
    tardiness.dispatch(instance, single, run)
    first, best = run.value(), optimum(single)
    prices = tardiness.Prices(single, np.arange(single.n))
    while not run.done() and not prices.stalled:
        prices.step(run, 1e-5)
    local = tardiness.LocalSearch(instance, single, seed)
    local.step(run, 1e-4)
    assert first is not None
    assert run.value() == best <= first
    known = [b for b in run.bounds() if b.argument == "lagrangian"]
    assert known
    assert 0 < known[0].value <= best
    assert bound.recompute(problem, known[0]) == known[0].value


def test_local_search_is_never_worse_than_its_start() -> None:
    """Insertion and swap only lower the cost, and it is the cost of the order they leave."""
    _, _, single = begun(jobs(9, 25))
    one = (single.dur, single.due, single.weight)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(25)
        before = kernels_tardiness.cost_of(*one, order)
        ends, rng = np.zeros(25, np.int64), np.array([seed + 1])
        after = kernels_tardiness.improve(*one, order, ends, rng, kernels_tardiness.EVERY)
        assert sorted(order.tolist()) == list(range(25))
        assert after == kernels_tardiness.cost_of(*one, order) < before
        assert ends.tolist() == np.cumsum(single.dur[order]).tolist()
        part = np.random.default_rng(seed).permutation(25)
        short = kernels_tardiness.improve(*one, part, ends, np.array([seed + 1]), 3)
        assert after <= short == kernels_tardiness.cost_of(*one, part) <= before


def test_local_optimum_has_no_better_insertion() -> None:
    """After local search no single job has a better place."""
    _, _, single = begun(jobs(3, 9))
    one = (single.dur, single.due, single.weight)
    order = np.arange(9)
    ends, rng = np.zeros(9, np.int64), np.array([5])
    least = kernels_tardiness.improve(*one, order, ends, rng, kernels_tardiness.EVERY)
    for i in range(9):
        rest = [j for j in order.tolist() if j != order[i]]
        for k in range(9):
            other = np.array([*rest[:k], order[i], *rest[k:]])
            assert kernels_tardiness.cost_of(*one, other) >= least


def test_wrong_prices_are_refused() -> None:
    """A bound whose prices do not cover the horizon proves nothing."""
    problem = jobs(1, 5)
    data = {"prices": [1], "block": 1}
    claim = cpsched.result.Bound(7, "lagrangian", "weighted_tardiness", data)
    with pytest.raises(cpsched.ProblemError, match="prices"):
        bound.recompute(problem, claim)


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_in_numpy_is_that_of_the_kernel(seed: int, monkeypatch: Any) -> None:
    """Without compiled kernels the relaxation has the same value and takes the same time."""
    _, _, single = begun(jobs(seed, 12))
    rng, block = np.random.default_rng(seed), [1, 3, 7][seed % 3]
    blocks = -(-int(single.dur.sum()) // block) + seed % 2
    price = rng.integers(0, 5 * tardiness.SCALE, blocks)
    results = []
    for slower in (1.0, 400.0):
        monkeypatch.setattr(tardiness.jit, "slowdown", lambda *_, s=slower: s)
        busy = np.zeros(blocks, np.int64)
        results.append((tardiness.relaxed(single, price, block, busy), busy.tolist()))
    assert results[0] == results[1]
    assert sum(results[0][1]) == int(single.dur.sum())


def test_rules_order_every_job_once() -> None:
    """All dispatching rules give permutations, and earliest due date sorts due dates."""
    _, _, single = begun(jobs(2, 12))
    found = dict(tardiness.orders(single))
    assert set(found) == {"edd", "mdd", "atc", "imdd"}
    for order in found.values():
        assert sorted(order.tolist()) == list(range(12))
    assert (np.diff(single.due[found["edd"]]) >= 0).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_solves_to_optimality(workers: int) -> None:
    """The whole way from problem to proof."""
    problem = jobs(6, 6)
    result = cpsched.solve(problem, time_limit=20.0, workers=workers, strict=True)
    assert result.status.name == "OPTIMAL"
    assert result.objective == optimum(begun(problem)[2])
