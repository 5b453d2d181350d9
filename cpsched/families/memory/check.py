"""The checker of the `memory` family, from the definition alone.

It imports neither the model nor the core; it is what every schedule must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cpsched.families.memory.check_mapping import check_mapping
from cpsched.families.memory.check_ordering import check_ordering
from cpsched.families.memory.problem import Buffer, MemoryProblem, MemorySchedule, PlacedBuffer
from cpsched.result import Values
from cpsched.validate import Violation

#: A part of a buffer that occupies ``[low, high)`` from its offset during ``[start, end)``.
Piece = tuple[int, int, int, int]

#: Overlaps reported at most; a schedule with more is as wrong as one with these.
MOST_OVERLAPS = 1000


def check(problem: MemoryProblem, schedule: MemorySchedule) -> list[Violation]:
    """Every violation of a schedule; empty when it is valid."""
    if problem.form == "mapping":
        out = check_mapping(problem, schedule)
    elif problem.form == "ordering":
        out = check_ordering(problem, schedule)
    else:
        out = _check_allocation(problem, schedule)
    if not out and schedule.height is not None and schedule.height != height(problem, schedule):
        out.append(
            Violation(
                "height",
                f"the stated height {schedule.height} is not the reached "
                f"{height(problem, schedule)}",
            )
        )
    return out


def evaluate(problem: MemoryProblem, schedule: MemorySchedule, names: Sequence[str]) -> Values:
    """Values of the named objectives of a valid schedule, in order."""
    return tuple(_VALUE[name](problem, schedule) for name in names)


def height(problem: MemoryProblem, schedule: MemorySchedule) -> int:
    """The largest ``offset + size`` (mapping: within the first space)."""
    size = {b.id: b.size for b in problem.buffers}
    first = problem.spaces[0].name if problem.spaces else None
    return max(
        (
            p.offset + size[p.buffer]
            for p in schedule.buffers
            if (first is None or p.space == first) and size[p.buffer] > 0
        ),
        default=0,
    )


def execution_time(problem: MemoryProblem, schedule: MemorySchedule) -> int:
    """Mapping: base time less the benefits gained; ordering: time of all executed operations."""
    if problem.form == "mapping":
        from cpsched.families.memory.check_mapping import benefits

        return problem.base_time - sum(benefits(problem, schedule).values())
    duration = {o.id: o.duration for o in problem.operations}
    return sum(duration[name] for name in schedule.order)


def peak_memory(problem: MemoryProblem, schedule: MemorySchedule) -> int:
    """Ordering: the largest sum of live sizes over the steps."""
    from cpsched.families.memory.check_ordering import loads

    return max(loads(problem, schedule.order), default=0)


_VALUE = {"height": height, "execution_time": execution_time, "peak_memory": peak_memory}


def pieces_of(buffer: Buffer) -> list[Piece]:
    """What a buffer occupies, relative to its offset, over its lifetime; empty parts left out."""
    assert buffer.lower is not None
    assert buffer.upper is not None
    out: list[Piece] = []
    now = buffer.lower
    for gap in buffer.gaps:
        out.append((now, gap.lower, 0, buffer.size))
        if gap.window is not None:
            out.append((gap.lower, gap.upper, *gap.window))
        now = gap.upper
    out.append((now, buffer.upper, 0, buffer.size))
    return [p for p in out if p[0] < p[1] and p[2] < p[3]]


def _check_allocation(problem: MemoryProblem, schedule: MemorySchedule) -> list[Violation]:
    known = {b.id: b for b in problem.buffers}
    out: list[Violation] = []
    placed: dict[str, PlacedBuffer] = {}
    for one in schedule.buffers:
        if one.buffer not in known:
            out.append(Violation("buffers", f"buffer {one.buffer} is not in the problem"))
        elif one.buffer in placed:
            out.append(
                Violation("buffers", f"buffer {one.buffer} is placed twice", {"buffer": one.buffer})
            )
        else:
            placed[one.buffer] = one
    out += [
        Violation("buffers", f"buffer {name} has no place", {"buffer": name})
        for name in known
        if name not in placed
    ]
    for field, given in (("copies", schedule.copies), ("order", schedule.order)):
        if given:
            out.append(Violation("buffers", f"an allocation has no {field}"))
    if out:
        return out
    for buffer in problem.buffers:
        out += _check_place(problem, buffer, placed)
    return out + _check_overlaps(problem, {k: v.offset for k, v in placed.items()})


def _check_place(
    problem: MemoryProblem, buffer: Buffer, placed: dict[str, PlacedBuffer]
) -> list[Violation]:
    one = placed[buffer.id]
    out: list[Violation] = []

    def report(rule: str, message: str, amount: int | None = None) -> None:
        where: dict[str, Any] = {"buffer": buffer.id, "offset": one.offset}
        out.append(Violation(rule, f"buffer {buffer.id}: {message}", where, amount))

    if (one.start, one.end) not in ((None, None), (buffer.lower, buffer.upper)):
        report("lifetime", f"from {one.start} to {one.end} is not its lifetime")
    if problem.capacity is not None and one.offset + buffer.size > problem.capacity:
        over = one.offset + buffer.size - problem.capacity
        report("capacity", f"its end {one.offset + buffer.size} exceeds {problem.capacity}", over)
    if one.offset % buffer.alignment:
        report("alignment", f"offset {one.offset} is not a multiple of {buffer.alignment}")
    if buffer.offset is not None and one.offset != buffer.offset:
        report("pinned", f"offset {one.offset} is not the pinned {buffer.offset}")
    if buffer.alias is not None:
        wanted = placed[buffer.alias.of].offset + buffer.alias.shift
        if one.offset != wanted:
            report("alias", f"offset {one.offset} is not {wanted}, inside {buffer.alias.of}")
    return out


def owners(buffers: Sequence[Buffer]) -> dict[str, str]:
    """The buffer that owns each buffer's memory: the end of its chain of aliases."""
    of = {b.id: b.alias.of if b.alias else b.id for b in buffers}
    if all(b.alias is None for b in buffers):
        return of
    out: dict[str, str] = {}
    for name in of:
        chain = [name]
        while chain[-1] not in out and of[chain[-1]] != chain[-1]:
            chain.append(of[chain[-1]])
        root = out.get(chain[-1], chain[-1])
        for link in chain:
            out[link] = root
    return out


