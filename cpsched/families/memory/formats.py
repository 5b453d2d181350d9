"""Readers and writers of the `memory` family: MiniMalloc's CSV, and data for MiniZinc.

Columns ``id`` (or ``buffer``, ``buffer_id``), ``lower`` (``start``, ``begin``), ``size`` and
either ``upper`` (exclusive) or ``end`` (inclusive: the last time at which the buffer is alive);
optional ``alignment``, ``gaps`` and ``offset``. A gap is written ``lower-upper`` or
``lower-upper@low:high`` with a window, in the convention of the lifetimes, gaps separated by
spaces.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families import Format, Writer
from cpsched.families.memory.minizinc import write_minizinc
from cpsched.families.memory.problem import Buffer, Gap, MemoryProblem, MemorySchedule
from cpsched.problem import LARGEST

_NAMES = {
    "id": "id",
    "buffer": "id",
    "buffer_id": "id",
    "lower": "lower",
    "start": "lower",
    "begin": "lower",
    "upper": "upper",
    "end": "end",
    "size": "size",
    "alignment": "alignment",
    "gaps": "gaps",
    "offset": "offset",
}
_GAP = re.compile(r"^(-?\d+)-(-?\d+)(?:@(\d+):(\d+))?$")


def _columns(header: str) -> list[str]:
    return [_NAMES.get(field.strip().lower(), "") for field in header.split(",")]


def detect_csv(name: str, head: str) -> bool:
    """Whether the first line has the columns of a buffer list."""
    lines = head.splitlines()
    columns = _columns(lines[0]) if lines else []
    if name.lower().endswith(".csv"):
        # Enough to say which column is missing, when one is.
        return len({"id", "lower", "upper", "end", "size"} & set(columns)) >= 2
    return {"id", "lower", "size"} <= set(columns) and bool({"upper", "end"} & set(columns))


def read_csv(text: str, file: str, options: Mapping[str, str]) -> MemoryProblem:
    """Read MiniMalloc's CSV.

    Raises
    ------
    ProblemError
        For missing columns, malformed numbers, duplicate ids, and whatever the schema refuses,
        with the line.
    """
    capacity = _capacity(file, options)
    rows = csv.reader(io.StringIO(text))
    columns: list[str] | None = None
    buffers: list[Buffer] = []
    lines: dict[str, int] = {}
    for row in rows:
        line = rows.line_num
        if not row or (len(row) == 1 and not row[0].strip()):
            continue
        if columns is None:
            columns = _header(row, line, options)
            continue
        if len(row) != len(columns):
            raise ProblemError(
                f"a row must have {len(columns)} fields, like the header",
                place=f"line {line}",
                value=",".join(row),
                remedy="Complete or shorten the row.",
            )
        buffer = _buffer(dict(zip(columns, (f.strip() for f in row), strict=True)), line, options)
        if buffer.id in lines:
            raise ProblemError(
                "ids must be unique",
                place=f"line {line}, column id",
                value=buffer.id,
                remedy=f"Rename one of the two (the other is in line {lines[buffer.id]}).",
            )
        lines[buffer.id] = line
        buffers.append(buffer)
    try:
        return MemoryProblem(buffers=tuple(buffers), capacity=capacity)
    except ProblemError as error:
        parts = error.place.split(".", 2)
        if parts[0] != "buffers" or len(parts) < 2:
            raise
        line = lines[buffers[int(parts[1])].id]
        place = f"line {line}" + (f", {parts[2]}" if len(parts) > 2 else "")
        raise ProblemError(
            error.rule, place=place, value=error.value, remedy=error.remedy
        ) from None


def _capacity(file: str, options: Mapping[str, str]) -> int | None:
    given = options.get("capacity")
    if given is None:
        match = re.fullmatch(r".+\.(\d+)\.csv", Path(file).name, re.IGNORECASE)
        given = match.group(1) if match else None
    elif given.lower() == "none":
        return None
    if given is None:
        return None
    if not re.fullmatch(r"\d{1,13}", given) or int(given) > LARGEST:
        raise ProblemError(
            f"the capacity must be a whole number between 0 and {LARGEST}, or 'none'",
            place="option capacity",
            value=given,
            remedy="Pass --option capacity=BYTES; 'none' minimises the height.",
        )
    return int(given)


def _header(row: list[str], line: int, options: Mapping[str, str]) -> list[str]:
    columns = [_NAMES.get(field.strip().lower(), "") for field in row]
    for field, column in zip(row, columns, strict=True):
        if not column:
            raise ProblemError(
                f"a column must be one of {', '.join(_NAMES)}",
                place=f"line {line}",
                value=field,
                remedy="Rename or remove the column.",
            )
    if len(set(columns)) != len(columns):
        raise ProblemError(
            "columns must not repeat",
            place=f"line {line}",
            value=",".join(row),
            remedy="Keep one column of each kind.",
        )
    missing = [c for c in ("id", "lower", "size") if c not in columns]
    if ("upper" in columns) == ("end" in columns):
        missing.append("either upper (exclusive) or end (inclusive)")
    if missing:
        raise ProblemError(
            f"the column {missing[0]} is required",
            place=f"line {line}",
            value=",".join(row),
            remedy="Give id, lower, upper and size.",
        )
    if options.get("lifetimes", "auto") not in ("auto", "half-open", "inclusive"):
        raise ProblemError(
            "lifetimes must be auto, half-open or inclusive",
            place="option lifetimes",
            value=options["lifetimes"],
            remedy="Leave it out to go by the column's name (upper or end).",
        )
    return columns


def _buffer(fields: dict[str, str], line: int, options: Mapping[str, str]) -> Buffer:
    last = "end" if "end" in fields else "upper"
    convention = options.get("lifetimes", "auto")
    extra = int(convention == "inclusive" or (convention == "auto" and last == "end"))
    lower = _number(fields["lower"], "lower", line)
    upper = _number(fields[last], last, line)
    size = _number(fields["size"], "size", line, least=0)
    if upper + extra < lower:
        raise ProblemError(
            "a lifetime must not end before it starts",
            place=f"line {line}, column {last}",
            value=f"{lower},{upper}",
            remedy=f"Swap or correct lower and {last}.",
        )
    data: dict[str, Any] = {
        "id": fields["id"],
        "lower": lower,
        "upper": upper + extra,
        "size": size,
    }
    if fields.get("alignment"):
        data["alignment"] = _number(fields["alignment"], "alignment", line, least=1)
    if fields.get("offset"):
        data["offset"] = _number(fields["offset"], "offset", line, least=0)
    if fields.get("gaps"):
        data["gaps"] = tuple(_gap(text, line, extra) for text in fields["gaps"].split())
    try:
        return Buffer.parse(data)
    except ProblemError as error:
        raise ProblemError(
            error.rule,
            place=f"line {line}, {error.place}",
            value=error.value,
            remedy=error.remedy,
        ) from None


def _number(text: str, column: str, line: int, least: int = -LARGEST) -> int:
    if re.fullmatch(r"[+-]?\d{1,13}", text):
        value = int(text)
        if least <= value <= LARGEST:
            return value
    raise ProblemError(
        f"{column} must be a whole number between {least} and {LARGEST}",
        place=f"line {line}, column {column}",
        value=text,
        remedy="Correct the value.",
    )


def _gap(text: str, line: int, extra: int) -> Gap:
    match = _GAP.match(text)
    if match is None or any(len(g or "") > 13 for g in match.groups()):
        raise ProblemError(
            "a gap is written lower-upper or lower-upper@low:high",
            place=f"line {line}, column gaps",
            value=text,
            remedy="Correct it; several gaps are separated by spaces.",
        )
    low, high, bottom, top = match.groups()
    window = None if bottom is None else (int(bottom), int(top))
    return Gap(lower=int(low), upper=int(high) + extra, window=window)


def write_csv(problem: MemoryProblem, schedule: MemorySchedule | None) -> str:
    """MiniMalloc's CSV of an allocation or an allocated order, with offsets when given.

    Raises
    ------
    ProblemError
        For a mapping, and for an order without a schedule: they have no lifetimes.
    """
    if problem.form == "mapping" or (problem.form == "ordering" and schedule is None):
        raise ProblemError(
            "only buffers with known lifetimes can be written",
            place="form",
            value=problem.form,
            remedy="Use cpsched JSON, or pass the schedule of an order.",
        )
    known = {b.id: b for b in problem.buffers}
    if problem.form == "ordering":
        assert schedule is not None
        counts: dict[str, int] = {}
        rows: list[tuple[Buffer, int | None]] = []
        for place in schedule.buffers:
            nth = counts[place.buffer] = counts.get(place.buffer, 0) + 1
            name = place.buffer if nth == 1 else f"{place.buffer}#{nth}"
            buffer = known[place.buffer].model_copy(
                update={"id": name, "lower": place.start, "upper": place.end}
            )
            rows.append((buffer, place.offset))
    else:
        offsets = {} if schedule is None else {p.buffer: p.offset for p in schedule.buffers}
        rows = [(b, offsets.get(b.id, b.offset)) for b in problem.buffers]
    columns = ["id", "lower", "upper", "size"]
    if any(b.alignment != 1 for b, _ in rows):
        columns.append("alignment")
    if any(b.gaps for b, _ in rows):
        columns.append("gaps")
    if any(offset is not None for _, offset in rows):
        columns.append("offset")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for buffer, offset in rows:
        values = {
            "id": buffer.id,
            "lower": buffer.lower,
            "upper": buffer.upper,
            "size": buffer.size,
            "alignment": buffer.alignment,
            "gaps": " ".join(_gap_text(g) for g in buffer.gaps),
            "offset": "" if offset is None else offset,
        }
        writer.writerow([values[c] for c in columns])
    return out.getvalue()


def _gap_text(gap: Gap) -> str:
    window = "" if gap.window is None else f"@{gap.window[0]}:{gap.window[1]}"
    return f"{gap.lower}-{gap.upper}{window}"


def _read_onnx(text: str, file: str, options: Mapping[str, str]) -> MemoryProblem:
    from cpsched.families.memory.onnx_graph import read_onnx

    return read_onnx(file, options)


FORMATS = (
    Format(
        name="onnx",
        kind="memory",
        description="operations and tensors of an ONNX model (extra `onnx`)",
        detection="the file name ends in .onnx",
        detect=lambda name, head: name.lower().endswith(".onnx"),
        read=_read_onnx,
        options={
            "as": "ordering (default: operations to order) or allocation (lifetimes of the "
            "model's own order)",
            "weights": "true to count the model's constants too; default false",
            "dimension": "value of symbolic dimensions; default 1",
            "capacity": "bytes; default: minimise",
        },
        binary=True,
    ),
    Format(
        name="minimalloc",
        kind="memory",
        description="MiniMalloc CSV: one buffer per row",
        detection="a first line with the columns id, lower, upper (or end), size",
        detect=detect_csv,
        read=read_csv,
        options={
            "capacity": "bytes, or 'none' to minimise the height; default from NAME.<capacity>.csv",
            "lifetimes": "half-open or inclusive; default by column: upper excludes, end includes",
        },
    ),
)

WRITERS = (
    Writer(
        name="minimalloc",
        description="MiniMalloc CSV, with the offsets of a schedule",
        write=write_csv,
    ),
    Writer(
        name="minizinc",
        description="JSON data for models/memory.mzn, memory_mapping.mzn or memory_ordering.mzn",
        write=write_minizinc,
    ),
)
