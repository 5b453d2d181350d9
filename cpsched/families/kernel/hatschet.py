"""Reader of HatScheT graphs: GraphML with its resource model."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

from cpsched.errors import ProblemError
from cpsched.families import Format
from cpsched.families.kernel.problem import Edge, KernelProblem, Machine, Operation, Unit
from cpsched.families.kernel.reading import parse_at


def is_graphml(name: str, head: str) -> bool:
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
        operations.append(parse_at(Operation, record | {"uses": uses}, f"node {name}"))
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
        edges.append(parse_at(Edge, record, place))
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
            units.append(parse_at(Unit, {"name": name, "capacity": limit}, place))
    return Machine(name="resource model", units=tuple(units)), latency, blocking


HATSCHET = Format(
    name="hatschet",
    kind="kernel",
    description="HatScheT GraphML with its resource model XML",
    detection="XML with <graphml and uses_resource; resources in *_RM.xml or *RM.xml beside it",
    detect=is_graphml,
    read=read_graphml,
    options={"resources": "the resource model XML"},
)
