"""Replan after events: the past and the running stay, the rest is scheduled anew.

When promises (deadlines) can no longer all hold, a smallest set of them is given up, found by
implicit hitting sets over conflicts, and each is returned with the conflict it was part of.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cpsched.errors import ProblemError
from cpsched.families import Family, NamedConstraint, family
from cpsched.result import Result, Status

if TYPE_CHECKING:
    from cpsched.core.clock import Clock
    from cpsched.problem import ProblemBase

EventType = Literal[
    "delay",
    "finish",
    "resource_down",
    "resource_up",
    "capacity",
    "insert",
    "cancel",
    "due_date",
    "priority",
]

#: What each event may carry besides type, time and id.
FIELDS: dict[str, tuple[str, ...]] = {
    "delay": ("by", "until"),
    "finish": (),
    "resource_down": ("until",),
    "resource_up": (),
    "capacity": ("capacity", "until"),
    "insert": ("item", "after", "before"),
    "cancel": (),
    "due_date": ("due", "deadline"),
    "priority": ("weight",),
}


@dataclass(frozen=True)
class Event:
    """Something that happened: to the task, pod, request or resource ``id`` at ``time``.

    Attributes
    ----------
    by, until
        ``delay`` by so much, or until then; ``until`` also ends ``resource_down`` and ``capacity``.
    capacity
        The new capacity.
    item
        ``insert``: the new task, pod or request as in the family's JSON.
    after, before
        ``insert``: ids that it follows and precedes.
    due, deadline
        ``due_date``: the new soft or hard date.
    weight
        ``priority``: the new weight or priority.
    """

    type: EventType
    time: float
    id: str
    by: float | None = None
    until: float | None = None
    capacity: float | None = None
    item: dict[str, Any] | None = None
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    due: float | None = None
    deadline: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Revision:
    """What a family makes of a schedule and events.

    Attributes
    ----------
    problem
        The problem from now on: what has happened and what runs is fixed in it.
    hint
        The old schedule carried over; it may be invalid now.
    promises
        The deadlines that were promised and may have to be broken, as named constraints of
        ``problem``.
    """

    problem: Any
    hint: Any
    promises: tuple[NamedConstraint, ...] = ()


def read_events(events: Iterable[Any], now: float) -> tuple[Event, ...]:
    """Events from plain data or `Event` objects, in time order.

    Raises
    ------
    ProblemError
        For an unknown type, a missing or unknown field, a value that is no number, an event after
        ``now``, or two events that contradict each other.
    """
    if isinstance(events, dict | str | bytes):
        raise ProblemError(
            "events must be a list", place="events", value=events, remedy="Wrap it in []."
        )
    out = [_read_event(event, i, now) for i, event in enumerate(events)]
    seen: dict[tuple[str, str], Event] = {}
    ended: dict[str, str] = {}
    for event in out:
        twin = seen.setdefault((event.type, event.id), event)
        if twin is not event and twin.time == event.time and twin != event:
            raise ProblemError(
                f"two events of type {event.type} at the same time contradict each other",
                place="events",
                value=event.id,
                remedy="Keep one of them.",
            )
        if event.type in ("finish", "cancel"):
            other = ended.setdefault(event.id, event.type)
            if other != event.type:
                raise ProblemError(
                    "the same item cannot be finished and cancelled",
                    place="events",
                    value=event.id,
                    remedy="Keep one of the two events.",
                )
    return tuple(sorted(out, key=lambda e: e.time))


def _read_event(event: Any, index: int, now: float) -> Event:
    if isinstance(event, Event):
        return event
    place = f"events.{index}"
    if not isinstance(event, dict):
        raise ProblemError(
            "an event must be an object", place=place, value=event, remedy="See the contract."
        )
    kind = event.get("type")
    if kind not in FIELDS:
        raise ProblemError(
            f"the event's type must be one of {', '.join(FIELDS)}",
            place=f"{place}.type",
            value=kind,
            remedy="Correct the type.",
        )
    for key, value in event.items():
        if key not in ("type", "time", "id", *FIELDS[kind]):
            raise ProblemError(
                f"an event of type {kind} has no field {key!r}; it may have: "
                f"{', '.join(FIELDS[kind]) or 'none'}",
                place=place,
                remedy="Remove the field.",
            )
        numeric = key in ("time", "by", "until", "capacity", "due", "deadline", "weight")
        if numeric and not (
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e12
        ):
            raise ProblemError(
                "the value must be a number",
                place=f"{place}.{key}",
                value=value,
                remedy="Correct it.",
            )
    for key in ("time", "id"):
        if key not in event:
            raise ProblemError(
                "the field is required", place=f"{place}.{key}", remedy="Add the field."
            )
    if event["time"] > now:
        raise ProblemError(
            f"an event cannot lie after now ({now})",
            place=f"{place}.time",
            value=event["time"],
            remedy="Move 'now', or leave the event for later.",
        )
    data = {key: value for key, value in event.items() if key not in ("after", "before", "id")}
    after, before = (tuple(str(i) for i in event.get(key, ())) for key in ("after", "before"))
    return Event(**data, id=str(event["id"]), after=after, before=before)


def replan(
    problem: ProblemBase,
    schedule: Any,
    *,
    now: float,
    events: Sequence[Any] = (),
    stability: int = 0,
    time_limit: float | None = 1.0,
    **settings: Any,
) -> Result:
    """Schedule the rest anew after events; what has started stays as it is.

    Parameters
    ----------
    problem, schedule
        The problem and the schedule that was being executed.
    now
        The current time: everything that has started before stays.
    events
        What happened, as `Event` objects or plain data.
    stability
        How much a change of a planned start counts against the objective, per time unit; 0 lets
        the plan change freely.
    time_limit, settings
        As for `solve`.

    Returns
    -------
    Result
        In addition ``diff`` (what changes against the old schedule), ``broken_promises`` (promise
        and reason), and ``revised`` (the revised problem's JSON, for validation).

    Raises
    ------
    ProblemError
        For events in the future, about unknown things, or contradicting each other, for a schedule
        of another problem, and for kinds that cannot be replanned.
    """
    from cpsched.core.clock import Clock
    from cpsched.improve import difference

    chosen = family(problem.kind)
    given = chosen.read_schedule(schedule)
    clock = Clock(time_limit)
    listed = read_events(events, now)
    if chosen.revise is None:
        raise ProblemError(
            f"problems of kind {problem.kind} cannot be replanned", remedy="Solve the rest anew."
        )
    revision = chosen.revise(problem, given, now, listed, stability)
    # Time is kept for giving up promises in case they cannot all hold.
    share = 0.5 if revision.promises else 1.0
    result = _solve(revision.problem, revision.hint, clock, settings, share)
    broken: list[dict[str, Any]] = []
    if result.schedule is None and revision.promises:
        result, broken = _give_up_promises(chosen, revision, clock, settings, result)
    extra = {
        "diff": difference(chosen, given, result.schedule),
        "broken_promises": broken,
        "revised": result.problem.to_dict(),
    }
    return dataclasses.replace(result, extra=result.extra | extra, wall_time=clock.elapsed())


def _solve(
    problem: Any, hint: Any, clock: Clock, settings: dict[str, Any], share: float = 1.0
) -> Result:
    from cpsched.solve import solve

    left = share * clock.remaining()
    return solve(problem, time_limit=max(0.02, left), hint=hint, **settings)


def _give_up_promises(
    chosen: Family[Any, Any, Any],
    revision: Revision,
    clock: Clock,
    settings: dict[str, Any],
    first: Result,
) -> tuple[Result, list[dict[str, Any]]]:
    """A schedule that breaks as few promises as could be shown in the time."""
    promises = {p.name: p for p in revision.promises}
    names = frozenset(c.name for c in chosen.constraints(revision.problem))
    free = chosen.restrict(revision.problem, names - promises.keys())
    best = _solve(free, revision.hint, clock, settings, 0.4)
    if best.schedule is None:
        return first, []

    def broken_by(schedule: Any) -> set[str]:
        without = names - promises.keys()
        return {
            name
            for name in promises
            if chosen.check(chosen.restrict(revision.problem, without | {name}), schedule)
        }

    smallest = broken_by(best.schedule)
    conflicts: list[frozenset[str]] = []
    while not clock.expired():
        dropped = _hitting_set(conflicts)
        if len(dropped) >= len(smallest):
            break
        trial = chosen.restrict(revision.problem, names - dropped)
        found = _solve(trial, best.schedule, clock, settings, 0.5)
        if found.schedule is not None:
            best, smallest = found, broken_by(found.schedule)
            if len(smallest) <= len(dropped):
                break
            continue
        if found.status is not Status.INFEASIBLE:
            break
        conflict = _conflict(chosen, revision, names, promises.keys() - dropped, clock, settings)
        if not conflict or conflict in conflicts:
            break
        conflicts.append(conflict)
    return best, [
        {
            "promise": name,
            "sentence": promises[name].sentence,
            "reason": _reason(name, conflicts, promises),
        }
        for name in sorted(smallest)
    ]


def _conflict(
    chosen: Family[Any, Any, Any],
    revision: Revision,
    names: frozenset[str],
    kept: set[str],
    clock: Clock,
    settings: dict[str, Any],
) -> frozenset[str]:
    """Promises among ``kept`` that cannot hold together: a deletion filter."""
    base = names - {p.name for p in revision.promises}
    core = sorted(kept)
    for name in list(core):
        if clock.expired():
            break
        trial = chosen.restrict(revision.problem, base | (set(core) - {name}))
        found = _solve(trial, None, clock, settings | {"objective": []}, 0.2)
        if found.status is Status.INFEASIBLE:
            core.remove(name)
    return frozenset(core)


def _hitting_set(conflicts: list[frozenset[str]]) -> frozenset[str]:
    """A smallest set that meets every conflict."""
    items = sorted(frozenset().union(*conflicts)) if conflicts else []
    for size in range(len(items) + 1):
        for chosen in itertools.combinations(items, size):
            if all(conflict & set(chosen) for conflict in conflicts):
                return frozenset(chosen)
    return frozenset(items)


def _reason(
    name: str, conflicts: list[frozenset[str]], promises: dict[str, NamedConstraint]
) -> str:
    for conflict in conflicts:
        if name in conflict:
            others = [promises[o].sentence for o in sorted(conflict) if o != name]
            if not others:
                return "It can no longer hold, whatever else is done."
            return "It cannot hold together with: " + " ".join(others)
    return "No schedule that keeps it was found in the time."
