"""Bounds from subsets: what a few buffers alone exceed, all of them exceed.

Where the load is not tight, a few moments that follow each other are usually to blame: what is
alive in them fits at each moment, but not with the same offsets throughout. So windows of time are
cut out, and the branch-and-bound refutes heights for their buffers alone, in narrow windows first
and with a growing number of nodes. A refuted height is a proof: buffers that are left out only need
more room. The record of such a bound names the buffers, and `refuted` searches again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from cpsched.core.clock import Clock
from cpsched.errors import ProblemError
from cpsched.families.memory import bnb
from cpsched.families.memory import kernels_search as kernels
from cpsched.families.memory.check import pieces_of
from cpsched.families.memory.prepare import Instance, prepare
from cpsched.families.memory.problem import Buffer, MemoryProblem

#: Sections per window, windows per width, and buffers per window.
WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
MOST_WINDOWS = 200
MOST_BUFFERS = 150

#: Nodes of the first look at a window, and the factor from one look to the next.
FIRST_NODES, MORE_NODES = 2_000, 4

#: Work of making a window, in nodes for each buffer.
NODES_PER_BUFFER = 30

#: Orders of the branch-and-bound that looks follow in turn: words of `bnb.order_by`, with a star
#: where parts are ranked anew by their open load.
ORDERS = ("TWA*", "TAW", "SW", "ATW")

#: Buffers times sections up to which windows are made.
MOST_ENTRIES = 2_000_000


def counts_alone(buffer: Buffer) -> bool:
    """Whether a buffer occupies its full size whenever it is alive, in a place of its own."""
    return (
        len(pieces_of(buffer)) > 0
        and buffer.alias is None
        and not buffer.in_place
        and all(gap.window is None for gap in buffer.gaps)
    )


class Subset:
    """The buffers of one window as an instance of their own."""

    def __init__(self, problem: MemoryProblem, names: list[int], clock: Clock) -> None:
        buffers = tuple(problem.buffers[i] for i in names)
        self.problem = problem.model_copy(update={"buffers": buffers, "capacity": None})
        self.instance = i = prepare(self.problem, clock)
        self.names, self.unit = [b.id for b in buffers], i.unit
        self.parts = bnb.parts_of(
            i.size, i.modulus, i.residue, i.pin, i.piece_block, i.piece_start, i.piece_end, clock
        )

    def search(self, height: int, order: str) -> bnb.Search:
        """A search within a height in bytes, by the order of a look."""
        rank = bnb.order_by(self.parts, order.rstrip("*"))
        dynamic = order.endswith("*")
        return bnb.Search(self.parts, height // self.unit, rank, dynamic=dynamic)

    def next_height(self, height: int) -> int:
        """The least height above a refuted one, in bytes."""
        return (height // self.unit + 1) * self.unit


class Refuter:
    """Raises the bound of an allocation problem window by window; `run` goes on where it was.

    Parameters
    ----------
    prove
        Receives a proved height in bytes, and the data that `refuted` needs.
    """

    def __init__(
        self,
        instance: Instance,
        clock: Clock,
        prove: Callable[[int, dict[str, Any]], object],
    ) -> None:
        self.instance, self.clock, self._prove = instance, clock, prove
        #: Windows that fit within a height: first and last section, height in bytes.
        self._fitting: list[tuple[int, int, int]] = []

    @cached_property
    def _live(self) -> list[list[int]]:
        """The buffers of each section; none when there are too many."""
        i = self.instance
        shared = {b for pair in i.takes for b in pair}
        alone = np.array(
            [counts_alone(b) and k not in shared for k, b in enumerate(i.problem.buffers)],
            dtype=np.bool_,
        )
        own = np.flatnonzero(alone[i.piece_buffer])
        names, start, end = i.piece_buffer[own], i.piece_start[own], i.piece_end[own]
        section = bnb.sections(start, end)
        low = np.searchsorted(section, start, side="left")
        high = np.searchsorted(section, end, side="left")
        if int((high - low).sum()) > MOST_ENTRIES:
            return []
        live: list[list[int]] = [[] for _ in section]
        for b, first, last in zip(names.tolist(), low.tolist(), high.tolist(), strict=True):
            if b % 256 == 0:
                self.clock.check()
            for k in range(first, last):
                live[k].append(b)
        return live

    @cached_property
    def _heap(self) -> list[tuple[int, int, float, int]]:
        """Windows to look at: looks so far, width, mean load (negative), first section."""
        i, live = self.instance, self._live
        self.clock.check()
        size = np.array([b.size for b in i.problem.buffers], dtype=np.int64)
        load = np.array([int(size[one].sum()) for one in live], dtype=np.float64)
        summed = np.concatenate([[0.0], np.cumsum(load)])
        # Without pins and alignments what is alive at one moment fits within its load.
        narrowest = 2 if bool((i.modulus == 1).all() and (i.pin < 0).all()) else 1
        heap: list[tuple[int, int, float, int]] = []
        for width in WIDTHS:
            if not narrowest <= width <= len(live):
                continue
            at = np.arange(0, len(live) - width + 1, max(1, width // 3))
            mean = (summed[at + width] - summed[at]) / width
            fullest = np.argsort(-mean, kind="stable")[:MOST_WINDOWS].tolist()
            heap += [(0, width, -float(mean[k]), int(at[k])) for k in fullest]
        heapq.heapify(heap)
        return heap

    def done(self) -> bool:
        """Whether no window is left that could raise the bound."""
        return not self._heap

    def run(self, nodes: int, step: int, bound: int, upper: int, over: Callable[[], bool]) -> int:
        """Look at windows for about so many nodes; the height in bytes that is proved by then.

        Parameters
        ----------
        step
            Nodes between two questions whether it is ``over``.
        bound
            What is known to be needed, in bytes.
        upper
            A height that is reached; no need to prove more.
        """
        spent = 0
        while spent < nodes and self._heap and bound < upper and not over():
            looks, width, load, first = heapq.heappop(self._heap)
            last = first + width - 1
            names = sorted({b for one in self._live[first : last + 1] for b in one})
            spent += NODES_PER_BUFFER * len(names)
            if len(names) > MOST_BUFFERS or any(
                s <= first and last <= e and height <= bound for s, e, height in self._fitting
            ):
                continue
            subset = Subset(self.instance.problem, names, self.clock)
            order, budget = ORDERS[looks % len(ORDERS)], FIRST_NODES * MORE_NODES**looks
            fits, ahead = upper, 0
            while bound < fits and not over():
                # Heights further away first, as long as they are refuted.
                height = min(bound + ahead * subset.unit, fits - 1)
                search = subset.search(height, order)
                answer = kernels.OPEN
                while answer == kernels.OPEN and search.nodes < budget and not over():
                    answer = search.run(step)
                    self.clock.spend(step * bnb.SECONDS_PER_NODE)
                spent += search.nodes + step // 10
                if answer == kernels.EXHAUSTED:
                    bound = subset.next_height(height)
                    found = {"height": height, "order": order, "nodes": search.nodes}
                    self._prove(bound, {"buffers": subset.names, **found})
                    ahead = 2 * ahead + 1
                elif answer == kernels.SOLVED:
                    fits = subset.unit * int((search.offsets + subset.parts.size).max())
                    ahead //= 2
                elif ahead > 0:
                    ahead //= 4
                else:
                    heapq.heappush(self._heap, (looks + 1, width, load, first))
                    break
            if fits <= bound:
                self._fitting.append((first, last, fits))
        return bound


def refuted(problem: MemoryProblem, data: dict[str, Any]) -> int:
    """The height that the buffers of a bound's data need, by searching again.

    Raises
    ------
    ProblemError
        When the data name unknown buffers, or the search does not end with a proof.
    """
    index = {b.id: i for i, b in enumerate(problem.buffers)}
    names = [index[name] for name in data["buffers"] if name in index]
    chosen = {problem.buffers[i].id for i in names}
    if (
        len(names) < len(data["buffers"])
        or not all(counts_alone(problem.buffers[i]) for i in names)
        or any(chosen.intersection(b.in_place) for b in problem.buffers)
    ):
        raise ProblemError(
            "the buffers of the bound must exist and have places of their own",
            place="data.buffers",
            value=data["buffers"],
            remedy="Take the bound from a result for this problem.",
        )
    subset = Subset(problem, names, Clock(None))
    search = subset.search(int(data["height"]), str(data["order"]))
    if search.run(2 * int(data["nodes"]) + 1000) != kernels.EXHAUSTED:
        raise ProblemError(
            "the search must refute the height for these buffers",
            place="data.height",
            value=data["height"],
            remedy="Take the bound from a result for this problem.",
        )
    return subset.next_height(int(data["height"]))
