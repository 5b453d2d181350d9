"""What the kernels work on: the instance as a `Net`, scratch arrays, schedules from starts."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.families.rcpsp import kernels
from cpsched.families.rcpsp.kernels import Net

if TYPE_CHECKING:
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: Objective names by their codes in the kernels.
CODES = {
    "makespan": 0,
    "weighted_tardiness": 1,
    "late_tasks": 2,
    "weighted_flow_time": 3,
    "max_lateness": 4,
    "earliness_tardiness": 5,
    "resource_cost": 6,
}
#: Profiles longer than this many cells are not laid out per time unit.
LARGEST_PROFILE = 40_000_000
#: Above this many tasks a queue of tasks that do not fit is looked through only up to PATIENCE,
#: and above LARGEST_UNLIMITED a task moves only WINDOW time units in one pass of justification: no
#: step then grows with the square of the size.
LARGE = 2000
LARGEST_UNLIMITED = 20_000
WINDOW = 2000
PATIENCE = 64
#: Most event times per call of the parallel kernel: how often the clock is looked at.
STEPS = 500


@dataclass
class Kit:
    """A project for the kernels: forward and reversed network, and scratch arrays.

    One kit serves one thread at a time; `copy` gives another its own scratch.
    """

    net: Net
    back: Net
    horizon: int
    free: IntArray = field(init=False)
    count: IntArray = field(init=False)
    mirrored: IntArray = field(init=False)
    reach: IntArray = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.net.topo)
        self.free = np.repeat(self.net.full[:, None], self.horizon + 2, axis=1)
        self.count = np.zeros(self.horizon + 4, np.int64)
        self.mirrored = np.zeros(n, np.int64)
        self.reach = np.zeros(n, np.int64)

    def copy(self) -> Kit:
        """The same project with scratch arrays of its own."""
        return Kit(self.net, self.back, self.horizon)

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.net.topo)

    @property
    def multi_mode(self) -> bool:
        """Whether any task has a choice."""
        return len(self.net.dur) > self.n

    def serial(self, order: IntArray, mode: IntArray) -> IntArray:
        """Starts by serial generation."""
        start = np.zeros(self.n, np.int64)
        made = kernels.serial(self.net, order, 0, self.n, mode, self.reach[:0], self.free, start)
        kernels.clear(self.net.full, self.free, made)
        return start

    def serial_modes(self, order: IntArray, mode: IntArray) -> tuple[IntArray, IntArray]:
        """Starts and modes by serial generation with choice of the earliest end."""
        start, mode = np.zeros(self.n, np.int64), mode.copy()
        used = np.zeros(len(self.net.budget), np.int64)
        kernels.excess(self.net, mode, used)
        made = kernels.serial_modes(self.net, order, mode, used, self.free, start)
        kernels.clear(self.net.full, self.free, made)
        return start, mode

    def by_rank(
        self, rank: IntArray, mode: IntArray, expired: Callable[[], bool]
    ) -> IntArray | None:
        """Starts by parallel generation; None when the time is over.

        ``rank`` is a permutation, smallest first.
        """
        n, net = self.n, self.net
        state = np.zeros(4, np.int64)
        waiting = np.diff(net.pred_ptr)
        events = np.zeros(2 * n + 2, np.int64)
        eligible = np.zeros(n + 1, np.int64)
        by = np.empty(n, np.int64)
        by[rank] = np.arange(n)
        free = np.sort(rank[waiting == 0])
        eligible[: len(free)] = free
        state[1] = len(free)
        start = np.zeros(n, np.int64)
        rest = (
            state,
            net.full.copy(),
            waiting,
            np.zeros(n, np.int64),
            events,
            eligible,
            np.zeros(n + 1, np.int64),
            start,
        )
        patience = n if n <= LARGE else PATIENCE
        steps = 4  # interpreted, a call must not take long either
        while True:
            begun = time.perf_counter()
            if kernels.parallel(net, rank, by, mode, patience, steps, *rest) >= 0:
                return start
            if expired():
                return None
            if time.perf_counter() - begun < 0.01:
                steps = min(STEPS, 2 * steps)

    def list_by(self, rank: IntArray) -> IntArray:
        """Tasks by rank, as far as the precedences allow."""
        n = self.n
        waiting = np.diff(self.net.pred_ptr).tolist()
        pointer, after = self.net.succ_ptr.tolist(), self.net.succ.tolist()
        ranks = rank.tolist()
        heap = [(ranks[j], j) for j in range(n) if not waiting[j]]
        heapq.heapify(heap)
        out = []
        while heap:
            _, j = heapq.heappop(heap)
            out.append(j)
            for i in after[pointer[j] : pointer[j + 1]]:
                waiting[i] -= 1
                if not waiting[i]:
                    heapq.heappush(heap, (ranks[i], i))
        return np.array(out, np.int64)

    def improve(
        self,
        start: IntArray,
        mode: IntArray,
        expired: Callable[[], bool] = lambda: False,
    ) -> tuple[IntArray, IntArray]:
        """Forward-backward improvement until it no longer helps: starts and modes."""
        window = WINDOW if self.n > LARGEST_UNLIMITED else 0
        rounds = 5 if self.n > LARGE else 100
        start, mode = start.copy(), mode.copy()
        used = np.zeros(len(self.net.budget), np.int64)
        kernels.excess(self.net, mode, used)
        order = np.zeros(self.n, np.int64)
        makespan = self.makespan(start, mode)
        if makespan > self.horizon:  # stretched: a hint, or late by its objective
            ranks = np.argsort(np.argsort(start, kind="stable"), kind="stable")
            start = self.serial(self.list_by(ranks), mode)
            makespan = self.makespan(start, mode)
        for _ in range(rounds):
            after = kernels.justify(
                self.net,
                self.back,
                mode,
                used,
                self.multi_mode,
                makespan,
                window,
                self.free,
                self.count,
                order,
                self.mirrored,
                self.reach,
                start,
            )
            if after >= makespan or expired():
                break
            makespan = after
        return start, mode

    def makespan(self, start: IntArray, mode: IntArray) -> int:
        """The latest end."""
        return int((start + self.net.dur[mode]).max(initial=0))


def kit_of(instance: Instance) -> Kit | None:
    """The kernels' view of an instance; None when it is not plain or its horizon is too long."""
    known: Kit | None = instance.extras.get("kit")
    if known is not None:
        return known
    if not instance.plain or instance.n == 0:
        return None
    net, back = _net(instance)
    longest = np.zeros(instance.n, np.int64)
    owner = np.repeat(np.arange(instance.n), np.diff(instance.mode_start))
    np.maximum.at(longest, owner, instance.duration)
    lag = np.zeros(instance.n, np.int64)
    np.maximum.at(lag, instance.edges[:, 0], instance.edges[:, 3])
    horizon = int((longest + lag).sum())
    if horizon * len(net.full) > LARGEST_PROFILE:
        return None
    kit = Kit(net, back, horizon)
    instance.extras["kit"] = kit
    return kit


