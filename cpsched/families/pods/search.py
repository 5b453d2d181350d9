"""The search: certificates and plans tier by tier, then the disruption, then what time allows."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from cpsched.core import jit
from cpsched.core.run import Run
from cpsched.families.pods import (
    balance,
    bound,
    cellpacking,
    disrupt,
    dive,
    patterns,
    states,
    vm,
    volume,
    warm,
    waste,
)
from cpsched.families.pods.arrays import Ints
from cpsched.families.pods.improve import (
    WHOLE,
    end_of,
    search_neighbourhoods,
    size_of,
    solve_whole,
    stated,
)
from cpsched.families.pods.plan import Stuck, in_order, name_pods, schedule_of
from cpsched.families.pods.prepare import Instance
from cpsched.families.pods.problem import PodsSchedule
from cpsched.result import Bound

logger = logging.getLogger("cpsched")

#: Variables up to which CP-SAT proves the whole model sooner than shaken dives find a pod more.
SMALL = 120
#: In calls of fewer seconds packings are not tried before patterns.
SHORT = 0.3


def search(instance: Instance, run: Run) -> None:
    """Improve and prove until the run is done."""
    if not warm.linear(run.clock):
        return
    jit.ready(run.clock.remaining(), "pods")
    if cellpacking.applies(instance, run):
        cellpacking.search(instance, run)
        return
    if vm.applies(instance, run):
        if warm.ready(run.clock):
            vm.search(instance, run)
        return
    if plain(instance) and run.incumbent is not None:
        place(instance, run)
        least_disruption(instance, run)
    if run.done():
        return
    if states.applies(instance):
        states.search(instance, run)
        if run.done():
            return
    if not stated(instance, run) or not warm.ready(run.clock):
        return
    size = size_of(instance)
    small = size <= WHOLE
    if run.incumbent is None or size <= SMALL or (small and not plain(instance)):
        solve_whole(instance, run, 0.6 * run.clock.remaining())
    search_neighbourhoods(instance, run, 0.6 * run.clock.remaining() if small else math.inf)
    if small:
        solve_whole(instance, run)


def plain(instance: Instance) -> bool:
    """Whether patterns of single nodes decide: no constraint joins nodes or times."""
    return not (
        instance.together
        or instance.spreads
        or instance.gang_minimum
        or instance.problem.quotas
        or instance.problem.required
        or instance.problem.migration_limit is not None
        or instance.cell_resources
        or any(c.domains < instance.nodes for c in instance.conflicts)
    )


# ---------------------------------------------------------------------- placed counts


def placed_levels(instance: Instance, run: Run) -> list[int] | None:
    """Levels of the tiers in the run's objectives when they come first and in order, else None."""
    names = [f"placed@{p}" for p in instance.tiers]
    if [o.name for o in run.objectives[: len(names)]] != names:
        return None
    return list(range(len(names)))


def place(instance: Instance, run: Run) -> None:
    """Certify the placed counts, and look for a plan that reaches them.

    Quick pricing first, for columns to dive with; then exact pricing, for the bound.
    """
    levels = placed_levels(instance, run)
    if levels is None or run.incumbent is None or all(run.proved(k) for k in levels):
        return
    pack = patterns.packing(instance)
    columns = _columns_of(pack, run)
    budget = run.clock.remaining()
    counts = _by_volume(instance, run, pack, levels) if budget > SHORT else []
    if counts and not all(run.proved(k) for k in levels):
        _divide(instance, run, pack, counts, 0.85 * run.clock.remaining())
        if all(run.proved(k) for k in levels):
            return
    for quick, until in ((True, 0.6), (False, 0.4)):
        last = _certify(instance, run, pack, columns, levels, quick, until * budget)
        if last is not None and not all(run.proved(k) for k in levels):
            _reach(instance, run, pack, last, columns, levels, 0.5 * until * budget)
        if run.done() or all(run.proved(k) for k in levels):
            return
    if size_of(instance) <= SMALL and warm.ready(run.clock):
        solve_whole(instance, run, 0.6 * run.clock.remaining())
    _reach_again(instance, run, pack, last, levels, 0.3 * run.clock.remaining())
    if not warm.ready(run.clock):
        return
    # What is left is to place a pod or two more: look closely at a few nodes at a time.
    search_neighbourhoods(
        instance,
        run,
        0.4 * run.clock.remaining(),
        stop_when=lambda: all(run.proved(k) for k in levels),
    )


