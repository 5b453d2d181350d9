"""The schema of the `rcpsp` family: resource-constrained projects and shops, and their schedules.

Times are integers in ``time_unit``; intervals are half-open ``[start, end)``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.problem_shop import (
    Assignment,
    Batching,
    SameSequence,
    Setups,
    Transport,
    Window,
    check_shop,
    known,
    unique,
)
from cpsched.problem import Count, Name, ProblemBase, Record, Whole

#: Objectives of the family, by their contract names; all are minimised.
OBJECTIVES = (
    "makespan",
    "weighted_tardiness",
    "late_tasks",
    "weighted_flow_time",
    "max_lateness",
    "earliness_tardiness",
    "setup_cost",
    "resource_cost",
    "resource_levelling",
    "replan_cost",
)
ObjectiveName = Literal[
    "makespan",
    "weighted_tardiness",
    "late_tasks",
    "weighted_flow_time",
    "max_lateness",
    "earliness_tardiness",
    "setup_cost",
    "resource_cost",
    "resource_levelling",
    "replan_cost",
]


class CapacityChange(Record):
    """Another capacity of a renewable resource during ``[start, end)``; 0 is a break."""

    start: Count
    end: Count
    capacity: Count = 0

    @model_validator(mode="after")
    def _forward(self) -> CapacityChange:
        if self.end <= self.start:
            raise ProblemError(
                "a capacity change must end after it starts",
                place="capacity_changes",
                value=(self.start, self.end),
                remedy="Swap or correct start and end.",
            )
        return self


class Resource(Record):
    """A resource of one of three types.

    A *renewable* resource has ``capacity`` units at every time (less during
    ``capacity_changes``). A *nonrenewable* one has ``capacity`` units for the whole project. A
    *reservoir* has a level that starts at ``initial``, is changed by the ``events`` of tasks, and
    stays within ``[minimum, maximum]`` at every time after all events of that time.

    A renewable resource with ``windows`` is there in them only. A machine (capacity 1) with
    ``no_idle`` works without a gap, setups aside, from the first to the last of its tasks; breaks
    are gaps.

    ``unit_cost`` is the price of one unit: per time unit of use when renewable, per unit consumed
    when nonrenewable.
    """

    name: Name
    type: Literal["renewable", "nonrenewable", "reservoir"] = "renewable"
    capacity: Count = 1
    capacity_changes: tuple[CapacityChange, ...] = ()
    windows: tuple[Window, ...] = ()
    no_idle: bool = False
    initial: Whole = 0
    minimum: Whole = 0
    maximum: Whole | None = None
    unit_cost: Count = 0


class Mode(Record):
    """One way to execute a task: how long it takes and what it needs.

    ``demands`` maps renewable resources to units held during execution and nonrenewable ones to
    units consumed. A flexible shop has one mode per eligible machine.
    """

    duration: Count
    demands: dict[Name, Count] = Field(default_factory=dict)
    cost: Count = 0


class ReservoirEvent(Record):
    """A task changes a reservoir's level by ``amount`` at its start or its end."""

    resource: Name
    amount: Whole
    at: Literal["start", "end"] = "end"


class Fixed(Record):
    """What has started already: executed in ``mode`` during ``[start, end)``, as a fact.

    A fact is not judged: windows, durations, precedences among facts, and what facts alone hold of
    a resource break no rule. Other tasks get what facts leave of a capacity.
    """

    mode: Count = 0
    start: Count
    end: Count

    @model_validator(mode="after")
    def _forward(self) -> Fixed:
        if self.end < self.start:
            raise ProblemError(
                "a task cannot end before it starts",
                place="fixed",
                value=(self.start, self.end),
                remedy="Correct start or end.",
            )
        return self


class Task(Record):
    """A task, executed without interruption in exactly one of its modes.

    ``release`` and ``deadline`` are hard (start not before, end not after), ``due`` is soft.
    ``weight`` multiplies tardiness and flow time, ``earliness_weight`` earliness. An *optional*
    task may be left out. A *pausable* task may pause while a renewable resource it needs is on a
    break (capacity 0): it keeps its resources, its end moves back by the breaks inside, and it
    neither starts nor ends inside one. ``fixed`` is set for a task that has started already,
    ``planned`` is the start that an earlier plan gave it (objective ``replan_cost``).

    A *blocking* task keeps its renewable resources until the task ``blocks_until`` starts, which is
    at its own end or later: a job that stays on its machine until the next one takes it. Unless the
    problem forbids it (``swap``), two that wait for each other's place move at the same time.
    """

    id: Name
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)]
    release: Count = 0
    deadline: Count | None = None
    due: Count | None = None
    weight: Count = 1
    earliness_weight: Count = 0
    optional: bool = False
    pausable: bool = False
    events: tuple[ReservoirEvent, ...] = ()
    fixed: Fixed | None = None
    planned: Count | None = None
    blocks_until: Name | None = None


