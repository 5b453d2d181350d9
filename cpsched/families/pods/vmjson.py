"""Reader of VM placements (the VMR2L clusters): hosts with NUMA nodes, VMs on one or two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.pods.kubectl_parts import whole_option
from cpsched.families.pods.problem import PodsProblem
from cpsched.problem import parse_json

OPTIONS = {
    "cluster": "name or zero-based index of the cluster (default 0); 'merged': all as one",
    "migration_limit": "at most this many migrations (default: the file's maximum_migration)",
    "moves": "all (default), or small: only VMs of fewer than X cores on one NUMA node migrate",
    "fragment_cores": "X of the fragment rate (default 16)",
}


def detect(name: str, head: str) -> bool:
    """A JSON object with a cluster_list of hosts."""
    return '"cluster_list"' in head and '"host_info"' in head


def read(text: str, file: str, options: Mapping[str, str]) -> PodsProblem:
    """Read one cluster, or all of them merged.

    Raises
    ------
    ProblemError
        Naming the host or VM that is malformed.
    """
    data = parse_json(text)
    clusters = data.get("cluster_list") if isinstance(data, dict) else None
    if not isinstance(clusters, list) or not clusters:
        raise ProblemError(
            "the file must hold a cluster_list", place="cluster_list", remedy="Check the file."
        )
    chosen, notes = _choose(clusters, options.get("cluster", "0"))
    general = data.get("general_requirement") or {}
    limit = general.get("maximum_migration") if isinstance(general, dict) else None
    if "migration_limit" in options:
        limit = whole_option(options, "migration_limit")
    try:
        nodes, pods = _hosts_and_vms(chosen)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ProblemError(
            f"the cluster lacks a field or has one of the wrong type ({error})",
            place="cluster_list",
            remedy="Compare it with a cluster that loads.",
        ) from None
    problem: dict[str, Any] = {
        "name": str(chosen[0][1].get("cluster_name", "")) if len(chosen) == 1 else "merged",
        "nodes": nodes,
        "pods": pods,
        "live_migration": True,
        "migration_limit": limit,
        "objectives": ["fragment_rate"],
        "notes": notes,
    }
    moves = options.get("moves", "all")
    if moves not in ("all", "small"):
        raise ProblemError(
            "moves must be all or small", place="moves", value=moves, remedy="Correct the option."
        )
    if moves == "small":
        size = whole_option(options, "fragment_cores") if "fragment_cores" in options else 16
        for pod in pods:
            if pod["cells"] > 1 or pod["per_cell"]["cpu"] >= size:
                pod["movable"], pod["reason"] = False, "it is outside the move set"
        told = f"VMs of fewer than {size} cores on one NUMA node migrate"
    else:
        told = "every VM that may migrate, also on two NUMA nodes"
    # What a proof of optimality speaks about.
    problem["notes"] = [*notes, f"move set {moves}: {told}"]
    if "fragment_cores" in options:
        problem["fragment_cores"] = whole_option(options, "fragment_cores")
    return PodsProblem.parse(problem)


def _choose(clusters: list[Any], wanted: str) -> tuple[list[tuple[int, Any]], list[str]]:
    names = [str(c.get("cluster_name", i)) for i, c in enumerate(clusters)]
    if wanted == "merged":
        return list(enumerate(clusters)), []
    if wanted in names:
        index = names.index(wanted)
    elif wanted.isdecimal() and int(wanted) < len(clusters):
        index = int(wanted)
    else:
        raise ProblemError(
            f"cluster must be one of {', '.join(names)}, an index, or merged",
            place="cluster",
            value=wanted,
            remedy="Correct the option.",
        )
    others = [n for i, n in enumerate(names) if i != index]
    notes = [f"cluster {names[index]} of the file; option cluster reads {', '.join(others)}"]
    return [(index, clusters[index])], notes if others else []


def _hosts_and_vms(chosen: list[tuple[int, Any]]) -> tuple[list[Any], list[Any]]:
    nodes, pods = [], []
    seen: set[str] = set()
    for index, cluster in chosen:
        sets: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for k, group in enumerate(
            (cluster.get("other_requirement") or {}).get("deployment_set", ())
        ):
            key = "rack" if group.get("granularity") == "rack" else "host"
            for vm in group["data"]:
                sets[vm].append((f"set-{k}", key))
        for i, host in enumerate(cluster["host_info"]):
            place = f"cluster_list.{index}.host_info.{i}"
            cells = sorted(host["numa"], key=lambda c: int(c["node"]))
            if [int(c["node"]) for c in cells] != list(range(len(cells))):
                raise ProblemError(
                    "NUMA nodes are numbered from 0",
                    place=f"{place}.numa",
                    remedy="Correct the numbers.",
                )
            nodes.append(
                {
                    "name": host["node_id"],
                    "labels": {"host": str(host["node_id"]), "rack": str(host.get("rack_id", ""))},
                    "unschedulable": host.get("status") != "ACTIVE",
                    "cells": [
                        {
                            "cpu": c["total_cpu"],
                            "memory": f"{_mebibytes(c['memory_huge_total_mb'])}Mi",
                        }
                        for c in cells
                    ],
                }
            )
        for i, vm in enumerate(cluster["vm_instance"]):
            if vm["instance_id"] in seen:
                continue
            seen.add(vm["instance_id"])
            pods.append(_vm(vm, sets, f"cluster_list.{index}.vm_instance.{i}"))
    return nodes, pods


def _mebibytes(value: Any) -> int:
    if value != int(value):
        raise ValueError("memory is a whole number of MiB")
    return int(value)


def _vm(vm: Any, sets: Mapping[str, list[tuple[str, str]]], place: str) -> dict[str, Any]:
    parts = sorted(vm["numa"], key=lambda c: int(c["node"]))
    if not parts or any(
        (p["cpu"], p["mem_mb"]) != (parts[0]["cpu"], parts[0]["mem_mb"]) for p in parts
    ):
        raise ProblemError(
            "a VM takes the same cores and memory on each of its NUMA nodes",
            place=f"{place}.numa",
            remedy="Correct the parts.",
        )
    out: dict[str, Any] = {
        "name": vm["instance_id"],
        "node": vm["host_id"],
        "cells": len(parts),
        "cell_indices": [int(p["node"]) for p in parts],
        "per_cell": {"cpu": parts[0]["cpu"], "memory": f"{_mebibytes(parts[0]['mem_mb'])}Mi"},
        "owner": str(vm.get("instance_type", "")),
    }
    if not vm.get("allow_migration", True):
        out["movable"], out["reason"] = False, "migration is not allowed"
    groups = sets.get(vm["instance_id"], [])
    if groups:
        out["labels"] = {name: "yes" for name, _ in groups}
        out["pod_anti_affinity"] = [
            {"topology_key": key, "selector": {"match_labels": {name: "yes"}}}
            for name, key in groups
        ]
    return out
