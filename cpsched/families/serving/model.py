"""The CP-SAT model of the admission and capacity questions: time-indexed, linear throughout.

One Boolean per request, machine and start. A cumulative gives CP-SAT no bound on latencies; these
rows do, and growing memory needs no further variables. Constraints carry the checker's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core.exact import Built
from cpsched.families.serving.prepare import UNLIMITED, Prepared, arrays_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from ortools.sat.python.cp_model import CpModel

    from cpsched.core.clock import Clock
    from cpsched.core.run import Run

    Ints = NDArray[np.int64]

#: Possible starts of every request: by machine, an array of rounds.
Options = list[dict[int, "Ints"]]

#: Models with more terms than this are not built.
LARGEST_MODEL = 500_000


def full_horizon(q: Prepared) -> int:
    """A round by which some schedule ends, if there is any: everything one after the other."""
    last = int(q.release.max(initial=0))
    work = int(q.length.max(axis=0).sum()) + int(q.gap.sum()) + int(q.tool_rounds.sum())
    horizon = last + work
    if q.problem.slo_percent is not None and q.misses == 0:
        horizon = min(horizon, int(q.end_by.max(initial=0)))
    return horizon


def options_until(q: Prepared, horizon: int) -> Options:
    """Every start that ends by the horizon, on every allowed machine."""
    out: Options = []
    for i in range(q.n):
        mine: dict[int, Ints] = {}
        if q.fixed_machine[i] >= 0:
            mine[int(q.fixed_machine[i])] = q.fixed_start[i : i + 1]
        else:
            for g in range(q.machines):
                if q.allowed is None or q.allowed[i, g]:
                    last = horizon - int(q.length[q.kind[g], i])
                    mine[g] = np.arange(int(q.release[i]), last + 1)
        out.append(mine)
    return out


def size_until(q: Prepared, horizon: int) -> int:
    """Terms of the model over `options_until` that horizon, without making them."""
    rounds = q.length[q.kind]
    starts = np.maximum(0, horizon - rounds - q.release + 1)
    if q.allowed is not None:
        starts = starts * q.allowed.T
    return int((starts.astype(np.float64) * (3 + rounds)).sum())


def size_of(q: Prepared, options: Options) -> int:
    """Terms of the model over these options."""
    return sum(
        len(starts) * (3 + int(q.length[q.kind[g], i]))
        for i, mine in enumerate(options)
        for g, starts in mine.items()
    )


class _Builder:
    """The model while it is being built: Booleans, and rows of terms by resource and round."""

    def __init__(self, q: Prepared, options: Options, clock: Clock) -> None:
        from ortools.sat.python import cp_model

        self.cp_model = cp_model
        self.q, self.clock = q, clock
        self.model: CpModel = cp_model.CpModel()
        #: By request: (machine, start, Boolean); a Boolean of None is a certainty.
        self.places: list[list[tuple[int, int, Any]]] = []
        self.rows: dict[tuple[str, int, int], tuple[list[Any], list[int], int]] = {}
        model = self.model
        for mine in options:
            clock.check()
            count = sum(len(s) for s in mine.values())
            sure = count == 1 and not q.problem.reject
            self.places.append(
                [
                    (g, int(s), None if sure else model.new_bool_var(""))
                    for g, starts in mine.items()
                    for s in starts.tolist()
                ]
            )

    def use(self, rule: str, where: int, time: int, literal: Any, amount: int) -> None:
        terms, coefficients, constant = self.rows.setdefault((rule, where, time), ([], [], 0))
        if literal is None:
            self.rows[rule, where, time] = (terms, coefficients, constant + amount)
        else:
            terms.append(literal)
            coefficients.append(amount)

    def request(self) -> None:
        """Everyone starts once (at most once when requests may be left out)."""
        for places in self.places:
            literals = [x for _, _, x in places if x is not None]
            if self.q.problem.reject:
                self.model.add_at_most_one(literals)
            elif literals or not places:
                self.model.add_exactly_one(literals)

    def capacity(self) -> None:
        """Memory, batch and token rows of every machine and round."""
        q = self.q
        for i, places in enumerate(self.places):
            self.clock.check()
            for g, s, x in places:
                a, b = (int(q.offset[q.kind[g], i + k]) for k in (0, 1))
                if q.capacity[g] < UNLIMITED:
                    for k, units in enumerate(q.memory[a:b].tolist(), 1):
                        self.use("capacity", g, s + k, x, units)
                if q.max_batch[g] < UNLIMITED:
                    for k in range(1, b - a + 1):
                        self.use("max_batch", g, s + k, x, 1)
                if q.budget[g] < UNLIMITED:
                    for k, units in enumerate(q.tokens[a:b].tolist(), 1):
                        self.use("token_budget", g, s + k, x, units)
                if q.tool[i] >= 0:
                    for k in range(1, int(q.tool_rounds[i]) + 1):
                        self.use("tool_capacity", int(q.tool[i]), s + b - a + k, x, 1)

    def prefix(self) -> None:
        """A shared block is held in a round when one of its users is active in it."""
        q = self.q
        if not len(q.nodes):
            return
        users: dict[tuple[int, int, int], list[list[Any]]] = {}
        for i, places in enumerate(self.places):
            self.clock.check()
            mine: dict[tuple[int, int], list[Any]] = {}
            for g, s, x in places:
                if q.capacity[g] < UNLIMITED:
                    for k in range(1, int(q.length[q.kind[g], i]) + 1):
                        mine.setdefault((g, s + k), []).append(x)
            for node in q.nodes[q.node_offset[i] : q.node_offset[i + 1]].tolist():
                for (g, t), literals in mine.items():
                    users.setdefault((g, node, t), []).append(literals)
        for (g, node, t), groups in users.items():
            size = int(q.node_size[node])
            if any(x is None for literals in groups for x in literals):
                self.use("capacity", g, t, None, size)
                continue
            held = self.model.new_bool_var("")
            for literals in groups:
                self.model.add(sum(literals) <= held)
            self.use("capacity", g, t, held, size)

    def limits(self) -> None:
        """The rows themselves."""
        q = self.q
        table = {
            "capacity": q.capacity,
            "max_batch": q.max_batch,
            "token_budget": q.budget,
            "tool_capacity": q.tool_capacity,
        }
        weighted = self.cp_model.LinearExpr.weighted_sum
        for (rule, where, _), (terms, coefficients, constant) in self.rows.items():
            self.clock.check()
            limit = int(table[rule][where]) - constant
            if limit < 0:
                self.model.add_bool_or([])
            elif sum(coefficients) > limit:
                self.model.add(weighted(terms, coefficients) <= limit)

    def end(self, i: int) -> Any:
        """End of a request, an expression."""
        return self.sum_over(i, lambda g, s: s + int(self.q.length[self.q.kind[g], i]))

    def sum_over(self, i: int, value: Any) -> Any:
        """Sum of a value of (machine, start) over the chosen place."""
        places = self.places[i]
        if len(places) == 1 and places[0][2] is None:
            return value(places[0][0], places[0][1])
        return self.cp_model.LinearExpr.weighted_sum(
            [x for _, _, x in places], [value(g, s) for g, s, _ in places]
        )

    def precedence(self) -> None:
        """Starts wait for the ends before them, and for the gap."""
        q = self.q
        for i in range(q.n):
            for j in q.preds[q.pred_offset[i] : q.pred_offset[i + 1]].tolist():
                start = self.sum_over(i, lambda g, s: s)
                before = self.end(j) + int(q.gap[i])
                if not q.problem.reject:
                    self.model.add(before <= start)
                    continue
                present = self.sum_over(i, lambda g, s: 1)
                self.model.add(self.sum_over(j, lambda g, s: 1) >= present)
                self.model.add(before <= start + full_horizon(q) * (1 - present))

    def on_time(self, i: int) -> Any:
        """Whether a request meets its SLO, an expression."""
        q = self.q

        def met(g: int, s: int) -> int:
            c = int(q.kind[g])
            first = s + int(q.prefill[c, i]) + min(1, int(q.output[i]))
            return int(first <= q.first_by[i] and s + q.length[c, i] <= q.end_by[i])

        return self.sum_over(i, met)

    def slo(self) -> None:
        """Enough requests meet their SLO."""
        if self.q.problem.slo_percent is not None:
            self.model.add(
                sum(self.on_time(i) for i in range(self.q.n)) >= self.q.n - self.q.misses
            )

    def value(self, name: str) -> Any:
        """The objective as an expression."""
        q = self.q
        if name in ("total_latency", "weighted_latency"):
            weight = q.weighing(name).weight
            return sum(
                int(weight[i])
                * self.sum_over(
                    i,
                    lambda g, s, i=i, a=r.arrival: s + int(q.length[q.kind[g], i]) - a,
                )
                for i, r in enumerate(q.problem.requests)
            )
        if name == "makespan":
            top = self.model.new_int_var(0, full_horizon(q), "makespan")
            for i in range(q.n):
                self.model.add(self.end(i) <= top)
            return top
        if name == "goodput":
            return sum(int(q.weight[i]) * self.on_time(i) for i in range(q.n))
        used = [self.model.new_bool_var("") for _ in range(q.machines)]
        for places in self.places:
            for g in {g for g, _, _ in places}:
                here = [x for h, _, x in places if h == g]
                # One request may be here at several starts, but only once.
                certain = any(x is None for x in here)
                self.model.add(used[g] == 1 if certain else sum(here) <= used[g])
        for g in range(1, q.machines):
            if q.problem.machines[g] is q.problem.machines[g - 1] and q.allowed is None:
                self.model.add(used[g] <= used[g - 1])
        prices = [m.price if name == "cost" else 1 for m in q.problem.machines]
        return sum(p * u for p, u in zip(prices, used, strict=True))


def build(q: Prepared, run: Run, level: int, options: Options, *, better: bool = False) -> Built:
    """The model over the given options for one level of the run's objectives.

    Parameters
    ----------
    better
        Demand a strictly better value than the incumbent's at this level.
    """
    b = _Builder(q, options, run.clock)
    b.request()
    b.capacity()
    b.prefix()
    b.limits()
    b.precedence()
    b.slo()
    strict = False
    for k, objective in enumerate(run.objectives[: level + 1]):
        expression = b.value(objective.name)
        if k < level:
            assert run.incumbent is not None
            value = int(run.incumbent.values[k])
            b.model.add(expression >= value if objective.maximise else expression <= value)
            continue
        if better and run.incumbent is not None:
            value = int(run.incumbent.values[k])
            b.model.add(expression > value if objective.maximise else expression < value)
            strict = True
        if objective.maximise:
            b.model.maximize(expression)
        else:
            b.model.minimize(expression)
    if run.incumbent is not None and not strict:
        start, machine = arrays_of(run.incumbent.schedule, q)
        for i, places in enumerate(b.places):
            for g, s, x in places:
                if x is not None:
                    b.model.add_hint(x, g == machine[i] and s == start[i])

    def extract(values: list[int]) -> Any:
        start = np.zeros(q.n, np.int64)
        machine = np.full(q.n, -1, np.int64)
        for i, places in enumerate(b.places):
            for g, s, x in places:
                if x is None or values[x.index]:
                    start[i], machine[i] = s, g
        return q.schedule(start, machine)

    return Built(b.model, extract, strict=strict, parameters={"linearization_level": 2})


def around(
    q: Prepared, start: Ints, machine: Ints, free: Sequence[int], reach: int, horizon: int
) -> Options:
    """Options in which only the free requests move, by at most ``reach`` rounds."""
    out: Options = [
        {int(g): np.array([s])} if g >= 0 else {} for s, g in zip(start, machine, strict=True)
    ]
    for i in free:
        mine: dict[int, Ints] = {}
        centre = int(start[i]) if machine[i] >= 0 else int(q.release[i])
        for g in range(q.machines):
            if q.allowed is None or q.allowed[i, g]:
                first = max(int(q.release[i]), centre - reach)
                last = min(centre + reach, horizon - int(q.length[q.kind[g], i]))
                if last >= first:
                    mine[g] = np.arange(first, last + 1)
        if mine:
            out[i] = mine
    return out
