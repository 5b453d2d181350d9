"""Speed over an executor: many small problems on local Dask processes, one problem in rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean
from typing import Any

import cpsched
from benchmarks.fallback.replanning import generated
from cpsched.problem import ProblemBase


@contextmanager
def cluster(processes: int, warm: Sequence[ProblemBase]) -> Iterator[Any]:
    """An executor over a local Dask cluster that has solved the problems ``warm``.

    So that workers import and load kernels before the clock starts.
    """
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=processes, threads_per_worker=1, processes=True, dashboard_address=None
        ) as local,
        Client(local) as client,
    ):
        executor = client.get_executor(pure=False)
        cpsched.solve_many(warm, executor, time_limit=2.0, workers=1)
        yield executor


def many(count: int) -> dict[str, Any]:
    """Seconds for ``count`` small shops on one and on two processes; whether results agree."""
    problems = [generated("rcpsp", "shop", jobs=6, machines=6, seed=s) for s in range(count)]
    out: dict[str, Any] = {"problems": count}
    objectives: list[list[Any]] = []
    warm = [generated("rcpsp", "shop", jobs=4, machines=4, seed=s) for s in range(4)]
    for processes in (1, 2):
        with cluster(processes, warm) as executor:
            started = time.perf_counter()
            results = cpsched.solve_many(problems, executor, time_limit=10.0, workers=1)
            out[f"seconds on {processes}"] = time.perf_counter() - started
            objectives.append([(r.status.value, r.objective) for r in results])
    out["speedup"] = out["seconds on 1"] / out["seconds on 2"]
    out["same results"] = objectives[0] == objectives[1]
    out["optimal"] = sum(status == "OPTIMAL" for status, _ in objectives[0])
    return out


def one(limit: float, seeds: int, tasks: int) -> dict[str, Any]:
    """Seconds to a common schedule quality, with and without the executor (2 cores).

    Projects on ten resources, whose search goes on for long. The target is the worst of the three
    last schedules; ``speedup`` is the geometric mean over the seeds of one core's seconds over
    those of the executor.
    """
    records = []
    warm = [project(tasks, s) for s in range(100, 104)]
    cpsched.solve(warm[0], time_limit=2.0, workers=2)
    with cluster(2, warm) as executor:
        for seed in range(seeds):
            problem = project(tasks, seed)
            runs = {
                "one core": cpsched.solve(problem, time_limit=limit, workers=1),
                "two threads": cpsched.solve(problem, time_limit=limit, workers=2),
                "executor of two": cpsched.solve(
                    problem, time_limit=limit, workers=2, executor=executor
                ),
            }
            target = max(r.objective for r in runs.values())
            record: dict[str, Any] = {"seed": seed, "target": target}
            for name, result in runs.items():
                record[name] = {
                    "objective": result.objective,
                    "bound": result.bound,
                    "seconds": min(
                        p.time
                        for p in result.trace
                        if p.objective is not None and p.objective <= target
                    ),
                }
            records.append(record)
    ratios = [math.log(r["one core"]["seconds"] / r["executor of two"]["seconds"]) for r in records]
    return {"records": records, "speedup": math.exp(mean(ratios))}


def project(tasks: int, seed: int) -> Any:
    """A generated project on ten resources."""
    return generated(
        "rcpsp", "project", tasks=tasks, resources=10, width=tasks // 25 + 20, seed=seed
    )
