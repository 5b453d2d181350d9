"""Experts, models and adapters on GPUs: replication, packing, swaps, and the exact model."""

from __future__ import annotations

import heapq
import math
import random
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import exact
from cpsched.errors import Infeasible, ProblemError
from cpsched.families.serving.check_placement import check_placement
from cpsched.families.serving.problem import ItemPlacement, ServingProblem, ServingSchedule
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.run import Run

#: Size of the CP-SAT model (items times GPUs times replica counts) up to which it is tried.
LARGEST_MODEL = 60_000


def total_replicas(p: ServingProblem) -> int | None:
    """How many replicas there are in all, when that is given: directly or by exact slots."""
    if p.replicas is not None:
        return p.replicas
    if all(g.slots is not None for g in p.gpus):
        return sum(g.slots or 0 for g in p.gpus)
    if all(i.replicas is not None for i in p.items):
        return sum(i.replicas or 0 for i in p.items)
    return None


def replicate(loads: list[float], fixed: list[int | None], total: int, most: int) -> list[int]:
    """Replicas per item: each further one goes to the item with the largest load per replica.

    That minimises the largest load of a replica over all divisions of the total.
    """
    counts = [1 if f is None else f for f in fixed]
    heap = [(-load, i) for i, (load, f) in enumerate(zip(loads, fixed, strict=True)) if f is None]
    heapq.heapify(heap)
    left = total - sum(counts)
    while left > 0 and heap:
        _, i = heapq.heappop(heap)
        if counts[i] < most:
            counts[i] += 1
            left -= 1
            heapq.heappush(heap, (-loads[i] / counts[i], i))
    return counts


class _State:
    """A placement being improved: which GPUs hold which item, and every GPU's load."""

    def __init__(self, p: ServingProblem) -> None:
        self.p = p
        self.gpu = {g.name: k for k, g in enumerate(p.gpus)}
        names = [g.node for g in p.gpus]
        number = {name: k for k, name in enumerate(dict.fromkeys(names))}
        self.node = np.array([number[name] for name in names])
        n, m = len(p.items), len(p.gpus)
        self.load_of = np.array([i.load for i in p.items])
        self.memory_of = np.array([i.memory for i in p.items], np.int64)
        far = 2**60
        self.slots = np.array([far if g.slots is None else g.slots for g in p.gpus], np.int64)
        self.room = np.array([far if g.memory is None else g.memory for g in p.gpus], np.int64)
        self.held = np.zeros((n, m), np.bool_)
        self.current = np.zeros((n, m), np.bool_)
        for k, item in enumerate(p.items):
            self.current[k, [self.gpu[name] for name in item.current]] = True
        group = [i.group if p.group_limit else "" for i in p.items]
        self.tied = np.array([bool(name) for name in group])

    def counts(self) -> Any:
        return np.maximum(1, np.count_nonzero(self.held, axis=1))

    def loads(self) -> Any:
        items, gpus = np.nonzero(self.held)
        share = (self.load_of / self.counts())[items]
        return np.bincount(gpus, share, minlength=len(self.slots))

    def used(self) -> Any:
        """Memory in use on every GPU."""
        items, gpus = np.nonzero(self.held)
        total = np.zeros(len(self.slots), np.int64)
        np.add.at(total, gpus, self.memory_of[items])
        return total

    def schedule(self) -> ServingSchedule:
        names = [g.name for g in self.p.gpus]
        return ServingSchedule(
            placements=tuple(
                ItemPlacement(item=i.id, gpus=tuple(names[g] for g in np.flatnonzero(row)))
                for i, row in zip(self.p.items, self.held, strict=True)
            )
        )

    def read(self, schedule: ServingSchedule) -> None:
        index = {i.id: k for k, i in enumerate(self.p.items)}
        self.held[:] = False
        for one in schedule.placements:
            self.held[index[one.item], [self.gpu[name] for name in one.gpus]] = True

    def pack(self, items: list[int], counts: list[int], gpus: list[int]) -> bool:
        """Replicas, heaviest first, each onto the least loaded GPU with room; False if stuck."""
        load = np.zeros(len(self.slots))
        slots, room = self.slots.copy(), self.room.copy()
        load[:] = np.inf
        load[gpus] = self.loads()[gpus]
        slots -= self.held.sum(axis=0)
        room -= self.used()
        shares = sorted(
            (
                (self.load_of[i] / c, i)
                for i, c in zip(items, counts, strict=True)
                for _ in range(c)
            ),
            reverse=True,
        )
        for share, i in shares:
            cost = np.where((slots > 0) & (room >= self.memory_of[i]) & ~self.held[i], load, np.inf)
            g = int(cost.argmin())
            if cost[g] == np.inf:
                return False
            self.held[i, g] = True
            load[g] += share
            slots[g] -= 1
            room[g] -= self.memory_of[i]
        return True


