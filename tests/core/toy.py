"""A tiny family whose parts misbehave on demand: what the pipeline's fallbacks are tested with.

The problem: pick the smallest integer of at least ``floor``. A schedule is that integer.
"""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable
from typing import Any, Literal

import pytest

import cpsched.families as registry
from cpsched.core.run import Run
from cpsched.families import Family, NamedConstraint
from cpsched.plot.figure import Figure
from cpsched.problem import ProblemBase, Record
from cpsched.result import Bound, Objective
from cpsched.validate import Violation


class ToyProblem(ProblemBase):
    kind: Literal["toy"] = "toy"
    floor: int = 3
    #: Named demands "value is at least N"; more than one may conflict with ``ceiling``.
    demands: tuple[int, ...] = ()
    ceiling: int = 100


class ToySchedule(Record):
    value: int
    second: int = 0


Step = Callable[[Any, Run], None]


def toy_family(
    greedy: Step | None = None, bounds: Step | None = None, search: Step | None = None
) -> Family[Any, Any, Any]:
    """The family with the given steps; by default greedy answers 10 and nothing else happens."""
    nothing: Step = lambda prepared, run: None  # noqa: E731
    return Family(
        kind="toy",
        problem=ToyProblem,
        schedule=ToySchedule,
        default_objectives=lambda p: (Objective("value"),),
        objective=lambda p, name: (
            Objective(name, maximise=name == "second") if name in ("value", "second") else None
        ),
        check=check,
        evaluate=lambda p, s, names: tuple(getattr(s, n) for n in names),
        prepare=lambda problem, run: problem,
        greedy=greedy or (lambda prepared, run: bool(run.offer(ToySchedule(value=10), "greedy"))),
        bounds=bounds or nothing,
        search=search or nothing,
        recompute=lambda p, b: p.floor,
        repair=lambda prepared, run, s: None,
        constraints=lambda p: [
            NamedConstraint(f"demand:{i}", "demand", f"The value is at least {d}.")
            for i, d in enumerate(p.demands)
        ],
        restrict=lambda p, keep: p.model_copy(
            update={"demands": tuple(d for i, d in enumerate(p.demands) if f"demand:{i}" in keep)}
        ),
        items=lambda s: {"value": {"value": s.value}},
        draw=lambda p, s: Figure(title="toy"),
    )


def check(problem: ToyProblem, schedule: ToySchedule) -> list[Violation]:
    lowest = max([problem.floor, *problem.demands])
    out = []
    if schedule.value < lowest:
        out.append(Violation("floor", "the value is too small", amount=lowest - schedule.value))
    if schedule.value > problem.ceiling:
        out.append(Violation("ceiling", "the value is too large"))
    return out


def install(monkeypatch: pytest.MonkeyPatch, family: Family[Any, Any, Any]) -> ToyProblem:
    """Register the toy family for one test and give a problem of it."""
    module = types.ModuleType("cpsched.families.toy")
    module.FAMILY = family  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cpsched.families.toy", module)
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, "toy"))
    registry.family.cache_clear()
    return ToyProblem()


def floor_bound(value: int, argument: str = "floor") -> Bound:
    return Bound(value, argument, "value")


def sleep_until_done(run: Run) -> None:
    while not run.done():
        time.sleep(0.005)
