"""Stages together with shared prefixes, programs and tools: the law, brute force, and MiniZinc."""

from __future__ import annotations

import itertools
import random

import pytest

import cpsched
from cpsched.bound import recompute
from cpsched.families.serving.pieces import holding, prefill_rounds, transfer_rounds
from cpsched.families.serving.problem import (
    Instance,
    Network,
    Placed,
    Request,
    ServingProblem,
    ServingSchedule,
    Tool,
)
from cpsched.families.serving.replay import replay
from tests.serving.test_oracle import by_minizinc


def combined(seed: int, n: int = 3, longest: int = 3) -> ServingProblem:
    """Few requests with everything at once: roles or pauses, prefixes, programs, a tool."""
    rng = random.Random(seed)
    kind = seed % 3
    rows = []
    for i in range(n):
        prompt = rng.randint(1, longest)
        prefix = (5, 6 + rng.randint(0, 1))[: rng.randint(0, prompt)]
        rows.append(
            Request(
                id=str(i),
                arrival=rng.randint(0, 1),
                prompt=prompt,
                output=rng.randint(1, 2),
                prefix=prefix,
                after=(str(i - 1),) if i and rng.random() < 0.5 else (),
                gap=rng.randint(0, 1),
                tool="shell" if rng.random() < 0.7 else "",
                tool_rounds=rng.randint(1, 2),
            )
        )
    peak = max(r.prompt + r.output for r in rows)
    pausing = Instance(
        capacity=peak + rng.randint(0, 2), prefill_chunk=1, token_budget=2, interruptible=kind != 2,
        buckets=(1,) if kind == 0 and rng.random() < 0.5 else (),
    )  # fmt: skip
    instances: tuple[Instance, ...] = (pausing,)
    if kind:
        first = pausing.model_copy(
            update={"role": "prefill" if kind == 2 else "mixed", "token_budget": 1}
        )
        instances = (first, Instance(capacity=peak + rng.randint(0, 1), role="decode"))
    return ServingProblem(
        requests=tuple(rows),
        instances=instances,
        tools=(Tool(name="shell", capacity=1),),
        network=Network(units_per_round=2, transfers=1) if kind else None,
        objectives=("makespan",) if seed % 5 == 4 else (),
    )


def literal_memory(p: ServingProblem, s: ServingSchedule, g: int, t: int) -> int:
    """Units on an instance in a round, counted block by block and chunk by chunk."""
    machine, held, blocks = p.machines[g], 0, {}
    for one in s.requests:
        r = next(r for r in p.requests if r.id == one.request)
        if not any(a < t <= b for a, b in holding(r, g, one)):
            continue
        own = r.prompt
        for depth in range(len(r.prefix)):
            size = min(p.prefix_block, r.prompt - depth * p.prefix_block)
            own -= size
            blocks[r.prefix[: depth + 1]] = size
        begin = one.end - r.output
        if one.instance == g and t <= begin:
            resting = [u for a, b in one.pauses for u in range(a + 1, b + 1)]
            chunks = sum(1 for u in range(one.start + 1, t + 1) if u not in resting)
            most = machine.prefill_chunk or 10**9
            own = min(own, min(chunks, prefill_rounds(r, machine)) * most)
        held += own + max(0, t - begin)
    return held + sum(blocks.values())


def ways(p: ServingProblem, r: Request, horizon: int) -> list[Placed]:
    """Every way to run a request up to a horizon, whatever the others do."""
    out = []
    for g, machine in enumerate(p.machines):
        if machine.role == "decode":
            continue
        rounds = prefill_rounds(r, machine)
        for start in range(r.arrival, horizon):
            later = range(start + 2, horizon if machine.interruptible else start + rounds + 1)
            for more in itertools.combinations(later, max(0, rounds - 1)):
                work = [start + 1, *more]
                pauses = tuple((a, b - 1) for a, b in itertools.pairwise(work) if b > a + 1)
                ready = start + rounds + sum(b - a for a, b in pauses)
                if machine.role == "mixed" and ready + r.output <= horizon:
                    out.append(
                        Placed(request=r.id, instance=g, start=start, end=ready + r.output,
                               pauses=pauses)
                    )  # fmt: skip
                for h, other in enumerate(p.machines):
                    for sent in range(ready, horizon):
                        end = sent + transfer_rounds(p, r.prompt) + r.output
                        if h != g and other.role != "prefill" and end <= horizon:
                            out.append(
                                Placed(request=r.id, instance=g, start=start, end=end,
                                       pauses=pauses, decode=h, sent=sent)
                            )  # fmt: skip
    return out


def best_by_force(p: ServingProblem, horizon: int) -> int | None:
    """The least value over all combinations of ways: the first that is valid."""
    arrival = {r.id: r.arrival for r in p.requests}

    def value(chosen: tuple[Placed, ...]) -> int:
        if p.objectives == ("makespan",):
            return max(one.end for one in chosen)
        return sum(one.end - arrival[one.request] for one in chosen)

    every = itertools.product(*(ways(p, r, horizon) for r in p.requests))
    for chosen in sorted(every, key=value):
        if cpsched.validate(p, ServingSchedule(requests=chosen)).valid:
            return value(chosen)
    return None


@pytest.mark.parametrize("seed", range(9))
def test_combined_matches_brute_force(seed):
    """Two requests with stages, prefixes, programs and tools: no combination of ways is better."""
    p = combined(seed, 2, longest=2)
    result = cpsched.solve(p, time_limit=60, workers=1, strict=True)
    assert result.status == "OPTIMAL"
    horizon = max(one.end for one in result.schedule.requests)
    assert result.objective == best_by_force(p, horizon)
    for one in result.bounds:
        assert one.value <= result.objective
        if one.argument != "cp-sat":
            assert recompute(p, one) == one.value


@pytest.mark.parametrize("seed", range(6))
def test_combined_matches_minizinc(minizinc, seed, tmp_path):
    """Two requests with stages, prefixes, programs and tools against the mathematics."""
    p = combined(20 + seed, 2, longest=2)
    result = cpsched.solve(p, time_limit=60, workers=1, strict=True)
    assert result.stop_reason == "proved"
    assert by_minizinc(minizinc, p, tmp_path) == result.objective


@pytest.mark.parametrize("seed", range(30))
def test_the_checker_counts_every_round(seed):
    """Schedules of a policy hold in every round what a literal count says, and no more."""
    p = combined(seed, 5)
    shown = replay(p, ("fcfs", "svf", "ldf")[seed % 3])
    assert not shown.violations
    assert shown.schedule is not None
    last = max(one.end for one in shown.schedule.requests)
    for g, machine in enumerate(p.machines):
        held = [literal_memory(p, shown.schedule, g, t) for t in range(1, last + 1)]
        assert max(held) <= machine.capacity
        if max(held) > 0:
            # One unit less would be refused: the checker sees the fullest round.
            smaller = machine.model_copy(update={"capacity": max(held) - 1})
            instances = tuple(smaller if k == g else m for k, m in enumerate(p.machines))
            tight = p.model_copy(update={"instances": instances})
            broken = cpsched.validate(tight, shown.schedule)
            assert "capacity" in {v.rule for v in broken.violations}
