"""The `cpsched` program: its commands, and one message instead of a traceback."""

from __future__ import annotations

import os
import sys

import typer

from cpsched.cli import batch, files, inspecting, solving
from cpsched.errors import CpschedError

app = typer.Typer(
    name="cpsched",
    help="Checked, explained and, where possible, optimal schedules.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
solving.register(app)
inspecting.register(app)
files.register(app)
batch.register(app)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """Checked, explained and, where possible, optimal schedules."""
    if version:
        from cpsched import __version__

        typer.echo(__version__)
        raise typer.Exit()


def entry() -> None:
    """Run the command line; every failure is one message and an exit code."""
    try:
        app()
    except CpschedError as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader of the pipe has gone: nothing is left to tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        fail("interrupted", code=130)
    except Exception as error:
        if os.environ.get("CPSCHED_DEBUG"):
            raise
        fail(
            f"internal error: {type(error).__name__}: {error}. Set CPSCHED_DEBUG=1 for the "
            "traceback, and report it.",
            code=1,
        )


def fail(message: str, code: int = 2) -> None:
    """Print one line to stderr and exit."""
    print(f"cpsched: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
