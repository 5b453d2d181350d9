"""Replanning request windows: what runs goes on, the rest waits from now on."""

from __future__ import annotations

import random

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.serving.problem import Instance, Network, ServingProblem
from tests.serving.helpers import placed, problem, requests

#: Three requests one after the other on an instance that holds one at a time (peak 5).
ROWS = [(2, 3), (2, 3), (2, 3)]


def window(**fields):
    return problem(ROWS, 5, **fields)


PLAN = placed((0, 3), (3, 6), (6, 9), p=window())


def replan(p, schedule, *events, now=1, **settings):
    """Replan and check the result against the revised problem."""
    settings = {"time_limit": 10, "workers": 1} | settings
    result = cpsched.replan(p, schedule, now=now, events=list(events), **settings)
    if result.schedule is not None:
        assert cpsched.validate(result.problem, result.schedule).valid
    return result


def spans(result) -> dict[str, tuple[int, int]]:
    return {r.request: (r.start, r.end) for r in result.schedule.requests}


def test_nothing_happened():
    """Without events the running request goes on and the rest follows."""
    result = replan(window(), PLAN)
    assert spans(result)["0"] == (0, 3)
    assert max(end for _, end in spans(result).values()) == 9
    assert result.broken_promises == []


def test_longer_output_delays_the_rest():
    """A running request that makes more output holds its memory longer."""
    p = problem(ROWS, 7)
    plan = placed((0, 3), (3, 6), (6, 9), p=p)
    result = replan(p, plan, {"type": "delay", "time": 1, "id": "0", "by": 2})
    assert spans(result)["0"] == (0, 5)
    assert min(start for name, (start, _) in spans(result).items() if name != "0") >= 5


def test_delay_of_a_waiting_request():
    """A request that comes later lets another go first."""
    result = replan(window(), PLAN, {"type": "delay", "time": 1, "id": "1", "until": 6})
    assert spans(result)["2"] == (3, 6)


def test_early_end_frees_the_instance():
    """A request that stops early frees its memory at once."""
    result = replan(window(), PLAN, {"type": "finish", "time": 1, "id": "0"})
    assert spans(result)["0"] == (0, 1)
    assert min(start for name, (start, _) in spans(result).items() if name != "0") == 1


def test_instance_down():
    """Requests of an instance that goes down start again on the others."""
    p = problem(ROWS, 5, 2)
    plan = {
        "requests": [
            {"request": "0", "instance": 0, "start": 0, "end": 3},
            {"request": "1", "instance": 1, "start": 0, "end": 3},
            {"request": "2", "instance": 0, "start": 3, "end": 6},
        ]
    }
    result = replan(p, plan, {"type": "resource_down", "time": 1, "id": "1"})
    assert {r.instance for r in result.schedule.requests} == {0}
    assert spans(result)["0"] == (0, 3)
    back = replan(result.problem, result, {"type": "resource_up", "time": 2, "id": "1"}, now=2)
    assert {r.instance for r in back.schedule.requests} == {0, 1}


def test_last_instance_down():
    """When no instance is left, that is said."""
    with pytest.raises(ProblemError, match="no instance is left"):
        replan(window(), PLAN, {"type": "resource_down", "time": 1, "id": "0"})


def test_smaller_capacity_restarts_as_few_as_possible():
    """Running requests that no longer fit together: one is given up, and named."""
    p = problem(ROWS, 15)
    plan = placed((0, 3), (0, 3), (0, 3), p=p)
    result = replan(p, plan, {"type": "capacity", "time": 1, "id": "0", "capacity": 10})
    assert sorted(spans(result).values())[:2] == [(0, 3), (0, 3)]
    assert len(result.broken_promises) == 1
    assert result.broken_promises[0]["promise"].startswith("running:")


def test_request_that_fits_nowhere_any_more():
    """A request above the new capacity is left out and named; the others are served."""
    p = problem([(2, 3), (4, 6)], 10)
    plan = placed((0, 3), (3, 9), p=p)
    result = replan(p, plan, {"type": "capacity", "time": 1, "id": "0", "capacity": 6})
    assert set(spans(result)) == {"0"}
    assert [b["promise"] for b in result.broken_promises] == ["served:1"]


