"""Plots from benchmark records.

python -m benchmarks.plots anytime FILE.jsonl ... --out anytime.svg   mean gap over time, by solver
python -m benchmarks.plots growth FILE.jsonl ... --out growth.svg     first schedule, memory by size
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot

from benchmarks.run import read

Record = dict[str, Any]

#: Without a schedule the gap counts as this much, in percent.
NOTHING = 100.0


def gap_at(record: Record, moments: Sequence[float]) -> list[float]:
    """Distance from the best known value, in percent, of what was known at each moment."""
    best = record["best_known"]
    out = []
    for moment in moments:
        known = [value for time, value in record["trace"] if time <= moment]
        gap = NOTHING if not known else 100.0 * abs(known[-1] - best) / max(1.0, abs(best))
        out.append(min(NOTHING, gap))
    return out


def anytime(records: Sequence[Record]) -> Any:
    """Mean gap over time, one panel per suite, one line per solver."""
    groups: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["best_known"] is not None:
            groups[record["suite"]][record["solver"]].append(record)
    figure, axes = pyplot.subplots(
        1, len(groups), figsize=(3.6 * len(groups), 3.2), sharey=True, squeeze=False
    )
    for panel, (suite, solvers) in zip(axes[0], groups.items(), strict=True):
        limit = max(r["limit"] for rs in solvers.values() for r in rs)
        moments = np.geomspace(0.02, limit, 120)
        for solver, runs in sorted(solvers.items()):
            mean = np.mean([gap_at(r, moments.tolist()) for r in runs], axis=0)
            panel.plot(moments, np.maximum(mean, 0.01), label=solver)
        panel.set(title=suite, xscale="log", yscale="log", xlabel="seconds")
        panel.grid(alpha=0.3)
    axes[0][0].set_ylabel("mean gap to the best known, %")
    axes[0][-1].legend()
    return figure


def growth(records: Sequence[Record]) -> Any:
    """Seconds to the first checked schedule and peak memory by number of tasks."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.6, 3.2))
    for count in sorted({r["resources"] for r in records}):
        chosen = sorted(
            (r for r in records if r["resources"] == count), key=lambda r: int(r["tasks"])
        )
        tasks = [r["tasks"] for r in chosen]
        left.plot(tasks, [r["time_first"] for r in chosen], "o-", label=f"{count} resources")
        right.plot(tasks, [r["peak_mib"] for r in chosen], "o-")
    sizes = np.array(sorted({r["tasks"] for r in records}), float)
    first = min(r["time_first"] for r in records)
    left.plot(sizes, first * sizes / sizes[0], "k:", label="linear")
    left.set(xscale="log", yscale="log", xlabel="tasks", ylabel="seconds to the first schedule")
    right.set(xscale="log", xlabel="tasks", ylabel="peak memory, MiB")
    left.legend()
    for panel in (left, right):
        panel.grid(alpha=0.3)
    return figure


def main() -> None:
    """Draw one plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("anytime", "growth"))
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "cpsched"
    records = [record for file in args.files for record in read(file)]
    figure = anytime(records) if args.what == "anytime" else growth(records)
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Date": None} if args.out.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
