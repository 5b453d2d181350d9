"""The checker of the `kernel` family, written from the definition; it shares nothing with models.

A modulo schedule repeats every II cycles, so what holds in one period of the steady state, when
every overlapping iteration is present, holds always: in the prologue and the epilogue there is
only less. Use of units and memories is therefore summed over one period, each use of every
iteration that reaches into it; dependences are checked on starts, and `simulate` runs the warp
groups in order, iteration by iteration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from cpsched.families.kernel.live import last_uses, lifetimes
from cpsched.families.kernel.problem import (
    WORD_BYTES,
    Edge,
    KernelProblem,
    KernelSchedule,
    Operation,
    Placement,
)
from cpsched.families.kernel.simulate import simulate
from cpsched.validate import Violation

#: Bytes of a tensor-memory column (128 lanes of 4 bytes).
TMEM_COLUMN_BYTES = 512


class Layout:
    """A schedule laid over its problem: what the rules and the objectives look at."""

    def __init__(self, problem: KernelProblem, schedule: KernelSchedule) -> None:
        self.problem, self.schedule = problem, schedule
        self.period = schedule.initiation_interval
        self.operations: dict[str, Operation] = {o.id: o for o in problem.operations}
        self.placed: dict[str, Placement] = {p.operation: p for p in schedule.operations}
        self.start = {p.operation: p.start for p in schedule.operations}
        grouped = problem.grouped
        self.group = {p.operation: p.group if grouped else None for p in schedule.operations}
        self.depth = {b.buffer: b.depth for b in schedule.buffers}
        self.uses = last_uses(problem)
        self.lifetime = lifetimes(problem, self.start, self.period, self.depth, self.uses)

    def distance(self, edge: Edge) -> int:
        """Iteration distance of an edge, with the depth of its buffer."""
        return edge.distance + (self.depth[edge.buffer] if edge.buffer is not None else 0)

    def crosses(self, edge: Edge) -> bool:
        """Whether the ends of an edge are in different warp groups."""
        return self.group[edge.source] != self.group[edge.target]

    def spill(self, edge: Edge) -> int:
        """Extra delay of a value that passes through registers into another group."""
        if edge.kind != "true" or not self.crosses(edge):
            return 0
        return self.problem.spill_cost(self.operations[edge.source])

    def signal(self, edge: Edge) -> int:
        """Extra delay of the barrier of a cross-group dependence."""
        return self.problem.machine.signal_cost if self.crosses(edge) else 0

    def copies(self, operation: str) -> int:
        """Iterations whose result of an operation is live at the same time, at most."""
        return -(-self.lifetime[operation] // self.period)


def check(problem: KernelProblem, schedule: KernelSchedule) -> list[Violation]:
    """Every violation of a schedule, by the names of the constraints."""
    found = _operations(problem, schedule) or _buffer_depth(problem, schedule)
    if found:
        return found
    layout = Layout(problem, schedule)
    rules = [_initiation_interval, _stages, _length, _dependence, _unit, _memory, _ring_depth]
    if problem.grouped:
        rules += [_groups, _blocking, _carried, _registers]
    for rule in rules:
        found += rule(layout)
    if problem.grouped and not found:
        found += _deadlock(layout)
    return found


def evaluate(
    problem: KernelProblem, schedule: KernelSchedule, names: Sequence[str]
) -> tuple[int, ...]:
    """Values of the named objectives of a valid schedule, from the definition."""
    layout = Layout(problem, schedule)
    return tuple(_OBJECTIVES[name](layout) for name in names)


# ---------------------------------------------------------------------- rules


def peak(period: int, uses: Iterable[tuple[int, int, int]]) -> tuple[int, int]:
    """Largest sum of (begin, length, amount) uses repeated every period, and a slot where it is."""
    constant = 0
    change: dict[int, int] = defaultdict(int)
    for begin, length, amount in uses:
        whole, rest = divmod(length, period)
        constant += whole * amount
        if rest:
            first = begin % period
            change[first] += amount
            end = first + rest
            if end < period:
                change[end] -= amount
            elif end > period:
                change[0] += amount
                change[end - period] -= amount
    level = best = constant
    where = 0
    for slot in sorted(change):
        level += change[slot]
        if level > best:
            best, where = level, slot
    return best, where


def _operations(problem: KernelProblem, schedule: KernelSchedule) -> list[Violation]:
    """Every operation of the loop is placed exactly once, and nothing else is."""
    known = {o.id for o in problem.operations}
    seen: set[str] = set()
    found = []
    for p in schedule.operations:
        if p.operation not in known or p.operation in seen:
            what = "is not of this loop" if p.operation not in known else "is placed twice"
            found.append(
                Violation("operations", f"operation {p.operation} {what}", _at(p.operation))
            )
        seen.add(p.operation)
    return found + [
        Violation("operations", f"operation {o.id} is not placed", _at(o.id))
        for o in problem.operations
        if o.id not in seen
    ]


def _buffer_depth(problem: KernelProblem, schedule: KernelSchedule) -> list[Violation]:
    """Every declared buffer has a depth within its limits."""
    depth = {b.buffer: b.depth for b in schedule.buffers}
    found = []
    if len(depth) != len(schedule.buffers):
        found.append(Violation("buffer_depth", "a buffer is listed twice"))
    for b in problem.buffers:
        if b.name not in depth:
            found.append(
                Violation("buffer_depth", f"buffer {b.name} has no depth", {"buffer": b.name})
            )
        elif not b.min_depth <= depth[b.name] <= b.max_depth:
            found.append(
                Violation(
                    "buffer_depth",
                    f"buffer {b.name} has depth {depth[b.name]}, outside "
                    f"[{b.min_depth}, {b.max_depth}]",
                    {"buffer": b.name},
                    depth[b.name],
                )
            )
    return found


def _ring_depth(layout: Layout) -> list[Violation]:
    """A depth stated for an operation's result has a slot for every iteration that is live."""
    declared = {b.name for b in layout.problem.buffers}
    found = []
    for name, depth in layout.depth.items():
        if name in declared:
            continue
        if name not in layout.operations:
            found.append(
                Violation(
                    "ring_depth", f"{name} is neither a buffer nor an operation", {"buffer": name}
                )
            )
        elif depth < layout.copies(name):
            found.append(
                Violation(
                    "ring_depth",
                    f"{layout.copies(name)} results of {name} are live at once, its ring has "
                    f"{depth} slots",
                    {"buffer": name},
                    layout.copies(name) - depth,
                )
            )
    return found


