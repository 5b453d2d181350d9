"""CP-SAT on end states: level by level on the whole cluster, or on neighbourhoods of nodes."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from cpsched.core import engine, lns
from cpsched.core.run import Run
from cpsched.errors import OutOfTime
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.model import EndState, Linear
from cpsched.families.pods.model_objectives import objective as linear_objective
from cpsched.families.pods.plan import Stuck, in_order, name_pods, schedule_of
from cpsched.families.pods.prepare import Instance
from cpsched.families.pods.problem import PodsSchedule
from cpsched.result import Bound

logger = logging.getLogger("cpsched")

#: Variables up to which the whole cluster is one model.
WHOLE = 30_000


def end_of(instance: Instance, schedule: PodsSchedule) -> Ints:
    """Node of each pod at a schedule's end."""
    index: dict[str | None, int] = {n.name: i for i, n in enumerate(instance.problem.nodes)}
    index[None] = -1
    at = {p.pod: index[p.node] for p in schedule.placements}
    return np.array([at[p.name] for p in instance.problem.pods], dtype=np.int64)


def size_of(instance: Instance) -> int:
    """Variables of the whole model, roughly."""
    free = [g.index for g in instance.classes if not g.fixed]
    return int(instance.allowed[free].sum())


def stated(instance: Instance, run: Run) -> bool:
    """Whether the model states the problem: no cells, and the first objective that is open."""
    level = run.level() or 0
    return not instance.cell_resources and level < max(1, _levels(instance, run))


def _levels(instance: Instance, run: Run) -> int:
    """How many of the objectives, from the first on, the model states."""
    names = {"disruption", "nodes_used", "node_cost", "fragmentation", "preference", "balance"}
    if not any(n.cells for n in instance.problem.nodes):
        names.add("fragment_rate")
    known = [o.name in names or o.name.startswith("placed@") for o in run.objectives]
    return (*known, False).index(False)


def solve_whole(instance: Instance, run: Run, seconds: float = math.inf) -> None:
    """Solve the levels in order on the whole cluster, with bounds where the model is exact."""
    stop_at = run.clock.remaining() - seconds
    levels = _levels(instance, run)
    for level in range(levels if run.objectives else 1):
        if run.done():
            return
        if run.objectives and run.proved(level):
            continue
        left = run.clock.remaining() - max(0.0, stop_at)
        if left <= 0:
            return
        last = level >= levels - 1
        _solve_level(instance, run, level, left if last else 0.6 * left)
        if run.incumbent is None:
            return


def _solve_level(instance: Instance, run: Run, level: int, seconds: float) -> None:
    end = instance.at if run.incumbent is None else end_of(instance, run.incumbent.schedule)
    state = EndState(instance, end, run.clock)
    objective = run.objectives[level] if run.objectives else None
    before = run.incumbent.values[:level] if run.incumbent is not None and level else ()
    for earlier, value in zip(run.objectives, before, strict=False):
        linear = linear_objective(state, earlier.name)
        assert linear is not None
        row = state.expression(linear)
        state.model.add(row >= int(value) if earlier.maximise else row <= int(value))
    constant = 0
    if objective is not None:
        linear = linear_objective(state, objective.name)
        if linear is None:
            return
        constant = linear[2]
        expression = state.cp.LinearExpr.weighted_sum(linear[0], linear[1])
        if objective.maximise:
            state.model.maximize(expression)
        else:
            state.model.minimize(expression)
    state.hint()

    def on_bound(bound: float) -> None:
        if objective is None or not state.exact:
            return
        whole = math.floor(bound + 1e-6) if objective.maximise else math.ceil(bound - 1e-6)
        run.raise_bound(Bound(whole + constant, "cp-sat", objective.name, {}, before or None))

    outcome = engine.solve(
        state.model,
        run.clock,
        workers=run.workers,
        seed=run.seed,
        seconds=seconds,
        on_solution=lambda values: offer_values(state, run, values, "cp-sat"),
        on_bound=on_bound,
        stop_when=lambda: run.done() or bool(run.objectives and run.proved(level)),
    )
    if outcome.status == "INFEASIBLE" and state.exact:
        if run.incumbent is None:
            run.claim_infeasible(
                "cp-sat", "the solver proved that no end state exists", state.model
            )
        return
    if outcome.values is not None and outcome.bound is not None:
        on_bound(outcome.bound)


def offer_values(state: EndState, run: Run, values: list[int], source: str) -> bool:
    """Order and offer the end state of a solution; False when no order is found."""
    schedule = schedule_from(state, values)
    return schedule is not None and run.offer(schedule, source, model=state.model)


def schedule_from(state: EndState, values: list[int]) -> PodsSchedule | None:
    """The schedule of a solution, None when no order is found."""
    instance = state.instance
    try:
        actions = in_order(instance, name_pods(instance, state.counts(values)))
    except Stuck as reason:
        logger.debug("no order for an end state: %s", reason)
        return None
    return schedule_of(instance, actions)


