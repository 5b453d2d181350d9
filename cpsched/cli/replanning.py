"""Commands that follow an execution: replan."""

from __future__ import annotations

from typing import Annotated

import typer

from cpsched.cli import common
from cpsched.cli.common import (
    AsJson,
    File,
    FormatName,
    ObjectiveNames,
    Options,
    Output,
    ScheduleFile,
    Seed,
    TimeLimit,
    Workers,
)
from cpsched.cli.solving import split


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(replan)


def replan(
    file: File,
    schedule: ScheduleFile,
    now: Annotated[float, typer.Option(help="Current time: what has started before stays.")],
    events: Annotated[
        str | None, typer.Option(help="JSON file with a list of events; '-' reads stdin.")
    ] = None,
    stability: Annotated[
        int, typer.Option(min=0, help="Weight of a change of a planned start, per time unit.")
    ] = 0,
    format: FormatName = None,
    option: Options = None,
    time_limit: TimeLimit = 1.0,
    workers: Workers = None,
    seed: Seed = 0,
    objective: ObjectiveNames = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Schedule the rest anew after events; what has started stays as it is."""
    import cpsched

    problem = common.read_problem(file, format, option)
    given = common.read_schedule(problem, schedule)
    listed = [] if events is None else common.read_json(events)
    result = cpsched.replan(
        problem,
        given,
        now=now,
        events=listed,
        stability=stability,
        time_limit=time_limit,
        workers=workers,
        seed=seed,
        objective=split(objective),
    )
    lines = [common.summary(result)]
    lines += [f"  changes {d['item']}: {d['from']} -> {d['to']}" for d in result.extra["diff"]]
    lines += [f"  breaks {b['promise']}: {b['reason']}" for b in result.extra["broken_promises"]]
    common.emit(result.to_dict(), "\n".join(lines), output, as_json)
    raise typer.Exit(common.exit_code(result))
