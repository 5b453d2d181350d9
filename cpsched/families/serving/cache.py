"""What KV to keep: Bélády's choice for prefix blocks, interval packing for programs' contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import exact
from cpsched.core.linear import LinearProgram
from cpsched.errors import ProblemError
from cpsched.families.serving.block_cache import (
    all_reuses,
    belady,
    block_bound,
    block_pins,
    tokens_of,
)
from cpsched.families.serving.check_cache import (
    cache_blocks,
    call_end,
    context,
    evaluate_cache,
    fetch_rounds,
    is_program_cache,
    program_steps,
)
from cpsched.families.serving.prepare import GRACE
from cpsched.families.serving.problem import ServingProblem, ServingSchedule, TimeToLive
from cpsched.result import Bound, Number

if TYPE_CHECKING:
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run

# ---------------------------------------------------------------- programs


@dataclass(frozen=True)
class Gaps:
    """The gaps between the calls of programs, as intervals to be kept or not.

    Attributes
    ----------
    gaps
        (program, step before the gap).
    start, end, size, value
        When, how many units are held, how many are saved.
    """

    gaps: list[tuple[str, int]]
    start: np.ndarray
    end: np.ndarray
    size: np.ndarray
    value: np.ndarray
    #: Moments at which a stretch without changes begins, and the room for pins in it.
    times: np.ndarray
    room: np.ndarray
    host: int
    #: Rounds between GPU and host by gap, on both of them; a gap shorter than two of it stays.
    moving: np.ndarray

    @cached_property
    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last stretch (exclusive) that each gap covers."""
        return np.searchsorted(self.times, self.start), np.searchsorted(self.times, self.end)

    @cached_property
    def offloads(self) -> np.ndarray:
        """Whether a gap may be spent in host memory."""
        allowed: np.ndarray = (self.size <= self.host) & (2 * self.moving <= self.end - self.start)
        return allowed

    def crossing(self, j: int) -> np.ndarray:
        """Stretches in which an offloaded gap still, or again, holds GPU memory."""
        edges = [self.start[j], self.start[j] + self.moving[j]]
        edges += [self.end[j] - self.moving[j], self.end[j]]
        a, b, c, d = np.searchsorted(self.times, edges)
        return np.concatenate([np.arange(a, b), np.arange(c, d)])


def gaps_of(p: ServingProblem) -> Gaps:
    """The gaps of a problem, and the room that running calls leave."""
    gaps, start, end, size, value = [], [], [], [], []
    for name, calls in program_steps(p).items():
        for k, (a, b) in enumerate(pairwise(calls)):
            gaps.append((name, k))
            start.append(call_end(a))
            end.append(max(call_end(a), b.arrival))
            size.append(context(a))
            value.append(min(context(a), b.prompt))
    moving = [fetch_rounds(p, units) for units in size]
    edges = [t for a, b, d in zip(start, end, moving, strict=True) for t in (a, a + d, b - d, b)]
    times = np.unique(np.array([*edges, 0], np.int64))
    limit = p.instances[0].capacity
    room = np.full(len(times), 2**60 if limit is None else limit, np.int64)
    if p.running_memory and limit is not None:
        busy = np.array([(r.arrival, call_end(r), context(r)) for r in p.requests], np.int64)
        times = np.union1d(times, busy[:, :2])
        change = np.zeros(len(times) + 1, np.int64)
        for side, sign in ((0, 1), (1, -1)):
            np.add.at(change, np.searchsorted(times, busy[:, side]), sign * busy[:, 2])
        room = np.maximum(0, limit - np.cumsum(change)[:-1])
    return Gaps(
        gaps,
        np.array(start, np.int64),
        np.array(end, np.int64),
        np.array(size, np.int64),
        np.array(value, np.int64),
        times,
        room,
        p.instances[0].host_capacity,
        np.array(moving, np.int64),
    )


