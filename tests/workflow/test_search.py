"""Solving: known optima, brute force, objectives, options, determinism, short limits."""

from __future__ import annotations

import json

import pytest

import cpsched
from cpsched.families.workflow import greedy
from cpsched.families.workflow.formats import read_matrix
from cpsched.families.workflow.generate import agent, layered
from cpsched.families.workflow.prepare import prepare
from tests.workflow.helpers import CANONICAL, brute_force, problem, random_problem, solved


@pytest.fixture(scope="module")
def canonical():
    """The ten-task example."""
    return read_matrix(json.dumps(CANONICAL), "canonical.json", {})


def test_canonical_optimum(canonical):
    """The ten-task example has the optimum 73, proved."""
    result = solved(canonical)
    assert result.status == "OPTIMAL"
    assert result.objective == 73.0


@pytest.mark.parametrize(("name", "value"), [("heft", 80), ("cpop", 86), ("peft", 85)])
def test_published_list_schedules(canonical, name, value):
    """The list schedulers give the published makespans of the ten-task example."""
    inst = prepare(canonical)
    assert getattr(greedy, name)(inst).makespan(inst) == value


@pytest.mark.parametrize("seed", range(12))
def test_brute_force(seed):
    """The proved optimum of tiny random problems is that of full enumeration."""
    p = random_problem(seed)
    result = solved(p)
    assert result.status == "OPTIMAL"
    assert result.objective == brute_force(p)


@pytest.mark.parametrize("seed", range(12))
def test_bounds_hold(seed):
    """No bound without search exceeds the optimum, and each is recomputed from its data."""
    from cpsched.bound import recompute

    p = random_problem(seed)
    best = brute_force(p)
    found = cpsched.bound(p)
    assert found
    for b in found:
        assert b.value <= best + 1e-9
        assert recompute(p, b) == pytest.approx(b.value)


@pytest.mark.parametrize("seed", range(6))
def test_quick_bounds_of_large_graphs_hold(seed, monkeypatch):
    """Bounds for which heads would take too long hold too, and are recomputed as they are."""
    from cpsched.bound import recompute
    from cpsched.families.workflow import bound

    p = random_problem(seed)
    best = brute_force(p)
    monkeypatch.setattr(bound, "_heads_affordable", lambda inst, run: False)
    found = {b.argument: b for b in cpsched.bound(p)}
    for b in found.values():
        assert b.value <= best + 1e-9
        assert recompute(p, b) == pytest.approx(b.value)
    assert found["critical-path"].value > 0
    wide = problem(tasks=[{"id": str(k), "work": 3} for k in range(4)])
    area = next(b for b in cpsched.bound(wide) if b.argument == "area")
    assert area.value == recompute(wide, area) == 12 / sum(m.speed for m in wide.machines)


@pytest.mark.parametrize("objective", ["makespan", "cost"])
def test_a_thousand_tasks_have_a_schedule_at_once(objective):
    """Without compiled kernels and with no time left there is a checked schedule."""
    p = layered(800, 50, 1.0, 1.0, 2.5, 1)
    result = cpsched.solve(p, time_limit=0.0, workers=1, objective=objective)
    assert result.status == "FEASIBLE"


def test_identical_machines_are_one_class():
    """Independent tasks on identical machines are proved optimal."""
    p = problem(
        tasks=[{"id": str(k), "work": w} for k, w in enumerate([3, 3, 2, 2, 2])],
        machines=[{"name": "a"}, {"name": "b"}],
    )
    result = solved(p)
    assert (result.status, result.objective) == ("OPTIMAL", 6.0)


def test_fractional_times_are_exact():
    """Durations that are no decimals are computed exactly, not rounded."""
    p = problem(
        tasks=[{"id": "a", "work": 1}, {"id": "b", "work": 1}],
        edges=[{"source": "a", "target": "b"}],
        machines=[{"name": "m", "speed": 3}],
    )
    assert solved(p).objective == 2 / 3


def test_deterministic_runs_agree():
    """Two deterministic runs give the same schedule."""
    p = layered(20, 3, 1.0, 1.0, 2.5, 3)
    one, two = (cpsched.solve(p, time_limit=1.0, deterministic=True, workers=2) for _ in range(2))
    assert one.schedule == two.schedule


def test_empty_problem():
    """A problem without tasks has the makespan 0."""
    result = solved(problem(tasks=[]))
    assert (result.status, result.objective) == ("OPTIMAL", 0.0)


def test_infeasible_deadline_is_proved():
    """A deadline below the critical path is infeasible, and the explanation is minimal."""
    p = problem(
        tasks=[{"id": "a", "work": 8}, {"id": "b", "work": 8}, {"id": "c", "work": 1}],
        edges=[{"source": "a", "target": "b"}, {"source": "b", "target": "c"}],
        deadline=8,
    )
    assert solved(p).status == "INFEASIBLE"
    found = cpsched.explain(p)
    assert found.minimal
    names = {c.name for c in found.conflict}
    assert "deadline:problem" in names
    assert names <= {"deadline:problem", "precedence:a->b", "precedence:b->c"}


def test_agent_plan_is_optimal_within_budget():
    """The plan of an agent workflow maximises success within budget and deadline."""
    p = agent(8, 3, 2, 0.3, 1)
    result = solved(p)
    assert result.status == "OPTIMAL"
    assert cpsched.validate(p, result.schedule).valid


def test_lexicographic_levels():
    """Cost is minimised among the schedules of least makespan."""
    p = problem(
        tasks=[{"id": "a", "work": 4}, {"id": "b", "work": 2}],
        machines=[
            {"name": "slow", "speed": 1, "price": 3600},
            {"name": "fast", "speed": 2, "price": 36000},
        ],
        objectives=["makespan", "cost"],
    )
    result = solved(p)
    assert result.status == "OPTIMAL"
    assert result.objective == [2.0, 22.0]


def test_justification_only_shortens():
    """Moving all tasks late and early again keeps the plan valid and never lengthens it."""
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run
    from cpsched.families.workflow import FAMILY, relist
    from cpsched.families.workflow.check import check
    from cpsched.families.workflow.extract import schedule_of

    shorter = 0
    for seed in range(6):
        p = layered(40, 4, 1.0, 1.0, 2.5, seed)
        inst = prepare(p)
        run = Run(p, FAMILY, FAMILY.default_objectives(p), Clock(60.0))
        plan = greedy.list_plan(inst, inst.topo)
        better = relist.justified(inst, relist.mirrored(inst), plan, run)
        assert check(p, schedule_of(inst, better)) == []
        assert better.makespan(inst) <= plan.makespan(inst)
        shorter += better.makespan(inst) < plan.makespan(inst)
    assert shorter > 0
