"""The schema of the `workflow` family: task graphs on machines with data, options and budgets.

Times are non-negative numbers in one unit of the user's choice (seconds when prices per hour, watts
or bytes per second are used); intervals are half-open ``[start, end)``. Numbers mean the decimals
that are written: 0.1 is one tenth.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import AliasChoices, Field, model_validator

from cpsched.errors import ProblemError
from cpsched.problem import Name, ProblemBase, Record

ObjectiveName = Literal[
    "makespan",
    "cost",
    "energy",
    "carbon",
    "weighted_flow_time",
    "max_slowdown",
    "weighted_tardiness",
    "log_success",
    "peak_storage",
]
#: Objectives by their contract names; all are minimised but `log_success`.
OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)
MAXIMISED = frozenset({"log_success"})

#: Larger numbers, and positive ones below its inverse, are refused: they leave no exact arithmetic.
HUGE = 1e15
Amount = Annotated[float, Field(ge=0, le=HUGE)]
Rate = Annotated[float, Field(ge=1e-9, le=HUGE)]
Probability = Annotated[float, Field(gt=0, le=1)]


class _Misfit(ProblemError, ValueError):
    """A complaint of a record within a problem: pydantic adds where the record is."""


def _from_pair(data: Any, *fields: str) -> Any:
    """A record written as a list of its fields, as a dict."""
    if isinstance(data, list | tuple) and len(data) == len(fields):
        return dict(zip(fields, data, strict=True))
    return data


class Window(Record):
    """A time ``[start, end)`` in which a machine is available; may be written as that pair."""

    start: Amount
    end: Amount

    @model_validator(mode="before")
    @classmethod
    def _pair(cls, data: Any) -> Any:
        return _from_pair(data, "start", "end")

    @model_validator(mode="after")
    def _forward(self) -> Window:
        if self.end <= self.start:
            raise _Misfit(
                "a window must end after it starts",
                value=(self.start, self.end),
                remedy="Swap or correct start and end.",
            )
        return self


class Step(Record):
    """From ``start`` on, a rate has this value (until the next step); may be written as a pair."""

    start: Amount
    value: Amount

    @model_validator(mode="before")
    @classmethod
    def _pair(cls, data: Any) -> Any:
        return _from_pair(data, "start", "value")


class Machine(Record):
    """A machine; ``name`` is all it needs.

    A machine without ``cores`` runs one task at a time whatever the task asks for; with cores,
    tasks run side by side within cores, memory and GPUs. ``memory`` and ``storage`` in bytes, no
    limit when absent. ``windows`` are the times it is available, always when empty.

    ``price`` per hour is paid for the time that tasks occupy (their share of the cores), or with a
    ``billing_quantum`` (seconds) for whole quanta from its first start to its last end. ``prices``
    makes it vary over time (not with a quantum). ``power`` in watts is drawn by the share of the
    machine in use; ``carbon`` is the intensity over time, in grams per kWh.
    """

    name: Name
    speed: Rate = 1.0
    cores: Amount | None = None
    memory: Amount | None = None
    gpus: Annotated[int, Field(ge=0, le=10**6)] = 0
    storage: Amount | None = None
    labels: tuple[Name, ...] = ()
    price: Amount = 0.0
    prices: tuple[Step, ...] = ()
    billing_quantum: Amount = 0.0
    power: Amount = 0.0
    carbon: tuple[Step, ...] = ()
    windows: tuple[Window, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Machine:
        for field in ("prices", "carbon"):
            steps = getattr(self, field)
            starts = [step.start for step in steps]
            if starts and (starts[0] != 0 or any(b <= a for a, b in pairwise(starts))):
                raise _Misfit(
                    "steps must start at 0 and go forward in time",
                    place=field,
                    value=starts,
                    remedy="Sort the steps and start them at 0.",
                )
        for before, after in pairwise(self.windows):
            if after.start < before.end:
                raise _Misfit(
                    "windows must be sorted and must not overlap",
                    place="windows",
                    value=(after.start, after.end),
                    remedy="Sort and merge the windows.",
                )
        if self.prices and self.billing_quantum:
            raise _Misfit(
                "prices over time and a billing quantum exclude each other",
                place="prices",
                remedy="Give one of the two.",
            )
        return self


class Link(Record):
    """The connection of two machines, both ways unless the way back has a link of its own.

    What is absent is taken from the problem's ``bandwidth`` and ``latency``.
    """

    source: Name = Field(
        validation_alias=AliasChoices("from", "source"), serialization_alias="from"
    )
    target: Name = Field(validation_alias=AliasChoices("to", "target"), serialization_alias="to")
    bandwidth: Rate | None = None
    latency: Amount | None = None


class Option(Record):
    """One way to execute a task: an implementation, or a model with a number of samples.

    ``work`` takes ``work / speed`` on a machine; ``durations`` gives the time per machine instead
    and excludes machines it does not name. ``cost``, ``tokens`` and ``energy`` (joules) are per
    sample. ``success`` is the probability that one sample succeeds (or a quality in (0, 1]);
    ``samples`` run in parallel, and after a failure of all of them the task is tried again up to
    ``retries`` times: time and hard budgets are reserved for every try.
    """

    name: str = ""
    work: Amount | None = None
    durations: dict[Name, Amount] | None = None
    cores: Amount = 1.0
    memory: Amount = 0.0
    gpus: Annotated[int, Field(ge=0, le=10**6)] = 0
    cost: Amount = 0.0
    tokens: Amount = 0.0
    energy: Amount = 0.0
    success: Probability = 1.0
    samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    retries: Annotated[int, Field(ge=0, le=10_000)] = 0


class Task(Option):
    """A task. Without ``options`` its own fields are its only option.

    It runs on machines that carry all of its ``labels`` and, when ``machines`` is given, are named
    there. ``release`` and ``deadline`` are hard, ``due`` is soft; ``weight`` multiplies tardiness
    and flow time; a higher ``priority`` goes first where heuristics have a choice.
    """

    id: Name
    options: tuple[Option, ...] = ()
    labels: tuple[Name, ...] = ()
    machines: tuple[Name, ...] | None = None
    release: Amount = 0.0
    deadline: Amount | None = None
    due: Amount | None = None
    weight: Amount = 1.0
    priority: float = 0.0
    workflow: Name | None = None

    @property
    def choices(self) -> tuple[Option, ...]:
        """The options, the task itself when it lists none."""
        return self.options or (self,)

    @model_validator(mode="after")
    def _has_duration(self) -> Task:
        if self.options and (self.work is not None or self.durations is not None):
            raise _Misfit(
                "a task with options has no duration of its own",
                place="work",
                value=self.id,
                remedy="Move work or durations into the options.",
            )
        for number, option in enumerate(self.choices):
            if (option.work is None) == (option.durations is None):
                raise _Misfit(
                    "exactly one of work and durations must be given",
                    place=f"options.{number}" if self.options else "work",
                    value=self.id,
                    remedy="Give the task or option its work, or its duration per machine.",
                )
        return self


class File(Record):
    """Data that a task produces and others consume; ``size`` in bytes.

    A file without ``producer`` lies at ``location`` from time 0, or everywhere at no cost when
    there is none. In a machine's storage a copy stays until its last use there, for good when
    ``keep`` is set.
    """

    id: Name
    size: Amount = 0.0
    producer: Name | None = None
    consumers: tuple[Name, ...] = ()
    location: Name | None = None
    keep: bool = False


class Edge(Record):
    """``target`` starts after the end of ``source``, with ``size`` bytes from one to the other."""

    source: Name
    target: Name
    size: Amount = 0.0


class Workflow(Record):
    """A job: the tasks that name it. ``release`` and ``deadline`` hold for all of them."""

    id: Name
    tenant: Name | None = None
    weight: Amount = 1.0
    release: Amount = 0.0
    deadline: Amount | None = None
    due: Amount | None = None


class Tenant(Record):
    """A user whose workflows share the machines with others in proportion to ``weight``."""

    id: Name
    weight: Annotated[float, Field(gt=0, le=HUGE)] = 1.0


class Alternative(Record):
    """Tasks that are executed with a probability."""

    probability: Probability
    tasks: tuple[Name, ...]


class Branch(Record):
    """A conditional: exactly one alternative is executed (none with the remaining probability).

    Tasks of different alternatives may hold the same resources at the same time. Every other rule
    holds for all tasks, so the plan is valid whatever happens.
    """

    alternatives: Annotated[tuple[Alternative, ...], Field(min_length=1)]


class Budgets(Record):
    """Hard limits on what is spent in the worst case: all tries, the dearest alternatives."""

    cost: Amount | None = None
    energy: Amount | None = None
    carbon: Amount | None = None
    tokens: Amount | None = None


class WorkflowProblem(ProblemBase):
    """Tasks, machines, data and limits; see docs/workflow.md.

    ``bandwidth`` (bytes per time unit) and ``latency`` hold between any two machines without a
    link; without a bandwidth transfers take no time. Data between tasks on one machine is free.
    Between machines all data of one task for another takes ``latency + bytes / bandwidth`` from
    the end of the producer; with ``contention`` every file is sent once per destination and
    occupies the link alone.

    ``limits`` are hard bounds on objective values. ``fair_share`` is the time by which a workflow
    may end later than under fair sharing of the machines between tenants.
    """

    kind: Literal["workflow"] = "workflow"
    tasks: tuple[Task, ...]
    machines: Annotated[tuple[Machine, ...], Field(min_length=1)]
    edges: tuple[Edge, ...] = ()
    files: tuple[File, ...] = ()
    bandwidth: Rate | None = None
    latency: Amount = 0.0
    links: tuple[Link, ...] = ()
    contention: bool = False
    workflows: tuple[Workflow, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    fair_share: Amount | None = None
    branches: tuple[Branch, ...] = ()
    deadline: Amount | None = None
    budgets: Budgets = Budgets()
    min_success: Probability | None = None
    limits: dict[ObjectiveName, Annotated[float, Field(ge=-HUGE, le=HUGE)]] = Field(
        default_factory=dict
    )
    objectives: tuple[ObjectiveName, ...] = ("makespan",)

    @model_validator(mode="after")
    def _consistent(self) -> WorkflowProblem:
        from cpsched.families.workflow.consistent import check_consistent

        check_consistent(self)
        return self


class Placement(Record):
    """A task's machine, option (zero-based) and time."""

    task: Name
    machine: Name
    option: Annotated[int, Field(ge=0)] = 0
    start: Annotated[float, Field(ge=0, le=2 * HUGE)]
    end: Annotated[float, Field(ge=0, le=2 * HUGE)]


class Transfer(Record):
    """One file on its way to one machine; ``producer`` is null for a file that lay somewhere."""

    file: Name
    producer: Name | None = None
    source: Name = Field(
        validation_alias=AliasChoices("from", "source"), serialization_alias="from"
    )
    target: Name = Field(validation_alias=AliasChoices("to", "target"), serialization_alias="to")
    start: Annotated[float, Field(ge=0, le=2 * HUGE)]
    end: Annotated[float, Field(ge=0, le=2 * HUGE)]


class WorkflowSchedule(Record):
    """A schedule: every task placed, the transfers between machines, the makespan."""

    tasks: tuple[Placement, ...]
    transfers: tuple[Transfer, ...] = ()
    makespan: float | None = None
