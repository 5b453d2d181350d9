"""Machine reassignment: simulated annealing over shifts and swaps, and an aggregate bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np

from cpsched.core import jit
from cpsched.core.run import Run
from cpsched.families.pods import kernels_reassignment as kernels
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.objectives import tier_counts
from cpsched.families.pods.problem import Placement, PodsProblem, PodsSchedule
from cpsched.families.pods.reassignment_problem import Reassignment
from cpsched.result import Bound

#: Estimated seconds of one step of the compiled and of the interpreted kernel.
STEP_SECONDS = 1e-6
SLOW_STEP_SECONDS = 4e-5
#: First and last temperature of a round, by the cost at its start. Where processes depend on each
#: other a hot start only loses what the cold one gains; where they do not, it is the other way.
SCHEDULES = ((2e-5, 1e-9), (3e-3, 1e-6))
#: Rounds from the best assignment known start at this share of the first temperature.
REHEAT = 0.1
#: Seconds of a round when there is no limit.
LONG = 60.0


class State:
    """The arrays of an assignment."""

    def __init__(self, data: Reassignment, seed: int = 0) -> None:
        def table(rows: object) -> Ints:
            return np.array(rows, dtype=np.int64)

        machines, services = len(data.capacities), len(data.spread_minimum)
        self.home = table(data.initial)
        self.at, self.best = self.home.copy(), self.home.copy()
        self.service = table(data.services)
        self.need = table(data.requirements)
        self.transient = np.array(data.transient, dtype=np.int64)
        self.location, self.near = table(data.locations), table(data.neighbourhoods)
        self.capacity, self.safety = table(data.capacities), table(data.safety)
        self.weights = table(data.load_weights)
        self.balances = table(
            [(b.first, b.second, b.target, b.weight) for b in data.balances]
        ).reshape(-1, 4)
        self.minimum = table(data.spread_minimum)
        self.first, self.needs = _lists(data.dependencies)
        users: list[list[int]] = [[] for _ in range(services)]
        for s, row in enumerate(data.dependencies):
            for other in row:
                users[other].append(s)
        self.first_of, self.needed_by = _lists(users)
        self.process_cost = data.process_move_weight * table(data.process_move_costs)
        self.machine_move = data.machine_move_weight * table(data.move_costs)
        self.service_weight = data.service_move_weight
        self.use = np.zeros((machines, len(data.transient)), dtype=np.int64)
        np.add.at(self.use, self.home, self.need)
        self.held = np.zeros_like(self.use)
        self.on = np.zeros((services, machines), dtype=np.int64)
        np.add.at(self.on, (self.service, self.home), 1)
        self.at_location = np.zeros((services, int(self.location.max()) + 1), dtype=np.int64)
        np.add.at(self.at_location, (self.service, self.location[self.home]), 1)
        self.at_near = np.zeros((services, int(self.near.max()) + 1), dtype=np.int64)
        np.add.at(self.at_near, (self.service, self.near[self.home]), 1)
        self.moved = np.zeros(services, dtype=np.int64)
        self.cost = self.best_cost = sum(
            int(
                kernels.machine_cost(
                    m, self.use, self.capacity, self.safety, self.weights, self.balances
                )
            )
            for m in range(machines)
        )
        self.random = np.uint64(seed * 2 + 88172645463325252)

    def anneal(self, steps: int, hot: float, cold: float) -> None:
        """Run the kernel for so many steps between two temperatures."""
        with np.errstate(over="ignore"):
            self.cost, self.best_cost, state = self._kernel(steps, hot, cold)
        self.random = np.uint64(state)

    def _kernel(self, steps: int, hot: float, cold: float) -> Any:
        return kernels.anneal(
            self.at, self.best, self.home, self.service, self.need, self.transient,
            self.location, self.near, self.capacity, self.safety, self.weights, self.balances,
            self.minimum, self.first, self.needs, self.first_of, self.needed_by,
            self.process_cost, self.machine_move, np.int64(self.service_weight), self.use,
            self.held, self.on, self.at_location, self.at_near, self.moved, np.int64(self.cost),
            np.int64(self.best_cost), steps, hot, cold, self.random,
        )  # fmt: skip


def _lists(rows: object) -> tuple[Ints, Ints]:
    listed = [list(row) for row in rows]  # type: ignore[attr-defined]
    first = np.cumsum([0, *(len(row) for row in listed)]).astype(np.int64)
    flat = [x for row in listed for x in row]
    return first, np.array(flat, dtype=np.int64)


def schedule_of(problem: PodsProblem, at: Ints) -> PodsSchedule:
    """The schedule of an assignment; processes move all at once, so there are no steps."""
    names = [n.name for n in problem.nodes]
    return PodsSchedule(
        placements=tuple(
            Placement(pod=p.name, node=names[m])
            for p, m in zip(problem.pods, at.tolist(), strict=True)
        ),
        counts=tier_counts(problem, {p.name for p in problem.pods}),
    )


def greedy(problem: PodsProblem, run: Run) -> None:
    """Offer the initial assignment, then one improved by descent alone."""
    assert problem.reassignment is not None
    jit.ready(run.clock.remaining())
    state = State(problem.reassignment, run.seed)
    run.offer(lambda: schedule_of(problem, state.home), "greedy:stay")
    if len(run.objectives):
        quick = 20_000 if jit.ready(run.clock.remaining()) else 500
        state.anneal(quick, 1e-3, 1e-6)
        run.offer(lambda: schedule_of(problem, state.best), "greedy:descent", (state.best_cost,))


class Annealing:
    """Rounds of falling temperature: each schedule from the start, then from the best known."""

    def __init__(
        self, problem: PodsProblem, run: Run, seed: int, schedules: Sequence[tuple[float, float]]
    ) -> None:
        assert problem.reassignment is not None
        self.problem, self.run, self.seed, self.schedules = problem, run, seed, schedules
        self.best = State(problem.reassignment, seed)

    def rounds(self, others: Sequence[Annealing]) -> None:
        """Anneal until the run is done; ``others`` share their best assignments."""
        data, run = self.problem.reassignment, self.run
        assert data is not None
        for k in count():
            if run.done():
                return
            fresh = k < len(self.schedules)
            hot, cold = self.schedules[k % len(self.schedules)]
            state = State(data, self.seed + 2 * k)
            if not fresh:
                best = min((self, *others), key=lambda one: one.best.best_cost).best
                _restore(state, best.best)
                hot *= REHEAT
            left = run.clock.remaining()
            share = 0.5 if k == len(self.schedules) - 1 else 0.34
            seconds = share * left if math.isfinite(left) else LONG
            self._round(state, seconds, hot * state.cost, cold * state.cost)
            if state.best_cost < self.best.best_cost:
                self.best = state

    def _round(self, state: State, seconds: float, hot: float, cold: float) -> None:
        run = self.run
        fast = jit.ready(run.clock.remaining())
        each = STEP_SECONDS if fast else SLOW_STEP_SECONDS
        start = run.clock.used()
        hot, cold = max(1.0, hot), max(0.2, cold)
        steps = max(200, min(100_000, int(0.02 * seconds / each)))
        while not run.done():
            gone = (run.clock.used() - start) / max(1e-9, seconds)
            if gone >= 1.0:
                return
            temperature = hot * (cold / hot) ** gone
            known = state.best_cost
            state.anneal(steps, temperature, temperature * 0.97)
            run.clock.spend(steps * each)
            if state.best_cost < known and state.best_cost < (run.value() or math.inf):
                run.offer(schedule_of(self.problem, state.best), "annealing", (state.best_cost,))


def search(problem: PodsProblem, run: Run) -> None:
    """Anneal until the run is done, by different schedules of the temperature side by side."""
    threads = 1 if run.deterministic else max(1, run.workers)
    if threads == 1:
        Annealing(problem, run, run.seed, SCHEDULES).rounds(())
        return
    searches = [
        Annealing(problem, run, run.seed + 1000 * k, [SCHEDULES[k % len(SCHEDULES)]])
        for k in range(threads)
    ]
    with ThreadPoolExecutor(threads, "cpsched-annealing") as pool:
        for done in [pool.submit(one.rounds, searches) for one in searches]:
            done.result()


def _restore(state: State, at: Ints) -> None:
    for p in np.flatnonzero(state.at != at).tolist():
        kernels.shift(
            p, at[p], state.at, state.home, state.service, state.need, state.transient,
            state.location, state.near, state.use, state.held, state.on, state.at_location,
            state.at_near, state.moved,
        )  # fmt: skip
    state.cost = cost_of(state)
    state.best_cost = state.cost
    state.best = state.at.copy()


def cost_of(state: State) -> int:
    """Cost of the state, computed anew."""
    machines = range(len(state.capacity))
    total = sum(
        int(
            kernels.machine_cost(
                m, state.use, state.capacity, state.safety, state.weights, state.balances
            )
        )
        for m in machines
    )
    gone = state.at != state.home
    total += int(state.process_cost[gone].sum())
    total += int(state.machine_move[state.home, state.at].sum())
    return total + state.service_weight * int(state.moved.max(initial=0))


def raise_bounds(problem: PodsProblem, run: Run) -> None:
    """Give the run the aggregate bound."""
    data = problem.reassignment
    if data is not None and run.objectives:
        run.raise_bound(Bound(aggregate(data), "aggregate-load", "reassignment_cost"))


def aggregate(data: Reassignment) -> int:
    """Load and balance cost if all machines were one: both are convex, so it is a lower bound."""
    need = np.array(data.requirements, dtype=object).sum(axis=0)
    safety = np.array(data.safety, dtype=object).sum(axis=0)
    capacity = np.array(data.capacities, dtype=object).sum(axis=0)
    total = sum(w * max(0, n - s) for w, n, s in zip(data.load_weights, need, safety, strict=True))
    for b in data.balances:
        first, second = capacity[b.first] - need[b.first], capacity[b.second] - need[b.second]
        total += b.weight * max(0, b.target * first - second)
    return int(total)
