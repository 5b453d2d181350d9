"""Improving admissions: ruin and recreate, the linear program's prices, CP-SAT for the rest."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import exact, jit, lns
from cpsched.errors import OutOfTime
from cpsched.families.serving import (
    bound,
    branch,
    kernels_pack,
    kernels_search,
    lagrange,
    model,
    priced,
    quick,
)
from cpsched.families.serving.greedy import offer_order, run_policy
from cpsched.families.serving.measure import misses, value_of
from cpsched.families.serving.prepare import UNLIMITED, Prepared, arrays_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.run import Run

    Ints = NDArray[np.int64]

logger = logging.getLogger("cpsched")

LATENCY = ("total_latency", "weighted_latency")
#: Requests in one window of the rolling search over long traces.
WINDOW = 400


def search(q: Prepared, run: Run) -> None:
    """Search until the run is done: bounds beside heuristics, then exact models, then both."""
    if not run.objectives or run.incumbent is None:
        _feasible(q, run)
        if run.incumbent is None or run.done():
            return
    name = run.objectives[0].name
    q = q.weighing(name)
    #: The best prices of patterns, and of the linear program.
    prices: dict[str, lagrange.Prices] = {}

    branching = name in LATENCY and len(run.objectives) == 1 and branch.applies(q)

    def proving() -> None:
        left = run.clock.remaining()
        end = (0.1 if q.n > 20 else 0.4) * left
        pattern = bound.raise_configurations(q, run, name, 0.1 * left)
        ascent = None
        if pattern is not None and priced.applies(q, name):
            keep = partial(prices.__setitem__, "patterns")
            ascent = priced.Ascent(q, run, name, pattern, keep)
            ascent.improve(0.03 * left if branching else 0.2 * left)
        program = partial(prices.__setitem__, "program")
        if ascent is None or not branching:
            bound.raise_time_indexed(q, run, name, run.clock.remaining() - end, program)
        # A short search first, then one with better prices for the time that is left.
        if branching and prices and ascent is not None and not ascent.over:
            if branch.prove(q, run, name, list(prices.values()), 0.06 * left):
                return
            ascent.improve(0.1 * left)
        if branching and prices and not run.done():
            branch.prove(q, run, name, list(prices.values()))
            return
        best = run.best_bound(0)
        if ascent is not None and best is not None and best.argument == priced.ARGUMENT:
            ascent.improve(run.clock.remaining() - end)

    shaking = q.plain and name in (*LATENCY, "makespan") and not q.problem.reject
    if name == "makespan":
        # Small problems are soon proved by CP-SAT: most of the time is left to it.
        packing, ordering = (0.6, 0.3) if q.n > 40 else (0.05, 0.03)
        bound.raise_configurations(q, run, name, 0.1 * run.clock.remaining())
        _backwards(q, run, packing * run.clock.remaining())
        _reorder(q, run, min(5.0, ordering * run.clock.remaining()))
    alone = run.deterministic or run.workers < 2
    if shaking and alone:
        _shake(q, run, name, until=lambda: True, least=0.1)
    with _Beside(proving, alone=alone) as other:
        if shaking and not alone:
            _shake(q, run, name, until=lambda: not other.running, least=0.1)
    if run.done():
        return
    if q.n <= 2000:
        _exact(q, run, name, list(prices.values()), shaking)
    if run.done():
        return
    if shaking and len(run.objectives) == 1:
        _shake(q, run, name)
    else:
        _neighbourhoods(q, run)


class _Beside:
    """Runs a function in a thread beside the body (before it when ``alone``)."""

    def __init__(self, function: Any, alone: bool) -> None:
        self.function, self.alone = function, alone
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            self.function()
        except OutOfTime:
            pass
        except Exception:
            logger.exception("a step beside the search failed; the search goes on")

    @property
    def running(self) -> bool:
        return self.thread.is_alive()

    def __enter__(self) -> _Beside:
        if self.alone:
            self._work()
        else:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.alone:
            self.thread.join()


def _feasible(q: Prepared, run: Run) -> None:
    """Any schedule, by CP-SAT over the full horizon."""
    horizon = model.full_horizon(q)
    if model.size_until(q, horizon) <= model.LARGEST_MODEL:
        options = model.options_until(q, horizon)
        exact.solve_levels(run, lambda level: model.build(q, run, level, options))


def _shake(
    q: Prepared, run: Run, name: str, until: Any = None, least: float = 0.0, stop: Any = None
) -> None:
    """Ruin and recreate in rounds until the clock, or ``until`` after ``least`` seconds of it."""
    if run.clock.remaining() > 1.5:
        jit.ready()
    assert run.incumbent is not None
    start, machine = arrays_of(run.incumbent.schedule, q)
    limits = np.stack([q.capacity, q.max_batch, q.budget])
    allowed = np.ones((1, 1), np.bool_) if q.allowed is None else q.allowed
    every = np.flatnonzero(q.fixed_machine < 0)
    if 2e-9 * float(q.length.sum()) * jit.slowdown() > 0.3 * run.clock.remaining():
        return
    if len(every) < 2 or int(q.release.max() - q.release.min()) > 2_000_000:
        return
    rng = random.Random(run.seed * 31 + 5)
    origin = int(q.release.min())
    iterations, number, began = max(5, int(200 / jit.slowdown())), 0, run.clock.used()
    while not run.done() and not (stop is not None and stop.is_set()):
        if until is not None and until() and run.clock.used() - began >= least:
            return
        best = run.incumbent.values[0]
        begin, group = arrays_of(run.incumbent.schedule, q)
        if value_of(q, start, machine, name) > best:
            start, machine = begin, group
        movable = every
        if len(every) > 2 * WINDOW:
            # A rolling window over the starts: everything outside is frozen.
            ordered = every[np.argsort(start[every], kind="stable")]
            step = WINDOW // 2
            at = (number * step) % (len(ordered) - step)
            movable = ordered[at : at + WINDOW]
        end = int((start + q.length[q.kind[machine], np.arange(q.n)]).max()) - origin
        horizon = end + int(q.length.max()) + 2
        if 3 * q.machines * horizon > 200_000_000:
            return
        trial, where = start - origin, machine.copy()
        clocked = time.perf_counter()
        heat = (5.0, 2.0, 1.0, 10.0, 0.3)[number % 5] * max(1.0, float(q.weight.mean()))
        kernels_search.ruin_recreate(
            trial, where, movable, q.release - origin, q.weight, q.kind, q.length, q.offset,
            q.memory, q.tokens, limits, allowed, q.volume, horizon, iterations, heat,
            rng.randrange(2**31), name == "makespan",
        )  # fmt: skip
        took = time.perf_counter() - clocked
        run.clock.spend(4e-6 * iterations + 1e-8 * float(q.length.sum()))
        number += 1
        new = trial + origin
        start, machine = new, where
        value = value_of(q, new, where, name)
        if value < best and (q.problem.slo_percent is None or misses(q, new, where) <= q.misses):
            run.offer(lambda s=new, g=where: q.schedule(s, g), "ruin-recreate")  # type: ignore[misc]
        if run.deterministic:
            iterations = 500
        else:
            share = min(0.2, 0.01 + 0.05 * run.clock.remaining())
            iterations = max(5, min(100_000, int(iterations * min(4.0, share / max(took, 1e-6)))))


def _backwards(q: Prepared, run: Run, seconds: float) -> None:
    """Short makespans packed from the end, where nothing waits for arrivals or token budgets."""
    target = run.bound(0)
    arrivals = int(q.release.max()) > int(q.release.min())
    growing = bool((q.budget >= UNLIMITED).all()) and q.allowed is None and q.plain
    if arrivals or not growing or (q.fixed_machine >= 0).any() or target is None:
        return
    jit.ready(run.clock.remaining())
    origin = int(q.release.min())
    limits = np.stack([q.capacity, q.max_batch])
    rng = random.Random(run.seed * 17 + 3)
    starts = [
        np.lexsort((-q.volume, -q.length.min(axis=0))),
        np.argsort(-q.volume, kind="stable"),
        np.lexsort((-q.length.min(axis=0), -(q.prompt + q.output))),
    ]
    assert run.incumbent is not None
    end, number = run.clock.remaining() - seconds, 0
    while not run.done() and run.clock.remaining() > end:
        cost = 3e-9 * q.n * float(run.incumbent.values[0] - origin) * jit.slowdown()
        if 2.0 * cost > run.clock.remaining() - end:
            return
        iterations = max(1, int(0.2 / cost) - 1)
        late, where = np.zeros(q.n, np.int64), np.zeros(q.n, np.int64)
        order = starts[number % len(starts)]
        top = kernels_pack.pack_search(
            order, q.length, q.offset, q.memory, limits, q.kind, int(target) - origin,
            iterations, rng.randrange(2**31), late, where,
        )  # fmt: skip
        run.clock.spend((iterations + 1) * cost)
        number += 1
        if top < 0:
            return
        if origin + top < run.incumbent.values[0]:
            start = origin + top - late - q.length[q.kind[where], np.arange(q.n)]
            run.offer(lambda s=start, g=where: q.schedule(s, g), "backwards")  # type: ignore[misc]


def _reorder(q: Prepared, run: Run, seconds: float) -> None:
    """Shorter makespans from perturbed longest-decode-first orders, a random walk downhill."""
    rng = np.random.default_rng(run.seed + 3)
    now = np.log(np.maximum(1, q.length.min(axis=0))) + 1e-3 * np.log(np.maximum(1, q.volume))
    least: tuple[int, int] | None = None
    end = run.clock.remaining() - seconds
    tail = max(3, q.n // 20)
    if not quick.affordable(q, run):
        return
    while not run.done() and run.clock.remaining() > end:
        run.clock.spend(1e-4 * q.n)
        chosen = rng.random(q.n) < rng.choice([0.05, 0.3, 1.0])
        trial = now + chosen * rng.normal(0.0, rng.choice([0.02, 0.1, 0.3]), q.n)
        start, machine = run_policy(q, np.argsort(-trial, kind="stable"), skip=True, run=run)
        if (machine < 0).any():
            return
        ends = np.sort(start + q.length[q.kind[machine], np.arange(q.n)])
        # Among equal makespans, the fewer end late the better.
        value = (int(ends[-1]), int(ends[-tail:].sum()))
        if least is not None and value > least:
            continue
        now = trial
        if least is None or value[0] < least[0]:
            offer_order(q, run, np.argsort(-trial, kind="stable"), True, "reorder")
        least = value


def _exact(
    q: Prepared, run: Run, name: str, prices: Sequence[lagrange.Prices], shaking: bool
) -> None:
    """The whole problem by CP-SAT, where that is small enough; heuristics go on beside it."""
    assert run.incumbent is not None
    stop = threading.Event()
    single = len(run.objectives) == 1

    def build(level: int) -> exact.Built:
        if level == 0 and single and prices:
            options = worthwhile(q, run, name, prices)
        else:
            horizon = _horizon(q, run, level)
            if model.size_until(q, horizon) > model.LARGEST_MODEL:
                raise OutOfTime("the model is too large")
            options = model.options_until(q, horizon)
        if model.size_of(q, options) > model.LARGEST_MODEL:
            raise OutOfTime("the model is too large")
        # The horizon holds every schedule that is better than the incumbent, not every schedule.
        return model.build(q, run, level, options, better=single)

    if model.size_until(q, _horizon(q, run, 0)) > 8 * model.LARGEST_MODEL:
        return
    seconds = 0.5 * run.clock.remaining() if q.n > 15 else run.clock.remaining()

    def beside() -> None:
        _shake(q, run, name, stop=stop)

    helper = shaking and single and run.workers > 1 and not run.deterministic
    workers = max(1, run.workers - 1) if helper else run.workers
    if helper:
        thread = threading.Thread(target=beside, daemon=True)
        thread.start()
    try:
        exact.solve_levels(run, build, seconds=seconds, workers=workers)
    except OutOfTime:
        logger.debug("the model of the whole problem is not built")
    finally:
        stop.set()
        if helper:
            thread.join()


def _horizon(q: Prepared, run: Run, level: int) -> int:
    """A round by which every schedule at least as good as the incumbent may be taken to end."""
    assert run.incumbent is not None
    horizon = model.full_horizon(q)
    if level > 0 and run.objectives[0].name == "makespan":
        return min(horizon, int(run.incumbent.values[0]))
    name = run.objectives[level].name
    value = int(run.incumbent.values[level])
    if level == 0 and name == "makespan":
        return min(horizon, value)
    if level == 0 and name in LATENCY and not q.problem.reject:
        # The others take at least their shortest time: the rest bounds how late one may end.
        least = q.earliest
        arrival = np.array([r.arrival for r in q.problem.requests])
        slack = value - int((q.weight * (least - arrival)).sum())
        worst = least + slack // np.maximum(1, q.weight)
        if (q.weight > 0).all():
            horizon = min(horizon, int(worst.max(initial=0)))
    return horizon


def worthwhile(
    q: Prepared, run: Run, name: str, prices: Sequence[lagrange.Prices]
) -> model.Options:
    """Starts that a schedule better than the incumbent can have, by reduced costs.

    With the prices' bound L, a start that costs d more than the request's best start cannot be
    part of a schedule of value below L + d.
    """
    assert run.incumbent is not None
    goodput = name == "goodput"
    value = -int(run.incumbent.values[0]) if goodput else int(run.incumbent.values[0])
    rooms = [
        (value - 1) * lagrange.SCALE - lagrange.dual_value(q, one, goodput, run.clock)
        for one in prices
    ]
    horizon = _horizon(q, run, 0)
    options: model.Options = []
    for i, mine in enumerate(model.options_until(q, horizon)):
        run.clock.check()
        if q.fixed_machine[i] >= 0:
            options.append(mine)
            continue
        release = int(q.release[i])
        for one, room in zip(prices, rooms, strict=True):
            costs, best = lagrange.reduced_costs(q, one, i, goodput)
            kept: dict[int, Ints] = {}
            for g, starts in mine.items():
                c = int(q.kind[g])
                base, slope, _ = lagrange.starts_cost(q, i, c, goodput)
                index = starts - release
                inside = index < len(costs[c])
                # Starts without an entry pay no price: late ones, or (goodput) those that miss.
                cost = np.where(goodput, 0, (base + slope * starts) * lagrange.SCALE)
                cost[inside] = costs[c][index[inside]]
                kept[g] = starts[cost - best <= room]
            mine = {g: s for g, s in kept.items() if len(s)}
        options.append(mine)
    return options


def _neighbourhoods(q: Prepared, run: Run) -> None:
    """Large-neighbourhood search with the model: some requests move, the others stay."""
    if run.incumbent is None:
        return

    def near(schedule: Any, size: float, rng: random.Random) -> lns.SubModel | None:
        start, machine = arrays_of(schedule, q)
        count = max(2, min(q.n, int(size * q.n), 40))
        centre = rng.randrange(q.n)
        distance = np.abs(start - start[centre])
        free = np.argsort(distance + np.array([rng.random() for _ in range(q.n)]))[:count]
        return sub(start, machine, free)

    def scattered(schedule: Any, size: float, rng: random.Random) -> lns.SubModel | None:
        start, machine = arrays_of(schedule, q)
        count = max(2, min(q.n, int(size * q.n), 20))
        return sub(start, machine, np.array(rng.sample(range(q.n), count)))

    def sub(start: Ints, machine: Ints, free: Ints) -> lns.SubModel | None:
        level = run.level()
        if level is None:
            return None
        free = free[q.fixed_machine[free] < 0]
        end = int((start + q.length.max(axis=0)).max(initial=0))
        options = model.around(q, start, machine, free.tolist(), 60, end + 60)
        if model.size_of(q, options) > model.LARGEST_MODEL:
            return None
        try:
            built = model.build(q, run, level, options, better=True)
        except OutOfTime:
            return None
        return lns.SubModel(built.model, built.extract, built.parameters)

    lns.search(
        run,
        [lns.Neighbourhood("near", near, 0.3), lns.Neighbourhood("scattered", scattered, 0.2)],
    )
