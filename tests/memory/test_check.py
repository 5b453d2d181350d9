"""The checker: every rule with a schedule that keeps it and one that breaks it."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.families.memory.check import check
from cpsched.families.memory.generate import graph, mapping
from cpsched.families.memory.problem import (
    Alias,
    Buffer,
    CopyEngine,
    Gap,
    MemoryProblem,
    MemorySchedule,
    PlacedBuffer,
    ScheduledCopy,
    Space,
    Use,
)
from tests.memory.brute import schedule_of


def rules(problem, *offsets):
    """Names of the rules that an allocation breaks."""
    return [v.rule for v in check(problem, schedule_of(problem, offsets))]


def pair(first=None, second=None, **problem):
    """Two buffers of size 4 that live together."""
    a = {"id": "a", "size": 4, "lower": 0, "upper": 4} | (first or {})
    b = {"id": "b", "size": 4, "lower": 2, "upper": 6} | (second or {})
    return MemoryProblem(buffers=(Buffer(**a), Buffer(**b)), **problem)


CASES = {
    "overlap": (pair(), (0, 4), (0, 3)),
    "capacity": (pair(capacity=8), (0, 4), (0, 5)),
    "alignment": (pair(second={"alignment": 8}), (0, 8), (0, 4)),
    "pinned": (pair(first={"offset": 4}), (4, 0), (5, 0)),
    "alias": (pair(second={"alias": Alias(of="a", shift=2)}), (1, 3), (1, 4)),
}


@pytest.mark.parametrize("rule", CASES)
def test_each_rule_has_a_valid_and_an_invalid_allocation(rule):
    """A valid allocation breaks nothing; the mutated one breaks exactly the rule."""
    problem, good, bad = CASES[rule]
    assert rules(problem, *good) == []
    assert rules(problem, *bad) == [rule]


def test_gap_frees_the_bytes():
    """During a gap another buffer may lie in the same place."""
    problem = pair(first={"gaps": (Gap(lower=2, upper=4),)})
    assert rules(problem, 0, 0) == []


def test_window_keeps_part_of_the_bytes():
    """During a gap with a window only the bytes inside the window are taken."""
    problem = pair(first={"gaps": (Gap(lower=2, upper=4, window=(0, 1)),)})
    assert rules(problem, 0, 1) == []
    assert rules(problem, 0, 0) == ["overlap"]


def test_in_place_needs_equal_offsets():
    """Reuse allows the same offset, not a partial overlap."""
    problem = pair(second={"in_place": ("a",)})
    assert rules(problem, 3, 3) == []
    assert rules(problem, 3, 4) == ["overlap"]


def test_missing_and_double_buffers_are_reported():
    """Every buffer has exactly one place."""
    problem = pair()
    one = PlacedBuffer(buffer="a", offset=0)
    found = check(problem, MemorySchedule(buffers=(one, one)))
    assert [v.rule for v in found] == ["buffers", "buffers"]


def test_wrong_height_is_reported():
    """A stated height must be the reached one."""
    problem = pair()
    schedule = schedule_of(problem, (0, 4)).model_copy(update={"height": 9})
    assert [v.rule for v in check(problem, schedule)] == ["height"]


def test_zero_size_overlaps_nothing():
    """A buffer without bytes may lie anywhere."""
    assert rules(pair(second={"size": 0}), 0, 2) == []


TENSOR = Buffer(
    id="t",
    size=4,
    lower=0,
    upper=10,
    input=True,
    uses=(Use(start=4, end=6, benefit={"fast": 5}),),
)
MAP = MemoryProblem(
    buffers=(TENSOR, TENSOR.model_copy(update={"id": "u"})),
    spaces=(Space(name="fast", capacity=8),),
    copy_engine=CopyEngine(rate=2),
    base_time=20,
)


def place(buffer="t", offset=0, start=1, end=6):
    """A residence in the fast space."""
    return PlacedBuffer(buffer=buffer, offset=offset, start=start, end=end)


def copy(buffer="t", start=1, end=3, source="slow", target="fast"):
    """A copy of two time units."""
    return ScheduledCopy(buffer=buffer, source=source, target=target, start=start, end=end)


def mapping_rules(problem, places, copies):
    """Names of the rules that a mapping breaks."""
    return [v.rule for v in check(problem, MemorySchedule(buffers=places, copies=copies))]


def test_copied_tensor_gains_its_benefit():
    """A residence that is filled before the use shortens the execution."""
    schedule = MemorySchedule(buffers=(place(),), copies=(copy(),))
    report = cpsched.validate(MAP, schedule)
    assert report.valid
    assert report.objectives == {"execution_time": 15}


MAPPING_CASES = {
    "copy too short": ("copy", (place(),), (copy(end=2),)),
    "never filled": ("copy", (place(),), ()),
    "outside the lifetime": ("residence", (place(end=12),), (copy(),)),
    "beyond the capacity": ("capacity", (place(offset=5),), (copy(),)),
    "two at once": (
        "copy_engine",
        (place(), place("u", 4)),
        (copy(), copy("u", 2, 4)),
    ),
    "shared memory": (
        "overlap",
        (place(), place("u", 2, 3)),
        (copy(), copy("u", 3, 5)),
    ),
}


@pytest.mark.parametrize("case", MAPPING_CASES)
def test_broken_mappings_are_reported(case):
    """Each mutation of a valid mapping breaks its rule."""
    rule, places, copies = MAPPING_CASES[case]
    assert rule in mapping_rules(MAP, places, copies)


def test_tensor_written_fast_must_come_home_before_it_is_read_there():
    """A use that no residence serves reads the home memory, which must hold the tensor."""
    tensor = TENSOR.model_copy(
        update={
            "input": False,
            "uses": (Use(start=1, end=2), Use(start=8, end=9)),
        }
    )
    problem = MAP.model_copy(update={"buffers": (tensor,)})
    born = place(start=0, end=4)
    assert mapping_rules(problem, (born,), ()) == ["availability"]
    home = copy(start=1, end=3, source="fast", target="slow")
    assert mapping_rules(problem, (born,), (home,)) == []


def test_output_must_reach_the_home_memory():
    """An output that is written fast needs a copy out."""
    tensor = TENSOR.model_copy(update={"input": False, "output": True, "uses": ()})
    problem = MAP.model_copy(update={"buffers": (tensor,)})
    assert mapping_rules(problem, (place(start=0),), ()) == ["output"]


def test_order_mutations_are_reported():
    """Swapped, missing and repeated operations break precedence, order and recompute."""
    problem = graph(6, 1)
    schedule = cpsched.solve(problem, 5.0, workers=1).schedule
    assert check(problem, schedule) == []

    def broken(order):
        return {v.rule for v in check(problem, schedule.model_copy(update={"order": order}))}

    order = schedule.order
    assert broken(order[::-1]) == {"precedence"}
    assert broken(order[1:]) == {"order"}
    assert broken((*order, order[-1])) == {"recompute"}


def test_wrong_lifetimes_of_an_order_are_reported():
    """The places of an order carry exactly the lifetimes that follow from it."""
    problem = graph(6, 1)
    schedule = cpsched.solve(problem, 5.0, workers=1).schedule
    first = schedule.buffers[0].model_copy(update={"end": 99})
    mutated = schedule.model_copy(update={"buffers": (first, *schedule.buffers[1:])})
    assert {v.rule for v in check(problem, mutated)} >= {"lifetime", "buffers"}


@pytest.mark.parametrize("seed", range(4))
def test_mutated_mappings_never_pass_unnoticed(seed):
    """Moving a residence onto another one is found."""
    problem = mapping(10, seed)
    schedule = cpsched.solve(problem, 2.0, workers=1).schedule
    pairs = [
        (i, j)
        for i, a in enumerate(schedule.buffers)
        for j, b in enumerate(schedule.buffers)
        if i != j and a.start < b.end and b.start < a.end
    ]
    assert pairs
    i, j = pairs[0]
    moved = schedule.buffers[i].model_copy(update={"offset": schedule.buffers[j].offset})
    places = [*schedule.buffers]
    places[i] = moved
    found = check(problem, schedule.model_copy(update={"buffers": tuple(places)}))
    assert "overlap" in {v.rule for v in found}
