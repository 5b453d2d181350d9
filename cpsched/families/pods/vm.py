"""VM rescheduling: the class flow solved, laid out on hosts, and put in an executable order."""

from __future__ import annotations

import logging
from collections import defaultdict

import numpy as np

from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.families.pods import flow as flows
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
    plain = flows.solve(flow, run.clock, workers=run.workers, seed=run.seed, plain=True)
    if plain.value is None:
        return
    _offer(flow, run, plain, "class-flow")
    if flow.exact:
        full = flows.solve(flow, run.clock, workers=run.workers, seed=run.seed)
        run.raise_bound(rate_bound(flow, full.bound))
    if run.done() or len(run.objectives) < 2 or run.objectives[1].name != "disruption":
        return
    if run.incumbent is None or run.objectives[1:2] == ():
        return
    reached = fragments_of(flow, run)
    fewest = flows.solve(
        flow,
        run.clock,
        workers=run.workers,
        seed=run.seed,
        goal="moves",
        fragment=reached,
        plain=True,
    )
    if fewest.value is not None:
        _offer(flow, run, fewest, "class-flow:fewest")
    if flow.exact and run.proved(0):
        full = flows.solve(
            flow, run.clock, workers=run.workers, seed=run.seed, goal="moves", fragment=reached
        )
        moves = -((-full.bound) // flows.HALVES)
        run.raise_bound(
            Bound(
                moves * instance.problem.move_weight,
                "class-flow",
                "disruption",
                given=run.incumbent.values[:1],
            )
        )


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
    moves = lay_out(flow, solved)
    actions = in_order(flow.instance, moves)
    run.offer(lambda: schedule_of(flow.instance, actions), source)


def lay_out(flow: flows.Flow, solved: flows.Solved) -> list[tuple[int, Place]]:
    """Which VM goes where: (pod, target) for a solution of the flow.

    Of the VMs of a type in a cell those without anti-affinity go first. A VM whose move would
    break a rule between hosts is left where it is.
    """
    instance = flow.instance
    options = [o for o in flow.options if any(o.delta) and not o.large]
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
        option = options[k]
        for _ in range(copies):
            cell = free_cells[option.group].pop()
            for t, change in enumerate(option.delta):
                if change < 0:
                    pods = sorted(
                        inside[cell, t], key=lambda p: (int(instance.class_of[p]) in tied, p)
                    )
                    leaving[t] += pods[:-change]
                else:
                    arriving[t] += [cell] * change
    out = []
    for t, pods in leaving.items():
        targets = list(arriving[t])
        for p in sorted(pods, key=lambda p: (int(instance.class_of[p]) not in tied, p)):
            # Another host where possible: a VM may change its cell within a host as well.
            other = next((x for x in targets if x[0] != instance.at[p]), targets[0])
            targets.remove(other)
            out.append((p, other))
    return out


def in_order(instance: Instance, moves: list[tuple[int, Place]]) -> list[Action]:
    """Live migrations in an order in which each target has room when it is its turn.

    A cycle is broken through a third cell with room when the migration limit allows; moves that
    stay impossible are left out.
    """
    board = Board(instance)
    waiting = list(moves)
    limit = instance.problem.migration_limit
    spare = (len(instance.at) if limit is None else limit) - len(waiting)
    actions: list[Action] = []
    parked: set[int] = set()
    while waiting:
        done = [move for move in waiting if _move(board, move[0], move[1], actions)]
        waiting = [m for m in waiting if m not in done]
        if done or not waiting:
            continue
        if spare <= 0:
            break
        for p, target in waiting:
            place = (
                None if p in parked else _spare_place(board, p, {m[1] for m in waiting} | {target})
            )
            if place is not None and _move(board, p, place, actions):
                parked.add(p)
                spare -= 1
                break
        else:
            break
    if waiting:
        logger.debug("%d migrations of the flow were not possible in any order", len(waiting))
    return actions


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
