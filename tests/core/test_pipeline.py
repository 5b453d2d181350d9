"""The fallback table of `solve`: one test per row."""

from __future__ import annotations

import threading
import time

import pytest

import cpsched
from cpsched.core import engine
from cpsched.core.exact import Built, solve_levels
from cpsched.core.run import Run
from cpsched.errors import Infeasible, OutOfTime, SolverContradiction
from cpsched.result import Status, StopReason
from tests.core.toy import (
    ToyProblem,
    ToySchedule,
    floor_bound,
    install,
    sleep_until_done,
    toy_family,
)


def exact_search(lowest: int, *, value_of=lambda x: x, strict: bool = False):
    """A search by CP-SAT over values of at least ``lowest``; wrong when that is not the floor."""

    def search(problem: ToyProblem, run: Run) -> None:
        from ortools.sat.python import cp_model

        def build(level: int) -> Built:
            model = cp_model.CpModel()
            x = model.new_int_var(lowest, 50, "x")
            model.minimize(x)
            return Built(model, lambda values: ToySchedule(value=value_of(values[x.index])))

        solve_levels(run, build)

    return search


def impossible_search(problem: ToyProblem, run: Run) -> None:
    """A search whose model has no solution."""
    from ortools.sat.python import cp_model

    def build(level: int) -> Built:
        model = cp_model.CpModel()
        x = model.new_int_var(0, 5, "x")
        model.add(x >= 6)
        model.minimize(x)
        return Built(model, lambda values: ToySchedule(value=0))

    solve_levels(run, build)


def invalid_search(problem: ToyProblem, run: Run) -> None:
    """A search whose model CP-SAT refuses."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    x = model.new_int_var(0, 5, "x")
    model.add_hint(x, 1)
    model.add_hint(x, 2)
    engine.solve(model, run.clock)


def test_solver_optimal(monkeypatch):
    """The solver's proved optimum is returned, with its bound."""
    problem = install(monkeypatch, toy_family(search=exact_search(3)))
    result = cpsched.solve(problem, time_limit=5, workers=1)
    assert (result.status, result.stop_reason) == (Status.OPTIMAL, StopReason.PROVED)
    assert (result.objective, result.bound, result.gap, result.source) == (3, 3, 0.0, "cp-sat")


def test_bound_meets_greedy(monkeypatch):
    """When a bound proves the greedy schedule optimal, no search runs."""

    def search(problem, run):
        raise AssertionError("searched although proved")

    problem = install(
        monkeypatch,
        toy_family(bounds=lambda p, run: run.raise_bound(floor_bound(10)), search=search),
    )
    result = cpsched.solve(problem.model_copy(update={"floor": 10}), time_limit=5)
    assert result.status is Status.OPTIMAL
    assert result.source == "greedy"


def test_solver_worse_than_greedy(monkeypatch):
    """A worse schedule from the solver never replaces the greedy one; its bound is kept."""

    def search(problem, run):
        run.offer(ToySchedule(value=20), "cp-sat")
        run.raise_bound(floor_bound(4, "cp-sat"))

    problem = install(monkeypatch, toy_family(search=search))
    result = cpsched.solve(problem, time_limit=5)
    assert (result.status, result.objective, result.bound) == (Status.FEASIBLE, 10, 4)


def test_nothing_found(monkeypatch):
    """Without any schedule or proof the status is UNKNOWN and nothing is invented."""
    problem = install(monkeypatch, toy_family(greedy=lambda p, run: None))
    result = cpsched.solve(problem, time_limit=0.2)
    assert (result.status, result.stop_reason) == (Status.UNKNOWN, StopReason.TIME_LIMIT)
    assert result.schedule is None
    assert result.objective is None
    assert result.bound is None


def test_infeasible(monkeypatch):
    """A solver proof of infeasibility becomes the status when no schedule is known."""
    problem = install(monkeypatch, toy_family(greedy=lambda p, run: None, search=impossible_search))
    result = cpsched.solve(problem, time_limit=5)
    assert (result.status, result.stop_reason) == (Status.INFEASIBLE, StopReason.PROVED)


def test_infeasible_in_preparation(monkeypatch):
    """A proof raised while bounding becomes the status, with its sentence."""

    def bounds(problem, run):
        raise Infeasible("the sky is too low", "sky")

    problem = install(monkeypatch, toy_family(greedy=lambda p, run: None, bounds=bounds))
    result = cpsched.solve(problem, time_limit=5)
    assert result.status is Status.INFEASIBLE
    assert result.message == "the sky is too low"


def test_infeasible_contradicted(monkeypatch, caplog):
    """INFEASIBLE although a checked schedule exists: the schedule is returned, the claim logged."""
    problem = install(monkeypatch, toy_family(search=impossible_search))
    result = cpsched.solve(problem, time_limit=5)
    assert (result.status, result.stop_reason) == (Status.FEASIBLE, StopReason.CONTRADICTION)
    assert result.objective == 10
    assert "model.pbtxt" in caplog.text


