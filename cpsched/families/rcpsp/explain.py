"""The named constraints of a problem, and the problem that keeps only some of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cpsched.families import NamedConstraint
from cpsched.families.rcpsp.problem import Precedence, RcpspProblem, Resource, Selection, Task


def constraints(problem: RcpspProblem) -> list[NamedConstraint]:
    """Everything a planner could relax, one name each."""
    return [
        NamedConstraint(name, name.split(":")[0], sentence)
        for name, sentence in _sentences(problem)
    ]


def _sentences(problem: RcpspProblem) -> Iterator[tuple[str, str]]:
    unit = f" {problem.time_unit}" if problem.time_unit else ""
    if problem.horizon is not None:
        yield "horizon:", f"Every task ends by {problem.horizon}{unit}, the horizon."
    if problem.calendar is not None:
        yield "calendar:", "Nobody works outside the calendar's working times."
    for resource in problem.resources:
        yield from _of_resource(resource)
    for task in problem.tasks:
        if task.release:
            yield (
                f"release:{task.id}",
                f"Task {task.id!r} starts at {task.release}{unit} or later, its release date.",
            )
        if task.deadline is not None:
            yield (
                f"deadline:{task.id}",
                f"Task {task.id!r} ends at {task.deadline}{unit} or earlier, its deadline.",
            )
        if task.blocks_until is not None:
            yield (
                f"blocking:{task.id}",
                f"Task {task.id!r} keeps its resources until task {task.blocks_until!r} starts.",
            )
    for i, p in enumerate(problem.precedences):
        first, second = p.type.split("-")
        ends = f"the {first} of task {p.before!r}", f"the {second} of task {p.after!r}"
        if p.min_lag is not None:
            yield f"precedence:{i}:min", f"From {ends[0]} to {ends[1]} at least {p.min_lag}{unit}."
        if p.max_lag is not None:
            yield f"precedence:{i}:max", f"From {ends[0]} to {ends[1]} at most {p.max_lag}{unit}."
        if p.transport:
            yield (
                f"transport:{i}",
                f"Between task {p.before!r} and task {p.after!r} there is time for the transport "
                "from machine to machine.",
            )
    for setups in problem.setups:
        yield (
            f"setup:{setups.resource}",
            f"Resource {setups.resource!r} is set up between tasks that follow each other.",
        )
    yield from _of_shop(problem)
    for i, group in enumerate(problem.disjunctive):
        label = f" (group {group.name!r})" if group.name else ""
        listed = _listed(group.tasks)
        yield f"disjunctive:{i}", f"No two of the tasks {listed} overlap{label}."
    for i, selection in enumerate(problem.selections):
        yield f"selection:{i}", _of_selection(selection)


def _of_shop(problem: RcpspProblem) -> Iterator[tuple[str, str]]:
    if not problem.swap:
        yield "swap:", "Blocking tasks that wait for each other's machines do not swap."
    for i, same in enumerate(problem.same_sequence):
        listed = "; ".join(_listed(tasks) for tasks in same.lists[:3])
        yield f"same_sequence:{i}", f"The tasks of these lists are in the same order: {listed}."
    for i, batching in enumerate(problem.batching):
        families = ", of one family" if batching.families else ""
        yield (
            f"batching:{i}",
            f"Tasks that overlap on {batching.resource!r} start together{families}.",
        )
    for i, rule in enumerate(problem.assignments):
        which = "the same" if rule.type == "identical" else "different"
        among = f" among {_listed(rule.resources)}" if rule.resources else ""
        yield (
            f"assignment:{i}",
            f"The tasks {_listed(rule.tasks)} are done by {which} resources{among}.",
        )


def _of_resource(resource: Resource) -> Iterator[tuple[str, str]]:
    name = resource.name
    if resource.type == "renewable":
        yield f"capacity:{name}", f"Resource {name!r} has {resource.capacity} units at a time."
        if resource.capacity_changes:
            yield (
                f"capacity_changes:{name}",
                f"Resource {name!r} has another capacity in {len(resource.capacity_changes)} "
                "stretches of time.",
            )
        if resource.windows:
            listed = ", ".join(f"[{w.start}, {w.end})" for w in resource.windows[:6])
            yield f"windows:{name}", f"Resource {name!r} is there only in {listed}."
        if resource.no_idle:
            yield f"no_idle:{name}", f"Machine {name!r} works without a gap once it has started."
    elif resource.type == "nonrenewable":
        yield (
            f"nonrenewable:{name}",
            f"Resource {name!r} has {resource.capacity} units for the whole project.",
        )
    else:
        top = "" if resource.maximum is None else f" and at most {resource.maximum}"
        yield (
            f"reservoir:{name}",
            f"The level of reservoir {name!r}, {resource.initial} at first, is always at least "
            f"{resource.minimum}{top}.",
        )


def _of_selection(selection: Selection) -> str:
    listed = _listed(selection.tasks)
    text = {
        "exactly_one": f"Exactly one of the tasks {listed} is executed",
        "at_least_one": f"At least one of the tasks {listed} is executed",
        "all_or_none": f"All or none of the tasks {listed} are executed",
        "implication": f"If task {selection.tasks[0]!r} is executed, so are "
        f"{_listed(selection.tasks[1:])}",
    }[selection.type]
    if selection.condition is not None:
        text += f", if task {selection.condition!r} is"
    return text + "."


def _listed(names: tuple[str, ...]) -> str:
    shown = [repr(name) for name in names[:6]]
    if len(names) > 6:
        shown.append(f"... ({len(names)} in all)")
    return ", ".join(shown)


def restrict(problem: RcpspProblem, names: frozenset[str]) -> RcpspProblem:
    """The problem with only the named constraints; durations and mandatory tasks stay."""
    dropped = {
        r.name
        for r in problem.resources
        if not names & {f"{rule}:{r.name}" for rule in ("capacity", "nonrenewable", "reservoir")}
    }
    return problem.model_copy(
        update={
            "tasks": tuple(_task(task, names, dropped) for task in problem.tasks),
            "resources": tuple(
                _resource(r, names) for r in problem.resources if r.name not in dropped
            ),
            "precedences": tuple(
                kept
                for i, p in enumerate(problem.precedences)
                if (kept := _precedence(p, i, names)) is not None
            ),
            "disjunctive": _numbered(problem.disjunctive, "disjunctive", names),
            "selections": _numbered(problem.selections, "selection", names),
            "setups": tuple(
                s.model_copy(
                    update={"demands": {k: v for k, v in s.demands.items() if k not in dropped}}
                )
                for s in problem.setups
                if f"setup:{s.resource}" in names and s.resource not in dropped
            ),
            "swap": problem.swap or "swap:" not in names,
            "same_sequence": _numbered(problem.same_sequence, "same_sequence", names),
            "batching": tuple(
                b
                for b in _numbered(problem.batching, "batching", names)
                if b.resource not in dropped
            ),
            "assignments": _numbered(problem.assignments, "assignment", names),
            "horizon": problem.horizon if "horizon:" in names else None,
            "calendar": problem.calendar if "calendar:" in names else None,
        }
    )


def _numbered(items: tuple[Any, ...], rule: str, names: frozenset[str]) -> tuple[Any, ...]:
    return tuple(item for i, item in enumerate(items) if f"{rule}:{i}" in names)


def _resource(resource: Resource, names: frozenset[str]) -> Resource:
    update = {
        field: type(getattr(resource, field))()
        for field in ("capacity_changes", "windows", "no_idle")
        if f"{field}:{resource.name}" not in names
    }
    return resource.model_copy(update=update)


def _task(task: Task, names: frozenset[str], dropped: set[str]) -> Task:
    update: dict[str, Any] = {}
    if task.release and f"release:{task.id}" not in names:
        update["release"] = 0
    if task.deadline is not None and f"deadline:{task.id}" not in names:
        update["deadline"] = None
    if task.blocks_until is not None and f"blocking:{task.id}" not in names:
        update["blocks_until"] = None
    if dropped and any(name in dropped for mode in task.modes for name in mode.demands):
        update["modes"] = tuple(
            mode.model_copy(
                update={"demands": {k: v for k, v in mode.demands.items() if k not in dropped}}
            )
            for mode in task.modes
        )
    if any(event.resource in dropped for event in task.events):
        update["events"] = tuple(e for e in task.events if e.resource not in dropped)
    return task.model_copy(update=update) if update else task


def _precedence(p: Precedence, i: int, names: frozenset[str]) -> Precedence | None:
    least = p.min_lag if f"precedence:{i}:min" in names else None
    most = p.max_lag if f"precedence:{i}:max" in names else None
    moved = p.transport and f"transport:{i}" in names
    if (least, most, moved) == (p.min_lag, p.max_lag, p.transport):
        return p
    if least is None and most is None and not moved:
        return None
    return p.model_copy(update={"min_lag": least, "max_lag": most, "transport": moved})
