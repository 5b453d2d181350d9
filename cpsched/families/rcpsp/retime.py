"""Earliest starts for given orders on all resources: also for maximum lags and no idle time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

from cpsched.families.rcpsp.instance import FAR

if TYPE_CHECKING:
    from cpsched.families.rcpsp.instance import Instance

#: Pairs of tasks on one resource of larger capacity that are kept in order, at most.
MOST_PAIRS = 50_000


def retimed(
    instance: Instance, start: list[int], mode: list[int], expired: Callable[[], bool]
) -> list[int] | None:
    """Least starts that keep the orders of a schedule and meet all lags; None without any.

    Where several tasks share a resource, those that were done before another stay before it. Tasks
    on a resource with breaks start no earlier than they did; breaks are not looked at otherwise.
    """
    arcs = _arcs(instance, start, mode)
    if arcs is None:
        return None
    present = [i for i, m in enumerate(mode) if m >= 0]
    breaks = [r for r, own in enumerate(instance.profiles) if own]
    kept = [m >= 0 and bool(instance.holds[m, breaks].any()) for m in mode]
    time = np.where(instance.fixed | kept, start, np.maximum(instance.release, 0))
    rows = np.array(arcs, np.int64).reshape(-1, 3)
    for _ in range(len(present) + 1):
        if expired():
            return None
        after = time.copy()
        np.maximum.at(after, rows[:, 1], time[rows[:, 0]] + rows[:, 2])
        if (after == time).all():
            moved = bool((time[instance.fixed] != np.array(start)[instance.fixed]).any())
            return None if moved else [int(t) for t in time]
        time = after
    return None


def _arcs(
    instance: Instance, start: list[int], mode: list[int]
) -> list[tuple[int, int, int]] | None:
    """Rows (i, j, w): ``start[j] >= start[i] + w``."""
    shop = instance.shop
    duration = [int(instance.duration[m]) if m >= 0 else 0 for m in mode]
    here = [m >= 0 for m in mode]
    arcs: list[tuple[int, int, int]] = []
    for i, j, kind, least, most in instance.edges.tolist():
        if here[i] and here[j]:
            shift = (duration[i] if kind in (0, 2) else 0) - (duration[j] if kind in (2, 3) else 0)
            if least > -FAR:
                arcs.append((i, j, least + shift))
            if most < FAR:
                arcs.append((j, i, -most - shift))
    for leg in shop.legs:
        i, j = leg.before, leg.after
        if here[i] and here[j]:
            arcs.append((i, j, duration[i] + leg.lag + shop.transport(mode[i], mode[j])))

    def leaves(i: int, gap: int) -> tuple[int, int]:
        """The task at whose start, plus the time given, ``gap`` after i's release has passed."""
        taker = int(instance.blocks_until[i])
        return (i, duration[i] + gap) if taker < 0 or not here[taker] else (taker, gap)

    setups = {rule.resource: rule for rule in instance.setups}
    batches = {batch.resource for batch in shop.batches}
    #: Per resource with a worker's setups: (task whose start is counted, begin, end) of each use.
    uses: dict[int, list[tuple[int, int, int]]] = {}
    for r, capacity in enumerate(instance.capacity.tolist()):
        users = [i for i, m in enumerate(mode) if m >= 0 and instance.holds[m, r]]
        users.sort(key=lambda i: (start[i], start[i] + duration[i]))
        if r in batches or capacity > 1:
            if len(users) ** 2 > MOST_PAIRS:
                return None
            for i, j in combinations(users, 2):
                origin, weight = leaves(i, 0)
                if r in batches and start[i] == start[j]:
                    arcs += [(i, j, 0), (j, i, 0)]
                elif start[j] >= start[origin] + weight:
                    arcs.append((origin, j, weight))
        else:
            rule = setups.get(r)
            for i, j in pairwise(users):
                gap = 0 if rule is None else int(rule.times[rule.state[i], rule.state[j]])
                origin, weight = leaves(i, gap)
                arcs.append((origin, j, weight))
                if r in shop.no_idle and not instance.fixed[j]:
                    arcs.append((j, origin, -weight))
                for q in np.flatnonzero(rule.demand).tolist() if rule is not None and gap else ():
                    uses.setdefault(q, []).append((j, -gap, 0))
        if r in uses or any(rule.demand[r] for rule in instance.setups):
            uses.setdefault(r, []).extend((i, 0, duration[i]) for i in users)
    for own in uses.values():
        if len(own) ** 2 > MOST_PAIRS:
            return None
        for (i, a, b), (j, c, d) in combinations(own, 2):
            if start[i] + b <= start[j] + c:
                arcs.append((i, j, b - c))
            elif start[j] + d <= start[i] + a:
                arcs.append((j, i, d - a))
    for group in instance.disjunctive:
        users = sorted((i for i in group if here[i] and duration[i]), key=lambda i: start[i])
        arcs += [(i, j, duration[i]) for i, j in pairwise(users)]
    for rows in shop.sequences:
        for row in rows.tolist():
            users = sorted((i for i in row if here[i]), key=lambda i: start[i])
            arcs += [(i, j, 0) for i, j in pairwise(users)]
    return arcs
