"""Solving: brute force and MiniZinc as oracles, bounds that hold, determinism."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest

import cpsched
from cpsched.bound import recompute
from cpsched.families.kernel import FAMILY
from cpsched.families.kernel.check import check
from cpsched.families.kernel.problem import KernelSchedule
from tests.kernel.loops import edge, loop, op, random_loop, schedule

MODEL = Path(__file__).resolve().parents[2] / "models" / "kernel.mzn"


def brute_force(problem, most: int = 12):
    """Smallest (interval, length) by trying starts and groups, or None."""
    n = len(problem.operations)
    ids = [o.id for o in problem.operations]
    choices = [
        [0] if o.variable_latency else list(range(1, problem.groups)) or [None]
        for o in problem.operations
    ]
    ways = [range(max(1, len(o.modes))) for o in problem.operations]
    for interval in range(1, most + 1):
        best = None
        for starts in itertools.product(range(7), repeat=n):
            if min(starts):
                continue
            for groups, modes in itertools.product(
                itertools.product(*choices), itertools.product(*ways)
            ):
                data = schedule(
                    interval,
                    dict(zip(ids, starts, strict=True)),
                    problem,
                    dict(zip(ids, groups, strict=True)),
                    modes=dict(zip(ids, modes, strict=True)),
                )
                parsed = KernelSchedule.parse(data)
                if (best is None or parsed.length < best) and not check(problem, parsed):
                    best = parsed.length
        if best is not None:
            return interval, best
    return None


@pytest.mark.parametrize("seed", range(12))
def test_interval_matches_brute_force(seed):
    """On tiny loops trying all starts below 7 finds the same interval and length."""
    problem = random_loop(seed, size=3)
    result = cpsched.solve(problem, time_limit=60, workers=1, strict=True)
    assert result.status == "OPTIMAL"
    assert brute_force(problem) in (None, tuple(result.objective))


@pytest.mark.parametrize("seed", range(8))
def test_grouped_interval_matches_brute_force(seed):
    """The same with groups, registers, shared memory, spills and blocking waits."""
    problem = random_loop(100 + seed, grouped=True, size=3)
    names = ["initiation_interval", "length"]
    result = cpsched.solve(problem, time_limit=60, workers=1, objective=names, strict=True)
    found = brute_force(problem, 8)
    if result.status == "INFEASIBLE":
        assert found is None
    else:
        assert result.status == "OPTIMAL"
        assert found in (None, tuple(result.objective)) or found[0] > result.objective[0]


@pytest.mark.parametrize("seed", range(8))
def test_interval_with_modes_matches_brute_force(seed):
    """The same when operations have two modes to choose from, with and without groups."""
    grouped = seed % 2 == 0
    problem = random_loop(800 + seed, grouped=grouped, size=2, modes=True)
    names = ["initiation_interval", "length"]
    result = cpsched.solve(problem, time_limit=60, workers=1, objective=names, strict=True)
    found = brute_force(problem, 8)
    if result.status == "INFEASIBLE":
        assert found is None
    else:
        assert result.status == "OPTIMAL"
        assert found in (None, tuple(result.objective)) or found[0] > result.objective[0]


@pytest.mark.parametrize("modes", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_optimum_matches_minizinc(seed, modes, minizinc, tmp_path):
    """Interval and length agree with the MiniZinc model on random grouped loops."""
    problem = random_loop(200 + seed, grouped=True, size=3 if modes else 4, modes=modes)
    limited = problem.model_copy(update={"max_initiation_interval": 8, "max_length": 14})
    names = ["initiation_interval", "length"]
    result = cpsched.solve(limited, time_limit=60, workers=1, objective=names, strict=True)
    assert result.status in ("OPTIMAL", "INFEASIBLE")
    data = tmp_path / "data.json"
    writer = next(w for w in FAMILY.writers if w.name == "minizinc")
    data.write_text(writer.write(limited, None))
    run = subprocess.run(
        [minizinc, "--solver", "gecode", "--time-limit", "60000", str(MODEL), str(data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "==========" in run.stdout or "UNSATISFIABLE" in run.stdout, run.stdout + run.stderr
    if "UNSATISFIABLE" in run.stdout:
        assert result.status == "INFEASIBLE"
    else:
        last = [line for line in run.stdout.splitlines() if line.startswith("{")][-1]
        value = json.loads(last)
        assert [value["initiation_interval"], value["length"]] == result.objective


def test_minimal_interval_names_what_binds():
    """The bounds say which unit or which recurrence binds, and recompute to their values."""
    problem = loop(
        [op("a", 2, "A", 2), op("b", 1, "A", 1)],
        [edge("a", "b", 4), edge("b", "a", 3, 1)],
    )
    bounds = cpsched.bound(problem)
    by = {b.argument: b for b in bounds if b.objective == "initiation_interval"}
    assert by["recurrence"].value == 7
    assert by["unit"].value == 3
    assert by["unit"].data == {"unit": "A"}
    from cpsched.bound import recompute

    assert all(recompute(problem, b) == b.value for b in bounds)


@pytest.mark.parametrize("seed", range(20))
def test_bounds_recompute_and_never_exceed_the_optimum(seed):
    """Every bound of a result recomputes to its value and is at most the objective."""
    problem = random_loop(300 + seed, grouped=seed % 2 == 0)
    from cpsched.bound import recompute

    result = cpsched.solve(problem, time_limit=60, workers=1, objective="initiation_interval")
    for b in result.bounds:
        assert recompute(problem, b) == b.value
        assert result.objective is None or b.value <= result.objective


def test_interval_above_the_minimal_one_is_proved():
    """Three operations of a unit inside a recurrence can need more than both simple bounds."""
    problem = loop(
        [op("a", 1, "A"), op("b", 1, "A"), op("c", 1, "A")],
        [edge("a", "b", 3), edge("b", "c", 3), edge("c", "a", 0, 2)],
    )
    result = cpsched.solve(problem, time_limit=60, workers=1)
    assert result.status == "OPTIMAL"
    assert result.objective[0] > 3
    proof = next(b for b in result.bounds if b.argument == "no-schedule")
    assert proof.value == result.objective[0]


def share(unit, percent, cycles):
    """A mode that takes a share of a unit for some cycles."""
    return {"latency": cycles, "uses": [{"unit": unit, "cycles": cycles, "amount": percent}]}


SHARES = {"units": [{"name": "core", "capacity": 100}, {"name": "net", "capacity": 100}]}


def test_modes_trade_latency_for_overlap():
    """Two operations side by side on half of a unit each beat one after the other on all of it;
    alone, the fast mode wins."""
    modes = [share("core", 100, 6), share("core", 50, 8)]
    both = loop([{"id": name, "modes": modes} for name in "ab"], machine=SHARES)
    result = cpsched.solve(both, time_limit=60, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [8, 8])
    assert {p.mode for p in result.schedule.operations} == {1}
    alone = loop([{"id": "a", "modes": modes}], machine=SHARES)
    result = cpsched.solve(alone, time_limit=60, workers=1, strict=True)
    assert (result.objective, result.schedule.operations[0].mode) == ([4, 8], 1)
    shortest = cpsched.solve(alone, time_limit=60, workers=1, objective="length")
    assert (shortest.objective, shortest.schedule.operations[0].mode) == (6, 0)


def test_units_together_bound_the_interval():
    """When work may go to either of two units, neither alone bounds the interval: weights on both
    do, and the bound recomputes from them."""
    from cpsched.bound import recompute

    modes = [share("core", 100, 4), share("net", 100, 4)]
    problem = loop([{"id": name, "modes": modes} for name in "abcde"], machine=SHARES)
    bound = next(b for b in cpsched.bound(problem) if b.argument == "units")
    assert bound.value == 10
    assert recompute(problem, bound) == 10
    result = cpsched.solve(problem, time_limit=60, workers=1, strict=True)
    assert (result.status, result.objective[0]) == ("OPTIMAL", 12)


def test_mode_that_closes_a_cycle_is_avoided():
    """A mode whose delay contradicts a negative delay within the iteration is never taken, by the
    heuristics either."""
    problem = loop(
        [{"id": "a", "modes": [{"latency": 9}, {"latency": 3}]}, op("b")],
        [edge("a", "b"), edge("b", "a", -4)],
    )
    result = cpsched.solve(problem, time_limit=60, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [1, 4])
    assert result.schedule.operations[0].mode == 1
    longer = problem.model_copy(update={"max_length": 3})
    assert cpsched.solve(longer, time_limit=60, workers=1, strict=True).status == "INFEASIBLE"


def test_live_range_over_many_periods_of_a_recurrence():
    """A result that a long recurrence keeps live over several intervals is not cut short."""
    problem = loop(
        [op("a", registers=1), op("b"), op("c", registers=1)],
        [
            edge("a", "c"),
            edge("a", "b", 9, kind="anti"),
            edge("b", "c", 9, kind="anti"),
            edge("c", "a", 1, 7, kind="anti"),
        ],
        groups=2,
        machine={"registers_per_warp": 7},
    )
    result = cpsched.solve(problem, time_limit=60, workers=1, objective="initiation_interval")
    assert (result.status, result.objective) == ("OPTIMAL", 3)


def test_buffer_depth_is_decided():
    """A deeper ring shortens the interval until its memory is used up."""

    def ring(capacity):
        return loop(
            [op("w", 1), op("r", 1)],
            [edge("w", "r", 6), edge("r", "w", 2, buffer="ring", kind="anti")],
            buffers=[{"name": "ring", "size": 8, "max_depth": 8}],
            machine={"smem_bytes": capacity},
        )

    for capacity, interval in ((8, 8), (16, 4), (32, 2), (64, 1)):
        result = cpsched.solve(ring(capacity), time_limit=60, workers=1)
        assert result.objective[0] == interval
        assert result.schedule.buffers[0].depth * 8 <= capacity


def test_too_few_registers_at_any_interval_is_infeasible():
    """A result that exceeds every group's registers makes the loop infeasible, with a proof."""
    problem = loop(
        [op("a", registers=9), op("b")],
        [edge("a", "b", 1)],
        groups=2,
        machine={"registers_per_warp": 8},
    )
    result = cpsched.solve(problem, time_limit=60, workers=1)
    assert (result.status, result.stop_reason) == ("INFEASIBLE", "proved")


