"""Kernels of the pods family: the bounded multi-dimensional knapsack that prices node patterns."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def fill(
    order: Any,
    profit: Any,
    weight: Any,
    limit: Any,
    first: Any,
    room: Any,
) -> Any:
    """Fractional value of the items from position ``first`` on, in ``room`` of surrogate."""
    value = 0.0
    for k in range(first, order.shape[0]):
        i = order[k]
        if limit[i] <= 0:
            continue
        if weight[i] <= 1e-15:
            value += profit[i] * limit[i]
            continue
        count = room / weight[i]
        if count >= limit[i]:
            value += profit[i] * limit[i]
            room -= weight[i] * limit[i]
        else:
            if count > 0.0:
                value += profit[i] * count
            break
    return value


@kernel
def multipliers(
    profit: Any,
    share: Any,
    limit: Any,
    weight: Any,
    order: Any,
) -> Any:
    """Surrogate weights of the resources that give a small fractional bound.

    Multiplicative steps towards the resources that the fractional filling overloads; leaves the
    surrogate weights of the best step in ``weight`` and the order by density in ``order``, and
    returns its bound.
    """
    n, resources = share.shape
    u = np.full(resources, 1.0 / resources)
    best_u = u.copy()
    best = np.inf
    density = np.empty(n)
    use = np.empty(resources)
    for step in range(14 if resources <= 2 else 80):
        for i in range(n):
            w = 0.0
            for r in range(resources):
                w += u[r] * share[i, r]
            weight[i] = w
            density[i] = -profit[i] / max(w, 1e-15)
        order[:] = np.argsort(density)
        value = 0.0
        room = 1.0
        use[:] = 0.0
        for k in range(n):
            i = order[k]
            if limit[i] <= 0:
                continue
            count = float(limit[i])
            if weight[i] > 1e-15:
                count = min(count, room / weight[i])
            if count <= 0.0:
                break
            value += profit[i] * count
            room -= weight[i] * count
            for r in range(resources):
                use[r] += share[i, r] * count
        if value < best:
            best = value
            best_u[:] = u
        total = 0.0
        for r in range(resources):
            u[r] *= np.exp(1.2 / (1.0 + (0.35 if resources <= 2 else 0.1) * step) * (use[r] - 1.0))
            total += u[r]
        for r in range(resources):
            u[r] /= total
    for i in range(n):
        w = 0.0
        for r in range(resources):
            w += best_u[r] * share[i, r]
        weight[i] = w
        density[i] = -profit[i] / max(w, 1e-15)
    order[:] = np.argsort(density)
    return best


@kernel
def knapsack(
    profit: Any,
    size: Any,
    limit: Any,
    room: Any,
    most_nodes: Any,
    least: Any,
    found: Any,
) -> Any:
    """Bounded knapsack in several dimensions by depth-first branch and bound.

    Parameters
    ----------
    profit, limit
        int64 per item; items without profit are left out.
    size, room
        int64 item x resource, and per resource.
    most_nodes
        Give up proving after so many nodes.
    least
        Look only for values above this.
    found
        int64 rows that receive the last improving fillings, newest first.

    Returns
    -------
    tuple
        Best value (``least`` when nothing better exists), a proven upper bound on the value or
        ``least``, rows filled, nodes visited.
    """
    n_all, resources = size.shape
    ids = np.empty(n_all, dtype=np.int64)
    n = 0
    for i in range(n_all):
        if profit[i] > 0 and limit[i] > 0:
            fits = True
            for r in range(resources):
                if size[i, r] > room[r]:
                    fits = False
            if fits:
                ids[n] = i
                n += 1
    if n == 0:
        return max(0, least), max(0, least), 0, 0
    gain = np.empty(n)
    most = np.empty(n, dtype=np.int64)
    share = np.zeros((n, resources))
    for k in range(n):
        i = ids[k]
        gain[k] = profit[i]
        most[k] = limit[i]
        for r in range(resources):
            if size[i, r] > 0:
                share[k, r] = size[i, r] / room[r]
                most[k] = min(most[k], room[r] // size[i, r])
    weight = np.empty(n)
    order = np.empty(n, dtype=np.int64)
    root = multipliers(gain, share, most, weight, order)
    left = room.copy()
    count = np.zeros(n, dtype=np.int64)
    best = max(0, least)
    rows = 0
    value = 0
    surrogate = 1.0
    depth = 0
    visited = 0
    exact = True
    while True:
        leaf = True
        while depth < n:
            visited += 1
            if value + fill(order, gain, weight, most, depth, surrogate + 1e-12) < best + 0.999:
                leaf = False
                break
            k = order[depth]
            i = ids[k]
            c = most[k]
            for r in range(resources):
                if size[i, r] > 0:
                    c = min(c, left[r] // size[i, r])
            count[depth] = c
            if c > 0:
                value += c * profit[i]
                surrogate -= c * weight[k]
                for r in range(resources):
                    left[r] -= c * size[i, r]
            depth += 1
        if leaf and value > best:
            best = value
            for row in range(min(rows, found.shape[0] - 1), 0, -1):
                found[row, :] = found[row - 1, :]
            found[0, :] = 0
            for d in range(n):
                found[0, ids[order[d]]] = count[d]
            rows += 1
        if visited > most_nodes:
            exact = False
            break
        depth -= 1
        while depth >= 0 and count[depth] == 0:
            depth -= 1
        if depth < 0:
            break
        k = order[depth]
        i = ids[k]
        count[depth] -= 1
        value -= profit[i]
        surrogate += weight[k]
        for r in range(resources):
            left[r] += size[i, r]
        depth += 1
    bound = best
    if not exact:
        bound = max(best, int(np.floor(root + 1e-3)))
    return best, bound, min(rows, found.shape[0]), visited


def warm_up() -> None:
    """Compile every kernel for the types used in production."""
    profit = np.array([5, 4, 3], dtype=np.int64)
    size = np.array([[2, 3], [4, 1], [3, 2]], dtype=np.int64)
    limit = np.array([2, 2, 2], dtype=np.int64)
    room = np.array([7, 6], dtype=np.int64)
    found = np.zeros((4, 3), dtype=np.int64)
    knapsack(profit, size, limit, room, 1000, 0, found)
