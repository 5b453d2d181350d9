"""Random problems, and exhaustive search by the checker alone."""

from __future__ import annotations

import itertools
import random

from cpsched.families.memory.check import check, height
from cpsched.families.memory.problem import (
    Alias,
    Buffer,
    CopyEngine,
    Gap,
    MemoryProblem,
    MemorySchedule,
    PlacedBuffer,
    Space,
    Use,
)


def plain(seed: int, n: int) -> MemoryProblem:
    """A random allocation of buffers with nothing but a lifetime and a size."""
    rng = random.Random(seed)
    buffers = []
    for i in range(n):
        lower = rng.randrange(8)
        buffers.append(
            Buffer(id=str(i), size=rng.randrange(7), lower=lower, upper=lower + rng.randrange(1, 6))
        )
    return MemoryProblem(buffers=tuple(buffers))


def featured(seed: int, n: int = 3) -> MemoryProblem:
    """A random allocation with alignments, gaps, windows, pins, aliases and in-place reuse."""
    rng = random.Random(seed)
    buffers: list[Buffer] = []
    for i in range(n):
        lower = rng.randrange(3)
        upper = lower + rng.randrange(2, 5)
        size = rng.randrange(4)
        data: dict[str, object] = {}
        if rng.random() < 0.3:
            data["alignment"] = rng.randrange(2, 4)
        if rng.random() < 0.4:
            start = rng.randrange(lower, upper - 1)
            window = None
            if rng.random() < 0.6:
                low = rng.randrange(size + 1)
                window = (low, rng.randrange(low, size + 1))
            data["gaps"] = (Gap(lower=start, upper=start + 1, window=window),)
        if rng.random() < 0.2:
            data["offset"] = rng.randrange(4)
        if buffers and rng.random() < 0.25:
            data["alias"] = Alias(of=rng.choice(buffers).id, shift=rng.randrange(3))
        if buffers and rng.random() < 0.35:
            data["in_place"] = (rng.choice(buffers).id,)
        buffers.append(Buffer(id=f"b{i}", size=size, lower=lower, upper=upper, **data))
    return MemoryProblem(buffers=tuple(buffers))


def schedule_of(problem: MemoryProblem, offsets) -> MemorySchedule:
    """The allocation with the given offsets, in the problem's order."""
    return MemorySchedule(
        buffers=tuple(
            PlacedBuffer(buffer=b.id, offset=o)
            for b, o in zip(problem.buffers, offsets, strict=True)
        )
    )


def least_height(problem: MemoryProblem, limit: int) -> int | None:
    """The least height over all offsets below ``limit``; None when nothing is valid."""
    best = None
    for offsets in itertools.product(range(limit), repeat=len(problem.buffers)):
        schedule = schedule_of(problem, offsets)
        reached = height(problem, schedule)
        if (best is None or reached < best) and not check(problem, schedule):
            best = reached
    return best


def stacked_height(problem: MemoryProblem) -> int:
    """The least height of `plain` buffers: each rests on the ground or on another one.

    Offsets that do not fall: every allocation can be built in their order, so what is still to
    come at a time lies above everything placed there. A buffer that is never alive has its end.
    """
    buffers = [b for b in problem.buffers if b.size and b.lower < b.upper]
    times = sorted({b.lower for b in buffers})
    live = [[t for t, time in enumerate(times) if b.lower <= time < b.upper] for b in buffers]
    best = [sum(b.size for b in buffers)]
    never = max((b.size for b in problem.buffers), default=0)

    def extend(top: list[int], left: list[int], last: int) -> None:
        rest = list(top)
        for i in left:
            for t in live[i]:
                rest[t] += buffers[i].size
        if max(rest, default=0) >= best[0]:
            return
        if not left:
            best[0] = max(top)
            return
        for i in left:
            floor = max(top[t] for t in live[i])
            if floor >= last:
                raised = [floor + buffers[i].size if t in live[i] else h for t, h in enumerate(top)]
                extend(raised, [k for k in left if k != i], floor)

    if buffers:
        best[0] += 1
        extend([0] * len(times), list(range(len(buffers))), 0)
    return max(best[0], never)


def tiny_mapping(seed: int) -> MemoryProblem:
    """Two or three tensors, one fast space, few time units."""
    rng = random.Random(seed)
    buffers = []
    for i in range(rng.randrange(2, 4)):
        lower = rng.randrange(2)
        first = rng.randrange(lower, 3)
        uses = [Use(start=first, end=first + 1, benefit={"fast": rng.randrange(1, 9)})]
        if rng.random() < 0.6:
            second = rng.randrange(first + 1, 6)
            uses.append(Use(start=second, end=second + 1, benefit={"fast": rng.randrange(1, 9)}))
        buffers.append(
            Buffer(
                id=f"t{i}",
                size=rng.randrange(1, 4),
                lower=lower,
                upper=6,
                uses=tuple(uses),
                input=rng.random() < 0.5,
                output=rng.random() < 0.3,
            )
        )
    return MemoryProblem(
        buffers=tuple(buffers),
        spaces=(Space(name="fast", capacity=rng.randrange(2, 5)),),
        copy_engine=CopyEngine(rate=rng.randrange(1, 4)),
        base_time=50,
    )
