"""Generated instances: look-alikes of public traces, the synthetic one of the literature, experts.

Lengths are lognormal with the quantiles that the traces publish; everything follows from the seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cpsched.errors import ProblemError
from cpsched.families import Generator
from cpsched.families.serving.problem import Gpu, Instance, Item, Request, ServingProblem

#: (median, 90 % quantile, largest) of prompt and output tokens.
TRACES = {
    "conversation": ((1020, 2734, 14_000), (129, 424, 1000)),
    "code": ((1469, 5188, 7500), (13, 55, 900)),
    "summary": ((2730, 4000, 6000), (167, 350, 1200)),
}


def _whole(options: Mapping[str, str], name: str, least: int = 0) -> int:
    try:
        value = int(options[name])
    except ValueError:
        value = least - 1
    if not least <= value <= 10**9:
        raise ProblemError(
            f"option {name} must be a whole number of at least {least}",
            value=options[name],
            remedy="See `cpsched generate --help`.",
        )
    return value


def _number(options: Mapping[str, str], name: str) -> float:
    try:
        value = float(options[name])
    except ValueError:
        value = math.nan
    if not 0.0 < value < 1e12:
        raise ProblemError(
            f"option {name} must be a positive number",
            value=options[name],
            remedy="See `cpsched generate --help`.",
        )
    return value


def _lognormal(rng: np.random.Generator, quantiles: tuple[int, int, int], n: int) -> Any:
    median, high, most = quantiles
    sigma = math.log(high / median) / 1.2816
    drawn = rng.lognormal(math.log(median), sigma, n)
    return np.clip(np.rint(drawn), 1, most).astype(np.int64)


def trace(options: Mapping[str, str]) -> ServingProblem:
    """Requests like those of a public trace, on instances with a multiple of the mean peak."""
    name = options["trace"]
    if name not in TRACES:
        raise ProblemError(
            f"option trace must be one of {', '.join(TRACES)}", value=name, remedy="Choose one."
        )
    n, block = _whole(options, "requests", 1), _whole(options, "block_tokens", 1)
    rng = np.random.default_rng(_whole(options, "seed"))
    prompt = -(-_lognormal(rng, TRACES[name][0], n) // block)
    output = -(-_lognormal(rng, TRACES[name][1], n) // block)
    rate = float(options["rate"]) if options["rate"] != "0" else 0.0
    arrival = np.zeros(n, np.int64)
    if rate:
        gaps = rng.exponential(1.0 / _number(options, "rate"), n)
        arrival = np.ceil(np.cumsum(gaps)).astype(np.int64)
        arrival -= arrival[0]
    peak = prompt + output
    capacity = int(max(peak.max(), _number(options, "ratio") * peak.mean()))
    return ServingProblem(
        name=f"{name}-{n}-s{options['seed']}",
        block_tokens=block,
        requests=tuple(
            Request(id=str(i), arrival=a, prompt=s, output=o)
            for i, (a, s, o) in enumerate(
                zip(arrival.tolist(), prompt.tolist(), output.tolist(), strict=True)
            )
        ),
        instances=(Instance(capacity=capacity, count=_whole(options, "instances", 1)),),
    )


def synthetic(options: Mapping[str, str]) -> ServingProblem:
    """The generator of Jaillet et al. (2502.07115): M in [30, 50], s in [1, 5], o in [1, M - s]."""
    rng = np.random.default_rng(_whole(options, "seed"))
    n = _whole(options, "requests")
    n = n or int(rng.integers(40, 61))
    memory = int(rng.integers(30, 51))
    prompt = rng.integers(1, 6, n)
    output = [int(rng.integers(1, memory - s + 1)) for s in prompt]
    return ServingProblem(
        name=f"synthetic-{n}-s{options['seed']}",
        requests=tuple(
            Request(id=str(i), prompt=int(s), output=o)
            for i, (s, o) in enumerate(zip(prompt, output, strict=True))
        ),
        instances=(Instance(capacity=memory),),
    )


def conversations(options: Mapping[str, str]) -> ServingProblem:
    """Conversations that come back: each turn's prompt begins with the turn before it."""
    rng = np.random.default_rng(_whole(options, "seed"))
    n, blocks = _whole(options, "requests", 1), _whole(options, "blocks", 1)
    open_: list[list[int]] = []
    fresh = 1
    requests = []
    for i in range(n):
        if open_ and rng.random() < 0.6:
            path = open_[int(rng.integers(max(0, len(open_) - 40), len(open_)))]
        else:
            path = [0]
            open_.append(path)
        more = 1 + int(rng.geometric(0.3))
        path += range(fresh, fresh + more)
        fresh += more
        requests.append(
            Request(id=str(i), arrival=i, prompt=len(path), output=1, prefix=tuple(path))
        )
    return ServingProblem(
        name=f"conversations-{n}-s{options['seed']}",
        question="cache",
        block_tokens=512,
        requests=tuple(requests),
        instances=(Instance(capacity=blocks),),
    )


