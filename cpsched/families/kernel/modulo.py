"""Iterative and swing modulo scheduling of one interval.

Iterative modulo scheduling: B. R. Rau, "Iterative modulo scheduling: an algorithm for software
pipelining loops", MICRO 1994. Swing: J. Llosa et al., "Swing modulo scheduling: a lifetime-
sensitive approach", PACT 1996. Both place operations one by one into a table of one interval; the
first evicts what is in the way, the second chooses an order in which little is.

Sets of slots are whole numbers, bit ``s`` for slot ``s``: unions and rotations of a few thousand
slots then cost a microsecond.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cpsched.core.clock import Clock
from cpsched.families.kernel.graph import longest
from cpsched.families.kernel.layout import edge_delays, edge_reach
from cpsched.families.kernel.prepare import Instance, Ints

#: Tables have at most this many slots; longer intervals are scheduled on a coarser grid.
LARGEST_TABLE = 4096
#: Estimated seconds of placing one operation.
PLACEMENT_COST = 4e-5
#: Placements per operation before an interval is given up.
PLACEMENT_RATIO = 3


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
        self.everywhere = (1 << self.period) - 1
        self.counts = np.zeros((len(instance.capacity), self.period), dtype=np.int64)
        self.start: dict[int, int] = {}
        self.weight = grid.delay - self.period * grid.reach
        #: (other end, weight) of the edges into and out of each operation, self-loops left out.
        self.into: list[list[tuple[int, int]]] = [[] for _ in range(instance.n)]
        self.out: list[list[tuple[int, int]]] = [[] for _ in range(instance.n)]
        for u, w, weight in zip(
            instance.source.tolist(), instance.target.tolist(), self.weight.tolist(), strict=True
        ):
            if u != w:
                self.into[w].append((u, weight))
                self.out[u].append((w, weight))
        self.members: dict[int | None, list[int]] = {}
        for o in range(instance.n):
            self.members.setdefault(grid.group[o], []).append(o)
        self._full: dict[tuple[int, int], int] = {}
        self._units = [sum(1 << k for k in {row[0] for row in rows}) for rows in grid.uses]
        self._grouped = instance.problem.grouped

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
        start = self.start
        return max((start[u] + weight for u, weight in self.into[o] if u in start), default=0)

    def latest(self, o: int) -> int | None:
        """Latest start allowed by the placed successors, None without one."""
        start = self.start
        return min((start[w] - weight for w, weight in self.out[o] if w in start), default=None)

    def blocked(self, o: int) -> int:
        """The set of slots at which the operation conflicts with something that is placed."""
        blocked = 0
        for k, offset, cycles, amount in self.grid.uses[o]:
            whole, rest = divmod(cycles, self.period)
            room = self.instance.capacity[k] - whole * amount
            if whole and self._over(k, room):
                return self.everywhere  # a use around the whole circle meets every slot
            full = self._over(k, room - amount) if rest else 0
            if full:
                blocked |= self._before(full, offset, rest)
        return blocked | self._stalls(o)

    def _over(self, unit: int, level: int) -> int:
        """The set of slots at which more than a level of a unit is in use."""
        key = (unit, level)
        if key not in self._full:
            bits = np.packbits(self.counts[unit] > level, bitorder="little")
            self._full[key] = int.from_bytes(bits.tobytes(), "little")
        return self._full[key]

    def _rotate(self, slots: int, by: int) -> int:
        """A set of slots moved to lower slots on the circle."""
        by %= self.period
        return (slots >> by) | (slots << (self.period - by)) & self.everywhere

    def _before(self, slots: int, offset: int, length: int) -> int:
        """Every slot s such that ``[s + offset, s + offset + length)`` meets a set."""
        met = self._rotate(slots, offset)
        done = 1
        while done < length:
            step = min(done, length - done)
            met |= self._rotate(met, step)
            done += step
        return met

    def _run(self, begin: int, length: int) -> int:
        """The slots of ``[begin, begin + length)`` as a set."""
        if length >= self.period:
            return self.everywhere
        return self._rotate((1 << length) - 1, -begin)

    def _stalls(self, o: int) -> int:
        """Slots where a wait of the group would begin inside an issue window."""
        grid, blocked = self.grid, 0
        if not self._grouped:
            return blocked
        issue = grid.issue[o]
        for p in self.members[grid.group[o]]:
            start = self.start.get(p)
            if start is None or p == o:
                continue
            if grid.waits[o] and grid.issue[p]:
                blocked |= self._run(start, grid.issue[p])
            if issue and grid.waits[p]:
                blocked |= self._run(start - issue + 1, issue)
        return blocked

    def first(self, blocked: int, start: int) -> int | None:
        """First start from ``start`` on whose slot is not in a set."""
        free = self._rotate(~blocked & self.everywhere, start)
        return start + (free & -free).bit_length() - 1 if free else None

    def last(self, blocked: int, start: int) -> int | None:
        """Last start up to ``start`` whose slot is not in a set."""
        free = self._rotate(~blocked & self.everywhere, start + 1)
        return start + free.bit_length() - self.period if free else None

    def place(self, o: int, start: int, sign: int = 1) -> None:
        """Put an operation into the table (``sign`` -1: take it out)."""
        for k, offset, cycles, amount in self.grid.uses[o]:
            whole, rest = divmod(cycles, self.period)
            if whole:
                self.counts[k] += sign * whole * amount
            for begin, end in _pieces(start + offset, rest, self.period):
                self.counts[k, begin:end] += sign * amount
            for key in [key for key in self._full if key[0] == k]:
                del self._full[key]
        if sign > 0:
            self.start[o] = start
        else:
            del self.start[o]

    def evict_for(self, o: int, start: int, *, forced: bool) -> list[int]:
        """Take out every placed operation that conflicts with starting ``o`` at ``start``."""
        placed = self.start
        out = [w for w, weight in self.out[o] if w in placed and placed[w] - start < weight]
        out += [u for u, weight in self.into[o] if u in placed and start - placed[u] < weight]
        out = list(dict.fromkeys(out))
        for other in out:
            self.place(other, placed[other], -1)
        if not forced:
            return out
        slot = start % self.period
        for other in sorted(placed, key=lambda p: -placed[p]):
            if self._clashes(o, slot, other):
                self.place(other, placed[other], -1)
                out.append(other)
                if not self.blocked(o) >> slot & 1:
                    break
        return out

    def _clashes(self, o: int, slot: int, other: int) -> bool:
        """Whether a placed operation stands in the way of ``o`` at a slot, given what is left."""
        period, grid = self.period, self.grid
        shared = self._units[o] & self._units[other]
        for k, offset, cycles, amount in grid.uses[o] if shared else ():
            for j, off, length, _ in grid.uses[other]:
                if k != j:
                    continue
                gap = (self.start[other] + off - slot - offset) % period
                if gap < cycles or period - gap < length:
                    most = amount * -(-cycles // period)
                    full = self._over(k, self.instance.capacity[k] - most)
                    if full & self._run(slot + offset, cycles):
                        return True
        if self._grouped and grid.group[o] == grid.group[other]:
            gap = (slot - self.start[other]) % period
            if grid.waits[o] and gap < grid.issue[other]:
                return True
            if grid.waits[other] and (-gap) % period < grid.issue[o]:
                return True
        return False


def _pieces(start: int, length: int, period: int) -> Iterator[tuple[int, int]]:
    """The slots of ``[start, start + length)`` on the circle, as one or two slices."""
    begin = start % period
    end = begin + length
    yield begin, min(end, period)
    if end > period:
        yield 0, end - period


class Budget:
    """Placements that the heuristics may still make: counted, so that results repeat."""

    def __init__(self, clock: Clock, placements: int) -> None:
        self.clock, self.left = clock, placements

    def spend(self) -> bool:
        """Count one placement; False when the budget or the time is used up."""
        self.left -= 1
        self.clock.spend(PLACEMENT_COST)
        return self.left >= 0 and not self.clock.expired()


def heights(instance: Instance, weight: Ints) -> Ints | None:
    """Longest path from each operation to any other's end, at the grid's interval."""
    return longest(instance.n, instance.target, instance.source, weight)


def iterative(instance: Instance, grid: Grid, budget: Budget) -> dict[int, int] | None:
    """Rau's iterative modulo scheduling at one interval; starts on the grid, or None."""
    table = Table(instance, grid)
    height = heights(instance, table.weight) if table.fits_at_all() else None
    if height is None:
        return None
    priority = (-height).tolist()
    queue = [(priority[o], o) for o in range(instance.n)]
    heapq.heapify(queue)
    last = [-1] * instance.n
    tries = PLACEMENT_RATIO * instance.n
    while queue:
        tries -= 1
        if tries < 0 or not budget.spend():
            return None
        _, o = heapq.heappop(queue)
        early = table.earliest(o)
        first = table.first(table.blocked(o), early)
        start = max(early, last[o] + 1) if first is None else first
        for other in table.evict_for(o, start, forced=first is None):
            heapq.heappush(queue, (priority[other], other))
        table.place(o, start)
        last[o] = start
    return table.start


