"""Bounds of the `memory` family and their recomputation from the problem alone."""

from __future__ import annotations

from collections import defaultdict
from math import gcd

import numpy as np

from cpsched.errors import Infeasible, ProblemError
from cpsched.families.memory.check import owners, pieces_of
from cpsched.families.memory.prepare import Instance, Ints
from cpsched.families.memory.problem import Buffer, MemoryProblem
from cpsched.result import Bound, Number


def loads(instance: Instance) -> Ints:
    """Bytes needed in each period of compressed time, in units: a lower bound of the height.

    Pieces of one block that overlap count once; blocks that may take each other's place count as
    if they did.
    """
    periods = len(instance.times)
    change = np.zeros(periods + 1, dtype=np.int64)
    # Pieces of one buffer never overlap in time, those of aliases may.
    several = np.bincount(instance.block_of, minlength=instance.n) > 1
    single = ~several[instance.piece_block]
    heights = instance.piece_high - instance.piece_low
    np.add.at(change, instance.piece_start[single], heights[single])
    np.add.at(change, instance.piece_end[single], -heights[single])
    load = np.cumsum(change)[:periods]
    by_block: dict[int, list[int]] = defaultdict(list)
    for p in np.flatnonzero(~single).tolist():
        by_block[int(instance.piece_block[p])].append(p)
    for pieces in by_block.values():
        starts = instance.piece_start[pieces]
        ends = instance.piece_end[pieces]
        cuts = np.unique(np.concatenate([starts, ends]))
        for s, e in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            live = [p for p, a, b in zip(pieces, starts, ends, strict=True) if a <= s and b >= e]
            load[s:e] += _union(
                [(int(instance.piece_low[p]), int(instance.piece_high[p])) for p in live]
            )
    for i, j in instance.takes:
        a, b = int(instance.block_of[i]), int(instance.block_of[j])
        s = max(int(instance.start[a]), int(instance.start[b]))
        e = min(int(instance.end[a]), int(instance.end[b]))
        if s < e:
            load[s:e] -= min(int(instance.size[a]), int(instance.size[b]))
    return load


def _union(intervals: list[tuple[int, int]]) -> int:
    total, reach = 0, -1
    for low, high in sorted(intervals):
        total += max(0, high - max(low, reach))
        reach = max(reach, high)
    return total


def load_at(problem: MemoryProblem, time: int) -> int:
    """Bytes that any allocation needs at a time, by the same argument, from the problem alone.

    Where all live buffers are aligned to a common modulus, all but the topmost are rounded up.
    """
    owner = owners(problem.buffers)
    live: dict[str, list[tuple[int, int]]] = defaultdict(list)
    shift = _shifts(problem.buffers)
    index = {b.id: b for b in problem.buffers}
    for buffer in problem.buffers:
        for start, end, low, high in pieces_of(buffer):
            if start <= time < end:
                base = shift[buffer.id]
                live[owner[buffer.id]].append((base + low, base + high))
    total = sum(_union(one) for one in live.values())
    saved = 0
    for buffer in problem.buffers:
        for name in buffer.in_place:
            a, b = owner[buffer.id], owner[name]
            if a != b and a in live and b in live:
                saved += min(_reach(problem, owner, shift, a), _reach(problem, owner, shift, b))
    if saved:
        return total - saved
    common = 0
    for name in live:
        common = gcd(common, index[name].alignment)
    if common > 1 and all(len(one) == 1 and one[0][0] == 0 for one in live.values()):
        waste = [-one[0][1] % common for one in live.values()]
        total += sum(waste) - max(waste)
    return total


def _reach(problem: MemoryProblem, owner: dict[str, str], shift: dict[str, int], root: str) -> int:
    return max((shift[b.id] + b.size for b in problem.buffers if owner[b.id] == root), default=0)


def _shifts(buffers: tuple[Buffer, ...]) -> dict[str, int]:
    if all(b.alias is None for b in buffers):
        return dict.fromkeys((b.id for b in buffers), 0)
    index = {b.id: b for b in buffers}
    out: dict[str, int] = {}
    for buffer in buffers:
        total, current = 0, buffer
        while current.alias is not None:
            total += current.alias.shift
            current = index[current.alias.of]
        out[buffer.id] = total
    return out


