"""Exact values as numbers of a report."""

from __future__ import annotations

from fractions import Fraction

from cpsched.result import Number


def exact_number(value: Fraction) -> Number:
    return int(value) if value.denominator == 1 else float(value)
