"""The array kernels: what they generate is valid, and improvement never makes it worse."""

import random

import numpy as np
import pytest

import cpsched
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.rcpsp import kernels, kernels_population
from cpsched.families.rcpsp.arrays import kit_of, pack
from cpsched.families.rcpsp.greedy import priority
from cpsched.families.rcpsp.modes import first_modes
from cpsched.families.rcpsp.population import Population, restarts_of
from cpsched.families.rcpsp.prepare import prepare
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.result import Objective

SEEDS = range(8)


def plain_problem(seed, n=14, modes=1):
    """A random project that the array kernels handle, feasible by construction."""
    rng = random.Random(seed)
    resources = [{"name": f"R{r}", "capacity": rng.randint(4, 9)} for r in range(3)]
    if modes > 1:
        resources.append({"name": "N", "type": "nonrenewable", "capacity": 4 * n})
    tasks = []
    for i in range(n):
        choice = []
        for _ in range(modes):
            demands = {f"R{r}": rng.randint(0, 4) for r in range(3)}
            if modes > 1:
                demands["N"] = rng.randint(1, 4)
            choice.append({"duration": rng.randint(0, 9), "demands": demands})
        tasks.append({"id": str(i), "modes": choice})
    precedences = [
        {"before": str(i), "after": str(j), "min_lag": rng.choice([0, 0, 0, 2])}
        for j in range(1, n)
        for i in rng.sample(range(j), min(j, rng.randint(0, 2)))
    ]
    return RcpspProblem.parse({"tasks": tasks, "resources": resources, "precedences": precedences})


def run_of(problem, names=("makespan",), **options):
    """A run without a time limit."""
    objectives = tuple(Objective(name) for name in names)
    return Run(problem, family("rcpsp"), objectives, Clock(None), **options)


def setting(seed, **options):
    """Instance, kit, first modes and run of a random plain project."""
    problem = plain_problem(seed, **options)
    run = run_of(problem)
    instance = prepare(problem, run)
    return instance, kit_of(instance), first_modes(instance, run), run


def violations(instance, start, mode):
    """What the checker finds wrong with starts and modes."""
    schedule = schedule_of(instance, start.tolist(), mode.tolist())
    return family("rcpsp").check(instance.problem, schedule)


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_serial_and_parallel_generation_are_valid(seed, modes):
    """Both schemes give schedules that the checker accepts."""
    instance, kit, mode, _ = setting(seed, modes=modes)
    rank = priority(instance, "lft")
    assert not violations(instance, kit.serial(kit.list_by(rank), mode), mode)
    assert not violations(instance, kit.by_rank(rank, mode, lambda: False), mode)


@pytest.mark.parametrize("seed", SEEDS)
def test_choice_of_modes_is_valid(seed):
    """Serial generation with choice of modes keeps capacities and budgets."""
    instance, kit, mode, _ = setting(seed, modes=3)
    start, chosen = kit.serial_modes(kit.list_by(priority(instance, "lst")), mode)
    assert not violations(instance, start, chosen)


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_justification_is_valid_and_never_longer(seed, modes):
    """Forward-backward improvement keeps the rules and the makespan, or betters it."""
    instance, kit, mode, _ = setting(seed, modes=modes)
    rng = np.random.default_rng(seed)
    start = kit.serial(kit.list_by(rng.permutation(instance.n)), mode)
    after, chosen = kit.improve(start, mode)
    assert not violations(instance, after, chosen)
    assert kit.makespan(after, chosen) <= kit.makespan(start, mode)


def test_justification_helps():
    """On some random list it shortens the schedule: the test above is not vacuous."""
    better = 0
    for seed in SEEDS:
        _, kit, mode, _ = setting(seed, n=25)
        start = kit.serial(kit.list_by(np.random.default_rng(seed).permutation(25)), mode)
        better += kit.makespan(*kit.improve(start, mode)) < kit.makespan(start, mode)
    assert better


def test_limited_justification_is_valid():
    """With a window every task moves at most that far, and the schedule stays valid."""
    instance, kit, mode, _ = setting(3, n=30)
    start = kit.serial(kit.list_by(np.random.default_rng(3).permutation(30)), mode)
    before = kit.makespan(start, mode)
    order = np.zeros(30, np.int64)
    used = np.zeros(0, np.int64)
    after = kernels.justify(
        kit.net,
        kit.back,
        mode,
        used,
        False,
        before,
        2,
        kit.free,
        kit.count,
        order,
        kit.mirrored,
        kit.reach,
        start,
    )
    assert after <= before
    assert not violations(instance, start, mode)


