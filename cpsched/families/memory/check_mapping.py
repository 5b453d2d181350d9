"""Checks of the mapping form: residences in fast spaces, and the copies that make them useful.

What holds: a tensor that is not an input is written at its ``lower``, into the fast space where a
residence begins there, else into the home memory. Any other residence begins with a copy from the
home memory, for which its place is taken from the copy's start. A use gains its benefit when one
residence, ready by the use's start, covers it. Any other use reads the home memory, which must
hold the tensor by then: from its ``lower`` (inputs, and tensors written there), or from the end of
a copy out of a residence.
"""

from __future__ import annotations

from collections import defaultdict

from cpsched.families.memory.problem import (
    Buffer,
    MemoryProblem,
    MemorySchedule,
    PlacedBuffer,
    ScheduledCopy,
    Use,
)
from cpsched.validate import Violation


def copy_time(problem: MemoryProblem, buffer: Buffer) -> int:
    """Time units that one copy of a tensor takes (at least 1)."""
    engine = problem.copy_engine
    assert engine is not None
    return max(1, engine.latency + -(-buffer.size // engine.rate))


class _Tensor:
    """The residences and copies of one tensor, in time order."""

    def __init__(self, problem: MemoryProblem, buffer: Buffer) -> None:
        self.problem, self.buffer = problem, buffer
        self.places: list[PlacedBuffer] = []
        self.copies: list[ScheduledCopy] = []

    def written_fast(self) -> bool:
        """Whether the tensor is written into a fast space."""
        return not self.buffer.input and any(p.start == self.buffer.lower for p in self.places)

    def ready(self, place: PlacedBuffer) -> int | None:
        """The time from which a residence holds the tensor; None when it never does."""
        if place.start == self.buffer.lower and not self.buffer.input:
            return place.start
        ends = [c.end for c in self.copies if c.target == place.space and _within(c, place)]
        return min(ends, default=None)

    def home_from(self) -> int | None:
        """The time from which the home memory holds the tensor; None when it never does."""
        if not self.written_fast():
            return self.buffer.lower
        return min((c.end for c in self.copies if c.target == self.problem.home), default=None)

    def serves(self, use: Use) -> PlacedBuffer | None:
        """The residence that a use reads, or None when it reads the home memory."""
        for place in self.places:
            ready = self.ready(place)
            assert place.start is not None
            assert place.end is not None
            covers = place.start <= use.start and use.end <= place.end
            if covers and ready is not None and ready <= use.start:
                return place
        return None


def _within(copy: ScheduledCopy, place: PlacedBuffer) -> bool:
    assert place.start is not None
    assert place.end is not None
    return place.start <= copy.start and copy.end <= place.end


def _tensors(problem: MemoryProblem, schedule: MemorySchedule) -> dict[str, _Tensor]:
    out = {b.id: _Tensor(problem, b) for b in problem.buffers}
    for place in schedule.buffers:
        out[place.buffer].places.append(place)
    for copy in schedule.copies:
        out[copy.buffer].copies.append(copy)
    for tensor in out.values():
        tensor.places.sort(key=lambda p: p.start or 0)
    return out


def benefits(problem: MemoryProblem, schedule: MemorySchedule) -> dict[str, int]:
    """Time saved by each tensor's residences in a valid schedule."""
    out: dict[str, int] = {}
    for name, tensor in _tensors(problem, schedule).items():
        total = 0
        for use in tensor.buffer.uses:
            place = tensor.serves(use)
            if place is not None:
                total += use.benefit.get(place.space, 0)
        out[name] = total
    return out


def check_mapping(problem: MemoryProblem, schedule: MemorySchedule) -> list[Violation]:
    """Every violation of a mapping; empty when it is valid."""
    out = _check_names(problem, schedule)
    if out:
        return out
    tensors = _tensors(problem, schedule)
    for tensor in tensors.values():
        out += _check_residences(problem, tensor)
        out += _check_copies(problem, tensor)
        out += _check_reads(tensor)
    return out + _check_spaces(problem, schedule) + _check_engine(problem, schedule)


def _check_names(problem: MemoryProblem, schedule: MemorySchedule) -> list[Violation]:
    known = {b.id for b in problem.buffers}
    spaces = {s.name for s in problem.spaces}
    out: list[Violation] = []
    for place in schedule.buffers:
        if place.buffer not in known:
            out.append(Violation("buffers", f"buffer {place.buffer} is not in the problem"))
        if place.space not in spaces:
            out.append(Violation("residence", f"space {place.space} is not in the problem"))
        if place.start is None or place.end is None:
            out.append(
                Violation("residence", f"buffer {place.buffer}: 'from' and 'to' must be given")
            )
    for copy in schedule.copies:
        if copy.buffer not in known:
            out.append(Violation("buffers", f"buffer {copy.buffer} is not in the problem"))
        ends = {copy.source, copy.target}
        if problem.home not in ends or not ends - {problem.home} <= spaces or len(ends) < 2:
            out.append(
                Violation(
                    "copy",
                    f"a copy goes between {problem.home} and a space, not from {copy.source} to "
                    f"{copy.target}",
                )
            )
    if schedule.copies and problem.copy_engine is None:
        out.append(Violation("copy_engine", "there are copies, but no copy engine"))
    if schedule.order:
        out.append(Violation("order", "a mapping has no order"))
    return out


def _check_residences(problem: MemoryProblem, tensor: _Tensor) -> list[Violation]:
    buffer = tensor.buffer
    capacity = {s.name: s.capacity for s in problem.spaces}
    out: list[Violation] = []
    last: int | None = None
    for place in tensor.places:
        assert place.start is not None
        assert place.end is not None
        assert buffer.lower is not None
        assert buffer.upper is not None
        where = {"buffer": buffer.id, "space": place.space, "time": place.start}
        if not buffer.lower <= place.start < place.end <= buffer.upper:
            out.append(
                Violation(
                    "residence",
                    f"buffer {buffer.id}: from {place.start} to {place.end} leaves its lifetime",
                    where,
                )
            )
        if last is not None and place.start < last:
            out.append(Violation("residence", f"buffer {buffer.id} resides twice at once", where))
        last = place.end if last is None else max(last, place.end)
        over = place.offset + buffer.size - capacity[place.space]
        if over > 0:
            out.append(
                Violation("capacity", f"buffer {buffer.id} exceeds {place.space}", where, over)
            )
        if place.offset % buffer.alignment:
            out.append(
                Violation(
                    "alignment",
                    f"buffer {buffer.id}: offset {place.offset} is not a multiple of "
                    f"{buffer.alignment}",
                    where,
                )
            )
        if tensor.ready(place) is None:
            out.append(
                Violation("copy", f"buffer {buffer.id} resides without being copied in", where)
            )
    return out


def _check_copies(problem: MemoryProblem, tensor: _Tensor) -> list[Violation]:
    buffer = tensor.buffer
    home_from = tensor.home_from()
    out: list[Violation] = []
    for copy in tensor.copies:
        where = {"buffer": buffer.id, "time": copy.start}
        needed = copy_time(problem, buffer)
        if copy.end - copy.start < needed:
            out.append(
                Violation(
                    "copy",
                    f"buffer {buffer.id}: a copy takes {needed}, not {copy.end - copy.start}",
                    where,
                    needed - (copy.end - copy.start),
                )
            )
        space = copy.target if copy.source == problem.home else copy.source
        inside = [p for p in tensor.places if p.space == space and _within(copy, p)]
        if not inside:
            out.append(
                Violation("copy", f"buffer {buffer.id} has no place in {space} for a copy", where)
            )
        if copy.source == problem.home:
            if home_from is None or copy.start < home_from:
                out.append(
                    Violation(
                        "availability",
                        f"buffer {buffer.id} is copied from {problem.home} before it is there",
                        where,
                    )
                )
            continue
        ready = [tensor.ready(p) for p in inside]
        if inside and not any(r is not None and r <= copy.start for r in ready):
            out.append(
                Violation(
                    "availability",
                    f"buffer {buffer.id} is copied from {space} before it is there",
                    where,
                )
            )
    return out


def _check_reads(tensor: _Tensor) -> list[Violation]:
    buffer = tensor.buffer
    home_from = tensor.home_from()
    out = [
        Violation(
            "availability",
            f"buffer {buffer.id} is used at {use.start}, but is in no memory by then",
            {"buffer": buffer.id, "time": use.start},
        )
        for use in buffer.uses
        if tensor.serves(use) is None and (home_from is None or home_from > use.start)
    ]
    if buffer.output and home_from is None:
        out.append(
            Violation(
                "output",
                f"buffer {buffer.id} is an output but never copied to {tensor.problem.home}",
                {"buffer": buffer.id},
            )
        )
    return out


def _check_spaces(problem: MemoryProblem, schedule: MemorySchedule) -> list[Violation]:
    from cpsched.families.memory.check import overlapping

    size = {b.id: b.size for b in problem.buffers}
    out: list[Violation] = []
    for space in problem.spaces:
        rectangles = [
            (p.start or 0, p.end or 0, p.offset, p.offset + size[p.buffer], p.buffer)
            for p in schedule.buffers
            if p.space == space.name and size[p.buffer] > 0
        ]
        for a, b in overlapping(rectangles):
            left, right = rectangles[a], rectangles[b]
            out.append(
                Violation(
                    "overlap",
                    f"buffers {left[4]} and {right[4]} share memory in {space.name}",
                    {"buffers": [left[4], right[4]], "space": space.name},
                )
            )
    return out


def _check_engine(problem: MemoryProblem, schedule: MemorySchedule) -> list[Violation]:
    if problem.copy_engine is None:
        return []
    events: dict[int, int] = defaultdict(int)
    for copy in schedule.copies:
        events[copy.start] += 1
        events[copy.end] -= 1
    running = 0
    for time in sorted(events):
        running += events[time]
        if running > problem.copy_engine.engines:
            return [
                Violation(
                    "copy_engine",
                    f"{running} copies run at time {time}, at most {problem.copy_engine.engines} "
                    "may",
                    {"time": time},
                    running - problem.copy_engine.engines,
                )
            ]
    return []
