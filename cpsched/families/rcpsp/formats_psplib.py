"""Reader of the PSPLIB project files: ``.sm`` (one mode) and ``.mm`` (several modes).

The layout is that of Kolisch and Sprecher, "PSPLIB - a project scheduling problem library",
European Journal of Operational Research 96 (1997). The MMLIB files share it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.families.rcpsp.scan import Scanner, refuse_cycle, whole

_COUNT = re.compile(r"^\s*-?\s*(jobs|renewable|nonrenewable|doubly constrained)\b[^:]*:\s*(\S*)")
_RESOURCE = re.compile(r"([RN])\s*([0-9]{1,4})", re.ASCII)


def detect(file: str, head: str) -> bool:
    """By content, else by extension."""
    return "PRECEDENCE RELATIONS" in head or file.lower().endswith((".sm", ".mm"))


def read(text: str, file: str, options: Mapping[str, str]) -> RcpspProblem:
    """Read a PSPLIB ``.sm`` or ``.mm`` file; task ids are the job numbers, dummies included."""
    scan = _Psplib(text)
    counts = scan.counts()
    n, R, N = counts["jobs"], counts["renewable"], counts["nonrenewable"]
    if counts["doubly constrained"]:
        raise ProblemError(
            "doubly constrained resources cannot be read: the format gives one availability for "
            "two limits",
            value=counts["doubly constrained"],
            remedy="Split each into a renewable and a nonrenewable resource.",
        )
    mode_counts, successors, lines = scan.precedences(n)
    modes = scan.requests(mode_counts, R, N)
    capacities = scan.availabilities(R, N)
    ids = [str(i + 1) for i in range(n)]
    refuse_cycle(successors, ids, lines)
    names = [f"R{k + 1}" for k in range(R)] + [f"N{k + 1}" for k in range(N)]
    tasks: list[dict[str, Any]] = [
        {
            "id": name,
            "modes": [
                {"duration": d, "demands": {k: u for k, u in zip(names, units, strict=True) if u}}
                for d, *units in rows
            ],
        }
        for name, rows in zip(ids, modes, strict=True)
    ]
    tasks[0]["release"] = scan.release
    if scan.due is not None:
        tasks[-1] |= {"due": scan.due, "weight": scan.cost}
    resources = [
        {"name": name, "capacity": capacity} | ({} if k < R else {"type": "nonrenewable"})
        for k, (name, capacity) in enumerate(zip(names, capacities, strict=True))
    ]
    precedences = [
        {"before": ids[i], "after": ids[j]} for i, row in enumerate(successors) for j in row
    ]
    return RcpspProblem.parse({"tasks": tasks, "resources": resources, "precedences": precedences})


class _Psplib(Scanner):
    """The sections of a PSPLIB file, in their order."""

    def __init__(self, text: str) -> None:
        super().__init__(text, comment="*")
        self.release = 0
        self.due: int | None = None
        self.cost = 0

    def section(self, title: str) -> None:
        """Skip to the line that starts with the title."""
        for row in self.rows():
            if " ".join(row).upper().replace(" ", "").startswith(title.replace(" ", "")):
                return
        raise ProblemError(
            f"the section {title!r} must be present",
            place=f"after line {self.line}",
            remedy="The file seems to be truncated, or of another format (--format names one).",
        )

    def counts(self) -> dict[str, int]:
        """Numbers of jobs and resources, up to the heading of the precedences."""
        found: dict[str, int] = {}
        for row in self.rows():
            text = " ".join(row)
            if text.upper().startswith("PRECEDENCE RELATIONS"):
                break
            if text.startswith("pronr."):
                self._project()
            match = _COUNT.match(text)
            if match:
                least = 1 if match[1] == "jobs" else 0
                what = f"the number of {match[1]} {'' if match[1] == 'jobs' else 'resources'}"
                found[match[1]] = whole(
                    match[2], what.strip(), self.line, least=least, most=1_000_000
                )
        else:
            raise ProblemError(
                "the section 'PRECEDENCE RELATIONS' must be present",
                place=f"after line {self.line}",
                remedy="The file seems to be truncated, or of another format (--format names one).",
            )
        for key in ("jobs", "renewable", "nonrenewable"):
            if key not in found:
                raise ProblemError(
                    f"the head must say the number of {key}{'' if key == 'jobs' else ' resources'}",
                    place=f"before line {self.line}",
                    remedy=f"Add the line '{key} : ...'.",
                )
        return {"doubly constrained": 0} | found

    def _project(self) -> None:
        """The project's release date, due date and cost of tardiness."""
        row = self.row() or []
        if len(row) >= 5:
            self.release = whole(row[2], "the project's release date", self.line)
            self.due = whole(row[3], "the project's due date", self.line)
            self.cost = whole(row[4], "the project's tardiness cost", self.line)

    def precedences(self, n: int) -> tuple[list[int], list[list[int]], list[int]]:
        """Per job: number of modes, successors as indices, and the line."""
        self._skip_heading("jobnr.")
        mode_counts, successors, lines = [], [], []
        for job in range(1, n + 1):
            self._job(job)
            mode_counts.append(
                self.integer(f"the number of modes of job {job}", least=1, most=100_000)
            )
            count = self.integer(f"the number of successors of job {job}", most=n)
            lines.append(self.line)
            remedy = "Correct the job number, or the number of successors."
            row = [
                self.integer(f"a successor of job {job}", least=1, most=n, remedy=remedy) - 1
                for _ in range(count)
            ]
            successors.append(row)
        return mode_counts, successors, lines

    def requests(self, mode_counts: list[int], R: int, N: int) -> list[list[list[int]]]:
        """Per job and mode: duration, then demands of renewable and nonrenewable resources."""
        self.section("REQUESTS/DURATIONS")
        self._skip_heading("jobnr.")
        result = []
        for job, count in enumerate(mode_counts, 1):
            self._job(job)
            rows = []
            for mode in range(1, count + 1):
                self.integer(
                    f"the mode number of job {job}",
                    least=mode,
                    most=mode,
                    remedy=f"Job {job} has announced {count} modes, numbered from 1.",
                )
                duration = self.integer(f"the duration of job {job}")
                units = self.integers(R + N, f"a demand of job {job}")
                rows.append([duration, *units])
            result.append(rows)
        return result

    def availabilities(self, R: int, N: int) -> list[int]:
        """Capacities of the renewable, then of the nonrenewable resources."""
        self.section("RESOURCE AVAILABILITIES")
        if R + N == 0:
            return []
        heading = self.row()
        if heading is None:
            self.ended("the heading of the resource availabilities")
        names = _RESOURCE.findall(" ".join(heading))
        if len(names) != R + N:
            raise ProblemError(
                f"the heading must name {R} renewable and {N} nonrenewable resources",
                place=f"line {self.line}",
                value=" ".join(heading),
                remedy="Write 'R 1 ... N 1 ...', one name per resource.",
            )
        return [self.integer(f"the capacity of resource {a}{b}") for a, b in names]

    def _job(self, job: int) -> None:
        self.integer(
            "the job number",
            least=job,
            most=job,
            remedy=f"Jobs are listed in their order; here job {job} must stand.",
        )

    def _skip_heading(self, word: str) -> None:
        row = self.row()
        if row is None:
            self.ended("a table of jobs")
        if row[0].lower() != word:
            self.push_back(row)
            return
        # The requests have a rule of dashes below their heading.
        row = self.row()
        if row is None:
            self.ended("a table of jobs")
        if not row[0].startswith("--"):
            self.push_back(row)
