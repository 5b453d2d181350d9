"""Redundant constraints of the CP-SAT model, and the machines that are alike.

Cliques of tasks that exclude each other, the energy until the makespan, all machines that can
do some tasks together. `twins_of` finds machines that no rule tells apart: the model counts them
as one resource, and tasks get theirs afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ortools.sat.python import cp_model

from cpsched.families.rcpsp.bound import machine_sets
from cpsched.families.rcpsp.evaluate import mode_cost
from cpsched.families.rcpsp.instance import FAR

if TYPE_CHECKING:
    from cpsched.families.rcpsp.instance import Instance
    from cpsched.families.rcpsp.model import Model


@dataclass(frozen=True)
class Twins:
    """Machines that are alike: their columns, and per mode on the first the modes on each."""

    machines: tuple[int, ...]
    modes: dict[int, tuple[int, ...]]


def twins_of(instance: Instance) -> list[Twins]:
    """Groups of machines that can be exchanged in every schedule."""
    known: list[Twins] | None = instance.extras.get("twins")
    if known is None:
        known = instance.extras["twins"] = _twins(instance)
    return known


def _twins(instance: Instance) -> list[Twins]:
    shop = instance.shop
    levelled = {"resource_levelling", "replan_cost"} & set(instance.objectives)
    if instance.single_mode or levelled or not shop.swap or shop.legs:
        return []
    named = {rule.resource for rule in instance.setups} | set(shop.no_idle)
    named |= {b.resource for b in shop.batches}
    named |= {r for rule in instance.setups for r in np.flatnonzero(rule.demand).tolist()}
    named |= {r for rule in shop.assignments for held in rule.held.values() for r in held}
    costs: dict[int, int] = {}
    where: dict[int, list[tuple[tuple[object, ...], int]]] = {}
    for i, task in enumerate(instance.problem.tasks):
        first, last = int(instance.mode_start[i]), int(instance.mode_start[i + 1])
        for m in range(first, last):
            held = np.flatnonzero(instance.demand[m]).tolist()
            if not held:
                continue
            costs[m] = mode_cost(instance.problem, task.modes[m - first])
            for r in held:
                others = [(q, int(instance.demand[m, q])) for q in held if q != r]
                kind = (i, int(instance.duration[m]), tuple(others), costs[m])
                eaten = tuple(instance.consumption[m].tolist())
                usable = bool(instance.mode_usable[m])
                where.setdefault(r, []).append(((*kind, eaten, usable), m))
    groups: dict[tuple[object, ...], list[int]] = {}
    for r, own in where.items():
        alone = instance.capacity[r] == 1 and not instance.profiles[r] and r not in named
        if alone and (instance.demand[[m for _, m in own], r] == 1).all():
            own.sort()
            groups.setdefault(tuple(kind for kind, _ in own), []).append(r)
    return [
        Twins(
            tuple(machines),
            {
                own[0][1]: tuple(m for _, m in own)
                for own in zip(*(where[r] for r in machines), strict=True)
            },
        )
        for machines in groups.values()
        if len(machines) > 1
    ]


def cliques(model: Model) -> None:
    """Redundant: tasks of which any two together exceed some capacity do not overlap."""
    for clique in incompatible_cliques(model.instance):
        model.cp.add_no_overlap([model.interval[i][m] for i in clique for m in model.interval[i]])


def energy(model: Model) -> None:
    """Redundant: until the makespan every resource has room for all work, in any modes."""
    inst = model.instance
    if model.makespan is None or inst.single_mode or any(inst.profiles):
        return
    for r, capacity in enumerate(model.capacity_of):
        literals, amounts, constant = [], [], 0
        for literals_of_task in model.chosen:
            for m, literal in literals_of_task.items():
                work = int(inst.demand[m, r] * inst.duration[m])
                if literal is None:
                    constant += work
                elif work:
                    literals.append(literal)
                    amounts.append(work)
        if literals:
            total = cp_model.LinearExpr.weighted_sum(literals, amounts)
            model.cp.add(capacity * model.makespan >= total + constant)


def alternatives(model: Model) -> None:
    """Redundant: machines that can do the same tasks do at most one each at a time."""
    inst = model.instance
    for chosen in machine_sets(inst):
        model.run.clock.check()
        columns = list(chosen)
        users = [
            i
            for i, own in enumerate(model.interval)
            if own and all(inst.demand[m, columns].any() for m in own)
        ]
        if len(users) > len(chosen):
            intervals = [model.whole(i) for i in users]
            model.cp.add_cumulative(intervals, [1] * len(users), len(chosen))


def incompatible_cliques(instance: Instance) -> list[list[int]]:
    """Sets of tasks of which any two together exceed the capacity of some resource.

    Cliques of one resource whose tasks need more than half of it are left to the propagation of
    that resource unless several resources together make a larger one. At most as many cliques as
    there are tasks, each of at least three.
    """
    n = instance.n
    known: list[list[int]] | None = instance.extras.get("cliques")
    if known is not None:
        return known
    cliques: list[list[int]] = []
    if n <= 400:
        clash = incompatible(instance)
        degree = clash.sum(axis=1)
        covered = np.zeros_like(clash)
        for i in np.argsort(-degree, kind="stable").tolist():
            candidates = clash[i] & ~covered[i]
            if not candidates.any():
                continue
            clique = [i]
            common = clash[i].copy()
            while common.any():
                # The candidate that leaves most others, those on uncovered pairs first.
                score = np.where(common, (clash & common).sum(axis=1) + n * ~covered[i], -1)
                j = int(score.argmax())
                clique.append(j)
                common &= clash[j]
            if len(clique) >= 3:
                cliques.append(sorted(clique))
                covered[np.ix_(clique, clique)] = True
            if len(cliques) >= 20:
                break
    instance.extras["cliques"] = cliques
    return cliques


def incompatible(instance: Instance) -> Any:
    """Pairs of always present tasks that exceed a capacity in every choice of modes, (n, n) bool.

    Tasks without a duration and tasks that may rest take part in none.
    """
    n = instance.n
    least = np.full((n, len(instance.capacity)), FAR, np.int64)
    takes = np.zeros(n, bool)
    for i in range(n):
        modes = instance.modes(i)
        takes[i] = bool(modes) and min(int(instance.duration[m]) for m in modes) > 0
        if modes:
            least[i] = instance.demand[modes].min(axis=0)
    least = np.where(least == FAR, 0, least)
    clash = np.zeros((n, n), bool)
    for r, capacity in enumerate(instance.capacity.tolist()):
        clash |= least[:, None, r] + least[None, :, r] > capacity
    clash &= takes[:, None] & takes[None, :]
    np.fill_diagonal(clash, False)
    return clash
