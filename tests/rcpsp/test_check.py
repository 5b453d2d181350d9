"""The checker: valid schedules pass, and each mutation is named by its rule."""

from __future__ import annotations

import pytest

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.check import check, evaluate
from cpsched.families.rcpsp.problem import RcpspProblem, RcpspSchedule
from cpsched.families.rcpsp.profile import (
    calendar_breaks,
    capacity_profiles,
    end_after,
    lowest,
    rests_by_start,
)

PROBLEM = RcpspProblem.parse(
    {
        "tasks": [
            {
                "id": "a",
                "modes": [
                    {"duration": 2, "demands": {"R": 1, "N": 3}, "cost": 7},
                    {"duration": 4, "demands": {"R": 2}},
                ],
                "release": 1,
                "deadline": 9,
                "due": 2,
                "weight": 3,
                "earliness_weight": 2,
                "events": [{"resource": "T", "amount": 2, "at": "end"}],
            },
            {
                "id": "b",
                "modes": [{"duration": 3, "demands": {"R": 1}}],
                "pausable": True,
                "due": 12,
                "earliness_weight": 2,
                "events": [{"resource": "T", "amount": -2, "at": "start"}],
            },
            {"id": "c", "modes": [{"duration": 1, "demands": {"R": 2}}], "optional": True},
        ],
        "resources": [
            {
                "name": "R",
                "capacity": 2,
                "unit_cost": 5,
                "capacity_changes": [{"start": 5, "end": 7}],
            },
            {"name": "N", "type": "nonrenewable", "capacity": 3, "unit_cost": 1},
            {"name": "T", "type": "reservoir", "maximum": 2},
        ],
        "precedences": [
            {"before": "a", "after": "b", "type": "start-start", "min_lag": 2, "max_lag": 4}
        ],
        "disjunctive": [{"tasks": ["a", "c"], "name": "g"}],
        "selections": [{"type": "implication", "tasks": ["b", "c"]}],
        "horizon": 10,
    }
)
A = {"task": "a", "mode": 0, "start": 1, "end": 3, "resources": ["R"]}
B = {"task": "b", "mode": 0, "start": 3, "end": 8, "resources": ["R"]}
C = {"task": "c", "mode": 0, "start": 8, "end": 9, "resources": ["R"]}


def schedule(*tasks, **rest):
    """A schedule from plain dicts."""
    return RcpspSchedule.parse({"tasks": list(tasks), **rest})


def test_valid_schedule_passes():
    """A schedule that meets every rule has no violation."""
    assert check(PROBLEM, schedule(A, B, C, makespan=9)) == []


@pytest.mark.parametrize(
    ("rule", "tasks"),
    [
        ("task", [A, B, C, C]),
        ("task", [A, B, C, {"task": "d", "start": 0, "end": 1}]),
        ("mode", [A | {"mode": 2}, B, C]),
        ("mode", [A | {"resources": ["N"]}, B, C]),
        ("optional", [A, C]),
        ("release", [A | {"start": 0, "end": 2}, B, C]),
        ("deadline", [A | {"start": 8, "end": 10}, B, C]),
        ("horizon", [A, B, C | {"start": 10, "end": 11}]),
        ("duration", [A | {"end": 4}, B, C]),
        ("duration", [A, B | {"end": 6}, C]),
        ("pausable", [A, B | {"start": 5, "end": 10}, C]),
        ("capacity", [A, B, C | {"start": 4, "end": 5}]),
        ("capacity", [A, B, C | {"start": 6, "end": 7}]),
        ("reservoir", [A, B | {"start": 2, "end": 5}, C]),
        ("precedence", [A, B | {"start": 2, "end": 5}, C]),
        ("precedence", [A, B | {"start": 7, "end": 10}, C]),
        ("disjunctive", [A, B, C | {"start": 2, "end": 3}]),
        ("selection", [A, B]),
    ],
)
def test_mutation_is_named(rule, tasks):
    """A broken rule is listed under its name."""
    assert rule in {v.rule for v in check(PROBLEM, schedule(*tasks))}


def test_blocking_keeps_the_machine():
    """A task in the way of one that waits overloads the machine; taking over early is named."""
    problem = RcpspProblem.parse(
        {
            "tasks": [
                {
                    "id": "a",
                    "modes": [{"duration": 1, "demands": {"R": 1}}],
                    "blocks_until": "b",
                },
                {"id": "b", "modes": [{"duration": 1}]},
                {"id": "c", "modes": [{"duration": 1, "demands": {"R": 1}}]},
            ],
            "resources": [{"name": "R"}],
        }
    )
    a, b, c = ({"task": t, "start": 0, "end": 1} for t in "abc")
    late = b | {"start": 3, "end": 4}
    free = c | {"start": 3, "end": 4}
    assert check(problem, schedule(a, late, free)) == []
    found = check(problem, schedule(a, late, c | {"start": 2, "end": 3}))
    assert [(v.rule, v.where["time"]) for v in found] == [("capacity", 2)]
    assert "blocking" in {v.rule for v in check(problem, schedule(a, b, free))}


def test_makespan_is_checked_when_given():
    """A wrong makespan is a violation, a missing one is not."""
    assert [v.rule for v in check(PROBLEM, schedule(A, B, C, makespan=10))] == ["makespan"]


def test_nonrenewable_amount():
    """Too much consumption is reported with its amount."""
    resources = tuple(
        r.model_copy(update={"capacity": 1}) if r.name == "N" else r for r in PROBLEM.resources
    )
    violation = check(PROBLEM.model_copy(update={"resources": resources}), schedule(A, B, C))[0]
    assert (violation.rule, violation.amount, violation.where) == (
        "nonrenewable",
        2,
        {"resource": "N"},
    )


