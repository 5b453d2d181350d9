"""First schedules within milliseconds: priority rules, justification, constructive repair."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpsched.core import jit
from cpsched.families.rcpsp import blocking, tardiness
from cpsched.families.rcpsp.anneal_rules import first_lists
from cpsched.families.rcpsp.arrays import LARGE, Kit, kit_of
from cpsched.families.rcpsp.bound import critical_path
from cpsched.families.rcpsp.construct import first_schedules, near
from cpsched.families.rcpsp.flow import PermutationSearch, permutation_of
from cpsched.families.rcpsp.general import choose_present, general_kit
from cpsched.families.rcpsp.graph import topological_order
from cpsched.families.rcpsp.modes import first_modes
from cpsched.families.rcpsp.schedule import schedule_of
from cpsched.families.rcpsp.shop import dispatch, jobs_of

if TYPE_CHECKING:
    from cpsched.core.run import Run
    from cpsched.families.rcpsp.prepare import Instance
    from cpsched.families.rcpsp.problem import RcpspSchedule

IntArray = NDArray[np.int64]

#: Up to this many tasks `construct` is worth its time where lists have given a schedule.
CONSTRUCTED = 300


def greedy(instance: Instance, run: Run) -> None:
    """Offer a schedule as soon as there is one, then better ones while they cost little."""
    if instance.n == 0:
        return
    compiled = jit.ready(run.clock.remaining())
    jobs = jobs_of(instance)
    if jobs is not None:
        dispatch(instance, jobs, run)
        if [o.name for o in run.objectives] == ["makespan"] or run.done():
            return
    single = tardiness.single_of(instance)
    if single is not None and tardiness.only_tardiness(run):
        tardiness.dispatch(instance, single, run)
        return
    blocked = blocking.blocking_of(instance)
    if blocked is not None:
        blocking.construct(instance, blocked, run)
        return
    kit = kit_of(instance)
    if kit is None:
        _general(instance, run)
        return
    mode = first_modes(instance, run)
    if instance.n > 200 and not compiled:
        # Interpreted kernels may not come to an end on a large project: something first.
        step = instance.duration[mode] + int(instance.edges[:, 3].max(initial=0))
        alone = np.zeros(instance.n, np.int64)
        alone[kit.net.topo[1:]] = np.cumsum(step[kit.net.topo])[:-1]
        run.offer(lambda: schedule_of(instance, alone.tolist(), mode.tolist()), "greedy:sequence")
    start = kit.by_rank(priority(instance, "lft"), mode, run.clock.expired)
    if start is None:
        return
    run.offer(lambda: schedule_of(instance, start.tolist(), mode.tolist()), "greedy:parallel-sgs")
    if any(o.name == "makespan" for o in run.objectives):
        run.raise_bound(critical_path(instance))
    if run.done():
        return
    improve(instance, kit, run, start, mode, "greedy:justification")
    for rule in ("lst", "resources") if instance.n <= LARGE else ():
        rank = priority(instance, rule)
        for scheme in ("parallel", "serial"):
            if run.done() or run.clock.used() > 0.2 * run.clock.limit:
                return
            if scheme == "parallel":
                found = kit.by_rank(rank, mode, run.clock.expired)
                if found is None:
                    return
            else:
                found = kit.serial(kit.list_by(rank), mode)
            improve(instance, kit, run, found, mode, f"greedy:{scheme}-sgs")


def _general(instance: Instance, run: Run) -> None:
    """Schedules under all rules: priority rules first, then random lists until one works."""
    if any(not tank.holds(tank.initial) for tank in instance.reservoirs):
        return  # events at time 0 must come first: left to CP-SAT
    if not instance.by_lists:
        compiled = jit.ready(run.clock.remaining())
        flow = permutation_of(instance)
        if flow is not None and (compiled or instance.n <= CONSTRUCTED):
            PermutationSearch(instance, flow, run.seed).offer(run, "greedy:neh")
        elif compiled:
            first_lists(instance, run)
        if run.incumbent is None or instance.n <= CONSTRUCTED:
            first_schedules(instance, run)
        if run.incumbent is None:
            _one_by_one(instance, run)
        return
    kit = general_kit(instance)
    rng = random.Random(run.seed)
    rules = ["lst", "lft", "stock"]
    compiled = jit.ready(run.clock.remaining())
    limit = run.clock.used() + min(0.7, 0.25 * run.clock.limit)
    tries = 0
    while not run.clock.expired():
        tries += 1
        run.clock.spend(2e-6 * instance.n * (1 if compiled else 50))
        present = choose_present(instance, rng)
        if present is None:
            if tries > 20:
                return
            continue
        mode = first_modes(instance, run, present)
        rule = rules[tries - 1] if tries <= len(rules) else rng.choice(rules)
        rank = priority(instance, rule)
        if tries > len(rules):
            spread = 0.05 * tries * instance.n
            key = rank + np.array([rng.uniform(0, spread) for _ in range(instance.n)])
            rank = np.argsort(np.argsort(key))
        latest = 2 * instance.horizon
        made = kit.construct(rank, mode, present, rng, run.clock.expired, latest)
        if made is not None:
            start = made.start.tolist()
            chosen = np.where(present, mode, -1).tolist()
            run.offer(
                lambda: schedule_of(instance, start, chosen),  # noqa: B023
                f"greedy:{rule}",
            )
        elapsed = run.clock.used()
        # A small problem that resists is decided faster by CP-SAT.
        enough = tries >= len(rules) and (run.incumbent is not None or tries >= instance.n)
        if enough or elapsed > limit:
            return


def _one_by_one(instance: Instance, run: Run) -> None:
    """Chains of tasks that block until the next, one after the other, with the longest setup."""
    mode = first_modes(instance, run)
    length = instance.duration[mode].tolist()
    order = np.argsort(instance.head, kind="stable").tolist()
    chain = list(range(instance.n))

    def root(i: int) -> int:
        while chain[i] != i:
            chain[i] = chain[chain[i]]
            i = chain[i]
        return i

    for i, j in enumerate(instance.blocks_until.tolist()):
        if j >= 0:
            chain[root(i)] = root(j)
    members: dict[int, list[int]] = {}
    for i in order:
        members.setdefault(root(i), []).append(i)
    before: list[list[tuple[int, int]]] = [[] for _ in range(instance.n)]
    for i, j, kind, least, _ in instance.edges.tolist():
        if kind == 0 and least > -(2**59):
            before[j].append((i, least))
    for leg in instance.shop.legs:
        farthest = int(instance.shop.transport_times.max(initial=0))
        before[leg.after].append((leg.before, leg.lag + farthest))
    arcs = [(root(i), root(j), 0) for j in order for i, _ in before[j] if root(i) != root(j)]
    ranks = topological_order(instance.n, arcs)
    if ranks is None:
        return
    start = [0] * instance.n
    base = 0
    setup = max((int(rule.times.max(initial=0)) for rule in instance.setups), default=0)
    for group in (members[k] for k in ranks if k in members):
        for i in group:
            earliest = [start[p] + length[p] + lag for p, lag in before[i]]
            start[i] = max([base, int(instance.release[i]), *earliest])
        base = max(base, *(start[i] + length[i] for i in group)) + setup
    made = schedule_of(instance, start, mode.tolist())
    if not run.family.check(run.problem, made):
        run.offer(made, "greedy:one-by-one")


def priority(instance: Instance, rule: str) -> IntArray:
    """Rank of each task, (n,), smallest first: a permutation.

    ``lst``, ``lft``: latest start or finish first; ``resources``: latest finish, weighed with the
    share of the capacities that a task takes; ``stock``: with what it adds to reservoirs.
    """
    shortest = instance.duration[instance.mode_start[:-1]]
    if rule == "lst":
        key = -instance.tail.astype(float)
    else:
        key = (shortest - instance.tail).astype(float)
    if rule == "stock":
        # Tasks that add to scarce reservoirs come first.
        gain = np.zeros(instance.n)
        for tank in instance.reservoirs:
            np.add.at(gain, tank.events[:, 0], tank.events[:, 1] / (1.0 + abs(tank.initial)))
        spread = float(np.ptp(gain)) or 1.0
        key -= gain * (float(np.ptp(key)) / spread)
    if rule == "resources":
        load = (instance.demand / np.maximum(1, instance.capacity)).max(axis=1, initial=0.0)
        per_task = load[instance.mode_start[:-1]] * shortest
        key -= 2.0 * per_task
    rank = np.empty(instance.n, np.int64)
    rank[np.lexsort((instance.head, key))] = np.arange(instance.n)
    return rank


def improve(
    instance: Instance, kit: Kit, run: Run, start: IntArray, mode: IntArray, source: str
) -> None:
    """Justify a schedule until that no longer helps, and offer the result."""
    run.clock.spend(1e-6 * kit.n)
    if kit.n > LARGE and not jit.ready(run.clock.remaining()):
        return
    start, mode = kit.improve(start, mode, run.clock.expired)
    run.offer(lambda: schedule_of(instance, start.tolist(), mode.tolist()), source)


def repair(instance: Instance, run: Run, schedule: RcpspSchedule) -> None:
    """Offer schedules near a partial or invalid one: its order and modes, made feasible."""
    kit = kit_of(instance)
    index = {name: i for i, name in enumerate(instance.ids)}
    key = np.where(instance.head < 2**59, instance.head, 0).astype(float)
    wanted = {index[one.task]: one for one in schedule.tasks if one.task in index}
    present = ~instance.optional
    if kit is None:
        rng = random.Random(run.seed)
        present = np.array([i in wanted and bool(instance.modes(i)) for i in range(instance.n)])
        present |= ~instance.optional
        if not _selected(instance, present):
            chosen = choose_present(instance, rng)
            if chosen is None:
                return
            present = chosen
    mode = first_modes(instance, run, present)
    plain = mode.copy()
    for i, one in wanted.items():
        key[i] = one.start
        if 0 <= one.mode < instance.mode_start[i + 1] - instance.mode_start[i]:
            m = instance.mode_start[i] + one.mode
            mode[i] = m if instance.mode_usable[m] else mode[i]
    if (instance.consumption[mode[present]].sum(axis=0) > instance.budget).any():
        mode = plain
    rank = np.empty(instance.n, np.int64)
    rank[np.lexsort((instance.head, key))] = np.arange(instance.n)
    if kit is not None:
        start = kit.serial(kit.list_by(rank), mode)
        made = schedule_of(instance, start.tolist(), mode.tolist())
        run.offer(made, "repair")
        improve(instance, kit, run, start, mode, "repair")
    elif not instance.by_lists:
        near(instance, run, key.tolist(), mode, present)
    elif all(tank.holds(tank.initial) for tank in instance.reservoirs):
        placed = general_kit(instance).construct(
            rank, mode, present, rng, run.clock.expired, 2 * instance.horizon
        )
        if placed is not None:
            modes = np.where(present, mode, -1).tolist()
            run.offer(schedule_of(instance, placed.start.tolist(), modes), "repair")


def _selected(instance: Instance, present: NDArray[np.bool_]) -> bool:
    """Whether the present tasks meet all selections."""
    for s in instance.selections:
        if s.condition >= 0 and not present[s.condition]:
            continue
        count, total = sum(bool(present[i]) for i in s.tasks), len(s.tasks)
        holds = {
            "exactly_one": count == 1,
            "at_least_one": count >= 1,
            "all_or_none": count in (0, total),
            "implication": not present[s.tasks[0]] or count == total,
        }[s.type]
        if not holds:
            return False
    return True