def _by_volume(
    instance: Instance, run: Run, pack: patterns.Packing, levels: list[int]
) -> list[int]:
    """Bounds of the tiers by volume, each with the ones before at their bounds; the counts."""
    assert run.incumbent is not None
    frozen: list[int] = []
    fixed = patterns.fixed_weights(instance)
    for tier in levels:
        target = int((pack.available * pack.weight)[pack.tier <= tier].sum())
        known = run.bound(tier)
        if known is not None:
            target = min(target, int(known) - fixed[tier])
        found = volume.prices(pack, tier, frozen, run.clock)
        if found is None:
            return []
        value = volume.bound(pack, tier, frozen, found)
        name = f"placed@{instance.tiers[tier]}"
        if value < target:
            target = value
            given = tuple(v + f for v, f in zip(frozen, fixed, strict=False))
            data: dict[str, Any] = {"prices": found[0], "tiers": found[1]}
            run.raise_bound(Bound(value + fixed[tier], "node-volumes", name, data, given or None))
        elif target + fixed[tier] > run.incumbent.values[tier]:
            tight = waste.refute(pack, tier, run.clock, 0.7 * run.clock.remaining())
            if tight is not None:
                target = waste.bound(pack, tier)
                pod = instance.classes[int(pack.classes[tight[0]])].pod.name
                data = {"pod": pod, "fillings": tight[1]}
                run.raise_bound(Bound(target + fixed[tier], "node-waste", name, data))
        frozen.append(target)
    return frozen


def _certify(
    instance: Instance,
    run: Run,
    pack: patterns.Packing,
    columns: list[tuple[int, Ints]],
    levels: list[int],
    quick: bool,
    until: float,
) -> patterns.Certificate | None:
    """Bounds of the tiers in order, each with the ones before at their bounds."""
    assert run.incumbent is not None
    last: patterns.Certificate | None = None
    frozen: list[int] = []
    fixed = patterns.fixed_weights(instance)
    for tier in levels:
        everything = int((pack.available * pack.weight)[pack.tier <= tier].sum()) + fixed[tier]
        known = run.bound(tier)
        target = everything if known is None else min(everything, int(known))
        reached = int(run.incumbent.values[tier])
        if reached < target or tier == levels[-1]:
            last = patterns.generate(
                pack,
                tier,
                [v - f for v, f in zip(frozen, fixed, strict=False)],
                columns,
                run.clock,
                quick=quick,
                until=until,
            )
            columns += [(g, f) for g, f, _ in last.master.columns[-500:]]
            if last.bound is not None and last.bound + fixed[tier] < target:
                target = last.bound + fixed[tier]
                run.raise_bound(pattern_bound(instance, pack, last, frozen))
        frozen.append(target)
    return last


def _columns_of(pack: patterns.Packing, run: Run) -> list[tuple[int, Ints]]:
    """Fillings of the incumbent's nodes as columns of their groups."""
    assert run.incumbent is not None
    counts = dive.counts_of(pack, end_of(pack.instance, run.incumbent.schedule))
    return [(g, counts[n]) for g, group in enumerate(pack.groups) for n in group.members]


def pattern_bound(
    instance: Instance, pack: patterns.Packing, found: patterns.Certificate, frozen: list[int]
) -> Bound:
    """The bound of a certificate, with the multipliers that prove it per representative pod."""
    assert found.bound is not None
    assert found.multipliers is not None
    classes, tiers = found.multipliers
    names = [instance.classes[c].pod.name for c in pack.classes.tolist()]
    data = {
        "nodes": found.nodes,
        "multipliers": {n: int(m) for n, m in zip(names, classes.tolist(), strict=True) if m},
        "tiers": [int(m) for m in tiers.tolist()],
    }
    priority = instance.tiers[found.tier]
    given = tuple(frozen) if frozen else None
    value = found.bound + patterns.fixed_weights(instance)[found.tier]
    return Bound(value, "node-patterns", f"placed@{priority}", data, given)


def _reach(
    instance: Instance,
    run: Run,
    pack: patterns.Packing,
    last: patterns.Certificate,
    columns: list[tuple[int, Ints]],
    levels: list[int],
    until: float,
) -> None:
    """Look for a plan with the certified counts: pairs of nodes divided anew, then a dive."""
    left = run.clock.remaining() - until
    everything = int((pack.available * pack.weight)[pack.tier <= last.tier].sum())
    counts = [*last.master.frozen, everything if last.bound is None else last.bound]
    _divide(instance, run, pack, [min(c, everything) for c in counts], until + 0.6 * left)
    if all(run.proved(k) for k in levels):
        return
    chosen = dive.dive(pack, last.master, run.clock, until)
    if chosen:
        columns += chosen
        offer_counts(instance, run, dive.lay_out(pack, chosen, run), "patterns:dive")


