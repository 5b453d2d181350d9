"""Weights of states, and the bounds that they prove: what can be active at once weighs little.

A request in its output holds some units and has some rounds left; that is its state. Which states
can be active on one machine at once follows from the memory at their ends alone (see
`kernels_pattern.heaviest`). Give every state a weight, and let `limit` be the heaviest possible
set: then in every round the active requests weigh at most that. Units over the capacity are such
weights (the memory volume); others are better, because large requests leave room that nobody can
use. Good weights solve a linear program over all sets, found one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import jit
from cpsched.core.linear import LinearProgram
from cpsched.families.serving import kernels_pattern
from cpsched.families.serving.prepare import Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.run import Run

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

#: Weights are whole multiples of ``1 / SCALE`` of the limit.
SCALE = 4096
#: Most groups of states with one price per unit, and how close to their best the search stops.
GROUPS = ((130, 1.01), (350, 1.006), (1200, 1.006))
#: Largest tables (states, seats, units) that are searched, compiled and interpreted.
LARGEST_TABLE, SLOW_TABLE = 40_000_000, 20_000
#: Seconds per entry of such a table.
COST = 1.5e-9
#: Rounds after the first arrival whose own limits are found, and entries of tables for that.
RAMP, LARGEST_RAMP = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48), 30_000_000


@dataclass(frozen=True)
class Pattern:
    """Whole weights of states ``(held, left)``; states that are not listed weigh nothing."""

    held: Ints
    left: Ints
    weight: Ints

    def to_data(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "held": self.held.tolist(),
            "left": self.left.tolist(),
            "weight": self.weight.tolist(),
        }

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Pattern:
        """The pattern of a JSON form."""
        return cls(*(np.array(data[name], np.int64) for name in ("held", "left", "weight")))


class States:
    """The states of all requests of a problem, ``left`` descending.

    Attributes
    ----------
    held, left, copies
        The distinct states, and how many requests pass through each.
    number, age
        Index of a request's state in each round of its output, the requests in one row:
        ``number[first[i] : first[i + 1]]``, and how many rounds it has run then.
    """

    def __init__(self, q: Prepared) -> None:
        some = q.output > 0
        begins = np.where(some, q.offset[0, :-1] + q.prefill[0], 0)
        base = np.repeat(q.memory[begins] - 1, q.output)
        self.first = np.concatenate([[0], np.cumsum(q.output)])
        k = np.arange(self.first[-1]) - np.repeat(self.first[:-1], q.output) + 1
        self.age = k + np.repeat(q.prefill.min(axis=0), q.output)
        pairs = np.stack([k - np.repeat(q.output, q.output), base + k])
        states, self.number, self.copies = np.unique(
            pairs, axis=1, return_inverse=True, return_counts=True
        )
        self.number = self.number.reshape(-1)
        self.left, self.held = -states[0], states[1]
        self._known: dict[int, tuple[Pattern, Ints, Ints]] = {}
        self.copies = self.copies.astype(np.int64)
        # Machines with output: (capacity, most requests at once) to how many.
        self.kinds: dict[tuple[int, int], int] = {}
        least = max(1, int(self.held.min(initial=1)))
        for m, capacity, batch in zip(
            q.problem.machines, q.capacity.tolist(), q.max_batch.tolist(), strict=True
        ):
            if m.role != "prefill":
                kind = (capacity, min(batch, capacity // least, q.n))
                self.kinds[kind] = self.kinds.get(kind, 0) + 1

    @property
    def size(self) -> int:
        """Entries of the largest table that finding a limit looks at."""
        sizes = (len(self.number) * (seats + 1) * (units + 1) for units, seats in self.kinds)
        return max(sizes, default=0)

    def applies(self, seconds: float) -> bool:
        """Whether every machine with output has a memory limit, small enough to search."""
        largest = LARGEST_TABLE if jit.ready(seconds, "serving") else SLOW_TABLE
        return bool(len(self.number)) and self.size <= largest

    def limits(self, weight: Ints) -> Ints:
        """The most that all machines together can hold in the first rounds; the last for all later.

        Nobody has run longer than the rounds since the first arrival, and who has not is small.
        """
        out: list[int] = []
        whole = self._limit(weight, self.copies)
        for t in RAMP[: LARGEST_RAMP // self.size]:
            there = np.bincount(self.number[self.age <= t], minlength=len(self.held))
            limit = self._limit(weight, there)
            if limit == whole:
                break
            # Between the rounds looked at, the later one holds.
            out += [limit] * (t - len(out))
        return np.array([*out, whole], np.int64)

    def _limit(self, weight: Ints, copies: Ints) -> int:
        none = np.zeros((0, 0), np.int64)
        return sum(
            count * int(self._heaviest(weight, copies, kind, none))
            for kind, count in self.kinds.items()
        )

    def sets(self, weight: Ints) -> tuple[int, Ints]:
        """The heaviest set on the largest machine, and the heaviest of every size as rows."""
        kind = max(self.kinds)
        chosen = np.zeros((kind[1] + 1, len(self.held)), np.int64)
        top = int(self._heaviest(weight, self.copies, kind, chosen))
        return top, chosen

    def _heaviest(self, weight: Ints, copies: Ints, kind: tuple[int, int], chosen: Ints) -> Any:
        return kernels_pattern.heaviest(
            self.held, self.left, copies, weight, kind[0], kind[1], chosen
        )

    def weights(self, pattern: Pattern) -> tuple[Ints, Ints]:
        """A pattern's weights by state, and their `limits`."""
        if id(pattern) not in self._known:
            weight = self._by_state(pattern)
            self._known[id(pattern)] = (pattern, weight, self.limits(weight))
        return self._known[id(pattern)][1:]

    def offers(self, pattern: Pattern, first: int, rounds: int) -> Ints:
        """The limits in so many rounds, the first of them ``first`` rounds after the arrivals."""
        limits = self.weights(pattern)[1]
        at = np.arange(first, first + rounds) - 1
        return limits[np.where(at < 0, len(limits) - 1, np.minimum(at, len(limits) - 1))]

    def _by_state(self, pattern: Pattern) -> Ints:
        known = {
            (h, r): w
            for h, r, w in zip(
                pattern.held.tolist(), pattern.left.tolist(), pattern.weight.tolist(), strict=True
            )
        }
        pairs = zip(self.held.tolist(), self.left.tolist(), strict=True)
        return np.array([known.get(pair, 0) for pair in pairs], np.int64)

    def totals(self, by_state: Any) -> Any:
        """Sums over every request's states."""
        sums = np.concatenate([[0], np.cumsum(by_state[self.number])])
        return sums[self.first[1:]] - sums[self.first[:-1]]


