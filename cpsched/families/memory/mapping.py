"""Search for mappings: a greedy prefetcher, its perturbations, CP-SAT and neighbourhoods."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from cpsched.core import engine, lns
from cpsched.core.clock import Clock
from cpsched.core.exact import Built, solve_levels
from cpsched.core.run import Run
from cpsched.families.memory.bound import use_knapsack
from cpsched.families.memory.check_mapping import copy_time
from cpsched.families.memory.mapping_bound import search_prices
from cpsched.families.memory.mapping_model import MappingModel
from cpsched.families.memory.mapping_prices import TensorPrices, search_tensor_prices, settled
from cpsched.families.memory.problem import (
    Buffer,
    MemoryProblem,
    MemorySchedule,
    PlacedBuffer,
    ScheduledCopy,
)
from cpsched.result import Bound

#: Tensors with uses up to which the whole model is solved before neighbourhoods of it.
MOST_WHOLE = 250

#: Up to so many of them the model gets so many seconds before any bound by prices.
FEW, AT_ONCE = 30, 0.2

#: Seconds from which on the whole model is made anew with what is known after some of them.
LEAST_SPLIT = 4.0


@dataclass
class _Space:
    """What is taken of a space: rectangles ``(start, end, low, high)``."""

    capacity: int
    taken: list[tuple[int, int, int, int]]

    def room(self, start: int, end: int, size: int, alignment: int) -> int | None:
        """The lowest free offset for that time, or None."""
        place = 0
        for _, _, low, high in sorted(
            (r for r in self.taken if r[0] < end and start < r[1]), key=lambda r: r[2]
        ):
            if low - place >= size:
                break
            place = max(place, -(-high // alignment) * alignment)
        return place if place + size <= self.capacity else None


class Prefetcher:
    """Places residences tensor by tensor: each use kept, born, or prefetched late.

    Serving many tensors ends with `OutOfTime` when the clock runs out.
    """

    def __init__(self, problem: MemoryProblem, clock: Clock) -> None:
        self.problem, self.clock = problem, clock
        self.spaces = {s.name: _Space(s.capacity, []) for s in problem.spaces}
        self.places: list[PlacedBuffer] = []
        self.copies: list[ScheduledCopy] = []

    def run(self, order: list[Buffer]) -> MemorySchedule:
        """The mapping that results when the tensors are served in that order."""
        for count, buffer in enumerate(order):
            if count % 64 == 63:
                self.clock.check()
            for space in sorted(
                self.spaces,
                key=lambda q: -sum(use.benefit.get(q, 0) for use in buffer.uses),
            ):
                if self._serve(buffer, space):
                    break
        return MemorySchedule(buffers=tuple(self.places), copies=tuple(self.copies))

    def _engine_free(self, start: int, duration: int) -> bool:
        engine = self.problem.copy_engine
        if engine is None:
            return False
        busy = [c for c in self.copies if c.start < start + duration and start < c.end]
        if len(busy) < engine.engines:
            return True
        return all(
            sum(c.start <= t < c.end for c in busy) < engine.engines
            for t in {start, *(c.start for c in busy if c.start > start)}
        )

    def _latest_copy(self, earliest: int, end: int, duration: int) -> int | None:
        """The latest start of a copy that ends by ``end``, or None."""
        starts = {end - duration}
        starts |= {c.start - duration for c in self.copies if c.start <= end}
        for start in sorted(starts, reverse=True):
            if start < earliest:
                return None
            if self._engine_free(start, duration):
                return start
        return None

    def _serve(self, buffer: Buffer, space: str) -> bool:
        """Place the residences of a tensor in one space; whether there is any."""
        assert buffer.lower is not None
        area = self.spaces[space]
        if not any(use.benefit.get(space, 0) for use in buffer.uses):
            return False
        duration = copy_time(self.problem, buffer) if self.problem.copy_engine else 0
        home_from: int | None = buffer.lower
        residence: tuple[int, int, int] | None = None
        done: list[tuple[int, int, int]] = []
        copies: list[ScheduledCopy] = []

        def grow(until: int) -> bool:
            assert residence is not None
            _, end, offset = residence
            return all(
                r[1] <= end or until <= r[0] or r[3] <= offset or offset + buffer.size <= r[2]
                for r in area.taken
            )

        first = buffer.uses[0]
        if not buffer.input:
            place = area.room(buffer.lower, first.end, buffer.size, buffer.alignment)
            if place is not None:
                out = self._birth(buffer, space, first.end, duration, place)
                if out is not None:
                    residence = (buffer.lower, max(first.end, out[0]), place)
                    copies += out[1]
                    home_from = out[0] if out[1] else None
        for j, use in enumerate(buffer.uses):
            if residence is not None and j == 0:
                continue
            if residence is not None and grow(use.end):
                residence = (residence[0], max(residence[1], use.end), residence[2])
                continue
            if residence is not None:
                done.append(residence)
                residence = None
            if home_from is None:
                # Born fast without a copy out: every use had to be kept.
                return False
            if not use.benefit.get(space, 0) or self.problem.copy_engine is None:
                continue
            earliest = max(home_from, done[-1][1] if done else buffer.lower)
            earliest = max(earliest, buffer.lower + (not buffer.input))
            self.copies += copies
            start = self._latest_copy(earliest, use.start, duration)
            if copies:
                del self.copies[-len(copies) :]
            if start is None:
                continue
            place = area.room(start, use.end, buffer.size, buffer.alignment)
            if place is None:
                continue
            residence = (start, use.end, place)
            copies.append(
                ScheduledCopy(
                    buffer=buffer.id,
                    source=self.problem.home,
                    target=space,
                    start=start,
                    end=start + duration,
                )
            )
        if residence is not None:
            done.append(residence)
        for start, end, offset in done:
            if buffer.size:
                area.taken.append((start, end, offset, offset + buffer.size))
            self.places.append(
                PlacedBuffer(buffer=buffer.id, offset=offset, space=space, start=start, end=end)
            )
        self.copies += copies
        return bool(done)

    def _birth(
        self, buffer: Buffer, space: str, until: int, duration: int, place: int
    ) -> tuple[int, list[ScheduledCopy]] | None:
        """When a tensor born at a place is in the home memory, and the copy that brings it there.

        A tensor of one use that is no output needs none. None when the copy finds no room.
        """
        assert buffer.lower is not None
        assert buffer.upper is not None
        if not buffer.output and len(buffer.uses) == 1:
            return until, []
        if self.problem.copy_engine is None:
            return None
        starts = {buffer.lower, *(c.end for c in self.copies if c.end > buffer.lower)}
        limit = buffer.upper if len(buffer.uses) == 1 else max(until, buffer.uses[1].start)
        area = self.spaces[space]
        for start in sorted(starts):
            if start + duration > limit:
                return None
            if not self._engine_free(start, duration):
                continue
            clear = all(
                r[1] <= buffer.lower
                or start + duration <= r[0]
                or r[3] <= place
                or place + buffer.size <= r[2]
                for r in area.taken
            )
            if not clear:
                return None
            copy = ScheduledCopy(
                buffer=buffer.id,
                source=space,
                target=self.problem.home,
                start=start,
                end=start + duration,
            )
            return start + duration, [copy]
        return None


class MappingSolver:
    """The steps of the pipeline for the mapping form."""

    def __init__(self, problem: MemoryProblem, run: Run) -> None:
        self.problem, self.run = problem, run
        self.used = [b for b in problem.buffers if any(any(u.benefit.values()) for u in b.uses)]
        #: The prices of the best bound, once found.
        self.prices: TensorPrices | None = None

    def greedy(self) -> None:
        """Everything at home; then the prefetcher in several orders, and shaken ones."""
        run = self.run
        run.offer(MemorySchedule(buffers=(), copies=()), "greedy:home")

        def density(b: Buffer) -> float:
            gain = sum(max(u.benefit.values(), default=0) for u in b.uses)
            return gain / max(1, b.size)

        def gain(b: Buffer) -> float:
            return float(sum(max(u.benefit.values(), default=0) for u in b.uses))

        def compact(b: Buffer) -> float:
            span = b.uses[-1].end - (b.lower or 0)
            return density(b) / max(1, span)

        for name, key in (("density", density), ("gain", gain), ("compact", compact)):
            order = sorted(self.used, key=lambda b: (-key(b), b.id))
            self._try(order, f"greedy:prefetch-{name}")
            if run.done():
                return
        rng = random.Random(run.seed)
        for _ in range(30):
            if run.clock.used() > 0.1 * run.clock.limit or run.done():
                return
            key = rng.choice((density, gain, compact))
            noise = rng.choice((0.1, 0.3, 1.0))
            keys = {b.id: key(b) * rng.lognormvariate(0.0, noise) for b in self.used}
            self._try(sorted(self.used, key=lambda b: -keys[b.id]), "greedy:prefetch-shaken")
            run.clock.spend(1e-5 * len(self.used) ** 1.5)

    def _try(self, order: list[Buffer], source: str) -> None:
        if not self.run.clock.expired():
            self.run.offer(Prefetcher(self.problem, self.run.clock).run(order), source)

    def bounds(self) -> None:
        """The knapsack bound over uses; then bounds by prices, for a part of the time."""
        run, problem = self.run, self.problem
        run.raise_bound(Bound(use_knapsack(problem), "use-knapsack", "execution_time"))
        if not run.objectives:
            return
        if run.incumbent is not None and len(self.used) <= FEW and engine.ready(run.clock):
            # What the model decides in a moment needs no prices.
            solve_levels(run, self._build, seconds=min(AT_ONCE, 0.2 * run.clock.remaining()))
            if run.done():
                return
        stop_at = 0.8 * run.clock.remaining() if run.clock.limit < math.inf else 0.0

        def goes_on() -> bool:
            run.clock.spend(1e-3)
            return not run.done() and run.clock.remaining() > stop_at

        # Everything at home is a mapping too.
        known = run.value()
        aim = problem.base_time if known is None else int(known)
        if (found := search_prices(problem, aim, goes_on)) is None:
            return
        value, prices = found
        run.raise_bound(Bound(value, "prices", "execution_time", prices.data()))
        if (tighter := search_tensor_prices(problem, prices, aim, goes_on)) is not None:
            value, own = tighter
            self.prices = own
            run.raise_bound(Bound(value, "tensor-prices", "execution_time", own.data()))

    def repair(self, schedule: MemorySchedule) -> None:
        """Serve first the tensors that the given schedule serves, in its order."""
        position: dict[str, int] = {}
        for place in schedule.buffers:
            position.setdefault(place.buffer, len(position))
        order = sorted(self.used, key=lambda b: position.get(b.id, len(position)))
        self._try(order, "repair")

    def search(self) -> None:
        """Neighbourhoods of the incumbent, then the whole model when it is small enough."""
        run = self.run
        if not engine.ready(run.clock):
            return
        if len(self.used) > 20:
            whole = len(self.used) <= MOST_WHOLE
            self._improve((0.25 if whole else 1.0) * run.clock.remaining())
        if len(self.used) <= MOST_WHOLE and not run.done():
            left = (1.0 if len(self.used) <= 80 else 0.5) * run.clock.remaining()
            # A better mapping settles more choices: most of the time is for a smaller model.
            first = left if self.prices is None or left < LEAST_SPLIT else 0.35 * left
            solve_levels(run, self._build, seconds=first)
            if first < left and not run.done():
                solve_levels(run, self._build, seconds=left - first)
        if not run.done():
            self._improve(run.clock.remaining())

    def _improve(self, seconds: float) -> None:
        if self.run.incumbent is None or not self.used or not self.run.objectives:
            return
        lns.search(
            self.run,
            [
                lns.Neighbourhood("window", self._window, 0.2),
                lns.Neighbourhood("tensors", self._tensors, 0.15),
            ],
            seconds=seconds,
        )

    def _build(self, level: int) -> Built:
        value, choices = self.run.value(), None
        if self.prices is not None and value is not None:
            choices = settled(self.prices, int(value))
        model = MappingModel(self.problem, self.run.clock, settled=choices)
        built = model.build()
        if self.run.incumbent is not None:
            model.hint(self.run.incumbent.schedule)
        return Built(model=built, extract=model.extract)

    def _window(
        self, schedule: MemorySchedule, size: float, rng: random.Random
    ) -> lns.SubModel | None:
        """Free the tensors that are used in a window of time."""
        times = sorted({u.start for b in self.used for u in b.uses})
        if not times:
            return None
        width = max(1, int(size * len(times)))
        at = rng.randrange(max(1, len(times) - width + 1))
        low, high = times[at], times[min(len(times) - 1, at + width)]
        free = [b.id for b in self.used if any(low <= u.start <= high for u in b.uses)]
        return self._sub(schedule, frozenset(free[: max(10, int(size * len(self.used)) + 20)]))

    def _tensors(
        self, schedule: MemorySchedule, size: float, rng: random.Random
    ) -> lns.SubModel | None:
        """Free random tensors."""
        count = min(len(self.used), max(5, int(size * len(self.used))))
        return self._sub(schedule, frozenset(b.id for b in rng.sample(self.used, count)))

    def _sub(self, schedule: MemorySchedule, free: frozenset[str]) -> lns.SubModel | None:
        if not free or self.run.incumbent is None:
            return None
        model = MappingModel(self.problem, self.run.clock, fixed=schedule, free=free)
        return lns.SubModel(model.build(), model.extract)
