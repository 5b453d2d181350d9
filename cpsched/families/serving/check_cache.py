"""The checker of the question ``cache``: what is kept, and what that saves."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from cpsched.families.serving.exact_number import exact_number
from cpsched.families.serving.problem import Request, ServingProblem
from cpsched.families.serving.problem import ServingSchedule as Schedule
from cpsched.result import Number
from cpsched.validate import Violation


def is_program_cache(p: ServingProblem) -> bool:
    """Whether the cache question is about programs' contexts, not about prefix blocks."""
    return not any(r.prefix for r in p.requests)


def program_steps(p: ServingProblem) -> dict[str, list[Request]]:
    """The calls of every program, by step."""
    steps: dict[str, list[Request]] = {}
    for r in p.requests:
        if r.program:
            steps.setdefault(r.program, []).append(r)
    for calls in steps.values():
        calls.sort(key=lambda r: (r.step, r.arrival))
    return steps


def call_end(r: Request) -> int:
    """When a call with fixed times ends."""
    return r.arrival + (r.output if r.duration is None else r.duration)


def context(r: Request) -> int:
    """Units that a call leaves behind: its prompt and its output."""
    return r.prompt + r.output


def cache_blocks(p: ServingProblem) -> int | None:
    """Prefix blocks that fit into the cache (the first instance); None for no limit."""
    capacity = p.instances[0].capacity
    return None if capacity is None else capacity // p.prefix_block


def check_cache(p: ServingProblem, s: Schedule) -> list[Violation]:
    """Pins name real items, and what is pinned fits at every moment."""
    pins = _check_program_pins(p, s) if is_program_cache(p) else _check_block_pins(p, s)
    return pins + _check_ttls(p, s)


def _check_ttls(p: ServingProblem, s: Schedule) -> list[Violation]:
    known = {t.name for t in p.tools if t.durations}
    out = []
    for one in s.ttls:
        if one.tool not in known:
            text = f"tool {one.tool} is unknown, twice, or without durations"
            out.append(Violation("ttl", text, {"tool": one.tool}))
        known.discard(one.tool)
    return out


def expected_price(p: ServingProblem, tool: str, rounds: int) -> Fraction:
    """Expected tokens lost per call of a tool and unit of context when kept that many rounds.

    A call that lasts longer costs the context again; until then every round costs ``hold_price``.
    """
    durations = next(t.durations for t in p.tools if t.name == tool)
    lost = sum(1 for d in durations if d > rounds)
    kept = sum(min(d, rounds) for d in durations)
    return (lost + Fraction(p.hold_price) * kept) / len(durations)


def expected_tokens(p: ServingProblem, s: Schedule) -> Number:
    """Expected price of every call of a tool with durations, kept as the schedule says (0: not)."""
    rounds = {one.tool: one.rounds for one in s.ttls}
    total = Fraction(0)
    units = dict.fromkeys((r.tool for r in p.requests), 0)
    for r in p.requests:
        units[r.tool] += context(r)
    for t in p.tools:
        if t.durations:
            total += units.get(t.name, 0) * expected_price(p, t.name, rounds.get(t.name, 0))
    return exact_number(total * p.block_tokens)


