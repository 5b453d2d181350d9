"""The tables of a CSV file with sections; complaints about a cell name its line and column."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from io import StringIO
from typing import NoReturn

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.dates import time_of
from cpsched.families.rcpsp.problem import Calendar
from cpsched.families.rcpsp.scan import whole

#: The columns of each section; the first ones named in `REQUIRED` must be present.
COLUMNS: dict[str, tuple[str, ...]] = {
    "project": ("name", "objectives", "horizon", "time_unit"),
    "calendar": (
        "start",
        "unit",
        "weekdays",
        "hours",
        "holidays",
        "resources",
        "length",
        "applies_to",
    ),
    "resources": ("name", "type", "capacity", "initial", "minimum", "maximum", "unit_cost"),
    "capacity_changes": ("resource", "start", "end", "capacity"),
    "tasks": (
        "id",
        "mode",
        "duration",
        "predecessors",
        "resources",
        "cost",
        "release",
        "deadline",
        "due",
        "weight",
        "earliness_weight",
        "optional",
        "pausable",
        "events",
        "name",
        "comment",
    ),
    "precedences": ("before", "after", "type", "min_lag", "max_lag"),
    "disjunctive": ("name", "tasks"),
    "selections": ("type", "tasks", "condition"),
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "project": (),
    "calendar": ("start",),
    "resources": ("name",),
    "capacity_changes": ("resource", "start", "end"),
    "tasks": ("id", "duration"),
    "precedences": ("before", "after"),
    "disjunctive": ("tasks",),
    "selections": ("type", "tasks"),
}
#: Other names of columns of tasks.
_ALIASES = {
    "task": "id",
    "predecessor": "predecessors",
    "resource_names": "resources",
    "due_date": "due",
}


class Row(dict[str, str]):
    """The cells of one line by column; empty where the column is missing."""

    def __init__(self, line: int, cells: Mapping[str, str]) -> None:
        super().__init__(cells)
        self.line = line

    def __missing__(self, column: str) -> str:
        return ""

    def wrong(self, column: str, rule: str, remedy: str, value: object = None) -> NoReturn:
        """Complain about a cell."""
        raise ProblemError(
            rule,
            place=f"line {self.line}, column {column}",
            value=self[column] if value is None else value,
            remedy=remedy,
        )

    def integer(self, column: str, default: int | None = None, least: int = 0) -> int:
        """The cell as an integer; ``2.0`` counts as one."""
        text = self[column] or ("" if default is None else str(default))
        text = re.sub(r"\.0+$", "", text)
        return whole(text, f"column {column}", self.line, least=least)

    def time(self, column: str, calendar: Calendar | None, *, end: bool = False) -> int:
        """The cell as a time, or as a date when there is a calendar."""
        text = self[column]
        if calendar is not None and re.match(r"[0-9]{4}-", text):
            return time_of(calendar, text, f"line {self.line}, column {column}", end=end)
        return self.integer(column)

    def listed(self, column: str) -> list[str]:
        """The parts of the cell, separated by ``;``, ``|`` or ``,``."""
        return [part.strip() for part in re.split(r"[;|,]", self[column]) if part.strip()]

    def flag(self, column: str, default: bool) -> bool:
        """The cell as true or false."""
        text = self[column].lower()
        if text not in ("", "true", "false", "yes", "no", "1", "0"):
            self.wrong(column, f"column {column} must be true or false", "Write true or false.")
        return text in ("true", "yes", "1") if text else default


#: The rows of every section.
Tables = dict[str, list[Row]]


def read_tables(text: str) -> Tables:
    """The rows of every section; the first is that of the tasks unless a line names another."""
    tables: Tables = {name: [] for name in COLUMNS}
    if "\0" in text:
        raise ProblemError(
            "the text must be CSV, without null characters",
            place=f"line {text[: text.index(chr(0))].count(chr(10)) + 1}",
            remedy="Export the file again as CSV text.",
        )
    section, line = "tasks", 0
    columns: list[str] = []
    seen: set[str] = set()
    first = next((row for row in text.splitlines() if re.search(r"[;,\t]", row)), "")
    lines = csv.reader(StringIO(text), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        for cells in lines:
            line = lines.line_num
            cells = [cell.strip() for cell in cells]
            while cells and not cells[-1]:
                cells.pop()
            if not cells or cells[0].startswith("#"):
                continue
            if len(cells) == 1 and re.fullmatch(r"\[.*\]", cells[0]):
                section, columns = cells[0][1:-1].strip().lower(), []
                if section not in COLUMNS or section in seen:
                    raise ProblemError(
                        f"a section must be one of {', '.join(COLUMNS)}, each once",
                        place=f"line {line}",
                        value=section,
                        remedy="Correct its name, or merge the two.",
                    )
            elif not columns:
                columns = _heading(section, cells, line)
                seen.add(section)
            else:
                tables[section].append(_row(columns, cells, line))
    except csv.Error as error:
        raise ProblemError(
            f"the text must be CSV: {error}",
            place=f"line {max(line + 1, lines.line_num)}",
            remedy="Correct the quotes, or name the file's format.",
        ) from None
    if not tables["tasks"]:
        raise ProblemError("there must be tasks", place="[tasks]", remedy="List them.")
    return tables


def _heading(section: str, cells: list[str], line: int) -> list[str]:
    names = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in cells]
    columns = [_ALIASES.get(name, name) if section == "tasks" else name for name in names]
    known = COLUMNS[section]
    for i, column in enumerate(columns):
        if column not in known or column in columns[:i]:
            raise ProblemError(
                f"the columns of [{section}] must be among {', '.join(known)}, each once",
                place=f"line {line}",
                value=cells[i],
                remedy="Rename or remove the column.",
            )
    for column in REQUIRED[section]:
        if column not in columns:
            raise ProblemError(
                f"section [{section}] must have the column {column}",
                place=f"line {line}",
                remedy="Add it.",
            )
    return columns


def _row(columns: list[str], cells: list[str], line: int) -> Row:
    if len(cells) > len(columns):
        raise ProblemError(
            f"a line must not have more than {len(columns)} cells, one per column",
            place=f"line {line}",
            value=cells[len(columns)],
            remedy="Quote cells that hold the separator, or add a column.",
        )
    return Row(line, dict(zip(columns, cells, strict=False)))
