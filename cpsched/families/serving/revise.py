"""Replanning a window of requests: what runs goes on, events are applied, the rest is free.

Admission and capacity have rounds: a request that started before ``now`` keeps instance and start,
with the output that the events give it. Routing and placement are snapshots: the schedule is where
everything is, and only the events count. A running request is given up only where the memory of
its instance can no longer hold it; it then waits again, and the promise is reported as broken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cpsched.errors import ProblemError
from cpsched.families.serving.check import check_admission, meets_slo
from cpsched.families.serving.explain import constraints
from cpsched.families.serving.pieces import prefill_rounds, transfer_rounds
from cpsched.families.serving.problem import (
    Instance,
    Placed,
    Request,
    ServingProblem,
    ServingSchedule,
)
from cpsched.families.serving.revise_placement import PlacementRevision, whole
from cpsched.replan import Event, Revision, foreign, refusal

if TYPE_CHECKING:
    from cpsched.core.clock import Clock


def revise(
    problem: ServingProblem,
    schedule: ServingSchedule,
    now: float,
    events: Sequence[Event],
    stability: int,
) -> Revision:
    """The window from round ``now`` on.

    Requests that wait arrive at ``now`` at the earliest, and their latency is counted from there.
    So do running ones whose handover to another instance has not begun: it is decided anew.
    An instance that is down takes none of them until `resource_up`; ``until`` of events about
    instances is not planned with. With a stability weight the requests keep their instances.

    Raises
    ------
    ProblemError
        For the questions ``cache`` and ``preemption``, a schedule of other requests, and events
        about unknown or impossible things.
    """
    if problem.question == "placement":
        state: Any = PlacementRevision(problem, schedule)
    elif problem.question in ("admission", "capacity", "routing"):
        state = _Window(problem, schedule, whole(now, "now"))
    else:
        raise ProblemError(
            f"the question {problem.question!r} cannot be replanned",
            place="question",
            value=problem.question,
            remedy="Solve it anew with what is held now.",
        )
    for event in events:
        handler = getattr(state, f"_{event.type}", None)
        if handler is None:
            raise refusal(event, f"the question {problem.question!r} knows no such event")
        handler(event)
    revision: Revision = state.revision()
    return revision


class _Window:
    """Requests and instances while events are applied."""

    def __init__(self, problem: ServingProblem, schedule: ServingSchedule, now: int) -> None:
        self.base, self.now = problem, now
        self.timed = problem.question != "routing"
        self.staged = self.timed and any(one.staged for one in problem.instances)
        self.requests = {r.id: r for r in problem.requests}
        self.machines = list(problem.machines)
        self.down: set[int] = set()
        self.smaller: set[int] = set()
        self.placed: dict[str, Placed] = {}
        for one in schedule.requests:
            if one.request not in self.requests:
                raise foreign("schedule.requests", one.request)
            if one.instance >= len(self.machines):
                raise foreign("schedule.requests", f"instance {one.instance}")
            self.placed[one.request] = one
        #: Start of what has started, by id.
        self.started = {
            name: one.start for name, one in self.placed.items() if self.timed and one.start < now
        }
        #: Requests whose handover was to go to an instance that is down.
        self.undecided: set[str] = set()
        #: Why requests lose their place, or are not served at all.
        self.restarted: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def _end(self, name: str) -> int:
        """When a started request ends, as far as is known."""
        return self._way(name).end

    def _way(self, name: str) -> Placed:
        """The place of a started request, with the output that is known by now."""
        one, request = self.placed[name], self.requests[name]
        begin = one.start + prefill_rounds(request, self.machines[one.instance])
        begin += sum(b - a for a, b in one.pauses)
        if one.sent is not None:
            begin = one.sent + transfer_rounds(self.base, request.prompt)
        return one.model_copy(update={"end": begin + request.output})

    def _request(self, event: Event) -> Request:
        if event.id not in self.requests:
            raise refusal(event, "there is no request of that id")
        return self.requests[event.id]

    def _machine(self, event: Event) -> int:
        named = [i for i, m in enumerate(self.machines) if m.name and m.name == event.id]
        if len(named) == 1:
            return named[0]
        if not named and event.id.isdecimal() and int(event.id) < len(self.machines):
            return int(event.id)
        raise refusal(
            event,
            f"{'several instances have' if named else 'there is no instance of'} that name",
            remedy=f"Name an instance by its index, 0 to {len(self.machines) - 1}.",
        )

    def _change(self, name: str, **update: Any) -> None:
        # Rebuilt, not copied: the new values pass the schema's checks.
        self.requests[name] = Request.parse(self.requests[name].model_dump() | update)

    # ------------------------------------------------------------------ events

    def _delay(self, event: Event) -> None:
        request = self._request(event)
        if event.by is None and event.until is None:
            raise refusal(event, "it needs 'by' or 'until'")
        if not self.timed:
            raise refusal(event, "routing has no times")
        by = 0 if event.by is None else whole(event.by, "events.by")
        until = 0 if event.until is None else whole(event.until, "events.until")
        if request.id in self.started:
            end = self._end(request.id)
            if end <= event.time:
                raise refusal(event, "the request has ended before")
            longer = max(end + by, until) - end
            self._change(request.id, output=request.output + longer)
        else:
            planned = self.placed[request.id].start if request.id in self.placed else self.now
            arrival = max(request.arrival, until, planned + by if by else 0)
            self._change(request.id, arrival=arrival)

    def _finish(self, event: Event) -> None:
        request = self._request(event)
        if not self.timed:
            self._cancel(event)
            return
        time = whole(event.time, "events.time")
        if request.id not in self.started or self.started[request.id] >= time:
            raise refusal(event, "the request has not started")
        if self._end(request.id) < time:
            raise refusal(event, "the request has ended before")
        made = request.output - (self._end(request.id) - time)
        if made < 0:
            raise refusal(event, "its prompt is still being processed", remedy="Cancel it.")
        self._change(request.id, output=made)

    def _cancel(self, event: Event) -> None:
        request = self._request(event)
        if request.id in self.started and self._end(request.id) <= event.time:
            raise refusal(event, "the request has ended before")
        del self.requests[request.id]
        self.started.pop(request.id, None)

    def _resource_down(self, event: Event) -> None:
        machine = self._machine(event)
        self.down.add(machine)
        for name in list(self.started):
            one = self._way(name)
            # Handed over, a request needs the first instance no more; before, not yet the second.
            over = one.decode is not None and one.end - self.requests[name].output <= event.time
            begun = one.sent is not None and one.sent < event.time
            lost = one.decode == machine if over else machine == one.instance
            if (lost or (begun and machine == one.decode)) and one.end > event.time:
                del self.started[name]
            elif one.decode == machine and one.end > event.time:
                self.undecided.add(name)

    def _resource_up(self, event: Event) -> None:
        machine = self._machine(event)
        if machine in self.down:
            self.down.discard(machine)
            return
        # Requests that may run wherever any may run today, may run here as well.
        waiting = [r for r in self.requests.values() if r.id not in self.started]
        in_use = {k for r in waiting for k in r.candidates}
        for r in waiting:
            if r.candidates and set(r.candidates) == in_use:
                self._change(r.id, candidates=tuple(sorted(in_use | {machine})))

    def _capacity(self, event: Event) -> None:
        machine = self._machine(event)
        if event.capacity is None:
            raise refusal(event, "it needs the new 'capacity'")
        new = whole(event.capacity, "events.capacity")
        old = self.machines[machine].capacity
        if old is None or new < old:
            self.smaller.add(machine)
        self.machines[machine] = self.machines[machine].model_copy(update={"capacity": new})

    def _insert(self, event: Event) -> None:
        if event.item is None:
            raise refusal(event, "it needs the new request as 'item'")
        if event.id in self.requests:
            raise refusal(event, "there is a request of that id already")
        request = Request.parse({"id": event.id} | event.item)
        if request.id != event.id:
            raise refusal(event, f"its item has the id {request.id!r}")
        for name in (*event.after, *event.before):
            if name not in self.requests:
                raise refusal(event, f"there is no request {name!r} to follow or precede")
        self.requests[event.id] = request
        if event.after:
            self._change(event.id, after=(*request.after, *event.after))
        for name in event.before:
            if name in self.started:
                raise refusal(event, f"request {name!r} has started")
            self._change(name, after=(*self.requests[name].after, event.id))

    def _due_date(self, event: Event) -> None:
        request = self._request(event)
        due = event.due if event.deadline is None else event.deadline
        if due is None:
            raise refusal(event, "it needs 'due' or 'deadline'")
        self._change(request.id, end_by=whole(due, "events.due"))

    def _priority(self, event: Event) -> None:
        request = self._request(event)
        if event.weight is None:
            raise refusal(event, "it needs 'weight'")
        self._change(request.id, weight=whole(event.weight, "events.weight"))

    # ------------------------------------------------------------------ result

    def revision(self) -> Revision:
        """The revised window, the old plan as a hint, and the promises."""
        for name, one in list(self.placed.items()):
            past = name in self.started and self._end(name) <= self.now
            if past and self.smaller & {one.instance, one.decode}:
                # Its memory is history: the smaller instance never held it.
                del self.requests[name], self.started[name]
        self._restart_what_does_not_fit()
        self._leave_out_what_fits_nowhere()
        revised = self._problem({})
        known = {r.id for r in revised.requests}
        old = [one for one in self.placed.values() if one.request in known]
        hint = ServingSchedule(
            requests=tuple(
                self._way(one.request) if one.request in self.started else one for one in old
            )
        )
        keep: dict[str, tuple[int, ...]] = {
            one.request: tuple(places)
            for one in old
            for places in [dict.fromkeys(g for g in (one.instance, one.decode) if g is not None)]
            if one.request not in self.started and all(self._may(one.request, g) for g in places)
        }
        promises = tuple(c for c in constraints(revised) if c.group == "slo")
        return Revision(revised, hint, promises, self._problem(keep), self._broken(revised))

    def _open(self, name: str) -> bool:
        """Whether a started request may still be handed over."""
        one = self._way(name)
        waits = one.end - self.requests[name].output >= self.now
        return self.staged and (waits or name in self.undecided)

    def _may(self, name: str, machine: int) -> bool:
        candidates = self.requests[name].candidates
        return machine not in self.down and (not candidates or machine in candidates)

    def _problem(self, keep: dict[str, tuple[int, ...]]) -> ServingProblem:
        """The window; requests in ``keep`` only on those instances."""
        up = tuple(k for k in range(len(self.machines)) if k not in self.down)
        if not up:
            raise ProblemError(
                "no instance is left that serves", place="events", remedy="Bring one up, or wait."
            )
        requests = []
        for name, request in self.requests.items():
            update: dict[str, Any] = {
                "after": tuple(o for o in request.after if o in self.requests),
                "candidates": keep.get(name, request.candidates),
            }
            if name in self.started:
                placed = self.placed[name]
                update |= {
                    "start": self.started[name],
                    "instance": placed.instance,
                    "pauses": placed.pauses,
                }
                sent = placed.sent is not None and placed.sent < self.now
                if sent and name not in self.undecided:
                    update |= {"decode": placed.decode, "sent": placed.sent}
                elif self._open(name):
                    update |= {"arrival": max(request.arrival, self.now)}
                    if self.down:
                        allowed = request.candidates or range(len(self.machines))
                        update["candidates"] = tuple(k for k in allowed if k not in self.down)
            elif self.timed:
                update |= {"arrival": max(request.arrival, self.now)}
                update |= {"start": None, "instance": None}
            else:
                at = self.placed[name].instance if name in self.placed else None
                update["instance"] = None if at in self.down else at
            if self.down and name not in self.started and name not in keep:
                allowed = tuple(k for k in request.candidates or up if k not in self.down)
                if not allowed:
                    raise ProblemError(
                        "every instance that a request may run on is down",
                        place="events",
                        value=name,
                        remedy="Cancel the request, or bring an instance up.",
                    )
                update["candidates"] = allowed
            requests.append(request.model_copy(update=update))
        fields: dict[str, Any] = {f: getattr(self.base, f) for f in type(self.base).model_fields}
        instances = self._instances()
        return ServingProblem.parse(fields | {"requests": requests, "instances": instances})

    def _instances(self) -> tuple[Instance, ...]:
        """The instances as they were given where nothing changed, else one by one."""
        if tuple(self.machines) == self.base.machines:
            return self.base.instances
        return tuple(m.model_copy(update={"count": 1}) for m in self.machines)

    def _restart_what_does_not_fit(self) -> None:
        """Take running requests off instances that cannot hold them: the least loss first."""
        while self.started:
            facts = [self._way(name) for name in self.started]
            over = [v for v in self._violations(facts) if v.rule in ("capacity", "token_budget")]
            if not over:
                return
            machine, time = over[0].where["instance"], over[0].where["time"]
            there = [f for f in facts if machine in (f.instance, f.decode) and f.end >= time]
            running = [f for f in there if f.end > self.now]
            if not running:
                return
            worst = min(running, key=partial(self._loss, facts, machine))
            self.restarted[worst.request] = over[0].message
            del self.started[worst.request]

    def _leave_out_what_fits_nowhere(self) -> None:
        """Take requests out that not even an empty instance can hold any more."""
        rooms = [
            math.inf if m.capacity is None else m.capacity
            for k, m in enumerate(self.machines)
            if k not in self.down
        ]
        largest = max(rooms, default=math.inf)
        for name, request in list(self.requests.items()):
            if name not in self.started and request.prompt + request.output > largest:
                del self.requests[name]
                self.left_out[name] = (
                    f"it needs {request.prompt + request.output} units, and the largest instance "
                    f"has {largest}"
                )

    def _loss(self, facts: list[Placed], machine: int, fact: Placed) -> tuple[bool, int, int]:
        """Best is a single request whose restart suffices; of these the lightest and latest."""
        rest = self._violations([f for f in facts if f is not fact])
        not_enough = any(v.where.get("instance") == machine for v in rest)
        return not_enough, self.requests[fact.request].weight, self.now - fact.start

    def _violations(self, facts: list[Placed]) -> list[Any]:
        running = {f.request for f in facts}
        requests = tuple(
            r.model_copy(
                update={
                    "after": (),
                    "candidates": (),
                    "start": self.started[r.id],
                    "instance": self.placed[r.id].instance,
                    "pauses": self.placed[r.id].pauses,
                }
            )
            for r in self.requests.values()
            if r.id in running
        )
        update = {"requests": requests, "instances": self._instances(), "slo_percent": None}
        return check_admission(
            self.base.model_copy(update=update), ServingSchedule(requests=tuple(facts))
        )

    def _broken(self, revised: ServingProblem) -> Any:
        def in_time(problem: ServingProblem, one: Placed) -> bool:
            request = next(r for r in problem.requests if r.id == one.request)
            return meets_slo(request, one)

        dated = [
            name
            for name, r in self.requests.items()
            if r.end_by is not None or r.first_token_by is not None
        ]
        before = {r.id for r in self.base.requests}
        promised = [
            name
            for name in dated
            if self.timed
            and name in self.placed
            and name in before
            and in_time(self.base, self.placed[name])
        ]

        def report(schedule: ServingSchedule, clock: Clock) -> list[dict[str, Any]]:
            out = [
                {
                    "promise": f"running:{name}",
                    "sentence": f"Request {name} goes on where it runs.",
                    "reason": f"It has to start again: {why}.",
                }
                for name, why in self.restarted.items()
                if name not in self.left_out
            ]
            out += [
                {
                    "promise": f"served:{name}",
                    "sentence": f"Request {name} is served.",
                    "reason": f"It cannot be: {why}.",
                }
                for name, why in self.left_out.items()
            ]
            placed = {one.request: one for one in schedule.requests}
            for name in promised:
                if name in placed and in_time(revised, placed[name]):
                    continue
                reason = "it is left out" if name not in placed else f"ends {placed[name].end}"
                out.append(
                    {
                        "promise": f"slo:{name}",
                        "sentence": f"Request {name} meets its dates.",
                        "reason": f"In the best plan found it does not ({reason}).",
                    }
                )
            return out

        return report