# ---------------------------------------------------------------------- neighbourhoods


def search_neighbourhoods(
    instance: Instance,
    run: Run,
    seconds: float = math.inf,
    stop_when: Callable[[], bool] | None = None,
) -> None:
    """Free the pods of a few nodes at a time and ask for something strictly better."""
    if run.incumbent is None:
        return
    moves = [
        lns.Neighbourhood(name, _builder(instance, run, choose), size=size)
        for name, choose, size in (
            ("pending-nodes", _near_pending, 4.0 / max(4, instance.nodes)),
            ("changed-nodes", _changed, 4.0 / max(4, instance.nodes)),
            ("random-nodes", _anywhere, 4.0 / max(4, instance.nodes)),
        )
    ]
    call = max(0.05, min(1.0, 0.2 * run.clock.remaining()))
    lns.search(run, moves, seconds=seconds, call_seconds=call, stop_when=stop_when)


def _builder(instance: Instance, run: Run, choose: Any) -> Any:
    def build(schedule: PodsSchedule, size: float, rng: random.Random) -> lns.SubModel | None:
        end = end_of(instance, schedule)
        count = max(2, min(instance.nodes, round(size * instance.nodes), WHOLE // 50))
        scope = choose(instance, end, count, rng)
        if not len(scope):
            return None
        try:
            return better(instance, run, end, schedule, list(dict.fromkeys(scope)))
        except OutOfTime:
            return None

    return build


def better(
    instance: Instance, run: Run, end: Ints, schedule: PodsSchedule, scope: list[int]
) -> lns.SubModel | None:
    """The model of strictly better end states that differ on the scope only."""
    assert run.incumbent is not None
    state = EndState(instance, end, run.clock, scope)
    linears: list[tuple[Linear, int, bool]] = []
    for objective, value in zip(run.objectives, run.incumbent.values, strict=True):
        linear = linear_objective(state, objective.name)
        if linear is None:
            break
        linears.append((linear, int(value), objective.maximise))
    # Lexicographic: the first open level must improve, or stay and the next improve, and so on.
    first = run.level() or 0
    if first >= len(linears):
        return None
    total: Linear = ([], [], 0)
    factor = 1
    for k in range(len(linears) - 1, -1, -1):
        linear, value, maximise = linears[k]
        row = state.expression(linear)
        if k <= first:
            state.model.add(row >= value if maximise else row <= value)
        if k < first:
            continue
        sign = -1 if maximise else 1
        total = (
            total[0] + linear[0],
            total[1] + [sign * factor * w for w in linear[1]],
            total[2] + sign * factor * (linear[2] - value),
        )
        spread = sum(abs(w) * len(instance.at) for w in linear[1][:1]) + abs(value) + 1
        factor *= 2 * spread
        if factor > 2**36:
            factor = 2**36
    expression = state.cp.LinearExpr.weighted_sum(total[0], total[1])
    state.model.add(expression <= -total[2] - 1)
    state.model.minimize(expression)
    state.hint()

    def extract(values: list[int]) -> PodsSchedule:
        found = schedule_from(state, values)
        return schedule if found is None else found

    return lns.SubModel(state.model, extract)


def _slack(instance: Instance, end: Ints) -> Ints:
    placed = np.flatnonzero(end >= 0)
    free = instance.capacity.copy()
    np.subtract.at(free, end[placed], instance.requests[instance.class_of[placed]])
    return free


def _near_pending(instance: Instance, end: Ints, count: int, rng: random.Random) -> list[int]:
    """Nodes that come closest to holding a pod without a place, and a few others."""
    waiting = np.flatnonzero(end < 0)
    if not len(waiting):
        return []
    p = int(waiting[rng.randrange(len(waiting))])
    c = int(instance.class_of[p])
    need = instance.requests[c]
    possible = np.flatnonzero(instance.allowed[c])
    if not len(possible):
        return []
    free = _slack(instance, end)[possible]
    scale = np.maximum(1, instance.capacity[possible])
    short = (np.maximum(0, need - free) / scale).sum(axis=1)
    noise = np.array([rng.random() for _ in possible]) * (0.05 + float(short.mean()))
    order = possible[np.argsort(short + noise)]
    return [int(n) for n in order[:count]]


def _changed(instance: Instance, end: Ints, count: int, rng: random.Random) -> list[int]:
    """Nodes whose pods change, with the nodes they exchange pods with."""
    moved = np.flatnonzero((instance.at != end) & (instance.at >= 0))
    if not len(moved):
        return []
    out: list[int] = []
    for p in rng.sample(moved.tolist(), len(moved)):
        for n in (int(instance.at[p]), int(end[p])):
            if n >= 0 and n not in out:
                out.append(n)
        if len(out) >= count:
            break
    return out[:count]


def _anywhere(instance: Instance, end: Ints, count: int, rng: random.Random) -> list[int]:
    """Random nodes."""
    return rng.sample(range(instance.nodes), min(count, instance.nodes))
