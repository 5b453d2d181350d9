"""Ejections and repacked windows: lower an allocation block by block.

A height is aimed at, and the blocks that end above it lose their place. One by one they get a new
one: a free hole; or a few blocks around are taken out and packed again by the branch-and-bound
with the rest pinned; or they eject what is in their way and seems easiest to place elsewhere,
judged by how often that failed before (guided ejection search, after Nagata and Braysy 2009).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cpsched.core.clock import Clock
from cpsched.families.memory import bnb
from cpsched.families.memory import kernels_search as kernels
from cpsched.families.memory.prepare import Ints

#: Nodes of the branch-and-bound for one window, compiled.
NODES = 1_500

#: Mean number of neighbours up to which windows are small parts of an instance.
MOST_NEIGHBOURS = 60

#: Work per block of making a window, in nodes.
PART = 30

#: Blocks of a window: the first number, the least and the most.
BLOCKS = (16.0, 6.0, 60.0)

#: Steps towards a height before a nearer one is aimed at.
PATIENCE = 60


class Repacker:
    """One walk over partial allocations of plain blocks, given as `bnb.Parts` and their pieces."""

    def __init__(
        self,
        parts: bnb.Parts,
        piece_block: Ints,
        piece_start: Ints,
        piece_end: Ints,
        clock: Clock,
        rng: np.random.Generator,
    ) -> None:
        self.parts, self.clock, self.rng = parts, clock, rng
        self._pieces = piece_block, piece_start, piece_end
        self._start = np.full(parts.n, np.iinfo(np.int64).max)
        self._end = np.zeros(parts.n, dtype=np.int64)
        np.minimum.at(self._start, piece_block, piece_start)
        np.maximum.at(self._end, piece_block, piece_end)
        self._free = parts.pin < 0
        self._failed = np.ones(parts.n)
        self._size = BLOCKS[0]
        #: Nodes of the branch-and-bound for one window.
        self.nodes = NODES
        #: Work done so far, in nodes of the branch-and-bound.
        self.work = 0
        #: How far below the given height to aim, as a share of the way to the goal.
        self._share = 0.5

    @property
    def pays(self) -> bool:
        """Whether windows are worth while: where most blocks meet, they pin nearly everything."""
        return len(self.parts.near) <= MOST_NEIGHBOURS * self.parts.n

    def lower(self, offsets: Ints, goal: int, over: Callable[[], bool]) -> Ints | None:
        """Lower offsets than the given ones, at best of height ``goal``; None when not found."""
        height = int((offsets + self.parts.size).max())
        target = max(goal, height - max(1, round((height - goal) * self._share)))
        found = self._reach(offsets, target, over)
        self._share = min(0.7, 1.5 * self._share) if found is not None else 0.8 * self._share
        return found

    def _reach(self, offsets: Ints, target: int, over: Callable[[], bool]) -> Ints | None:
        off = offsets.copy()
        self._spend(PART)
        off[(off + self.parts.size > target) & self._free] = -1
        waiting = np.flatnonzero(off < 0).tolist()
        self.rng.shuffle(waiting)
        if (off + self.parts.size).max() > target or (self.parts.size > target).any():
            return None
        for _ in range(PATIENCE):
            if not waiting:
                return off
            if over():
                return None
            b = waiting.pop()
            hole, ejected = self._hole(b, off, target)
            if hole < 0:
                self._failed[b] += 1
                waiting.append(b)
                continue
            if len(ejected) == 0:
                off[b] = hole
                continue
            if self._window(b, off, target):
                continue
            self._failed[b] += 1
            off[ejected] = -1
            off[b] = hole
            waiting += ejected.tolist()
            self._window(-1, off, target)
        return None

    def _hole(self, b: int, off: Ints, target: int) -> tuple[int, Ints]:
        """The offset for a block at which what it must eject fails least often; and that."""
        p = self.parts
        self._spend(PART)
        near = p.near[p.near_at[b] : p.near_at[b + 1]]
        near = near[off[near] >= 0]
        low, high = off[near], off[near] + p.size[near]
        places = np.concatenate([[0], high, low - p.size[b], [target - p.size[b]]])
        places -= (places - p.residue[b]) % p.modulus[b]
        places = np.concatenate([places, places + p.modulus[b]]) if p.modulus[b] > 1 else places
        places = np.unique(places[(places >= 0) & (places + p.size[b] <= target)])
        if len(places) == 0:
            return -1, near[:0]
        meets = (low[None, :] < places[:, None] + p.size[b]) & (high[None, :] > places[:, None])
        price = np.where(self._free[near], self._failed[near] * self._weight(near), np.inf)
        cost = np.where(meets, price[None, :], 0.0).sum(axis=1)
        best = cost.min()
        if not np.isfinite(best):
            return -1, near[:0]
        if best > 0.0:
            cost = cost * np.exp(self.rng.normal(0.0, 0.1, len(cost)))
        k = int(cost.argmin())
        return int(places[k]), near[meets[k]]

    def _spend(self, nodes: int) -> None:
        self.work += nodes
        self.clock.spend(nodes * bnb.SECONDS_PER_NODE)

    def _weight(self, blocks: Ints) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.sqrt(self.parts.size[blocks] * self.parts.width[blocks].astype(np.float64))

    def _window(self, b: int, off: Ints, target: int) -> bool:
        """Pack a block together with a few around it, or a random few again; whether it worked."""
        p, rng = self.parts, self.rng
        centre = b if b >= 0 else int(rng.integers(p.n))
        middle = rng.uniform(float(self._start[centre]), float(self._end[centre]))
        away = np.maximum(0.0, np.maximum(self._start - middle, middle - self._end))
        if rng.random() < 0.5:
            # Of what is alive at the same time, the blocks about one height.
            level = rng.uniform(0.0, float(target))
            away = 10.0 * away + np.abs(off + p.size / 2 - level) / max(1, target)
        away = away + 1e-3 * rng.random(p.n) * (1.0 + away)
        away[(off < 0) | ~self._free] = np.inf
        count = min(round(self._size), int(np.isfinite(away).sum()))
        if count == 0:
            return False
        chosen = np.argpartition(away, count - 1)[:count]
        if b >= 0:
            chosen = np.append(chosen, b)
        found, answer = self._pack(chosen, off, target)
        if answer == kernels.SOLVED:
            off[chosen] = found
            self._size = min(BLOCKS[2], self._size * 1.02)
            return True
        change = 1.05 if answer == kernels.EXHAUSTED else 0.97
        self._size = min(BLOCKS[2], max(BLOCKS[1], self._size * change))
        return False

    def _pack(self, chosen: Ints, off: Ints, target: int) -> tuple[Ints, int]:
        """Offsets of the chosen blocks when all others stay, by the branch-and-bound."""
        p = self.parts
        inside = np.zeros(p.n, dtype=np.bool_)
        for b in chosen.tolist():
            inside[p.near[p.near_at[b] : p.near_at[b + 1]]] = True
        inside &= off >= 0
        inside[chosen] = False
        blocks = np.concatenate([chosen, np.flatnonzero(inside)])
        local = np.full(p.n, -1, dtype=np.int64)
        local[blocks] = np.arange(len(blocks))
        piece_block, start, end = self._pieces
        mine = local[piece_block] >= 0
        where = np.unique(np.concatenate([start[mine], end[mine]]), return_inverse=True)[1]
        count = int(mine.sum())
        pin = off[blocks].copy()
        pin[: len(chosen)] = -1
        part = bnb.parts_of(
            p.size[blocks],
            p.modulus[blocks],
            p.residue[blocks],
            pin,
            local[piece_block[mine]],
            where[:count].astype(np.int64),
            where[count:].astype(np.int64),
        )
        rank = bnb.shaken(part, self.rng)
        search = bnb.Search(part, target, rank)
        answer = search.run(self.nodes)
        self._spend(search.nodes + PART * len(blocks))
        return search.offsets[: len(chosen)], answer
