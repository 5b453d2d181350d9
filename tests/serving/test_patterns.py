"""Weights of states: what can be active at once, and the bounds that follow."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from cpsched.bound import recompute
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.serving import bound, greedy, kernels_pattern, patterns, priced
from cpsched.families.serving.prepare import prepare
from cpsched.families.serving.problem import Instance
from cpsched.result import Objective
from tests.serving.helpers import brute_force, problem, random_problem, requests


def fits(states, capacity):
    """Whether requests in such (held, left) fit until all have ended, round by round."""
    return all(
        sum(h + t for h, left in states if left >= t) <= capacity
        for t in range(1 + max((left for _, left in states), default=0))
    )


@pytest.mark.parametrize("seed", range(20))
def test_heaviest_set_matches_brute_force(seed):
    """The search over states finds the heaviest set that fits, and records it."""
    rng = random.Random(seed)
    states = sorted(
        {(rng.randint(1, 5), rng.randint(0, 4)) for _ in range(6)}, key=lambda s: (-s[1], s[0])
    )
    held, left = (np.array(x, np.int64) for x in zip(*states, strict=True))
    copies = np.array([rng.randint(1, 2) for _ in states], np.int64)
    weight = np.array([rng.randint(0, 9) for _ in states], np.int64)
    capacity, seats = rng.randint(4, 12), rng.randint(1, 5)
    best = 0
    for counts in itertools.product(*(range(c + 1) for c in copies)):
        chosen = [s for s, k in zip(states, counts, strict=True) for _ in range(k)]
        if len(chosen) <= seats and fits(chosen, capacity):
            best = max(best, int(np.dot(counts, weight)))
    sets = np.zeros((seats + 1, len(states)), np.int64)
    assert kernels_pattern.heaviest(held, left, copies, weight, capacity, seats, sets) == best
    assert int((sets @ weight).max()) == best
    for size, row in enumerate(sets):
        chosen = [s for s, k in zip(states, row.tolist(), strict=True) for _ in range(k)]
        assert fits(chosen, capacity)
        assert len(chosen) in (0, size)


def a_run(p, objective):
    """A run with the greedy schedules."""
    run = Run(p, family("serving"), [Objective(objective, False)], Clock(600.0), strict=True)
    q = prepare(p).weighing(objective)
    greedy.greedy(q, run)
    return q, run


def tight(seed, arrivals=True):
    """Few requests on an instance hardly larger than the largest peak."""
    p = random_problem(seed, 4, arrivals)
    peak = max(r.prompt + r.output for r in p.requests)
    return p.model_copy(update={"instances": (Instance(capacity=peak + seed % 3),)})


@pytest.mark.parametrize("seed", range(10))
def test_patterns_never_prove_too_much(seed):
    """The bounds of weights, alone and with prices, are below the optimum and recomputable."""
    p = tight(seed, seed % 2 == 1)
    for objective in ("total_latency", "makespan"):
        q, run = a_run(p, objective)
        found = bound.raise_configurations(q, run, objective, 5.0)
        assert found is not None
        if objective == "total_latency":
            priced.raise_priced(q, run, objective, found, 5.0)
        best = brute_force(p, makespan=objective == "makespan")
        given = {b.argument: b for b in run.bounds()}
        assert "configurations" in given
        for one in given.values():
            assert one.value <= best
            assert recompute(p, one) == one.value


@pytest.mark.parametrize("seed", range(6))
def test_any_weights_give_a_bound(seed):
    """Random weights never prove more than the optimum."""
    p = tight(50 + seed)
    q = prepare(p).weighing("total_latency")
    rng = np.random.default_rng(seed)
    weight = rng.integers(0, 100, len(q.states.held))
    pattern = patterns.Pattern(q.states.held, q.states.left, weight)
    assert bound.configurations(q, pattern, "total_latency") <= brute_force(p)
    assert bound.configurations(q, pattern, "makespan") <= brute_force(p, makespan=True)


def test_large_requests_exclude_each_other():
    """Requests that need most of the memory at their end run almost one after the other."""
    p = problem(requests(*[(2, 8)] * 4), 11)
    q, run = a_run(p, "makespan")
    volume = bound.value(q, "volume", "makespan")
    assert bound.raise_configurations(q, run, "makespan", 5.0) is not None
    assert run.bound(0) > 1.2 * volume
    assert run.bound(0) <= run.incumbent.values[0]
