"""The rules of shops with indices for names: part of `Instance`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SetupRule:
    """Setups of one machine.

    Attributes
    ----------
    resource
        Column of the machine.
    state : (n,)
        -1 for tasks that never use it.
    times, costs : (S, S)
    demand : (R,)
        Units that a setup holds of other resources.
    """

    resource: int
    state: IntArray
    times: IntArray
    costs: IntArray
    demand: IntArray


@dataclass(frozen=True)
class Leg:
    """Transport between two tasks whose time depends on the modes: the lag without it."""

    before: int
    after: int
    lag: int


@dataclass(frozen=True)
class Batch:
    """A batching machine: its column, and a family per task (n,)."""

    resource: int
    family: IntArray


@dataclass(frozen=True)
class Alike:
    """An assignment rule: whether the resources must differ, the tasks, and ``held``.

    ``held`` maps each mode of these tasks to the columns of the counted resources it holds.
    """

    different: bool
    tasks: tuple[int, ...]
    held: dict[int, frozenset[int]]


@dataclass(frozen=True)
class ShopRules:
    """What shops ask beyond setups and blocking; false when they ask nothing.

    Attributes
    ----------
    swap
        False where blocking tasks must not swap.
    no_idle
        Columns of machines without idle time.
    sequences
        Per rule an array (lists, positions) of tasks.
    place : (M,)
        Row of each mode in ``transport_times``, -1 for none.
    legs
        Transports whose times depend on modes; others are lags of `Instance.edges`.
    """

    swap: bool
    no_idle: tuple[int, ...]
    sequences: tuple[IntArray, ...]
    place: IntArray
    transport_times: IntArray
    legs: tuple[Leg, ...]
    batches: tuple[Batch, ...]
    assignments: tuple[Alike, ...]

    def __bool__(self) -> bool:
        parts: tuple[Any, ...] = (
            not self.swap,
            self.no_idle,
            self.sequences,
            self.legs,
            self.batches,
            self.assignments,
        )
        return any(bool(part) for part in parts)

    def only_sequences(self) -> bool:
        """Whether they ask for sequences and nothing else."""
        return bool(self.sequences) and not replace(self, sequences=())

    def transport(self, first: int, second: int) -> int:
        """Time from the machine of one mode to that of another."""
        a, b = int(self.place[first]), int(self.place[second])
        return 0 if a < 0 or b < 0 else int(self.transport_times[a, b])
