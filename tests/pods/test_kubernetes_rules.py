"""Rules of kube-scheduler from a list of objects to a plan: each once kept, once in the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

import cpsched
from cpsched.families.pods import kubectl

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
FIRST = {"values": ["z1"]}
WEB = {"matchLabels": {"app": "web"}}


def node(name: str, zone: str = "z1", **spec: Any) -> dict[str, Any]:
    amounts = {"cpu": "2", "memory": "4Gi", "pods": "10"} | spec.pop("allocatable", {})
    labels = {HOST: name, ZONE: zone} | spec.pop("labels", {})
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": amounts},
    }


def pod(name: str, at: str | None = None, cpu: str = "1", **spec: Any) -> dict[str, Any]:
    """A replica of the web application, unless ``labels`` say otherwise."""
    owner = {"kind": spec.pop("owner", "ReplicaSet"), "name": "rs", "uid": "u", "controller": True}
    requests = {"cpu": cpu} | spec.pop("requests", {})
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": spec.pop("namespace", "default"),
            "labels": spec.pop("labels", {"app": "web"}),
            "annotations": spec.pop("annotations", {}),
            "ownerReferences": [owner],
        },
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}
        | ({"nodeName": at} if at else {})
        | spec,
    }


def affinity(kind: str, *terms: dict[str, Any]) -> dict[str, Any]:
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}


def node_affinity(**term: Any) -> dict[str, Any]:
    needed = {"nodeSelectorTerms": [term]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": needed}}


def near(**more: Any) -> dict[str, Any]:
    return {"topologyKey": HOST, "labelSelector": WEB} | more


def spread(**more: Any) -> list[dict[str, Any]]:
    rule = {"topologyKey": ZONE, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    return [rule | {"labelSelector": WEB} | more]


def claim(mode: str) -> list[dict[str, Any]]:
    return [
        {
            "kind": "PersistentVolume",
            "metadata": {"name": "pv"},
            "spec": {
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": ZONE, "operator": "In", "values": ["z1"]}
                                ]
                            }
                        ]
                    }
                }
            },
        },
        {
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": "default"},
            "spec": {"volumeName": "pv", "accessModes": [mode]},
        },
    ]


DATA = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]


def port(number: int, ip: str = "") -> list[dict[str, Any]]:
    ports = [{"containerPort": 1, "hostPort": number} | ({"hostIP": ip} if ip else {})]
    return [{"name": "c", "ports": ports, "resources": {"requests": {"cpu": "100m"}}}]


def gang(size: int) -> dict[str, Any]:
    return {
        "kind": "PodGroup",
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"minMember": size},
    }


def budget(allowed: int) -> dict[str, Any]:
    return {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": WEB, "maxUnavailable": 1},
        "status": {"disruptionsAllowed": allowed},
    }


def quota(cpu: str) -> dict[str, Any]:
    return {
        "kind": "ResourceQuota",
        "metadata": {"name": "q", "namespace": "default"},
        "spec": {"hard": {"requests.cpu": cpu}},
    }


def replica(revision: str) -> dict[str, str]:
    return {"app": "web", "pod-template-hash": revision}


def moving(**spec: Any) -> list[dict[str, Any]]:
    """A pod of 2 CPU fits only when the one of 1 CPU leaves its node for the other."""
    small = node("m", allocatable={"cpu": "1"})
    return [node("n"), small, pod("in-the-way", "n", **spec), pod("p", cpu="2", labels={})]


def preempting(policy: str) -> list[dict[str, Any]]:
    return [
        node("n"),
        pod("low", "n", cpu="2", priority=1),
        pod("p", cpu="2", priority=9, preemptionPolicy=policy),
    ]


PEAK = {"initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1500m"}}}]}
SIDECAR = {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1500m"}}}
GATE = {"schedulingGates": [{"name": "wait"}]}
BIG = {"key": "size", "operator": "Gt", "values": ["5"]}
GPU = {"nvidia.com/gpu": "1"}
GROUP = {"labels": {"app": "web", "scheduling.x-k8s.io/pod-group": "g"}}
OTHER = {"kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "x"}}}
TEAM = {"namespaceSelector": {"matchLabels": {"team": "x"}}}

#: rule -> (objects with which every pod is placed, objects with which one is left pending)
CASES: dict[str, tuple[list[Any], list[Any]]] = {
    "nodeSelector": (
        [node("n", labels={"disk": "ssd"}), pod("p", nodeSelector={"disk": "ssd"})],
        [node("n"), pod("p", nodeSelector={"disk": "ssd"})],
    ),
    "node affinity Gt": (
        [node("n", labels={"size": "6"}), pod("p", affinity=node_affinity(matchExpressions=[BIG]))],
        [node("n", labels={"size": "5"}), pod("p", affinity=node_affinity(matchExpressions=[BIG]))],
    ),
    "matchFields": tuple(  # type: ignore[dict-item]
        [
            node("n"),
            pod(
                "p",
                affinity=node_affinity(
                    matchFields=[{"key": "metadata.name", "operator": "In", "values": [name]}]
                ),
            ),
        ]
        for name in ("n", "m")
    ),
    "taints": (
        [
            node("n", taints=[{"key": "k", "effect": "NoSchedule"}]),
            pod("p", tolerations=[{"key": "k", "operator": "Exists"}]),
        ],
        [node("n", taints=[{"key": "k", "effect": "NoExecute"}]), pod("p")],
    ),
    "unschedulable": ([node("n"), pod("p")], [node("n", unschedulable=True), pod("p")]),
    "host ports": (
        [
            node("n"),
            pod("q", "n", containers=port(80, "10.0.0.1")),
            pod("p", containers=port(80, "10.0.0.2")),
        ],
        [node("n"), pod("q", "n", containers=port(80, "10.0.0.1")), pod("p", containers=port(80))],
    ),
    "symmetric anti-affinity": tuple(  # type: ignore[dict-item]
        [
            node("n"),
            pod("q", "n", labels={}, affinity=affinity("podAntiAffinity", near())),
            pod("p", labels={"app": app}),
        ]
        for app in ("db", "web")
    ),
    "anti-affinity across namespaces": tuple(  # type: ignore[dict-item]
        [
            node("n"),
            OTHER,
            pod("q", "n", namespace=space),
            pod("p", labels={}, affinity=affinity("podAntiAffinity", near(**TEAM))),
        ]
        for space in ("default", "other")
    ),
    "first-pod rule": tuple(  # type: ignore[dict-item]
        [node("n"), pod("p", labels={"app": app}, affinity=affinity("podAffinity", near()))]
        for app in ("web", "db")
    ),
    "minDomains": tuple(  # type: ignore[dict-item]
        [node("n"), *[pod(f"p{k}", topologySpreadConstraints=spread(minDomains=d)) for k in (0, 1)]]
        for d in (1, 2)
    ),
    "matchLabelKeys": tuple(  # type: ignore[dict-item]
        [
            node("n"),
            node("m", "z2", allocatable={"cpu": "0"}),
            pod("q", "n", labels=replica("old")),
            pod("p", labels=replica("new"), topologySpreadConstraints=spread(matchLabelKeys=keys)),
        ]
        for keys in (["pod-template-hash"], [])
    ),
    "volume affinity": (
        [node("n"), *claim("ReadWriteOnce"), pod("p", volumes=DATA)],
        [node("n", "z2"), *claim("ReadWriteOnce"), pod("p", volumes=DATA)],
    ),
    "ReadWriteOncePod": tuple(  # type: ignore[dict-item]
        [
            node("n"),
            *claim(mode),
            pod("q", "n", owner="DaemonSet", volumes=DATA),
            pod("p", volumes=DATA),
        ]
        for mode in ("ReadWriteOnce", "ReadWriteOncePod")
    ),
    "gang": tuple(  # type: ignore[dict-item]
        [node("n"), gang(2), *[pod(f"p{k}", cpu=cpu, **GROUP) for k in (0, 1)]]
        for cpu in ("1", "1500m")
    ),
    "quota": tuple(  # type: ignore[dict-item]
        [node("n"), quota(cpu), pod("q", "n"), pod("p")] for cpu in ("2", "1500m")
    ),
    "budget": ([*moving(), budget(1)], [*moving(), budget(0)]),
    "scheduling gates": ([node("n"), pod("p")], [node("n"), pod("p", **GATE)]),
    "extended resources": (
        [node("n", allocatable=GPU), pod("p", requests=GPU)],
        [node("n"), pod("p", requests=GPU)],
    ),
    "ephemeral storage": tuple(  # type: ignore[dict-item]
        [
            node("n", allocatable={"ephemeral-storage": size}),
            pod("p", requests={"ephemeral-storage": "2Gi"}),
        ]
        for size in ("2Gi", "2147483647")
    ),
    "init containers": (
        [node("n"), pod("q", "n", cpu="500m"), pod("p", **PEAK)],
        [node("n"), pod("q", "n", cpu="600m"), pod("p", **PEAK)],
    ),
    "sidecars": (
        [node("n"), pod("p", cpu="500m", initContainers=[SIDECAR])],
        [node("n"), pod("p", cpu="600m", initContainers=[SIDECAR])],
    ),
    "overhead": tuple(  # type: ignore[dict-item]
        [node("n"), pod("p", overhead={"cpu": extra})] for extra in ("1", "1100m")
    ),
    "number of pods": tuple(  # type: ignore[dict-item]
        [node("n", allocatable={"pods": most}), pod("q", "n"), pod("p")] for most in ("2", "1")
    ),
    "daemon pods stay": (moving(), moving(owner="DaemonSet")),
    "safe-to-evict": (
        moving(),
        moving(annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}),
    ),
    "local storage": (moving(), moving(volumes=[{"name": "v", "emptyDir": {}}])),
    "preemptionPolicy": (preempting("PreemptLowerPriority"), preempting("Never")),
}


def solve(items: list[Any]) -> cpsched.Result:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    return cpsched.solve(kubectl.read(text, "", {}), 20.0, workers=1, strict=True)


@pytest.mark.parametrize("rule", CASES)
def test_kept(rule: str) -> None:
    """The pod p is placed, by a plan that is proved optimal."""
    result = solve(CASES[rule][0])
    assert result.status == "OPTIMAL"
    assert all(p.node for p in result.schedule.placements if p.pod.startswith("default/p"))


@pytest.mark.parametrize("rule", CASES)
def test_in_the_way(rule: str) -> None:
    """A small difference leaves the pod p pending, whatever the plan."""
    result = solve(CASES[rule][1])
    assert result.status == "OPTIMAL"
    assert not all(p.node for p in result.schedule.placements if p.pod.startswith("default/p"))
