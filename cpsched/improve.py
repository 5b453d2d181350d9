"""Improve a given schedule: never worse, repaired when invalid, certified when already optimal."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from cpsched.families import Family, family
from cpsched.result import Result, Status, unlist

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase


def improve(
    problem: ProblemBase, schedule: Any, time_limit: float | None = 1.0, **settings: Any
) -> Result:
    """Start from a schedule and return one that is never worse.

    Parameters
    ----------
    problem
        The problem the schedule belongs to.
    schedule
        A schedule in any form that `validate` takes; it may be partial or invalid. None stands
        for no schedule at all.
    time_limit, settings
        As for `solve`.

    Returns
    -------
    Result
        In addition ``certified`` (the given schedule was valid and is proved optimal),
        ``initial`` (its objective, validity and violations) and ``diff`` (what changed).

    Raises
    ------
    ProblemError
        For a malformed problem, or a schedule of another form or problem.
    """
    from cpsched.solve import objectives_of, solve

    started = time.perf_counter()
    chosen = family(problem.kind)
    given = None if schedule is None else chosen.read_schedule(schedule)
    violations = [] if given is None else chosen.check(problem, given)
    names = [o.name for o in objectives_of(chosen, problem, settings.get("objective"))]
    valid = given is not None and not violations
    values = list(chosen.evaluate(problem, given, names)) if valid else None
    spent = time.perf_counter() - started
    left = time_limit
    if left is not None and left > 0.0:
        left = max(0.0, left - spent)
    result = solve(problem, time_limit=left, hint=given, **settings)
    certified = (
        values is not None
        and result.status is Status.OPTIMAL
        and unlist(values) == result.objective
    )
    extra = {
        "certified": certified,
        "initial": {
            "objective": unlist(values),
            "valid": valid,
            "violations": [dataclasses.asdict(v) for v in violations],
        },
        "diff": difference(chosen, given, result.schedule),
    }
    wall = time.perf_counter() - started
    return dataclasses.replace(result, extra=result.extra | extra, wall_time=wall)


def difference(chosen: Family[Any, Any, Any], old: Any, new: Any) -> list[dict[str, Any]]:
    """What changed between two schedules: ``[{"item", "from", "to"}]``, None where absent."""
    before = {} if old is None else chosen.items(old)
    after = {} if new is None else chosen.items(new)
    return [
        {"item": item, "from": before.get(item), "to": after.get(item)}
        for item in [*before, *(i for i in after if i not in before)]
        if before.get(item) != after.get(item)
    ]
