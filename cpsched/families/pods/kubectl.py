"""Reader of ``kubectl get nodes,pods,... -A -o json``: all that kube-scheduler would honour.

Whatever bears on scheduling and is not honoured is written to the problem's ``notes``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.pods.problem import PodsProblem
from cpsched.families.pods.quantity import dump_quantity, exact, parse_quantity, round_up
from cpsched.problem import parse_json

#: Priorities of the built-in classes.
SYSTEM_PRIORITIES = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
#: Kinds that say nothing about where pods may run.
_SILENT = {
    "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "Service",
    "ReplicationController", "Endpoints", "EndpointSlice", "ConfigMap", "Secret", "Event", "Lease",
    "ServiceAccount", "HorizontalPodAutoscaler", "Ingress",
}  # fmt: skip
#: Fields of a pod's spec that are honoured, or that do not bear on where it may run.
_KNOWN_SPEC = {
    "affinity", "containers", "initContainers", "ephemeralContainers", "nodeName", "nodeSelector",
    "overhead", "preemptionPolicy", "priority", "priorityClassName", "schedulerName", "tolerations",
    "topologySpreadConstraints", "volumes", "schedulingGates", "schedulingGroup", "resources",
    "hostNetwork", "activeDeadlineSeconds", "automountServiceAccountToken", "dnsConfig",
    "dnsPolicy", "enableServiceLinks", "hostAliases", "hostIPC", "hostPID", "hostUsers",
    "hostname", "imagePullSecrets", "os", "readinessGates", "restartPolicy", "runtimeClassName",
    "securityContext", "serviceAccount", "serviceAccountName", "setHostnameAsFQDN",
    "shareProcessNamespace", "subdomain", "terminationGracePeriodSeconds",
}  # fmt: skip
_GROUP_LABELS = ("scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io")
_GROUP_ANNOTATIONS = ("scheduling.k8s.io/group-name", "scheduling.volcano.sh/group-name")
_TRUE = {"true", "1", "yes"}

OPTIONS = {
    "move_bare": "true: pods without a controller may be moved",
    "move_local": "true: pods with emptyDir or hostPath volumes may be moved",
    "drain": "names of nodes to drain, separated by commas",
    "goal": "consolidate: after placing, use fewest nodes before disrupting least",
    "eviction_weight": "disruption of a running pod evicted for good (default 2)",
    "move_weight": "disruption of a running pod that ends elsewhere (default 1)",
    "max_in_flight": "at most this many running pods evicted and not yet bound again",
}

Json = Mapping[str, Any]


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
    data = parse_json(text)
    reader = _Reader(options)
    reader.sort_items(data)
    return reader.problem()


class _Reader:
    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options
        self.items: dict[str, list[tuple[str, Json]]] = defaultdict(list)
        self.notes: Counter[str] = Counter()

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
            if kind not in _SILENT and not hasattr(self, f"_read_{kind.lower()}") and items:
                self.notes[f"{kind} objects are not considered"] += len(items)
        self.priorities = dict(SYSTEM_PRIORITIES)
        self.default_priority, self.default_policy = 0, "PreemptLowerPriority"
        self.policies: dict[str, str] = {}
        self.overheads: dict[str, Any] = {}
        self.attach: dict[str, dict[str, int]] = {}
        self.volumes: dict[str, Json] = {}
        self.claims: dict[str, Json] = {}
        self.groups: dict[str, int] = {}
        self.namespaces: dict[str, dict[str, str]] = {}
        for kind in (
            "PriorityClass", "RuntimeClass", "CSINode", "PersistentVolume",
            "PersistentVolumeClaim", "PodGroup", "Namespace",
        ):  # fmt: skip
            for place, item in self.items[kind]:
                getattr(self, f"_read_{kind.lower()}")(place, item)
        nodes = [self._read_node(place, item) for place, item in self.items["Node"]]
        pods = [p for p in (self._read_pod(*one) for one in self.items["Pod"]) if p is not None]
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
            "gangs": [{"name": n, "min_count": m} for n, m in self.groups.items()],
            "namespaces": self.namespaces,
            "notes": [f"{n} ({k})" if k > 1 else n for n, k in self.notes.items()],
        }
        self._apply_options(data, pods)
        return PodsProblem.parse(data)

    def _apply_options(self, data: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        for name in ("eviction_weight", "move_weight", "max_in_flight"):
            if name in self.options:
                data[name] = whole_option(self.options, name)
        if self.options.get("drain"):
            data["drain"] = [n.strip() for n in self.options["drain"].split(",") if n.strip()]
        goal = self.options.get("goal")
        if goal == "consolidate":
            tiers = sorted({p.get("priority", 0) for p in pods}, reverse=True)
            data["objectives"] = [*(f"placed@{t}" for t in tiers), "nodes_used", "disruption"]
        elif goal is not None:
            raise ProblemError(
                "goal must be consolidate", place="goal", value=goal, remedy="Correct the option."
            )

    def _check_owners(self) -> None:
        owners: dict[str, list[str]] = {}
        places: dict[str, str] = {}
        for items in self.items.values():
            for place, item in items:
                meta = _object(item.get("metadata"), f"{place}.metadata")
                uid = meta.get("uid")
                if isinstance(uid, str):
                    places[uid] = place
                    owners[uid] = [
                        str(o.get("uid"))
                        for o in _list(meta.get("ownerReferences"), f"{place}.metadata")
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
                    self.notes[f"node {node['name']} is over-committed in {resource}"] += 1

    # ------------------------------------------------------------------ kinds

    def _read_priorityclass(self, place: str, item: Json) -> None:
        name, value = _name(place, item), item.get("value", 0)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ProblemError(
                "a priority is an integer",
                place=f"{place}.value",
                value=value,
                remedy="Correct it.",
            )
        self.priorities[name] = value
        policy = str(item.get("preemptionPolicy", "PreemptLowerPriority"))
        self.policies[name] = policy
        if item.get("globalDefault"):
            self.default_priority, self.default_policy = value, policy

    def _read_runtimeclass(self, place: str, item: Json) -> None:
        overhead = _object(item.get("overhead"), f"{place}.overhead")
        self.overheads[_name(place, item)] = overhead.get("podFixed") or {}

    def _read_csinode(self, place: str, item: Json) -> None:
        limits = self.attach.setdefault(_name(place, item), {})
        for driver in _list(_object(item.get("spec"), place).get("drivers"), place):
            count = _object(driver.get("allocatable"), place).get("count")
            if isinstance(count, int):
                limits[f"attachable-volumes-csi-{driver.get('name')}"] = count

    def _read_persistentvolume(self, place: str, item: Json) -> None:
        self.volumes[_name(place, item)] = item

    def _read_persistentvolumeclaim(self, place: str, item: Json) -> None:
        self.claims[_full_name(place, item)] = item

    def _read_namespace(self, place: str, item: Json) -> None:
        self.namespaces[_name(place, item)] = _labels(item, place)

    def _read_podgroup(self, place: str, item: Json) -> None:
        spec = _object(item.get("spec"), f"{place}.spec")
        count = spec.get("minMember")
        if count is None:
            policy = _object(spec.get("schedulingPolicy"), f"{place}.spec.schedulingPolicy")
            count = _object(policy.get("gang"), f"{place}.spec.schedulingPolicy").get("minCount", 0)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ProblemError(
                "the size of a gang is a count",
                place=f"{place}.spec.minMember",
                value=count,
                remedy="Correct it.",
            )
        self.groups[_full_name(place, item)] = count

    def _read_node(self, place: str, item: Json) -> dict[str, Any]:
        name = _name(place, item)
        status = _object(item.get("status"), f"{place}.status")
        spec = _object(item.get("spec"), f"{place}.spec")
        amounts = status.get("allocatable")
        where = f"{place}.status.allocatable"
        if amounts is None:
            amounts, where = status.get("capacity"), f"{place}.status.capacity"
        allocatable = _quantities(_object(amounts, where), where)
        if "pods" not in allocatable:
            self.notes[f"node {name} states no number of pods: taken as unlimited"] += 1
        allocatable.update(self.attach.get(name, {}))
        taints = [
            {k: t[k] for k in ("key", "value", "effect") if t.get(k) is not None}
            for t in _list(spec.get("taints"), f"{place}.spec.taints")
        ]
        return {
            "name": name,
            "allocatable": allocatable,
            "labels": _labels(item, place),
            "taints": taints,
            "unschedulable": bool(spec.get("unschedulable", False)),
        }

    def _read_poddisruptionbudget(self, place: str, item: Json) -> dict[str, Any]:
        spec = _object(item.get("spec"), f"{place}.spec")
        status = _object(item.get("status"), f"{place}.status")
        out = {"name": _full_name(place, item), "selector": _selector(spec.get("selector"), place)}
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
        spec = _object(item.get("spec"), f"{place}.spec")
        name = _full_name(place, item)
        if spec.get("scopes") or spec.get("scopeSelector"):
            self.notes[f"quota {name} has scopes: not considered"] += 1
            return None
        hard = {}
        for key, value in _object(spec.get("hard"), f"{place}.spec.hard").items():
            if key.startswith("limits.") or (key.startswith("count/") and key != "count/pods"):
                self.notes[f"quota {name}: {key} is not considered"] += 1
                continue
            resource = "pods" if key == "count/pods" else key.removeprefix("requests.")
            hard[resource] = _quantity(resource, value, f"{place}.spec.hard.{key}")
        return {"name": name, "namespace": name.partition("/")[0], "hard": hard}

    # ------------------------------------------------------------------ pods

    def _read_pod(self, place: str, item: Json) -> dict[str, Any] | None:
        meta = _object(item.get("metadata"), f"{place}.metadata")
        spec = _object(item.get("spec"), f"{place}.spec")
        status = _object(item.get("status"), f"{place}.status")
        if status.get("phase") in ("Succeeded", "Failed"):
            return None
        terminating = meta.get("deletionTimestamp") is not None
        if terminating and not spec.get("nodeName"):
            return None
        name = _full_name(place, item)
        for field in sorted(spec.keys() - _KNOWN_SPEC):
            self.notes[f"pods with {field}: it is not considered"] += 1
        priority, policy = self._priority(place, spec)
        owner = next(
            (o for o in _list(meta.get("ownerReferences"), place) if o.get("controller")), None
        )
        reason = self._why_fixed(meta, spec, owner, terminating, priority)
        out: dict[str, Any] = {
            "name": name,
            "node": spec.get("nodeName") or None,
            "requests": self._requests(place, spec),
            "labels": _labels(item, place),
            "priority": priority,
            "preemption_policy": policy,
        }
        if owner is not None:
            space = name.partition("/")[0]
            out["owner"] = f"{owner.get('kind')}/{space}/{owner.get('name')}"
        if reason:
            out["movable"], out["reason"] = False, reason
        if spec.get("schedulingGates"):
            gates = [str(g.get("name")) for g in _list(spec["schedulingGates"], place)]
            out["hold"] = f"scheduling gates {', '.join(gates)}"
        if spec.get("nodeSelector"):
            out["node_selector"] = _object(spec["nodeSelector"], f"{place}.spec.nodeSelector")
        if spec.get("tolerations"):
            out["tolerations"] = [
                {k: t[k] for k in ("key", "operator", "value", "effect") if t.get(k) is not None}
                for t in _list(spec["tolerations"], f"{place}.spec.tolerations")
            ]
        self._affinity(place, spec, out)
        self._spread(place, spec, out)
        self._ports(place, spec, out)
        self._pod_volumes(place, spec, name, out)
        gang = self._gang(meta, spec, name)
        if gang:
            out["gang"] = gang
        return out

    def _priority(self, place: str, spec: Json) -> tuple[int, str]:
        class_name, value = spec.get("priorityClassName"), spec.get("priority")
        if value is None and class_name:
            if class_name not in self.priorities:
                raise ProblemError(
                    "the priority class of a pod without a priority must be in the list",
                    place=f"{place}.spec.priorityClassName",
                    value=class_name,
                    remedy="Add priorityclasses to the kubectl get, or give the pod a priority.",
                )
            value = self.priorities[class_name]
        elif class_name and class_name not in self.priorities:
            self.notes[f"priority class {class_name} is not in the list"] += 1
        policy = spec.get("preemptionPolicy")
        if policy is None:
            policy = self.policies.get(class_name, "") if class_name else self.default_policy
        return (
            self.default_priority if value is None else value,
            policy or "PreemptLowerPriority",
        )

    def _why_fixed(
        self, meta: Json, spec: Json, owner: Json | None, terminating: bool, priority: Any
    ) -> str:
        annotations = meta.get("annotations") or {}
        safe = str(annotations.get("cluster-autoscaler.kubernetes.io/safe-to-evict", "")).lower()
        if terminating:
            return "it is terminating"
        if "kubernetes.io/config.mirror" in annotations or (owner and owner.get("kind") == "Node"):
            return "it is a mirror pod"
        if owner is not None and owner.get("kind") == "DaemonSet":
            return "it belongs to a DaemonSet"
        if isinstance(priority, int) and priority >= 2_000_000_000:
            return "it is critical to the system"
        if safe == "false":
            return "it is annotated safe-to-evict: false"
        if owner is None and self.options.get("move_bare", "").lower() not in _TRUE:
            return "no controller would create it again"
        local = any(
            isinstance(v, dict) and ("emptyDir" in v or "hostPath" in v)
            for v in spec.get("volumes") or ()
        )
        if local and safe != "true" and self.options.get("move_local", "").lower() not in _TRUE:
            return "it has local storage"
        return ""

    def _requests(self, place: str, spec: Json) -> dict[str, Any]:
        total: dict[str, Fraction] = defaultdict(Fraction)
        peak: dict[str, Fraction] = defaultdict(Fraction)
        sidecars: dict[str, Fraction] = defaultdict(Fraction)
        for i, container in enumerate(_list(spec.get("containers"), f"{place}.spec.containers")):
            for r, a in _container(container, f"{place}.spec.containers.{i}").items():
                total[r] += a
        for i, container in enumerate(_list(spec.get("initContainers"), f"{place}.spec")):
            amounts = _container(container, f"{place}.spec.initContainers.{i}")
            if container.get("restartPolicy") == "Always":
                for r, a in amounts.items():
                    total[r] += a
                    sidecars[r] += a
                    peak[r] = max(peak[r], sidecars[r])
            else:
                for r, a in amounts.items():
                    peak[r] = max(peak[r], a + sidecars[r])
        need = {r: max(total[r], peak[r]) for r in {**total, **peak}}
        whole = _object(spec.get("resources"), f"{place}.spec.resources").get("requests") or {}
        need.update(_exact(whole, f"{place}.spec.resources.requests"))
        overhead = spec.get("overhead")
        if overhead is None:
            overhead = self.overheads.get(spec.get("runtimeClassName", ""), {})
        for r, a in _exact(overhead, f"{place}.spec.overhead").items():
            need[r] = need.get(r, Fraction()) + a
        return {r: dump_quantity(r, round_up(r, a)) for r, a in need.items()}

    def _affinity(self, place: str, spec: Json, out: dict[str, Any]) -> None:
        place = f"{place}.spec.affinity"
        affinity = _object(spec.get("affinity"), place)
        node = _object(affinity.get("nodeAffinity"), place)
        required = node.get("requiredDuringSchedulingIgnoredDuringExecution")
        if required is not None:
            terms = _list(_object(required, place).get("nodeSelectorTerms"), place)
            out["node_affinity"] = [_node_term(t, place) for t in terms]
        preferred = _list(node.get("preferredDuringSchedulingIgnoredDuringExecution"), place)
        if preferred:
            out["preferred_nodes"] = [
                {"weight": p.get("weight", 1), "term": _node_term(p.get("preference"), place)}
                for p in preferred
            ]
        for key, field in (
            ("podAffinity", "pod_affinity"),
            ("podAntiAffinity", "pod_anti_affinity"),
        ):
            group = _object(affinity.get(key), place)
            terms = _list(group.get("requiredDuringSchedulingIgnoredDuringExecution"), place)
            if terms:
                out[field] = [_pod_term(t, place) for t in terms]
            if group.get("preferredDuringSchedulingIgnoredDuringExecution"):
                self.notes[f"preferred {key} is not scored"] += 1

    def _spread(self, place: str, spec: Json, out: dict[str, Any]) -> None:
        listed = []
        for i, s in enumerate(_list(spec.get("topologySpreadConstraints"), place)):
            if s.get("whenUnsatisfiable", "DoNotSchedule") != "DoNotSchedule":
                self.notes["topology spread with ScheduleAnyway is not scored"] += 1
                continue
            one = {
                "topology_key": s.get("topologyKey"),
                "selector": _selector(s.get("labelSelector"), f"{place}.spec"),
            }
            for field, key in (
                ("max_skew", "maxSkew"), ("min_domains", "minDomains"),
                ("node_affinity_policy", "nodeAffinityPolicy"),
                ("node_taints_policy", "nodeTaintsPolicy"), ("match_label_keys", "matchLabelKeys"),
            ):  # fmt: skip
                if s.get(key) is not None:
                    one[field] = s[key]
            if not one["topology_key"]:
                raise ProblemError(
                    "a spread constraint needs a topologyKey",
                    place=f"{place}.spec.topologySpreadConstraints.{i}",
                    remedy="Add the field.",
                )
            listed.append(one)
        if listed:
            out["topology_spread"] = listed

    def _ports(self, place: str, spec: Json, out: dict[str, Any]) -> None:
        ports = []
        containers = _list(spec.get("containers"), place)
        sidecars = [
            c
            for c in _list(spec.get("initContainers"), place)
            if c.get("restartPolicy") == "Always"
        ]
        for container in (*containers, *sidecars):
            for port in _list(container.get("ports"), place):
                number = port.get("hostPort")
                if not number and spec.get("hostNetwork"):
                    number = port.get("containerPort")
                if number:
                    ports.append(
                        {
                            "port": number,
                            "protocol": port.get("protocol") or "TCP",
                            "ip": port.get("hostIP") or "0.0.0.0",
                        }
                    )
        if ports:
            out["host_ports"] = ports

    def _pod_volumes(self, place: str, spec: Json, name: str, out: dict[str, Any]) -> None:
        space = name.partition("/")[0]
        terms, exclusive, attached = [], [], Counter[str]()
        for volume in _list(spec.get("volumes"), f"{place}.spec.volumes"):
            source = volume.get("persistentVolumeClaim")
            claim_name = source.get("claimName") if isinstance(source, dict) else None
            if "ephemeral" in volume:
                claim_name = f"{name.partition('/')[2]}-{volume.get('name')}"
            if claim_name is None:
                continue
            claim = self.claims.get(f"{space}/{claim_name}")
            if claim is None:
                self.notes["persistent volume claims that are not in the list: ignored"] += 1
                continue
            claim_spec = _object(claim.get("spec"), place)
            if "ReadWriteOncePod" in (claim_spec.get("accessModes") or ()):
                exclusive.append(f"{space}/{claim_name}")
            bound = self.volumes.get(claim_spec.get("volumeName") or "")
            if bound is None:
                self.notes["claims without a volume in the list: their topology is not known"] += 1
                continue
            volume_spec = _object(bound.get("spec"), place)
            required = _object(volume_spec.get("nodeAffinity"), place).get("required")
            if required is not None:
                listed = _list(_object(required, place).get("nodeSelectorTerms"), place)
                terms.append([_node_term(t, place) for t in listed])
            terms += _volume_zones(_labels(bound, place))
            csi = volume_spec.get("csi")
            if isinstance(csi, dict) and self.attach:
                attached[f"attachable-volumes-csi-{csi.get('driver')}"] += 1
        if terms:
            out["volume_affinity"] = terms
        if exclusive:
            out["exclusive_claims"] = exclusive
        for resource, count in attached.items():
            if any(resource in limits for limits in self.attach.values()):
                out["requests"][resource] = count

    def _gang(self, meta: Json, spec: Json, name: str) -> str:
        labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
        group = _object(spec.get("schedulingGroup"), "spec.schedulingGroup").get("podGroupName")
        for found in (
            group,
            *(labels.get(k) for k in _GROUP_LABELS),
            *(notes.get(k) for k in _GROUP_ANNOTATIONS),
        ):
            if found:
                full = f"{name.partition('/')[0]}/{found}"
                if full in self.groups:
                    return full
                self.notes[
                    f"pod group {full} is not in the list: its pods are taken one by one"
                ] += 1
        return ""


# ---------------------------------------------------------------------- parts of objects


def whole_option(options: Mapping[str, str], name: str) -> int:
    """A reader option that is a whole number.

    Raises
    ------
    ProblemError
        When it is not.
    """
    text = options[name].strip()
    if not text.isdecimal() or len(text) > 12:
        raise ProblemError(
            "the option must be a whole number", place=name, value=text, remedy="Correct it."
        )
    return int(text)


def _object(value: Any, place: str) -> Json:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ProblemError("an object is expected", place=place, value=value, remedy="Correct it.")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise ProblemError(
            "a list of objects is expected", place=place, value=value, remedy="Correct it."
        )
    return value


def _name(place: str, item: Json) -> str:
    name = _object(item.get("metadata"), f"{place}.metadata").get("name")
    if not isinstance(name, str) or not name:
        raise ProblemError(
            "every object must have a name", place=f"{place}.metadata.name", value=name,
            remedy="Add the name.",
        )  # fmt: skip
    return name


def _full_name(place: str, item: Json) -> str:
    space = _object(item.get("metadata"), place).get("namespace") or "default"
    return f"{space}/{_name(place, item)}"


def _labels(item: Json, place: str) -> dict[str, str]:
    labels = _object(_object(item.get("metadata"), place).get("labels"), f"{place}.metadata.labels")
    return {str(k): str(v) for k, v in labels.items()}


def _quantity(resource: str, value: Any, place: str) -> str | int:
    try:
        return dump_quantity(resource, parse_quantity(resource, value))
    except ValueError as error:
        raise ProblemError(
            str(error), place=place, value=value, remedy="Correct the quantity."
        ) from None


def _quantities(amounts: Json, place: str) -> dict[str, Any]:
    return {r: _quantity(r, a, f"{place}.{r}") for r, a in amounts.items()}


def _exact(amounts: Any, place: str) -> dict[str, Fraction]:
    out = {}
    for resource, amount in _object(amounts, place).items():
        try:
            out[resource] = exact(amount)
        except ValueError as error:
            raise ProblemError(
                str(error),
                place=f"{place}.{resource}",
                value=amount,
                remedy="Correct the quantity.",
            ) from None
    return out


def _container(container: Json, place: str) -> dict[str, Fraction]:
    """Requests of a container; a limit without a request is one, as the API server fills it in."""
    resources = _object(container.get("resources"), f"{place}.resources")
    limits = _exact(resources.get("limits"), f"{place}.resources.limits")
    return limits | _exact(resources.get("requests"), f"{place}.resources.requests")


def _expressions(items: Any, place: str) -> list[dict[str, Any]]:
    return [
        {
            "key": e.get("key", ""),
            "operator": e.get("operator", ""),
            "values": [str(v) for v in e.get("values") or ()],
        }
        for e in _list(items, place)
    ]


def _selector(value: Any, place: str) -> dict[str, Any] | None:
    if value is None:
        return None
    value = _object(value, place)
    return {
        "match_labels": _object(value.get("matchLabels"), f"{place}.matchLabels"),
        "match_expressions": _expressions(value.get("matchExpressions"), place),
    }


def _node_term(value: Any, place: str) -> dict[str, Any]:
    term = _object(value, place)
    return {
        "match_expressions": _expressions(term.get("matchExpressions"), place),
        "match_fields": _expressions(term.get("matchFields"), place),
    }


def _pod_term(term: Json, place: str) -> dict[str, Any]:
    out = {
        "topology_key": term.get("topologyKey") or "",
        "selector": _selector(term.get("labelSelector"), place),
        "namespaces": term.get("namespaces") or [],
        "namespace_selector": _selector(term.get("namespaceSelector"), place),
        "match_label_keys": term.get("matchLabelKeys") or [],
        "mismatch_label_keys": term.get("mismatchLabelKeys") or [],
    }
    return {k: v for k, v in out.items() if v not in ([], None)}


def _volume_zones(labels: Mapping[str, str]) -> list[list[dict[str, Any]]]:
    """Zone labels of a volume bind like a node affinity; several zones are joined by ``__``."""
    out = []
    for key in (
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
    ):
        if key in labels:
            expression = {"key": key, "operator": "In", "values": labels[key].split("__")}
            out.append([{"match_expressions": [expression]}])
    return out
