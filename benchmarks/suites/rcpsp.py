"""Suites of the `rcpsp` family: public sets with best known bounds, PyJobShop and CP-SAT as peers.

Samples take the files of a set in numerical order, every k-th from the first.
"""

from __future__ import annotations

import csv
import re
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cpsched
from benchmarks.suite import Case, Suite
from benchmarks.suites.rcpsp_peers import cp_sat, pyjobshop, rule_with_swaps
from cpsched.families.rcpsp.generate import GENERATORS

PEERS = {"pyjobshop": pyjobshop, "cp-sat": cp_sat}


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key in which numbers count by value: j309_1 before j3010_1."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def bounds(path: Path) -> dict[str, tuple[float | None, float | None, bool]]:
    """Instance to (best known value, best known bound, proven infeasible)."""
    with path.open(newline="") as stream:
        return {
            row["instance"].lower(): (
                float(row["ub"]) if row["ub"] else None,
                float(row["lb"]) if row["lb"] else None,
                "infeasible" in row["source"],
            )
            for row in csv.DictReader(stream)
        }


def files(
    folder: str,
    pattern: str,
    table: str,
    every: int = 1,
    key: Callable[[Path], str] = lambda path: path.stem,
) -> Callable[[Path | None], list[Case]]:
    """Cases from the files of a folder of the data, with bounds from a table beside them."""

    def cases(data: Path | None) -> list[Case]:
        if data is None:
            return []
        root = data / "rcpsp" / folder
        known = bounds(root / table)
        paths = [p for p in root.rglob("*") if p.is_file() and re.fullmatch(pattern, p.name)]
        chosen = sorted(paths, key=lambda p: natural(key(p)))[::every]
        return [case(key(path), path, *known[key(path).lower()]) for path in chosen]

    return cases


def listed(
    folder: str, table: str, pattern: str, every: int = 1, source: str = ""
) -> Callable[[Path | None], list[Case]]:
    """Cases whose file the table of bounds names in its column ``file``."""

    def cases(data: Path | None) -> list[Case]:
        if data is None:
            return []
        root = data / "rcpsp" / folder
        with (root / table).open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if re.fullmatch(pattern, row["instance"])]
        rows = [row for row in rows if (root / row["file"]).is_file()]
        known = bounds(root / table)
        rows = sorted(rows, key=lambda row: natural(row["instance"]))[::every]
        return [
            case(row["instance"], root / row["file"], *known[row["instance"].lower()])
            for row in rows
        ]

    return cases


def case(
    name: str,
    path: Path,
    best: float | None,
    bound: float | None,
    infeasible: bool = False,
    **options: Any,
) -> Case:
    """One file as a case."""
    return Case(
        name=name,
        load=lambda: cpsched.load(path, **options),
        path=path,
        best=best,
        best_bound=bound,
        infeasible=infeasible,
    )


def weighted_tardiness(size: int) -> Callable[[Path | None], list[Case]]:
    """The 125 instances of one OR-Library file."""

    def cases(data: Path | None) -> list[Case]:
        if data is None:
            return []
        root = data / "rcpsp" / "wt"
        known = bounds(root / "bounds.csv")
        path = root / f"wt{size}.txt"
        return [
            case(f"wt{size}_{i + 1}", path, *known[f"wt{size}_{i + 1}"], options={"index": str(i)})
            for i in range(125)
        ]

    return cases


def with_operators(data: Path | None) -> list[Case]:
    """Job shops in which every operation needs an operator: ``la01-3opers`` and so on."""
    if data is None:
        return []
    root = data / "rcpsp" / "jobshop"
    cases = []
    for name, known in sorted(bounds(root / "bounds_operators.csv").items()):
        shop, _, count = name.removesuffix("opers").rpartition("-")
        path = root / f"{shop}.txt"
        if path.is_file():
            cases.append(case(name, path, *known, options={"operators": count}))
    return cases


