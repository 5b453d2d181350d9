"""The checker: one feasible and one infeasible schedule per rule, and mutated schedules."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cpsched
from cpsched.families.serving.check import check
from cpsched.families.serving.pieces import memory_pieces, peaks
from cpsched.families.serving.problem import (
    Gpu,
    Instance,
    Item,
    Request,
    ServingProblem,
    ServingSchedule,
    Tool,
)
from tests.serving.helpers import memory, placed, problem, random_problem, requests


def rules(p, schedule):
    return {v.rule for v in cpsched.validate(p, schedule).violations}


PAIRS = {
    "capacity": (problem([(2, 3), (2, 3)], 9), [(0, 3), (1, 4)], [(0, 3), (0, 3)]),
    "max_batch": (problem([(1, 2), (1, 2)], 99, max_batch=1), [(0, 2), (2, 4)], [(0, 2), (1, 3)]),
    "token_budget": (
        problem([(4, 1), (4, 1)], 99, token_budget=4, prefill_chunk=2),
        [(0, 3), (2, 5)],
        [(0, 3), (1, 4), (0, 0)][:2],
    ),
    "arrival": (problem([(1, 2, 3)], 9), [(3, 5)], [(2, 4)]),
    "duration": (problem([(1, 2)], 9), [(0, 2)], [(0, 3)]),
}


@pytest.mark.parametrize("rule", [k for k in PAIRS if k != "token_budget"])
def test_rule(rule):
    """Each rule accepts the first schedule and is the one that refuses the second."""
    p, good, bad = PAIRS[rule]
    assert rules(p, placed(*good, p=p)) == set()
    assert rules(p, placed(*bad, p=p)) == {rule}


def test_token_budget():
    """Chunks of two prefills in the same round exceed a budget that one respects."""
    p = problem([(4, 1), (4, 1)], 99, token_budget=3, prefill_chunk=2)
    assert rules(p, placed((0, 3), (2, 5), p=p)) == set()
    assert rules(p, placed((0, 3), (1, 4), p=p)) == {"token_budget"}


def test_precedence():
    """A call starts its gap after the call before it."""
    first, second = requests((1, 2), (1, 2))
    p = problem((first, second.model_copy(update={"after": ("0",), "gap": 3})), 99)
    assert rules(p, placed((0, 2), (5, 7), p=p)) == set()
    assert rules(p, placed((0, 2), (4, 6), p=p)) == {"precedence"}


def test_tool_capacity():
    """Two calls of a tool with one place must not overlap."""
    rows = requests((1, 2), (1, 2), tool="shell", tool_rounds=3)
    p = problem(rows, 99, tools=(Tool(name="shell", capacity=1),))
    assert rules(p, placed((0, 2), (3, 5), p=p)) == set()
    assert rules(p, placed((0, 2), (2, 4), p=p)) == {"tool_capacity"}


def test_candidates():
    """A request runs on a candidate instance only."""
    row = requests((1, 2))[0].model_copy(update={"candidates": (1,)})
    p = problem((row,), 9, count=2)
    assert rules(p, placed((0, 2), p=p, instance=1)) == set()
    assert rules(p, placed((0, 2), p=p, instance=0)) == {"candidates"}


def test_running_request_stays():
    """A running request keeps its start and instance."""
    row = requests((1, 5))[0].model_copy(update={"start": -2, "instance": 0})
    p = problem((row,), 9)
    assert rules(p, placed((-2, 3), p=p)) == set()
    assert "running" in rules(p, placed((0, 5), p=p))


def test_slo():
    """The demanded share of the requests meets its deadlines."""
    p = problem(requests((1, 2), (1, 2), end_by=3), 99, slo_percent=50.0)
    assert rules(p, placed((0, 2), (5, 7), p=p)) == set()
    assert rules(p, placed((4, 6), (5, 7), p=p)) == {"slo"}


def test_first_token_counts_prefill():
    """The first token comes one round after the prefill."""
    row = requests((4, 2), first_token_by=3)
    p = problem(row, 99, prefill_chunk=2, slo_percent=100.0)
    assert rules(p, placed((0, 4), p=p)) == set()
    assert rules(p, placed((1, 5), p=p)) == {"slo"}


def test_shared_prefix_is_held_once():
    """Two requests with a common block fit where two private prompts do not."""
    rows = tuple(Request(id=str(i), prompt=4, output=2, prefix=(7,)) for i in range(2))
    shared = problem(rows, 8, prefix_block=4)
    assert rules(shared, placed((0, 2), (0, 2), p=shared)) == set()
    apart = tuple(r.model_copy(update={"prefix": (k,)}) for k, r in enumerate(rows))
    private = problem(apart, 8, prefix_block=4)
    assert rules(private, placed((0, 2), (0, 2), p=private)) == {"capacity"}


def test_shared_prefix_is_freed_between_users():
    """A block is not held while none of its users is active."""
    rows = (
        Request(id="0", prompt=4, output=1, prefix=(7,)),
        Request(id="1", prompt=4, output=1, prefix=(7,)),
        Request(id="2", prompt=6, output=1),
    )
    p = problem(rows, 7, prefix_block=4)
    assert rules(p, placed((0, 1), (2, 3), (1, 2), p=p)) == set()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9)), min_size=1))
def test_memory_law_every_round(rows):
    """The checker's profile is the literal sum of prompt + t - start in its every round."""
    p = problem([(s, o) for s, o, _ in rows], None)
    starts = [a for _, _, a in rows]
    pieces = [
        q
        for r, s in zip(p.requests, starts, strict=True)
        for q in memory_pieces(r, p.machines[0], s, 0)
    ]
    times, use = peaks(pieces)
    literal = [memory(p, starts, t) for t in range(40)]
    assert max(literal) == (max(use.tolist()) if len(use) else 0)
    for t, u in zip(times.tolist(), use.tolist(), strict=True):
        assert u == literal[t]


