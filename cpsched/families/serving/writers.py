"""Targets of ``cpsched convert``: engine settings, and data of the MiniZinc models."""

from __future__ import annotations

import json

from cpsched.errors import ProblemError
from cpsched.families import Writer
from cpsched.families.serving.minizinc import minizinc
from cpsched.families.serving.pieces import peaks, used_on
from cpsched.families.serving.problem import ServingProblem, ServingSchedule


def engine_settings(p: ServingProblem, s: ServingSchedule) -> str:
    """A plan as settings of a serving engine, per instance that it uses.

    ``max_num_seqs`` and ``kv_cache_tokens`` are the plan's peaks: an engine with these limits can
    run it. ``max_num_batched_tokens`` is the instance's budget, ``gpu_memory_utilization`` the
    default share for a KV cache of that size.
    """
    if p.question not in ("admission", "capacity"):
        raise ProblemError(
            "engine settings are made from admission and capacity plans",
            place="question",
            value=p.question,
            remedy="Convert another problem.",
        )
    requests = {r.id: r for r in p.requests}
    out = []
    for index, machine in enumerate(p.machines):
        mine = [one for one in s.requests if index in (one.instance, one.decode)]
        if not mine:
            continue
        used = used_on(p, index, [(requests[o.request], o) for o in mine])
        _, use = peaks(used["capacity"])
        _, batch = peaks(used["max_batch"])
        settings: dict[str, object] = {
            "instance": index,
            "max_num_seqs": int(batch.max(initial=0)),
            "kv_cache_tokens": int(use.max(initial=0)) * p.block_tokens,
            "gpu_memory_utilization": 0.9,
            "enable_prefix_caching": any(requests[o.request].prefix for o in mine),
        }
        if machine.role != "mixed":
            settings["kv_role"] = machine.role
        if machine.token_budget is not None:
            settings["max_num_batched_tokens"] = machine.token_budget
        if machine.prefill_chunk is not None:
            settings["enable_chunked_prefill"] = True
            settings["long_prefill_token_threshold"] = machine.prefill_chunk * p.block_tokens
        out.append(settings)
    return json.dumps({"instances": out}, indent=1) + "\n"


WRITERS = (
    Writer("engine-settings", "a plan as engine settings (JSON)", engine_settings, True),
    Writer("minizinc", "data of models/serving*.mzn", minizinc),
)
