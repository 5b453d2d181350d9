"""Shaving, proofs by cases, and the bounds that they rest on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cpsched.bound import recompute
from cpsched.core.clock import Clock
from cpsched.families.workflow.area import best_grain, grain_value
from cpsched.families.workflow.generate import layered
from cpsched.families.workflow.heads import critical_path, heads_and_tails
from cpsched.families.workflow.prepare import prepare
from cpsched.families.workflow.shave import shave, shaved_value
from cpsched.result import Bound
from tests.workflow.helpers import brute_force, problem, random_problem, solved


def wide_join(tasks: int) -> dict:
    """Equal tasks before one task on two machines: their work, not a path, bounds its start."""
    return {
        "tasks": [{"id": f"t{k}", "work": 4} for k in range(tasks)] + [{"id": "end", "work": 3}],
        "edges": [{"source": f"t{k}", "target": "end"} for k in range(tasks)],
        "machines": [{"name": "a"}, {"name": "b"}],
    }


def test_heads_count_the_work_of_ancestors():
    """A task starts after all its ancestors were processed by all machines together."""
    inst = prepare(problem(**wide_join(6)))
    heads, _ = heads_and_tails(inst)
    assert inst.time(heads[6].min()) == 12.0
    assert inst.time(critical_path(inst)) == 15.0


def test_tails_count_the_work_of_descendants():
    """After a task all its descendants are processed by all machines together."""
    fields = wide_join(6)
    fields["edges"] = [{"source": "end", "target": f"t{k}"} for k in range(6)]
    inst = prepare(problem(**fields))
    _, tails = heads_and_tails(inst)
    assert inst.time(tails[6].min()) == 12.0


@pytest.mark.parametrize("seed", range(6))
def test_nothing_of_an_optimal_schedule_is_struck_out(seed):
    """Shaving for the optimum leaves the machines of an optimal schedule, with a bound below it."""
    p = random_problem(seed)
    best = solved(p)
    inst = prepare(p)
    shaved = shave(inst, Clock(None), inst.ticks(best.objective), np.inf)
    assert inst.time(shaved.bound) <= best.objective
    for placed in best.schedule.tasks:
        t, m = inst.index[placed.task], inst.machine_index[placed.machine]
        assert shaved.dur[inst.row_ptr[t] + placed.option, m] >= 0


@pytest.mark.parametrize("seed", range(6))
def test_shaving_never_refutes_the_optimum(seed):
    """What shaving proves is at most the optimum, whatever makespan it was asked for."""
    p = random_problem(seed)
    inst = prepare(p)
    optimum = inst.ticks(brute_force(p))
    for most in range(optimum - 4, optimum + 2):
        shaved = shave(inst, Clock(None), most, np.inf)
        assert shaved.bound <= optimum
        assert shaved_value(inst, Clock(None), most, shaved.struck) == shaved.bound


def test_a_shaving_bound_is_recomputed():
    """The bound follows from what was struck out; a step that does not hold proves nothing."""
    p = layered(12, 3, 1.0, 1.0, 2.5, 1)
    inst = prepare(p)
    optimum = inst.ticks(solved(p).objective)
    shaved = shave(inst, Clock(None), optimum - 1, np.inf)
    data = {"most": optimum - 1, "struck": shaved.struck, "merged": False}
    bound = Bound(inst.time(shaved.bound), "shaving", "makespan", data)
    assert recompute(p, bound) == bound.value
    wrong = dataclasses.replace(bound, data={**data, "most": 2 * optimum, "struck": [(0, 0)]})
    assert recompute(p, wrong) == 0


def test_long_tasks_have_coarser_grains():
    """Tasks of whole seconds leave idle time that short tasks in between cannot hide."""
    tasks = [{"id": f"t{k}", "work": 10} for k in range(3)] + [{"id": "s", "work": 0.001}]
    inst = prepare(problem(tasks=tasks, machines=[{"name": "a"}, {"name": "b"}]))
    value, a, b, least = best_grain(inst, 0, 0)
    assert inst.time(value) == 20.0
    assert inst.time(grain_value(inst, 0, 0)) < 16.0
    assert grain_value(inst, a, b, least) == value
