"""Search: exact models where they are small enough, annealing and neighbourhoods everywhere."""

from __future__ import annotations

import math

from cpsched.core import engine, exact, jit
from cpsched.core.run import Run
from cpsched.families.workflow import (
    cases,
    greedy,
    levels,
    local,
    merge,
    model,
    model_redundant,
    packing,
)
from cpsched.families.workflow.extract import Plan, plan_of
from cpsched.families.workflow.neighbourhood import improve_levels
from cpsched.families.workflow.prepare import NEVER, Instance
from cpsched.families.workflow.problem import WorkflowSchedule
from cpsched.families.workflow.relist import relist
from cpsched.result import Bound, Incumbent

#: Beyond this many (task, option, machine) choices no model of the whole problem is built.
LARGEST_MODEL = 60_000

#: Up to this many tasks all of the time goes into models of the whole problem, where more than the
#: makespan counts.
ALL_AT_ONCE = 150

#: Below this relative gap a short try at proofs by cases comes before better schedules.
PROMISING = 0.025


def is_plain(inst: Instance) -> bool:
    """Whether tasks, machines, data and deadlines are all there is to a valid schedule."""
    problem = inst.problem
    return not (
        problem.contention
        or problem.branches
        or problem.min_success is not None
        or set(problem.limits) - {"makespan"}
        or any(value is not None for value in problem.budgets.to_dict().values())
        or any(mc.storage is not None for mc in problem.machines)
    )


def first_schedules(inst: Instance, run: Run) -> None:
    """The greedy step: list schedulers, and what rich problems need besides them."""
    inst.cache["plain"] = is_plain(inst)
    if inst.n == 0:
        run.offer(WorkflowSchedule(tasks=(), makespan=0.0), "greedy:empty")
        return
    from cpsched.families.workflow.rich import rich_portfolio

    if inst.cache["plain"] or not inst.problem.contention:
        greedy.portfolio(inst, run)
    if not inst.cache["plain"] or [o.name for o in run.objectives] not in ([], ["makespan"]):
        rich_portfolio(inst, run)


def search(inst: Instance, run: Run) -> None:
    """Improve and prove until the run is done."""
    if run.done():
        return
    inst.cache["plain"] = is_plain(inst)
    only_makespan = [o.name for o in run.objectives] == ["makespan"]
    if only_makespan and inst.cache["plain"] and run.incumbent is not None:
        _makespan(inst, run)
        return
    if inst.rows * inst.m <= LARGEST_MODEL:
        share = 1.0 if inst.n <= ALL_AT_ONCE or run.incumbent is None else 0.3
        seconds = share * run.clock.remaining()
        if levels.may_start_between(inst, run, 0):
            seconds *= 0.5
            exact.solve_levels(
                run, lambda level: levels.build(inst, run, level, whole=True)[1], seconds=seconds
            )
        exact.solve_levels(run, lambda level: levels.build(inst, run, level)[1], seconds=seconds)
    if not run.done() and run.incumbent is not None:
        improve_levels(inst, run)


def _makespan(inst: Instance, run: Run) -> None:
    """Only the makespan counts: annealing beside the exact model, and bounds once more."""
    assert run.incumbent is not None
    original = inst
    if inst.n <= 20_000:
        inst = merge.without_idle_tasks(inst)
    compiled = greedy.is_compiled(inst, run) or jit.slowdown("workflow") == 1.0
    plan = plan_of(inst, run.incumbent.schedule)
    if inst.n > 2000:
        relist(inst, run, plan, compiled)
        return
    small = inst.rows * inst.m <= 400
    if small and not compiled:
        # Most problems of this size are solved before the compiled code would be loaded.
        _exact_makespan(inst, run, None, fine=False, seconds=1.0)
        if run.done():
            return
        compiled = jit.ready(run.clock.remaining(), "workflow")
        plan = plan_of(inst, run.incumbent.schedule)
    if compiled:
        plan = _start_by_chains(inst, run)
    if run.done():
        return
    annealer = local.Annealer(inst, plan, run.seed, compiled)
    limit = run.clock.limit if math.isfinite(run.clock.limit) else 60.0
    if compiled or not small:
        local.anneal_for(inst, run, annealer, min(0.05 * limit, 1.0))
    packing.prove(original, run)
    if small and compiled and not run.done():
        # Many problems of this size need no cases; the others need a good schedule first.
        if annealer.best - local.target(inst, run) <= PROMISING * annealer.best:
            cases.close_gap(inst, run, annealer, None, seconds=min(1.5, 0.15 * limit))
        if not run.done():
            _exact_makespan(inst, run, None, fine=False, seconds=min(0.5, 0.05 * limit))
        if not run.done() and not annealer.is_close(local.target(inst, run)):
            improve_levels(inst, run, seconds=min(1.0, 0.1 * limit), call_seconds=0.3)
        annealer.adopt(plan_of(inst, run.incumbent.schedule))
    if run.done():
        return
    threads = run.workers - 1 if compiled and not run.deterministic else 0
    if inst.rows * inst.m > LARGEST_MODEL or not _affordable(inst, run):
        beside = [
            local.Background(inst, run, local.Annealer(inst, plan, run.seed + k, compiled))
            for k in range(1, threads + 1)
        ]
        local.anneal_for(inst, run, annealer, run.clock.remaining(), beside)
        return
    background = local.Background(inst, run, annealer) if threads else None
    if background is None and annealer.is_close(local.target(inst, run)):
        local.anneal_for(inst, run, annealer, 0.5 * run.clock.remaining())
    try:
        if small and compiled:
            cases.close_gap(inst, run, annealer, background)
        for fine in (False, True):
            while not run.done() and _exact_makespan(inst, run, background, fine=fine):
                pass
        while background is not None and not run.done():
            background.over.wait(0.05)
            background.merge()
    finally:
        if background is not None:
            background.stop()
    if background is None and not run.done():
        if run.incumbent is not None:
            annealer.adopt(plan_of(inst, run.incumbent.schedule))
        local.anneal_for(inst, run, annealer, run.clock.remaining())