class Precedence(Record):
    """A generalized precedence between two tasks.

    With ``type`` "end-start": ``min_lag <= start(after) - end(before) <= max_lag``; the other
    types take the named ends (first of ``before``, second of ``after``). Lags may be negative; a
    null one does not bind. It holds when both tasks are present. With ``transport`` the time of the
    problem's `Transport` passes besides the minimum lag (0 when that is null).
    """

    before: Name
    after: Name
    type: Literal["end-start", "start-start", "end-end", "start-end"] = "end-start"
    min_lag: Whole | None = 0
    max_lag: Whole | None = None
    transport: bool = False


class Disjunctive(Record):
    """A group of tasks of which no two may overlap in time."""

    tasks: Annotated[tuple[Name, ...], Field(min_length=2)]
    name: str = ""


class Selection(Record):
    """Which optional tasks of a group are present.

    ``exactly_one``, ``at_least_one``, ``all_or_none`` of ``tasks``; ``implication``: when the
    first is present, so are the others. With ``condition`` it binds only when that task is present.
    """

    type: Literal["exactly_one", "at_least_one", "all_or_none", "implication"]
    tasks: Annotated[tuple[Name, ...], Field(min_length=1)]
    condition: Name | None = None


class WorkingTimes(Record):
    """Working times of some resources that differ from the calendar's; null is as there."""

    resources: Annotated[tuple[Name, ...], Field(min_length=1)]
    weekdays: tuple[int, ...] | None = None
    hours: tuple[int, int] | None = None
    holidays: tuple[str, ...] | None = None


class Calendar(Record):
    """Dates for time 0 and for breaks: how integers in a schedule become dates.

    ``start`` is the date (ISO 8601) of time 0 and one time unit is ``unit``. Outside ``weekdays``
    (0 = Monday), outside ``hours`` (with units below a day) and on ``holidays`` nobody works: those
    times are breaks of the resources listed (all renewable ones when empty). ``exceptions`` give
    resources other working times. The calendar holds for ``length`` days; later, every time is a
    working time.
    """

    start: str
    unit: Literal["minute", "hour", "day"] = "day"
    weekdays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    hours: tuple[int, int] = (0, 24)
    holidays: tuple[str, ...] = ()
    resources: tuple[Name, ...] = ()
    length: Annotated[int, Field(ge=1, le=36_600)] = 3660
    exceptions: tuple[WorkingTimes, ...] = ()

    @model_validator(mode="after")
    def _exists(self) -> Calendar:
        from cpsched.families.rcpsp.profile import calendar_breaks

        calendar_breaks(self)
        for i, times in enumerate(self.exceptions):
            try:
                calendar_breaks(self.with_times(times))
            except ProblemError as error:
                raise ProblemError(
                    error.rule,
                    place=error.place.replace("calendar", f"calendar.exceptions.{i}", 1),
                    value=error.value,
                    remedy=error.remedy,
                ) from None
        unique([n for e in self.exceptions for n in e.resources], "calendar.exceptions", "")
        return self

    def with_times(self, times: WorkingTimes) -> Calendar:
        """The calendar of the resources that have these working times."""
        other = {
            "weekdays": times.weekdays,
            "hours": times.hours,
            "holidays": times.holidays,
        }
        given = {key: value for key, value in other.items() if value is not None}
        return self.model_copy(update=given | {"resources": times.resources, "exceptions": ()})


