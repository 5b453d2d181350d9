"""The CP-SAT model of the mapping form: residences, copies, and places in the fast spaces.

Every use of a tensor may be served by a space. What serves it is a *piece* of a residence: it
begins with a copy in, or where the previous use's piece ends (kept), or where the tensor is written
(born). The rules are those of `check_mapping`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cpsched.core.clock import Clock
from cpsched.families.memory.check_mapping import copy_time
from cpsched.families.memory.mapping_bound import Choice
from cpsched.families.memory.problem import (
    Buffer,
    MemoryProblem,
    MemorySchedule,
    PlacedBuffer,
    ScheduledCopy,
)

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar


@dataclass
class _Piece:
    """One use served by one space."""

    resident: IntVar
    begin: IntVar
    end: IntVar
    offset: IntVar
    kept: IntVar | None = None
    born: IntVar | None = None
    fresh: IntVar | None = None
    copy: IntVar | None = None


@dataclass
class _Tensor:
    """The variables of one free tensor."""

    buffer: Buffer
    pieces: dict[tuple[int, str], _Piece] = field(default_factory=dict)
    out: IntVar | None = None
    out_start: IntVar | None = None


class MappingModel:
    """The model of a mapping in which the tensors outside ``free`` stay as in ``fixed``.

    Choices that are ``settled`` are fixed. Building it ends with `OutOfTime` when the clock runs
    out.
    """

    def __init__(
        self,
        problem: MemoryProblem,
        clock: Clock,
        *,
        fixed: MemorySchedule | None = None,
        free: frozenset[str] | None = None,
        settled: Mapping[str, Mapping[Choice, bool]] | None = None,
    ) -> None:
        from ortools.sat.python import cp_model

        self.problem, self.clock = problem, clock
        self.model: CpModel = cp_model.CpModel()
        self.fixed = fixed
        self.settled = settled or {}
        self.free = frozenset(b.id for b in problem.buffers) if free is None else free
        self.tensors: list[_Tensor] = []
        self._sizes = {b.id: b.size for b in problem.buffers}
        self._areas: dict[str, list[tuple[Any, Any, int]]] = {s.name: [] for s in problem.spaces}
        self._copies: list[Any] = []
        self._gain: list[tuple[IntVar, int]] = []
        self._lost = 0

    def build(self) -> CpModel:
        """The whole model, its objective the execution time."""
        self._keep_fixed()
        for buffer in self.problem.buffers:
            if buffer.id in self.free and buffer.uses:
                self._tensor(buffer)
        for space in self.problem.spaces:
            self.overlap(space.name, space.capacity)
            self.load(space.name, space.capacity)
        self.copy_engine()
        self.copy_windows()
        self.choices()
        base = self.problem.base_time - self._lost
        self.model.minimize(base - sum(gain * literal for literal, gain in self._gain))
        return self.model

    def choices(self) -> None:
        """Choices that prices have settled for every mapping as good as the best known one."""
        number = {s.name: q for q, s in enumerate(self.problem.spaces)}
        for tensor in self.tensors:
            settled = self.settled.get(tensor.buffer.id, {})
            for (j, space), piece in tensor.pieces.items():
                literals = {
                    "serve": piece.resident,
                    "fetch": piece.fresh,
                    "keep": piece.kept,
                    "born": piece.born,
                }
                for kind, literal in literals.items():
                    made = settled.get((kind, number[space], j))
                    if literal is not None and made is not None:
                        self.model.add(literal == made)

    # ------------------------------------------------------------------ parts

    def _keep_fixed(self) -> None:
        if self.fixed is None:
            return
        from cpsched.families.memory.check_mapping import benefits

        gained = benefits(self.problem, self.fixed)
        self._lost = sum(v for name, v in gained.items() if name not in self.free)
        for count, place in enumerate(self.fixed.buffers):
            if count % 256 == 0:
                self.clock.check()
            size = self._sizes[place.buffer]
            if place.buffer not in self.free and size:
                assert place.start is not None
                assert place.end is not None
                time = self.model.new_fixed_size_interval_var(
                    place.start, place.end - place.start, ""
                )
                area = self.model.new_fixed_size_interval_var(place.offset, size, "")
                self._areas[place.space].append((time, area, size))
        for copy in self.fixed.copies:
            if copy.buffer not in self.free:
                self._copies.append(
                    self.model.new_fixed_size_interval_var(copy.start, copy.end - copy.start, "")
                )

    def _tensor(self, buffer: Buffer) -> None:
        self.clock.check()
        tensor = _Tensor(buffer)
        self.tensors.append(tensor)
        self._residences(tensor)
        self._begins(tensor)
        self._out(tensor)

    def _residences(self, tensor: _Tensor) -> None:
        """At most one space serves a use; its piece lies within the lifetime and the capacity."""
        model, buffer = self.model, tensor.buffer
        assert buffer.lower is not None
        assert buffer.upper is not None
        for j, use in enumerate(buffer.uses):
            for space in self.problem.spaces:
                if buffer.size > space.capacity:
                    continue
                resident = model.new_bool_var("")
                begin = model.new_int_var(buffer.lower, use.start, "")
                end = model.new_int_var(use.end, buffer.upper, "")
                steps = (space.capacity - buffer.size) // buffer.alignment
                offset = model.new_int_var(0, steps, "")
                piece = _Piece(resident, begin, end, offset)
                tensor.pieces[j, space.name] = piece
                gain = use.benefit.get(space.name, 0)
                if gain:
                    self._gain.append((resident, gain))
                if buffer.size:
                    length = model.new_int_var(0, buffer.upper - buffer.lower, "")
                    time = model.new_optional_interval_var(begin, length, end, resident, "")
                    area = model.new_optional_fixed_size_interval_var(
                        buffer.alignment * offset, buffer.size, resident, ""
                    )
                    self._areas[space.name].append((time, area, buffer.size))
            here = [p.resident for (k, _), p in tensor.pieces.items() if k == j]
            model.add_at_most_one(here)

    def _begins(self, tensor: _Tensor) -> None:
        """A piece begins kept, born, or with a copy in that ends before the use."""
        model, buffer = self.model, tensor.buffer
        assert buffer.lower is not None
        engine = self.problem.copy_engine
        duration = copy_time(self.problem, buffer) if engine else 0
        for (j, space), piece in tensor.pieces.items():
            use = buffer.uses[j]
            ways = []
            if j > 0:
                before = tensor.pieces[j - 1, space]
                piece.kept = model.new_bool_var("")
                ways.append(piece.kept)
                model.add_implication(piece.kept, before.resident)
                model.add(piece.begin == before.end).only_enforce_if(piece.kept)
                model.add(before.end == buffer.uses[j - 1].end).only_enforce_if(piece.kept)
                model.add(piece.offset == before.offset).only_enforce_if(piece.kept)
            elif not buffer.input:
                piece.born = model.new_bool_var("")
                ways.append(piece.born)
                model.add(piece.begin == buffer.lower).only_enforce_if(piece.born)
            # A residence that begins at ``lower`` would mean that the tensor is written there.
            earliest = buffer.lower + (not buffer.input)
            if engine and use.start - earliest >= duration:
                piece.fresh = model.new_bool_var("")
                ways.append(piece.fresh)
                piece.copy = model.new_int_var(earliest, use.start - duration, "")
                self._copies.append(
                    model.new_optional_fixed_size_interval_var(
                        piece.copy, duration, piece.fresh, ""
                    )
                )
                model.add(piece.begin == piece.copy).only_enforce_if(piece.fresh)
                for (k, _), other in tensor.pieces.items():
                    if k < j:
                        # One residence at a time.
                        model.add(other.end <= piece.begin).only_enforce_if(
                            piece.fresh, other.resident
                        )
            model.add(sum(ways) == piece.resident)

    def _out(self, tensor: _Tensor) -> None:
        """A tensor born in a fast space is copied out before it is read from the home memory."""
        model, buffer = self.model, tensor.buffer
        births = [p.born for p in tensor.pieces.values() if p.born is not None]
        if not births:
            return
        assert buffer.lower is not None
        assert buffer.upper is not None
        served = [
            [p for (k, _), p in tensor.pieces.items() if k == j] for j in range(len(buffer.uses))
        ]
        if self.problem.copy_engine is None:
            for born in births:
                if buffer.output:
                    model.add(born == 0)
                for pieces in served:
                    model.add(sum(p.resident for p in pieces) == 1).only_enforce_if(born)
            return
        duration = copy_time(self.problem, buffer)
        if buffer.upper - buffer.lower < duration:
            out = model.new_constant(0)
            start = model.new_constant(buffer.lower)
        else:
            out = model.new_bool_var("")
            start = model.new_int_var(buffer.lower, buffer.upper - duration, "")
            self._copies.append(
                model.new_optional_fixed_size_interval_var(start, duration, out, "")
            )
        tensor.out, tensor.out_start = out, start
        finish = start + duration
        for born in births:
            if buffer.output:
                model.add_bool_or(born.negated(), out)
            for j, pieces in enumerate(served):
                away = model.new_bool_var("")
                model.add(sum(p.resident for p in pieces) + away == 1)
                model.add_bool_or(born.negated(), away.negated(), out)
                model.add(finish <= buffer.uses[j].start).only_enforce_if(born, away)
                for piece in pieces:
                    if piece.fresh is not None:
                        model.add_bool_or(born.negated(), piece.fresh.negated(), out)
                        model.add(finish <= piece.begin).only_enforce_if(born, piece.fresh)
        # The residence that the tensor is born into lasts until the copy out has ended.
        for space in self.problem.spaces:
            in_first: IntVar | None = None
            for j in range(len(buffer.uses)):
                served_here = tensor.pieces.get((j, space.name))
                if served_here is None:
                    break
                if j == 0:
                    in_first = served_here.born
                else:
                    both = model.new_bool_var("")
                    assert served_here.kept is not None
                    assert in_first is not None
                    model.add_bool_and(in_first, served_here.kept).only_enforce_if(both)
                    model.add_bool_or(in_first.negated(), served_here.kept.negated(), both)
                    in_first = both
                assert in_first is not None
                after = tensor.pieces.get((j + 1, space.name))
                enforced: list[Any] = [in_first, out]
                if after is not None:
                    assert after.kept is not None
                    enforced.append(after.kept.negated())
                model.add(finish <= served_here.end).only_enforce_if(*enforced)

    # ------------------------------------------------------------------ constraints

    def overlap(self, space: str, capacity: int) -> None:
        """Pieces in a space do not overlap; redundantly, their sizes fit at every time."""
        areas = self._areas[space]
        self.model.add_no_overlap_2d([a[0] for a in areas], [a[1] for a in areas])
        self.model.add_cumulative([a[0] for a in areas], [a[2] for a in areas], capacity)

    def copy_engine(self) -> None:
        """At most so many copies at a time."""
        engine = self.problem.copy_engine
        if engine is None or not self._copies:
            return
        if engine.engines == 1:
            self.model.add_no_overlap(self._copies)
        else:
            self.model.add_cumulative(self._copies, [1] * len(self._copies), engine.engines)

    def load(self, space: str, capacity: int) -> None:
        """Redundant: what certainly lies in a space at a time fits, as linear inequalities.

        A use that is served holds its tensor; a kept one also since the use before, a fresh one
        also during the shortest copy.
        """
        spans: list[tuple[int, int, IntVar, int]] = []
        for tensor in self.tensors:
            uses, size = tensor.buffer.uses, tensor.buffer.size
            lower = tensor.buffer.lower
            assert lower is not None
            duration = copy_time(self.problem, tensor.buffer) if self.problem.copy_engine else 0
            for (j, name), piece in tensor.pieces.items():
                if name != space:
                    continue
                start = uses[j].start
                spans.append((start, uses[j].end, piece.resident, size))
                if piece.kept is not None:
                    spans.append((uses[j - 1].end, start, piece.kept, size))
                if piece.born is not None:
                    spans.append((lower, start, piece.born, size))
                if piece.fresh is not None:
                    spans.append((start - duration, start, piece.fresh, size))
        held = [
            (p.start or 0, p.end or 0, self._sizes[p.buffer])
            for p in (self.fixed.buffers if self.fixed else ())
            if p.buffer not in self.free and p.space == space
        ]
        for time in sorted({s[0] for s in spans}):
            self.clock.check()
            live = [(literal, size) for s, e, literal, size in spans if s <= time < e]
            room = capacity - sum(size for s, e, size in held if s <= time < e)
            if sum(size for _, size in live) > room:
                self.model.add(sum(size * literal for literal, size in live) <= room)

    def copy_windows(self) -> None:
        """Redundant: copies that must lie within a window of time fit into it."""
        engine = self.problem.copy_engine
        if engine is None or self.fixed is not None:
            return
        rows: list[tuple[int, int, IntVar, int]] = []
        for tensor in self.tensors:
            lower = tensor.buffer.lower
            assert lower is not None
            for (j, _), piece in tensor.pieces.items():
                if piece.fresh is not None:
                    duration = copy_time(self.problem, tensor.buffer)
                    rows.append((lower, tensor.buffer.uses[j].start, piece.fresh, duration))
        for left in sorted({r[0] for r in rows}):
            self.clock.check()
            for right in sorted({r[1] for r in rows if r[1] > left}):
                inside = [r for r in rows if left <= r[0] and r[1] <= right]
                room = engine.engines * (right - left)
                if len(inside) > 1 and sum(r[3] for r in inside) > room:
                    self.model.add(sum(r[3] * r[2] for r in inside) <= room)

    # ------------------------------------------------------------------ solutions

    def extract(self, values: list[int]) -> MemorySchedule:
        """Solver values to the schedule, the fixed tensors included."""
        places: list[PlacedBuffer] = []
        copies: list[ScheduledCopy] = []
        if self.fixed is not None:
            places += [p for p in self.fixed.buffers if p.buffer not in self.free]
            copies += [c for c in self.fixed.copies if c.buffer not in self.free]

        def value(variable: IntVar | None) -> int:
            return 0 if variable is None else values[variable.index]

        for tensor in self.tensors:
            buffer = tensor.buffer
            home = self.problem.home
            duration = copy_time(self.problem, buffer) if self.problem.copy_engine else 0
            mine: list[PlacedBuffer] = []
            for j in range(len(buffer.uses)):
                for space in self.problem.spaces:
                    piece = tensor.pieces.get((j, space.name))
                    if piece is None or not value(piece.resident):
                        continue
                    if value(piece.kept):
                        last = mine.pop()
                        begin, offset = last.start, last.offset
                    else:
                        begin = value(piece.begin)
                        offset = value(piece.offset) * buffer.alignment
                    if value(piece.fresh):
                        at = value(piece.copy)
                        copies.append(
                            ScheduledCopy(
                                buffer=buffer.id,
                                source=home,
                                target=space.name,
                                start=at,
                                end=at + duration,
                            )
                        )
                    mine.append(
                        PlacedBuffer(
                            buffer=buffer.id,
                            offset=offset,
                            space=space.name,
                            start=begin,
                            end=value(piece.end),
                        )
                    )
            born = any(value(p.born) for p in tensor.pieces.values())
            if born and tensor.out is not None and value(tensor.out):
                at = value(tensor.out_start)
                copies.append(
                    ScheduledCopy(
                        buffer=buffer.id,
                        source=mine[0].space,
                        target=home,
                        start=at,
                        end=at + duration,
                    )
                )
            places += mine
        return MemorySchedule(
            buffers=tuple(places), copies=tuple(sorted(copies, key=lambda c: (c.start, c.buffer)))
        )

    def hint(self, schedule: MemorySchedule) -> None:
        """Hint the free tensors with a schedule, as far as it has the model's form."""
        by_name: dict[str, list[PlacedBuffer]] = {}
        for place in schedule.buffers:
            by_name.setdefault(place.buffer, []).append(place)
        for tensor in self.tensors:
            places = by_name.get(tensor.buffer.id, [])
            for (j, space), piece in tensor.pieces.items():
                use = tensor.buffer.uses[j]
                covering = [
                    p
                    for p in places
                    if p.space == space and (p.start or 0) <= use.start and use.end <= (p.end or 0)
                ]
                self.model.add_hint(piece.resident, bool(covering))
                if covering:
                    offset = covering[0].offset // tensor.buffer.alignment
                    self.model.add_hint(piece.offset, offset)
