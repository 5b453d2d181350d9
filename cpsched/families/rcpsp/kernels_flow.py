"""Array kernels of permutation flow shops: the NEH rule and iterated greedy search.

Nawaz, Enscore and Ham (1983): jobs by falling work, each at its best place. Ruiz and Stützle
(2007): take some jobs out, put each back at its best place, improve by insertion, accept small
losses. All places of a job together cost as much as one evaluation (Taillard 1990).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.rcpsp.kernels import draw


@kernel
def makespan_of(time: Any, order: Any) -> int:
    """Makespan of the jobs in this order; ``time`` (jobs, machines)."""
    machines = time.shape[1]
    free = np.zeros(machines, np.int64)
    for j in order:
        end = 0
        for k in range(machines):
            end = max(end, free[k]) + time[j, k]
            free[k] = end
    return int(free[machines - 1])


@kernel
def insert(time: Any, order: Any, size: int, j: int, head: Any, tail: Any, rng: Any) -> int:
    """Put job ``j`` at its best place among the first ``size`` of ``order``; the makespan.

    ``head``, ``tail`` (jobs + 1, machines) are scratch. Equal places are drawn from.
    """
    machines = time.shape[1]
    for x in range(size):
        i = order[x]
        end = 0
        for k in range(machines):
            if x > 0 and head[x - 1, k] > end:
                end = head[x - 1, k]
            end += time[i, k]
            head[x, k] = end
    tail[size, :] = 0
    for x in range(size - 1, -1, -1):
        i = order[x]
        rest = 0
        for k in range(machines - 1, -1, -1):
            rest = max(rest, tail[x + 1, k]) + time[i, k]
            tail[x, k] = rest
    least, place, ties = 2**62, 0, 0
    for x in range(size + 1):
        end, longest = 0, 0
        for k in range(machines):
            if x > 0 and head[x - 1, k] > end:
                end = head[x - 1, k]
            end += time[j, k]
            if end + tail[x, k] > longest:
                longest = end + tail[x, k]
        ties = ties + 1 if longest == least else 1
        if longest < least or (longest == least and draw(rng, ties) == 0):
            least, place = longest, x
    for x in range(size, place, -1):
        order[x] = order[x - 1]
    order[place] = j
    return least


@kernel
def neh(time: Any, order: Any, head: Any, tail: Any, rng: Any) -> int:
    """Write the order of the NEH rule into ``order`` (jobs,); its makespan."""
    work = time.sum(axis=1)
    jobs = np.argsort(-work)
    value = 0
    for size in range(len(jobs)):
        value = insert(time, order, size, jobs[size], head, tail, rng)
    return value


@kernel
def settle(time: Any, order: Any, value: int, head: Any, tail: Any, rng: Any) -> int:
    """Reinsert jobs, in a random cyclic order, until none has a better place; the makespan."""
    n = order.shape[0]
    jobs = order.copy()
    for x in range(n - 1, 0, -1):
        y = draw(rng, x + 1)
        jobs[x], jobs[y] = jobs[y], jobs[x]
    quiet, at = 0, 0
    while quiet < n:
        j = jobs[at]
        at = (at + 1) % n
        x = 0
        while order[x] != j:
            x += 1
        for y in range(x, n - 1):
            order[y] = order[y + 1]
        made = insert(time, order, n - 1, j, head, tail, rng)
        quiet = 0 if made < value else quiet + 1
        value = made
    return value


@kernel
def iterate(
    time: Any, order: Any, value: int, best: Any, head: Any, tail: Any, rng: Any, count: int
) -> int:
    """``count`` rounds of iterated greedy from ``order``; its makespan. ``best`` keeps the best."""
    n = order.shape[0]
    least = makespan_of(time, best)
    out = min(4, n)
    taken = np.zeros(out, np.int64)
    before = order.copy()
    # Losses are accepted with the probability of Ruiz and Stützle's constant temperature.
    heat = 0.4 * time.mean() / 10.0
    for _ in range(count):
        before[:] = order
        size = n
        for x in range(out):
            y = draw(rng, size)
            taken[x] = order[y]
            for z in range(y, size - 1):
                order[z] = order[z + 1]
            size -= 1
        made = 0
        for x in range(out):
            made = insert(time, order, size, taken[x], head, tail, rng)
            size += 1
        made = settle(time, order, made, head, tail, rng)
        if made < least:
            least = made
            best[:] = order
        worse = made - value
        if worse <= 0 or draw(rng, 1048576) < 1048576.0 * np.exp(-worse / max(heat, 1e-9)):
            value = made
        else:
            order[:] = before
    return value


def warm_up() -> None:
    """Run every kernel once on three jobs, so that the compiler caches all of them."""
    time = np.array([[2, 3], [1, 4], [5, 1]])
    order, rng = np.zeros(3, np.int64), np.array([5])
    head, tail = np.zeros((4, 2), np.int64), np.zeros((4, 2), np.int64)
    value = neh(time, order, head, tail, rng)
    iterate(time, order, value, order.copy(), head, tail, rng, 2)