def _check_overlaps(problem: MemoryProblem, offset: dict[str, int]) -> list[Violation]:
    owner = owners(problem.buffers)
    in_place = {(b.id, name) for b in problem.buffers for name in b.in_place}

    def allowed(a: str, b: str) -> bool:
        if owner[a] == owner[b]:
            return True
        return ((a, b) in in_place or (b, a) in in_place) and offset[a] == offset[b]

    rectangles = [
        (start, end, offset[b.id] + low, offset[b.id] + high, b.id)
        for b in problem.buffers
        for start, end, low, high in pieces_of(b)
    ]
    out: list[Violation] = []
    seen: set[tuple[str, str]] = set()
    for a, b in overlapping(rectangles):
        left, right = rectangles[a], rectangles[b]
        key = (min(left[4], right[4]), max(left[4], right[4]))
        if key in seen or allowed(*key):
            continue
        seen.add(key)
        time, place = max(left[0], right[0]), max(left[2], right[2])
        out.append(
            Violation(
                "overlap",
                f"buffers {key[0]} and {key[1]} share memory at offset {place}, time {time}",
                {"buffers": list(key), "time": time, "offset": place},
                min(left[3], right[3]) - place,
            )
        )
        if len(out) >= MOST_OVERLAPS:
            break
    return out


def overlapping(
    rectangles: Sequence[tuple[int, int, int, int, Any]],
    tick: Callable[[], object] | None = None,
) -> list[tuple[int, int]]:
    """Pairs of rectangles ``(start, end, low, high, ...)`` that overlap in time and space.

    A sweep over time keeps the live rectangles in numpy slots, so that each newcomer is compared
    with all of them at once. Empty and reversed ones overlap with nothing. Stops after many pairs.
    ``tick`` is called every thousand events; it may raise to end the sweep.
    """
    listed = [(i, r) for i, r in enumerate(rectangles) if r[0] < r[1]]
    events = sorted([(r[0], 1, i) for i, r in listed] + [(r[1], 0, i) for i, r in listed])
    most = live = 0
    for _, opens, _ in events:
        live += 1 if opens else -1
        most = max(most, live)
    low = np.zeros(most, dtype=np.int64)
    high = np.zeros(most, dtype=np.int64)
    who = np.zeros(most, dtype=np.int64)
    free = list(range(most - 1, -1, -1))
    slot: dict[int, int] = {}
    pairs: list[tuple[int, int]] = []
    for count, (_, opens, i) in enumerate(events):
        if tick is not None and count % 1024 == 0:
            tick()
        if not opens:
            k = slot.pop(i)
            low[k] = high[k] = 0
            free.append(k)
            continue
        _, _, bottom, top, _ = rectangles[i]
        hits = (low < top) & (high > bottom)
        if hits.any():
            pairs += [(int(who[k]), i) for k in np.flatnonzero(hits)]
            if len(pairs) > 50 * MOST_OVERLAPS:
                return pairs
        k = free.pop()
        low[k], high[k], who[k] = bottom, top, i
        slot[i] = k
    return pairs
