"""The time-indexed linear program of the admission question, and the bound its prices prove.

Prices of memory, of batch places and of token budget in every round give a bound for any prices
(weak duality): each request alone picks the start that is cheapest including what it pays, and the
total capacity sold is refunded. Prices are whole multiples of ``1 / SCALE``, so the value is exact.
Starts at or after the horizon pay nothing and cost as much as the first of them: no assumption on
how long a schedule may be. Prefixes, tools and precedences are left out, which only lowers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.families.serving.linear import LinearProgram
from cpsched.families.serving.prepare import UNLIMITED, Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.clock import Clock

    Ints = NDArray[np.int64]

SCALE = 2**16
#: Programs with more matrix entries than this are left to the price adjustment.
LARGEST_PROGRAM = 1_500_000


@dataclass(frozen=True)
class Prices:
    """Prices by class, resource (memory, batch, tokens) and round, in 1/SCALE.

    ``value[c, r, t]`` belongs to round ``origin + t + 1``.
    """

    origin: int
    value: Ints

    @property
    def horizon(self) -> int:
        """The first start that pays nothing."""
        return self.origin + int(self.value.shape[2])

    def to_data(self) -> dict[str, Any]:
        """JSON form: only the rounds with a price."""
        c, r, t = np.nonzero(self.value)
        return {
            "origin": self.origin,
            "shape": list(self.value.shape),
            "where": [c.tolist(), r.tolist(), t.tolist()],
            "prices": self.value[c, r, t].tolist(),
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Prices:
        """The prices of a JSON form."""
        value = np.zeros(data["shape"], np.int64)
        value[tuple(np.array(w, np.int64) for w in data["where"])] = data["prices"]
        return cls(data["origin"], value)


def class_limits(q: Prepared) -> Ints:
    """Capacity, batch places and budget of every class of machines, shape (classes, 3)."""
    table = np.stack([q.capacity, q.max_batch, q.budget])
    out = np.zeros((len(q.length), 3), np.int64)
    for c in range(len(q.length)):
        sums = table[:, q.kind == c].sum(axis=1)
        out[c] = np.minimum(sums, UNLIMITED)
    return out


def profiles(q: Prepared, c: int, i: int) -> tuple[Ints, Ints, Ints]:
    """Memory, batch places and tokens of request i on class c, round by round."""
    a, b = int(q.offset[c, i]), int(q.offset[c, i + 1])
    return q.memory[a:b], np.ones(b - a, np.int64), q.tokens[a:b]


def starts_cost(q: Prepared, i: int, c: int, goodput: bool) -> tuple[int, int, int]:
    """Cost of a start s as ``base + slope * s`` and the last useful start."""
    if goodput:
        last = min(
            int(q.first_by[i] - q.prefill[c, i] - min(1, int(q.output[i]))),
            int(q.end_by[i] - q.length[c, i]),
        )
        return -int(q.weight[i]), 0, last
    w = int(q.weight[i])
    return w * (int(q.length[c, i]) - q.problem.requests[i].arrival), w, UNLIMITED


def reduced_costs(q: Prepared, prices: Prices, i: int, goodput: bool) -> tuple[list[Ints], int]:
    """What every start of a request costs including prices, by class, and the best of all starts.

    The first list entry belongs to class 0; index s is the start ``release + s``; all in 1/SCALE.
    """
    by_class = []
    best = 0 if goodput else UNLIMITED * 2
    limits = class_limits(q)
    release = int(q.release[i])
    for c in range(len(q.length)):
        base, slope, last = starts_cost(q, i, c, goodput)
        rounds = int(q.length[c, i])
        stop = min(prices.horizon, last + 1)
        count = max(0, stop - release) if q.fixed_machine[i] < 0 else 1
        cost = (base + slope * (release + np.arange(count, dtype=np.int64))) * SCALE
        if count:
            first = release - prices.origin
            for r, profile in enumerate(profiles(q, c, i)):
                if limits[c, r] >= UNLIMITED or not rounds:
                    continue
                window = np.zeros(count + rounds - 1, np.int64)
                a, b = max(0, first), min(prices.value.shape[2], first + len(window))
                if b > a:
                    window[a - first : b - first] = prices.value[c, r, a:b]
                cost += np.correlate(window, profile, "valid")
            best = min(best, int(cost.min()))
        if not goodput and q.fixed_machine[i] < 0:
            best = min(best, (base + slope * max(release, prices.horizon)) * SCALE)
        by_class.append(cost)
    return by_class, best


def dual_value(q: Prepared, prices: Prices, goodput: bool, clock: Clock | None = None) -> int:
    """The bound that the prices prove, in 1/SCALE: a lower bound of the (negated) objective."""
    if (prices.value < 0).any():
        raise ValueError("prices are not negative")
    total = 0
    for i in range(q.n):
        if clock is not None and not i % 64:
            clock.check()
        total += reduced_costs(q, prices, i, goodput)[1]
    limits = class_limits(q)
    for c in range(len(q.length)):
        for r in range(3):
            if limits[c, r] < UNLIMITED:
                total -= int(limits[c, r]) * int(prices.value[c, r].sum())
    return total


def program_size(q: Prepared, horizon: int) -> int:
    """Matrix entries of the time-indexed program up to a horizon."""
    starts = np.maximum(0, horizon - q.release)
    limited = (class_limits(q) < UNLIMITED).sum(axis=1)
    return int(((starts[None, :] * q.length) * limited[:, None]).sum())


def solve_program(q: Prepared, horizon: int, goodput: bool, clock: Clock) -> Prices | None:
    """Prices from the optimum of the time-indexed program, None when time was too short.

    Columns: request i starts on class c in round s (before the horizon), or later. Rows: each
    request once; in every round each limited resource of each class.
    """
    origin = int(q.release.min())
    rounds = horizon - origin
    limits = class_limits(q)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i in range(q.n):
        key = (
            int(q.release[i]), int(q.weight[i]), int(q.prompt[i]), int(q.output[i]),
            int(q.fixed_machine[i]), int(q.first_by[i]), int(q.end_by[i]), int(q.volume[i]),
        )  # fmt: skip
        groups.setdefault(key, []).append(i)
    row_of: dict[tuple[int, int], int] = {}
    rows = len(groups)
    high = [np.array([float(len(g)) for g in groups.values()])]
    for c in range(len(q.length)):
        for r in range(3):
            if limits[c, r] < UNLIMITED:
                row_of[c, r] = rows
                rows += rounds
                high.append(np.full(rounds, float(limits[c, r])))
    highs = np.concatenate(high)
    lows = np.full(rows, -np.inf)
    lows[: len(groups)] = -np.inf if goodput else highs[: len(groups)]
    program = LinearProgram(lows, highs)
    for row, members in enumerate(groups.values()):
        if not row % 16:
            clock.check()
        i = members[0]
        release = int(q.release[i])
        for c in range(len(q.length)):
            base, slope, last = starts_cost(q, i, c, goodput)
            length = int(q.length[c, i])
            stop = release + 1 if q.fixed_machine[i] >= 0 else min(horizon, last + 1)
            starts = np.arange(release, stop)
            if len(starts):
                columns = program.add(base + slope * starts)
                program.entries(row, columns, 1.0)
                for r, profile in enumerate(profiles(q, c, i)):
                    if (c, r) in row_of and length:
                        at = starts[:, None] - origin + np.arange(length)[None, :]
                        inside = at < rounds
                        program.entries(
                            (row_of[c, r] + at)[inside],
                            np.broadcast_to(columns[:, None], at.shape)[inside],
                            np.broadcast_to(profile[None, :], at.shape)[inside],
                        )
            if not goodput and q.fixed_machine[i] < 0:
                late = program.add(base + slope * max(release, horizon))
                program.entries(row, late, 1.0)
    solved = program.solve(clock)
    if solved is None:
        return None
    value = np.zeros((len(q.length), 3, rounds), np.int64)
    for (c, r), row in row_of.items():
        prices = np.maximum(0.0, -solved.prices[row : row + rounds])
        value[c, r] = np.rint(prices * SCALE).astype(np.int64)
    return Prices(origin, value)
