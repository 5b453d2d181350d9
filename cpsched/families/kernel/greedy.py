"""Heuristics: iterative and swing modulo scheduling, and a partition into warp groups.

Iterative modulo scheduling: B. R. Rau, "Iterative modulo scheduling: an algorithm for software
pipelining loops", MICRO 1994. Swing: J. Llosa et al., "Swing modulo scheduling: a lifetime-
sensitive approach", PACT 1996. Both place operations one by one into a table of one interval; the
first evicts what is in the way, the second chooses an order in which little is.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families.kernel.check import check
from cpsched.families.kernel.layout import (
    edge_delays,
    edge_reach,
    schedule_from,
    stages_for,
)
from cpsched.families.kernel.partition import partitions
from cpsched.families.kernel.prepare import Instance, Ints
from cpsched.families.kernel.problem import KernelSchedule

#: Tables have at most this many slots; longer intervals are scheduled on a coarser grid.
LARGEST_TABLE = 4096
#: Estimated seconds of placing one operation.
PLACEMENT_COST = 8e-5
#: Placements per operation before an interval is given up, and in all.
PLACEMENT_RATIO = 4
PLACEMENTS = 600


@dataclass
class Grid:
    """A problem at one interval on a grid of ``tick`` cycles, rounded so that schedules stay
    valid: delays and reservations up, and the interval a multiple of the tick."""

    interval: int
    tick: int
    delay: Ints
    reach: Ints
    uses: list[list[tuple[int, int, int, int]]]
    issue: list[int]
    waits: list[bool]
    group: list[int | None]
    depth: list[int]


def grid_for(instance: Instance, interval: int, group: list[int | None], depth: list[int]) -> Grid:
    """The grid of an interval; its interval may be up to a tick longer."""
    tick = max(1, -(-interval // LARGEST_TABLE))
    delay = edge_delays(instance, group)
    uses = [
        [
            (k, start // tick, -(-(start + cycles) // tick) - start // tick, amount)
            for k, start, cycles, amount in rows
        ]
        for rows in instance.uses
    ]
    return Grid(
        interval=-(-interval // tick),
        tick=tick,
        delay=-(-delay // tick),
        reach=edge_reach(instance, depth),
        uses=uses,
        issue=[-(-c // tick) for c in instance.issue],
        waits=waiting(instance, group),
        group=group,
        depth=depth,
    )


def waiting(instance: Instance, group: list[int | None]) -> list[bool]:
    """Which operations begin with a wait under an assignment to groups."""
    waits = [False] * instance.n
    if instance.problem.grouped:
        for e, edge in enumerate(instance.problem.edges):
            u, w = int(instance.source[e]), int(instance.target[e])
            if edge.blocking or (instance.spill[e] and group[u] != group[w]):
                waits[w] = True
    return waits


class Table:
    """The modulo reservation table of one interval, and the operations placed in it."""

    def __init__(self, instance: Instance, grid: Grid) -> None:
        self.instance, self.grid = instance, grid
        self.period = grid.interval
        self.counts = np.zeros((len(instance.capacity), self.period), dtype=np.int64)
        self.start: dict[int, int] = {}
        self.weight = grid.delay - self.period * grid.reach
        self.into: list[list[int]] = [[] for _ in range(instance.n)]
        self.out: list[list[int]] = [[] for _ in range(instance.n)]
        for e in range(len(instance.source)):
            u, w = int(instance.source[e]), int(instance.target[e])
            if u != w:
                self.into[w].append(e)
                self.out[u].append(e)
        self.members: dict[int | None, list[int]] = {}
        for o in range(instance.n):
            self.members.setdefault(grid.group[o], []).append(o)

    def fits_at_all(self) -> bool:
        """Whether every operation alone fits the table, and every self-dependence holds."""
        for rows in self.grid.uses:
            for k, _, cycles, amount in rows:
                if amount * -(-cycles // self.period) > self.instance.capacity[k]:
                    return False
        own = self.instance.source == self.instance.target
        return not bool((self.weight[own] > 0).any())

    def earliest(self, o: int) -> int:
        """Earliest start allowed by the placed predecessors."""
        known = [
            self.start[u] + int(self.weight[e])
            for e in self.into[o]
            if (u := int(self.instance.source[e])) in self.start
        ]
        return max(known, default=0)

    def latest(self, o: int) -> int | None:
        """Latest start allowed by the placed successors, None without one."""
        known = [
            self.start[w] - int(self.weight[e])
            for e in self.out[o]
            if (w := int(self.instance.target[e])) in self.start
        ]
        return min(known, default=None)

    def free(self, o: int) -> npt.NDArray[np.bool_]:
        """Slots at which the operation conflicts with nothing that is placed."""
        period = self.period
        blocked = np.zeros(period, dtype=np.bool_)
        for k, offset, cycles, amount in self.grid.uses[o]:
            whole, rest = divmod(cycles, period)
            room = self.instance.capacity[k] - whole * amount
            full = self.counts[k] + amount > room if rest else self.counts[k] > room
            if full.any():
                blocked |= _window_any(full, offset, rest or 1)
        return ~(blocked | self._stalls(o))

    def _stalls(self, o: int) -> npt.NDArray[np.bool_]:
        """Slots where a wait of the group would begin inside an issue window."""
        period, grid = self.period, self.grid
        blocked = np.zeros(period, dtype=np.bool_)
        if not self.instance.problem.grouped:
            return blocked
        placed = [p for p in self.members[grid.group[o]] if p in self.start and p != o]
        if grid.waits[o]:
            for p in placed:
                for begin, end in _pieces(self.start[p], grid.issue[p], period):
                    blocked[begin:end] = True
        if grid.issue[o]:
            for p in placed:
                if grid.waits[p]:
                    first = self.start[p] - grid.issue[o] + 1
                    for begin, end in _pieces(first, grid.issue[o], period):
                        blocked[begin:end] = True
        return blocked

    def place(self, o: int, start: int, sign: int = 1) -> None:
        """Put an operation into the table (``sign`` -1: take it out)."""
        for k, offset, cycles, amount in self.grid.uses[o]:
            whole, rest = divmod(cycles, self.period)
            self.counts[k] += sign * whole * amount
            for begin, end in _pieces(start + offset, rest, self.period):
                self.counts[k, begin:end] += sign * amount
        if sign > 0:
            self.start[o] = start
        else:
            del self.start[o]

    def evict_for(self, o: int, start: int, *, forced: bool) -> list[int]:
        """Take out every placed operation that conflicts with starting ``o`` at ``start``."""
        out = []
        for e in (*self.out[o], *self.into[o]):
            u, w = int(self.instance.source[e]), int(self.instance.target[e])
            other = w if u == o else u
            if other not in self.start:
                continue
            gap = self.start[other] - start
            if (gap if u == o else -gap) < self.weight[e]:
                self.place(other, self.start[other], -1)
                out.append(other)
        slot = start % self.period
        if not forced:
            return out
        for other in sorted(self.start, key=lambda p: -self.start[p]):
            if self._clashes(o, slot, other):
                self.place(other, self.start[other], -1)
                out.append(other)
        return out

    def _clashes(self, o: int, slot: int, other: int) -> bool:
        """Whether a placed operation stands in the way of ``o`` at a slot, given what is left."""
        period, grid = self.period, self.grid
        for k, offset, cycles, amount in grid.uses[o]:
            for j, off, length, _ in grid.uses[other]:
                if k != j:
                    continue
                gap = (self.start[other] + off - slot - offset) % period
                if gap < cycles or period - gap < length:
                    room = self.instance.capacity[k] - amount
                    window = self.counts[k].take(
                        range(slot + offset, slot + offset + min(cycles, period)), mode="wrap"
                    )
                    if window.max() > room:
                        return True
        if self.instance.problem.grouped and grid.group[o] == grid.group[other]:
            gap = (slot - self.start[other]) % period
            if grid.waits[o] and gap < grid.issue[other]:
                return True
            if grid.waits[other] and (-gap) % period < grid.issue[o]:
                return True
        return False


def _pieces(start: int, length: int, period: int) -> Iterator[tuple[int, int]]:
    """The slots of ``[start, start + length)`` on the circle, as one or two slices."""
    if length >= period:
        yield 0, period
        return
    begin = start % period
    end = begin + length
    yield begin, min(end, period)
    if end > period:
        yield 0, end - period


def _window_any(full: npt.NDArray[np.bool_], offset: int, length: int) -> npt.NDArray[np.bool_]:
    """For each slot s: whether any of ``[s + offset, s + offset + length)`` is full."""
    period = len(full)
    doubled = np.concatenate((full, full))
    total = np.concatenate(([0], np.cumsum(doubled)))
    begin = (np.arange(period) + offset) % period
    found: npt.NDArray[np.bool_] = total[begin + min(length, period)] > total[begin]
    return found


def _first(free: npt.NDArray[np.bool_], start: int) -> int | None:
    """First start from ``start`` on whose slot is free."""
    period = len(free)
    at = start % period
    ahead = np.flatnonzero(free[at:])
    if len(ahead):
        return start + int(ahead[0])
    behind = np.flatnonzero(free[:at])
    return start + period - at + int(behind[0]) if len(behind) else None


class Budget:
    """Placements that the heuristics may still make: counted, so that results repeat."""

    def __init__(self, clock: Clock, placements: int) -> None:
        self.clock, self.left = clock, placements

    def spend(self) -> bool:
        """Count one placement; False when the budget or the time is used up."""
        self.left -= 1
        self.clock.spend(PLACEMENT_COST)
        return self.left >= 0 and not self.clock.expired()


def iterative(instance: Instance, grid: Grid, budget: Budget) -> dict[int, int] | None:
    """Rau's iterative modulo scheduling at one interval; starts on the grid, or None."""
    table = Table(instance, grid)
    if not table.fits_at_all():
        return None
    height = _heights(instance, table.weight)
    if height is None:
        return None
    queue = [(-int(height[o]), o) for o in range(instance.n)]
    heapq.heapify(queue)
    last = np.full(instance.n, -1, dtype=np.int64)
    tries = PLACEMENT_RATIO * instance.n
    while queue:
        tries -= 1
        if tries < 0 or not budget.spend():
            return None
        _, o = heapq.heappop(queue)
        early = table.earliest(o)
        first = _first(table.free(o), early)
        forced = first is None
        start = max(early, int(last[o]) + 1) if first is None else first
        for other in table.evict_for(o, start, forced=forced):
            heapq.heappush(queue, (-int(height[other]), other))
        table.place(o, start)
        last[o] = start
    return table.start


