"""Readers of the workflow family: SAGA, STG, matrix JSON, networkx; WfFormat is in `wfformat`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cpsched.errors import ProblemError
from cpsched.families import Format
from cpsched.families.workflow.problem import Edge, Task, WorkflowProblem
from cpsched.families.workflow.reading import (
    MACHINE_OPTIONS,
    as_dict,
    as_list,
    machine_fields,
    number_of,
    read_machines,
    text_of,
)
from cpsched.families.workflow.wfformat import is_wfformat, read_wfformat
from cpsched.problem import parse_json

if TYPE_CHECKING:
    import networkx


# ---------------------------------------------------------------------- SAGA / DAGBench


def _is_saga(name: str, head: str) -> bool:
    network = all(f'"{key}"' in head for key in ("network", "nodes", "speed"))
    return head.lstrip().startswith("{") and ('"task_graph"' in head or network)


def read_saga(text: str, file: str, options: Mapping[str, str]) -> WorkflowProblem:
    """SAGA JSON: task costs, dependency sizes, nodes with speeds, undirected links with speeds."""
    root = as_dict(parse_json(text), "")
    graph = as_dict(root.get("task_graph"), "task_graph")
    tasks = []
    for i, entry in enumerate(as_list(graph.get("tasks"), "task_graph.tasks")):
        where = f"task_graph.tasks.{i}"
        entry = as_dict(entry, where)
        tasks.append(Task(id=text_of(entry, "name", where), work=number_of(entry, "cost", where)))
    edges = []
    for i, entry in enumerate(as_list(graph.get("dependencies", []), "task_graph.dependencies")):
        where = f"task_graph.dependencies.{i}"
        entry = as_dict(entry, where)
        edges.append(
            Edge(
                source=text_of(entry, "source", where),
                target=text_of(entry, "target", where),
                size=number_of(entry, "size", where),
            )
        )
    fields = machine_fields(options) or _saga_network(root)
    name = str(root.get("name", ""))[:1000]
    return WorkflowProblem.parse({"name": name, "tasks": tasks, "edges": edges, **fields})


def _saga_network(root: dict[str, Any]) -> dict[str, Any]:
    network = as_dict(root.get("network"), "network")
    machines: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    for i, entry in enumerate(as_list(network.get("nodes"), "network.nodes")):
        where = f"network.nodes.{i}"
        entry = as_dict(entry, where)
        speed = number_of(entry, "speed", where)
        machines.append({"name": text_of(entry, "name", where), "speed": speed})
    for i, entry in enumerate(as_list(network.get("edges", []), "network.edges")):
        where = f"network.edges.{i}"
        entry = as_dict(entry, where)
        source, target = text_of(entry, "source", where), text_of(entry, "target", where)
        if source == target:
            continue  # data for a task on the same node is free
        rate = entry.get("speed")
        if rate is not None and not (isinstance(rate, int | float) and rate >= 1e15):
            rate = number_of(entry, "speed", where)
            if rate <= 0:
                raise ProblemError(
                    "a link must have a positive speed",
                    place=f"{where}.speed",
                    value=rate,
                    remedy="Correct the speed, or remove the node.",
                )
        else:
            rate = None  # as good as on one node
        links.append({"from": source, "to": target, "bandwidth": rate})
    return {"machines": machines, "links": links}


# ---------------------------------------------------------------------- matrix JSON


def _is_matrix(name: str, head: str) -> bool:
    return head.lstrip().startswith("{") and '"processors"' in head and '"w"' in head


def read_matrix(text: str, file: str, options: Mapping[str, str]) -> WorkflowProblem:
    """Duration matrix ``w`` over ``processors``; ``edges`` as (source, target, transfer time)."""
    root = as_dict(parse_json(text), "")
    names = [str(p) for p in as_list(root.get("processors"), "processors")]
    rows = as_list(root.get("w"), "w")
    tasks = []
    for i, row in enumerate(rows):
        row = as_list(row, f"w.{i}")
        if len(row) != len(names):
            raise ProblemError(
                "a row of w must have one duration per processor",
                place=f"w.{i}",
                value=len(row),
                remedy=f"Give {len(names)} durations.",
            )
        cells = {n: number_of({"w": x}, "w", f"w.{i}") for n, x in zip(names, row, strict=True)}
        tasks.append(Task(id=str(i), durations=cells))
    edges = []
    for i, entry in enumerate(as_list(root.get("edges", []), "edges")):
        entry = as_list(entry, f"edges.{i}")
        if len(entry) != 3 or not all(isinstance(x, int | float) for x in entry):
            raise ProblemError(
                "an edge must be [source, target, transfer time]",
                place=f"edges.{i}",
                value=entry,
                remedy="Give two zero-based task numbers and a time.",
            )
        size = number_of({"time": entry[2]}, "time", f"edges.{i}")
        edges.append(Edge(source=str(entry[0]), target=str(entry[1]), size=size))
    return WorkflowProblem.parse(
        {
            "name": str(root.get("name", ""))[:1000],
            "tasks": tasks,
            "edges": edges,
            "machines": [{"name": n} for n in names],
            "bandwidth": 1.0,
        }
    )


# ---------------------------------------------------------------------- STG


def _is_stg(name: str, head: str) -> bool:
    return name.lower().endswith(".stg")


def read_stg(text: str, file: str, options: Mapping[str, str]) -> WorkflowProblem:
    """Standard Task Graph: number, time, number of predecessors, predecessors; dummies included."""
    try:
        processors = int(options.get("processors", "2"))
    except ValueError:
        processors = 0
    if not 1 <= processors <= 100_000:
        raise ProblemError(
            "processors must be a number between 1 and 100000",
            place="option processors",
            value=options.get("processors"),
            remedy="Pass --option processors=4.",
        )
    lines = [
        (number, line.split("#")[0].split())
        for number, line in enumerate(text.splitlines(), 1)
        if line.split("#")[0].strip()
    ]
    rows = []
    for number, words in lines:
        if not all(re.fullmatch(r"-?\d{1,15}", w) for w in words):
            raise ProblemError(
                "STG lines consist of whole numbers",
                place=f"line {number}",
                value=" ".join(words),
                remedy="Correct the line.",
            )
        rows.append((number, [int(w) for w in words]))
    if not rows or len(rows[0][1]) != 1:
        raise ProblemError(
            "the first line must be the number of tasks", place="line 1", remedy="Add it."
        )
    expected = rows[0][1][0] + 2  # entry and exit dummies
    if len(rows) - 1 not in (expected, expected - 2):
        raise ProblemError(
            f"there must be {expected} task lines: {rows[0][1][0]} tasks and two dummies",
            place=f"line {rows[-1][0]}",
            value=len(rows) - 1,
            remedy="Check that the file is complete.",
        )
    tasks, edges = [], []
    for number, row in rows[1:]:
        if len(row) < 3 or row[2] < 0 or len(row) < 3 + row[2] or row[1] < 0:
            raise ProblemError(
                "a task line must be: number, time, number of predecessors, predecessors",
                place=f"line {number}",
                value=" ".join(map(str, row)),
                remedy="Correct the line.",
            )
        tasks.append(Task(id=str(row[0]), work=float(row[1])))
        edges += [Edge(source=str(u), target=str(row[0])) for u in row[3 : 3 + row[2]]]
    return WorkflowProblem.parse(
        {
            "tasks": tasks,
            "edges": edges,
            **(
                machine_fields(options)
                or {"machines": [{"name": f"p{k}"} for k in range(processors)]}
            ),
        }
    )


# ---------------------------------------------------------------------- networkx


def from_networkx(
    graph: networkx.DiGraph[Any],
    machines: Any,
    *,
    weight: str = "weight",
    size: str = "size",
    **fields: Any,
) -> WorkflowProblem:
    """A problem from a directed graph.

    Parameters
    ----------
    graph
        Nodes are tasks. A node's attributes that are fields of a task are taken over (``work``,
        ``durations``, ``cores``, ``deadline``, ...); its attribute ``weight`` is the work when
        there is neither ``work`` nor ``durations`` nor ``options``.
    machines
        A number of machines of speed 1, or a list of `Machine` objects or dicts.
    weight, size
        Names of the node attribute with the work and of the edge attribute with the bytes.
    fields
        Further fields of `WorkflowProblem` (``bandwidth``, ``deadline``, ...).

    Raises
    ------
    ProblemError
        When the graph has a cycle, or an attribute is no valid field value.
    """
    known = set(Task.model_fields) - {"id"}
    tasks = []
    for node, attributes in graph.nodes(data=True):
        own = {k: v for k, v in attributes.items() if k in known}
        if not {"work", "durations", "options"} & set(own):
            own["work"] = attributes.get(weight, 1.0)
            own.pop("weight", None)
        tasks.append({"id": str(node), **own})
    edges = [
        {"source": str(u), "target": str(v), "size": attributes.get(size, 0.0)}
        for u, v, attributes in graph.edges(data=True)
    ]
    if isinstance(machines, int):
        machines = [{"name": f"m{k}"} for k in range(machines)]
    return WorkflowProblem.parse(
        {"tasks": tasks, "edges": edges, "machines": list(machines), **fields}
    )


FORMATS = (
    Format(
        name="wfformat",
        kind="workflow",
        description="WfCommons WfFormat 1.5 and 1.6: recorded workflow executions",
        detection='a JSON object with "workflow" and "schemaVersion" or "specification"',
        detect=is_wfformat,
        read=read_wfformat,
        options=MACHINE_OPTIONS,
    ),
    Format(
        name="saga",
        kind="workflow",
        description="SAGA / DAGBench JSON: a task graph and a network",
        detection='a JSON object with "task_graph", or a "network" of "nodes" with "speed"',
        detect=_is_saga,
        read=read_saga,
        options={"machines": MACHINE_OPTIONS["machines"]},
    ),
    Format(
        name="workflow-matrix",
        kind="workflow",
        description="duration matrix over processors, edges with transfer times",
        detection='a JSON object with "processors" and "w"',
        detect=_is_matrix,
        read=read_matrix,
    ),
    Format(
        name="stg",
        kind="workflow",
        description="Standard Task Graph Set: tasks on identical processors",
        detection="the file name ends in .stg",
        detect=_is_stg,
        read=read_stg,
        options={
            "processors": "number of identical processors (default 2)",
            "machines": MACHINE_OPTIONS["machines"],
        },
    ),
)

__all__ = ["FORMATS", "from_networkx", "read_machines"]
