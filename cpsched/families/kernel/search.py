"""The search: the smallest initiation interval first, then each further objective in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cpsched.core import engine
from cpsched.core.clock import SECONDS_PER_DETERMINISTIC_UNIT
from cpsched.core.run import Run
from cpsched.errors import OutOfTime
from cpsched.families.kernel.check import check
from cpsched.families.kernel.layout import schedule_from, stages_for
from cpsched.families.kernel.model import KernelModel, Slots
from cpsched.families.kernel.objectives import EXPRESSIONS
from cpsched.families.kernel.prepare import Instance, has_live_limits, longest_paths
from cpsched.families.kernel.problem import KernelSchedule
from cpsched.result import Bound

#: CP-SAT runs with one worker in every call, so that results repeat whatever the load.
PARAMETERS = {"num_workers": 1}
#: Deterministic time of one linked model in an interval's first turn.
FIRST_WORK = 0.4
#: Periods beyond the critical path allowed to the linked models, tightest first.
HORIZONS = (0.25, 0.75, 1.5, 4.0)


def search(instance: Instance, run: Run) -> None:
    """Find the smallest interval, prove it, and improve the further objectives.

    In turns, since an interval that stays open leaves a part of the time to the others.
    """
    from cpsched.families.kernel import elsewhere

    while True:
        began = run.clock.used()
        _Intervals(instance, run).search()
        if run.incumbent is not None and not run.done():
            improve_levels(instance, run)
            elsewhere.search(instance, run)
        # What ends at once would end at once again.
        idle = run.clock.used() - began < 0.05 * run.clock.limit
        if run.done() or idle or run.clock.limit == math.inf:
            return


# ---------------------------------------------------------------------- the interval


def monotone(instance: Instance) -> bool:
    """Whether a schedule at one interval gives one at every larger interval.

    Keeping stages and slots does, when reservations begin at the issue (a run that wraps around
    then only loses slots), delays are not negative, and the length is not limited.
    """
    problem = instance.problem
    return (
        all(start == 0 for ms in instance.modes for m in ms for _, start, _, _ in m.uses)
        and bool((instance.delay >= 0).all())
        and problem.max_length is None
    )


def saturation(instance: Instance) -> int:
    """An interval beyond which a longer one never helps, for monotone instances.

    Call an operation busy from its issue until its table, its issue window and all its delays are
    over. If the interval exceeds the sum of busy times, some slot meets no busy operation; taking
    that slot out of the circle breaks no constraint.
    """
    busy = [
        max(max([1, m.issue, *(start + c for _, start, c, _ in m.uses)]) for m in modes)
        for modes in instance.modes
    ]
    for u, delay in zip(instance.source.tolist(), instance.longest_delay.tolist(), strict=True):
        busy[u] = max(busy[u], delay)
    return sum(busy)


@dataclass
class _Intervals:
    """Ascends (or bisects, where that is legal) to the smallest feasible interval."""

    instance: Instance
    run: Run

    def search(self) -> None:
        instance, run = self.instance, self.run
        low = self.lower()
        limit = instance.problem.max_initiation_interval
        bisect = monotone(instance)
        last = max(saturation(instance), low)
        top = last if limit is None else min(last, limit)
        # Intervals are in cycles: a hundredth of the bound is a fine first step where steps may
        # skip, since the bisection comes back for the rest.
        first_step = max(1, low // 128) if bisect else 1
        step = first_step
        trial = low
        failed = low - 1  # the largest interval without a schedule so far, proved or not
        while not run.clock.expired():
            best = self.best()
            if best is not None and trial >= best:
                trial = (failed + best) // 2 if bisect else best
                if trial <= failed:
                    return
                step = 0
            elif trial > top:
                trial = top
                if trial <= failed:
                    break
            found = self.probe(trial)
            if found is None:
                # Undecided: go on above it; the bound stays where it is.
                failed = max(failed, trial)
            elif not found:
                failed = max(failed, trial)
                if bisect or trial == low:
                    low = trial + 1
                    self.prove(low)
            best = self.best()
            if run.objectives == () and best is not None:
                return
            if step == 0 and best is not None:
                trial = (failed + best) // 2
                if trial <= failed:
                    return
            elif best is not None and best <= trial and bisect:
                step = 0
                trial = (failed + best) // 2
                if trial <= failed:
                    return
            elif best is not None and best <= trial:
                return
            else:
                trial = failed + step
                step = step * 2 if bisect else 1
        if self.best() is None and low > top and (bisect or limit is not None):
            run.claim_infeasible(
                "no-schedule",
                f"no initiation interval up to {top} has a schedule"
                if limit is not None
                else "no initiation interval has a schedule: memories, groups and windows "
                "contradict each other",
            )

    def lower(self) -> int:
        """The smallest interval that is not excluded."""
        bound = self.run.bound(0) if self.leads() else None
        return max(self.instance.mii, 1 if bound is None else int(bound))

    def leads(self) -> bool:
        """Whether the interval is the first objective."""
        objectives = self.run.objectives
        return bool(objectives) and objectives[0].name == "initiation_interval"

    def best(self) -> int | None:
        """The incumbent's interval."""
        incumbent = self.run.incumbent
        return None if incumbent is None else incumbent.schedule.initiation_interval

    def prove(self, low: int) -> None:
        self.run.raise_bound(
            Bound(low, "no-schedule", "initiation_interval", {"infeasible": low - 1})
        )

    def probe(self, interval: int) -> bool | None:
        """Whether an interval has a schedule; None when that stays open.

        A loose model proves that there is none, linked models of growing horizon find one. Their
        limits are counted work and grow in turns, so that the answer does not depend on the load.
        """
        instance, run = self.instance, self.run
        tail = longest_paths(instance, interval, instance.reach(), to=True, seed=instance.latency)
        if tail is None:
            return False
        shortest = int(tail.max())
        enough = within_limit(instance, sufficient_horizon(instance, interval))
        if shortest > enough:
            return False
        horizons = [shortest + int(periods * interval) for periods in HORIZONS]
        horizons = sorted({min(h, enough) for h in horizons})
        coupled = has_live_limits(instance)
        if not coupled:
            horizons = []
        stop = run.clock.remaining() * (0.4 if self.best() is None else 0.7)
        shut = [0]
        for turn in range(14):
            work = FIRST_WORK * 2.0**turn
            if turn == 2 and coupled:
                # The tight horizons did not settle it: now the one that suffices for a proof too.
                further = {min(2 * shortest, enough), enough}
                horizons = [h for h in sorted({*horizons, *further}) if h > max(shut)]
            tasks = [
                _Task(rank, self._linked(interval, h), work / (1 + rank), h == enough)
                for rank, h in enumerate(horizons)
            ]
            loose = _Task(len(tasks), self._loose(interval), 2.0 * work, True)
            _race(run, [loose, *tasks])
            if loose.closed or (tasks and tasks[-1].closed):
                return False
            for task in (*tasks, loose):
                if task.schedule is not None:
                    run.offer(task.schedule, "cp-sat")
                    return True
            # Without a schedule within a horizon there is none within a shorter one.
            shut += [h for task, h in zip(tasks, horizons, strict=True) if task.closed]
            horizons = [h for h in horizons if h > max(shut)]
            if run.clock.expired() or run.clock.remaining() < stop:
                return None
        return None

    def _loose(self, interval: int) -> Callable[[], KernelModel]:
        return lambda: KernelModel(self.instance, interval, self.run.clock, linked=False)

    def _linked(self, interval: int, horizon: int) -> Callable[[], KernelModel]:
        return lambda: KernelModel(self.instance, interval, self.run.clock, horizon=horizon)


