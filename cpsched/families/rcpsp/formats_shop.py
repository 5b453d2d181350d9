"""Readers of shop and single-machine files, in which every machine serves one task at a time.

JSPLIB text (job shop), FJSPLIB ``.fjs`` (flexible job shop), open-shop text, and the OR-Library's
``wt`` files (weighted tardiness on one machine).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.scan import Scanner, flag, number, whole

_MANY = 1_000_000


def detect_jsplib(file: str, head: str) -> bool:
    """A first line ``jobs machines``, then a line of that many pairs."""
    rows = _numeric_rows(head, 2)
    return len(rows) == 2 and len(rows[0]) == 2 and len(rows[1]) == 2 * int(rows[0][1]) > 0


def detect_fjsplib(file: str, head: str) -> bool:
    """The extension ``.fjs``."""
    return file.lower().endswith(".fjs")


def detect_wt(file: str, head: str) -> bool:
    """The names ``wt40``, ``wt50``, ``wt100``, ..., with or without ``.txt``."""
    return re.fullmatch(r"wt[0-9]+(\.txt)?", file.lower(), re.ASCII) is not None


def _numeric_rows(head: str, count: int) -> list[list[str]]:
    """The first lines of whole numbers; none when another line comes before."""
    rows: list[list[str]] = []
    for line in head.splitlines():
        tokens = line.split()
        if not tokens or tokens[0].startswith("#"):
            continue
        if len(rows) == count or not all(
            t.isascii() and t.isdigit() and len(t) < 8 for t in tokens
        ):
            break
        rows.append(tokens)
    return rows


def _machine(k: int | str) -> dict[str, Any]:
    return {"name": f"M{k}"}


def _chains(
    jobs: Sequence[Sequence[Sequence[dict[str, Any]]]], blocking: bool = False
) -> dict[str, Any]:
    """Tasks and precedences of jobs, each a list of operations, each a list of modes.

    Only the last operation of a job counts in completion and tardiness objectives.
    """
    tasks: list[dict[str, Any]] = []
    precedences: list[dict[str, Any]] = []
    for j, operations in enumerate(jobs):
        for k, modes in enumerate(operations):
            task: dict[str, Any] = {"id": f"{j}-{k}", "modes": modes}
            if k + 1 < len(operations):
                task["weight"] = 0
                if blocking:
                    task["blocks_until"] = f"{j}-{k + 1}"
                precedences.append({"before": f"{j}-{k}", "after": f"{j}-{k + 1}"})
            tasks.append(task)
    return {"tasks": tasks, "precedences": precedences}


def read_jsplib(text: str, file: str, options: Mapping[str, str]) -> RcpspProblem:
    """Read a job shop: per job one line of pairs ``machine duration``, machines from 0.

    Task ids are ``"<job>-<operation>"``, from 0. With option ``operators``, every operation also
    needs one of that many operators; with ``blocking`` a job stays on its machine until the next
    one takes it (jobs may swap places unless ``swap=false``); with ``permutation`` no job overtakes
    another; with ``no_wait`` a job never waits once it has begun; with ``travel_times`` a machine
    needs setups, see `_travel_times`.
    """
    ragged, operators = flag(options, "ragged"), number(options, "operators", 0)
    farthest = number(options, "travel_times", 0)
    scan = Scanner(text, comment="#")
    n = scan.integer("the number of jobs", least=1, most=_MANY)
    m = scan.integer("the number of machines", least=1, most=_MANY)
    jobs: list[list[list[dict[str, Any]]]] = []
    for j in range(n):
        row = scan.row()
        if row is None:
            scan.ended(f"the line of job {j}")
        if len(row) % 2:
            openshop = " An open shop is read with --format openshop." if len(row) == m else ""
            raise ProblemError(
                f"the line of job {j} must hold pairs of numbers",
                place=f"line {scan.line}",
                value=f"{len(row)} numbers",
                remedy=f"Each operation is a pair 'machine duration'.{openshop}",
            )
        operations = []
        for a, b in zip(row[::2], row[1::2], strict=True):
            machine = whole(
                a,
                f"a machine of job {j}",
                scan.line,
                most=m - 1,
                remedy=f"There are {m} machines, numbered from 0.",
            )
            duration = whole(b, f"a duration of job {j}", scan.line)
            demands = {f"M{machine}": 1} | ({"operators": 1} if operators else {})
            operations.append([{"duration": duration, "demands": demands}])
        if jobs and len(operations) != len(jobs[0]) and not ragged:
            raise ProblemError(
                f"job {j} must have {len(jobs[0])} operations like the first job",
                place=f"line {scan.line}",
                value=len(operations),
                remedy="Complete the line, or pass --option ragged=true where jobs differ.",
            )
        jobs.append(operations)
    scan.finish(f"The first line announces {n} jobs: correct it, or remove the rest.")
    resources = [_machine(k) for k in range(m)]
    if operators:
        resources.append({"name": "operators", "capacity": operators})
    data = _chains(jobs, flag(options, "blocking")) | {"resources": resources}
    data["swap"] = flag(options, "swap", True)
    if flag(options, "no_wait"):
        for precedence in data["precedences"]:
            precedence["max_lag"] = 0
    routes = [[next(iter(modes[0]["demands"])) for modes in job] for job in jobs]
    if flag(options, "permutation"):
        data["same_sequence"] = _permutation(routes)
    if farthest:
        data["setups"] = _travel_times(routes, m, farthest)
    return RcpspProblem.parse(data)


def _permutation(routes: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The rule that no job overtakes another; all jobs must have one route."""
    for j, route in enumerate(routes):
        if list(route) != list(routes[0]):
            raise ProblemError(
                "in a permutation flow shop all jobs visit the machines in the same order",
                place=f"job {j}",
                value=" ".join(route),
                remedy=f"Job 0 goes {' '.join(routes[0])}: correct the file, or leave the option "
                "'permutation' out.",
            )
    length = len(routes[0])
    if length < 2 or len(routes) < 2:
        return []
    return [{"lists": [[f"{j}-{k}" for j in range(len(routes))] for k in range(length)]}]


