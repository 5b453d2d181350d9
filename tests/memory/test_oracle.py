"""The solver against exhaustive search by the checker, and against MiniZinc with Gecode."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest

import cpsched
from cpsched.families.memory.check import check, evaluate
from cpsched.families.memory.check_mapping import copy_time
from cpsched.families.memory.check_ordering import loads
from cpsched.families.memory.formats import write_minizinc
from cpsched.families.memory.generate import graph
from cpsched.families.memory.problem import MemorySchedule, PlacedBuffer, ScheduledCopy
from tests.memory.brute import featured, least_height, plain, stacked_height, tiny_mapping

MODELS = Path(__file__).resolve().parents[2] / "models"


def proved(problem, **settings):
    """The proved optimum; None when proved infeasible."""
    result = cpsched.solve(problem, 120.0, workers=1, strict=True, **settings)
    assert result.stop_reason == "proved"
    return result.objective


@pytest.mark.parametrize("seed", range(30))
def test_plain_buffers_reach_the_least_height(seed):
    """The optimum equals exhaustive search over resting positions."""
    problem = plain(seed, 3 + seed % 5)
    assert proved(problem) == stacked_height(problem)


@pytest.mark.parametrize("seed", range(40))
def test_every_feature_reaches_the_least_height(seed):
    """Alignments, gaps, windows, pins, aliases and reuse: optimum and infeasibility are exact."""
    problem = featured(seed)
    assert proved(problem) == least_height(problem, 9)


@pytest.mark.parametrize("seed", range(10))
def test_capacity_decides_feasibility(seed):
    """Within the optimal height there is an allocation, below it there is none."""
    problem = plain(seed, 5)
    best = stacked_height(problem)
    fits = problem.model_copy(update={"capacity": best})
    assert cpsched.solve(fits, 120.0, workers=1, strict=True).status == "OPTIMAL"
    if best:
        tight = problem.model_copy(update={"capacity": best - 1})
        assert cpsched.solve(tight, 120.0, workers=1, strict=True).status == "INFEASIBLE"


def by_minizinc(minizinc, problem, folder, model, wanted):
    """Values in Gecode's last solution of a model; None when it proves that there is none."""
    data = folder / "data.json"
    data.write_text(write_minizinc(problem))
    options = ("--solver", "gecode", "--output-mode", "json", "--output-objective")
    run = subprocess.run(
        [minizinc, *options, str(MODELS / model), str(data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    if "UNSATISFIABLE" in run.stdout:
        return None
    assert "==========" in run.stdout
    return json.loads(run.stdout.split("----------")[-2])[wanted]


@pytest.mark.parametrize("seed", range(12))
def test_minizinc_agrees(seed, minizinc, tmp_path):
    """The MiniZinc model, on another solver, has the same optimum."""
    problem = featured(seed + 1000, 4)
    assert proved(problem) == by_minizinc(minizinc, problem, tmp_path, "memory.mzn", "height")


@pytest.mark.parametrize("seed", range(5))
def test_minizinc_agrees_on_mappings(seed, minizinc, tmp_path):
    """Several residences per tensor, copies both ways: the same execution time."""
    problem = tiny_mapping(seed + 100)
    theirs = by_minizinc(minizinc, problem, tmp_path, "memory_mapping.mzn", "_objective")
    assert proved(problem) == theirs


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("objective", ["peak_memory", "height"])
def test_minizinc_agrees_on_orders(seed, objective, minizinc, tmp_path):
    """Orders, with recomputation on odd seeds: the same peak, the same height."""
    problem = graph(4 if seed % 2 else 5, seed + 50, recompute=bool(seed % 2))
    problem = problem.model_copy(update={"objectives": (objective,)})
    buffers = tuple(b.model_copy(update={"size": 1 + b.size % 4}) for b in problem.buffers)
    problem = problem.model_copy(update={"buffers": buffers})
    theirs = by_minizinc(minizinc, problem, tmp_path, "memory_ordering.mzn", "_objective")
    assert proved(problem) == theirs


def all_mappings(problem):
    """Every mapping in which residences end with uses or copies out, by brute force."""
    options = []
    space = problem.spaces[0]
    for b in problem.buffers:
        duration = copy_time(problem, b)
        residences = [
            (start, end, offset)
            for start in range(b.lower, b.upper)
            for end in range(start + 1, b.upper + 1)
            for offset in range(space.capacity - b.size + 1)
        ]
        mine = [((), ())]
        for start, end, offset in residences:
            place = PlacedBuffer(buffer=b.id, offset=offset, start=start, end=end)
            copies = [()]
            if b.input or start > b.lower:
                copies = [
                    (
                        ScheduledCopy(
                            buffer=b.id, source="slow", target="fast", start=start,
                            end=start + duration,
                        ),
                    )
                ]  # fmt: skip
            else:
                copies += [
                    (
                        ScheduledCopy(
                            buffer=b.id, source="fast", target="slow", start=s, end=s + duration
                        ),
                    )
                    for s in range(start, end - duration + 1)
                ]
            mine += [((place,), c) for c in copies]
        options.append(mine)
    for combination in itertools.product(*options):
        yield MemorySchedule(
            buffers=tuple(p for places, _ in combination for p in places),
            copies=tuple(c for _, copies in combination for c in copies),
        )


@pytest.mark.parametrize("seed", [s for s in range(60) if len(tiny_mapping(s).buffers) == 2][:8])
def test_mapping_is_at_least_as_good_as_one_residence_each(seed):
    """No mapping with at most one residence per tensor beats the proved optimum."""
    problem = tiny_mapping(seed)
    ours = proved(problem)
    best = min(
        evaluate(problem, s, ["execution_time"])[0]
        for s in all_mappings(problem)
        if not check(problem, s)
    )
    several = any(len(b.uses) > 1 for b in problem.buffers)
    assert ours <= best
    assert ours == best or several


@pytest.mark.parametrize("seed", range(6))
def test_order_has_the_least_peak(seed):
    """Without recomputation the peak equals the least over all orders."""
    problem = graph(6, seed)
    names = [o.id for o in problem.operations]
    produced = {x: o.id for o in problem.operations for x in o.outputs}

    def allowed(order):
        position = {name: k for k, name in enumerate(order)}
        return all(
            position[produced[x]] < position[o.id] for o in problem.operations for x in o.inputs
        )

    best = min(max(loads(problem, o)) for o in itertools.permutations(names) if allowed(o))
    assert proved(problem, objective="peak_memory") == best


def test_recomputation_lowers_the_peak():
    """A tensor that is needed again late is computed again instead of kept."""
    problem = cpsched.loads(json.dumps(RECOMPUTE))
    kept = cpsched.loads(json.dumps(RECOMPUTE | {"executions": 1}))
    assert proved(problem, objective="peak_memory") == 8
    assert proved(kept, objective="peak_memory") == 13


RECOMPUTE = {
    "kind": "memory",
    "buffers": [
        {"id": "big", "size": 5, "recompute": True},
        {"id": "a", "size": 1},
        {"id": "b", "size": 7},
        {"id": "c", "size": 1},
        {"id": "d", "size": 1, "output": True},
    ],
    "operations": [
        {"id": "make", "outputs": ["big"]},
        {"id": "first", "inputs": ["big"], "outputs": ["a"]},
        {"id": "second", "inputs": ["a"], "outputs": ["b"]},
        {"id": "third", "inputs": ["b"], "outputs": ["c"]},
        {"id": "last", "inputs": ["big", "c"], "outputs": ["d"]},
    ],
}