def _net(instance: Instance) -> tuple[Net, Net]:
    net, back = net_of_arrays(
        instance.mode_start,
        instance.duration,
        instance.demand,
        instance.capacity,
        instance.edges,
        instance.consumption,
        instance.budget,
    )
    codes = [CODES[name] for name in instance.objectives if name in CODES]
    own = {
        "usable": instance.mode_usable,
        "due": instance.due,
        "weight": instance.weight,
        "earliness": instance.earliness_weight,
        "cost": mode_costs(instance),
        "objective": np.array(codes or [0], np.int64),
    }
    return net._replace(**own), back._replace(**own)


def net_of_arrays(
    mode_start: IntArray,
    duration: IntArray,
    demand: IntArray,
    capacity: IntArray,
    edges: IntArray,
    consumption: IntArray,
    budget: IntArray,
) -> tuple[Net, Net]:
    """The forward and the reversed network; arrays as in `Instance`, edges of type 0."""
    n = len(mode_start) - 1
    packed = pack(demand, capacity, mode_start)
    pred_ptr, pred, pred_lag = _rows(n, edges, 1, 0)
    succ_ptr, succ, succ_lag = _rows(n, edges, 0, 1)
    net = Net(
        mode_start=mode_start,
        usable=np.ones(len(duration), np.bool_),
        dur=duration,
        need=packed.need,
        guard=packed.guard,
        full=packed.full,
        eat=consumption,
        budget=budget,
        pred_ptr=pred_ptr,
        pred=pred,
        pred_lag=pred_lag,
        succ_ptr=succ_ptr,
        succ=succ,
        succ_lag=succ_lag,
        topo=_topological(n, succ_ptr, succ),
        due=np.full(n, 2**60, np.int64),
        weight=np.ones(n, np.int64),
        earliness=np.zeros(n, np.int64),
        cost=np.zeros(len(duration), np.int64),
        objective=np.zeros(1, np.int64),
    )
    back = net._replace(
        pred_ptr=succ_ptr,
        pred=succ,
        pred_lag=succ_lag,
        succ_ptr=pred_ptr,
        succ=pred,
        succ_lag=pred_lag,
        topo=np.ascontiguousarray(net.topo[::-1]),
    )
    return net, back


