"""Readers of the workflow family: WfFormat, SAGA / DAGBench, STG, the matrix JSON, networkx."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cpsched.errors import ProblemError
from cpsched.families import Format
from cpsched.families.workflow.problem import (
    Edge,
    File,
    Machine,
    Task,
    WorkflowProblem,
)
from cpsched.problem import parse_json

if TYPE_CHECKING:
    import networkx

WFFORMAT_VERSIONS = ("1.5", "1.6")

MACHINE_OPTIONS = {
    "machines": "JSON file with the machines, bandwidth, latency and links to plan for",
    "inputs": "machine where files without a producer lie (default: everywhere, at no cost)",
}


# ---------------------------------------------------------------------- machines


def read_machines(path: str) -> dict[str, Any]:
    """Machines, bandwidth, latency, links and contention of an option file, as problem fields.

    Raises
    ------
    ProblemError
        When the file cannot be read or holds other fields.
    """
    from pathlib import Path

    try:
        data = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(
            f"the option machines must name a readable file: {error}",
            place="option machines",
            value=path,
            remedy="Check the path.",
        ) from None
    except ProblemError as error:
        raise error.in_file(path) from None
    if not isinstance(data, dict) or not isinstance(data.get("machines"), list):
        raise ProblemError(
            'a machine file must be {"machines": [...], "bandwidth": ..., ...}',
            file=path,
            remedy="See docs/workflow.md.",
        )
    known = {"machines", "bandwidth", "latency", "links", "contention"}
    for key in data:
        if key not in known:
            raise ProblemError(
                f"a machine file has the fields {', '.join(sorted(known))}",
                file=path,
                place=key,
                remedy="Remove the field, or correct its name.",
            )
    return data


def _machine_fields(options: Mapping[str, str]) -> dict[str, Any]:
    return read_machines(options["machines"]) if "machines" in options else {}


# ---------------------------------------------------------------------- WfFormat


def _is_wfformat(name: str, head: str) -> bool:
    return head.lstrip().startswith("{") and '"schemaVersion"' in head and '"workflow"' in head


def read_wfformat(text: str, file: str, options: Mapping[str, str]) -> WorkflowProblem:
    """WfFormat 1.5 or 1.6: measured runtimes as work, bytes of an edge from matching files.

    Without the option ``machines`` the file's own machines are taken, at speed 1.
    """
    data = parse_json(text)
    root = _dict(data, "")
    version = root.get("schemaVersion")
    if version not in WFFORMAT_VERSIONS:
        raise ProblemError(
            f"schemaVersion must be one of {', '.join(WFFORMAT_VERSIONS)}",
            place="schemaVersion",
            value=version,
            remedy="Convert the file with the WfCommons migration tool.",
        )
    flow = _dict(root.get("workflow"), "workflow")
    specification = _dict(flow.get("specification"), "workflow.specification")
    place = "workflow.specification.tasks"
    tasks = _list(specification.get("tasks"), place)
    execution = _dict(flow.get("execution", {}), "workflow.execution")
    runs = {}
    for i, run in enumerate(_list(execution.get("tasks", []), "workflow.execution.tasks")):
        run = _dict(run, f"workflow.execution.tasks.{i}")
        runs[_text(run, "id", f"workflow.execution.tasks.{i}")] = (i, run)
    sizes = {}
    for i, entry in enumerate(
        _list(specification.get("files", []), "workflow.specification.files")
    ):
        where = f"workflow.specification.files.{i}"
        sizes[_text(_dict(entry, where), "id", where)] = _number(entry, "sizeInBytes", where)
    names = [_text(_dict(t, f"{place}.{i}"), "id", f"{place}.{i}") for i, t in enumerate(tasks)]
    edges = _family_ties(tasks, names, place)
    made = []
    for i, name in enumerate(names):
        number, run = runs.get(name, (-1, {}))
        if number < 0:
            raise ProblemError(
                "a task needs its runtimeInSeconds in workflow.execution.tasks",
                place=f"{place}.{i}.id",
                value=name,
                remedy="Add the measured runtime of the task.",
            )
        where = f"workflow.execution.tasks.{number}"
        extra: dict[str, Any] = {}
        if run.get("coreCount") is not None:
            extra["cores"] = _number(run, "coreCount", where)
        if run.get("memoryInBytes") is not None:
            extra["memory"] = _number(run, "memoryInBytes", where)
        if run.get("priority") is not None:
            extra["priority"] = _number(run, "priority", where, signed=True)
        if run.get("energyInKWh") is not None:
            extra["energy"] = 3.6e6 * _number(run, "energyInKWh", where)
        made.append(Task(id=name, work=_number(run, "runtimeInSeconds", where), **extra))
    fields = _machine_fields(options) or {"machines": _own_machines(execution)}
    return WorkflowProblem.parse(
        {
            "name": str(root.get("name", ""))[:1000],
            "tasks": made,
            "edges": [Edge(source=u, target=v) for u, v in edges],
            "files": _files(tasks, names, sizes, edges, options.get("inputs"), place),
            **fields,
        }
    )


def _family_ties(tasks: list[Any], names: list[str], place: str) -> list[tuple[str, str]]:
    known = set(names)
    if len(known) != len(names):
        double = next(n for i, n in enumerate(names) if n in names[:i])
        raise ProblemError(
            "task ids must be unique", place=place, value=double, remedy="Rename one of the tasks."
        )
    upwards: dict[tuple[str, str], str] = {}
    downwards: dict[tuple[str, str], str] = {}
    for i, (task, name) in enumerate(zip(tasks, names, strict=True)):
        for key, ties in (("parents", upwards), ("children", downwards)):
            for other in _list(task.get(key, []), f"{place}.{i}.{key}"):
                if not isinstance(other, str) or other not in known:
                    raise ProblemError(
                        f"{key} must be ids of tasks in the file",
                        place=f"{place}.{i}.{key}",
                        value=other,
                        remedy="Add the task, or remove it from the list.",
                    )
                pair = (other, name) if key == "parents" else (name, other)
                ties[pair] = f"{place}.{i}.{key}"
    for one, two, where in ((upwards, downwards, "children"), (downwards, upwards, "parents")):
        for pair, source in one.items():
            if pair not in two:
                raise ProblemError(
                    f"parents and children must agree: {pair[0]} -> {pair[1]} is missing in "
                    f"the {where} of {pair[0] if where == 'children' else pair[1]}",
                    place=source,
                    remedy="List the pair on both sides, or on neither.",
                )
    return list(upwards)


def _files(
    tasks: list[Any],
    names: list[str],
    sizes: dict[str, float],
    edges: list[tuple[str, str]],
    inputs: str | None,
    place: str,
) -> list[File]:
    writers: dict[str, list[str]] = defaultdict(list)
    reads: dict[str, list[str]] = defaultdict(list)
    for i, (task, name) in enumerate(zip(tasks, names, strict=True)):
        for key, table in (("outputFiles", writers), ("inputFiles", reads)):
            for file in dict.fromkeys(_list(task.get(key, []), f"{place}.{i}.{key}")):
                if file not in sizes:
                    raise ProblemError(
                        "files of a task must be listed in workflow.specification.files",
                        place=f"{place}.{i}.{key}",
                        value=file,
                        remedy="Add the file with its sizeInBytes.",
                    )
                table[file].append(name)
    children: dict[str, set[str]] = defaultdict(set)
    for u, v in edges:
        children[u].add(v)
    out: list[File] = []
    for file, size in sizes.items():
        made_by = writers.get(file, [])
        for writer in made_by:
            # Data goes along the edges: a reader that is no child does not get it from here.
            readers = tuple(r for r in reads.get(file, ()) if r in children[writer])
            name = file if len(made_by) == 1 else f"{file}@{writer}"
            if readers:
                out.append(File(id=name, size=size, producer=writer, consumers=readers))
        if not made_by and inputs is not None and reads.get(file):
            out.append(File(id=file, size=size, location=inputs, consumers=tuple(reads[file])))
    return out


def _own_machines(execution: dict[str, Any]) -> list[Machine]:
    out: list[Machine] = []
    place = "workflow.execution.machines"
    for i, entry in enumerate(_list(execution.get("machines", []), place)):
        entry = _dict(entry, f"{place}.{i}")
        name = _text(entry, "nodeName", f"{place}.{i}")
        cpu = _dict(entry.get("cpu", {}), f"{place}.{i}.cpu")
        cores = None if cpu.get("coreCount") is None else _number(cpu, "coreCount", place)
        memory = None
        if entry.get("memoryInBytes") is not None:
            memory = _number(entry, "memoryInBytes", f"{place}.{i}")
        if name not in [mc.name for mc in out]:
            out.append(Machine(name=name, cores=cores, memory=memory))
    if not out:
        raise ProblemError(
            "the file names no machines",
            place=place,
            remedy="Pass --option machines=FILE with the machines to plan for.",
        )
    return out


# ---------------------------------------------------------------------- SAGA / DAGBench


def _is_saga(name: str, head: str) -> bool:
    return head.lstrip().startswith("{") and '"task_graph"' in head


def read_saga(text: str, file: str, options: Mapping[str, str]) -> WorkflowProblem:
    """SAGA JSON: task costs, dependency sizes, nodes with speeds, undirected links with speeds."""
    root = _dict(parse_json(text), "")
    graph = _dict(root.get("task_graph"), "task_graph")
    tasks = []
    for i, entry in enumerate(_list(graph.get("tasks"), "task_graph.tasks")):
        where = f"task_graph.tasks.{i}"
        entry = _dict(entry, where)
        tasks.append(Task(id=_text(entry, "name", where), work=_number(entry, "cost", where)))
    edges = []
    for i, entry in enumerate(_list(graph.get("dependencies", []), "task_graph.dependencies")):
        where = f"task_graph.dependencies.{i}"
        entry = _dict(entry, where)
        edges.append(
            Edge(
                source=_text(entry, "source", where),
                target=_text(entry, "target", where),
                size=_number(entry, "size", where),
            )
        )
    fields = _machine_fields(options) or _saga_network(root)
    name = str(root.get("name", ""))[:1000]
    return WorkflowProblem.parse({"name": name, "tasks": tasks, "edges": edges, **fields})


def _saga_network(root: dict[str, Any]) -> dict[str, Any]:
    network = _dict(root.get("network"), "network")
    machines: list[dict[str, Any]] = []
    links: list[dict[str, Any]] = []
    for i, entry in enumerate(_list(network.get("nodes"), "network.nodes")):
        where = f"network.nodes.{i}"
        entry = _dict(entry, where)
        speed = _number(entry, "speed", where)
        machines.append({"name": _text(entry, "name", where), "speed": speed})
    for i, entry in enumerate(_list(network.get("edges", []), "network.edges")):
        where = f"network.edges.{i}"
        entry = _dict(entry, where)
        source, target = _text(entry, "source", where), _text(entry, "target", where)
        if source == target:
            continue  # data for a task on the same node is free
        rate = entry.get("speed")
        if isinstance(rate, int | float) and rate <= 0:
            raise ProblemError(
                "a link must have a positive speed",
                place=f"{where}.speed",
                value=rate,
                remedy="Correct the speed, or remove the node.",
            )
        limited = rate is not None and rate < 1e15
        bandwidth = _number(entry, "speed", where) if limited else None
        links.append({"from": source, "to": target, "bandwidth": bandwidth})
    return {"machines": machines, "links": links}


# ---------------------------------------------------------------------- matrix JSON


def _is_matrix(name: str, head: str) -> bool:
    return head.lstrip().startswith("{") and '"processors"' in head and '"w"' in head


def read_matrix(text: str, file: str, options: Mapping[str, str]) -> WorkflowProblem:
    """Duration matrix ``w`` over ``processors``; ``edges`` as (source, target, transfer time)."""
    root = _dict(parse_json(text), "")
    names = [str(p) for p in _list(root.get("processors"), "processors")]
    rows = _list(root.get("w"), "w")
    tasks = []
    for i, row in enumerate(rows):
        row = _list(row, f"w.{i}")
        if len(row) != len(names):
            raise ProblemError(
                "a row of w must have one duration per processor",
                place=f"w.{i}",
                value=len(row),
                remedy=f"Give {len(names)} durations.",
            )
        cells = {n: _number({"w": x}, "w", f"w.{i}") for n, x in zip(names, row, strict=True)}
        tasks.append(Task(id=str(i), durations=cells))
    edges = []
    for i, entry in enumerate(_list(root.get("edges", []), "edges")):
        entry = _list(entry, f"edges.{i}")
        if len(entry) != 3 or not all(isinstance(x, int | float) for x in entry):
            raise ProblemError(
                "an edge must be [source, target, transfer time]",
                place=f"edges.{i}",
                value=entry,
                remedy="Give two zero-based task numbers and a time.",
            )
        size = _number({"time": entry[2]}, "time", f"edges.{i}")
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
                _machine_fields(options)
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


# ---------------------------------------------------------------------- plain data


def _dict(data: Any, place: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ProblemError(
            "a JSON object is expected here",
            place=place or "(top level)",
            value=type(data).__name__,
            remedy="Compare the file with its format.",
        )
    return data


def _list(data: Any, place: str) -> list[Any]:
    if not isinstance(data, list):
        raise ProblemError(
            "a JSON list is expected here",
            place=place,
            value=type(data).__name__,
            remedy="Compare the file with its format.",
        )
    return data


def _text(data: dict[str, Any], key: str, place: str) -> str:
    value = data.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not 1 <= len(value) <= 1000:
        raise ProblemError(
            f"{key} must be a name of 1 to 1000 characters",
            place=f"{place}.{key}",
            value=value,
            remedy="Give the name.",
        )
    return value


def _number(data: dict[str, Any], key: str, place: str, *, signed: bool = False) -> float:
    value = data.get(key)
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or abs(value) > 1e15
        or (value < 0 and not signed)
    ):
        raise ProblemError(
            f"{key} must be a number" + ("" if signed else ", zero or more, below 1e15"),
            place=f"{place}.{key}",
            value=value,
            remedy="Correct the number.",
        )
    return float(value)


FORMATS = (
    Format(
        name="wfformat",
        kind="workflow",
        description="WfCommons WfFormat 1.5 and 1.6: recorded workflow executions",
        detection='a JSON object with "schemaVersion" and "workflow"',
        detect=_is_wfformat,
        read=read_wfformat,
        options=MACHINE_OPTIONS,
    ),
    Format(
        name="saga",
        kind="workflow",
        description="SAGA / DAGBench JSON: a task graph and a network",
        detection='a JSON object with "task_graph"',
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
