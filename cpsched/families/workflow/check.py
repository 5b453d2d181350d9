"""The definition of a valid workflow schedule: every rule, and the values of its objectives.

Independent of models and solvers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from cpsched.families.workflow import terms
from cpsched.families.workflow.consistent import fits
from cpsched.families.workflow.problem import (
    Placement,
    Task,
    Transfer,
    WorkflowProblem,
    WorkflowSchedule,
)
from cpsched.families.workflow.replay import TOLERANCE, Replay, peak, slack
from cpsched.validate import Violation


def check(problem: WorkflowProblem, schedule: WorkflowSchedule) -> list[Violation]:
    """Every violation of the schedule: an event-by-event replay of tasks, data and resources."""
    out: list[Violation] = []
    replay = Replay(problem, schedule)
    _check_tasks(replay, out)
    if out:
        return out
    _check_times(replay, out)
    _check_data(replay, out)
    _check_resources(replay, out)
    _check_storage(replay, out)
    _check_limits(replay, out)
    return out


def evaluate(
    problem: WorkflowProblem, schedule: WorkflowSchedule, names: Sequence[str]
) -> tuple[float, ...]:
    """Values of the named objectives of a valid schedule."""
    replay = Replay(problem, schedule)
    return tuple(replay.objective(name) for name in names)


def _check_tasks(replay: Replay, out: list[Violation]) -> None:
    problem, schedule = replay.problem, replay.schedule
    known = {t.id for t in problem.tasks}
    if len(replay.at) != len(schedule.tasks):
        seen: set[str] = set()
        for placed in schedule.tasks:
            if placed.task in seen:
                out.append(Violation("task", f"task {placed.task} is placed twice"))
            seen.add(placed.task)
    out += [
        Violation("task", f"there is no task {name}", {"task": name})
        for name in replay.at
        if name not in known
    ]
    for task in problem.tasks:
        placed_ = replay.at.get(task.id)
        where = {"task": task.id}
        if placed_ is None:
            out.append(Violation("task", f"task {task.id} is not placed", where))
        elif placed_.machine not in replay.machine:
            out.append(Violation("machine", f"there is no machine {placed_.machine}", where))
        elif placed_.option >= len(task.choices):
            out.append(Violation("option", f"task {task.id} has no option {placed_.option}", where))
        elif not fits(task, task.choices[placed_.option], replay.machine[placed_.machine]):
            out.append(
                Violation("machine", f"task {task.id} cannot run on {placed_.machine}", where)
            )


def _check_times(replay: Replay, out: list[Violation]) -> None:
    problem = replay.problem
    release = {w.id: w.release for w in problem.workflows}
    latest = {w.id: w.deadline for w in problem.workflows}
    for task in problem.tasks:
        placed = replay.at[task.id]
        where = {"task": task.id}
        length = terms.duration(replay.option(task), replay.machine[placed.machine])
        tolerance = slack(placed.end)
        if abs(placed.end - placed.start - length) > tolerance:
            out.append(
                Violation(
                    "duration",
                    f"task {task.id} takes {placed.end - placed.start}, not {length}",
                    where,
                )
            )
        earliest = max(task.release, release.get(task.workflow or "", 0.0))
        if placed.start < earliest - tolerance:
            out.append(
                Violation(
                    "release",
                    f"task {task.id} starts at {placed.start}, before its release at {earliest}",
                    where,
                    earliest - placed.start,
                )
            )
        limits = (task.deadline, latest.get(task.workflow or ""), problem.deadline)
        out += [
            Violation(
                "deadline",
                f"task {task.id} ends at {placed.end}, after its deadline at {deadline}",
                where,
                placed.end - deadline,
            )
            for deadline in limits
            if deadline is not None and placed.end > deadline + slack(deadline)
        ]
    for source, target in replay.needs:
        before, after = replay.at[source], replay.at[target]
        if after.start < before.end - slack(before.end):
            out.append(
                Violation(
                    "precedence",
                    f"task {target} starts at {after.start}, before {source} ends at {before.end}",
                    {"task": target, "after": source},
                    before.end - after.start,
                )
            )


class _Due(NamedTuple):
    """A file that a machine waits for: where it is, from when on, and by when it must arrive."""

    producer: str | None
    home: str
    ready: float
    size: float
    by: float


def _check_data(replay: Replay, out: list[Violation]) -> None:
    problem = replay.problem
    ready: list[tuple[str | None, str, str, float, list[tuple[str, float]]]] = [
        (source, target, replay.at[source].machine, replay.at[source].end, carried)
        for (source, target), carried in replay.needs.items()
        if carried
    ]
    located: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for file in problem.files:
        if file.producer is None and file.location is not None:
            for consumer in dict.fromkeys(file.consumers):
                located[file.location, consumer].append((file.id, file.size))
    ready += [(None, target, home, 0.0, fs) for (home, target), fs in located.items()]
    arrivals = replay.arrivals()
    sources: dict[tuple[str, str], _Due] = {}
    for source, target, home, time, carried in ready:
        placed = replay.at[target]
        if home == placed.machine:
            continue
        for file_id, size in carried:
            known = sources.get((file_id, placed.machine))
            by = placed.start if known is None else min(known.by, placed.start)
            sources[file_id, placed.machine] = _Due(source, home, time, size, by)
        if problem.contention:
            arrival = max(arrivals.get((f, placed.machine), math.inf) for f, _ in carried)
        else:
            arrival = time + replay.delay(home, placed.machine, [size for _, size in carried])
        if placed.start < arrival - slack(arrival if math.isfinite(arrival) else 0.0):
            out.append(
                Violation(
                    "transfer",
                    f"task {target} starts at {placed.start}, before its data from "
                    f"{source or home} is there at {arrival}",
                    {"task": target, "from": source or home},
                )
            )
    _check_transfers(replay, sources, out)


def _check_transfers(
    replay: Replay,
    sources: dict[tuple[str, str], _Due],
    out: list[Violation],
) -> None:
    links: dict[tuple[str, str], list[Transfer]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    for sent in replay.schedule.transfers:
        where = {"file": sent.file, "to": sent.target}
        expected = sources.get((sent.file, sent.target))
        if expected is None or (sent.file, sent.target) in seen:
            out.append(Violation("transfer", f"nothing on {sent.target} needs {sent.file}", where))
            continue
        seen.add((sent.file, sent.target))
        least = replay.delay(expected.home, sent.target, [expected.size])
        if (sent.producer, sent.source) != (expected.producer, expected.home):
            message = f"{sent.file} is on {expected.home}, produced by {expected.producer}"
            out.append(Violation("transfer", message, where))
        elif sent.start < expected.ready - slack(expected.ready):
            message = f"{sent.file} is sent at {sent.start}, before it exists at {expected.ready}"
            out.append(Violation("transfer", message, where))
        elif sent.end - sent.start < least - slack(sent.end):
            message = f"{sent.file} takes {least}, not {sent.end - sent.start}"
            out.append(Violation("transfer", message, where))
        elif sent.end > expected.by + slack(sent.end):
            message = f"{sent.file} arrives at {sent.end}, after its reader starts at {expected.by}"
            out.append(Violation("transfer", message, where))
        if sent.end > sent.start:
            links[sent.source, sent.target].append(sent)
    if replay.problem.contention:
        for (source, target), sents in links.items():
            sents.sort(key=lambda t: (t.start, t.end))
            for before, after in pairwise(sents):
                if after.start < before.end - slack(before.end):
                    message = f"{before.file} and {after.file} overlap on {source}->{target}"
                    out.append(Violation("contention", message, {"from": source, "to": target}))


def _check_resources(replay: Replay, out: list[Violation]) -> None:
    on: dict[str, list[Task]] = defaultdict(list)
    for task in replay.problem.tasks:
        placed = replay.at[task.id]
        if placed.end - placed.start > 2 * slack(placed.end):
            on[placed.machine].append(task)
    for name, tasks in on.items():
        machine = replay.machine[name]
        for task in tasks:
            placed = replay.at[task.id]
            tolerance = slack(placed.end)
            if machine.windows and not any(
                w.start <= placed.start + tolerance and placed.end <= w.end + tolerance
                for w in machine.windows
            ):
                out.append(
                    Violation(
                        "windows",
                        f"{name} is not available during all of task {task.id}",
                        {"task": task.id, "machine": name},
                    )
                )
        unit = machine.cores is None
        capacities = {
            "cores": 1.0 if machine.cores is None else machine.cores,
            "memory": math.inf if unit or machine.memory is None else machine.memory,
            "gpus": math.inf if unit else float(machine.gpus),
        }
        for resource, capacity in capacities.items():
            if not math.isfinite(capacity):
                continue
            used = []
            for task in tasks:
                option = replay.option(task)
                amount = 1.0 if unit else float(getattr(option, resource))
                if amount > 0:
                    used.append((replay.at[task.id], amount, replay.part_of.get(task.id)))
            over = _overload(used, capacity)
            if over is not None:
                time, load = over
                out.append(
                    Violation(
                        resource,
                        f"tasks on {name} need {load} {resource} at {time}, it has {capacity}",
                        {"machine": name, "time": time},
                        load - capacity,
                    )
                )


def _overload(
    used: Sequence[tuple[Placement, float, tuple[int, int] | None]], capacity: float
) -> tuple[float, float] | None:
    """First (time, load) above the capacity; alternatives of a branch count by their maximum."""
    events = []
    for placed, amount, part in used:
        tolerance = slack(placed.end)
        events.append((placed.start + tolerance, amount, part))
        events.append((placed.end - tolerance, -amount, part))
    events.sort(key=lambda e: (e[0], e[1]))
    limit = capacity + 1e-9 * max(1.0, capacity)
    steady = 0.0
    conditional: dict[int, dict[int, float]] = {}
    for time, amount, part in events:
        if part is None:
            steady += amount
        else:
            loads = conditional.setdefault(part[0], {})
            loads[part[1]] = loads.get(part[1], 0.0) + amount
        load = steady + sum(max(loads.values()) for loads in conditional.values())
        if load > limit and amount > 0:
            return time, load
    return None


def _check_storage(replay: Replay, out: list[Violation]) -> None:
    limited = {m.name: m.storage for m in replay.problem.machines if m.storage is not None}
    if not limited:
        return
    copies = replay.copies()
    for name, capacity in limited.items():
        most = peak(copies[name])
        if most > capacity * (1 + 1e-9):
            out.append(
                Violation(
                    "storage",
                    f"{name} holds up to {most} bytes, its storage has {capacity}",
                    {"machine": name},
                    most - capacity,
                )
            )


def _check_limits(replay: Replay, out: list[Violation]) -> None:
    problem = replay.problem
    for resource in ("cost", "energy", "carbon", "tokens"):
        budget = getattr(problem.budgets, resource)
        if budget is not None:
            spent = replay.worst_case(resource)
            if spent > budget + slack(budget):
                message = f"{resource} may reach {spent}, the budget is {budget}"
                out.append(Violation("budgets", message, {"budget": resource}, spent - budget))
    if problem.min_success is not None:
        value = replay.objective("log_success")
        if value < math.log(problem.min_success) - TOLERANCE:
            message = f"success has probability {math.exp(value)}, not {problem.min_success}"
            out.append(Violation("min_success", message))
    for name, limit in problem.limits.items():
        value = replay.objective(name)
        over = limit - value if name == "log_success" else value - limit
        if over > slack(abs(limit)):
            out.append(Violation("limits", f"{name} is {value}, its limit is {limit}"))
    if problem.fair_share is not None:
        fair = terms.fair_finishes(problem)
        for (flow, tasks), finish in zip(terms.members(problem), fair, strict=True):
            end = max(replay.at[t.id].end for t in tasks)
            if end > finish + problem.fair_share + slack(end):
                message = f"workflow {flow.id} ends at {end}, its fair finish is {finish}"
                out.append(Violation("fair_share", message, {"workflow": flow.id}, end - finish))
    stated = replay.schedule.makespan
    if stated is not None:
        actual = replay.objective("makespan")
        if abs(stated - actual) > slack(actual):
            out.append(Violation("makespan", f"the makespan is {actual}, not {stated}"))
