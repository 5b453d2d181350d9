"""The CP-SAT model of a loop at one initiation interval.

Starts are split as ``start = slot + II * stage``. Resources, windows and live ranges repeat every
II cycles, so they look at slots alone: an interval of the circle ``[0, II)`` is laid out twice,
II apart. The model comes in two forms:

- *linked*: every dependence holds between starts within a horizon, the largest length allowed.
  Its solutions are schedules.
- *loose*: dependences hold within each recurrence (strongly connected part) only; between parts,
  a later one may always start more stages later, so nothing is lost but the agreement of live
  ranges on how many. There is no horizon, hence its infeasibility proves the interval impossible,
  and without live ranges its solutions become schedules by a longest path.

Each constraint is one function, named like its rule in the checker: those of time and units are
here, those of warp groups in `model_groups`, those of live results in `model_memory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from cpsched.core.clock import Clock
from cpsched.families.kernel import model_groups, model_memory
from cpsched.families.kernel.prepare import Choice, Instance, Ints, longest_paths

#: A linear expression, a variable or a constant.
Term = Any


@dataclass
class Slots:
    """What a solution decides: slots, stages (within parts when loose), groups, modes, depths."""

    slot: list[int]
    stage: list[int]
    group: list[int | None]
    mode: list[int]
    depth: list[int]


@dataclass
class Variables:
    """Solver variables by operation; constants where nothing is to decide.

    ``mode[o]`` and ``member[o]`` have one literal for each mode and each group.
    """

    slot: list[Term]
    stage: list[Term]
    mode: list[list[Term]]
    member: list[list[Term]] = field(default_factory=list)
    depth: list[Term] = field(default_factory=list)
    used: list[Term] = field(default_factory=list)


class KernelModel:
    """One interval's model; solve it through the engine and read it with `slots`.

    ``possible`` is False when it has no solution by arithmetic alone.
    """

    def __init__(
        self,
        instance: Instance,
        interval: int,
        clock: Clock,
        *,
        linked: bool = True,
        horizon: int = 0,
    ) -> None:
        self.instance, self.interval, self.clock = instance, interval, clock
        self.linked, self.horizon = linked, horizon
        self.model = cp_model.CpModel()
        self.life: dict[int, model_memory.Life] = {}
        self._same: dict[tuple[int, int], Term] = {}
        self._both: dict[tuple[int, int], Term] = {}
        n = instance.n
        self.v = Variables([0] * n, [0] * n, [])
        self.possible = self._starts()
        if not self.possible:
            self.model.add_bool_or([])
            return
        self._mode()
        self._length()
        grouped = instance.problem.grouped
        if grouped:
            model_groups.groups(self)
        self._dependence()
        clock.check()
        self._unit()
        if grouped:
            model_groups.blocking(self)
            clock.check()
        model_memory.memory(self)
        if grouped:
            model_memory.registers(self)
            model_groups.warps(self)
        clock.check()

    # ------------------------------------------------------------------ variables

    def _starts(self) -> bool:
        """Slots and stages; False when a recurrence cannot hold at this interval."""
        instance, period, model, v = self.instance, self.interval, self.model, self.v
        reach = instance.reach()
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
            self.low, self.high = head, self.horizon - tail
        else:
            windows = part_windows(instance, period, reach)
            if windows is None:
                return False
            self.low, self.high = windows
        if (self.low > self.high).any():
            return False
        for o in range(instance.n):
            v.slot[o] = model.new_int_var(0, period - 1, f"slot {o}")
            first, last = int(self.low[o]) // period, int(self.high[o]) // period
            v.stage[o] = first if first == last else model.new_int_var(first, last, f"stage {o}")
            if self.linked or int(self.high[o]) - int(self.low[o]) < 2 * period:
                model.add_linear_constraint(self.start(o), int(self.low[o]), int(self.high[o]))
        if not self.linked:
            # Every constraint is invariant under rotation, so one operation's slot may be fixed.
            model.add(v.slot[self.anchor()] == 0)
        return True

    def anchor(self) -> int:
        """The operation whose slot is fixed: the longest user of a unit."""
        modes = self.instance.modes
        busy = [max(sum(c for _, _, c, _ in m.uses) for m in listed) for listed in modes]
        return max(range(self.instance.n), key=lambda o: (busy[o], -o))

    def start(self, o: int) -> Term:
        """Start of an operation in iteration 0."""
        return self.v.slot[o] + self.interval * self.v.stage[o]

    def between(self, u: int, w: int, distance: Term) -> Term | None:
        """Cycles from u's start to w's, ``distance`` iterations later; None when free."""
        instance = self.instance
        if not self.linked and instance.part[u] != instance.part[w]:
            return None
        return self.start(w) - self.start(u) + self.interval * distance

    def variable(self, expression: Term, most: int) -> Term:
        """A variable equal to an expression within [0, most]; capacities must be variables."""
        room = self.model.new_int_var(0, most, "room")
        self.model.add(room == expression)
        return room

    # ------------------------------------------------------------------ literals

    def _mode(self) -> None:
        """Each operation executes in exactly one of its modes."""
        for o, modes in enumerate(self.instance.modes):
            row: list[Term] = [1]
            if len(modes) > 1:
                row = [self.model.new_bool_var(f"mode {o} {k}") for k in range(len(modes))]
                self.model.add_exactly_one(row)
            self.v.mode.append(row)

    def _length(self) -> None:
        """Every operation completes within the horizon; its start's range knows the fastest mode
        only."""
        for o, modes in enumerate(self.instance.modes):
            latency = [c.latency for c in modes]
            if self.linked and max(latency) > min(latency):
                self.model.add(self.start(o) + self.by_mode(o, latency) <= self.horizon)

    def in_modes(self, o: int) -> list[tuple[Term, Choice]]:
        """Each mode of an operation behind its literal."""
        return list(zip(self.v.mode[o], self.instance.modes[o], strict=True))

    def by_mode(self, o: int, values: Sequence[int]) -> Term:
        """The value of the operation's mode."""
        if len(set(values)) == 1:
            return values[0]
        return sum(x * value for x, value in zip(self.v.mode[o], values, strict=True))

    def with_mode(self, o: int, chosen: Sequence[bool]) -> list[Term]:
        """Literals that together say that the operation's mode is a chosen one: none when no mode
        is, the constant 1 when all are."""
        if all(chosen):
            return [1]
        return [x for x, yes in zip(self.v.mode[o], chosen, strict=True) if yes]

    def both(self, a: Term, b: Term) -> Term:
        """Literal: two literals hold."""
        if isinstance(a, int):
            return b if a else 0
        if isinstance(b, int):
            return a if b else 0
        key = (min(a.index, b.index), max(a.index, b.index))
        if key not in self._both:
            both = self.model.new_bool_var(f"both {key}")
            self.model.add_bool_or([a.negated(), b.negated(), both])
            self.model.add_implication(both, a)
            self.model.add_implication(both, b)
            self._both[key] = both
        return self._both[key]

    def same(self, u: int, w: int) -> Term:
        """Literal: two operations are in one group."""
        if u == w:
            return 1
        key = (min(u, w), max(u, w))
        if key not in self._same:
            self._same[key] = model_groups.same(self, *key)
        return self._same[key]

    # ------------------------------------------------------------------ time and units

    def _dependence(self) -> None:
        """Every edge, with spill and signal delays when its ends are in different groups."""
        instance, problem = self.instance, self.instance.problem
        seen: dict[tuple[int, int, int, int, bool], int] = {}
        for e, edge in enumerate(problem.edges):
            key = (
                int(instance.source[e]),
                int(instance.target[e]),
                edge.distance,
                int(instance.buffer[e]),
                edge.kind == "true",
            )
            seen[key] = max(seen.get(key, edge.delay), edge.delay)
        for (u, w, distance, b, true), delay in seen.items():
            span = self.between(u, w, distance if b < 0 else distance + self.v.depth[b])
            if span is None:
                continue
            modes = instance.modes[u]
            self.model.add(span >= self.by_mode(u, [delay + m.extra for m in modes]))
            if not problem.grouped:
                continue
            signal = problem.machine.signal_cost
            crossing = [signal + (m.spill if true else 0) for m in modes]
            if not any(crossing):
                continue
            same = 0 if (u, w) in instance.apart else self.same(u, w)
            longer = [delay + m.extra + c for m, c in zip(modes, crossing, strict=True)]
            if isinstance(same, int):
                if not same:
                    self.model.add(span >= self.by_mode(u, longer))
            else:
                self.model.add(span >= self.by_mode(u, longer)).only_enforce_if(same.negated())

    def circle(
        self, begin: Term, length: int, name: str, presence: Term = 1
    ) -> list[cp_model.IntervalVar]:
        """The two copies of a fixed-length interval of the circle."""
        model = self.model
        copies = []
        for shift in (0, self.interval):
            label = f"{name}+{shift}"
            if isinstance(presence, int):
                copies.append(model.new_fixed_size_interval_var(begin + shift, length, label))
            else:
                copies.append(
                    model.new_optional_fixed_size_interval_var(
                        begin + shift, length, presence, label
                    )
                )
        return copies

    def _unit(self) -> None:
        """Each unit's capacity at every slot."""
        for unit, capacity in enumerate(self.instance.capacity):
            rows = [
                (o, x, use)
                for o in range(self.instance.n)
                for x, mode in self.in_modes(o)
                for use in mode.uses
                if use[0] == unit
            ]
            if capacity < sum(amount * -(-c // self.interval) for _, _, (_, _, c, amount) in rows):
                self._capacity(capacity, rows)

    def _capacity(self, capacity: int, rows: list[tuple[int, Term, Any]]) -> None:
        period = self.interval
        intervals: list[Any] = []
        demands: list[int] = []
        left: Term = capacity
        work: Term = 0
        optional = False
        for o, x, (_, offset, cycles, amount) in rows:
            whole, rest = divmod(cycles, period)
            left = left - whole * amount * x
            work = work + cycles * amount * x
            optional = optional or not isinstance(x, int)
            if rest == 0:
                continue
            begin = self.v.slot[o]
            if offset % period:
                begin = self.model.new_int_var(0, period - 1, f"use {o}")
                wrap = self.model.new_bool_var(f"wrap {o}")
                self.model.add(begin == self.v.slot[o] + offset % period - period * wrap)
            intervals += self.circle(begin, rest, f"use {o}", x)
            demands += [amount, amount]
        if optional:
            # Redundant: the work of a period fits the unit, whichever modes do it.
            self.model.add(work <= capacity * period)
        if isinstance(left, int):
            if left < 0:
                self.model.add_bool_or([])
            elif left == 1:
                self.model.add_no_overlap(intervals)
            else:
                self.model.add_cumulative(intervals, demands, left)
        else:
            self.model.add_cumulative(intervals, demands, self.variable(left, capacity))

    # ------------------------------------------------------------------ solutions

    def slots(self, values: list[int]) -> Slots:
        """Read a solution, given as values by variable index."""

        def read(term: Term) -> int:
            return int(term) if isinstance(term, int) else values[term.index]

        def which(row: list[Term]) -> int:
            return next(k for k, x in enumerate(row) if read(x))

        return Slots(
            slot=[read(x) for x in self.v.slot],
            stage=[read(x) for x in self.v.stage],
            group=[which(row) for row in self.v.member] or [None] * self.instance.n,
            mode=[which(row) for row in self.v.mode],
            depth=[read(d) for d in self.v.depth],
        )


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
