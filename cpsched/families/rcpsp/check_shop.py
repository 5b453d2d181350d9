"""The shop rules of the checker: one function per rule, named as in the schema."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

from cpsched.families.rcpsp.problem import RcpspProblem, ScheduledTask

if TYPE_CHECKING:
    from cpsched.families.rcpsp.check import Checker
    from cpsched.families.rcpsp.problem_shop import Setups


def check_shop(checker: Checker) -> None:
    """Report every shop rule that the checker's schedule breaks."""
    blocking(checker)
    swap(checker)
    setup(checker)
    no_idle(checker)
    same_sequence(checker)
    transport(checker)
    batching(checker)
    assignment(checker)


def by_resource(
    problem: RcpspProblem, done: Iterable[ScheduledTask]
) -> dict[str, list[ScheduledTask]]:
    """Per resource the tasks that hold it for some time, by start."""
    tasks = {t.id: t for t in problem.tasks}
    holding: dict[str, list[ScheduledTask]] = defaultdict(list)
    for d in done:
        if d.end > d.start:
            for name, units in tasks[d.task].modes[d.mode].demands.items():
                if units:
                    holding[name].append(d)
    for own in holding.values():
        own.sort(key=lambda d: (d.start, d.end))
    return holding


def released(checker: Checker, done: ScheduledTask) -> int:
    """When a task gives its resources back: its end, or the start of the task it waits for."""
    taker = _taker(checker, done)
    return done.end if taker is None else max(done.end, taker.start)


def _taker(checker: Checker, done: ScheduledTask) -> ScheduledTask | None:
    task = checker.task[done.task]
    if task.blocks_until is None or task.fixed is not None:
        return None
    return checker.done.get(task.blocks_until)


def _facts(checker: Checker, *tasks: ScheduledTask) -> bool:
    return all(checker.task[d.task].fixed is not None for d in tasks)


def blocking(checker: Checker) -> None:
    """Who takes over from a blocking task does not start before its end."""
    for name, done in checker.free():
        taker = checker.done.get(checker.task[name].blocks_until or "")
        if taker is not None and taker.start < done.end:
            message = (
                f"task {taker.task!r} takes over from {name!r} at {taker.start}, before its "
                f"end {done.end}"
            )
            checker.report("blocking", message, done.end - taker.start, task=name, time=done.end)


def swap(checker: Checker) -> None:
    """Moves at one time have an order in which each finds its machine free."""
    if checker.problem.swap:
        return
    machines = {r.name for r in checker.renewable.values() if r.capacity == 1}

    def held(done: ScheduledTask) -> set[str]:
        demands = checker.mode(done).demands if done.end > done.start else {}
        return {name for name, units in demands.items() if units and name in machines}

    # Machines that a task leaves behind when it takes over, and who starts on a machine when.
    left: dict[str, set[str]] = defaultdict(set)
    begins: dict[tuple[str, int], list[str]] = defaultdict(list)
    for _, done in checker.free():
        for machine in held(done):
            begins[machine, done.start].append(done.task)
        taker = _taker(checker, done)
        if taker is not None and taker.start >= done.end and not _facts(checker, taker):
            left[taker.task] |= held(done) - held(taker)
    followed = {
        name: [
            other
            for machine in machines
            for other in begins.get((machine, checker.done[name].start), ())
            if other in left and other != name
        ]
        for name, machines in left.items()
    }
    circle = _circle(followed)
    if circle:
        time = checker.done[circle[0]].start
        message = (
            f"at {time} the tasks {', '.join(map(repr, circle))} wait for each other's machines; "
            "they may not swap"
        )
        checker.report("swap", message, task=circle[0], time=time)


def _circle(after: dict[str, list[str]]) -> list[str]:
    """The nodes of some circle in a graph, or nothing."""
    waiting = dict.fromkeys(after, 0)
    for others in after.values():
        for other in others:
            waiting[other] += 1
    ready = [name for name, count in waiting.items() if not count]
    for name in ready:
        for other in after[name]:
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    rest = {name for name, count in waiting.items() if count}
    # What is left has a predecessor in the rest: going back from any node ends in a circle.
    before = {other: name for name in rest for other in after[name] if other in rest}
    path: list[str] = []
    name = min(rest, default="")
    while name and name not in path:
        path.append(name)
        name = before[name]
    return path[path.index(name) :][::-1] if path else []


def _setups_between(
    checker: Checker, setups: Setups
) -> Iterator[tuple[ScheduledTask, ScheduledTask, int]]:
    """Tasks that follow each other on a machine, not both facts, with the time of the setup."""
    for first, second in pairwise(checker.holding.get(setups.resource, ())):
        if not _facts(checker, first, second):
            time = setups.times[setups.states[first.task]][setups.states[second.task]]
            yield first, second, time


def setup(checker: Checker) -> None:
    """Between tasks that follow each other on a machine there is time for the setup."""
    for setups in checker.problem.setups:
        for first, second, least in _setups_between(checker, setups):
            gap = second.start - released(checker, first)
            if gap < least:
                message = (
                    f"between {first.task!r} and {second.task!r} on {setups.resource!r} there "
                    f"are {gap}, the setup takes {least}"
                )
                where: dict[str, str | int] = {"resource": setups.resource}
                where |= {"task": second.task, "time": second.start}
                checker.report("setup", message, least - gap, **where)


