"""Blocking job shops: deadlock-free construction, annealing of sequences, neighbourhoods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.core import engine, jit, lns
from cpsched.families.rcpsp import kernels_blocking as kernels
from cpsched.families.rcpsp.orders import order_neighbourhoods, unit_shop_of
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.families.rcpsp.search_shop import Searcher

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: Virtual seconds per operation and sequence tried.
COST = 3e-7
#: Changes per operation in the first cooling; every further one takes twice as many.
FIRST_CYCLE = 500
#: Steps of one cooling.
STEPS = 40
#: Above this many operations CP-SAT proves nothing in useful time.
PROVABLE = 60


@dataclass(frozen=True)
class BlockingShop:
    """The kernels' arrays, and which task each of their operations is, (n,)."""

    jobs: kernels.Jobs
    task: IntArray
    machines: int
    modes: IntArray


def blocking_of(instance: Instance) -> BlockingShop | None:
    """The blocking shop that an instance is, or None: chains on machines that take one task."""
    if "blocking" not in instance.extras:
        instance.extras["blocking"] = _blocking_of(instance)
    known: BlockingShop | None = instance.extras["blocking"]
    return known


def _blocking_of(instance: Instance) -> BlockingShop | None:
    n = instance.n
    until = instance.blocks_until
    if (until < 0).all() or unit_shop_of(instance) is None or instance.disjunctive:
        return None
    if (instance.deadline < 2**59).any():
        return None
    after, lag = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    before = np.full(n, -1, np.int64)
    for a, b, _, least, _ in instance.edges.tolist():
        if after[a] >= 0 or before[b] >= 0:
            return None
        after[a], before[b], lag[a] = b, a, least
    if ((until >= 0) & (until != after)).any():
        return None
    rows: list[int] = []
    first = [0]
    for i in np.flatnonzero(before < 0).tolist():
        while i >= 0:
            rows.append(i)
            i = int(after[i])
        first.append(len(rows))
    if len(rows) < n:
        return None
    task = np.array(rows, np.int64)
    sizes = np.diff(instance.mode_start)[task]
    mode_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    modes = np.concatenate(
        [np.arange(instance.mode_start[i], instance.mode_start[i + 1]) for i in rows]
    )
    shop = unit_shop_of(instance)
    assert shop is not None
    jobs = kernels.Jobs(
        np.array(first, np.int64),
        mode_start,
        instance.mode_usable[modes],
        instance.duration[modes],
        shop.machine[modes],
        instance.release[task],
        lag[task],
        until[task] >= 0,
    )
    return BlockingShop(jobs, task, shop.machines, modes)


class Annealing:
    """Sequences of the machines, in cycles of cooling that double in length.

    The first ones come from jobs that enter one after the other, long ones first.
    """

    def __init__(self, instance: Instance, shop: BlockingShop, seed: int) -> None:
        self.instance, self.shop = instance, shop
        jobs, n = shop.jobs, len(shop.task)
        work = instance.tail[shop.task[jobs.first[:-1]]]
        order = np.argsort(-work, kind="stable").astype(np.int64)
        room: Any = kernels.room_of(jobs, shop.machines)
        self.value = int(kernels.decode(jobs, order, *room, kernels.NEVER))
        start, self.mode = room[4], room[5]
        self._start = start.copy()
        self._best = np.append(start, self.value)
        self._machine, self._dur = jobs.machine[self.mode], jobs.dur[self.mode]
        lines = [
            sorted(np.flatnonzero(self._machine == k).tolist(), key=lambda o: int(start[o]))
            for k in range(shop.machines)
        ]
        self._count = np.array([len(line) for line in lines], np.int64)
        self._line = np.full((shop.machines, max(1, int(self._count.max()) + 1)), -1, np.int64)
        for k, line in enumerate(lines):
            self._line[k, : len(line)] = line
        self._job = np.repeat(np.arange(len(order)), np.diff(jobs.first))
        self._room = np.zeros((3, shop.machines + len(order)), np.int64)
        self._rng = np.array([(seed * 2654435761 + 59) & 0xFFFFFFFF])
        self._cycle, self._phase = FIRST_CYCLE * n, 0
        self._offered = kernels.NEVER
        self._moves = 1

    def step(self, run: Run, seconds: float) -> None:
        """Try sequences for about that time, or for that much counted work when deterministic."""
        per_move = COST * len(self.shop.task) * jit.slowdown()
        if run.deterministic:
            self._moves = max(1, int(seconds / per_move))
        # The acceptance falls to nothing along a cycle.
        heat = max(0.0, 1.0 - self._phase / self._cycle)
        slack = int(0.05 * heat * heat * self.value)
        jobs = self.shop.jobs
        began = time.perf_counter()
        self.value = int(
            kernels.anneal(
                jobs.first,
                self._job,
                self._machine,
                self._dur,
                jobs.release,
                jobs.lag,
                jobs.stays,
                self._line,
                self._count,
                self.value,
                self._room,
                self._start,
                self._rng,
                self._moves,
                slack,
                self._best,
            )
        )
        self._phase += self._moves
        run.clock.spend(self._moves * per_move)
        if not run.deterministic:
            took = max(1e-6, time.perf_counter() - began)
            fitting = int(self._moves * seconds / took)
            self._moves = max(1, min(2 * self._moves, fitting, self._cycle // STEPS))
        if self._phase >= self._cycle:
            self._phase, self._cycle = 0, 2 * self._cycle
        self.offer(run)

    def offer(self, run: Run) -> None:
        """Offer the best schedule when it is new."""
        n = len(self.shop.task)
        if self._best[n] >= self._offered:
            return
        self._offered = int(self._best[n])
        starts, modes = np.zeros((2, n), np.int64)
        starts[self.shop.task] = self._best[:n]
        modes[self.shop.task] = self.shop.modes[self.mode]
        run.offer(
            lambda: schedule_of(self.instance, starts.tolist(), modes.tolist()),
            "blocking:annealing",
            (self._offered,) if [o.name for o in run.objectives] == ["makespan"] else None,
        )


def construct(instance: Instance, shop: BlockingShop, run: Run) -> None:
    """Offer the schedule in which long jobs enter first."""
    run.clock.spend(COST * instance.n)
    Annealing(instance, shop, run.seed).offer(run)


def search(
    instance: Instance, shop: BlockingShop, run: Run, exact: Callable[[int, float], object]
) -> None:
    """Annealing beside neighbourhoods until the run is done; small shops also by CP-SAT.

    ``exact(workers, seconds)`` runs CP-SAT on the whole problem.
    """
    annealing = Annealing(instance, shop, run.seed)
    units = unit_shop_of(instance)
    assert units is not None
    neighbourhoods = order_neighbourhoods(instance, units, 25)
    jit.ready(run.clock.remaining())
    alone = run.deterministic or run.workers == 1
    left = run.clock.remaining()
    share = 0.15 * left if math.isfinite(left) else 10.0
    end = left - share
    beside = Searcher(annealing, run)
    others = run.workers if alone else run.workers - 1
    if alone:
        while not run.done() and run.clock.remaining() > end:
            annealing.step(run, 0.02)
    else:
        beside.start()
    try:
        if not engine.ready(run.clock):
            return
        rounds = share
        while not run.done():
            lns.search(run, neighbourhoods, workers=others, call_seconds=0.5, seconds=2.0 * rounds)
            if not run.done():
                exact(others, (2.0 if instance.n <= PROVABLE else 0.25) * rounds)
            rounds *= 2.0
    finally:
        if not alone:
            beside.stop()
    if beside.error is not None:
        raise beside.error
