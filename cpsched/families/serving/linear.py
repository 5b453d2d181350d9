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
    """Minimise ``cost @ x`` with ``0 <= x <= upper`` and ``low <= A x <= high``.

    Built column by column; the rows come first.
    """

    def __init__(self, low: Floats, high: Floats) -> None:
        self.low, self.high = low, high
        self.cost: list[Floats] = []
        self.upper: list[Floats] = []
        self.rows: list[NDArray[np.int64]] = []
        self.columns: list[NDArray[np.int64]] = []
        self.coefficients: list[Floats] = []
        self.size = 0

    def add(self, cost: Any, upper: float | Floats = np.inf) -> NDArray[np.int64]:
        """New columns; returns their indices."""
        cost = np.atleast_1d(np.asarray(cost, np.float64))
        self.cost.append(cost)
        self.upper.append(np.broadcast_to(np.asarray(upper, np.float64), cost.shape))
        index = np.arange(self.size, self.size + len(cost))
        self.size += len(cost)
        return index

    def entries(self, rows: Any, columns: Any, coefficients: Any) -> None:
        """Matrix entries, broadcast against each other; each (row, column) at most once."""
        r, c, v = np.broadcast_arrays(rows, columns, np.asarray(coefficients, np.float64))
        self.rows.append(r.ravel())
        self.columns.append(c.ravel())
        self.coefficients.append(v.ravel())

    def solve(self, clock: Clock, solver: str = "GLOP", seconds: float = np.inf) -> Solved | None:
        """The optimum, or None when the time was too short or the solver failed.

        A deterministic run is charged by the number of matrix entries.
        """
        if clock.expired():
            return None
        from ortools.linear_solver.python import model_builder_helper as builder

        helper = builder.ModelBuilderHelper()
        low: Any = np.zeros(self.size)
        high: Any = np.minimum(np.concatenate(self.upper), 1e30)
        whole: Any = np.zeros(self.size, np.bool_)
        helper.add_var_array_with_bounds(low, high, whole, "")
        for column, cost in enumerate(np.concatenate(self.cost).tolist()):
            helper.set_var_objective_coefficient(column, cost)
        rows = np.concatenate(self.rows)
        order = np.argsort(rows, kind="stable")
        columns = np.concatenate(self.columns)[order]
        values = np.concatenate(self.coefficients)[order]
        ends = np.searchsorted(rows[order], np.arange(len(self.low) + 1)).tolist()
        for row, (low, high) in enumerate(zip(self.low.tolist(), self.high.tolist(), strict=True)):
            helper.add_linear_constraint()
            helper.set_constraint_lower_bound(row, low)
            helper.set_constraint_upper_bound(row, high)
            a, b = ends[row], ends[row + 1]
            for column, value in zip(columns[a:b].tolist(), values[a:b].tolist(), strict=True):
                helper.add_term_to_constraint(row, column, value)
        clock.spend(2e-5 * len(rows))
        if clock.expired():
            return None
        solving = builder.ModelSolverHelper(solver)
        limit = min(clock.wall_remaining(), seconds)
        if np.isfinite(limit):
            solving.set_time_limit_in_seconds(limit)
        thread = threading.Thread(target=solving.solve, args=(helper,), daemon=True)
        thread.start()
        while thread.is_alive() and not clock.cancelled and clock.wall_remaining() > 0.0:
            thread.join(0.05)
        if thread.is_alive():
            solving.interrupt_solve()
            return None
        if not solving.has_solution() or solving.status() != builder.SolveStatus.OPTIMAL:
            return None
        return Solved(
            solving.objective_value(),
            np.array(solving.variable_values()),
            np.array(solving.dual_values()),
        )
