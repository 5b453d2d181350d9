"""Branch-and-bound over plain blocks: the arrays around the compiled kernel, and its orders."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cpsched.core.clock import Clock
from cpsched.families.memory import kernels_search as kernels
from cpsched.families.memory.kernels_place import COUNT
from cpsched.families.memory.prepare import Ints

#: Blocks that the search takes at most: its memory grows with the square.
MOST_BLOCKS = 1500

#: Seconds that one node is charged in a deterministic run.
SECONDS_PER_NODE = 4e-6


@dataclass(frozen=True)
class Parts:
    """Sections, neighbours and spans of blocks, shared by all searches on them (CSR arrays)."""

    size: Ints
    modulus: Ints
    residue: Ints
    pin: Ints
    sec_at: Ints
    sec: Ints
    live_at: Ints
    live: Ints
    near_at: Ints
    near: Ints
    first: Ints
    last: Ints
    width: Ints
    load: Ints
    twins: tuple[tuple[int, ...], ...]

    @property
    def n(self) -> int:
        """Number of blocks."""
        return len(self.size)


def parts_of(
    size: Ints,
    modulus: Ints,
    residue: Ints,
    pin: Ints,
    piece_block: Ints,
    piece_start: Ints,
    piece_end: Ints,
    clock: Clock | None = None,
) -> Parts:
    """Sections and neighbours of blocks that occupy their full size during their pieces.

    Only sections whose set of live blocks is not part of a neighbouring one's are kept.

    Raises
    ------
    OutOfTime
        When the clock runs out.
    """
    check = clock.check if clock is not None else lambda: None
    n = len(size)
    section = sections(piece_start, piece_end)
    low = np.searchsorted(section, piece_start, side="left")
    high = np.searchsorted(section, piece_end, side="left")
    lists: list[list[int]] = [[] for _ in range(n)]
    for b, i, j in zip(piece_block.tolist(), low.tolist(), high.tolist(), strict=True):
        lists[b].extend(range(i, j))
    lists = [sorted(set(one)) for one in lists]
    sec_at, sec = _csr(lists)
    live_lists: list[list[int]] = [[] for _ in range(len(section))]
    check()
    for b, one in enumerate(lists):
        for s in one:
            live_lists[s].append(b)
    live_at, live = _csr(live_lists)
    near_sets: list[set[int]] = [set() for _ in range(n)]
    for group in live_lists:
        for k, b in enumerate(group):
            if k % 64 == 0:
                check()
            near_sets[b].update(group)
    check()
    for b in range(n):
        near_sets[b].discard(b)
    near_at, near = _csr([sorted(one) for one in near_sets])
    total = np.array([int(size[group].sum()) for group in live_lists], dtype=np.int64)
    span = np.zeros(n, dtype=np.int64)
    np.add.at(span, piece_block, piece_end - piece_start)
    return Parts(
        size=size,
        modulus=modulus,
        residue=residue,
        pin=pin,
        sec_at=sec_at,
        sec=sec,
        live_at=live_at,
        live=live,
        near_at=near_at,
        near=near,
        first=np.array([one[0] for one in lists], dtype=np.int64),
        last=np.array([one[-1] for one in lists], dtype=np.int64),
        width=span,
        load=np.array([max(total[s] for s in one) for one in lists], dtype=np.int64),
        twins=_twins(size, modulus, residue, pin, lists),
    )


def sections(piece_start: Ints, piece_end: Ints) -> Ints:
    """The periods at which as much is alive as possible: each after a start, before an end."""
    periods = int(piece_end.max(initial=0))
    begins = np.zeros(periods + 1, dtype=bool)
    ends = np.zeros(periods + 1, dtype=bool)
    begins[piece_start] = True
    ends[piece_end] = True
    kept: list[int] = []
    fresh = False
    for s, (begun, ended) in enumerate(zip(begins[:-1].tolist(), ends[1:].tolist(), strict=True)):
        fresh = fresh or begun
        if fresh and ended:
            kept.append(s)
            fresh = False
    return np.array(kept, dtype=np.int64)


def _csr(lists: list[list[int]]) -> tuple[Ints, Ints]:
    at = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in lists], out=at[1:])
    flat = np.array([x for one in lists for x in one], dtype=np.int64)
    return at, flat


def _twins(
    size: Ints, modulus: Ints, residue: Ints, pin: Ints, lists: list[list[int]]
) -> tuple[tuple[int, ...], ...]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for b, one in enumerate(lists):
        if pin[b] < 0:
            key = (int(size[b]), int(modulus[b]), int(residue[b]), tuple(one))
            groups.setdefault(key, []).append(b)
    return tuple(tuple(g) for g in groups.values() if len(g) > 1)


def order_by(parts: Parts, keys: str) -> npt.NDArray[np.int64]:
    """Rank of each block when sorted descending by a word of keys.

    T: largest load of a section it is live in; W: lifetime; A: area; S: size; N: neighbours.
    """
    values = {
        "T": parts.load,
        "W": parts.width,
        "A": parts.size * parts.width,
        "S": parts.size,
        "N": np.diff(parts.near_at),
    }
    order = np.lexsort([-values[k] for k in reversed(keys)])
    rank = np.empty(parts.n, dtype=np.int64)
    rank[order] = np.arange(parts.n)
    return rank


def learned(
    parts: Parts, blame: npt.NDArray[np.float64], rng: np.random.Generator, others: float
) -> Ints:
    """Rank of each block by the blame of its sections, or by its lifetime, with noise.

    Parameters
    ----------
    blame
        How often each section was what made earlier searches turn back.
    others
        Share of orders by lifetime, and again of those by the mean blame instead of the sum.
    """
    draw = rng.random()
    if draw < others or not blame.any():
        # Lifetimes alone are the better guide on some instances.
        first, spread = parts.width.astype(np.float64), float(rng.choice([0.1, 0.3, 0.6]))
    else:
        first, spread = np.add.reduceat(blame[parts.sec], parts.sec_at[:-1]), 0.1
        if draw < 2 * others:
            first, spread = first / np.maximum(1, np.diff(parts.sec_at)), 0.3
    first = first * np.exp(rng.normal(0.0, spread, parts.n))
    second = (parts.width, parts.size * parts.width, parts.size)[int(rng.integers(3))]
    order = np.lexsort([-second, -first])
    rank = np.empty(parts.n, dtype=np.int64)
    rank[order] = np.arange(parts.n)
    return rank


def shaken(parts: Parts, rng: np.random.Generator) -> Ints:
    """Rank of each block by its lifetime or area, with noise."""
    key = parts.width * (parts.size if rng.random() < 0.5 else 1)
    order = np.argsort(-key * np.exp(rng.normal(0.0, 0.5, parts.n)))
    rank = np.empty(parts.n, dtype=np.int64)
    rank[order] = np.arange(parts.n)
    return rank


class Search:
    """One branch-and-bound within a capacity, in steps of a number of nodes.

    Attributes
    ----------
    offsets
        The solution, once `run` returned SOLVED.
    """

    def __init__(
        self,
        parts: Parts,
        capacity: int,
        rank: Ints,
        *,
        chained: bool = True,
        dynamic: bool = False,
    ) -> None:
        n, sections = parts.n, len(parts.live_at) - 1
        self.parts, self.capacity, self.rank = parts, capacity, rank
        twin = np.full(n, -1, dtype=np.int64)
        for group in parts.twins:
            ordered = sorted(group, key=lambda b: int(rank[b]))
            for before, after in pairwise(ordered):
                twin[after] = before
        self._twin = twin
        self._chained, self._dynamic = chained, dynamic
        self._pinned = bool((parts.pin >= 0).any())
        self.offsets = np.full(n, -1, dtype=np.int64)
        self._least = parts.residue.copy()
        self._rest = np.array(
            [
                int(parts.size[parts.live[i:j]].sum())
                for i, j in zip(parts.live_at[:-1], parts.live_at[1:], strict=True)
            ],
            dtype=np.int64,
        )
        cross = np.zeros(sections + 1, dtype=np.int64)
        np.add.at(cross, parts.first, 1)
        np.add.at(cross, parts.last, -1)
        self._cross = np.cumsum(cross)[:sections].copy()
        trail = len(parts.near) + 8
        self._placed = np.zeros((n + 1, 2), dtype=np.int64)
        self._trail = np.zeros((trail, 2), dtype=np.int64)
        self._frames = np.zeros((n + 2, 8), dtype=np.int64)
        self._agenda = np.zeros((4 * n + 16, 9), dtype=np.int64)
        self._pool = np.zeros((3 * n * n + 16 * n + 64, 2), dtype=np.int64)
        self._key = np.zeros(n, dtype=np.int64)
        self._witness = parts.live[parts.live_at[:-1]].copy()
        self._blocker = np.arange(n, dtype=np.int64)
        self.blame = np.zeros(sections, dtype=np.int64)
        self._smallest = np.array(
            [
                int(parts.size[parts.near[i:j]].min(initial=2**40))
                for i, j in zip(parts.near_at[:-1], parts.near_at[1:], strict=True)
            ],
            dtype=np.int64,
        )
        self._stale = np.ones(sections, dtype=np.int64)
        self._place = rank.copy()
        self._starts = np.zeros(n + 1, dtype=np.int64)
        self._sizes = np.zeros(n + 1, dtype=np.int64)
        self._state = np.zeros(8, dtype=np.int64)

    @property
    def nodes(self) -> int:
        """Placements tried so far."""
        return int(self._state[COUNT])

    def run(self, budget: int) -> int:
        """Search on for ``budget`` nodes: ``kernels.OPEN``, ``SOLVED`` or ``EXHAUSTED``."""
        p = self.parts
        return int(
            kernels.branch(
                budget,
                self.capacity,
                self._pinned,
                self._chained,
                self._dynamic,
                p.size,
                p.modulus,
                p.residue,
                p.pin,
                self.rank,
                self._twin,
                p.sec_at,
                p.sec,
                p.live_at,
                p.live,
                p.near_at,
                p.near,
                p.first,
                p.last,
                self.offsets,
                self._least,
                self._rest,
                self._cross,
                self._placed,
                self._trail,
                self._frames,
                self._agenda,
                self._pool,
                self._key,
                self._witness,
                self._blocker,
                self.blame,
                self._smallest,
                self._stale,
                self._place,
                self._starts,
                self._sizes,
                self._state,
            )
        )
