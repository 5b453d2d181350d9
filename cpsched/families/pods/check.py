"""The checker: a plan is valid when its steps replay and end where it says.

Rules carry the constraint names of the schema. Everything is verified from the definition, with
exact integers; nothing of the model or the search is used.
"""

from __future__ import annotations

from collections import Counter

from cpsched.families.pods import check_reassignment
from cpsched.families.pods import labels as rules
from cpsched.families.pods.objectives import tier_counts
from cpsched.families.pods.problem import Pod, PodsProblem, PodsSchedule, Step
from cpsched.families.pods.replay import Refusal, State
from cpsched.validate import Violation


def check(problem: PodsProblem, schedule: PodsSchedule) -> list[Violation]:
    """Every violation of a plan; see `check_steps` and `check_end`."""
    found = check_placements(problem, schedule)
    if found:
        return found
    if problem.reassignment is not None:
        return check_reassignment.check(problem, schedule)
    state = State(problem)
    state.gone = frozenset(p.pod for p in schedule.placements if p.node is None)
    found = check_steps(problem, schedule, state)
    return found or check_end(problem, schedule, state)


def check_placements(problem: PodsProblem, schedule: PodsSchedule) -> list[Violation]:
    """Each pod appears once, on a node that exists or nowhere."""
    found = []
    pods = {p.name for p in problem.pods}
    nodes = {n.name for n in problem.nodes}
    seen: set[str] = set()
    for placement in schedule.placements:
        where = {"pod": placement.pod, "node": placement.node}
        if placement.pod not in pods:
            found.append(Violation("placement", f"there is no pod {placement.pod}", where))
        elif placement.pod in seen:
            found.append(Violation("placement", f"pod {placement.pod} is placed twice", where))
        if placement.node is not None and placement.node not in nodes:
            found.append(Violation("placement", f"there is no node {placement.node}", where))
        seen.add(placement.pod)
    missing = pods - seen
    if missing:
        first = min(missing)
        found.append(
            Violation(
                "placement", f"{len(missing)} pods are missing, first {first}", {"pod": first}
            )
        )
    return found


def check_steps(problem: PodsProblem, schedule: PodsSchedule, state: State) -> list[Violation]:
    """Replay the steps on the state: each must be possible in the state before it."""
    found: list[Violation] = []
    for index, step in enumerate(schedule.steps):
        reasons = _replay(state, step)
        for reason in reasons:
            place = step.to if step.action == "move" else step.node
            found.append(
                Violation(
                    reason.rule,
                    f"step {index}: {step.action} {step.pod} at {place}: {reason.message}",
                    {"step": index, "pod": step.pod, "node": place},
                    reason.amount,
                )
            )
        if found and any(r.rule == "steps" for r in reasons):
            break  # the state no longer follows the plan
    return found


def _replay(state: State, step: Step) -> list[Refusal]:
    """Apply one step; the reasons why it was not allowed."""
    if step.pod not in state.pods:
        return [Refusal("steps", "there is no such pod")]
    at = state.where[step.pod]
    if step.action == "evict":
        if at is None or at != step.node:
            return [Refusal("steps", f"the pod is at {at}")]
        reason = state.eviction_refusal(step.pod)
        state.evict(step.pod)
        return [reason] if reason else []
    target = step.node if step.action == "bind" else step.to
    if target not in state.nodes:
        return [Refusal("steps", "there is no such node")]
    if step.action == "bind":
        if at is not None:
            return [Refusal("steps", f"the pod is at {at}")]
        reasons = state.refusals(step.pod, target, step.numa)
        if any(r.rule == "cells" and r.amount is None for r in reasons):
            return [Refusal("steps", "the cells do not exist")]
        state.bind(step.pod, target, step.numa)
        return reasons
    return _replay_move(state, step, at, target)


def _replay_move(state: State, step: Step, at: str | None, target: str) -> list[Refusal]:
    if at is None or at != step.source:
        return [Refusal("steps", f"the pod is at {at}")]
    if not state.problem.live_migration:
        return [Refusal("steps", "pods cannot move while they run: evict and bind them")]
    pod = state.pods[step.pod]
    reasons = []
    if not pod.movable and "movable" not in state.relaxed:
        reasons.append(Refusal("movable", f"it must not be moved ({pod.reason})"))
    reasons += state.refusals(step.pod, target, step.numa, moving=True)
    if any(r.rule == "cells" and r.amount is None for r in reasons):
        return [Refusal("steps", "the cells do not exist")]
    state.evict(step.pod)
    state.bind(step.pod, target, step.numa)
    return reasons


def check_end(problem: PodsProblem, schedule: PodsSchedule, state: State) -> list[Violation]:
    """The end state: where the plan says, with gangs whole and budgets of moves kept."""
    found = []
    for placement in schedule.placements:
        at = state.where[placement.pod]
        cells = state.cells.get(placement.pod, ())
        if at != placement.node or tuple(placement.numa) != cells:
            found.append(
                Violation(
                    "steps",
                    f"pod {placement.pod} is placed at {placement.node}, but the steps leave it "
                    f"at {at}",
                    {"pod": placement.pod, "node": placement.node},
                )
            )
    if found:
        return found
    for rule in (_preemption, _gangs, _migrations, _drained, _required, _still_held, _counts):
        found += rule(problem, schedule, state)
    return [v for v in found if v.rule not in state.relaxed]


