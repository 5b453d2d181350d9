"""The least storage that any order of the tasks needs: a bound on the peak, and often its optimum.

Take any schedule in which every task takes time, and its tasks by their ends. Just before a task
ends there are on some machine what it reads and writes, what is kept, and every file that an
earlier task of that order wrote and a later one reads. So running the tasks one after the other in
that order on one machine needs no more than the schedule does, and the best order bounds all.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from cpsched.core.run import Run
from cpsched.families.workflow import greedy
from cpsched.families.workflow.prepare import NEVER, Instance, Ints, integers
from cpsched.families.workflow.replay import all_files
from cpsched.result import Bound

#: Sets of finished tasks that are looked at, at most.
STATES = 30_000

#: Of more tasks too many sets have about the same peak.
MOST_TASKS = 200

#: Estimated seconds per set and task.
SECONDS = 2e-6


@dataclass
class Order:
    """What the search over orders found: a bound, after how many sets, and the best order."""

    least: Fraction
    states: int
    order: list[int] | None


@dataclass
class _Files:
    """Files in whole units: their sizes, readers (bits of tasks) and whether they are kept."""

    scale: Fraction
    size: list[int]
    readers: list[int]
    kept: list[bool]
    #: Files per task: those that it writes, and those that it reads.
    written: list[list[int]]
    read: list[list[int]]
    #: Units of the files that are there before any task has run.
    given: int


def applies(inst: Instance) -> bool:
    """Whether every task runs and takes time, so that what it reads and writes exists at once."""
    if inst.n > MOST_TASKS:
        return False
    return not inst.problem.branches and not bool((inst.dur == 0).any())


def best_order(
    inst: Instance, states: int = STATES, over: Callable[[], bool] = lambda: False
) -> Order:
    """The order of the tasks with the least peak, or a bound on it after so many sets.

    Sets of finished tasks are taken by increasing peak, so the peak of the set that is looked at
    bounds that of every order. A task that leaves no more than before, and does not exceed that
    peak while it runs, is run at once: doing so later saves nothing.
    """
    files = _files(inst)
    write = [sum(files.size[f] for f in own) for own in files.written]
    stays = [
        sum(files.size[f] for f in own if files.readers[f] or files.kept[f])
        for own in files.written
    ]
    before = [0] * inst.n
    targets = np.repeat(np.arange(inst.n), np.diff(inst.pred_ptr)).tolist()
    for u, t in zip(inst.pred_src.tolist(), targets, strict=True):
        before[t] |= 1 << u

    def change(t: int, done: int) -> int:
        freed = sum(
            files.size[f]
            for f in files.read[t]
            if not files.kept[f] and not files.readers[f] & ~done & ~(1 << t)
        )
        return stays[t] - freed

    everything = (1 << inst.n) - 1
    heap = [(files.given, 0, 0, files.given)]
    came: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    lowest = {0: files.given}
    closed: set[int] = set()
    looked = peak = 0

    def reach(after: int, ran: Sequence[int], reached: int, level: int) -> None:
        if reached < lowest.get(after, reached + 1):
            lowest[after] = reached
            came[after] = (done, tuple(ran))
            heapq.heappush(heap, (reached, -after.bit_count(), after, level))

    def runnable(done: int) -> list[int]:
        return [t for t in range(inst.n) if not done >> t & 1 and not before[t] & ~done]

    while heap:
        peak, _, done, level = heapq.heappop(heap)
        if done in closed:
            continue
        closed.add(done)
        if done == everything:
            return Order(Fraction(peak) / files.scale, looked, _path(came, done))
        looked += 1
        if looked >= states or over():
            break
        ran: list[int] = []
        now, height = done, level
        while True:
            ready = runnable(now)
            free = (t for t in ready if height + write[t] <= peak and change(t, now) <= 0)
            t = next(free, -1)
            if t < 0:
                break
            height += change(t, now)
            now |= 1 << t
            ran.append(t)
        if ran:
            reach(now, ran, peak, height)
            continue
        for t in ready:
            reach(done | 1 << t, [t], max(peak, level + write[t]), level + change(t, done))
    return Order(Fraction(peak) / files.scale, looked, None)


def _path(came: dict[int, tuple[int, tuple[int, ...]]], done: int) -> list[int]:
    out: list[int] = []
    while done:
        done, ran = came[done]
        out = [*ran, *out]
    return out


def _files(inst: Instance) -> _Files:
    chosen = [
        f
        for f in all_files(inst.problem)
        if f.size > 0 and (f.producer is not None or f.location is not None)
    ]
    whole, scale = integers([f.size for f in chosen])
    out = _Files(scale, [], [], [], [[] for _ in range(inst.n)], [[] for _ in range(inst.n)], 0)
    for k, (file, amount) in enumerate(zip(chosen, whole, strict=True)):
        readers = {inst.index[c] for c in file.consumers}
        out.size.append(math.floor(amount))
        out.readers.append(sum(1 << t for t in readers))
        out.kept.append(file.keep)
        for t in readers:
            out.read[t].append(k)
        if file.producer is not None:
            out.written[inst.index[file.producer]].append(k)
        elif readers or file.keep:
            out.given += out.size[k]
    return out


def prove(inst: Instance, run: Run) -> None:
    """Give the run the bound on the peak, and the order as a schedule on each single machine."""
    clock = run.clock
    seconds = SECONDS * inst.n * STATES
    if inst.n == 0 or not applies(inst) or clock.remaining() < 0.1:
        return
    states = STATES if clock.deterministic else 10 * STATES
    states = max(100, min(states, int(STATES * 0.2 * clock.remaining() / seconds)))
    end = clock.used() + 0.3 * clock.remaining()
    found = best_order(inst, states, lambda: clock.cancelled or clock.used() > end)
    clock.spend(seconds * states / STATES)
    data = {"states": found.states + (found.order is not None)}
    run.raise_bound(Bound(float(found.least), "orders", "peak_storage", data))
    if found.order is None:
        return
    quickest = _quickest_rows(inst)
    order = np.array(found.order, dtype=np.int64)
    for p in range(inst.m):
        if bool((quickest[:, p] >= 0).all()) and not run.done():
            mach = np.full(inst.n, p, dtype=np.int64)
            plan = greedy.list_plan(inst, order, fix_row=quickest[:, p].copy(), fix_mach=mach)
            greedy.offer(run, inst, plan, "orders")


def _quickest_rows(inst: Instance) -> Ints:
    """The fastest row of every task per machine, -1 where it cannot run."""
    out = np.full((inst.n, inst.m), -1, dtype=np.int64)
    least = greedy.least_durations(inst)
    for r in range(inst.rows - 1, -1, -1):
        t = int(inst.row_task[r])
        best = (inst.dur[r] >= 0) & (inst.dur[r] == least[t]) & (least[t] < NEVER)
        out[t, best] = r
    return out
