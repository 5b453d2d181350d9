"""Named constraints of a loop, and the loop that keeps only some of them.

What makes an initiation interval impossible is a set of limits, not a set of instructions:
dependences within one iteration are part of the program and always kept, everything else has a
name. `at_interval` asks the question of `explain --ii N`.
"""

from __future__ import annotations

from typing import Any

from cpsched.families import NamedConstraint
from cpsched.families.kernel.modes import in_mode, modes_of
from cpsched.families.kernel.problem import Edge, KernelProblem, Mode, Operation, extra_delay
from cpsched.families.kernel.values import has_registers

#: Depth of a ring and number of groups when their limits are dropped.
DEEP, MANY_GROUPS = 64, 16


def at_interval(problem: KernelProblem, interval: int) -> KernelProblem:
    """The problem with an initiation interval of at most this."""
    return problem.model_copy(update={"max_initiation_interval": interval})


def constraints(problem: KernelProblem) -> list[NamedConstraint]:
    """The named constraints, by rule and by what they limit."""
    out: list[NamedConstraint] = []

    def add(group: str, detail: str, sentence: str) -> None:
        out.append(NamedConstraint(f"{group}:{detail}" if detail else group, group, sentence))

    limit = problem.max_initiation_interval
    if limit is not None:
        add("initiation_interval", "", f"The initiation interval is at most {limit} cycles.")
    if problem.max_length is not None:
        add("length", "", f"One iteration completes within {problem.max_length} cycles.")
    machine = problem.machine
    used = {
        machine.unit(u.unit)
        for o in problem.operations
        for mode in modes_of(o)
        for u in in_mode(o, mode).uses
    }
    for unit in machine.units:
        if unit in used:
            busy = sum(
                min(
                    sum(
                        u.cycles * u.amount
                        for u in in_mode(o, mode).uses
                        if machine.unit(u.unit) is unit
                    )
                    for mode in modes_of(o)
                )
                for o in problem.operations
            )
            add(
                "unit",
                unit.name,
                f"Unit {unit.name} has capacity {unit.capacity} and {busy} unit-cycles of work "
                "per iteration.",
            )
    for o in problem.operations:
        if len(o.modes) > 1:
            sentence = f"Operation {o.id} pays for what its mode saves: it has {len(o.modes)}."
            add("mode", o.id, sentence)
    for k, edge in enumerate(problem.edges):
        if edge.distance or edge.buffer is not None:
            add("dependence", _edge_name(k, edge), _edge_sentence(edge))
    for b in problem.buffers:
        if b.max_depth < DEEP:
            add("buffer_depth", b.name, f"Buffer {b.name} has at most {b.max_depth} slots.")
    for name, memory, amount in (
        ("smem", "shared memory (bytes)", machine.smem_bytes),
        ("tmem", "tensor memory (columns)", machine.tmem_columns),
    ):
        if amount is not None and _holds(problem, name):
            add(name, "", f"Live results and rings fit {memory}: {amount}.")
    if problem.grouped:
        _group_constraints(problem, add)
    return out


def _group_constraints(problem: KernelProblem, add: Any) -> None:
    machine = problem.machine
    add("groups", "", f"There are {problem.group_count} warp groups, the producer included.")
    if any(o.variable_latency for o in problem.operations):
        add(
            "producer", "", "Variable-latency operations, and only they, are in the producer group."
        )
    if any(e.blocking for e in problem.edges) or _spills(problem):
        add("blocking", "", "A group that waits at a barrier has no operation in its issue window.")
    if _spills(problem):
        add("spill", "", "Registers that another group reads pass through shared memory.")
    if machine.signal_cost:
        add("signal", "", f"A barrier between groups costs {machine.signal_cost} cycles.")
    if has_registers(problem):
        if machine.registers_per_warp is not None:
            add(
                "registers",
                "warp",
                f"A group holds at most {machine.registers_per_warp} words per warp.",
            )
        if machine.registers is not None:
            add("registers", "file", f"All groups hold at most {machine.registers} words.")
    if machine.max_warps is not None:
        add("warps", "", f"There are {machine.max_warps} warps.")
    for k, edge in enumerate(problem.edges):
        if edge.carried and edge.source != edge.target:
            add(
                "carried",
                _edge_name(k, edge),
                f"{edge.source} carries a register value to {edge.target}: one group.",
            )
    for o in problem.operations:
        if o.group is not None:
            add("pinned", o.id, f"Operation {o.id} is pinned to group {o.group}.")


def _edge_name(k: int, edge: Edge) -> str:
    return f"{edge.source}->{edge.target} ({k})"


def _edge_sentence(edge: Edge) -> str:
    back = "the depth of buffer " + str(edge.buffer) if edge.buffer else f"{edge.distance}"
    return (
        f"{edge.target} starts at least {edge.delay} cycles after {edge.source} of "
        f"{back} iteration(s) before."
    )