def allocation_bound(instance: Instance) -> Bound:
    """The load bound on the height.

    Raises
    ------
    Infeasible
        When it exceeds the capacity.
    """
    problem = instance.problem
    load = loads(instance)
    if len(load) == 0:
        return Bound(0, "load", "height", {"time": 0})
    if instance.takes or (instance.modulus > 1).any():
        most = 20 if len(instance.size) <= 5000 else 1
        candidates = np.argsort(-load, kind="stable")[:most]
        value, time = max(
            (load_at(problem, int(instance.times[t])), -int(instance.times[t])) for t in candidates
        )
    else:
        # Nothing is shared or rounded up: `load_at` counts the same bytes.
        fullest = int(load.argmax())
        value, time = int(load[fullest]) * instance.unit, -int(instance.times[fullest])
    capacity = problem.capacity
    if capacity is not None and value > capacity:
        raise Infeasible(
            f"at time {-time} the live buffers need {value} bytes, above the capacity of "
            f"{capacity}",
            "load",
        )
    return Bound(value, "load", "height", {"time": -time})


def reach(problem: MemoryProblem, name: str) -> int:
    """The least end of a buffer: where it is pinned, or as deep in its owner as its alias says."""
    buffer = next(b for b in problem.buffers if b.id == name)
    start = _shifts(problem.buffers)[name] if buffer.offset is None else buffer.offset
    return start + buffer.size


def size_bound(problem: MemoryProblem) -> Bound:
    """The height that one buffer reaches by its size and position alone, alive or not."""
    shift = _shifts(problem.buffers)
    value, name = max(
        ((shift[b.id] if b.offset is None else b.offset) + b.size, b.id)
        for b in problem.buffers
        if b.size > 0
    )
    return Bound(value, "size", "height", {"buffer": name})


def operation_need(problem: MemoryProblem, name: str) -> int:
    """Bytes of an operation's inputs and outputs: alive together in any order."""
    size = {b.id: b.size for b in problem.buffers}
    operation = next(o for o in problem.operations if o.id == name)
    return sum(size[x] for x in {*operation.inputs, *operation.outputs})


def operation_load(problem: MemoryProblem) -> tuple[int, str]:
    """The largest need of a single operation, and which one has it."""
    size = {b.id: b.size for b in problem.buffers}
    return max((sum(size[x] for x in {*o.inputs, *o.outputs}), o.id) for o in problem.operations)


def use_knapsack(problem: MemoryProblem) -> int:
    """A lower bound of the execution time: what fits at once can be saved at once, no more.

    Uses are grouped by their start; those of a group are in progress together, so the tensors
    that gain lie in the spaces together. Each group's gain is at most that of a fractional
    knapsack with the joint capacity of all spaces.
    """
    capacity = sum(s.capacity for s in problem.spaces)
    largest = max((s.capacity for s in problem.spaces), default=0)
    groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for buffer in problem.buffers:
        for use in buffer.uses:
            gain = max(use.benefit.values(), default=0)
            if gain and buffer.size <= largest:
                groups[use.start].append((gain, buffer.size))
    saved = 0
    for items in groups.values():
        room = capacity
        for gain, size in sorted(items, key=lambda i: (-i[0] / max(1, i[1]), i)):
            if size <= room:
                saved += gain
                room -= size
            else:
                # The fraction that still fits, rounded down: gains are whole numbers, and so is
                # the best sum of them.
                saved += gain * room // size
                break
    return problem.base_time - saved


def recompute(problem: MemoryProblem, bound: Bound) -> Number:
    """The value that a bound's argument and data prove.

    Raises
    ------
    ProblemError
        For an argument that is not recomputed (a solver's proof).
    """
    if bound.argument == "load":
        return load_at(problem, int(bound.data["time"]))
    if bound.argument == "size":
        return reach(problem, str(bound.data["buffer"]))
    if bound.argument == "subset":
        from cpsched.families.memory.subset_bound import refuted

        return refuted(problem, bound.data)
    if bound.argument == "use-knapsack":
        return use_knapsack(problem)
    if bound.argument == "prices":
        from cpsched.families.memory.mapping_bound import least_time, prices_from

        return least_time(problem, prices_from(problem, bound.data))
    if bound.argument == "tensor-prices":
        from cpsched.families.memory.mapping_prices import least_time_of

        return least_time_of(problem, bound.data)
    if bound.argument == "operation":
        return operation_need(problem, str(bound.data["operation"]))
    if bound.argument == "work":
        return sum(o.duration for o in problem.operations)
    raise ProblemError(
        "the bound must have an argument that can be recomputed",
        place="argument",
        value=bound.argument,
        remedy="Bounds proved by a search are verified by searching again.",
    )
