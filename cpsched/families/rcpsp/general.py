"""Constructive schedules for projects with calendars, windows, maximum lags and reservoirs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.families.rcpsp import kernels_general as kernels
from cpsched.families.rcpsp.arrays import pack
from cpsched.families.rcpsp.graph import topological_order
from cpsched.families.rcpsp.kernels_general import NEVER, GeneralNet

if TYPE_CHECKING:
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass
class Placed:
    """What one generation gave: how many tasks have a place, and what was in the way."""

    count: int
    start: IntArray
    end: IntArray
    task: int
    late: int
    culprit: int


class GeneralKit:
    """A project with all its rules for the general kernel, with scratch arrays."""

    def __init__(self, net: GeneralNet) -> None:
        self.net = net
        self.n = n = len(net.release)
        nodes = 2 * n + len(net.point) + 2
        words, tanks = len(net.guard), len(net.initial)
        self._scratch = (
            np.zeros(nodes, np.int64),
            np.zeros(nodes, np.int64),
            np.zeros((nodes, words), np.int64),
            np.zeros((nodes, words), np.int64),
            np.zeros((nodes, tanks), np.int64),
            np.zeros(n, np.bool_),
            np.zeros(n, np.int64),
        )

    def generate(
        self, order: IntArray, mode: IntArray, present: BoolArray, lower: IntArray | None = None
    ) -> Placed:
        """One serial generation in that order; ``lower`` are further earliest starts."""
        start, end = np.zeros(self.n, np.int64), np.zeros(self.n, np.int64)
        why = np.zeros(3, np.int64)
        if lower is None:
            lower = np.zeros(self.n, np.int64)
        count = kernels.general(
            self.net, order, mode, present, lower, *self._scratch, start, end, why
        )
        return Placed(int(count), start, end, int(why[0]), int(why[1]), int(why[2]))

    def construct(
        self,
        rank: IntArray,
        mode: IntArray,
        present: BoolArray,
        rng: random.Random,
        expired: Callable[[], bool],
        latest: int,
        rounds: int = 300,
    ) -> Placed | None:
        """A complete schedule by repair, or None.

        A task that finds no place before a maximum lag makes the other end of that lag start
        later; one that misses its deadline, or finds no reservoir level, moves up in the list.
        """
        lower = np.zeros(self.n, np.int64)
        key = rank.astype(float)
        promotions = 0
        for _ in range(rounds):
            made = self.generate(np.argsort(key, kind="stable"), mode, present, lower)
            if made.count == self.n:
                return made
            if expired():
                return None
            if made.culprit >= 0:
                lower[made.culprit] = made.start[made.culprit] + made.late
                if lower[made.culprit] > latest:
                    return None
                continue
            promotions += 1
            if promotions > 60:
                return None
            self._promote(key, made.task, rng)
        return None

    def _promote(self, key: NDArray[np.float64], task: int, rng: random.Random) -> None:
        """Move a task, and all that must come before it, up in the list."""
        top = float(key.min())
        stack, seen = [task], {task}
        while stack:
            j = stack.pop()
            key[j] = top - 1.0 - rng.random()
            for i in self.net.before[self.net.before_ptr[j] : self.net.before_ptr[j + 1]].tolist():
                if i not in seen:
                    seen.add(i)
                    stack.append(i)


def general_kit(instance: Instance) -> GeneralKit:
    """The general kernel's view of an instance."""
    known: GeneralKit | None = instance.extras.get("general")
    if known is None:
        known = instance.extras["general"] = GeneralKit(_net(instance))
    return known


def _net(instance: Instance) -> GeneralNet:
    n = instance.n
    owner = np.repeat(np.arange(n), np.diff(instance.mode_start))
    groups = instance.disjunctive
    extra = np.zeros((len(owner), len(groups)), np.int64)
    for g, tasks in enumerate(groups):
        extra[np.isin(owner, tasks), g] = 1
    demand = np.hstack([instance.demand, extra])
    # A mode without duration takes nothing, and a group holds for tasks of any duration.
    demand = demand * (instance.duration > 0)[:, None]
    capacity = np.concatenate([instance.capacity, np.ones(len(groups), np.int64)])
    profiles = [*instance.profiles, *([()] * len(groups))]
    layout = pack(demand, capacity, instance.mode_start, [bool(p) for p in profiles])
    point, full, closed = _steps(instance, layout, profiles)
    rows = [
        (int(i), j, before, kind, least, most)
        for a, b, kind, least, most in instance.edges.tolist()
        for i, j, before in ((a, b, 0), (b, a, 1))
    ]
    edge_ptr, edge = _grouped(n, [(i, (j, before, *rest)) for i, j, before, *rest in rows], 5)
    before_ptr, before = _grouped(n, [(j, (i,)) for i, j in placing_order(instance)], 1)
    events = []
    for q, tank in enumerate(instance.reservoirs):
        sums: dict[int, list[int]] = {}
        for i, amount, at_end in tank.events.tolist():
            sums.setdefault(i, [0, 0])[at_end] += amount
        events += [(i, (q, *both)) for i, both in sums.items()]
    event_ptr, event = _grouped(n, events, 3)
    tanks = instance.reservoirs
    return GeneralNet(
        dur=instance.duration,
        need=layout.need,
        field=layout.field,
        guard=layout.guard,
        point=point,
        full=full,
        closed=closed,
        pausable=instance.pausable,
        release=np.maximum(instance.release, 0),
        deadline=instance.deadline,
        edge_ptr=edge_ptr,
        edge=edge,
        before_ptr=before_ptr,
        before=np.ascontiguousarray(before[:, 0]),
        event_ptr=event_ptr,
        event=event,
        initial=np.array([t.initial for t in tanks], np.int64),
        least=np.array([t.minimum for t in tanks], np.int64),
        most=np.array([NEVER if t.maximum is None else t.maximum for t in tanks], np.int64),
    )


