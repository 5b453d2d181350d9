"""Small CP-SAT models straight from the arrays: can these tasks be placed in these windows?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]

#: A stretch of time in which units of a resource are taken: resource, start, end, units.
Obstacle = tuple[int, int, int, int]


@dataclass(frozen=True)
class Decision:
    """A feasibility model over some tasks of a plain instance.

    ``start[k]`` is the index of the start variable of ``tasks[k]``; ``literal[k]`` maps its modes
    to the indices of their literals (empty when the task has one mode).
    """

    model: CpModel
    tasks: list[int]
    start: list[int]
    literal: list[dict[int, int]]

    def read(self, values: list[int], start: IntArray, mode: IntArray) -> None:
        """Write the solution into starts (n,) and modes (n,)."""
        for k, i in enumerate(self.tasks):
            start[i] = values[self.start[k]]
            for m, index in self.literal[k].items():
                if values[index]:
                    mode[i] = m


def decision(
    instance: Instance,
    tasks: Sequence[int],
    low: IntArray,
    high: IntArray,
    *,
    obstacles: Sequence[Obstacle] = (),
    budget: IntArray | None = None,
    exclusive: Sequence[Sequence[int]] = (),
) -> Decision | None:
    """The model in which every task starts within ``[low, high]``; None when a window is empty.

    Parameters
    ----------
    low, high : (n,)
        First and last start of each task; ``high`` as if it took its shortest mode.
    obstacles
        Units that tasks outside the model hold.
    budget : (K,)
        What the tasks may consume of the nonrenewable resources; all of it by default.
    exclusive
        Redundant: sets of tasks of one mode of which no two overlap in any schedule.
    """
    from ortools.sat.python import cp_model

    cp = cp_model.CpModel()
    inside = {i: k for k, i in enumerate(tasks)}
    begin: list[Any] = []
    finish: list[Any] = []
    literals: list[dict[int, Any]] = []
    alone: dict[int, Any] = {}
    uses: list[list[tuple[Any, int]]] = [[] for _ in instance.capacity]
    eaten: list[tuple[Any, int]] = []
    duration = instance.duration.tolist()
    for i in tasks:
        if low[i] > high[i]:
            return None
        start = cp.new_int_var(int(low[i]), int(high[i]), "")
        begin.append(start)
        modes = instance.modes(i)
        shortest = min(duration[m] for m in modes)
        modes = [m for m in modes if low[i] + duration[m] <= high[i] + shortest]
        if len(modes) == 1:
            m = modes[0]
            interval = cp.new_fixed_size_interval_var(start, duration[m], "")
            for r in np.flatnonzero(instance.demand[m]).tolist():
                uses[r].append((interval, int(instance.demand[m, r])))
            finish.append(start + duration[m])
            alone[i] = interval
            literals.append({})
            eaten.append((None, m))
            continue
        chosen = {m: cp.new_bool_var("") for m in modes}
        cp.add_exactly_one(list(chosen.values()))
        end = start + cp_model.LinearExpr.weighted_sum(
            list(chosen.values()), [duration[m] for m in modes]
        )
        cp.add(end <= int(high[i]) + shortest)
        for m, literal in chosen.items():
            interval = cp.new_optional_fixed_size_interval_var(start, duration[m], literal, "")
            for r in np.flatnonzero(instance.demand[m]).tolist():
                uses[r].append((interval, int(instance.demand[m, r])))
            eaten.append((literal, m))
        finish.append(end)
        literals.append(chosen)
    for before, after, _, lag, _ in _edges_within(instance, inside):
        cp.add(begin[inside[after]] >= finish[inside[before]] + lag)
    taken: list[list[tuple[int, int, int]]] = [[] for _ in instance.capacity]
    for r, left, right, units in obstacles:
        taken[r].append((left, right, units))
    for r, capacity in enumerate(instance.capacity.tolist()):
        total = sum(u for _, u in uses[r])
        if not uses[r] or (total <= capacity and not taken[r]):
            continue
        intervals = [x for x, _ in uses[r]]
        demands = [u for _, u in uses[r]]
        for left, right, units in taken[r]:
            intervals.append(cp.new_fixed_size_interval_var(left, right - left, ""))
            demands.append(units)
        if capacity == 1:
            cp.add_no_overlap([x for x, u in zip(intervals, demands, strict=True) if u])
        else:
            cp.add_cumulative(intervals, demands, capacity)
    for group in exclusive:
        intervals = [alone[i] for i in group if i in alone]
        if len(intervals) > 2:
            cp.add_no_overlap(intervals)
    limits = instance.budget if budget is None else budget
    for k, most in enumerate(limits.tolist()):
        fixed = sum(int(instance.consumption[m, k]) for x, m in eaten if x is None)
        free = [(x, int(instance.consumption[m, k])) for x, m in eaten if x is not None]
        if free:
            cp.add(
                cp_model.LinearExpr.weighted_sum([x for x, _ in free], [u for _, u in free])
                <= most - fixed
            )
    return Decision(
        cp,
        list(tasks),
        [x.index for x in begin],
        [{m: x.index for m, x in own.items()} for own in literals],
    )


def _edges_within(instance: Instance, inside: dict[int, int]) -> list[list[int]]:
    rows: list[list[list[int]]] | None = instance.extras.get("edges_by_task")
    if rows is None:
        rows = [[] for _ in range(instance.n)]
        for row in instance.edges.tolist():
            rows[row[0]].append(row)
        instance.extras["edges_by_task"] = rows
    return [row for i in inside for row in rows[i] if row[1] in inside]
