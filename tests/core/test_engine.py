"""The CP-SAT engine: the traps of the solver's Python interface are closed."""

from __future__ import annotations

import threading
import time

import pytest

from cpsched.core import engine
from cpsched.core.clock import Clock
from cpsched.errors import ModelError


def hard_model(size: int = 40):
    """A model whose optimum is not proved quickly: a random multiple knapsack."""
    import random

    from ortools.sat.python import cp_model

    rng = random.Random(4)
    model = cp_model.CpModel()
    picks = [[model.new_bool_var("") for _ in range(size)] for _ in range(6)]
    for row in picks:
        weights = [rng.randrange(50, 150) for _ in row]
        model.add(cp_model.LinearExpr.weighted_sum(row, weights) <= 700)
    for i in range(size):
        model.add_at_most_one(row[i] for row in picks)
    flat = [x for row in picks for x in row]
    model.maximize(cp_model.LinearExpr.weighted_sum(flat, [rng.randrange(50, 150) for _ in flat]))
    return model


def small_model(lowest: int = 3):
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    x = model.new_int_var(lowest, 10, "x")
    model.minimize(2 * x + 1)
    return model


def test_optimum_with_values_and_bound():
    """An optimal call gives values by variable index, objective and bound."""
    seen = []
    outcome = engine.solve(small_model(), Clock(10), on_solution=seen.append)
    assert (outcome.status, outcome.values, outcome.objective, outcome.bound) == (
        "OPTIMAL",
        [3],
        7,
        7,
    )
    assert seen[-1] == [3]


def test_no_values_without_a_solution():
    """An infeasible call has neither values nor objective nor bound (the solver's are garbage)."""
    model = small_model()
    model.add(model.get_int_var_from_proto_index(0) >= 11)
    outcome = engine.solve(model, Clock(10))
    assert outcome.status == "INFEASIBLE"
    assert (outcome.values, outcome.objective, outcome.bound) == (None, None, None)


def test_no_bound_when_out_of_time_at_once():
    """A call without any time reports no bound."""
    outcome = engine.solve(hard_model(), Clock(1e-4))
    assert outcome.status == "UNKNOWN"
    assert outcome.bound is None


def test_invalid_model_is_named():
    """A model that CP-SAT refuses raises ModelError with the reason."""
    model = small_model()
    x = model.get_int_var_from_proto_index(0)
    model.add_hint(x, 3)
    model.add_hint(x, 4)
    with pytest.raises(ModelError, match="hint"):
        engine.solve(model, Clock(10))


def test_cancel_ends_the_call():
    """A cancelled clock ends a running call and keeps its best solution."""
    stop = threading.Event()
    clock = Clock(300, stop=stop)
    outcome = engine.solve(hard_model(200), clock, workers=2, on_solution=lambda values: stop.set())
    assert clock.cancelled
    assert outcome.status != "OPTIMAL"


def test_stop_before_the_start_is_not_lost():
    """A call stopped before its search has begun ends all the same."""
    call = engine.Call(hard_model(200), seconds=300)
    call.stop()
    call.start()
    assert call.finished.wait(30)
    assert call.outcome is not None
    assert call.outcome.status == "UNKNOWN"


def test_stop_when_condition_holds():
    """stop_when ends the call once the caller has what it needs."""
    found = []
    engine.solve(
        hard_model(200),
        Clock(300),
        workers=2,
        on_solution=found.append,
        stop_when=lambda: bool(found),
    )
    assert found


def test_deterministic_calls_agree():
    """Two deterministic calls give the same values after the same counted work."""
    outcomes = []
    for _ in range(2):
        clock = Clock(60, deterministic=True)
        outcomes.append((engine.solve(hard_model(), clock, workers=2, seconds=0.5), clock.spent))
    (one, spent), (two, again) = outcomes
    assert one.values == two.values
    assert one.bound == two.bound
    assert spent == again > 0


def test_calls_run_beside_each_other():
    """Calls in several threads do not disturb each other, and none is left running."""
    clock = Clock(30)
    calls = [engine.start(small_model(lowest), clock) for lowest in range(4)]
    for lowest, call in enumerate(calls):
        assert call.finished.wait(20)
        assert engine.collect(call, clock).values == [lowest]
    for _ in range(100):
        if not engine.running():
            break
        time.sleep(0.01)
    assert not engine.running()
