"""Search for orders of operations: greedy, moves, ideals best-first, CP-SAT with recomputation."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import numpy as np

from cpsched.core import engine
from cpsched.core.clock import Clock
from cpsched.core.exact import Built, solve_levels
from cpsched.core.run import Run
from cpsched.errors import Infeasible, OutOfTime
from cpsched.families.memory.bound import operation_load
from cpsched.families.memory.check_ordering import loads, versions
from cpsched.families.memory.problem import Buffer, MemoryProblem, MemorySchedule, PlacedBuffer
from cpsched.result import Bound

#: Executions (operations times allowed repetitions) up to which CP-SAT orders them.
MOST_EXECUTIONS = 120

#: States that the search over ideals keeps at most.
MOST_IDEALS = 400_000


class Graph:
    """Operations by index: who reads what, and what is alive once a set of them is executed."""

    def __init__(self, problem: MemoryProblem, clock: Clock) -> None:
        self.problem, self.clock = problem, clock
        operations = problem.operations
        index = {b.id: i for i, b in enumerate(problem.buffers)}
        self.n = len(operations)
        self.size = [b.size for b in problem.buffers]
        self.names = [o.id for o in operations]
        self.reads = [[index[x] for x in o.inputs] for o in operations]
        self.writes = [[index[x] for x in o.outputs] for o in operations]
        self.producer = [-1] * len(index)
        for i, written in enumerate(self.writes):
            for x in written:
                self.producer[x] = i
        self.readers: list[list[int]] = [[] for _ in index]
        for i, read in enumerate(self.reads):
            for x in read:
                self.readers[x].append(i)
        self.before = [
            sorted({self.producer[x] for x in read if self.producer[x] >= 0}) for read in self.reads
        ]
        self.after: list[list[int]] = [[] for _ in range(self.n)]
        for i, earlier in enumerate(self.before):
            for j in earlier:
                self.after[j].append(i)
        self.output = [b.output for b in problem.buffers]
        #: Alive before anything is executed: graph inputs that are read, or outputs themselves.
        self.initial = sum(
            self.size[x]
            for x in range(len(index))
            if self.producer[x] < 0 and (self.readers[x] or self.output[x])
        )

    def order_by(self, choose: Callable[[list[int], list[int], list[int]], int]) -> list[int]:
        """Execute ready operations one by one as ``choose(ready, need, left)`` says.

        ``need[i]`` is what executing ``i`` adds, ``left[i]`` what remains added after it.

        Raises
        ------
        OutOfTime
            When the clock runs out.
        """
        waiting = [len(b) for b in self.before]
        open_reads = [len(r) for r in self.readers]
        ready = [i for i in range(self.n) if not waiting[i]]
        out: list[int] = []
        while ready:
            self.clock.check()
            need = [sum(self.size[x] for x in self.writes[i]) for i in ready]
            left = []
            for i, grown in zip(ready, need, strict=True):
                freed = sum(
                    self.size[x] for x in self.reads[i] if open_reads[x] == 1 and not self.output[x]
                )
                dead = sum(
                    self.size[x]
                    for x in self.writes[i]
                    if not self.readers[x] and not self.output[x]
                )
                left.append(grown - freed - dead)
            k = choose(ready, need, left)
            i = ready.pop(k)
            out.append(i)
            for x in self.reads[i]:
                open_reads[x] -= 1
            for j in self.after[i]:
                waiting[j] -= 1
                if not waiting[j]:
                    ready.append(j)
        return out

    def first_order(self) -> list[int]:
        """The order nearest to the file's: of the ready operations always the first."""
        waiting = [len(b) for b in self.before]
        ready = [i for i in range(self.n) if not waiting[i]]
        out: list[int] = []
        while ready:
            i = heapq.heappop(ready)
            out.append(i)
            for j in self.after[i]:
                waiting[j] -= 1
                if not waiting[j]:
                    heapq.heappush(ready, j)
        return out

    def peak(self, order: list[int]) -> int:
        """Largest load of an order without repetitions."""
        return max(loads(self.problem, [self.names[i] for i in order]), default=0)


