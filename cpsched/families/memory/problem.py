"""The schema of the `memory` family: buffers over time, and where they are placed.

Three forms share it. *Allocation*: every buffer has a lifetime and needs an offset. *Mapping*
(with ``spaces``): tensors live in an unlimited home memory and may reside in faster spaces for
part of their lifetime. *Ordering* (with ``operations``): the lifetimes follow from the order in
which operations are executed. Offsets and sizes are in bytes (or any one unit), times are
integers, and intervals are half-open ``[lower, upper)``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from cpsched.errors import ProblemError
from cpsched.problem import Count, Name, ProblemBase, Record, Whole

#: Objectives of the family, by their contract names; all are minimised.
OBJECTIVES = ("height", "execution_time", "peak_memory")
ObjectiveName = Literal["height", "execution_time", "peak_memory"]

Positive = Annotated[int, Field(ge=1, le=10**12)]


class Gap(Record):
    """A part ``[lower, upper)`` of a lifetime in which a buffer needs none of its bytes.

    With ``window`` ``(low, high)`` it needs only the bytes ``[low, high)``, counted from its
    offset.
    """

    lower: Whole
    upper: Whole
    window: tuple[Count, Count] | None = None


class Alias(Record):
    """A buffer is a view into another: its offset is that of ``of`` plus ``shift``."""

    of: Name
    shift: Count = 0


class Use(Record):
    """A use of a tensor during ``[start, end)`` of the program's clock.

    ``benefit`` maps a space to the time saved when the tensor resides there for the whole use.
    """

    start: Whole
    end: Whole
    benefit: dict[Name, Count] = Field(default_factory=dict)


class Buffer(Record):
    """A buffer or tensor.

    ``size`` may be 0. The lifetime ``[lower, upper)`` is given, except in the ordering form, where
    it follows from the order. The offset must be a multiple of ``alignment``, equal ``offset``
    when that is given (pinned), and follow ``alias``. ``in_place`` names buffers whose place this
    one may take over: the two may overlap in time and space when their offsets are equal.

    Mapping: ``uses`` says what residence in a fast space saves; an ``input`` tensor lies in the
    home memory from the beginning, any other one is written at ``lower``; an ``output`` tensor
    must be in the home memory at ``upper``. Ordering: an ``output`` stays alive to the end, and
    ``recompute`` allows its operation to be executed more than once.
    """

    id: Name
    size: Count
    lower: Whole | None = None
    upper: Whole | None = None
    alignment: Positive = 1
    gaps: tuple[Gap, ...] = ()
    offset: Count | None = None
    alias: Alias | None = None
    in_place: tuple[Name, ...] = ()
    uses: tuple[Use, ...] = ()
    input: bool = False
    output: bool = False
    recompute: bool = False


class Space(Record):
    """A fast memory space of ``capacity`` bytes."""

    name: Name
    capacity: Count


class CopyEngine(Record):
    """What moves tensors between the home memory and the fast spaces.

    A copy of ``size`` bytes takes ``latency + ceil(size / rate)`` time units, and at most
    ``engines`` copies run at a time.
    """

    rate: Positive
    latency: Count = 0
    engines: Positive = 1


class Operation(Record):
    """A step of a program: reads ``inputs`` and writes ``outputs``, all alive meanwhile.

    Scratch memory is an output that nothing reads.
    """

    id: Name
    inputs: tuple[Name, ...] = ()
    outputs: tuple[Name, ...] = ()
    duration: Count = 1


class MemoryProblem(ProblemBase):
    """A memory-planning problem in one of its three forms; see the module's text.

    ``capacity`` is the limit of the offsets' height; without it the height (allocation) or the
    peak memory (ordering) is minimised. ``base_time`` is the execution time with every tensor in
    the ``home`` memory. ``executions`` limits how often a recomputable operation may run.

    Raises
    ------
    ProblemError
        For duplicate ids, lifetimes turned around, unknown names, cycles, and the like. A buffer
        above the capacity is well formed; `cpsched.solve` reports that nothing fits.
    """

    kind: Literal["memory"] = "memory"
    buffers: tuple[Buffer, ...]
    capacity: Count | None = None
    spaces: tuple[Space, ...] = ()
    home: Name = "slow"
    copy_engine: CopyEngine | None = None
    base_time: Count = 0
    operations: tuple[Operation, ...] = ()
    executions: Annotated[int, Field(ge=1, le=5)] = 2
    objectives: tuple[ObjectiveName, ...] = ()

    @property
    def form(self) -> str:
        """``allocation``, ``mapping`` or ``ordering``."""
        return "mapping" if self.spaces else "ordering" if self.operations else "allocation"

    @model_validator(mode="after")
    def _consistent(self) -> MemoryProblem:
        index = _unique([b.id for b in self.buffers], "buffers", "id")
        if self.spaces and self.operations:
            raise ProblemError(
                "a problem has either spaces or operations",
                place="operations",
                remedy="Order the operations first, then map the tensors of that order.",
            )
        for i, buffer in enumerate(self.buffers):
            _check_buffer(buffer, f"buffers.{i}", index, ordering=bool(self.operations))
        _check_aliases(self.buffers, index)
        _check_mapping(self)
        _check_operations(self, index)
        if len(set(self.objectives)) != len(self.objectives):
            raise ProblemError(
                "objectives must not repeat",
                place="objectives",
                value=self.objectives,
                remedy="Name each once.",
            )
        for name in self.objectives:
            if name not in objectives_of_form(self.form):
                raise ProblemError(
                    f"the objective does not belong to the {self.form} form",
                    place="objectives",
                    value=name,
                    remedy=f"Choose among {', '.join(objectives_of_form(self.form))}.",
                )
        return self


class PlacedBuffer(Record):
    """A buffer's place: ``[offset, offset + size)`` of ``space`` during ``[from, to)``."""

    model_config = ConfigDict(populate_by_name=True)

    buffer: Name
    offset: Count
    space: Name = "fast"
    start: Whole | None = Field(default=None, validation_alias="from", serialization_alias="from")
    end: Whole | None = Field(default=None, validation_alias="to", serialization_alias="to")


