"""Job shops and flexible job shops: recognition, dispatching, tabu search with relinked elites."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.families.rcpsp import kernels_shop, kernels_shop_graph
from cpsched.families.rcpsp.schedule import schedule_of, state_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: Schedules kept for relinking.
ELITES = 12
#: Moves without a better schedule after which a search is given up; operations times moves, and
#: least moves, of shops of more than LONG operations.
PATIENCE, LONG, LONG_PATIENCE, LEAST_PATIENCE = 12_500, 1000, 4_000_000, 500
#: Rounds over all operations in which work is spread.
ROUNDS = 30
#: An offer that cost a second is followed by this many seconds of search before the next.
BETWEEN_OFFERS = 4.0
#: Virtual seconds per move and operation.
COST = 3e-8
#: Seconds that an interpreted dispatching rule takes per operation and job.
LOOK = 1.2e-6
#: Operations times moves of one call of the kernel, compiled and interpreted.
COMPILED, INTERPRETED = 400_000, 2_000


@dataclass(frozen=True)
class Jobs:
    """A shop by indices: the kernels' arrays and the number of machines."""

    shop: kernels_shop_graph.Shop
    machines: int

    @property
    def n(self) -> int:
        """Number of operations."""
        return len(self.shop.before)


def jobs_of(instance: Instance) -> Jobs | None:
    """The shop that an instance is, or None.

    A shop is plain, its precedences without lags form chains, and every mode that takes time holds
    exactly the one unit of one machine.
    """
    if "jobs" in instance.extras:
        known: Jobs | None = instance.extras["jobs"]
        return known
    instance.extras["jobs"] = made = _jobs_of(instance)
    return made


def _jobs_of(instance: Instance) -> Jobs | None:
    n = instance.n
    if not instance.plain or not n or instance.consumption.any():
        return None
    edges = instance.edges
    if edges[:, 3].any() or not len(instance.capacity):
        return None
    if np.bincount(edges[:, 0], minlength=n).max(initial=0) > 1:
        return None
    if np.bincount(edges[:, 1], minlength=n).max(initial=0) > 1:
        return None
    used = instance.demand[instance.mode_usable]
    if (instance.capacity[used.any(axis=0)] != 1).any() or (used.sum(axis=1) > 1).any():
        return None
    machine = np.where(instance.demand.any(axis=1), instance.demand.argmax(axis=1), -1)
    if (machine[instance.mode_usable & (instance.duration > 0)] < 0).any():
        return None
    several = np.repeat(np.diff(instance.mode_start) > 1, np.diff(instance.mode_start))
    if (machine[several & instance.mode_usable] < 0).any():
        return None
    before, after = np.full((2, n), -1, np.int64)
    before[edges[:, 1]] = edges[:, 0]
    after[edges[:, 0]] = edges[:, 1]
    shop = kernels_shop_graph.Shop(
        before,
        after,
        instance.mode_start,
        instance.mode_usable,
        instance.duration,
        machine.astype(np.int64),
    )
    return Jobs(shop, len(instance.capacity))


def starts_of(jobs: Jobs, sequence: IntArray, mode: IntArray) -> IntArray:
    """Starts of the schedule in which each machine works in the order of ``sequence``, (n,)."""
    order, work = _fresh(jobs, 0)
    kernels_shop_graph.load(jobs.shop, sequence, mode, order, np.zeros(jobs.machines, np.int64))
    kernels_shop_graph.evaluate(jobs.shop, order, work)
    head: IntArray = work.head
    return head


def _fresh(jobs: Jobs, seed: int) -> tuple[kernels_shop_graph.Order, kernels_shop_graph.Work]:
    return (
        kernels_shop_graph.order_of(jobs.n, jobs.machines),
        kernels_shop_graph.work_of(jobs.n, len(jobs.shop.dur), seed),
    )


