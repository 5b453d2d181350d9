"""The checker for the questions without rounds: cache, preemption, routing, placement."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise

from cpsched.families.serving.problem import Request, ServingProblem
from cpsched.families.serving.problem import ServingSchedule as Schedule
from cpsched.result import Number
from cpsched.validate import Violation

# ---------------------------------------------------------------- cache


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
    for t in p.tools:
        if t.durations:
            units = sum(context(r) for r in p.requests if r.tool == t.name)
            total += units * expected_price(p, t.name, rounds.get(t.name, 0))
    return _number(total * p.block_tokens)


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


# ---------------------------------------------------------------- preemption


def held_units(r: Request) -> int:
    """Units that evicting a request frees."""
    return r.prompt if r.held is None else r.held


def recompute_cost(p: ServingProblem, r: Request) -> int:
    """Price of evicting a request and recomputing it later."""
    cost: int = held_units(r) ** p.cost_power if r.cost is None else r.cost
    return cost


def check_preemption(p: ServingProblem, s: Schedule) -> list[Violation]:
    """The victims exist, free enough, and the swapped ones fit into host memory."""
    out: list[Violation] = []
    requests = {r.id: r for r in p.requests}
    seen: set[str] = set()
    for one in s.evictions:
        where = {"request": one.request}
        if one.request not in requests or one.request in seen:
            text = "is evicted twice" if one.request in seen else "does not exist"
            out.append(Violation("eviction", f"request {one.request} {text}", where))
        elif one.how == "swap" and requests[one.request].swap_cost is None:
            out.append(Violation("swap", f"request {one.request} cannot be swapped out", where))
        seen.add(one.request)
    if out:
        return out
    freed = sum(held_units(requests[one.request]) for one in s.evictions)
    if freed < p.need:
        out.append(
            Violation("need", f"{freed} units are freed, {p.need} needed", {}, p.need - freed)
        )
    swapped = sum(held_units(requests[e.request]) for e in s.evictions if e.how == "swap")
    if swapped > p.host_free:
        out.append(
            Violation(
                "host_free",
                f"{swapped} units are swapped out, {p.host_free} fit",
                {},
                swapped - p.host_free,
            )
        )
    return out


def evaluate_preemption(p: ServingProblem, s: Schedule, name: str) -> Number:
    """Price of the evictions, in tokens."""
    requests = {r.id: r for r in p.requests}
    total = 0
    for one in s.evictions:
        r = requests[one.request]
        total += (r.swap_cost or 0) if one.how == "swap" else recompute_cost(p, r)
    return total * p.block_tokens


# ---------------------------------------------------------------- routing


def prefix_sizes(p: ServingProblem) -> dict[tuple[int, int], int]:
    """Units of each prefix block by (depth, id): a prompt's last block may be cut short, and a
    block is as long as its shortest user says."""
    sizes: dict[tuple[int, int], int] = {}
    for r in p.requests:
        for depth, block in enumerate(r.prefix):
            size = min(p.prefix_block, r.prompt - depth * p.prefix_block)
            sizes[depth, block] = min(size, sizes.get((depth, block), size))
    return sizes


def residents(p: ServingProblem, where: dict[str, int]) -> list[int]:
    """Peak units on every instance: private KV at full length, prefix blocks once."""
    sizes = prefix_sizes(p)
    use = [0] * len(p.machines)
    blocks: list[set[tuple[int, int]]] = [set() for _ in use]
    for r in p.requests:
        if r.id in where:
            path = list(enumerate(r.prefix))
            use[where[r.id]] += r.prompt + r.output - sum(sizes[key] for key in path)
            blocks[where[r.id]].update(path)
    return [u + sum(sizes[key] for key in b) for u, b in zip(use, blocks, strict=True)]


def routed_loads(p: ServingProblem, where: dict[str, int]) -> list[Fraction]:
    """Units of work on every instance over its speed: outputs, and prompts with prefixes once."""
    speeds = [Fraction(m.speed) for m in p.machines]
    return [Fraction(u) / v for u, v in zip(residents(p, where), speeds, strict=True)]


def check_routing(p: ServingProblem, s: Schedule) -> list[Violation]:
    """Everyone is somewhere allowed; the migrations lead there and fit after every step."""
    out: list[Violation] = []
    requests = {r.id: r for r in p.requests}
    machines = p.machines
    where: dict[str, int] = {}
    for one in s.requests:
        r = requests.get(one.request)
        spot = {"request": one.request}
        if r is None or one.request in where or one.instance >= len(machines):
            out.append(Violation("request", f"request {one.request} is misplaced", spot))
            continue
        where[one.request] = one.instance
        if r.candidates and one.instance not in r.candidates:
            out.append(
                Violation("candidates", f"request {r.id} may not go to {one.instance}", spot)
            )
    out += [
        Violation("request", f"request {r.id} is not routed", {"request": r.id})
        for r in p.requests
        if r.id not in where
    ]
    if out:
        return out
    out += _check_transfers(p, s)
    now = {r.id: r.instance for r in p.requests if r.instance is not None}
    moved = 0
    for k, move in enumerate(s.migrations):
        if now.get(move.request) != move.from_ or move.to >= len(machines):
            text = f"migration {k} moves {move.request} from where it is not"
            return [Violation("migration", text, {"request": move.request})]
        now[move.request] = move.to
        moved += held_units(requests[move.request])
        use = residents(p, now)[move.to]
        room = machines[move.to].capacity
        if room is not None and use > room and p.network is None:
            out.append(
                Violation(
                    "migration",
                    f"instance {move.to} holds {use} of {room} units after migration {k}",
                    {"request": move.request, "instance": move.to},
                    use - room,
                )
            )
    out += [
        Violation("migration", f"request {name} is not moved to {where[name]}", {"request": name})
        for name, index in now.items()
        if where[name] != index
    ]
    if p.move_limit is not None and moved > p.move_limit:
        out.append(
            Violation(
                "move_limit", f"{moved} units move, {p.move_limit} may", {}, moved - p.move_limit
            )
        )
    for index, use in enumerate(residents(p, where)):
        room = machines[index].capacity
        if room is not None and use > room:
            out.append(
                Violation(
                    "capacity",
                    f"instance {index} holds {use} of {room} units",
                    {"instance": index},
                    use - room,
                )
            )
    return out


def migration_rounds(p: ServingProblem, r: Request) -> int:
    """Rounds that a request's KV takes to another instance."""
    if p.network is None:
        return 0
    return p.network.latency - (-held_units(r) // p.network.units_per_round)


def _check_transfers(p: ServingProblem, s: Schedule) -> list[Violation]:
    """With a network: every migration takes its rounds, few enough at once, and fits meanwhile."""
    if p.network is None or not s.migrations:
        return []
    requests = {r.id: r for r in p.requests}
    starts: list[int] = []
    for move in s.migrations:
        r = requests.get(move.request)
        wanted = 0 if r is None else migration_rounds(p, r)
        if move.start is None or move.end is None or move.end - move.start != wanted:
            text = f"the migration of {move.request} takes {wanted} rounds"
            return [Violation("network", text, {"request": move.request})]
        starts.append(move.start)
    if starts != sorted(starts) or len({m.request for m in s.migrations}) < len(starts):
        return [Violation("network", "migrations are ordered by start, one per request", {})]
    for time in starts:
        going = [m for m in s.migrations if (m.start or 0) <= time < (m.end or 0)]
        if p.network.transfers is not None and len(going) > p.network.transfers:
            text = f"{len(going)} transfers at {time}, {p.network.transfers} allowed"
            return [Violation("network", text, {"time": time})]
        for index, machine in enumerate(p.machines):
            there = {r.id: index for r in p.requests if r.instance == index}
            for m in s.migrations:
                if m.to == index and (m.start or 0) <= time:
                    there[m.request] = index
                elif m.from_ == index and (m.end or 0) <= time:
                    there.pop(m.request, None)
            use = residents(p, there)[index] if there else 0
            if machine.capacity is not None and use > machine.capacity:
                text = f"instance {index} holds {use} of {machine.capacity} units at {time}"
                return [Violation("migration", text, {"instance": index, "time": time})]
    return []


def evaluate_routing(p: ServingProblem, s: Schedule, name: str) -> Number:
    """``max_load`` (units over speed), ``moves`` (units of KV that migrate) or
    ``migration_rounds`` (until the last of them has arrived)."""
    if name == "migration_rounds":
        return max((m.end or 0 for m in s.migrations), default=0)
    if name == "moves":
        requests = {r.id: r for r in p.requests}
        return sum(held_units(requests[m.request]) for m in s.migrations)
    return _number(max(routed_loads(p, {one.request: one.instance for one in s.requests})))


# ---------------------------------------------------------------- placement


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
    return _number(max(load.values()))


def _number(value: Fraction) -> Number:
    return int(value) if value.denominator == 1 else float(value)
