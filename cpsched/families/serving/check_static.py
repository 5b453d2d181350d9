"""The checker of the questions ``preemption`` and ``routing``: snapshots without rounds."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from cpsched.families.serving.exact_number import exact_number
from cpsched.families.serving.problem import Request, ServingProblem
from cpsched.families.serving.problem import ServingSchedule as Schedule
from cpsched.result import Number
from cpsched.validate import Violation

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


class PrefixTree(NamedTuple):
    """The shared blocks: units of every node, and the nodes of every request by its id."""

    size: list[int]
    path: dict[str, list[int]]

    def shared(self, name: str) -> int:
        """Units of a request's prompt that lie in its blocks."""
        return sum(self.size[k] for k in self.path[name])


def prefix_tree(p: ServingProblem) -> PrefixTree:
    """The tree of the prefixes: requests share the nodes of their equal leading blocks.

    A prompt's last block may be cut short; a block is as long as its shortest user says.
    """
    tree = PrefixTree([], {r.id: [] for r in p.requests})
    known: dict[tuple[int, int], int] = {}
    for r in p.requests:
        if not r.prefix:
            continue
        node = -1
        path = tree.path[r.id]
        for depth, block in enumerate(r.prefix):
            size = min(p.prefix_block, r.prompt - depth * p.prefix_block)
            node = known.setdefault((node, block), len(tree.size))
            if node == len(tree.size):
                tree.size.append(size)
            tree.size[node] = min(size, tree.size[node])
            path.append(node)
    return tree


class Residents:
    """Peak units on every instance: private KV at full length, prefix blocks once."""

    def __init__(self, p: ServingProblem) -> None:
        self.tree = prefix_tree(p)
        self.units = [0] * len(p.machines)
        self.users: list[dict[int, int]] = [{} for _ in self.units]

    def come(self, r: Request, index: int) -> None:
        """A request is on an instance from now on."""
        self._change(r, index, 1)

    def leave(self, r: Request, index: int) -> None:
        """A request is no longer on an instance."""
        self._change(r, index, -1)

    def _change(self, r: Request, index: int, sign: int) -> None:
        users, units = self.users[index], r.prompt + r.output - self.tree.shared(r.id)
        for node in self.tree.path[r.id]:
            count = users.get(node, 0)
            users[node] = count + sign
            units += self.tree.size[node] if min(count, count + sign) == 0 else 0
        self.units[index] += sign * units


def residents(p: ServingProblem, where: dict[str, int]) -> list[int]:
    """`Residents` of the requests that are somewhere."""
    there = Residents(p)
    for r in p.requests:
        if r.id in where:
            there.come(r, where[r.id])
    return there.units


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
    now = {r.id: r.instance for r in p.requests if r.instance is not None}
    there = Residents(p)
    for name, index in now.items():
        there.come(requests[name], index)
    moved = 0
    for k, move in enumerate(s.migrations):
        if now.get(move.request) != move.from_ or move.to >= len(machines):
            text = f"migration {k} moves {move.request} from where it is not"
            return [Violation("migration", text, {"request": move.request})]
        now[move.request] = move.to
        moved += held_units(requests[move.request])
        there.leave(requests[move.request], move.from_)
        there.come(requests[move.request], move.to)
        use = there.units[move.to]
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
    out += _check_transfers(p, s)
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
    machines = p.machines
    there = Residents(p)
    for r in p.requests:
        if r.instance is not None:
            there.come(r, r.instance)
    moves = [(requests[m.request], m.from_, m.to, m.start or 0, m.end or 0) for m in s.migrations]
    ends = sorted(moves, key=lambda move: move[4])
    over = begun = 0
    for time in sorted(set(starts)):
        while begun < len(moves) and moves[begun][3] <= time:
            there.come(moves[begun][0], moves[begun][2])
            begun += 1
        while over < len(ends) and ends[over][4] <= time:
            there.leave(ends[over][0], ends[over][1])
            over += 1
        if p.network.transfers is not None and begun - over > p.network.transfers:
            text = f"{begun - over} transfers at {time}, {p.network.transfers} allowed"
            return [Violation("network", text, {"time": time})]
        for index, use in enumerate(there.units):
            room = machines[index].capacity
            if room is not None and use > room:
                text = f"instance {index} holds {use} of {room} units at {time}"
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
    return exact_number(max(routed_loads(p, {one.request: one.instance for one in s.requests})))


# ---------------------------------------------------------------- placement
