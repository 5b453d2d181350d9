"""Prices for memory in every round, and the bound on latencies that they prove.

Prices of memory, of batch places and of token budget in every round give a bound for any prices
(weak duality): each request alone picks the start that is cheapest including what it pays, and the
total capacity sold is refunded. Prices are whole multiples of ``1 / SCALE``, so the value is exact.
Starts at or after the horizon pay nothing and cost as much as the first of them: no assumption on
how long a schedule may be. Prefixes, tools and precedences are left out, which only lowers it.

Cliques look ahead, which rounds alone cannot: memory grows until a request ends. Of requests that
hold at least ``least`` units in a round and more than ``M - places * least`` at their end, at most
``places`` can be active in it on a machine with M units: when the first of ``places + 1`` of them
ends, it holds its peak and each of the others at least ``least``, more than M together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.families.serving.patterns import Pattern
from cpsched.families.serving.prepare import UNLIMITED, Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.clock import Clock

    Ints = NDArray[np.int64]

SCALE = 2**16

#: A clique: class of machines, places, least units.
Clique = tuple[int, int, int]


@dataclass(frozen=True)
class Prices:
    """Prices by class, resource (memory, batch, tokens) and round, in 1/SCALE.

    ``value[c, r, t]`` belongs to round ``origin + t + 1``; ``cliques`` holds the prices of places
    by clique in the same rounds, ``patterns`` those of weight (see `patterns`).
    """

    origin: int
    value: Ints
    cliques: Mapping[Clique, Ints] = field(default_factory=dict)
    patterns: tuple[tuple[Pattern, Ints], ...] = ()

    @property
    def horizon(self) -> int:
        """The first start that pays nothing."""
        return self.origin + int(self.value.shape[2])

    def to_data(self) -> dict[str, Any]:
        """JSON form: only the rounds with a price."""
        c, r, t = np.nonzero(self.value)
        data: dict[str, Any] = {
            "origin": self.origin,
            "shape": list(self.value.shape),
            "where": [c.tolist(), r.tolist(), t.tolist()],
            "prices": self.value[c, r, t].tolist(),
        }
        if self.cliques:
            data["cliques"] = [
                [*clique, np.flatnonzero(row).tolist(), row[row != 0].tolist()]
                for clique, row in self.cliques.items()
            ]
        if self.patterns:
            data["patterns"] = [[p.to_data(), row.tolist()] for p, row in self.patterns]
        return data

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Prices:
        """The prices of a JSON form."""
        value = np.zeros(data["shape"], np.int64)
        value[tuple(np.array(w, np.int64) for w in data["where"])] = data["prices"]
        cliques: dict[Clique, Ints] = {}
        for c, places, least, rounds, prices in data.get("cliques", []):
            row = cliques[c, places, least] = np.zeros(value.shape[2], np.int64)
            row[np.array(rounds, np.int64)] = prices
        patterns = tuple(
            (Pattern.from_data(one), np.array(row, np.int64))
            for one, row in data.get("patterns", [])
        )
        return cls(data["origin"], value, cliques, patterns)


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


def clique_limit(q: Prepared, clique: Clique) -> int:
    """Places of a clique on all machines of its class together."""
    return clique[1] * int((q.kind == clique[0]).sum())


def clique_member(q: Prepared, clique: Clique, i: int) -> int | None:
    """First round (from 0) in which a request takes a place of the clique; None: it never does."""
    c, places, least = clique
    memory = q.memory[q.offset[c, i] : q.offset[c, i + 1]]
    largest = int(q.capacity[q.kind == c].max())
    if not len(memory) or memory[-1] < least or memory[-1] <= largest - places * least:
        return None
    return int(np.searchsorted(memory, least))


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

    Index s of a class's array is the start ``release + s``; all in 1/SCALE.
    """
    by_class = []
    best = 0 if goodput else UNLIMITED * 2
    limits = class_limits(q)
    release = int(q.release[i])
    width = prices.value.shape[2]
    for c in range(len(q.length)):
        base, slope, last = starts_cost(q, i, c, goodput)
        rounds = int(q.length[c, i])
        stop = min(prices.horizon, last + 1)
        count = max(0, stop - release) if q.fixed_machine[i] < 0 else 1
        cost = (base + slope * (release + np.arange(count, dtype=np.int64))) * SCALE
        if count and rounds:
            first = release - prices.origin
            a, b = max(0, first), min(width, first + count + rounds - 1)
            pays = [
                (prices.value[c, r], profile)
                for r, profile in enumerate(profiles(q, c, i))
                if limits[c, r] < UNLIMITED
            ]
            for clique, row in prices.cliques.items():
                begins = clique_member(q, clique, i) if clique[0] == c else None
                if begins is not None:
                    pays.append((row, (np.arange(rounds) >= begins).astype(np.int64)))
            for pattern, row in prices.patterns:
                weight, _ = q.states.weights(pattern)
                mine = weight[q.states.number[q.states.first[i] : q.states.first[i + 1]]]
                before = np.zeros(int(q.prefill[c, i]), np.int64)
                pays.append((row, np.concatenate([before, mine])))
            for row, profile in pays:
                if b > a and row[a:b].any():
                    window = np.zeros(count + rounds - 1, np.int64)
                    window[a - first : b - first] = row[a:b]
                    cost += np.correlate(window, profile, "valid")
        if count:
            best = min(best, int(cost.min()))
        if not goodput and q.fixed_machine[i] < 0:
            best = min(best, (base + slope * max(release, prices.horizon)) * SCALE)
        by_class.append(cost)
    return by_class, best


def dual_value(q: Prepared, prices: Prices, goodput: bool, clock: Clock | None = None) -> int:
    """The bound that the prices prove, in 1/SCALE: a lower bound of the (negated) objective."""
    total = -refund(q, prices)
    for i in range(q.n):
        if clock is not None and not i % 64:
            clock.check()
        total += reduced_costs(q, prices, i, goodput)[1]
    return total


def refund(q: Prepared, prices: Prices) -> int:
    """What the prices are worth when everything is sold, in 1/SCALE."""
    rows = [*prices.cliques.values(), *(row for _, row in prices.patterns)]
    if (prices.value < 0).any() or any((row < 0).any() for row in rows):
        raise ValueError("prices are not negative")
    total = 0
    limits = class_limits(q)
    for c in range(len(q.length)):
        for r in range(3):
            if limits[c, r] < UNLIMITED:
                total += int(limits[c, r]) * int(prices.value[c, r].sum())
    for clique, row in prices.cliques.items():
        total += clique_limit(q, clique) * int(row.sum())
    for pattern, row in prices.patterns:
        first = prices.origin - int(q.release.min()) + 1
        offers = q.states.offers(pattern, first, len(row))
        total += int((offers.astype(object) * row).sum())
    return total
