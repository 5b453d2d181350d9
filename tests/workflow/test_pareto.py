"""Pareto fronts against full enumeration."""

from __future__ import annotations

import itertools

import pytest

from cpsched.errors import ProblemError
from cpsched.families.workflow import terms
from cpsched.families.workflow.generate import agent
from cpsched.pareto import pareto
from tests.workflow.helpers import problem


def enumerated(p):
    """The non-dominated (makespan, cost) of all option choices on an unlimited machine."""
    needs = {(e.source, e.target) for e in p.edges}
    points = set()
    for choice in itertools.product(*(t.choices for t in p.tasks)):
        end = {}
        for task, option in zip(p.tasks, choice, strict=True):
            begin = max((end[u] for u, v in needs if v == task.id), default=0.0)
            end[task.id] = begin + option.work
        points.add((max(end.values()), sum(terms.own_use(o, "cost") for o in choice)))
    return sorted(
        a for a in points if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in points)
    )


@pytest.mark.parametrize("seed", range(2))
def test_front_is_the_enumerated_one(seed):
    """The front of makespan and cost is that of full enumeration, and complete."""
    p = agent(5, 2, 2, 1.0, seed)
    p = p.model_copy(update={"budgets": type(p.budgets)(), "deadline": None})
    front = pareto(p, ["makespan", "cost"], time_limit=30, workers=2)
    assert front.complete
    assert [tuple(v) for v in front.values] == enumerated(p)


def test_maximised_objective():
    """Success against cost: success falls along the front and so does the cost."""
    p = agent(3, 2, 2, 1.0, 0)
    front = pareto(p, ["log_success", "cost"], time_limit=30, workers=2)
    assert front.complete
    chances, costs = zip(*front.values, strict=True)
    assert list(chances) == sorted(chances, reverse=True)
    assert list(costs) == sorted(costs, reverse=True)
    assert len(costs) > 2


def test_three_objectives_do_not_dominate_each_other():
    """With three objectives no point is at most another one everywhere."""
    p = agent(3, 2, 1, 1.0, 2)
    front = pareto(p, ["makespan", "cost", "log_success"], time_limit=30, workers=2)
    assert front.complete
    values = [(a, b, -c) for a, b, c in front.values]
    for one, other in itertools.permutations(values, 2):
        assert not all(x <= y for x, y in zip(one, other, strict=True))


def test_front_needs_two_objectives():
    """One objective alone is refused."""
    with pytest.raises(ProblemError, match="two or more"):
        pareto(problem(tasks=[{"id": "a", "work": 1}]), ["makespan"])
