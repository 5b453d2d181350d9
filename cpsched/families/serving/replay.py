"""Replaying policies on a problem with true lengths, and what they lose against the optimum.

A policy that knows the true lengths gives a schedule, checked like any other. When it sees only
estimates, `simulate` runs round by round: an admission that trusted a short estimate can overflow
the memory, and then the request admitted last is evicted and recomputed.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.core import jit
from cpsched.errors import ProblemError
from cpsched.families.serving import block_cache, cache, greedy, placement, routing, staged
from cpsched.families.serving.check import check, evaluate
from cpsched.families.serving.check_cache import cache_blocks, is_program_cache
from cpsched.families.serving.check_static import held_units, recompute_cost
from cpsched.families.serving.prepare import Prepared, prepare
from cpsched.families.serving.problem import Eviction, ServingProblem, ServingSchedule
from cpsched.families.serving.simulate import simulate

if TYPE_CHECKING:
    from cpsched.result import Number

#: Policies by question.
ADMISSION = (*greedy.POLICIES, "past-future", "aggressive")
CACHE = ("lru", "fifo", "belady", "ttl")
PREEMPTION = ("least-computed", "last-admitted", "random", "cheapest")
ROUTING = ("round-robin", "least-loaded", "affinity", "two-choices")
PLACEMENT = ("stay", "eplb")
POLICIES = {
    "admission": ADMISSION,
    "capacity": ADMISSION,
    "cache": CACHE,
    "preemption": PREEMPTION,
    "routing": ROUTING,
    "placement": PLACEMENT,
}


@dataclass(frozen=True)
class Replay:
    """How a policy did.

    Attributes
    ----------
    policy, objective_name, objective
        What was replayed, and its value of the problem's first objective (None when not valid).
    schedule
        Its schedule; None when requests were evicted (they run in several pieces then).
    best, bound
        Value and bound of a solve, where one was asked for.
    regret, regret_at_most
        Relative loss against the best known schedule, and against the bound.
    evictions, recomputed
        Evictions of running requests, and units computed again because of them.
    """

    policy: str
    objective_name: str
    objective: Number | None
    schedule: ServingSchedule | None = None
    best: Number | None = None
    bound: Number | None = None
    evictions: int = 0
    recomputed: int = 0
    violations: tuple[Any, ...] = field(default=())

    def _loss(self, against: Number | None) -> float | None:
        if against is None or self.objective is None or self.violations:
            return None
        return abs(self.objective - against) / max(1.0, abs(against))

    @property
    def regret(self) -> float | None:
        """Loss against the best known schedule."""
        return self._loss(self.best)

    @property
    def regret_at_most(self) -> float | None:
        """Loss against the bound: no schedule is better than that."""
        return self._loss(self.bound)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "policy": self.policy,
            "objective_name": self.objective_name,
            "objective": self.objective,
            "best": self.best,
            "bound": self.bound,
            "regret": self.regret,
            "regret_at_most": self.regret_at_most,
            "evictions": self.evictions,
            "recomputed": self.recomputed,
            "valid": not self.violations,
            "schedule": None if self.schedule is None else self.schedule.to_dict(),
        }

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """The comparison in one line."""
        text = f"{self.policy}: {self.objective_name} {self.objective}"
        if self.violations:
            return f"{text}, NOT VALID: {self.violations[0]}"
        if self.evictions:
            text += f", {self.evictions} evictions, {self.recomputed} units recomputed"
        if self.regret is not None:
            text += f", {100 * self.regret:.1f} % worse than the best known ({self.best})"
        if self.regret_at_most is not None:
            text += f", at most {100 * self.regret_at_most:.1f} % from optimal ({self.bound})"
        return text


def replay(
    problem: ServingProblem,
    policy: str | ServingSchedule | dict[str, Any],
    *,
    estimates: str | None = None,
    time_limit: float | None = None,
    seed: int = 0,
) -> Replay:
    """Replay a policy or a plan on a problem.

    Parameters
    ----------
    policy
        A name of `POLICIES` (``ttl`` may be ``ttl=ROUNDS``), or a schedule.
    estimates
        Hide the output lengths from admission policies: ``low``, ``mean`` or ``high`` of each
        request's ``output_range`` or ``output_quantiles``, or ``qXX``, the quantile XX of all
        outputs. None shows the true lengths.
    time_limit
        Seconds for a solve to compare with; None for no comparison.

    Raises
    ------
    ProblemError
        For an unknown policy or estimate, or a plan of the wrong form.
    """
    from cpsched.families.serving import default_objectives

    name = default_objectives(problem)[0].name
    evictions = recomputed = 0
    value: Number | None = None
    schedule: ServingSchedule | None
    if isinstance(policy, str):
        known = POLICIES[problem.question]
        if policy.partition("=")[0] not in known:
            raise ProblemError(
                f"policies of the question {problem.question!r} are {', '.join(known)}",
                value=policy,
                remedy="Choose one, or pass a plan.",
            )
        label = policy
        simulated = estimates is not None or policy in ("past-future", "aggressive")
        if problem.question in ("admission", "capacity") and simulated:
            run = simulate(problem, policy, estimates or "true")
            schedule, evictions, recomputed = run.schedule, run.evictions, run.recomputed
            value = run.value(name)
        else:
            schedule = _decide(problem, policy, seed)
    else:
        label = "plan"
        schedule = policy if isinstance(policy, ServingSchedule) else ServingSchedule.parse(policy)
    violations = tuple(check(problem, schedule)) if schedule is not None else ()
    if schedule is not None and not violations:
        value = evaluate(problem, schedule, (name,))[0]
    best = bound = None
    if time_limit is not None:
        from cpsched.solve import solve

        result = solve(problem, time_limit, objective=name, seed=seed)
        best, bound = result.objective, result.bound
    if value is None:
        value = None if violations else 0
    return Replay(label, name, value, schedule, best, bound, evictions, recomputed, violations)


def _decide(p: ServingProblem, policy: str, seed: int) -> ServingSchedule:
    if p.question in ("admission", "capacity"):
        q = prepare(p)
        assert isinstance(q, Prepared)
        jit.ready()
        order, skip = greedy.POLICIES[policy]
        if q.staged:
            found = staged.serial(q, order(q).tolist(), range(q.machines))
            return ServingSchedule(requests=tuple(found or ()))
        return q.schedule(*greedy.run_policy(q, order(q), skip=skip))
    if p.question == "cache":
        return _cache(p, policy)
    if p.question == "preemption":
        return _preempt(p, policy, seed)
    if p.question == "routing":
        return _route(p, policy, seed)
    state = placement.eplb(p) if policy == "eplb" else placement.standing(p)
    if state is None:
        raise ProblemError(
            "the policy finds no placement", value=policy, remedy="Solve the problem instead."
        )
    return state.schedule()


# ---------------------------------------------------------------- cache


def _cache(p: ServingProblem, policy: str) -> ServingSchedule:
    name, _, parameter = policy.partition("=")
    if is_program_cache(p):
        gaps = cache.gaps_of(p)
        if name == "ttl":
            if parameter and not parameter.isdecimal():
                raise ProblemError(
                    "ttl=ROUNDS takes a whole number", value=policy, remedy="Correct it."
                )
            place = (
                cache.live_for(p, gaps, int(parameter)) if parameter else cache.best_ttl(p, gaps)[1]
            )
        elif name in ("lru", "fifo"):
            # Pinned until something else needs the room: the oldest pin goes first.
            place = cache.live_for(p, gaps, 2**60)
        else:
            place, _ = cache.pack(gaps, np.argsort(gaps.end, kind="stable"))
        return cache.gap_pins(gaps, place)
    blocks = cache_blocks(p)
    if name == "belady" or blocks is None:
        most = sum(len(r.prefix) for r in p.requests) if blocks is None else blocks
        return block_cache.block_pins(block_cache.belady(p, most)[0])
    return block_cache.block_pins(_recency(p, blocks, touch=name == "lru"))


def _recency(p: ServingProblem, blocks: int, touch: bool) -> list[tuple[int, int, int]]:
    """Reuses under LRU (or FIFO without ``touch``), a path's deepest blocks evicted first."""
    held: OrderedDict[int, int] = OrderedDict()
    reuses: list[tuple[int, int, int]] = []
    for index, r in enumerate(p.requests):
        for block in reversed(r.prefix):
            if block in held:
                reuses.append((block, held[block], index))
                held[block] = index
                if touch:
                    held.move_to_end(block)
            else:
                held[block] = index
        while len(held) > blocks:
            held.popitem(last=False)
    return reuses


