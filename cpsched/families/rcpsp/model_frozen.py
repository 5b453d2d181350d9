"""Parts of a schedule that the CP-SAT model keeps: what neighbourhoods of any problem need.

Kept tasks stay in their modes and in their order on every resource and in every group; their times
may change. All other tasks are free, whatever the rules of the problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.families.rcpsp.schedule import State

if TYPE_CHECKING:
    from cpsched.families.rcpsp.instance import Instance
    from cpsched.families.rcpsp.model import Model

BoolArray = NDArray[np.bool_]

#: Tasks of one resource of larger capacity whose order is kept, at most.
MOST = 400


class Frozen:
    """A schedule of which some tasks are free, (n,); facts are kept."""

    def __init__(self, instance: Instance, state: State, free: BoolArray) -> None:
        self.instance, self.state, self.free = instance, state, free

    def line(self, resource: int) -> list[int]:
        """Kept tasks that hold a resource for some time, by start."""
        s, inst = self.state, self.instance
        modes = np.array(s.mode)
        on = ~self.free & (modes >= 0)
        on[on] = inst.holds[modes[on], resource]
        return sorted(np.flatnonzero(on).tolist(), key=lambda i: (s.start[i], s.end[i], i))

    def followers(self, resource: int, nodes: Sequence[tuple[int, int]]) -> list[list[int]]:
        """Positions of the tasks and modes that may come right after each on a machine.

        A kept task comes before a free one or before the next kept one.
        """
        free = [a for a, (i, _) in enumerate(nodes) if self.free[i]]
        kept = {
            i: a for a, (i, m) in enumerate(nodes) if not self.free[i] and self.state.mode[i] == m
        }
        after = dict(pairwise(self.line(resource)))
        rows: list[list[int]] = []
        for a, (i, _) in enumerate(nodes):
            if self.free[i]:
                rows.append([*free, *kept.values()])
            elif kept.get(i) == a:
                rows.append([*free, kept[after[i]]] if i in after else free)
            else:
                rows.append([])
        return rows

    def together(self, i: int, j: int) -> bool:
        """Whether both tasks are kept."""
        return not self.free[i] and not self.free[j]

    def post(self, model: Model) -> None:
        """Keep what is kept."""
        inst, s = self.instance, self.state
        for i in np.flatnonzero(~self.free).tolist():
            here = model.first_of(s.mode[i])
            for m, literal in model.chosen[i].items():
                if literal is not None:
                    model.cp.add(literal == (m == here))
            present = model.present[i]
            if present is not None and not model.chosen[i]:
                model.cp.add(present == (s.mode[i] >= 0))
        batches = {batch.resource for batch in inst.shop.batches}
        for r, capacity in enumerate(inst.base.tolist()):
            line = self.line(r)
            if r in batches:
                self._keep_batches(model, line)
            elif capacity == 1:
                for i, j in pairwise(line):
                    self._before(model, i, j)
            elif len(line) <= MOST:
                self._keep_order(model, line)
        for group in inst.disjunctive:
            own = [i for i in group if not self.free[i] and s.end[i] > s.start[i]]
            for i, j in pairwise(sorted(own, key=lambda i: s.start[i])):
                model.cp.add(model.start[j] >= model.end[i])

    def _released(self, i: int) -> int:
        taker = int(self.instance.blocks_until[i])
        if taker < 0 or self.state.mode[taker] < 0:
            return self.state.end[i]
        return max(self.state.end[i], self.state.start[taker])

    def _before(self, model: Model, i: int, j: int) -> None:
        """``j`` starts when ``i`` has left, where the schedule has it so."""
        if self._released(i) <= self.state.start[j] and not self.instance.fixed[j]:
            model.cp.add(model.start[j] >= model.free(i))

    def _keep_batches(self, model: Model, line: list[int]) -> None:
        s = self.state
        batches: list[list[int]] = []
        for i in line:
            if batches and s.start[batches[-1][0]] == s.start[i]:
                batches[-1].append(i)
                if not (self.instance.fixed[i] and self.instance.fixed[batches[-1][0]]):
                    model.cp.add(model.start[i] == model.start[batches[-1][0]])
            else:
                batches.append([i])
        for before, after in pairwise(batches):
            for i in before:
                self._before(model, i, after[0])

    def _keep_order(self, model: Model, line: list[int]) -> None:
        """Whoever had left before another came still does; pairs that follow are left out."""
        start = np.array([self.state.start[i] for i in line], np.int64)
        left = np.array([self._released(i) for i in line], np.int64)
        for b, j in enumerate(line):
            gone = np.flatnonzero(left <= start[b])
            gone = gone[gone != b]
            if len(gone):
                latest = int(start[gone].max())
                for a in gone[left[gone] > latest].tolist():
                    self._before(model, line[a], j)
