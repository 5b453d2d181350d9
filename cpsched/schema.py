"""JSON Schemas of problems, schedules and results."""

from __future__ import annotations

from typing import Any

from cpsched.families import KINDS, family
from cpsched.result import Status, StopReason


def names() -> list[str]:
    """What `schema_of` knows."""
    return ["any", *KINDS, *(f"{kind}-schedule" for kind in KINDS), "result"]


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of a kind's problems, ``KIND-schedule``, ``result`` or ``any`` problem."""
    if name == "result":
        return _result()
    if name == "any":
        from functools import reduce
        from operator import or_
        from typing import Annotated

        from pydantic import Field, TypeAdapter

        union: Any = reduce(or_, (family(kind).problem for kind in KINDS))
        adapter: Any = TypeAdapter(Annotated[union, Field(discriminator="kind")])
        schema: dict[str, Any] = adapter.json_schema()
        return schema
    kind, _, part = name.partition("-")
    chosen = family(kind)
    wanted = chosen.schedule if part else chosen.problem
    own: dict[str, Any] = wanted.model_json_schema()
    return own


def _result() -> dict[str, Any]:
    value = {"type": ["number", "null", "array"], "items": {"type": ["number", "null"]}}
    bound = {
        "type": "object",
        "required": ["value", "argument", "objective"],
        "properties": {
            "value": {"type": "number"},
            "argument": {"type": "string"},
            "objective": {"type": "string"},
            "data": {"type": "object"},
            "given": {"type": "array"},
        },
    }
    point = {
        "type": "object",
        "required": ["time", "objective", "bound", "source"],
        "properties": {"time": {"type": "number"}, "source": {"type": "string"}},
    }
    properties = {
        "schema_version": {"const": "1"},
        "kind": {"enum": list(KINDS)},
        "problem": {"type": "object", "required": ["name", "sha256"]},
        "status": {"enum": [s.value for s in Status]},
        "stop_reason": {"enum": [s.value for s in StopReason]},
        "objective": value,
        "objective_name": {"type": ["string", "null", "array"]},
        "bound": value,
        "gap": value,
        "bounds": {"type": "array", "items": bound},
        "source": {"type": ["string", "null"]},
        "wall_time": {"type": "number"},
        "trace": {"type": "array", "items": point},
        "schedule": {"type": ["object", "null"]},
        "validation": {"type": "object", "required": ["valid", "violations"]},
        "environment": {"type": "object"},
        "message": {"type": "string"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cpsched result",
        "type": "object",
        "required": [key for key in properties if key != "message"],
        "properties": properties,
    }
