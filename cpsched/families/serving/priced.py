"""Prices per round for patterns of states, raised by subgradient steps: a bound on latencies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import jit
from cpsched.families.serving import bound, kernels_price, lagrange, patterns
from cpsched.families.serving.prepare import Prepared

if TYPE_CHECKING:
    from cpsched.core.run import Run

ARGUMENT = "priced-configurations"
#: Most patterns, steps between two of them, and seconds per multiplication.
PATTERNS, STEPS, COST = 6, 250, 2e-9


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


def raise_priced(
    q: Prepared,
    run: Run,
    objective: str,
    made: patterns.Pattern,
    seconds: float,
    keep: Callable[[lagrange.Prices], object] | None = None,
) -> None:
    """Give the run the bounds of prices for one pattern, then for more of them while that pays.

    Parameters
    ----------
    made
        The first pattern: weights made for the objective as a whole.
    keep
        Called with prices that gave a better bound than all before.
    """
    if run.incumbent is None or not applies(q, objective):
        return
    states, clock = q.states, run.clock
    end = clock.remaining() - seconds
    origin = int(q.release.min())
    rounds = max(one.end for one in run.incumbent.schedule.requests) - origin + 1
    weight = q.weight
    arrivals = sum(int(w) * r.arrival for w, r in zip(weight, q.problem.requests, strict=True))
    shift = arrivals - origin * int(weight.sum())
    known = [made]
    price = np.zeros((1, rounds))
    # The first prices: the weight of whoever has not ended by then, were there only this pattern.
    totals = states.totals(states.weights(made)[0]) / states.weights(made)[1]
    order = np.argsort(totals / np.maximum(weight, 1e-9), kind="stable")
    past = np.searchsorted(np.cumsum(totals[order]), np.arange(rounds), side="right")
    price[0] = weight.sum() - np.concatenate([[0], np.cumsum(weight[order])])[past]
    best, step, dull = 0.0, 1.0, 0
    importance = np.zeros(len(states.number))
    best_price = price.copy()
    while not run.done() and clock.remaining() > max(0.0, end):
        limits = [states.weights(one) for one in known]
        profile = np.stack([w[states.number] / limit for w, limit in limits])
        work = COST * len(known) * float(rounds) * len(states.number) * jit.slowdown()
        steps = int(min(STEPS, max(1.0, 0.4 / work)))
        upper = float(run.incumbent.values[0] + shift)
        found = price.copy()
        value = kernels_price.subgradient(
            price, profile, states.first, q.release - origin, weight, upper, step, steps,
            found, importance,
        )  # fmt: skip
        clock.spend(steps * work)
        dull = 0 if value > best * (1.0 + 5e-4) else dull + 1
        if value > best:
            best, price = value, found
            prices = _prices(q, known, found, origin)
            bound.raise_priced(q, run, objective, prices, ARGUMENT)
            if keep is not None:
                keep(prices)
        else:
            price = best_price.copy()
        best_price = price.copy()
        step *= 0.5 if dull else 1.0
        if dull > 2 or (dull and len(known) >= PATTERNS):
            return
        if dull:
            # Weights for what the prices have become: large where much is paid.
            by_state: Any = np.bincount(states.number, importance, minlength=len(states.held))
            one = patterns.find(states, by_state, run, min(5.0, 0.3 * clock.remaining()))
            if one is None:
                return
            known.append(one)
            price = np.vstack([price, np.zeros((1, rounds))])
            best_price = price.copy()
            step = 0.5


def _prices(q: Prepared, known: list[patterns.Pattern], price: Any, origin: int) -> lagrange.Prices:
    """Whole prices per unit of weight."""
    rows = []
    for one, row in zip(known, price, strict=True):
        limit = q.states.weights(one)[1]
        rows.append((one, np.rint(row / limit * lagrange.SCALE).astype(np.int64)))
    value = np.zeros((len(q.length), 3, price.shape[1]), np.int64)
    return lagrange.Prices(origin, value, patterns=tuple(rows))
