"""Admission policies as list schedules: the classical ones and ours, all checking exact memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cpsched.core import jit
from cpsched.families.serving import kernels, quick
from cpsched.families.serving.prepare import UNLIMITED, Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.run import Run

    Ints = NDArray[np.int64]

#: How many requests may fail a full check in one round before the scan ends.
SCAN = 200


def by_arrival(q: Prepared) -> Ints:
    """First come, first served."""
    return np.argsort(q.release, kind="stable")


def by_output(q: Prepared) -> Ints:
    """Shortest output first (MC-SF, Jaillet et al. 2502.07115)."""
    return np.lexsort((q.release, q.output))


def by_volume(q: Prepared) -> Ints:
    """Smallest memory volume per weight first (SVF, Kong et al. 2606.22327)."""
    return np.lexsort((q.release, q.volume / np.maximum(q.weight, 1e-9)))


def by_decode(q: Prepared) -> Ints:
    """Longest decode first, larger volume first among equals: short makespans."""
    return np.lexsort((-q.volume, -q.length.min(axis=0)))


def by_deadline(q: Prepared) -> Ints:
    """Earliest latest start first (EDF on first tokens and completions)."""
    latest = np.minimum(q.first_by - q.prefill.min(axis=0) - 1, q.end_by - q.length.min(axis=0))
    return np.lexsort((q.release, latest))


def by_batches(q: Prepared) -> Ints:
    """Sorted-F (Wang et al. 2508.06133): batches minimising the sum of outputs over size squared.

    The batches are prefixes, in order of output or of volume, of what fits if it all starts
    together on one machine.
    """
    capacity = int(q.capacity.max())
    left = np.arange(q.n)
    order: list[int] = []
    while len(left):
        best: tuple[float, Ints] | None = None
        for key in (q.output, q.volume):
            candidates = left[np.argsort(key[left], kind="stable")]
            candidates = candidates[: max(8, _batch_that_fits(q, candidates, capacity))]
            size = max(1, _batch_that_fits(q, candidates, capacity))
            sums = np.cumsum(q.output[candidates[:size]])
            value = sums / np.arange(1, size + 1) ** 2
            take = int(value.argmin()) + 1
            if best is None or value[take - 1] < best[0]:
                best = (float(value[take - 1]), candidates[:take])
        assert best is not None
        order += best[1].tolist()
        left = np.setdiff1d(left, best[1], assume_unique=True)
    return np.array(order, np.int64)


def _batch_that_fits(q: Prepared, candidates: Ints, capacity: int) -> int:
    """How many leading requests fit together when all start in the same round."""
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high + 1) // 2
        if peak_of_batch(q.prompt[candidates[:middle]], q.output[candidates[:middle]]) <= capacity:
            low = middle
        else:
            high = middle - 1
    return low


def peak_of_batch(held: Ints, remaining: Ints) -> int:
    """Peak future memory of requests that run on together (Past-Future's M*, 2507.10150).

    Sorted by remaining output, longest first: ``max_k(sum of the first k held + k * remaining_k)``.
    """
    order = np.argsort(-remaining, kind="stable")
    ranks = np.arange(1, len(order) + 1)
    return int((np.cumsum(held[order]) + ranks * remaining[order]).max(initial=0))


#: Name to (priority order, whether to look past a request that does not fit).
POLICIES: dict[str, tuple[Callable[[Prepared], Ints], bool]] = {
    "fcfs": (by_arrival, False),
    "mcsf": (by_output, False),
    "svf": (by_volume, True),
    "svf-strict": (by_volume, False),
    "sorted-f": (by_batches, False),
    "ldf": (by_decode, True),
    "edf": (by_deadline, True),
}


#: Seconds of a full check of whether a request fits, and of each of its rounds there.
CHECKING, ROUND = 6e-7, 8e-9


def run_policy(
    q: Prepared,
    order: Ints,
    *,
    skip: bool,
    age: int = UNLIMITED,
    scan: int | None = None,
    run: Run | None = None,
) -> tuple[Ints, Ints]:
    """Start and machine of every request when the order is list-scheduled; see `kernels`.

    With a run the time left limits how often requests are looked past.
    """
    work = 100 * q.n + 100_000
    if run is not None and not run.deterministic:
        each = (CHECKING + ROUND * float(q.length.mean())) * jit.slowdown()
        left = max(0.0, run.clock.remaining() - quick.CHECK * q.n)
        work = int(min(work, q.n + 0.4 * left / each))
    running = q.fixed_machine[order] >= 0
    order = np.concatenate([order[running], order[~running]])
    limits = np.stack([q.capacity, q.max_batch, q.budget])
    allowed = np.ones((1, 1), np.bool_) if q.allowed is None else q.allowed
    start, machine = kernels.list_schedule(
        order, q.release, q.kind, q.length, q.offset, q.memory, q.tokens, limits,
        q.node_offset, q.nodes, q.node_size, q.pred_offset, q.preds, q.gap,
        q.tool, q.tool_rounds, q.tool_capacity, allowed, q.fixed_start, q.fixed_machine,
        int(skip), age, SCAN if scan is None else scan, work,
    )  # fmt: skip
    return start, machine


def greedy(q: Prepared, run: Run) -> None:
    """Offer the policies' schedules, the most promising one first."""
    if q.n > 1000 and run.clock.remaining() > 0.5:
        jit.ready()
    names = {o.name for o in run.objectives}
    chosen = ["svf", "edf", "ldf", "svf-strict", "mcsf", "sorted-f", "fcfs"]
    if "makespan" in names:
        chosen = ["ldf", "svf", "fcfs", "mcsf"]
    elif "goodput" in names or q.problem.slo_percent is not None:
        chosen = ["edf", "svf", "fcfs", "mcsf", "ldf"]
    if not quick.affordable(q, run):
        order, _ = POLICIES[chosen[0]]
        quick.greedy(q, run, order(q), chosen[0])
        return
    for name in chosen:
        if run.incumbent is not None and (run.done() or run.clock.remaining() < 0.01):
            return
        if run.incumbent is not None and run.clock.remaining() > 1.5:
            jit.ready()
        order, skip = POLICIES[name]
        offer_order(q, run, order(q), skip, f"greedy:{name}")


def offer_order(q: Prepared, run: Run, order: Ints, skip: bool, source: str) -> bool:
    """List-schedule an order and offer the result; whether it is the new incumbent."""
    start, machine = run_policy(q, order, skip=skip, run=run)
    run.clock.spend(5e-5 * q.n)
    if (machine < 0).any() and not q.problem.reject:
        return False
    if q.problem.slo_percent is not None and misses(q, start, machine) > q.misses:
        return False
    return run.offer(lambda: q.schedule(start, machine), source)


def misses(q: Prepared, start: Ints, machine: Ints) -> int:
    """How many requests miss their SLO."""
    return int(late(q, start, machine).sum())


def late(q: Prepared, start: Ints, machine: Ints) -> NDArray[np.bool_]:
    """Which requests miss their SLO, (n,)."""
    kind = q.kind[np.maximum(machine, 0)]
    each = np.arange(q.n)
    first = start + q.prefill[kind, each] + np.minimum(1, q.output)
    missed: NDArray[np.bool_] = (
        (first > q.first_by) | (start + q.length[kind, each] > q.end_by) | (machine < 0)
    )
    return missed


def value_of(q: Prepared, start: Ints, machine: Ints, name: str) -> int:
    """The objective of starts and machines: latency (weighted) or makespan."""
    placed = machine >= 0
    end = start + q.length[q.kind[np.maximum(machine, 0)], np.arange(q.n)]
    if name == "makespan":
        return int(end[placed].max(initial=0))
    arrival = np.array([r.arrival for r in q.problem.requests])
    return int((q.weight * (end - arrival))[placed].sum())
