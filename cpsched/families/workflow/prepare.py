"""A workflow problem as arrays: tasks, options and machines by index, times in integer ticks.

A tick divides every time exactly where a common unit exists that leaves 64-bit arithmetic; else
times are rounded down to about sixteen digits, far below the checker's tolerance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpsched.errors import ProblemError
from cpsched.families.workflow import terms
from cpsched.families.workflow.consistent import Fitting, dependencies
from cpsched.families.workflow.problem import Machine, Option, Task, WorkflowProblem
from cpsched.families.workflow.terms import exact

if TYPE_CHECKING:
    from cpsched.families.workflow.extract import Merged

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Later than any time of a schedule, and still safe to add up.
NEVER = 2**60
#: Ticks that the longest conceivable schedule may have.
LONGEST = 2**57


@dataclass(frozen=True)
class Instance:
    """Index-based workflow problem.

    Rows are (task, option) pairs: those of task ``t`` are ``row_ptr[t] .. row_ptr[t + 1] - 1``, in
    the order of its options. Edges are dependent task pairs; CSR arrays list them by target
    (``pred_*``) and by source (``succ_*``).

    Attributes
    ----------
    scale
        Ticks per time unit.
    exact
        Whether every time of the input is a whole number of ticks.
    dur
        Ticks per row and machine, -1 where it cannot run.
    demand, cap
        Cores (thousandths), memory and GPUs of rows and machines; a unit machine has capacity 1
        and every row takes 1 there.
    link
        Class of the connection per machine pair, -1 on the diagonal; a transfer of ``bytes`` takes
        ``rint(bytes * tpb[class]) + lat[class]`` ticks.
    pred_bytes
        Bytes per edge, -1 for a precedence without data.
    inputs
        Earliest start per task and machine because of files that lie elsewhere; None without.
    blocked
        Per machine the times it is not available, sorted.
    conditional
        Whether a task belongs to a branch.
    merged
        Of which tasks of the problem the tasks of this instance consist; None for one each.
    """

    problem: WorkflowProblem
    n: int
    m: int
    scale: Fraction
    exact: bool
    row_ptr: Ints
    row_task: Ints
    row_option: Ints
    dur: Ints
    demand: Ints
    cap: Ints
    unit: NDArray[np.bool_]
    release: Ints
    deadline: Ints
    pred_ptr: Ints
    pred_src: Ints
    pred_bytes: Floats
    succ_ptr: Ints
    succ_dst: Ints
    succ_bytes: Floats
    topo: Ints
    link: Ints
    tpb: Floats
    lat: Ints
    inputs: Ints | None
    blocked: tuple[tuple[tuple[int, int], ...], ...]
    conditional: NDArray[np.bool_]
    index: dict[str, int]
    machine_index: dict[str, int]
    merged: Merged | None = None
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of (task, option) rows."""
        return len(self.row_task)

    def rows_of(self, task: int) -> range:
        """Rows of a task."""
        return range(int(self.row_ptr[task]), int(self.row_ptr[task + 1]))

    def lag(self, size: float, source: int, target: int) -> int:
        """Ticks of a transfer of ``size`` bytes between two machines; 0 without data."""
        k = int(self.link[source, target])
        if size < 0 or k < 0:
            return 0
        return round(size * float(self.tpb[k])) + int(self.lat[k])

    def ticks(self, time: float) -> int:
        """A time of the problem in ticks, rounded down."""
        return math.floor(exact(time) * self.scale)

    def time(self, ticks: int) -> float:
        """Ticks as a time of the problem."""
        return float(Fraction(int(ticks)) / self.scale)

    def times(self, ticks: Ints) -> list[float]:
        """Many ticks as times, each correctly rounded."""
        p, q = self.scale.numerator, self.scale.denominator
        if p < 2**53 and q < 2**53 and (len(ticks) == 0 or int(ticks.max()) * q < 2**53):
            # One division of two exactly represented integers is correctly rounded.
            out: list[float] = (ticks.astype(np.float64) * q / p).tolist()
            return out
        return [self.time(t) for t in ticks.tolist()]

    @property
    def uniform(self) -> bool:
        """Whether all machine pairs are connected alike."""
        return len(self.tpb) <= 1

    @property
    def communicates(self) -> bool:
        """Whether any transfer between machines takes time."""
        if not np.any(self.pred_bytes >= 0):
            return False
        return bool(np.any(self.tpb > 0) or np.any(self.lat > 0))


