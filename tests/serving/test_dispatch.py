"""First schedules by dispatching peaks, and what short limits leave."""

import math
import random

import numpy as np
import pytest

import cpsched
from cpsched.core.clock import Clock
from cpsched.families.serving import staged
from cpsched.families.serving.check import check, evaluate
from cpsched.families.serving.dispatch import dispatch
from cpsched.families.serving.prepare import prepare
from cpsched.families.serving.problem import (
    Gpu,
    Instance,
    Item,
    Network,
    Request,
    ServingProblem,
    ServingSchedule,
    Tool,
)
from cpsched.families.serving.quick import schedule


def requests(rng: random.Random, count: int, **more: object) -> list[Request]:
    return [
        Request(
            id=str(i),
            arrival=rng.randrange(6),
            prompt=rng.randint(1, 9),
            output=rng.randint(0, 5),
            **more,
        )
        for i in range(count)
    ]


def chained(rows: list[Request]) -> tuple[Request, ...]:
    """Every other request waits for the one before and calls a tool."""
    return tuple(
        r.model_copy(update={"after": (rows[i - 1].id,), "gap": 2, "tool": "sh", "tool_rounds": 3})
        if i % 2
        else r
        for i, r in enumerate(rows)
    )


INSTANCES = {
    "memory": (Instance(capacity=20, count=2),),
    "limits": (Instance(capacity=40, max_batch=3, token_budget=6, prefill_chunk=4),),
    "buckets": (Instance(capacity=40, prefill_chunk=2, buckets=(3, 6), interruptible=True),),
    "apart": (
        Instance(capacity=25, prefill_chunk=3, role="prefill", count=2),
        Instance(capacity=30, role="decode", max_batch=3),
    ),
}


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("kind", INSTANCES)
@pytest.mark.parametrize("seed", range(3))
def test_dispatched_schedules_are_valid(kind, chain, seed):
    """What is dispatched obeys every rule, with stages, tools, lines and prefixes."""
    rng = random.Random(seed)
    rows = requests(rng, 12)
    rows = [
        r.model_copy(update={"prefix": (7, i % 3)[: rng.randrange(-(-r.prompt // 2) + 1)]})
        for i, r in enumerate(rows)
    ]
    p = ServingProblem(
        requests=chained(rows) if chain else tuple(rows),
        instances=INSTANCES[kind],
        prefix_block=2,
        tools=(Tool(name="sh", capacity=1),),
        network=Network(units_per_round=4, transfers=1) if kind == "apart" else None,
    )
    q = prepare(p)
    order = np.arange(q.n)
    if q.staged:
        placed = staged.dispatched(q, order.tolist())
        assert placed is not None
        found = ServingSchedule(requests=tuple(placed))
    else:
        start, machine = schedule(q, order, "total_latency", math.inf)
        found = q.schedule(start, machine)
    assert len(found.requests) == len(rows)
    assert check(p, found) == []


def test_dispatch_shares_the_memory():
    """Requests whose peaks fit together run together, the others behind them."""
    rows = tuple(Request(id=str(i), prompt=4, output=1) for i in range(4))
    p = ServingProblem(requests=rows, instances=(Instance(capacity=10),))
    found = dispatch(prepare(p), np.arange(4))
    assert found is not None
    assert found.start == [0, 0, 1, 1]


def test_dispatch_leaves_out_only_where_it_may():
    """A request that fits nowhere is left out with ``reject``; without it there is no schedule."""
    rows = (Request(id="a", prompt=1), Request(id="b", prompt=1, candidates=(0,)))
    instances = (Instance(capacity=1), Instance(capacity=9))
    p = ServingProblem(requests=rows, instances=instances, reject=True)
    found = dispatch(prepare(p), np.arange(2))
    assert found is not None
    assert found.machine == [1, -1]


def short_problems() -> dict[str, ServingProblem]:
    rng = random.Random(5)
    rows = requests(rng, 300)
    due = [r.model_copy(update={"end_by": r.arrival + 900}) for r in rows]
    sessions = [
        r.model_copy(update={"program": str(i % 40), "step": i // 40, "arrival": 7 * i})
        for i, r in enumerate(rows)
    ]
    running = [r.model_copy(update={"instance": i % 3}) for i, r in enumerate(rows)]
    return {
        "chains": ServingProblem(
            requests=chained(rows),
            instances=INSTANCES["apart"],
            tools=(Tool(name="sh", capacity=4),),
        ),
        "capacity": ServingProblem(
            question="capacity",
            slo_percent=99.0,
            requests=tuple(due),
            instances=(Instance(capacity=60, count=16),),
        ),
        "split": ServingProblem(
            question="capacity",
            slo_percent=99.0,
            requests=tuple(due),
            instances=tuple(m.model_copy(update={"count": 8}) for m in INSTANCES["apart"]),
        ),
        "programs": ServingProblem(
            question="cache", requests=tuple(sessions), instances=(Instance(capacity=60),)
        ),
        "migrations": ServingProblem(
            question="routing",
            requests=tuple(running),
            instances=(Instance(capacity=2000, count=8),),
            network=Network(units_per_round=3, transfers=2),
        ),
        "victims": ServingProblem(question="preemption", requests=tuple(rows), need=700),
        "experts": ServingProblem(
            question="placement",
            items=tuple(Item(id=str(i), load=rng.random()) for i in range(200)),
            gpus=tuple(Gpu(name=f"g{k}", slots=10) for k in range(24)),
            replicas=240,
        ),
    }


@pytest.mark.parametrize("name", short_problems())
def test_no_time_still_gives_a_checked_schedule(name):
    """With no time at all there is a schedule of a few hundred requests, and it is valid."""
    p = short_problems()[name]
    result = cpsched.solve(p, time_limit=0.0, workers=1)
    assert result.schedule is not None
    assert check(p, result.schedule) == []


def test_too_many_for_the_time_is_said_at_once():
    """Where no schedule can be built and checked in the time the call ends without one."""
    rows = tuple(Request(id=str(i), prompt=3, output=2) for i in range(15_000))
    p = ServingProblem(requests=rows, instances=(Instance(capacity=30),))
    result = cpsched.solve(p, time_limit=0.0, workers=1)
    assert (str(result.status), result.stop_reason, result.schedule) == (
        "UNKNOWN",
        "time_limit",
        None,
    )


def test_capacity_dispatch_uses_few_instances():
    """The first schedule of the capacity question does not spread over every instance."""
    rows = tuple(Request(id=str(i), prompt=4, output=1, end_by=40) for i in range(20))
    p = ServingProblem(
        question="capacity",
        slo_percent=100.0,
        requests=rows,
        instances=(Instance(capacity=10, count=16),),
    )
    q = prepare(p)
    start, machine = schedule(q, np.arange(20), "instances", math.inf)
    found = q.schedule(start, machine)
    assert check(p, found) == []
    assert evaluate(p, found, ["instances"]) == (1,)


def test_bounds_are_left_out_when_there_is_no_time_for_them():
    """A short time costs bounds of large problems, never their values."""
    from cpsched.families.serving import bound

    rows = tuple(Request(id=str(i), prompt=3, output=2, end_by=9) for i in range(1500))
    p = ServingProblem(
        question="capacity", slo_percent=100.0, requests=rows, instances=(Instance(capacity=30),)
    )
    q = prepare(p.model_copy(update={"slo_percent": None}))
    every = {b.argument: b.value for b in bound.quick(q, "instances")}
    assert {b.argument for b in bound.quick(q, "instances", 0.01)} < set(every)


def test_packing_ends_with_the_clock():
    """A packing that runs out of time keeps what it has placed so far."""
    from cpsched.families.serving.cache import gap_pins, gaps_of, pack

    p = short_problems()["programs"]
    g = gaps_of(p)
    order = np.arange(len(g.gaps))
    none, _ = pack(g, order, Clock(0.0))
    every, _ = pack(g, order, Clock(None))
    assert not none.any()
    assert every.any()
    assert check(p, gap_pins(g, every)) == []
