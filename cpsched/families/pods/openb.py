"""Reader of OpenB CSV pairs: a pod list, and its node list by the option ``nodes``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.pods.kubectl_parts import whole_option
from cpsched.families.pods.problem import PodsProblem

OPTIONS = {
    "nodes": "CSV file of the nodes (default: the one file *node_list_gpu*.csv beside the pods)",
    "limit": "read only so many pods",
}
_POD_FIELDS = {"name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"}
_NODE_FIELDS = {"sn", "cpu_milli", "memory_mib", "gpu", "model"}


def detect(name: str, head: str) -> bool:
    """A CSV whose first line names a pod's CPU, GPUs and thousandths of a GPU."""
    return set(head.split("\n", 1)[0].strip().split(",")) >= _POD_FIELDS


def read(text: str, file: str, options: Mapping[str, str]) -> PodsProblem:
    """Read the pods, all of them pending, and the nodes.

    A GPU is a cell of 1000 ``gpu_milli``; a pod takes ``num_gpu`` cells with ``gpu_milli`` of each.
    The objectives are the GPUs allocated, then the pods placed.

    Raises
    ------
    ProblemError
        Naming the line and column that is malformed.
    """
    nodes_file = options.get("nodes") or _beside(file)
    try:
        nodes_text = Path(nodes_file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(
            f"the node list cannot be read: {error}",
            place="nodes",
            value=nodes_file,
            remedy="Pass --option nodes=FILE.",
        ) from None
    nodes = []
    for line, row in _rows(nodes_text, _NODE_FIELDS):
        gpus = _whole(row, "gpu", line)
        if gpus > 1024:
            raise ProblemError(
                "a node has at most 1024 GPUs", place=f"line {line}, gpu", value=gpus,
                remedy="Correct it.",
            )  # fmt: skip
        nodes.append(
            {
                "name": row["sn"],
                "allocatable": _cpu_and_memory(row, line),
                "labels": {"gpu-model": row["model"]} if row["model"] else {},
                "cells": [{"gpu_milli": 1000}] * gpus,
            }
        )
    limit = whole_option(options, "limit") if "limit" in options else None
    pods: list[dict[str, Any]] = []
    for line, row in _rows(text, _POD_FIELDS):
        if limit is not None and len(pods) >= limit:
            break
        count, share = _whole(row, "num_gpu", line), _whole(row, "gpu_milli", line)
        pod: dict[str, Any] = {"name": row["name"], "requests": _cpu_and_memory(row, line)}
        if count:
            pod["cells"], pod["per_cell"] = count, {"gpu_milli": share or 1000}
        if row.get("gpu_spec"):
            pod["node_affinity"] = [
                {
                    "match_expressions": [
                        {"key": "gpu-model", "operator": "In", "values": row["gpu_spec"].split("|")}
                    ]
                }
            ]
        pods.append(pod)
    return PodsProblem.parse(
        {"nodes": nodes, "pods": pods, "objectives": ["gpu_milli", "placed@0"]}
    )


def _beside(file: str) -> str:
    found = sorted(Path(file).parent.glob("*node_list_gpu*.csv"))
    if len(found) != 1:
        raise ProblemError(
            "the node list must be named",
            place="nodes",
            remedy="Pass --option nodes=FILE.",
        )
    return str(found[0])


def _rows(text: str, fields: set[str]) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text))
    missing = fields - set(reader.fieldnames or ())
    if missing:
        raise ProblemError(
            f"the first line must name the columns {', '.join(sorted(missing))}",
            place="line 1",
            remedy="Check the file.",
        )
    out = []
    try:
        for row in reader:
            if None in row or any(row[f] is None for f in fields):
                raise ProblemError(
                    "every line must have as many values as the first",
                    place=f"line {reader.line_num}",
                    remedy="Correct the line.",
                )
            out.append((reader.line_num, row))
    except csv.Error as error:
        raise ProblemError(
            f"the file must be CSV: {error}", place=f"line {reader.line_num}", remedy="Correct it."
        ) from None
    return out


def _whole(row: Mapping[str, str], field: str, line: int) -> int:
    text = row[field].strip() or "0"
    if not text.isdecimal() or len(text) > 15:
        raise ProblemError(
            "a whole number is expected",
            place=f"line {line}, {field}",
            value=text,
            remedy="Correct the value.",
        )
    return int(text)


def _cpu_and_memory(row: Mapping[str, str], line: int) -> dict[str, str]:
    return {
        "cpu": f"{_whole(row, 'cpu_milli', line)}m",
        "memory": f"{_whole(row, 'memory_mib', line)}Mi",
    }