def _holds(problem: KernelProblem, memory: str) -> bool:
    field = "smem_bytes" if memory == "smem" else "tmem_columns"
    return any(getattr(part, field) for o in problem.operations for part in (o, *o.modes)) or any(
        b.memory == memory for b in problem.buffers
    )


def _spills(problem: KernelProblem) -> bool:
    return any(
        problem.spill_cost(in_mode(o, mode)) for o in problem.operations for mode in modes_of(o)
    )


def restrict(problem: KernelProblem, names: frozenset[str]) -> KernelProblem:
    """The problem that keeps only the named ones of its constraints."""
    gone = {c.name for c in constraints(problem)} - names
    machine_update: dict[str, Any] = {}
    update: dict[str, Any] = {}
    for name, fields in (
        ("smem", ("smem_bytes",)),
        ("tmem", ("tmem_columns",)),
        ("registers:warp", ("registers_per_warp",)),
        ("registers:file", ("registers",)),
        ("warps", ("max_warps",)),
    ):
        if name in gone:
            machine_update |= dict.fromkeys(fields)
    if "spill" in gone:
        machine_update |= {"spill_base": 0, "spill_per_kb": 0}
    if "signal" in gone:
        machine_update["signal_cost"] = 0
    if "initiation_interval" in gone:
        update["max_initiation_interval"] = None
    if "length" in gone:
        update["max_length"] = None
    operations = []
    for o in problem.operations:
        if f"mode:{o.id}" in gone:
            o = ideal(o)
        kept = {f"unit:{u.name}" for u in problem.machine.units} - gone
        change = _relaxed(problem, o, kept, gone)
        if o.modes:
            modes = [m.model_copy(update=_relaxed(problem, m, kept, gone)) for m in o.modes]
            change["modes"] = tuple(modes)
        if "producer" in gone:
            change["variable_latency"] = False
        if f"pinned:{o.id}" in gone or ("producer" in gone and o.group == 0):
            change["group"] = None
        operations.append(o.model_copy(update=change))
    edges = []
    for k, e in enumerate(problem.edges):
        name = _edge_name(k, e)
        if f"dependence:{name}" in gone:
            if e.carried and f"carried:{name}" not in gone:
                # Keep who shares a group, without the timing.
                edges.append(e.model_copy(update={"delay": 0, "kind": "output"}))
            continue
        carried = e.carried and f"carried:{name}" not in gone
        edges.append(e.model_copy(update={"carried": carried}))
    buffers = [
        b.model_copy(update={"max_depth": DEEP}) if f"buffer_depth:{b.name}" in gone else b
        for b in problem.buffers
    ]
    if problem.grouped:
        count = problem.group_count
        if "groups" in gone:
            count = max(count, min(MANY_GROUPS, len(operations) + 1))
        update["groups"] = count + int("producer" in gone)
    if machine_update:
        update["machine"] = problem.machine.model_copy(update=machine_update)
    update |= {"operations": tuple(operations), "edges": tuple(edges), "buffers": tuple(buffers)}
    return problem.model_copy(update=update)


def _relaxed(
    problem: KernelProblem, part: Operation | Mode, kept: set[str], gone: set[str]
) -> dict[str, Any]:
    """What changes in an operation or one of its modes when constraints are dropped."""
    change: dict[str, Any] = {}
    if part.uses:
        uses = tuple(u for u in part.uses if f"unit:{_unit(problem, u.unit)}" in kept)
        if uses != part.uses:
            change["uses"] = uses
    if "blocking" in gone:
        change["issue"] = 0
    if "spill" in gone:
        change["spill_cost"] = 0
    return change


def ideal(operation: Operation) -> Operation:
    """The operation in one mode as good as the best of its modes in every respect.

    Reservation tables that differ cannot be compared, so they are dropped.
    """
    each = [in_mode(operation, mode) for mode in operation.modes]
    least = {
        field: min(getattr(o, field) for o in each)
        for field in ("latency", "min_warps", "registers", "smem_bytes", "tmem_columns")
    }
    costs = [o.spill_cost for o in each]
    mode = Mode(
        **least,
        issue=min(o.issue_cycles for o in each),
        extra_delay=min(extra_delay(operation, mode) for mode in operation.modes),
        uses=each[0].uses if all(o.uses == each[0].uses for o in each) else (),
        # The machine's price depends on the words, of which there are now the fewest.
        spill_cost=None if None in costs else min(c for c in costs if c is not None),
    )
    return operation.model_copy(update={"modes": (mode,)})


def _unit(problem: KernelProblem, name: str) -> str:
    unit = problem.machine.unit(name)
    return name if unit is None else unit.name
