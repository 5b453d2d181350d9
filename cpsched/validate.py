"""Independent validation of schedules: `Report`, `Violation`, and the way to a family's checker."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase


@dataclass(frozen=True)
class Violation:
    """One broken rule of one schedule.

    ``rule`` is the constraint's name in schema, model and MiniZinc; ``where`` locates it
    (``task``, ``resource``, ``time``, ...); ``amount`` says by how much, in the rule's unit.
    """

    rule: str
    message: str
    where: dict[str, Any] = field(default_factory=dict)
    amount: int | float | None = None

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


@dataclass(frozen=True)
class Report:
    """What the checker found. True when the schedule is valid."""

    valid: bool
    violations: tuple[Violation, ...] = ()
    objectives: dict[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.valid

    def to_dict(self) -> dict[str, Any]:
        """The ``validation`` object of a result."""
        return {"valid": self.valid, "violations": [asdict(v) for v in self.violations]}


def validate(problem: ProblemBase, schedule: Any) -> Report:
    """Check a schedule against the definition of its problem, independently of any solver.

    Parameters
    ----------
    problem
        The problem as loaded or built.
    schedule
        A schedule of its kind: the family's schedule object, the ``schedule`` object of a result
        as a dict, a `Result`, or a whole result as a dict.

    Returns
    -------
    Report
        ``valid``, all ``violations``, and the values of the problem's default ``objectives`` when
        valid.

    Raises
    ------
    ProblemError
        When the schedule is not of the kind's form (unknown fields, wrong types).
    """
    from cpsched.families import family

    chosen = family(problem.kind)
    parsed = chosen.read_schedule(schedule)
    violations = tuple(chosen.check(problem, parsed))
    values: dict[str, Any] = {}
    if not violations:
        names = tuple(o.name for o in chosen.default_objectives(problem))
        values = dict(zip(names, chosen.evaluate(problem, parsed, names), strict=True))
    return Report(not violations, violations, values)
