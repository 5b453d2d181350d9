"""Replanning projects: facts stay, events are applied, broken promises are the fewest."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.rcpsp.problem import RcpspProblem


def chain(deadlines: dict[str, int] | None = None, **fields) -> RcpspProblem:
    """Three tasks of 4 on one machine, a before b, c free; deadlines by task."""
    tasks = [
        {
            "id": name,
            "modes": [{"duration": 4, "demands": {"m": 1}}],
            "deadline": (deadlines or {}).get(name),
        }
        for name in "abc"
    ]
    return RcpspProblem.parse(
        {
            "kind": "rcpsp",
            "tasks": tasks,
            "resources": [{"name": "m", "capacity": 1}],
            "precedences": [{"before": "a", "after": "b"}],
        }
        | fields
    )


PLAN = {
    "tasks": [
        {"task": "a", "start": 0, "end": 4},
        {"task": "b", "start": 4, "end": 8},
        {"task": "c", "start": 8, "end": 12},
    ],
    "makespan": 12,
}


def replan(problem, *events, now=2, **settings):
    """Replan and check the result against the revised problem."""
    settings = {"time_limit": 10, "workers": 1} | settings
    result = cpsched.replan(problem, PLAN, now=now, events=list(events), **settings)
    if result.schedule is not None:
        assert cpsched.validate(result.problem, result.schedule).valid
    return result


def starts(result) -> dict[str, int]:
    return {t.task: t.start for t in result.schedule.tasks}


def ends(result) -> dict[str, int]:
    return {t.task: t.end for t in result.schedule.tasks}


def test_nothing_happened():
    """Without events the running task stays and the rest is still optimal."""
    result = replan(chain())
    assert (starts(result)["a"], result.objective) == (0, 12)
    assert result.broken_promises == []


def test_delay_of_a_running_task():
    """A delayed running task ends later, and nobody overlaps with it."""
    result = replan(chain(), {"type": "delay", "time": 2, "id": "a", "by": 3})
    assert ends(result)["a"] == 7
    assert result.objective == 15


def test_delay_of_a_planned_task():
    """A task that is delayed before it starts is released later."""
    result = replan(chain(), {"type": "delay", "time": 2, "id": "b", "until": 9})
    assert starts(result)["b"] >= 9
    assert starts(result)["c"] == 4


def test_early_finish():
    """An early finish frees the machine at once."""
    result = replan(chain(), {"type": "finish", "time": 2, "id": "a"})
    assert ends(result)["a"] == 2
    assert result.objective == 10


def test_resource_down_repeats_the_running_task():
    """A machine that goes down loses the work of a task that cannot pause."""
    event = {"type": "resource_down", "time": 2, "id": "m", "until": 5}
    result = replan(chain(), event)
    assert starts(result)["a"] >= 5
    assert result.objective == 17


def test_resource_down_pauses_a_pausable_task():
    """A pausable task goes on after the break."""
    problem = chain()
    tasks = tuple(t.model_copy(update={"pausable": True}) for t in problem.tasks)
    event = {"type": "resource_down", "time": 2, "id": "m", "until": 5}
    result = replan(problem.model_copy(update={"tasks": tasks}), event)
    assert ends(result)["a"] == 7
    assert result.objective == 15


def test_resource_up_ends_a_break():
    """A machine that comes back early can be used again."""
    resource = {
        "name": "m",
        "capacity": 1,
        "capacity_changes": [{"start": 4, "end": 40, "capacity": 0}],
    }
    result = replan(chain(resources=[resource]), {"type": "resource_up", "time": 2, "id": "m"})
    assert result.objective == 12


def test_capacity_event():
    """A second machine from now on lets the rest run side by side."""
    result = replan(chain(), {"type": "capacity", "time": 2, "id": "m", "capacity": 2})
    assert result.objective == 8


def test_insert_and_cancel():
    """An inserted task appears with its precedences, a cancelled one disappears."""
    item = {"modes": [{"duration": 2, "demands": {"m": 1}}]}
    insert = {"type": "insert", "time": 2, "id": "d", "item": item, "after": ["b"]}
    result = replan(chain(), insert, {"type": "cancel", "time": 2, "id": "c"})
    assert set(starts(result)) == {"a", "b", "d"}
    assert starts(result)["d"] >= ends(result)["b"]
    assert result.objective == 10


def test_due_date_and_priority():
    """New due dates and weights steer the objective."""
    problem = chain(objectives=["weighted_tardiness"])
    result = replan(
        problem,
        {"type": "due_date", "time": 2, "id": "c", "due": 8},
        {"type": "due_date", "time": 2, "id": "b", "due": 8},
        {"type": "priority", "time": 2, "id": "c", "weight": 5},
    )
    assert ends(result)["c"] == 8
    assert result.objective == 4


def test_stability_keeps_the_plan():
    """With a high stability weight the order stays although another one is as good."""
    result = replan(chain(), stability=100)
    assert result.diff == []
    assert result.objective == 12
    assert result.objective_name == "replan_cost"


def test_fewest_broken_promises():
    """Of three deadlines only the one that cannot hold is given up."""
    problem = chain({"a": 4, "b": 8, "c": 12})
    result = replan(problem, {"type": "delay", "time": 2, "id": "a", "by": 2})
    broken = [b["promise"] for b in result.broken_promises]
    assert len(broken) == 1
    assert broken[0] in ("deadline:b", "deadline:c")
    assert result.schedule is not None
    assert "hold" in result.broken_promises[0]["reason"]


def test_facts_are_not_judged():
    """What has started is a fact: it may break rules that the rest must keep."""
    fixed = {"mode": 0, "start": 0, "end": 6}
    problem = chain({"a": 4})
    tasks = [
        problem.tasks[0].to_dict() | {"fixed": fixed},
        *(t.to_dict() for t in problem.tasks[1:]),
    ]
    problem = RcpspProblem.parse(problem.to_dict() | {"tasks": tasks})
    entries = [
        {"task": "a", "start": 0, "end": 6},
        {"task": "b", "start": 6, "end": 10},
        {"task": "c", "start": 10, "end": 14},
    ]
    assert cpsched.validate(problem, {"tasks": entries, "makespan": 14}).valid
    entries[0] |= {"start": 1, "end": 7}
    rules = {
        v.rule for v in cpsched.validate(problem, {"tasks": entries, "makespan": 14}).violations
    }
    assert "fixed" in rules


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"type": "explode", "time": 1, "id": "a"}, "type must be one of"),
        ({"type": "delay", "time": 1, "id": "z", "by": 1}, "known task"),
        ({"type": "delay", "time": 1, "id": "a"}, "needs 'by' or 'until'"),
        ({"type": "delay", "time": 3, "id": "a", "by": 1}, "after now"),
        ({"type": "delay", "time": 1, "id": "a", "by": float("nan")}, "number"),
        ({"type": "delay", "time": 1, "id": "a", "by": 1, "colour": 2}, "no field 'colour'"),
        ({"type": "finish", "time": 1, "id": "c"}, "has not started"),
        ({"type": "resource_down", "time": 1, "id": "x"}, "known renewable resource"),
        ({"type": "resource_down", "time": 1, "id": "m", "until": 1}, "ends before it begins"),
        ({"type": "insert", "time": 1, "id": "a", "item": {}}, "exists"),
        ({"type": "insert", "time": 1, "id": "d", "item": {"size": 1}}, "modes"),
        ({"type": "delay", "time": 0.5, "id": "a", "by": 1}, "whole numbers"),
        ({"time": 1, "id": "a"}, "type"),
        ("delay", "object"),
    ],
)
def test_bad_events(event, message):
    """Bad events are refused with what is wrong about them."""
    with pytest.raises(ProblemError, match=message):
        replan(chain(), event)


def test_contradicting_events():
    """A task cannot be finished and cancelled."""
    with pytest.raises(ProblemError, match="both a finish and a cancel"):
        replan(
            chain(),
            {"type": "finish", "time": 2, "id": "a"},
            {"type": "cancel", "time": 2, "id": "a"},
        )


def test_schedule_of_another_problem():
    """A schedule with unknown tasks is refused."""
    with pytest.raises(ProblemError, match="belong to the problem"):
        cpsched.replan(
            chain(), {"tasks": [{"task": "q", "start": 0, "end": 1}], "makespan": 1}, now=0
        )
