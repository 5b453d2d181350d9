"""Bounds from one machine at a time: its tasks with heads and tails, in their best order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.errors import ProblemError
from cpsched.families.rcpsp import kernels_machine as kernels
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: Nodes of the branch and bound of one machine, compiled and interpreted.
NODES, FEW = 300, 20
#: Machines with more tasks are left to the bounds by energy.
LARGEST = 100
#: Virtual seconds per node and pair of tasks.
COST = 1e-8


def one_machine(instance: Instance, run: Run) -> None:
    """Raise the bound by every machine whose best order takes longer than what is known.

    A machine is a resource of capacity 1; on it are the tasks that need it in all their modes. The
    energy bounds already reach Jackson's preemptive schedule, so that only machines on which
    Schrage's schedule is longer than the bound are looked at.
    """
    seconds = run.clock.remaining()
    fast = jit.ready(seconds)
    for r in np.flatnonzero(instance.capacity == 1).tolist():
        tasks = machine_tasks(instance, r)
        if not 2 <= len(tasks) <= (LARGEST if fast else 20):
            continue
        run.clock.check()
        head, dur, tail = _ends_of(instance, tasks)
        order, end = np.zeros((2, len(tasks)), np.int64)
        run.clock.spend(COST * len(tasks) ** 2 * jit.slowdown())
        reach = int(kernels.schrage(head, dur, tail, order, end))
        if reach <= int(run.bound(_level(run)) or 0):
            continue
        nodes = NODES if fast else FEW
        run.clock.spend(COST * nodes * len(tasks) ** 2 * jit.slowdown())
        value = int(kernels.carlier(head, dur, tail, nodes))
        data = {"resource": instance.renewable[r], "nodes": nodes}
        run.raise_bound(Bound(value, "one-machine", "makespan", data))


def _level(run: Run) -> int:
    return [o.name for o in run.objectives].index("makespan")


def machine_tasks(instance: Instance, r: int) -> IntArray:
    """Tasks that hold a unit of a resource for some time, without a pause, in any schedule."""
    known = instance.extras.setdefault("machine_tasks", {})
    if r not in known:
        n = instance.n
        owner = np.repeat(np.arange(n), np.diff(instance.mode_start))
        without = instance.mode_usable & ((instance.demand[:, r] == 0) | (instance.duration == 0))
        sure = np.bincount(owner[without], minlength=n) == 0
        sure &= np.bincount(owner[instance.mode_usable], minlength=n) > 0
        facts = np.array([t.fixed is not None for t in instance.problem.tasks], bool)
        sure &= ~instance.optional & ~instance.pausable & ~facts
        known[r] = np.flatnonzero(sure)
    found: IntArray = known[r]
    return found


def _ends_of(instance: Instance, tasks: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Heads, shortest durations and tails behind the ends of the tasks."""
    from cpsched.families.rcpsp.bound import after_end, shortest

    head = instance.head[tasks].astype(np.int64)
    tail = np.maximum(0, after_end(instance)[tasks]).astype(np.int64)
    return head, shortest(instance)[tasks].astype(np.int64), tail


def recompute(instance: Instance, bound: Bound) -> int:
    """The bound of one machine again.

    Raises
    ------
    ProblemError
        When the resource does not serve one task at a time.
    """
    r = instance.renewable.index(bound.data["resource"])
    tasks = machine_tasks(instance, r)
    if int(instance.capacity[r]) != 1 or not len(tasks):
        raise ProblemError("the resource must be a machine", value=bound.data["resource"])
    return int(kernels.carlier(*_ends_of(instance, tasks), int(bound.data["nodes"])))