def blocking_shops(data: Path | None) -> list[Case]:
    """The job shops la01 to la20 with blocking; jobs may swap places."""
    if data is None:
        return []
    root = data / "rcpsp"
    known = bounds(root / "blocking_jobshop" / "bounds.csv")
    names = [f"la{k:02}" for k in range(1, 21)]
    return [
        case(name, root / "jobshop" / f"{name}.txt", *known[name], options={"blocking": "true"})
        for name in names
    ]


def tardiness(data: Path | None) -> list[Case]:
    """Total tardiness of 500 jobs, over the factors T and R of the due dates."""
    return [
        generated("total-tardiness", n=500, T=T, R=R, seed=1)
        for T in (0.2, 0.4, 0.6, 0.8)
        for R in (0.2, 0.6)
    ]


def with_travel_times(data: Path | None) -> list[Case]:
    """Job shops whose machines need setups by distance, every fourth of those at hand."""
    if data is None:
        return []
    root = data / "rcpsp" / "jobshop"
    known = sorted(
        bounds(root / "bounds_travel_times.csv").items(), key=lambda row: natural(row[0])
    )
    found = [
        case(name, root / f"{name}.txt", *row, options={"travel_times": "20"})
        for name, row in known
        if (root / f"{name}.txt").is_file()
    ]
    return found[::4]


def open_shops(data: Path | None) -> list[Case]:
    """Taillard's open shops; no bounds are at hand."""
    if data is None:
        return []
    paths = sorted((data / "rcpsp" / "openshop").glob("tai_*.txt"), key=lambda p: natural(p.stem))
    return [case(path.stem, path, None, None, format="openshop") for path in paths]


def generated(name: str, **options: Any) -> Case:
    """A case from one of the family's generators."""
    make = next(g.make for g in GENERATORS if g.name == name)
    texts = {key: str(value) for key, value in options.items()}
    label = "-".join([name, *(f"{key}={value}" for key, value in texts.items())])
    return Case(
        name=label,
        load=lambda: make(texts),
        infeasible=options.get("infeasible", "none") != "none",
    )