# ---------------------------------------------------------------- preemption and routing


def _preempt(p: ServingProblem, policy: str, seed: int) -> ServingSchedule:
    order = list(range(len(p.requests)))
    if policy == "random":
        random.Random(seed).shuffle(order)
    elif policy == "last-admitted":
        order.reverse()
    elif policy == "least-computed":
        order.sort(key=lambda i: held_units(p.requests[i]))
    else:
        order.sort(
            key=lambda i: recompute_cost(p, p.requests[i]) / max(1, held_units(p.requests[i]))
        )
    victims, freed = [], 0
    for i in order:
        if freed >= p.need:
            break
        victims.append(Eviction(request=p.requests[i].id))
        freed += held_units(p.requests[i])
    return ServingSchedule(evictions=tuple(victims))


def _route(p: ServingProblem, policy: str, seed: int) -> ServingSchedule:
    rng = random.Random(seed)
    loads = routing.Loads(p)
    where: list[int] = []
    for i, r in enumerate(p.requests):
        options = list(loads.choices(i))
        if r.instance is not None:
            g = r.instance
        elif policy == "round-robin":
            g = options[i % len(options)]
        elif policy == "two-choices":
            g = min(rng.sample(options, min(2, len(options))), key=loads.load)
        elif policy == "affinity":
            g = min(options, key=lambda g: (loads.extra(i, g), loads.load(g)))
        else:
            g = min(options, key=loads.load)
        where.append(g)
        loads.add(i, g)
    return routing.schedule_of(p, where)
