"""Agent workflows on time and within budget: plan, observe, plan again.

A plan chooses an option (model and number of samples) for every subtask such that the probability
that all succeed is largest, the worst-case spend of everything planned stays within the budget and
the critical path within the deadline. A planner that may try again leaves part of the budget for
that. After an outcome that the plan did not expect the rest is planned anew: spent money is gone,
and what runs in parallel stays reserved in full.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from cpsched.errors import ProblemError
from cpsched.families.workflow import terms
from cpsched.families.workflow.consistent import dependencies, fits
from cpsched.families.workflow.problem import Budgets, Task, WorkflowProblem

#: Outcomes over which plans are compared.
SAMPLES = 400
#: Parts of the money that plans leave for second tries.
RESERVES = (0.0, 0.1, 0.2, 0.3, 0.4)
#: Tries of what never succeeds.
NEVER = 1e12
#: A plan is kept while its chance is not lower by more than this.
WORTH = 0.03

#: ``policy(problem, state)``: option per open task to start when it is ready; None gives up.
Policy = Callable[[WorkflowProblem, "State"], Mapping[str, int] | None]


@dataclass
class State:
    """What has been observed of a run.

    Attributes
    ----------
    now
        Time of the observation.
    done
        Tasks that succeeded, with the time they ended.
    running
        Tasks under way: (option, end). Their spend is in ``spent`` already.
    spent
        Money spent or reserved by all attempts so far.
    failures
        Attempts that failed.
    """

    now: float = 0.0
    done: dict[str, float] = field(default_factory=dict)
    running: dict[str, tuple[int, float]] = field(default_factory=dict)
    spent: float = 0.0
    failures: int = 0


def remaining_problem(problem: WorkflowProblem, state: State) -> WorkflowProblem:
    """The problem that is left: finished tasks gone, running ones fixed, spent money gone."""
    tasks = []
    for task in problem.tasks:
        if task.id in state.done:
            continue
        if task.id in state.running:
            choice, end = state.running[task.id]
            option = task.choices[choice]
            fixed = option.model_dump(include={"cores", "memory", "gpus", "success", "samples"})
            left = max(0.0, end - state.now)
            tasks.append(
                Task.parse(
                    {"id": task.id, "work": left, "deadline": left, "labels": task.labels, **fixed}
                )
            )
        else:
            release = max(0.0, task.release - state.now)
            tasks.append(task.model_copy(update={"release": release}))
    kept = {t.id for t in tasks}
    budget = problem.budgets.cost
    return problem.model_copy(
        update={
            "tasks": tuple(tasks),
            "edges": tuple(e for e in problem.edges if e.source in kept and e.target in kept),
            "files": tuple(
                f.model_copy(update={"consumers": tuple(c for c in f.consumers if c in kept)})
                for f in problem.files
                if f.producer is None or f.producer in kept
            ),
            "deadline": None if problem.deadline is None else problem.deadline - state.now,
            "budgets": Budgets(cost=None if budget is None else max(0.0, budget - state.spent)),
            "objectives": ("log_success",),
        }
    )


class Chances:
    """Success of plans whose failed tasks are tried again, over the same random outcomes for all.

    A task is tried until it succeeds; what counts is whether money and time suffice for all tries.
    Machines are not contended.
    """

    def __init__(self, problem: WorkflowProblem, state: State, samples: int = SAMPLES) -> None:
        rng = np.random.default_rng(SAMPLES)
        self.samples = samples
        self.money = math.inf if problem.budgets.cost is None else problem.budgets.cost
        self.money -= state.spent
        self.time = math.inf if problem.deadline is None else problem.deadline
        before: dict[str, list[str]] = {t.id: [] for t in problem.tasks}
        for source, target in dependencies(problem):
            before[target].append(source)
        self.tasks = [t for t in problem.tasks if t.id not in state.done]
        ids = [t.id for t in self.tasks]
        luck = np.log(rng.random((len(ids), samples)))
        ready = np.full(samples, state.now)
        #: Per task and option: money and time for all tries, each (samples,).
        self.money_of: dict[str, list[NDArray[np.float64]]] = {}
        self.time_of: dict[str, list[NDArray[np.float64]]] = {}
        self.begun: dict[str, NDArray[np.float64]] = {}
        self.before = {i: [b for b in before[i] if b not in state.done] for i in ids}
        for task, own in zip(self.tasks, luck, strict=True):
            under_way = state.running.get(task.id)
            money: list[NDArray[np.float64]] = []
            lasts: list[NDArray[np.float64]] = []
            for k, option in enumerate(task.choices):
                chance = terms.success(option)
                tries = np.ones(samples)
                if chance <= 0.0:
                    tries = np.full(samples, NEVER)
                elif chance < 1.0:
                    tries = np.clip(np.ceil(own / math.log1p(-chance)), 1.0, NEVER)
                length = duration_of(problem, task, k)
                if under_way is not None:
                    # Its first try is paid, and ends at a known time.
                    lasts.append(under_way[1] - state.now + (tries - 1.0) * length)
                    money.append((tries - 1.0) * terms.own_use(option, "cost"))
                else:
                    lasts.append(tries * length)
                    money.append(tries * terms.own_use(option, "cost"))
            self.money_of[task.id], self.time_of[task.id] = money, lasts
            self.begun[task.id] = np.maximum(ready, task.release)
        self.order = _in_order(ids, self.before)

    def of(self, plan: Mapping[str, int]) -> float:
        """Share of the outcomes in which the plan ends well."""
        ends: dict[str, NDArray[np.float64]] = {}
        spent = np.zeros(self.samples)
        last = np.zeros(self.samples)
        for name in self.order:
            start = self.begun[name]
            for other in self.before[name]:
                start = np.maximum(start, ends[other])
            ends[name] = start + self.time_of[name][plan[name]]
            last = np.maximum(last, ends[name])
            spent += self.money_of[name][plan[name]]
        well = (spent <= self.money * (1 + 1e-12)) & (last <= self.time * (1 + 1e-12))
        return float(well.mean())

    def improved(
        self, plan: Mapping[str, int], fixed: Iterable[str], seconds: float
    ) -> tuple[float, dict[str, int]]:
        """The plan after changes of one task each that raise its chance, within some seconds."""
        best, value = dict(plan), self.of(plan)
        end = time.perf_counter() + seconds
        held = set(fixed)
        quiet = 0
        open_ = [t for t in self.tasks if t.id not in held and len(t.choices) > 1]
        while open_ and quiet < len(open_):
            for task in open_:
                quiet += 1
                kept = best[task.id]
                for k in range(len(task.choices)):
                    if k == kept:
                        continue
                    made = self.of(best | {task.id: k})
                    if made > value:
                        best[task.id], value, quiet = k, made, 0
                if time.perf_counter() > end or value >= 1.0:
                    return value, best
                if quiet >= len(open_):
                    break
        return value, best


def _in_order(names: Sequence[str], before: Mapping[str, Sequence[str]]) -> list[str]:
    out: list[str] = []
    seen: set[str] = set()
    for name in names:
        stack = [name]
        while stack:
            top = stack[-1]
            missing = [b for b in before[top] if b not in seen]
            if missing and top not in seen:
                stack += missing
                continue
            stack.pop()
            if top not in seen:
                seen.add(top)
                out.append(top)
    return out


class Planner:
    """A policy that plans anew after failures and keeps to its plan otherwise.

    A plan that spends all the money is most likely to succeed at the first try of every task, but
    leaves nothing for a second one. So optimal plans are made for parts of the money, the one with
    the best chance when failed tasks are tried again is taken (by `Chances`), and improved task by
    task. While everything goes as expected the rest of a plan stays as good, so nothing is solved.

    Parameters
    ----------
    seconds
        Limit of one solve.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        self.seconds = seconds
        self.plan: dict[str, int] | None = None
        self.failures = -1
        self.expected = 0.0
        self._memory: dict[object, tuple[float, dict[str, int]] | None] = {}

    def __call__(self, problem: WorkflowProblem, state: State) -> Mapping[str, int] | None:
        """Options of the open tasks."""
        if not state.spent:
            self.plan = None
        if self.plan is None or state.failures != self.failures:
            self.failures = state.failures
            running = tuple(sorted((t, o, e - state.now) for t, (o, e) in state.running.items()))
            chosen = None if self.plan is None else tuple(sorted(self.plan.items()))
            done = frozenset(state.done)
            key = (id(problem), done, running, state.now, state.spent, chosen)
            if key not in self._memory:
                self._memory[key] = self.choose(problem, state)
            found = self._memory[key]
            if found is None:
                return None
            self.expected, self.plan = found
        return self.plan

    def choose(self, problem: WorkflowProblem, state: State) -> tuple[float, dict[str, int]] | None:
        """The plan to go on with and its chance; None when money or time no longer suffice."""
        chances = Chances(problem, state)
        running = {t: o for t, (o, _) in state.running.items()}
        if self.plan is not None:
            value = chances.of(self.plan)
            if value >= self.expected - WORTH:
                return value, self.plan
        plans = [
            plan
            for reserve in RESERVES
            if (plan := self.solve(problem, state, 1.0 - reserve)) is not None
        ]
        if self.plan is not None:
            plans.append(self.plan)
        if not plans:
            return None
        rated = [(chances.of(running | plan), running | plan) for plan in plans]
        _, best = max(rated, key=lambda pair: pair[0])
        return chances.improved(best, running, 0.5 * self.seconds)

    def solve(
        self, problem: WorkflowProblem, state: State, part: float = 1.0
    ) -> dict[str, int] | None:
        """An optimal choice for what is open and a part of the money, or None."""
        from cpsched.solve import solve

        left = remaining_problem(problem, state)
        if left.deadline is not None and left.deadline < 0:
            return None
        if left.budgets.cost is not None:
            budgets = Budgets(cost=part * left.budgets.cost)
            left = left.model_copy(update={"budgets": budgets})
        result = solve(left, time_limit=self.seconds, workers=1)
        if result.schedule is None:
            return None
        return {p.task: p.option for p in result.schedule.tasks if p.task not in state.running}