def _preemption(problem: PodsProblem, schedule: PodsSchedule, state: State) -> list[Violation]:
    """A pod is evicted for good only where a pod that may preempt it gained a place."""
    lost = [n for n in sorted(state.in_flight) if state.pods[n].node is not None]
    if not lost:
        return []
    gained = [
        p.priority
        for p in problem.pods
        if p.node is None and state.where[p.name] is not None and p.preemption_policy != "Never"
    ]
    highest = max(gained, default=None)
    return [
        Violation(
            "preemption_policy",
            f"pod {name} is evicted for good, but no pod that may preempt it is placed",
            {"pod": name},
        )
        for name in lost
        if highest is None or state.pods[name].priority > highest
    ]


def _gangs(problem: PodsProblem, schedule: PodsSchedule, state: State) -> list[Violation]:
    if not problem.gangs:
        return []
    placed, before = Counter[str](), Counter[str]()
    for pod in problem.pods:
        if pod.gang:
            placed[pod.gang] += state.where[pod.name] is not None
            before[pod.gang] += pod.node is not None
    return [
        Violation(
            "gang",
            f"{placed[gang.name]} pods of gang {gang.name} are placed, of at least "
            f"{gang.min_count}",
            {"gang": gang.name},
            gang.min_count - placed[gang.name],
        )
        for gang in problem.gangs
        if placed[gang.name] != before[gang.name] and 0 < placed[gang.name] < gang.min_count
    ]


def _migrations(problem: PodsProblem, schedule: PodsSchedule, state: State) -> list[Violation]:
    if problem.migration_limit is None:
        return []
    moves = sum(s.action == "move" for s in schedule.steps) + sum(
        s.action == "evict" for s in schedule.steps
    )
    if moves <= problem.migration_limit:
        return []
    return [
        Violation(
            "migration_limit",
            f"{moves} migrations, of at most {problem.migration_limit}",
            {},
            moves - problem.migration_limit,
        )
    ]


def _drained(problem: PodsProblem, schedule: PodsSchedule, state: State) -> list[Violation]:
    return [
        Violation("drain", f"pod {name} is still on node {node}", {"pod": name, "node": node})
        for node in problem.drain
        for name in state.guests[node]
        if state.pods[name].movable
    ]


def _required(problem: PodsProblem, schedule: PodsSchedule, state: State) -> list[Violation]:
    return [
        Violation("required", f"pod {name} must be placed", {"pod": name})
        for name in problem.required
        if state.where[name] is None
    ]


def _still_held(problem: PodsProblem, schedule: PodsSchedule, state: State) -> list[Violation]:
    """Affinity and spread of the pods that the plan placed hold at the end as well.

    Kubernetes asks only when a pod is bound; a plan that undoes it a step later is a bad plan.
    """
    found = []
    moved = {s.pod for s in schedule.steps if s.action != "evict"}
    for name in sorted(moved):
        pod, at = state.pods[name], state.where[name]
        if at is None or not (pod.pod_affinity or pod.topology_spread):
            continue
        for rule, holds in (
            ("pod_affinity", _affinity_held(state, pod, at)),
            ("topology_spread", _spread_held(state, pod, at)),
        ):
            if not holds:
                found.append(
                    Violation(
                        rule, f"pod {name} at {at}: it does not hold at the end", {"pod": name}
                    )
                )
    return found


def _affinity_held(state: State, pod: Pod, at: str) -> bool:
    """Whether each term has a matching pod in the domain; the pod itself may be it."""
    resolved = [(t, rules.term_selector(pod, t)) for t in pod.pod_affinity]
    namespaces = state.problem.namespaces
    node = state.nodes[at]
    for term, _ in resolved:
        domain = node.labels.get(term.topology_key)
        near = (
            state.pods[name]
            for other in state.problem.nodes
            if other.labels.get(term.topology_key) == domain
            for name in state.guests[other.name]
        )
        if not any(
            all(
                rules.term_namespaces_match(t, pod.namespace, p.namespace, namespaces)
                and rules.selects(s, p.labels)
                for t, s in resolved
            )
            for p in near
        ):
            return False
    return True


def _spread_held(state: State, pod: Pod, at: str) -> bool:
    return not any(state.skewed(pod, s, state.nodes[at]) for s in pod.topology_spread)


def _counts(problem: PodsProblem, schedule: PodsSchedule, state: State) -> list[Violation]:
    if not schedule.counts:
        return []
    actual = tier_counts(problem, {p.pod for p in schedule.placements if p.node is not None})
    return [
        Violation(
            "counts",
            f"{schedule.counts.get(tier)} pods are said to be placed at priority {tier} and above, "
            f"but {actual.get(tier)} are",
            {"priority": tier},
        )
        for tier in sorted({*schedule.counts, *actual})
        if schedule.counts.get(tier) != actual.get(tier)
    ]