@dataclass
class _Task:
    """One CP-SAT call of a race: how to build its model, its work limit, and what came out.

    ``rank`` orders the calls whose schedules are wanted, lowest first; ``proves`` says that the
    interval has no schedule when the model has none.
    """

    rank: int
    build: Callable[[], KernelModel]
    work: float
    proves: bool = False
    status: str = ""
    schedule: KernelSchedule | None = None

    @property
    def closed(self) -> bool:
        """Whether the call has shown that its model has no solution."""
        return self.status == "INFEASIBLE"


def _race(run: Run, tasks: list[_Task]) -> None:
    """Run calls side by side, as many as there are workers, until one settles the question.

    A proof that there is no schedule stops everything. A schedule stops calls of higher rank only:
    those of lower rank run up to their limits and win when they find one too, so that the result
    does not depend on which was faster.
    """
    found: set[int] = set()

    def settled(rank: int) -> bool:
        return bool(found) and min(found) < rank

    def work(task: _Task) -> None:
        if settled(task.rank) or run.clock.expired():
            return
        try:
            model = task.build()
            if model.possible:
                _call(run, task, model, lambda: settled(task.rank))
            else:
                task.status = "INFEASIBLE"
        except OutOfTime:
            return
        if task.schedule is not None:
            found.add(task.rank)
        elif task.proves and task.closed:
            found.add(-1)

    width = 1 if run.deterministic else min(run.workers, len(tasks))
    if width == 1:
        for task in tasks:
            work(task)
        return
    with ThreadPoolExecutor(width) as pool:
        for done in [pool.submit(work, task) for task in tasks]:
            done.result()


