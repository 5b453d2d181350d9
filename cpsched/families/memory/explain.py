"""Named constraints of the family, and the problem that keeps only some of them."""

from __future__ import annotations

from typing import Any

from cpsched.families import NamedConstraint
from cpsched.families.memory.problem import MemoryProblem


def constraints(problem: MemoryProblem) -> list[NamedConstraint]:
    """What a person may drop to make room, in words."""
    out: list[NamedConstraint] = []
    if problem.capacity is not None:
        out.append(
            NamedConstraint("capacity", "capacity", f"Offsets end at {problem.capacity} at most.")
        )
    for b in problem.buffers:
        if b.offset is not None:
            out.append(
                NamedConstraint(
                    f"pinned:{b.id}", "pinned", f"Buffer {b.id} lies at offset {b.offset}."
                )
            )
        if b.alignment > 1:
            out.append(
                NamedConstraint(
                    f"alignment:{b.id}",
                    "alignment",
                    f"The offset of buffer {b.id} is a multiple of {b.alignment}.",
                )
            )
        if b.alias is not None:
            out.append(
                NamedConstraint(
                    f"alias:{b.id}",
                    "alias",
                    f"Buffer {b.id} lies {b.alias.shift} into buffer {b.alias.of}.",
                )
            )
        if b.output and problem.form == "mapping":
            out.append(
                NamedConstraint(
                    f"output:{b.id}", "output", f"Tensor {b.id} reaches {problem.home}."
                )
            )
        if b.size > 0 and problem.form != "mapping":
            out.append(
                NamedConstraint(
                    f"overlap:{b.id}",
                    "overlap",
                    f"Buffer {b.id} has {b.size} bytes of its own while it is alive.",
                )
            )
    return out


def restrict(problem: MemoryProblem, names: frozenset[str]) -> MemoryProblem:
    """The problem with only the named constraints among `constraints`.

    Without its ``overlap`` a buffer occupies nothing; the objectives go, as only feasibility is
    asked.
    """
    buffers = []
    for b in problem.buffers:
        change: dict[str, Any] = {}
        if b.offset is not None and f"pinned:{b.id}" not in names:
            change["offset"] = None
        if b.alignment > 1 and f"alignment:{b.id}" not in names:
            change["alignment"] = 1
        if b.alias is not None and f"alias:{b.id}" not in names:
            change["alias"] = None
        if b.output and problem.form == "mapping" and f"output:{b.id}" not in names:
            change["output"] = False
        if b.size > 0 and problem.form != "mapping" and f"overlap:{b.id}" not in names:
            change["size"] = 0
            change["gaps"] = ()
        buffers.append(b.model_copy(update=change) if change else b)
    capacity = problem.capacity if "capacity" in names else None
    return problem.model_copy(
        update={"buffers": tuple(buffers), "capacity": capacity, "objectives": ()}
    )
