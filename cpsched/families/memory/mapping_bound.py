"""A Lagrangian bound of mappings: prices on fast memory and on the copy engine, tensor by tensor.

With a price per byte and time unit of every space, and per copy and time unit, each tensor may
choose its own best plan. What it gains less what it pays is at least what it gains in any valid
mapping less its share of the payments, and all payments together are at most those for the whole
capacity. So no mapping gains more than the tensors' best plans and the price of everything there
is. Any non-negative prices prove a bound; they are found by subgradient steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cpsched.families.memory.check_mapping import copy_time
from cpsched.families.memory.problem import Buffer, MemoryProblem

Ints = npt.NDArray[np.int64]

#: A choice of a plan: ``serve``, ``fetch``, ``keep`` or ``born``, the space, and the use.
Choice = tuple[str, int, int]

#: Prices are whole numbers of this part of a time unit, so that the bound is exact.
SCALE = 1000

#: Moments and tensors up to which prices are looked for.
MOST_MOMENTS, MOST_TENSORS = 20_000, 3_000


@dataclass(frozen=True)
class Plan:
    """What a tensor does at given prices: profit, bytes held and copies, as time spans."""

    profit: int
    held: tuple[tuple[int, int, int], ...] = ()
    copies: tuple[tuple[int, int], ...] = ()


class Prices:
    """Prices per moment: ``memory[space, time]`` per byte and ``engine[time]`` per copy."""

    def __init__(self, problem: MemoryProblem) -> None:
        self.problem = problem
        lives = [b for b in problem.buffers if b.lower is not None and b.upper is not None]
        self.first = min((b.lower or 0 for b in lives), default=0)
        self.moments = max((b.upper or 0 for b in lives), default=0) - self.first
        self.memory = np.zeros((len(problem.spaces), self.moments), dtype=np.int64)
        self.engine = np.zeros(self.moments, dtype=np.int64)

    def totals(self) -> tuple[Ints, Ints]:
        """Prices summed up from the first moment on, of memory and of the engine."""
        memory = np.zeros((len(self.memory), self.moments + 1), dtype=np.int64)
        np.cumsum(self.memory, axis=1, out=memory[:, 1:])
        engine = np.zeros(self.moments + 1, dtype=np.int64)
        np.cumsum(self.engine, out=engine[1:])
        return memory, engine

    def everything(self) -> int:
        """The price of the whole capacity, all the time."""
        engines = self.problem.copy_engine.engines if self.problem.copy_engine else 0
        paid = engines * int(self.engine.sum())
        for q, space in enumerate(self.problem.spaces):
            paid += space.capacity * int(self.memory[q].sum())
        return paid

    def data(self) -> dict[str, Any]:
        """The prices that are not zero, for the record of a bound."""
        return {
            "scale": SCALE,
            "memory": {
                s.name: [[int(t) + self.first, int(row[t])] for t in np.flatnonzero(row)]
                for s, row in zip(self.problem.spaces, self.memory, strict=True)
            },
            "engine": [
                [int(t) + self.first, int(self.engine[t])] for t in np.flatnonzero(self.engine)
            ],
        }


def prices_from(problem: MemoryProblem, data: dict[str, Any]) -> Prices:
    """The prices of a bound's data; negative ones count as zero."""
    out = Prices(problem)
    for q, space in enumerate(problem.spaces):
        for time, price in data["memory"].get(space.name, []):
            if 0 <= time - out.first < out.moments:
                out.memory[q, time - out.first] = max(0, price)
    for time, price in data["engine"]:
        if 0 <= time - out.first < out.moments:
            out.engine[time - out.first] = max(0, price)
    return out


def least_time(problem: MemoryProblem, prices: Prices) -> int:
    """The execution time that no mapping undercuts, by these prices."""
    memory, engine = prices.totals()
    gain = prices.everything()
    gain += sum(
        best_plan(problem, b, b.size * memory, engine, prices.first).profit for b in problem.buffers
    )
    return problem.base_time - gain // SCALE


