"""The independent checker of the `serving` family, written from the definitions.

Imports neither the model nor the core. Memory is checked in every round: requests contribute
pieces that grow linearly, so within a stretch of rounds in which no piece begins or ends the last
round is the fullest, and looking at the last round of every stretch looks at all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from cpsched.families.serving.check_cache import check_cache, evaluate_cache
from cpsched.families.serving.check_placement import check_placement, evaluate_placement
from cpsched.families.serving.check_static import (
    PrefixTree,
    check_preemption,
    check_routing,
    evaluate_preemption,
    evaluate_routing,
    prefix_tree,
)
from cpsched.families.serving.pieces import (
    Piece,
    bucket_of,
    length,
    peaks,
    prefill_rounds,
    transfer_rounds,
    used_on,
    working,
)
from cpsched.families.serving.problem import Instance, Placed, Request, ServingProblem
from cpsched.families.serving.problem import ServingSchedule as Schedule
from cpsched.result import Number
from cpsched.validate import Violation


def meets_slo(request: Request, placed: Placed) -> bool:
    """Whether the first and the last unit of output are made in time."""
    first = placed.end - request.output + min(1, request.output)
    if request.first_token_by is not None and first > request.first_token_by:
        return False
    return request.end_by is None or placed.end <= request.end_by


def check(p: ServingProblem, s: Schedule) -> list[Violation]:
    """Every violation of a schedule."""
    if p.question == "cache":
        return check_cache(p, s)
    if p.question == "preemption":
        return check_preemption(p, s)
    if p.question == "routing":
        return check_routing(p, s)
    if p.question == "placement":
        return check_placement(p, s)
    return check_admission(p, s)


def check_admission(p: ServingProblem, s: Schedule) -> list[Violation]:
    """Violations of starts and ends of the questions ``admission`` and ``capacity``."""
    out: list[Violation] = []
    requests = {r.id: r for r in p.requests}
    machines = p.machines
    placed: dict[str, Placed] = {}
    for one in s.requests:
        where = {"request": one.request}
        request = requests.get(one.request)
        if request is None:
            out.append(Violation("request", f"there is no request {one.request!r}", where))
        elif one.request in placed:
            out.append(Violation("request", f"request {one.request} is placed twice", where))
        elif max(one.instance, one.decode or 0) >= len(machines):
            out.append(Violation("instance", f"there is no instance {one.instance}", where))
        else:
            placed[one.request] = one
    if not p.reject:
        out += [
            Violation("request", f"request {r.id} is not placed", {"request": r.id})
            for r in p.requests
            if r.id not in placed
        ]
    for name, one in placed.items():
        out += _check_request(p, requests[name], machines[one.instance], one, placed)
        if machines[one.instance].staged or one.pauses or (one.decode, one.sent) != (None, None):
            out += _check_stages(p, requests[name], machines, one)
    if not out or all(v.rule != "duration" for v in out):
        tree = prefix_tree(p) if any(r.prefix for r in p.requests) else None
        there: dict[int, list[tuple[Request, Placed]]] = {}
        for name, one in placed.items():
            for index in {one.instance, one.instance if one.decode is None else one.decode}:
                there.setdefault(index, []).append((requests[name], one))
        for index, mine in sorted(there.items()):
            out += _check_machine(p, index, machines[index], mine, tree)
    out += _check_tools(p, placed, requests)
    out += _check_network(p, placed, requests)
    out += _check_slo(p, placed)
    return out


def _check_stages(
    p: ServingProblem, r: Request, machines: tuple[Instance, ...], one: Placed
) -> list[Violation]:
    """Pauses lie between the chunks of an interruptible prefill; handovers obey the roles."""
    out = []
    where = {"request": r.id}
    machine = machines[one.instance]
    rounds = prefill_rounds(r, machine)
    at, worked = one.start, 0
    for a, b in one.pauses:
        worked += a - at
        # A pause begins and ends between two chunks, and follows work.
        if not machine.interruptible or a <= at or b <= a or worked >= rounds:
            text = f"the prefill of request {r.id} may not pause from {a} to {b}"
            out.append(Violation("interruptible", text, where))
            break
        at = b
    if machine.role == "decode" or (machine.role == "prefill" and one.decode is None):
        text = f"request {r.id} runs on instance {one.instance} of role {machine.role}"
        out.append(Violation("role", text, where))
    if (one.decode is None) != (one.sent is None):
        out.append(Violation("role", f"request {r.id} needs both decode and sent", where))
    elif one.decode is not None and one.sent is not None:
        ready = one.start + rounds + sum(b - a for a, b in one.pauses)
        if machines[one.decode].role == "prefill" or one.decode == one.instance:
            text = f"request {r.id} may not decode on instance {one.decode}"
            out.append(Violation("role", text, where))
        if one.sent < ready:
            text = f"request {r.id} is sent at {one.sent}, its prefill ends at {ready}"
            out.append(Violation("role", text, where, ready - one.sent))
        if r.candidates and one.decode not in r.candidates:
            text = f"request {r.id} may not run on instance {one.decode}"
            out.append(Violation("candidates", text, where))
    return out


def _check_network(
    p: ServingProblem, placed: dict[str, Placed], requests: dict[str, Request]
) -> list[Violation]:
    if p.network is None or p.network.transfers is None:
        return []
    carried = [
        Piece(one.sent, one.sent + transfer_rounds(p, requests[name].prompt), 1, 0)
        for name, one in placed.items()
        if one.sent is not None
    ]
    times, use = peaks([q for q in carried if q.end > q.begin])
    if not len(use) or int(use.max()) <= p.network.transfers:
        return []
    worst = int(use.argmax())
    text = f"{use[worst]} transfers in round {times[worst]}, {p.network.transfers} allowed"
    return [Violation("network", text, {"time": int(times[worst])})]


def _check_request(
    p: ServingProblem, r: Request, machine: Instance, one: Placed, placed: dict[str, Placed]
) -> list[Violation]:
    out = []
    where = {"request": r.id}
    wanted = length(r, machine) + sum(b - a for a, b in one.pauses)
    if one.sent is not None:
        ready = one.start + wanted - r.output
        wanted += max(0, one.sent - ready) + transfer_rounds(p, r.prompt)
    if one.end - one.start != wanted:
        out.append(
            Violation(
                "duration",
                f"request {r.id} runs {one.end - one.start} rounds, not {wanted}",
                where,
                abs(one.end - one.start - wanted),
            )
        )
    if r.start is None and one.start < r.arrival:
        out.append(
            Violation(
                "arrival",
                f"request {r.id} starts at {one.start} and arrives at {r.arrival}",
                where,
                r.arrival - one.start,
            )
        )
    if r.start is not None:
        moved = (one.start, one.instance, one.pauses) != (r.start, r.instance, r.pauses)
        if moved or (r.sent is not None and (one.decode, one.sent) != (r.decode, r.sent)):
            text = f"request {r.id} runs on {r.instance} since {r.start}"
            out.append(Violation("running", text, where))
        if r.sent is None and one.sent is not None and one.sent < r.arrival:
            text = f"request {r.id} is sent at {one.sent}, before {r.arrival}"
            out.append(Violation("arrival", text, where, r.arrival - one.sent))
    if r.candidates and one.instance not in r.candidates:
        out.append(
            Violation("candidates", f"request {r.id} may not run on instance {one.instance}", where)
        )
    for other in r.after:
        before = placed.get(other)
        if before is None:
            out.append(
                Violation("precedence", f"request {r.id} waits for {other}, left out", where)
            )
            continue
        late = before.end + r.gap - one.start
        if late > 0:
            out.append(
                Violation(
                    "precedence",
                    f"request {r.id} starts {late} rounds too early after request {other}",
                    where,
                    late,
                )
            )
    return out


def _check_machine(
    p: ServingProblem,
    index: int,
    machine: Instance,
    mine: list[tuple[Request, Placed]],
    tree: PrefixTree | None,
) -> list[Violation]:
    limits = {
        "capacity": machine.capacity,
        "max_batch": machine.max_batch,
        "token_budget": machine.token_budget,
    }
    out = []
    for rule, used in used_on(p, index, mine, tree).items():
        limit = limits[rule]
        if limit is None:
            continue
        times, use = peaks(used)
        if len(use) and int(use.max()) > limit:
            worst = int(use.argmax())
            out.append(
                Violation(
                    rule,
                    f"instance {index} uses {use[worst]} of {limit} in round {times[worst]}",
                    {"instance": index, "time": int(times[worst])},
                    int(use[worst]) - limit,
                )
            )
    return out + _check_buckets(index, machine, mine)


def _check_buckets(
    index: int, machine: Instance, mine: list[tuple[Request, Placed]]
) -> list[Violation]:
    """In every round only prompts of one bucket prefill."""
    if not machine.buckets:
        return []
    spans = sorted(
        (a, b, bucket_of(r, machine), r.id)
        for r, one in mine
        if one.instance == index
        for a, b in working(one, prefill_rounds(r, machine))
    )
    until: dict[int, int] = {}
    for a, b, bucket, name in spans:
        for other, last in until.items():
            if other != bucket and last > a:
                text = f"request {name} prefills beside bucket {other} on instance {index}"
                return [Violation("bucket", text, {"request": name, "time": a + 1})]
        until[bucket] = max(b, until.get(bucket, b))
    return []


def _check_tools(
    p: ServingProblem, placed: dict[str, Placed], requests: dict[str, Request]
) -> list[Violation]:
    out = []
    for tool in p.tools:
        calls = [
            Piece(one.end, one.end + requests[n].tool_rounds, 1, 0)
            for n, one in placed.items()
            if requests[n].tool == tool.name and requests[n].tool_rounds
        ]
        times, use = peaks(calls)
        if len(use) and int(use.max()) > tool.capacity:
            worst = int(use.argmax())
            out.append(
                Violation(
                    "tool_capacity",
                    f"{use[worst]} calls of tool {tool.name} in round {times[worst]}, "
                    f"{tool.capacity} allowed",
                    {"tool": tool.name, "time": int(times[worst])},
                    int(use[worst]) - tool.capacity,
                )
            )
    return out


def allowed_misses(p: ServingProblem) -> int:
    """Most requests that may miss their SLO."""
    if p.slo_percent is None:
        return len(p.requests)
    # Exact decimal arithmetic: 99.9 % of 1000 requests leaves 1, whatever floats say.
    return len(p.requests) * (10**9 - round(p.slo_percent * 10**7)) // 10**9


def _check_slo(p: ServingProblem, placed: dict[str, Placed]) -> list[Violation]:
    if p.slo_percent is None:
        return []
    misses = [r.id for r in p.requests if r.id not in placed or not meets_slo(r, placed[r.id])]
    allowed = allowed_misses(p)
    if len(misses) <= allowed:
        return []
    return [
        Violation(
            "slo",
            f"{len(misses)} requests miss their SLO, {allowed} may (request {misses[0]} does)",
            {"request": misses[0]},
            len(misses) - allowed,
        )
    ]


def evaluate(p: ServingProblem, s: Schedule, names: Sequence[str]) -> tuple[Number, ...]:
    """Values of the named objectives of a valid schedule."""
    static = {
        "cache": evaluate_cache,
        "preemption": evaluate_preemption,
        "routing": evaluate_routing,
        "placement": evaluate_placement,
    }
    if p.question in static:
        return tuple(static[p.question](p, s, name) for name in names)
    return tuple(_admission_value(p, s, name) for name in names)


def _admission_value(p: ServingProblem, s: Schedule, name: str) -> Number:
    requests = {r.id: r for r in p.requests}
    machines = p.machines
    if name == "total_latency":
        return sum(one.end - requests[one.request].arrival for one in s.requests)
    if name == "weighted_latency":
        return sum(
            requests[one.request].weight * (one.end - requests[one.request].arrival)
            for one in s.requests
        )
    if name == "makespan":
        return max((one.end for one in s.requests), default=0)
    used = {one.instance for one in s.requests} | {
        one.decode for one in s.requests if one.decode is not None
    }
    if name == "instances":
        return len(used)
    if name == "cost":
        return sum(machines[index].price for index in used)
    return sum(
        requests[one.request].weight for one in s.requests if meets_slo(requests[one.request], one)
    )
