"""Every example in the documentation runs as it is written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "models" / "README.md"])
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.M | re.S)

#: Commands of ``sh`` blocks that are run; installation and git lines are for people.
RUNNABLE = ("cpsched ", "cat ", "echo ")


def blocks(language: str) -> list[pytest.param]:
    """The blocks of a language, one parameter per page: later blocks may use earlier ones."""
    out = []
    for page in PAGES:
        if page.exists():
            found = [body for kind, body in BLOCK.findall(page.read_text()) if kind == language]
            if found:
                out.append(pytest.param(found, id=page.relative_to(ROOT).as_posix()))
    return out


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder in which ``instances`` is the shipped one."""
    (tmp_path / "instances").symlink_to(ROOT / "instances")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("bodies", blocks("python"))
def test_python_examples(workplace, bodies):
    """The Python blocks of a page run in order in one namespace."""
    namespace: dict[str, object] = {"__name__": "example"}
    for body in bodies:
        exec(compile(body, "example", "exec"), namespace)


@pytest.mark.parametrize("bodies", blocks("sh"))
def test_shell_examples(workplace, bodies):
    """The cpsched commands of a page's shell blocks run and do not fail."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = rf"\g<1>{shlex.quote(sys.executable)} -m cpsched "
    for command in (line for body in bodies for line in commands(body)):
        shown = re.sub(r"(^|\|\s*)cpsched ", program, command)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", shown],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        # 3 and 5 are answers (infeasible, not valid), which some examples show on purpose.
        assert done.returncode in (0, 3, 5), f"{command}\n{done.stderr}"


def commands(body: str) -> list[str]:
    """The runnable lines of a shell block, continuation lines joined, comments dropped."""
    joined = body.replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line.startswith(RUNNABLE)]
