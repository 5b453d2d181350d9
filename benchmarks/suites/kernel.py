"""Suites of the `kernel` family: GPU loops with warp groups, compiler dumps, HLS and DSP graphs.

Best known intervals of the GPU graphs are proved (`docs/kernel.md`); those of the HatScheT graphs
come from the table in the data folder. The peer is our own heuristic alone.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cpsched
from benchmarks.suite import Answer, Case, Suite

INTERVAL = {"objective": "initiation_interval"}


def heuristic(case: Case, problem: Any, limit: float, workers: int, seed: int) -> Answer:
    """Iterative and swing modulo scheduling with the partition heuristic, no solver."""
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run
    from cpsched.families.kernel import FAMILY
    from cpsched.families.kernel.greedy import greedy
    from cpsched.families.kernel.prepare import prepare

    started = time.perf_counter()
    objectives = FAMILY.default_objectives(problem)[:1]
    run = Run(problem, FAMILY, objectives, Clock(limit))
    greedy(prepare(problem, run), run)
    value = None if run.incumbent is None else float(run.incumbent.values[0])
    trace = () if value is None else ((time.perf_counter() - started, value),)
    return Answer("UNKNOWN" if value is None else "FEASIBLE", value, None, trace)


def graph(path: Path, best: float | None, settings: dict[str, Any], **options: str) -> Case:
    """A case from a dependence-graph file."""
    name = path.name.split(".")[0] + "".join(f"-{k}{v}" for k, v in options.items())
    return Case(
        name=name,
        load=lambda: cpsched.load(path, options=options),
        path=path,
        best=best,
        best_bound=best,
        solve=settings,
    )


def joint(data: Path | None) -> list[Case]:
    """Curated flash attention with warp groups, registers and memories."""
    if data is None:
        return []
    folder = data / "kernels" / "meta_triton" / "curated"
    known = {"fwd_subtiled": 1033, "bwd": 1280, "fwd": 1355}
    return [
        graph(folder / f"{name}.curated_ddg.json", best, INTERVAL) for name, best in known.items()
    ]


def reconstructed(data: Path | None) -> list[Case]:
    """Reconstructions of FlashAttention 3 and 4 and of a matrix product."""
    if data is None:
        return []
    known = {
        "b200_fa4_fwd_2x128_bn128_d128_ideal": 2838,
        "b200_fa4_fwd_2x128_bn128_d128_meas": 4229,
        "h100_fa3_bwd_bm64_bn128_d128": 2560,
        "h100_fa3_fwd_bm128_bn128_d128_wg1_sbuf1": 2464,
        "h100_fa3_fwd_bm128_bn128_d128_wg2_sbuf1": 2048,
        "h100_fa3_fwd_bm128_bn128_d128_wg2_sbuf2": 2048,
        "h100_fa3_fwd_bm128_bn176_d128_wg2_sbuf1": 2816,
        "h100_gemm_128x256x64": 1024,
    }
    folder = data / "kernels" / "recon"
    return [graph(folder / f"{name}.json", best, INTERVAL) for name, best in known.items()]


def dumps(data: Path | None) -> list[Case]:
    """Compiler dumps, modulo scheduling only."""
    if data is None:
        return []
    folder = data / "kernels" / "meta_triton" / "raw_ddg_main"
    known = {
        "case1_simple_gemm": (256, {}),
        "case3_FA": (1325, {}),
        "case5_addmm_bias": (256, {}),
        "case6_layernorm": (511, {}),
    }
    cases = [graph(folder / f"{n}.ddg.json", b, {}, **o) for n, (b, o) in known.items()]
    return [*cases, graph(folder / "case5_addmm_bias.ddg.json", 1856, {}, loop="1")]


def hatschet(data: Path | None) -> list[Case]:
    """MachSuite and origami graphs with the intervals and proofs of the table beside them."""
    if data is None:
        return []
    root = data / "kernels" / "hatschet"
    cases = []
    for line in (root / "anchors_cpsat.jsonl").read_text().splitlines():
        row = json.loads(line)
        path = root / "benchmarks" / row["f"]
        cases.append(
            Case(
                name=row["f"].removesuffix(".graphml"),
                load=lambda path=path: cpsched.load(path),
                path=path,
                best=row["ii"],
                best_bound=row["ii"] if row["ii_proved_optimal"] else None,
            )
        )
    return cases


def levels(case: Case, problem: Any, result: Any) -> dict[str, Any]:
    """All objective values and bounds, and whether the flat check accepts the schedule."""
    valid = result.schedule is not None and cpsched.validate(problem, result.schedule).valid
    return {"values": result.objective, "bounds": result.bound, "checked": valid}


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "kernel-joint",
            "flash attention on a B200: pipelining and warp specialization together",
            joint,
            15.0,
            {"heuristic": heuristic},
            levels,
        ),
        Suite(
            "kernel-recon",
            "reconstructed loops of FlashAttention and GEMM on H100 and B200",
            reconstructed,
            20.0,
            {"heuristic": heuristic},
            levels,
        ),
        Suite(
            "kernel-dumps",
            "compiler dumps, modulo scheduling only: interval, then length",
            dumps,
            10.0,
            {"heuristic": heuristic},
            levels,
        ),
        Suite(
            "kernel-hatschet",
            "HLS and DSP graphs of HatScheT: interval, then length",
            hatschet,
            15.0,
            {"heuristic": heuristic},
            levels,
        ),
    )
}
