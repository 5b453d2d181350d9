"""Alternatives at the same interval: different schedules that hardware may tell apart.

Schedules of one interval differ in what the model does not see, such as issue pressure. Each
alternative puts at least a few operations into other slots or groups than every one before it; a
rotation of all slots does not count as different.
"""

from __future__ import annotations

import math

from cpsched.core import engine
from cpsched.core.clock import Clock
from cpsched.families.kernel.check import check
from cpsched.families.kernel.model import KernelModel
from cpsched.families.kernel.prepare import Instance, index
from cpsched.families.kernel.problem import KernelProblem, KernelSchedule
from cpsched.families.kernel.search import PARAMETERS, extract, within_limit

#: Least share of the operations whose slot or group differs between two alternatives.
DIFFERENT = 0.1


def alternatives(
    problem: KernelProblem,
    schedule: KernelSchedule,
    count: int,
    clock: Clock,
) -> list[KernelSchedule]:
    """Up to ``count`` further valid schedules at the interval of the given one.

    Parameters
    ----------
    schedule
        A valid schedule, usually the best one; it is not among the alternatives.
    count
        How many to look for; fewer are returned when there are no more or time runs out.
    clock
        The time for all of them.

    Returns
    -------
    list of KernelSchedule
        Shortest lengths first as far as they are found: the length of the given schedule, then up
        to one interval more.
    """
    instance = index(problem)
    found = [schedule]
    for horizon in (schedule.length, schedule.length + schedule.initiation_interval):
        while len(found) <= count and not clock.expired():
            another = _another(instance, found, horizon, clock)
            if another is None:
                break
            found.append(another)
    return found[1:]


def _another(
    instance: Instance, known: list[KernelSchedule], horizon: int, clock: Clock
) -> KernelSchedule | None:
    horizon = within_limit(instance, horizon)
    model = KernelModel(instance, known[0].initiation_interval, clock, horizon=horizon)
    if not model.possible:
        return None
    anchor = model.anchor()
    name = instance.ids[anchor]
    least = max(1, math.floor(DIFFERENT * instance.n))
    base = {p.operation: p.slot for p in known[0].operations}[name]
    model.model.add(model.v.slot[anchor] == base)
    for one in known:
        placed = {p.operation: p for p in one.operations}
        # Slots relative to the anchor's: a rotated schedule is the same schedule.
        shift = base - placed[name].slot
        differs = []
        for o, operation in enumerate(instance.ids):
            p = placed[operation]
            other = model.model.new_bool_var(f"other {o}")
            slot = (p.slot + shift) % model.interval
            moved = model.model.new_bool_var(f"moved {o}")
            model.model.add(model.v.slot[o] != slot).only_enforce_if(moved)
            changes = [moved]
            if instance.problem.operations[o].modes:
                changes += [x for k, x in enumerate(model.v.mode[o]) if k != p.mode]
            for e in _edges_within_group(instance, o):
                u, w = int(instance.source[e]), int(instance.target[e])
                was = placed[instance.ids[u]].group == placed[instance.ids[w]].group
                same = model.same(u, w)
                if not isinstance(same, int):
                    changes.append(same.negated() if was else same)
            model.model.add_bool_or([*changes, other.negated()])
            differs.append(other)
        model.model.add(sum(differs) >= least)
    outcome = engine.solve(
        model.model,
        clock,
        seconds=clock.remaining(),
        parameters=PARAMETERS,
    )
    if outcome.values is None:
        return None
    schedule = extract(instance, model, outcome.values)
    return None if check(instance.problem, schedule) else schedule


def _edges_within_group(instance: Instance, o: int) -> list[int]:
    """Edges into an operation whose ends may or may not share a group."""
    if not instance.problem.grouped:
        return []
    edges = range(len(instance.source))
    return [e for e in edges if int(instance.target[e]) == o and int(instance.source[e]) != o]