def test_insert_and_cancel():
    """A new request takes the turn of a cancelled one."""
    item = {"prompt": 1, "output": 1}
    result = replan(
        window(),
        PLAN,
        {"type": "cancel", "time": 1, "id": "1"},
        {"type": "insert", "time": 1, "id": "n", "item": item, "after": ["2"]},
    )
    assert set(spans(result)) == {"0", "2", "n"}
    assert spans(result)["n"][0] >= spans(result)["2"][1]


def test_priority():
    """A heavier request goes first when latencies are weighted."""
    p = window(objectives=("weighted_latency",))
    result = replan(p, PLAN, {"type": "priority", "time": 1, "id": "2", "weight": 9})
    assert spans(result)["2"] == (3, 6)


def test_broken_date():
    """A date that was met and no longer is, is named."""
    p = window()
    p = p.model_copy(
        update={
            "requests": tuple(
                r.model_copy(update={"end_by": 9}) if r.id == "2" else r for r in p.requests
            )
        }
    )
    item = {"prompt": 1, "output": 1, "arrival": 3}
    events = [{"type": "insert", "time": 1, "id": f"n{k}", "item": item} for k in range(3)]
    result = replan(p, PLAN, *events)
    late = spans(result)["2"][1] > 9
    assert [b["promise"] for b in result.broken_promises] == (["slo:2"] if late else [])


def test_hard_slo_is_given_up_last():
    """An SLO share that cannot hold any more is given up and named."""
    p = window(slo_percent=100.0)
    p = p.model_copy(
        update={"requests": tuple(r.model_copy(update={"end_by": 9}) for r in p.requests)}
    )
    item = {"prompt": 2, "output": 3, "end_by": 9}
    result = replan(p, PLAN, {"type": "insert", "time": 1, "id": "n", "item": item})
    assert result.schedule is not None
    assert "slo" in [b["promise"] for b in result.broken_promises]


def test_stability_keeps_instances():
    """With a high stability weight requests stay on their instances although others are as good."""
    p = problem(ROWS, 5, 2)
    plan = {
        "requests": [
            {"request": "0", "instance": 0, "start": 0, "end": 3},
            {"request": "1", "instance": 0, "start": 3, "end": 6},
            {"request": "2", "instance": 0, "start": 6, "end": 9},
        ]
    }
    assert {r.instance for r in replan(p, plan, stability=100).schedule.requests} == {0}
    assert {r.instance for r in replan(p, plan).schedule.requests} == {0, 1}


def test_routing_and_placement():
    """Snapshots: a lost instance or GPU gives its load to the others."""
    p = problem([(2, 3), (2, 3)], 20, 2, question="routing")
    plan = {
        "requests": [
            {"request": "0", "instance": 0, "start": 0, "end": 0},
            {"request": "1", "instance": 1, "start": 0, "end": 0},
        ]
    }
    result = replan(p, plan, {"type": "resource_down", "time": 0, "id": "1"})
    assert {r.instance for r in result.schedule.requests} == {0}
    p = ServingProblem.parse(
        {
            "question": "placement",
            "items": [{"id": "a", "load": 2}, {"id": "b", "load": 1}],
            "gpus": [{"name": "g0", "memory": 2}, {"name": "g1", "memory": 2}],
        }
    )
    plan = {"placements": [{"item": "a", "gpus": ["g0"]}, {"item": "b", "gpus": ["g1"]}]}
    result = replan(p, plan, {"type": "resource_down", "time": 0, "id": "g1"})
    assert {g for i in result.schedule.placements for g in i.gpus} == {"g0"}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"type": "delay", "id": "9", "by": 1}, "no request"),
        ({"type": "delay", "id": "0"}, "by"),
        ({"type": "delay", "id": "0", "by": 0.5}, "whole numbers"),
        ({"type": "finish", "id": "2"}, "not started"),
        ({"type": "resource_down", "id": "7"}, "no instance"),
        ({"type": "capacity", "id": "0"}, "capacity"),
        ({"type": "insert", "id": "0", "item": {"prompt": 1}}, "already"),
        ({"type": "insert", "id": "n", "item": {}}, "required"),
        ({"type": "insert", "id": "n", "item": {"prompt": 1}, "after": ["x"]}, "to follow"),
        ({"type": "due_date", "id": "0"}, "due"),
    ],
)
def test_bad_events(event, message):
    """Events about unknown or impossible things are named."""
    with pytest.raises(ProblemError, match=message):
        replan(window(), PLAN, {"time": 1} | event)


