"""Readers of the family: dependence-graph JSON (raw, curated, recon), and the list of formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families import Format
from cpsched.families.kernel.hatschet import HATSCHET
from cpsched.families.kernel.machines import load_machine
from cpsched.families.kernel.problem import (
    Buffer,
    Edge,
    KernelProblem,
    Machine,
    Operation,
    Unit,
)
from cpsched.families.kernel.reading import field_of, parse_at, whole_option
from cpsched.problem import parse_json

#: Warp groups, producer included, of a graph that carries registers when the caller names none.
DEFAULT_GROUPS = 5
#: Units whose operations run on their own once issued.
ASYNCHRONOUS_UNITS = ("TMA", "TC")
#: Operation kinds that only rename memory.
VIEWS = ("ttg.local_alloc", "ttg.memdesc")


def _is_graph_json(name: str, head: str) -> bool:
    text = head.lstrip()
    if not text.startswith("{"):
        return False
    if re.search(r'"schema"\s*:\s*"recon-', head):
        return True
    if re.search(r'"schema_version"\s*:\s*"(ddg|curated-ddg)-', head):
        return True
    return '"ddg"' in head and '"loops"' in head


def read_graph(text: str, file: str, options: Mapping[str, str]) -> KernelProblem:
    """Read a dependence-graph JSON: a compiler's dump, a curated graph, or a reconstruction."""
    data = parse_json(text)
    if not isinstance(data, dict):
        raise ProblemError("a graph must be a JSON object", remedy="Wrap it in {}.")
    if "nodes" in data:
        return _from_recon(data, options)
    return _from_loops(data, options)


def _group_option(options: Mapping[str, str], carries_registers: bool) -> int:
    if "groups" in options:
        return whole_option(options["groups"], "groups", 0, 64)
    return DEFAULT_GROUPS if carries_registers else 0


def _machine_option(options: Mapping[str, str], default: Machine) -> Machine:
    machine = load_machine(options["machine"]) if "machine" in options else default
    # The graphs price signalling in their latencies already, unless the caller says otherwise.
    signal = options.get("signal", "0")
    cost = machine.signal_cost if signal == "machine" else whole_option(signal, "signal", 0, 10**6)
    return machine.model_copy(update={"signal_cost": cost})


def _from_loops(data: dict[str, Any], options: Mapping[str, str]) -> KernelProblem:
    loops = field_of(data, "loops", "", list)
    if not loops:
        raise ProblemError("the graph has no loop", place="loops", remedy="Add one.")
    wanted = whole_option(options.get("loop", "0"), "loop", 0, 10**6)
    chosen = [
        k
        for k, loop in enumerate(loops)
        if field_of(loop, "loop_id", f"loops.{k}", int, k) == wanted
    ]
    if not chosen:
        known = ", ".join(str(field_of(p, "loop_id", "loops", int, k)) for k, p in enumerate(loops))
        raise ProblemError(
            f"option loop names one of the graph's loops: {known}",
            place="option loop",
            value=wanted,
            remedy="Correct the option.",
        )
    place = f"loops.{chosen[0]}.ddg"
    graph = field_of(loops[chosen[0]], "ddg", f"loops.{chosen[0]}", dict)
    nodes = field_of(graph, "nodes", place, list)
    carries = any(isinstance(n, dict) and "regs" in n for n in nodes)
    operations = [_ddg_operation(n, f"{place}.nodes.{k}", carries) for k, n in enumerate(nodes)]
    registers = {o.id: o.registers for o in operations}
    edges: list[Edge] = []
    for k, e in enumerate(field_of(graph, "edges", place, list)):
        where = f"{place}.edges.{k}"
        source, target = str(field_of(e, "src", where, int)), str(field_of(e, "dst", where, int))
        distance = field_of(e, "distance", where, int, 0)
        both = registers.get(source, 0) > 0 and registers.get(target, 0) > 0
        edges.append(
            parse_at(
                Edge,
                {
                    "source": source,
                    "target": target,
                    "delay": field_of(e, "latency", where, int),
                    "distance": distance,
                    "blocking": field_of(e, "blocking", where, bool, False),
                    # A register value handed to a later iteration stays in its group.
                    "carried": bool(distance) and both,
                },
                where,
            )
        )
    name = ""
    kernel = data.get("kernel")
    if isinstance(kernel, dict) and isinstance(kernel.get("name"), str):
        name = kernel["name"]
    problem = KernelProblem.parse(
        {
            "name": name,
            "operations": operations,
            "edges": edges,
            "machine": _machine_option(options, load_machine("b200")),
            "groups": _group_option(options, carries),
        }
    )
    return _ablations(problem, options)


