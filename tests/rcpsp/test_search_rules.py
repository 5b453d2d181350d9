"""The search of problems with the rules of shops: lists, kept parts of a schedule, permutations."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.errors import Infeasible, OutOfTime
from cpsched.families import family
from cpsched.families.rcpsp.anneal_rules import CODES, RulesAnnealing, first_lists, rules_of
from cpsched.families.rcpsp.flow import PermutationSearch, permutation_of
from cpsched.families.rcpsp.greedy import greedy
from cpsched.families.rcpsp.prepare import Instance, prepare
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.schedule import state_of
from cpsched.result import Objective
from tests.rcpsp.random_problems import brute_force, random_problem, schedules
from tests.rcpsp.test_construct import LISTS, SETUPS, flow_shop

RULES = ("setup", "setup demands", "transport", "batching", "assignment", "disjunctive", "modes")


def begun(problem: RcpspProblem, *names: str) -> tuple[Instance, Run]:
    """A prepared instance and a strict run that counts work instead of time."""
    objectives = tuple(Objective(name) for name in names or ("makespan",))
    clock = Clock(30.0, deterministic=True)
    run = Run(problem, family("rcpsp"), objectives, clock, deterministic=True, strict=True)
    return prepare(problem, run), run


@pytest.mark.parametrize("seed", range(40))
def test_lists_respect_all_their_rules(seed: int) -> None:
    """What annealing offers passes the checker, and is worth what it claims."""
    rng = random.Random(seed)
    features = tuple(f for f in RULES if rng.random() < 0.5)
    problem = random_problem(seed, features, 4)
    name = rng.choice(list(CODES))
    try:
        instance, run = begun(problem, name)
    except Infeasible:
        return
    rules = rules_of(instance, [name])
    greedy(instance, run)
    if rules is None or run.incumbent is None:
        return
    search = RulesAnnealing(instance, rules, run, seed)
    for _ in range(10):
        search.step(run, 2e-3)
    assert run.contradiction is None
    assert run.incumbent is not None
    if run.incumbent.source == "annealing":
        assert search.value == run.incumbent.values


def test_lists_know_the_random_problems() -> None:
    """Most problems of the test above are for the lists."""
    known = 0
    for seed in range(40):
        rng = random.Random(seed)
        problem = random_problem(seed, tuple(f for f in RULES if rng.random() < 0.5), 4)
        try:
            instance, _ = begun(problem)
        except Infeasible:
            continue
        known += rules_of(instance, ["makespan"]) is not None
    assert known >= 20


def test_lists_find_an_optimum_with_setups() -> None:
    """On machines with setups some list gives a schedule of least makespan, and it is found."""
    for seed in range(6):
        problem = random_problem(seed, ("setup", "modes"))
        data = problem.model_dump(mode="json")
        for resource in data["resources"]:
            resource["capacity"] = 1
        for task in data["tasks"]:
            for mode in task["modes"]:
                mode["demands"] = {r: min(1, u) for r, u in mode["demands"].items()}
        problem = RcpspProblem.parse(data)
        instance, run = begun(problem)
        rules = rules_of(instance, ["makespan"])
        assert rules is not None
        greedy(instance, run)
        search = RulesAnnealing(instance, rules, run, seed)
        for _ in range(20):
            search.step(run, 2e-3)
        best = brute_force(problem, "makespan", int(run.value() or 0))
        assert run.value() == best


def test_lists_give_first_schedules() -> None:
    """A flow shop with setups has schedules from lists alone."""
    instance, run = begun(RcpspProblem.parse(flow_shop(8, 3, setups=SETUPS)))
    first_lists(instance, run)
    assert run.incumbent is not None
    assert run.incumbent.source == "greedy:list"


@pytest.mark.parametrize(
    "rest",
    [
        {"same_sequence": [{"lists": LISTS}]},
        {"horizon": 500, "resources": [{"name": f"M{k}", "no_idle": True} for k in range(3)]},
        {"reservoirs": True},
    ],
)
def test_lists_leave_other_rules_alone(rest: dict[str, object]) -> None:
    """Sequences, machines without idle time and tanks are not for the lists."""
    data = flow_shop(8, 3, setups=SETUPS)
    if rest.pop("reservoirs", None):
        data["resources"].append({"name": "T", "type": "reservoir", "initial": 1})
        data["tasks"][0]["events"] = [{"resource": "T", "amount": -1, "at": "start"}]
    instance, _ = begun(RcpspProblem.parse(data | rest))
    assert rules_of(instance, ["makespan"]) is None


@pytest.mark.parametrize("seed", range(30))
def test_what_is_kept_holds_in_the_schedule(seed: int) -> None:
    """A schedule satisfies the model in which all of it, or any part of it, is kept."""
    from ortools.sat.python import cp_model

    from cpsched.families.rcpsp.model import build
    from cpsched.families.rcpsp.model_frozen import Frozen

    rng = random.Random(seed)
    problem = random_problem(seed)
    known = list(islice(schedules(problem, 7), 50))
    if not known:
        return
    try:
        instance, run = begun(problem)
    except (Infeasible, OutOfTime):
        pytest.fail("there is a schedule")
    run.offer(rng.choice(known), "enumeration")
    assert run.incumbent is not None
    state = state_of(instance, run.incumbent.schedule)
    for share in (0.0, 0.5):
        free = np.array([rng.random() < share for _ in range(instance.n)]) & ~instance.fixed
        made = build(instance, run, 0, frozen=Frozen(instance, state, free))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        assert solver.solve(made.model) in (cp_model.OPTIMAL, cp_model.FEASIBLE)
        schedule = made.extract(list(solver.response_proto.solution))
        assert family("rcpsp").check(problem, schedule) == []
        after = state_of(instance, schedule)
        for i in np.flatnonzero(~free).tolist():
            kept = model_mode(instance, state.mode[i]) == model_mode(instance, after.mode[i])
            assert kept


def model_mode(instance: Instance, mode: int) -> int:
    """The mode that stands for one on machines that are alike."""
    from cpsched.families.rcpsp.model_redundant import twins_of

    for twins in twins_of(instance):
        for first, own in twins.modes.items():
            if mode in own:
                return first
    return mode


def test_the_search_improves_under_rules_without_lists() -> None:
    """Machines without idle time, total completion: the search beats the first schedules."""
    from cpsched.families.rcpsp.search import search

    machines = [{"name": f"M{k}", "no_idle": True} for k in range(3)]
    problem = RcpspProblem.parse(flow_shop(10, 3, resources=machines))
    instance, run = begun(problem, "weighted_flow_time")
    greedy(instance, run)
    before = run.value()
    assert before is not None
    run.clock = Clock(600.0, deterministic=True, stop=lambda: run.value() != before)
    search(instance, run)
    assert run.value() is not None
    assert run.value() < before  # type: ignore[operator]


def test_permutations_of_a_flow_shop_are_searched() -> None:
    """With one sequence on all machines the first schedule is that of the NEH rule."""
    data = flow_shop(8, 3, same_sequence=[{"lists": LISTS}])
    instance, run = begun(RcpspProblem.parse(data))
    assert permutation_of(instance) is not None
    greedy(instance, run)
    assert run.trace[0].source == "greedy:neh"
    flow = permutation_of(instance)
    assert flow is not None
    search = PermutationSearch(instance, flow, 1)
    search.step(run, 0.01)
    assert run.contradiction is None


def test_sequences_across_jobs_are_not_permutations() -> None:
    """Lists whose columns mix jobs, and shops with different routes, are left alone."""
    mixed = [LISTS[0], [*LISTS[1][1:], LISTS[1][0]]]
    instance, _ = begun(RcpspProblem.parse(flow_shop(8, 3, same_sequence=[{"lists": mixed}])))
    assert permutation_of(instance) is None
    data = flow_shop(8, 3, same_sequence=[{"lists": LISTS}])
    data["tasks"][0]["modes"][0]["demands"] = {"M2": 1}
    instance, _ = begun(RcpspProblem.parse(data))
    assert permutation_of(instance) is None
