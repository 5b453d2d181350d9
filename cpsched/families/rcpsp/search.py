"""The search of the `rcpsp` family: CP-SAT on the whole problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpsched.core.exact import solve_levels

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance


def search(instance: Instance, run: Run) -> None:
    """Improve and prove until the run is done."""
    from cpsched.families.rcpsp.model import build

    solve_levels(run, lambda level: build(instance, run, level))
