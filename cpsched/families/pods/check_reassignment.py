"""The checker and the cost of machine reassignment, from the challenge's definition."""

from __future__ import annotations

from collections import defaultdict

from cpsched.families.pods.problem import PodsProblem, PodsSchedule
from cpsched.families.pods.reassignment_problem import Reassignment
from cpsched.validate import Violation


def assignment(problem: PodsProblem, schedule: PodsSchedule) -> list[int | None]:
    """Machine index of every process."""
    machines = {n.name: i for i, n in enumerate(problem.nodes)}
    at = {p.pod: p.node for p in schedule.placements}
    ends = [at[p.name] for p in problem.pods]
    return [None if node is None else machines[node] for node in ends]


def check(problem: PodsProblem, schedule: PodsSchedule) -> list[Violation]:
    """Capacity, transient use, conflict, spread and dependency of the final assignment.

    Processes move at the same time, so there are no steps and no intermediate states.
    """
    data = problem.reassignment
    assert data is not None
    ends = assignment(problem, schedule)
    for i, end in enumerate(ends):
        if end is None:
            name = problem.pods[i].name
            return [Violation("required", f"process {name} has no machine", {"pod": name})]
    machine = [m for m in ends if m is not None]
    return [*_capacity(data, machine), *_services(data, machine)]


def _capacity(data: Reassignment, machine: list[int]) -> list[Violation]:
    found = []
    resources = range(len(data.transient))
    used = [[0] * len(data.transient) for _ in data.capacities]
    held = [[0] * len(data.transient) for _ in data.capacities]
    for p, m in enumerate(machine):
        old = data.initial[p]
        for r in resources:
            used[m][r] += data.requirements[p][r]
            if old != m and data.transient[r]:
                held[old][r] += data.requirements[p][r]
    for m, row in enumerate(used):
        for r in resources:
            over = row[r] + held[m][r] - data.capacities[m][r]
            if over > 0:
                found.append(
                    Violation(
                        "capacity",
                        f"machine {m} lacks {over} of resource {r}",
                        {"machine": m, "resource": r},
                        over,
                    )
                )
    return found


def _services(data: Reassignment, machine: list[int]) -> list[Violation]:
    found = []
    places: dict[int, set[int]] = defaultdict(set)
    for p, m in enumerate(machine):
        service = data.services[p]
        if m in places[service]:
            found.append(
                Violation(
                    "pod_anti_affinity",
                    f"two processes of service {service} are on machine {m}",
                    {"service": service, "machine": m},
                )
            )
        places[service].add(m)
    for service, minimum in enumerate(data.spread_minimum):
        locations = {data.locations[m] for m in places[service]}
        if places[service] and len(locations) < minimum:
            found.append(
                Violation(
                    "topology_spread",
                    f"service {service} is in {len(locations)} locations, of at least {minimum}",
                    {"service": service},
                    minimum - len(locations),
                )
            )
        near = {data.neighbourhoods[m] for m in places[service]}
        for other in data.dependencies[service]:
            lacking = near - {data.neighbourhoods[m] for m in places[other]}
            if lacking:
                found.append(
                    Violation(
                        "pod_affinity",
                        f"service {service} needs service {other} in neighbourhood {min(lacking)}",
                        {"service": service, "neighbourhood": min(lacking)},
                    )
                )
    return found


def cost(problem: PodsProblem, schedule: PodsSchedule) -> int:
    """Load, balance and move costs of an assignment."""
    data = problem.reassignment
    assert data is not None
    machine = [m for m in assignment(problem, schedule) if m is not None]
    used = [[0] * len(data.transient) for _ in data.capacities]
    moved: dict[int, int] = defaultdict(int)
    total = 0
    for p, m in enumerate(machine):
        for r, amount in enumerate(data.requirements[p]):
            used[m][r] += amount
        if m != data.initial[p]:
            moved[data.services[p]] += 1
            total += data.process_move_weight * data.process_move_costs[p]
            total += data.machine_move_weight * data.move_costs[data.initial[p]][m]
    total += data.service_move_weight * max(moved.values(), default=0)
    for m, row in enumerate(used):
        for r, weight in enumerate(data.load_weights):
            total += weight * max(0, row[r] - data.safety[m][r])
        for b in data.balances:
            first = data.capacities[m][b.first] - row[b.first]
            second = data.capacities[m][b.second] - row[b.second]
            total += b.weight * max(0, b.target * first - second)
    return total
