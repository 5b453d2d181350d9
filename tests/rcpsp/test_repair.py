"""Repair: schedules near a partial or invalid one."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.rcpsp.problem import RcpspProblem, RcpspSchedule, ScheduledTask
from tests.rcpsp.random_problems import FEATURES, random_problem


@pytest.mark.parametrize("seed", range(12))
def test_repair_offers_only_valid_schedules(seed):
    """From the best schedule with every start at 0, repair gives nothing invalid."""
    chain = family("rcpsp")
    features = tuple(f for f in FEATURES if (seed * 7 + len(f)) % 3 == 0)
    problem = random_problem(seed, features, n=5)
    best = cpsched.solve(problem, 10.0, workers=1)
    if best.schedule is None:
        assert best.status == "INFEASIBLE"
        return
    broken = RcpspSchedule(
        tasks=tuple(
            ScheduledTask(task=d.task, mode=d.mode, start=0, end=d.end - d.start)
            for d in best.schedule.tasks
        )
    )
    objectives = chain.default_objectives(problem)
    run = Run(problem, chain, objectives, Clock(10.0), strict=True)
    chain.repair(chain.prepare(problem, run), run, broken)
    assert run.contradiction is None


def test_repair_keeps_the_order_of_the_hint():
    """Two tasks on a machine, the later one first in the hint, stay in that order."""
    problem = RcpspProblem.parse(
        {
            "tasks": [
                {"id": t, "modes": [{"duration": 2, "demands": {"R": 1}}], "deadline": 9}
                for t in "ab"
            ],
            "resources": [{"name": "R"}],
        }
    )
    hint = {"tasks": [{"task": "b", "start": 0, "end": 2}, {"task": "a", "start": 1, "end": 3}]}
    result = cpsched.improve(problem, hint, time_limit=5.0, workers=1)
    assert not result.initial["valid"]
    assert {d.task: d.start for d in result.schedule.tasks} == {"b": 0, "a": 2}
