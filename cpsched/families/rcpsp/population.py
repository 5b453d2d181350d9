"""Population search over activity lists and modes, with restarts against early convergence."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.families.rcpsp import kernels, kernels_population
from cpsched.families.rcpsp.arrays import LARGE
from cpsched.families.rcpsp.greedy import priority
from cpsched.families.rcpsp.schedule import schedule_of, state_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.arrays import Kit
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: Members of a population times tasks: larger projects get by with fewer members.
CELLS = 12_000
#: Members of a population, at least and at most; of a project of more than LARGE tasks.
FEWEST, MOST, OF_LARGE = 30, 150, 12
#: An offer that cost a second is followed by this many seconds of search before the next.
BETWEEN_OFFERS = 8.0
#: Children per member without a better best schedule after which a population is given up.
PATIENCE = 150
#: Populations whose best members meet in a common one before all begins anew.
ROUNDS = 4
#: Schedules on the way from one member to another, and one.
STOPS = 10
#: Virtual seconds per child and task.
COST = 5e-7
#: Parameters of the kernel: rounds of tournament; percentage of block crossovers, blocks compared
#: for density; percentage and number of list mutations; percentage and number of mode mutations;
#: percentage of decodings that choose modes; percentage of survivals against a random member.
KNOBS = (0, 90, 3, 60, 3, 60, 3, 50, 0)


class Population:
    """Schedules of one project that are crossed and improved in place.

    Attributes
    ----------
    lists, modes, starts : (P, n)
        Activity lists in the order of starts, modes as indices into the mode arrays, starts.
    worth : (P,)
        Objectives as one number, see `kernels_population.fitness`.
    """

    def __init__(
        self,
        instance: Instance,
        kit: Kit,
        seed: int,
        size: int = MOST,
        knobs: tuple[int, ...] = KNOBS,
    ) -> None:
        n = kit.n
        self.kit, self.n, self.size = kit, n, size
        self.state = np.array([(seed * 2654435761 + 12345) & 0xFFFFFFFF], np.int64)
        self.numbers = np.random.default_rng(seed)
        self.lists = np.zeros((size, n), np.int64)
        self.modes = np.zeros((size, n), np.int64)
        self.starts = np.zeros((size, n), np.int64)
        self.worth = np.full(size, 2**60, np.int64)
        self.filled = 0
        self.knobs = np.array(knobs, np.int64)
        first = kit.net.mode_start[:-1]
        share = instance.demand / np.maximum(1, instance.capacity)
        self.work = np.asarray(1000 * share.sum(axis=1)[first] * instance.duration[first], np.int64)
        self._scratch = (
            kit.free,
            kit.count,
            kit.mirrored,
            kit.reach,
            np.zeros(n, np.int64),
            np.zeros(n + 1, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(len(kit.net.budget), np.int64),
        )

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return self.filled == self.size

    def add_random(self, rank: IntArray, mode: IntArray, spread: float) -> None:
        """One more member: the ranks disturbed by ``spread`` times n, the modes at random."""
        kit = self.kit
        disturbed = rank + self.numbers.uniform(0.0, spread * self.n, self.n)
        shuffled = np.argsort(np.argsort(disturbed, kind="stable"), kind="stable")
        if kit.multi_mode and self.filled:
            mode = self._random_modes(mode)
        if self.filled % 2:
            start: IntArray | None = kit.serial(kit.list_by(shuffled), mode)
        else:
            start = kit.by_rank(shuffled, mode, lambda: False)
        assert start is not None
        self.put(self.filled, start, mode)
        self.filled += 1

    def _random_modes(self, mode: IntArray) -> IntArray:
        net = self.kit.net
        mode = mode.copy()
        change = np.flatnonzero(self.numbers.random(self.n) < 0.3)
        for j in change.tolist():
            m = int(self.numbers.integers(net.mode_start[j], net.mode_start[j + 1]))
            if net.usable[m]:
                mode[j] = m
        used = np.zeros(len(net.budget), np.int64)
        if kernels_population.fit_modes(net, mode, used, self.state, 20 * self.n) > 0:
            return np.array(self.modes[0])
        return mode

    def put(self, k: int, start: IntArray, mode: IntArray) -> None:
        """Make a schedule, justified, the k-th member."""
        self._set(k, *self.kit.improve(start, mode))

    def _set(self, k: int, start: IntArray, mode: IntArray) -> None:
        makespan = self.kit.makespan(start, mode)
        kernels.sort_by_time(start, self.kit.net.topo, makespan, self.kit.count, self.lists[k])
        self.starts[k], self.modes[k] = start, mode
        self.worth[k] = kernels_population.fitness(self.kit.net, mode, start, makespan)

    def relink(self, apart: int) -> None:
        """Walk from every member to the one ``apart`` places on; keep the best schedule on the way.

        Path relinking: the first tasks of the list are those of the target, ever more of them, the
        others keep the order of the source. A better schedule takes the source's place.
        """
        lists, modes = self.lists.copy(), self.modes.copy()
        used = np.zeros(len(self.kit.net.budget), np.int64)
        for k in range(self.filled):
            to = (k + apart) % self.filled
            best: tuple[int, IntArray, IntArray] | None = None
            for stop in range(1, STOPS):
                first = lists[to, : self.n * stop // STOPS]
                mode = modes[k].copy()
                mode[first] = modes[to, first]
                if self.kit.multi_mode and kernels.excess(self.kit.net, mode, used) > 0:
                    continue
                rest = lists[k][~np.isin(lists[k], first)]
                start = self.kit.serial(np.concatenate([first, rest]), mode)
                start, mode = self.kit.improve(start, mode)
                net, makespan = self.kit.net, self.kit.makespan(start, mode)
                worth = kernels_population.fitness(net, mode, start, makespan)
                if best is None or worth < best[0]:
                    best = worth, start, mode
            if best is not None and best[0] < self.worth[k]:
                self._set(k, best[1], best[2])

    def evolve(self, count: int) -> int:
        """Make that many children; the index of the best member."""
        return int(
            kernels_population.evolve(
                self.kit.net,
                self.kit.back,
                self.work,
                self.lists,
                self.modes,
                self.starts,
                self.worth,
                count,
                self.knobs,
                self.state,
                *self._scratch,
            )
        )


class Restarts:
    """Population search as a sequence of short steps, sharing schedules with the run.

    A population that has converged is given up, and its best members are kept. After some rounds
    the kept ones form a population of their own; then all begins anew.
    """

    def __init__(self, instance: Instance, kit: Kit, mode: IntArray, seed: int) -> None:
        self.instance, self.kit, self.mode = instance, kit, mode
        self.seed, self.round = seed, 0
        self.rank = priority(instance, "lft")
        self.size = max(FEWEST, min(MOST, CELLS // max(1, kit.n)))
        if kit.n > LARGE:
            self.size = OF_LARGE
        self.population = Population(instance, kit, seed, self.size)
        self._kept: list[tuple[int, IntArray, IntArray]] = []
        self._offered = 2**62
        self._best = 2**62
        self._idle = 0
        self._rate = 200.0 if jit.ready() else 1.0
        self._seen: object = None
        self._next_offer = 0.0

    def step(self, run: Run, seconds: float) -> None:
        """Work for about that time, or for that much counted work in a deterministic run."""
        population = self.population
        per_child = COST * self.kit.n * jit.slowdown()
        if not population.full:
            began = time.perf_counter()
            while not population.full and not run.done():
                population.add_random(self.rank, self.mode, 0.3 if self.round % 2 == 0 else 0.6)
                run.clock.spend(2.0 * per_child)
                late = time.perf_counter() - began > seconds
                if late and not run.deterministic:
                    break
            if population.full:
                self._share(run, int(population.worth.argmin()))
            return
        self._take_in(run)
        if run.deterministic:
            count = max(1, int(seconds / per_child))
        else:
            count = max(1, int(seconds * self._rate))
        began = time.perf_counter()
        best = population.evolve(count)
        run.clock.spend(count * per_child)
        self._rate = max(1.0, count / max(1e-6, time.perf_counter() - began))
        worth = int(population.worth[best])
        if worth < self._best:
            self._best, self._idle = worth, 0
        else:
            self._idle += count
        self._share(run, best)
        if self._idle > PATIENCE * population.size:
            self._restart()

    def worth(self) -> int:
        """The best objective as one number, see `kernels_population.fitness`."""
        return int(self.population.worth.min())

    def finish(self, run: Run) -> None:
        """Offer what is held back, at the end of the search."""
        self._next_offer = 0.0
        if self.population.filled:  # a thread may be stopped before its first member
            self._share(run, int(self.population.worth.argmin()))

    def _share(self, run: Run, best: int) -> None:
        """Offer a member that is better than what was offered; rarely, where checks are slow."""
        worth = int(self.population.worth[best])
        began = time.perf_counter()
        if worth < self._offered and (run.deterministic or began >= self._next_offer):
            self._offered = worth
            start, mode = (
                self.population.starts[best].tolist(),
                self.population.modes[best].tolist(),
            )
            alone = [o.name for o in run.objectives] == ["makespan"]
            values = (worth,) if alone else None
            run.offer(lambda: schedule_of(self.instance, start, mode), "population", values)
            done = time.perf_counter()
            self._next_offer = done + BETWEEN_OFFERS * (done - began)

    def _take_in(self, run: Run) -> None:
        """Put a better schedule that others found in the place of the worst member."""
        incumbent = run.incumbent
        if incumbent is None or incumbent is self._seen:
            return
        self._seen = incumbent
        if incumbent.source == "population" or not jit.ready():
            return
        state = state_of(self.instance, incumbent.schedule)
        start, mode = np.array(state.start, np.int64), np.array(state.mode, np.int64)
        self.population.put(int(self.population.worth.argmax()), start, mode)

    def _restart(self) -> None:
        population = self.population
        keep = -(-population.size // ROUNDS)
        order = np.argsort(population.worth, kind="stable")[:keep].tolist()
        self._kept += [
            (int(population.worth[k]), population.starts[k].copy(), population.modes[k].copy())
            for k in order
        ]
        self.round += 1
        self._best, self._idle = 2**62, 0
        self.population = Population(
            self.instance, self.kit, self.seed + 31 * self.round, self.size
        )
        if self.round % (ROUNDS + 1) == ROUNDS:
            kept = self._kept[: population.size]
            for k, (_, start, mode) in enumerate(kept):
                self.population.put(k, start, mode)
            self.population.filled = len(kept)
            self.population.relink(keep)
            self._kept = []


def restarts_of(instance: Instance, kit: Kit, run: Run, seed: int) -> Restarts:
    """Population search that begins at the modes of the run's incumbent."""
    assert run.incumbent is not None
    state = state_of(instance, run.incumbent.schedule)
    return Restarts(instance, kit, np.array(state.mode, np.int64), seed)
