"""The schema of the `kernel` family: one loop to be software-pipelined, and its schedule.

Times are machine cycles. Iteration ``i`` of an operation starts at ``start + i * II`` where II is
the initiation interval; its *slot* is ``start mod II``, its *stage* ``start div II``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cpsched.errors import ProblemError
from cpsched.problem import Count, Name, ProblemBase, Record

#: Objectives of the family in their lexicographic order; all are minimised.
OBJECTIVES = (
    "initiation_interval",
    "length",
    "groups",
    "communication",
    "recurrence_span",
    "register_pressure",
    "buffer_bytes",
)
#: Objectives that say something about a loop without warp groups.
MODULO_OBJECTIVES = ("initiation_interval", "length", "register_pressure", "buffer_bytes")

#: Delays, latencies and table lengths stay below this, so that every start fits 64-bit integers.
LARGEST_DELAY = 10**7
#: Iteration distances and buffer depths stay below this.
LARGEST_DISTANCE = 10**6
#: Bytes of a register word.
WORD_BYTES = 4

Cycles = Annotated[int, Field(ge=0, le=LARGEST_DELAY)]
Delay = Annotated[int, Field(ge=-LARGEST_DELAY, le=LARGEST_DELAY)]
Distance = Annotated[int, Field(ge=0, le=LARGEST_DISTANCE)]


class Use(Record):
    """A constant run of a reservation table: ``amount`` of a unit during
    ``[start, start + cycles)`` after the operation's issue."""

    unit: Name
    cycles: Annotated[int, Field(ge=1, le=LARGEST_DELAY)]
    start: Cycles = 0
    amount: Annotated[int, Field(ge=1, le=10**9)] = 1


class Mode(Record):
    """One of several ways to execute an operation; a field left null is the operation's own.

    ``extra_delay`` is added to the delay of every edge that leaves the operation: the mode's
    latency less the operation's when null. Units with a capacity of 100 make ``amount`` a share in
    percent: a larger share of the compute or the network, a shorter latency.
    """

    name: Annotated[str, Field(max_length=1000)] = ""
    latency: Cycles | None = None
    uses: tuple[Use, ...] | None = None
    issue: Cycles | None = None
    extra_delay: Delay | None = None
    min_warps: Annotated[int, Field(ge=1, le=64)] | None = None
    registers: Count | None = None
    smem_bytes: Count | None = None
    tmem_columns: Count | None = None
    spill_cost: Cycles | None = None


class Operation(Record):
    """An operation of the loop body, issued once per iteration by one warp group.

    ``latency`` is the time until its result is complete; it counts in the schedule's length (one
    cycle at least), while dependences carry their own delays. ``uses`` is its reservation table.
    ``issue`` is the time that its warp group spends issuing it, during which the group cannot start
    a blocking wait: the latency when null, or one cycle when the operation is ``asynchronous``. An
    operation with ``variable_latency`` (a TMA load) belongs to the producer group 0, and nothing
    else does.
    ``streaming`` marks loads without inputs that may run ahead by any number of iterations.

    From its issue to the issue of its last use its result holds ``registers`` (words, in the
    issuing group), ``smem_bytes`` of shared memory and ``tmem_columns`` of tensor memory. A
    ``view`` only renames its inputs: what they hold stays live until the view's last use.
    ``spill_cost`` is the extra delay when a consumer in another group needs the registers (null:
    the machine's price). ``group`` pins the operation to a warp group. With ``modes`` it executes
    in one of these, the same in every iteration; which one is a decision.
    """

    id: Name
    label: Annotated[str, Field(max_length=1000)] = ""
    latency: Cycles = 0
    uses: tuple[Use, ...] = ()
    issue: Cycles | None = None
    asynchronous: bool = False
    variable_latency: bool = False
    streaming: bool = False
    view: bool = False
    min_warps: Annotated[int, Field(ge=1, le=64)] = 1
    registers: Count = 0
    smem_bytes: Count = 0
    tmem_columns: Count = 0
    spill_cost: Cycles | None = None
    group: Annotated[int, Field(ge=0, le=64)] | None = None
    modes: Annotated[tuple[Mode, ...], Field(max_length=1000)] = ()

    @property
    def issue_cycles(self) -> int:
        """Cycles during which the issuing group cannot start a blocking wait."""
        if self.issue is not None:
            return self.issue
        return min(1, self.latency) if self.asynchronous else self.latency