def pack(g: Gaps, order: np.ndarray, clock: Clock | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Keep gaps in that order while they fit: on the GPU, else in host memory (0, 1, 2).

    At the end of the clock the rest is left out.
    """
    first, last = g.spans
    room = g.room.copy()
    host = np.full(len(room), g.host, np.int64)
    place = np.zeros(len(g.gaps), np.int64)
    for count, j in enumerate(order.tolist()):
        if not count % 256 and clock is not None and clock.expired():
            break
        a, b, size = first[j], last[j], g.size[j]
        if a == b or room[a:b].min() >= size:
            room[a:b] -= size
            place[j] = 1
        elif g.offloads[j] and host[a:b].min() >= size:
            crossing = g.crossing(j)
            if len(crossing) and room[crossing].min() < size:
                continue
            room[crossing] -= size
            host[a:b] -= size
            place[j] = 2
    return place, room


def gap_pins(g: Gaps, place: np.ndarray) -> ServingSchedule:
    """The schedule of places (1 GPU, 2 host)."""
    pins = [
        {"item": name, "from": k, "to": k + 1, "place": "gpu" if where == 1 else "host"}
        for (name, k), where in zip(g.gaps, place.tolist(), strict=True)
        if where
    ]
    return ServingSchedule.model_validate({"pins": pins})


def densities(g: Gaps) -> list[np.ndarray]:
    """Orders by saved tokens per unit and moment, and variants."""
    duration = np.maximum(1, g.end - g.start).astype(float)
    pressed = g.size * duration
    return [
        np.argsort(-g.value / np.maximum(1.0, pressed), kind="stable"),
        np.argsort(duration, kind="stable"),
        np.argsort(-g.value, kind="stable"),
        np.argsort(g.start, kind="stable"),
    ]


def live_for(p: ServingProblem, g: Gaps, ttl: int) -> np.ndarray:
    """What a time-to-live policy keeps: pins of at most ``ttl`` rounds, oldest evicted first.

    Running calls take memory as recorded; a pin that no longer fits is evicted, and a gap counts
    as kept when its pin lasts to its end.
    """
    place = [0] * len(g.gaps)
    alive: dict[int, int] = {}
    kept = 0
    last = np.minimum(g.end, g.start + ttl)
    by_start = np.argsort(g.start, kind="stable").tolist()
    by_last = np.argsort(last, kind="stable").tolist()
    start, end, until, size = (a.tolist() for a in (g.start, g.end, last, g.size))
    i = j = 0
    for t, room in zip(g.times.tolist(), g.room.tolist(), strict=True):
        while j < len(by_last) and until[by_last[j]] <= t:
            k = by_last[j]
            j += 1
            if end[k] == start[k]:
                place[k] = 1
            elif k in alive:
                kept -= alive.pop(k)
                place[k] = int(end[k] <= start[k] + ttl)
        while i < len(by_start) and start[by_start[i]] <= t:
            k = by_start[i]
            i += 1
            if end[k] > start[k] and until[k] > t:
                alive[k] = size[k]
                kept += size[k]
        while kept > room:
            kept -= alive.pop(next(iter(alive)))
    return np.array(place, np.int64)


def best_ttl(p: ServingProblem, g: Gaps, run: Run | None = None) -> tuple[int, np.ndarray]:
    """The time to live that saves most, among the lengths of the gaps (at most 200 of them)."""
    lengths = np.unique(g.end - g.start)
    if len(lengths) > 200:
        lengths = np.unique(np.quantile(lengths, np.linspace(0, 1, 200)).astype(np.int64))
    best = (-1, 0, np.zeros(len(g.gaps), np.int64))
    for ttl in lengths.tolist():
        if run is not None and run.clock.expired():
            break
        place = live_for(p, g, ttl)
        saved = int(g.value[place == 1].sum())
        if saved > best[0]:
            best = (saved, ttl, place)
    return best[1], best[2]


def packing_bound(p: ServingProblem, g: Gaps, prices: Any) -> int:
    """Most saved percent-units (100 per unit kept on the GPU) at given prices of the stretches.

    Weak duality: every gap takes the better of what it saves less what its room costs, and the
    room is paid for in full. ``prices`` are whole numbers in 1/SCALE percent per unit.
    """
    first, last = g.spans
    room = [min(int(x), 2**50) for x in g.room]
    total = sum(int(y) * c for y, c in zip(prices["gpu"], room, strict=True))
    total += sum(int(z) for z in prices["host"]) * g.host
    y = np.concatenate([[0], np.cumsum(np.array(prices["gpu"], object))])
    z = np.concatenate([[0], np.cumsum(np.array(prices["host"], object))])
    reload = 100 - p.reload_percent
    for j, (a, b, size, value) in enumerate(
        zip(first, last, g.size.tolist(), g.value.tolist(), strict=True)
    ):
        gpu = 100 * SCALE * value - size * int(y[b] - y[a])
        host = 0
        if g.offloads[j]:
            crossing = sum(int(prices["gpu"][t]) for t in g.crossing(j).tolist())
            host = reload * SCALE * value - size * (int(z[b] - z[a]) + crossing)
        total += max(0, gpu, host)
    return total // SCALE


SCALE = 2**20
#: Entries up to which the packing is written as a program.
LARGEST_PROGRAM = 5_000_000


def packing_prices(p: ServingProblem, g: Gaps, run: Run) -> tuple[Any, np.ndarray] | None:
    """Prices from the linear relaxation, and its fractional choice."""
    first, last = g.spans
    entries = int((last - first) @ (1 + g.offloads))
    if entries > LARGEST_PROGRAM or (
        not run.deterministic and 2e-6 * entries > 0.3 * run.clock.remaining()
    ):
        return None
    n, stretches = len(g.gaps), len(g.times)
    high = np.concatenate([np.ones(n), np.minimum(g.room, 2**50), np.full(stretches, g.host)])
    program = LinearProgram()
    program.add_rows(np.full(n + 2 * stretches, -np.inf), high)
    for j in range(n):
        rows = np.arange(first[j], last[j])
        x = program.add(-100.0 * g.value[j])
        program.entries(j, x, 1.0)
        program.entries(n + rows, x, float(g.size[j]))
        if g.offloads[j]:
            h = program.add(-(100.0 - p.reload_percent) * g.value[j])
            program.entries(j, h, 1.0)
            program.entries(n + stretches + rows, h, float(g.size[j]))
            program.entries(n + g.crossing(j), h, float(g.size[j]))
    solved = program.solve(run.clock)
    if solved is None:
        return None
    whole = np.rint(np.maximum(0.0, -solved.prices[n:]) * SCALE).astype(np.int64)
    prices = {"gpu": whole[:stretches].tolist(), "host": whole[stretches:].tolist()}
    return prices, -solved.prices[:n]


def best_ttls(p: ServingProblem) -> tuple[TimeToLive, ...]:
    """The cheapest time to live of every tool.

    The expected price rises with the rounds kept, except that it falls at the durations that
    occur: one of them, or 0, is best.
    """
    return tuple(
        TimeToLive(tool=t.name, rounds=_best_ttl(t.durations, Fraction(p.hold_price)))
        for t in p.tools
        if t.durations
    )


def _best_ttl(durations: Sequence[int], hold: Fraction) -> int:
    """The cheapest of the durations and 0: `expected_price` of all of them from running sums."""
    number, before = len(durations), 0
    best, at = Fraction(sum(1 for d in durations if d > 0)), 0
    for k, rounds in enumerate(sorted(durations)):
        before += rounds
        # Of equal durations the last one counts them all.
        price = number - k - 1 + hold * (before + (number - k - 1) * rounds)
        if price < best:
            best, at = price, rounds
    return at


# ---------------------------------------------------------------- the question


def greedy(p: ServingProblem, run: Run) -> None:
    """Bélády, or the best of packing orders and times to live."""
    if any(o.name == "expected_tokens" for o in run.objectives):
        run.offer(ServingSchedule(ttls=best_ttls(p)), "times-to-live")
        return
    if not is_program_cache(p):
        blocks = cache_blocks(p)
        reuses, most = belady(p, all_reuses(p) if blocks is None else blocks)
        run.offer(block_pins(reuses), "belady")
        # The number of reuses is the proof as well: no second run of it in `bounds`.
        for objective in run.objectives:
            run.raise_bound(Bound(tokens_of(p, objective.name, most), "belady", objective.name))
        return
    g = gaps_of(p)
    for order in densities(g):
        place, _ = pack(g, order, run.clock)
        run.offer(gap_pins(g, place), "greedy:packing")
        if run.clock.expired():
            return
    if len(g.gaps) <= 20_000:
        ttl, place = best_ttl(p, g, run)
        run.offer(gap_pins(g, place), f"greedy:ttl-{ttl}")


def bounds(p: ServingProblem, run: Run) -> None:
    """Infinite capacity and Bélády for blocks; the packing program for programs."""
    if any(o.name == "expected_tokens" for o in run.objectives):
        value = evaluate_cache(p, ServingSchedule(ttls=best_ttls(p)), "expected_tokens")
        run.raise_bound(Bound(value, "every-ttl", "expected_tokens"))
        return
    for objective in run.objectives:
        if not is_program_cache(p) and not run.optimal():
            uses = sum(len(r.prefix) for r in p.requests)
            short = not run.deterministic and 4e-6 * uses > run.clock.remaining() + GRACE
            for argument in ("every-reuse",) if short else ("every-reuse", "belady"):
                value = block_bound(p, objective.name, argument)
                run.raise_bound(Bound(value, argument, objective.name))
    if is_program_cache(p) and run.objectives:
        g = gaps_of(p)
        for objective in run.objectives:
            value = _alone(p, g, objective.name)
            run.raise_bound(Bound(value, "alone", objective.name))
        priced = packing_prices(p, g, run)
        if priced is None:
            return
        for objective in run.objectives:
            value = _program_bound(p, objective.name, priced[0])
            run.raise_bound(Bound(value, "packing-lp", objective.name, priced[0]))


def _alone(p: ServingProblem, g: Gaps, objective: str) -> int:
    """Every gap as if it were the only one: kept where it fits, at the least price."""
    room = np.full(len(g.gaps), 2**60, np.int64)
    for j, (a, b) in enumerate(zip(*g.spans, strict=True)):
        if b > a:
            room[j] = g.room[a:b].min()
    fits = g.size <= room
    offload = ~fits & g.offloads
    saved = int(g.value[fits].sum())
    if objective == "hit_tokens":
        return (saved + int(g.value[offload].sum())) * p.block_tokens
    percent = int(g.value[offload].sum()) * p.reload_percent
    lost = int(g.value[~fits & ~offload].sum())
    return (lost + -(-percent // 100)) * p.block_tokens


def _program_bound(p: ServingProblem, objective: str, prices: Any) -> int:
    g = gaps_of(p)
    if objective == "hit_tokens":
        # Both places count in full: without the price of reloading the program is another one.
        free = p.model_copy(update={"reload_percent": 0})
        return packing_bound(free, g, prices) // 100 * p.block_tokens
    saved = packing_bound(p, g, prices)
    return -(-(100 * int(g.value.sum()) - saved) // 100) * p.block_tokens


def search(p: ServingProblem, run: Run) -> None:
    """CP-SAT over the gaps (prefix blocks are solved by then)."""
    times = any(o.name == "expected_tokens" for o in run.objectives)
    if times or not is_program_cache(p) or not run.objectives or run.optimal():
        return
    g = gaps_of(p)
    if int(np.subtract(*g.spans[::-1]).sum()) > LARGEST_PROGRAM:
        return
    names = [o.name for o in run.objectives]

    def build(level: int) -> exact.Built:
        from ortools.sat.python import cp_model

        model = cp_model.CpModel()
        first, last = g.spans
        name = names[level]
        terms: list[Any] = []
        #: What each term saves by objective, in percent of a unit.
        gains: dict[str, list[int]] = {n: [] for n in names[: level + 1]}
        rows: dict[tuple[int, int], list[tuple[Any, int]]] = {}
        chosen = []
        for j in range(len(g.gaps)):
            run.clock.check()
            mine = []
            for where in (1, 2):
                if where == 1 or g.offloads[j]:
                    x = model.new_bool_var("")
                    mine.append((where, x))
                    terms.append(x)
                    for n, listed in gains.items():
                        paid = where == 2 and n == "recompute_tokens"
                        listed.append(int(g.value[j]) * (100 - paid * p.reload_percent))
                    for t in range(first[j], last[j]):
                        rows.setdefault((where, t), []).append((x, int(g.size[j])))
                    for t in g.crossing(j).tolist() if where == 2 else ():
                        rows.setdefault((1, t), []).append((x, int(g.size[j])))
            if len(mine) > 1:
                model.add_at_most_one([x for _, x in mine])
            chosen.append(mine)
        weighted = cp_model.LinearExpr.weighted_sum
        for (where, t), entries in rows.items():
            limit = int(g.room[t]) if where == 1 else g.host
            if sum(c for _, c in entries) > limit:
                model.add(weighted([x for x, _ in entries], [c for _, c in entries]) <= limit)
        model.maximize(weighted(terms, gains[name]))
        if run.incumbent is not None:
            kept = {(pin.item, pin.from_): pin.place for pin in run.incumbent.schedule.pins}
            for gap, mine in zip(g.gaps, chosen, strict=True):
                for where, x in mine:
                    model.add_hint(x, kept.get(gap) == ("gpu" if where == 1 else "host"))
            for n, reached in zip(names[:level], run.incumbent.values, strict=False):
                units = int(reached) // p.block_tokens
                least = units if n == "hit_tokens" else int(g.value.sum()) - units
                model.add(weighted(terms, gains[n]) >= 100 * least)

        def extract(values: list[int]) -> ServingSchedule:
            place = np.zeros(len(g.gaps), np.int64)
            for j, mine in enumerate(chosen):
                for where, x in mine:
                    if values[x.index]:
                        place[j] = where
            return gap_pins(g, place)

        def value(saved: float) -> int:
            if name == "hit_tokens":
                return int(saved) // 100 * p.block_tokens
            return -(-(100 * int(g.value.sum()) - int(saved)) // 100) * p.block_tokens

        return exact.Built(model, extract, value=value, parameters={"linearization_level": 2})

    exact.solve_levels(run, build)


def recompute(p: ServingProblem, bound: Bound) -> Number:
    """The value of a bound of this question."""
    if bound.argument in ("every-reuse", "belady"):
        return block_bound(p, bound.objective, bound.argument)
    if bound.argument == "every-ttl":
        return evaluate_cache(p, ServingSchedule(ttls=best_ttls(p)), bound.objective)
    if bound.argument == "alone":
        return _alone(p, gaps_of(p), bound.objective)
    if bound.argument == "packing-lp":
        return _program_bound(p, bound.objective, bound.data)
    raise ProblemError(
        "the argument cannot be recomputed", value=bound.argument, remedy="Recompute another bound."
    )
