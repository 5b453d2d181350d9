"""What requests use of an instance, round by round: pieces that grow linearly.

Part of the independent checker: written from the definitions, imports neither model nor core.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from cpsched.families.serving.check_static import PrefixTree, prefix_tree
from cpsched.families.serving.problem import Instance, Placed, Request, ServingProblem


class Piece(NamedTuple):
    """A use of a resource in the rounds ``begin < t <= end``: ``base + slope * (t - begin)``."""

    begin: int
    end: int
    base: int
    slope: int


def prefill_rounds(request: Request, instance: Instance) -> int:
    """Rounds of prefill before the first output."""
    chunk = instance.prefill_chunk
    return 0 if chunk is None else -(-request.prompt // chunk)


def length(request: Request, instance: Instance) -> int:
    """Rounds from start to end on that instance."""
    return prefill_rounds(request, instance) + request.output


def bucket_of(request: Request, instance: Instance) -> int:
    """Number of the batching bucket that the prompt falls into."""
    return sum(1 for size in instance.buckets if size < request.prompt)


def transfer_rounds(p: ServingProblem, units: int) -> int:
    """Rounds that so many units of KV take from one instance to another."""
    if p.network is None:
        return 0
    return p.network.latency - (-units // p.network.units_per_round)


def working(one: Placed, rounds: int) -> list[tuple[int, int]]:
    """The stretches ``(a, b]`` in which a prefill of so many rounds works, pauses left out."""
    out = []
    at, left = one.start, rounds
    for a, b in one.pauses:
        if a > at:
            out.append((at, a))
            left -= a - at
        at = b
    if left > 0:
        out.append((at, at + left))
    return out


def is_staged(one: Placed) -> bool:
    """Whether a request runs in another way than in one piece on one instance."""
    return bool(one.pauses) or one.decode is not None


def holding(r: Request, index: int, one: Placed) -> list[tuple[int, int]]:
    """The stretches ``(a, b]`` in which a request holds KV on an instance."""
    spans = {one.instance: (one.start, one.end)}
    if one.decode is not None and one.sent is not None:
        spans = {one.instance: (one.start, one.end - r.output), one.decode: (one.sent, one.end)}
    return [spans[index]] if index in spans else []


def staged_pieces(
    machine: Instance, r: Request, index: int, one: Placed, shared: int = 0
) -> dict[str, list[Piece]]:
    """What a request with pauses or a handover uses on an instance, by rule.

    It prefills on ``machine``. Of its prompt ``shared`` units lie in prefix blocks:
    `shared_pieces` counts those.
    """
    chunk = machine.prefill_chunk or 1
    rounds = prefill_rounds(r, machine)
    memory, batch, tokens = [], [], []
    ready = one.start + rounds + sum(b - a for a, b in one.pauses)
    begin = one.end - r.output
    private = r.prompt - shared
    if index == one.instance:
        done = 0
        for k, (a, b) in enumerate(stretches := working(one, rounds)):
            # Shared blocks are there already: the chunks fill the private part from its beginning.
            growing = min(b - a, max(0, private // chunk - done))
            memory.append(Piece(a, a + growing, done * chunk, chunk))
            memory.append(Piece(a + growing, b, private, 0))
            full = min(b - a, max(0, r.prompt // chunk - done))
            batch.append(Piece(a, b, 1, 0))
            tokens.append(Piece(a, a + full, chunk, 0))
            tokens.append(Piece(a + full, b, r.prompt - (rounds - 1) * chunk, 0))
            done += b - a
            following = stretches[k + 1][0] if k + 1 < len(stretches) else b
            memory.append(Piece(b, following, min(private, done * chunk), 0))
        if one.decode is not None:
            memory.append(Piece(ready, begin, private, 0))
    if index == (one.instance if one.decode is None else one.decode):
        if one.decode is not None and one.sent is not None:
            memory.append(Piece(one.sent, begin, private, 0))
        memory.append(Piece(begin, one.end, private, 1))
        batch.append(Piece(begin, one.end, 1, 0))
        tokens.append(Piece(begin, one.end, 1, 0))
    pieces = {"capacity": memory, "max_batch": batch, "token_budget": tokens}
    return {rule: [q for q in used if q.end > q.begin] for rule, used in pieces.items()}


def memory_pieces(request: Request, instance: Instance, start: int, shared: int) -> list[Piece]:
    """Private KV of a request (its prompt less ``shared`` units of prefix) while it is active."""
    rounds = prefill_rounds(request, instance)
    begin = start + rounds
    pieces = []
    if rounds:
        # Shared blocks are there already: the chunks fill the private part from its beginning.
        chunk = instance.prefill_chunk or 1
        private = request.prompt - shared
        whole = min(rounds, private // chunk)
        pieces.append(Piece(start, start + whole, 0, chunk))
        pieces.append(Piece(start + whole, begin, private, 0))
    pieces.append(Piece(begin, begin + request.output, request.prompt - shared, 1))
    return [p for p in pieces if p.end > p.begin]


def token_pieces(request: Request, instance: Instance, start: int) -> list[Piece]:
    """Units processed per round: the chunks of the prefill, then one per round."""
    rounds = prefill_rounds(request, instance)
    begin = start + rounds
    pieces = [Piece(begin, begin + request.output, 1, 0)]
    if rounds:
        chunk = instance.prefill_chunk or 1
        pieces.append(Piece(start, begin - 1, chunk, 0))
        pieces.append(Piece(begin - 1, begin, request.prompt - (rounds - 1) * chunk, 0))
    return [p for p in pieces if p.end > p.begin]


def used_on(
    p: ServingProblem,
    index: int,
    mine: Sequence[tuple[Request, Placed]],
    tree: PrefixTree | None = None,
) -> dict[str, list[Piece]]:
    """What requests use of an instance, by rule; ``tree`` is the problem's, where it is known."""
    machines = p.machines
    machine = machines[index]
    shared: dict[str, int] = {}
    if any(r.prefix for r, _ in mine):
        tree = tree or prefix_tree(p)
        shared = {r.id: tree.shared(r.id) for r, _ in mine}
    out: dict[str, list[Piece]] = {"capacity": [], "max_batch": [], "token_budget": []}
    for r, one in mine:
        if is_staged(one):
            for rule, used in staged_pieces(
                machines[one.instance], r, index, one, shared.get(r.id, 0)
            ).items():
                out[rule] += used
            continue
        out["capacity"] += memory_pieces(r, machine, one.start, shared.get(r.id, 0))
        if machine.token_budget is not None:
            out["token_budget"] += token_pieces(r, machine, one.start)
        if one.end > one.start:
            out["max_batch"].append(Piece(one.start, one.end, 1, 0))
    if tree is not None and shared:
        users = ((r, *span) for r, one in mine for span in holding(r, index, one))
        out["capacity"] += shared_pieces(tree, users)
    return out


