"""List scheduling over all machines at once in numpy, while kernels are interpreted.

Where machines take one task at a time the plans are those of `kernels.list_schedule`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

import numpy as np

from cpsched.families.workflow.extract import Plan
from cpsched.families.workflow.kernels import LATE
from cpsched.families.workflow.prepare import NEVER, Floats, Instance, Ints

#: Estimated seconds per row placed and per machine, with gaps looked at and without.
SECONDS = {True: 5e-5, False: 3.5e-5}
SECONDS_PER_MACHINE = {True: 9e-7, False: 1e-7}

#: Tasks between two looks at the clock.
CHUNK = 200


def seconds_of(inst: Instance, insert: bool = True) -> float:
    """Estimated seconds of placing every task once."""
    rows = inst.rows * (SECONDS[insert] + SECONDS_PER_MACHINE[insert] * inst.m)
    return rows + 2e-6 * len(inst.pred_src)


class Gaps:
    """Free times of every machine, sorted; what is shorter than any task is forgotten."""

    def __init__(self, inst: Instance) -> None:
        lengths = np.where(inst.dur > 0, inst.dur, NEVER).min(axis=0, initial=NEVER)
        self.shortest: list[int] = lengths.tolist()
        self.starts: list[list[int]] = []
        self.ends: list[list[int]] = []
        for breaks in inst.blocked:
            begin = [0, *(until for _, until in breaks)]
            end = [*(since for since, _ in breaks), NEVER]
            kept = [(s, e) for s, e in zip(begin, end, strict=True) if e > s]
            self.starts.append([s for s, _ in kept])
            self.ends.append([e for _, e in kept])
        #: Start of the last gap where that has no end, NEVER elsewhere.
        self.tail = np.full(inst.m, NEVER, dtype=np.int64)
        #: Longest of the gaps that have an end, and the end of the last of them.
        self.longest = np.zeros(inst.m, dtype=np.int64)
        self.last = np.zeros(inst.m, dtype=np.int64)
        for p in range(inst.m):
            self._summarise(p)

    def _summarise(self, p: int) -> None:
        starts, ends = self.starts[p], self.ends[p]
        open_ = bool(ends) and ends[-1] == NEVER
        self.tail[p] = starts[-1] if open_ else NEVER
        count = len(ends) - open_
        self.longest[p] = max((ends[k] - starts[k] for k in range(count)), default=0)
        self.last[p] = ends[count - 1] if count else 0

    def earliest(self, p: int, ready: int, length: int) -> int:
        """First time from ``ready`` on when a task of ``length`` fits on ``p``; NEVER if none."""
        starts, ends = self.starts[p], self.ends[p]
        for k in range(bisect_left(ends, ready + length), len(ends)):
            at = max(starts[k], ready)
            if at + length <= ends[k]:
                return at
        return NEVER

    def book(self, p: int, at: int, length: int) -> None:
        """Take a time that `earliest` found."""
        starts, ends, least = self.starts[p], self.ends[p], self.shortest[p]
        k = bisect_right(starts, at) - 1
        start, end = starts[k], ends[k]
        pieces = [(s, e) for s, e in ((start, at), (at + length, end)) if e - s >= least]
        starts[k : k + 1] = [s for s, _ in pieces]
        ends[k : k + 1] = [e for _, e in pieces]
        if end < NEVER:
            self._summarise(p)
            return
        self.tail[p] = at + length
        if at - start >= least:
            self.longest[p] = max(int(self.longest[p]), at - start)
            self.last[p] = at


class Arrivals:
    """When the data of a task can be on every machine."""

    def __init__(self, inst: Instance) -> None:
        self.inst = inst
        self.ptr: list[int] = inst.pred_ptr.tolist()
        self.src: list[int] = inst.pred_src.tolist()
        self.size: list[float] = inst.pred_bytes.tolist()
        self.release: list[int] = inst.release.tolist()
        self.end = [0] * inst.n
        self.mach = [0] * inst.n

    def at(self, t: int) -> Ints:
        """Earliest start of ``t`` per machine by release, inputs and data."""
        inst = self.inst
        ready = np.full(inst.m, self.release[t], dtype=np.int64)
        if inst.inputs is not None:
            np.maximum(ready, inst.inputs[t], out=ready)
        edges = range(self.ptr[t], self.ptr[t + 1])
        if not inst.uniform:
            for e in edges:
                u = self.src[e]
                lag: Ints | int = 0
                if self.size[e] >= 0:
                    k = inst.link[self.mach[u]]
                    away = np.rint(self.size[e] * inst.tpb[k]).astype(np.int64) + inst.lat[k]
                    lag = np.where(k >= 0, away, 0)
                np.maximum(ready, self.end[u] + lag, out=ready)
            return ready
        # All machines but those of the predecessors get everything as late as the last of it.
        tpb, lat = (float(inst.tpb[0]), int(inst.lat[0])) if len(inst.tpb) else (0.0, 0)
        near: dict[int, int] = {}
        far: dict[int, int] = {}
        for e in edges:
            u = self.src[e]
            end, home = self.end[u], self.mach[u]
            away = end + round(self.size[e] * tpb) + lat if self.size[e] >= 0 else end
            near[home] = max(near.get(home, 0), end)
            far[home] = max(far.get(home, 0), away)
        if far:
            own = ready[list(near)]
            ranked = sorted(far.values(), reverse=True)
            np.maximum(ready, ranked[0], out=ready)
            for k, (home, end) in enumerate(near.items()):
                others = ranked[0] if far[home] < ranked[0] else (*ranked, 0)[1]
                ready[home] = max(int(own[k]), end, others)
        return ready


def list_plan(
    inst: Instance,
    order: Ints,
    fix_row: Ints,
    fix_mach: Ints,
    bias: Floats,
    check: Callable[[], object] | None,
    insert: bool = True,
) -> Plan | None:
    """Place the tasks in order where each ends first (plus bias), alone on its machine.

    Gaps before the end of what a machine has to do are used with ``insert`` only. None when a task
    has no place. ``check`` is called now and then and may raise to stop.
    """
    gaps, arrivals = Gaps(inst), Arrivals(inst)
    start = np.zeros(inst.n, dtype=np.int64)
    row = np.zeros(inst.n, dtype=np.int64)
    mach = np.zeros(inst.n, dtype=np.int64)
    row_ptr, deadline = inst.row_ptr.tolist(), inst.deadline.tolist()
    for i, t in enumerate(order.tolist()):
        if check is not None and i % CHUNK == 0:
            check()
        ready = arrivals.at(t)
        best: tuple[float, int, int] | None = None
        best_at = 0
        for r in [fix_row[t]] if fix_row[t] >= 0 else range(row_ptr[t], row_ptr[t + 1]):
            length = inst.dur[r]
            barred = length < 0
            if fix_mach[t] >= 0:
                barred = barred | (np.arange(inst.m) != fix_mach[t])
            extra = length.astype(np.float64)
            if len(bias):
                extra = extra + bias[t]
            # At the end of what a machine has to do ...
            at = np.where(length == 0, ready, np.maximum(ready, gaps.tail))
            value = _value(at, extra, length, deadline[t])
            value[barred | (at >= NEVER)] = np.inf
            p = int(value.argmin())
            if value[p] < np.inf and (best is None or (value[p], p, r) < best):
                best, best_at = (float(value[p]), p, r), int(at[p])
            if not insert and best is not None:
                continue
            # ... and in gaps, where that may be better.
            least = _value(ready, extra, length, deadline[t])
            fits = (length > 0) & (length <= gaps.longest) & (ready + length <= gaps.last)
            fits &= ~barred
            if best is not None:
                fits &= least <= best[0]
            for p in np.flatnonzero(fits).tolist():
                if best is not None and (least[p], p, r) >= best:
                    continue
                found = gaps.earliest(p, int(ready[p]), int(length[p]))
                if found >= NEVER:
                    continue
                late = LATE if found + int(length[p]) > deadline[t] else 0.0
                score = (found + float(extra[p]) + late, p, r)
                if best is None or score < best:
                    best, best_at = score, found
        if best is None:
            return None
        _, p, r = best
        taken = int(inst.dur[r, p])
        start[t], row[t], mach[t] = best_at, r, p
        arrivals.end[t], arrivals.mach[t] = best_at + taken, p
        if taken:
            gaps.book(p, best_at, taken)
    return Plan(start, row, mach)


def _value(at: Ints, extra: Floats, length: Ints, deadline: int) -> Floats:
    value: Floats = at + extra
    if deadline < NEVER:
        value = value + np.where(at + length > deadline, LATE, 0.0)
    return value
