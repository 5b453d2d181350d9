"""A tighter Lagrangian bound of mappings: every tensor has its own price at every moment.

Prices per byte let fractions of tensors fill a space. Here a plan pays what its tensor costs at
each moment it is held, and what may be held together is a set of whole tensors that fit: all
payments of a moment are at most those of the best such set, a knapsack. Copies are priced as in
`mapping_bound`. Any non-negative prices prove a bound; subgradient steps start from the prices per
byte, whose bound these can only raise.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

from cpsched.families.memory.mapping_bound import SCALE, Choice, Ints, Prices, best_plan
from cpsched.families.memory.problem import Buffer, MemoryProblem

Bools = npt.NDArray[np.bool_]

#: Tensors times moments times units of capacity up to which knapsacks are solved.
MOST_ENTRIES = 40_000_000

#: Steps without a better bound after which they become shorter; rounds of a search.
PATIENCE, ROUNDS = 10, 600

#: Length of the first steps, the factor to shorter ones, and what a direction keeps of the last.
STEP, SHORTER, KEPT = 0.3, 0.7, 0.9


class TensorPrices:
    """Prices ``memory[tensor, space, moment]`` of holding, and ``engine[moment]`` of copying."""

    def __init__(self, problem: MemoryProblem) -> None:
        self.problem = problem
        self.tensors = [b for b in problem.buffers if any(any(u.benefit.values()) for u in b.uses)]
        plain = Prices(problem)
        self.first, self.moments = plain.first, plain.moments
        shape = (len(self.tensors), len(problem.spaces), plain.moments)
        self.memory: Ints = np.zeros(shape, dtype=np.int64)
        self.engine: Ints = np.zeros(plain.moments, dtype=np.int64)

    def data(self) -> dict[str, Any]:
        """The prices as runs ``[from, to, price]`` of equal ones, for the record of a bound."""
        return {
            "scale": SCALE,
            "memory": {
                b.id: {
                    s.name: self._runs(self.memory[i, q]) for q, s in enumerate(self.problem.spaces)
                }
                for i, b in enumerate(self.tensors)
            },
            "engine": self._runs(self.engine),
        }

    def _runs(self, row: Ints) -> list[list[int]]:
        cuts = np.concatenate([[0], np.flatnonzero(np.diff(row)) + 1, [len(row)]])
        return [
            [a + self.first, b + self.first, int(row[a])]
            for a, b in pairwise(cuts.tolist())
            if row[a]
        ]


def tensor_prices_from(problem: MemoryProblem, data: dict[str, Any]) -> TensorPrices:
    """The prices of a bound's data; negative ones count as zero."""
    out = TensorPrices(problem)

    def fill(row: Ints, runs: list[list[int]]) -> None:
        for start, end, price in runs:
            row[max(0, start - out.first) : max(0, end - out.first)] = max(0, price)

    for i, b in enumerate(out.tensors):
        for q, space in enumerate(problem.spaces):
            fill(out.memory[i, q], data["memory"].get(b.id, {}).get(space.name, []))
    fill(out.engine, data["engine"])
    return out


