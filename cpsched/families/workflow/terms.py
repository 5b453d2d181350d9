"""Quantities of a workflow problem straight from their definition, for checker and search alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from cpsched.families.workflow.consistent import Fitting, fits

if TYPE_CHECKING:
    from cpsched.families.workflow.problem import (
        Machine,
        Option,
        Step,
        Task,
        Workflow,
        WorkflowProblem,
    )


@lru_cache(maxsize=1 << 16)
def exact(number: float) -> Fraction:
    """The decimal that a float was written as."""
    return Fraction(repr(float(number)))


def exact_duration(option: Option, machine: Machine) -> Fraction:
    """Reserved time of the option on the machine, every try included."""
    if option.durations is not None:
        once = exact(option.durations[machine.name])
    else:
        once = exact(option.work or 0.0) / exact(machine.speed)
    return once * (option.retries + 1)


def duration(option: Option, machine: Machine) -> float:
    """`exact_duration` in floating point."""
    if option.durations is not None:
        once = option.durations[machine.name]
    else:
        once = (option.work or 0.0) / machine.speed
    return once * (option.retries + 1)


def share(option: Option, machine: Machine) -> float:
    """The part of the machine that the option occupies, for prices and power."""
    if machine.cores is None:
        return 1.0
    return option.cores / machine.cores if machine.cores > 0 else 0.0


def success(option: Option) -> float:
    """Probability that at least one sample of one of the tries succeeds."""
    if option.success >= 1.0:
        return 1.0
    return -math.expm1(option.samples * (option.retries + 1) * math.log1p(-option.success))


def log_success(option: Option) -> float:
    """Natural logarithm of `success`."""
    return math.log(success(option))


def expected_part(option: Option) -> float:
    """Expected number of tries over the reserved number of tries."""
    if option.retries == 0:
        return 1.0
    failure = 1.0 - option.success
    tries = math.fsum(failure ** (option.samples * k) for k in range(option.retries + 1))
    return tries / (option.retries + 1)


def own_use(option: Option, resource: str) -> float:
    """What the option itself spends of ``cost``, ``energy`` or ``tokens``, every try included."""
    amount: float = getattr(option, resource)
    return amount * option.samples * (option.retries + 1)


#: What weighs times by numbers that need not be whole.
_WEIGHED = {"max_slowdown", "weighted_flow_time", "weighted_tardiness"}


def starts_between(
    problem: WorkflowProblem, names: Sequence[str], held: Sequence[str] = ()
) -> bool:
    """Whether a start between two ticks may be better than every whole one.

    Never without rates that vary: then nothing is gained by starting late. With them some best
    schedule is whole as long as only differences of times are limited, by whole numbers: in a given
    order of the tasks, with each start and end within a given step of the rates, it is a vertex of
    those differences. A limit on spend, or on what weighs times, cuts such vertices off.

    Parameters
    ----------
    names
        The objectives.
    held
        Those of them that are held at a value which is not known to be the best.
    """
    varying = {
        resource
        for resource in ("cost", "carbon")
        if any(len(rate_steps(machine, resource)) > 1 for machine in problem.machines)
    }
    budgets = {r for r in varying if getattr(problem.budgets, r) is not None}
    if not varying & {*names, *problem.limits} and not budgets:
        return False
    limited = {*problem.limits, *held} & (_WEIGHED | varying)
    return bool(budgets or limited) or problem.fair_share is not None


def rate_steps(machine: Machine, resource: str) -> tuple[tuple[float, float], ...]:
    """What a fully used machine spends per time unit, as (from time, rate) steps.

    Cost in money (none with a billing quantum, which is charged by lease), energy in joules,
    carbon in grams.
    """

    def scaled(steps: Sequence[Step], factor: float) -> tuple[tuple[float, float], ...]:
        return tuple((s.start, s.value * factor) for s in steps)

    if resource == "cost":
        if machine.billing_quantum:
            return ((0.0, 0.0),)
        return scaled(machine.prices, 1 / 3600) or ((0.0, machine.price / 3600),)
    if resource == "energy":
        return ((0.0, machine.power),)
    if resource == "carbon":
        return scaled(machine.carbon, machine.power / 3.6e6) or ((0.0, 0.0),)
    return ((0.0, 0.0),)


def integral(steps: Sequence[tuple[float, float]], start: float, end: float) -> float:
    """Integral of a step function over ``[start, end)``."""
    if len(steps) == 1:
        return steps[0][1] * (end - start)
    ends = [*(s for s, _ in steps[1:]), math.inf]
    return math.fsum(
        rate * max(0.0, min(end, until) - max(start, since))
        for (since, rate), until in zip(steps, ends, strict=True)
    )


def probabilities(problem: WorkflowProblem) -> dict[str, float]:
    """Probability of execution of the tasks in branches; all others have 1."""
    return {
        name: alternative.probability
        for branch in problem.branches
        for alternative in branch.alternatives
        for name in alternative.tasks
    }


def alternatives(problem: WorkflowProblem) -> dict[str, tuple[int, int]]:
    """(branch, alternative) of the tasks in branches."""
    return {
        name: (b, a)
        for b, branch in enumerate(problem.branches)
        for a, alternative in enumerate(branch.alternatives)
        for name in alternative.tasks
    }


def members(problem: WorkflowProblem) -> list[tuple[Workflow, list[Task]]]:
    """The workflows with their tasks; without declared workflows, all tasks as one."""
    from cpsched.families.workflow.problem import Workflow

    if not problem.workflows:
        return [(Workflow(id="workflow"), list(problem.tasks))]
    tasks: dict[str, list[Task]] = {w.id: [] for w in problem.workflows}
    for task in problem.tasks:
        if task.workflow is not None:
            tasks[task.workflow].append(task)
    return [(w, tasks[w.id]) for w in problem.workflows if tasks[w.id]]


def fastest(problem: WorkflowProblem) -> dict[str, float]:
    """Least reserved time per task over its options and machines."""
    fitting = Fitting(problem)
    speeds: dict[int, float] = {}
    out = {}
    for task in problem.tasks:
        times = []
        for option in task.choices:
            machines = fitting.machines(task, option)
            if option.durations is not None:
                times += [duration(option, m) for m in machines]
            elif machines:
                speed = speeds.get(id(machines))
                if speed is None:
                    speed = speeds[id(machines)] = max(m.speed for m in machines)
                times.append((option.work or 0.0) / speed * (option.retries + 1))
        out[task.id] = min(times)
    return out


def ideal_times(problem: WorkflowProblem) -> list[float]:
    """Per workflow of `members`: its longest chain of tasks, each as fast as possible."""
    from cpsched.families.workflow.consistent import dependencies

    group: dict[str, int] = {}
    least: dict[str, float] = {}
    before: dict[str, list[str]] = {}
    listed = members(problem)
    times = fastest(problem)
    for number, (_, tasks) in enumerate(listed):
        for task in tasks:
            group[task.id] = number
            least[task.id] = times[task.id]
            before[task.id] = []
    after: dict[str, list[str]] = {name: [] for name in group}
    for source, target in dependencies(problem):
        if source in group and group[source] == group.get(target):
            before[target].append(source)
            after[source].append(target)
    waiting = {name: len(sources) for name, sources in before.items()}
    stack = [name for name, count in waiting.items() if count == 0]
    finish: dict[str, float] = {}
    while stack:
        name = stack.pop()
        finish[name] = least[name] + max((finish[p] for p in before[name]), default=0.0)
        for other in after[name]:
            waiting[other] -= 1
            if waiting[other] == 0:
                stack.append(other)
    return [max(finish[t.id] for t in tasks) for _, tasks in listed]


def fair_finishes(problem: WorkflowProblem) -> list[float]:
    """Per workflow of `members`: when it ends under user-weighted fair queueing of fluid work.

    All machines form one pool. At any time the tenants with unfinished work share it in proportion
    to their weights; a tenant serves its own workflows in order of release. A workflow never ends
    before its longest chain allows.
    """
    listed = members(problem)
    pool = math.fsum(m.speed * (1.0 if m.cores is None else m.cores) for m in problem.machines)
    weight = {t.id: t.weight for t in problem.tenants}
    work = []
    for _, tasks in listed:
        amounts = [
            min(
                duration(o, m) * m.speed * (1.0 if m.cores is None else o.cores)
                for o in task.choices
                for m in problem.machines
                if fits(task, o, m)
            )
            for task in tasks
        ]
        work.append(math.fsum(amounts))
    order = sorted(range(len(listed)), key=lambda i: (listed[i][0].release, i))
    left = dict.fromkeys(order, 0.0) | {i: work[i] for i in order}
    finish = [0.0] * len(listed)
    now, open_ = 0.0, list(order)
    while open_:
        heads: dict[str, int] = {}
        for i in open_:
            if listed[i][0].release <= now:
                heads.setdefault(listed[i][0].tenant or "", i)
        coming = [listed[i][0].release for i in open_ if listed[i][0].release > now]
        following = min(coming, default=math.inf)
        if not heads:
            now = following
            continue
        total = math.fsum(weight.get(t, 1.0) for t in heads)
        rates = {i: pool * weight.get(t, 1.0) / total for t, i in heads.items()}
        step = min(min(left[i] / rate for i, rate in rates.items()), following - now)
        now += step
        for i, rate in rates.items():
            left[i] -= rate * step
            if left[i] <= 1e-9 * max(1.0, work[i]):
                finish[i] = now
                open_.remove(i)
    ideal = ideal_times(problem)
    return [max(finish[i], listed[i][0].release + ideal[i]) for i in range(len(listed))]


def link_rates(problem: WorkflowProblem) -> dict[tuple[str, str], tuple[float | None, float]]:
    """(bandwidth or None, latency) of every machine pair that has a link of its own."""
    out: dict[tuple[str, str], tuple[float | None, float]] = {}
    for backwards in (True, False):
        for link in problem.links:
            pair = (link.target, link.source) if backwards else (link.source, link.target)
            bandwidth = problem.bandwidth if link.bandwidth is None else link.bandwidth
            latency = problem.latency if link.latency is None else link.latency
            out[pair] = (bandwidth, latency)
    return out


def held_at_once(problem: WorkflowProblem) -> list[float]:
    """Per task that takes time: the bytes that it reads and writes, which exist while it runs."""
    held = {name: 0.0 for name, time in fastest(problem).items() if time > 0}
    for edge in problem.edges:
        for name in (edge.source, edge.target):
            if name in held:
                held[name] += edge.size
    for file in problem.files:
        if file.producer is None and file.location is None:
            continue
        for user in {file.producer, *file.consumers}:
            if user in held:
                held[user] += file.size
    return list(held.values())
