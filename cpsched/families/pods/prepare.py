"""From names to indices: classes of identical pods, arrays of nodes, and what binds classes.

Pods that no constraint can tell apart form a class; a class of pods that must stay is fixed. All
amounts are exact int64.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cpsched.core.run import Run
from cpsched.errors import Infeasible, ProblemError
from cpsched.families.pods import labels as rules
from cpsched.families.pods.problem import (
    Node,
    Placement,
    Pod,
    PodsProblem,
    PodTerm,
    Selector,
    Spread,
)
from cpsched.families.pods.replay import budget_credit, static_refusals

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

#: Sums over a cluster must stay below this.
SAFE_TOTAL = 2**62
#: Capacity of a resource without a limit.
UNLIMITED = 2**61


@dataclass(frozen=True)
class Conflict:
    """No holder shares a domain of ``domain`` with another pod that matches.

    ``rule`` names the constraint; ``domain`` gives each node's domain, -1 for none.
    """

    rule: str
    domain: Ints
    domains: int
    holders: Bools
    matches: Bools


@dataclass(frozen=True)
class Together:
    """A class's required pod affinity: a matching pod in the domain for every topology."""

    matches: Bools
    domains: tuple[Ints, ...]
    own: bool


@dataclass(frozen=True)
class Spreading:
    """A class's topology spread: domains of eligible nodes, -1 for the others.

    A node that is not eligible is no place for the class either, whatever the reason.
    """

    matches: Bools
    eligible: Ints
    domains: int
    max_skew: int
    min_domains: int
    own: bool


@dataclass
class PodClass:
    """Pods that no constraint can tell apart."""

    index: int
    pod: Pod
    priority: int
    weight: int
    fixed: bool
    members: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    budgets: tuple[int, ...] = ()
    gang: int = -1
    quotas: tuple[int, ...] = ()


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
    budget_credit: list[int]
    quota_limits: Ints
    gang_minimum: list[int]

    drained: frozenset[int]
    #: Placements of the present state, shared by all schedules; filled when first asked for.
    present: list[Placement] = field(default_factory=list)

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
    clock = run.clock
    _check_totals(problem)
    selectors = _Selectors(problem)
    classes, class_of = _classify(problem, selectors)
    clock.check()
    at = _positions(problem)
    for p, place in enumerate(at.tolist()):
        group = classes[class_of[p]]
        group.members.append(p)
        if place < 0:
            group.pending.append(p)
    resources, capacity, requests = _amounts(problem, classes)
    cell_resources, cell_capacity, cell_requests = _cell_amounts(problem, classes)
    allowed = _allowed(problem, classes)
    clock.check()
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
        conflicts=_conflicts(problem, classes, selectors, relaxed),
        together={} if "pod_affinity" in relaxed else _together(problem, classes, selectors),
        spreads={} if "topology_spread" in relaxed else _spreads(problem, classes, selectors),
        budget_credit=_budget_credits(problem, classes),
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


# ---------------------------------------------------------------------- classes


class _Selectors:
    """Every distinct (namespaces, selector) in use, and which pods each matches."""

    def __init__(self, problem: PodsProblem) -> None:
        self.problem = problem
        self._index: dict[Any, int] = {}
        self._tests: list[Any] = []
        self._pod_keys: dict[int, tuple[int, ...]] = {}
        self._signatures: dict[Any, tuple[bool, ...]] = {}
        #: Selector x class: whether it matches, once the classes are known.
        self.table: Bools | None = None
        for pod in problem.pods:
            for term in (*pod.pod_affinity, *pod.pod_anti_affinity):
                self.term(pod, term)
            for spread in pod.topology_spread:
                self.spread(pod, spread)
        for budget in problem.budgets:
            self.add(
                ("budget", budget.namespace, _json(budget.selector)),
                lambda ns, labels, b=budget: (
                    ns == b.namespace and rules.selects(b.selector, labels)
                ),
            )

    def add(self, key: Any, test: Any) -> int:
        if key not in self._index:
            self._index[key] = len(self._tests)
            self._tests.append(test)
        return self._index[key]

    def term(self, pod: Pod, term: PodTerm) -> int:
        """Index of a pod term as seen from the pod."""
        selector = rules.term_selector(pod, term)
        own, spaces = pod.namespace, self.problem.namespaces
        key = (
            "term",
            own if not term.namespaces and term.namespace_selector is None else "",
            term.namespaces,
            _json(term.namespace_selector),
            _json(selector),
        )
        return self.add(
            key,
            lambda ns, labels: (
                rules.term_namespaces_match(term, own, ns, spaces)
                and rules.selects(selector, labels)
            ),
        )

    def spread(self, pod: Pod, spread: Spread) -> int:
        """Index of a spread constraint's selector as seen from the pod."""
        selector: Selector | None = rules.spread_selector(pod, spread)
        own = pod.namespace
        return self.add(
            ("spread", own, _json(selector)),
            lambda ns, labels: ns == own and rules.selects(selector, labels),
        )

    def signature(self, pod: Pod) -> tuple[bool, ...]:
        """Which of the selectors match the pod."""
        if not self._tests:
            return ()
        key = (pod.namespace, tuple(pod.labels.items()))
        found = self._signatures.get(key)
        if found is None:
            found = tuple(bool(t(pod.namespace, pod.labels)) for t in self._tests)
            self._signatures[key] = found
        return found


