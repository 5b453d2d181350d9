"""The schema of the `serving` family: LLM requests under GPU and KV-cache memory.

Lengths and capacities count *units* of ``block_tokens`` tokens; time counts *rounds*. In one round
every running request makes one unit of output. A request that starts at ``start`` on an instance
is active in the rounds ``start < t <= end`` and holds ``prompt + t - start`` units in round t.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cpsched.errors import ProblemError
from cpsched.families.serving.rules import (
    asked_alone,
    check_placement,
    check_precedence,
    check_requests,
    check_staged,
    complain,
    unique,
)
from cpsched.problem import Count, Name, ProblemBase, Record, Whole

#: What is asked of a problem; each is a mode of the same data.
QUESTIONS = ("admission", "cache", "preemption", "routing", "capacity", "placement")
Question = Literal["admission", "cache", "preemption", "routing", "capacity", "placement"]

#: Objectives by question, the default first.
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "admission": ("total_latency", "weighted_latency", "makespan", "goodput"),
    "cache": ("hit_tokens", "recompute_tokens", "expected_tokens"),
    "preemption": ("recompute_tokens",),
    "routing": ("max_load", "moves", "migration_rounds"),
    "capacity": ("instances", "cost"),
    "placement": ("max_load", "moves"),
}
MAXIMISED = frozenset({"goodput", "hit_tokens"})
#: Rounds in a schedule: what is to be placed late ends later still.
Moment = Annotated[int, Field(ge=-(2**61), le=2**61)]
Load = Annotated[float, Field(ge=0.0, le=1e15)]


class Request(Record):
    """One call of the model.

    Attributes
    ----------
    arrival
        First round boundary at which it may start.
    prompt, output
        Units of prompt and of output (the true or planned number).
    output_range, output_quantiles
        What is known beforehand of the output: an interval, or quantiles at equally spaced
        levels, ascending. Policies in a replay may be shown only these.
    prefix
        Ids of the prompt's leading blocks of ``prefix_block`` units, outermost first. Requests
        with equal leading ids share those blocks.
    first_token_by, end_by
        Rounds by which the first unit of output, and the last one, should be made.
    after, gap
        Requests that end at least ``gap`` rounds before this one starts.
    tool, tool_rounds
        Tool called when the request ends, and for how many rounds it is held.
    candidates
        Instances it may run on, by index; empty for all.
    instance, start, pauses
        Where it runs now, since when, and how its prefill rests (it then keeps all of them, except
        that routing may move it).
    decode, sent
        Where a running request is handed over to and when; without them that is open, but not
        before ``arrival``.
    duration
        Rounds that a call with fixed times takes (question ``cache``; ``output`` by default).
    held, cost, swap_cost
        Units held now, and the price of taking them away (question ``preemption``). ``held`` is
        ``prompt`` by default, ``cost`` is ``held`` to the power ``cost_power``; without a
        ``swap_cost`` it cannot be swapped out.
    """

    id: Name
    arrival: Count = 0
    prompt: Count
    output: Count = 1
    output_range: tuple[Count, Count] | None = None
    output_quantiles: tuple[Count, ...] = ()
    prefix: tuple[Count, ...] = ()
    first_token_by: Count | None = None
    end_by: Count | None = None
    weight: Count = 1
    tenant: str = ""
    program: str = ""
    step: Count = 0
    after: tuple[Name, ...] = ()
    gap: Count = 0
    tool: str = ""
    tool_rounds: Count = 0
    candidates: tuple[Count, ...] = ()
    instance: Count | None = None
    start: Whole | None = None
    pauses: tuple[tuple[Whole, Whole], ...] = ()
    decode: Count | None = None
    sent: Whole | None = None
    duration: Count | None = None
    held: Count | None = None
    cost: Count | None = None
    swap_cost: Count | None = None

    @model_validator(mode="after")
    def _estimates(self) -> Request:
        if self.output_range is not None and self.output_range[0] > self.output_range[1]:
            raise ProblemError(
                "an output interval must not be turned around",
                place=f"requests.{self.id}.output_range",
                value=self.output_range,
                remedy="Write [low, high].",
            )
        if any(a > b for a, b in pairwise(self.output_quantiles)):
            raise ProblemError(
                "output quantiles must ascend",
                place=f"requests.{self.id}.output_quantiles",
                value=self.output_quantiles,
                remedy="Sort them.",
            )
        return self


class Instance(Record):
    """A GPU or a group of GPUs that serves one copy of the model; ``count`` identical ones.

    Attributes
    ----------
    capacity
        Units of KV memory; None for no limit.
    max_batch
        Most requests active in one round.
    token_budget
        Most units processed in one round: one per decoding request, plus the prefill chunks.
    prefill_chunk
        Units of prompt processed per round before the first output. With it a request needs
        ``ceil(prompt / prefill_chunk)`` rounds of prefill, during which its memory grows by the
        chunks. Without it the prefill takes no time (and must not be budgeted).
    price
        Cost of using it at all (objective ``cost``).
    speed
        Work per round relative to the others (objective ``max_load`` of routing).
    host_capacity
        Units that fit into host memory beside it (offloading).
    host_units_per_round
        Units that move between GPU and host in a round; while a context is offloaded or fetched
        back it is on both. None: at once.
    role
        ``prefill`` instances only prefill and hand the KV over, ``decode`` instances only decode
        what was handed over, ``mixed`` ones do both.
    interruptible
        Prefills may pause between their chunks (operator boundaries); their KV stays.
    buckets
        Prompt lengths of batching buckets, ascending: a prompt falls into the first that is not
        shorter (beyond the last: one more), and in a round only prompts of one bucket prefill.
    """

    name: str = ""
    capacity: Count | None = None
    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    max_batch: Count | None = None
    token_budget: Count | None = None
    prefill_chunk: Annotated[int, Field(ge=1, le=10**12)] | None = None
    price: Count = 1
    speed: Annotated[float, Field(gt=0.0, le=1e9)] = 1.0
    host_capacity: Count = 0
    host_units_per_round: Annotated[int, Field(ge=1, le=10**12)] | None = None
    role: Literal["prefill", "decode", "mixed"] = "mixed"
    interruptible: bool = False
    buckets: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _staged(self) -> Instance:
        staged = self.role == "prefill" or self.interruptible or bool(self.buckets)
        where = f"instances.{self.name}" if self.name else "instances"
        if staged and self.prefill_chunk is None:
            complain(
                "role prefill, interruptible and buckets need a prefill that takes rounds",
                f"{where}.prefill_chunk",
                None,
                "Set prefill_chunk.",
            )
        if any(a >= b for a, b in pairwise(self.buckets)):
            complain("buckets must ascend", f"{where}.buckets", self.buckets, "Sort them.")
        return self

    @property
    def staged(self) -> bool:
        """Whether a request may run here in another way than in one piece."""
        return self.role != "mixed" or self.interruptible or bool(self.buckets)


class Network(Record):
    """What carries KV between instances: at most ``transfers`` at once (None: any number), each
    taking ``latency`` rounds and one more per ``units_per_round`` units."""

    units_per_round: Annotated[int, Field(ge=1, le=10**12)]
    latency: Count = 0
    transfers: Annotated[int, Field(ge=1, le=10**6)] | None = None


class Tool(Record):
    """A tool resource (sandboxes, browsers): ``capacity`` calls at the same time.

    ``durations`` are equally likely lengths of a call in rounds, for the choice of times to live.
    """

    name: Name
    capacity: Count = 10**12
    durations: tuple[Count, ...] = ()


class Item(Record):
    """An expert, a model or an adapter to be placed on GPUs.

    ``load`` is divided evenly over its replicas. ``replicas`` fixes their number; without it the
    solver divides the problem's ``replicas``. ``current`` names the GPUs that hold it now.
    """

    id: Name
    load: Load
    memory: Count = 1
    group: str = ""
    replicas: Annotated[int, Field(ge=1, le=100_000)] | None = None
    current: tuple[Name, ...] = ()


class Gpu(Record):
    """A GPU of the placement question: ``slots`` are filled exactly, ``memory`` is a limit."""

    name: Name
    node: str = ""
    slots: Count | None = None
    memory: Count | None = None


class ServingProblem(ProblemBase):
    """LLM requests, the instances that serve them, and what is asked.

    Attributes
    ----------
    question
        ``admission`` (when to start what), ``capacity`` (fewest instances), ``cache`` (what to
        keep), ``preemption`` (whom to evict), ``routing`` (which instance), ``placement``
        (experts, models and adapters on GPUs).
    objectives
        Objectives in lexicographic order; the question's own when empty.
    block_tokens, seconds_per_round
        Tokens per unit, and seconds per round: how units and rounds are told to people.
    slo_percent
        Share of the requests, in percent, that must meet ``first_token_by`` and ``end_by``; None
        leaves them to the objective ``goodput``.
    reject
        Requests may be left out of the schedule.
    prefix_block
        Units in one block of a ``prefix``.
    need, cost_power, host_free
        Units to free, the power of ``held`` that evicting costs, and the room for swapping
        (question ``preemption``).
    running_memory
        Memory that is pinned competes with running calls (question ``cache`` with programs).
    reload_percent
        Cost of reloading an offloaded unit, in percent of recomputing it.
    hold_price
        Units of recomputation that keeping one unit for one round is worth (expected_tokens).
    network
        Carries KV at handovers and migrations; None: at once.
    move_limit
        Most units of KV (routing) or replicas (placement) that may move; None for no limit.
    items, gpus, replicas, group_limit
        The placement question; all items of a ``group`` go to the same node when ``group_limit``.
    """

    kind: Literal["serving"] = "serving"
    question: Question = "admission"
    objectives: tuple[str, ...] = ()
    block_tokens: Annotated[int, Field(ge=1, le=10**9)] = 1
    seconds_per_round: Annotated[float, Field(gt=0.0, le=1e9)] | None = None
    slo_percent: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    reject: bool = False
    prefix_block: Annotated[int, Field(ge=1, le=10**9)] = 1
    requests: tuple[Request, ...] = ()
    instances: tuple[Instance, ...] = ()
    tools: tuple[Tool, ...] = ()
    need: Count = 0
    cost_power: Annotated[int, Field(ge=0, le=3)] = 1
    host_free: Count = 0
    running_memory: bool = True
    reload_percent: Annotated[int, Field(ge=0, le=100)] = 10
    hold_price: Annotated[float, Field(ge=0.0, le=1e9)] = 0.001
    network: Network | None = None
    move_limit: Count | None = None
    items: tuple[Item, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    replicas: Count | None = None
    group_limit: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> ServingProblem:
        for name in self.objectives:
            if name not in OBJECTIVES[self.question]:
                raise ProblemError(
                    f"objectives of the question {self.question!r} are "
                    f"{', '.join(OBJECTIVES[self.question])}",
                    place="objectives",
                    value=name,
                    remedy="Choose one of them.",
                )
        asked_alone(self.objectives)
        unique([r.id for r in self.requests], "requests", "id")
        unique([t.name for t in self.tools], "tools", "name")
        if self.question == "placement":
            check_placement(self)
            return self
        if not self.requests:
            complain("there must be a request", "requests", None, "Add one.")
        if not self.instances and self.question != "preemption":
            complain("there must be an instance", "instances", None, "Add one.")
        check_requests(self)
        if self.question in ("admission", "capacity"):
            check_precedence(self)
            check_staged(self)
        return self

    @property
    def machines(self) -> tuple[Instance, ...]:
        """Every single instance, in the order in which schedules count them."""
        return tuple(one for one in self.instances for _ in range(one.count))


class Placed(Record):
    """A request's place: active in rounds ``start < t <= end`` of that instance.

    ``pauses`` are rounds ``(a, b]`` in which its prefill rests. With ``decode`` its KV is handed
    over to that instance from round ``sent`` on, and the output is made there.
    """

    request: Name
    instance: Count = 0
    start: Moment
    end: Moment
    pauses: tuple[tuple[Moment, Moment], ...] = ()
    decode: Count | None = None
    sent: Moment | None = None


class Pin(Record):
    """KV that is kept: a prefix block from one request (by index) to a later one, or a
    program's context from the end of step ``from`` to the start of step ``to``.

    ``place`` is ``gpu``, or ``host`` when it is offloaded meanwhile.
    """

    item: Name
    from_: Annotated[int, Field(alias="from", ge=0)]
    to: Count
    place: Literal["gpu", "host"] = "gpu"


class Eviction(Record):
    """A preempted request: recomputed later, or swapped to host memory."""

    request: Name
    how: Literal["recompute", "swap"] = "recompute"


class Migration(Record):
    """A running request moved between instances; in the order of execution.

    With a network it is on both from ``start`` to ``end``.
    """

    request: Name
    from_: Annotated[int, Field(alias="from", ge=0)]
    to: Count
    start: Annotated[int, Field(ge=0, le=2**61)] | None = None
    end: Annotated[int, Field(ge=0, le=2**61)] | None = None


class TimeToLive(Record):
    """How many rounds a context is kept while a tool runs."""

    tool: Name
    rounds: Count


class ItemPlacement(Record):
    """The GPUs that hold a replica of an item."""

    item: Name
    gpus: tuple[Name, ...]


class ServingSchedule(Record):
    """The answer to any of the questions; parts that a question does not use stay empty."""

    requests: tuple[Placed, ...] = ()
    pins: tuple[Pin, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    migrations: tuple[Migration, ...] = ()
    placements: tuple[ItemPlacement, ...] = ()
    ttls: tuple[TimeToLive, ...] = ()
