"""Event-driven execution of projects and shops under random durations, shutdowns and arrivals.

A world draws what will really happen; a policy sees only what has happened so far and says which
tasks to start. Every policy is executed in the same worlds, so differences can be paired.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.check import evaluate
from cpsched.families.rcpsp.problem import (
    CapacityChange,
    Fixed,
    RcpspProblem,
    RcpspSchedule,
    ScheduledTask,
    Task,
)

#: Dispatching rules: a task's priority (smaller first), given the executor. Sources: Haupt (1989)
#: for the classic rules; "srpt" is the operation-level shortest remaining processing time: where
#: operations are revealed one by one, the remaining time that is known is the operation's own.
RULES: dict[str, str] = {
    "spt": "shortest processing time",
    "lpt": "longest processing time",
    "fifo": "ready first",
    "edd": "earliest due date",
    "mwkr": "most work remaining on the longest chain of successors, as far as it is known",
    "srpt": "least work remaining on the longest chain of successors, as far as it is known",
    "lft": "latest finish time of the deterministic problem",
}

POLICIES = ("replan", "static", *RULES)


@dataclass(frozen=True)
class World:
    """What really happens in one replication.

    Attributes
    ----------
    duration
        True duration by (task, mode index).
    outages
        Per renewable resource, sorted ``(start, end)`` in which it is down; unknown until start.
    """

    duration: dict[tuple[str, int], int]
    outages: dict[str, list[tuple[int, int]]]


def draw_world(
    problem: RcpspProblem,
    rng: np.random.Generator,
    *,
    noise: float,
    shutdown: float,
    repair: float,
) -> World:
    """Draw durations and shutdowns.

    Durations are lognormal with mean 1 and standard deviation of the logarithm ``noise`` times the
    nominal ones, at least 1. Each renewable resource is shut down with probability ``shutdown`` in
    each stretch of one tenth of the nominal work per resource, for an exponential time with mean
    ``repair`` times the mean task duration.
    """
    nominal = [m.duration for t in problem.tasks for m in t.modes if m.duration]
    mean = float(np.mean(nominal)) if nominal else 1.0
    duration = {}
    for task in problem.tasks:
        factor = float(rng.lognormal(-noise * noise / 2, noise)) if noise else 1.0
        for m, mode in enumerate(task.modes):
            real = max(1, round(mode.duration * factor)) if mode.duration else 0
            duration[task.id, m] = real
    names = [r.name for r in problem.resources if r.type == "renewable"]
    work = sum(min(m.duration for m in t.modes) for t in problem.tasks)
    stretch = max(1, round(work / max(1, len(names)) / 10))
    outages: dict[str, list[tuple[int, int]]] = {}
    for name in names:
        found: list[tuple[int, int]] = []
        for k in range(20):
            start = k * stretch + int(rng.integers(0, stretch))
            length = max(1, round(float(rng.exponential(repair * mean))))
            if rng.random() < shutdown and (not found or start > found[-1][1]):
                found.append((start, start + length))
        outages[name] = found
    return World(duration, outages)


def with_arrivals(problem: RcpspProblem, rng: np.random.Generator, arrivals: float) -> RcpspProblem:
    """The problem whose jobs arrive one after the other instead of all at once.

    A job is what precedences connect. The gaps are exponential with a mean of ``arrivals`` mean
    task durations; the jobs come in random order, and their due dates move with them.
    """
    job = {t.id: t.id for t in problem.tasks}

    def root(name: str) -> str:
        while job[name] != name:
            job[name] = job[job[name]]
            name = job[name]
        return name

    for p in problem.precedences:
        job[root(p.after)] = root(p.before)
    jobs = list(dict.fromkeys(root(t.id) for t in problem.tasks))
    nominal = [m.duration for t in problem.tasks for m in t.modes if m.duration]
    mean = arrivals * (float(np.mean(nominal)) if nominal else 1.0)
    times = np.cumsum(rng.exponential(mean, len(jobs))) - mean
    order = rng.permutation(len(jobs))
    shift = {jobs[k]: max(0, round(float(t))) for k, t in zip(order, times, strict=True)}
    tasks = []
    for task in problem.tasks:
        by = shift[root(task.id)]
        update: dict[str, Any] = {"release": task.release + by}
        if task.due is not None:
            update["due"] = task.due + by
        tasks.append(task.model_copy(update=update))
    return problem.model_copy(update={"tasks": tuple(tasks)})


class Executor:
    """The execution of one problem in one world under one policy.

    Attributes
    ----------
    time
        Current time.
    started, ended
        Start and mode, and end, of tasks by id; a task that lost its work to a shutdown is in
        neither.
    """

    def __init__(self, problem: RcpspProblem, world: World, reveal: str) -> None:
        self.problem, self.world, self.reveal = problem, world, reveal
        self.task = {t.id: t for t in problem.tasks}
        self.position = {t.id: k for k, t in enumerate(problem.tasks)}
        self.predecessors: dict[str, list[tuple[str, int]]] = {t.id: [] for t in problem.tasks}
        self.successors: dict[str, list[str]] = {t.id: [] for t in problem.tasks}
        for p in problem.precedences:
            self.predecessors[p.after].append((p.before, p.min_lag or 0))
            self.successors[p.before].append(p.after)
        self.capacity = {r.name: r.capacity for r in problem.resources if r.type == "renewable"}
        self.time = 0
        self.started: dict[str, tuple[int, int]] = {}
        self.ended: dict[str, int] = {}
        self.free = dict(self.capacity)
        self.down: dict[str, int] = {}
        self.lost = 0
        self.work = chain_work(problem, self.successors)

    # ------------------------------------------------------------------ what a policy may ask

    def known(self, name: str) -> bool:
        """Whether the policy may know of a task yet."""
        if self.reveal == "all" or name in self.started:
            return True
        if self.task[name].release > self.time:
            return False
        if self.reveal == "release":
            return True
        return all(before in self.ended for before, _ in self.predecessors[name])

    def ready_at(self, name: str) -> int | None:
        """When releases and precedences allow a task to start; None while that is unknown."""
        at = self.task[name].release
        for before, lag in self.predecessors[name]:
            if before not in self.ended:
                return None
            at = max(at, self.ended[before] + lag)
        return at

    def fits(self, name: str, mode: int) -> bool:
        """Whether the resources are free now."""
        demands = self.task[name].modes[mode].demands
        return all(r not in self.down and self.free[r] >= u for r, u in demands.items() if u)

    def waiting(self) -> list[str]:
        """Tasks that precedences and releases allow to start now, in file order."""
        out = []
        for name in self.task:
            if name not in self.started and self.known(name):
                at = self.ready_at(name)
                if at is not None and at <= self.time:
                    out.append(name)
        return out

    def remaining(self, name: str) -> int:
        """Work from a task to the end of its chain, as far as a policy may know it."""
        if self.reveal == "operation":
            return min(m.duration for m in self.task[name].modes)
        return self.work[name]

    # ------------------------------------------------------------------ execution

    def run(self, policy: Callable[[Executor], list[tuple[str, int]]]) -> RcpspSchedule:
        """Execute until every task has ended; the realised schedule."""
        queue: list[tuple[int, int, int, str]] = []
        counter = 0

        def push(time: int, kind: int, name: str) -> None:
            nonlocal counter
            counter += 1
            heapq.heappush(queue, (time, kind, counter, name))

        for name, outages in self.world.outages.items():
            for start, end in outages:
                push(start, 1, name)
                push(end, 2, name)
        for task in self.problem.tasks:
            push(task.release, 3, task.id)
        push(0, 3, "")
        ends: dict[str, int] = {}
        while len(self.ended) < len(self.task):
            if not queue:
                raise ProblemError(
                    "the policy left tasks that never start", remedy="Check the precedences."
                )
            self.time = queue[0][0]
            while queue and queue[0][0] == self.time:
                _, kind, _, name = heapq.heappop(queue)
                if kind == 0 and ends.get(name) == self.time:
                    self._end(name, push)
                elif kind == 1:
                    self._shut(name, ends)
                elif kind == 2:
                    self.down.pop(name, None)
            for name, mode in policy(self):
                self.started[name] = (self.time, mode)
                for r, u in self.task[name].modes[mode].demands.items():
                    self.free[r] -= u
                ends[name] = self.time + self.world.duration[name, mode]
                push(ends[name], 0, name)
        entries = tuple(
            ScheduledTask(task=n, mode=self.started[n][1], start=self.started[n][0], end=e)
            for n, e in self.ended.items()
        )
        return RcpspSchedule(tasks=entries, makespan=max(self.ended.values(), default=0))

    def _end(self, name: str, push: Callable[[int, int, str], None]) -> None:
        self.ended[name] = self.time
        self._release(name)
        for after in self.successors[name]:
            at = self.ready_at(after)
            if at is not None and at > self.time:
                push(at, 3, after)

    def _release(self, name: str) -> None:
        for r, u in self.task[name].modes[self.started[name][1]].demands.items():
            self.free[r] += u

    def _shut(self, resource: str, ends: dict[str, int]) -> None:
        self.down[resource] = next(e for s, e in self.world.outages[resource] if s == self.time)
        for name in [n for n in self.started if n not in self.ended]:
            if self.task[name].modes[self.started[name][1]].demands.get(resource):
                self._release(name)
                del self.started[name], ends[name]
                self.lost += 1


def chain_work(problem: RcpspProblem, successors: dict[str, list[str]]) -> dict[str, int]:
    """Work from each task to the end of its longest chain of successors, itself included."""
    work: dict[str, int] = {}
    shortest = {t.id: min(m.duration for m in t.modes) for t in problem.tasks}
    for root in shortest:
        stack = [root]
        while stack:
            name = stack[-1]
            missing = [s for s in successors[name] if s not in work]
            if missing and name not in work:
                stack += missing
                continue
            stack.pop()
            work[name] = shortest[name] + max((work[s] for s in successors[name]), default=0)
    return work


# ---------------------------------------------------------------------- policies


def rule_policy(rule: str) -> Callable[[Executor], list[tuple[str, int]]]:
    """Start, whenever resources are free, the waiting task that the rule ranks first."""

    def rank(run: Executor, task: Task) -> tuple[float, int]:
        shortest = min(m.duration for m in task.modes)
        due = task.due if task.due is not None else 10**12
        value = {
            "spt": shortest,
            "lpt": -shortest,
            "fifo": run.ready_at(task.id) or 0,
            "edd": due,
            "mwkr": -run.remaining(task.id),
            "srpt": run.remaining(task.id),
            "lft": due - run.remaining(task.id) + shortest,
        }[rule]
        return value, run.position[task.id]

    def policy(run: Executor) -> list[tuple[str, int]]:
        names = sorted(run.waiting(), key=lambda n: rank(run, run.task[n]))
        return start_in_order(run, [(n, None) for n in names])

    return policy


def start_in_order(
    run: Executor, names: list[tuple[str, int | None]], strict: frozenset[str] = frozenset()
) -> list[tuple[str, int]]:
    """Those of the tasks that fit together now, in order; None picks the shortest fitting mode.

    A task that has to wait blocks the resources in ``strict`` for those behind it.
    """
    before = dict(run.free)
    out: list[tuple[str, int]] = []
    blocked: set[str] = set()
    for name, planned in names:
        modes = run.task[name].modes
        order = (
            [planned]
            if planned is not None
            else sorted(range(len(modes)), key=lambda m: modes[m].duration)
        )
        chosen = next(
            (m for m in order if run.fits(name, m) and not blocked & modes[m].demands.keys()), None
        )
        if chosen is None:
            for m in order:
                blocked |= {r for r, u in modes[m].demands.items() if u and r in strict}
            continue
        for r, u in modes[chosen].demands.items():
            run.free[r] -= u
        out.append((name, chosen))
    run.free = before
    return out


class PlanPolicy:
    """Follow a plan; replan by ``solve`` whenever the execution has left it (None: never)."""

    def __init__(self, problem: RcpspProblem, plan: RcpspSchedule, solve: Any) -> None:
        self.problem, self.solve = problem, solve
        self.plan = {e.task: e for e in plan.tasks}
        self.expected: dict[str, int] = {}
        self.machines = frozenset(
            r.name for r in problem.resources if r.type == "renewable" and r.capacity == 1
        )
        self._seen: tuple[Any, ...] = ()

    def __call__(self, run: Executor) -> list[tuple[str, int]]:
        if self.solve is not None and self._surprised(run):
            self._replan(run)
        unstarted = [n for n in run.task if n not in run.started and n in self.plan]
        unstarted.sort(key=lambda n: (self.plan[n].start, run.position[n]))
        # Machines keep the plan's order: who comes first and is not ready yet holds up the rest.
        ready = set(run.waiting())
        names: list[tuple[str, int | None]] = []
        blocked: set[str] = set()
        for name in unstarted:
            mode = self.plan[name].mode
            used = {r for r, u in run.task[name].modes[mode].demands.items() if u}
            if name in ready and not used & blocked:
                names.append((name, mode))
            blocked |= used & self.machines
        if self.solve is not None:
            # Between two plans nobody idles while something of the plan could start.
            names += [(n, self.plan[n].mode) for n in unstarted if n in ready and self._due(run, n)]
        chosen = start_in_order(run, list(dict.fromkeys(names)), self.machines)
        for name, mode in chosen:
            self.expected[name] = run.time + run.task[name].modes[mode].duration
        return chosen

    def _due(self, run: Executor, name: str) -> bool:
        return self.plan[name].start <= run.time

    def _surprised(self, run: Executor) -> bool:
        """Whether something happened that the plan did not expect."""
        ends = tuple(n for n, e in run.ended.items() if self.expected.get(n) != e)
        late = tuple(n for n in run.started if n not in run.ended and self.expected[n] <= run.time)
        known = sum(run.known(n) for n in run.task)
        seen = (ends, late, tuple(sorted(run.down.items())), run.lost, known)
        surprised = seen != self._seen
        self._seen = seen
        return surprised

    def _replan(self, run: Executor) -> None:
        tasks = []
        for task in self.problem.tasks:
            if not run.known(task.id):
                continue
            if task.id in run.started:
                start, mode = run.started[task.id]
                end = run.ended.get(task.id)
                if end is None:
                    # A task that runs over is taken to end any moment.
                    end = max(self.expected[task.id], run.time + 1)
                    self.expected[task.id] = end
                fact = Fixed(mode=mode, start=start, end=end)
                tasks.append(task.model_copy(update={"fixed": fact, "deadline": None}))
            else:
                tasks.append(task.model_copy(update={"release": max(task.release, run.time)}))
        names = {t.id for t in tasks}
        resources = tuple(
            r.model_copy(
                update={
                    "capacity_changes": (
                        CapacityChange(start=run.time, end=run.down[r.name], capacity=0),
                    )
                }
            )
            if r.name in run.down and run.down[r.name] > run.time
            else r
            for r in self.problem.resources
        )
        problem = self.problem.model_copy(
            update={
                "tasks": tuple(tasks),
                "resources": resources,
                "precedences": tuple(
                    p for p in self.problem.precedences if {p.before, p.after} <= names
                ),
            }
        )
        hint = RcpspSchedule(tasks=tuple(e for n, e in self.plan.items() if n in names))
        result = self.solve(problem, hint=hint)
        if result.schedule is not None:
            self.plan = {e.task: e for e in result.schedule.tasks}


def supported(problem: RcpspProblem) -> None:
    """Refuse what the executor cannot run.

    Raises
    ------
    ProblemError
        For reservoirs, budgets, maximum lags, other lags than end-start, optional tasks, and the
        rules of shops.
    """
    unknown = [
        (any(r.type != "renewable" for r in problem.resources), "nonrenewable or reservoirs"),
        (any(p.type != "end-start" or p.max_lag is not None for p in problem.precedences), "lags"),
        (any(t.optional for t in problem.tasks), "optional tasks"),
        (bool(problem.disjunctive or problem.selections), "groups of tasks"),
        (any(r.capacity_changes or r.windows for r in problem.resources), "calendars"),
        (any(t.blocks_until is not None for t in problem.tasks), "blocking"),
        (any(p.transport for p in problem.precedences), "transport"),
        (any(r.no_idle for r in problem.resources), "machines without idle time"),
        (bool(problem.setups or problem.batching), "setups or batches"),
        (bool(problem.same_sequence or problem.assignments), "groups of tasks"),
        (problem.calendar is not None, "calendars"),
    ]
    for present, what in unknown:
        if present:
            raise ProblemError(
                f"the simulation knows renewable resources and end-start precedences, not {what}",
                remedy="Simulate a problem without them.",
            )


def execute(
    problem: RcpspProblem,
    world: World,
    policy: str,
    plan: RcpspSchedule,
    solve: Any,
    reveal: str,
) -> tuple[RcpspSchedule, int]:
    """The realised schedule under a policy, and how often work was lost."""
    run = Executor(problem, world, reveal)
    if policy in RULES:
        realised = run.run(rule_policy(policy))
    else:
        realised = run.run(PlanPolicy(problem, plan, solve if policy == "replan" else None))
    return realised, run.lost


def value_of(problem: RcpspProblem, realised: RcpspSchedule, name: str) -> float:
    """Objective value of a realised schedule (its durations are not the nominal ones)."""
    return float(evaluate(problem, realised, [name])[0])