@dataclass(frozen=True)
class Replay:
    """Successes of a Monte-Carlo replay, with Wilson's 95 % confidence interval."""

    runs: int
    successes: int
    low: float
    high: float
    mean_spent: float

    def to_dict(self) -> dict[str, float]:
        """The figures by name, for JSON."""
        return {"probability": self.probability, **asdict(self)}

    def table(self) -> str:
        """One line to read."""
        return (
            f"{self.successes} of {self.runs} runs succeed ({self.probability:.2f}, 95 % interval "
            f"{self.low:.2f} to {self.high:.2f}), mean spend {self.mean_spent:g}"
        )

    @property
    def probability(self) -> float:
        """Share of the runs in which every task succeeded on time and within budget."""
        return self.successes / self.runs


def replay(problem: WorkflowProblem, policy: Policy, runs: int, seed: int = 0) -> Replay:
    """Play a policy against random outcomes.

    Every attempt of a task with option ``o`` succeeds with the probability of its samples; a task
    that fails may be tried again while the policy says so. A run succeeds when all tasks do by the
    deadline and the spend is within the budget. Machines are not contended here.

    Parameters
    ----------
    runs
        Number of independent runs; run ``i`` uses the same random numbers for every policy.
    """
    wins, spent = 0, 0.0
    for number in range(runs):
        ok, used = _play(problem, policy, random.Random(seed * 1_000_003 + number))
        wins += ok
        spent += used
    low, high = wilson(wins, runs)
    return Replay(runs, wins, low, high, spent / max(1, runs))


