"""Values of the objectives of a valid plan, from their definitions, with exact integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from cpsched.families.pods import check_reassignment
from cpsched.families.pods import labels as rules
from cpsched.families.pods.problem import Pod, PodsProblem, PodsSchedule
from cpsched.result import Number, Values


def tier_counts(problem: PodsProblem, placed: set[str]) -> dict[str, int]:
    """Pods (by weight) placed at each priority and above, by descending priority."""
    per: dict[int, int] = {}
    for pod in problem.pods:
        per[pod.priority] = per.get(pod.priority, 0) + pod.weight * (pod.name in placed)
    out: dict[str, int] = {}
    total = 0
    for priority in sorted(per, reverse=True):
        total += per[priority]
        out[str(priority)] = total
    return out


def evaluate(problem: PodsProblem, schedule: PodsSchedule, names: Sequence[str]) -> Values:
    """Values of the named objectives of a valid plan."""
    at = {p.pod: p.node for p in schedule.placements}
    counts: dict[str, int] | None = None
    out: list[Number] = []
    for name in names:
        if name.startswith("placed@"):
            if counts is None:
                counts = tier_counts(problem, {p for p, n in at.items() if n is not None})
            out.append(counts[name.removeprefix("placed@")])
        elif name == "reassignment_cost":
            out.append(check_reassignment.cost(problem, schedule))
        else:
            out.append(_OBJECTIVES[name](problem, schedule))
    return tuple(out)


def disruption(problem: PodsProblem, schedule: PodsSchedule) -> int:
    """Weighted running pods that are evicted for good or end elsewhere (cells included)."""
    total = 0
    placed = {p.pod: p for p in schedule.placements}
    for pod in problem.pods:
        if pod.node is None:
            continue
        end = placed[pod.name]
        if end.node is None:
            total += problem.eviction_weight
        elif end.node != pod.node or end.numa != pod.cell_indices:
            total += problem.move_weight
    return total


def nodes_used(problem: PodsProblem, schedule: PodsSchedule) -> int:
    """Nodes with at least one pod that could run elsewhere (daemon pods do not count)."""
    movable = {p.name for p in problem.pods if p.movable or p.node is None}
    return len({p.node for p in schedule.placements if p.node is not None and p.pod in movable})


def node_cost(problem: PodsProblem, schedule: PodsSchedule) -> int:
    """Total cost of the optional nodes that a plan uses."""
    used = {p.node for p in schedule.placements}
    return sum(n.cost for n in problem.nodes if n.optional and n.name in used)


def fragmentation(problem: PodsProblem, schedule: PodsSchedule) -> int:
    """Future pods that would not fit any more, each shape counted alone.

    Shapes are compared with free resources only; their constraints are not known yet.
    """
    free = _free(problem, schedule)
    lost = 0
    for shape in problem.future:
        slots = 0
        for node in problem.nodes:
            if node.unschedulable or node.optional or node.name in problem.drain:
                continue
            limits = [
                max(0, free[node.name].get(r, 0)) // a for r, a in shape.requests.items() if a > 0
            ]
            if "pods" in node.allocatable:
                limits.append(max(0, free[node.name]["pods"]))
            slots += min(limits, default=shape.count)
        lost += max(0, shape.count - slots)
    return lost


def _free(problem: PodsProblem, schedule: PodsSchedule) -> dict[str, Counter[str]]:
    free = {n.name: Counter(n.allocatable) for n in problem.nodes}
    pods = {p.name: p for p in problem.pods}
    for placement in schedule.placements:
        if placement.node is not None:
            free[placement.node].subtract(pods[placement.pod].requests)
            free[placement.node]["pods"] -= 1
    return free


def balance(problem: PodsProblem, schedule: PodsSchedule) -> int:
    """Highest use of a requested resource on a node, in thousandths, rounded up."""
    free = _free(problem, schedule)
    worst = 0
    for node in problem.nodes:
        for resource, amount in node.allocatable.items():
            if amount > 0:
                used = amount - free[node.name][resource]
                worst = max(worst, -((-1000 * used) // amount))
    return worst


def preference(problem: PodsProblem, schedule: PodsSchedule) -> int:
    """How well placed pods are by their preferences; maximised.

    Each placed pod earns the weights of its preferred node terms, and of its preferred pod terms
    that hold at the end: with another matching pod in the domain, or without one when it wants to
    be apart. It loses `SOFT_WEIGHT` per PreferNoSchedule taint that it does not tolerate, and per
    ScheduleAnyway spread constraint whose skew its domain exceeds.
    """
    from cpsched.families.pods.replay import State

    nodes = {n.name: n for n in problem.nodes}
    at = {p.pod: p.node for p in schedule.placements}
    state = State(problem.model_copy(update={"pods": tuple(_at_end(problem, schedule))}))
    total = 0
    for pod in problem.pods:
        place = at[pod.name]
        if place is None:
            continue
        node = nodes[place]
        total += rules.node_preference(pod, node)
        for wish in pod.preferred_pods:
            others = state.near(pod, wish.term, node)
            total += wish.weight * ((others == 0) if wish.apart else (others > 0))
        for spread in pod.preferred_spread:
            kept = rules.spread_eligible(pod, spread, node) and not state.skewed(pod, spread, node)
            total -= rules.SOFT_WEIGHT * (not kept)
    return total


def _at_end(problem: PodsProblem, schedule: PodsSchedule) -> list[Pod]:
    """The pods with their places at the end as their present ones."""
    at = {p.pod: p for p in schedule.placements}
    return [
        p
        if (p.node, p.cell_indices) == (at[p.name].node, at[p.name].numa)
        else p.model_copy(update={"node": at[p.name].node, "cell_indices": at[p.name].numa})
        for p in problem.pods
    ]


def fragment_rate(problem: PodsProblem, schedule: PodsSchedule) -> float:
    """Share of the free cores of active nodes' cells that no multiple of X cores can use."""
    fragments, free = fragment_parts(problem, schedule)
    return float(Fraction(fragments, free)) if free else 0.0


def fragment_parts(problem: PodsProblem, schedule: PodsSchedule) -> tuple[int, int]:
    """Numerator and denominator of `fragment_rate`, in millicores."""
    free = {
        n.name: [c.get("cpu", 0) for c in n.cells] for n in problem.nodes if not n.unschedulable
    }
    pods = {p.name: p for p in problem.pods}
    for placement in schedule.placements:
        if placement.node in free:
            for cell in placement.numa:
                free[placement.node][cell] -= pods[placement.pod].per_cell.get("cpu", 0)
    size = 1000 * problem.fragment_cores
    cells = [max(0, c) for row in free.values() for c in row]
    return sum(c % size for c in cells), sum(cells)


def gpus_allocated(problem: PodsProblem, schedule: PodsSchedule) -> int:
    """Thousandths of GPUs that placed pods take; maximised."""
    pods = {p.name: p for p in problem.pods}
    return sum(
        pods[p.pod].per_cell.get("gpu_milli", 0) * pods[p.pod].cells
        for p in schedule.placements
        if p.node is not None
    )


_OBJECTIVES = {
    "disruption": disruption,
    "nodes_used": nodes_used,
    "node_cost": node_cost,
    "fragmentation": fragmentation,
    "fragment_rate": fragment_rate,
    "balance": balance,
    "preference": preference,
    "gpu_milli": gpus_allocated,
}
#: Objectives besides placed@<priority>, and whether they are maximised.
OBJECTIVES = {
    **{name: name in ("preference", "gpu_milli") for name in _OBJECTIVES},
    "reassignment_cost": False,
}
