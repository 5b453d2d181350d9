"""What KV to keep: Bélády's choice for prefix blocks, interval packing for programs' contexts."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import exact
from cpsched.core.linear import LinearProgram
from cpsched.errors import ProblemError
from cpsched.families.serving.check_static import (
    cache_blocks,
    call_end,
    context,
    evaluate_cache,
    expected_price,
    fetch_rounds,
    is_program_cache,
    program_steps,
)
from cpsched.families.serving.problem import Pin, ServingProblem, ServingSchedule, TimeToLive
from cpsched.result import Bound, Number

if TYPE_CHECKING:
    from cpsched.core.run import Run

# ---------------------------------------------------------------- prefix blocks


def belady(p: ServingProblem, blocks: int) -> tuple[list[tuple[int, int, int]], int]:
    """The largest set of reuses with at most ``blocks`` blocks kept at any time.

    A reuse is an interval from one use of a block to its next; choosing most of them such that at
    most ``blocks`` overlap is solved by dropping, whenever one is too many, the one that ends
    last (Bélády's MIN with bypass; Carlisle and Lloyd for intervals). Of reuses that end together
    the deepest goes first, so that what is kept of a path is always its beginning.

    Returns
    -------
    (block, from, to) of the reuses, by request index, and their number.
    """
    following = next_uses(p)
    kept: list[tuple[int, int, int]] = []
    active: list[tuple[int, int, int, int]] = []
    size = 0
    ending: dict[int, int] = {}
    alive: dict[int, tuple[int, int]] = {}
    for index, r in enumerate(p.requests):
        size -= ending.pop(index, 0)
        for depth, block in enumerate(r.prefix):
            span = alive.pop(block, None)
            if span is not None:
                kept.append((block, *span))
            upcoming = following[index][depth]
            if upcoming < 0:
                continue
            heapq.heappush(active, (-upcoming, -depth, -index, block))
            alive[block] = (index, upcoming)
            ending[upcoming] = ending.get(upcoming, 0) + 1
            size += 1
            while size > blocks:
                end, _, begin, victim = heapq.heappop(active)
                if alive.get(victim) == (-begin, -end):
                    del alive[victim]
                    ending[-end] -= 1
                    size -= 1
    return kept, len(kept)


def next_uses(p: ServingProblem) -> list[list[int]]:
    """Index of the request that uses each prefix block next, -1 for none."""
    last: dict[int, int] = {}
    out: list[list[int]] = []
    for index in range(len(p.requests) - 1, -1, -1):
        prefix = p.requests[index].prefix
        out.append([last.get(block, -1) for block in prefix])
        for block in prefix:
            last[block] = index
    out.reverse()
    return out


def block_pins(reuses: Sequence[tuple[int, int, int]]) -> ServingSchedule:
    """Pins of reuses, those that follow each other joined."""
    spans: dict[int, list[list[int]]] = {}
    for block, begin, end in sorted(reuses, key=lambda x: x[1]):
        mine = spans.setdefault(block, [])
        if mine and mine[-1][1] == begin:
            mine[-1][1] = end
        else:
            mine.append([begin, end])
    return ServingSchedule(
        pins=tuple(
            Pin.model_construct(item=str(block), from_=a, to=b, place="gpu")
            for block, mine in spans.items()
            for a, b in mine
        )
    )


def _all_reuses(p: ServingProblem) -> int:
    uses = sum(len(r.prefix) for r in p.requests)
    return uses - len({block for r in p.requests for block in r.prefix})


def _block_bound(p: ServingProblem, objective: str, argument: str) -> int:
    """Most reuses, as hit tokens or as what is left to compute."""
    blocks = cache_blocks(p)
    most = _all_reuses(p)
    if argument == "belady" and blocks is not None:
        most = belady(p, blocks)[1]
    return _tokens(p, objective, most)


def _tokens(p: ServingProblem, objective: str, reuses: int) -> int:
    """Reuses of blocks as hit tokens, or as what is left to compute."""
    tokens = p.prefix_block * p.block_tokens
    uses = sum(len(r.prefix) for r in p.requests)
    return reuses * tokens if objective == "hit_tokens" else (uses - reuses) * tokens


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
        moments = np.unique(
            np.array([m for r in p.requests for m in (r.arrival, call_end(r))], np.int64)
        )
        times = np.union1d(times, moments)
        change = np.zeros(len(times) + 1, np.int64)
        for r in p.requests:
            if call_end(r) > r.arrival:
                change[np.searchsorted(times, r.arrival)] += context(r)
                change[np.searchsorted(times, call_end(r))] -= context(r)
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


def pack(g: Gaps, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep gaps in that order while they fit: on the GPU, else in host memory (0, 1, 2)."""
    first, last = g.spans
    room = g.room.copy()
    host = np.full(len(room), g.host, np.int64)
    place = np.zeros(len(g.gaps), np.int64)
    for j in order.tolist():
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
    return ServingSchedule(
        pins=tuple(
            Pin.model_construct(item=name, from_=k, to=k + 1, place="gpu" if where == 1 else "host")
            for (name, k), where in zip(g.gaps, place.tolist(), strict=True)
            if where
        )
    )


def densities(g: Gaps) -> list[np.ndarray]:
    """Orders by saved tokens per unit and moment, and variants."""
    duration = np.maximum(1, g.end - g.start).astype(float)
    pressed = np.array([g.size[j] * duration[j] for j in range(len(g.gaps))], float)
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
    place = np.zeros(len(g.gaps), np.int64)
    alive: dict[int, int] = {}
    kept = 0
    by_start = np.argsort(g.start, kind="stable").tolist()
    by_end = np.argsort(np.minimum(g.end, g.start + ttl), kind="stable").tolist()
    i = j = 0
    for t, room in zip(g.times.tolist(), g.room.tolist(), strict=True):
        while j < len(by_end) and min(g.end[by_end[j]], g.start[by_end[j]] + ttl) <= t:
            k = by_end[j]
            j += 1
            if g.end[k] == g.start[k]:
                place[k] = 1
            elif k in alive:
                kept -= alive.pop(k)
                place[k] = int(g.end[k] <= g.start[k] + ttl)
        while i < len(by_start) and g.start[by_start[i]] <= t:
            k = by_start[i]
            i += 1
            if g.end[k] > g.start[k] and min(g.end[k], g.start[k] + ttl) > t:
                alive[k] = int(g.size[k])
                kept += alive[k]
        while kept > room:
            kept -= alive.pop(next(iter(alive)))
    return place


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


def packing_prices(p: ServingProblem, g: Gaps, run: Run) -> tuple[Any, np.ndarray] | None:
    """Prices from the linear relaxation, and its fractional choice."""
    first, last = g.spans
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
        TimeToLive(
            tool=t.name,
            rounds=min(
                sorted({0, *t.durations}), key=lambda rounds: expected_price(p, t.name, rounds)
            ),
        )
        for t in p.tools
        if t.durations
    )


