"""First schedules at once: whoever is ready starts where its peak is free until its end.

Peaks are reserved from start to end, so no round is looked at by itself and a request costs the
same however long it runs. What stages, tools and lines add is waited for.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cpsched.families.serving.pieces import bucket_of, transfer_rounds
from cpsched.families.serving.prepare import UNLIMITED, Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

#: Memory, places of the batch, and tokens per round.
Need = tuple[int, int, int]


class Dispatched(NamedTuple):
    """Start, end and machine by request (machine -1: left out); with a handover when it is sent
    and where it decodes (-1: without one)."""

    start: list[int]
    end: list[int]
    machine: list[int]
    sent: list[int]
    decode: list[int]


class _Machine:
    """What is free on a machine, and when more will be."""

    def __init__(
        self, index: int, role: str, limits: Sequence[int], needs: list[Need], buckets: bool
    ) -> None:
        self.index, self.role, self.limits = index, role, limits
        #: What every request needs here, from its start to its end.
        self.needs = needs
        self.free = list(limits)
        self.ending: list[tuple[int, int, int, int]] = []
        #: Nobody starts here any more before this round.
        self.clock = -UNLIMITED
        self.buckets = buckets
        #: Batching bucket of the prefills, when its first began, and when the last ends.
        self.bucket, self.began, self.until = -1, -UNLIMITED, -UNLIMITED

    def fits(self, i: int, at: int) -> bool:
        """Whether a request fits from a round on; if not, the next one to try is the clock's."""
        free, ending = self.free, self.ending
        while ending and ending[0][0] <= at:
            _, memory, places, tokens = heapq.heappop(ending)
            free[0] += memory
            free[1] += places
            free[2] += tokens
        memory, places, tokens = self.needs[i]
        if memory <= free[0] and places <= free[1] and tokens <= free[2]:
            return True
        self.clock = ending[0][0]
        return False

    def hold(self, i: int, end: int) -> None:
        memory, places, tokens = self.needs[i]
        self.free[0] -= memory
        self.free[1] -= places
        self.free[2] -= tokens
        heapq.heappush(self.ending, (end, memory, places, tokens))

    def prefill(self, start: int, rounds: int, bucket: int) -> int:
        """The first start from a round on at which a prefill stays within one bucket."""
        if bucket != self.bucket:
            self.bucket, self.began = bucket, max(start, self.until)
        start = max(start, self.began)
        self.until = max(self.until, start + rounds)
        return start


def dispatch(
    q: Prepared, order: Ints, base: int = -UNLIMITED, among: Iterable[int] | None = None
) -> Dispatched | None:
    """Place requests as they become ready, those ready together in the given order.

    Parameters
    ----------
    order
        The requests to place; the others are taken for placed, with everything over at ``base``.
    base
        The first start.
    among
        The machines to use; None for all.

    Returns
    -------
    The places; None when a request fits nowhere and may not be left out.
    """
    return _Dispatcher(q, range(q.machines) if among is None else among).run(order, base)


