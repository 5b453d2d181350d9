"""Generators: GPU loops from throughput arithmetic, and pipelines of distributed systems."""

from __future__ import annotations

import random
from collections.abc import Mapping

from cpsched.errors import ProblemError
from cpsched.families import Generator
from cpsched.families.kernel.build import Loop
from cpsched.families.kernel.machines import load_machine
from cpsched.families.kernel.problem import KernelProblem, Machine
from cpsched.families.kernel.reading import whole_option

#: Dense 16-bit floating-point operations per cycle of one multiprocessor.
FLOPS_PER_CYCLE = {"h100": 4096, "b200": 8192}
#: Exponentials, 32-bit lanes and shared-memory bytes per cycle.
EXPONENTS, LANES, SMEM_BYTES = 16, 128, 128
#: Cycles from the end of a reservation to the result (an assumption: a pipeline's fill).
FILL = 64


def _machine(options: Mapping[str, str]) -> tuple[str, Machine]:
    name = options["machine"].lower()
    if name not in FLOPS_PER_CYCLE:
        raise ProblemError(
            f"option machine must be one of {', '.join(FLOPS_PER_CYCLE)}",
            place="option machine",
            value=name,
            remedy="Correct the option.",
        )
    machine = load_machine(name)
    # One port each: the loops below give shared-memory traffic as cycles at the full rate.
    return name, machine.model_copy(update={"signal_cost": 0})


