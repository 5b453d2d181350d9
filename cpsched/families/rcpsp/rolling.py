"""Rolling horizon for long job shops and flexible shops: overlapping windows, from left to right.

A window holds the next operations in the order of their starts. What comes before it stays in
time, what comes after keeps its machines and orders and is summed up by the longest paths behind
it: with them the window's optimum is the makespan of the whole schedule. The next window begins
within this one. Operations that the last solution left where they were are *stable* and keep
machine and order, unless they are critical (after the idea of learned rolling horizons,
arXiv 2604.10073, without the learning).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.core import engine
from cpsched.families.rcpsp import kernels_shop_graph
from cpsched.families.rcpsp.schedule import schedule_of, state_of
from cpsched.result import Incumbent

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance
    from cpsched.families.rcpsp.shop import Jobs

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Operations of a window, and by how many the next one begins later.
WINDOW, STEP = 80, 30
#: Seconds for one window.
SECONDS = 0.6


class RollingHorizon:
    """Windows over the incumbent, one per step; at the end it begins again."""

    def __init__(self, instance: Instance, jobs: Jobs, run: Run) -> None:
        self.instance, self.jobs = instance, jobs
        self._order = kernels_shop_graph.order_of(jobs.n, jobs.machines)
        self._work = kernels_shop_graph.work_of(jobs.n, len(jobs.shop.dur), run.seed)
        self._last = np.zeros(jobs.machines, np.int64)
        self._position = 0
        self._stable = np.zeros(jobs.n, bool)
        self._seen: Incumbent | None = None
        self.value = 2**62

    def step(self, run: Run, workers: int) -> bool:
        """Solve the next window; whether the schedule got shorter."""
        self._follow(run)
        head, length = self._work.head, self._work.length
        line = np.lexsort((self._work.pos, head))
        if self._position >= self.jobs.n:
            self._position = 0
            self._stable[:] = False
        chosen = line[self._position : self._position + WINDOW]
        critical = head + self._work.tail == self.value
        kept = self._stable & ~critical
        found = self._solve(run, line, chosen, kept, workers)
        self._position += STEP
        if found is None:
            return False
        before = self._neighbours(chosen)
        starts, modes = found
        # Operations before and after the window keep their places around it.
        rank = np.empty(self.jobs.n, np.int64)
        rank[line] = np.arange(self.jobs.n)
        inside = np.zeros(self.jobs.n, bool)
        inside[chosen] = True
        first = int(rank[chosen[0]])
        key = np.where(rank < first, 0, np.where(inside, 1, 2))
        time = np.where(inside, starts, 0)
        sequence = np.lexsort((rank, length_first(length, inside), time, key))
        mode = self._order.mode.copy()
        mode[chosen] = modes[chosen]
        old = self.value
        self._load(sequence, mode)
        self._stable[:] = False
        self._stable[chosen] = (self._neighbours(chosen) == before).all(axis=1)
        if self.value < old:
            start, chosen_modes = self._work.head.tolist(), mode.tolist()
            run.offer(
                lambda: schedule_of(self.instance, start, chosen_modes),
                "rolling-horizon",
                (self.value,),
            )
        return self.value < old

    def _neighbours(self, chosen: IntArray) -> IntArray:
        """Mode and machine neighbours of operations, (len(chosen), 3)."""
        order = self._order
        return np.stack([order.mode[chosen], order.prev[chosen], order.next[chosen]], axis=1)

    def _follow(self, run: Run) -> None:
        """Begin from the incumbent when others found a better schedule."""
        incumbent = run.incumbent
        assert incumbent is not None
        if incumbent is self._seen or incumbent.values[0] >= self.value:
            return
        self._seen = incumbent
        state = state_of(self.instance, incumbent.schedule)
        mode = np.array(state.mode, np.int64)
        start = np.array(state.start, np.int64)
        ends = start + self.instance.duration[mode]
        self._load(np.lexsort((-self.instance.tail, ends, start)), mode)
        self._stable[:] = False

    def _load(self, sequence: IntArray, mode: IntArray) -> None:
        kernels_shop_graph.load(self.jobs.shop, sequence, mode, self._order, self._last)
        self.value = int(kernels_shop_graph.evaluate(self.jobs.shop, self._order, self._work))

    def _solve(
        self, run: Run, line: IntArray, chosen: IntArray, kept: BoolArray, workers: int
    ) -> tuple[IntArray, IntArray] | None:
        """Starts and modes of the window's operations, (n,), at most as long as before."""
        from ortools.sat.python import cp_model

        shop, order, work = self.jobs.shop, self._order, self._work
        duration = shop.dur.tolist()
        head, tail = work.head, work.tail
        inside = set(chosen.tolist())
        ready, rest = self._ends_before(line), self._rests_behind(line, len(chosen))
        cp = cp_model.CpModel()
        limit = self.value
        whole = cp.new_int_var(0, limit, "")
        cp.add_hint(whole, limit)
        start: dict[int, Any] = {}
        end: dict[int, Any] = {}
        literals: dict[int, dict[int, Any]] = {}
        on: dict[int, list[Any]] = {}
        lasts: dict[int, list[Any]] = {}
        for i in chosen.tolist():
            here = int(order.mode[i])
            modes = [here] if kept[i] else self.instance.modes(i)
            j, k = int(shop.before[i]), int(shop.after[i])
            low = 0 if j < 0 or j in inside else int(head[j] + work.length[j])
            start[i] = cp.new_int_var(low, limit, "")
            cp.add_hint(start[i], int(head[i]))
            if len(modes) == 1:
                end[i] = start[i] + duration[modes[0]]
                literals[i] = {}
            else:
                options = {m: cp.new_bool_var("") for m in modes}
                cp.add_exactly_one(list(options.values()))
                for m, literal in options.items():
                    cp.add_hint(literal, m == here)
                end[i] = start[i] + cp_model.LinearExpr.weighted_sum(
                    list(options.values()), [duration[m] for m in modes]
                )
                literals[i] = options
            for m in modes:
                machine = int(shop.machine[m])
                if machine < 0:
                    continue
                choice = literals[i].get(m)
                finish = start[i] + duration[m]
                if choice is None:
                    interval = cp.new_fixed_size_interval_var(start[i], duration[m], "")
                    cp.add(start[i] >= ready[machine])
                    cp.add(finish + rest[machine] <= whole)
                else:
                    interval = cp.new_optional_fixed_size_interval_var(
                        start[i], duration[m], choice, ""
                    )
                    cp.add(start[i] >= ready[machine]).only_enforce_if(choice)
                    cp.add(finish + rest[machine] <= whole).only_enforce_if(choice)
                on.setdefault(machine, []).append(interval)
                lasts.setdefault(machine, []).append((finish, choice))
            if j in inside:
                cp.add(start[i] >= end[j])
            if k < 0 or k not in inside:
                cp.add(end[i] + (0 if k < 0 else int(tail[k])) <= whole)
        for intervals in on.values():
            cp.add_no_overlap(intervals)
        last_kept: dict[int, int] = {}
        for i in chosen.tolist():
            machine = int(shop.machine[order.mode[i]])
            if kept[i] and machine >= 0:
                if machine in last_kept:
                    cp.add(start[i] >= end[last_kept[machine]])
                last_kept[machine] = i
        # Among equals, machines that are free early leave room for the next window.
        early = []
        for finishes in lasts.values():
            last = cp.new_int_var(0, limit, "")
            early.append(last)
            for finish, choice in finishes:
                added = cp.add(last >= finish)
                if choice is not None:
                    added.only_enforce_if(choice)
        cp.minimize(len(early) * 10 * whole + cp_model.LinearExpr.sum(early))
        outcome = engine.solve(
            cp,
            run.clock,
            workers=workers,
            seed=run.seed,
            seconds=SECONDS,
            parameters={"linearization_level": 0},
            stop_when=run.done,
        )
        if outcome.values is None:
            return None
        starts, mode = np.zeros(self.jobs.n, np.int64), order.mode.copy()
        for i in chosen.tolist():
            starts[i] = outcome.values[start[i].index]
            for m, literal in literals[i].items():
                if outcome.values[literal.index]:
                    mode[i] = m
        return starts, mode

    def _ends_before(self, line: IntArray) -> list[int]:
        """When each machine is free of what comes before the window."""
        ready = [0] * self.jobs.machines
        for i in line[: self._position].tolist():
            machine = int(self.jobs.shop.machine[self._order.mode[i]])
            if machine >= 0:
                end = int(self._work.head[i] + self._work.length[i])
                ready[machine] = max(ready[machine], end)
        return ready

    def _rests_behind(self, line: IntArray, count: int) -> list[int]:
        """The longest path from each machine's first operation behind the window."""
        rest = [0] * self.jobs.machines
        for i in line[self._position + count :].tolist():
            machine = int(self.jobs.shop.machine[self._order.mode[i]])
            if machine >= 0:
                rest[machine] = max(rest[machine], int(self._work.tail[i]))
        return rest


def length_first(length: IntArray, inside: BoolArray) -> IntArray:
    """Operations without duration come first among those that start together."""
    return np.where(inside & (length > 0), 1, 0)
