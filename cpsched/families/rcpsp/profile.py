"""Capacity over time: capacity changes and calendars as one step function per resource."""

from __future__ import annotations

import datetime as dt
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.dates import parse_date
from cpsched.families.rcpsp.problem import Calendar, RcpspProblem

#: A piece of a step function: half-open ``[start, end)`` and the value there.
Piece = tuple[int, int, int]
#: No schedule goes on that long.
NEVER = 2**60
#: A half-open stretch of time.
Span = tuple[int, int]

_UNITS_PER_DAY = {"day": 1, "hour": 24, "minute": 1440}


def capacity_profiles(problem: RcpspProblem) -> dict[str, list[Piece]]:
    """Where the capacity of renewable resources differs from their ordinary one.

    Returns
    -------
    dict
        Resource name to sorted, disjoint pieces ``(start, end, capacity)``; resources of constant
        capacity are left out. Where changes overlap, the smallest capacity holds.
    """
    calendar = problem.calendar
    closed: list[Span] = []
    others: dict[str, list[Span]] = {}
    if calendar is not None:
        closed = calendar_breaks(calendar)
        for times in calendar.exceptions:
            others |= dict.fromkeys(times.resources, calendar_breaks(calendar.with_times(times)))
    profiles = {}
    for resource in problem.resources:
        if resource.type != "renewable":
            continue
        pieces = [(c.start, c.end, c.capacity) for c in resource.capacity_changes]
        if resource.windows:
            pieces += _outside([(w.start, w.end) for w in resource.windows])
        if resource.name in others:
            pieces += [(start, end, 0) for start, end in others[resource.name]]
        elif calendar and (not calendar.resources or resource.name in calendar.resources):
            pieces += [(start, end, 0) for start, end in closed]
        pieces = [p for p in lowest(pieces) if p[2] != resource.capacity]
        if pieces:
            profiles[resource.name] = pieces
    return profiles


def _outside(windows: Iterable[Span]) -> list[Piece]:
    """The times in no window as pieces without capacity; the last one ends at `NEVER`."""
    out, at = [], 0
    for start, end in sorted(windows):
        if start > at:
            out.append((at, start, 0))
        at = max(at, end)
    return [*out, (at, NEVER, 0)]


def lowest(pieces: Iterable[Piece]) -> list[Piece]:
    """The pointwise minimum of pieces, as sorted disjoint pieces."""
    waiting = sorted(pieces)
    cuts = sorted({t for start, end, _ in waiting for t in (start, end)})
    out: list[Piece] = []
    active: list[tuple[int, int]] = []  # (value, end), smallest value first
    nxt = 0
    for left, right in itertools.pairwise(cuts):
        while nxt < len(waiting) and waiting[nxt][0] <= left:
            heapq.heappush(active, (waiting[nxt][2], waiting[nxt][1]))
            nxt += 1
        while active and active[0][1] <= left:
            heapq.heappop(active)
        if not active:
            continue
        value = active[0][0]
        if out and out[-1][1] == left and out[-1][2] == value:
            out[-1] = (out[-1][0], right, value)
        else:
            out.append((left, right, value))
    return out


def breaks_of(names: Iterable[str], profiles: dict[str, list[Piece]]) -> list[Span]:
    """The times in which any of the named resources has no capacity, sorted and disjoint."""
    pieces = [p for name in names for p in profiles.get(name, ()) if p[2] == 0]
    return [(start, end) for start, end, _ in lowest(pieces)]


def end_after(start: int, duration: int, breaks: Sequence[Span]) -> int:
    """When work of ``duration`` that starts at ``start`` and rests in ``breaks`` ends."""
    end = start + duration
    if not duration:
        return end
    for left, right in breaks:
        if right <= start:
            continue
        if left >= end:
            break
        end += right - max(left, start)
    return end


def rests_by_start(
    duration: int, breaks: Sequence[Span], low: int, high: int
) -> Iterator[tuple[int, int, int]]:
    """How long work that may rest in breaks rests, by its start.

    Yields
    ------
    tuple
        ``(first, last, rest)``: started in ``first .. last``, both included and outside breaks,
        work of ``duration`` (at least 1) rests that long. Starts from ``low`` to ``high`` are
        covered.
    """
    begins = [low, *(end for _, end in breaks)]
    for k, begin in enumerate(begins):
        first = max(begin, low)
        stop = breaks[k][0] if k < len(breaks) else high + 1
        final = min(stop - 1, high)
        # Work that fits behind the breaks crossed so far, and the rest in them.
        room, rest, crossed = 0, 0, k
        while first <= final:
            last = final
            if crossed < len(breaks):
                last = min(final, stop + room - duration)
            if last >= first:
                yield first, last, rest
                first = last + 1
            if crossed < len(breaks):
                rest += breaks[crossed][1] - breaks[crossed][0]
                if crossed + 1 < len(breaks):
                    room += breaks[crossed + 1][0] - breaks[crossed][1]
                crossed += 1


def calendar_breaks(calendar: Calendar) -> list[Span]:
    """The times, in units from the calendar's start, in which nobody works.

    Raises
    ------
    ProblemError
        For dates, weekdays or hours that do not exist.
    """
    per_day = _UNITS_PER_DAY[calendar.unit]
    begin = parse_date(calendar.start, "calendar.start")
    day = begin.date()
    offset, remainder = divmod(
        (begin - dt.datetime.combine(day, dt.time())).total_seconds() * per_day, 86400
    )
    if remainder:
        raise ProblemError(
            f"the start must lie on a full {calendar.unit}",
            place="calendar.start",
            value=calendar.start,
            remedy="Round it, or choose a finer unit.",
        )
    if not set(calendar.weekdays) <= set(range(7)) or not calendar.weekdays:
        raise ProblemError(
            "weekdays are numbers from 0 (Monday) to 6 (Sunday), at least one",
            place="calendar.weekdays",
            value=calendar.weekdays,
            remedy="Correct the list.",
        )
    first, last = calendar.hours
    if not 0 <= first < last <= 24:
        raise ProblemError(
            "hours must be (first, last) with 0 <= first < last <= 24",
            place="calendar.hours",
            value=calendar.hours,
            remedy="Correct the hours.",
        )
    if per_day == 1:
        first, last = 0, 24
    holidays = {parse_date(h, "calendar.holidays").date() for h in calendar.holidays}
    limit = calendar.length * per_day - int(offset)
    out: list[Span] = []
    position = -int(offset)
    open_until = 0  # end of the latest working stretch
    for k in range(calendar.length):
        try:
            date = day + dt.timedelta(days=k)
        except OverflowError:
            break
        works = date.weekday() in calendar.weekdays and date not in holidays
        if works:
            left = max(0, position + first * per_day // 24)
            if left > open_until:
                out.append((open_until, left))
            open_until = max(open_until, position + last * per_day // 24)
        position += per_day
    if open_until < limit:
        out.append((open_until, limit))
    return out
