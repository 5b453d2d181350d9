"""Bounds and plans of nearly full clusters: volumes, tight fillings, pods divided anew."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

import cpsched
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families import family
from cpsched.families.pods import balance, disrupt, kernels_balance, patterns, volume, waste
from cpsched.families.pods.bound import recompute
from cpsched.families.pods.prepare import prepare
from cpsched.families.pods.problem import PodsProblem
from cpsched.result import Bound
from tests.pods.clusters import best_by_brute_force, node, pod, problem


def packing(cluster: PodsProblem) -> patterns.Packing:
    return patterns.packing(prepare(cluster, Run(cluster, family("pods"), (), Clock(None))))


def full_cluster(seed: int, nodes: int, each: int) -> PodsProblem:
    """Pods that fill equal nodes to the last millicore, all pending and shuffled."""
    rng = random.Random(seed)
    sizes = []
    for _ in range(nodes):
        cuts = sorted(rng.sample(range(1, 100), each - 1))
        sizes += [b - a for a, b in itertools.pairwise([0, *cuts, 100])]
    rng.shuffle(sizes)
    pods = [pod(f"p{i}", f"{s}m") for i, s in enumerate(sizes)]
    return problem([node(f"n{k}", "100m") for k in range(nodes)], pods)


@pytest.mark.parametrize("seed", range(3))
def test_dividing_places_everything(seed: int) -> None:
    """Pods that fill the nodes exactly are packed, each once."""
    cluster = full_cluster(seed, 3, 5)
    pack = packing(cluster)
    start = np.full(len(cluster.pods), -1, dtype=np.int64)
    found = balance.pack_all(pack, [15], start, Clock(20.0), 0.0, seed)
    assert found is not None
    assert sum(found.values()) == 15


def test_dividing_gives_up_in_time() -> None:
    """A count that is not possible is given up when the time is."""
    cluster = problem([node("a", 3), node("b", 3)], [pod(f"p{k}", 2) for k in range(3)])
    start = np.full(3, -1, dtype=np.int64)
    assert balance.pack_all(packing(cluster), [3], start, Clock(0.1), 0.0, 0) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_best_division_of_two_nodes(seed: int) -> None:
    """The kernel's division has the least overload of all."""
    rng = np.random.default_rng(seed)
    share = rng.random((6, 2))
    total, goal = share.sum(axis=0), np.full(2, 0.45) * share.sum(axis=0)
    side = np.zeros(6, dtype=np.int64)
    best = kernels_balance.divide(np.arange(6), 6, share, total, np.zeros(2), goal, goal, 1e9, side)

    def overload(choice: tuple[int, ...]) -> float:
        first = share[np.array(choice, dtype=bool)].sum(axis=0)
        return float(
            (np.maximum(0, first - goal) ** 2).sum()
            + (np.maximum(0, total - first - goal) ** 2).sum()
        )

    assert best == pytest.approx(min(overload(c) for c in itertools.product((0, 1), repeat=6)))
    assert overload(tuple(side.tolist())) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(12))
def test_tight_fillings_are_found_or_refuted(seed: int) -> None:
    """Whether a node can be filled within the slack agrees with all fillings there are."""
    rng = random.Random(seed)
    cluster = problem(
        [node("a", rng.randint(9, 14), allocatable={"cpu": rng.randint(9, 14), "memory": 40})],
        [
            pod(f"p{k}", rng.randint(1, 5), requests={"cpu": rng.randint(1, 5), "memory": m})
            for k, m in enumerate(rng.sample(range(3, 14), 6))
        ],
    )
    pack = packing(cluster)
    slack = np.array([rng.choice([0, 1, 2]) for _ in range(pack.size.shape[1])], dtype=np.int64)
    tables = waste.tails_of(pack, 0, slack)
    assert tables is not None
    room = pack.groups[0].room
    for k in range(len(pack.classes)):
        some = False
        for held in itertools.product(*(range(a + 1) for a in pack.available.tolist())):
            use = np.array(held) @ pack.size
            some |= held[k] > 0 and bool(((use <= room) & (room - use <= slack)).all())
        found, _ = waste.alone(pack, tables, k, 10**6)
        # Repetitions are not told apart in every case: "may" can be wrong, "none" never.
        assert found >= int(some)


