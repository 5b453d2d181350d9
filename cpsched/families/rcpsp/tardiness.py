"""Total (weighted) tardiness on one machine: dispatching rules, local search, Lagrangian bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.errors import ProblemError
from cpsched.families.rcpsp import kernels_tardiness as kernels
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.families.rcpsp.search_shop import SLICE, Searcher
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: Prices and costs in the Lagrangian are whole multiples of 1 / SCALE.
SCALE = 1024
#: Prices of machine time, at most; longer horizons share one price per block of time.
BLOCKS = 2500
#: Costs stay below this, so that their multiples by SCALE fit into 64 bits.
LARGEST = 2**50
#: Above this many jobs CP-SAT neither proves nor improves anything.
PROVABLE = 200
#: Virtual seconds of local search per pair of jobs.
COST = 4e-8
#: Seconds that an interpreted kernel takes for one exchange of two jobs.
LOOK = 4e-7


@dataclass(frozen=True)
class Single:
    """Jobs on one machine: duration, due date, weight, each (n,)."""

    dur: IntArray
    due: IntArray
    weight: IntArray

    @property
    def n(self) -> int:
        """Number of jobs."""
        return len(self.dur)


def single_of(instance: Instance) -> Single | None:
    """The single machine that an instance is, or None: its tasks hold one machine, in any order."""
    if not instance.plain or not instance.single_mode or not instance.n:
        return None
    if len(instance.edges) or instance.consumption.any() or not instance.duration.all():
        return None
    held = instance.demand.any(axis=0)
    if held.sum() != 1 or (instance.demand[:, held] != instance.capacity[held]).any():
        return None
    if int(instance.duration.sum()) * int(instance.weight.max()) * instance.n > LARGEST:
        return None
    due = np.minimum(instance.due, int(instance.duration.sum()))
    return Single(instance.duration.copy(), due, instance.weight.copy())


def orders(single: Single) -> Iterator[tuple[str, IntArray]]:
    """Orders by dispatching rules, each with its name.

    ``edd``: earliest due date. ``mdd``: at each time t the least ``max(t + dur, due)``, divided by
    the weight as far as it lies ahead. ``atc``: apparent tardiness cost (Vepsalainen and Morton
    1987) for several lookaheads. ``imdd``: ours, see `modified_due_dates`.
    """
    yield "edd", np.argsort(single.due, kind="stable")
    yield "mdd", modified_due_dates(single, 0.0)
    for ahead in (0.5, 1.0, 2.0, 4.0):
        yield "atc", apparent_cost(single, ahead)
    for share in (0.1, 0.25, 0.5, 1.0):
        yield "imdd", modified_due_dates(single, share)


def modified_due_dates(single: Single, share: float) -> IntArray:
    """The modified-due-date rule, with durations that count already before a job is late.

    At time t the job of the least ``(max(dur, due - t) + share * dur) / weight`` is next. With
    ``share`` 0 this is the (weighted) MDD rule; a positive share lets short jobs pass long ones of
    nearly the same due date. Measured in ``benchmarks/results/shops.md``.
    """
    dur, due = single.dur.astype(float), single.due.astype(float)
    weight = np.maximum(single.weight, 1e-9)
    left = np.ones(single.n, bool)
    order, now = [], 0.0
    for _ in range(single.n):
        key = (np.maximum(dur, due - now) + share * dur) / weight
        j = int(np.where(left, key, np.inf).argmin())
        left[j] = False
        order.append(j)
        now += dur[j]
    return np.array(order, np.int64)


def apparent_cost(single: Single, ahead: float) -> IntArray:
    """Orders by weight over duration, discounted by the slack in ``ahead`` mean durations."""
    dur, due = single.dur.astype(float), single.due.astype(float)
    worth = single.weight / dur
    left = np.ones(single.n, bool)
    order, now, unit = [], 0.0, ahead * dur.mean()
    for _ in range(single.n):
        slack = np.maximum(0.0, due - dur - now)
        key = np.log(np.maximum(worth, 1e-9)) - slack / unit
        j = int(np.where(left, key, -np.inf).argmax())
        left[j] = False
        order.append(j)
        now += dur[j]
    return np.array(order, np.int64)


def offer(instance: Instance, single: Single, run: Run, order: IntArray, source: str) -> int:
    """Offer the schedule of an order without idle time; its cost."""
    cost = int(kernels.cost_of(single.dur, single.due, single.weight, order))
    start = np.zeros(single.n, np.int64)
    start[order[1:]] = np.cumsum(single.dur[order])[:-1]
    run.offer(lambda: schedule_of(instance, start.tolist()), source, (cost,))
    return cost


def only_tardiness(run: Run) -> bool:
    """Whether weighted tardiness is the one objective."""
    return [o.name for o in run.objectives] == ["weighted_tardiness"]


def dispatch(instance: Instance, single: Single, run: Run) -> None:
    """Offer the schedules of all dispatching rules while time allows."""
    for name, order in orders(single):
        run.clock.spend(1e-7 * single.n * single.n)
        offer(instance, single, run, order, f"greedy:{name}")
        if run.done() or run.clock.used() > 0.3 * run.clock.limit:
            return


class LocalSearch:
    """Iterated local search in short steps, from the best dispatched order."""

    def __init__(self, instance: Instance, single: Single, seed: int) -> None:
        self.instance, self.single = instance, single
        n = single.n
        found = [order for _, order in orders(single)]
        costs = [int(kernels.cost_of(single.dur, single.due, single.weight, o)) for o in found]
        self.order = found[int(np.argmin(costs))].astype(np.int64)
        self.best = self.order.copy()
        self._ends = np.zeros(n, np.int64)
        self._rng = np.array([(seed * 2654435761 + 31) & 0xFFFFFFFF])
        self._count = 1
        self._offered = 2**62

    def step(self, run: Run, seconds: float) -> None:
        """Search for about that time, or for that much counted work in a deterministic run."""
        one = self.single
        per_round = COST * one.n * one.n * jit.slowdown()
        count = max(1, int(seconds / per_round)) if run.deterministic else self._count
        most = kernels.EVERY
        if jit.slowdown("rcpsp") > 1.0:
            # One improvement of many jobs would take far longer than a slice.
            reach = min(one.n, kernels.REACH)
            most = max(1, int(seconds / (LOOK * (one.n + 0.5 * reach * reach))))
        began = time.perf_counter()
        least = int(
            kernels.iterate(
                one.dur,
                one.due,
                one.weight,
                self.order,
                self.best,
                self._ends,
                self._rng,
                count,
                most,
            )
        )
        took = max(1e-6, time.perf_counter() - began)
        self._count = max(1, min(2 * count, int(count * seconds / took)))
        run.clock.spend(count * per_round)
        if least < self._offered:
            self._offered = least
            offer(self.instance, one, run, self.best, "local-search")


class Prices:
    """Subgradient steps on the prices of machine time, for the Lagrangian bound.

    The time-indexed formulation (Dyer and Wolsey 1990) with the machine's capacity relaxed; how
    close it comes is measured in ``benchmarks/results/shops.md``. Whole-numbered prices make the
    bound exact, so that it can be recomputed from them. The first prices are those at which the
    jobs of ``order`` would not move: from its end backwards, the price of time rises by a job's
    weight over the time of that job when it is late.
    """

    def __init__(self, single: Single, order: IntArray) -> None:
        self.single = single
        self.horizon = int(single.dur.sum())
        self.block = -(-self.horizon // BLOCKS)
        blocks = -(-self.horizon // self.block)
        ends = np.cumsum(single.dur[order])
        rise = np.where(ends > single.due[order], single.weight[order], 0)[::-1]
        known = np.concatenate([[0.0], np.cumsum(rise)])[::-1]
        middle = (np.arange(blocks) + 0.5) * self.block
        self.price = SCALE * np.interp(middle, np.concatenate([[0], ends]), known)
        self.best = -1
        self.stalled = False
        self._pace, self._idle = 1.0, 0
        self._kept = self.price.copy()
        self._busy = np.zeros(blocks, np.int64)
        sizes = np.full(blocks, self.block)
        sizes[-1] = self.horizon - self.block * (blocks - 1)
        self._sizes = sizes
        self._before = np.zeros(blocks)

    def step(self, run: Run, seconds: float) -> None:
        """Steps for about that time."""
        one = self.single
        end = time.perf_counter() + seconds
        spent = 0.0
        while not run.done():
            prices = np.maximum(0, np.rint(self.price)).astype(np.int64)
            value = relaxed(one, prices, self.block, self._busy)
            work = 3e-9 * one.n * self.horizon * (1.0 if jit.slowdown() == 1.0 else 4.0)
            spent += work
            run.clock.spend(work)
            if value > self.best:
                raised = -(-value // SCALE) > -(-self.best // SCALE)
                self.best, self._idle = value, 0
                self._kept = self.price.copy()
                if raised:
                    bound = -(-value // SCALE)
                    data = {"prices": prices.tolist(), "block": self.block}
                    run.raise_bound(Bound(bound, "lagrangian", "weighted_tardiness", data))
            else:
                self._idle += 1
                if self._idle >= 15:
                    self._pace, self._idle = self._pace * 0.7, 0
                    self.price = self._kept.copy()
                    self._before[:] = 0
            slope = self._busy / self._sizes - 1.0
            slope[(self.price <= 0) & (slope < 0)] = 0.0
            # Averaging with the last direction damps the zigzag.
            slope = slope + 0.7 * self._before
            self._before = slope
            target = SCALE * int(run.value() or 0)
            norm = float((slope * slope * self._sizes).sum())
            if norm <= 0 or self._pace < 1e-3:
                self.stalled = True
                return
            gap = max(target - value, SCALE)
            price = self.price + self._pace * gap / norm * slope
            self.price = np.clip(price, 0.0, 2.0**40)
            late = spent >= seconds if run.deterministic else time.perf_counter() >= end
            if late:
                return


def relaxed(single: Single, price: IntArray, block: int, busy: IntArray) -> int:
    """`kernels.relaxed` of a problem; over all ends at once in numpy where it is interpreted."""
    if jit.slowdown("rcpsp") == 1.0:
        return int(
            kernels.relaxed(single.dur, single.due, single.weight, price, block, SCALE, busy)
        )
    horizon = int(single.dur.sum())
    ends = np.arange(horizon + 1)
    paid = np.concatenate([[0], np.cumsum(price[ends[:-1] // block])])
    taken = np.zeros(horizon + 1, np.int64)
    total = -int(paid[horizon])
    jobs = zip(single.dur.tolist(), single.due.tolist(), single.weight.tolist(), strict=True)
    for dur, due, weight in jobs:
        late = np.maximum(ends[dur:] - due, 0)
        value = paid[dur:] - paid[: horizon + 1 - dur] + SCALE * weight * late
        start = int(np.argmin(value))
        total += int(value[start])
        taken[start] += 1
        taken[start + dur] -= 1
    busy[:] = np.bincount(ends[:-1] // block, np.cumsum(taken)[:-1], minlength=len(busy))
    return total


def recompute(instance: Instance, bound: Bound) -> int:
    """The Lagrangian bound from its prices.

    Raises
    ------
    ProblemError
        When the problem is no single machine, or the prices do not cover its horizon.
    """
    single = single_of(instance)
    prices, block = bound.data["prices"], int(bound.data["block"])
    if single is None or block * len(prices) < int(single.dur.sum()) or min(prices) < 0:
        raise ProblemError("the prices must fit the problem", value=bound.argument)
    busy = np.zeros(len(prices), np.int64)
    value = relaxed(single, np.array(prices, np.int64), block, busy)
    return -(-value // SCALE)


def search(instance: Instance, single: Single, run: Run, exact: Callable[[int], object]) -> None:
    """Local search beside the Lagrangian bound, then beside CP-SAT on few jobs, until it is done.

    ``exact(workers)`` runs CP-SAT on the whole problem.
    """
    local = LocalSearch(instance, single, run.seed)
    prices = Prices(single, local.order)
    compiled = jit.ready(run.clock.remaining(), "rcpsp")
    provable = single.n <= PROVABLE
    half = 0.5 * run.clock.remaining() if provable else 0.0
    # Interpreted kernels would only take the interpreter from each other.
    alone = run.deterministic or run.workers == 1 or not compiled
    beside = Searcher(local, run)
    if not alone:
        beside.start()
    try:
        while not run.done() and not prices.stalled and run.clock.remaining() > half:
            if alone:
                local.step(run, SLICE)
            prices.step(run, SLICE)
        if provable and not run.done():
            exact(run.workers if alone else run.workers - 1)
        while not provable and not run.done():
            if alone:
                local.step(run, SLICE)
            else:
                beside.join(0.1)
    finally:
        if not alone:
            beside.stop()
    if beside.error is not None:
        raise beside.error
