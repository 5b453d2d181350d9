"""List schedulers: HEFT, PEFT, CPOP, lookahead, min-min, max-min, sufferage, deadline-aware.

All of them place tasks through the kernels, which know cores, memory, GPUs and breaks of machines.
Sources: HEFT and CPOP (Topcuoglu, Hariri, Wu 2002), PEFT (Arabnejad, Barbosa 2014), min-min,
max-min and sufferage (Maheswaran et al. 1999).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cpsched.core import jit
from cpsched.core.run import Run
from cpsched.families.workflow import kernels, kernels_paths, vectorised
from cpsched.families.workflow.extract import Plan, schedule_of
from cpsched.families.workflow.prepare import NEVER, Floats, Instance, Ints

#: Above this many tasks not even a first schedule is worth more than the deadline.
LARGE = 1000

#: Building and checking a schedule takes about so many seconds per task and edge.
SECONDS_OF_CHECK = 2.5e-5

#: Choosing one of the machines for a task takes about so many seconds in a kernel.
COMPILED, INTERPRETED = 2e-7, 2.2e-5


def seconds_of(inst: Instance, compiled: bool) -> float:
    """Estimated seconds of placing every task once."""
    if not compiled and is_vectorised(inst):
        return vectorised.seconds_of(inst)
    return inst.rows * inst.m * (COMPILED if compiled else INTERPRETED)


def is_vectorised(inst: Instance) -> bool:
    """Whether numpy makes the same plans as the interpreted kernel, but faster."""
    return inst.m > 1 and bool(inst.unit.all())


def least_durations(inst: Instance) -> Ints:
    """Least ticks per task and machine over its options; NEVER where it cannot run."""
    if "dmin" not in inst.cache:
        dur = np.where(inst.dur < 0, NEVER, inst.dur)
        starts = inst.row_ptr[:-1]
        inst.cache["dmin"] = np.minimum.reduceat(dur, starts, axis=0) if inst.n else dur
    dmin: Ints = inst.cache["dmin"]
    return dmin


def mean_durations(inst: Instance) -> Floats:
    """Mean ticks per task over the machines it can run on, with its option fastest on average."""
    if "mean" not in inst.cache:
        allowed = inst.dur >= 0
        total = np.where(allowed, inst.dur, 0).sum(axis=1, dtype=np.float64)
        count = allowed.sum(axis=1)
        rows = np.where(count > 0, total / np.maximum(1, count), np.inf)
        inst.cache["mean"] = np.minimum.reduceat(rows, inst.row_ptr[:-1]) if inst.n else rows
    mean: Floats = inst.cache["mean"]
    return mean


def mean_transfers(inst: Instance, sizes: Floats) -> Floats:
    """Mean ticks per edge between two different machines."""
    off = inst.link[inst.link >= 0]
    if len(off) == 0:
        return np.zeros(len(sizes))
    counts = np.bincount(off, minlength=len(inst.tpb)) / len(off)
    tpb, lat = float(counts @ inst.tpb), float(counts @ inst.lat)
    return np.where(sizes >= 0, sizes * tpb + lat, 0.0)


def upward_ranks(inst: Instance) -> Floats:
    """HEFT's upward ranks, rounded so that equal ranks stay equal."""
    comm = mean_transfers(inst, inst.succ_bytes)
    rank = kernels_paths.upward_ranks(
        inst.topo, inst.succ_ptr, inst.succ_dst, comm, mean_durations(inst)
    )
    return _rounded(rank)


def downward_ranks(inst: Instance) -> Floats:
    """Longest mean way from the beginning to the task, its own duration not included."""
    mean = mean_durations(inst)
    comm = mean_transfers(inst, inst.pred_bytes)
    reverse = kernels_paths.upward_ranks(
        inst.topo[::-1].copy(), inst.pred_ptr, inst.pred_src, comm, mean
    )
    return _rounded(reverse - mean)