def prepare(problem: WorkflowProblem, check: Callable[[], object] = lambda: None) -> Instance:
    """Arrays of a problem; raises `ProblemError` when its times leave exact arithmetic.

    ``check`` is called now and then, and may raise to stop.
    """
    machines = problem.machines
    tasks = problem.tasks
    n, m = len(tasks), len(machines)
    index = {t.id: i for i, t in enumerate(tasks)}
    options = [o for t in tasks for o in t.choices]
    row_ptr = np.zeros(n + 1, dtype=np.int64)
    np.cumsum([len(t.choices) for t in tasks], out=row_ptr[1:])
    row_task = np.repeat(np.arange(n, dtype=np.int64), np.diff(row_ptr))
    row_option = np.arange(len(options), dtype=np.int64) - row_ptr[row_task]
    needs = dependencies(problem)
    check()
    allowed = _allowed(problem, [tasks[t] for t in row_task.tolist()], options)
    check()
    link, rates = _links(problem)
    data = {k: math.fsum(s for _, s in v) if v else -1.0 for k, v in needs.items()}
    check()
    scale, is_exact = _tick(problem, options, data, rates, check)
    dur = _durations(options, machines, allowed, scale, check)
    unit = np.array([mc.cores is None for mc in machines], dtype=np.bool_)
    demand, cap = _resources(options, machines)
    flows = {w.id: w for w in problem.workflows}

    def ticks(time: float) -> int:
        return math.floor(exact(time) * scale)

    release = np.zeros(n, dtype=np.int64)
    deadline = np.full(n, NEVER, dtype=np.int64)
    overall = None if problem.deadline is None else ticks(problem.deadline)
    for bound in [problem.limits.get("makespan")]:
        if bound is not None:
            overall = ticks(bound) if overall is None else min(overall, ticks(bound))
    check()
    for i, task in enumerate(tasks):
        flow = flows.get(task.workflow or "")
        release[i] = ticks(max(task.release, flow.release if flow else 0.0))
        for due in (task.deadline, flow.deadline if flow else None):
            if due is not None:
                deadline[i] = min(deadline[i], ticks(due))
        if overall is not None:
            deadline[i] = min(deadline[i], overall)
    if problem.fair_share is not None:
        fair = terms.fair_finishes(problem)
        for (_, owned), finish in zip(terms.members(problem), fair, strict=True):
            # A little later than the float says: the checker's tolerance covers it.
            latest = ticks((finish + problem.fair_share) * (1 + 1e-10))
            for task in owned:
                i = index[task.id]
                deadline[i] = min(deadline[i], latest)
    check()
    src = np.array([index[u] for u, _ in data], dtype=np.int64)
    dst = np.array([index[v] for _, v in data], dtype=np.int64)
    size = np.array(list(data.values()), dtype=np.float64)
    pred_ptr, by_target = csr(dst, n)
    succ_ptr, by_source = csr(src, n)
    tpb = np.array(
        [0.0 if bw is None else float(scale / exact(bw)) for bw, _ in rates], dtype=np.float64
    )
    lat = np.array([ticks(latency) for _, latency in rates], dtype=np.int64)
    conditional = np.zeros(n, dtype=np.bool_)
    for name in terms.alternatives(problem):
        conditional[index[name]] = True
    machine_index = {mc.name: k for k, mc in enumerate(machines)}
    return Instance(
        problem=problem,
        n=n,
        m=m,
        scale=scale,
        exact=is_exact,
        row_ptr=row_ptr,
        row_task=row_task,
        row_option=row_option,
        dur=dur,
        demand=demand,
        cap=cap,
        unit=unit,
        release=release,
        deadline=deadline,
        pred_ptr=pred_ptr,
        pred_src=src[by_target],
        pred_bytes=size[by_target],
        succ_ptr=succ_ptr,
        succ_dst=dst[by_source],
        succ_bytes=size[by_source],
        topo=topological(n, pred_ptr, succ_ptr, dst[by_source]),
        link=link,
        tpb=tpb,
        lat=lat,
        inputs=_inputs(problem, index, machine_index, link, tpb, lat),
        blocked=tuple(_blocked(mc, ticks) for mc in machines),
        conditional=conditional,
        index=index,
        machine_index=machine_index,
    )


