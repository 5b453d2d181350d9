"""Why pods stay pending: reasons per node, the smallest change, constraints for `explain`."""

from __future__ import annotations

from collections import Counter

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


#: Why a pod cannot go to each node now.
Reasons = dict[str, list[Refusal]]


def reasons(state: State, pod: Pod) -> Reasons:
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


def why_pending(state: State, pod: Pod, per_node: Reasons | None = None) -> str:
    """One line as `kubectl describe` would show it; ``per_node`` are its `reasons` when known."""
    per_node = reasons(state, pod) if per_node is None else per_node
    counts: Counter[str] = Counter()
    for found in per_node.values():
        for message in {r.message.partition(" (short")[0] for r in found}:
            counts[message] += 1
    free = sum(not found for found in per_node.values())
    parts = ", ".join(f"{k} {message}" for message, k in sorted(counts.items()))
    return f"{free}/{len(per_node)} nodes are available" + (f": {parts}" if parts else "")


#: What would lift a rule; the rest of the sentence names the nodes.
_CHANGES = {
    "cells": "free the cells it asks for",
    "node_selector": "drop its node selector (or label the node)",
    "node_affinity": "drop its node affinity (or label the node)",
    "taints": "tolerate the taint",
    "unschedulable": "uncordon the node",
    "host_ports": "free its host port",
    "volume_affinity": "bring its volume there",
    "exclusive_claims": "release its ReadWriteOncePod claim",
    "pod_affinity": "drop its pod affinity (or place a pod there that it asks for)",
    "pod_anti_affinity": "drop the pod anti-affinity (its own, or that of the pods there)",
    "topology_spread": "raise maxSkew of its topology spread",
    "quota": "raise the quota",
    "hold": "lift what holds it",
    "drain": "stop draining the node",
}


def smallest_change(state: State, pod: Pod, per_node: Reasons | None = None) -> str:
    """The change that stands between the pod and a place: fewest rules to touch, least to free."""
    per_node = reasons(state, pod) if per_node is None else per_node
    if not per_node:
        return "add a node"
    possible = [name for name, found in per_node.items() if not found]
    if possible:
        return f"none: bind it to {possible[0]}"

    def effort(name: str) -> tuple[int, bool, tuple[str, ...], float]:
        rules = {r.rule for r in per_node[name]}
        return (len(rules), "capacity" not in rules, tuple(sorted(rules)), _share(state, pod, name))

    least = min(effort(name) for name in per_node)
    names = [name for name in per_node if effort(name) == least]
    parts = [_CHANGES.get(rule, f"lift {rule}") for rule in least[2] if rule != "capacity"]
    if "capacity" in least[2]:
        amounts = _missing(state, pod, names[0])
        names = [name for name in names if _missing(state, pod, name) == amounts]
        if not _fits_empty(state, pod, names[0]):
            parts.insert(0, "make it smaller or the node larger by " + _shown(amounts))
        else:
            parts.insert(0, "free " + _shown(amounts))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{' and '.join(parts)} on {'any of ' * (len(names) > 1)}{shown}"


def _shown(amounts: dict[str, int]) -> str:
    return " and ".join(f"{show_quantity(r, m)} {r}" for r, m in amounts.items())


def _missing(state: State, pod: Pod, name: str) -> dict[str, int]:
    """What the pod lacks on a node now, by resource."""
    node, used = state.nodes[name], state.used[name]
    missing = {
        r: used[r] + a - node.allocatable.get(r, 0)
        for r, a in pod.requests.items()
        if a > 0 and used[r] + a > node.allocatable.get(r, 0)
    }
    limit = node.allocatable.get("pods")
    if limit is not None and used["pods"] + 1 > limit:
        missing["pods"] = used["pods"] + 1 - limit
    return missing


def _share(state: State, pod: Pod, name: str) -> float:
    """What the pod lacks on a node, relative to the node."""
    allocatable = state.nodes[name].allocatable
    return sum(m / max(1, allocatable.get(r, 0)) for r, m in _missing(state, pod, name).items())


def _fits_empty(state: State, pod: Pod, name: str) -> bool:
    """Whether the node could take the pod if nothing else ran there."""
    allocatable = state.nodes[name].allocatable
    return allocatable.get("pods", 1) > 0 and all(
        a <= allocatable.get(r, 0) for r, a in pod.requests.items()
    )


def state_at_end(problem: PodsProblem, schedule: PodsSchedule) -> State:
    """The state that a plan leaves."""
    state = State(problem)
    for placement in schedule.placements:
        name, node, cells = placement.pod, placement.node, placement.numa
        if state.where[name] == node and state.cells.get(name, ()) == cells:
            continue
        if state.where[name] is not None:
            state.evict(name)
        if node is not None:
            state.bind(name, node, cells)
    return state


def pending_report(problem: PodsProblem, schedule: PodsSchedule | None) -> str:
    """For each pending pod the reasons per node and the smallest change, as text.

    With a schedule the state is the one after its steps.
    """
    state = State(problem) if schedule is None else state_at_end(problem, schedule)
    lines = []
    for pod in problem.pods:
        if state.where[pod.name] is not None:
            continue
        per_node = reasons(state, pod)
        lines.append(f"{pod.name}: {why_pending(state, pod, per_node)}")
        lines.append(f"  smallest change: {smallest_change(state, pod, per_node)}")
        for name, found in per_node.items():
            lines.append(f"  {name}: {'; '.join(r.message for r in found) or 'it fits'}")
    return "\n".join(lines) + "\n" if lines else "No pod is pending.\n"
