"""Parts of Kubernetes objects that several readers share; malformed ones name their place."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.pods.quantity import dump_quantity, exact, parse_quantity

Json = Mapping[str, Any]


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


def as_object(value: Any, place: str) -> Json:
    """The value as an object, an absent one empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ProblemError("an object is expected", place=place, value=value, remedy="Correct it.")
    return value


def as_list(value: Any, place: str) -> list[Any]:
    """The value as a list of objects, an absent one empty."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise ProblemError(
            "a list of objects is expected", place=place, value=value, remedy="Correct it."
        )
    return value


def as_text(value: Any, place: str) -> str:
    """The value as text, an absent one empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ProblemError("a text is expected", place=place, value=value, remedy="Correct it.")
    return value


def name_of(place: str, item: Json) -> str:
    """Name of an object."""
    name = as_object(item.get("metadata"), f"{place}.metadata").get("name")
    if not isinstance(name, str) or not name:
        raise ProblemError(
            "every object must have a name", place=f"{place}.metadata.name", value=name,
            remedy="Add the name.",
        )  # fmt: skip
    return name


def full_name(place: str, item: Json) -> str:
    """``namespace/name`` of an object."""
    space = as_object(item.get("metadata"), place).get("namespace") or "default"
    return f"{space}/{name_of(place, item)}"


def labels_of(item: Json, place: str) -> dict[str, str]:
    """Labels of an object."""
    labels = as_object(
        as_object(item.get("metadata"), place).get("labels"), f"{place}.metadata.labels"
    )
    return {str(k): str(v) for k, v in labels.items()}


def quantity(resource: str, value: Any, place: str) -> str | int:
    """A quantity in the form the schema reads exactly."""
    try:
        return dump_quantity(resource, parse_quantity(resource, value))
    except ValueError as error:
        raise ProblemError(
            str(error), place=place, value=value, remedy="Correct the quantity."
        ) from None


def quantities(amounts: Json, place: str) -> dict[str, Any]:
    """Every amount as a `quantity`."""
    return {r: quantity(r, a, f"{place}.{r}") for r, a in amounts.items()}


def exact_amounts(amounts: Any, place: str) -> dict[str, Fraction]:
    """Every amount, exact."""
    out = {}
    for resource, amount in as_object(amounts, place).items():
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


def container_requests(container: Json, place: str) -> dict[str, Fraction]:
    """Requests of a container; a limit without a request is one, as the API server fills it in."""
    resources = as_object(container.get("resources"), f"{place}.resources")
    limits = exact_amounts(resources.get("limits"), f"{place}.resources.limits")
    return limits | exact_amounts(resources.get("requests"), f"{place}.resources.requests")


def expressions(items: Any, place: str) -> list[dict[str, Any]]:
    """Requirements on labels."""
    return [
        {
            "key": e.get("key", ""),
            "operator": e.get("operator", ""),
            "values": [str(v) for v in e.get("values") or ()],
        }
        for e in as_list(items, place)
    ]


def selector(value: Any, place: str) -> dict[str, Any] | None:
    """A label selector as the schema has it."""
    if value is None:
        return None
    value = as_object(value, place)
    return {
        "match_labels": as_object(value.get("matchLabels"), f"{place}.matchLabels"),
        "match_expressions": expressions(value.get("matchExpressions"), place),
    }


def node_term(value: Any, place: str) -> dict[str, Any]:
    """A node selector term."""
    term = as_object(value, place)
    return {
        "match_expressions": expressions(term.get("matchExpressions"), place),
        "match_fields": expressions(term.get("matchFields"), place),
    }


def pod_term(term: Json, place: str) -> dict[str, Any]:
    """A pod (anti-)affinity term."""
    out = {
        "topology_key": term.get("topologyKey") or "",
        "selector": selector(term.get("labelSelector"), place),
        "namespaces": term.get("namespaces") or [],
        "namespace_selector": selector(term.get("namespaceSelector"), place),
        "match_label_keys": term.get("matchLabelKeys") or [],
        "mismatch_label_keys": term.get("mismatchLabelKeys") or [],
    }
    return {k: v for k, v in out.items() if v not in ([], None)}


def volume_zones(labels: Mapping[str, str]) -> list[list[dict[str, Any]]]:
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