def _heights(instance: Instance, weight: Ints) -> Ints | None:
    """Longest path from each operation to any other's end, at the grid's interval."""
    value = np.zeros(instance.n, dtype=np.int64)
    for _ in range(instance.n + 1):
        before = value.copy()
        if len(weight):
            np.maximum.at(value, instance.source, value[instance.target] + weight)
        if (before == value).all():
            return value
    return None


def swing(instance: Instance, grid: Grid, budget: Budget) -> dict[int, int] | None:
    """Swing modulo scheduling at one interval; starts on the grid, or None."""
    table = Table(instance, grid)
    if not table.fits_at_all():
        return None
    height = _heights(instance, table.weight)
    if height is None:
        return None
    for o in swing_order(instance, table, height):
        if not budget.spend():
            return None
        has_before = any(int(instance.source[e]) in table.start for e in table.into[o])
        early, late = table.earliest(o), table.latest(o)
        free = table.free(o)
        if late is None:
            start = _first(free, early)
            if start is not None and start >= early + table.period:
                start = None
        else:
            # Towards the successors, and up from the predecessors when there are both.
            mirrored = _first(free[::-1], -1 - late)
            start = None if mirrored is None else -1 - mirrored
            if start is not None and start <= late - table.period:
                start = None
            if has_before:
                start = _first(free, early)
                if start is not None and start > min(late, early + table.period - 1):
                    start = None
        if start is None:
            return None
        table.place(o, start)
    return table.start


