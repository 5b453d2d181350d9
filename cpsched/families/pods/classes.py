"""Classes: pods that no constraint can tell apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np

from cpsched.families.pods import labels as rules
from cpsched.families.pods.arrays import Bools, Ints
from cpsched.families.pods.problem import Budget, Pod, PodsProblem, PodTerm, Selector, Spread

#: Fields of a pod that are compared as they are, and those that are nearly always empty.
_PLAIN = attrgetter("priority", "weight", "preemption_policy", "hold", "gang", "cells")
_RARE_FIELDS = {
    "node_selector",
    "node_affinity",
    "tolerations",
    "volume_affinity",
    "host_ports",
    "exclusive_claims",
    "pod_affinity",
    "pod_anti_affinity",
    "topology_spread",
    "preferred_nodes",
    "preferred_pods",
    "preferred_spread",
    "per_cell",
}
#: Without node affinity, whose absence (None) differs from its emptiness.
_RARE = attrgetter(*sorted(_RARE_FIELDS - {"node_affinity"}))
#: Pods between two looks at the clock.
_BLOCK = 4096


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

    def __init__(self, problem: PodsProblem, check: Callable[[], object] = lambda: None) -> None:
        self.problem = problem
        self._index: dict[Any, int] = {}
        self._tests: list[Any] = []
        #: Selectors that ask for a label's value, and those that may match whatever the labels.
        self._by_label: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._always: list[int] = []
        self._signatures: dict[Any, tuple[int, ...]] = {}
        self._members: list[list[int]] | None = None
        self._rows: dict[int, Bools] = {}
        #: Per pod what most pods have nothing of, as a number: equal for equal content.
        self.rare_of = self._read(problem, check)
        for budget in problem.budgets:
            self.budget(budget)

    def _read(self, problem: PodsProblem, check: Callable[[], object]) -> list[int]:
        """Register every pod's terms; pods that read the same are looked at once."""
        read: dict[Any, int] = {}
        contents: dict[Any, int] = {None: 0}
        out = [0] * len(problem.pods)
        for p, pod in enumerate(problem.pods):
            if p % _BLOCK == 0:
                check()
            if pod.node_affinity is None and not any(_RARE(pod)):
                continue
            text = pod.__pydantic_serializer__.to_json(pod, include=_RARE_FIELDS)
            key = (pod.namespace, tuple(pod.labels.items()), text)
            known = read.get(key)
            if known is None:
                known = read[key] = contents.setdefault(_rare(pod, self), len(contents))
            out[p] = known
        return out

    def add(self, key: Any, selector: Selector | None, test: Any) -> int:
        """Index of the selector of that key; ``test(namespace, labels)`` is what it does."""
        if key not in self._index:
            self._index[key] = index = len(self._tests)
            self._tests.append(test)
            wanted = next(iter(selector.match_labels.items()), None) if selector else None
            (self._always if wanted is None else self._by_label[wanted]).append(index)
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
            selector,
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
            selector,
            lambda ns, labels: ns == own and rules.selects(selector, labels),
        )

    def budget(self, budget: Budget) -> int:
        """Index of a budget's selector."""
        own = budget.namespace
        return self.add(
            ("budget", own, json_of(budget.selector)),
            budget.selector,
            lambda ns, labels: ns == own and rules.selects(budget.selector, labels),
        )

    def signature(self, pod: Pod) -> tuple[int, ...]:
        """The selectors that match the pod."""
        if not self._tests:
            return ()
        key = (pod.namespace, tuple(pod.labels.items()))
        found = self._signatures.get(key)
        if found is None:
            possible = self._always + [k for one in key[1] for k in self._by_label.get(one, ())]
            found = tuple(k for k in possible if self._tests[k](key[0], pod.labels))
            self._signatures[key] = found
        return found

    def matching(self, classes: list[PodClass], index: int) -> Bools:
        """The classes that a selector matches; the same array for the same selector."""
        if index in self._rows:
            return self._rows[index]
        if self._members is None:
            self._members = [[] for _ in self._tests]
            for c in classes:
                for k in self.signature(c.pod):
                    self._members[k].append(c.index)
        out = self._rows[index] = np.zeros(len(classes), dtype=bool)
        out[self._members[index]] = True
        return out


def json_of(record: Any) -> Any:
    return None if record is None else record.model_dump_json()


def jsons(records: Any) -> Any:
    """The content of records as a key."""
    return tuple(r.model_dump_json() for r in records) if records else ()


def classify(
    problem: PodsProblem, selectors: Selectors, check: Callable[[], object] = lambda: None
) -> tuple[list[PodClass], Ints]:
    """The classes, and the class of every pod; ``check`` is called every few thousand pods."""
    keys: dict[Any, int] = {}
    classes: list[PodClass] = []
    class_of = np.zeros(len(problem.pods), dtype=np.int64)
    quota_spaces = {q.namespace for q in problem.quotas}
    gangs = {g.name: i for i, g in enumerate(problem.gangs)}
    required = set(problem.required)
    stuck = "movable" not in problem.relaxed
    signature, rare = selectors.signature, selectors.rare_of
    for p, pod in enumerate(problem.pods):
        if p % _BLOCK == 0:
            check()
        fixed = stuck and pod.node is not None and not pod.movable
        key = (
            tuple(pod.requests.items()),
            _PLAIN(pod),
            fixed,
            signature(pod),
            rare[p],
            bool(required) and pod.name in required,
            pod.namespace if quota_spaces and pod.namespace in quota_spaces else "",
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


def _rare(pod: Pod, selectors: Selectors) -> Any:
    """What most pods have nothing of, as a key."""
    return (
        static_key(pod),
        jsons(pod.host_ports),
        pod.exclusive_claims,
        tuple((t.topology_key, selectors.term(pod, t)) for t in pod.pod_affinity),
        tuple((t.topology_key, selectors.term(pod, t)) for t in pod.pod_anti_affinity),
        tuple((json_of(s), selectors.spread(pod, s)) for s in pod.topology_spread),
        _wishes(pod, selectors),
        tuple(pod.per_cell.items()),
        jsons(pod.preferred_nodes),
    )


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
