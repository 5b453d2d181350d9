"""Annealing over a plan: the Python side of the local-search kernel, in a thread or in turns."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families.workflow import greedy, kernels, kernels_search
from cpsched.families.workflow.balance import Balancer
from cpsched.families.workflow.extract import Plan, order_of
from cpsched.families.workflow.packing import NEAR
from cpsched.families.workflow.prepare import NEVER, Instance, Ints

#: Below this relative gap it is how durations add up that counts: models do not see more than that.
CLOSE = 2e-4

#: Moves per task in a round of annealing. Longer ones were seen to end in one and the same basin.
LONGEST_ROUND = 1250

#: First temperatures of the rounds of annealing, as parts of the makespan over the root of the
#: number of tasks.
HOT = (1.0, 0.3, 0.1, 0.005)
COLD = (0.02, 0.005, 0.001)


def is_simple(inst: Instance) -> bool:
    """Whether appending tasks reaches an optimal schedule: unit machines without breaks."""
    return bool(inst.unit.all()) and not any(inst.blocked)


class Annealer:
    """Rounds of annealing that start from the best plan known and hand back better ones."""

    def __init__(self, inst: Instance, plan: Plan, seed: int, compiled: bool) -> None:
        self.inst = inst
        self.simple = is_simple(inst)
        self.row, self.mach = plan.row.copy(), plan.mach.copy()
        self.order = order_of(inst, plan)
        self.best = plan.makespan(inst)
        self.seed = seed
        self.round = 0
        #: Seconds of one move, as measured; starts as a guess.
        self.move = 2e-8 * (inst.n + 2 * len(inst.pred_src)) + 1e-6
        if not compiled:
            self.move *= 100
        room = 1 if self.simple else 2 * inst.n + 8
        if not self.simple and inst.m * room > 20_000_000:
            room = max(64, 16 * inst.n // inst.m)
        self.use = greedy.unused(inst, room)
        self.balancer = Balancer(inst, seed)
        #: Whether exchanges of sets of tasks apply, as far as was seen.
        self.balances = False

    def moves_of(self, seconds: float) -> int:
        """Moves of a round of at most some seconds; few tasks gain more from many short rounds."""
        return max(20, min(int(seconds / self.move), LONGEST_ROUND * self.inst.n))

    def anneal(self, moves: int, target: int) -> Plan | None:
        """One round of ``moves``; the plan when it is better than any before."""
        inst = self.inst
        self.round += 1
        order, row, mach = self.order.copy(), self.row.copy(), self.mach.copy()
        best = (np.empty_like(order), np.empty_like(row), np.empty_like(mach))
        # Many moves per task can repair what a high temperature breaks; few cannot.
        cycle = HOT if moves >= 500 * inst.n else COLD
        part = cycle[self.round % len(cycle)]
        warm = max(1.0, self.best * part / max(1.0, inst.n**0.5))
        value = kernels_search.anneal(
            moves, warm, warm * 0.01, self.seed + 7919 * self.round, target,
            order, row, mach, self.simple, greedy.graph(inst), self.use, *best,
        )  # fmt: skip
        if value >= NEVER:
            return None
        if value <= self.best:
            self.order, self.row, self.mach = best
        if value < self.best:
            self.best = int(value)
            return self.decode(*best)
        return None

    def balance(self, clock: Clock, target: int, seconds: float) -> Plan | None:
        """Exchange sets of tasks for some seconds of the clock; the plan when it is better.

        Nothing happens where machines have breaks or take several tasks, or far from the target.
        """
        # A makespan within the tolerance of proofs is as good.
        goal = target + target // 2_000_000_000
        end = clock.used() + min(seconds, clock.remaining())
        balancer, out = self.balancer, None
        first, spread = balancer.round, balancer.spread
        self.balances = self.simple
        plan = self.decode(self.order, self.row, self.mach)
        while self.balances and 0 < self.best - goal <= NEAR * self.best and clock.used() < end:
            start = plan
            if balancer.round % 8:  # without a change the same sets come again soon
                start = self.decode(*balancer.kicked(plan))
                if self._as_good(start):
                    plan = start
            found = balancer.step(start, self.best, goal, clock)
            tried = balancer.round - first
            self.balances = tried < 40 or balancer.spread - spread > 0.1 * tried
            if found is None:
                continue
            made = self.decode(*found)
            if self._as_good(made):
                out = made if made.makespan(self.inst) < self.best else out
                self.adopt(made)
                plan = made
        return out

    def is_close(self, target: int) -> bool:
        """Whether it is how durations add up that counts, which exchanges see best."""
        return self.balances and self.best - target <= CLOSE * self.best

    def _as_good(self, plan: Plan) -> bool:
        end = plan.end(self.inst)
        return int(end.max()) <= self.best and not bool((end > self.inst.deadline).any())

    def decode(self, order: Ints, row: Ints, mach: Ints) -> Plan:
        """The plan of an order and assignment."""
        inst = self.inst
        times = kernels.Times(*(np.full(inst.n, -1, dtype=np.int64) for _ in range(3)))
        scratch = np.full(inst.m, -1, dtype=np.int64)
        use = kernels.Use(*(a.copy() for a in self.use))
        kernels_search.decode(
            0, order, row, mach, self.simple, greedy.graph(inst), self.use, use,
            times, scratch, scratch.copy(),
        )  # fmt: skip
        return Plan(times.start, row.copy(), mach.copy())

    def learn(self, seconds: float) -> None:
        """Remember what a move took; a round that ended at its target says too little."""
        self.move = max(1e-7, 0.5 * self.move + 0.5 * seconds)

    def adopt(self, plan: Plan) -> None:
        """Go on from a plan that is better than the own one."""
        value = plan.makespan(self.inst)
        if value < self.best:
            self.best = value
            self.order = order_of(self.inst, plan)
            self.row, self.mach = plan.row.copy(), plan.mach.copy()


class Offers:
    """Plans on their way to the run: checking a large one is dear, so it is done now and then."""

    def __init__(self, inst: Instance, run: Run, source: str = "anneal") -> None:
        self.inst, self.run, self.source = inst, run, source
        self.waiting: Plan | None = None
        #: Seconds that the last offer took; before the first, what the run learned from others.
        self.cost = run.clock.reserve / 1.5
        self.next = 0.0

    def put(self, plan: Plan | None) -> None:
        """Take a plan better than those before, or none; offer what waits when it is time."""
        if plan is not None:
            self.waiting = plan
        if self.run.deterministic or time.perf_counter() >= self.next:
            self.flush()

    def flush(self) -> None:
        """Offer the waiting plan."""
        clock = self.run.clock
        if self.waiting is not None and clock.limit - clock.elapsed() > 0.7 * self.cost:
            begun = time.perf_counter()
            greedy.offer(self.run, self.inst, self.waiting, self.source)
            self.waiting = None
            self.cost = time.perf_counter() - begun
            self.next = time.perf_counter() + 10 * self.cost


def anneal_for(
    inst: Instance,
    run: Run,
    annealer: Annealer,
    seconds: float,
    beside: Sequence[Background] = (),
) -> None:
    """Anneal in the caller's thread for some seconds of the run's clock, and stop those beside."""
    offers = Offers(inst, run)
    try:
        _anneal_for(inst, run, annealer, seconds, offers, beside)
    finally:
        for one in beside:
            one.stop()
        offers.flush()


def _anneal_for(
    inst: Instance,
    run: Run,
    annealer: Annealer,
    seconds: float,
    offers: Offers,
    beside: Sequence[Background],
) -> None:
    clock = run.clock
    end = clock.remaining() - seconds
    while not run.done() and clock.remaining() > end:
        slice_ = min(0.2, max(0.01, clock.remaining() - end), seconds / 4)
        moves = annealer.moves_of(slice_)
        begun = time.perf_counter()
        plan = annealer.anneal(moves, target(inst, run))
        clock.spend(moves * (2e-8 * (inst.n + 2 * len(inst.pred_src)) + 1e-6))
        if not clock.deterministic:
            annealer.learn((time.perf_counter() - begun) / moves)
        plan = annealer.balance(clock, target(inst, run), 0.5 * slice_) or plan
        offers.put(plan)
        for one in beside:
            one.merge()


def target(inst: Instance, run: Run) -> int:
    """Ticks at which the makespan is proved optimal; 0 while nothing is known."""
    bound = run.bound(0)
    return 0 if bound is None else inst.ticks(float(bound))


class Background:
    """Annealing in a thread beside CP-SAT; its plans are fetched in the caller's thread."""

    def __init__(self, inst: Instance, run: Run, annealer: Annealer) -> None:
        self.inst, self.run, self.annealer = inst, run, annealer
        self.offers = Offers(inst, run)
        self.patience = 2.0 if inst.rows * inst.m <= 250 else math.inf
        self.found: list[Plan] = []
        self.given: list[Plan] = []
        self.over = threading.Event()
        #: Whether the thread waits because more rounds would not help.
        self.idle = False
        self.thread = threading.Thread(target=self._work, name="cpsched-anneal", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        annealer = self.annealer
        improved, rounds = time.perf_counter(), 0
        while not self.over.is_set() and not self.run.clock.expired():
            while self.given:
                annealer.adopt(self.given.pop())
                improved = time.perf_counter()
            goal = target(self.inst, self.run)
            close = annealer.is_close(goal)
            patient = close or time.perf_counter() - improved <= self.patience
            self.idle = annealer.best <= goal or not patient
            if self.idle:
                # The cores are worth more to the solver now.
                self.over.wait(0.1)
                continue
            plan = None
            rounds += 1
            if not close or rounds % 4 == 0:
                moves = annealer.moves_of(min(0.2, 0.2 * self.run.clock.remaining()))
                begun = time.perf_counter()
                plan = annealer.anneal(moves, goal)
                annealer.learn((time.perf_counter() - begun) / moves)
            plan = annealer.balance(self.run.clock, goal, 0.2) or plan
            if plan is not None:
                improved = time.perf_counter()
                self.found.append(plan)

    def merge(self) -> None:
        """Offer what was found since the last call."""
        best = None
        while self.found:
            best = self.found.pop(0)
        self.offers.put(best)

    def stop(self) -> None:
        """End the thread, and wait shortly for its current round."""
        self.over.set()
        self.thread.join(0.3)
        self.merge()
        self.offers.flush()


def give(background: Background | None, plan: Any) -> None:
    """Let the annealer know of a better plan."""
    if background is not None:
        background.given.append(plan)