@pytest.mark.parametrize("seed", range(20))
def test_mutations_are_judged_like_the_definition(seed):
    """Shifting starts at random, the checker agrees with a literal evaluation."""
    rng = random.Random(seed)
    p = random_problem(seed, 5, arrivals=True)
    for _ in range(20):
        starts = [rng.randint(0, 8) for _ in p.requests]
        schedule = placed(
            *((s, s + r.output) for s, r in zip(starts, p.requests, strict=True)), p=p
        )
        valid = all(s >= r.arrival for s, r in zip(starts, p.requests, strict=True))
        valid &= all(memory(p, starts, t) <= p.instances[0].capacity for t in range(1, 30))
        assert cpsched.validate(p, schedule).valid == valid


def test_unknown_and_missing_requests():
    """Every request is placed once, and only those that exist."""
    p = problem([(1, 1), (1, 1)], 9)
    one = {"request": "0", "instance": 0, "start": 0, "end": 1}
    assert rules(p, {"requests": [one]}) == {"request"}
    assert rules(p, {"requests": [one, one]}) == {"request"}
    assert rules(p, {"requests": [one, one | {"request": "9"}]}) == {"request"}
    assert rules(p, {"requests": [one | {"instance": 4}]}) == {"instance", "request"}


def test_huge_times_do_not_hang():
    """Rounds of 10**12 are checked without walking through them."""
    p = problem([(1, 5), (1, 5)], 3)
    schedule = placed((10**11, 10**11 + 5), (10**11 + 1, 10**11 + 6), p=p)
    assert rules(p, schedule) == {"capacity"}


def cache_problem(blocks, *paths):
    rows = tuple(
        Request(id=str(i), prompt=len(path), output=1, prefix=tuple(path), arrival=i)
        for i, path in enumerate(paths)
    )
    return ServingProblem(question="cache", requests=rows, instances=(Instance(capacity=blocks),))


def test_block_pins():
    """Kept blocks fit and were used; what is kept twice or too much is refused."""
    p = cache_problem(1, [1], [2], [1], [2])
    pin = {"item": "1", "from": 0, "to": 2}
    assert rules(p, {"pins": [pin]}) == set()
    assert rules(p, {"pins": [pin, {"item": "2", "from": 1, "to": 3}]}) == {"capacity"}
    assert rules(p, {"pins": [{"item": "1", "from": 1, "to": 2}]}) == {"pin"}
    assert rules(p, {"pins": [pin, pin]}) >= {"pin"}


def test_hits_are_leading_blocks():
    """A kept block behind a lost one is no prefix hit."""
    p = cache_problem(9, [1, 2], [1, 2])
    deep = ServingSchedule.parse({"pins": [{"item": "2", "from": 0, "to": 1}]})
    both = ServingSchedule.parse({"pins": [{"item": k, "from": 0, "to": 1} for k in ("1", "2")]})
    assert cpsched.validate(p, deep).objectives == {"hit_tokens": 0}
    assert cpsched.validate(p, both).objectives == {"hit_tokens": 2}


