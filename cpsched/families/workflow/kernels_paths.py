"""Longest ways through a task graph, in numba's subset: ranks, cost tables, heads and tails."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.workflow.kernels import NEVER


@kernel
def upward_ranks(topo: Any, succ_ptr: Any, succ_dst: Any, comm: Any, mean: Any) -> Any:
    """Longest way to the end per task, its own mean duration and mean transfers included."""
    rank = np.zeros(len(topo))
    for i in range(len(topo) - 1, -1, -1):
        t = topo[i]
        best = 0.0
        for e in range(succ_ptr[t], succ_ptr[t + 1]):
            way = comm[e] + rank[succ_dst[e]]
            if way > best:
                best = way
        rank[t] = mean[t] + best
    return rank


@kernel
def optimistic_costs(topo: Any, succ_ptr: Any, succ_dst: Any, comm: Any, dmin: Any) -> Any:
    """PEFT's optimistic cost table: per task and machine the least remaining way after it."""
    n, m = dmin.shape
    table = np.zeros((n, m))
    for i in range(n - 1, -1, -1):
        t = topo[i]
        for e in range(succ_ptr[t], succ_ptr[t + 1]):
            w = succ_dst[e]
            low1 = np.inf
            low2 = np.inf
            where = -1
            for p in range(m):
                if dmin[w, p] < NEVER:
                    way = table[w, p] + dmin[w, p]
                    if way < low1:
                        low2 = low1
                        low1 = way
                        where = p
                    elif way < low2:
                        low2 = way
            for p in range(m):
                other = low2 if p == where else low1
                way = other + comm[e]
                if dmin[w, p] < NEVER:
                    here = table[w, p] + dmin[w, p]
                    if here < way:
                        way = here
                if way > table[t, p]:
                    table[t, p] = way
    return table


@kernel
def machine_heads(
    topo: Any,
    pred_ptr: Any,
    pred_src: Any,
    pred_bytes: Any,
    link: Any,
    tpb: Any,
    lat: Any,
    low: Any,
    dmin: Any,
    exclusive: Any,
) -> Any:
    """Per task and machine a lower bound on its start there, transfers included.

    ``low`` holds releases per task and machine, ``dmin`` the least duration (NEVER where it cannot
    run). A predecessor either runs on the same machine or sends its data. On a machine that runs
    one task at a time (``exclusive``) the predecessors that must be there for the task to start
    before a given time run one after the other.
    """
    n, m = dmin.shape
    head = np.zeros((n, m), dtype=np.int64)
    # With one class of links the best other machine is the best or the second best of all.
    uniform = len(tpb) <= 1
    low1 = np.full(n, NEVER, dtype=np.int64)
    low2 = np.full(n, NEVER, dtype=np.int64)
    best_at = np.full(n, -1, dtype=np.int64)
    for i in range(n):
        t = topo[i]
        first, last = pred_ptr[t], pred_ptr[t + 1]
        degree = last - first
        remote = np.zeros(degree, dtype=np.int64)
        for p in range(m):
            if dmin[t, p] >= NEVER:
                head[t, p] = NEVER
                continue
            value = low[t, p]
            for j in range(degree):
                u = pred_src[first + j]
                size = pred_bytes[first + j]
                best: Any = np.int64(NEVER)
                if uniform:
                    best = low2[u] if best_at[u] == p else low1[u]
                    if size >= 0.0 and best < NEVER:
                        best += np.int64(np.rint(size * tpb[0])) + lat[0]
                for q in range(m):
                    if uniform:
                        break
                    if q == p or dmin[u, q] >= NEVER:
                        continue
                    at = head[u, q] + dmin[u, q]
                    k = link[q, p]
                    if size >= 0.0 and k >= 0:
                        at += np.int64(np.rint(size * tpb[k])) + lat[k]
                    if at < best:
                        best = at
                remote[j] = best
                here = NEVER
                if dmin[u, p] < NEVER:
                    here = head[u, p] + dmin[u, p]
                nearest = min(best, here)
                if nearest > value:
                    value = nearest
            if exclusive[p] and degree > 1:
                # The start is at least C only if all predecessors whose data come after C from
                # elsewhere run here before: the smallest C for which they fit is a bound.
                by_arrival = np.argsort(-remote)
                smallest = NEVER
                local = np.zeros(degree, dtype=np.int64)
                count = 0
                done: Any = np.int64(0)
                for j in range(degree + 1):
                    outside = remote[by_arrival[j]] if j < degree else np.int64(0)
                    here = max(outside, done)
                    if here < smallest:
                        smallest = here
                    if j == degree or done >= smallest or count >= 64:
                        if count >= 64 and j < degree:
                            smallest = min(smallest, done)
                        break
                    u = pred_src[first + by_arrival[j]]
                    if dmin[u, p] >= NEVER:
                        break
                    spot = count
                    while spot > 0 and head[local[spot - 1], p] > head[u, p]:
                        local[spot] = local[spot - 1]
                        spot -= 1
                    local[spot] = u
                    count = j + 1
                    done = np.int64(0)
                    for k in range(count):
                        w = local[k]
                        done = max(done, head[w, p]) + dmin[w, p]
                if smallest > value and smallest < NEVER:
                    value = smallest
            head[t, p] = value
            if uniform:
                done = value + dmin[t, p]
                if done < low1[t]:
                    low2[t] = low1[t]
                    low1[t] = done
                    best_at[t] = p
                elif done < low2[t]:
                    low2[t] = done
    return head