def _divide(
    instance: Instance, run: Run, pack: patterns.Packing, counts: list[int], until: float
) -> None:
    """Place exactly as many pods as the bounds leave possible, where nodes hold several."""
    assert run.incumbent is not None
    if pack.available.sum() < balance.FEWEST * instance.nodes or jit.slowdown("pods") > 1.0:
        return
    wanted = [c // max(1, int(pack.weight[0])) for c in counts]
    fixed = patterns.fixed_weights(instance)[-1]
    left = run.clock.remaining() - until
    # The last pod may be the one that is not possible: the plan without it is worth having.
    for most, stop_at in ((wanted[-1], until + 0.4 * left), (wanted[-1] - 1, until)):
        if most * int(pack.weight[0]) + fixed <= run.incumbent.values[len(counts) - 1]:
            return
        end = end_of(instance, run.incumbent.schedule)
        tried = [*wanted[:-1], most]
        found = balance.pack_all(pack, tried, end, run.clock, stop_at, run.seed)
        if found is not None:
            offer_counts(instance, run, found, "patterns:divide", more=True)
            return


def _reach_again(
    instance: Instance,
    run: Run,
    pack: patterns.Packing,
    last: patterns.Certificate | None,
    levels: list[int],
    until: float,
) -> None:
    """Shaken dives, one after the other, until the certified counts are reached."""
    rng = random.Random(run.seed)
    while last is not None and not all(run.proved(k) for k in levels):
        dive.reset(pack, last.master)
        chosen = dive.dive(pack, last.master, run.clock, until, rng)
        if chosen is None:
            return
        offer_counts(instance, run, dive.lay_out(pack, chosen, run), "patterns:dive", more=True)


def offer_counts(
    instance: Instance,
    run: Run,
    counts: Mapping[tuple[int, int], int],
    source: str,
    *,
    more: bool = False,
) -> bool:
    """Put an end state into an executable order and offer it; with ``more`` only higher counts."""
    total = np.zeros(len(instance.tiers), dtype=np.int64)
    for (c, _), count in counts.items():
        total[instance.tier_of[c]] += instance.classes[c].weight * count
    for group in instance.classes:
        if group.fixed:
            total[instance.tier_of[group.index]] += group.weight * len(group.members)
    levels = placed_levels(instance, run)
    if levels is not None and run.incumbent is not None:
        reached = tuple(int(v) for v in np.cumsum(total))
        known = tuple(int(v) for v in run.incumbent.values[: len(levels)])
        if reached < known or (more and reached == known):
            return False
    try:
        actions = in_order(instance, name_pods(instance, counts))
    except Stuck as reason:
        logger.debug("no order for an end state: %s", reason)
        return False
    return run.offer(lambda: schedule_of(instance, actions), source)


# ---------------------------------------------------------------------- disruption


def least_disruption(instance: Instance, run: Run) -> None:
    """Prove the least disruption for the incumbent's placed counts, and look for it."""
    levels = placed_levels(instance, run)
    if levels is None or run.incumbent is None or run.done():
        return
    level = len(levels)
    if len(run.objectives) <= level or run.objectives[level].name != "disruption":
        return
    pack = patterns.packing(instance, distinct=True)
    while not run.done():
        values = [int(v) for v in run.incumbent.values[:level]]
        least = bound.undisturbed(instance, values)
        run.raise_bound(Bound(least, "no-room-as-it-is", "disruption", given=tuple(values)))
        fixed = patterns.fixed_weights(instance)
        stage = disrupt.Stage(pack, [v - f for v, f in zip(values, fixed, strict=True)])
        counts = dive.counts_of(pack, end_of(instance, run.incumbent.schedule))
        start = [(g, counts[group.members[0]]) for g, group in enumerate(pack.groups)]
        best, multipliers, master = disrupt.generate(
            stage,
            start,
            run.clock,
            reached=int(run.incumbent.values[level]),
            until=0.4 * run.clock.remaining(),
        )
        if multipliers is not None:
            run.raise_bound(disruption_bound(instance, pack, best, multipliers, values))
        if run.done():
            return
        found = disrupt.dive(stage, master, run.clock, 0.5 * run.clock.remaining())
        if found is None or not offer_counts(instance, run, found, "patterns:least-disruption"):
            return


def disruption_bound(
    instance: Instance,
    pack: patterns.Packing,
    value: int,
    multipliers: disrupt.Multipliers,
    values: list[int],
) -> Bound:
    """The Lagrangian bound on the disruption, with its multipliers per representative pod."""
    names = [instance.classes[c].pod.name for c in pack.classes.tolist()]
    rows = {
        key: {n: int(m) for n, m in zip(names, row.tolist(), strict=True) if m}
        for key, row in zip(
            ("leaving", "moving", "evicting", "available"), multipliers, strict=False
        )
    }
    data = {**rows, "tiers": [int(m) for m in multipliers[4].tolist()]}
    return Bound(value, "node-patterns-disruption", "disruption", data, tuple(values))


def repair(instance: Instance, run: Run, schedule: PodsSchedule) -> None:
    """Offer the end state of a schedule in a new order."""
    index = {n.name: i for i, n in enumerate(instance.problem.nodes)}
    pods = {p.name: i for i, p in enumerate(instance.problem.pods)}
    target = {}
    for placement in schedule.placements:
        p = pods.get(placement.pod)
        n = -1 if placement.node is None else index.get(placement.node)
        if p is None or n is None or instance.at[p] == n:
            continue
        if n >= 0 or instance.at[p] >= 0:
            target[p] = n
    try:
        actions = in_order(instance, target)
    except Stuck:
        return
    run.offer(lambda: schedule_of(instance, actions), "repair")