def test_interval_limit_below_the_bound_is_infeasible():
    """A limit below the minimal interval is refuted by its binding recurrence."""
    problem = loop([op("a")], [edge("a", "a", 5, 1)], max_initiation_interval=4)
    result = cpsched.solve(problem, time_limit=60, workers=1)
    assert result.status == "INFEASIBLE"
    assert "a -> a" in result.message


def test_same_seed_gives_the_same_schedule():
    """Results repeat without asking for a deterministic run."""
    problem = random_loop(7, grouped=True)
    first, second = (cpsched.solve(problem, time_limit=60, workers=2) for _ in range(2))
    assert first.schedule == second.schedule
    assert first.objective == second.objective


def test_deterministic_run():
    """A deterministic run gives the same answer and says that it was not cut off."""
    problem = random_loop(8, grouped=True)
    runs = [cpsched.solve(problem, time_limit=60, deterministic=True) for _ in range(2)]
    assert runs[0].objective == runs[1].objective
    assert runs[0].environment["deterministic"] is True


def test_hint_is_kept_or_improved():
    """A valid hint is the first incumbent, an invalid one is repaired."""
    problem = loop([op("a", 2, "A"), op("b", 1, "A")], [edge("a", "b", 2)])
    valid = schedule(9, {"a": 0, "b": 3}, problem)
    improved = cpsched.improve(problem, valid, time_limit=60)
    assert improved.objective == [2, 4]
    assert improved.initial["objective"] == [9, 4]
    broken = schedule(2, {"a": 0, "b": 2}, problem)
    assert cpsched.improve(problem, broken, time_limit=60).objective == [2, 4]


