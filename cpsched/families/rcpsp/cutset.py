"""Refuting a makespan by exact search over sets of started tasks, for small projects.

Breadth first, with cutset dominance (Demeulemeester and Herroelen 1992) and an energy bound per
state, from the project's start or from its end, whichever has fewer states. Where it ends it is
far faster than clause learning; where it does not, its states outgrow `STATES` and it gives up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.families.rcpsp.kernels_cutset import (
    ADDED,
    BITS,
    DEAD,
    PARENT,
    SLOTS,
    Plan,
    Scratch,
    expand,
)

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: Most states of one level, about 130 bytes each.
STATES = 1_500_000
#: States after which the direction is chosen.
PROBE = 20_000
#: Most tasks that may run at once.
PARALLEL = 24
#: States expanded between two looks at the clock, and counted seconds for one.
CHUNK, COST = 1_000, 8e-6


def applies(instance: Instance) -> bool:
    """Whether the search knows all rules of the instance."""
    return (
        instance.plain
        and instance.single_mode
        and 0 < instance.n <= 2 * BITS
        and not instance.edges[:, 3].any()
        and instance.horizon < 2**24
    )


def refute(
    instance: Instance, limit: int, run: Run, stop: Callable[[], bool]
) -> tuple[str, IntArray | None]:
    """Decide whether a schedule of at most that makespan exists.

    Returns
    -------
    status, start
        "INFEASIBLE", "FEASIBLE" with the starts (n,), or "UNKNOWN" when time or room ran out or
        ``stop`` said so.
    """
    sweeps = [Sweep(instance, limit, reverse) for reverse in (False, True)]
    while len(sweeps) == 2 and all(one.status is None for one in sweeps):
        for one in sweeps:
            one.advance()
            run.clock.spend(COST * CHUNK * jit.slowdown())
        if stop():
            return "UNKNOWN", None
        if max(one.total for one in sweeps) > PROBE:
            # Compare at the same level: the later one has had more time for its states to grow.
            level = min(one.level for one in sweeps)
            sweeps.sort(key=lambda one: one.sizes[level])
            del sweeps[1]
    chosen = next((one for one in sweeps if one.status not in (None, "UNKNOWN")), sweeps[0])
    while chosen.status is None:
        chosen.advance()
        run.clock.spend(COST * CHUNK * jit.slowdown())
        if stop():
            return "UNKNOWN", None
    return chosen.status, chosen.schedule() if chosen.status == "FEASIBLE" else None


class Sweep:
    """The search in one direction: ``status`` is None until it has ended."""

    def __init__(self, instance: Instance, limit: int, reverse: bool) -> None:
        self.limit, self.reverse = limit, reverse
        self.n = n = instance.n
        duration = instance.duration.copy()
        before = np.zeros(n, np.int64)
        for i, j in instance.edges[:, :2].tolist():
            i, j = (j, i) if reverse else (i, j)
            before[j] |= 1 << i
        head, tail = instance.head, instance.tail
        if reverse:
            head, tail = tail - duration, head + duration
        after = tail - duration
        self.plan = Plan(
            dur=duration,
            need=instance.demand,
            capacity=instance.capacity,
            before=before,
            head=head,
            latest=limit - tail,
            after=after,
            by_after=np.argsort(-after, kind="stable"),
        )
        resources = len(instance.capacity)
        self.scratch = Scratch(
            start=np.zeros(n, np.int64),
            rest=np.zeros(n, np.int64),
            work=np.zeros(resources, np.int64),
            times=np.zeros(PARALLEL + 2, np.int64),
            free=np.zeros((PARALLEL + 3, resources), np.int64),
        )
        self.status: str | None = None
        self.total = 0
        self.sizes = [1]
        self._history: list[NDArray[np.int32]] = []
        self._rows = np.zeros((1, SLOTS + PARALLEL), np.int32)
        self._next = 0
        self._open()

    @property
    def level(self) -> int:
        """How many levels are complete."""
        return len(self.sizes) - 1

    def _open(self) -> None:
        size = min(STATES, self.sizes[-1] * self.n) + 2
        self._into = np.empty((size, SLOTS + PARALLEL), np.int32)
        self._table = np.full(1 << (2 * size - 1).bit_length(), -1, np.int32)
        self._count = np.zeros(1, np.int64)

    def advance(self) -> None:
        """Expand up to `CHUNK` states."""
        present = self.sizes[-1]
        beyond = min(present, self._next + CHUNK)
        known = int(self._count[0])
        if not expand(
            self.plan,
            self.limit,
            self._rows,
            self._next,
            beyond,
            self._into,
            self._count,
            self._table,
            self.scratch,
            self.level + 1,
        ):
            self.status = "UNKNOWN"
            return
        self._next = beyond
        self.total += int(self._count[0]) - known
        if beyond < present:
            return
        size = int(self._count[0])
        self._history.append(self._into[:size, [PARENT, ADDED]].copy())
        self._rows, self._next = self._into, 0
        self.sizes.append(size)
        if size == 0:
            self.status = "INFEASIBLE"
        elif self.level == self.n:
            self.status = "FEASIBLE"
        else:
            self._open()

    def schedule(self) -> IntArray:
        """The starts (n,) of a schedule within the limit."""
        state = int(np.flatnonzero(self._rows[: self.sizes[-1], DEAD] == 0)[0])
        order: list[int] = []
        for steps in reversed(self._history):
            state, task = steps[state].tolist()
            order.append(task)
        start = np.zeros(self.n, np.int64)
        finish = np.zeros(self.n, np.int64)
        last, placed = 0, np.zeros(self.n, np.bool_)
        plan = self.plan
        for j in reversed(order):
            earlier = [i for i in np.flatnonzero(placed).tolist() if plan.before[j] >> i & 1]
            last = max([last, int(plan.head[j]), *finish[earlier].tolist()])
            while True:
                running = placed & (finish > last)
                if (plan.need[running].sum(0) + plan.need[j] <= plan.capacity).all():
                    break
                last = int(finish[running].min())
            start[j], finish[j], placed[j] = last, last + plan.dur[j], True
        return finish.max() - finish if self.reverse else start
