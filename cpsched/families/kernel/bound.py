"""Bounds that need no search, and the recomputation of every bound from its argument."""

from __future__ import annotations

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.errors import ProblemError
from cpsched.families.kernel.intervals import minimal_interval, unit_bounds, weighted_bound
from cpsched.families.kernel.prepare import Instance, index, longest_paths
from cpsched.families.kernel.problem import KernelProblem
from cpsched.result import Bound


def bounds(instance: Instance, run: Run) -> None:
    """Resource and recurrence bounds on the interval, and the critical path on the length."""
    for unit, value in zip(instance.problem.machine.units, unit_bounds(instance), strict=True):
        run.raise_bound(Bound(value, "unit", "initiation_interval", {"unit": unit.name}))
    if len(instance.binding_units) > 1:
        weights = instance.binding_units
        data = {"weights": dict(weights)}
        run.raise_bound(Bound(instance.res_mii, "units", "initiation_interval", data))
    cycle = instance.binding_cycle
    value = max(1, instance.rec_mii)
    run.raise_bound(Bound(value, "recurrence", "initiation_interval", {"edges": list(cycle)}))
    incumbent = run.incumbent
    names = [o.name for o in run.objectives]
    for name in names:
        least = least_value(instance, name)
        if least is not None:
            run.raise_bound(Bound(least, "any-interval", name))
    if names[:2] == ["initiation_interval", "length"] and incumbent is not None:
        interval = incumbent.schedule.initiation_interval
        shortest = critical_path(instance, interval)
        if shortest is not None:
            run.raise_bound(
                Bound(shortest, "critical-path", "length", {"interval": interval}, (interval,))
            )


def least_value(instance: Instance, objective: str) -> int | None:
    """What an objective besides the interval has at least, whatever the interval.

    The length is that of the dependences within an iteration; amounts are never negative.
    """
    if objective == "initiation_interval":
        return None
    if objective == "length":
        limit = instance.problem.max_initiation_interval
        return critical_path(instance, 2**31 if limit is None else limit)
    return int(objective == "groups" and instance.problem.grouped and instance.n > 0)


def critical_path(instance: Instance, interval: int) -> int | None:
    """Shortest length at an interval by dependences alone; None when it is impossible."""
    tail = longest_paths(instance, interval, instance.reach(), to=True, seed=instance.latency)
    return None if tail is None else int(tail.max())


def recompute(problem: KernelProblem, bound: Bound) -> int:
    """The value that a bound's argument and data prove.

    Raises
    ------
    ProblemError
        For an unknown argument, or when a search does not confirm the bound in 60 seconds.
    """
    instance = index(problem)
    if bound.argument == "unit":
        names = [u.name for u in problem.machine.units]
        return unit_bounds(instance)[names.index(bound.data["unit"])]
    if bound.argument == "units":
        weights = bound.data["weights"]
        return weighted_bound(
            instance, [max(0, weights.get(u.name, 0)) for u in problem.machine.units]
        )
    if bound.argument == "recurrence":
        cycle = bound.data["edges"]
        if not cycle:
            return 1
        source, target = instance.source[cycle], instance.target[cycle]
        if (target.tolist()[-1:] + target.tolist()[:-1]) != source.tolist():
            raise ProblemError("the bound's edges form no cycle", value=cycle)
        return max(1, -(-int(instance.delay[cycle].sum()) // int(instance.reach()[cycle].sum())))
    if bound.argument == "critical-path":
        return critical_path(instance, bound.data["interval"]) or 0
    if bound.argument == "any-interval":
        return least_value(instance, bound.objective) or 0
    if bound.argument == "no-schedule":
        return _without_schedule(instance, int(bound.data["infeasible"]))
    if bound.argument == "cp-sat":
        return int(bound.value)
    raise ProblemError("the argument of the bound is unknown", value=bound.argument)


def _without_schedule(instance: Instance, last: int) -> int:
    """Confirm that no interval up to ``last`` has a schedule."""
    from cpsched.core import engine
    from cpsched.families.kernel.model import KernelModel
    from cpsched.families.kernel.search import monotone, sufficient_horizon, within_limit

    minimal_interval(instance)
    first = last if monotone(instance) else instance.mii
    for interval in range(max(first, instance.mii), last + 1):
        clock = Clock(60.0)
        model = KernelModel(instance, interval, clock, linked=False)
        if engine.solve(model.model, clock).status == "INFEASIBLE":
            continue
        horizon = within_limit(instance, sufficient_horizon(instance, interval))
        model = KernelModel(instance, interval, clock, horizon=horizon)
        if engine.solve(model.model, clock).status != "INFEASIBLE":
            raise ProblemError("the bound was not confirmed", value=interval)
    return max(last, instance.mii - 1) + 1