def _play(problem: WorkflowProblem, policy: Policy, rng: random.Random) -> tuple[bool, float]:
    state = State()
    luck = {t.id: random.Random(rng.random()) for t in problem.tasks}
    before: dict[str, set[str]] = {t.id: set() for t in problem.tasks}
    for source, target in dependencies(problem):
        before[target].add(source)
    tasks = {t.id: t for t in problem.tasks}
    budget = math.inf if problem.budgets.cost is None else problem.budgets.cost
    deadline = math.inf if problem.deadline is None else problem.deadline
    while len(state.done) < len(tasks):
        plan = policy(problem, state)
        if plan is None:
            return False, state.spent
        for name, task in tasks.items():
            if name in state.done or name in state.running or not before[name] <= set(state.done):
                continue
            option = task.choices[plan[name]]
            state.running[name] = (plan[name], state.now + duration_of(problem, task, plan[name]))
            state.spent += terms.own_use(option, "cost")
        if state.spent > budget * (1 + 1e-12) or not state.running:
            return False, state.spent
        name = min(state.running, key=lambda t: (state.running[t][1], t))
        choice, state.now = state.running.pop(name)
        if state.now > deadline * (1 + 1e-12):
            return False, state.spent
        if luck[name].random() < terms.success(tasks[name].choices[choice]):
            state.done[name] = state.now
        else:
            state.failures += 1
    return True, state.spent


