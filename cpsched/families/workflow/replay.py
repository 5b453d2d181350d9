"""A workflow schedule joined with its problem: objective values, spend, and copies of files.

From the definitions alone, for the checker. A schedule's times are floats, so two times closer than
`TOLERANCE` (relative) count as equal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

from cpsched.families.workflow import terms
from cpsched.families.workflow.consistent import dependencies
from cpsched.families.workflow.problem import (
    File,
    Machine,
    Option,
    Placement,
    Task,
    WorkflowProblem,
    WorkflowSchedule,
)

TOLERANCE = 1e-9


def slack(time: float) -> float:
    """By how much times near ``time`` may differ and still count as equal."""
    return TOLERANCE * (time if time > 1.0 else 1.0)


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
            return peak(i for items in self.copies().values() for i in items)
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
        for file in all_files(self.problem):
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


def all_files(problem: WorkflowProblem) -> Iterable[File]:
    """The files of the problem, and the data of every edge as a file."""
    for edge in problem.edges:
        if edge.size > 0:
            yield File(
                id=f"{edge.source}->{edge.target}",
                size=edge.size,
                producer=edge.source,
                consumers=(edge.target,),
            )
    yield from problem.files


def peak(copies: Iterable[tuple[float, float, float]]) -> float:
    """The most bytes that copies, given as (from, to, bytes), take at a time."""
    events = []
    for begin, until, size in copies:
        if until - begin > 2 * slack(until):
            events.append((begin + slack(begin), size))
            events.append((until - slack(until), -size))
    events.sort()
    level = most = 0.0
    for _, change in events:
        level += change
        most = max(most, level)
    return most
