"""Small latencies proved: a branch and bound whose bound are the prices of the linear program."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import jit
from cpsched.families.serving import kernels_exact as exact
from cpsched.families.serving import lagrange
from cpsched.families.serving.prepare import UNLIMITED, Prepared
from cpsched.result import Bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cpsched.core.run import Run

    Ints = NDArray[np.int64]

ARGUMENT = "branch-and-bound"
#: Most requests for which the search is tried.
LARGEST = 20
#: Most states remembered, as a power of two, and seconds per node.
STATES, COST = 22, 1e-6
#: Most patterns whose bounds are looked at; sets (a power of two), states compared per set, and
#: numbers stored for that.
PATTERNS, SETS, LABELS, LARGEST_STORE = 3, 16, 24, 2**26


def applies(q: Prepared) -> bool:
    """Whether the search covers the problem: one machine, memory and batch limits only."""
    return (
        q.n <= LARGEST
        and q.machines == 1
        and q.plain
        and not q.problem.reject
        and q.problem.slo_percent is None
        and int(q.budget[0]) >= UNLIMITED
        and int(q.capacity[0]) < 2**26
        and bool((q.fixed_machine < 0).all())
        and bool((q.length > 0).all())
    )


class Search:
    """The search for weighted ends below ``upper``; `run` it in slices."""

    def __init__(self, q: Prepared, prices: Sequence[lagrange.Prices], upper: int) -> None:
        self.q = q
        order = np.lexsort((q.length[0], q.volume / np.maximum(q.weight, 1e-9)))
        self.order = order
        n = q.n
        origin = self.origin = int(q.release.min())
        #: The kernel counts ends from the first release.
        self.offset = origin * int(q.weight.sum())
        release = (q.release - origin)[order]
        length = q.length[0][order]
        weight = q.weight[order]
        longest = int(length.max())
        # Nobody can start later than this in a schedule that is better than `upper`.
        alone = int((weight * (release + length)).sum()) + self.offset
        slack = max(0, upper - alone)
        limit = int((release + slack // np.maximum(1, weight)).max()) + 2
        limit = min(limit, int(release.max() + length.sum()) + 2)
        self.cost = np.zeros((len(prices), n, limit), np.int64)
        constant = np.zeros(len(prices), np.int64)
        for s, one in enumerate(prices):
            constant[s] = -lagrange.refund(q, one)
            for k, i in enumerate(order.tolist()):
                # Ends count here, not latencies.
                arrival = q.problem.requests[i].arrival * int(q.weight[i]) * lagrange.SCALE
                begins = np.arange(limit, dtype=np.int64) + origin
                ends = (begins + int(length[k])) * int(weight[k]) * lagrange.SCALE
                costs, _ = lagrange.reduced_costs(q, one, i, False)
                row = ends
                a = int(release[k])
                b = min(limit, a + len(costs[0]))
                row[a:b] = costs[0][: b - a] + arrival
                row[:a] = 2**60
                self.cost[s, k] = row
        self.least = np.minimum.accumulate(self.cost[:, :, ::-1], axis=2)[:, :, ::-1].copy()
        self.paid = constant + self.least[:, :, 0].sum(axis=1)
        shape = [
            (int(release[k]), int(weight[k]), *q.profile(i, 0).tolist())
            for k, i in enumerate(order.tolist())
        ]
        self.twin = np.array(
            [max((j for j in range(k) if shape[j] == shape[k]), default=-1) for k in range(n)],
            np.int64,
        )
        rng = np.random.default_rng(20_250_207)
        self.marks = rng.integers(1, 2**31, (2, n + longest + 1))
        self.state = np.array([0, 0, 0, upper - self.offset, 0], np.int64)
        self.frames = np.zeros((3, limit + n + 2), np.int64)
        self.frames[2, 0] = -1
        self.start = np.full(n, -1, np.int64)
        self.best = self.start.copy()
        self.use = np.zeros((2, limit + longest + 4), np.int64)
        slots = 2 ** min(STATES, n + 8)
        self.seen = np.zeros((slots, 2), np.int64)
        self.seen_cost = np.zeros(slots, np.int64)
        self.paid -= self.offset * lagrange.SCALE
        self.data: tuple[Any, ...] = (
            release, weight, length,
            np.concatenate([[0], np.cumsum(length)])[:-1].astype(np.int64),
            np.concatenate([q.profile(i, 0) for i in order.tolist()]),
        )  # fmt: skip
        self.by_length = np.argsort(length, kind="stable")
        self.heavy, self.totals, self.by_total, self.room = self._patterns(prices)
        self.used = np.zeros((len(self.room), limit + longest + 4), np.int64)
        # Who else runs counts as well where batches are limited: then nothing is compared.
        compared = int(q.max_batch[0]) >= n
        slots = 2 ** min(n, SETS) if compared else 0
        labels = min(LABELS, LARGEST_STORE // max(1, slots * longest))
        self.labels = (
            np.zeros((slots if labels else 0, 2), np.int64),
            np.zeros((slots, labels), np.int64),
            np.zeros((slots, labels, longest), np.int32),
        )

    def _patterns(self, prices: Sequence[lagrange.Prices]) -> tuple[Ints, Ints, Ints, Ints]:
        """Weights by pattern in the search's order, their totals, orders and room per round.

        Units of memory, and of the patterns in the prices those that prove most from the start.
        """
        q = self.q
        rows, room = [self.data[4]], [int(q.capacity[0])]
        if (q.weight != q.weight[0]).any():
            rows, room = [], []
        known = {id(one): one for p in prices for one, _ in p.patterns} if rows else {}
        for pattern in known.values():
            weight, limits = q.states.weights(pattern)
            parts = []
            for i in self.order.tolist():
                mine = weight[q.states.number[q.states.first[i] : q.states.first[i + 1]]]
                parts += [np.zeros(int(q.prefill[0, i]), np.int64), mine]
            rows.append(np.concatenate(parts))
            room.append(int(limits[-1]))
        heavy = np.array(rows, np.int64).reshape(len(rows), len(self.data[4]))
        totals = np.array([np.add.reduceat(row, self.data[3]) for row in heavy], np.int64)
        totals = totals.reshape(len(rows), q.n)
        by_total = np.argsort(totals, axis=1, kind="stable")
        value = [
            exact.rest_ends(
                0, self.start, self.data[2], self.by_length, totals[k : k + 1],
                by_total[k : k + 1], np.array(room[k : k + 1]), np.zeros((1, 1), np.int64),
            )
            for k in range(len(rows))
        ]  # fmt: skip
        best = np.argsort(-np.array(value, np.int64), kind="stable")[:PATTERNS]
        return heavy[best], totals[best], by_total[best], np.array(room, np.int64)[best]

    def run(self, nodes: int) -> bool:
        """Look at so many more nodes; whether the search is over."""
        release, weight, length, offset, memory = self.data
        q = self.q
        return bool(
            exact.branch(
                self.state, self.frames[0], self.frames[1], self.frames[2],
                self.start, self.best, self.use, self.paid,
                self.seen, self.seen_cost, self.marks, release, weight, length, offset, memory,
                int(q.capacity[0]), int(q.max_batch[0]), self.twin, self.cost, self.least,
                lagrange.SCALE, self.by_length, self.heavy, self.totals, self.by_total,
                self.room, self.used, *self.labels, nodes,
            )
        )  # fmt: skip

    def starts(self) -> Ints | None:
        """Starts of the best schedule found, None when there was none below ``upper``."""
        if not self.state[exact.FOUND]:
            return None
        out = np.empty(self.q.n, np.int64)
        out[self.order] = self.best + self.origin
        return out


def prove(
    q: Prepared, run: Run, name: str, prices: Sequence[lagrange.Prices], seconds: float = math.inf
) -> bool:
    """Search every schedule better than the incumbent for so many seconds; whether all were."""
    assert run.incumbent is not None
    end = run.clock.remaining() - seconds
    jit.ready(run.clock.remaining())
    shift = _shift(q)
    search = Search(q, prices, int(run.incumbent.values[0]) + shift)
    found = 0
    while not run.done() and run.clock.remaining() > end:
        known = int(run.incumbent.values[0]) + shift
        if known - search.offset < search.state[exact.UPPER]:
            search.state[exact.UPPER] = known - search.offset
        per_node = COST * jit.slowdown()
        nodes = max(10, int(0.05 / per_node))
        over = search.run(nodes)
        run.clock.spend(nodes * per_node)
        if search.state[exact.FOUND] > found:
            found = int(search.state[exact.FOUND])
            start = search.starts()
            run.offer(
                lambda s=start: q.schedule(s, np.zeros(q.n, np.int64)),  # type: ignore[misc]
                "branch-and-bound",
            )
        if over:
            value = int(search.state[exact.UPPER]) + search.offset - shift
            data = {"prices": [one.to_data() for one in prices]}
            run.raise_bound(Bound(value, ARGUMENT, name, data))
            return True
    return False


def confirmed(q: Prepared, value: int, prices: Sequence[lagrange.Prices]) -> bool:
    """Whether the search, done again, finds nothing below a value."""
    search = Search(q, prices, value + _shift(q))
    while not search.run(100_000):
        pass
    return search.starts() is None


def _shift(q: Prepared) -> int:
    """Weighted ends less weighted latencies."""
    return sum(int(w) * r.arrival for w, r in zip(q.weight, q.problem.requests, strict=True))
