"""Small clusters for the tests, and a brute force over every sequence of actions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from cpsched.families.pods.check import check
from cpsched.families.pods.objectives import evaluate
from cpsched.families.pods.problem import Placement, PodsProblem, PodsSchedule, Step
from cpsched.families.pods.replay import State


def node(name: str, cpu: Any = 2, **fields: Any) -> dict[str, Any]:
    return {"name": name, "allocatable": {"cpu": cpu}, "labels": {"host": name}} | fields


def pod(name: str, cpu: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"name": f"default/{name}", "requests": {"cpu": cpu}} | fields


def problem(nodes: Sequence[Any], pods: Sequence[Any], **fields: Any) -> PodsProblem:
    return PodsProblem.parse({"nodes": nodes, "pods": pods} | fields)


def plan(cluster: PodsProblem, *steps: tuple[str, str, str]) -> PodsSchedule:
    """The schedule of (action, pod, node) steps, in short names."""
    at = {p.name: p.node for p in cluster.pods}
    out = []
    for action, name, place in steps:
        full = f"default/{name}"
        at[full] = place if action == "bind" else None
        out.append(Step(action=action, pod=full, node=place))
    placements = tuple(Placement(pod=p, node=n) for p, n in at.items())
    return PodsSchedule(placements=placements, steps=tuple(out))


def rules(cluster: PodsProblem, *steps: tuple[str, str, str]) -> set[str]:
    """Names of the rules that a plan of those steps breaks."""
    return {v.rule for v in check(cluster, plan(cluster, *steps))}


def random_cluster(seed: int) -> PodsProblem:
    """Up to 3 nodes and 5 pods with every kind of constraint now and then."""
    rng = random.Random(seed)
    count = rng.randint(1, 3)
    nodes = [
        {
            "name": f"n{i}",
            "allocatable": {"cpu": rng.choice([2, 3, 4]), "pods": rng.choice([2, 3, 10])},
            "labels": {"h": f"n{i}", "z": rng.choice("ab")},
            "taints": [{"key": "t", "value": "x"}] if rng.random() < 0.15 else [],
            "unschedulable": rng.random() < 0.08,
        }
        for i in range(count)
    ]
    pods = []
    for i in range(rng.randint(2, 5)):
        app = rng.choice("xy")
        one: dict[str, Any] = {
            "name": f"default/p{i}",
            "requests": {"cpu": rng.choice([1, 1, 2, 3])},
            "labels": {"app": app},
            "priority": rng.choice([0, 0, 5]),
            "node": rng.choice([None, f"n{rng.randrange(count)}"]),
        }

        def term() -> dict[str, Any]:
            labels = {"app": rng.choice("xy")}
            return {"topology_key": rng.choice("hz"), "selector": {"match_labels": labels}}

        extras = [
            (0.2, {"pod_anti_affinity": [term()]}),
            (0.15, {"pod_affinity": [term()]}),
            (0.2, {"topology_spread": [term() | {"selector": {"match_labels": {"app": app}}}]}),
            (0.1, {"host_ports": [{"port": 80}]}),
            (0.15, {"tolerations": [{"operator": "Exists"}]}),
            (0.1, {"node_selector": {"z": "a"}}),
            (0.15, {"movable": False}),
            (0.1, {"preemption_policy": "Never"}),
            (0.1, {"exclusive_claims": ["c"]}),
            (0.1, {"gang": "default/g"}),
        ]
        for chance, fields in extras:
            if rng.random() < chance:
                one |= fields
        pods.append(one)
    fields: dict[str, Any] = {"gangs": [{"name": "default/g", "min_count": 2}]}
    if rng.random() < 0.3:
        selector = {"match_labels": {"app": "x"}}
        least = rng.choice([1, 2])
        fields["budgets"] = [{"name": "default/b", "selector": selector, "min_available": least}]
    if rng.random() < 0.15:
        fields["quotas"] = [{"name": "default/q", "namespace": "default", "hard": {"cpu": 5}}]
    return problem(nodes, pods, **fields)


def best_by_brute_force(cluster: PodsProblem, names: Sequence[str]) -> tuple[float, ...]:
    """The best objective values over every state that a sequence of actions reaches."""
    pods = [p.name for p in cluster.pods]
    start = tuple(p.node for p in cluster.pods)
    seen = {start}
    frontier: list[tuple[tuple[str | None, ...], tuple[Step, ...]]] = [(start, ())]
    best: tuple[float, ...] | None = None
    signs = [-1 if n.startswith(("placed", "preference")) else 1 for n in names]
    while frontier:
        following = []
        for at, steps in frontier:
            schedule = PodsSchedule(
                placements=tuple(Placement(pod=p, node=n) for p, n in zip(pods, at, strict=True)),
                steps=steps,
            )
            if not check(cluster, schedule):
                values = evaluate(cluster, schedule, names)
                key = tuple(s * v for s, v in zip(signs, values, strict=True))
                best = key if best is None else min(best, key)
            state = State(cluster)
            for step in steps:
                if step.action == "evict":
                    state.evict(step.pod)
                else:
                    assert step.node is not None
                    state.bind(step.pod, step.node)
            for i, name in enumerate(pods):
                here = at[i]
                if here is None:
                    targets = [n for n in state.nodes if not state.refusals(name, n)]
                    options = [(n, Step(action="bind", pod=name, node=n)) for n in targets]
                elif state.eviction_refusal(name) is None:
                    options = [(None, Step(action="evict", pod=name, node=here))]
                else:
                    options = []
                for place, step in options:
                    reached = (*at[:i], place, *at[i + 1 :])
                    if reached not in seen:
                        seen.add(reached)
                        following.append((reached, (*steps, step)))
        frontier = following
    assert best is not None
    return tuple(s * v for s, v in zip(signs, best, strict=True))
