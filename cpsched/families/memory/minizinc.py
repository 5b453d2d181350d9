"""Data for the MiniZinc models of the family, one model per form."""

from __future__ import annotations

import json
from typing import Any

from cpsched.families.memory.check import owners, pieces_of
from cpsched.families.memory.check_mapping import copy_time
from cpsched.families.memory.problem import MemoryProblem, MemorySchedule, default_objectives


def write_minizinc(problem: MemoryProblem, schedule: MemorySchedule | None = None) -> str:
    """JSON data of a problem for ``models/memory.mzn``, or for its form's model.

    Mappings go with ``memory_mapping.mzn``, orders with ``memory_ordering.mzn``. Of several
    objectives the first is written.
    """
    forms = {"allocation": _allocation, "mapping": _mapping, "ordering": _ordering}
    return json.dumps(forms[problem.form](problem))


def _allocation(problem: MemoryProblem) -> dict[str, Any]:
    number = {b.id: i + 1 for i, b in enumerate(problem.buffers)}
    owner = owners(problem.buffers)
    rows = [(number[b.id], *piece) for b in problem.buffers for piece in pieces_of(b)]
    total = sum(b.size + b.alignment + (b.offset or 0) for b in problem.buffers)
    return {
        "n": len(problem.buffers),
        "limit": total if problem.capacity is None else problem.capacity,
        "size": [b.size for b in problem.buffers],
        "alignment": [b.alignment for b in problem.buffers],
        "pinned": [-1 if b.offset is None else b.offset for b in problem.buffers],
        "owner": [number[owner[b.id]] for b in problem.buffers],
        "alias_of": [number[b.alias.of] if b.alias else 0 for b in problem.buffers],
        "shift": [b.alias.shift if b.alias else 0 for b in problem.buffers],
        "pieces": len(rows),
        "piece_of": [r[0] for r in rows],
        "from": [r[1] for r in rows],
        "to": [r[2] for r in rows],
        "low": [r[3] for r in rows],
        "high": [r[4] for r in rows],
        "places": sum(len(b.in_place) for b in problem.buffers),
        "taker": [number[b.id] for b in problem.buffers for _ in b.in_place],
        "giver": [number[name] for b in problem.buffers for name in b.in_place],
        "minimise": problem.capacity is None or "height" in problem.objectives,
    }


def _mapping(problem: MemoryProblem) -> dict[str, Any]:
    buffers, spaces, engine = problem.buffers, problem.spaces, problem.copy_engine
    uses = [(t, use) for t, b in enumerate(buffers, 1) for use in b.uses]
    return {
        "n": len(buffers),
        "size": [b.size for b in buffers],
        "lower": [b.lower for b in buffers],
        "upper": [b.upper for b in buffers],
        "alignment": [b.alignment for b in buffers],
        "is_input": [b.input for b in buffers],
        "is_output": [b.output for b in buffers],
        "copy_time": [copy_time(problem, b) if engine else 1 for b in buffers],
        "uses": len(uses),
        "tensor": [t for t, _ in uses],
        "start": [use.start for _, use in uses],
        "end": [use.end for _, use in uses],
        "spaces": len(spaces),
        "space_capacity": [s.capacity for s in spaces],
        "benefit": [[use.benefit.get(s.name, 0) for s in spaces] for _, use in uses],
        "engines": engine.engines if engine else 0,
        "base_time": problem.base_time,
        "first": min((b.lower or 0 for b in buffers), default=0),
        "last": max((b.upper or 0 for b in buffers), default=0),
    }


def _ordering(problem: MemoryProblem) -> dict[str, Any]:
    buffers, operations = problem.buffers, problem.operations
    number = {b.id: k for k, b in enumerate(buffers, 1)}
    writer = {x: k for k, o in enumerate(operations, 1) for x in o.outputs}
    free = {b.id for b in buffers if b.recompute}
    most = [
        problem.executions if o.outputs and free.issuperset(o.outputs) else 1 for o in operations
    ]
    total = sum(b.size + b.alignment + (b.offset or 0) for b in buffers) * max(most)
    names = default_objectives(problem)
    codes = {"peak_memory": 1, "height": 2, "execution_time": 3}
    return {
        "n": len(buffers),
        "size": [b.size for b in buffers],
        "alignment": [b.alignment for b in buffers],
        "pinned": [-1 if b.offset is None else b.offset for b in buffers],
        "is_output": [b.output for b in buffers],
        "operations": len(operations),
        "writer": [writer.get(b.id, 0) for b in buffers],
        "reads": [{"set": sorted(number[x] for x in o.inputs)} for o in operations],
        "duration": [o.duration for o in operations],
        "most": most,
        "peak_limit": total,
        "limit": total if problem.capacity is None else problem.capacity,
        "objective": codes[names[0]] if names else 0,
    }
