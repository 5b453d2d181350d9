"""Lower bounds on the makespan, and on sums of what tasks cost one by one, with their proofs.

The proofs rest on heads and tails: ``head[t, p]`` bounds the start of task ``t`` on machine ``p``
from below, transfers included, ``tail[t, p]`` the time from its end there to the end of all.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cpsched.core import jit
from cpsched.core.clock import Clock
from cpsched.core.run import Run
from cpsched.errors import Infeasible, OutOfTime, ProblemError
from cpsched.families.workflow import sequence, terms
from cpsched.families.workflow.area import (
    area_lp,
    area_value,
    best_grain,
    best_window,
    grain_value,
    whole_time,
)
from cpsched.families.workflow.greedy import least_durations
from cpsched.families.workflow.heads import (
    critical_path,
    heads_and_tails,
    path_without_transfers,
)
from cpsched.families.workflow.merge import without_idle_tasks
from cpsched.families.workflow.prepare import Instance, Ints, prepare
from cpsched.families.workflow.problem import WorkflowProblem
from cpsched.result import Bound, Number

#: Heads and tails take about so many seconds per edge or task and machine (and pair of them).
SECONDS_OF_HEADS, COMPILED_HEADS = 4.5e-5, 2.5e-7
#: Bounds without them take about so many seconds per row and machine.
ROUGH = 1e-7


def quick_bounds(inst: Instance, run: Run) -> None:
    """Give the run every bound that needs no search."""
    _separate(inst, run)
    if any(o.name == "peak_storage" for o in run.objectives):
        sequence.prove(inst, run)
    if inst.n == 0:
        run.raise_bound(Bound(0.0, "empty", "makespan"))
        return
    makespan = any(o.name == "makespan" for o in run.objectives)

    def give(ticks: int, argument: str, data: dict[str, Any]) -> None:
        run.raise_bound(Bound(inst.time(ticks), argument, "makespan", data))

    if not _heads_affordable(inst, run):
        rough = ROUGH * inst.rows * (inst.m + 50)
        if makespan and rough <= run.clock.remaining() + 0.05:
            give(path_without_transfers(inst), "critical-path", {"transfers": False})
            row = whole_time(inst)
            give(area_value(inst, row), "area", {"rows": row})
        return
    heads, tails = heads_and_tails(inst)
    _refute(inst, heads)
    if not makespan:
        return
    give(critical_path(inst), "critical-path", {})
    row, value = best_window(inst, heads, tails)
    if value > 0:
        give(value, "area", {"rows": row})
        a, b = row[0][2], row[0][3]
        value, a, b, least = best_grain(inst, a, b)
        give(value, "grain", {"window": [a, b], "least": least})
    if run.done():
        return
    if identical(inst) and inst.n <= 400:
        found = fernandez_bussell(inst)
        if found is not None:
            give(found[0], "fernandez-bussell", {"window": list(found[1:])})
    if run.done() or inst.rows * inst.m > 60_000:
        return
    try:
        rows, paths, value = area_lp(inst, run.clock, row)
    except OutOfTime:
        return
    if value > 0:
        give(value, "area", {"rows": rows, "paths": paths})
        inst.cache["area_rows"] = rows


def _heads_affordable(inst: Instance, run: Run) -> bool:
    """Whether heads and tails can be computed in the time left, with compiled kernels or without.

    A small part of a second is always spent on them.
    """
    pairs = inst.m if inst.communicates and not inst.uniform else 1
    cells = pairs * inst.m * (len(inst.pred_src) + inst.n)
    left = run.clock.remaining()
    seconds = SECONDS_OF_HEADS * cells
    if seconds <= 0.05 or (seconds <= 4.0 and seconds <= 0.1 * left):
        return True
    return COMPILED_HEADS * cells <= left + 0.05 and jit.ready(left, "workflow")


def _refute(inst: Instance, heads: Ints) -> None:
    late = (heads + least_durations(inst)).min(axis=1) > inst.deadline
    if bool(late.any()):
        task = inst.problem.tasks[int(np.argmax(late))].id
        raise Infeasible(f"task {task} cannot end before its deadline", "critical-path")


# ---------------------------------------------------------------------- identical machines


def identical(inst: Instance) -> bool:
    """Whether all machines run one task at a time and a task takes the same time on each."""
    if inst.rows != inst.n or not bool(inst.unit.all()) or bool(inst.conditional.any()):
        return False
    return bool((inst.dur == inst.dur[:, :1]).all()) and bool((inst.dur >= 0).all())


def fernandez_bussell(inst: Instance) -> tuple[int, int, int] | None:
    """(bound, a, b): the window whose forced work exceeds the machines most (1973).

    With the critical path as makespan every task lies between its head and its latest end. What
    must overlap the window [a, b) must still overlap [a, b + d) when all ends are ``d`` later, so
    the makespan grows by at least ``forced / machines - (b - a)``.
    """
    heads, tails = heads_and_tails(inst)
    first = heads.min(axis=1)
    length = inst.dur[:, 0]
    span = critical_path(inst)
    last = span - tails.min(axis=1)
    points = np.unique(np.concatenate([first, first + length, last, last - length]))
    points = points[(points >= 0) & (points <= span)]
    if len(points) > 400:
        points = points[np.linspace(0, len(points) - 1, 400).astype(np.int64)]
    best: tuple[int, int, int] | None = None
    for a in points.tolist():
        right = np.clip(first + length - a, 0, length)
        ends = points[points > a]
        if not len(ends):
            continue
        forced = np.minimum(
            np.minimum(right[:, None], np.clip(ends[None, :] - (last - length)[:, None], 0, None)),
            np.minimum(length[:, None], (ends - a)[None, :]),
        ).sum(axis=0)
        excess = -((-forced) // inst.m) - (ends - a)
        k = int(np.argmax(excess))
        if best is None or span + int(excess[k]) > best[0]:
            best = (span + int(excess[k]), int(a), int(ends[k]))
    return best


def _forced(inst: Instance, a: int, b: int) -> int:
    heads, tails = heads_and_tails(inst)
    first, length = heads.min(axis=1), inst.dur[:, 0]
    span = critical_path(inst)
    last = span - tails.min(axis=1)
    right = np.clip(first + length - a, 0, None)
    left = np.clip(b - (last - length), 0, None)
    forced = np.minimum(np.minimum(right, left), np.minimum(length, b - a)).sum()
    return span + -(-int(forced) // inst.m) - (b - a)


# ---------------------------------------------------------------------- other objectives


def separate_value(inst: Instance, name: str) -> float:
    """Sum (or maximum) over tasks of the least that each one costs by itself."""
    problem = inst.problem
    chance = terms.probabilities(problem)
    if name in ("cost", "energy", "carbon", "log_success"):
        best: list[float] = []
        for t, task in enumerate(problem.tasks):
            weight = chance.get(task.id, 1.0)
            values = []
            for r in inst.rows_of(t):
                option = task.choices[int(inst.row_option[r])]
                if name == "log_success":
                    if (inst.dur[r] >= 0).any():
                        values.append(-weight * terms.log_success(option))
                    continue
                own = 0.0 if name == "carbon" else terms.own_use(option, name)
                for p in np.flatnonzero(inst.dur[r] >= 0).tolist():
                    machine = problem.machines[p]
                    rate = min(v for _, v in terms.rate_steps(machine, name))
                    used = own + rate * terms.share(option, machine) * inst.time(inst.dur[r, p])
                    values.append(weight * terms.expected_part(option) * used)
            best.append(min(values))
        total = math.fsum(best)
        return -total if name == "log_success" else total * (1 - 1e-12)
    if name == "peak_storage":
        return max(terms.held_at_once(problem), default=0.0)
    heads, _ = heads_and_tails(inst)
    ends = (heads + least_durations(inst)).min(axis=1)
    end = {task.id: inst.time(int(ends[t])) for t, task in enumerate(problem.tasks)}
    flows = terms.members(problem)
    finish = [max(end[t.id] for t in tasks) for _, tasks in flows]
    if name == "max_slowdown":
        ideal = terms.ideal_times(problem)
        return max(
            (
                (f - flow.release) / i
                for (flow, _), f, i in zip(flows, finish, ideal, strict=True)
                if i > 0
            ),
            default=0.0,
        )
    if name == "weighted_flow_time":
        if not problem.workflows:
            return math.fsum(t.weight * (end[t.id] - t.release) for t in problem.tasks)
        return math.fsum(
            flow.weight * (f - flow.release) for (flow, _), f in zip(flows, finish, strict=True)
        )
    if name == "weighted_tardiness":
        late = [t.weight * max(0.0, end[t.id] - t.due) for t in problem.tasks if t.due is not None]
        late += [
            flow.weight * max(0.0, f - flow.due)
            for (flow, _), f in zip(flows, finish, strict=True)
            if flow.due is not None
        ]
        return math.fsum(late)
    return 0.0


def _separate(inst: Instance, run: Run) -> None:
    for objective in run.objectives:
        seconds = 1e-5 * inst.rows * inst.m
        if objective.name != "makespan" and seconds <= 0.3 * run.clock.remaining():
            run.clock.spend(seconds)
            value = separate_value(inst, objective.name) if inst.n else 0.0
            run.raise_bound(Bound(value, "separate", objective.name))


def recompute(problem: WorkflowProblem, bound: Bound) -> Number:
    """The value that an argument proves, from the problem and the bound's data alone."""
    inst = prepare(problem)
    if bound.argument == "separate":
        return separate_value(inst, bound.objective) if inst.n else 0.0
    if bound.argument == "empty" and inst.n == 0:
        return 0.0
    if bound.argument == "orders" and sequence.applies(inst):
        return float(sequence.best_order(inst, int(bound.data["states"])).least)
    if bound.argument == "critical-path":
        with_transfers = bound.data.get("transfers", True)
        return inst.time(critical_path(inst) if with_transfers else path_without_transfers(inst))
    if bound.argument == "area":
        return inst.time(area_value(inst, bound.data["rows"], bound.data.get("paths", ())))
    if bound.argument == "grain":
        a, b = bound.data["window"]
        return inst.time(grain_value(inst, a, b, bound.data["least"]))
    if bound.argument == "packing":
        from cpsched.families.workflow.packing import packing_value

        a, b = bound.data["window"]
        return inst.time(packing_value(inst, a, b, bound.data["least"]))
    if bound.argument == "shaving":
        from cpsched.families.workflow.shave import shaved_value

        if bound.data["merged"]:
            inst = without_idle_tasks(inst)
        most, struck = bound.data["most"], bound.data["struck"]
        return inst.time(shaved_value(inst, Clock(None), most, struck))
    if bound.argument == "fernandez-bussell" and identical(inst):
        a, b = bound.data["window"]
        return inst.time(_forced(inst, int(a), int(b)))
    raise ProblemError(
        f"the argument {bound.argument} cannot be recomputed without a search",
        place="bound",
        remedy="Solve the problem again.",
    )
