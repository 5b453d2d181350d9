"""The exact model of staged admissions: every way to run a request, and chunks round by round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import exact
from cpsched.errors import OutOfTime
from cpsched.families.serving import staged_board
from cpsched.families.serving.check import meets_slo
from cpsched.families.serving.pieces import (
    bucket_of,
    holding,
    prefill_rounds,
    shared_units,
    staged_pieces,
    transfer_rounds,
    working,
)
from cpsched.families.serving.prepare import Prepared
from cpsched.families.serving.problem import Placed, ServingSchedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cpsched.core.run import Run

#: Ways and terms up to which the model is built.
MOST_WAYS, LARGEST_MODEL = 60_000, 1_500_000


def horizon_of(q: Prepared, run: Run, level: int) -> int:
    """A round by which an optimal schedule ends: no longer than one request after the other."""
    p = q.problem
    most = staged_board.latest_end(q)
    if run.incumbent is None or level > 0 or p.reject:
        return most
    name, value = run.objectives[0].name, run.incumbent.values[0]
    if name == "makespan":
        return min(most, int(value))
    if name in ("total_latency", "weighted_latency") and (q.weight > 0).all():
        weight = q.weighing(name).weight
        least = q.earliest
        arrival = np.array([r.arrival for r in p.requests])
        spare = int(value) - int((weight * (least - arrival)).sum())
        return min(most, int((least + spare // weight).max()))
    return most


class _Model:
    def __init__(self, q: Prepared, run: Run, level: int) -> None:
        from ortools.sat.python import cp_model

        self.q, self.run = q, run
        self.model = cp_model.CpModel()
        self.weighted = cp_model.LinearExpr.weighted_sum
        self.sum_of = cp_model.LinearExpr.sum
        self.horizon = horizon_of(q, run, level)
        self.rows: dict[tuple[str, int, int], tuple[list[Any], list[int]]] = {}
        self.buckets: dict[tuple[int, int], dict[int, Any]] = {}
        self.ways: list[list[tuple[Placed, Any]]] = []
        self.works: dict[tuple[int, int], dict[int, Any]] = {}
        self.terms = 0
        self.shared = shared_units(q.problem)
        self.nodes = [q.nodes[q.node_offset[i] : q.node_offset[i + 1]].tolist() for i in range(q.n)]
        #: Whether a prefix node is on an instance in a round, by (instance, node, round).
        self.held: dict[tuple[int, int, int], Any] = {}
        for i in range(q.n):
            self._request(i)

    def _use(self, rule: str, g: int, t: int, literal: Any, amount: int) -> None:
        terms, amounts = self.rows.setdefault((rule, g, t), ([], []))
        terms.append(literal)
        amounts.append(amount)
        self.terms += 1
        if not self.terms % 4096:
            self.run.clock.check()
        if self.terms > LARGEST_MODEL:
            raise OutOfTime("the model is too large")

    def _request(self, i: int) -> None:
        p = self.q.problem
        r = p.requests[i]
        mine: list[tuple[Placed, Any]] = []
        by_prefill: dict[int, dict[int, list[Any]]] = {}
        for g, h in staged_board.routes(p, i, range(len(p.machines))):
            rounds = prefill_rounds(r, p.machines[g])
            sending = 0 if h is None else transfer_rounds(p, r.prompt)
            if r.start is not None:
                if g == r.instance:
                    mine += self._running(i, g, h, sending)
                continue
            for ready in range(r.arrival + rounds, self.horizon + 1):
                last = self.horizon - sending - r.output
                for sent in range(ready, (last if h is not None else min(last, ready)) + 1):
                    x = self.model.new_bool_var("")
                    one = Placed(
                        request=r.id,
                        instance=g,
                        start=ready - rounds,
                        end=sent + sending + r.output,
                        decode=h,
                        sent=None if h is None else sent,
                    )
                    mine.append((one, x))
                    by_prefill.setdefault(g, {}).setdefault(ready, []).append(x)
                    self._way(i, one, x, rounds)
            if len(mine) > MOST_WAYS:
                raise OutOfTime("the model is too large")
        literals = [x for _, x in mine]
        if p.reject:
            self.model.add_at_most_one(literals)
        else:
            self.model.add_exactly_one(literals)
        self.ways.append(mine)
        for g, ends in by_prefill.items():
            if p.machines[g].interruptible and prefill_rounds(r, p.machines[g]):
                self._chunks(i, g, ends)

    def _running(self, i: int, g: int, h: int | None, sending: int) -> list[tuple[Placed, Any]]:
        """What is left open of a running request: when and where it is handed over."""
        p = self.q.problem
        r = p.requests[i]
        ready = staged_board.ready_of(self.q, i)
        sents: Any = range(max(ready, r.arrival), self.horizon + 1)
        if r.sent is not None:
            sents = [r.sent] if h == r.decode else []
        elif h is None:
            sents = [ready]
        out = []
        for sent in sents:
            x = self.model.new_bool_var("")
            one = Placed(
                request=r.id,
                instance=g,
                start=r.start or 0,
                end=sent + sending + r.output,
                pauses=r.pauses,
                decode=h,
                sent=None if h is None else sent,
            )
            out.append((one, x))
            self._way(i, one, x, None)
        return out

    def _way(self, i: int, one: Placed, x: Any, rounds: int | None) -> None:
        """What a way uses; ``rounds`` of a prefill whose chunks may be free, None if fixed."""
        p = self.q.problem
        r, machine = p.requests[i], p.machines[one.instance]
        free = machine.interruptible and rounds is not None
        ready = one.start + (rounds or 0)
        for t in range(one.end + 1, one.end + 1 + (r.tool_rounds if self.q.tool[i] >= 0 else 0)):
            self._use("tool_capacity", int(self.q.tool[i]), t, x, 1)
        for g in {one.instance, one.instance if one.decode is None else one.decode}:
            for a, b in holding(r, g, one) if self.nodes[i] else ():
                # Where the chunks are free, `_chunks` says from when on the blocks are held.
                for t in range((ready if free and g == one.instance else a) + 1, b + 1):
                    self._hold(i, g, t, [x])
            for rule, used in staged_pieces(machine, r, g, one, self.shared[r.id]).items():
                for a, b, base, slope in used:
                    for k in range(1, b - a + 1):
                        # The chunks of an interruptible prefill have variables of their own.
                        if not (free and g == one.instance and a + k <= ready):
                            self._use(rule, g, a + k, x, base + slope * k)
        if one.sent is not None:
            for t in range(one.sent + 1, one.sent + transfer_rounds(p, r.prompt) + 1):
                self._use("network", 0, t, x, 1)
        if machine.buckets and not free:
            for a, b in working(one, prefill_rounds(r, machine)):
                for t in range(a + 1, b + 1):
                    self.model.add_implication(x, self._bucket(i, one.instance, t))

    def _hold(self, i: int, g: int, t: int, plus: list[Any], minus: Sequence[Any] = ()) -> None:
        """The prefix of a request is on an instance in a round if ``plus`` less ``minus`` is 1."""
        for node in self.nodes[i]:
            key = (g, node, t)
            if key not in self.held:
                self.held[key] = self.model.new_bool_var("")
                self._use("capacity", g, t, self.held[key], int(self.q.node_size[node]))
            self.terms += len(plus) + len(minus)
            self.model.add(self.sum_of(plus) - self.sum_of(list(minus)) <= self.held[key])

    def _bucket(self, i: int, g: int, t: int) -> Any:
        p = self.q.problem
        there = self.buckets.setdefault((g, t), {})
        number = bucket_of(p.requests[i], p.machines[g])
        if number not in there:
            there[number] = self.model.new_bool_var("")
        return there[number]

    def _chunks(self, i: int, g: int, ends: dict[int, list[Any]]) -> None:
        """Rounds in which an interruptible prefill works: a last one where its way says so."""
        p = self.q.problem
        r, machine = p.requests[i], p.machines[g]
        chunk = machine.prefill_chunk or 1
        rounds = prefill_rounds(r, machine)
        work = {
            t: self.model.new_bool_var("") for t in range(r.arrival + 1, max(ends, default=0) + 1)
        }
        self.works[i, g] = work
        every = [x for group in ends.values() for x in group]
        self.model.add(self.sum_of(list(work.values())) == rounds * self.sum_of(every))
        over: list[Any] = []
        private = r.prompt - self.shared[r.id]
        for t, w in work.items():
            now = ends.get(t, [])
            later = [x for end, group in ends.items() if end >= t for x in group]
            self.model.add(w <= self.sum_of(later))
            if now:
                self.model.add(self.sum_of(now) <= w)
            earlier = [one for u, one in work.items() if u <= t]
            if self.nodes[i]:
                self._private(g, t, earlier, over, chunk, rounds, private)
                for begun in earlier:
                    self._hold(i, g, t, [begun], over)
            over += now
            if not self.nodes[i]:
                for begun in earlier:
                    self._use("capacity", g, t, begun, chunk)
                for x in over:
                    self._use("capacity", g, t, x, -chunk * rounds)
                for x in now:
                    self._use("capacity", g, t, x, r.prompt)
            self._use("max_batch", g, t, w, 1)
            self._use("token_budget", g, t, w, chunk)
            for x in now:
                self._use("token_budget", g, t, x, r.prompt - chunk * rounds)
            if machine.buckets:
                self.model.add_implication(w, self._bucket(i, g, t))

    def _private(
        self,
        g: int,
        t: int,
        earlier: list[Any],
        over: list[Any],
        chunk: int,
        rounds: int,
        private: int,
    ) -> None:
        """What an unfinished prefill holds beside its prefix: its chunks, at most all of it."""
        units = self.model.new_int_var(0, private, "")
        full = self.model.new_bool_var("")
        filled = chunk * self.sum_of(earlier) - chunk * rounds * self.sum_of(over)
        self.model.add(units >= filled).only_enforce_if(full.Not())
        self.model.add(units == private).only_enforce_if(full)
        self._use("capacity", g, t, units, 1)

    def precedence(self) -> None:
        """Starts wait for the ends before them, and for the gap."""
        q, p = self.q, self.q.problem
        for i in range(q.n):
            before = q.preds[q.pred_offset[i] : q.pred_offset[i + 1]].tolist()
            if not before:
                continue
            latest = self.horizon + int(q.gap[i])
            start = self.model.new_int_var(int(q.release.min()), latest, "")
            for one, x in self.ways[i]:
                free = p.machines[one.instance].interruptible and p.requests[i].start is None
                if not (free and (i, one.instance) in self.works):
                    self.model.add(start <= one.start).only_enforce_if(x)
            for g in range(q.machines):
                for t, w in self.works.get((i, g), {}).items():
                    self.model.add(start <= t - 1).only_enforce_if(w)
            mine = self.sum_of([x for _, x in self.ways[i]])
            for j in before:
                if p.reject:
                    self.model.add(self.sum_of([x for _, x in self.ways[j]]) >= mine)
                for one, x in self.ways[j]:
                    self.model.add(start >= one.end + int(q.gap[i])).only_enforce_if(x)

    def limits(self) -> None:
        """The limits of instances, network, tools and buckets."""
        p = self.q.problem
        for (rule, g, _), (terms, amounts) in self.rows.items():
            self.run.clock.check()
            limit = (
                (None if p.network is None else p.network.transfers)
                if rule == "network"
                else p.tools[g].capacity
                if rule == "tool_capacity"
                else getattr(p.machines[g], rule)
            )
            if limit is not None:
                self.model.add(self.weighted(terms, amounts) <= limit)
        for there in self.buckets.values():
            self.model.add_at_most_one(list(there.values()))

    def on_time(self, i: int) -> Any:
        """Whether a request meets its SLO."""
        r = self.q.problem.requests[i]
        return self.sum_of([x for one, x in self.ways[i] if meets_slo(r, one)])

    def value(self, name: str) -> Any:
        """An objective."""
        q, p = self.q, self.q.problem
        if name in ("total_latency", "weighted_latency"):
            weight = q.weighing(name).weight
            return sum(
                self.weighted(
                    [x for _, x in mine], [int(w) * (one.end - r.arrival) for one, _ in mine]
                )
                for r, w, mine in zip(p.requests, weight, self.ways, strict=True)
            )
        if name == "makespan":
            top = self.model.new_int_var(0, self.horizon, "makespan")
            for mine in self.ways:
                self.model.add(self.weighted([x for _, x in mine], [o.end for o, _ in mine]) <= top)
            return top
        if name == "goodput":
            return sum(int(q.weight[i]) * self.on_time(i) for i in range(q.n))
        used = [self.model.new_bool_var("") for _ in p.machines]
        for mine in self.ways:
            for g, literal in enumerate(used):
                here = [x for one, x in mine if g in (one.instance, one.decode)]
                if here:
                    self.model.add(self.sum_of(here) <= literal)
        prices = [m.price if name == "cost" else 1 for m in p.machines]
        return self.weighted(used, prices)

    def extract(self, values: list[int]) -> ServingSchedule:
        """The schedule of a solution."""
        p = self.q.problem
        out = []
        for i, mine in enumerate(self.ways):
            for one, x in mine:
                if not values[x.index]:
                    continue
                work = self.works.get((i, one.instance))
                if work is not None:
                    rounds = [t for t, w in work.items() if values[w.index]]
                    gaps = np.flatnonzero(np.diff(rounds) > 1)
                    pauses = tuple((rounds[k], rounds[k + 1] - 1) for k in gaps)
                    one = one.model_copy(update={"start": rounds[0] - 1, "pauses": pauses})
                out.append(one)
        assert len(out) <= len(p.requests)
        return ServingSchedule(requests=tuple(out))


def solve(q: Prepared, run: Run) -> None:
    """Solve small problems exactly."""

    def build(level: int) -> exact.Built:
        b = _Model(q, run, level)
        b.precedence()
        b.limits()
        if q.problem.slo_percent is not None:
            on_time = [b.on_time(i) for i in range(q.n)]
            b.model.add(sum(on_time) >= q.n - q.misses)
        for k, objective in enumerate(run.objectives[: level + 1]):
            expression = b.value(objective.name)
            if k < level:
                assert run.incumbent is not None
                value = int(run.incumbent.values[k])
                b.model.add(expression >= value if objective.maximise else expression <= value)
            elif objective.maximise:
                b.model.maximize(expression)
            else:
                b.model.minimize(expression)
        if run.incumbent is not None:
            known = {
                (o.request, o.instance, o.end, o.decode, o.sent)
                for o in run.incumbent.schedule.requests
            }
            for mine in b.ways:
                for o, x in mine:
                    key = (o.request, o.instance, o.end, o.decode, o.sent)
                    b.model.add_hint(x, key in known)
        return exact.Built(b.model, b.extract, parameters={"linearization_level": 2})

    if q.n * q.machines**2 * horizon_of(q, run, 0) > MOST_WAYS:
        return
    try:
        exact.solve_levels(run, build)
    except OutOfTime:
        return
