"""The index-based instance of an allocation: blocks of pieces in compressed time and scaled space.

A *block* is what moves together: a buffer with its aliases. Its *pieces* are rectangles, in time
and relative to the block's offset; a plain buffer is a block of one piece. Sizes are divided by
their greatest common divisor, and time is compressed to the moments at which pieces begin or end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpsched.core.clock import Clock
from cpsched.errors import Infeasible
from cpsched.families.memory.check import overlapping, owners, pieces_of
from cpsched.families.memory.problem import (
    Buffer,
    MemoryProblem,
    MemorySchedule,
    PlacedBuffer,
)

Ints = npt.NDArray[np.int64]

#: A capacity that never binds.
UNLIMITED = 2**60

#: Up to so many buffers a first schedule is made in any time, without a look at the clock.
FEW = 3_000

#: Loops over buffers look at the clock every so many.
CHECKED = 2048


@dataclass(frozen=True)
class Instance:
    """Blocks in scaled units.

    Attributes
    ----------
    start, end, size
        Envelope of each block: its span in compressed time, and its height (0: nothing).
    modulus, residue
        The offset of a block is ``residue`` modulo ``modulus``.
    pin
        The pinned offset, or -1.
    piece_block, piece_start, piece_end, piece_low, piece_high
        The pieces, in compressed time and relative to their block's offset.
    plain
        Blocks whose pieces all span the full height: pairs of them are either above or below each
        other, which is what the branch-and-bound relies on.
    piece_buffer
        The buffer that each piece belongs to.
    takes
        Pairs of buffers, in different blocks, that may share memory when their offsets are equal.
    unit, capacity
        Bytes per unit of size, and the limit in units.
    floor
        The height in units that some buffer alone reaches, even one that is never alive.
    """

    problem: MemoryProblem
    unit: int
    capacity: int
    block_of: Ints
    shift: Ints
    start: Ints
    end: Ints
    size: Ints
    modulus: Ints
    residue: Ints
    pin: Ints
    plain: npt.NDArray[np.bool_]
    piece_block: Ints
    piece_start: Ints
    piece_end: Ints
    piece_low: Ints
    piece_high: Ints
    piece_buffer: Ints
    takes: tuple[tuple[int, int], ...]
    times: Ints
    floor: int

    @property
    def n(self) -> int:
        """Number of blocks."""
        return len(self.size)

    @property
    def simple(self) -> bool:
        """Whether every block is plain and none may take another's place."""
        return bool(self.plain.all()) and not self.takes

    def schedule(self, offsets: Ints) -> MemorySchedule:
        """The schedule with the given offsets of the blocks, in units."""
        place = (np.asarray(offsets)[self.block_of] * self.unit + self.shift).tolist()
        size = [b.size for b in self.problem.buffers]
        top = max((o + s for o, s in zip(place, size, strict=True) if s), default=0)
        return MemorySchedule(
            buffers=tuple(
                PlacedBuffer(buffer=b.id, offset=o)
                for b, o in zip(self.problem.buffers, place, strict=True)
            ),
            height=top,
        )

    def offsets(self, schedule: MemorySchedule) -> Ints:
        """Offsets of the blocks in units, as far as a schedule gives them; -1 elsewhere."""
        index = {b.id: i for i, b in enumerate(self.problem.buffers)}
        out = np.full(self.n, -1, dtype=np.int64)
        for place in schedule.buffers:
            i = index.get(place.buffer)
            if i is not None:
                offset = (place.offset - int(self.shift[i])) // self.unit
                out[self.block_of[i]] = max(0, offset)
        return out


