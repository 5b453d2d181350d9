"""Readers of the family: dependence-graph JSON (raw, curated, recon) and HatScheT GraphML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from cpsched.errors import ProblemError
from cpsched.families import Format
from cpsched.families.kernel.machines import load_machine
from cpsched.families.kernel.problem import (
    Buffer,
    Edge,
    KernelProblem,
    Machine,
    Operation,
    Unit,
)
from cpsched.problem import Record, parse_json

#: Warp groups, producer included, of a graph that carries registers when the caller names none.
DEFAULT_GROUPS = 5
#: Units whose operations run on their own once issued.
ASYNCHRONOUS_UNITS = ("TMA", "TC")
#: Operation kinds that only rename memory.
VIEWS = ("ttg.local_alloc", "ttg.memdesc")


def _integer(text: str, option: str, low: int = 0, high: int = 10**6) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ProblemError(
            f"option {option} must be a whole number from {low} to {high}",
            place=f"option {option}",
            value=text,
            remedy="Correct the option.",
        )
    return value


def _get(record: Any, key: str, place: str, kind: type, default: Any = None) -> Any:
    """A field of a JSON object, of the given type; missing is an error without a default."""
    if not isinstance(record, dict):
        raise ProblemError(
            "an object is expected here",
            place=place,
            value=type(record).__name__,
            remedy="Correct the file.",
        )
    if key not in record:
        if default is not None:
            return default
        raise ProblemError("the field is missing", place=f"{place}.{key}", remedy="Add the field.")
    value = record[key]
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        raise ProblemError(
            f"the field must be of type {kind.__name__}",
            place=f"{place}.{key}",
            value=value,
            remedy="Correct the value.",
        )
    return value


# ---------------------------------------------------------------------- dependence-graph JSON


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
        return _integer(options["groups"], "groups", 0, 64)
    return DEFAULT_GROUPS if carries_registers else 0


def _machine_option(options: Mapping[str, str], default: Machine) -> Machine:
    machine = load_machine(options["machine"]) if "machine" in options else default
    # The graphs price signalling in their latencies already, unless the caller says otherwise.
    signal = options.get("signal", "0")
    cost = machine.signal_cost if signal == "machine" else _integer(signal, "signal", 0, 10**6)
    return machine.model_copy(update={"signal_cost": cost})


def _from_loops(data: dict[str, Any], options: Mapping[str, str]) -> KernelProblem:
    loops = _get(data, "loops", "", list)
    if not loops:
        raise ProblemError("the graph has no loop", place="loops", remedy="Add one.")
    wanted = _integer(options.get("loop", "0"), "loop", 0, 10**6)
    chosen = [
        k for k, loop in enumerate(loops) if _get(loop, "loop_id", f"loops.{k}", int, k) == wanted
    ]
    if not chosen:
        known = ", ".join(str(_get(p, "loop_id", "loops", int, k)) for k, p in enumerate(loops))
        raise ProblemError(
            f"option loop names one of the graph's loops: {known}",
            place="option loop",
            value=wanted,
            remedy="Correct the option.",
        )
    place = f"loops.{chosen[0]}.ddg"
    graph = _get(loops[chosen[0]], "ddg", f"loops.{chosen[0]}", dict)
    nodes = _get(graph, "nodes", place, list)
    carries = any(isinstance(n, dict) and "regs" in n for n in nodes)
    operations = [_ddg_operation(n, f"{place}.nodes.{k}", carries) for k, n in enumerate(nodes)]
    registers = {o.id: o.registers for o in operations}
    edges: list[Edge] = []
    for k, e in enumerate(_get(graph, "edges", place, list)):
        where = f"{place}.edges.{k}"
        source, target = str(_get(e, "src", where, int)), str(_get(e, "dst", where, int))
        distance = _get(e, "distance", where, int, 0)
        both = registers.get(source, 0) > 0 and registers.get(target, 0) > 0
        edges.append(
            _parse_at(
                Edge,
                {
                    "source": source,
                    "target": target,
                    "delay": _get(e, "latency", where, int),
                    "distance": distance,
                    "blocking": _get(e, "blocking", where, bool, False),
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
    pipeline = _get(node, "pipeline", place, str, "NONE")
    kind = _get(node, "op_kind", place, str, "")
    latency = _get(node, "latency", place, int)
    smem = _get(node, "smem_footprint", place, int, 0)
    tmem = _get(node, "tmem_footprint", place, int, 0)
    if "rrt" in node:
        uses = _runs(_get(node, "rrt", place, dict), f"{place}.rrt")
    else:
        occupancy = _get(node, "occupancy", place, int, 0)
        used = occupancy > 0 and pipeline != "NONE"
        uses = [{"unit": pipeline, "cycles": occupancy}] if used else []
    record: dict[str, Any] = {
        "id": str(_get(node, "id", place, int)),
        "label": kind,
        "latency": latency,
        "uses": uses,
        "asynchronous": pipeline in ASYNCHRONOUS_UNITS,
        "variable_latency": _get(node, "variable_latency", place, bool, False),
        "streaming": _get(node, "streaming", place, bool, False),
        "view": kind.startswith(VIEWS) and not (latency or smem or tmem),
        "min_warps": _get(node, "min_warps", place, int, 1),
        "registers": _get(node, "regs", place, int, 0),
        "smem_bytes": smem,
        "tmem_columns": tmem,
    }
    if "self_latency" in node:
        record["issue"] = _get(node, "self_latency", place, int)
    if "spill_cost" in node:
        record["spill_cost"] = _get(node, "spill_cost", place, int)
    return _parse_at(Operation, record, place)


R = TypeVar("R", bound=Record)


def _parse_at(record: type[R], data: dict[str, Any], place: str) -> R:
    try:
        return record.parse(data)
    except ProblemError as error:
        inner = ".".join(part for part in (place, error.place) if part)
        raise ProblemError(
            error.rule, place=inner, value=error.value, remedy=error.remedy
        ) from None


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
    described = _get(data, "machine", "", dict, {})
    machine = _machine_option(options, _embedded_machine(described))
    nodes = _get(data, "nodes", "", list)
    operations = []
    for k, node in enumerate(nodes):
        place = f"nodes.{k}"
        uses = []
        for unit, cycles in _get(node, "units", place, dict, {}).items():
            known = machine.unit(unit)
            # The graphs give cycles at the full rate of a unit.
            amount = 1 if known is None else known.capacity
            if cycles:
                uses.append({"unit": unit, "cycles": cycles, "amount": amount})
        record = {
            "id": str(_get(node, "id", place, str)),
            "latency": _get(node, "latency", place, int),
            "uses": uses,
            "asynchronous": any(u["unit"] in ASYNCHRONOUS_UNITS for u in uses),
            "variable_latency": _get(node, "variable_latency", place, bool, False),
            "streaming": _get(node, "streaming", place, bool, False),
            "min_warps": _get(node, "min_warps", place, int, 1),
            "registers": _get(node, "regs", place, int, 0),
            "smem_bytes": _get(node, "smem_bytes", place, int, 0),
            "tmem_columns": _get(node, "tmem_cols", place, int, 0),
        }
        operations.append(_parse_at(Operation, record, place))
    edges = []
    for k, e in enumerate(_get(data, "edges", "", list)):
        where = f"edges.{k}"
        kind = _get(e, "kind", where, str, "data")
        edges.append(
            _parse_at(
                Edge,
                {
                    "source": str(_get(e, "src", where, str)),
                    "target": str(_get(e, "dst", where, str)),
                    "delay": _get(e, "latency", where, int),
                    "distance": _get(e, "distance", where, int, 0),
                    "kind": "anti" if kind.startswith("anti") else "true",
                    "blocking": _get(e, "blocking", where, bool, False),
                },
                where,
            )
        )
    carries = any(o.registers for o in operations)
    problem = KernelProblem.parse(
        {
            "name": _get(data, "name", "", str, ""),
            "operations": operations,
            "edges": edges,
            "machine": machine,
            "groups": _group_option(options, carries),
        }
    )
    return _ablations(problem, options)


def _embedded_machine(described: dict[str, Any]) -> Machine:
    """The machine described inside a reconstruction, prices taken from the shipped one."""
    name = _get(described, "name", "machine", str, "H100")
    base = load_machine("b200" if name.upper().startswith("B200") else "h100")
    units = _get(described, "units", "machine", dict, {})
    threads = 32
    update: dict[str, Any] = {"name": name}
    if units:
        update["units"] = tuple(
            _parse_at(Unit, {"name": u, "capacity": c}, "machine.units") for u, c in units.items()
        )
    for field, key, factor in (
        ("registers", "regs_per_sm", 1),
        ("registers_per_warp", "max_regs_per_thread", threads),
        ("smem_bytes", "smem_bytes", 1),
        ("tmem_columns", "tmem_cols", 1),
    ):
        if key in described:
            update[field] = factor * _get(described, key, "machine", int)
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
    return free_depths(problem, _integer(options["buffers"], "buffers", 1, 64))


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


# ---------------------------------------------------------------------- HatScheT


def _is_graphml(name: str, head: str) -> bool:
    return "<graphml" in head and 'key="uses_resource"' in head


def read_graphml(text: str, file: str, options: Mapping[str, str]) -> KernelProblem:
    """Read a HatScheT GraphML graph with its resource model."""
    machine, latency, blocking = _resource_model(_resource_file(file, options))
    root = _xml(text)
    operations = []
    graph = _find(root, "graph")
    if graph is None:
        raise ProblemError("a GraphML file has a graph", remedy="Correct the file.")
    units = {u.name for u in machine.units}
    for node in _all(graph, "node"):
        name, data = node.get("id", ""), _data(node)
        resource = data.get("uses_resource", "")
        if resource not in latency:
            raise ProblemError(
                "a node uses a resource of the resource file",
                place=f"node {name}",
                value=resource,
                remedy="Add the resource, or pass the right file with option resources.",
            )
        uses = []
        if resource in units and blocking[resource] > 0:
            uses.append({"unit": resource, "cycles": blocking[resource]})
        record = {"id": name, "label": data.get("name", ""), "latency": latency[resource]}
        operations.append(_parse_at(Operation, record | {"uses": uses}, f"node {name}"))
    resource_latency = {o.id: o.latency for o in operations}
    edges = []
    for edge in _all(graph, "edge"):
        source, target, data = edge.get("source", ""), edge.get("target", ""), _data(edge)
        place = f"edge {source} -> {target}"
        data_edge = data.get("deptype", "Data") == "Data"
        record = {
            "source": source,
            "target": target,
            # A dependence waits for the source's result, and for the extra delay of the edge.
            "delay": resource_latency.get(source, 0) + _number(data, "delay", place),
            "distance": _number(data, "distance", place),
            "kind": "true" if data_edge else "output",
        }
        edges.append(_parse_at(Edge, record, place))
    return KernelProblem.parse({"operations": operations, "edges": edges, "machine": machine})


def _number(data: dict[str, str], key: str, place: str) -> int:
    text = data.get(key, "0").strip()
    try:
        return int(text)
    except ValueError:
        raise ProblemError(
            f"{key} must be a whole number", place=place, value=text, remedy="Correct the file."
        ) from None


def _xml(text: str) -> ElementTree.Element:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ProblemError(
            "XML with a document type or entities is refused", remedy="Remove the declaration."
        )
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ProblemError(
            f"the text must be XML: {error}",
            place=f"line {error.position[0]}",
            remedy="Correct the file.",
        ) from None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _all(element: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return [e for e in element.iter() if _tag(e) == tag]


def _find(element: ElementTree.Element, tag: str) -> ElementTree.Element | None:
    return next(iter(_all(element, tag)), None)


def _data(element: ElementTree.Element) -> dict[str, str]:
    return {d.get("key", ""): d.text or "" for d in element if _tag(d) == "data"}


def _resource_file(file: str, options: Mapping[str, str]) -> str:
    if "resources" in options:
        candidates = [Path(options["resources"])]
    else:
        path = Path(file)
        stem = path.name.removesuffix(".graphml")
        # A variant for another clock (graph1.200MHz) shares the resources of its graph.
        stems = [stem, stem.split(".")[0]]
        candidates = [path.with_name(s + suffix) for s in stems for suffix in ("_RM.xml", "RM.xml")]
    for candidate in candidates:
        try:
            return candidate.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            continue
    raise ProblemError(
        "a GraphML graph needs its resource file",
        place="resources",
        value=", ".join(str(c) for c in candidates),
        remedy="Put it beside the graph, or name it with --option resources=FILE.",
    )


def _resource_model(text: str) -> tuple[Machine, dict[str, int], dict[str, int]]:
    """The machine, and each resource's latency and blocking time; a limit of -1 is none."""
    units, latency, blocking = [], {}, {}
    for resource in _all(_xml(text), "Resource"):
        name = resource.get("name", "")
        place = f"resource {name}"
        attributes = dict(resource.attrib)
        if not name or name in latency:
            raise ProblemError(
                "resources have distinct names", place=place, remedy="Correct the resource file."
            )
        limit = _number(attributes, "limit", place) if "limit" in attributes else -1
        latency[name] = _number(attributes, "latency", place)
        blocking[name] = _number(attributes, "blockingTime", place)
        if limit == 0 or limit < -1:
            raise ProblemError(
                "a resource's limit is positive, or -1 for unlimited",
                place=place,
                value=limit,
                remedy="Correct the resource file.",
            )
        if limit > 0:
            units.append(_parse_at(Unit, {"name": name, "capacity": limit}, place))
    return Machine(name="resource model", units=tuple(units)), latency, blocking


# ---------------------------------------------------------------------- the list

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
    Format(
        name="hatschet",
        kind="kernel",
        description="HatScheT GraphML with its resource model XML",
        detection="XML with <graphml and uses_resource; resources in *_RM.xml or *RM.xml beside it",
        detect=_is_graphml,
        read=read_graphml,
        options={"resources": "the resource model XML"},
    ),
)
