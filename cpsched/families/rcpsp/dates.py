"""Dates for the integers of a schedule, and back, by the problem's calendar.

Time t is the moment ``start + t`` units: time runs on at night and on holidays, in which the
calendar's resources have breaks.
"""

from __future__ import annotations

import datetime as dt

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.problem import Calendar, RcpspProblem, RcpspSchedule

_UNIT = {
    "minute": dt.timedelta(minutes=1),
    "hour": dt.timedelta(hours=1),
    "day": dt.timedelta(days=1),
}


def parse_date(text: str, place: str) -> dt.datetime:
    """An ISO 8601 date, with or without a time of day; a time zone is dropped.

    Raises
    ------
    ProblemError
        Naming the place and the text.
    """
    try:
        return dt.datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        raise ProblemError(
            "a date must be written as in ISO 8601",
            place=place,
            value=text,
            remedy="Write it like 2026-03-02 or 2026-03-02T08:00.",
        ) from None


def date_of(calendar: Calendar, time: int) -> str:
    """The moment of a time: a date when the unit is days, else date and time of day.

    Examples
    --------
    >>> date_of(Calendar(start="2026-03-02"), 4)
    '2026-03-06'
    """
    try:
        moment = parse_date(calendar.start, "calendar.start") + time * _UNIT[calendar.unit]
    except OverflowError:
        return f"{calendar.start} + {time} {calendar.unit}s"
    return moment.date().isoformat() if calendar.unit == "day" else moment.isoformat("T", "minutes")


def finish_of(calendar: Calendar, end: int, start: int | None = None) -> str:
    """The date on which something that ends at ``end`` is finished.

    Intervals are half-open, so with days the last day worked on is the one before ``end``; what
    takes no time (``start`` equals ``end``) is finished when it starts.
    """
    return date_of(calendar, end - 1 if calendar.unit == "day" and end != start else end)


def time_of(calendar: Calendar, text: str, place: str, *, end: bool = False) -> int:
    """The time of a date; a bare date is the beginning of that day, or its end with ``end``.

    Raises
    ------
    ProblemError
        For what is not a date, lies before the calendar's start, or is not a multiple of its unit.
    """
    moment = parse_date(text, place)
    if end and len(text.strip()) <= len("2026-03-02"):
        moment += dt.timedelta(days=1)
    units, rest = divmod(
        moment - parse_date(calendar.start, "calendar.start"), _UNIT[calendar.unit]
    )
    if units < 0 or rest:
        rule = (
            f"a date must not lie before the calendar's start {calendar.start}"
            if units < 0
            else f"a date must lie a whole number of {calendar.unit}s after {calendar.start}"
        )
        raise ProblemError(
            rule, place=place, value=text, remedy="Correct the date, or the calendar."
        )
    return units


def dated(problem: RcpspProblem, schedule: RcpspSchedule) -> list[dict[str, str]]:
    """The schedule as rows of text, by start, with dates where the problem has a calendar.

    Each row has ``task, mode, start, end, resources``, and with a calendar ``start_date`` and
    ``finish_date``.
    """
    calendar = problem.calendar
    rows = []
    for done in sorted(schedule.tasks, key=lambda d: (d.start, d.end, d.task)):
        row = {
            "task": done.task,
            "mode": str(done.mode),
            "start": str(done.start),
            "end": str(done.end),
        }
        if calendar is not None:
            row["start_date"] = date_of(calendar, done.start)
            row["finish_date"] = finish_of(calendar, done.end, done.start)
        rows.append(row | {"resources": ";".join(done.resources)})
    return rows
