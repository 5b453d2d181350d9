"""The instance: a problem with indices for names, as everything but the checker sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.families.rcpsp.profile import Piece, Span, breaks_of
from cpsched.families.rcpsp.rules_shop import SetupRule, ShopRules

if TYPE_CHECKING:
    from cpsched.families.rcpsp.problem import RcpspProblem

IntArray = NDArray[np.int64]

#: Stands for "no maximum lag" and "no deadline" in arrays.
FAR = 2**60
#: Sums of times, and of times and units, stay below this, so that 64 bits hold them.
LARGEST_SUM = 2**53

#: Type codes of `Instance.edges`.
EDGE_TYPES = ("end-start", "start-start", "end-end", "start-end")


@dataclass(frozen=True)
class Reservoir:
    """A reservoir with indices: events are rows (task, amount, at end), levels stay in range."""

    name: str
    initial: int
    minimum: int
    maximum: int | None
    events: IntArray

    def holds(self, level: int) -> bool:
        """Whether a level lies in the range."""
        return level >= self.minimum and (self.maximum is None or level <= self.maximum)


@dataclass(frozen=True)
class Chosen:
    """A selection with indices for names; ``condition`` is -1 without one."""

    type: str
    tasks: tuple[int, ...]
    condition: int


@dataclass(frozen=True)
class Instance:
    """An RCPSP with indices for names.

    With n tasks, M modes over all tasks, R renewable and K nonrenewable resources:

    Attributes
    ----------
    mode_start : (n + 1,)
        Modes of task i are ``mode_start[i] .. mode_start[i + 1] - 1``. Modes that can never be
        used are still listed; ``mode_usable`` masks them. An optional task may have none left: it
        is absent from every schedule.
    duration : (M,)
    demand : (M, R)
        Units of renewable resources; 0 for modes without a duration.
    consumption : (M, K)
        Units of nonrenewable resources.
    capacity : (R,)
        Largest capacity over time of each renewable resource.
    budget : (K,)
    edges : (E, 5)
        Generalized precedences: before, after, type (0 end-start, 1 start-start, 2 end-end,
        3 start-end), minimum lag (``-FAR`` for none), maximum lag (``FAR`` for none). Edges that
        follow from others are left out.
    release, deadline, due, weight, earliness_weight : (n,)
        ``deadline`` and ``due`` are ``FAR`` where there is none. Deadlines include the problem's
        horizon and what follows from the deadlines of other tasks.
    optional, pausable : (n,) bool
    head, tail : (n,)
        Earliest start, and least time from the task's start to the project's end, by longest
        paths over minimum lags with shortest durations.
    horizon
        No schedule worth considering ends later.
    plain
        Only end-start minimum lags, no calendars, reservoirs, setups, optional, disjunctive or
        blocking tasks, deadlines or releases that bind: what the array kernels handle directly.
    renewable, nonrenewable
        Names of the resources in the order of the columns.
    profiles
        Per renewable resource the pieces ``(start, end, capacity)``, sorted and disjoint, in which
        the capacity is not ``base[r]``.
    base : (R,)
        Ordinary capacity of each renewable resource, outside its pieces.
    blocks_until : (n,)
        The task until whose start a task keeps its resources, or -1.
    fixed : (n,) bool
        Facts. They hold nothing here: ``demand`` of their modes is 0, the profiles are less.
    holds : (M, R) bool
        Which modes hold which renewable resource for some time, those of facts included.
    shop
        Rules of shops beyond setups and blocking.
    """

    problem: RcpspProblem
    objectives: tuple[str, ...]
    ids: tuple[str, ...]
    mode_start: IntArray
    duration: IntArray
    demand: IntArray
    consumption: IntArray
    mode_usable: NDArray[np.bool_]
    capacity: IntArray
    budget: IntArray
    edges: IntArray
    release: IntArray
    deadline: IntArray
    due: IntArray
    weight: IntArray
    earliness_weight: IntArray
    optional: NDArray[np.bool_]
    pausable: NDArray[np.bool_]
    head: IntArray
    tail: IntArray
    horizon: int
    plain: bool
    extras: dict[str, Any]
    renewable: tuple[str, ...]
    nonrenewable: tuple[str, ...]
    base: IntArray
    profiles: tuple[tuple[Piece, ...], ...]
    reservoirs: tuple[Reservoir, ...]
    disjunctive: tuple[tuple[int, ...], ...]
    selections: tuple[Chosen, ...]
    blocks_until: IntArray
    setups: tuple[SetupRule, ...]
    fixed: NDArray[np.bool_]
    holds: NDArray[np.bool_]
    shop: ShopRules

    @property
    def by_lists(self) -> bool:
        """Whether the list kernels know all rules: no blocking, no setups, no `ShopRules`."""
        return not self.setups and not self.shop and bool((self.blocks_until < 0).all())

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.ids)

    @property
    def single_mode(self) -> bool:
        """Whether every task has exactly one mode."""
        return len(self.duration) == self.n

    def modes(self, task: int) -> list[int]:
        """The usable modes of a task, as indices into the mode arrays."""
        first, last = int(self.mode_start[task]), int(self.mode_start[task + 1])
        return [m for m in range(first, last) if self.mode_usable[m]]

    def breaks(self, task: int, mode: int) -> list[Span]:
        """The breaks in which a pausable task rests in that mode (none when not pausable)."""
        if not self.pausable[task] or not self.duration[mode]:
            return []
        held = np.flatnonzero(self.demand[mode]).tolist()
        return self.breaks_of([r for r in held if self.profiles[r]])

    def breaks_of(self, resources: Sequence[int]) -> list[Span]:
        """The times in which one of these renewable resources has no capacity."""
        known: dict[tuple[int, ...], list[Span]] = self.extras.setdefault("breaks", {})
        held = tuple(resources)
        if held not in known:
            named = {str(r): list(self.profiles[r]) for r in held}
            known[held] = breaks_of(named, named)
        return known[held]
