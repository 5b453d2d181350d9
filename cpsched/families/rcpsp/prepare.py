"""From the problem's names to arrays: what greedy, bounds, model and search work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cpsched.families.rcpsp.problem import RcpspProblem

IntArray = NDArray[np.int64]

#: Stands for "no maximum lag" and "no deadline" in arrays.
FAR = 2**60


@dataclass(frozen=True)
class Instance:
    """An RCPSP with indices for names.

    With n tasks, M modes over all tasks, R renewable and K nonrenewable resources:

    Attributes
    ----------
    mode_start : (n + 1,)
        Modes of task i are ``mode_start[i] .. mode_start[i + 1] - 1``. Modes that can never be
        used are still listed; ``mode_usable`` masks them.
    duration : (M,)
    demand : (M, R)
        Units of renewable resources.
    consumption : (M, K)
        Units of nonrenewable resources.
    capacity : (R,)
        Largest capacity over time of each renewable resource.
    budget : (K,)
    edges : (E, 5)
        Generalized precedences: before, after, type (0 end-start, 1 start-start, 2 end-end,
        3 start-end), minimum lag (``-FAR`` for none), maximum lag (``FAR`` for none).
    release, deadline, due, weight, earliness_weight : (n,)
        ``deadline`` and ``due`` are ``FAR`` where there is none.
    optional, pausable : (n,) bool
    head, tail : (n,)
        Earliest start, and least time from the task's start to the project's end, by longest
        paths over minimum lags with shortest durations.
    horizon
        No schedule worth considering ends later.
    plain
        Only end-start minimum lags, no calendars, reservoirs, optional or disjunctive tasks,
        deadlines or releases that bind: what the array kernels handle directly.
    """

    problem: RcpspProblem
    objectives: tuple[str, ...]
    ids: tuple[str, ...]
    mode_start: IntArray
    duration: IntArray
    demand: IntArray
    consumption: IntArray
    mode_usable: NDArray[np.bool_]
    capacity: IntArray
    budget: IntArray
    edges: IntArray
    release: IntArray
    deadline: IntArray
    due: IntArray
    weight: IntArray
    earliness_weight: IntArray
    optional: NDArray[np.bool_]
    pausable: NDArray[np.bool_]
    head: IntArray
    tail: IntArray
    horizon: int
    plain: bool
    extras: dict[str, Any]

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.ids)
