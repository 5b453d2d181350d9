"""What must hold between the fields of a workflow problem."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cpsched.errors import ProblemError

if TYPE_CHECKING:
    from cpsched.families.workflow.problem import Machine, Option, Task, WorkflowProblem

#: Scenarios of conditional branches that are told apart; more are refused.
MAX_SCENARIOS = 64


def check_consistent(problem: WorkflowProblem) -> None:
    """Raise `ProblemError` unless names are unique and known, and the graph has no cycle."""
    tasks = _unique("tasks", [t.id for t in problem.tasks], "id")
    machines = _unique("machines", [m.name for m in problem.machines], "name")
    workflows = _unique("workflows", [w.id for w in problem.workflows], "id")
    tenants = _unique("tenants", [t.id for t in problem.tenants], "id")
    _unique("files", [f.id for f in problem.files], "id")
    for i, link in enumerate(problem.links):
        _known(f"links.{i}.from", link.source, machines, "machine")
        _known(f"links.{i}.to", link.target, machines, "machine")
    _unique("links", [(link.source, link.target) for link in problem.links], "from, to")
    for i, flow in enumerate(problem.workflows):
        if flow.tenant is not None:
            _known(f"workflows.{i}.tenant", flow.tenant, tenants, "tenant")
    for i, task in enumerate(problem.tasks):
        if task.workflow is not None:
            _known(f"tasks.{i}.workflow", task.workflow, workflows, "workflow")
        for name in task.machines or ():
            _known(f"tasks.{i}.machines", name, machines, "machine")
        for k, option in enumerate(task.choices):
            place = f"tasks.{i}.options.{k}" if task.options else f"tasks.{i}"
            for name in option.durations or ():
                _known(f"{place}.durations", name, machines, "machine")
            if round(option.cores * 1000, 6) % 1:
                raise ProblemError(
                    "cores must be a multiple of 0.001",
                    place=f"{place}.cores",
                    value=option.cores,
                    remedy="Round it.",
                )
    for i, edge in enumerate(problem.edges):
        if edge.source not in tasks or edge.target not in tasks:
            _known(f"edges.{i}.source", edge.source, tasks, "task")
            _known(f"edges.{i}.target", edge.target, tasks, "task")
    _unique("edges", [(e.source, e.target) for e in problem.edges], "source, target")
    for i, file in enumerate(problem.files):
        if file.producer is not None:
            _known(f"files.{i}.producer", file.producer, tasks, "task")
            if file.location is not None:
                raise ProblemError(
                    "a file has a producer or a location, not both",
                    place=f"files.{i}.location",
                    value=file.location,
                    remedy="Remove one of them.",
                )
        if file.location is not None:
            _known(f"files.{i}.location", file.location, machines, "machine")
        for name in file.consumers:
            _known(f"files.{i}.consumers", name, tasks, "task")
    _check_branches(problem, tasks)
    if problem.fair_share is not None and any(w.tenant is None for w in problem.workflows):
        raise ProblemError(
            "fair_share needs a tenant for every workflow",
            place="fair_share",
            remedy="Name the tenants of the workflows.",
        )
    _check_objectives(problem)
    _check_cycle(problem)
    _check_fits(problem)


def _unique(place: str, names: Sequence[object], field: str) -> set[object]:
    known = set(names)
    if len(known) != len(names):
        seen: set[object] = set()
        for i, name in enumerate(names):
            if name in seen:
                raise ProblemError(
                    f"{field} must be unique in {place}",
                    place=f"{place}.{i}",
                    value=name,
                    remedy="Rename or remove the duplicate.",
                )
            seen.add(name)
    return known


def _known(place: str, name: str, known: set[object], what: str) -> None:
    if name not in known:
        raise ProblemError(
            f"there must be a {what} of that name",
            place=place,
            value=name,
            remedy=f"Add the {what} or correct the name.",
        )


def _check_branches(problem: WorkflowProblem, tasks: set[object]) -> None:
    seen: set[str] = set()
    scenarios = 1
    for i, branch in enumerate(problem.branches):
        scenarios *= len(branch.alternatives)
        total = math.fsum(a.probability for a in branch.alternatives)
        if total > 1 + 1e-9:
            raise ProblemError(
                "the probabilities of a branch must add up to at most 1",
                place=f"branches.{i}",
                value=total,
                remedy="Correct the probabilities.",
            )
        for k, alternative in enumerate(branch.alternatives):
            for name in alternative.tasks:
                _known(f"branches.{i}.alternatives.{k}.tasks", name, tasks, "task")
                if name in seen:
                    raise ProblemError(
                        "a task belongs to at most one alternative",
                        place=f"branches.{i}.alternatives.{k}.tasks",
                        value=name,
                        remedy="Nested conditions must be written as one branch.",
                    )
                seen.add(name)
    if scenarios > MAX_SCENARIOS:
        raise ProblemError(
            f"branches may have at most {MAX_SCENARIOS} combinations of alternatives",
            place="branches",
            value=scenarios,
            remedy="Write unlikely branches as ordinary tasks.",
        )


def _check_objectives(problem: WorkflowProblem) -> None:
    if len(set(problem.objectives)) != len(problem.objectives):
        raise ProblemError(
            "an objective must not be named twice",
            place="objectives",
            value=list(problem.objectives),
            remedy="Remove the repetition.",
        )
    for name, value in problem.limits.items():
        if value < 0 and name != "log_success":
            raise ProblemError(
                "a limit must not be negative",
                place=f"limits.{name}",
                value=value,
                remedy="Correct the limit.",
            )


Needs = dict[tuple[str, str], list[tuple[str, float]]]

#: Dependencies of the problems in use, by identity: problems are immutable, and every check of a
#: schedule needs them.
_derived: dict[int, tuple[weakref.ref[WorkflowProblem], Needs]] = {}


def dependencies(problem: WorkflowProblem) -> Needs:
    """Every (producer task, consumer task) with the (file, bytes) that go from one to the other.

    The data of an edge is a file named ``source->target``; an edge without data has no file.
    """
    key = id(problem)
    known = _derived.get(key)
    if known is None or known[0]() is not problem:
        forget = weakref.ref(problem, lambda _: _derived.pop(key, None))
        known = _derived[key] = (forget, _dependencies(problem))
    return known[1]


def _dependencies(problem: WorkflowProblem) -> Needs:
    out: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for edge in problem.edges:
        carried = [(f"{edge.source}->{edge.target}", edge.size)] if edge.size > 0 else []
        out[edge.source, edge.target] = carried
    for file in problem.files:
        if file.producer is not None:
            for consumer in dict.fromkeys(file.consumers):
                if consumer != file.producer:
                    out.setdefault((file.producer, consumer), []).append((file.id, file.size))
    return out


def _check_cycle(problem: WorkflowProblem) -> None:
    for edge in problem.edges:
        if edge.source == edge.target:
            raise ProblemError(
                "a task must not wait for itself",
                place="edges",
                value=edge.source,
                remedy="Remove the edge.",
            )
    cycle = find_cycle([t.id for t in problem.tasks], dependencies(problem))
    if cycle:
        shown = cycle if len(cycle) <= 12 else [*cycle[:6], "...", *cycle[-5:]]
        raise ProblemError(
            f"tasks must not wait for each other in a cycle: {' -> '.join(shown)}",
            place="edges",
            remedy="Remove an edge of the cycle.",
        )


def find_cycle(nodes: Iterable[str], edges: Iterable[tuple[str, str]]) -> list[str]:
    """A cycle as nodes with the first repeated at the end; empty when there is none."""
    successors: dict[str, list[str]] = {n: [] for n in nodes}
    waiting = dict.fromkeys(successors, 0)
    for source, target in edges:
        successors[source].append(target)
        waiting[target] += 1
    stack = [n for n, count in waiting.items() if count == 0]
    while stack:
        node = stack.pop()
        del waiting[node]
        for other in successors[node]:
            waiting[other] -= 1
            if waiting[other] == 0:
                stack.append(other)
    if not waiting:
        return []
    # Every node left has a predecessor that is left: walking backwards must close a cycle.
    before = {w: n for n in waiting for w in successors[n] if w in waiting}
    node = next(iter(before))
    seen: dict[str, int] = {}
    path: list[str] = []
    while node not in seen:
        seen[node] = len(path)
        path.append(node)
        node = before[node]
    path = path[seen[node] :]
    return [path[0], *reversed(path)]


def fits(task: Task, option: Option, machine: Machine) -> bool:
    """Whether the option can run on the machine at all."""
    if task.machines is not None and machine.name not in task.machines:
        return False
    if option.durations is not None and machine.name not in option.durations:
        return False
    if any(label not in machine.labels for label in task.labels):
        return False
    if machine.cores is not None and option.cores > machine.cores:
        return False
    if machine.memory is not None and option.memory > machine.memory:
        return False
    return option.gpus <= machine.gpus


class Fitting:
    """The machines that options fit on; tasks that ask for the same share one tuple of them."""

    def __init__(self, problem: WorkflowProblem) -> None:
        self.all = problem.machines
        self.known: dict[tuple[object, ...], tuple[Machine, ...]] = {}

    def machines(self, task: Task, option: Option) -> tuple[Machine, ...]:
        """The machines that an option of a task can run on, in order."""
        named = None if option.durations is None else frozenset(option.durations)
        key = (task.labels, task.machines, named, option.cores, option.memory, option.gpus)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = tuple(m for m in self.all if fits(task, option, m))
        return found


def _check_fits(problem: WorkflowProblem) -> None:
    fitting = Fitting(problem)
    for i, task in enumerate(problem.tasks):
        if not any(fitting.machines(task, option) for option in task.choices):
            raise ProblemError(
                "the task fits no machine: see its labels, cores, memory, gpus and durations",
                place=f"tasks.{i}",
                value=task.id,
                remedy="Add a machine for it, or lower what it asks for.",
            )