def best_plan(
    problem: MemoryProblem,
    buffer: Buffer,
    held: Ints,
    engine: Ints,
    first: int,
    extra: Mapping[Choice, int] | None = None,
) -> Plan:
    """The plan of one tensor with the largest profit, over all plans it has in any mapping.

    A plan serves each use from the home memory, by a copy in before it, by keeping the residence of
    the use before, or by being born fast; then a copy out must have ended before a later use from
    the home memory. Copies in need not wait for the end of an overlapping earlier residence here,
    which only adds plans.

    Parameters
    ----------
    held
        Price of holding the tensor in each space up to each moment, summed from the first one on.
    engine
        The same of a copy.
    first
        The time of their first entry.
    extra
        Profit that single choices bring besides.
    """
    extra = extra or {}
    uses = buffer.uses
    spaces = [q for q, s in enumerate(problem.spaces) if buffer.size <= s.capacity]
    if not uses or not spaces:
        return Plan(0)
    assert buffer.lower is not None
    assert buffer.upper is not None
    count = len(uses)
    lower = buffer.lower - first
    start = [u.start - first for u in uses]
    end = [u.end - first for u in uses]
    copies = problem.copy_engine is not None
    duration = copy_time(problem, buffer) if copies else 0
    gain = [
        [
            SCALE * u.benefit.get(s.name, 0) + extra.get(("serve", q, j), 0)
            for q, s in enumerate(problem.spaces)
        ]
        for j, u in enumerate(uses)
    ]
    # home[k + 1]: most profit from use j on when use k was the last one to be served fast;
    # here[q]: when use j - 1 was served by space q. Both with how it is reached.
    home: list[tuple[int, Any]] = [(0, None)] * (count + 1)
    here: dict[int, tuple[int, Any]] = dict.fromkeys(spaces, (0, None))
    later: list[list[tuple[int, Any]]] = [home]
    for j in range(count - 1, -1, -1):
        fetched: dict[int, tuple[int, Any]] = {}
        for q in spaces:
            price = held[q]
            served = gain[j][q] + here[q][0] + extra.get(("fetch", q, j), 0)
            if copies and start[j] - duration >= lower:
                begins = np.arange(lower, start[j] - duration + 1)
                cost = price[end[j]] - price[begins]
                cost += engine[begins + duration] - engine[begins]
                # The cheapest begin not before each one.
                least = np.minimum.accumulate(cost[::-1])[::-1]
                for k in range(-1, j):
                    begin = lower if k < 0 else max(lower, end[k])
                    if begin > start[j] - duration:
                        continue
                    profit = served - int(least[begin - lower])
                    if k not in fetched or profit > fetched[k][0]:
                        after = begin - lower
                        at = begin + int(np.argmax(cost[after:] == least[after]))
                        step = ("fetch", q, j, at, here[q])
                        fetched[k] = (profit, step)
        before: list[tuple[int, Any]] = []
        for k in range(-1, j):
            away = home[k + 1]
            fetch = fetched.get(k)
            before.append(fetch if fetch is not None and fetch[0] > away[0] else away)
        if j > 0:
            for q in spaces:
                hold = gain[j][q] - int(held[q][end[j]] - held[q][end[j - 1]])
                hold += extra.get(("keep", q, j), 0)
                kept = (hold + here[q][0], ("keep", q, j, 0, here[q]))
                left = before[j]
                here[q] = kept if kept[0] > left[0] else left
        home = before
        later.append(home)
    later.reverse()
    best = home[0]
    if not buffer.input:
        best = _born(buffer, best, later, gain, spaces, held, engine, first, duration, extra)
    return _traced(best, buffer, lower, start, end, duration)


def _born(
    buffer: Buffer,
    best: tuple[int, Any],
    later: list[list[tuple[int, Any]]],
    gain: list[list[int]],
    spaces: list[int],
    held: Ints,
    engine: Ints,
    first: int,
    duration: int,
    extra: Mapping[Choice, int],
) -> tuple[int, Any]:
    """The better of a plan and the best one in which the tensor is written fast."""
    assert buffer.lower is not None
    assert buffer.upper is not None
    lower, upper = buffer.lower - first, buffer.upper - first
    count = len(buffer.uses)
    for q in spaces:
        gained = extra.get(("born", q, 0), 0)
        price = held[q]
        for k, use in enumerate(buffer.uses):
            until = use.end - first
            gained += gain[k][q] + (extra.get(("keep", q, k), 0) if k else 0)
            profit = gained - int(price[until] - price[lower])
            if k == count - 1 and not buffer.output and profit > best[0]:
                best = (profit, ("born", q, until, -1, (0, None)))
            limit = upper if k == count - 1 else buffer.uses[k + 1].start - first
            if not duration or limit - duration < lower:
                continue
            begins = np.arange(lower, limit - duration + 1)
            done = begins + duration
            cost = engine[done] - engine[begins]
            cost += np.maximum(0, price[done] - price[until])
            at = int(cost.argmin())
            rest = later[k + 1][k + 1]
            total = profit - int(cost[at]) + rest[0]
            if total > best[0]:
                stop = max(until, int(done[at]))
                best = (total, ("born", q, stop, int(begins[at]), rest))
    return best


