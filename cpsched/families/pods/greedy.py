"""A first plan within milliseconds: best fit, then room made on one node after the other.

Every action is possible when it is taken, so the actions in their order are the plan's steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cpsched.core.run import Run
from cpsched.errors import OutOfTime
from cpsched.families.pods.board import Board
from cpsched.families.pods.check import check
from cpsched.families.pods.plan import schedule_of, without_detours
from cpsched.families.pods.prepare import Instance

#: Pods from which on the state as it is is not offered first.
LARGE = 20_000
#: Building and checking a plan of a large cluster: seconds per pod on an idle machine, and how
#: many times as long as preparing the instance.
CHECK_SECONDS = 1.5e-5
CHECKS = 2.0
#: Nodes tried for one pending pod when room must be made.
CANDIDATES = 12


def greedy(instance: Instance, run: Run) -> None:
    """Offer the state as it is, then best fit, then best fit with room made."""
    problem = instance.problem
    # On a large cluster checking a plan takes a second: the first one should do something.
    if not problem.drain and not problem.required and len(problem.pods) <= LARGE:
        run.offer(lambda: schedule_of(instance, []), "greedy:stay")
    for room in (False, True):
        blocked: set[int] = set()
        while True:
            run.clock.check()
            board = Board(instance)
            drain_nodes(board)
            place_pending(board, run, blocked)
            if room:
                mark = len(board.actions)
                make_room(board, run, blocked)
                if len(board.actions) == mark:
                    return
            broken = broken_gangs(board) - blocked
            if not broken:
                _offer(board, run, "greedy:make-room" if room else "greedy:best-fit")
                break
            blocked |= broken
        if not (board.at < 0).any():
            return


def _offer(board: Board, run: Run, source: str) -> None:
    instance = board.instance
    if len(instance.at) > LARGE and run.clock.remaining() < _check_seconds(instance, run):
        raise OutOfTime("a plan of a large cluster could not be checked in time")
    if board.undone():
        return  # possible step by step, but a later step took what an earlier one asked for
    actions = without_detours(instance, board.actions)
    schedule = schedule_of(instance, actions)
    problem = instance.problem
    # These are properties of the end, not of single actions.
    at_the_end = bool(instance.gang_minimum or problem.drain or problem.required)
    if (problem.migration_limit is None and not at_the_end) or not check(problem, schedule):
        run.offer(schedule, source)


def _check_seconds(instance: Instance, run: Run) -> float:
    """Estimated seconds of building and checking a plan, on a machine as busy as it was so far."""
    seconds = CHECK_SECONDS * len(instance.at)
    return seconds if run.deterministic else max(seconds, CHECKS * instance.seconds)


def drain_nodes(board: Board) -> None:
    """Empty the nodes to drain, each pod bound again as soon as it is off."""
    names = {n.name: k for k, n in enumerate(board.instance.problem.nodes)}
    for name in board.instance.problem.drain:
        # Pods whose budget allows nothing now may be allowed once others are bound again.
        for _ in range(3):
            for p in sorted(board.guests[names[name]]):
                if board.may_evict(p):
                    board.evict(p)
                    n = board.best_node(int(board.instance.class_of[p]))
                    if n >= 0:
                        board.bind(p, n)


def order_of(instance: Instance, pods: Iterable[int]) -> list[int]:
    """Pods by descending priority, then gang, then descending dominant request."""
    limits = np.maximum(instance.capacity.max(axis=0, initial=1), 1)
    size = (instance.requests[:, 1:] / limits[1:]).max(axis=1, initial=0.0)
    if instance.cell_requests.size:
        cells = np.maximum(instance.cell_capacity.max(axis=(0, 1), initial=1), 1)
        size = size + (instance.cell_requests / cells).max(axis=1, initial=0.0) * np.maximum(
            1, instance.cell_count
        )

    cells_first = instance.problem.objectives[:1] == ("gpu_milli",)

    def key(p: int) -> tuple[int, int, int, float, int, int]:
        c = int(instance.class_of[p])
        group = instance.classes[c]
        bare = int(cells_first and not instance.cell_count[c])
        return (bare, -group.priority, group.gang, -float(size[c]), c, p)

    return sorted(pods, key=key)


def place_pending(board: Board, run: Run, blocked: set[int]) -> None:
    """Bind every pod that is nowhere and fits somewhere, blocked gangs left out."""
    hopeless: set[int] = set()
    again: list[int] = []
    for p in order_of(board.instance, np.flatnonzero(board.at < 0).tolist()):
        c = int(board.instance.class_of[p])
        if _is_blocked(board.instance, c, blocked):
            continue
        if c in hopeless:
            again.append(p)
            continue
        n = board.best_node(c)
        if n < 0:
            again.append(p)
            if c not in board.instance.together:
                hopeless.add(c)
            continue
        board.bind(p, n)
        run.clock.spend(1e-5 * len(board.free))
        if run.clock.expired():
            return
    # Affinity may be satisfied by pods that came later.
    for p in again:
        c = int(board.instance.class_of[p])
        if c in board.instance.together or c in board.instance.spreads:
            n = board.best_node(c)
            if n >= 0:
                board.bind(p, n)


def _is_blocked(instance: Instance, c: int, blocked: set[int]) -> bool:
    """Whether no more pods of the class may be placed: its gang was not complete."""
    group = instance.classes[c]
    return group.gang >= 0 and group.gang in blocked


def make_room(board: Board, run: Run, blocked: set[int]) -> None:
    """Place pending pods by moving, or preempting, the pods of one node each."""
    instance = board.instance
    hopeless: set[int] = set()
    queue = order_of(instance, np.flatnonzero(board.at < 0).tolist())
    position = 0
    while position < len(queue):
        p = queue[position]
        position += 1
        c = int(instance.class_of[p])
        if c in hopeless or board.at[p] >= 0 or _is_blocked(instance, c, blocked):
            continue
        run.clock.spend(2e-5 * len(board.free))
        if run.clock.remaining() < 0.5 * run.clock.limit or run.clock.cancelled:
            return
        n = board.best_node(c)
        if n >= 0:
            board.bind(p, n)
            continue
        victims = _make_room_for(board, p, c, run)
        if victims is None:
            hopeless.add(c)
        else:
            hopeless.clear()
            queue[position:position] = [v for v in victims if v not in queue[position:]]


def _make_room_for(board: Board, p: int, c: int, run: Run) -> list[int] | None:
    """Bind the pod where the fewest others must leave; the pods that lost their place."""
    instance = board.instance
    group = instance.classes[c]
    need = instance.requests[c]
    allowed = np.flatnonzero(instance.allowed[c] & np.all(instance.capacity >= need, axis=1))
    if not len(allowed):
        return None
    short = np.maximum(0, need - board.free[allowed]) / np.maximum(instance.capacity[allowed], 1)
    candidates = allowed[np.argsort(short.sum(axis=1), kind="stable")[:CANDIDATES]]
    preempts = group.pod.preemption_policy != "Never"
    for n in candidates.tolist():
        if run.clock.expired():
            return None
        mark = len(board.actions)
        lost = _clear(board, p, c, n, preempts)
        if lost is not None:
            return lost
        board.undo(mark)
    return None


def _clear(board: Board, p: int, c: int, n: int, preempts: bool) -> list[int] | None:
    """Evict pods of the node until the pod fits; those of its priority and above must move."""
    instance = board.instance
    need = instance.requests[c]
    priority = instance.classes[c].priority
    evicted: list[int] = []
    guests = [v for v in board.guests[n] if board.may_evict(v)]

    def cover(v: int) -> tuple[float, int]:
        gain = instance.requests[instance.class_of[v]]
        missing = np.maximum(0, need - board.free[n])
        covered = np.minimum(gain, missing) / np.maximum(1, instance.capacity[n])
        waste = gain / np.maximum(1, instance.capacity[n])
        return (-float(covered.sum() / (0.01 + waste.sum())), v)

    while not board.can(c, n):
        guests = [v for v in guests if board.at[v] == n and board.may_evict(v)]
        if not guests or len(evicted) >= 6:
            return None
        victim = min(guests, key=cover)
        guests.remove(victim)
        board.evict(victim)
        evicted.append(victim)
    board.bind(p, n)
    lost = []
    for v in order_of(instance, evicted):
        k = int(instance.class_of[v])
        target = board.best_node(k)
        if target >= 0:
            board.bind(v, target)
        elif preempts and instance.classes[k].priority < priority:
            lost.append(v)
        else:
            return None
    return lost


def broken_gangs(board: Board) -> set[int]:
    """Gangs that the board changed and left with too few pods."""
    instance = board.instance
    if not instance.gang_minimum:
        return set()
    placed = [0] * len(instance.gang_minimum)
    before = [0] * len(instance.gang_minimum)
    for p, c in enumerate(instance.class_of.tolist()):
        gang = instance.classes[c].gang
        if gang >= 0:
            placed[gang] += board.at[p] >= 0
            before[gang] += instance.at[p] >= 0
    return {
        g
        for g, minimum in enumerate(instance.gang_minimum)
        if placed[g] not in (0, before[g]) and placed[g] < minimum
    }