def peaks(pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the stretches between begins and ends, and the use in that (fullest) round."""
    if not pieces:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    table = np.fromiter(chain.from_iterable(pieces), np.int64, 4 * len(pieces))
    begin, end, base, slope = table.reshape(-1, 4).T
    times = np.unique(np.concatenate([begin, end]))
    first, last = np.searchsorted(times, begin), np.searchsorted(times, end)
    constant = np.zeros(len(times) + 1, np.int64)
    rate = np.zeros(len(times) + 1, np.int64)
    for array, weight in ((constant, base - slope * begin), (rate, slope)):
        np.add.at(array, first + 1, weight)
        np.add.at(array, last + 1, -weight)
    use = np.cumsum(constant)[:-1] + np.cumsum(rate)[:-1] * times
    return times, use


def shared_pieces(tree: PrefixTree, users: Iterable[tuple[Request, int, int]]) -> list[Piece]:
    """Prefix blocks on one instance, each held once while any of its users is active."""
    spans: dict[int, list[tuple[int, int]]] = {}
    size, paths = tree
    for request, start, end in users:
        if end > start:
            for node in paths[request.id]:
                spans.setdefault(node, []).append((start, end))
    pieces = []
    for node, intervals in spans.items():
        intervals.sort()
        begin, end = intervals[0]
        for a, b in intervals[1:]:
            if a > end:
                pieces.append(Piece(begin, end, size[node], 0))
                begin, end = a, b
            else:
                end = max(end, b)
        pieces.append(Piece(begin, end, size[node], 0))
    return pieces


def shared_units(p: ServingProblem) -> dict[str, int]:
    """Units of every request's prompt that lie in prefix blocks."""
    tree = prefix_tree(p)
    return {name: tree.shared(name) if path else 0 for name, path in tree.path.items()}
