"""Blocking, open and flow shops, and the neighbourhoods they share."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import cpsched
from cpsched.core import engine
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.rcpsp import (
    blocking,
    bound,
    flow,
    kernels_blocking,
    kernels_flow,
    kernels_machine,
    one_machine,
    open_shop,
    orders,
    rolling,
)
from cpsched.families.rcpsp.generate import GENERATORS
from cpsched.families.rcpsp.greedy import greedy
from cpsched.families.rcpsp.prepare import Instance, prepare
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.schedule import schedule_of, state_of
from cpsched.families.rcpsp.shop import jobs_of
from cpsched.result import Objective


def shop_of(
    seed: int,
    jobs: int,
    machines: int,
    *,
    blocks: bool = False,
    swap: bool = True,
    order: str = "random",
) -> RcpspProblem:
    """A random job, flow or open shop; jobs of a blocking one stay on their machines."""
    rng = random.Random(seed)
    tasks: list[dict[str, Any]] = []
    precedences, groups = [], []
    for j in range(jobs):
        route = list(range(machines))
        if order == "random":
            rng.shuffle(route)
        for k, machine in enumerate(route):
            mode = {"duration": rng.randint(1, 9), "demands": {f"M{machine}": 1}}
            task: dict[str, Any] = {"id": f"{j}-{k}", "modes": [mode]}
            if blocks and k + 1 < machines:
                task["blocks_until"] = f"{j}-{k + 1}"
            if k and order != "open":
                precedences.append({"before": f"{j}-{k - 1}", "after": f"{j}-{k}"})
            tasks.append(task)
        if order == "open":
            groups.append({"tasks": [f"{j}-{k}" for k in range(machines)]})
    data: dict[str, Any] = {"tasks": tasks, "precedences": precedences, "disjunctive": groups}
    if not swap:
        data["swap"] = False
    return RcpspProblem.parse(data | {"resources": [{"name": f"M{k}"} for k in range(machines)]})


def begun(problem: RcpspProblem, together: bool = True) -> tuple[Instance, Run]:
    """A prepared instance, and a strict run that counts work.

    The run has a schedule: greedy, or else one task after the other.
    """
    clock, objectives = Clock(None, deterministic=True), (Objective("makespan"),)
    run = Run(problem, family("rcpsp"), objectives, clock, deterministic=True, strict=True)
    instance = prepare(problem, run)
    if together:
        greedy(instance, run)
    else:
        start = np.cumsum(instance.duration) - instance.duration
        run.offer(schedule_of(instance, start.tolist()), "test")
    return instance, run


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_entry_is_a_valid_schedule(seed: int, swap: bool) -> None:
    """Jobs that enter one after the other never deadlock or swap, and the checker agrees."""
    problem = shop_of(seed, 4, 4, blocks=True, swap=swap)
    instance, run = begun(problem)
    shop = blocking.blocking_of(instance)
    assert shop is not None
    search = blocking.Annealing(instance, shop, seed)
    before = search.value
    for _ in range(5):
        search.step(run, 0.02)
    assert run.value() is not None
    assert run.value() <= before  # type: ignore[operator]


def test_a_swap_needs_no_third_place() -> None:
    """Two jobs that wait for each other's machine change places at the same time."""
    chains = [("0-0", "A", "0-1", "B"), ("1-0", "B", "1-1", "A")]
    tasks: list[dict[str, Any]] = []
    for first, m, second, k in chains:
        modes = [{"duration": 3, "demands": {m: 1}}]
        tasks.append({"id": first, "modes": modes, "blocks_until": second})
        tasks.append({"id": second, "modes": [{"duration": 3, "demands": {k: 1}}]})
    data = {
        "tasks": tasks,
        "resources": [{"name": "A"}, {"name": "B"}],
        "precedences": [{"before": a, "after": b} for a, _, b, _ in chains],
    }
    instance, run = begun(RcpspProblem.parse(data))
    shop = blocking.blocking_of(instance)
    assert shop is not None
    blocking.construct(instance, shop, run)
    assert run.value() == 6


@pytest.mark.parametrize("swap", [True, False])
def test_blocking_search_agrees_with_the_whole_model(swap: bool) -> None:
    """No order of entry is shorter than what CP-SAT proves."""
    problem = shop_of(3, 3, 3, blocks=True, swap=swap)
    result = cpsched.solve(problem, time_limit=30.0, workers=1, deterministic=True, strict=True)
    assert result.status.name == "OPTIMAL"
    instance, _ = begun(problem)
    shop = blocking.blocking_of(instance)
    assert shop is not None
    best = min(
        kernels_blocking.decode(
            shop.jobs,
            swap,
            np.array(order),
            *kernels_blocking.room_of(shop.jobs, shop.machines),
            kernels_blocking.NEVER,
        )
        for order in permutations(range(3))
    )
    assert result.objective is not None
    assert result.objective <= best


