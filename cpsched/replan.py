"""Replan after events: the past and the running stay, the rest is scheduled anew.

When promises (deadlines) can no longer all hold, a smallest set of them is given up, found by
implicit hitting sets over conflicts, and each is returned with the conflict it was part of.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
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
    "capacity": ("capacity", "amounts", "until"),
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
    capacity, amounts
        The new capacity: a number, or amounts by resource (``{"cpu": "3"}``) where a resource has
        several.
    item
        ``insert``: the new task, pod, request, buffer or operation as in the family's JSON.
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
    amounts: dict[str, Any] | None = None
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
        What was promised and may have to be broken, as named constraints of ``problem``.
    stable
        The problem in which everything planned keeps its place (node, machine, offset, group);
        tried beside ``problem`` when a stability weight is given. None where the weight is part of
        the problem, or changes already count.
    broken
        ``broken(schedule, clock)``: promises that are no constraints of ``problem`` and that a new
        schedule does not keep, with reasons.
    """

    problem: Any
    hint: Any
    promises: tuple[NamedConstraint, ...] = ()
    stable: Any = None
    broken: Callable[[Any, Clock], list[dict[str, Any]]] | None = None


def refusal(event: Event, why: str, remedy: str = "Correct or remove the event.") -> ProblemError:
    """The error for an event that cannot be applied."""
    return ProblemError(
        f"the {event.type} event cannot be applied: {why}",
        place="events.id",
        value=event.id,
        remedy=remedy,
    )


def foreign(place: str, name: str) -> ProblemError:
    """The error for a schedule that speaks of something the problem does not have."""
    return ProblemError(
        "the schedule must belong to the problem",
        place=place,
        value=name,
        remedy="Pass the schedule of this problem.",
    )


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
    for event in out:
        twin = seen.setdefault((event.type, event.id), event)
        if twin is not event and twin.time == event.time and twin != event:
            raise _contradiction(event, f"two events of type {event.type} at the same time differ")
        for other in _EXCLUDES.get(event.type, ()):
            before = seen.get((other, event.id))
            over = {other, event.type} == {"finish", "cancel"}  # an end is an end, whenever
            if before is not None and (over or before.time == event.time):
                raise _contradiction(event, f"it cannot have both a {other} and a {event.type}")
    return tuple(sorted(out, key=lambda e: e.time))


#: Events that cannot both happen to the same item (at the same time).
_EXCLUDES = {
    "finish": ("cancel",),
    "cancel": ("finish", "insert"),
    "insert": ("cancel",),
    "resource_down": ("resource_up",),
    "resource_up": ("resource_down",),
}


def _contradiction(event: Event, rule: str) -> ProblemError:
    return ProblemError(
        f"events must not contradict each other: {rule}",
        place="events",
        value=event.id,
        remedy="Keep one of them.",
    )


_NUMBERS = ("time", "by", "until", "capacity", "due", "deadline", "weight")
_OBJECTS = ("item", "amounts")
_LISTS = ("after", "before")


def _read_event(event: Any, index: int, now: float) -> Event:
    place = f"events.{index}"
    if isinstance(event, Event):
        given = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
        event = {k: v for k, v in given.items() if v is not None and v != ()}
    if not isinstance(event, dict):
        raise ProblemError(
            "an event must be an object", place=place, value=event, remedy="See the contract."
        )
    kind = event.get("type")
    if not isinstance(kind, str) or kind not in FIELDS:
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
        rule = _wrong(key, value)
        if rule:
            shown = value if isinstance(value, str | int | float) else type(value).__name__
            raise ProblemError(rule, place=f"{place}.{key}", value=shown, remedy="Correct it.")
    for key in ("time", "id"):
        if key not in event:
            raise ProblemError(
                "the field is required", place=f"{place}.{key}", remedy="Add the field."
            )
    if event["time"] > now:
        raise ProblemError(
            f"an event cannot lie after now ({now:g})",
            place=f"{place}.time",
            value=event["time"],
            remedy="Move 'now', or leave the event for later.",
        )
    data = {key: value for key, value in event.items() if key not in ("after", "before", "id")}
    after, before = (tuple(str(i) for i in event.get(key, ())) for key in _LISTS)
    return Event(**data, id=str(event["id"]), after=after, before=before)