def agents(options: Mapping[str, str]) -> ServingProblem:
    """Programs of calls with growing contexts and tool times between them."""
    rng = np.random.default_rng(_whole(options, "seed"))
    requests = []
    for k in range(_whole(options, "programs", 1)):
        moment, held = int(rng.integers(0, 2000)), int(rng.integers(1000, 3000))
        for step in range(int(rng.integers(5, 25))):
            output = int(rng.integers(20, 300))
            duration = 20 * output // 10 + held // 20
            requests.append(
                Request(
                    id=f"{k}:{step}",
                    arrival=moment,
                    prompt=held,
                    output=output,
                    program=f"p{k}",
                    step=step,
                    duration=duration,
                )
            )
            moment += duration + int(rng.lognormal(5.0, 1.0))
            held += output + int(rng.lognormal(6.5, 0.8))
    requests.sort(key=lambda r: r.arrival)
    return ServingProblem(
        name=f"agents-s{options['seed']}",
        question="cache",
        requests=tuple(requests),
        instances=(Instance(capacity=_whole(options, "capacity", 1)),),
    )


def experts(options: Mapping[str, str]) -> ServingProblem:
    """Experts with lognormal loads, replicas in exact slots, nodes of equal size."""
    rng = np.random.default_rng(_whole(options, "seed"))
    n, replicas = _whole(options, "experts", 1), _whole(options, "replicas", 1)
    gpus, nodes = _whole(options, "gpus", 1), _whole(options, "nodes", 1)
    groups = _whole(options, "groups")
    if replicas % gpus or gpus % nodes or (groups and n % groups):
        raise ProblemError(
            "replicas must be a multiple of gpus, gpus of nodes, experts of groups",
            value=(n, replicas, gpus, nodes, groups),
            remedy="Correct the options.",
        )
    loads = rng.lognormal(0.0, 1.0, n)
    return ServingProblem(
        name=f"experts-{n}-s{options['seed']}",
        question="placement",
        replicas=replicas,
        items=tuple(
            Item(
                id=str(i),
                load=round(float(x), 6),
                group=f"g{i * groups // n}" if groups else "",
            )
            for i, x in enumerate(loads)
        ),
        gpus=tuple(
            Gpu(name=f"gpu{g}", node=f"node{g * nodes // gpus}", slots=replicas // gpus)
            for g in range(gpus)
        ),
    )


_SEED = {"seed": ("0", "seed of every random choice")}

GENERATORS = (
    Generator(
        "serving-trace",
        "requests like those of a public trace",
        {
            "trace": ("conversation", f"one of {', '.join(TRACES)}"),
            "requests": ("60", "number of requests"),
            "block_tokens": ("32", "tokens per unit"),
            "ratio": ("10", "capacity as a multiple of the mean peak of a request"),
            "rate": ("0", "arrivals per round; 0: all at round 0"),
            "instances": ("1", "number of instances"),
            **_SEED,
        },
        trace,
    ),
    Generator(
        "serving-synthetic",
        "the synthetic instances of Jaillet et al.",
        {"requests": ("0", "number of requests; 0: 40 to 60"), **_SEED},
        synthetic,
    ),
    Generator(
        "serving-conversations",
        "conversations with growing prefixes (cache)",
        {
            "requests": ("500", "number of requests"),
            "blocks": ("300", "prefix blocks that fit"),
            **_SEED,
        },
        conversations,
    ),
    Generator(
        "serving-agents",
        "programs of calls with tool gaps (cache)",
        {
            "programs": ("20", "number of programs"),
            "capacity": ("100000", "tokens of KV"),
            **_SEED,
        },
        agents,
    ),
    Generator(
        "serving-experts",
        "experts with replicas on GPUs (placement)",
        {
            "experts": ("256", "number of experts"),
            "replicas": ("288", "replicas in all"),
            "gpus": ("32", "number of GPUs"),
            "nodes": ("4", "number of nodes"),
            "groups": ("0", "expert groups that stay on one node; 0: none"),
            **_SEED,
        },
        experts,
    ),
)
