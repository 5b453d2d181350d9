"""Solving: against brute force and MiniZinc, bounds recomputed, plans that must be ordered."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cpsched
from cpsched.families import family
from cpsched.families.pods.problem import PodsProblem
from cpsched.families.pods.scenario import default_placement, scenario
from cpsched.families.pods.writers import write_minizinc
from tests.pods.clusters import best_by_brute_force, node, pod, problem, random_cluster

WEB = {"match_labels": {"app": "web"}}
LABELS = {"app": "web"}


def names_of(cluster: PodsProblem) -> list[str]:
    return [o.name for o in family("pods").default_objectives(cluster)]


def ordered(values: object, names: list[str]) -> tuple[float, ...]:
    """Values so that smaller is better."""
    listed = values if isinstance(values, list | tuple) else [values]
    return tuple(-v if n.startswith("placed") else v for v, n in zip(listed, names, strict=True))


@pytest.mark.parametrize("seed", range(24))
def test_never_better_than_brute_force_and_optimal_means_optimal(seed: int) -> None:
    """Claims of optimality hold, and bounds bound, over every reachable state."""
    cluster = random_cluster(seed)
    names = names_of(cluster)
    result = cpsched.solve(cluster, 0.6, workers=1, strict=True)
    best = best_by_brute_force(cluster, names)
    assert ordered(result.objective, names) >= ordered(best, names)
    if result.status == "OPTIMAL":
        assert tuple(result.objective) == best
    for bound in result.bounds:
        value = best[names.index(bound.objective)]
        if bound.given is None:
            maximised = bound.objective.startswith("placed")
            assert bound.value >= value if maximised else bound.value <= value


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(100, 10_000))
def test_every_plan_replays(seed: int) -> None:
    """Whatever the cluster, the plan passes the checker, and doing nothing is never better."""
    cluster = random_cluster(seed)
    result = cpsched.solve(cluster, 0.15, workers=1, strict=True)
    assert cpsched.validate(cluster, result.schedule)


@pytest.mark.parametrize("seed", [3, 8, 14, 21, 33])
def test_agrees_with_minizinc(seed: int, minizinc: str, tmp_path: Path) -> None:
    """The end states of models/pods.mzn are as good as the plans where no order forbids them."""
    cluster = random_cluster(seed)
    plain = [
        p.model_copy(
            update={"pod_affinity": (), "gang": "", "preemption_policy": "PreemptLowerPriority"}
        )
        for p in cluster.pods
    ]
    cluster = cluster.model_copy(
        update={"pods": tuple(plain), "gangs": (), "budgets": (), "quotas": ()}
    )
    data = tmp_path / "pods.json"
    data.write_text(write_minizinc(cluster, None))
    model = Path(__file__).resolve().parents[2] / "models" / "pods.mzn"
    done = subprocess.run(
        [minizinc, "--solver", "Gecode", str(model), str(data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    last = json.loads([x for x in done.stdout.splitlines() if x.startswith("{")][-1])
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert result.status == "OPTIMAL"
    assert result.objective == [*last["placed"], last["disruption"]]


def test_moves_what_stands_in_the_way() -> None:
    """A pending pod that fits nowhere gets a node by moving one pod, in an executable order."""
    cluster = problem([node("a"), node("b")], [pod("p", node="a"), pod("q", node="b"), pod("r", 2)])
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [3, 1])
    assert [s.action for s in result.schedule.steps] == ["evict", "bind", "bind"]


def test_preempts_for_a_higher_priority() -> None:
    """A pod of low priority makes place for one of high priority, at the weight of an eviction."""
    cluster = problem([node("a", 1)], [pod("p", node="a"), pod("q", priority=9)])
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [1, 1, 2])


def test_swap_needs_a_temporary_eviction() -> None:
    """Two full nodes swap their pods although neither has room."""
    cluster = problem(
        [node("a", 1), node("b", 2)],
        [
            pod("p", 1, node="b"),
            pod("q", 1, node="a", node_selector={"host": "b"}),
            pod("r", 1, node_selector={"host": "a"}),
            pod("s", 1, node="b", movable=False),
        ],
    )
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert result.status == "OPTIMAL"
    assert result.objective[0] == 3


def test_budget_orders_the_steps() -> None:
    """With a budget of one disruption pods move one after the other."""
    pods = [pod(n, node="a", labels=LABELS) for n in ("p", "q")]
    cluster = problem(
        [node("a"), node("b", 3)],
        [*pods, pod("big", 2, node_selector={"host": "a"})],
        budgets=[{"name": "default/b", "selector": WEB, "max_unavailable": 1}],
    )
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [3, 2])


def test_drain() -> None:
    """A drained node is empty at the end; what cannot move stays."""
    cluster = problem(
        [node("a"), node("b")],
        [pod("p", node="a"), pod("q", node="a", movable=False)],
        drain=["a"],
    )
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert result.status == "OPTIMAL"
    assert {p.pod: p.node for p in result.schedule.placements} == {
        "default/p": "b",
        "default/q": "a",
    }


def test_consolidate() -> None:
    """With nodes_used before disruption pods gather on fewer nodes."""
    cluster = problem(
        [node("a"), node("b")],
        [pod("p", node="a"), pod("q", node="b")],
        objectives=["placed@0", "nodes_used", "disruption"],
    )
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [2, 1, 1])


def test_scale_up_takes_the_cheapest_node() -> None:
    """Candidates of a scale-up are used where they are needed, at least cost."""
    cluster = problem(
        [
            node("a", 1),
            node("big", 4, cost=5, optional=True),
            node("mid", 2, cost=3, optional=True),
        ],
        [pod("p", node="a"), pod("q", 2)],
        objectives=["placed@0", "node_cost", "disruption"],
    )
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [2, 3, 0])


def test_defragment_for_a_future_pod() -> None:
    """Fragmentation counts the future pods that would not fit, and moves lower it."""
    cluster = problem(
        [node("a"), node("b")],
        [pod("p", node="a"), pod("q", node="b")],
        future=[{"requests": {"cpu": 2}, "count": 1}],
        objectives=["placed@0", "fragmentation", "disruption"],
    )
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [2, 0, 1])


@pytest.mark.parametrize("seed", [484806185843093489, 4219457405427907235])
def test_certificates_of_a_scenario(seed: int) -> None:
    """A scenario that the default scheduler fails is solved with bounds that recompute."""
    cluster = default_placement(scenario(seed, 4, 4, 2, "1.00"))
    result = cpsched.solve(cluster, 3.0, workers=1, strict=True)
    placed = [b for b in result.bounds if b.objective.startswith("placed@")]
    assert placed
    for bound in result.bounds:
        if bound.argument != "cp-sat":
            value = cpsched.bound.__globals__["recompute"](cluster, bound)
            maximised = bound.objective.startswith("placed@")
            assert value <= bound.value if maximised else value >= bound.value


def test_interrupted_runs_keep_a_plan() -> None:
    """With almost no time there is still a checked plan and a bound."""
    cluster = default_placement(scenario(484806185843093489, 8, 4, 1, "1.00"))
    result = cpsched.solve(cluster, 0.05, workers=1, strict=True)
    assert result.schedule is not None
    assert result.bound[0] is not None


def test_deterministic_runs_agree() -> None:
    """Two deterministic runs give the same plan."""
    cluster = default_placement(scenario(4219457405427907235, 4, 4, 1, "0.90"))
    first, second = (
        cpsched.solve(cluster, 30.0, workers=1, deterministic=True, seed=5) for _ in range(2)
    )
    assert first.schedule == second.schedule


def test_explain_names_the_conflict() -> None:
    """A pod that cannot be placed beside the running ones is explained by capacity."""
    cluster = problem([node("a", 1)], [pod("p", node="a", movable=False), pod("q")])
    told = cpsched.explain(cluster, 10.0, workers=1)
    assert told.status == "INFEASIBLE"
    assert {c.name for c in told.conflict} >= {"place:default/q", "capacity"}
    assert "Insufficient cpu" in str(told)


def test_capacity_metamorphic() -> None:
    """More capacity never places fewer pods."""
    small = problem([node("a", 3)], [pod("p", 2), pod("q", 2), pod("r", 1)])
    large = problem([node("a", 4)], [pod("p", 2), pod("q", 2), pod("r", 1)])
    values = [cpsched.solve(c, 1.0, workers=1, strict=True).objective[0] for c in (small, large)]
    assert values == [2, 2] or values[1] >= values[0]
    assert math.isfinite(values[0])


def vm_hosts(limit: int) -> PodsProblem:
    """Two hosts of two cells, 8 cores beyond a multiple of 16 in each; one VM lies on two cells."""
    cells = [{"cpu": 24}, {"cpu": 24}]

    def vm(name: str, host: str, at: list[int], cores: int, movable: bool) -> dict[str, object]:
        return {
            "name": name,
            "node": host,
            "cells": len(at),
            "cell_indices": at,
            "per_cell": {"cpu": cores},
            "movable": movable,
        }

    return PodsProblem.parse(
        {
            "nodes": [{"name": "a", "cells": cells}, {"name": "b", "cells": cells}],
            "pods": [
                vm("both", "a", [0, 1], 8, True),
                *[vm(f"a{k}", "a", [k], 8, False) for k in (0, 1)],
                *[vm(f"b{k}", "b", [k], 16, False) for k in (0, 1)],
            ],
            "live_migration": True,
            "migration_limit": limit,
            "objectives": ["fragment_rate"],
        }
    )


def test_a_vm_on_two_cells_migrates_as_one() -> None:
    """One migration of it rids four cells of their fragments, and is proved optimal."""
    result = cpsched.solve(vm_hosts(1), 60.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", 0.0)
    assert [(s.action, s.pod, s.to, s.numa) for s in result.schedule.steps] == [
        ("move", "both", "b", (0, 1))
    ]


def test_a_vm_on_two_cells_stays_without_migrations() -> None:
    """With no migration allowed nothing moves."""
    result = cpsched.solve(vm_hosts(0), 60.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", 1.0)
    assert result.schedule.steps == ()
