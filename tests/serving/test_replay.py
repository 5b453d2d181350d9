"""Replays: the round simulator against list schedules, hidden lengths, policies and regret."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cpsched
from cpsched import ProblemError
from cpsched.families.serving.problem import Instance, Request, ServingProblem
from cpsched.families.serving.replay import POLICIES, replay
from cpsched.families.serving.simulate import simulate
from tests.serving.helpers import memory, problem
from tests.serving.test_solve import generated


@pytest.mark.parametrize("policy", ["fcfs", "mcsf", "svf", "svf-strict", "ldf"])
def test_simulator_and_list_schedule_agree(policy):
    """With true lengths the round simulator makes the decisions of the list schedule."""
    p = generated("serving-trace", requests=30, ratio=3, rate=0.7)
    run = simulate(p, policy)
    assert run.evictions == 0
    assert run.value("total_latency") == replay(p, policy).objective


def test_simulated_memory_is_the_literal_sum():
    """The simulator's peak is the largest literal sum over its rounds."""
    p = generated("serving-trace", requests=20, ratio=3)
    run = simulate(p, "past-future")
    where = {one.request: one.start for one in run.schedule.requests}
    starts = [where[r.id] for r in p.requests]
    last = max(one.end for one in run.schedule.requests)
    literal = max(memory(p, starts, t) for t in range(last + 1))
    assert run.peak == literal <= p.instances[0].capacity


def test_short_estimates_evict():
    """A policy that trusts the low end of the intervals overflows, evicts and recomputes."""
    rows = tuple(Request(id=str(i), prompt=5, output=20, output_range=(1, 20)) for i in range(6))
    p = ServingProblem(requests=rows, instances=(Instance(capacity=60),))
    low = replay(p, "past-future", estimates="low")
    high = replay(p, "past-future", estimates="high")
    assert low.evictions > 0
    assert low.schedule is None
    assert high.evictions == 0
    assert cpsched.validate(p, high.schedule).valid


def test_aggressive_admission_evicts():
    """Admitting on present memory alone leads to evictions on a tight trace."""
    p = generated("serving-trace", requests=30, ratio=2)
    assert replay(p, "aggressive").evictions > 0


def test_regret_of_a_policy():
    """MC-SF loses against the optimum of a tiny trace, and the plan of the optimum does not."""
    p = problem([(9, 1), (1, 2), (2, 2), (8, 3)], 12)
    best = cpsched.solve(p, time_limit=5)
    shown = replay(p, "mcsf", time_limit=5)
    assert shown.best == best.objective
    assert shown.regret >= 0
    plan = replay(p, json.loads(best.to_json())["schedule"], time_limit=5)
    assert plan.regret == plan.regret_at_most == 0
    assert "optimal" in str(plan)


def test_invalid_plan_is_told():
    """A plan that breaks a rule is replayed as not valid."""
    p = problem([(2, 3), (2, 3)], 5)
    plan = {"requests": [{"request": str(i), "start": 0, "end": 3} for i in range(2)]}
    shown = replay(p, plan)
    assert not shown.to_dict()["valid"]
    assert "NOT VALID" in str(shown)


def test_lru_loses_to_belady():
    """On conversations LRU hits less than Bélády, and both plans are valid."""
    p = generated("serving-conversations", requests=300, blocks=60)
    lru, fifo, best = (replay(p, name) for name in ("lru", "fifo", "belady"))
    assert best.objective > lru.objective >= 0
    assert best.objective > fifo.objective
    assert not lru.violations


def test_lru_is_literal():
    """LRU's hits are those of a literal list of blocks by last use."""
    p = generated("serving-conversations", requests=150, blocks=25)
    stack: list[int] = []
    hits = 0
    for r in p.requests:
        lead = True
        for block in r.prefix:
            lead = lead and block in stack
            hits += lead
        for block in reversed(r.prefix):
            if block in stack:
                stack.remove(block)
            stack.append(block)
        stack = stack[-25:]
    assert replay(p, "lru").objective == hits * 512


@pytest.mark.parametrize(
    ("question", "file"),
    [
        ("cache", "cache-agents-20"),
        ("preemption", "preemption-24"),
        ("routing", "routing-40"),
        ("placement", "placement-experts-64"),
        ("capacity", "capacity-120"),
    ],
)
def test_policies_of_every_question(question, file, instances):
    """Each question's policies give a judged result (staying needs a current placement)."""
    p = cpsched.load(instances / "serving" / f"{file}.json")
    for name in POLICIES[question]:
        if name in ("past-future", "aggressive", "stay"):
            continue
        shown = replay(p, name)
        assert shown.violations or np.isfinite(shown.objective)


def test_unknown_policies_are_refused():
    """An unknown policy or estimate names the known ones."""
    p = problem([(1, 1)], 9)
    with pytest.raises(ProblemError, match="mcsf"):
        replay(p, "lru")
    with pytest.raises(ProblemError, match="q90"):
        replay(p, "mcsf", estimates="low")


def test_hidden_lengths_keep_the_batch_limit():
    """Simulated admissions leave no more requests running than the instance takes."""
    p = problem([(2, 3)] * 6, 100, max_batch=2)
    shown = replay(p, "fcfs", estimates="q50")
    assert not shown.violations
    assert shown.objective == 2 * (3 + 6 + 9)


def test_hidden_lengths_refuse_chunks():
    """What the simulator does not know is refused, not simulated wrongly."""
    with pytest.raises(ProblemError, match="prefills take no rounds"):
        replay(problem([(2, 3)], 100, prefill_chunk=1), "fcfs", estimates="q50")
