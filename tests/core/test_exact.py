"""The solver's claims: one that there is no schedule is asked twice."""

from __future__ import annotations

from typing import Any

import pytest

import cpsched
from cpsched.core import engine, exact
from tests.workflow.helpers import problem


def wrong_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the solver refute every model unless its presolve is careful; its answers."""
    seen: list[str] = []
    right = engine.solve

    def solve(*arguments: Any, **named: Any) -> engine.Outcome:
        if exact.CAREFUL.items() <= dict(named["parameters"]).items():
            outcome = right(*arguments, **named)
        else:
            outcome = engine.Outcome("INFEASIBLE", None, None, None, 0.0, 0.0)
        seen.append(outcome.status)
        return outcome

    monkeypatch.setattr(exact.engine, "solve", solve)
    return seen


def test_a_wrong_refutation_is_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer finds and proves the optimum; there is no contradiction."""
    seen = wrong_once(monkeypatch)
    p = problem(
        tasks=[{"id": str(k), "work": w} for k, w in enumerate([3, 5, 7, 2, 4])],
        objectives=["weighted_flow_time"],
    )
    result = cpsched.solve(p, time_limit=20, workers=1)
    assert (result.status, result.stop_reason) == ("OPTIMAL", "proved")
    assert seen == ["INFEASIBLE", "OPTIMAL"]


def test_a_right_refutation_stands() -> None:
    """What has no schedule has none for the careful presolve either."""
    p = problem(
        tasks=[{"id": str(k), "work": 3, "deadline": 5} for k in range(3)],
        machines=[{"name": "m"}],
        objectives=["weighted_flow_time"],
    )
    result = cpsched.solve(p, time_limit=20, workers=1)
    assert result.status == "INFEASIBLE"