def _json(record: Any) -> Any:
    return None if record is None else record.model_dump_json()


def _jsons(records: Any) -> Any:
    return tuple(r.model_dump_json() for r in records) if records else ()


def _classify(problem: PodsProblem, selectors: _Selectors) -> tuple[list[PodClass], Ints]:
    keys: dict[Any, int] = {}
    classes: list[PodClass] = []
    class_of = np.zeros(len(problem.pods), dtype=np.int64)
    quota_spaces = {q.namespace for q in problem.quotas}
    gangs = {g.name: i for i, g in enumerate(problem.gangs)}
    required = set(problem.required)
    stuck = "movable" not in problem.relaxed
    spaces = bool(quota_spaces)
    for p, pod in enumerate(problem.pods):
        fixed = stuck and pod.node is not None and not pod.movable
        signature = selectors.signature(pod)
        terms: tuple[Any, ...] = ()
        if pod.pod_affinity or pod.pod_anti_affinity or pod.topology_spread:
            terms = (
                tuple((t.topology_key, selectors.term(pod, t)) for t in pod.pod_affinity),
                tuple((t.topology_key, selectors.term(pod, t)) for t in pod.pod_anti_affinity),
                tuple((_json(s), selectors.spread(pod, s)) for s in pod.topology_spread),
            )
        key = (
            tuple(pod.requests.items()),
            pod.priority,
            pod.weight,
            fixed,
            pod.preemption_policy,
            pod.hold,
            bool(required) and pod.name in required,
            static_key(pod),
            _jsons(pod.host_ports),
            pod.exclusive_claims,
            terms,
            signature,
            pod.namespace if spaces and pod.namespace in quota_spaces else "",
            pod.gang,
            pod.cells,
            tuple(pod.per_cell.items()),
            _jsons(pod.preferred_nodes),
        )
        index = keys.get(key)
        if index is None:
            index = keys[key] = len(classes)
            classes.append(
                PodClass(
                    index,
                    pod,
                    pod.priority,
                    pod.weight,
                    fixed,
                    gang=gangs.get(pod.gang, -1),
                    quotas=tuple(
                        q
                        for q, quota in enumerate(problem.quotas)
                        if quota.namespace == pod.namespace
                    ),
                )
            )
        class_of[p] = index
    return classes, class_of


def static_key(pod: Pod) -> Any:
    """What decides which nodes suit a pod whatever runs on them."""
    if not (pod.node_selector or pod.tolerations or pod.volume_affinity):
        return None if pod.node_affinity is None else _jsons(pod.node_affinity)
    return (
        tuple(sorted(pod.node_selector.items())),
        None if pod.node_affinity is None else _jsons(pod.node_affinity),
        _jsons(pod.tolerations),
        tuple(_jsons(terms) for terms in pod.volume_affinity),
    )


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
            _jsons(node.taints),
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


# ---------------------------------------------------------------------- between pods


def _domains(problem: PodsProblem, key: str) -> tuple[Ints, int]:
    index: dict[str, int] = {}
    out = np.full(len(problem.nodes), -1, dtype=np.int64)
    for n, node in enumerate(problem.nodes):
        value = node.labels.get(key)
        if value is not None:
            out[n] = index.setdefault(value, len(index))
    return out, len(index)


