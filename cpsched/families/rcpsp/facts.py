"""What has started already: what facts leave of the resources."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.families.rcpsp.profile import Piece

if TYPE_CHECKING:
    from cpsched.families.rcpsp.problem import RcpspProblem

IntArray = NDArray[np.int64]


def without_facts(
    problem: RcpspProblem, profiles: dict[str, list[Piece]]
) -> dict[str, list[Piece]]:
    """Capacity profiles of the renewable resources, less what facts hold outside breaks."""
    used: dict[str, list[Piece]] = {}
    for task in problem.tasks:
        if task.fixed is None or task.fixed.end == task.fixed.start:
            continue
        for name, units in task.modes[task.fixed.mode].demands.items():
            if units:
                used.setdefault(name, []).append((task.fixed.start, task.fixed.end, units))
    out = dict(profiles)
    for resource in problem.resources:
        if resource.type == "renewable" and resource.name in used:
            out[resource.name] = _less(
                resource.capacity, profiles.get(resource.name, []), used[resource.name]
            )
    return out


def _less(ordinary: int, profile: Sequence[Piece], used: list[Piece]) -> list[Piece]:
    steps: dict[int, list[int]] = {}
    for start, end, capacity in profile:
        for time, sign in ((start, 1), (end, -1)):
            steps.setdefault(time, [0, 0])[0] += sign * (capacity - ordinary)
    for start, end, units in used:
        for time, sign in ((start, 1), (end, -1)):
            steps.setdefault(time, [0, 0])[1] += sign * units
    out: list[Piece] = []
    capacity, held = ordinary, 0
    times = sorted(steps)
    for time, until in itertools.pairwise(times):
        capacity += steps[time][0]
        held += steps[time][1]
        left = max(0, capacity - held)
        if left != ordinary:
            if out and out[-1][1] == time and out[-1][2] == left:
                out[-1] = (out[-1][0], until, left)
            else:
                out.append((time, until, left))
    return out


def held_names(renewable: Sequence[str], demand: IntArray) -> list[tuple[str, ...]]:
    """Names of the renewable resources that each mode holds."""
    lists: list[list[str]] = [[] for _ in range(len(demand))]
    for m, r in np.argwhere(demand > 0).tolist():
        lists[m].append(renewable[r])
    return [tuple(names) for names in lists]