class OrderingSolver:
    """The steps of the pipeline for the ordering form."""

    def __init__(self, problem: MemoryProblem, run: Run) -> None:
        self.problem, self.run = problem, run
        self.graph = Graph(problem, run.clock)
        free = {b.id for b in problem.buffers if b.recompute}
        self.recompute = problem.executions > 1 and any(
            o.outputs and free.issuperset(o.outputs) for o in problem.operations
        )
        self.bound = operation_load(problem)
        capacity = problem.capacity
        if capacity is not None and self.bound[0] > capacity:
            raise Infeasible(
                f"operation {self.bound[1]} alone needs {self.bound[0]} bytes, above the capacity "
                f"of {capacity}",
                "operation",
            )
        self.best: tuple[int, list[int]] | None = None

    # ------------------------------------------------------------------ steps

    def bounds(self) -> None:
        """Each operation's own need; all operations' work."""
        value, name = self.bound
        for objective in ("peak_memory", "height"):
            self._raise(Bound(value, "operation", objective, {"operation": name}))
        work = sum(o.duration for o in self.problem.operations)
        self._raise(Bound(work, "work", "execution_time"))

    def greedy(self) -> None:
        """File order, smallest growth, smallest need, depth first, and shaken ones."""
        rng = random.Random(self.run.seed)

        def growth(ready: list[int], need: list[int], left: list[int]) -> int:
            return min(range(len(ready)), key=lambda k: (left[k], need[k], ready[k]))

        def latest(ready: list[int], need: list[int], left: list[int]) -> int:
            return len(ready) - 1

        def shaken(ready: list[int], need: list[int], left: list[int]) -> int:
            return min(range(len(ready)), key=lambda k: left[k] * rng.uniform(0.5, 1.5))

        self._try(self.graph.first_order(), "greedy:file")
        for name, choose in (("growth", growth), ("depth", latest)):
            if self.run.done():
                return
            self._try(self.graph.order_by(choose), f"greedy:{name}")
        for _ in range(20):
            if self.run.done() or self.run.clock.used() > 0.1 * self.run.clock.limit:
                return
            self.run.clock.spend(1e-5 * self.graph.n)
            self._try(self.graph.order_by(shaken), "greedy:shaken")

    def repair(self, schedule: MemorySchedule) -> None:
        """Execute ready operations in the order in which the given schedule first does."""
        position = {name: k for k, name in reversed(list(enumerate(schedule.order)))}
        last = len(position)

        def given(ready: list[int], need: list[int], left: list[int]) -> int:
            names = self.graph.names
            return min(range(len(ready)), key=lambda k: position.get(names[ready[k]], last))

        self._try(self.graph.order_by(given), "repair")

    def search(self) -> None:
        """Ideals (exact without recomputation), CP-SAT, then moves."""
        run = self.run
        if self.graph.n <= 400:
            self._ideals()
        executions = self.graph.n * (self.problem.executions if self.recompute else 1)
        if not run.done() and executions <= MOST_EXECUTIONS and engine.ready(run.clock):
            solve_levels(run, self._build, seconds=0.7 * run.clock.remaining())
        self._moves()

    # ------------------------------------------------------------------ offers

    def _raise(self, bound: Bound) -> None:
        if any(o.name == bound.objective for o in self.run.objectives):
            self.run.raise_bound(bound)

    def _try(self, order: list[int], source: str) -> None:
        if self.run.clock.expired() and self.run.incumbent is not None:
            return
        peak = self.graph.peak(order)
        if self.best is None or peak < self.best[0]:
            self.best = (peak, order)
        self._offer([self.graph.names[i] for i in order], source)

    def _offer(self, order: list[str], source: str) -> None:
        """Allocate for an order and offer the result, when it can beat the incumbent."""
        run, problem = self.run, self.problem
        peak = max(loads(problem, order), default=0)
        if problem.capacity is not None and peak > problem.capacity:
            return
        duration = {o.id: o.duration for o in problem.operations}
        least = {
            "peak_memory": peak,
            "height": peak,
            "execution_time": sum(duration[name] for name in order),
        }
        if run.incumbent is not None:
            values = tuple(least[o.name] for o in run.objectives)
            if values >= run.incumbent.values:
                return
        schedule = allocate(problem, order, run, goal=peak)
        if schedule is not None:
            run.offer(schedule, source)

    # ------------------------------------------------------------------ exact and local search

    def _ideals(self) -> None:
        """Best-first search over sets of executed operations, by the largest load on the way.

        What is alive depends on the set alone, so the first time that the full set is reached its
        peak is the least of all orders without repetitions.
        """
        g, run = self.graph, self.run
        full = (1 << g.n) - 1
        need = [sum(1 << j for j in b) for b in g.before]
        readers = [sum(1 << j for j in r) for r in g.readers]
        ceiling = self.best[0] if self.best is not None else None
        start = 0
        heap = [(g.initial, 0, start)]
        seen: dict[int, tuple[int, int]] = {start: (g.initial, -1)}
        alive: dict[int, int] = {start: g.initial}
        closed: set[int] = set()
        steps = 0
        while heap:
            peak, _, done = heapq.heappop(heap)
            if done in closed:
                continue
            closed.add(done)
            steps += 1
            if steps % 64 == 0:
                run.clock.spend(64 * 2e-5)
                if run.done() or len(seen) > MOST_IDEALS:
                    return
            if done == full:
                self._settled(peak, seen)
                return
            for i in range(g.n):
                bit = 1 << i
                if done & bit or need[i] & ~done:
                    continue
                during = alive[done] + sum(g.size[x] for x in g.writes[i])
                reached = max(peak, during)
                if ceiling is not None and reached > ceiling:
                    continue
                after = done | bit
                known = seen.get(after)
                if known is not None and known[0] <= reached:
                    continue
                if known is None:
                    gone = sum(
                        g.size[x]
                        for x in {*g.reads[i], *g.writes[i]}
                        if not readers[x] & ~after and not g.output[x]
                    )
                    alive[after] = during - gone
                seen[after] = (reached, i)
                heapq.heappush(heap, (reached, -after.bit_count(), after))

    def _settled(self, peak: int, seen: dict[int, tuple[int, int]]) -> None:
        order: list[int] = []
        state = (1 << self.graph.n) - 1
        while state:
            i = seen[state][1]
            order.append(i)
            state &= ~(1 << i)
        order.reverse()
        self._try(order, "ideals")
        if self.recompute:
            return
        capacity = self.problem.capacity
        if capacity is not None and peak > capacity:
            self.run.claim_infeasible(
                "ideals", f"every order needs {peak} bytes at some step, above {capacity}"
            )
            return
        for objective in ("peak_memory", "height"):
            self._raise(Bound(peak, "ideals", objective))

    def _build(self, level: int) -> Built:
        from cpsched.families.memory.ordering_model import OrderingModel

        run = self.run
        name = run.objectives[level].name if run.objectives else ""
        limit = self.problem.capacity
        fixed = None
        if run.incumbent is not None:
            for objective, value in zip(run.objectives, run.incumbent.values, strict=True):
                if objective.name == name:
                    break
                if objective.name == "peak_memory":
                    limit = int(value) if limit is None else min(limit, int(value))
                if objective.name == "execution_time":
                    fixed = int(value)
        model = OrderingModel(self.problem, limit, fixed)
        hint = None if run.incumbent is None else run.incumbent.schedule.order

        def extract(values: list[int]) -> MemorySchedule:
            order = model.order(values)
            peak = max(loads(self.problem, order), default=0)
            schedule = allocate(self.problem, order, run, goal=peak)
            if schedule is None:
                # Nothing better than the incumbent can be made of this order.
                if run.incumbent is None:
                    raise OutOfTime("the order found could not be allocated in time")
                return run.incumbent.schedule  # type: ignore[no-any-return]
            return schedule

        return Built(model=model.build(name, hint), extract=extract)

    def _moves(self) -> None:
        """Move single operations within what their neighbours in the graph allow."""
        run, g = self.run, self.graph
        if self.best is None or (run.objectives and run.objectives[0].name == "execution_time"):
            return
        rng = random.Random(run.seed + 1)
        peak, order = self.best
        while not run.done():
            run.clock.spend(2e-6 * g.n)
            position = {i: k for k, i in enumerate(order)}
            i = order[rng.randrange(g.n)]
            low = max((position[j] for j in g.before[i]), default=-1) + 1
            high = min((position[j] for j in g.after[i]), default=g.n) - 1
            if low >= high:
                if g.n <= 1:
                    return
                continue
            trial = [j for j in order if j != i]
            trial.insert(rng.randint(low, high), i)
            reached = g.peak(trial)
            if reached <= peak:
                order = trial
                if reached < peak:
                    peak = reached
                    self._try(trial, "moves")


