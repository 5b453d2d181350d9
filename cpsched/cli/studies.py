"""Commands that compare many schedules: pareto, sweep, replay, simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cpsched.cli import common
from cpsched.cli.common import AsJson, File, FormatName, Options, Output, Seed, TimeLimit, Workers
from cpsched.cli.files import write_figure
from cpsched.cli.solving import split
from cpsched.errors import ProblemError

Plot = Annotated[
    Path | None, typer.Option("--plot", help="Also draw it here (.svg, .html or .png).")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(pareto)
    app.command()(sweep)
    app.command()(replay)
    app.command()(simulate)


def pareto(
    file: File,
    objectives: Annotated[
        str, typer.Option("--objectives", metavar="NAME,NAME", help="Two or more objectives.")
    ],
    format: FormatName = None,
    option: Options = None,
    time_limit: TimeLimit = 60.0,
    max_points: Annotated[int, typer.Option(min=1, help="At most this many points.")] = 1000,
    workers: Workers = None,
    seed: Seed = 0,
    plot: Plot = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """The exact or certified front of two or more objectives."""
    import cpsched

    problem = common.read_problem(file, format, option)
    with common.Interrupt() as stop:
        front = cpsched.pareto(
            problem,
            split(objectives) or [],
            time_limit,
            max_points=max_points,
            workers=workers,
            seed=seed,
            stop=stop,
        )
    if plot is not None:
        write_figure(front.figure(), None, plot)
    lines = [", ".join(front.objectives)] + [str(v) for v in front.values]
    lines.append("complete" if front.complete else "not complete: more time may add points")
    common.emit(front.to_dict(), "\n".join(lines), output, as_json)
    raise typer.Exit(0 if front.points else 4)


def _tool(problem: Any, name: str) -> Any:
    from cpsched.families import KINDS, family

    tool = family(problem.kind).tools.get(name)
    if tool is None:
        kinds = [kind for kind in KINDS if name in family(kind).tools]
        raise ProblemError(
            f"{name} works on problems of kind {', '.join(kinds)}",
            place="kind",
            value=problem.kind,
            remedy="Pass such a problem.",
        )
    return tool


def sweep(
    file: File,
    over: Annotated[str, typer.Option("--over", help="The resource to vary.")],
    values: Annotated[
        str | None, typer.Option(metavar="N[,N]", help="Its values; chosen if absent.")
    ] = None,
    format: FormatName = None,
    option: Options = None,
    time_limit: TimeLimit = 60.0,
    workers: Workers = None,
    seed: Seed = 0,
    plot: Plot = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """What if: the objective as a function of a resource, as a table and a plot."""
    problem = common.read_problem(file, format, option)
    tool = _tool(problem, "sweep")
    with common.Interrupt() as stop:
        found = tool(
            problem,
            over,
            numbers(values),
            time_limit,
            workers=workers,
            seed=seed,
            stop=stop,
        )
    if plot is not None:
        write_figure(found.figure(), None, plot)
    common.emit(found.to_dict(), found.table(), output, as_json)


def numbers(values: str | None) -> list[int] | None:
    """``1,2,4`` as integers.

    Raises
    ------
    ProblemError
        For anything else.
    """
    try:
        return None if values is None else [int(v) for v in values.split(",")]
    except ValueError:
        raise ProblemError(
            "values must be integers, separated by commas",
            place="--values",
            value=values,
            remedy="Correct it.",
        ) from None


def replay(
    file: File,
    policy: Annotated[
        str, typer.Option("--policy", help="Name of a policy, or a plan.json to replay.")
    ],
    estimates: Annotated[
        str | None,
        typer.Option(metavar="low|mean|high|qXX", help="Hide output lengths from the policy."),
    ] = None,
    format: FormatName = None,
    option: Options = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", "-t", min=0.0, help="Solve to compare with; 0: do not.")
    ] = 10.0,
    seed: Seed = 0,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Replay a policy or a plan on a trace, exactly, with its regret against optimum or bound."""
    problem = common.read_problem(file, format, option)
    tool = _tool(problem, "replay")
    plan = common.read_schedule(problem, policy) if policy.endswith(".json") else policy
    found = tool(problem, plan, estimates=estimates, time_limit=time_limit or None, seed=seed)
    common.emit(found.to_dict(), found.table(), output, as_json)


def simulate(
    file: File,
    policy: Annotated[
        str, typer.Option("--policy", metavar="NAME[,NAME]", help="replan, static, or rules.")
    ] = "replan,static",
    replications: Annotated[int, typer.Option(min=1, help="Random worlds.")] = 20,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=VALUE[,...]",
            help="noise, shutdown, repair, arrivals: as the options of these names.",
        ),
    ] = None,
    noise: Annotated[float, typer.Option(min=0.0, help="Log deviation of durations.")] = 0.0,
    shutdown: Annotated[float, typer.Option(min=0.0, max=1.0, help="Probability.")] = 0.0,
    repair: Annotated[float, typer.Option(min=0.0, help="Mean, in task durations.")] = 2.0,
    arrivals: Annotated[
        float, typer.Option(min=0.0, help="Mean gap between jobs, in task durations.")
    ] = 0.0,
    reveal: Annotated[
        str, typer.Option(metavar="all|release|operation", help="When tasks become known.")
    ] = "all",
    objective: Annotated[str | None, typer.Option(help="The objective to compare.")] = None,
    replan_time: Annotated[float, typer.Option(min=0.01, help="Seconds per replanning.")] = 0.1,
    format: FormatName = None,
    option: Options = None,
    time_limit: TimeLimit = 120.0,
    workers: Workers = 1,
    seed: Seed = 0,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Execute in random worlds: replanning against static plans and dispatching rules."""
    import cpsched

    world = {"noise": noise, "shutdown": shutdown, "repair": repair, "arrivals": arrivals}
    world |= random_events(events, world)
    problem = common.read_problem(file, format, option)
    with common.Interrupt() as stop:
        found = cpsched.simulate(
            problem,
            split(policy) or [],
            replications=replications,
            seed=seed,
            **world,
            reveal=reveal,
            objective=objective,
            replan_time=replan_time,
            time_limit=time_limit,
            workers=workers or 1,
            stop=stop,
        )
    common.emit(found.to_dict(), found.table(), output, as_json)


def random_events(text: str | None, known: dict[str, float]) -> dict[str, float]:
    """``noise=0.2,shutdown=0.1`` as numbers by name.

    Raises
    ------
    ProblemError
        For another name, or a value that is no number.
    """
    out = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, _, value = (p.strip() for p in part.partition("="))
        try:
            if name not in known:
                raise ValueError
            out[name] = float(value)
        except ValueError:
            raise ProblemError(
                f"events are NAME=NUMBER with a name among {', '.join(known)}",
                place="--events",
                value=part,
                remedy="Correct it.",
            ) from None
    return out
