"""improve over random cases: never worse, never invalid; how often it certifies and improves."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import cpsched
from benchmarks.fallback.cases import answers, placements, problem
from cpsched.core.run import meets
from cpsched.errors import ProblemError
from cpsched.families import family
from cpsched.result import Status
from cpsched.solve import objectives_of

#: Placements per problem in the never-worse cases.
PER_PROBLEM = 25


def worse(instance: Any, before: Any, after: Any) -> bool:
    """Whether the first values are strictly better, lexicographically."""
    chosen = family(instance.kind)
    objectives = objectives_of(chosen, instance, None)
    if not objectives:
        return False
    names = [o.name for o in objectives]
    old = chosen.evaluate(instance, chosen.read_schedule(before), names)
    new = chosen.evaluate(instance, chosen.read_schedule(after), names)
    for a, b, objective in zip(old, new, objectives, strict=True):
        if not meets(a, b):
            return (a > b) if objective.maximise else (a < b)
    return False


def never_worse(kind: str, start: int, count: int, limit: float) -> Iterator[dict[str, Any]]:
    """One record per problem of `PER_PROBLEM` random placements."""
    for seed in range(start, start + -(-count // PER_PROBLEM)):
        instance = problem(kind, seed)
        chosen = family(kind)
        rng = random.Random(seed)
        record = {"kind": kind, "seed": seed, "cases": 0, "refused": 0, "none": 0}
        bad: list[str] = []
        started = time.perf_counter()
        for what, given in placements(instance, PER_PROBLEM, rng):
            record["cases"] += 1
            try:
                result = cpsched.improve(instance, given, time_limit=limit, workers=1, seed=seed)
            except ProblemError:
                record["refused"] += 1  # not of the kind's form: named
                continue
            except Exception as error:
                bad.append(f"{what}: raised {error!r}")
                continue
            valid = result.initial["valid"]
            if result.schedule is None:
                record["none"] += 1
                if valid:
                    bad.append(f"{what}: lost a valid schedule")
                continue
            if chosen.check(instance, result.schedule):
                bad.append(f"{what}: invalid")
            elif valid and worse(instance, given, result.schedule):
                bad.append(f"{what}: worse")
            elif result.certified and not valid:
                bad.append(f"{what}: certified an invalid one")
        yield record | {"bad": bad, "seconds": time.perf_counter() - started}


def rates(kind: str, start: int, count: int, limit: float) -> Iterator[dict[str, Any]]:
    """Whether what solve proves is certified, and what solve beats is improved as far."""
    for seed in range(start, start + count):
        instance = problem(kind, seed)
        alone = cpsched.solve(instance, time_limit=limit, workers=1, seed=seed)
        record: dict[str, Any] = {"kind": kind, "seed": seed}
        if alone.status is Status.OPTIMAL and alone.objective is not None:
            again = cpsched.improve(instance, alone, time_limit=limit, workers=1, seed=seed)
            record["certified"] = bool(again.certified)
        poor = answers(instance)
        if alone.schedule is not None and poor and worse(instance, alone, poor[0]):
            better = cpsched.improve(instance, poor[0], time_limit=limit, workers=1, seed=seed)
            record["improved"] = worse(instance, better, poor[0])
            record["as_far"] = not worse(instance, alone, better)
        yield record
