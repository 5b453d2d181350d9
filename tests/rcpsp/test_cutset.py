"""The exact search over sets of started tasks."""

import json
import random
from itertools import permutations

import pytest

import cpsched
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.rcpsp import cutset
from cpsched.families.rcpsp.check import check
from cpsched.families.rcpsp.prepare import prepare
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.solve import objectives_of


def project(seed, tasks=6):
    """A plain random project, some tasks without duration."""
    rng = random.Random(seed)
    raw = {
        "kind": "rcpsp",
        "resources": [{"name": r, "capacity": rng.randint(2, 4)} for r in ("a", "b")],
        "tasks": [
            {
                "id": str(i),
                "modes": [
                    {
                        "duration": rng.randint(0, 4),
                        "demands": {r: rng.randint(0, 2) for r in ("a", "b")},
                    }
                ],
            }
            for i in range(tasks)
        ],
        "precedences": [
            {"before": str(i), "after": str(j)}
            for i in range(tasks)
            for j in range(i + 1, tasks)
            if rng.random() < 0.2
        ],
    }
    return cpsched.loads(json.dumps(raw))


def instance_of(problem):
    chosen = family("rcpsp")
    run = Run(problem, chosen, objectives_of(chosen, problem, None), Clock(60.0))
    return prepare(problem, run), run


def shortest(instance):
    """The least makespan over all lists, each scheduled task by task as early as possible."""
    duration, demand = instance.duration.tolist(), instance.demand.tolist()
    edges = [(i, j) for i, j, *_ in instance.edges.tolist()]
    best = instance.horizon
    for order in permutations(range(instance.n)):
        place = {i: k for k, i in enumerate(order)}
        if any(place[i] > place[j] for i, j in edges):
            continue
        finish = {}
        used = [[0] * (instance.horizon + 10) for _ in instance.capacity]
        for j in order:
            start = max([0, *(finish[i] for i, k in edges if k == j)])
            while any(
                used[r][t] + need > instance.capacity[r]
                for r, need in enumerate(demand[j])
                for t in range(start, start + duration[j])
            ):
                start += 1
            for r, need in enumerate(demand[j]):
                for t in range(start, start + duration[j]):
                    used[r][t] += need
            finish[j] = start + duration[j]
        best = min(best, max(finish.values()))
    return best


@pytest.mark.parametrize("seed", range(25))
def test_the_least_makespan_is_found_and_the_one_below_refuted(seed):
    """Both directions decide as the enumeration of all lists does, with a valid schedule."""
    problem = project(seed)
    instance, run = instance_of(problem)
    least = shortest(instance)
    assert cutset.applies(instance)
    assert cutset.refute(instance, least - 1, run, run.done)[0] == "INFEASIBLE"
    for reverse in (False, True):
        sweep = cutset.Sweep(instance, least, reverse)
        while sweep.status is None:
            sweep.advance()
        assert sweep.status == "FEASIBLE"
        start = sweep.schedule()
        assert not check(problem, schedule_of(instance, start.tolist()))
        assert (start + instance.duration).max() == least


def test_a_full_level_decides_nothing(monkeypatch):
    """Without room for the states the answer is UNKNOWN, not a proof."""
    monkeypatch.setattr(cutset, "STATES", 1)
    instance, run = instance_of(project(3, 12))
    assert cutset.refute(instance, instance.horizon, run, run.done) == ("UNKNOWN", None)


def test_lags_are_declined():
    """A project with a lag is left to other searches."""
    raw = json.loads(project(1).model_dump_json())
    raw["precedences"] = [{"before": "0", "after": "1", "min_lag": 2}]
    instance, _ = instance_of(cpsched.loads(json.dumps(raw)))
    assert not cutset.applies(instance)
