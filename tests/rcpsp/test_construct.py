"""First schedules under the rules of shops: valid without the solver, and of a sensible length."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.rcpsp.greedy import greedy, repair
from cpsched.families.rcpsp.model_redundant import twins_of
from cpsched.families.rcpsp.prepare import Instance, prepare
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.retime import retimed
from cpsched.families.rcpsp.schedule import state_of
from cpsched.result import Objective


def flow_shop(jobs: int, machines: int, **rest: Any) -> dict[str, Any]:
    """A random flow shop."""
    rng = random.Random(jobs)
    tasks = [
        {
            "id": f"{j}-{k}",
            "modes": [{"duration": rng.randint(1, 9), "demands": {f"M{k}": 1}}],
        }
        for j in range(jobs)
        for k in range(machines)
    ]
    return {
        "tasks": tasks,
        "resources": [{"name": f"M{k}"} for k in range(machines)],
        "precedences": [
            {"before": f"{j}-{k}", "after": f"{j}-{k + 1}"}
            for j in range(jobs)
            for k in range(machines - 1)
        ],
    } | rest


def begun(data: dict[str, Any]) -> tuple[Instance, Run]:
    """A prepared instance and a strict run that counts work instead of time."""
    problem = RcpspProblem.parse(data)
    clock, objectives = Clock(10.0, deterministic=True), (Objective("makespan"),)
    run = Run(problem, family("rcpsp"), objectives, clock, deterministic=True, strict=True)
    return prepare(problem, run), run


LISTS = [[f"{j}-{k}" for j in range(8)] for k in range(3)]
SETUPS = [
    {
        "resource": f"M{k}",
        "states": {f"{j}-{k}": j for j in range(8)},
        "times": [[abs(a - b) for b in range(8)] for a in range(8)],
    }
    for k in range(3)
]
RULES: dict[str, dict[str, Any]] = {
    "same_sequence": {"same_sequence": [{"lists": LISTS}]},
    "setup": {"setups": SETUPS},
    "setup demands": {
        "setups": [s | {"demands": {"W": 1}} for s in SETUPS],
        "resources": [*({"name": f"M{k}"} for k in range(3)), {"name": "W"}],
    },
    "no_idle": {"resources": [{"name": f"M{k}", "no_idle": k != 1} for k in range(3)]},
    "batching": {
        "resources": [{"name": "M0"}, {"name": "M1", "capacity": 3}, {"name": "M2"}],
        "batching": [{"resource": "M1", "families": {f"{j}-1": "xy"[j % 2] for j in range(8)}}],
    },
    "assignment": {"assignments": [{"type": "different", "tasks": ["0-0", "0-1", "0-2"]}]},
    "windows": {
        "resources": [
            {"name": "M0", "windows": [{"start": 5, "end": 30}, {"start": 40, "end": 200}]},
            {"name": "M1", "no_idle": True},
            {"name": "M2"},
        ]
    },
}


@pytest.mark.parametrize("rule", RULES)
def test_greedy_gives_a_valid_schedule(rule: str) -> None:
    """Without the solver there is a checked schedule, far shorter than one task at a time."""
    instance, run = begun(flow_shop(8, 3) | RULES[rule])
    greedy(instance, run)
    assert run.incumbent is not None
    assert run.incumbent.source.startswith("greedy:")
    value = run.value()
    assert value is not None
    assert value <= 0.9 * instance.horizon


def test_retiming_closes_gaps() -> None:
    """Orders kept, a machine without idle time starts later and works without a gap."""
    data = flow_shop(4, 2)
    instance, run = begun(data)
    greedy(instance, run)
    assert run.incumbent is not None
    data["resources"][1]["no_idle"] = True
    tight, _ = begun(data)
    state = state_of(instance, run.incumbent.schedule)
    start = retimed(tight, state.start, state.mode, lambda: False)
    assert start is not None
    on = sorted((start[i], int(tight.duration[i])) for i in range(1, 8, 2))
    assert all(a + d == b for (a, d), (b, _) in pairwise(on))


def test_machines_that_are_alike() -> None:
    """Machines with the same modes are found, one that a rule names is not among them."""
    modes = [{"duration": 2, "demands": {f"M{k}": 1}} for k in range(3)]
    data = {
        "tasks": [{"id": name, "modes": modes} for name in "abcd"],
        "resources": [{"name": f"M{k}"} for k in range(3)],
    }
    instance, _ = begun(data)
    assert [t.machines for t in twins_of(instance)] == [(0, 1, 2)]
    instance, _ = begun(
        data | {"resources": [*data["resources"][:2], {"name": "M2", "no_idle": True}]}
    )
    assert [t.machines for t in twins_of(instance)] == [(0, 1)]


def test_repair_keeps_a_valid_plan() -> None:
    """A valid schedule of a shop with rules that is repaired is at least as good."""
    instance, run = begun(flow_shop(8, 3) | RULES["setup"])
    greedy(instance, run)
    assert run.incumbent is not None
    again, other = begun(flow_shop(8, 3) | RULES["setup"])
    repair(again, other, run.incumbent.schedule)
    assert other.value() is not None
    assert other.value() <= run.value()
