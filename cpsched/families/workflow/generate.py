"""Generated workflows: layered graphs of any size, and agent workflows with a budget."""

from __future__ import annotations

import random
from collections.abc import Mapping

from cpsched.errors import ProblemError
from cpsched.families import Generator
from cpsched.families.workflow.problem import (
    Budgets,
    Edge,
    Machine,
    Option,
    Task,
    WorkflowProblem,
)


def layered(
    tasks: int, machines: int, ccr: float, width: float, degree: float, seed: int
) -> WorkflowProblem:
    """Tasks in layers; each depends on some of the previous layers.

    Works are uniform in [10, 100], speeds in [0.5, 2]; the bytes of edges are drawn such that a
    mean transfer takes ``ccr`` mean durations at bandwidth 1. ``width`` times the square root of
    the number of tasks is the mean size of a layer, ``degree`` the mean number of predecessors.
    """
    rng = random.Random(seed)
    size = max(1.0, width * tasks**0.5)
    layer_of: list[int] = []
    layer = 0
    while len(layer_of) < tasks:
        count = max(1, round(rng.uniform(0.5, 1.5) * size))
        layer_of += [layer] * min(count, tasks - len(layer_of))
        layer += 1
    first: dict[int, int] = {}
    for t, one in enumerate(layer_of):
        first.setdefault(one, t)
    edges = []
    for t, one in enumerate(layer_of):
        if one == 0:
            continue
        low, high = first[one - 1], first[one]
        sources = {rng.randrange(low, high)}
        for _ in range(min(high, rng.randint(0, max(0, round(2 * (degree - 1)))))):
            sources.add(rng.randrange(low, high) if rng.random() < 0.8 else rng.randrange(high))
        for u in sorted(sources):
            amount = round(rng.uniform(0, 2) * ccr * 55 / 1.25, 1)
            edges.append(Edge(source=f"t{u}", target=f"t{t}", size=amount))
    return WorkflowProblem(
        name=f"layered-{tasks}-{machines}-{ccr:g}-{seed}",
        tasks=tuple(Task(id=f"t{t}", work=rng.randint(10, 100)) for t in range(tasks)),
        edges=tuple(edges),
        machines=tuple(
            Machine(name=f"m{p}", speed=rng.choice([0.5, 1.0, 1.5, 2.0])) for p in range(machines)
        ),
        bandwidth=1.0,
    )


def agent(
    tasks: int, models: int, samples: int, slack: float, seed: int, concurrency: int = 0
) -> WorkflowProblem:
    """Subtasks in a graph, each with a choice of model and number of parallel samples.

    Larger models are dearer, slower and more often right. The budget allows ``slack`` of the way
    from the cheapest to the dearest choice everywhere, the deadline of the way from the fastest to
    the slowest critical path.
    """
    rng = random.Random(seed)
    base = [(0.6**k, 1.0 / (1 + 2 * k)) for k in range(models)]
    made, edges = [], []
    least = most = 0
    quick: list[int] = []
    slow: list[int] = []
    for t in range(tasks):
        effort = rng.randint(2, 10)
        hardness = rng.uniform(0.5, 1.5)
        options, prices, times = [], [], []
        for k, (error, lightness) in enumerate(base[::-1]):
            price = max(1, round(effort * 10 * lightness * rng.uniform(0.8, 1.2)))
            seconds = max(1, round(effort * (0.4 + lightness) * rng.uniform(0.8, 1.2)))
            chance = round(max(0.05, min(0.99, 1 - 0.7 * hardness * (1 - error) * 0.6 - 0.02)), 3)
            times.append(seconds)
            for count in range(1, samples + 1):
                options.append(
                    Option(
                        name=f"model{models - 1 - k}x{count}",
                        work=seconds,
                        cost=price,
                        samples=count,
                        success=chance,
                    )
                )
                prices.append(price * count)
        least, most = least + min(prices), most + max(prices)
        made.append(Task(id=f"t{t}", options=tuple(options), cores=1))
        sources = sorted(rng.sample(range(t), min(t, rng.choice([1, 1, 2])))) if t else []
        edges += [Edge(source=f"t{u}", target=f"t{t}") for u in sources]
        quick.append(min(times) + max((quick[u] for u in sources), default=0))
        slow.append(max(times) + max((slow[u] for u in sources), default=0))
    return WorkflowProblem(
        name=f"agent-{tasks}-{models}-{seed}",
        tasks=tuple(made),
        edges=tuple(edges),
        machines=(Machine(name="api", cores=concurrency or tasks),),
        budgets=Budgets(cost=round(least + slack * (most - least))),
        deadline=round(max(quick) + slack * (max(slow) - max(quick))),
        objectives=("log_success", "cost"),
    )


def _number(options: Mapping[str, str], name: str, default: str, low: float, high: float) -> float:
    text = options.get(name, default)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ProblemError(
            f"{name} must be a number between {low:g} and {high:g}",
            place=f"option {name}",
            value=text,
            remedy="Correct the option.",
        )
    return value


_LAYERED = {
    "tasks": ("50", "number of tasks"),
    "machines": ("4", "number of machines"),
    "ccr": ("1", "mean transfer time over mean duration"),
    "width": ("1", "mean layer size over the square root of the number of tasks"),
    "degree": ("2.5", "mean number of predecessors"),
    "seed": ("0", "seed"),
}
_AGENT = {
    "tasks": ("20", "number of subtasks"),
    "models": ("3", "number of models"),
    "samples": ("3", "most samples in parallel"),
    "slack": ("0.3", "budget and deadline between least and most, 0 to 1"),
    "concurrency": ("0", "calls at a time, 0 for no limit"),
    "seed": ("0", "seed"),
}


def _make_layered(options: Mapping[str, str]) -> WorkflowProblem:
    def number(name: str, low: float, high: float) -> float:
        return _number(options, name, _LAYERED[name][0], low, high)

    return layered(
        int(number("tasks", 1, 200_000)),
        int(number("machines", 1, 1000)),
        number("ccr", 0, 1000),
        number("width", 0.01, 100),
        number("degree", 1, 100),
        int(number("seed", 0, 2**31)),
    )


def _make_agent(options: Mapping[str, str]) -> WorkflowProblem:
    def number(name: str, low: float, high: float) -> float:
        return _number(options, name, _AGENT[name][0], low, high)

    return agent(
        int(number("tasks", 1, 10_000)),
        int(number("models", 1, 20)),
        int(number("samples", 1, 20)),
        number("slack", 0, 1),
        int(number("seed", 0, 2**31)),
        int(number("concurrency", 0, 10_000)),
    )


GENERATORS = (
    Generator("layered", "layered task graph on machines of four speeds", _LAYERED, _make_layered),
    Generator("agent", "agent workflow: models and samples, budget, deadline", _AGENT, _make_agent),
)
