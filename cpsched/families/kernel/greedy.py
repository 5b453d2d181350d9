"""The first schedules, within milliseconds: one operation after the other, then pipelined.

Modes are chosen first, then groups (`partition`), then rings; for each choice a serial schedule,
and iterative and swing modulo scheduling (`modulo`) at climbing intervals.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from cpsched.core.run import Run
from cpsched.families.kernel.check import check
from cpsched.families.kernel.graph import longest
from cpsched.families.kernel.layout import edge_delays, edge_reach, schedule_from, stages_for
from cpsched.families.kernel.modulo import Budget, Grid, grid_for, iterative, swing, waiting
from cpsched.families.kernel.partition import partitions
from cpsched.families.kernel.prepare import Instance, Ints, has_live_limits
from cpsched.families.kernel.problem import KernelSchedule
from cpsched.families.kernel.shares import mode_choices

#: Placements in all, at least.
PLACEMENTS = 600


def to_schedule(
    instance: Instance, grid: Grid, starts: dict[int, int], *, late: bool = False
) -> KernelSchedule | None:
    """The schedule of starts on the grid, with the smallest stages its slots allow."""
    interval = grid.interval * grid.tick
    slot = [starts[o] * grid.tick % interval for o in range(instance.n)]
    stage = stages_for(instance, interval, slot, grid.group, grid.depth, late=late)
    if stage is None:
        return None
    exact = [s + interval * int(k) for s, k in zip(slot, stage, strict=True)]
    return schedule_from(instance, interval, exact, grid.group, grid.depth)


def serial(instance: Instance, group: list[int | None], depth: list[int]) -> KernelSchedule | None:
    """One operation after the other, no overlap at all: valid whenever memory suffices."""
    delay, reach = edge_delays(instance, group), edge_reach(instance, depth)
    into: list[list[int]] = [[] for _ in range(instance.n)]
    for e in np.flatnonzero(reach == 0).tolist():
        into[int(instance.target[e])].append(e)
    waits = waiting(instance, group)
    starts = [0] * instance.n
    now = 0
    for o in sequence(instance, reach):
        ready = [starts[int(instance.source[e])] + int(delay[e]) for e in into[o]]
        starts[o] = max([now, *ready])
        table = max((s + c for _, s, c, _ in instance.uses[o]), default=0)
        # Nothing else of the group may begin in the cycle of a wait.
        now = starts[o] + max(table, instance.issue[o], int(waits[o]))
    interval = max(now, instance.mii, 1)
    for e in np.flatnonzero(reach > 0).tolist():
        slack = starts[int(instance.source[e])] + int(delay[e]) - starts[int(instance.target[e])]
        interval = max(interval, -(-slack // int(reach[e])))
    limit = instance.problem.max_initiation_interval
    if limit is not None and interval > limit:
        return None
    return schedule_from(instance, interval, starts, group, depth)


def sequence(instance: Instance, reach: Ints) -> list[int]:
    """Operations so that edges of the same iteration go forward and few results are live.

    Among the operations whose inputs are there, one that frees the most words goes next.
    """
    operations = instance.problem.operations
    inside = [e for e in range(len(instance.source)) if reach[e] == 0 and instance.delay[e] >= 0]
    waiting = [0] * instance.n
    after: list[list[int]] = [[] for _ in range(instance.n)]
    for e in inside:
        waiting[int(instance.target[e])] += 1
        after[int(instance.source[e])].append(int(instance.target[e]))
    source, target, delay = (a[inside] for a in (instance.source, instance.target, instance.delay))
    # Zero-delay cycles of one iteration have no first operation, but no positive length either.
    height = longest(instance.n, target, source, delay)
    assert height is not None
    readers = [{u.target for u in rows if u.distance == 0} for rows in instance.life]
    reads: list[list[int]] = [[] for _ in range(instance.n)]
    for o, rows in enumerate(readers):
        for w in rows:
            reads[w].append(o)
    open_reads = [len(rows) for rows in readers]
    done = [False] * instance.n
    order: list[int] = []
    ready = {o for o in range(instance.n) if waiting[o] == 0}
    if not any(o.registers for o in operations):
        return _by_height(instance, waiting, after, height)
    while len(order) < instance.n:
        # A cycle of simultaneous operations has no first one: take any that is left.
        pool = ready or {o for o in range(instance.n) if not done[o]}

        def price(o: int) -> tuple[int, int, int]:
            freed = sum(operations[u].registers for u in reads[o] if open_reads[u] == 1)
            return operations[o].registers - freed, -int(height[o]), o

        o = min(pool, key=price)
        ready.discard(o)
        done[o] = True
        order.append(o)
        for u in reads[o]:
            open_reads[u] -= 1
        for w in after[o]:
            waiting[w] -= 1
            if waiting[w] == 0 and not done[w]:
                ready.add(w)
    return order


def _by_height(
    instance: Instance, waiting: list[int], after: list[list[int]], height: Ints
) -> list[int]:
    """The sequence by longest remaining path alone."""
    order: list[int] = []
    done = [False] * instance.n
    queue = [(-int(height[o]), o) for o in range(instance.n) if waiting[o] == 0]
    heapq.heapify(queue)
    rest = iter(range(instance.n))
    while len(order) < instance.n:
        # A cycle of simultaneous operations has no first one: take any that is left.
        o = heapq.heappop(queue)[1] if queue else next(o for o in rest if not done[o])
        if done[o]:
            continue
        done[o] = True
        order.append(o)
        for w in after[o]:
            waiting[w] -= 1
            if waiting[w] == 0 and not done[w]:
                heapq.heappush(queue, (-int(height[w]), w))
    return order


@dataclass
class _Candidate:
    """Everything but the time: modes (of the instance), groups and rings."""

    instance: Instance
    group: list[int | None]
    rings: list[int]
    serial: KernelSchedule
    valid: bool


def greedy(instance: Instance, run: Run) -> None:
    """Offer the first schedule within milliseconds, then better intervals while cheap."""
    found: list[_Candidate] = []
    for modes in mode_choices(instance):
        chosen = instance.resolve(modes)
        if chosen.possible:
            found += _serials(chosen, run, found)
    # What does not even fit one after the other rarely fits when it overlaps.
    found.sort(key=lambda c: not c.valid)
    budget = Budget(run.clock, max(PLACEMENTS, 4 * instance.n))
    best = min((c.serial.initiation_interval for c in found if c.valid), default=math.inf)
    for candidate in found:
        best = pipelined(candidate, run, best, budget)
        if best <= instance.mii or budget.left <= 0 or run.clock.expired():
            return


def _serials(instance: Instance, run: Run, before: list[_Candidate]) -> list[_Candidate]:
    """A serial schedule for every partition and choice of rings, the best of them offered."""
    problem = instance.problem
    deep = [b.max_depth for b in problem.buffers]
    shallow = [b.min_depth for b in problem.buffers]
    out: list[_Candidate] = []
    for group in partitions(instance):
        for rings in [deep] if deep == shallow else [deep, shallow]:
            if run.clock.expired() and any(c.valid for c in (*before, *out)):
                return out
            found = serial(instance, group, rings)
            if found is None:
                continue
            valid = fits(instance, found)
            out.append(_Candidate(instance, group, rings, found, valid))
            best = run.incumbent
            interval = found.initiation_interval
            if valid and (best is None or interval < best.schedule.initiation_interval):
                run.offer(found, "greedy:serial")
    return out


def fits(instance: Instance, schedule: KernelSchedule) -> bool:
    """Whether a heuristic's schedule is valid.

    Without groups, buffers and limits on live results it is by construction, and offering it
    checks it.
    """
    problem = instance.problem
    sure = not problem.grouped and not problem.buffers and not has_live_limits(instance)
    return sure or not check(instance.original, schedule)


def pipelined(candidate: _Candidate, run: Run, best: float, budget: Budget) -> float:
    """Climb the intervals with both heuristics until one fits, then close in from above."""
    instance = candidate.instance
    limit = instance.problem.max_initiation_interval
    longest_tried = candidate.serial.initiation_interval + 1
    top = min(best, longest_tried, limit + 1 if limit is not None else math.inf)
    low = instance.mii - 1  # the largest interval that failed
    stride = max(1, instance.mii // 16)
    step = 1
    while low + 1 < top and budget.left > 0 and not run.clock.expired():
        interval = min(low + step, int(top) - 1)
        grid = grid_for(instance, interval, candidate.group, candidate.rings)
        found = _at_interval(instance, run, grid, top, budget)
        if found is None:
            low = interval
            step = max(stride, 2 * step)
        else:
            top = best = found.initiation_interval
            step = max(1, (int(top) - low) // 2)
    return best


def _at_interval(
    instance: Instance, run: Run, grid: Grid, top: float, budget: Budget
) -> KernelSchedule | None:
    """The first valid schedule of either heuristic below an interval, offered."""
    for name, method in (("swing", swing), ("iterative", iterative)):
        starts = method(instance, grid, budget)
        for late in (False, True) if starts is not None else ():
            found = to_schedule(instance, grid, starts or {}, late=late)
            if found is None or found.initiation_interval >= top:
                continue
            if fits(instance, found):
                run.offer(found, f"greedy:{name}")
                return found
    return None