def swing_order(instance: Instance, table: Table, height: Ints) -> list[int]:
    """Operations by recurrences first, then by neighbourhood of what is ordered already."""
    size = np.bincount(instance.part)
    parts: dict[int, list[int]] = {}
    for o in range(instance.n):
        parts.setdefault(int(instance.part[o]), []).append(o)
    seeds = sorted(
        parts.values(), key=lambda p: (-int(size[instance.part[p[0]]]), -max(height[p]), p[0])
    )
    order: list[int] = []
    done = [False] * instance.n
    frontier: list[tuple[int, int]] = []

    def take(o: int) -> None:
        done[o] = True
        order.append(o)
        for e in (*table.out[o], *table.into[o]):
            u, w = int(instance.source[e]), int(instance.target[e])
            other = w if u == o else u
            if not done[other]:
                heapq.heappush(frontier, (-int(height[other]), other))

    def drain() -> None:
        while frontier:
            _, o = heapq.heappop(frontier)
            if not done[o]:
                take(o)

    for part in seeds:
        cyclic = len(part) > 1
        for o in sorted(part, key=lambda o: (-int(height[o]), o)):
            if not done[o]:
                take(o)
        if not cyclic:
            drain()
    return order


def to_schedule(
    instance: Instance, grid: Grid, starts: dict[int, int], *, late: bool = False
) -> KernelSchedule | None:
    """The schedule of starts on the grid, with the smallest stages its slots allow."""
    interval = grid.interval * grid.tick
    slot = [starts[o] * grid.tick % interval for o in range(instance.n)]
    stage = stages_for(instance, interval, slot, grid.group, grid.depth, late=late)
    if stage is None:
        return None
    exact = [s + interval * int(k) for s, k in zip(slot, stage, strict=True)]
    return schedule_from(instance, interval, exact, grid.group, grid.depth)


