"""The schema of the `pods` family: clusters, pods, their constraints, and plans.

Amounts are Kubernetes quantities (``"500m"``, ``"2Gi"``, ``2``), held as exact integers: CPU in
millicores, everything else in whole units. Names and meanings follow kube-scheduler; pod ids are
``namespace/name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, WithJsonSchema, field_validator, model_validator

from cpsched.errors import ProblemError
from cpsched.families.pods.quantity import dump_quantity, parse_quantity
from cpsched.families.pods.reassignment_problem import Reassignment
from cpsched.problem import Count, Name, ProblemBase, Record, Whole

#: The constraint names: schema, checker rules, model functions, MiniZinc lines, explain groups.
CONSTRAINTS = (
    "capacity",
    "cells",
    "node_selector",
    "node_affinity",
    "taints",
    "unschedulable",
    "host_ports",
    "volume_affinity",
    "exclusive_claims",
    "pod_affinity",
    "pod_anti_affinity",
    "topology_spread",
    "budget",
    "gang",
    "quota",
    "movable",
    "hold",
    "preemption_policy",
    "migration_limit",
    "max_in_flight",
    "drain",
    "required",
)


def _amounts(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise ValueError("amounts are an object of resource names and quantities")
    out: dict[str, int] = {}
    for resource, amount in value.items():
        try:
            out[str(resource)] = parse_quantity(str(resource), amount)
        except ValueError as error:
            raise ValueError(f"{resource} {str(amount)[:40]!r}: {error}") from None
    return out


def _dumped(value: dict[str, int]) -> dict[str, str | int]:
    return {resource: dump_quantity(resource, amount) for resource, amount in value.items()}


#: Resource name to amount in base units; files hold quantities such as ``500m`` and ``2Gi``.
Amounts = Annotated[
    dict[str, int],
    PlainSerializer(_dumped),
    WithJsonSchema(
        {"type": "object", "additionalProperties": {"type": ["integer", "number", "string"]}}
    ),
]
Labels = dict[str, str]


class Expression(Record):
    """One requirement on a label (or, in ``match_fields``, on ``metadata.name``)."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    values: tuple[str, ...] = ()


class Selector(Record):
    """A label selector: every label and every expression must hold; empty selects everything."""

    match_labels: Labels = Field(default_factory=dict)
    match_expressions: tuple[Expression, ...] = ()


class NodeTerm(Record):
    """All expressions must hold for a node; a term without any matches no node."""

    match_expressions: tuple[Expression, ...] = ()
    match_fields: tuple[Expression, ...] = ()


class PreferredTerm(Record):
    """A preferred node term and its weight."""

    weight: Annotated[int, Field(ge=1, le=100)]
    term: NodeTerm


