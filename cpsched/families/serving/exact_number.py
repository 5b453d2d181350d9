"""Exact values as numbers of a report."""

from __future__ import annotations

from fractions import Fraction

from cpsched.result import Number


def exact_number(value: Fraction) -> Number:
    """A fraction as an integer where it is one, else as the nearest float."""
    return int(value) if value.denominator == 1 else float(value)
