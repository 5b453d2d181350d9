"""Budgeted agent workflows: the plan, the replanning loop, the baselines."""

from __future__ import annotations

import itertools

import pytest

from cpsched.families.workflow import agents, terms
from cpsched.families.workflow.generate import agent
from cpsched.families.workflow.problem import WorkflowProblem
from tests.workflow.helpers import problem, solved


def enumerated(p: WorkflowProblem) -> float:
    """The best log success over all option choices within budget and deadline."""
    needs = {(e.source, e.target) for e in p.edges}
    best = -float("inf")
    for choice in itertools.product(*(t.choices for t in p.tasks)):
        end: dict[str, float] = {}
        for task, option in zip(p.tasks, choice, strict=True):
            begin = max((end[u] for u, v in needs if v == task.id), default=0.0)
            end[task.id] = begin + (option.work or 0.0)
        cost = sum(terms.own_use(o, "cost") for o in choice)
        if cost <= p.budgets.cost and max(end.values()) <= p.deadline:
            best = max(best, sum(map(terms.log_success, choice)))
    return best


@pytest.mark.parametrize("seed", range(3))
def test_plan_is_the_enumerated_optimum(seed):
    """Budget and deadline hold and no choice of options succeeds more often."""
    p = agent(5, 2, 2, 0.4, seed)
    result = solved(p, objective="log_success")
    assert result.status == "OPTIMAL"
    assert result.objective == pytest.approx(enumerated(p))


def test_parallel_branches_reserve_their_spend():
    """What runs in parallel is reserved in full, so that the budget cannot be overshot."""
    p = problem(
        tasks=[
            {"id": k, "options": [
                {"work": 1, "cost": 1, "success": 0.5}, {"work": 1, "cost": 3, "success": 0.9},
            ]}
            for k in "abc"
        ],
        machines=[{"name": "api", "cores": 3}],
        budgets={"cost": 6},
        objectives=["log_success"],
    )  # fmt: skip
    chosen = sorted(t.option for t in solved(p).schedule.tasks)
    assert chosen == [0, 0, 1]


def test_remaining_problem():
    """Finished tasks and spent money are gone, running tasks are fixed."""
    p = agent(5, 2, 2, 0.5, 1)
    state = agents.State(now=3.0, done={"t0": 3.0}, running={"t1": (0, 5.0)}, spent=20.0)
    left = agents.remaining_problem(p, state)
    assert [t.id for t in left.tasks] == ["t1", "t2", "t3", "t4"]
    assert left.tasks[0].work == 2.0
    assert left.budgets.cost == p.budgets.cost - 20
    assert left.deadline == p.deadline - 3


def test_replanning_beats_the_baselines():
    """The planner succeeds at least as often as both baselines on the same random numbers."""
    p = agent(10, 3, 2, 0.12, 0)
    planner = agents.replay(p, agents.Planner(1.0), 40)
    for baseline in (agents.greedy_policy, agents.cost_aware_policy):
        assert planner.successes >= agents.replay(p, baseline, 40).successes
    assert planner.low <= planner.probability <= planner.high


def test_certain_success_is_replayed():
    """Without chance of failure the replay always succeeds, and spends what was planned."""
    p = problem(
        tasks=[{"id": "a", "work": 1, "cost": 2}, {"id": "b", "work": 1, "cost": 3}],
        edges=[{"source": "a", "target": "b"}],
        budgets={"cost": 5},
        deadline=2,
    )
    found = agents.replay(p, agents.Planner(1.0), 5)
    assert (found.successes, found.mean_spent) == (5, 5.0)
