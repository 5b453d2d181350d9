"""Whom to evict: the covering knapsack, solved exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cpsched.core import exact
from cpsched.errors import Infeasible, ProblemError
from cpsched.families.serving.check_static import held_units, recompute_cost
from cpsched.families.serving.problem import ServingProblem, ServingSchedule
from cpsched.result import Bound

if TYPE_CHECKING:
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run

#: Table entries up to which the dynamic program is used; beyond it CP-SAT solves the model.
LARGEST_TABLE = 100_000_000


def covering(
    sizes: list[int], costs: list[int], need: int, clock: Clock | None = None
) -> tuple[int, list[int]] | None:
    """Cheapest subset with sizes of at least ``need`` in sum: its cost and indices.

    Dynamic program over freed units, O(items * need); None when all together are too small.

    Raises
    ------
    OutOfTime
        At the end of the clock.
    """
    far = 2**62
    best = np.full(need + 1, far, np.int64)
    best[0] = 0
    taken = np.zeros((len(sizes), need + 1), np.bool_)
    for k, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
        if clock is not None:
            clock.check()
        previous = np.empty_like(best)
        step = min(size, need)
        previous[step:] = best[: need + 1 - step]
        previous[:step] = best[0]
        with_it = np.minimum(far, previous + cost)
        taken[k] = with_it < best
        best = np.minimum(best, with_it)
    if best[need] >= far:
        return None
    chosen, left = [], need
    for k in range(len(sizes) - 1, -1, -1):
        if taken[k, left]:
            chosen.append(k)
            left = max(0, left - sizes[k])
    return int(best[need]), chosen[::-1]


def _schedule(p: ServingProblem, recomputed: list[int], swapped: list[int]) -> ServingSchedule:
    evictions = [{"request": p.requests[i].id} for i in recomputed]
    evictions += [{"request": p.requests[i].id, "how": "swap"} for i in swapped]
    return ServingSchedule.model_validate({"evictions": evictions})


def _swappable(p: ServingProblem) -> bool:
    return p.host_free > 0 and any(r.swap_cost is not None for r in p.requests)


def _small(p: ServingProblem) -> bool:
    dearest = sum(recompute_cost(p, r) for r in p.requests)
    return (p.need + 1) * len(p.requests) <= LARGEST_TABLE and dearest < 2**61


def greedy(p: ServingProblem, run: Run) -> None:
    """Victims by cost per unit, with what turned out superfluous given back; then exactly."""
    held = [held_units(r) for r in p.requests]
    if sum(held) < p.need:
        raise Infeasible(f"only {sum(held)} units are held, {p.need} are needed", "all-evicted")
    costs = [recompute_cost(p, r) for r in p.requests]
    order = sorted(range(len(held)), key=lambda i: (costs[i] / max(1, held[i]), held[i]))
    chosen: dict[int, None] = {}
    freed = 0
    for i in order:
        if freed >= p.need:
            break
        chosen[i] = None
        freed += held[i]
    for i in sorted(chosen, key=lambda i: -costs[i]):
        if freed - held[i] >= p.need:
            del chosen[i]
            freed -= held[i]
    run.offer(_schedule(p, list(chosen), []), "greedy:cheapest")
    if _small(p) and not _swappable(p):
        found = covering(held, costs, p.need, run.clock)
        assert found is not None
        run.offer(_schedule(p, found[1], []), "covering-knapsack")
        # The cost is the proof as well: no second run of it in `bounds`.
        for objective in run.objectives:
            value = found[0] * p.block_tokens
            run.raise_bound(Bound(value, "covering-knapsack", objective.name))


def bounds(p: ServingProblem, run: Run) -> None:
    """The fractional knapsack; the knapsack itself was solved before where its table fits."""
    for objective in run.objectives:
        for argument in ("fractional-knapsack", "covering-knapsack"):
            solved = argument != "fractional-knapsack" and run.optimal()
            if argument == "fractional-knapsack" or (
                not solved and _small(p) and not _swappable(p) and not run.clock.expired()
            ):
                value = _value(p, argument, run.clock)
                run.raise_bound(Bound(value, argument, objective.name))


def _value(p: ServingProblem, argument: str, clock: Clock | None = None) -> int:
    held = [held_units(r) for r in p.requests]
    costs = [recompute_cost(p, r) for r in p.requests]
    if argument == "covering-knapsack":
        found = covering(held, costs, p.need, clock)
        assert found is not None
        return found[0] * p.block_tokens
    if p.host_free > 0:
        costs = [
            c if r.swap_cost is None else min(c, r.swap_cost)
            for c, r in zip(costs, p.requests, strict=True)
        ]
    left, total = p.need, 0
    for i in sorted(range(len(held)), key=lambda i: costs[i] / max(1, held[i])):
        if held[i] >= left:
            return (total + (-(-costs[i] * left // held[i]) if held[i] else 0)) * p.block_tokens
        left -= held[i]
        total += costs[i]
    return total * p.block_tokens


def search(p: ServingProblem, run: Run) -> None:
    """CP-SAT, for swapping and for tables that are too large."""

    def build(level: int) -> exact.Built:
        from ortools.sat.python import cp_model

        model = cp_model.CpModel()
        held = [held_units(r) for r in p.requests]
        gone = [model.new_bool_var("") for _ in p.requests]
        swap = [model.new_bool_var("") for _ in p.requests]
        for k, (r, x, y) in enumerate(zip(p.requests, gone, swap, strict=True)):
            if not k % 256:
                run.clock.check()
            model.add(x + y <= 1)
            if r.swap_cost is None:
                model.add(y == 0)
        weighted = cp_model.LinearExpr.weighted_sum
        model.add(weighted(gone + swap, held + held) >= p.need)
        model.add(weighted(swap, held) <= p.host_free)
        costs = [recompute_cost(p, r) for r in p.requests]
        swaps = [r.swap_cost or 0 for r in p.requests]
        if run.objectives:
            model.minimize(weighted(gone + swap, costs + swaps))

        def extract(values: list[int]) -> ServingSchedule:
            return _schedule(
                p,
                [i for i, x in enumerate(gone) if values[x.index]],
                [i for i, y in enumerate(swap) if values[y.index]],
            )

        return exact.Built(model, extract, value=lambda v: round(v) * p.block_tokens)

    exact.solve_levels(run, build)


def recompute(p: ServingProblem, bound: Bound) -> int:
    """The value of a bound of this question."""
    if bound.argument not in ("fractional-knapsack", "covering-knapsack"):
        raise ProblemError(
            "the argument cannot be recomputed",
            value=bound.argument,
            remedy="Recompute another bound.",
        )
    return _value(p, bound.argument)
