"""The rules of shops: each alone, feasible as it stands and infeasible when tightened."""

from __future__ import annotations

from typing import Any

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.rcpsp.check import check
from cpsched.families.rcpsp.problem import RcpspProblem, RcpspSchedule


def task(name: str, duration: int, *machines: str, **rest: Any) -> dict[str, Any]:
    """A task with one mode that holds the machines."""
    mode = {"duration": duration, "demands": dict.fromkeys(machines, 1)}
    return {"id": name, "modes": [mode], **rest}


def on_one_of(name: str, duration: int, *machines: str, **rest: Any) -> dict[str, Any]:
    """A task with a mode per machine."""
    modes = [{"duration": duration, "demands": {machine: 1}} for machine in machines]
    return {"id": name, "modes": modes, **rest}


R, S, W = {"name": "R"}, {"name": "S"}, {"name": "W"}
CIRCLE = {
    "tasks": [
        task("a1", 1, "R", blocks_until="a2"),
        task("a2", 1, "S"),
        task("b1", 1, "S", blocks_until="b2"),
        task("b2", 1, "R"),
    ],
    "resources": [R, S],
    "precedences": [{"before": "a1", "after": "a2"}, {"before": "b1", "after": "b2"}],
    "horizon": 2,
}
TWO_SETUPS = {
    "tasks": [task(name, 1, name[0]) for name in ("R1", "R2", "S1", "S2")],
    "resources": [R, S, W],
    "setups": [
        {
            "resource": name,
            "states": {f"{name}1": 0, f"{name}2": 1},
            "times": [[0, 2], [2, 0]],
            "demands": {"W": 1},
        }
        for name in "RS"
    ],
    "horizon": 6,
}
GAP = {
    "tasks": [task("a", 1, "R"), task("b", 1, "R", release=3)],
    "resources": [R | {"no_idle": True}],
    "horizon": 4,
}
FLOW = {
    "tasks": [task("a1", 1, "R"), task("a2", 1, "S"), task("b1", 1, "R"), task("b2", 1, "S")],
    "resources": [R, S],
    "precedences": [
        {"before": "a1", "after": "b1"},
        {"before": "b2", "after": "a2"},
    ],
}
SAME = {"same_sequence": [{"lists": [["a1", "b1"], ["a2", "b2"]]}]}
MOVE = {
    "tasks": [task("a", 1, "R"), on_one_of("b", 1, "R", "S")],
    "resources": [R, S],
    "precedences": [{"before": "a", "after": "b", "transport": True}],
    "transport": {"resources": ["R", "S"], "times": [[1, 3], [3, 1]]},
}
OVEN = {
    "tasks": [task("a", 2, "O"), task("b", 2, "O", release=1)],
    "resources": [{"name": "O", "capacity": 2}],
    "batching": [{"resource": "O"}],
}
PAIR = {
    "tasks": [on_one_of("a", 2, "R", "S"), on_one_of("b", 2, "R", "S")],
    "resources": [R, S],
}

PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "swap": (CIRCLE, CIRCLE | {"swap": False}),
    "setup demands": (
        TWO_SETUPS,
        TWO_SETUPS | {"horizon": 5},
    ),
    "no_idle": (GAP, GAP | {"tasks": [GAP["tasks"][0] | {"deadline": 2}, GAP["tasks"][1]]}),
    "no_idle with setups": (
        GAP
        | {
            "setups": [{"resource": "R", "states": {"a": 0, "b": 1}, "times": [[0, 1], [1, 0]]}],
            "tasks": [GAP["tasks"][0] | {"deadline": 2}, GAP["tasks"][1]],
        },
        GAP
        | {
            "setups": [{"resource": "R", "states": {"a": 0, "b": 0}, "times": [[0, 1], [1, 0]]}],
            "tasks": [GAP["tasks"][0] | {"deadline": 2}, GAP["tasks"][1]],
        },
    ),
    "same_sequence": (FLOW, FLOW | SAME),
    "transport": (MOVE | {"horizon": 3}, MOVE | {"horizon": 2}),
    "transport to where there is room": (
        MOVE | {"horizon": 5},
        MOVE | {"horizon": 4, "tasks": [MOVE["tasks"][0], task("b", 1, "S")]},
    ),
    "batching": (OVEN | {"horizon": 3}, OVEN | {"horizon": 2}),
    "batching families": (
        OVEN | {"horizon": 3},
        OVEN | {"horizon": 3, "batching": [{"resource": "O", "families": {"a": "x", "b": "y"}}]},
    ),
    "assignment different": (
        PAIR | {"assignments": [{"type": "different", "tasks": ["a", "b"]}], "horizon": 2},
        PAIR | {"assignments": [{"type": "identical", "tasks": ["a", "b"]}], "horizon": 2},
    ),
    "assignment identical": (
        PAIR | {"assignments": [{"type": "identical", "tasks": ["a", "b"]}], "horizon": 4},
        PAIR
        | {
            "tasks": [on_one_of("a", 2, "R"), on_one_of("b", 2, "S")],
            "assignments": [{"type": "identical", "tasks": ["a", "b"]}],
        },
    ),
    "windows of machines": (
        {
            "tasks": [task("a", 2, "R")],
            "resources": [R | {"windows": [{"start": 1, "end": 3}]}],
        },
        {
            "tasks": [task("a", 2, "R")],
            "resources": [R | {"windows": [{"start": 1, "end": 2}, {"start": 4, "end": 5}]}],
        },
    ),
    "selection all_or_none": (
        {
            "tasks": [task("a", 1, optional=True), task("b", 9, optional=True)],
            "selections": [{"type": "all_or_none", "tasks": ["a", "b"]}],
            "horizon": 5,
        },
        {
            "tasks": [task("a", 1), task("b", 9, optional=True)],
            "selections": [{"type": "all_or_none", "tasks": ["a", "b"]}],
            "horizon": 5,
        },
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pair(name: str) -> None:
    """The first problem has a schedule, the second, tightened, has none."""
    for data, status in zip(PAIRS[name], ("OPTIMAL", "INFEASIBLE"), strict=True):
        result = cpsched.solve(RcpspProblem.parse(data), 60.0, workers=1, strict=True)
        assert result.status == status, name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("swap", "swap"),
        ("no_idle", "no_idle"),
        ("same_sequence", "same_sequence"),
        ("transport", "transport"),
        ("batching families", "batching"),
        ("assignment different", "assignment"),
        ("windows of machines", "windows"),
    ],
)
def test_explanation_names_the_rule(name: str, rule: str) -> None:
    """The conflict of the tightened problem names the rule by its one name."""
    problem = RcpspProblem.parse(PAIRS[name][1])
    explanation = cpsched.explain(problem, 120.0, workers=1)
    assert explanation.status == "INFEASIBLE"
    assert rule in {c.group for c in explanation.conflict}


def violations(data: dict[str, Any], **starts: int) -> set[str]:
    """The rules broken by the schedule of these starts, each task in its first mode."""
    problem = RcpspProblem.parse(data)
    tasks = [
        {"task": t.id, "start": starts[t.id], "end": starts[t.id] + t.modes[0].duration}
        for t in problem.tasks
    ]
    return {v.rule for v in check(problem, RcpspSchedule.parse({"tasks": tasks}))}


@pytest.mark.parametrize(
    ("data", "valid", "broken", "rule"),
    [
        (CIRCLE | {"horizon": 9}, {"a1": 0, "a2": 1, "b1": 0, "b2": 1}, None, "swap"),
        (
            CIRCLE | {"horizon": 9, "swap": False},
            {"a1": 0, "a2": 1, "b1": 2, "b2": 3},
            {"a1": 0, "a2": 1, "b1": 0, "b2": 1},
            "swap",
        ),
        (
            TWO_SETUPS,
            {"R1": 0, "R2": 3, "S1": 0, "S2": 5},
            {"R1": 0, "R2": 3, "S1": 0, "S2": 4},
            "capacity",
        ),
        (GAP, {"a": 2, "b": 3}, {"a": 1, "b": 3}, "no_idle"),
        (
            FLOW | SAME | {"precedences": []},
            {"a1": 0, "b1": 1, "a2": 0, "b2": 1},
            {"a1": 0, "b1": 1, "a2": 1, "b2": 0},
            "same_sequence",
        ),
        (MOVE, {"a": 0, "b": 2}, {"a": 0, "b": 1}, "transport"),
        (OVEN, {"a": 1, "b": 1}, {"a": 0, "b": 1}, "batching"),
        (
            PAIR | {"assignments": [{"type": "identical", "tasks": ["a", "b"]}]},
            {"a": 0, "b": 2},
            None,
            "assignment",
        ),
        (
            PAIR | {"assignments": [{"type": "different", "tasks": ["a", "b"]}]},
            None,
            {"a": 0, "b": 2},
            "assignment",
        ),
    ],
)
def test_checker(
    data: dict[str, Any],
    valid: dict[str, int] | None,
    broken: dict[str, int] | None,
    rule: str,
) -> None:
    """A schedule that meets the rule passes, one that breaks it is named by it alone."""
    if valid is not None:
        assert violations(data, **valid) == set()
    if broken is not None:
        assert violations(data, **broken) == {rule}


