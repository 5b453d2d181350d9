"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def instances() -> Path:
    """Folder of the shipped instances."""
    return Path(__file__).resolve().parents[1] / "instances"


@pytest.fixture(scope="session")
def minizinc() -> str:
    """Path of the MiniZinc program; skips where it is not installed."""
    found = shutil.which("minizinc")
    if found is None:
        if os.environ.get("CPSCHED_REQUIRE_MINIZINC"):
            pytest.fail("minizinc is required here and not installed")
        pytest.skip("minizinc is not installed")
    return found


class _Failures(logging.Handler):
    """Keeps what the pipeline logs when a step of it fails."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "failed" in str(record.msg):
            self.found.append(self.format(record))


@pytest.fixture(autouse=True)
def no_failed_step(request: pytest.FixtureRequest) -> Iterator[None]:
    """A step that fails costs a caller nothing, so only this shows that it does.

    Tests that make one fail on purpose are marked ``failing_step``.
    """
    handler = _Failures()
    logger = logging.getLogger("cpsched")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    if handler.found and request.node.get_closest_marker("failing_step") is None:
        pytest.fail("a step failed behind the result:\n" + "\n".join(handler.found))
