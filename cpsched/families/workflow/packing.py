"""What whole tasks add up to: sums of subsets, the bound they prove, and partitions that meet it.

On machines that differ in speed alone a task is a whole number of grains of work, and a machine
has room for a whole number of them. Where sums of durations hardly ever come out even, the most
work that whole tasks can be on each machine proves more than the area does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cpsched.core.run import Run
from cpsched.families.workflow.area import grain_value, least_span, windows
from cpsched.families.workflow.prepare import Instance, Ints
from cpsched.result import Bound

#: Up to this many tasks all subsets are looked at (as sums over two halves of them).
MOST_PACKED = 42

#: Above this gap it is not how durations add up that counts.
NEAR = 2e-3

#: A proof takes up to this many seconds.
SECONDS = 1.0

#: Sums over one half that are matched with those of the other half at a time.
CHUNK = 1 << 14


def works(dur: Ints) -> tuple[Ints, Ints] | None:
    """Durations (tasks by machines, all positive) as grains per task times ticks per grain.

    None unless the machines differ in speed alone.
    """
    grain = np.gcd.reduce(dur, axis=0)
    if not bool((grain > 0).all()):
        return None
    work = dur // grain
    return (work[:, 0], grain) if bool((work == work[:, :1]).all()) else None


def subset_sums(work: Ints) -> Ints:
    """The sum of every subset; bit k of the index says whether item k belongs to it."""
    sums = np.zeros(1, dtype=np.int64)
    for w in work.tolist():
        sums = np.concatenate([sums, sums + w])
    return sums


class Subsets:
    """All subsets of some items, by their sums: those over one half matched with the others."""

    def __init__(self, work: Ints) -> None:
        half = len(work) // 2
        self.half = half
        self.left = subset_sums(work[:half])
        right = subset_sums(work[half:])
        self.order = np.argsort(right, kind="stable")
        self.right = right[self.order]

    def largest(self, room: int) -> int:
        """The largest sum of a subset that is at most ``room``."""
        best = 0
        for first in range(0, len(self.left), CHUNK):
            part = self.left[first : first + CHUNK]
            part = part[part <= room]
            if len(part):
                at = np.searchsorted(self.right, room - part, side="right") - 1
                best = max(best, int((part + self.right[at]).max()))
            if best == room:
                break
        return best

    def between(self, low: int, high: int, rng: np.random.Generator) -> Iterator[int]:
        """Subsets (as bits) with a sum from ``low`` to ``high``, in an order that is random."""
        chunks = rng.permutation(-(-len(self.left) // CHUNK)).tolist()
        for chunk in chunks:
            part = self.left[chunk * CHUNK : (chunk + 1) * CHUNK]
            begin = np.searchsorted(self.right, low - part, side="left")
            end = np.searchsorted(self.right, high - part, side="right")
            hits = np.flatnonzero(end > begin)
            rng.shuffle(hits)
            for k in hits.tolist():
                pick = int(rng.integers(begin[k], end[k]))
                yield (chunk * CHUNK + k) | (int(self.order[pick]) << self.half)


def partition(work: Ints, room: Ints, rng: np.random.Generator, tries: int) -> Ints | None:
    """Items spread over bins that hold them all, found within some tries; the bin per item.

    The bins are filled one by one up to what all of them may leave free, the smallest first: it has
    the fewest subsets to be filled with.
    """
    slack = int(room.sum() - work.sum())
    if slack < 0 or bool((room < 0).any()):
        return None
    bins = np.argsort(room, kind="stable").tolist()
    out = np.full(len(work), bins[-1], dtype=np.int64)
    left = tries

    def fill(level: int, items: Ints, slack: int) -> bool:
        nonlocal left
        if level == len(bins) - 1:
            out[items] = bins[level]
            return True
        most = int(room[bins[level]])
        for bits in Subsets(work[items]).between(max(0, most - slack), most, rng):
            chosen = (bits >> np.arange(len(items))) & 1 == 1
            out[items[chosen]] = bins[level]
            free = most - int(work[items[chosen]].sum())
            if fill(level + 1, items[~chosen], slack - free):
                return True
            left -= 1
            if left <= 0:
                return False
        return False

    return out if fill(0, np.arange(len(work)), slack) else None


def packing_value(inst: Instance, a: int, b: int, least: int) -> int:
    """Ticks proved by what whole tasks add up to; 0 where the argument does not apply.

    The argument of `grain_value`, except that a machine does not process as many grains as fit,
    but as many as some subset of the tasks adds up to. Machines must differ in speed alone.
    """
    value = grain_value(inst, a, b, least)
    inside, around = windows(inst, a, b, least)
    rows = inst.dur[inside[inst.row_task]]
    count = int(inside.sum())
    if value <= 0 or not 1 < count <= MOST_PACKED or len(rows) > count or bool((rows <= 0).any()):
        return 0
    related = works(rows)
    if related is None:
        return 0
    work, grain = related
    subsets, need = Subsets(work), int(work.sum())

    def enough(span: int) -> bool:
        rooms = np.maximum(0, span - around) // grain
        return sum(subsets.largest(min(need, int(room))) for room in rooms) >= need

    return least_span(enough, value)


def prove(inst: Instance, run: Run) -> None:
    """Give the run the bound of `packing_value` where the tasks of a grain bound are few."""
    value = run.value()
    grain = next((b for b in run.bounds() if b.argument == "grain"), None)
    if run.done() or value is None or grain is None or run.clock.remaining() < SECONDS:
        return
    if value - (run.bound() or 0.0) > NEAR * value:
        return
    a, b = grain.data["window"]
    data = {"window": [a, b], "least": grain.data["least"]}
    run.clock.spend(SECONDS)
    ticks = packing_value(inst, a, b, grain.data["least"])
    if ticks > 0:
        run.raise_bound(Bound(inst.time(ticks), "packing", "makespan", data))
