"""Bounds without a search, each with the argument that proves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.errors import ProblemError
from cpsched.result import Bound, Objective

if TYPE_CHECKING:
    from cpsched.families.rcpsp.prepare import Instance
    from cpsched.families.rcpsp.problem import RcpspProblem


def bounds(instance: Instance, run: Run) -> None:
    """Give the run every quick bound."""
    if any(o.name == "makespan" for o in run.objectives):
        run.raise_bound(Bound(_critical_path(instance), "critical-path", "makespan"))


def recompute(problem: RcpspProblem, bound: Bound) -> int:
    """The value that a bound's argument proves, from the problem alone."""
    from cpsched.families import family
    from cpsched.families.rcpsp.prepare import prepare

    if bound.argument != "critical-path":
        raise ProblemError("the argument must be known", value=bound.argument)
    run = Run(problem, family("rcpsp"), (Objective("makespan"),), Clock(None))
    return _critical_path(prepare(problem, run))


def _critical_path(instance: Instance) -> int:
    return int((instance.head + instance.tail)[~instance.optional].max(initial=0))
