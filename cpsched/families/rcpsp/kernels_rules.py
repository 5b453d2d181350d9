"""Array kernel of shops with rules: annealing over lists that place tasks one behind the other.

Every unit of a resource is a *slot*, free from some time on; a task takes slots when all that it
waits for is over. Setups, with what they hold, transport and batches are met while tasks are
placed, so that every list gives a schedule, and for objectives that never gain from waiting some
list gives an optimal one (with unit capacities).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cpsched.core.jit import kernel
from cpsched.families.rcpsp.kernels import draw

NEVER = 2**60


class Rules(NamedTuple):
    """A shop with its rules as arrays, int64: n tasks, M modes, R resources; -1 for none."""

    pred_ptr: Any  # (n + 1,)
    pred: Any  # (E, 4) task before, type, least lag, 1 with transport by modes
    succ_ptr: Any  # (n + 1,)
    succ: Any  # (E,) task after
    mode_start: Any  # (n + 1,)
    usable: Any  # (M,) bool
    dur: Any  # (M,)
    place: Any  # (M,) row of its machine in the transport times
    travel: Any  # (P, P)
    use_ptr: Any  # (M + 1,)
    use: Any  # (U, 2) resource, units
    slot: Any  # (R + 1,) first slot of each resource
    setup: Any  # (R,) setup rule
    state: Any  # (S, n)
    times: Any  # (S, X, X)
    costs: Any  # (S, X, X)
    help_ptr: Any  # (S + 1,)
    help: Any  # (., 2) resource and units that a setup holds
    batch: Any  # (R,) batching rule
    family: Any  # (B, n)
    release: Any  # (n,)
    deadline: Any  # (n,)
    due: Any  # (n,) NEVER for none
    weight: Any  # (n,)
    early: Any  # (n,) weight of earliness
    mode_cost: Any  # (M,)
    code: Any  # (K,) objectives, see `CODES`
    options: Any  # tasks with several modes


class Room(NamedTuple):
    """Scratch of `anneal`, and its schedules."""

    trial: Any  # (n,) list
    trial_mode: Any  # (n,)
    pos: Any  # (n,)
    start: Any  # (n,)
    end: Any  # (n,)
    free: Any  # (slots,)
    last: Any  # (R,) task placed last
    oven: Any  # (B, 4) the last batch: start, end, units, family
    made: Any  # (K,) objectives of the trial
    value: Any  # (K,) objectives of the list
    best: Any  # (2, n) starts and modes of the best schedule
    best_value: Any  # (K,)


@kernel
def anneal(
    rules: Any, order: Any, mode: Any, room: Any, rng: Any, moves: int, slack: float, level: int
) -> int:
    """Change the list or a mode ``moves`` times; how many changes were kept.

    Keeps what is at most a random part of ``slack`` above the present value of objective
    ``level``, with the objectives before it no worse than those of ``room.best_value``. The first
    try of a fresh ``room`` (``value[0]`` is NEVER) is the list itself.
    """
    n = order.shape[0]
    levels = rules.code.shape[0]
    target = rules.code[level]
    pred_ptr, pred = rules.pred_ptr, rules.pred
    use_ptr, use, slot = rules.use_ptr, rules.use, rules.slot
    trial, trial_mode, pos, start, end = room.trial, room.trial_mode, room.pos, room.start, room.end
    free, last, oven, made = room.free, room.last, room.oven, room.made
    kept = 0
    for k in range(n):
        pos[order[k]] = k
    for _ in range(moves):
        fresh = room.value[0] >= NEVER
        trial[:] = order
        trial_mode[:] = mode
        a = b = 0
        if not fresh:
            choices = rules.options.shape[0]
            i = draw(rng, n)
            if choices > 0 and draw(rng, 2) == 0:
                i = rules.options[draw(rng, choices)]
                first = rules.mode_start[i]
                m = first + draw(rng, rules.mode_start[i + 1] - first)
                if not rules.usable[m]:
                    continue
                trial_mode[i] = m
                if m != mode[i] and draw(rng, 2) == 0:
                    i = -1
            if i >= 0:
                a = pos[i]
                low, high = 0, n - 1
                for e in range(pred_ptr[i], pred_ptr[i + 1]):
                    low = max(low, pos[pred[e, 0]] + 1)
                for e in range(rules.succ_ptr[i], rules.succ_ptr[i + 1]):
                    high = min(high, pos[rules.succ[e]] - 1)
                if draw(rng, 2) == 0:
                    reach = max(3, n // 8)
                    low, high = max(low, a - reach), min(high, a + reach)
                b = a if high < low else low + draw(rng, high - low + 1)
                if a == b and trial_mode[i] == mode[i]:
                    continue
                step = 1 if b > a else -1
                k = a
                while k != b:
                    trial[k] = trial[k + step]
                    k += step
                trial[b] = i
        share = draw(rng, 1024) / 1024.0
        most = NEVER
        if not fresh:
            most = room.value[level] + int(slack * share * share)
        free[:] = 0
        last[:] = -1
        oven[:, :] = -1
        partial = 0
        setup_cost = 0
        good = True
        for x in range(n):
            i = trial[x]
            m = trial_mode[i]
            length = rules.dur[m]
            begin = rules.release[i]
            for e in range(pred_ptr[i], pred_ptr[i + 1]):
                j, kind = pred[e, 0], pred[e, 1]
                at = pred[e, 2]
                if kind == 0 or kind == 2:
                    at += end[j]
                else:
                    at += start[j]
                if kind >= 2:
                    at -= length
                if pred[e, 3] == 1:
                    p, q = rules.place[trial_mode[j]], rules.place[m]
                    if p >= 0 and q >= 0:
                        at += rules.travel[p, q]
                if at > begin:
                    begin = at
            joins = -1
            for y in range(use_ptr[m], use_ptr[m + 1]):
                r, units = use[y, 0], use[y, 1]
                left, right = slot[r], slot[r + 1]
                if rules.batch[r] >= 0:
                    continue
                if right - left == 1:
                    at = free[left]
                    rule = rules.setup[r]
                    if rule >= 0 and last[r] >= 0:
                        from_state, to_state = rules.state[rule, last[r]], rules.state[rule, i]
                        time = rules.times[rule, from_state, to_state]
                        at += time
                        if time > 0:
                            for z in range(rules.help_ptr[rule], rules.help_ptr[rule + 1]):
                                q = rules.help[z, 0]
                                ready = nth(free, slot[q], slot[q + 1], rules.help[z, 1])
                                at = max(at, ready + time)
                else:
                    at = nth(free, left, right, units)
                if at > begin:
                    begin = at
            for y in range(use_ptr[m], use_ptr[m + 1]):
                r, units = use[y, 0], use[y, 1]
                rule = rules.batch[r]
                if rule < 0:
                    continue
                alike = oven[rule, 0] >= begin and oven[rule, 3] == rules.family[rule, i]
                if alike and oven[rule, 2] + units <= slot[r + 1] - slot[r]:
                    joins = rule
                    begin = oven[rule, 0]
                elif oven[rule, 1] > begin:
                    begin = oven[rule, 1]
            finish = begin + length
            if finish > rules.deadline[i]:
                good = False
                break
            start[i], end[i] = begin, finish
            for y in range(use_ptr[m], use_ptr[m + 1]):
                r, units = use[y, 0], use[y, 1]
                left, right = slot[r], slot[r + 1]
                rule = rules.batch[r]
                if rule >= 0:
                    if joins != rule:
                        oven[rule, 0], oven[rule, 1], oven[rule, 2] = begin, finish, 0
                        oven[rule, 3] = rules.family[rule, i]
                    oven[rule, 1] = max(oven[rule, 1], finish)
                    oven[rule, 2] += units
                    continue
                if right - left == 1:
                    rule = rules.setup[r]
                    if rule >= 0 and last[r] >= 0:
                        from_state, to_state = rules.state[rule, last[r]], rules.state[rule, i]
                        setup_cost += rules.costs[rule, from_state, to_state]
                        time = rules.times[rule, from_state, to_state]
                        if time > 0:
                            for z in range(rules.help_ptr[rule], rules.help_ptr[rule + 1]):
                                q = rules.help[z, 0]
                                take(
                                    free,
                                    slot[q],
                                    slot[q + 1],
                                    rules.help[z, 1],
                                    begin - time,
                                    begin,
                                )
                    free[left] = finish
                    last[r] = i
                else:
                    take(free, left, right, units, begin, finish)
            if target == 0:
                partial = max(partial, finish)
            elif target == 3:
                partial += rules.weight[i] * finish
            elif target == 1 and finish > rules.due[i]:
                partial += rules.weight[i] * (finish - rules.due[i])
            if partial > most:
                good = False
                break
        if not good:
            if fresh:
                return -1
            continue
        for k in range(levels):
            made[k] = 0
            if rules.code[k] == 4:
                made[k] = -NEVER
            elif rules.code[k] == 6:
                made[k] = setup_cost
        dated = False
        for i in range(n):
            late = end[i] - rules.due[i]
            dated = dated or rules.due[i] < NEVER
            for k in range(levels):
                code = rules.code[k]
                if code == 0:
                    made[k] = max(made[k], end[i])
                elif code == 3:
                    made[k] += rules.weight[i] * end[i]
                elif code == 7:
                    made[k] += rules.mode_cost[trial_mode[i]]
                elif rules.due[i] < NEVER:
                    if code == 4:
                        made[k] = max(made[k], late)
                    elif code == 2:
                        made[k] += late > 0
                    elif code == 1 and late > 0:
                        made[k] += rules.weight[i] * late
                    elif code == 5:
                        made[k] += rules.weight[i] * late if late > 0 else -rules.early[i] * late
        for k in range(levels):
            if rules.code[k] == 4 and not dated:
                made[k] = 0
        if made[level] > most:
            continue
        for k in range(level):
            if made[k] > room.best_value[k]:
                good = False
        if not good and not fresh:
            continue
        kept += 1
        order[:] = trial
        mode[:] = trial_mode
        room.value[:] = made
        for k in range(min(a, b), max(a, b) + 1):
            pos[order[k]] = k
        better = False
        for k in range(levels):
            if made[k] != room.best_value[k]:
                better = made[k] < room.best_value[k]
                break
        if better:
            room.best_value[:] = made
            room.best[0, :] = start
            room.best[1, :] = mode
    return kept


@kernel
def nth(free: Any, left: int, right: int, units: int) -> int:
    """When that many of the slots are free."""
    if units >= right - left:
        latest = 0
        for k in range(left, right):
            latest = max(latest, free[k])
        return latest if units == right - left else NEVER
    bound = -1
    count = 0
    while count < units:
        least = NEVER
        for k in range(left, right):
            if bound < free[k] < least:
                least = free[k]
        for k in range(left, right):
            if free[k] == least:
                count += 1
        bound = least
    return bound


@kernel
def take(free: Any, left: int, right: int, units: int, begin: int, until: int) -> None:
    """Take the slots that have been free for the shortest time."""
    for _ in range(units):
        chosen = -1
        for k in range(left, right):
            if free[k] <= begin and (chosen < 0 or free[k] > free[chosen]):
                chosen = k
        if chosen >= 0:
            free[chosen] = until


def room_of(rules: Rules) -> Room:
    """Fresh scratch."""
    n, levels = len(rules.release), len(rules.code)
    trial, trial_mode, pos, start, end = np.zeros((5, n), np.int64)
    return Room(
        trial,
        trial_mode,
        pos,
        start,
        end,
        free=np.zeros(int(rules.slot[-1]), np.int64),
        last=np.zeros(len(rules.setup), np.int64),
        oven=np.zeros((max(1, len(rules.family)), 4), np.int64),
        made=np.zeros(levels, np.int64),
        value=np.full(levels, NEVER),
        best=np.zeros((2, n), np.int64),
        best_value=np.full(levels, NEVER),
    )


def warm_up() -> None:
    """Run every kernel once on a tiny shop, so that the compiler caches all of them."""
    none, one = np.zeros(0, np.int64), np.ones(2, np.int64)
    rules = Rules(
        pred_ptr=np.array([0, 0, 1]),
        pred=np.array([[0, 0, 0, 0]]),
        succ_ptr=np.array([0, 1, 1]),
        succ=np.array([1]),
        mode_start=np.arange(3),
        usable=np.ones(2, np.bool_),
        dur=one,
        place=-one,
        travel=np.zeros((1, 1), np.int64),
        use_ptr=np.arange(3),
        use=np.array([[0, 1], [1, 1]]),
        slot=np.array([0, 1, 3]),
        setup=-one,
        state=np.zeros((1, 2), np.int64),
        times=np.zeros((1, 1, 1), np.int64),
        costs=np.zeros((1, 1, 1), np.int64),
        help_ptr=np.zeros(2, np.int64),
        help=np.zeros((0, 2), np.int64),
        batch=-one,
        family=np.zeros((1, 2), np.int64),
        release=0 * one,
        deadline=NEVER * one,
        due=NEVER * one,
        weight=one,
        early=one,
        mode_cost=one,
        code=np.array([0, 3]),
        options=none,
    )
    anneal(rules, np.arange(2), np.arange(2), room_of(rules), np.array([7]), 3, 1.0, 0)
