"""A plan in words: what it achieves, its steps one by one, and why the rest stays pending."""

from __future__ import annotations

from cpsched.families.pods.problem import PodsProblem, PodsSchedule, Step

#: Steps that are listed, and pairs of a pending pod and a node that are looked at.
MOST_STEPS, MOST_REASONS = 200, 20_000


def describe(problem: PodsProblem, schedule: PodsSchedule) -> list[str]:
    """The plan line by line."""
    if problem.reassignment is not None:
        return [_reassigned(problem, schedule)]
    lines = [_headline(problem, schedule)]
    evicted: set[str] = set()
    owner = {p.name: p.owner for p in problem.pods}
    width = len(str(len(schedule.steps)))
    for number, step in enumerate(schedule.steps[:MOST_STEPS], 1):
        lines.append(f"{number:>{width}}. {_sentence(step, owner, evicted)}")
        if step.action == "evict":
            evicted.add(step.pod)
    more = len(schedule.steps) - MOST_STEPS
    if more > 0:
        lines.append(f"   and {more} more steps, in the JSON or by convert --to plan")
    lines += _pending(problem, schedule)
    return lines


def _sentence(step: Step, owner: dict[str, str], evicted: set[str]) -> str:
    cells = f" (cells {', '.join(map(str, step.numa))})" if step.numa else ""
    if step.action == "evict":
        return f"evict {step.pod} from {step.node}"
    if step.action == "move":
        return f"move {step.pod} from {step.source} to {step.to}{cells}"
    if step.pod in evicted:
        kind, _, name = owner[step.pod].partition("/")
        whose = f" (a pending replica of {kind} {name})" if name else ""
        return f"bind {step.pod} again, to {step.node}{cells}{whose}"
    return f"bind {step.pod} to {step.node}{cells}"


def _headline(problem: PodsProblem, schedule: PodsSchedule) -> str:
    before = {p.name: (p.node, p.cell_indices) for p in problem.pods}
    ran = sum(node is not None for node, _ in before.values())
    runs = sum(p.node is not None for p in schedule.placements)
    moved = lost = placed = 0
    for placement in schedule.placements:
        node, cells = before[placement.pod]
        if node is None:
            placed += placement.node is not None
        elif placement.node is None:
            lost += 1
        else:
            moved += (placement.node, placement.numa) != (node, cells)
    return (
        f"plan: {len(schedule.steps)} steps; {runs} of {len(before)} pods run at the end ({ran} "
        f"now): {placed} pending ones placed, {moved} moved, {lost} evicted for good"
    )


def _reassigned(problem: PodsProblem, schedule: PodsSchedule) -> str:
    before = {p.name: p.node for p in problem.pods}
    moved = sum(p.node != before[p.pod] for p in schedule.placements)
    return f"plan: {moved} of {len(before)} processes change their machine, all at once"


def _pending(problem: PodsProblem, schedule: PodsSchedule) -> list[str]:
    """Why pods stay pending; pods with the same reasons share a line."""
    from cpsched.families.pods.explain import reasons, smallest_change, state_at_end, why_pending

    waiting = [p.pod for p in schedule.placements if p.node is None]
    if not waiting:
        return []
    state = state_at_end(problem, schedule)
    lines = [f"pending at the end: {len(waiting)}"]
    listed = waiting[: max(1, MOST_REASONS // max(1, len(problem.nodes)))]
    for name in listed:
        pod = state.pods[name]
        per_node = reasons(state, pod)
        lines.append(f"  {name}: {why_pending(state, pod, per_node)}")
        lines.append(f"    smallest change: {smallest_change(state, pod, per_node)}")
    if len(waiting) > len(listed):
        lines.append(f"  and {len(waiting) - len(listed)} more: convert --to pending lists them")
    return lines
