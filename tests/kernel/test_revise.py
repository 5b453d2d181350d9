"""Replanning loops: other latencies and limits, near the old schedule."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.errors import ProblemError
from tests.kernel.loops import edge, loop, op, schedule


def body(**fields):
    """Three operations in a row, the first and the last on unit A."""
    return loop(
        [op("x", 2, "A"), op("y", 2, "B"), op("z", 2, "A")],
        [edge("x", "y", 2), edge("y", "z", 2)],
        **fields,
    )


PLAN = schedule(2, {"x": 0, "y": 2, "z": 5}, body())


def replan(problem, *events, plan=PLAN, **settings):
    """Replan and check the result against the revised problem."""
    settings = {"time_limit": 10, "workers": 1} | settings
    result = cpsched.replan(problem, plan, now=0, events=list(events), **settings)
    if result.schedule is not None:
        assert cpsched.validate(result.problem, result.schedule).valid
    return result


def starts(result) -> dict[str, int]:
    return {p.operation: p.start for p in result.schedule.operations}


def test_longer_latency():
    """An operation that takes longer pushes its users, not the interval."""
    result = replan(body(), {"type": "delay", "time": 0, "id": "x", "by": 3})
    assert starts(result)["y"] - starts(result)["x"] >= 5
    assert result.objective[0] == 2


def test_unit_capacity():
    """A second unit halves the interval."""
    result = replan(body(), {"type": "capacity", "time": 0, "id": "A", "capacity": 2})
    assert result.objective[0] == 1


def test_insert_and_cancel():
    """A new operation joins between others; a cancelled one leaves its order behind."""
    insert = {
        "type": "insert",
        "time": 0,
        "id": "w",
        "item": op("w", 1, "A"),
        "after": ["x"],
        "before": ["z"],
    }
    result = replan(body(), insert, {"type": "cancel", "time": 0, "id": "y"})
    assert set(starts(result)) == {"x", "z", "w"}
    assert starts(result)["x"] + 2 <= starts(result)["w"] < starts(result)["z"]
    assert result.objective[0] == 3


def test_limit_that_cannot_hold():
    """An interval that is impossible is given up and named."""
    event = {"type": "due_date", "time": 0, "id": "initiation_interval", "deadline": 1}
    result = replan(body(), event)
    assert result.objective[0] == 2
    assert [b["promise"] for b in result.broken_promises] == ["initiation_interval"]


def test_stability_keeps_groups():
    """With a stability weight operations stay in their groups when moving them does not pay."""
    problem = body(groups=3)
    plan = schedule(2, {"x": 0, "y": 2, "z": 5}, problem, {"x": 1, "y": 2, "z": 2})
    event = {"type": "delay", "time": 0, "id": "x", "by": 1}
    result = replan(problem, event, plan=plan, stability=1000)
    assert {p.operation: p.group for p in result.schedule.operations} == {"x": 1, "y": 2, "z": 2}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"type": "delay", "id": "q", "by": 1}, "no operation"),
        ({"type": "delay", "id": "x"}, "by"),
        ({"type": "delay", "id": "x", "by": -5}, "latency"),
        ({"type": "capacity", "id": "Q", "capacity": 1}, "no unit"),
        ({"type": "capacity", "id": "A", "capacity": 0}, "at least 1"),
        ({"type": "resource_down", "id": "A"}, "no such event"),
        ({"type": "priority", "id": "x", "weight": 1}, "no such event"),
        ({"type": "due_date", "id": "x", "deadline": 1}, "interval and the length"),
        ({"type": "insert", "id": "x", "item": {}}, "already"),
        ({"type": "insert", "id": "w", "item": {"unit": 1}}, "not permitted"),
        ({"type": "insert", "id": "w", "item": {}, "after": ["q"]}, "to follow"),
    ],
)
def test_bad_events(event, message):
    """Events about unknown or impossible things are named."""
    with pytest.raises(ProblemError, match=message):
        replan(body(), {"time": 0} | event)


def test_foreign_schedule():
    """A schedule of another loop is refused."""
    with pytest.raises(ProblemError, match="belong to the problem"):
        replan(body(), plan=schedule(2, {"q": 0}))
