"""An allocation while it is searched for: greedy, branch-and-bound with restarts, perturbation."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from cpsched.core import jit
from cpsched.core.clock import Clock
from cpsched.families.memory import bnb
from cpsched.families.memory import kernels_search as kernels
from cpsched.families.memory.bound import loads
from cpsched.families.memory.check import overlapping
from cpsched.families.memory.greedy import (
    ORDERS,
    FirstFit,
    Skyline,
    Take,
    improve_order,
    online,
    stacked,
)
from cpsched.families.memory.prepare import FEW, UNLIMITED, Instance, Ints
from cpsched.families.memory.repack import NODES, Repacker
from cpsched.families.memory.subset_bound import Refuter
from cpsched.result import Bound

#: Pairs of neighbours up to which first fit and branch-and-bound are used.
MOST_NEIGHBOURS = 400_000

#: Orders of the branch-and-bound that are searched deeply: word of `order_by`, and whether parts
#: are ranked anew by their open load.
FIXED = (("TWA", True), ("TAW", False), ("ATW", False))

#: Where short searches aim: shares of the way from the goal to the best height.
AIMS = (0.0, 0.5, 0.75, 0.9)

#: Factor by which searches without compiled kernels are shorter.
COLD = 40

#: Steps of fewer seconds are begun even when the time is nearly up.
SHORT = 0.02


class Allocator:
    """What is known of one allocation while it is searched for.

    It works on offsets in units and knows nothing of objectives: it looks for a height of at most
    ``goal``, reports every better one to ``take``, and every proved bound, in bytes, to ``prove``.
    """

    def __init__(
        self,
        instance: Instance,
        clock: Clock,
        *,
        seed: int = 0,
        workers: int = 1,
        take: Take,
        prove: Callable[[Bound], object] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.instance, self.clock, self.workers = instance, clock, workers
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self._take, self._prove = take, prove
        self._stop = stop or (lambda: False)
        self.bound = max(instance.floor, int(loads(instance).max(initial=0)))
        self.goal = self.bound
        self._minimise = True
        self.best = UNLIMITED
        self.offsets: Ints | None = None
        self._lock = threading.Lock()
        self._refuter = Refuter(instance, clock, self._refuted)

    @cached_property
    def parts(self) -> bnb.Parts | None:
        """Sections and neighbours of the blocks that occupy something, or None when too many."""
        i = self.instance
        if len(i.piece_block) > 50_000:
            return None
        if _meetings(i) > MOST_NEIGHBOURS:
            return None
        return bnb.parts_of(
            i.size[self.active],
            i.modulus[self.active],
            i.residue[self.active],
            i.pin[self.active],
            self._local[i.piece_block],
            i.piece_start,
            i.piece_end,
            self.clock,
        )

    @cached_property
    def active(self) -> Ints:
        """Blocks that occupy something."""
        return np.flatnonzero(np.bincount(self.instance.piece_block, minlength=self.instance.n))

    @cached_property
    def _local(self) -> Ints:
        out = np.full(self.instance.n, -1, dtype=np.int64)
        out[self.active] = np.arange(len(self.active))
        return out

    def globally(self, offsets: Ints) -> Ints:
        """Offsets of the active blocks as offsets of all blocks."""
        out = np.where(self.instance.pin >= 0, self.instance.pin, self.instance.residue)
        out[self.active] = offsets
        return out

    def take(self, offsets: Ints, height: int, source: str) -> None:
        """Keep offsets of all blocks when they are the lowest so far, and report them."""
        height = max(height, self.instance.floor)
        with self._lock:
            if height < self.best:
                self.best, self.offsets = height, offsets.copy()
                self._take(self.offsets, height, source)

    def aim(self, height: int) -> None:
        """Be content with that height, and look for nothing between it and a higher one."""
        self.goal = max(self.goal, height)
        self._minimise = False

    def exhausted(self, limit: int) -> None:
        """No allocation of full rectangles within ``limit`` exists: aim higher.

        That bounds the height only when there is nothing but full rectangles.
        """
        with self._lock:
            self.goal = max(self.goal, limit + 1)
            if self.instance.simple and limit + 1 > self.bound:
                self.bound = limit + 1
                if self._prove is not None:
                    value = self.bound * self.instance.unit
                    self._prove(Bound(value, "branch-and-bound", "height"))

    def _refuted(self, value: int, data: dict[str, Any]) -> None:
        """Some buffers alone need a height of ``value`` bytes."""
        with self._lock:
            self.bound = max(self.bound, value // self.instance.unit)
            self.goal = max(self.goal, self.bound)
            if self._prove is not None:
                self._prove(Bound(value, "subset", "height", data))

    def refute(self, nodes: int, over: Callable[[], bool]) -> None:
        """Raise the bound by subsets of the buffers for about so many nodes."""
        unit = self.instance.unit
        # Within a capacity nothing but its refutation counts.
        bound = self.bound if self._minimise else self.goal
        upper = min(self.best, UNLIMITED // unit) if self._minimise else bound + 1
        if not jit.ready(self.clock.remaining()):
            nodes //= COLD
        self._refuter.run(nodes, max(50, min(2_000, nodes)), bound * unit, upper * unit, over)

    def done(self) -> bool:
        """Whether searching on is pointless."""
        return self.best <= self.goal or self._stop() or self.clock.expired()

    # ------------------------------------------------------------------ greedy

    def greedy(self) -> None:
        """First allocations: skylines, then first fit in several orders.

        Steps that would outlast the clock are left out: without compiled kernels a skyline of
        thousands of blocks takes seconds, and checking a schedule takes time too.
        """
        i = self.instance
        if i.n == 0 or len(self.active) == 0:
            self.take(self.globally(np.zeros(0, dtype=np.int64)), 0, "greedy:empty")
            return
        if self._pins_meet():
            return
        pinned = bool((i.pin >= 0).any())
        # Loading the compiled kernels takes a while: a first schedule comes before it when that
        # is cheap, and after it only when there is no time for the kernels.
        cold = jit.slowdown() > 1.0
        if i.n <= FEW and cold:
            self._first(pinned)
            if self.done():
                return
        compiled = jit.ready(self.clock.remaining())
        if i.n > FEW and not self._time_for(_check_seconds(i.n)):
            return
        if not pinned:
            if i.n > FEW and not compiled:
                self._first(pinned)
            self._first_skylines()
        if self.done():
            return
        if self.parts is None:
            if self.offsets is None:
                self.take(*stacked(i), "greedy:stacked")
            return
        fit = FirstFit(self.parts)
        for word in ORDERS:
            order = fit.by_word(word)
            for best in (False, True):
                if not self._time_for(fit.seconds * jit.slowdown()):
                    return
                off, height = fit.place(order, best=best)
                self.take(self.globally(off), height, f"greedy:first-fit-{word}")
                self.clock.spend(i.n * 1e-6)
                if self.done():
                    return

    def _first(self, pinned: bool) -> None:
        if pinned:
            self.take(*stacked(self.instance), "greedy:stacked")
        elif (found := online(self.instance, self.clock)) is not None:
            self.take(*found, "greedy:online")

    def _first_skylines(self) -> None:
        line = Skyline(self.instance)
        for score in line.scores:
            if not self._time_for(line.seconds):
                return
            off, height = line.place(score)
            self.take(off, height, f"greedy:skyline-{score}")
            self.clock.spend(self.instance.n * 1e-6)
            if self.done():
                return

    def _time_for(self, seconds: float) -> bool:
        """Whether a step that looks at no clock and takes that long may begin."""
        return seconds < SHORT or seconds < 0.8 * self.clock.remaining()

    def _pins_meet(self) -> bool:
        """Whether pinned blocks overlap as full rectangles: then only the model can help."""
        i = self.instance
        pinned = np.flatnonzero(i.pin[i.piece_block] >= 0)
        blocks = i.piece_block[pinned]
        rows = zip(
            i.piece_start[pinned].tolist(),
            i.piece_end[pinned].tolist(),
            i.pin[blocks].tolist(),
            (i.pin + i.size)[blocks].tolist(),
            blocks.tolist(),
            strict=True,
        )
        rectangles = list(rows)
        found = overlapping(rectangles, self.clock.check)
        return any(rectangles[a][4] != rectangles[b][4] for a, b in found)

    # ------------------------------------------------------------------ search

    def search(self, seconds: float = math.inf) -> None:
        """Branch-and-bound with restarts over the workers, then perturbation, until done."""
        if self.done() or self._pins_meet():
            return
        stop_at = self.clock.remaining() - seconds
        jit.ready(self.clock.remaining())

        def over() -> bool:
            return self.done() or self.clock.remaining() <= stop_at

        if self.parts is None:
            self._skylines(over)
            return
        if self.parts.n > bnb.MOST_BLOCKS:
            self._perturb(over)
            return
        width = 1 if self.clock.deterministic else max(1, self.workers)
        if width == 1:
            self._restarts(0, over)
            return
        threads = [
            threading.Thread(target=self._restarts, args=(k, over), daemon=True)
            for k in range(1, width)
        ]
        for thread in threads:
            thread.start()
        self._restarts(0, over)
        for thread in threads:
            thread.join()

    def _restarts(self, k: int, over: Callable[[], bool]) -> None:
        """Run the k-th of several streams of searches.

        Half of the time of every other stream goes to a few fixed orders, whose searches are
        continued with growing limits, the rest to short searches by orders that are learned from
        where earlier ones failed, and shaken. The first stream also raises the bound, and where a
        height is to be least the best allocation is repacked.
        """
        assert self.parts is not None
        parts = self.parts
        rng = np.random.default_rng(self.seed + 1_000_003 * k)
        blame = np.zeros(len(parts.live_at) - 1)
        deep: list[bnb.Search] = []
        restarts = 0
        packer, repacking = self._repacker(rng), 1.0
        base = 8 if self._minimise else 32
        for turn in itertools.count():
            # Cold kernels run interpreted until the background compiler is through; a node then
            # takes a tenth of a millisecond and more, by the blocks that it looks at.
            warm = jit.ready(self.clock.remaining())
            step = 2_000 if warm else 50 if parts.n <= 500 else 2
            share = base * step * 4 ** min(10, turn // len(FIXED))
            if k % 2 == 0:
                self._deepen(deep, turn, share, step, over)
                # Within a capacity most instances are settled before subsets could refute it.
                if k == 0 and (self._minimise or turn >= len(FIXED)):
                    self.refute(share // 4, over)
            if self._minimise and packer.pays:
                before = self.best
                self._repack(packer, round(share * repacking), over)
                # Where it does not pay it gets less.
                change = 2.0 if self.best < before else 0.5
                repacking = min(1.0, max(0.2, change * repacking))
            spent = 0
            while spent < share:
                if over():
                    return
                restarts += 1
                target = self._target(AIMS[int(rng.integers(len(AIMS)))])
                rank = bnb.learned(parts, blame, rng, 0.1 if k % 2 else 0.25)
                search = bnb.Search(parts, target, rank)
                if not self._run(search, step * _luby(restarts), step, over):
                    blame = 0.7 * blame + search.blame / max(1, int(search.blame.sum()))
                spent += search.nodes + step // 10

    def _repacker(self, rng: np.random.Generator) -> Repacker:
        i = self.instance
        assert self.parts is not None
        block = self._local[i.piece_block]
        return Repacker(self.parts, block, i.piece_start, i.piece_end, self.clock, rng)

    def _repack(self, packer: Repacker, nodes: int, over: Callable[[], bool]) -> None:
        """Lower the best allocation by ejections and repacked windows, for so much work."""
        end = packer.work + nodes
        packer.nodes = NODES if jit.ready(self.clock.remaining()) else NODES // COLD
        while packer.work < end and not over() and self.offsets is not None:
            found = packer.lower(self.offsets[self.active], self.goal, over)
            if found is not None:
                height = int((found + packer.parts.size).max())
                self.take(self.globally(found), height, "repack")

    def _target(self, share: float) -> int:
        """A height to aim at: a share of the way from the goal to below the best."""
        goal = self.goal
        if self.best >= UNLIMITED or not self._minimise:
            return goal
        return goal + max(0, int((self.best - 1 - goal) * share))

    def _deepen(
        self,
        deep: list[bnb.Search],
        turn: int,
        share: int,
        step: int,
        over: Callable[[], bool],
    ) -> None:
        """Continue the search by the next of the fixed orders."""
        assert self.parts is not None
        word, dynamic = FIXED[turn % len(FIXED)]
        nth = turn % len(FIXED)
        if turn < len(FIXED):
            rank = bnb.order_by(self.parts, word)
            target = self._target(0.25 * nth)
            deep.append(bnb.Search(self.parts, target, rank, dynamic=dynamic))
        search = deep[nth]
        if not self.goal <= search.capacity < self.best:
            # Proved impossible or reached by another search: start this one afresh.
            target = self._target(0.25 * nth)
            search = deep[nth] = bnb.Search(self.parts, target, search.rank, dynamic=dynamic)
        self._run(search, search.nodes + share, step, over)

    def _run(self, search: bnb.Search, budget: int, step: int, over: Callable[[], bool]) -> bool:
        """Continue a search up to ``budget`` nodes; whether it came to an end."""
        assert self.parts is not None
        while search.nodes < budget and not over():
            answer = search.run(step)
            self.clock.spend(step * bnb.SECONDS_PER_NODE)
            if answer == kernels.SOLVED:
                height = int((search.offsets + self.parts.size).max())
                self.take(self.globally(search.offsets), height, "branch-and-bound")
                return True
            if answer == kernels.EXHAUSTED:
                self.exhausted(search.capacity)
                return True
        return False

    def _skylines(self, over: Callable[[], bool]) -> None:
        """Skylines with shaken scores, as long as there is surely time for one more."""
        if (self.instance.pin >= 0).any():
            return
        line = Skyline(self.instance)
        # Checking a schedule takes longer than making it.
        cost = max(_check_seconds(self.instance.n), line.seconds)
        while not over() and self.clock.wall_remaining() > 3.0 * cost:
            started = time.perf_counter()
            off, height = line.place(str(self.rng.choice(["duration", "periods"])), self.rng)
            self.take(off, height, "greedy:skyline-shaken")
            cost = max(cost, time.perf_counter() - started)
            self.clock.spend(1e-5 * self.instance.n)

    def _perturb(self, over: Callable[[], bool]) -> None:
        assert self.parts is not None
        fit = FirstFit(self.parts)
        if not self._time_for(2.0 * fit.seconds * jit.slowdown()):
            return
        packer = self._repacker(self.rng)
        order = fit.by_word("SW")
        _, height = fit.place(order)
        while not over():
            self.refute(5_000, over)
            if self._minimise and packer.pays:
                self._repack(packer, 100_000, over)
            order, height = improve_order(
                fit,
                order,
                height,
                self.goal,
                self.rng,
                self.clock,
                lambda off, reached, who: self.take(self.globally(off), reached, who),
                over,
                200,
            )


def _check_seconds(n: int) -> float:
    """About the seconds that making and checking a schedule of so many blocks takes."""
    return float(2.2e-5 * n * max(1.0, n / 10_000) ** 0.25)


def _meetings(instance: Instance) -> int:
    """Number of pairs of pieces whose times meet."""
    starts = np.sort(instance.piece_start)
    stops = np.searchsorted(starts, instance.piece_end, side="left")
    begun = np.searchsorted(starts, instance.piece_start, side="right")
    return int((stops - begun).sum()) + len(starts)


def _luby(i: int) -> int:
    """The i-th term of Luby's sequence 1 1 2 1 1 2 4 ..."""
    while True:
        k = i.bit_length()
        if i == (1 << k) - 1:
            return 1 << (k - 1)
        i -= (1 << (k - 1)) - 1
