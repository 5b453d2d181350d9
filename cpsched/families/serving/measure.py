"""What a schedule given as arrays is worth, and what its check will cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.families.serving.prepare import Prepared

    Ints = NDArray[np.int64]

#: Seconds that building and checking a schedule takes per request, more of them with a token
#: budget and with stages, and per block of a prefix.
CHECK, TOKENS, STAGES, BLOCK = 2.5e-5, 1.2e-5, 5.5e-5, 6e-6


def check_seconds(q: Prepared) -> float:
    """Seconds that building a schedule of the problem and checking it will take."""
    each = CHECK + STAGES * q.staged + TOKENS * bool((q.budget < 2**60).any())
    return q.pace * (each * q.n + BLOCK * len(q.nodes))


def dispatch_seconds(q: Prepared) -> float:
    """Seconds that dispatching all requests takes, see `dispatch`."""
    return q.pace * (2.4e-5 if q.staged else 1.2e-5) * q.n


def energy_seconds(q: Prepared) -> float:
    """Seconds that the bound by energy takes (see `capacity`)."""
    return q.pace * 3e-5 * q.n


def misses(q: Prepared, start: Ints, machine: Ints) -> int:
    """How many requests miss their SLO."""
    return int(late(q, start, machine).sum())


def late(q: Prepared, start: Ints, machine: Ints) -> NDArray[np.bool_]:
    """Which requests miss their SLO, (n,)."""
    kind = q.kind[np.maximum(machine, 0)]
    each = np.arange(q.n)
    first = start + q.prefill[kind, each] + np.minimum(1, q.output)
    missed: NDArray[np.bool_] = (
        (first > q.first_by) | (start + q.length[kind, each] > q.end_by) | (machine < 0)
    )
    return missed


def value_of(q: Prepared, start: Ints, machine: Ints, name: str) -> int:
    """The objective of starts and machines: latency (weighted) or makespan."""
    placed = machine >= 0
    end = start + q.length[q.kind[np.maximum(machine, 0)], np.arange(q.n)]
    if name == "makespan":
        return int(end[placed].max(initial=0))
    arrival = np.array([r.arrival for r in q.problem.requests])
    return int((q.weight * (end - arrival))[placed].sum())
