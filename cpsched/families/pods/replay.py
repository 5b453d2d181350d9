"""The state of a cluster, changed one action at a time: what may happen when, by definition.

`State.refusals` lists why a pod cannot be bound to a node now, as kube-scheduler's filters would;
`State.eviction_refusal` why it cannot be evicted. The checker replays plans with it, and plans are
put in order with it. Counts per topology domain are built when first asked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from cpsched.families.pods import labels as rules
from cpsched.families.pods.problem import Budget, Node, Pod, PodsProblem, PodTerm, Selector, Spread
from cpsched.families.pods.quantity import show_quantity


class Refusal(NamedTuple):
    """Why an action is not possible: the constraint, a sentence, and by how much."""

    rule: str
    message: str
    amount: int | None = None


class _Kinds:
    """Pods with the same namespace and labels are of one kind: selectors look at kinds."""

    def __init__(self, problem: PodsProblem) -> None:
        index: dict[object, int] = {}
        self.of: dict[str, int] = {}
        self.pods: list[Pod] = []
        self.members: list[list[str]] = []
        self._by_label: dict[tuple[str, str], list[int]] = {}
        for pod in problem.pods:
            key = (pod.namespace, tuple(pod.labels.items()))
            kind = index.setdefault(key, len(index))
            if kind == len(self.pods):
                self.pods.append(pod)
                self.members.append([])
                for label in pod.labels.items():
                    self._by_label.setdefault(label, []).append(kind)
            self.members[kind].append(pod.name)
            self.of[pod.name] = kind

    def selected(self, selector: Selector | None) -> list[int]:
        """Kinds whose labels the selector selects."""
        if selector is None:
            return []
        candidates: Iterable[int] = range(len(self.pods))
        for label in selector.match_labels.items():
            candidates = self._by_label.get(label, [])
            break
        return [k for k in candidates if rules.selects(selector, self.pods[k].labels)]


class _Tally:
    """Placed pods of some kinds (or names), counted per node."""

    def __init__(self, kinds: _Kinds, chosen: frozenset[int], names: frozenset[str] | None) -> None:
        self._of, self._chosen, self._names = kinds.of, chosen, names
        self.per_node: Counter[str] = Counter()

    def matches(self, pod: Pod) -> bool:
        if self._names is not None:
            return pod.name in self._names
        return self._of[pod.name] in self._chosen

    def change(self, pod: Pod, node: str, by: int) -> None:
        if self.matches(pod):
            self.per_node[node] += by


class _Domains(NamedTuple):
    """Counts of a tally per topology domain."""

    tally: _Tally
    domain_of: dict[str, str]
    counts: dict[str, int]


class State:
    """Where every pod is, and what follows from it.

    Parameters
    ----------
    problem
        The problem; its running pods are where the state begins.
    """

    def __init__(self, problem: PodsProblem) -> None:
        self.problem = problem
        self.nodes: dict[str, Node] = {n.name: n for n in problem.nodes}
        self.pods: dict[str, Pod] = {p.name: p for p in problem.pods}
        self.where: dict[str, str | None] = {p.name: p.node for p in problem.pods}
        self.cells: dict[str, tuple[int, ...]] = {}
        self.relaxed = frozenset(problem.relaxed)
        self.used: dict[str, Counter[str]] = {n: Counter() for n in self.nodes}
        self.cell_used: dict[str, list[Counter[str]]] = {
            n.name: [Counter() for _ in n.cells] for n in problem.nodes if n.cells
        }
        self.guests: dict[str, dict[str, None]] = {n: {} for n in self.nodes}
        self._tallies: dict[object, _Tally] = {}
        self._domains: dict[tuple[int, object], _Domains] = {}
        self._matched: dict[str, frozenset[int]] = {}
        self._kinds: _Kinds | None = None
        self._anti: list[tuple[PodTerm, str, Selector | None, _Tally]] | None = None
        self._claims: dict[str, set[str]] = defaultdict(set)
        self._quota_used: dict[str, Counter[str]] = {}
        self._credit: dict[str, int] | None = None
        self._eligible: dict[object, dict[str, str]] = {}
        self._topologies: dict[str, dict[str, str]] = {}
        self.in_flight: set[str] = set()
        #: Pods that a plan evicts for good: they do not count as being on the move.
        self.gone: frozenset[str] = frozenset()
        for pod in problem.pods:
            if pod.node is not None:
                self._enter(pod, pod.node, pod.cell_indices)

    # ------------------------------------------------------------------ changes

    def bind(self, name: str, node: str, cells: tuple[int, ...] = ()) -> None:
        """Put a pod that is nowhere on a node, without asking whether it may."""
        pod = self.pods[name]
        self.where[name] = node
        self._enter(pod, node, cells)
        for tally in self._tallies.values():
            tally.change(pod, node, 1)
        self._recount_domains(pod, node, 1)
        if self._credit is not None:
            for budget in self._budgets_of(pod):
                self._credit[budget.name] += 1
        self.in_flight.discard(name)

    def evict(self, name: str) -> None:
        """Take a pod off its node, without asking whether it may."""
        if self.problem.budgets:
            self._credits()
        pod = self.pods[name]
        node = self.where[name]
        assert node is not None
        self._leave(pod, node)
        self.where[name] = None
        for tally in self._tallies.values():
            tally.change(pod, node, -1)
        self._recount_domains(pod, node, -1)
        if self._credit is not None:
            for budget in self._budgets_of(pod):
                self._credit[budget.name] -= 1
        self.in_flight.add(name)

    def _enter(self, pod: Pod, node: str, cells: tuple[int, ...]) -> None:
        used = self.used[node]
        for resource, amount in pod.requests.items():
            used[resource] += amount
        used["pods"] += 1
        for cell in cells:
            self.cell_used[node][cell].update(pod.per_cell)
        if cells:
            self.cells[pod.name] = cells
        for claim in pod.exclusive_claims:
            self._claims[claim].add(pod.name)
        for quota_used in (self._quota_used.get(pod.namespace),):
            if quota_used is not None:
                quota_used.update(pod.requests)
                quota_used["pods"] += 1
        self.guests[node][pod.name] = None

    def _leave(self, pod: Pod, node: str) -> None:
        used = self.used[node]
        for resource, amount in pod.requests.items():
            used[resource] -= amount
        used["pods"] -= 1
        for cell in self.cells.pop(pod.name, ()):
            self.cell_used[node][cell].subtract(pod.per_cell)
        for claim in pod.exclusive_claims:
            self._claims[claim].discard(pod.name)
        quota_used = self._quota_used.get(pod.namespace)
        if quota_used is not None:
            quota_used.subtract(pod.requests)
            quota_used["pods"] -= 1
        del self.guests[node][pod.name]

    # ------------------------------------------------------------------ binding

    def refusals(
        self, name: str, node_name: str, cells: tuple[int, ...] = (), *, moving: bool = False
    ) -> list[Refusal]:
        """Every reason why the pod cannot be bound to the node now; empty when it can.

        ``moving`` means a live migration: the pod still runs on its source, whose resources it
        holds, but it does not stand in its own way otherwise.
        """
        pod, node = self.pods[name], self.nodes[node_name]
        found = list(self._all_refusals(pod, node, cells, moving))
        return [r for r in found if r.rule not in self.relaxed] if self.relaxed else found

    def _all_refusals(
        self, pod: Pod, node: Node, cells: tuple[int, ...], moving: bool
    ) -> Iterator[Refusal]:
        if pod.hold:
            yield Refusal("hold", f"it is held: {pod.hold}")
        if node.name in self.problem.drain:
            yield Refusal("drain", "node(s) are being drained")
        yield from static_refusals(pod, node)
        yield from self._capacity(pod, node)
        yield from self._cells(pod, node, cells)
        yield from self._ports_and_claims(pod, node)
        source = self.where[pod.name]
        if moving and source is not None:
            self._count_out(pod, source, -1)
        try:
            yield from self._anti_affinity(pod, node)
            yield from self._affinity(pod, node)
            yield from self._spread(pod, node)
        finally:
            if moving and source is not None:
                self._count_out(pod, source, 1)
        if not moving:
            yield from self._quota(pod)

    def _count_out(self, pod: Pod, node: str, by: int) -> None:
        for tally in self._tallies.values():
            tally.change(pod, node, by)
        self._recount_domains(pod, node, by)

    def _capacity(self, pod: Pod, node: Node) -> Iterator[Refusal]:
        used = self.used[node.name]
        limit = node.allocatable.get("pods")
        if limit is not None and used["pods"] + 1 > limit:
            yield Refusal("capacity", "Too many pods", used["pods"] + 1 - limit)
        for resource, amount in pod.requests.items():
            missing = used[resource] + amount - node.allocatable.get(resource, 0)
            if amount > 0 and missing > 0:
                short = show_quantity(resource, missing)
                yield Refusal("capacity", f"Insufficient {resource} (short of {short})", missing)

    def _cells(self, pod: Pod, node: Node, cells: tuple[int, ...]) -> Iterator[Refusal]:
        if not pod.cells and not cells:
            return
        if len(cells) != pod.cells or len(set(cells)) != len(cells):
            yield Refusal("cells", f"it takes {pod.cells} distinct cells")
            return
        for cell in cells:
            if not 0 <= cell < len(node.cells):
                yield Refusal("cells", f"node(s) have no cell {cell}")
                continue
            for resource, amount in pod.per_cell.items():
                held = self.cell_used[node.name][cell][resource]
                missing = held + amount - node.cells[cell].get(resource, 0)
                if amount > 0 and missing > 0:
                    yield Refusal("cells", f"Insufficient {resource} in cell {cell}", missing)

    def _ports_and_claims(self, pod: Pod, node: Node) -> Iterator[Refusal]:
        if pod.host_ports:
            for guest in self.guests[node.name]:
                if guest == pod.name:
                    continue
                for theirs in self.pods[guest].host_ports:
                    if any(rules.ports_clash(mine, theirs) for mine in pod.host_ports):
                        yield Refusal(
                            "host_ports", "node(s) didn't have free ports for the requested pod"
                        )
                        break
        for claim in pod.exclusive_claims:
            if self._claims[claim] - {pod.name}:
                yield Refusal("exclusive_claims", f"claim {claim} is in use by another pod")

    def _anti_affinity(self, pod: Pod, node: Node) -> Iterator[Refusal]:
        for term in pod.pod_anti_affinity:
            domain = node.labels.get(term.topology_key)
            if domain is None:
                continue
            tally = self._term_tally(pod, [term])
            if self._in_domain(tally, term.topology_key, domain) > 0:
                yield Refusal("pod_anti_affinity", "node(s) didn't match pod anti-affinity rules")
        for term, own, selector, holders in self._anti_terms():
            domain = node.labels.get(term.topology_key)
            if domain is None or not self._looks_at(term, own, selector, pod):
                continue
            if self._in_domain(holders, term.topology_key, domain) > 0:
                yield Refusal(
                    "pod_anti_affinity",
                    "node(s) didn't satisfy existing pods anti-affinity rules",
                )

    def _affinity(self, pod: Pod, node: Node) -> Iterator[Refusal]:
        if not pod.pod_affinity:
            return
        tally = self._term_tally(pod, list(pod.pod_affinity))
        missing = False
        for term in pod.pod_affinity:
            domain = node.labels.get(term.topology_key)
            if domain is None:
                yield Refusal("pod_affinity", "node(s) didn't match pod affinity rules")
                return
            missing |= self._in_domain(tally, term.topology_key, domain) <= 0
        if missing and not (self._nowhere(tally, pod) and tally.matches(pod)):
            yield Refusal("pod_affinity", "node(s) didn't match pod affinity rules")

    def _nowhere(self, tally: _Tally, pod: Pod) -> bool:
        """Whether no pod matches on any node that has one of the topology keys."""
        keys = {t.topology_key for t in pod.pod_affinity}
        return all(
            count <= 0 or not keys & self.nodes[name].labels.keys()
            for name, count in tally.per_node.items()
        )

    def _spread(self, pod: Pod, node: Node) -> Iterator[Refusal]:
        for spread in pod.topology_spread:
            domain = node.labels.get(spread.topology_key)
            if domain is None:
                yield Refusal(
                    "topology_spread",
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                )
                continue
            counts, own = self.spread_counts(pod, spread)
            skew = counts.get(domain, 0) + own - self._lowest(counts, spread)
            if skew > spread.max_skew:
                yield Refusal(
                    "topology_spread",
                    "node(s) didn't match pod topology spread constraints",
                    skew - spread.max_skew,
                )

    def spread_counts(self, pod: Pod, spread: Spread) -> tuple[dict[str, int], int]:
        """Matching pods per eligible domain, and whether the pod matches its own selector."""
        selector = rules.spread_selector(pod, spread)
        key = ("spread", pod.namespace, _content(selector))

        def chosen() -> Iterable[int]:
            kinds = self._kinds_of()
            found = kinds.selected(selector)
            return (k for k in found if kinds.pods[k].namespace == pod.namespace)

        tally = self._tally(key, chosen)
        who = (
            spread.topology_key,
            _content(pod.node_selector),
            _content(pod.node_affinity),
            _content(pod.tolerations),
            tuple(s.topology_key for s in pod.topology_spread),
            tuple(s.topology_key for s in pod.preferred_spread),
            spread in pod.preferred_spread,
            spread.node_affinity_policy,
            spread.node_taints_policy,
        )
        if who not in self._eligible:
            self._eligible[who] = {
                n.name: n.labels[spread.topology_key]
                for n in self.problem.nodes
                if rules.spread_eligible(pod, spread, n)
            }
        counts = self._count_domains(tally, who, self._eligible[who])
        return counts, int(rules.selects(selector, pod.labels))

    def _quota(self, pod: Pod) -> Iterator[Refusal]:
        for quota in self.problem.quotas:
            if quota.namespace != pod.namespace:
                continue
            used = self._quota_used.get(quota.namespace)
            if used is None:
                used = Counter()
                for name, place in self.where.items():
                    other = self.pods[name]
                    if place is not None and other.namespace == quota.namespace:
                        used.update(other.requests)
                        used["pods"] += 1
                self._quota_used[quota.namespace] = used
            for resource, hard in quota.hard.items():
                amount = 1 if resource == "pods" else pod.requests.get(resource, 0)
                if amount > 0 and used[resource] + amount > hard:
                    yield Refusal(
                        "quota",
                        f"exceeded quota {quota.name}: {resource}",
                        used[resource] + amount - hard,
                    )

    # ------------------------------------------------------------------ evicting

    def eviction_refusal(self, name: str) -> Refusal | None:
        """Why the pod cannot be evicted now, or None."""
        pod = self.pods[name]
        refusal = None
        if not pod.movable and "movable" not in self.relaxed:
            why = f" ({pod.reason})" if pod.reason else ""
            refusal = Refusal("movable", f"pod {name} must not be moved{why}")
        elif self.problem.budgets and "budget" not in self.relaxed:
            for budget in self._budgets_of(pod):
                if self._credits()[budget.name] < 1:
                    refusal = Refusal("budget", f"budget {budget.name} allows no disruption now", 1)
        limit = self.problem.max_in_flight
        if (
            refusal is None
            and limit is not None
            and name not in self.gone
            and len(self.in_flight - self.gone) >= limit
            and "max_in_flight" not in self.relaxed
        ):
            refusal = Refusal("max_in_flight", f"{limit} pods are on the move already", 1)
        return refusal

    def _budgets_of(self, pod: Pod) -> list[Budget]:
        return [
            b
            for b in self.problem.budgets
            if b.namespace == pod.namespace and self._selected(b.selector, pod)
        ]

    def _credits(self) -> dict[str, int]:
        """Disruptions that each budget allows now."""
        if self._credit is None:
            self._credit = {}
            for budget in self.problem.budgets:
                members = [
                    p
                    for p in self.problem.pods
                    if p.namespace == budget.namespace and self._selected(budget.selector, p)
                ]
                healthy = sum(self.where[p.name] is not None for p in members)
                self._credit[budget.name] = budget_credit(budget, len(members), healthy)
        return self._credit

    # ------------------------------------------------------------------ preferences

    def near(self, pod: Pod, term: PodTerm, node: Node) -> int:
        """Other pods that a term of a placed pod matches in the domain of its node."""
        domain = node.labels.get(term.topology_key)
        if domain is None:
            return 0
        tally = self._term_tally(pod, [term])
        return self._in_domain(tally, term.topology_key, domain) - tally.matches(pod)

    def skewed(self, pod: Pod, spread: Spread, node: Node) -> bool:
        """Whether the domain of a placed pod exceeds the skew of its constraint."""
        counts, own = self.spread_counts(pod, spread)
        domain = node.labels.get(spread.topology_key)
        if domain is None:
            return True
        # The pod is counted already when it matches itself.
        return bool(own) and counts.get(domain, 0) - self._lowest(counts, spread) > spread.max_skew

    @staticmethod
    def _lowest(counts: dict[str, int], spread: Spread) -> int:
        few = spread.min_domains is not None and len(counts) < spread.min_domains
        return 0 if few else min(counts.values(), default=0)

    # ------------------------------------------------------------------ counting

    def _kinds_of(self) -> _Kinds:
        if self._kinds is None:
            self._kinds = _Kinds(self.problem)
        return self._kinds

    def _selected(self, selector: Selector | None, pod: Pod) -> bool:
        kinds = self._kinds_of()
        key = _content(selector)
        if key not in self._matched:
            self._matched[key] = frozenset(kinds.selected(selector))
        return kinds.of[pod.name] in self._matched[key]

    def _looks_at(self, term: PodTerm, own: str, selector: Selector | None, pod: Pod) -> bool:
        return rules.term_namespaces_match(
            term, own, pod.namespace, self.problem.namespaces
        ) and self._selected(selector, pod)

    def _tally(
        self, key: object, chosen: Callable[[], Iterable[int]], names: frozenset[str] | None = None
    ) -> _Tally:
        """The tally of that key; at first counted from the kinds (or names) chosen for it."""
        tally = self._tallies.get(key)
        if tally is None:
            kinds = self._kinds_of()
            members = frozenset(chosen())
            tally = _Tally(kinds, members, names)
            listed = names if names is not None else (n for k in members for n in kinds.members[k])
            for name in listed:
                node = self.where[name]
                if node is not None:
                    tally.per_node[node] += 1
            self._tallies[key] = tally
        return tally

    def _term_tally(self, pod: Pod, terms: list[PodTerm]) -> _Tally:
        """Pods that match all the terms of the pod."""
        resolved = [(t, rules.term_selector(pod, t)) for t in terms]
        own, spaces = pod.namespace, self.problem.namespaces
        key = ("terms", own, tuple((_content(t), _content(s)) for t, s in resolved))

        def chosen() -> Iterable[int]:
            kinds = self._kinds_of()
            for k in kinds.selected(resolved[0][1]):
                other = kinds.pods[k]
                if all(
                    rules.term_namespaces_match(t, own, other.namespace, spaces)
                    and rules.selects(s, other.labels)
                    for t, s in resolved
                ):
                    yield k

        return self._tally(key, chosen)

    def _anti_terms(self) -> list[tuple[PodTerm, str, Selector | None, _Tally]]:
        """Every distinct anti-affinity term, with the placed pods that hold it."""
        if self._anti is None:
            found: dict[object, tuple[PodTerm, str, Selector | None, set[str]]] = {}
            for pod in self.problem.pods:
                for term in pod.pod_anti_affinity:
                    selector = rules.term_selector(pod, term)
                    key = (pod.namespace, _content(term), _content(selector))
                    entry = found.setdefault(key, (term, pod.namespace, selector, set()))
                    entry[3].add(pod.name)
            self._anti = []
            for which, (term, own, selector, names) in found.items():
                tally = self._tally(("held", which), tuple, frozenset(names))
                self._anti.append((term, own, selector, tally))
        return self._anti

    def _in_domain(self, tally: _Tally, topology: str, domain: str) -> int:
        if topology not in self._topologies:
            self._topologies[topology] = {
                n.name: n.labels[topology] for n in self.problem.nodes if topology in n.labels
            }
        return self._count_domains(tally, topology, self._topologies[topology]).get(domain, 0)

    def _count_domains(
        self, tally: _Tally, key: object, domain_of: dict[str, str]
    ) -> dict[str, int]:
        """Matching pods per domain, for the nodes that have one; kept up to date from then on."""
        found = self._domains.get((id(tally), key))
        if found is None:
            counts = dict.fromkeys(domain_of.values(), 0)
            for name, count in tally.per_node.items():
                if name in domain_of:
                    counts[domain_of[name]] += count
            found = self._domains[id(tally), key] = _Domains(tally, domain_of, counts)
        return found.counts

    def _recount_domains(self, pod: Pod, node: str, by: int) -> None:
        for domains in self._domains.values():
            if node in domains.domain_of and domains.tally.matches(pod):
                domains.counts[domains.domain_of[node]] += by


def static_refusals(pod: Pod, node: Node) -> Iterator[Refusal]:
    """Why a node is never suitable, whatever runs on it."""
    if not rules.node_selected(pod, node):
        yield Refusal("node_selector", "node(s) didn't match Pod's node selector")
    if not rules.node_affine(pod, node):
        yield Refusal("node_affinity", "node(s) didn't match Pod's node affinity")
    taint = rules.untolerated(pod, node)
    if taint is not None:
        yield Refusal("taints", f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}")
    if rules.cordoned(pod, node):
        yield Refusal("unschedulable", "node(s) were unschedulable")
    if not rules.volumes_reach(pod, node):
        yield Refusal("volume_affinity", "node(s) had volume node affinity conflict")


def budget_credit(budget: Budget, members: int, healthy: int) -> int:
    """Disruptions a budget allows with that many matching pods, of which ``healthy`` run."""
    if budget.allowed is not None:
        return budget.allowed
    if budget.min_available is not None:
        return max(0, healthy - _share(budget.min_available, members))
    if budget.max_unavailable is not None:
        return max(0, healthy - (members - _share(budget.max_unavailable, members)))
    return 0


def _share(value: int | str, members: int) -> int:
    if isinstance(value, int):
        return value
    part = Fraction(int(value[:-1]) * members, 100)
    return -((-part.numerator) // part.denominator)


def _content(record: object) -> str:
    """A key for the content of a small record."""
    return repr(record)
