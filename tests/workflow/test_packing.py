"""Sums of whole tasks: the bound, partitions that meet a goal, exchanges of sets of tasks."""

from __future__ import annotations

import random

import numpy as np
import pytest

import cpsched
from cpsched.bound import recompute
from cpsched.core.clock import Clock
from cpsched.families.workflow import greedy, local
from cpsched.families.workflow.area import grain_value
from cpsched.families.workflow.balance import Balancer
from cpsched.families.workflow.packing import Subsets, packing_value, partition, works
from cpsched.families.workflow.prepare import prepare
from cpsched.result import Bound
from tests.workflow.helpers import brute_force, problem, solved

TWO = [{"name": "a"}, {"name": "b"}]


def fan(seed: int) -> cpsched.families.workflow.problem.WorkflowProblem:
    """One task, a few that read from it on two machines of different speed, and one that joins."""
    rng = random.Random(seed)
    lengths = [2, *(2 * rng.randint(3, 20) for _ in range(4)), 2]
    last = len(lengths) - 1
    return problem(
        tasks=[
            {"id": f"t{k}", "durations": {"m0": w, "m1": w // 2}} for k, w in enumerate(lengths)
        ],
        edges=[
            {"source": u, "target": v, "size": rng.choice([0, 1])}
            for k in range(1, last)
            for u, v in (("t0", f"t{k}"), (f"t{k}", f"t{last}"))
        ],
        machines=[{"name": "m0"}, {"name": "m1"}],
        bandwidth=1,
    )


def spread(rng: random.Random) -> tuple[list[int], list[int]]:
    """Works of tasks that fill machines of speed 1 and 2 exactly up to the same time."""
    goal = 40_000
    works = []
    for room in (goal, 2 * goal):
        cuts = sorted(rng.sample(range(1000, room - 1000), 5))
        works += [b - a for a, b in zip([0, *cuts], [*cuts, room], strict=True)]
    rng.shuffle(works)
    return works, [goal, 2 * goal]


def test_whole_tasks_bound_more_than_grains():
    """Of 10, 10 and 11 no machine can process 16 to 19, so the makespan is 20."""
    p = problem(tasks=[{"id": str(k), "work": w} for k, w in enumerate([10, 10, 11])], machines=TWO)
    inst = prepare(p)
    assert inst.time(grain_value(inst, 0, 0)) == 16.0
    assert inst.time(packing_value(inst, 0, 0, 0)) == 20.0 == solved(p).objective


@pytest.mark.parametrize("seed", range(8))
def test_packing_never_exceeds_the_optimum(seed):
    """Whatever tasks the argument is made about, it proves at most the optimum."""
    p = fan(seed)
    inst = prepare(p)
    optimum = inst.ticks(brute_force(p))
    least = [int(x) for x in np.unique(inst.dur)]
    values = [packing_value(inst, a, b, x) for a in (0, *least) for b in (0, 1) for x in least]
    assert max(values) > 0
    assert max(values) <= optimum


@pytest.mark.parametrize("seed", range(8))
def test_grains_never_exceed_the_optimum(seed):
    """The same in whole grains, with the least head and tail on each machine."""
    p = fan(seed)
    inst = prepare(p)
    values = [grain_value(inst, a, b, x) for a in (0, 1) for b in (0, 1) for x in (0, 2, 5)]
    assert 0 < max(values) <= inst.ticks(brute_force(p))


def test_a_packing_bound_is_recomputed():
    """The bound follows from the tasks that it is about."""
    p = problem(tasks=[{"id": str(k), "work": w} for k, w in enumerate([10, 10, 11])], machines=TWO)
    bound = Bound(20.0, "packing", "makespan", {"window": [0, 0], "least": 0})
    assert recompute(p, bound) == 20.0


@pytest.mark.parametrize("seed", range(4))
def test_subsets_are_those_of_enumeration(seed):
    """The largest sum within a room, and the subsets between two sums, are the enumerated ones."""
    rng = random.Random(seed)
    work = np.array([rng.randint(1, 50) for _ in range(9)])
    subsets = Subsets(work)
    sums = {int(work[[bits >> k & 1 == 1 for k in range(9)]].sum()) for bits in range(2**9)}
    for room in range(0, int(work.sum()) + 5, 7):
        assert subsets.largest(room) == max(s for s in sums if s <= room)
    low, high = 30, 60
    found = list(subsets.between(low, high, np.random.default_rng(seed)))
    assert found
    for bits in found:
        assert low <= int(work[[bits >> k & 1 == 1 for k in range(9)]].sum()) <= high


@pytest.mark.parametrize("seed", range(4))
def test_a_partition_without_room_to_spare_is_found(seed):
    """Tasks that fill two machines exactly are spread so that they do."""
    work, room = (np.array(x) for x in spread(random.Random(seed)))
    where = partition(work, room, np.random.default_rng(seed), 1000)
    assert where is not None
    assert [int(work[where == p].sum()) for p in range(2)] == room.tolist()


def test_no_partition_without_room():
    """What does not fit is not spread."""
    assert partition(np.array([5, 5]), np.array([4, 5]), np.random.default_rng(0), 10) is None


def test_works_are_of_related_machines_only():
    """Durations that are no common multiple of work have none."""
    related = works(np.array([[4, 2], [6, 3]]))
    assert related is not None
    assert [x.tolist() for x in related] == [[2, 3], [2, 1]]
    assert works(np.array([[4, 2], [6, 2]])) is None


@pytest.mark.parametrize("seed", range(3))
def test_exchanges_let_machines_finish_together(seed):
    """From a list schedule the tasks of a wide join are spread until both machines are full."""
    work, room = spread(random.Random(seed))
    last = {"id": "end", "work": 10}
    p = problem(
        tasks=[{"id": f"t{k}", "work": w} for k, w in enumerate(work)] + [last],
        edges=[{"source": f"t{k}", "target": "end"} for k in range(len(work))],
    )
    inst = prepare(p)
    plan = greedy.heft(inst)
    goal = inst.ticks(room[0] + 5)
    assert plan.makespan(inst) > goal
    annealer = local.Annealer(inst, plan, seed, False)
    annealer.best = min(annealer.best, goal + goal // 1000)  # as if annealing had come close
    better = annealer.balance(Clock(100.0, deterministic=True), goal, 20.0)
    assert better is not None
    assert better.makespan(inst) == goal


@pytest.mark.parametrize("seed", range(3))
def test_exchanges_reach_tasks_of_several_stages(seed):
    """Machines finish together although few of the tasks could take each other's places."""
    rng = random.Random(seed)
    work = [rng.randint(1000, 3000) for _ in range(23)]
    work.append(3000 - sum(work) % 3000)
    p = problem(
        tasks=[{"id": f"t{k}", "work": w} for k, w in enumerate(work)],
        edges=[{"source": f"t{k}", "target": f"t{k + 8}"} for k in range(len(work) - 8)],
    )
    inst = prepare(p)
    goal, plan, clock = inst.ticks(sum(work) / 3), greedy.heft(inst), Clock(100, deterministic=True)
    assert plan.makespan(inst) > goal
    balancer, annealer = Balancer(inst, seed), local.Annealer(inst, plan, 0, False)
    made = (balancer.step(plan, goal + goal // 100, goal, clock) for _ in range(60))
    assert min(annealer.decode(*m).makespan(inst) for m in made if m) == goal
