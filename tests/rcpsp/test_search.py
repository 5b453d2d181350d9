"""The portfolio: squeezes, the general decoder, threads, turns, and large projects."""

import random

import numpy as np
import pytest

import cpsched
from cpsched.core import engine
from cpsched.core.clock import Clock
from cpsched.families import family
from cpsched.families.rcpsp.arrays import kit_of
from cpsched.families.rcpsp.general import general_kit
from cpsched.families.rcpsp.greedy import priority
from cpsched.families.rcpsp.modes import first_modes
from cpsched.families.rcpsp.neighbourhoods import PLACES, base_of, neighbourhoods, squeeze
from cpsched.families.rcpsp.prepare import prepare
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.schedule import schedule_of
from tests.rcpsp.test_kernels import plain_problem, run_of, violations


def setting(seed, **options):
    """Instance, kit, modes and the starts of a bad list."""
    problem = plain_problem(seed, **options)
    run = run_of(problem)
    instance = prepare(problem, run)
    kit, mode = kit_of(instance), first_modes(instance, run)
    order = kit.list_by(np.random.default_rng(seed).permutation(instance.n))
    return instance, kit, mode, kit.serial(order, mode)


@pytest.mark.parametrize("modes", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_a_squeeze_shortens_the_project(seed, modes):
    """A solution of a squeeze is a valid schedule whose makespan is at least one less."""
    instance, kit, mode, start = setting(seed, n=12, modes=modes)
    base = base_of(instance, start, mode)
    for left, right in ((0, base.makespan + 1), (3, base.makespan - 2), (0, base.makespan // 2)):
        made = squeeze(instance, kit, base, left, right)
        if made is None:
            continue
        outcome = engine.solve(made.decision.model, Clock(0.5, deterministic=True))
        if outcome.values is not None:
            after, chosen = made.apply(outcome.values)
            assert not violations(instance, after, chosen)
            assert kit.makespan(after, chosen) < base.makespan


def test_squeezes_have_solutions():
    """Freeing everything in a bad schedule finds a shorter one: the test above is not vacuous."""
    instance, kit, mode, start = setting(1, n=16)
    base = base_of(instance, start, mode)
    made = squeeze(instance, kit, base, 0, base.makespan + 1)
    assert engine.solve(made.decision.model, Clock(None), workers=1).values is not None


@pytest.mark.parametrize("modes", [1, 2])
def test_every_neighbourhood_builds(modes):
    """Each way of placing windows gives a model that leaves part of the schedule alone."""
    instance, kit, mode, start = setting(4, n=40, modes=modes)
    schedule = schedule_of(instance, start.tolist(), mode.tolist())
    made = neighbourhoods(instance, kit)
    assert [one.name for one in made] == list(PLACES)
    for one in made:
        built = [one.build(schedule, 0.3, random.Random(k)) for k in range(20)]
        assert any(built)


@pytest.mark.parametrize("seed", range(6))
def test_the_general_decoder_agrees_with_the_plain_one(seed):
    """On a plain project both decoders place the tasks of a list at the same times."""
    instance, kit, mode, _ = setting(seed)
    order = kit.list_by(priority(instance, "lft"))
    made = general_kit(instance).generate(order, mode, np.ones(instance.n, np.bool_))
    assert made.count == instance.n
    assert made.start.tolist() == kit.serial(order, mode).tolist()


def test_maximum_lags_are_repaired():
    """A task that must follow soon makes the one before it wait for the resource."""
    problem = RcpspProblem.parse(
        {
            "tasks": [
                {"id": "long", "modes": [{"duration": 9, "demands": {"R": 1}}]},
                {"id": "a", "modes": [{"duration": 1}]},
                {"id": "b", "modes": [{"duration": 2, "demands": {"R": 1}}]},
            ],
            "resources": [{"name": "R", "capacity": 1}],
            "precedences": [{"before": "a", "after": "b", "min_lag": 0, "max_lag": 1}],
        }
    )
    run = run_of(problem)
    family("rcpsp").greedy(prepare(problem, run), run)
    assert run.value() == 11


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_proves_the_optimum(workers):
    """Turns with one worker and threads with several end at the same value."""
    result = cpsched.solve(plain_problem(11, n=10), time_limit=60, workers=workers, strict=True)
    assert result.status == "OPTIMAL"
    assert result.objective == 25


def test_several_modes_are_proved():
    """Populations beside the whole model: a multi-mode project to its optimum."""
    result = cpsched.solve(plain_problem(3, n=9, modes=2), time_limit=60, workers=2, strict=True)
    assert result.status == "OPTIMAL"
    assert result.objective == result.bound


def test_deterministic_runs_agree():
    """The same call twice gives the same schedule and bound, ended by counted work."""
    problem = plain_problem(8, n=30)
    first, second = (
        cpsched.solve(problem, time_limit=1, deterministic=True, seed=3) for _ in range(2)
    )
    assert first.schedule == second.schedule
    assert first.bound == second.bound


def test_long_horizons_need_no_profile():
    """Durations too long for a cell per time unit still give a schedule by event times."""
    problem = RcpspProblem.parse(
        {
            "tasks": [
                {"id": str(i), "modes": [{"duration": 10**9 + i, "demands": {"R": 1}}]}
                for i in range(6)
            ],
            "resources": [{"name": "R", "capacity": 2}],
        }
    )
    result = cpsched.solve(problem, time_limit=20, workers=2, strict=True)
    assert result.objective == 3 * 10**9 + 8
    assert result.status == "OPTIMAL"
