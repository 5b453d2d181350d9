"""The kernel of near-perfect packings: pods of two or three nodes at a time are divided anew."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def draw(state: Any, below: Any) -> Any:
    """A random index below a number; ``state`` (one int64) moves on."""
    state[0] = (state[0] * 1103515245 + 12345) % 2147483648
    return (state[0] // 256) % below


@kernel
def excess(use: Any, goal: Any) -> Any:
    """Squared relative overload of one node, all resources together."""
    total = 0.0
    for r in range(use.shape[0]):
        over = use[r] - goal[r]
        if over > 0.0:
            total += over * over
    return total


@kernel
def divide(free: Any, count: Any, share: Any, total: Any, base: Any, goal: Any, other: Any,
           known: Any, side: Any) -> Any:  # fmt: skip
    """Divide pods between two nodes so that their overload is least.

    Parameters
    ----------
    free, count
        The pods that may be on either node, the first ``count`` entries.
    share
        float64 pod x resource.
    total, base
        What both nodes hold together, and what stays on the first in any case.
    goal, other
        Amounts that the nodes should stay within.
    known
        Overload that there is now: only less is looked for.
    side
        Receives for each free pod whether it goes to the first node, when less was found.

    Returns
    -------
    float
        The least overload found, ``known`` when there is none below it.
    """
    resources = total.shape[0]
    use = base.copy()
    best = known
    code = 0
    chosen = -1
    for step in range(1 << count):
        if step:
            bit = 0
            rest = step
            while rest % 2 == 0:
                rest //= 2
                bit += 1
            code ^= 1 << bit
            pod = free[bit]
            if (code >> bit) % 2:
                for r in range(resources):
                    use[r] += share[pod, r]
            else:
                for r in range(resources):
                    use[r] -= share[pod, r]
        cost = 0.0
        for r in range(resources):
            over = use[r] - goal[r]
            if over > 0.0:
                cost += over * over
            over = total[r] - use[r] - other[r]
            if over > 0.0:
                cost += over * over
        if cost < best - 1e-14:
            best = cost
            chosen = code
            if cost <= 0.0:
                break
    if chosen >= 0:
        for k in range(count):
            side[k] = (chosen >> k) % 2
    return best


@kernel
def rebalance(size: Any, share: Any, room: Any, goal: Any, allowed: Any, kind: Any, at: Any,
              width: Any, steps: Any, patience: Any, seed: Any) -> Any:  # fmt: skip
    """Move pods between nodes until none is overloaded, or the steps are used up.

    Parameters
    ----------
    size, room
        int64 pod x resource, node x resource.
    share, goal
        The same as floats in comparable units; the goals may be below the rooms.
    allowed
        bool pod x node.
    kind
        int64 per pod: pods of one kind may change places with those left out.
    at
        int64 per pod: its node, -1 for a pod left out; changed in place.
    width
        Most pods of a pair of nodes that are divided anew at once.
    steps
        Pairs of nodes to look at.
    patience
        After so many pairs without an improvement some pods are exchanged at random.
    seed
        One int64, changed in place.

    Returns
    -------
    tuple
        Whether no node is overloaded, and how many divisions were looked at.
    """
    pods, resources = size.shape
    nodes = room.shape[0]
    use = np.zeros((nodes, resources))
    exact = np.zeros((nodes, resources), dtype=np.int64)
    for i in range(pods):
        if at[i] >= 0:
            for r in range(resources):
                use[at[i], r] += share[i, r]
                exact[at[i], r] += size[i, r]
    free = np.empty(width, dtype=np.int64)
    side = np.zeros(width, dtype=np.int64)
    base = np.zeros(resources)
    total = np.zeros(resources)
    over = np.empty(nodes, dtype=np.int64)
    looked = 0
    idle = 0
    for _ in range(steps):
        overloaded = 0
        for n in range(nodes):
            for r in range(resources):
                if exact[n, r] > room[n, r]:
                    over[overloaded] = n
                    overloaded += 1
                    break
        if not overloaded:
            return True, looked
        a = over[draw(seed, overloaded)]
        if draw(seed, 4) == 0:
            a = draw(seed, nodes)
        if draw(seed, 8) == 0:
            # A pod left out instead of one of the same kind on the node.
            before = excess(use[a], goal[a])
            best = before - 1e-14
            gone = -1
            come = -1
            for i in range(pods):
                if at[i] != a:
                    continue
                for j in range(pods):
                    if at[j] >= 0 or kind[j] != kind[i] or not allowed[j, a]:
                        continue
                    cost = 0.0
                    for r in range(resources):
                        amount = use[a, r] - share[i, r] + share[j, r] - goal[a, r]
                        if amount > 0.0:
                            cost += amount * amount
                    if cost < best:
                        best = cost
                        gone = i
                        come = j
            looked += pods
            if gone >= 0:
                at[gone] = -1
                at[come] = a
                for r in range(resources):
                    use[a, r] += share[come, r] - share[gone, r]
                    exact[a, r] += size[come, r] - size[gone, r]
                idle = 0
            continue
        if nodes < 2:
            return False, looked
        b = draw(seed, nodes - 1)
        if b >= a:
            b += 1
        count = 0
        met = 0
        for r in range(resources):
            base[r] = 0.0
            total[r] = use[a, r] + use[b, r]
        for i in range(pods):
            if at[i] != a and at[i] != b:
                continue
            loose = allowed[i, a] and allowed[i, b]
            if loose:
                met += 1
                if count < width:
                    free[count] = i
                    count += 1
                    continue
                # More than can be looked at together: a random part of them.
                k = draw(seed, met)
                if k < width:
                    last = free[k]
                    free[k] = i
                    if at[last] == a:
                        for r in range(resources):
                            base[r] += share[last, r]
                    continue
            if at[i] == a:
                for r in range(resources):
                    base[r] += share[i, r]
        before = excess(use[a], goal[a]) + excess(use[b], goal[b])
        if before <= 0.0:
            idle += 1
        else:
            looked += 1 << count
            after = divide(free, count, share, total, base, goal[a], goal[b], before, side)
            if after < before - 1e-14:
                for k in range(count):
                    i = free[k]
                    target = a if side[k] else b
                    if at[i] != target:
                        source = at[i]
                        at[i] = target
                        for r in range(resources):
                            use[source, r] -= share[i, r]
                            use[target, r] += share[i, r]
                            exact[source, r] -= size[i, r]
                            exact[target, r] += size[i, r]
                idle = 0
            else:
                idle += 1
        if idle > patience:
            # Stuck: a few pods change places.
            idle = 0
            for _ in range(3):
                i = draw(seed, pods)
                j = draw(seed, pods)
                n = at[i]
                m = at[j]
                if n < 0 or m < 0 or n == m or not allowed[i, m] or not allowed[j, n]:
                    continue
                at[i] = m
                at[j] = n
                for r in range(resources):
                    use[n, r] += share[j, r] - share[i, r]
                    use[m, r] += share[i, r] - share[j, r]
                    exact[n, r] += size[j, r] - size[i, r]
                    exact[m, r] += size[i, r] - size[j, r]
    return False, looked


def warm_up() -> None:
    """Compile every kernel for the types used in production."""
    size = np.array([[2, 3], [4, 1], [3, 2]], dtype=np.int64)
    room = np.array([[5, 4], [5, 4]], dtype=np.int64)
    rebalance(
        size, size / 5.0, room, room / 5.0, np.ones((3, 2), dtype=bool),
        np.zeros(3, dtype=np.int64), np.array([0, 0, 0], dtype=np.int64), 3, 10, 5,
        np.array([1], dtype=np.int64),
    )  # fmt: skip
