"""How long the result of an operation lives: the uses that keep it, and the cycles to the last."""

from __future__ import annotations

from collections import defaultdict

from cpsched.families.kernel.problem import Edge, KernelProblem


def last_uses(problem: KernelProblem) -> dict[str, list[tuple[str, Edge, int]]]:
    """For each operation, the uses that keep its result live.

    Each use is (operation, edge, extra distance): the true dependences of the operation,
    and those of the views that rename its result, with the distances on the way to them added up.
    """
    out: dict[str, list[Edge]] = defaultdict(list)
    for edge in problem.edges:
        if edge.kind == "true":
            out[edge.source].append(edge)
    views = {o.id for o in problem.operations if o.view}
    uses: dict[str, list[tuple[str, Edge, int]]] = {}
    for operation in problem.operations:
        found: dict[tuple[str, int, str | None], Edge] = {}
        todo = [(edge, 0) for edge in out[operation.id]]
        seen: set[tuple[str, int]] = set()
        while todo:
            edge, before = todo.pop()
            found[(edge.target, before + edge.distance, edge.buffer)] = edge
            key = (edge.target, before + edge.distance)
            if edge.target in views and key not in seen and edge.target != operation.id:
                seen.add(key)
                if len(seen) <= 10_000:
                    todo += [(e, key[1]) for e in out[edge.target] if e.distance == 0]
        uses[operation.id] = [
            (target, edge, distance - edge.distance)
            for (target, distance, _), edge in found.items()
        ]
    return uses


def lifetimes(
    problem: KernelProblem,
    start: dict[str, int],
    period: int,
    depth: dict[str, int],
    uses: dict[str, list[tuple[str, Edge, int]]] | None = None,
) -> dict[str, int]:
    """Cycles from each operation's issue to the issue of its result's last use, half-open.

    Zero for results without a use.
    """
    alive: dict[str, int] = {}
    for operation, listed in (last_uses(problem) if uses is None else uses).items():
        alive[operation] = 0
        for target, edge, extra in listed:
            distance = extra + edge.distance + (depth[edge.buffer] if edge.buffer else 0)
            span = start[target] + distance * period - start[operation]
            alive[operation] = max(alive[operation], span)
    return alive
