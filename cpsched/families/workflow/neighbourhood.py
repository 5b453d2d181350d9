"""Neighbourhood search for problems with more than a makespan: part of the model stays fixed."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from cpsched.core import lns
from cpsched.core.run import Run
from cpsched.families.workflow import levels, objectives
from cpsched.families.workflow.extract import Plan, plan_of
from cpsched.families.workflow.heads import rough_heads_and_tails
from cpsched.families.workflow.merge import undominated
from cpsched.families.workflow.prepare import Instance, Ints
from cpsched.families.workflow.problem import MAXIMISED


def improve_levels(
    inst: Instance, run: Run, *, seconds: float = math.inf, call_seconds: float = 2.0
) -> None:
    """Improve the objectives that are not proved by neighbourhoods until the run is done."""
    if run.level() is None or inst.n < 4:
        return

    def neighbourhood(
        name: str, choose: Callable[[Plan, int, random.Random], set[int]]
    ) -> lns.Neighbourhood:
        def build(schedule: Any, size: float, rng: random.Random) -> lns.SubModel | None:
            open_ = [k for k in range(len(run.objectives)) if not run.proved(k)]
            if not open_:
                return None
            plan = undominated(inst, plan_of(inst, schedule))
            count = max(2, round(size * inst.n))
            return submodel(inst, run, plan, choose(plan, count, rng), rng.choice(open_))

        return lns.Neighbourhood(name, build, min(1.0, 30 / inst.n))

    def window(plan: Plan, count: int, rng: random.Random) -> set[int]:
        order = np.argsort(plan.start, kind="stable")
        first = rng.randrange(max(1, inst.n - count + 1))
        return set(order[first : first + count].tolist())

    def machines(plan: Plan, count: int, rng: random.Random) -> set[int]:
        pair = rng.sample(range(inst.m), min(2, inst.m))
        tasks = [t for t in range(inst.n) if plan.mach[t] in pair]
        rng.shuffle(tasks)
        return set(tasks[:count])

    def anywhere(plan: Plan, count: int, rng: random.Random) -> set[int]:
        return set(rng.sample(range(inst.n), min(inst.n, count)))

    lns.search(
        run,
        [
            neighbourhood("window", window),
            neighbourhood("machines", machines),
            neighbourhood("random", anywhere),
        ],
        call_seconds=call_seconds,
        seconds=seconds,
    )


def submodel(
    inst: Instance, run: Run, plan: Plan, free: set[int], level: int
) -> lns.SubModel | None:
    """The model in which only the ``free`` tasks change option, machine and order."""
    if not free:
        return None
    v, built = levels.build(_placed(inst, plan, free), run, level, whole=True)
    fixed = [t for t in np.argsort(plan.start, kind="stable").tolist() if t not in free]
    ends = plan.end(inst)
    last: dict[int, int] = {}
    for t in fixed:
        p = int(plan.mach[t])
        if p in last and ends[last[p]] <= plan.start[t]:
            v.model.add(v.start[t] >= v.end[last[p]])
        last[p] = t
    name = run.objectives[level].name
    e = objectives.expression(v, name)
    assert run.incumbent is not None
    value = run.incumbent.values[level]
    margin = 1e-7 * max(1.0, abs(value))
    if name in MAXIMISED:
        objectives.at_most(v, -e.expression, -e.at_least(value + margin))
    else:
        objectives.at_most(v, e.expression, e.at_most(value - margin))
    return lns.SubModel(v.model, built.extract, built.parameters)


def _placed(inst: Instance, plan: Plan, free: set[int]) -> Instance:
    """The instance in which all but the ``free`` tasks have only their option and machine left."""
    kept = np.zeros(inst.dur.shape, dtype=np.bool_)
    kept[plan.row, plan.mach] = True
    for t in free:
        kept[inst.row_ptr[t] : inst.row_ptr[t + 1]] = True
    names = ("plain", "heads", "needed", "dominators")
    cache = {name: inst.cache[name] for name in names if name in inst.cache}
    if "heads" not in cache:
        # They were too dear for a bound, and are for a model of a few free tasks.
        cache["heads"] = _rough_heads(inst)
    return dataclasses.replace(inst, dur=np.where(kept, inst.dur, -1), cache=cache)


def _rough_heads(inst: Instance) -> tuple[Ints, Ints]:
    if "rough heads" not in inst.cache:
        inst.cache["rough heads"] = rough_heads_and_tails(inst)
    rough: tuple[Ints, Ints] = inst.cache["rough heads"]
    return rough
