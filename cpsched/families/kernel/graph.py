"""Strongly connected parts and longest paths of a dependence graph."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def longest(
    n: int, tails: Ints, heads: Ints, weight: Ints, seed: Ints | None = None
) -> Ints | None:
    """Longest path weight into every node, never below its seed (zero); None when a cycle has
    positive weight."""
    value = np.zeros(n, dtype=np.int64) if seed is None else seed.copy()
    if len(weight) == 0:
        return value
    for _ in range(n + 1):
        before = value.copy()
        np.maximum.at(value, heads, value[tails] + weight)
        if (before == value).all():
            return value
    return None


def strong_parts(n: int, edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Strongly connected parts of the nodes ``0..n-1``, in a topological order of the parts.

    Tarjan's algorithm without recursion (R. E. Tarjan, "Depth-first search and linear graph
    algorithms", SIAM J. Comput. 1972).
    """
    after: list[list[int]] = [[] for _ in range(n)]
    for u, w in edges:
        after[u].append(w)
    number = [0] * n  # order of discovery from 1; 0: not seen, -1: in a finished part
    low = [0] * n
    parts: list[list[int]] = []
    stack: list[int] = []
    count = 0
    for root in range(n):
        if number[root]:
            continue
        count += 1
        number[root] = low[root] = count
        stack.append(root)
        path = [(root, iter(after[root]))]
        while path:
            u, rest = path[-1]
            for w in rest:
                if number[w] == 0:
                    count += 1
                    number[w] = low[w] = count
                    stack.append(w)
                    path.append((w, iter(after[w])))
                    break
                if number[w] > 0:
                    low[u] = min(low[u], number[w])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[u])
                if low[u] == number[u]:
                    part = [stack.pop()]
                    while part[-1] != u:
                        part.append(stack.pop())
                    for w in part:
                        number[w] = -1
                    parts.append(part)
    parts.reverse()
    return parts
