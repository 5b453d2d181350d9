"""The checker of the `kernel` family, written from the definition; it shares nothing with models.

A schedule is laid out flat (`flat`): every use of a unit, every live result and every issue window
of enough iterations on one time axis, from the prologue over several periods of the steady state to
the epilogue. When nothing is violated there, `simulate` runs the warp groups in order, iteration by
iteration, with barriers of the chosen depths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from cpsched.families.kernel.flat import Ints, Layout, inside_windows, peak
from cpsched.families.kernel.modes import modes_of
from cpsched.families.kernel.problem import KernelProblem, KernelSchedule, Operation
from cpsched.families.kernel.simulate import simulate
from cpsched.families.kernel.values import length, stage_count
from cpsched.validate import Violation


def check(problem: KernelProblem, schedule: KernelSchedule) -> list[Violation]:
    """Every violation of a schedule, by the names of the constraints."""
    found = _operations(problem, schedule) or [
        *_mode(problem, schedule),
        *_buffer_depth(problem, schedule),
    ]
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


def _mode(problem: KernelProblem, schedule: KernelSchedule) -> list[Violation]:
    """Every operation executes in a mode that it has; without modes that is mode 0."""
    chosen = {p.operation: p.mode for p in schedule.operations if p.mode}
    return [
        Violation(
            "mode",
            f"operation {o.id} is in mode {chosen[o.id]} of {len(modes_of(o))}, counted from 0",
            _at(o.id),
        )
        for o in problem.operations
        if chosen.get(o.id, 0) >= len(modes_of(o))
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
        if name not in layout.at:
            found.append(
                Violation(
                    "ring_depth", f"{name} is neither a buffer nor an operation", {"buffer": name}
                )
            )
        elif depth < (copies := int(layout.copies[layout.at[name]])):
            found.append(
                Violation(
                    "ring_depth",
                    f"{copies} results of {name} are live at once, its ring has {depth} slots",
                    {"buffer": name},
                    copies - depth,
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
        for p in layout.placed
        if (p.stage, p.slot) != divmod(p.start, layout.period)
    ]
    expected = stage_count(layout.period, length(layout))
    if layout.schedule.stages != expected:
        found.append(
            Violation(
                "stages",
                f"{expected} iterations overlap, not {layout.schedule.stages}",
                amount=layout.schedule.stages - expected,
            )
        )
    return found


def _length(layout: Layout) -> list[Violation]:
    completed = length(layout)
    found = []
    if layout.schedule.length != completed:
        found.append(
            Violation(
                "length",
                f"the last operation completes at {completed}, not {layout.schedule.length}",
                amount=layout.schedule.length - completed,
            )
        )
    limit = layout.problem.max_length
    if limit is not None and completed > limit:
        found.append(
            Violation("length", f"the length {completed} exceeds {limit}", amount=completed - limit)
        )
    return found


def _dependence(layout: Layout) -> list[Violation]:
    """Every edge, with the cost of crossing groups; the part that breaks names the rule.

    Both ends move by the interval from iteration to iteration, so one pair speaks for all.
    """
    source, target = layout.source, layout.target
    slack = layout.start[target] + layout.distance * layout.period - layout.start[source]
    need = layout.delay + layout.spill + layout.signal
    found = []
    for e in np.flatnonzero(slack < need).tolist():
        edge = layout.problem.edges[e]
        delay = 0
        for rule, part in (
            ("dependence", layout.delay),
            ("spill", layout.spill),
            ("signal", layout.signal),
        ):
            delay += int(part[e])
            if slack[e] < delay:
                found.append(
                    Violation(
                        rule,
                        f"{edge.target} starts {slack[e]} cycles after {edge.source} "
                        f"({layout.distance[e]} iterations back), {delay} are needed",
                        {"source": edge.source, "target": edge.target},
                        delay - int(slack[e]),
                    )
                )
                break
    return found


def _unit(layout: Layout) -> list[Violation]:
    """What is in use of every unit at every cycle is within its capacity."""
    machine = layout.problem.machine
    rows: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for o, p in zip(layout.operations, layout.placed, strict=True):
        for use in o.uses:
            rows[use.unit].append((p.start + use.start, use.cycles, use.amount))
    found = []
    for unit in machine.units:
        mine = [row for name in (unit.name, *unit.aliases) for row in rows.get(name, ())]
        if mine:
            begin, cycles, amount = np.array(mine, dtype=np.int64).T
            used = peak(layout.period, begin, cycles, amount)
            found += _over("unit", f"unit {unit.name}", unit.capacity, used, layout.period)
    return found


def _over(
    rule: str, what: str, limit: int, used: tuple[int, int], period: int, constant: int = 0
) -> list[Violation]:
    most, cycle = used[0] + constant, used[1]
    if most <= limit:
        return []
    return [
        Violation(
            rule,
            f"{what}: {most} are in use at cycle {cycle} (slot {cycle % period}), {limit} exist",
            {"resource": what, "time": cycle},
            most - limit,
        )
    ]


def _live(
    layout: Layout, words: Callable[[Operation], int], group: int | None = None
) -> tuple[int, int]:
    """Peak of what live results hold, of all operations or of one group's."""
    held = [words(o) for o in layout.operations]
    chosen = [k for k, w in enumerate(held) if w and (group is None or layout.group[k] == group)]
    rows: Ints = np.array(chosen, dtype=np.int64)
    amounts: Ints = np.array([held[k] for k in chosen], dtype=np.int64)
    return peak(layout.period, layout.start[rows], layout.lifetime[rows], amounts)


