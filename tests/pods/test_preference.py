"""Preferences: what they are worth in a plan, read from kubectl, and the best of them found."""

from __future__ import annotations

import json
import random

import pytest

import cpsched
from cpsched.families.pods import kubectl
from cpsched.families.pods.objectives import evaluate
from cpsched.families.pods.problem import PodsProblem
from tests.pods.clusters import best_by_brute_force, node, plan, pod, problem

WEB = {"match_labels": {"app": "web"}}
LABELS = {"app": "web"}


def score(cluster: PodsProblem, *steps: tuple[str, str, str]) -> float:
    return evaluate(cluster, plan(cluster, *steps), ["preference"])[0]


def test_preferred_affinity_is_earned_near_a_match() -> None:
    """A preferred term counts where another matching pod is in the domain."""
    wish = {"weight": 7, "term": {"topology_key": "host", "selector": WEB}}
    cluster = problem(
        [node("a"), node("b")],
        [pod("q", node="a", labels=LABELS), pod("p", labels=LABELS, preferred_pods=[wish])],
    )
    assert score(cluster, ("bind", "p", "a")) == 7
    assert score(cluster, ("bind", "p", "b")) == 0


def test_preferred_anti_affinity_is_earned_apart() -> None:
    """A term that wants to be apart counts where no other matching pod is; itself is none."""
    wish = {"weight": 7, "apart": True, "term": {"topology_key": "host", "selector": WEB}}
    cluster = problem(
        [node("a"), node("b")],
        [pod("q", node="a", labels=LABELS), pod("p", labels=LABELS, preferred_pods=[wish])],
    )
    assert score(cluster, ("bind", "p", "a")) == 0
    assert score(cluster, ("bind", "p", "b")) == 7


def test_soft_spread_loses_beyond_the_skew() -> None:
    """A pod in a domain beyond the skew of a ScheduleAnyway constraint loses its weight."""
    soft = {"topology_key": "host", "selector": WEB, "max_skew": 1}
    cluster = problem(
        [node("a"), node("b")],
        [pod("q", node="a", labels=LABELS), pod("p", labels=LABELS, preferred_spread=[soft])],
    )
    assert score(cluster, ("bind", "p", "a")) == -100
    assert score(cluster, ("bind", "p", "b")) == 0


def test_soft_taints_lose() -> None:
    """A PreferNoSchedule taint is avoided unless it is tolerated."""
    taint = {"key": "k", "effect": "PreferNoSchedule"}
    cluster = problem(
        [node("a", taints=[taint]), node("b")],
        [pod("p"), pod("q", tolerations=[{"operator": "Exists"}])],
    )
    assert score(cluster, ("bind", "p", "a")) == -100
    assert score(cluster, ("bind", "q", "a"), ("bind", "p", "b")) == 0


@pytest.mark.parametrize("seed", range(12))
def test_best_preference_of_small_clusters(seed: int) -> None:
    """The best preference at the best counts and disruption agrees with brute force."""
    rng = random.Random(seed)
    nodes = [
        node(
            f"n{i}",
            rng.choice([2, 3]),
            labels={"h": f"n{i}", "z": rng.choice("ab")},
            taints=[{"key": "t", "effect": "PreferNoSchedule"}] if rng.random() < 0.3 else [],
        )
        for i in range(3)
    ]

    def term() -> dict[str, object]:
        labels = {"app": rng.choice("xy")}
        return {"topology_key": rng.choice("hz"), "selector": {"match_labels": labels}}

    pods = [
        pod(
            f"p{i}",
            labels={"app": rng.choice("xy")},
            node="n0" if i == 0 else None,
            preferred_pods=[
                {"weight": rng.choice([3, 50]), "apart": rng.random() < 0.5, "term": term()}
                for _ in range(rng.randint(0, 2))
            ],
            preferred_spread=[term() for _ in range(rng.randint(0, 1))],
        )
        for i in range(4)
    ]
    cluster = problem(nodes, pods, objectives=["placed@0", "disruption", "preference"])
    result = cpsched.solve(cluster, 60.0, workers=1, strict=True)
    assert result.status == "OPTIMAL"
    assert tuple(result.objective) == best_by_brute_force(cluster, cluster.objectives)


def test_kubectl_preferences_are_read() -> None:
    """Preferred pod terms and ScheduleAnyway constraints arrive, and the goal asks for them."""
    selector = {"matchLabels": LABELS}
    spec = {
        "containers": [{"resources": {"requests": {"cpu": "1"}}}],
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 9,
                        "podAffinityTerm": {"topologyKey": "host", "labelSelector": selector},
                    }
                ]
            }
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "host",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": selector,
            }
        ],
    }
    items = [
        {"kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4"}}},
        {"kind": "Pod", "metadata": {"name": "p"}, "spec": spec},
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    cluster = kubectl.read(text, "-", {"goal": "preference"})
    one = cluster.pods[0]
    assert (one.preferred_pods[0].weight, one.preferred_pods[0].apart) == (9, True)
    assert one.preferred_spread[0].max_skew == 1
    assert not one.topology_spread
    assert cluster.objectives[-1] == "preference"


def test_disruption_of_a_full_plan_counts_moves() -> None:
    """A pod that fits no node as it is costs at least one move when all are placed."""
    cluster = problem(
        [node("a", 2), node("b", 2)],
        [pod("q", node="a"), pod("r", node="b"), pod("p", 2)],
        move_weight=3,
    )
    result = cpsched.solve(cluster, 60.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [3, 3])
    assert any(b.argument == "no-room-as-it-is" and b.value == 3 for b in result.bounds)
