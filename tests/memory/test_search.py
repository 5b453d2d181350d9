"""Search, bounds and explanations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import cpsched
from cpsched.bound import recompute
from cpsched.core.clock import Clock
from cpsched.families.memory import bnb
from cpsched.families.memory import kernels_search as kernels
from cpsched.families.memory.bound import loads
from cpsched.families.memory.check import check
from cpsched.families.memory.generate import (
    graph,
    layered_allocation,
    mapping,
    random_allocation,
    steady_allocation,
)
from cpsched.families.memory.greedy import FirstFit, Skyline, stacked
from cpsched.families.memory.prepare import prepare
from cpsched.families.memory.problem import Buffer, MemoryProblem
from cpsched.families.memory.repack import Repacker
from cpsched.families.memory.subset_bound import Refuter, refuted
from cpsched.result import Bound
from tests.memory.brute import featured, least_height, plain, stacked_height


def parts_of(problem):
    """Instance and parts of a problem of plain buffers of positive size."""
    i = prepare(problem, Clock(None))
    args = (i.size, i.modulus, i.residue, i.pin, i.piece_block, i.piece_start, i.piece_end)
    return i, bnb.parts_of(*args)


@pytest.mark.parametrize("word", ["TWA", "SW", "NS"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_branch_and_bound_is_exact_in_every_order(word, dynamic, seed):
    """It finds an allocation at the least height and proves that none is lower."""
    problem = random_allocation(7, seed, largest=9, mean=0.4)
    best = stacked_height(problem)
    instance, parts = parts_of(problem)
    rank = bnb.order_by(parts, word)
    answers = [
        bnb.Search(parts, height // instance.unit, rank, dynamic=dynamic).run(10**6)
        for height in (best, best - instance.unit)
    ]
    assert answers == [kernels.SOLVED, kernels.EXHAUSTED]


@pytest.mark.parametrize("seed", range(30))
def test_branch_and_bound_is_exact_around_pins(seed):
    """It places pinned blocks where they are pinned, and finds an allocation when there is one."""
    rng = np.random.default_rng(seed)
    buffers = []
    for i in range(4):
        lower = int(rng.integers(3))
        data = {"offset": int(rng.integers(5))} if rng.random() < 0.5 else {}
        size, upper = int(rng.integers(1, 4)), lower + int(rng.integers(1, 4))
        buffers.append(Buffer(id=str(i), size=size, lower=lower, upper=upper, **data))
    problem = MemoryProblem(buffers=tuple(buffers))
    limit = 6
    best = least_height(problem, limit)
    if best is None:
        return
    instance, parts = parts_of(problem)
    rank = bnb.order_by(parts, "TWA")
    search = bnb.Search(parts, best // instance.unit, rank, dynamic=bool(seed % 2))
    assert search.run(10**6) == kernels.SOLVED
    assert check(problem, instance.schedule(search.offsets)) == []
    below = bnb.Search(parts, best // instance.unit - 1, rank)
    assert below.run(10**6) == kernels.EXHAUSTED


def test_interrupted_search_goes_on_where_it_stopped():
    """Steps of one node visit as many nodes as one long run."""
    problem = random_allocation(12, 3, largest=20, mean=0.4)
    _, parts = parts_of(problem)
    rank = bnb.order_by(parts, "TWA")
    capacity = int(parts.load.max())
    whole = bnb.Search(parts, capacity, rank)
    whole.run(10**6)
    steps = bnb.Search(parts, capacity, rank)
    while steps.run(1) == kernels.OPEN:
        pass
    assert steps.nodes == whole.nodes
    assert np.array_equal(steps.offsets, whole.offsets)


@pytest.mark.parametrize("seed", range(3))
def test_greedy_placements_are_valid(seed):
    """Skylines, first fit and stacking give allocations that the checker accepts."""
    problem = layered_allocation(60, seed)
    instance, parts = parts_of(problem)
    line = Skyline(instance)
    found = [line.place(score)[0] for score in line.scores]
    fit = FirstFit(parts)
    found += [fit.place(fit.by_word("SW"), best=best)[0] for best in (False, True)]
    found.append(stacked(instance)[0])
    for offsets in found:
        assert check(problem, instance.schedule(offsets)) == []


@pytest.mark.parametrize("seed", range(20))
def test_bounds_hold_and_are_recomputed(seed):
    """Every quick bound is at most the optimum and equals its recomputation."""
    problem = featured(seed) if seed % 2 else plain(seed, 5)
    result = cpsched.solve(problem, 10.0, workers=1, strict=True)
    for bound in cpsched.bound(problem):
        assert recompute(problem, bound) == bound.value
        assert result.objective is None or bound.value <= result.objective


@pytest.mark.parametrize("problem", [mapping(8, 1), graph(8, 1)], ids=["mapping", "ordering"])
def test_bounds_of_the_other_forms_hold(problem):
    """Quick bounds of mappings and orders are at most the optimum."""
    result = cpsched.solve(problem, 10.0, workers=1, strict=True)
    first = result.objective[0] if isinstance(result.objective, list) else result.objective
    bounds = cpsched.bound(problem)
    assert bounds
    assert recompute(problem, bounds[0]) == bounds[0].value <= first


def test_aligned_load_counts_the_rounding():
    """Buffers aligned to 4 of sizes 3, 3 and 2 need at least 4 + 4 + 2 bytes together."""
    text = "id,lower,upper,size,alignment\na,0,2,3,4\nb,0,2,3,4\nc,0,2,2,4\n"
    from cpsched.families.memory.formats import read_csv

    problem = read_csv(text, "x.csv", {})
    result = cpsched.solve(problem, 5.0, workers=1, strict=True)
    assert (result.objective, result.bound) == (10, 10)


def test_mapping_is_never_worse_than_the_prefetcher():
    """The result is at least as good as the last greedy schedule of the trace."""
    result = cpsched.solve(mapping(16, 2), 3.0, workers=1, strict=True)
    greedy = [p.objective for p in result.trace if p.source.startswith("greedy")]
    assert result.objective <= min(v for v in greedy if v is not None)


def test_explanation_names_capacity_and_buffers():
    """The conflict of two live buffers and a small capacity has three members."""
    problem = plain(3, 4).model_copy(update={"capacity": stacked_height(plain(3, 4)) - 1})
    answer = cpsched.explain(problem, 20.0, workers=1)
    assert answer.status == "INFEASIBLE"
    assert answer.minimal
    assert "capacity" in {c.group for c in answer.conflict}


def test_hint_is_repaired():
    """An allocation with two overlapping buffers becomes a valid one."""
    problem = random_allocation(12, 1)
    result = cpsched.solve(problem, 2.0, workers=1)
    first = result.schedule.buffers[0].model_copy(update={"offset": 0})
    broken = result.schedule.model_copy(
        update={"buffers": (first, *result.schedule.buffers[1:]), "height": None}
    )
    improved = cpsched.improve(problem, broken, 2.0, workers=1)
    assert improved.validation.valid
    assert improved.objective <= result.objective


def test_deterministic_runs_repeat():
    """Two deterministic runs give the same schedule."""
    problem = random_allocation(25, 5)
    runs = [cpsched.solve(problem, 1.0, seed=4, deterministic=True).schedule for _ in range(2)]
    assert runs[0] == runs[1]


def test_large_instances_get_a_checked_allocation():
    """Thousands of buffers are placed by the skyline alone."""
    problem = layered_allocation(1000, 0)
    result = cpsched.solve(problem, 1.0, workers=1)
    assert result.schedule is not None


@pytest.mark.parametrize(
    "problem",
    [random_allocation(9, 0), mapping(8, 0), graph(6, 0)],
    ids=["allocation", "mapping", "ordering"],
)
def test_picture_has_every_place(problem):
    """Every placed buffer has a bar."""
    from cpsched.families.memory.draw import draw

    schedule = cpsched.solve(problem, 2.0, workers=1).schedule
    figure = draw(problem, schedule)
    bars = sum(len(lane.bars) for lane in figure.lanes)
    assert bars == len(schedule.buffers) + len(schedule.copies)


@pytest.mark.parametrize("alignment", [1, 8])
def test_repacking_lowers_a_stacked_allocation(alignment):
    """Ejections and repacked windows turn a poor allocation into a lower one, which is valid."""
    problem = steady_allocation(24, 2)
    buffers = tuple(b.model_copy(update={"alignment": alignment}) for b in problem.buffers)
    pinned = buffers[3].model_copy(update={"offset": 16})
    problem = problem.model_copy(update={"buffers": (*buffers[:3], pinned, *buffers[4:])})
    instance, parts = parts_of(problem)
    offsets, height = stacked(instance)
    pieces = instance.piece_block, instance.piece_start, instance.piece_end
    packer = Repacker(parts, *pieces, Clock(None), np.random.default_rng(1))
    found = packer.lower(offsets, int(parts.load.max()), lambda: False)
    assert found is not None
    assert (found + parts.size).max() < height
    assert check(problem, instance.schedule(found)) == []


@pytest.fixture(scope="module")
def crowded():
    """A problem whose load is not tight, and a bound that shows it."""
    problem = steady_allocation(30, 2, low=10, high=40)
    instance = prepare(problem, Clock(None))
    found = []
    refuter = Refuter(instance, Clock(None), lambda value, data: found.append((value, data)))
    load = int(loads(instance).max()) * instance.unit
    refuter.run(50_000, 50, load, 200, lambda: len(found) > 0)
    value, data = found[-1]
    assert value > load
    return problem, Bound(value, "subset", "height", data)


def test_subset_bound_is_what_its_buffers_need(crowded):
    """The buffers of the bound are few, and alone they need its height, by searching again."""
    problem, bound = crowded
    named = tuple(b for b in problem.buffers if b.id in bound.data["buffers"])
    alone = problem.model_copy(update={"buffers": named})
    assert len(named) < len(problem.buffers)
    assert recompute(problem, bound) == bound.value
    assert cpsched.solve(alone, None, workers=1, strict=True).objective >= bound.value


def test_subset_bound_is_refused_when_its_data_prove_nothing(crowded):
    """A height that can be reached, and buffers that do not exist, are no proof."""
    problem, bound = crowded
    for change in ({"height": 400}, {"buffers": ["nobody"]}):
        with pytest.raises(cpsched.ProblemError):
            recompute(problem, dataclasses.replace(bound, data=bound.data | change))


@pytest.mark.parametrize("seed", range(16))
def test_bounds_by_subsets_hold(seed):
    """They never exceed the optimum, whatever pins, aliases, gaps and reuse there are."""
    problem = featured(seed, 4)
    result = cpsched.solve(problem, None, workers=1, strict=True)
    if result.status == "INFEASIBLE":
        return
    instance, best = prepare(problem, Clock(None)), result.objective
    found = []
    refuter = Refuter(instance, Clock(None), lambda value, data: found.append((value, data)))
    proved = refuter.run(2_000, 50, 0, 1000, lambda: False)
    assert proved <= best
    assert all(refuted(problem, data) == value for value, data in found)


@pytest.mark.parametrize("size", [50, 4000])
def test_short_limits_end_without_a_search(size):
    """With next to no time there is a checked allocation or an honest UNKNOWN, never an error."""
    result = cpsched.solve(layered_allocation(size, 0), 0.05, workers=1, strict=True)
    assert result.status in ("OPTIMAL", "FEASIBLE", "UNKNOWN")
    assert (result.schedule is not None) or size > 3000
    assert not result.message
