"""Blocking job shops: orders in which the jobs enter, improved by annealing and neighbourhoods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import engine, jit
from cpsched.families.rcpsp import kernels_blocking as kernels
from cpsched.families.rcpsp.orders import CALL, Wander, any_unit_shop_of
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.families.rcpsp.search_shop import Searcher

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: Virtual seconds per operation and order tried.
COST = 5e-7
#: Orders tried in the first cooling; every further one takes twice as many.
FIRST_CYCLE = 4000
#: Tasks that float in a neighbourhood at first.
FLOATING = 20
#: Steps of one cooling.
STEPS = 40
#: Up to so many operations CP-SAT proves the optimum at once; above the other number it proves
#: nothing in useful time.
TINY, PROVABLE = 30, 60


@dataclass(frozen=True)
class BlockingShop:
    """The kernels' arrays, and which task each of their operations is, (n,).

    Without ``swap`` jobs do not change places at one moment.
    """

    jobs: kernels.Jobs
    task: IntArray
    machines: int
    modes: IntArray
    swap: bool


def blocking_of(instance: Instance) -> BlockingShop | None:
    """The blocking shop that an instance is, or None: chains on machines that take one task."""
    if "blocking" not in instance.extras:
        instance.extras["blocking"] = _blocking_of(instance)
    known: BlockingShop | None = instance.extras["blocking"]
    return known


def _blocking_of(instance: Instance) -> BlockingShop | None:
    n = instance.n
    until = instance.blocks_until
    shop = any_unit_shop_of(instance)
    if (until < 0).all() or shop is None or instance.disjunctive:
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
    swap = instance.shop.swap
    if not swap and not instance.duration[modes][instance.mode_usable[modes]].all():
        return None
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
    return BlockingShop(jobs, task, shop.machines, modes, swap)


class Annealing:
    """Orders of entry, in cycles of cooling that double in length."""

    def __init__(self, instance: Instance, shop: BlockingShop, seed: int) -> None:
        self.instance, self.shop = instance, shop
        self._room = kernels.room_of(shop.jobs, shop.machines)
        n = len(shop.task)
        self._best = np.full((2, n + 1), kernels.NEVER, np.int64)
        self._rng = np.array([(seed * 2654435761 + 59) & 0xFFFFFFFF])
        work = [int(instance.tail[shop.task[k]]) for k in shop.jobs.first[:-1].tolist()]
        # Long jobs first.
        self.order = np.argsort(-np.array(work), kind="stable").astype(np.int64)
        self.value = self._decode()
        self._cycle, self._phase = FIRST_CYCLE, 0
        self._offered = kernels.NEVER
        self._count = 1

    def _decode(self) -> int:
        busy, count, at, gap, start, mode = self._room
        value = int(
            kernels.decode(
                self.shop.jobs,
                self.shop.swap,
                self.order,
                busy,
                count,
                at,
                gap,
                start,
                mode,
                kernels.NEVER,
            )
        )
        n = len(self.shop.task)
        if value < self._best[0, n]:
            self._best[0, :n], self._best[1, :n] = self._room[4], self._room[5]
            self._best[0, n] = value
        return value

    def step(self, run: Run, seconds: float) -> None:
        """Try orders for about that time, or for that much counted work when deterministic."""
        per_move = COST * len(self.shop.task) * jit.slowdown()
        if run.deterministic:
            self._count = max(1, int(seconds / per_move))
        # The acceptance falls to nothing along a cycle.
        heat = 1.0 - self._phase / self._cycle
        slack = int(0.06 * heat * heat * self.value)
        began = time.perf_counter()
        busy, count, at, gap, start, mode = self._room
        self.value = int(
            kernels.anneal(
                self.shop.jobs,
                self.shop.swap,
                self.order,
                self.value,
                busy,
                count,
                at,
                gap,
                start,
                mode,
                self._rng,
                self._count,
                slack,
                self._best,
            )
        )
        self._phase += self._count
        run.clock.spend(self._count * per_move)
        if not run.deterministic:
            took = max(1e-6, time.perf_counter() - began)
            fitting = int(self._count * seconds / took)
            self._count = max(1, min(2 * self._count, fitting, self._cycle // STEPS))
        if self._phase >= self._cycle:
            self._phase, self._cycle = 0, 2 * self._cycle
        self.offer(run)

    def offer(self, run: Run) -> None:
        """Offer the best schedule when it is new."""
        n = len(self.shop.task)
        if self._best[0, n] >= self._offered:
            return
        self._offered = int(self._best[0, n])
        starts, modes = np.zeros((2, n), np.int64)
        starts[self.shop.task] = self._best[0, :n]
        modes[self.shop.task] = self.shop.modes[self._best[1, :n]]
        run.offer(
            lambda: schedule_of(self.instance, starts.tolist(), modes.tolist()),
            "blocking:entry-order",
            (self._offered,) if [o.name for o in run.objectives] == ["makespan"] else None,
        )


def construct(instance: Instance, shop: BlockingShop, run: Run) -> None:
    """Offer the schedule in which long jobs enter first."""
    run.clock.spend(COST * instance.n)
    Annealing(instance, shop, run.seed).offer(run)


def search(
    instance: Instance, shop: BlockingShop, run: Run, exact: Callable[[int, float], object]
) -> None:
    """Annealing for a while, then neighbourhoods until the run is done; the smallest are proved.

    ``exact(workers, seconds)`` runs CP-SAT on the whole problem.
    """
    annealing = Annealing(instance, shop, run.seed)
    units = any_unit_shop_of(instance)
    assert units is not None
    jit.ready(run.clock.remaining())
    alone = run.deterministic or run.workers == 1
    left = run.clock.remaining()
    share = 0.15 * left if math.isfinite(left) else 10.0
    end = left - share
    if instance.n <= TINY and engine.ready(run.clock):
        exact(run.workers, 4.0 * share)
    while not run.done() and run.clock.remaining() > end:
        annealing.step(run, 0.02)
    if run.done() or not engine.ready(run.clock):
        return
    wanders = [
        Wander(instance, units, FLOATING, run.seed + k) for k in range(1 if alone else run.workers)
    ]
    beside = [Searcher(one, run) for one in wanders[1:]]
    for one in beside:
        one.start()
    rounds = 2.0 * share
    end = run.clock.remaining() - rounds
    try:
        while not run.done():
            wanders[0].step(run, CALL)
            if instance.n <= PROVABLE and run.clock.remaining() <= end:
                exact(1, rounds)
                rounds *= 2.0
                end = run.clock.remaining() - rounds
    finally:
        for one in beside:
            one.stop()
    for one in beside:
        if one.error is not None:
            raise one.error
