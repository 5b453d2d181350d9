"""The solver against MiniZinc with Gecode: every question with a model, every feature."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.serving.minizinc import minizinc as write_minizinc
from cpsched.families.serving.problem import Instance, Network, Request, ServingProblem, Tool
from tests.serving.helpers import problem, random_problem, requests

MODELS = Path(__file__).resolve().parents[2] / "models"


def by_minizinc(minizinc, p, folder, model="serving.mzn"):
    """The optimum of a model; None when it proves that there is none."""
    data = folder / "data.dzn"
    data.write_text(write_minizinc(p, None))
    run = subprocess.run(
        [minizinc, "--solver", "gecode", str(MODELS / model), str(data)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    if "UNSATISFIABLE" in run.stdout:
        return None
    assert "==========" in run.stdout
    return int(re.findall(r"objective = (-?\d+)", run.stdout)[-1])


def proved(p):
    """The proved optimum; None when proved infeasible."""
    result = cpsched.solve(p, time_limit=60, workers=1, strict=True)
    assert result.stop_reason == "proved"
    return result.objective


@pytest.mark.parametrize("seed", range(3))
def test_memory_law(minizinc, seed, tmp_path):
    """The growing memory, stated round by round."""
    p = random_problem(200 + seed, 4, arrivals=True)
    assert by_minizinc(minizinc, p, tmp_path) == proved(p)


@pytest.mark.parametrize("seed", range(4))
def test_batches_budgets_and_chunks(minizinc, seed, tmp_path):
    """Prefills in chunks under a token budget, few requests at once, two instances."""
    rng = random.Random(seed)
    rows = [(rng.randint(1, 4), rng.randint(1, 3), rng.randint(0, 2)) for _ in range(3)]
    limits = {"max_batch": 2, "token_budget": 3, "prefill_chunk": 2}
    p = problem(rows, 8, 1 + seed % 2, **limits, objectives=("makespan",) if seed > 1 else ())
    assert by_minizinc(minizinc, p, tmp_path) == proved(p)


@pytest.mark.parametrize("seed", range(4))
def test_programs_tools_and_prefixes(minizinc, seed, tmp_path):
    """Calls that wait for each other, share blocks and hold a sandbox."""
    rng = random.Random(50 + seed)
    rows = tuple(
        Request(
            id=str(i),
            prompt=rng.randint(2, 4),
            output=rng.randint(1, 3),
            prefix=(7, 8 + i % 2) if i != 1 else (),
            after=(str(i - 1),) if i == 2 else (),
            gap=i % 2,
            tool="shell" if i != 3 else "",
            tool_rounds=rng.randint(1, 3),
            weight=rng.randint(1, 3),
        )
        for i in range(4)
    )
    p = ServingProblem(
        requests=rows,
        instances=(Instance(capacity=7 + seed),),
        tools=(Tool(name="shell", capacity=1),),
        objectives=("weighted_latency",),
    )
    assert by_minizinc(minizinc, p, tmp_path) == proved(p)


@pytest.mark.parametrize("seed", range(3))
def test_goodput(minizinc, seed, tmp_path):
    """As much weight as possible within the dates, on candidates; the others are left out."""
    rng = random.Random(seed)
    rows = tuple(
        Request(
            id=str(i),
            prompt=rng.randint(1, 4),
            output=rng.randint(1, 3),
            first_token_by=rng.randint(1, 4),
            end_by=rng.randint(3, 6),
            weight=rng.randint(1, 4),
            candidates=(i % 2,) if i < 2 else (),
        )
        for i in range(4)
    )
    p = problem(rows, 6, 2, objectives=("goodput",), reject=True)
    assert by_minizinc(minizinc, p, tmp_path) == -proved(p)


@pytest.mark.parametrize("seed", range(4))
def test_handovers(minizinc, seed, tmp_path):
    """Prefill on one instance, output on another, over few lines."""
    rng = random.Random(seed)
    rows = [(rng.randint(1, 3), rng.randint(1, 2), rng.randint(0, 1)) for _ in range(2 + seed % 2)]
    p = ServingProblem(
        requests=requests(*rows),
        instances=(
            Instance(
                capacity=4, prefill_chunk=1, token_budget=1 + seed % 2,
                role="prefill" if seed < 3 else "mixed",
            ),
            Instance(capacity=5, role="decode", max_batch=1 + seed % 2),
        ),
        network=Network(units_per_round=2, transfers=1, latency=seed % 2),
    )  # fmt: skip
    assert by_minizinc(minizinc, p, tmp_path) == proved(p)


@pytest.mark.parametrize("seed", range(4))
def test_pauses_and_buckets(minizinc, seed, tmp_path):
    """Prefills that may rest between chunks; prompts of different lengths prefill apart."""
    rng = random.Random(30 + seed)
    rows = [(4, 1, 0), (rng.randint(1, 2), rng.randint(1, 2), rng.randint(0, 2)), (2, 1, 1)]
    one = Instance(
        capacity=rng.randint(6, 9), prefill_chunk=1 + seed % 2, token_budget=2,
        interruptible=seed != 1, buckets=(2,) if seed else (),
    )  # fmt: skip
    p = ServingProblem(requests=requests(*rows), instances=(one,))
    assert by_minizinc(minizinc, p, tmp_path) == proved(p)


@pytest.mark.parametrize("objective", ["instances", "cost"])
def test_capacity_question(minizinc, objective, tmp_path):
    """The fewest and the cheapest instances that meet all dates."""
    p = ServingProblem(
        question="capacity",
        objectives=(objective,),
        requests=requests((2, 2), (3, 1), (1, 2), end_by=4),
        instances=(Instance(capacity=5, price=2, count=2), Instance(capacity=9, price=5)),
        slo_percent=100.0,
    )
    assert by_minizinc(minizinc, p, tmp_path) == proved(p)


def contexts(seed, **fields):
    """Three programs of two calls on a GPU that cannot keep every context."""
    rng = random.Random(seed)
    rows = []
    for k in range(3):
        moment = rng.randint(0, 4)
        for step in range(3 if k == 1 else 2):
            rows.append(
                Request(
                    id=f"{k}:{step}", arrival=moment, prompt=rng.randint(3, 6) + 4 * step,
                    output=1, duration=2, program=str(k), step=step, tool="ab"[k % 2],
                )
            )  # fmt: skip
            moment += 4 + rng.randint(0, 8)
    tools = (Tool(name="a"), Tool(name="b"))
    return ServingProblem(**{"question": "cache", "requests": tuple(rows), "tools": tools} | fields)


@pytest.mark.parametrize("seed", range(4))
def test_offloading(minizinc, seed, tmp_path):
    """Keep, offload, prefetch or recompute the contexts of programs."""
    one = Instance(capacity=14 + seed, host_capacity=10, host_units_per_round=3)
    p = contexts(seed, instances=(one,), running_memory=seed % 2 == 0)
    theirs = by_minizinc(minizinc, p, tmp_path, "serving_cache.mzn")
    assert -(-theirs // 100) == proved(p)


@pytest.mark.parametrize("seed", range(3))
def test_times_to_live(minizinc, seed, tmp_path):
    """How long to keep a context while each tool runs."""
    rng = random.Random(seed)
    tools = tuple(
        Tool(name=n, durations=tuple(rng.randint(0, 12) for _ in range(k)))
        for n, k in (("a", 4), ("b", 6))
    )
    p = contexts(
        seed,
        instances=(Instance(capacity=99),),
        tools=tools,
        objectives=("expected_tokens",),
        hold_price=(0.01, 0.1, 0.25)[seed],
    )
    theirs = by_minizinc(minizinc, p, tmp_path, "serving_cache.mzn")
    assert theirs / ((100, 10, 4)[seed] * 12) == pytest.approx(proved(p))


@pytest.mark.parametrize("seed", range(6))
def test_migrations(minizinc, seed, tmp_path):
    """Where to and when: live over a network, or one after the other without."""
    rng = random.Random(seed)
    rows = tuple(
        Request(id=str(i), prompt=rng.randint(1, 4), output=1, instance=(0, 1, 0, None)[i])
        for i in range(4)
    )
    p = ServingProblem(
        question="routing",
        objectives=("max_load",),
        requests=rows,
        instances=(Instance(capacity=12), Instance(capacity=5 + seed)),
        network=Network(units_per_round=2, transfers=1) if seed % 2 else None,
    )
    mine = cpsched.solve(p, time_limit=60, workers=1, strict=True)
    assert mine.stop_reason == "proved"
    assert by_minizinc(minizinc, p, tmp_path, "serving_routing.mzn") == mine.objective


def test_no_model_no_data():
    """Questions without a model are refused with the reason."""
    p = ServingProblem(question="preemption", requests=requests((2, 1)), need=1)
    with pytest.raises(ProblemError, match="know"):
        write_minizinc(p, None)