def _rounded(rank: Any) -> Floats:
    top = float(rank.max()) if len(rank) else 0.0
    digits = 0 if top == 0 else 10 - int(np.ceil(np.log10(top)))
    out: Floats = np.round(rank, digits)
    return out


def by_rank(inst: Instance, rank: Floats) -> Ints:
    """Tasks by decreasing rank; precedence, then the index, breaks ties."""
    targets = np.repeat(np.arange(inst.n), np.diff(inst.pred_ptr))
    if bool(np.any(rank[targets] >= rank[inst.pred_src])):
        return ready_order(inst, [(0.0, -r) for r in rank.tolist()])
    return np.lexsort((np.arange(inst.n), -rank)).astype(np.int64)


def ready_order(inst: Instance, keys: list[tuple[float, float]]) -> Ints:
    """Repeatedly the task with the smallest key (then index) whose predecessors are out."""
    waiting = np.diff(inst.pred_ptr).tolist()
    ptr, dst = inst.succ_ptr.tolist(), inst.succ_dst.tolist()
    heap = [(keys[t], t) for t in range(inst.n) if waiting[t] == 0]
    heapq.heapify(heap)
    out = []
    while heap:
        _, t = heapq.heappop(heap)
        out.append(t)
        for other in dst[ptr[t] : ptr[t + 1]]:
            waiting[other] -= 1
            if waiting[other] == 0:
                heapq.heappush(heap, (keys[other], other))
    return np.array(out, dtype=np.int64)


def graph(inst: Instance) -> kernels.Graph:
    """The arrays of the instance as the kernels take them."""
    if "graph" not in inst.cache:
        given = inst.inputs is not None
        inputs = inst.inputs if given else np.zeros((1, 1), dtype=np.int64)
        arrays = {k: getattr(inst, k) for k in kernels.Graph._fields[:-2]}
        inst.cache["graph"] = kernels.Graph(**arrays, inputs=inputs, has_inputs=given)
    found: kernels.Graph = inst.cache["graph"]
    return found


def unused(inst: Instance, room: int) -> kernels.Use:
    """Machines in use at no time but their breaks, with ``room`` for further rows."""
    longest = max((len(b) for b in inst.blocked), default=0)
    rows = room + 2 * longest + 4
    use = kernels.Use(
        np.zeros((inst.m, rows), dtype=np.int64),
        np.zeros((inst.m, rows, 3), dtype=np.int64),
        np.ones(inst.m, dtype=np.int64),
    )
    for p, breaks in enumerate(inst.blocked):
        for begin, until in breaks:
            kernels.occupy(use, p, begin, until, 2**55, 0, 0)
    return use


