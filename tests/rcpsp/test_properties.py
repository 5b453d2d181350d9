"""Metamorphic properties: changes of a problem move its optimum the right way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

import cpsched
from cpsched.families.rcpsp.problem import RcpspProblem
from tests.rcpsp.random_problems import random_problem

FEATURES = ("modes", "lags", "windows", "reservoir", "disjunctive", "optional", "selection")
QUICK = settings(max_examples=12, deadline=None, derandomize=True)


def optimum(problem: RcpspProblem, objective: str = "makespan") -> float:
    """The proved optimum, infinity when infeasible."""
    result = cpsched.solve(problem, 20.0, workers=1, strict=True, objective=objective)
    assert result.stop_reason == "proved"
    return float("inf") if result.objective is None else result.objective


@given(st.integers(0, 10**6))
@QUICK
def test_relabelling_changes_nothing(seed):
    """The order of tasks, precedences and resources does not matter."""
    problem = random_problem(seed, FEATURES)
    turned = problem.model_copy(
        update={
            "tasks": problem.tasks[::-1],
            "resources": problem.resources[::-1],
            "precedences": problem.precedences[::-1],
        }
    )
    assert optimum(problem) == optimum(turned)


@given(st.integers(0, 10**6), st.integers(2, 5))
@QUICK
def test_scaling_time_scales_the_makespan(seed, factor):
    """With all times multiplied the optimum is multiplied."""
    problem = random_problem(seed, FEATURES)
    data = problem.to_dict()
    for task in data["tasks"]:
        for mode in task["modes"]:
            mode["duration"] *= factor
        for field in ("release", "deadline", "due"):
            if task.get(field) is not None:
                task[field] *= factor
    for p in data.get("precedences", ()):
        p["min_lag"] = factor * p.get("min_lag", 0) if p.get("min_lag", 0) is not None else None
        if p.get("max_lag") is not None:
            p["max_lag"] *= factor
    assert optimum(RcpspProblem.parse(data)) == factor * optimum(problem)


@given(st.integers(0, 10**6))
@QUICK
def test_more_capacity_never_hurts(seed):
    """Raising a capacity does not raise the optimum."""
    problem = random_problem(seed, FEATURES)
    richer = problem.model_copy(
        update={
            "resources": tuple(
                r.model_copy(update={"capacity": r.capacity + 1}) for r in problem.resources
            )
        }
    )
    for objective in ("makespan", "weighted_tardiness"):
        assert optimum(richer, objective) <= optimum(problem, objective)


@given(st.integers(0, 10**6))
@QUICK
def test_redundant_precedence_changes_nothing(seed):
    """Repeating a precedence, or stating what follows from two, changes nothing."""
    problem = random_problem(seed, ("modes", "windows"))
    chains = [
        {"before": p.before, "after": q.after}
        for p in problem.precedences
        for q in problem.precedences
        if p.after == q.before
    ]
    data = problem.to_dict()
    data["precedences"] = [*data.get("precedences", ()), *chains, *data.get("precedences", ())]
    assert optimum(RcpspProblem.parse(data)) == optimum(problem)


@given(st.integers(0, 10**6))
@QUICK
def test_a_bound_is_never_above_the_optimum(seed):
    """Bounds found without a search hold, and are recomputed from their argument alone."""
    from cpsched.bound import recompute

    problem = random_problem(seed)
    best = optimum(problem)
    for bound in cpsched.bound(problem, 2.0):
        assert bound.value <= best
        assert recompute(problem, bound) == bound.value