def constraintbench(data: Path | None) -> list[Case]:
    """R-ConstraintBench by growing level, and every kind of planted contradiction."""
    cases = [
        generated("r-constraintbench", tasks=n, level=level, seed=seed)
        for n in (20, 50, 100)
        for level in (n // 2, n, 3 * n // 2)
        for seed in range(3)
    ]
    return cases + [
        generated("r-constraintbench", tasks=50, level=50, infeasible=kind, seed=seed)
        for kind in ("precedence", "capacity", "disjunctive", "downtime")
        for seed in range(3)
    ]


def flexible(jobs: int, data: Path | None) -> list[Case]:
    """One long flexible shop."""
    return [generated("shop", jobs=jobs, machines=20, alternatives=3)]


def large(data: Path | None) -> list[Case]:
    """Where deadlines are hardest to keep: large public files and generated projects and shops."""
    cases = [
        generated("project", tasks=5000),
        generated("project", tasks=5000, modes=3, nonrenewable=2),
        generated("shop", jobs=100, machines=20, alternatives=3),
        generated("shop", jobs=500, machines=20, alternatives=3),
    ]
    if data is not None:
        cases += files("psplib_sm", r"j120\d+_\d+\.sm", "bounds_j120.csv", 100)(data)
        cases += files("rg300", r".*\.rcp", "bounds.csv", 80)(data)
    return cases


def growing(data: Path | None) -> list[Case]:
    """Projects of 500 to 50,000 tasks on 4, 10 and 20 resources, smallest first."""
    return [
        generated("project", tasks=tasks, resources=resources, width=tasks // 25 + 20, seed=7)
        for tasks in (500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
        for resources in (4, 10, 20)
    ]


def growth(case: Case, problem: Any, result: Any) -> dict[str, Any]:
    """Size of the problem and the process's peak of memory so far."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "tasks": len(problem.tasks),
        "resources": len(problem.resources),
        "peak_mib": round(kib / 1024),
    }


def _in_folder(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def _suite(
    name: str,
    description: str,
    cases: Callable[[Path | None], list[Case]],
    limit: float = 10.0,
) -> Suite:
    return Suite(name=name, description=description, cases=cases, limit=limit, peers=PEERS)


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        *(
            _suite(
                f"psplib-{name}",
                f"PSPLIB {name}" + ("" if every == 1 else f", every {every}th shared file"),
                files("psplib_sm", rf"{name}\d+_\d+\.sm", f"bounds_{name}.csv", every),
            )
            for name, every in (("j30", 1), ("j60", 12), ("j90", 12), ("j120", 10))
        ),
        _suite(
            "psplib-rg300",
            "RG300 (300 tasks), every 24th shared file",
            files("rg300", r".*\.rcp", "bounds.csv", 24),
        ),
        _suite(
            "psplib-mmlib50",
            "MMLIB50 (50 tasks, 3 modes), every 12th shared file",
            files("mmlib", r".*\.mm", "bounds_mmlib50.csv", 12),
        ),
        _suite(
            "psplib-mm",
            "PSPLIB multi-mode j10, j20, j30",
            files("psplib_mm", r".*\.mm", "bounds.csv"),
        ),
        _suite("patterson", "Patterson's 110", files("patterson", r".*\.rcp", "bounds.csv")),
        _suite(
            "rcpsp-max",
            "RCPSP/max: minimum and maximum lags",
            files("rcpsp_max", r"(?i).*\.sch", "bounds.csv", key=_in_folder),
        ),
        _suite(
            "rcpsp-cpr",
            "RCPSP with consumption and production",
            files("rcpsp_cpr", r".*\.rcp", "bounds.csv", key=_in_folder),
        ),
        _suite(
            "jobshop-la",
            "job shops ft06, ft10, ft20, la01 to la40",
            listed("jobshop", "bounds.csv", r"(ft|la)\d+"),
            30.0,
        ),
        _suite(
            "jobshop-ta",
            "Taillard's job shops, every 4th",
            listed("jobshop", "bounds.csv", r"ta\d+", 4),
            60.0,
        ),
        _suite("jobshop-operators", "job shops with operators", with_operators, 30.0),
        # The peers' models here know no setups.
        Suite(
            name="jobshop-travel-times",
            description="job shops with setups by distance, every 4th at hand",
            cases=with_travel_times,
            limit=30.0,
        ),
        _suite(
            "fjsp-brandimarte",
            "Brandimarte's flexible job shops",
            listed("fjsp", "bounds.csv", r"mk\d+"),
            30.0,
        ),
        _suite(
            "fjsp-hurink",
            "Hurink's flexible job shops edata, rdata, vdata, every 5th",
            listed("fjsp", "bounds.csv", r".*_[erv]data", 5),
            30.0,
        ),
        _suite(
            "jobshop-blocking",
            "blocking job shops la01 to la20, swap allowed",
            blocking_shops,
            60.0,
        ),
        Suite(
            name="tardiness-500",
            description="generated total tardiness, 500 jobs, against rules with local search",
            cases=tardiness,
            limit=10.0,
            peers={f"{rule}+swaps": rule_with_swaps(rule) for rule in ("edd", "mdd")},
        ),
        _suite("wt40", "weighted tardiness, 40 tasks", weighted_tardiness(40)),
        _suite("wt50", "weighted tardiness, 50 tasks", weighted_tardiness(50)),
        _suite("r-constraintbench", "generated feasibility tests", constraintbench),
        *(
            _suite(
                f"flexible-{20 * jobs}",
                f"generated flexible shop of {20 * jobs:,} operations, 20 machines, 3 alternatives",
                partial(flexible, jobs),
                60.0,
            )
            for jobs in (100, 500)
        ),
        _suite("rcpsp-large", "5,000 tasks, flexible shops of 2,000 and 10,000", large),
        Suite(
            name="rcpsp-growth",
            description="generated projects of 500 to 50,000 tasks: first schedule, memory",
            cases=growing,
            limit=60.0,
            extra=growth,
        ),
        _suite("openshop-taillard", "Taillard's open shops", open_shops, 30.0),
    )
}