def _rooms(inst: Instance) -> Iterator[kernels.Use]:
    """Empty machines with more room each time."""
    room = max(16, 8 * inst.n // max(1, inst.m))
    while True:
        yield unused(inst, room)
        room *= 2


def _blank(inst: Instance) -> tuple[kernels.Times, Ints, Ints]:
    start, end, cause, row, mach = (np.zeros(inst.n, dtype=np.int64) for _ in range(5))
    return kernels.Times(start, end, cause), row, mach


def list_plan(
    inst: Instance,
    order: Ints,
    *,
    fix_row: Ints | None = None,
    fix_mach: Ints | None = None,
    bias: Floats | None = None,
    check: Callable[[], object] | None = None,
) -> Plan | None:
    """Place the tasks in order where each ends first (plus bias); None when one has no place.

    ``check`` is called between chunks of tasks and may raise to stop.
    """
    free = np.full(inst.n, -1, dtype=np.int64)
    fix_row = free if fix_row is None else fix_row
    fix_mach = free if fix_mach is None else fix_mach
    bias = np.zeros((0, 0)) if bias is None else bias
    compiled = jit.slowdown("workflow") == 1.0
    if not compiled and is_vectorised(inst):
        return vectorised.list_plan(inst, order, fix_row, fix_mach, bias, check)
    chunk = max(1, int(0.02 * inst.n / max(1e-9, seconds_of(inst, compiled))))
    for use in _rooms(inst):
        times, row, mach = _blank(inst)
        for first in range(0, inst.n, chunk):
            if check is not None:
                check()
            part = order[first : first + chunk]
            placed = kernels.list_schedule(
                part, graph(inst), fix_row, fix_mach, bias, use, times, row, mach
            )
            if placed < 0:
                break
            if placed < len(part):
                return None
        else:
            return Plan(times.start, row, mach)
    return None


def appended(inst: Instance, check: Callable[[], object]) -> Plan | None:
    """HEFT without insertion, every task alone on its machine: quick without compiled kernels."""
    none, unbiased = np.full(inst.n, -1, dtype=np.int64), np.zeros((0, 0))
    order = by_rank(inst, upward_ranks(inst))
    return vectorised.list_plan(inst, order, none, none, unbiased, check, insert=False)


def dynamic_plan(inst: Instance, rule: int) -> Plan | None:
    """Min-min (0), max-min (1) or sufferage (2)."""
    for use in _rooms(inst):
        times, row, mach = _blank(inst)
        placed = kernels.dynamic_schedule(rule, graph(inst), use, times, row, mach)
        if placed >= 0:
            return Plan(times.start, row, mach) if placed == inst.n else None
    return None


def heft(inst: Instance, check: Callable[[], object] | None = None) -> Plan | None:
    """Heterogeneous earliest finish time, with insertion."""
    return list_plan(inst, by_rank(inst, upward_ranks(inst)), check=check)


def cpop(inst: Instance) -> Plan | None:
    """Critical path on a processor: the path's tasks go to the machine that runs them fastest."""
    up, down = upward_ranks(inst), downward_ranks(inst)
    priority = _rounded(up + down)
    fix = np.full(inst.n, -1, dtype=np.int64)
    path: list[int] = []
    at = int(np.argmax(np.where(np.diff(inst.pred_ptr) == 0, priority, -1.0)))
    while True:
        path.append(at)
        after = inst.succ_dst[inst.succ_ptr[at] : inst.succ_ptr[at + 1]]
        if len(after) == 0:
            break
        at = int(after[np.argmax(priority[after])])
    dmin = least_durations(inst)
    total = dmin[path].sum(axis=0)
    if total.min() < NEVER:
        fix[path] = int(np.argmin(total))
    order = ready_order(inst, [(0.0, -p) for p in priority.tolist()])
    return list_plan(inst, order, fix_mach=fix)


def peft(inst: Instance) -> Plan | None:
    """Predict earliest finish time: the optimistic cost of what follows joins the choice."""
    comm = mean_transfers(inst, inst.succ_bytes)
    dmin = least_durations(inst)
    table = kernels_paths.optimistic_costs(inst.topo, inst.succ_ptr, inst.succ_dst, comm, dmin)
    rank = _rounded(table.mean(axis=1))
    order = ready_order(inst, [(0.0, -r) for r in rank.tolist()])
    return list_plan(inst, order, bias=table)


def lookahead(inst: Instance) -> Plan | None:
    """HEFT's order with PEFT's choice: places tasks with a view to what follows them."""
    comm = mean_transfers(inst, inst.succ_bytes)
    dmin = least_durations(inst)
    table = kernels_paths.optimistic_costs(inst.topo, inst.succ_ptr, inst.succ_dst, comm, dmin)
    return list_plan(inst, by_rank(inst, upward_ranks(inst)), bias=table)


def latest_start(inst: Instance) -> Plan | None:
    """Deadline-aware: tasks by latest start, demanding ones (memory, GPUs, cores) before others."""
    dmin = least_durations(inst).min(axis=1)
    latest = inst.deadline.astype(np.float64)
    if not np.any(inst.deadline < NEVER):
        latest[:] = float(dmin.sum())
    for t in inst.topo[::-1].tolist():
        after = inst.succ_dst[inst.succ_ptr[t] : inst.succ_ptr[t + 1]]
        if len(after):
            latest[t] = min(latest[t], (latest[after] - dmin[after]).min())
    need = np.maximum.reduceat(
        (inst.demand / np.maximum(1, inst.cap.max(axis=0))).max(axis=1), inst.row_ptr[:-1]
    )
    keys = list(zip((latest - dmin).tolist(), (-need).tolist(), strict=True))
    return list_plan(inst, ready_order(inst, keys))


def offer(run: Run, inst: Instance, plan: Plan | None, source: str) -> bool:
    """Offer a heuristic's plan; one that breaks a limit the heuristic does not know is dropped."""
    if plan is None or bool(np.any(plan.end(inst) > inst.deadline)):
        return False
    seconds = SECONDS_OF_CHECK * (inst.n + len(inst.pred_src))
    late = run.clock.elapsed() + seconds > run.clock.limit + 0.1
    if inst.n > LARGE and late and not run.deterministic:
        return False
    plain = len(run.objectives) == 1 and run.objectives[0].name == "makespan"
    values = (inst.time(plan.makespan(inst)),) if plain else None
    if values is not None and run.incumbent is not None and values >= run.incumbent.values:
        return False
    schedule = schedule_of(inst, plan)
    if not inst.cache.get("plain") and run.family.check(run.problem, schedule):
        return False
    return run.offer(schedule, source, values)


def is_compiled(inst: Instance, run: Run) -> bool:
    """Whether kernels run compiled; small instances do not wait for the compiled code to load."""
    plain = [o.name for o in run.objectives] == ["makespan"]
    return inst.rows * inst.m > (100 if plain else 3000) and jit.ready(
        run.clock.remaining(), "workflow"
    )


def portfolio(inst: Instance, run: Run) -> None:
    """Offer the list schedulers' plans, HEFT first, costly ones only where they are affordable."""
    clock = run.clock
    compiled = is_compiled(inst, run)
    size = seconds_of(inst, compiled)
    kernel = inst.rows * inst.m * (COMPILED if compiled else INTERPRETED)

    large = inst.n > LARGE
    best: tuple[int, Plan, str] | None = None

    def attempt(
        name: str, make: Callable[[], Plan | None], seconds: float, share: float = 0.15
    ) -> None:
        nonlocal best
        if run.incumbent is None and (not large or name == "heft"):
            # HEFT is tried in any case, and a small instance gets a schedule when time is over.
            if run.done() and large:
                return
        elif run.done() or seconds > (1.0 if run.incumbent is None else share) * clock.remaining():
            return
        clock.spend(seconds)
        plan = make()
        if not large or run.incumbent is None:
            offer(run, inst, plan, f"greedy:{name}")
        elif plan is not None:
            # Checking a large plan takes longer than making it: only the best one is offered.
            value = plan.makespan(inst)
            if best is None or value < best[0]:
                best = (value, plan, f"greedy:{name}")

    quick = vectorised.seconds_of(inst, insert=False)
    if not compiled and large and size > max(2 * quick, 0.15 * clock.remaining()):
        attempt("appended", lambda: appended(inst, clock.check), quick)
    hurry = large or run.incumbent is not None
    attempt("heft", lambda: heft(inst, clock.check if hurry else None), size, 0.5)
    ready = min(inst.n, 2000)
    attempt("peft", lambda: peft(inst), size + kernel)
    attempt("cpop", lambda: cpop(inst), size)
    attempt("lookahead", lambda: lookahead(inst), size + kernel)
    attempt("latest-start", lambda: latest_start(inst), 1.5 * size)
    priority = [t.priority for t in inst.problem.tasks]
    if any(priority):
        keys = list(zip([-p for p in priority], (-upward_ranks(inst)).tolist(), strict=True))
        attempt("priority", lambda: list_plan(inst, ready_order(inst, keys)), size)
    for rule, name in enumerate(("min-min", "max-min", "sufferage")):
        attempt(
            name,
            lambda rule=rule: dynamic_plan(inst, rule),  # type: ignore[misc]
            kernel * ready / 20,
        )
    if best is not None:
        offer(run, inst, best[1], best[2])