def setup_uses(checker: Checker) -> Iterator[tuple[str, int, int, int]]:
    """Resource, start, end and units of what setups hold besides their machine."""
    for setups in checker.problem.setups:
        needs = [(name, units) for name, units in setups.demands.items() if units]
        for _, second, time in _setups_between(checker, setups) if needs else ():
            for name, units in needs if time else ():
                yield name, second.start - time, second.start, units


def no_idle(checker: Checker) -> None:
    """A machine without idle time has no gap but setups before a task that is not a fact."""
    setups = {s.resource: s for s in checker.problem.setups}
    for resource in checker.problem.resources:
        if not resource.no_idle:
            continue
        rule = setups.get(resource.name)
        for first, second in pairwise(checker.holding.get(resource.name, ())):
            if checker.task[second.task].fixed is not None:
                continue
            needed = 0
            if rule is not None:
                needed = rule.times[rule.states[first.task]][rule.states[second.task]]
            idle = second.start - released(checker, first) - needed
            if idle > 0:
                message = (
                    f"machine {resource.name!r} is idle for {idle} between {first.task!r} and "
                    f"{second.task!r}"
                )
                where: dict[str, str | int] = {"resource": resource.name}
                where |= {"task": second.task, "time": second.start}
                checker.report("no_idle", message, idle, **where)


def same_sequence(checker: Checker) -> None:
    """In all lists the tasks of two positions start in the same order."""
    for k, same in enumerate(checker.problem.same_sequence):
        rows = [[checker.done.get(name) for name in tasks] for tasks in same.lists]
        for a, b in combinations(range(len(same.lists[0])), 2):
            pairs = [(row[a], row[b]) for row in rows]
            both = [(x, y) for x, y in pairs if x is not None and y is not None]
            facts = {_sign(x, y) for x, y in both if _facts(checker, x, y)} - {0}
            signs = {_sign(x, y) for x, y in both} - {0}
            if len(signs) > 1 and len(facts) < 2:
                first = next(pair for pair in both if _sign(*pair))
                x, y = next(pair for pair in both if _sign(*pair) == -_sign(*first))
                message = (
                    f"tasks {x.task!r} and {y.task!r} are not in the order of {first[0].task!r} "
                    f"and {first[1].task!r}"
                )
                where: dict[str, str | int] = {"task": x.task, "time": x.start}
                checker.report("same_sequence", message, same_sequence=k, **where)


def _sign(first: ScheduledTask, second: ScheduledTask) -> int:
    return (second.start > first.start) - (second.start < first.start)


def transport(checker: Checker) -> None:
    """Between tasks with transport there is time to get from machine to machine."""
    rule = checker.problem.transport
    if rule is None:
        return
    place = {name: k for k, name in enumerate(rule.resources)}
    for p in checker.problem.precedences:
        before, after = checker.done.get(p.before), checker.done.get(p.after)
        if not p.transport or before is None or after is None or _facts(checker, before, after):
            continue
        at = [
            [place[n] for n, units in checker.mode(d).demands.items() if units and n in place]
            for d in (before, after)
        ]
        # A task that holds none of the machines is everywhere.
        time = rule.times[at[0][0]][at[1][0]] if all(at) else 0
        least = (p.min_lag or 0) + time
        gap = after.start - before.end
        if gap < least:
            message = (
                f"from the end of {p.before!r} to the start of {p.after!r} there are {gap}, lag "
                f"and transport take {least}"
            )
            where: dict[str, str | int] = {"before": p.before, "after": p.after}
            checker.report("transport", message, least - gap, time=after.start, **where)


def batching(checker: Checker) -> None:
    """Tasks that overlap on a batching machine start together and are of one family."""
    for rule in checker.problem.batching:
        holding = checker.holding.get(rule.resource, [])
        for i, first in enumerate(holding):
            for second in holding[i + 1 :]:
                if second.start >= released(checker, first):
                    break
                alike = rule.families.get(first.task) == rule.families.get(second.task)
                if (first.start == second.start and alike) or _facts(checker, first, second):
                    continue
                why = "of different families" if not alike else "that do not start together"
                message = (
                    f"tasks {first.task!r} and {second.task!r}, {why}, overlap on {rule.resource!r}"
                )
                where: dict[str, str | int] = {"resource": rule.resource, "task": second.task}
                checker.report("batching", message, time=second.start, **where)


def assignment(checker: Checker) -> None:
    """Tasks are done by the same machines, or by different ones."""
    for k, rule in enumerate(checker.problem.assignments):
        counted = set(rule.resources or checker.renewable)
        done = [checker.done[name] for name in rule.tasks if name in checker.done]
        held = [
            {name for name, units in checker.mode(d).demands.items() if units and name in counted}
            for d in done
        ]
        for i, j in combinations(range(len(done)), 2):
            if _facts(checker, done[i], done[j]):
                continue
            shared = held[i] & held[j]
            broken = held[i] != held[j] if rule.type == "identical" else bool(shared)
            if broken:
                what = "not on the same machines" if rule.type == "identical" else "both on one"
                message = f"tasks {done[i].task!r} and {done[j].task!r} are {what}"
                checker.report("assignment", message, assignment=k, task=done[j].task)