def test_only_blocking_shops_forbid_swaps() -> None:
    """Searches that know no such rule are kept away from shops without swaps."""
    instance, _ = begun(shop_of(1, 3, 3, blocks=True, swap=False))
    assert orders.unit_shop_of(instance) is None
    assert orders.any_unit_shop_of(instance) is not None


def test_setups_are_no_blocking_shop() -> None:
    """A rule that the kernel does not know keeps it away."""
    data = shop_of(1, 2, 2, blocks=True).model_dump(mode="json")
    states = {task["id"]: 0 for task in data["tasks"]}
    data["setups"] = [{"resource": "M0", "states": states, "times": [[2]]}]
    run = Run(None, family("rcpsp"), (), Clock(None))
    instance = prepare(RcpspProblem.parse(data), run)
    assert blocking.blocking_of(instance) is None


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_everything_free_is_the_whole_problem(seed: int, swap: bool) -> None:
    """The neighbourhood in which all tasks are free has the optimum of the problem."""
    problem = shop_of(seed, 3, 3, blocks=True, swap=swap)
    result = cpsched.solve(problem, time_limit=60.0, workers=1, strict=True)
    assert result.status.name == "OPTIMAL"
    instance, run = begun(problem, together=False)
    shop = orders.any_unit_shop_of(instance)
    assert shop is not None
    assert run.incumbent is not None
    state = state_of(instance, run.incumbent.schedule)
    free = np.ones(instance.n, bool)
    sub = orders.sub_model(instance, shop, state, free, max(state.end), shortest=True)
    assert sub is not None
    outcome = engine.solve(sub.model, run.clock, workers=1, seed=1)
    assert outcome.status == "OPTIMAL"
    assert outcome.values is not None
    schedule = sub.extract(outcome.values)
    assert cpsched.validate(problem, schedule).valid
    assert schedule.makespan == result.objective


@pytest.mark.parametrize("kind", ["job", "blocking", "no swap", "open"])
def test_neighbourhoods_give_better_valid_schedules(kind: str) -> None:
    """Whatever is free, a solution passes the checker and is shorter than the incumbent."""
    order = "open" if kind == "open" else "random"
    blocks, swap = kind in ("blocking", "no swap"), kind != "no swap"
    problem = shop_of(2, 5, 4, blocks=blocks, swap=swap, order=order)
    instance, run = begun(problem, together=False)
    shop = orders.any_unit_shop_of(instance)
    assert shop is not None
    assert run.incumbent is not None
    rng = random.Random(1)
    improved = 0
    for neighbourhood in orders.order_neighbourhoods(instance, shop) * 4:
        sub = neighbourhood.build(run.incumbent.schedule, 0.5, rng)
        if sub is None:
            continue
        outcome = engine.solve(sub.model, run.clock, workers=1, seed=1)
        if outcome.values is not None:
            assert run.offer(sub.extract(outcome.values), neighbourhood.name)
            improved += 1
    assert improved


def test_nothing_free_keeps_every_order() -> None:
    """Without free tasks the incumbent's orders remain, and it cannot get shorter."""
    instance, run = begun(shop_of(4, 4, 3))
    shop = orders.unit_shop_of(instance)
    assert shop is not None
    assert run.incumbent is not None
    state = state_of(instance, run.incumbent.schedule)
    free = np.zeros(instance.n, bool)
    limit = max(state.end)
    for most, status in ((limit, "OPTIMAL"), (limit - 1, "INFEASIBLE")):
        sub = orders.sub_model(instance, shop, state, free, most)
        found = "INFEASIBLE"
        if sub is not None:
            found = engine.solve(sub.model, run.clock, workers=1, seed=1).status
        assert found == status


def test_open_shop_meets_its_bound() -> None:
    """A small open shop is solved to its machine bound and proved."""
    problem = shop_of(5, 4, 4, order="open")
    instance, run = begun(problem)
    shop = open_shop.open_shop_of(instance)
    assert shop is not None
    bound.bounds(instance, run)
    open_shop.search(instance, shop, run)
    result = cpsched.solve(problem, time_limit=20.0, workers=1, deterministic=True, strict=True)
    assert result.status.name == "OPTIMAL"
    assert run.value() == result.objective


@pytest.mark.parametrize("seed", range(3))
def test_iterated_greedy_finds_the_best_permutation(seed: int) -> None:
    """Five jobs: no order of all 120 is better; NEH alone is never better than the search."""
    table = np.random.default_rng(seed).integers(1, 30, (5, 4))
    best = min(kernels_flow.makespan_of(table, np.array(o)) for o in permutations(range(5)))
    rule = kernels_flow.makespan_of(table, flow.permutation(table, 0))
    found = kernels_flow.makespan_of(table, flow.permutation(table, 10))
    assert best == found <= rule


