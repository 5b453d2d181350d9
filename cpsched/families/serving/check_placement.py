"""The checker of the question ``placement``: replicas on GPUs."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from cpsched.families.serving.exact_number import exact_number
from cpsched.families.serving.problem import ServingProblem
from cpsched.families.serving.problem import ServingSchedule as Schedule
from cpsched.result import Number
from cpsched.validate import Violation


def check_placement(p: ServingProblem, s: Schedule) -> list[Violation]:
    """Every item has its replicas on different GPUs, within slots, memory and groups."""
    out: list[Violation] = []
    items = {i.id: i for i in p.items}
    gpus = {g.name: g for g in p.gpus}
    seen: set[str] = set()
    count: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    nodes: dict[str, set[str]] = {}
    moves = 0
    for one in s.placements:
        where = {"item": one.item}
        item = items.get(one.item)
        if item is None or one.item in seen or any(g not in gpus for g in one.gpus):
            out.append(Violation("item", f"item {one.item} is misplaced", where))
            continue
        seen.add(one.item)
        if len(set(one.gpus)) < len(one.gpus) or not one.gpus:
            out.append(Violation("item", f"item {one.item} needs distinct GPUs", where))
        if item.replicas is not None and len(one.gpus) != item.replicas:
            out.append(
                Violation("replicas", f"item {one.item} has {len(one.gpus)} replicas", where)
            )
        for name in one.gpus:
            count[name] += 1
            memory[name] += item.memory
            if item.group and p.group_limit:
                nodes.setdefault(item.group, set()).add(gpus[name].node)
        moves += len(set(one.gpus) - set(item.current))
    out += [
        Violation("item", f"item {i} is not placed", {"item": i}) for i in items if i not in seen
    ]
    if p.replicas is not None and sum(count.values()) != p.replicas:
        text = f"{sum(count.values())} replicas are placed, not {p.replicas}"
        out.append(Violation("replicas", text, {}))
    for gpu in p.gpus:
        spot = {"gpu": gpu.name}
        if gpu.slots is not None and count[gpu.name] != gpu.slots:
            out.append(
                Violation("slots", f"{gpu.name} fills {count[gpu.name]} of {gpu.slots} slots", spot)
            )
        if gpu.memory is not None and memory[gpu.name] > gpu.memory:
            out.append(
                Violation(
                    "memory", f"{gpu.name} holds {memory[gpu.name]} of {gpu.memory} units", spot
                )
            )
    out += [
        Violation("group", f"group {name} lies on {len(found)} nodes", {"group": name})
        for name, found in nodes.items()
        if len(found) > 1
    ]
    if p.move_limit is not None and moves > p.move_limit:
        out.append(Violation("move_limit", f"{moves} replicas move, {p.move_limit} may", {}))
    return out


def evaluate_placement(p: ServingProblem, s: Schedule, name: str) -> Number:
    """``max_load`` (of a GPU) or ``moves`` (replicas on GPUs that do not hold the item now)."""
    items = {i.id: i for i in p.items}
    if name == "moves":
        return sum(len(set(one.gpus) - set(items[one.item].current)) for one in s.placements)
    load: dict[str, Fraction] = {}
    for one in s.placements:
        share = Fraction(items[one.item].load) / len(one.gpus)
        for gpu in one.gpus:
            load[gpu] = load.get(gpu, Fraction(0)) + share
    return exact_number(max(load.values()))