def prices(instance: Instance, jobs: Jobs, rng: IntArray) -> tuple[FloatArray, FloatArray]:
    """What a mode costs besides the time that it ends, (M,) both, for `dispatch`.

    By how much it is longer than the shortest mode of its operation; and the length of that one,
    where the mode is not the operation's when all work is spread over the machines. Multiples of
    them keep the machines from doing work that others do faster.
    """
    shop = jobs.shop
    counts = np.diff(instance.mode_start)
    least = np.where(shop.usable, shop.dur, 2**40)
    least = np.repeat(np.minimum.reduceat(least, instance.mode_start[:-1]), counts)
    mode = np.array([instance.modes(i)[0] for i in range(jobs.n)], np.int64)
    kernels_shop.balance(shop, jobs.machines, mode, rng, ROUNDS)
    other = np.ones(len(shop.dur))
    other[mode] = 0.0
    return (shop.dur - least).astype(float), least * other


def by_heads(instance: Instance, jobs: Jobs) -> tuple[IntArray, IntArray]:
    """Operations by their heads and their shortest modes: a topological order in no time."""
    position = np.zeros(jobs.n, np.int64)
    before = jobs.shop.before.tolist()
    after = jobs.shop.after.tolist()
    for first in np.flatnonzero(jobs.shop.before < 0).tolist():
        i = first
        while i >= 0:
            position[i] = 0 if before[i] < 0 else position[before[i]] + 1
            i = after[i]
    usable = np.where(jobs.shop.usable, jobs.shop.dur, 2**60)
    mode = np.array(
        [min(instance.modes(i), key=lambda k: int(usable[k])) for i in range(jobs.n)], np.int64
    )
    order: IntArray = np.lexsort((position, instance.head)).astype(np.int64)
    return order, mode


def dispatch(instance: Instance, jobs: Jobs, run: Run) -> None:
    """Offer schedules of dispatching rules: most work remaining, shortest first, longest first."""
    if jit.slowdown("rcpsp") > 1.0:
        # Interpreted, a rule looks at every job for every operation.
        seconds = LOOK * jobs.n * int((jobs.shop.before < 0).sum())
        if seconds > 0.3 * run.clock.remaining():
            sequence, mode = by_heads(instance, jobs)
            start = starts_of(jobs, sequence, mode).tolist()
            run.offer(lambda: schedule_of(instance, start, mode.tolist()), "greedy:heads")
        if run.incumbent is not None and seconds > run.clock.remaining():
            return
    shortest = instance.duration[instance.mode_start[:-1]]
    free = np.zeros(len(jobs.shop.dur))
    rules = [("mwkr", -instance.tail, free), ("spt", shortest, free), ("lpt", -shortest, free)]
    if not instance.single_mode:
        longer, other = prices(instance, jobs, np.array([run.seed + 1], np.int64))
        priced = [("short", f * longer) for f in (5.0, 4.0, 6.0, 2.0, 1.0)]
        priced += [("spread", f * other) for f in (2.0, 1.0)]
        rules[1:1] = [(f"mwkr-{name}", -instance.tail, price) for name, price in priced]
    for name, rank, price in rules:
        sequence, mode = np.zeros((2, jobs.n), np.int64)
        run.clock.spend(1e-7 * jobs.n)
        whole = price.astype(np.int64)
        made = int(kernels_shop.dispatch(jobs.shop, rank, whole, jobs.machines, sequence, mode))
        start = starts_of(jobs, sequence, mode).tolist()
        chosen = mode.tolist()
        run.offer(
            lambda: schedule_of(instance, start, chosen),  # noqa: B023
            f"greedy:{name}",
            (made,) if _only_makespan(run) else None,
        )
        if run.done() or run.clock.used() > 0.1 * run.clock.limit:
            return


def _only_makespan(run: Run) -> bool:
    return [o.name for o in run.objectives] == ["makespan"]


@dataclass
class Elite:
    """A schedule kept for relinking: makespan, operations in topological order, modes."""

    value: int
    sequence: IntArray
    mode: IntArray


