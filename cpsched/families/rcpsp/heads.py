"""Heads and tails by what must be done before and after: delays by whole sub-projects.

Between the start of the project and a task all its predecessors run, and they share the resources:
the work of any of them that start late enough delays the task. The same holds after it.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.families.rcpsp import bound as bounds

if TYPE_CHECKING:
    from cpsched.families.rcpsp.prepare import Instance

IntArray = NDArray[np.int64]


def raise_heads(instance: Instance) -> bool:
    """Raise heads and tails, in place, by what the tasks before and after need; whether any rose.

    Lower bounds of an instance whose heads were raised say so in their data (``delays``).
    """
    lines = list(chain.from_iterable(bounds.lines(instance)))
    if not lines:
        return False
    work = np.array([line.work for line in lines])
    capacity = np.array([line.capacity for line in lines])
    length = bounds.shortest(instance)
    before = bounds.before(instance)
    head = _delayed(instance.head, before, work, capacity, length)
    after = _delayed(bounds.after_end(instance), before.T, work, capacity, length)
    tail = np.maximum(instance.tail, after + length)
    if (head == instance.head).all() and (tail == instance.tail).all():
        return False
    instance.head[:], instance.tail[:] = head, tail
    instance.extras["after_end"] = after
    instance.extras["delays"] = True
    return True


def _delayed(
    head: IntArray, before: NDArray[np.bool_], work: IntArray, capacity: IntArray, length: IntArray
) -> IntArray:
    """Heads (n,) raised by the work (L, n) of predecessors on lines of some capacity (L,)."""
    head = head.copy()
    for j in np.argsort(before.sum(axis=0), kind="stable").tolist():
        first = np.flatnonzero(before[:, j])
        if not len(first):
            continue
        head[j] = max(head[j], int((head[first] + length[first]).max()))
        first = first[np.argsort(-head[first], kind="stable")]
        total = np.cumsum(work[:, first], axis=1)
        delay = np.where(total > 0, head[first] - (-total // capacity[:, None]), 0)
        head[j] = max(head[j], int(delay.max(initial=0)))
    return head
