"""The CP-SAT model of an instance: one function per constraint, named as in the schema.

Tasks with one mode and no rest are intervals of fixed size; tasks with several modes choose one
optional interval per mode. `build` posts everything and returns what `core.exact` solves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from ortools.sat.python import cp_model

from cpsched.core.exact import Built
from cpsched.families.rcpsp.prepare import FAR, Instance
from cpsched.families.rcpsp.problem import RcpspSchedule
from cpsched.families.rcpsp.profile import Span, rests_by_start
from cpsched.families.rcpsp.schedule import State, max_end, schedule_of, state_of

if TYPE_CHECKING:
    from cpsched.core.run import Run

Var = cp_model.IntVar
Expr = Any  # an affine expression, a variable or a constant
Literal = Any  # a Boolean variable, or its negation


class Model:
    """Variables of an instance, shared by the functions that post constraints.

    Attributes
    ----------
    start, end
        One expression per task.
    present
        Literal per task; None for tasks that are always present.
    chosen
        ``{mode: literal}`` per task with more than one usable mode; the literal of a task's only
        mode is its presence.
    limit
        No task ends later.
    """

    def __init__(self, instance: Instance, run: Run, limit: int) -> None:
        self.instance, self.run, self.limit = instance, run, limit
        self.cp = cp_model.CpModel()
        self.start: list[Var] = []
        self.end: list[Expr] = []
        self.present: list[Literal | None] = []
        self.chosen: list[dict[int, Literal | None]] = []
        self.interval: list[dict[int, Any]] = []
        self._hints: list[tuple[Var, Callable[[State], int]]] = []
        self.makespan: Var | None = None
        self.afterwards: Any = None
        self.setup_costs: list[tuple[int, Literal]] = []
        self._kept: dict[tuple[int, int], Any] = {}
        self.overlaps: dict[tuple[int, int], Any] = {}

    def add_makespan(self, lower: int) -> None:
        """The end of the last task, and the time after it in which nothing is available."""
        inst = self.instance
        makespan = self.integer(lower, max(lower, self.limit), "makespan", max_end)
        self.makespan = makespan
        end = self.limit + 1
        size = self.integer(1, end, "", lambda s: end - max_end(s))
        self.afterwards = self.cp.new_interval_var(self.makespan, size, end, "afterwards")
        followed = np.zeros(inst.n, bool)
        forward = (inst.edges[:, 2] == 0) & (inst.edges[:, 3] >= 0)
        forward &= ~inst.optional[inst.edges[:, 1]]
        followed[inst.edges[forward, 0]] = True
        for i in np.flatnonzero(~followed).tolist():
            self.enforced(self.cp.add(makespan >= self.end[i]), self.present[i])

    # ------------------------------------------------------------------ variables

    def integer(
        self, low: int, high: int, name: str, value: Callable[[State], int] | None = None
    ) -> Var:
        """A new integer variable, with its value in a known schedule."""
        var = self.cp.new_int_var(low, high, name)
        if value is not None:
            self._hints.append((var, value))
        return var

    def boolean(self, name: str, value: Callable[[State], int] | None = None) -> Var:
        """A new Boolean variable, with its value in a known schedule."""
        var = self.cp.new_bool_var(name)
        if value is not None:
            self._hints.append((var, value))
        return var

    def hint(self, state: State) -> None:
        """Hint every variable at its value in a schedule; once per model."""
        for var, value in self._hints:
            self.cp.add_hint(var, int(value(state)))

    def add_tasks(self, tail: Sequence[int]) -> None:
        """Start, end, presence, modes and intervals of every task.

        ``tail`` is the least time from each task's start to ``limit``.
        """
        inst = self.instance
        for i in range(inst.n):
            if i % 256 == 0:
                self.run.clock.check()
            modes = inst.modes(i)
            present: Literal | None = None
            if inst.optional[i]:
                present = self.boolean(f"present_{i}", is_present(i))
                if not modes:
                    self.cp.add(present == 0)
            self.present.append(present)
            shortest = min((int(inst.duration[m]) for m in modes), default=0)
            low = int(inst.head[i])
            high = min(self.limit - int(tail[i]), int(inst.deadline[i]) - shortest)
            if low > high and present is not None:
                self.cp.add(present == 0)
                high = low
            start = self._start(i, low, high)
            self.start.append(start)
            if len(modes) == 1:
                self._one_mode(i, modes[0], present)
            else:
                self._several_modes(i, modes, present)

    def _start(self, i: int, low: int, high: int) -> Var:
        if low > high:
            # An empty domain is refused by CP-SAT: a contradiction says the same.
            self.cp.add_bool_or([])
            high = low
        return self.integer(low, high, f"start_{i}", lambda s: s.start[i])

    def _one_mode(self, i: int, mode: int, present: Literal | None) -> None:
        inst = self.instance
        duration = int(inst.duration[mode])
        breaks = self._breaks_within(i, mode)
        size: Expr
        end: Expr
        self.chosen.append({mode: present})
        if breaks and inst.pausable[i]:
            size, end = self._paused(i, mode, breaks, present)
            interval = self._interval(self.start[i], size, end, present, f"task_{i}")
        else:
            size, end = duration, self.start[i] + duration
            self._avoid(i, duration, breaks, present)
            interval = self._fixed_interval(self.start[i], duration, present, f"task_{i}")
        if int(inst.deadline[i]) < FAR and breaks:
            self.enforced(self.cp.add(end <= int(inst.deadline[i])), present)
        self.end.append(end)
        self.interval.append({mode: interval})

    def _several_modes(self, i: int, modes: list[int], present: Literal | None) -> None:
        inst = self.instance
        start = self.start[i]
        lengths = [int(inst.duration[m]) for m in modes]
        literals: dict[int, Literal] = {
            m: self.boolean(f"mode_{i}_{m}", in_mode(i, m)) for m in modes
        }
        self.chosen.append(literals)
        chosen = list(literals.values())
        if present is None:
            self.cp.add_exactly_one(chosen)
        elif chosen:
            self.cp.add(cp_model.LinearExpr.sum(chosen) == present)
        rests = {m: self._breaks_within(i, m) for m in modes}
        resting = bool(inst.pausable[i]) and any(rests.values())
        intervals: dict[int, Any] = {}
        end: Expr
        if not resting and len(set(lengths)) <= 1:
            end = start + (lengths[0] if lengths else 0)
        else:
            low = int(inst.head[i]) + min(lengths, default=0)
            high = max(low, min(self.limit, int(inst.deadline[i])))
            end = self.integer(low, high, f"end_{i}", lambda s: s.end[i])
        for m, length in zip(modes, lengths, strict=True):
            literal = literals[m]
            if inst.pausable[i] and rests[m]:
                size, mode_end = self._paused(i, m, rests[m], literal)
                intervals[m] = self._interval(start, size, mode_end, literal, f"task_{i}_{m}")
                self.cp.add(end == mode_end).only_enforce_if(literal)
            else:
                self._avoid(i, length, rests[m], literal)
                intervals[m] = self._fixed_interval(start, length, literal, f"task_{i}_{m}")
                if resting:
                    self.cp.add(end == start + length).only_enforce_if(literal)
        if not resting and len(set(lengths)) > 1:
            taken = cp_model.LinearExpr.weighted_sum(chosen, lengths)
            self.enforced(self.cp.add(end == start + taken), present)
        elif int(inst.deadline[i]) < FAR:
            self.enforced(self.cp.add(end <= int(inst.deadline[i])), present)
        self.end.append(end)
        self.interval.append(intervals)

    def _breaks_within(self, i: int, mode: int) -> list[Span]:
        """The breaks that can touch a task in that mode: of the resources it holds."""
        inst = self.instance
        if not inst.duration[mode]:
            return []
        held = [r for r in np.flatnonzero(inst.demand[mode]).tolist() if inst.profiles[r]]
        if not held:
            return []
        low = int(inst.head[i])
        return [b for b in inst.breaks_of(held) if b[1] > low and b[0] < self.limit]

    def _avoid(self, i: int, duration: int, breaks: list[Span], literal: Literal | None) -> None:
        """A task that cannot pause lies between breaks."""
        if not breaks:
            return
        closed = cp_model.Domain.from_intervals([[s - duration + 1, e - 1] for s, e in breaks])
        allowed = closed.complement().intersection_with(cp_model.Domain(0, self.limit))
        self._in_domain(self.start[i], allowed, literal)

    def _paused(
        self, i: int, mode: int, breaks: list[Span], literal: Literal | None
    ) -> tuple[Var, Var]:
        """Size and end of a task that rests in breaks: one literal per total rest."""
        inst = self.instance
        start, duration = self.start[i], int(inst.duration[mode])
        by_rest: dict[int, list[list[int]]] = {}
        for first, last, rest in rests_by_start(duration, breaks, int(inst.head[i]), self.limit):
            by_rest.setdefault(rest, []).append([first, last])
        if not by_rest:
            self.enforced(self.cp.add_bool_or([]), literal)
            by_rest = {0: [[self.limit, self.limit]]}
        most = duration + max(by_rest)

        def length(s: State) -> int:
            chosen = s.mode[i] == mode
            return s.end[i] - s.start[i] if chosen else duration + min(by_rest)

        def resting(rest: int) -> Callable[[State], bool]:
            return lambda s: s.mode[i] == mode and length(s) == duration + rest

        size = self.integer(duration, most, f"size_{i}_{mode}", length)
        low = int(inst.head[i]) + duration
        end = self.integer(
            low, self.limit + most, f"end_{i}_{mode}", lambda s: s.start[i] + length(s)
        )
        if literal is None:
            self.cp.add(end <= self.limit)
        else:
            self.cp.add(end <= self.limit).only_enforce_if(literal)
        literals = []
        for rest, ranges in sorted(by_rest.items()):
            rests = self.boolean(f"rest_{i}_{mode}_{rest}", resting(rest))
            literals.append(rests)
            domain = cp_model.Domain.from_intervals(ranges)
            self.cp.add_linear_expression_in_domain(start, domain).only_enforce_if(rests)
            self.cp.add(size == duration + rest).only_enforce_if(rests)
        if literal is None:
            self.cp.add_exactly_one(literals)
        else:
            self.cp.add(cp_model.LinearExpr.sum(literals) == literal)
        return size, end

    def _fixed_interval(self, start: Expr, size: int, literal: Literal | None, name: str) -> Any:
        if literal is None:
            return self.cp.new_fixed_size_interval_var(start, size, name)
        return self.cp.new_optional_fixed_size_interval_var(start, size, literal, name)

    def _interval(
        self, start: Expr, size: Expr, end: Expr, literal: Literal | None, name: str
    ) -> Any:
        if literal is None:
            return self.cp.new_interval_var(start, size, end, name)
        return self.cp.new_optional_interval_var(start, size, end, literal, name)

    def _in_domain(self, var: Expr, domain: Any, literal: Literal | None) -> None:
        if domain.is_empty():
            self.enforced(self.cp.add_bool_or([]), literal)
        else:
            self.enforced(self.cp.add_linear_expression_in_domain(var, domain), literal)

    def presence(self, i: int) -> Literal:
        """1 for a task that is always present, else its literal."""
        present = self.present[i]
        return 1 if present is None else present

    def enforced(self, constraint: Any, *literals: Literal | None) -> None:
        """Bind a constraint only where all given literals hold."""
        given = [x for x in literals if x is not None]
        if given:
            constraint.only_enforce_if(given)

    # ------------------------------------------------------------------ resources

    def capacity(self) -> None:
        """Renewable resources: at every time the use is at most the capacity."""
        inst = self.instance
        for r in range(len(inst.capacity)):
            self.run.clock.check()
            uses = [
                (i, m, int(inst.demand[m, r]))
                for i in range(inst.n)
                for m in self.interval[i]
                if inst.demand[m, r] and inst.duration[m]
            ]
            capacity = int(inst.capacity[r])
            fixed = self._lowered(r)
            most: dict[int, int] = {}
            for i, _, units in uses:
                most[i] = max(units, most.get(i, 0))
            if sum(most.values()) <= capacity - max((p[2] for p in fixed), default=0):
                continue
            divisor = int(np.gcd.reduce([u for *_, u in uses] or [1]))
            if not fixed and divisor > 1:
                uses = [(i, m, u // divisor) for i, m, u in uses]
                capacity //= divisor
            intervals = [self.held(i, m) for i, m, _ in uses]
            demands = [u for *_, u in uses]
            intervals += [self.cp.new_fixed_size_interval_var(s, e - s, "") for s, e, _ in fixed]
            demands += [u for *_, u in fixed]
            least = sorted(demands)[:2]
            if sum(least) > capacity:
                self.cp.add_no_overlap(intervals)
                continue
            if self.afterwards is not None and not fixed:
                intervals.append(self.afterwards)
                demands.append(capacity)
            self.cp.add_cumulative(intervals, demands, capacity)

    def held(self, i: int, mode: int) -> Any:
        """The time in which a task holds its resources in a mode: `blocking` prolongs it."""
        taker = int(self.instance.blocks_until[i])
        if taker < 0:
            return self.interval[i][mode]
        if (i, mode) not in self._kept:
            start, free = self.start[i], self.start[taker]
            least = int(self.instance.duration[mode])
            size = self.integer(
                least,
                max(least, self.limit),
                f"held_{i}_{mode}",
                lambda s: max(least, s.start[taker] - s.start[i]),
            )
            literal = self.chosen[i][mode]
            self._kept[i, mode] = self._interval(start, size, free, literal, f"held_{i}_{mode}")
        return self._kept[i, mode]

    def _lowered(self, r: int) -> list[tuple[int, int, int]]:
        """Stretches (start, end, units) in which less than the largest capacity is there.

        Breaks are left out: tasks that cannot pause avoid them, and those that rest in one leave
        no more units to others than at the time before it.
        """
        inst = self.instance
        largest, base = int(inst.capacity[r]), int(inst.base[r])
        out = []
        at = 0
        for start, end, capacity in [*inst.profiles[r], (self.limit, self.limit, largest)]:
            if at < start and base < largest:
                out.append((at, min(start, self.limit), largest - base))
            if 0 < capacity < largest and start < self.limit:
                out.append((start, min(end, self.limit), largest - capacity))
            at = max(at, end)
        return [piece for piece in out if piece[1] > piece[0]]

    def nonrenewable(self) -> None:
        """Nonrenewable resources: the total consumption is at most the budget."""
        inst = self.instance
        for k, budget in enumerate(inst.budget.tolist()):
            literals, amounts, constant = [], [], 0
            for literals_of_task in self.chosen:
                for m, literal in literals_of_task.items():
                    units = int(inst.consumption[m, k])
                    if literal is None:
                        constant += units
                    elif units:
                        literals.append(literal)
                        amounts.append(units)
            if literals:
                total = cp_model.LinearExpr.weighted_sum(literals, amounts)
                self.cp.add(total <= budget - constant)
            elif constant > budget:
                self.cp.add_bool_or([])

    def reservoir(self) -> None:
        """Reservoirs: the level stays in its range after all events of every time."""
        for reservoir in self.instance.reservoirs:
            self.run.clock.check()
            times, amounts, actives = [], [], []
            for i, amount, at_end in reservoir.events.tolist():
                times.append(self.end[i] if at_end else self.start[i])
                amounts.append(amount)
                actives.append(self.presence(i))
            low = reservoir.minimum - reservoir.initial
            total = sum(a for a in amounts if a > 0)
            high = total
            if reservoir.maximum is not None:
                high = min(total, reservoir.maximum - reservoir.initial)
            if low <= 0 <= high and not any(a == 0 for a in amounts):
                if times:
                    self.cp.add_reservoir_constraint_with_active(times, amounts, actives, low, high)
                continue
            if not times:
                self.cp.add_bool_or([])
            self._levels(reservoir.events.tolist(), low, high)

    def _levels(self, events: list[list[int]], low: int, high: int) -> None:
        """The same for a reservoir that starts outside its range: one level per event and for 0."""
        amounts = [amount for _, amount, _ in events]
        for k in range(-1, len(events)):
            owner = None if k < 0 else self.present[events[k][0]]
            counted = [
                self._not_after(events[j], None if k < 0 else events[k]) for j in range(len(events))
            ]
            level = cp_model.LinearExpr.weighted_sum(counted, amounts)
            self.enforced(self.cp.add_linear_constraint(level, low, high), owner)

    def _not_after(self, event: list[int], other: list[int] | None) -> Literal:
        """Whether an event happens, and not after another one (or not after time 0)."""

        def time(s: State, e: list[int]) -> int:
            return s.end[e[0]] if e[2] else s.start[e[0]]

        def happens(s: State, early: bool) -> bool:
            at = 0 if other is None else time(s, other)
            return s.mode[event[0]] >= 0 and (time(s, event) <= at) == early

        def moment(e: list[int]) -> Expr:
            return self.end[e[0]] if e[2] else self.start[e[0]]

        early = self.boolean("", lambda s: happens(s, True))
        late = self.boolean("", lambda s: happens(s, False))
        at = 0 if other is None else moment(other)
        self.cp.add(moment(event) <= at).only_enforce_if(early)
        self.cp.add(moment(event) >= at + 1).only_enforce_if(late)
        self.cp.add(early + late == self.presence(event[0]))
        return early

    # ------------------------------------------------------------------ relations

    def precedence(self) -> None:
        """Generalized precedences: minimum and maximum lags between starts and ends."""
        for count, (before, after, kind, least, most) in enumerate(self.instance.edges.tolist()):
            if count % 1024 == 0:
                self.run.clock.check()
            origin = self.end[before] if kind in (0, 2) else self.start[before]
            target = self.end[after] if kind in (2, 3) else self.start[after]
            both = (self.present[before], self.present[after])
            if least > -FAR:
                self.enforced(self.cp.add(target >= origin + least), *both)
            if most < FAR:
                self.enforced(self.cp.add(target <= origin + most), *both)

    def setup(self) -> None:
        """Setups: a circuit through the tasks of each resource says which follows which."""
        for k, rule in enumerate(self.instance.setups):
            self.run.clock.check()
            nodes = self._users(rule.resource)
            arcs: list[tuple[int, int, Literal]] = []
            for a, (i, m) in enumerate(nodes, 1):
                chosen = self.chosen[i][m]
                arcs.append((0, a, self.boolean("", _follows(nodes, None, a - 1))))
                arcs.append((a, 0, self.boolean("", _follows(nodes, a - 1, None))))
                if chosen is not None:
                    arcs.append((a, a, chosen.negated()))
                for b, (j, _) in enumerate(nodes, 1):
                    if i == j:
                        continue
                    arc = self.boolean("", _follows(nodes, a - 1, b - 1))
                    arcs.append((a, b, arc))
                    x, y = int(rule.state[i]), int(rule.state[j])
                    taker = int(self.instance.blocks_until[i])
                    free = self.end[i] if taker < 0 else self.start[taker]
                    ready = free + int(rule.times[x, y])
                    self.cp.add(self.start[j] >= ready).only_enforce_if(arc)
                    if rule.costs[x, y]:
                        self.setup_costs.append((int(rule.costs[x, y]), arc))
            if not all(self.chosen[i][m] is None for i, m in nodes):
                arcs.append((0, 0, self.boolean(f"unused_{k}", _unused(nodes))))
            if len(nodes) > 1:
                self.cp.add_circuit(arcs)

    def _users(self, resource: int) -> list[tuple[int, int]]:
        """Tasks and modes that hold a resource."""
        inst = self.instance
        return [
            (i, m)
            for i in range(inst.n)
            for m in self.interval[i]
            if inst.demand[m, resource] and inst.duration[m]
        ]

    def disjunctive(self) -> None:
        """Groups of which no two tasks overlap; tasks without a duration overlap nothing."""
        inst = self.instance
        for group in self.instance.disjunctive:
            intervals = [
                interval
                for i in group
                for m, interval in self.interval[i].items()
                if inst.duration[m]
            ]
            if len(intervals) > 1:
                self.cp.add_no_overlap(intervals)

    def selection(self) -> None:
        """Which optional tasks of a group are present."""
        for s in self.instance.selections:
            literals = [self.presence(i) for i in s.tasks]
            condition = None if s.condition < 0 else self.present[s.condition]
            total = cp_model.LinearExpr.sum(literals)
            if s.type == "exactly_one":
                self.enforced(self.cp.add(total == 1), condition)
            elif s.type == "at_least_one":
                self.enforced(self.cp.add(total >= 1), condition)
            else:
                first = literals[0]
                for other in literals[1:]:
                    self.enforced(self.cp.add(other >= first), condition)
                    if s.type == "all_or_none":
                        self.enforced(self.cp.add(other <= first), condition)

    # ------------------------------------------------------------------ redundant constraints

    def cliques(self) -> None:
        """Redundant: tasks of which any two together exceed some capacity do not overlap."""
        for clique in incompatible_cliques(self.instance):
            self.cp.add_no_overlap([self.interval[i][m] for i in clique for m in self.interval[i]])

    def energy(self) -> None:
        """Redundant: until the makespan every resource has room for all work, in any modes."""
        inst = self.instance
        if self.makespan is None or inst.single_mode or any(inst.profiles):
            return
        for r, capacity in enumerate(inst.capacity.tolist()):
            literals, amounts, constant = [], [], 0
            for literals_of_task in self.chosen:
                for m, literal in literals_of_task.items():
                    work = int(inst.demand[m, r] * inst.duration[m])
                    if literal is None:
                        constant += work
                    elif work:
                        literals.append(literal)
                        amounts.append(work)
            if literals:
                total = cp_model.LinearExpr.weighted_sum(literals, amounts)
                self.cp.add(capacity * self.makespan >= total + constant)

    # ------------------------------------------------------------------ schedules

    def extract(self, values: list[int]) -> RcpspSchedule:
        """The schedule of a solution, given as values by variable index."""
        inst = self.instance
        modes = []
        for literals in self.chosen:
            mode = -1
            for m, literal in literals.items():
                if literal is None or values[literal.index]:
                    mode = m
            modes.append(mode)
        starts = [values[var.index] for var in self.start]
        return schedule_of(inst, starts, modes)


def in_mode(task: int, mode: int) -> Callable[[State], bool]:
    """Whether a task is executed in a mode."""
    return lambda s: s.mode[task] == mode


def _follows(
    nodes: list[tuple[int, int]], first: int | None, second: int | None
) -> Callable[[State], bool]:
    """Whether a task comes right after another on their resource; None is before or after all."""

    def holds(s: State) -> bool:
        used = sorted((s.start[i], k) for k, (i, m) in enumerate(nodes) if s.mode[i] == m)
        order = [None, *(k for _, k in used), None]
        return any(a == first and b == second for a, b in pairwise(order)) and bool(used)

    return holds


def _unused(nodes: list[tuple[int, int]]) -> Callable[[State], bool]:
    return lambda s: not any(s.mode[i] == m for i, m in nodes)


def is_present(task: int) -> Callable[[State], bool]:
    """Whether a task is executed."""
    return lambda s: s.mode[task] >= 0


def build(
    instance: Instance,
    run: Run,
    level: int,
    *,
    strict: bool = False,
) -> Built:
    """The model of one level of the run's objectives, hinted at its incumbent.

    Parameters
    ----------
    level
        Position in the run's objectives; earlier ones are held at the incumbent's values. Without
        objectives the model asks for any schedule.
    strict
        Admit only schedules better than the incumbent at this level.

    Raises
    ------
    OutOfTime
        When the clock ran out on the way.
    """
    from cpsched.families.rcpsp.objectives import objective_expression

    names = [o.name for o in run.objectives]
    values = [] if run.incumbent is None else [round(v) for v in run.incumbent.values]
    limit = instance.horizon
    upper: dict[str, int] = {}
    for k, name in enumerate(names[: level + 1]):
        if values:
            upper[name] = values[k] - (strict and k == level)
    if "makespan" in upper:
        limit = min(limit, upper["makespan"])
    model = Model(instance, run, limit)
    model.add_tasks(instance.tail.tolist())
    counted = names[: level + 1]
    if "makespan" in counted:
        known = run.bound(names.index("makespan"))
        model.add_makespan(0 if known is None else max(0, round(known)))
    elif "replan_cost" in counted and instance.problem.stable_objective == "makespan":
        model.add_makespan(0)
    model.precedence()
    model.capacity()
    model.nonrenewable()
    model.reservoir()
    model.setup()
    model.disjunctive()
    model.selection()
    model.cliques()
    model.energy()
    for k, name in enumerate(names[: level + 1]):
        expression = objective_expression(model, name)
        if k < level or strict:
            model.cp.add(expression <= upper[name])
        if k == level:
            model.cp.minimize(expression)
    if run.incumbent is not None and not strict:
        model.hint(state_of(instance, run.incumbent.schedule))
    return Built(model.cp, model.extract, strict=strict, parameters=parameters(instance, run))


def parameters(instance: Instance, run: Run) -> dict[str, Any]:
    """CP-SAT parameters for the whole problem, by its size and the workers."""
    return {}


def incompatible_cliques(instance: Instance) -> list[list[int]]:
    """Sets of tasks of which any two together exceed the capacity of some resource.

    Cliques of one resource whose tasks need more than half of it are left to the propagation of
    that resource unless several resources together make a larger one. At most as many cliques as
    there are tasks, each of at least three.
    """
    n = instance.n
    known: list[list[int]] | None = instance.extras.get("cliques")
    if known is not None:
        return known
    cliques: list[list[int]] = []
    if n <= 400:
        clash = incompatible(instance)
        degree = clash.sum(axis=1)
        covered = np.zeros_like(clash)
        for i in np.argsort(-degree, kind="stable").tolist():
            candidates = clash[i] & ~covered[i]
            if not candidates.any():
                continue
            clique = [i]
            common = clash[i].copy()
            while common.any():
                # The candidate that leaves most others, those on uncovered pairs first.
                score = np.where(common, (clash & common).sum(axis=1) + n * ~covered[i], -1)
                j = int(score.argmax())
                clique.append(j)
                common &= clash[j]
            if len(clique) >= 3:
                cliques.append(sorted(clique))
                covered[np.ix_(clique, clique)] = True
            if len(cliques) >= 20:
                break
    instance.extras["cliques"] = cliques
    return cliques


def incompatible(instance: Instance) -> Any:
    """Pairs of always present tasks that exceed a capacity in every choice of modes, (n, n) bool.

    Tasks without a duration and tasks that may rest take part in none.
    """
    n = instance.n
    least = np.full((n, len(instance.capacity)), FAR, np.int64)
    takes = np.zeros(n, bool)
    for i in range(n):
        modes = instance.modes(i)
        takes[i] = bool(modes) and min(int(instance.duration[m]) for m in modes) > 0
        if modes:
            least[i] = instance.demand[modes].min(axis=0)
    least = np.where(least == FAR, 0, least)
    clash = np.zeros((n, n), bool)
    for r, capacity in enumerate(instance.capacity.tolist()):
        clash |= least[:, None, r] + least[None, :, r] > capacity
    clash &= takes[:, None] & takes[None, :]
    np.fill_diagonal(clash, False)
    return clash