def test_waste_refutes_a_full_cluster() -> None:
    """Three pods of 6 and one of 2 fill two nodes of 10 by volume, but no node tightly."""
    cluster = problem(
        [node("a", 10), node("b", 10)], [*(pod(f"p{k}", 6) for k in range(3)), pod("q", 2)]
    )
    bound = Bound(3, "node-waste", "placed@0", {"pod": "default/p0", "fillings": 1})
    assert recompute(cluster, bound) == 3
    possible = problem(
        [node("a", 10), node("b", 10)], [pod("p", 6), pod("q", 4), pod("r", 7), pod("s", 3)]
    )
    assert recompute(possible, Bound(3, "node-waste", "placed@0", {"pod": "default/p"})) == 4


def test_volumes_bound_what_brute_force_reaches() -> None:
    """The volume bound, with earlier tiers at their values, is never below the best plan."""
    for seed in range(8):
        rng = random.Random(seed)
        cluster = problem(
            [node(f"n{k}", rng.randint(2, 4)) for k in range(2)],
            [pod(f"p{k}", rng.randint(1, 3), priority=rng.choice([0, 5])) for k in range(5)],
        )
        tiers = sorted({p.priority for p in cluster.pods}, reverse=True)
        best = best_by_brute_force(cluster, [f"placed@{t}" for t in tiers])
        pack = packing(cluster)
        frozen: list[int] = []
        for tier, value in enumerate(best):
            priced = volume.prices(pack, tier, frozen, Clock(None))
            assert priced is not None
            assert volume.bound(pack, tier, frozen, priced) >= value
            frozen.append(int(value))


def test_what_runs_beyond_a_node_may_stay() -> None:
    """Bounds count the pods of an over-committed node, all of which may stay."""
    cluster = problem(
        [node("a", 2), node("b", 1)], [*(pod(f"p{k}", node="a") for k in range(3)), pod("q", 2)]
    )
    result = cpsched.solve(cluster, 2.0, workers=1, strict=True)
    assert (result.status, result.objective) == ("OPTIMAL", [4, 2]) or result.objective[0] == 3
    assert result.stop_reason != "contradiction"


class Ticking(Clock):
    """A clock that is over after a number of looks at it."""

    def __init__(self, looks: int) -> None:
        super().__init__(1000.0)
        self.looks = looks

    def remaining(self) -> float:
        """Seconds left, as long as there are looks left."""
        self.looks -= 1
        return 100.0 if self.looks >= 0 else 0.0


@pytest.mark.parametrize("looks", [0, 1, 2, 3, 5, 8, 13, 100])
def test_column_generation_ends_between_two_nodes(looks: int) -> None:
    """Wherever the time ends, what was proved before it stands and nothing else is claimed."""
    sizes = [3, 5, 7, 4, 6, 2]
    running = [pod(f"r{k}", s, node=f"n{k % 3}") for k, s in enumerate(sizes[:3])]
    waiting = [pod(f"w{k}", s) for k, s in enumerate(sizes[3:])]
    cluster = problem([node(f"n{k}", 9) for k in range(3)], [*running, *waiting])
    instance = prepare(cluster, Run(cluster, family("pods"), (), Clock(None)))
    pack = patterns.packing(instance)
    full = patterns.generate(pack, 0, [], [], Clock(None))
    assert full.bound is not None
    part = patterns.generate(pack, 0, [], [], Ticking(looks))
    assert part.bound is None or part.bound >= full.bound
    stage = disrupt.Stage(patterns.packing(instance, distinct=True), [6])
    most, _, _ = disrupt.generate(stage, [], Clock(None), reached=10**6)
    least, multipliers, master = disrupt.generate(stage, [], Ticking(looks), reached=10**6)
    assert 0 <= least <= most
    assert (multipliers is None) == (least == 0)
    found = disrupt.dive(stage, master, Ticking(looks))
    assert found is None or sum(found.values()) <= 6
