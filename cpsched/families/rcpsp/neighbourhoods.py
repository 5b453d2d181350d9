"""Neighbourhoods for large-neighbourhood search around CP-SAT.

For plain projects and the makespan a neighbourhood is a *squeeze*: the tasks that start in a
window of time are free, all earlier ones stay, all later ones start one time unit earlier. A
solution shortens the project, and the sub-model holds the free tasks only, whatever the size of
the project.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core.lns import Neighbourhood, SubModel
from cpsched.families.rcpsp.arrays import Kit
from cpsched.families.rcpsp.decision import Decision, Obstacle, decision
from cpsched.families.rcpsp.problem import RcpspSchedule
from cpsched.families.rcpsp.schedule import schedule_of, state_of

if TYPE_CHECKING:
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: Free tasks of a neighbourhood, at least and at most.
FEWEST, MOST = 12, 150
#: How windows are placed.
PLACES = ("window", "peak", "slack", "chain", "ends", "modes")


@dataclass
class Base:
    """The schedule that neighbourhoods start from, as arrays; ``order`` by start."""

    start: IntArray
    mode: IntArray
    end: IntArray
    order: IntArray
    makespan: int


def base_of(instance: Instance, start: IntArray, mode: IntArray) -> Base:
    """Arrays of a schedule."""
    end = start + instance.duration[mode]
    order = np.argsort(start, kind="stable")
    return Base(start, mode, end, order, int(end.max(initial=0)))


@dataclass
class Squeeze:
    """The sub-model of one window, and how its solution becomes a schedule."""

    decision: Decision
    base: Base
    later: IntArray

    def apply(self, values: list[int]) -> tuple[IntArray, IntArray]:
        """Starts and modes of the whole project in a solution."""
        start, mode = self.base.start.copy(), self.base.mode.copy()
        start[self.later] -= 1
        self.decision.read(values, start, mode)
        return start, mode


def squeeze(instance: Instance, kit: Kit, base: Base, left: int, right: int) -> Squeeze | None:
    """The model in which the tasks that start in ``[left, right)`` make room for one time unit.

    None when it is clear that they cannot.
    """
    if right < 1:
        return None
    later = np.flatnonzero(base.start >= right)
    fixed = (base.start < left) & (base.end <= right - 1)
    free = np.flatnonzero((base.start < right) & ~fixed)
    if not len(free) or len(free) > 4 * MOST:
        return None
    limit = base.makespan - 1
    net = kit.net
    low, high = instance.head.copy(), limit - instance.tail
    shortest = np.zeros(instance.n, np.int64)
    for i in free.tolist():
        modes = instance.modes(i)
        shortest[i] = int(instance.duration[modes].min())
        for e in range(int(net.pred_ptr[i]), int(net.pred_ptr[i + 1])):
            j = int(net.pred[e])
            if fixed[j]:
                low[i] = max(low[i], base.end[j] + net.pred_lag[e])
        for e in range(int(net.succ_ptr[i]), int(net.succ_ptr[i + 1])):
            j = int(net.succ[e])
            if base.start[j] >= right:
                high[i] = min(high[i], base.start[j] - 1 - net.succ_lag[e] - shortest[i])
    if (low[free] > high[free]).any():
        return None
    first = int(low[free].min())
    last = int((high[free] + instance.duration[base.mode[free]]).max())
    if not instance.single_mode:
        last = int((high[free] + shortest[free]).max())
    near_before = np.flatnonzero(fixed & (base.end > first))
    near_after = later[base.start[later] - 1 < last]
    obstacles: list[Obstacle] = []
    for group, shift in ((near_before, 0), (near_after, 1)):
        for i in group.tolist():
            m = int(base.mode[i])
            begin, end = int(base.start[i]) - shift, int(base.end[i]) - shift
            if end > begin:
                obstacles += [
                    (r, begin, end, int(instance.demand[m, r]))
                    for r in np.flatnonzero(instance.demand[m]).tolist()
                ]
    budget = None
    if len(instance.budget):
        others = np.ones(instance.n, bool)
        others[free] = False
        budget = instance.budget - instance.consumption[base.mode[others]].sum(axis=0)
    made = decision(instance, free.tolist(), low, high, obstacles=obstacles, budget=budget)
    return None if made is None else Squeeze(made, base, later)


def window_at(base: Base, first: int, count: int) -> tuple[int, int]:
    """The window of the ``count`` tasks from position ``first`` of the order by start on."""
    n = len(base.order)
    left = int(base.start[base.order[first]]) if first > 0 else 0
    last = first + count
    right = int(base.start[base.order[last]]) if last < n else base.makespan + 1
    return left, right


def neighbourhoods(instance: Instance, kit: Kit) -> list[Neighbourhood]:
    """Squeezes of windows placed in several ways, see `_place`."""
    known: dict[int, Base] = {}

    def base_for(schedule: RcpspSchedule) -> Base:
        if id(schedule) not in known:
            known.clear()
            state = state_of(instance, schedule)
            start, mode = np.array(state.start, np.int64), np.array(state.mode, np.int64)
            known[id(schedule)] = base_of(instance, start, mode)
        return known[id(schedule)]

    share = (instance.demand / np.maximum(1, instance.capacity)).max(axis=1, initial=0.0)
    work = share * instance.duration

    def build(
        place: str, schedule: RcpspSchedule, size: float, rng: random.Random
    ) -> SubModel | None:
        base = base_for(schedule)
        count = min(instance.n, max(FEWEST, min(MOST, round(size * instance.n))))
        left, right = _place(base, place, count, work, instance, rng)
        made = squeeze(instance, kit, base, left, right)
        if made is None:
            return None

        def extract(values: list[int]) -> RcpspSchedule:
            start, mode = made.apply(values)
            return schedule_of(instance, start.tolist(), mode.tolist())

        return SubModel(made.decision.model, extract)

    size = min(1.0, 50 / max(1, instance.n))
    return [Neighbourhood(place, partial(build, place), size) for place in PLACES]


def _place(
    base: Base,
    place: str,
    count: int,
    work: NDArray[np.float64],
    instance: Instance,
    rng: random.Random,
) -> tuple[int, int]:
    """The window of about ``count`` tasks.

    ``window`` anywhere; ``ends`` at the beginning or the end; ``peak`` and ``slack`` where most
    or least work is done per time; ``chain`` around a task that the longest chain of delays runs
    through; ``modes`` around a task with a choice of modes.
    """
    n = instance.n
    last = max(0, n - count)
    spots = [rng.randint(0, last) for _ in range(6)]
    if place == "ends":
        return window_at(base, rng.choice([0, last]), count)
    if place in ("peak", "slack"):

        def density(first: int) -> float:
            left, right = window_at(base, first, count)
            tasks = base.order[first : first + count]
            return float(work[base.mode[tasks]].sum()) / max(1, right - left)

        return window_at(base, sorted(spots, key=density, reverse=place == "peak")[0], count)
    if place == "chain":
        tight = base.start[base.order] - instance.head[base.order]
        position = int(np.argmax(tight + rng.random() * (1 + tight.max()) * (tight > 0)))
        return window_at(base, min(last, max(0, position - rng.randint(0, count))), count)
    if place == "modes" and not instance.single_mode:
        choice = np.flatnonzero(np.diff(instance.mode_start)[base.order] > 1)
        position = int(choice[rng.randrange(len(choice))])
        return window_at(base, min(last, max(0, position - count // 2)), count)
    return window_at(base, spots[0], count)
