"""The picture of a workflow schedule: machines, the transfers into them, and conditional tasks."""

from __future__ import annotations

from cpsched.families.workflow import terms
from cpsched.families.workflow.problem import WorkflowProblem, WorkflowSchedule
from cpsched.plot.figure import Bar, Figure, Lane


def draw(problem: WorkflowProblem, schedule: WorkflowSchedule) -> Figure:
    """One lane per machine with its tasks, and one below it for the transfers that arrive."""
    tasks = {t.id: t for t in problem.tasks}
    conditional = terms.probabilities(problem)
    lanes = []
    for machine in problem.machines:
        placed = sorted(
            (p for p in schedule.tasks if p.machine == machine.name), key=lambda p: (p.start, p.end)
        )
        rows = _rows([(p.start, p.end) for p in placed])
        depth = max(rows, default=0) + 1
        bars = []
        for p, row in zip(placed, rows, strict=True):
            task = tasks[p.task]
            option = task.choices[p.option]
            label = p.task + (f" ({option.name})" if option.name else "")
            bars.append(
                Bar(
                    p.start,
                    p.end,
                    label=label,
                    colour=task.workflow or p.task,
                    tooltip=f"{label} on {machine.name}: {p.start:g} to {p.end:g}",
                    bottom=row / depth,
                    top=(row + 1) / depth,
                    dashed=p.task in conditional,
                )
            )
        lanes.append(Lane(machine.name, tuple(bars), height=min(4.0, max(1.0, depth / 2))))
        into = sorted(
            (t for t in schedule.transfers if t.target == machine.name and t.end > t.start),
            key=lambda t: (t.start, t.end),
        )
        if into:
            rows = _rows([(t.start, t.end) for t in into])
            depth = max(rows) + 1
            lanes.append(
                Lane(
                    f"into {machine.name}",
                    tuple(
                        Bar(
                            t.start,
                            t.end,
                            colour="transfer",
                            tooltip=f"{t.file} from {t.source}: {t.start:g} to {t.end:g}",
                            bottom=row / depth,
                            top=(row + 1) / depth,
                            dashed=True,
                        )
                        for t, row in zip(into, rows, strict=True)
                    ),
                    height=min(2.0, 0.4 + 0.1 * depth),
                )
            )
    end = max((p.end for p in schedule.tasks), default=0.0)
    return Figure(
        title=problem.name or "workflow", lanes=tuple(lanes), marks=((end, f"makespan {end:g}"),)
    )


def _rows(spans: list[tuple[float, float]]) -> list[int]:
    """The lowest free row of each interval, in order of start."""
    free: list[float] = []
    out = []
    for start, end in spans:
        row = next((k for k, until in enumerate(free) if until <= start + 1e-9), len(free))
        if row == len(free):
            free.append(end)
        else:
            free[row] = end
        out.append(row)
    return out
