"""Plans: actions in an executable order, their schedule, names for interchangeable pods."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import TypeAdapter

from cpsched.families.pods.board import Action, Board
from cpsched.families.pods.objectives import tier_counts
from cpsched.families.pods.prepare import Instance
from cpsched.families.pods.problem import Placement, PodsSchedule, Step

_PLACEMENTS = TypeAdapter(list[Placement])


def without_detours(instance: Instance, actions: Sequence[Action]) -> list[Action]:
    """The actions without pending pods that were bound and taken off again.

    Taking such a pair out leaves more room, and fewer neighbours, at every moment between; a
    constraint that needs a neighbour keeps its pair.
    """
    last: dict[int, int] = {}
    drop: set[int] = set()
    needed = bool(instance.together or instance.spreads or instance.budget_credit)
    for position, (kind, p, n, _) in enumerate(actions):
        if kind == "bind":
            last[p] = position
        elif p in last and actions[last[p]][2] == n and not needed:
            drop |= {last.pop(p), position}
    return [a for position, a in enumerate(actions) if position not in drop]


def schedule_of(instance: Instance, actions: Sequence[Action]) -> PodsSchedule:
    """The schedule that the actions make, from the present state on."""
    problem = instance.problem
    node = [n.name for n in problem.nodes]
    at: dict[int, tuple[int, tuple[int, ...]]] = {}
    steps = []
    for kind, p, n, cells in actions:
        name = problem.pods[p].name
        if kind == "move":
            source = at[p][0] if p in at else int(instance.at[p])
            steps.append(Step(action="move", pod=name, source=node[source], to=node[n], numa=cells))
            at[p] = (n, cells)
            continue
        steps.append(
            Step(
                action="bind" if kind == "bind" else "evict",
                pod=name,
                node=node[n],
                numa=cells if kind == "bind" else (),
            )
        )
        at[p] = (n, cells) if kind == "bind" else (-1, ())
    placements = list(present_of(instance))
    for p, (n, cells) in at.items():
        end = node[n] if n >= 0 else None
        placements[p] = Placement.model_construct(pod=problem.pods[p].name, node=end, numa=cells)
    placed = {p.pod for p in placements if p.node is not None}
    return PodsSchedule.model_construct(
        placements=tuple(placements), steps=tuple(steps), counts=tier_counts(problem, placed)
    )


def present_of(instance: Instance) -> list[Placement]:
    """Placements of the present state, made once: all schedules share them."""
    if not instance.present:
        collecting = gc.isenabled()
        # Tens of thousands of objects that stay: looking for cycles meanwhile takes longer.
        gc.disable()
        try:
            instance.present = _PLACEMENTS.validate_python(
                [
                    {"pod": pod.name, "node": pod.node, "numa": pod.cell_indices}
                    for pod in instance.problem.pods
                ]
            )
        finally:
            if collecting:
                gc.enable()
    return instance.present


def name_pods(instance: Instance, counts: Mapping[tuple[int, int], int]) -> dict[int, int]:
    """Pods of each class for a target of counts per (class, node): those that change.

    Pods stay where they can. Of the others, running ones are placed before pending ones when an
    eviction for good weighs at least as much as a move, pending ones first otherwise.
    """
    problem = instance.problem
    moves_first = problem.eviction_weight >= problem.move_weight
    per_class: dict[int, dict[int, int]] = defaultdict(dict)
    for (c, n), count in counts.items():
        if count > 0:
            per_class[c][n] = count
    target: dict[int, int] = {}
    for group in instance.classes:
        if group.fixed:
            continue
        wanted = dict(per_class.get(group.index, {}))
        leaving = []
        for p in group.members:
            n = int(instance.at[p])
            if n < 0:
                continue
            if wanted.get(n, 0) > 0:
                wanted[n] -= 1
            else:
                leaving.append(p)
        free = leaving + group.pending if moves_first else group.pending + leaving
        slots = [n for n, count in sorted(wanted.items()) for _ in range(count)]
        target.update(zip(free, slots, strict=False))
        for p in free[len(slots) :]:
            if instance.at[p] >= 0:
                target[p] = -1
    return target


#: Pods bound elsewhere for a while before an order is given up.
MOST_DETOURS = 50


class Stuck(Exception):
    """No order of the actions was found; the text says what stands in the way."""


def in_order(instance: Instance, target: Mapping[int, int]) -> list[Action]:
    """Evictions and binds that lead to the target in an order in which each is possible.

    Parameters
    ----------
    target
        Node index per pod that changes, -1 for an eviction for good.

    Returns
    -------
    list of Action
        One eviction per leaving pod and one bind per arriving one, the fewest possible for the
        target; more where a budget or the limit of pods on the move asks for a detour.

    Raises
    ------
    Stuck
        When no action is possible before the target is reached.
    """
    _refuse_pointless_losses(instance, target)
    board = Board(instance)
    waiting = {p: n for p, n in target.items() if n >= 0}
    leaving = {p for p in target if instance.at[p] >= 0}
    for_good = {p for p, n in target.items() if n < 0}
    arriving: dict[int, list[int]] = defaultdict(list)
    for p, n in waiting.items():
        arriving[n].append(p)
    for pods in arriving.values():
        pods.sort(key=lambda p: (-instance.classes[instance.class_of[p]].priority, p))
    dirty = set(arriving)
    needs = instance.requests.tolist()
    detours = 0
    while waiting or leaving:
        bound = _bind_possible(board, arriving, dirty, waiting)
        if bound:
            continue
        victim = _next_eviction(board, arriving, leaving, for_good, needs)
        if victim is None:
            detours += 1
            parked = _park(board, waiting) if detours <= MOST_DETOURS else None
            if parked is None:
                raise Stuck(_why(board, waiting, leaving))
            leaving.add(parked)
            dirty |= _linked(instance, arriving)
            continue
        dirty.add(int(board.at[victim]))
        dirty |= _linked(instance, arriving)
        board.evict(victim)
        board.away -= for_good
        leaving.discard(victim)
        if victim in waiting:
            dirty.add(waiting[victim])
    return board.actions


def _refuse_pointless_losses(instance: Instance, target: Mapping[int, int]) -> None:
    """An eviction for good needs a newly placed pod that may preempt the victim."""
    lost = [instance.classes[instance.class_of[p]].priority for p, n in target.items() if n < 0]
    if not lost:
        return
    gained = [
        group.priority
        for p, n in target.items()
        if n >= 0 and instance.at[p] < 0
        for group in (instance.classes[instance.class_of[p]],)
        if group.pod.preemption_policy != "Never"
    ]
    if max(lost) > max(gained, default=-(2**40)):
        raise Stuck("a pod would be evicted for good with no pod that may preempt it placed")


def _park(board: Board, waiting: Mapping[int, int]) -> int | None:
    """Bind an evicted pod somewhere for the time being, so that its budget recovers."""
    for p in sorted(board.away & waiting.keys()):
        mask = board.mask(int(board.instance.class_of[p]))
        # Never where another pod is about to arrive.
        mask[sorted(set(waiting.values()))] = False
        if mask.any():
            board.bind(p, int(np.argmax(mask)))
            return p
    return None


def _linked(instance: Instance, arriving: Mapping[int, list[int]]) -> set[int]:
    """Nodes whose arrivals may be unblocked by a change elsewhere."""
    if not (instance.conflicts or instance.together or instance.spreads or instance.problem.quotas):
        return set()
    return {n for n, pods in arriving.items() if pods}


def _bind_possible(
    board: Board, arriving: dict[int, list[int]], dirty: set[int], waiting: dict[int, int]
) -> bool:
    bound = False
    for n in sorted(dirty):
        for p in list(arriving[n]):
            if board.at[p] < 0 and board.can(int(board.instance.class_of[p]), n):
                board.bind(p, n)
                arriving[n].remove(p)
                del waiting[p]
                bound = True
    dirty.clear()
    if bound:
        dirty |= _linked(board.instance, arriving)
    return bound


def _next_eviction(
    board: Board,
    arriving: dict[int, list[int]],
    leaving: set[int],
    for_good: set[int],
    needs: list[list[int]],
) -> int | None:
    """The eviction that soonest lets a waiting pod in, or None when none is allowed."""
    instance = board.instance
    best: tuple[bool, bool, bool, bool, int] | None = None
    rooms: dict[int, tuple[list[int], list[list[int]]]] = {}
    for p in sorted(leaving):
        if not board.may_evict(p):
            if p not in for_good:
                continue
            # An eviction for good is never on its way to somewhere.
            group = instance.classes[instance.class_of[p]]
            if group.fixed or any(board.credit[b] <= 0 for b in group.budgets):
                continue
        n = int(board.at[p])
        if n not in rooms:
            here = [needs[instance.class_of[v]] for v in arriving[n] if board.at[v] < 0]
            rooms[n] = board.free[n].tolist(), here
        free, here = rooms[n]
        mine = needs[instance.class_of[p]]
        lets_in = any(
            all(f + m >= w for f, m, w in zip(free, mine, need, strict=True)) for need in here
        )
        key = (not lets_in, not here, not arriving[n], p not in for_good, p)
        if best is None or key < best:
            best = key
        if not any(key[:4]):
            break
    return None if best is None else best[-1]


def _why(board: Board, waiting: Mapping[int, int], leaving: set[int]) -> str:
    problem = board.instance.problem
    if leaving:
        pod = problem.pods[min(leaving)]
        return f"pod {pod.name} cannot be evicted: a budget or the limit of pods on the move"
    p, n = min(waiting.items())
    return f"pod {problem.pods[p].name} cannot be bound to {problem.nodes[n].name} last"
