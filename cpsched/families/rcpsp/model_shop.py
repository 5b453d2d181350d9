"""The constraints of shops in the CP-SAT model: one function each, named as in the schema."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
from ortools.sat.python import cp_model

if TYPE_CHECKING:
    from cpsched.families.rcpsp.model import Literal, Model
    from cpsched.families.rcpsp.rules_shop import SetupRule
    from cpsched.families.rcpsp.schedule import State

Nodes = list[tuple[int, int]]
Arcs = dict[tuple[int, int], "Literal"]

# ---------------------------------------------------------------------- sequences


class Order:
    """Tasks in their modes on a machine, by positions, and how they follow each other."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._known: tuple[State | None, dict[int | None, int | None]] = (None, {})

    def next_of(self, s: State) -> dict[int | None, int | None]:
        """Which position follows which in a schedule; None is before the first and after all."""
        if self._known[0] is not s:
            on = sorted((s.start[i], k) for k, (i, m) in enumerate(self.nodes) if s.mode[i] == m)
            order = [None, *(k for _, k in on), None]
            self._known = s, dict(pairwise(order)) if on else {}
        return self._known[1]

    def follows(self, first: int | None, second: int | None) -> Callable[[State], bool]:
        """Whether one position comes right after another in a schedule."""
        return lambda s: first in self.next_of(s) and self.next_of(s)[first] == second

    def unused(self, s: State) -> bool:
        """Whether nothing is on the machine."""
        return not self.next_of(s)


def sequence(model: Model, resource: int) -> tuple[Order, Arcs]:
    """A circuit through the tasks of a machine: which task follows which, by positions.

    Facts keep the order of their starts.
    """
    known: tuple[Order, Arcs] | None = model.sequences.get(resource)
    if known is not None:
        return known
    inst = model.instance
    order = Order(model.users(resource))
    everyone = range(len(order.nodes))
    frozen = model.frozen
    after = None if frozen is None else frozen.followers(resource, order.nodes)
    arcs: list[tuple[int, int, Literal]] = []
    follows: Arcs = {}
    for a, (i, m) in enumerate(order.nodes):
        chosen = model.chosen[i][m]
        arcs.append((0, a + 1, model.boolean("", order.follows(None, a))))
        arcs.append((a + 1, 0, model.boolean("", order.follows(a, None))))
        if chosen is not None:
            arcs.append((a + 1, a + 1, chosen.negated()))
        for b in everyone if after is None else after[a]:
            j, k = order.nodes[b]
            facts = inst.fixed[i] and inst.fixed[j]
            if i == j or (facts and _fact(model, i, m) > _fact(model, j, k)):
                continue
            follows[a, b] = model.boolean("", order.follows(a, b))
            arcs.append((a + 1, b + 1, follows[a, b]))
    if not all(model.chosen[i][m] is None for i, m in order.nodes):
        arcs.append((0, 0, model.boolean(f"unused_{resource}", order.unused)))
    if len(order.nodes) > 1:
        model.cp.add_circuit(arcs)
    model.sequences[resource] = order, follows
    return order, follows


def _fact(model: Model, i: int, mode: int) -> tuple[int, int, int]:
    start = int(model.instance.release[i])
    return start, start + int(model.instance.duration[mode]), i


# ---------------------------------------------------------------------- rules


def setup(model: Model) -> None:
    """Setups: time and cost between tasks that follow each other, and what setups hold."""
    inst = model.instance
    for rule in inst.setups:
        model.run.clock.check()
        if not _binds(model, rule):
            continue
        order, follows = sequence(model, rule.resource)
        nodes = order.nodes
        by_time: dict[tuple[int, int], list[Literal]] = {}
        for (a, b), arc in follows.items():
            i, j = nodes[a][0], nodes[b][0]
            x, y = int(rule.state[i]), int(rule.state[j])
            time, cost = int(rule.times[x, y]), int(rule.costs[x, y])
            if cost:
                model.setup_costs.append((cost, arc))
            if inst.fixed[i] and inst.fixed[j]:
                continue
            model.cp.add(model.start[j] >= model.free(i) + time).only_enforce_if(arc)
            if time:
                by_time.setdefault((b, time), []).append(arc)
        if rule.demand.any():
            _setup_uses(model, rule, order, by_time)


def _binds(model: Model, rule: SetupRule) -> bool:
    """Whether the order on a machine matters for its setups."""
    counted = {"setup_cost", "replan_cost"} & set(model.instance.objectives)
    return bool(rule.times.any() or (counted and rule.costs.any()))


