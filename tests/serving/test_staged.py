"""Roles, handovers, pauses, buckets, migrations and prefetches: laws, and against brute force."""

from __future__ import annotations

import itertools
import random

import pytest

import cpsched
from cpsched.bound import recompute
from cpsched.errors import ProblemError
from cpsched.families.serving.cache import gaps_of
from cpsched.families.serving.check_cache import expected_tokens
from cpsched.families.serving.check_static import migration_rounds
from cpsched.families.serving.problem import (
    Instance,
    Network,
    Request,
    ServingProblem,
    ServingSchedule,
    TimeToLive,
    Tool,
)
from cpsched.families.serving.replay import replay
from tests.serving.helpers import problem, requests


def rules(p, *rows):
    """Rules that a schedule of such rows violates."""
    report = cpsched.validate(p, {"requests": [dict(row) for row in rows]})
    return {v.rule for v in report.violations}


def split(rows=((4, 2),), network=None, **fields):
    """One prefill and one decode instance."""
    return ServingProblem(
        requests=requests(*rows),
        instances=(
            Instance(name="p", capacity=12, prefill_chunk=2, role="prefill"),
            Instance(name="d", capacity=12, role="decode"),
        ),
        network=network,
        **fields,
    )


def one(start, end, request="0", instance=0, **more):
    """A placed request."""
    return {"request": request, "instance": instance, "start": start, "end": end, **more}


def test_handover_takes_the_network():
    """Two rounds of prefill, one of latency, two of transfer, two of output: seven."""
    p = split(network=Network(units_per_round=2, latency=1))
    assert rules(p, one(0, 7, decode=1, sent=2)) == set()
    assert "role" in rules(p, one(0, 6, decode=1, sent=1))
    assert "duration" in rules(p, one(0, 6, decode=1, sent=2))
    assert "role" in rules(p, one(0, 4))
    assert "role" in rules(p, one(0, 2, instance=1))
    result = cpsched.solve(p, time_limit=60)
    assert (result.status, result.objective) == ("OPTIMAL", 7)


def test_handover_holds_both_memories():
    """While it is carried, the KV is on both sides."""
    p = split(((4, 2), (4, 2)), Network(units_per_round=1))
    tight = p.model_copy(
        update={"instances": (p.instances[0].model_copy(update={"capacity": 7}), p.instances[1])}
    )
    rows = (
        one(0, 8, decode=1, sent=2),
        one(3, 12, request="1", decode=1, sent=6),
    )
    assert "capacity" not in rules(p, *rows)
    assert "capacity" in rules(tight, *rows)


def test_network_carries_few_transfers():
    """Two transfers at once are one too many."""
    p = split(((2, 1), (2, 1)), Network(units_per_round=1, transfers=1))
    rows = one(0, 4, decode=1, sent=1), one(0, 4, request="1", decode=1, sent=1)
    assert "network" in rules(p, *rows)
    rows = one(0, 4, decode=1, sent=1), one(0, 6, request="1", decode=1, sent=3)
    assert rules(p, *rows) == set()


def pausing(rows, **fields):
    """Requests on one instance with interruptible prefills of one unit per round."""
    return problem(
        requests(*rows) if not isinstance(rows[0], Request) else rows, 20, **fields
    ).model_copy(
        update={
            "instances": (
                Instance(capacity=20, prefill_chunk=1, token_budget=1, interruptible=True),
            )
        }
    )


def test_prefill_pauses_for_the_urgent():
    """A short urgent request goes between two chunks of a long one."""
    rows = (
        Request(id="long", prompt=4, output=1, weight=1),
        Request(id="short", arrival=2, prompt=1, output=1, first_token_by=4),
    )
    p = pausing(rows, slo_percent=100.0)
    whole = p.model_copy(
        update={"instances": (p.instances[0].model_copy(update={"interruptible": False}),)}
    )
    result = cpsched.solve(p, time_limit=60)
    assert (result.status, result.objective) == ("OPTIMAL", 7 + 2)
    assert result.schedule.requests[0].pauses or result.schedule.requests[1].pauses
    assert cpsched.solve(whole, time_limit=60).objective > result.objective


