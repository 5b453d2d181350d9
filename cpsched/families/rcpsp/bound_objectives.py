"""Quick lower bounds on the objectives other than the makespan.

Two arguments carry most of them. ``earliest-ends``: no task ends before its earliest start and
shortest duration have passed. ``fluid``: a resource of capacity c does at most c units of work per
time unit, as if it were one preemptive machine that works on one task at a time; there the best
order is known (largest weight per work first for the mean busy time, Goemans 1997; earliest due
date for the lateness, Jackson 1955; Moore and Hodgson 1968 for the number of late tasks). A task
of duration p ends at least p / 2 after its mean busy time.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.families.rcpsp.bound import (
    Line,
    critical_path,
    machine_sets,
    resource_line,
    set_line,
    shortest,
)
from cpsched.families.rcpsp.evaluate import mode_cost
from cpsched.families.rcpsp.prepare import FAR
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: Mean busy times are rounded down to multiples of 1 / SCALE of weight and time.
SCALE = 1024
#: Above this many tasks only the earliest ends count.
LARGE = 20_000
#: Share of the time after which no further relaxation is begun.
SHARE = 0.1
#: Sets of tasks tried for the bound on tardiness: those on time in the relaxation are left out.
ROUNDS = 6


def objective_bounds(instance: Instance, run: Run) -> None:
    """Give the run the quick bounds on every objective but the makespan."""
    for name in (o.name for o in run.objectives):
        if name == "makespan":
            continue
        for bound in quick(instance, name):
            run.raise_bound(bound)
        for names in groups(instance) if name in FLUID and instance.n <= LARGE else ():
            if run.done() or run.clock.used() > SHARE * run.clock.limit:
                return
            run.raise_bound(fluid(instance, name, names))


def quick(instance: Instance, name: str) -> list[Bound]:
    """The bounds on an objective that need no search."""
    if name == "replan_cost":
        # Shifts cost nothing at best.
        base = instance.problem.stable_objective
        path = [critical_path(instance)] if base == "makespan" and instance.n else []
        below = path if base == "makespan" else quick(instance, base)
        return [Bound(b.value, b.argument, name, {**b.data, "of": base}) for b in below]
    if name in EARLIEST:
        value = earliest_value(instance, name)
        return [] if value is None else [Bound(value, "earliest-ends", name)]
    if name == "setup_cost":
        return [Bound(0, "trivial", name)]
    problem = instance.problem
    modes = [mode for task in problem.tasks for mode in task.modes]
    if name == "resource_cost":
        costs = [mode_cost(problem, mode) for mode in modes]
        return [Bound(_least(instance, costs), "cheapest-modes", name)]
    kinds = {r.name: r.type for r in problem.resources}
    squares = [
        duration * sum(u * u for r, u in mode.demands.items() if kinds[r] == "renewable")
        for duration, mode in zip(instance.duration.tolist(), modes, strict=True)
    ]
    return [Bound(_least(instance, squares), "separate-use", name)]


def _least(instance: Instance, amount: Sequence[int]) -> int:
    """Sum over the always present tasks of the least amount (M,) of their usable modes."""
    present = np.flatnonzero(~instance.optional).tolist()
    return sum(min((amount[m] for m in instance.modes(i)), default=0) for i in present)


# ---------------------------------------------------------------------- one task at a time


def earliest_ends(instance: Instance) -> IntArray:
    """No always present task ends before that, (n,); facts at their end."""
    ends = instance.head + shortest(instance)
    for i in np.flatnonzero(instance.fixed).tolist():
        fact = instance.problem.tasks[i].fixed
        assert fact is not None
        ends[i] = fact.end
    return ends


def earliest_value(instance: Instance, name: str) -> int | None:
    """The objective if every always present task ended as early as it can alone."""
    present = ~instance.optional
    ends = earliest_ends(instance)
    due = present & (instance.due < FAR)
    late = (ends - instance.due)[due].tolist()
    if name == "weighted_flow_time":
        return _dot(instance.weight[present], ends[present])
    if name == "late_tasks":
        return sum(x > 0 for x in late)
    if name == "max_lateness":
        return max(late) if late else None
    return _dot(instance.weight[due], [max(0, x) for x in late])


def _dot(weights: IntArray, values: Sequence[int] | IntArray) -> int:
    """The sum of products in whole numbers of any size."""
    return sum(int(w) * int(v) for w, v in zip(weights, values, strict=True))


# ---------------------------------------------------------------------- one resource at a time


def groups(instance: Instance) -> list[list[list[str]]]:
    """The choices of lines worth trying: each alone, and all of them together.

    A line is named by its resources: one, or a set of alternative machines.
    """
    named = [[name] for name in instance.renewable]
    named += [[instance.renewable[r] for r in chosen] for chosen in machine_sets(instance)]
    return [[names] for names in named] + ([named] if len(named) > 1 else [])


def _line(instance: Instance, names: Sequence[str]) -> Line:
    columns = [instance.renewable.index(name) for name in names]
    if len(columns) > 1:
        return set_line(instance, columns)
    return resource_line(instance, columns[0], names[0], {})


def fluid(instance: Instance, name: str, names: Sequence[Sequence[str]]) -> Bound:
    """The bound on an objective by the work on some lines; every task counts on one of them."""
    lines = [_line(instance, one) for one in names]
    share = np.array([line.work / max(1, line.capacity) for line in lines])
    busiest = share.argmax(axis=0)
    counted = share.max(axis=0) > 0
    ends = earliest_ends(instance)
    parts = [
        _Part(instance, line, ends, np.flatnonzero(counted & (busiest == k)))
        for k, line in enumerate(lines)
    ]
    data = {"lines": [list(one) for one in names]}
    value = FLUID[name](instance, parts, ends, np.flatnonzero(~counted & ~instance.optional))
    return Bound(value, "fluid", name, data)


class _Part:
    """The tasks that count on one line, with heads in units of work."""

    def __init__(self, instance: Instance, line: Line, ends: IntArray, tasks: IntArray) -> None:
        self.instance, self.capacity, self.tasks = instance, max(1, line.capacity), tasks
        self.work: list[int] = line.work.tolist()
        self.head = [h * self.capacity for h in instance.head.tolist()]
        self.short: list[int] = shortest(instance).tolist()
        self.weight: list[int] = instance.weight.tolist()
        self.due: list[int] = instance.due.tolist()
        self.ends: list[int] = ends.tolist()

    def flow(self, tasks: Sequence[int]) -> tuple[int, dict[int, int]]:
        """Least weighted sum of ends, and the end of each task's work in units of work."""
        # Whole-numbered keys that order the ratios exactly: works are below 2**53.
        keys = {i: -(self.weight[i] << 128) // self.work[i] for i in tasks}
        busy, done = self._preemptive(tasks, keys)
        mean = sum(self.weight[i] * busy[i] * SCALE // self.work[i] for i in tasks)
        half = sum(self.weight[i] * self.short[i] for i in tasks)
        divisor = 2 * SCALE * self.capacity
        return -(-(mean + SCALE * self.capacity * half) // divisor), done

    def lateness(self, tasks: Sequence[int]) -> int:
        """Least maximum lateness of tasks with due dates."""
        done = self._preemptive(tasks, {i: self.due[i] for i in tasks})[1]
        return max(-(-done[i] // self.capacity) - self.due[i] for i in tasks)

    def late(self, tasks: Sequence[int]) -> int:
        """Least number of late tasks, all of them ready when the first one is."""
        begin = min(self.head[i] for i in tasks)
        kept: list[int] = []
        now = begin
        for i in sorted(tasks, key=lambda i: self.due[i]):
            heapq.heappush(kept, -self.work[i])
            now += self.work[i]
            if now > self.due[i] * self.capacity:
                now += heapq.heappop(kept)
        return len(tasks) - len(kept)

    def _preemptive(
        self, tasks: Sequence[int], keys: dict[int, int]
    ) -> tuple[dict[int, int], dict[int, int]]:
        """Work on the ready task of the least key: twice the integral of time, and the ends."""
        order = sorted(tasks, key=lambda i: self.head[i])
        left = {i: self.work[i] for i in order}
        busy, done = dict.fromkeys(order, 0), {}
        ready: list[tuple[int, int]] = []
        now = k = 0
        while ready or k < len(order):
            if not ready:
                now = max(now, self.head[order[k]])
            while k < len(order) and self.head[order[k]] <= now:
                heapq.heappush(ready, (keys[order[k]], order[k]))
                k += 1
            i = ready[0][1]
            until = now + left[i]
            if k < len(order):
                until = min(until, self.head[order[k]])
            busy[i] += until * until - now * now
            left[i] -= until - now
            now = until
            if not left[i]:
                heapq.heappop(ready)
                done[i] = now
        return busy, done


def _flow_time(instance: Instance, parts: list[_Part], ends: IntArray, rest: IntArray) -> int:
    total = _dot(instance.weight[rest], ends[rest])
    for part in parts:
        tasks = part.tasks.tolist()
        total += max(part.flow(tasks)[0], _dot(instance.weight[tasks], ends[tasks]))
    return total


def _tardiness(instance: Instance, parts: list[_Part], ends: IntArray, rest: IntArray) -> int:
    def alone(i: int) -> int:
        return int(instance.weight[i]) * max(0, int(ends[i]) - int(instance.due[i]))

    total = sum(alone(i) for i in rest.tolist())
    for part in parts:
        tasks = [i for i in part.tasks.tolist() if part.weight[i] and part.due[i] < FAR]
        best = sum(alone(i) for i in tasks)
        counted = tasks
        for _ in range(ROUNDS if tasks else 0):
            flow, done = part.flow(counted)
            left = sum(part.weight[i] * part.due[i] for i in counted)
            others = sum(alone(i) for i in set(tasks).difference(counted))
            best = max(best, flow - left + others)
            late = [i for i in counted if done[i] > part.due[i] * part.capacity]
            if not late or len(late) == len(counted):
                break
            counted = late
        total += best
    return total


def _late_tasks(instance: Instance, parts: list[_Part], ends: IntArray, rest: IntArray) -> int:
    total = sum(int(ends[i]) > int(instance.due[i]) for i in rest.tolist())
    for part in parts:
        tasks = [i for i in part.tasks.tolist() if part.due[i] < FAR]
        if tasks:
            total += max(part.late(tasks), sum(part.ends[i] > part.due[i] for i in tasks))
    return total


def _lateness(instance: Instance, parts: list[_Part], ends: IntArray, rest: IntArray) -> int:
    found = [int(ends[i]) - int(instance.due[i]) for i in rest.tolist() if instance.due[i] < FAR]
    for part in parts:
        tasks = [i for i in part.tasks.tolist() if part.due[i] < FAR]
        if tasks:
            found.append(part.lateness(tasks))
            found.append(max(part.ends[i] - part.due[i] for i in tasks))
    # Without a present task that has a due date the value is 0.
    return max(found) if found else min([0, *(-d for d in instance.due.tolist() if d < FAR)])


FLUID: dict[str, Any] = {
    "weighted_flow_time": _flow_time,
    "weighted_tardiness": _tardiness,
    "earliness_tardiness": _tardiness,
    "late_tasks": _late_tasks,
    "max_lateness": _lateness,
}
#: Objectives that earliest ends bound.
EARLIEST = frozenset(FLUID)


def recompute(instance: Instance, bound: Bound) -> int:
    """The value that a bound of this module proves."""
    name, data = bound.objective, bound.data
    if bound.argument == "fluid":
        return int(fluid(instance, name, data["lines"]).value)
    return int(next(b.value for b in quick(instance, name) if b.argument == bound.argument))