def replay_by_name(
    problem: WorkflowProblem,
    policy: object,
    *,
    estimates: str | None = None,
    time_limit: float | None = None,
    seed: int = 0,
) -> Replay:
    """`replay` 100 times: ``planner`` (solves of ``time_limit``), ``greedy``, ``cost-aware``.

    Raises
    ------
    ProblemError
        For another policy, or estimates, which workflows do not have.
    """
    policies: dict[object, Policy] = {
        "planner": Planner(2.0 if time_limit is None else min(2.0, time_limit)),
        "greedy": greedy_policy,
        "cost-aware": cost_aware_policy,
    }
    chosen = policies.get(policy) if isinstance(policy, str) else None
    if chosen is None:
        raise ProblemError(
            f"policies of workflows are {', '.join(map(str, policies))}",
            place="policy",
            value=policy if isinstance(policy, str) else "a plan",
            remedy="Choose one.",
        )
    if estimates is not None:
        raise ProblemError(
            "workflows have no hidden lengths",
            place="estimates",
            value=estimates,
            remedy="Leave the estimates out.",
        )
    return replay(problem, chosen, 100, seed)


def duration_of(problem: WorkflowProblem, task: Task, choice: int) -> float:
    """Least duration of an option over the machines."""
    option = task.choices[choice]
    usable = (m for m in problem.machines if fits(task, option, m))
    return min((terms.duration(option, m) for m in usable), default=math.inf)


def greedy_policy(problem: WorkflowProblem, state: State) -> Mapping[str, int] | None:
    """Baseline: for every ready task the most successful option that money and time allow now."""
    return _myopic(problem, state, lambda chance, cost: chance)


def cost_aware_policy(problem: WorkflowProblem, state: State) -> Mapping[str, int] | None:
    """Baseline: an equal share of what is left per open task, the best option within it."""
    return _myopic(problem, state, lambda chance, cost: chance, fair=True)


def _myopic(
    problem: WorkflowProblem,
    state: State,
    score: Callable[[float, float], float],
    fair: bool = False,
) -> Mapping[str, int] | None:
    left = (math.inf if problem.budgets.cost is None else problem.budgets.cost) - state.spent
    open_ = [t for t in problem.tasks if t.id not in state.done and t.id not in state.running]
    tail = _quickest_tails(problem)
    deadline = math.inf if problem.deadline is None else problem.deadline
    # Every other open task must still be affordable at its cheapest.
    floor = {t.id: min(terms.own_use(o, "cost") for o in t.choices) for t in open_}
    share = left / max(1, len(open_))
    plan = {}
    for task in open_:
        reserve = sum(floor.values()) - floor[task.id]
        allowed = min(left - reserve, share) if fair else left - reserve
        cells = []
        for k, option in enumerate(task.choices):
            cost = terms.own_use(option, "cost")
            length = duration_of(problem, task, k)
            late = state.now + length + tail[task.id] > deadline
            cells.append((late or cost > allowed, -score(terms.success(option), cost), cost, k))
        _, _, cost, choice = min(cells)
        plan[task.id] = choice
        if not fair:
            left -= cost - floor[task.id]
    return plan


def _quickest_tails(problem: WorkflowProblem) -> dict[str, float]:
    after: dict[str, list[str]] = {t.id: [] for t in problem.tasks}
    for source, target in dependencies(problem):
        after[source].append(target)
    least = {
        t.id: min(duration_of(problem, t, k) for k in range(len(t.choices))) for t in problem.tasks
    }
    tail: dict[str, float] = {}

    def walk(name: str) -> float:
        stack: list[str] = [name]
        while stack:
            top = stack[-1]
            missing = [w for w in after[top] if w not in tail]
            if missing:
                stack += missing
                continue
            tail[top] = max((least[w] + tail[w] for w in after[top]), default=0.0)
            stack.pop()
        return tail[name]

    return {name: walk(name) for name in after}


def wilson(successes: int, runs: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's confidence interval of a proportion."""
    if runs == 0:
        return 0.0, 1.0
    share = successes / runs
    middle = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z / (1 + z * z / runs) * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs**2))
    return max(0.0, middle - half), min(1.0, middle + half)


__all__: Sequence[str] = (
    "Chances",
    "Planner",
    "Policy",
    "Replay",
    "State",
    "cost_aware_policy",
    "greedy_policy",
    "remaining_problem",
    "replay",
    "wilson",
)
