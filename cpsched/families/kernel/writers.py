"""Writers: the annotated graph, the expanded programs, and the data of the MiniZinc model."""

from __future__ import annotations

import json

from cpsched.errors import ProblemError
from cpsched.families import Writer
from cpsched.families.kernel.expand import pseudo_code, to_json
from cpsched.families.kernel.modes import in_mode, modes_of
from cpsched.families.kernel.problem import KernelProblem, KernelSchedule, extra_delay


def annotate(problem: KernelProblem, schedule: KernelSchedule) -> str:
    """The dependence graph as JSON with stage, slot, start and group on every node."""
    placed = {p.operation: p for p in schedule.operations}
    depth = {b.buffer: b.depth for b in schedule.buffers}
    nodes = []
    for o in problem.operations:
        p = placed[o.id]
        fields = o.model_dump(mode="json", exclude_defaults=True)
        fields |= {"start": p.start, "stage": p.stage, "slot": p.slot, "group": p.group}
        if o.modes:
            fields["mode"] = p.mode
        nodes.append(fields)
    return (
        json.dumps(
            {
                "schema": "cpsched-kernel-annotated-1",
                "name": problem.name,
                "initiation_interval": schedule.initiation_interval,
                "length": schedule.length,
                "stages": schedule.stages,
                "buffers": depth,
                "nodes": nodes,
                "edges": [e.model_dump(mode="json", exclude_defaults=True) for e in problem.edges],
            },
            indent=1,
        )
        + "\n"
    )


def minizinc(problem: KernelProblem, schedule: KernelSchedule | None = None) -> str:
    """Data of ``models/kernel.mzn`` as JSON: intervals up to the serial length.

    Raises
    ------
    ProblemError
        For what the model leaves out: views, warp and register-file limits, pinned groups.
    """
    machine = problem.machine
    if any(o.view or o.group is not None for o in problem.operations):
        raise ProblemError(
            "the MiniZinc model has no views and no pinned groups",
            place="operations",
            remedy="Remove them.",
        )
    if machine.max_warps is not None or machine.registers is not None:
        raise ProblemError(
            "the MiniZinc model has no limit on all warps or on the whole register file",
            place="machine",
            remedy="Remove max_warps and registers.",
        )
    at = {o.id: k + 1 for k, o in enumerate(problem.operations)}
    ring = {b.name: k + 1 for k, b in enumerate(problem.buffers)}
    unit = {u.name: k + 1 for k, u in enumerate(machine.units)}
    modes = [
        (in_mode(o, mode), extra_delay(o, mode)) for o in problem.operations for mode in modes_of(o)
    ]
    uses = [
        (k, unit[u.name], use.start, use.cycles, use.amount)
        for k, (o, _) in enumerate(modes, 1)
        for use in o.uses
        if (u := machine.unit(use.unit)) is not None
    ]
    longest = dict.fromkeys(at, 1)
    for o, extra in modes:
        delays = [e.delay for e in problem.edges if e.source == o.id]
        crossing = extra + problem.spill_cost(o) + machine.signal_cost
        ends = [o.latency, o.issue_cycles, *(u.start + u.cycles for u in o.uses)]
        longest[o.id] = max(longest[o.id], *ends, *(d + crossing for d in delays))
    serial = sum(longest.values())
    most = problem.max_initiation_interval or serial
    unlimited = 10**9

    def limit(value: int | None) -> int:
        return unlimited if value is None else value

    kinds = {"true": 1, "anti": 2, "output": 3}
    memory = {"smem": 1, "tmem": 2, "registers": 3}
    data = {
        "n": len(at),
        "variable": [o.variable_latency for o in problem.operations],
        "modes": len(modes),
        "mode_operation": [at[o.id] for o, _ in modes],
        "latency": [max(1, o.latency) for o, _ in modes],
        "extra_delay": [extra for _, extra in modes],
        "issue": [o.issue_cycles for o, _ in modes],
        "warps": [o.min_warps for o, _ in modes],
        "registers": [o.registers for o, _ in modes],
        "smem_bytes": [o.smem_bytes for o, _ in modes],
        "tmem_columns": [o.tmem_columns for o, _ in modes],
        "spill_cost": [problem.spill_cost(o) for o, _ in modes],
        "edges": len(problem.edges),
        "source": [at[e.source] for e in problem.edges],
        "target": [at[e.target] for e in problem.edges],
        "delay": [e.delay for e in problem.edges],
        "distance": [e.distance for e in problem.edges],
        "edge_kind": [kinds[e.kind] for e in problem.edges],
        "blocking_edge": [e.blocking for e in problem.edges],
        "carried_edge": [e.carried for e in problem.edges],
        "edge_buffer": [ring.get(e.buffer or "", 0) for e in problem.edges],
        "units": len(unit),
        "capacity": [u.capacity for u in machine.units],
        "uses": len(uses),
        "use_mode": [u[0] for u in uses],
        "use_unit": [u[1] for u in uses],
        "use_start": [u[2] for u in uses],
        "use_cycles": [u[3] for u in uses],
        "use_amount": [u[4] for u in uses],
        "buffers": len(ring),
        "buffer_memory": [memory[b.memory] for b in problem.buffers],
        "buffer_size": [b.size for b in problem.buffers],
        "min_depth": [b.min_depth for b in problem.buffers],
        "max_depth": [b.max_depth for b in problem.buffers],
        "groups": problem.group_count,
        "registers_per_warp": limit(machine.registers_per_warp),
        "smem_limit": limit(machine.smem_bytes),
        "tmem_limit": limit(machine.tmem_columns),
        "signal_cost": machine.signal_cost if problem.grouped else 0,
        "max_interval": most,
        "max_length": problem.max_length if problem.max_length is not None else 3 * serial,
    }
    return json.dumps(data) + "\n"


WRITERS = (
    Writer(
        name="annotated-graph",
        description="the dependence graph with start, stage, slot and group on every node, as JSON",
        write=annotate,
        needs_schedule=True,
    ),
    Writer(
        name="program",
        description="prologue, kernel, epilogue and per-group programs with barriers, as JSON",
        write=to_json,
        needs_schedule=True,
    ),
    Writer(
        name="pseudo-code",
        description="per-group programs with barriers and ring indices, as readable text",
        write=pseudo_code,
        needs_schedule=True,
    ),
    Writer(name="minizinc", description="data of models/kernel.mzn, as JSON", write=minizinc),
)
