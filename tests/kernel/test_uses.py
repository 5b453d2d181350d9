"""What is made of a schedule: execution, expansion, pictures; explanations and sweeps."""

from __future__ import annotations

import json

import pytest

import cpsched
from cpsched.families.kernel import FAMILY
from cpsched.families.kernel.expand import expand, pseudo_code
from cpsched.families.kernel.explain import at_interval, constraints, restrict
from cpsched.families.kernel.flat import Layout
from cpsched.families.kernel.simulate import simulate
from cpsched.families.kernel.sweep import sweep, with_value
from tests.kernel.loops import edge, loop, op, random_loop, schedule


def parsed(problem, *args, **fields):
    """The family's schedule object of a test schedule."""
    return FAMILY.read_schedule(schedule(*args, problem=problem, **fields))


PIPE = loop(
    [op("load", 3, variable_latency=True, smem_bytes=8), op("mul", 2, "A"), op("add", 1, "A")],
    [edge("load", "mul", 3, blocking=True), edge("mul", "add", 2), edge("add", "add", 1, 1)],
    groups=3,
)
GROUPS = {"load": 0, "mul": 1, "add": 2}


def test_in_order_execution_is_never_late():
    """Groups that issue in order reach every instance no later than the schedule says."""
    placed = parsed(PIPE, 2, {"load": 0, "mul": 3, "add": 6}, groups=GROUPS)
    outcome = simulate(Layout(PIPE, placed), iterations=6)
    assert outcome.stuck == ()
    assert outcome.executed == 18
    start = {p.operation: p.start for p in placed.operations}
    assert all(t <= start[name] + 2 * i for (name, i), t in outcome.times.items())


@pytest.mark.parametrize("seed", range(10))
def test_solved_loops_execute(seed):
    """Schedules found by the solver run in order without a deadlock."""
    problem = random_loop(600 + seed, grouped=True)
    result = cpsched.solve(problem, time_limit=10, workers=1, objective="initiation_interval")
    if result.schedule is not None:
        outcome = simulate(Layout(problem, result.schedule))
        assert outcome.stuck == ()
        assert outcome.executed > len(problem.operations)


def test_shallow_ring_deadlocks():
    """A stated depth below the number of live results stops the groups, and the check says so."""
    problem = loop(
        [op("a", smem_bytes=1), op("b"), op("c")],
        [edge("a", "c", 5), edge("a", "b", 1), edge("b", "c", 0, 1)],
        groups=4,
    )
    groups = {"a": 1, "b": 2, "c": 3}
    starts = {"a": 0, "b": 1, "c": 5}
    deep = parsed(problem, 2, starts, groups=groups, depths={"a": 3})
    assert FAMILY.check(problem, deep) == []
    shallow = parsed(problem, 2, starts, groups=groups, depths={"a": 1})
    assert {v.rule for v in FAMILY.check(problem, shallow)} == {"ring_depth"}


def test_expansion_has_prologue_kernel_epilogue():
    """Each instance runs exactly once over prologue, kernel passes and epilogue."""
    placed = parsed(PIPE, 2, {"load": 0, "mul": 3, "add": 6}, groups=GROUPS)
    data = expand(PIPE, placed)
    last = data["stages"] - 1
    iterations = 9
    ran = []
    for p in range(iterations + last):
        if p < last:
            ran += [(s["operation"], s["iteration"]) for s in data["prologue"][p]]
        elif p < iterations:
            ran += [(s["operation"], p - s["stage"]) for s in data["kernel"]]
        else:
            rest = data["epilogue"][p - iterations]
            ran += [(s["operation"], iterations + s["iteration"]) for s in rest]
    everything = [(o.id, i) for o in PIPE.operations for i in range(iterations)]
    assert sorted(ran) == sorted(everything)


def test_programs_wait_and_signal():
    """A result that crosses groups has a full and an empty barrier over a ring of its depth."""
    placed = parsed(PIPE, 2, {"load": 0, "mul": 3, "add": 6}, groups=GROUPS)
    data = expand(PIPE, placed)
    barriers = {b["name"]: b for b in data["barriers"]}
    assert barriers["full[load->g1]"]["depth"] == barriers["empty[load<-g1]"]["depth"] == 2
    producer = data["groups"][0]["program"][0]
    assert producer["signals"] == ["full[load->g1]"]
    assert producer["waits"] == [{"barrier": "empty[load<-g1]", "iterations_back": 2}]
    text = pseudo_code(PIPE, placed)
    assert "ring load[2]" in text
    assert "group 0 (producer)" in text


def test_values_longer_than_the_interval_are_renamed():
    """A register value live over two intervals needs two names within its group."""
    problem = loop([op("a", registers=4), op("b")], [edge("a", "b", 5)], groups=2)
    placed = parsed(problem, 3, {"a": 0, "b": 5}, groups={"a": 1, "b": 1})
    data = expand(problem, placed)
    assert data["registers"] == [{"operation": "a", "copies": 2}]
    assert data["unroll"] == 2


def test_writers_need_no_more_than_a_schedule():
    """Program and pseudo-code writers give text; JSON parses."""
    placed = parsed(PIPE, 2, {"load": 0, "mul": 3, "add": 6}, groups=GROUPS)
    written = {w.name: w.write(PIPE, placed) for w in FAMILY.writers if w.needs_schedule}
    assert json.loads(written["program"])["initiation_interval"] == 2
    assert "initiation interval 2" in written["pseudo-code"]


