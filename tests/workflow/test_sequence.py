"""The least storage over all orders: bound, optimum, schedule."""

from __future__ import annotations

import itertools
import random

import pytest

import cpsched
from cpsched.bound import recompute
from cpsched.families.workflow.prepare import prepare
from cpsched.families.workflow.sequence import applies, best_order
from cpsched.result import Bound
from tests.workflow.helpers import problem


def graph(seed: int, n: int = 6, machines: int = 1):
    """Tasks with files for several readers, some kept, some there from the beginning."""
    rng = random.Random(seed)
    files = [
        {
            "id": f"f{k}",
            "size": rng.randint(1, 9),
            "producer": f"t{k}",
            "consumers": [f"t{v}" for v in range(k + 1, n) if rng.random() < 0.4],
            "keep": rng.random() < 0.2,
        }
        for k in range(n)
    ]
    files.append(
        {"id": "given", "size": 4, "location": "m0", "consumers": [f"t{rng.randrange(n)}"]}
    )
    return problem(
        tasks=[{"id": f"t{k}", "work": rng.randint(1, 5)} for k in range(n)],
        files=files,
        machines=[{"name": f"m{k}"} for k in range(machines)],
        objectives=["peak_storage"],
    )


def peak_of(p, order) -> float:
    """The peak of a sequence, straight from when files come and go."""
    level = most = sum(f.size for f in p.files if f.producer is None)
    done: set[str] = set()
    for t in order:
        level += sum(f.size for f in p.files if f.producer == t)
        most = max(most, level)
        done.add(t)
        for f in p.files:
            last = t == f.producer if not f.consumers else t in f.consumers
            if last and not f.keep and done >= {*f.consumers, *filter(None, [f.producer])}:
                level -= f.size
    return most


def enumerated(p) -> float:
    """The least peak over all orders that respect precedence."""
    after = {(f.producer, c) for f in p.files for c in f.consumers if f.producer}
    orders = (
        o
        for o in itertools.permutations([t.id for t in p.tasks])
        if all(o.index(u) < o.index(v) for u, v in after)
    )
    return min(peak_of(p, o) for o in orders)


@pytest.mark.parametrize("seed", range(25))
def test_the_best_order_is_that_of_enumeration(seed):
    """The search over sets finds the optimum, and an order that has it."""
    p = graph(seed)
    inst = prepare(p)
    assert applies(inst)
    found = best_order(inst)
    assert found.order is not None
    assert float(found.least) == enumerated(p) == peak_of(p, [p.tasks[t].id for t in found.order])
    for states in range(1, found.states + 1):
        assert best_order(inst, states).least <= found.least


@pytest.mark.parametrize("seed", range(10))
def test_one_machine_is_proved_at_once(seed):
    """On one machine the best order is the optimum; more machines are never better."""
    p, several = graph(seed, 9), graph(seed, 9, machines=3)
    one = cpsched.solve(p, time_limit=20, workers=1)
    assert one.status == "OPTIMAL"
    least = best_order(prepare(p))
    assert one.objective == float(least.least)
    assert recompute(p, Bound(0.0, "orders", "peak_storage", {"states": least.states + 1})) == (
        one.objective
    )
    assert cpsched.solve(several, time_limit=20, workers=1).objective >= one.objective


def test_no_argument_where_a_task_takes_no_time():
    """What a task without duration reads and writes need not be there at once."""
    p = problem(
        tasks=[{"id": "a", "work": 1}, {"id": "b", "work": 0}, {"id": "c", "work": 1}],
        files=[
            {"id": "f", "size": 3, "producer": "a", "consumers": ["b"]},
            {"id": "g", "size": 3, "producer": "b", "consumers": ["c"]},
        ],
        machines=[{"name": "m"}],
        objectives=["peak_storage"],
    )
    assert not applies(prepare(p))
    assert recompute(p, Bound(6.0, "separate", "peak_storage")) <= 3
    result = cpsched.solve(p, time_limit=20, workers=1)
    assert (result.status, result.objective) == ("OPTIMAL", 3.0)
