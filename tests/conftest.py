"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
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
