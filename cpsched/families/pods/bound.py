"""Bounds on the pods placed and on the disruption, and their independent recomputation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cpsched.core.run import Run
from cpsched.errors import ProblemError
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.prepare import Instance
from cpsched.families.pods.problem import PodsProblem
from cpsched.result import Bound, Number

#: Minimised objectives that are counts, costs or shares.
NEVER_NEGATIVE = (
    "disruption", "nodes_used", "node_cost", "fragmentation", "fragment_rate", "balance",
)  # fmt: skip


def bounds(instance: Instance, run: Run) -> None:
    """Give the run the bounds that need no search."""
    counts = placeable(instance)
    for tier, priority in enumerate(instance.tiers):
        value = int(sum(counts[: tier + 1]))
        run.raise_bound(Bound(value, "pods-that-fit", f"placed@{priority}"))
    for name in NEVER_NEGATIVE:
        run.raise_bound(Bound(0, "zero", name))


def placeable(instance: Instance) -> list[int]:
    """Per tier the weight of pods that run, or fit some node when it is empty of movable pods.

    A pod whose affinity no pod at all matches, itself included, is never bound.
    """
    room = fixed_room(instance)
    inhabited = np.array([bool(g.members) for g in instance.classes], dtype=bool)
    out = [0] * len(instance.tiers)
    for group in instance.classes:
        fits = instance.allowed[group.index] & np.all(
            room >= instance.requests[group.index], axis=1
        )
        together = instance.together.get(group.index)
        company = together is None or bool((together.matches & inhabited).any())
        possible = bool(fits.any()) and company
        count = len(group.members) if possible else len(group.members) - len(group.pending)
        out[instance.tier_of[group.index]] += group.weight * count
    return out


def fixed_room(instance: Instance) -> Ints:
    """What each node has when only the pods that must stay are on it; never negative."""
    fixed = np.array([g.fixed for g in instance.classes], dtype=bool)
    stays = np.flatnonzero((instance.at >= 0) & fixed[instance.class_of])
    room = instance.capacity.copy()
    np.subtract.at(room, instance.at[stays], instance.requests[instance.class_of[stays]])
    out: Ints = np.maximum(room, 0)
    return out


def recompute(problem: PodsProblem, bound: Bound) -> Number:
    """The value that a bound's argument and data prove, from the problem alone.

    Raises
    ------
    ProblemError
        For an argument that carries no data to recompute it from (a CP-SAT proof).
    """
    from cpsched.core.clock import Clock
    from cpsched.families import family
    from cpsched.families.pods.prepare import prepare

    if bound.argument == "zero":
        return 0
    if problem.reassignment is not None:
        from cpsched.families.pods.reassign import aggregate

        return aggregate(problem.reassignment)
    recomputed = _ARGUMENTS.get(bound.argument)
    if recomputed is None:
        raise ProblemError(
            "a bound can be recomputed only from an argument with data",
            place="argument",
            value=bound.argument,
            remedy="Solve again to have it proved again.",
        )
    return recomputed(prepare(problem, Run(problem, family("pods"), (), Clock(None))), bound)


def _fits(instance: Instance, bound: Bound) -> int:
    priority = int(bound.objective.removeprefix("placed@"))
    counts = placeable(instance)
    return sum(n for n, p in zip(counts, instance.tiers, strict=True) if p >= priority)


def _patterns(instance: Instance, bound: Bound) -> int:
    """The Lagrangian bound of the multipliers, each group's filling bounded anew."""
    from cpsched.families.pods import patterns

    pack = patterns.packing(instance)
    tier = instance.tiers.index(int(bound.objective.removeprefix("placed@")))
    classes = _row(instance, pack.classes, bound.data["multipliers"])
    tiers = np.maximum(0, np.array(bound.data["tiers"], dtype=np.int64))
    fixed = patterns.fixed_weights(instance)
    frozen = [int(v) - f for v, f in zip((bound.given or ())[: len(tiers)], fixed, strict=False)]
    profits = patterns.profits_of(pack, tier, classes, tiers)
    # Without a known filling to start from the proof takes longer than it did.
    nodes = 4 * int(bound.data.get("nodes", 0))
    priced = patterns.price(pack, profits, [0] * len(pack.groups), nodes=nodes, repeats=0)
    return patterns.lagrangian(pack, frozen, classes, tiers, priced) + fixed[tier]


def _volumes(instance: Instance, bound: Bound) -> int:
    from cpsched.families.pods import patterns, volume

    pack = patterns.packing(instance)
    tier = instance.tiers.index(int(bound.objective.removeprefix("placed@")))
    fixed = patterns.fixed_weights(instance)
    frozen = [int(v) - f for v, f in zip(bound.given or (), fixed, strict=False)]
    priced = [[max(0, int(p)) for p in row] for row in bound.data["prices"]]
    tiers = [max(0, int(m)) for m in bound.data["tiers"]]
    return volume.bound(pack, tier, frozen, (priced, tiers)) + fixed[tier]


