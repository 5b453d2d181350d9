"""Solving: against brute force and MiniZinc on tiny problems, and the claims about bounds."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

import cpsched
from cpsched.bound import recompute
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.errors import OutOfTime
from cpsched.families import family
from cpsched.families.serving import branch, kernels_pack, lagrange
from cpsched.families.serving.generate import GENERATORS
from cpsched.families.serving.greedy import POLICIES, peak_of_batch, run_policy
from cpsched.families.serving.prepare import prepare
from cpsched.families.serving.problem import Instance, Request, ServingProblem, Tool
from cpsched.families.serving.program import TimeIndexed
from cpsched.solve import objectives_of, run_pipeline
from tests.serving.helpers import brute_force, problem, random_problem, requests

MAKE = {g.name: g for g in GENERATORS}


def generated(name, **options):
    """A generated problem; options override the defaults."""
    defaults = {k: v[0] for k, v in MAKE[name].options.items()}
    return MAKE[name].make(defaults | {k: str(v) for k, v in options.items()})


@pytest.mark.parametrize("seed", range(12))
def test_latency_matches_brute_force(seed):
    """Tiny problems are proved, and the optimum is brute force's."""
    p = random_problem(seed, 4, arrivals=seed % 2 == 1)
    result = cpsched.solve(p, time_limit=10, workers=2)
    assert result.status == "OPTIMAL"
    assert result.objective == brute_force(p)


@pytest.mark.parametrize("seed", range(6))
def test_makespan_matches_brute_force(seed):
    """The same for makespans."""
    p = random_problem(100 + seed, 4, arrivals=seed % 2 == 1)
    result = cpsched.solve(p, time_limit=60, workers=2, objective="makespan")
    assert (result.status, result.objective) == ("OPTIMAL", brute_force(p, makespan=True))


@pytest.mark.parametrize("seed", range(4))
def test_every_bound_holds_and_recomputes(seed):
    """Every bound is at most the optimum, and its argument and data give its value again."""
    p = random_problem(300 + seed, 4, arrivals=True)
    for name, best in (
        ("total_latency", brute_force(p)),
        ("makespan", brute_force(p, makespan=True)),
    ):
        bounds = cpsched.bound(p, objective=name, time_limit=10)
        assert bounds
        for one in bounds:
            assert one.value <= best
            assert recompute(p, one) == one.value


