"""From benchmark records to tables, and comparisons of two result files.

python -m benchmarks.report A.jsonl [B.jsonl]
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def gap_to_best(record: Record) -> float | None:
    """Relative distance of the objective from the best known value, in percent."""
    value, best = record["objective"], record["best_known"]
    if value is None or best is None:
        return None
    worse = best - value if record.get("maximise") else value - best
    return 100.0 * worse / max(1.0, abs(best))


def bound_deviation(record: Record) -> float | None:
    """Relative distance of the bound from the best known bound, in percent."""
    bound, best = record["bound"], record["best_known_bound"]
    if bound is None or best is None:
        return None
    weaker = bound - best if record.get("maximise") else best - bound
    return 100.0 * weaker / max(1.0, abs(best))


def contradiction(record: Record) -> str | None:
    """What in a record contradicts the known bounds, if anything."""
    value, bound = record["objective"], record["bound"]
    best, known = record["best_known"], record["best_known_bound"]
    sign = -1 if record.get("maximise") else 1
    if record["status"] == "INFEASIBLE" and best is not None:
        return "claimed infeasible although a schedule is known"
    if record.get("infeasible") and value is not None:
        return "solved although proven infeasible"
    if value is not None and known is not None and sign * value < sign * known - 1e-6:
        return f"objective {value} beyond the known bound {known}"
    if bound is not None and best is not None and sign * bound > sign * best + 1e-6 * abs(best):
        return f"bound {bound} beyond the best known value {best}"
    return None


def primal_integral(record: Record) -> float | None:
    """Mean over the limit of the relative gap to the best known value (1 without a schedule)."""
    best, limit = record["best_known"], record["limit"]
    if best is None:
        return None
    area, moment, gap = 0.0, 0.0, 1.0
    for time, value in [*record["trace"], [limit, None]]:
        time = min(time, limit)
        area += gap * (time - moment)
        moment = time
        if value is not None:
            gap = min(1.0, abs(value - best) / max(1.0, abs(value), abs(best)))
    return area / limit


def summarise(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row per suite, solver, limit and workers."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        key = (record["suite"], record["solver"], record["limit"], record["workers"])
        groups[key].append(record)
    rows = []
    for (suite, solver, limit, workers), group in sorted(groups.items()):
        rows.append(
            {
                "suite": suite,
                "solver": solver,
                "limit": limit,
                "workers": workers,
                "runs": len(group),
                "solved": sum(r["objective"] is not None for r in group),
                "proved": sum(r["status"] in ("OPTIMAL", "INFEASIBLE") for r in group),
                "gap %": mean(gap_to_best(r) for r in group),
                "bound dev %": mean(bound_deviation(r) for r in group),
                "primal int": mean(primal_integral(r) for r in group),
                "t first": mean(r["time_first"] for r in group),
                "wall mean": mean(r["wall"] for r in group),
                "overshoot": max(r["wall"] - r["limit"] for r in group),
                "contradictions": sum(contradiction(r) is not None for r in group),
            }
        )
    return rows


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are there."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    return sum(known) / len(known) if known else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    if not rows:
        return "(no records)"
    heads = list(rows[0])

    def show(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    out = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    out += ["| " + " | ".join(show(row[h]) for h in heads) + " |" for row in rows]
    return "\n".join(out)


def compare(left: Sequence[Record], right: Sequence[Record]) -> str:
    """Wins, ties and losses of the first file against the second, per suite and solver."""

    def keyed(records: Sequence[Record]) -> dict[tuple[Any, ...], Record]:
        return {(r["suite"], r["instance"], r["solver"], r["seed"], r["limit"]): r for r in records}

    a, b = keyed(left), keyed(right)
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for key in a.keys() & b.keys():
        one, two = a[key], b[key]
        row = counts[(key[0], key[2])]
        sign = -1 if one.get("maximise") else 1
        x = math.inf if one["objective"] is None else sign * one["objective"]
        y = math.inf if two["objective"] is None else sign * two["objective"]
        row[0 if x < y else 2 if x > y else 1] += 1
        row[3] += int(one["status"] == "OPTIMAL") - int(two["status"] == "OPTIMAL")
    rows = [
        {"suite": s, "solver": v, "better": c[0], "equal": c[1], "worse": c[2], "proved +/-": c[3]}
        for (s, v), c in sorted(counts.items())
    ]
    return table(rows)


def main() -> None:
    """Print the summary of one file, or the comparison of two."""
    files = [Path(name) for name in sys.argv[1:]]
    if not files or len(files) > 2:
        sys.exit(__doc__)
    loaded = [[json.loads(row) for row in f.read_text().splitlines() if row.strip()] for f in files]
    for records in loaded:
        print(table(summarise(records)))
        for record in records:
            reason = contradiction(record)
            if reason:
                print(f"CONTRADICTION {record['instance']} {record['solver']}: {reason}")
    if len(loaded) == 2:
        print(compare(*loaded))


if __name__ == "__main__":
    main()