def _wrong(key: str, value: Any) -> str:
    """The rule that a field's value breaks, or nothing."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in _NUMBERS and not (number and abs(value) <= 1e12):
        return "the value must be a number"
    if key == "time" and value < 0:
        return "an event cannot lie before time 0"
    if key == "id" and not (isinstance(value, str) or (isinstance(value, int) and number)):
        return "an id must be text"
    if key in _OBJECTS and not isinstance(value, dict):
        return "the value must be an object"
    if key in _LISTS and not (
        isinstance(value, list | tuple) and all(isinstance(i, str | int) for i in value)
    ):
        return "the value must be a list of ids"
    return ""


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
        How much a change counts against the (first) objective: per time unit of a planned start
        for projects and shops, per changed item for the other kinds; 0 lets the plan change
        freely. Plans of pods always change as little as their objectives allow.
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
    for name, value in (("now", now), ("stability", stability)):
        if not (isinstance(value, int | float) and 0 <= value <= 1e12):
            raise ProblemError(
                f"{name} must be a number, zero or more",
                place=name,
                value=value,
                remedy="Correct it.",
            )
    listed = read_events(events, now)
    if chosen.revise is None:
        raise ProblemError(
            f"problems of kind {problem.kind} cannot be replanned", remedy="Solve the rest anew."
        )
    revision = chosen.revise(problem, given, now, listed, stability)
    # Time is kept for giving up promises in case they cannot all hold.
    share = 0.5 if revision.promises else 1.0
    if stability and revision.stable is not None:
        result = _weighed(chosen, revision, clock, settings, stability, share)
    else:
        result = _solve(revision.problem, revision.hint, clock, settings, share)
    broken: list[dict[str, Any]] = []
    if result.schedule is None and revision.promises:
        result, broken = _give_up_promises(chosen, revision, clock, settings, result)
    if result.schedule is not None and revision.broken is not None:
        broken += revision.broken(result.schedule, clock)
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


def _weighed(
    chosen: Family[Any, Any, Any],
    revision: Revision,
    clock: Clock,
    settings: dict[str, Any],
    stability: float,
    share: float,
) -> Result:
    """The free plan, or the one that keeps every place when its changes do not pay.

    A change is worth it when the first objective gains at least ``stability`` for it.
    """
    from cpsched.improve import difference
    from cpsched.result import Status, gap_of

    steady = _solve(revision.stable, revision.hint, clock, settings, 0.5 * share)
    if steady.schedule is None:
        return _solve(revision.problem, revision.hint, clock, settings, share)
    free = _solve(revision.problem, steady.schedule, clock, settings, share)
    if free.schedule is None:
        return free

    def values(result: Result) -> list[Any]:
        if result.objective is None:
            return []
        return result.objective if isinstance(result.objective, list) else [result.objective]

    def changes(result: Result) -> int:
        return len(difference(chosen, revision.hint, result.schedule))

    old, new = values(steady), values(free)
    more = changes(free) - changes(steady)
    gain = abs(old[0] - new[0]) if old else 0
    if more <= 0 or (gain > 0 and gain >= stability * more):
        return free
    bounds = [free.bound] if not isinstance(free.bound, list) else free.bound
    gaps = [None if b is None else gap_of(v, b) for v, b in zip(old, bounds, strict=False)]
    proved = free.status is Status.OPTIMAL and old == new
    return dataclasses.replace(
        free,
        schedule=steady.schedule,
        objective=steady.objective,
        gap=gaps[0] if len(gaps) == 1 else (gaps or None),
        status=Status.OPTIMAL if proved else Status.FEASIBLE,
        source=steady.source,
    )


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