def prepare(problem: MemoryProblem, clock: Clock) -> Instance:
    """The instance of an allocation problem.

    Raises
    ------
    Infeasible
        When one buffer alone cannot be placed: above the capacity, or pins, alignments and
        aliases that contradict each other.
    """
    buffers = problem.buffers
    check = clock.check if len(buffers) > FEW else lambda: None
    check()
    index = {b.id: i for i, b in enumerate(buffers)}
    check()
    owner = owners(buffers)
    check()
    roots = [i for i, b in enumerate(buffers) if owner[b.id] == b.id]
    number = {root: k for k, root in enumerate(roots)}
    block_of = np.array([number[index[owner[b.id]]] for b in buffers], dtype=np.int64)
    check()
    shift = _shifts(buffers, index)
    check()

    rows: list[tuple[int, int, int, int, int, int]] = []
    for i, b in enumerate(buffers):
        if i % CHECKED == 0:
            check()
        k, base = int(block_of[i]), int(shift[i])
        rows += [(k, s, e, base + low, base + high, i) for s, e, low, high in pieces_of(b)]
    pieces = np.array(rows, dtype=np.int64).reshape(-1, 6)
    check()
    modulus, residue, pin = _positions(problem, block_of, shift, len(roots))
    capacity = UNLIMITED if problem.capacity is None else problem.capacity
    top = np.zeros(len(roots), dtype=np.int64)
    np.maximum.at(top, block_of, shift + np.array([b.size for b in buffers], dtype=np.int64))
    alone = _check_alone(problem, roots, top, residue, pin, capacity)
    check()

    takes = tuple(
        (i, j)
        for i, b in enumerate(buffers)
        for j in (index[name] for name in b.in_place)
        if block_of[i] != block_of[j]
    )
    values = [pieces[:, 3], pieces[:, 4], residue, pin[pin >= 0], modulus[modulus > 1]]
    values.append(np.array([shift[j] - shift[i] for i, j in takes], dtype=np.int64))
    unit = max(1, int(np.gcd.reduce(np.concatenate(values)))) if len(pieces) else 1
    check()
    _check_pins(problem, pieces, pin, takes, check)
    times, where = np.unique(pieces[:, 1:3], return_inverse=True)
    where = where.reshape(-1, 2).astype(np.int64)
    low, high = pieces[:, 3] // unit, pieces[:, 4] // unit
    block = pieces[:, 0]
    n = len(roots)
    start = np.full(n, len(times), dtype=np.int64)
    end = np.zeros(n, dtype=np.int64)
    size = np.zeros(n, dtype=np.int64)
    np.minimum.at(start, block, where[:, 0])
    np.maximum.at(end, block, where[:, 1])
    np.maximum.at(size, block, high)
    start = np.minimum(start, end)
    plain = np.ones(n, dtype=np.bool_)
    plain[block[(low > 0) | (high < size[block])]] = False
    return Instance(
        problem=problem,
        unit=unit,
        capacity=UNLIMITED if problem.capacity is None else capacity // unit,
        block_of=block_of,
        shift=shift,
        start=start,
        end=end,
        size=size,
        modulus=np.maximum(1, modulus // unit),
        residue=residue // unit,
        pin=np.where(pin >= 0, pin // unit, -1),
        plain=plain,
        piece_block=block,
        piece_start=where[:, 0],
        piece_end=where[:, 1],
        piece_low=low,
        piece_high=high,
        piece_buffer=pieces[:, 5],
        takes=takes,
        times=times,
        floor=-(-alone // unit),
    )


def _check_pins(
    problem: MemoryProblem,
    pieces: Ints,
    pin: Ints,
    takes: tuple[tuple[int, int], ...],
    check: Callable[[], object],
) -> None:
    pinned = pieces[pin[pieces[:, 0]] >= 0]
    rows = [
        (s, e, int(pin[k]) + low, int(pin[k]) + high, (k, i))
        for k, s, e, low, high, i in pinned.tolist()
    ]
    exempt = set(takes) | {(j, i) for i, j in takes}
    for a, b in overlapping(rows, check):
        (block, i), (other, j) = rows[a][4], rows[b][4]
        if block != other and (i, j) not in exempt:
            raise Infeasible(
                f"the pinned buffers {problem.buffers[i].id} and {problem.buffers[j].id} share "
                "memory",
                "pinned",
            )


def _shifts(buffers: tuple[Buffer, ...], index: dict[str, int]) -> Ints:
    """Each buffer's offset relative to the owner of its memory."""
    if all(b.alias is None for b in buffers):
        return np.zeros(len(buffers), dtype=np.int64)
    out: dict[int, int] = {}
    for i in range(len(buffers)):
        chain = [i]
        while True:
            alias = buffers[chain[-1]].alias
            if alias is None or chain[-1] in out:
                break
            chain.append(index[alias.of])
        total = out.get(chain[-1], 0)
        out[chain[-1]] = total
        for k in reversed(chain[:-1]):
            alias = buffers[k].alias
            assert alias is not None
            total += alias.shift
            out[k] = total
    return np.array([out[i] for i in range(len(buffers))], dtype=np.int64)


def _positions(
    problem: MemoryProblem, block_of: Ints, shift: Ints, n: int
) -> tuple[Ints, Ints, Ints]:
    """Modulus, residue and pin of each block, in bytes, from all of its buffers."""
    modulus = [1] * n
    residue = [0] * n
    pin = np.full(n, -1, dtype=np.int64)
    for i, buffer in enumerate(problem.buffers):
        k = int(block_of[i])
        if buffer.alignment > 1:
            m, r = buffer.alignment, -int(shift[i]) % buffer.alignment
            g = math.gcd(modulus[k], m)
            if (residue[k] - r) % g:
                raise Infeasible(
                    f"the alignments of buffer {buffer.id} and its aliases exclude each other",
                    "alignment",
                )
            # Chinese remainders: the offsets that satisfy both congruences.
            step = (r - residue[k]) // g * pow(modulus[k] // g, -1, m // g) % (m // g)
            residue[k] += modulus[k] * step
            modulus[k] = modulus[k] // g * m
            residue[k] %= modulus[k]
            if modulus[k] > UNLIMITED:
                raise Infeasible(
                    f"the alignments of buffer {buffer.id} and its aliases have no common "
                    "multiple within reach",
                    "alignment",
                )
        if buffer.offset is not None:
            offset = buffer.offset - int(shift[i])
            if offset < 0 or pin[k] not in (-1, offset):
                raise Infeasible(
                    f"the pinned offset of buffer {buffer.id} contradicts its alias", "pinned"
                )
            pin[k] = offset
    for i, buffer in enumerate(problem.buffers):
        k = int(block_of[i])
        if pin[k] >= 0 and int(pin[k]) % modulus[k] != residue[k]:
            raise Infeasible(f"the pinned offset of buffer {buffer.id} is not aligned", "alignment")
    return (
        np.array(modulus, dtype=np.int64),
        np.array(residue, dtype=np.int64),
        pin,
    )


def _check_alone(
    problem: MemoryProblem, roots: list[int], top: Ints, residue: Ints, pin: Ints, capacity: int
) -> int:
    """The largest end that a block reaches at least; empty lifetimes count."""
    lowest = np.where(pin >= 0, pin, residue)
    over = np.flatnonzero(lowest + top > capacity)
    if len(over):
        k = int(over[0])
        raise Infeasible(
            f"buffer {problem.buffers[roots[k]].id} ends at {int(lowest[k] + top[k])} at least, "
            f"beyond the capacity of {capacity}",
            "capacity",
        )
    return int((lowest + top)[top > 0].max(initial=0))
