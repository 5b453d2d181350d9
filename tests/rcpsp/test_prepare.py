"""Preparation: heads and tails, reductions, and proofs of infeasibility that name their reason."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.errors import Infeasible, ProblemError
from cpsched.families import family
from cpsched.families.rcpsp import graph
from cpsched.families.rcpsp.model import incompatible_cliques
from cpsched.families.rcpsp.prepare import prepare
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.result import Objective


def prepared(tasks, **rest):
    """The instance of tasks given as (id, duration) or as dicts."""
    listed = [
        t if isinstance(t, dict) else {"id": t[0], "modes": [{"duration": t[1]}]} for t in tasks
    ]
    problem = RcpspProblem.parse({"tasks": listed, **rest})
    return prepare(problem, Run(problem, family("rcpsp"), (Objective("makespan"),), Clock(None)))


def chain(*names, **lags):
    """Precedences along a path."""
    return [{"before": a, "after": b, **lags} for a, b in pairwise(names)]


def test_heads_and_tails():
    """Longest paths with lags from the start and to the end."""
    found = prepared([("a", 2), ("b", 3), ("c", 4)], precedences=chain("a", "b", "c", min_lag=1))
    assert found.head.tolist() == [0, 3, 7]
    assert found.tail.tolist() == [11, 8, 4]


def test_maximum_lag_pulls_the_head():
    """A maximum lag moves the earliest start of the task before it."""
    lags = [{"before": "a", "after": "b", "max_lag": 1}]
    found = prepared(
        [("a", 2), {"id": "b", "modes": [{"duration": 1}], "release": 9}], precedences=lags
    )
    assert found.head.tolist() == [6, 9]


def test_optional_tasks_push_nobody():
    """The head of a task does not count on an optional one before it."""
    optional = {"id": "a", "modes": [{"duration": 5}], "optional": True}
    found = prepared([optional, ("b", 1)], precedences=chain("a", "b"))
    assert found.head.tolist() == [0, 0]


def test_cycle_is_named():
    """A cycle of precedences is a proof that names its tasks."""
    with pytest.raises(Infeasible, match=r"a.* -> |b.* -> ") as caught:
        prepared([("a", 1), ("b", 1), ("c", 1)], precedences=chain("a", "b", "c", "a"))
    assert caught.value.argument == "precedence-cycle"
    assert "3 after its own start" in str(caught.value)


def test_lags_that_contradict_each_other():
    """A minimum lag above a maximum lag is a positive cycle."""
    lags = [*chain("a", "b", min_lag=3), *chain("a", "b", max_lag=2)]
    with pytest.raises(Infeasible):
        prepared([("a", 1), ("b", 1)], precedences=lags)


def test_a_cycle_of_length_zero_is_fine():
    """Tasks may be tied to each other."""
    tie = [*chain("a", "b", type="start-start", min_lag=1, max_lag=1)]
    assert prepared([("a", 1), ("b", 1)], precedences=tie).head.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("tasks", "rest", "word"),
    [
        (
            [{"id": "a", "modes": [{"duration": 1, "demands": {"R": 3}}]}],
            {"resources": [{"name": "R", "capacity": 2}]},
            "none of its modes",
        ),
        (
            [
                {"id": "a", "modes": [{"duration": 1, "demands": {"N": 2}}]},
                {"id": "b", "modes": [{"duration": 1, "demands": {"N": 2}}]},
            ],
            {"resources": [{"name": "N", "type": "nonrenewable", "capacity": 3}]},
            "consume at least 4",
        ),
        (
            [{"id": "a", "modes": [{"duration": 5}], "release": 2, "deadline": 6}],
            {},
            "cannot start before 2",
        ),
    ],
)
def test_proofs_before_any_search(tasks, rest, word):
    """What no search is needed for is refused with its reason."""
    with pytest.raises(Infeasible, match=word):
        prepared(tasks, **rest)


def test_huge_times_are_refused():
    """Times whose sums exceed 64 bits are a ProblemError, not a crash."""
    tasks = [{"id": str(i), "modes": [{"duration": 10**12}], "weight": 10**12} for i in range(9)]
    with pytest.raises(ProblemError, match="64 bits"):
        prepared(tasks)


def test_unusable_modes_are_masked():
    """A mode that exceeds what the others leave of a budget is not usable."""
    two = [{"duration": 1, "demands": {"N": 3}}, {"duration": 2, "demands": {"N": 1}}]
    found = prepared(
        [{"id": "a", "modes": two}, {"id": "b", "modes": two}],
        resources=[{"name": "N", "type": "nonrenewable", "capacity": 3}],
    )
    assert found.mode_usable.tolist() == [False, True, False, True]


@pytest.mark.parametrize("exact", [True, False])
def test_transitive_edges_are_dropped(exact, monkeypatch):
    """Both reductions keep what the others imply: reachability is unchanged."""
    if not exact:
        monkeypatch.setattr(graph, "EXACT_REDUCTION", 0)
    rng = random.Random(3)
    names = [str(i) for i in range(12)]
    pairs = [(i, j) for i in range(12) for j in range(i + 1, 12) if rng.random() < 0.5]
    found = prepared(
        [(name, 1) for name in names],
        precedences=[{"before": names[i], "after": names[j]} for i, j in pairs],
    )
    kept = [(i, j) for i, j, *_ in found.edges.tolist()]
    assert set(kept) < set(pairs)
    assert _closure(kept) == _closure(pairs)


def _closure(pairs):
    reach = set(pairs)
    for k in range(12):
        for i in range(12):
            for j in range(12):
                if (i, k) in reach and (k, j) in reach:
                    reach.add((i, j))
    return reach


def test_cliques_hold_incompatible_tasks():
    """Tasks that exceed two different capacities pairwise form one clique."""
    demands = [{"R": 2, "S": 1}, {"R": 2, "S": 1}, {"R": 1, "S": 2}, {"R": 0, "S": 0}]
    tasks = [
        {"id": str(i), "modes": [{"duration": 1, "demands": d}]} for i, d in enumerate(demands)
    ]
    capacities = [{"name": "R", "capacity": 2}, {"name": "S", "capacity": 2}]
    assert incompatible_cliques(prepared(tasks, resources=capacities)) == [[0, 1, 2]]


def test_horizon_of_weekdays_is_short():
    """A calendar of ten years does not make the horizon ten years."""
    worker = {"id": "a", "modes": [{"duration": 9, "demands": {"R": 1}}], "pausable": True}
    found = prepared(
        [worker],
        resources=[{"name": "R"}],
        calendar={"start": "2026-03-02", "weekdays": [0, 1, 2, 3, 4]},
    )
    assert 11 <= found.horizon <= 14