def test_pauses_only_between_chunks():
    """A pause before the first chunk, after the last one, or without permission is refused."""
    p = pausing(((2, 1),))
    assert rules(p, one(0, 5, pauses=[[1, 3]])) == set()
    assert "interruptible" in rules(p, one(0, 5, pauses=[[0, 2]]))
    assert "interruptible" in rules(p, one(0, 5, pauses=[[2, 4]]))
    rigid = p.model_copy(
        update={"instances": (p.instances[0].model_copy(update={"interruptible": False}),)}
    )
    assert "interruptible" in rules(rigid, one(0, 5, pauses=[[1, 3]]))


def test_buckets_prefill_apart():
    """A long and a short prompt do not prefill in the same round, two short ones do."""
    rows = ((4, 1), (1, 1), (2, 1))
    p = ServingProblem(
        requests=requests(*rows),
        instances=(Instance(capacity=99, prefill_chunk=2, buckets=(2,)),),
    )
    assert "bucket" in rules(p, one(0, 3), one(0, 2, "1"), one(2, 4, "2"))
    assert rules(p, one(0, 3), one(2, 4, "1"), one(2, 4, "2")) == set()
    result = cpsched.solve(p, time_limit=60)
    assert (result.status, result.objective) == ("OPTIMAL", 2 + 2 + 4)
    with pytest.raises(ProblemError, match="ascend"):
        Instance(prefill_chunk=1, buckets=(3, 2))


def ways(p, r, horizon):
    """Every way to run a request alone up to a horizon, found with the checker."""
    alone = p.model_copy(update={"requests": (r,)})
    out = []
    for g, h in itertools.product(range(len(p.machines)), repeat=2):
        rests = [()]
        if p.machines[g].interruptible:
            rests += [((a, b),) for a in range(horizon) for b in range(a + 1, horizon)]
        for start, end, pauses in itertools.product(range(horizon), range(horizon + 1), rests):
            for sent in range(horizon) if h != g else (None,):
                row = one(start, end, r.id, g, pauses=pauses)
                row |= {} if sent is None else {"decode": h, "sent": sent}
                schedule = ServingSchedule.parse({"requests": [row]})
                if cpsched.validate(alone, schedule).valid:
                    out.append(schedule.requests[0])
    return out


def least_latency(p, horizon):
    """The least total latency over all combinations of ways."""
    options = [ways(p, r, horizon) for r in p.requests]
    arrival = {r.id: r.arrival for r in p.requests}
    best = None
    for chosen in itertools.product(*options):
        value = sum(o.end - arrival[o.request] for o in chosen)
        if (best is None or value < best) and cpsched.validate(
            p, ServingSchedule(requests=chosen)
        ).valid:
            best = value
    return best


@pytest.mark.parametrize("seed", range(3))
def test_split_matches_brute_force(seed):
    """Two requests on one prefill and one decode instance."""
    rng = random.Random(seed)
    rows = [(rng.randint(1, 2), rng.randint(1, 2), rng.randint(0, 1)) for _ in range(2)]
    p = split(rows, Network(units_per_round=2, transfers=1)).model_copy(
        update={
            "instances": (
                Instance(capacity=3, prefill_chunk=1, token_budget=1, role="prefill"),
                Instance(capacity=4 + seed % 2, role="decode"),
            )
        }
    )
    result = cpsched.solve(p, time_limit=60)
    assert result.status == "OPTIMAL"
    assert result.objective == least_latency(p, 9)


@pytest.mark.parametrize("seed", range(3))
def test_pauses_match_brute_force(seed):
    """Two requests with interruptible prefills, at most one pause each."""
    rng = random.Random(10 + seed)
    rows = [(3, 1, 0), (rng.randint(1, 2), rng.randint(1, 2), rng.randint(0, 2))]
    p = pausing(rows)
    result = cpsched.solve(p, time_limit=60)
    assert result.status == "OPTIMAL"
    assert result.objective == least_latency(p, 9)


