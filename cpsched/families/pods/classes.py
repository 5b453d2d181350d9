"""Classes: pods that no constraint can tell apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cpsched.families.pods import labels as rules
from cpsched.families.pods.arrays import Bools, Ints
from cpsched.families.pods.problem import Pod, PodsProblem, PodTerm, Selector, Spread


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


class Selectors:
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
            wishes = (w.term for w in pod.preferred_pods)
            for term in (*pod.pod_affinity, *pod.pod_anti_affinity, *wishes):
                self.term(pod, term)
            for spread in (*pod.topology_spread, *pod.preferred_spread):
                self.spread(pod, spread)
        for budget in problem.budgets:
            self.add(
                ("budget", budget.namespace, json_of(budget.selector)),
                lambda ns, labels, b=budget: (
                    ns == b.namespace and rules.selects(b.selector, labels)
                ),
            )

    def add(self, key: Any, test: Any) -> int:
        """Index of the selector of that key; ``test(namespace, labels)`` is what it does."""
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
            json_of(term.namespace_selector),
            json_of(selector),
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
            ("spread", own, json_of(selector)),
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


def json_of(record: Any) -> Any:
    return None if record is None else record.model_dump_json()


def jsons(records: Any) -> Any:
    """The content of records as a key."""
    return tuple(r.model_dump_json() for r in records) if records else ()


def classify(problem: PodsProblem, selectors: Selectors) -> tuple[list[PodClass], Ints]:
    """The classes, and the class of every pod."""
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
                tuple((json_of(s), selectors.spread(pod, s)) for s in pod.topology_spread),
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
            jsons(pod.host_ports),
            pod.exclusive_claims,
            terms,
            _wishes(pod, selectors),
            signature,
            pod.namespace if spaces and pod.namespace in quota_spaces else "",
            pod.gang,
            pod.cells,
            tuple(pod.per_cell.items()),
            jsons(pod.preferred_nodes),
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


def _wishes(pod: Pod, selectors: Selectors) -> Any:
    if not pod.preferred_pods and not pod.preferred_spread:
        return ()
    return (
        tuple(
            (w.weight, w.apart, w.term.topology_key, selectors.term(pod, w.term))
            for w in pod.preferred_pods
        ),
        tuple((json_of(s), selectors.spread(pod, s)) for s in pod.preferred_spread),
    )


def static_key(pod: Pod) -> Any:
    """What decides which nodes suit a pod whatever runs on them."""
    if not (pod.node_selector or pod.tolerations or pod.volume_affinity):
        return None if pod.node_affinity is None else jsons(pod.node_affinity)
    return (
        tuple(sorted(pod.node_selector.items())),
        None if pod.node_affinity is None else jsons(pod.node_affinity),
        jsons(pod.tolerations),
        tuple(jsons(terms) for terms in pod.volume_affinity),
    )
