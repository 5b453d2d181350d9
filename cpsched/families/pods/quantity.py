"""Kubernetes quantities as exact integers: CPU in millicores, everything else in whole units."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

#: The API's own limit; sums over a cluster are checked when the problem is prepared.
LARGEST_QUANTITY = 2**63 - 1

_PATTERN = re.compile(
    r"([+-]?)(\d+\.?\d*|\.\d+)(?:(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE])|[eE]([+-]?\d{1,3}))?"
)
_SUFFIXES = {
    None: Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}


def exact(value: Any) -> Fraction:
    """The exact value of a Kubernetes quantity (``100m``, ``1Gi``, ``1e3``, 2, 0.5).

    Raises
    ------
    ValueError
        When it is not a quantity, negative, or larger than 2**63 - 1.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("a quantity is a number with an optional suffix, such as 100m or 1Gi")
    match = _PATTERN.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("a quantity is a number with an optional suffix, such as 100m or 1Gi")
    sign, digits, suffix, exponent = match.groups()
    number = Fraction(digits)
    number = number * Fraction(10) ** int(exponent) if exponent else number * _SUFFIXES[suffix]
    if sign == "-" and number:
        raise ValueError("a quantity must not be negative")
    if number > LARGEST_QUANTITY:
        raise ValueError("a quantity must be at most 2**63 - 1")
    return number


def parse_quantity(resource: str, value: Any) -> int:
    """A quantity in the resource's base unit (CPU: millicores), rounded up as Kubernetes does.

    Raises
    ------
    ValueError
        As `exact`.
    """
    return round_up(resource, exact(value))


def round_up(resource: str, value: Fraction) -> int:
    """An exact amount in base units, rounded up."""
    scaled = value * 1000 if resource.rsplit(".", 1)[-1] == "cpu" else value
    return -((-scaled.numerator) // scaled.denominator)


def show_quantity(resource: str, value: int) -> str:
    """A base-unit amount as a person writes it: ``1500m``, ``2``, ``3Gi``."""
    if resource.rsplit(".", 1)[-1] == "cpu":
        return str(value // 1000) if value % 1000 == 0 else f"{value}m"
    for suffix, size in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if value and value % size == 0:
            return f"{value // size}{suffix}"
    return str(value)


def dump_quantity(resource: str, value: int) -> str | int:
    """The form written to JSON: reads back as the same amount."""
    return f"{value}m" if resource.rsplit(".", 1)[-1] == "cpu" else value
