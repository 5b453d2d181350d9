"""From names to indices: classes of identical pods, arrays of nodes, and what binds classes.

Pods that no constraint can tell apart form a class; a class of pods that must stay is fixed. All
amounts are exact int64.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cpsched.core.run import Run
from cpsched.errors import Infeasible, ProblemError
from cpsched.families.pods.arrays import Bools, Ints
from cpsched.families.pods.between import (
    Conflict,
    Spreading,
    Together,
    Wishes,
    conflicts,
    spreads,
    togethers,
    wishes,
)
from cpsched.families.pods.classes import PodClass, Selectors, classify, jsons, static_key
from cpsched.families.pods.problem import Node, Placement, PodsProblem
from cpsched.families.pods.replay import budget_credit, static_refusals

#: Sums over a cluster must stay below this.
SAFE_TOTAL = 2**62
#: Pods above which preparing takes more than milliseconds.
LARGE = 2_000
#: Capacity of a resource without a limit.
UNLIMITED = 2**61


@dataclass
class Instance:
    """The prepared problem.

    Attributes
    ----------
    at
        Node index of each pod now, -1 when pending.
    class_of
        Class index of each pod.
    capacity, requests
        Per node and per class, per resource; resource 0 is the pod count.
    cell_capacity, cell_requests, cell_count
        The same for cells: node x cell x resource (-1 for an absent cell), class x resource, and
        cells that a pod of the class takes.
    allowed
        Class x node: whether no static rule forbids it.
    tiers
        Distinct priorities, descending; ``tier_of`` per class.
    drained
        Nodes that every pod that may move has to leave.
    """

    problem: PodsProblem
    classes: list[PodClass]
    class_of: Ints
    at: Ints
    cells_at: list[tuple[int, ...]]
    resources: list[str]
    capacity: Ints
    requests: Ints
    cell_resources: list[str]
    cell_capacity: Ints
    cell_requests: Ints
    cell_count: Ints
    allowed: Bools
    tiers: list[int]
    tier_of: Ints
    conflicts: list[Conflict]
    together: dict[int, Together]
    spreads: dict[int, list[Spreading]]
    wishes: Wishes
    budget_credit: list[int]
    quota_limits: Ints
    gang_minimum: list[int]

    drained: frozenset[int]
    #: Placements of the present state, shared by all schedules; filled when first asked for.
    present: list[Placement] = field(default_factory=list)
    #: Wall seconds that preparing took.
    seconds: float = 0.0

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.problem.nodes)


def prepare(problem: PodsProblem, run: Run) -> Instance:
    """Index a problem.

    Raises
    ------
    ProblemError
        When amounts are too large to be added up.
    Infeasible
        When a required pod fits no node for reasons that nothing can change.
    """
    started = time.perf_counter()
    large = len(problem.pods) > LARGE
    _check_totals(problem)

    def check() -> None:
        # A small cluster is prepared in milliseconds, and gets a plan whatever the clock says.
        if large:
            run.clock.check()

    selectors = Selectors(problem, check)
    classes, class_of = classify(problem, selectors, check)
    check()
    at = _positions(problem)
    for p, place in enumerate(at.tolist()):
        group = classes[class_of[p]]
        group.members.append(p)
        if place < 0:
            group.pending.append(p)
    resources, capacity, requests = _amounts(problem, classes)
    cell_resources, cell_capacity, cell_requests = _cell_amounts(problem, classes)
    allowed = _allowed(problem, classes)
    check()
    tiers = sorted({c.priority for c in classes}, reverse=True)
    index = {priority: k for k, priority in enumerate(tiers)}
    relaxed = set(problem.relaxed)
    instance = Instance(
        problem=problem,
        classes=classes,
        class_of=class_of,
        at=at,
        cells_at=[p.cell_indices for p in problem.pods],
        resources=resources,
        capacity=capacity,
        requests=requests,
        cell_resources=cell_resources,
        cell_capacity=cell_capacity,
        cell_requests=cell_requests,
        cell_count=np.array([c.pod.cells for c in classes], dtype=np.int64),
        allowed=allowed,
        tiers=tiers,
        tier_of=np.array([index[c.priority] for c in classes], dtype=np.int64),
        conflicts=conflicts(problem, classes, selectors, relaxed),
        together={} if "pod_affinity" in relaxed else togethers(problem, classes, selectors),
        spreads={} if "topology_spread" in relaxed else spreads(problem, classes, selectors),
        wishes=wishes(problem, classes, selectors),
        budget_credit=_budget_credits(problem, classes, selectors),
        quota_limits=_quota_limits(problem, resources),
        gang_minimum=[g.min_count for g in problem.gangs],
        drained=_drained(problem),
    )
    if relaxed & {"capacity"}:
        instance.capacity[:] = UNLIMITED
    if "cells" in relaxed:
        instance.cell_capacity[:] = UNLIMITED
    _refuse_hopeless(instance)
    if problem.notes and not run.message:
        run.message = "; ".join(problem.notes[:8])
    instance.seconds = time.perf_counter() - started
    return instance


def _drained(problem: PodsProblem) -> frozenset[int]:
    if "drain" in problem.relaxed:
        return frozenset()
    wanted = set(problem.drain)
    return frozenset(n for n, node in enumerate(problem.nodes) if node.name in wanted)


def _check_totals(problem: PodsProblem) -> None:
    totals: dict[str, int] = defaultdict(int)
    for pod in problem.pods:
        for resource, amount in pod.requests.items():
            totals[resource] += amount
        for resource, amount in pod.per_cell.items():
            totals[resource] += amount * max(1, pod.cells)
    for resource, total in totals.items():
        if total >= SAFE_TOTAL:
            raise ProblemError(
                f"the requests for {resource} must add up to less than 2**62",
                place="pods",
                value=total,
                remedy="Check the quantities, or use a larger unit.",
            )


def _positions(problem: PodsProblem) -> Ints:
    index = {n.name: i for i, n in enumerate(problem.nodes)}
    return np.array([-1 if p.node is None else index[p.node] for p in problem.pods], dtype=np.int64)


# ---------------------------------------------------------------------- amounts


def _amounts(problem: PodsProblem, classes: list[PodClass]) -> tuple[list[str], Ints, Ints]:
    wanted = {r for c in classes for r, a in c.pod.requests.items() if a > 0 and r != "pods"}
    resources = ["pods", *sorted(wanted)]
    capacity = np.zeros((len(problem.nodes), len(resources)), dtype=np.int64)
    for n, node in enumerate(problem.nodes):
        capacity[n, 0] = min(UNLIMITED, node.allocatable.get("pods", UNLIMITED))
        for k, resource in enumerate(resources[1:], 1):
            capacity[n, k] = min(UNLIMITED, node.allocatable.get(resource, 0))
    requests = np.zeros((len(classes), len(resources)), dtype=np.int64)
    requests[:, 0] = 1
    for c in classes:
        for k, resource in enumerate(resources[1:], 1):
            requests[c.index, k] = c.pod.requests.get(resource, 0)
    return resources, capacity, requests


def _cell_amounts(problem: PodsProblem, classes: list[PodClass]) -> tuple[list[str], Ints, Ints]:
    wanted = sorted({r for c in classes for r, a in c.pod.per_cell.items() if a > 0})
    width = max((len(n.cells) for n in problem.nodes), default=0)
    capacity = np.full((len(problem.nodes), width, len(wanted)), -1, dtype=np.int64)
    for n, node in enumerate(problem.nodes):
        for i, cell in enumerate(node.cells):
            for k, resource in enumerate(wanted):
                capacity[n, i, k] = min(UNLIMITED, cell.get(resource, 0))
    requests = np.zeros((len(classes), len(wanted)), dtype=np.int64)
    for c in classes:
        for k, resource in enumerate(wanted):
            requests[c.index, k] = c.pod.per_cell.get(resource, 0)
    return wanted, capacity, requests


def _allowed(problem: PodsProblem, classes: list[PodClass]) -> Bools:
    """Static rules per class and node, evaluated once per kind of pod and kind of node."""
    relaxed = set(problem.relaxed)
    by_name = any(
        e.key == "metadata.name"
        for c in classes
        for terms in (c.pod.node_affinity or (), *c.pod.volume_affinity)
        for t in terms
        for e in t.match_fields
    )
    keys: set[str] = set()
    for c in classes:
        keys.update(c.pod.node_selector)
        for terms in (c.pod.node_affinity or (), *c.pod.volume_affinity):
            for t in terms:
                keys.update(e.key for e in t.match_expressions)
    kinds: dict[Any, tuple[Node, list[int]]] = {}
    for n, node in enumerate(problem.nodes):
        key = (
            tuple((k, node.labels[k]) for k in sorted(keys) if k in node.labels),
            jsons(node.taints),
            node.unschedulable,
            node.name if by_name else "",
        )
        kinds.setdefault(key, (node, []))[1].append(n)
    drained = _drained(problem)
    allowed = np.zeros((len(classes), len(problem.nodes)), dtype=bool)
    seen: dict[Any, Bools] = {}
    for c in classes:
        key = static_key(c.pod)
        row = seen.get(key)
        if row is None:
            row = np.zeros(len(problem.nodes), dtype=bool)
            for node, members in kinds.values():
                refused = any(r.rule not in relaxed for r in static_refusals(c.pod, node))
                row[members] = not refused
            seen[key] = row
        allowed[c.index] = row
        if c.pod.hold and "hold" not in relaxed:
            allowed[c.index] = False
    allowed[:, list(drained)] = False
    return allowed


# ---------------------------------------------------------------------- budgets, quotas


def _budget_credits(
    problem: PodsProblem, classes: list[PodClass], selectors: Selectors
) -> list[int]:
    out: list[int] = []
    for b, budget in enumerate(problem.budgets):
        members = healthy = 0
        for index in np.flatnonzero(selectors.matching(classes, selectors.budget(budget))).tolist():
            c = classes[index]
            c.budgets = (*c.budgets, b)
            members += len(c.members)
            healthy += len(c.members) - len(c.pending)
        free = "budget" in problem.relaxed
        out.append(len(problem.pods) if free else budget_credit(budget, members, healthy))
    return out


def _quota_limits(problem: PodsProblem, resources: list[str]) -> Ints:
    out = np.full((len(problem.quotas), len(resources)), UNLIMITED, dtype=np.int64)
    if "quota" not in problem.relaxed:
        for q, quota in enumerate(problem.quotas):
            for k, resource in enumerate(resources):
                out[q, k] = min(UNLIMITED, quota.hard.get(resource, UNLIMITED))
    return out


def _refuse_hopeless(instance: Instance) -> None:
    """A required pod that no node can ever take proves that there is no plan."""
    problem = instance.problem
    if not problem.required:
        return
    names = set(problem.required)
    for c in instance.classes:
        if c.pending and c.pod.name in names:
            room = np.all(instance.capacity >= instance.requests[c.index], axis=1)
            if not bool(np.any(room & instance.allowed[c.index])):
                raise Infeasible(f"pod {c.pod.name} fits no node, even an empty one")
