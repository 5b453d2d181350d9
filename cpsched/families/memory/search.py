"""The steps of the pipeline for the allocation form; exact models where blocks are not plain."""

from __future__ import annotations

import math

import numpy as np

from cpsched.core import engine
from cpsched.core.exact import Built, solve_levels
from cpsched.core.run import Run
from cpsched.families.memory.allocator import Allocator
from cpsched.families.memory.bound import allocation_bound, size_bound
from cpsched.families.memory.greedy import FirstFit, stacked
from cpsched.families.memory.prepare import UNLIMITED, Ints, prepare
from cpsched.families.memory.problem import MemoryProblem, MemorySchedule
from cpsched.result import Bound

#: Blocks up to which the bounds step looks at subsets.
MOST_LOOKED_AT = 20_000
#: Up to so many blocks CP-SAT gets so many seconds before the approximate searches.
FEW, AT_ONCE = 30, 0.2


class AllocationSolver:
    """The steps of the pipeline for the allocation form."""

    def __init__(self, problem: MemoryProblem, run: Run) -> None:
        self.run = run
        self.instance = prepare(problem, run.clock)
        self.minimise = any(o.name == "height" for o in run.objectives)
        self.allocator = Allocator(
            self.instance,
            run.clock,
            seed=run.seed,
            workers=run.workers,
            take=self._take,
            prove=self._prove,
            stop=run.done,
        )
        if not self.minimise:
            self.allocator.aim(self.instance.capacity)

    def _take(self, offsets: Ints, height: int, source: str) -> None:
        if height <= self.instance.capacity:
            values = (height * self.instance.unit,) if self.minimise else None
            self.run.offer(lambda: self.instance.schedule(offsets), source, values)

    def _prove(self, bound: Bound) -> None:
        if bound.value > self.instance.capacity * self.instance.unit:
            who = "some buffers alone do not fit" if bound.argument == "subset" else "nothing fits"
            self.run.claim_infeasible(bound.argument, f"{who} within the capacity")
        elif self.minimise:
            self.run.raise_bound(bound)

    def bounds(self) -> None:
        """The load bound and, without a search to come, the bound by subsets.

        Infeasible when one exceeds the capacity.
        """
        self._load_bound()
        # With an allocation at hand the search raises the bound as it goes.
        if self.minimise and self.run.incumbent is None and self.instance.n <= MOST_LOOKED_AT:
            stop_at = 0.5 * self.run.clock.remaining() if self.run.clock.limit < math.inf else 0.0
            self.allocator.refute(
                100_000,
                lambda: self.allocator.done() or self.run.clock.remaining() <= stop_at,
            )

    def _load_bound(self) -> None:
        bound = allocation_bound(self.instance)
        if self.minimise:
            self.run.raise_bound(bound)
            if self.instance.floor * self.instance.unit > bound.value:
                self.run.raise_bound(size_bound(self.instance.problem))

    def greedy(self) -> None:
        """Skylines and first fits, within milliseconds for usual sizes; the load bound first."""
        self._load_bound()
        self.allocator.greedy()

    def repair(self, schedule: MemorySchedule) -> None:
        """First fit in the order of the given offsets."""
        parts = self.allocator.parts
        if parts is None:
            return
        given = self.instance.offsets(schedule)[self.allocator.active]
        order = np.lexsort([-parts.size, np.where(given >= 0, given, UNLIMITED)])
        off, height = FirstFit(parts).place(order)
        self.allocator.take(self.allocator.globally(off), height, "repair")

    def search(self) -> None:
        """Branch-and-bound where blocks are plain, else CP-SAT; see `Allocator.search`."""
        if self.instance.simple:
            self.allocator.search()
            return
        left = self.run.clock.remaining()
        if self.instance.n <= FEW:
            self._search_model(min(AT_ONCE, 0.2 * left))
        self.allocator.search(seconds=0.2 * left)
        self._search_model()

    def _search_model(self, seconds: float = math.inf) -> None:
        """CP-SAT: exact for windows and in-place reuse, which the others only approximate."""
        from cpsched.families.memory.model import MOST_PAIRS, AllocationModel, meeting_pairs

        instance, run = self.instance, self.run
        if not engine.ready(run.clock):
            return
        pairs = meeting_pairs(instance, run.clock)
        if len(pairs) > MOST_PAIRS:
            return
        least = -(-int(allocation_bound(instance).value) // instance.unit)

        def build(level: int) -> Built:
            hint = None
            limit = instance.capacity
            if run.incumbent is not None:
                hint = instance.offsets(run.incumbent.schedule)
                if self.minimise:
                    limit = min(limit, int(run.incumbent.values[0]) // instance.unit)
            elif limit >= UNLIMITED:
                _, limit = stacked(instance)
            return AllocationModel(instance, limit, pairs, run.clock).build(
                minimise=self.minimise, least=least, hint=hint
            )

        solve_levels(run, build, seconds=seconds)
