"""Properties of random problems: equality with exhaustive search, and how optima must move."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cpsched
from cpsched.bound import recompute
from cpsched.core import engine
from cpsched.core.clock import Clock
from cpsched.families.memory.check import check, evaluate, overlapping
from cpsched.families.memory.formats import read_csv, write_csv
from cpsched.families.memory.generate import mapping
from cpsched.families.memory.greedy import online
from cpsched.families.memory.mapping_bound import Prices, least_time, prices_from, search_prices
from cpsched.families.memory.mapping_model import MappingModel
from cpsched.families.memory.mapping_prices import (
    TensorPrices,
    knapsacks,
    least_time_of,
    search_tensor_prices,
    settled,
)
from cpsched.families.memory.prepare import prepare
from cpsched.families.memory.problem import Buffer, Gap, MemoryProblem
from tests.memory.brute import stacked_height, tiny_mapping

SETTINGS = settings(max_examples=20, deadline=None, derandomize=True)


@st.composite
def rows(draw, most=6):
    """Rows (lower, length, size) of a few buffers."""
    row = st.tuples(st.integers(-3, 6), st.integers(0, 5), st.integers(0, 9))
    return draw(st.lists(row, min_size=1, max_size=most))


def problem_of(given_rows, *, scale=1, stretch=1, mirror=False):
    """The allocation problem of rows, with sizes and times scaled, or time turned around."""
    buffers = []
    for i, (lower, length, size) in enumerate(given_rows):
        start, end = stretch * lower, stretch * (lower + length)
        if mirror:
            start, end = -end, -start
        buffers.append(Buffer(id=str(i), size=scale * size, lower=start, upper=end))
    return MemoryProblem(buffers=tuple(buffers))


def height(problem):
    """The proved least height."""
    result = cpsched.solve(problem, 120.0, workers=1, strict=True)
    assert result.status == "OPTIMAL"
    return result.objective


@SETTINGS
@given(rows(8))
def test_optimum_is_that_of_exhaustive_search(given_rows):
    """The proved height equals exhaustive search."""
    problem = problem_of(given_rows)
    assert height(problem) == stacked_height(problem)


@SETTINGS
@given(rows(), st.integers(2, 9), st.integers(2, 9))
def test_scaling_scales_the_height(given_rows, scale, stretch):
    """Sizes times k give heights times k; times scaled or mirrored change nothing."""
    best = height(problem_of(given_rows))
    assert height(problem_of(given_rows, scale=scale, stretch=stretch)) == scale * best
    assert height(problem_of(given_rows, mirror=True)) == best


@SETTINGS
@given(rows(), st.randoms(use_true_random=False))
def test_more_buffers_never_lower_the_height(given_rows, rng):
    """The order of buffers does not matter, and leaving one out lowers nothing but the height."""
    best = height(problem_of(given_rows))
    shuffled = list(given_rows)
    rng.shuffle(shuffled)
    assert height(problem_of(shuffled)) == best
    assert height(problem_of(given_rows[1:])) <= best


@SETTINGS
@given(rows(), st.data())
def test_relaxing_never_raises_the_height(given_rows, data):
    """A gap, or leave to take over another buffer's place, never raises the height."""
    problem = problem_of(given_rows)
    best = height(problem)
    i = data.draw(st.integers(0, len(given_rows) - 1))
    lower, length, size = given_rows[i]
    change = {"in_place": tuple(b.id for b in problem.buffers if b.id != str(i))}
    if length > 1:
        change = {"gaps": (Gap(lower=lower, upper=lower + 1, window=(0, size // 2)),)}
    buffers = list(problem.buffers)
    buffers[i] = buffers[i].model_copy(update=change)
    relaxed = MemoryProblem(buffers=tuple(buffers))
    assert height(relaxed) <= best


@SETTINGS
@given(rows(12), st.integers(1, 4))
def test_first_allocation_is_valid(given_rows, alignment):
    """The allocation made without compiled kernels passes the checker, aligned or not."""
    problem = problem_of(given_rows)
    buffers = tuple(b.model_copy(update={"alignment": alignment}) for b in problem.buffers)
    problem = MemoryProblem(buffers=buffers)
    instance = prepare(problem, Clock(None))
    offsets, reached = online(instance, Clock(None))
    schedule = instance.schedule(offsets)
    assert check(problem, schedule) == []
    assert schedule.height <= reached * instance.unit


@SETTINGS
@given(st.lists(st.tuples(*[st.integers(0, 6)] * 4), max_size=12))
def test_sweep_finds_exactly_the_overlaps(corners):
    """The sweep over time reports the pairs that a comparison of all pairs finds."""
    rectangles = [(a, a + b, c, c + d, i) for i, (a, b, c, d) in enumerate(corners) if b and d]
    expected = {
        (p[4], q[4])
        for i, p in enumerate(rectangles)
        for q in rectangles[i + 1 :]
        if p[0] < q[1] and q[0] < p[1] and p[2] < q[3] and q[2] < p[3]
    }
    found = {
        tuple(sorted((rectangles[a][4], rectangles[b][4]))) for a, b in overlapping(rectangles)
    }
    assert found == expected


@SETTINGS
@given(rows())
def test_csv_round_trip(given_rows):
    """Writing MiniMalloc's CSV and reading it again gives the same buffers."""
    problem = problem_of(given_rows)
    assert read_csv(write_csv(problem, None), "x.csv", {}).buffers == problem.buffers


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_more_fast_memory_never_slows_down(seed):
    """A larger space, or a faster copy engine, never raises the execution time."""
    problem = tiny_mapping(seed)
    best = height(problem)
    space = problem.spaces[0]
    larger = space.model_copy(update={"capacity": space.capacity + 2})
    assert height(problem.model_copy(update={"spaces": (larger,)})) <= best
    engine = problem.copy_engine.model_copy(update={"engines": 2})
    assert height(problem.model_copy(update={"copy_engine": engine})) <= best


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 6), min_size=18, max_size=18), st.booleans())
def test_any_prices_bound_the_execution_time(seed, drawn, second):
    """Whatever the prices on bytes and copies, no mapping is faster than they say."""
    problem = tiny_mapping(seed)
    if second:
        space = problem.spaces[0].model_copy(update={"name": "near", "capacity": 2})
        buffers = []
        for b in problem.buffers:
            uses = [
                u.model_copy(update={"benefit": {**u.benefit, "near": 1 + u.start}}) for u in b.uses
            ]
            buffers.append(b.model_copy(update={"uses": tuple(uses)}))
        problem = problem.model_copy(
            update={"buffers": tuple(buffers), "spaces": (*problem.spaces, space)}
        )
    prices = Prices(problem)
    prices.memory[0] = 500 * np.array(drawn[:6])[: prices.moments]
    prices.memory[-1] = 500 * np.array(drawn[6:12])[: prices.moments]
    prices.engine[:] = 500 * np.array(drawn[12:])[: prices.moments]
    value = least_time(problem, prices)
    best = height(problem)
    own = TensorPrices(problem)
    own.memory[:] = np.resize(200 * np.array(drawn[:17]), own.memory.shape)
    own.engine[:] = prices.engine
    assert least_time_of(problem, own.data()) <= best
    assert value <= best
    assert value == least_time(problem, prices_from(problem, prices.data()))


def test_bounds_of_generated_mappings_hold():
    """The quick bounds of a mapping are below its optimum, whatever the seed."""
    for seed in range(4):
        problem = mapping(6, seed, training=bool(seed % 2))
        best = height(problem)
        bounds = cpsched.bound(problem)
        assert {"use-knapsack", "prices"} <= {b.argument for b in bounds}
        assert all(recompute(problem, b) == b.value <= best for b in bounds)


@SETTINGS
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=6),
    st.integers(0, 12),
)
def test_knapsacks_are_those_of_exhaustive_search(items, capacity):
    """The set of a moment fits, is worth what is claimed, and no other set is worth more."""
    sizes = [s for s, _ in items]
    price = np.array([[p, 0] for _, p in items])
    value, taken = knapsacks(price, sizes, capacity)
    sets = itertools.product((0, 1), repeat=len(items))
    worth = [
        sum(p * x for (_, p), x in zip(items, one, strict=True))
        for one in sets
        if sum(s * x for s, x in zip(sizes, one, strict=True)) <= capacity
    ]
    assert value == max(worth) == int((price * taken).sum())
    assert all(np.array(sizes) @ taken <= capacity)


