"""Replanning: facts stay, events are applied, broken promises are named."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.replan import replan
from tests.workflow.helpers import problem, solved

TWO = {
    "tasks": [{"id": k, "work": w} for k, w in (("a", 4), ("b", 6), ("c", 2), ("d", 4))],
    "edges": [{"source": "a", "target": "c"}, {"source": "b", "target": "d"}],
    "machines": [{"name": "m0"}, {"name": "m1"}],
}


def test_started_tasks_stay():
    """What started before now keeps machine and time, the rest starts at now or later."""
    p = problem(**TWO)
    first = solved(p).schedule
    result = replan(p, first, now=3.0, events=[], time_limit=2.0)
    before = {t.task: t for t in first.tasks}
    for placed in result.schedule.tasks:
        old = before[placed.task]
        if old.start < 3:
            assert (placed.machine, placed.start) == (old.machine, pytest.approx(old.start))
        else:
            assert placed.start >= 3


def test_delay_moves_the_successor():
    """A running task that takes longer delays what waits for it."""
    p = problem(**TWO)
    first = solved(p).schedule
    events = [{"type": "delay", "time": 3.0, "id": "b", "by": 5}]
    result = replan(p, first, now=3.0, events=events, time_limit=2.0)
    ends = {t.task: t.end for t in result.schedule.tasks}
    assert ends["b"] == pytest.approx(11)
    assert ends["d"] == pytest.approx(15)


def test_machine_down():
    """A task on a machine that goes down starts again elsewhere."""
    p = problem(**TWO)
    first = solved(p).schedule
    down = next(t.machine for t in first.tasks if t.task == "b")
    events = [{"type": "resource_down", "time": 3.0, "id": down}]
    result = replan(p, first, now=3.0, events=events, time_limit=2.0)
    again = next(t for t in result.schedule.tasks if t.task == "b")
    assert again.machine != down
    assert again.start >= 3


def test_broken_promise():
    """A deadline that can no longer hold is given up and named."""
    p = problem(**TWO | {"deadline": 11})
    first = solved(p).schedule
    events = [{"type": "delay", "time": 3.0, "id": "b", "by": 5}]
    result = replan(p, first, now=3.0, events=events, time_limit=3.0)
    assert result.schedule is not None
    assert [b["promise"] for b in result.broken_promises] == ["deadline:problem"]


def test_insert_and_cancel():
    """New tasks join, cancelled ones leave with their edges."""
    p = problem(**TWO)
    first = solved(p).schedule
    events = [
        {"type": "cancel", "time": 3.0, "id": "d"},
        {"type": "insert", "time": 3.0, "id": "e", "item": {"work": 1}, "after": ["c"]},
    ]
    result = replan(p, first, now=3.0, events=events, time_limit=2.0)
    names = {t.task for t in result.schedule.tasks}
    assert names == {"a", "b", "c", "e"}
    assert cpsched.validate(result.problem, result.schedule).valid


def test_unknown_task():
    """An event about an unknown task is refused."""
    p = problem(**TWO)
    with pytest.raises(ProblemError, match="no task of that name"):
        replan(p, solved(p).schedule, now=3.0, events=[{"type": "cancel", "time": 1, "id": "z"}])
