"""Kernels: the same source runs interpreted and compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, **environment: str) -> str:
    """Run code in a new interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_kernels_work_without_numba():
    """With numba switched off kernels run interpreted and say so."""
    code = (
        "from cpsched.core import jit\n"
        "@jit.kernel\n"
        "def double(x): return 2 * x\n"
        "print(jit.ready(), double(21))"
    )
    assert run(code, CPSCHED_NO_NUMBA="1") == "False 42"


def test_a_cold_cache_never_waits(tmp_path):
    """With a cold cache ready() answers no at once instead of compiling in the caller."""
    pytest.importorskip("numba")
    code = (
        "from cpsched.core import jit\n"
        "import cpsched.families.rcpsp.kernels\n"
        "asked = []\n"
        "jit._spawn_compiler = asked.append\n"
        "print(jit.ready(), asked, 'numba' in __import__('sys').modules)"
    )
    found = run(code, XDG_CACHE_HOME=str(tmp_path), CPSCHED_NO_NUMBA="0")
    assert found == "False ['rcpsp'] False"


def test_cold_kernels_of_another_family_do_not_matter():
    """Asked about one family whose kernels run compiled, ready() says yes whatever the others."""
    code = (
        "from cpsched.core import jit\n"
        "import cpsched.families.workflow.kernels, cpsched.families.rcpsp.kernels\n"
        "jit._spawn_compiler = lambda group: None\n"
        "jit._active.add('workflow')\n"
        "jit._stamp = lambda group: __import__('pathlib').Path('/nonexistent')\n"
        "print(jit.ready(), jit.ready(family='workflow'))"
    )
    assert run(code, CPSCHED_NO_NUMBA="0") == "False True"


def test_a_call_with_time_loads_right_after_one_without():
    """Compiled code that a short call had no time for is loaded by the next one at once."""
    code = (
        "from cpsched.core import jit\n"
        "import cpsched.families.workflow.kernels, pathlib\n"
        "jit._stamp = lambda group: pathlib.Path(__import__('sys').executable)\n"
        "jit.available = lambda: True\n"
        "jit._activate = jit._active.add\n"
        "print(jit.ready(0.1), jit.ready(5.0))"
    )
    assert run(code) == "False True"
