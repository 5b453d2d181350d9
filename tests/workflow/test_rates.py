"""Prices that vary over time, against full enumeration of starts."""

from __future__ import annotations

import itertools
import random

import pytest

import cpsched
from cpsched.families.workflow import terms
from tests.workflow.helpers import problem, schedule, solved


def priced(seed: int):
    """Three tasks of whole lengths on two machines with prices over time, and a late deadline."""
    rng = random.Random(seed)
    machines = [
        {
            "name": f"m{k}",
            "prices": [
                {"start": s, "value": rng.choice([3600, 9000, 18000])}
                for s in sorted({0, rng.randint(2, 6), rng.randint(7, 11)})
            ],
        }
        for k in range(2)
    ]
    return problem(
        tasks=[{"id": f"t{k}", "work": rng.randint(1, 5)} for k in range(3)],
        edges=[{"source": "t0", "target": "t2"}] if rng.random() < 0.5 else [],
        machines=machines,
        deadline=14,
        objectives=["cost"],
    )


def enumerated(p) -> float:
    """The least cost over all machines and whole starts: rates change at whole times only."""
    best = float("inf")
    works = [int(t.work) for t in p.tasks]
    for machines in itertools.product(p.machines, repeat=3):
        for starts in itertools.product(*(range(15 - w) for w in works)):
            ends = [s + w for s, w in zip(starts, works, strict=True)]
            if p.edges and starts[2] < ends[0]:
                continue
            if any(
                machines[a] is machines[b] and starts[a] < ends[b] and starts[b] < ends[a]
                for a, b in itertools.combinations(range(3), 2)
            ):
                continue
            cost = sum(
                terms.integral(terms.rate_steps(m, "cost"), s, e)
                for m, s, e in zip(machines, starts, ends, strict=True)
            )
            best = min(best, cost)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_waiting_for_a_low_price(seed):
    """The least cost is that of full enumeration, also when it pays to wait."""
    p = priced(seed)
    result = solved(p)
    assert result.status == "OPTIMAL"
    assert result.objective == pytest.approx(enumerated(p))


def test_a_budget_may_be_met_between_whole_times():
    """Half a step later the budget suffices: no bound excludes that, and `improve` takes it."""
    falling = [{"start": 0, "value": 10800}, {"start": 10, "value": 3600}]
    p = problem(
        tasks=[{"id": "a", "work": 4}],
        machines=[{"name": "m0", "prices": falling}],
        budgets={"cost": 7},
    )
    result = solved(p)
    assert result.objective == pytest.approx(13)
    assert result.bound <= 12.5
    between = schedule(("a", "m0", 8.5, 12.5))
    assert cpsched.validate(p, between).valid
    better = cpsched.improve(p, between, time_limit=5.0, strict=True)
    assert better.objective == pytest.approx(12.5)


@pytest.mark.parametrize("limit", [{"max_slowdown": 3.125}, {"weighted_flow_time": 12.5}])
def test_a_limit_may_end_between_whole_times(limit):
    """Where a limit lets a task end half a step later and cheaper, the bound allows for it."""
    falling = [{"start": 0, "value": 10800}, {"start": 10, "value": 3600}]
    p = problem(
        tasks=[{"id": "a", "work": 4}],
        machines=[{"name": "m0", "prices": falling}],
        objectives=["cost"],
        limits=limit,
    )
    result = solved(p)
    assert cpsched.validate(p, schedule(("a", "m0", 8.5, 12.5))).valid
    assert result.objective == pytest.approx(8)
    assert result.bound <= 7
