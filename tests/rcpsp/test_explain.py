"""Explanations: the named set is infeasible, and every member of it is needed."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.families.rcpsp.explain import constraints, restrict
from cpsched.families.rcpsp.problem import RcpspProblem
from tests.rcpsp.random_problems import random_problem

TIGHT = {
    "tasks": [
        {"id": "a", "modes": [{"duration": 3, "demands": {"R": 1}}], "deadline": 4},
        {"id": "b", "modes": [{"duration": 2, "demands": {"R": 1}}], "deadline": 4},
        {"id": "c", "modes": [{"duration": 1, "demands": {"S": 1}}], "release": 2},
    ],
    "resources": [{"name": "R"}, {"name": "S"}],
    "precedences": [{"before": "c", "after": "a", "min_lag": -9}],
    "time_unit": "days",
}


def test_conflict_names_what_is_to_blame():
    """Two deadlines and a machine conflict; the rest is innocent."""
    explanation = cpsched.explain(RcpspProblem.parse(TIGHT), workers=1)
    assert explanation.minimal
    assert {c.name for c in explanation.conflict} == {"capacity:R", "deadline:a", "deadline:b"}
    assert "Task 'a' ends at 4 days or earlier, its deadline." in str(explanation)


def test_feasible_problem_needs_no_explanation():
    """A problem with a schedule is said to have one."""
    data = TIGHT | {"resources": [{"name": "R", "capacity": 2}, {"name": "S"}]}
    assert cpsched.explain(RcpspProblem.parse(data), workers=1).status == "FEASIBLE"


def infeasible_problems():
    """Some random infeasible problems of all kinds."""
    found = 0
    for seed in range(100):
        problem = random_problem(seed).model_copy(update={"horizon": 6})
        if cpsched.solve(problem, 10.0, workers=1, objective=[]).status == "INFEASIBLE":
            yield problem
            found += 1
            if found == 6:
                return


def test_every_member_is_needed():
    """Dropping any member of the set makes a schedule possible; the set alone has none."""
    count = 0
    for problem in infeasible_problems():
        explanation = cpsched.explain(problem, workers=1)
        assert explanation.minimal
        names = frozenset(c.name for c in explanation.conflict)
        alone = cpsched.solve(restrict(problem, names), 10.0, workers=1, objective=[])
        assert alone.status == "INFEASIBLE"
        for name in names:
            rest = restrict(problem, names - {name})
            assert cpsched.solve(rest, 10.0, workers=1, objective=[]).schedule is not None
        count += 1
    assert count == 6


@pytest.mark.parametrize("seed", range(5))
def test_names_are_unique_and_all_keep_the_problem(seed):
    """Constraint names do not repeat, and keeping all of them changes nothing."""
    problem = random_problem(seed)
    names = [c.name for c in constraints(problem)]
    assert len(set(names)) == len(names)
    assert restrict(problem, frozenset(names)) == problem