def _allowed(
    problem: WorkflowProblem, owners: Sequence[Task], options: Sequence[Option]
) -> NDArray[np.bool_]:
    fitting = Fitting(problem)
    masks: dict[int, list[bool]] = {}
    out = []
    for task, option in zip(owners, options, strict=True):
        machines = fitting.machines(task, option)
        mask = masks.get(id(machines))
        if mask is None:
            names = {mc.name for mc in machines}
            mask = masks[id(machines)] = [mc.name in names for mc in problem.machines]
        out.append(mask)
    return np.array(out, dtype=np.bool_).reshape(len(out), len(problem.machines))


def _links(problem: WorkflowProblem) -> tuple[Ints, list[tuple[float | None, float]]]:
    m = len(problem.machines)
    position = {mc.name: k for k, mc in enumerate(problem.machines)}
    classes: dict[tuple[float | None, float], int] = {}
    link = np.zeros((m, m), dtype=np.int64)
    special = terms.link_rates(problem)
    default = (problem.bandwidth, problem.latency)
    pairs = {(position[a], position[b]): rate for (a, b), rate in special.items() if a != b}
    if len(pairs) < m * (m - 1):
        classes[default] = 0
    for pair, rate in pairs.items():
        link[pair] = classes.setdefault(rate, len(classes))
    np.fill_diagonal(link, -1)
    return link, list(classes) or [default]


def _tick(
    problem: WorkflowProblem,
    options: Sequence[Option],
    data: dict[tuple[str, str], float],
    rates: Sequence[tuple[float | None, float]],
    check: Callable[[], object],
) -> tuple[Fraction, bool]:
    """Ticks per time unit, and whether every time is a whole number of them."""
    parts: set[Fraction] = set()
    works: set[Fraction] = set()
    for first in range(0, len(options), 10_000):
        check()
        works |= {exact(o.work) for o in options[first : first + 10_000] if o.work is not None}
    common = _common(works)
    speeds = {exact(mc.speed) for mc in problem.machines}
    parts.update(Fraction(1, 1) / (common * s) for s in speeds if works)
    longest: Fraction = max(works, default=Fraction(0)) / min(speeds)
    for option in options:
        if option.durations is not None:
            parts.update(exact(d) for d in option.durations.values())
            longest = max(longest, exact(max(option.durations.values(), default=0.0)))
    longest *= max((o.retries for o in options), default=0) + 1
    times = [problem.latency, *(latency for _, latency in rates)]
    for task in problem.tasks:
        times += [t for t in (task.release, task.deadline, task.due) if t is not None]
    for flow in problem.workflows:
        times += [t for t in (flow.release, flow.deadline, flow.due) if t is not None]
    for machine in problem.machines:
        times += [t for w in machine.windows for t in (w.start, w.end)]
        times += [s.start for s in (*machine.prices, *machine.carbon)]
        times.append(machine.billing_quantum)
    if problem.deadline is not None:
        times.append(problem.deadline)
    if "makespan" in problem.limits:
        times.append(problem.limits["makespan"])
    parts.update(exact(t) for t in times)
    check()
    sizes = {exact(s) for s in data.values() if s > 0}
    sizes |= {exact(f.size) for f in problem.files if f.producer is None and f.location}
    bandwidths = {exact(bw) for bw, _ in rates if bw is not None}
    unit = _common(sizes)
    parts.update(Fraction(1, 1) / (unit * bw) for bw in bandwidths if sizes)
    slowest: Fraction = max(sizes, default=Fraction(0)) / min(bandwidths, default=Fraction(1))
    total: Fraction = longest * len(problem.tasks)
    total += max(map(exact, times), default=Fraction(0))
    total += (slowest + max((exact(t) for _, t in rates), default=Fraction(0))) * (
        len(problem.tasks) + 1
    )
    if total > Fraction(10) ** 18:
        raise ProblemError(
            "times must not add up to more than 1e18",
            place="tasks",
            value=float(total),
            remedy="Use a larger time unit.",
        )
    lcm = _common(parts)
    if lcm * max(total, Fraction(1)) <= LONGEST:
        return lcm, True
    doublings = math.floor(math.log2(LONGEST) - math.log2(max(float(total), 1e-18)))
    return Fraction(2) ** doublings, False


def _common(values: Iterable[Fraction]) -> Fraction:
    """Least common denominator of the values (cut off where it leaves exact arithmetic)."""
    out = 1
    for value in values:
        out = math.lcm(out, value.denominator)
        if out > 2**80:
            break
    return Fraction(out)


