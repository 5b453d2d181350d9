"""Placed pods counted per node and topology domain, by what selectors match: from the definition.

Part of the checker: `replay.State` keeps one `Tallies` up to date. Pods with the same namespace
and labels are of one kind; a count looks at kinds, is made when first asked for, and follows every
change from then on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from cpsched.families.pods import labels as rules
from cpsched.families.pods.problem import Budget, Pod, PodsProblem, PodTerm, Selector, Spread
from cpsched.problem import Record


class Tally:
    """Placed pods of some kinds (or names), per node and, where asked for, per domain."""

    def __init__(self, kinds: frozenset[int] = frozenset()) -> None:
        self.kinds = kinds
        self.per_node: Counter[str] = Counter()
        self._domains: dict[object, tuple[Mapping[str, str], dict[str, int]]] = {}

    def change(self, node: str, by: int) -> None:
        """A pod that counts came to the node, or left it."""
        self.per_node[node] += by
        for domain_of, counts in self._domains.values():
            domain = domain_of.get(node)
            if domain is not None:
                counts[domain] += by

    def per_domain(self, key: object, domain_of: Mapping[str, str]) -> dict[str, int]:
        """Counts of the domains that ``domain_of`` gives the nodes, by that key from now on."""
        if key not in self._domains:
            counts = dict.fromkeys(domain_of.values(), 0)
            for name, count in self.per_node.items():
                if name in domain_of:
                    counts[domain_of[name]] += count
            self._domains[key] = domain_of, counts
        return self._domains[key][1]


class Tallies:
    """Every count that the rules between pods ask for.

    Parameters
    ----------
    where
        Node of each pod, shared with the state: read when a new count is made.
    """

    def __init__(self, problem: PodsProblem, where: Mapping[str, str | None]) -> None:
        self.problem, self._where = problem, where
        self._kind_of: dict[str, int] = {}
        self._kinds: list[Pod] = []
        self._members: list[list[str]] = []
        self._by_label: dict[tuple[str, str], list[int]] = {}
        self._sort_kinds()
        self._budgets: dict[int, list[Budget]] = {}
        self._selected: dict[str, frozenset[int]] = {}
        self._tallies: dict[object, Tally] = {}
        self._of_kind: dict[int, list[Tally]] = defaultdict(list)
        self._of_name: dict[str, list[Tally]] = defaultdict(list)
        self._held: dict[int, list[tuple[PodTerm, Tally]]] = {}
        self._anti: list[tuple[PodTerm, str, Selector | None, Tally]] | None = None
        self._eligible: dict[object, dict[str, str]] = {}
        self._topologies: dict[str, dict[str, str]] = {}

    def _sort_kinds(self) -> None:
        index: dict[object, int] = {}
        for pod in self.problem.pods:
            key = (pod.namespace, tuple(pod.labels.items()))
            kind = index.setdefault(key, len(index))
            if kind == len(self._kinds):
                self._kinds.append(pod)
                self._members.append([])
                for label in pod.labels.items():
                    self._by_label.setdefault(label, []).append(kind)
            self._members[kind].append(pod.name)
            self._kind_of[pod.name] = kind

    def change(self, pod: Pod, node: str, by: int) -> None:
        """The pod came to the node (1), or left it (-1)."""
        for tally in self._of_kind.get(self._kind_of[pod.name], ()):
            tally.change(node, by)
        for tally in self._of_name.get(pod.name, ()):
            tally.change(node, by)

    # ------------------------------------------------------------------ selecting

    def _kinds_selected(self, selector: Selector | None) -> frozenset[int]:
        if selector is None:
            return frozenset()
        key = _content(selector)
        if key not in self._selected:
            candidates: Iterable[int] = range(len(self._kinds))
            for label in selector.match_labels.items():
                candidates = self._by_label.get(label, [])
                break
            self._selected[key] = frozenset(
                k for k in candidates if rules.selects(selector, self._kinds[k].labels)
            )
        return self._selected[key]

    def budgets_of(self, pod: Pod) -> list[Budget]:
        """The disruption budgets that count the pod."""
        kind = self._kind_of[pod.name]
        if kind not in self._budgets:
            self._budgets[kind] = [
                b
                for b in self.problem.budgets
                if b.namespace == pod.namespace and kind in self._kinds_selected(b.selector)
            ]
        return self._budgets[kind]

    def matches(self, tally: Tally, pod: Pod) -> bool:
        """Whether the pod is of a kind that the tally counts."""
        return self._kind_of[pod.name] in tally.kinds

    # ------------------------------------------------------------------ counting

    def of_terms(self, pod: Pod, terms: Iterable[PodTerm]) -> Tally:
        """Pods that match all the terms of the pod."""
        resolved = [(t, rules.term_selector(pod, t)) for t in terms]
        own = pod.namespace
        key = ("terms", own, tuple((_content(t), _content(s)) for t, s in resolved))
        if key not in self._tallies:
            kinds = frozenset.intersection(*(self._kinds_selected(s) for _, s in resolved))
            self._tallies[key] = self._count_kinds(
                k for k in kinds if all(self._looks_at(t, own, k) for t, _ in resolved)
            )
        return self._tallies[key]

    def in_domain(self, tally: Tally, topology: str, domain: str) -> int:
        """Counted pods in a domain of a topology key."""
        if topology not in self._topologies:
            self._topologies[topology] = {
                n.name: n.labels[topology] for n in self.problem.nodes if topology in n.labels
            }
        return tally.per_domain(topology, self._topologies[topology]).get(domain, 0)

    def anti_terms_on(self, pod: Pod) -> list[tuple[PodTerm, Tally]]:
        """Anti-affinity terms of any pods that match the pod, with the placed pods that hold it."""
        kind = self._kind_of[pod.name]
        if kind not in self._held:
            self._held[kind] = [
                (term, holders)
                for term, own, selector, holders in self._anti_terms()
                if kind in self._kinds_selected(selector) and self._looks_at(term, own, kind)
            ]
        return self._held[kind]

    def spread(self, pod: Pod, spread: Spread) -> tuple[dict[str, int], int]:
        """Matching pods per eligible domain, and whether the pod matches its own selector."""
        selector = rules.spread_selector(pod, spread)
        key = ("spread", pod.namespace, _content(selector))
        if key not in self._tallies:
            self._tallies[key] = self._count_kinds(
                k
                for k in self._kinds_selected(selector)
                if self._kinds[k].namespace == pod.namespace
            )
        who = (
            spread.topology_key,
            tuple(pod.node_selector.items()),
            None if pod.node_affinity is None else tuple(map(_content, pod.node_affinity)),
            tuple(map(_content, pod.tolerations)),
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
        counts = self._tallies[key].per_domain(who, self._eligible[who])
        return counts, int(rules.selects(selector, pod.labels))

    def _looks_at(self, term: PodTerm, own: str, kind: int) -> bool:
        namespace = self._kinds[kind].namespace
        return rules.term_namespaces_match(term, own, namespace, self.problem.namespaces)

    def _count_kinds(self, kinds: Iterable[int]) -> Tally:
        tally = Tally(frozenset(kinds))
        for kind in tally.kinds:
            self._of_kind[kind].append(tally)
            for name in self._members[kind]:
                node = self._where[name]
                if node is not None:
                    tally.per_node[node] += 1
        return tally

    def _anti_terms(self) -> list[tuple[PodTerm, str, Selector | None, Tally]]:
        """Every distinct anti-affinity term, with the placed pods that hold it."""
        if self._anti is None:
            found: dict[object, tuple[PodTerm, str, Selector | None, Tally]] = {}
            for pod in self.problem.pods:
                node = self._where[pod.name]
                seen = set()
                for term in pod.pod_anti_affinity:
                    selector = rules.term_selector(pod, term)
                    text = _content(term)
                    key = (pod.namespace, text, selector is term.selector or _content(selector))
                    if key in seen:
                        continue
                    seen.add(key)
                    if key not in found:
                        found[key] = term, pod.namespace, selector, Tally()
                    tally = found[key][3]
                    self._of_name[pod.name].append(tally)
                    if node is not None:
                        tally.per_node[node] += 1
            self._anti = list(found.values())
        return self._anti


def _content(record: Record | None) -> str:
    """A key for the content of a small record."""
    return "" if record is None else record.model_dump_json()