@pytest.mark.parametrize("seed", SEEDS)
def test_crossovers_follow_the_precedences(seed):
    """Children of both crossovers, mutated, are permutations in which no task precedes its own."""
    instance, kit, _, _ = setting(seed)
    n, net = instance.n, kit.net
    numbers = np.random.default_rng(seed)
    rng = np.array([seed + 1], np.int64)
    mother, father = (kit.list_by(numbers.permutation(n)) for _ in range(2))
    for low, high in ((0, 5), (3, 9), (6, n)):
        for cross, taken in (
            (kernels.crossover, np.zeros(n, np.bool_)),
            (kernels_population.block_crossover, np.zeros(n, np.int64)),
        ):
            child = np.zeros(n, np.int64)
            cross(mother, father, low, high, taken, child)
            kernels_population.mutate(net, child, kernels.draw(rng, n), 4)
            assert sorted(child.tolist()) == list(range(n))
            place = np.argsort(child)
            for before, after in instance.edges[:, :2].tolist():
                assert place[before] < place[after]


def test_packed_demands_compare_like_plain_ones():
    """A packed subtraction shows exactly when some resource is short."""
    numbers = np.random.default_rng(5)
    capacity = np.array([3, 70, 1, 900, 12, 2**40, 5], np.int64)
    demand = np.minimum(numbers.integers(0, capacity + 1, (40, 7)), capacity)
    packed = pack(demand, capacity, np.arange(41))
    for i, j in numbers.integers(0, 40, (200, 2)).tolist():
        left = packed.full - packed.need[i]
        fits = bool(((left - packed.need[j]) & packed.guard == packed.guard).all())
        assert fits == bool((demand[i] + demand[j] <= capacity).all())


@pytest.mark.parametrize("modes", [1, 3])
def test_population_members_are_valid(modes):
    """Every member is a valid schedule of the value it is worth, and the best gets no worse."""
    instance, kit, mode, _ = setting(2, modes=modes)
    population = Population(instance, kit, 4, 8)
    while not population.full:
        population.add_random(priority(instance, "lft"), mode, 0.5)
    before = int(population.worth.min())
    best = population.evolve(60)
    assert int(population.worth[best]) <= before
    for k in range(8):
        start, chosen = population.starts[k], population.modes[k]
        assert not violations(instance, start, chosen)
        assert kit.makespan(start, chosen) == population.worth[k]


@pytest.mark.parametrize("name", ["weighted_tardiness", "weighted_flow_time", "max_lateness"])
def test_population_values_are_the_definition(name):
    """The kernel's objective value equals the checker's."""
    problem = plain_problem(6)
    data = problem.to_dict()
    for i, task in enumerate(data["tasks"]):
        task["due"], task["weight"] = 3 + i, 1 + i % 3
    problem = RcpspProblem.parse(data)
    run = run_of(problem, (name,))
    instance = prepare(problem, run)
    kit, mode = kit_of(instance), first_modes(instance, run)
    start = kit.serial(kit.list_by(priority(instance, "lft")), mode)
    schedule = schedule_of(instance, start.tolist(), mode.tolist())
    code = int(kit.net.objective[0])
    assert (kernels.value(kit.net, code, mode, start),) == family("rcpsp").evaluate(
        problem, schedule, [name]
    )


def test_restarts_are_repeatable():
    """Counted work and a seed give the same schedules, whatever the speed of the machine."""
    found = []
    for _ in range(2):
        problem = plain_problem(9, n=20)
        run = run_of(problem, deterministic=True)
        instance = prepare(problem, run)
        family("rcpsp").greedy(instance, run)
        search = restarts_of(instance, kit_of(instance), run, 5)
        search.population.knobs[1] = 50
        for _ in range(4):
            search.step(run, 2e-3)
        found.append(search.population.starts.tolist())
    assert found[0] == found[1]


def test_a_search_stopped_before_its_first_member_offers_nothing():
    """A population thread may be stopped at once: its empty places are no schedules."""
    problem = plain_problem(9, n=20, modes=2)
    run = run_of(problem, ("weighted_flow_time",))
    instance = prepare(problem, run)
    family("rcpsp").greedy(instance, run)
    before = run.incumbent
    restarts_of(instance, kit_of(instance), run, 5).finish(run)
    assert run.contradiction is None
    assert run.incumbent is before


def test_improving_a_stretched_schedule():
    """A schedule later than the kernels' arrays reach is generated anew before it is improved."""
    problem = plain_problem(3, n=8)
    run = run_of(problem)
    instance = prepare(problem, run)
    kit, mode = kit_of(instance), first_modes(instance, run)
    start = kit.serial(kit.list_by(np.arange(8)), mode) + 10 * kit.horizon
    start, mode = kit.improve(start, mode)
    assert kit.makespan(start, mode) <= kit.horizon
    schedule = schedule_of(instance, start.tolist(), mode.tolist())
    assert not family("rcpsp").check(problem, schedule)


def test_stretched_hint():
    """A valid hint far behind the horizon enters the population search unharmed."""
    problem = plain_problem(4, n=12)
    best = cpsched.solve(problem, time_limit=5, workers=1).schedule.to_dict()
    for task in best["tasks"]:
        task["start"] += 10_000
        task["end"] += 10_000
    result = cpsched.improve(problem, best, time_limit=1.0, workers=2)
    assert result.schedule is not None
