"""The scenarios of 'Priority Matters' (arXiv 2511.08373), byte for byte, and the default scheduler.

The generator follows the paper's published workload runner; the simulator reproduces the recorded
outcomes of its deterministic default scheduler (ties by name, no preemption).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from cpsched.errors import ProblemError
from cpsched.families import Generator
from cpsched.families.pods.problem import Node, Pod, PodsProblem


def stream(seed: int, label: str) -> random.Random:
    """The random stream of that label: a child seed by blake2b of the seed and the label."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(seed.to_bytes(16, "big"))
    digest.update(b"\x00" + label.encode())
    return random.Random(int.from_bytes(digest.digest(), "big"))


def scenario(
    seed: int, nodes: int, pods_per_node: int, priorities: int, utilisation: str
) -> PodsProblem:
    """Pending pods of random replica sets on equal empty nodes.

    Parameters
    ----------
    utilisation
        Requested share of the cluster, as text (``"0.95"``).
    """
    pods = nodes * pods_per_node
    sizes_of, cpu_of, memory_of = (stream(seed, x) for x in ("rs-sizes", "rs-cpu", "rs-mem"))
    base = stream(seed, "base")
    sizes = []
    remaining = pods
    while remaining > 0:
        size = sizes_of.randint(1, min(4, remaining))
        sizes.append(size)
        remaining -= size
    cpu = [cpu_of.randint(100, 1000) for _ in sizes]
    memory = [memory_of.randint(10**8, 10**9) for _ in sizes]
    priority = [base.randint(1, priorities) for _ in sizes]
    share = float(utilisation)
    capacity = {
        "cpu": f"{_capacity(sizes, cpu, share, nodes)}m",
        "memory": _capacity(sizes, memory, share, nodes),
    }
    listed = [
        Pod.parse(
            {
                "name": f"default/rs-{k:03d}-{i}",
                "owner": f"ReplicaSet/default/rs-{k:03d}",
                "requests": {"cpu": f"{cpu[k]}m", "memory": memory[k]},
                "priority": priority[k],
            }
        )
        for k, size in enumerate(sizes)
        for i in range(size)
    ]
    return PodsProblem(
        name=f"scenario-{nodes}x{pods}-p{priorities}-u{utilisation}-{seed}",
        nodes=tuple(
            Node.parse(
                {
                    "name": f"node-{n:03d}",
                    "allocatable": capacity,
                    "labels": {"kubernetes.io/hostname": f"node-{n:03d}"},
                }
            )
            for n in range(nodes)
        ),
        pods=tuple(listed),
    )


def _capacity(sizes: list[int], values: list[int], share: float, nodes: int) -> int:
    total = sum(s * v for s, v in zip(sizes, values, strict=True))
    whole = _ceil(total / share)
    return max(*values, _ceil(whole / nodes))


def _ceil(value: float) -> int:
    return int(value) if value == int(value) else int(value) + 1


def default_placement(problem: PodsProblem) -> PodsProblem:
    """The problem after the default scheduler has placed its pending pods, in their order.

    Scores LeastAllocated, BalancedAllocation and spreading of a replica set over hosts, with the
    default weights; equal scores go to the first name. Considers CPU and memory only.
    """
    capacity = [
        (n.allocatable.get("cpu", 0), n.allocatable.get("memory", 0)) for n in problem.nodes
    ]
    used = [[0, 0] for _ in problem.nodes]
    per_owner: dict[str, list[int]] = {}
    index = {n.name: i for i, n in enumerate(problem.nodes)}
    placed = []
    for pod in problem.pods:
        need = (pod.requests.get("cpu", 0), pod.requests.get("memory", 0))
        counts = per_owner.setdefault(pod.owner or pod.name, [0] * len(problem.nodes))
        node = index[pod.node] if pod.node else _choose(need, capacity, used, counts)
        if node is None:
            placed.append(pod)
            continue
        used[node][0] += need[0]
        used[node][1] += need[1]
        counts[node] += 1
        placed.append(pod.model_copy(update={"node": problem.nodes[node].name}))
    return problem.model_copy(update={"pods": tuple(placed)})


def _choose(
    need: tuple[int, int], capacity: list[tuple[int, int]], used: list[list[int]], counts: list[int]
) -> int | None:
    fits = [
        n
        for n, (cap, use) in enumerate(zip(capacity, used, strict=True))
        if use[0] + need[0] <= cap[0] and use[1] + need[1] <= cap[1]
    ]
    if not fits:
        return None
    most = max(counts[n] for n in fits)
    least = min(counts[n] for n in fits)

    def score(n: int) -> tuple[int, int]:
        shares = [(used[n][k] + need[k]) / capacity[n][k] for k in (0, 1)]
        free = [(capacity[n][k] - used[n][k] - need[k]) * 100 // capacity[n][k] for k in (0, 1)]
        fit = sum(free) // 2
        balanced = int((1 - abs(shares[0] - shares[1]) / 2) * 100)
        spread = 100 * (most + least - counts[n]) // most if most else 100
        return (-(fit + balanced + 2 * spread), n)

    return min(fits, key=score)


def _make(options: Mapping[str, str]) -> PodsProblem:
    values = {k: options.get(k, default) for k, (default, _) in OPTIONS.items()}
    numbers = {}
    for name in ("seed", "nodes", "pods_per_node", "priorities"):
        text = values[name].strip()
        if (
            not text.isdecimal()
            or len(text) > 38
            or (name != "seed" and not 1 <= int(text) <= 10**4)
        ):
            raise ProblemError(
                "the option must be a whole number of at least 1",
                place=name,
                value=text,
                remedy="Correct it.",
            )
        numbers[name] = int(text)
    try:
        share = float(values["utilisation"])
    except ValueError:
        share = -1.0
    if not 0.01 <= share <= 100.0:
        raise ProblemError(
            "utilisation is a share between 0.01 and 100",
            place="utilisation",
            value=values["utilisation"],
            remedy="Write for example 0.95.",
        )
    problem = scenario(
        numbers["seed"],
        numbers["nodes"],
        numbers["pods_per_node"],
        numbers["priorities"],
        values["utilisation"],
    )
    placement = values["placement"]
    if placement not in ("default", "none"):
        raise ProblemError(
            "placement must be default or none",
            place="placement",
            value=placement,
            remedy="Correct it.",
        )
    return default_placement(problem) if placement == "default" else problem


OPTIONS = {
    "seed": ("484806185843093489", "seed of the scenario"),
    "nodes": ("4", "equal nodes"),
    "pods_per_node": ("4", "pods per node"),
    "priorities": ("1", "priorities 1..K, drawn per replica set"),
    "utilisation": ("0.90", "requested share of the cluster"),
    "placement": ("default", "default: after the default scheduler; none: all pending"),
}
GENERATORS = (
    Generator(
        "pod-scenario",
        "a scenario of arXiv 2511.08373 after the default scheduler's placement",
        OPTIONS,
        _make,
    ),
)
