"""Replanning allocations: what is alive keeps its place, the rest is placed around it."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.memory import MemoryProblem


def memory(*rows, **fields) -> MemoryProblem:
    """Buffers from (id, size, lower, upper)."""
    buffers = [{"id": i, "size": s, "lower": a, "upper": b} for i, s, a, b in rows]
    return MemoryProblem.parse({"buffers": buffers} | fields)


#: a and b live first, c comes later and lies where a was.
ROWS = (("a", 4, 0, 5), ("b", 4, 0, 9), ("c", 4, 5, 9))
PLAN = {
    "buffers": [
        {"buffer": "a", "offset": 0},
        {"buffer": "b", "offset": 4},
        {"buffer": "c", "offset": 0},
    ]
}


def replan(problem, *events, now=2, plan=PLAN, **settings):
    """Replan and check the result against the revised problem."""
    settings = {"time_limit": 10, "workers": 1} | settings
    result = cpsched.replan(problem, plan, now=now, events=list(events), **settings)
    if result.schedule is not None:
        assert cpsched.validate(result.problem, result.schedule).valid
    return result


def offsets(result) -> dict[str, int]:
    return {p.buffer: p.offset for p in result.schedule.buffers}


def test_what_is_alive_stays():
    """Buffers that are alive keep their offsets whatever else happens."""
    event = {"type": "insert", "time": 2, "id": "d", "item": {"size": 2, "lower": 3, "upper": 9}}
    result = replan(memory(*ROWS), event)
    assert (offsets(result)["a"], offsets(result)["b"]) == (0, 4)
    assert result.objective == 10


def test_longer_life_moves_the_follower():
    """A buffer that lives longer cannot be overwritten as planned."""
    result = replan(memory(*ROWS), {"type": "delay", "time": 2, "id": "a", "by": 2})
    assert offsets(result)["c"] == 8


def test_shorter_life_and_cancel():
    """What ends early or never comes leaves its room."""
    events = [
        {"type": "finish", "time": 2, "id": "a"},
        {"type": "cancel", "time": 2, "id": "c"},
        {"type": "insert", "time": 2, "id": "d", "item": {"size": 4, "lower": 2, "upper": 9}},
    ]
    result = replan(memory(*ROWS), *events)
    assert offsets(result) == {"a": 0, "b": 4, "d": 0}


def test_new_size():
    """A buffer to come that gets larger is placed where it fits."""
    event = {"type": "capacity", "time": 2, "id": "c", "capacity": 6}
    assert offsets(replan(memory(*ROWS), event))["c"] == 8


def test_smaller_memory_moves_as_few_as_possible():
    """When the rest does not fit around what is alive, the fewest buffers move, and are named."""
    rows = (("a", 4, 0, 9), ("b", 4, 0, 9))
    plan = {"buffers": [{"buffer": "a", "offset": 0}, {"buffer": "b", "offset": 6}]}
    event = {"type": "capacity", "time": 2, "id": "memory", "capacity": 8}
    result = replan(memory(*rows, capacity=10), event, plan=plan)
    assert offsets(result) == {"a": 0, "b": 4}
    assert [b["promise"] for b in result.broken_promises] == ["pinned:b"]


def test_stability_keeps_what_is_to_come():
    """With a stability weight buffers to come stay unless moving them pays."""
    plan = {"buffers": [*PLAN["buffers"][:2], {"buffer": "c", "offset": 8}]}
    steady = replan(memory(*ROWS), plan=plan, stability=100)
    assert offsets(steady)["c"] == 8
    assert offsets(replan(memory(*ROWS), plan=plan, stability=1))["c"] == 0


def test_mapping_before_its_beginning():
    """A mapping that has not begun can be replanned, a running one not."""
    problem = memory(
        ("t", 4, 3, 9),
        spaces=[{"name": "fast", "capacity": 4}],
        copy_engine={"rate": 4},
    )
    event = {"type": "capacity", "time": 0, "id": "fast", "capacity": 2}
    result = replan(problem, event, now=0, plan={"buffers": []})
    assert result.problem.spaces[0].capacity == 2
    with pytest.raises(ProblemError, match="once it has begun"):
        replan(problem, now=5, plan={"buffers": []})


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"type": "delay", "id": "z", "by": 1}, "no buffer"),
        ({"type": "delay", "id": "a"}, "by"),
        ({"type": "finish", "id": "c"}, "not begun"),
        ({"type": "capacity", "id": "z", "capacity": 1}, "no buffer or space"),
        ({"type": "capacity", "id": "a"}, "capacity"),
        ({"type": "capacity", "id": "a", "capacity": -1}, "whole numbers"),
        ({"type": "insert", "id": "d", "item": {"size": 1, "lower": 0, "upper": 3}}, "before now"),
        ({"type": "insert", "id": "a", "item": {"size": 1}}, "already"),
        ({"type": "priority", "id": "a", "weight": 1}, "no such event"),
        ({"type": "resource_down", "id": "memory"}, "no such event"),
    ],
)
def test_bad_events(event, message):
    """Events about unknown or impossible things are named."""
    with pytest.raises(ProblemError, match=message):
        replan(memory(*ROWS), {"time": 2} | event)


def test_foreign_schedule():
    """Places of other buffers are refused."""
    with pytest.raises(ProblemError, match="belong to the problem"):
        replan(memory(*ROWS), plan={"buffers": [{"buffer": "z", "offset": 0}]})


def test_reversed_residence_is_a_violation():
    """A residence that ends before it starts is reported, not crashed over."""
    problem = memory(("t", 4, 0, 9), spaces=[{"name": "fast", "capacity": 4}])
    place = {"buffer": "t", "offset": 0, "space": "fast", "from": 6, "to": 2}
    assert not cpsched.validate(problem, {"buffers": [place]}).valid