def gemm(options: Mapping[str, str]) -> KernelProblem:
    """A matrix product's main loop: two loads into rings, one multiply per consumer group."""
    name, machine = _machine(options)
    m, n, k = (whole_option(options[key], key, 16, 1024) for key in ("m", "n", "k"))
    split = whole_option(options["split"], "split", 1, 4)
    depth = whole_option(options["depth"], "depth", 1, 16)
    loop = Loop(f"gemm-{name}-{m}x{n}x{k}", machine)
    rows = m // split
    busy = max(1, 2 * rows * n * k // FLOPS_PER_CYCLE[name])
    for operand, size in (("A", 2 * m * k), ("B", 2 * n * k)):
        loop.operation(
            f"load{operand}",
            {"TMA": -(-size * 6 // 1024)},
            latency=460 + -(-size * 6 // 1024),
            asynchronous=True,
            variable_latency=True,
            streaming=True,
        )
        loop.buffer(operand, size, most=depth)
    for s in range(split):
        mma = loop.operation(
            f"mma{s}",
            {"TC": busy},
            latency=busy + FILL,
            asynchronous=True,
            min_warps=4,
            registers=rows * n if name == "h100" else 0,
            tmem_columns=n if name == "b200" else 0,
        )
        for operand in "AB":
            loop.uses(f"load{operand}", mma, blocking=True)
            loop.overwrites(f"load{operand}", mma, delay=busy + FILL, buffers=operand)
        loop.uses(mma, mma, distance=1, delay=busy)
    return loop.problem(groups=split + 1)


def attention(options: Mapping[str, str]) -> KernelProblem:
    """Flash attention's forward loop on Hopper: per row tile, scores, softmax and output.

    With ``split`` 2 each consumer warp group has half of the rows, and the two can take turns on
    the matrix unit and the exponential unit (ping-pong).
    """
    name, machine = "h100", _machine({"machine": "h100"})[1]
    rows, columns, head = (
        whole_option(options[key], key, 16, 512) for key in ("rows", "columns", "head")
    )
    split = whole_option(options["split"], "split", 1, 4)
    depth = whole_option(options["depth"], "depth", 1, 8)
    loop = Loop(f"attention-{name}-{rows}x{columns}x{head}-split{split}", machine)
    tile = 2 * columns * head
    for operand in "KV":
        loop.operation(
            f"load{operand}",
            {"TMA": -(-tile * 6 // 1024), "SMEM": tile // SMEM_BYTES},
            latency=460 + -(-tile * 6 // 1024),
            asynchronous=True,
            variable_latency=True,
            streaming=True,
        )
        loop.buffer(operand, tile, most=depth)
    part = rows // split
    busy = max(1, 2 * part * columns * head // FLOPS_PER_CYCLE[name])
    plain = max(1, part * columns // LANES)
    exponent = max(1, part * columns // EXPONENTS)
    for s in range(split):
        score = loop.operation(
            f"QK{s}",
            {"TC": busy, "SMEM": (tile + 2 * part * head) // SMEM_BYTES},
            latency=busy + FILL,
            asynchronous=True,
            min_warps=4,
            registers=part * columns,
        )
        most = loop.operation(
            f"max{s}", {"ALU": plain}, latency=plain + 50, min_warps=4, registers=part
        )
        scale = loop.operation(f"scale{s}", {"ALU": plain}, latency=plain + 6, min_warps=4)
        power = loop.operation(
            f"exp{s}",
            {"MUFU": exponent},
            latency=exponent + 40,
            min_warps=4,
            registers=part * columns,
        )
        total = loop.operation(
            f"sum{s}", {"ALU": plain}, latency=plain + 6, min_warps=4, registers=part
        )
        narrow = loop.operation(
            f"cast{s}",
            {"ALU": plain},
            latency=plain + 6,
            min_warps=4,
            registers=part * columns // 2,
        )
        rescale = loop.operation(f"rescale{s}", {"ALU": plain}, latency=plain + 6, min_warps=4)
        output = loop.operation(
            f"PV{s}",
            {"TC": busy, "SMEM": tile // SMEM_BYTES},
            latency=busy + FILL,
            asynchronous=True,
            min_warps=4,
            registers=part * head,
        )
        loop.uses("loadK", score, blocking=True)
        loop.uses("loadV", output, blocking=True)
        loop.overwrites("loadK", score, delay=busy + FILL, buffers="K")
        loop.overwrites("loadV", output, delay=busy + FILL, buffers="V")
        loop.uses(score, most, blocking=True)
        loop.uses(score, scale)
        loop.uses(most, scale)
        loop.uses(most, most, distance=1, carried=True)
        loop.uses(scale, power)
        loop.uses(power, total)
        loop.uses(total, total, distance=1, carried=True)
        loop.uses(power, narrow)
        loop.uses(narrow, output)
        loop.uses(most, rescale)
        loop.uses(rescale, output)
        loop.uses(output, rescale, distance=1, blocking=True)
        loop.overwrites(score, power, delay=exponent + 40)
        loop.overwrites(narrow, output, delay=busy + FILL)
    return loop.problem(groups=split + 1 if split > 1 else 4)


def nano_batch(options: Mapping[str, str]) -> KernelProblem:
    """A transformer layer's operations on nano-batches that share compute, memory and network.

    Each operation may take any of the given shares (percent) of its unit for its whole duration;
    a share of s runs at s(200 - s)/100 percent of the full speed, an assumed concave profile, so
    that small shares are efficient and large ones fast. Layers follow each other, so the interval
    is the time per layer (after NanoFlow).
    """
    batches = whole_option(options["batches"], "batches", 1, 8)
    texts = options["shares"].split(",")
    shares = [whole_option(text.strip(), "shares", 1, 100) for text in texts]
    loop = Loop(f"nano-batch-{batches}", {"compute": 100, "memory": 100, "network": 100})
    chain = (
        ("qkv", "compute", 96),
        ("attention", "memory", 63),
        ("project", "compute", 40),
        ("reduce", "network", 36),
        ("feed", "compute", 234),
        ("gather", "network", 36),
    )
    for b in range(batches):
        before = ""
        for stage, unit, work in chain:
            modes = []
            for share in dict.fromkeys(shares):
                cycles = -(-10_000 * work // (share * (200 - share) * batches))
                uses = [{"unit": unit, "cycles": cycles, "amount": share}]
                modes.append({"name": f"{share} %", "latency": cycles, "uses": uses})
            # The modes' latencies are added to the delays of the edges that leave.
            here = loop.operation(f"{stage}{b}", modes=modes)
            if before:
                loop.uses(before, here)
            before = here
        loop.uses(before, f"qkv{b}", distance=1)
    return loop.problem()


def expert_layer(options: Mapping[str, str]) -> KernelProblem:
    """A mixture-of-experts layer in chunks: dispatch, experts, combine, gradient reduction.

    Chunks pass through the inter-node network, the processor and the intra-node network; the
    gradient reduction fills the network's gaps (after FSMoE).
    """
    chunks = whole_option(options["chunks"], "chunks", 1, 16)
    loop = Loop(f"experts-{chunks}", {"inter": 1, "intra": 1, "processor": 1})

    def cost(work: int, fixed: int) -> int:
        return fixed + -(-work // chunks)

    for c in range(chunks):
        before = ""
        for stage, unit, work, fixed in (
            ("dispatch", "inter", 400, 12),
            ("gather", "intra", 160, 6),
            ("expert", "processor", 640, 8),
            ("scatter", "intra", 160, 6),
            ("combine", "inter", 400, 12),
        ):
            cycles = cost(work, fixed)
            here = loop.operation(f"{stage}{c}", {unit: cycles}, latency=cycles)
            if before:
                loop.uses(before, here)
            before = here
        gradient = cost(120, 4)
        loop.operation(f"gradient{c}", {"inter": gradient}, latency=gradient)
        loop.uses(f"expert{c}", f"gradient{c}")
        loop.uses(before, f"dispatch{c}", distance=1)
    return loop.problem()


def round_robin(options: Mapping[str, str]) -> KernelProblem:
    """Pipeline stages dispatched to any of several equal devices, weights fetched over a link.

    One iteration is a micro-batch: forward stages, then backward ones (after RoundPipe).
    """
    stages = whole_option(options["stages"], "stages", 1, 32)
    devices = whole_option(options["devices"], "devices", 1, 64)
    rng = random.Random(whole_option(options["seed"], "seed", 0, 2**31 - 1))
    loop = Loop(f"round-robin-{stages}x{devices}", {"device": devices, "link": 2})
    costs = [rng.randint(20, 60) for _ in range(stages)]
    before = ""
    order = [("forward", s, costs[s]) for s in range(stages)]
    order += [("backward", s, 2 * costs[s]) for s in reversed(range(stages))]
    for direction, s, cycles in order:
        fetch = loop.operation(
            f"fetch-{direction}{s}",
            latency=12,
            uses=[{"unit": "link", "cycles": 12, "amount": 1}],
        )
        here = loop.operation(
            f"{direction}{s}",
            latency=cycles,
            uses=[{"unit": "device", "cycles": cycles, "amount": 1}],
        )
        loop.uses(fetch, here)
        if before:
            loop.uses(before, here)
        before = here
    return loop.problem()


def random_loop(options: Mapping[str, str]) -> KernelProblem:
    """A random dependence graph with recurrences on a few units, for tests and benchmarks."""
    n = whole_option(options["operations"], "operations", 1, 5000)
    units = whole_option(options["units"], "units", 1, 20)
    rng = random.Random(whole_option(options["seed"], "seed", 0, 2**31 - 1))
    loop = Loop(f"random-{n}", {f"U{k}": rng.choice([1, 1, 2]) for k in range(units)})
    for k in range(n):
        unit, cycles = f"U{rng.randrange(units)}", rng.randint(1, 4)
        uses = [{"unit": unit, "cycles": cycles, "amount": 1}]
        loop.operation(f"o{k}", latency=cycles + rng.randint(0, 6), uses=uses)
        for _ in range(rng.randint(0, 2) if k else 0):
            loop.uses(f"o{rng.randrange(max(0, k - 12), k)}", f"o{k}")
    for _ in range(max(1, n // 12)):
        w = rng.randrange(n)
        u = rng.randrange(w, min(n, w + 8))
        loop.uses(f"o{u}", f"o{w}", distance=rng.randint(1, 3))
    return loop.problem()


_MACHINE = ("h100", "h100 or b200")

GENERATORS = (
    Generator(
        name="gemm",
        description="main loop of a matrix product on one multiprocessor",
        options={
            "machine": _MACHINE,
            "m": ("128", "rows of the tile"),
            "n": ("256", "columns of the tile"),
            "k": ("64", "depth of one step"),
            "split": ("2", "consumer warp groups"),
            "depth": ("6", "most slots of each operand's ring"),
        },
        make=gemm,
    ),
    Generator(
        name="attention",
        description="forward loop of flash attention on Hopper",
        options={
            "rows": ("128", "query rows of the tile"),
            "columns": ("128", "keys per step"),
            "head": ("128", "head dimension"),
            "split": ("2", "consumer warp groups"),
            "depth": ("2", "most slots of the K and V rings"),
        },
        make=attention,
    ),
    Generator(
        name="nano-batch",
        description="transformer layers on nano-batches that share compute, memory and network",
        options={
            "batches": ("2", "nano-batches"),
            "shares": ("40,60,90", "shares of a unit that an operation may take, in percent"),
        },
        make=nano_batch,
    ),
    Generator(
        name="experts",
        description="mixture-of-experts layer whose communication overlaps computation",
        options={"chunks": ("4", "chunks of the layer's tokens")},
        make=expert_layer,
    ),
    Generator(
        name="round-robin",
        description="pipeline stages dispatched to any of several devices",
        options={
            "stages": ("6", "stages of the model"),
            "devices": ("4", "devices"),
            "seed": ("0", "seed of the stage costs"),
        },
        make=round_robin,
    ),
    Generator(
        name="random-loop",
        description="random dependence graph with recurrences",
        options={
            "operations": ("40", "operations"),
            "units": ("4", "units"),
            "seed": ("0", "seed"),
        },
        make=random_loop,
    ),
)
