"""FGD, the online policy of OpenB's authors, as a baseline: least growth of expected fragments.

A pod goes to the node, and on it to the GPUs, where the amount of free GPU that an average pod of
the workload could not use grows least.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from cpsched.families.pods.arrays import Floats, Ints
from cpsched.families.pods.problem import PodsProblem


def fgd(problem: PodsProblem) -> dict[str, str]:
    """Node of every pod that the policy places, pods taken in their order."""
    nodes = problem.nodes
    width = max((len(n.cells) for n in nodes), default=0)
    cpu = np.array([n.allocatable["cpu"] for n in nodes], dtype=np.int64)
    memory = np.array([n.allocatable["memory"] for n in nodes], dtype=np.int64)
    gpu = np.zeros((len(nodes), width), dtype=np.int64)
    for n, node in enumerate(nodes):
        gpu[n, : len(node.cells)] = 1000
    models = [n.labels.get("gpu-model", "") for n in nodes]
    shapes = Counter(
        (p.requests["cpu"], p.requests["memory"], p.cells, p.per_cell.get("gpu_milli", 0))
        for p in problem.pods
    )
    table = np.array(list(shapes), dtype=np.int64)
    share = np.array(list(shapes.values())) / len(problem.pods)
    # Rare shapes weigh nothing in the expectation.
    common = np.argsort(-share)[:40]
    table, share = table[common], share[common]
    placed: dict[str, str] = {}
    for pod in problem.pods:
        need_cpu, need_memory = pod.requests["cpu"], pod.requests["memory"]
        each = pod.per_cell.get("gpu_milli", 0)
        fits = (cpu >= need_cpu) & (memory >= need_memory)
        if pod.cells:
            fits &= (gpu >= each).sum(axis=1) >= pod.cells
        if pod.node_affinity:
            wanted = set(pod.node_affinity[0].match_expressions[0].values)
            fits &= np.array([m in wanted for m in models])
        candidates = np.flatnonzero(fits)
        if not len(candidates):
            continue
        # Equal nodes give equal growth: look at each distinct state once.
        state = np.column_stack([cpu[candidates], memory[candidates], np.sort(gpu[candidates])])
        _, first = np.unique(state, axis=0, return_index=True)
        candidates = candidates[first]
        before = _fragments(cpu[candidates], memory[candidates], gpu[candidates], table, share)
        best: tuple[float, int, tuple[int, ...]] | None = None
        for n, old in zip(candidates.tolist(), before.tolist(), strict=True):
            for cells in _choices(gpu[n], pod.cells, each):
                after = gpu[n].copy()
                after[list(cells)] -= each
                new = _fragments(
                    cpu[n : n + 1] - need_cpu,
                    memory[n : n + 1] - need_memory,
                    after[None, :],
                    table,
                    share,
                )[0]
                if best is None or new - old < best[0] - 1e-9:
                    best = (float(new - old), n, cells)
        assert best is not None
        _, n, cells = best
        cpu[n] -= need_cpu
        memory[n] -= need_memory
        gpu[n, list(cells)] -= each
        placed[pod.name] = nodes[n].name
    return placed


def _choices(free: Ints, count: int, each: int) -> list[tuple[int, ...]]:
    if not count:
        return [()]
    fits = np.flatnonzero(free >= each).tolist()
    if count > 1 or each == 1000:
        return [tuple(fits[:count])]
    return [(c,) for c in {int(free[c]): c for c in fits}.values()]


def _fragments(
    cpu: Ints,
    memory: Ints,
    gpu: Ints,
    table: Ints,
    share: Floats,
) -> Floats:
    """Expected free GPU per node that a pod drawn from the workload cannot use."""
    total = gpu.sum(axis=1)
    need_cpu, need_memory, count, each = table.T
    usable = gpu[:, :, None] >= np.maximum(each, 1)
    fits = (
        (cpu[:, None] >= need_cpu)
        & (memory[:, None] >= need_memory)
        & (usable.sum(axis=1) >= count)
        & (count > 0)
    )
    lost = np.where(fits, (gpu[:, :, None] * ~usable).sum(axis=1), total[:, None])
    out: Floats = (lost * share).sum(axis=1)
    return out