def allocate(
    problem: MemoryProblem, order: list[str], run: Run, goal: int
) -> MemorySchedule | None:
    """Places for the lifetimes of an order, as low as a short search gets; None without a place."""
    from cpsched.families.memory.allocator import Allocator
    from cpsched.families.memory.prepare import UNLIMITED, prepare

    known = {b.id: b for b in problem.buffers}
    lives = versions(problem, order)
    buffers = tuple(
        Buffer(
            id=str(k),
            size=known[name].size,
            lower=start,
            upper=end,
            alignment=known[name].alignment,
            offset=known[name].offset,
        )
        for k, (name, start, end) in enumerate(lives)
    )
    found: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    try:
        instance = prepare(MemoryProblem(buffers=buffers, capacity=problem.capacity), run.clock)
    except Infeasible:
        return None
    allocator = Allocator(
        instance,
        run.clock,
        seed=run.seed,
        workers=1,
        take=lambda offsets, height, source: found.append(offsets),
    )
    allocator.goal = -(-goal // instance.unit)
    allocator.greedy()
    allocator.search(seconds=min(0.5, 0.1 * run.clock.remaining()))
    limit = instance.capacity if problem.capacity is not None else UNLIMITED
    if not found or allocator.best > limit:
        return None
    placed = instance.schedule(found[-1])
    return MemorySchedule(
        buffers=tuple(
            PlacedBuffer(buffer=name, offset=place.offset, start=start, end=end)
            for (name, start, end), place in zip(lives, placed.buffers, strict=True)
        ),
        order=tuple(order),
        height=placed.height,
    )
