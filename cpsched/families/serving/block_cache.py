"""Which prefix blocks to keep: Bélády's choice, and what it proves."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from cpsched.families.serving.check_cache import (
    cache_blocks,
)
from cpsched.families.serving.problem import ServingProblem, ServingSchedule


def belady(p: ServingProblem, blocks: int) -> tuple[list[tuple[int, int, int]], int]:
    """The largest set of reuses with at most ``blocks`` blocks kept at any time.

    A reuse is an interval from one use of a block to its next; choosing most of them such that at
    most ``blocks`` overlap is solved by dropping, whenever one is too many, the one that ends
    last (Bélády's MIN with bypass; Carlisle and Lloyd for intervals). Of reuses that end together
    the deepest goes first, so that what is kept of a path is always its beginning.

    Returns
    -------
    (block, from, to) of the reuses, by request index, and their number.
    """
    following = next_uses(p)
    kept: list[tuple[int, int, int]] = []
    active: list[tuple[int, int, int, int]] = []
    size = 0
    ending: dict[int, int] = {}
    alive: dict[int, tuple[int, int]] = {}
    for index, r in enumerate(p.requests):
        size -= ending.pop(index, 0)
        for depth, block in enumerate(r.prefix):
            span = alive.pop(block, None)
            if span is not None:
                kept.append((block, *span))
            upcoming = following[index][depth]
            if upcoming < 0:
                continue
            heapq.heappush(active, (-upcoming, -depth, -index, block))
            alive[block] = (index, upcoming)
            ending[upcoming] = ending.get(upcoming, 0) + 1
            size += 1
            while size > blocks:
                end, _, begin, victim = heapq.heappop(active)
                if alive.get(victim) == (-begin, -end):
                    del alive[victim]
                    ending[-end] -= 1
                    size -= 1
    return kept, len(kept)


def next_uses(p: ServingProblem) -> list[list[int]]:
    """Index of the request that uses each prefix block next, -1 for none."""
    last: dict[int, int] = {}
    out: list[list[int]] = []
    for index in range(len(p.requests) - 1, -1, -1):
        prefix = p.requests[index].prefix
        out.append([last.get(block, -1) for block in prefix])
        for block in prefix:
            last[block] = index
    out.reverse()
    return out


def block_pins(reuses: Sequence[tuple[int, int, int]]) -> ServingSchedule:
    """Pins of reuses, those that follow each other joined."""
    spans: dict[int, list[list[int]]] = {}
    for block, begin, end in sorted(reuses, key=lambda x: x[1]):
        mine = spans.setdefault(block, [])
        if mine and mine[-1][1] == begin:
            mine[-1][1] = end
        else:
            mine.append([begin, end])
    pins = [
        {"item": str(block), "from": a, "to": b} for block, mine in spans.items() for a, b in mine
    ]
    return ServingSchedule.model_validate({"pins": pins})


def all_reuses(p: ServingProblem) -> int:
    uses = sum(len(r.prefix) for r in p.requests)
    return uses - len({block for r in p.requests for block in r.prefix})


def block_bound(p: ServingProblem, objective: str, argument: str) -> int:
    """Most reuses, as hit tokens or as what is left to compute."""
    blocks = cache_blocks(p)
    most = all_reuses(p)
    if argument == "belady" and blocks is not None:
        most = belady(p, blocks)[1]
    return tokens_of(p, objective, most)


def tokens_of(p: ServingProblem, objective: str, reuses: int) -> int:
    """Reuses of blocks as hit tokens, or as what is left to compute."""
    tokens = p.prefix_block * p.block_tokens
    uses = sum(len(r.prefix) for r in p.requests)
    return reuses * tokens if objective == "hit_tokens" else (uses - reuses) * tokens