class RcpspProblem(ProblemBase):
    """A resource-constrained project scheduling problem.

    The objective ``replan_cost`` is the value of ``stable_objective`` plus ``stability`` for each
    time unit that a start differs from its ``planned`` one.

    Without ``swap``, tasks that block do not change places at one moment: a task moves onto a
    machine (capacity 1) that another leaves only after that one has moved on. Moves at one time
    thus have an order, and a circle of tasks that wait for each other is a deadlock.

    Raises
    ------
    ProblemError
        For duplicate ids, unknown names, reservoirs used as demands, and the like. A problem that
        is well formed but has no schedule is not an error; `cpsched.solve` reports it.
    """

    kind: Literal["rcpsp"] = "rcpsp"
    tasks: tuple[Task, ...]
    resources: tuple[Resource, ...] = ()
    precedences: tuple[Precedence, ...] = ()
    disjunctive: tuple[Disjunctive, ...] = ()
    selections: tuple[Selection, ...] = ()
    setups: tuple[Setups, ...] = ()
    swap: bool = True
    same_sequence: tuple[SameSequence, ...] = ()
    transport: Transport | None = None
    batching: tuple[Batching, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    objectives: tuple[ObjectiveName, ...] = ("makespan",)
    stability: Count = 0
    stable_objective: ObjectiveName = "makespan"
    horizon: Count | None = None
    time_unit: str = ""
    calendar: Calendar | None = None

    @model_validator(mode="after")
    def _consistent(self) -> RcpspProblem:
        ids = unique([t.id for t in self.tasks], "tasks", "id")
        types = {r.name: r.type for r in self.resources}
        unique([r.name for r in self.resources], "resources", "name")
        for i, task in enumerate(self.tasks):
            for m, mode in enumerate(task.modes):
                for name in mode.demands:
                    place = f"tasks.{i}.modes.{m}.demands"
                    known(name, types, place, "resource")
                    if types[name] == "reservoir":
                        raise ProblemError(
                            "a reservoir is changed by events, not by demands",
                            place=place,
                            value=name,
                            remedy="Move it to the task's 'events'.",
                        )
            if task.fixed is not None and task.fixed.mode >= len(task.modes):
                raise ProblemError(
                    "the mode must exist",
                    place=f"tasks.{i}.fixed.mode",
                    value=task.fixed.mode,
                    remedy=f"The task has {len(task.modes)} modes, counted from 0.",
                )
            if task.blocks_until is not None:
                place = f"tasks.{i}.blocks_until"
                known(task.blocks_until, ids, place, "task")
                if task.blocks_until == task.id or self.tasks[ids[task.blocks_until]].optional:
                    raise ProblemError(
                        "a task can block until another task that is not optional",
                        place=place,
                        value=task.blocks_until,
                        remedy="Name the task that takes over, and make it mandatory.",
                    )
            for e, event in enumerate(task.events):
                place = f"tasks.{i}.events.{e}.resource"
                known(event.resource, types, place, "resource")
                if types[event.resource] != "reservoir":
                    raise ProblemError(
                        "only a reservoir can have events",
                        place=place,
                        value=event.resource,
                        remedy="Set the resource's type to 'reservoir', or use 'demands'.",
                    )
        for i, p in enumerate(self.precedences):
            known(p.before, ids, f"precedences.{i}.before", "task")
            known(p.after, ids, f"precedences.{i}.after", "task")
        for i, group in enumerate(self.disjunctive):
            for name in unique(list(group.tasks), f"disjunctive.{i}.tasks", ""):
                known(name, ids, f"disjunctive.{i}.tasks", "task")
        for i, selection in enumerate(self.selections):
            names = [*selection.tasks, *([selection.condition] if selection.condition else [])]
            for name in names:
                known(name, ids, f"selections.{i}", "task")
        check_shop(self)
        if self.calendar is not None:
            for name in self.calendar.resources:
                known(name, types, "calendar.resources", "resource")
            for i, times in enumerate(self.calendar.exceptions):
                for name in times.resources:
                    known(name, types, f"calendar.exceptions.{i}.resources", "resource")
        if self.stable_objective == "replan_cost":
            raise ProblemError(
                "replan_cost adds to another objective",
                place="stable_objective",
                value=self.stable_objective,
                remedy="Name another objective.",
            )
        if len(set(self.objectives)) != len(self.objectives):
            raise ProblemError(
                "objectives must not repeat",
                place="objectives",
                value=self.objectives,
                remedy="Name each once.",
            )
        return self


class ScheduledTask(Record):
    """One executed task: ``resources`` are the renewable ones it holds."""

    task: Name
    mode: int = 0
    start: int
    end: int
    resources: tuple[str, ...] = ()


class RcpspSchedule(Record):
    """Start, end and mode of every present task; absent optional tasks are not listed.

    ``makespan`` is checked when given.
    """

    tasks: tuple[ScheduledTask, ...]
    makespan: int | None = None
