"""Pods of ``kubectl get pods -o json``: what their spec asks of the scheduler."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.pods.kubectl_parts import (
    Json,
    as_list,
    as_object,
    as_text,
    container_requests,
    exact_amounts,
    full_name,
    labels_of,
    node_term,
    pod_term,
    selector,
    volume_zones,
)
from cpsched.families.pods.quantity import dump_quantity, round_up

#: Priorities of the built-in classes.
SYSTEM_PRIORITIES = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
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
_AFFINITY_FIELDS = (("podAffinity", "pod_affinity"), ("podAntiAffinity", "pod_anti_affinity"))
_SPREAD_FIELDS = (
    ("max_skew", "maxSkew"),
    ("min_domains", "minDomains"),
    ("node_affinity_policy", "nodeAffinityPolicy"),
    ("node_taints_policy", "nodeTaintsPolicy"),
    ("match_label_keys", "matchLabelKeys"),
)


@dataclass
class Around:
    """What the objects around the pods say, and the notes on what is not honoured."""

    options: Mapping[str, str]
    notes: Counter[str] = field(default_factory=Counter)
    priorities: dict[str, int] = field(default_factory=lambda: dict(SYSTEM_PRIORITIES))
    policies: dict[str, str] = field(default_factory=dict)
    default_priority: int = 0
    default_policy: str = "PreemptLowerPriority"
    overheads: dict[str, Any] = field(default_factory=dict)
    attach: dict[str, dict[str, int]] = field(default_factory=dict)
    volumes: dict[str, Json] = field(default_factory=dict)
    claims: dict[str, Json] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)


class PodReader:
    """Reads pods, given what is around them."""

    def __init__(self, around: Around) -> None:
        self.around = around

    def read(self, place: str, item: Json) -> dict[str, Any] | None:
        meta = as_object(item.get("metadata"), f"{place}.metadata")
        spec = as_object(item.get("spec"), f"{place}.spec")
        status = as_object(item.get("status"), f"{place}.status")
        if status.get("phase") in ("Succeeded", "Failed"):
            return None
        terminating = meta.get("deletionTimestamp") is not None
        if terminating and not spec.get("nodeName"):
            return None
        name = full_name(place, item)
        for unknown in sorted(spec.keys() - _KNOWN_SPEC):
            self.around.notes[f"pods with {unknown}: it is not considered"] += 1
        priority, policy = self._priority(place, spec)
        owner = next(
            (o for o in as_list(meta.get("ownerReferences"), place) if o.get("controller")), None
        )
        reason = self._why_fixed(meta, spec, owner, terminating, priority)
        out: dict[str, Any] = {
            "name": name,
            "node": as_text(spec.get("nodeName"), f"{place}.spec.nodeName") or None,
            "requests": self._requests(place, spec),
            "labels": labels_of(item, place),
            "priority": priority,
            "preemption_policy": policy,
        }
        if owner is not None:
            space = name.partition("/")[0]
            out["owner"] = f"{owner.get('kind')}/{space}/{owner.get('name')}"
        if reason:
            out["movable"], out["reason"] = False, reason
        if spec.get("schedulingGates"):
            gates = [str(g.get("name")) for g in as_list(spec["schedulingGates"], place)]
            out["hold"] = f"scheduling gates {', '.join(gates)}"
        if spec.get("nodeSelector"):
            out["node_selector"] = as_object(spec["nodeSelector"], f"{place}.spec.nodeSelector")
        if spec.get("tolerations"):
            out["tolerations"] = [
                {k: t[k] for k in ("key", "operator", "value", "effect") if t.get(k) is not None}
                for t in as_list(spec["tolerations"], f"{place}.spec.tolerations")
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
            if class_name not in self.around.priorities:
                raise ProblemError(
                    "the priority class of a pod without a priority must be in the list",
                    place=f"{place}.spec.priorityClassName",
                    value=class_name,
                    remedy="Add priorityclasses to the kubectl get, or give the pod a priority.",
                )
            value = self.around.priorities[class_name]
        elif class_name and class_name not in self.around.priorities:
            self.around.notes[f"priority class {class_name} is not in the list"] += 1
        policy = spec.get("preemptionPolicy")
        if policy is None:
            policy = (
                self.around.policies.get(class_name, "")
                if class_name
                else self.around.default_policy
            )
        return (
            self.around.default_priority if value is None else value,
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
        if owner is None and self.around.options.get("move_bare", "").lower() not in _TRUE:
            return "no controller would create it again"
        local = any(
            isinstance(v, dict) and ("emptyDir" in v or "hostPath" in v)
            for v in spec.get("volumes") or ()
        )
        if (
            local
            and safe != "true"
            and self.around.options.get("move_local", "").lower() not in _TRUE
        ):
            return "it has local storage"
        return ""

    def _requests(self, place: str, spec: Json) -> dict[str, Any]:
        total: dict[str, Fraction] = defaultdict(Fraction)
        peak: dict[str, Fraction] = defaultdict(Fraction)
        sidecars: dict[str, Fraction] = defaultdict(Fraction)
        for i, container in enumerate(as_list(spec.get("containers"), f"{place}.spec.containers")):
            for r, a in container_requests(container, f"{place}.spec.containers.{i}").items():
                total[r] += a
        for i, container in enumerate(as_list(spec.get("initContainers"), f"{place}.spec")):
            amounts = container_requests(container, f"{place}.spec.initContainers.{i}")
            if container.get("restartPolicy") == "Always":
                for r, a in amounts.items():
                    total[r] += a
                    sidecars[r] += a
                    peak[r] = max(peak[r], sidecars[r])
            else:
                for r, a in amounts.items():
                    peak[r] = max(peak[r], a + sidecars[r])
        need = {r: max(total[r], peak[r]) for r in {**total, **peak}}
        whole = as_object(spec.get("resources"), f"{place}.spec.resources").get("requests") or {}
        need.update(exact_amounts(whole, f"{place}.spec.resources.requests"))
        overhead = spec.get("overhead")
        if overhead is None:
            overhead = self.around.overheads.get(spec.get("runtimeClassName", ""), {})
        for r, a in exact_amounts(overhead, f"{place}.spec.overhead").items():
            need[r] = need.get(r, Fraction()) + a
        return {r: dump_quantity(r, round_up(r, a)) for r, a in need.items()}

    def _affinity(self, place: str, spec: Json, out: dict[str, Any]) -> None:
        place = f"{place}.spec.affinity"
        affinity = as_object(spec.get("affinity"), place)
        node = as_object(affinity.get("nodeAffinity"), place)
        required = node.get("requiredDuringSchedulingIgnoredDuringExecution")
        if required is not None:
            terms = as_list(as_object(required, place).get("nodeSelectorTerms"), place)
            out["node_affinity"] = [node_term(t, place) for t in terms]
        preferred = as_list(node.get("preferredDuringSchedulingIgnoredDuringExecution"), place)
        if preferred:
            out["preferred_nodes"] = [
                {"weight": p.get("weight", 1), "term": node_term(p.get("preference"), place)}
                for p in preferred
            ]
        wishes = []
        for key, name in (
            ("podAffinity", "pod_affinity"),
            ("podAntiAffinity", "pod_anti_affinity"),
        ):
            group = as_object(affinity.get(key), place)
            terms = as_list(group.get("requiredDuringSchedulingIgnoredDuringExecution"), place)
            if terms:
                out[name] = [pod_term(t, place) for t in terms]
            for wish in as_list(
                group.get("preferredDuringSchedulingIgnoredDuringExecution"), place
            ):
                term = pod_term(as_object(wish.get("podAffinityTerm"), place), place)
                weight = wish.get("weight", 1)
                wishes.append({"weight": weight, "term": term, "apart": name != "pod_affinity"})
        if wishes:
            out["preferred_pods"] = wishes

    def _spread(self, place: str, spec: Json, out: dict[str, Any]) -> None:
        listed: dict[str, list[dict[str, Any]]] = {"topology_spread": [], "preferred_spread": []}
        for i, s in enumerate(as_list(spec.get("topologySpreadConstraints"), place)):
            one = {
                "topology_key": s.get("topologyKey"),
                "selector": selector(s.get("labelSelector"), f"{place}.spec"),
            }
            one |= {name: s[key] for name, key in _SPREAD_FIELDS if s.get(key) is not None}
            if not one["topology_key"]:
                raise ProblemError(
                    "a spread constraint needs a topologyKey",
                    place=f"{place}.spec.topologySpreadConstraints.{i}",
                    remedy="Add the field.",
                )
            hard = s.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule"
            listed["topology_spread" if hard else "preferred_spread"].append(one)
        out |= {name: spreads for name, spreads in listed.items() if spreads}

    def _ports(self, place: str, spec: Json, out: dict[str, Any]) -> None:
        ports = []
        containers = as_list(spec.get("containers"), place)
        sidecars = [
            c
            for c in as_list(spec.get("initContainers"), place)
            if c.get("restartPolicy") == "Always"
        ]
        for container in (*containers, *sidecars):
            for port in as_list(container.get("ports"), place):
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
        for volume in as_list(spec.get("volumes"), f"{place}.spec.volumes"):
            source = volume.get("persistentVolumeClaim")
            claim_name = source.get("claimName") if isinstance(source, dict) else None
            if "ephemeral" in volume:
                claim_name = f"{name.partition('/')[2]}-{volume.get('name')}"
            if claim_name is None:
                continue
            claim = self.around.claims.get(f"{space}/{claim_name}")
            if claim is None:
                self.around.notes["persistent volume claims that are not in the list: ignored"] += 1
                continue
            claim_spec = as_object(claim.get("spec"), place)
            if "ReadWriteOncePod" in (claim_spec.get("accessModes") or ()):
                exclusive.append(f"{space}/{claim_name}")
            bound = self.around.volumes.get(claim_spec.get("volumeName") or "")
            if bound is None:
                self.around.notes[
                    "claims without a volume in the list: their topology is not known"
                ] += 1
                continue
            volume_spec = as_object(bound.get("spec"), place)
            required = as_object(volume_spec.get("nodeAffinity"), place).get("required")
            if required is not None:
                listed = as_list(as_object(required, place).get("nodeSelectorTerms"), place)
                terms.append([node_term(t, place) for t in listed])
            terms += volume_zones(labels_of(bound, place))
            csi = volume_spec.get("csi")
            if isinstance(csi, dict) and self.around.attach:
                attached[f"attachable-volumes-csi-{csi.get('driver')}"] += 1
        if terms:
            out["volume_affinity"] = terms
        if exclusive:
            out["exclusive_claims"] = exclusive
        for resource, count in attached.items():
            if any(resource in limits for limits in self.around.attach.values()):
                out["requests"][resource] = count

    def _gang(self, meta: Json, spec: Json, name: str) -> str:
        labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
        group = as_object(spec.get("schedulingGroup"), "spec.schedulingGroup").get("podGroupName")
        for found in (
            group,
            *(labels.get(k) for k in _GROUP_LABELS),
            *(notes.get(k) for k in _GROUP_ANNOTATIONS),
        ):
            if found:
                full = f"{name.partition('/')[0]}/{found}"
                if full in self.around.groups:
                    return full
                self.around.notes[
                    f"pod group {full} is not in the list: its pods are taken one by one"
                ] += 1
        return ""