class Taint(Record):
    """A taint of a node."""

    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Toleration(Record):
    """A toleration of a pod; an empty key with Exists tolerates every taint."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class HostPort(Record):
    """A port of the node that the pod occupies; ip 0.0.0.0 clashes with every ip."""

    port: Annotated[int, Field(ge=1, le=65535)]
    protocol: str = "TCP"
    ip: str = "0.0.0.0"


class PodTerm(Record):
    """A required pod (anti-)affinity term.

    Pods match when ``selector`` matches them (None matches none) and their namespace is listed in
    ``namespaces`` or selected by ``namespace_selector``; with neither, the pod's own namespace.
    """

    topology_key: Name
    selector: Selector | None = None
    namespaces: tuple[str, ...] = ()
    namespace_selector: Selector | None = None
    match_label_keys: tuple[str, ...] = ()
    mismatch_label_keys: tuple[str, ...] = ()


class Spread(Record):
    """A topology spread constraint."""

    topology_key: Name
    max_skew: Annotated[int, Field(ge=1, le=10**6)] = 1
    selector: Selector | None = None
    min_domains: Annotated[int, Field(ge=1, le=10**6)] | None = None
    node_affinity_policy: Literal["Honor", "Ignore"] = "Honor"
    node_taints_policy: Literal["Honor", "Ignore"] = "Ignore"
    match_label_keys: tuple[str, ...] = ()


class PreferredPods(Record):
    """A preferred pod affinity term (or anti-affinity, when ``apart``) and its weight."""

    weight: Annotated[int, Field(ge=1, le=100)]
    term: PodTerm
    apart: bool = False


class Node(Record):
    """A node, host or machine.

    Attributes
    ----------
    allocatable
        What pods may use; a resource that is not listed is absent, ``pods`` unlimited.
    cells
        NUMA nodes or GPUs: amounts of each. A pod that asks for cells takes distinct ones.
    cost
        Price of using the node when it is a candidate (``optional``) of a scale-up.
    optional
        The node does not exist yet: placing a pod on it adds it, at its cost.
    """

    name: Name
    allocatable: Amounts = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    cells: tuple[Amounts, ...] = ()
    cost: Count = 0
    optional: bool = False

    _read = field_validator("allocatable", mode="before")(_amounts)

    @field_validator("cells", mode="before")
    @classmethod
    def _read_cells(cls, value: Any) -> Any:
        return tuple(_amounts(cell) for cell in value) if isinstance(value, list | tuple) else value


class Pod(Record):
    """A pod, virtual machine or process.

    Attributes
    ----------
    name
        ``namespace/name``; without a slash the namespace is ``default``.
    node, cell_indices
        Where it runs now; None when it is pending.
    owner
        The workload that re-creates it under a new name when it is evicted.
    movable
        False: it stays where it runs (``reason`` says why). A pending pod may be placed anyway.
    hold
        Why it must not be placed at all (a scheduling gate), empty otherwise.
    node_affinity
        Alternative terms of the required node affinity; None when there is none.
    volume_affinity
        For each bound volume its alternative node terms.
    exclusive_claims
        Claims that only one pod at a time may use (ReadWriteOncePod).
    cells, per_cell
        How many distinct cells of its node it takes, and the amounts in each.
    gang
        Name of its gang (``namespace/name``).
    preferred_nodes, preferred_pods, preferred_spread
        What the objective `preference` scores: preferred affinity, and spread constraints with
        whenUnsatisfiable ScheduleAnyway.
    """

    name: Name
    node: str | None = None
    cell_indices: tuple[int, ...] = ()
    requests: Amounts = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    preemption_policy: Literal["PreemptLowerPriority", "Never"] = "PreemptLowerPriority"
    weight: Annotated[int, Field(ge=0, le=10**6)] = 1
    owner: str = ""
    movable: bool = True
    reason: str = ""
    hold: str = ""
    node_selector: Labels = Field(default_factory=dict)
    node_affinity: tuple[NodeTerm, ...] | None = None
    preferred_nodes: tuple[PreferredTerm, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    volume_affinity: tuple[tuple[NodeTerm, ...], ...] = ()
    exclusive_claims: tuple[str, ...] = ()
    pod_affinity: tuple[PodTerm, ...] = ()
    pod_anti_affinity: tuple[PodTerm, ...] = ()
    topology_spread: tuple[Spread, ...] = ()
    preferred_pods: tuple[PreferredPods, ...] = ()
    preferred_spread: tuple[Spread, ...] = ()
    gang: str = ""
    cells: Annotated[int, Field(ge=0, le=1024)] = 0
    per_cell: Amounts = Field(default_factory=dict)

    _read = field_validator("requests", "per_cell", mode="before")(_amounts)

    @property
    def namespace(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0] if "/" in self.name else "default"


class Budget(Record):
    """A PodDisruptionBudget: at most ``allowed`` of its pods may be down beyond those that are.

    ``allowed`` (the API's disruptionsAllowed) counts down with every eviction and up with every
    bind of a matching pod. When None it follows from ``min_available`` or ``max_unavailable``
    (a count or a percentage of the matching pods).
    """

    name: Name
    selector: Selector | None = None
    min_available: Count | str | None = None
    max_unavailable: Count | str | None = None
    allowed: Count | None = None

    @model_validator(mode="after")
    def _percentages(self) -> Budget:
        for field in ("min_available", "max_unavailable"):
            value = getattr(self, field)
            if isinstance(value, str) and not (
                value.endswith("%") and value[:-1].isdecimal() and len(value) < 8
            ):
                raise ProblemError(
                    "a budget is a count or a percentage",
                    place=field,
                    value=value,
                    remedy='Write 2 or "50%".',
                )
        return self

    @property
    def namespace(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0] if "/" in self.name else "default"


class Gang(Record):
    """Pods that run together: once the plan changes it, none or at least ``min_count`` run."""

    name: Name
    min_count: Annotated[int, Field(ge=0, le=10**6)] = 1


class Quota(Record):
    """Requests that the running pods of a namespace may have in total whenever one is bound."""

    name: Name
    namespace: Name
    hard: Amounts

    _read = field_validator("hard", mode="before")(_amounts)


class Shape(Record):
    """A pod that may come later, for the objective `fragmentation`."""

    requests: Amounts
    count: Count = 1

    _read = field_validator("requests", mode="before")(_amounts)


class PodsProblem(ProblemBase):
    """A cluster to plan: see the attributes of its parts.

    Attributes
    ----------
    namespaces
        Labels of namespaces, for namespace selectors.
    eviction_weight, move_weight
        Disruption of a running pod evicted for good, and of one that ends elsewhere.
    max_in_flight
        At most this many running pods are evicted and not yet bound again at any time.
    live_migration
        Pods move while running (VMs): the target must have room while the source still holds it.
    migration_limit
        At most this many running pods may end elsewhere.
    drain
        Nodes that every movable pod leaves and none enters.
    fragment_cores
        Cores X of the objective `fragment_rate`: free cores of each cell modulo X are fragments.
    future
        Shapes of the objective `fragmentation`.
    objectives
        Objectives when the caller names none; empty for placed@..., disruption.
    notes
        What the reader met and does not honour.
    relaxed
        Constraints (by name) that are switched off, as `explain` does.
    required
        Pods that must be placed at the end.
    reassignment
        The rest of a machine-reassignment problem.
    """

    kind: Literal["pods"] = "pods"
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    budgets: tuple[Budget, ...] = ()
    gangs: tuple[Gang, ...] = ()
    quotas: tuple[Quota, ...] = ()
    namespaces: dict[str, Labels] = Field(default_factory=dict)
    eviction_weight: Annotated[int, Field(ge=0, le=10**6)] = 2
    move_weight: Annotated[int, Field(ge=0, le=10**6)] = 1
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    live_migration: bool = False
    migration_limit: Count | None = None
    drain: tuple[str, ...] = ()
    fragment_cores: Annotated[int, Field(ge=1, le=10**6)] = 16
    future: tuple[Shape, ...] = ()
    objectives: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    relaxed: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    reassignment: Reassignment | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PodsProblem:
        _unique("nodes", [n.name for n in self.nodes])
        _unique("pods", [p.name for p in self.pods])
        _unique("gangs", [g.name for g in self.gangs])
        _unique("budgets", [b.name for b in self.budgets])
        cells = {n.name: len(n.cells) for n in self.nodes}
        gangs = {g.name for g in self.gangs}
        for i, pod in enumerate(self.pods):
            if pod.node is not None:
                if pod.node not in cells:
                    raise ProblemError(
                        f"pod {pod.name} runs on a node that is not in the file",
                        place=f"pods.{i}.node",
                        value=pod.node,
                        remedy="Add the node, or set the pod's node to null.",
                    )
                chosen = pod.cell_indices
                if len(chosen) != pod.cells or len(set(chosen)) != len(chosen):
                    raise ProblemError(
                        f"pod {pod.name} takes {pod.cells} distinct cells of its node",
                        place=f"pods.{i}.cell_indices",
                        value=list(chosen),
                        remedy="Name as many distinct cells as the pod asks for.",
                    )
                if any(not 0 <= c < cells[pod.node] for c in chosen):
                    raise ProblemError(
                        f"cells of node {pod.node} are numbered from 0 to {cells[pod.node] - 1}",
                        place=f"pods.{i}.cell_indices",
                        value=list(chosen),
                        remedy="Correct the index.",
                    )
            if pod.gang and pod.gang not in gangs:
                raise ProblemError(
                    f"pod {pod.name} names a gang that is not in the file",
                    place=f"pods.{i}.gang",
                    value=pod.gang,
                    remedy="Add it to gangs.",
                )
        pods = {p.name for p in self.pods} if self.required else set()
        for i, name in enumerate(self.required):
            if name not in pods:
                raise ProblemError(
                    "a required pod must be in the file",
                    place=f"required.{i}",
                    value=name,
                    remedy="Correct the name.",
                )
        for i, name in enumerate(self.drain):
            if name not in cells:
                raise ProblemError(
                    "a node to drain must be in the file",
                    place=f"drain.{i}",
                    value=name,
                    remedy="Correct the name.",
                )
        if self.reassignment is not None:
            self.reassignment.verify(len(self.nodes), len(self.pods))
        return self


def _unique(place: str, names: list[str]) -> None:
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            raise ProblemError(
                "names must be unique",
                place=f"{place}.{i}.name",
                value=name,
                remedy="Rename or remove the duplicate.",
            )
        seen.add(name)


class Placement(Record):
    """Where a pod is at the end; ``numa`` lists the cells (NUMA nodes, GPUs) it takes."""

    pod: str
    node: str | None = None
    numa: tuple[int, ...] = ()


class Step(Record):
    """One action: ``evict`` and ``bind`` name the ``node``, ``move`` has ``from`` and ``to``."""

    action: Literal["evict", "bind", "move"]
    pod: str
    node: str | None = None
    source: Annotated[str | None, Field(alias="from")] = None
    to: str | None = None
    numa: tuple[int, ...] = ()

    model_config = Record.model_config | {"populate_by_name": True}

    def to_dict(self) -> dict[str, Any]:
        """The step with the fields its action has."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class PodsSchedule(Record):
    """A plan: the end state, the steps that lead to it, and the pods placed per tier."""

    placements: tuple[Placement, ...] = ()
    steps: tuple[Step, ...] = ()
    counts: dict[str, Whole] = Field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The plan as in the contract."""
        return {
            "placements": [
                {"pod": p.pod, "node": p.node, **({"numa": list(p.numa)} if p.numa else {})}
                for p in self.placements
            ],
            "steps": [s.to_dict() for s in self.steps],
            "counts": dict(self.counts),
        }
