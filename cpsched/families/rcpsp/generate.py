"""Generators of the `rcpsp` family; the same options and seed give the same problem everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from cpsched.errors import ProblemError
from cpsched.families import Generator
from cpsched.families.rcpsp.generate_constraintbench import CONSTRAINTBENCH, constraintbench
from cpsched.families.rcpsp.generate_options import Drawn, OptionHelp
from cpsched.families.rcpsp.problem import RcpspProblem

_PROJECT: OptionHelp = {
    "tasks": ("1000", "number of tasks"),
    "resources": ("4", "number of renewable resources"),
    "capacity": ("20", "units of each renewable resource"),
    "demand": ("10", "largest demand of a task for a resource"),
    "factor": ("0.5", "probability that a task needs a resource"),
    "duration": ("10", "largest duration"),
    "predecessors": ("3", "largest number of predecessors of a task"),
    "width": ("40", "predecessors are among this many tasks before"),
    "modes": ("1", "modes per task: longer ones need less"),
    "nonrenewable": ("0", "number of nonrenewable resources"),
    "due": ("0", "share of tasks with a due date, weights from 1 to 10"),
}


def project(options: Mapping[str, str]) -> RcpspProblem:
    """A random project; time and memory grow linearly with the number of tasks.

    Every mode fits the capacities, and the budgets of nonrenewable resources allow a mode per task
    that was drawn beforehand, so that a schedule always exists.
    """
    drawn = Drawn(options, _PROJECT)
    n, R, K = drawn.count("tasks"), drawn.count("resources", 0), drawn.count("nonrenewable", 0)
    capacity, factor = drawn.count("capacity"), drawn.share("factor")
    largest = min(drawn.count("demand"), capacity)
    longest, mode_count = drawn.count("duration"), drawn.count("modes")
    most, width = drawn.count("predecessors", 0), drawn.count("width")
    late = drawn.share("due")
    rng = Random(drawn.seed)
    spent = [0] * K
    tasks, precedences, head = [], [], [0] * n
    for i in range(n):
        base = [rng.randint(1, largest) if rng.random() < factor else 0 for _ in range(R)]
        durations = sorted(rng.randint(1, longest) for _ in range(mode_count))
        use = [rng.randint(1, 10) for _ in range(K)]
        modes = []
        for m, duration in enumerate(durations):
            # The m-th mode takes longer and needs about 1 / (m + 1) of the first.
            demands = {f"R{k + 1}": -(-u // (m + 1)) for k, u in enumerate(base) if u}
            demands |= {f"N{k + 1}": -(-u // (m + 1)) for k, u in enumerate(use)}
            modes.append({"duration": duration, "demands": demands})
        chosen = rng.randrange(mode_count)
        for k, u in enumerate(use):
            spent[k] += -(-u // (chosen + 1))
        task: dict[str, object] = {"id": str(i), "modes": modes}
        for before in sorted(
            {rng.randrange(max(0, i - width), i) for _ in range(rng.randint(0, most)) if i}
        ):
            precedences.append({"before": str(before), "after": str(i)})
            head[i] = max(head[i], head[before])
        head[i] += durations[0]
        if rng.random() < late:
            task |= {
                "due": rng.randint(head[i], 2 * head[i] + longest),
                "weight": rng.randint(1, 10),
            }
        tasks.append(task)
    resources = [{"name": f"R{k + 1}", "capacity": capacity} for k in range(R)]
    resources += [
        {"name": f"N{k + 1}", "type": "nonrenewable", "capacity": total}
        for k, total in enumerate(spent)
    ]
    return RcpspProblem.parse(
        {
            "name": f"project-{n}-{drawn.seed}",
            "tasks": tasks,
            "resources": resources,
            "precedences": precedences,
            "objectives": ["weighted_tardiness", "makespan"] if late else ["makespan"],
        }
    )


_SHOP: OptionHelp = {
    "jobs": ("20", "number of jobs"),
    "machines": ("10", "number of machines; every job visits each once"),
    "operations": ("0", "operations per job, when not one per machine"),
    "order": ("random", "random (job shop), flow (all jobs alike) or open (any order)"),
    "alternatives": ("1", "largest number of machines that can do an operation"),
    "duration": ("99", "largest duration"),
    "shutdowns": ("0", "shutdowns per machine, at random times"),
    "shutdown_length": ("50", "largest length of a shutdown"),
    "pausable": ("false", "true: operations pause during shutdowns instead of avoiding them"),
    "due": ("0", "tightness of due dates: due = factor times the job's work; 0 for none"),
}


def shop(options: Mapping[str, str]) -> RcpspProblem:
    """A random job, flow, open or flexible shop, with random shutdowns of machines."""
    drawn = Drawn(options, _SHOP)
    n, m = drawn.count("jobs"), drawn.count("machines")
    length = drawn.count("operations", 0) or m
    order = drawn.choice("order", ("random", "flow", "open"))
    if order == "open" and length > m:
        raise ProblemError(
            "a job of an open shop has at most one operation per machine",
            place="operations",
            value=length,
            remedy="Lower it, or choose another order.",
        )
    alternatives = min(m, drawn.count("alternatives"))
    longest, pausable = drawn.count("duration"), drawn.flag("pausable")
    shutdowns, off = drawn.count("shutdowns", 0), drawn.count("shutdown_length")
    tightness = drawn.number("due")
    rng = Random(drawn.seed)
    tasks, precedences, groups = [], [], []
    load = 0
    for j in range(n):
        route = [k % m for k in range(length)]
        if order == "random":
            rng.shuffle(route)
        work = 0
        for k, machine in enumerate(route):
            others = rng.sample(range(m), rng.randint(1, alternatives)) if alternatives > 1 else []
            eligible = list(dict.fromkeys([machine, *others]))[:alternatives]
            duration = rng.randint(1, longest)
            work += duration
            # Machines differ by up to a quarter in speed.
            modes = [
                {
                    "duration": duration
                    if x == machine
                    else max(1, duration * rng.randint(3, 5) // 4),
                    "demands": {f"M{x}": 1},
                }
                for x in eligible
            ]
            task: dict[str, object] = {"id": f"{j}-{k}", "modes": modes, "pausable": pausable}
            if order != "open" and k + 1 < length:
                task["weight"] = 0
                precedences.append({"before": f"{j}-{k}", "after": f"{j}-{k + 1}"})
            elif tightness > 0 and order != "open":
                task["due"] = int(tightness * work)
            tasks.append(task)
        load += work
        if order == "open" and length > 1:
            groups.append({"name": f"job {j}", "tasks": [f"{j}-{k}" for k in range(length)]})
    span = 2 * load // m + 1
    resources = []
    for k in range(m):
        starts = sorted(rng.randrange(span) for _ in range(shutdowns))
        changes = [{"start": t, "end": t + rng.randint(1, off)} for t in starts]
        resources.append({"name": f"M{k}", "capacity_changes": changes})
    return RcpspProblem.parse(
        {
            "name": f"{order}-shop-{n}x{m}-{drawn.seed}",
            "tasks": tasks,
            "resources": resources,
            "precedences": precedences,
            "disjunctive": groups,
            "objectives": ["weighted_tardiness", "makespan"]
            if tightness > 0 and order != "open"
            else ["makespan"],
        }
    )


_TARDINESS: OptionHelp = {
    "n": ("50", "number of tasks"),
    "T": ("0.6", "tardiness factor, 0 to 1: larger means earlier due dates"),
    "R": ("0.4", "relative range of the due dates"),
    "duration": ("100", "largest duration"),
    "weight": ("1", "largest weight"),
}


def total_tardiness(options: Mapping[str, str]) -> RcpspProblem:
    """One machine, due dates uniform in ``P (1 - T - R/2) .. P (1 - T + R/2)``, P the total work.

    The scheme of Potts and Van Wassenhove (Operations Research Letters 1, 1982); negative due
    dates become 0.
    """
    drawn = Drawn(options, _TARDINESS)
    n, longest, heaviest = drawn.count("n"), drawn.count("duration"), drawn.count("weight")
    T, R = drawn.number("T"), drawn.number("R")
    rng = Random(drawn.seed)
    durations = [rng.randint(1, longest) for _ in range(n)]
    total = sum(durations)
    low, high = int(total * (1 - T - R / 2)), int(total * (1 - T + R / 2))
    tasks = [
        {
            "id": str(i),
            "modes": [{"duration": p, "demands": {"M0": 1}}],
            "weight": rng.randint(1, heaviest),
            "due": max(0, rng.randint(low, max(low, high))),
        }
        for i, p in enumerate(durations)
    ]
    return RcpspProblem.parse(
        {
            "name": f"tardiness-{n}-{T:g}-{R:g}-{drawn.seed}",
            "tasks": tasks,
            "resources": [{"name": "M0"}],
            "objectives": ["weighted_tardiness"],
        }
    )


def _generator(
    name: str,
    description: str,
    options: OptionHelp,
    make: Callable[[Mapping[str, str]], RcpspProblem],
) -> Generator:
    return Generator(name=name, description=description, options=options, make=make)


GENERATORS: tuple[Generator, ...] = (
    _generator(
        "r-constraintbench",
        "projects for feasibility tests of growing difficulty, as in R-ConstraintBench",
        CONSTRAINTBENCH,
        constraintbench,
    ),
    _generator("project", "random project of any size, one or several modes", _PROJECT, project),
    _generator("shop", "random job, flow, open or flexible shop with shutdowns", _SHOP, shop),
    _generator(
        "total-tardiness", "one machine with due dates by (n, T, R)", _TARDINESS, total_tardiness
    ),
)
