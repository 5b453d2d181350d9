"""Reader options that all traces share, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from cpsched.errors import ProblemError
from cpsched.families.serving.facts import Engine, engine, rounds
from cpsched.families.serving.problem import (
    QUESTIONS,
    Instance,
    Network,
    Question,
    Request,
    ServingProblem,
)

COMMON = {
    "capacity_tokens": "KV capacity of one instance in tokens (default: from model and gpu)",
    "block_tokens": "tokens per memory unit and per round of output, lengths rounded up (1)",
    "instances": "number of identical instances (1)",
    "offset": "data rows to skip (0)",
    "limit": "most data rows to read (all)",
    "arrivals": "'trace' for the recorded arrivals, 'zero' for all at round 0 (trace)",
    "seconds_per_round": "seconds of one round (0.05 per token of block_tokens)",
    "question": f"what is asked: {', '.join(QUESTIONS[:5])}",
    "prefill_instances": "instances that only prefill (with prefill_chunk; no 'instances')",
    "decode_instances": "instances that only decode",
    "network_tokens": "tokens of KV that a handover or migration carries per round (at once)",
    "model": "model name in the facts (Llama-3.1-8B)",
    "gpu": "GPU name in the facts (A100)",
    "gpus": "GPUs per instance (1)",
    "max_batch": "most requests active at once on an instance",
    "token_budget": "tokens per round of an instance; 'auto' from the step times of model and gpu",
    "prefill_chunk": "tokens of prompt per round and request (a quarter of the token budget; "
    "without a budget prefill takes no time)",
    "ttft": "seconds from arrival to the first token (SLO)",
    "tpot": "seconds per output token (SLO): sets seconds_per_round",
    "slo_percent": "share of the requests that must meet the SLO, in percent",
}


class Options:
    """Reader options with their types and messages."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options

    def whole(self, name: str, default: int | None, least: int = 0) -> int | None:
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= 10**12:
            self.refuse(name, f"must be a whole number of at least {least}")
        return value

    def number(self, name: str, default: float | None) -> float | None:
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0.0 < value <= 1e9:
            self.refuse(name, "must be a positive number")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.options.get(name, default)
        if value not in allowed:
            self.refuse(name, f"must be one of {', '.join(allowed)}")
        return value

    def refuse(self, name: str, rule: str) -> None:
        raise ProblemError(
            f"option {name} {rule}",
            place="option",
            value=self.options.get(name),
            remedy="See `cpsched formats`.",
        )


class Setting:
    """What the options say about units, instances and SLOs."""

    def __init__(
        self, options: Mapping[str, str], question: Question, per_round: float | None = None
    ) -> None:
        o = self.options = Options(options)
        self.question = cast(Question, o.choice("question", QUESTIONS[:5], question))
        self.block = o.whole("block_tokens", 1, 1) or 1
        self.offset = o.whole("offset", 0) or 0
        self.limit = o.whole("limit", None, 1)
        self.zero = o.choice("arrivals", ("trace", "zero"), "trace") == "zero"
        tpot = o.number("tpot", None)
        default = per_round or (0.05 if tpot is None else tpot) * self.block
        self.per_round = o.number("seconds_per_round", default) or default
        self.ttft = o.number("ttft", None)
        self.slo = o.number("slo_percent", 99.0 if self.question == "capacity" else None)
        capacity = o.whole("capacity_tokens", None, 1)
        self.engine: Engine | None = None
        if capacity is None or "model" in options or options.get("token_budget") == "auto":
            self.engine = engine(
                options.get("model", "Llama-3.1-8B"),
                options.get("gpu", "A100"),
                o.whole("gpus", 1, 1) or 1,
            )
            capacity = self.engine.capacity_tokens if capacity is None else capacity
        budget = None
        if options.get("token_budget") == "auto":
            assert self.engine is not None
            budget = self.engine.token_budget(self.per_round / self.block)
            if budget < 1:
                o.refuse("token_budget", "is 0: one step takes longer than a round")
        else:
            budget = o.whole("token_budget", None, 1)
        chunk = o.whole("prefill_chunk", None, 1)
        if budget is not None and chunk is None:
            # A quarter: prefills of several requests and the decodes fit into one round.
            chunk = max(1, budget // 4) * self.block
        default_count = 16 if self.question == "capacity" else 1
        self.instance = Instance(
            capacity=capacity // self.block,
            count=o.whole("instances", default_count, 1) or 1,
            max_batch=o.whole("max_batch", None, 1),
            token_budget=budget,
            prefill_chunk=None if chunk is None else max(1, chunk // self.block),
        )

        prefill, decode = (o.whole(f"{role}_instances", None, 1) for role in ("prefill", "decode"))
        if (prefill is None) != (decode is None):
            o.refuse(
                "decode_instances" if decode else "prefill_instances",
                "needs the other role as well",
            )
        self.instances: tuple[Instance, ...] = (self.instance,)
        if prefill and decode:
            self.instances = tuple(
                self.instance.model_copy(update={"name": role, "role": role, "count": count})
                for role, count in (("prefill", prefill), ("decode", decode))
            )
            if chunk is None:
                o.refuse("prefill_instances", "needs prefill_chunk or token_budget")
        carried = o.whole("network_tokens", None, 1)
        self.network = (
            None if carried is None else Network(units_per_round=max(1, carried // self.block))
        )

    def units(self, tokens: int) -> int:
        return -(-tokens // self.block)

    def within(self, row: int) -> bool:
        """Whether the zero-based data row is to be kept."""
        return row >= self.offset and (self.limit is None or row < self.offset + self.limit)

    def round_of(self, seconds: float) -> int:
        """The first round boundary at or after that moment."""
        return 0 if self.zero else math.ceil(seconds / self.per_round - 1e-9)

    def first_token_by(self, arrival: int) -> int | None:
        """The round by which the first token is due."""
        return None if self.ttft is None else arrival + rounds(self.ttft, self.per_round)

    def problem(self, requests: list[Request], **fields: Any) -> ServingProblem:
        return ServingProblem(
            question=self.question,
            block_tokens=self.block,
            seconds_per_round=self.per_round,
            slo_percent=self.slo,
            requests=tuple(requests),
            instances=self.instances,
            network=self.network,
            **fields,
        )


def none_left(rows: int) -> None:
    raise ProblemError(
        f"offset and limit leave none of the {rows} data rows",
        place="option",
        remedy="Lower the offset.",
    )