def _durations(
    options: Sequence[Option],
    machines: Sequence[Machine],
    allowed: NDArray[np.bool_],
    scale: Fraction,
    check: Callable[[], object],
) -> Ints:
    dur = np.full(allowed.shape, -1, dtype=np.int64)
    inverse = [scale / exact(mc.speed) for mc in machines]
    columns: dict[Fraction, list[int]] = defaultdict(list)
    for k, factor in enumerate(inverse):
        columns[factor].append(k)
    works: list[Fraction | None] = []
    for first in range(0, len(options), 10_000):
        check()
        works += [
            exact(o.work) * (o.retries + 1) if o.work is not None else None
            for o in options[first : first + 10_000]
        ]
    given = np.array([w is not None for w in works], dtype=np.bool_)
    for factor, members in columns.items():
        check()
        column = np.array([0 if w is None else _floor(w, factor) for w in works], dtype=np.int64)
        for k in members:
            dur[:, k] = np.where(allowed[:, k] & given, column, -1)
    for r in np.flatnonzero(~given).tolist():
        for k in np.flatnonzero(allowed[r]).tolist():
            dur[r, k] = math.floor(terms.exact_duration(options[r], machines[k]) * scale)
    return dur


def _floor(work: Fraction, factor: Fraction) -> int:
    return (work.numerator * factor.numerator) // (work.denominator * factor.denominator)


def integers(values: Sequence[float], largest: int = 2**40) -> tuple[list[Fraction], Fraction]:
    """Values times a common scale that makes them whole where the scale leaves room, and it."""
    fractions = [exact(v) for v in values]
    scale = _common(fractions)
    top = max(fractions, default=Fraction(0))
    if top * scale > largest:
        scale = Fraction(largest) / top
    return [f * scale for f in fractions], scale


def _resources(options: Sequence[Option], machines: Sequence[Machine]) -> tuple[Ints, Ints]:
    memory, scale = integers([*{o.memory for o in options}, *(mc.memory or 0 for mc in machines)])
    whole = {f / scale: math.ceil(f) for f in memory}
    demand = np.array(
        [(round(o.cores * 1000), whole[exact(o.memory)], o.gpus) for o in options], dtype=np.int64
    ).reshape(len(options), 3)
    unlimited = 2**50
    cap = np.array(
        [
            (1, unlimited, unlimited)
            if mc.cores is None
            else (
                min(unlimited, math.floor(mc.cores * 1000 + 1e-6)),
                unlimited if mc.memory is None else math.floor(exact(mc.memory) * scale),
                mc.gpus,
            )
            for mc in machines
        ],
        dtype=np.int64,
    )
    return demand, cap


def csr(keys: Ints, n: int) -> tuple[Ints, Ints]:
    """Row pointers of a compressed sparse row table, and the order that sorts the keys."""
    order = np.argsort(keys, kind="stable")
    ptr = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=n), out=ptr[1:])
    return ptr, order


def topological(n: int, pred_ptr: Ints, succ_ptr: Ints, succ_dst: Ints) -> Ints:
    """Tasks in an order of precedence."""
    waiting = np.diff(pred_ptr).tolist()
    ptr, dst = succ_ptr.tolist(), succ_dst.tolist()
    out = [t for t in range(n) if waiting[t] == 0]
    for t in out:
        for other in dst[ptr[t] : ptr[t + 1]]:
            waiting[other] -= 1
            if waiting[other] == 0:
                out.append(other)
    return np.array(out, dtype=np.int64)


def _inputs(
    problem: WorkflowProblem,
    index: dict[str, int],
    machine_index: dict[str, int],
    link: Ints,
    tpb: Floats,
    lat: Ints,
) -> Ints | None:
    sizes: dict[tuple[int, int], float] = defaultdict(float)
    for file in problem.files:
        if file.producer is None and file.location is not None:
            for consumer in dict.fromkeys(file.consumers):
                sizes[index[consumer], machine_index[file.location]] += file.size
    if not sizes:
        return None
    out = np.zeros((len(index), len(machine_index)), dtype=np.int64)
    for (task, home), size in sizes.items():
        classes = link[home]
        delay = np.rint(size * tpb[classes]).astype(np.int64) + lat[classes]
        out[task] = np.maximum(out[task], np.where(classes < 0, 0, delay))
    return out


def _blocked(machine: Machine, ticks: Any) -> tuple[tuple[int, int], ...]:
    if not machine.windows:
        return ()
    out, at = [], 0
    for window in machine.windows:
        start, end = ticks(window.start), ticks(window.end)
        if start > at:
            out.append((at, start))
        at = end
    return (*out, (at, NEVER))
