"""First schedules under all rules of shops: tasks get their places one after another.

Setups, workers, transport, batches, sequences, assignments and blocking are met as tasks are
placed; what a later task would have to undo (maximum lags, idle time) is put right by `retimed`.
The checker decides whether the result is a schedule.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.families.rcpsp.general import choose_present, placing_order
from cpsched.families.rcpsp.instance import FAR
from cpsched.families.rcpsp.modes import first_modes
from cpsched.families.rcpsp.profile import Piece, end_after
from cpsched.families.rcpsp.retime import retimed
from cpsched.families.rcpsp.schedule import schedule_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.instance import Instance
    from cpsched.families.rcpsp.problem import RcpspSchedule
    from cpsched.families.rcpsp.rules_shop import Alike

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: A stretch in which a task holds units: start, end (FAR while nobody has taken over), units, task.
Use = tuple[int, int, int, int]
#: Mode, start and end of a task.
Place = tuple[int, int, int]
#: Virtual seconds per task and placing.
COST = 3e-5
#: Waiting tasks that are compared for the next place, at most, and times all tasks; at least.
COMPARED, COMPARISONS, FEWEST = 200, 200_000, 10


def construct(
    instance: Instance,
    key: Sequence[float],
    weight: float,
    modes: Sequence[Sequence[int]],
    expired: Callable[[], bool],
) -> tuple[list[int], list[int]] | None:
    """Starts and modes (-1: absent) of all tasks; None in a deadlock or when time is over.

    Parameters
    ----------
    key : (n,)
        Of the tasks that can be placed, the one of least ``key + weight * start`` is next.
    modes
        Modes to choose from, per task; absent tasks have none.
    """
    board = _Board(instance, modes)
    waiting = board.waiting()
    after: dict[int, list[int]] = defaultdict(list)
    for i, j in board.pairs:
        after[i].append(j)
    ready = sorted((key[i], i) for i, count in waiting.items() if not count)
    known: dict[int, tuple[int, Place | None]] = {}
    compared = max(FEWEST, min(COMPARED, COMPARISONS // max(1, instance.n)))
    for step in range(len(waiting)):
        if step % 16 == 0 and expired():
            return None
        best: tuple[float, int] | None = None
        for value, i in ready[:compared]:
            if i not in known or board.changed(i) > known[i][0]:
                known[i] = board.count, board.earliest(i)
            place = known[i][1]
            if place is not None:
                found = (value + weight * place[1], i)
                best = found if best is None else min(best, found)
        if best is None:
            return None
        i = best[1]
        place = known[i][1]
        assert place is not None
        board.put(i, place)
        del ready[bisect_left(ready, (key[i], i))]
        for j in after[i]:
            waiting[j] -= 1
            if not waiting[j]:
                insort(ready, (key[j], j))
    start = [board.place[i][1] if i in board.place else 0 for i in range(instance.n)]
    mode = [board.place[i][0] if i in board.place else -1 for i in range(instance.n)]
    return start, mode


def _end_of(use: Use) -> int:
    return use[1]


class _Board:
    """What has been placed, and where the next task can go."""

    def __init__(self, instance: Instance, modes: Sequence[Sequence[int]]) -> None:
        self.instance, self.modes = instance, modes
        self.place: dict[int, Place] = {}
        #: Renewable resources, then groups of which no two tasks overlap; by end.
        self.uses: list[list[Use]] = [[] for _ in [*instance.capacity, *instance.disjunctive]]
        self.capacity = [*instance.base.tolist(), *[1] * len(instance.disjunctive)]
        self.profiles: list[Sequence[Piece]] = [
            *instance.profiles,
            *[()] * len(instance.disjunctive),
        ]
        self.groups: dict[int, list[int]] = defaultdict(list)
        for g, tasks in enumerate(instance.disjunctive, len(instance.capacity)):
            for i in tasks:
                self.groups[i].append(g)
        self.needs = [
            [(r, int(row[r])) for r in np.flatnonzero(row).tolist()] for row in instance.demand
        ]
        self.holds = [np.flatnonzero(row).tolist() for row in instance.holds]
        self.duration = instance.duration.tolist()
        self.setups = {rule.resource: rule for rule in instance.setups}
        self.batches = {batch.resource: batch for batch in instance.shop.batches}
        #: Tasks that hold a machine with a rule about its order, by start.
        self.order: dict[int, list[int]] = {
            r: [] for r in {*self.setups, *self.batches, *instance.shop.no_idle}
        }
        self.edges: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for i, j, kind, least, _ in instance.edges.tolist():
            if least > -FAR:
                self.edges[j].append((i, kind, least))
        self.legs = defaultdict(list)
        for leg in instance.shop.legs:
            self.legs[leg.after].append(leg)
        self.keeper = defaultdict(list)
        for i, j in enumerate(instance.blocks_until.tolist()):
            if j >= 0:
                self.keeper[j].append(i)
        self.rules = defaultdict(list)
        for rule in instance.shop.assignments:
            for i in rule.tasks:
                self.rules[i].append(rule)
        #: Positions of each sequence in the order in which they were begun, their ranks in it, and
        #: per list the latest start among the first ranks as far as all their tasks are placed.
        self.begun: list[list[int]] = [[] for _ in instance.shop.sequences]
        self.rank: list[dict[int, int]] = [{} for _ in instance.shop.sequences]
        self.floor: list[list[list[int]]] = [[[0] for _ in q] for q in instance.shop.sequences]
        self.cells: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for q, rows in enumerate(instance.shop.sequences):
            for k, row in enumerate(rows.tolist()):
                for position, i in enumerate(row):
                    self.cells[i].append((q, k, position))
        self.pairs = [
            (i, j) for i, j in placing_order(instance) if modes[i] and modes[j] and i != j
        ]
        self.count = 0
        self.stamp = [0] * len(self.uses)
        self.touched: dict[int, int] = {}
        self.shared = bool(self.rules or self.cells)
        self.depends = [self._depends(i) for i in range(instance.n)]
        facts = [i for i in range(instance.n) if instance.fixed[i]]
        for i in sorted(facts, key=lambda i: int(instance.release[i])):
            m = modes[i][0]
            begin = int(instance.release[i])
            self.put(i, (m, begin, begin + self.duration[m]))

    def waiting(self) -> dict[int, int]:
        """How many tasks must be placed before each task that is not."""
        left = {i: 0 for i, own in enumerate(self.modes) if own and i not in self.place}
        self.pairs = [(i, j) for i, j in self.pairs if i in left and j in left]
        for _, j in self.pairs:
            left[j] += 1
        return left

    def changed(self, i: int) -> int:
        """When anything was placed last that the place of a task may depend on."""
        if self.shared:
            return self.count
        latest = self.touched.get(i, 0)
        for r in self.depends[i]:
            if self.stamp[r] > latest:
                latest = self.stamp[r]
        return latest

    def _depends(self, i: int) -> tuple[int, ...]:
        """Resources that the place of a task depends on."""
        resources = {r for m in self.modes[i] for r in self.holds[m]} | set(self.groups[i])
        for r in list(resources):
            if r in self.setups:
                resources |= set(np.flatnonzero(self.setups[r].demand).tolist())
        return tuple(resources)

    # ------------------------------------------------------------------ where a task can go

    def earliest(self, i: int) -> Place | None:
        """The place in which a task ends first."""
        floor = int(self.instance.release[i])
        for q, k, position in self.cells[i]:
            before = self._begun_before(q, k, self.rank[q].get(position, len(self.begun[q])))
            if before is None:
                return None
            floor = max(floor, before)
        best: Place | None = None
        for m in self.modes[i]:
            if all(self._allowed(rule, m) for rule in self.rules[i]):
                begin = self._earliest_in(i, m, floor)
                if begin < FAR:
                    end = self._end(i, m, begin)
                    if best is None or (end, begin) < (best[2], best[1]):
                        best = (m, begin, end)
        return best

    def _begun_before(self, q: int, k: int, rank: int) -> int | None:
        """Latest start in a list among the positions below a rank; None if one has no place."""
        floor, row = self.floor[q][k], self.instance.shop.sequences[q][k]
        while len(floor) <= rank:
            j = int(row[self.begun[q][len(floor) - 1]])
            if self.modes[j] and j not in self.place:
                return None
            floor.append(max(floor[-1], self.place[j][1] if j in self.place else 0))
        return floor[rank]

    def _allowed(self, rule: Alike, mode: int) -> bool:
        others = [rule.held[self.place[j][0]] for j in rule.tasks if j in self.place]
        if rule.different:
            return not any(other & rule.held[mode] for other in others)
        return all(other == rule.held[mode] for other in others)

    def _end(self, i: int, m: int, begin: int) -> int:
        return end_after(begin, self.duration[m], self.instance.breaks(i, m))

    def _earliest_in(self, i: int, m: int, time: int) -> int:
        duration = self.duration[m]
        for j, kind, least in self.edges[i]:
            if j in self.place:
                origin = self.place[j][2 if kind in (0, 2) else 1]
                time = max(time, origin + least - (duration if kind in (2, 3) else 0))
        for leg in self.legs[i]:
            if leg.before in self.place:
                before = self.place[leg.before]
                time = max(time, before[2] + leg.lag + self.instance.shop.transport(before[0], m))
        if not duration:
            return time
        setups: list[tuple[int, int]] = []
        for r in self.holds[m]:
            order = self.order.get(r)
            if not order:
                continue
            last = order[-1]
            if r in self.batches:
                joined = self._join(i, m, r, time)
                if joined is not None:
                    return joined
                time = max([time, *(self._released(j, i) for j in order)])
                continue
            time = max(time, self._released(last, i))
            if r in self.setups:
                rule = self.setups[r]
                least = int(rule.times[rule.state[last], rule.state[i]])
                time = max(time, self._released(last, i) + least)
                if least and rule.demand.any():
                    setups.append((r, least))
        needs = [*self.needs[m], *((g, 1) for g in self.groups[i])]
        while time < FAR:
            later = self._fit(i, m, time, needs)
            for r, least in setups:
                for q in np.flatnonzero(self.setups[r].demand).tolist():
                    units = int(self.setups[r].demand[q])
                    later = max(later, least + self._room(q, units, later - least, later, -1))
            if later == time:
                return time
            time = later
        return FAR

    def _fit(self, i: int, m: int, time: int, needs: Sequence[tuple[int, int]]) -> int:
        """A time not before which a task fits; the same one when it fits there."""
        breaks = self.instance.breaks(i, m)
        for left, right in breaks:
            if left <= time < right:
                return right
        end = end_after(time, self.duration[m], breaks)
        for r, units in needs:
            later = self._room(r, units, time, end, i, bool(breaks))
            if later > time:
                return later
        return time

    def _room(
        self, r: int, units: int, left: int, right: int, taker: int, rests: bool = False
    ) -> int:
        """``left`` if there is room in ``[left, right)``, else a time before which none is."""
        capacity = self.capacity[r]
        if r < len(self.instance.capacity) and units > self.instance.capacity[r]:
            return FAR
        for begin, end, level in self.profiles[r]:
            if begin < right and end > left and level < units and not (rests and not level):
                return end
        blocks_until = self.instance.blocks_until
        uses = self.uses[r]
        near = [
            use
            for use in uses[bisect_right(uses, left, key=_end_of) :]
            if use[0] < right and not 0 <= taker == blocks_until[use[3]]
        ]
        if not near:
            return left
        if capacity == 1:
            return max(use[1] for use in near)
        for at in sorted({left, *(use[0] for use in near if use[0] > left)}):
            level = min([capacity, *(c for a, b, c in self.profiles[r] if a <= at < b)])
            running = [use for use in near if use[0] <= at < use[1]]
            if sum(use[2] for use in running) + units > level:
                return min([use[1] for use in running], default=at + 1)
        return left

    def _join(self, i: int, m: int, r: int, time: int) -> int | None:
        """The start of the last batch of a machine if the task can join it, else None."""
        family = self.batches[r].family
        last = self.order[r][-1]
        begin = self.place[last][1]
        if begin < time or family[last] != family[i] or self.instance.fixed[last]:
            return None
        return begin if self._fit(i, m, begin, self.needs[m]) == begin else None

    def _released(self, j: int, taker: int) -> int:
        """When a placed task leaves its machine; its end if the one that asks takes over."""
        other = int(self.instance.blocks_until[j])
        end = self.place[j][2]
        if other < 0 or other == taker:
            return end
        return max(end, self.place[other][1]) if other in self.place else FAR

    # ------------------------------------------------------------------ placing it

    def put(self, i: int, place: Place) -> None:
        """Place a task; those that it takes over from give their resources back."""
        self.count += 1
        m, begin, end = place
        self.place[i] = place
        taker = int(self.instance.blocks_until[i])
        until = end if taker < 0 else FAR
        if taker in self.place:
            until = max(end, self.place[taker][1])
        for r, units in [*self.needs[m], *((g, 1) for g in self.groups[i])]:
            if end > begin:
                last = until if r < len(self.instance.capacity) else end
                self._use(r, (begin, last, units, i))
        for r in self.holds[m]:
            if r in self.order:
                self._setup_uses(i, r, begin)
                self.order[r].append(i)
                self.order[r].sort(key=lambda j: self.place[j][1:])
                self.stamp[r] = self.count
        for j in self.keeper[i]:
            if j in self.place:
                for r in self.holds[self.place[j][0]]:
                    self.uses[r] = [
                        (a, max(self.place[j][2], begin), u, t) if t == j else (a, b, u, t)
                        for a, b, u, t in self.uses[r]
                    ]
                    self.uses[r].sort(key=_end_of)
                    self.stamp[r] = self.count
        for q, _, position in self.cells[i]:
            if position not in self.rank[q]:
                self.rank[q][position] = len(self.begun[q])
                self.begun[q].append(position)

    def _setup_uses(self, i: int, r: int, begin: int) -> None:
        rule = self.setups.get(r)
        if rule is None or not self.order[r] or self.instance.fixed[i]:
            return
        time = int(rule.times[rule.state[self.order[r][-1]], rule.state[i]])
        for q in np.flatnonzero(rule.demand).tolist() if time else ():
            self._use(q, (begin - time, begin, int(rule.demand[q]), i))

    def _use(self, r: int, use: Use) -> None:
        insort(self.uses[r], use, key=_end_of)
        self.stamp[r] = self.count


# ---------------------------------------------------------------------- offering schedules


class Constructor:
    """Schedules by `construct` for a run, each checked before it is offered."""

    def __init__(self, instance: Instance, run: Run) -> None:
        self.instance, self.run = instance, run
        self.rng = random.Random(run.seed)
        self.moves = bool(instance.shop.no_idle) or bool((instance.edges[:, 4] < FAR).any())

    def present(self) -> BoolArray | None:
        """Tasks that take part, see `choose_present`."""
        return choose_present(self.instance, self.rng)

    def modes(self, present: BoolArray, kept: Sequence[int] | None = None) -> list[list[int]]:
        """Modes to choose from; where budgets are short, one per task that keeps them."""
        inst = self.instance
        if kept is None and len(inst.budget) and not inst.single_mode:
            kept = first_modes(inst, self.run, present).tolist()
        if kept is not None:
            return [[int(m)] if p else [] for m, p in zip(kept, present, strict=True)]
        return [inst.modes(i) if present[i] else [] for i in range(inst.n)]

    def make(
        self, key: Sequence[float], weight: float, modes: Sequence[Sequence[int]]
    ) -> tuple[RcpspSchedule, list[int], list[int]] | None:
        """A valid schedule with its starts and modes, or None."""
        self.run.clock.spend(COST * self.instance.n)
        made = construct(self.instance, key, weight, modes, self.run.clock.expired)
        if made is None:
            return None
        start, mode = made
        if self.moves:
            start = retimed(self.instance, start, mode, self.run.clock.expired) or start
        schedule = schedule_of(self.instance, start, mode)
        if self.run.family.check(self.run.problem, schedule):
            return None
        return schedule, start, mode


def near(
    instance: Instance, run: Run, key: Sequence[float], mode: IntArray, present: BoolArray
) -> None:
    """Offer a schedule in the order of ``key`` (n,) in these modes, or at least in that order."""
    maker = Constructor(instance, run)
    for modes in (maker.modes(present, mode.tolist()), maker.modes(present)):
        found = maker.make(key, 0.0, modes)
        if found is not None:
            run.offer(found[0], "repair")
            return


def first_schedules(instance: Instance, run: Run) -> None:
    """Offer schedules of a few priority rules, then of random ones until there is one."""
    maker = Constructor(instance, run)
    latest = (-instance.tail).astype(float)
    due = np.where(instance.due < FAR, instance.due, instance.horizon).astype(float)
    keys = [
        (latest, 1.0),
        (latest, 10.0),
        (due, 1.0),
        (latest, 0.0),
        (instance.head.astype(float), 0.0),
    ]
    limit = run.clock.used() + min(2.0, 0.2 * run.clock.limit)
    tries = 0
    while not run.clock.expired():
        present = maker.present()
        if present is not None:
            key, weight = keys[tries % len(keys)]
            if tries >= len(keys):
                spread = max(1.0, float(np.ptp(key)))
                key = key + np.array([maker.rng.gauss(0, 0.3 * spread) for _ in key])
            found = maker.make(key.tolist(), weight, maker.modes(present))
            if found is not None:
                run.offer(found[0], "greedy:construct")
        tries += 1
        elapsed = run.clock.used() > limit
        if run.done() or elapsed or (tries >= len(keys) and (run.incumbent or tries >= 40)):
            return
