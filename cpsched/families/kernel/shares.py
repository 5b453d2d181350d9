"""Sharing operations among modes: weights of the units, and the modes that suit them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cpsched.families.kernel.prepare import Instance

#: Rounds of the multiplicative weights, and the precision to which weights are rounded.
ROUNDS, PRECISION = 400, 10**6

Floats = npt.NDArray[np.float64]


def unit_work(instance: Instance) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Work of every mode on every unit, per capacity, and where each operation's rows begin."""
    rows = []
    first = [0]
    for modes in instance.modes:
        for mode in modes:
            row = [0.0] * len(instance.capacity)
            for k, _, cycles, amount in mode.uses:
                row[k] += cycles * amount / instance.capacity[k]
            rows.append(row)
        first.append(len(rows))
    return np.array(rows, dtype=np.float64), np.array(first[:-1], dtype=np.int64)


def unit_weights(instance: Instance) -> list[int]:
    """Weights under which the units' work proves a large interval.

    Multiplicative weights (S. Arora, E. Hazan, S. Kale, "The multiplicative weights update method",
    2012): a unit that the cheapest modes overload gains weight.
    """
    work, first = unit_work(instance)
    units = work.shape[1]
    weight = np.full(units, 1.0 / units)
    best, chosen = -1.0, weight
    for step in range(ROUNDS):
        price = work @ weight
        total = float(np.minimum.reduceat(price, first).sum())
        if total > best:
            best, chosen = total, weight
        load = work[_cheapest(price, first)].sum(axis=0)
        most = float(load.max())
        if most <= 0.0:
            break
        weight = weight * np.exp(load / most * (2.0 / (1.0 + step) ** 0.5))
        weight /= weight.sum()
    return [
        round(PRECISION * float(w) * max(instance.capacity) / c)
        for w, c in zip(chosen, instance.capacity, strict=True)
    ]


def _cheapest(price: Floats, first: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Row of each operation's cheapest mode."""
    ends = np.append(first[1:], len(price))
    return np.array([a + int(price[a:b].argmin()) for a, b in zip(first, ends, strict=True)])


def mode_choices(instance: Instance) -> list[list[int]]:
    """Modes to try for every operation, most promising first.

    Even loads on all units; the shortest latencies; the least work.
    """
    if not instance.multiple:
        return [[0] * instance.n]
    work, first = unit_work(instance)
    fastest = [
        min(range(len(modes)), key=lambda m: (modes[m].latency + modes[m].extra, m))
        for modes in instance.modes
    ]
    least = (_cheapest(work.sum(axis=1), first) - first).tolist()
    out: list[list[int]] = []
    for choice in (_even(work, first, fastest), fastest, least):
        if choice not in out:
            out.append(choice)
    return out


def _even(work: Floats, first: npt.NDArray[np.int64], fastest: list[int]) -> list[int]:
    """From the fastest modes, change one operation at a time while the busiest unit gains."""
    chosen = list(fastest)
    ends = np.append(first[1:], len(work)).tolist()
    load = work[first + np.array(chosen)].sum(axis=0)
    for _ in range(4 * len(chosen)):
        best = (float(load.max()), float(load.sum()))
        move = None
        for o, (a, b) in enumerate(zip(first.tolist(), ends, strict=True)):
            if b - a < 2:
                continue
            changed = load - work[a + chosen[o]] + work[a:b]
            for m, row in enumerate(changed):
                value = (float(row.max()), float(row.sum()))
                if value < best:
                    best, move = value, (o, m, row)
        if move is None:
            break
        chosen[move[0]], load = move[1], move[2]
    return chosen
