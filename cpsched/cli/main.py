"""The `cpsched` program: its commands, and one message instead of a traceback."""

from __future__ import annotations

import os
import sys
import threading

import typer

from cpsched.cli import batch, files, inspecting, replanning, solving, studies
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
replanning.register(app)
studies.register(app)


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
    code: int | str | None
    try:
        app()
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    except CpschedError as error:
        code = complain(str(error), 2)
    except BrokenPipeError:
        # The reader of the pipe has gone: nothing is left to tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = complain("interrupted", 130)
    except Exception as error:
        if os.environ.get("CPSCHED_DEBUG"):
            raise
        code = complain(
            f"internal error: {type(error).__name__}: {error}. Set CPSCHED_DEBUG=1 for the "
            "traceback, and report it.",
            1,
        )
    leave(code if isinstance(code, int) else 0 if code is None else 2)


def complain(message: str, code: int) -> int:
    """Print one line to stderr; gives back the exit code."""
    print(f"cpsched: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def leave(code: int) -> None:
    """Exit; without waiting for a solver call that was given up, or for what still loads."""
    engine = sys.modules.get("cpsched.core.engine")
    loading = any(t.name == "cpsched-import" for t in threading.enumerate())
    if loading or (engine is not None and engine.running()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
