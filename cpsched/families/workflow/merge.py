"""What need not be searched: tasks that go with others, identical siblings, dominated options.

Merging is exact for tasks that take no time: one with a single predecessor may run with it when it
hands on no more data than it reads, one with a single successor when it reads no more than it hands
on. Merging other chains is a heuristic: it gives a start for the search on the original tasks.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpsched.families.workflow import terms
from cpsched.families.workflow.extract import Merged, Plan
from cpsched.families.workflow.prepare import NEVER, Floats, Instance, csr, topological


def without_idle_tasks(inst: Instance) -> Instance:
    """An equivalent instance in which tasks of no duration run with a neighbour where they can.

    Only for problems in which nothing but the makespan and deadlines counts.
    """
    idle = np.array([_takes_no_time(inst, t) for t in range(inst.n)], dtype=np.bool_)
    if not idle.any() or not inst.uniform:
        return inst
    groups = _Groups(inst)
    for t in inst.topo.tolist():
        if idle[t] and not groups.join_predecessor(t):
            groups.join_successor(t)
    return groups.instance()


def without_chains(inst: Instance) -> Instance:
    """A coarser instance: chains of tasks that could share a machine as one task each."""
    groups = _Groups(inst)
    for t in inst.topo.tolist():
        groups.join_chain(t)
    return groups.instance()


def siblings(inst: Instance) -> list[list[int]]:
    """Groups of tasks that differ in nothing but their name (as far as the makespan goes)."""
    found: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for t in range(inst.n):
        before = slice(int(inst.pred_ptr[t]), int(inst.pred_ptr[t + 1]))
        after = slice(int(inst.succ_ptr[t]), int(inst.succ_ptr[t + 1]))
        rows = slice(int(inst.row_ptr[t]), int(inst.row_ptr[t + 1]))
        key = (
            inst.dur[rows].tobytes(),
            inst.demand[rows].tobytes(),
            int(inst.release[t]),
            int(inst.deadline[t]),
            b"" if inst.inputs is None else inst.inputs[t].tobytes(),
            frozenset(
                zip(inst.pred_src[before].tolist(), inst.pred_bytes[before].tolist(), strict=True)
            ),
            frozenset(
                zip(inst.succ_dst[after].tolist(), inst.succ_bytes[after].tolist(), strict=True)
            ),
        )
        found[key].append(t)
    return [group for group in found.values() if len(group) > 1]


def sorted_siblings(inst: Instance, groups: list[list[int]], plan: Plan) -> Plan:
    """The plan with identical siblings exchanged such that the first ones start first."""
    out = Plan(plan.start.copy(), plan.row.copy(), plan.mach.copy(), plan.sent)
    option = plan.row - inst.row_ptr[:-1]
    for group in groups:
        order = sorted(group, key=lambda t: (plan.start[t], t))
        out.start[group], out.mach[group] = plan.start[order], plan.mach[order]
        out.row[group] = inst.row_ptr[group] + option[order]
    return out


def dominators(inst: Instance) -> dict[int, int]:
    """Rows that need not be used, each with one of the same task that is as good in every way.

    The better row takes no more time, resources, money, energy and tokens, and succeeds as often.
    It can replace the other one in any schedule, ending when that one ended.
    """
    if inst.rows == inst.n:
        return {}
    if "dominators" not in inst.cache:
        found: dict[int, int] = {}
        for t in range(inst.n):
            rows = inst.rows_of(t)
            if len(rows) > 1:
                burden = np.array([_burden(inst, r) for r in rows])
                least = (burden[:, None, :] <= burden[None, :, :]).all(axis=2)
                # Of equal rows the first one stays.
                before = np.tri(len(rows), k=-1, dtype=np.bool_).T
                better = least & (~least.T | before)
                best = ~better.any(axis=0)
                for k in np.flatnonzero(~best).tolist():
                    found[rows[k]] = rows[int(np.argmax(better[:, k] & best))]
        inst.cache["dominators"] = found
    out: dict[int, int] = inst.cache["dominators"]
    return out


def _burden(inst: Instance, row: int) -> Floats:
    option = inst.problem.tasks[int(inst.row_task[row])].choices[int(inst.row_option[row])]
    own = [terms.own_use(option, name) for name in ("cost", "energy", "tokens")]
    needs = np.zeros(3) if bool(inst.unit.all()) else inst.demand[row].astype(np.float64)
    lengths = np.where(inst.dur[row] < 0, np.inf, inst.dur[row].astype(np.float64))
    fate = [terms.expected_part(option), -terms.log_success(option)]
    return np.concatenate([lengths, needs, own, fate])


def undominated(inst: Instance, plan: Plan) -> Plan:
    """The plan with every dominated row replaced, the ends of the tasks unchanged."""
    better = dominators(inst)
    if not better:
        return plan
    end = plan.end(inst)
    row = np.array([better.get(r, r) for r in plan.row.tolist()], dtype=np.int64)
    return Plan(end - inst.dur[row, plan.mach], row, plan.mach, plan.sent)


def _takes_no_time(inst: Instance, t: int) -> bool:
    rows = inst.rows_of(t)
    return (
        len(rows) == 1
        and int(inst.dur[rows[0]].max()) == 0
        and not inst.conditional[t]
        and (inst.inputs is None or not inst.inputs[t].any())
    )


@dataclass
class _Group:
    members: list[int]
    main: int
    machines: NDArray[np.bool_]
    release: int
    deadline: int


class _Groups:
    """A partition of the tasks into groups, grown one join at a time."""

    def __init__(self, inst: Instance) -> None:
        self.inst = inst
        self.of = list(range(inst.n))
        self.groups: dict[int, _Group] = {
            t: _Group(
                [t],
                t,
                np.any(inst.dur[inst.row_ptr[t] : inst.row_ptr[t + 1]] >= 0, axis=0),
                int(inst.release[t]),
                int(inst.deadline[t]),
            )
            for t in range(inst.n)
        }
        #: Whether the end of the task is that of its group.
        self.last = [True] * inst.n

    def _edges(self, t: int, forward: bool) -> list[tuple[int, float]]:
        i = self.inst
        if forward:
            a, b = int(i.succ_ptr[t]), int(i.succ_ptr[t + 1])
            return list(zip(i.succ_dst[a:b].tolist(), i.succ_bytes[a:b].tolist(), strict=True))
        a, b = int(i.pred_ptr[t]), int(i.pred_ptr[t + 1])
        return list(zip(i.pred_src[a:b].tolist(), i.pred_bytes[a:b].tolist(), strict=True))

    def join_predecessor(self, t: int) -> bool:
        """Let an idle task end with its only predecessor, where that loses nothing."""
        before = self._edges(t, False)
        into = {self.of[u] for u, _ in before}
        if len(into) != 1 or not all(self.last[u] for u, _ in before):
            return False
        group = self.groups[into.pop()]
        read = max(size for _, size in before)
        if any(size > read for _, size in self._edges(t, True)):
            return False
        mine = self.groups[t]
        if len(mine.members) > 1 or mine.release > group.release:
            return False
        if bool((group.machines & ~mine.machines).any()):
            return False
        group.members.append(t)
        group.deadline = min(group.deadline, mine.deadline)
        self.of[t] = group.main
        del self.groups[t]
        return True

    def join_successor(self, t: int) -> bool:
        """Let an idle task start with its only successor, where that loses nothing."""
        after = self._edges(t, True)
        mine = self.groups.get(t)
        if len(after) != 1 or mine is None or len(mine.members) > 1:
            return False
        s, handed = after[0]
        group = self.groups.get(s)
        if group is None or any(size > handed for _, size in self._edges(t, False)):
            return False
        if mine.deadline < group.deadline or bool((group.machines & ~mine.machines).any()):
            return False
        group.members.insert(0, t)
        group.release = max(group.release, mine.release)
        self.of[t] = s
        self.last[t] = False
        del self.groups[t]
        return True

    def join_chain(self, t: int) -> bool:
        """Let a task follow its only predecessor, whose only successor it is."""
        before = self._edges(t, False)
        if len(before) != 1 or len(self.inst.rows_of(t)) != 1 or self.inst.conditional[t]:
            return False
        u = before[0][0]
        group, mine = self.groups[self.of[u]], self.groups[t]
        alone = len(self._edges(u, True)) == 1 and len(self.inst.rows_of(u)) == 1
        if not alone or not bool((group.machines == mine.machines).all()):
            return False
        if mine.release > group.release or self.inst.conditional[u]:
            return False
        group.members.append(t)
        group.deadline = min(group.deadline, mine.deadline)
        self.of[t] = group.main
        self.last[u] = False
        del self.groups[t]
        return True

    def instance(self) -> Instance:
        """The instance whose tasks are the groups."""
        inst = self.inst
        if len(self.groups) == inst.n:
            return inst
        listed = list(self.groups.values())
        number = {g.main: k for k, g in enumerate(listed)}
        rows: list[int] = []
        dur, demand = [], []
        row_ptr = np.zeros(len(listed) + 1, dtype=np.int64)
        for k, group in enumerate(listed):
            others = [int(inst.row_ptr[t]) for t in group.members if t != group.main]
            for r in inst.rows_of(group.main):
                lengths = inst.dur[[r, *others]]
                rows.append(r)
                dur.append(np.where((lengths < 0).any(axis=0), -1, lengths.sum(axis=0)))
                busy = [q for q in others if inst.dur[q].max() > 0]
                demand.append(inst.demand[[r, *busy]].max(axis=0))
            row_ptr[k + 1] = len(rows)
        data: dict[tuple[int, int], float] = {}
        for t in range(inst.n):
            for u, size in self._edges(t, False):
                pair = (number[self.of[u]], number[self.of[t]])
                if pair[0] != pair[1]:
                    data[pair] = max(size, data.get(pair, -1.0))
        src = np.array([u for u, _ in data], dtype=np.int64)
        dst = np.array([v for _, v in data], dtype=np.int64)
        sizes = np.array(list(data.values()), dtype=np.float64)
        n = len(listed)
        pred_ptr, by_target = csr(dst, n)
        succ_ptr, by_source = csr(src, n)
        mains = np.array([g.main for g in listed], dtype=np.int64)
        inputs = None
        if inst.inputs is not None:
            inputs = np.array([inst.inputs[g.members].max(axis=0) for g in listed])
        members = [g.members for g in listed]
        merged = Merged(inst, members, mains, np.array(rows, dtype=np.int64))
        names = ("plain", "area_rows")
        kept: dict[str, Any] = {k: inst.cache[k] for k in names if k in inst.cache}
        return dataclasses.replace(
            inst,
            n=n,
            row_ptr=row_ptr,
            row_task=np.repeat(np.arange(n, dtype=np.int64), np.diff(row_ptr)),
            row_option=inst.row_option[rows],
            dur=np.array(dur, dtype=np.int64),
            demand=np.array(demand, dtype=np.int64),
            release=np.array([g.release for g in listed], dtype=np.int64),
            deadline=np.array([min(NEVER, g.deadline) for g in listed], dtype=np.int64),
            pred_ptr=pred_ptr,
            pred_src=src[by_target],
            pred_bytes=sizes[by_target],
            succ_ptr=succ_ptr,
            succ_dst=dst[by_source],
            succ_bytes=sizes[by_source],
            topo=topological(n, pred_ptr, succ_ptr, dst[by_source]),
            inputs=inputs,
            conditional=inst.conditional[mains],
            merged=merged,
            cache=kept,
        )
