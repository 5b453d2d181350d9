"""What a benchmark suite consists of: cases with best known values, and peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One instance.

    Attributes
    ----------
    name
        Unique within the suite.
    load
        Gives the problem (called once per run, outside the timed call).
    path
        The file, hashed into the record; None for generated instances.
    best, best_bound
        Best known objective value and bound of the first objective, where known.
    infeasible
        Proven to have no schedule.
    maximise
        Sense of the first objective.
    solve
        Further keyword arguments of `cpsched.solve` for this case.
    """

    name: str
    load: Callable[[], Any]
    path: Path | None = None
    best: float | None = None
    best_bound: float | None = None
    infeasible: bool = False
    maximise: bool = False
    solve: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a peer found: times in seconds from its call, ``trace`` as (time, objective)."""

    status: str
    objective: float | None
    bound: float | None = None
    trace: tuple[tuple[float, float], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


#: ``peer(case, problem, limit, workers, seed)``; imports the peer inside.
Peer = Callable[[Case, Any, float, int, int], Answer]


@dataclass(frozen=True)
class Suite:
    """A named list of cases. ``cases(data)`` gets the data folder (None: generated only)."""

    name: str
    description: str
    cases: Callable[[Path | None], list[Case]]
    limit: float = 10.0
    peers: Mapping[str, Peer] = field(default_factory=dict)
    #: Further figures of one cpsched result to record: ``extra(case, problem, result)``.
    extra: Callable[[Case, Any, Any], Mapping[str, Any]] | None = None
