"""Requests in stages: interruptible prefills, batching buckets, prefill and decode apart.

A serial scheduler places one request after the other where it ends first; local search changes the
order. `staged_model` is the exact model for small problems.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cpsched.errors import OutOfTime
from cpsched.families.serving.check import check
from cpsched.families.serving.dispatch import dispatch
from cpsched.families.serving.greedy import POLICIES
from cpsched.families.serving.measure import check_seconds, dispatch_seconds, energy_seconds
from cpsched.families.serving.prepare import GRACE, NORMAL, Prepared, by_precedence
from cpsched.families.serving.problem import Placed, ServingSchedule
from cpsched.families.serving.staged_board import Board, ready_of

if TYPE_CHECKING:
    from cpsched.core.run import Run

#: Seconds that placing a request may take by instance.
SLOWEST = 6e-4
#: Combinations of machines tried for the fewest or cheapest that serve a trace.
MIXES = 400
#: Combinations looked at.
COMBINATIONS = 20_000


def serial(
    q: Prepared, order: Sequence[int], among: Sequence[int], run: Run | None = None
) -> list[Placed] | None:
    """Place the running requests, then the others in that order; None when one fits nowhere or
    the time is up."""
    running = [i for i in order if q.fixed_machine[i] >= 0]
    # What is decided first, then by the rounds in which the handovers are due.
    running.sort(key=lambda i: (q.problem.requests[i].sent is None, ready_of(q, i)))
    waiting = [i for i in order if q.fixed_machine[i] < 0]
    if len(q.preds):
        waiting = by_precedence(q, np.array(waiting, np.int64)).tolist()
    board = Board(q)
    out = []
    for i in [*running, *waiting]:
        if run is not None and run.clock.elapsed() > run.clock.limit + GRACE:
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


def dispatched(
    q: Prepared, order: Sequence[int], among: Sequence[int] | None = None
) -> list[Placed] | None:
    """A schedule at once, see `dispatch`; None where something runs, or fits nowhere."""
    if (q.fixed_machine >= 0).any():
        return None
    found = dispatch(q, np.array(order, np.int64), among=among)
    if found is None:
        return None
    rows = zip(q.problem.requests, *found, strict=True)
    placed = [
        {"request": r.id, "instance": g, "start": start, "end": end}
        | ({} if h < 0 else {"decode": h, "sent": sent})
        for r, start, end, g, sent, h in rows
        if g >= 0
    ]
    return list(ServingSchedule.model_validate({"requests": placed}).requests)


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
    running = bool((q.fixed_machine >= 0).any())
    if running and check(q.problem, ServingSchedule(requests=tuple(placed))):
        # What runs was placed without asking: it may leave no room for itself.
        return False
    if q.problem.slo_percent is not None and late(q, placed) > q.misses:
        return False
    return run.offer(ServingSchedule(requests=tuple(placed)), source)


def greedy(q: Prepared, run: Run) -> None:
    """Serial schedules in the orders of the policies (capacity: on the cheapest mixes first)."""
    every = list(range(q.machines))
    left = run.clock.remaining() - SLOWEST * q.n * min(q.machines, 20)
    if left < 0.0 and not run.deterministic:
        # The serial scheduler may not get through.
        due = run.clock.elapsed() + dispatch_seconds(q) + check_seconds(q)
        if q.n > NORMAL // 2 and due > run.clock.limit + 1.5 * GRACE:
            raise OutOfTime("there is no time for a first schedule of this size")
        offer(q, run, dispatched(q, POLICIES["edf"][0](q).tolist()), "greedy:staged-dispatch")
    if q.problem.question == "capacity":
        _mixes(q, run)
        return
    for name in ("edf", "svf", "fcfs", "mcsf", "ldf"):
        if run.incumbent is not None and run.done():
            return
        order = POLICIES[name][0](q).tolist()
        run.clock.spend(1e-3 * q.n)
        offer(q, run, serial(q, order, every, run), f"greedy:staged-{name}")


def mixes(q: Prepared, objective: str) -> Iterator[tuple[float, list[int]]]:
    """Numbers of every kind of instance, as (value, machines), cheapest first."""
    kinds = q.problem.instances
    # Of many numbers, every one near the ends and a few between.
    sizes = [sorted({*range(min(one.count, 24) + 1), one.count}) for one in kinds]
    while math.prod(map(len, sizes)) > COMBINATIONS and max(map(len, sizes)) > 2:
        del max(sizes, key=len)[1:-1:2]
    grid = np.array(list(itertools.islice(itertools.product(*sizes), COMBINATIONS)))
    first = np.cumsum([0, *(one.count for one in kinds)]).tolist()
    there = {
        role: (grid[:, [one.role == role for one in kinds]] > 0).any(axis=1)
        for role in ("mixed", "prefill", "decode")
    }
    grid = grid[there["mixed"] | (there["prefill"] & there["decode"])]
    count = grid.sum(axis=1)
    value = grid @ np.array([one.price for one in kinds]) if objective == "cost" else count
    for k in np.lexsort((count, value)).tolist():
        numbers = zip(first, grid[k].tolist(), strict=False)
        yield float(value[k]), [g for at, c in numbers for g in range(at, at + c)]


def _mixes(q: Prepared, run: Run) -> None:
    """Serve with everything, then with the cheapest mixes that might do."""
    name = run.objectives[0].name if run.objectives else "instances"
    from cpsched.families.serving.capacity import energy_bound

    least = energy_bound(q, name) if energy_seconds(q) < 0.1 * run.clock.remaining() else 0
    every = list(range(q.machines))
    trials = [(0.0, every)] if run.incumbent is None else []
    worthwhile = (one for one in mixes(q, name) if one[0] >= least)
    for value, machines in itertools.chain(trials, itertools.islice(worthwhile, MIXES)):
        if run.clock.elapsed() > run.clock.limit + 0.5 * GRACE:
            return
        if run.incumbent is not None and (
            run.done() or (run.objectives and value >= run.incumbent.values[0])
        ):
            return
        for policy in ("edf", "fcfs"):
            order = POLICIES[policy][0](q).tolist()
            run.clock.spend(1e-3 * q.n)
            source = f"greedy:mix-{len(machines)}"
            if offer(q, run, dispatched(q, order, machines), source):
                break
            if offer(q, run, serial(q, order, machines, run), source):
                break


def search(q: Prepared, run: Run) -> None:
    """The exact model where it is small, then other orders of the serial scheduler."""
    from cpsched.families.serving import bound, staged_model

    for objective in run.objectives:
        mine = q.weighing(objective.name)
        bound.raise_configurations(mine, run, objective.name, 0.1 * run.clock.remaining())
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
        known = set(order)
        order += [i for i in range(q.n) if i not in known]
        for _ in range(rng.randrange(1, 4)):
            a = rng.randrange(q.n)
            order.insert(rng.randrange(q.n), order.pop(a))
        run.clock.spend(1e-3 * q.n)
        offer(q, run, serial(q, order, among, run), "staged-reorder")