def test_policies_replay_on_roles():
    """The classical policies run on split instances, and their plans are valid."""
    p = split([(3, 2), (4, 1), (2, 3)], Network(units_per_round=4, transfers=2))
    for policy in ("fcfs", "svf"):
        assert not replay(p, policy).violations


def test_cheapest_split_is_found():
    """Prompts need two prefill instances, outputs one decode instance: the mix and its bound."""
    rows = requests(*[(6, 2)] * 4, first_token_by=8, end_by=9)
    p = ServingProblem(
        question="capacity",
        objectives=("cost",),
        requests=rows,
        instances=(
            Instance(
                capacity=40, prefill_chunk=3, token_budget=3, role="prefill", price=3, count=4
            ),
            Instance(capacity=40, role="decode", price=2, count=4),
        ),
        network=Network(units_per_round=6),
        slo_percent=100.0,
    )
    result = cpsched.solve(p, time_limit=8)
    assert result.objective == 8
    assert result.bound <= 8
    used = {g for o in result.schedule.requests for g in (o.instance, o.decode)}
    assert sum(g < 4 for g in used) == 2
    for b in result.bounds:
        if b.argument != "cp-sat":
            assert recompute(p, b) == b.value


def test_migrations_take_lines_and_room():
    """Live migrations hold both places meanwhile and share the lines."""
    rows = tuple(Request(id=str(i), prompt=4, output=0, instance=0, held=4) for i in range(4))
    p = ServingProblem(
        question="routing",
        requests=rows,
        instances=(Instance(capacity=16, count=2),),
        network=Network(units_per_round=2, transfers=1),
    )
    result = cpsched.solve(p, time_limit=20)
    assert result.objective == 8
    moves = result.schedule.migrations
    assert [(m.start, m.end) for m in moves] == [(0, 2), (2, 4)]
    wrong = result.schedule.model_copy(
        update={"migrations": tuple(m.model_copy(update={"start": 0, "end": 2}) for m in moves)}
    )
    assert {v.rule for v in cpsched.validate(p, wrong).violations} == {"network"}


@pytest.mark.parametrize("seed", range(4))
def test_times_to_live_match_brute_force(seed):
    """No other times to live have a smaller expected price."""
    rng = random.Random(seed)
    tools = tuple(Tool(name=n, durations=tuple(rng.randint(0, 12) for _ in range(5))) for n in "ab")
    rows = tuple(
        Request(id=str(i), prompt=rng.randint(1, 9), output=1, tool=rng.choice("ab"))
        for i in range(5)
    )
    p = ServingProblem(
        question="cache",
        objectives=("expected_tokens",),
        requests=rows,
        tools=tools,
        instances=(Instance(capacity=99),),
        hold_price=rng.choice((0.01, 0.1, 0.3)),
    )
    result = cpsched.solve(p, time_limit=2)
    best = min(
        expected_tokens(
            p,
            ServingSchedule(
                ttls=tuple(TimeToLive(tool=n, rounds=x) for n, x in zip("ab", pair, strict=True))
            ),
        )
        for pair in itertools.product(range(14), repeat=2)
    )
    assert result.status == "OPTIMAL"
    assert result.objective == pytest.approx(best)
    assert all(recompute(p, b) == b.value for b in result.bounds)


