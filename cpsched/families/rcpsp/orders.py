"""Neighbourhoods of shops: some operations may change their order on the machines, others not.

A *unit shop* has resources that serve one task at a time (machines, and the jobs of an open shop).
In a neighbourhood some tasks are free; two tasks of a machine keep their order unless both are
free, so that a small part of the disjunctions remains to be decided while every start may move.
Where free tasks *float*, they may also take any place among those that keep their order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.core import engine
from cpsched.core.lns import Neighbourhood, SubModel
from cpsched.families.rcpsp.graph import components
from cpsched.families.rcpsp.problem import RcpspSchedule
from cpsched.families.rcpsp.schedule import State, schedule_of, state_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Above this many tasks a neighbourhood's model takes too long to build.
LARGEST = 1500
#: Seconds of one neighbourhood of `Wander`; how many without a gain it bears, then how much longer
#: a schedule may get, and how often before it begins again.
CALL, WANDERED, LONGER, KICKS = 0.5, 20, 1.03, 4
#: CP-SAT parameters of a neighbourhood.
PARAMETERS: dict[str, Any] = {
    "linearization_level": 0,
    "use_strong_propagation_in_disjunctive": True,
    "use_dynamic_precedence_in_disjunctive": True,
}


@dataclass(frozen=True)
class UnitShop:
    """A shop whose resources serve one task at a time.

    ``machine`` (M,) is the one of each mode, -1 for none; ``groups`` are further sets of tasks
    that never overlap; ``job`` (n,) numbers the chains, or the groups of an open shop.
    """

    machine: IntArray
    groups: tuple[tuple[int, ...], ...]
    job: IntArray
    machines: int


def unit_shop_of(instance: Instance) -> UnitShop | None:
    """The unit shop that an instance is, or None.

    Tasks may have releases, deadlines, minimum lags and modes; they may block and swap. Everything
    else (calendars, reservoirs, setups, optional tasks, maximum lags) is left to other searches.
    """
    return None if instance.shop else any_unit_shop_of(instance)


def any_unit_shop_of(instance: Instance) -> UnitShop | None:
    """The same, also where blocking tasks must not swap."""
    if "unit_shop" not in instance.extras:
        instance.extras["unit_shop"] = _unit_shop_of(instance)
    known: UnitShop | None = instance.extras["unit_shop"]
    return known


def _unit_shop_of(instance: Instance) -> UnitShop | None:
    n = instance.n
    edges = instance.edges
    rules = instance.setups or instance.reservoirs or instance.selections or any(instance.profiles)
    if rules or replace(instance.shop, swap=True) or not n or n > LARGEST:
        return None
    if instance.consumption.any():
        return None
    if instance.optional.any() or instance.pausable.any():
        return None
    if any(task.fixed is not None for task in instance.problem.tasks):
        return None
    if edges[:, 2].any() or (edges[:, 3] < 0).any() or (edges[:, 4] < 2**59).any():
        return None
    used = instance.demand[instance.mode_usable]
    if (instance.capacity[used.any(axis=0)] != 1).any() or (used.sum(axis=1) > 1).any():
        return None
    if not len(instance.capacity):
        return None
    machine = np.where(instance.demand.any(axis=1), instance.demand.argmax(axis=1), -1)
    links = [(int(a), int(b)) for a, b in edges[:, :2]]
    links += [(group[0], i) for group in instance.disjunctive for i in group[1:]]
    job = components(n, links)
    return UnitShop(machine.astype(np.int64), instance.disjunctive, job, len(instance.capacity))


def order_neighbourhoods(
    instance: Instance, shop: UnitShop, tasks: int = 60, floating: int = 0
) -> list[Neighbourhood]:
    """Free tasks by time, by machine, by job, and by time on some machines; ``tasks`` at first.

    With ``floating``, about so many tasks float in further neighbourhoods: those of a few jobs, or
    of some time on some machines. For the makespan alone.
    """
    known: dict[int, State] = {}

    def build(
        choose: Callable[..., BoolArray],
        floats: bool,
        schedule: RcpspSchedule,
        size: float,
        rng: random.Random,
    ) -> SubModel | None:
        if id(schedule) not in known:
            known.clear()
            known[id(schedule)] = state_of(instance, schedule)
        state = known[id(schedule)]
        free = choose(shop, state, size, rng)
        return sub_model(instance, shop, state, free, max(state.end) - 1, floats)

    kinds = {"time": _by_time, "machines": _by_machine, "jobs": _by_job, "corner": _corner}
    size = min(1.0, max(0.15, tasks / instance.n))
    made = [Neighbourhood(name, partial(build, kinds[name], False), size) for name in kinds]
    if floating:
        share = min(1.0, floating / instance.n)
        made += [
            Neighbourhood(f"insert-{name}", partial(build, kinds[name], True), share)
            for name in ("jobs", "time")
        ]
    return made


class Wander:
    """Neighbourhoods solved one after the other, each from the result of the one before.

    A result that is as long as what it came from is kept as well, so that the search crosses
    plateaus. After many results in a row without a gain the next one may be a little longer; after
    a few such steps the search begins again from the incumbent.
    """

    def __init__(self, instance: Instance, shop: UnitShop, tasks: int, seed: int) -> None:
        self.instance, self.shop = instance, shop
        self._rng = random.Random(seed)
        self._size = {kind: min(1.0, tasks / instance.n) for kind in (_by_job, _by_time, _corner)}
        self._state: State | None = None
        self._idle = self._kicks = 0

    def step(self, run: Run, seconds: float) -> None:
        """One neighbourhood; most end long before their limit."""
        incumbent = run.incumbent
        assert incumbent is not None
        kick = self._idle > WANDERED
        if self._state is None or (kick and self._kicks >= KICKS):
            self._state, self._kicks = state_of(self.instance, incumbent.schedule), 0
        state, rng = self._state, self._rng
        kind = rng.choice(list(self._size))
        size = self._size[kind]
        free = kind(self.shop, state, size, rng)
        longest = max(state.end)
        limit = int(longest * LONGER) if kick else longest
        model = sub_model(self.instance, self.shop, state, free, limit, True, not kick)
        if model is None:
            self._idle += 1
            return
        outcome = engine.solve(
            model.model,
            run.clock,
            workers=1,
            seed=rng.randrange(2**30),
            seconds=CALL,
            parameters=PARAMETERS,
            stop_when=run.done,
        )
        if outcome.status == "OPTIMAL":
            self._size[kind] = min(1.0, 1.05 * size)
        elif outcome.values is None:
            self._size[kind] = max(2.0 / self.instance.n, 0.93 * size)
        self._idle += 1
        if outcome.values is None:
            return
        schedule = model.extract(outcome.values)
        self._state = state_of(self.instance, schedule)
        if kick:
            self._idle, self._kicks = 0, self._kicks + 1
        if max(self._state.end) < longest:
            self._idle = 0
        value = run.value()
        if value is not None and max(self._state.end) < value:
            self._kicks = 0
            run.offer(schedule, "lns:wander", model=model.model)


def _by_time(shop: UnitShop, state: State, size: float, rng: random.Random) -> BoolArray:
    start, end = np.array(state.start), np.array(state.end)
    span = int(end.max())
    width = max(1, int(size * span))
    left = rng.randint(-width // 2, max(0, span - width // 2))
    return np.asarray((end > left) & (start < left + width), bool)


def _by_machine(shop: UnitShop, state: State, size: float, rng: random.Random) -> BoolArray:
    count = max(2, round(size * shop.machines))
    chosen = rng.sample(range(shop.machines), min(count, shop.machines))
    return np.isin(shop.machine[np.array(state.mode)], chosen)


def _by_job(shop: UnitShop, state: State, size: float, rng: random.Random) -> BoolArray:
    jobs = int(shop.job.max()) + 1
    count = max(2, round(size * jobs))
    return np.isin(shop.job, rng.sample(range(jobs), min(count, jobs)))


def _corner(shop: UnitShop, state: State, size: float, rng: random.Random) -> BoolArray:
    wider = min(1.0, 2.0 * size)
    on = _by_machine(shop, state, max(0.5, wider), rng)
    return on & _by_time(shop, state, wider, rng)


def sub_model(
    instance: Instance,
    shop: UnitShop,
    state: State,
    free: BoolArray,
    limit: int,
    floats: bool = False,
    shortest: bool = False,
) -> SubModel | None:
    """The model in which free tasks may change their order and modes to end by ``limit``.

    None when a task's window is empty. Where they float, they pass tasks that are not free. With
    ``shortest`` the makespan is minimised; otherwise any solution will do.

    Where blocking tasks must not swap, a time unit has a step for every task, and a machine is free
    one step after the task on it has moved on: so moves within one unit have an order. A task that
    stays on its machine moves nowhere, which free modes leave out.
    """
    from ortools.sat.python import cp_model

    cp = cp_model.CpModel()
    high = np.minimum(limit - instance.tail, instance.deadline - instance.tail)
    steps = 1 if instance.shop.swap else instance.n + 1
    duration = (steps * instance.duration).tolist()
    followed = set(instance.edges[:, 0].tolist())
    start: list[Any] = []
    end: list[Any] = []
    literals: list[dict[int, Any]] = []
    for i in range(instance.n):
        modes = instance.modes(i) if free[i] else [state.mode[i]]
        low, last = int(instance.head[i]), int(high[i])
        if len(instance.modes(i)) == 1:
            last = min(last, int(instance.deadline[i] - instance.duration[modes[0]]))
        if low > last:
            return None
        var = cp.new_int_var(steps * low, steps * (last + 1) - 1, "")
        start.append(var)
        if len(modes) == 1:
            literals.append({})
            end.append(var + duration[modes[0]])
        else:
            chosen = {m: cp.new_bool_var("") for m in modes}
            cp.add_exactly_one(list(chosen.values()))
            literals.append(chosen)
            taken = cp_model.LinearExpr.weighted_sum(
                list(chosen.values()), [duration[m] for m in modes]
            )
            end.append(var + taken)
        if instance.deadline[i] < 2**59 or i not in followed:
            cp.add(end[i] < steps * (min(limit, int(instance.deadline[i])) + 1))
    for a, b, _, lag, _ in instance.edges.tolist():
        cp.add(start[b] >= end[a] + steps * lag)
    if shortest:
        makespan = cp.new_int_var(0, limit, "")
        for i in range(instance.n):
            if i not in followed:
                cp.add(end[i] < steps * (makespan + 1))
        cp.minimize(makespan)
    until = instance.blocks_until.tolist()

    def moves(i: int, j: int) -> int:
        """Steps from the start of the next task to the time when this one's machine is free."""
        machine = shop.machine[[state.mode[i], state.mode[j]]]
        stays = not literals[i] and not literals[j] and machine[0] == machine[1]
        return 0 if steps == 1 or stays else 1

    held = [end[i] if j < 0 else start[j] + moves(i, j) for i, j in enumerate(until)]

    def interval(i: int, literal: Any = None, length: int = 0) -> Any:
        if literal is not None and until[i] < 0:
            return cp.new_optional_fixed_size_interval_var(start[i], length, literal, "")
        if not literals[i] and until[i] < 0:
            return cp.new_fixed_size_interval_var(start[i], duration[state.mode[i]], "")
        size = cp.new_int_var(0, steps * (limit + 1), "")
        if literal is not None:
            return cp.new_optional_interval_var(start[i], size, held[i], literal, "")
        return cp.new_interval_var(start[i], size, held[i], "")

    users: list[list[int]] = [[] for _ in range(shop.machines)]
    for i in range(instance.n):
        if not literals[i] and duration[state.mode[i]]:
            users[int(shop.machine[state.mode[i]])].append(i)
    lines = [(members, True) for members in users]
    lines += [([i for i in group if duration[state.mode[i]]], False) for group in shop.groups]
    arrivals: dict[int, list[Any]] = {}
    for i, chosen in enumerate(literals):
        for m, literal in chosen.items():
            if duration[m]:
                k = int(shop.machine[m])
                arrivals.setdefault(k, []).append(interval(i, literal, duration[m]))
    for k, (members, own) in enumerate(lines):
        ordered = sorted(members, key=lambda i: (state.start[i], state.end[i]))
        joining = arrivals.get(k, []) if own else []
        leave = held if own else end
        if floats:
            for i, j in pairwise([i for i in ordered if not free[i]]):
                cp.add(start[j] >= leave[i])
        else:
            _keep_order(cp, ordered, free, start, leave)
        if joining or (floats and any(free[i] for i in ordered)):
            cp.add_no_overlap([*(interval(i) for i in ordered), *joining])
            continue
        for run in [] if floats else _runs(ordered, free):
            cp.add_no_overlap([interval(i) for i in run])

    def extract(values: list[int]) -> RcpspSchedule:
        modes = list(state.mode)
        for i, chosen in enumerate(literals):
            for m, literal in chosen.items():
                if values[literal.index]:
                    modes[i] = m
        return schedule_of(instance, [values[v.index] // steps for v in start], modes)

    return SubModel(cp, extract, PARAMETERS)


def _keep_order(
    cp: Any, ordered: Sequence[int], free: BoolArray, start: list[Any], leave: list[Any]
) -> None:
    """Each task stays behind those before it on a machine, unless both are free."""
    last = -1
    between: list[int] = []
    for i in ordered:
        if free[i]:
            if last >= 0:
                cp.add(start[i] >= leave[last])
            between.append(i)
            continue
        for j in between or ([last] if last >= 0 else []):
            cp.add(start[i] >= leave[j])
        last, between = i, []


def _runs(ordered: Sequence[int], free: BoolArray) -> list[list[int]]:
    """Stretches of at least two free tasks that follow each other."""
    runs: list[list[int]] = [[]]
    for i in ordered:
        if free[i]:
            runs[-1].append(i)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]