class ScheduledCopy(Record):
    """A copy of a tensor from one space to another during ``[start, end)``."""

    model_config = ConfigDict(populate_by_name=True)

    buffer: Name
    source: Name = Field(validation_alias="from", serialization_alias="from")
    target: Name = Field(validation_alias="to", serialization_alias="to")
    start: Whole
    end: Whole


class MemorySchedule(Record):
    """Places of the buffers; copies (mapping); executed operations in order (ordering)."""

    buffers: tuple[PlacedBuffer, ...]
    copies: tuple[ScheduledCopy, ...] = ()
    order: tuple[Name, ...] = ()
    height: Count | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible dict, without ``from`` and ``to`` where they are not given."""
        data = super().to_dict()
        for one in data["buffers"]:
            if one["from"] is None:
                del one["from"], one["to"]
        return data


def objectives_of_form(form: str) -> tuple[str, ...]:
    """Names of the objectives that a form of the problem has."""
    return {
        "allocation": ("height",),
        "mapping": ("execution_time",),
        "ordering": ("peak_memory", "height", "execution_time"),
    }[form]


def default_objectives(problem: MemoryProblem) -> tuple[str, ...]:
    """The objectives of a problem when neither it nor the caller names any.

    Allocation: the height, or nothing (pure feasibility) within a capacity. Mapping: the
    execution time. Ordering: the peak and then the height; within a capacity the execution time
    when recomputation is allowed, else nothing.
    """
    if problem.objectives:
        return problem.objectives
    if problem.form == "mapping":
        return ("execution_time",)
    if problem.form == "allocation":
        return ("height",) if problem.capacity is None else ()
    if problem.capacity is None:
        return ("peak_memory", "height")
    return ("execution_time",) if any(b.recompute for b in problem.buffers) else ()


def _check_buffer(buffer: Buffer, place: str, index: dict[str, int], *, ordering: bool) -> None:
    if ordering:
        for field in ("lower", "upper"):
            if getattr(buffer, field) is not None:
                raise ProblemError(
                    "with operations, lifetimes follow from the order",
                    place=f"{place}.{field}",
                    value=getattr(buffer, field),
                    remedy="Remove the field.",
                )
        if buffer.gaps or buffer.alias or buffer.in_place or buffer.uses:
            raise ProblemError(
                "with operations, buffers have no gaps, alias, in_place or uses",
                place=place,
                value=buffer.id,
                remedy="Remove them, or give lifetimes instead of operations.",
            )
        return
    if buffer.lower is None or buffer.upper is None:
        raise ProblemError(
            "a buffer must have a lifetime",
            place=f"{place}.{'lower' if buffer.lower is None else 'upper'}",
            remedy="Give lower and upper, or operations that use the buffer.",
        )
    if buffer.upper < buffer.lower:
        raise ProblemError(
            "a lifetime must not end before it starts",
            place=place,
            value=(buffer.lower, buffer.upper),
            remedy="Swap or correct lower and upper.",
        )
    last = buffer.lower
    for g, gap in enumerate(buffer.gaps):
        if not last <= gap.lower < gap.upper <= buffer.upper:
            raise ProblemError(
                "gaps must lie within the lifetime, in order, without overlapping",
                place=f"{place}.gaps.{g}",
                value=(gap.lower, gap.upper),
                remedy="Correct lower and upper.",
            )
        last = gap.upper
        if gap.window and not gap.window[0] <= gap.window[1] <= buffer.size:
            raise ProblemError(
                "a window must lie within the buffer",
                place=f"{place}.gaps.{g}.window",
                value=gap.window,
                remedy="Give 0 <= low <= high <= size.",
            )
    last = buffer.lower
    for u, use in enumerate(buffer.uses):
        if not last <= use.start < use.end <= buffer.upper:
            raise ProblemError(
                "uses must lie within the lifetime, in order, without overlapping",
                place=f"{place}.uses.{u}",
                value=(use.start, use.end),
                remedy="Correct start and end; merge uses that overlap.",
            )
        last = use.end
    for k, name in enumerate(buffer.in_place):
        _known(name, index, f"{place}.in_place.{k}", "buffer")
        if name == buffer.id:
            raise ProblemError(
                "a buffer cannot take its own place",
                place=f"{place}.in_place.{k}",
                value=name,
                remedy="Remove it.",
            )


def _check_aliases(buffers: tuple[Buffer, ...], index: dict[str, int]) -> None:
    for i, buffer in enumerate(buffers):
        if buffer.alias is not None:
            _known(buffer.alias.of, index, f"buffers.{i}.alias.of", "buffer")
    done: set[str] = set()
    for buffer in buffers:
        seen: set[str] = set()
        current: Buffer = buffer
        while current.alias is not None and current.id not in done:
            if current.id in seen:
                raise ProblemError(
                    "aliases must not form a cycle",
                    place=f"buffers.{index[current.id]}.alias.of",
                    value=current.alias.of,
                    remedy="Let one of them own its memory.",
                )
            seen.add(current.id)
            current = buffers[index[current.alias.of]]
        done |= seen


def _check_mapping(problem: MemoryProblem) -> None:
    names = _unique([s.name for s in problem.spaces], "spaces", "name")
    if not problem.spaces:
        return
    if problem.home in names:
        raise ProblemError(
            "the home memory is not one of the spaces",
            place="home",
            value=problem.home,
            remedy="Rename one of the two; the home memory is unlimited.",
        )
    if problem.capacity is not None:
        raise ProblemError(
            "with spaces, each space has its own capacity",
            place="capacity",
            value=problem.capacity,
            remedy="Remove it.",
        )
    for i, buffer in enumerate(problem.buffers):
        if buffer.gaps or buffer.alias or buffer.in_place or buffer.offset is not None:
            raise ProblemError(
                "with spaces, tensors have no gaps, alias, in_place or offset",
                place=f"buffers.{i}",
                value=buffer.id,
                remedy="Remove them.",
            )
        for u, use in enumerate(buffer.uses):
            for name in use.benefit:
                _known(name, names, f"buffers.{i}.uses.{u}.benefit", "space")


def _check_operations(problem: MemoryProblem, index: dict[str, int]) -> None:
    _unique([o.id for o in problem.operations], "operations", "id")
    if not problem.operations:
        return
    producer: dict[str, int] = {}
    for i, operation in enumerate(problem.operations):
        for field in ("inputs", "outputs"):
            names = getattr(operation, field)
            _unique(list(names), f"operations.{i}.{field}", "")
            for name in names:
                _known(name, index, f"operations.{i}.{field}", "buffer")
        for name in operation.outputs:
            if name in producer or name in operation.inputs:
                raise ProblemError(
                    "a buffer is written by one operation, which does not read it",
                    place=f"operations.{i}.outputs",
                    value=name,
                    remedy="Give every written version a buffer of its own.",
                )
            producer[name] = i
    # Depth-first along producers, iteratively: a grey operation met again closes a cycle.
    state = [0] * len(problem.operations)
    for root in range(len(problem.operations)):
        stack = [(root, False)]
        while stack:
            i, leaving = stack.pop()
            if leaving:
                state[i] = 2
                continue
            if state[i] == 2:
                continue
            state[i] = 1
            stack.append((i, True))
            for name in problem.operations[i].inputs:
                j = producer.get(name)
                if j is None or state[j] == 2:
                    continue
                if state[j] == 1:
                    raise ProblemError(
                        "operations must not depend on each other in a cycle",
                        place=f"operations.{i}.inputs",
                        value=name,
                        remedy="Break the cycle; unroll loops.",
                    )
                stack.append((j, False))


def _unique(names: list[str], place: str, field: str) -> dict[str, int]:
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


def _known(name: str, known: dict[str, int], place: str, what: str) -> None:
    if name not in known:
        raise ProblemError(
            f"the {what} must exist",
            place=place,
            value=name,
            remedy=f"Add it, or correct the {what}.",
        )
