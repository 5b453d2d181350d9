"""Reader of ``kubectl get nodes,pods,... -A -o json``: all that kube-scheduler would honour.

Whatever bears on scheduling and is not honoured is written to the problem's ``notes``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.pods import warm
from cpsched.families.pods.kubectl_parts import (
    Json,
    as_list,
    as_object,
    full_name,
    labels_of,
    name_of,
    quantities,
    quantity,
    selector,
    whole_option,
)
from cpsched.families.pods.kubectl_pods import Around, PodReader
from cpsched.families.pods.problem import PodsProblem
from cpsched.families.pods.quantity import parse_quantity
from cpsched.problem import parse_json

#: Kinds that are read, and those that say nothing about where pods may run.
_KNOWN = {
    "Node", "Pod", "PodDisruptionBudget", "ResourceQuota", "PriorityClass", "RuntimeClass",
    "CSINode", "PersistentVolume", "PersistentVolumeClaim", "PodGroup", "Namespace",
    "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "Service",
    "ReplicationController", "Endpoints", "EndpointSlice", "ConfigMap", "Secret", "Event", "Lease",
    "ServiceAccount", "HorizontalPodAutoscaler", "Ingress",
}  # fmt: skip
OPTIONS = {
    "move_bare": "true: pods without a controller may be moved",
    "move_local": "true: pods with emptyDir or hostPath volumes may be moved",
    "drain": "names of nodes to drain, separated by commas",
    "goal": "consolidate (fewest nodes, then least disruption), or after the least disruption: "
    "preference (preferred affinity, ScheduleAnyway spread, soft taints), balance",
    "eviction_weight": "disruption of a running pod evicted for good (default 2)",
    "move_weight": "disruption of a running pod that ends elsewhere (default 1)",
    "max_in_flight": "at most this many running pods evicted and not yet bound again",
}


def detect(name: str, head: str) -> bool:
    """A JSON list of Kubernetes objects."""
    compact = "".join(head.split())
    listed = '"items":' in compact and ('"apiVersion":' in compact or '"kind":"List"' in compact)
    return compact.startswith("{") and listed


def read(text: str, file: str, options: Mapping[str, str]) -> PodsProblem:
    """Read a list, or several lists one after the other, into a problem.

    Raises
    ------
    ProblemError
        Naming the object and the field that is malformed.
    """
    # A live cluster is solved next, and soon: the solvers load while this reads.
    warm.start()
    data = parse_json(text)
    reader = _Reader(options)
    reader.sort_items(data)
    return reader.problem()


class _Reader:
    def __init__(self, options: Mapping[str, str]) -> None:
        self.around = Around(options)
        self.items: dict[str, list[tuple[str, Json]]] = defaultdict(list)

    # ------------------------------------------------------------------ objects

    def sort_items(self, data: Any) -> None:
        if not isinstance(data, dict) or not isinstance(data.get("items"), list):
            raise ProblemError(
                "the file must be a list of Kubernetes objects",
                remedy="Use the output of kubectl get nodes,pods -A -o json.",
            )
        listed = str(data.get("kind", "List"))
        for i, item in enumerate(data["items"]):
            place = f"items.{i}"
            if not isinstance(item, dict):
                raise ProblemError(
                    "every item must be an object", place=place, value=item, remedy="Remove it."
                )
            kind = item.get("kind") or listed.removesuffix("List")
            if not kind:
                raise ProblemError(
                    "every item must have a kind", place=f"{place}.kind", remedy="Add the kind."
                )
            if isinstance(item.get("items"), list):
                self.sort_items(item)
                continue
            self.items[str(kind)].append((place, item))
        if not self.items["Node"] and not self.items["Pod"]:
            kinds = ", ".join(sorted(k for k, v in self.items.items() if v)) or "none"
            raise ProblemError(
                f"the list must hold nodes and pods (its kinds: {kinds})",
                place="items",
                remedy="Use kubectl get nodes,pods -A -o json.",
            )

    def problem(self) -> PodsProblem:
        self._check_owners()
        for kind, items in self.items.items():
            if kind not in _KNOWN and items:
                self.around.notes[f"{kind} objects are not considered"] += len(items)
        for kind in (
            "PriorityClass", "RuntimeClass", "CSINode", "PersistentVolume",
            "PersistentVolumeClaim", "PodGroup", "Namespace",
        ):  # fmt: skip
            for place, item in self.items[kind]:
                getattr(self, f"_read_{kind.lower()}")(place, item)
        nodes = [self._read_node(place, item) for place, item in self.items["Node"]]
        read_pod = PodReader(self.around).read
        pods = [p for p in (read_pod(*one) for one in self.items["Pod"]) if p is not None]
        budgets = [self._read_poddisruptionbudget(*o) for o in self.items["PodDisruptionBudget"]]
        quotas = [
            q for q in (self._read_resourcequota(*o) for o in self.items["ResourceQuota"]) if q
        ]
        self._report_overcommitted(nodes, pods)
        data: dict[str, Any] = {
            "nodes": nodes,
            "pods": pods,
            "budgets": budgets,
            "quotas": quotas,
            "gangs": [{"name": n, "min_count": m} for n, m in self.around.groups.items()],
            "namespaces": self.around.namespaces,
            "notes": [f"{n} ({k})" if k > 1 else n for n, k in self.around.notes.items()],
        }
        self._apply_options(data, pods)
        return PodsProblem.parse(data)

    def _apply_options(self, data: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        for name in ("eviction_weight", "move_weight", "max_in_flight"):
            if name in self.around.options:
                data[name] = whole_option(self.around.options, name)
        if self.around.options.get("drain"):
            data["drain"] = [
                n.strip() for n in self.around.options["drain"].split(",") if n.strip()
            ]
        goal = self.around.options.get("goal")
        if goal is None:
            return
        tiers = [f"placed@{t}" for t in sorted({p.get("priority", 0) for p in pods}, reverse=True)]
        goals = {
            "consolidate": ["nodes_used", "disruption"],
            "preference": ["disruption", "preference"],
            "balance": ["disruption", "balance"],
        }
        if goal not in goals:
            raise ProblemError(
                f"goal must be one of {', '.join(goals)}",
                place="goal",
                value=goal,
                remedy="Correct the option.",
            )
        data["objectives"] = [*tiers, *goals[goal]]

    def _check_owners(self) -> None:
        owners: dict[str, list[str]] = {}
        places: dict[str, str] = {}
        for items in self.items.values():
            for place, item in items:
                meta = as_object(item.get("metadata"), f"{place}.metadata")
                uid = meta.get("uid")
                if isinstance(uid, str):
                    places[uid] = place
                    owners[uid] = [
                        str(o.get("uid"))
                        for o in as_list(meta.get("ownerReferences"), f"{place}.metadata")
                        if isinstance(o, dict)
                    ]
        done: set[str] = set()
        for start in owners:
            path: list[str] = []
            on_path: set[str] = set()
            stack: list[tuple[str, bool]] = [(start, True)]
            while stack:
                uid, entering = stack.pop()
                if not entering:
                    path.pop()
                    on_path.discard(uid)
                    done.add(uid)
                    continue
                if uid in on_path:
                    raise ProblemError(
                        "owner references must not form a cycle",
                        place=f"{places[uid]}.metadata.ownerReferences",
                        value=uid,
                        remedy="Correct the owner of one of the objects.",
                    )
                if uid in done or uid not in owners:
                    continue
                path.append(uid)
                on_path.add(uid)
                stack.append((uid, False))
                stack += [(o, True) for o in owners[uid]]

    def _report_overcommitted(self, nodes: list[Any], pods: list[Any]) -> None:
        used: dict[str, Counter[str]] = defaultdict(Counter)
        for pod in pods:
            if pod.get("node"):
                for resource, amount in pod["requests"].items():
                    used[pod["node"]][resource] += parse_quantity(resource, amount)
        for node in nodes:
            for resource, amount in used[node["name"]].items():
                if amount > parse_quantity(resource, node["allocatable"].get(resource, 0)):
                    self.around.notes[f"node {node['name']} is over-committed in {resource}"] += 1

    # ------------------------------------------------------------------ kinds

    def _read_priorityclass(self, place: str, item: Json) -> None:
        name, value = name_of(place, item), item.get("value", 0)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ProblemError(
                "a priority is an integer",
                place=f"{place}.value",
                value=value,
                remedy="Correct it.",
            )
        self.around.priorities[name] = value
        policy = str(item.get("preemptionPolicy", "PreemptLowerPriority"))
        self.around.policies[name] = policy
        if item.get("globalDefault"):
            self.around.default_priority, self.around.default_policy = value, policy

    def _read_runtimeclass(self, place: str, item: Json) -> None:
        overhead = as_object(item.get("overhead"), f"{place}.overhead")
        self.around.overheads[name_of(place, item)] = overhead.get("podFixed") or {}

    def _read_csinode(self, place: str, item: Json) -> None:
        limits = self.around.attach.setdefault(name_of(place, item), {})
        for driver in as_list(as_object(item.get("spec"), place).get("drivers"), place):
            count = as_object(driver.get("allocatable"), place).get("count")
            if isinstance(count, int):
                limits[f"attachable-volumes-csi-{driver.get('name')}"] = count

    def _read_persistentvolume(self, place: str, item: Json) -> None:
        self.around.volumes[name_of(place, item)] = item

    def _read_persistentvolumeclaim(self, place: str, item: Json) -> None:
        self.around.claims[full_name(place, item)] = item

    def _read_namespace(self, place: str, item: Json) -> None:
        self.around.namespaces[name_of(place, item)] = labels_of(item, place)

    def _read_podgroup(self, place: str, item: Json) -> None:
        spec = as_object(item.get("spec"), f"{place}.spec")
        count = spec.get("minMember")
        if count is None:
            policy = as_object(spec.get("schedulingPolicy"), f"{place}.spec.schedulingPolicy")
            count = as_object(policy.get("gang"), f"{place}.spec.schedulingPolicy").get(
                "minCount", 0
            )
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ProblemError(
                "the size of a gang is a count",
                place=f"{place}.spec.minMember",
                value=count,
                remedy="Correct it.",
            )
        self.around.groups[full_name(place, item)] = count

    def _read_node(self, place: str, item: Json) -> dict[str, Any]:
        name = name_of(place, item)
        status = as_object(item.get("status"), f"{place}.status")
        spec = as_object(item.get("spec"), f"{place}.spec")
        amounts = status.get("allocatable")
        where = f"{place}.status.allocatable"
        if amounts is None:
            amounts, where = status.get("capacity"), f"{place}.status.capacity"
        allocatable = quantities(as_object(amounts, where), where)
        if "pods" not in allocatable:
            self.around.notes[f"node {name} states no number of pods: taken as unlimited"] += 1
        allocatable.update(self.around.attach.get(name, {}))
        taints = [
            {k: t[k] for k in ("key", "value", "effect") if t.get(k) is not None}
            for t in as_list(spec.get("taints"), f"{place}.spec.taints")
        ]
        return {
            "name": name,
            "allocatable": allocatable,
            "labels": labels_of(item, place),
            "taints": taints,
            "unschedulable": bool(spec.get("unschedulable", False)),
        }

    def _read_poddisruptionbudget(self, place: str, item: Json) -> dict[str, Any]:
        spec = as_object(item.get("spec"), f"{place}.spec")
        status = as_object(item.get("status"), f"{place}.status")
        out = {"name": full_name(place, item), "selector": selector(spec.get("selector"), place)}
        for field, key in (
            ("min_available", "minAvailable"),
            ("max_unavailable", "maxUnavailable"),
        ):
            if spec.get(key) is not None:
                out[field] = spec[key]
        if "disruptionsAllowed" in status:
            out["allowed"] = status["disruptionsAllowed"]
        return out

    def _read_resourcequota(self, place: str, item: Json) -> dict[str, Any] | None:
        spec = as_object(item.get("spec"), f"{place}.spec")
        name = full_name(place, item)
        if spec.get("scopes") or spec.get("scopeSelector"):
            self.around.notes[f"quota {name} has scopes: not considered"] += 1
            return None
        hard = {}
        for key, value in as_object(spec.get("hard"), f"{place}.spec.hard").items():
            if key.startswith("limits.") or (key.startswith("count/") and key != "count/pods"):
                self.around.notes[f"quota {name}: {key} is not considered"] += 1
                continue
            resource = "pods" if key == "count/pods" else key.removeprefix("requests.")
            hard[resource] = quantity(resource, value, f"{place}.spec.hard.{key}")
        return {"name": name, "namespace": name.partition("/")[0], "hard": hard}
