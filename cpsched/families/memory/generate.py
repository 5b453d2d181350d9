"""Generated problems of the three forms, deterministic by seed."""

from __future__ import annotations

import random
from collections.abc import Mapping

from cpsched.errors import ProblemError
from cpsched.families import Generator
from cpsched.families.memory.problem import (
    Buffer,
    CopyEngine,
    MemoryProblem,
    Operation,
    Space,
    Use,
)


def random_allocation(
    buffers: int, seed: int, *, span: int = 0, largest: int = 100, mean: float = 0.1
) -> MemoryProblem:
    """Buffers with uniform starts, geometric lifetimes and log-uniform sizes, no capacity."""
    rng = random.Random(seed)
    span = span or 2 * buffers
    out = []
    for i in range(buffers):
        lower = rng.randrange(span)
        length = min(span - lower, 1 + int(rng.expovariate(1.0 / max(1.0, mean * span))))
        size = max(1, round(largest ** rng.random()))
        out.append(Buffer(id=str(i), size=size, lower=lower, upper=lower + length))
    return MemoryProblem(name=f"random-{buffers}-{seed}", buffers=tuple(out))


def layered_allocation(buffers: int, seed: int) -> MemoryProblem:
    """Buffers as a compiler sees them: small ones that live long, large ones that live shortly.

    Lifetimes follow a power law over three orders of magnitude, and most of a size is explained by
    the lifetime. First fit by size lays the large short ones first and leaves holes.
    """
    rng = random.Random(seed)
    span = 4 * buffers
    out = []
    for i in range(buffers):
        brief = rng.random()
        length = max(1, int(span * 0.1 ** (1.0 + 3.0 * brief)))
        lower = rng.randrange(max(1, span - length))
        size = 64 * max(1, int(10 ** (1.6 * brief + 0.4 * rng.random())))
        out.append(Buffer(id=str(i), size=size, lower=lower, upper=lower + length))
    return MemoryProblem(name=f"layered-{buffers}-{seed}", buffers=tuple(out))


def steady_allocation(
    buffers: int, seed: int, *, target: int = 100, low: int = 5, high: int = 25, mean: int = 8
) -> MemoryProblem:
    """A stream of buffers that keeps the load just below ``target``, as a busy server does.

    A buffer starts as soon as it fits into what is free; sizes are uniform, lifetimes geometric.
    The load is flat, so that it is often not enough: what is free lies in pieces.
    """
    rng = random.Random(seed)
    out: list[Buffer] = []
    living: list[tuple[int, int]] = []
    time, load, size = 0, 0, rng.randint(low, high)
    while len(out) < buffers:
        while load + size <= target and len(out) < buffers:
            end = time + 1 + int(rng.expovariate(1.0 / mean))
            out.append(Buffer(id=str(len(out)), size=size, lower=time, upper=end))
            living.append((end, size))
            load += size
            size = rng.randint(low, high)
        time = min(living)[0]
        load -= sum(s for end, s in living if end <= time)
        living = [one for one in living if one[0] > time]
    return MemoryProblem(name=f"steady-{buffers}-{low}-{high}-{seed}", buffers=tuple(out))


def mapping(tensors: int, seed: int, *, training: bool = False) -> MemoryProblem:
    """A chain of layers with weights and activations, and one fast space for a part of them.

    In training, activations are used again in the backward pass, in reverse order.
    """
    rng = random.Random(seed)
    layers = max(2, tensors // 2)
    steps = 4 * layers * (2 if training else 1)
    buffers = []
    total = 0
    for i in range(layers):
        at = 4 * i
        back = steps - 4 * (i + 1)
        weight, activation = rng.randrange(8, 65), rng.randrange(4, 49)
        total += weight + activation

        def use(time: int, size: int) -> Use:
            benefit = {"fast": rng.randrange(1, 4) * size // 4 + 1}
            return Use(start=time, end=time + 4, benefit=benefit)

        weights = [use(at, weight)] + ([use(back, weight)] if training else [])
        buffers.append(
            Buffer(id=f"w{i}", size=weight, lower=0, upper=steps, input=True, uses=tuple(weights))
        )
        if len(buffers) == tensors:
            break
        uses = [use(at, activation)]
        if at + 8 <= (back if training else steps):
            uses.append(use(at + 4, activation))
        if training and back >= uses[-1].end:
            uses.append(use(back, activation))
        buffers.append(
            Buffer(
                id=f"a{i}",
                size=activation,
                lower=at,
                upper=uses[-1].end,
                uses=tuple(uses),
                output=not training and i == layers - 1,
            )
        )
        if len(buffers) == tensors:
            break
    gain = sum(max(u.benefit.values()) for b in buffers for u in b.uses)
    return MemoryProblem(
        name=f"{'training' if training else 'inference'}-{tensors}-{seed}",
        buffers=tuple(buffers),
        spaces=(Space(name="fast", capacity=max(64, total // 6)),),
        copy_engine=CopyEngine(rate=16, latency=1),
        base_time=2 * gain,
    )


def graph(operations: int, seed: int, *, recompute: bool = False) -> MemoryProblem:
    """A random layered graph of operations with one output each and one to three inputs."""
    rng = random.Random(seed)
    buffers, steps = [], []
    for i in range(operations):
        recent = list(range(max(0, i - 6), i))
        reads = sorted(rng.sample(recent, min(len(recent), rng.randrange(1, 4))))
        buffers.append(Buffer(id=f"t{i}", size=rng.randrange(1, 33), recompute=recompute))
        steps.append(
            Operation(
                id=f"o{i}",
                inputs=tuple(f"t{j}" for j in reads),
                outputs=(f"t{i}",),
                duration=rng.randrange(1, 10),
            )
        )
    return MemoryProblem(
        name=f"graph-{operations}-{seed}", buffers=tuple(buffers), operations=tuple(steps)
    )


def _number(options: Mapping[str, str], name: str, default: str, least: int, most: int) -> int:
    text = options.get(name, default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ProblemError(
            f"{name} must be a whole number between {least} and {most}",
            place=f"option {name}",
            value=text,
            remedy="Correct the option.",
        )
    return int(text)


def _make(options: Mapping[str, str]) -> MemoryProblem:
    style = options.get("style", "random")
    n = _number(options, "n", "30", 1, 1_000_000)
    seed = _number(options, "seed", "0", 0, 2**31)
    makers = {
        "random": lambda: random_allocation(n, seed),
        "layered": lambda: layered_allocation(n, seed),
        "steady": lambda: steady_allocation(n, seed),
        "inference": lambda: mapping(n, seed),
        "training": lambda: mapping(n, seed, training=True),
        "graph": lambda: graph(n, seed),
        "recompute": lambda: graph(n, seed, recompute=True),
    }
    if style not in makers:
        raise ProblemError(
            f"style must be one of {', '.join(makers)}",
            place="option style",
            value=style,
            remedy="Choose one of them.",
        )
    return makers[style]()


GENERATORS = (
    Generator(
        name="memory",
        description="buffers to allocate, tensors to map, or operations to order",
        options={
            "style": (
                "random",
                "random, layered, steady, inference, training, graph or recompute",
            ),
            "n": ("30", "number of buffers, tensors or operations"),
            "seed": ("0", "seed"),
        },
        make=_make,
    ),
)
