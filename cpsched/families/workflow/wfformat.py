"""Reader of WfFormat, the JSON of recorded workflow executions by WfCommons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.workflow.problem import Edge, File, Machine, Task, WorkflowProblem
from cpsched.families.workflow.reading import as_dict, as_list, machine_fields, number_of, text_of
from cpsched.problem import parse_json

WFFORMAT_VERSIONS = ("1.5", "1.6")


def is_wfformat(name: str, head: str) -> bool:
    """Whether the beginning of a file looks like WfFormat."""
    named = '"schemaVersion"' in head or '"specification"' in head
    return head.lstrip().startswith("{") and '"workflow"' in head and named


def read_wfformat(text: str, file: str, options: Mapping[str, str]) -> WorkflowProblem:
    """WfFormat 1.5 or 1.6: measured runtimes as work, bytes of an edge from matching files.

    Without the option ``machines`` the file's own machines are taken, at speed 1.
    """
    data = parse_json(text)
    root = as_dict(data, "")
    version = root.get("schemaVersion")
    if version not in WFFORMAT_VERSIONS:
        raise ProblemError(
            f"schemaVersion must be one of {', '.join(WFFORMAT_VERSIONS)}",
            place="schemaVersion",
            value=version,
            remedy="Convert the file with the WfCommons migration tool.",
        )
    flow = as_dict(root.get("workflow"), "workflow")
    specification = as_dict(flow.get("specification"), "workflow.specification")
    place = "workflow.specification.tasks"
    tasks = as_list(specification.get("tasks"), place)
    execution = as_dict(flow.get("execution", {}), "workflow.execution")
    runs: dict[str, tuple[int, dict[str, Any]]] = {}
    for i, run in enumerate(as_list(execution.get("tasks", []), "workflow.execution.tasks")):
        where = f"workflow.execution.tasks.{i}"
        name = text_of(as_dict(run, where), "id", where)
        if runs.setdefault(name, (i, run))[1] != run:
            raise _told_twice("task", where, name)
    sizes: dict[str, float] = {}
    for i, entry in enumerate(
        as_list(specification.get("files", []), "workflow.specification.files")
    ):
        where = f"workflow.specification.files.{i}"
        name = text_of(as_dict(entry, where), "id", where)
        size = number_of(entry, "sizeInBytes", where)
        if sizes.setdefault(name, size) != size:
            raise _told_twice("file", where, name)
    names = [text_of(as_dict(t, f"{place}.{i}"), "id", f"{place}.{i}") for i, t in enumerate(tasks)]
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
            extra["cores"] = number_of(run, "coreCount", where)
        if run.get("memoryInBytes") is not None:
            extra["memory"] = number_of(run, "memoryInBytes", where)
        if run.get("priority") is not None:
            extra["priority"] = number_of(run, "priority", where, signed=True)
        if run.get("energyInKWh") is not None:
            extra["energy"] = 3.6e6 * number_of(run, "energyInKWh", where)
        made.append(Task(id=name, work=number_of(run, "runtimeInSeconds", where), **extra))
    fields = machine_fields(options) or {"machines": _own_machines(execution)}
    _check_inputs(options.get("inputs"), fields["machines"])
    return WorkflowProblem.parse(
        {
            "name": str(root.get("name", ""))[:1000],
            "tasks": made,
            "edges": [Edge(source=u, target=v) for u, v in edges],
            "files": _files(tasks, names, sizes, edges, options.get("inputs"), place),
            **fields,
        }
    )


def _told_twice(what: str, place: str, name: str) -> ProblemError:
    return ProblemError(
        f"a {what} must not be described twice in different ways",
        place=f"{place}.id",
        value=name,
        remedy="Remove one of the entries, or rename it.",
    )


def _check_inputs(inputs: str | None, machines: list[Any]) -> None:
    names = [mc.name if isinstance(mc, Machine) else mc["name"] for mc in machines]
    if inputs is not None and inputs not in names:
        raise ProblemError(
            f"the option inputs must name a machine: {', '.join(names[:20])}",
            place="option inputs",
            value=inputs,
            remedy="Correct the name.",
        )


def _family_ties(tasks: list[Any], names: list[str], place: str) -> list[tuple[str, str]]:
    known = set(names)
    if len(known) != len(names):
        double = next(name for name, count in Counter(names).items() if count > 1)
        raise ProblemError(
            "task ids must be unique", place=place, value=double, remedy="Rename one of the tasks."
        )
    upwards: dict[tuple[str, str], str] = {}
    downwards: dict[tuple[str, str], str] = {}
    for i, (task, name) in enumerate(zip(tasks, names, strict=True)):
        for key, ties in (("parents", upwards), ("children", downwards)):
            for other in as_list(task.get(key, []), f"{place}.{i}.{key}"):
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
            listed = as_list(task.get(key, []), f"{place}.{i}.{key}")
            for file in dict.fromkeys(f if isinstance(f, str) else str(f) for f in listed):
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
    for i, entry in enumerate(as_list(execution.get("machines", []), place)):
        entry = as_dict(entry, f"{place}.{i}")
        name = text_of(entry, "nodeName", f"{place}.{i}")
        cpu = as_dict(entry.get("cpu", {}), f"{place}.{i}.cpu")
        cores = None if cpu.get("coreCount") is None else number_of(cpu, "coreCount", place)
        memory = None
        if entry.get("memoryInBytes") is not None:
            memory = number_of(entry, "memoryInBytes", f"{place}.{i}")
        if name not in [mc.name for mc in out]:
            out.append(Machine(name=name, cores=cores, memory=memory))
    if not out:
        raise ProblemError(
            "the file names no machines",
            place=place,
            remedy="Pass --option machines=FILE with the machines to plan for.",
        )
    return out
