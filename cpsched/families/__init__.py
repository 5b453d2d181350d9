"""The registry of families: one line per kind, and what a family consists of.

A family is a frozen dataclass of plain functions. Everything outside the families reaches them
through `family(kind)`; a new family is a new folder and one line in `KINDS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cpsched.errors import ProblemError

if TYPE_CHECKING:
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run
    from cpsched.plot.figure import Figure
    from cpsched.problem import ProblemBase, Record
    from cpsched.replan import Event, Revision
    from cpsched.result import Bound, Number, Objective, Values
    from cpsched.validate import Violation

#: Every kind, in the order in which their formats are tried: module under ``cpsched.families``.
KINDS: tuple[str, ...] = ("rcpsp", "workflow", "serving", "pods", "kernel", "memory")

P = TypeVar("P", bound="ProblemBase")
S = TypeVar("S", bound="Record")
I = TypeVar("I")  # noqa: E741  the prepared, index-based instance


@dataclass(frozen=True)
class Format:
    """A file format that `cpsched.load` reads.

    ``detect(file_name, head)`` sees the name and the first 20,000 characters;
    ``read(text, file, options)`` gives the problem or raises `ProblemError` with line and rule.
    ``options`` maps each reader option to its one-line help.
    """

    name: str
    kind: str
    description: str
    detection: str
    detect: Callable[[str, str], bool]
    read: Callable[[str, str, Mapping[str, str]], Any]
    options: Mapping[str, str] = field(default_factory=dict)
    #: Not text: detected by its name alone, and ``read`` opens ``file`` itself (its text is empty).
    binary: bool = False


@dataclass(frozen=True)
class Writer:
    """A target of ``cpsched convert --to``: ``write(problem, schedule or None)`` gives text."""

    name: str
    description: str
    write: Callable[[Any, Any], str]
    needs_schedule: bool = False


@dataclass(frozen=True)
class Generator:
    """A ``cpsched generate`` target: ``make(options)`` gives a problem, deterministic by seed.

    ``options`` maps each option to (default as text, one-line help).
    """

    name: str
    description: str
    options: Mapping[str, tuple[str, str]]
    make: Callable[[Mapping[str, str]], Any]


@dataclass(frozen=True)
class NamedConstraint:
    """One constraint of a problem as a person would name it, for `cpsched.explain`.

    ``name`` is unique in the problem (``deadline:task 7``), ``group`` the constraint's rule name,
    ``sentence`` says what it demands.
    """

    name: str
    group: str
    sentence: str


@dataclass(frozen=True)
class Family(Generic[P, S, I]):
    """The functions that make up a family.

    Attributes
    ----------
    problem, schedule
        The pydantic types of the problem and of its schedule.
    default_objectives
        The objectives of a problem when the caller names none (empty: pure feasibility).
    objective
        An objective by its contract name, or None when the kind has no such objective.
    check
        Every violation of a schedule, from the definition; imports neither model nor core.
    evaluate
        Values of the named objectives of a valid schedule, from the definition, exact.
    prepare
        ``prepare(problem, run)``: indices, integer ticks, reductions. May raise `Infeasible`.
    greedy
        ``greedy(prepared, run)``: offers the first schedule within milliseconds, then better ones
        while cheap.
    bounds
        ``bounds(prepared, run)``: gives the run quick bounds, each with its argument.
    search
        ``search(prepared, run)``: CP-SAT and large-neighbourhood search until `run.done()`.
    recompute
        ``recompute(problem, bound)``: the bound's value from its argument and data alone.
    prove
        ``prove(prepared, run)``: bounds that need no schedule but time, for `cpsched.bound`; None
        where a kind has none.
    repair
        ``repair(prepared, run, schedule)``: offers schedules near a partial or invalid one.
    constraints, restrict
        The named constraints of a problem, and the problem that keeps only the given names of
        them: what `explain` filters.
    items
        A schedule as ``{item: {field: value}}``, for diffs.
    draw
        The picture of a schedule.
    describe
        ``describe(problem, schedule)``: lines that a person can follow, shown under the summary
        on a terminal; None where the picture says more.
    revise
        ``revise(problem, schedule, now, events, stability)``: the problem from now on, for
        `cpsched.replan`; None where a kind cannot be replanned.
    limit
        ``limit(problem, objective, value)``: the problem in which an objective is at most (when
        maximised, at least) a value, or None when no schedule at all can be that good, for
        `cpsched.pareto`; itself None where a kind has no such limits.
    alternatives
        ``alternatives(problem, schedule, count, clock)``: up to ``count`` other schedules with the
        same value of the first objective, for ``k_best``; None where a kind has none.
    tools
        Studies that only this kind has, by command: ``sweep``, ``replay``.
    """

    kind: str
    problem: type[P]
    schedule: type[S]
    default_objectives: Callable[[P], tuple[Objective, ...]]
    objective: Callable[[P, str], Objective | None]
    check: Callable[[P, S], list[Violation]]
    evaluate: Callable[[P, S, Sequence[str]], Values]
    prepare: Callable[[P, Run], I]
    greedy: Callable[[I, Run], None]
    bounds: Callable[[I, Run], None]
    search: Callable[[I, Run], None]
    recompute: Callable[[P, Bound], Number]
    repair: Callable[[I, Run, S], None]
    constraints: Callable[[P], list[NamedConstraint]]
    restrict: Callable[[P, frozenset[str]], P]
    items: Callable[[S], dict[str, dict[str, Any]]]
    draw: Callable[[P, S], Figure]
    describe: Callable[[P, S], list[str]] | None = None
    prove: Callable[[I, Run], None] | None = None
    revise: Callable[[P, S, float, Sequence[Event], int], Revision] | None = None
    limit: Callable[[P, str, Number], P | None] | None = None
    alternatives: Callable[[P, S, int, Clock], list[S]] | None = None
    tools: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    formats: tuple[Format, ...] = ()
    writers: tuple[Writer, ...] = ()
    generators: tuple[Generator, ...] = ()

    def read_schedule(self, schedule: Any) -> S:
        """The family's schedule object from itself, a dict, a `Result`, or a result's dict.

        Raises
        ------
        ProblemError
            When there is no schedule in it, or it is not of the kind's form.
        """
        from cpsched.result import Result

        if isinstance(schedule, Result):
            schedule = schedule.schedule
        if isinstance(schedule, dict) and "schema_version" in schedule and "schedule" in schedule:
            if schedule.get("kind", self.kind) != self.kind:
                raise ProblemError(
                    f"the schedule must be of kind {self.kind}",
                    place="kind",
                    value=schedule.get("kind"),
                    remedy="Pass the result of the same problem.",
                )
            schedule = schedule["schedule"]
        if schedule is None:
            raise ProblemError(
                "there must be a schedule", place="schedule", remedy="Pass a result that has one."
            )
        return schedule if isinstance(schedule, self.schedule) else self.schedule.parse(schedule)


@cache
def family(kind: str) -> Family[Any, Any, Any]:
    """The family of that kind, imported on first use.

    Raises
    ------
    ProblemError
        For an unknown kind.
    """
    if kind not in KINDS:
        raise ProblemError(
            f"kind must be one of {', '.join(KINDS)}", value=kind, remedy="Correct the kind."
        )
    chosen: Family[Any, Any, Any] = importlib.import_module(f"cpsched.families.{kind}").FAMILY
    return chosen


def all_formats(likely: str | None = None) -> Iterator[Format]:
    """Every readable format, cpsched JSON first; a family is imported when its turn comes.

    The likely kind's come before the other kinds'.
    """
    yield Format(
        name="cpsched",
        kind="any",
        description="cpsched JSON of any kind",
        detection='a JSON object with a "kind" of cpsched, or with a "schema_version"',
        detect=_is_own,
        read=_read_own,
    )
    for kind in sorted(KINDS, key=lambda kind: kind != likely):
        yield from family(kind).formats


def _read_own(text: str, file: str, options: Mapping[str, str]) -> Any:
    from cpsched.problem import parse_json, problem_from

    return problem_from(parse_json(text))


def _is_own(name: str, head: str) -> bool:
    import re

    if not head.lstrip().startswith("{"):
        return False
    return re.search(rf'"kind"\s*:\s*"({"|".join(KINDS)})"', head) is not None
