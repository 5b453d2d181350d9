"""What must hold between the parts of a serving problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cpsched.errors import ProblemError

if TYPE_CHECKING:
    from cpsched.families.serving.problem import ServingProblem


def complain(rule: str, place: str, value: object, remedy: str) -> None:
    """Refuse a problem: the rule, the place, the value, the remedy."""
    raise ProblemError(rule, place=place, value=value, remedy=remedy)


def unique(names: list[str], place: str, field: str) -> None:
    """Refuse names that occur twice."""
    if len(set(names)) < len(names):
        name, times = Counter(names).most_common(1)[0]
        complain(f"{field} must be unique, one occurs {times} times", place, name, "Rename one.")


def asked_alone(objectives: Sequence[str]) -> None:
    """Refuse ``expected_tokens`` beside others: its schedules are times to live."""
    if "expected_tokens" in objectives and len(objectives) > 1:
        complain("expected_tokens is asked alone", "objectives", objectives, "Drop the others.")


def check_requests(p: ServingProblem) -> None:
    """Refuse requests that name what is not there, or that cannot fit anywhere."""
    machines = p.machines
    tools = {t.name for t in p.tools}
    room = max((2**62 if m.capacity is None else m.capacity for m in p.instances), default=2**62)
    ids = {r.id for r in p.requests}
    first = min((r.arrival for r in p.requests if r.start is None), default=10**12)
    for r in p.requests:
        place = f"requests.{r.id}"
        named = {"candidates": r.candidates, "instance": (r.instance,), "decode": (r.decode,)}
        for field, indices in named.items():
            for index in indices:
                if index is not None and index >= len(machines):
                    complain(
                        f"there are {len(machines)} instances, counted from 0",
                        f"{place}.{field}",
                        index,
                        "Name an existing instance.",
                    )
        if p.question in ("admission", "capacity") and r.prompt > room:
            complain(
                f"a prompt must fit into the capacity of an instance ({room} units)",
                f"{place}.prompt",
                r.prompt,
                "Raise the capacity (capacity_tokens), or drop the request.",
            )
        if r.tool and r.tool not in tools:
            complain("the tool must be listed in tools", f"{place}.tool", r.tool, "Add it.")
        if r.start is not None and r.instance is None and p.question in ("admission", "capacity"):
            complain("a started request names its instance", place, None, "Add 'instance'.")
        if r.start is not None and r.start > first:
            complain(
                f"a running request started before the others arrive (round {first})",
                f"{place}.start",
                r.start,
                "Correct the start, or the arrivals.",
            )
        for other in r.after:
            if other not in ids:
                complain("'after' names a request", f"{place}.after", other, "Correct the id.")
        if len(r.prefix) * p.prefix_block - p.prefix_block >= max(1, r.prompt):
            complain(
                f"a prompt of {r.prompt} units has at most "
                f"{-(-r.prompt // p.prefix_block)} prefix blocks of {p.prefix_block} units",
                f"{place}.prefix",
                len(r.prefix),
                "Correct the prompt, the prefix or prefix_block.",
            )


def check_staged(p: ServingProblem) -> None:
    """Refuse what running stages lack, and roles that cannot work together."""
    for r in p.requests:
        if (r.decode is None) != (r.sent is None):
            complain("decode and sent go together", f"requests.{r.id}", None, "Give both.")
        if r.start is None and (r.pauses or r.sent is not None):
            complain(
                "pauses and sent tell of running requests",
                f"requests.{r.id}.start",
                None,
                "Give its start.",
            )
    if not any(m.staged for m in p.instances):
        return
    roles = {m.role for m in p.instances}
    if "mixed" not in roles and roles != {"prefill", "decode"}:
        complain(
            "there must be instances that prefill and instances that decode",
            "instances.role",
            sorted(roles),
            "Add the other role.",
        )


def check_precedence(p: ServingProblem) -> None:
    """Refuse cycles (Kahn's algorithm)."""
    followers: dict[str, list[str]] = {}
    missing = {r.id: len(set(r.after)) for r in p.requests}
    for r in p.requests:
        for other in set(r.after):
            followers.setdefault(other, []).append(r.id)
    ready = [name for name, count in missing.items() if not count]
    for name in ready:
        for follower in followers.get(name, ()):
            missing[follower] -= 1
            if not missing[follower]:
                ready.append(follower)
    if len(ready) < len(p.requests):
        stuck = next(name for name, count in missing.items() if count)
        complain(
            "requests must not wait for each other in a circle", "requests", stuck, "Cut the cycle."
        )


def check_placement(p: ServingProblem) -> None:
    """Refuse placements of unknown items and too many replicas."""
    unique([i.id for i in p.items], "items", "id")
    unique([g.name for g in p.gpus], "gpus", "name")
    if not p.items or not p.gpus:
        complain("placement needs items and gpus", "items", None, "Add them.")
    gpus = {g.name for g in p.gpus}
    for item in p.items:
        for name in item.current:
            if name not in gpus:
                complain("must be a GPU", f"items.{item.id}.current", name, "Correct the name.")
        if item.replicas is not None and item.replicas > len(p.gpus):
            complain(
                "an item has at most one replica per GPU",
                f"items.{item.id}.replicas",
                item.replicas,
                "Lower it.",
            )
    if p.replicas is not None and p.replicas < len(p.items):
        complain(
            "there are at least as many replicas as items", "replicas", p.replicas, "Raise it."
        )