def _grouped(n: int, rows: list[tuple[int, Any]], width: int) -> tuple[IntArray, IntArray]:
    """Rows grouped by their first entry: pointers (n + 1,) and the rows (X, width)."""
    pointer = np.zeros(n + 1, np.int64)
    owners = np.array([i for i, _ in rows], np.int64)
    np.cumsum(np.bincount(owners, minlength=n), out=pointer[1:])
    rows = sorted(rows, key=lambda row: row[0])
    return pointer, np.array([row for _, row in rows], np.int64).reshape(-1, width)


def placing_order(instance: Instance) -> list[tuple[int, int]]:
    """Pairs (i, j) where i should have its place before j: minimum lags that push j behind i."""
    n = instance.n
    owner = np.repeat(np.arange(n), np.diff(instance.mode_start))
    low, high = np.full(n, NEVER), np.zeros(n, np.int64)
    np.minimum.at(low, owner, instance.duration)
    np.maximum.at(high, owner, instance.duration)
    pairs, ties = [], []
    for i, j, kind, least, _ in instance.edges.tolist():
        if i == j or least <= -NEVER:
            continue
        push = least + (low[i] if kind in (0, 2) else 0) - (high[j] if kind in (2, 3) else 0)
        if push > 0:
            pairs.append((i, j))
        elif push == 0 and kind == 0:
            ties.append((i, j))
    if topological_order(n, [(i, j, 0) for i, j in pairs + ties]) is not None:
        return pairs + ties
    if topological_order(n, [(i, j, 0) for i, j in pairs]) is not None:
        return pairs
    return []


def _steps(
    instance: Instance, layout: Any, profiles: list[Any]
) -> tuple[IntArray, IntArray, IntArray]:
    """Packed capacity from each point on, and the fields that are closed there."""
    cuts = sorted({0, *(t for own in profiles for a, b, _ in own for t in (a, b) if t < NEVER)})
    point = np.array(cuts, np.int64)
    full = np.repeat(layout.full[None, :], len(point), axis=0)
    closed = np.zeros_like(full)
    base = instance.base.tolist()
    for r, own in enumerate(profiles):
        if not own:
            continue
        word, shift, mask = layout.place[r]
        top = int(instance.capacity[r])
        capacity = np.full(len(point), base[r], np.int64)
        for a, b, units in own:
            capacity[np.searchsorted(point, a) : np.searchsorted(point, b)] = units
        full[:, word] -= (top - capacity) << shift
        closed[:, word] |= np.where(capacity == 0, mask, 0)
    return point, full, closed


def choose_present(instance: Instance, rng: random.Random) -> BoolArray | None:
    """Which tasks take part: the mandatory ones and as few optional ones as selections demand.

    None when the random repair did not satisfy all selections.
    """
    present = ~instance.optional
    forbidden = np.array([not instance.modes(i) for i in range(instance.n)], bool)
    for _ in range(100):
        changed = False
        for s in instance.selections:
            if s.condition >= 0 and not present[s.condition]:
                continue
            inside = [i for i in s.tasks if present[i]]
            if s.type == "implication":
                if present[s.tasks[0]] and len(inside) < len(s.tasks):
                    present[list(s.tasks)] = True
                    changed = True
            elif s.type == "all_or_none":
                if inside and len(inside) < len(s.tasks):
                    present[list(s.tasks)] = True
                    changed = True
            elif not inside:
                usable = [i for i in s.tasks if not forbidden[i]]
                if not usable:
                    return None
                present[rng.choice(usable)] = True
                changed = True
            elif s.type == "exactly_one" and len(inside) > 1:
                drop = [i for i in inside if instance.optional[i]]
                if len(drop) < len(inside) - 1:
                    return None
                rng.shuffle(drop)
                for i in drop[: len(inside) - 1]:
                    present[i] = False
                    forbidden[i] = True
                changed = True
        if not changed:
            return None if (present & forbidden).any() else present
    return None
