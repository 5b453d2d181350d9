"""A schedule laid out flat: enough iterations that prologue, steady state and epilogue are there.

Everything is an event on one time axis: uses of units, live results and issue windows of every
iteration. It shares nothing with the models, which look at one period of the circle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cpsched.families.kernel.live import live_uses
from cpsched.families.kernel.modes import as_scheduled
from cpsched.families.kernel.problem import KernelProblem, KernelSchedule, Operation

Ints = npt.NDArray[np.int64]

#: Most events laid out for one resource. Beyond it (intervals of a few cycles under results that
#: live for thousands) whole periods are counted at once: see `peak`.
MOST_EVENTS = 1_000_000


class Layout:
    """A schedule over its problem: what the rules and the objectives look at.

    ``problem`` and ``operations`` are in the chosen modes, ``original`` is the problem as
    given. Arrays are in the order of its operations and edges. ``distance`` has the depth of an
    edge's buffer in it, ``spill`` and ``signal`` are the delays of edges that cross groups.
    """

    def __init__(self, problem: KernelProblem, schedule: KernelSchedule) -> None:
        self.original, self.schedule = problem, schedule
        self.problem = problem = as_scheduled(problem, schedule)
        self.operations: tuple[Operation, ...] = problem.operations
        self.period = schedule.initiation_interval
        self.at = {o.id: k for k, o in enumerate(problem.operations)}
        placed = {p.operation: p for p in schedule.operations}
        self.placed = [placed[o.id] for o in problem.operations]
        self.start = _ints(p.start for p in self.placed)
        self.group = [p.group if problem.grouped else None for p in self.placed]
        self.depth = {b.buffer: b.depth for b in schedule.buffers}
        self.ring_depth = _ints(self.depth[b.name] for b in problem.buffers)
        self.uses = live_uses(problem)
        self.lifetime = self.uses.lifetimes(self.start, self.period, self.ring_depth)
        edges = problem.edges
        self.source = _ints(self.at[e.source] for e in edges)
        self.target = _ints(self.at[e.target] for e in edges)
        self.delay = _ints(e.delay for e in edges)
        self.distance = _ints(
            e.distance + (self.depth[e.buffer] if e.buffer is not None else 0) for e in edges
        )
        self.spill, self.signal = np.zeros((2, len(edges)), dtype=np.int64)
        self.crosses = np.zeros(len(edges), dtype=np.bool_)
        if problem.grouped:
            group = _ints(-1 if g is None else g for g in self.group)
            self.crosses = group[self.source] != group[self.target]
            cost = _ints(problem.spill_cost(o) for o in self.operations)
            true = np.array([e.kind == "true" for e in edges], dtype=np.bool_)
            self.spill = cost[self.source] * (self.crosses & true)
            self.signal = problem.machine.signal_cost * self.crosses.astype(np.int64)

    def operation(self, name: str) -> Operation:
        """The operation of that id, in its chosen mode."""
        return self.operations[self.at[name]]

    @property
    def copies(self) -> Ints:
        """Iterations whose result of an operation is live at the same time, at most."""
        copies: Ints = -(-self.lifetime // self.period)
        return copies

    def rings(self, memory: str) -> int:
        """What the declared rings of a memory hold, all slots all the time."""
        rings = [b for b in self.problem.buffers if b.memory == memory]
        return sum(b.size * self.depth[b.name] for b in rings)

    def widths(self) -> dict[int, int]:
        """Warps of each group in use: its widest operation's."""
        widths: dict[int, int] = {}
        for o, group in zip(self.operations, self.group, strict=True):
            if group is not None:
                widths[group] = max(widths.get(group, 0), o.min_warps)
        return widths


def _ints(values: object) -> Ints:
    return np.fromiter(values, dtype=np.int64)  # type: ignore[call-overload, no-any-return]


def peak(period: int, begin: Ints, length: Ints, amount: Ints) -> tuple[int, int]:
    """Largest sum of the amounts in use at one cycle, and such a cycle.

    Row ``k`` is in use during ``[begin, begin + length)`` and, an interval later each time, in
    every further iteration. Enough iterations are laid out for all rows of the steady state to
    meet.

    Parameters
    ----------
    begin, length, amount
        Cycles, cycles and units of each row, in iteration 0.
    """
    length = np.maximum(length, 0)
    whole = np.zeros_like(length)
    iterations = _enough(period, begin, length)
    if 2 * iterations * len(begin) > MOST_EVENTS:
        # Too many to lay out: every whole period of a row is in use at every cycle, and where
        # the rest begins in its period does not depend on the iteration.
        whole, length = np.divmod(length, period)
        begin = begin % period
        iterations = _enough(period, begin, length)
    shift = period * np.arange(iterations)
    first = np.add.outer(shift, begin).ravel()
    time = np.concatenate((first, np.add.outer(shift, begin + length).ravel()))
    change = np.tile(amount, iterations)
    change = np.concatenate((change, -change))
    # What ends at a cycle is gone before what begins there.
    order = np.lexsort((change, time))
    level = np.cumsum(change[order])
    if len(level) == 0:
        return 0, 0
    where = int(level.argmax())
    constant = int((whole * amount).sum())
    return int(max(level[where], 0)) + constant, int(time[order[where]])


def _enough(period: int, begin: Ints, length: Ints) -> int:
    """Iterations after which a cycle has seen all overlapping ones, and some more."""
    if len(begin) == 0:
        return 0
    return int((begin + length).max() - begin.min()) // period + 3


def inside_windows(period: int, waits: Ints, begin: Ints, length: Ints, own: Ints) -> Ints:
    """How often a wait falls into each operation's issue window, over enough iterations.

    Parameters
    ----------
    waits
        Cycles at which waits begin in iteration 0.
    begin, length
        Start and length of each operation's window.
    own
        Index of the operation's own wait in ``waits``, or -1: it does not disturb itself.
    """
    everything = np.concatenate((waits, begin))
    span = int(everything.max() - everything.min() + length.max())
    iterations = span // period + 3
    if iterations * len(everything) > MOST_EVENTS:
        waits, begin = waits % period, begin % period
        iterations = int(length.max()) // period + 3
    shift = period * np.arange(iterations)
    times = np.sort(np.add.outer(shift, waits).ravel())
    first = np.add.outer(begin, shift)
    last = first + length[:, None]
    found: Ints = np.searchsorted(times, last) - np.searchsorted(times, first)
    # Its own waits of this and later iterations inside the window.
    mine = np.minimum((length[:, None] - 1) // period, iterations - 1 - np.arange(iterations)) + 1
    found -= np.where((own >= 0)[:, None] & (length[:, None] > 0), mine, 0)
    hits: Ints = found.sum(axis=1)
    return hits