@pytest.mark.parametrize("seed", range(15))
def test_greedy_alone_is_valid(seed):
    """The heuristics offer a checked schedule wherever a serial one fits the memories."""
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run
    from cpsched.families.kernel.greedy import greedy
    from cpsched.families.kernel.prepare import prepare

    problem = random_loop(400 + seed)
    run = Run(problem, FAMILY, FAMILY.default_objectives(problem), Clock(None), strict=True)
    greedy(prepare(problem, run), run)
    assert run.incumbent is not None


def test_monotone_rule_holds_on_random_loops():
    """A schedule's slots and stages stay valid at larger intervals, as the bisection assumes."""
    from cpsched.families.kernel.prepare import index
    from cpsched.families.kernel.search import monotone

    for seed in range(30):
        problem = random_loop(500 + seed, grouped=True)
        assert monotone(index(problem))
        result = cpsched.solve(problem, time_limit=60, workers=1, objective="initiation_interval")
        if result.schedule is None:
            continue
        for longer in (1, 2, 5):
            period = result.schedule.initiation_interval + longer
            starts = {p.operation: p.slot + period * p.stage for p in result.schedule.operations}
            groups = {p.operation: p.group for p in result.schedule.operations}
            data = schedule(period, starts, problem, groups)
            assert check(problem, KernelSchedule.parse(data)) == []


def test_the_shortest_loop_may_have_a_longer_interval():
    """Where the interval does not come first, every interval is asked before a value is proved."""
    problem = random_loop(755935, grouped=True, size=9)
    names = ["length", "groups"]
    fastest = cpsched.solve(problem, 60.0, workers=1, strict=True)
    result = cpsched.solve(problem, 60.0, workers=1, objective=names, strict=True)
    assert result.stop_reason == "proved"
    assert result.objective[0] < fastest.schedule.length
    assert result.schedule.initiation_interval > fastest.schedule.initiation_interval
    for b in result.bounds:
        assert recompute(problem, b) == b.value


def test_a_use_longer_than_the_interval_meets_every_slot():
    """The modulo table of the heuristics counts the rounds of a long reservation everywhere."""
    problem = random_loop(859681, size=5, modes=True)
    result = cpsched.solve(problem, 60.0, workers=1, strict=True)
    assert result.stop_reason == "proved"


def test_greedy_pipelining_keeps_within_memory():
    """A loop whose deepest ring does not fit: nothing invalid is offered, and it is proved."""
    loop = Path(__file__).resolve().parents[2] / "instances" / "kernel" / "window.json"
    result = cpsched.solve(cpsched.load(loop), 60.0, workers=1, strict=True)
    assert (result.stop_reason, result.objective) == ("proved", [3, 8])
