"""Heuristics for what list scheduling by finish time does not see: money, chances, links, storage.

Each strategy fixes the option (and perhaps the machine) of every task by one criterion, then the
list scheduler places them. Plans that break a budget or limit are dropped by the checker.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

import numpy as np

from cpsched.core.run import Run
from cpsched.families.workflow import greedy, kernels, terms
from cpsched.families.workflow.extract import Plan, needed_data, order_of
from cpsched.families.workflow.prepare import NEVER, Floats, Instance, Ints
from cpsched.families.workflow.problem import Option


def rich_portfolio(inst: Instance, run: Run) -> None:
    """Offer plans of every strategy while time remains."""
    seconds = greedy.seconds_of(inst, greedy.is_compiled(inst, run))
    large = inst.rows * inst.m > 20_000
    if large and run.incumbent is not None and seconds > 0.3 * run.clock.remaining():
        return
    order = greedy.by_rank(inst, greedy.upward_ranks(inst))
    check = run.clock.check if large else None
    for name, row, mach in _strategies(inst):
        # Small problems get a schedule also when the time is over already.
        if run.clock.expired() and (run.incumbent is not None or large):
            return
        run.clock.spend(seconds)
        plan = greedy.list_plan(inst, order, fix_row=row, fix_mach=mach, check=check)
        if plan is not None and inst.problem.contention:
            plan = with_links(inst, order_of(inst, plan), plan.row, plan.mach)
        greedy.offer(run, inst, plan, f"greedy:{name}")
        if large and seconds > 0.3 * run.clock.remaining():
            return


def _strategies(inst: Instance) -> Iterator[tuple[str, Ints | None, Ints | None]]:
    yield "heft", None, None
    problem = inst.problem
    options = [
        problem.tasks[t].choices[k]
        for t, k in zip(inst.row_task.tolist(), inst.row_option.tolist(), strict=True)
    ]
    for name in ("cost", "energy", "carbon", "tokens"):
        row, mach = _cheapest(inst, _spend(inst, options, name))
        yield name, row, None
        yield f"{name}-placed", row, mach
    if any(o.success < 1 for o in options):
        unlikely = np.array([-terms.log_success(o) for o in options])
        row, mach = _cheapest(inst, np.repeat(unlikely[:, None], inst.m, axis=1))
        yield "success", row, None
        yield "success-placed", row, mach
    if inst.m <= 64:
        for p in range(inst.m):
            if bool((greedy.least_durations(inst)[:, p] < NEVER).all()):
                yield f"only-{problem.machines[p].name}", None, np.full(inst.n, p, dtype=np.int64)


def _spend(inst: Instance, options: Sequence[Option], resource: str) -> Floats:
    """What each row spends of a resource per machine, at the first of its rates."""
    own = [0.0 if resource == "carbon" else terms.own_use(o, resource) for o in options]
    out = np.repeat(np.array(own)[:, None], inst.m, axis=1)
    for p, machine in enumerate(inst.problem.machines):
        rate = terms.rate_steps(machine, resource)[0][1]
        if rate > 0:
            share = np.array([terms.share(o, machine) for o in options])
            out[:, p] += rate * share * inst.dur[:, p] / float(inst.scale)
    return out


def _cheapest(inst: Instance, value: Floats) -> tuple[Ints, Ints]:
    """Row and machine of the least value per task; of equals the fastest, then the first."""
    rows, machines = np.nonzero(inst.dur >= 0)
    owner = inst.row_task[rows]
    order = np.lexsort((machines, rows, inst.dur[rows, machines], value[rows, machines], owner))
    _, first = np.unique(owner[order], return_index=True)
    best = order[first]
    return rows[best], machines[best]


def with_links(inst: Instance, order: Ints, row: Ints, mach: Ints) -> Plan | None:
    """Tasks in order with fixed choices, every transfer alone on its link in the first gap."""
    needs: dict[int, list[tuple[int, int, list[tuple[str, float]]]]] = {}
    for u, home, t, carried in needed_data(inst):
        source = int(mach[u]) if home is None else inst.machine_index[home]
        needs.setdefault(t, []).append((u, source, carried))
    busy: dict[tuple[int, int], list[tuple[int, int]]] = {}
    sent: dict[tuple[str, int], tuple[int, int]] = {}
    g, use = greedy.graph(inst), greedy.unused(inst, 2 * inst.n + 8)
    start = np.zeros(inst.n, dtype=np.int64)
    end = np.zeros(inst.n, dtype=np.int64)
    for t in order.tolist():
        p, r = int(mach[t]), int(row[t])
        ready = int(inst.release[t])
        for e in range(int(inst.pred_ptr[t]), int(inst.pred_ptr[t + 1])):
            ready = max(ready, int(end[inst.pred_src[e]]))
        for u, source, carried in needs.get(t, ()):
            if source == p:
                continue
            for file, size in carried:
                if (file, p) not in sent:
                    lag = inst.lag(size, source, p)
                    since = int(end[u]) if u >= 0 else 0
                    sent[file, p] = _gap(busy.setdefault((source, p), []), since, lag)
                ready = max(ready, sent[file, p][1])
        at = kernels.earliest(g, use, r, p, ready)
        if at >= NEVER or not kernels.book(g, use, r, p, at):
            return None
        start[t], end[t] = at, at + int(inst.dur[r, p])
    return Plan(start, row.copy(), mach.copy(), sent)


def _gap(busy: list[tuple[int, int]], since: int, length: int) -> tuple[int, int]:
    """The first free interval of a link from a time on; it is booked."""
    at = since
    if length > 0:
        for begin, until in busy:
            if begin >= at + length:
                break
            at = max(at, until)
        bisect.insort(busy, (at, at + length))
    return at, at + length
