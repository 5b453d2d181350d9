"""A bound on the makespan: the preemptive relaxation over feasible sets, refuted by weights.

Within a makespan every task has a window. Between neighbouring ends of windows the tasks that run
at one time form a set that fits into the resources and in which none precedes another. If tasks
could be cut, a schedule would be a time for every set and interval: a linear program (Mingozzi,
Maniezzo, Ricciardelli and Bianco 1998; with windows: Brucker and Knust 2000), solved by column
generation. Where it has no solution its prices, made whole numbers, prove so: the weight that all
tasks need exceeds what the heaviest set of every interval can carry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.core.linear import LinearProgram
from cpsched.errors import ProblemError
from cpsched.families.rcpsp import bound as bounds
from cpsched.families.rcpsp.kernels_preemptive import price
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Above this many tasks the relaxation takes too long.
MOST_TASKS = 200
#: Prices are multiples of one over this.
SCALE = 2**20
#: Nodes of one search for a heaviest set; counted seconds of one.
NODES, COST = 20_000, 2e-6
#: Work left over that counts as none, and weight that counts as none.
TOLERANCE, SLACK = 1e-6, 2


class Relaxation:
    """The relaxation of one instance; the sets found for one makespan serve the next."""

    def __init__(self, instance: Instance) -> None:
        n, resources = instance.n, len(instance.capacity)
        self.instance = instance
        self.work = bounds.shortest(instance)
        self.need = np.zeros((n, resources), np.int64)
        for r in range(resources):
            self.need[:, r] = bounds.least_demand(instance, r)
        self.clash = bounds.exclusive(instance)
        self.sets = np.zeros((0, n), np.bool_)

    def intervals(self, limit: int) -> Intervals | None:
        """The windows of a makespan, cut up; None when one is too short for its task."""
        instance, work = self.instance, self.work
        real = work > 0
        begin, end = instance.head, limit - bounds.after_end(instance)
        if (end - begin < work)[real].any():
            return None
        latest, earliest = end - work, begin + work
        points = np.unique(np.concatenate([x[real] for x in (begin, end, latest, earliest)]))
        low, high = points[:-1, None], points[1:, None]
        runs = real & (begin <= low) & (high <= end)
        must = runs & (latest <= low) & (high <= earliest) & ~instance.pausable
        return Intervals((high - low)[:, 0], runs, must)

    def heaviest(self, weight: IntArray, runs: BoolArray, must: BoolArray) -> tuple[int, BoolArray]:
        """A bound on the weight of the sets of one interval, below 0 for none, and a heavy set."""
        found = np.zeros(len(weight), np.int64)
        tasks = np.flatnonzero(runs)
        value, size = price(
            weight, self.need, self.instance.capacity, self.clash, tasks, must[tasks], NODES, found
        ).tolist()
        chosen = np.zeros(len(weight), np.bool_)
        chosen[found[:size]] = True
        return value, chosen

    def refute(self, limit: int, clock: Clock, stop: Callable[[], bool]) -> tuple[str, IntArray]:
        """Ask whether the relaxation has a schedule of at most that makespan.

        Returns
        -------
        status, weight
            "INFEASIBLE" with weights (n,) that prove it, "FEASIBLE" (of the relaxation only), or
            "UNKNOWN" when ``stop`` said so or a search for a heaviest set was given up.
        """
        weight = np.zeros(len(self.work), np.int64)
        intervals = self.intervals(limit)
        if intervals is None:
            return "INFEASIBLE", weight
        master = Master(intervals, self.work)
        allowed = intervals.allow(self.sets)
        while not stop() and (solved := master.solve(clock)) is not None:
            left, weight, price = solved
            if left < TOLERANCE:
                return "FEASIBLE", weight
            worth = np.where(allowed, (self.sets @ weight)[:, None], -1)
            if len(worth):
                known = np.flatnonzero(worth.max(axis=0) > price + SLACK)
                if master.add(known, self.sets[worth.argmax(axis=0)[known]]):
                    continue
            total = int(weight @ self.work)
            found = np.zeros_like(intervals.runs)
            for k, length in enumerate(intervals.length.tolist()):
                if stop():
                    return "UNKNOWN", weight
                clock.spend(COST * len(weight) * jit.slowdown())
                value, found[k] = self.heaviest(weight, intervals.runs[k], intervals.must[k])
                if value < 0:
                    return "INFEASIBLE", weight
                total -= length * value
            if total > 0:
                return "INFEASIBLE", weight
            new = np.flatnonzero(found @ weight > price + SLACK)
            if not master.add(new, found[new]):
                break
            sets = np.unique(found[new], axis=0)
            self.sets = np.concatenate([self.sets, sets])
            allowed = np.concatenate([allowed, intervals.allow(sets)])
        return "UNKNOWN", weight


@dataclass(frozen=True)
class Intervals:
    """Times between neighbouring ends of windows; K intervals.

    Attributes
    ----------
    length : (K,)
    runs, must : (K, n)
        Tasks that may run throughout the interval, and those that do in every schedule.
    """

    length: IntArray
    runs: BoolArray
    must: BoolArray

    def allow(self, sets: BoolArray) -> BoolArray:
        """Which of the sets (C, n) may run in which interval, (C, K)."""
        small = sets.astype(np.float32)
        outside = small @ ~self.runs.T
        inside = small @ self.must.T
        return np.asarray((outside == 0) & (inside == self.must.sum(axis=1)), np.bool_)


class Master:
    """Least work that is left over when sets run in intervals: the linear program."""

    def __init__(self, intervals: Intervals, work: IntArray) -> None:
        self.lp = LinearProgram()
        self.real = np.flatnonzero(work > 0)
        self.cover = np.zeros(len(work), np.int64)
        self.cover[self.real] = self.lp.add_rows(work[self.real], np.full(len(self.real), np.inf))
        count = len(intervals.length)
        self.room = self.lp.add_rows(np.full(count, -np.inf), intervals.length)
        over = self.lp.add(np.ones(len(self.real)))
        self.lp.entries(self.cover[self.real], over, 1.0)
        self._known: set[tuple[int, bytes]] = set()

    def add(self, where: IntArray, sets: BoolArray) -> bool:
        """Sets (C, n) that may run in the intervals ``where`` (C,); False when all are known."""
        keys = [(k, chosen.tobytes()) for k, chosen in zip(where.tolist(), sets, strict=True)]
        new = [at for at, key in enumerate(keys) if key not in self._known]
        self._known.update(keys)
        columns = self.lp.add(np.zeros(len(new)))
        at, tasks = np.nonzero(sets[new])
        self.lp.entries(self.cover[tasks], columns[at], 1.0)
        self.lp.entries(self.room[where[new]], columns, 1.0)
        return bool(new)

    def solve(self, clock: Clock) -> tuple[float, IntArray, NDArray[np.float64]] | None:
        """Work left over; whole weights (n,) and prices of the intervals (K,) to the same scale."""
        solved = self.lp.solve(clock, values=False)
        if solved is None:
            return None
        weight = np.zeros(len(self.cover), np.int64)
        price = np.clip(solved.prices[self.cover[self.real]], 0.0, 1.0)
        weight[self.real] = (SCALE * price).astype(np.int64)
        return solved.objective, weight, -SCALE * solved.prices[self.room]


def raise_bound(instance: Instance, run: Run, seconds: float = math.inf) -> None:
    """Raise the bound on the makespan as far as the relaxation goes, or the time.

    In steps that double while it refutes, and that get smaller once it does not.
    """
    if [o.name for o in run.objectives] != ["makespan"] or not 0 < instance.n <= MOST_TASKS:
        return
    relaxation = Relaxation(instance)
    end = run.clock.elapsed() + seconds
    stride, top = 1, math.inf

    def stop() -> bool:
        value = run.value()
        reached = value is not None and value <= limit
        return reached or run.done() or run.clock.elapsed() > end

    while True:
        bound, value = run.bound(), run.value()
        assert bound is not None
        limit = int(min(bound + stride, top, math.inf if value is None else value)) - 1
        if limit < bound or stop():
            return
        status, weight = relaxation.refute(limit, run.clock, stop)
        if status == "INFEASIBLE":
            run.raise_bound(bound_of(instance, limit, weight))
            stride *= 2
        elif limit == bound:
            return
        else:
            top, stride = limit, max(1, stride // 4)


def bound_of(instance: Instance, limit: int, weight: IntArray) -> Bound:
    """That no schedule has at most that makespan, proved by weights."""
    data = {instance.ids[i]: int(weight[i]) for i in np.flatnonzero(weight).tolist()}
    how = bounds.delays(instance)
    return Bound(limit + 1, "preemptive", "makespan", {"limit": limit, "weights": data, **how})


def recompute(instance: Instance, bound: Bound) -> int:
    """The value that the weights prove, from the windows and the heaviest sets alone.

    Raises
    ------
    ProblemError
        When the weights do not prove it.
    """
    relaxation = Relaxation(instance)
    weight = np.zeros(instance.n, np.int64)
    for name, value in bound.data["weights"].items():
        weight[instance.ids.index(name)] = value
    limit = int(bound.data["limit"])
    intervals = relaxation.intervals(limit)
    if intervals is None:
        return limit + 1
    left = int(weight @ relaxation.work)
    for k, length in enumerate(intervals.length.tolist()):
        value, _ = relaxation.heaviest(weight, intervals.runs[k], intervals.must[k])
        if value < 0:
            return limit + 1
        left -= length * value
    if left <= 0:
        raise ProblemError("the weights do not prove the bound", value=bound.value)
    return limit + 1
