"""Checks of the ordering form: the executed operations, and the lifetimes that follow from them.

Step ``k`` executes the k-th entry of ``order``. A tensor written in a step is alive from it to the
last step that reads that version (at least for its own step); a version is read until the tensor
is written again. Tensors that no operation writes are alive from step 0 to their last read, outputs
of the graph from their last writing to the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cpsched.families.memory.problem import MemoryProblem, MemorySchedule
from cpsched.validate import Violation

#: One version of a tensor: its name and the steps ``[first, last)`` in which it is alive.
Version = tuple[str, int, int]


def versions(problem: MemoryProblem, order: Sequence[str]) -> list[Version]:
    """The versions of every tensor in an order of known operations, by tensor and time.

    A tensor that nothing writes and nothing reads has no version unless it is an output.
    """
    operation = {o.id: o for o in problem.operations}
    writes: dict[str, list[int]] = {b.id: [] for b in problem.buffers}
    reads: dict[str, list[int]] = {b.id: [] for b in problem.buffers}
    written = {name for o in problem.operations for name in o.outputs}
    for step, name in enumerate(order):
        for read in operation[name].inputs:
            reads[read].append(step)
        for write in operation[name].outputs:
            writes[write].append(step)
    out: list[Version] = []
    for buffer in problem.buffers:
        starts = writes[buffer.id] if buffer.id in written else [0]
        k = 0
        for i, start in enumerate(starts):
            until = starts[i + 1] if i + 1 < len(starts) else len(order)
            end = start + 1 if buffer.id in written else 0
            while k < len(reads[buffer.id]) and reads[buffer.id][k] < until:
                end = max(end, reads[buffer.id][k] + 1)
                k += 1
            if buffer.output and i + 1 == len(starts):
                end = len(order)
            if start < end:
                out.append((buffer.id, start, end))
    return out


def loads(problem: MemoryProblem, order: Sequence[str]) -> list[int]:
    """The sum of live sizes in every step of an order."""
    size = {b.id: b.size for b in problem.buffers}
    change = [0] * (len(order) + 1)
    for name, start, end in versions(problem, order):
        change[start] += size[name]
        change[end] -= size[name]
    out: list[int] = []
    now = 0
    for step in range(len(order)):
        now += change[step]
        out.append(now)
    return out


def check_ordering(problem: MemoryProblem, schedule: MemorySchedule) -> list[Violation]:
    """Every violation of an order and its allocation; empty when it is valid."""
    out = _check_order(problem, schedule)
    if out:
        return out
    return _check_places(problem, schedule)


def _check_order(problem: MemoryProblem, schedule: MemorySchedule) -> list[Violation]:
    operation = {o.id: o for o in problem.operations}
    buffer = {b.id: b for b in problem.buffers}
    out: list[Violation] = []
    counts = Counter(schedule.order)
    for name, count in counts.items():
        if name not in operation:
            out.append(Violation("order", f"operation {name} is not in the problem"))
            continue
        if count == 1:
            continue
        fixed = [b for b in operation[name].outputs if not buffer[b].recompute]
        if fixed or count > problem.executions:
            why = f"{fixed[0]} may not be recomputed" if fixed else "the limit is lower"
            out.append(
                Violation(
                    "recompute",
                    f"operation {name} is executed {count} times, but {why}",
                    {"operation": name},
                    count - 1,
                )
            )
    out += [
        Violation("order", f"operation {name} is not executed", {"operation": name})
        for name in operation
        if name not in counts
    ]
    if schedule.copies:
        out.append(Violation("order", "an ordering has no copies"))
    if out:
        return out
    written = {name for o in problem.operations for name in o.outputs}
    held = {b.id for b in problem.buffers if b.id not in written}
    for step, name in enumerate(schedule.order):
        out += [
            Violation(
                "precedence",
                f"operation {name} at step {step} reads {read} before it is written",
                {"operation": name, "buffer": read, "step": step},
            )
            for read in operation[name].inputs
            if read not in held
        ]
        held |= set(operation[name].outputs)
    return out


def _check_places(problem: MemoryProblem, schedule: MemorySchedule) -> list[Violation]:
    from cpsched.families.memory.check import overlapping

    buffer = {b.id: b for b in problem.buffers}
    expected = set(versions(problem, schedule.order))
    out: list[Violation] = []
    found: set[Version] = set()
    rectangles = []
    for place in schedule.buffers:
        if place.buffer not in buffer:
            out.append(Violation("buffers", f"buffer {place.buffer} is not in the problem"))
            continue
        b = buffer[place.buffer]
        where = {"buffer": b.id, "offset": place.offset}
        if place.start is None or place.end is None:
            out.append(Violation("lifetime", f"buffer {b.id}: 'from' and 'to' must be given"))
            continue
        version = (b.id, place.start, place.end)
        if version not in expected or version in found:
            out.append(
                Violation(
                    "lifetime",
                    f"buffer {b.id}: from {place.start} to {place.end} is not a lifetime that "
                    "follows from the order, or is given twice",
                    where,
                )
            )
        found.add(version)
        if problem.capacity is not None and place.offset + b.size > problem.capacity:
            over = place.offset + b.size - problem.capacity
            out.append(Violation("capacity", f"buffer {b.id} exceeds the capacity", where, over))
        if place.offset % b.alignment:
            out.append(
                Violation("alignment", f"buffer {b.id}: not a multiple of {b.alignment}", where)
            )
        if b.offset is not None and place.offset != b.offset:
            out.append(Violation("pinned", f"buffer {b.id}: not the pinned {b.offset}", where))
        if b.size > 0 and place.start < place.end:
            rectangles.append((place.start, place.end, place.offset, place.offset + b.size, b.id))
    for name, start, end in sorted(expected - found):
        out.append(
            Violation(
                "buffers",
                f"buffer {name} has no place from {start} to {end}",
                {"buffer": name, "time": start},
            )
        )
    for a, c in overlapping(rectangles):
        left, right = rectangles[a], rectangles[c]
        out.append(
            Violation(
                "overlap",
                f"buffers {left[4]} and {right[4]} share memory",
                {"buffers": [left[4], right[4]]},
            )
        )
    return out
