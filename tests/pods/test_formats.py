"""Readers and writers: what is read, what is reported, and how bad files are refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.pods import kubectl, openb, roadef, vmjson
from cpsched.families.pods.problem import PodsProblem
from cpsched.families.pods.quantity import parse_quantity
from cpsched.families.pods.writers import write_kubectl, write_pending


def api_node(name: str, **status: Any) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"} | status},
    }


def api_pod(name: str, node: str | None = None, owner: str = "ReplicaSet", **spec: Any) -> Any:
    meta: dict[str, Any] = {"name": name, "namespace": "default"}
    if owner:
        meta["ownerReferences"] = [{"kind": owner, "name": "rs", "uid": "u", "controller": True}]
    containers = [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]
    out = {"kind": "Pod", "metadata": meta, "spec": {"containers": containers} | spec}
    if node:
        out["spec"]["nodeName"] = node
    return out


def read(*items: Any, **options: str) -> PodsProblem:
    data = {"apiVersion": "v1", "kind": "List", "items": list(items)}
    return kubectl.read(json.dumps(data), "", options)


@pytest.mark.parametrize(
    ("resource", "text", "value"),
    [
        ("cpu", "100m", 100),
        ("cpu", "0.1", 100),
        ("cpu", 2, 2000),
        ("cpu", "1n", 1),
        ("memory", "1Gi", 2**30),
        ("memory", "1e3", 1000),
        ("memory", "1E", 10**18),
        ("memory", "100m", 1),
        ("memory", "1.5Ki", 1536),
        ("memory", "12k", 12000),
        ("requests.cpu", "1", 1000),
    ],
)
def test_quantities_are_exact(resource: str, text: Any, value: int) -> None:
    """Quantities are exact integers, rounded up as Kubernetes does."""
    assert parse_quantity(resource, text) == value


@pytest.mark.parametrize("text", ["", "1Q", "-1", "1 Gi", "NaN", "1e999", "0x10", None, True, []])
def test_malformed_quantities(text: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="quantity"):
        parse_quantity("memory", text)


def test_requests_of_a_pod() -> None:
    """Init containers, sidecars and overhead count as the scheduler counts them."""
    init = [
        {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
        {"resources": {"requests": {"cpu": "900m"}}},
    ]
    pod = read(api_node("n"), api_pod("p", initContainers=init, overhead={"cpu": "50m"})).pods[0]
    # Peak: 900m beside the sidecar's 100m, against 500m and 100m later; the overhead on top.
    assert pod.requests == {"cpu": 1050, "memory": 2**30}


def test_limits_stand_in_for_requests() -> None:
    """A limit without a request is a request, as the API server fills it in."""
    containers = [{"resources": {"limits": {"nvidia.com/gpu": "2"}}}]
    pod = read(api_node("n"), api_pod("p", containers=containers)).pods[0]
    assert pod.requests == {"nvidia.com/gpu": 2}


def test_what_must_never_move() -> None:
    """DaemonSet, mirror, bare, local storage and safe-to-evict: false stay where they are."""
    mirror = api_pod("mirror", "n")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    unsafe = api_pod("unsafe", "n")
    key = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    unsafe["metadata"]["annotations"] = {key: "false"}
    cluster = read(
        api_node("n"),
        api_pod("daemon", "n", owner="DaemonSet"),
        mirror,
        api_pod("bare", "n", owner=""),
        api_pod("local", "n", volumes=[{"name": "v", "emptyDir": {}}]),
        unsafe,
        api_pod("free", "n"),
    )
    assert {p.name.split("/")[1] for p in cluster.pods if p.movable} == {"free"}


def test_completed_pods_do_not_count_and_terminating_ones_do() -> None:
    """A succeeded pod is gone; one with a deletion timestamp still holds its place."""
    done = api_pod("done", "n") | {"status": {"phase": "Succeeded"}}
    leaving = api_pod("leaving", "n")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster = read(api_node("n"), done, leaving)
    assert [(p.name, p.movable) for p in cluster.pods] == [("default/leaving", False)]


def test_unknown_things_are_reported() -> None:
    """Kinds and fields that are not considered are named, not dropped silently."""
    claims = api_pod("p", resourceClaims=[{"name": "gpu"}])
    limits = {"kind": "LimitRange", "metadata": {"name": "l"}}
    cluster = read(api_node("n"), claims, limits)
    assert any("resourceClaims" in n for n in cluster.notes)
    assert any("LimitRange" in n for n in cluster.notes)
    assert "resourceClaims" in cpsched.solve(cluster, 0.5, workers=1).message


def test_priorities_budgets_groups_and_volumes() -> None:
    """Objects of other kinds reach the pods that refer to them."""
    volume = {
        "kind": "PersistentVolume",
        "metadata": {"name": "pv", "labels": {"topology.kubernetes.io/zone": "z1__z2"}},
        "spec": {},
    }
    claim = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {"volumeName": "pv", "accessModes": ["ReadWriteOncePod"]},
    }
    budget = {
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}},
        "status": {"disruptionsAllowed": 1},
    }
    group = {
        "kind": "PodGroup",
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
    }
    high = {"kind": "PriorityClass", "metadata": {"name": "high"}, "value": 7}
    pod = api_pod(
        "p",
        priorityClassName="high",
        schedulingGroup={"podGroupName": "g"},
        volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    )
    cluster = read(api_node("n"), pod, volume, claim, budget, group, high)
    one = cluster.pods[0]
    assert (one.priority, one.gang, one.exclusive_claims) == (7, "default/g", ("default/data",))
    assert one.volume_affinity[0][0].match_expressions[0].values == ("z1", "z2")
    assert (cluster.budgets[0].allowed, cluster.gangs[0].min_count) == (1, 2)


def test_over_committed_nodes_are_reported_and_handled() -> None:
    """A node with more than it has is legal: a note, and a plan all the same."""
    pods = [api_pod(f"p{i}", "n") for i in range(6)]
    cluster = read(api_node("n"), api_node("m"), *pods, api_pod("new"))
    assert any("over-committed" in n for n in cluster.notes)
    result = cpsched.solve(cluster, 30.0, workers=1, strict=True)
    assert result.objective[0] == 7


def test_system_of_lists_and_round_trip() -> None:
    """A problem written as cpsched JSON reads back the same."""
    cluster = read(api_node("n"), api_pod("p"), api_pod("q", "n"))
    again = PodsProblem.parse(json.loads(cluster.to_json()))
    assert again == cluster
    assert again.sha256() == cluster.sha256()


BAD = {
    "quantity": ([api_node("n", cpu="2x")], "quantity"),
    "unknown node": ([api_node("n"), api_pod("p", "gone")], "not in the file"),
    "duplicate": ([api_node("n"), api_node("n")], "unique"),
    "priority class": ([api_node("n"), api_pod("p", priorityClassName="x")], "priority class"),
    "kinds": ([{"kind": "ConfigMap", "metadata": {"name": "c"}}], "nodes and pods"),
    "nameless": ([{"kind": "Node", "metadata": {}}], "name"),
    "operator": (
        [
            api_node("n"),
            api_pod(
                "p",
                affinity={
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "k", "operator": "Like"}]}
                            ]
                        }
                    }
                },
            ),
        ],
        "In",
    ),
    "not an object": ([api_node("n"), 3], "object"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lists(case: str) -> None:
    """A malformed list is refused with its place, the rule and a remedy."""
    items, rule = BAD[case]
    with pytest.raises(ProblemError, match=rule) as told:
        read(*items)
    assert told.value.place or told.value.remedy


def test_cyclic_owners() -> None:
    """Owners that own each other are refused, not followed for ever."""
    items = [
        {
            "kind": "ReplicaSet",
            "metadata": {"name": a, "uid": a, "ownerReferences": [{"uid": b}]},
        }
        for a, b in (("x", "y"), ("y", "x"))
    ]
    with pytest.raises(ProblemError, match="cycle"):
        read(api_node("n"), *items)


def test_shell_script(tmp_path: Path) -> None:
    """The plan becomes a script that a shell accepts and that does nothing without --yes."""
    cluster = read(
        api_node("n"),
        api_node("m", cpu="500m"),
        *[api_pod(f"p{i}", "n") for i in range(4)],
        api_pod("big", nodeSelector={"kubernetes.io/hostname": "n"}),
    )
    result = cpsched.solve(cluster, 30.0, workers=1, strict=True)
    script = tmp_path / "plan.sh"
    script.write_text(write_kubectl(cluster, result.schedule))
    assert "bind_replica default ReplicaSet rs m" in script.read_text()
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert subprocess.run(["sh", str(script)], check=False, capture_output=True).returncode == 2


def test_pending_report() -> None:
    """Per pending pod the reasons per node and the smallest change."""
    cluster = read(api_node("n"), api_pod("p", "n"), api_pod("big", nodeSelector={"x": "y"}))
    text = write_pending(cluster, None)
    assert "0/1 nodes are available: 1 node(s) didn't match Pod's node selector" in text
    assert "smallest change: drop its node selector (or label the node) on n" in text


# ---------------------------------------------------------------------- other formats

VMS = {
    "cluster_list": [
        {
            "cluster_name": name,
            "host_info": [
                {
                    "node_id": f"{name}-h{i}",
                    "status": "ACTIVE",
                    "rack_id": i,
                    "numa": [
                        {"node": k, "total_cpu": 44, "memory_huge_total_mb": 1000.0} for k in (0, 1)
                    ],
                }
                for i in range(2)
            ],
            "vm_instance": [
                {
                    "instance_id": f"{name}-v{i}",
                    "host_id": f"{name}-h{i % 2}",
                    "numa": [{"node": i // 2, "cpu": 8, "mem_mb": 100.0}],
                    "allow_migration": 1,
                }
                for i in range(4)
            ],
            "other_requirement": {
                "deployment_set": [{"granularity": "host", "data": [f"{name}-v0", f"{name}-v1"]}]
            },
        }
        for name in ("one", "two")
    ],
    "general_requirement": {"maximum_migration": 9},
}


def test_vm_clusters() -> None:
    """One cluster, another by name, or all merged; cores and memory per NUMA node."""
    text = json.dumps(VMS)
    first = vmjson.read(text, "", {})
    assert (len(first.nodes), len(first.pods), first.migration_limit) == (2, 4, 9)
    assert first.pods[0].per_cell == {"cpu": 8000, "memory": 100 * 2**20}
    assert vmjson.read(text, "", {"cluster": "two"}).nodes[0].name == "two-h0"
    assert len(vmjson.read(text, "", {"cluster": "merged"}).pods) == 8
    with pytest.raises(ProblemError, match="cluster"):
        vmjson.read(text, "", {"cluster": "7"})


def test_vm_rescheduling_is_proved() -> None:
    """Free 36 per cell leaves 4 over each; moving 8s together frees whole blocks of 16."""
    problem = vmjson.read(json.dumps(VMS), "", {"migration_limit": "2"})
    result = cpsched.solve(problem, 60.0, workers=1, strict=True)
    assert result.status == "OPTIMAL"
    # Cells hold 8 of 44 each: fragments 4 of 36. An 8 moved makes 12 + 12 of them: no gain.
    assert result.objective == pytest.approx(16 / 144)
    for bound in result.bounds:
        assert family_recompute(problem, bound) == pytest.approx(bound.value)


def family_recompute(problem: PodsProblem, bound: Any) -> float:
    from cpsched.families import family

    return float(family("pods").recompute(problem, bound))


def test_openb(tmp_path: Path) -> None:
    """Fractions of GPUs share one, whole ones do not; the demand bounds what is allocated."""
    nodes = tmp_path / "nodes.csv"
    nodes.write_text("sn,cpu_milli,memory_mib,gpu,model\nn0,8000,1024,2,T4\n")
    head = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
    rows = "a,1000,10,1,600,\nb,1000,10,1,400,\nc,1000,10,1,1000,T4\nd,1000,10,1,500,P100\n"
    problem = openb.read(head + rows, "", {"nodes": str(nodes)})
    result = cpsched.solve(problem, 30.0, workers=1, strict=True)
    assert result.objective == [2000, 3]
    for bound in result.bounds:
        assert family_recompute(problem, bound) <= bound.value
    with pytest.raises(ProblemError, match="whole number"):
        openb.read(head + "a,x,10,1,600,\n", "", {"nodes": str(nodes)})


MODEL = """1
0 5
2
0 0 10 4 0 1
0 1 10 4 1 0
2
0 0
0 0
2
0 3 1
1 3 1
0
1 1 1
"""


def test_machine_reassignment(tmp_path: Path) -> None:
    """Two processes on one machine part: the load cost falls by more than the moves cost."""
    model = tmp_path / "model_x.txt"
    model.write_text(MODEL)
    (tmp_path / "assignment_x.txt").write_text("0 0\n")
    problem = roadef.read(MODEL, str(model), {})
    result = cpsched.solve(problem, 1.0, workers=1, strict=True)
    # 6 on one machine of safety 4 costs 10; one move costs 1 (process) + 1 (machine) + 1 (service).
    assert (result.trace[0].objective, result.objective, result.bound) == (10, 3, 0)
    with pytest.raises(ProblemError, match="ends where"):
        roadef.read(MODEL[:-8], str(model), {})
    with pytest.raises(ProblemError, match="must end"):
        roadef.read(MODEL + "7", str(model), {})