class TabuSearch:
    """Tabu search as a sequence of short steps; each search starts between two elites.

    After Peng, Lü and Cheng (2015): a set of schedules, each the result of a tabu search, from
    which pairs are relinked and searched again. Two topological orders are relinked by averaging
    the ranks of the operations with a weight per job: both orders respect the jobs, so the average
    does, and the machines' orders taken from it close no cycle.
    """

    def __init__(self, instance: Instance, jobs: Jobs, run: Run, seed: int) -> None:
        self.instance, self.jobs = instance, jobs
        self._rng = np.random.default_rng(seed)
        self._order, self._work = _fresh(jobs, seed)
        self._last = np.zeros(jobs.machines, np.int64)
        used = max(1, len(np.unique(jobs.shop.machine[jobs.shop.machine >= 0])))
        self._tenure = 10 + jobs.n // (used * used)
        self._patience = PATIENCE
        if jobs.n > LONG:
            self._patience = max(LEAST_PATIENCE, LONG_PATIENCE // jobs.n)
        self._elites: list[Elite] = []
        self._offered = 2**62
        self._next_offer = self._cost = 0.0
        self._seen: object = None
        self._fast = jit.ready(run.clock.remaining())
        self._parent = -1
        self._job = self._job_of()
        state = state_of(instance, run.incumbent.schedule) if run.incumbent else None
        if state is None:
            sequence, mode = np.zeros((2, jobs.n), np.int64)
            free = np.zeros(len(jobs.shop.dur), np.int64)
            kernels_shop.dispatch(jobs.shop, -instance.tail, free, jobs.machines, sequence, mode)
        else:
            sequence, mode = self._from_state(state.start, state.mode)
        self._begin(sequence, mode)

    def step(self, run: Run, seconds: float) -> None:
        """Search for about that time, or for that much counted work in a deterministic run."""
        shop, n = self.jobs.shop, self.jobs.n
        self._fast = self._fast or jit.ready()
        count = max(1, (COMPILED if self._fast else INTERPRETED) // n)
        end = time.perf_counter() + seconds
        spent = 0.0
        while not run.done():
            kernels_shop.tabu(shop, self._order, self._work, count, self._tenure)
            state = self._work.state
            work = count * n * COST * jit.slowdown()
            run.clock.spend(work)
            spent += work
            late = run.deterministic or time.perf_counter() >= self._next_offer
            if state[1] < self._offered and late:
                self._offer(run)
            if state[0] - state[2] > self._patience or (state[0] == 0 and state[3] < 0):
                self.finish(run)
                self._next()
                self._take_in(run)
            if run.deterministic and spent >= seconds:
                return
            if not run.deterministic and time.perf_counter() >= end:
                return

    def worth(self) -> int:
        """The best makespan."""
        return min(int(self._work.state[1]), *(e.value for e in self._elites), 2**62)

    def finish(self, run: Run) -> None:
        """Offer the best schedule, which may have been held back, if there is time to check it."""
        fits = run.clock.elapsed() + self._cost <= run.clock.limit
        if self._work.state[1] < self._offered and (run.deterministic or fits):
            self._offer(run)

    def _offer(self, run: Run) -> None:
        best = self._work.best.copy()
        self._offered = int(self._work.state[1])
        start = starts_of(self.jobs, best[0], best[1]).tolist()
        mode = best[1].tolist()
        values = (self._offered,) if _only_makespan(run) else None
        began = time.perf_counter()
        run.offer(lambda: schedule_of(self.instance, start, mode), "tabu", values)
        done = time.perf_counter()
        self._cost = 1.5 * (done - began)
        self._next_offer = done + BETWEEN_OFFERS * (done - began)

    def _begin(self, sequence: IntArray, mode: IntArray) -> None:
        work = self._work
        kernels_shop_graph.load(self.jobs.shop, sequence, mode, self._order, self._last)
        work.order_until[:] = 0
        work.mode_until[:] = 0
        work.state[:] = (0, 2**62, 0, 2**62)

    def _next(self) -> None:
        """Keep what the search found, and begin the next one."""
        work, rng = self._work, self._rng
        self._keep(Elite(int(work.state[1]), work.best[0].copy(), work.best[1].copy()))
        if self._parent < 0 and len(self._elites) < ELITES:
            self._begin(*self._random())
            return
        if len(self._elites) < 3:
            # All the same: keep the best and fill up again.
            self._parent = -1
            self._begin(*self._random())
            return
        a, b = rng.choice(len(self._elites), 2, replace=False).tolist()
        self._parent = a
        self._begin(*self._relink(self._elites[a], self._elites[b]))

    def _keep(self, new: Elite) -> None:
        """Take a schedule among the elites, unless it is too close to a better one."""
        near = max(2, self.jobs.n // 50)
        for k, old in enumerate(self._elites):
            if new.value == old.value and self._distance(new, old) < near:
                # A search that ends where an elite is tells that the two are exhausted.
                if k == self._parent and len(self._elites) > 2:
                    worst = max(range(len(self._elites)), key=lambda e: self._elites[e].value)
                    self._elites.pop(worst)
                return
        self._elites.append(new)
        self._elites.sort(key=lambda e: e.value)
        del self._elites[ELITES:]

    def _distance(self, a: Elite, b: Elite) -> int:
        """Neighbours on machines that are not the same."""
        return int((self._neighbours(a) != self._neighbours(b)).sum())

    def _neighbours(self, elite: Elite) -> IntArray:
        order = kernels_shop_graph.order_of(self.jobs.n, self.jobs.machines)
        kernels_shop_graph.load(self.jobs.shop, elite.sequence, elite.mode, order, self._last)
        found: IntArray = order.next
        return found

    def _relink(self, a: Elite, b: Elite) -> tuple[IntArray, IntArray]:
        n, rng = self.jobs.n, self._rng
        rank = np.zeros((2, n))
        rank[0, a.sequence] = rank[1, b.sequence] = np.arange(n)
        share = rng.uniform(0.35, 0.65) + rng.uniform(-0.15, 0.15, n)[self._job]
        key = share * rank[0] + (1.0 - share) * rank[1]
        mode = np.where(rng.random(n) < 0.5, a.mode, b.mode)
        return np.argsort(key, kind="stable"), mode

    def _random(self) -> tuple[IntArray, IntArray]:
        """Dispatching by disturbed work remaining, with the prices of modes by random factors."""
        jobs, tail, rng = self.jobs, self.instance.tail, self._rng
        sequence, mode = np.zeros((2, jobs.n), np.int64)
        rank = rng.integers(0, int(tail.max()) + 1, jobs.n) - tail
        price = np.zeros(len(jobs.shop.dur))
        if not self.instance.single_mode:
            longer, other = prices(self.instance, jobs, self._work.rng)
            price = 4.0 * rng.random() ** 2 * longer + 2.0 * rng.random() ** 2 * other
            if jobs.n > LONG:
                # Work that is done where it is short matters more than who comes next.
                price = (3.0 + 4.0 * rng.random()) * longer + 0.5 * rng.random() * other
                rank = (-tail * (1.0 + 0.1 * rng.standard_normal(jobs.n))).astype(np.int64)
        whole = price.astype(np.int64)
        kernels_shop.dispatch(jobs.shop, rank, whole, jobs.machines, sequence, mode)
        return sequence, mode

    def _job_of(self) -> IntArray:
        """The first operation of each operation's job, (n,)."""
        before = self.jobs.shop.before.tolist()
        root = list(range(len(before)))
        for i in range(len(before)):
            j = i
            while before[j] >= 0:
                j = before[j]
            root[i] = j
        return np.array(root, np.int64)

    def _from_state(self, start: list[int], mode: list[int]) -> tuple[IntArray, IntArray]:
        """Operations by start, those that take no time first, and within a job by its order."""
        starts, modes = np.array(start, np.int64), np.array(mode, np.int64)
        ends = starts + self.instance.duration[modes]
        depth = self.instance.tail
        return np.lexsort((-depth, ends, starts)), modes

    def _take_in(self, run: Run) -> None:
        """A better schedule that others found joins the elites."""
        incumbent = run.incumbent
        if incumbent is None or incumbent is self._seen:
            return
        self._seen = incumbent
        if incumbent.source != "tabu":
            state = state_of(self.instance, incumbent.schedule)
            sequence, mode = self._from_state(state.start, state.mode)
            value = int((np.array(state.start) + self.instance.duration[mode]).max())
            self._keep(Elite(value, sequence, mode))