def _travel_times(
    routes: Sequence[Sequence[str]], machines: int, farthest: int
) -> list[dict[str, Any]]:
    """Setups on every machine by distances between random points, one per job.

    As in the public benchmark set of job shops with travel times, which has no files of its own:
    coordinates in ``0 .. farthest`` are drawn by xorshift (Marsaglia 2003, shifts 13, 17, 5) from
    the seed 1, distances are Euclidean and rounded. The seed is inferred: with it the optimum of
    ft06 is the published one, la16 reaches its published optimum, and none of la01, la02, la03,
    la05 and la06 gets below theirs (la02 and la03 end one above in 8 seconds).
    """
    state = 1

    def draw() -> int:
        nonlocal state
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        return round(state / 0xFFFFFFFF * farthest)

    rules = []
    for k in range(machines):
        points = [(draw(), draw()) for _ in routes]
        times = [[round(math.dist(a, b)) for b in points] for a in points]
        states = {
            f"{j}-{i}": j
            for j, route in enumerate(routes)
            for i, machine in enumerate(route)
            if machine == f"M{k}"
        }
        if states:
            rules.append({"resource": f"M{k}", "states": states, "times": times})
    return rules


def read_fjsplib(text: str, file: str, options: Mapping[str, str]) -> RcpspProblem:
    """Read a flexible job shop: per job its operations, each with its eligible machines.

    The layout is ``operations (alternatives (machine duration)*)*``, machines from 1. Task ids are
    ``"<job>-<operation>"``, from 0; the modes of an operation are its alternatives in their order.
    """
    scan = Scanner(text, comment="#")
    head = scan.row() or []
    if len(head) not in (2, 3):
        raise ProblemError(
            "the first line must hold the numbers of jobs and machines",
            place=f"line {scan.line}",
            value=" ".join(head),
            remedy="Write 'jobs machines', or 'jobs machines alternatives-per-operation'.",
        )
    n = whole(head[0], "the number of jobs", scan.line, least=1, most=_MANY)
    m = whole(head[1], "the number of machines", scan.line, least=1, most=_MANY)
    jobs: list[list[list[dict[str, Any]]]] = []
    for j in range(n):
        operations = []
        for k in range(scan.integer(f"the number of operations of job {j}", most=_MANY)):
            what = f"operation {k} of job {j}"
            modes = []
            for _ in range(scan.integer(f"the number of machines of {what}", least=1, most=m)):
                machine = scan.integer(
                    f"a machine of {what}",
                    least=1,
                    most=m,
                    remedy=f"There are {m} machines, numbered from 1.",
                )
                duration = scan.integer(f"a duration of {what}")
                modes.append({"duration": duration, "demands": {f"M{machine}": 1}})
            operations.append(modes)
        jobs.append(operations)
    scan.finish(f"The first line announces {n} jobs: correct it, or remove the rest.")
    resources = [_machine(k + 1) for k in range(m)]
    return RcpspProblem.parse(_chains(jobs) | {"resources": resources})


