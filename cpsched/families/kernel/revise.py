"""Replanning a loop: other latencies, other limits, other operations, near the old schedule.

A loop has no running part: ``now`` only orders the events, and the whole schedule may change. The
search starts from the old slots and groups; with a stability weight the groups stay unless moving
operations pays. Limits on the interval and the length are promises that may have to be given up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cpsched.families.kernel.explain import constraints
from cpsched.families.kernel.problem import (
    Edge,
    KernelProblem,
    KernelSchedule,
    Machine,
    Operation,
)
from cpsched.problem import LARGEST
from cpsched.replan import Event, Revision, foreign, refusal

#: Limits of the machine and of the schedule that `capacity` and `due_date` events name.
LIMITS = (
    "registers_per_warp",
    "registers",
    "smem_bytes",
    "tmem_columns",
    "max_warps",
    "max_groups",
)
DATES = {"initiation_interval": "max_initiation_interval", "length": "max_length"}


def revise(
    problem: KernelProblem,
    schedule: KernelSchedule,
    now: float,
    events: Sequence[Event],
    stability: int,
) -> Revision:
    """The loop after the events.

    ``delay`` makes an operation's latency, and the delays of the values it gives, longer by ``by``
    (shorter when negative); ``capacity`` sets a unit's capacity, a limit of the machine
    (`LIMITS`), a buffer's largest depth, or the number of ``groups``; ``due_date`` with
    ``deadline`` limits the ``initiation_interval`` or the ``length``; ``insert`` adds an operation
    after and before others, ``cancel`` removes one, joining what it stood between.

    Raises
    ------
    ProblemError
        For a schedule of another loop, and events about unknown or impossible things.
    """
    loop = _Loop(problem, schedule)
    for event in events:
        handler = getattr(loop, f"_{event.type}", None)
        if handler is None:
            raise refusal(event, "loops know no such event")
        handler(event)
    return loop.revision()


class _Loop:
    """Operations, edges and limits while events are applied."""

    def __init__(self, problem: KernelProblem, schedule: KernelSchedule) -> None:
        self.base, self.old = problem, schedule
        self.operations = {o.id: o for o in problem.operations}
        self.edges = list(problem.edges)
        self.buffers = {b.name: b for b in problem.buffers}
        self.update: dict[str, Any] = {}
        self.machine = problem.machine
        for placed in schedule.operations:
            if placed.operation not in self.operations:
                raise foreign("schedule.operations", placed.operation)

    def _operation(self, event: Event) -> Operation:
        if event.id not in self.operations:
            raise refusal(event, "there is no operation of that id")
        return self.operations[event.id]

    @staticmethod
    def _number(event: Event, value: float | None, field: str, low: int = 0) -> int:
        if value is None:
            raise refusal(event, f"it needs '{field}'")
        if value != math.floor(value) or not low <= value <= LARGEST:
            raise refusal(event, f"'{field}' must be a whole number, at least {low}")
        return int(value)

    # ------------------------------------------------------------------ events

    def _delay(self, event: Event) -> None:
        operation = self._operation(event)
        by = self._number(event, event.by, "by", -LARGEST)
        if operation.latency + by < 0:
            raise refusal(event, f"its latency is only {operation.latency}")
        self.operations[operation.id] = Operation.parse(
            operation.model_dump() | {"latency": operation.latency + by}
        )
        self.edges = [
            Edge.parse(e.model_dump() | {"delay": e.delay + by})
            if e.source == operation.id and e.kind == "true"
            else e
            for e in self.edges
        ]

    def _capacity(self, event: Event) -> None:
        value = self._number(event, event.capacity, "capacity")
        unit = self.machine.unit(event.id)
        if unit is not None:
            if value < 1:
                raise refusal(event, "a unit has a capacity of at least 1")
            units = tuple(
                u.model_copy(update={"capacity": value}) if u is unit else u
                for u in self.machine.units
            )
            self.machine = self.machine.model_copy(update={"units": units})
        elif event.id in self.buffers:
            buffer = self.buffers[event.id]
            if value < buffer.min_depth:
                raise refusal(event, f"the buffer has at least {buffer.min_depth} slots")
            self.buffers[event.id] = buffer.model_copy(update={"max_depth": value})
        elif event.id in LIMITS:
            self.machine = Machine.parse(self.machine.model_dump() | {event.id: value})
        elif event.id == "groups" and self.base.grouped:
            self.update["groups"] = value
        else:
            raise refusal(
                event,
                "there is no unit, buffer or limit of that name",
                remedy=f"Name a unit, a buffer, or one of {', '.join(LIMITS)}.",
            )

    def _due_date(self, event: Event) -> None:
        if event.id not in DATES:
            raise refusal(
                event, "only the interval and the length are limited", remedy="Name one of the two."
            )
        value = event.deadline if event.deadline is not None else event.due
        self.update[DATES[event.id]] = self._number(event, value, "deadline", 1)

    def _insert(self, event: Event) -> None:
        if event.item is None:
            raise refusal(event, "it needs the new operation as 'item'")
        if event.id in self.operations:
            raise refusal(event, "there is an operation of that id already")
        if event.item.get("id", event.id) != event.id:
            raise refusal(event, f"its item has the id {event.item['id']!r}")
        for name in (*event.after, *event.before):
            if name not in self.operations:
                raise refusal(event, f"there is no operation {name!r} to follow or precede")
        new = Operation.parse(event.item | {"id": event.id})
        self.operations[new.id] = new
        for name in event.after:
            delay = self.operations[name].latency
            self.edges.append(Edge(source=name, target=new.id, delay=delay))
        self.edges += [Edge(source=new.id, target=n, delay=new.latency) for n in event.before]

    def _cancel(self, event: Event) -> None:
        operation = self._operation(event)
        if len(self.operations) == 1:
            raise refusal(event, "a loop has at least one operation")
        into = [e for e in self.edges if e.target == operation.id and e.source != operation.id]
        out = [e for e in self.edges if e.source == operation.id and e.target != operation.id]
        kept = [e for e in self.edges if operation.id not in (e.source, e.target)]
        # Who came before still comes before, without the time and the value of what is gone.
        kept += [
            Edge(
                source=a.source,
                target=b.target,
                delay=min(a.delay, self.operations[a.source].latency),
                distance=a.distance + b.distance,
                kind="output",
            )
            for a in into
            for b in out
            if a.buffer is None and b.buffer is None and a.source != b.target
        ]
        self.edges = kept
        del self.operations[operation.id]

    # ------------------------------------------------------------------ result

    def revision(self) -> Revision:
        """The revised loop, with the old schedule as a hint."""
        known = {
            p.operation: p.group for p in self.old.operations if p.operation in self.operations
        }
        revised = self._problem({})
        groups = revised.group_count
        keep = {n: g for n, g in known.items() if g is not None and g < groups}
        promises = tuple(c for c in constraints(revised) if c.name in DATES)
        hint = self.old.model_copy(
            update={
                "operations": tuple(p for p in self.old.operations if p.operation in known),
                "buffers": tuple(b for b in self.old.buffers if self._has(b.buffer)),
            }
        )
        stable = self._problem(keep) if keep else None
        return Revision(revised, hint, promises, stable)

    def _has(self, buffer: str) -> bool:
        return buffer in self.buffers or buffer in self.operations

    def _problem(self, groups: dict[str, int]) -> KernelProblem:
        """The loop; the operations named stay in those groups."""
        operations = [
            o.model_copy(update={"group": groups[n]}) if n in groups and o.group is None else o
            for n, o in self.operations.items()
        ]
        fields: dict[str, Any] = {f: getattr(self.base, f) for f in type(self.base).model_fields}
        return KernelProblem.parse(
            fields
            | self.update
            | {
                "operations": operations,
                "edges": self.edges,
                "buffers": tuple(self.buffers.values()),
                "machine": self.machine,
            }
        )
