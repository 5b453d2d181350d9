"""The state of a cluster, changed one action at a time: what may happen when, by definition.

`State.refusals` lists why a pod cannot be bound to a node now, as kube-scheduler's filters would;
`State.eviction_refusal` why it cannot be evicted. The checker replays plans with it, and plans are
put in order with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from cpsched.families.pods import labels as rules
from cpsched.families.pods.problem import Budget, Node, Pod, PodsProblem, PodTerm, Spread
from cpsched.families.pods.quantity import show_quantity
from cpsched.families.pods.tallies import Tallies, Tally


class Refusal(NamedTuple):
    """Why an action is not possible: the constraint, a sentence, and by how much."""

    rule: str
    message: str
    amount: int | None = None


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
        self._tallies: Tallies | None = None
        self._some_anti = any(p.pod_anti_affinity for p in problem.pods)
        self._claims: dict[str, set[str]] = defaultdict(set)
        self._quota_used: dict[str, Counter[str]] = {}
        self._credit: dict[str, int] | None = None
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
        self._count(pod, node, 1)
        if self._credit is not None:
            for budget in self._budgets_of(pod):
                self._credit[budget.name] += 1
        self.in_flight.discard(name)

    def evict(self, name: str) -> None:
        """Take a pod off its node, without asking whether it may."""
        if self.problem.budgets:
            self.credits()
        pod = self.pods[name]
        node = self.where[name]
        assert node is not None
        self._leave(pod, node)
        self.where[name] = None
        self._count(pod, node, -1)
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
            self.where[pod.name] = None
            self._count(pod, source, -1)
        try:
            yield from self._anti_affinity(pod, node)
            yield from self._affinity(pod, node)
            yield from self._spread(pod, node)
        finally:
            if moving and source is not None:
                self.where[pod.name] = source
                self._count(pod, source, 1)
        if not moving:
            yield from self._quota(pod)

    def _count(self, pod: Pod, node: str, by: int) -> None:
        if self._tallies is not None:
            self._tallies.change(pod, node, by)

    @property
    def tallies(self) -> Tallies:
        """The counts of placed pods, made when a rule first asks for one."""
        if self._tallies is None:
            self._tallies = Tallies(self.problem, self.where)
        return self._tallies

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
        if not self._some_anti:
            return
        tallies = self.tallies
        for term in pod.pod_anti_affinity:
            domain = node.labels.get(term.topology_key)
            if domain is None:
                continue
            tally = tallies.of_terms(pod, [term])
            if tallies.in_domain(tally, term.topology_key, domain) > 0:
                yield Refusal("pod_anti_affinity", "node(s) didn't match pod anti-affinity rules")
        for term, holders in tallies.anti_terms_on(pod):
            domain = node.labels.get(term.topology_key)
            if domain is not None and tallies.in_domain(holders, term.topology_key, domain) > 0:
                yield Refusal(
                    "pod_anti_affinity",
                    "node(s) didn't satisfy existing pods anti-affinity rules",
                )

    def _affinity(self, pod: Pod, node: Node) -> Iterator[Refusal]:
        if not pod.pod_affinity:
            return
        tally = self.tallies.of_terms(pod, pod.pod_affinity)
        missing = False
        for term in pod.pod_affinity:
            domain = node.labels.get(term.topology_key)
            if domain is None:
                yield Refusal("pod_affinity", "node(s) didn't match pod affinity rules")
                return
            missing |= self.tallies.in_domain(tally, term.topology_key, domain) <= 0
        if missing and not (self._nowhere(tally, pod) and self.tallies.matches(tally, pod)):
            yield Refusal("pod_affinity", "node(s) didn't match pod affinity rules")

    def _nowhere(self, tally: Tally, pod: Pod) -> bool:
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
            counts, own = self.tallies.spread(pod, spread)
            skew = counts.get(domain, 0) + own - self._lowest(counts, spread)
            if skew > spread.max_skew:
                yield Refusal(
                    "topology_spread",
                    "node(s) didn't match pod topology spread constraints",
                    skew - spread.max_skew,
                )

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
                if self.credits()[budget.name] < 1:
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
        return self.tallies.budgets_of(pod) if self.problem.budgets else []

    def credits(self) -> dict[str, int]:
        """Disruptions that each budget allows now."""
        if self._credit is None:
            members, healthy = Counter[str](), Counter[str]()
            for pod in self.problem.pods:
                for budget in self._budgets_of(pod):
                    members[budget.name] += 1
                    healthy[budget.name] += self.where[pod.name] is not None
            self._credit = {
                b.name: budget_credit(b, members[b.name], healthy[b.name])
                for b in self.problem.budgets
            }
        return self._credit

    # ------------------------------------------------------------------ preferences

    def near(self, pod: Pod, term: PodTerm, node: Node) -> int:
        """Other pods that a term of a placed pod matches in the domain of its node."""
        domain = node.labels.get(term.topology_key)
        if domain is None:
            return 0
        tally = self.tallies.of_terms(pod, [term])
        count = self.tallies.in_domain(tally, term.topology_key, domain)
        return count - self.tallies.matches(tally, pod)

    def skewed(self, pod: Pod, spread: Spread, node: Node) -> bool:
        """Whether the domain of a placed pod exceeds the skew of its constraint."""
        counts, own = self.tallies.spread(pod, spread)
        domain = node.labels.get(spread.topology_key)
        if domain is None:
            return True
        # The pod is counted already when it matches itself.
        return bool(own) and counts.get(domain, 0) - self._lowest(counts, spread) > spread.max_skew

    @staticmethod
    def _lowest(counts: dict[str, int], spread: Spread) -> int:
        few = spread.min_domains is not None and len(counts) < spread.min_domains
        return 0 if few else min(counts.values(), default=0)


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
