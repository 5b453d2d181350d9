"""Greedy allocations: orders for first fit, skylines over time, and their perturbations."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from heapq import heappop, heappush

import numpy as np

from cpsched.core import jit
from cpsched.core.clock import Clock
from cpsched.families.memory import kernels_fit as kernels
from cpsched.families.memory.bnb import Parts, order_by
from cpsched.families.memory.prepare import FEW, UNLIMITED, Instance, Ints

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


def online(instance: Instance, clock: Clock) -> tuple[Ints, int] | None:
    """Blocks in order of their start, each into the smallest free hole, as `malloc` would.

    About n log n steps without compiled code. No pins. None when many blocks are out of time.
    """
    n = instance.n
    size, end = instance.size.tolist(), instance.end.tolist()
    modulus, residue = instance.modulus.tolist(), instance.residue.tolist()
    off = [0] * n
    by_size: list[tuple[int, int]] = []
    at_low: dict[int, int] = {}
    at_high: dict[int, int] = {}
    top = 0
    living: list[tuple[int, int]] = []

    def give(low: int, high: int) -> None:
        if low < high:
            insort(by_size, (high - low, low))
            at_low[low], at_high[high] = high, low

    def take(low: int, high: int) -> None:
        by_size.pop(bisect_left(by_size, (high - low, low)))
        del at_low[low], at_high[high]

    for count, b in enumerate(np.argsort(instance.start, kind="stable").tolist()):
        if n > FEW and count % 512 == 0 and clock.expired():
            return None
        if size[b] == 0:
            off[b] = residue[b]
            continue
        while living and living[0][0] <= instance.start[b]:
            _, gone = heappop(living)
            low, high = off[gone], off[gone] + size[gone]
            if low in at_high:
                before = at_high[low]
                take(before, low)
                low = before
            if high in at_low:
                after = at_low[high]
                take(high, after)
                high = after
            give(low, high)
        place = -1
        for length, low in by_size[bisect_left(by_size, (size[b], 0)) :][:8]:
            start = low + (residue[b] - low) % modulus[b]
            if start + size[b] <= low + length:
                place = start
                break
        if place >= 0:
            high = at_low[low]
            take(low, high)
        else:
            low = top
            if top in at_high:
                low = at_high[top]
                take(low, top)
            place = low + (residue[b] - low) % modulus[b]
            high = max(top, place + size[b])
            top = high
        give(low, place)
        give(place + size[b], high)
        off[b] = place
        heappush(living, (end[b], b))
    return np.array(off, dtype=np.int64), top


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

    @property
    def seconds(self) -> float:
        """Estimated seconds of one placement: valleys are searched block by block."""
        n = self._n
        return 6e-6 * n if jit.slowdown() == 1.0 else 1e-4 * n * max(1.0, n / 1000) ** 0.4

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
        #: Estimated seconds of one compiled placement.
        self.seconds = (len(parts.near) + parts.n) * SECONDS_PER_STEP
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
    off, _ = fit.place(order)
    for _ in range(rounds):
        if stop() or height <= goal or clock.remaining() < fit.seconds * jit.slowdown():
            break
        clock.spend(fit.seconds)
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
