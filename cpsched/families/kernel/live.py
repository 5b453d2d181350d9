"""How long the result of an operation lives: the uses that keep it, and the cycles to the last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cpsched.families.kernel.problem import KernelProblem

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LiveUses:
    """The uses that keep results live, as parallel arrays of indices into the problem.

    ``reader`` reads the result of ``owner`` ``distance`` iterations later, plus the depth of
    ``buffer`` (-1: none). A use through a view counts for what the view renames.
    """

    owner: Ints
    reader: Ints
    distance: Ints
    buffer: Ints

    def lifetimes(self, start: Ints, period: int, depth: Ints) -> Ints:
        """Cycles from each operation's issue to the issue of its result's last use, half-open.

        Zero for results without a use. ``start`` and ``depth`` are in the problem's order.
        """
        alive = np.zeros(len(start), dtype=np.int64)
        span = start[self.reader] + self.reach(depth) * period - start[self.owner]
        np.maximum.at(alive, self.owner, span)
        return alive

    def reach(self, depth: Ints) -> Ints:
        """Iteration distance of every use with the depth of its ring."""
        table: Ints = np.append(depth, 0)
        reach: Ints = self.distance + table[self.buffer]
        return reach


def live_uses(problem: KernelProblem) -> LiveUses:
    """The true dependences of a loop, and those that pass through views."""
    at = {o.id: k for k, o in enumerate(problem.operations)}
    ring = {b.name: k for k, b in enumerate(problem.buffers)}
    ring_of = [-1 if e.buffer is None else ring[e.buffer] for e in problem.edges]
    rows = [
        (at[e.source], at[e.target], e.distance, b)
        for e, b in zip(problem.edges, ring_of, strict=True)
        if e.kind == "true"
    ]
    views = {k for k, o in enumerate(problem.operations) if o.view}
    if views:
        rows += _through_views(rows, views)
    owner, reader, distance, buffer = np.array(rows or [(0,) * 4], dtype=np.int64)[: len(rows)].T
    return LiveUses(owner, reader, distance, buffer)


def _through_views(
    rows: list[tuple[int, int, int, int]], views: set[int]
) -> list[tuple[int, int, int, int]]:
    """Uses of what views rename, the distances on the way added up."""
    out: dict[int, list[tuple[int, int, int]]] = {}
    for owner, reader, distance, buffer in rows:
        out.setdefault(owner, []).append((reader, distance, buffer))
    found = []
    for owner, reader, distance, _ in rows:
        if reader not in views or reader == owner:
            continue
        seen = {reader}
        todo = [reader]
        while todo:
            for end, more, buffer in out.get(todo.pop(), ()):
                # Within the iteration only: a view handed to a later one is a copy.
                if more == 0:
                    found.append((owner, end, distance, buffer))
                    if end in views and end != owner and end not in seen:
                        seen.add(end)
                        todo.append(end)
    return found
