"""The search."""

from __future__ import annotations
from typing import Any


def search(instance: Any, run: Any) -> None:
    pass


def repair(instance: Any, run: Any, schedule: Any) -> None:
    pass
