"""The pipeline diagram: units and warp groups over cycles, iterations overlaid."""

from __future__ import annotations

from cpsched.families.kernel.modes import as_scheduled
from cpsched.families.kernel.problem import KernelProblem, KernelSchedule, Operation, Placement
from cpsched.plot.figure import Bar, Curve, Figure, Lane

#: Most bars of a diagram; beyond it fewer iterations are drawn.
MOST_BARS = 4000


def draw(problem: KernelProblem, schedule: KernelSchedule) -> Figure:
    """Enough iterations laid flat to show the steady state; colours are warp groups.

    One lane per unit shows the reservations, one per warp group its issue windows.
    """
    problem = as_scheduled(problem, schedule)
    period = schedule.initiation_interval
    operations = {o.id: o for o in problem.operations}
    iterations = max(1, min(schedule.stages + 1, MOST_BARS // max(1, len(operations)), 12))
    lanes = [
        Lane(unit.name, tuple(bars))
        for unit in problem.machine.units
        if (bars := _unit_bars(problem, schedule, unit.name, iterations))
    ]
    groups = sorted({p.group for p in schedule.operations if p.group is not None})
    for group in groups:
        members = [p for p in schedule.operations if p.group == group]
        bars = [
            _bar(operations[p.operation], p, i, period, 0, length, 0.0, 1.0)
            for p in members
            for i in range(iterations)
            if (length := operations[p.operation].issue_cycles)
        ]
        title = f"group {group}" + (" (producer)" if group == 0 else "")
        lanes.append(Lane(title, tuple(bars)))
    marks = tuple((float(k * period), f"{k} II") for k in range(1, iterations + 1))
    return Figure(
        title=f"{problem.name or 'loop'}: II {period}, length {schedule.length}, "
        f"{schedule.stages} stages",
        x_label="cycles",
        lanes=tuple(lanes),
        marks=marks,
    )


def _unit_bars(
    problem: KernelProblem, schedule: KernelSchedule, name: str, iterations: int
) -> list[Bar]:
    unit = problem.machine.unit(name)
    assert unit is not None
    operations = {o.id: o for o in problem.operations}
    spans = []
    for p in schedule.operations:
        for use in operations[p.operation].uses:
            if problem.machine.unit(use.unit) is unit:
                for i in range(iterations):
                    begin = p.start + i * schedule.initiation_interval + use.start
                    spans.append((begin, begin + use.cycles, use.amount, p, i, use.start))
    spans.sort(key=lambda s: s[:2])
    bars: list[Bar] = []
    open_rows: list[tuple[int, int, int]] = []
    for begin, end, amount, p, i, offset in spans:
        # Stack concurrent uses of a unit with several instances, lowest free share first.
        open_rows = [row for row in open_rows if row[0] > begin]
        bottom = 0
        for _, low, high in sorted(open_rows, key=lambda row: row[1]):
            if low - bottom >= amount:
                break
            bottom = max(bottom, high)
        open_rows.append((end, bottom, bottom + amount))
        share = unit.capacity
        bars.append(
            _bar(
                operations[p.operation],
                p,
                i,
                schedule.initiation_interval,
                offset,
                end - begin,
                min(bottom / share, 1.0),
                min((bottom + amount) / share, 1.0),
            )
        )
    return bars


def _bar(
    operation: Operation,
    placed: Placement,
    iteration: int,
    period: int,
    offset: int,
    length: int,
    bottom: float,
    top: float,
) -> Bar:
    begin = placed.start + iteration * period + offset
    group = "operation" if placed.group is None else f"group {placed.group}"
    return Bar(
        start=float(begin),
        end=float(begin + length),
        label=operation.id,
        colour=group,
        tooltip=f"{operation.id} {operation.label} of iteration {iteration}: issued at "
        f"{placed.start + iteration * period}, stage {placed.stage}, slot {placed.slot}, {group}",
        bottom=bottom,
        top=top,
    )


def sweep_figure(title: str, x_label: str, points: list[tuple[int, int | None]]) -> Figure:
    """The interval as a function of a resource."""
    curve = Curve("initiation interval", tuple((float(x), float(y)) for x, y in points if y))
    return Figure(
        title=title, x_label=x_label, y_label="initiation interval (cycles)", curves=(curve,)
    )
