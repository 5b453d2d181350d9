"""The CP-SAT model of a loop at one initiation interval.

Starts are split as ``start = slot + II * stage``. Resources, windows and live ranges repeat every
II cycles, so they look at slots alone: an interval of the circle ``[0, II)`` is laid out twice,
II apart. The model comes in two forms:

- *linked*: every dependence holds between starts within a horizon, the largest length allowed.
  Its solutions are schedules. With *fixed* slots and groups only the stages are free.
- *loose*: dependences hold within each recurrence (strongly connected part) only; between parts,
  a later one may always start more stages later, so nothing is lost but the agreement of live
  ranges on how many. There is no horizon, hence its infeasibility proves the interval impossible,
  and without live ranges its solutions become schedules by a longest path.

Each constraint is one method, named like its rule in the checker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from cpsched.core.clock import Clock
from cpsched.families.kernel.prepare import Instance, Ints, longest_paths

#: A linear expression, a variable or a constant.
Term = Any


@dataclass
class Slots:
    """What a solution decides: slots, stages (within parts when loose), groups, ring depths."""

    slot: list[int]
    stage: list[int]
    group: list[int | None]
    depth: list[int]


@dataclass
class Variables:
    """Solver variables by operation; constants where nothing is to decide."""

    slot: list[Term]
    stage: list[Term]
    member: list[list[Term]] = field(default_factory=list)
    depth: list[Term] = field(default_factory=list)
    used: list[Term] = field(default_factory=list)


class KernelModel:
    """One interval's model; `solve` it through the engine and read it with `slots`."""

    def __init__(
        self,
        instance: Instance,
        interval: int,
        clock: Clock,
        *,
        linked: bool = True,
        horizon: int = 0,
        fixed: Slots | None = None,
    ) -> None:
        self.instance, self.interval, self.clock = instance, interval, clock
        self.linked, self.horizon, self.fixed = linked, horizon, fixed
        self.model = cp_model.CpModel()
        self._same: dict[tuple[int, int], Term] = {}
        self._life: dict[int, tuple[Term, Term, Term, int]] = {}
        self.possible = self._starts()
        if not self.possible:
            self.model.add_bool_or([])
            return
        problem = instance.problem
        if problem.grouped:
            self._groups()
        self._dependence()
        clock.check()
        self._unit()
        if problem.grouped:
            self._blocking()
            clock.check()
        self._memory()
        if problem.grouped:
            self._registers()
        if problem.grouped:
            self._warps()
        clock.check()

    # ------------------------------------------------------------------ variables

    def _starts(self) -> bool:
        """Slots and stages; False when a recurrence cannot hold at this interval."""
        instance, period, model = self.instance, self.interval, self.model
        n = instance.n
        reach = instance.reach()
        self.v = v = Variables([0] * n, [0] * n)
        v.depth = [
            b.min_depth
            if b.min_depth == b.max_depth
            else model.new_int_var(b.min_depth, b.max_depth, f"depth {b.name}")
            for b in instance.problem.buffers
        ]
        if self.linked:
            head = longest_paths(instance, period, reach)
            tail = longest_paths(instance, period, reach, to=True, seed=instance.latency)
            if head is None or tail is None:
                return False
            low, high = head, self.horizon - tail
            if (low > high).any():
                return False
            self.low, self.high = low, high
        else:
            windows = part_windows(instance, period, reach)
            if windows is None:
                return False
            self.low, self.high = windows
        for o in range(n):
            if self.fixed is None:
                v.slot[o] = model.new_int_var(0, period - 1, f"slot {o}")
            else:
                v.slot[o] = self.fixed.slot[o]
            first, last = int(self.low[o]) // period, int(self.high[o]) // period
            if first == last:
                v.stage[o] = first
            else:
                v.stage[o] = model.new_int_var(first, last, f"stage {o}")
            if isinstance(self.start(o), int):
                if not self.low[o] <= self.start(o) <= self.high[o]:
                    return False
            elif self.linked or int(self.high[o]) - int(self.low[o]) < 2 * period:
                model.add_linear_constraint(self.start(o), int(self.low[o]), int(self.high[o]))
        if self.linked:
            return True
        # Every constraint is invariant under rotation, so one operation's slot may be fixed.
        model.add(v.slot[self.anchor()] == 0)
        return True

    def anchor(self) -> int:
        """The operation whose slot is fixed: the longest user of a unit."""
        uses = self.instance.uses
        return max(range(self.instance.n), key=lambda o: (sum(c for _, _, c, _ in uses[o]), -o))

    def start(self, o: int) -> Term:
        """Start of an operation in iteration 0."""
        return self.v.slot[o] + self.interval * self.v.stage[o]

    def _between(self, u: int, w: int, distance: Term) -> Term | None:
        """Cycles from u's start to w's, ``distance`` iterations later; None when free."""
        instance = self.instance
        if not self.linked and instance.part[u] != instance.part[w]:
            return None
        return self.start(w) - self.start(u) + self.interval * distance

    # ------------------------------------------------------------------ groups

    def _groups(self) -> None:
        """Each operation is in one group; group 0 holds exactly the variable-latency ones."""
        instance, model = self.instance, self.model
        pinned = False
        self.v.used = [model.new_bool_var(f"used {g}") for g in range(instance.groups)]
        for o, operation in enumerate(instance.problem.operations):
            if operation.variable_latency:
                self.v.member.append([1] + [0] * (instance.groups - 1))
            elif self.fixed is not None:
                pinned = True
                chosen = self.fixed.group[o]
                self.v.member.append([int(g == chosen) for g in range(instance.groups)])
            elif operation.group is not None:
                pinned = True
                self.v.member.append([int(g == operation.group) for g in range(instance.groups)])
            else:
                row = [0] + [model.new_bool_var(f"in {o} {g}") for g in range(1, instance.groups)]
                model.add_exactly_one(row[1:])
                self.v.member.append(row)
        for g in range(instance.groups):
            literals = [row[g] for row in self.v.member if not isinstance(row[g], int)]
            constant = any(row[g] == 1 for row in self.v.member if isinstance(row[g], int))
            if constant:
                model.add(self.v.used[g] == 1)
            else:
                model.add_max_equality(self.v.used[g], literals or [0])
        for e in instance.problem.edges:
            if e.carried:
                self._carried(instance.ids.index(e.source), instance.ids.index(e.target))
        if not pinned:
            self._order_groups()

    def _order_groups(self) -> None:
        """Groups other than the producer are interchangeable: number them by first member."""
        before: list[Term] = []
        for row in self.v.member:
            if isinstance(row[1] if len(row) > 1 else 0, int):
                continue
            for g in range(2, len(row)):
                earlier = [other[g - 1] for other in before]
                self.model.add_bool_or([row[g].negated(), *earlier])
            before.append(row)

    def _carried(self, u: int, w: int) -> None:
        """A register value carried across iterations stays in its group."""
        self.model.add(self.same(u, w) == 1)

    def same(self, u: int, w: int) -> Term:
        """Literal: two operations are in one group."""
        if u == w:
            return 1
        key = (min(u, w), max(u, w))
        if key not in self._same:
            self._same[key] = self._same_literal(*key)
        return self._same[key]

    def _same_literal(self, u: int, w: int) -> Term:
        model, a, b = self.model, self.v.member[u], self.v.member[w]
        fixed_a = next((g for g, x in enumerate(a) if isinstance(x, int) and x == 1), None)
        fixed_b = next((g for g, x in enumerate(b) if isinstance(x, int) and x == 1), None)
        if fixed_a is not None and fixed_b is not None:
            return int(fixed_a == fixed_b)
        if fixed_a is not None or fixed_b is not None:
            return b[fixed_a] if fixed_a is not None else a[fixed_b or 0]
        same = model.new_bool_var(f"same {u} {w}")
        for x, y in zip(a[1:], b[1:], strict=True):
            model.add_bool_or([x.negated(), y.negated(), same])
            model.add_bool_or([x.negated(), y, same.negated()])
            model.add_bool_or([y.negated(), x, same.negated()])
        return same

    # ------------------------------------------------------------------ dependences

    def _distance(self, e: int) -> Term:
        b = int(self.instance.buffer[e])
        distance = int(self.instance.distance[e])
        return distance if b < 0 else distance + self.v.depth[b]

    def _dependence(self) -> None:
        """Every edge, with spill and signal delays when its ends are in different groups."""
        instance, model = self.instance, self.model
        seen: dict[tuple[int, int, int, int, int], int] = {}
        for e in range(len(instance.source)):
            key = (
                int(instance.source[e]),
                int(instance.target[e]),
                int(instance.distance[e]),
                int(instance.buffer[e]),
                int(instance.crossing[e]),
            )
            seen[key] = max(seen.get(key, int(instance.delay[e])), int(instance.delay[e]))
        for (u, w, distance, b, crossing), delay in seen.items():
            reach: Term = distance if b < 0 else distance + self.v.depth[b]
            span = self._between(u, w, reach)
            if span is None:
                continue
            model.add(span >= delay)
            if crossing:
                same = self.same(u, w)
                if isinstance(same, int):
                    if not same:
                        model.add(span >= delay + crossing)
                else:
                    model.add(span >= delay + crossing).only_enforce_if(same.negated())

    # ------------------------------------------------------------------ units

    def _circle(
        self, begin: Term, length: int, name: str, presence: Term = None
    ) -> list[cp_model.IntervalVar]:
        """The two copies of a fixed-length interval of the circle."""
        copies = []
        for shift in (0, self.interval):
            if presence is None:
                copies.append(
                    self.model.new_fixed_size_interval_var(begin + shift, length, f"{name}+{shift}")
                )
            else:
                copies.append(
                    self.model.new_optional_fixed_size_interval_var(
                        begin + shift, length, presence, f"{name}+{shift}"
                    )
                )
        return copies

    def _unit(self) -> None:
        """Each unit's capacity at every slot."""
        instance, model, period = self.instance, self.model, self.interval
        intervals: dict[int, list[Any]] = {}
        demands: dict[int, list[int]] = {}
        constant: dict[int, int] = {}
        for o in range(instance.n):
            for k, offset, cycles, amount in instance.uses[o]:
                if instance.capacity[k] >= self._most(k):
                    continue
                whole, rest = divmod(cycles, period)
                constant[k] = constant.get(k, 0) + whole * amount
                if rest == 0:
                    continue
                begin = self.v.slot[o]
                if offset % period:
                    begin = model.new_int_var(0, period - 1, f"use {o}")
                    wrap = model.new_bool_var(f"wrap {o}")
                    model.add(begin == self.v.slot[o] + offset % period - period * wrap)
                intervals.setdefault(k, []).extend(self._circle(begin, rest, f"use {o} {k}"))
                demands.setdefault(k, []).extend([amount, amount])
        for k, listed in intervals.items():
            left = instance.capacity[k] - constant.get(k, 0)
            if left == 1:
                model.add_no_overlap(listed)
            else:
                model.add_cumulative(listed, demands[k], max(left, 0))
        for k, whole in constant.items():
            if whole > instance.capacity[k]:
                model.add_bool_or([])

    def _most(self, unit: int) -> int:
        """The most that could ever be in use of a unit at one slot."""
        return sum(
            amount * -(-cycles // self.interval)
            for rows in self.instance.uses
            for k, _, cycles, amount in rows
            if k == unit
        )

    # ------------------------------------------------------------------ blocking

    def _blocking(self) -> None:
        """While an operation is in its issue window, no wait of its group begins."""
        instance = self.instance
        always = set()
        maybe: dict[int, list[Term]] = {}
        for e, edge in enumerate(instance.problem.edges):
            u, w = int(instance.source[e]), int(instance.target[e])
            if edge.blocking:
                always.add(w)
            elif instance.spill[e]:
                same = self.same(u, w)
                if isinstance(same, int):
                    if not same:
                        always.add(w)
                else:
                    maybe.setdefault(w, []).append(same)
        for w in sorted(always | set(maybe)):
            waiting: Term = None
            if w not in always:
                # It waits exactly when one of its registers comes from another group.
                waiting = self.model.new_bool_var(f"waits {w}")
                for same in maybe[w]:
                    self.model.add_implication(same.negated(), waiting)
            for o in range(instance.n):
                if o != w and instance.issue[o] > 0:
                    self._window(w, o, waiting)

    def _window(self, w: int, o: int, waiting: Term) -> None:
        same = self.same(w, o)
        if isinstance(same, int):
            if not same:
                return
            conditions = []
        else:
            conditions = [same]
        if waiting is not None:
            conditions.append(waiting)
        cycles, period = self.instance.issue[o], self.interval
        if cycles >= period:
            if period > 1 or cycles > 0:
                self.model.add_bool_or([c.negated() for c in conditions])
            return
        gap = self.v.slot[w] - self.v.slot[o]
        wrapped = self.model.new_bool_var(f"wrap {w} {o}")
        self.model.add_linear_constraint(
            gap + period * wrapped, cycles, period - 1
        ).only_enforce_if(conditions)

    # ------------------------------------------------------------------ live ranges

    def lifetime(self, o: int) -> tuple[Term, Term, Term, int] | None:
        """Live range of a result: whole periods, a rest, the rest's end on the circle laid out,
        and the most whole periods possible; None without a use."""
        instance, model, period = self.instance, self.model, self.interval
        if not instance.life[o]:
            return None
        if o in self._life:
            return self._life[o]
        delays = direct_delays(instance, o)
        if self.linked:
            most = (self.horizon + period * max(u.distance for u in instance.life[o])) // period + 1
        else:
            most = 2 + max(
                (delays.get((u.target, u.distance, u.buffer), 0) + period) // period + 1
                for u in instance.life[o]
            )
            most += max(u.distance for u in instance.life[o])
        for use in instance.life[o]:
            if use.buffer >= 0:
                most += self.instance.problem.buffers[use.buffer].max_depth
        whole = model.new_int_var(0, most, f"periods {o}")
        rest = model.new_int_var(0, period - 1, f"rest {o}")
        for use in instance.life[o]:
            reach: Term = use.distance
            if use.buffer >= 0:
                reach = reach + self.v.depth[use.buffer]
            span = self._between(o, use.target, reach)
            if span is None:
                # Another part: some number of stages later, as long as the delay holds.
                least = delays.get((use.target, use.distance, use.buffer), 0)
                later = model.new_int_var(-1, most + 1, f"later {o} {use.target}")
                span = self.v.slot[use.target] - self.v.slot[o] + period * later
                model.add(span >= least)
            model.add(period * whole + rest >= span)
        end = model.new_int_var(0, 2 * period - 2, f"dead {o}")
        model.add(end == self.v.slot[o] + rest)
        self._life[o] = (whole, rest, end, most)
        return self._life[o]

    def _live_intervals(self, o: int, presence: Term = None) -> list[Any]:
        _, rest, end, _ = self._life[o]
        copies = []
        for shift in (0, self.interval):
            span = (self.v.slot[o] + shift, rest, end + shift)
            name = f"live {o} {shift}"
            if presence is None or isinstance(presence, int):
                copies.append(self.model.new_interval_var(*span, name))
            else:
                copies.append(self.model.new_optional_interval_var(*span, presence, name))
        return copies

    def _memory(self) -> None:
        """Shared and tensor memory: live results and whole rings within the capacity."""
        machine = self.instance.problem.machine
        self._capacity("smem", machine.smem_bytes, [o.smem_bytes for o in self._operations])
        self._capacity("tmem", machine.tmem_columns, [o.tmem_columns for o in self._operations])

    @property
    def _operations(self) -> tuple[Any, ...]:
        return self.instance.problem.operations

    def _variable(self, expression: Term, most: int) -> Term:
        """A variable equal to an expression within [0, most]; capacities must be variables."""
        room = self.model.new_int_var(0, most, "room")
        self.model.add(room == expression)
        return room

    def rings(self, memory: str) -> Term:
        problem = self.instance.problem
        return sum(
            b.size * d
            for b, d in zip(problem.buffers, self.v.depth, strict=True)
            if b.memory == memory and b.size
        )

    def _capacity(self, memory: str, limit: int | None, amounts: list[int]) -> None:
        if limit is None:
            return
        left: Term = limit - self.rings(memory)
        intervals, demands = [], []
        for o, amount in enumerate(amounts):
            if not amount:
                continue
            life = self.lifetime(o)
            if life is None:
                continue
            left = left - amount * life[0]
            copies = self._live_intervals(o)
            intervals += copies
            demands += [amount] * len(copies)
        if intervals:
            self.model.add_cumulative(intervals, demands, self._variable(left, limit))
        elif not isinstance(left, int):
            self.model.add(left >= 0)
        elif left < 0:
            self.model.add_bool_or([])

    def _registers(self) -> None:
        """Live words of every group within its warps' registers, and of all groups together."""
        instance, model = self.instance, self.model
        machine = instance.problem.machine
        holders = [
            o for o in range(instance.n) if self._operations[o].registers and instance.life[o]
        ]
        bound = machine.registers_per_warp
        file = machine.registers
        if bound is None and file is None:
            return
        peaks = []
        for g in range(instance.groups):
            intervals: list[Any] = []
            demands: list[int] = []
            held: list[Term] = []
            widest = max((o.min_warps for o in self._operations), default=1)
            limit = bound * widest if bound is not None else file
            if file is not None and limit is not None:
                limit = min(limit, file)
            assert limit is not None
            for o in holders:
                inside = self.v.member[o][g]
                if isinstance(inside, int) and not inside:
                    continue
                words = self._operations[o].registers
                life = self.lifetime(o)
                assert life is not None
                whole = life[0]
                if isinstance(inside, int):
                    held.append(words * whole)
                else:
                    most = min(life[3], limit // words)
                    gated = model.new_int_var(0, most, f"periods {o} {g}")
                    model.add(gated >= whole).only_enforce_if(inside)
                    held.append(words * gated)
                intervals += self._live_intervals(o, inside)
                demands += [words, words]
            if not intervals:
                continue
            peak = model.new_int_var(0, limit, f"peak {g}")
            model.add_cumulative(intervals, demands, self._variable(peak - sum(held), limit))
            peaks.append(peak)
            if bound is not None:
                self._width(g, peak, bound)
        if file is not None and peaks:
            model.add(sum(peaks) + self.rings("registers") <= file)

    def _widths(self) -> list[int]:
        return sorted({o.min_warps for o in self._operations})

    def _width(self, g: int, peak: Term, bound: int) -> None:
        """The peak of a group is within the registers of its widest operation's warps."""
        for width in self._widths()[:-1]:
            # Without a wider operation the group has no more registers than these warps.
            wider = [
                self.v.member[o][g]
                for o in range(self.instance.n)
                if self._operations[o].min_warps > width
            ]
            if any(isinstance(x, int) and x == 1 for x in wider):
                continue
            literals = [x for x in wider if not isinstance(x, int)]
            self.model.add(peak <= bound * width).only_enforce_if([x.negated() for x in literals])

    def _warps(self) -> None:
        """The groups' warps within the machine's."""
        limit = self.instance.problem.machine.max_warps
        if limit is None or limit >= self.instance.groups * self._widths()[-1]:
            return
        total: list[Term] = []
        previous = 0
        for width in self._widths():
            for g in range(self.instance.groups):
                members = [
                    self.v.member[o][g]
                    for o in range(self.instance.n)
                    if self._operations[o].min_warps >= width
                ]
                if any(isinstance(x, int) and x == 1 for x in members):
                    total.append(width - previous)
                    continue
                literals = [x for x in members if not isinstance(x, int)]
                if literals:
                    reaches = self.model.new_bool_var(f"width {g} {width}")
                    for x in literals:
                        self.model.add_implication(x, reaches)
                    total.append((width - previous) * reaches)
            previous = width
        self.model.add(sum(total) <= limit)

    # ------------------------------------------------------------------ solutions

    def slots(self, values: list[int]) -> Slots:
        """Read a solution, given as values by variable index."""

        def read(term: Term) -> int:
            return int(term) if isinstance(term, int) else values[term.index]

        grouped = self.instance.problem.grouped
        return Slots(
            slot=[read(x) for x in self.v.slot],
            stage=[read(x) for x in self.v.stage],
            group=[
                next(g for g, x in enumerate(row) if read(x)) if grouped else None
                for row in self.v.member or [[]] * self.instance.n
            ],
            depth=[read(d) for d in self.v.depth],
        )


def direct_delays(instance: Instance, o: int) -> dict[tuple[int, int, int], int]:
    """Delay of each edge that leaves an operation, by (target, distance, buffer)."""
    table: dict[tuple[int, int, int], int] = {}
    for e in np.flatnonzero(instance.source == o).tolist():
        key = (int(instance.target[e]), int(instance.distance[e]), int(instance.buffer[e]))
        table[key] = max(table.get(key, int(instance.delay[e])), int(instance.delay[e]))
    return table


def part_windows(instance: Instance, interval: int, reach: Ints) -> tuple[Ints, Ints] | None:
    """Earliest and latest start of every operation relative to its part's first member, whose
    start lies in ``[0, interval)``; None when a cycle has positive weight."""
    n = instance.n
    low = np.zeros(n, dtype=np.int64)
    high = np.full(n, interval - 1, dtype=np.int64)
    inside = instance.part[instance.source] == instance.part[instance.target]
    source, target = instance.source[inside], instance.target[inside]
    weight = (instance.delay - interval * reach)[inside]
    order = np.argsort(instance.part, kind="stable")
    counts = np.bincount(instance.part)
    at = 0
    far = -(2**60)
    edge_part = instance.part[source]
    for k, count in enumerate(counts.tolist()):
        members = order[at : at + count]
        at += count
        if count == 1:
            own = weight[(edge_part == k)]
            if len(own) and (own > 0).any():
                return None
            continue
        local = np.full(n, -1, dtype=np.int64)
        local[members] = np.arange(count)
        mine = edge_part == k
        s, t, w = local[source[mine]], local[target[mine]], weight[mine]
        for tails, heads, sign in ((s, t, 1), (t, s, -1)):
            value = np.full(count, far, dtype=np.int64)
            value[0] = 0
            for _ in range(count + 1):
                before = value.copy()
                reached = np.where(value[tails] == far, far, value[tails] + w)
                np.maximum.at(value, heads, reached)
                if (before == value).all():
                    break
            else:
                return None
            if value[0] > 0:
                return None
            if sign > 0:
                low[members] = value
            else:
                high[members] = interval - 1 - value
    return low, high