def _initiation_interval(layout: Layout) -> list[Violation]:
    limit = layout.problem.max_initiation_interval
    if limit is None or layout.period <= limit:
        return []
    return [
        Violation(
            "initiation_interval",
            f"the initiation interval {layout.period} exceeds {limit}",
            amount=layout.period - limit,
        )
    ]


def _stages(layout: Layout) -> list[Violation]:
    """Stage and slot are start divided by the interval; stages counts overlapping iterations."""
    found = [
        Violation(
            "stages",
            f"operation {p.operation} starts at {p.start}: stage {p.stage} and slot {p.slot} must "
            f"be its quotient and remainder by {layout.period}",
            _at(p.operation),
        )
        for p in layout.schedule.operations
        if (p.stage, p.slot) != divmod(p.start, layout.period)
    ]
    expected = stage_count(layout.period, _length_of(layout))
    if layout.schedule.stages != expected:
        found.append(
            Violation(
                "stages",
                f"{expected} iterations overlap, not {layout.schedule.stages}",
                amount=layout.schedule.stages - expected,
            )
        )
    return found


def stage_count(period: int, length: int) -> int:
    """Number of iterations that overlap in the steady state."""
    return -(-length // period)


def _length(layout: Layout) -> list[Violation]:
    length = _length_of(layout)
    found = []
    if layout.schedule.length != length:
        found.append(
            Violation(
                "length",
                f"the last operation completes at {length}, not {layout.schedule.length}",
                amount=layout.schedule.length - length,
            )
        )
    limit = layout.problem.max_length
    if limit is not None and length > limit:
        found.append(
            Violation("length", f"the length {length} exceeds {limit}", amount=length - limit)
        )
    return found


def _dependence(layout: Layout) -> list[Violation]:
    """Every edge, with the cost of crossing groups; the part that breaks names the rule."""
    found = []
    for edge in layout.problem.edges:
        distance = layout.distance(edge)
        slack = layout.start[edge.target] + distance * layout.period - layout.start[edge.source]
        delay = edge.delay
        for rule, extra in (
            ("dependence", 0),
            ("spill", layout.spill(edge)),
            ("signal", layout.signal(edge)),
        ):
            delay += extra
            if slack < delay:
                found.append(
                    Violation(
                        rule,
                        f"{edge.target} starts {slack} cycles after {edge.source} ({distance} "
                        f"iterations back), {delay} are needed",
                        {"source": edge.source, "target": edge.target},
                        delay - slack,
                    )
                )
                break
    return found


def _unit(layout: Layout) -> list[Violation]:
    uses: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    capacity = {}
    for o in layout.problem.operations:
        for use in o.uses:
            unit = layout.problem.machine.unit(use.unit)
            assert unit is not None
            capacity[unit.name] = unit.capacity
            uses[unit.name].append((layout.start[o.id] + use.start, use.cycles, use.amount))
    found = []
    for name, listed in uses.items():
        found += _over("unit", f"unit {name}", capacity[name], layout.period, listed)
    return found


def _over(
    rule: str,
    what: str,
    limit: int,
    period: int,
    uses: Iterable[tuple[int, int, int]],
    constant: int = 0,
) -> list[Violation]:
    most, slot = peak(period, uses)
    most += constant
    if most <= limit:
        return []
    return [
        Violation(
            rule,
            f"{what}: {most} are in use at slot {slot}, {limit} exist",
            {"resource": what, "time": slot},
            most - limit,
        )
    ]


def _memory(layout: Layout) -> list[Violation]:
    """Shared and tensor memory: what operations hold while live, and whole rings."""
    machine = layout.problem.machine
    found = []
    for rule, limit, words in (
        ("smem", machine.smem_bytes, lambda o: o.smem_bytes),
        ("tmem", machine.tmem_columns, lambda o: o.tmem_columns),
    ):
        if limit is not None:
            held = _held(layout, words)
            found += _over(rule, rule, limit, layout.period, held, _rings(layout, rule))
    return found


def _rings(layout: Layout, memory: str) -> int:
    rings = [b for b in layout.problem.buffers if b.memory == memory]
    return sum(b.size * layout.depth[b.name] for b in rings)


def _held(layout: Layout, words: Any, group: int | None = None) -> list[tuple[int, int, int]]:
    return [
        (layout.start[o.id], layout.lifetime[o.id], words(o))
        for o in layout.problem.operations
        if words(o) and (group is None or layout.group[o.id] == group)
    ]


def _groups(layout: Layout) -> list[Violation]:
    """Groups exist, group 0 holds exactly the variable-latency operations, pins, warp limit."""
    problem = layout.problem
    found = []
    for o in problem.operations:
        group = layout.group[o.id]
        if group is None or group >= problem.group_count:
            message = f"operation {o.id} is in group {group}; there are {problem.group_count}"
            found.append(Violation("groups", message, _at(o.id)))
        elif (group == 0) != o.variable_latency:
            message = (
                f"operation {o.id} is in group {group}; group 0 holds exactly the "
                "variable-latency operations"
            )
            found.append(Violation("producer", message, _at(o.id)))
        elif o.group is not None and group != o.group:
            message = f"operation {o.id} is in group {group}, pinned to {o.group}"
            found.append(Violation("pinned", message, _at(o.id)))
    limit = problem.machine.max_warps
    warps = sum(_widths(layout).values())
    if limit is not None and warps > limit:
        found.append(
            Violation(
                "warps", f"the groups have {warps} warps, {limit} exist", amount=warps - limit
            )
        )
    return found


def _widths(layout: Layout) -> dict[int, int]:
    """Warps of each group in use: its widest operation's."""
    widths: dict[int, int] = {}
    for o in layout.problem.operations:
        group = layout.group[o.id]
        if group is not None:
            widths[group] = max(widths.get(group, 0), o.min_warps)
    return widths


def _blocking(layout: Layout) -> list[Violation]:
    """Nothing of a waiting operation's group may be in its issue window when the wait begins.

    The target of a blocking edge waits, and so does the consumer of registers from another group.
    """
    waits: dict[str, str] = {}
    for edge in layout.problem.edges:
        if edge.blocking or layout.spill(edge):
            waits.setdefault(edge.target, edge.source)
    members: dict[int | None, list[Operation]] = defaultdict(list)
    for o in layout.problem.operations:
        members[layout.group[o.id]].append(o)
    found = []
    for waiter, source in waits.items():
        for o in members[layout.group[waiter]]:
            gap = (layout.start[waiter] - layout.start[o.id]) % layout.period
            if o.id != waiter and (gap < o.issue_cycles or o.issue_cycles >= layout.period > 1):
                found.append(
                    Violation(
                        "blocking",
                        f"{waiter} waits for {source} in group {layout.group[waiter]} while "
                        f"{o.id}, issued {gap} cycles before, still issues",
                        {"operation": waiter, "other": o.id},
                        o.issue_cycles - gap,
                    )
                )
    return found


def _carried(layout: Layout) -> list[Violation]:
    found = []
    for edge in layout.problem.edges:
        if edge.carried and layout.crosses(edge):
            message = (
                f"{edge.source} carries a register value to {edge.target} of a later iteration: "
                "both belong to one group"
            )
            where = {"source": edge.source, "target": edge.target}
            found.append(Violation("carried", message, where))
    return found


def _registers(layout: Layout) -> list[Violation]:
    """Live words of each group within its warps' registers, and of all groups together."""
    machine = layout.problem.machine
    found: list[Violation] = []
    total = _rings(layout, "registers")
    for group, width in sorted(_widths(layout).items()):
        held = _held(layout, lambda o: o.registers, group)
        total += peak(layout.period, held)[0]
        if machine.registers_per_warp is not None:
            limit = machine.registers_per_warp * width
            found += _over("registers", f"registers of group {group}", limit, layout.period, held)
    if machine.registers is not None and total > machine.registers:
        found.append(
            Violation(
                "registers",
                f"the groups hold {total} words at their peaks, {machine.registers} exist",
                {"resource": "registers"},
                total - machine.registers,
            )
        )
    return found


def _deadlock(layout: Layout) -> list[Violation]:
    outcome = simulate(layout.problem, layout.schedule, uses=layout.uses)
    if not outcome.stuck:
        return []
    return [
        Violation(
            "deadlock",
            "in-order execution of the groups stops: " + "; ".join(outcome.stuck[:5]),
            {"executed": outcome.executed},
        )
    ]


def _at(operation: str) -> dict[str, Any]:
    return {"operation": operation}


# ---------------------------------------------------------------------- objectives


def _length_of(layout: Layout) -> int:
    # An operation takes its issue cycle at least.
    return max(layout.start[o.id] + max(1, o.latency) for o in layout.problem.operations)


def _group_count(layout: Layout) -> int:
    return len(set(layout.group.values()) - {None})


def _communication(layout: Layout) -> int:
    """Barrier pairs between groups, plus the KiB of registers that pass between them.

    A result that several operations of one other group read crosses once.
    """
    crossing = {
        (edge.source, layout.group[edge.target])
        for edge in layout.problem.edges
        if edge.kind == "true" and layout.crosses(edge)
    }
    return sum(crossing_weight(layout.operations[source]) for source, _ in crossing)


def crossing_weight(operation: Operation) -> int:
    """What it costs in `communication` when another group reads an operation's result."""
    return 1 - (-operation.registers * WORD_BYTES // 1024)


def _recurrence_span(layout: Layout) -> int:
    """Sum over the recurrences (strongly connected parts) of last minus first start."""
    return sum(
        max(layout.start[o] for o in part) - min(layout.start[o] for o in part)
        for part in recurrences(layout.problem)
    )


def recurrences(problem: KernelProblem) -> list[list[str]]:
    """The strongly connected parts of the graph with at least two operations."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(o.id for o in problem.operations)
    graph.add_edges_from((e.source, e.target) for e in problem.edges)
    return [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]


def _register_pressure(layout: Layout) -> int:
    """Register words times the cycles they are live, per iteration; divided by the interval it is
    the average number of live words. One word per result in a graph without registers."""
    any_words = any(o.registers for o in layout.problem.operations)
    return sum(
        (o.registers if any_words else 1) * layout.lifetime[o.id] for o in layout.problem.operations
    )


def _buffer_bytes(layout: Layout) -> int:
    """Shared and tensor memory (in bytes) of all rings, declared ones and those of operations."""
    total = _rings(layout, "smem") + TMEM_COLUMN_BYTES * _rings(layout, "tmem")
    for o in layout.problem.operations:
        held = o.smem_bytes + TMEM_COLUMN_BYTES * o.tmem_columns
        total += held * layout.copies(o.id)
    return total


_OBJECTIVES = {
    "initiation_interval": lambda layout: layout.period,
    "length": _length_of,
    "groups": _group_count,
    "communication": _communication,
    "recurrence_span": _recurrence_span,
    "register_pressure": _register_pressure,
    "buffer_bytes": _buffer_bytes,
}
