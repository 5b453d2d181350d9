"""One CP-SAT model per level of a lexicographic objective list: proofs and improvements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cpsched.core import engine
from cpsched.core.run import Run
from cpsched.result import Bound, Number

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

#: Presolve of CP-SAT 9.15 was seen to refute a model that has solutions (large coefficients next to
#: few choices), but not so: whoever says that there is no schedule is asked twice.
CAREFUL = {"cp_model_probing_level": 0, "presolve_substitution_level": 0}


@dataclass(frozen=True)
class Built:
    """A CP-SAT model of a problem, ready for one level of its objectives.

    Attributes
    ----------
    model
        With the level's objective (none for pure feasibility), the hint, and earlier levels
        frozen at the incumbent's values.
    extract
        Solver values by variable index to the family's schedule object; None when they give none.
    value
        Solver objective (an integer, as a float) to the objective's reported value.
    strict
        The model holds only schedules better than the incumbent at this level, so INFEASIBLE
        proves the incumbent optimal there.
    proves
        What the solver proves of the model holds for the problem; otherwise only its solutions
        count.
    parameters
        CP-SAT parameters for this model.
    data
        Data of the bounds that the solver proves.
    """

    model: CpModel
    extract: Callable[[list[int]], Any]
    value: Callable[[float], Number] = round
    strict: bool = False
    proves: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


def solve_levels(
    run: Run,
    build: Callable[[int], Built],
    *,
    seconds: float = math.inf,
    workers: int | None = None,
    source: str = "cp-sat",
) -> None:
    """Solve the objectives in order with CP-SAT, each with the earlier ones frozen.

    Parameters
    ----------
    build
        Level to model; called again for each level, when the incumbent is as good as it gets
        before it. Level 0 is also the model of a pure feasibility problem.
    seconds
        Limit over all levels, besides the run's clock. An unproved level leaves later levels 40 %
        of what remains.
    """
    if not engine.ready(run.clock):
        return
    levels = max(1, len(run.objectives))
    end = run.clock.remaining() - seconds
    for level in range(levels):
        if run.done():
            return
        if run.objectives and run.proved(level):
            continue
        left = run.clock.remaining() - max(0.0, end)
        if left <= 0.0:
            return
        share = left if level == levels - 1 else 0.6 * left
        _solve_level(run, level, build(level), share, workers or run.workers, source)
        if run.incumbent is None:
            return


def _solve_level(
    run: Run, level: int, built: Built, seconds: float, workers: int, source: str
) -> None:
    objective = run.objectives[level] if run.objectives else None
    before = run.incumbent.values[:level] if run.incumbent and level else ()

    def on_solution(values: list[int]) -> None:
        run.offer(lambda: built.extract(values), source, model=built.model)

    def on_bound(bound: float) -> None:
        if objective is None or not built.proves:
            return
        # The solver's objectives are integers, so a fractional bound may be rounded inwards.
        whole = math.floor(bound + 1e-6) if _maximised(built) else math.ceil(bound - 1e-6)
        run.raise_bound(
            Bound(built.value(whole), source, objective.name, built.data, before or None),
            built.model,
        )

    def solve(parameters: Mapping[str, Any], seconds: float) -> engine.Outcome:
        return engine.solve(
            built.model,
            run.clock,
            workers=workers,
            seed=run.seed,
            seconds=seconds,
            parameters=parameters,
            on_solution=on_solution,
            on_bound=on_bound,
            stop_when=lambda: run.done() or bool(run.objectives and run.proved(level)),
        )

    begun = run.clock.used()
    outcome = solve(built.parameters, seconds)
    careful = CAREFUL.items() <= built.parameters.items()
    if outcome.status == "INFEASIBLE" and built.proves and not built.strict and not careful:
        second = solve({**built.parameters, **CAREFUL}, seconds - (run.clock.used() - begun))
        if second.values is not None:
            outcome = second
    if outcome.status == "INFEASIBLE":
        if not built.proves:
            return
        if run.incumbent is None:
            run.claim_infeasible(source, "the solver proved that no schedule exists", built.model)
        elif built.strict and objective is not None:
            value = run.incumbent.values[level]
            run.raise_bound(Bound(value, source, objective.name, built.data, before or None))
        else:
            run.claim_infeasible(source, model=built.model)
        return
    if outcome.values is not None:
        on_solution(outcome.values)
    if outcome.bound is not None and outcome.values is not None:
        on_bound(outcome.bound)


def _maximised(built: Built) -> bool:
    """Whether the solver maximises: its proto stores that as a negative scaling factor."""
    objective = built.model.proto.objective
    return bool(objective.scaling_factor < 0)
