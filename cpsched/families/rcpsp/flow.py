"""Flow shops: every job visits the machines in the same order. NEH and iterated greedy search.

The best schedules in which all machines work in one order of the jobs (*permutation* schedules)
are also good starts for shops that allow more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.families.rcpsp import kernels_flow as kernels
from cpsched.families.rcpsp.schedule import schedule_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance
    from cpsched.families.rcpsp.shop import Jobs

IntArray = NDArray[np.int64]

#: Virtual seconds per job, job and machine of one round.
COST = 4e-8


@dataclass(frozen=True)
class FlowShop:
    """Durations and tasks, both (jobs, machines) in the order of the route."""

    time: IntArray
    task: IntArray


def flow_of(jobs: Jobs) -> FlowShop | None:
    """The flow shop that a job shop is, or None: one mode each, one route for all jobs."""
    shop = jobs.shop
    if len(shop.dur) != jobs.n:
        return None
    rows: list[list[int]] = []
    for i in np.flatnonzero(shop.before < 0).tolist():
        row = []
        while i >= 0:
            row.append(i)
            i = int(shop.after[i])
        rows.append(row)
    if len({len(row) for row in rows}) != 1 or len(rows) < 2:
        return None
    task = np.array(rows, np.int64)
    machine = shop.machine[task]
    route = machine.max(axis=0)
    # An operation that takes no time visits no machine.
    if ((machine >= 0) & (machine != route)).any() or len(set(route.tolist())) < len(route):
        return None
    return FlowShop(shop.dur[task].astype(np.int64), task)


def permutation_of(instance: Instance) -> FlowShop | None:
    """The flow shop whose jobs must not overtake each other that an instance is, or None."""
    from cpsched.families.rcpsp.shop import jobs_of

    if "permutation" not in instance.extras:
        instance.extras["permutation"] = flow = None
        if instance.extras.get("ordered"):
            # Without its sequences it is plain.
            jobs = jobs_of(replace(instance, plain=True, extras={}))
            flow = None if jobs is None else flow_of(jobs)
        if flow is not None:
            job = np.zeros(instance.n, np.int64)
            job[flow.task] = np.arange(len(flow.task))[:, None]
            if all((job[rows] == job[rows[0]]).all() for rows in instance.shop.sequences):
                instance.extras["permutation"] = flow
    known: FlowShop | None = instance.extras["permutation"]
    return known


def starts_of(flow: FlowShop, order: IntArray, n: int) -> IntArray:
    """Starts of all tasks, (n,), when every machine takes the jobs in this order."""
    start = np.zeros(n, np.int64)
    free = np.zeros(flow.time.shape[1], np.int64)
    for j in order.tolist():
        end = 0
        for k, duration in enumerate(flow.time[j].tolist()):
            start[flow.task[j, k]] = max(end, int(free[k]))
            end = int(start[flow.task[j, k]]) + duration
            free[k] = end
    return start


class IteratedGreedy:
    """Iterated greedy search in short steps, from the order of the NEH rule."""

    def __init__(self, flow: FlowShop, seed: int) -> None:
        self.flow = flow
        jobs, machines = flow.time.shape
        self._head, self._tail = np.zeros((2, jobs + 1, machines), np.int64)
        self._rng = np.array([(seed * 2654435761 + 131) & 0xFFFFFFFF])
        self.order = np.zeros(jobs, np.int64)
        self._value = int(kernels.neh(flow.time, self.order, self._head, self._tail, self._rng))
        self.best = self.order.copy()
        self._count = 1

    def step(self, run: Run, seconds: float) -> None:
        """Search for about that time, or for that much counted work in a deterministic run."""
        jobs, machines = self.flow.time.shape
        per_round = COST * jobs * jobs * machines * jit.slowdown()
        if run.deterministic:
            self._count = max(1, int(seconds / per_round))
        began = time.perf_counter()
        self.iterate(self._count)
        took = max(1e-6, time.perf_counter() - began)
        run.clock.spend(self._count * per_round)
        if not run.deterministic:
            self._count = max(1, min(2 * self._count, int(self._count * seconds / took)))

    def iterate(self, rounds: int) -> None:
        """That many rounds."""
        self._value = int(
            kernels.iterate(
                self.flow.time,
                self.order,
                self._value,
                self.best,
                self._head,
                self._tail,
                self._rng,
                rounds,
            )
        )

    def offer(self, instance: Instance, run: Run, source: str) -> None:
        """Offer the permutation schedule of the best order."""
        start = starts_of(self.flow, self.best, instance.n).tolist()
        run.offer(lambda: schedule_of(instance, start), source)


class PermutationSearch:
    """Iterated greedy search that offers what it finds."""

    def __init__(self, instance: Instance, flow: FlowShop, seed: int) -> None:
        self._instance, self._search = instance, IteratedGreedy(flow, seed)
        self._offered = 2**62

    def step(self, run: Run, seconds: float) -> None:
        """Search for about that time, or for that much counted work in a deterministic run."""
        self._search.step(run, seconds)
        self.offer(run)

    def offer(self, run: Run, source: str = "iterated-greedy") -> None:
        """Offer the best schedule when it is new."""
        value = int(kernels.makespan_of(self._search.flow.time, self._search.best))
        if value < self._offered:
            self._offered = value
            self._search.offer(self._instance, run, source)


def permutation(time_of: IntArray, moves: int, seed: int = 0) -> IntArray:
    """A good order of the jobs of a permutation flow shop, for the makespan.

    Parameters
    ----------
    time_of : (jobs, machines)
        Durations, machines in the order of the route.
    moves
        Rounds of iterated greedy after the NEH rule; 0 for the rule alone.
    """
    table = np.ascontiguousarray(time_of, np.int64)
    search = IteratedGreedy(FlowShop(table, np.arange(table.size).reshape(table.shape)), seed)
    search.iterate(moves)
    return search.best