def serial(instance: Instance, group: list[int | None], depth: list[int]) -> KernelSchedule | None:
    """One operation after the other, no overlap at all: valid whenever memory suffices."""
    delay, reach = edge_delays(instance, group), edge_reach(instance, depth)
    into: list[list[int]] = [[] for _ in range(instance.n)]
    for e in np.flatnonzero(reach == 0).tolist():
        into[int(instance.target[e])].append(e)
    waits = waiting(instance, group)
    starts = [0] * instance.n
    now = 0
    for o in sequence(instance, reach):
        ready = [starts[int(instance.source[e])] + int(delay[e]) for e in into[o]]
        starts[o] = max([now, *ready])
        table = max((s + c for _, s, c, _ in instance.uses[o]), default=0)
        # Nothing else of the group may begin in the cycle of a wait.
        now = starts[o] + max(table, instance.issue[o], int(waits[o]))
    interval = max(now, instance.mii, 1)
    for e in np.flatnonzero(reach > 0).tolist():
        slack = starts[int(instance.source[e])] + int(delay[e]) - starts[int(instance.target[e])]
        interval = max(interval, -(-slack // int(reach[e])))
    limit = instance.problem.max_initiation_interval
    if limit is not None and interval > limit:
        return None
    return schedule_from(instance, interval, starts, group, depth)


def sequence(instance: Instance, reach: Ints) -> list[int]:
    """Operations so that edges of the same iteration go forward and few results are live.

    Among the operations whose inputs are there, one that frees the most words goes next.
    """
    operations = instance.problem.operations
    inside = [e for e in range(len(instance.source)) if reach[e] == 0 and instance.delay[e] >= 0]
    waiting = [0] * instance.n
    after: list[list[int]] = [[] for _ in range(instance.n)]
    for e in inside:
        waiting[int(instance.target[e])] += 1
        after[int(instance.source[e])].append(int(instance.target[e]))
    height = np.zeros(instance.n, dtype=np.int64)
    source, target, delay = (a[inside] for a in (instance.source, instance.target, instance.delay))
    for _ in range(instance.n + 1 if inside else 0):
        before = height.copy()
        np.maximum.at(height, source, height[target] + delay)
        if (before == height).all():
            break
    readers = [{u.target for u in rows if u.distance == 0} for rows in instance.life]
    reads: list[list[int]] = [[] for _ in range(instance.n)]
    for o, rows in enumerate(readers):
        for w in rows:
            reads[w].append(o)
    open_reads = [len(rows) for rows in readers]
    done = [False] * instance.n
    order: list[int] = []
    ready = {o for o in range(instance.n) if waiting[o] == 0}
    if not any(o.registers for o in operations):
        return _by_height(instance, waiting, after, height)
    while len(order) < instance.n:
        # A cycle of simultaneous operations has no first one: take any that is left.
        pool = ready or {o for o in range(instance.n) if not done[o]}

        def price(o: int) -> tuple[int, int, int]:
            freed = sum(operations[u].registers for u in reads[o] if open_reads[u] == 1)
            return operations[o].registers - freed, -int(height[o]), o

        o = min(pool, key=price)
        ready.discard(o)
        done[o] = True
        order.append(o)
        for u in reads[o]:
            open_reads[u] -= 1
        for w in after[o]:
            waiting[w] -= 1
            if waiting[w] == 0 and not done[w]:
                ready.add(w)
    return order


def _by_height(
    instance: Instance, waiting: list[int], after: list[list[int]], height: Ints
) -> list[int]:
    """The sequence by longest remaining path alone."""
    order: list[int] = []
    done = [False] * instance.n
    queue = [(-int(height[o]), o) for o in range(instance.n) if waiting[o] == 0]
    heapq.heapify(queue)
    rest = iter(range(instance.n))
    while len(order) < instance.n:
        # A cycle of simultaneous operations has no first one: take any that is left.
        o = heapq.heappop(queue)[1] if queue else next(o for o in rest if not done[o])
        if done[o]:
            continue
        done[o] = True
        order.append(o)
        for w in after[o]:
            waiting[w] -= 1
            if waiting[w] == 0 and not done[w]:
                heapq.heappush(queue, (-int(height[w]), w))
    return order


def greedy(instance: Instance, run: Run) -> None:
    """Offer the first schedule within milliseconds, then better intervals while cheap."""
    problem = instance.problem
    depth = [b.max_depth for b in problem.buffers]
    smallest = [b.min_depth for b in problem.buffers]
    choices = [depth] if depth == smallest else [depth, smallest]
    best = math.inf
    candidates: list[tuple[bool, int, list[int | None], list[int], int]] = []
    for group in partitions(instance):
        for rings in choices:
            found = serial(instance, group, rings)
            if found is None or (run.clock.expired() and best < math.inf):
                continue
            longest = found.initiation_interval
            valid = not check(problem, found)
            if valid and longest < best:
                run.offer(found, "greedy:serial")
                best = float(longest)
            # What does not even fit one after the other rarely fits when it overlaps.
            candidates.append((not valid, len(candidates), group, rings, longest))
    budget = Budget(run.clock, max(PLACEMENTS, 8 * instance.n))
    for _, _, group, rings, longest in sorted(candidates, key=lambda c: c[:2]):
        best = pipelined(instance, run, group, rings, best, longest, budget)
        if best <= instance.mii or budget.left <= 0 or run.clock.expired():
            return


def pipelined(
    instance: Instance,
    run: Run,
    group: list[int | None],
    depth: list[int],
    best: float,
    longest: int,
    budget: Budget,
) -> float:
    """Climb the intervals with both heuristics until one fits, then close in from above."""
    limit = instance.problem.max_initiation_interval
    top = min(best, longest + 1, limit + 1 if limit is not None else math.inf)
    low = instance.mii - 1  # the largest interval that failed
    stride = max(1, instance.mii // 16)
    step = 1
    while low + 1 < top and budget.left > 0 and not run.clock.expired():
        interval = min(low + step, int(top) - 1)
        grid = grid_for(instance, interval, group, depth)
        found = None
        for name, method in (("swing", swing), ("iterative", iterative)):
            starts = method(instance, grid, budget)
            for late in (False, True) if starts is not None else ():
                found = to_schedule(instance, grid, starts or {}, late=late)
                if (
                    found is not None
                    and found.initiation_interval < top
                    and not check(instance.problem, found)
                ):
                    run.offer(found, f"greedy:{name}")
                    break
                found = None
            if found is not None:
                break
        if found is None:
            low = interval
            step = max(stride, 2 * step)
        else:
            top = best = found.initiation_interval
            step = max(1, (int(top) - low) // 2)
    return best