def _ddg_operation(node: Any, place: str, carries: bool) -> Operation:
    pipeline = field_of(node, "pipeline", place, str, "NONE")
    kind = field_of(node, "op_kind", place, str, "")
    latency = field_of(node, "latency", place, int)
    smem = field_of(node, "smem_footprint", place, int, 0)
    tmem = field_of(node, "tmem_footprint", place, int, 0)
    if "rrt" in node:
        uses = _runs(field_of(node, "rrt", place, dict), f"{place}.rrt")
    else:
        occupancy = field_of(node, "occupancy", place, int, 0)
        used = occupancy > 0 and pipeline != "NONE"
        uses = [{"unit": pipeline, "cycles": occupancy}] if used else []
    record: dict[str, Any] = {
        "id": str(field_of(node, "id", place, int)),
        "label": kind,
        "latency": latency,
        "uses": uses,
        "asynchronous": pipeline in ASYNCHRONOUS_UNITS,
        "variable_latency": field_of(node, "variable_latency", place, bool, False),
        "streaming": field_of(node, "streaming", place, bool, False),
        "view": kind.startswith(VIEWS) and not (latency or smem or tmem),
        "min_warps": field_of(node, "min_warps", place, int, 1),
        "registers": field_of(node, "regs", place, int, 0),
        "smem_bytes": smem,
        "tmem_columns": tmem,
    }
    if "self_latency" in node:
        record["issue"] = field_of(node, "self_latency", place, int)
    if "spill_cost" in node:
        record["spill_cost"] = field_of(node, "spill_cost", place, int)
    return parse_at(Operation, record, place)


