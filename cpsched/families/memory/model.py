"""The CP-SAT model of an allocation: offsets, and an order of each pair whose lifetimes meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core.clock import Clock
from cpsched.core.exact import Built
from cpsched.families.memory.prepare import Instance, Ints

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar

#: Pairs of pieces above which the model is not built.
MOST_PAIRS = 60_000


def meeting_pairs(instance: Instance, clock: Clock) -> list[tuple[int, int]]:
    """Pairs of pieces of different blocks whose times meet.

    Raises
    ------
    OutOfTime
        When the clock runs out.
    """
    order = np.lexsort([instance.piece_end, instance.piece_start])
    starts = instance.piece_start[order]
    out: list[tuple[int, int]] = []
    for k, p in enumerate(order.tolist()):
        if k % 256 == 0:
            clock.check()
        stop = int(np.searchsorted(starts, instance.piece_end[p], side="left"))
        block = instance.piece_block[p]
        out += [(p, q) for q in order[k + 1 : stop].tolist() if instance.piece_block[q] != block]
        if len(out) > MOST_PAIRS:
            break
    return out


class AllocationModel:
    """Variables and constraints of an allocation; one method per constraint.

    Parameters
    ----------
    limit
        The height in units that no block may exceed.
    clock
        Building ends with `OutOfTime` when it runs out.
    """

    def __init__(
        self,
        instance: Instance,
        limit: int,
        pairs: list[tuple[int, int]],
        clock: Clock,
    ) -> None:
        from ortools.sat.python import cp_model

        self.instance, self.limit, self.pairs, self.clock = instance, limit, pairs, clock
        self.model: CpModel = cp_model.CpModel()
        self.off: list[IntVar] = []
        self.height: IntVar | None = None

    def build(self, *, minimise: bool, least: int, hint: Ints | None) -> Built:
        """The model of the height (or of feasibility) with a hint."""
        self.offsets()
        self.alignment()
        self.pinned()
        self.overlap()
        if minimise:
            self.model.minimize(self.capacity(least))
        self.load()
        if hint is not None:
            for b, variable in enumerate(self.off):
                self.model.add_hint(variable, int(hint[b]))
        unit = self.instance.unit
        return Built(
            model=self.model,
            extract=self.extract,
            value=lambda v: round(v) * unit,
        )

    def extract(self, values: list[int]) -> Any:
        """Solver values to the schedule."""
        return self.instance.schedule(np.array([values[v.index] for v in self.off]))

    def offsets(self) -> None:
        """One offset per block, below the limit."""
        for b, size in enumerate(self.instance.size.tolist()):
            self.off.append(self.model.new_int_var(0, self.limit - size, f"offset[{b}]"))

    def alignment(self) -> None:
        """Offsets are ``residue`` modulo ``modulus``."""
        for b, modulus in enumerate(self.instance.modulus.tolist()):
            if modulus > 1:
                most = self.limit // modulus
                quotient = self.model.new_int_var(0, most, f"quotient[{b}]")
                self.model.add(self.off[b] == modulus * quotient + int(self.instance.residue[b]))

    def pinned(self) -> None:
        """Pinned blocks stay where they are told to."""
        for b, pin in enumerate(self.instance.pin.tolist()):
            if pin >= 0:
                self.model.add(self.off[b] == pin)

    def capacity(self, least: int) -> IntVar:
        """The height is at least every block's end."""
        self.height = height = self.model.new_int_var(least, self.limit, "height")
        for b, size in enumerate(self.instance.size.tolist()):
            if size:
                self.model.add(self.off[b] + size <= height)
        return height

    def overlap(self) -> None:
        """Pieces that meet in time lie above one another, or in place of one another."""
        i = self.instance
        takes = set(i.takes) | {(b, a) for a, b in i.takes}
        equal: dict[tuple[int, int], Any] = {}
        for count, (p, q) in enumerate(self.pairs):
            if count % 256 == 0:
                self.clock.check()
            a, b = int(i.piece_block[p]), int(i.piece_block[q])
            if i.pin[a] >= 0 and i.pin[b] >= 0:
                continue
            under = self.model.new_bool_var("")
            over = under.negated()
            buffers = (int(i.piece_buffer[p]), int(i.piece_buffer[q]))
            if buffers in takes:
                over = self.model.new_bool_var("")
                key = (min(buffers), max(buffers))
                if key not in equal:
                    same = equal[key] = self.model.new_bool_var("")
                    x, y = key
                    left, right = self.off[i.block_of[x]], self.off[i.block_of[y]]
                    shift = int(i.shift[y] - i.shift[x]) // i.unit
                    self.model.add(left - right == shift).only_enforce_if(same)
                self.model.add_bool_or(under, over, equal[key])
            self.model.add(
                self.off[a] + int(i.piece_high[p]) <= self.off[b] + int(i.piece_low[q])
            ).only_enforce_if(under)
            self.model.add(
                self.off[b] + int(i.piece_high[q]) <= self.off[a] + int(i.piece_low[p])
            ).only_enforce_if(over)

    def load(self) -> None:
        """Redundant: what is live at any time fits below the height."""
        i = self.instance
        if i.takes:
            return
        intervals = [
            self.model.new_fixed_size_interval_var(int(s), int(e - s), "")
            for s, e in zip(i.piece_start, i.piece_end, strict=True)
        ]
        demands = (i.piece_high - i.piece_low).tolist()
        top = self.limit if self.height is None else self.height
        self.model.add_cumulative(intervals, demands, top)
