"""Bounds of the admission and capacity questions, each with its argument and recomputable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import jit
from cpsched.errors import ProblemError
from cpsched.families.serving import branch, lagrange, patterns
from cpsched.families.serving.measure import energy_seconds
from cpsched.families.serving.prepare import UNLIMITED, Prepared, prepare
from cpsched.families.serving.problem import ServingProblem
from cpsched.families.serving.program import LARGEST_PROGRAM, TimeIndexed, program_size
from cpsched.result import Bound, Number

if TYPE_CHECKING:
    from cpsched.core.run import Run


#: Requests up to which the quick bounds cost next to nothing.
FEW = 200

#: Cliques raise the program's bound by a few percent: below this share of what is known they are
#: not tried.
HOPELESS = 0.95


def quick(q: Prepared, objective: str, seconds: float = math.inf) -> list[Bound]:
    """The bounds that need no linear program, as far as the seconds suffice for them."""
    arguments = {
        "total_latency": ("alone", "smallest-volume-first"),
        "weighted_latency": ("alone", "smallest-volume-first"),
        "makespan": ("alone", "volume"),
        "goodput": ("alone",),
        "instances": ("alone", "peak-energy"),
        "cost": ("alone", "peak-energy"),
    }[objective]
    if q.problem.reject and objective not in ("goodput",):
        # Leaving everything out costs nothing.
        return []
    alone = (1e-5 if len(q.preds) else 2e-6) * q.n
    cost = {"alone": alone, "peak-energy": energy_seconds(q), "smallest-volume-first": 5e-6 * q.n}
    out = []
    for argument in arguments:
        seconds -= cost.get(argument, 2e-6 * q.n)
        if q.n <= FEW or seconds > 0.0:
            out.append(Bound(value(q, argument, objective), argument, objective))
    return out


def value(q: Prepared, argument: str, objective: str) -> int:
    """What an argument without data proves about an objective."""
    if argument == "alone":
        return _alone(q, objective)
    if argument == "smallest-volume-first":
        return _smallest_volume_first(q)
    if argument == "volume":
        return _volume(q)
    if argument == "peak-energy":
        from cpsched.families.serving.capacity import energy_bound

        return energy_bound(q, objective)
    raise ProblemError(
        "the argument cannot be recomputed", value=argument, remedy="Recompute another bound."
    )


def _alone(q: Prepared, objective: str) -> int:
    """Every request as if it were the only one (with what it waits for)."""
    end = q.earliest
    if objective == "makespan":
        return int(end.max(initial=0))
    if objective == "goodput":
        first = end - q.output + np.minimum(1, q.output)
        possible = (first <= q.first_by) & (end <= q.end_by)
        return int(q.weight[possible].sum())
    if objective in ("instances", "cost"):
        prices = [m.price for m in q.problem.machines]
        return (1 if objective == "instances" else min(prices)) if q.n else 0
    arrival = np.array([r.arrival for r in q.problem.requests])
    return int((q.weight * (end - arrival)).sum())


def _total(values: np.ndarray) -> int:
    return int(min(UNLIMITED, sum(values.tolist())))


def _smallest_volume_first(q: Prepared) -> int:
    """Kong et al. (2606.22327): whoever ends j-th, at least the j smallest volumes per weight were
    held before, and no more than the capacity is held per round."""
    return _smallest_first(q, q.volume, np.array([_total(q.capacity)]))


def _rounds(need: int, limits: np.ndarray, offered: np.ndarray) -> int:
    """Rounds until so much was offered: ``limits`` by round, the last one for all that follow."""
    first = len(limits) - 1
    if first and need <= offered[first - 1]:
        return int(np.searchsorted(offered, need)) + 1
    before = int(offered[first - 1]) if first else 0
    return first - (before - need) // int(limits[-1])


def _smallest_first(q: Prepared, need: np.ndarray, limits: np.ndarray) -> int:
    """Weighted latencies when every request needs something that rounds offer, see `_rounds`.

    With equal weights the j-th end is at least when the j smallest needs were offered, and the
    j-th of the ends that the requests could have alone.
    """
    most, offered = int(limits[-1]), np.cumsum(limits)
    arrival = np.array([r.arrival for r in q.problem.requests])
    base = int(q.release.min())
    offset = int((q.weight * (base - arrival)).sum())
    if most >= UNLIMITED or not most:
        return offset
    order = np.argsort(need / np.maximum(q.weight, 1e-9), kind="stable")
    held = np.cumsum(need[order].astype(object))
    if (q.weight == q.weight[0]).all():
        alone = np.sort(q.earliest) - base
        ends = [
            max(int(a), _rounds(int(h), limits, offered)) for a, h in zip(alone, held, strict=True)
        ]
        return offset + int(q.weight[0]) * sum(ends)
    # Smith's rule gives the least weighted sum of these partial sums over all orders.
    return offset + -(-int((q.weight[order].astype(object) * held).sum()) // most)


def configurations(q: Prepared, pattern: patterns.Pattern, objective: str) -> int:
    """What the weights of a pattern prove: all active requests together weigh at most its limit."""
    weight, limits = q.states.weights(pattern)
    totals = q.states.totals(weight)
    if objective == "makespan":
        return _last_end(q, totals, limits)
    return _smallest_first(q, totals, limits)


def _last_end(q: Prepared, need: np.ndarray, limits: np.ndarray) -> int:
    """The last end when rounds offer, see `_rounds`, what every request needs after its arrival.

    Whoever arrives at a moment or later has run no longer than the rounds since then.
    """
    most, offered = int(limits[-1]), np.cumsum(limits)
    if most >= UNLIMITED or not most:
        return 0
    order = np.argsort(q.release, kind="stable")
    after = np.cumsum(need[order][::-1].astype(object))[::-1]
    return max(
        int(m) + _rounds(int(a), limits, offered)
        for m, a in zip(q.release[order], after, strict=True)
    )


def raise_configurations(
    q: Prepared, run: Run, objective: str, seconds: float
) -> patterns.Pattern | None:
    """Give the run the bound of weights made for the objective; returns the weights."""
    latency = objective in ("total_latency", "weighted_latency")
    if not latency and objective != "makespan":
        return None
    states = q.states
    if q.problem.reject or not states.applies(run.clock.remaining()):
        return None
    tables = min(patterns.LARGEST_RAMP, len(patterns.RAMP) * states.size) + 6 * states.size
    if patterns.COST * tables * jit.slowdown() > max(0.02, seconds):
        return None
    importance = np.ones(len(states.number))
    if latency:
        # Whoever comes early in the order of the volumes counts in all later ends.
        order = np.argsort(q.volume / np.maximum(q.weight, 1e-9), kind="stable")
        later = np.empty(q.n)
        later[order] = np.cumsum(q.weight[order][::-1])[::-1]
        importance = np.repeat(later, q.output)
    by_state: Any = np.bincount(states.number, importance, minlength=len(states.held))
    found = patterns.find(states, by_state, run, seconds)
    if found is not None:
        value = configurations(q, found, objective)
        run.raise_bound(Bound(value, "configurations", objective, found.to_data()))
    return found


def _volume(q: Prepared) -> int:
    """Memory volume, request rounds and tokens that come after any moment, over the limits."""
    sums = np.concatenate([[0], np.cumsum(q.tokens)])
    tokens = (sums[q.offset[:, 1:]] - sums[q.offset[:, :-1]]).min(axis=0)
    return max(
        _last_end(q, q.volume, np.array([_total(q.capacity)])),
        _last_end(q, q.length.min(axis=0), np.array([_total(q.max_batch)])),
        _last_end(q, tokens, np.array([_total(q.budget)])),
    )


def raise_time_indexed(
    q: Prepared,
    run: Run,
    objective: str,
    seconds: float = math.inf,
    keep: Callable[[lagrange.Prices], object] | None = None,
) -> None:
    """Give the run the bounds of the time-indexed program, tightened while that pays.

    Parameters
    ----------
    seconds
        Limit of the tightening, besides the clock's.
    keep
        Called with prices that gave a better bound than all before.
    """
    goodput = objective == "goodput"
    if objective not in ("total_latency", "weighted_latency", "goodput"):
        return
    if (q.problem.reject and not goodput) or run.incumbent is None or q.staged:
        return
    horizon = max((one.end for one in run.incumbent.schedule.requests), default=0) + 1
    if goodput:
        horizon = max(horizon, int(q.end_by[q.end_by < UNLIMITED].max(initial=0)) + 1)
    if program_size(q, horizon) > LARGEST_PROGRAM:
        return
    program = TimeIndexed(q, horizon, goodput, run.clock)
    end = run.clock.remaining() - seconds
    best, dull = -math.inf, 0
    argument = "time-indexed-lp"
    while True:
        prices = program.solve()
        if prices is None:
            return
        dual = raise_priced(q, run, objective, prices, argument)
        dull = 0 if dual > best + 1e-4 * abs(best) or best == -math.inf else dull + 1
        known = run.bound(0) if run.objectives[0].name == objective else None
        if not goodput and known is not None and dual < HOPELESS * known * lagrange.SCALE:
            return
        if dual > best:
            best = dual
            if keep is not None:
                keep(prices)
        argument = "time-indexed-cliques"
        stop = dull > 2 or run.done() or run.clock.remaining() <= end
        if stop or not program.tighten():
            return


def raise_priced(
    q: Prepared, run: Run, objective: str, prices: lagrange.Prices, argument: str
) -> int:
    """Give the run the bound that prices prove; returns it in 1/SCALE."""
    goodput = objective == "goodput"
    dual = lagrange.dual_value(q, prices, goodput, run.clock)
    run.raise_bound(Bound(_whole(dual, goodput), argument, objective, prices.to_data()))
    return dual


def _whole(dual: int, goodput: bool) -> int:
    least = -(-dual // lagrange.SCALE)
    return -least if goodput else least


def recompute(problem: ServingProblem, bound: Bound) -> Number:
    """The value of a bound from its argument and data alone."""
    if problem.question not in ("admission", "capacity"):
        from cpsched.families.serving.pipeline import STATIC

        value_of: Number = STATIC[problem.question].recompute(problem, bound)
        return value_of
    q = prepare(problem)
    assert isinstance(q, Prepared)
    q = q.weighing(bound.objective)
    if bound.argument in ("time-indexed-lp", "time-indexed-cliques", "priced-configurations"):
        goodput = bound.objective == "goodput"
        prices = lagrange.Prices.from_data(bound.data)
        return _whole(lagrange.dual_value(q, prices, goodput), goodput)
    if bound.argument == "configurations":
        return configurations(q, patterns.Pattern.from_data(bound.data), bound.objective)
    if bound.argument == branch.ARGUMENT:
        # Finished searches are recomputed by searching again.
        sets = [lagrange.Prices.from_data(one) for one in bound.data["prices"]]
        return bound.value if branch.confirmed(q, int(bound.value), sets) else -math.inf
    return value(q, bound.argument, bound.objective)
