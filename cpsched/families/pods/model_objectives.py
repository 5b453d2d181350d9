"""Objectives of the model of end states, each as a linear expression."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from cpsched.families.pods import labels as rules
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.between import Spreading, Wish
from cpsched.families.pods.model import EndState, Linear, fixed_use


def objective(state: EndState, name: str) -> Linear | None:
    """An objective as a linear expression, None where the model does not state it."""
    if name.startswith("placed@"):
        priority = int(name.removeprefix("placed@"))
        parts = []
        for group in state.instance.classes:
            if group.priority >= priority:
                v, w, k = state.placed(group.index)
                parts.append((v, [group.weight * a for a in w], group.weight * k))
        return state.sum(parts)
    if name == "fragment_rate" and not any(n.cells for n in state.instance.problem.nodes):
        return [], [], 0
    stated = {
        "disruption": _disruption,
        "nodes_used": _nodes_used,
        "node_cost": _node_cost,
        "fragmentation": _fragmentation,
        "preference": _preference,
        "balance": _balance,
    }
    return stated[name](state) if name in stated else None


def _disruption(state: EndState) -> Linear:
    problem = state.instance.problem
    variables, weights, constant = [], [], 0
    for group in state.instance.classes:
        c = group.index
        total = sum(state.now.get(c, {}).values())
        if group.fixed or not total:
            continue
        pending = len(group.members) - total
        stays = state.expression(state.stays(c))
        placed = state.expression(state.placed(c))
        evicted = state.model.new_int_var(0, total, "")
        moved = state.model.new_int_var(0, total, "")
        state.model.add(evicted + moved + stays >= total)
        state.model.add(moved - placed + stays >= -pending)
        state.model.add(evicted + placed >= total)
        variables += [evicted, moved]
        weights += [problem.eviction_weight, problem.move_weight]
    return variables, weights, constant


def _used(state: EndState, n: int) -> Any:
    """A literal that is true when a pod that could be elsewhere is on the node."""
    literal = state.model.new_bool_var("")
    for c in state.by_class:
        if (c, n) in state.x:
            state.model.add(state.x[c, n] == 0).only_enforce_if(~literal)
    return literal


def _nodes_used(state: EndState) -> Linear:
    outside = {
        n for c, row in state.outside.items() for n in row if not state.instance.classes[c].fixed
    }
    literals = [_used(state, n) for n in state.scope]
    return literals, [1] * len(literals), len(outside)


def _node_cost(state: EndState) -> Linear:
    nodes = state.instance.problem.nodes
    optional = [n for n in state.scope if nodes[n].optional and nodes[n].cost]
    constant = sum(
        nodes[n].cost
        for n in {n for row in state.outside.values() for n in row}
        if nodes[n].optional
    )
    return [_used(state, n) for n in optional], [nodes[n].cost for n in optional], constant


def _fragmentation(state: EndState) -> Linear:
    i = state.instance
    index = {r: k for k, r in enumerate(i.resources)}
    fixed = fixed_use(i)
    variables, constant = [], 0
    known = i.capacity.copy()
    placed = np.flatnonzero(state.end >= 0)
    np.subtract.at(known, state.end[placed], i.requests[i.class_of[placed]])
    for shape in i.problem.future:
        needs = {"pods": 1, **shape.requests}
        slots, base = [], 0
        for n, node in enumerate(i.problem.nodes):
            if node.unschedulable or node.optional or node.name in i.problem.drain:
                continue
            limits, expressions = [shape.count], []
            for r, a in needs.items():
                if a <= 0:
                    continue
                if r not in index:
                    limits.append(node.allocatable.get(r, 0) // a)
                elif not state.inside[n]:
                    limits.append(max(0, int(known[n, index[r]])) // a)
                else:
                    room = int(i.capacity[n, index[r]] - fixed[n, index[r]])
                    limits.append(max(0, room) // a)
                    used = [
                        (state.x[c, n], int(i.requests[c, index[r]]))
                        for c in state.by_class
                        if (c, n) in state.x and i.requests[c, index[r]]
                    ]
                    expressions.append((used, room, a))
            if min(limits) <= 0:
                continue
            if not state.inside[n]:
                base += min(limits)
                continue
            slot = state.model.new_int_var(0, min(limits), "")
            for used, room, a in expressions:
                total = state.cp.LinearExpr.weighted_sum([x for x, _ in used], [w for _, w in used])
                # Without slots the row must not bind: an over-committed node keeps its pods.
                some = state.model.new_bool_var("")
                state.model.add(slot == 0).only_enforce_if(~some)
                state.model.add(total + a * slot <= room).only_enforce_if(some)
            slots.append(slot)
        lost = state.model.new_int_var(0, shape.count, "")
        state.model.add(lost + state.cp.LinearExpr.sum(slots) >= shape.count - base)
        variables.append(lost)
    return variables, [1] * len(variables), constant


def _preference(state: EndState) -> Linear | None:
    i = state.instance
    if i.wishes and len(state.scope) < i.nodes:
        return None  # what is not free may change its score, too
    variables, weights, constant = [], [], 0
    taints = any(t.effect == "PreferNoSchedule" for n in i.problem.nodes for t in n.taints)
    for group in i.classes:
        c = group.index
        if not group.pod.preferred_nodes and not taints:
            continue
        worth = [rules.node_preference(group.pod, n) for n in i.problem.nodes]
        rows = state.now if group.fixed else state.outside
        constant += sum(worth[n] * k for n, k in rows.get(c, {}).items())
        for n in state.by_class.get(c, ()):
            if worth[n]:
                variables.append(state.x[c, n])
                weights.append(worth[n])
    parts = [(variables, weights, constant)]
    for c, listed in i.wishes.pods.items():
        parts += [_wish(state, c, wish) for wish in listed]
    for c, soft in i.wishes.spreads.items():
        parts += [_soft_spread(state, c, s) for s in soft]
    return state.sum(parts)


def _per_domain(state: EndState, c: int, domain: Ints) -> dict[int, Linear]:
    """Pods of the class per domain of their node."""
    nodes: dict[int, list[int]] = defaultdict(list)
    for n in {*state.by_class.get(c, ()), *state.now.get(c, {})}:
        nodes[int(domain[n])].append(n)
    return {d: state.count([c], members) for d, members in nodes.items()}


def _scored(state: EndState, pods: Linear, weight: int, literal: Any) -> Linear:
    """The weight per pod, only while the literal is true; the sum is to be maximised."""
    earned = state.model.new_int_var(0, len(state.instance.at), "")
    state.model.add(earned <= state.expression(pods))
    state.model.add(earned == 0).only_enforce_if(~literal)
    return [earned], [weight], 0


def _wish(state: EndState, c: int, wish: Wish) -> Linear:
    """A preferred pod term: earned where another match is in the domain, or none when apart."""
    matching = np.flatnonzero(wish.matches).tolist()
    parts: list[Linear] = []
    for d, pods in _per_domain(state, c, wish.domain).items():
        if d < 0:
            if wish.apart:
                v, w, k = pods
                parts.append((v, [wish.weight * a for a in w], wish.weight * k))
            continue
        near = state.count(matching, np.flatnonzero(wish.domain == d).tolist())
        literal = state.model.new_bool_var("")
        others = state.expression(near) - int(wish.own)
        row = others <= 0 if wish.apart else others >= 1
        state.model.add(row).only_enforce_if(literal)
        parts.append(_scored(state, pods, wish.weight, literal))
    return state.sum(parts)


def _soft_spread(state: EndState, c: int, spread: Spreading) -> Linear:
    """A soft spread constraint: its weight is lost per pod in a domain beyond the skew."""
    i = state.instance
    matching = np.flatnonzero(spread.matches).tolist()
    domains = range(spread.domains)
    counts = [
        state.expression(state.count(matching, np.flatnonzero(spread.eligible == d).tolist()))
        for d in domains
    ]
    lowest = state.model.new_int_var(0, len(i.at), "")
    for count in counts:
        state.model.add(lowest <= count)
    if spread.domains < spread.min_domains:
        state.model.add(lowest == 0)
    parts: list[Linear] = []
    for n in {*state.by_class.get(c, ()), *state.now.get(c, {})}:
        v, w, k = pods = state.count([c], [n])
        parts.append((v, [-rules.SOFT_WEIGHT * a for a in w], -rules.SOFT_WEIGHT * k))
        d = int(spread.eligible[n])
        if d < 0:
            continue
        literal = state.model.new_bool_var("")
        if spread.own:
            row = counts[d] - lowest <= spread.max_skew
            state.model.add(row).only_enforce_if(literal)
        parts.append(_scored(state, pods, rules.SOFT_WEIGHT, literal))
    return state.sum(parts)


def _balance(state: EndState) -> Linear | None:
    i = state.instance
    if len(state.scope) < i.nodes:
        return None
    index = {r: k for k, r in enumerate(i.resources)}
    fixed = fixed_use(i)
    worst = state.model.new_int_var(0, 10**6, "")
    for n, node in enumerate(i.problem.nodes):
        for r, amount in node.allocatable.items():
            if amount <= 0 or r not in index or amount > 2**50:
                continue
            k = index[r]
            used = [
                (state.x[c, n], 1000 * int(i.requests[c, k]))
                for c in state.by_class
                if (c, n) in state.x and i.requests[c, k]
            ]
            total = state.cp.LinearExpr.weighted_sum([x for x, _ in used], [w for _, w in used])
            state.model.add(amount * worst >= total + 1000 * int(fixed[n, k]))
    return [worst], [1], 0
