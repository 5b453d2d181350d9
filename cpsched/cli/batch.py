"""`cpsched solve-batch`: a folder of problems, resumable, here or on a cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cpsched.cli import common
from cpsched.cli.common import FormatName, ObjectiveNames, Options, Seed, TimeLimit, Workers
from cpsched.cli.solving import split
from cpsched.errors import CpschedError, ProblemError


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("solve-batch")(solve_batch)


def solve_batch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of problem files.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of results (default: DIR/results)."),
    ] = None,
    pattern: Annotated[str, typer.Option(help="Which files of the folder.")] = "*",
    format: FormatName = None,
    option: Options = None,
    time_limit: TimeLimit = 10.0,
    workers: Workers = 1,
    seed: Seed = 0,
    objective: ObjectiveNames = None,
    processes: Annotated[int, typer.Option(min=1, help="Local processes.")] = 1,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Scheduler of a Dask cluster to use.")
    ] = None,
) -> None:
    """Solve every problem of a folder; existing results are kept, so it can be resumed."""
    if not folder.is_dir():
        raise ProblemError("a folder is expected", file=str(folder), remedy="Name a folder.")
    results = output or folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    todo, problems, failed = [], [], 0
    for path in sorted(p for p in folder.glob(pattern) if p.is_file()):
        if (results / f"{path.name}.json").exists():
            continue
        try:
            problems.append(common.read_problem(str(path), format, option))
            todo.append(path)
        except ProblemError as error:
            failed += 1
            print(f"cpsched: error: {error}", file=sys.stderr)
    settings: dict[str, Any] = {
        "time_limit": time_limit,
        "workers": workers,
        "seed": seed,
        "objective": split(objective),
    }
    count = 0
    with _executor(processes, dask) as executor, _Bar(len(todo)) as bar:
        for index, result in _results(problems, executor, settings):
            target = results / f"{todo[index].name}.json"
            # Written aside and renamed, so that an interrupted run leaves no half result behind.
            part = target.with_suffix(".part")
            part.write_text(json.dumps(result.to_dict(), indent=1) + "\n")
            part.rename(target)
            count += 1
            bar.step(todo[index].name)
    print(f"{count} solved, {failed} unreadable; results in {results}")
    raise typer.Exit(2 if failed else 0)


def _results(
    problems: list[Any], executor: Executor | None, settings: dict[str, Any]
) -> Iterator[tuple[int, Any]]:
    from cpsched.many import solve_as_completed
    from cpsched.solve import solve

    if executor is not None:
        yield from solve_as_completed(problems, executor, **settings)
        return
    with common.Interrupt() as stop:
        for index, problem in enumerate(problems):
            if stop.is_set():
                return
            yield index, solve(problem, stop=stop, **settings)


class _Bar:
    """A progress bar on stderr with the time left; silent when that is no terminal."""

    def __init__(self, total: int) -> None:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.completed}/{task.total}"),
            progress.BarColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.description}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def step(self, name: str) -> None:
        """One more is done."""
        self._bar.update(self._task, advance=1, description=name)


@contextmanager
def _executor(processes: int, dask: str | None) -> Iterator[Executor | None]:
    if dask is not None:
        try:
            from distributed import Client
        except ImportError:
            raise CpschedError("--dask needs the package: pip install 'cpsched[dask]'") from None
        connect: Any = Client
        with connect(dask) as client:
            yield client.get_executor(pure=False)
    elif processes > 1:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            yield pool
    else:
        yield None
