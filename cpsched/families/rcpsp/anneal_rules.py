"""Shops with setups, workers, transport, batches: lists of tasks, improved by annealing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.families.rcpsp import kernels_rules as kernels
from cpsched.families.rcpsp.arrays import mode_costs
from cpsched.families.rcpsp.instance import FAR
from cpsched.families.rcpsp.schedule import schedule_of, state_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: The kernel's codes of the objectives.
CODES = {
    "makespan": 0,
    "weighted_tardiness": 1,
    "late_tasks": 2,
    "weighted_flow_time": 3,
    "max_lateness": 4,
    "earliness_tardiness": 5,
    "setup_cost": 6,
    "resource_cost": 7,
}
#: Slots of a resource, at most.
SLOTS = 64
#: Virtual seconds per task and change.
COST = 4e-8
#: Changes per task in the first cooling; every further one takes twice as many.
FIRST_CYCLE = 400
#: Steps of one cooling, and the share of the value that may be lost at its beginning.
STEPS, HEAT = 40, 0.05


def rules_of(instance: Instance, names: list[str]) -> kernels.Rules | None:
    """The kernel's arrays, or None when some rule or objective is not its own."""
    key = "rules " + " ".join(names)
    if key not in instance.extras:
        instance.extras[key] = _rules_of(instance, names)
    known: kernels.Rules | None = instance.extras[key]
    return known


def _known(instance: Instance, names: list[str]) -> bool:
    shop, edges = instance.shop, instance.edges
    if not instance.n or not names or any(name not in CODES for name in names):
        return False
    if any(instance.profiles) or instance.reservoirs or instance.selections:
        return False
    if instance.consumption.any() or instance.optional.any() or instance.pausable.any():
        return False
    if instance.fixed.any() or (instance.blocks_until >= 0).any() or (edges[:, 4] < FAR).any():
        return False
    if not shop.swap or shop.no_idle or shop.sequences or (instance.capacity > SLOTS).any():
        return False
    helped = [rule.resource for rule in instance.setups if rule.demand.any()]
    ovens = [batch.resource for batch in shop.batches]
    for several in (helped, ovens):
        if several and (instance.holds[:, several].sum(axis=1) > 1).any():
            return False
    # What a setup holds is a machine's time: batches do not fit in between.
    return not any(rule.demand[ovens].any() for rule in instance.setups)


def _rules_of(instance: Instance, names: list[str]) -> kernels.Rules | None:
    if not _known(instance, names):
        return None
    n, shop = instance.n, instance.shop
    groups = instance.disjunctive
    resources = len(instance.capacity) + len(groups)
    slots = np.concatenate([instance.capacity, np.ones(len(groups), np.int64)])
    member: list[list[int]] = [[] for _ in range(n)]
    for g, tasks in enumerate(groups, len(instance.capacity)):
        for i in tasks:
            member[i].append(g)
    use: list[tuple[int, int]] = []
    use_ptr = [0]
    for i in range(n):
        for m in range(int(instance.mode_start[i]), int(instance.mode_start[i + 1])):
            if instance.duration[m]:
                held = np.flatnonzero(instance.demand[m]).tolist()
                use += [(r, int(instance.demand[m, r])) for r in held]
                use += [(g, 1) for g in member[i]]
            use_ptr.append(len(use))
    before: list[list[tuple[int, int, int, int]]] = [[] for _ in range(n)]
    for i, j, kind, least, _ in instance.edges.tolist():
        if least > -FAR:
            before[j].append((i, kind, least, 0))
    for leg in shop.legs:
        before[leg.after].append((leg.before, 0, leg.lag, 1))
    after: list[list[int]] = [[] for _ in range(n)]
    for j, own in enumerate(before):
        for i, *_ in own:
            after[i].append(j)
    setup, batch = np.full((2, resources), -1, np.int64)
    states = max((len(rule.times) for rule in instance.setups), default=1)
    count = max(1, len(instance.setups))
    times, costs = np.zeros((2, count, states, states), np.int64)
    state = np.zeros((count, n), np.int64)
    needs: list[tuple[int, int]] = []
    needs_ptr = [0]
    for s, rule in enumerate(instance.setups):
        setup[rule.resource] = s
        size = len(rule.times)
        times[s, :size, :size], costs[s, :size, :size] = rule.times, rule.costs
        state[s] = np.maximum(rule.state, 0)
        needs += [(r, int(rule.demand[r])) for r in np.flatnonzero(rule.demand).tolist()]
        needs_ptr.append(len(needs))
    family = np.zeros((max(1, len(shop.batches)), n), np.int64)
    for b, rule_of in enumerate(shop.batches):
        batch[rule_of.resource], family[b] = b, rule_of.family
    several = np.flatnonzero(np.diff(instance.mode_start) > 1)
    made = kernels.Rules(
        pred_ptr=np.cumsum([0, *map(len, before)]),
        pred=np.array([row for own in before for row in own], np.int64).reshape(-1, 4),
        succ_ptr=np.cumsum([0, *map(len, after)]),
        succ=np.array([j for own in after for j in own], np.int64),
        mode_start=instance.mode_start,
        usable=instance.mode_usable,
        dur=instance.duration,
        place=shop.place,
        travel=shop.transport_times if shop.transport_times.size else np.zeros((1, 1), np.int64),
        use_ptr=np.array(use_ptr, np.int64),
        use=np.array(use, np.int64).reshape(-1, 2),
        slot=np.concatenate([[0], np.cumsum(slots)]).astype(np.int64),
        setup=setup,
        state=state,
        times=times,
        costs=costs,
        help_ptr=np.array(needs_ptr if len(needs_ptr) > 1 else [0, 0], np.int64),
        help=np.array(needs, np.int64).reshape(-1, 2),
        batch=batch,
        family=family,
        release=np.maximum(instance.release, 0),
        deadline=instance.deadline,
        due=instance.due,
        weight=instance.weight,
        early=instance.earliness_weight,
        mode_cost=mode_costs(instance),
        code=np.array([CODES[name] for name in names], np.int64),
        # Modes that other tasks must match stay as they are.
        options=several[:0] if shop.assignments else several,
    )
    # Lags may form circles; lists have none.
    return made if len(in_order(made, instance.head.astype(float))) == n else None


