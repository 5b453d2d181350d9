"""Reader of the planner's CSV: tasks, and where needed sections for the rest, in one file.

A file with one table of tasks is enough; a line ``[resources]``, ``[precedences]``, ... starts
another table. `tables.COLUMNS` lists the columns, docs/rcpsp.md explains them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.problem import Calendar, RcpspProblem
from cpsched.families.rcpsp.scan import refuse_cycle, whole
from cpsched.families.rcpsp.tables import COLUMNS, Row, Tables, read_tables

#: Reader options that describe a calendar without a section.
OPTIONS = {
    "start": "date of time 0 (ISO 8601), makes a calendar",
    "unit": "time unit of the calendar: day (default), hour or minute",
    "weekdays": "working days, like mon-fri",
    "hours": "working hours, like 8-17",
    "holidays": "dates without work, separated by ;",
}
#: Resource that tasks without any need while a calendar applies to tasks.
WORKING_TIME = "working time"

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TYPES = {"FS": "end-start", "SS": "start-start", "FF": "end-end", "SF": "start-end"}
_LINK = re.compile(
    r"(?P<task>.*?)\s*(?P<type>FS|SS|FF|SF)?\s*"
    r"(?P<least>[+-]\s*[0-9]+)?(?:\s*\.\.\s*(?P<most>[+-]?\s*[0-9]+))?",
    re.IGNORECASE | re.ASCII,
)
_DEMAND = re.compile(r"([^:\[\]]+)(?::([^:\[\]]+)|\[([^:\[\]]+)\])?")
_EVENT = re.compile(r"([^:]+):([^:@]+)(?:@(start|end))?")


def detect(file: str, head: str) -> bool:
    """A table with the columns id and duration, or a first line like ``[tasks]``."""
    first = next((line for line in head.splitlines() if line.strip(" ,;\t\r")), "").lower()
    cells = {cell.strip(' "') for cell in re.split(r"[,;\t]", first)}
    if cells - {""} and (cells - {""}) <= {f"[{name}]" for name in COLUMNS}:
        return True
    return "duration" in cells and bool(cells & {"id", "task"})


def read(text: str, file: str, options: Mapping[str, str]) -> RcpspProblem:
    """Read a planner's CSV file.

    Lists within a cell are separated by ``;``, ``|`` or ``,``. Resources that are named but not
    listed have capacity 1. With a calendar, dates may stand wherever times do, tasks pause over
    breaks unless the column ``pausable`` says otherwise, and pausable tasks without resources keep
    to the working times too (``applies_to`` = ``resources`` turns that off).
    """
    tables = read_tables(text)
    calendar, to_tasks = _calendar(tables, options)
    book = _Book(calendar)
    for row in tables["resources"]:
        book.resource(row)
    for row in tables["tasks"]:
        book.task(row)
    book.imply_resources()
    if calendar is not None and to_tasks:
        calendar = book.keep_to_calendar(calendar)
    for row in tables["capacity_changes"]:
        book.change(row)
    book.link()
    problem: dict[str, Any] = _project(tables) | {
        "tasks": list(book.tasks.values()),
        "resources": list(book.resources.values()),
        "precedences": book.links + [book.precedence(row) for row in tables["precedences"]],
        "disjunctive": [
            {"name": row["name"], "tasks": row.listed("tasks")} for row in tables["disjunctive"]
        ],
        "selections": [
            {"type": row["type"], "tasks": row.listed("tasks")}
            | ({"condition": row["condition"]} if row["condition"] else {})
            for row in tables["selections"]
        ],
    }
    if calendar is not None:
        problem["calendar"] = calendar
    return RcpspProblem.parse(problem)


@dataclass
class _Book:
    """Tasks and resources as they are collected from the tables."""

    calendar: Calendar | None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: list[dict[str, Any]] = field(default_factory=list)

    def resource(self, row: Row) -> None:
        """A line of the section of resources."""
        name = row["name"]
        if not name:
            row.wrong("name", "a resource must have a name", "Fill the cell.")
        if name in self.resources:
            row.wrong("name", "names must be unique", "Rename or remove one of the two.")
        data: dict[str, Any] = {"name": name}
        if row["type"]:
            data["type"] = row["type"].lower()
        for column in ("capacity", "unit_cost"):
            if row[column]:
                data[column] = row.integer(column)
        for column in ("initial", "minimum", "maximum"):
            if row[column]:
                data[column] = row.integer(column, least=-(10**12))
        self.resources[name] = data

    def task(self, row: Row) -> None:
        """A line of the section of tasks: a task, or a further mode of the one above."""
        name = row["id"]
        if not name:
            row.wrong("id", "a task must have an id", "Fill the cell.")
        mode: dict[str, Any] = {
            "duration": row.integer("duration"),
            "demands": self._demands(row),
        }
        if row["cost"]:
            mode["cost"] = row.integer("cost")
        if name in self.tasks:
            if not row["mode"]:
                row.wrong(
                    "id",
                    "ids must be unique",
                    f"Rename one of the two (the other is on line {self.rows[name].line}), or "
                    "number them in the column 'mode' if they are modes of one task.",
                )
            self.tasks[name]["modes"].append(mode)
            return
        data: dict[str, Any] = {"id": name, "modes": [mode]}
        if row["release"]:
            data["release"] = row.time("release", self.calendar)
        for column in ("deadline", "due"):
            if row[column]:
                data[column] = row.time(column, self.calendar, end=True)
        for column in ("weight", "earliness_weight"):
            if row[column]:
                data[column] = row.integer(column)
        data["optional"] = row.flag("optional", False)
        data["pausable"] = row.flag("pausable", self.calendar is not None)
        data["events"] = [self._event(row, part) for part in row.listed("events")]
        self.tasks[name] = data
        self.rows[name] = row

    def _demands(self, row: Row) -> dict[str, int]:
        demands: dict[str, int] = {}
        for part in row.listed("resources"):
            match = _DEMAND.fullmatch(part)
            if match is None:
                row.wrong(
                    "resources", "a demand must be like crew or crew:2", "Correct the cell.", part
                )
            name, units = match[1].strip(), match[2] or match[3]
            demand = whole(units.strip(), "a demand", row.line) if units else 1
            demands[name] = demands.get(name, 0) + demand
        return demands

    def _event(self, row: Row, part: str) -> dict[str, Any]:
        match = _EVENT.fullmatch(part)
        if match is None:
            row.wrong(
                "events", "an event must be like tank:-5@start", "Correct the cell.", value=part
            )
        amount = whole(match[2].strip(), "the amount of an event", row.line, least=-(10**12))
        return {"resource": match[1].strip(), "amount": amount, "at": match[3] or "end"}

    def imply_resources(self) -> None:
        """Resources that are needed but not listed have one unit."""
        for name, task in self.tasks.items():
            for mode in task["modes"]:
                for resource, units in mode["demands"].items():
                    if resource not in self.resources:
                        self.resources[resource] = {"name": resource, "implied": True}
                    if units > 1 and "implied" in self.resources[resource]:
                        self.rows[name].wrong(
                            "resources",
                            f"resource {resource!r} is not listed, so it has capacity 1",
                            "List it with its capacity in a section [resources].",
                        )
        for data in self.resources.values():
            data.pop("implied", None)

    def keep_to_calendar(self, calendar: Calendar) -> Calendar:
        """Give pausable tasks that need no calendar resource one that has the breaks."""
        bound = set(calendar.resources) or {
            name
            for name, data in self.resources.items()
            if data.get("type", "renewable") == "renewable"
        }
        bound |= {name for times in calendar.exceptions for name in times.resources}
        free = [
            mode
            for task in self.tasks.values()
            for mode in task["modes"]
            if task["pausable"]
            and mode["duration"]
            and not any(bound & {k} for k, u in mode["demands"].items() if u)
        ]
        if not free or not rests(calendar):
            return calendar
        for mode in free:
            mode["demands"][WORKING_TIME] = 1
        self.resources[WORKING_TIME] = {"name": WORKING_TIME, "capacity": len(free)}
        if not calendar.resources:
            return calendar
        return calendar.model_copy(update={"resources": (*calendar.resources, WORKING_TIME)})

    def change(self, row: Row) -> None:
        """A line of the section of capacity changes."""
        name = row["resource"]
        if name not in self.resources:
            row.wrong("resource", "the resource must exist", "Add it, or correct the name.")
        start = row.time("start", self.calendar)
        end = row.time("end", self.calendar, end=True)
        if end <= start:
            row.wrong("end", "a capacity change must end after it starts", "Correct start or end.")
        changes = self.resources[name].setdefault("capacity_changes", [])
        changes.append({"start": start, "end": end, "capacity": row.integer("capacity", 0)})

    def link(self) -> None:
        """The precedences from the column ``predecessors``."""
        index = {name: i for i, name in enumerate(self.tasks)}
        successors: list[list[int]] = [[] for _ in index]
        for name, row in self.rows.items():
            for part in row.listed("predecessors"):
                data = self._predecessor(row, part)
                self.links.append(data | {"after": name})
                if data.get("type", "end-start") == "end-start" and data.get("min_lag", 0) >= 0:
                    successors[index[data["before"]]].append(index[name])
        refuse_cycle(successors, list(index), [row.line for row in self.rows.values()])

    def _predecessor(self, row: Row, part: str) -> dict[str, Any]:
        if part in self.tasks:
            return {"before": part}
        match = _LINK.fullmatch(part) if len(part) <= 2000 else None
        if match is None or match["task"] not in self.tasks:
            row.wrong(
                "predecessors",
                "a predecessor must be the id of a task, with an optional link like FS+2",
                "Add the task, or correct the id; ids in lists are separated by ';'.",
                part,
            )
        data: dict[str, Any] = {"before": match["task"]}
        if match["type"]:
            data["type"] = _TYPES[match["type"].upper()]
        for key, group in (("min_lag", "least"), ("max_lag", "most")):
            if match[group]:
                text = match[group].replace(" ", "")
                data[key] = whole(text, "a lag", row.line, least=-(10**12))
        return data

    def precedence(self, row: Row) -> dict[str, Any]:
        """A line of the section of precedences; ``none`` in ``min_lag`` takes it away."""
        for column in ("before", "after"):
            if row[column] not in self.tasks:
                row.wrong(column, "the task must exist", "Add it, or correct the id.")
        data: dict[str, Any] = {"before": row["before"], "after": row["after"]}
        if row["type"]:
            data["type"] = _TYPES.get(row["type"].upper(), row["type"].lower())
        for column in ("min_lag", "max_lag"):
            if row[column].lower() == "none":
                data[column] = None
            elif row[column]:
                data[column] = row.integer(column, least=-(10**12))
        return data


def rests(calendar: Calendar) -> bool:
    """Whether the calendar has any break."""
    hours = calendar.unit != "day" and tuple(calendar.hours) != (0, 24)
    return hours or bool(calendar.holidays) or set(calendar.weekdays) != set(range(7))


def _project(tables: Tables) -> dict[str, Any]:
    data: dict[str, Any] = {}
    rows = tables["project"]
    if len(rows) > 1:
        raise ProblemError(
            "section [project] must have one line",
            place=f"line {rows[1].line}",
            remedy="Remove the others.",
        )
    if not rows:
        return data
    row = rows[0]
    for column in ("name", "time_unit"):
        if row[column]:
            data[column] = row[column]
    if row["horizon"]:
        data["horizon"] = row.integer("horizon")
    if row["objectives"]:
        data["objectives"] = row.listed("objectives")
    return data


def _calendar(tables: Tables, options: Mapping[str, str]) -> tuple[Calendar | None, bool]:
    """The calendar, and whether tasks without resources keep to it."""
    rows = tables["calendar"]
    if not rows:
        if "start" not in options:
            if options:
                raise ProblemError(
                    "the options of a calendar need its start",
                    remedy="Pass --option start=DATE, or a section [calendar].",
                )
            return None, False
        rows = [Row(0, options)]
    row, *others = rows
    data = _working_times(row) | {"start": row["start"]}
    if row["unit"]:
        data["unit"] = row["unit"].lower()
    if row["length"]:
        data["length"] = row.integer("length")
    if row["applies_to"] not in ("", "tasks", "resources"):
        row.wrong("applies_to", "applies_to must be tasks or resources", "Correct the cell.")
    for other in others:
        if other["start"] or not other["resources"]:
            other.wrong(
                "resources",
                "further lines of the calendar must name resources, and have no start",
                "Say whose working times they are.",
            )
    data["exceptions"] = [_working_times(other) for other in others]
    return Calendar.parse(data), row["applies_to"] != "resources"


def _working_times(row: Row) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if row["weekdays"]:
        data["weekdays"] = sorted(
            {day for part in row.listed("weekdays") for day in _days(row, part)}
        )
    if row["hours"]:
        ends = row["hours"].split("-")
        if len(ends) != 2 or not all(e.strip().isdigit() for e in ends):
            row.wrong("hours", "hours must be like 8-17", "Correct the cell.")
        data["hours"] = [int(e) for e in ends]
    for column in ("holidays", "resources"):
        if row[column]:
            data[column] = [] if row[column].lower() == "none" else row.listed(column)
    return data


def _days(row: Row, part: str) -> range | list[int]:
    """Weekdays of a part like ``mon-fri``, ``sat`` or ``0-4``."""
    ends = [end.strip().lower()[:3] for end in part.split("-")]
    numbers = [
        _DAYS.index(e) if e in _DAYS else int(e) if e in set("0123456") else -1 for e in ends
    ]
    if len(numbers) > 2 or min(numbers) < 0:
        row.wrong("weekdays", "weekdays must be like mon-fri", "Correct the days.", value=part)
    first, last = numbers[0], numbers[-1]
    return range(first, last + 1) if first <= last else [*range(first, 7), *range(last + 1)]
