"""Replanning an allocation: what is alive keeps its place, events are applied, the rest is free.

Buffers alive at ``now`` are pinned to their offsets: moving one means copying it. When the rest
cannot be placed around them, as few of them as possible are moved, each named as a broken promise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.memory.explain import constraints
from cpsched.families.memory.problem import Buffer, MemoryProblem, MemorySchedule, Operation
from cpsched.problem import LARGEST
from cpsched.replan import Event, Revision, foreign, refusal

#: The id of the memory as a whole in `capacity` events; spaces go by their own names.
MEMORY = "memory"


def revise(
    problem: MemoryProblem,
    schedule: MemorySchedule,
    now: float,
    events: Sequence[Event],
    stability: int,
) -> Revision:
    """The problem from ``now`` on.

    Events: ``insert`` and ``cancel`` of buffers (or operations), ``delay`` and ``finish`` of
    lifetimes, and ``capacity``: of the memory (id ``memory``), of a space, or the new size of a
    buffer. Mappings and orders can be replanned before they have begun only. With a stability
    weight the buffers to come keep their offsets where the gain does not pay.

    Raises
    ------
    ProblemError
        For a schedule of other buffers, and events about unknown or impossible things.
    """
    state = _State(problem, schedule, now)
    for event in events:
        handler = getattr(state, f"_{event.type}", None)
        if handler is None:
            raise refusal(event, "memory has no such event")
        handler(event)
    return state.revision()


def _whole(value: float, place: str, low: int = 0) -> int:
    if value != math.floor(value) or not low <= value <= LARGEST:
        raise ProblemError(
            f"times and sizes are whole numbers, {'zero or more' if low == 0 else 'in range'}",
            place=place,
            value=value,
            remedy="Round it.",
        )
    return int(value)


class _State:
    """Buffers, operations and capacities while events are applied."""

    def __init__(self, problem: MemoryProblem, schedule: MemorySchedule, now: float) -> None:
        self.base, self.now = problem, _whole(now, "now")
        self.buffers = {b.id: b for b in problem.buffers}
        self.operations = {o.id: o for o in problem.operations}
        self.capacity = problem.capacity
        self.spaces = {s.name: s for s in problem.spaces}
        self.offset: dict[str, int] = {}
        self.old = schedule
        for place in schedule.buffers:
            if place.buffer not in self.buffers:
                raise foreign("schedule.buffers", place.buffer)
            self.offset[place.buffer] = place.offset
        for name in schedule.order:
            if name not in self.operations:
                raise foreign("schedule.order", name)
        self.planned = problem.form == "allocation"
        if not self.planned and self.now > self._beginning():
            raise ProblemError(
                f"the {problem.form} form cannot be replanned once it has begun",
                place="now",
                value=now,
                remedy="Replan before its first use, or solve the rest as a problem of its own.",
            )
        self.moved: dict[str, int] = {}

    def _beginning(self) -> int:
        return min((b.lower for b in self.base.buffers if b.lower is not None), default=0)

    def _alive(self, name: str) -> bool:
        """Whether a buffer has a place and its lifetime has begun."""
        lower = self.buffers[name].lower
        return self.planned and name in self.offset and lower is not None and lower < self.now

    def _buffer(self, event: Event) -> Buffer:
        if event.id not in self.buffers:
            raise refusal(event, "there is no buffer of that id")
        return self.buffers[event.id]

    def _change(self, name: str, **update: Any) -> None:
        # Rebuilt, not copied: the new values pass the schema's checks.
        self.buffers[name] = Buffer.parse(self.buffers[name].model_dump() | update)

    def _lifetime(self, event: Event) -> tuple[Buffer, int, int]:
        buffer = self._buffer(event)
        if buffer.lower is None or buffer.upper is None:
            raise refusal(event, "lifetimes follow from the order")
        if self._alive(buffer.id) and buffer.upper <= event.time:
            raise refusal(event, "its lifetime has ended before")
        return buffer, buffer.lower, buffer.upper

    # ------------------------------------------------------------------ events

    def _delay(self, event: Event) -> None:
        buffer, lower, upper = self._lifetime(event)
        if event.by is None and event.until is None:
            raise refusal(event, "it needs 'by' or 'until'")
        by = 0 if event.by is None else _whole(event.by, "events.by")
        until = 0 if event.until is None else _whole(event.until, "events.until")
        if self._alive(buffer.id):
            self._change(buffer.id, upper=max(upper + by, until))
            return
        if buffer.gaps or buffer.uses:
            raise refusal(event, "it has gaps or uses, which would not move with it")
        shift = max(by, until - lower)
        self._change(buffer.id, lower=lower + shift, upper=upper + shift)

    def _finish(self, event: Event) -> None:
        buffer, lower, _ = self._lifetime(event)
        time = _whole(event.time, "events.time")
        if lower >= time or not self._alive(buffer.id):
            raise refusal(event, "its lifetime has not begun")
        gaps = [
            g.model_dump() | {"upper": min(g.upper, time)} for g in buffer.gaps if g.lower < time
        ]
        self._change(buffer.id, upper=time, gaps=gaps)

    def _capacity(self, event: Event) -> None:
        if event.capacity is None:
            raise refusal(event, "it needs the new 'capacity'")
        new = _whole(event.capacity, "events.capacity")
        if event.id in self.buffers:
            self._change(event.id, size=new)
        elif event.id in self.spaces:
            space = self.spaces[event.id]
            self.spaces[event.id] = space.model_copy(update={"capacity": new})
        elif event.id == MEMORY and not self.spaces:
            self.capacity = new
        else:
            raise refusal(event, f"there is no buffer or space of that name (or '{MEMORY}')")

    def _insert(self, event: Event) -> None:
        if event.item is None:
            raise refusal(event, "it needs the new buffer or operation as 'item'")
        if event.id in self.buffers or event.id in self.operations:
            raise refusal(event, "there is one of that id already")
        if event.item.get("id", event.id) != event.id:
            raise refusal(event, f"its item has the id {event.item['id']!r}")
        data = event.item | {"id": event.id}
        if "inputs" in data or "outputs" in data:
            self.operations[event.id] = Operation.parse(data)
            return
        buffer = Buffer.parse(data)
        if self.planned and buffer.lower is not None and buffer.lower < self.now:
            raise refusal(event, "its lifetime begins before now", remedy="Let it begin at 'now'.")
        self.buffers[event.id] = buffer

    def _cancel(self, event: Event) -> None:
        if event.id in self.operations:
            del self.operations[event.id]
            return
        buffer = self._buffer(event)
        for other in self.buffers.values():
            if other.alias is not None and other.alias.of == buffer.id:
                raise refusal(event, f"buffer {other.id!r} is a view into it")
        del self.buffers[buffer.id]

    # ------------------------------------------------------------------ result

    def revision(self) -> Revision:
        """The revised problem; offsets of what is alive are promises."""
        alive = {n: self.offset[n] for n in self.buffers if self._alive(n)}
        revised = self._problem(alive)
        pinned = {f"pinned:{n}" for n in alive if self.buffers[n].offset is None}
        promises = tuple(c for c in constraints(revised) if c.name in pinned)
        stable = self._problem(self.offset) if self.planned else None
        return Revision(revised, self._hint(), promises, stable)

    def _problem(self, offsets: dict[str, int]) -> MemoryProblem:
        buffers = [
            b
            if b.offset is not None or b.alias is not None or name not in offsets
            else b.model_copy(update={"offset": offsets[name]})
            for name, b in self.buffers.items()
        ]
        buffers = [
            b.model_copy(update={"in_place": tuple(n for n in b.in_place if n in self.buffers)})
            if b.in_place
            else b
            for b in buffers
        ]
        operations = [
            o.model_copy(
                update={
                    "inputs": tuple(n for n in o.inputs if n in self.buffers),
                    "outputs": tuple(n for n in o.outputs if n in self.buffers),
                }
            )
            for o in self.operations.values()
        ]
        fields: dict[str, Any] = {f: getattr(self.base, f) for f in type(self.base).model_fields}
        return MemoryProblem.parse(
            fields
            | {
                "buffers": buffers,
                "operations": operations,
                "capacity": self.capacity,
                "spaces": tuple(self.spaces.values()),
            }
        )

    def _hint(self) -> MemorySchedule:
        places = []
        for place in self.old.buffers:
            buffer = self.buffers.get(place.buffer)
            if buffer is None:
                continue
            times: dict[str, Any] = {}
            if self.planned and place.start is not None:
                times = {"start": buffer.lower, "end": buffer.upper}
            places.append(place.model_copy(update=times))
        return MemorySchedule(
            buffers=tuple(places),
            copies=tuple(c for c in self.old.copies if c.buffer in self.buffers),
            order=tuple(n for n in self.old.order if n in self.operations),
        )
