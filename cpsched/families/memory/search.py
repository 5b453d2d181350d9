"""The steps of the pipeline for the allocation form; exact models where blocks are not plain."""

from __future__ import annotations

import threading

import numpy as np

from cpsched.core import engine
from cpsched.core.exact import Built, solve_levels
from cpsched.core.run import Run
from cpsched.families.memory import bnb
from cpsched.families.memory.allocator import Allocator
from cpsched.families.memory.bound import allocation_bound, size_bound
from cpsched.families.memory.greedy import FirstFit, stacked
from cpsched.families.memory.neighbourhoods import Around
from cpsched.families.memory.prepare import UNLIMITED, Ints, prepare
from cpsched.families.memory.problem import MemoryProblem, MemorySchedule
from cpsched.result import Bound

#: Blocks from which on neighbourhoods pay: fewer are searched whole.
FEWEST = 20

#: Seconds that must be left for them: CP-SAT has to be loaded.
LEAST_SECONDS = 2.0


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

    def _prove(self, bound: int) -> None:
        if bound > self.instance.capacity:
            self.run.claim_infeasible("branch-and-bound", "no allocation fits within the capacity")
        elif self.minimise:
            value = bound * self.instance.unit
            self.run.raise_bound(Bound(value, "branch-and-bound", "height"))

    def bounds(self) -> None:
        """The load bound; infeasible when it exceeds the capacity."""
        bound = allocation_bound(self.instance)
        if self.minimise:
            self.run.raise_bound(bound)
            if self.instance.floor * self.instance.unit > bound.value:
                self.run.raise_bound(size_bound(self.instance.problem))

    def greedy(self) -> None:
        """Skylines and first fits, within milliseconds for usual sizes; the load bound first."""
        self.bounds()
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
        """Branch-and-bound where blocks are plain, else CP-SAT; see `Allocator.search`.

        A height that is to be least is improved in neighbourhoods of the incumbent besides.
        """
        if not self.instance.simple:
            self.allocator.search(seconds=0.2 * self.run.clock.remaining())
            self._search_model()
            return
        if not self.minimise or not FEWEST <= self.instance.n <= bnb.MOST_BLOCKS:
            self.allocator.search()
            return
        # Most instances are settled soon by the branch-and-bound alone.
        self.allocator.search(seconds=0.2 * self.run.clock.remaining())
        if self.allocator.done():
            return
        if self.run.clock.remaining() < LEAST_SECONDS or not engine.ready(self.run.clock):
            self.allocator.search()
            return
        around = Around(self.run, self.instance, self.allocator.done)
        if self.run.workers == 1 or self.run.deterministic:
            while not self.allocator.done():
                around.search(seconds=0.2 * self.run.clock.remaining() + 0.1)
                self.allocator.search(seconds=0.2 * self.run.clock.remaining() + 0.1)
            return
        self.allocator.workers = self.run.workers - 1
        thread = threading.Thread(target=self.allocator.search, daemon=True)
        thread.start()
        around.search()
        thread.join()

    def _search_model(self) -> None:
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

        solve_levels(run, build)
