"""The named constraints of a serving problem, and the problem that keeps only some of them."""

from __future__ import annotations

from typing import Any

from cpsched.families import NamedConstraint
from cpsched.families.serving.problem import ServingProblem


def constraints(p: ServingProblem) -> list[NamedConstraint]:
    """Limits of instances, tools and GPUs, precedences, candidates and the SLO."""
    out: list[NamedConstraint] = []

    def name(group: str, what: str, sentence: str) -> None:
        out.append(NamedConstraint(f"{group}:{what}" if what else group, group, sentence))

    for k, m in enumerate(p.instances):
        label = m.name or f"instance {k}"
        for group, limit, noun in (
            ("capacity", m.capacity, "units of KV"),
            ("max_batch", m.max_batch, "requests at once"),
            ("token_budget", m.token_budget, "units per round"),
        ):
            if limit is not None:
                name(group, str(k), f"{label} has room for {limit} {noun}.")
        if m.buckets:
            name("bucket", str(k), f"{label} prefills prompts of one bucket in a round.")
    for t in p.tools:
        name("tool_capacity", t.name, f"Tool {t.name} takes {t.capacity} calls at once.")
    for r in p.requests:
        if r.after:
            name("precedence", r.id, f"Request {r.id} waits for {', '.join(r.after)}.")
        if r.candidates:
            name("candidates", r.id, f"Request {r.id} runs only on {list(r.candidates)}.")
    if p.slo_percent is not None:
        name("slo", "", f"{p.slo_percent:g} % of the requests meet their SLO.")
    if p.question == "preemption":
        name("need", "", f"{p.need} units must be freed.")
    if p.network is not None and p.network.transfers is not None:
        name("network", "", f"The network carries {p.network.transfers} transfers at once.")
    if p.move_limit is not None:
        name("move_limit", "", f"At most {p.move_limit} may move.")
    for g in p.gpus:
        if g.slots is not None:
            name("slots", g.name, f"GPU {g.name} fills exactly {g.slots} slots.")
        if g.memory is not None:
            name("memory", g.name, f"GPU {g.name} holds {g.memory} units.")
    if p.replicas is not None:
        name("replicas", "", f"There are exactly {p.replicas} replicas.")
    for i in p.items:
        if i.replicas is not None:
            name("replicas", i.id, f"Item {i.id} has {i.replicas} replicas.")
    if p.group_limit:
        for group in dict.fromkeys(i.group for i in p.items if i.group):
            name("group", group, f"The items of group {group} lie on one node.")
    return out


def restrict(p: ServingProblem, keep: frozenset[str]) -> ServingProblem:
    """The problem with only the given named constraints."""

    def kept(group: str, what: str = "") -> bool:
        return (f"{group}:{what}" if what else group) in keep

    instances = tuple(
        m.model_copy(
            update={
                f: None for f in ("capacity", "max_batch", "token_budget") if not kept(f, str(k))
            }
            | ({} if kept("bucket", str(k)) else {"buckets": ()})
        )
        for k, m in enumerate(p.instances)
    )
    requests = []
    for r in p.requests:
        change: dict[str, Any] = {}
        if r.after and not kept("precedence", r.id):
            change["after"] = ()
        if r.candidates and not kept("candidates", r.id):
            change["candidates"] = ()
        requests.append(r.model_copy(update=change) if change else r)
    gpus = tuple(
        g.model_copy(update={f: None for f in ("slots", "memory") if not kept(f, g.name)})
        for g in p.gpus
    )
    items = tuple(
        i.model_copy(
            update=({} if kept("replicas", i.id) else {"replicas": None})
            | ({} if not i.group or kept("group", i.group) else {"group": ""})
        )
        for i in p.items
    )
    return p.model_copy(
        update={
            "instances": instances,
            "tools": tuple(
                t if kept("tool_capacity", t.name) else t.model_copy(update={"capacity": 10**9})
                for t in p.tools
            ),
            "requests": tuple(requests),
            "slo_percent": p.slo_percent if kept("slo") else None,
            "need": p.need if kept("need") else 0,
            "network": (
                p.network
                if p.network is None or kept("network")
                else p.network.model_copy(update={"transfers": None})
            ),
            "move_limit": p.move_limit if kept("move_limit") else None,
            "replicas": p.replicas if kept("replicas") else None,
            "gpus": gpus,
            "items": items,
        }
    )
