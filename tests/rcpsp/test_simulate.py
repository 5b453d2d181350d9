"""Simulated execution: worlds, policies, and what they may know."""

from __future__ import annotations

import numpy as np
import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.simulate import POLICIES, Executor, World, draw_world, execute


def shop() -> RcpspProblem:
    """Two jobs of two operations on two machines, in opposite order."""
    durations = {"0-0": (3, "m0"), "0-1": (2, "m1"), "1-0": (2, "m1"), "1-1": (4, "m0")}
    return RcpspProblem.parse(
        {
            "kind": "rcpsp",
            "tasks": [
                {"id": name, "modes": [{"duration": d, "demands": {m: 1}}], "due": 6}
                for name, (d, m) in durations.items()
            ],
            "resources": [{"name": "m0"}, {"name": "m1"}],
            "precedences": [{"before": "0-0", "after": "0-1"}, {"before": "1-0", "after": "1-1"}],
        }
    )


def nominal(problem: RcpspProblem, **outages: list[tuple[int, int]]) -> World:
    """The world in which everything happens as planned, but for the outages."""
    duration = {(t.id, m): mode.duration for t in problem.tasks for m, mode in enumerate(t.modes)}
    return World(duration, {r.name: outages.get(r.name, []) for r in problem.resources})


def run(policy: str, world: World | None = None, reveal: str = "all"):
    """The realised schedule of a policy."""
    problem = shop()
    plan = cpsched.solve(problem, time_limit=5, workers=1).schedule
    again = lambda p, hint: cpsched.solve(p, time_limit=1, workers=1, hint=hint)  # noqa: E731
    return execute(problem, world or nominal(problem), policy, plan, again, reveal)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_executes_feasibly(policy):
    """Without surprises the realised schedule of any policy is valid."""
    realised, lost = run(policy)
    assert cpsched.validate(shop(), realised).valid
    assert lost == 0


def test_plans_are_followed_without_surprises():
    """Static and replanning execution of an optimal plan reach the optimum."""
    assert run("static")[0].makespan == run("replan")[0].makespan == 7


def test_shutdown_loses_the_running_work():
    """A task that runs when its machine goes down starts again after the repair."""
    realised, lost = run("static", nominal(shop(), m0=[(1, 5)]))
    assert lost == 1
    first = min(t.start for t in realised.tasks if t.task in ("0-0", "1-1"))
    assert first >= 5


def test_nothing_runs_on_a_machine_that_is_down():
    """No realised task overlaps an outage of its machine."""
    outage = (2, 6)
    for policy in POLICIES:
        realised, _ = run(policy, nominal(shop(), m1=[outage]))
        for task in realised.tasks:
            if task.task in ("0-1", "1-0"):
                assert task.end <= outage[0] or task.start >= outage[1]


@pytest.mark.parametrize("reveal", ["all", "release", "operation"])
def test_revealing_still_completes(reveal):
    """Every task is executed however late policies learn of it."""
    realised, _ = run("replan", reveal=reveal)
    assert {t.task for t in realised.tasks} == {t.id for t in shop().tasks}


def test_worlds_are_deterministic_by_seed():
    """The same generator state draws the same world."""
    one, two = (
        draw_world(shop(), np.random.default_rng(3), noise=0.3, shutdown=0.4, repair=2.0)
        for _ in range(2)
    )
    assert one == two
    other = draw_world(shop(), np.random.default_rng(4), noise=0.3, shutdown=0.4, repair=2.0)
    assert other != one


def test_simulation_pairs_the_policies():
    """Every policy runs in the same worlds; the first one's difference is the reference."""
    found = cpsched.simulate(
        shop(),
        ["static", "spt"],
        replications=5,
        noise=0.3,
        shutdown=0.2,
        plan_time=1.0,
    )
    first, second = found.policies
    assert len(first.values) == len(second.values) == 5
    assert first.difference is None
    pairs = [b - a for a, b in zip(first.values, second.values, strict=True)]
    assert second.difference == pytest.approx(sum(pairs) / 5)
    assert "±" in found.table()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policies": ["magic"]}, "policy must be one of"),
        ({"policies": ["spt", "spt"]}, "once each"),
        ({"replications": 0}, "replications"),
        ({"noise": -1.0}, "noise"),
        ({"shutdown": 2.0}, "shutdown"),
        ({"reveal": "never"}, "reveal"),
    ],
)
def test_bad_settings(settings, message):
    """Arguments out of range are named."""
    with pytest.raises(ProblemError, match=message):
        cpsched.simulate(shop(), **settings)


def test_unsupported_constraints_are_named():
    """A problem with a budget cannot be executed, and that is said."""
    data = shop().to_dict()
    data["resources"].append({"name": "money", "type": "nonrenewable", "capacity": 5})
    with pytest.raises(ProblemError, match="nonrenewable"):
        cpsched.simulate(RcpspProblem.parse(data))


def test_arrivals_reveal_jobs_when_they_come():
    """With arrivals jobs are released one after the other and known from then on."""
    from cpsched.families.rcpsp.simulate import with_arrivals

    problem = shop()
    moved = with_arrivals(problem, np.random.default_rng(1), 5.0)
    releases = {t.id: t.release for t in moved.tasks}
    assert len(set(releases.values())) > 1
    for p in moved.precedences:
        assert releases[p.before] == releases[p.after]
    found = cpsched.simulate(
        problem, ["replan", "fifo"], replications=2, arrivals=5.0, plan_time=1.0, replan_time=0.05
    )
    assert found.settings["reveal"] == "release"


def test_remaining_time_is_what_is_known():
    """Where operations are revealed one by one, the shortest remaining time is the operation's."""
    problem = shop()
    world = draw_world(problem, np.random.default_rng(1), noise=0.0, shutdown=0.0, repair=1.0)
    task = problem.precedences[0].before
    own = min(m.duration for m in next(t for t in problem.tasks if t.id == task).modes)
    assert Executor(problem, world, "operation").remaining(task) == own
    assert Executor(problem, world, "all").remaining(task) > own
