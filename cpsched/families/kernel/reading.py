"""What the readers and generators of the family share: options, fields, records at a place."""

from __future__ import annotations

from typing import Any, TypeVar

from cpsched.errors import ProblemError
from cpsched.problem import Record

R = TypeVar("R", bound=Record)


def whole_option(text: str, option: str, low: int = 0, high: int = 10**6) -> int:
    """An option as a whole number within the limits."""
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ProblemError(
            f"option {option} must be a whole number from {low} to {high}",
            place=f"option {option}",
            value=text,
            remedy="Correct the option.",
        )
    return value


def field_of(record: Any, key: str, place: str, kind: type, default: Any = None) -> Any:
    """A field of a JSON object, of the given type; missing is an error without a default."""
    if not isinstance(record, dict):
        raise ProblemError(
            "an object is expected here",
            place=place,
            value=type(record).__name__,
            remedy="Correct the file.",
        )
    if key not in record:
        if default is not None:
            return default
        raise ProblemError("the field is missing", place=f"{place}.{key}", remedy="Add the field.")
    value = record[key]
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        raise ProblemError(
            f"the field must be of type {kind.__name__}",
            place=f"{place}.{key}",
            value=value,
            remedy="Correct the value.",
        )
    return value


def parse_at(record: type[R], data: dict[str, Any], place: str) -> R:
    """A record from plain data, its errors placed within the file."""
    try:
        return record.parse(data)
    except ProblemError as error:
        inner = ".".join(part for part in (place, error.place) if part)
        raise ProblemError(
            error.rule, place=inner, value=error.value, remedy=error.remedy
        ) from None
