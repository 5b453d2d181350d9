"""Objectives, budgets and limits of the CP-SAT model as scaled integer expressions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cpsched.families.workflow import terms
from cpsched.families.workflow.model import Variables
from cpsched.families.workflow.model_data import storage, storage_scale
from cpsched.families.workflow.prepare import integers
from cpsched.families.workflow.problem import MAXIMISED, Machine, Option
from cpsched.families.workflow.terms import exact

#: Coefficients above this ask for a careful presolve.
LARGE = 2**20


@dataclass(frozen=True)
class Expression:
    """An objective in the model: its value lies within ``slack`` of ``expression / scale``."""

    expression: Any
    scale: Fraction
    slack: Fraction

    def bound(self, objective: float, maximise: bool) -> float:
        """What a bound on the integer expression proves about the objective."""
        value = Fraction(round(objective)) / self.scale
        return float(value + self.slack if maximise else value - self.slack)

    def at_most(self, value: float) -> int:
        """The largest integer expression of a schedule with at most that value."""
        return math.floor((exact(value) * (1 + Fraction(1, 10**11)) + self.slack) * self.scale)

    def at_least(self, value: float) -> int:
        """The least integer expression of a schedule with at least that (negative) value."""
        return math.ceil((exact(value) * (1 + Fraction(1, 10**11)) - self.slack) * self.scale)


def expression(v: Variables, name: str) -> Expression:
    """The integer expression of an objective, with the auxiliary variables it needs."""
    known: dict[str, Expression] = v.notes.setdefault("expressions", {})
    if name not in known:
        known[name] = _MAKERS[name](v)
    return known[name]


def at_most(v: Variables, expression: Any, most: int) -> None:
    """Demand an upper bound of an expression that may be a plain number."""
    v.model.add(expression + v.model.new_constant(0) <= most)


def limits(v: Variables) -> None:
    """``limits`` on objective values, ``min_success`` and ``budgets``."""
    problem = v.inst.problem
    for name, limit in problem.limits.items():
        if name == "makespan":
            continue  # a deadline of every task
        e = expression(v, name)
        if name in MAXIMISED:
            at_most(v, -e.expression, -e.at_least(limit))
        else:
            at_most(v, e.expression, e.at_most(limit))
    if problem.min_success is not None and problem.min_success < 1:
        e = expression(v, "log_success")
        at_most(v, -e.expression, -e.at_least(math.log(problem.min_success) - 1e-12))
    for resource in ("cost", "energy", "carbon", "tokens"):
        budget = getattr(problem.budgets, resource)
        if budget is not None:
            e = _worst_case(v, resource)
            at_most(v, e.expression, e.at_most(budget))


def freeze(v: Variables, name: str, value: float) -> None:
    """Keep an objective at least as good as a value reached before."""
    e = expression(v, name)
    if name in MAXIMISED:
        at_most(v, -e.expression, -e.at_least(value))
    else:
        at_most(v, e.expression, e.at_most(value))


# ---------------------------------------------------------------------- time


def _makespan(v: Variables) -> Expression:
    return Expression(v.makespan, v.inst.scale / v.factor, Fraction(0))


def _ends(v: Variables) -> list[tuple[Any, float, Any, Any]]:
    """(end, release, ideal, due, weight) of every job: workflows, or none declared: see members."""
    out = []
    for flow, tasks in terms.members(v.inst.problem):
        finish = v.model.new_int_var(0, v.horizon, f"finish_{flow.id}")
        for task in tasks:
            v.model.add(finish >= v.end[v.inst.index[task.id]])
        out.append((finish, flow.release, flow.due, flow.weight))
    return out


def _weighted(
    v: Variables, parts: Sequence[tuple[Any, float]], constant: Fraction = Fraction(0)
) -> Expression:
    """Weighted sum of times (in model units)."""
    largest = max(1, 2**58 // max(1, v.horizon * max(1, len(parts))))
    scaled, scale = integers([w for _, w in parts], largest)
    coefficients = [math.floor(f) for f in scaled]
    lost = sum((f - c for f, c in zip(scaled, coefficients, strict=True)), Fraction(0))
    total = scale * v.inst.scale / v.factor
    shift = math.floor(constant * total)
    out = sum(c * e for (e, _), c in zip(parts, coefficients, strict=True)) + shift
    return Expression(out, total, (lost * v.horizon + (constant * total - shift)) / total)


def _weighted_flow_time(v: Variables) -> Expression:
    problem = v.inst.problem
    if not problem.workflows:
        parts = [(v.end[t], task.weight) for t, task in enumerate(problem.tasks)]
        base = sum((exact(t.weight) * exact(t.release) for t in problem.tasks), Fraction(0))
    else:
        ends = _ends(v)
        parts = [(finish, weight) for finish, _, _, weight in ends]
        base = sum((exact(w) * exact(r) for _, r, _, w in ends), Fraction(0))
    return _weighted(v, parts, -base)


def _weighted_tardiness(v: Variables) -> Expression:
    jobs = [(finish, due, weight) for finish, _, due, weight in _ends(v) if due is not None]
    jobs += [
        (v.end[t], task.due, task.weight)
        for t, task in enumerate(v.inst.problem.tasks)
        if task.due is not None
    ]
    parts = []
    for finish, due, weight in jobs:
        late = v.model.new_int_var(0, v.horizon, "")
        latest = math.ceil(exact(due) * v.inst.scale / v.factor)
        v.model.add(late >= finish - latest)
        parts.append((late, weight))
    return _weighted(v, parts)


def _max_slowdown(v: Variables) -> Expression:
    ideal = terms.ideal_times(v.inst.problem)
    inverse = [float(1 / exact(i)) if i > 0 else 0.0 for i in ideal]
    jobs = [(e, i) for e, i in zip(_ends(v), inverse, strict=True) if i > 0]
    largest = max(1, 2**58 // max(1, v.horizon))
    exactly = [1 / exact(i) for i in ideal if i > 0]
    common = Fraction(math.lcm(*(f.denominator for f in exactly)) if exactly else 1)
    top = max(exactly, default=Fraction(1))
    if top * common > largest:
        common = Fraction(largest) / top
    unit = common * v.inst.scale / v.factor
    slowdown = v.model.new_int_var(0, 2**60, "slowdown")
    lost = Fraction(0)
    for (finish, release, _, _), factor in zip((e for e, _ in jobs), exactly, strict=True):
        weight = math.floor(factor * common)
        lost = max(lost, (factor * common - weight) * v.horizon)
        start = math.ceil(exact(release) * v.inst.scale / v.factor)
        v.model.add(slowdown >= weight * (finish - start))
    return Expression(slowdown, unit, lost / unit)


# ---------------------------------------------------------------------- money, energy, chances


def _sum_of_choices(
    v: Variables, amounts: Mapping[tuple[int, int, int], Fraction]
) -> tuple[list[Any], list[int], Fraction, Fraction]:
    """Literals with integer coefficients for amounts per (task, row, machine)."""
    top = max((abs(a) for a in amounts.values()), default=Fraction(0))
    scale = Fraction(1)
    for a in amounts.values():
        scale = Fraction(math.lcm(scale.numerator, a.denominator))
        if top * scale > 2**40:
            break
    if top * scale > 2**40:
        scale = Fraction(2**40) / top
    literals, coefficients = [], []
    worst = Fraction(0)
    for t in range(v.inst.n):
        v.check()
        largest = Fraction(0)
        for r, group, x in v.use[t]:
            amount = amounts.get((t, r, group[0]), Fraction(0)) * scale
            whole = math.floor(amount + Fraction(1, 2))
            largest = max(largest, abs(amount - whole))
            if whole:
                literals.append(x)
                coefficients.append(whole)
        worst += largest
    if max(map(abs, coefficients), default=0) > LARGE:
        v.notes["large"] = True
    return literals, coefficients, scale, worst / scale


def _log_success(v: Variables) -> Expression:
    problem = v.inst.problem
    chance = terms.probabilities(problem)
    amounts = {}
    for t, task in enumerate(problem.tasks):
        v.check()
        for r, group, _ in v.use[t]:
            option = task.choices[int(v.inst.row_option[r])]
            value = chance.get(task.id, 1.0) * terms.log_success(option)
            amounts[t, r, group[0]] = Fraction(value)
    literals, coefficients, scale, slack = _sum_of_choices(v, amounts)
    total = sum(c * x for x, c in zip(literals, coefficients, strict=True))
    return Expression(total, scale, slack)


def _spend(
    v: Variables, resource: str, factor: Callable[[int, int], Fraction]
) -> dict[tuple[int, int, int], Fraction]:
    """Reserved spend times ``factor(task, row)`` per choice, where rates do not vary over time."""
    inst = v.inst
    problem = inst.problem
    out = {}
    for t, task in enumerate(problem.tasks):
        v.check()
        for r, group, _ in v.use[t]:
            option = task.choices[int(inst.row_option[r])]
            machine = problem.machines[group[0]]
            amount = Fraction(0)
            if resource != "carbon":
                own = exact(getattr(option, resource))
                amount = own * option.samples * (option.retries + 1)
            steps = terms.rate_steps(machine, resource)
            if len(steps) == 1 and steps[0][1] > 0:
                rate = _exact_rates(machine, resource)[0]
                amount += rate * _portion(option, machine) * terms.exact_duration(option, machine)
            out[t, r, group[0]] = amount * factor(t, r)
    return out


def _exact_rates(machine: Machine, resource: str) -> list[Fraction]:
    """`terms.rate_steps` without its times, exactly."""
    if resource == "cost":
        prices = [s.value for s in machine.prices] or [machine.price]
        return [exact(price) / 3600 for price in prices]
    if resource == "energy":
        return [exact(machine.power)]
    return [exact(s.value) * exact(machine.power) / 3_600_000 for s in machine.carbon]


def _portion(option: Option, machine: Machine) -> Fraction:
    """`terms.share`, exactly."""
    if machine.cores is None:
        return Fraction(1)
    return exact(option.cores) / exact(machine.cores) if machine.cores > 0 else Fraction(0)


def _varying(
    v: Variables, resource: str, factor: Callable[[int, int], Fraction], scale: Fraction
) -> dict[int, list[Any]]:
    """Per task the scaled spend on machines whose rate varies over time, as variables.

    The spend is F(end) - F(start) with F the integral of the rate, linear within each step.
    """
    inst, model = v.inst, v.model
    out: dict[int, list[Any]] = defaultdict(list)
    per_tick = v.factor / inst.scale
    for p, machine in enumerate(inst.problem.machines):
        steps = terms.rate_steps(machine, resource)
        if len(steps) == 1:
            continue
        begins = [math.floor(exact(s) / per_tick) for s, _ in steps]
        for t, task in enumerate(inst.problem.tasks):
            v.check()
            for r, group, x in v.use[t]:
                if group != (p,) or v.length(r, p) == 0:
                    continue
                option = task.choices[int(inst.row_option[r])]
                weight = _portion(option, machine) * factor(t, r) * scale * per_tick
                slopes = [math.floor(weight * rate) for rate in _exact_rates(machine, resource)]
                base = [0]
                for k in range(1, len(steps)):
                    base.append(base[-1] + slopes[k - 1] * (begins[k] - begins[k - 1]))
                top = base[-1] + slopes[-1] * max(0, v.horizon - begins[-1])
                spent = model.new_int_var(0, max(0, top), "")
                ends = []
                for at in (v.start[t], v.start[t] + v.length(r, p)):
                    level = model.new_int_var(0, max(0, top), "")
                    picks = [model.new_bool_var("") for _ in steps]
                    model.add_exactly_one(picks)
                    for k, pick in enumerate(picks):
                        enforced = [pick] if isinstance(x, int) else [pick, x]
                        model.add(at >= begins[k]).only_enforce_if(enforced)
                        if k + 1 < len(steps):
                            model.add(at <= begins[k + 1]).only_enforce_if(enforced)
                        model.add(level == base[k] + slopes[k] * (at - begins[k])).only_enforce_if(
                            enforced
                        )
                    ends.append(level)
                condition = [] if isinstance(x, int) else [x]
                model.add(spent >= ends[1] - ends[0]).only_enforce_if(condition)
                out[t].append(spent)
    return out


def _leases(v: Variables, scale: Fraction) -> list[tuple[Any, int]]:
    """Quanta of machines that are billed by quantum, with their scaled price."""
    if "leases" not in v.notes:
        inst, model = v.inst, v.model
        found = []
        for p, machine in enumerate(inst.problem.machines):
            if not (machine.billing_quantum and machine.price):
                continue
            first = model.new_int_var(0, v.horizon, f"lease_{p}_from")
            last = model.new_int_var(0, v.horizon, f"lease_{p}_to")
            model.add(last >= first)
            for t in range(inst.n):
                v.check()
                for r, group, x in v.use[t]:
                    if group == (p,):
                        on = [] if isinstance(x, int) else [x]
                        model.add(first <= v.start[t]).only_enforce_if(on)
                        model.add(last >= v.start[t] + v.length(r, p)).only_enforce_if(on)
            quantum = exact(machine.billing_quantum) * inst.scale / v.factor
            quanta = model.new_int_var(0, math.ceil(v.horizon / quantum) + 1, f"quanta_{p}")
            model.add(math.ceil(quantum) * quanta >= last - first - (1 if v.factor > 1 else 0))
            found.append((quanta, exact(machine.billing_quantum) * exact(machine.price) / 3600))
        v.notes["leases"] = found
    return [(q, math.floor(price * scale + Fraction(1, 2))) for q, price in v.notes["leases"]]


def _money(
    v: Variables, resource: str, factor: Callable[[int, int], Fraction]
) -> tuple[dict[int, list[Any]], Any, Fraction, Fraction]:
    """(scaled terms per task, common terms, scale, slack) of a spend."""
    amounts = _spend(v, resource, factor)
    machines = v.inst.problem.machines
    varying = any(len(terms.rate_steps(mc, resource)) > 1 for mc in machines)
    leased = resource == "cost" and any(mc.billing_quantum and mc.price for mc in machines)
    values = list(amounts.values())
    quanta_prices = [
        exact(mc.billing_quantum) * exact(mc.price) / 3600
        for mc in machines
        if leased and mc.billing_quantum and mc.price
    ]
    slopes: list[Fraction] = []
    steepest: dict[int, Fraction] = {}
    if varying:
        # What one unit of time adds must be whole too.
        per_tick = v.factor / v.inst.scale
        for t, task in enumerate(v.inst.problem.tasks):
            v.check()
            own = [
                _portion(task.choices[int(v.inst.row_option[r])], machines[group[0]])
                * factor(t, r)
                * per_tick
                * rate
                for r, group, _ in v.use[t]
                for rate in _exact_rates(machines[group[0]], resource)
            ]
            slopes += own
            steepest[t] = max(own, default=Fraction(0))
    top = max([abs(a) for a in values + quanta_prices], default=Fraction(0))
    top = max([top, *(s * max(1, v.horizon) for s in slopes)])
    scale = Fraction(1)
    for a in values + quanta_prices + slopes:
        scale = Fraction(math.lcm(scale.numerator, a.denominator))
        if top * scale > 2**40:
            break
    if top * scale > 2**40:
        scale = Fraction(2**40) / top
    parts: dict[int, list[Any]] = defaultdict(list)
    slack = Fraction(0)
    for t in range(v.inst.n):
        v.check()
        largest = Fraction(0)
        for r, group, x in v.use[t]:
            amount = amounts[t, r, group[0]] * scale
            whole = math.floor(amount + Fraction(1, 2))
            largest = max(largest, abs(amount - whole))
            if whole:
                parts[t].append(whole * x)
        slack += largest
    if varying:
        for t, spent in _varying(v, resource, factor, scale).items():
            parts[t] += spent
            # Slopes are rounded down, and a step's beginning by less than one unit of time.
            whole_slopes = all((s * scale).denominator == 1 for s in slopes)
            slack += 0 if whole_slopes and v.factor == 1 and v.inst.exact else 4 * v.horizon
            if v.notes.get("between"):
                slack += steepest[t] * scale
    common: Any = 0
    if leased:
        for quanta, price in _leases(v, scale):
            common = common + price * quanta
            slack += 1 if scale.denominator != 1 or not v.inst.exact else 0
    return parts, common, scale, slack / scale


def _expected(resource: str) -> Callable[[Variables], Expression]:
    def make(v: Variables) -> Expression:
        chance = terms.probabilities(v.inst.problem)

        def factor(t: int, r: int) -> Fraction:
            task = v.inst.problem.tasks[t]
            option = task.choices[int(v.inst.row_option[r])]
            part = terms.expected_part(option)
            weight = chance.get(task.id, 1.0)
            return (Fraction(1) if part == 1.0 else Fraction(part)) * exact(weight)

        parts, common, scale, slack = _money(v, resource, factor)
        return Expression(sum(x for xs in parts.values() for x in xs) + common, scale, slack)

    return make


def _worst_case(v: Variables, resource: str) -> Expression:
    """Spend with every try and, per branch, the dearest alternative."""
    parts, common, scale, slack = _money(v, resource, lambda t, r: Fraction(1))
    where = terms.alternatives(v.inst.problem)
    groups: dict[tuple[int, int] | None, list[Any]] = defaultdict(list)
    for t, xs in parts.items():
        groups[where.get(v.inst.problem.tasks[t].id)] += xs
    total = sum(groups.pop(None, [])) + common
    dearest: dict[int, Any] = {}
    for key, xs in groups.items():
        assert key is not None
        if key[0] not in dearest:
            dearest[key[0]] = v.model.new_int_var(0, 2**55, f"dearest_{key[0]}")
        v.model.add(dearest[key[0]] >= sum(xs))
    return Expression(total + sum(dearest.values()), scale, slack)


def _peak_storage(v: Variables) -> Expression:
    problem = v.inst.problem
    sizes = [e.size for e in problem.edges if e.size > 0] + [f.size for f in problem.files]
    sizes += [mc.storage for mc in problem.machines if mc.storage is not None]
    scale = storage_scale([s for s in sizes if s > 0])
    least = max((exact(size) for size in terms.held_at_once(problem)), default=Fraction(0))
    # Far larger domains overflow in the solver: all files on all machines are enough.
    most = math.ceil(sum(map(exact, sizes), Fraction(0)) * scale) * v.inst.m
    peak = v.model.new_int_var(0, min(most, 2**55), "peak")
    storage(v, peak)
    v.notes["stored"] = True
    # The model has units of its own, of the files that it knows.
    scale = v.notes.get("storage_scale", scale)
    v.model.add(peak >= math.floor(least * scale))
    return Expression(peak, scale, Fraction(0))


_MAKERS: dict[str, Callable[[Variables], Expression]] = {
    "makespan": _makespan,
    "cost": _expected("cost"),
    "energy": _expected("energy"),
    "carbon": _expected("carbon"),
    "weighted_flow_time": _weighted_flow_time,
    "max_slowdown": _max_slowdown,
    "weighted_tardiness": _weighted_tardiness,
    "log_success": _log_success,
    "peak_storage": _peak_storage,
}
