"""The search of problems with rules that no special search knows: setups, batches, transport, ...

CP-SAT on the whole problem and neighbourhoods of the incumbent take turns. A neighbourhood is the
whole model with most tasks kept in their modes and orders, so that every rule holds in it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.core import engine, jit, lns
from cpsched.core.exact import solve_levels
from cpsched.core.lns import Neighbourhood, SubModel
from cpsched.families.rcpsp.anneal_rules import RulesAnnealing, rules_of
from cpsched.families.rcpsp.flow import PermutationSearch, permutation_of
from cpsched.families.rcpsp.graph import components
from cpsched.families.rcpsp.improve import vary
from cpsched.families.rcpsp.problem import RcpspSchedule
from cpsched.families.rcpsp.schedule import State, state_of
from cpsched.families.rcpsp.search_shop import Searcher, Steps

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Above this many tasks the model of a neighbourhood takes too long to build; above the other
#: number nothing is proved in useful time.
LARGEST, PROVABLE = 1500, 800
#: Up to this many tasks the second call on the whole problem has all the time there is.
SURE = 80
#: Seconds of one slice of annealing.
SLICE = 0.05
#: Tasks that are free at first.
FREE = 25
#: CP-SAT parameters of a neighbourhood.
PARAMETERS: dict[str, Any] = {"linearization_level": 0}


def search_rules(instance: Instance, run: Run) -> None:
    """Improve and prove until the run is done."""
    beside: Steps | None = None
    flow = permutation_of(instance) if _names(run) == ["makespan"] else None
    rules = rules_of(instance, _names(run)) if run.incumbent is not None else None
    # Interpreted, one step of either may take longer than there is time.
    compiled = jit.ready(run.clock.remaining())
    if flow is not None and run.incumbent is not None and compiled:
        beside = PermutationSearch(instance, flow, run.seed)
    elif rules is not None and compiled:
        beside = RulesAnnealing(instance, rules, run, run.seed)
    if beside is None or run.deterministic or run.workers == 1:
        _in_turns(instance, run, beside, run.workers, beside is None and not instance.by_lists)
        return
    thread = Searcher(beside, run)
    thread.start()
    try:
        _in_turns(instance, run, None, run.workers - 1, False)
        while not run.done() and thread.error is None:
            thread.join(0.1)
    finally:
        thread.stop()
    if thread.error is not None:
        raise thread.error


def _in_turns(
    instance: Instance, run: Run, heuristic: Steps | None, workers: int, lists: bool
) -> None:
    """The whole problem and neighbourhoods, and a heuristic where no thread runs one.

    ``lists`` allows changes of the placing order, decoded by `construct`.
    """
    known = run.incumbent is not None and bool(run.objectives)
    neighbourhoods = frozen_neighbourhoods(instance, run) if instance.n <= LARGEST else []
    left = run.clock.remaining()
    seconds = 0.15 * left if math.isfinite(left) else 5.0
    turn = 0
    while not run.done():
        others = bool(neighbourhoods) or heuristic is not None or lists
        whole = instance.n <= PROVABLE or not known or not others
        if heuristic is not None:
            end = run.clock.remaining() - (0.3 if whole else 1.0) * seconds
            while not run.done() and run.clock.remaining() > end:
                heuristic.step(run, SLICE)
        elif lists and known:
            vary(instance, run, (0.2 if whole else 1.0) * seconds)
        if run.done() or not engine.ready(run.clock):
            return
        if whole:
            endless = not known or not others or (turn and instance.n <= SURE)
            _exact(instance, run, workers, math.inf if endless else seconds)
        known = run.incumbent is not None and bool(run.objectives)
        if known and neighbourhoods and not run.done():
            lns.search(
                run, neighbourhoods, workers=workers, call_seconds=1.0, seconds=1.5 * seconds
            )
        seconds *= 1.5
        turn += 1


def _names(run: Run) -> list[str]:
    return [o.name for o in run.objectives]


def _exact(instance: Instance, run: Run, workers: int, seconds: float) -> None:
    from cpsched.families.rcpsp.model import build

    solve_levels(run, lambda level: build(instance, run, level), workers=workers, seconds=seconds)


def frozen_neighbourhoods(instance: Instance, run: Run) -> list[Neighbourhood]:
    """Free tasks by time, by resource, by chain, around a late one, and at random."""
    known: dict[int, State] = {}

    def build(
        choose: Callable[..., BoolArray], schedule: RcpspSchedule, size: float, rng: random.Random
    ) -> SubModel | None:
        if id(schedule) not in known:
            known.clear()
            known[id(schedule)] = state_of(instance, schedule)
        level = run.level()
        if level is None:
            return None
        state = known[id(schedule)]
        count = max(2, min(instance.n, round(size * instance.n)))
        free = choose(instance, state, count, rng) & ~instance.fixed
        if not free.any():
            return None
        return _sub_model(instance, run, level, state, free)

    kinds = {
        "rules-time": _by_time,
        "rules-resource": _by_resource,
        "rules-chain": _by_chain,
        "rules-end": _near_end,
        "rules-random": _at_random,
    }
    size = min(1.0, FREE / max(1, instance.n))
    return [Neighbourhood(name, partial(build, choose), size) for name, choose in kinds.items()]


def _sub_model(instance: Instance, run: Run, level: int, state: State, free: BoolArray) -> SubModel:
    from cpsched.families.rcpsp.model import build
    from cpsched.families.rcpsp.model_frozen import Frozen

    made = build(instance, run, level, strict=True, frozen=Frozen(instance, state, free))
    costs = {"setup_cost", "resource_cost"} & {o.name for o in run.objectives}
    return SubModel(made.model, made.extract, {} if costs else PARAMETERS)


def _nearest(distance: NDArray[np.float64], count: int) -> BoolArray:
    """The ``count`` tasks of least distance."""
    free = np.zeros(len(distance), bool)
    free[np.argsort(distance, kind="stable")[:count]] = True
    return free


def _middle(state: State) -> NDArray[np.float64]:
    return np.asarray((np.array(state.start) + np.array(state.end)) / 2.0, float)


def _by_time(instance: Instance, state: State, count: int, rng: random.Random) -> BoolArray:
    middle = _middle(state)
    return _nearest(np.abs(middle - middle[rng.randrange(instance.n)]), count)


def _by_resource(instance: Instance, state: State, count: int, rng: random.Random) -> BoolArray:
    """Tasks of one resource or two, the ones near to each other in time first."""
    modes = np.array(state.mode)
    held = np.where((modes >= 0)[:, None], instance.holds[modes], False)
    used = np.flatnonzero(held.any(axis=0)).tolist()
    if not used:
        return _by_time(instance, state, count, rng)
    chosen = rng.sample(used, min(len(used), rng.randint(1, 2)))
    on = held[:, chosen].any(axis=1)
    middle = _middle(state)
    near = np.abs(middle - middle[rng.choice(np.flatnonzero(on).tolist())])
    return _nearest(np.where(on, near, np.inf), min(count, int(on.sum())))


def _by_chain(instance: Instance, state: State, count: int, rng: random.Random) -> BoolArray:
    """Tasks of a few chains of precedences."""
    chain = _chains(instance)
    order = list(range(int(chain.max()) + 1))
    rng.shuffle(order)
    rank = np.array(order, float)
    distance = rank[chain]
    if (chain == chain[0]).all():
        # Everything hangs together: a stretch of it.
        return _by_time(instance, state, count, rng)
    return _nearest(distance + 1e-9 * _middle(state), count)


def _near_end(instance: Instance, state: State, count: int, rng: random.Random) -> BoolArray:
    """Around a task that is late or ends the schedule, and what comes shortly before it."""
    end = np.array(state.end)
    late = np.flatnonzero((end > instance.due) & (np.array(state.mode) >= 0))
    if not len(late):
        late = np.flatnonzero(end == end.max())
    i = int(late[rng.randrange(len(late))])
    middle = _middle(state)
    back = middle[i] - middle
    return _nearest(np.where(back >= 0, back, -3.0 * back), count)


def _at_random(instance: Instance, state: State, count: int, rng: random.Random) -> BoolArray:
    free = np.zeros(instance.n, bool)
    free[rng.sample(range(instance.n), max(1, min(instance.n, count // 2)))] = True
    return free


def _chains(instance: Instance) -> IntArray:
    """Number of the set of tasks that precedences join, (n,)."""
    known: IntArray | None = instance.extras.get("chains")
    if known is not None:
        return known
    links = [(int(a), int(b)) for a, b in instance.edges[:, :2]]
    links += [(leg.before, leg.after) for leg in instance.shop.legs]
    instance.extras["chains"] = made = components(instance.n, links)
    return made
