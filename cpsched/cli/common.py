"""What the commands share: arguments, reading files, writing results, progress."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpsched.errors import ProblemError

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase
    from cpsched.result import Result, TracePoint

File = Annotated[
    str, typer.Argument(metavar="FILE", help="Problem file; '-' reads standard input.")
]
ScheduleFile = Annotated[
    str, typer.Argument(metavar="SCHEDULE", help="Result JSON, or a bare schedule object.")
]
FormatName = Annotated[
    str | None, typer.Option("--format", help="Format of the file; `cpsched formats` lists them.")
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="Option of the reader; repeatable."),
]
TimeLimit = Annotated[
    float, typer.Option("--time-limit", "-t", min=0.0, help="Seconds from call to return.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", "-w", min=1, help="Threads; all logical cores if absent.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random choice.")]
ObjectiveNames = Annotated[
    str | None,
    typer.Option("--objective", metavar="NAME[,NAME]", help="Objectives in lexicographic order."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write here and leave stdout alone.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, also on a terminal.")]


def pairs(options: list[str] | None) -> dict[str, str]:
    """``KEY=VALUE`` arguments as a dict.

    Raises
    ------
    ProblemError
        For an argument without ``=``.
    """
    out: dict[str, str] = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ProblemError(
                "an option must have the form KEY=VALUE",
                place="--option",
                value=option,
                remedy="See `cpsched formats`.",
            )
        out[key] = value
    return out


def read_problem(file: str, name: str | None, options: list[str] | None) -> ProblemBase:
    """The problem in a file, by `cpsched.load`."""
    from cpsched.problem import load

    return load(file, format=name, options=pairs(options))


def read_json(file: str) -> Any:
    """JSON data of a file or of standard input."""
    from cpsched.problem import _read_text, parse_json

    shown = "standard input" if file == "-" else file
    try:
        return parse_json(_read_text(file))
    except ProblemError as error:
        raise error.in_file(shown) from None


def read_schedule(problem: ProblemBase, file: str) -> Any:
    """The schedule in a file, of the problem's kind."""
    from cpsched.families import family

    try:
        return family(problem.kind).read_schedule(read_json(file))
    except ProblemError as error:
        raise error.in_file(file) from None


def write_text(path: Path, text: str | bytes) -> None:
    """Write an output file; an unwritable path is bad usage, not a traceback."""
    try:
        if isinstance(text, bytes):
            path.write_bytes(text)
        else:
            path.write_text(text)
    except OSError as error:
        raise ProblemError(
            f"the output cannot be written: {error.strerror}",
            file=str(path),
            remedy="Check the path.",
        ) from None


def emit(data: Any, text: str, output: Path | None, as_json: bool) -> None:
    """JSON to a file (a person still sees the text), else JSON or text to stdout."""
    if output is not None:
        write_text(output, json.dumps(data, indent=1, allow_nan=False) + "\n")
        if sys.stderr.isatty():
            print(text, file=sys.stderr)
    elif as_json or not sys.stdout.isatty():
        print(json.dumps(data, allow_nan=False))
    else:
        print(text)


def summary(result: Result) -> str:
    """A result in a few lines for a person; a plan with its steps, where the kind has them."""
    from cpsched.families import family

    def show(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(show(v) for v in value)
        if value is None:
            return "-"
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    lines = [
        f"{result.kind} {result.problem_name}: {result.status.value} ({result.stop_reason.value})"
        f" after {result.wall_time:.2f} s",
        f"  {show(result.objective_name) if result.objective_name else 'feasibility'}: "
        f"{show(result.objective)}   bound {show(result.bound)}   gap {show(result.gap)}"
        + (f"   by {result.source}" if result.source else ""),
    ]
    if result.message:
        lines.append(f"  {result.message}")
    lines += [f"  bound {show(b.value)} on {b.objective} by {b.argument}" for b in result.bounds]
    describe = family(result.kind).describe
    if describe is not None and result.schedule is not None:
        lines += describe(result.problem, result.schedule)
    return "\n".join(lines)


def exit_code(result: Result) -> int:
    """Exit code of the contract for a result."""
    if result.schedule is not None:
        return 0
    return 3 if result.status.value == "INFEASIBLE" else 4


class Interrupt:
    """Ctrl-C and SIGTERM set an event instead of raising, so the best schedule is returned."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __enter__(self) -> threading.Event:
        def handle(number: int, frame: object) -> None:
            if self.event.is_set():
                raise KeyboardInterrupt
            self.event.set()

        self._before = {
            number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self.event

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Progress:
    """Progress on stderr: a live line on a terminal, or one JSON object per line."""

    def __init__(self, mode: str, limit: float) -> None:
        if mode not in ("auto", "none", "jsonl"):
            raise ProblemError(
                "progress must be auto, none or jsonl",
                place="--progress",
                value=mode,
                remedy="Pass one of the three.",
            )
        self._json = mode == "jsonl"
        self._live = mode == "auto" and sys.stderr.isatty()
        self._limit = limit
        self._last: TracePoint | None = None
        self._started = time.perf_counter()
        self._over = threading.Event()

    def __enter__(self) -> Progress:
        if self._live:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, point: TracePoint) -> None:
        self._last = point
        if self._json:
            print(json.dumps(point.to_dict()), file=sys.stderr, flush=True)

    def _tick(self) -> None:
        while not self._over.wait(0.1):
            elapsed = time.perf_counter() - self._started
            best = bound = "-"
            gap = ""
            if self._last is not None:
                best, bound = str(self._last.objective), str(self._last.bound)
                gap = _gap(self._last.objective, self._last.bound)
            sys.stderr.write(
                f"\r\x1b[Kbest {best}  bound {bound}  {gap}  {elapsed:.1f} of {self._limit:g} s"
            )
            sys.stderr.flush()


def _gap(objective: Any, bound: Any) -> str:
    from cpsched.result import gap_of

    if isinstance(objective, int | float) and isinstance(bound, int | float):
        return f"gap {100 * gap_of(objective, bound):.2f} %"
    return ""
