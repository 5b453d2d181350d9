"""VM rescheduling: the class flow solved, laid out on hosts, and put in an executable order."""

from __future__ import annotations

import functools
import logging
from collections import defaultdict

import numpy as np

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families.pods import flow as flows
from cpsched.families.pods import vm_pairs
from cpsched.families.pods.board import Action, Board
from cpsched.families.pods.plan import schedule_of
from cpsched.families.pods.prepare import Instance
from cpsched.families.pods.problem import PodsProblem
from cpsched.result import Bound

logger = logging.getLogger("cpsched")

#: A place: node and cell.
Place = tuple[int, int]


def applies(instance: Instance, run: Run) -> bool:
    """Whether the problem is to lower the fragment rate by live migrations."""
    return (
        instance.problem.live_migration
        and bool(run.objectives)
        and run.objectives[0].name == "fragment_rate"
        and "cpu" in instance.cell_resources
        and bool((instance.at >= 0).all())
    )


def search(instance: Instance, run: Run) -> None:
    """Solve the flow, lay it out, prove it; then the same value with the fewest migrations."""
    flow = flows.build(instance, run.clock)
    if not flow.free:
        return
    solved = _solve(flow, run, "class-flow")
    if flow.exact and solved is not None:
        run.raise_bound(rate_bound(flow, solved))
    if not run.done():
        _with_pairs(instance, run)
    second = run.objectives[1].name if len(run.objectives) > 1 else ""
    if run.done() or second != "disruption" or run.incumbent is None:
        return
    reached = fragments_of(flow, run)
    moves = _solve(flow, run, "class-flow:fewest", goal="moves", fragment=reached)
    if flow.exact and moves is not None:
        least = -((-moves) // flows.HALVES) * instance.problem.move_weight
        given = run.incumbent.values[:1]
        run.raise_bound(Bound(least, "class-flow", "disruption", given=given))


def _with_pairs(instance: Instance, run: Run) -> None:
    """Plans in which VMs on several cells migrate first, as many as pay, or half of them."""
    limit = instance.problem.migration_limit
    most = len(instance.at) if limit is None else limit
    moves = vm_pairs.best_moves(instance, most)
    count = len(moves)
    while count and not run.done():
        first = moves[:count]
        rest = vm_pairs.after(instance, first)
        flow = flows.build(rest, run.clock)
        # The bounds of this flow hold for its start only: none of them are given to the run.
        solved = flows.solve(flow, run.clock, workers=run.workers, seed=run.seed, plain=True)
        if solved.value is not None:
            actions = first + in_order(rest, *lay_out(flow, solved))
            run.offer(functools.partial(schedule_of, instance, actions), "class-flow:pairs")
        count //= 2


def _solve(
    flow: flows.Flow, run: Run, source: str, goal: str = "fragment", fragment: int | None = None
) -> int | None:
    """Offer the best plan of small VMs on one cell; a bound for all VMs."""
    bound: int | None = None
    same = bool((flow.options.plain == flow.options.price).all())
    for plain in (True,) if same or not flow.exact else (True, False):
        solved = flows.solve(
            flow,
            run.clock,
            workers=run.workers,
            seed=run.seed,
            goal=goal,
            fragment=fragment,
            plain=plain,
        )
        if not plain or same:
            bound = solved.bound
        if solved.value is not None and (plain or _is_plain(flow, solved)):
            _offer(flow, run, solved, source)
    return bound


def _is_plain(flow: flows.Flow, solved: flows.Solved) -> bool:
    """Whether small VMs on one cell alone carry the solution out, at its price."""
    options = flow.options
    return all(options.plain[k] == options.price[k] for k in solved.copies)


def rate_bound(flow: flows.Flow, fragment: int) -> Bound:
    """The bound on the fragment rate that a bound on the total fragment gives."""
    return Bound(fragment / flow.free, "class-flow", "fragment_rate")


def fragments_of(flow: flows.Flow, run: Run) -> int:
    """Total fragment of the incumbent."""
    assert run.incumbent is not None
    return round(run.incumbent.values[0] * flow.free)


def recompute(instance: Instance, problem: PodsProblem, bound: Bound) -> float:
    """Solve the flow relaxation again."""
    clock = Clock(None)
    flow = flows.build(instance, clock)
    if bound.objective == "fragment_rate":
        return flows.solve(flow, clock, workers=1, seed=0).bound / flow.free
    fragment = round((bound.given or (0,))[0] * flow.free)
    full = flows.solve(flow, clock, workers=1, seed=0, goal="moves", fragment=fragment)
    return -((-full.bound) // flows.HALVES) * problem.move_weight


def _offer(flow: flows.Flow, run: Run, solved: flows.Solved, source: str) -> None:
    actions = in_order(flow.instance, *lay_out(flow, solved))
    run.offer(lambda: schedule_of(flow.instance, actions), source)


def lay_out(
    flow: flows.Flow, solved: flows.Solved
) -> tuple[dict[int, list[int]], dict[int, list[Place]]]:
    """Per type the VMs that leave and the places that take one, for a solution of the flow.

    Of the VMs of a type in a cell those without anti-affinity go first.
    """
    instance = flow.instance
    types = {t: k for k, t in enumerate(flow.types)}
    cpu = instance.cell_resources.index("cpu")
    memory = instance.cell_resources.index("memory") if "memory" in instance.cell_resources else -1
    inside: dict[tuple[Place, int], list[int]] = defaultdict(list)
    for p, n in enumerate(instance.at.tolist()):
        c = int(instance.class_of[p])
        if n >= 0 and instance.cell_count[c] == 1 and not instance.classes[c].fixed:
            need = instance.cell_requests[c]
            t = types.get((int(need[cpu]), int(need[memory]) if memory >= 0 else 0))
            if t is not None:
                inside[(n, instance.cells_at[p][0]), t].append(p)
    tied = {c for k in instance.conflicts for c in np.flatnonzero(k.holders | k.matches).tolist()}
    free_cells = {g: list(c.cells) for g, c in enumerate(flow.classes)}
    leaving: dict[int, list[int]] = defaultdict(list)
    arriving: dict[int, list[Place]] = defaultdict(list)
    for k, copies in sorted(solved.copies.items()):
        changes = flow.options.delta[k].tolist()
        for _ in range(copies):
            cell = free_cells[int(flow.options.group[k])].pop()
            for t, change in enumerate(changes):
                if change < 0:
                    pods = sorted(
                        inside[cell, t], key=lambda p: (int(instance.class_of[p]) in tied, p)
                    )
                    leaving[t] += pods[:-change]
                else:
                    arriving[t] += [cell] * change
    return leaving, arriving


def in_order(
    instance: Instance, leaving: dict[int, list[int]], arriving: dict[int, list[Place]]
) -> list[Action]:
    """Live migrations in an order in which each target has room when it is its turn.

    Any VM of a type may take any place of the type. A cycle is broken through a third cell with
    room when the migration limit allows; moves that stay impossible are left out.
    """
    board = Board(instance)
    actions: list[Action] = []
    limit = instance.problem.migration_limit
    total = sum(len(pods) for pods in leaving.values())
    spare = (len(instance.at) if limit is None else limit) - total
    types = sorted(leaving, key=lambda t: -len(leaving[t]))
    parked: set[int] = set()
    while any(leaving[t] for t in types):
        if any(_one_move(board, leaving[t], arriving[t], actions) for t in types):
            continue
        if spare <= 0 or not _park(board, leaving, arriving, parked, actions):
            waiting = sum(len(pods) for pods in leaving.values())
            logger.debug("%d migrations of the flow were not possible in any order", waiting)
            break
        spare -= 1
    return actions


def _one_move(board: Board, pods: list[int], places: list[Place], actions: list[Action]) -> bool:
    """Carry out one possible migration of a type; VMs from the fullest cells first."""
    if not pods:
        return False
    instance = board.instance
    need = instance.cell_requests[instance.class_of[pods[0]]]

    def fullness(p: int) -> tuple[int, ...]:
        node, cell = int(board.at[p]), board.cells[p][0]
        return (int(board.cell_free[node, cell].sum()), p)

    for place in places:
        if np.any(board.cell_free[place] < need):
            continue
        # A VM may change its cell within a host, but that frees nothing for others there.
        for p in sorted(pods, key=lambda p: (int(board.at[p]) == place[0], fullness(p))):
            if _move(board, p, place, actions):
                pods.remove(p)
                places.remove(place)
                return True
    return False


def _park(
    board: Board,
    leaving: dict[int, list[int]],
    arriving: dict[int, list[Place]],
    parked: set[int],
    actions: list[Action],
) -> bool:
    """Move a waiting VM to a third cell for the time being."""
    avoid = {place for places in arriving.values() for place in places}
    for pods in leaving.values():
        for p in pods:
            place = None if p in parked else _spare_place(board, p, avoid)
            if place is not None and _move(board, p, place, actions):
                parked.add(p)
                return True
    return False


def _move(board: Board, p: int, place: Place, actions: list[Action]) -> bool:
    """Migrate the VM when the target has room while the source still holds it."""
    instance = board.instance
    c = int(instance.class_of[p])
    node, cell = place
    if np.any(board.cell_free[node, cell] < instance.cell_requests[c]):
        return False
    source, cells = int(board.at[p]), board.cells[p]
    board.evict(p)
    mask = board.mask(c)
    if source != node and not (mask[node] and np.all(board.free[node] >= instance.requests[c])):
        board.bind(p, source, cells)
        return False
    board.bind(p, node, (cell,))
    actions.append(("move", p, node, (cell,)))
    return True


def _spare_place(board: Board, p: int, avoid: set[Place]) -> Place | None:
    instance = board.instance
    c = int(instance.class_of[p])
    fits = np.all(board.cell_free >= instance.cell_requests[c], axis=2)
    fits &= board.mask(c)[:, None]
    for node, cell in np.argwhere(fits).tolist():
        if (node, cell) not in avoid and node != board.at[p]:
            return node, cell
    return None
