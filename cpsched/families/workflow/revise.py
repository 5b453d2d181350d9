"""Replanning a workflow: what has started is fixed, events are applied, the rest is free.

A started task becomes one whose only choice, release and deadline are what happened or is expected
of it. Its deadline is loosened by the checker's tolerance, as its times are floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cpsched.families.workflow.explain import constraints
from cpsched.families.workflow.problem import (
    HUGE,
    Edge,
    Machine,
    Placement,
    Task,
    Window,
    WorkflowProblem,
    WorkflowSchedule,
)
from cpsched.replan import Event, Revision, foreign, refusal


def revise(
    problem: WorkflowProblem,
    schedule: WorkflowSchedule,
    now: float,
    events: Sequence[Event],
    stability: int,
) -> Revision:
    """The problem from ``now`` on.

    A running task loses its work when its machine goes down. With a stability weight the tasks
    keep their machines where the gain of moving does not pay.

    Raises
    ------
    ProblemError
        For events about unknown or impossible things, and for ``capacity`` events.
    """
    state = _State(problem, schedule, now)
    for event in events:
        state.apply(event)
    revised = state.problem()
    known = {t.id for t in revised.tasks}
    carried = tuple(
        p.model_copy(update={"option": 0}) if p.task in state.ends else p
        for p in schedule.tasks
        if p.task in known
    )
    facts = {f"deadline:task {name}" for name in state.ends}
    promises = tuple(
        c for c in constraints(revised) if c.group == "deadline" and c.name not in facts
    )
    stable = state.problem(keep=state.places())
    return Revision(revised, WorkflowSchedule(tasks=carried), promises, stable)


class _State:
    """Tasks, machines and edges while events are applied."""

    def __init__(self, problem: WorkflowProblem, schedule: WorkflowSchedule, now: float) -> None:
        self.base, self.now = problem, now
        self.tasks = {t.id: t for t in problem.tasks}
        self.machines = {m.name: m for m in problem.machines}
        self.edges = list(problem.edges)
        self.down: set[str] = set()
        self.placed: dict[str, Placement] = {p.task: p for p in schedule.tasks}
        for name in self.placed:
            if name not in self.tasks:
                raise foreign("schedule.tasks", name)
        self.ends = {p.task: p.end for p in schedule.tasks if p.start < now}

    def apply(self, event: Event) -> None:
        """Change the state by one event."""
        handler = getattr(self, f"_{event.type}", None)
        if handler is None:
            raise refusal(event, "workflows know no such event")
        handler(event)

    def _task(self, event: Event) -> Task:
        if event.id not in self.tasks:
            raise refusal(event, "there is no task of that name")
        return self.tasks[event.id]

    def _machine(self, event: Event) -> Machine:
        if event.id not in self.machines:
            raise refusal(event, "there is no machine of that name")
        return self.machines[event.id]

    def _change(self, name: str, **update: Any) -> None:
        self.tasks[name] = Task.parse(self.tasks[name].model_dump() | update)

    def _delay(self, event: Event) -> None:
        task = self._task(event)
        if event.by is None and event.until is None:
            raise refusal(event, "it needs 'by' or 'until'")
        by, until = event.by or 0.0, event.until or 0.0
        if task.id in self.ends:
            if self.ends[task.id] <= event.time:
                raise refusal(event, "the task has ended before")
            self.ends[task.id] = max(self.ends[task.id] + by, until)
        else:
            planned = self.placed[task.id].start if task.id in self.placed else task.release
            release = max(task.release, until, planned + by if by else 0.0)
            self._change(task.id, release=release)

    def _finish(self, event: Event) -> None:
        task = self._task(event)
        if task.id not in self.ends or self.placed[task.id].start > event.time:
            raise refusal(event, "the task has not started")
        self.ends[task.id] = event.time

    def _resource_down(self, event: Event) -> None:
        machine = self._machine(event)
        until = HUGE if event.until is None else event.until
        if until <= event.time:
            raise refusal(event, "it ends before it begins")
        for name in list(self.ends):
            if self.placed[name].machine == machine.name and self.ends[name] > event.time:
                del self.ends[name]
        windows = []
        for window in machine.windows or (Window(start=0.0, end=HUGE),):
            for start, end in (
                (window.start, min(window.end, event.time)),
                (max(window.start, until), window.end),
            ):
                if end > start:
                    windows.append(Window(start=start, end=end))
        if not windows:
            # Never available again: the shortest window is in the past.
            windows = [Window(start=0.0, end=1e-9)]
        self.machines[machine.name] = machine.model_copy(update={"windows": tuple(windows)})
        self.down.add(machine.name)

    def _resource_up(self, event: Event) -> None:
        machine = self._machine(event)
        self.down.discard(machine.name)
        before = [
            Window(start=w.start, end=min(w.end, event.time))
            for w in machine.windows
            if w.start < event.time
        ]
        windows = (*before, Window(start=event.time, end=HUGE)) if machine.windows else ()
        self.machines[machine.name] = machine.model_copy(update={"windows": windows})

    def _capacity(self, event: Event) -> None:
        raise refusal(event, "cores of a machine do not change; use resource_down")

    def _insert(self, event: Event) -> None:
        if event.item is None:
            raise refusal(event, "it needs the new task as 'item'")
        task = Task.parse({"id": event.id} | event.item)
        if task.id in self.tasks:
            raise refusal(event, "there is a task of that name already")
        self.tasks[task.id] = task
        self.edges += [Edge(source=u, target=task.id) for u in event.after]
        self.edges += [Edge(source=task.id, target=v) for v in event.before]

    def _cancel(self, event: Event) -> None:
        task = self._task(event)
        if task.id in self.ends and self.ends[task.id] <= event.time:
            raise refusal(event, "the task has ended before")
        del self.tasks[task.id]
        self.ends.pop(task.id, None)

    def _due_date(self, event: Event) -> None:
        task = self._task(event)
        update = {"due": event.due, "deadline": event.deadline}
        self._change(task.id, **{k: x for k, x in update.items() if x is not None})

    def _priority(self, event: Event) -> None:
        self._change(self._task(event).id, weight=event.weight)

    # ------------------------------------------------------------------ result

    def places(self) -> dict[str, str]:
        """Planned machines of the tasks to come, less those that went down."""
        return {
            name: placed.machine
            for name, placed in self.placed.items()
            if name in self.tasks and name not in self.ends and placed.machine not in self.down
        }

    def problem(self, keep: Mapping[str, str] = MappingProxyType({})) -> WorkflowProblem:
        """The revised problem; the tasks in ``keep`` stay on those machines."""
        tasks = []
        for task in self.tasks.values():
            if task.id in self.ends:
                tasks.append(self._fact(task))
                continue
            update: dict[str, Any] = {"release": max(task.release, self.now)}
            if task.id in keep:
                update["machines"] = (keep[task.id],)
            tasks.append(task.model_copy(update=update))
        kept = set(self.tasks)
        files = tuple(
            f.model_copy(update={"consumers": tuple(c for c in f.consumers if c in kept)})
            for f in self.base.files
            if f.producer is None or f.producer in kept
        )
        branches = tuple(
            b.model_copy(
                update={
                    "alternatives": tuple(
                        a.model_copy(update={"tasks": tuple(t for t in a.tasks if t in kept)})
                        for a in b.alternatives
                    )
                }
            )
            for b in self.base.branches
        )
        fields = {name: getattr(self.base, name) for name in type(self.base).model_fields}
        return WorkflowProblem.parse(
            fields
            | {
                "tasks": tasks,
                "machines": list(self.machines.values()),
                "edges": [e for e in self.edges if e.source in kept and e.target in kept],
                "files": files,
                "branches": branches,
            }
        )

    def _fact(self, task: Task) -> Task:
        placed = self.placed[task.id]
        end = max(self.ends[task.id], placed.start)
        option = task.choices[placed.option]
        fields = option.model_dump(
            include={"name", "cores", "memory", "gpus", "cost", "tokens", "energy"}
            | {"success", "samples"}
        )
        update = fields | {
            "options": (),
            "work": None,
            "durations": {placed.machine: end - placed.start},
            "machines": (placed.machine,),
            "retries": 0,
            "release": placed.start,
            "deadline": end + 1e-9 * max(1.0, end),
        }
        return task.model_copy(update=update)
