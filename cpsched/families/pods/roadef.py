"""Reader of machine-reassignment files (ROADEF/EURO challenge 2012): a model and an assignment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.pods.problem import PodsProblem

OPTIONS = {"assignment": "file of the initial assignment (default: assignment_* beside model_*)"}
#: More numbers than any instance of the challenge has.
_MOST = 50_000_000


def detect(name: str, head: str) -> bool:
    """A file named model_*.txt of integers only."""
    first = head[:2000].split()
    return (
        name.startswith("model_")
        and len(first) > 3
        and all(word.lstrip("-").isdecimal() for word in first[:-1])
    )


def read(text: str, file: str, options: Mapping[str, str]) -> PodsProblem:
    """Read the model and the initial assignment.

    Raises
    ------
    ProblemError
        Naming the position and the rule.
    """
    path = options.get("assignment") or str(
        Path(file).with_name(Path(file).name.replace("model_", "assignment_", 1))
    )
    try:
        assignment = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(
            f"the initial assignment cannot be read: {error}",
            place="assignment",
            value=path,
            remedy="Pass --option assignment=FILE.",
        ) from None
    numbers = _Numbers(text, "model")
    resources = numbers.size("resources")
    transient, load_weights = [], []
    for _ in range(resources):
        transient.append(numbers.one("transient") != 0)
        load_weights.append(numbers.one("weight_load_cost"))
    machines = numbers.size("machines")
    rows: dict[str, list[Any]] = {
        k: [] for k in ("neighbourhoods", "locations", "capacities", "safety", "move_costs")
    }
    for _ in range(machines):
        rows["neighbourhoods"].append(numbers.one("neighbourhood"))
        rows["locations"].append(numbers.one("location"))
        rows["capacities"].append(numbers.many(resources, "capacity"))
        rows["safety"].append(numbers.many(resources, "safety_capacity"))
        rows["move_costs"].append(numbers.many(machines, "machine_move_cost"))
    services = numbers.size("services")
    spread, dependencies = [], []
    for _ in range(services):
        spread.append(numbers.one("spread_min"))
        dependencies.append(numbers.many(numbers.size("dependencies"), "dependency"))
    processes = numbers.size("processes")
    of_service, requirements, move_costs = [], [], []
    for _ in range(processes):
        of_service.append(numbers.one("service"))
        requirements.append(numbers.many(resources, "requirement"))
        move_costs.append(numbers.one("process_move_cost"))
    balances = []
    for _ in range(numbers.size("balance costs")):
        first, second, target = numbers.many(3, "balance")
        balances.append(
            {"first": first, "second": second, "target": target, "weight": numbers.one("weight")}
        )
    weights = numbers.many(3, "move weights")
    numbers.end()
    initial = _Numbers(assignment, "assignment")
    places = initial.many(processes, "machine")
    initial.end()
    if any(not 0 <= m < machines for m in places):
        raise ProblemError(
            f"machines are numbered from 0 to {machines - 1}",
            place="assignment",
            value=max(places),
            remedy="Check that the two files belong together.",
        )
    return PodsProblem.parse(
        {
            "nodes": [{"name": f"m{m}"} for m in range(machines)],
            "pods": [{"name": f"p{p}", "node": f"m{m}"} for p, m in enumerate(places)],
            "live_migration": True,
            "objectives": ["reassignment_cost"],
            "reassignment": {
                **rows,
                "transient": transient,
                "load_weights": load_weights,
                "services": of_service,
                "spread_minimum": spread,
                "dependencies": dependencies,
                "requirements": requirements,
                "process_move_costs": move_costs,
                "balances": balances,
                "process_move_weight": weights[0],
                "service_move_weight": weights[1],
                "machine_move_weight": weights[2],
                "initial": places,
            },
        }
    )


class _Numbers:
    """The integers of a file, one after the other."""

    def __init__(self, text: str, what: str) -> None:
        self.words, self.what, self.at = text.split(), what, 0

    def one(self, meaning: str) -> int:
        if self.at >= len(self.words):
            raise ProblemError(
                f"the {self.what} ends where {meaning} is expected",
                place=f"number {self.at + 1}",
                remedy="Check that the file is complete.",
            )
        word = self.words[self.at]
        self.at += 1
        if not word.isdecimal() or len(word) > 15:
            raise ProblemError(
                f"{meaning} must be a whole number",
                place=f"number {self.at}",
                value=word,
                remedy="Correct the file.",
            )
        return int(word)

    def many(self, count: int, meaning: str) -> list[int]:
        return [self.one(meaning) for _ in range(count)]

    def size(self, meaning: str) -> int:
        value = self.one(f"the number of {meaning}")
        if value > min(_MOST, len(self.words)):
            raise ProblemError(
                f"the file is too short for that number of {meaning}",
                place=f"number {self.at}",
                value=value,
                remedy="Check that the file is complete.",
            )
        return value

    def end(self) -> None:
        if self.at != len(self.words):
            raise ProblemError(
                f"the {self.what} must end after its last part",
                place=f"number {self.at + 1}",
                value=self.words[self.at],
                remedy="Check that the file is what it seems.",
            )
