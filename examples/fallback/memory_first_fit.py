"""A compiler's first-fit buffer allocation, with cpsched behind it.

The primary places the largest buffer first, each at the lowest offset at which it overlaps with
nothing that is alive at the same time: the greedy by size of many inference engines.
"""

from __future__ import annotations

import sys
from typing import Any

import cpsched


def first_fit(problem: Any) -> dict[str, Any]:
    """Offsets by size; knows lifetimes, sizes and alignments."""
    placed: list[tuple[int, int, int, int]] = []  # lower, upper, offset, end
    out = []
    for buffer in sorted(problem.buffers, key=lambda b: -b.size):
        taken = sorted(
            (low, high)
            for a, b, low, high in placed
            if a < buffer.upper and buffer.lower < b and high > low
        )
        offset = 0
        for low, high in taken:
            if offset + buffer.size <= low:
                break
            offset = max(offset, -(-high // buffer.alignment) * buffer.alignment)
        placed.append((buffer.lower, buffer.upper, offset, offset + buffer.size))
        out.append({"buffer": buffer.id, "offset": offset})
    return {"buffers": out}


def main(path: str = "instances/memory/random-40.csv", **settings: Any) -> Any:
    """Place the problem in a file and say what cpsched made of it."""
    problem = cpsched.load(path)
    place = cpsched.fallback(first_fit, family="memory", **settings)
    result = place(problem)
    print(f"first fit {result.initial['objective']}, now {result.objective}")
    print("already optimal" if result.certified else f"{len(result.diff)} buffers change")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
