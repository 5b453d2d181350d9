"""Replanning a project or shop: facts are fixed, events applied, the rest is free from now on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.explain import constraints
from cpsched.families.rcpsp.problem import (
    CapacityChange,
    Fixed,
    Precedence,
    RcpspProblem,
    RcpspSchedule,
    Resource,
    ScheduledTask,
    Task,
)
from cpsched.families.rcpsp.problem_shop import SameSequence
from cpsched.problem import LARGEST
from cpsched.replan import Event, Revision, foreign


def revise(
    problem: RcpspProblem,
    schedule: RcpspSchedule,
    now: float,
    events: Sequence[Event],
    stability: int,
) -> Revision:
    """The problem from ``now`` on.

    Tasks that started before ``now`` become facts, with the ends that the events give them. A
    running task loses its work when a resource it needs goes down and it is not pausable: it has
    to be done again. Cancelled tasks disappear with their precedences.

    Raises
    ------
    ProblemError
        For times that are no integers, and events about unknown or impossible things.
    """
    state = _State(problem, schedule, _whole(now, "now"))
    for event in events:
        state.apply(event)
    revised = state.problem(stability)
    promises = tuple(c for c in constraints(revised) if c.group == "deadline")
    return Revision(revised, state.schedule(revised), promises)


def _whole(time: float, place: str) -> int:
    if time != math.floor(time) or not 0 <= time <= LARGEST:
        raise ProblemError(
            "times of this kind are whole numbers of time units, zero or more",
            place=place,
            value=time,
            remedy="Round it.",
        )
    return int(time)


class _State:
    """The tasks, resources and precedences while the events are applied."""

    def __init__(self, problem: RcpspProblem, schedule: RcpspSchedule, now: int) -> None:
        self.base, self.now = problem, now
        self.tasks = {t.id: t for t in problem.tasks}
        self.resources = {r.name: r for r in problem.resources}
        self.precedences = list(problem.precedences)
        self.entries: dict[str, ScheduledTask] = {}
        for entry in schedule.tasks:
            if entry.task not in self.tasks:
                raise foreign("schedule.tasks", entry.task)
            self.entries[entry.task] = entry
        self.ends = {e.task: e.end for e in schedule.tasks if e.start < now}

    def started(self, name: str) -> bool:
        return name in self.ends

    def running(self, name: str, time: int) -> bool:
        return name in self.ends and self.entries[name].start <= time < self.ends[name]

    # ------------------------------------------------------------------ events

    def apply(self, event: Event) -> None:
        time = _whole(event.time, "events.time")
        handler = getattr(self, f"_{event.type}")
        handler(event, time)

    def _task(self, event: Event) -> Task:
        if event.id not in self.tasks:
            raise ProblemError(
                f"a {event.type} event needs a known task",
                place="events.id",
                value=event.id,
                remedy="Correct the id.",
            )
        return self.tasks[event.id]

    def _resource(self, event: Event) -> Resource:
        resource = self.resources.get(event.id)
        if resource is None or resource.type != "renewable":
            raise ProblemError(
                f"a {event.type} event needs a known renewable resource",
                place="events.id",
                value=event.id,
                remedy="Correct the id.",
            )
        return resource

    def _change(self, name: str, **update: Any) -> None:
        # Rebuilt, not copied: the new values pass the schema's checks.
        self.tasks[name] = Task.parse(self.tasks[name].to_dict() | update)

    def _delay(self, event: Event, time: int) -> None:
        task = self._task(event)
        if event.by is None and event.until is None:
            raise ProblemError(
                "a delay needs 'by' or 'until'", place="events", value=event.id, remedy="Add one."
            )
        by = 0 if event.by is None else _whole(event.by, "events.by")
        until = 0 if event.until is None else _whole(event.until, "events.until")
        if self.started(task.id):
            if self.ends[task.id] <= time:
                raise _contradicts(event, "it has ended before")
            self.ends[task.id] = max(self.ends[task.id] + by, until)
        else:
            planned = self.entries[task.id].start if task.id in self.entries else task.release
            self._change(task.id, release=max(planned + by if by else task.release, until))

    def _finish(self, event: Event, time: int) -> None:
        task = self._task(event)
        if not self.started(task.id) or self.entries[task.id].start > time:
            raise _contradicts(event, "it has not started")
        self.ends[task.id] = time

    def _resource_down(self, event: Event, time: int) -> None:
        resource = self._resource(event)
        until = LARGEST if event.until is None else _whole(event.until, "events.until")
        if until <= time:
            raise _contradicts(event, "it ends before it begins")
        for name in [n for n in self.ends if self.running(n, time)]:
            task, entry = self.tasks[name], self.entries[name]
            if not task.modes[entry.mode].demands.get(resource.name):
                continue
            if task.pausable and until < LARGEST:
                self.ends[name] += until - time
            else:
                del self.ends[name]
        self._set_capacity(resource, time, until, 0)

    def _resource_up(self, event: Event, time: int) -> None:
        resource = self._resource(event)
        changes = [
            c if c.end <= time or c.capacity else c.model_copy(update={"end": time})
            for c in resource.capacity_changes
            if c.capacity or c.start < time
        ]
        self.resources[resource.name] = resource.model_copy(
            update={"capacity_changes": tuple(changes)}
        )

    def _capacity(self, event: Event, time: int) -> None:
        resource = self._resource(event)
        if event.capacity is None:
            raise ProblemError(
                "a capacity event needs 'capacity'",
                place="events",
                value=event.id,
                remedy="Add the new capacity.",
            )
        until = LARGEST if event.until is None else _whole(event.until, "events.until")
        if until <= time:
            raise _contradicts(event, "it ends before it begins")
        self._set_capacity(resource, time, until, _whole(event.capacity, "events.capacity"))

    def _set_capacity(self, resource: Resource, start: int, end: int, capacity: int) -> None:
        """The resource with that capacity in that stretch, whatever was planned there."""
        kept = []
        for c in resource.capacity_changes:
            if c.start < start:
                kept.append(c.model_copy(update={"end": min(c.end, start)}))
            if c.end > end:
                kept.append(c.model_copy(update={"start": max(c.start, end)}))
        kept.append(CapacityChange(start=start, end=end, capacity=capacity))
        self.resources[resource.name] = resource.model_copy(
            update={"capacity_changes": tuple(sorted(kept, key=lambda c: c.start))}
        )

    def _insert(self, event: Event, time: int) -> None:
        if event.item is None:
            raise ProblemError(
                "an insert event needs 'item'", place="events", value=event.id, remedy="Add it."
            )
        if event.id in self.tasks:
            raise _contradicts(event, "a task of that id exists")
        task = Task.parse({"id": event.id} | event.item)
        if task.id != event.id:
            raise _contradicts(event, f"its item has the id {task.id!r}")
        for name in (*event.after, *event.before):
            if name not in self.tasks:
                raise ProblemError(
                    "an inserted task can only follow and precede known tasks",
                    place="events",
                    value=name,
                    remedy="Correct the id.",
                )
        self.tasks[task.id] = task
        self._change(task.id, release=max(task.release, time))
        self.precedences += [Precedence(before=name, after=task.id) for name in event.after]
        self.precedences += [Precedence(before=task.id, after=name) for name in event.before]

    def _cancel(self, event: Event, time: int) -> None:
        task = self._task(event)
        if self.started(task.id) and self.ends[task.id] <= time:
            raise _contradicts(event, "it has ended before")
        del self.tasks[task.id]
        self.entries.pop(task.id, None)
        self.ends.pop(task.id, None)

    def _due_date(self, event: Event, time: int) -> None:
        task = self._task(event)
        if event.due is None and event.deadline is None:
            raise ProblemError(
                "a due_date event needs 'due' or 'deadline'",
                place="events",
                value=event.id,
                remedy="Add one.",
            )
        if event.due is not None:
            self._change(task.id, due=_whole(event.due, "events.due"))
        if event.deadline is not None:
            self._change(task.id, deadline=_whole(event.deadline, "events.deadline"))

    def _priority(self, event: Event, time: int) -> None:
        task = self._task(event)
        if event.weight is None:
            raise ProblemError(
                "a priority event needs 'weight'", place="events", value=event.id, remedy="Add it."
            )
        self._change(task.id, weight=_whole(event.weight, "events.weight"))

    # ------------------------------------------------------------------ the revised problem

    def problem(self, stability: int) -> RcpspProblem:
        tasks = []
        for name, task in self.tasks.items():
            entry = self.entries.get(name)
            if entry is not None and name in self.ends:
                fact = Fixed(mode=entry.mode, start=entry.start, end=self.ends[name])
                task = task.model_copy(update={"fixed": fact, "deadline": None})
            else:
                task = task.model_copy(update={"release": max(task.release, self.now)})
            if stability and entry is not None:
                task = task.model_copy(update={"planned": entry.start})
            if task.blocks_until is not None and task.blocks_until not in self.tasks:
                task = task.model_copy(update={"blocks_until": None})
            tasks.append(task)
        gone = {t.id for t in self.base.tasks} - self.tasks.keys()
        update: dict[str, Any] = {
            "tasks": tuple(tasks),
            "resources": tuple(self.resources.values()),
            "precedences": tuple(
                p for p in self.precedences if p.before not in gone and p.after not in gone
            ),
            "disjunctive": tuple(
                g.model_copy(update={"tasks": left})
                for g in self.base.disjunctive
                if len(left := tuple(t for t in g.tasks if t not in gone)) > 1
            ),
            "selections": tuple(s for s in self.base.selections if not gone & {*s.tasks}),
            "same_sequence": tuple(_without(s, gone) for s in self.base.same_sequence),
            "assignments": tuple(
                a.model_copy(update={"tasks": left})
                for a in self.base.assignments
                if len(left := tuple(t for t in a.tasks if t not in gone)) > 1
            ),
            "setups": tuple(
                s.model_copy(
                    update={"states": {k: v for k, v in s.states.items() if k not in gone}}
                )
                for s in self.base.setups
            ),
            "batching": tuple(
                b.model_copy(
                    update={"families": {k: v for k, v in b.families.items() if k not in gone}}
                )
                for b in self.base.batching
            ),
        }
        if stability:
            main = next((o for o in self.base.objectives if o != "replan_cost"), "makespan")
            update |= {
                "stability": stability,
                "stable_objective": main,
                "objectives": ("replan_cost",),
            }
        # Parsed anew, so that what the events made of it meets the schema's rules.
        return RcpspProblem.parse(self.base.model_copy(update=update).to_dict())

    def schedule(self, revised: RcpspProblem) -> RcpspSchedule:
        """The old plan under the new facts; tasks of which it knows nothing are missing."""
        entries = []
        for name, entry in self.entries.items():
            end = self.ends.get(name, entry.end)
            entries.append(entry.model_copy(update={"end": end}))
        makespan = max((e.end for e in entries), default=0)
        return RcpspSchedule(tasks=tuple(entries), makespan=makespan)


def _without(same: SameSequence, gone: set[str]) -> SameSequence:
    """The lists without the jobs of which a task is gone."""
    jobs = [job for job in zip(*same.lists, strict=True) if not gone & set(job)]
    lists = tuple(zip(*jobs, strict=True)) if jobs else tuple(() for _ in same.lists)
    return same.model_copy(update={"lists": lists})


def _contradicts(event: Event, why: str) -> ProblemError:
    return ProblemError(
        f"the {event.type} event cannot be: {why}",
        place="events",
        value=event.id,
        remedy="Correct its time or id.",
    )
