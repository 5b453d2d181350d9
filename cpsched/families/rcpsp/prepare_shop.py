"""The shop part of `prepare`: rules with indices, and contradictions that are plain to see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.errors import Infeasible
from cpsched.families.rcpsp.graph import Arc
from cpsched.families.rcpsp.rules_shop import Alike, Batch, IntArray, Leg, SetupRule, ShopRules

if TYPE_CHECKING:
    from cpsched.families.rcpsp.instance import Instance
    from cpsched.families.rcpsp.problem import Precedence, RcpspProblem

BoolArray = NDArray[np.bool_]


def setup_rules(
    problem: RcpspProblem, index: dict[str, int], renewable: Sequence[str]
) -> tuple[SetupRule, ...]:
    """The setups with indices."""
    rules = []
    for s in problem.setups:
        state = np.full(len(index), -1, np.int64)
        for name, value in s.states.items():
            state[index[name]] = value
        times = np.array(s.times, np.int64)
        costs = np.array(s.costs, np.int64) if s.costs else np.zeros_like(times)
        demand = np.array([s.demands.get(name, 0) for name in renewable], np.int64)
        rules.append(SetupRule(renewable.index(s.resource), state, times, costs, demand))
    return tuple(rules)


def places_of(problem: RcpspProblem) -> tuple[IntArray, IntArray]:
    """Per mode the row of its machine in the transport times (-1: none), and the times."""
    rule = problem.transport
    modes = [mode for task in problem.tasks for mode in task.modes]
    place = np.full(len(modes), -1, np.int64)
    if rule is None:
        return place, np.zeros((0, 0), np.int64)
    row = {name: k for k, name in enumerate(rule.resources)}
    for m, mode in enumerate(modes):
        for name, units in mode.demands.items():
            if units and name in row:
                place[m] = row[name]
    return place, np.array(rule.times, np.int64)


class Transports:
    """Times of transport between the modes of two tasks."""

    def __init__(self, problem: RcpspProblem, mode_start: IntArray, usable: BoolArray) -> None:
        self.place, self.times = places_of(problem)
        self._modes = [
            [m for m in range(a, b) if usable[m]] for a, b in pairwise(mode_start.tolist())
        ]

    def range_of(self, p: Precedence, before: int, after: int) -> tuple[int, int]:
        """Least and largest time of a precedence over the usable modes."""
        if not p.transport:
            return 0, 0
        pairs = product(*({int(self.place[m]) for m in self._modes[i]} for i in (before, after)))
        times = [0 if min(a, b) < 0 else int(self.times[a, b]) for a, b in pairs]
        return min(times, default=0), max(times, default=0)

    def legs(self, problem: RcpspProblem, index: dict[str, int]) -> tuple[Leg, ...]:
        """The transports whose time depends on the modes."""
        found = []
        for p in problem.precedences:
            i, j = index[p.before], index[p.after]
            if problem.tasks[i].fixed is not None and problem.tasks[j].fixed is not None:
                continue
            least, most = self.range_of(p, i, j)
            if least < most:
                found.append(Leg(i, j, p.min_lag or 0))
        return tuple(found)


def shop_rules(
    problem: RcpspProblem,
    index: dict[str, int],
    renewable: Sequence[str],
    mode_start: IntArray,
    transports: Transports,
) -> ShopRules:
    """The rules of shops with indices."""
    column = {name: r for r, name in enumerate(renewable)}
    batches = []
    for batching in problem.batching:
        code = {name: k for k, name in enumerate(sorted(set(batching.families.values())))}
        family = np.array([code.get(batching.families.get(name, ""), -1) for name in index])
        batches.append(Batch(column[batching.resource], family))
    assignments = []
    for rule in problem.assignments:
        counted = set(rule.resources or renewable)
        tasks = tuple(index[name] for name in rule.tasks)
        held = {
            int(mode_start[i]) + m: frozenset(
                column[name] for name, units in mode.demands.items() if units and name in counted
            )
            for i in tasks
            for m, mode in enumerate(problem.tasks[i].modes)
        }
        assignments.append(Alike(rule.type == "different", tasks, held))
    blocks = any(t.blocks_until is not None for t in problem.tasks)
    return ShopRules(
        swap=problem.swap or not blocks,
        no_idle=tuple(column[r.name] for r in problem.resources if r.no_idle),
        sequences=tuple(
            np.array([[index[name] for name in tasks] for tasks in same.lists], np.int64)
            for same in problem.same_sequence
        ),
        place=transports.place,
        transport_times=transports.times,
        legs=transports.legs(problem, index),
        batches=tuple(batches),
        assignments=tuple(assignments),
    )


def extra_steps(
    setups: tuple[SetupRule, ...],
    shop: ShopRules,
    blocks_until: IntArray,
    worked: IntArray,
) -> list[Arc]:
    """What setups and transport add to the steps of `horizon_of`.

    After a task or after its taker's start; where setups share a worker, after any task.
    """
    out = []
    for rule in setups:
        longest = int(rule.times.max(initial=0))
        if rule.demand.any():
            out += [(i, i, int(w) + longest) for i, w in enumerate(worked.tolist())]
        for i in np.flatnonzero(rule.state >= 0).tolist():
            taker = int(blocks_until[i])
            out.append((i, i, int(worked[i]) + longest) if taker < 0 else (taker, taker, longest))
    farthest = int(shop.transport_times.max(initial=0))
    out += [
        (leg.before, leg.before, int(worked[leg.before]) + leg.lag + farthest) for leg in shop.legs
    ]
    return out


def refuse_shop(instance: Instance) -> None:
    """Raise `Infeasible` for deadlocks of blocking and for impossible assignments."""
    _refuse_deadlocks(instance)
    _refuse_assignments(instance)


def _refuse_deadlocks(instance: Instance) -> None:
    """A task that must come while another blocks cannot need what that one keeps."""
    blockers = np.flatnonzero((instance.blocks_until >= 0) & ~instance.optional).tolist()
    if not blockers:
        return
    n = instance.n
    before: list[list[int]] = [[] for _ in range(n)]
    after: list[list[int]] = [[] for _ in range(n)]
    for i, j, kind, least, _ in instance.edges.tolist():
        if kind == 0 and least >= 0 and not instance.optional[i] and not instance.optional[j]:
            before[j].append(i)
            after[i].append(j)
    for i in blockers:
        taker = int(instance.blocks_until[i])
        earlier = _reachable(taker, before, i)
        if not earlier:
            continue
        needed = _least_units(instance, i)
        for k in sorted(earlier & _reachable(i, after, taker)):
            short = needed + _least_units(instance, k) > instance.capacity
            both = short & (needed > 0) & (_least_units(instance, k) > 0)
            for r in np.flatnonzero(both).tolist():
                raise Infeasible(
                    f"blocking deadlocks: task {instance.ids[k]!r} needs {instance.renewable[r]!r} "
                    f"after task {instance.ids[i]!r}, which keeps it until task "
                    f"{instance.ids[taker]!r} starts, and that one waits for {instance.ids[k]!r}",
                    "blocking",
                )


def _reachable(start: int, next_of: list[list[int]], barrier: int) -> set[int]:
    """Nodes reached from a node without going through another, both left out."""
    seen: set[int] = set()
    stack = [start]
    while stack:
        for j in next_of[stack.pop()]:
            if j != barrier and j not in seen:
                seen.add(j)
                stack.append(j)
    return seen - {start}


def _least_units(instance: Instance, i: int) -> IntArray:
    """Least units of each renewable resource that a task holds in any usable mode, (R,)."""
    modes = instance.modes(i)
    least: IntArray = instance.demand[modes].min(axis=0)
    return least


def _refuse_assignments(instance: Instance) -> None:
    """Tasks on one machine need a common one; tasks on different machines need enough of them."""
    for rule in instance.shop.assignments:
        tasks = [i for i in rule.tasks if not instance.optional[i] and not instance.fixed[i]]
        choices = [{rule.held[m] for m in instance.modes(i)} for i in tasks]
        names = ", ".join(repr(instance.ids[i]) for i in tasks[:6])
        if len(tasks) < 2:
            continue
        if not rule.different and not set.intersection(*choices):
            raise Infeasible(
                f"the tasks {names} must be done by the same machines, and have none in common",
                "assignment",
            )
        least = sum(min(len(held) for held in own) for own in choices)
        machines = frozenset().union(*(held for own in choices for held in own))
        if rule.different and least > len(machines):
            raise Infeasible(
                f"the tasks {names} must be done by different machines, at least {least}, and "
                f"there are {len(machines)}",
                "assignment",
            )