def read_openshop(text: str, file: str, options: Mapping[str, str]) -> RcpspProblem:
    """Read an open shop: ``jobs machines``, then per job its duration on every machine.

    Task ids are ``"<job>-<machine>"``, from 0. The tasks of a job are disjunctive: they may run in
    any order, one at a time.
    """
    scan = Scanner(text, comment="#")
    n = scan.integer("the number of jobs", least=1, most=_MANY)
    m = scan.integer("the number of machines", least=1, most=_MANY)
    tasks = [
        {
            "id": f"{j}-{k}",
            "modes": [
                {
                    "duration": scan.integer(f"the duration of job {j} on machine {k}"),
                    "demands": {f"M{k}": 1},
                }
            ],
        }
        for j in range(n)
        for k in range(m)
    ]
    scan.finish(f"The first line announces {n} jobs and {m} machines, so {n * m} durations.")
    groups = [{"name": f"job {j}", "tasks": [f"{j}-{k}" for k in range(m)]} for j in range(n)]
    return RcpspProblem.parse(
        {
            "tasks": tasks,
            "resources": [_machine(k) for k in range(m)],
            "disjunctive": groups if m > 1 else [],
        }
    )


def read_wt(text: str, file: str, options: Mapping[str, str]) -> RcpspProblem:
    """Read one instance of an OR-Library ``wt`` file: durations, then weights, then due dates.

    The number of tasks is that in the file's name (``wt40``) unless option ``tasks`` gives it.
    Task ids are ``"0"``, ``"1"``, ...; the objective is ``weighted_tardiness``.
    """
    index = number(options, "index", 0)
    named = re.match(r"wt([0-9]{1,6})", Path(file).name.lower(), re.ASCII)
    n = number(options, "tasks", int(named[1]) if named else 0)
    if n < 1:
        raise ProblemError(
            "the number of tasks per instance must be known",
            remedy="Name the file wt<tasks>.txt, or pass --option tasks=N.",
        )
    tokens = text.split()
    if len(tokens) % (3 * n):
        raise ProblemError(
            f"the file must hold {3 * n} numbers per instance of {n} tasks",
            value=f"{len(tokens)} numbers",
            remedy="The file seems to be truncated, or --option tasks=N must be corrected.",
        )
    count = len(tokens) // (3 * n)
    if index >= count:
        raise ProblemError(
            f"option index must be below {count}, the number of instances in the file",
            value=index,
            remedy="Indices count from 0.",
        )
    # Read token by token up to the chosen instance, so that complaints name the line.
    scan = Scanner(text)
    for _ in range(3 * n * index):
        scan.token("an earlier instance")
    durations = scan.integers(n, "a duration")
    weights = scan.integers(n, "a weight")
    dues = scan.integers(n, "a due date")
    tasks = [
        {
            "id": str(i),
            "modes": [{"duration": p, "demands": {"M0": 1}}],
            "weight": w,
            "due": d,
        }
        for i, (p, w, d) in enumerate(zip(durations, weights, dues, strict=True))
    ]
    return RcpspProblem.parse(
        {
            "name": f"{Path(file).stem}_{index}",
            "tasks": tasks,
            "resources": [_machine(0)],
            "objectives": ["weighted_tardiness"],
        }
    )
