"""The picture of a plan: nodes as lanes, pods side by side, sized by their dominant request."""

from __future__ import annotations

from cpsched.families.pods.problem import PodsProblem, PodsSchedule
from cpsched.plot.figure import Bar, Figure, Lane

#: Lanes of the picture; larger clusters show the nodes that change.
MOST_LANES = 120


def draw(problem: PodsProblem, schedule: PodsSchedule) -> Figure:
    """Nodes after the plan; pods that the plan placed are marked, evicted ones dashed."""
    pods = {p.name: p for p in problem.pods}
    nodes = {n.name: n for n in problem.nodes}
    guests: dict[str, list[str]] = {n: [] for n in nodes}
    for placement in schedule.placements:
        if placement.node is not None:
            guests[placement.node].append(placement.pod)
    changed = {s.node or s.to for s in schedule.steps} | {s.source for s in schedule.steps}
    shown = list(nodes)
    if len(shown) > MOST_LANES:
        shown = sorted(shown, key=lambda n: n not in changed)[:MOST_LANES]
    bound = {s.pod for s in schedule.steps if s.action != "evict"}
    lanes = []
    for name in shown:
        bars, left = [], 0.0
        for guest in sorted(guests[name], key=lambda g: (-pods[g].priority, g)):
            pod = pods[guest]
            share = max(
                (
                    amount / nodes[name].allocatable[r]
                    for r, amount in pod.requests.items()
                    if nodes[name].allocatable.get(r)
                ),
                default=0.02,
            )
            new = guest in bound
            bars.append(
                Bar(
                    left,
                    left + share,
                    label=guest.rpartition("/")[2],
                    colour=f"priority {pod.priority}",
                    tooltip=f"{guest} (priority {pod.priority}{', placed by the plan' * new})",
                    dashed=new,
                )
            )
            left += share
        lanes.append(Lane(name, tuple(bars)))
    pending = sum(p.node is None for p in schedule.placements)
    notes = (f"{len(schedule.steps)} steps; {pending} pods without a place",)
    return Figure(
        f"pods: {problem.name or 'plan'}",
        x_label="dominant share of the node",
        lanes=tuple(lanes),
        notes=notes,
    )
