"""Commands that look and do not search: validate, formats, schema."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cpsched.cli import common
from cpsched.cli.common import AsJson, File, FormatName, Options, Output, ScheduleFile
from cpsched.errors import ProblemError


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(validate)
    app.command()(formats)
    app.command()(schema)


def validate(
    file: File,
    schedule: ScheduleFile,
    format: FormatName = None,
    option: Options = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Check a schedule independently of any solver; exit code 5 when it is not valid."""
    import cpsched

    problem = common.read_problem(file, format, option)
    report = cpsched.validate(problem, common.read_schedule(problem, schedule))
    lines = ["valid" if report.valid else f"not valid: {len(report.violations)} violations"]
    lines += [f"  {v}" for v in report.violations]
    lines += [f"  {name}: {value}" for name, value in report.objectives.items()]
    data = report.to_dict() | {"objectives": report.objectives}
    common.emit(data, "\n".join(lines), output, as_json)
    raise typer.Exit(0 if report.valid else 5)


def formats(as_json: AsJson = False) -> None:
    """List the file formats, how each is detected, and their options."""
    from cpsched.families import all_formats

    data = []
    lines = []
    for f in all_formats():
        data.append(
            {
                "name": f.name,
                "kind": f.kind,
                "description": f.description,
                "detection": f.detection,
                "options": dict(f.options),
            }
        )
        lines += [f"{f.name:14} {f.kind:9} {f.description}", f"{'':25}detected by {f.detection}"]
        lines += [f"{'':25}--option {key}=...: {text}" for key, text in f.options.items()]
    print(json.dumps(data) if as_json else "\n".join(lines))


def schema(
    kind: Annotated[str, typer.Argument(help="A kind, KIND-schedule, or 'result'.")] = "any",
) -> None:
    """Print a JSON Schema: of a kind's problems or schedules, of results, of any problem."""
    from cpsched.schema import names, schema_of

    if kind not in names():
        raise ProblemError(
            f"the schema must be one of {', '.join(names())}",
            value=kind,
            remedy="Name one of them.",
        )
    print(json.dumps(schema_of(kind), indent=1))
