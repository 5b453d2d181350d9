"""First schedules when the kernels are not compiled yet and the time is short.

Each request goes where it fits first, found for many starts at once; what the time does not
suffice for is dispatched behind them, or all of it where that is better.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cpsched.core import jit
from cpsched.families.serving.dispatch import dispatch
from cpsched.families.serving.measure import check_seconds, dispatch_seconds, misses, value_of
from cpsched.families.serving.prepare import GRACE, NORMAL, UNLIMITED, Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.run import Run

    Ints = NDArray[np.int64]

#: Seconds per request and round of interpreted policies.
INTERPRETED = 1e-6
#: Starts looked at together.
SPAN = 256


def affordable(q: Prepared, run: Run) -> bool:
    """Whether the policies may run as they are: compiled, on small problems, or with time left."""
    if run.deterministic:
        return True
    if jit.ready(run.clock.remaining(), "serving"):
        left = run.clock.remaining() - dispatch_seconds(q)
        return q.n <= NORMAL or 1.1 * check_seconds(q) < left
    capacity = min(float(q.capacity.sum()), 1e18)
    rounds = float(q.length.max(initial=1)) + float(q.volume.sum()) / max(1.0, capacity)
    rounds += float(q.release.max(initial=0) - q.release.min(initial=0))
    return INTERPRETED * q.n * min(rounds, 10.0 * q.n) < 0.5 * run.clock.remaining()


def greedy(q: Prepared, run: Run, order: Ints, name: str) -> None:
    """Offer a schedule of that order, if there is time to check one."""
    spare = run.clock.limit + GRACE - run.clock.elapsed() - check_seconds(q)
    if spare < dispatch_seconds(q) and q.n > NORMAL:
        return
    objective = run.objectives[0].name if run.objectives else ""
    found = schedule(q, order, objective, time.perf_counter() + 0.8 * (spare - dispatch_seconds(q)))
    if found is None:
        return
    start, machine = found
    if (machine < 0).any() and not q.problem.reject:
        return
    if q.problem.slo_percent is None or misses(q, start, machine) <= q.misses:
        run.offer(lambda: q.schedule(start, machine), f"greedy:quick-{name}")


def schedule(q: Prepared, order: Ints, objective: str, deadline: float) -> tuple[Ints, Ints] | None:
    """Start and machine of every request (machine -1: left out), or None without a schedule."""
    start, machine = q.fixed_start.copy(), q.fixed_machine.copy()
    order = order[machine[order] < 0]
    best = behind(q, order, start, machine)
    if best is None or not q.plain or len(order) < q.n or time.perf_counter() > deadline:
        return best
    if objective in ("instances", "cost") and not q.problem.reject:
        return _fewest(q, order, objective, best, deadline)
    done = _first_fits(q, order, start, machine, deadline - dispatch_seconds(q))
    other = behind(q, order[done:], start, machine)
    if other is None or _worse(q, objective, other, best):
        return best
    return other


def behind(
    q: Prepared, order: Ints, start: Ints, machine: Ints, among: Iterable[int] | None = None
) -> tuple[Ints, Ints] | None:
    """The same with the requests of the order behind everything that is placed; None where one
    fits nowhere and may not be left out."""
    base, placed = -UNLIMITED, np.flatnonzero(machine >= 0)
    if len(placed):
        ends = start[placed] + q.length[q.kind[machine[placed]], placed]
        base = int((ends + q.tool_rounds[placed]).max())
    found = dispatch(q, order, base, among)
    if found is None:
        return None
    start, machine = start.copy(), machine.copy()
    start[order] = np.array(found.start, np.int64)[order]
    machine[order] = np.array(found.machine, np.int64)[order]
    return start, machine


def _fewest(
    q: Prepared, order: Ints, objective: str, best: tuple[Ints, Ints], deadline: float
) -> tuple[Ints, Ints]:
    """The same on fewer machines, the largest ones (cheapest for their size), while the SLO
    holds."""
    size = np.minimum(q.capacity, 1e18) + 1.0
    prices = np.array([m.price for m in q.problem.machines], np.float64)
    worth = prices / size if objective == "cost" else -size
    largest = np.argsort(worth, kind="stable").tolist()
    low, high = 0, q.machines
    while high - low > 1 and time.perf_counter() + dispatch_seconds(q) < deadline:
        middle = (low + high) // 2
        found = behind(q, order, q.fixed_start, q.fixed_machine, largest[:middle])
        if found is None or (q.problem.slo_percent is not None and misses(q, *found) > q.misses):
            low = middle
        else:
            best, high = found, middle
    return best


def _worse(q: Prepared, objective: str, one: tuple[Ints, Ints], other: tuple[Ints, Ints]) -> bool:
    if objective == "goodput":
        return misses(q, *one) > misses(q, *other)
    q = q.weighing(objective)
    return value_of(q, *one, objective) > value_of(q, *other, objective)


def _first_fits(q: Prepared, order: Ints, start: Ints, machine: Ints, deadline: float) -> int:
    """Place requests at their first fits until the time is up; how many were looked at."""
    origin = int(q.release.min(initial=0))
    use = np.zeros((3, q.machines, 2048), np.int64)
    limits = np.stack([q.capacity, q.max_batch, q.budget]).tolist()
    longest = int(q.length.max(initial=1))
    for count, i in enumerate(order.tolist()):
        if time.perf_counter() > deadline:
            return count
        best: tuple[int, int, int] | None = None
        for g in range(q.machines):
            if q.allowed is not None and not q.allowed[i, g]:
                continue
            c = int(q.kind[g])
            a, b = int(q.offset[c, i]), int(q.offset[c, i + 1])
            memory, tokens, rounds = q.memory[a:b], q.tokens[a:b], b - a
            at = int(q.release[i]) - origin
            if rounds and (memory[-1] > limits[0][g] or tokens.max() > limits[2][g]):
                continue
            while best is None or at + rounds < best[0]:
                if at + SPAN + longest > use.shape[2]:
                    use = np.pad(use, ((0, 0), (0, 0), (0, use.shape[2])))
                ok = np.ones(SPAN, np.bool_)
                if rounds:
                    window = slice(at, at + SPAN - 1 + rounds)
                    for k, profile in enumerate((memory, 1, tokens)):
                        if limits[k][g] < UNLIMITED:
                            held = sliding_window_view(use[k, g, window], rounds)
                            ok &= (held <= limits[k][g] - profile).all(axis=1)
                first = int(ok.argmax())
                if ok[first]:
                    if best is None or at + first + rounds < best[0]:
                        best = (at + first + rounds, at + first, g)
                    break
                at += SPAN
        if best is None:
            continue
        _, at, g = best
        a, b = (int(q.offset[q.kind[g], i + k]) for k in (0, 1))
        use[0, g, at : at + b - a] += q.memory[a:b]
        use[1, g, at : at + b - a] += 1
        use[2, g, at : at + b - a] += q.tokens[a:b]
        start[i], machine[i] = origin + at, g
    return len(order)
