"""The model of one level of a lexicographic objective list, and solver values back to plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cpsched.core import exact
from cpsched.core.run import Run
from cpsched.families.workflow import greedy, model, model_data, objectives, terms
from cpsched.families.workflow.extract import Plan, order_of, plan_of, schedule_of
from cpsched.families.workflow.merge import undominated
from cpsched.families.workflow.prepare import Instance
from cpsched.families.workflow.problem import MAXIMISED


def constrained(
    inst: Instance, run: Run, horizon: int, factor: int | None = None
) -> model.Variables:
    """All variables and constraints, without objective."""
    factor = factor or model.choose_factor(inst, horizon)
    v = model.variables(inst, horizon, factor, run.clock.check)
    model.release(v)
    model.precedence(v)
    model.resources(v)
    if inst.problem.contention:
        model_data.contention(v)
    model.makespan(v)
    return v


def build(
    inst: Instance, run: Run, level: int, *, whole: bool = False
) -> tuple[model.Variables, exact.Built]:
    """The model of one level of the run's objectives, earlier levels frozen.

    Where a start between two ticks may be better (`terms.starts_between`) the model is a relaxation
    that allows for it; with ``whole`` it has the schedules that start at whole ticks, and proves
    nothing.
    """
    name = run.objectives[level].name if run.objectives else None
    earlier = []
    if run.incumbent is not None:
        values_before = run.incumbent.values[:level]
        earlier = [(o.name, x) for o, x in zip(run.objectives, values_before, strict=False)]
    plan = None
    if run.incumbent is not None:
        plan = undominated(inst, plan_of(inst, run.incumbent.schedule))
    latest = None
    for other, value in earlier:
        if other == "makespan":
            latest = inst.ticks(value) + 1
    if name == "makespan" and plan is not None:
        latest = plan.makespan(inst)
    horizon = model.horizon_of(inst, latest)
    v = constrained(inst, run, horizon)
    between = may_start_between(inst, run, level)
    v.notes["between"] = between and not whole
    objectives.limits(v)
    for other, value in earlier:
        objectives.freeze(v, other, value)
    maximise = name in MAXIMISED
    value_of: Any = round
    v.check()
    if name is not None:
        e = objectives.expression(v, name)
        if maximise:
            v.model.maximize(e.expression)
        else:
            v.model.minimize(e.expression)

        def value_of(bound: float) -> float:
            return e.bound(bound, maximise)

    if not v.notes.get("stored"):
        model_data.storage(v)
    if plan is not None:
        model.hint(v, plan)

    def extract(values: list[int]) -> Any:
        schedule = schedule_of(inst, model.plan_from(v, values))
        rough = v.factor > 1 or not inst.exact or v.notes["between"]
        if rough and run.family.check(run.problem, schedule):
            # Rounded times may break a rule by a hair: settle them exactly, or go without.
            settled = settle(inst, v, values)
            if settled is not None:
                schedule = schedule_of(inst, settled)
            if run.family.check(run.problem, schedule):
                return None
        return schedule

    careful = exact.CAREFUL if v.notes.get("large") else {}
    proves = not (between and whole)
    return v, exact.Built(v.model, extract, value_of, proves=proves, parameters=careful)


def may_start_between(inst: Instance, run: Run, level: int) -> bool:
    """Whether `terms.starts_between` holds at a level, with the ones before it held."""
    names = [o.name for o in run.objectives]
    held = [
        name for k, name in enumerate(names[:level]) if name == "max_slowdown" or not run.proved(k)
    ]
    return terms.starts_between(inst.problem, names, held)


def settle(inst: Instance, v: model.Variables, values: Sequence[int]) -> Plan | None:
    """The solver's order and choices with exact times, every task as early as they allow."""
    rough = model.plan_from(v, values)
    return greedy.list_plan(inst, order_of(inst, rough), fix_row=rough.row, fix_mach=rough.mach)
