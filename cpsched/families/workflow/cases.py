"""Proofs by cases: a few tasks are put on each of their machines, each case is shaved and solved.

Asked for schedules within a makespan that hardly leaves room, shaving strikes out most machines of
the early tasks, and what is left of the model is small. So the question is asked for a makespan
between the bound and the best schedule: no raises the bound, a schedule is better than the best.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cpsched.core import engine
from cpsched.core.run import Run
from cpsched.families.workflow import greedy, levels, local, model, model_redundant
from cpsched.families.workflow.extract import plan_of
from cpsched.families.workflow.heads import heads_and_tails
from cpsched.families.workflow.prepare import Instance, Ints
from cpsched.families.workflow.shave import Prover, Shaved, fixed, machines_left, shave
from cpsched.result import Bound

#: Tasks that are looked at for the next case distinction.
CANDIDATES = 12
#: With so few ticks between bound and schedule what shaving does not refute is left alone.
FEW = 12
#: Cases are given a part of so many seconds at most.
MOST_SECONDS = 100.0


def close_gap(
    inst: Instance,
    run: Run,
    annealer: local.Annealer,
    background: local.Background | None,
    seconds: float = MOST_SECONDS,
) -> None:
    """Ask for better and better schedules until there is none, or the time for it is over."""
    clock = run.clock
    begun, seconds = clock.used(), min(clock.remaining(), seconds)
    # The last makespan that shaving alone did not refute, and what is left for it.
    asked, left = 0, inst.dur
    hard = False
    step = 0.25
    while not run.done():
        best, bound = _best(inst, run), local.target(inst, run)
        gap = best - bound
        # Many ticks in between are closed sooner by the model of the whole problem.
        end = begun + (0.9 if gap <= FEW else 0.4) * seconds
        if clock.used() >= end:
            return
        if annealer.is_close(bound) or gap < 2 * model.choose_factor(inst, best, fine=False):
            return
        most = best - 1 if hard or gap <= 4 else bound + int(step * gap)
        again = most <= asked
        case = dataclasses.replace(inst, dur=left if again else inst.dur, cache={})
        shaved = shave(case, clock, most, 0.4 * (end - clock.used()))
        if shaved.bound > most:
            data = {"most": most, "struck": shaved.struck, "merged": inst.merged is not None}
            # What was struck out before, for a larger makespan, is not part of the argument.
            argument, given = ("cp-sat", {}) if again else ("shaving", data)
            run.raise_bound(Bound(inst.time(most + 1), argument, "makespan", given))
            continue
        if not hard and most < best - 1 and gap <= FEW:
            hard = True
            continue
        asked, left = most, shaved.dur
        until = end if most == best - 1 else 0.5 * (clock.used() + end)
        possible = _possible(inst, run, background, shaved, until)
        if possible is None:
            if most == best - 1:
                return
            hard = True
        elif not possible:
            step = 0.5 * (1.0 + step)
            run.raise_bound(Bound(inst.time(most + 1), "cp-sat", "makespan"))


def _best(inst: Instance, run: Run) -> int:
    assert run.incumbent is not None
    return plan_of(inst, run.incumbent.schedule).makespan(inst)


def _possible(
    inst: Instance, run: Run, background: local.Background | None, shaved: Shaved, end: float
) -> bool | None:
    """Whether what was not struck out has a schedule (then it was offered); None: unknown."""
    clock, most = run.clock, shaved.most
    cases: list[Ints] = []
    while True:
        solved = _solve(inst, run, background, shaved, end - clock.used())
        if solved:
            return True if _best(inst, run) <= most else None
        if solved is None:
            parts = _split(inst, run, shaved)
            if not parts:
                return None
            cases += parts
        while True:
            if background is not None:
                background.merge()
            if _best(inst, run) <= most:
                return True
            if not cases:
                return False
            left = end - clock.used()
            if run.done() or left <= 0:
                return None
            case = dataclasses.replace(inst, dur=cases.pop(), cache={})
            shaved = shave(case, clock, most, 0.4 * left)
            if shaved.bound <= most:
                break


def _solve(
    inst: Instance,
    run: Run,
    background: local.Background | None,
    shaved: Shaved,
    left: float,
) -> bool | None:
    """Whether the solver finds a schedule of a case, None when it gives up."""
    seconds = min(left, max(1.0, 0.2 * left))
    if seconds <= 0:
        return None
    case = dataclasses.replace(inst, dur=shaved.dur, cache={})
    v = levels.constrained(
        case, run, shaved.most, model.choose_factor(inst, shaved.most, fine=False)
    )
    v.model.add(v.makespan >= min(v.coarse(shaved.bound), v.horizon))
    model_redundant.energy(v, shaved.rows)
    model_redundant.joins(v)
    model_redundant.symmetry(v)
    beside = background is not None and not background.idle
    workers = max(1, run.workers - beside)
    outcome = engine.solve(v.model, run.clock, workers=workers, seed=run.seed, seconds=seconds)
    if outcome.status == "INFEASIBLE":
        return False
    if outcome.values is None:
        return None
    found = levels.settle(inst, v, outcome.values)
    if greedy.offer(run, inst, found, "cp-sat"):
        local.give(background, found)
    return True


def _split(inst: Instance, run: Run, shaved: Shaved) -> list[Ints]:
    """The cases of the task whose machines make the largest difference to the bounds.

    The case with the least bound, where a schedule is most likely, comes last.
    """
    prover = Prover(inst, run.clock, shaved.most)
    prover.root(shaved.dur)
    case = dataclasses.replace(inst, dur=shaved.dur, cache={})
    order = np.argsort(heads_and_tails(case)[0].min(axis=1), kind="stable").tolist()
    open_ = [t for t in order if len(machines_left(inst, shaved.dur, t)) > 1]
    best: tuple[float, list[Ints]] = (-1.0, [])
    for t in open_[:CANDIDATES]:
        parts = [fixed(inst, shaved.dur, t, p) for p in sorted(machines_left(inst, shaved.dur, t))]
        values = [prover.value(part) for part in parts]
        score = sum(values) / len(values) + min(values)
        if score > best[0]:
            ranked = sorted(range(len(parts)), key=lambda k: -values[k])
            best = (score, [parts[k] for k in ranked])
    return best[1]
