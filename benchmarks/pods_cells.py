"""Per-cell table of a pods-grid run beside the paper's recorded outcomes.

python -m benchmarks.pods_cells RECORDS.jsonl [outcomes_cp_sat.csv] > table.md
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

NAME = re.compile(r"(\d+)x(\d+)-p(\d+)-u(0\.\d+|1\.\d+)-")


def main(arguments: list[str]) -> None:
    """Print the table."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    limit = 0.0
    for line in Path(arguments[0]).read_text().splitlines():
        record = json.loads(line)
        match = NAME.match(record["instance"])
        if match is None:
            continue
        nodes, pods, priorities = (int(match[k]) for k in (1, 2, 3))
        limit = max(limit, record["limit"])
        key = (nodes, pods // nodes, priorities, round(100 * float(match[4])))
        cells[(*key, record["solver"])].append(record)
    paper: dict[tuple[int, ...], dict[str, float]] = defaultdict(dict)
    if len(arguments) > 1:
        with Path(arguments[1]).open(newline="") as stream:
            for row in csv.DictReader(stream):
                if float(row["timeout_s"]) == limit:
                    columns = ("nodes", "pods_per_node", "priorities", "usage_pct")
                    where = tuple(int(row[c]) for c in columns)
                    paper[where][row["outcome"]] = float(row["pct_of_100_instances"])
    print(f"Limit {limit:g} s. Shares in percent; 'paper' columns are its CP-SAT run.\n")
    print("\n".join(totals(cells)) + "\n")
    print(
        "| nodes | pods/node | priorities | use | runs | failed | better | certified "
        "| better or certified | disruption proved | naive certified | paper: failures "
        "| paper: better or optimal |"
    )
    print("|---" * 13 + "|")
    for key in sorted({k[:4] for k in cells}):
        own = [r for k, rows in cells.items() if k == (*key, "cpsched") for r in rows]
        naive = [r for k, rows in cells.items() if k == (*key, "naive-cp-sat") for r in rows]
        extra = [r.get("extra", r) for r in own]

        def share(values: list[Any]) -> str:
            return f"{100 * sum(map(bool, values)) / len(values):.0f}" if values else ""

        known = paper.get(key, {})
        good = [v for k, v in known.items() if k not in ("Failures", "No-calls", "NoCalls")]
        print(
            f"| {' | '.join(map(str, key))} | {len(own)} "
            f"| {share([e.get('failed') for e in extra])} "
            f"| {share([e.get('better') for e in extra])} "
            f"| {share([e.get('certified') for e in extra])} "
            f"| {share([e.get('better') or e.get('certified') for e in extra])} "
            f"| {share([e.get('disruption_proved') for e in extra])} "
            f"| {share([r.get('extra', r).get('certified') for r in naive])} "
            f"| {known.get('Failures', '')} | {sum(good) if good else ''} |"
        )


def totals(cells: dict[tuple[Any, ...], list[dict[str, Any]]]) -> list[str]:
    """One line for all cells, and one each for those with 4 and with 8 pods per node."""
    out = []
    for name, wanted in (("all cells", (4, 8)), ("4 pods/node", (4,)), ("8 pods/node", (8,))):
        chosen = {
            s: [r for k, rows in cells.items() if k[4] == s and k[1] in wanted for r in rows]
            for s in ("cpsched", "naive-cp-sat")
        }
        own = [r.get("extra", r) for r in chosen["cpsched"]]
        if not own:
            continue

        def share(field: str, rows: list[dict[str, Any]]) -> str:
            return f"{100 * sum(bool(r.get(field)) for r in rows) / len(rows):.1f} %"

        good = sum(bool(r.get("better") or r.get("certified")) for r in own)
        text = (
            f"- {name}: {len(own)} runs, {share('failed', own)} failed, "
            f"{100 * good / len(own):.1f} % better or certified, counts certified "
            f"{share('certified', own)}, disruption proved {share('disruption_proved', own)}"
        )
        if chosen["naive-cp-sat"]:
            none = sum(r["objective"] is None for r in chosen["naive-cp-sat"])
            text += (
                f"; naive CP-SAT certified {share('certified', chosen['naive-cp-sat'])}, "
                f"failed {100 * none / len(chosen['naive-cp-sat']):.1f} %"
            )
        out.append(text)
    return out


if __name__ == "__main__":
    main(sys.argv[1:])