def _setup_uses(
    model: Model, rule: SetupRule, order: Order, by_time: dict[tuple[int, int], list[Literal]]
) -> None:
    """Setups as intervals right before their task, one per task and length."""
    inst = model.instance
    held = np.flatnonzero(rule.demand).tolist()
    breaks = inst.breaks_of([r for r in held if inst.profiles[r]])
    for (b, time), arcs in by_time.items():
        active = arcs[0]
        if len(arcs) > 1:
            active = model.boolean("", _takes(rule, order, b, time))
            model.cp.add(cp_model.LinearExpr.sum(arcs) == active)
        begin = model.start[order.nodes[b][0]] - time
        if (rule.demand > inst.capacity).any():
            model.cp.add(active == 0)
        interval = model.cp.new_optional_fixed_size_interval_var(begin, time, active, "")
        model.avoid(begin, time, breaks, active)
        for r in held:
            model.extra_uses.setdefault(r, []).append((interval, int(rule.demand[r])))


def _takes(rule: SetupRule, order: Order, position: int, time: int) -> Callable[[State], bool]:
    """Whether the setup before the task of a position takes that time."""

    def holds(s: State) -> bool:
        before = next((a for a, b in order.next_of(s).items() if b == position), None)
        if before is None:
            return False
        x, y = (rule.state[order.nodes[k][0]] for k in (before, position))
        return int(rule.times[x, y]) == time

    return holds


def swap(model: Model) -> None:
    """Where tasks must not swap, moves at one time have an order.

    Time is refined: a move at time t happens at ``t * steps + order``, and a machine is free one
    step after the task on it has moved on to another.
    """
    inst = model.instance
    if inst.shop.swap:
        return
    takers = sorted({int(j) for j in inst.blocks_until.tolist() if j >= 0 and not inst.fixed[j]})
    steps = len(takers) + 1
    far = steps * (model.limit + 2)
    moment: dict[int, Any] = {}
    for i in range(inst.n):
        moment[i] = model.cp.new_int_var(0, far, f"moment_{i}")
        model.cp.add_linear_constraint(moment[i] - steps * model.start[i], 0, len(takers))
    for r, capacity in enumerate(inst.base.tolist()):
        nodes = [(i, m) for i, m in model.users(r) if not inst.fixed[i]]
        if capacity != 1 or not any(inst.blocks_until[i] >= 0 for i, _ in nodes):
            continue
        on = dict.fromkeys((i for i, _ in nodes), 0)
        for i, m in nodes:
            chosen = model.chosen[i][m]
            on[i] += 1 if chosen is None else chosen
        intervals = []
        for i, m in nodes:
            taker = int(inst.blocks_until[i])
            left = steps * model.end[i]
            if taker >= 0:
                left = steps * model.start[taker]
                if not inst.fixed[taker]:
                    # A task that stays on its machine leaves nothing.
                    left = model.cp.new_int_var(0, far + 1, "")
                    model.cp.add(left == moment[taker] + 1 - on.get(taker, 0))
            size = model.cp.new_int_var(0, far + 1, "")
            chosen = model.chosen[i][m]
            if chosen is None:
                interval = model.cp.new_interval_var(moment[i], size, left, "")
            else:
                interval = model.cp.new_optional_interval_var(moment[i], size, left, chosen, "")
            intervals.append(interval)
        model.cp.add_no_overlap(intervals)


def no_idle(model: Model) -> None:
    """Machines without idle time: from the first start to the last release all is work.

    With setups or facts, each task starts right after the one before it and its setup.
    """
    inst = model.instance
    setups = {rule.resource: rule for rule in inst.setups if rule.times.any()}
    for r in inst.shop.no_idle:
        model.run.clock.check()
        nodes = model.users(r)
        if len(nodes) < 2:
            continue
        if r in setups or any(inst.fixed[i] for i, _ in nodes):
            rule = setups.get(r)
            nodes, follows = sequence(model, r)[0].nodes, sequence(model, r)[1]
            for (a, b), arc in follows.items():
                i, j = nodes[a][0], nodes[b][0]
                if not inst.fixed[j]:
                    time = 0 if rule is None else int(rule.times[rule.state[i], rule.state[j]])
                    model.cp.add(model.start[j] == model.free(i) + time).only_enforce_if(arc)
            continue
        first = model.integer(0, model.limit, f"first_{r}", _span_of(model, nodes, 0))
        last = model.integer(0, 2 * model.limit + 1, f"last_{r}", _span_of(model, nodes, 1))
        work: list[Any] = []
        for i, m in nodes:
            chosen = model.chosen[i][m]
            model.enforced(model.cp.add(first <= model.start[i]), chosen)
            model.enforced(model.cp.add(last >= model.free(i)), chosen)
            size = model.held_size(i, m)
            if chosen is None:
                work.append(size)
            elif isinstance(size, int):
                work.append(size * chosen)
            else:
                counted = model.integer(0, model.limit, "", _work_of(model, i, m))
                model.cp.add(counted == size).only_enforce_if(chosen)
                model.cp.add(counted == 0).only_enforce_if(chosen.negated())
                work.append(counted)
        model.cp.add(last - first == cp_model.LinearExpr.sum(work))


