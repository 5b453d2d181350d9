"""The solver against brute force by the checker, and against MiniZinc with Gecode."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

import cpsched
from cpsched.families.rcpsp.minizinc import write_minizinc
from cpsched.families.rcpsp.problem import Fixed
from tests.rcpsp.random_problems import FEATURES, brute_force, random_problem

OBJECTIVES = (
    "makespan",
    "weighted_tardiness",
    "late_tasks",
    "weighted_flow_time",
    "max_lateness",
    "earliness_tardiness",
    "setup_cost",
    "resource_cost",
    "resource_levelling",
)
HORIZON = 7
MODEL = Path(__file__).resolve().parents[2] / "models" / "rcpsp.mzn"


def problem_of(seed, features=None, n=3):
    """A random problem with one objective and a short horizon."""
    objective = random.Random(seed).choice(OBJECTIVES)
    return random_problem(seed, features, n).model_copy(
        update={"horizon": HORIZON, "objectives": (objective,)}
    )


def value_of(problem):
    """The proved optimum of our solver; None when proved infeasible."""
    result = cpsched.solve(problem, 120.0, workers=1, strict=True)
    assert result.stop_reason == "proved"
    assert result.bound == result.objective or result.status == "INFEASIBLE"
    return result.objective


@pytest.mark.parametrize("seed", range(30))
def test_optimum_is_brute_force(seed):
    """On problems that mix all constraints our optimum is the best of all valid schedules."""
    problem = problem_of(seed)
    assert value_of(problem) == brute_force(problem, problem.objectives[0], HORIZON)


@pytest.mark.parametrize("feature", FEATURES)
def test_optimum_is_minizinc(feature, minizinc, tmp_path):
    """On problems with one kind of constraint our optimum is the one Gecode proves."""
    feasible = 0
    for seed in range(1003, 1006):
        problem = problem_of(seed, (feature,), n=4)
        data = tmp_path / f"{seed}.json"
        data.write_text(write_minizinc(problem))
        command = [minizinc, "--solver", "gecode", str(MODEL), str(data)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert "==========" in done.stdout or "UNSATISFIABLE" in done.stdout, done.stderr
        theirs = json.loads(lines[-1])["objective"] if lines else None
        assert value_of(problem) == theirs
        feasible += theirs is not None
    assert feasible


SHOP = ("setup", "setup demands", "no_idle", "same_sequence", "transport", "batching")
SHOP += ("assignment", "blocking", "swap", "modes")


def with_facts(seed):
    """A random shop of which a feasible schedule has been begun; None when it has none."""
    rng = random.Random(seed)
    features = tuple(feature for feature in SHOP if rng.random() < 0.35)
    problem = problem_of(seed, features)
    begun = cpsched.solve(problem, 120.0, workers=1, strict=True, objective=[]).schedule
    if begun is None:
        return None
    now, done = rng.randint(1, 3), {d.task: d for d in begun.tasks}
    tasks = []
    for task in problem.tasks:
        entry = done.get(task.id)
        if entry is not None and entry.start < now:
            fact = Fixed(mode=entry.mode, start=entry.start, end=entry.end + rng.choice((0, 0, 1)))
            tasks.append(task.model_copy(update={"fixed": fact}))
        else:
            tasks.append(task.model_copy(update={"release": max(task.release, now)}))
    return problem.model_copy(update={"tasks": tuple(tasks)})


def test_facts_and_rules_of_shops():
    """With tasks that have begun, our optimum is still the best of all valid schedules."""
    problems = [p for p in map(with_facts, range(24)) if p is not None]
    assert len(problems) > 8
    for problem in problems:
        assert value_of(problem) == brute_force(problem, problem.objectives[0], HORIZON)


def test_horizon_is_long_enough():
    """Without a horizon given, our own one never cuts off the optimum."""
    for seed in range(2000, 2008):
        problem = problem_of(seed, ("profile", "pausable", "lags"))
        free = problem.model_copy(update={"horizon": None})
        best = brute_force(problem, problem.objectives[0], 10)
        result = cpsched.solve(free, 120.0, workers=1, strict=True)
        assert result.stop_reason == "proved"
        if best is not None:
            assert result.objective <= best


@pytest.mark.parametrize("seed", [17, 35, 36, 47])
def test_blocking_on_machines_without_idle_time(seed):
    """A blocked task counts as busy on a machine that may not idle: brute force agrees."""
    problem = problem_of(seed, ("blocking", "no_idle"))
    assert value_of(problem) == brute_force(problem, problem.objectives[0], HORIZON)
