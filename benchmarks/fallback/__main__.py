"""Measurements of the fallback step: one subcommand per figure of benchmarks/results/fallback.md.

python -m benchmarks.fallback never-worse KIND --count 10000 --out FILE.jsonl   (resumable)
python -m benchmarks.fallback rates KIND --count 100 --limit 1 --out FILE.jsonl
python -m benchmarks.fallback safety --count 1000 --out FILE.jsonl              (resumable)
python -m benchmarks.fallback replan --count 200 --limit 0.15
python -m benchmarks.fallback simulate --shutdown 0.1 --replications 20
python -m benchmarks.fallback executor --count 200
python -m benchmarks.fallback lns --limit 20
python -m benchmarks.fallback report FILE.jsonl ...
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def main() -> None:
    """Run one measurement, or print tables of stored records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--limit", type=float, default=0.03)
    parser.add_argument("--shutdown", type=float, default=0.1)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--reveal", default="all")
    parser.add_argument("--replications", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1000, help="of the projects of lns")
    parser.add_argument("--seconds", type=float, default=170.0, help="stop after so long")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.what == "report":
        report(args.names)
    elif args.what == "never-worse":
        from benchmarks.fallback.quality import PER_PROBLEM, never_worse

        for kind in args.names:
            done = len(stored(args.out, "kind", kind))
            left = args.count - done * PER_PROBLEM
            if left > 0:
                keep(never_worse(kind, done, left, args.limit), args)
    elif args.what == "rates":
        from benchmarks.fallback.quality import rates

        for kind in args.names:
            done = len(stored(args.out, "kind", kind))
            keep(rates(kind, done, max(0, args.count - done), args.limit), args)
    elif args.what == "safety":
        from benchmarks.fallback.safety import trials

        last = max((r["trial"] for r in stored(args.out)), default=-1)
        keep(trials(last + 1, max(0, args.count - last - 1), args.limit), args)
    elif args.what == "replan":
        from benchmarks.fallback.replanning import measure, table

        print(table(measure(args.count, args.limit)))
    elif args.what == "simulate":
        simulate(args)
    elif args.what == "executor":
        from benchmarks.fallback.executors import many

        print(json.dumps(many(args.count), indent=1))
    elif args.what == "lns":
        from benchmarks.fallback.executors import one

        print(json.dumps(one(args.limit, args.seeds, args.tasks), indent=1))
    else:
        parser.error(f"unknown measurement {args.what!r}")


def simulate(args: argparse.Namespace) -> None:
    """Replanning against the plan's order and every rule, on job shops with shutdowns."""
    import cpsched
    from benchmarks.fallback.replanning import generated
    from cpsched.core import jit
    from cpsched.families.rcpsp.simulate import RULES

    jit.load("rcpsp")
    problem = generated("rcpsp", "shop", jobs=10, machines=5, duration=20, seed=1)
    found = cpsched.simulate(
        problem,
        ["replan", "static", *RULES],
        replications=args.replications,
        shutdown=args.shutdown,
        noise=args.noise,
        reveal=args.reveal,
        replan_time=args.limit,
        time_limit=args.seconds,
    )
    print(found.table())
    if args.out:
        with args.out.open("a") as stream:
            stream.write(json.dumps(found.to_dict()) + "\n")


def stored(path: Path | None, key: str = "", value: Any = None) -> list[dict[str, Any]]:
    """Records of an earlier run."""
    if path is None or not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [r for r in records if not key or r[key] == value]


def keep(records: Iterable[dict[str, Any]], args: argparse.Namespace) -> None:
    """Write records as they come, until the time for this call is over."""
    end = time.monotonic() + args.seconds
    for record in records:
        line = json.dumps(record)
        if args.out:
            with args.out.open("a") as stream:
                stream.write(line + "\n")
        else:
            print(line)
        if record.get("bad"):
            print(f"{record['kind']} {record['seed']}: {record['bad']}", file=sys.stderr)
        if time.monotonic() > end:
            break


def report(files: list[str]) -> None:
    """Tables of stored records."""
    records = [json.loads(line) for f in files for line in Path(f).read_text().splitlines()]
    groups: dict[str, list[dict[str, Any]]] = {}
    for r in records:
        groups.setdefault(r.get("kind", ""), []).append(r)
    if records and "cases" in records[0]:
        print("| family | cases | refused by name | no schedule | worse, invalid or crashed |")
        print("|---|---:|---:|---:|---:|")
        for kind, mine in groups.items():
            sums = [sum(r[k] for r in mine) for k in ("cases", "refused", "none")]
            print(f"| {kind} | {' | '.join(map(str, sums))} | {sum(len(r['bad']) for r in mine)} |")
    elif records and "trial" in records[0]:
        print("| fault | trials | checked answers | in time | slowest s |")
        print("|---|---:|---:|---:|---:|")
        faults: dict[str, list[dict[str, Any]]] = {}
        for r in records:
            faults.setdefault(r["fault"], []).append(r)
        for fault, mine in [*sorted(faults.items()), ("all", records)]:
            valid, late = sum(r["valid"] for r in mine), sum(r["in_time"] for r in mine)
            print(
                f"| {fault} | {len(mine)} | {valid} | {late} "
                f"| {max(r['seconds'] for r in mine):.2f} |"
            )
    else:
        print("| family | proved | certified | beaten | improved | as far as solve |")
        print("|---|---:|---:|---:|---:|---:|")
        for kind, mine in groups.items():
            proved = [r["certified"] for r in mine if "certified" in r]
            beaten = [r for r in mine if "improved" in r]
            print(
                f"| {kind} | {len(proved)} | {sum(proved)} | {len(beaten)} "
                f"| {sum(r['improved'] for r in beaten)} | {sum(r['as_far'] for r in beaten)} |"
            )


if __name__ == "__main__":
    main()
