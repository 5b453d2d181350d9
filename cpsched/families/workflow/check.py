"""The definition of a valid workflow schedule, and of its objective values.

Independent of models and solvers. A schedule's times are floats, so two times closer than
`TOLERANCE` (relative) count as equal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

from cpsched.families.workflow import terms
from cpsched.families.workflow.consistent import dependencies, fits
from cpsched.families.workflow.problem import (
    File,
    Machine,
    Option,
    Placement,
    Task,
    Transfer,
    WorkflowProblem,
    WorkflowSchedule,
)
from cpsched.validate import Violation

TOLERANCE = 1e-9


def _slack(time: float) -> float:
    return TOLERANCE * (time if time > 1.0 else 1.0)


def check(problem: WorkflowProblem, schedule: WorkflowSchedule) -> list[Violation]:
    """Every violation of the schedule: an event-by-event replay of tasks, data and resources."""
    out: list[Violation] = []
    replay = Replay(problem, schedule)
    _check_tasks(replay, out)
    if out:
        return out
    _check_times(replay, out)
    _check_data(replay, out)
    _check_resources(replay, out)
    _check_storage(replay, out)
    _check_limits(replay, out)
    return out


def evaluate(
    problem: WorkflowProblem, schedule: WorkflowSchedule, names: Sequence[str]
) -> tuple[float, ...]:
    """Values of the named objectives of a valid schedule."""
    replay = Replay(problem, schedule)
    return tuple(replay.objective(name) for name in names)


class Replay:
    """A schedule joined with its problem."""

    def __init__(self, problem: WorkflowProblem, schedule: WorkflowSchedule) -> None:
        self.problem, self.schedule = problem, schedule
        self.machine: dict[str, Machine] = {m.name: m for m in problem.machines}
        self.at: dict[str, Placement] = {p.task: p for p in schedule.tasks}
        self.rates = terms.link_rates(problem)
        self.default_rate = (problem.bandwidth, problem.latency)

    @cached_property
    def needs(self) -> dict[tuple[str, str], list[tuple[str, float]]]:
        """Dependent task pairs with their (file, bytes)."""
        return dependencies(self.problem)

    @cached_property
    def part_of(self) -> dict[str, tuple[int, int]]:
        """(branch, alternative) of conditional tasks."""
        return terms.alternatives(self.problem)

    def option(self, task: Task) -> Option:
        """The option that the schedule chose for the task."""
        return task.choices[self.at[task.id].option]

    def delay(self, source: str, target: str, carried: Sequence[float]) -> float:
        """Time for data from one machine to another; 0 on the same machine or without data."""
        if source == target or not carried:
            return 0.0
        bandwidth, latency = self.rates.get((source, target), self.default_rate)
        return latency + (math.fsum(carried) / bandwidth if bandwidth is not None else 0.0)

    # ------------------------------------------------------------------ objectives

    def objective(self, name: str) -> float:
        """The value of one objective."""
        problem = self.problem
        if name == "makespan":
            return max((p.end for p in self.schedule.tasks), default=0.0)
        if name in ("cost", "energy", "carbon"):
            return self.expected(name)
        if name == "log_success":
            chance = terms.probabilities(problem)
            return math.fsum(
                chance.get(t.id, 1.0) * terms.log_success(self.option(t)) for t in problem.tasks
            )
        if name == "peak_storage":
            return _peak(i for items in self.copies().values() for i in items)
        flows = terms.members(problem)
        ends = [max(self.at[t.id].end for t in tasks) for _, tasks in flows]
        if name == "max_slowdown":
            ideal = terms.ideal_times(problem)
            return max(
                (
                    (end - flow.release) / best
                    for (flow, _), end, best in zip(flows, ends, ideal, strict=True)
                    if best > 0
                ),
                default=0.0,
            )
        if name == "weighted_flow_time":
            if not problem.workflows:
                return math.fsum(t.weight * (self.at[t.id].end - t.release) for t in problem.tasks)
            return math.fsum(
                flow.weight * (end - flow.release)
                for (flow, _), end in zip(flows, ends, strict=True)
            )
        assert name == "weighted_tardiness"
        late = [
            flow.weight * max(0.0, end - flow.due)
            for (flow, _), end in zip(flows, ends, strict=True)
            if flow.due is not None
        ]
        late += [
            t.weight * max(0.0, self.at[t.id].end - t.due)
            for t in problem.tasks
            if t.due is not None
        ]
        return math.fsum(late)

    def reserved(self, task: Task, resource: str) -> float:
        """What a task spends when every try is needed."""
        placed, option = self.at[task.id], self.option(task)
        machine = self.machine[placed.machine]
        amount = 0.0 if resource == "carbon" else terms.own_use(option, resource)
        steps = terms.rate_steps(machine, resource)
        used = terms.integral(steps, placed.start, placed.end)
        return amount + used * terms.share(option, machine)

    def leases(self) -> float:
        """Money for machines that are billed by quantum."""
        total = 0.0
        for machine in self.problem.machines:
            if machine.billing_quantum and machine.price:
                placed = [p for p in self.schedule.tasks if p.machine == machine.name]
                if placed:
                    length = max(p.end for p in placed) - min(p.start for p in placed)
                    quanta = math.ceil(length / machine.billing_quantum * (1 - TOLERANCE) - 1e-12)
                    total += quanta * machine.billing_quantum * machine.price / 3600
        return total

    def expected(self, resource: str) -> float:
        """Expected spend over branches and tries."""
        chance = terms.probabilities(self.problem)
        spent = math.fsum(
            chance.get(t.id, 1.0) * terms.expected_part(self.option(t)) * self.reserved(t, resource)
            for t in self.problem.tasks
        )
        return spent + (self.leases() if resource == "cost" else 0.0)

    def worst_case(self, resource: str) -> float:
        """Spend when every try is needed and every branch takes its dearest alternative."""
        sums: dict[tuple[int, int] | None, float] = defaultdict(float)
        for task in self.problem.tasks:
            sums[self.part_of.get(task.id)] += self.reserved(task, resource)
        total = sums.pop(None, 0.0) + (self.leases() if resource == "cost" else 0.0)
        dearest: dict[int, float] = defaultdict(float)
        for key, amount in sums.items():
            assert key is not None
            dearest[key[0]] = max(dearest[key[0]], amount)
        return total + math.fsum(dearest.values())

    # ------------------------------------------------------------------ data

    def arrivals(self) -> dict[tuple[str, str], float]:
        """When each (file, destination machine) has arrived according to the listed transfers."""
        return {(t.file, t.target): t.end for t in self.schedule.transfers}

    def copies(self) -> dict[str, list[tuple[float, float, float]]]:
        """Per machine the copies in its storage, as (from, to, bytes).

        A file is written from the start of its producer and held until its last reader on that
        machine ends and it was sent wherever it is needed. The copy at a destination is there from
        the start of the transfer to the end of its last reader.
        """
        horizon = max((p.end for p in self.schedule.tasks), default=0.0)
        sent = {(t.file, t.target): (t.start, t.end) for t in self.schedule.transfers}
        out: dict[str, list[tuple[float, float, float]]] = {m: [] for m in self.machine}
        for file in _all_files(self.problem):
            if file.size <= 0 or (file.producer is None and file.location is None):
                continue
            if file.producer is not None:
                home = self.at[file.producer].machine
                begin, until = self.at[file.producer].start, self.at[file.producer].end
                ready = until
            else:
                assert file.location is not None
                home, begin, until, ready = file.location, 0.0, 0.0, 0.0
            last: dict[str, float] = {}
            for consumer in file.consumers:
                placed = self.at[consumer]
                last[placed.machine] = max(last.get(placed.machine, 0.0), placed.end)
            for target, end in last.items():
                if target == home:
                    until = max(until, end)
                    continue
                start, arrival = sent.get((file.id, target), (ready, ready))
                if not self.problem.contention:
                    start, arrival = ready, ready + self.delay(home, target, [file.size])
                until = max(until, arrival)
                out[target].append((start, max(arrival, end), file.size))
            out[home].append((begin, max(until, horizon) if file.keep else until, file.size))
        return out


def _all_files(problem: WorkflowProblem) -> Iterable[File]:
    for edge in problem.edges:
        if edge.size > 0:
            yield File(
                id=f"{edge.source}->{edge.target}",
                size=edge.size,
                producer=edge.source,
                consumers=(edge.target,),
            )
    yield from problem.files


# ---------------------------------------------------------------------- rules


def _check_tasks(replay: Replay, out: list[Violation]) -> None:
    problem, schedule = replay.problem, replay.schedule
    known = {t.id for t in problem.tasks}
    if len(replay.at) != len(schedule.tasks):
        seen: set[str] = set()
        for placed in schedule.tasks:
            if placed.task in seen:
                out.append(Violation("task", f"task {placed.task} is placed twice"))
            seen.add(placed.task)
    out += [
        Violation("task", f"there is no task {name}", {"task": name})
        for name in replay.at
        if name not in known
    ]
    for task in problem.tasks:
        placed_ = replay.at.get(task.id)
        where = {"task": task.id}
        if placed_ is None:
            out.append(Violation("task", f"task {task.id} is not placed", where))
        elif placed_.machine not in replay.machine:
            out.append(Violation("machine", f"there is no machine {placed_.machine}", where))
        elif placed_.option >= len(task.choices):
            out.append(Violation("option", f"task {task.id} has no option {placed_.option}", where))
        elif not fits(task, task.choices[placed_.option], replay.machine[placed_.machine]):
            out.append(
                Violation("machine", f"task {task.id} cannot run on {placed_.machine}", where)
            )


def _check_times(replay: Replay, out: list[Violation]) -> None:
    problem = replay.problem
    release = {w.id: w.release for w in problem.workflows}
    latest = {w.id: w.deadline for w in problem.workflows}
    for task in problem.tasks:
        placed = replay.at[task.id]
        where = {"task": task.id}
        length = terms.duration(replay.option(task), replay.machine[placed.machine])
        tolerance = _slack(placed.end)
        if abs(placed.end - placed.start - length) > tolerance:
            out.append(
                Violation(
                    "duration",
                    f"task {task.id} takes {placed.end - placed.start}, not {length}",
                    where,
                )
            )
        earliest = max(task.release, release.get(task.workflow or "", 0.0))
        if placed.start < earliest - tolerance:
            out.append(
                Violation(
                    "release",
                    f"task {task.id} starts at {placed.start}, before its release at {earliest}",
                    where,
                    earliest - placed.start,
                )
            )
        limits = (task.deadline, latest.get(task.workflow or ""), problem.deadline)
        out += [
            Violation(
                "deadline",
                f"task {task.id} ends at {placed.end}, after its deadline at {deadline}",
                where,
                placed.end - deadline,
            )
            for deadline in limits
            if deadline is not None and placed.end > deadline + _slack(deadline)
        ]
    for source, target in replay.needs:
        before, after = replay.at[source], replay.at[target]
        if after.start < before.end - _slack(before.end):
            out.append(
                Violation(
                    "precedence",
                    f"task {target} starts at {after.start}, before {source} ends at {before.end}",
                    {"task": target, "after": source},
                    before.end - after.start,
                )
            )


def _check_data(replay: Replay, out: list[Violation]) -> None:
    problem = replay.problem
    ready: list[tuple[str | None, str, str, float, list[tuple[str, float]]]] = [
        (source, target, replay.at[source].machine, replay.at[source].end, carried)
        for (source, target), carried in replay.needs.items()
        if carried
    ]
    located: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for file in problem.files:
        if file.producer is None and file.location is not None:
            for consumer in dict.fromkeys(file.consumers):
                located[file.location, consumer].append((file.id, file.size))
    ready += [(None, target, home, 0.0, fs) for (home, target), fs in located.items()]
    arrivals = replay.arrivals()
    sources: dict[tuple[str, str], tuple[str | None, str, float, float]] = {}
    for source, target, home, time, carried in ready:
        placed = replay.at[target]
        if home == placed.machine:
            continue
        for file_id, size in carried:
            sources[file_id, placed.machine] = (source, home, time, size)
        if problem.contention:
            arrival = max(arrivals.get((f, placed.machine), math.inf) for f, _ in carried)
        else:
            arrival = time + replay.delay(home, placed.machine, [size for _, size in carried])
        if placed.start < arrival - _slack(arrival if math.isfinite(arrival) else 0.0):
            out.append(
                Violation(
                    "transfer",
                    f"task {target} starts at {placed.start}, before its data from "
                    f"{source or home} is there at {arrival}",
                    {"task": target, "from": source or home},
                )
            )
    _check_transfers(replay, sources, out)


def _check_transfers(
    replay: Replay,
    sources: dict[tuple[str, str], tuple[str | None, str, float, float]],
    out: list[Violation],
) -> None:
    links: dict[tuple[str, str], list[Transfer]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    for sent in replay.schedule.transfers:
        where = {"file": sent.file, "to": sent.target}
        expected = sources.get((sent.file, sent.target))
        if expected is None or (sent.file, sent.target) in seen:
            out.append(Violation("transfer", f"nothing on {sent.target} needs {sent.file}", where))
            continue
        seen.add((sent.file, sent.target))
        producer, home, time, size = expected
        least = replay.delay(home, sent.target, [size])
        if (sent.producer, sent.source) != (producer, home):
            message = f"{sent.file} is on {home}, produced by {producer}"
            out.append(Violation("transfer", message, where))
        elif sent.start < time - _slack(time):
            message = f"{sent.file} is sent at {sent.start}, before it exists at {time}"
            out.append(Violation("transfer", message, where))
        elif sent.end - sent.start < least - _slack(sent.end):
            message = f"{sent.file} takes {least}, not {sent.end - sent.start}"
            out.append(Violation("transfer", message, where))
        links[sent.source, sent.target].append(sent)
    if replay.problem.contention:
        for (source, target), sents in links.items():
            sents.sort(key=lambda t: (t.start, t.end))
            for before, after in pairwise(sents):
                if after.start < before.end - _slack(before.end) and after.end > after.start:
                    message = f"{before.file} and {after.file} overlap on {source}->{target}"
                    out.append(Violation("contention", message, {"from": source, "to": target}))


def _check_resources(replay: Replay, out: list[Violation]) -> None:
    on: dict[str, list[Task]] = defaultdict(list)
    for task in replay.problem.tasks:
        placed = replay.at[task.id]
        if placed.end - placed.start > 2 * _slack(placed.end):
            on[placed.machine].append(task)
    for name, tasks in on.items():
        machine = replay.machine[name]
        for task in tasks:
            placed = replay.at[task.id]
            tolerance = _slack(placed.end)
            if machine.windows and not any(
                w.start <= placed.start + tolerance and placed.end <= w.end + tolerance
                for w in machine.windows
            ):
                out.append(
                    Violation(
                        "windows",
                        f"{name} is not available during all of task {task.id}",
                        {"task": task.id, "machine": name},
                    )
                )
        unit = machine.cores is None
        capacities = {
            "cores": 1.0 if machine.cores is None else machine.cores,
            "memory": math.inf if unit or machine.memory is None else machine.memory,
            "gpus": math.inf if unit else float(machine.gpus),
        }
        for resource, capacity in capacities.items():
            if not math.isfinite(capacity):
                continue
            used = []
            for task in tasks:
                option = replay.option(task)
                amount = 1.0 if unit else float(getattr(option, resource))
                if amount > 0:
                    used.append((replay.at[task.id], amount, replay.part_of.get(task.id)))
            over = _overload(used, capacity)
            if over is not None:
                time, load = over
                out.append(
                    Violation(
                        resource,
                        f"tasks on {name} need {load} {resource} at {time}, it has {capacity}",
                        {"machine": name, "time": time},
                        load - capacity,
                    )
                )


def _overload(
    used: Sequence[tuple[Placement, float, tuple[int, int] | None]], capacity: float
) -> tuple[float, float] | None:
    """First (time, load) above the capacity; alternatives of a branch count by their maximum."""
    events = []
    for placed, amount, part in used:
        tolerance = _slack(placed.end)
        events.append((placed.start + tolerance, amount, part))
        events.append((placed.end - tolerance, -amount, part))
    events.sort(key=lambda e: (e[0], e[1]))
    limit = capacity + 1e-9 * max(1.0, capacity)
    steady = 0.0
    conditional: dict[int, dict[int, float]] = {}
    for time, amount, part in events:
        if part is None:
            steady += amount
        else:
            loads = conditional.setdefault(part[0], {})
            loads[part[1]] = loads.get(part[1], 0.0) + amount
        load = steady + sum(max(loads.values()) for loads in conditional.values())
        if load > limit and amount > 0:
            return time, load
    return None


def _peak(copies: Iterable[tuple[float, float, float]]) -> float:
    events = []
    for begin, until, size in copies:
        if until - begin > 2 * _slack(until):
            events.append((begin + _slack(begin), size))
            events.append((until - _slack(until), -size))
    events.sort()
    level = peak = 0.0
    for _, change in events:
        level += change
        peak = max(peak, level)
    return peak


def _check_storage(replay: Replay, out: list[Violation]) -> None:
    limited = {m.name: m.storage for m in replay.problem.machines if m.storage is not None}
    if not limited:
        return
    copies = replay.copies()
    for name, capacity in limited.items():
        peak = _peak(copies[name])
        if peak > capacity * (1 + 1e-9):
            out.append(
                Violation(
                    "storage",
                    f"{name} holds up to {peak} bytes, its storage has {capacity}",
                    {"machine": name},
                    peak - capacity,
                )
            )


def _check_limits(replay: Replay, out: list[Violation]) -> None:
    problem = replay.problem
    for resource in ("cost", "energy", "carbon", "tokens"):
        budget = getattr(problem.budgets, resource)
        if budget is not None:
            spent = replay.worst_case(resource)
            if spent > budget + _slack(budget):
                message = f"{resource} may reach {spent}, the budget is {budget}"
                out.append(Violation("budgets", message, {"budget": resource}, spent - budget))
    if problem.min_success is not None:
        value = replay.objective("log_success")
        if value < math.log(problem.min_success) - TOLERANCE:
            message = f"success has probability {math.exp(value)}, not {problem.min_success}"
            out.append(Violation("min_success", message))
    for name, limit in problem.limits.items():
        value = replay.objective(name)
        over = limit - value if name == "log_success" else value - limit
        if over > _slack(abs(limit)):
            out.append(Violation("limits", f"{name} is {value}, its limit is {limit}"))
    if problem.fair_share is not None:
        fair = terms.fair_finishes(problem)
        for (flow, tasks), finish in zip(terms.members(problem), fair, strict=True):
            end = max(replay.at[t.id].end for t in tasks)
            if end > finish + problem.fair_share + _slack(end):
                message = f"workflow {flow.id} ends at {end}, its fair finish is {finish}"
                out.append(Violation("fair_share", message, {"workflow": flow.id}, end - finish))
    stated = replay.schedule.makespan
    if stated is not None:
        actual = replay.objective("makespan")
        if abs(stated - actual) > _slack(actual):
            out.append(Violation("makespan", f"the makespan is {actual}, not {stated}"))
