"""Which function answers which question: the family's greedy, bounds, search and repair."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cpsched.errors import OutOfTime
from cpsched.families.serving import (
    bound,
    cache,
    capacity,
    placement,
    preemption,
    priced,
    routing,
    staged,
)
from cpsched.families.serving import greedy as policies
from cpsched.families.serving import search as searching
from cpsched.families.serving.prepare import GRACE, NORMAL, Prepared, arrays_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.serving.problem import ServingProblem, ServingSchedule

STATIC: dict[str, Any] = {
    "cache": cache,
    "preemption": preemption,
    "routing": routing,
    "placement": placement,
}


def first_seconds(p: ServingProblem, run: Run) -> float:
    """Seconds that a first schedule of a question without rounds, and its check, take."""
    if any(o.name == "expected_tokens" for o in run.objectives):
        return 1e-6 * sum(len(t.durations) for t in p.tools) + 1e-6 * len(p.requests)
    blocks = sum(len(r.prefix) for r in p.requests)
    if p.question == "placement":
        return 1e-4 * len(p.items) + 2e-8 * len(p.items) * len(p.gpus)
    if p.question == "preemption":
        return 1e-5 * len(p.requests)
    if p.question == "routing":
        return (4e-5 + 2e-6 * len(p.machines)) * len(p.requests) + 1e-5 * blocks
    return 2e-5 * len(p.requests) + 6e-6 * blocks


def _hopeless(p: ServingProblem, run: Run) -> bool:
    """Whether the time does not suffice to build a first schedule and to check it."""
    many = max(len(p.requests), len(p.items)) > NORMAL
    due = run.clock.elapsed() + first_seconds(p, run)
    return many and not run.deterministic and due > run.clock.limit + GRACE


def greedy(q: Any, run: Run) -> None:
    """First schedules."""
    if not isinstance(q, Prepared):
        if _hopeless(q, run):
            raise OutOfTime("there is no time for a first schedule of this size")
        STATIC[q.question].greedy(q, run)
    elif q.staged:
        staged.greedy(q, run)
    elif q.problem.question == "capacity":
        capacity.greedy(q, run)
    else:
        policies.greedy(q, run)


def bounds(q: Any, run: Run) -> None:
    """Quick bounds of every objective; the question's own where it has no rounds."""
    if not isinstance(q, Prepared):
        count = max(len(q.requests), len(q.items))
        late = run.clock.elapsed() + 1e-5 * count > run.clock.limit + GRACE
        if not late or count <= NORMAL or run.deterministic:
            STATIC[q.question].bounds(q, run)
        return
    for objective in run.objectives:
        left = run.clock.limit + 0.5 * GRACE - run.clock.elapsed()
        seconds = math.inf if run.deterministic else left
        for one in bound.quick(q.weighing(objective.name), objective.name, seconds):
            run.raise_bound(one)
    if q.staged:
        return
    if run.incumbent is None and run.objectives and q.problem.question == "admission":
        # A call for bounds alone: the horizon of the program comes from a greedy schedule.
        policies.greedy(q, run)
        for objective in run.objectives:
            mine = q.weighing(objective.name)
            left = run.clock.remaining()
            pattern = bound.raise_configurations(mine, run, objective.name, 0.2 * left)
            if pattern is not None:
                priced.raise_priced(mine, run, objective.name, pattern, 0.2 * left)
            bound.raise_time_indexed(mine, run, objective.name)


def search(q: Any, run: Run) -> None:
    """Search until the run is done."""
    if not isinstance(q, Prepared):
        if run.incumbent is not None or not _hopeless(q, run):
            STATIC[q.question].search(q, run)
    elif q.staged:
        staged.search(q, run)
    elif q.problem.question == "capacity":
        capacity.search(q, run)
    else:
        searching.search(q, run)


def repair(q: Any, run: Run, schedule: ServingSchedule) -> None:
    """Keep the order of a partial or invalid schedule: list-schedule its requests by start."""
    if not isinstance(q, Prepared):
        return
    known = {r.id for r in q.problem.requests}
    chosen = [
        one for one in schedule.requests if one.request in known and one.instance < q.machines
    ]
    start, machine = arrays_of(schedule.model_copy(update={"requests": tuple(chosen)}), q)
    start[machine < 0] = 2**60
    if q.staged:
        order = start.argsort(kind="stable").tolist()
        staged.offer(q, run, staged.serial(q, order, range(q.machines)), "repair")
        return
    policies.offer_order(q, run, start.argsort(kind="stable"), True, "repair")