# ---------------------------------------------------------------- the question


def greedy(p: ServingProblem, run: Run) -> None:
    """Bélády, or the best of packing orders and times to live."""
    if any(o.name == "expected_tokens" for o in run.objectives):
        run.offer(ServingSchedule(ttls=best_ttls(p)), "times-to-live")
        return
    if not is_program_cache(p):
        blocks = cache_blocks(p)
        reuses, most = belady(p, _all_reuses(p) if blocks is None else blocks)
        run.offer(block_pins(reuses), "belady")
        # The number of reuses is the proof as well: no second run of it in `bounds`.
        for objective in run.objectives:
            run.raise_bound(Bound(_tokens(p, objective.name, most), "belady", objective.name))
        return
    g = gaps_of(p)
    for order in densities(g):
        place, _ = pack(g, order)
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
            for argument in ("every-reuse", "belady"):
                value = _block_bound(p, objective.name, argument)
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
    if not is_program_cache(p) or not run.objectives or run.optimal():
        return
    g = gaps_of(p)
    name = run.objectives[0].name

    def build(level: int) -> exact.Built:
        from ortools.sat.python import cp_model

        model = cp_model.CpModel()
        first, last = g.spans
        reload = 100 - (p.reload_percent if name == "recompute_tokens" else 0)
        terms: list[Any] = []
        gains: list[int] = []
        rows: dict[tuple[int, int], list[tuple[Any, int]]] = {}
        chosen = []
        for j in range(len(g.gaps)):
            if not j % 256:
                run.clock.check()
            mine = []
            for where in (1, 2):
                if where == 1 or g.offloads[j]:
                    x = model.new_bool_var("")
                    mine.append((where, x))
                    terms.append(x)
                    gains.append(int(g.value[j]) * (100 if where == 1 else reload))
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
        model.maximize(weighted(terms, gains))
        if run.incumbent is not None:
            kept = {(pin.item, pin.from_): pin.place for pin in run.incumbent.schedule.pins}
            for gap, mine in zip(g.gaps, chosen, strict=True):
                for where, x in mine:
                    model.add_hint(x, kept.get(gap) == ("gpu" if where == 1 else "host"))

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
        return _block_bound(p, bound.objective, bound.argument)
    if bound.argument == "every-ttl":
        return evaluate_cache(p, ServingSchedule(ttls=best_ttls(p)), bound.objective)
    if bound.argument == "alone":
        return _alone(p, gaps_of(p), bound.objective)
    if bound.argument == "packing-lp":
        return _program_bound(p, bound.objective, bound.data)
    raise ProblemError(
        "the argument cannot be recomputed", value=bound.argument, remedy="Recompute another bound."
    )
