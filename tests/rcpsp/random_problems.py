"""Tiny random problems that use every constraint of the family, and their brute-force optimum."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

from cpsched.families.rcpsp.check import check, evaluate
from cpsched.families.rcpsp.problem import RcpspProblem, RcpspSchedule, ScheduledTask
from cpsched.families.rcpsp.profile import breaks_of, capacity_profiles, end_after

FEATURES = (
    "modes",
    "nonrenewable",
    "lags",
    "windows",
    "profile",
    "pausable",
    "reservoir",
    "disjunctive",
    "optional",
    "selection",
    "blocking",
    "setup",
    "setup demands",
    "swap",
    "no_idle",
    "same_sequence",
    "transport",
    "batching",
    "assignment",
    "windows of machines",
)
TYPES = ("end-start", "start-start", "end-end", "start-end")


def random_problem(seed: int, features: tuple[str, ...] | None = None, n: int = 3) -> RcpspProblem:
    """A problem of ``n`` tasks; ``features`` None draws some of `FEATURES`."""
    rng = random.Random(seed)
    if features is None:
        features = tuple(f for f in FEATURES if rng.random() < 0.4)
    names = [f"t{i}" for i in range(n)]
    resources: list[dict[str, Any]] = [
        {"name": "R", "capacity": rng.randint(1, 3), "unit_cost": rng.randint(0, 2)},
        {"name": "S", "capacity": rng.randint(1, 2)},
    ]
    if "profile" in features or "pausable" in features:
        for r in resources:
            for _ in range(rng.randint(0, 2)):
                start = rng.randint(0, 5)
                change = {"start": start, "end": start + rng.randint(1, 2)}
                change["capacity"] = rng.choice((0, 0, 1, 3))
                r.setdefault("capacity_changes", []).append(change)
    if "nonrenewable" in features:
        resources.append({"name": "N", "type": "nonrenewable", "capacity": rng.randint(n, 3 * n)})
    if "reservoir" in features:
        low = rng.randint(0, 1)
        tank: dict[str, Any] = {"name": "T", "type": "reservoir", "minimum": low}
        tank["initial"] = low + rng.randint(-1, 2)
        tank["maximum"] = low + rng.randint(1, 4) if rng.random() < 0.6 else None
        resources.append(tank)
    tasks = [_task(rng, name, features) for name in names]
    precedences = []
    for i in range(n):
        for j in range(n):
            if i == j or rng.random() > 0.3 or (j < i and "lags" not in features):
                continue
            p: dict[str, Any] = {"before": names[i], "after": names[j]}
            if "lags" in features:
                p["type"] = rng.choice(TYPES)
                p["min_lag"] = rng.choice((None, rng.randint(-3, 2)))
                p["max_lag"] = rng.choice((None, None, rng.randint(0, 4)))
            precedences.append(p)
    data: dict[str, Any] = {"tasks": tasks, "resources": resources, "precedences": precedences}
    if "blocking" in features or "swap" in features:
        for i, j in ((0, 1), (2, 1), (1, 2)):
            if rng.random() < 0.5 and not tasks[j].get("optional"):
                tasks[i]["blocks_until"] = names[j]
    if {"setup", "setup demands", "no_idle"} & set(features):
        resources[1] |= {"capacity": 1}
        for change in resources[1].get("capacity_changes", ()):
            change["capacity"] = 0
    if "setup" in features or "setup demands" in features:
        size = rng.randint(1, 3)
        data["setups"] = [
            {
                "resource": "S",
                "states": {name: rng.randrange(size) for name in names},
                "times": [[rng.randint(0, 2) for _ in range(size)] for _ in range(size)],
                "costs": [[rng.randint(0, 5) for _ in range(size)] for _ in range(size)],
            }
        ]
        if "setup demands" in features:
            data["setups"][0]["demands"] = {"R": rng.randint(1, 2)}
    _shop(rng, data, names, features)
    if "disjunctive" in features:
        data["disjunctive"] = [{"tasks": rng.sample(names, rng.randint(2, 3))}]
    if "selection" in features:
        kind = rng.choice(("exactly_one", "at_least_one", "all_or_none", "implication"))
        data["selections"] = [
            {
                "type": kind,
                "tasks": rng.sample(names, 2),
                "condition": rng.choice((None, rng.choice(names))),
            }
        ]
    return RcpspProblem.parse(data)


def _shop(
    rng: random.Random, data: dict[str, Any], names: list[str], features: tuple[str, ...]
) -> None:
    """The rules of shops among the features."""
    resources = data["resources"]
    if "swap" in features:
        data["swap"] = False
        resources[0]["capacity"] = 1
        for task in data["tasks"]:
            for mode in task["modes"]:
                mode["demands"]["R"] = min(1, mode["demands"]["R"])
    if "no_idle" in features:
        resources[1]["no_idle"] = True
    if "windows of machines" in features:
        resources[1]["windows"] = [{"start": 1, "end": 3}, {"start": 4, "end": rng.randint(6, 9)}]
    if "same_sequence" in features:
        chosen = rng.sample(names, len(names) // 2 * 2)
        half = len(chosen) // 2
        if half > 1:
            data["same_sequence"] = [{"lists": [chosen[:half], chosen[half:]]}]
        else:
            data["tasks"].append(_task(rng, "extra", features))
            data["same_sequence"] = [{"lists": [names[:2], [names[2], "extra"]]}]
    if "transport" in features:
        times = [[rng.randint(0, 2) for _ in range(2)] for _ in range(2)]
        data["transport"] = {"resources": ["R", "S"], "times": times}
        for p in data["precedences"]:
            p["transport"] = rng.random() < 0.8 and p.get("type", "end-start") == "end-start"
        moved = {p[end] for p in data["precedences"] for end in ("before", "after")}
        for task in data["tasks"]:
            for mode in task["modes"] if task["id"] in moved else ():
                mode["demands"][rng.choice("RS")] = 0
    if "batching" in features:
        resources[0]["capacity"] = rng.randint(2, 4)
        data["batching"] = [{"resource": "R"}]
        if rng.random() < 0.6:
            ids = [task["id"] for task in data["tasks"]]
            data["batching"][0]["families"] = {name: rng.choice("xy") for name in ids}
    if "assignment" in features:
        kind = rng.choice(("identical", "different"))
        data["assignments"] = [{"type": kind, "tasks": rng.sample(names, 2)}]
        if rng.random() < 0.5:
            data["assignments"][0]["resources"] = ["S"]
    if data.get("setups"):
        data["setups"][0]["states"].setdefault("extra", 0)
        ids = {task["id"] for task in data["tasks"]}
        states = data["setups"][0]["states"]
        data["setups"][0]["states"] = {k: v for k, v in states.items() if k in ids}


def _task(rng: random.Random, name: str, features: tuple[str, ...]) -> dict[str, Any]:
    modes = []
    for _ in range(rng.randint(1, 2) if {"modes", "assignment"} & set(features) else 1):
        demands = {"R": rng.randint(0, 2), "S": rng.randint(0, 1)}
        if "nonrenewable" in features:
            demands["N"] = rng.randint(0, 3)
        modes.append({"duration": rng.randint(0, 3), "demands": demands, "cost": rng.randint(0, 3)})
    task: dict[str, Any] = {"id": name, "modes": modes, "weight": rng.randint(0, 3)}
    task["earliness_weight"] = rng.randint(0, 2)
    if rng.random() < 0.7:
        task["due"] = rng.randint(0, 6)
    if "windows" in features:
        task["release"] = rng.choice((0, 0, 1, 3))
        task["deadline"] = rng.choice((None, None, rng.randint(3, 8)))
    if "optional" in features or "selection" in features:
        task["optional"] = rng.random() < 0.5
    if "pausable" in features:
        task["pausable"] = rng.random() < 0.7
    if "reservoir" in features:
        task["events"] = [
            {
                "resource": "T",
                "amount": rng.choice((-2, -1, 1, 2)),
                "at": rng.choice(("start", "end")),
            }
            for _ in range(rng.randint(0, 1))
        ]
    return task


def schedules(problem: RcpspProblem, horizon: int) -> Iterator[RcpspSchedule]:
    """Every valid schedule that ends by the horizon, by enumeration and the checker alone."""
    profiles = capacity_profiles(problem)
    options: list[list[ScheduledTask | None]] = []
    for task in problem.tasks:
        if task.fixed is not None:
            fact = task.fixed
            options.append(
                [ScheduledTask(task=task.id, mode=fact.mode, start=fact.start, end=fact.end)]
            )
            continue
        own: list[ScheduledTask | None] = [None] if task.optional else []
        alone = problem.model_copy(
            update={
                "tasks": (task.model_copy(update={"blocks_until": None}),),
                "precedences": (),
                "disjunctive": (),
                "selections": (),
                "same_sequence": (),
                "assignments": (),
            }
            | {"resources": tuple(r for r in problem.resources if r.type != "reservoir")}
        )
        for m, mode in enumerate(task.modes):
            held = [r for r, units in mode.demands.items() if units]
            breaks = breaks_of(held, profiles) if task.pausable else []
            for start in range(horizon + 1):
                end = end_after(start, mode.duration, breaks)
                done = ScheduledTask(task=task.id, mode=m, start=start, end=end)
                # What a task cannot do alone it cannot do among others.
                if end <= horizon and not check(alone, RcpspSchedule(tasks=(done,))):
                    own.append(done)
        options.append(own)
    for choice in product(*options):
        schedule = RcpspSchedule(tasks=tuple(d for d in choice if d is not None))
        if not check(problem, schedule):
            yield schedule


def brute_force(problem: RcpspProblem, objective: str, horizon: int) -> int | None:
    """The optimum over all schedules that end by the horizon, or None without one."""
    found = [evaluate(problem, s, [objective])[0] for s in schedules(problem, horizon)]
    return int(min(found)) if found else None