def test_event_about_the_past():
    """What has ended cannot be delayed or cancelled."""
    for kind in ({"type": "delay", "by": 1}, {"type": "cancel"}):
        with pytest.raises(ProblemError, match="ended before"):
            replan(window(), PLAN, {"time": 4, "id": "0"} | kind, now=4)


def test_questions_without_replanning():
    """The cache question says that it cannot be replanned."""
    p = problem([(2, 3)], 20, question="cache")
    with pytest.raises(ProblemError, match="cannot be replanned"):
        replan(p, {})


def split(**first):
    """Two requests on one prefill instance (or a mixed one) and two decode instances."""
    prefill = Instance(capacity=20, prefill_chunk=2, token_budget=2, role="prefill")
    return ServingProblem(
        requests=requests((4, 3), (4, 2)),
        instances=(
            prefill.model_copy(update=first),
            Instance(capacity=20, role="decode", count=2),
        ),
        network=Network(units_per_round=2, transfers=1),
    )


def handed(request, start, sent, decode, end, **more):
    """A request that prefills on instance 0 and is handed over."""
    row = {"request": request, "instance": 0, "start": start, "sent": sent}
    return row | {"decode": decode, "end": end} | more


SPLIT = {"requests": [handed("0", 0, 2, 1, 7), handed("1", 2, 4, 1, 8)]}


def place_of(result, name):
    return next(one for one in result.schedule.requests if one.request == name)


def test_handover_that_has_begun_stays():
    """A request that is sent keeps its instances; the others may be handed over elsewhere."""
    result = replan(split(), SPLIT, now=3)
    one = place_of(result, "0")
    assert (one.start, one.sent, one.decode, one.end) == (0, 2, 1, 7)
    assert (place_of(result, "1").start, place_of(result, "1").end) == (2, 8)


def test_lost_decode_instance_before_and_after_the_handover():
    """Before it is sent a request goes to another instance, afterwards it begins again."""
    down = {"type": "resource_down", "time": 3, "id": "1"}
    result = replan(split(), SPLIT, down, now=3)
    first, second = place_of(result, "0"), place_of(result, "1")
    assert first.start >= 3
    assert (second.start, second.sent, second.decode, second.end) == (2, 4, 2, 8)


def test_lost_prefill_instance_after_the_handover():
    """Once handed over, a request does not need the prefill instance any more."""
    down = {"type": "resource_down", "time": 5, "id": "0"}
    gone = {"type": "cancel", "time": 5, "id": "1"}
    result = replan(split(), SPLIT, down, gone, now=5)
    assert place_of(result, "0").end == 7
    assert result.broken_promises == []


def test_longer_output_after_a_handover():
    """The output of a request that decodes elsewhere grows there."""
    result = replan(split(), SPLIT, {"type": "delay", "time": 5, "id": "0", "by": 4}, now=5)
    assert place_of(result, "0").end == 11


def test_paused_prefill_goes_on():
    """A prefill that rests when replanning keeps its pauses."""
    p = split(role="mixed", interruptible=True, token_budget=None)
    rows = [handed("0", 0, 4, 1, 9, pauses=[[1, 3]]), handed("1", 5, 7, 1, 11)]
    result = replan(p, {"requests": rows}, now=2)
    assert place_of(result, "0").pauses == ((1, 3),)
    assert place_of(result, "0").end == 4 + 3
    assert cpsched.validate(result.problem, result.schedule).valid


@pytest.mark.parametrize("seed", range(6))
def test_staged_replans_are_proved_and_no_worse(seed):
    """Without events a plan can be kept: the proved replan is at least as good."""
    rng = random.Random(seed)
    p = split(role=rng.choice(("prefill", "mixed")), interruptible=seed % 2 == 1)
    rows = [(rng.randint(1, 5), rng.randint(1, 4), rng.randint(0, 3)) for _ in range(3)]
    p = p.model_copy(update={"requests": requests(*rows)})
    plan = cpsched.solve(p, time_limit=2, workers=1).schedule
    now = rng.randint(1, 6)
    result = replan(p, plan, now=now, time_limit=60)
    assert result.status == "OPTIMAL"
    ends = sum(one.end for one in plan.requests)
    assert sum(one.end for one in result.schedule.requests) <= ends
    for old in plan.requests:
        if old.start < now:
            kept = place_of(result, old.request)
            assert (kept.start, kept.instance, kept.pauses) == (old.start, old.instance, old.pauses)
