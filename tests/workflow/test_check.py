"""The checker: a valid and a broken schedule for every rule, and objective values by hand."""

from __future__ import annotations

import math

import pytest

from cpsched.families.workflow.check import check, evaluate
from tests.workflow.helpers import problem, rules, schedule, solved

CHAIN = {
    "tasks": [{"id": "a", "work": 4}, {"id": "b", "work": 2}],
    "edges": [{"source": "a", "target": "b", "size": 10}],
    "bandwidth": 5,
    "latency": 1,
}

#: rule -> (problem, valid schedule, schedule that breaks only this rule)
PAIRS = {
    "task": (CHAIN, [("a", "m0", 0, 4), ("b", "m0", 4, 6)], [("a", "m0", 0, 4)]),
    "machine": (
        {"tasks": [{"id": "a", "work": 4, "machines": ["m0"]}]},
        [("a", "m0", 0, 4)],
        [("a", "m1", 0, 2)],
    ),
    "option": (
        {"tasks": [{"id": "a", "options": [{"work": 4}, {"work": 6}]}]},
        [("a", "m0", 0, 6, 1)],
        [("a", "m0", 0, 6, 2)],
    ),
    "duration": (
        {"tasks": [{"id": "a", "work": 4}]}, [("a", "m1", 0, 2)], [("a", "m1", 0, 4)],
    ),
    "release": (
        {"tasks": [{"id": "a", "work": 4, "release": 3}]},
        [("a", "m0", 3, 7)],
        [("a", "m0", 2.9, 6.9)],
    ),
    "deadline": (
        {"tasks": [{"id": "a", "work": 4, "deadline": 5}]},
        [("a", "m0", 1, 5)],
        [("a", "m0", 1.1, 5.1)],
    ),
    "precedence": (
        {"tasks": CHAIN["tasks"], "edges": [{"source": "a", "target": "b"}]},
        [("a", "m0", 0, 4), ("b", "m1", 4, 5)],
        [("a", "m0", 0, 4), ("b", "m1", 3, 4)],
    ),
    "transfer": (
        CHAIN,
        [("a", "m0", 0, 4), ("b", "m1", 7, 8)],
        [("a", "m0", 0, 4), ("b", "m1", 6.9, 7.9)],
    ),
    "cores": (
        {"tasks": [{"id": "a", "work": 4}, {"id": "b", "work": 4}]},
        [("a", "m0", 0, 4), ("b", "m0", 4, 8)],
        [("a", "m0", 0, 4), ("b", "m0", 3, 7)],
    ),
    "memory": (
        {
            "tasks": [{"id": "a", "work": 4, "memory": 6}, {"id": "b", "work": 4, "memory": 5}],
            "machines": [{"name": "m0", "cores": 4, "memory": 10}],
        },
        [("a", "m0", 0, 4), ("b", "m0", 4, 8)],
        [("a", "m0", 0, 4), ("b", "m0", 3, 7)],
    ),
    "gpus": (
        {
            "tasks": [{"id": "a", "work": 4, "gpus": 1}, {"id": "b", "work": 4, "gpus": 1}],
            "machines": [{"name": "m0", "cores": 4, "gpus": 1}],
        },
        [("a", "m0", 0, 4), ("b", "m0", 4, 8)],
        [("a", "m0", 0, 4), ("b", "m0", 3, 7)],
    ),
    "windows": (
        {
            "tasks": [{"id": "a", "work": 4}],
            "machines": [{"name": "m0", "windows": [{"start": 2, "end": 8}]}],
        },
        [("a", "m0", 2, 6)],
        [("a", "m0", 5, 9)],
    ),
    "storage": (
        {
            "tasks": [{"id": "a", "work": 4}, {"id": "b", "work": 4}, {"id": "c", "work": 1}],
            "files": [
                {"id": "f", "size": 6, "producer": "a", "consumers": ["c"]},
                {"id": "g", "size": 6, "producer": "b", "consumers": []},
            ],
            "machines": [{"name": "m0", "storage": 10}],
        },
        [("a", "m0", 0, 4), ("b", "m0", 5, 9), ("c", "m0", 4, 5)],
        [("a", "m0", 0, 4), ("b", "m0", 4, 8), ("c", "m0", 8, 9)],
    ),
    "budgets": (
        {
            "tasks": [{"id": "a", "options": [{"work": 4, "cost": 2}, {"work": 2, "cost": 5}]}],
            "budgets": {"cost": 4},
        },
        [("a", "m0", 0, 4, 0)],
        [("a", "m0", 0, 2, 1)],
    ),
    "min_success": (
        {
            "tasks": [
                {"id": "a", "options": [{"work": 4, "success": 0.9}, {"work": 2, "success": 0.5}]}
            ],
            "min_success": 0.8,
        },
        [("a", "m0", 0, 4, 0)],
        [("a", "m0", 0, 2, 1)],
    ),
    "limits": (
        {"tasks": [{"id": "a", "work": 4}], "limits": {"weighted_flow_time": 5}},
        [("a", "m0", 1, 5)],
        [("a", "m0", 2, 6)],
    ),
    "fair_share": (
        {
            "tasks": [
                {"id": "a", "work": 4, "workflow": "x"}, {"id": "b", "work": 4, "workflow": "y"},
            ],
            "workflows": [{"id": "x", "tenant": "u"}, {"id": "y", "tenant": "v"}],
            "tenants": [{"id": "u"}, {"id": "v"}],
            "machines": [{"name": "m0"}],
            "fair_share": 0,
        },
        [("a", "m0", 0, 4), ("b", "m0", 4, 8)],
        [("a", "m0", 0, 4), ("b", "m0", 4.5, 8.5)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", PAIRS)
def test_rule(rule):
    """A schedule that keeps the rule is valid; one that breaks it is named by it."""
    fields, good, bad = PAIRS[rule]
    p = problem(**fields)
    assert check(p, schedule(*good)) == []
    assert rules(p, schedule(*bad)) == {rule}


@pytest.mark.parametrize("rule", [r for r in PAIRS if r not in ("task", "machine", "option")])
def test_model_knows_the_rule(rule):
    """Without its last chance to keep the rule a problem is infeasible, with it solvable."""
    from tests.workflow.helpers import solved

    fields, _, _ = PAIRS[rule]
    assert solved(problem(**fields)).status in ("OPTIMAL", "FEASIBLE")


def test_contention():
    """Two files on one link follow each other; overlapping transfers are a violation."""
    p = problem(
        tasks=[{"id": k, "work": 2} for k in "abc"],
        files=[
            {"id": "f", "size": 6, "producer": "a", "consumers": ["c"]},
            {"id": "g", "size": 6, "producer": "b", "consumers": ["c"]},
        ],
        bandwidth=2,
        contention=True,
    )
    placed = [("a", "m0", 0, 2), ("b", "m0", 2, 4), ("c", "m1", 8, 9)]
    good = (("f", "a", "m0", "m1", 2, 5), ("g", "b", "m0", "m1", 5, 8))
    bad = (("f", "a", "m0", "m1", 2, 5), ("g", "b", "m0", "m1", 4, 7))
    assert check(p, schedule(*placed, transfers=good)) == []
    assert rules(p, schedule(*placed, transfers=bad)) == {"contention"}
    assert rules(p, schedule(*placed)) == {"transfer"}


def test_alternatives_share_a_machine():
    """Tasks of different alternatives may overlap, an unconditional one may not."""
    p = problem(
        tasks=[{"id": k, "work": 4} for k in "abc"],
        branches=[
            {"alternatives": [
                {"probability": 0.7, "tasks": ["a"]}, {"probability": 0.3, "tasks": ["b"]},
            ]}
        ],
    )  # fmt: skip
    assert check(p, schedule(("a", "m0", 0, 4), ("b", "m0", 0, 4), ("c", "m0", 4, 8))) == []
    assert rules(p, schedule(("a", "m0", 0, 4), ("b", "m0", 0, 4), ("c", "m0", 3, 7))) == {"cores"}


def test_tasks_without_length_hold_nothing():
    """A task that takes no time may start while another one runs."""
    p = problem(tasks=[{"id": "a", "work": 4}, {"id": "b", "work": 0}])
    assert check(p, schedule(("a", "m0", 0, 4), ("b", "m0", 2, 2))) == []


def value(p, s, name):
    """One objective of a valid schedule."""
    assert check(p, s) == []
    return evaluate(p, s, [name])[0]


def test_cost_of_use_and_of_leases():
    """Machines are paid by use, or by whole quanta from first start to last end."""
    machines = [
        {"name": "m0", "price": 3600},
        {"name": "m1", "price": 3600, "billing_quantum": 10},
    ]
    p = problem(
        tasks=[{"id": "a", "work": 4, "cost": 2}, {"id": "b", "work": 4}], machines=machines
    )
    assert value(p, schedule(("a", "m0", 0, 4), ("b", "m0", 6, 10)), "cost") == 10.0
    assert value(p, schedule(("a", "m1", 0, 4), ("b", "m1", 8, 12)), "cost") == 22.0


def test_prices_and_carbon_over_time():
    """Rates that vary are integrated over the time of a task."""
    machine = {
        "name": "m0",
        "power": 3.6e6,
        "prices": [{"start": 0, "value": 3600}, {"start": 10, "value": 7200}],
        "carbon": [{"start": 0, "value": 5}, {"start": 10, "value": 1}],
    }
    p = problem(tasks=[{"id": "a", "work": 4}], machines=[machine])
    s = schedule(("a", "m0", 8, 12))
    assert value(p, s, "cost") == pytest.approx(2 + 4)
    assert value(p, s, "carbon") == pytest.approx(2 * 5 + 2 * 1)
    assert value(p, s, "energy") == pytest.approx(4 * 3.6e6)


def test_samples_and_retries():
    """Samples multiply cost and chances; tries multiply time, and cost by their expectation."""
    p = problem(
        tasks=[{"id": "a", "work": 4, "cost": 1, "success": 0.5, "samples": 2, "retries": 1}]
    )
    s = schedule(("a", "m0", 0, 8))
    assert value(p, s, "log_success") == pytest.approx(math.log(1 - 0.5**4))
    assert value(p, s, "cost") == pytest.approx(2 * (1 + 0.25))


def test_worst_case_of_a_branch_is_reserved():
    """The budget must cover the dearest alternative, the expected cost weighs them."""
    p = problem(
        tasks=[{"id": "a", "work": 1, "cost": 10}, {"id": "b", "work": 1, "cost": 4}],
        branches=[
            {"alternatives": [
                {"probability": 0.5, "tasks": ["a"]}, {"probability": 0.5, "tasks": ["b"]},
            ]}
        ],
        budgets={"cost": 10},
    )  # fmt: skip
    s = schedule(("a", "m0", 0, 1), ("b", "m0", 0, 1))
    assert value(p, s, "cost") == 7.0
    tighter = p.model_copy(update={"budgets": type(p.budgets)(cost=9)})
    assert rules(tighter, s) == {"budgets"}


def test_flow_time_tardiness_slowdown():
    """Workflow objectives by hand."""
    p = problem(
        tasks=[
            {"id": "a", "work": 4, "workflow": "x"},
            {"id": "b", "work": 4, "workflow": "y", "due": 5, "weight": 3},
        ],
        workflows=[{"id": "x", "release": 1}, {"id": "y", "weight": 2, "due": 6}],
    )
    s = schedule(("a", "m0", 1, 5), ("b", "m0", 5, 9))
    assert value(p, s, "weighted_flow_time") == 4 + 2 * 9
    assert value(p, s, "weighted_tardiness") == 3 * 4 + 2 * 3
    assert value(p, s, "max_slowdown") == 4.5


def test_peak_storage():
    """Files count from the start of their producer to their last use, on every machine."""
    p = problem(
        tasks=[{"id": "a", "work": 4}, {"id": "b", "work": 2}],
        files=[{"id": "f", "size": 7, "producer": "a", "consumers": ["b"]}],
    )
    assert value(p, schedule(("a", "m0", 0, 4), ("b", "m0", 4, 6)), "peak_storage") == 7
    assert value(p, schedule(("a", "m0", 0, 4), ("b", "m1", 4, 5)), "peak_storage") == 7
    slow = p.model_copy(update={"bandwidth": 7.0})
    assert value(slow, schedule(("a", "m0", 0, 4), ("b", "m1", 5, 6)), "peak_storage") == 14


def test_files_from_one_place_wait_for_each_other():
    """Files that lie on one machine and are needed on another one share the link from time 0."""
    p = problem(
        tasks=[{"id": k, "work": 1, "machines": ["m0"]} for k in "abcd"],
        files=[{"id": k, "size": 10, "location": "m1", "consumers": [k]} for k in "abcd"],
        machines=[{"name": "m0", "cores": 4}, {"name": "m1"}],
        bandwidth=1,
        contention=True,
    )
    result = solved(p)
    assert (result.status, result.objective) == ("OPTIMAL", 41.0)