def test_wrong_bound_contradicted(monkeypatch):
    """A bound that a checked schedule refutes is dropped and reported as a contradiction."""
    problem = install(
        monkeypatch, toy_family(bounds=lambda p, run: run.raise_bound(floor_bound(11)))
    )
    result = cpsched.solve(problem, time_limit=0.2)
    assert result.stop_reason is StopReason.CONTRADICTION
    assert result.bound is None


def test_later_schedule_refutes_bound(monkeypatch):
    """A bound refuted only by a later schedule is withdrawn."""

    def search(problem, run):
        run.raise_bound(floor_bound(8))
        run.offer(ToySchedule(value=5), "lns")

    problem = install(monkeypatch, toy_family(search=search))
    result = cpsched.solve(problem, time_limit=0.2)
    assert (result.objective, result.bound) == (5, None)
    assert result.stop_reason is StopReason.CONTRADICTION


def test_strict_raises(monkeypatch):
    """With strict=True a contradiction is raised instead of reported."""
    problem = install(monkeypatch, toy_family(search=impossible_search))
    with pytest.raises(SolverContradiction):
        cpsched.solve(problem, time_limit=5, strict=True)


def test_invalid_schedule_is_never_returned(monkeypatch):
    """A schedule that fails the check is dropped, whoever found it."""
    problem = install(monkeypatch, toy_family(search=exact_search(0)))
    result = cpsched.solve(problem, time_limit=5, workers=1)
    assert result.objective == 10
    assert result.stop_reason is StopReason.CONTRADICTION


@pytest.mark.failing_step
def test_model_invalid(monkeypatch):
    """A model that CP-SAT refuses costs only the search."""
    problem = install(monkeypatch, toy_family(search=invalid_search))
    result = cpsched.solve(problem, time_limit=5)
    assert (result.status, result.stop_reason) == (Status.FEASIBLE, StopReason.ERROR)
    assert "ModelError" in result.message


@pytest.mark.failing_step
def test_crash_in_search(monkeypatch):
    """A defect in the search costs only the search."""

    def search(problem, run):
        raise ZeroDivisionError("oops")

    problem = install(monkeypatch, toy_family(search=search))
    result = cpsched.solve(problem, time_limit=5)
    assert (result.objective, result.stop_reason) == (10, StopReason.ERROR)


@pytest.mark.failing_step
def test_crash_in_greedy(monkeypatch):
    """A defect in the greedy heuristic still lets the search answer."""

    def greedy(problem, run):
        raise KeyError("oops")

    problem = install(monkeypatch, toy_family(greedy=greedy, search=exact_search(3)))
    result = cpsched.solve(problem, time_limit=5, workers=1)
    assert (result.status, result.objective) == (Status.OPTIMAL, 3)


def test_time_out_before_the_model(monkeypatch):
    """Running out of time while building the model leaves the greedy schedule."""

    def search(problem, run):
        raise OutOfTime("no time to build")

    problem = install(monkeypatch, toy_family(search=search))
    result = cpsched.solve(problem, time_limit=5)
    assert (result.objective, result.stop_reason) == (10, StopReason.TIME_LIMIT)


def test_cancelled_by_event(monkeypatch):
    """A set event ends the search and keeps the best schedule."""
    event = threading.Event()

    def search(problem, run):
        event.set()
        sleep_until_done(run)

    problem = install(monkeypatch, toy_family(search=search))
    result = cpsched.solve(problem, time_limit=60, stop=event)
    assert (result.objective, result.stop_reason) == (10, StopReason.CANCELLED)


def test_keyboard_interrupt(monkeypatch):
    """Ctrl-C in Python code returns the best schedule as cancelled."""

    def search(problem, run):
        raise KeyboardInterrupt

    problem = install(monkeypatch, toy_family(search=search))
    result = cpsched.solve(problem, time_limit=60)
    assert (result.objective, result.stop_reason) == (10, StopReason.CANCELLED)


def test_gap_limit(monkeypatch):
    """The search ends with stop reason 'gap' once the gap limit is met."""

    def search(problem, run):
        run.raise_bound(floor_bound(9))
        assert run.done()

    problem = install(monkeypatch, toy_family(search=search))
    result = cpsched.solve(problem, time_limit=60, gap_limit=0.2)
    assert result.stop_reason is StopReason.GAP
    assert result.gap == pytest.approx(0.1)


def test_pure_feasibility(monkeypatch):
    """Without objectives the first checked schedule is OPTIMAL with objective null."""
    problem = install(monkeypatch, toy_family())
    result = cpsched.solve(problem, time_limit=5, objective=[])
    assert (result.status, result.objective) == (Status.OPTIMAL, None)


def test_lexicographic_values_are_lists(monkeypatch):
    """Several objectives give lists in order, and OPTIMAL needs a proof of every level."""

    def search(problem, run):
        run.offer(ToySchedule(value=3, second=7), "lns")
        run.raise_bound(floor_bound(3))
        assert not run.optimal()
        run.raise_bound(cpsched.Bound(7, "test", "second", given=(3,)))

    problem = install(monkeypatch, toy_family(search=search))
    result = cpsched.solve(problem, time_limit=5, objective=["value", "second"])
    assert result.objective == [3, 7]
    assert result.bound == [3, 7]
    assert result.status is Status.OPTIMAL


