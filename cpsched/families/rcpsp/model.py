"""The CP-SAT model of an instance: its variables, and how it is built.

The constraints are functions named as in the schema, in `model_rules` and `model_shop`; what
follows from them is in `model_redundant`. Tasks with one mode and no rest are intervals of fixed
size; tasks with several modes choose one optional interval per mode. `build` posts everything and
returns what `core.exact` solves.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ortools.sat.python import cp_model

from cpsched.core.exact import Built
from cpsched.families.rcpsp import model_rules, model_shop
from cpsched.families.rcpsp.instance import FAR, Instance
from cpsched.families.rcpsp.model_redundant import (
    Twins,
    alternatives,
    cliques,
    energy,
    incompatible_cliques,
    twins_of,
)
from cpsched.families.rcpsp.problem import RcpspSchedule
from cpsched.families.rcpsp.profile import Span, rests_by_start
from cpsched.families.rcpsp.schedule import State, max_end, schedule_of, state_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.model_frozen import Frozen

__all__ = ["Model", "build", "incompatible_cliques"]

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
    capacity_of
        Largest capacity per renewable resource; the first of machines that are alike counts all.
    sequences
        Per machine with a sequence the order of its tasks, and the literals of its circuit.
    extra_uses
        Per resource intervals and units of what is not a task: setups.
    frozen
        The part of a schedule that is kept; None when all is free.
    """

    def __init__(
        self, instance: Instance, run: Run, limit: int, frozen: Frozen | None = None
    ) -> None:
        self.instance, self.run, self.limit, self.frozen = instance, run, limit, frozen
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
        self.capacity_of: list[int] = instance.capacity.tolist()
        self.sequences: dict[int, tuple[model_shop.Order, model_shop.Arcs]] = {}
        self.extra_uses: dict[int, list[tuple[Any, int]]] = {}
        self.twins = twins_of(instance)
        self._first = {
            m: one for twins in self.twins for one, own in twins.modes.items() for m in own
        }
        for twins in self.twins:
            self.capacity_of[twins.machines[0]] = len(twins.machines)
        self._kept: dict[tuple[int, int], tuple[Any, Expr]] = {}
        self._whole: dict[int, Any] = {}
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

    def first_of(self, mode: int) -> int:
        """The mode that stands for one on machines that are alike."""
        return self._first.get(mode, mode)

    def hint(self, state: State) -> None:
        """Hint every variable at its value in a schedule; once per model."""
        mode = [self.first_of(m) for m in state.mode]
        state = State(state.start, state.end, mode)
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
            modes = [m for m in inst.modes(i) if self._first.get(m, m) == m]
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
            self.avoid(self.start[i], duration, breaks, present)
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
                self.avoid(start, length, rests[m], literal)
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

    def avoid(
        self, start: Expr, duration: int, breaks: list[Span], literal: Literal | None
    ) -> None:
        """What cannot pause lies between breaks."""
        if not breaks:
            return
        closed = cp_model.Domain.from_intervals([[s - duration + 1, e - 1] for s, e in breaks])
        allowed = closed.complement().intersection_with(cp_model.Domain(0, self.limit))
        self._in_domain(start, allowed, literal)

    def _paused(
        self, i: int, mode: int, breaks: list[Span], literal: Literal | None
    ) -> tuple[Var, Var]:
        """Size and end of a task that rests in breaks: one literal per total rest."""
        inst = self.instance
        start, duration = self.start[i], int(inst.duration[mode])
        by_rest: dict[int, list[list[int]]] = {}
        for first, last, rest in rests_by_start(duration, breaks, int(inst.head[i]), self.limit):
            if rest <= self.limit:  # not in a break that never ends
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
            held = self._interval(start, size, free, literal, f"held_{i}_{mode}")
            self._kept[i, mode] = held, size
        return self._kept[i, mode][0]

    def held_size(self, i: int, mode: int) -> Expr:
        """How long a task holds its resources when it is done in that mode."""
        if self.instance.blocks_until[i] >= 0:
            self.held(i, mode)
            return self._kept[i, mode][1]
        if self.instance.pausable[i]:
            return self.end[i] - self.start[i]
        return int(self.instance.duration[mode])

    def free(self, i: int) -> Expr:
        """When a task gives its resources back: its end, or the start of the task it waits for."""
        taker = int(self.instance.blocks_until[i])
        return self.end[i] if taker < 0 else self.start[taker]

    def whole(self, i: int) -> Any:
        """The time from start to end of a task in whatever mode."""
        if len(self.interval[i]) == 1:
            return next(iter(self.interval[i].values()))
        if i not in self._whole:
            high = max(self.limit, 1)
            size = self.integer(0, high, f"size_{i}", lambda s: max(0, s.end[i] - s.start[i]))
            self._whole[i] = self._interval(
                self.start[i], size, self.end[i], self.present[i], f"whole_{i}"
            )
        return self._whole[i]

    def users(self, resource: int) -> list[tuple[int, int]]:
        """Tasks and modes that hold a resource, facts included."""
        inst = self.instance
        return [(i, m) for i in range(inst.n) for m in self.interval[i] if inst.holds[m, resource]]

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
        for twins in self.twins:
            self._assign(twins, starts, modes)
        return schedule_of(inst, starts, modes)

    def _assign(self, twins: Twins, starts: list[int], modes: list[int]) -> None:
        """Give each task on machines that are alike the one that is free first."""
        inst = self.instance
        idle = [(0, k) for k in range(len(twins.machines))]
        users = [i for i, m in enumerate(modes) if m in twins.modes]
        for i in sorted(users, key=lambda i: starts[i]):
            _, k = heapq.heappop(idle)
            taker = int(inst.blocks_until[i])
            end = starts[i] + int(inst.duration[modes[i]])
            heapq.heappush(idle, (end if taker < 0 else max(end, starts[taker]), k))
            modes[i] = twins.modes[modes[i]][k]