def _conflicts(
    problem: PodsProblem, classes: list[PodClass], selectors: _Selectors, relaxed: set[str]
) -> list[Conflict]:
    out: list[Conflict] = []
    if "pod_anti_affinity" not in relaxed:
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        for c in classes:
            for term in c.pod.pod_anti_affinity:
                groups[term.topology_key, selectors.term(c.pod, term)].append(c.index)
        known: dict[str, tuple[Ints, int]] = {}
        for (key, selector), indices in groups.items():
            if key not in known:
                known[key] = _domains(problem, key)
            domain, count = known[key]
            holders = np.zeros(len(classes), dtype=bool)
            holders[indices] = True
            matches = _matching(classes, selectors, selector)
            out.append(Conflict("pod_anti_affinity", domain, count, holders, matches))
    if "host_ports" not in relaxed:
        ports = {p.model_dump_json(): p for c in classes for p in c.pod.host_ports}
        for port in ports.values():
            holders = np.array([port in c.pod.host_ports for c in classes], dtype=bool)
            matches = np.array(
                [any(rules.ports_clash(port, p) for p in c.pod.host_ports) for c in classes],
                dtype=bool,
            )
            own = np.arange(len(problem.nodes), dtype=np.int64)
            out.append(Conflict("host_ports", own, len(problem.nodes), holders, matches))
    if "exclusive_claims" not in relaxed:
        for claim in sorted({x for c in classes for x in c.pod.exclusive_claims}):
            users = np.array([claim in c.pod.exclusive_claims for c in classes], dtype=bool)
            whole = np.zeros(len(problem.nodes), dtype=np.int64)
            out.append(Conflict("exclusive_claims", whole, 1, users, users))
    return out


def _matching(classes: list[PodClass], selectors: _Selectors, index: int) -> Bools:
    if selectors.table is None:
        rows = [selectors.signature(c.pod) for c in classes]
        selectors.table = np.array(rows, dtype=bool).T.copy()
    row: Bools = selectors.table[index]
    return row


def _together(
    problem: PodsProblem, classes: list[PodClass], selectors: _Selectors
) -> dict[int, Together]:
    out = {}
    for c in classes:
        if c.pod.pod_affinity:
            matches = np.ones(len(classes), dtype=bool)
            for term in c.pod.pod_affinity:
                matches &= _matching(classes, selectors, selectors.term(c.pod, term))
            keys = dict.fromkeys(t.topology_key for t in c.pod.pod_affinity)
            domains = tuple(_domains(problem, k)[0] for k in keys)
            out[c.index] = Together(matches, domains, bool(matches[c.index]))
    return out


def _spreads(
    problem: PodsProblem, classes: list[PodClass], selectors: _Selectors
) -> dict[int, list[Spreading]]:
    out: dict[int, list[Spreading]] = {}
    nodes: dict[Any, tuple[Ints, int]] = {}
    for c in classes:
        for spread in c.pod.topology_spread:
            keys = tuple(s.topology_key for s in c.pod.topology_spread)
            policies = (spread.node_affinity_policy, spread.node_taints_policy)
            who = (spread.topology_key, keys, policies, static_key(c.pod))
            if who not in nodes:
                nodes[who] = _eligible(problem, c.pod, spread)
            eligible, count = nodes[who]
            matches = _matching(classes, selectors, selectors.spread(c.pod, spread))
            out.setdefault(c.index, []).append(
                Spreading(
                    matches,
                    eligible,
                    count,
                    spread.max_skew,
                    spread.min_domains or 0,
                    bool(matches[c.index]),
                )
            )
    return out


def _eligible(problem: PodsProblem, pod: Pod, spread: Spread) -> tuple[Ints, int]:
    """Domain of every eligible node, -1 for the others, and the number of domains."""
    domain, _ = _domains(problem, spread.topology_key)
    fit = np.array([rules.spread_eligible(pod, spread, n) for n in problem.nodes], dtype=bool)
    # Domains without an eligible node do not count: number the others densely.
    used, dense = np.unique(domain[fit], return_inverse=True)
    eligible = np.full(len(domain), -1, dtype=np.int64)
    eligible[fit] = dense
    return eligible, len(used)


# ---------------------------------------------------------------------- budgets, quotas


def _budget_credits(problem: PodsProblem, classes: list[PodClass]) -> list[int]:
    out: list[int] = []
    for b, budget in enumerate(problem.budgets):
        members = healthy = 0
        for c in classes:
            if c.pod.namespace != budget.namespace or not rules.selects(
                budget.selector, c.pod.labels
            ):
                continue
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
