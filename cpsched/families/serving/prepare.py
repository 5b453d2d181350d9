"""From the problem to arrays: the indices, profiles and limits that heuristics and bounds use."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cpsched.errors import Infeasible, OutOfTime, ProblemError
from cpsched.families.serving.check import allowed_misses, check_admission
from cpsched.families.serving.check_static import PrefixTree, prefix_tree
from cpsched.families.serving.pieces import prefill_rounds, transfer_rounds
from cpsched.families.serving.problem import Instance, ServingProblem, ServingSchedule
from cpsched.families.serving.rules import asked_alone

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cpsched.core.run import Run
    from cpsched.families.serving.patterns import States

    Ints = NDArray[np.int64]

#: Stands for "no limit" in the arrays.
UNLIMITED = 2**60
#: Profiles (one entry per request and round) longer than this in sum are refused.
LARGEST_PROFILE = 60_000_000


@dataclass(frozen=True)
class Prepared:
    """The admission and capacity questions as arrays over requests ``i`` and machines ``g``.

    Attributes
    ----------
    release, weight
        Arrival and weight by request; see `weighing`.
    kind
        Class of every machine: machines of a class process a request in the same way.
    length
        Rounds by class and request.
    offset, memory, tokens
        Profiles: request i on class c holds ``memory[offset[c, i] + k]`` private units, and
        processes ``tokens[...]``, in its k-th round (k from 0).
    capacity, max_batch, budget
        Limits by machine.
    node_offset, nodes, node_size
        Shared prefix nodes of every request (``nodes[node_offset[i]:node_offset[i + 1]]``).
    pred_offset, preds, gap
        Requests that must have ended ``gap`` rounds before.
    tool, tool_rounds, tool_capacity
        Tool index by request (-1: none), how long it is held, and the tools' capacities.
    allowed
        Machines by request, or None when every request may go anywhere.
    fixed_start, fixed_machine
        Where running requests are (machine -1: not running).
    """

    problem: ServingProblem
    release: Ints
    weight: Ints
    kind: Ints
    length: Ints
    offset: Ints
    memory: Ints
    tokens: Ints
    prefill: Ints
    capacity: Ints
    max_batch: Ints
    budget: Ints
    node_offset: Ints
    nodes: Ints
    node_size: Ints
    pred_offset: Ints
    preds: Ints
    gap: Ints
    tool: Ints
    tool_rounds: Ints
    tool_capacity: Ints
    allowed: NDArray[np.bool_] | None
    fixed_start: Ints
    fixed_machine: Ints
    first_by: Ints
    end_by: Ints
    #: How much slower than expected the preparation was: what follows will be as well.
    pace: float = 1.0

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(self.release)

    @property
    def machines(self) -> int:
        """Number of machines."""
        return len(self.kind)

    @cached_property
    def plain(self) -> bool:
        """Whether only memory, batch and budget limit: no prefixes, tools, precedences, stages."""
        free = not len(self.nodes) and not len(self.preds) and not (self.tool >= 0).any()
        return bool(free) and not self.staged

    @cached_property
    def staged(self) -> bool:
        """Whether some instance runs requests in another way than in one piece (see `staged`)."""
        return any(m.staged for m in self.problem.instances)

    @cached_property
    def shortest(self) -> Ints:
        """Fewest rounds from start to end by request; with stages over all its ways to run."""
        least: Ints = self.length.min(axis=0)
        p = self.problem
        if not self.staged:
            return least
        machines = set(p.instances)
        alone = [m for m in machines if m.role == "mixed"]
        first = [m for m in machines if m.role != "decode"]
        handed = any(m.role != "prefill" for m in machines)
        for i in np.flatnonzero(self.fixed_machine < 0).tolist():
            r = p.requests[i]
            ways = [prefill_rounds(r, m) for m in alone]
            if handed:
                ways += [prefill_rounds(r, m) + transfer_rounds(p, r.prompt) for m in first]
            least[i] = min(ways) + r.output
        return least

    @cached_property
    def earliest(self) -> Ints:
        """First possible end of every request: longest paths over what it waits for."""
        if not len(self.preds):
            return self.release + self.shortest
        end = (self.release + self.shortest).tolist()
        shortest, gap, offset = self.shortest.tolist(), self.gap.tolist(), self.pred_offset.tolist()
        preds = self.preds.tolist()
        for i in by_precedence(self, np.arange(self.n)).tolist():
            before = preds[offset[i] : offset[i + 1]]
            if before:
                end[i] = max(end[i], max(end[j] for j in before) + gap[i] + shortest[i])
        return np.array(end, np.int64)

    @cached_property
    def volume(self) -> Ints:
        """Memory units times rounds of every request, on the class where it is least."""
        sums = np.concatenate([[0], np.cumsum(self.memory)])
        volumes: Ints = (sums[self.offset[:, 1:]] - sums[self.offset[:, :-1]]).min(axis=0)
        return volumes

    @cached_property
    def states(self) -> States:
        """The states that requests pass through while they make their output."""
        from cpsched.families.serving.patterns import States

        return States(self)

    @cached_property
    def output(self) -> Ints:
        """Rounds of output by request."""
        rounds: Ints = self.length[0] - self.prefill[0]
        return rounds

    @cached_property
    def prompt(self) -> Ints:
        """Units of prompt by request."""
        return np.array([r.prompt for r in self.problem.requests], np.int64)

    @cached_property
    def private(self) -> Ints:
        """Units of prompt by request outside of shared prefix blocks."""
        sizes = np.concatenate([[0], np.cumsum(self.node_size[self.nodes])])
        left: Ints = self.prompt - (sizes[self.node_offset[1:]] - sizes[self.node_offset[:-1]])
        return left

    @cached_property
    def misses(self) -> int:
        """Most requests that may miss their SLO."""
        return allowed_misses(self.problem)

    def weighing(self, objective: str) -> Prepared:
        """The same with unit weights, unless the objective weighs."""
        if objective in ("weighted_latency", "goodput"):
            return self
        other = replace(self, weight=np.ones(self.n, np.int64))
        # What was derived does not depend on the weights.
        vars(other).update({k: v for k, v in vars(self).items() if k not in vars(other)})
        return other

    def profile(self, i: int, g: int) -> Ints:
        """Memory of request i on machine g, round by round."""
        c = int(self.kind[g])
        return self.memory[self.offset[c, i] : self.offset[c, i + 1]]

    def schedule(self, start: Ints, machine: Ints) -> ServingSchedule:
        """The schedule of starts and machines (machine -1: left out)."""
        end = start + self.length[self.kind[np.maximum(machine, 0)], np.arange(self.n)]
        placed = [
            {"request": r.id, "instance": g, "start": s, "end": e}
            for r, g, s, e in zip(
                self.problem.requests, machine.tolist(), start.tolist(), end.tolist(), strict=True
            )
            if g >= 0
        ]
        # All at once is three times as fast as one by one.
        return ServingSchedule.model_validate({"requests": placed})


def arrays_of(schedule: ServingSchedule, prepared: Prepared) -> tuple[Ints, Ints]:
    """Starts and machines of a schedule (machine -1: left out)."""
    index = {r.id: i for i, r in enumerate(prepared.problem.requests)}
    start = np.zeros(prepared.n, np.int64)
    machine = np.full(prepared.n, -1, np.int64)
    for one in schedule.requests:
        start[index[one.request]] = one.start
        machine[index[one.request]] = one.instance
    return start, machine


def prepare(problem: ServingProblem, run: Run | None = None) -> Prepared | ServingProblem:
    """Arrays of an admission or capacity problem; the other questions prepare for themselves.

    Raises
    ------
    Infeasible
        When a request fits on no instance, or cannot meet a demanded SLO even alone.
    ProblemError
        When outputs are so long that their profiles exceed memory, or a call asks for objectives
        that do not go together.
    """
    if run is not None:
        asked_alone([o.name for o in run.objectives])
    if problem.question not in ("admission", "capacity"):
        return problem
    blocks = sum(len(r.prefix) for r in problem.requests)
    usual = PREPARE * len(problem.requests) + 3e-6 * blocks
    _on_time(problem, run, 1.5 * usual)
    began = time.perf_counter()
    requests, machines = problem.requests, problem.machines
    classes: dict[int | None, int] = {}
    kind = np.array([classes.setdefault(m.prefill_chunk, len(classes)) for m in machines])
    total = sum(r.output for r in requests) * len(classes)
    if total > LARGEST_PROFILE:
        raise ProblemError(
            f"outputs may have {LARGEST_PROFILE:,} rounds in sum",
            place="requests",
            value=total,
            remedy="Raise block_tokens, or solve fewer requests at a time (limit).",
        )
    _on_time(problem, run)
    tree = prefix_tree(problem)
    representative = [machines[int(np.flatnonzero(kind == c)[0])] for c in classes.values()]
    length, offset, prefill, memory, tokens = _profiles(problem, representative, tree)
    _on_time(problem, run)
    node_offset, nodes, node_size = _prefix_nodes(problem, tree)
    index = {r.id: i for i, r in enumerate(requests)}
    preds = [[index[name] for name in dict.fromkeys(r.after)] for r in requests]
    tools = {t.name: k for k, t in enumerate(problem.tools)}
    allowed = None
    if any(r.candidates for r in requests):
        allowed = np.ones((len(requests), len(machines)), np.bool_)
        for i, r in enumerate(requests):
            if r.candidates:
                allowed[i] = False
                allowed[i, list(r.candidates)] = True

    def limits(values: list[int | None]) -> Ints:
        return np.array([UNLIMITED if v is None else v for v in values], np.int64)

    def ints(values: list[int]) -> Ints:
        return np.array(values, np.int64)

    prepared = Prepared(
        problem=problem,
        release=ints([r.arrival if r.start is None else r.start for r in requests]),
        weight=ints([r.weight for r in requests]),
        kind=kind.astype(np.int64),
        length=length,
        offset=offset,
        memory=memory,
        tokens=tokens,
        prefill=prefill,
        capacity=limits([m.capacity for m in machines]),
        max_batch=limits([m.max_batch for m in machines]),
        budget=limits([m.token_budget for m in machines]),
        node_offset=node_offset,
        nodes=nodes,
        node_size=node_size,
        pred_offset=np.concatenate([[0], np.cumsum([len(q) for q in preds])]).astype(np.int64),
        preds=ints([j for q in preds for j in q]),
        gap=ints([r.gap for r in requests]),
        tool=ints([tools[r.tool] if r.tool and r.tool_rounds else -1 for r in requests]),
        tool_rounds=ints([r.tool_rounds for r in requests]),
        tool_capacity=ints([t.capacity for t in problem.tools] or [0]),
        allowed=allowed,
        fixed_start=ints([0 if r.start is None else r.start for r in requests]),
        fixed_machine=ints(
            [-1 if r.start is None or r.instance is None else r.instance for r in requests]
        ),
        first_by=limits([r.first_token_by for r in requests]),
        end_by=limits([r.end_by for r in requests]),
    )
    _on_time(problem, run)
    _refuse_impossible(prepared)
    _refuse_running(prepared)
    if run is None or run.deterministic or prepared.n <= NORMAL:
        return prepared
    pace = max(1.0, (time.perf_counter() - began) / usual)
    return replace(prepared, pace=pace)


def by_precedence(q: Prepared, order: Ints) -> Ints:
    """The order, changed so that everyone comes after what it waits for."""
    out: list[int] = []
    offset, preds = q.pred_offset.tolist(), q.preds.tolist()
    seen = (q.fixed_machine >= 0).tolist()
    for root in order.tolist():
        stack = [root]
        while stack:
            i = stack[-1]
            open_ = [] if seen[i] else [j for j in preds[offset[i] : offset[i + 1]] if not seen[j]]
            if open_:
                stack += open_
                continue
            stack.pop()
            if not seen[i]:
                seen[i] = True
                out.append(i)
    return np.array(out, np.int64)


#: Seconds that a call may overrun while it has no schedule yet.
GRACE = 0.1

#: Seconds that preparing takes per request.
PREPARE = 1e-5

#: Most requests for which there is always a schedule, however short the time.
NORMAL = 2000


def _on_time(problem: ServingProblem, run: Run | None, more: float = 0.0) -> None:
    if run is None or len(problem.requests) <= NORMAL:
        return
    expected = 0.0 if run.deterministic else more
    if run.clock.elapsed() + expected > run.clock.limit + GRACE:
        raise OutOfTime("the time limit was reached before a first schedule")


def _profiles(
    problem: ServingProblem, classes: list[Instance], tree: PrefixTree
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    length, offset, prefill, memory, tokens = [], [], [], [], []
    prompt = np.array([r.prompt for r in problem.requests], np.int64)
    output = np.array([r.output for r in problem.requests], np.int64)
    private = prompt - np.array([tree.shared(r.id) for r in problem.requests], np.int64)
    base = 0
    for machine in classes:
        chunk = machine.prefill_chunk or 1
        rounds = np.zeros_like(prompt) if machine.prefill_chunk is None else -(-prompt // chunk)
        total = rounds + output
        ends = np.concatenate([[0], np.cumsum(total)])
        # Round k of every request, from 0, in one row after the other.
        k = np.arange(ends[-1]) - np.repeat(ends[:-1], total)
        left, held, whole = (np.repeat(a, total) for a in (rounds, private, prompt))
        filling = k < left
        memory.append(np.where(filling, np.minimum(held, (k + 1) * chunk), held + k - left + 1))
        done = np.minimum(whole, (k + 1) * chunk) - np.minimum(whole, k * chunk)
        tokens.append(np.where(filling, done, 1))
        offset.append(ends + base)
        base += int(ends[-1])
        length.append(total)
        prefill.append(rounds)
    return (
        np.array(length),
        np.array(offset),
        np.array(prefill),
        np.concatenate(memory),
        np.concatenate(tokens),
    )


def _prefix_nodes(problem: ServingProblem, tree: PrefixTree) -> tuple[Ints, Ints, Ints]:
    paths = [tree.path[r.id] for r in problem.requests]
    return (
        np.concatenate([[0], np.cumsum([len(q) for q in paths])]).astype(np.int64),
        np.array([k for q in paths for k in q], np.int64),
        np.array(tree.size, np.int64),
    )


def _refuse_running(q: Prepared) -> None:
    """What runs already must be possible by itself; with stages its rest is still open."""
    p = q.problem
    running = np.flatnonzero(q.fixed_machine >= 0)
    if not len(running) or p.reject or q.staged:
        return
    known = {p.requests[i].id for i in running}
    requests = tuple(
        p.requests[i].model_copy(
            update={"after": tuple(o for o in p.requests[i].after if o in known)}
        )
        for i in running
    )
    schedule = q.schedule(q.fixed_start, q.fixed_machine)
    wrong = check_admission(
        p.model_copy(update={"requests": requests, "slo_percent": None}), schedule
    )
    if wrong:
        raise Infeasible(f"what runs does not fit: {wrong[0].message}", "running")


def _fits_alone(q: Prepared) -> NDArray[np.bool_]:
    """Whether some instance has room for a request alone; with stages, for its prompt and for its
    output, which may be different ones."""
    if not q.n:
        return np.zeros(0, np.bool_)
    prompts, outputs = np.zeros(q.n, np.bool_), np.zeros(q.n, np.bool_)
    whole = np.zeros(q.n, np.bool_)
    roles = np.array([("mixed", "prefill", "decode").index(m.role) for m in q.problem.machines])
    chunks = np.array([m.prefill_chunk or 0 for m in q.problem.machines])
    kinds = np.stack([chunks, q.capacity, q.budget, q.max_batch, roles], axis=1)
    handed = len(kinds) > 1 and q.staged
    for one in np.unique(kinds, axis=0):
        chunk, capacity, budget, batch, role = one.tolist()
        there: NDArray[np.bool_] = np.ones(q.n, np.bool_)
        if q.allowed is not None:
            there = np.asarray(q.allowed[:, (kinds == one).all(axis=1)].any(axis=1))
        # Memory never shrinks before the end; what takes no round holds nothing.
        prefill = (q.prompt <= capacity) & (np.minimum(q.prompt, chunk) <= budget) & (batch >= 1)
        prefill |= (q.prompt == 0) | (chunk == 0)
        output = (q.prompt + q.output <= capacity) & (budget >= 1) & (batch >= 1)
        output |= q.output == 0
        if role == 0:
            whole |= there & prefill & output
        if role != 2:
            prompts |= there & prefill
        if role != 1:
            outputs |= there & output
    return whole | (prompts & outputs) if handed else whole


def _refuse_impossible(q: Prepared) -> None:
    requests = q.problem.requests
    possible = _fits_alone(q)
    if not possible.all() and not q.problem.reject:
        r = requests[int(possible.argmin())]
        raise Infeasible(
            f"request {r.id} fits on no instance even alone (peak {r.prompt + r.output} units)",
            "peak-memory",
        )
    tools = (q.tool >= 0) & (q.tool_capacity[q.tool] < 1)
    if tools.any() and not q.problem.reject:
        name = requests[int(tools.argmax())].id
        raise Infeasible(f"request {name} needs a tool of capacity 0", "tool-capacity")
    early = q.release + (q.prefill.min(axis=0) + np.minimum(1, q.output))
    misses = (early > q.first_by) | (q.release + q.length.min(axis=0) > q.end_by)
    if q.problem.slo_percent is not None and int(misses.sum()) > q.misses:
        first = requests[int(np.flatnonzero(misses)[0])].id
        raise Infeasible(
            f"{int(misses.sum())} requests miss their SLO even alone, {q.misses} may "
            f"(request {first} does)",
            "slo-alone",
        )
