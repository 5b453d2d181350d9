"""Large-neighbourhood search around CP-SAT: external to any single solve, adaptive, parallel."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cpsched.core import engine
from cpsched.core.run import Run

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel


@dataclass(frozen=True)
class SubModel:
    """The model of one neighbourhood: only part of the incumbent may change."""

    model: CpModel
    extract: Callable[[list[int]], Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Neighbourhood:
    """A way to free part of a schedule.

    ``build(schedule, size, rng)`` gives the model in which about ``size`` (a fraction of the
    items, in (0, 1]) of the schedule is free and a strictly better objective is demanded, or None
    when it does not apply.
    """

    name: str
    build: Callable[[Any, float, random.Random], SubModel | None]
    size: float = 0.1


class _Arm:
    """What is remembered of one neighbourhood: its size and how well it pays."""

    def __init__(self, neighbourhood: Neighbourhood) -> None:
        self.neighbourhood = neighbourhood
        self.size = neighbourhood.size
        self.score = 1.0

    def learn(self, improved: bool, status: str) -> None:
        self.score = 0.9 * self.score + 0.1 * (5.0 if improved else 0.2)
        if status in ("OPTIMAL", "INFEASIBLE"):
            self.size = min(1.0, self.size * 1.1)
        elif not improved:
            self.size = max(1e-4, self.size * 0.9)


@dataclass
class _Active:
    arm: _Arm
    sub: SubModel
    call: engine.Call
    end: float


def search(
    run: Run,
    neighbourhoods: Sequence[Neighbourhood],
    *,
    workers: int | None = None,
    call_seconds: float = 1.0,
    seconds: float = math.inf,
    stop_when: Callable[[], bool] | None = None,
    between: Callable[[], object] | None = None,
) -> None:
    """Improve the run's incumbent until it is done, ``seconds`` passed, or ``stop_when`` says so.

    Parameters
    ----------
    workers
        Neighbourhoods solved at the same time, one thread each; the run's workers by default.
    call_seconds
        Limit of one neighbourhood's call; sizes adapt so that most calls end before it.
    between
        Called about ten times a second in the caller's thread, for other work to be merged.

    Notes
    -----
    A deterministic run solves one neighbourhood at a time, with limits in counted work.
    """
    rng = random.Random(run.seed * 7919 + 17)
    arms = [_Arm(n) for n in neighbourhoods]
    width = 1 if run.deterministic else max(1, workers or run.workers)
    stop_at = run.clock.remaining() - seconds
    wake = threading.Event()
    active: list[_Active] = []
    misses = 0
    try:
        while not run.done() and run.clock.remaining() > stop_at:
            if stop_when is not None and stop_when():
                break
            while len(active) < width and misses < 50:
                started = _start(run, arms, rng, call_seconds, wake)
                if started is None:
                    misses += 1
                    run.clock.spend(1e-3)
                    if run.done():
                        return
                    continue
                misses = 0
                active.append(started)
            if not active:
                return
            wake.wait(0.1)
            wake.clear()
            if between is not None:
                between()
            for one in list(active):
                if one.call.finished.is_set():
                    active.remove(one)
                    _finish(run, one)
                elif time.perf_counter() > one.end:
                    one.call.stop()
                    if time.perf_counter() > one.end + 1.0:
                        active.remove(one)
    finally:
        for one in active:
            one.call.stop()


def _start(
    run: Run, arms: list[_Arm], rng: random.Random, call_seconds: float, wake: threading.Event
) -> _Active | None:
    assert run.incumbent is not None
    arm = rng.choices(arms, weights=[a.score for a in arms])[0]
    sub = arm.neighbourhood.build(run.incumbent.schedule, arm.size, rng)
    if sub is None:
        arm.score *= 0.95
        return None
    limit = min(call_seconds, run.clock.remaining())
    call = engine.start(
        sub.model,
        run.clock,
        workers=1,
        seed=rng.randrange(2**30),
        seconds=limit,
        parameters=sub.parameters,
        wake=wake,
    )
    wall = math.inf if run.deterministic else limit
    return _Active(arm, sub, call, time.perf_counter() + min(wall, run.clock.wall_remaining()))


def _finish(run: Run, one: _Active) -> None:
    outcome = engine.collect(one.call, run.clock)
    improved = False
    if outcome.values is not None:
        values = outcome.values
        improved = run.offer(
            lambda: one.sub.extract(values),
            f"lns:{one.arm.neighbourhood.name}",
            model=one.sub.model,
        )
    one.arm.learn(improved, outcome.status)
