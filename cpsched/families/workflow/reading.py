"""Parts of files that several readers share: plain JSON values, and the option ``machines``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cpsched.errors import ProblemError
from cpsched.problem import parse_json

MACHINE_OPTIONS = {
    "machines": "JSON file with the machines, bandwidth, latency and links to plan for",
    "inputs": "machine where files without a producer lie (default: everywhere, at no cost)",
}


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
    from cpsched.families.workflow.problem import WorkflowProblem

    try:
        WorkflowProblem.parse({"tasks": [], **data})
    except ProblemError as error:
        raise error.in_file(path) from None
    return data


def machine_fields(options: Mapping[str, str]) -> dict[str, Any]:
    """Problem fields of the option ``machines``; none without it."""
    return read_machines(options["machines"]) if "machines" in options else {}


def as_dict(data: Any, place: str) -> dict[str, Any]:
    """The value, which must be a JSON object."""
    if not isinstance(data, dict):
        raise ProblemError(
            "a JSON object is expected here",
            place=place or "(top level)",
            value=type(data).__name__,
            remedy="Compare the file with its format.",
        )
    return data


def as_list(data: Any, place: str) -> list[Any]:
    """The value, which must be a JSON list."""
    if not isinstance(data, list):
        raise ProblemError(
            "a JSON list is expected here",
            place=place,
            value=type(data).__name__,
            remedy="Compare the file with its format.",
        )
    return data


def text_of(data: dict[str, Any], key: str, place: str) -> str:
    """A field that must be a name; a whole number counts as one."""
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


def number_of(data: dict[str, Any], key: str, place: str, *, signed: bool = False) -> float:
    """A field that must be a finite number below 1e15, zero or more unless ``signed``."""
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
