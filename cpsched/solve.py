"""The pipeline from problem to result, and every fallback on the way.

Read top to bottom: prepare, hint, greedy, bounds, search; whatever fails on the way, the best
checked schedule is returned with a status that says what is known and a reason why it ended.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Literal

from cpsched.core import idle
from cpsched.core.clock import Clock, Stop
from cpsched.core.run import Run
from cpsched.errors import Infeasible, OutOfTime, ProblemError, SolverContradiction
from cpsched.families import Family, family
from cpsched.result import Incumbent, Objective, Result, TracePoint, unlist
from cpsched.validate import Report

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase

logger = logging.getLogger("cpsched")


def solve(
    problem: ProblemBase,
    time_limit: float | None = 10.0,
    *,
    workers: int | None = None,
    seed: int = 0,
    objective: str | Sequence[str] | None = None,
    gap_limit: float = 0.0,
    hint: Any = None,
    on_improvement: Callable[[Incumbent], object] | None = None,
    on_progress: Callable[[TracePoint], object] | None = None,
    stop: Stop = None,
    deterministic: bool = False,
    isolation: Literal["none", "process"] = "none",
    executor: Executor | None = None,
    k_best: int = 1,
    strict: bool = False,
) -> Result:
    """Find the best schedule of a problem within a time limit, with a proved bound beside it.

    Parameters
    ----------
    problem
        A problem of any kind, from `cpsched.load` or built in code.
    time_limit
        Seconds from call to return, everything included; None for no limit.
    workers
        Threads to use; None for all logical cores.
    seed
        Seed of every random choice.
    objective
        Name of the objective, or a list of names in lexicographic order; None for the problem's
        own.
    gap_limit
        Stop when the relative gap of every objective is at most this.
    hint
        A schedule to start from; it may be partial or invalid.
    on_improvement
        Called with every new best schedule (an `Incumbent`). An exception in it is logged and
        ignored.
    on_progress
        Called with every entry of the trace: improvements of the schedule and of the bound.
    stop
        A `threading.Event` or a callable; when set or true, the best schedule is returned.
    deterministic
        Same result on every run on the same machine whatever its load.
    isolation
        "process" runs the search in a warm worker process, so that a native crash or memory
        exhaustion costs the caller nothing.
    executor
        A `concurrent.futures.Executor` for portfolio members and neighbourhoods.
    k_best
        Ask for this many schedules with the best value of the first objective; the others are in
        ``result.alternatives``. Half of the time limit is kept for them.
    strict
        Raise `SolverContradiction` when a checked schedule refutes a claim.

    Returns
    -------
    Result
        Never raises because a solver failed, contradicted itself or found nothing.

    Raises
    ------
    ProblemError
        For a malformed problem, an unknown objective or an argument out of range.
    SolverContradiction
        Only with ``strict=True``.
    """
    _check_arguments(time_limit, workers, seed, gap_limit, isolation, k_best)
    chosen = family(problem.kind)
    if k_best > 1 and chosen.alternatives is None:
        raise ProblemError(
            f"problems of kind {problem.kind} have no list of alternatives",
            place="k_best",
            value=k_best,
            remedy="Pass 1.",
        )
    whole = Clock(time_limit, deterministic=deterministic, stop=stop)
    share = time_limit if k_best == 1 or time_limit is None else 0.5 * time_limit
    clock = Clock(share, deterministic=deterministic, stop=stop)
    run = Run(
        problem,
        chosen,
        objectives_of(chosen, problem, objective),
        clock,
        workers=workers or available_workers(),
        seed=seed,
        gap_limit=gap_limit,
        deterministic=deterministic,
        strict=strict,
        executor=executor,
        on_improvement=on_improvement,
        on_progress=on_progress,
    )
    if hint is not None:
        hint = chosen.read_schedule(hint)
    _guarded(run, lambda: _pipeline(run, hint, isolation))
    result = result_of(run)
    if chosen.alternatives is not None and k_best > 1 and result.schedule is not None:
        others = chosen.alternatives(problem, result.schedule, k_best - 1, whole)
        checked = [other for other in others if not chosen.check(problem, other)]
        extra = {"alternatives": checked}
        result = dataclasses.replace(result, extra=extra, wall_time=whole.elapsed())
    return result


def run_pipeline(run: Run, hint: Any) -> None:
    """The whole pipeline on a run made elsewhere; failures end in the run."""
    _guarded(run, lambda: _pipeline(run, hint, "none"))


def _pipeline(run: Run, hint: Any, isolation: str) -> None:
    family = run.family
    if hint is not None and not family.check(run.problem, hint):
        run.offer(hint, "hint")
        hint = None
    try:
        prepared = family.prepare(run.problem, run)
    except Infeasible as proof:
        run.claim_infeasible(proof.argument, str(proof))
        return
    if isolation == "process" and run.executor is None:
        from cpsched.core.isolate import search_isolated

        # Repair and bounds may use native solvers too: here only the greedy runs.
        _step(run, "greedy", lambda: family.greedy(prepared, run))
        if not run.done():
            _step(run, "isolated search", lambda: search_isolated(run, hint))
        return
    if hint is not None:
        _step(run, "repair", lambda: family.repair(prepared, run, hint))
    _step(run, "greedy", lambda: family.greedy(prepared, run))
    _step(run, "bounds", lambda: family.bounds(prepared, run))
    if run.done():
        return
    if run.executor is not None:
        from cpsched.many import search_over

        executor = run.executor
        _step(run, "search over the executor", lambda: search_over(run, executor, run.workers))
    if not run.done():  # without an executor, or after it has lost its workers
        _step(run, "search", lambda: family.search(prepared, run))


def _step(run: Run, name: str, step: Callable[[], object]) -> None:
    """Run one step so that its failure costs only itself."""
    if run.infeasible is not None or (run.clock.expired() and run.incumbent is not None):
        return
    try:
        step()
    except OutOfTime:
        logger.debug("the step %r ran out of time", name)
    except Infeasible as proof:
        run.claim_infeasible(proof.argument, str(proof))
    except (SolverContradiction, ProblemError, KeyboardInterrupt):
        raise
    except Exception as error:
        logger.exception("the step %r failed; the best checked schedule is kept", name)
        run.error = f"{name}: {type(error).__name__}: {error}"


def _guarded(run: Run, body: Callable[[], None]) -> None:
    try:
        with idle.busy():
            body()
    except OutOfTime:
        pass
    except KeyboardInterrupt:
        run.clock.cancel()
    except (SolverContradiction, ProblemError):
        raise
    except Exception as error:
        logger.exception("solving failed; the best checked schedule is kept")
        run.error = f"{type(error).__name__}: {error}"


def result_of(run: Run) -> Result:
    """The result of a run, as it stands."""
    objectives = run.objectives
    incumbent = run.incumbent
    values = None if incumbent is None else list(incumbent.values)
    bounds = [run.bound(k) for k in range(len(objectives))]
    gaps = [run.gap(k) for k in range(len(objectives))]
    message = run.contradiction or run.error or run.message
    single = len(objectives) == 1
    return Result(
        kind=run.problem.kind,
        status=run.status(),
        stop_reason=run.stop_reason(),
        schedule=None if incumbent is None else incumbent.schedule,
        objective=unlist(values),
        objective_name=unlist([o.name for o in objectives]),
        bound=bounds[0] if single else (bounds if any(b is not None for b in bounds) else None),
        gap=gaps[0] if single else (gaps if any(g is not None for g in gaps) else None),
        bounds=run.bounds(),
        source=None if incumbent is None else incumbent.source,
        trace=tuple(run.trace),
        validation=Report(incumbent is not None),
        wall_time=run.clock.elapsed(),
        problem_name=run.problem.name,
        environment=environment(run),
        message=message,
        problem=run.problem,
    )


def environment(run: Run) -> dict[str, Any]:
    """Versions and settings that a result depends on."""
    import cpsched

    out: dict[str, Any] = {
        "cpsched": cpsched.__version__,
        "ortools": importlib.metadata.version("ortools"),
        "workers": run.workers,
        "seed": run.seed,
        "time_limit": run.clock.limit if math.isfinite(run.clock.limit) else None,
    }
    if run.deterministic:
        # False when the wall guard, and not the counted work, ended the run.
        out["deterministic"] = not run.clock.overran
    return out


def objectives_of(
    chosen: Family[Any, Any, Any], problem: ProblemBase, names: str | Sequence[str] | None
) -> tuple[Objective, ...]:
    """The objectives a call optimises.

    Raises
    ------
    ProblemError
        For a name the kind does not know, or one named twice.
    """
    if names is None:
        return tuple(chosen.default_objectives(problem))
    listed = [names] if isinstance(names, str) else list(names)
    out: list[Objective] = []
    for name in listed:
        objective = chosen.objective(problem, name)
        if objective is None or objective in out:
            rule = "is not an objective of this problem" if objective is None else "is named twice"
            raise ProblemError(
                f"{name!r} {rule}",
                place="objective",
                remedy=f"See the objectives of kind {problem.kind} in the documentation.",
            )
        out.append(objective)
    return tuple(out)


def available_workers() -> int:
    """Logical cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_arguments(
    time_limit: float | None,
    workers: int | None,
    seed: int,
    gap_limit: float,
    isolation: str,
    k_best: int,
) -> None:
    if time_limit is not None and not time_limit >= 0.0:
        raise ProblemError(
            "time_limit must be a number of seconds, zero or more",
            value=time_limit,
            remedy="Pass seconds, or None for no limit.",
        )
    if workers is not None and not 1 <= workers <= 1024:
        raise ProblemError(
            "workers must lie between 1 and 1024", value=workers, remedy="Pass None for all cores."
        )
    if not 0 <= seed < 2**31:
        raise ProblemError("seed must lie in [0, 2**31)", value=seed, remedy="Pass another seed.")
    if not 0.0 <= gap_limit <= 1e9:
        raise ProblemError("gap_limit must not be negative", value=gap_limit, remedy="Pass 0.")
    if not 1 <= k_best <= 10_000:
        raise ProblemError(
            "k_best must lie between 1 and 10,000", value=k_best, remedy="Pass 1 for one schedule."
        )
    if isolation not in ("none", "process"):
        raise ProblemError(
            "isolation must be 'none' or 'process'", value=isolation, remedy="Pass 'none'."
        )
