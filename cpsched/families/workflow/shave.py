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

import numpy as np

from cpsched.core.clock import Clock
from cpsched.errors import OutOfTime
from cpsched.families.workflow.area import area_lp, best_window
from cpsched.families.workflow.heads import critical_path, heads_and_tails
from cpsched.families.workflow.prepare import NEVER, Instance, Ints


@dataclasses.dataclass
class Shaved:
    """Durations with struck out cells set to -1, and how they came about.

    Attributes
    ----------
    refuted
        Whether no schedule within ``most`` is left.
    struck
        (task, machine) in the order in which they were struck out.
    """

    most: int
    dur: Ints
    refuted: bool = False
    struck: list[tuple[int, int]] = dataclasses.field(default_factory=list)


def shave(inst: Instance, clock: Clock, most: int, seconds: float) -> Shaved:
    """Strike out (task, machine) pairs for schedules of at most ``most`` ticks for some seconds."""
    end = clock.remaining() - seconds
    out = Shaved(most, inst.dur)
    first = heads_and_tails(inst)[0].min(axis=1)
    order = np.argsort(first, kind="stable").tolist()
    idle = 0
    try:
        out.refuted, out.dur = _refuted(inst, clock, inst.dur, most)
        # Goes around until a whole round has struck out nothing.
        while not out.refuted and idle < inst.n:
            t = order.pop(0)
            order.append(t)
            idle += 1
            for p in range(inst.m):
                if clock.remaining() < end:
                    return out
                where = _machines(inst, out.dur, t)
                if len(where) < 2 or p not in where:
                    continue
                if _refuted(inst, clock, _fixed(inst, out.dur, t, p), most)[0]:
                    out.struck.append((t, p))
                    idle = 0
                    out.dur = _without(inst, out.dur, t, p)
            if idle == 0:
                out.refuted, out.dur = _refuted(inst, clock, out.dur, most)
    except OutOfTime:
        pass
    return out


def shaved_value(inst: Instance, clock: Clock, most: int, struck: Iterable[tuple[int, int]]) -> int:
    """Ticks proved by shaving, from what was struck out in which order; 0 when it proves nothing."""
    dur = inst.dur
    before = -1
    for t, p in struck:
        if t != before:
            dur = _refuted(inst, clock, dur, most)[1]
        before = t
        if not _refuted(inst, clock, _fixed(inst, dur, t, p), most)[0]:
            return 0
        dur = _without(inst, dur, t, p)
    return most + 1 if _refuted(inst, clock, dur, most)[0] else 0


def _refuted(inst: Instance, clock: Clock, dur: Ints, most: int) -> tuple[bool, Ints]:
    """Whether bounds exceed ``most``; and the durations without what is too long a way."""
    owner = inst.row_task
    while True:
        sub = dataclasses.replace(inst, dur=dur, cache={})
        if bool((np.maximum.reduceat(dur.max(axis=1), inst.row_ptr[:-1]) < 0).any()):
            return True, dur
        heads, tails = heads_and_tails(sub)
        ends = np.minimum(heads, NEVER)[owner] + dur
        late = (ends + np.minimum(tails, NEVER)[owner] > most) | (ends > inst.deadline[owner, None])
        late &= dur >= 0
        if not late.any():
            break
        dur = np.where(late, -1, dur)
    row, value = best_window(sub, heads, tails)
    value = max(value, critical_path(sub))
    return value > most or area_lp(sub, clock, row)[2] > most, dur


def _machines(inst: Instance, dur: Ints, t: int) -> set[int]:
    rows = dur[inst.row_ptr[t] : inst.row_ptr[t + 1]]
    return set(np.flatnonzero((rows >= 0).any(axis=0)).tolist())


def _fixed(inst: Instance, dur: Ints, t: int, p: int) -> Ints:
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
