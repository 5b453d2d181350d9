"""Tiny clusters: every state that actions reach."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.pods import states
from cpsched.families.pods.prepare import prepare
from tests.pods.clusters import best_by_brute_force, node, pod, problem, random_cluster

COMPANY = {"topology_key": "host", "selector": {"match_labels": {"app": "x"}}}


@pytest.mark.parametrize("seed", [81075, 308072, 443962, 174001])
@pytest.mark.parametrize("last", ["disruption", "nodes_used", "preference", "fragment_rate"])
def test_clusters_that_the_model_leaves_open(seed: int, last: str) -> None:
    """Affinities and broken rules: the best plan and its proof, as by brute force."""
    cluster = random_cluster(seed)
    tiers = sorted({p.priority for p in cluster.pods}, reverse=True)
    names = [*(f"placed@{t}" for t in tiers), last]
    result = cpsched.solve(cluster, 60.0, workers=1, objective=names, strict=True)
    assert result.stop_reason == "proved"
    assert tuple(result.objective) == best_by_brute_force(cluster, names)


def test_no_state_keeps_every_rule() -> None:
    """A required pod whose company never comes: infeasible, and no schedule refutes it."""
    lonely = pod("p", pod_affinity=[COMPANY])
    cluster = problem([node("a"), node("b")], [lonely, pod("q")], required=["default/p"])
    assert cpsched.solve(cluster, 60.0, workers=1, strict=True).status == "INFEASIBLE"


def test_what_depends_on_the_way_is_left_alone() -> None:
    """Where a state is more than the nodes of its pods, states prove nothing."""
    fields = {
        "max_in_flight": 1,
        "migration_limit": 1,
        "live_migration": True,
        "budgets": [{"name": "default/b", "selector": {}, "allowed": 1}],
    }
    pods = [pod("p", node="a"), pod("q")]
    for name, value in fields.items():
        cluster = problem([node("a"), node("b")], pods, **{name: value})
        run = Run(cluster, family("pods"), (), Clock(None))
        assert not states.applies(prepare(cluster, run))
