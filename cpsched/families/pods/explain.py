"""Why pods stay pending: reasons per node, the smallest change, constraints for `explain`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cpsched.families import NamedConstraint
from cpsched.families.pods.problem import CONSTRAINTS, Pod, PodsProblem, PodsSchedule
from cpsched.families.pods.quantity import show_quantity
from cpsched.families.pods.replay import Refusal, State

_SENTENCES = {
    "capacity": "No node gives more than it has.",
    "cells": "No cell (NUMA node, GPU) gives more than it has.",
    "node_selector": "Pods run on nodes that their node selector names.",
    "node_affinity": "Pods run on nodes that their required node affinity accepts.",
    "taints": "Pods run on nodes whose taints they tolerate.",
    "unschedulable": "Cordoned nodes take no pods.",
    "host_ports": "A host port is used once per node.",
    "volume_affinity": "Pods run where their volumes are.",
    "exclusive_claims": "A ReadWriteOncePod claim is used by one pod.",
    "pod_affinity": "Pods run near the pods that their affinity asks for.",
    "pod_anti_affinity": "Pods keep away from the pods that an anti-affinity excludes.",
    "topology_spread": "Pods are spread within their maximum skew.",
    "budget": "Disruption budgets are kept at every moment.",
    "gang": "Gangs run whole or not at all.",
    "quota": "Namespaces stay within their quota.",
    "movable": "Pods that must not be moved stay where they are.",
    "hold": "Pods with scheduling gates are not placed.",
    "preemption_policy": "Pods with preemptionPolicy Never displace no one for good.",
    "migration_limit": "No more pods move than the limit allows.",
    "max_in_flight": "No more pods are on the move at once than the limit allows.",
    "drain": "Drained nodes are emptied and take no pods.",
}


def constraints(problem: PodsProblem) -> list[NamedConstraint]:
    """Each pending pod's wish for a place, the running pods' places, and the rules in use."""
    out = [
        NamedConstraint(name, name, _SENTENCES[name])
        for name in CONSTRAINTS
        if name in _SENTENCES and name not in problem.relaxed
    ]
    out.append(
        NamedConstraint("running", "required", "Every running pod still runs somewhere at the end.")
    )
    state = State(problem)
    for pod in problem.pods:
        if pod.node is None:
            sentence = f"Pod {pod.name} gets a place ({why_pending(state, pod)})."
            out.append(NamedConstraint(f"place:{pod.name}", "required", sentence))
    return out


def restrict(problem: PodsProblem, names: frozenset[str]) -> PodsProblem:
    """The problem in which the named pods must be placed and only the named rules hold."""
    relaxed = [n for n in CONSTRAINTS if n in _SENTENCES and n not in names]
    required = [
        p.name
        for p in problem.pods
        if (p.node is not None and "running" in names) or f"place:{p.name}" in names
    ]
    return problem.model_copy(
        update={
            "relaxed": tuple(dict.fromkeys((*problem.relaxed, *relaxed))),
            "required": tuple(required),
        }
    )


def reasons(state: State, pod: Pod) -> dict[str, list[Refusal]]:
    """For every node, why the pod cannot go there now."""
    out = {}
    for node in state.nodes.values():
        # Cells are chosen by the planner: here only their number and size matter.
        found = [r for r in state.refusals(pod.name, node.name) if r.rule != "cells"]
        if pod.cells:
            free = [
                all(
                    cell.get(r, 0) - state.cell_used[node.name][i][r] >= a
                    for r, a in pod.per_cell.items()
                )
                for i, cell in enumerate(node.cells)
            ]
            if sum(free) < pod.cells:
                found.append(Refusal("cells", "Insufficient free cells", pod.cells - sum(free)))
        out[node.name] = found
    return out


def why_pending(state: State, pod: Pod) -> str:
    """One line as `kubectl describe` would show it."""
    per_node = reasons(state, pod)
    counts: Counter[str] = Counter()
    for found in per_node.values():
        for message in {r.message.partition(" (short")[0] for r in found}:
            counts[message] += 1
    free = sum(not found for found in per_node.values())
    parts = ", ".join(f"{k} {message}" for message, k in sorted(counts.items()))
    return f"{free}/{len(per_node)} nodes are available" + (f": {parts}" if parts else "")


def smallest_change(state: State, pod: Pod) -> str:
    """The change that stands between the pod and a place with the fewest constraints to touch."""
    per_node = reasons(state, pod)
    if not per_node:
        return "add a node"
    possible = [name for name, found in per_node.items() if not found]
    if possible:
        return f"none: bind it to {possible[0]}"
    fewest: dict[frozenset[str], list[str]] = {}
    for name, found in per_node.items():
        fewest.setdefault(frozenset(r.rule for r in found), []).append(name)
    rules = min(fewest, key=lambda s: (len(s), "capacity" not in s, sorted(s)))
    names = fewest[rules]
    if rules == {"capacity"}:
        return _free_up(state, pod, names)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"drop {' and '.join(sorted(rules))} for it on {shown}"


def _free_up(state: State, pod: Pod, names: list[str]) -> str:
    needs: dict[str, dict[str, int]] = {}
    for name in names:
        node, used = state.nodes[name], state.used[name]
        missing = {
            r: used[r] + a - node.allocatable.get(r, 0)
            for r, a in pod.requests.items()
            if a > 0 and used[r] + a > node.allocatable.get(r, 0)
        }
        limit = node.allocatable.get("pods")
        if limit is not None and used["pods"] + 1 > limit:
            missing["pods"] = used["pods"] + 1 - limit
        needs[name] = missing

    def share(name: str) -> tuple[float, str]:
        node = state.nodes[name]
        parts = [m / max(1, node.allocatable.get(r, 0)) for r, m in needs[name].items()]
        return (sum(parts), name)

    best = min(names, key=share)
    parts = [f"{show_quantity(r, m)} {r}" for r, m in needs[best].items()]
    return f"free {' and '.join(parts)} on {best}"


def pending_report(problem: PodsProblem, schedule: PodsSchedule | None) -> str:
    """For each pending pod the reasons per node and the smallest change, as text.

    With a schedule the state is the one after its steps.
    """
    state = State(problem)
    if schedule is not None:
        end: Mapping[str, tuple[str | None, tuple[int, ...]]] = {
            p.pod: (p.node, p.numa) for p in schedule.placements
        }
        for name, (node, cells) in end.items():
            if state.where[name] != node or state.cells.get(name, ()) != cells:
                if state.where[name] is not None:
                    state.evict(name)
                if node is not None:
                    state.bind(name, node, cells)
    lines = []
    for pod in problem.pods:
        if state.where[pod.name] is not None:
            continue
        lines.append(f"{pod.name}: {why_pending(state, pod)}")
        lines.append(f"  smallest change: {smallest_change(state, pod)}")
        for name, found in reasons(state, pod).items():
            lines.append(f"  {name}: {'; '.join(r.message for r in found) or 'it fits'}")
    return "\n".join(lines) + "\n" if lines else "No pod is pending.\n"
