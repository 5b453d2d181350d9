"""What staged requests use of every instance and of the network, and where one more fits first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cpsched.families.serving.pieces import (
    bucket_of,
    holding,
    shared_units,
    staged_pieces,
    transfer_rounds,
    working,
)
from cpsched.families.serving.prepare import UNLIMITED, Prepared
from cpsched.families.serving.problem import Placed, ServingProblem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

#: Start of a request, pauses of its prefill, when it is sent (None: never).
Found = tuple[int, tuple[tuple[int, int], ...], int | None]
#: Starts looked at together; four times as many when none of them fits.
SPAN = 256


def routes(p: ServingProblem, i: int, among: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """Instances of the prefill, and of the decode where that is another one."""
    allowed = p.requests[i].candidates
    machines = p.machines
    open_ = [g for g in among if not allowed or g in allowed]
    for g in open_:
        if machines[g].role == "mixed":
            yield g, None
        if machines[g].role != "decode":
            for h in open_:
                if h != g and machines[h].role != "prefill":
                    yield g, h


def ready_of(q: Prepared, i: int) -> int:
    """The round in which the prefill of a running request ends."""
    r = q.problem.requests[i]
    c = int(q.kind[q.fixed_machine[i]])
    return int(q.fixed_start[i] + q.prefill[c, i]) + sum(b - a for a, b in r.pauses)


def latest_end(q: Prepared) -> int:
    """A round by which everything ends when the requests run one after the other."""
    p = q.problem
    end = int(q.release.max(initial=0)) + int(q.length.max(axis=0).sum())
    end += sum(transfer_rounds(p, r.prompt) for r in p.requests)
    end += int(q.gap.sum()) + int(q.tool_rounds.sum())
    for i, r in enumerate(p.requests):
        if r.start is not None:
            rests = ready_of(q, i) - r.start
            end += rests + max(0, (r.arrival if r.sent is None else r.sent) - r.start - rests)
    return end


class Board:
    """The rounds of every instance, of the network and of the tools."""

    def __init__(self, q: Prepared) -> None:
        self.q = q
        p = self.p = q.problem
        self.machines = p.machines
        self.origin = min(0, int(q.release.min(initial=0)))
        self.horizon = latest_end(q) + 2
        self.limits = np.stack([q.capacity, q.max_batch, q.budget]).tolist()
        self.use = np.zeros((3, q.machines, 1024), np.int64)
        self.bucket = np.full((q.machines, 1024), -1, np.int64)
        self.lines = np.zeros(1024, np.int64)
        self.calls = np.zeros((len(q.tool_capacity), 1024), np.int64)
        #: How many requests hold a prefix node on an instance, by (instance, node).
        self.users: dict[tuple[int, int], Ints] = {}
        self.ends: dict[int, int] = {}
        #: Instances that somebody runs on, and what was found out for the request in hand.
        self.touched: set[int] = set()
        self.memo: dict[tuple[Any, ...], Any] = {}
        shared = shared_units(p)
        self.shared = [shared[r.id] for r in p.requests]
        self.sending = [transfer_rounds(p, r.prompt) for r in p.requests]
        self.most = UNLIMITED
        if p.network is not None and p.network.transfers is not None:
            self.most = p.network.transfers

    def _columns(self, first: int, count: int) -> slice:
        """The columns of so many rounds from ``first`` on; makes room for them."""
        a = first - self.origin
        width = len(self.lines)
        if a + count > width:
            more = max(a + count, 2 * width) - width
            self.use = np.pad(self.use, ((0, 0), (0, 0), (0, more)))
            self.bucket = np.pad(self.bucket, ((0, 0), (0, more)), constant_values=-1)
            self.lines = np.pad(self.lines, (0, more))
            self.calls = np.pad(self.calls, ((0, 0), (0, more)))
        return slice(a, a + count)

    def _nodes(self, i: int) -> list[int]:
        nodes: list[int] = self.q.nodes[self.q.node_offset[i] : self.q.node_offset[i + 1]].tolist()
        return nodes

    def _holders(self, g: int, node: int) -> Ints:
        """How many requests hold a prefix node on an instance, by column."""
        known = self.users.get((g, node), np.zeros(0, np.int64))
        if len(known) < len(self.lines):
            known = self.users[g, node] = np.pad(known, (0, len(self.lines) - len(known)))
        return known

    def _taken(self, i: int, g: int, at: slice) -> Ints:
        """Memory in use, with the prefix nodes that a request would have to bring along."""
        use: Ints = self.use[0, g, at]
        for node in self._nodes(i):
            use = use + int(self.q.node_size[node]) * (self._holders(g, node)[at] == 0)
        return use

    def earliest(self, i: int) -> int:
        """The first possible start, after everything that a request waits for."""
        q = self.q
        before = q.preds[q.pred_offset[i] : q.pred_offset[i + 1]].tolist()
        last = max((self.ends[j] for j in before), default=-UNLIMITED) + int(q.gap[i])
        return max(self.p.requests[i].arrival, last)

    def add(self, i: int, one: Placed) -> None:
        """Place a request."""
        r = self.p.requests[i]
        self.ends[i] = one.end
        self.touched |= {one.instance, one.instance if one.decode is None else one.decode}
        tool = int(self.q.tool[i])
        if tool >= 0:
            self.calls[tool, self._columns(one.end + 1, r.tool_rounds)] += 1
        machine = self.machines[one.instance]
        if machine.buckets:
            rounds = int(self.q.prefill[self.q.kind[one.instance], i])
            for a, b in working(one, rounds):
                self.bucket[one.instance, self._columns(a + 1, b - a)] = bucket_of(r, machine)
        if one.sent is not None:
            self.lines[self._columns(one.sent + 1, self.sending[i])] += 1
        for g in {one.instance, one.instance if one.decode is None else one.decode}:
            for k, used in enumerate(staged_pieces(machine, r, g, one, self.shared[i]).values()):
                for a, b, base, slope in used:
                    at = self._columns(a + 1, b - a)
                    self.use[k, g, at] += base + slope * np.arange(1, b - a + 1)
            for a, b in holding(r, g, one):
                at = self._columns(a + 1, b - a)
                for node in self._nodes(i):
                    there = self._holders(g, node)[at]
                    self.use[0, g, at] += int(self.q.node_size[node]) * (there == 0)
                    there += 1

    # ------------------------------------------------------------------ what fits

    def _called(self, i: int, first: int, count: int) -> Flags:
        """At which of so many ends from ``first`` on the tool of a request is free."""
        tool, rounds = int(self.q.tool[i]), int(self.q.tool_rounds[i])
        if tool < 0:
            return np.ones(count, np.bool_)
        at = self._columns(first + 1, count - 1 + rounds)
        return _free(self.calls[tool, at] >= int(self.q.tool_capacity[tool]), rounds)

    def _open(self, i: int, g: int, first: int, count: int, memory: Ints, tokens: Ints) -> Flags:
        """Which of so many starts from ``first`` on leave room for a profile on an instance.

        Batch places and tokens are taken in the last ``len(tokens)`` rounds of the profile.
        """
        rounds, rest = len(memory), len(memory) - len(tokens)
        ok = np.ones(count, np.bool_)
        at = self._columns(first + 1, count - 1 + rounds)
        capacity, batch, budget = (limit[g] for limit in self.limits)
        if rounds and capacity < UNLIMITED:
            ok &= (sliding_window_view(self._taken(i, g, at), rounds) <= capacity - memory).all(1)
        if len(tokens) and batch < UNLIMITED:
            ok &= _free(self.use[1, g, at][rest:] >= batch, len(tokens))
        if len(tokens) and budget < UNLIMITED:
            held = sliding_window_view(self.use[2, g, at][rest:], len(tokens))
            ok &= (held <= budget - tokens).all(1)
        return ok

    def _decoding(self, i: int, h: int, first: int, count: int) -> Flags:
        """When a handover to an instance may begin: its lines, and room there until the end."""
        r, sending = self.p.requests[i], self.sending[i]
        memory = np.maximum(0, np.arange(1, sending + r.output + 1) - sending)
        memory += r.prompt - self.shared[i]
        ok = self._open(i, h, first, count, memory, np.ones(r.output, np.int64))
        ok &= self._called(i, first + sending + r.output, count)
        if sending and self.most < UNLIMITED:
            at = self._columns(first + 1, count - 1 + sending)
            ok &= _free(self.lines[at] >= self.most, sending)
        return ok

    def _apart(self, i: int, g: int, first: int, count: int, rounds: int) -> Flags:
        """Starts of a prefill at which no other bucket prefills beside it."""
        if not rounds or not self.machines[g].buckets:
            return np.ones(count, np.bool_)
        there = self.bucket[g, self._columns(first + 1, count - 1 + rounds)]
        mine = bucket_of(self.p.requests[i], self.machines[g])
        return _free((there >= 0) & (there != mine), rounds)

    def _held_back(self, i: int, g: int, first: int, count: int) -> Flags:
        """Rounds ``first + 1 ...`` in which an instance cannot go on holding a whole prompt."""
        private = self.p.requests[i].prompt - self.shared[i]
        at = self._columns(first + 1, count)
        full: Flags = self._taken(i, g, at) > self.limits[0][g] - private
        return full

    # ------------------------------------------------------------------ where one fits first

    def place(self, i: int, among: Sequence[int], before: int = 2**60) -> Placed | None:
        """The way to run a request that ends first, and before a round, if any does."""
        r = self.p.requests[i]
        if r.start is not None:
            return self._running(i, among)
        before_it = self.q.preds[self.q.pred_offset[i] : self.q.pred_offset[i + 1]].tolist()
        if not all(j in self.ends for j in before_it):
            return None
        best: Placed | None = None
        self.memo = {}
        for g, h in routes(self.p, i, self._different(i, among)):
            found = self._first(i, g, h, before)
            if found is not None:
                best = self._placed(i, g, h, found)
                before = best.end
        return best

    def _different(self, i: int, among: Sequence[int]) -> list[int]:
        """The instances without all but two of those that are alike and empty."""
        allowed = self.p.requests[i].candidates
        out: list[int] = []
        alike: dict[int, int] = {}
        for g in among:
            if not allowed or g in allowed:
                count = alike.get(id(self.machines[g]), 0)
                if g not in self.touched:
                    alike[id(self.machines[g])] = count + 1
                if g in self.touched or count < 2:
                    out.append(g)
        return out

    def _remember(self, key: tuple[Any, ...], find: Callable[[], Flags]) -> Flags:
        """Flags that several routes of the request in hand ask for."""
        if key not in self.memo:
            self.memo[key] = find()
        known: Flags = self.memo[key]
        return known

    def _placed(self, i: int, g: int, h: int | None, found: Found) -> Placed:
        r = self.p.requests[i]
        start, pauses, sent = found
        ready = start + int(self.q.prefill[self.q.kind[g], i]) + sum(b - a for a, b in pauses)
        return Placed(
            request=r.id,
            instance=g,
            start=start,
            end=(ready if sent is None else sent + self.sending[i]) + r.output,
            pauses=pauses,
            decode=h,
            sent=sent,
        )

    def _running(self, i: int, among: Sequence[int]) -> Placed | None:
        """A running request goes on; without a decided handover to where it ends first."""
        r, q = self.p.requests[i], self.q
        assert r.start is not None
        assert r.instance is not None
        if r.sent is not None:
            return self._placed(i, r.instance, r.decode, (r.start, r.pauses, r.sent))
        ready, sending = ready_of(q, i), self.sending[i]
        best: Placed | None = None
        others = [g for g in among if g != r.instance]
        for g, h in routes(self.p, i, [r.instance, *others]):
            if g != r.instance:
                continue
            if h is None:
                stays = ready + 1 - self.origin > len(self.lines) or bool(
                    self._open(
                        i, g, ready, 1,
                        r.prompt - self.shared[i] + np.arange(1, r.output + 1),
                        np.ones(r.output, np.int64),
                    )[0]
                )  # fmt: skip
                if stays:
                    return self._placed(i, g, None, (r.start, r.pauses, None))
                continue
            first = max(ready, r.arrival)
            count = max(1, self.horizon - first)
            for k in np.flatnonzero(self._decoding(i, h, first, count)).tolist():
                held = self._held_back(i, g, ready, first + k + sending - ready)
                if held.any():
                    break
                one = self._placed(i, g, h, (r.start, r.pauses, first + k))
                if best is None or one.end < best.end:
                    best = one
                break
        return best

    def holds_alone(self, i: int, g: int, h: int | None) -> bool:
        """Whether a request fits on these instances with nobody beside it."""
        q, r = self.q, self.p.requests[i]
        c, d = int(q.kind[g]), g if h is None else h
        if r.candidates and not {g, d} <= set(r.candidates):
            return False
        prompt, rounds = r.prompt, int(q.prefill[c, i])
        tokens = min(prompt, self.machines[g].prefill_chunk or 0)
        if rounds and (prompt > self.limits[0][g] or tokens > self.limits[2][g]):
            return False
        if prompt + r.output > self.limits[0][d] or min(self.limits[1][g], self.limits[1][d]) < 1:
            return False
        return not r.output or self.limits[2][d] >= 1

    def _first(self, i: int, g: int, h: int | None, before: int) -> Found | None:
        """The way over these instances that ends first, if it ends before a round."""
        q, r = self.q, self.p.requests[i]
        rounds = int(q.prefill[q.kind[g], i])
        rest = rounds + r.output + (0 if h is None else self.sending[i])
        if not self.holds_alone(i, g, h):
            return None
        pausing = self.machines[g].interruptible and rounds > 1
        search = self._pausing if pausing else self._whole
        span, first = SPAN, self.earliest(i)
        while True:
            if first + rest >= before:
                return None
            count = max(1, min(span, self.horizon - first))
            found = search(i, g, h, first, count)
            if found is not None:
                return found if self._placed(i, g, h, found).end < before else None
            if count < span or first + span + rest >= before:
                return None
            span *= 4

    def _whole(self, i: int, g: int, h: int | None, first: int, count: int) -> Found | None:
        """Prefills in one piece, from the first ``count`` starts."""
        q = self.q
        a, b = (int(q.offset[q.kind[g], i + k]) for k in (0, 1))
        rounds = int(q.prefill[q.kind[g], i])
        stop = b if h is None else a + rounds

        def opens() -> Flags:
            there = self._open(i, g, first, count, q.memory[a:stop], q.tokens[a:stop])
            return there & self._apart(i, g, first, count, rounds)

        ok = self._remember(("open", g, stop, count), opens)
        if h is None:
            ok = ok & self._called(i, first + b - a, count)
        if not ok.any():
            return None
        if h is None:
            return first + int(ok.argmax()), (), None
        ready, sending = first + rounds, self.sending[i]
        each = np.arange(count)
        # The latest prefill before a handover waits least, so it fits if any does.
        latest = np.maximum.accumulate(np.where(ok, each, -1))
        held = self._remember(
            ("held", g, ready, count),
            lambda: self._held_back(i, g, ready, count - 1 + sending),
        )
        blocked = np.where(held, np.arange(1, len(held) + 1), 0)
        since = np.concatenate([[0], np.maximum.accumulate(blocked)])[each + sending]
        decoding = self._remember(
            ("decode", h, ready, count), lambda: self._decoding(i, h, ready, count)
        )
        good = decoding & (latest >= since) & (latest >= 0)
        k = int(good.argmax())
        return (first + int(latest[k]), (), ready + k) if good[k] else None

    def _pausing(self, i: int, g: int, h: int | None, first: int, count: int) -> Found | None:
        """Interruptible prefills: a chunk in every round that has room, from the first start on."""
        q, r = self.q, self.p.requests[i]
        sending = self.sending[i]
        a, b = (int(q.offset[q.kind[g], i + k]) for k in (0, 1))
        rounds = int(q.prefill[q.kind[g], i])
        width = count + rounds + SPAN
        at = self._columns(first + 1, width)
        other = np.zeros(width, np.bool_)
        if self.machines[g].buckets:
            there = self.bucket[g, at]
            other = (there >= 0) & (there != bucket_of(r, self.machines[g]))
        capacity, batch, budget = (limit[g] for limit in self.limits)
        room = (capacity - self._taken(i, g, at)).tolist()
        seat = ((self.use[1, g, at] < batch) & ~other).tolist()
        left = (budget - self.use[2, g, at]).tolist()
        memory, tokens = q.memory[a : a + rounds].tolist(), q.tokens[a : a + rounds].tolist()
        ready = first + rounds
        if h is None:
            good = self._open(i, g, ready, width - rounds, q.memory[a + rounds : b],
                              q.tokens[a + rounds : b])  # fmt: skip
            good &= self._called(i, ready + b - a - rounds, width - rounds)
        else:
            good = self._decoding(i, h, ready, width - rounds)
            full = np.flatnonzero(self._held_back(i, g, ready, width - rounds + sending)) + 1
        begins = np.flatnonzero(good)
        for begin in range(count):
            done, t = 0, begin
            pauses: list[tuple[int, int]] = []
            while done < rounds and t < width:
                if memory[done] <= room[t] and seat[t] and tokens[done] <= left[t]:
                    done += 1
                elif not done or memory[done - 1] > room[t]:
                    break
                elif pauses and pauses[-1][1] == first + t:
                    pauses[-1] = (pauses[-1][0], first + t + 1)
                else:
                    pauses.append((first + t, first + t + 1))
                t += 1
            k = t - rounds
            if done < rounds or (h is None and not (k < len(good) and good[k])):
                continue
            if h is None:
                return first + begin, tuple(pauses), None
            spot = int(np.searchsorted(begins, k))
            if spot == len(begins):
                continue
            wall = int(np.searchsorted(full, k, side="right"))
            if wall == len(full) or int(begins[spot]) + sending < full[wall]:
                return first + begin, tuple(pauses), ready + int(begins[spot])
        return None


def _free(taken: Flags, rounds: int) -> Flags:
    """Whether each window of so many rounds has no taken one."""
    sums = np.concatenate([[0], np.cumsum(taken)])
    clear: Flags = sums[rounds:] == sums[:-rounds]
    return clear
