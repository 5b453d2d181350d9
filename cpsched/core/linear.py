"""Linear programs through OR-Tools, in a thread of their own that obeys the clock."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.clock import Clock

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Solved:
    """An optimal solution of a linear program: values by column, prices by row."""

    objective: float
    values: Floats
    prices: Floats


class LinearProgram:
    """Minimise ``cost @ x`` with ``x >= 0`` and ``low <= A x <= high``.

    Rows, columns and entries may be added between solves, which then start from the last basis.
    """

    def __init__(self) -> None:
        from ortools.linear_solver import pywraplp

        self.solver: Any = pywraplp.Solver.CreateSolver("GLOP")
        self.infinity: float = self.solver.infinity()
        self.rows: list[Any] = []
        self.columns: list[Any] = []
        self.optimal: int = pywraplp.Solver.OPTIMAL
        self.solver.Objective().SetMinimization()
        self.entered = 0

    def add_rows(self, low: Any, high: Any) -> NDArray[np.int64]:
        """New rows with their limits; returns their indices."""
        first = len(self.rows)
        far = self.infinity
        for a, b in zip(np.asarray(low).tolist(), np.asarray(high).tolist(), strict=True):
            self.rows.append(self.solver.Constraint(max(a, -far), min(b, far)))
        return np.arange(first, len(self.rows))

    def add(self, cost: Any) -> NDArray[np.int64]:
        """New columns; returns their indices."""
        first = len(self.columns)
        objective = self.solver.Objective()
        for one in np.atleast_1d(np.asarray(cost, np.float64)).tolist():
            column = self.solver.NumVar(0.0, self.infinity, "")
            objective.SetCoefficient(column, one)
            self.columns.append(column)
        return np.arange(first, len(self.columns))

    def entries(self, rows: Any, columns: Any, coefficients: Any) -> None:
        """Matrix entries, broadcast against each other; each (row, column) at most once."""
        r, c, v = np.broadcast_arrays(rows, columns, np.asarray(coefficients, np.float64))
        mine, theirs = self.rows, self.columns
        for i, j, value in zip(
            r.ravel().tolist(), c.ravel().tolist(), v.ravel().tolist(), strict=True
        ):
            mine[i].SetCoefficient(theirs[j], value)
        self.entered += r.size

    def solve(self, clock: Clock, *, values: bool = True) -> Solved | None:
        """The optimum, or None when the time was too short or the solver failed.

        A deterministic run is charged by the number of matrix entries. Without ``values`` only
        the prices are read.
        """
        clock.spend(2e-5 * self.entered)
        if clock.expired():
            return None
        limit = clock.wall_remaining()
        if np.isfinite(limit):
            self.solver.SetTimeLimit(max(1, int(1000 * limit)))
        status: list[int] = []
        thread = threading.Thread(target=lambda: status.append(self.solver.Solve()), daemon=True)
        thread.start()
        while thread.is_alive() and not clock.cancelled and clock.wall_remaining() > 0.0:
            thread.join(0.05)
        if thread.is_alive():
            self.solver.InterruptSolve()
            return None
        if status != [self.optimal]:
            return None
        return Solved(
            self.solver.Objective().Value(),
            np.array([column.solution_value() for column in self.columns if values]),
            np.array([row.dual_value() for row in self.rows]),
        )
