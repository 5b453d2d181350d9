"""The checker: every rule broken and kept once, and mutated plans."""

from __future__ import annotations

import pytest

from cpsched.families.pods.check import check
from cpsched.families.pods.objectives import evaluate
from cpsched.families.pods.problem import Placement, PodsSchedule, Step
from tests.pods.clusters import node, plan, pod, problem, rules

WEB = {"match_labels": {"app": "web"}}
LABELS = {"app": "web"}
NEAR = {"topology_key": "host", "selector": WEB}

#: rule -> (cluster, steps that break it, steps that keep it)
CASES = {
    "capacity": (
        problem([node("a", 1), node("b", 2)], [pod("p", 2)]),
        [("bind", "p", "a")],
        [("bind", "p", "b")],
    ),
    "node_selector": (
        problem([node("a"), node("b")], [pod("p", node_selector={"host": "b"})]),
        [("bind", "p", "a")],
        [("bind", "p", "b")],
    ),
    "node_affinity": (
        problem(
            [node("a"), node("b")],
            [
                pod(
                    "p",
                    node_affinity=[
                        {
                            "match_fields": [
                                {"key": "metadata.name", "operator": "In", "values": ["b"]}
                            ]
                        }
                    ],
                )
            ],
        ),
        [("bind", "p", "a")],
        [("bind", "p", "b")],
    ),
    "taints": (
        problem([node("a", taints=[{"key": "k"}]), node("b")], [pod("p")]),
        [("bind", "p", "a")],
        [("bind", "p", "b")],
    ),
    "unschedulable": (
        problem([node("a", unschedulable=True), node("b")], [pod("p")]),
        [("bind", "p", "a")],
        [("bind", "p", "b")],
    ),
    "host_ports": (
        problem(
            [node("a"), node("b")],
            [
                pod("q", node="a", host_ports=[{"port": 80, "ip": "10.0.0.1"}]),
                pod("p", host_ports=[{"port": 80}]),
            ],
        ),
        [("bind", "p", "a")],
        [("bind", "p", "b")],
    ),
    "volume_affinity": (
        problem(
            [node("a"), node("b")],
            [
                pod(
                    "p",
                    volume_affinity=[
                        [
                            {
                                "match_expressions": [
                                    {"key": "host", "operator": "NotIn", "values": ["a"]}
                                ]
                            }
                        ]
                    ],
                )
            ],
        ),
        [("bind", "p", "a")],
        [("bind", "p", "b")],
    ),
    "exclusive_claims": (
        problem(
            [node("a"), node("b")],
            [pod("q", node="a", exclusive_claims=["c"]), pod("p", exclusive_claims=["c"])],
        ),
        [("bind", "p", "b")],
        [("evict", "q", "a"), ("bind", "p", "b")],
    ),
    "pod_anti_affinity": (
        problem(
            [node("a"), node("b")],
            [pod("q", node="a", pod_anti_affinity=[NEAR]), pod("p", labels=LABELS)],
        ),
        [("bind", "p", "a")],
        [("bind", "p", "b")],
    ),
    "pod_affinity": (
        problem(
            [node("a"), node("b")],
            [pod("q", node="a", labels=LABELS), pod("p", pod_affinity=[NEAR])],
        ),
        [("bind", "p", "b")],
        [("bind", "p", "a")],
    ),
    "topology_spread": (
        problem(
            [node("a"), node("b")],
            [
                pod("q", node="a", labels=LABELS),
                pod("p", labels=LABELS, topology_spread=[NEAR | {"max_skew": 1}]),
            ],
        ),
        [("bind", "p", "a")],
        [("bind", "p", "b")],
    ),
    "budget": (
        problem(
            [node("a")],
            [pod("q", node="a", labels=LABELS), pod("p", 2, priority=1)],
            budgets=[{"name": "default/b", "selector": WEB, "min_available": 1}],
        ),
        [("evict", "q", "a"), ("bind", "p", "a")],
        [],
    ),
    "gang": (
        problem(
            [node("a")],
            [pod("p", gang="default/g"), pod("q", gang="default/g")],
            gangs=[{"name": "default/g", "min_count": 2}],
        ),
        [("bind", "p", "a")],
        [("bind", "p", "a"), ("bind", "q", "a")],
    ),
    "quota": (
        problem(
            [node("a")],
            [pod("p"), pod("q")],
            quotas=[{"name": "default/q", "namespace": "default", "hard": {"cpu": 1}}],
        ),
        [("bind", "p", "a"), ("bind", "q", "a")],
        [("bind", "p", "a")],
    ),
    "movable": (
        problem([node("a"), node("b")], [pod("p", node="a", movable=False), pod("q", 1)]),
        [("evict", "p", "a"), ("bind", "p", "b")],
        [("bind", "q", "b")],
    ),
    "hold": (
        problem([node("a")], [pod("p", hold="gate"), pod("q")]),
        [("bind", "p", "a")],
        [("bind", "q", "a")],
    ),
    "preemption_policy": (
        problem(
            [node("a", 1)],
            [pod("q", node="a"), pod("p", priority=1, preemption_policy="Never"), pod("r")],
        ),
        [("evict", "q", "a"), ("bind", "p", "a")],
        [("evict", "q", "a"), ("bind", "r", "a")],
    ),
    "migration_limit": (
        problem([node("a"), node("b")], [pod("p", node="a"), pod("q")], migration_limit=0),
        [("evict", "p", "a"), ("bind", "p", "b")],
        [("bind", "q", "b")],
    ),
    "max_in_flight": (
        problem([node("a"), node("b")], [pod("p", node="a"), pod("q", node="a")], max_in_flight=1),
        [("evict", "p", "a"), ("evict", "q", "a"), ("bind", "p", "b"), ("bind", "q", "b")],
        [("evict", "p", "a"), ("bind", "p", "b"), ("evict", "q", "a"), ("bind", "q", "b")],
    ),
    "drain": (
        problem([node("a"), node("b")], [pod("p", node="a")], drain=["a"]),
        [],
        [("evict", "p", "a"), ("bind", "p", "b")],
    ),
    "required": (
        problem([node("a")], [pod("p")], required=["default/p"]),
        [],
        [("bind", "p", "a")],
    ),
    "steps": (
        problem([node("a"), node("b")], [pod("p", node="a")]),
        [("evict", "p", "b")],
        [("evict", "p", "a"), ("bind", "p", "b")],
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_rule_broken(rule: str) -> None:
    """A plan that breaks one rule is reported under that rule alone."""
    cluster, broken, _ = CASES[rule]
    assert rules(cluster, *broken) == {rule}


@pytest.mark.parametrize("rule", CASES)
def test_rule_kept(rule: str) -> None:
    """A plan that keeps the rule is valid."""
    cluster, _, kept = CASES[rule]
    assert rules(cluster, *kept) == set()


@pytest.mark.parametrize("rule", [r for r in CASES if r not in ("steps", "required", "drain")])
def test_rule_relaxed(rule: str) -> None:
    """A relaxed constraint is not checked any more."""
    cluster, broken, _ = CASES[rule]
    assert rules(cluster.model_copy(update={"relaxed": (rule,)}), *broken) == set()


def test_first_pod_rule() -> None:
    """The first pod of a group that wants to be with itself goes anywhere, the second follows."""
    wish = {"labels": LABELS, "pod_affinity": [NEAR]}
    cluster = problem([node("a"), node("b")], [pod("p", **wish), pod("q", **wish)])
    assert rules(cluster, ("bind", "p", "a"), ("bind", "q", "a")) == set()
    assert rules(cluster, ("bind", "p", "a"), ("bind", "q", "b")) == {"pod_affinity"}


def test_first_pod_rule_needs_own_match() -> None:
    """A pod whose affinity does not match itself waits for another."""
    cluster = problem([node("a")], [pod("p", pod_affinity=[NEAR])])
    assert rules(cluster, ("bind", "p", "a")) == {"pod_affinity"}


def test_min_domains() -> None:
    """With fewer domains than minDomains the least count is taken as zero."""
    spread = [NEAR | {"min_domains": 2}]
    pods = [pod(n, labels=LABELS, topology_spread=spread) for n in ("p", "q")]
    cluster = problem([node("a")], pods)
    assert rules(cluster, ("bind", "p", "a")) == set()
    assert "topology_spread" in rules(cluster, ("bind", "p", "a"), ("bind", "q", "a"))


def test_spread_ignores_nodes_that_the_pod_may_not_use() -> None:
    """nodeAffinityPolicy Honor leaves nodes out that the pod's selector excludes."""
    spread = NEAR | {"max_skew": 1}
    chosen = {"labels": LABELS, "node_selector": {"host": "a"}}
    for policy, expected in (("Honor", set()), ("Ignore", {"topology_spread"})):
        one = [spread | {"node_affinity_policy": policy}]
        pods = [pod(n, topology_spread=one, **chosen) for n in ("p", "q")]
        cluster = problem([node("a"), node("b")], pods)
        assert rules(cluster, ("bind", "p", "a"), ("bind", "q", "a")) == expected


def test_namespaces_of_terms() -> None:
    """A term looks at its own namespace unless it names or selects others."""
    others = [
        ({}, set()),
        ({"namespaces": ["prod"]}, {"pod_anti_affinity"}),
        ({"namespace_selector": {"match_labels": {"team": "x"}}}, {"pod_anti_affinity"}),
        ({"namespace_selector": {}}, {"pod_anti_affinity"}),
    ]
    for extra, expected in others:
        running = {"name": "prod/q", "node": "a", "requests": {"cpu": 1}, "labels": LABELS}
        cluster = problem(
            [node("a")],
            [running, pod("p", pod_anti_affinity=[NEAR | extra])],
            namespaces={"prod": {"team": "x"}},
        )
        assert rules(cluster, ("bind", "p", "a")) == expected


def test_over_committed_node_may_keep_its_pods() -> None:
    """Running pods beyond the capacity are legal; one more is not."""
    cluster = problem([node("a", 1)], [pod("p", node="a"), pod("q", node="a"), pod("r")])
    assert rules(cluster) == set()
    assert rules(cluster, ("bind", "r", "a")) == {"capacity"}


def test_budget_recovers_with_a_bind() -> None:
    """A budget of one allows two evictions with a bind between them, not in a row."""
    pods = [pod("p", node="a", labels=LABELS), pod("q", node="a", labels=LABELS)]
    budget = {"name": "default/b", "selector": WEB, "max_unavailable": 1}
    cluster = problem([node("a"), node("b")], pods, budgets=[budget])
    steps = [("evict", "p", "a"), ("bind", "p", "b"), ("evict", "q", "a"), ("bind", "q", "b")]
    assert rules(cluster, *steps) == set()
    assert rules(cluster, steps[0], steps[2], steps[1], steps[3]) == {"budget"}


def test_live_migration_needs_room_beside_the_source() -> None:
    """While a VM moves it is on both hosts; cells are checked one by one."""
    cells = [{"cpu": 4}, {"cpu": 4}]
    cluster = problem(
        [{"name": "a", "cells": cells}, {"name": "b", "cells": cells}],
        [
            {"name": "v", "node": "a", "cells": 1, "cell_indices": [0], "per_cell": {"cpu": 3}},
            {"name": "w", "node": "b", "cells": 1, "cell_indices": [1], "per_cell": {"cpu": 2}},
        ],
        live_migration=True,
    )

    def moved(cell: int) -> set[str]:
        placements = (
            Placement(pod="v", node="b", numa=(cell,)),
            Placement(pod="w", node="b", numa=(1,)),
        )
        step = Step(action="move", pod="v", source="a", to="b", numa=(cell,))
        return {v.rule for v in check(cluster, PodsSchedule(placements=placements, steps=(step,)))}

    assert moved(0) == set()
    assert moved(1) == {"cells"}


def test_a_moving_vm_does_not_exclude_itself() -> None:
    """A VM that keeps apart from its set may move within its rack: it is the only one there."""
    alone = [{"topology_key": "rack", "selector": WEB}]
    vm = pod("p", node="a", labels=LABELS, pod_anti_affinity=alone)
    cluster = problem(
        [node(n, labels={"rack": "r"}) for n in ("a", "b")], [vm], live_migration=True
    )
    there = Step(action="move", pod="default/p", source="a", to="b")
    back = Step(action="move", pod="default/p", source="b", to="a")
    for steps, end in (((there,), "b"), ((there, back, there), "b")):
        moved = PodsSchedule(placements=(Placement(pod="default/p", node=end),), steps=steps)
        assert check(cluster, moved) == []


def test_placements_must_be_complete() -> None:
    """A missing, unknown or doubled pod is reported."""
    cluster = problem([node("a")], [pod("p"), pod("q")])
    good = plan(cluster).placements
    for bad in (good[:1], (*good, good[0]), (*good[:1], Placement(pod="default/x"))):
        assert {v.rule for v in check(cluster, PodsSchedule(placements=bad))} == {"placement"}


def test_end_must_follow_from_the_steps() -> None:
    """Placements that the steps do not lead to are refused."""
    cluster = problem([node("a")], [pod("p")])
    schedule = PodsSchedule(placements=(Placement(pod="default/p", node="a"),))
    assert {v.rule for v in check(cluster, schedule)} == {"steps"}


def test_counts_are_verified() -> None:
    """Stated counts must be those of the placements, by priority and above."""
    cluster = problem([node("a")], [pod("p", priority=5), pod("q", node="a")])
    good = plan(cluster, ("bind", "p", "a"))
    assert not check(cluster, good.model_copy(update={"counts": {"5": 1, "0": 2}}))
    wrong = good.model_copy(update={"counts": {"5": 1, "0": 1}})
    assert {v.rule for v in check(cluster, wrong)} == {"counts"}


def test_objectives() -> None:
    """Values of the objectives, from their definitions."""
    cluster = problem(
        [node("a"), node("b", cost=7, optional=True)],
        [pod("p", node="a", priority=5), pod("q", node="a"), pod("r", 2, priority=5, weight=3)],
        future=[{"requests": {"cpu": 2}, "count": 2}],
    )
    schedule = plan(
        cluster, ("evict", "p", "a"), ("evict", "q", "a"), ("bind", "r", "a"), ("bind", "p", "b")
    )
    assert not check(cluster, schedule)
    names = ["placed@5", "placed@0", "disruption", "nodes_used", "node_cost", "fragmentation"]
    assert evaluate(cluster, schedule, names) == (4, 4, 3, 2, 7, 2)