def test_capacity_says_where():
    """An overload names resource, stretch and amount."""
    violations = check(PROBLEM, schedule(A, B, C | {"start": 4, "end": 5}))
    assert [(v.where, v.amount) for v in violations] == [
        ({"resource": "R", "time": 4, "end": 5}, 1)
    ]


def test_objectives_by_hand():
    """Every objective of a small schedule equals the value computed by hand."""
    values = {
        "makespan": 9,
        "weighted_tardiness": 3,  # a is 1 late, weight 3
        "late_tasks": 1,
        "weighted_flow_time": 3 * 3 + 8 + 9,
        "max_lateness": 1,
        "earliness_tardiness": 3 + 2 * 4,
        "setup_cost": 0,
        "resource_cost": 7 + 2 * 5 + 3 + 3 * 5 + 2 * 5,
        "resource_levelling": 2 * 1 + 5 * 1 + 1 * 4,
    }
    assert evaluate(PROBLEM, schedule(A, B, C), list(values)) == tuple(values.values())


def test_tasks_without_duration_overlap_nothing():
    """A milestone with a demand holds nothing and may lie inside another task."""
    problem = RcpspProblem.parse(
        {
            "tasks": [
                {"id": "a", "modes": [{"duration": 4, "demands": {"R": 1}}]},
                {"id": "m", "modes": [{"duration": 0, "demands": {"R": 1}}]},
            ],
            "resources": [{"name": "R"}],
            "disjunctive": [{"tasks": ["a", "m"]}],
        }
    )
    inside = schedule({"task": "a", "start": 0, "end": 4}, {"task": "m", "start": 2, "end": 2})
    assert check(problem, inside) == []


def test_lowest_of_pieces():
    """Where pieces overlap the smallest value holds."""
    assert lowest([(0, 10, 3), (2, 4, 1), (3, 5, 2)]) == [
        (0, 2, 3),
        (2, 4, 1),
        (4, 5, 2),
        (5, 10, 3),
    ]


@pytest.mark.parametrize("duration", [1, 2, 3, 5, 8])
def test_rests_by_start_matches_definition(duration):
    """The ranges of starts cover every start outside breaks once, with the right rest."""
    breaks = [(2, 4), (5, 6), (9, 12)]
    found = {}
    for first, last, rest in rests_by_start(duration, breaks, 1, 20):
        for start in range(first, last + 1):
            assert start not in found
            found[start] = rest
    starts = [t for t in range(1, 21) if not any(a <= t < b for a, b in breaks)]
    assert found == {s: end_after(s, duration, breaks) - s - duration for s in starts}


def test_calendar_of_weekdays_and_hours():
    """Nights, weekends and holidays are breaks; time 0 is the calendar's start."""
    calendar = {
        "start": "2026-03-06T14:00",  # a Friday
        "unit": "hour",
        "weekdays": [0, 1, 2, 3, 4],
        "hours": [8, 16],
        "holidays": ["2026-03-09"],
        "length": 100,
    }
    problem = RcpspProblem.parse({"tasks": [], "resources": [{"name": "R"}], "calendar": calendar})
    assert calendar_breaks(problem.calendar)[0] == (2, 3 * 24 + 18)
    assert capacity_profiles(problem)["R"][0] == (2, 90, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"start": "tomorrow"}, {"weekdays": [7]}, {"hours": [9, 9]}, {"holidays": ["2026-02-30"]}],
)
def test_calendar_refuses_what_is_no_date(wrong):
    """A calendar that cannot be read is a ProblemError that names its field."""
    data = {"tasks": [], "calendar": {"start": "2026-03-02"} | wrong}
    with pytest.raises(ProblemError, match=f"calendar.{next(iter(wrong))}"):
        capacity_profiles(RcpspProblem.parse(data))


SETUPS = {
    "tasks": [{"id": t, "modes": [{"duration": 1, "demands": {"R": 1}}]} for t in ("a", "b", "c")],
    "resources": [{"name": "R"}],
    "setups": [
        {
            "resource": "R",
            "states": {"a": 0, "b": 1, "c": 0},
            "times": [[0, 2], [3, 0]],
            "costs": [[1, 10], [100, 0]],
        }
    ],
}


def test_setup_between_neighbours_only():
    """The setup from b to c is missed by one; from a to c nothing is asked, b is between them."""
    problem = RcpspProblem.parse(SETUPS)
    a, b = {"task": "a", "start": 0, "end": 1}, {"task": "b", "start": 3, "end": 4}
    late, early = ({"task": "c", "start": t, "end": t + 1} for t in (7, 6))
    assert check(problem, schedule(a, b, late)) == []
    assert evaluate(problem, schedule(a, b, late), ["setup_cost"]) == (110,)
    found = check(problem, schedule(a, b, early))
    assert [(v.rule, v.amount, v.where["task"]) for v in found] == [("setup", 1, "c")]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"times": [[0, 2]]}, "times"),
        ({"costs": [[0]]}, "costs"),
        ({"states": {"a": 0, "b": 2, "c": 0}}, "states.b"),
        ({"states": {"a": 0, "b": 1}}, "states"),
        ({"resource": "S"}, "resource"),
    ],
)
def test_wrong_setups_are_refused(change, place):
    """A matrix of the wrong size, or a missing state, is an error that names the field."""
    data = SETUPS | {"setups": [SETUPS["setups"][0] | change]}
    with pytest.raises(ProblemError) as caught:
        RcpspProblem.parse(data)
    assert place in caught.value.place
