"""Greedy allocations: orders for first fit, skylines over time, and their perturbations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cpsched.core.clock import Clock
from cpsched.families.memory import kernels_fit as kernels
from cpsched.families.memory.bnb import Parts, order_by
from cpsched.families.memory.prepare import UNLIMITED, Instance, Ints

#: Receives offsets in units, the height they reach, and who found them.
Take = Callable[[Ints, int, str], object]

#: Estimated seconds of one compiled step, for deterministic runs.
SECONDS_PER_STEP = 2e-8

#: Words of `order_by` whose first-fit placements are tried first.
ORDERS = ("SW", "AS", "WS", "TSW", "NS", "TAW", "TWA")


def stacked(instance: Instance) -> tuple[Ints, int]:
    """Every block in a place of its own: always valid, never good."""
    off = instance.pin.copy()
    placed = off >= 0
    place = int((off + instance.size)[placed].max(initial=0))
    for b in range(instance.n):
        if off[b] >= 0:
            continue
        modulus, residue = int(instance.modulus[b]), int(instance.residue[b])
        off[b] = place + (residue - place) % modulus
        place = int(off[b] + instance.size[b])
    return off, int((off + instance.size).max(initial=0))


class Skyline:
    """Skyline placements of an instance without pins (gaps count as occupied)."""

    def __init__(self, instance: Instance) -> None:
        self._order = np.lexsort([-instance.size, instance.start])
        self._order = self._order[instance.size[self._order] > 0]
        o = self._order
        self._arrays = [
            np.ascontiguousarray(a[o])
            for a in (
                instance.start,
                instance.end,
                instance.size,
                instance.modulus,
                instance.residue,
            )
        ]
        self._periods = int(instance.end.max(initial=0))
        self._n = instance.n
        width = (instance.times[instance.end[o]] - instance.times[instance.start[o]]).astype(float)
        size = instance.size[o].astype(float)
        self.scores = {
            "duration": width,
            "area": width * size,
            "size": size,
            "periods": (instance.end[o] - instance.start[o]).astype(float),
        }

    def place(self, score: str, rng: np.random.Generator | None = None) -> tuple[Ints, int]:
        """Offsets and height with a score, multiplied by noise when ``rng`` is given."""
        values = self.scores[score]
        if rng is not None:
            values = values * np.exp(rng.normal(0.0, rng.choice([0.02, 0.1, 0.3]), len(values)))
        off = np.full(len(self._order), -1, dtype=np.int64)
        start, end, size, modulus, residue = self._arrays
        height = kernels.skyline(self._periods, start, end, size, modulus, residue, values, off)
        out = np.zeros(self._n, dtype=np.int64)
        out[self._order] = off
        return out, int(height)


class FirstFit:
    """First-fit placements of plain blocks in any order."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._low = np.zeros(parts.n, dtype=np.int64)
        self._high = np.zeros(parts.n, dtype=np.int64)

    def place(self, order: Ints, *, best: bool = False, limit: int = UNLIMITED) -> tuple[Ints, int]:
        """Offsets and height of the placement in that order."""
        p = self.parts
        off = np.empty(p.n, dtype=np.int64)
        height = kernels.first_fit(
            order,
            best,
            limit,
            p.size,
            p.modulus,
            p.residue,
            p.pin,
            p.near_at,
            p.near,
            off,
            self._low,
            self._high,
        )
        return off, int(height)

    def by_word(self, word: str) -> Ints:
        """The order of `order_by`'s ranks."""
        return np.argsort(order_by(self.parts, word))


def improve_order(
    fit: FirstFit,
    order: Ints,
    height: int,
    goal: int,
    rng: np.random.Generator,
    clock: Clock,
    take: Take,
    stop: Callable[[], bool],
    rounds: int,
) -> tuple[Ints, int]:
    """Perturb a first-fit order: what ends highest moves forward, a few blocks change places.

    Sideways moves are kept, so that the walk leaves plateaus.
    """
    n = len(order)
    steps = (len(fit.parts.near) + n) * SECONDS_PER_STEP
    off, _ = fit.place(order)
    for _ in range(rounds):
        if clock.expired() or stop() or height <= goal:
            break
        clock.spend(steps)
        trial = order.copy()
        position = np.empty(n, dtype=np.int64)
        position[trial] = np.arange(n)
        tops = np.flatnonzero(off + fit.parts.size >= height)
        moved = int(rng.choice(tops)) if len(tops) and rng.random() < 0.7 else int(rng.integers(n))
        here = int(position[moved])
        there = int(rng.integers(0, here + 1)) if rng.random() < 0.8 else int(rng.integers(n))
        trial = np.insert(np.delete(trial, here), there, moved)
        if rng.random() < 0.3:
            i, j = rng.integers(0, n, 2)
            trial[i], trial[j] = trial[j], trial[i]
        new, reached = fit.place(trial, limit=height)
        if reached <= height:
            if reached < height:
                take(new, reached, "greedy:perturbed")
            order, off, height = trial, new, reached
    return order, height
