"""Tiny clusters: every state that actions reach, so that every rule and objective is exact.

The models leave out plans that they cannot put in order (company that has to come first, rules
that are broken already); here the states are walked through one action at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from cpsched.core.run import Run
from cpsched.families.pods.check import check_end
from cpsched.families.pods.objectives import evaluate
from cpsched.families.pods.prepare import Instance
from cpsched.families.pods.problem import Placement, PodsProblem, PodsSchedule, Step
from cpsched.families.pods.replay import State
from cpsched.result import Bound, Values

#: States up to which all are looked at, and virtual seconds per state.
MOST, COST = 5_000, 1e-3

Where = tuple[str | None, ...]


def applies(instance: Instance) -> bool:
    """Whether a state is told by the nodes of the pods, and there are few."""
    problem = instance.problem
    if (
        instance.cell_resources
        or problem.reassignment is not None
        or problem.live_migration
        or problem.migration_limit is not None
        or problem.max_in_flight is not None
        # What such a budget still allows depends on the way to a state.
        or any(b.allowed is not None for b in problem.budgets)
    ):
        return False
    fits = [int(np.count_nonzero(instance.allowed[c])) for c in instance.class_of.tolist()]
    return float(np.log1p(fits).sum()) <= math.log(MOST)


def search(instance: Instance, run: Run) -> None:
    """Walk through all states: the best plan and, when all were seen, its proof."""
    problem = instance.problem
    names = [o.name for o in run.objectives]
    signs = [-1 if o.maximise else 1 for o in run.objectives]
    best: tuple[tuple[float, ...], Values] | None = None
    for at, state, path in _reached(problem, run):
        run.clock.check()
        run.clock.spend(COST)
        # Any plan that ends here at least moves the pods that are elsewhere at the end: what a
        # longer one breaks besides does not matter for the bound.
        least = _schedule(problem, at, _least_steps(problem, at))
        if check_end(problem, least, state):
            continue
        values = tuple(evaluate(problem, least, names))
        key = tuple(s * v for s, v in zip(signs, values, strict=True))
        if best is None or key < best[0]:
            best = key, values
        plan = _schedule(problem, at, path)
        if run.incumbent is None or key < tuple(
            s * v for s, v in zip(signs, run.incumbent.values, strict=True)
        ):
            state.gone = frozenset(p.pod for p in plan.placements if p.node is None)
            if not check_end(problem, plan, state):
                run.offer(plan, "enumeration")
        if not names and run.incumbent is not None:
            return
    if best is None:
        run.claim_infeasible("enumeration", "no state that actions reach keeps every rule")
        return
    for k, (name, value) in enumerate(zip(names, best[1], strict=True)):
        run.raise_bound(Bound(value, "enumeration", name, given=best[1][:k] or None))


def _reached(problem: PodsProblem, run: Run) -> Iterator[tuple[Where, State, tuple[Step, ...]]]:
    """Every state that single actions reach, with one way there."""
    pods = [p.name for p in problem.pods]
    start: Where = tuple(p.node for p in problem.pods)
    seen = {start}
    waiting: list[tuple[Where, tuple[Step, ...]]] = [(start, ())]
    for at, path in waiting:
        state = State(problem)
        for step in path:
            if step.action == "evict":
                state.evict(step.pod)
            elif step.node is not None:
                state.bind(step.pod, step.node)
        yield at, state, path
        for i, (name, place) in enumerate(zip(pods, at, strict=True)):
            run.clock.check()
            if place is not None:
                targets: list[str | None] = [None]
                if state.eviction_refusal(name) is not None:
                    continue
            else:
                targets = [n for n in state.nodes if not state.refusals(name, n)]
            for target in targets:
                after = (*at[:i], target, *at[i + 1 :])
                if after not in seen:
                    seen.add(after)
                    action = "evict" if target is None else "bind"
                    node = place if target is None else target
                    step = Step.model_validate({"action": action, "pod": name, "node": node})
                    waiting.append((after, (*path, step)))


def _least_steps(problem: PodsProblem, at: Where) -> tuple[Step, ...]:
    return tuple(
        Step(action="bind", pod=pod.name, node=node)
        for pod, node in zip(problem.pods, at, strict=True)
        if node is not None and node != pod.node
    )


def _schedule(problem: PodsProblem, at: Where, steps: tuple[Step, ...]) -> PodsSchedule:
    placements = tuple(
        Placement(pod=pod.name, node=node) for pod, node in zip(problem.pods, at, strict=True)
    )
    return PodsSchedule(placements=placements, steps=steps)
