"""The checker of the `rcpsp` family, written from the definition of the problem.

It shares no code with the model: only the schema, and the step functions of capacity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from cpsched.families.rcpsp.check_shop import by_resource, check_shop, released, setup_uses
from cpsched.families.rcpsp.evaluate import evaluate
from cpsched.families.rcpsp.problem import (
    Mode,
    Precedence,
    RcpspProblem,
    RcpspSchedule,
    Resource,
    ScheduledTask,
    Task,
)
from cpsched.families.rcpsp.profile import (
    NEVER,
    Piece,
    Span,
    breaks_of,
    capacity_profiles,
    end_after,
)
from cpsched.validate import Violation

__all__ = ["Checker", "check", "evaluate"]


def check(problem: RcpspProblem, schedule: RcpspSchedule) -> list[Violation]:
    """Every rule that the schedule breaks; empty when it is valid."""
    checker = Checker(problem, schedule)
    checker.tasks()
    checker.windows()
    checker.durations()
    checker.capacity()
    checker.nonrenewable()
    checker.reservoir()
    checker.precedence()
    checker.disjunctive()
    checker.selection()
    checker.makespan()
    check_shop(checker)
    return checker.violations


class Checker:
    """One pass over one schedule; each method checks the rule it is named after."""

    def __init__(self, problem: RcpspProblem, schedule: RcpspSchedule) -> None:
        self.problem, self.schedule = problem, schedule
        self.violations: list[Violation] = []
        self.task = {t.id: t for t in problem.tasks}
        self.profiles = capacity_profiles(problem)
        self.renewable = {r.name: r for r in problem.resources if r.type == "renewable"}
        #: The tasks that can be judged further: known, listed once, in an existing mode.
        self.done: dict[str, ScheduledTask] = {}
        self._breaks: dict[tuple[str, ...], list[Span]] = {}

    @cached_property
    def holding(self) -> dict[str, list[ScheduledTask]]:
        """Per resource the tasks that hold it, by start; for the rules that ask for an order."""
        return by_resource(self.problem, self.done.values())

    def report(
        self, rule: str, message: str, amount: int | None = None, /, **where: str | int
    ) -> None:
        self.violations.append(Violation(rule, message, dict(where), amount))

    def mode(self, done: ScheduledTask) -> Mode:
        return self.task[done.task].modes[done.mode]

    def free(self) -> list[tuple[str, ScheduledTask]]:
        """The tasks that are decided by the schedule, not facts."""
        return [(name, done) for name, done in self.done.items() if self.task[name].fixed is None]

    def breaks(self, task: Task, mode: Mode) -> list[Span]:
        """The breaks that make this task pause."""
        if not task.pausable:
            return []
        held = tuple(sorted(name for name in _held(mode) if name in self.profiles))
        if held not in self._breaks:
            self._breaks[held] = breaks_of(held, self.profiles)
        return self._breaks[held]

    # ------------------------------------------------------------------ one task at a time

    def tasks(self) -> None:
        listed: set[str] = set()
        for done in self.schedule.tasks:
            name = done.task
            if name not in self.task:
                self.report("task", f"task {name!r} is not in the problem", task=name)
            elif name in listed:
                self.report("task", f"task {name!r} is listed twice", task=name)
            elif (fixed := self.task[name].fixed) is not None and (
                (done.mode, done.start, done.end) != (fixed.mode, fixed.start, fixed.end)
            ):
                message = (
                    f"task {name!r} has started already: mode {fixed.mode} in [{fixed.start}, "
                    f"{fixed.end}), the schedule moves it"
                )
                self.report("fixed", message, task=name, time=fixed.start)
            elif not 0 <= done.mode < len(self.task[name].modes):
                count = len(self.task[name].modes)
                message = f"task {name!r} has {count} modes, the schedule uses mode {done.mode}"
                self.report("mode", message, task=name)
            else:
                self.done[name] = done
                mode = self.mode(done)
                held = {r for r in _held(mode) if r in self.renewable}
                if done.resources and mode.duration and set(done.resources) != held:
                    message = (
                        f"task {name!r} in mode {done.mode} holds {_list(held)}, the schedule says "
                        f"{_list(done.resources)}"
                    )
                    self.report("mode", message, task=name)
            listed.add(name)
        for name, task in self.task.items():
            if name not in listed and task.fixed is not None:
                self.report("fixed", f"task {name!r} has started already and is missing", task=name)
            elif name not in listed and not task.optional:
                self.report("optional", f"task {name!r} is missing and not optional", task=name)

    def windows(self) -> None:
        horizon = self.problem.horizon
        for name, done in self.free():
            task = self.task[name]
            if done.start < task.release:
                amount = task.release - done.start
                message = f"task {name!r} starts at {done.start}, before its release {task.release}"
                self.report("release", message, amount, task=name, time=done.start)
            if task.deadline is not None and done.end > task.deadline:
                amount = done.end - task.deadline
                message = f"task {name!r} ends at {done.end}, after its deadline {task.deadline}"
                self.report("deadline", message, amount, task=name, time=done.end)
            if done.end >= NEVER:
                self.report("horizon", f"task {name!r} ends at {done.end}, never", task=name)
            if horizon is not None and done.end > horizon:
                message = f"task {name!r} ends at {done.end}, after the horizon {horizon}"
                self.report("horizon", message, done.end - horizon, task=name, time=done.end)

    def durations(self) -> None:
        for name, done in self.free():
            mode = self.mode(done)
            breaks = self.breaks(self.task[name], mode)
            end = end_after(done.start, mode.duration, breaks)
            if done.end != end:
                message = (
                    f"task {name!r} in mode {done.mode} (duration {mode.duration}) starts at "
                    f"{done.start} and must end at {end}, not {done.end}"
                )
                self.report("duration", message, abs(done.end - end), task=name, time=done.end)
            if mode.duration and any(left <= done.start < right for left, right in breaks):
                message = f"task {name!r} starts at {done.start}, inside a break"
                self.report("pausable", message, task=name, time=done.start)

    # ------------------------------------------------------------------ resources

    def capacity(self) -> None:
        uses: dict[str, list[Piece]] = defaultdict(list)
        facts: dict[str, list[Piece]] = defaultdict(list)
        for name, done in self.done.items():
            kept = uses if self.task[name].fixed is None else facts
            pausable = self.task[name].pausable
            for resource, units in self.mode(done).demands.items():
                if units and resource in self.renewable and done.end > done.start:
                    profile = self.profiles.get(resource, [])
                    stretches = [(done.start, done.end)]
                    if pausable:
                        stretches = _without(stretches[0], profile)
                    stretches += _without((done.end, released(self, done)), profile)
                    kept[resource] += [(left, right, units) for left, right in stretches]
        for resource, *piece in setup_uses(self):
            uses[resource].append((piece[0], piece[1], piece[2]))
        for resource, used in uses.items():
            self._capacity_of(self.renewable[resource], used, facts[resource])

    def _capacity_of(self, resource: Resource, used: list[Piece], facts: list[Piece]) -> None:
        """Sweep over time; one violation per stretch in which the demand is too large."""
        steps: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        for pieces, column in ((used, 0), (facts, 2)):
            for start, end, units in pieces:
                steps[start][column] += units
                steps[end][column] -= units
        for start, end, capacity in self.profiles.get(resource.name, []):
            steps[start][1] += capacity - resource.capacity
            steps[end][1] -= capacity - resource.capacity
        own, held, ordinary = 0, 0, resource.capacity
        times = sorted(steps)
        for time, until in zip(times, [*times[1:], times[-1]], strict=True):
            own += steps[time][0]
            ordinary += steps[time][1]
            held += steps[time][2]
            use, capacity = own + held, max(ordinary, held)
            if use > capacity:
                message = (
                    f"resource {resource.name!r} is used by {use} units in [{time}, {until}), its "
                    f"capacity is {capacity}"
                )
                self.report(
                    "capacity",
                    message,
                    use - capacity,
                    resource=resource.name,
                    time=time,
                    end=until,
                )

    def nonrenewable(self) -> None:
        used: dict[str, int] = defaultdict(int)
        facts: dict[str, int] = defaultdict(int)
        for name, done in self.done.items():
            for resource, units in self.mode(done).demands.items():
                used[resource] += units
                facts[resource] += units if self.task[name].fixed is not None else 0
        for r in self.problem.resources:
            if r.type == "nonrenewable" and used[r.name] > max(r.capacity, facts[r.name]):
                amount = used[r.name] - r.capacity
                message = (
                    f"resource {r.name!r} is consumed by {used[r.name]} units, there are "
                    f"{r.capacity}"
                )
                self.report("nonrenewable", message, amount, resource=r.name)

    def reservoir(self) -> None:
        changes: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for name, done in self.done.items():
            for event in self.task[name].events:
                time = done.start if event.at == "start" else done.end
                changes[event.resource][time] += event.amount
        for resource in self.problem.resources:
            if resource.type != "reservoir":
                continue
            level = resource.initial
            by_time = changes[resource.name]
            for time in sorted({0, *by_time}):
                level += by_time.get(time, 0)
                low, high = resource.minimum, resource.maximum
                if level < low or (high is not None and level > high):
                    limit = low if level < low else high
                    word = "below its minimum" if level < low else "above its maximum"
                    message = (
                        f"reservoir {resource.name!r} has level {level} from time {time}, {word} "
                        f"{limit}"
                    )
                    self.report(
                        "reservoir",
                        message,
                        abs(level - (limit or 0)),
                        resource=resource.name,
                        time=time,
                    )

    # ------------------------------------------------------------------ several tasks

    def precedence(self) -> None:
        for p in self.problem.precedences:
            before, after = self.done.get(p.before), self.done.get(p.after)
            if before is None or after is None:
                continue
            if self.task[p.before].fixed is not None and self.task[p.after].fixed is not None:
                continue
            lag = _lag(p, before, after)
            first, second = p.type.split("-")
            between = f"{first} of {p.before!r} to {second} of {p.after!r}"
            where: dict[str, str | int] = {
                "before": p.before,
                "after": p.after,
                "time": after.start,
            }
            if p.min_lag is not None and lag < p.min_lag:
                message = f"the time from {between} is {lag}, at least {p.min_lag} is required"
                self.report("precedence", message, p.min_lag - lag, **where)
            if p.max_lag is not None and lag > p.max_lag:
                message = f"the time from {between} is {lag}, at most {p.max_lag} is allowed"
                self.report("precedence", message, lag - p.max_lag, **where)

    def disjunctive(self) -> None:
        for i, group in enumerate(self.problem.disjunctive):
            present = [self.done[name] for name in group.tasks if name in self.done]
            present = sorted((d for d in present if d.end > d.start), key=lambda d: d.start)
            latest: ScheduledTask | None = None
            for done in present:
                facts = latest is not None and all(
                    self.task[d.task].fixed is not None for d in (latest, done)
                )
                if latest is not None and done.start < latest.end and not facts:
                    amount = min(done.end, latest.end) - done.start
                    message = (
                        f"tasks {latest.task!r} and {done.task!r} overlap in "
                        f"[{done.start}, {done.start + amount})"
                    )
                    label = group.name or str(i)
                    self.report("disjunctive", message, amount, group=label, task=done.task)
                if latest is None or done.end > latest.end:
                    latest = done

    def selection(self) -> None:
        for i, selection in enumerate(self.problem.selections):
            if selection.condition is not None and selection.condition not in self.done:
                continue
            present = [name for name in selection.tasks if name in self.done]
            count, total = len(present), len(selection.tasks)
            first = selection.tasks[0] in self.done
            holds = {
                "exactly_one": count == 1,
                "at_least_one": count >= 1,
                "all_or_none": count in (0, total),
                "implication": not first or count == total,
            }[selection.type]
            if not holds:
                message = (
                    f"selection {i} ({selection.type}) of {_list(selection.tasks)} has "
                    f"{_list(present)} present"
                )
                self.report("selection", message, selection=i)

    def makespan(self) -> None:
        given = self.schedule.makespan
        latest = max((d.end for d in self.schedule.tasks), default=0)
        if given is not None and given != latest:
            message = f"the schedule gives makespan {given}, its last task ends at {latest}"
            self.report("makespan", message, abs(given - latest))


def _held(mode: Mode) -> list[str]:
    return [name for name, units in mode.demands.items() if units]


def _list(names: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _without(stretch: Span, profile: Sequence[Piece]) -> list[Span]:
    """The stretch without the breaks in a profile."""
    left, right = stretch
    out = []
    for start, end, capacity in profile:
        if capacity == 0 and start < right and end > left:
            if start > left:
                out.append((left, start))
            left = max(left, end)
    if left < right:
        out.append((left, right))
    return out


def _lag(p: Precedence, before: ScheduledTask, after: ScheduledTask) -> int:
    first, second = p.type.split("-")
    origin = before.end if first == "end" else before.start
    target = after.end if second == "end" else after.start
    return target - origin
