"""The bounds: none above the optimum, and each one recomputed from its argument and data."""

import itertools
import random

import numpy as np
import pytest

import cpsched
from cpsched.errors import Infeasible, ProblemError
from cpsched.families import family
from cpsched.families.rcpsp import bound as bounds
from cpsched.families.rcpsp import bound_objectives
from cpsched.families.rcpsp.arrays import kit_of
from cpsched.families.rcpsp.check import evaluate
from cpsched.families.rcpsp.heads import raise_heads
from cpsched.families.rcpsp.modes import first_modes
from cpsched.families.rcpsp.prepare import prepare
from cpsched.families.rcpsp.problem import RcpspProblem, RcpspSchedule, ScheduledTask
from cpsched.families.rcpsp.search import Prover
from cpsched.result import Bound
from tests.rcpsp.random_problems import schedules
from tests.rcpsp.test_kernels import run_of
from tests.rcpsp.test_oracle import HORIZON, OBJECTIVES, problem_of

SEEDS = range(12)


def scarce_problem(seed, n=6):
    """A tiny project whose resources bind, so that bounds differ from the critical path."""
    rng = random.Random(seed)
    tasks = [
        {
            "id": f"t{i}",
            "modes": [
                {
                    "duration": rng.randint(1, 6),
                    "demands": {"A": rng.randint(1, 7), "B": rng.choice([0, 3, 4])},
                }
            ],
        }
        for i in range(n)
    ]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if rng.random() < 0.25]
    return RcpspProblem.parse(
        {
            "tasks": tasks,
            "resources": [{"name": "A", "capacity": 8}, {"name": "B", "capacity": 6}],
            "precedences": [{"before": f"t{i}", "after": f"t{j}"} for i, j in pairs],
        }
    )


def optimum(instance, run):
    """The least makespan: some list gives it by serial generation."""
    kit, mode = kit_of(instance), first_modes(instance, run)
    arcs = instance.edges[:, :2].tolist()
    best = 10**9
    for order in itertools.permutations(range(instance.n)):
        place = {task: p for p, task in enumerate(order)}
        if all(place[i] < place[j] for i, j in arcs):
            start = kit.serial(np.array(order), mode)
            best = min(best, kit.makespan(start, mode))
    return best


def all_bounds(instance, run):
    """Every bound of every line, not only the best."""
    found = [bounds.critical_path(instance)]
    for group in bounds.lines(instance):
        found += bounds.best_windows(instance, group, run)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_no_bound_is_above_the_optimum(seed):
    """Each line's best window is at most what brute force finds."""
    problem = scarce_problem(seed)
    run = run_of(problem)
    instance = prepare(problem, run)
    best = optimum(instance, run)
    found = all_bounds(instance, run)
    assert {b.argument for b in found} >= {"critical-path", "energy-window"}
    assert all(b.value <= best for b in found)


def test_bounds_are_often_the_optimum():
    """On some tiny projects the best bound is the optimum: they are not merely weak."""
    tight = 0
    for seed in SEEDS:
        problem = scarce_problem(seed)
        run = run_of(problem)
        instance = prepare(problem, run)
        tight += max(b.value for b in all_bounds(instance, run)) == optimum(instance, run)
    assert tight >= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_every_bound_is_recomputed(seed):
    """From the problem, the argument and the data alone the same value follows."""
    problem = scarce_problem(seed)
    run = run_of(problem)
    for found in all_bounds(prepare(problem, run), run):
        assert bounds.recompute(problem, Bound.from_dict(found.to_dict())) == found.value


def test_every_kind_of_line_occurs():
    """Rounded demands, multiples, reduced capacities and cliques all take part above."""
    kinds = set()
    for seed in SEEDS:
        problem = scarce_problem(seed)
        instance = prepare(problem, run_of(problem))
        for group in bounds.lines(instance):
            kinds |= {key for line in group for key in line.data}
    assert kinds >= {"resource", "round", "multiples", "subset_sum", "tasks"}


def test_dual_feasible_functions_keep_fitting_sets_fitting():
    """Demands that fit together still fit after each function: what makes the lines proofs."""
    problem = scarce_problem(1, n=7)
    instance = prepare(problem, run_of(problem))
    for group in bounds.lines(instance):
        for line in group:
            if line.argument != "energy-window" or line.data["resource"] != "A":
                continue
            rate = line.work // np.maximum(1, instance.duration)
            for size in range(1, 8):
                for chosen in itertools.combinations(range(7), size):
                    if instance.demand[list(chosen), 0].sum() <= 8:
                        assert rate[list(chosen)].sum() <= line.capacity


def test_a_clique_of_compatible_tasks_is_refused():
    """Recomputing checks that the tasks of a clique exclude each other."""
    problem = RcpspProblem.parse(
        {
            "tasks": [{"id": i, "modes": [{"duration": 2}]} for i in "ab"],
        }
    )
    with pytest.raises(ProblemError):
        bounds.recompute(problem, Bound(4, "clique", "makespan", {"tasks": ["a", "b"]}))


@pytest.mark.parametrize("seed", range(4))
def test_refuted_makespans_end_at_the_optimum(seed):
    """Refuting upwards proves the optimum, and recomputing proves the last bound again."""
    problem = scarce_problem(seed)
    run = run_of(problem, strict=True)
    instance = prepare(problem, run)
    family("rcpsp").greedy(instance, run)
    run.raise_bound(bounds.critical_path(instance))
    prover = Prover(instance, run)
    while not run.done():
        prover.advance(1)
    best = optimum(instance, run)
    assert run.value() == run.bound() == best
    for found in run.bounds():
        assert bounds.recompute(problem, found) == found.value