def knapsacks(price: Ints, sizes: list[int], capacity: int) -> tuple[int, Bools]:
    """The best sets of tensors that fit together, one per moment.

    Parameters
    ----------
    price
        Price of each tensor at each moment; not negative.

    Returns
    -------
    value, taken
        The sum over all moments, and which tensor is in the set of which moment.
    """
    count, moments = price.shape
    unit = gcd(*sizes) or 1
    room = capacity // unit
    best = np.zeros((moments, room + 1), dtype=np.int64)
    with_it = np.zeros((count, moments, room + 1), dtype=np.bool_)
    for i, size in enumerate(sizes):
        units = size // unit
        if units > room or not price[i].any():
            continue
        put_in = best[:, : room + 1 - units] + price[i][:, None]
        better = put_in > best[:, units:]
        with_it[i, :, units:] = better
        best[:, units:] = np.where(better, put_in, best[:, units:])
    left = np.full(moments, room, dtype=np.int64)
    taken = np.zeros((count, moments), dtype=np.bool_)
    every = np.arange(moments)
    for i in range(count - 1, -1, -1):
        taken[i] = with_it[i, every, left]
        left -= taken[i] * (sizes[i] // unit)
    return int(best[:, room].sum()), taken


def fits(prices: TensorPrices) -> bool:
    """Whether the knapsacks are small enough to be solved over and over."""
    sizes = [b.size for b in prices.tensors]
    if not sizes or prices.moments <= 0:
        return False
    unit = gcd(*sizes) or 1
    room = max(s.capacity // unit for s in prices.problem.spaces)
    return len(sizes) * prices.moments * (room + 1) <= MOST_ENTRIES


def evaluate(
    prices: TensorPrices, goes_on: Callable[[], bool] = lambda: True
) -> tuple[int, Ints, Ints] | None:
    """What no mapping gains more than, by these prices, and where plans and sets disagree.

    Returns
    -------
    tuple or None
        The gain in parts of a time unit (see `SCALE`); per tensor, space and moment whether the
        best plan holds it less whether the best set has it; per moment the copies of all plans less
        the engines. None when ``goes_on()`` says false.
    """
    problem = prices.problem
    engines = problem.copy_engine.engines if problem.copy_engine else 0
    gain = engines * int(prices.engine.sum())
    over = np.zeros(prices.memory.shape, dtype=np.int64)
    sizes = [b.size for b in prices.tensors]
    for q, space in enumerate(problem.spaces):
        value, taken = knapsacks(prices.memory[:, q], sizes, space.capacity)
        gain += value
        over[:, q] -= taken
    late = np.full(prices.moments, -engines, dtype=np.int64)
    engine = _summed(prices.engine)
    for i, b in enumerate(prices.tensors):
        if not goes_on():
            return None
        plan = best_plan(problem, b, _summed(prices.memory[i]), engine, prices.first)
        gain += plan.profit
        for q, s, e in plan.held:
            over[i, q, s:e] += 1
        for s, e in plan.copies:
            late[s:e] += 1
    return gain, over, late


def _summed(row: Ints) -> Ints:
    out = np.zeros((*row.shape[:-1], row.shape[-1] + 1), dtype=np.int64)
    np.cumsum(row, axis=-1, out=out[..., 1:])
    return out


def least_time_of(problem: MemoryProblem, data: dict[str, Any]) -> int:
    """The execution time that the prices of a bound's data prove."""
    found = evaluate(tensor_prices_from(problem, data))
    assert found is not None
    return problem.base_time - found[0] // SCALE


def search_tensor_prices(
    problem: MemoryProblem, start: Prices, aim: int, goes_on: Callable[[], bool]
) -> tuple[int, TensorPrices] | None:
    """The best bound and its prices that subgradient steps find, from prices per byte.

    Parameters
    ----------
    aim
        The execution time of a known mapping: no bound can exceed it.
    goes_on
        Asked before every step of every tensor.
    """
    trial = TensorPrices(problem)
    if not fits(trial):
        return None
    memory = np.stack([b.size * start.memory for b in trial.tensors]).astype(np.float64)
    engine = start.engine.astype(np.float64)
    best: tuple[int, TensorPrices] | None = None
    step, stale = STEP, 0
    turn_rise, turn_slow = np.zeros(memory.shape), np.zeros(engine.shape)
    for _ in range(ROUNDS):
        trial = TensorPrices(problem)
        trial.memory = np.rint(memory).astype(np.int64)
        trial.engine = np.rint(engine).astype(np.int64)
        found = evaluate(trial, goes_on)
        if found is None:
            break
        gain, over, late = found
        stale += 1
        if best is None or gain < best[0]:
            best, stale = (gain, trial), 0
        if problem.base_time - gain // SCALE >= aim:
            break
        if stale >= PATIENCE:
            step, stale = SHORTER * step, 0
            memory, engine = best[1].memory.astype(float), best[1].engine.astype(float)
            if step < 1e-3:
                break
        # Directions are averaged, so that steps do not jump to and fro between equal sets. Prices
        # that are zero and would fall do not count for the length of a step.
        turn_rise = KEPT * turn_rise + (1.0 - KEPT) * over
        turn_slow = KEPT * turn_slow + (1.0 - KEPT) * late
        rise = np.where((memory <= 0.0) & (turn_rise < 0), 0.0, turn_rise)
        slow = np.where((engine <= 0.0) & (turn_slow < 0), 0.0, turn_slow)
        norm = float((rise**2).sum() + (slow**2).sum())
        if norm <= 0.0:
            break
        length = step * (gain - SCALE * (problem.base_time - aim)) / norm
        memory = np.maximum(0.0, memory + length * rise)
        engine = np.maximum(0.0, engine + length * slow)
    return None if best is None else (problem.base_time - best[0] // SCALE, best[1])


def settled(prices: TensorPrices, time: int) -> dict[str, dict[Choice, bool]]:
    """Choices that every mapping of at most a given execution time makes, and makes not.

    What the best plans gain in excess of that is all that a tensor may lose by a choice.

    Parameters
    ----------
    time
        The execution time of the best known mapping; what is settled keeps it possible.

    Returns
    -------
    dict
        Per tensor its choices that are settled, and whether they are made.
    """
    problem = prices.problem
    found = evaluate(prices)
    assert found is not None
    slack = found[0] - SCALE * (problem.base_time - time)
    engine = _summed(prices.engine)
    huge = 4 * SCALE * (problem.base_time + 1) + int(prices.memory.sum()) + int(engine[-1])
    out: dict[str, dict[Choice, bool]] = {}
    for i, b in enumerate(prices.tensors):
        held = _summed(prices.memory[i])

        def profit(extra: dict[Choice, int], b: Buffer = b, held: Ints = held) -> int:
            return best_plan(problem, b, held, engine, prices.first, extra).profit

        most = profit({})
        kinds = [("serve", j) for j in range(len(b.uses))]
        kinds += [("fetch", j) for j in range(len(b.uses))]
        kinds += [("keep", j) for j in range(1, len(b.uses))] + [("born", 0)] * (not b.input)
        mine = out[b.id] = {}
        for q in range(len(problem.spaces)):
            for kind, j in kinds:
                choice = (kind, q, j)
                if most - (profit({choice: huge}) - huge) > slack:
                    mine[choice] = False
                elif most - profit({choice: -huge}) > slack:
                    mine[choice] = True
    return out
