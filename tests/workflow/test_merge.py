"""What is left out of the search changes no optimum: idle tasks, siblings, dominated options."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from cpsched.families.workflow import greedy, merge, terms
from cpsched.families.workflow.check import check
from cpsched.families.workflow.extract import Plan, plan_of, schedule_of
from cpsched.families.workflow.generate import agent
from cpsched.families.workflow.prepare import prepare
from tests.workflow.helpers import brute_force, problem, random_problem, solved


def with_idle_tasks(seed: int):
    """A tiny random problem in which about half of the tasks take no time on any machine."""
    p = random_problem(seed, 6)
    rng = random.Random(seed)
    tasks = [
        t.model_copy(update={"durations": {m.name: 0.0 for m in p.machines}})
        if rng.random() < 0.5
        else t
        for t in p.tasks
    ]
    return p.model_copy(update={"tasks": tuple(tasks)})


@pytest.mark.parametrize("seed", range(10))
def test_merging_idle_tasks_keeps_the_optimum(seed):
    """With tasks of no duration merged the proved optimum is that of full enumeration."""
    p = with_idle_tasks(seed)
    result = solved(p)
    assert result.status == "OPTIMAL"
    assert result.objective == brute_force(p)


def test_idle_tasks_are_merged():
    """An idle task goes with its only predecessor unless it hands on more than it reads."""
    p = problem(
        tasks=[{"id": "a", "work": 4}, {"id": "b", "work": 0}, {"id": "c", "work": 2}],
        edges=[
            {"source": "a", "target": "b", "size": 3},
            {"source": "b", "target": "c", "size": 2},
        ],
        bandwidth=1,
    )
    inst = prepare(p)
    assert merge.without_idle_tasks(inst).n == 2
    fatter = p.edges[1].model_copy(update={"size": 9.0})
    fat = prepare(p.model_copy(update={"edges": (p.edges[0], fatter)}))
    # Then it goes with its only successor, for which it reads little.
    assert merge.without_idle_tasks(fat).merged.members == [[0], [1, 2]]


@pytest.mark.parametrize("seed", range(6))
def test_plans_of_merged_tasks_are_valid(seed):
    """A list schedule of the merged tasks expands to a valid schedule, for chains too."""
    for made in (with_idle_tasks(seed), random_problem(seed, 8)):
        inst = prepare(made)
        for coarse in (merge.without_idle_tasks(inst), merge.without_chains(inst)):
            plan = greedy.heft(coarse)
            assert plan is not None
            schedule = schedule_of(coarse, plan)
            assert check(made, schedule) == []
            assert plan_of(inst, schedule).makespan(inst) == plan.makespan(coarse)


def test_chains_become_one_task():
    """A chain of tasks that can share a machine is a single task of the coarse instance."""
    p = problem(
        tasks=[{"id": str(k), "work": k + 1} for k in range(4)],
        edges=[{"source": str(k), "target": str(k + 1)} for k in range(3)],
    )
    coarse = merge.without_chains(prepare(p))
    assert (coarse.n, coarse.merged.members) == (1, [[0, 1, 2, 3]])


def test_identical_siblings_are_found_and_sorted():
    """Tasks that differ in their name alone are exchanged such that the first starts first."""
    p = problem(
        tasks=[{"id": k, "work": 2} for k in "abc"] + [{"id": "d", "work": 3}],
        edges=[{"source": k, "target": "d", "size": 1} for k in "ab"],
    )
    inst = prepare(p)
    assert merge.siblings(inst) == [[0, 1]]
    scale = int(inst.scale)
    plan = Plan(np.array([4, 0, 2, 8]) * scale, np.arange(4), np.array([0, 0, 1, 0]))
    out = merge.sorted_siblings(inst, [[0, 1]], plan)
    assert (out.start[:2] // scale).tolist() == [0, 4]
    assert out.row.tolist() == [0, 1, 2, 3]


def test_dominated_options_are_dropped():
    """An option that is worse in every way is never needed, equal ones keep the first."""
    p = problem(
        tasks=[
            {
                "id": "a",
                "options": [
                    {"work": 4, "cost": 2},
                    {"work": 4, "cost": 2},
                    {"work": 5, "cost": 2},
                    {"work": 5, "cost": 1},
                ],
            }
        ]
    )
    assert merge.dominators(prepare(p)) == {1: 0, 2: 0}


def test_replacing_dominated_options_keeps_a_schedule_valid():
    """A plan with its dominated options replaced is valid and no worse in cost and success."""
    p = agent(12, 4, 3, 0.5, 3)
    inst = prepare(p)
    better = merge.dominators(inst)
    assert better
    worst = np.array([max(inst.rows_of(t), key=lambda r: r in better) for t in range(inst.n)])
    plan = greedy.list_plan(inst, inst.topo, fix_row=worst)
    out = merge.undominated(inst, plan)
    assert not set(out.row.tolist()) & set(better)
    assert out.end(inst).tolist() == plan.end(inst).tolist()

    def spent(rows):
        options = [p.tasks[t].choices[inst.row_option[r]] for t, r in enumerate(rows.tolist())]
        return sum(terms.own_use(o, "cost") for o in options)

    assert spent(out.row) <= spent(plan.row)
    free = p.model_copy(update={"budgets": type(p.budgets)(), "deadline": None})
    assert check(free, schedule_of(dataclasses.replace(inst, problem=free), out)) == []