def test_machines_with_alternatives_bound_the_makespan():
    """Seven tasks of 3 on any of two machines need 11, which is proved from the problem alone."""
    modes = [{"duration": 3, "demands": {name: 1}} for name in "AB"]
    problem = RcpspProblem.parse(
        {
            "tasks": [{"id": f"t{i}", "modes": modes} for i in range(7)],
            "resources": [{"name": name} for name in "AB"],
        }
    )
    run = run_of(problem)
    instance = prepare(problem, run)
    assert bounds.machine_sets(instance) == [(0, 1)]
    line = bounds.set_line(instance, (0, 1))
    (found,) = bounds.best_windows(instance, [line], run)
    assert (found.value, found.argument) == (11, "machine-set")
    assert bounds.recompute(problem, found) == 11


def test_delays_by_sub_projects():
    """Four unit-capacity tasks between a first and a last one delay the last by all their work."""
    tasks = [{"id": "first", "modes": [{"duration": 1, "demands": {}}]}]
    tasks += [{"id": f"m{k}", "modes": [{"duration": 3, "demands": {"A": 2}}]} for k in range(4)]
    tasks += [{"id": "last", "modes": [{"duration": 2, "demands": {}}]}]
    problem = RcpspProblem.parse(
        {
            "tasks": tasks,
            "resources": [{"name": "A", "capacity": 3}],
            "precedences": [{"before": "first", "after": f"m{k}"} for k in range(4)]
            + [{"before": f"m{k}", "after": "last"} for k in range(4)],
        }
    )
    instance = prepare(problem, run_of(problem))
    assert raise_heads(instance)
    assert instance.head.tolist() == [0, 1, 1, 1, 1, 13]
    assert instance.tail.tolist() == [15, 5, 5, 5, 5, 2]
    found = bounds.critical_path(instance)
    assert found.value == 15
    assert found.data["delays"]
    assert bounds.recompute(problem, found) == 15


@pytest.mark.parametrize("seed", SEEDS)
def test_raised_heads_hold_in_the_best_schedules(seed):
    """With raised heads and tails no bound is above the optimum either."""
    problem = scarce_problem(seed)
    run = run_of(problem)
    instance = prepare(problem, run)
    best = optimum(instance, run)
    raise_heads(instance)
    found = all_bounds(instance, run)
    assert all(b.value <= best for b in found)
    assert all(bounds.recompute(problem, b) == b.value for b in found)


OTHERS = [name for name in OBJECTIVES if name != "makespan"]


@pytest.mark.parametrize("seed", range(16))
def test_bounds_on_objectives_are_below_the_optimum_and_recomputed(seed):
    """On problems that mix all constraints no quick bound exceeds the best of all schedules."""
    problem = problem_of(seed)
    run = run_of(problem)
    try:
        instance = prepare(problem, run)
    except Infeasible:
        return
    values = [evaluate(problem, s, OTHERS) for s in schedules(problem, HORIZON)]
    for name, *found in zip(OTHERS, *values, strict=True) if values else ():
        proved = bound_objectives.quick(instance, name)
        if name in bound_objectives.FLUID:
            proved += [
                bound_objectives.fluid(instance, name, lines)
                for lines in bound_objectives.groups(instance)
            ]
        assert proved or name == "max_lateness"
        for bound in proved:
            assert bound.value <= min(found)
            assert bounds.recompute(problem, bound) == bound.value


def loaded_machine(objective, seed, n=6):
    """Tasks of one machine with due dates, weights and releases."""
    rng = random.Random(seed)
    return RcpspProblem.parse(
        {
            "tasks": [
                {
                    "id": f"t{i}",
                    "release": rng.choice([0, 0, 3, 8]),
                    "due": rng.randint(4, 20),
                    "weight": rng.randint(1, 5),
                    "modes": [{"duration": rng.randint(1, 6), "demands": {"M": 1}}],
                }
                for i in range(n)
            ],
            "resources": [{"name": "M", "capacity": 1}],
            "objectives": [objective],
        }
    )


@pytest.mark.parametrize("objective", sorted(bound_objectives.FLUID))
def test_work_on_a_machine_bounds_better_than_earliest_ends(objective):
    """On a loaded machine the relaxation is above the earliest ends, and never above the best."""
    above = 0
    for seed in range(6):
        problem = loaded_machine(objective, seed)
        instance = prepare(problem, run_of(problem))
        found = bound_objectives.fluid(instance, objective, [["M"]])
        above += found.value > bound_objectives.earliest_value(instance, objective)
        assert found.value <= least_on_one_machine(problem, objective)
    assert above >= 2


def least_on_one_machine(problem, objective):
    """The best value over all orders; waiting never helps these objectives."""
    best = 10**9
    for order in itertools.permutations(problem.tasks):
        now, done = 0, []
        for task in order:
            start = max(now, task.release)
            now = start + task.modes[0].duration
            done.append(ScheduledTask(task=task.id, mode=0, start=start, end=now))
        best = min(best, evaluate(problem, RcpspSchedule(tasks=tuple(done)), [objective])[0])
    return best


def test_no_task_is_late_is_proved_at_once():
    """A large machine where nothing is late needs no search: 0 is a bound of its own."""
    tasks = [
        {"id": f"t{i}", "due": 10_000, "modes": [{"duration": 3, "demands": {"M": 1}}]}
        for i in range(300)
    ]
    problem = RcpspProblem.parse(
        {
            "tasks": tasks,
            "resources": [{"name": "M", "capacity": 1}],
            "objectives": ["weighted_tardiness"],
        }
    )
    result = cpsched.solve(problem, 30.0, workers=1)
    assert (result.status, result.objective, result.bound) == ("OPTIMAL", 0, 0)
    assert [b.argument for b in result.bounds] == ["earliest-ends"]
