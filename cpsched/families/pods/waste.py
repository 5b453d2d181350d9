"""Refuting that all pods can be placed: a pod that fits no node without wasting too much.

If all pods were placed, the nodes together would leave what the cluster has beyond all requests,
so no node could leave more than that. When no filling of a node that holds a certain pod is that
tight, not all pods can be placed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cpsched.core import jit
from cpsched.core.clock import Clock
from cpsched.families.pods import kernels_waste as kernels
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.patterns import Packing

#: Tails that are tabulated, and their most items.
MOST_TAILS, LONGEST = 400_000, 4
#: Most kinds of nodes that are looked at, and most slack relative to all nodes.
MOST_GROUPS, MOST_SLACK = 4, 0.002
#: Classes that are looked at, those that fill most of a node first.
CLASSES = 3
#: Estimated seconds of one partial filling, and of one tail; partial fillings of each look.
NODE_SECONDS, TAIL_SECONDS = 1.5e-7, 2e-6
LOOKS = (200_000, 4_000_000, 40_000_000)


@dataclass(frozen=True)
class Tails:
    """The classes that a group of nodes may hold, and all choices of a few of their pods.

    ``rows`` are the classes by descending size in the first of the ``columns``, the resource with
    the fewest tight fillings; ``sums`` are the sums of all choices of ``length`` pods, sorted,
    ``first`` the first class in each; ``few`` the sums of all choices of up to as many.
    """

    room: Ints
    columns: Ints
    rows: Ints
    slack: Ints
    length: int
    sums: Ints
    first: Ints
    starts: Ints
    width: int
    few: Ints


def refute(pack: Packing, tier: int, clock: Clock, until: float) -> tuple[int, int] | None:
    """A class whose pods rule out that all pods of a tier and above are placed.

    Returns
    -------
    tuple or None
        Index of the class in the packing, and how many partial fillings the proof took.
    """
    if not len(pack.classes) or len(pack.groups) > MOST_GROUPS or jit.slowdown("pods") > 1.0:
        return None
    slack = slack_of(pack, tier)
    total = np.sum([g.room * len(g.members) for g in pack.groups], axis=0)
    if (slack < 0).any() or (slack / np.maximum(1, total)).min() > MOST_SLACK:
        return None
    most = min(MOST_TAILS, int(0.3 * min(1e3, clock.remaining() - until) / TAIL_SECONDS))
    tables = tails_of(pack, tier, slack, most)
    clock.spend(TAIL_SECONDS * most)
    if tables is None:
        return None
    active = np.flatnonzero(pack.tier <= tier)
    room = np.max([g.room for g in pack.groups], axis=0)
    # Pods that fill much of a node go with few others.
    order = active[np.argsort(-(pack.size[active] / np.maximum(1, room)).sum(axis=1))]
    for nodes in LOOKS:
        for k in order[:CLASSES].tolist():
            if NODE_SECONDS * nodes > clock.remaining() - until or clock.cancelled:
                return None
            found, visited = alone(pack, tables, k, nodes)
            clock.spend(NODE_SECONDS * visited)
            if found == 0:
                return k, visited
            if found == 1:
                return None  # pods that go with more others will hardly be refuted
    return None


def slack_of(pack: Packing, tier: int) -> Ints:
    """What all nodes leave when all pods of a tier and above are placed."""
    active = pack.tier <= tier
    total = np.sum([g.room * len(g.members) for g in pack.groups], axis=0)
    out: Ints = total - (pack.size * pack.available[:, None])[active].sum(axis=0)
    return out


def bound(pack: Packing, tier: int) -> int:
    """Most weight of a tier and above when not all of it can be placed."""
    active = pack.tier <= tier
    return int((pack.available * pack.weight)[active].sum() - pack.weight[active].min())


def tails_of(
    pack: Packing, tier: int, slack: Ints, most_tails: int = MOST_TAILS
) -> list[Tails] | None:
    """The tables of every group, None where there are pods of no size in every resource."""
    out = []
    for group in pack.groups:
        usable = np.flatnonzero((pack.tier <= tier) & (group.limit > 0) & (pack.available > 0))
        if not len(usable):
            continue
        size = pack.size[usable]
        columns = np.argsort(-(size.max(axis=0) / (1.0 + slack)), kind="stable")
        if int(size[:, columns[0]].min()) <= 0:
            return None
        order = np.argsort(-size[:, columns[0]], kind="stable")
        size = np.ascontiguousarray(size[order][:, columns])
        length = 1
        while length < LONGEST and _choices(len(size), length + 1) <= most_tails:
            length += 1
        most = pack.available[usable][order]
        few = [_sums(size, most, short)[0] for short in range(length + 1)]
        sums, first = _sums(size, most, length)
        if not len(sums):
            return None
        by = np.argsort(sums[:, 0], kind="stable")
        sums = np.ascontiguousarray(sums[by])
        width = max(1, int(sums[-1, 0]) // len(sums))
        edges = np.arange(int(sums[-1, 0]) // width + 2) * width
        starts = np.searchsorted(sums[:, 0], edges).astype(np.int64)
        out.append(
            Tails(
                group.room,
                columns,
                usable[order],
                np.ascontiguousarray(slack[columns]),
                length,
                sums,
                first[by],
                starts,
                width,
                np.concatenate(few),
            )
        )
    return out


def alone(pack: Packing, tables: list[Tails], k: int, nodes: int) -> tuple[int, int]:
    """Whether some node can hold a pod of the class and leave at most the slack.

    Returns
    -------
    tuple
        1 when it may, 0 when none can, -1 when given up; partial fillings looked at.
    """
    visited = 0
    for table in tables:
        mine = np.flatnonzero(table.rows == k)
        room = (table.room - pack.size[k])[table.columns]
        if not len(mine) or bool((room < 0).any()):
            continue
        if bool(((table.few <= room) & (room - table.few <= table.slack)).all(axis=1).any()):
            return 1, visited
        count = pack.available[table.rows].copy()
        count[mine[0]] -= 1
        size = np.ascontiguousarray(pack.size[table.rows][:, table.columns])
        found, looked = kernels.filling(
            size, count, room.copy(), table.slack, table.sums, table.first, table.starts,
            table.width, table.length, nodes,
        )  # fmt: skip
        visited += int(looked)
        if found:
            return int(found), visited
    return 0, visited


def _choices(items: int, length: int) -> int:
    """How many choices of so many items there are, repetitions allowed."""
    out = 1
    for k in range(length):
        out = out * (items + k) // (k + 1)
    return out


def _sums(size: Ints, most: Ints, length: int) -> tuple[Ints, Ints]:
    """Sums of all choices of so many items, at most ``most`` of each, and the first in each."""
    if length == 0:
        return np.zeros((1, size.shape[1]), dtype=np.int64), np.zeros(1, dtype=np.int64)
    chosen = np.arange(len(size))[:, None]
    for _ in range(length - 1):
        last = chosen[:, -1]
        follow = len(size) - last
        before = np.repeat(np.arange(len(chosen)), follow)
        start = np.repeat(np.cumsum(follow) - follow, follow)
        chosen = np.column_stack([chosen[before], last[before] + np.arange(len(before)) - start])
    for more in range(1, length):
        again = (chosen[:, more:] == chosen[:, :-more]) & (most[chosen[:, more:]] <= more)
        chosen = chosen[~again.any(axis=1)]
    return size[chosen].sum(axis=1), chosen[:, 0].copy()
