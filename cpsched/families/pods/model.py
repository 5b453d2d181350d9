"""The CP-SAT model of end states: pods of each class per node, for all nodes or a part of them.

Every constraint of the schema that speaks about end states is one function of that name. Rules
that hold only when a pod is bound are modelled for nodes that receive pods; what already runs may
stay. Whether an end state can be reached step by step is decided afterwards (`plan.in_order`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core.clock import Clock
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.prepare import Instance

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

#: One weighted sum of variables plus a constant.
Linear = tuple[list[Any], list[int], int]


class EndState:
    """Variables and constraints of the end states that differ from ``end`` on ``scope`` only.

    Parameters
    ----------
    end
        Node of each pod in a known end state.
    scope
        Nodes whose pods are free; all by default. Pods elsewhere stay as in ``end``.
    """

    def __init__(
        self, instance: Instance, end: Ints, clock: Clock, scope: Sequence[int] | None = None
    ) -> None:
        from ortools.sat.python import cp_model

        self.instance, self.end, self.clock = instance, end, clock
        self.cp: Any = cp_model
        self.model: CpModel = cp_model.CpModel()
        self.scope = list(range(instance.nodes)) if scope is None else sorted(scope)
        inside = np.zeros(instance.nodes + 1, dtype=bool)
        inside[self.scope] = True
        self.inside = inside[:-1]
        self.now = _tally(instance, instance.at)
        self.known = _tally(instance, end)
        self.outside: dict[int, dict[int, int]] = {
            c: {n: k for n, k in row.items() if not inside[n]} for c, row in self.known.items()
        }
        self.x: dict[tuple[int, int], Any] = {}
        self.limit: dict[tuple[int, int], int] = {}
        self.by_class: dict[int, list[int]] = defaultdict(list)
        #: Whether every plan's end state is a solution, so that bounds and infeasibility hold.
        self.exact = not instance.together
        self._placement()
        for add in (
            self.capacity,
            self.conflicts,
            self.pod_affinity,
            self.topology_spread,
            self.gang,
            self.quota,
            self.budget,
            self.preemption_policy,
            self.migration_limit,
            self.required,
        ):
            clock.check()
            add()

    # ------------------------------------------------------------------ variables

    def running(self, c: int, n: int) -> int:
        """Pods of the class that run on the node now."""
        return self.now.get(c, {}).get(n, 0)

    def outside_count(self, c: int) -> int:
        """Pods of the class on nodes that are not free."""
        return sum(self.outside.get(c, {}).values())

    def _placement(self) -> None:
        i = self.instance
        scope = np.array(self.scope, dtype=np.int64)
        for group in i.classes:
            c = group.index
            if group.fixed or not group.members:
                continue
            available = len(group.members) - self.outside_count(c)
            if available <= 0:
                continue
            need = i.requests[c]
            wanted = np.flatnonzero(need)
            fits = (i.capacity[scope][:, wanted] // need[wanted]).min(axis=1)
            most = np.where(i.allowed[c][scope], np.minimum(fits, available), 0)
            for k, n in enumerate(self.scope):
                stays = 0 if n in i.drained else self.running(c, n)
                limit = min(available, max(int(most[k]), stays))
                if limit > 0:
                    self.limit[c, n] = limit
                    self.x[c, n] = self.model.new_int_var(0, limit, f"x_{c}_{n}")
                    self.by_class[c].append(n)
            listed = [self.x[c, n] for n in self.by_class[c]]
            self.model.add(self.cp.LinearExpr.sum(listed) <= available)
            self.clock.check()

    def placed(self, c: int) -> Linear:
        """Placed pods of the class."""
        if self.instance.classes[c].fixed:
            return [], [], len(self.instance.classes[c].members)
        listed = [self.x[c, n] for n in self.by_class.get(c, ())]
        return listed, [1] * len(listed), self.outside_count(c)

    def count(self, classes: Iterable[int], nodes: Iterable[int]) -> Linear:
        """Pods of the classes on the nodes."""
        variables, constant = [], 0
        nodes = list(nodes)
        chosen = set(nodes)
        for c in classes:
            group = self.instance.classes[c]
            if group.fixed:
                constant += sum(k for n, k in self.now.get(c, {}).items() if n in chosen)
                continue
            constant += sum(k for n, k in self.outside.get(c, {}).items() if n in chosen)
            variables += [self.x[c, n] for n in self.by_class.get(c, ()) if n in chosen]
        return variables, [1] * len(variables), constant

    def expression(self, linear: Linear) -> Any:
        """The linear expression of it."""
        variables, weights, constant = linear
        return self.cp.LinearExpr.weighted_sum(variables, weights) + constant

    def is_positive(self, linear: Linear) -> Any:
        """A literal that is true when the count is positive (it may be true otherwise)."""
        variables, weights, constant = linear
        literal = self.model.new_bool_var("")
        if constant > 0:
            self.model.add(literal == 1)
        for x, w in zip(variables, weights, strict=True):
            if w > 0:
                self.model.add(x == 0).only_enforce_if(~literal)
        return literal

    def grows(self, c: int, n: int) -> Any:
        """A literal that is true when the node receives pods of the class."""
        here = self.running(c, n)
        literal = self.model.new_bool_var("")
        self.model.add(self.x[c, n] <= here).only_enforce_if(~literal)
        return literal

    # ------------------------------------------------------------------ constraints

    def capacity(self) -> None:
        """No node holds more than it has; an over-committed one may keep what it has."""
        i = self.instance
        per_node: dict[int, list[int]] = defaultdict(list)
        for c, n in self.x:
            per_node[n].append(c)
        fixed = fixed_use(i)
        used = i.capacity.copy()
        running = np.flatnonzero(i.at >= 0)
        np.subtract.at(used, i.at[running], i.requests[i.class_of[running]])
        for n, classes in per_node.items():
            for r in range(len(i.resources)):
                terms = [(self.x[c, n], int(i.requests[c, r])) for c in classes if i.requests[c, r]]
                room = int(i.capacity[n, r] - fixed[n, r])
                most = sum(int(i.requests[c, r]) * self.limit[c, n] for c in classes)
                if not terms or most <= room:
                    continue
                total = self.cp.LinearExpr.weighted_sum(
                    [x for x, _ in terms], [a for _, a in terms]
                )
                if used[n, r] >= 0:
                    self.model.add(total <= room)
                    continue
                keeps = self.model.new_bool_var("")
                self.model.add(total <= room).only_enforce_if(~keeps)
                for c in classes:
                    if i.requests[c, r]:
                        self.model.add(self.x[c, n] <= self.running(c, n)).only_enforce_if(keeps)

    def conflicts(self) -> None:
        """Anti-affinity, host ports and exclusive claims: no holder beside another match."""
        i = self.instance
        for conflict in i.conflicts:
            holders = np.flatnonzero(conflict.holders & ~conflict.matches).tolist()
            both = np.flatnonzero(conflict.holders & conflict.matches).tolist()
            matches = np.flatnonzero(conflict.matches & ~conflict.holders).tolist()
            touched = [c for c in (*holders, *both, *matches) if c in self.by_class]
            if not touched:
                continue
            domains: dict[int, list[int]] = defaultdict(list)
            for n, d in enumerate(conflict.domain.tolist()):
                if d >= 0:
                    domains[d].append(n)
            free = {int(conflict.domain[n]) for c in touched for n in self.by_class[c]} - {-1}
            for d in free:
                nodes = domains[d]
                if self._broken(holders, both, matches, nodes):
                    # What already breaks the rule may stay; nothing that it concerns may come.
                    self.exact = False
                    for c in touched:
                        for n in self.by_class[c]:
                            if int(conflict.domain[n]) == d:
                                self.model.add(self.x[c, n] <= self.running(c, n))
                    continue
                alone = self.count(both, nodes)
                if alone[0]:
                    self.model.add(self.expression(alone) <= 1)
                if not holders and not matches:
                    continue
                groups = [self.count(g, nodes) for g in (holders, both, matches)]
                literals = [self.is_positive(g) for g in groups if g[0] or g[2]]
                if len(literals) > 1:
                    self.model.add_at_most_one(literals)
            self.clock.check()

    def _broken(
        self, holders: list[int], both: list[int], matches: list[int], nodes: list[int]
    ) -> bool:
        chosen = set(nodes)
        counts = [
            sum(k for c in group for n, k in self.now.get(c, {}).items() if n in chosen)
            for group in (holders, both, matches)
        ]
        return counts[1] > 1 or sum(k > 0 for k in counts) > 1

    def pod_affinity(self) -> None:
        """Pods that come need a matching pod that stays, or one first domain for their own kind."""
        i = self.instance
        for c, together in i.together.items():
            if c not in self.by_class:
                continue
            matching = np.flatnonzero(together.matches).tolist()
            anywhere = sum(sum(self.now.get(k, {}).values()) for k in matching)
            for domain in together.domains:
                seeds: dict[int, Any] = {}
                for n in self.by_class[c]:
                    d = int(domain[n])
                    if d < 0:
                        self.model.add(self.x[c, n] <= self.running(c, n))
                        continue
                    nodes = np.flatnonzero(domain == d).tolist()
                    literal = self.grows(c, n)
                    near = [k for k in self._anchors(matching, nodes) if k is not True]
                    if len(near) < len(self._anchors(matching, nodes)):
                        continue
                    if together.own and anywhere == 0:
                        if d not in seeds:
                            seeds[d] = self.model.new_bool_var("")
                        near.append(seeds[d])
                    self.model.add_bool_or([*near, ~literal])
                if seeds:
                    self.model.add_at_most_one(seeds.values())

    def _anchors(self, matching: list[int], nodes: list[int]) -> list[Any]:
        """Literals that imply a matching pod in the domain; True when one certainly is there.

        Pods that need company themselves count only where they run now: others can be bound first.
        """
        out: list[Any] = []
        for k in matching:
            for n in nodes:
                if k in self.instance.together and not self.running(k, n):
                    continue
                if (k, n) not in self.x:
                    if self.known.get(k, {}).get(n, 0) >= 1:
                        out.append(True)
                    continue
                literal = self.model.new_bool_var("")
                self.model.add(self.x[k, n] >= 1).only_enforce_if(literal)
                out.append(literal)
        return out

    def topology_spread(self) -> None:
        """Domains that receive pods of a class end within its maximum skew."""
        i = self.instance
        for c, spreads in i.spreads.items():
            if c not in self.by_class:
                continue
            for s in spreads:
                if not s.own:
                    continue
                matching = np.flatnonzero(s.matches).tolist()
                nodes: dict[int, list[int]] = defaultdict(list)
                for n, d in enumerate(s.eligible.tolist()):
                    if d >= 0:
                        nodes[d].append(n)
                counts = {d: self.expression(self.count(matching, nodes[d])) for d in nodes}
                lowest = self.model.new_int_var(0, len(i.at), "")
                for d in counts:
                    self.model.add(lowest <= counts[d])
                if s.domains < s.min_domains:
                    self.model.add(lowest == 0)
                gains: dict[int, list[Any]] = defaultdict(list)
                for n in self.by_class[c]:
                    d = int(s.eligible[n])
                    if d < 0:
                        self.model.add(self.x[c, n] <= self.running(c, n))
                    else:
                        gains[d].append(self.grows(c, n))
                for d, literals in gains.items():
                    for literal in literals:
                        self.model.add(counts[d] - lowest <= s.max_skew).only_enforce_if(literal)

    def gang(self) -> None:
        """A gang that changes is placed whole, or not at all."""
        i = self.instance
        members: dict[int, list[int]] = defaultdict(list)
        for group in i.classes:
            if group.gang >= 0:
                members[group.gang].append(group.index)
        for gang, classes in members.items():
            total = self.sum([self.placed(c) for c in classes])
            before = sum(sum(self.now.get(c, {}).values()) for c in classes)
            enough, none, same = (self.model.new_bool_var("") for _ in range(3))
            expression = self.expression(total)
            self.model.add(expression >= i.gang_minimum[gang]).only_enforce_if(enough)
            self.model.add(expression == 0).only_enforce_if(none)
            self.model.add(expression == before).only_enforce_if(same)
            self.model.add_bool_or([enough, none, same])

    @staticmethod
    def sum(parts: Iterable[Linear]) -> Linear:
        """All of them together."""
        variables: list[Any] = []
        weights: list[int] = []
        constant = 0
        for v, w, k in parts:
            variables += v
            weights += w
            constant += k
        return variables, weights, constant

    def quota(self) -> None:
        """A namespace that receives pods ends within its quota."""
        i = self.instance
        for q in range(len(i.problem.quotas)):
            classes = [g.index for g in i.classes if q in g.quotas]
            for r in np.flatnonzero(i.quota_limits[q] < 2**60).tolist():
                parts = []
                for c in classes:
                    v, w, k = self.placed(c)
                    need = int(i.requests[c, r])
                    parts.append((v, [need * a for a in w], need * k))
                total = self.sum(parts)
                if total[0]:
                    changes = self.model.new_bool_var("")
                    limit = int(i.quota_limits[q, r])
                    self.model.add(self.expression(total) <= limit).only_enforce_if(changes)
                    for c in classes:
                        for n in self.by_class.get(c, ()):
                            if i.requests[c, r]:
                                self.model.add(self.x[c, n] <= self.running(c, n)).only_enforce_if(
                                    ~changes
                                )

    def budget(self) -> None:
        """At the end no more pods of a budget are down than it allows."""
        i = self.instance
        for b, credit in enumerate(i.budget_credit):
            classes = [g.index for g in i.classes if b in g.budgets]
            before = sum(sum(self.now.get(c, {}).values()) for c in classes)
            total = self.sum([self.placed(c) for c in classes])
            if total[0]:
                self.model.add(self.expression(total) >= before - credit)
            if credit == 0 and all(not i.classes[c].pending for c in classes):
                # Nothing can be evicted before something else is bound, and nothing is waiting.
                for c in classes:
                    for n in self.by_class.get(c, ()):
                        self.model.add(self.x[c, n] >= self.running(c, n))

    def preemption_policy(self) -> None:
        """Who is evicted for good makes place for a pod that may preempt it."""
        i = self.instance
        if all(g.pod.preemption_policy != "Never" for g in i.classes if g.pending):
            return
        for group in i.classes:
            before = sum(self.now.get(group.index, {}).values())
            if group.fixed or not before or group.index not in self.by_class:
                continue
            gained = []
            for other in i.classes:
                if (
                    other.pending
                    and other.index in self.by_class
                    and other.priority >= group.priority
                    and other.pod.preemption_policy != "Never"
                ):
                    grown = self.model.new_bool_var("")
                    there = sum(self.now.get(other.index, {}).values())
                    self.model.add(
                        self.expression(self.placed(other.index)) >= there + 1
                    ).only_enforce_if(grown)
                    gained.append(grown)
            kept = self.model.new_bool_var("")
            self.model.add(self.expression(self.placed(group.index)) >= before).only_enforce_if(
                kept
            )
            self.model.add_bool_or([kept, *gained])

    def migration_limit(self) -> None:
        """No more running pods leave their node than the limit allows."""
        limit = self.instance.problem.migration_limit
        if limit is None or "migration_limit" in self.instance.problem.relaxed:
            return
        running = sum(
            sum(row.values()) for c, row in self.now.items() if not self.instance.classes[c].fixed
        )
        stays = self.sum([self.stays(g.index) for g in self.instance.classes if not g.fixed])
        self.model.add(self.expression(stays) >= running - limit)

    def required(self) -> None:
        """Pods that must be placed are."""
        names = set(self.instance.problem.required)
        for group in self.instance.classes:
            if names and group.pod.name in names:
                total = self.placed(group.index)
                self.model.add(self.expression(total) >= len(group.members))

    def stays(self, c: int) -> Linear:
        """Pods of the class that stay where they run."""
        constant = sum(min(self.running(c, n), k) for n, k in self.outside.get(c, {}).items())
        variables = []
        for n in self.by_class.get(c, ()):
            here = self.running(c, n)
            if here:
                s = self.model.new_int_var(0, here, "")
                self.model.add(s <= self.x[c, n])
                variables.append(s)
        return variables, [1] * len(variables), constant

    # ------------------------------------------------------------------ solutions

    def hint(self) -> None:
        """Hint the known end state."""
        for (c, n), x in self.x.items():
            self.model.add_hint(x, min(self.known.get(c, {}).get(n, 0), self.limit[c, n]))

    def counts(self, values: list[int]) -> dict[tuple[int, int], int]:
        """Pods per class and node of a solution, fixed pods left out."""
        out = {key: values[x.index] for key, x in self.x.items() if values[x.index]}
        for c, row in self.outside.items():
            if not self.instance.classes[c].fixed:
                out.update({(c, n): k for n, k in row.items() if k})
        return out


def _tally(instance: Instance, at: Ints) -> dict[int, dict[int, int]]:
    out: dict[int, dict[int, int]] = defaultdict(dict)
    placed = np.flatnonzero(at >= 0)
    pairs = instance.class_of[placed] * instance.nodes + at[placed]
    keys, counts = np.unique(pairs, return_counts=True)
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        c, n = divmod(key, instance.nodes)
        out[c][n] = count
    return out


def fixed_use(instance: Instance) -> Ints:
    """What the pods that must stay take of each node."""
    fixed = np.array([g.fixed for g in instance.classes], dtype=bool)
    stays = np.flatnonzero((instance.at >= 0) & fixed[instance.class_of])
    used = np.zeros_like(instance.capacity)
    np.add.at(used, instance.at[stays], instance.requests[instance.class_of[stays]])
    return used