def _call(run: Run, task: _Task, model: KernelModel, stop: Callable[[], bool]) -> None:
    limits = {"max_deterministic_time": task.work}
    if run.deterministic:
        virtual = run.clock.remaining() / SECONDS_PER_DETERMINISTIC_UNIT
        limits["max_deterministic_time"] = min(task.work, virtual)
    outcome = engine.solve(
        model.model, run.clock, seed=run.seed, parameters=PARAMETERS | limits, stop_when=stop
    )
    task.status = outcome.status
    if outcome.values is None:
        return
    slots = model.slots(outcome.values)
    if model.linked:
        task.schedule = extract(model.instance, model, outcome.values)
    else:
        task.schedule = realise(model.instance, model.interval, slots)


def sufficient_horizon(instance: Instance, interval: int) -> int:
    """A length that suffices at an interval: if there is a schedule, there is one this short.

    Order the operations by their starts and look at a gap. When everything behind it can move
    down by one interval, the schedule shortens and nothing breaks: slots, hence units and waits,
    stay, and live ranges across the gap shrink. That is prevented only by an edge that spans the
    gap: a forward one with less than an interval of slack, or one from behind to before it, whose
    live range would grow. In a schedule that cannot be shortened such edges cover the whole
    length, and a minimal cover ends at each operation at most once.
    """
    span = [0] * instance.n
    reach, shallow = instance.reach(), instance.reach(largest=False)
    for e in range(len(instance.source)):
        u, w = int(instance.source[e]), int(instance.target[e])
        ahead = int(instance.longest_delay[e]) + interval * (1 - int(shallow[e]))
        back = interval * int(reach[e]) - int(instance.delay[e])
        longest = max(0, ahead, back)
        span[u], span[w] = max(span[u], longest), max(span[w], longest)
    return sum(span) + interval + max(m.latency for modes in instance.modes for m in modes)


def within_limit(instance: Instance, horizon: int) -> int:
    """A horizon, at most the length that the problem allows."""
    limit = instance.problem.max_length
    return horizon if limit is None else min(horizon, limit)


def realise(instance: Instance, interval: int, slots: Slots) -> KernelSchedule | None:
    """A valid schedule with these slots and groups, or None when live ranges do not fit."""
    instance = instance.resolve(slots.mode)
    for late in (False, True):
        stage = stages_for(instance, interval, slots.slot, slots.group, slots.depth, late=late)
        if stage is None:
            return None
        starts = [s + interval * int(k) for s, k in zip(slots.slot, stage, strict=True)]
        schedule = schedule_from(instance, interval, starts, slots.group, slots.depth)
        if not check(instance.original, schedule):
            return schedule
    return None


def extract(instance: Instance, model: KernelModel, values: list[int]) -> KernelSchedule:
    """The schedule of a linked solution."""
    slots = model.slots(values)
    starts = [s + model.interval * k for s, k in zip(slots.slot, slots.stage, strict=True)]
    chosen = instance.resolve(slots.mode)
    return schedule_from(chosen, model.interval, starts, slots.group, slots.depth)


# ---------------------------------------------------------------------- hints


def repair(instance: Instance, run: Run, schedule: KernelSchedule) -> None:
    """Offer the schedule of a partial or invalid one's slots and groups, or one near it."""
    placed = {p.operation: p for p in schedule.operations}
    interval = max(schedule.initiation_interval, instance.mii)
    limit = instance.problem.max_initiation_interval
    if limit is not None and interval > limit:
        return
    if all(name in placed for name in instance.ids):
        depth = {b.buffer: b.depth for b in schedule.buffers}
        slots = Slots(
            slot=[placed[name].start % interval for name in instance.ids],
            stage=[],
            group=[placed[name].group if instance.groups else None for name in instance.ids],
            mode=[
                min(placed[name].mode, len(modes) - 1)
                for name, modes in zip(instance.ids, instance.modes, strict=True)
            ],
            depth=[
                min(max(depth.get(b.name, b.min_depth), b.min_depth), b.max_depth)
                for b in instance.problem.buffers
            ],
        )
        grouped = not instance.groups or all(
            g is not None and g < instance.groups for g in slots.group
        )
        found = realise(instance, interval, slots) if grouped else None
        if found is not None:
            run.offer(found, "repair")
            return
    horizon = within_limit(instance, max(schedule.length, instance.mii) + 2 * interval)
    model = KernelModel(instance, interval, run.clock, horizon=horizon)
    if not model.possible:
        return
    hint(instance, model, schedule)
    outcome = engine.solve(
        model.model,
        run.clock,
        seed=run.seed,
        seconds=0.3 * run.clock.remaining(),
        parameters=PARAMETERS,
    )
    if outcome.values is not None:
        run.offer(extract(instance, model, outcome.values), "repair")


