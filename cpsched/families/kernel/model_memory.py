"""Constraints of the model on live results: shared and tensor memory, registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cpsched.families.kernel.model_groups import wider, widths
from cpsched.families.kernel.prepare import Choice, Instance

if TYPE_CHECKING:
    from cpsched.families.kernel.model import KernelModel, Term


class Life(NamedTuple):
    """A live range on the circle: whole periods, a rest, the rest's end on the circle laid out, and
    the most whole periods possible."""

    whole: Term
    rest: Term
    end: Term
    most: int


def lifetime(m: KernelModel, o: int) -> Life | None:
    """Live range of a result, from its issue to its last use; None without a use."""
    instance, model, period = m.instance, m.model, m.interval
    if not instance.life[o]:
        return None
    if o in m.life:
        return m.life[o]
    delays = direct_delays(instance, o)
    spans = []
    most = 0
    for use in instance.life[o]:
        reach: Term = use.distance
        farthest = use.distance
        if use.buffer >= 0:
            reach = reach + m.v.depth[use.buffer]
            farthest += instance.problem.buffers[use.buffer].max_depth
        span = m.between(o, use.target, reach)
        if span is None:
            # Another part: some number of stages later, as long as the delay holds.
            least = delays.get((use.target, use.distance, use.buffer), _least_path(instance))
            periods = max(0, (least + period) // period + 1)
            later = model.new_int_var(-1, periods + 1, f"later {o} {use.target}")
            span = m.v.slot[use.target] - m.v.slot[o] + period * later
            model.add(span >= least)
        else:
            widest = int(m.high[use.target] - m.low[o])
            periods = max(0, widest // period + farthest + 1)
        most = max(most, periods)
        spans.append(span)
    whole = model.new_int_var(0, most, f"periods {o}")
    rest = model.new_int_var(0, period - 1, f"rest {o}")
    for span in spans:
        model.add(period * whole + rest >= span)
    end = model.new_int_var(0, 2 * period - 2, f"dead {o}")
    model.add(end == m.v.slot[o] + rest)
    m.life[o] = Life(whole, rest, end, most)
    return m.life[o]


def _least_path(instance: Instance) -> int:
    """A bound from below on the delays along the views between a result and its use."""
    return int(np.minimum(instance.delay, 0).sum())


def direct_delays(instance: Instance, o: int) -> dict[tuple[int, int, int], int]:
    """Delay of each edge that leaves an operation, by (target, distance, buffer)."""
    table: dict[tuple[int, int, int], int] = {}
    for e in np.flatnonzero(instance.source == o).tolist():
        key = (int(instance.target[e]), int(instance.distance[e]), int(instance.buffer[e]))
        table[key] = max(table.get(key, int(instance.delay[e])), int(instance.delay[e]))
    return table


def amounts(m: KernelModel, o: int, amount: Callable[[Choice], int]) -> Iterator[tuple[Term, int]]:
    """The amounts, above zero, that an operation may hold, each behind the literal of its modes."""
    modes = m.instance.modes[o]
    for value in sorted({amount(c) for c in modes} - {0}):
        for x in m.with_mode(o, [amount(c) == value for c in modes]):
            yield x, value


def gated(m: KernelModel, whole: Term, most: int, literal: Term) -> Term:
    """At least the whole periods of a live range when a literal holds."""
    if isinstance(literal, int):
        return whole
    inside = m.model.new_int_var(0, most, "periods inside")
    m.model.add(inside >= whole).only_enforce_if(literal)
    return inside


def _live_intervals(m: KernelModel, o: int, presence: Term) -> list[Any]:
    life = m.life[o]
    copies = []
    for shift in (0, m.interval):
        span = (m.v.slot[o] + shift, life.rest, life.end + shift)
        name = f"live {o} {shift}"
        if isinstance(presence, int):
            copies.append(m.model.new_interval_var(*span, name))
        else:
            copies.append(m.model.new_optional_interval_var(*span, presence, name))
    return copies


def memory(m: KernelModel) -> None:
    """Shared and tensor memory: live results and whole rings within the capacity."""
    machine = m.instance.problem.machine
    _capacity(m, "smem", machine.smem_bytes, lambda c: c.smem)
    _capacity(m, "tmem", machine.tmem_columns, lambda c: c.tmem)


def rings(m: KernelModel, memory: str) -> Term:
    """What the declared rings of a memory hold."""
    problem = m.instance.problem
    return sum(
        b.size * d
        for b, d in zip(problem.buffers, m.v.depth, strict=True)
        if b.memory == memory and b.size
    )


def _capacity(
    m: KernelModel, memory: str, limit: int | None, amount: Callable[[Choice], int]
) -> None:
    if limit is None:
        return
    left: Term = limit - rings(m, memory)
    intervals, demands = [], []
    for o in range(m.instance.n):
        for x, value in amounts(m, o, amount):
            life = lifetime(m, o)
            if life is None:
                continue
            left = left - value * gated(m, life.whole, min(life.most, limit // value), x)
            copies = _live_intervals(m, o, x)
            intervals += copies
            demands += [value] * len(copies)
    if intervals:
        m.model.add_cumulative(intervals, demands, m.variable(left, limit))
    elif not isinstance(left, int):
        m.model.add(left >= 0)
    elif left < 0:
        m.model.add_bool_or([])


def registers(m: KernelModel) -> None:
    """Live words of every group within its warps' registers, and of all groups together."""
    instance, model = m.instance, m.model
    machine = instance.problem.machine
    bound, file = machine.registers_per_warp, machine.registers
    if bound is None and file is None:
        return
    limits = [] if bound is None else [bound * widths(m)[-1]]
    limit = min([*limits, *([] if file is None else [file])])
    peaks = []
    for g in range(instance.groups):
        intervals: list[Any] = []
        demands: list[int] = []
        held: list[Term] = []
        for o in range(instance.n):
            for x, words in amounts(m, o, lambda c: c.registers):
                inside = m.both(m.v.member[o][g], x)
                life = lifetime(m, o)
                if life is None or (isinstance(inside, int) and not inside):
                    continue
                most = min(life.most, limit // words)
                held.append(words * gated(m, life.whole, most, inside))
                intervals += _live_intervals(m, o, inside)
                demands += [words, words]
        if not intervals:
            continue
        peak = model.new_int_var(0, limit, f"peak {g}")
        model.add_cumulative(intervals, demands, m.variable(peak - sum(held), limit))
        peaks.append(peak)
        if bound is not None:
            _width(m, g, peak, bound)
    if file is not None and peaks:
        model.add(sum(peaks) + rings(m, "registers") <= file)


def _width(m: KernelModel, g: int, peak: Term, bound: int) -> None:
    """The peak of a group is within the registers of its widest operation's warps."""
    for width in widths(m)[:-1]:
        # Without a wider operation the group has no more registers than these warps.
        literals = wider(m, g, width)
        if not any(isinstance(x, int) for x in literals):
            m.model.add(peak <= bound * width).only_enforce_if([x.negated() for x in literals])
