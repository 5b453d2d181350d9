"""What binds pods to each other: conflicts, affinity, spread, as arrays over classes and nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpsched.families.pods import labels as rules
from cpsched.families.pods.arrays import Bools, Ints
from cpsched.families.pods.classes import PodClass, Selectors, static_key
from cpsched.families.pods.problem import Pod, PodsProblem, Spread


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


def domains_of(problem: PodsProblem, key: str) -> tuple[Ints, int]:
    """Domain of every node for a topology key, -1 for none, and the number of domains."""
    index: dict[str, int] = {}
    out = np.full(len(problem.nodes), -1, dtype=np.int64)
    for n, node in enumerate(problem.nodes):
        value = node.labels.get(key)
        if value is not None:
            out[n] = index.setdefault(value, len(index))
    return out, len(index)


def conflicts(
    problem: PodsProblem, classes: list[PodClass], selectors: Selectors, relaxed: set[str]
) -> list[Conflict]:
    """Anti-affinity, host ports and exclusive claims."""
    out: list[Conflict] = []
    if "pod_anti_affinity" not in relaxed:
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        for c in classes:
            for term in c.pod.pod_anti_affinity:
                groups[term.topology_key, selectors.term(c.pod, term)].append(c.index)
        known: dict[str, tuple[Ints, int]] = {}
        for (key, selector), indices in groups.items():
            if key not in known:
                known[key] = domains_of(problem, key)
            domain, count = known[key]
            holders = np.zeros(len(classes), dtype=bool)
            holders[indices] = True
            matches = selectors.matching(classes, selector)
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


def togethers(
    problem: PodsProblem, classes: list[PodClass], selectors: Selectors
) -> dict[int, Together]:
    """Required pod affinity per class."""
    out = {}
    shared: dict[Any, tuple[Bools, tuple[Ints, ...]]] = {}
    for c in classes:
        if c.pod.pod_affinity:
            chosen = tuple(selectors.term(c.pod, t) for t in c.pod.pod_affinity)
            keys = tuple(dict.fromkeys(t.topology_key for t in c.pod.pod_affinity))
            if (chosen, keys) not in shared:
                matches = np.ones(len(classes), dtype=bool)
                for index in chosen:
                    matches &= selectors.matching(classes, index)
                shared[chosen, keys] = matches, tuple(domains_of(problem, k)[0] for k in keys)
            matches, domains = shared[chosen, keys]
            out[c.index] = Together(matches, domains, bool(matches[c.index]))
    return out


def spreads(
    problem: PodsProblem, classes: list[PodClass], selectors: Selectors
) -> dict[int, list[Spreading]]:
    """Topology spread per class."""
    return _spreads(problem, classes, selectors, {c.index: c.pod.topology_spread for c in classes})


def _spreads(
    problem: PodsProblem,
    classes: list[PodClass],
    selectors: Selectors,
    listed: Mapping[int, tuple[Spread, ...]],
) -> dict[int, list[Spreading]]:
    out: dict[int, list[Spreading]] = {}
    nodes: dict[Any, tuple[Ints, int]] = {}
    for c in classes:
        keys = tuple(s.topology_key for s in listed[c.index])
        for spread in listed[c.index]:
            policies = (spread.node_affinity_policy, spread.node_taints_policy)
            who = (spread.topology_key, keys, policies, static_key(c.pod))
            if who not in nodes:
                nodes[who] = _eligible(problem, c.pod, spread)
            eligible, count = nodes[who]
            matches = selectors.matching(classes, selectors.spread(c.pod, spread))
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


@dataclass(frozen=True)
class Wish:
    """A class's preferred pod term: its weight, whom it matches, the domain of each node."""

    weight: int
    apart: bool
    matches: Bools
    domain: Ints
    own: bool


@dataclass(frozen=True)
class Wishes:
    """What classes prefer about other pods."""

    pods: dict[int, list[Wish]]
    spreads: dict[int, list[Spreading]]

    def __bool__(self) -> bool:
        return bool(self.pods or self.spreads)


def wishes(problem: PodsProblem, classes: list[PodClass], selectors: Selectors) -> Wishes:
    """Preferred pod terms and soft spread constraints per class."""
    out: dict[int, list[Wish]] = {}
    for c in classes:
        for w in c.pod.preferred_pods:
            matches = selectors.matching(classes, selectors.term(c.pod, w.term))
            domain, _ = domains_of(problem, w.term.topology_key)
            own = bool(matches[c.index])
            out.setdefault(c.index, []).append(Wish(w.weight, w.apart, matches, domain, own))
    soft = {c.index: c.pod.preferred_spread for c in classes}
    return Wishes(out, _spreads(problem, classes, selectors, soft))


def _eligible(problem: PodsProblem, pod: Pod, spread: Spread) -> tuple[Ints, int]:
    """Domain of every eligible node, -1 for the others, and the number of domains."""
    domain, _ = domains_of(problem, spread.topology_key)
    fit = np.array([rules.spread_eligible(pod, spread, n) for n in problem.nodes], dtype=bool)
    # Domains without an eligible node do not count: number the others densely.
    used, dense = np.unique(domain[fit], return_inverse=True)
    eligible = np.full(len(domain), -1, dtype=np.int64)
    eligible[fit] = dense
    return eligible, len(used)