class _Dispatcher:
    def __init__(self, q: Prepared, among: Iterable[int]) -> None:
        self.q, p = q, q.problem
        # The first round of a prefill takes a whole chunk, or the whole prompt.
        first_round = np.minimum(q.offset[:, :-1], max(0, len(q.tokens) - 1))
        tokens = q.tokens[first_round] if len(q.tokens) else np.zeros_like(q.length)
        making = np.minimum(1, q.output)
        busy, filling = (np.minimum(1, rounds) for rounds in (q.length, q.prefill))
        # Shared blocks count for everyone who uses them: more than enough.
        alone = _needs((q.prompt + q.output) * busy, busy, np.maximum(tokens * busy, making))
        first = _needs(q.prompt * filling, filling, tokens * filling)
        second = _needs((q.prompt + q.output)[None], making[None], making[None])[0]
        limits = np.stack([q.capacity, q.max_batch, q.budget], axis=1).tolist()
        self.rooms: dict[int, _Machine] = {}
        # Without stages the machines may be a part of the problem's.
        machines = p.machines if q.staged else None
        for g in among:
            c = int(q.kind[g])
            role = "mixed" if machines is None else machines[g].role
            needs = {"mixed": alone[c], "prefill": first[c], "decode": second}[role]
            buckets = machines is not None and bool(machines[g].buckets)
            self.rooms[g] = _Machine(g, role, limits[g], needs, buckets)
        #: Machines by when they take somebody; entries are brought up to date when they are read.
        self.seconds = [(-UNLIMITED, g) for g, m in self.rooms.items() if m.role == "decode"]
        self.firsts = [
            (-UNLIMITED, g)
            for g, m in self.rooms.items()
            if m.role == "mixed" or (m.role == "prefill" and self.seconds)
        ]
        self.kind, self.rounds = q.kind.tolist(), q.prefill.tolist()
        self.output = q.output.tolist()
        #: The last end at which a request meets its SLO.
        self.latest = np.minimum(q.end_by, q.first_by + np.maximum(0, q.output - 1)).tolist()
        self.sending = [transfer_rounds(p, r.prompt) for r in p.requests] if self.seconds else []
        lines = None if p.network is None else p.network.transfers
        #: When the lines and the places of every tool are free; None where there are enough.
        self.lines = None if lines is None or lines >= q.n else [-UNLIMITED] * lines
        self.tool = q.tool.tolist()
        used = np.bincount(q.tool[q.tool >= 0], minlength=len(q.tool_capacity)).tolist()
        self.places = [
            None if c >= u else [-UNLIMITED] * c
            for c, u in zip(q.tool_capacity.tolist(), used, strict=True)
        ]

    def run(self, order: Ints, base: int) -> Dispatched | None:
        q, n = self.q, self.q.n
        out = Dispatched([0] * n, [0] * n, [-1] * n, [-1] * n, [-1] * n)
        ready = np.maximum(q.release, base).tolist()
        gap = q.gap.tolist()
        todo = order.tolist()
        waits = [0] * n
        after: dict[int, list[int]] = {}
        if len(q.preds):
            mine, offset, preds = set(todo), q.pred_offset.tolist(), q.preds.tolist()
            for i in todo:
                for j in preds[offset[i] : offset[i + 1]]:
                    if j in mine:
                        waits[i] += 1
                        after.setdefault(j, []).append(i)
                    else:
                        ready[i] = max(ready[i], base + gap[i])
        queue = [(ready[i], k, i) for k, i in enumerate(todo) if not waits[i]]
        rank = {i: k for k, i in enumerate(todo)} if after else {}
        heapq.heapify(queue)
        while queue:
            at, _, i = heapq.heappop(queue)
            by = self.latest[i] if q.problem.reject and i not in after else UNLIMITED
            if not self._place(i, at, by, out):
                if not q.problem.reject:
                    return None
                continue
            for j in after.get(i, ()):
                ready[j] = max(ready[j], out.end[i] + gap[j])
                waits[j] -= 1
                if not waits[j]:
                    heapq.heappush(queue, (ready[j], rank[j], j))
        return out

    def _soonest(self, i: int, machines: list[tuple[int, int]]) -> _Machine | None:
        """The machine that takes somebody first, of those on which a request fits alone."""
        aside: list[tuple[int, int]] = []
        found: _Machine | None = None
        allowed = None if self.q.allowed is None else self.q.allowed[i]
        while machines and found is None:
            clock, g = machines[0]
            room = self.rooms[g]
            if clock != room.clock:
                heapq.heapreplace(machines, (room.clock, g))
                continue
            fits = all(x <= y for x, y in zip(room.needs[i], room.limits, strict=True))
            if fits and (allowed is None or allowed[g]):
                found = room
            else:
                aside.append(heapq.heappop(machines))
        for one in aside:
            heapq.heappush(machines, one)
        return found

    def _place(self, i: int, ready: int, by: int, out: Dispatched) -> bool:
        """Reserve a request's peaks from the first moment on at which they are free; False where
        there is none, or none that lets it end in time."""
        places = self.places[self.tool[i]] if self.tool[i] >= 0 else None
        if places is not None and not places:
            return False
        while True:
            first = second = self._soonest(i, self.firsts)
            if first is not None and first.role == "prefill":
                second = self._soonest(i, self.seconds)
            if first is None or second is None:
                return False
            at = max(ready, first.clock, second.clock)
            if at + self.rounds[self.kind[first.index]][i] + self.output[i] > by:
                return False
            if first.fits(i, at) and (second is first or second.fits(i, at)):
                break
        first.clock = second.clock = at
        rounds, output = self.rounds[self.kind[first.index]][i], self.output[i]
        if places is not None:
            at = max(at, heapq.heappop(places) - rounds - output)
        if first.buckets and rounds:
            r, machine = self.q.problem.requests[i], self.q.problem.machines[first.index]
            at = first.prefill(at, rounds, bucket_of(r, machine))
        begin = at + rounds
        if second is not first:
            sent, sending = begin, self.sending[i]
            if sending and self.lines is not None:
                sent = max(begin, heapq.heappop(self.lines))
                heapq.heappush(self.lines, sent + sending)
            begin = sent + sending
            first.hold(i, begin)
            out.sent[i], out.decode[i] = sent, second.index
        second.hold(i, begin + output)
        if places is not None:
            heapq.heappush(places, begin + output + int(self.q.tool_rounds[i]))
        out.start[i], out.end[i], out.machine[i] = at, begin + output, first.index
        return True


def _needs(memory: Ints, places: Ints, tokens: Ints) -> list[list[Need]]:
    """What every request needs, by class."""
    rows = zip(memory.tolist(), places.tolist(), tokens.tolist(), strict=True)
    return [list(zip(a, b, c, strict=True)) for a, b, c in rows]