def _traced(
    best: tuple[int, Any],
    buffer: Buffer,
    lower: int,
    start: list[int],
    end: list[int],
    duration: int,
) -> Plan:
    held: list[tuple[int, int, int]] = []
    copies: list[tuple[int, int]] = []
    step = best[1]
    while step is not None:
        kind, q, j, at, (_, after) = step
        if kind == "born":
            held.append((q, lower, j))
            if at >= 0:
                copies.append((at, at + duration))
        elif kind == "fetch":
            held.append((q, at, end[j]))
            copies.append((at, at + duration))
        else:
            held.append((q, end[j - 1], end[j]))
        step = after
    return Plan(best[0], tuple(held), tuple(copies))


def search_prices(
    problem: MemoryProblem,
    aim: int,
    goes_on: Callable[[], bool],
    rounds: int = 400,
) -> tuple[int, Prices] | None:
    """The best bound and its prices that subgradient steps find; None when there is no time.

    Parameters
    ----------
    aim
        The execution time of a known mapping: no bound can exceed it.
    goes_on
        Asked before every step.
    """
    prices = Prices(problem)
    tensors = [b for b in problem.buffers if any(any(u.benefit.values()) for u in b.uses)]
    if not 0 < prices.moments <= MOST_MOMENTS or len(tensors) > MOST_TENSORS:
        return None
    capacity = np.array([max(1, s.capacity) for s in problem.spaces], dtype=np.float64)[:, None]
    engines = float(problem.copy_engine.engines if problem.copy_engine else 1)
    memory = prices.memory.astype(np.float64)
    engine = prices.engine.astype(np.float64)
    best: tuple[int, Prices] | None = None
    step, stale = 1.0, 0
    for _ in range(rounds):
        trial = Prices(problem)
        trial.memory = np.rint(memory).astype(np.int64)
        trial.engine = np.rint(engine).astype(np.int64)
        held = np.zeros((len(problem.spaces), trial.moments + 1))
        used = np.zeros(trial.moments + 1)
        summed = trial.totals()
        gain = trial.everything()
        for k, b in enumerate(tensors):
            if k % 16 == 0 and not goes_on():
                return best
            plan = best_plan(problem, b, b.size * summed[0], summed[1], trial.first)
            gain += plan.profit
            for q, s, e in plan.held:
                held[q, s] += b.size
                held[q, e] -= b.size
            for s, e in plan.copies:
                used[s] += 1
                used[e] -= 1
        value = problem.base_time - gain // SCALE
        stale += 1
        if best is None or value > best[0]:
            best, stale = (value, trial), 0
        if value >= aim:
            return best
        if stale >= 12:
            # Back to the best prices, with shorter steps.
            step, stale = 0.6 * step, 0
            memory, engine = best[1].memory.astype(float), best[1].engine.astype(float)
            if step < 1e-3:
                break
        over = np.cumsum(held, axis=1)[:, :-1] / capacity - 1.0
        late = np.cumsum(used)[:-1] / engines - 1.0
        # Prices that are zero and would fall do not count for the length of a step.
        over[(memory <= 0.0) & (over < 0.0)] = 0.0
        late[(engine <= 0.0) & (late < 0.0)] = 0.0
        norm = float((over**2).sum() + (late**2).sum())
        if norm <= 0.0:
            break
        length = step * (gain - SCALE * (problem.base_time - aim)) / norm
        memory = np.maximum(0.0, memory + length * over / capacity)
        engine = np.maximum(0.0, engine + length * late / engines)
    return best
