"""Which instance serves whom: prefixes computed once per instance against balance."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from cpsched.core import exact
from cpsched.errors import OutOfTime, ProblemError
from cpsched.families.serving.check_static import (
    check_routing,
    held_units,
    migration_rounds,
    prefix_tree,
)
from cpsched.families.serving.migration import MigrationPlan
from cpsched.families.serving.prepare import GRACE, NORMAL
from cpsched.families.serving.problem import ServingProblem, ServingSchedule
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run


class Loads:
    """Units on every instance while requests come and go: private ones, and shared blocks once."""

    def __init__(self, p: ServingProblem) -> None:
        machines = p.machines
        self.speed = [m.speed for m in machines]
        self.room = [math.inf if m.capacity is None else m.capacity for m in machines]
        self.every = range(len(machines))
        self.candidates = [r.candidates for r in p.requests]
        self.sizes, paths = prefix_tree(p)
        self.paths = [paths[r.id] for r in p.requests]
        self.private = [
            r.prompt + r.output - sum(self.sizes[key] for key in path)
            for r, path in zip(p.requests, self.paths, strict=True)
        ]
        self.users: list[dict[int, int]] = [{} for _ in self.speed]
        self.units = [0] * len(self.speed)

    def extra(self, i: int, g: int) -> int:
        users = self.users[g]
        return self.private[i] + sum(self.sizes[key] for key in self.paths[i] if not users.get(key))

    def add(self, i: int, g: int) -> None:
        self.units[g] += self.extra(i, g)
        for key in self.paths[i]:
            self.users[g][key] = self.users[g].get(key, 0) + 1

    def remove(self, i: int, g: int) -> None:
        for key in self.paths[i]:
            self.users[g][key] -= 1
        self.units[g] -= self.extra(i, g)

    def load(self, g: int) -> float:
        return self.units[g] / self.speed[g]

    def choices(self, i: int) -> Sequence[int]:
        """Instances that a request may go to."""
        return self.candidates[i] or self.every


def _running(p: ServingProblem) -> Loads:
    """The instances as they are before anybody is routed."""
    loads = Loads(p)
    for i, r in enumerate(p.requests):
        if r.instance is not None:
            loads.add(i, r.instance)
    return loads


def schedule_of(p: ServingProblem, where: list[int], clock: Clock | None = None) -> ServingSchedule:
    """The assignment with an order of migrations in which every step fits.

    Raises
    ------
    OutOfTime
        When a long order was not found by the end of the clock.
    """
    if p.network is not None:
        return _timed(p, where, clock)
    pending = [
        (i, r.instance, g)
        for i, (r, g) in enumerate(zip(p.requests, where, strict=True))
        if r.instance is not None and r.instance != g
    ]
    loads = _running(p)
    moves: list[dict[str, Any]] = []
    progress = True
    while pending and progress:
        blocked = []
        for i, source, g in pending:
            _on_time(clock, len(pending))
            if loads.units[g] + loads.extra(i, g) <= loads.room[g]:
                loads.remove(i, source)
                loads.add(i, g)
                moves.append({"request": p.requests[i].id, "from": source, "to": g})
            else:
                blocked.append((i, source, g))
        progress = len(blocked) < len(pending)
        pending = blocked
    # What cannot move in any order is left for the checker to refuse.
    moves += [{"request": p.requests[i].id, "from": source, "to": g} for i, source, g in pending]
    return _routed(p, where, moves)


def _on_time(clock: Clock | None, work: int) -> None:
    if clock is not None and work > NORMAL and clock.elapsed() > clock.limit + GRACE:
        raise OutOfTime("the order of the migrations was not found in time")


def _routed(p: ServingProblem, where: list[int], moves: list[dict[str, Any]]) -> ServingSchedule:
    placed = [
        {"request": r.id, "instance": g, "start": r.arrival, "end": r.arrival + r.output}
        for r, g in zip(p.requests, where, strict=True)
    ]
    return ServingSchedule.model_validate({"requests": placed, "migrations": moves})


def _timed(p: ServingProblem, where: list[int], clock: Clock | None) -> ServingSchedule:
    """Live migrations over the network: longest first, each as early as lines and memory allow.

    A request is on both instances while it moves, so its room at the source is free at its end.
    """
    assert p.network is not None
    pending = [
        (i, r.instance, g)
        for i, (r, g) in enumerate(zip(p.requests, where, strict=True))
        if r.instance is not None and r.instance != g
    ]
    pending.sort(key=lambda one: -migration_rounds(p, p.requests[one[0]]))
    loads = _running(p)
    lines = p.network.transfers or len(pending)
    going: list[tuple[int, int, int]] = []
    moves: list[dict[str, Any]] = []
    time = 0
    while pending or going:
        while going and going[0][0] <= time:
            _, i, source = heapq.heappop(going)
            loads.remove(i, source)
        blocked = []
        for k, (i, source, g) in enumerate(pending):
            if len(going) >= lines:
                blocked += pending[k:]
                break
            _on_time(clock, len(pending))
            if loads.units[g] + loads.extra(i, g) > loads.room[g]:
                blocked.append((i, source, g))
                continue
            loads.add(i, g)
            end = time + migration_rounds(p, p.requests[i])
            heapq.heappush(going, (end, i, source))
            name = p.requests[i].id
            moves.append({"request": name, "from": source, "to": g, "start": time, "end": end})
        pending = blocked
        if not going:
            break
        time = max(time, going[0][0])
    # What fits in no order is left out, for the checker to refuse.
    return _routed(p, where, moves)


def _offer(p: ServingProblem, run: Run, where: list[int], source: str) -> bool:
    schedule = schedule_of(p, where, run.clock)
    return not check_routing(p, schedule) and run.offer(schedule, source)


def greedy(p: ServingProblem, run: Run) -> None:
    """Stay, affinity, and largest first onto the least loaded; then moves and swaps."""
    if all(r.instance is not None for r in p.requests):
        _offer(p, run, [r.instance or 0 for r in p.requests], "greedy:stay")
    for affinity in (True, False):
        if run.incumbent is not None and run.clock.expired():
            return
        loads = Loads(p)
        where = [-1] * len(p.requests)
        left = math.inf if p.move_limit is None else p.move_limit
        order = sorted(
            range(len(where)),
            key=lambda i: (p.requests[i].instance is None, -loads.private[i]),
        )
        if affinity:
            order.sort(key=lambda i: p.requests[i].prefix)
        for count, i in enumerate(order):
            if not count % 64 and len(order) * len(loads.every) > 100 * NORMAL:
                if run.incumbent is not None:
                    run.clock.check()
                _on_time(run.clock, len(order) * len(loads.every))
            home = p.requests[i].instance
            best = None
            for g in loads.choices(i):
                extra = loads.extra(i, g)
                moved = held_units(p.requests[i]) if home is not None and g != home else 0
                if moved > left:
                    continue
                fits = loads.units[g] + extra <= loads.room[g]
                finish = (loads.units[g] + extra) / loads.speed[g]
                key = (not fits, finish, extra)
                if best is None or key < best[0]:
                    best = (key, g, moved)
            if best is None:
                return
            left -= best[2]
            where[i] = best[1]
            loads.add(i, best[1])
        name = "affinity" if affinity else "largest-first"
        _offer(p, run, where, f"greedy:{name}")


def bounds(p: ServingProblem, run: Run) -> None:
    """All work shared evenly; the longest request alone; nothing moves for free."""
    for objective in run.objectives:
        for argument in ("even-share", "one-request"):
            value = _value(p, argument, objective.name)
            if value is not None:
                run.raise_bound(Bound(value, argument, objective.name))


def _value(p: ServingProblem, argument: str, objective: str) -> Any:
    if objective in ("moves", "migration_rounds"):
        return 0
    speeds = [Fraction(m.speed) for m in p.machines]
    if argument == "even-share":
        tree = prefix_tree(p)
        work = sum(tree.size) + sum(r.prompt + r.output - tree.shared(r.id) for r in p.requests)
        bound = Fraction(work) / sum(speeds)
        if all(s == 1 for s in speeds):
            return -(-bound.numerator // bound.denominator)
        return float(bound)
    longest: dict[Fraction, int] = {}
    top = max(speeds)
    for r in p.requests:
        fastest = max(speeds[g] for g in r.candidates) if r.candidates else top
        longest[fastest] = max(longest.get(fastest, 0), r.prompt + r.output)
    alone = max(units / speed for speed, units in longest.items())
    return int(alone) if alone.denominator == 1 else float(alone)


def search(p: ServingProblem, run: Run) -> None:
    """Local search, CP-SAT, and both again, each time for longer, until the run is done."""
    _local(p, run, 0.3)
    small = len(p.requests) * len(p.machines) <= 100_000
    share = 0.7
    for turn in itertools.count(1):
        exact_ran = small and not run.done() and _exact(p, run, share)
        moved = _local(p, run, 1.0, turn)
        if run.done() or run.clock.limit == math.inf or not (exact_ran or moved):
            return
        share = 1.0


def _local(p: ServingProblem, run: Run, share: float, turn: int = 0) -> bool:
    """Move or swap requests off the fullest instance; keep what does not raise the top.

    Ends when many steps in a row did not lower the top; every ``turn`` takes steps of its own.
    Returns whether there is anything to move at all.
    """
    if run.incumbent is None or not run.objectives or run.objectives[0].name != "max_load":
        return False
    rng = random.Random(run.seed + 1 + 7919 * turn)
    end = run.clock.remaining() * (1.0 - share)
    loads = Loads(p)
    index = {r.id: i for i, r in enumerate(p.requests)}
    where = [0] * len(p.requests)
    for one in run.incumbent.schedule.requests:
        where[index[one.request]] = one.instance
    for i, g in enumerate(where):
        loads.add(i, g)
    moved = sum(
        held_units(r)
        for r, g in zip(p.requests, where, strict=True)
        if r.instance is not None and r.instance != g
    )
    limit = math.inf if p.move_limit is None else p.move_limit
    best = max(loads.load(g) for g in range(len(loads.speed)))
    misses = 0
    most = 200 * (len(where) + 10)
    while not run.done() and run.clock.remaining() > end and misses < most:
        run.clock.spend(2e-5)
        misses += 1
        top = max(range(len(loads.speed)), key=loads.load)
        mine = [i for i, g in enumerate(where) if g == top]
        if not mine or len(loads.speed) < 2:
            return False
        i = rng.choice(mine)
        steps = [(i, rng.choice(loads.choices(i)))]
        if rng.random() < 0.5:
            j = rng.randrange(len(where))
            if where[j] == steps[0][1] and top in loads.choices(j):
                steps.append((j, top))
        before = [(k, where[k]) for k, _ in steps]

        def change(what: list[tuple[int, int]]) -> int:
            shift = 0
            for k, g in what:
                home = p.requests[k].instance
                if home is not None:
                    units = held_units(p.requests[k])
                    shift += units * ((g != home) - (where[k] != home))
                loads.remove(k, where[k])
                loads.add(k, g)
                where[k] = g
            return shift

        shift = change(steps)
        value = max(loads.load(g) for g in range(len(loads.speed)))
        fits = all(u <= r for u, r in zip(loads.units, loads.room, strict=True))
        if value > best or not fits or moved + shift > limit:
            change(before[::-1])
            continue
        moved += shift
        if value < best:
            best = value
            misses = 0
            _offer(p, run, where, "local-search")
    return True


def _exact(p: ServingProblem, run: Run, share: float) -> bool:
    """CP-SAT for a share of the time left; whether there is a model."""
    if any(m.speed != 1.0 for m in p.machines):
        return False

    def build(level: int) -> exact.Built:
        from ortools.sat.python import cp_model

        model = cp_model.CpModel()
        loads = Loads(p)
        machines = range(len(p.machines))
        x: list[dict[int, Any]] = []
        terms: list[list[Any]] = [[] for _ in machines]
        sizes: list[list[int]] = [[] for _ in machines]
        held: dict[tuple[int, int], Any] = {}
        far: list[Any] = []
        far_units: list[int] = []
        for i, r in enumerate(p.requests):
            if not i % 64:
                run.clock.check()
            mine = {g: model.new_bool_var("") for g in loads.choices(i)}
            model.add_exactly_one(mine.values())
            x.append(mine)
            for g, literal in mine.items():
                terms[g].append(literal)
                sizes[g].append(loads.private[i])
                for key in loads.paths[i]:
                    node = held.get((g, key))
                    if node is None:
                        node = held[g, key] = model.new_bool_var("")
                        terms[g].append(node)
                        sizes[g].append(loads.sizes[key])
                    model.add_implication(literal, node)
                if r.instance is not None and g != r.instance:
                    far.append(literal)
                    far_units.append(held_units(r))
        weighted = cp_model.LinearExpr.weighted_sum
        top = model.new_int_var(0, sum(loads.private) + sum(loads.sizes), "max_load")
        for g in machines:
            units = weighted(terms[g], sizes[g])
            model.add(units <= top)
            if loads.room[g] < math.inf:
                model.add(units <= int(loads.room[g]))
        moves = weighted(far, far_units) if far else 0
        if p.move_limit is not None and far:
            model.add(moves <= p.move_limit)
        plan = MigrationPlan(p, model, x) if stepwise else None
        values = {"max_load": top, "moves": moves}
        values["migration_rounds"] = 0 if plan is None else plan.last
        for k, objective in enumerate(run.objectives[: level + 1]):
            if k < level and run.incumbent is not None:
                model.add(values[objective.name] <= int(run.incumbent.values[k]))
            elif k == level:
                model.minimize(values[objective.name])
        if run.incumbent is not None:
            spot = {one.request: one.instance for one in run.incumbent.schedule.requests}
            for r, mine in zip(p.requests, x, strict=True):
                for g, literal in mine.items():
                    model.add_hint(literal, spot[r.id] == g)

        def extract(found: list[int]) -> ServingSchedule:
            where = [next(g for g, b in mine.items() if found[b.index]) for mine in x]
            return (
                schedule_of(p, where, run.clock)
                if plan is None
                else _routed(p, where, plan.moves(found, where))
            )

        return exact.Built(model, extract)

    # Migrations must also fit step by step.
    running = any(r.instance is not None for r in p.requests)
    stepwise = running and (
        any(m.capacity is not None for m in p.machines)
        or any(o.name == "migration_rounds" for o in run.objectives)
    )
    if stepwise and not MigrationPlan.applies(p):
        return False
    exact.solve_levels(run, build, seconds=share * run.clock.remaining())
    return True


def recompute(p: ServingProblem, bound: Bound) -> Any:
    """The value of a bound of this question."""
    value = None
    if bound.argument in ("even-share", "one-request"):
        value = _value(p, bound.argument, bound.objective)
    if value is None:
        raise ProblemError(
            "the argument cannot be recomputed",
            value=bound.argument,
            remedy="Recompute another bound.",
        )
    return value