def _runs(table: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """The constant runs of a reservation table given cycle by cycle."""
    uses = []
    for unit, cycles in table.items():
        if not isinstance(cycles, list) or not all(type(a) is int and a >= 0 for a in cycles):
            raise ProblemError(
                "a reservation table lists whole numbers, zero or more, per cycle",
                place=f"{place}.{unit}",
                value=cycles,
                remedy="Correct the table.",
            )
        at = 0
        for amount, run in groupby(cycles):
            length = len(list(run))
            if amount:
                uses.append({"unit": unit, "start": at, "cycles": length, "amount": amount})
            at += length
    return uses


def _from_recon(data: dict[str, Any], options: Mapping[str, str]) -> KernelProblem:
    described = field_of(data, "machine", "", dict, {})
    machine = _machine_option(options, _embedded_machine(described))
    nodes = field_of(data, "nodes", "", list)
    operations = []
    for k, node in enumerate(nodes):
        place = f"nodes.{k}"
        uses = []
        for unit, cycles in field_of(node, "units", place, dict, {}).items():
            known = machine.unit(unit)
            # The graphs give cycles at the full rate of a unit.
            amount = 1 if known is None else known.capacity
            if cycles:
                uses.append({"unit": unit, "cycles": cycles, "amount": amount})
        record = {
            "id": str(field_of(node, "id", place, str)),
            "latency": field_of(node, "latency", place, int),
            "uses": uses,
            "asynchronous": any(u["unit"] in ASYNCHRONOUS_UNITS for u in uses),
            "variable_latency": field_of(node, "variable_latency", place, bool, False),
            "streaming": field_of(node, "streaming", place, bool, False),
            "min_warps": field_of(node, "min_warps", place, int, 1),
            "registers": field_of(node, "regs", place, int, 0),
            "smem_bytes": field_of(node, "smem_bytes", place, int, 0),
            "tmem_columns": field_of(node, "tmem_cols", place, int, 0),
        }
        operations.append(parse_at(Operation, record, place))
    edges = []
    for k, e in enumerate(field_of(data, "edges", "", list)):
        where = f"edges.{k}"
        kind = field_of(e, "kind", where, str, "data")
        edges.append(
            parse_at(
                Edge,
                {
                    "source": str(field_of(e, "src", where, str)),
                    "target": str(field_of(e, "dst", where, str)),
                    "delay": field_of(e, "latency", where, int),
                    "distance": field_of(e, "distance", where, int, 0),
                    "kind": "anti" if kind.startswith("anti") else "true",
                    "blocking": field_of(e, "blocking", where, bool, False),
                },
                where,
            )
        )
    carries = any(o.registers for o in operations)
    problem = KernelProblem.parse(
        {
            "name": field_of(data, "name", "", str, ""),
            "operations": operations,
            "edges": edges,
            "machine": machine,
            "groups": _group_option(options, carries),
        }
    )
    return _ablations(problem, options)


def _embedded_machine(described: dict[str, Any]) -> Machine:
    """The machine described inside a reconstruction, prices taken from the shipped one."""
    name = field_of(described, "name", "machine", str, "H100")
    base = load_machine("b200" if name.upper().startswith("B200") else "h100")
    units = field_of(described, "units", "machine", dict, {})
    threads = 32
    update: dict[str, Any] = {"name": name}
    if units:
        update["units"] = tuple(
            parse_at(Unit, {"name": u, "capacity": c}, "machine.units") for u, c in units.items()
        )
    for field, key, factor in (
        ("registers", "regs_per_sm", 1),
        ("registers_per_warp", "max_regs_per_thread", threads),
        ("smem_bytes", "smem_bytes", 1),
        ("tmem_columns", "tmem_cols", 1),
    ):
        if key in described:
            update[field] = factor * field_of(described, key, "machine", int)
    return base.model_copy(update=update)


def _ablations(problem: KernelProblem, options: Mapping[str, str]) -> KernelProblem:
    """Forbid communication through registers, and free the depths of buffers, when asked to."""
    communication = options.get("communication", "on")
    if communication not in ("on", "off"):
        raise ProblemError(
            "option communication must be 'on' or 'off'",
            place="option communication",
            value=communication,
            remedy="Correct the option.",
        )
    if communication == "off" and problem.grouped:
        registers = {o.id for o in problem.operations if o.registers}
        edges = tuple(
            e.model_copy(
                update={"carried": e.carried or (e.kind == "true" and e.source in registers)}
            )
            for e in problem.edges
        )
        problem = problem.model_copy(update={"edges": edges})
    if options.get("buffers", "fixed") == "fixed":
        return problem
    return free_depths(problem, whole_option(options["buffers"], "buffers", 1, 64))


def free_depths(problem: KernelProblem, most: int) -> KernelProblem:
    """The problem in which every write-after-read distance becomes a buffer depth up to ``most``.

    Such an edge goes from a reader back to the operation whose result it read, over a positive
    distance: its distance is the number of buffers of that result. Depths may be lowered below
    what the graph says as well, so that a sweep shows what each slot is worth.
    """
    forward = {(e.source, e.target) for e in problem.edges if e.distance == 0}
    made_by = {o.id: o for o in problem.operations}
    edges, buffers = [], {b.name: b for b in problem.buffers}
    for e in problem.edges:
        overwrites = e.kind == "anti" or (
            (e.target, e.source) in forward and not made_by[e.target].registers
        )
        if e.distance == 0 or e.buffer is not None or not overwrites:
            edges.append(e)
            continue
        name = f"{e.target}<-{e.source}"
        # Memory held by live results is counted by their lifetimes, so the ring itself is free.
        buffers[name] = Buffer(name=name, min_depth=1, max_depth=most)
        edges.append(e.model_copy(update={"distance": 0, "buffer": name}))
    return problem.model_copy(update={"edges": tuple(edges), "buffers": tuple(buffers.values())})


GRAPH_OPTIONS = {
    "loop": "which loop of the file, by its loop_id (default 0)",
    "machine": "h100, b200 or a machine JSON file (default: the graph's own, else b200)",
    "groups": "number of warp groups with the producer; 0 = modulo scheduling only "
    f"(default: {DEFAULT_GROUPS} when the graph carries registers, else 0)",
    "buffers": "'fixed' (default), or a number: write-after-read distances become buffer depths "
    "up to it",
    "communication": "'on' (default), or 'off': registers never cross groups (an ablation)",
    "signal": "cycles that every cross-group dependence costs in addition, or 'machine' "
    "(default 0: the graphs price signalling themselves)",
}

FORMATS = (
    Format(
        name="kernel-graph",
        kind="kernel",
        description="dependence graph of a GPU loop as JSON (compiler dump, curated, or recon)",
        detection='a JSON object with "schema": "recon-..." or "schema_version": "ddg-..." or '
        '"curated-ddg-...", or with "loops" and "ddg"',
        detect=_is_graph_json,
        read=read_graph,
        options=GRAPH_OPTIONS,
    ),
    HATSCHET,
)
