"""The time-indexed linear program of the admission question, tightened by cliques.

Columns: request i starts on class c in round s before the horizon, or later. Rows: each request
once; in every round each limited resource of each class; cliques (see `lagrange`) that the last
solution violates. What counts is the prices: `lagrange.dual_value` turns them into a proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core.linear import LinearProgram, Solved
from cpsched.families.serving.lagrange import (
    SCALE,
    Clique,
    Prices,
    class_limits,
    clique_limit,
    clique_member,
    profiles,
    starts_cost,
)
from cpsched.families.serving.prepare import UNLIMITED, Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.clock import Clock

    Ints = NDArray[np.int64]

#: Programs with more matrix entries than this are not built.
LARGEST_PROGRAM = 1_500_000
#: Most places of a clique, cliques added per round of time and solve, and least violation.
PLACES, PER_ROUND, VIOLATION = 4, 4, 0.02


def program_size(q: Prepared, horizon: int) -> int:
    """Matrix entries of the time-indexed program up to a horizon."""
    starts = np.maximum(0, horizon - q.release)
    limited = (class_limits(q) < UNLIMITED).sum(axis=1)
    return int(((starts[None, :] * q.length).astype(np.float64) * limited[:, None]).sum())


class TimeIndexed:
    """The program of a problem; `solve` it, `tighten` it, and solve again."""

    def __init__(self, q: Prepared, horizon: int, goodput: bool, clock: Clock) -> None:
        self.q, self.clock, self.goodput = q, clock, goodput
        self.origin = int(q.release.min())
        self.rounds = horizon - self.origin
        self.program = LinearProgram()
        self.cliques: dict[tuple[Clique, int], int] = {}
        self.solved: Solved | None = None
        groups: dict[tuple[int, ...], list[int]] = {}
        for i in range(q.n):
            key = (
                int(q.release[i]), int(q.weight[i]), int(q.prompt[i]), int(q.output[i]),
                int(q.fixed_machine[i]), int(q.first_by[i]), int(q.end_by[i]), int(q.volume[i]),
            )  # fmt: skip
            groups.setdefault(key, []).append(i)
        self.groups = list(groups.values())
        #: By group and class: first start, and first and last column of the starts.
        self.columns: list[dict[int, tuple[int, Ints]]] = []
        limits = class_limits(q)
        sizes = np.array([float(len(g)) for g in self.groups])
        self.program.add_rows(np.zeros(len(sizes)) if goodput else sizes, sizes)
        self.row_of: dict[tuple[int, int], int] = {}
        for c in range(len(q.length)):
            for r in range(3):
                if limits[c, r] < UNLIMITED:
                    high = np.full(self.rounds, float(limits[c, r]))
                    self.row_of[c, r] = int(self.program.add_rows(high - np.inf, high)[0])
        for row, members in enumerate(self.groups):
            clock.check()
            self._add_group(row, members[0], horizon)

    def _add_group(self, row: int, i: int, horizon: int) -> None:
        q = self.q
        release = int(q.release[i])
        mine: dict[int, tuple[int, Ints]] = {}
        for c in range(len(q.length)):
            base, slope, last = starts_cost(q, i, c, self.goodput)
            length = int(q.length[c, i])
            stop = release + 1 if q.fixed_machine[i] >= 0 else min(horizon, last + 1)
            starts = np.arange(release, stop)
            if len(starts):
                columns = self.program.add(base + slope * starts)
                mine[c] = (release - self.origin, columns)
                self.program.entries(row, columns, 1.0)
                for r, profile in enumerate(profiles(q, c, i)):
                    if (c, r) in self.row_of and length:
                        at = starts[:, None] - self.origin + np.arange(length)[None, :]
                        inside = at < self.rounds
                        self.program.entries(
                            (self.row_of[c, r] + at)[inside],
                            np.broadcast_to(columns[:, None], at.shape)[inside],
                            np.broadcast_to(profile[None, :], at.shape)[inside],
                        )
            if not self.goodput and q.fixed_machine[i] < 0:
                late = self.program.add(base + slope * max(release, horizon))
                self.program.entries(row, late, 1.0)
        self.columns.append(mine)

    def solve(self) -> Prices | None:
        """Prices of the optimum; None when time was too short."""
        self.solved = self.program.solve(self.clock)
        if self.solved is None:
            return None
        paid = np.rint(np.maximum(0.0, -self.solved.prices) * SCALE).astype(np.int64)
        value = np.zeros((len(self.q.length), 3, self.rounds), np.int64)
        for (c, r), row in self.row_of.items():
            value[c, r] = paid[row : row + self.rounds]
        cliques: dict[Clique, Ints] = {}
        for (clique, t), row in self.cliques.items():
            if paid[row]:
                cliques.setdefault(clique, np.zeros(self.rounds, np.int64))[t] = paid[row]
        return Prices(self.origin, value, cliques)

    def tighten(self) -> int:
        """Add the most violated cliques of every round of time; returns how many."""
        assert self.solved is not None
        found: list[tuple[float, Clique, int]] = []
        for clique, members in self._possible():
            self.clock.check()
            use = self._use(clique[0], members)
            limit = clique_limit(self.q, clique)
            found += [
                (float(use[t] - limit) / limit, clique, int(t))
                for t in np.flatnonzero(use > limit + VIOLATION).tolist()
                if (clique, int(t)) not in self.cliques
            ]
        found.sort(key=lambda one: -one[0])
        taken: dict[int, int] = {}
        added = 0
        for _, clique, t in found:
            if taken.get(t, 0) < PER_ROUND:
                taken[t] = taken.get(t, 0) + 1
                added += 1
                self._add_clique(clique, t)
        return added

    def _members(self, clique: Clique) -> dict[int, int]:
        begins = {k: clique_member(self.q, clique, g[0]) for k, g in enumerate(self.groups)}
        return {k: first for k, first in begins.items() if first is not None}

    def _possible(self) -> list[tuple[Clique, dict[int, int]]]:
        """Cliques with more members than places."""
        if not hasattr(self, "_known"):
            self._known: list[tuple[Clique, dict[int, int]]] = []
            q = self.q
            for c in range(len(q.length)):
                largest = int(q.capacity[q.kind == c].max())
                if largest >= UNLIMITED or (c, 0) not in self.row_of:
                    continue
                firsts = q.memory[q.offset[c, :-1]] if len(q.memory) else np.zeros(0)
                low = int(firsts.min(initial=1))
                # Large memories: a few dozen sizes are enough.
                step = max(1, (largest - low) // 60)
                for places in range(1, PLACES + 1):
                    for least in range(low, largest // places + 1, step):
                        self.clock.check()
                        members = self._members((c, places, least))
                        size = sum(len(self.groups[k]) for k in members)
                        if size > clique_limit(q, (c, places, least)):
                            self._known.append(((c, places, least), members))
        return self._known

    def _use(self, c: int, members: dict[int, int]) -> Any:
        """Places taken in every round by the current solution."""
        assert self.solved is not None
        change = np.zeros(self.rounds + 1)
        for k, begins in members.items():
            if c in self.columns[k]:
                first, columns = self.columns[k][c]
                x = self.solved.values[columns[0] : columns[-1] + 1]
                length = int(self.q.length[c, self.groups[k][0]])
                for shift, sign in ((begins, 1.0), (length, -1.0)):
                    at = first + shift
                    count = max(0, min(len(x), self.rounds - at))
                    change[at : at + count] += sign * x[:count]
        return np.cumsum(change)[:-1]

    def _add_clique(self, clique: Clique, t: int) -> None:
        c = clique[0]
        limit = float(clique_limit(self.q, clique))
        row = int(self.program.add_rows([-np.inf], [limit])[0])
        self.cliques[clique, t] = row
        for k, begins in self._members(clique).items():
            if c in self.columns[k]:
                first, columns = self.columns[k][c]
                length = int(self.q.length[c, self.groups[k][0]])
                low = max(0, t - length + 1 - first)
                high = min(len(columns), t - begins + 1 - first)
                if high > low:
                    self.program.entries(row, columns[low:high], 1.0)
