"""Commands that make files: plot, convert, generate."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cpsched.cli import common
from cpsched.cli.common import File, FormatName, Options, Output, ScheduleFile
from cpsched.errors import ProblemError


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(plot)
    app.command()(convert)
    app.command()(generate)


def plot(
    file: File,
    schedule: ScheduleFile,
    format: FormatName = None,
    option: Options = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="svg|html|png", help="By -o's ending if absent.")
    ] = None,
    output: Output = None,
) -> None:
    """Draw a schedule as SVG, self-contained HTML or PNG."""
    from cpsched.families import family

    problem = common.read_problem(file, format, option)
    drawn = family(problem.kind).draw(problem, common.read_schedule(problem, schedule))
    write_figure(drawn, to, output)


def write_figure(figure: Any, to: str | None, output: Path | None) -> None:
    """Write a figure in the format asked for, or that the output's name asks for."""
    from cpsched.plot.html import html
    from cpsched.plot.png import png
    from cpsched.plot.svg import svg

    writers: dict[str, Callable[[Any], str | bytes]] = {"svg": svg, "html": html, "png": png}
    name = to or (output.suffix.lstrip(".") if output else "svg")
    if name not in writers:
        raise ProblemError(
            "the picture's format must be svg, html or png",
            place="--to",
            value=name,
            remedy="Pass --to, or give -o such an ending.",
        )
    content = writers[name](figure)
    if output is not None:
        common.write_text(output, content)
    elif isinstance(content, bytes):
        sys.stdout.buffer.write(content)
    else:
        sys.stdout.write(content)


def convert(
    file: File,
    to: Annotated[str, typer.Option("--to", help="Target format; a wrong name lists them.")],
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="Schedule to write, where the target has one.")
    ] = None,
    format: FormatName = None,
    option: Options = None,
    output: Output = None,
) -> None:
    """Convert a problem, or a schedule of it, to another format."""
    from cpsched.families import family

    problem = common.read_problem(file, format, option)
    writers = {w.name: w for w in family(problem.kind).writers}
    if to == "cpsched":
        text = problem.to_json(indent=1) + "\n"
    elif to in writers:
        writer = writers[to]
        if writer.needs_schedule and schedule is None:
            raise ProblemError(
                f"the format {to} writes a schedule",
                place="--schedule",
                remedy="Pass --schedule with a result file.",
            )
        given = None if schedule is None else common.read_schedule(problem, schedule)
        text = writer.write(problem, given)
    else:
        known = ", ".join(["cpsched", *writers])
        raise ProblemError(
            f"a problem of kind {problem.kind} converts to {known}",
            place="--to",
            value=to,
            remedy="Pass one of them.",
        )
    if output is None:
        sys.stdout.write(text)
    else:
        common.write_text(output, text)


def generate(
    name: Annotated[
        str | None, typer.Argument(help="Generator; without it they are listed.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="KEY=VALUE", help="Its options; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same instance.")] = 0,
    output: Output = None,
) -> None:
    """Generate an instance, deterministically by seed, as cpsched JSON."""
    from cpsched.families import KINDS, family

    generators = {g.name: g for kind in KINDS for g in family(kind).generators}
    if name is None:
        for g in generators.values():
            print(f"{g.name:24} {g.description}")
            for key, (default, text) in g.options.items():
                print(f"{'':24} --option {key}={default}: {text}")
        return
    if name not in generators:
        raise ProblemError(
            f"the generator must be one of {', '.join(generators)}",
            value=name,
            remedy="`cpsched generate` lists them.",
        )
    chosen = generators[name]
    given = common.pairs(option)
    for key in given:
        if key not in chosen.options and key != "seed":
            raise ProblemError(
                f"generator {name} has no option {key!r}; it has: {', '.join(chosen.options)}",
                place="--option",
                remedy="`cpsched generate` lists them.",
            )
    defaults = {key: default for key, (default, _) in chosen.options.items()}
    problem = chosen.make(defaults | {"seed": str(seed)} | given)
    text = problem.to_json(indent=1) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        common.write_text(output, text)