def test_permutation_schedules_are_valid() -> None:
    """The schedule of an order of the jobs has the order's makespan."""
    instance, run = begun(shop_of(7, 5, 3, order="flow"))
    jobs = jobs_of(instance)
    assert jobs is not None
    shop = flow.flow_of(jobs)
    assert shop is not None
    search = flow.IteratedGreedy(shop, 0)
    search.step(run, 1e-4)
    start = flow.starts_of(shop, search.best, instance.n)
    assert (start + instance.duration).max() == kernels_flow.makespan_of(shop.time, search.best)
    search.offer(instance, run, "test")


def test_job_shops_are_no_flow_shops() -> None:
    """Different routes are recognised as such."""
    instance, _ = begun(shop_of(8, 4, 3))
    jobs = jobs_of(instance)
    assert jobs is not None
    assert flow.flow_of(jobs) is None


@pytest.mark.parametrize("alternatives", [1, 2])
def test_rolling_windows_keep_the_schedule_valid(alternatives: int) -> None:
    """Windows from left to right, twice over, never lengthen the schedule they hold."""
    drawn = {"jobs": "30", "machines": "5", "alternatives": str(alternatives), "duration": "9"}
    make = next(g.make for g in GENERATORS if g.name == "shop")
    instance, run = begun(make(drawn))  # type: ignore[arg-type]
    jobs = jobs_of(instance)
    assert jobs is not None
    windows = rolling.RollingHorizon(instance, jobs, run)
    value = run.value()
    assert value is not None
    for _ in range(6):
        windows.step(run, 1)
        assert windows.value <= value
        assert run.value() == windows.value
        value = windows.value


@pytest.mark.parametrize("seed", range(5))
def test_one_machine_is_solved_to_its_optimum(seed: int) -> None:
    """Carlier's search agrees with all orders; Jackson's schedule is never longer."""
    rng = np.random.default_rng(seed)
    head, dur, tail = rng.integers(0, 20, 5), rng.integers(1, 9, 5), rng.integers(0, 20, 5)

    def length(order: tuple[int, ...]) -> int:
        now = longest = 0
        for i in order:
            now = max(now, int(head[i])) + int(dur[i])
            longest = max(longest, now + int(tail[i]))
        return longest

    best = min(length(order) for order in permutations(range(5)))
    assert kernels_machine.carlier(head, dur, tail, 300) == best
    assert kernels_machine.carlier(head, dur, tail, 1) <= best
    assert kernels_machine.jackson(head, dur, tail, np.zeros(5, np.int64)) <= best


def test_one_machine_bounds_hold_and_can_be_recomputed() -> None:
    """On random shops the bound stays below a schedule, and recomputing gives it again."""
    seen = 0
    for seed in range(12):
        problem = shop_of(seed, 6, 3)
        instance, run = begun(problem)
        one_machine.one_machine(instance, run)
        assert run.contradiction is None
        for known in run.bounds():
            if known.argument == "one-machine":
                seen += 1
                assert bound.recompute(problem, known) == known.value
    assert seen


def test_one_machine_needs_a_machine() -> None:
    """A claim about a resource that serves two tasks at a time is refused."""
    data = shop_of(1, 2, 2).model_dump(mode="json")
    data["resources"][0]["capacity"] = 2
    claim = cpsched.result.Bound(9, "one-machine", "makespan", {"resource": "M0", "nodes": 5})
    with pytest.raises(cpsched.ProblemError, match="machine"):
        bound.recompute(RcpspProblem.parse(data), claim)


def test_total_work_is_recomputed() -> None:
    """Two tasks that choose between two machines: half of their least work each."""
    modes = [{"duration": 7, "demands": {"A": 1}}, {"duration": 6, "demands": {"B": 1}}]
    tasks = [{"id": name, "modes": modes} for name in ("x", "y")]
    problem = RcpspProblem.parse({"tasks": tasks, "resources": [{"name": "A"}, {"name": "B"}]})
    claim = cpsched.result.Bound(6, "total-work", "makespan")
    assert bound.recompute(problem, claim) == 6
    assert cpsched.solve(problem, 10.0, workers=1, strict=True).objective == 7


def test_a_walk_over_neighbourhoods_keeps_what_it_offers_valid() -> None:
    """Blocking: each result is a schedule, and the incumbent gets no longer."""
    from cpsched.families.rcpsp.orders import Wander, unit_shop_of

    instance, run = begun(shop_of(3, 4, 3, blocks=True))
    shop = blocking.blocking_of(instance)
    units = unit_shop_of(instance)
    assert shop is not None
    assert units is not None
    blocking.construct(instance, shop, run)
    before = run.value()
    walk = Wander(instance, units, 6, 1)
    for _ in range(30):
        walk.step(run, 0.1)
    assert before is not None
    assert run.value() is not None
    assert run.value() <= before  # type: ignore[operator]
    assert run.contradiction is None
