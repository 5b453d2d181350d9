"""The constraints of projects in the CP-SAT model: one function each, named as in the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ortools.sat.python import cp_model

from cpsched.families.rcpsp.instance import FAR

if TYPE_CHECKING:
    from cpsched.families.rcpsp.model import Expr, Literal, Model
    from cpsched.families.rcpsp.schedule import State


def capacity(model: Model) -> None:
    """Renewable resources: at every time the use is at most the capacity."""
    inst = model.instance
    for r in range(len(inst.capacity)):
        model.run.clock.check()
        uses = [
            (i, m, int(inst.demand[m, r]))
            for i in range(inst.n)
            for m in model.interval[i]
            if inst.demand[m, r] and inst.duration[m]
        ]
        capacity = model.capacity_of[r]
        fixed = _lowered(model, r)
        extra = model.extra_uses.get(r, [])
        most: dict[int, int] = {}
        for i, _, units in uses:
            most[i] = max(units, most.get(i, 0))
        total = sum(most.values()) + sum(u for _, u in extra)
        if total <= capacity - max((p[2] for p in fixed), default=0):
            continue
        divisor = int(np.gcd.reduce([u for *_, u in uses] or [1]))
        if not fixed and not extra and divisor > 1:
            uses = [(i, m, u // divisor) for i, m, u in uses]
            capacity //= divisor
        intervals = [model.held(i, m) for i, m, _ in uses]
        demands = [u for *_, u in uses]
        intervals += [interval for interval, _ in extra]
        demands += [u for _, u in extra]
        intervals += [model.cp.new_fixed_size_interval_var(s, e - s, "") for s, e, _ in fixed]
        demands += [u for *_, u in fixed]
        least = sorted(demands)[:2]
        if sum(least) > capacity:
            model.cp.add_no_overlap(intervals)
            continue
        if model.afterwards is not None and not fixed:
            intervals.append(model.afterwards)
            demands.append(capacity)
        model.cp.add_cumulative(intervals, demands, capacity)


def _lowered(model: Model, r: int) -> list[tuple[int, int, int]]:
    """Stretches (start, end, units) in which less than the largest capacity is there.

    Breaks are left out: tasks that cannot pause avoid them, and those that rest in one leave
    no more units to others than at the time before it.
    """
    inst = model.instance
    largest, base = int(inst.capacity[r]), int(inst.base[r])
    out = []
    at = 0
    for start, end, capacity in [*inst.profiles[r], (model.limit, model.limit, largest)]:
        if at < start and base < largest:
            out.append((at, min(start, model.limit), largest - base))
        if 0 < capacity < largest and start < model.limit:
            out.append((start, min(end, model.limit), largest - capacity))
        at = max(at, end)
    return [piece for piece in out if piece[1] > piece[0]]


def nonrenewable(model: Model) -> None:
    """Nonrenewable resources: the total consumption is at most the budget."""
    inst = model.instance
    for k, budget in enumerate(inst.budget.tolist()):
        literals, amounts, constant = [], [], 0
        for literals_of_task in model.chosen:
            for m, literal in literals_of_task.items():
                units = int(inst.consumption[m, k])
                if literal is None:
                    constant += units
                elif units:
                    literals.append(literal)
                    amounts.append(units)
        if literals:
            total = cp_model.LinearExpr.weighted_sum(literals, amounts)
            model.cp.add(total <= budget - constant)
        elif constant > budget:
            model.cp.add_bool_or([])


def reservoir(model: Model) -> None:
    """Reservoirs: the level stays in its range after all events of every time."""
    for reservoir in model.instance.reservoirs:
        model.run.clock.check()
        times, amounts, actives = [], [], []
        for i, amount, at_end in reservoir.events.tolist():
            times.append(model.end[i] if at_end else model.start[i])
            amounts.append(amount)
            actives.append(model.presence(i))
        low = reservoir.minimum - reservoir.initial
        total = sum(a for a in amounts if a > 0)
        high = total
        if reservoir.maximum is not None:
            high = min(total, reservoir.maximum - reservoir.initial)
        if low <= 0 <= high and not any(a == 0 for a in amounts):
            if times:
                model.cp.add_reservoir_constraint_with_active(times, amounts, actives, low, high)
            continue
        if not times:
            model.cp.add_bool_or([])
        _levels(model, reservoir.events.tolist(), low, high)


def _levels(model: Model, events: list[list[int]], low: int, high: int) -> None:
    """The same for a reservoir that starts outside its range: one level per event and for 0."""
    amounts = [amount for _, amount, _ in events]
    for k in range(-1, len(events)):
        owner = None if k < 0 else model.present[events[k][0]]
        counted = [
            _not_after(model, events[j], None if k < 0 else events[k]) for j in range(len(events))
        ]
        level = cp_model.LinearExpr.weighted_sum(counted, amounts)
        model.enforced(model.cp.add_linear_constraint(level, low, high), owner)


def _not_after(model: Model, event: list[int], other: list[int] | None) -> Literal:
    """Whether an event happens, and not after another one (or not after time 0)."""

    def time(s: State, e: list[int]) -> int:
        return s.end[e[0]] if e[2] else s.start[e[0]]

    def happens(s: State, early: bool) -> bool:
        at = 0 if other is None else time(s, other)
        return s.mode[event[0]] >= 0 and (time(s, event) <= at) == early

    def moment(e: list[int]) -> Expr:
        return model.end[e[0]] if e[2] else model.start[e[0]]

    early = model.boolean("", lambda s: happens(s, True))
    late = model.boolean("", lambda s: happens(s, False))
    at = 0 if other is None else moment(other)
    model.cp.add(moment(event) <= at).only_enforce_if(early)
    model.cp.add(moment(event) >= at + 1).only_enforce_if(late)
    model.cp.add(early + late == model.presence(event[0]))
    return early


def precedence(model: Model) -> None:
    """Generalized precedences: minimum and maximum lags between starts and ends."""
    for count, (before, after, kind, least, most) in enumerate(model.instance.edges.tolist()):
        if count % 1024 == 0:
            model.run.clock.check()
        origin = model.end[before] if kind in (0, 2) else model.start[before]
        target = model.end[after] if kind in (2, 3) else model.start[after]
        both = (model.present[before], model.present[after])
        if least > -FAR:
            model.enforced(model.cp.add(target >= origin + least), *both)
        if most < FAR:
            model.enforced(model.cp.add(target <= origin + most), *both)


def disjunctive(model: Model) -> None:
    """Groups of which no two tasks overlap; tasks without a duration overlap nothing."""
    inst = model.instance
    for group in model.instance.disjunctive:
        intervals = [
            interval for i in group for m, interval in model.interval[i].items() if inst.duration[m]
        ]
        if len(intervals) > 1:
            model.cp.add_no_overlap(intervals)


def selection(model: Model) -> None:
    """Which optional tasks of a group are present."""
    for s in model.instance.selections:
        literals = [model.presence(i) for i in s.tasks]
        condition = None if s.condition < 0 else model.present[s.condition]
        total = cp_model.LinearExpr.sum(literals)
        if s.type == "exactly_one":
            model.enforced(model.cp.add(total == 1), condition)
        elif s.type == "at_least_one":
            model.enforced(model.cp.add(total >= 1), condition)
        else:
            first = literals[0]
            for other in literals[1:]:
                model.enforced(model.cp.add(other >= first), condition)
                if s.type == "all_or_none":
                    model.enforced(model.cp.add(other <= first), condition)