@kernel
def raised_heads(
    topo: Any, pred_ptr: Any, pred_src: Any, head: Any, least: Any, load: Any, most: int
) -> Any:
    """Heads raised by the work of all ancestors, which the machines do before a task starts.

    Any set of ancestors of a task, none of which starts before ``a`` and from the end of each of
    which at least ``b`` passes until the task starts, is processed in between by all machines
    together: the task starts at ``a + b + sum(load)`` or later.

    Parameters
    ----------
    head, least
        Least start and duration per task.
    load
        Least time that all machines together need per task.
    most
        Values of ``b`` that are tried.
    """
    n = len(topo)
    out = head.copy()
    way = np.full(n, -1, dtype=np.int64)
    found = np.zeros(n, dtype=np.int64)
    for i in range(n):
        t = topo[i]
        count = 0
        value: Any = out[t]
        for e in range(pred_ptr[t], pred_ptr[t + 1]):
            u = pred_src[e]
            way[u] = 0
            value = max(value, out[u] + least[u])
        if pred_ptr[t + 1] - pred_ptr[t] > 0:
            for j in range(i - 1, -1, -1):
                u = topo[j]
                if way[u] < 0:
                    continue
                found[count] = u
                count += 1
                for e in range(pred_ptr[u], pred_ptr[u + 1]):
                    w = pred_src[e]
                    way[w] = max(way[w], way[u] + least[u])
        if count > 1:
            part = found[:count]
            by_head = np.argsort(-out[part])
            ways = np.sort(way[part])
            before: Any = np.int64(-1)
            for k in range(most):
                b = ways[k * (count - 1) // max(1, most - 1)]
                if b == before:
                    continue
                before = b
                done = 0.0
                for j in range(count):
                    u = part[by_head[j]]
                    if way[u] >= b:
                        done += load[u]
                        length = np.int64(np.ceil(done * (1.0 - 1e-12) - 1e-3))
                        value = max(value, out[u] + b + length)
        for j in range(count):
            way[found[j]] = -1
        out[t] = value
    return out


def warm_up() -> None:
    """Call every kernel once on tiny arrays of the production types."""
    one = np.zeros(1, dtype=np.int64)
    none = one[:0]
    empty = np.zeros(2, dtype=np.int64)
    square = np.ones((1, 1), dtype=np.int64)
    upward_ranks(one, empty, none, np.zeros(0), np.ones(1))
    optimistic_costs(one, empty, none, np.zeros(0), square)
    machine_heads(
        one, empty, none, np.zeros(0), square - 2, np.zeros(1), one, square, square, square[0] > 0
    )
    raised_heads(one, empty, none, one, one, np.zeros(1), 2)
