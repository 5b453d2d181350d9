"""Prices per round for patterns of states, raised by subgradient steps: a bound on latencies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import jit
from cpsched.families.serving import bound, kernels_price, lagrange, patterns
from cpsched.families.serving.prepare import Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.run import Run

    Floats = NDArray[np.float64]

ARGUMENT = "priced-configurations"
#: Most patterns, steps between two of them, and seconds per multiplication.
PATTERNS, STEPS, COST = 12, 250, 2e-9
#: Parts of the time for which patterns are made in turn, and seconds for one.
PARTS, FINDING = 4, 2.5


def applies(q: Prepared, objective: str) -> bool:
    """Whether the steps cover the problem: latencies, no prefills that take rounds."""
    return (
        objective in ("total_latency", "weighted_latency")
        and not q.problem.reject
        and not q.staged
        and not q.prefill.any()
        and bool((q.fixed_machine < 0).all())
        and bool((q.output > 0).all())
    )


class Ascent:
    """Prices of a growing number of patterns; `improve` them as long as there is time.

    Parameters
    ----------
    made
        The first pattern: weights made for the objective as a whole.
    keep
        Called with prices that gave a better bound than all before.
    """

    def __init__(
        self,
        q: Prepared,
        run: Run,
        objective: str,
        made: patterns.Pattern,
        keep: Callable[[lagrange.Prices], object] | None = None,
    ) -> None:
        assert run.incumbent is not None
        self.q, self.run, self.objective, self.keep = q, run, objective, keep
        self.known = [made]
        self.origin = int(q.release.min())
        self.rounds = max(o.end for o in run.incumbent.schedule.requests) - self.origin + 1
        weight = q.weight
        arrivals = sum(int(w) * r.arrival for w, r in zip(weight, q.problem.requests, strict=True))
        self.shift = arrivals - self.origin * int(weight.sum())
        # The first prices: the weight of whoever has not ended by then, were there only this one.
        weights, limits = q.states.weights(made)
        totals = q.states.totals(weights) / limits[-1]
        order = np.argsort(totals / np.maximum(weight, 1e-9), kind="stable")
        past = np.searchsorted(np.cumsum(totals[order]), np.arange(self.rounds), side="right")
        first = weight.sum() - np.concatenate([[0], np.cumsum(weight[order])])[past]
        self.price: Floats = first[None, :].astype(np.float64)
        self.best, self.step, self.dull = 0.0, 1.0, 0
        #: What every round of output paid lately, by part of the time.
        self.paid = np.zeros((PARTS, len(q.states.number)))
        self.made = 0
        self.over = False

    def improve(self, seconds: float) -> None:
        """Raise the prices, and add patterns when that stops, for so many seconds."""
        clock = self.run.clock
        end = clock.remaining() - seconds
        while not (self.over or self.run.done()) and clock.remaining() > max(0.0, end):
            self._ascend()
            if self.dull > 2 * PARTS:
                self.over = True
            elif self.dull and len(self.known) < PATTERNS:
                self._add()

    def _ascend(self) -> None:
        q, states, clock = self.q, self.q.states, self.run.clock
        assert self.run.incumbent is not None
        known = [(*states.weights(one), one) for one in self.known]
        profile = np.stack([w[states.number] / limits[-1] for w, limits, _ in known])
        offer = np.stack(
            [states.offers(one, 1, self.rounds) / limits[-1] for _, limits, one in known]
        )
        work = COST * len(self.known) * float(self.rounds) * len(states.number) * jit.slowdown()
        steps = int(min(STEPS, max(1.0, min(1.0, 0.1 * clock.remaining()) / work)))
        # Parts of the time in which equally much is paid.
        total = np.cumsum(self.price.sum(axis=0))
        part = np.minimum(PARTS - 1, (PARTS * total / max(1e-9, total[-1])).astype(np.int64))
        found = self.price.copy()
        value = kernels_price.subgradient(
            self.price.copy(), profile, offer, states.first, q.release - self.origin, q.weight,
            float(self.run.incumbent.values[0] + self.shift), self.step, steps, found, part,
            self.paid,
        )  # fmt: skip
        clock.spend(steps * work)
        self.dull = 0 if value > self.best * (1.0 + 5e-4) else self.dull + 1
        self.step *= 0.5 if self.dull else 1.0
        if value <= self.best:
            return
        self.best, self.price = value, found
        prices = self._prices()
        bound.raise_priced(q, self.run, self.objective, prices, ARGUMENT)
        if self.keep is not None:
            self.keep(prices)

    def _add(self) -> None:
        """Weights for what the prices have become in a part of the time."""
        states = self.q.states
        # What is hardly used is dropped.
        used = self.price.sum(axis=1)
        kept = used >= 0.003 * used.sum()
        self.known = [one for one, keep in zip(self.known, kept, strict=True) if keep]
        self.price = self.price[kept]
        mine = self.paid[self.made % PARTS]
        self.made += 1
        by_state: Any = np.bincount(states.number, mine, minlength=len(states.held))
        seconds = min(FINDING, 0.3 * self.run.clock.remaining())
        one = patterns.find(states, by_state, self.run, seconds) if by_state.any() else None
        if one is not None:
            self.known.append(one)
            self.price = np.vstack([self.price, np.zeros((1, self.rounds))])
        self.step = 0.5

    def _prices(self) -> lagrange.Prices:
        """Whole prices per unit of weight."""
        rows = []
        for one, row in zip(self.known, self.price, strict=True):
            limit = self.q.states.weights(one)[1][-1]
            rows.append((one, np.rint(row / limit * lagrange.SCALE).astype(np.int64)))
        value = np.zeros((len(self.q.length), 3, self.rounds), np.int64)
        return lagrange.Prices(self.origin, value, patterns=tuple(rows))


def raise_priced(
    q: Prepared, run: Run, objective: str, made: patterns.Pattern, seconds: float
) -> None:
    """Give the run the bounds of prices for a pattern, then for more of them while that pays."""
    if run.incumbent is not None and applies(q, objective):
        Ascent(q, run, objective, made).improve(seconds)
