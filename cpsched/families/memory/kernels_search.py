"""The compiled branch-and-bound: offsets of plain blocks within a capacity.

The ideas are those of MiniMalloc (Moffitt, ASPLOS 2023): only left-justified allocations are
looked at, built by placing blocks in order of their offsets; the space that is left in a section
of time bounds what can still come; the rest is split where no open block crosses a moment.
The search is an explicit stack, so that it can be left after some nodes and taken up again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.memory.kernels_cut import chains_fit, rerank, sections_fit
from cpsched.families.memory.kernels_place import (
    AGENDA,
    BEGUN,
    COUNT,
    FRAMES,
    NODES_TOP,
    PLACED,
    POOL_TOP,
    lowest,
    put,
    safe,
    take_back,
)

#: What `branch` returns.
OPEN, SOLVED, EXHAUSTED = 0, 1, 2

# Columns of a frame (choice point).
F_LIST, F_CAND, F_NEXT, F_PLACED, F_AGENDA, F_NODES, F_POOL = range(7)
# Columns of an agenda node (an independent part that is still open).
A_FROM, A_LEN, A_LO, A_HI, A_OFF, A_RANK, A_BASE, A_LINK, A_SLACK = range(9)


@kernel
def branch(
    budget: int,
    capacity: int,
    pinned: bool,
    chained: bool,
    dynamic: bool,
    size: Any,
    modulus: Any,
    residue: Any,
    pin: Any,
    rank: Any,
    twin: Any,
    sec_at: Any,
    sec: Any,
    live_at: Any,
    live: Any,
    near_at: Any,
    near: Any,
    first: Any,
    last: Any,
    off: Any,
    least: Any,
    rest: Any,
    cross: Any,
    placed: Any,
    trail: Any,
    frames: Any,
    agenda: Any,
    pool: Any,
    key: Any,
    witness: Any,
    blocker: Any,
    blame: Any,
    smallest: Any,
    stale: Any,
    place: Any,
    starts: Any,
    sizes: Any,
    state: Any,
) -> int:
    """Search on for at most ``budget`` nodes; OPEN, SOLVED (offsets in ``off``) or EXHAUSTED.

    Parameters
    ----------
    rank
        Static order of the blocks: among equal offsets the lowest rank is placed first.
    twin
        An interchangeable block that must be placed before, or -1.
    sec_at, sec, live_at, live, near_at, near
        Sections of each block, blocks of each section, neighbours of each block, as CSR.
    first, last
        First and last section of each block.
    off, least, rest, cross, placed, trail, frames, agenda, pool, key, witness, blocker, blame,
    state
        The search's memory, made by `bnb.Search`.
    """
    n = len(size)
    sections = len(rest)
    if state[BEGUN] == 0:
        state[BEGUN] = 1
        agenda[0, A_FROM] = 0
        agenda[0, A_LEN] = n
        agenda[0, A_LO] = 0
        agenda[0, A_HI] = sections
        agenda[0, A_OFF] = 0
        agenda[0, A_RANK] = -1
        agenda[0, A_BASE] = 0
        agenda[0, A_LINK] = -1
        for b in range(n):
            pool[b, 0] = b
            pool[b, 1] = rank[b]
        state[AGENDA] = 0
        state[NODES_TOP] = 1
        state[POOL_TOP] = n
    spent = 0
    failed = False
    while True:
        if failed:
            # Back to the last choice point; the part it belongs to decides how far.
            while True:
                f = state[FRAMES] - 1
                if f < 0:
                    return EXHAUSTED
                take_back(
                    frames[f, F_PLACED], size, off, least, rest, cross, sec_at, sec,
                    first, last, placed, trail, state,
                )  # fmt: skip
                state[AGENDA] = frames[f, F_AGENDA]
                state[NODES_TOP] = frames[f, F_NODES]
                state[POOL_TOP] = frames[f, F_POOL]
                a = state[AGENDA]
                chosen = -1
                at = frames[f, F_CAND] + frames[f, F_NEXT]
                if at < frames[f, F_POOL]:
                    chosen = pool[at, 0]
                    frames[f, F_NEXT] += 1
                if chosen < 0:
                    state[FRAMES] = f
                    continue
                break
            spent += 1
            state[COUNT] += 1
            offset = least[chosen]
            if pinned and pin[chosen] >= 0:
                offset = pin[chosen]
            elif pinned:
                offset = lowest(chosen, offset, size, modulus, residue, off, near_at, near, pin)
            fits = put(
                chosen, offset, capacity, size, modulus, residue, off, least, rest, cross, stale,
                sec_at, sec, near_at, near, first, last, placed, trail, state,
            )  # fmt: skip
            if not fits:
                continue
            # The part goes on as a new agenda node that remembers the last placement.
            k = state[NODES_TOP]
            for column in range(9):
                agenda[k, column] = agenda[a, column]
            agenda[k, A_FROM] = frames[f, F_LIST]
            agenda[k, A_LEN] = frames[f, F_CAND] - frames[f, F_LIST]
            agenda[k, A_OFF] = offset
            agenda[k, A_RANK] = pool[at, 1]
            state[AGENDA] = k
            state[NODES_TOP] = k + 1
            failed = False
            if spent >= budget:
                return OPEN

        a = state[AGENDA]
        if a < 0:
            return SOLVED
        low = agenda[a, A_OFF]
        lo = agenda[a, A_LO]
        hi = agenda[a, A_HI]

        # The open blocks of this part.
        start = state[POOL_TOP]
        top = start
        for i in range(agenda[a, A_FROM], agenda[a, A_FROM] + agenda[a, A_LEN]):
            b = pool[i, 0]
            if off[b] < 0:
                pool[top, 0] = b
                pool[top, 1] = pool[i, 1]
                place[b] = pool[i, 1]
                top += 1
        if top == start:
            # Done: its choices are settled, whatever becomes of the other parts.
            link = agenda[a, A_LINK]
            state[AGENDA] = link
            if link >= 0:
                state[FRAMES] = min(state[FRAMES], agenda[link, A_BASE])
            continue

        if not sections_fit(lo, hi, low, capacity, least, off, rest, live_at, live, witness, blame):
            failed = True
            continue

        if chained and not chains_fit(
            lo, hi, low, agenda[a, A_RANK], capacity, size, least, off, rest, stale, live_at,
            live, smallest, place, starts, sizes, blame, pin,
        ):  # fmt: skip
            failed = True
            continue

        # Split where no open block crosses from one section to the next.
        parts = 1
        for c in range(lo, hi - 1):
            if cross[c] == 0:
                parts += 1
        if parts > 1:
            link = agenda[a, A_LINK]
            made = state[NODES_TOP]
            fill = top
            left = lo
            for c in range(lo, hi):
                if c < hi - 1 and cross[c] != 0:
                    continue
                begin = fill
                for i in range(start, top):
                    b = pool[i, 0]
                    if left <= first[b] and last[b] <= c:
                        pool[fill, 0] = b
                        pool[fill, 1] = pool[i, 1]
                        fill += 1
                if fill > begin:
                    if dynamic:
                        rerank(begin, fill, rank, rest, sec_at, sec, pool, key)
                    agenda[made, A_FROM] = begin
                    agenda[made, A_LEN] = fill - begin
                    agenda[made, A_LO] = left
                    agenda[made, A_HI] = c + 1
                    agenda[made, A_OFF] = low
                    agenda[made, A_RANK] = -1 if dynamic else agenda[a, A_RANK]
                    agenda[made, A_BASE] = state[FRAMES]
                    room = capacity
                    for d in range(left, c + 1):
                        if rest[d] > 0 and capacity - rest[d] < room:
                            room = capacity - rest[d]
                    # The tightest part comes last, to be taken first.
                    agenda[made, A_SLACK] = room
                    k = made
                    while k > state[NODES_TOP] and agenda[k - 1, A_SLACK] < agenda[k, A_SLACK]:
                        for column in range(9):
                            swapped = agenda[k, column]
                            agenda[k, column] = agenda[k - 1, column]
                            agenda[k - 1, column] = swapped
                        k -= 1
                    made += 1
                left = c + 1
            for k in range(state[NODES_TOP], made):
                agenda[k, A_LINK] = link
                link = k
            if link != agenda[a, A_LINK]:
                state[AGENDA] = link
                state[NODES_TOP] = made
                state[POOL_TOP] = fill
                if agenda[link, A_LEN] < top - start:
                    continue
                a = link
                lo = agenda[a, A_LO]
                hi = agenda[a, A_HI]
                start = agenda[a, A_FROM]
                top = start + agenda[a, A_LEN]

        # A block that hinders nobody at its least offset stays there, without a choice.
        settled = False
        ceiling = capacity
        for i in range(start, top):
            u = pool[i, 0]
            offset = least[u]
            if pinned:
                if pin[u] >= 0:
                    offset = pin[u]
                    if least[u] > offset:
                        failed = True
                        break
                else:
                    offset = lowest(u, offset, size, modulus, residue, off, near_at, near, pin)
            if offset + size[u] > capacity:
                failed = True
                break
            key[u] = offset
            if safe(u, offset, size, off, least, near_at, near, blocker):
                put(
                    u, offset, capacity, size, modulus, residue, off, least, rest, cross,
                    stale, sec_at, sec, near_at, near, first, last, placed, trail, state,
                )  # fmt: skip
                settled = True
            elif offset + size[u] < ceiling:
                ceiling = offset + size[u]
        if failed:
            continue
        if settled:
            # Look at the part again without the settled blocks.
            k = state[NODES_TOP]
            for column in range(9):
                agenda[k, column] = agenda[a, column]
            agenda[k, A_FROM] = start
            agenda[k, A_LEN] = top - start
            state[AGENDA] = k
            state[NODES_TOP] = k + 1
            state[POOL_TOP] = top
            continue

        # Candidates: the next block in order of offset. Above the lowest possible top of an open
        # block nothing can come, for that block could have moved down.
        fill = top
        for i in range(start, top):
            u = pool[i, 0]
            offset = key[u]
            if offset < low or offset >= ceiling:
                continue
            if offset == low and place[u] <= agenda[a, A_RANK]:
                continue
            if twin[u] >= 0 and off[twin[u]] < 0:
                continue
            fits = True
            for j in range(sec_at[u], sec_at[u + 1]):
                if offset + rest[sec[j]] > capacity:
                    fits = False
                    break
            if not fits:
                continue
            j = fill
            while j > top and (
                key[pool[j - 1, 0]] > offset
                or (key[pool[j - 1, 0]] == offset and pool[j - 1, 1] > place[u])
            ):
                pool[j, 0] = pool[j - 1, 0]
                pool[j, 1] = pool[j - 1, 1]
                j -= 1
            pool[j, 0] = u
            pool[j, 1] = place[u]
            fill += 1
        if fill == top:
            failed = True
            continue
        f = state[FRAMES]
        frames[f, F_LIST] = start
        frames[f, F_CAND] = top
        frames[f, F_NEXT] = 0
        frames[f, F_PLACED] = state[PLACED]
        frames[f, F_AGENDA] = a
        frames[f, F_NODES] = state[NODES_TOP]
        frames[f, F_POOL] = fill
        state[POOL_TOP] = fill
        state[FRAMES] = f + 1
        failed = True


def warm_up() -> None:
    """Call every kernel once with the types used in production."""
    from cpsched.families.memory.bnb import Search, order_by, parts_of

    one = np.array([1], dtype=np.int64)
    zero = np.array([0], dtype=np.int64)
    parts = parts_of(one, one, zero, zero - 1, zero, zero, one)
    Search(parts, 1, order_by(parts, "TWA")).run(1)
