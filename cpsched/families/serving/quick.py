"""First schedules when the kernels are not compiled yet and the time is short.

Each request goes where it fits first, found for many starts at once; what the time does not
suffice for runs in batches one after the other.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cpsched.core import jit
from cpsched.families.serving.prepare import GRACE, NORMAL, UNLIMITED, Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.run import Run

    Ints = NDArray[np.int64]

#: Seconds per request of checking a schedule, and per request and round of interpreted policies.
CHECK, INTERPRETED = 2.8e-5, 1e-6
#: Starts looked at together.
SPAN = 256


def affordable(q: Prepared, run: Run) -> bool:
    """Whether the policies may run as they are: compiled, on small problems, or with time left."""
    if run.deterministic:
        return True
    if jit.ready(run.clock.remaining(), "serving"):
        return q.n <= NORMAL or 1.1 * CHECK * q.n < run.clock.remaining()
    capacity = min(float(q.capacity.sum()), 1e18)
    rounds = float(q.length.max(initial=1)) + float(q.volume.sum()) / max(1.0, capacity)
    rounds += float(q.release.max(initial=0) - q.release.min(initial=0))
    return INTERPRETED * q.n * min(rounds, 10.0 * q.n) < 0.5 * run.clock.remaining()


def greedy(q: Prepared, run: Run, order: Ints, name: str) -> None:
    """Offer a schedule of that order, if there is time to check one."""
    from cpsched.families.serving.greedy import misses

    left = run.clock.limit + 0.5 * GRACE - run.clock.elapsed() - CHECK * q.n
    if left < 0.0 and q.n > NORMAL:
        return
    start, machine = schedule(q, order, time.perf_counter() + max(0.0, 0.8 * left))
    if (machine < 0).any() and not q.problem.reject:
        return
    if q.problem.slo_percent is None or misses(q, start, machine) <= q.misses:
        run.offer(lambda: q.schedule(start, machine), f"greedy:quick-{name}")


def schedule(q: Prepared, order: Ints, deadline: float) -> tuple[Ints, Ints]:
    """Start and machine of every request (machine -1: it fits nowhere)."""
    start, machine = q.fixed_start.copy(), q.fixed_machine.copy()
    order = order[q.fixed_machine[order] < 0]
    done = 0
    if q.plain and not (q.fixed_machine >= 0).any():
        done = _first_fits(q, order, start, machine, deadline)
    _batches(q, order[done:], start, machine)
    return start, machine


def _first_fits(q: Prepared, order: Ints, start: Ints, machine: Ints, deadline: float) -> int:
    """Place requests at their first fits until the time is up; how many were placed."""
    origin = int(q.release.min(initial=0))
    use = np.zeros((3, q.machines, 2048), np.int64)
    limits = np.stack([q.capacity, q.max_batch, q.budget]).tolist()
    longest = int(q.length.max(initial=1))
    for count, i in enumerate(order.tolist()):
        if time.perf_counter() > deadline:
            return count
        best: tuple[int, int, int] | None = None
        for g in range(q.machines):
            if q.allowed is not None and not q.allowed[i, g]:
                continue
            c = int(q.kind[g])
            a, b = int(q.offset[c, i]), int(q.offset[c, i + 1])
            memory, tokens, rounds = q.memory[a:b], q.tokens[a:b], b - a
            at = int(q.release[i]) - origin
            if rounds and (memory[-1] > limits[0][g] or tokens.max() > limits[2][g]):
                continue
            while best is None or at + rounds < best[0]:
                if at + SPAN + longest > use.shape[2]:
                    use = np.pad(use, ((0, 0), (0, 0), (0, use.shape[2])))
                ok = np.ones(SPAN, np.bool_)
                if rounds:
                    window = slice(at, at + SPAN - 1 + rounds)
                    for k, profile in enumerate((memory, 1, tokens)):
                        if limits[k][g] < UNLIMITED:
                            held = sliding_window_view(use[k, g, window], rounds)
                            ok &= (held <= limits[k][g] - profile).all(axis=1)
                first = int(ok.argmax())
                if ok[first]:
                    if best is None or at + first + rounds < best[0]:
                        best = (at + first + rounds, at + first, g)
                    break
                at += SPAN
        if best is None:
            continue
        _, at, g = best
        a, b = (int(q.offset[q.kind[g], i + k]) for k in (0, 1))
        use[0, g, at : at + b - a] += q.memory[a:b]
        use[1, g, at : at + b - a] += 1
        use[2, g, at : at + b - a] += q.tokens[a:b]
        start[i], machine[i] = origin + at, g
    return len(order)


def _batches(q: Prepared, order: Ints, start: Ints, machine: Ints) -> None:
    """Whole batches one after the other, behind everything that is placed: whatever the limits
    are, requests whose peaks fit together may start together."""
    placed = machine >= 0
    end = int(q.release.max(initial=0))
    if placed.any():
        ends = start + q.length[q.kind[np.maximum(machine, 0)], np.arange(q.n)]
        end = max(end, int((ends + q.tool_rounds)[placed].max()))
    alone = bool(len(q.preds)) or bool((q.tool >= 0).any())
    if alone:
        order = by_precedence(q, order)
    free = [end] * q.machines
    #: By machine: peaks, requests and tokens of the batch that starts there next, and its end.
    batch = [[0, 0, 0, end] for _ in free]
    peaks = np.concatenate([[0], np.cumsum(q.node_size[q.nodes])])
    shared = peaks[q.node_offset[1:]] - peaks[q.node_offset[:-1]]
    for i in order.tolist():
        options = range(q.machines) if q.allowed is None else np.flatnonzero(q.allowed[i]).tolist()
        for g in sorted(options, key=lambda g: free[g]):
            c = int(q.kind[g])
            a, b = int(q.offset[c, i]), int(q.offset[c, i + 1])
            peak = int(q.memory[b - 1] + shared[i]) if b > a else 0
            most = int(q.tokens[a:b].max(initial=0))
            if peak > q.capacity[g] or most > q.budget[g] or (b > a and q.max_batch[g] < 1):
                continue
            held, count, tokens, last = batch[g]
            full = held + peak > q.capacity[g] or count + 1 > q.max_batch[g]
            if alone or full or tokens + most > q.budget[g]:
                free[g] = last
                held = count = tokens = 0
            at = max(free) if alone else free[g]
            start[i], machine[i] = at, g
            last = max(last, at + b - a + (int(q.tool_rounds[i] + q.gap.max()) if alone else 0))
            batch[g] = [held + peak, count + 1, tokens + most, last]
            if alone:
                free = [last] * q.machines
                batch = [[0, 0, 0, last] for _ in free]
            break


def by_precedence(q: Prepared, order: Ints) -> Ints:
    """The order, changed so that everyone comes after what it waits for."""
    out: list[int] = []
    seen = set(np.flatnonzero(q.fixed_machine >= 0).tolist())
    for root in order.tolist():
        stack = [root]
        while stack:
            i = stack[-1]
            before = q.preds[q.pred_offset[i] : q.pred_offset[i + 1]].tolist()
            open_ = [j for j in before if j not in seen]
            if open_ and i not in seen:
                stack += open_
                continue
            stack.pop()
            if i not in seen:
                seen.add(i)
                out.append(i)
    return np.array(out, np.int64)
