"""Between arrays of starts and modes and the schedule of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cpsched.families.rcpsp.facts import held_names
from cpsched.families.rcpsp.instance import Instance
from cpsched.families.rcpsp.problem import RcpspSchedule
from cpsched.families.rcpsp.profile import end_after


@dataclass(frozen=True)
class State:
    """A schedule by indices: start, end, and mode (-1 when absent) of every task."""

    start: list[int]
    end: list[int]
    mode: list[int]


def schedule_of(
    instance: Instance, starts: Sequence[int], modes: Sequence[int] | None = None
) -> RcpspSchedule:
    """The schedule with these starts.

    Parameters
    ----------
    starts : (n,)
    modes : (n,)
        Indices into the mode arrays, -1 for absent tasks; None when every task has one mode.
    """
    chosen = instance.mode_start[:-1].tolist() if modes is None else [int(m) for m in modes]
    first = instance.mode_start.tolist()
    duration = instance.duration.tolist()
    held = _held(instance)
    tasks: list[dict[str, Any]] = []
    for i, (start, mode) in enumerate(zip(starts, chosen, strict=True)):
        if mode < 0:
            continue
        end = int(start) + duration[mode]
        if instance.pausable[i]:
            end = end_after(int(start), duration[mode], instance.breaks(i, mode))
        tasks.append(
            {
                "task": instance.ids[i],
                "mode": mode - first[i],
                "start": int(start),
                "end": end,
                "resources": held[mode],
            }
        )
    # Validating plain data is faster than constructing objects one by one.
    return RcpspSchedule.model_validate(
        {"tasks": tasks, "makespan": max((t["end"] for t in tasks), default=0)}
    )


def _held(instance: Instance) -> list[tuple[str, ...]]:
    """Names of the renewable resources that each mode holds."""
    known: list[tuple[str, ...]] | None = instance.extras.get("held")
    if known is None:
        known = instance.extras["held"] = held_names(instance.renewable, instance.demand)
    return known


def state_of(instance: Instance, schedule: RcpspSchedule) -> State:
    """The schedule by indices; tasks that it lacks start and end at their head."""
    index = instance.extras.get("index")
    if index is None:
        index = instance.extras["index"] = {name: i for i, name in enumerate(instance.ids)}
    start = instance.head.tolist()
    end = instance.head.tolist()
    mode = [-1] * instance.n
    for done in schedule.tasks:
        i = index[done.task]
        start[i], end[i] = done.start, done.end
        mode[i] = int(instance.mode_start[i]) + done.mode
    return State(start, end, mode)


def max_end(state: State) -> int:
    """The makespan of a state."""
    ends = [e for e, m in zip(state.end, state.mode, strict=True) if m >= 0]
    return max(ends, default=0)
