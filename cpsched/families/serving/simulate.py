"""The round simulator: admissions that see estimates of the output lengths, with true lengths."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cpsched.errors import ProblemError
from cpsched.families.serving import greedy
from cpsched.families.serving.problem import Placed, Request, ServingProblem, ServingSchedule

if TYPE_CHECKING:
    from cpsched.result import Number


@dataclass(frozen=True)
class Simulation:
    """The outcome of `simulate`; rounds of the ``first`` unit of output and of the ``end``."""

    problem: ServingProblem
    schedule: ServingSchedule | None
    first: dict[str, int]
    end: dict[str, int]
    evictions: int
    recomputed: int
    peak: int

    def value(self, name: str) -> Number:
        """An objective of what was simulated, on its one instance."""
        requests = self.problem.requests
        if name == "makespan":
            return max(self.end.values())
        if name in ("instances", "cost"):
            return 1 if name == "instances" else self.problem.machines[0].price
        if name == "goodput":
            never = 2**62
            return sum(
                r.weight
                for r in requests
                if self.first[r.id] <= (never if r.first_token_by is None else r.first_token_by)
                and self.end[r.id] <= (never if r.end_by is None else r.end_by)
            )
        weight = name == "weighted_latency"
        return sum((r.weight if weight else 1) * (self.end[r.id] - r.arrival) for r in requests)


def estimate_of(request: Request, estimates: str, all_outputs: list[int]) -> int:
    """The output length a policy is told."""
    if estimates == "true":
        return request.output
    if estimates.startswith("q") and estimates[1:].isdecimal() and int(estimates[1:]) <= 100:
        return int(np.quantile(all_outputs, int(estimates[1:]) / 100))
    known = request.output_range or (
        (request.output_quantiles[0], request.output_quantiles[-1])
        if request.output_quantiles
        else None
    )
    picks: dict[str, Callable[[int, int], int]] = {
        "low": lambda a, b: a,
        "mean": lambda a, b: (a + b) // 2,
        "high": lambda a, b: b,
    }
    if estimates not in picks or known is None:
        raise ProblemError(
            "estimates are low, mean or high of a request's output_range or output_quantiles, "
            "or q0 to q100 of all outputs",
            place=f"requests.{request.id}",
            value=estimates,
            remedy="Add the range, or use a quantile like q90.",
        )
    return picks[estimates](*known)


def simulate(p: ServingProblem, policy: str, estimates: str = "true") -> Simulation:
    """One instance, round by round, with true lengths and a policy that sees estimates.

    In every round: those whose output is complete leave; the queue, in the policy's order, is
    admitted while the estimated peak of the future (``past-future`` and the classical policies) or
    only the present memory (``aggressive``) fits; everyone makes one unit. When the units of the
    round do not fit, the one admitted last is evicted, queues again at its arrival, and recomputes
    what it had made as part of its prompt.
    """
    plain = not any(r.prefix or r.after or r.tool or r.start is not None for r in p.requests)
    one = p.machines[0]
    if len(p.machines) != 1 or not plain or one.staged or one.prefill_chunk is not None:
        raise ProblemError(
            "hidden lengths are simulated on one instance whose prefills take no rounds, without "
            "prefixes, precedences, tools and running requests",
            place="instances",
            remedy="Replay without estimates.",
        )
    room = 2**60 if one.capacity is None else one.capacity
    # Everyone who runs takes a place of the batch and makes one unit of the token budget.
    seats = min(2**60 if x is None else x for x in (one.max_batch, one.token_budget))
    if seats < 1:
        raise ProblemError(
            "an instance takes at least one request at a time",
            place="instances",
            remedy="Raise max_batch and token_budget.",
        )
    outputs = [r.output for r in p.requests]
    guess = [max(1, estimate_of(r, estimates, outputs)) for r in p.requests]
    volume = [r.prompt * g + g * (g + 1) // 2 for r, g in zip(p.requests, guess, strict=True)]
    keys: dict[str, Callable[[int], Any]] = {
        "mcsf": lambda i: (guess[i], p.requests[i].arrival, i),
        "svf": lambda i: (volume[i], p.requests[i].arrival, i),
        "svf-strict": lambda i: (volume[i], p.requests[i].arrival, i),
        "ldf": lambda i: (-guess[i], i),
    }

    def by_arrival(i: int) -> Any:
        return p.requests[i].arrival, i

    key = keys.get(policy, by_arrival)
    skip = policy in ("svf", "ldf", "edf")
    made = [0] * len(p.requests)
    begun: dict[int, int] = {}
    first: dict[str, int] = {}
    end: dict[str, int] = {}
    evictions = recomputed = peak = 0
    arrivals = sorted(range(len(p.requests)), key=lambda i: (p.requests[i].arrival, i))
    queue: list[tuple[Any, int]] = []
    running: list[int] = []
    at = 0
    t = 0
    while at < len(arrivals) or queue or running:
        if not queue and not running:
            t = max(t, p.requests[arrivals[at]].arrival)
        while at < len(arrivals) and p.requests[arrivals[at]].arrival <= t:
            heapq.heappush(queue, (key(arrivals[at]), arrivals[at]))
            at += 1
        blocked: list[tuple[Any, int]] = []
        while queue and (len(running) < seats or p.requests[queue[0][1]].output == 0):
            entry = heapq.heappop(queue)
            i = entry[1]
            trial = [*running, i]
            held = np.array([p.requests[j].prompt + made[j] for j in trial])
            left = np.array([max(1, guess[j] - made[j]) for j in trial])
            future = held.sum() + len(trial) if policy == "aggressive" else 0
            need = int(future) or greedy.peak_of_batch(held, left)
            alone = not running and p.requests[i].prompt + made[i] + 1 <= room
            if need <= room or alone:
                running.append(i)
                if p.requests[i].output == 0:
                    running.pop()
                    first[p.requests[i].id] = end[p.requests[i].id] = t
                begun.setdefault(i, t)
                continue
            blocked.append(entry)
            if not skip or len(blocked) >= greedy.SCAN:
                break
        for entry in blocked:
            heapq.heappush(queue, entry)
        if not running:
            if queue and at >= len(arrivals) and not blocked:
                continue
            if blocked and at >= len(arrivals):
                raise ProblemError(
                    "a request does not fit even alone",
                    place=f"requests.{p.requests[blocked[0][1]].id}",
                    remedy="Raise the capacity.",
                )
            t = t + 1 if at >= len(arrivals) else max(t + 1, p.requests[arrivals[at]].arrival)
            continue
        while len(running) > 1 and _units(p, running, made) + len(running) > room:
            victim = running.pop()
            evictions += 1
            recomputed += p.requests[victim].prompt + made[victim]
            heapq.heappush(queue, (key(victim), victim))
        if _units(p, running, made) + len(running) > room:
            raise ProblemError(
                "a request does not fit even alone",
                place=f"requests.{p.requests[running[0]].id}",
                remedy="Raise the capacity.",
            )
        t += 1
        for i in running:
            made[i] += 1
            first.setdefault(p.requests[i].id, t)
        peak = max(peak, _units(p, running, made))
        for i in running:
            if made[i] >= p.requests[i].output:
                end[p.requests[i].id] = t
        running = [i for i in running if made[i] < p.requests[i].output]
    schedule = None
    if not evictions:
        schedule = ServingSchedule(
            requests=tuple(
                Placed(request=r.id, start=begun[i], end=end[r.id])
                for i, r in enumerate(p.requests)
            )
        )
    return Simulation(p, schedule, first, end, evictions, recomputed, peak)


def _units(p: ServingProblem, running: list[int], made: list[int]) -> int:
    return sum(p.requests[i].prompt + made[i] for i in running)