def eplb(p: ServingProblem) -> _State | None:
    """EPLB's three steps: groups to nodes, replicas within a node, replicas to GPUs."""
    state = _State(p)
    total = total_replicas(p)
    fixed = [i.replicas for i in p.items]
    loads = [i.load for i in p.items]
    if not state.tied.any():
        free = [1 if f is None else f for f in fixed]
        counts = free if total is None else replicate(loads, fixed, total, len(p.gpus))
        every = list(range(len(p.items)))
        return state if state.pack(every, counts, list(range(len(p.gpus)))) else None
    nodes = int(state.node.max()) + 1
    seats = [int(np.minimum(state.slots[state.node == k], 10**6).sum()) for k in range(nodes)]
    members: dict[Any, list[int]] = {}
    for k, item in enumerate(p.items):
        members.setdefault(item.group if item.group else k, []).append(k)
    weight = {name: sum(loads[k] for k in mine) for name, mine in members.items()}
    of_node: list[list[int]] = [[] for _ in range(nodes)]
    heavy = [0.0] * nodes
    largest = -(-len(members) // nodes)
    parts = [0] * nodes
    for name in sorted(members, key=lambda k: -weight[k]):
        fits = [
            k
            for k in range(nodes)
            if parts[k] < largest and len(of_node[k]) + len(members[name]) <= seats[k]
        ] or [k for k in range(nodes) if len(of_node[k]) + len(members[name]) <= seats[k]]
        if not fits:
            return None
        k = min(fits, key=lambda k: heavy[k])
        of_node[k] += members[name]
        heavy[k] += weight[name]
        parts[k] += 1
    for k in range(nodes):
        gpus = np.flatnonzero(state.node == k).tolist()
        mine = of_node[k]
        total_here = seats[k] if total is not None else len(mine)
        if total is not None and sum(seats) != total:
            total_here = len(mine) + (total - len(p.items)) // nodes
        counts = replicate(
            [loads[i] for i in mine], [fixed[i] for i in mine], total_here, len(gpus)
        )
        if mine and not state.pack(mine, counts, gpus):
            return None
    return state


def standing(p: ServingProblem) -> _State:
    """The placement as it is now."""
    state = _State(p)
    state.held[:] = state.current
    return state


def greedy(p: ServingProblem, run: Run) -> None:
    """The current placement, then EPLB's packing with swaps."""
    _refuse(p)
    for make, source in ((standing, "greedy:stay"), (eplb, "greedy:eplb")):
        if run.incumbent is not None:
            run.clock.check()
        state = make(p) if make is eplb or any(i.current for i in p.items) else None
        if state is not None:
            schedule = state.schedule()
            if not check_placement(p, schedule):
                run.offer(schedule, source)
    if run.incumbent is not None and run.objectives and run.objectives[0].name == "max_load":
        _improve(p, run, seconds=0.02, source="greedy:swaps")


def _refuse(p: ServingProblem) -> None:
    total = total_replicas(p)
    if total is not None and total < len(p.items):
        raise Infeasible(f"{total} replicas cannot hold {len(p.items)} items", "replica-count")
    if total is not None and total > len(p.items) * len(p.gpus):
        raise Infeasible(f"{total} replicas are more than one per item and GPU", "replica-count")
    room = [math.inf if g.memory is None else g.memory for g in p.gpus]
    if sum(i.memory * (i.replicas or 1) for i in p.items) > sum(room):
        raise Infeasible("the items are larger than all GPUs together", "total-memory")


def bounds(p: ServingProblem, run: Run) -> None:
    """Load shared evenly over all GPUs; the best division into replicas."""
    for objective in run.objectives:
        for argument in ("even-share", "replication"):
            run.raise_bound(Bound(_value(p, argument, objective.name), argument, objective.name))


def _value(p: ServingProblem, argument: str, objective: str) -> Any:
    if objective == "moves":
        return 0
    if argument == "even-share":
        # Binary fractions: over the largest of their denominators all of them are whole.
        parts = [i.load.as_integer_ratio() for i in p.items]
        below = max((d for _, d in parts), default=1)
        value = Fraction(sum(a * (below // d) for a, d in parts), below) / len(p.gpus)
    else:
        total = total_replicas(p)
        fixed = [i.replicas for i in p.items]
        if total is None:
            counts = [len(p.gpus) if f is None else f for f in fixed]
        else:
            counts = replicate([i.load for i in p.items], fixed, total, len(p.gpus))
        value = max(Fraction(i.load) / c for i, c in zip(p.items, counts, strict=True))
    return int(value) if value.denominator == 1 else float(value)


def search(p: ServingProblem, run: Run) -> None:
    """Swaps and shifts of replicas, the exact model for small problems, swaps again."""
    size = len(p.items) * len(p.gpus) * _most(p)
    if run.incumbent is not None and run.objectives and run.objectives[0].name == "max_load":
        _improve(p, run, seconds=0.3 * min(run.clock.remaining(), 100.0), source="swaps")
    most = LARGEST_MODEL if run.incumbent is not None else 50 * LARGEST_MODEL
    if not run.done() and size <= most:
        _exact(p, run)
    turn = 1
    while run.incumbent is not None and run.objectives and run.objectives[0].name == "max_load":
        _improve(p, run, seconds=math.inf, source="swaps", turn=turn)
        turn += 1
        if run.done() or run.clock.limit == math.inf:
            return


def _improve(p: ServingProblem, run: Run, *, seconds: float, source: str, turn: int = 0) -> None:
    """Best swaps between the fullest GPU and the others; random shifts where there are none.

    Ends when many shifts in a row led nowhere; every ``turn`` takes shifts of its own.
    """
    assert run.incumbent is not None
    state = _State(p)
    state.read(run.incumbent.schedule)
    rng = random.Random(run.seed + 11 + 7919 * turn)
    total = total_replicas(p)
    best = state.held.copy()
    best_value = float(state.loads().max())
    stop = run.clock.remaining() - seconds
    stuck = 0
    # What one step takes: the clock is not looked at within.
    stop = max(stop, 2e-8 * state.held.size)
    while not run.done() and run.clock.remaining() > stop and stuck < 3000:
        run.clock.spend(2e-4)
        if _swap(state):
            value = float(state.loads().max())
            if value < best_value * (1.0 - 1e-12):
                best_value, best, stuck = value, state.held.copy(), 0
            continue
        if best_value < float(run.incumbent.values[0]) * (1.0 - 1e-12):
            state.held[:] = best
            schedule = state.schedule()
            if not check_placement(p, schedule):
                run.offer(schedule, source)
        stuck += 1
        state.held[:] = best
        _shake(state, rng, total is None)
    state.held[:] = best
    if best_value < float(run.incumbent.values[0]) * (1.0 - 1e-12):
        schedule = state.schedule()
        if not check_placement(p, schedule):
            run.offer(schedule, source)


def _swap(state: _State) -> bool:
    """One best exchange that lowers the fullest GPU without making another as full."""
    load = state.loads()
    top = int(load.argmax())
    share = state.load_of / state.counts()
    mine = np.flatnonzero(state.held[:, top])
    others, gpus = np.nonzero(state.held)
    keep = gpus != top
    others, gpus = others[keep], gpus[keep]
    delta = share[mine][:, None] - share[others][None, :]
    after = np.maximum(load[top] - delta, load[gpus][None, :] + delta)
    bad = state.held[mine][:, gpus] | state.held[others, top][None, :]
    apart = (state.node[gpus] != state.node[top])[None, :]
    bad |= apart & (state.tied[mine][:, None] | state.tied[others][None, :])
    free = state.room - state.used()
    grow = state.memory_of[others][None, :] - state.memory_of[mine][:, None]
    bad |= (grow > free[top]) | (-grow > free[gpus][None, :])
    after = np.where(bad, np.inf, after)
    if after.size:
        a, b = np.unravel_index(int(after.argmin()), after.shape)
        if after[a, b] < load[top] * (1.0 - 1e-12) and _moves_allowed(
            state, [(int(mine[a]), top, int(gpus[b])), (int(others[b]), int(gpus[b]), top)]
        ):
            state.held[mine[a], top] = state.held[others[b], gpus[b]] = False
            state.held[mine[a], gpus[b]] = state.held[others[b], top] = True
            return True
    return False


def _moves_allowed(state: _State, steps: list[tuple[int, int, int]]) -> bool:
    limit = state.p.move_limit
    if limit is None:
        return True
    now = int((state.held & ~state.current).sum())
    for item, source, target in steps:
        now += int(not state.current[item, target]) - int(not state.current[item, source])
    return now <= limit


def _shake(state: _State, rng: random.Random, loose: bool) -> None:
    """A few random changes: replicas traded between GPUs, or given from one item to another."""
    before = state.held.copy()
    n, m = state.held.shape
    for _ in range(rng.randrange(1, 4)):
        g = rng.randrange(m)
        mine = np.flatnonzero(state.held[:, g])
        if not len(mine):
            continue
        i = int(rng.choice(mine.tolist()))
        if rng.random() < 0.5:
            # Another item takes the slot: needs a spare replica of this one.
            j = rng.randrange(n)
            fixed = state.p.items[i].replicas is not None or state.p.items[j].replicas is not None
            if fixed or state.held[i].sum() < 2 or state.held[j, g]:
                continue
            if state.tied[j] and state.node[g] not in state.node[state.held[j]]:
                continue
            state.held[i, g], state.held[j, g] = False, True
            continue
        h = rng.randrange(m)
        theirs = np.flatnonzero(state.held[:, h])
        if h == g or not len(theirs) or state.held[i, h]:
            continue
        j = int(rng.choice(theirs.tolist()))
        apart = state.node[g] != state.node[h]
        if state.held[j, g] or (apart and (state.tied[i] or state.tied[j])):
            continue
        state.held[i, g] = state.held[j, h] = False
        state.held[i, h] = state.held[j, g] = True
    memory = (state.used() > state.room).any()
    if memory or not _moves_allowed(state, []):
        state.held[:] = before


def _most(p: ServingProblem) -> int:
    total = total_replicas(p)
    spare = len(p.gpus) if total is None else total - len(p.items) + 1
    return max(1, min(len(p.gpus), spare))


def _exact(p: ServingProblem, run: Run) -> None:
    whole = sum(i.load for i in p.items) or 1.0
    scale = 10**12 / whole

    def build(level: int) -> exact.Built:
        from ortools.sat.python import cp_model

        model = cp_model.CpModel()
        sum_of = cp_model.LinearExpr.sum
        weighted = cp_model.LinearExpr.weighted_sum
        state = _State(p)
        n, m = state.held.shape
        x = [[model.new_bool_var("") for _ in range(m)] for _ in range(n)]
        loads: list[list[tuple[Any, int]]] = [[] for _ in range(m)]
        wanted = any(o.name == "max_load" for o in run.objectives[: level + 1])
        for i, item in enumerate(p.items):
            run.clock.check()
            count = sum_of(x[i])
            if item.replicas is not None:
                model.add(count == item.replicas)
            else:
                model.add(count >= 1)
            if not wanted:
                continue
            low = item.replicas or 1
            options = {
                c: model.new_bool_var("") for c in range(low, (item.replicas or _most(p)) + 1)
            }
            model.add_exactly_one(options.values())
            model.add(count == weighted(list(options.values()), list(options)))
            for c, chosen in options.items():
                # Rounded down: the model's loads bound the true ones from below.
                share = math.floor(item.load * scale / c)
                for g in range(m):
                    both = model.new_bool_var("")
                    model.add_bool_or([both, ~chosen, ~x[i][g]])
                    loads[g].append((both, share))
        if p.replicas is not None:
            model.add(sum_of([v for row in x for v in row]) == p.replicas)
        for g, gpu in enumerate(p.gpus):
            column = [row[g] for row in x]
            if gpu.slots is not None:
                model.add(sum_of(column) == gpu.slots)
            if gpu.memory is not None:
                model.add(weighted(column, [i.memory for i in p.items]) <= gpu.memory)
        _groups(p, state, model, x)
        far = [x[i][g] for i in range(n) for g in range(m) if not state.current[i, g]]
        if p.move_limit is not None:
            model.add(sum_of(far) <= p.move_limit)
        top = model.new_int_var(0, 2 * 10**12, "max_load")
        for terms in loads:
            if terms:
                model.add(weighted([v for v, _ in terms], [c for _, c in terms]) <= top)
        values = {"max_load": top, "moves": sum_of(far)}
        for k, objective in enumerate(run.objectives[: level + 1]):
            if k == level:
                model.minimize(values[objective.name])
            elif run.incumbent is not None:
                value = run.incumbent.values[k]
                cap = math.ceil(value * scale) if objective.name == "max_load" else int(value)
                model.add(values[objective.name] <= cap)
        if run.incumbent is not None:
            state.read(run.incumbent.schedule)
            for i in range(n):
                for g in range(m):
                    model.add_hint(x[i][g], bool(state.held[i, g]))

        def extract(found: list[int]) -> ServingSchedule:
            for i in range(n):
                state.held[i] = [bool(found[v.index]) for v in x[i]]
            return state.schedule()

        name = run.objectives[level].name if run.objectives else ""
        return exact.Built(
            model,
            extract,
            value=(lambda v: v / scale) if name == "max_load" else round,
        )

    exact.solve_levels(run, build, seconds=0.6 * min(run.clock.remaining(), 1e9))


def _groups(p: ServingProblem, state: _State, model: Any, x: list[list[Any]]) -> None:
    if not state.tied.any():
        return
    nodes = sorted(set(state.node.tolist()))
    chosen: dict[str, list[Any]] = {}
    for i, item in enumerate(p.items):
        if item.group and p.group_limit:
            if item.group not in chosen:
                chosen[item.group] = [model.new_bool_var("") for _ in nodes]
                model.add_exactly_one(chosen[item.group])
            for g, node in enumerate(state.node.tolist()):
                model.add_implication(x[i][g], chosen[item.group][nodes.index(node)])


def recompute(p: ServingProblem, bound: Bound) -> Any:
    """The value of a bound of this question."""
    if bound.argument not in ("even-share", "replication"):
        raise ProblemError(
            "the argument cannot be recomputed",
            value=bound.argument,
            remedy="Recompute another bound.",
        )
    return _value(p, bound.argument, bound.objective)
