"""Readers of project files that hold numbers only.

Patterson ``.rcp``; the RCPSP-CPR files, also ``.rcp``, in which tasks consume and produce
(Koné, Artigues, Lopez and Mongeau, "Comparison of mixed integer linear programming models for the
resource-constrained project scheduling problem with consumption and production of resources",
Flexible Services and Manufacturing Journal 25 (2013)); RCPSP/max ``.sch`` with minimum and
maximum time lags (the layout of ProGen/max).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.scan import Scanner, refuse_cycle

_MANY = 1_000_000


def first_numbers(head: str) -> int:
    """How many whole numbers the first line holds that is not blank; 0 when it holds others."""
    for line in head.splitlines():
        tokens = line.split()
        if tokens:
            return len(tokens) if all(t.isascii() and t.isdigit() for t in tokens) else 0
    return 0


def detect_patterson(file: str, head: str) -> bool:
    """``.rcp`` files that are not RCPSP-CPR."""
    return file.lower().endswith(".rcp") and first_numbers(head) != 3


def detect_cpr(file: str, head: str) -> bool:
    """``.rcp`` files whose first line has three numbers."""
    return file.lower().endswith(".rcp") and first_numbers(head) == 3


def detect_max(file: str, head: str) -> bool:
    """``.sch`` files, in any case."""
    return file.lower().endswith(".sch")


def read_patterson(text: str, file: str, options: Mapping[str, str]) -> RcpspProblem:
    """Read a Patterson ``.rcp`` file; task ids are the positions, from 1, dummies included."""
    return _read_rcp(Scanner(text), reservoirs=False)


def read_cpr(text: str, file: str, options: Mapping[str, str]) -> RcpspProblem:
    """Read an RCPSP-CPR file: Patterson's layout with reservoirs.

    A task takes its consumption from a reservoir at its start and adds its production at its end;
    the stated quantity is the reservoir's initial level, and the level is never negative. The
    quantities of tasks without duration, the dummies first of all, are left out, as in all
    published results: with them, other instances would be infeasible.
    """
    return _read_rcp(Scanner(text), reservoirs=True)


def _read_rcp(scan: Scanner, *, reservoirs: bool) -> RcpspProblem:
    n = scan.integer("the number of tasks", least=1, most=_MANY)
    R = scan.integer("the number of renewable resources", most=_MANY)
    Q = scan.integer("the number of reservoirs", most=_MANY) if reservoirs else 0
    resources: list[dict[str, Any]] = [
        {"name": f"R{k + 1}", "capacity": scan.integer(f"the capacity of resource {k + 1}")}
        for k in range(R)
    ]
    resources += [
        {
            "name": f"Q{k + 1}",
            "type": "reservoir",
            "initial": scan.integer(f"the initial level of reservoir {k + 1}"),
        }
        for k in range(Q)
    ]
    tasks: list[dict[str, Any]] = []
    successors: list[list[int]] = []
    lines: list[int] = []
    for i in range(1, n + 1):
        duration = scan.integer(f"the duration of task {i}")
        lines.append(scan.line)
        demands = {f"R{k + 1}": scan.integer(f"a demand of task {i}") for k in range(R)}
        events = []
        for k in range(Q):
            consumed = scan.integer(f"a consumption of task {i}")
            produced = scan.integer(f"a production of task {i}")
            if consumed and duration:
                events.append({"resource": f"Q{k + 1}", "amount": -consumed, "at": "start"})
            if produced and duration:
                events.append({"resource": f"Q{k + 1}", "amount": produced, "at": "end"})
        mode = {"duration": duration, "demands": {k: u for k, u in demands.items() if u}}
        tasks.append({"id": str(i), "modes": [mode]} | ({"events": events} if events else {}))
        count = scan.integer(f"the number of successors of task {i}", most=n)
        remedy = "Correct the task number, or the number of successors."
        successors.append(
            [
                scan.integer(f"a successor of task {i}", least=1, most=n, remedy=remedy) - 1
                for _ in range(count)
            ]
        )
    scan.finish(f"The first line announces {n} tasks: correct it, or remove the rest.")
    ids = [task["id"] for task in tasks]
    refuse_cycle(successors, ids, lines)
    precedences = [
        {"before": ids[i], "after": ids[j]} for i, row in enumerate(successors) for j in row
    ]
    return RcpspProblem.parse({"tasks": tasks, "resources": resources, "precedences": precedences})


def read_max(text: str, file: str, options: Mapping[str, str]) -> RcpspProblem:
    """Read an RCPSP/max ``.sch`` file; task ids are the file's, 0 to n + 1.

    A lag ``d`` from i to j demands ``start(j) >= start(i) + d``; a negative one is a maximum lag
    in the other direction. Cycles are legal.
    """
    scan = Scanner(text.replace("[", " ").replace("]", " "))
    n = scan.integer("the number of tasks", least=0, most=_MANY) + 2
    R = scan.integer("the number of renewable resources", most=_MANY)
    N = scan.integer("the number of nonrenewable resources", most=_MANY)
    scan.integer(
        "the number of doubly constrained resources",
        most=0,
        remedy="Split each into a renewable and a nonrenewable resource.",
    )
    precedences: list[dict[str, Any]] = []
    for i in range(n):
        _expect(scan, "the task number", i, "Tasks are listed in their order, from 0.")
        _expect(scan, f"the number of modes of task {i}", 1, "Only one mode can be read.")
        count = scan.integer(f"the number of successors of task {i}", most=n)
        after = [
            scan.integer(
                f"a successor of task {i}",
                most=n - 1,
                remedy="Correct the task number, or the number of successors.",
            )
            for _ in range(count)
        ]
        for j in after:
            lag = scan.integer(f"the lag from task {i} to task {j}", least=-(10**12))
            precedences.append(
                {"before": str(i), "after": str(j), "type": "start-start", "min_lag": lag}
            )
    tasks: list[dict[str, Any]] = []
    names = [f"R{k + 1}" for k in range(R)] + [f"N{k + 1}" for k in range(N)]
    for i in range(n):
        _expect(scan, "the task number", i, "Tasks are listed in their order, from 0.")
        _expect(scan, f"the mode number of task {i}", 1, "Only one mode can be read.")
        duration = scan.integer(f"the duration of task {i}")
        units = {name: scan.integer(f"a demand of task {i}") for name in names}
        mode = {"duration": duration, "demands": {k: u for k, u in units.items() if u}}
        tasks.append({"id": str(i), "modes": [mode]})
    resources = [
        {"name": name, "capacity": scan.integer(f"the capacity of resource {name}")}
        | ({} if name[0] == "R" else {"type": "nonrenewable"})
        for name in names
    ]
    scan.finish(f"The first line announces {n - 2} tasks: correct it, or remove the rest.")
    return RcpspProblem.parse({"tasks": tasks, "resources": resources, "precedences": precedences})


def _expect(scan: Scanner, what: str, value: int, remedy: str) -> None:
    found = scan.integer(what)
    if found != value:
        raise ProblemError(
            f"{what} must be {value}", place=f"line {scan.line}", value=found, remedy=remedy
        )
