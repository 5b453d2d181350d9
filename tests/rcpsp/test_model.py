"""Each constraint alone: feasible as it stands, infeasible (or dearer) when tightened."""

from __future__ import annotations

from typing import Any

import pytest

import cpsched
from cpsched.families.rcpsp.problem import RcpspProblem


def task(name: str, duration: int, **rest: Any) -> dict[str, Any]:
    """A task of one mode; ``demands`` go into the mode."""
    demands = rest.pop("demands", {})
    return {"id": name, "modes": [{"duration": duration, "demands": demands}], **rest}


def solved(data: dict[str, Any], **settings: Any) -> cpsched.Result:
    """The result with the solver alone: its answer must be proved."""
    result = cpsched.solve(RcpspProblem.parse(data), 20.0, workers=1, strict=True, **settings)
    assert result.stop_reason == "proved"
    return result


R1 = {"name": "R", "capacity": 1}
AB = [task("a", 2, demands={"R": 1}), task("b", 2, demands={"R": 1})]
FREE = [task("a", 2), task("b", 2)]
TANK = {"name": "T", "type": "reservoir", "initial": 1}


def drain(amount: int) -> list[dict[str, Any]]:
    """One task that takes from the reservoir at its start."""
    event = {"resource": "T", "amount": -amount, "at": "start"}
    return [task("a", 1, events=[event])]


#: Two jobs that need each other's machine; the first waits on R until both swap at time 2.
SWAP = [
    task("a1", 1, demands={"R": 1}, blocks_until="a2"),
    task("a2", 2, demands={"S": 1}),
    task("b1", 2, demands={"S": 1}, blocks_until="b2"),
    task("b2", 1, demands={"R": 1}),
]


def setups(time: int) -> dict[str, Any]:
    """A setup of that time from a to b, and of 9 from b to a."""
    return {"resource": "R", "states": {"a": 0, "b": 1}, "times": [[0, time], [9, 0]]}


