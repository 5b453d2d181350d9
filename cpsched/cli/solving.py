"""Commands that search: solve, improve, bound, explain."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

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
from cpsched.errors import ProblemError

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase
    from cpsched.result import Result

ProgressMode = Annotated[
    str, typer.Option("--progress", metavar="auto|none|jsonl", help="Progress on stderr.")
]
GapLimit = Annotated[float, typer.Option("--gap-limit", min=0.0, help="Stop at this relative gap.")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Same result whatever the machine's load.")
]
Isolation = Annotated[
    str, typer.Option("--isolation", metavar="none|process", help="Search in a worker process.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(solve)
    app.command()(improve)
    app.command()(bound)
    app.command()(explain)


def solve(
    file: File,
    format: FormatName = None,
    option: Options = None,
    time_limit: TimeLimit = 10.0,
    workers: Workers = None,
    seed: Seed = 0,
    objective: ObjectiveNames = None,
    gap_limit: GapLimit = 0.0,
    hint: Annotated[str | None, typer.Option(help="Schedule file to start from.")] = None,
    deterministic: Deterministic = False,
    k_best: Annotated[int, typer.Option("--k-best", min=1, help="List N best schedules.")] = 1,
    isolation: Isolation = "none",
    output: Output = None,
    as_json: AsJson = False,
    progress: ProgressMode = "auto",
) -> None:
    """Solve a problem: a checked schedule, and a proved bound beside it."""
    import cpsched

    problem = common.read_problem(file, format, option)
    start = None if hint is None else common.read_schedule(problem, hint)
    with common.Interrupt() as stop, common.Progress(progress, time_limit) as report:
        result = cpsched.solve(
            problem,
            time_limit=time_limit,
            workers=workers,
            seed=seed,
            objective=split(objective),
            gap_limit=gap_limit,
            hint=start,
            deterministic=deterministic,
            k_best=k_best,
            isolation=isolation,  # type: ignore[arg-type]
            on_progress=report,
            stop=stop,
        )
    finish(problem, result, output, as_json, left=time_limit - result.wall_time)


def improve(
    file: File,
    schedule: ScheduleFile,
    format: FormatName = None,
    option: Options = None,
    time_limit: TimeLimit = 1.0,
    workers: Workers = None,
    seed: Seed = 0,
    objective: ObjectiveNames = None,
    deterministic: Deterministic = False,
    output: Output = None,
    as_json: AsJson = False,
    progress: ProgressMode = "auto",
) -> None:
    """Improve a schedule: never worse, repaired when invalid, certified when already optimal."""
    import cpsched

    problem = common.read_problem(file, format, option)
    given = common.read_schedule(problem, schedule)
    with common.Interrupt() as stop, common.Progress(progress, time_limit) as report:
        result = cpsched.improve(
            problem,
            given,
            time_limit=time_limit,
            workers=workers,
            seed=seed,
            objective=split(objective),
            deterministic=deterministic,
            on_progress=report,
            stop=stop,
        )
    finish(problem, result, output, as_json)


def bound(
    file: File,
    format: FormatName = None,
    option: Options = None,
    time_limit: TimeLimit = 10.0,
    objective: ObjectiveNames = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Show every bound that needs no schedule, each with the argument that proves it."""
    import cpsched

    problem = common.read_problem(file, format, option)
    with common.Interrupt() as stop:
        found = cpsched.bound(problem, time_limit=time_limit, objective=split(objective), stop=stop)
    lines = [f"{b.objective} {b.value} by {b.argument}" for b in found]
    common.emit(
        {"kind": problem.kind, "bounds": [b.to_dict() for b in found]},
        "\n".join(lines) or "no bound found",
        output,
        as_json,
    )


def explain(
    file: File,
    ii: Annotated[
        int | None, typer.Option("--ii", min=1, help="Kernels: why not at this interval.")
    ] = None,
    format: FormatName = None,
    option: Options = None,
    time_limit: TimeLimit = 30.0,
    workers: Workers = None,
    seed: Seed = 0,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Say why no schedule exists: a minimal set of constraints that conflict."""
    import cpsched

    problem = common.read_problem(file, format, option)
    if ii is not None:
        problem = limited(problem, "initiation_interval", ii)
    with common.Interrupt() as stop:
        found = cpsched.explain(
            problem, time_limit=time_limit, workers=workers, seed=seed, stop=stop
        )
    common.emit(found.to_dict(), str(found), output, as_json)
    code = {"INFEASIBLE": 3, "UNKNOWN": 4}.get(found.status.value, 0)
    raise typer.Exit(code)


def limited(problem: ProblemBase, objective: str, value: int) -> ProblemBase:
    """The problem in which an objective is at most a value.

    Raises
    ------
    ProblemError
        When the problem has no such objective, or it cannot be limited.
    """
    from cpsched.families import family

    chosen = family(problem.kind)
    if chosen.limit is None or chosen.objective(problem, objective) is None:
        raise ProblemError(
            f"problems of kind {problem.kind} have no {objective}",
            value=value,
            remedy="Leave the option out.",
        )
    bounded: ProblemBase | None = chosen.limit(problem, objective, value)
    if bounded is None:
        raise ProblemError(
            f"no schedule has {objective} {value}", value=value, remedy="Ask for a larger value."
        )
    return bounded


def split(names: str | None) -> list[str] | None:
    """``a,b`` as a list; None stays None."""
    return None if names is None else [n.strip() for n in names.split(",") if n.strip()]


def finish(
    problem: ProblemBase, result: Result, output: Any, as_json: bool, left: float = 0.0
) -> None:
    """Write a result and exit by its code; infeasibility is explained in the time left."""
    import cpsched

    data = result.to_dict()
    text = common.summary(result)
    if result.status.value == "INFEASIBLE" and left > 0.05:
        explanation = cpsched.explain(problem, time_limit=left)
        if explanation.conflict:
            data["explanation"] = explanation.to_dict()
            text += f"\n{explanation}"
            if not (sys.stdout.isatty() and output is None and not as_json):
                print(explanation, file=sys.stderr)
    common.emit(data, text, output, as_json)
    raise typer.Exit(common.exit_code(result))
