"""Index-based form of a problem: integer arrays and its recurrences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cpsched.errors import Infeasible
from cpsched.families.kernel.graph import longest, strong_parts
from cpsched.families.kernel.intervals import minimal_interval
from cpsched.families.kernel.live import LiveUses, live_uses
from cpsched.families.kernel.modes import in_mode, in_modes, modes_of
from cpsched.families.kernel.problem import KernelProblem, Operation, extra_delay

if TYPE_CHECKING:
    from cpsched.core.run import Run

Ints = npt.NDArray[np.int64]
#: Up to this many operations a schedule follows within a tenth of a second, even if time is up.
PATIENT = 2000
#: An interval longer than any length.
FAR = 10**9
#: A run of a reservation table by indices: unit, start, cycles, amount.
Reservation = tuple[int, int, int, int]


@dataclass(frozen=True)
class LifeUse:
    """A use that keeps a value live: ``start(target) + distance * II`` (and a buffer's depth)."""

    target: int
    distance: int
    buffer: int


@dataclass(frozen=True)
class Choice:
    """One mode of an operation.

    ``latency`` counts in the length (the issue cycle at least), ``extra`` in the delay of every
    edge that leaves, ``spill`` in that of true ones into another group.
    """

    latency: int
    issue: int
    extra: int
    spill: int
    uses: tuple[Reservation, ...]
    warps: int
    registers: int
    smem: int
    tmem: int


@dataclass
class Instance:
    """A problem by indices.

    ``modes[o]`` are an operation's ways to execute; ``latency``, ``delay`` and ``crossing`` take
    the least over them, so that they bound every choice, and are exact where there is one.
    Edges are parallel arrays (``source, target, delay, distance``); ``buffer`` is the index of the
    edge's ring or -1, ``crossing`` the extra delay when its ends are in different groups and
    ``spill`` the part of it that goes through registers. For pairs that are in different groups in
    every schedule (``apart``) it is part of ``delay`` already. ``part[v]`` is an operation's
    strongly connected part, and ``cyclic[v]`` whether that part has a cycle.

    ``problem`` is ``original`` in the modes ``chosen``, one by operation; both are the same as long
    as modes are to be chosen. ``possible`` is False when the chosen modes close a positive cycle
    within one iteration.
    """

    problem: KernelProblem
    original: KernelProblem
    chosen: list[int]
    ids: list[str]
    modes: list[tuple[Choice, ...]]
    capacity: list[int]
    source: Ints
    target: Ints
    delay: Ints
    distance: Ints
    buffer: Ints
    crossing: Ints
    spill: Ints
    part: Ints
    cyclic: npt.NDArray[np.bool_]
    live: LiveUses
    groups: int
    apart: set[tuple[int, int]] = field(default_factory=set)
    res_mii: int = 1
    rec_mii: int = 1
    binding_units: dict[str, int] = field(default_factory=dict)
    binding_cycle: list[int] = field(default_factory=list)
    possible: bool = True
    _resolved: dict[tuple[int, ...], Instance] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of operations."""
        return len(self.ids)

    @property
    def mii(self) -> int:
        """The minimal initiation interval: the larger of the two bounds."""
        return max(self.res_mii, self.rec_mii)

    @cached_property
    def latency(self) -> Ints:
        """Least cycles until each operation's completion."""
        return np.array([min(m.latency for m in modes) for modes in self.modes], dtype=np.int64)

    @cached_property
    def longest_delay(self) -> Ints:
        """The most that each edge's delay can be, in any mode and across groups."""
        signal = self.problem.machine.signal_cost if self.problem.grouped else 0
        longest = [
            e.delay + signal + max(m.extra + m.spill for m in self.modes[u])
            for e, u in zip(self.problem.edges, self.source.tolist(), strict=True)
        ]
        return np.array(longest, dtype=np.int64)

    @cached_property
    def uses(self) -> list[tuple[Reservation, ...]]:
        """Reservation runs of each operation, in its first mode."""
        return [modes[0].uses for modes in self.modes]

    @cached_property
    def issue(self) -> list[int]:
        """Issue cycles of each operation, in its first mode."""
        return [modes[0].issue for modes in self.modes]

    @cached_property
    def life(self) -> list[list[LifeUse]]:
        """The uses that keep each operation's result live."""
        found: list[set[tuple[int, int, int]]] = [set() for _ in self.ids]
        live = self.live
        for owner, *use in zip(
            *(a.tolist() for a in (live.owner, live.reader, live.distance, live.buffer)),
            strict=True,
        ):
            found[owner].add((use[0], use[1], use[2]))
        return [[LifeUse(*use) for use in sorted(uses)] for uses in found]

    @property
    def multiple(self) -> bool:
        """Whether an operation has modes to choose from."""
        return any(len(modes) > 1 for modes in self.modes)

    def resolve(self, modes: Sequence[int]) -> Instance:
        """The instance with one mode per operation; itself when there is nothing to choose."""
        if not any(o.modes for o in self.problem.operations):
            return self
        key = tuple(modes)
        if key not in self._resolved:
            if len(self._resolved) > 64:
                self._resolved.clear()
            chosen = dict(zip(self.ids, key, strict=True))
            found = index(in_modes(self.problem, chosen))
            found.original, found.chosen = self.original, list(key)
            try:
                minimal_interval(found)
            except Infeasible:
                found.possible = False
            self._resolved[key] = found
        return self._resolved[key]

    def depth_bonus(self, largest: bool = True) -> Ints:
        """Depth added to each edge's distance by its ring, at its largest or smallest."""
        if not self.problem.buffers:
            return np.zeros(len(self.source), dtype=np.int64)
        depths = [b.max_depth if largest else b.min_depth for b in self.problem.buffers]
        table = np.array([*depths, 0], dtype=np.int64)
        return table[self.buffer]

    def reach(self, largest: bool = True) -> Ints:
        """Iteration distance of each edge with its ring's depth."""
        return self.distance + self.depth_bonus(largest)


def prepare(problem: KernelProblem, run: Run) -> Instance:
    """Index a problem and compute its minimal interval.

    Raises
    ------
    Infeasible
        When the interval's limit is below the bound, or a cycle can never hold.
    """
    instance = index(problem)
    if instance.n > PATIENT:
        run.clock.check()
    minimal_interval(instance)
    limit = problem.max_initiation_interval
    if limit is not None and instance.mii > limit:
        raise Infeasible(why_not(instance, limit), "minimal-interval")
    if problem.max_length is not None:
        # At an interval this long only the dependences within the iteration are left.
        tail = longest_paths(instance, FAR, instance.reach(), to=True, seed=instance.latency)
        if tail is not None and tail.max() > problem.max_length:
            raise Infeasible(
                f"the dependences of one iteration need a length of at least {tail.max()}, "
                f"{problem.max_length} is allowed",
                "critical-path",
            )
    return instance


def why_not(instance: Instance, limit: int) -> str:
    """The sentence that says why no interval up to ``limit`` is possible."""
    if instance.res_mii > limit:
        units = list(instance.binding_units)
        what = f"unit {units[0]} needs" if len(units) == 1 else f"units {', '.join(units)} need"
        return f"{what} an initiation interval of at least {instance.res_mii}, {limit} is allowed"
    path = " -> ".join(cycle_names(instance))
    return (
        f"the recurrence {path} needs an initiation interval of at least {instance.rec_mii}, "
        f"{limit} is allowed"
    )


def cycle_names(instance: Instance) -> list[str]:
    """Ids along the binding recurrence, the first repeated at the end."""
    edges = instance.binding_cycle
    if not edges:
        return []
    names = [instance.ids[instance.source[e]] for e in edges]
    return [*names, names[0]]


def index(problem: KernelProblem) -> Instance:
    """The index-based form, without the minimal interval."""
    ids = [o.id for o in problem.operations]
    position = {name: k for k, name in enumerate(ids)}
    machine = problem.machine
    unit_at = {name: k for k, u in enumerate(machine.units) for name in (u.name, *u.aliases)}
    ring = {b.name: k for k, b in enumerate(problem.buffers)}
    modes = [
        tuple(_choice(problem, o, k, unit_at) for k in range(len(modes_of(o))))
        for o in problem.operations
    ]
    ends = [(position[e.source], position[e.target]) for e in problem.edges]
    least_extra = [min(m.extra for m in listed) for listed in modes]
    delay = [e.delay + least_extra[u] for e, (u, _) in zip(problem.edges, ends, strict=True)]
    spill, crossing = [0] * len(ends), [0] * len(ends)
    apart: set[tuple[int, int]] = set()
    if problem.grouped:
        least_spill = [min(m.spill for m in listed) for listed in modes]
        apart = never_together(problem, modes, ends)
        for k, (e, (u, w)) in enumerate(zip(problem.edges, ends, strict=True)):
            spill[k] = least_spill[u] if e.kind == "true" else 0
            crossing[k] = spill[k] + machine.signal_cost
            if (u, w) in apart:
                delay[k] += crossing[k]
                crossing[k] = 0
    source, target = np.array(ends or [(0, 0)], dtype=np.int64)[: len(ends)].T
    part, cyclic = _parts(len(ids), ends)
    return Instance(
        problem=problem,
        original=problem,
        chosen=[0] * len(ids),
        ids=ids,
        modes=modes,
        capacity=[u.capacity for u in machine.units],
        source=source,
        target=target,
        delay=np.array(delay, dtype=np.int64),
        distance=np.array([e.distance for e in problem.edges], dtype=np.int64),
        buffer=np.array(
            [ring[e.buffer] if e.buffer is not None else -1 for e in problem.edges], dtype=np.int64
        ),
        crossing=np.array(crossing, dtype=np.int64),
        spill=np.array(spill, dtype=np.int64),
        part=part,
        cyclic=cyclic,
        live=live_uses(problem),
        groups=problem.group_count,
        apart=apart,
    )


def _choice(
    problem: KernelProblem, operation: Operation, mode: int, unit_at: dict[str, int]
) -> Choice:
    extra = 0
    o = operation
    if operation.modes:
        o = in_mode(operation, operation.modes[mode])
        extra = extra_delay(operation, operation.modes[mode])
    return Choice(
        latency=max(1, o.latency),
        issue=o.issue_cycles,
        extra=extra,
        spill=problem.spill_cost(o) if problem.grouped else 0,
        uses=tuple((unit_at[u.unit], u.start, u.cycles, u.amount) for u in o.uses),
        warps=o.min_warps,
        registers=o.registers,
        smem=o.smem_bytes,
        tmem=o.tmem_columns,
    )


def never_together(
    problem: KernelProblem, modes: list[tuple[Choice, ...]], ends: list[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Pairs of operations that no schedule puts into one group, in both orders.

    The ends of an edge between the producer group and another; and two results that are live
    together in every schedule and need more registers than the widest group has: the second is
    made from the first, and a later operation reads both.
    """
    operations = problem.operations
    out: set[tuple[int, int]] = set()
    for u, w in ends:
        if operations[u].variable_latency != operations[w].variable_latency:
            out |= {(u, w), (w, u)}
    per_warp = problem.machine.registers_per_warp
    if per_warp is None:
        return out
    limit = per_warp * max(m.warps for listed in modes for m in listed)
    words = [min(m.registers for m in listed) for listed in modes]
    extra = [min(m.extra for m in listed) for listed in modes]
    readers: dict[int, dict[int, int]] = {}
    for e, (u, w) in zip(problem.edges, ends, strict=True):
        delay = e.delay + extra[u]
        if e.kind == "true" and e.distance == 0 and e.buffer is None and delay >= 0:
            row = readers.setdefault(u, {})
            row[w] = max(row.get(w, 0), delay)
    for u, row in readers.items():
        for w in row:
            # From w's issue until x's, a positive time, both results are live.
            both = any(delay > 0 and x in row for x, delay in readers.get(w, {}).items())
            if both and words[u] + words[w] > limit:
                out |= {(u, w), (w, u)}
    return out


def _parts(n: int, ends: list[tuple[int, int]]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Strongly connected part of every node, numbered in topological order, and whether the node
    lies on a cycle (self-loops included)."""
    part = np.zeros(n, dtype=np.int64)
    cyclic = np.zeros(n, dtype=np.bool_)
    for k, members in enumerate(strong_parts(n, ends)):
        part[members] = k
        cyclic[members] = len(members) > 1
    cyclic[[u for u, w in ends if u == w]] = True
    return part, cyclic


def longest_paths(
    instance: Instance, interval: int, reach: Ints, *, to: bool = False, seed: Ints | None = None
) -> Ints | None:
    """Longest path weight into every operation at an interval, never below its seed (zero).

    Parameters
    ----------
    to
        Weights of the paths that leave each operation instead.

    Returns
    -------
    array or None
        None when a cycle has positive weight.
    """
    weight = instance.delay - interval * reach
    tails, heads = instance.source, instance.target
    if to:
        tails, heads = heads, tails
    return longest(instance.n, tails, heads, weight, seed)


def has_live_limits(instance: Instance) -> bool:
    """Whether a limit on live results couples recurrences; without one, slots are enough."""
    problem = instance.problem
    machine = problem.machine
    if problem.max_length is not None:
        return True
    return any(
        (m.smem and machine.smem_bytes is not None)
        or (m.tmem and machine.tmem_columns is not None)
        or (problem.grouped and m.registers)
        for modes in instance.modes
        for m in modes
    )
