"""Why there is no schedule: a minimal set of named constraints, by a deletion filter.

The solver's assumption cores have known defects, so every step here is a plain feasibility solve
of a problem that keeps only some of its named constraints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpsched.core.clock import Clock, Stop
from cpsched.families import NamedConstraint, family
from cpsched.result import Status

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase


#: Share of the time that a step of the first round may take (one second at least).
QUICK = 0.01


@dataclass(frozen=True)
class Explanation:
    """The answer of `explain`.

    Attributes
    ----------
    status
        INFEASIBLE with ``conflict`` filled; FEASIBLE when a schedule exists; UNKNOWN when time
        ran out before either was shown.
    conflict
        Named constraints that cannot hold together.
    minimal
        Whether dropping any one of them was shown to restore feasibility.
    """

    status: Status
    conflict: tuple[NamedConstraint, ...] = ()
    minimal: bool = False

    def __str__(self) -> str:
        if self.status is Status.FEASIBLE:
            return "A schedule exists: nothing to explain."
        if self.status is Status.UNKNOWN:
            return "Neither a schedule nor a proof that there is none was found in the time."
        lines = [f"  {i}. {c.sentence}" for i, c in enumerate(self.conflict, 1)]
        tail = (
            "Dropping any one of them makes a schedule possible."
            if self.minimal
            else "The time was too short to show that every one of them is needed."
        )
        if not lines:
            return "No schedule exists even without any named constraint."
        return "\n".join(["These constraints cannot hold together:", *lines, tail])

    def to_dict(self) -> dict[str, Any]:
        """JSON form: status, conflict (name, group, sentence), minimal, text."""
        return {
            "status": self.status.value,
            "conflict": [
                {"name": c.name, "group": c.group, "sentence": c.sentence} for c in self.conflict
            ],
            "minimal": self.minimal,
            "text": str(self),
        }


def explain(
    problem: ProblemBase,
    time_limit: float | None = 30.0,
    *,
    workers: int | None = None,
    seed: int = 0,
    stop: Stop = None,
) -> Explanation:
    """A minimal set of named constraints that no schedule can satisfy together.

    Parameters
    ----------
    problem
        A problem of any kind.
    time_limit
        Seconds for the whole filter; when it runs out the set found so far is returned with
        ``minimal`` False.

    Raises
    ------
    ProblemError
        For a malformed problem.
    """
    chosen = family(problem.kind)
    clock = Clock(time_limit, stop=stop)

    def status_of(names: frozenset[str], share: float) -> Status:
        from cpsched.solve import solve

        result = solve(
            chosen.restrict(problem, names),
            time_limit=max(0.05, min(clock.remaining(), share)),
            objective=[],
            workers=workers,
            seed=seed,
            stop=lambda: clock.cancelled,
        )
        return Status.FEASIBLE if result.status is Status.OPTIMAL else result.status

    listed = chosen.constraints(problem)
    everything = frozenset(c.name for c in listed)
    status = status_of(everything, clock.remaining())
    if status is not Status.INFEASIBLE:
        return Explanation(status)

    kept = list(listed)
    needed: set[str] = set()  # dropping one of these was shown to make a schedule possible

    def filter_blocks(patience: float, until: float) -> None:
        """Drop blocks of halving size while that keeps the conflict, until some time is left."""
        block = max(1, len(kept) // 2)
        while block:
            position = 0
            while position < len(kept) and clock.remaining() > until and not clock.cancelled:
                dropped = kept[position : position + block]
                if any(c.name in needed for c in dropped):
                    position += 1
                    continue
                rest = max(1, (len(kept) - position) // block + len(kept) // block)
                share = min(patience, 4 * clock.remaining() / (rest + 4))
                names = frozenset(c.name for c in kept) - {c.name for c in dropped}
                status = status_of(names, share)
                if status is Status.INFEASIBLE:
                    del kept[position : position + block]
                    continue
                if block == 1 and status is Status.FEASIBLE:
                    needed.add(dropped[0].name)
                position += block
            block //= 2

    # Cheap proofs first: they leave so little that a schedule for the rest is found easily.
    whole = clock.remaining()
    if math.isfinite(whole):
        filter_blocks(max(1.0, QUICK * whole), 0.6 * whole)
    filter_blocks(math.inf, 0.0)
    return Explanation(Status.INFEASIBLE, tuple(kept), all(c.name in needed for c in kept))
