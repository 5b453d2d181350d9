"""The picture of a memory schedule: time by offset, one lane per space, and the load below."""

from __future__ import annotations

from collections import defaultdict

from cpsched.families.memory.check import pieces_of
from cpsched.families.memory.problem import MemoryProblem, MemorySchedule
from cpsched.plot.figure import Bar, Figure, Lane, Profile


def draw(problem: MemoryProblem, schedule: MemorySchedule) -> Figure:
    """Rectangles in time and space; copies of a mapping in a lane of their own."""
    known = {b.id: b for b in problem.buffers}
    rectangles: dict[str, list[tuple[int, int, int, int, str]]] = defaultdict(list)
    for place in schedule.buffers:
        buffer = known[place.buffer]
        if problem.form == "allocation":
            for start, end, low, high in pieces_of(buffer):
                rectangles[place.space].append(
                    (start, end, place.offset + low, place.offset + high, buffer.id)
                )
        elif place.start is not None and place.end is not None:
            rectangles[place.space].append(
                (place.start, place.end, place.offset, place.offset + buffer.size, buffer.id)
            )
    limits = {s.name: s.capacity for s in problem.spaces}
    lanes: list[Lane] = []
    profiles: list[Profile] = []
    for space, rows in sorted(rectangles.items()):
        limit = limits.get(space, problem.capacity)
        top = max([r[3] for r in rows] + ([limit] if limit else [1]))
        lanes.append(
            Lane(
                space,
                tuple(
                    Bar(
                        start,
                        end,
                        label=name,
                        colour=name,
                        tooltip=f"{name}: [{low}, {high}) during [{start}, {end})",
                        bottom=low / top,
                        top=high / top,
                    )
                    for start, end, low, high, name in rows
                ),
                height=8.0,
            )
        )
        profiles.append(_load(space, rows, limit))
    if schedule.copies:
        bars = tuple(
            Bar(
                c.start,
                c.end,
                label=c.buffer,
                colour=c.buffer,
                tooltip=f"copy of {c.buffer}: {c.source} to {c.target}, [{c.start}, {c.end})",
                dashed=True,
            )
            for c in schedule.copies
        )
        lanes.append(Lane("copies", bars))
    title = problem.name or "memory"
    if schedule.height is not None:
        title += f": height {schedule.height}"
    marks = tuple((float(step), name) for step, name in enumerate(schedule.order))
    return Figure(title, lanes=tuple(lanes), profiles=tuple(profiles), marks=marks)


def _load(space: str, rows: list[tuple[int, int, int, int, str]], limit: int | None) -> Profile:
    change: dict[int, int] = defaultdict(int)
    for start, end, low, high, _ in rows:
        change[start] += high - low
        change[end] -= high - low
    points: list[tuple[float, float]] = []
    now = 0
    for time in sorted(change):
        now += change[time]
        points.append((float(time), float(now)))
    capacity = ((points[0][0], float(limit)),) if limit is not None and points else ()
    return Profile(f"load of {space}", tuple(points), capacity)