def test_pipeline_diagram():
    """Lanes are units and groups; colours are groups; every iteration is drawn."""
    placed = parsed(PIPE, 2, {"load": 0, "mul": 3, "add": 6}, groups=GROUPS)
    figure = FAMILY.draw(PIPE, placed)
    assert [lane.label for lane in figure.lanes] == [
        "A",
        "group 0 (producer)",
        "group 1",
        "group 2",
    ]
    first = [bar for bar in figure.lanes[0].bars if bar.label == "mul"]
    assert [bar.start for bar in first] == [3 + 2 * i for i in range(len(first))]
    assert {bar.colour for bar in figure.lanes[0].bars} == {"group 1", "group 2"}


def test_explain_names_the_recurrence():
    """Below the recurrence bound the conflict is the limit and the edge that closes the cycle."""
    problem = loop([op("a", 3, "A"), op("b", 1, "B")], [edge("a", "b", 3), edge("b", "a", 1, 1)])
    answer = cpsched.explain(at_interval(problem, 3), time_limit=60, workers=1)
    assert answer.status == "INFEASIBLE"
    assert answer.minimal
    assert {c.group for c in answer.conflict} == {"initiation_interval", "dependence"}


def test_explain_names_the_unit():
    """Below the resource bound the conflict is the limit and the unit."""
    problem = loop([op("a", 1, "A", 2), op("b", 1, "A", 2)])
    answer = cpsched.explain(at_interval(problem, 3), time_limit=60, workers=1)
    assert {c.name for c in answer.conflict} == {"initiation_interval", "unit:A"}


def test_explain_names_the_modes():
    """A limit that only the best of both modes could keep is explained by the choice."""
    fast = {"latency": 2, "uses": [{"unit": "A", "cycles": 9}]}
    slow = {"latency": 9, "uses": [{"unit": "A", "cycles": 2}]}
    problem = loop([{"id": "m", "modes": [fast, slow]}], max_length=4, max_initiation_interval=4)
    answer = cpsched.explain(problem, time_limit=60, workers=1)
    assert {c.name for c in answer.conflict} == {
        "initiation_interval",
        "length",
        "mode:m",
        "unit:A",
    }
    assert answer.minimal


def test_explain_names_groups_and_registers():
    """Two results that one group cannot hold need a second group."""
    problem = loop(
        [op("a", registers=5), op("b", registers=5), op("c")],
        [edge("a", "b", 1), edge("a", "c", 1), edge("b", "c", 1)],
        groups=2,
        machine={"registers_per_warp": 8},
    )
    answer = cpsched.explain(problem, time_limit=60, workers=1)
    assert {c.name for c in answer.conflict} == {"groups", "registers:warp"}


@pytest.mark.parametrize("seed", range(6))
def test_restricting_to_everything_changes_nothing(seed):
    """Keeping all names keeps the optimum; keeping none is never worse."""
    problem = random_loop(700 + seed, grouped=True)
    names = frozenset(c.name for c in constraints(problem))
    assert len(names) == len(constraints(problem))
    same = cpsched.solve(
        restrict(problem, names), time_limit=10, workers=1, objective="initiation_interval"
    )
    full = cpsched.solve(problem, time_limit=10, workers=1, objective="initiation_interval")
    free = cpsched.solve(
        restrict(problem, frozenset()), time_limit=10, workers=1, objective="initiation_interval"
    )
    assert (same.status, same.objective) == (full.status, full.objective)
    assert full.objective is None or free.objective <= full.objective


def test_sweep_over_buffers():
    """More slots of a single-buffered value shorten the interval until the unit binds."""
    problem = loop(
        [op("a", 1, "A", 2), op("b", 1)],
        [edge("a", "b", 5), edge("b", "a", 3, 1, kind="anti")],
    )
    found = sweep(problem, "buffers", values=[1, 2, 3, 4], time_limit=60, workers=1)
    assert [p.interval for p in found.points] == [8, 4, 3, 2]
    assert found.figure().curves[0].points == ((1, 8), (2, 4), (3, 3), (4, 2))
    assert "buffers" in found.table()


def test_sweep_limits_declared_rings(instances):
    """Rings that are decisions already are limited by the sweep too."""
    problem = cpsched.load(instances / "kernel" / "window.json")
    found = sweep(problem, "buffers", values=[1, 2, 3], time_limit=60, workers=1)
    assert [p.interval for p in found.points] == [7, 4, 3]


def test_sweep_over_groups_and_registers():
    """Fewer groups or registers never shorten the interval; none at all is said so."""
    problem = loop(
        [op("a", 2, registers=5), op("b", 2, registers=5), op("c")],
        [edge("a", "b", 1), edge("a", "c", 1), edge("b", "c", 1)],
        groups=3,
        machine={"registers_per_warp": 8},
    )
    groups = sweep(problem, "groups", values=[2, 3], time_limit=60, workers=1)
    assert [p.status for p in groups.points] == ["INFEASIBLE", "OPTIMAL"]
    registers = sweep(problem, "registers", values=[4, 8, 20], time_limit=60, workers=1)
    assert registers.points[0].interval is None
    with pytest.raises(cpsched.ProblemError, match="over"):
        with_value(problem, "colours", 1)


def test_alternatives_at_the_optimal_interval():
    """Alternatives share the optimal interval, differ from each other, and are all valid."""
    problem = loop([op(name, 1, "A") for name in "abcd"])
    best = cpsched.solve(problem, time_limit=20, workers=1, k_best=4)
    found = best.alternatives
    assert len(found) == 3
    relative = [
        tuple((p.slot - s.operations[0].slot) % 4 for p in s.operations)
        for s in (best.schedule, *found)
    ]
    assert len(set(relative)) == 4
    for s in found:
        assert s.initiation_interval == best.schedule.initiation_interval
        assert cpsched.validate(problem, s).valid
