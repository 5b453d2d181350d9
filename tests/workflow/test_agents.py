"""Budgeted agent workflows: the plan, the replanning loop, the baselines."""

from __future__ import annotations

import itertools
import json

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


def two_tries(budget: float, deadline: float) -> WorkflowProblem:
    """A task that succeeds every other time, then one that always does."""
    return problem(
        tasks=[
            {"id": "a", "work": 1, "cost": 2, "success": 0.5},
            {"id": "b", "work": 1, "cost": 1},
        ],
        edges=[{"source": "a", "target": "b"}],
        machines=[{"name": "m"}],
        budgets={"cost": budget},
        deadline=deadline,
    )


@pytest.mark.parametrize(
    ("budget", "deadline", "tries"),
    [(2, 9, 0), (3, 9, 1), (5, 9, 2), (9, 2, 1), (9, 3, 2), (7, 9, 3), (7, 1, 0)],
)
def test_the_chance_of_a_plan_counts_all_tries(budget, deadline, tries):
    """Money and time for so many tries of a coin: one minus a half to that power."""
    p = two_tries(budget, deadline)
    chance = agents.Chances(p, agents.State(), 4000).of({"a": 0, "b": 0})
    assert chance == pytest.approx(1 - 0.5**tries, abs=0.03)


def test_a_task_under_way_has_been_paid():
    """Its first try costs nothing more and ends when it does."""
    p = two_tries(3, 9)
    state = agents.State(now=0.5, running={"a": (0, 1.0)}, spent=2.0)
    assert agents.Chances(p, state, 4000).of({"a": 0, "b": 0}) == pytest.approx(0.5, abs=0.03)
    state.spent = 3.0
    assert agents.Chances(p, state).of({"a": 0, "b": 0}) == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_improving_a_plan_never_lowers_its_chance(seed):
    """One task after the other changes for the better; tasks under way keep their option."""
    p = agent(8, 3, 2, 0.3, seed)
    chances = agents.Chances(p, agents.State())
    plan = {t.id: 0 for t in p.tasks}
    value, better = chances.improved(plan, ["t0"], 5.0)
    assert value == chances.of(better) >= chances.of(plan)
    assert better["t0"] == 0
    for task in p.tasks[1:]:
        assert all(chances.of(better | {task.id: k}) <= value for k in range(len(task.choices)))


def test_a_reserve_for_second_tries_beats_spending_everything():
    """The planner succeeds more often than the plan that is best without second tries."""
    p = agent(20, 3, 3, 0.15, 0)
    planner = agents.Planner(1.0)
    all_in = planner.solve(p, agents.State())
    chances = agents.Chances(p, agents.State())
    value, plan = planner.choose(p, agents.State())
    assert value == chances.of(plan) > chances.of(all_in) + 0.1


def test_policies_are_replayed_from_the_command_line(tmp_path):
    """By name; other names and estimates are refused in one line."""
    from typer.testing import CliRunner

    from cpsched.cli.main import app

    p = two_tries(3, 9)
    file = tmp_path / "agent.json"
    file.write_text(json.dumps(p.to_dict()))
    call = ["replay", str(file), "--json", "--policy"]
    for policy in ("planner", "greedy", "cost-aware"):
        found = CliRunner().invoke(app, [*call, policy])
        assert found.exit_code == 0
        assert json.loads(found.stdout)["probability"] == pytest.approx(0.5, abs=0.2)
    for wrong in (["other"], ["greedy", "--estimates", "mean"]):
        assert CliRunner().invoke(app, [*call, *wrong]).exit_code != 0
