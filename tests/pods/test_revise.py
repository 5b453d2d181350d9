"""Replanning clusters: executed steps are facts, lost places are promises, nothing else moves."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.errors import ProblemError
from tests.pods.clusters import node, pod, problem


def replan(cluster, schedule, *events, now=100, **settings):
    """Replan and check the result against the revised problem."""
    settings = {"time_limit": 10, "workers": 1} | settings
    result = cpsched.replan(cluster, schedule, now=now, events=list(events), **settings)
    if result.schedule is not None:
        assert cpsched.validate(result.problem, result.schedule).valid
    return result


def ends(result) -> dict[str, str | None]:
    return {p.pod.removeprefix("default/"): p.node for p in result.schedule.placements}


def placed(**where):
    """A schedule without steps: where the pods are."""
    return {"placements": [{"pod": f"default/{p}", "node": n} for p, n in where.items()]}


def running(*names, at="n0", cpu=1, **fields):
    return [pod(name, cpu, node=at, **fields) for name in names]


def test_nothing_happened():
    """Without events nothing moves, and the plan is proved to be the best."""
    cluster = problem([node("n0"), node("n1")], running("a", "b"))
    result = replan(cluster, placed(a="n0", b="n0"))
    assert result.diff == []
    assert result.status == "OPTIMAL"


def test_only_executed_steps_are_facts():
    """A plan is executed up to ``now`` steps; what is left of it may be planned anew."""
    cluster = problem([node("n0"), node("n1")], [pod("a", 2), pod("b", 2)])
    steps = [
        {"action": "bind", "pod": "default/a", "node": "n1"},
        {"action": "bind", "pod": "default/b", "node": "n0"},
    ]
    result = replan(cluster, placed(a="n1", b="n0") | {"steps": steps}, now=1)
    assert {p.name: p.node for p in result.problem.pods} == {"default/a": "n1", "default/b": None}
    assert ends(result) == {"a": "n1", "b": "n0"}


def test_node_down_moves_its_pods():
    """Pods of a node that goes down get places elsewhere, without evicting anyone."""
    cluster = problem([node("n0"), node("n1", 3)], [*running("a", "b"), pod("c", 1, node="n1")])
    event = {"type": "resource_down", "time": 0, "id": "n0"}
    result = replan(cluster, placed(a="n0", b="n0", c="n1"), event)
    assert ends(result) == {"a": "n1", "b": "n1", "c": "n1"}
    assert {s.action for s in result.schedule.steps} == {"bind"}


def test_broken_promise_names_the_pod_and_why():
    """A pod that finds no place after a failure is reported with what stands in the way."""
    cluster = problem(
        [node("n0"), node("n1", 1)], [*running("a"), pod("b", 1, node="n0", priority=5)]
    )
    event = {"type": "resource_down", "time": 0, "id": "n0"}
    result = replan(cluster, placed(a="n0", b="n0"), event)
    assert ends(result) == {"a": None, "b": "n1"}
    assert [b["promise"] for b in result.broken_promises] == ["place:default/a"]
    assert "cpu" in result.broken_promises[0]["reason"]


def test_node_up_takes_pods_again():
    """A node that comes back takes the pods that had no place."""
    cluster = problem([node("n0"), node("n1", 1)], running("a", "b"))
    down = replan(cluster, placed(a="n0", b="n0"), {"type": "resource_down", "time": 0, "id": "n0"})
    up = replan(down.problem, down, {"type": "resource_up", "time": 1, "id": "n0"})
    assert sorted(ends(up).values()) == ["n0", "n1"]
    assert up.broken_promises == []


def test_smaller_node_keeps_the_important_pods():
    """When a node shrinks, the pods of the lowest priority leave it first."""
    pods = [*running("a", "b"), *running("c", priority=9)]
    cluster = problem([node("n0", 3)], pods)
    event = {"type": "capacity", "time": 0, "id": "n0", "amounts": {"cpu": "1"}}
    result = replan(cluster, placed(a="n0", b="n0", c="n0"), event)
    assert ends(result) == {"a": None, "b": None, "c": "n0"}
    assert len(result.broken_promises) == 2


def test_insert_and_cancel():
    """An inserted pod gets the room of a cancelled one."""
    cluster = problem([node("n0")], running("a", "b"))
    result = replan(
        cluster,
        placed(a="n0", b="n0"),
        {"type": "cancel", "time": 0, "id": "default/a"},
        {"type": "insert", "time": 0, "id": "default/c", "item": {"requests": {"cpu": 1}}},
    )
    assert ends(result) == {"b": "n0", "c": "n0"}


def test_inserted_node():
    """A new node takes what was pending."""
    cluster = problem([node("n0")], [*running("a", "b"), pod("c", 1)])
    item = {"allocatable": {"cpu": 4}}
    event = {"type": "insert", "time": 0, "id": "n9", "item": item}
    assert ends(replan(cluster, placed(a="n0", b="n0", c=None), event))["c"] == "n9"


def test_finished_pod_makes_room():
    """A pod that has run to its end leaves its room to a pending one."""
    cluster = problem([node("n0")], [*running("a", "b"), pod("c", 1)])
    event = {"type": "finish", "time": 0, "id": "default/a"}
    result = replan(cluster, placed(a="n0", b="n0", c=None), event)
    assert ends(result) == {"b": "n0", "c": "n0"}


def test_priority_change_preempts():
    """A pending pod whose priority rises displaces one of lower priority."""
    cluster = problem([node("n0")], [*running("a", cpu=2), pod("c", 2)])
    event = {"type": "priority", "time": 0, "id": "default/c", "weight": 7}
    result = replan(cluster, placed(a="n0", c=None), event)
    assert ends(result) == {"a": None, "c": "n0"}
    assert [s.action for s in result.schedule.steps] == ["evict", "bind"]


def test_used_up_budget():
    """An executed eviction is used up in a budget that counts down."""
    labels = {"app": "x"}
    cluster = problem(
        [node("n0"), node("n1")],
        [pod("a", 1, node="n0", labels=labels), pod("b", 1, node="n0", labels=labels)],
        budgets=[{"name": "default/x", "selector": {"match_labels": labels}, "allowed": 1}],
    )
    steps = [
        {"action": "evict", "pod": "default/a", "node": "n0"},
        {"action": "bind", "pod": "default/a", "node": "n1"},
    ]
    half = replan(cluster, placed(a="n1", b="n0") | {"steps": steps}, now=1)
    assert [b.allowed for b in half.problem.budgets] == [0]
    whole = replan(cluster, placed(a="n1", b="n0") | {"steps": steps}, now=2)
    assert [b.allowed for b in whole.problem.budgets] == [1]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"type": "resource_down", "id": "n9"}, "no node"),
        ({"type": "cancel", "id": "default/z"}, "no pod"),
        ({"type": "delay", "id": "default/a", "by": 3}, "no times"),
        ({"type": "due_date", "id": "default/a", "due": 3}, "no times"),
        ({"type": "capacity", "id": "n0", "capacity": 3}, "amounts"),
        ({"type": "capacity", "id": "n0", "amounts": {"cpu": "much"}}, "cpu"),
        ({"type": "insert", "id": "default/a", "item": {}}, "already"),
        ({"type": "insert", "id": "default/b"}, "item"),
        ({"type": "insert", "id": "default/b", "item": {"request": {}}}, "not permitted"),
        ({"type": "priority", "id": "default/a"}, "weight"),
        ({"type": "finish", "id": "default/p"}, "does not run"),
    ],
)
def test_bad_events(event, message):
    """Events about unknown or impossible things are named."""
    cluster = problem([node("n0")], [*running("a"), pod("p", 9)])
    with pytest.raises(ProblemError, match=message):
        replan(cluster, placed(a="n0", p=None), {"time": 0} | event)


def test_foreign_schedule():
    """A plan of other pods, nodes or steps is refused."""
    cluster = problem([node("n0")], running("a"))
    step = {"action": "bind", "pod": "default/a", "node": "n0"}
    for schedule in (placed(z="n0"), placed(a="n7"), placed(a="n0") | {"steps": [step]}):
        with pytest.raises(ProblemError, match="belong to the problem"):
            replan(cluster, schedule)