def swing(instance: Instance, grid: Grid, budget: Budget) -> dict[int, int] | None:
    """Swing modulo scheduling at one interval; starts on the grid, or None."""
    table = Table(instance, grid)
    height = heights(instance, table.weight) if table.fits_at_all() else None
    if height is None:
        return None
    for o in swing_order(instance, table, height.tolist()):
        if not budget.spend():
            return None
        early, late = table.earliest(o), table.latest(o)
        blocked = table.blocked(o)
        if late is not None and not any(u in table.start for u, _ in table.into[o]):
            # Towards the successors; up from the predecessors when there are any.
            start = table.last(blocked, late)
        else:
            start = table.first(blocked, early)
            if start is not None and late is not None and start > late:
                start = None
        if start is None:
            return None
        table.place(o, start)
    return table.start


def swing_order(instance: Instance, table: Table, height: list[int]) -> list[int]:
    """Operations by recurrences first, then by neighbourhood of what is ordered already."""
    part_of = instance.part.tolist()
    parts: dict[int, list[int]] = {}
    for o in range(instance.n):
        parts.setdefault(part_of[o], []).append(o)
    seeds = sorted(parts.values(), key=lambda p: (-len(p), -max(height[o] for o in p), p[0]))
    order: list[int] = []
    done = [False] * instance.n
    frontier: list[tuple[int, int]] = []

    def take(o: int) -> None:
        done[o] = True
        order.append(o)
        for other, _ in (*table.out[o], *table.into[o]):
            if not done[other]:
                heapq.heappush(frontier, (-height[other], other))

    for part in seeds:
        for o in sorted(part, key=lambda o: (-height[o], o)):
            if not done[o]:
                take(o)
        while len(part) == 1 and frontier:
            _, o = heapq.heappop(frontier)
            if not done[o]:
                take(o)
    return order
