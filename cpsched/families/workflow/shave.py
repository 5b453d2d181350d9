"""Lower bounds by shaving: machines that no better schedule can use for a task are struck out.

Suppose there is a schedule with a makespan of at most ``most``. A task cannot run on a machine in
it when the bounds of the problem in which it does exceed ``most``. Striking out that machine raises
the heads, tails and area of other tasks, so that more may follow. When the bounds of what is left
exceed ``most`` there is no such schedule, and ``most + 1`` is a lower bound. What was struck out
is of use even without that: the model of the whole problem becomes smaller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import groupby

import numpy as np

from cpsched.core.clock import Clock
from cpsched.errors import OutOfTime
from cpsched.families.workflow.area import AreaRow, area_lp, best_window
from cpsched.families.workflow.heads import critical_path, heads_and_tails
from cpsched.families.workflow.prepare import NEVER, Instance, Ints


@dataclasses.dataclass
class Shaved:
    """Durations with struck out cells set to -1, and how they came about.

    Attributes
    ----------
    bound
        Ticks that no schedule is below; above ``most`` when no schedule within it is left.
    struck
        (task, machine) in the order in which they were struck out.
    rows
        The area rows that prove the most about what is left.
    """

    most: int
    dur: Ints
    bound: int = 0
    struck: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    rows: list[AreaRow] = dataclasses.field(default_factory=list)


def shave(inst: Instance, clock: Clock, most: int, seconds: float) -> Shaved:
    """Strike out (task, machine) pairs for schedules of at most ``most`` ticks for some seconds."""
    end = clock.used() + seconds
    out = Shaved(most, inst.dur)
    prover = Prover(inst, clock, most)
    first = heads_and_tails(inst)[0].min(axis=1)
    order = np.argsort(first, kind="stable").tolist()
    idle = 0
    dull: set[tuple[int, int]] = set()
    try:
        out.bound, out.dur = prover.root(inst.dur)
        # Goes around until a whole round has struck out nothing.
        while out.bound <= most and idle < inst.n:
            t = order.pop(0)
            order.append(t)
            idle += 1
            for p in range(inst.m):
                if clock.used() > end:
                    idle = inst.n
                    break
                where = machines_left(inst, out.dur, t)
                if len(where) < 2 or p not in where or (t, p) in dull:
                    continue
                value = prover.value(fixed(inst, out.dur, t, p))
                if value <= out.bound:
                    dull.add((t, p))  # makes no difference: not asked again
                if value > most:
                    out.struck.append((t, p))
                    idle = 0
                    out.dur = _without(inst, out.dur, t, p)
            if out.struck and out.struck[-1][0] == t:
                out.bound, out.dur = prover.root(out.dur)
    except OutOfTime:
        pass
    out.rows = prover.rows
    return out


def shaved_value(inst: Instance, clock: Clock, most: int, struck: Iterable[tuple[int, int]]) -> int:
    """Ticks proved by shaving, from what was struck out in which order; 0 for a false step."""
    prover = Prover(inst, clock, most)
    value, dur = prover.root(inst.dur)
    for t, group in groupby(struck, key=lambda pair: pair[0]):
        for _, p in group:
            if prover.value(fixed(inst, dur, t, p)) <= most:
                return 0
            dur = _without(inst, dur, t, p)
        value, dur = prover.root(dur)
    return value


class Prover:
    """Bounds of the instance with fewer durations; the area rows of the last root are reused."""

    def __init__(self, inst: Instance, clock: Clock, most: int) -> None:
        self.inst, self.clock, self.most = inst, clock, most
        self.rows: list[AreaRow] = []

    def root(self, dur: Ints) -> tuple[int, Ints]:
        """The bound of what is left, and durations without too long ways; keeps the area rows."""
        value, dur, sub = self._paths(dur)
        if sub is not None:
            rows, _, area = area_lp(sub, self.clock, self._seeds(sub))
            value = max(value, area)
            self.rows = rows or self.rows
        return min(value, self.most + 1), dur

    def value(self, dur: Ints) -> int:
        """A bound of what is left; an estimate unless it is above ``most``."""
        value, _, sub = self._paths(dur)
        if sub is not None and value <= self.most:
            value = max(value, area_lp(sub, self.clock, self._seeds(sub), self.most, 5)[2])
        return value

    def _seeds(self, sub: Instance) -> list[AreaRow]:
        return self.rows or best_window(sub, *heads_and_tails(sub))[0]

    def _paths(self, dur: Ints) -> tuple[int, Ints, Instance | None]:
        """The longest way, after too long ones are left out until there are none."""
        inst, owner = self.inst, self.inst.row_task
        while True:
            if bool((np.maximum.reduceat(dur.max(axis=1), inst.row_ptr[:-1]) < 0).any()):
                return self.most + 1, dur, None
            sub = dataclasses.replace(inst, dur=dur, cache={})
            heads, tails = heads_and_tails(sub)
            ends = np.minimum(heads, NEVER)[owner] + dur
            late = ends + np.minimum(tails, NEVER)[owner] > self.most
            late = (late | (ends > inst.deadline[owner, None])) & (dur >= 0)
            if not late.any():
                return critical_path(sub), dur, sub
            dur = np.where(late, -1, dur)


def machines_left(inst: Instance, dur: Ints, t: int) -> set[int]:
    """Machines that are not struck out for a task."""
    rows = dur[inst.row_ptr[t] : inst.row_ptr[t + 1]]
    return set(np.flatnonzero((rows >= 0).any(axis=0)).tolist())


def fixed(inst: Instance, dur: Ints, t: int, p: int) -> Ints:
    """Task ``t`` on machine ``p`` alone."""
    out = dur.copy()
    rows = slice(int(inst.row_ptr[t]), int(inst.row_ptr[t + 1]))
    out[rows] = -1
    out[rows, p] = dur[rows, p]
    return out


def _without(inst: Instance, dur: Ints, t: int, p: int) -> Ints:
    """Task ``t`` not on machine ``p``."""
    out = dur.copy()
    out[int(inst.row_ptr[t]) : int(inst.row_ptr[t + 1]), p] = -1
    return out
