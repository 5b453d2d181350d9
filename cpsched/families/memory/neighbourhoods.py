"""Neighbourhoods of an allocation: free the blocks around its summits, keep the rest in place."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np

from cpsched.core import lns
from cpsched.core.run import Run
from cpsched.families.memory.model import AllocationModel, meeting_pairs
from cpsched.families.memory.prepare import Instance
from cpsched.families.memory.problem import MemorySchedule

#: Pairs of pieces up to which models of neighbourhoods are built.
MOST_PAIRS = 30_000


class Around:
    """Large-neighbourhood search for lower heights, with CP-SAT on the free blocks.

    Whatever ends above the height aimed at is free in every neighbourhood, so that an answer is an
    improvement; around those summits blocks are freed by the time they share, by the space they
    share, or at random.
    """

    def __init__(self, run: Run, instance: Instance, stop: Callable[[], bool]) -> None:
        self.run, self.instance, self._stop = run, instance, stop
        self.pairs = meeting_pairs(instance, run.clock)

    def search(self, seconds: float = math.inf) -> None:
        """Improve the incumbent until the run is done or the seconds have passed."""
        if self.run.incumbent is None or len(self.pairs) > MOST_PAIRS:
            return
        lns.search(
            self.run,
            [
                lns.Neighbourhood("time", self._by_time, 0.25),
                lns.Neighbourhood("summit", self._by_summit, 0.25),
                lns.Neighbourhood("random", self._by_chance, 0.2),
            ],
            workers=1,
            call_seconds=1.0,
            seconds=seconds,
            stop_when=self._stop,
        )

    def _by_time(
        self, schedule: MemorySchedule, size: float, rng: random.Random
    ) -> lns.SubModel | None:
        """Free what is alive nearest to the time of a summit."""
        i = self.instance
        summit = rng.choice(self._summits(schedule))
        middle = rng.uniform(float(i.start[summit]), float(i.end[summit]))
        distance = np.maximum(i.start - middle, middle - i.end).astype(float)
        return self._sub(schedule, size, np.maximum(distance, 0.0), rng)

    def _by_summit(
        self, schedule: MemorySchedule, size: float, rng: random.Random
    ) -> lns.SubModel | None:
        """Free what shares time with a summit, from the top downwards."""
        i = self.instance
        off = i.offsets(schedule)
        summit = rng.choice(self._summits(schedule))
        apart = (i.start >= i.end[summit]) | (i.end <= i.start[summit])
        best = float((off + i.size).max())
        return self._sub(schedule, size, best - (off + i.size) + 2.0 * best * apart, rng)

    def _by_chance(
        self, schedule: MemorySchedule, size: float, rng: random.Random
    ) -> lns.SubModel | None:
        """Free random blocks."""
        return self._sub(schedule, size, np.zeros(self.instance.n), rng)

    def _summits(self, schedule: MemorySchedule) -> list[int]:
        top = self.instance.offsets(schedule) + self.instance.size
        return [int(b) for b in np.flatnonzero(top >= top.max())]

    def _sub(
        self,
        schedule: MemorySchedule,
        size: float,
        distance: np.ndarray[tuple[int], np.dtype[np.float64]],
        rng: random.Random,
    ) -> lns.SubModel | None:
        """The model in which the nearest blocks are free and the height must be lower."""
        i, run = self.instance, self.run
        off = i.offsets(schedule)
        limit = int((off + i.size).max()) - 1
        bound = run.bound()
        least = 0 if bound is None else -(-int(bound) // i.unit)
        noise = np.array([rng.random() for _ in range(i.n)])
        order = np.lexsort([noise, distance + noise * max(1.0, 0.2 * float(distance.std()))])
        free = np.zeros(i.n, dtype=np.bool_)
        free[order[: max(6, round(size * i.n))]] = True
        free |= off + i.size > limit
        free &= i.pin < 0
        model = AllocationModel(i, limit, self.pairs, run.clock, np.where(free, -1, off))
        if (model.fixed + i.size > limit).any() or least > limit:
            return None
        built = model.build(minimise=True, least=least, hint=None)
        return lns.SubModel(built.model, built.extract)
