"""The picture of a schedule: one lane per renewable resource, tasks stacked by their demand."""

from __future__ import annotations

from cpsched.families.rcpsp.dates import date_of, finish_of
from cpsched.families.rcpsp.problem import Calendar, RcpspProblem, RcpspSchedule, ScheduledTask
from cpsched.families.rcpsp.profile import capacity_profiles
from cpsched.plot.figure import Bar, Figure, Lane, Profile

#: A lane's height grows with the units stacked in it, up to this.
TALLEST_LANE = 4.0


def draw(problem: RcpspProblem, schedule: RcpspSchedule) -> Figure:
    """A Gantt chart by resource, with the use of every resource of more than one unit below it."""
    tasks = {t.id: t for t in problem.tasks}
    profiles = capacity_profiles(problem)
    done = sorted(schedule.tasks, key=lambda d: (d.start, d.end, d.task))
    shown: set[str] = set()
    lanes, uses = [], []
    latest = max((d.end for d in done), default=0)
    for resource in problem.resources:
        if resource.type != "renewable":
            continue
        held = []
        for d in done:
            units = tasks[d.task].modes[d.mode].demands.get(resource.name, 0)
            if units and d.end > d.start:
                held.append((d, units))
                shown.add(d.task)
        pieces = profiles.get(resource.name, [])
        capacity = max([resource.capacity, *(p[2] for p in pieces)])
        lanes.append(_lane(resource.name, held, capacity, problem.calendar))
        if capacity > 1:
            uses.append(_use(resource.name, resource.capacity, held, pieces, latest))
    others = [d for d in done if d.task not in shown and d.end > d.start]
    if others:
        lanes.append(_lane("no resource", [(d, 1) for d in others], 1, problem.calendar))
    finish = f"makespan {latest}"
    if problem.calendar is not None:
        finish += f", {finish_of(problem.calendar, latest)}"
    makespan = [(float(latest), finish)] if done else []
    return Figure(
        title=problem.name or "schedule",
        x_label=f"time ({problem.time_unit})" if problem.time_unit else "time",
        lanes=tuple(lanes),
        profiles=tuple(uses),
        marks=tuple(makespan),
    )


def _lane(
    name: str, held: list[tuple[ScheduledTask, int]], capacity: int, calendar: Calendar | None
) -> Lane:
    """Tasks at the lowest free place, which may be above the capacity where places are cut up."""
    placed: list[tuple[ScheduledTask, int, int]] = []
    active: list[tuple[ScheduledTask, int, int]] = []
    for d, units in held:
        active = [a for a in active if a[0].end > d.start]
        bottom = 0
        for _, low, high in sorted(active, key=lambda a: a[1]):
            if low - bottom >= units:
                break
            bottom = max(bottom, high)
        active.append((d, bottom, bottom + units))
        placed.append(active[-1])
    top = max([capacity if capacity < 10**6 else 1, *(high for _, _, high in placed)])
    bars = tuple(
        Bar(
            d.start,
            d.end,
            label=d.task,
            colour=d.task,
            tooltip=f"{d.task} (mode {d.mode}): {_span(d, calendar)}, {high - low} of {name}",
            bottom=low / top,
            top=high / top,
        )
        for d, low, high in placed
    )
    rows = min(TALLEST_LANE, 1.0 if capacity == 1 else 2.0 + 0.1 * capacity)
    return Lane(name, bars, height=rows)


def _span(d: ScheduledTask, calendar: Calendar | None) -> str:
    span = f"[{d.start}, {d.end})"
    if calendar is None:
        return span
    dates = f"{date_of(calendar, d.start)} to {finish_of(calendar, d.end, d.start)}"
    return f"{span}, {dates}"


def _use(
    name: str,
    capacity: int,
    held: list[tuple[ScheduledTask, int]],
    pieces: list[tuple[int, int, int]],
    latest: int,
) -> Profile:
    steps: dict[int, int] = {0: 0}
    for d, units in held:
        steps[d.start] = steps.get(d.start, 0) + units
        steps[d.end] = steps.get(d.end, 0) - units
    points, level = [], 0
    for time in sorted(steps):
        level += steps[time]
        points.append((float(time), float(level)))
    limits: list[tuple[float, float]] = [(0.0, float(capacity))]
    for start, end, value in pieces:
        if start < latest:
            limits += [(float(start), float(value)), (float(end), float(capacity))]
    limits.append((float(latest), float(capacity)))
    return Profile(name, tuple(points), tuple(sorted(dict(limits).items())))
