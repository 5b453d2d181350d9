"""Simulated execution: replanning against static plans and rules, in the same random worlds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from cpsched.core.clock import Clock, Stop
from cpsched.errors import ProblemError

if TYPE_CHECKING:
    from cpsched.problem import ProblemBase


@dataclass(frozen=True)
class PolicyResult:
    """How a policy did over the replications.

    ``half_width`` is that of the 95 % confidence interval of the mean; ``difference`` and its
    half-width are of the paired differences to the first policy (positive: worse than the first).
    """

    policy: str
    values: tuple[float, ...]
    mean: float
    half_width: float
    difference: float | None = None
    difference_half_width: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "policy": self.policy,
            "mean": self.mean,
            "half_width": self.half_width,
            "difference": self.difference,
            "difference_half_width": self.difference_half_width,
            "values": list(self.values),
        }


@dataclass(frozen=True)
class Simulation:
    """The answer of `simulate`: one entry per policy, in the order asked for."""

    objective: str
    replications: int
    policies: tuple[PolicyResult, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "objective": self.objective,
            "replications": self.replications,
            "policies": [p.to_dict() for p in self.policies],
            "settings": self.settings,
        }

    def table(self) -> str:
        """The comparison as text."""
        first = self.policies[0].policy if self.policies else ""
        rows = [f"{'policy':10} {'mean ' + self.objective:>22} {'difference to ' + first:>32}"]
        for p in self.policies:
            own = f"{p.mean:.2f} ± {p.half_width:.2f}"
            other = "-"
            if p.difference is not None:
                other = f"{p.difference:+.2f} ± {p.difference_half_width:.2f}"
            rows.append(f"{p.policy:10} {own:>22} {other:>32}")
        return "\n".join(rows)


def simulate(
    problem: ProblemBase,
    policies: Sequence[str] = ("replan", "static"),
    *,
    replications: int = 20,
    seed: int = 0,
    noise: float = 0.0,
    shutdown: float = 0.0,
    repair: float = 2.0,
    arrivals: float = 0.0,
    reveal: str = "all",
    objective: str | None = None,
    plan_time: float = 2.0,
    replan_time: float = 0.1,
    time_limit: float | None = None,
    workers: int = 1,
    stop: Stop = None,
) -> Simulation:
    """Execute a problem in random worlds under several policies.

    Parameters
    ----------
    problem
        An `rcpsp` problem with renewable resources and end-start precedences.
    policies
        ``replan`` (after every surprise), ``static`` (the first plan's order), or dispatching
        rules: spt, lpt, fifo, edd, mwkr, srpt, lft.
    replications
        Worlds; every policy runs in each of them.
    noise
        Standard deviation of the logarithm of the duration factor.
    shutdown, repair
        Probability of a shutdown of a resource per tenth of its nominal work, and its mean length
        in mean task durations. Tasks that run on it lose their work.
    arrivals
        Mean time between the arrivals of two jobs, in mean task durations; 0 leaves the releases as
        they are. Policies learn of a job when it arrives.
    reveal
        When policies learn of tasks: ``all`` at the start, at their ``release``, or ``operation``
        by operation, when the predecessors have ended.
    plan_time, replan_time
        Seconds of the first plan and of every replanning.
    time_limit
        Seconds for everything; fewer replications when it runs out.

    Returns
    -------
    Simulation
        Means with 95 % confidence intervals, and paired differences to the first policy.

    Raises
    ------
    ProblemError
        For a kind or a constraint that cannot be simulated, or an argument out of range.
    """
    if problem.kind != "rcpsp":
        raise ProblemError(
            "only problems of kind rcpsp can be simulated", value=problem.kind, remedy="Use replay."
        )
    import numpy as np

    from cpsched.families.rcpsp import simulate as world
    from cpsched.solve import solve

    if arrivals and reveal == "all":
        reveal = "release"
    ranges = {
        "replications": (replications, 1, 10**6),
        "noise": (noise, 0.0, 3.0),
        "shutdown": (shutdown, 0.0, 1.0),
        "repair": (repair, 0.0, 1e6),
        "arrivals": (arrivals, 0.0, 1e6),
    }
    _check(policies, world.POLICIES, ranges, reveal)
    world.supported(problem)  # type: ignore[arg-type]
    name = objective or problem.objectives[0]  # type: ignore[attr-defined]
    clock = Clock(time_limit, stop=stop)
    settings: dict[str, Any] = {"workers": workers, "seed": seed, "objective": name}
    plan = solve(problem, time_limit=plan_time, stop=stop, **settings).schedule
    if plan is None:
        raise ProblemError("there is no schedule to execute", remedy="`cpsched explain` says why.")
    again = partial(solve, time_limit=replan_time, **settings)
    values: dict[str, list[float]] = {p: [] for p in policies}
    for k in range(replications):
        if clock.expired():
            break
        rng = np.random.default_rng([seed, k])
        drawn = world.draw_world(
            problem,  # type: ignore[arg-type]
            rng,
            noise=noise,
            shutdown=shutdown,
            repair=repair,
        )
        real: Any = problem
        if arrivals:
            real = world.with_arrivals(real, rng, arrivals)
        for policy in policies:
            realised, _ = world.execute(real, drawn, policy, plan, again, reveal)
            values[policy].append(world.value_of(real, realised, name))
    return Simulation(
        name,
        len(values[policies[0]]),
        tuple(
            _summary(p, values[p], values[policies[0]] if i else None)
            for i, p in enumerate(policies)
        ),
        {
            "noise": noise,
            "shutdown": shutdown,
            "repair": repair,
            "arrivals": arrivals,
            "reveal": reveal,
            "seed": seed,
        },
    )


def _summary(policy: str, values: list[float], first: list[float] | None) -> PolicyResult:
    mean, half = _interval(values)
    if first is None:
        return PolicyResult(policy, tuple(values), mean, half)
    difference, width = _interval([a - b for a, b in zip(values, first, strict=True)])
    return PolicyResult(policy, tuple(values), mean, half, difference, width)


#: 97.5 % quantiles of Student's t by degrees of freedom; beyond, the normal quantile is close.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


def _interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % confidence interval."""
    n = len(values)
    if not n:
        return math.nan, math.nan
    mean = sum(values) / n
    if n == 1:
        return mean, math.inf
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    quantile = _T[n - 2] if n - 2 < len(_T) else 1.96 + 2.4 / (n - 1)
    return mean, quantile * math.sqrt(variance / n)


def _check(
    policies: Sequence[str],
    known: Sequence[str],
    ranges: Mapping[str, tuple[float, float, float]],
    reveal: str,
) -> None:
    for policy in policies:
        if policy not in known:
            raise ProblemError(
                f"a policy must be one of {', '.join(known)}",
                place="policies",
                value=policy,
                remedy="Correct the name.",
            )
    if not policies or len(set(policies)) != len(policies):
        raise ProblemError(
            "policies must be named once each", place="policies", remedy="Name one or more."
        )
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise ProblemError(
                f"{name} must lie between {low} and {high}",
                place=name,
                value=value,
                remedy="Correct it.",
            )
    if reveal not in ("all", "release", "operation"):
        raise ProblemError(
            "reveal must be all, release or operation",
            place="reveal",
            value=reveal,
            remedy="Pass one of them.",
        )
