"""The population search's inner loop as a kernel: crossover, decoding, justification, survival."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.rcpsp.kernels import (
    clear,
    crossover,
    draw,
    excess,
    justify,
    serial,
    serial_modes,
    value,
)


@kernel
def block_crossover(mother: Any, father: Any, low: int, high: int, taken: Any, child: Any) -> None:
    """The father's block ``low .. high`` as it is; all before and after in the mother's order.

    What comes before the block is what comes before it in the father's list, so that the child
    follows the precedences when both parents do.
    """
    n = mother.shape[0]
    for p in range(n):
        taken[father[p]] = p
    k = 0
    for p in range(n):
        if taken[mother[p]] < low:
            child[k] = mother[p]
            k += 1
    for p in range(low, high):
        child[k] = father[p]
        k += 1
    for p in range(n):
        if taken[mother[p]] >= high:
            child[k] = mother[p]
            k += 1


@kernel
def densest(order: Any, start: Any, work: Any, sums: Any, tries: int, rng: Any) -> Any:
    """A block of a list in which much work is done per time: ``low * n + high``."""
    n = order.shape[0]
    sums[0] = 0
    for p in range(n):
        sums[p + 1] = sums[p] + work[order[p]]
    best, best_low, best_high = -1, 0, n
    for _ in range(tries):
        length = max(1, n // 6 + draw(rng, n // 3 + 1))
        low = draw(rng, n - length + 1)
        high = low + length
        time = max(1, start[order[min(high, n - 1)]] - start[order[low]] + 1)
        density = (sums[high] - sums[low]) * 64 // time
        if density > best:
            best, best_low, best_high = density, low, high
    return best_low * (n + 1) + best_high


@kernel
def mutate(net: Any, order: Any, at: int, steps: int) -> None:
    """Move the task at a position to the left, past at most ``steps`` tasks that allow it."""
    j = order[at]
    p = at
    while p > 0 and steps > 0:
        i = order[p - 1]
        for e in range(net.pred_ptr[j], net.pred_ptr[j + 1]):
            if net.pred[e] == i:
                steps = 0
                break
        if steps == 0:
            break
        order[p] = i
        p -= 1
        steps -= 1
    order[p] = j


@kernel
def fit_modes(net: Any, mode: Any, used: Any, rng: Any, tries: int) -> int:
    """Change modes at random while that lowers the excess over the budgets; the excess left."""
    over = excess(net, mode, used)
    n = mode.shape[0]
    kinds = net.budget.shape[0]
    while over > 0 and tries > 0:
        tries -= 1
        j = draw(rng, n)
        count = net.mode_start[j + 1] - net.mode_start[j]
        if count < 2:
            continue
        m = net.mode_start[j] + draw(rng, count)
        if m == mode[j] or not net.usable[m]:
            continue
        after = 0
        for r in range(kinds):
            left = used[r] + net.eat[m, r] - net.eat[mode[j], r] - net.budget[r]
            if left > 0:
                after += left
        if after <= over:
            for r in range(kinds):
                used[r] += net.eat[m, r] - net.eat[mode[j], r]
            mode[j] = m
            over = after
    return over


@kernel
def fitness(net: Any, mode: Any, start: Any, makespan: int) -> int:
    """The objectives as one number: the first, ties by the second and by the makespan."""
    if net.objective.shape[0] == 1 and net.objective[0] == 0:
        return makespan
    total = value(net, net.objective[0], mode, start)
    second = makespan
    if net.objective.shape[0] > 1:
        second = value(net, net.objective[1], mode, start)
    return (total << 24) + min(max(second, 0), (1 << 24) - 1)


@kernel
def evolve(
    net: Any,
    back: Any,
    work: Any,
    lists: Any,
    modes: Any,
    starts: Any,
    worth: Any,
    count: int,
    knobs: Any,
    rng: Any,
    free: Any,
    tally: Any,
    mirrored: Any,
    reach: Any,
    taken: Any,
    sums: Any,
    child: Any,
    mode: Any,
    start: Any,
    used: Any,
) -> int:
    """Make ``count`` children; each may replace a member of the population. Returns the best.

    ``lists``, ``modes``, ``starts`` (P, n) and ``worth`` (P,) are the population. Decoding is
    serial generation followed by justification.
    """
    size, n = lists.shape
    many = net.dur.shape[0] > n
    regular = True
    for k in range(net.objective.shape[0]):
        if net.objective[k] >= 5:
            regular = False
    for _ in range(count):
        a = draw(rng, size)
        b = draw(rng, size)
        for _ in range(knobs[0]):
            c = draw(rng, size)
            if worth[c] < worth[a]:
                a = c
            c = draw(rng, size)
            if worth[c] < worth[b]:
                b = c
        if draw(rng, 100) < knobs[1]:
            both = densest(lists[b], starts[b], work, sums, knobs[2], rng)
            block_crossover(lists[a], lists[b], both // (n + 1), both % (n + 1), taken, child)
            low, high = both // (n + 1), both % (n + 1)
        else:
            low, high = draw(rng, n), draw(rng, n)
            if low > high:
                low, high = high, low
            crossover(lists[a], lists[b], low, high, taken, child)
        if many:
            for p in range(n):
                j = child[p]
                mode[j] = modes[b, j] if low <= p < high else modes[a, j]
        else:
            for j in range(n):
                mode[j] = modes[a, j]
        if draw(rng, 100) < knobs[3]:
            for _ in range(1 + draw(rng, knobs[4])):
                mutate(net, child, draw(rng, n), 1 + draw(rng, n // 4 + 1))
        if many and draw(rng, 100) < knobs[5]:
            for _ in range(1 + draw(rng, knobs[6])):
                j = draw(rng, n)
                m = net.mode_start[j] + draw(rng, net.mode_start[j + 1] - net.mode_start[j])
                if net.usable[m]:
                    mode[j] = m
        if many and fit_modes(net, mode, used, rng, 20 * n) > 0:
            continue
        if many and draw(rng, 100) < knobs[7]:
            makespan = serial_modes(net, child, mode, used, free, start)
        else:
            makespan = serial(net, child, 0, n, mode, reach[:0], free, start)
        clear(net.full, free, makespan)
        first = fitness(net, mode, start, makespan)
        if regular:
            before = makespan
            for _ in range(3):
                makespan = justify(
                    net,
                    back,
                    mode,
                    used,
                    many and net.objective[0] != 6,
                    before,
                    0,
                    free,
                    tally,
                    child,
                    mirrored,
                    reach,
                    start,
                )
                if makespan >= before:
                    break
                before = makespan
        made = fitness(net, mode, start, makespan)
        if not regular and made > first:
            made = first
        # Survival: the child takes the place of the worse parent, or of one drawn, if no worse.
        loser = a if worth[a] >= worth[b] else b
        if draw(rng, 100) < knobs[8]:
            loser = draw(rng, size)
            for _ in range(2):
                c = draw(rng, size)
                if worth[c] > worth[loser]:
                    loser = c
        if made <= worth[loser]:
            same = False
            for c in range(size):
                if worth[c] == made and c != loser:
                    same = True
                    for j in range(n):
                        if starts[c, j] != start[j]:
                            same = False
                            break
                    if same:
                        break
            if not same:
                for j in range(n):
                    lists[loser, j] = child[j]
                    starts[loser, j] = start[j]
                    modes[loser, j] = mode[j]
                worth[loser] = made
    best = 0
    for c in range(size):
        if worth[c] < worth[best]:
            best = c
    return best


def warm_up() -> None:
    """Run every kernel once on a tiny project, so that the compiler caches all of them."""
    from types import SimpleNamespace

    from cpsched.families.rcpsp.arrays import tiny_kit
    from cpsched.families.rcpsp.population import Population

    kit = tiny_kit()
    net = kit.net
    instance = SimpleNamespace(
        n=2, demand=net.need, capacity=net.guard, duration=net.dur, mode_start=net.mode_start
    )
    population = Population(instance, kit, 1, 3)  # type: ignore[arg-type]
    while not population.full:
        population.add_random(np.arange(2), np.arange(2), 1.0)
    population.evolve(3)
