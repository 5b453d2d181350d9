"""Suites of the `serving` family: samples of public traces, generated ones, policies as peers.

Peers replay the classical policies with the exact simulator. ``python -m benchmarks.suites.serving
FOLDER`` prints the table of what they lose.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cpsched
from benchmarks.suite import Answer, Case, Peer, Suite
from cpsched.families.serving.check_cache import is_program_cache
from cpsched.families.serving.generate import GENERATORS
from cpsched.families.serving.problem import ServingProblem
from cpsched.families.serving.replay import replay

MAKE = {g.name: g for g in GENERATORS}

#: Requests, first row, capacity as a multiple of the mean peak; tokens per unit.
SAMPLES = ((60, 0, 4), (60, 0, 10), (150, 1000, 10), (150, 5000, 20), (150, 1000, 4))
UNIT = 32


def azure(data: Path, requests: int, offset: int, ratio: float) -> ServingProblem:
    """A sample of the Azure conversation trace, all arrivals at round 0."""
    problem = cpsched.load(
        data / "serving" / "azure2023" / "AzureLLMInferenceTrace_conv.csv",
        options={
            "offset": str(offset),
            "limit": str(requests),
            "arrivals": "zero",
            "block_tokens": str(UNIT),
        },
    )
    peaks = [r.prompt + r.output for r in problem.requests]
    capacity = int(max(max(peaks), ratio * sum(peaks) / len(peaks)))
    instance = problem.instances[0].model_copy(update={"capacity": capacity})
    return problem.model_copy(
        update={"instances": (instance,), "name": f"azure-{requests}-{offset}-{ratio:g}x"}
    )


def generated(name: str, **options: Any) -> Case:
    """A generated case."""
    defaults = {key: value[0] for key, value in MAKE[name].options.items()}
    chosen = defaults | {key: str(value) for key, value in options.items()}
    label = "-".join([name, *(f"{k}{v}" for k, v in options.items())])
    return Case(label, lambda: MAKE[name].make(chosen))


def admission(data: Path | None) -> list[Case]:
    """The five samples of the trace, and generated ones like them."""
    cases = [
        generated("serving-trace", requests=n, ratio=ratio, seed=seed)
        for n, ratio, seed in ((60, 4, 0), (60, 10, 1), (150, 10, 2), (150, 20, 3))
    ]
    if data is not None:
        cases = [
            Case(f"azure-{n}-{offset}-{ratio}x", lambda s=(n, offset, ratio): azure(data, *s))
            for n, offset, ratio in SAMPLES
        ] + cases
    return cases


def makespan(data: Path | None) -> list[Case]:
    """The same with the makespan as objective."""
    rows = ((60, 4), (60, 10), (150, 10), (250, 10), (400, 10), (400, 30))
    return [
        Case(
            f"makespan-{n}-{ratio}x",
            generated("serving-trace", requests=n, ratio=ratio, seed=n).load,
            solve={"objective": "makespan"},
        )
        for n, ratio in rows
    ]


def synthetic(data: Path | None) -> list[Case]:
    """The literature's generator: 20 seeds of 40 to 60 requests, and small ones to be proved."""
    return [generated("serving-synthetic", seed=s) for s in range(20)] + [
        generated("serving-synthetic", seed=s, requests=n) for n in (8, 12, 15) for s in range(3)
    ]


def cache(data: Path | None) -> list[Case]:
    """Prefix caches and pin plans: the public traces at several capacities, and generated ones."""
    cases = [
        generated("serving-conversations", requests=2000, blocks=b) for b in (100, 500, 2000)
    ] + [generated("serving-agents", programs=30, capacity=c) for c in (50_000, 200_000)]
    if data is None:
        return cases
    trace = data / "serving" / "mooncake" / "conversation_trace.jsonl"
    steps = data / "serving" / "swe_agent_steps" / "swe_agent_glm45_steps.jsonl"
    for blocks in (1000, 5000, 10_000, 50_000):
        options = {"capacity_tokens": str(blocks * 512)}
        cases.append(
            Case(
                f"mooncake-{blocks}-blocks",
                lambda o=options: cpsched.load(trace, options=o),
                trace,
            )
        )
    options = {"run": "bs32", "capacity_tokens": "400000"}
    cases.append(Case("agents-bs32", lambda: cpsched.load(steps, options=options), steps))
    return cases


