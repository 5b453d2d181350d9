"""A time by which some best schedule has ended, if there is any schedule."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from cpsched.families.rcpsp.graph import Arc
from cpsched.families.rcpsp.profile import Piece, Span, end_after, lowest

#: Held resources (of those whose capacity varies), pausable, duration of one mode.
Placement = tuple[tuple[int, ...], bool, int]

#: Beyond this many tasks all work is simply put behind the last change of a capacity.
LARGEST_CHAIN = 20_000


def horizon_of(
    first: int,
    shortest: Sequence[int],
    longest: Sequence[int],
    arcs: Sequence[Arc],
    pieces: Sequence[Sequence[Piece]],
    base: Sequence[int],
    placements: Sequence[Placement],
    rigid: bool,
) -> int:
    """The sum of all steps that a schedule without needless waiting can take.

    Parameters
    ----------
    first
        The latest release or due date.
    shortest, longest
        Durations per task.
    arcs
        Lags as ``start(j) >= start(i) + w``, each with the largest w that durations allow.
    pieces, base
        Per renewable resource where the capacity is not its base.
    placements
        What the modes hold, where capacities vary.
    rigid
        Whether waiting can pay (levelling): then nothing is assumed about schedules before the
        last change of a capacity.

    Notes
    -----
    In a schedule in which no task can start earlier, every start is reached from a date by a chain
    of distinct tasks, each step a duration or a lag. Where capacity varies, a task waits besides
    for the first stretch without changes that is long enough; so as many steps as there are tasks,
    each the longest possible from where the one before ended, are never overtaken.
    """
    step = list(longest)
    for i, _, weight in arcs:
        step[i] = max(step[i], weight)
    last = max((piece[1] for own in pieces for piece in own), default=0)
    simple = max(first, last) + sum(step)
    raised = any(
        capacity > usual for own, usual in zip(pieces, base, strict=True) for *_, capacity in own
    )
    partial = any(capacity for own in pieces for *_, capacity in own)
    pausing = any(pausable for _, pausable, _ in placements)
    if not last or rigid or raised or (partial and pausing) or len(step) > LARGEST_CHAIN:
        return simple
    beyond = max((s - d for s, d in zip(step, shortest, strict=True)), default=0)
    kinds: dict[tuple[tuple[int, ...], bool], int] = {}
    for held, pausable, duration in placements:
        kinds[held, pausable] = max(duration, kinds.get((held, pausable), 0))
    spans = {held: _spans(held, pieces) for held, _ in kinds}
    time = first
    for _ in step:
        ends = [_end(time, d, spans[held], pausable) for (held, pausable), d in kinds.items()]
        time = max([time, *ends]) + beyond
        if time >= simple:
            return simple
    return time


def _spans(held: Sequence[int], pieces: Sequence[Sequence[Piece]]) -> list[Span]:
    merged = lowest((start, end, 0) for r in held for start, end, _ in pieces[r])
    return [(start, end) for start, end, _ in merged]


def _end(time: int, duration: int, spans: list[Span], pausable: bool) -> int:
    """When work ends that starts as early as possible from ``time`` on."""
    k = max(0, bisect_right(spans, (time, time)) - 1)
    for start, end in spans[k:]:
        if start >= time + (1 if pausable else duration):
            break
        time = max(time, end)
    return end_after(time, duration, spans[k:]) if pausable else time + duration
