"""What selectors, node terms, taints and ports mean, as kube-scheduler defines it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cpsched.families.pods.problem import (
    Expression,
    HostPort,
    Node,
    NodeTerm,
    Pod,
    PodTerm,
    Selector,
    Spread,
    Taint,
    Toleration,
)


def expression_holds(expression: Expression, labels: Mapping[str, str]) -> bool:
    """One requirement on labels; Gt and Lt compare integers and fail on anything else."""
    value = labels.get(expression.key)
    match expression.operator:
        case "In":
            return value is not None and value in expression.values
        case "NotIn":
            return value is None or value not in expression.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    if value is None or len(expression.values) != 1:
        return False
    try:
        left, right = int(value), int(expression.values[0])
    except ValueError:
        return False
    return left > right if expression.operator == "Gt" else left < right


def selects(selector: Selector | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects: none selects nothing, an empty one everything."""
    if selector is None:
        return False
    return all(labels.get(k) == v for k, v in selector.match_labels.items()) and all(
        expression_holds(e, labels) for e in selector.match_expressions
    )


def term_matches(term: NodeTerm, node: Node) -> bool:
    """Whether a node term matches; a term without requirements matches no node."""
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node.name}
    return all(expression_holds(e, node.labels) for e in term.match_expressions) and all(
        expression_holds(e, fields) for e in term.match_fields
    )


def node_selected(pod: Pod, node: Node) -> bool:
    """Whether the pod's nodeSelector holds."""
    return all(node.labels.get(k) == v for k, v in pod.node_selector.items())


def node_affine(pod: Pod, node: Node) -> bool:
    """Whether the pod's required node affinity holds."""
    return pod.node_affinity is None or any(term_matches(t, node) for t in pod.node_affinity)


def volumes_reach(pod: Pod, node: Node) -> bool:
    """Whether every bound volume of the pod is reachable from the node."""
    return all(any(term_matches(t, node) for t in terms) for terms in pod.volume_affinity)


def tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    """Whether one of the tolerations covers the taint."""
    for t in tolerations:
        if t.effect and t.effect != taint.effect:
            continue
        if t.key and t.key != taint.key:
            continue
        if not t.key and t.operator != "Exists":
            continue
        if t.operator == "Exists" or t.value == taint.value:
            return True
    return False


_CORDON = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")


def untolerated(pod: Pod, node: Node) -> Taint | None:
    """The first hard taint of the node that the pod does not tolerate."""
    for taint in node.taints:
        if taint.effect != "PreferNoSchedule" and not tolerates(pod.tolerations, taint):
            return taint
    return None


#: Weight of a ScheduleAnyway spread constraint, and of a PreferNoSchedule taint: the most that a
#: preferred term can have, so that no kind of preference outweighs another by its unit.
SOFT_WEIGHT = 100


def node_preference(pod: Pod, node: Node) -> int:
    """Weights of the preferred node terms that hold, less those of taints that it would avoid."""
    avoided = sum(
        t.effect == "PreferNoSchedule" and not tolerates(pod.tolerations, t) for t in node.taints
    )
    wanted = sum(t.weight for t in pod.preferred_nodes if term_matches(t.term, node))
    return wanted - SOFT_WEIGHT * avoided


def cordoned(pod: Pod, node: Node) -> bool:
    """Whether the node is unschedulable for the pod."""
    return node.unschedulable and not tolerates(pod.tolerations, _CORDON)


def ports_clash(left: HostPort, right: HostPort) -> bool:
    """Whether two host ports cannot be on one node."""
    return (
        left.port == right.port
        and left.protocol == right.protocol
        and (left.ip == right.ip or "0.0.0.0" in (left.ip, right.ip))
    )


def term_namespaces_match(
    term: PodTerm, own: str, namespace: str, namespaces: Mapping[str, Mapping[str, str]]
) -> bool:
    """Whether a term of a pod in namespace ``own`` looks at pods of ``namespace``."""
    if not term.namespaces and term.namespace_selector is None:
        return namespace == own
    if namespace in term.namespaces:
        return True
    if term.namespace_selector is None:
        return False
    labels = {"kubernetes.io/metadata.name": namespace, **namespaces.get(namespace, {})}
    return selects(term.namespace_selector, labels)


def with_label_keys(
    selector: Selector | None,
    keys: Iterable[str],
    labels: Mapping[str, str],
    mismatched: Iterable[str] = (),
) -> Selector | None:
    """The selector with matchLabelKeys and mismatchLabelKeys resolved by the pod's own labels."""
    if selector is None:
        return None
    extra = [
        *(Expression(key=k, operator="In", values=(labels[k],)) for k in keys if k in labels),
        *(
            Expression(key=k, operator="NotIn", values=(labels[k],))
            for k in mismatched
            if k in labels
        ),
    ]
    if not extra:
        return selector
    return Selector(
        match_labels=selector.match_labels,
        match_expressions=(*selector.match_expressions, *extra),
    )


def spread_selector(pod: Pod, spread: Spread) -> Selector | None:
    """The selector of a spread constraint of that pod."""
    return with_label_keys(spread.selector, spread.match_label_keys, pod.labels)


def term_selector(pod: Pod, term: PodTerm) -> Selector | None:
    """The selector of an affinity term of that pod."""
    return with_label_keys(
        term.selector, term.match_label_keys, pod.labels, term.mismatch_label_keys
    )


def spread_eligible(pod: Pod, spread: Spread, node: Node) -> bool:
    """Whether the node counts for a spread constraint of the pod."""
    kind = pod.preferred_spread if spread in pod.preferred_spread else pod.topology_spread
    if any(s.topology_key not in node.labels for s in kind):
        return False
    if spread.node_affinity_policy == "Honor" and not (
        node_selected(pod, node) and node_affine(pod, node)
    ):
        return False
    return spread.node_taints_policy == "Ignore" or not (
        untolerated(pod, node) is not None or cordoned(pod, node)
    )