def capacity(data: Path | None) -> list[Case]:
    """Fewest instances: the whole hour of the trace, and a generated one."""
    if data is None:
        return []
    path = data / "serving" / "azure2023" / "AzureLLMInferenceTrace_conv.csv"
    options = {
        "question": "capacity",
        "model": "Llama-3.1-8B",
        "gpu": "A100",
        "token_budget": "auto",
        "tpot": "0.05",
        "ttft": "2",
        "slo_percent": "99",
    }
    return [Case("azure-hour-8b-a100", lambda: cpsched.load(path, options=options), path)]


def experts(data: Path | None) -> list[Case]:
    """256 experts, 288 replicas, 32 GPUs in 4 nodes, with and without groups."""
    return [generated("serving-experts", seed=s, groups=g) for s in range(4) for g in (0, 8)]


def policy(name: str) -> Peer:
    """A classical policy as a peer."""

    def run(case: Case, problem: Any, limit: float, workers: int, seed: int) -> Answer:
        objective = case.solve.get("objective")
        if objective is not None:
            problem = problem.model_copy(update={"objectives": (objective,)})
        started = time.perf_counter()
        shown = replay(problem, name, seed=seed)
        status = "FEASIBLE" if not shown.violations else "UNKNOWN"
        spent = time.perf_counter() - started
        return Answer(status, shown.objective, trace=((spent, shown.objective),))

    return run


ADMISSION = {name: policy(name) for name in ("fcfs", "mcsf", "svf", "svf-strict", "sorted-f")}
CACHE = {name: policy(name) for name in ("lru", "fifo")}


def balance(case: Case, problem: ServingProblem, result: Any) -> Mapping[str, Any]:
    """Mean over largest load."""
    mean = sum(item.load for item in problem.items) / len(problem.gpus)
    return {"balance": mean / result.objective if result.objective else None}


SUITES = {
    suite.name: suite
    for suite in (
        Suite("serving-admission", "latency of trace samples", admission, 45.0, ADMISSION),
        Suite(
            "serving-makespan", "makespan of trace samples", makespan, 20.0, {"ldf": policy("ldf")}
        ),
        Suite("serving-synthetic", "the literature's generator", synthetic, 30.0, ADMISSION),
        Suite("serving-cache", "prefix caches and pin plans", cache, 30.0, CACHE),
        Suite("serving-capacity", "fewest instances", capacity, 120.0),
        Suite(
            "serving-experts",
            "expert placement",
            experts,
            2.0,
            {"eplb": policy("eplb")},
            balance,
        ),
    )
}


def table(data: Path | None, limit: float) -> str:
    """What the policies lose on every case, as Markdown."""
    lines = [
        "| trace | objective | bound | best known | policy: value (most it can lose) |",
        "|---|---|---|---|---|",
    ]
    for case in [*admission(data), *cache(data)]:
        problem = case.load()
        result = cpsched.solve(problem, limit, workers=2)
        if result.bound is None:
            continue
        names = list(ADMISSION)
        if problem.question == "cache":
            names = ["lru", "ttl"] if is_program_cache(problem) else ["lru", "fifo"]
        shown = []
        for name in names:
            value = replay(problem, name).objective
            loss = abs(value - result.bound) / max(1, abs(result.bound))
            shown.append(f"{name}: {value:,} ({100 * loss:.1f} %)")
        lines.append(
            f"| {case.name} | {result.objective_name} | {result.bound:,} | {result.objective:,} | "
            f"{', '.join(shown)} |"
        )
    return "\n".join(lines) + "\n"


#: Policies that see estimates of the output lengths, and the quantiles they are told.
BLIND = ("fcfs", "svf", "past-future", "aggressive")
TOLD = ("true", "q50", "q90", "q99")


def hidden(data: Path | None, limit: float) -> str:
    """What policies lose that do not see the output lengths, as Markdown."""
    lines = [
        "| trace | bound | policy | " + " | ".join(f"told {one}" for one in TOLD) + " |",
        "|---|---|---|" + "---|" * len(TOLD),
    ]
    for case in admission(data):
        problem = case.load()
        bound = cpsched.solve(problem, limit, workers=2).bound
        if bound is None:
            continue
        for name in BLIND:
            shown = []
            for told in TOLD:
                one = replay(problem, name, estimates=told)
                loss = abs((one.objective or 0) - bound) / max(1, abs(bound))
                evicted = f", {one.evictions} evicted" if one.evictions else ""
                shown.append(f"{one.objective:,} ({100 * loss:.1f} %{evicted})")
            lines.append(f"| {case.name} | {bound:,} | {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    print(table(folder, seconds))
    print(hidden(folder, seconds))
