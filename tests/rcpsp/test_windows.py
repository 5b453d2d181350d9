"""Machines that close for good: nothing is done on them afterwards, and searches come to an end."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.families.rcpsp.problem import RcpspProblem


@pytest.mark.parametrize("pausable", [False, True])
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize(("duration", "fits"), [(2, True), (3, True), (5, False)])
def test_windows(pausable: bool, optional: bool, duration: int, fits: bool) -> None:
    """Work of 2 fits into a window, of 3 only with a pause, of 5 not at all."""
    task = {
        "id": "a",
        "modes": [{"duration": duration, "demands": {"R": 1}}],
        "pausable": pausable,
        "optional": optional,
    }
    windows = [{"start": 1, "end": 3}, {"start": 4, "end": 6}]
    problem = RcpspProblem.parse(
        {"tasks": [task], "resources": [{"name": "R", "windows": windows}]}
    )
    result = cpsched.solve(problem, 60.0, workers=1, strict=True)
    possible = optional or (fits and (pausable or duration == 2))
    assert result.status == ("OPTIMAL" if possible else "INFEASIBLE")