def program_problem(capacity, running=True, host=0):
    rows = tuple(
        Request(id=f"{k}{s}", arrival=10 * s, prompt=10, output=0, program=k, step=s, duration=4)
        for s in range(2)
        for k in ("a", "b")
    )
    return ServingProblem(
        question="cache",
        requests=rows,
        instances=(Instance(capacity=capacity, host_capacity=host),),
        running_memory=running,
    )


def test_program_pins_share_memory():
    """Contexts kept over the same gap fit together or are refused; hosts have their own room."""
    pins = [{"item": k, "from": 0, "to": 1} for k in ("a", "b")]
    assert rules(program_problem(20), {"pins": pins}) == set()
    assert rules(program_problem(19), {"pins": pins}) == {"capacity"}
    there = [pins[0], pins[1] | {"place": "host"}]
    assert rules(program_problem(19, host=10), {"pins": there}) == set()
    assert rules(program_problem(19, host=9), {"pins": there}) == {"host_capacity"}
    assert rules(program_problem(20), {"pins": [pins[0] | {"to": 2}]}) == {"pin"}


def test_preemption():
    """Victims exist, free enough, and only swap where they may."""
    rows = (
        Request(id="0", prompt=3, held=3),
        Request(id="1", prompt=4, held=4, swap_cost=1),
    )
    p = ServingProblem(question="preemption", requests=rows, need=4, host_free=4)
    assert rules(p, {"evictions": [{"request": "1"}]}) == set()
    assert rules(p, {"evictions": [{"request": "1", "how": "swap"}]}) == set()
    assert rules(p, {"evictions": [{"request": "0"}]}) == {"need"}
    assert rules(p, {"evictions": [{"request": "0", "how": "swap"}]}) == {"swap"}
    assert rules(p, {"evictions": [{"request": "7"}]}) == {"eviction"}
    tight = p.model_copy(update={"host_free": 3})
    assert rules(tight, {"evictions": [{"request": "1", "how": "swap"}]}) == {"host_free"}


def routing_problem(**fields):
    rows = tuple(Request(id=str(i), prompt=4, output=1, instance=0) for i in range(2))
    return ServingProblem(
        question="routing", requests=rows, instances=(Instance(capacity=10, count=2),), **fields
    )


def test_routing():
    """Migrations lead from where a request is to where it is routed, within the limit."""
    p = routing_problem()
    stay = [{"request": str(i), "instance": 0, "start": 0, "end": 1} for i in range(2)]
    moved = [stay[0], stay[1] | {"instance": 1}]
    move = {"request": "1", "from": 0, "to": 1}
    assert rules(p, {"requests": stay}) == set()
    assert rules(p, {"requests": moved, "migrations": [move]}) == set()
    assert rules(p, {"requests": moved}) == {"migration"}
    limited = routing_problem(move_limit=3)
    assert rules(limited, {"requests": moved, "migrations": [move]}) == {"move_limit"}
    small = p.model_copy(update={"instances": (Instance(capacity=9, count=2),)})
    assert rules(small, {"requests": stay}) == {"capacity"}


def test_placement():
    """Slots are filled exactly, memory holds, groups stay together, replicas are distinct."""
    items = (Item(id="a", load=2, memory=2, group="g"), Item(id="b", load=1, group="g"))
    gpus = (Gpu(name="0", node="x", slots=1, memory=2), Gpu(name="1", node="y", slots=1))
    p = ServingProblem(question="placement", items=items, gpus=gpus, group_limit=False)

    def at(**where):
        return {"placements": [{"item": k, "gpus": v} for k, v in where.items()]}

    assert rules(p, at(a=["0"], b=["1"])) == set()
    assert rules(p, at(a=["0"], b=["0"])) == {"slots", "memory"}
    assert rules(p, at(a=["0", "1"], b=["1"])) == {"slots"}
    assert rules(p, at(a=["0"])) == {"item", "slots"}
    tied = p.model_copy(update={"group_limit": True})
    assert rules(tied, at(a=["0"], b=["1"])) == {"group"}
    counted = p.model_copy(update={"replicas": 3})
    assert rules(counted, at(a=["0"], b=["1"])) == {"replicas"}


def test_check_accepts_parsed_schedules():
    """The checker works on the schedule object itself."""
    p = problem([(1, 2)], 9)
    assert check(p, ServingSchedule.parse(placed((0, 2), p=p))) == []
