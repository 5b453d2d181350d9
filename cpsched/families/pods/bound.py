"""Bounds on the pods placed and on the disruption, and their independent recomputation."""

from __future__ import annotations

import numpy as np

from cpsched.core.run import Run
from cpsched.errors import Infeasible, ProblemError
from cpsched.families.pods.prepare import Instance
from cpsched.families.pods.problem import PodsProblem
from cpsched.result import Bound, Number


def bounds(instance: Instance, run: Run) -> None:
    """Give the run the bounds that need no search."""
    counts = placeable(instance)
    for tier, priority in enumerate(instance.tiers):
        value = int(sum(counts[: tier + 1]))
        run.raise_bound(Bound(value, "pods-that-fit", f"placed@{priority}"))
    run.raise_bound(Bound(0, "zero", "disruption"))


def placeable(instance: Instance) -> list[int]:
    """Per tier the weight of pods that run, or fit some node when it is empty of movable pods."""
    room = fixed_room(instance)
    out = [0] * len(instance.tiers)
    for group in instance.classes:
        fits = instance.allowed[group.index] & np.all(
            room >= instance.requests[group.index], axis=1
        )
        count = len(group.members) if bool(fits.any()) else len(group.members) - len(group.pending)
        out[instance.tier_of[group.index]] += group.weight * count
    return out


def fixed_room(instance: Instance) -> np.ndarray:
    """What each node has when only the pods that must stay are on it; never negative."""
    fixed = np.array([g.fixed for g in instance.classes], dtype=bool)
    stays = np.flatnonzero((instance.at >= 0) & fixed[instance.class_of])
    room = instance.capacity.copy()
    np.subtract.at(room, instance.at[stays], instance.requests[instance.class_of[stays]])
    return np.maximum(room, 0)


def recompute(problem: PodsProblem, bound: Bound) -> Number:
    """The value that a bound's argument and data prove, from the problem alone."""
    raise ProblemError("unknown argument", value=bound.argument, remedy="")
