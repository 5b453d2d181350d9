"""What ``cpsched convert`` writes of this family: PSPLIB, CSV, and a list of dates."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.dates import dated
from cpsched.families.rcpsp.problem import (
    Calendar,
    CapacityChange,
    Disjunctive,
    Mode,
    Precedence,
    RcpspProblem,
    RcpspSchedule,
    ReservoirEvent,
    Resource,
    Selection,
    Task,
    WorkingTimes,
)
from cpsched.families.rcpsp.tables import COLUMNS
from cpsched.problem import Record

#: What each format can express of each record; the rest must have its default.
_PSPLIB: dict[type[Record], tuple[str, ...]] = {
    RcpspProblem: ("kind", "name", "tasks", "resources", "precedences", "time_unit"),
    # Dates and weights that no makespan depends on are left out; the last job's are written.
    Task: ("id", "modes", "due", "weight", "earliness_weight"),
    Mode: ("duration", "demands"),
    Resource: ("name", "type", "capacity"),
    Precedence: ("before", "after"),
}
_CSV: dict[type[Record], tuple[str, ...]] = {
    RcpspProblem: (
        *("kind", "name", "tasks", "resources", "precedences", "disjunctive", "selections"),
        *("objectives", "horizon", "time_unit", "calendar"),
    ),
    Task: (*COLUMNS["tasks"], "modes"),
    Mode: ("duration", "demands", "cost"),
    Resource: (*COLUMNS["resources"], "capacity_changes"),
    CapacityChange: COLUMNS["capacity_changes"],
    ReservoirEvent: ("resource", "amount", "at"),
    Precedence: COLUMNS["precedences"],
    Disjunctive: COLUMNS["disjunctive"],
    Selection: COLUMNS["selections"],
    Calendar: (*COLUMNS["calendar"], "exceptions"),
    WorkingTimes: ("resources", "weekdays", "hours", "holidays"),
}


def _expressible(
    record: Record, known: Mapping[type[Record], Sequence[str]], format: str, place: str = ""
) -> None:
    """Complain about the first field of a record, or of one in it, that a format cannot express."""
    allowed = known.get(type(record), ())
    for name, info in type(record).model_fields.items():
        value = getattr(record, name)
        here = f"{place}.{name}".lstrip(".")
        if name not in allowed and value != info.get_default(call_default_factory=True):
            raise ProblemError(
                f"{format} cannot express the field {name!r}",
                place=here,
                value=type(value).__name__ if isinstance(value, tuple | Record) else value,
                remedy="Convert to cpsched JSON, or remove the field.",
            )
        if isinstance(value, Record):
            _expressible(value, known, format, here)
        elif isinstance(value, tuple):
            for i, part in enumerate(value):
                if isinstance(part, Record):
                    _expressible(part, known, format, f"{here}.{i}")


def write_psplib(problem: RcpspProblem, schedule: RcpspSchedule | None) -> str:
    """The problem as PSPLIB ``.sm`` or ``.mm`` text.

    A dummy first and last job are added where they are missing. Jobs are numbered in the order of
    the tasks, whose ids are not kept.

    Raises
    ------
    ProblemError
        When the problem has anything that the format cannot express.
    """
    _expressible(problem, _PSPLIB, "PSPLIB")
    for i, resource in enumerate(problem.resources):
        if resource.type == "reservoir":
            raise ProblemError(
                "PSPLIB cannot express reservoirs",
                place=f"resources.{i}.type",
                value=resource.name,
                remedy="Convert to cpsched JSON.",
            )
    index = {task.id: i for i, task in enumerate(problem.tasks)}
    pairs = dict.fromkeys((index[p.before], index[p.after]) for p in problem.precedences)
    successors: list[list[int]] = [[] for _ in index]
    entered = set()
    for before, after in pairs:
        successors[before].append(after)
        entered.add(after)
    modes = [task.modes for task in problem.tasks]
    dummy = (Mode(duration=0),)
    starts = [i for i in range(len(modes)) if i not in entered]
    if starts != [0] or modes[0] != dummy:
        successors = [[i + 1 for i in starts], *([j + 1 for j in row] for row in successors)]
        modes = [dummy, *modes]
    ends = [i for i, row in enumerate(successors) if not row]
    due = problem.tasks[-1] if ends == [len(modes) - 1] and problem.tasks else None
    if ends != [len(modes) - 1] or modes[-1] != dummy:
        for i in ends:
            successors[i] = [len(modes)]
        successors.append([])
        modes.append(dummy)
    return _psplib_text(problem.resources, modes, successors, due)


def _psplib_text(
    resources: Sequence[Resource],
    modes: Sequence[tuple[Mode, ...]],
    successors: Sequence[Sequence[int]],
    due: Task | None,
) -> str:
    renewable = [r for r in resources if r.type == "renewable"]
    nonrenewable = [r for r in resources if r.type == "nonrenewable"]
    heads = [f"R {k + 1}" for k in range(len(renewable))]
    heads += [f"N {k + 1}" for k in range(len(nonrenewable))]
    rule = "*" * 72
    horizon = sum(max(m.duration for m in row) for row in modes)
    lines = [
        rule,
        "projects                      :  1",
        f"jobs (incl. supersource/sink ):  {len(modes)}",
        f"horizon                       :  {horizon}",
        "RESOURCES",
        f"  - renewable                 :  {len(renewable)}   R",
        f"  - nonrenewable              :  {len(nonrenewable)}   N",
        "  - doubly constrained        :  0   D",
        rule,
    ]
    if due is not None and due.due is not None:
        lines += [
            "PROJECT INFORMATION:",
            "pronr.  #jobs rel.date duedate tardcost  MPM-Time",
            f"    1  {len(modes) - 2}  0  {due.due}  {due.weight}  0",
            rule,
        ]
    lines += ["PRECEDENCE RELATIONS:", "jobnr.    #modes  #successors   successors"]
    for i, row in enumerate(successors):
        after = "  ".join(str(j + 1) for j in row)
        lines.append(f"{i + 1:4d}  {len(modes[i]):8d}  {len(row):9d}     {after}".rstrip())
    lines += [rule, "REQUESTS/DURATIONS:", "jobnr. mode duration  " + "  ".join(heads), "-" * 72]
    for i, alternatives in enumerate(modes):
        for m, mode in enumerate(alternatives):
            label = f"{i + 1:4d}" if m == 0 else " " * 4
            units = [mode.demands.get(r.name, 0) for r in (*renewable, *nonrenewable)]
            cells = "".join(f"{u:5d}" for u in units)
            lines.append(f"{label} {m + 1:4d}  {mode.duration:5d}  {cells}".rstrip())
    lines += [rule, "RESOURCEAVAILABILITIES:", "  " + "  ".join(heads)]
    lines += ["".join(f" {r.capacity:5d}" for r in (*renewable, *nonrenewable)), rule]
    return "\n".join(lines) + "\n"


def write_csv(problem: RcpspProblem, schedule: RcpspSchedule | None) -> str:
    """The problem as CSV with sections, which reads back as the same problem.

    Raises
    ------
    ProblemError
        When the problem has anything that the tables cannot express.
    """
    _expressible(problem, _CSV, "CSV")
    _listable(problem)
    sheet = _Sheet()
    sheet.project(problem)
    sheet.tasks(problem.tasks)
    sheet.table("precedences", [_precedence(p) for p in problem.precedences])
    groups = [{"name": g.name, "tasks": _joined(g.tasks)} for g in problem.disjunctive]
    sheet.table("disjunctive", groups)
    selections = [
        {"type": s.type, "tasks": _joined(s.tasks), "condition": s.condition}
        for s in problem.selections
    ]
    sheet.table("selections", selections)
    return sheet.text.getvalue()


def _listable(problem: RcpspProblem) -> None:
    """Complain about names that could not be read back from a cell that holds a list."""
    names = [("tasks", t.id) for t in problem.tasks]
    names += [("resources", r.name) for r in problem.resources]
    for place, name in names:
        if re.search(r"[;|,:\[\]\r\n]", name) or name != name.strip() or name.startswith("#"):
            raise ProblemError(
                "names in CSV must not hold ; | , : [ ] or line ends, start with #, or have spaces "
                "around them",
                place=place,
                value=name,
                remedy="Rename it, or convert to cpsched JSON.",
            )


class _Sheet:
    """CSV text under construction; columns without any value are left out."""

    def __init__(self) -> None:
        self.text = StringIO()
        self._out = csv.writer(self.text, lineterminator="\n")

    def table(self, section: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """One section; nothing when there are no rows."""
        rows = list(rows)
        columns = [c for c in COLUMNS[section] if any(_cell(row.get(c)) for row in rows)]
        if rows:
            self._out.writerow([f"[{section}]"])
            self._out.writerow(columns)
            self._out.writerows([_cell(row.get(c)) for c in columns] for row in rows)

    def project(self, problem: RcpspProblem) -> None:
        """Everything that is not tasks or links between them."""
        objectives = _joined(problem.objectives) if problem.objectives != ("makespan",) else None
        row = {
            "name": problem.name,
            "objectives": objectives,
            "horizon": problem.horizon,
            "time_unit": problem.time_unit,
        }
        self.table("project", [row] if any(_cell(v) for v in row.values()) else [])
        calendar = problem.calendar
        if calendar is not None:
            row = _working_times(calendar) | {
                "start": calendar.start,
                "unit": calendar.unit,
                "length": calendar.length,
                "applies_to": "resources",
            }
            self.table("calendar", [row, *(_working_times(e) for e in calendar.exceptions)])
        self.table(
            "resources", [_without_defaults(r) | {"name": r.name} for r in problem.resources]
        )
        changes = [
            {"resource": r.name, "start": c.start, "end": c.end, "capacity": c.capacity}
            for r in problem.resources
            for c in r.capacity_changes
        ]
        self.table("capacity_changes", changes)

    def tasks(self, tasks: Iterable[Task]) -> None:
        """One row per mode."""
        rows = []
        for task in tasks:
            events = _joined(f"{e.resource}:{e.amount}@{e.at}" for e in task.events)
            for m, mode in enumerate(task.modes):
                row: dict[str, Any] = {"id": task.id}
                if m == 0:
                    row |= _without_defaults(task) | {
                        "events": events,
                        "pausable": "yes" if task.pausable else "no",
                    }
                if len(task.modes) > 1:
                    row["mode"] = m
                row["duration"] = mode.duration
                row["cost"] = mode.cost or None
                row["resources"] = _joined(f"{name}:{u}" for name, u in mode.demands.items())
                rows.append(row)
        self.table("tasks", rows)


def _working_times(times: Calendar | WorkingTimes) -> dict[str, Any]:
    return {
        "weekdays": _joined(str(day) for day in times.weekdays or ()),
        "hours": "-".join(str(hour) for hour in times.hours or ()),
        "holidays": "none" if times.holidays == () else _joined(times.holidays or ()),
        "resources": _joined(times.resources),
    }


def _precedence(p: Precedence) -> dict[str, Any]:
    row = _without_defaults(p) | {"before": p.before, "after": p.after}
    return row | ({"min_lag": "none"} if p.min_lag is None else {})


def _without_defaults(record: Record) -> dict[str, Any]:
    return record.model_dump(exclude_defaults=True)


def _joined(parts: Iterable[str]) -> str:
    return ";".join(parts)


def _cell(value: object) -> str:
    if value is None or value is False:
        return ""
    return "yes" if value is True else str(value)


def write_dates(problem: RcpspProblem, schedule: RcpspSchedule | None) -> str:
    """The schedule as CSV, one line per task by start, with dates when there is a calendar."""
    if schedule is None:
        raise ProblemError("there must be a schedule to list", remedy="Pass the schedule's file.")
    rows = dated(problem, schedule)
    text = StringIO()
    names = list(rows[0]) if rows else ["task", "mode", "start", "end", "resources"]
    out = csv.DictWriter(text, names, lineterminator="\n")
    out.writeheader()
    out.writerows(rows)
    return text.getvalue()