class RulesAnnealing:
    """Lists in cycles of cooling that double in length, from the incumbent's list."""

    def __init__(self, instance: Instance, rules: kernels.Rules, run: Run, seed: int) -> None:
        self.instance, self.rules = instance, rules
        self._room = kernels.room_of(rules)
        self._rng = np.array([(seed * 2654435761 + 211) & 0xFFFFFFFF])
        self._cycle, self._phase = FIRST_CYCLE * instance.n, 0
        self._count = 1
        self._offered: tuple[int, ...] | None = None
        self._seen: object = None
        self._level = run.level()
        self._order, self._mode = np.zeros((2, instance.n), np.int64)
        self._begin(run)

    def _begin(self, run: Run) -> None:
        """From the incumbent: tasks by start, what others wait for first."""
        assert run.incumbent is not None
        self._seen = run.incumbent
        state = state_of(self.instance, run.incumbent.schedule)
        self._mode[:] = state.mode
        self._order[:] = in_order(self.rules, np.array(state.start, float))
        self._room.value[:] = kernels.NEVER
        kernels.anneal(
            self.rules, self._order, self._mode, self._room, self._rng, 1, 0.0, run.level() or 0
        )

    def step(self, run: Run, seconds: float) -> None:
        """Try changes for about that time, or for that much counted work when deterministic."""
        level = run.level()
        if level is None:
            return
        per_move = COST * self.instance.n * jit.slowdown()
        if run.deterministic:
            self._count = max(1, int(seconds / per_move))
        if self._room.value[0] >= kernels.NEVER or level != self._level:
            self._level = level
            self._begin(run)  # the list missed a deadline, or others proved the level before
        heat = 1.0 - self._phase / self._cycle
        base = max(1.0, abs(float(self._room.best_value[level])))
        slack = HEAT * heat * heat * base if base < kernels.NEVER else 0.0
        began = time.perf_counter()
        kernels.anneal(
            self.rules,
            self._order,
            self._mode,
            self._room,
            self._rng,
            self._count,
            slack,
            level,
        )
        self._phase += self._count
        run.clock.spend(self._count * per_move)
        if not run.deterministic:
            took = max(1e-6, time.perf_counter() - began)
            fitting = int(self._count * seconds / took)
            self._count = max(1, min(2 * self._count, fitting, self._cycle // STEPS))
        self.offer(run)
        if self._phase >= self._cycle:
            self._phase, self._cycle = 0, 2 * self._cycle
            if run.incumbent is not self._seen and run.incumbent is not None:
                self._begin(run)

    @property
    def value(self) -> tuple[int, ...]:
        """Objectives of the best schedule."""
        return tuple(self._room.best_value.tolist())

    def offer(self, run: Run) -> None:
        """Offer the best schedule when it is new."""
        values = self.value
        if values[0] >= kernels.NEVER or (self._offered is not None and values >= self._offered):
            return
        self._offered = values
        starts, modes = self._room.best[0].tolist(), self._room.best[1].tolist()
        run.offer(lambda: schedule_of(self.instance, starts, modes), "annealing", values)


def in_order(rules: kernels.Rules, key: NDArray[np.float64]) -> IntArray:
    """Tasks by key, (n,), none before a task that it waits for."""
    import heapq

    pred_ptr, succ_ptr = rules.pred_ptr.tolist(), rules.succ_ptr.tolist()
    succ = rules.succ.tolist()
    left = np.diff(rules.pred_ptr).tolist()
    keys = key.tolist()
    ready = [(keys[i], i) for i in range(len(keys)) if pred_ptr[i] == pred_ptr[i + 1]]
    heapq.heapify(ready)
    order = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(i)
        for j in succ[succ_ptr[i] : succ_ptr[i + 1]]:
            left[j] -= 1
            if not left[j]:
                heapq.heappush(ready, (keys[j], j))
    return np.array(order, np.int64)


def first_lists(instance: Instance, run: Run) -> None:
    """Offer the schedules of a few rules, the best mode of each task as its shortest."""
    names = [o.name for o in run.objectives] or ["makespan"]
    rules = rules_of(instance, names)
    if rules is None or instance.shop.assignments:
        return
    due = np.where(instance.due < FAR, instance.due, instance.horizon)
    duration = instance.duration.tolist()
    mode = np.array([min(instance.modes(i), key=lambda m: duration[m]) for i in range(instance.n)])
    keys = (-instance.tail, due, instance.head)
    for key in keys:
        room = kernels.room_of(rules)
        order = in_order(rules, key.astype(float))
        run.clock.spend(COST * instance.n * jit.slowdown())
        kernels.anneal(rules, order, mode.copy(), room, np.array([1]), 1, 0.0, 0)
        if room.value[0] < kernels.NEVER:
            start, chosen = room.best[0].tolist(), room.best[1].tolist()
            run.offer(lambda: schedule_of(instance, start, chosen), "greedy:list")  # noqa: B023
        if run.done() or run.clock.used() > 0.1 * run.clock.limit:
            return