class Edge(Record):
    """A dependence: ``start(target) >= start(source) + delay - distance * II``.

    ``kind`` "true" carries a value (and keeps it live); "anti" and "output" only order. The target
    of a ``blocking`` edge waits at a barrier: no operation of its group may be in its issue window
    then. A ``carried`` value lives in registers across iterations and forces both ends into one
    group. With ``buffer`` the depth of that buffer, a decision, is added to the distance.
    """

    source: Name
    target: Name
    delay: Delay = 0
    distance: Distance = 0
    kind: Literal["true", "anti", "output"] = "true"
    blocking: bool = False
    carried: bool = False
    buffer: Name | None = None


class Buffer(Record):
    """A ring of ``depth`` slots, a decision within ``[min_depth, max_depth]``.

    ``size`` is per slot: bytes in shared memory, columns in tensor memory, words in registers;
    all slots are allocated for the whole loop. Register rings are charged to the register file as
    a whole, not to one group.
    """

    name: Name
    memory: Literal["smem", "tmem", "registers"] = "smem"
    size: Count = 0
    min_depth: Annotated[int, Field(ge=1, le=LARGEST_DISTANCE)] = 1
    max_depth: Annotated[int, Field(ge=1, le=LARGEST_DISTANCE)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> Buffer:
        if self.max_depth < self.min_depth:
            raise ProblemError(
                "a buffer's max_depth is at least its min_depth",
                place="max_depth",
                value=self.max_depth,
                remedy="Raise max_depth.",
            )
        return self


class Unit(Record):
    """A functional unit or port. A port's bandwidth is a unit whose capacity is its rate."""

    name: Name
    capacity: Annotated[int, Field(ge=1, le=10**9)] = 1
    aliases: tuple[Name, ...] = ()


class Source(Record):
    """Where a number of a machine comes from; ``estimate`` when it is not a published figure."""

    field: Name
    source: str
    estimate: bool = False


class Machine(Record):
    """One streaming multiprocessor, or any other machine that executes the loop.

    Null limits do not bind. ``registers_per_warp`` times a group's width (its widest operation's
    ``min_warps``) bounds the words live in that group, ``registers`` those of all groups together.
    A value that crosses groups through registers costs ``spill_base + spill_per_kb * size`` cycles
    (size in KiB, rounded up) unless the operation says otherwise; every cross-group dependence
    costs ``signal_cost`` in addition.
    """

    name: str = ""
    units: tuple[Unit, ...] = ()
    registers_per_warp: Count | None = None
    registers: Count | None = None
    smem_bytes: Count | None = None
    tmem_columns: Count | None = None
    max_warps: Count | None = None
    max_groups: Annotated[int, Field(ge=1, le=64)] = 8
    spill_base: Cycles = 0
    spill_per_kb: Cycles = 0
    signal_cost: Cycles = 0
    clock_mhz: Count | None = None
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _distinct_units(self) -> Machine:
        seen: set[str] = set()
        for k, unit in enumerate(self.units):
            for name in (unit.name, *unit.aliases):
                if name in seen:
                    raise ProblemError(
                        "names and aliases of units are distinct",
                        place=f"units.{k}",
                        value=name,
                        remedy="Rename one of them.",
                    )
                seen.add(name)
        return self

    def unit(self, name: str) -> Unit | None:
        """The unit of that name or alias, or None."""
        for unit in self.units:
            if name == unit.name or name in unit.aliases:
                return unit
        return None


class KernelProblem(ProblemBase):
    """A loop body as a dependence graph, and the machine that runs it.

    ``groups`` is the number of warp groups available, the producer group 0 included; 0 schedules
    modulo only (no groups, blocking, spills or group registers), null lets the machine's limit
    decide. ``max_initiation_interval`` and ``max_length`` bound the schedule.
    """

    kind: Literal["kernel"] = "kernel"
    operations: Annotated[tuple[Operation, ...], Field(min_length=1)]
    edges: tuple[Edge, ...] = ()
    buffers: tuple[Buffer, ...] = ()
    machine: Machine = Machine()
    groups: Annotated[int, Field(ge=0, le=64)] | None = 0
    max_initiation_interval: Annotated[int, Field(ge=1, le=10**9)] | None = None
    max_length: Annotated[int, Field(ge=0, le=10**12)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> KernelProblem:
        ids: dict[str, int] = {}
        for k, o in enumerate(self.operations):
            if o.id in ids:
                raise ProblemError(
                    "operation ids are distinct",
                    place=f"operations.{k}.id",
                    value=o.id,
                    remedy="Rename one of them.",
                )
            ids[o.id] = k
            _check_operation(self.machine, o, f"operations.{k}")
        names = [b.name for b in self.buffers]
        for k, name in enumerate(names):
            if name in names[:k]:
                raise ProblemError(
                    "buffer names are distinct",
                    place=f"buffers.{k}.name",
                    value=name,
                    remedy="Rename one of them.",
                )
        for k, e in enumerate(self.edges):
            for field, end in (("source", e.source), ("target", e.target)):
                if end not in ids:
                    raise ProblemError(
                        "an edge joins operations of the loop",
                        place=f"edges.{k}.{field}",
                        value=end,
                        remedy="Add the operation or correct the id.",
                    )
            if e.buffer is not None and e.buffer not in names:
                raise ProblemError(
                    "an edge's buffer is one of the buffers",
                    place=f"edges.{k}.buffer",
                    value=e.buffer,
                    remedy="Add the buffer or correct the name.",
                )
        if self.group_count:
            for k, o in enumerate(self.operations):
                if o.group is not None and o.group >= self.group_count:
                    raise ProblemError(
                        f"a pinned group is less than the number of groups, {self.group_count}",
                        place=f"operations.{k}.group",
                        value=o.group,
                        remedy="Raise groups, or pin to a smaller group.",
                    )
            if self.group_count == 1 and not all(o.variable_latency for o in self.operations):
                raise ProblemError(
                    "group 0 holds only variable-latency operations, so there must be a second",
                    place="groups",
                    value=self.groups,
                    remedy="Set groups to 2 or more, or to 0 for modulo scheduling only.",
                )
        cycle = zero_distance_cycle(self)
        if cycle:
            raise ProblemError(
                "a cycle of dependences within one iteration must not have a positive delay",
                place="edges",
                value=" -> ".join(cycle),
                remedy="Give one of its edges a distance, or remove it.",
            )
        return self

    @property
    def group_count(self) -> int:
        """Number of warp groups available, the producer included; 0 without groups."""
        return self.machine.max_groups if self.groups is None else self.groups

    @property
    def grouped(self) -> bool:
        """Whether operations are assigned to warp groups."""
        return self.group_count > 0

    def spill_cost(self, operation: Operation) -> int:
        """Extra cycles before another group can read the operation's registers."""
        if operation.registers == 0:
            return 0
        if operation.spill_cost is not None:
            return operation.spill_cost
        machine = self.machine
        kilobytes = -(-operation.registers * WORD_BYTES // 1024)
        return machine.spill_base + machine.spill_per_kb * kilobytes


def _check_operation(machine: Machine, o: Operation, place: str) -> None:
    _check_uses(machine, o.uses, place)
    for k, mode in enumerate(o.modes):
        _check_uses(machine, mode.uses or (), f"{place}.modes.{k}")
    if o.group is not None and (o.group == 0) != o.variable_latency:
        raise ProblemError(
            "exactly the variable-latency operations belong to group 0",
            place=f"{place}.group",
            value=o.group,
            remedy="Correct the pinned group or variable_latency.",
        )


def _check_uses(machine: Machine, uses: tuple[Use, ...], place: str) -> None:
    for j, use in enumerate(uses):
        unit = machine.unit(use.unit)
        if unit is None:
            known = ", ".join(u.name for u in machine.units) or "none"
            raise ProblemError(
                f"an operation uses units of the machine ({known})",
                place=f"{place}.uses.{j}.unit",
                value=use.unit,
                remedy="Add the unit to the machine, or correct the name.",
            )
        if use.amount > unit.capacity:
            raise ProblemError(
                f"an operation uses at most the capacity of unit {unit.name}, {unit.capacity}",
                place=f"{place}.uses.{j}.amount",
                value=use.amount,
                remedy="Lower the amount or raise the capacity.",
            )


def zero_distance_cycle(problem: KernelProblem) -> list[str]:
    """Ids along a cycle of zero distance and positive delay in every mode, or an empty list.

    Edges of a buffer count with its depth at least 1.
    """
    extra = {
        o.id: min((extra_delay(o, mode) for mode in o.modes), default=0) for o in problem.operations
    }
    edges = [
        (e.source, e.target, e.delay + extra[e.source])
        for e in problem.edges
        if e.distance == 0 and e.buffer is None
    ]
    return _positive_cycle(list(extra), edges)


def extra_delay(operation: Operation, mode: Mode) -> int:
    """Cycles that a mode adds to the delay of every edge that leaves its operation."""
    if mode.extra_delay is not None:
        return mode.extra_delay
    return 0 if mode.latency is None else mode.latency - operation.latency


def _positive_cycle(nodes: list[str], edges: list[tuple[str, str, int]]) -> list[str]:
    """A cycle of positive total weight, by Bellman-Ford on longest paths."""
    value = dict.fromkeys(nodes, 0)
    parent: dict[str, str] = {}
    touched = ""
    for _ in range(len(nodes) + 1):
        touched = ""
        for u, v, d in edges:
            if value[u] + d > value[v]:
                value[v] = value[u] + d
                parent[v] = u
                touched = v
        if not touched:
            return []
    node = touched
    for _ in range(len(nodes)):
        node = parent[node]
    cycle = [node]
    while parent[cycle[-1]] != node:
        cycle.append(parent[cycle[-1]])
    cycle.append(node)
    return cycle[::-1]


class Placement(Record):
    """When an operation of iteration 0 starts, which warp group issues it (null without), and in
    which of its modes it executes, counted from 0."""

    operation: Name
    start: Annotated[int, Field(ge=0, le=10**15)]
    stage: Annotated[int, Field(ge=0, le=10**15)]
    slot: Annotated[int, Field(ge=0, le=10**15)]
    group: Annotated[int, Field(ge=0, le=64)] | None = None
    mode: Annotated[int, Field(ge=0, le=1000)] = 0


class BufferDepth(Record):
    """The number of slots of a ring: of a declared buffer, or of the memory an operation holds."""

    buffer: Name
    depth: Annotated[int, Field(ge=1, le=10**6)]


class KernelSchedule(Record):
    """A modulo schedule: one iteration's starts, repeated every ``initiation_interval`` cycles.

    ``length`` is the completion of the last operation of iteration 0, ``stages`` the number of
    iterations that overlap in the steady state.
    """

    initiation_interval: Annotated[int, Field(ge=1, le=10**15)]
    length: Annotated[int, Field(ge=0, le=10**15)]
    stages: Annotated[int, Field(ge=1, le=10**15)]
    operations: tuple[Placement, ...]
    buffers: tuple[BufferDepth, ...] = ()