def test_prices_per_tensor_prove_more_than_prices_per_byte():
    """Whole tensors leave gaps in the space, which prices per byte do not see."""
    problem = mapping(12, 0, training=True)
    best = int(height(problem))
    value, prices = search_prices(problem, best, lambda: True)
    tighter, own = search_tensor_prices(problem, prices, best, lambda: True)
    assert value < tighter == least_time_of(problem, own.data()) <= best


@pytest.mark.parametrize("seed", range(25))
def test_settled_choices_leave_an_optimal_mapping(seed):
    """Whatever the prices, what they settle below a time excludes no mapping within that time."""
    problem = tiny_mapping(seed) if seed % 5 else mapping(6, seed, training=True)
    best = int(height(problem))
    rng = np.random.default_rng(seed)
    own = TensorPrices(problem)
    own.memory[:] = rng.integers(0, 600, own.memory.shape)
    own.engine[:] = rng.integers(0, 2000, own.engine.shape)
    if seed % 3 == 0:
        _, plain = search_prices(problem, best, lambda: True)
        own = search_tensor_prices(problem, plain, best, lambda: True)[1]
    model = MappingModel(problem, Clock(None), settled=settled(own, best))
    outcome = engine.solve(model.build(), Clock(None), workers=1, seed=0)
    assert outcome.status == "OPTIMAL"
    assert evaluate(problem, model.extract(outcome.values), ["execution_time"]) == (best,)