@pytest.mark.parametrize("seed", range(3))
def test_prefetching_matches_brute_force(seed):
    """Offloaded contexts hold GPU memory while they leave and return: best of all choices."""
    rng = random.Random(seed)
    rows = []
    for k in range(3):
        moment = rng.randint(0, 4)
        for step in range(2):
            rows.append(
                Request(
                    id=f"{k}:{step}", arrival=moment, prompt=rng.randint(3, 6) + 4 * step,
                    output=1, duration=2, program=str(k), step=step,
                )
            )  # fmt: skip
            moment += 4 + rng.randint(0, 8)
    p = ServingProblem(
        question="cache",
        requests=tuple(rows),
        instances=(Instance(capacity=14, host_capacity=10, host_units_per_round=3),),
    )
    gaps = gaps_of(p).gaps
    best = None
    for places in itertools.product((None, "gpu", "host"), repeat=len(gaps)):
        pins = [
            {"item": name, "from": k, "to": k + 1, "place": place}
            for (name, k), place in zip(gaps, places, strict=True)
            if place
        ]
        report = cpsched.validate(p, {"pins": pins})
        if report.valid and (best is None or report.objectives["recompute_tokens"] < best):
            best = report.objectives["recompute_tokens"]
    result = cpsched.solve(p, time_limit=60)
    assert (result.status, result.objective) == ("OPTIMAL", best)
    for b in result.bounds:
        assert b.value <= best
        if b.argument != "cp-sat":
            assert recompute(p, b) == b.value


def migrations_by_force(p):
    """(max load, last migration) of the best plan over all targets and starts, by the checker."""
    best = None
    longest = sum(migration_rounds(p, r) for r in p.requests)
    for where in itertools.product(range(len(p.machines)), repeat=len(p.requests)):
        movers = [(r, g) for r, g in zip(p.requests, where, strict=True) if g != r.instance]
        for starts in itertools.product(range(longest + 1), repeat=len(movers)):
            moves = sorted(
                (s, r.id, r.instance, g) for s, (r, g) in zip(starts, movers, strict=True)
            )
            plan = {
                "requests": [
                    one(0, r.output, r.id, g) for r, g in zip(p.requests, where, strict=True)
                ],
                "migrations": [
                    {
                        "request": name, "from": a, "to": b, "start": s,
                        "end": s + migration_rounds(p, p.requests[int(name)]),
                    }
                    for s, name, a, b in moves
                ],
            }  # fmt: skip
            report = cpsched.validate(p, plan)
            if report.valid:
                value = (report.objectives["max_load"], report.objectives["migration_rounds"])
                best = value if best is None else min(best, value)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_live_migrations_match_brute_force(seed):
    """Where to, and when: memory on both sides, few lines; no plan is better balanced or sooner."""
    rng = random.Random(seed)
    rows = tuple(
        Request(id=str(i), prompt=rng.randint(1, 4), output=1, instance=i % 2) for i in (0, 1, 2)
    )
    p = ServingProblem(
        question="routing",
        objectives=("max_load", "migration_rounds"),
        requests=rows,
        instances=(Instance(capacity=10 + seed), Instance(capacity=5 + seed)),
        network=Network(units_per_round=2, transfers=1 + seed % 2, latency=seed % 2),
    )
    result = cpsched.solve(p, time_limit=60)
    assert result.status == "OPTIMAL"
    assert tuple(result.objective) == migrations_by_force(p)


@pytest.mark.parametrize("seed", range(4))
def test_migrations_one_by_one_match_brute_force(seed):
    """Without a network: some order of migrations fits after every step, or they are not made."""
    rng = random.Random(seed)
    rows = tuple(
        Request(id=str(i), prompt=rng.randint(1, 5), output=1, instance=rng.randint(0, 1))
        for i in range(4)
    )
    use = [sum(r.prompt + 1 for r in rows if r.instance == g) for g in (0, 1)]
    p = ServingProblem(
        question="routing",
        requests=rows,
        instances=tuple(Instance(capacity=u + rng.randint(1, 4)) for u in use),
    )
    best = None
    for where in itertools.product(range(2), repeat=4):
        movers = [(r.id, r.instance, g) for r, g in zip(rows, where, strict=True)
                  if g != r.instance]  # fmt: skip
        for order in itertools.permutations(movers):
            report = cpsched.validate(
                p,
                {
                    "requests": [one(0, 1, r.id, g) for r, g in zip(rows, where, strict=True)],
                    "migrations": [{"request": n, "from": a, "to": b} for n, a, b in order],
                },
            )
            if report.valid:
                value = report.objectives["max_load"]
                best = value if best is None else min(best, value)
    result = cpsched.solve(p, time_limit=60)
    assert (result.status, result.objective) == ("OPTIMAL", best)
