"""How many instances serve a trace within its SLO: a bound by energy, a witness by scheduling."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cpsched.families.serving import model, quick
from cpsched.families.serving.greedy import POLICIES, run_policy
from cpsched.families.serving.measure import check_seconds, energy_seconds, late, misses
from cpsched.families.serving.prepare import UNLIMITED, Prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.run import Run

    Ints = NDArray[np.int64]

#: Windows looked at by the energy bound: this many begins times this many ends.
WINDOWS = 400
#: Orders tried on one choice of machines.
SHAKES = 60


def energy_bound(q: Prepared, objective: str) -> int:
    """Fewest instances (or least cost) that have room for what must happen in some window.

    A request that meets its SLO must, between its arrival and its deadline, hold its memory
    volume and process its tokens. For a window [a, b) count the requests that arrive and are due
    in it, less the allowed misses (those that need most), and divide by what one instance offers
    in b - a rounds. Prefill tokens are due by the first token, all work by ``end_by``; requests
    without deadlines count in the windows that reach the end of time.
    """
    if all(m.role != "mixed" for m in q.problem.machines):
        return _split_bound(q, objective)
    needs = _needs(q)
    best = 1 if q.n else 0
    machines = q.problem.machines
    prices = np.array([m.price for m in machines], np.float64)
    for need, due, limit in needs:
        most = int(limit.max())
        if most >= UNLIMITED or not most:
            continue
        amount = _densest(q.release, due, need, q.misses)
        for rounds, total in amount:
            best = max(best, -(-total // (most * rounds)))
    if objective == "instances":
        return min(best, len(machines))
    # Cheapest fractional cover is at least the best price per unit of the scarcest resource.
    cost = float(prices.min()) if q.n else 0.0
    for need, due, limit in needs:
        offer = limit.astype(np.float64)
        if limit.max() >= UNLIMITED or not limit.max():
            continue
        rate = float((prices / np.maximum(offer, 1e-9)).min())
        for rounds, total in _densest(q.release, due, need, q.misses):
            cost = max(cost, total / rounds * rate)
    return int(np.ceil(cost - 1e-6))


def _split_bound(q: Prepared, objective: str) -> int:
    """The same with prefill and decode apart: the prompts need the ones, the outputs the others.

    An output follows its first unit without a break, so it is due that long after the first.
    """
    if not q.n:
        return 0
    prices = np.array([m.price for m in q.problem.machines], np.float64)
    prefill = np.array([m.role == "prefill" for m in q.problem.machines])
    due = np.minimum(q.end_by, q.first_by - np.minimum(1, q.output) + q.output)
    # Shared blocks may be there already: only what is private counts.
    held = q.private * q.output + q.output * (q.output + 1) // 2
    demands: list[tuple[NDArray[np.bool_], list[tuple[Ints, Ints, Ints]]]] = [
        (prefill, [(q.prompt, q.first_by, q.budget)]),
        (
            ~prefill,
            [(held, due, q.capacity), (q.output, due, q.budget), (q.output, due, q.max_batch)],
        ),
    ]
    whole = 0.0
    for mine, needs in demands:
        least = 1.0 if objective == "instances" else float(prices[mine].min())
        for need, by, limit in needs if q.problem.slo_percent is not None else []:
            if limit[mine].max() >= UNLIMITED or not limit[mine].max():
                continue
            for rounds, total in _densest(q.release, by, need, q.misses):
                if objective == "instances":
                    least = max(least, -(-total // (int(limit[mine].max()) * rounds)))
                else:
                    rate = float((prices[mine] / np.maximum(limit[mine], 1)).min())
                    least = max(least, total / rounds * rate)
        whole += least
    if objective == "instances":
        whole = min(whole, float(q.machines))
    return int(np.ceil(whole - 1e-6))


def _needs(q: Prepared) -> list[tuple[Ints, Ints, Ints]]:
    """(need, due round, limit per instance) by argument."""
    if q.problem.slo_percent is None:
        return []
    c_first = q.prefill.min(axis=0)
    sums = np.concatenate([[0], np.cumsum(q.tokens)])
    tokens = (sums[q.offset[:, 1:]] - sums[q.offset[:, :-1]]).min(axis=0)
    # The last output may come late without a deadline; the prompt is due by the first token.
    first = np.where(c_first > 0, q.prompt, 0)
    latest_start = q.first_by - c_first - np.minimum(1, q.output)
    latest_end = np.minimum(q.end_by, latest_start + q.length.max(axis=0))
    return [
        (first, q.first_by, q.budget),
        (tokens, latest_end, q.budget),
        (q.volume, latest_end, q.capacity),
        (q.length.min(axis=0), latest_end, q.max_batch),
    ]


def _densest(release: Ints, due: Ints, need: Ints, spare: int) -> list[tuple[int, int]]:
    """(rounds, need) of windows, less the ``spare`` largest needs in each.

    The windows begin and end at quantiles of releases and dues: any choice is valid.
    """
    begins = np.unique(np.quantile(release, np.linspace(0, 1, WINDOWS)).astype(np.int64))
    ends = (
        np.unique(
            np.quantile(due[due < UNLIMITED // 2], np.linspace(0, 1, WINDOWS)).astype(np.int64)
        )
        if (due < UNLIMITED // 2).any()
        else np.zeros(0, np.int64)
    )
    order = np.argsort(due, kind="stable")
    release, due, need = release[order], due[order], need[order]
    out = []
    for a in begins.tolist():
        inside = release >= a
        late, amount = due[inside], need[inside]
        total = np.concatenate([[0], np.cumsum(amount)])
        count = np.searchsorted(late, ends, side="right")
        # The spare largest of all those inside are at least the largest of any part of them.
        few = min(spare, len(amount))
        largest = (
            int(np.partition(amount, len(amount) - few)[len(amount) - few :].sum()) if few else 0
        )
        rounds = ends - a
        useful = (rounds > 0) & (total[count] > largest)
        out += list(
            zip(rounds[useful].tolist(), (total[count[useful]] - largest).tolist(), strict=True)
        )
    return out


def subset(q: Prepared, machines: list[int]) -> Prepared:
    """The same requests with some of the machines (renumbered)."""
    index = np.array(machines, np.int64)
    return replace(
        q,
        kind=q.kind[index],
        capacity=q.capacity[index],
        max_batch=q.max_batch[index],
        budget=q.budget[index],
        allowed=None if q.allowed is None else q.allowed[:, index],
    )


def serve(q: Prepared, machines: list[int], run: Run) -> tuple[Ints, Ints] | None:
    """Starts and machines within the SLO on some of the machines, by list scheduling."""
    part = subset(q, machines)
    if (q.fixed_machine >= 0).any():
        return None
    for name in ("edf", "fcfs", "svf"):
        order, skip = POLICIES[name]
        if run.clock.expired():
            return None
        start, machine = run_policy(part, order(part), skip=skip, run=run)
        if (machine < 0).any() and not q.problem.reject:
            continue
        if q.problem.slo_percent is None or misses(part, start, machine) <= q.misses:
            where = np.where(machine >= 0, np.array(machines)[machine], -1)
            return start, where
    return None


def greedy(q: Prepared, run: Run) -> None:
    """The cheapest prefixes of the machines, by price and number, that serve the trace."""
    short = not quick.affordable(q, run)
    if short or (50.0 * check_seconds(q) > run.clock.remaining() and not run.deterministic):
        quick.greedy(q, run, POLICIES["edf"][0](q), "edf")
    if short:
        return
    prices = np.array([m.price for m in q.problem.machines], np.float64)
    power = np.minimum(q.capacity, 1e18) * 1.0
    name = run.objectives[0].name if run.objectives else "instances"
    value = prices / np.maximum(power, 1.0) if name == "cost" else -power
    order = np.argsort(value, kind="stable").tolist()
    low, high = 1, q.machines
    if run.deterministic or energy_seconds(q) < 0.2 * run.clock.remaining():
        low = max(1, energy_bound(q, "instances"))
    # The number needed is near the bound: try it first, then double the distance.
    step, count, failed = 1, low, low - 1
    while count <= high:
        found = serve(q, order[:count], run)
        run.clock.spend(1e-4 * q.n)
        if found is not None:
            run.offer(lambda f=found: q.schedule(*f), f"greedy:{count}-instances")  # type: ignore[misc]
            break
        failed = count
        if count == high or run.clock.expired():
            return
        count = min(high, count + step)
        step *= 2
    while count - failed > 1 and not run.clock.expired():
        middle = (count + failed) // 2
        found = serve(q, order[:middle], run)
        run.clock.spend(1e-4 * q.n)
        if found is None:
            failed = middle
        else:
            count = middle
            run.offer(lambda f=found: q.schedule(*f), f"greedy:{count}-instances")  # type: ignore[misc]


def search(q: Prepared, run: Run) -> None:
    """Drop machines one by one (mixes of types), CP-SAT where small enough, then shaken orders."""
    from cpsched.core import exact

    if run.incumbent is not None and run.objectives and quick.affordable(q, run):
        _drop(q, run)
    if run.done():
        return
    horizon = model.full_horizon(q)
    if model.size_until(q, horizon) <= model.LARGEST_MODEL:
        options = model.options_until(q, horizon)
        exact.solve_levels(run, lambda level: model.build(q, run, level, options))
    # Without a limit nothing would end them.
    if run.objectives and quick.affordable(q, run) and run.clock.limit < np.inf:
        _shaken(q, run)


def _shaken(q: Prepared, run: Run) -> None:
    """Serve the trace with a machine less, or a cheaper one, by orders that learn from misses.

    Squeaky wheels (Joslin and Clements 1999): what was late moves forward in the order.
    """
    if (q.fixed_machine >= 0).any() or q.problem.slo_percent is None:
        return
    rng = np.random.default_rng(run.seed + 5)
    rank = np.argsort(POLICIES["edf"][0](q)).astype(np.float64)
    prices = [m.price for m in q.problem.machines]
    while run.incumbent is not None and not run.done():
        used = sorted({o.instance for o in run.incumbent.schedule.requests if o.instance >= 0})
        if not used:
            return
        victim = int(rng.choice(used))
        rest = [g for g in used if g != victim]
        others = [g for g in range(q.machines) if g not in used and prices[g] < prices[victim]]
        if others and rng.random() < 0.5:
            rest.append(int(rng.choice(others)))
        if not rest:
            return
        part, machines = subset(q, sorted(rest)), np.array(sorted(rest))
        ahead = np.zeros(q.n)
        for _ in range(SHAKES):
            if run.done():
                return
            order = np.argsort(rank - ahead + rng.normal(0.0, 0.02 * q.n, q.n), kind="stable")
            start, machine = run_policy(part, order, skip=True, run=run)
            run.clock.spend(5e-5 * q.n)
            missed = late(part, start, machine)
            ahead[missed] += 0.1 * q.n * rng.random(int(missed.sum()))
            refused = (machine < 0).any() and not q.problem.reject
            if refused or missed.sum() > q.misses:
                continue
            where = np.where(machine >= 0, machines[machine], -1)
            if run.offer(partial(q.schedule, start, where), "shaken"):
                break


def _drop(q: Prepared, run: Run) -> None:
    assert run.incumbent is not None
    used = sorted({one.instance for one in run.incumbent.schedule.requests})
    prices = [m.price for m in q.problem.machines]
    for victim in sorted(used, key=lambda g: -prices[g]):
        rest = [g for g in used if g != victim]
        others = [g for g in range(q.machines) if g not in used and prices[g] < prices[victim]]
        trials = [rest] + [[*rest, g] for g in others[:8]]
        for trial in trials:
            if run.done() or not trial:
                return
            found = serve(q, sorted(trial), run)
            run.clock.spend(1e-4 * q.n)
            if found is not None and run.offer(lambda f=found: q.schedule(*f), "drop"):  # type: ignore[misc]
                used = sorted(trial)
                break
