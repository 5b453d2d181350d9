"""Requests in stages: interruptible prefills, batching buckets, prefill and decode apart.

A serial scheduler places one request after the other where it ends first; local search changes the
order. `staged_model` is the exact model for small problems.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cpsched.families.serving.greedy import POLICIES
from cpsched.families.serving.pieces import (
    bucket_of,
    prefill_rounds,
    staged_pieces,
    transfer_rounds,
    working,
)
from cpsched.families.serving.prepare import UNLIMITED, Prepared
from cpsched.families.serving.problem import Placed, ServingProblem, ServingSchedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.run import Run

    Ints = NDArray[np.int64]

RULES = ("capacity", "max_batch", "token_budget")
#: Combinations of machines tried for the fewest or cheapest that serve a trace.
MIXES = 400


def routes(p: ServingProblem, i: int, among: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """Instances of the prefill, and of the decode where that is another one."""
    allowed = p.requests[i].candidates
    machines = p.machines
    open_ = [g for g in among if not allowed or g in allowed]
    for g in open_:
        if machines[g].role == "mixed":
            yield g, None
        if machines[g].role != "decode":
            for h in open_:
                if h != g and machines[h].role != "prefill":
                    yield g, h


class Board:
    """What is used of every instance and of the network, round by round."""

    def __init__(self, q: Prepared) -> None:
        p = self.p = q.problem
        longest = int(q.length.max(axis=0).sum()) + sum(
            transfer_rounds(p, r.prompt) for r in p.requests
        )
        self.horizon = int(q.release.max(initial=0)) + longest + 2
        self.limits = np.stack([q.capacity, q.max_batch, q.budget])
        self.use = np.zeros((3, q.machines, min(self.horizon, 4096)), np.int64)
        self.bucket = np.full((q.machines, self.use.shape[2]), -1, np.int64)
        self.lines = np.zeros(self.use.shape[2], np.int64)
        self.most = UNLIMITED
        if p.network is not None and p.network.transfers is not None:
            self.most = p.network.transfers

    def reach(self, t: int) -> None:
        """Make room for the rounds up to ``t``."""
        more = max(t + 2, 2 * self.use.shape[2]) - self.use.shape[2]
        if t + 2 > self.use.shape[2]:
            self.use = np.pad(self.use, ((0, 0), (0, 0), (0, more)))
            self.bucket = np.pad(self.bucket, ((0, 0), (0, more)), constant_values=-1)
            self.lines = np.pad(self.lines, (0, more))

    def fits(self, i: int, one: Placed) -> bool:
        """Whether a request fits beside what is placed."""
        p = self.p
        r = p.requests[i]
        self.reach(one.end)
        machine = p.machines[one.instance]
        if machine.buckets:
            mine = bucket_of(r, machine)
            for a, b in working(one, prefill_rounds(r, machine)):
                there = self.bucket[one.instance, a + 1 : b + 1]
                if ((there >= 0) & (there != mine)).any():
                    return False
        if one.sent is not None and self.most < UNLIMITED:
            until = one.sent + transfer_rounds(p, r.prompt)
            if (self.lines[one.sent + 1 : until + 1] >= self.most).any():
                return False
        for g in {one.instance, one.instance if one.decode is None else one.decode}:
            for k, used in enumerate(staged_pieces(p, r, g, one).values()):
                if self.limits[k, g] >= UNLIMITED:
                    continue
                for a, b, base, slope in used:
                    grown = self.use[k, g, a + 1 : b + 1] + base
                    if slope:
                        grown += slope * np.arange(1, b - a + 1)
                    if grown.max() > self.limits[k, g]:
                        return False
        return True

    def add(self, i: int, one: Placed) -> None:
        """Place a request that fits."""
        p = self.p
        r = p.requests[i]
        machine = p.machines[one.instance]
        if machine.buckets:
            for a, b in working(one, prefill_rounds(r, machine)):
                self.bucket[one.instance, a + 1 : b + 1] = bucket_of(r, machine)
        if one.sent is not None:
            self.lines[one.sent + 1 : one.sent + transfer_rounds(p, r.prompt) + 1] += 1
        for g in {one.instance, one.instance if one.decode is None else one.decode}:
            for k, used in enumerate(staged_pieces(p, r, g, one).values()):
                for a, b, base, slope in used:
                    self.use[k, g, a + 1 : b + 1] += base + slope * np.arange(1, b - a + 1)

    def prefill(self, i: int, g: int, start: int) -> tuple[int, tuple[tuple[int, int], ...]] | None:
        """End and pauses of a prefill that begins with a chunk at ``start``; None if it cannot."""
        r, machine = self.p.requests[i], self.p.machines[g]
        rounds = prefill_rounds(r, machine)
        if not machine.interruptible:
            return start + rounds, ()
        chunk = machine.prefill_chunk or 1
        mine = bucket_of(r, machine)
        done, t = 0, start
        rests: list[list[int]] = []
        while done < rounds:
            t += 1
            self.reach(t)
            units = min(chunk, r.prompt - done * chunk)
            now = self.use[:, g, t] + (min(r.prompt, (done + 1) * chunk), 1, units)
            other = machine.buckets and self.bucket[g, t] not in (-1, mine)
            if (now <= self.limits[:, g]).all() and not other:
                done += 1
                continue
            if not done or self.use[0, g, t] + done * chunk > self.limits[0, g]:
                return None
            if rests and rests[-1][1] == t - 1:
                rests[-1][1] = t
            else:
                rests.append([t - 1, t])
        return t, tuple((a, b) for a, b in rests)

    def place(self, i: int, among: Sequence[int], before: int = 2**60) -> Placed | None:
        """The way to run a request that ends first, and before a round, if any does."""
        p = self.p
        r = p.requests[i]
        best: Placed | None = None
        for g, h in routes(p, i, among):
            machine = p.machines[g]
            rounds = prefill_rounds(r, machine)
            sending = 0 if h is None else transfer_rounds(p, r.prompt)
            at = r.arrival
            chunk = min(machine.prefill_chunk or 1, r.prompt) if rounds else 0
            if r.prompt > self.limits[0, g] or chunk > self.limits[2, g]:
                continue
            if r.prompt + r.output > self.limits[0, g if h is None else h]:
                continue
            while at + rounds + sending + r.output < before and at <= self.horizon:
                self.reach(at + 1)
                if self.use[0, g, at + 1] + chunk > self.limits[0, g]:
                    at += 1
                    continue
                found = self.prefill(i, g, at)
                if found is None:
                    at += 1
                    continue
                ready, pauses = found
                one = None
                sent = ready
                while sent + sending + r.output < before:
                    one = Placed(
                        request=r.id,
                        instance=g,
                        start=at,
                        end=sent + sending + r.output,
                        pauses=pauses,
                        decode=h,
                        sent=None if h is None else sent,
                    )
                    if self.fits(i, one):
                        break
                    one = None
                    sent += 1
                    if h is None or sent > ready + 64:
                        break
                if one is not None:
                    best, before = one, one.end
                    break
                at += 1
        return best


def serial(
    q: Prepared, order: Sequence[int], among: Sequence[int], run: Run | None = None
) -> list[Placed] | None:
    """Place the requests in that order; None when one fits nowhere or the time is up."""
    # Without a schedule the little that a call may overrun is used for the first one.
    grace = 0.12
    board = Board(q)
    out = []
    for i in order:
        if run is not None and run.clock.elapsed() > run.clock.limit + grace:
            return None
        if run is not None and run.incumbent is not None and run.clock.expired():
            return None
        one = board.place(i, among)
        if one is None and not q.problem.reject:
            return None
        if one is not None:
            board.add(i, one)
            out.append(one)
    return out


def late(q: Prepared, placed: list[Placed]) -> int:
    """Requests that miss their SLO."""
    index = {r.id: i for i, r in enumerate(q.problem.requests)}
    good = 0
    for one in placed:
        r = q.problem.requests[index[one.request]]
        first = one.end - r.output + min(1, r.output)
        by, due = (2**62 if x is None else x for x in (r.first_token_by, r.end_by))
        good += first <= by and one.end <= due
    return q.n - good


def offer(q: Prepared, run: Run, placed: list[Placed] | None, source: str) -> bool:
    """Offer a schedule, unless it misses a demanded SLO."""
    if placed is None:
        return False
    if q.problem.slo_percent is not None and late(q, placed) > q.misses:
        return False
    return run.offer(ServingSchedule(requests=tuple(placed)), source)


def greedy(q: Prepared, run: Run) -> None:
    """Serial schedules in the orders of the policies (capacity: on the cheapest mixes first)."""
    every = list(range(q.machines))
    if q.problem.question == "capacity":
        _mixes(q, run)
        return
    for name in ("edf", "svf", "fcfs", "mcsf", "ldf"):
        if run.incumbent is not None and run.done():
            return
        order = POLICIES[name][0](q).tolist()
        run.clock.spend(1e-3 * q.n)
        offer(q, run, serial(q, order, every, run), f"greedy:staged-{name}")


def mixes(q: Prepared, objective: str) -> list[tuple[float, list[int]]]:
    """Numbers of every kind of instance, as (value, machines), cheapest first."""
    first, groups = 0, []
    for one in q.problem.instances:
        groups.append(list(range(first, first + one.count)))
        first += one.count
    out = []
    # Of many numbers, every one near the ends and a few between.
    sizes = [sorted({*range(min(len(g), 24) + 1), len(g)}) for g in groups]
    for counts in itertools.islice(itertools.product(*sizes), 200_000):
        machines = [g for group, c in zip(groups, counts, strict=True) for g in group[:c]]
        roles = {q.problem.machines[g].role for g in machines}
        if "mixed" in roles or roles >= {"prefill", "decode"}:
            price = sum(q.problem.machines[g].price for g in machines)
            out.append((float(price if objective == "cost" else len(machines)), machines))
    out.sort(key=lambda one: (one[0], len(one[1])))
    return out


def _mixes(q: Prepared, run: Run) -> None:
    """Serve with everything, then with the cheapest mixes that might do."""
    name = run.objectives[0].name if run.objectives else "instances"
    from cpsched.families.serving.capacity import energy_bound

    least = energy_bound(q, name)
    every = list(range(q.machines))
    trials = [(0.0, every)]
    trials += [one for one in mixes(q, name) if one[0] >= least][:MIXES]
    for value, machines in trials:
        if run.incumbent is not None and (
            run.done() or (run.objectives and value >= run.incumbent.values[0])
        ):
            return
        for policy in ("edf", "fcfs"):
            order = POLICIES[policy][0](q).tolist()
            run.clock.spend(1e-3 * q.n)
            if offer(q, run, serial(q, order, machines, run), f"greedy:mix-{len(machines)}"):
                break


def search(q: Prepared, run: Run) -> None:
    """The exact model where it is small, then other orders of the serial scheduler."""
    from cpsched.families.serving import staged_model

    staged_model.solve(q, run)
    if run.incumbent is None or not run.objectives:
        return
    rng = random.Random(run.seed + 7)
    among = sorted(
        {g for one in run.incumbent.schedule.requests for g in (one.instance, one.decode)} - {None}
        | (set() if q.problem.question == "capacity" else set(range(q.machines)))
    )
    index = {r.id: i for i, r in enumerate(q.problem.requests)}
    while not run.done():
        placed = sorted(run.incumbent.schedule.requests, key=lambda one: one.start)
        order = [index[one.request] for one in placed]
        order += [i for i in range(q.n) if i not in set(order)]
        for _ in range(rng.randrange(1, 4)):
            a = rng.randrange(q.n)
            order.insert(rng.randrange(q.n), order.pop(a))
        run.clock.spend(1e-3 * q.n)
        offer(q, run, serial(q, order, among, run), "staged-reorder")
