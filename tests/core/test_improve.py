"""improve over random placements of every family: never worse, never invalid (a small sample).

The whole measurement is `python -m benchmarks.fallback never-worse KIND --count 10000`.
"""

from __future__ import annotations

import pytest

import cpsched
from benchmarks.fallback.quality import PER_PROBLEM, never_worse
from cpsched.errors import ProblemError
from cpsched.families import KINDS
from tests.core.test_fallback import HOUSE, slow


@pytest.mark.parametrize("kind", KINDS)
def test_never_worse(kind):
    """Valid, poor, partial, changed and missing placements: nothing gets worse or invalid."""
    for record in never_worse(kind, 1000, 2 * PER_PROBLEM, 0.03):
        assert record["cases"] == PER_PROBLEM
        assert record["bad"] == []


def test_unknown_ids_are_named():
    """A placement of another problem is repaired from nothing, and its ids are named."""
    house = cpsched.load(HOUSE)
    given = {"tasks": [{"task": "nobody", "start": 0, "end": 1}], "makespan": 1}
    result = cpsched.improve(house, given, time_limit=30, workers=1)
    assert any("nobody" in v["message"] for v in result.initial["violations"])
    assert cpsched.validate(house, result.schedule).valid


def test_result_of_another_kind():
    """A result of another kind is refused by name."""
    house = cpsched.load(HOUSE)
    with pytest.raises(ProblemError, match="kind"):
        cpsched.improve(house, {"schema_version": "1", "kind": "memory", "schedule": {}})


def test_the_wall_time_is_all_of_it():
    """The result's wall time counts the check of the given placement too."""
    house = cpsched.load(HOUSE)
    result = cpsched.improve(house, slow(house), time_limit=30, workers=1)
    assert result.wall_time >= result.trace[-1].time