@pytest.mark.parametrize("seed", range(6))
def test_any_prices_give_a_bound(seed):
    """Weak duality: random prices never prove more than the optimum."""
    p = random_problem(400 + seed, 4, arrivals=True)
    q = prepare(p)
    rng = np.random.default_rng(seed)
    value = np.zeros((1, 3, 12), np.int64)
    value[0, 0] = rng.integers(0, lagrange.SCALE, 12)
    prices = lagrange.Prices(int(q.release.min()), value)
    dual = lagrange.dual_value(q, prices, False)
    assert -(-dual // lagrange.SCALE) <= brute_force(p)


def test_program_bound_beats_the_simple_ones():
    """On a tight generated trace the time-indexed program gives the best quick bound."""
    p = generated("serving-trace", requests=25, ratio=3)
    bounds = {b.argument: b for b in cpsched.bound(p, time_limit=30)}
    program = max((b for a, b in bounds.items() if "time-indexed" in a), key=lambda b: b.value)
    assert program.value > max(bounds["alone"].value, bounds["smallest-volume-first"].value)
    assert recompute(p, program) == program.value


@pytest.mark.parametrize("seed", range(8))
def test_cliques_hold(seed):
    """On tight problems the cliques never prove more than the optimum."""
    p = generated("serving-synthetic", requests=3, seed=seed)
    small = p.model_copy(
        update={
            "requests": tuple(
                r.model_copy(update={"output": max(1, r.output // 5)}) for r in p.requests
            ),
        }
    )
    peak = max(r.prompt + r.output for r in small.requests)
    small = small.model_copy(update={"instances": (Instance(capacity=peak + seed % 3),)})
    best = brute_force(small)
    for one in cpsched.bound(small, time_limit=10):
        assert one.value <= best
        assert recompute(small, one) == one.value


def test_cliques_improve_tight_problems():
    """Looking ahead to the ends proves clearly more than rounds alone."""
    q = prepare(generated("serving-synthetic", requests=8, seed=1)).weighing("total_latency")
    program = TimeIndexed(q, int(q.length.sum()), False, Clock(60.0))
    before = lagrange.dual_value(q, program.solve(), False)
    for _ in range(3):
        assert program.tighten()
        prices = program.solve()
    assert lagrange.dual_value(q, prices, False) > 1.02 * before


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_are_valid(name):
    """Every policy gives schedules that the checker accepts, on one and on two instances."""
    for count in (1, 2):
        p = generated("serving-trace", requests=40, ratio=3, instances=count, rate=0.5)
        q = prepare(p)
        order, skip = POLICIES[name]
        start, machine = run_policy(q, order(q), skip=skip)
        assert cpsched.validate(p, q.schedule(start, machine)).valid


def test_ageing_stops_overtaking():
    """With an age of 0 looking past a blocked request is first come, first served."""
    p = generated("serving-trace", requests=40, ratio=2)
    q = prepare(p)
    order = POLICIES["fcfs"][0](q)
    strict = run_policy(q, order, skip=False)[0]
    assert (run_policy(q, order, skip=True, age=-1)[0] == strict).all()
    assert (run_policy(q, order, skip=True)[0] != strict).any()


def test_peak_formula_and_completion_points_agree():
    """Past-Future's peak formula, the completion points and every round give the same peak."""
    rng = np.random.default_rng(5)
    count, most = 10_000, 10
    there = rng.random((count, most)) < 0.7
    held = rng.integers(0, 50, (count, most)) * there
    left = rng.integers(1, 30, (count, most)) * there

    def use(t):
        return ((held + t) * (there & (left >= t))).sum(axis=1)

    points = np.max([use(left[:, [k]]) for k in range(most)], axis=0)
    every = np.max([use(t) for t in range(1, 31)], axis=0)
    formula = [peak_of_batch(h[w], r[w]) for h, r, w in zip(held, left, there, strict=True)]
    assert (points * there.any(axis=1) == formula).all()
    assert (every == formula).all()


def test_many_instances_share_the_work():
    """Two instances halve the makespan of two equal requests."""
    p = problem([(2, 4), (2, 4)], 6, count=2)
    assert cpsched.solve(p, time_limit=30, objective="makespan").objective == 4


@pytest.mark.parametrize("seed", range(6))
def test_branching_matches_brute_force(seed):
    """The search finds the optimum below any value above it, and nothing below the optimum."""
    p = random_problem(500 + seed, 4, arrivals=seed % 2 == 1)
    q = prepare(p).weighing("total_latency")
    prices = lagrange.Prices(int(q.release.min()), np.zeros((1, 3, 20), np.int64))
    best = brute_force(p)
    arrivals = sum(r.arrival for r in p.requests)
    search = branch.Search(q, [prices], best + arrivals + 4)
    while not search.run(1000):
        pass
    schedule = q.schedule(search.starts(), np.zeros(q.n, np.int64))
    report = cpsched.validate(p, schedule)
    assert report.valid
    assert report.objectives["total_latency"] == best
    assert branch.confirmed(q, best, [prices])
    assert not branch.confirmed(q, best + 1, [prices])


def test_small_latencies_are_proved_by_branching():
    """A tight instance of five requests is proved, and the proof can be repeated."""
    p = generated("serving-synthetic", requests=5, seed=1)
    result = cpsched.solve(p, time_limit=60, workers=2)
    assert result.status == "OPTIMAL"
    for one in result.bounds:
        if one.argument != "cp-sat":
            assert recompute(p, one) == one.value


@pytest.mark.parametrize("seed", range(4))
def test_backward_packings_are_valid(seed):
    """Packed from the end, every schedule keeps the memory law, at most the list's makespan."""
    p = generated("serving-trace", requests=30, ratio=3, seed=seed, instances=1 + seed % 2)
    q = prepare(p)
    late, where = np.zeros(q.n, np.int64), np.zeros(q.n, np.int64)
    top = kernels_pack.pack_search(
        np.argsort(-q.volume), q.length, q.offset, q.memory, np.stack([q.capacity, q.max_batch]),
        q.kind, 0, 3, seed, late, where,
    )  # fmt: skip
    start = top - late - q.length[q.kind[where], np.arange(q.n)]
    schedule = q.schedule(start, where)
    assert cpsched.validate(p, schedule).valid
    assert max(one.end for one in schedule.requests) == top


def test_goodput_counts_what_is_in_time():
    """With room for one of two requests before the deadline the heavier one is served."""
    rows = (
        Request(id="0", prompt=4, output=2, weight=1, end_by=2),
        Request(id="1", prompt=4, output=2, weight=5, end_by=2),
    )
    p = ServingProblem(
        requests=rows, instances=(Instance(capacity=6),), objectives=("goodput",), reject=True
    )
    result = cpsched.solve(p, time_limit=30)
    assert (result.status, result.objective) == ("OPTIMAL", 5)


def test_weights_change_the_order():
    """A heavy long request goes before light short ones when weights count."""
    rows = (
        Request(id="0", prompt=4, output=4, weight=50),
        Request(id="1", prompt=4, output=2),
        Request(id="2", prompt=4, output=2),
    )
    p = ServingProblem(requests=rows, instances=(Instance(capacity=8),))
    light = cpsched.solve(p, time_limit=30)
    heavy = cpsched.solve(p, time_limit=30, objective="weighted_latency")
    assert light.status == heavy.status == "OPTIMAL"
    assert min(light.schedule.requests, key=lambda r: r.start).request != "0"
    assert min(heavy.schedule.requests, key=lambda r: r.start).request == "0"


def test_shared_prefixes_save_rounds():
    """Requests with a common prefix run together where private prompts must queue."""
    rows = [Request(id=str(i), prompt=8, output=2, prefix=(1,)) for i in range(3)]
    p = ServingProblem(requests=tuple(rows), instances=(Instance(capacity=14),), prefix_block=8)
    apart = p.model_copy(
        update={"requests": tuple(r.model_copy(update={"prefix": ()}) for r in rows)}
    )
    shared = cpsched.solve(p, time_limit=30)
    private = cpsched.solve(apart, time_limit=30)
    assert shared.status == private.status == "OPTIMAL"
    assert (shared.objective, private.objective) == (6, 12)


def test_programs_wait_for_calls_and_tools():
    """A chain of calls with one tool place: ends, gaps and tool rounds add up."""
    rows = (
        Request(id="a", prompt=1, output=2, tool="t", tool_rounds=3),
        Request(id="b", prompt=1, output=2, tool="t", tool_rounds=3),
        Request(id="c", prompt=1, output=1, after=("a", "b"), gap=3),
    )
    p = ServingProblem(
        requests=rows, instances=(Instance(capacity=50),), tools=(Tool(name="t", capacity=1),)
    )
    result = cpsched.solve(p, time_limit=30, objective="makespan")
    assert (result.status, result.objective) == ("OPTIMAL", 9)


def test_chunked_prefill_obeys_the_budget():
    """A budget of 3 lets one prefill of 2 per round run beside one decode."""
    p = problem([(4, 2), (4, 2)], 99, token_budget=3, prefill_chunk=2)
    result = cpsched.solve(p, time_limit=30, objective="makespan")
    assert result.status == "OPTIMAL"
    assert result.objective == 6


def test_impossible_requests_are_infeasible_with_a_reason():
    """A prompt that fits but cannot grow to its end is infeasible, and explain says why."""
    p = problem([(3, 4)], 5)
    result = cpsched.solve(p, time_limit=30)
    assert result.status == "INFEASIBLE"
    conflict = cpsched.explain(p, time_limit=10).conflict
    assert [c.group for c in conflict] == ["capacity"]


def test_slo_that_cannot_hold_is_explained():
    """Two requests, room for one before the deadline, and both demanded."""
    p = problem(requests((4, 2), (4, 2), end_by=3), 7, slo_percent=100.0)
    assert cpsched.solve(p, time_limit=30).status == "INFEASIBLE"
    groups = {c.group for c in cpsched.explain(p, time_limit=20).conflict}
    assert groups == {"capacity", "slo"}


def test_hint_is_kept():
    """Improving an optimal schedule says so."""
    p = random_problem(3, 4)
    best = cpsched.solve(p, time_limit=10)
    again = cpsched.improve(p, best, time_limit=10)
    assert again.certified
    assert again.objective == best.objective


def test_deterministic_runs_agree():
    """Two deterministic runs reach the same schedule and bound by the same improvements."""
    p = generated("serving-trace", requests=9, ratio=2)
    one, two = (
        cpsched.solve(p, time_limit=30.0, deterministic=True, seed=4, workers=1) for _ in range(2)
    )
    assert one.status == "OPTIMAL"
    # Bounds are polled, so the trace may skip some of them; improvements are never skipped.
    steps = [list(dict.fromkeys(t.objective for t in r.trace)) for r in (one, two)]
    assert steps[0] == steps[1]
    assert one.schedule == two.schedule
    assert one.bound == two.bound


def test_running_requests_are_frozen():
    """A request that runs keeps its start, and the others plan around what it will hold."""
    running = Request(id="r", prompt=2, output=6, start=-2, instance=0)
    p = ServingProblem(
        requests=(running, Request(id="n", prompt=3, output=2)),
        instances=(Instance(capacity=10),),
    )
    result = cpsched.solve(p, time_limit=30, objective="makespan")
    assert result.status == "OPTIMAL"
    assert result.objective == 4 or result.objective == 6
    assert cpsched.validate(p, result).valid


def best_subset(rows, need, cost):
    """Cheapest subset that frees enough, by trying all."""
    return min(
        sum(cost(r) for r in chosen)
        for k in range(len(rows) + 1)
        for chosen in itertools.combinations(rows, k)
        if sum(r.held for r in chosen) >= need
    )


@pytest.mark.parametrize("seed", range(8))
def test_preemption_is_exact(seed):
    """The victims are the cheapest ones over all subsets, squares of contexts included."""
    rng = random.Random(seed)
    rows = tuple(Request(id=str(i), prompt=1, held=rng.randint(1, 12)) for i in range(8))
    need = rng.randint(1, sum(r.held for r in rows))
    p = ServingProblem(question="preemption", requests=rows, need=need, cost_power=2)
    result = cpsched.solve(p, time_limit=30)
    assert result.status == "OPTIMAL"
    assert result.objective == best_subset(rows, need, lambda r: r.held**2)


def test_preemption_beats_shortest_first():
    """Contexts 3, 3, 4 and a need of 4: shortest first pays 18, one victim pays 16."""
    rows = tuple(Request(id=str(i), prompt=c, held=c) for i, c in enumerate((3, 3, 4)))
    p = ServingProblem(question="preemption", requests=rows, need=4, cost_power=2)
    assert cpsched.solve(p, time_limit=30).objective == 16


def test_preemption_swaps_where_cheaper():
    """Swapping is used as far as host memory goes."""
    rows = tuple(Request(id=str(i), prompt=5, held=5, cost=10, swap_cost=2) for i in range(3))
    p = ServingProblem(question="preemption", requests=rows, need=10, host_free=5)
    result = cpsched.solve(p, time_limit=30)
    assert (result.status, result.objective) == ("OPTIMAL", 12)


def test_routing_trades_affinity_for_balance():
    """Four requests on two prefixes and two instances: each prefix stays on one."""
    rows = tuple(Request(id=str(i), prompt=10, output=2, prefix=(i % 2,)) for i in range(4))
    p = ServingProblem(
        question="routing", requests=rows, instances=(Instance(count=2),), prefix_block=8
    )
    result = cpsched.solve(p, time_limit=30)
    assert (result.status, result.objective) == ("OPTIMAL", 16)


def test_routing_balances_with_few_migrations():
    """A limit on moved units allows one of two useful migrations."""
    rows = tuple(Request(id=str(i), prompt=4, output=0, instance=0) for i in range(4))
    p = ServingProblem(question="routing", requests=rows, instances=(Instance(count=2),))
    free = cpsched.solve(p, time_limit=30)
    assert (free.objective, len(free.schedule.migrations)) == (8, 2)
    tied = cpsched.solve(p.model_copy(update={"move_limit": 4}), time_limit=30)
    assert (tied.objective, len(tied.schedule.migrations)) == (12, 1)


def test_fewest_instances_with_a_witness():
    """Four requests that need the whole memory at once need as many instances as fit in time."""
    rows = requests(*[(4, 2)] * 4, first_token_by=3, end_by=4)
    p = ServingProblem(
        question="capacity",
        requests=rows,
        instances=(Instance(capacity=6, count=5),),
        slo_percent=100.0,
    )
    result = cpsched.solve(p, time_limit=30)
    assert (result.status, result.objective) == ("OPTIMAL", 2)
    assert cpsched.validate(p, result).valid


def test_cheapest_mix_of_types():
    """One large cheap instance replaces three small ones."""
    rows = requests(*[(4, 2)] * 3, end_by=2)
    p = ServingProblem(
        question="capacity",
        objectives=("cost",),
        requests=rows,
        instances=(
            Instance(name="small", capacity=6, count=3, price=2),
            Instance(name="large", capacity=18, price=5),
        ),
        slo_percent=100.0,
    )
    result = cpsched.solve(p, time_limit=30)
    assert (result.status, result.objective) == ("OPTIMAL", 5)
    for one in result.bounds:
        if one.argument != "cp-sat":
            assert recompute(p, one) == one.value


def test_placement_is_exact_when_small():
    """Five loads on two GPUs: the best split, proved."""
    p = ServingProblem.parse(
        {
            "kind": "serving",
            "question": "placement",
            "items": [{"id": str(i), "load": x} for i, x in enumerate((5, 4, 3, 3, 3))],
            "gpus": [{"name": "0"}, {"name": "1"}],
        }
    )
    loose = cpsched.solve(p, time_limit=30)
    assert loose.status == "OPTIMAL"
    assert loose.objective == pytest.approx(9)


def test_expert_placement_beats_packing():
    """Swaps never lose against EPLB's packing and the even share bounds them."""
    p = generated("serving-experts", experts=32, replicas=40, gpus=8, nodes=2, seed=3)
    result = cpsched.solve(p, time_limit=3)
    first = next(t.objective for t in result.trace if t.objective is not None)
    assert result.objective <= first
    assert result.bound <= result.objective
    assert cpsched.validate(p, result).valid


def test_experts_of_a_group_share_a_node():
    """Hierarchical placement keeps groups on nodes and fills the slots."""
    p = generated("serving-experts", experts=32, replicas=40, gpus=8, nodes=2, groups=4)
    assert cpsched.solve(p, time_limit=0.5).schedule is not None


def test_engine_settings_hold_the_plan():
    """A plan written as engine settings names its peaks."""
    from cpsched.families.serving.writers import engine_settings

    p = problem([(2, 3), (2, 3)], 10, block_tokens=16)
    result = cpsched.solve(p, time_limit=30)
    text = engine_settings(p, result.schedule)
    assert '"max_num_seqs": 2' in text
    assert '"kv_cache_tokens": 160' in text


def test_program_stops_at_the_clock():
    """A linear program with no time left gives nothing instead of waiting."""
    q = prepare(generated("serving-trace", requests=20))
    assert TimeIndexed(q, 60, False, Clock(10.0)).solve() is not None
    with pytest.raises(OutOfTime):
        TimeIndexed(q, 60, False, Clock(0.0))


@pytest.mark.parametrize("name", ["capacity-120", "routing-40", "placement-experts-64"])
def test_the_time_is_used(name):
    """What is not proved is searched until counted work reaches the limit."""
    p = cpsched.load(f"instances/serving/{name}.json")
    run = Run(p, family("serving"), objectives_of(family("serving"), p, None),
              Clock(0.4, deterministic=True), deterministic=True)  # fmt: skip
    run.clock.limit, run.clock.started = 0.4, run.clock.started + 1e6  # no wall
    run_pipeline(run, None)
    assert run.optimal() or run.clock.remaining() == 0.0
