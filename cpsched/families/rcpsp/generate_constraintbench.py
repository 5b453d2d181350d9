"""The instances of R-ConstraintBench, with a planted schedule or a planted contradiction.

After Jain and Wetter, "R-ConstraintBench" (arXiv 2508.15204): a layered graph with exactly k
precedences, none of which follows from others, and on top of it downtime of resources, time
windows of tasks, and pairs of tasks that must not overlap. There is no published code; the planted
schedule, by which feasibility is known, is an addition of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.generate_options import Drawn, OptionHelp
from cpsched.families.rcpsp.problem import RcpspProblem, RcpspSchedule

CONSTRAINTBENCH: OptionHelp = {
    "tasks": ("20", "number of tasks, 2 to 500"),
    "layers": ("5", "layers of the graph; precedences go from a layer to a later one"),
    "level": ("20", "number of precedences, none of which follows from others"),
    "resources": ("3", "number of renewable resources"),
    "capacity": ("4", "units of each resource"),
    "duration": ("8", "largest duration"),
    "downtime": ("0.75", "probability that a resource has downtime"),
    "windows": ("0.75", "probability that a task has a release and a deadline"),
    "slack": ("4", "largest distance of a window's ends from the planted schedule"),
    "disjunctive": ("0.75", "probability, per task, of a pair that must not overlap"),
    "infeasible": (
        "none",
        "contradiction to plant: none, precedence, capacity, disjunctive or downtime",
    ),
}
_CONTRADICTIONS = ("none", "precedence", "capacity", "disjunctive", "downtime")


def constraintbench(options: Mapping[str, str]) -> RcpspProblem:
    """An instance of R-ConstraintBench: feasible, unless ``infeasible`` plants a contradiction."""
    return planted(options)[0]


def planted(options: Mapping[str, str]) -> tuple[RcpspProblem, RcpspSchedule | None]:
    """The instance and its planted schedule; None when it has a planted contradiction."""
    drawn = Drawn(options, CONSTRAINTBENCH)
    contradiction = drawn.choice("infeasible", _CONTRADICTIONS)
    plan = _Plan(Random(drawn.seed), drawn.count("tasks", 2, 500), drawn.count("capacity"))
    plan.draw_tasks(drawn.count("resources"), drawn.count("duration"))
    plan.draw_edges(drawn.count("layers"), drawn.count("level", 0))
    plan.schedule()
    plan.draw_downtime(drawn.share("downtime"))
    plan.draw_pairs(drawn.share("disjunctive"))
    plan.draw_windows(drawn.share("windows"), drawn.count("slack", 0))
    if contradiction != "none":
        plan.contradict(contradiction)
    name = f"r-constraintbench-{plan.n}-{len(plan.edges)}-{drawn.seed}"
    problem = plan.problem(name + ("" if contradiction == "none" else f"-no-{contradiction}"))
    return problem, plan.planted() if contradiction == "none" else None


@dataclass
class _Plan:
    """An instance under construction, around one schedule."""

    rng: Random
    n: int
    capacity: int
    duration: list[int] = field(default_factory=list)
    demand: list[list[int]] = field(default_factory=list)  # per task and resource
    edges: list[tuple[int, int]] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    downtime: list[list[tuple[int, int]]] = field(default_factory=list)  # per resource
    pairs: list[tuple[int, int]] = field(default_factory=list)
    windows: dict[int, tuple[int, int]] = field(default_factory=dict)

    def end(self, i: int) -> int:
        """When task i ends in the planted schedule."""
        return self.start[i] + self.duration[i]

    def draw_tasks(self, resources: int, longest: int) -> None:
        """Durations and demands; every task needs one resource at least."""
        for _ in range(self.n):
            self.duration.append(self.rng.randint(1, longest))
            units = [
                self.rng.randint(1, self.capacity) if self.rng.random() < 0.4 else 0
                for _ in range(resources)
            ]
            if not any(units):
                units[self.rng.randrange(resources)] = self.rng.randint(1, self.capacity)
            self.demand.append(units)
        self.downtime = [[] for _ in range(resources)]

    def draw_edges(self, layers: int, level: int) -> None:
        """Exactly ``level`` precedences from a layer to a later one, all of them non-redundant."""
        layer = [i * layers // self.n for i in range(self.n)]
        pairs = [(i, j) for j in range(self.n) for i in range(j) if layer[i] < layer[j]]
        self.rng.shuffle(pairs)
        # Sets of tasks as bits: everything reachable from a task, itself included, and back.
        after = [1 << i for i in range(self.n)]
        before = [1 << i for i in range(self.n)]
        direct = [0] * self.n
        for i, j in pairs:
            if len(self.edges) == level:
                break
            if after[i] >> j & 1:
                continue
            # An edge from a task before i to one after j would follow from the new one.
            if any(direct[k] & after[j] for k in range(j) if before[i] >> k & 1):
                continue
            self.edges.append((i, j))
            direct[i] |= 1 << j
            for k in range(self.n):
                if before[i] >> k & 1:
                    after[k] |= after[j]
                if after[j] >> k & 1:
                    before[k] |= before[i]
        if len(self.edges) < level:
            raise ProblemError(
                f"at most {len(self.edges)} precedences could be placed",
                place="level",
                value=level,
                remedy="Lower the level, or raise tasks or layers.",
            )

    def schedule(self) -> None:
        """Place the tasks one after the other, each at its earliest start that fits or later."""
        order = list(range(self.n))  # edges go from smaller to larger numbers
        self.start = [0] * self.n
        horizon = sum(self.duration) * 2 + self.n * 3
        use = [[0] * horizon for _ in self.downtime]
        predecessors: list[list[int]] = [[] for _ in order]
        for i, j in self.edges:
            predecessors[j].append(i)
        for i in order:
            t = max((self.end(k) for k in predecessors[i]), default=0) + self.rng.randrange(3)
            while not self._fits(i, t, use):
                t += 1
            self.start[i] = t
            for k, units in enumerate(self.demand[i]):
                for time in range(t, t + self.duration[i]):
                    use[k][time] += units

    def _fits(self, i: int, t: int, use: list[list[int]]) -> bool:
        return all(
            use[k][time] + units <= self.capacity
            for k, units in enumerate(self.demand[i])
            if units
            for time in range(t, t + self.duration[i])
        )

    def draw_downtime(self, probability: float) -> None:
        """Stretches in which the planted schedule leaves a resource idle, and one after its end."""
        makespan = max(self.end(i) for i in range(self.n))
        for k, stretches in enumerate(self.downtime):
            if self.rng.random() >= probability:
                continue
            busy = sorted((self.start[i], self.end(i)) for i in range(self.n) if self.demand[i][k])
            now = 0
            for start, end in busy:
                if start > now and self.rng.random() < 0.5:
                    stretches.append((now, start))
                now = max(now, end)
            stretches.append((max(now, 1), makespan + self.rng.randint(1, 5)))

    def draw_pairs(self, probability: float) -> None:
        """Pairs that do not overlap in the planted schedule and that no precedence orders."""
        linked = {frozenset(edge) for edge in self.edges}
        for i in range(self.n):
            if self.rng.random() >= probability:
                continue
            others = [
                j
                for j in range(self.n)
                if j != i
                and (self.end(i) <= self.start[j] or self.end(j) <= self.start[i])
                and frozenset((i, j)) not in linked
            ]
            if others:
                j = min(others, key=lambda j: (abs(self.start[j] - self.start[i]), j))
                linked.add(frozenset((i, j)))
                self.pairs.append((min(i, j), max(i, j)))

    def draw_windows(self, probability: float, slack: int) -> None:
        """Windows around the planted times."""
        for i in range(self.n):
            if self.rng.random() < probability:
                early, late = self.rng.randint(0, slack), self.rng.randint(0, slack)
                self.windows[i] = (max(0, self.start[i] - early), self.end(i) + late)

    def contradict(self, kind: str) -> None:
        """Plant a contradiction between a window and one constraint of the given kind."""
        if kind == "precedence":
            if not self.edges:
                raise ProblemError(
                    "a contradiction with a precedence needs one",
                    place="level",
                    value=0,
                    remedy="Raise the level.",
                )
            i, j = self.rng.choice(self.edges)
        elif kind == "downtime":
            i = j = self.rng.randrange(self.n)
            k = next(k for k, units in enumerate(self.demand[i]) if units)
            self.windows[i] = window = (self.start[i], self.end(i) + 1)
            self.downtime[k].append(window)
            return
        else:
            i, j = self.rng.sample(range(self.n), 2)
            if kind == "disjunctive":
                self.pairs.append((min(i, j), max(i, j)))
            else:
                k = next(k for k, units in enumerate(self.demand[i]) if units)
                self.demand[j][k] = self.capacity
        # Both within a window that is one unit too short for the two in a row.
        first = min(self.start[i], self.start[j])
        window = (first, first + self.duration[i] + self.duration[j] - 1)
        self.windows[i] = self.windows[j] = window

    def planted(self) -> RcpspSchedule:
        """The schedule that the instance was drawn around."""
        tasks = [
            {"task": f"t{i}", "start": self.start[i], "end": self.end(i)} for i in range(self.n)
        ]
        return RcpspSchedule.parse(
            {"tasks": tasks, "makespan": max(self.end(i) for i in range(self.n))}
        )

    def problem(self, name: str) -> RcpspProblem:
        """The instance."""
        tasks: list[dict[str, Any]] = []
        for i in range(self.n):
            demands = {f"R{k + 1}": units for k, units in enumerate(self.demand[i]) if units}
            task: dict[str, Any] = {
                "id": f"t{i}",
                "modes": [{"duration": self.duration[i], "demands": demands}],
            }
            if i in self.windows:
                task["release"], task["deadline"] = self.windows[i]
            tasks.append(task)
        resources = [
            {
                "name": f"R{k + 1}",
                "capacity": self.capacity,
                "capacity_changes": [{"start": a, "end": b} for a, b in sorted(stretches)],
            }
            for k, stretches in enumerate(self.downtime)
        ]
        return RcpspProblem.parse(
            {
                "name": name,
                "tasks": tasks,
                "resources": resources,
                "precedences": [{"before": f"t{i}", "after": f"t{j}"} for i, j in self.edges],
                "disjunctive": [
                    {"tasks": [f"t{i}", f"t{j}"]} for i, j in dict.fromkeys(self.pairs)
                ],
            }
        )