def _start_by_chains(inst: Instance, run: Run) -> Plan:
    """Search with chains of tasks merged, where that leaves fewer; the best plan so far."""
    coarse = merge.without_chains(inst)
    if coarse.n <= 0.95 * inst.n:
        for make in (greedy.heft, greedy.peft):
            greedy.offer(run, coarse, make(coarse), "greedy:chains")
        start = greedy.heft(coarse)
        if start is not None and not run.done():
            annealer = local.Annealer(coarse, start, run.seed, True)
            local.anneal_for(coarse, run, annealer, min(0.02 * run.clock.remaining(), 0.5))
    assert run.incumbent is not None
    return plan_of(inst, run.incumbent.schedule)


def _affordable(inst: Instance, run: Run) -> bool:
    """Whether a model of the whole problem can be expected to find what annealing does not."""
    cells = inst.rows * inst.m + 2 * len(inst.pred_src)
    return cells <= 4000 and run.clock.remaining() > 2e-4 * cells


def _exact_makespan(
    inst: Instance,
    run: Run,
    background: local.Background | None,
    *,
    fine: bool,
    seconds: float = math.inf,
) -> bool:
    """Solve the whole model; True when it is to be built again around a better schedule.

    The solver does not learn of schedules that annealing finds meanwhile. Once annealing has
    settled on a better one, a model with that horizon proves more than the old one.
    """
    assert run.incumbent is not None
    plan = merge.undominated(inst, plan_of(inst, run.incumbent.schedule))
    v = makespan_model(inst, run, plan, fine)
    source = "cp-sat"
    own: Incumbent | None = run.incumbent
    again = False

    def on_solution(values: list[int]) -> None:
        nonlocal own
        found = levels.settle(inst, v, values)
        if found is not None and greedy.offer(run, inst, found, source):
            own = run.incumbent
            local.give(background, found)

    def on_bound(bound: float) -> None:
        ticks = math.ceil(bound - 1e-6) * v.factor
        run.raise_bound(Bound(inst.time(ticks), source, "makespan"), v.model)

    def stop_when() -> bool:
        nonlocal again
        if background is not None:
            background.merge()
            best = run.incumbent
            if best is not own and best is not None:
                again = run.clock.elapsed() - best.time > max(1.0, 0.5 * (best.time - begun))
        return again or run.done()

    begun = run.clock.elapsed()
    workers = run.workers
    if background is not None:
        close = background.annealer.is_close(local.target(inst, run))
        workers = max(1, workers - (close or workers > 2))
    outcome = engine.solve(
        v.model,
        run.clock,
        workers=workers,
        seed=run.seed,
        seconds=seconds,
        on_solution=on_solution,
        on_bound=on_bound,
        stop_when=stop_when,
    )
    if outcome.values is not None:
        on_solution(outcome.values)
        if outcome.bound is not None:
            on_bound(outcome.bound)
    elif outcome.status == "INFEASIBLE":
        run.claim_infeasible(source, "no schedule is as good as the best one", v.model)
    return again


def makespan_model(inst: Instance, run: Run, plan: Plan, fine: bool) -> model.Variables:
    """The whole problem with the makespan as objective and a plan as hint and horizon."""
    horizon = plan.makespan(inst)
    v = levels.constrained(inst, run, horizon, model.choose_factor(inst, horizon, fine=fine))
    bound = local.target(inst, run)
    if bound:
        v.model.add(v.makespan >= min(v.coarse(bound), v.horizon))
    model_redundant.energy(v, inst.cache.get("area_rows", ()))
    model_redundant.joins(v)
    v.model.minimize(v.makespan)
    groups = model_redundant.symmetry(v)
    model.hint(v, merge.sorted_siblings(inst, groups, plan))
    return v


def repair(inst: Instance, run: Run, schedule: WorkflowSchedule) -> None:
    """Keep what a partial or invalid schedule says about order, options and machines."""
    import numpy as np

    inst.cache["plain"] = is_plain(inst)
    fix_row = np.full(inst.n, -1, dtype=np.int64)
    fix_mach = np.full(inst.n, -1, dtype=np.int64)
    rank = greedy.upward_ranks(inst)
    key = [(NEVER * 1.0, -r) for r in rank.tolist()]
    for placed in schedule.tasks:
        t, p = inst.index.get(placed.task), inst.machine_index.get(placed.machine)
        if t is None or p is None or placed.option >= len(inst.rows_of(t)):
            continue
        row = int(inst.row_ptr[t]) + placed.option
        if inst.dur[row, p] >= 0:
            fix_row[t], fix_mach[t] = row, p
            key[t] = (placed.start, -float(rank[t]))
    order = greedy.ready_order(inst, key)
    plan = greedy.list_plan(inst, order, fix_row=fix_row, fix_mach=fix_mach)
    greedy.offer(run, inst, plan, "repair")