@dataclass(frozen=True)
class Packed:
    """Demands in packed words: ``need`` and ``field`` (M, W), ``guard`` and ``full`` (W,).

    ``field`` has all bits of the fields in which a mode demands something; ``place`` tells word,
    shift and mask of the field of each resource (None when it was left out).
    """

    need: IntArray
    field: IntArray
    guard: IntArray
    full: IntArray
    place: list[tuple[int, int, int] | None]


def pack(
    demand: IntArray, capacity: IntArray, mode_start: IntArray, keep: Sequence[bool] = ()
) -> Packed:
    """Pack demands (M, R) into 64-bit words, each field with a guard bit above it.

    Resources that cannot run short are left out unless ``keep`` says otherwise; demands above a
    capacity are cut to it (their modes are never used).
    """
    n = len(mode_start) - 1
    owner = np.repeat(np.arange(n), np.diff(mode_start))
    place: list[tuple[int, int, int] | None] = []
    word, bits = -1, 99
    for r in range(len(capacity)):
        largest = np.zeros(n, np.int64)
        np.maximum.at(largest, owner, demand[:, r])
        if int(largest.sum()) <= capacity[r] and not (keep and keep[r]):
            place.append(None)
            continue
        width = int(capacity[r]).bit_length() + 1
        if bits + width > 62:
            word, bits = word + 1, 0
        place.append((word, bits, ((1 << width) - 1) << bits))
        bits += width
    words = max(1, word + 1)
    need, field = np.zeros((2, len(demand), words), np.int64)
    guard, full = np.zeros((2, words), np.int64)
    for r, where in enumerate(place):
        if where is None:
            continue
        word, shift, mask = where
        units = np.minimum(demand[:, r], capacity[r])
        need[:, word] += units << shift
        field[:, word] |= np.where(units > 0, mask, 0)
        top = (mask >> shift) + 1 >> 1
        guard[word] |= top << shift
        full[word] |= (top | int(capacity[r])) << shift
    return Packed(need, field, guard, full, place)


def _rows(n: int, edges: IntArray, key: int, other: int) -> tuple[IntArray, IntArray, IntArray]:
    """Edges grouped by one end: pointers (n + 1,), the other ends, the minimum lags."""
    order = np.argsort(edges[:, key], kind="stable")
    pointer = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(edges[:, key], minlength=n), out=pointer[1:])
    return (
        pointer,
        np.ascontiguousarray(edges[order, other]),
        np.ascontiguousarray(edges[order, 3]),
    )


def _topological(n: int, succ_ptr: IntArray, succ: IntArray) -> IntArray:
    waiting = np.bincount(succ, minlength=n).tolist()
    pointer, after = succ_ptr.tolist(), succ.tolist()
    order = [i for i in range(n) if not waiting[i]]
    for i in order:
        for j in after[pointer[i] : pointer[i + 1]]:
            waiting[j] -= 1
            if not waiting[j]:
                order.append(j)
    return np.array(order, np.int64)


def mode_costs(instance: Instance) -> IntArray:
    """Cost of each mode as `resource_cost` counts it, (M,)."""
    price = {r.name: r.unit_cost for r in instance.problem.resources}
    per_use = np.array([price[r] for r in instance.renewable], np.int64)
    per_unit = np.array([price[r] for r in instance.nonrenewable], np.int64)
    own = np.array([m.cost for t in instance.problem.tasks for m in t.modes], np.int64)
    if not per_use.any() and not per_unit.any():
        return own
    return np.asarray(
        own + (instance.demand @ per_use) * instance.duration + instance.consumption @ per_unit,
        np.int64,
    )


def tiny_kit() -> Kit:
    """A project of two tasks, for warming up the kernels."""
    net, back = net_of_arrays(
        np.arange(3),
        np.array([2, 3]),
        np.ones((2, 1), np.int64),
        np.ones(1, np.int64),
        np.array([[0, 1, 0, 0, 2**60]]),
        np.zeros((2, 1), np.int64),
        np.ones(1, np.int64),
    )
    return Kit(net, back, 10)