def memory_pattern(states: States) -> Pattern:
    """The memory volume as a pattern: units over the largest capacity."""
    capacity = max(states.kinds)[0]
    return Pattern(states.held, states.left, states.held * SCALE // max(1, capacity))


def find(states: States, importance: Floats, run: Run, seconds: float) -> Pattern | None:
    """Weights that make the important states heavy; None when the time was too short.

    Maximise the sum of importance times weight over weights for which no possible set weighs more
    than one. States with similar ``held`` and ``left`` have one price per unit held, first many
    of them, then fewer.
    """
    end = run.clock.remaining() - seconds
    capacity = max(states.kinds)[0]
    share = states.held / max(1, capacity)
    weight, before = share, 0
    known: list[Ints] = []
    for groups, close in GROUPS:
        width = 1
        while True:
            cells = np.stack([states.held // width, states.left // width])
            labels, group = np.unique(cells, axis=1, return_inverse=True)
            if labels.shape[1] <= groups:
                break
            width += 1
        if width == before or run.clock.remaining() <= max(0.0, end):
            break
        before = width
        search = _Weights(states, importance, share, group.reshape(-1), known, run)
        weight = search.improve(weight, close, end)
    whole = np.floor(weight * SCALE).astype(np.int64)
    some = whole > 0
    if not some.any():
        return None
    return Pattern(states.held[some], states.left[some], whole[some])


class _Weights:
    """The linear program of the weights with one price per unit for each group of states.

    The sets are its cuts, found by the kernel at a point between its solution and the best
    weights so far. ``known`` collects them for finer groups.
    """

    def __init__(
        self,
        states: States,
        importance: Floats,
        share: Floats,
        group: Ints,
        known: list[Ints],
        run: Run,
    ) -> None:
        self.states, self.share, self.group, self.known = states, share, group, known
        self.clock = run.clock
        self.count = int(group.max()) + 1
        self.gain = np.bincount(group, importance * share, minlength=self.count)
        self.program = LinearProgram()
        self.program.add(-self.gain)
        # No state weighs more than everything.
        most = np.zeros(self.count)
        np.maximum.at(most, group, share)
        rows = self.program.add_rows(np.full(self.count, -np.inf), np.ones(self.count))
        self.program.entries(rows, np.arange(self.count), most)
        for row in known:
            self._add(row)

    def _add(self, row: Ints) -> None:
        amounts = np.bincount(self.group, row * self.share, minlength=self.count)
        used = np.flatnonzero(amounts)
        index = self.program.add_rows([-np.inf], [1.0])
        self.program.entries(int(index[0]), used, amounts[used])

    def _cut(self, prices: Floats) -> tuple[float, int]:
        """Add the sets that are too heavy at these prices: the heaviest weight, and how many."""
        scale = 2.0**20
        weight = np.rint(prices[self.group] * self.share * scale).astype(np.int64)
        top, chosen = self.states.sets(weight)
        steps = len(self.states.number) * chosen.shape[0] * max(self.states.kinds)[0]
        self.clock.spend(1e-9 * steps)
        heavy = chosen[chosen @ weight > (1.0 + 1e-4) * scale]
        for row in heavy:
            self._add(row)
            self.known.append(row)
        return top / scale, len(heavy)

    def improve(self, weight: Floats, close: float, end: float) -> Floats:
        """Better weights than these, until nearly the best or the time is up."""
        sizes = np.bincount(self.group, self.share, minlength=self.count)
        best = np.bincount(self.group, weight, minlength=self.count) / sizes
        best /= max(1e-9, self._cut(best)[0])
        value = float(self.gain @ best)
        while self.clock.remaining() > max(0.0, end):
            solved = self.program.solve(self.clock)
            if solved is None or -solved.objective <= close * value:
                break
            trial = 0.3 * solved.values + 0.7 * best
            top, added = self._cut(trial)
            if not added:
                trial = solved.values
                top, added = self._cut(trial)
            trial = trial / max(1.0, top)
            if float(self.gain @ trial) > value:
                best, value = trial, float(self.gain @ trial)
            if not added:
                break
        new: Floats = best[self.group] * self.share
        return new
