"""The preemptive relaxation: no bound above the optimum, weights that prove it on their own."""

import itertools

import numpy as np
import pytest

import cpsched
from cpsched.core.clock import Clock
from cpsched.errors import ProblemError
from cpsched.families import family
from cpsched.families.rcpsp import bound as bounds
from cpsched.families.rcpsp import preemptive
from cpsched.families.rcpsp.kernels_preemptive import heaviest, price
from cpsched.families.rcpsp.prepare import prepare
from cpsched.result import Status
from tests.rcpsp.random_problems import random_problem
from tests.rcpsp.test_bounds import optimum, scarce_problem
from tests.rcpsp.test_kernels import run_of


def climb(instance, low):
    """The largest bound of the relaxation, from a bound on."""
    relaxation = preemptive.Relaxation(instance)
    best = None
    while True:
        status, weight = relaxation.refute(low, Clock(None), lambda: False)
        if status != "INFEASIBLE":
            return best
        best = preemptive.bound_of(instance, low, weight)
        low += 1


@pytest.mark.parametrize("seed", range(8))
def test_never_above_the_optimum(seed):
    """On tiny projects brute force finds nothing better, and each bound is proved again."""
    problem = scarce_problem(seed)
    run = run_of(problem)
    instance = prepare(problem, run)
    found = climb(instance, int((instance.head + instance.tail).max()))
    if found is not None:
        assert found.value <= optimum(instance, run)
        assert bounds.recompute(problem, found) == found.value


def test_it_raises_some_bound():
    """On some of these projects it proves more than the longest chain."""
    raised = 0
    for seed in range(8):
        problem = scarce_problem(seed)
        instance = prepare(problem, run_of(problem))
        raised += climb(instance, int((instance.head + instance.tail).max())) is not None
    assert raised >= 4


@pytest.mark.parametrize("seed", range(10))
def test_never_above_the_optimum_under_all_rules(seed):
    """Modes, optional tasks, breaks, dates and lags only add to what it relaxes."""
    problem = random_problem(seed, n=4)
    result = cpsched.solve(problem, time_limit=20, objective="makespan", workers=1)
    if result.status is not Status.OPTIMAL:
        return
    instance = prepare(problem, run_of(problem))
    found = climb(
        instance, int(np.where(instance.optional, 0, instance.head + instance.tail).max())
    )
    assert found is None or found.value <= result.objective


@pytest.mark.parametrize("seed", range(20))
def test_heaviest_set_equals_enumeration(seed):
    """The kernel's set is the heaviest of all that fit and do not clash."""
    rng = np.random.default_rng(seed)
    n = 8
    weight, need = rng.integers(0, 20, n), rng.integers(0, 4, (n, 2))
    free = np.array([5, 4])
    clash = rng.random((n, n)) < 0.2
    clash |= clash.T
    items = np.array([i for i in range(n) if (need[i] <= free).all()])
    best = max(
        weight[list(chosen)].sum()
        for size in range(len(items) + 1)
        for chosen in itertools.combinations(items.tolist(), size)
        if (need[list(chosen)].sum(axis=0) <= free).all()
        and not any(clash[i, j] for i, j in itertools.combinations(chosen, 2))
    )
    found = np.zeros(n, np.int64)
    value, size = heaviest(items, len(items), weight, need, free, clash, 10_000, found).tolist()
    assert value == best == weight[found[:size]].sum()


def test_given_up_search_still_bounds():
    """With no nodes to spend the answer is an upper bound."""
    weight, need = np.array([3, 2, 2]), np.array([[2], [1], [1]])
    found = np.zeros(3, np.int64)
    clash = np.zeros((3, 3), bool)
    args = (weight, need, np.array([3]), clash, np.arange(3), np.zeros(3, bool))
    assert price(*args, 0, found)[0] >= 5 == price(*args, 100, found)[0]


def test_wrong_weights_are_refused():
    """A bound whose weights do not prove it is not recomputed."""
    problem = scarce_problem(0)
    instance = prepare(problem, run_of(problem))
    weight = np.ones(instance.n, np.int64)
    with pytest.raises(ProblemError, match="weights"):
        bounds.recompute(problem, preemptive.bound_of(instance, 10_000, weight))


def test_it_raises_a_run_bound():
    """The relaxation raises a run's bound, with its own argument."""
    problem = scarce_problem(6, n=12)
    run = run_of(problem)
    instance = prepare(problem, run)
    bounds.bounds(instance, run)
    family("rcpsp").greedy(instance, run)
    before = run.bound()
    preemptive.raise_bound(instance, run)
    assert before < run.bound() <= run.value()
    assert run.bounds()[0].argument == "preemptive"


def test_bound_shows_it():
    """`cpsched.bound` needs no schedule to give it."""
    found = cpsched.bound(scarce_problem(6, n=12))
    assert found[0].argument == "preemptive"
    assert bounds.recompute(scarce_problem(6, n=12), found[0]) == found[0].value
