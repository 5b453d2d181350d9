"""The branch and bound against an exhaustive recursion, with every bound and rule at work."""

from __future__ import annotations

import functools
import itertools
import random

import numpy as np
import pytest

import cpsched
from cpsched.families.serving import branch, kernels_exact, lagrange, patterns
from cpsched.families.serving.prepare import prepare
from tests.serving.helpers import problem


def least_latency(p):
    """The least total latency: every set of starts in every round, states remembered."""
    capacity = p.instances[0].capacity
    most = p.instances[0].max_batch or 99
    last = max(r.arrival for r in p.requests)

    def fits(running):
        return len(running) <= most and all(
            sum(held + k for held, left in running if left >= k) <= capacity for _, k in running
        )

    @functools.cache
    def rest(t, waiting, running):
        """Least sum of the ends of the waiting, from (held, rounds left) of the running."""
        if not waiting:
            return 0
        here = [i for i in waiting if p.requests[i].arrival <= t]
        best = 10**9
        for size in range(len(here) + 1):
            if not size and not running and t >= last:
                continue
            for chosen in itertools.combinations(here, size):
                new = [(p.requests[i].prompt, p.requests[i].output) for i in chosen]
                together = [*running, *new]
                if not fits(together):
                    continue
                after = tuple(sorted((h + 1, left - 1) for h, left in together if left > 1))
                value = sum(t + p.requests[i].output for i in chosen)
                best = min(best, value + rest(t + 1, waiting - set(chosen), after))
        return best

    ends = rest(0, frozenset(range(len(p.requests))), ())
    return ends - sum(r.arrival for r in p.requests)


def test_waiting_for_the_last_arrival():
    """Nobody starts in the first round of the best schedule: that is no state seen before."""
    p = problem([(2, 1, 1), (2, 3, 0)], 6)
    result = cpsched.solve(p, time_limit=60, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", least_latency(p))
    search = branch.Search(prepare(p), [], 6 + branch._shift(prepare(p)))
    while not search.run(1000):
        pass
    assert search.starts() is not None


def test_no_time_limit():
    """Without a limit a small problem is proved, too."""
    p = problem([(2, 1, 1), (2, 3, 0)], 6)
    assert cpsched.solve(p, time_limit=None, workers=1, strict=True).status == "OPTIMAL"


def drawn(seed):
    """Five or six requests, some of them equal, on hardly more memory than the largest needs."""
    rng = random.Random(seed)
    rows = [
        (rng.randint(1, 3), rng.randint(1, 5), rng.choice((0, 0, 1, 2)) if seed % 3 == 2 else 0)
        for _ in range(5 + seed % 2)
    ]
    rows[1] = rows[0]
    peak = max(prompt + output for prompt, output, _ in rows)
    batch = {"max_batch": 2} if seed % 5 == 4 else {}
    return problem(rows, peak + rng.randint(0, 4), **batch)


@pytest.mark.parametrize("seed", range(20))
def test_search_matches_recursion(seed):
    """With prices of patterns, labels and equal requests the search ends at the optimum."""
    p = drawn(seed)
    q = prepare(p).weighing("total_latency")
    best = least_latency(p)
    made = patterns.memory_pattern(q.states)
    rng = np.random.default_rng(seed)
    rounds = int(q.release.max() + q.length.sum())
    price = np.sort(rng.integers(0, lagrange.SCALE // 500, rounds))[::-1].copy()
    prices = lagrange.Prices(0, np.zeros((1, 3, rounds), np.int64), patterns=((made, price),))
    assert -(-lagrange.dual_value(q, prices, False) // lagrange.SCALE) <= best
    for above in (1, 7):
        search = branch.Search(q, [prices], best + above + branch._shift(q))
        while not search.run(100_000):
            pass
        assert search.state[kernels_exact.UPPER] == best + branch._shift(q) - search.offset
    assert branch.confirmed(q, best, [prices])


def test_a_state_is_dominated_by_less_memory_at_no_more_cost():
    """Equal sets: more memory in no round and no more cost, or it is remembered."""
    count, cost = np.zeros((4, 2), np.int64), np.zeros((4, 3), np.int64)
    profile = np.zeros((4, 3, 2), np.int32)

    def seen(key, value, *now):
        return kernels_exact.dominated(key, value, np.array(now), count, cost, profile)

    assert not seen(1, 10, 3, 1)
    assert seen(1, 10, 3, 1)
    assert seen(1, 11, 4, 1)
    assert not seen(1, 9, 4, 1)
    assert not seen(1, 10, 2, 2)
    assert not seen(2, 12, 9, 9)
    # A set that falls into the same slot takes it.
    assert not seen(5, 12, 9, 9)
    assert not seen(1, 11, 4, 1)


def test_the_rest_is_bounded_by_what_is_left():
    """Two waiting requests behind a running one: room, totals and their own lengths count."""
    length = np.array([2, 3, 4], np.int64)
    start = np.array([0, -1, -1], np.int64)
    totals = np.array([[5, 6, 20]], np.int64)
    used = np.array([[0, 4, 4, 0, 0, 0, 0, 0]], np.int64)
    ends = kernels_exact.rest_ends(
        0, start, length, np.array([0, 1, 2]), totals, np.array([[0, 1, 2]]), np.array([5]), used
    )
    # One unit in rounds 1 and 2, five in each later one: 6 by round 3, 26 by round 7.
    assert ends == 3 + 7