def test_deadlock_is_explained() -> None:
    """A task that another one's blocking shuts out is reported as a deadlock, with its names."""
    data = {
        "tasks": [task("a", 1, "R", blocks_until="c"), task("b", 1, "R"), task("c", 1, "S")],
        "resources": [R, S],
        "precedences": [{"before": "a", "after": "b"}, {"before": "b", "after": "c"}],
    }
    problem = RcpspProblem.parse(data)
    result = cpsched.solve(problem, 60.0, workers=1, strict=True)
    assert result.status == "INFEASIBLE"
    assert result.bounds == [] or result.schedule is None
    explanation = cpsched.explain(problem, 120.0, workers=1)
    assert {c.group for c in explanation.conflict} == {"blocking", "capacity", "precedence"}
    relaxed = RcpspProblem.parse(data | {"resources": [R | {"capacity": 2}, S]})
    assert cpsched.solve(relaxed, 60.0, workers=1, strict=True).objective == 3


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"resources": [R | {"no_idle": True, "capacity": 2}, S]}, "resources.0.no_idle"),
        ({"resources": [R | {"windows": [{"start": 2, "end": 2}]}, S]}, "windows"),
        ({"same_sequence": [{"lists": [["a"], ["b", "a"]]}]}, "lists"),
        ({"same_sequence": [{"lists": [["a"], ["x"]]}]}, "same_sequence.0.lists"),
        ({"same_sequence": [{"lists": [["a"], ["a"]]}]}, "same_sequence.0.lists.1"),
        ({"transport": {"resources": ["R", "S"], "times": [[0, 1]]}}, "times"),
        ({"transport": None}, "precedences.0.transport"),
        ({"transport": {"resources": ["X"], "times": [[0]]}}, "transport.resources"),
        ({"batching": [{"resource": "X"}]}, "batching.0.resource"),
        ({"batching": [{"resource": "R", "families": {"x": "f"}}]}, "batching.0.families"),
        ({"batching": [{"resource": "R", "families": {"a": "f"}}]}, "batching.0.families"),
        (
            {"assignments": [{"type": "identical", "tasks": ["a", "x"]}]},
            "assignments.0.tasks",
        ),
        (
            {"setups": [{"resource": "R", "states": {"a": 0}, "times": [[0, 1]]}]},
            "times",
        ),
        (
            {
                "setups": [
                    {
                        "resource": "R",
                        "states": {"a": 0, "b": 0},
                        "times": [[0]],
                        "demands": {"R": 1},
                    }
                ]
            },
            "setups.0.demands",
        ),
    ],
)
def test_bad_input(change: dict[str, Any], place: str) -> None:
    """A rule that does not fit is refused with the place, the value and a remedy."""
    with pytest.raises(ProblemError) as caught:
        RcpspProblem.parse(MOVE | change)
    assert place in caught.value.place
    assert caught.value.remedy


def test_impossible_machine_sets() -> None:
    """Tasks that need more different machines than there are have no schedule, and it says so."""
    tasks = [on_one_of(name, 1, "R", "S") for name in "abc"]
    rule = {"type": "different", "tasks": ["a", "b", "c"]}
    problem = RcpspProblem.parse({"tasks": tasks, "resources": [R, S], "assignments": [rule]})
    assert cpsched.solve(problem, 60.0, workers=1, strict=True).status == "INFEASIBLE"
    explanation = cpsched.explain(problem, 120.0, workers=1)
    assert "assignment" in {c.group for c in explanation.conflict}
