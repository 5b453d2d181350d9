"""The one benchmark runner: a suite, cpsched and its peers in the same run, one JSON line each.

python -m benchmarks.run SUITE --data FOLDER --limit 10 --workers 2 --seeds 0 --out FILE.jsonl
python -m benchmarks.run --list
"""

from __future__ import annotations

import argparse
import datetime
import gc
import hashlib
import importlib
import importlib.metadata
import json
import os
import pkgutil
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import benchmarks.suites
import cpsched
from benchmarks.report import summarise, table
from benchmarks.suite import Answer, Case, Suite


def all_suites() -> dict[str, Suite]:
    """Every suite of every module in ``benchmarks/suites``."""
    found: dict[str, Suite] = {}
    for info in pkgutil.iter_modules(benchmarks.suites.__path__):
        module = importlib.import_module(f"benchmarks.suites.{info.name}")
        found |= getattr(module, "SUITES", {})
    return found


def main() -> None:
    """Run a suite and print its summary table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("suite", nargs="?")
    parser.add_argument("--list", action="store_true", help="list the suites")
    parser.add_argument("--data", type=Path, help="folder of the public benchmark data")
    parser.add_argument("--limit", type=float, help="seconds per run (default: the suite's)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--peers", default="", help="comma-separated names, or 'all'")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--start", type=int, default=0, help="the first case (zero-based)")
    parser.add_argument("--every", type=int, default=1, help="every n-th case from there")
    parser.add_argument("--max", type=int, help="at most this many cases")
    parser.add_argument("--stop-after", type=float, help="begin no run after so many seconds")
    parser.add_argument("--no-cpsched", action="store_true", help="peers only")
    parser.add_argument(
        "--out", type=Path, help="JSONL file to append to; finished runs are skipped"
    )
    args = parser.parse_args()
    suites = all_suites()
    if args.list or args.suite is None:
        for name, suite in sorted(suites.items()):
            print(f"{name:24} {suite.description} (peers: {', '.join(suite.peers) or 'none'})")
        return
    if args.suite not in suites:
        sys.exit(f"no suite {args.suite!r}; --list shows them")
    suite = suites[args.suite]
    began = time.monotonic()
    named = [c for c in suite.cases(args.data) if args.only in c.name]
    cases = named[args.start :: args.every][: args.max]
    if not cases:
        sys.exit("no case: is --data the right folder?")
    peers = list(suite.peers) if args.peers == "all" else [p for p in args.peers.split(",") if p]
    solvers = ([] if args.no_cpsched else ["cpsched"]) + peers
    limit = suite.limit if args.limit is None else args.limit
    machine = machine_facts()
    records = read(args.out) if args.out and args.out.exists() else []
    done = {
        (r["suite"], r["instance"], r["solver"], r["seed"], r["limit"], r["workers"])
        for r in records
    }
    loaded: set[str] = set()
    for case in cases:
        for seed in (int(s) for s in args.seeds.split(",")):
            for solver in solvers:
                key = (suite.name, case.name, solver, seed, limit, args.workers)
                late = args.stop_after and time.monotonic() - began > args.stop_after
                if key in done or late:
                    continue
                if solver not in loaded:
                    # Libraries and compiled kernels load in a first call that does not count.
                    measure(suite, case, solver, min(1.0, limit), args.workers, seed)
                    loaded.add(solver)
                record = {
                    "suite": suite.name,
                    "instance": case.name,
                    "sha256": file_hash(case.path),
                    "solver": solver,
                    "seed": seed,
                    "limit": limit,
                    "workers": args.workers,
                    **measure(suite, case, solver, limit, args.workers, seed),
                    "best_known": case.best,
                    "best_known_bound": case.best_bound,
                    "infeasible": case.infeasible,
                    "maximise": case.maximise,
                    **machine,
                }
                records.append(record)
                if args.out:
                    with args.out.open("a") as stream:
                        stream.write(json.dumps(record) + "\n")
                print(line(record), file=sys.stderr, flush=True)
    names = {c.name for c in cases}
    shown = [r for r in records if r["suite"] == suite.name and r["instance"] in names]
    print(table(summarise(shown)))


def measure(
    suite: Suite, case: Case, solver: str, limit: float, workers: int, seed: int
) -> dict[str, Any]:
    """Run one solver on one case; the time is measured from outside the call."""
    problem = case.load()
    gc.collect()
    started = time.perf_counter()
    if solver == "cpsched":
        result = cpsched.solve(problem, time_limit=limit, workers=workers, seed=seed, **case.solve)
        wall = time.perf_counter() - started
        first = result.objective[0] if isinstance(result.objective, list) else result.objective
        bound = result.bound[0] if isinstance(result.bound, list) else result.bound
        points = [
            (p.time, p.objective[0] if isinstance(p.objective, list) else p.objective)
            for p in result.trace
            if p.objective is not None
        ]
        answer = Answer(result.status.value, first, bound, tuple(points))
        record = {
            "stop_reason": result.stop_reason.value,
            "source": result.source,
            "objectives": result.objective,
            "bounds": result.bound,
        }
        if suite.extra is not None:
            record |= suite.extra(case, problem, result)
    else:
        answer = suite.peers[solver](case, problem, limit, workers, seed)
        wall = time.perf_counter() - started
        record = dict(answer.extra)
    trace = improvements(answer)
    return {
        "status": answer.status,
        "objective": answer.objective,
        "bound": answer.bound,
        "wall": round(wall, 3),
        "time_first": round(trace[0][0], 3) if trace else None,
        "time_best": round(trace[-1][0], 3) if trace else None,
        "trace": [[round(t, 3), v] for t, v in trace],
        **record,
    }


def improvements(answer: Answer) -> list[tuple[float, float]]:
    """The trace without repeated values."""
    out: list[tuple[float, float]] = []
    for moment, value in answer.trace:
        if not out or value != out[-1][1]:
            out.append((moment, value))
    return out


def machine_facts() -> dict[str, Any]:
    """What a reader needs to judge the figures: versions, cores, commit, date."""
    versions = {}
    for package in ("cpsched", "ortools", "numpy", "numba", "pyjobshop"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [row for row in info.read_text().splitlines() if row.startswith("model name")]
        cpu = models[0].split(":")[1].strip() if models else cpu
    return {
        "versions": versions,
        "commit": commit,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def file_hash(path: Path | None) -> str | None:
    """SHA-256 of an instance file."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file."""
    return [json.loads(row) for row in path.read_text().splitlines() if row.strip()]


def line(record: dict[str, Any]) -> str:
    """One record on one line, for following a run."""
    return (
        f"{record['instance']:28} {record['solver']:12} {record['status']:10} "
        f"objective {record['objective']} bound {record['bound']} best {record['best_known']} "
        f"{record['wall']:.2f}s"
    )


if __name__ == "__main__":
    main()
