"""Replanning a cluster: executed steps are facts, events are applied, the rest is planned anew.

A plan of pods has no times but an order: ``now`` counts its steps that have been executed. A pod
that loses its place (its node goes down or gets smaller) is pending again; its place was promised,
and a promise that the new plan does not keep is reported with what stands in the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpsched.errors import ProblemError
from cpsched.families.pods.problem import Node, Placement, Pod, PodsProblem, PodsSchedule, Step
from cpsched.families.pods.quantity import parse_quantity
from cpsched.families.pods.replay import State
from cpsched.replan import Event, Revision, foreign, refusal

if TYPE_CHECKING:
    from cpsched.core.clock import Clock

#: Broken promises whose reasons are looked for on every node: at least, and while there is time.
LEAST_REASONS, MOST_REASONS = 3, 50


def revise(
    problem: PodsProblem,
    schedule: PodsSchedule,
    now: float,
    events: Sequence[Event],
    stability: int,
) -> Revision:
    """The cluster after ``now`` steps of the plan and the events.

    A node that is down is drained and its pods are pending; its data stay for `resource_up`. A
    node whose capacity shrinks keeps the pods of the highest priority that still fit. ``until`` of
    these events is not planned with: a plan has no times. ``stability`` needs no term, as the
    disruption is an objective already.

    Raises
    ------
    ProblemError
        For a schedule of other pods, and events about unknown or impossible things.
    """
    if problem.reassignment is not None:
        raise ProblemError(
            "machine-reassignment problems cannot be replanned",
            place="reassignment",
            remedy="Solve the problem with the new assignment.",
        )
    cluster = _Cluster(problem, schedule, int(now))
    for event in events:
        cluster.apply(event)
    revised = cluster.problem()
    hint = cluster.hint(revised)
    return Revision(revised, hint, broken=cluster.broken(revised))


class _Cluster:
    """Where everything is while steps are executed and events applied."""

    def __init__(self, problem: PodsProblem, schedule: PodsSchedule, steps: int) -> None:
        self.base = problem
        self.state = State(problem)
        self.nodes = dict(self.state.nodes)
        self.pods = dict(self.state.pods)
        self.drain = dict.fromkeys(problem.drain)
        self.planned = {p.pod: (p.node, p.numa) for p in schedule.placements}
        for name, (node, _) in self.planned.items():
            if name not in self.pods:
                raise foreign("schedule.placements", name)
            if node is not None and node not in self.nodes:
                raise foreign("schedule.placements", node)
        for step in schedule.steps[:steps]:
            self._execute(step)
        if steps >= len(schedule.steps):
            # Everything is done: the pods are where the plan says, also without steps.
            for name, (node, cells) in self.planned.items():
                if self.state.where[name] != node:
                    self._take_off(name)
                    if node is not None:
                        self.state.bind(name, node, cells)

    def _execute(self, step: Step) -> None:
        target = step.to if step.action == "move" else step.node
        source = step.source if step.action == "move" else step.node
        if step.pod not in self.pods or target not in self.nodes:
            raise foreign("schedule.steps", step.pod)
        at = self.state.where[step.pod]
        if at != (None if step.action == "bind" else source):
            raise foreign("schedule.steps", step.pod)
        self._take_off(step.pod)
        if step.action != "evict" and target is not None:
            self.state.bind(step.pod, target, step.numa)

    def _take_off(self, name: str) -> None:
        if self.state.where[name] is not None:
            self.state.evict(name)

    # ------------------------------------------------------------------ events

    def apply(self, event: Event) -> None:
        """Change the cluster by one event."""
        handler = getattr(self, f"_{event.type}", None)
        if handler is None:
            raise refusal(event, "plans of pods have no times")
        handler(event)

    def _pod(self, event: Event) -> Pod:
        if event.id not in self.pods:
            raise refusal(event, "there is no pod of that name")
        return self.pods[event.id]

    def _node(self, event: Event) -> Node:
        if event.id not in self.nodes:
            raise refusal(event, "there is no node of that name")
        return self.nodes[event.id]

    def _resource_down(self, event: Event) -> None:
        node = self._node(event)
        self.drain[node.name] = None
        for name in list(self.state.guests.get(node.name, ())):
            self._take_off(name)

    def _resource_up(self, event: Event) -> None:
        node = self._node(event)
        self.drain.pop(node.name, None)
        self.nodes[node.name] = node.model_copy(update={"unschedulable": False})

    def _capacity(self, event: Event) -> None:
        node = self._node(event)
        if not event.amounts:
            raise refusal(event, 'it needs \'amounts\' by resource, such as {"cpu": "3"}')
        amounts = dict(node.allocatable)
        for resource, amount in event.amounts.items():
            try:
                amounts[str(resource)] = parse_quantity(str(resource), amount)
            except ValueError as error:
                raise refusal(event, f"{resource}: {error}") from None
        self.nodes[node.name] = node.model_copy(update={"allocatable": amounts})
        if node.name in self.state.guests:
            for name in self._too_many(node.name, amounts):
                self._take_off(name)

    def _too_many(self, node: str, amounts: dict[str, int]) -> list[str]:
        """Pods that no longer fit on the node, the least important first."""
        used = Counter(self.state.used[node])

        def over() -> set[str]:
            gone = {r for r, u in used.items() if r != "pods" and u > amounts.get(r, 0)}
            return gone | ({"pods"} if used["pods"] > amounts.get("pods", used["pods"]) else set())

        def asks(pod: Pod) -> dict[str, int]:
            return pod.requests | {"pods": 1}

        guests = sorted(
            (self.pods[name] for name in self.state.guests[node]),
            key=lambda p: (p.priority, p.weight, -sum(p.requests.values()), p.name),
        )
        out: list[Pod] = []
        for pod in guests:
            short = over()
            if not short:
                break
            if any(asks(pod).get(r) for r in short):
                used.subtract(asks(pod))
                out.append(pod)
        for pod in reversed(out.copy()):
            used.update(asks(pod))
            if over():
                used.subtract(asks(pod))
            else:
                out.remove(pod)
        return [p.name for p in out]

    def _insert(self, event: Event) -> None:
        if event.item is None:
            raise refusal(event, "it needs the new pod or node as 'item'")
        if event.after or event.before:
            raise refusal(event, "pods do not follow each other")
        if event.item.get("name", event.id) != event.id:
            raise refusal(event, f"its item is named {event.item['name']!r}")
        if event.id in self.pods or event.id in self.nodes:
            raise refusal(event, "there is one of that name already")
        data = event.item | {"name": event.id}
        if "allocatable" in data:
            self.nodes[event.id] = Node.parse(data)
        else:
            self.pods[event.id] = Pod.parse(data)

    def _cancel(self, event: Event) -> None:
        pod = self._pod(event)
        if pod.name in self.state.where:
            self._take_off(pod.name)
        del self.pods[pod.name]

    def _finish(self, event: Event) -> None:
        pod = self._pod(event)
        if self.state.where.get(pod.name, pod.node) is None:
            raise refusal(event, "the pod does not run")
        self._cancel(event)

    def _priority(self, event: Event) -> None:
        pod = self._pod(event)
        if event.weight is None or event.weight != int(event.weight):
            raise refusal(event, "it needs the new priority, a whole number, as 'weight'")
        self.pods[pod.name] = Pod.parse(pod.model_dump() | {"priority": int(event.weight)})

    # ------------------------------------------------------------------ result

    def problem(self) -> PodsProblem:
        """The revised cluster."""
        where, cells = self.state.where, self.state.cells
        pods = []
        for name, pod in self.pods.items():
            if name in where and (where[name], cells.get(name, ())) != (
                pod.node,
                pod.cell_indices,
            ):
                update = {"node": where[name], "cell_indices": cells.get(name, ())}
                pod = pod.model_copy(update=update)
            pods.append(pod)
        # Budgets that come with a count keep it: what was evicted and what failed is used up.
        left = self.state.credits() if self.base.budgets else {}
        budgets = [
            b if b.allowed is None else b.model_copy(update={"allowed": max(0, left[b.name])})
            for b in self.base.budgets
        ]
        fields: dict[str, Any] = {f: getattr(self.base, f) for f in type(self.base).model_fields}
        return PodsProblem.parse(
            fields
            | {
                "nodes": list(self.nodes.values()),
                "pods": pods,
                "budgets": budgets,
                "drain": tuple(self.drain),
                "required": tuple(n for n in self.base.required if n in self.pods),
                "objectives": self._objectives(pods),
            }
        )

    def _objectives(self, pods: list[Pod]) -> tuple[str, ...]:
        """The objectives by name; tiers follow the priorities that there are now."""
        names = self.base.objectives
        if not any(n.startswith("placed@") for n in names):
            return names
        tiers = [f"placed@{p}" for p in sorted({p.priority for p in pods}, reverse=True)]
        first = next(i for i, n in enumerate(names) if n.startswith("placed@"))
        others = [n for n in names if not n.startswith("placed@")]
        return (*others[:first], *tiers, *others[first:])

    def hint(self, revised: PodsProblem) -> PodsSchedule:
        """The old end state, as far as it is still possible."""
        room = {n.name: Counter(n.allocatable) for n in revised.nodes}
        down = set(revised.drain)
        placements = []
        for pod in sorted(revised.pods, key=lambda p: p.node is None):
            node, cells = self.planned.get(pod.name, (pod.node, pod.cell_indices))
            if node is None or node in down:
                node, cells = pod.node, pod.cell_indices
            left = room.get(node or "", Counter())
            if node is not None and any(left[r] < a for r, a in pod.requests.items() if a):
                node, cells = pod.node, pod.cell_indices
            if node is not None:
                room[node].subtract(pod.requests)
            placements.append(Placement(pod=pod.name, node=node, numa=cells))
        return PodsSchedule(placements=tuple(placements))

    def broken(self, revised: PodsProblem) -> Any:
        """A function that lists the pods whose promised place a new plan does not give."""
        promised = [
            name
            for name in self.pods
            if self.planned.get(name, (self.pods[name].node, ()))[0] is not None
        ]

        def report(schedule: PodsSchedule, clock: Clock) -> list[dict[str, Any]]:
            from cpsched.families.pods.explain import why_pending

            end = {p.pod: p for p in schedule.placements}
            lost = [name for name in promised if end[name].node is None]
            if not lost:
                return []
            state = State(revised)
            for name, placement in end.items():
                if state.where[name] is not None and state.where[name] != placement.node:
                    state.evict(name)
                if placement.node is not None and state.where[name] is None:
                    state.bind(name, placement.node, placement.numa)
            out: list[dict[str, Any]] = []
            for name in lost:
                reason = "no node has room for it"
                if len(out) < (LEAST_REASONS if clock.expired() else MOST_REASONS):
                    reason = why_pending(state, state.pods[name])
                out.append(
                    {
                        "promise": f"place:{name}",
                        "sentence": f"Pod {name} keeps a place.",
                        "reason": f"After the plan, {reason}.",
                    }
                )
            return out

        return report