def in_mode(task: int, mode: int) -> Callable[[State], bool]:
    """Whether a task is executed in a mode."""
    return lambda s: s.mode[task] == mode


def is_present(task: int) -> Callable[[State], bool]:
    """Whether a task is executed."""
    return lambda s: s.mode[task] >= 0


def post(model: Model) -> None:
    """Post every constraint; `Model.add_tasks` comes first."""
    model_rules.precedence(model)
    model_shop.setup(model)
    model_rules.capacity(model)
    model_rules.nonrenewable(model)
    model_rules.reservoir(model)
    model_rules.disjunctive(model)
    model_rules.selection(model)
    model_shop.swap(model)
    model_shop.no_idle(model)
    model_shop.same_sequence(model)
    model_shop.transport(model)
    model_shop.batching(model)
    model_shop.assignment(model)


def build(
    instance: Instance,
    run: Run,
    level: int,
    *,
    strict: bool = False,
    frozen: Frozen | None = None,
) -> Built:
    """The model of one level of the run's objectives, hinted at its incumbent.

    Parameters
    ----------
    level
        Position in the run's objectives; earlier ones are held at the incumbent's values. Without
        objectives the model asks for any schedule.
    strict
        Admit only schedules better than the incumbent at this level.
    frozen
        Tasks that keep their modes and orders.

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
    model = Model(instance, run, limit, frozen)
    model.add_tasks(instance.tail.tolist())
    counted = names[: level + 1]
    if "makespan" in counted:
        known = run.bound(names.index("makespan"))
        model.add_makespan(0 if known is None else max(0, round(known)))
    elif "replan_cost" in counted and instance.problem.stable_objective == "makespan":
        model.add_makespan(0)
    post(model)
    if frozen is None:
        cliques(model)
        energy(model)
        alternatives(model)
    else:
        frozen.post(model)
    for k, name in enumerate(names[: level + 1]):
        expression = objective_expression(model, name)
        if k < level or strict:
            model.cp.add(expression <= upper[name])
        if k == level:
            model.cp.minimize(expression)
    if run.incumbent is not None and (frozen is not None or not strict):
        model.hint(state_of(instance, run.incumbent.schedule))
    return Built(model.cp, model.extract, strict=strict)
