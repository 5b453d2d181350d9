"""From arrays of ticks back to a schedule with names, times and transfers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from cpsched.families.workflow.consistent import dependencies
from cpsched.families.workflow.prepare import Instance, Ints
from cpsched.families.workflow.problem import Placement, Transfer, WorkflowSchedule
from cpsched.problem import Record

R = TypeVar("R", bound=Record)

#: (file, destination machine index) -> (start, end) in ticks
Sent = Mapping[tuple[str, int], tuple[int, int]]


@dataclass
class Plan:
    """A schedule in ticks: start, row and machine per task, transfers where links are exclusive."""

    start: Ints
    row: Ints
    mach: Ints
    sent: Sent | None = None

    def end(self, inst: Instance) -> Ints:
        """End per task in ticks."""
        lengths: Ints = inst.dur[self.row, self.mach]
        return self.start + lengths

    def makespan(self, inst: Instance) -> int:
        """Latest end in ticks."""
        return int(self.end(inst).max()) if inst.n else 0


def order_of(inst: Instance, plan: Plan) -> Ints:
    """Tasks by start; ties in topological order."""
    position = np.empty(inst.n, dtype=np.int64)
    position[inst.topo] = np.arange(inst.n)
    return np.lexsort((position, plan.end(inst), plan.start)).astype(np.int64)


@dataclass(frozen=True)
class Merged:
    """How the tasks of a coarser instance come from those of another one.

    A task consists of ``members``, which run in that order without a break on one machine. Its
    rows are those of its ``main`` member; every other member has a single row.
    """

    inst: Instance
    members: list[list[int]]
    main: Ints
    row: Ints

    def expand(self, plan: Plan) -> Plan:
        """The plan of the tasks that were merged."""
        inst = self.inst
        start, row, mach = (np.zeros(inst.n, dtype=np.int64) for _ in range(3))
        for k, members in enumerate(self.members):
            at = int(plan.start[k])
            for t in members:
                main = t == self.main[k]
                row[t] = self.row[plan.row[k]] if main else inst.row_ptr[t]
                start[t], mach[t] = at, plan.mach[k]
                at += int(inst.dur[row[t], mach[t]])
        return Plan(start, row, mach)

    def contract(self, plan: Plan, row_ptr: Ints) -> Plan:
        """The plan with every merged task where its main member is."""
        main = self.main
        row = row_ptr[:-1] + plan.row[main] - self.inst.row_ptr[main]
        return Plan(plan.start[main], row, plan.mach[main])


def plan_of(inst: Instance, schedule: WorkflowSchedule) -> Plan:
    """The plan of a complete schedule, times rounded to ticks."""
    if inst.merged is not None:
        plan = plan_of(inst.merged.inst, schedule)
        return inst.merged.contract(plan, inst.row_ptr)
    at = {p.task: p for p in schedule.tasks}
    start = np.zeros(inst.n, dtype=np.int64)
    row = np.zeros(inst.n, dtype=np.int64)
    mach = np.zeros(inst.n, dtype=np.int64)
    for name, t in inst.index.items():
        placed = at[name]
        start[t] = round(placed.start * float(inst.scale))
        row[t] = inst.row_ptr[t] + placed.option
        mach[t] = inst.machine_index[placed.machine]
    sent = {
        (s.file, inst.machine_index[s.target]): (
            round(s.start * float(inst.scale)),
            round(s.end * float(inst.scale)),
        )
        for s in schedule.transfers
    }
    return Plan(start, row, mach, sent if inst.problem.contention else None)


def schedule_of(inst: Instance, plan: Plan) -> WorkflowSchedule:
    """The schedule of a plan, with every transfer that it needs."""
    if inst.merged is not None:
        return schedule_of(inst.merged.inst, inst.merged.expand(plan))
    names = [mc.name for mc in inst.problem.machines]
    ends = plan.end(inst)
    starts_at, ends_at = inst.times(plan.start), inst.times(ends)
    options = inst.row_option[plan.row].tolist()
    machines = plan.mach.tolist()
    placements = tuple(
        _record(
            Placement,
            {
                "task": task.id,
                "machine": names[machines[t]],
                "option": options[t],
                "start": starts_at[t],
                "end": ends_at[t],
            },
        )
        for t, task in enumerate(inst.problem.tasks)
    )
    return WorkflowSchedule.model_construct(
        tasks=placements,
        transfers=tuple(_transfers(inst, plan, ends.tolist(), machines, names)),
        makespan=max(ends_at, default=0.0),
    )


def _record(kind: type[R], fields: dict[str, Any]) -> R:
    """A record from fields that are known to be valid: large schedules have 100,000 of them."""
    out = kind.__new__(kind)
    put = object.__setattr__
    put(out, "__dict__", fields)
    put(out, "__pydantic_fields_set__", _FIELDS[kind])
    put(out, "__pydantic_extra__", None)
    put(out, "__pydantic_private__", None)
    return out


_FIELDS: dict[type[Record], set[str]] = {
    Placement: set(Placement.model_fields),
    Transfer: set(Transfer.model_fields),
}


def needed_data(inst: Instance) -> list[tuple[int, str | None, int, list[tuple[str, float]]]]:
    """(producer or -1, home machine or None, consumer, [(file, bytes)]) of every data transfer."""
    if "needed" not in inst.cache:
        out: list[tuple[int, str | None, int, list[tuple[str, float]]]] = [
            (inst.index[u], None, inst.index[v], carried)
            for (u, v), carried in dependencies(inst.problem).items()
            if carried
        ]
        located: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
        for file in inst.problem.files:
            if file.producer is None and file.location is not None:
                for consumer in dict.fromkeys(file.consumers):
                    located[file.location, consumer].append((file.id, file.size))
        out += [(-1, home, inst.index[v], carried) for (home, v), carried in located.items()]
        inst.cache["needed"] = out
    needed: list[tuple[int, str | None, int, list[tuple[str, float]]]] = inst.cache["needed"]
    return needed


def _transfers(
    inst: Instance, plan: Plan, ends: list[int], machines: list[int], names: list[str]
) -> list[Transfer]:
    tasks = inst.problem.tasks
    sent: dict[tuple[str, int], tuple[int, int, str | None, int]] = {}
    for u, home_name, v, carried in needed_data(inst):
        home = machines[u] if home_name is None else inst.machine_index[home_name]
        target = machines[v]
        if home == target:
            continue
        producer = tasks[u].id if u >= 0 else None
        if plan.sent is not None:
            for file, _ in carried:
                begin, until = plan.sent[file, target]
                sent[file, target] = (begin, until, producer, home)
            continue
        # The files of one producer for one consumer follow each other, as their lag adds them up.
        k = int(inst.link[home, target])
        at = ends[u] if u >= 0 else 0
        begin, total = at, 0.0
        for file, size in carried:
            total += size
            until = at + round(total * float(inst.tpb[k]))
            arrival = until + int(inst.lat[k])
            known = sent.get((file, target))
            if known is None or arrival < known[1]:
                sent[file, target] = (begin, arrival, producer, home)
            begin = until
    keys = list(sent)
    begins = inst.times(np.array([sent[key][0] for key in keys], dtype=np.int64))
    untils = inst.times(np.array([sent[key][1] for key in keys], dtype=np.int64))
    return [
        _record(
            Transfer,
            {
                "file": file,
                "producer": sent[file, target][2],
                "source": names[sent[file, target][3]],
                "target": names[target],
                "start": begin,
                "end": until,
            },
        )
        for (file, target), begin, until in zip(keys, begins, untils, strict=True)
    ]