def test_conditional_bound_needs_the_levels_before(monkeypatch):
    """A bound proved for given earlier values does not count while those are unproved."""

    def search(problem, run):
        run.offer(ToySchedule(value=3, second=7), "lns")
        run.raise_bound(cpsched.Bound(7, "test", "second", given=(3,)))

    problem = install(monkeypatch, toy_family(search=search))
    result = cpsched.solve(problem, time_limit=0.2, objective=["value", "second"])
    assert result.status is Status.FEASIBLE
    assert result.bound is None


def test_hint_is_kept(monkeypatch):
    """A valid hint better than everything found is returned."""
    problem = install(monkeypatch, toy_family())
    result = cpsched.solve(problem, time_limit=0.2, hint={"value": 4})
    assert (result.objective, result.source) == (4, "hint")


def test_callback_errors_are_contained(monkeypatch, caplog):
    """An exception in on_improvement is logged and the search goes on."""

    def callback(incumbent):
        raise RuntimeError("callback")

    problem = install(monkeypatch, toy_family(search=exact_search(3)))
    result = cpsched.solve(problem, time_limit=5, workers=1, on_improvement=callback)
    assert result.objective == 3
    assert "callback" in caplog.text


def test_callbacks_see_every_improvement(monkeypatch):
    """on_improvement gets each incumbent in order, on_progress the bounds as well."""
    seen, points = [], []
    problem = install(monkeypatch, toy_family(search=exact_search(3)))
    cpsched.solve(
        problem, time_limit=5, workers=1, on_improvement=seen.append, on_progress=points.append
    )
    values = [i.objective for i in seen]
    assert values[0] == 10
    assert values[-1] == 3
    assert values == sorted(values, reverse=True)
    assert points[-1].bound == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time_limit", -1.0),
        ("time_limit", float("nan")),
        ("workers", 0),
        ("seed", -1),
        ("gap_limit", -0.5),
        ("isolation", "thread"),
        ("objective", "speed"),
        ("objective", ["value", "value"]),
    ],
)
def test_bad_arguments(monkeypatch, field, value):
    """Arguments out of range are refused with the argument's name."""
    problem = install(monkeypatch, toy_family())
    with pytest.raises(cpsched.ProblemError, match=field):
        cpsched.solve(problem, **{field: value})


def test_improve_certifies(monkeypatch):
    """improve says when the given schedule is already optimal, and what it was worth."""
    problem = install(monkeypatch, toy_family(search=exact_search(3)))
    result = cpsched.improve(problem, {"value": 3}, time_limit=5, workers=1)
    assert result.certified is True
    assert result.initial["objective"] == 3
    assert result.diff == []


def test_improve_repairs_an_invalid_schedule(monkeypatch):
    """An invalid schedule is reported as such and replaced."""
    problem = install(monkeypatch, toy_family(search=exact_search(3)))
    result = cpsched.improve(problem, {"value": 1}, time_limit=5, workers=1)
    assert result.certified is False
    assert result.initial["valid"] is False
    assert result.initial["violations"][0]["rule"] == "floor"
    assert result.objective == 3
    assert result.diff == [{"item": "value", "from": {"value": 1}, "to": {"value": 3}}]


def explain_search(problem, run):
    """Feasibility of the demands against the ceiling, by arithmetic."""
    lowest = max([problem.floor, *problem.demands])
    if lowest > problem.ceiling:
        run.claim_infeasible("arithmetic")
    else:
        run.offer(ToySchedule(value=lowest), "arithmetic")


def test_explain_finds_the_minimal_conflict(monkeypatch):
    """The deletion filter keeps exactly the one demand that breaks the ceiling."""
    family = toy_family(greedy=lambda p, run: None, search=explain_search)
    problem = install(monkeypatch, family).model_copy(
        update={"demands": (1, 5, 200, 7, 9), "ceiling": 100}
    )
    found = cpsched.explain(problem, time_limit=5)
    assert found.status is Status.INFEASIBLE
    assert [c.name for c in found.conflict] == ["demand:2"]
    assert found.minimal


def test_explain_of_a_feasible_problem(monkeypatch):
    """A feasible problem needs no explanation."""
    family = toy_family(greedy=lambda p, run: None, search=explain_search)
    problem = install(monkeypatch, family)
    assert cpsched.explain(problem, time_limit=5).status is Status.FEASIBLE


def test_deterministic_clock_counts_work():
    """A deterministic clock ends by reported work, not by the wall."""
    from cpsched.core.clock import Clock

    clock = Clock(100.0, deterministic=True)
    clock.spend(99.0)
    assert not clock.expired()
    time.sleep(0.01)
    assert clock.remaining() == pytest.approx(1.0)
    clock.spend(1.5)
    assert clock.expired()
    assert not clock.overran