def _released(model: Model, s: State, i: int) -> int:
    taker = int(model.instance.blocks_until[i])
    return s.end[i] if taker < 0 else max(s.end[i], s.start[taker])


def _span_of(model: Model, nodes: Nodes, side: int) -> Callable[[State], int]:
    def value(s: State) -> int:
        on = [i for i, m in nodes if s.mode[i] == m]
        if side == 0:
            return min((s.start[i] for i in on), default=0)
        return max((_released(model, s, i) for i in on), default=0)

    return value


def _work_of(model: Model, i: int, mode: int) -> Callable[[State], int]:
    return lambda s: _released(model, s, i) - s.start[i] if s.mode[i] == mode else 0


def same_sequence(model: Model) -> None:
    """No job overtakes another: one literal per pair of positions, for all lists."""
    inst = model.instance
    for rows in inst.shop.sequences:
        for a, b in combinations(range(rows.shape[1]), 2):
            pairs = list(zip(rows[:, a].tolist(), rows[:, b].tolist(), strict=True))
            facts = {
                bool(inst.release[i] < inst.release[j])
                for i, j in pairs
                if inst.fixed[i] and inst.fixed[j] and inst.release[i] != inst.release[j]
            }
            if len(facts) > 1:
                continue  # they have overtaken each other already
            first = model.boolean("", _in_order(pairs))
            for i, j in pairs:
                both = (model.present[i], model.present[j])
                model.enforced(model.cp.add(model.start[i] <= model.start[j]), first, *both)
                other = first.negated()
                model.enforced(model.cp.add(model.start[j] <= model.start[i]), other, *both)
        model.run.clock.check()


def _in_order(pairs: list[tuple[int, int]]) -> Callable[[State], bool]:
    return lambda s: all(
        s.start[i] <= s.start[j] for i, j in pairs if s.mode[i] >= 0 and s.mode[j] >= 0
    )


def transport(model: Model) -> None:
    """Transport between machines, where its time depends on the modes."""
    shop = model.instance.shop
    for leg in shop.legs:
        for (m, first), (k, second) in product(
            model.chosen[leg.before].items(), model.chosen[leg.after].items()
        ):
            time = leg.lag + shop.transport(m, k)
            gap = model.start[leg.after] - model.end[leg.before]
            model.enforced(model.cp.add(gap >= time), first, second)


def batching(model: Model) -> None:
    """Batching machines: two tasks start together, or one leaves before the other starts."""
    inst = model.instance
    for rule in inst.shop.batches:
        nodes = model.users(rule.resource)
        for (i, m), (j, k) in combinations(nodes, 2):
            if i == j or (inst.fixed[i] and inst.fixed[j]):
                continue
            if model.frozen is not None and model.frozen.together(i, j):
                continue
            model.run.clock.check()
            both = (model.chosen[i][m], model.chosen[j][k])
            cases = []
            for x, y in ((i, j), (j, i)):
                before = model.boolean("", _is_before(model, x, y))
                model.cp.add(model.free(x) <= model.start[y]).only_enforce_if(before)
                cases.append(before)
            if rule.family[i] == rule.family[j]:
                together = model.boolean("", _starts_with(i, j))
                model.cp.add(model.start[i] == model.start[j]).only_enforce_if(together)
                cases.append(together)
            model.enforced(model.cp.add_bool_or(cases), *both)


def _is_before(model: Model, i: int, j: int) -> Callable[[State], bool]:
    return lambda s: _released(model, s, i) <= s.start[j]


def _starts_with(i: int, j: int) -> Callable[[State], bool]:
    return lambda s: s.start[i] == s.start[j]


def assignment(model: Model) -> None:
    """Tasks are done by the same machines, or by different ones."""
    inst = model.instance
    for rule in inst.shop.assignments:
        for i, j in combinations(rule.tasks, 2):
            if inst.fixed[i] and inst.fixed[j]:
                continue
            both = (model.present[i], model.present[j])
            own = [_by_machines(model, t, rule.held, rule.different) for t in (i, j)]
            first, second = own
            if rule.different:
                for key in first.keys() & second.keys():
                    total = cp_model.LinearExpr.sum([*first[key], *second[key]])
                    model.enforced(model.cp.add_linear_constraint(total, 0, 1), *both)
            else:
                for key in first.keys() | second.keys():
                    difference = sum(first.get(key, [])) - sum(second.get(key, []))
                    model.enforced(model.cp.add_linear_constraint(difference, 0, 0), *both)


def _by_machines(
    model: Model, task: int, held: dict[int, frozenset[int]], each: bool
) -> dict[Any, list[Any]]:
    """Literals of a task's modes by the set of machines they hold, or by each machine."""
    found: dict[Any, list[Any]] = {}
    for m, literal in model.chosen[task].items():
        value = 1 if literal is None else literal
        for key in held[m] if each else (held[m],):
            found.setdefault(key, []).append(value)
    return found