def lag(kind: str, **lags: int) -> list[dict[str, Any]]:
    """Relations that fix b to start 1 after a's start, and one more."""
    fixed = {"before": "a", "after": "b", "type": "start-start", "min_lag": 1, "max_lag": 1}
    return [fixed, {"before": "a", "after": "b", "type": kind, "min_lag": None} | lags]


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "capacity": (
        {"tasks": AB, "resources": [R1 | {"capacity": 2}], "horizon": 3},
        {"tasks": AB, "resources": [R1], "horizon": 3},
    ),
    "capacity_changes": (
        {"tasks": AB[:1], "resources": [R1], "horizon": 3},
        {
            "tasks": AB[:1],
            "resources": [R1 | {"capacity_changes": [{"start": 1, "end": 2}]}],
            "horizon": 3,
        },
    ),
    "pausable": (
        {
            "tasks": [AB[0] | {"pausable": True}],
            "resources": [R1 | {"capacity_changes": [{"start": 1, "end": 2}]}],
            "horizon": 3,
        },
        {
            "tasks": [AB[0] | {"pausable": True}],
            "resources": [R1 | {"capacity_changes": [{"start": 1, "end": 3}]}],
            "horizon": 3,
        },
    ),
    "nonrenewable": (
        {
            "tasks": [task("a", 1, demands={"N": 2})],
            "resources": [{"name": "N", "type": "nonrenewable", "capacity": 2}],
        },
        {
            "tasks": [task("a", 1, demands={"N": 2})],
            "resources": [{"name": "N", "type": "nonrenewable", "capacity": 1}],
        },
    ),
    "reservoir": (
        {"tasks": drain(1), "resources": [TANK]},
        {"tasks": drain(2), "resources": [TANK]},
    ),
    "reservoir maximum": (
        {"tasks": drain(-1), "resources": [TANK | {"maximum": 2}]},
        {"tasks": drain(-2), "resources": [TANK | {"maximum": 2}]},
    ),
    "reservoir starts empty": (
        {"tasks": drain(-1), "resources": [TANK | {"initial": 0, "minimum": 1}]},
        {
            "tasks": [drain(-1)[0] | {"release": 1}],
            "resources": [TANK | {"initial": 0, "minimum": 1}],
        },
    ),
    "release": (
        {"tasks": [task("a", 2, release=1)], "horizon": 3},
        {"tasks": [task("a", 2, release=2)], "horizon": 3},
    ),
    "deadline": (
        {"tasks": [task("a", 2, deadline=2)]},
        {"tasks": [task("a", 2, deadline=1)]},
    ),
    "disjunctive": (
        {"tasks": FREE, "horizon": 3},
        {"tasks": FREE, "disjunctive": [{"tasks": ["a", "b"]}], "horizon": 3},
    ),
    "selection exactly_one": (
        {
            "tasks": [task("a", 1, optional=True), task("b", 1, optional=True)],
            "selections": [{"type": "exactly_one", "tasks": ["a", "b"]}],
        },
        {"tasks": FREE, "selections": [{"type": "exactly_one", "tasks": ["a", "b"]}]},
    ),
    "selection implication": (
        {
            "tasks": [task("a", 1, optional=True), task("b", 9, optional=True)],
            "selections": [{"type": "implication", "tasks": ["a", "b"]}],
            "horizon": 5,
        },
        {
            "tasks": [task("a", 1), task("b", 9, optional=True)],
            "selections": [{"type": "implication", "tasks": ["a", "b"]}],
            "horizon": 5,
        },
    ),
    "blocking": (
        {"tasks": SWAP, "resources": [R1, {"name": "S"}], "horizon": 4},
        {
            "tasks": [*SWAP, task("x", 2, demands={"R": 1})],
            "resources": [R1, {"name": "S"}],
            "horizon": 4,
        },
    ),
    "setup": (
        {"tasks": AB, "resources": [R1], "setups": [setups(1)], "horizon": 5},
        {"tasks": AB, "resources": [R1], "setups": [setups(2)], "horizon": 5},
    ),
    "min lag end-start": (
        {"tasks": FREE, "precedences": lag("end-start", min_lag=-1)},
        {"tasks": FREE, "precedences": lag("end-start", min_lag=0)},
    ),
    "max lag end-start": (
        {"tasks": FREE, "precedences": lag("end-start", max_lag=-1)},
        {"tasks": FREE, "precedences": lag("end-start", max_lag=-2)},
    ),
    "min lag start-start": (
        {"tasks": FREE, "precedences": lag("start-start", min_lag=1)},
        {"tasks": FREE, "precedences": lag("start-start", min_lag=2)},
    ),
    "max lag start-start": (
        {"tasks": FREE, "precedences": lag("start-start", max_lag=1)},
        {"tasks": FREE, "precedences": lag("start-start", max_lag=0)},
    ),
    "min lag end-end": (
        {"tasks": FREE, "precedences": lag("end-end", min_lag=1)},
        {"tasks": FREE, "precedences": lag("end-end", min_lag=2)},
    ),
    "max lag end-end": (
        {"tasks": FREE, "precedences": lag("end-end", max_lag=1)},
        {"tasks": FREE, "precedences": lag("end-end", max_lag=0)},
    ),
    "min lag start-end": (
        {"tasks": FREE, "precedences": lag("start-end", min_lag=3)},
        {"tasks": FREE, "precedences": lag("start-end", min_lag=4)},
    ),
    "max lag start-end": (
        {"tasks": FREE, "precedences": lag("start-end", max_lag=3)},
        {"tasks": FREE, "precedences": lag("start-end", max_lag=2)},
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pair(name):
    """The first problem has a schedule, the second, tightened, has none."""
    feasible, infeasible = PAIRS[name]
    assert solved(feasible).status == "OPTIMAL"
    assert solved(infeasible).status == "INFEASIBLE"
    assert solved(infeasible, objective=[]).status == "INFEASIBLE"


@pytest.mark.parametrize(
    ("objective", "best"),
    [
        ("makespan", 3),
        ("weighted_tardiness", 4),
        ("late_tasks", 1),
        ("weighted_flow_time", 9),
        ("max_lateness", 2),
        ("earliness_tardiness", 4),
        ("resource_cost", 6),
    ],
)
def test_objectives_against_hand(objective, best):
    """Two tasks on one machine: the best order and mode for each objective."""
    problem = {
        "tasks": [
            task("a", 2, demands={"R": 1}, due=1, weight=2, earliness_weight=9),
            {
                "id": "b",
                "modes": [
                    {"duration": 1, "demands": {"R": 1}, "cost": 6},
                    {"duration": 4, "demands": {"R": 1}},
                ],
                "due": 1,
                "weight": 3,
                "earliness_weight": 9,
            },
        ],
        "resources": [R1 | {"unit_cost": 1}],
    }
    # b first in its short mode ends at 1, then a at 3; or a ends at 2, then b at 3.
    assert solved(problem, objective=objective).objective == best


def test_lexicographic_levels():
    """The second objective is optimised among the best schedules of the first."""
    problem = {
        "tasks": [
            task("a", 3),
            {"id": "b", "modes": [{"duration": 1, "cost": 5}, {"duration": 3, "cost": 1}]},
        ]
    }
    result = solved(problem, objective=["makespan", "resource_cost"])
    assert result.objective == [3, 1]
    result = solved(problem, objective=["weighted_flow_time", "resource_cost"])
    assert result.objective == [4, 5]


def test_problem_without_tasks():
    """Nothing to do is done at once."""
    assert solved({"tasks": []}).objective == 0
