"""Data of the MiniZinc models: ``serving.mzn``, ``serving_cache.mzn``, ``serving_routing.mzn``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.serving.check import allowed_misses
from cpsched.families.serving.check_cache import (
    call_end,
    context,
    fetch_rounds,
    is_program_cache,
    program_steps,
)
from cpsched.families.serving.check_static import held_units, migration_rounds, prefix_tree
from cpsched.families.serving.pieces import (
    bucket_of,
    prefill_rounds,
    shared_units,
    transfer_rounds,
)
from cpsched.families.serving.problem import Request, ServingProblem, ServingSchedule


def minizinc(p: ServingProblem, s: ServingSchedule | None) -> str:
    """Data (.dzn) of the question's model: admission and capacity, programs' caches, routing.

    Raises
    ------
    ProblemError
        For the other questions, prefix caches, running requests of an admission, and speeds.
    """
    if p.question in ("admission", "capacity"):
        values = _admission(p)
    elif p.question == "cache" and is_program_cache(p):
        values = _cache(p)
    elif p.question == "routing":
        values = _routing(p)
    else:
        raise _refusal("admission, capacity, routing and the caches of programs")
    return "".join(f"{name} = {_text(value)};\n" for name, value in values.items())


def _refusal(known: str) -> ProblemError:
    return ProblemError(f"the MiniZinc models know {known}", remedy="Convert another problem.")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, set):
        return "{" + ", ".join(map(str, sorted(value))) + "}"
    if isinstance(value, tuple):
        # Two dimensions: the rows.
        if not value or not value[0]:
            return f"array2d(1..{len(value)}, 1..0, [])"
        rows = ", ".join(_text(one) for row in value for one in row)
        return f"array2d(1..{len(value)}, 1..{len(value[0])}, [{rows}])"
    if isinstance(value, list):
        return "[" + ", ".join(_text(one) for one in value) + "]"
    return str(value)


def _limits(values: Sequence[int | None], most: int) -> list[int]:
    return [most if v is None else min(v, most) for v in values]


def _prefixes(p: ServingProblem) -> dict[str, Any]:
    size, paths = prefix_tree(p)
    return {
        "nodes": len(size),
        "node_size": size,
        "prefix": [{k + 1 for k in paths[r.id]} for r in p.requests],
    }


def _allowed(p: ServingProblem, r: Request) -> list[bool]:
    return [not r.candidates or g in r.candidates for g in range(len(p.machines))]


def _admission(p: ServingProblem) -> dict[str, Any]:
    if any(r.start is not None for r in p.requests):
        raise _refusal("admissions without running requests")
    machines, requests = p.machines, p.requests
    horizon = max(r.arrival for r in requests) + sum(
        max(prefill_rounds(r, m) for m in machines)
        + r.output
        + r.gap
        + r.tool_rounds
        + transfer_rounds(p, r.prompt)
        for r in requests
    )
    big = sum(r.prompt + r.output for r in requests) + sum(prefix_tree(p).size)
    index = {r.id: i for i, r in enumerate(requests, 1)}
    tools = {t.name: k for k, t in enumerate(p.tools, 1)}
    pairs = [(index[other], index[r.id]) for r in requests for other in dict.fromkeys(r.after)]
    shared = shared_units(p)
    names = ("total_latency", "weighted_latency", "makespan", "goodput", "instances", "cost")
    default = "total_latency" if p.question == "admission" else "instances"
    transfers = None if p.network is None else p.network.transfers
    return {
        "n": len(requests),
        "m": len(machines),
        "horizon": horizon,
        "arrival": [r.arrival for r in requests],
        "prompt": [r.prompt for r in requests],
        "private": [r.prompt - shared[r.id] for r in requests],
        "output_length": [r.output for r in requests],
        "weight": [r.weight for r in requests],
        "first_token_by": _limits([r.first_token_by for r in requests], 2 * horizon),
        "end_by": _limits([r.end_by for r in requests], 2 * horizon),
        "transfer": [transfer_rounds(p, r.prompt) for r in requests],
        "candidates": tuple(_allowed(p, r) for r in requests),
        "bucket": tuple([bucket_of(r, m) for m in machines] for r in requests),
        "capacity": _limits([m.capacity for m in machines], big),
        "max_batch": _limits([m.max_batch for m in machines], 2 * len(requests)),
        "token_budget": _limits([m.token_budget for m in machines], big),
        "prefill_chunk": [m.prefill_chunk or 0 for m in machines],
        "prefills": [m.role != "decode" for m in machines],
        "decodes": [m.role != "prefill" for m in machines],
        "interruptible": [m.interruptible for m in machines],
        "price": [m.price for m in machines],
        "lines": len(requests) if transfers is None else transfers,
        "p": len(pairs),
        "before": [a for a, _ in pairs],
        "follower": [b for _, b in pairs],
        "gap": [r.gap for r in requests],
        "tools": len(tools),
        "tool": [tools[r.tool] if r.tool and r.tool_rounds else 0 for r in requests],
        "tool_rounds": [r.tool_rounds for r in requests],
        "tool_capacity": _limits([t.capacity for t in p.tools], len(requests)),
        **_prefixes(p),
        "reject": p.reject,
        "misses": len(requests) if p.slo_percent is None else allowed_misses(p),
        "wanted": 1 + names.index(p.objectives[0] if p.objectives else default),
    }


def _cache(p: ServingProblem) -> dict[str, Any]:
    gaps = [pair for calls in program_steps(p).values() for pair in pairwise(calls)]
    instance = p.instances[0]
    running = p.requests if p.running_memory else ()
    moving = [fetch_rounds(p, context(a)) for a, _ in gaps]
    moments = {r.arrival for r in running}
    for (a, b), rounds in zip(gaps, moving, strict=True):
        moments |= {call_end(a), max(call_end(a), b.arrival - rounds)}
    tools = [t for t in p.tools if t.durations]
    longest = max((len(t.durations) for t in tools), default=0)
    price = Fraction(p.hold_price).limit_denominator(10**6)
    big = sum(context(r) for r in p.requests)
    return {
        "gaps": len(gaps),
        "gap_start": [call_end(a) for a, _ in gaps],
        "gap_end": [b.arrival for _, b in gaps],
        "units": [context(a) for a, _ in gaps],
        "reused": [min(context(a), b.prompt) for a, b in gaps],
        "moving": moving,
        "capacity": big if instance.capacity is None else instance.capacity,
        "host_capacity": instance.host_capacity,
        "reload_percent": p.reload_percent,
        "calls": len(running),
        "call_start": [r.arrival for r in running],
        "call_end": [call_end(r) for r in running],
        "call_units": [context(r) for r in running],
        "moments": moments,
        "tools": len(tools),
        "longest": longest,
        "tool_units": [sum(context(r) for r in p.requests if r.tool == t.name) for t in tools],
        "samples": [len(t.durations) for t in tools],
        "durations": tuple([*t.durations, *[0] * (longest - len(t.durations))] for t in tools),
        "hold_price": price.numerator,
        "scale": price.denominator,
        "common": math.lcm(*(len(t.durations) for t in tools)),
        "expected": p.objectives[:1] == ("expected_tokens",),
    }


def _routing(p: ServingProblem) -> dict[str, Any]:
    machines, requests = p.machines, p.requests
    if any(m.speed != 1.0 for m in machines):
        raise _refusal("routing to instances of equal speed")
    shared = shared_units(p)
    live = p.network is not None
    rounds = [migration_rounds(p, r) if live else 1 for r in requests]
    big = sum(r.prompt + r.output for r in requests)
    names = ("max_load", "moves", "migration_rounds")
    transfers = 1 if p.network is None else p.network.transfers
    return {
        "n": len(requests),
        "m": len(machines),
        "private": [r.prompt + r.output - shared[r.id] for r in requests],
        "held": [held_units(r) for r in requests],
        "home": [0 if r.instance is None else r.instance + 1 for r in requests],
        "rounds": rounds,
        "candidates": tuple(_allowed(p, r) for r in requests),
        "capacity": _limits([m.capacity for m in machines], big),
        **_prefixes(p),
        "lines": len(requests) if transfers is None else transfers,
        "move_limit": sum(map(held_units, requests)) if p.move_limit is None else p.move_limit,
        "live": live,
        "horizon": sum(rounds),
        "wanted": 1 + names.index(p.objectives[0] if p.objectives else "max_load"),
    }