# ---------------------------------------------------------------------- further objectives


def improve_levels(instance: Instance, run: Run) -> None:
    """Optimise the objectives after the interval one by one, the earlier ones frozen."""
    names = [o.name for o in run.objectives]
    for last_pass in (False, True):
        for level, name in enumerate(names):
            if name == "initiation_interval" or run.proved(level):
                continue
            if run.done() or run.incumbent is None:
                return
            last = level == len(names) - 1
            # The first pass leaves time for the objectives behind, the second takes what is left.
            share = 1.0 if last_pass else 0.7 if last else 0.4
            _improve(instance, run, level, share * run.clock.remaining())


def _improve(instance: Instance, run: Run, level: int, seconds: float) -> None:
    incumbent = run.incumbent
    assert incumbent is not None
    names = [o.name for o in run.objectives]
    schedule = incumbent.schedule
    interval = schedule.initiation_interval
    values = dict(zip(names, incumbent.values, strict=True))
    horizon = schedule.length
    if "length" not in names[: level + 1]:
        horizon = within_limit(instance, horizon + 2 * interval)
    model = KernelModel(instance, interval, run.clock, horizon=horizon)
    for name in names[:level]:
        if name not in ("initiation_interval", "length"):
            model.model.add(EXPRESSIONS[name](model) <= values[name])
    target = EXPRESSIONS[names[level]](model)
    # A proof at one interval says nothing of the others, unless an earlier objective fixes it.
    proves = "initiation_interval" in names[:level]
    if isinstance(target, int):
        if proves:
            run.raise_bound(Bound(target, "cp-sat", names[level], {}, incumbent.values[:level]))
        return
    model.model.minimize(target)
    hint(instance, model, schedule)
    given = incumbent.values[:level]

    def on_solution(found: list[int]) -> None:
        run.offer(lambda: extract(instance, model, found), "cp-sat", model=model.model)

    def on_bound(bound: float) -> None:
        if proves:
            whole = int(-(-(bound - 1e-6) // 1))
            run.raise_bound(Bound(whole, "cp-sat", names[level], {}, given))

    outcome = engine.solve(
        model.model,
        run.clock,
        seed=run.seed,
        seconds=seconds,
        parameters=PARAMETERS,
        on_solution=on_solution,
        on_bound=on_bound,
        stop_when=lambda: run.proved(level),
    )
    if outcome.values is not None:
        on_solution(outcome.values)
        if outcome.bound is not None:
            on_bound(outcome.bound)


def hint(instance: Instance, model: KernelModel, schedule: KernelSchedule) -> None:
    """Start a linked model from a schedule, which may be partial."""
    placed = {p.operation: p for p in schedule.operations}
    depth = {b.buffer: b.depth for b in schedule.buffers}

    def give(term: Any, value: int) -> None:
        if not isinstance(term, int):
            model.model.add_hint(term, value)

    relabel: dict[int, int] = {0: 0}
    for o, name in enumerate(instance.ids):
        p = placed.get(name)
        if p is None:
            continue
        give(model.v.slot[o], p.start % model.interval)
        give(model.v.stage[o], p.start // model.interval)
        if p.group is not None:
            # The model numbers groups by their first member.
            relabel.setdefault(p.group, len(relabel))
        for k, term in enumerate(model.v.mode[o]):
            give(term, int(k == p.mode))
    renamed = all(o.group is None for o in instance.problem.operations)
    for o, row in enumerate(model.v.member):
        p = placed.get(instance.ids[o])
        if p is None or p.group is None:
            continue
        chosen = relabel[p.group] if renamed else p.group
        for g, term in enumerate(row):
            give(term, int(g == chosen))
    for b, term in zip(instance.problem.buffers, model.v.depth, strict=True):
        if b.name in depth:
            give(term, depth[b.name])
