"""Bounds without a search: every argument a family knows, each with what proves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cpsched.core import idle
from cpsched.core.clock import Clock, Stop
from cpsched.core.run import Run
from cpsched.errors import Infeasible, OutOfTime
from cpsched.families import family
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase


def bound(
    problem: ProblemBase,
    time_limit: float | None = 10.0,
    *,
    objective: str | Sequence[str] | None = None,
    workers: int = 1,
    seed: int = 0,
    stop: Stop = None,
) -> list[Bound]:
    """Every bound on the problem's objectives that needs no schedule, tightest first.

    Parameters
    ----------
    problem
        A problem of any kind.
    time_limit
        Seconds for all arguments together.
    objective
        Objectives to bound; None for the problem's own.

    Returns
    -------
    list of Bound
        Each with its argument; `recompute` verifies one. Empty when the problem is infeasible.

    Raises
    ------
    ProblemError
        For a malformed problem or an unknown objective.
    """
    from cpsched.solve import objectives_of

    chosen = family(problem.kind)
    clock = Clock(time_limit, stop=stop)
    wanted = objectives_of(chosen, problem, objective)
    run = Run(problem, chosen, wanted, clock, workers=workers, seed=seed)
    try:
        with idle.busy():
            prepared = chosen.prepare(problem, run)
            chosen.bounds(prepared, run)
            if chosen.prove is not None:
                chosen.prove(prepared, run)
    except (OutOfTime, KeyboardInterrupt):
        pass
    except Infeasible:
        return []
    return list(run.bounds())


def recompute(problem: ProblemBase, bound: Bound) -> float:
    """The value that a bound's argument and data prove, computed again from the problem alone.

    Raises
    ------
    ProblemError
        For an argument the family cannot recompute.
    """
    value: float = family(problem.kind).recompute(problem, bound)
    return value