def fetch_rounds(p: ServingProblem, units: int) -> int:
    """Rounds that so many units take between GPU and host memory."""
    speed = p.instances[0].host_units_per_round
    return 0 if speed is None else -(-units // speed)


def _check_block_pins(p: ServingProblem, s: Schedule) -> list[Violation]:
    out: list[Violation] = []
    uses = block_uses(p)
    change = [0] * (len(p.requests) + 1)
    pinned: dict[str, list[tuple[int, int]]] = {}
    for pin in s.pins:
        where = {"item": pin.item, "from": pin.from_}
        if not pin.item.isdecimal() or int(pin.item) not in uses:
            out.append(Violation("pin", f"there is no prefix block {pin.item!r}", where))
        elif pin.place != "gpu":
            out.append(Violation("pin", "prefix blocks are kept on the GPU only", where))
        elif not 0 <= pin.from_ < pin.to < len(p.requests) or pin.from_ not in uses[int(pin.item)]:
            out.append(
                Violation("pin", f"block {pin.item} is not there to keep at {pin.from_}", where)
            )
        else:
            change[pin.from_] += 1
            change[pin.to] -= 1
            pinned.setdefault(pin.item, []).append((pin.from_, pin.to))
    for item, spans in pinned.items():
        spans.sort()
        if any(b[0] < a[1] for a, b in pairwise(spans)):
            out.append(Violation("pin", f"block {item} is kept twice at once", {"item": item}))
    blocks = cache_blocks(p)
    level = 0
    for index, step in enumerate(change):
        level += step
        if blocks is not None and level > blocks:
            out.append(
                Violation(
                    "capacity",
                    f"{level} blocks are kept after request {index}, {blocks} fit",
                    {"time": index},
                    level - blocks,
                )
            )
            break
    return out


def block_uses(p: ServingProblem) -> dict[int, set[int]]:
    """Indices of the requests that use each prefix block."""
    uses: dict[int, set[int]] = {}
    for index, r in enumerate(p.requests):
        for block in r.prefix:
            uses.setdefault(block, set()).add(index)
    return uses


def hit_blocks(p: ServingProblem, s: Schedule) -> list[int]:
    """Leading blocks of every request that are in the cache when it comes."""
    ends: dict[int, list[tuple[int, int]]] = {}
    for pin in s.pins:
        ends.setdefault(int(pin.item), []).append((pin.from_, pin.to))
    hits = []
    for spans in ends.values():
        spans.sort(reverse=True)
    for index, r in enumerate(p.requests):
        count = 0
        for block in r.prefix:
            spans = ends.get(block, [])
            while spans and spans[-1][1] < index:
                spans.pop()
            if not spans or not spans[-1][0] < index <= spans[-1][1]:
                break
            count += 1
        hits.append(count)
    return hits


def _check_program_pins(p: ServingProblem, s: Schedule) -> list[Violation]:
    out: list[Violation] = []
    steps = program_steps(p)
    gpu: list[tuple[int, int, int]] = []
    host: list[tuple[int, int, int]] = []
    seen = set()
    for pin in s.pins:
        where = {"item": pin.item, "from": pin.from_}
        calls = steps.get(pin.item)
        if calls is None or pin.to != pin.from_ + 1 or pin.to >= len(calls):
            out.append(
                Violation(
                    "pin", f"program {pin.item} has no gap from {pin.from_} to {pin.to}", where
                )
            )
        elif (pin.item, pin.from_) in seen:
            out.append(Violation("pin", f"program {pin.item} is kept twice", where))
        else:
            seen.add((pin.item, pin.from_))
            start, end = call_end(calls[pin.from_]), calls[pin.to].arrival
            units = context(calls[pin.from_])
            if pin.place == "gpu":
                gpu.append((start, end, units))
                continue
            host.append((start, end, units))
            moving = fetch_rounds(p, units)
            if 2 * moving > max(0, end - start):
                text = f"program {pin.item} cannot leave and return between {start} and {end}"
                out.append(Violation("prefetch", text, where))
            gpu += [(start, start + moving, units), (end - moving, end, units)]
    instance = p.instances[0]
    running = [(r.arrival, call_end(r), context(r)) for r in p.requests] if p.running_memory else []
    for rule, limit, pins, other in (
        ("capacity", instance.capacity, gpu, running),
        ("host_capacity", instance.host_capacity, host, []),
    ):
        if limit is None:
            continue
        changes: dict[int, list[int]] = {}
        for k, group in enumerate((pins, other)):
            for start, end, units in group:
                if end > start:
                    changes.setdefault(start, [0, 0])[k] += units
                    changes.setdefault(end, [0, 0])[k] -= units
        kept = busy = 0
        for time in sorted(changes):
            kept += changes[time][0]
            busy += changes[time][1]
            # Calls run as recorded even where they overload the memory: then nothing is kept.
            if kept > max(0, limit - busy):
                out.append(
                    Violation(
                        rule,
                        f"{kept} units are kept at {time} beside {busy} running ones, {limit} fit",
                        {"time": time},
                        kept - max(0, limit - busy),
                    )
                )
                break
    return out


def recompute_tokens(p: ServingProblem, s: Schedule) -> int:
    """Tokens to prefill again because their KV was not kept, reloads at their price (rounded up).

    A step could reuse what the step before left behind, at most its own prompt. With prefix blocks
    every block that is missed counts, first uses included.
    """
    if not is_program_cache(p):
        missed = sum(len(r.prefix) for r in p.requests) - sum(hit_blocks(p, s))
        return missed * p.prefix_block * p.block_tokens
    kept = {(pin.item, pin.from_): pin.place for pin in s.pins}
    lost = percent = 0
    for name, calls in program_steps(p).items():
        for k, (before, after) in enumerate(pairwise(calls)):
            units = min(context(before), after.prompt)
            place = kept.get((name, k))
            lost += units if place is None else 0
            percent += units * p.reload_percent if place == "host" else 0
    return (lost + -(-percent // 100)) * p.block_tokens


def evaluate_cache(p: ServingProblem, s: Schedule, name: str) -> Number:
    """``hit_tokens``, ``recompute_tokens`` or ``expected_tokens``."""
    if name == "expected_tokens":
        return expected_tokens(p, s)
    if name == "recompute_tokens":
        return recompute_tokens(p, s)
    if not is_program_cache(p):
        return sum(hit_blocks(p, s)) * p.prefix_block * p.block_tokens
    steps = program_steps(p)
    return p.block_tokens * sum(
        min(context(steps[pin.item][pin.from_]), steps[pin.item][pin.to].prompt) for pin in s.pins
    )
