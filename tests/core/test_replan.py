"""Events: what is refused before any family sees it, and replanning of every kind by files."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cpsched
from cpsched.cli.main import app
from cpsched.errors import ProblemError
from cpsched.families import KINDS, family
from cpsched.replan import Event, read_events

INSTANCES = Path(__file__).resolve().parents[2] / "instances"

#: One event per kind that its shipped instance can take, before anything has begun.
EVENTS = {
    "rcpsp": ("rcpsp/house.json", {"type": "delay", "by": 2}),
    "workflow": ("workflow/layered-30.json", {"type": "delay", "by": 2}),
    "serving": ("serving/admission-synthetic-14.json", {"type": "delay", "by": 2}),
    "pods": ("pods/scenario-4x16.json", {"type": "priority", "weight": 5}),
    "kernel": ("kernel/adaptive-filter.json", {"type": "delay", "by": 2}),
    "memory": ("memory/random-40.csv", {"type": "capacity", "capacity": 9}),
}
#: Where the ids of a kind's items are.
ITEMS = {"pods": "pods", "serving": "requests", "kernel": "operations", "memory": "buffers"}


def subject(problem) -> str:
    """The id of an item of the problem."""
    last = getattr(problem, ITEMS.get(problem.kind, "tasks"))[-1]
    return last.name if problem.kind == "pods" else last.id


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_replanned(kind, tmp_path):
    """The command replans every kind: a schedule valid for the revised problem, and JSON."""
    path, event = EVENTS[kind]
    problem = cpsched.load(INSTANCES / path)
    found = threading.Event()
    plan = cpsched.solve(
        problem, time_limit=60, workers=1, stop=found, on_improvement=lambda _: found.set()
    )
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    listed = [event | {"time": 0, "id": subject(problem)}]
    (tmp_path / "events.json").write_text(json.dumps(listed))
    options = ["--events", str(tmp_path / "events.json"), "--time-limit", "5", "--json"]
    done = CliRunner().invoke(
        app,
        [*map(str, ("replan", INSTANCES / path, tmp_path / "plan.json", "--now", 0)), *options],
    )
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    revised = family(kind).problem.parse(data["revised"])
    assert cpsched.validate(revised, data["schedule"]).valid
    assert data["broken_promises"] == []
    assert isinstance(data["diff"], list)


def delay(time: float = 1, name: str = "a", **fields) -> dict:
    return {"type": "delay", "time": time, "id": name, "by": 1} | fields


def event(kind: str, time: float = 1, name: str = "a", **fields) -> dict:
    return {"type": kind, "time": time, "id": name} | fields


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (delay(), "must be a list"),
        ("delay", "must be a list"),
        ([7], "must be an object"),
        ([event("explode")], "type must be one of"),
        ([event(["delay"])], "type must be one of"),
        ([{"type": "delay", "id": "a"}], "required"),
        ([{"type": "delay", "time": 1}], "required"),
        ([delay(time="now")], "must be a number"),
        ([delay(time=True)], "must be a number"),
        ([delay(time=float("inf"))], "must be a number"),
        ([delay(time=-1)], "before time 0"),
        ([delay(time=9)], "after now"),
        ([delay(colour=1)], "no field 'colour'"),
        ([delay(name=None)], "must be text"),
        ([event("insert", item="x")], "must be an object"),
        ([event("insert", item={}, after="b")], "list of ids"),
        ([event("capacity", amounts=3)], "must be an object"),
        ([delay(), delay(by=2)], "differ"),
        ([event("finish"), event("cancel", 2)], "both a finish and a cancel"),
        ([event("cancel"), event("finish", 2)], "both a cancel and a finish"),
        ([event("resource_down"), event("resource_up")], "both a resource_down and a resource_up"),
        ([event("insert", item={}), event("cancel")], "both a insert and a cancel"),
    ],
)
def test_bad_events(events, message):
    """Malformed and contradictory events are named before anything else happens."""
    with pytest.raises(ProblemError, match=message):
        read_events(events, 5)


def test_good_events():
    """Events come back in time order, also as objects, and equal ones do not clash."""
    down, up = event("resource_down", 1), event("resource_up", 2)
    found = read_events([up, down, Event("delay", 0, "b", by=1), delay(3), delay(3)], 5)
    assert [e.type for e in found] == ["delay", "resource_down", "resource_up", "delay", "delay"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--now", "-1"], ["now", "zero or more"]),
        (["--now", "5", "--events", "EVENTS"], ["events.0.type", "explode"]),
        (["--now", "5", "--events", "absent.json"], ["absent.json"]),
        (["--now", "nan"], ["now"]),
    ],
)
def test_bad_usage_of_the_command(arguments, words, tmp_path):
    """The command names what is wrong and ends with exit code 2."""
    (tmp_path / "events.json").write_text(json.dumps([event("explode")]))
    house = str(INSTANCES / "rcpsp/house.json")
    plan = tmp_path / "plan.json"
    plan.write_text('{"tasks": [], "makespan": 0}')
    arguments = [str(tmp_path / "events.json") if a == "EVENTS" else a for a in arguments]
    done = CliRunner().invoke(app, ["replan", house, str(plan), *arguments])
    assert done.exit_code == 2 or isinstance(done.exception, ProblemError), done.output
    shown = done.output + str(done.exception)
    for word in words:
        assert word in shown


def test_schedule_of_another_kind():
    """A result of another kind is refused."""
    house = cpsched.load(INSTANCES / "rcpsp/house.json")
    with pytest.raises(ProblemError, match="kind"):
        cpsched.replan(house, {"schema_version": "1", "kind": "pods", "schedule": {}}, now=0)


def test_now_must_be_a_number():
    """A 'now' that is no number is named."""
    house = cpsched.load(INSTANCES / "rcpsp/house.json")
    with pytest.raises(ProblemError, match="now"):
        cpsched.replan(house, {"tasks": []}, now="later")
