"""The search: the smallest initiation interval first, then each further objective in order."""

from __future__ import annotations

from dataclasses import dataclass

from cpsched.core import engine
from cpsched.core.run import Run
from cpsched.families.kernel.check import check
from cpsched.families.kernel.layout import schedule_from, stages_for
from cpsched.families.kernel.model import KernelModel, Slots
from cpsched.families.kernel.objectives import EXPRESSIONS
from cpsched.families.kernel.prepare import Instance, longest_paths, why_not
from cpsched.families.kernel.problem import KernelSchedule
from cpsched.result import Bound

#: CP-SAT runs with one worker in every call, so that results repeat whatever the load.
PARAMETERS = {"num_workers": 1}


def search(instance: Instance, run: Run) -> None:
    """Find the smallest interval, prove it, and improve the further objectives."""
    _Intervals(instance, run).search()
    if run.incumbent is not None and not run.done():
        improve_levels(instance, run)


# ---------------------------------------------------------------------- the interval


def monotone(instance: Instance) -> bool:
    """Whether a schedule at one interval gives one at every larger interval.

    Keeping stages and slots does, when reservations begin at the issue (a run that wraps around
    then only loses slots), delays are not negative, and the length is not limited.
    """
    problem = instance.problem
    return (
        all(offset == 0 for rows in instance.uses for _, offset, _, _ in rows)
        and bool((instance.delay >= 0).all())
        and problem.max_length is None
    )


def saturation(instance: Instance) -> int:
    """An interval beyond which a longer one never helps, for monotone instances.

    Call an operation busy from its issue until its table, its issue window and all its delays are
    over. If the interval exceeds the sum of busy times, some slot meets no busy operation; taking
    that slot out of the circle breaks no constraint.
    """
    busy = [max([1, c, *(s + n for _, s, n, _ in rows)]) for c, rows in _busy(instance)]
    for e in range(len(instance.source)):
        u = int(instance.source[e])
        busy[u] = max(busy[u], int(instance.delay[e] + instance.crossing[e]))
    return sum(busy)


def _busy(instance: Instance) -> list[tuple[int, list[tuple[int, int, int, int]]]]:
    return list(zip(instance.issue, instance.uses, strict=True))


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
        step = 1
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
                "loose-model",
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
            Bound(low, "loose-model", "initiation_interval", {"infeasible": low - 1})
        )

    def probe(self, interval: int) -> bool | None:
        """Whether an interval has a schedule; None when that stays open."""
        instance, run = self.instance, self.run
        model = KernelModel(instance, interval, run.clock, linked=False)
        best = self.best()
        share = 0.6 if best is None else 0.4
        outcome = engine.solve(
            model.model,
            run.clock,
            seed=run.seed,
            seconds=share * run.clock.remaining(),
            parameters=PARAMETERS,
        )
        if outcome.status == "INFEASIBLE":
            return False
        if outcome.values is None:
            return None
        slots = model.slots(outcome.values)
        schedule = realise(instance, run, interval, slots)
        if schedule is None:
            schedule = link(instance, run, interval, slots)
        if schedule is None:
            return None
        run.offer(schedule, "cp-sat")
        return True


def realise(instance: Instance, run: Run, interval: int, slots: Slots) -> KernelSchedule | None:
    """A valid schedule with these slots and groups, or None when their live ranges disagree."""
    longest = 0
    for late in (False, True):
        stage = stages_for(instance, interval, slots.slot, slots.group, slots.depth, late=late)
        if stage is None:
            return None
        starts = [s + interval * int(k) for s, k in zip(slots.slot, stage, strict=True)]
        schedule = schedule_from(instance, interval, starts, slots.group, slots.depth)
        if not check(instance.problem, schedule):
            return schedule
        longest = max(longest, schedule.length)
    model = KernelModel(instance, interval, run.clock, horizon=longest + 4 * interval, fixed=slots)
    return _solve(instance, run, model, 0.3)


def link(instance: Instance, run: Run, interval: int, slots: Slots) -> KernelSchedule | None:
    """A schedule at this interval from the linked model, the loose solution as a hint."""
    reach = instance.reach()
    tail = longest_paths(instance, interval, reach, to=True, seed=instance.latency)
    if tail is None:
        return None
    for periods in (4, 12):
        if run.clock.expired():
            return None
        horizon = int(tail.max()) + periods * interval
        model = KernelModel(instance, interval, run.clock, horizon=horizon)
        if not model.possible:
            continue
        for term, value in zip(model.v.slot, slots.slot, strict=True):
            model.model.add_hint(term, value)
        found = _solve(instance, run, model, 0.4)
        if found is not None:
            return found
    return None


def _solve(instance: Instance, run: Run, model: KernelModel, share: float) -> KernelSchedule | None:
    outcome = engine.solve(
        model.model,
        run.clock,
        seed=run.seed,
        seconds=share * run.clock.remaining(),
        parameters=PARAMETERS,
    )
    return None if outcome.values is None else extract(instance, model, outcome.values)


def extract(instance: Instance, model: KernelModel, values: list[int]) -> KernelSchedule:
    """The schedule of a linked solution."""
    slots = model.slots(values)
    starts = [s + model.interval * k for s, k in zip(slots.slot, slots.stage, strict=True)]
    return schedule_from(instance, model.interval, starts, slots.group, slots.depth)


# ---------------------------------------------------------------------- further objectives


def improve_levels(instance: Instance, run: Run) -> None:
    """Optimise the objectives after the interval one by one, the earlier ones frozen."""
    names = [o.name for o in run.objectives]
    for level, name in enumerate(names):
        if name == "initiation_interval" or run.proved(level):
            continue
        if run.done() or run.incumbent is None:
            return
        share = 1.0 if level == len(names) - 1 else 0.5
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
        horizon += 2 * interval
    model = KernelModel(instance, interval, run.clock, horizon=horizon)
    for name in names[:level]:
        if name not in ("initiation_interval", "length"):
            model.model.add(EXPRESSIONS[name](model) <= values[name])
    target = EXPRESSIONS[names[level]](model)
    if isinstance(target, int):
        run.raise_bound(Bound(target, "cp-sat", names[level], {}, incumbent.values[:level]))
        return
    model.model.minimize(target)
    hint(instance, model, schedule)
    given = incumbent.values[:level]

    def on_solution(found: list[int]) -> None:
        run.offer(lambda: extract(instance, model, found), "cp-sat", model=model.model)

    def on_bound(bound: float) -> None:
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
    """Start a linked model from a schedule."""
    placed = {p.operation: p for p in schedule.operations}
    depth = {b.buffer: b.depth for b in schedule.buffers}

    def give(term: object, value: int) -> None:
        if not isinstance(term, int):
            model.model.add_hint(term, value)

    relabel: dict[int, int] = {0: 0}
    for o, name in enumerate(instance.ids):
        p = placed[name]
        give(model.v.slot[o], p.slot)
        give(model.v.stage[o], p.stage)
        if p.group is not None:
            # The model numbers groups by their first member.
            relabel.setdefault(p.group, len(relabel))
    renamed = all(o.group is None for o in instance.problem.operations)
    for o, row in enumerate(model.v.member):
        group = placed[instance.ids[o]].group
        assert group is not None
        chosen = relabel[group] if renamed else group
        for g, term in enumerate(row):
            give(term, int(g == chosen))
    for b, term in zip(instance.problem.buffers, model.v.depth, strict=True):
        give(term, depth[b.name])


__all__ = ["monotone", "saturation", "search", "why_not"]
