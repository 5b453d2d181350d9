"""Near-perfect packings: exactly the pods that a bound leaves possible, overloads divided away.

When a bound leaves hardly any room unused, greedy and diving leave a few awkward pods over. Here
all the pods to be placed are on nodes from the start, some of which are overloaded, and the pods
of two nodes at a time are divided anew so that the overload is least.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from cpsched.core import jit
from cpsched.core.clock import Clock
from cpsched.families.pods import kernels_balance as kernels
from cpsched.families.pods.arrays import Bools, Floats, Ints
from cpsched.families.pods.patterns import Packing

#: Pods of two nodes that are divided anew at once, compiled and interpreted.
WIDTH, WIDTH_INTERPRETED = 16, 7
#: Divisions of one call of the kernel, and estimated seconds of one.
CALL = 4_000_000
DIVISION_SECONDS = 6e-9
#: Pairs of nodes without an improvement before pods are exchanged at random.
PATIENCE = 200
#: Pods per node from which on pairs of nodes leave enough choice.
FEWEST = 5
#: Most nodes, pods, and classes of which a node takes only so many.
MOST_NODES, MOST_PODS, MOST_LIMITED = 2_000, 10_000, 4


@dataclass(frozen=True)
class Items:
    """Single pods and nodes of a packing, limits of classes per node as further resources."""

    group: Ints
    tier: Ints
    size: Ints
    room: Ints
    nodes: Ints
    allowed: Bools


def items_of(pack: Packing) -> Items | None:
    """The pods and nodes, None where the search would not suit them."""
    count = int(pack.available.sum())
    nodes = np.array([n for g in pack.groups for n in g.members], dtype=np.int64)
    if not 1 <= count <= MOST_PODS or not 1 <= len(nodes) <= MOST_NODES:
        return None
    if len(set(pack.weight.tolist())) != 1:
        return None
    most = np.stack([g.limit for g in pack.groups])
    limited = np.flatnonzero(((most > 0) & (most < pack.available)).any(axis=0))
    # A class that a node takes only so often is a resource of its own.
    if len(limited) > MOST_LIMITED:
        return None
    group = np.repeat(np.arange(len(pack.classes)), pack.available)
    rows = [g for g, one in enumerate(pack.groups) for _ in one.members]
    extra = np.array([[int(k == c) for c in limited] for k in group], dtype=np.int64)
    size = np.concatenate([pack.size[group], extra.reshape(count, -1)], axis=1)
    room = np.concatenate(
        [np.stack([pack.groups[g].room for g in rows]), most[rows][:, limited]], axis=1
    )
    return Items(
        group,
        pack.tier[group],
        np.ascontiguousarray(size),
        np.ascontiguousarray(room),
        nodes,
        np.ascontiguousarray((most[rows] > 0).T[group]),
    )


def left_out(items: Items, counts: list[int], share: Floats, rng: random.Random) -> Ints | None:
    """Pods to leave out, as many per tier as there are beyond the counts.

    Exchanges make the rest small in the resource that is shortest; the start is random, so that
    each call ends with other pods of about the same size.
    """
    parts: list[Ints] = []
    weight = np.array([rng.random() + 0.2 for _ in range(share.shape[1])])
    before = 0
    for tier, count in enumerate(counts):
        mine = np.flatnonzero(items.tier == tier)
        spare = len(mine) - (count - before)
        before = count
        if not 0 <= spare <= len(mine):
            return None
        noise = np.array([rng.random() for _ in mine])
        parts.append(mine[np.argsort(0.05 * noise - share[mine] @ weight, kind="stable")[:spare]])
    gone = np.concatenate(parts)
    kept = np.setdiff1d(np.arange(len(items.tier)), gone)
    capacity = np.maximum(items.room.sum(axis=0) / items.room.mean(axis=0), 1.0)
    load = share[kept].sum(axis=0)
    while len(gone) and len(kept):
        after = (load + share[gone][:, None] - share[kept][None]) / capacity
        worst = after.max(axis=2)
        worst[items.tier[gone][:, None] != items.tier[kept][None]] = np.inf
        best = int(np.argmin(worst))
        g, k = divmod(best, len(kept))
        if worst[g, k] >= (load / capacity).max() - 1e-9:
            break
        load = load + share[gone[g]] - share[kept[k]]
        gone[g], kept[k] = kept[k], gone[g]
    return gone


def pack_all(
    pack: Packing, counts: list[int], start: Ints, clock: Clock, until: float, seed: int
) -> dict[tuple[int, int], int] | None:
    """Place exactly ``counts`` pods per tier (cumulative), or give up in time.

    Parameters
    ----------
    start
        Node of each pod of the instance in a known end state.
    until
        Stop when the clock has less than this left.

    Returns
    -------
    dict or None
        Pods per (class, node).
    """
    items = items_of(pack)
    if items is None:
        return None
    rng = random.Random(seed)
    unit = np.maximum(1.0, items.room.mean(axis=0))
    share = items.size / unit
    room = items.room / unit
    state = np.array([1 + seed % 2**30], dtype=np.int64)
    width = WIDTH if jit.slowdown("pods") == 1.0 else WIDTH_INTERPRETED
    while clock.remaining() > until and not clock.cancelled:
        gone = left_out(items, counts, share, rng)
        if gone is None:
            return None
        at = _start(pack, items, start, gone, share, room)
        slack = room.sum(axis=0) - np.delete(share, gone, axis=0).sum(axis=0)
        if (slack < -1e-9).any():
            continue
        goal = room - 0.5 * slack / len(room)
        done, spent = False, 0
        while not done and spent < 50 * CALL:
            if clock.remaining() <= until or clock.cancelled:
                return None
            steps = max(20, (CALL if width == WIDTH else 4_000) >> width)
            done, looked = kernels.rebalance(
                items.size, share, items.room, goal, items.allowed, items.tier, at, width, steps,
                PATIENCE, state,
            )  # fmt: skip
            spent += int(looked)
            clock.spend(DIVISION_SECONDS * jit.slowdown("pods") * int(looked) + 1e-5)
        if done:
            out: dict[tuple[int, int], int] = {}
            for i in np.flatnonzero(at >= 0).tolist():
                key = int(pack.classes[items.group[i]]), int(items.nodes[at[i]])
                out[key] = out.get(key, 0) + 1
            return out
    return None


def _start(
    pack: Packing, items: Items, start: Ints, gone: Ints, share: Floats, room: Floats
) -> Ints:
    """Each pod where it is in the known end state, the others where most room is left."""
    instance = pack.instance
    position = {int(n): k for k, n in enumerate(items.nodes)}
    where: dict[int, list[int]] = {}
    for p in np.flatnonzero(start >= 0).tolist():
        where.setdefault(int(instance.class_of[p]), []).append(position[int(start[p])])
    at = np.full(len(items.group), -1, dtype=np.int64)
    left = room.copy()
    skip = set(gone.tolist())
    homeless = []
    for i, k in enumerate(items.group.tolist()):
        if i in skip:
            continue
        listed = where.get(int(pack.classes[k]))
        if listed:
            at[i] = listed.pop()
            left[at[i]] -= share[i]
        else:
            homeless.append(i)
    for i in sorted(homeless, key=lambda i: -float(share[i].sum())):
        worth = np.where(items.allowed[i], left.min(axis=1), -np.inf)
        at[i] = int(np.argmax(worth))
        left[at[i]] -= share[i]
    return at