def _waste(instance: Instance, bound: Bound) -> int:
    """What is left without the lightest pod, when the named pod fits no node tightly."""
    from cpsched.families.pods import patterns, waste

    pack = patterns.packing(instance)
    tier = instance.tiers.index(int(bound.objective.removeprefix("placed@")))
    names = [p.name for p in instance.problem.pods]
    own = int(instance.class_of[names.index(bound.data["pod"])])
    k = int(np.flatnonzero(pack.classes == own)[0])
    everything = int((pack.available * pack.weight)[pack.tier <= tier].sum())
    slack = waste.slack_of(pack, tier)
    tables = None if (slack < 0).any() else waste.tails_of(pack, tier, slack)
    tight = tables is not None and waste.alone(pack, tables, k, 2**62)[0] == 0
    value = waste.bound(pack, tier) if tight else everything
    return value + patterns.fixed_weights(instance)[tier]


def _disruption(instance: Instance, bound: Bound) -> int:
    from cpsched.families.pods import disrupt, patterns

    pack = patterns.packing(instance, distinct=True)
    fixed = patterns.fixed_weights(instance)
    given = [int(v) - f for v, f in zip(bound.given or (), fixed, strict=True)]
    stage = disrupt.Stage(pack, given)
    rows = [
        _row(instance, pack.classes, bound.data[key])
        for key in ("leaving", "moving", "evicting", "available")
    ]
    tiers = np.array(bound.data["tiers"], dtype=np.int64)
    scaled, _ = stage.bound(stage.clamp((rows[0], rows[1], rows[2], rows[3], tiers)))
    return stage.rounded(scaled)


def undisturbed(instance: Instance, values: Sequence[int]) -> int:
    """Least disruption for the placed counts, 0 or the cheapest one there is.

    Without any disruption every running pod stays, so that each newly placed pod fits a node as
    it is now. Counts beyond that cost a move, or an eviction where not all pods are placed.
    """
    free = instance.capacity.copy()
    running = np.flatnonzero(instance.at >= 0)
    np.subtract.at(free, instance.at[running], instance.requests[instance.class_of[running]])
    most = [0] * len(instance.tiers)
    total = 0
    for group in instance.classes:
        need = instance.requests[group.index]
        fits = instance.allowed[group.index] & np.all((free >= need) | (need == 0), axis=1)
        pending = len(group.pending) if bool(fits.any()) else 0
        stays = len(group.members) - len(group.pending)
        most[instance.tier_of[group.index]] += group.weight * (stays + pending)
        total += group.weight * len(group.members)
    if all(v <= m for v, m in zip(values, np.cumsum(most).tolist(), strict=True)):
        return 0
    problem = instance.problem
    everything = values[-1] == total and all(g.weight for g in instance.classes)
    return problem.move_weight if everything else min(problem.move_weight, problem.eviction_weight)


def _undisturbed(instance: Instance, bound: Bound) -> int:
    return undisturbed(instance, [int(v) for v in bound.given or ()])


def _aggregate(instance: Instance, bound: Bound) -> Number:
    from cpsched.families.pods import aggregate, cellpacking

    pack = cellpacking.packing(instance)
    priced = [np.maximum(0, np.array(p, dtype=np.int64)) for p in bound.data["prices"]]
    return aggregate.bound(pack, priced)


def _demand(instance: Instance, bound: Bound) -> Number:
    return sum(p.cells * p.per_cell.get("gpu_milli", 0) for p in instance.problem.pods)


def _cells(instance: Instance, bound: Bound) -> Number:
    from cpsched.families.pods import cellpacking, patterns

    pack = cellpacking.packing(instance)
    classes = _row(instance, pack.classes, bound.data["multipliers"])
    none = np.zeros(0, dtype=np.int64)
    profits = patterns.profits_of(pack, 0, classes, none)
    priced = patterns.price(
        pack, profits, [0] * len(pack.groups), nodes=patterns.DIVE_NODES, repeats=0
    )
    return patterns.lagrangian(pack, [], classes, none, priced)


def _flow(instance: Instance, bound: Bound) -> Number:
    from cpsched.families.pods import vm

    return vm.recompute(instance, instance.problem, bound)


def _row(instance: Instance, classes: Ints, named: Mapping[str, int]) -> Ints:
    """Multipliers by pod name as a row over the classes of a packing."""
    index = {p.name: i for i, p in enumerate(instance.problem.pods)}
    position = {int(c): k for k, c in enumerate(classes)}
    out = np.zeros(len(classes), dtype=np.int64)
    for name, value in named.items():
        out[position[int(instance.class_of[index[name]])]] = max(0, int(value))
    return out


_ARGUMENTS: Mapping[str, Callable[[Instance, Bound], Number]] = {
    "pods-that-fit": _fits,
    "node-volumes": _volumes,
    "node-waste": _waste,
    "node-patterns": _patterns,
    "node-patterns-disruption": _disruption,
    "no-room-as-it-is": _undisturbed,
    "class-flow": _flow,
    "cell-patterns": _cells,
    "demand": _demand,
    "aggregate": _aggregate,
}
