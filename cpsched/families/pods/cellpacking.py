"""Packing pods that take parts of cells (GPUs): node patterns with the cells relaxed to totals.

A pattern respects the node's resources, the total of its cells, and dual feasible functions of the
cells, which count what parts of more than a half, a third, or a given size exclude. The
relaxation bounds what fits; patterns are packed into real cells one pod at a time, and what does
not fit is placed wherever it does.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from cpsched.core.run import Run
from cpsched.families.pods import aggregate, dive, patterns, warm
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.board import Board
from cpsched.families.pods.cellswaps import exchange
from cpsched.families.pods.plan import schedule_of, without_detours
from cpsched.families.pods.prepare import Instance
from cpsched.result import Bound


def applies(instance: Instance, run: Run) -> bool:
    """Whether the first objective is to allocate parts of equal cells to pending pods."""
    return (
        bool(run.objectives)
        and run.objectives[0].name == "gpu_milli"
        and instance.cell_resources == ["gpu_milli"]
        and len(np.unique(instance.cell_capacity[instance.cell_capacity >= 0])) == 1
    )


def packing(instance: Instance) -> patterns.Packing:
    """The relaxation of the pods that take cells; weights are the cell amounts they take."""
    pack = patterns.packing(instance, keep_all=True)
    whole = int(instance.cell_capacity.max(initial=0))
    each = instance.cell_requests[pack.classes, 0]
    count = instance.cell_count[pack.classes]
    rows = [count * each] + [count * _dual_feasible(each, whole, k) for k in (1, 2)]
    rows += [count * _thresholds(each, whole, t) for t in _costliest(each, pack.available, whole)]
    size = np.column_stack([pack.size, *rows])
    groups = []
    for group in pack.groups:
        cells = int((instance.cell_capacity[group.members[0], :, 0] >= 0).sum())
        extra = np.full(len(rows), cells * whole, dtype=np.int64)
        fits = np.where(count <= cells, group.limit, 0)
        groups.append(patterns.NodeGroup(group.members, np.concatenate([group.room, extra]), fits))
    return replace(
        pack,
        size=np.ascontiguousarray(size),
        weight=count * each,
        tier=np.zeros(len(pack.classes), dtype=np.int64),
        groups=tuple(groups),
    )


def _dual_feasible(amount: Ints, whole: int, k: int) -> Ints:
    """The dual feasible function u(k), times ``whole`` (rounded down): sums stay within a cell."""
    steps = (k + 1) * amount
    out: Ints = np.where(steps % whole == 0, amount, (steps // whole) * whole // k)
    return out


def _thresholds(amount: Ints, whole: int, large: int) -> Ints:
    """The dual feasible function that rounds ``large`` and more up, what fits beside it down."""
    out: Ints = np.where(amount >= large, whole, np.where(amount <= whole - large, 0, amount))
    return out


def _costliest(amount: Ints, available: Ints, whole: int) -> list[int]:
    """The amounts above a half that leave most room unusable for all but small pods."""
    sizes = sorted({int(a) for a in amount if whole < 2 * a < 2 * whole})
    waste = {s: (whole - s) * int(available[amount == s].sum()) for s in sizes}
    return sorted(waste, key=lambda s: -waste[s])[:3]


def search(instance: Instance, run: Run) -> None:
    """Bound, dive, pack; then fill up with whatever fits."""
    pack = packing(instance)
    budget = run.clock.remaining()
    total = int((pack.available * pack.weight).sum())
    run.raise_bound(Bound(total, "demand", "gpu_milli"))
    priced = aggregate.prices(pack)
    data = {"prices": [p.tolist() for p in priced]}
    run.raise_bound(Bound(aggregate.bound(pack, priced), "aggregate", "gpu_milli", data))
    found = patterns.generate(pack, 0, [], [], run.clock, until=0.6 * budget)
    if found.bound is not None and found.multipliers is not None:
        run.raise_bound(_bound(instance, pack, found))
    chosen = dive.dive(pack, found.master, run.clock, 0.2 * budget)
    if chosen is None and warm.ready(run.clock):
        columns = [(g, f) for g, f, _ in found.master.columns]
        chosen = dive.choose(pack, columns, run, 0.5 * run.clock.remaining())
    if chosen is None:
        return
    board = realise(instance, pack, chosen, run)
    actions = without_detours(instance, board.actions)
    run.offer(lambda: schedule_of(instance, actions), "patterns:cells")


def _bound(instance: Instance, pack: patterns.Packing, found: patterns.Certificate) -> Bound:
    assert found.bound is not None
    assert found.multipliers is not None
    names = [instance.classes[c].pod.name for c in pack.classes.tolist()]
    multipliers = zip(names, found.multipliers[0].tolist(), strict=True)
    data = {"multipliers": {n: int(m) for n, m in multipliers if m}}
    return Bound(found.bound, "cell-patterns", "gpu_milli", data)


def realise(instance: Instance, pack: patterns.Packing, chosen: dive.Chosen, run: Run) -> Board:
    """Pack the patterns' pods into cells, then every other pod wherever it fits, largest first."""
    board = Board(instance)
    waiting = {
        int(c): [p for p in instance.classes[c].members if board.at[p] < 0] for c in pack.classes
    }
    nodes: dict[int, list[int]] = defaultdict(list)
    for g, group in enumerate(pack.groups):
        nodes[g] = list(group.members)
    order = np.argsort(-(instance.cell_requests[pack.classes, 0]), kind="stable")
    for g, filling in chosen:
        n = nodes[g].pop()
        for k in order.tolist():
            c = int(pack.classes[k])
            for _ in range(int(filling[k])):
                if waiting[c] and board.can(c, n):
                    board.bind(waiting[c].pop(), n)
    rest = sorted(
        (c for c in waiting if waiting[c]),
        key=lambda c: (
            -int(instance.cell_count[c] * instance.cell_requests[c, 0]),
            -int(instance.requests[c, 1:].sum()),
        ),
    )
    for c in rest:
        while waiting[c] and not run.clock.expired():
            n = board.best_node(c)
            if n < 0:
                break
            board.bind(waiting[c].pop(), n)
    exchange(board, waiting, run.clock)
    return board