def _memory(layout: Layout) -> list[Violation]:
    """Shared and tensor memory: what operations hold while live, and whole rings."""
    machine = layout.problem.machine
    found = []
    for rule, limit, words in (
        ("smem", machine.smem_bytes, lambda o: o.smem_bytes),
        ("tmem", machine.tmem_columns, lambda o: o.tmem_columns),
    ):
        if limit is not None:
            rings = layout.rings(rule)
            found += _over(rule, rule, limit, _live(layout, words), layout.period, rings)
    return found


def _groups(layout: Layout) -> list[Violation]:
    """Groups exist, group 0 holds exactly the variable-latency operations, pins, warp limit."""
    problem = layout.problem
    found = []
    for o, group in zip(layout.operations, layout.group, strict=True):
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
    warps = sum(layout.widths().values())
    if limit is not None and warps > limit:
        found.append(
            Violation(
                "warps", f"the groups have {warps} warps, {limit} exist", amount=warps - limit
            )
        )
    return found


def _blocking(layout: Layout) -> list[Violation]:
    """Nothing of a waiting operation's group may be in its issue window when the wait begins.

    The target of a blocking edge waits, and so does the consumer of registers from another group.
    """
    waits: dict[int, int] = {}
    for e, edge in enumerate(layout.problem.edges):
        if edge.blocking or layout.spill[e]:
            waits.setdefault(int(layout.target[e]), int(layout.source[e]))
    issue = [o.issue_cycles for o in layout.operations]
    found = []
    for group in sorted({layout.group[w] for w in waits}, key=str):
        mine = [w for w in waits if layout.group[w] == group]
        others = [k for k, g in enumerate(layout.group) if g == group and issue[k]]
        if not others:
            continue
        hits = inside_windows(
            layout.period,
            layout.start[mine],
            layout.start[others],
            np.array([issue[k] for k in others], dtype=np.int64),
            np.array([mine.index(k) if k in waits else -1 for k in others], dtype=np.int64),
        )
        for k in (others[j] for j in np.flatnonzero(hits).tolist()):
            for w in mine:
                gap = int(layout.start[w] - layout.start[k]) % layout.period
                if w != k and gap < issue[k]:
                    found.append(_disturbed(layout, w, waits[w], k, gap))
    return found


def _disturbed(layout: Layout, waiter: int, source: int, other: int, gap: int) -> Violation:
    names = [layout.operations[k].id for k in (waiter, source, other)]
    return Violation(
        "blocking",
        f"{names[0]} waits for {names[1]} in group {layout.group[waiter]} while {names[2]}, issued "
        f"{gap} cycles before, still issues",
        {"operation": names[0], "other": names[2]},
        layout.operations[other].issue_cycles - gap,
    )


def _carried(layout: Layout) -> list[Violation]:
    found = []
    for edge, crosses in zip(layout.problem.edges, layout.crosses.tolist(), strict=True):
        if edge.carried and crosses:
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
    total = layout.rings("registers")
    for group, width in sorted(layout.widths().items()):
        used = _live(layout, lambda o: o.registers, group)
        total += used[0]
        if machine.registers_per_warp is not None:
            limit = machine.registers_per_warp * width
            what = f"registers of group {group}"
            found += _over("registers", what, limit, used, layout.period)
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
    outcome = simulate(layout)
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
