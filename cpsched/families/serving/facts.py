"""Model and GPU facts: from 'Llama-3.1-70B on 4 H100' to tokens of KV and seconds per step.

The figures and their sources are in ``facts.json`` beside this file.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpsched.errors import ProblemError


@functools.cache
def facts() -> dict[str, Any]:
    """The shipped facts."""
    data: dict[str, Any] = json.loads((Path(__file__).parent / "facts.json").read_text())
    return data


@dataclass(frozen=True)
class Engine:
    """What a model on some GPUs offers.

    Attributes
    ----------
    capacity_tokens
        Tokens of KV that fit: ``(fraction * memory - 2 GB) * gpus - weights``, over KV per token.
    fixed_ms, base_ms, per_token_us
        A step over b tokens takes ``max(fixed_ms, base_ms + per_token_us * b)``.
    """

    model: str
    gpu: str
    gpus: int
    memory_fraction: float
    capacity_tokens: int
    fixed_ms: float
    base_ms: float
    per_token_us: float

    def step_seconds(self, tokens: int) -> float:
        """Seconds of one step over that many tokens."""
        return max(self.fixed_ms, self.base_ms + self.per_token_us * tokens / 1e3) / 1e3

    def token_budget(self, seconds: float) -> int:
        """Most tokens in a step of at most that many seconds; 0 when even one takes longer."""
        if seconds * 1e3 < self.fixed_ms:
            return 0
        return math.floor((seconds * 1e3 - self.base_ms) * 1e3 / self.per_token_us)


def engine(
    model: str = "Llama-3.1-8B",
    gpu: str = "A100",
    gpus: int = 1,
    *,
    memory_fraction: float = 0.9,
    kv_bytes: int = 2,
    weight_bytes: int = 2,
) -> Engine:
    """Capacity and step time of a model served on ``gpus`` GPUs with tensor parallelism.

    Step times are measured ones where the facts have them; otherwise the roofline of bandwidth
    (weights read once per step) and compute (two operations per parameter and token).

    Parameters
    ----------
    memory_fraction
        Share of GPU memory that the engine may use.
    kv_bytes, weight_bytes
        Bytes per number of the KV cache and of the weights (1 for FP8).

    Raises
    ------
    ProblemError
        For an unknown model or GPU, or when the weights do not fit.
    """
    m = _find("models", "model", model)
    g = _find("gpus", "gpu", gpu)
    if not 1 <= gpus <= 1024:
        raise ProblemError(
            "gpus must lie between 1 and 1024", value=gpus, remedy="Correct the number."
        )
    weights = m["parameters_billion"] * 1e9 * weight_bytes
    room = (memory_fraction * g["memory_gb"] - 2.0) * 1e9 * gpus - weights
    per_token = m["kv_bytes_per_token"] * kv_bytes / 2
    # Beyond one KV head per GPU, and always for a latent cache, every GPU holds a copy.
    heads = m.get("kv_heads", 1)
    per_token *= max(1.0, gpus / heads)
    if room < per_token:
        raise ProblemError(
            f"{model} does not fit on {gpus} {gpu}: its weights take {weights / 1e9:.0f} GB",
            value=gpus,
            remedy="Use more or larger GPUs.",
        )
    times = next(
        (
            s
            for s in facts()["steps"]
            if (s["model"], s["gpu"], s["gpus"]) == (m["model"], g["gpu"], gpus)
        ),
        None,
    )
    if times is None:
        fixed = weights / (g["bandwidth_gb_s"] * 1e9 * gpus) * 1e3
        slope = 2.0 * m["parameters_billion"] * 1e9 / (g["dense_bf16_tflops"] * 1e12 * gpus) * 1e6
        times = {"fixed_ms": fixed, "base_ms": 0.0, "per_token_us": slope}
    return Engine(
        m["model"],
        g["gpu"],
        gpus,
        memory_fraction,
        int(room // per_token),
        times["fixed_ms"],
        times["base_ms"],
        times["per_token_us"],
    )


def _find(table: str, key: str, name: str) -> dict[str, Any]:
    for row in facts()[table]:
        if row[key].lower() == name.lower():
            found: dict[str, Any] = row
            return found
    known = ", ".join(row[key] for row in facts()[table])
    raise ProblemError(f"{key} must be one of {known}", value=name, remedy="Correct the name.")


def rounds(seconds: float, seconds_per_round: float) -> int:
    """Whole rounds within so many seconds (an SLO in seconds as one in rounds)."""
    return math.floor(seconds / seconds_per_round + 1e-9)
