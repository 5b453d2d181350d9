"""Ruin and recreate, in numba's subset: it also runs interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def draw(rng: Any, bound: int) -> int:
    """A pseudo-random integer in ``[0, bound)``: xorshift with 32 bits of state in ``rng[0]``."""
    state = rng[0]
    state ^= (state << 13) & 0xFFFFFFFF
    state ^= state >> 17
    state ^= (state << 5) & 0xFFFFFFFF
    rng[0] = state
    return int((state * bound) >> 32)


@kernel
def chance(rng: Any) -> float:
    """A pseudo-random number in ``[0, 1)``."""
    return draw(rng, 1 << 30) / float(1 << 30)


@kernel
def first_fit(
    i: int,
    earliest: int,
    g: int,
    c: int,
    use: Any,
    limits: Any,
    length: Any,
    offset: Any,
    memory: Any,
    tokens: Any,
) -> int:
    """First start of request i on machine g, not before ``earliest``, that fits in every round.

    ``use`` has shape (3, machines, horizon); the horizon must leave room behind all work.
    """
    rounds = length[c, i]
    a = offset[c, i]
    horizon = use.shape[2]
    t = earliest
    while t + rounds <= horizon:
        # From the end backwards: the last conflict allows the longest jump.
        k = rounds - 1
        while k >= 0:
            if (
                use[0, g, t + k] + memory[a + k] > limits[0, g]
                or use[1, g, t + k] >= limits[1, g]
                or use[2, g, t + k] + tokens[a + k] > limits[2, g]
            ):
                break
            k -= 1
        if k < 0:
            return t
        t += 1
    return -1


@kernel
def place(
    i: int,
    t: int,
    g: int,
    sign: int,
    kind: Any,
    use: Any,
    length: Any,
    offset: Any,
    memory: Any,
    tokens: Any,
) -> None:
    """Add (sign 1) or remove (sign -1) request i at start t on machine g."""
    c = kind[g]
    a = offset[c, i]
    for k in range(length[c, i]):
        use[0, g, t + k] += sign * memory[a + k]
        use[1, g, t + k] += sign
        use[2, g, t + k] += sign * tokens[a + k]


@kernel
def ruin_recreate(
    start: Any,
    machine: Any,
    movable: Any,
    release: Any,
    weight: Any,
    kind: Any,
    length: Any,
    offset: Any,
    memory: Any,
    tokens: Any,
    limits: Any,
    allowed: Any,
    volume: Any,
    horizon: int,
    iterations: int,
    temperature: float,
    seed: int,
    makespan: bool,
) -> int:
    """Take out a few requests, put them back at their earliest starts, keep what is better.

    A simulated-annealing step: worse results are kept with a chance that falls to zero over the
    iterations. ``start`` and ``machine`` are changed in place to the best found.

    Parameters
    ----------
    movable
        Requests that may move.
    temperature
        Initial temperature, in objective units.
    makespan
        1 minimises the last end, else the weighted sum of ends.

    Returns
    -------
    int
        The best value: weighted sum of ends, or the makespan.
    """
    rng = np.full(1, 1 + (seed * 2654435769 + 12345) % 4294967295, np.int64)
    for _ in range(8):
        draw(rng, 2)
    n = len(start)
    m = len(kind)
    use = np.zeros((3, m, horizon), np.int64)
    value = np.int64(0)
    for i in range(n):
        if machine[i] >= 0:
            place(i, start[i], machine[i], 1, kind, use, length, offset, memory, tokens)
            value += weight[i] * (start[i] + length[kind[machine[i]], i])
    now_start = start.copy()
    now_machine = machine.copy()
    top = np.int64(0)
    for i in range(n):
        top = max(top, start[i] + length[kind[machine[i]], i])
    best = top if makespan else value
    current = best
    most = min(len(movable), 12)
    taken = np.zeros(n, np.bool_)
    group = np.zeros(most, np.int64)
    old_start = np.zeros(most, np.int64)
    old_machine = np.zeros(most, np.int64)
    key = np.zeros(most, np.float64)
    for step in range(iterations):
        heat = temperature * (1.0 - step / iterations) + 1e-9
        size = 2 + draw(rng, most - 1) if most > 2 else most
        anchor = movable[draw(rng, len(movable))]
        centre = now_start[anchor]
        reach = 1 + draw(rng, 12)
        count = 0
        tries = 0
        scattered = chance(rng) < 0.3
        while count < size and tries < 8 * size:
            tries += 1
            i = anchor if count == 0 else movable[draw(rng, len(movable))]
            if taken[i] or (not scattered and abs(now_start[i] - centre) > reach):
                continue
            taken[i] = True
            group[count] = i
            count += 1
        mode = draw(rng, 4)
        delta = np.int64(0)
        for q in range(count):
            i = group[q]
            old_start[q] = now_start[i]
            old_machine[q] = now_machine[i]
            place(i, now_start[i], now_machine[i], -1, kind, use, length, offset, memory, tokens)
            delta -= weight[i] * (now_start[i] + length[kind[now_machine[i]], i])
            if mode == 0:
                key[q] = volume[i] / (weight[i] + 1e-6)
            elif mode == 1:
                key[q] = chance(rng)
            elif mode == 2:
                key[q] = -volume[i] * (0.5 + chance(rng))
            else:
                key[q] = volume[i] / (weight[i] + 1e-6) * (0.5 + chance(rng))
        sequence = np.argsort(key[:count])
        ok = True
        done = 0
        for q in sequence:
            i = group[q]
            spot = -1
            where = -1
            finish = np.int64(2**60)
            for g in range(m):
                if allowed.shape[0] > 1 and not allowed[i, g]:
                    continue
                t = first_fit(
                    i, release[i], g, kind[g], use, limits, length, offset, memory, tokens
                )
                if t >= 0 and t + length[kind[g], i] < finish:
                    finish = t + length[kind[g], i]
                    spot = t
                    where = g
            if where < 0:
                ok = False
                break
            now_start[i] = spot
            now_machine[i] = where
            place(i, spot, where, 1, kind, use, length, offset, memory, tokens)
            delta += weight[i] * finish
            done += 1
        new = value + delta
        if ok and makespan:
            new = np.int64(0)
            for i in range(n):
                if now_machine[i] >= 0:
                    new = max(new, now_start[i] + length[kind[now_machine[i]], i])
        if ok and (new <= current or chance(rng) < np.exp(-(new - current) / heat)):
            value += delta
            current = new
            if current < best:
                best = current
                start[:] = now_start
                machine[:] = now_machine
        else:
            for d in range(done):
                i = group[sequence[d]]
                place(
                    i, now_start[i], now_machine[i], -1, kind, use, length, offset, memory, tokens
                )
            for q in range(count):
                i = group[q]
                now_start[i] = old_start[q]
                now_machine[i] = old_machine[q]
                place(i, old_start[q], old_machine[q], 1, kind, use, length, offset, memory, tokens)
        for q in range(count):
            taken[group[q]] = False
    return int(best)


def warm_up() -> None:
    """Call every kernel once with the types used in production."""
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    table, offset = np.ones((1, 1), np.int64), np.array([[0, 1]], np.int64)
    limits, allowed = np.full((3, 1), 5, np.int64), np.ones((1, 1), np.bool_)
    ruin_recreate(
        zero.copy(), zero.copy(), zero, zero, one, zero, table, offset, one, one, limits, allowed,
        one, 4, 2, 1.0, 0, False,
    )  # fmt: skip
