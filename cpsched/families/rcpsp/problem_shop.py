"""The shop part of the schema: setups, sequences, transport, batches, assignments; its rules.

`RcpspProblem` holds these records; what must hold between them and the tasks is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from cpsched.errors import ProblemError
from cpsched.problem import Count, Name, Record

if TYPE_CHECKING:
    from cpsched.families.rcpsp.problem import Mode, RcpspProblem


class Window(Record):
    """A stretch of time ``[start, end)``."""

    start: Count
    end: Count

    @model_validator(mode="after")
    def _forward(self) -> Window:
        if self.end <= self.start:
            raise ProblemError(
                "a window must end after it starts",
                place="windows",
                value=(self.start, self.end),
                remedy="Swap or correct start and end.",
            )
        return self


class Setups(Record):
    """Sequence-dependent setups of a machine, a renewable resource of capacity 1.

    ``states`` gives every task that uses the machine a state, a row and column of ``times`` and
    ``costs``. Between two tasks that follow each other on the machine at least
    ``times[state of the first][state of the second]`` passes, and ``costs`` of the two counts in
    ``setup_cost``. Tasks without a duration need no setup.

    ``demands`` are units of other renewable resources, such as a worker, that the setup holds for
    its time right before the second task starts.
    """

    resource: Name
    states: dict[Name, Count]
    times: tuple[tuple[Count, ...], ...]
    costs: tuple[tuple[Count, ...], ...] = ()
    demands: dict[Name, Count] = Field(default_factory=dict)


class SameSequence(Record):
    """Tasks that pass several machines in one order: no job overtakes another.

    The k-th tasks of all ``lists`` belong together. If the k-th task starts before the l-th one in
    one list, it does not start after it in another. A permutation flow shop has one list per
    machine with one task per job.
    """

    lists: Annotated[tuple[tuple[Name, ...], ...], Field(min_length=2)]


class Transport(Record):
    """How long it takes to bring a job from one machine to another.

    ``times[a][b]`` is the time from ``resources[a]`` to ``resources[b]``. It passes, besides
    ``min_lag``, between the two tasks of every precedence with ``transport``: from the end of the
    first to the start of the second, by the machines that their modes hold. A mode that holds none
    of the machines is everywhere: no time passes, but the second still follows the first.
    """

    resources: Annotated[tuple[Name, ...], Field(min_length=1)]
    times: tuple[tuple[Count, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> Transport:
        square(self.times, len(self.resources), "transport.times", "transport times")
        return self


class Batching(Record):
    """A machine that works on several tasks at once, such as an oven.

    Tasks that overlap on the resource start together and are of one family; as many as its
    capacity and their demands allow. The next batch starts when the whole one before has left.
    ``families`` gives every task that uses it a family; without it all tasks fit together.
    """

    resource: Name
    families: dict[Name, Name] = Field(default_factory=dict)


class Assignment(Record):
    """Tasks that are done by the same machines, or by different ones.

    With ``type`` "identical" the chosen modes of all present tasks hold the same of ``resources``;
    with "different" no two hold a common one. Without ``resources`` all renewable ones count.
    """

    type: Literal["identical", "different"]
    tasks: Annotated[tuple[Name, ...], Field(min_length=2)]
    resources: tuple[Name, ...] = ()


def square(matrix: Sequence[Sequence[int]], size: int, place: str, what: str) -> None:
    """Complain unless a matrix has that many rows and columns."""
    if [len(row) for row in matrix] != [size] * size:
        raise ProblemError(
            f"the {what} must form a square matrix of {size} rows",
            place=place,
            value=[len(row) for row in matrix],
            remedy=f"Give {size} rows of {size} numbers.",
        )


def unique(names: Sequence[str], place: str, field: str = "") -> dict[str, int]:
    """Position by name; complains about a name that repeats."""
    index: dict[str, int] = {}
    for i, name in enumerate(names):
        if name in index:
            raise ProblemError(
                "names must be unique",
                place=f"{place}.{i}.{field}".rstrip("."),
                value=name,
                remedy=f"Rename one of the two (positions {index[name]} and {i}).",
            )
        index[name] = i
    return index


def known(name: str, names: Mapping[str, object], place: str, what: str) -> None:
    """Complain about a name that does not exist."""
    if name not in names:
        raise ProblemError(
            f"the {what} must exist",
            place=place,
            value=name,
            remedy=f"Add it, or correct the {what}.",
        )


def check_shop(problem: RcpspProblem) -> None:
    """What must hold between the shop's records, the tasks and the resources.

    Raises
    ------
    ProblemError
        Naming the first field that does not fit.
    """
    types = {r.name: r.type for r in problem.resources}
    ids = {t.id: i for i, t in enumerate(problem.tasks)}
    machines = {
        r.name
        for r in problem.resources
        if r.type == "renewable"
        and r.capacity == 1
        and all(c.capacity <= 1 for c in r.capacity_changes)
    }
    _check_resources(problem, machines)
    _check_setups(problem, types, ids, machines)
    for k, same in enumerate(problem.same_sequence):
        sizes = [len(tasks) for tasks in same.lists]
        if len(set(sizes)) > 1:
            raise ProblemError(
                "the lists must have the same length: their k-th tasks belong together",
                place=f"same_sequence.{k}.lists",
                value=sizes,
                remedy="Give every list one task per job, all in the same order of jobs.",
            )
        names = [name for tasks in same.lists for name in tasks]
        for name in unique(names, f"same_sequence.{k}.lists"):
            known(name, ids, f"same_sequence.{k}.lists", "task")
    _check_transport(problem, types)
    _check_batching(problem, types, ids)
    for k, rule in enumerate(problem.assignments):
        for name in unique(rule.tasks, f"assignments.{k}.tasks"):
            known(name, ids, f"assignments.{k}.tasks", "task")
        for name in unique(rule.resources, f"assignments.{k}.resources"):
            _renewable(name, types, f"assignments.{k}.resources")


def _check_resources(problem: RcpspProblem, machines: set[str]) -> None:
    for i, resource in enumerate(problem.resources):
        if resource.no_idle and resource.name not in machines:
            raise ProblemError(
                "only a renewable resource of capacity 1 can be without idle time",
                place=f"resources.{i}.no_idle",
                value=resource.name,
                remedy="Use one resource per machine, and a mode per machine.",
            )
        if resource.windows and resource.type != "renewable":
            raise ProblemError(
                "only a renewable resource has windows",
                place=f"resources.{i}.windows",
                value=resource.type,
                remedy="Remove them, or set the type to 'renewable'.",
            )


def _check_setups(
    problem: RcpspProblem,
    types: Mapping[str, str],
    ids: Mapping[str, int],
    machines: set[str],
) -> None:
    unique([s.resource for s in problem.setups], "setups", "resource")
    for k, setups in enumerate(problem.setups):
        size = len(setups.times)
        square(setups.times, size, f"setups.{k}.times", "setup times")
        if setups.costs:
            square(setups.costs, size, f"setups.{k}.costs", "setup costs")
        for task, state in setups.states.items():
            if state >= size:
                raise ProblemError(
                    f"states are numbers below {size}, the size of the matrix",
                    place=f"setups.{k}.states.{task}",
                    value=state,
                    remedy="Correct the state, or enlarge the matrices.",
                )
        known(setups.resource, types, f"setups.{k}.resource", "resource")
        if setups.resource not in machines:
            raise ProblemError(
                "setups need a renewable resource of capacity 1",
                place=f"setups.{k}.resource",
                value=setups.resource,
                remedy="Use one resource per machine, and a mode per machine.",
            )
        for name in setups.states:
            known(name, ids, f"setups.{k}.states", "task")
        for name in setups.demands:
            _renewable(name, types, f"setups.{k}.demands")
            if name == setups.resource:
                raise ProblemError(
                    "a setup keeps its own machine anyway; demands are for other resources",
                    place=f"setups.{k}.demands",
                    value=name,
                    remedy="Remove it.",
                )
        for name in _users(problem, setups.resource):
            if name not in setups.states:
                raise ProblemError(
                    f"every task that uses {setups.resource!r} must have a state",
                    place=f"setups.{k}.states",
                    value=name,
                    remedy="Add the task to the states.",
                )


def _check_transport(problem: RcpspProblem, types: Mapping[str, str]) -> None:
    for i, p in enumerate(problem.precedences):
        if p.transport and p.type != "end-start":
            raise ProblemError(
                "only a precedence from end to start can have transport",
                place=f"precedences.{i}.transport",
                value=p.type,
                remedy="Set its type to 'end-start', or remove 'transport'.",
            )
        if p.transport and problem.transport is None:
            raise ProblemError(
                "transport needs times",
                place=f"precedences.{i}.transport",
                value=True,
                remedy="Add 'transport' with resources and times to the problem.",
            )
    if problem.transport is None:
        return
    places = unique(problem.transport.resources, "transport.resources")
    for name in places:
        _renewable(name, types, "transport.resources")
    moved = {x for p in problem.precedences if p.transport for x in (p.before, p.after)}
    for i, task in enumerate(problem.tasks):
        for m, mode in enumerate(task.modes if task.id in moved else ()):
            held = [name for name, units in mode.demands.items() if units and name in places]
            if len(held) > 1:
                raise ProblemError(
                    "a task with transport is at one machine of the transport at a time",
                    place=f"tasks.{i}.modes.{m}.demands",
                    value=held,
                    remedy="Leave one of them in 'transport.resources', or in the demands.",
                )


def _check_batching(
    problem: RcpspProblem, types: Mapping[str, str], ids: Mapping[str, int]
) -> None:
    unique([b.resource for b in problem.batching], "batching", "resource")
    for k, batching in enumerate(problem.batching):
        _renewable(batching.resource, types, f"batching.{k}.resource")
        for name in batching.families:
            known(name, ids, f"batching.{k}.families", "task")
        for name in _users(problem, batching.resource) if batching.families else ():
            if name not in batching.families:
                raise ProblemError(
                    f"every task that uses {batching.resource!r} must have a family",
                    place=f"batching.{k}.families",
                    value=name,
                    remedy="Add the task, or leave 'families' out if all fit together.",
                )


def _renewable(name: str, types: Mapping[str, str], place: str) -> None:
    known(name, types, place, "resource")
    if types[name] != "renewable":
        raise ProblemError(
            "the resource must be renewable",
            place=place,
            value=name,
            remedy="Name a renewable resource.",
        )


def _users(problem: RcpspProblem, resource: str) -> list[str]:
    return [t.id for t in problem.tasks if any(holds(mode, resource) for mode in t.modes)]


def holds(mode: Mode, resource: str) -> bool:
    """Whether a mode holds a renewable resource for a time."""
    return bool(mode.duration and mode.demands.get(resource))
