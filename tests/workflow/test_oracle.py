"""The MiniZinc model, solved by Gecode, as an independent oracle on tiny problems."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cpsched.families.workflow.writers import write_minizinc
from tests.workflow.helpers import problem, random_problem, solved

MODEL = Path(__file__).resolve().parents[2] / "models" / "workflow.mzn"

pytestmark = pytest.mark.skipif(
    shutil.which("minizinc") is None, reason="the oracle needs minizinc on the PATH"
)


def oracle(p, tmp_path) -> float | None:
    """The optimal makespan by MiniZinc; None when it is infeasible."""
    data = tmp_path / "data.json"
    data.write_text(write_minizinc(p, None))
    done = subprocess.run(
        ["minizinc", "--solver", "gecode", str(MODEL), str(data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    if "UNSATISFIABLE" in done.stdout:
        return None
    return float(done.stdout.split()[0])


@pytest.mark.parametrize("seed", range(100, 104))
def test_random_graphs(seed, tmp_path):
    """The optimum of random graphs with data is the oracle's."""
    p = random_problem(seed)
    assert solved(p).objective == oracle(p, tmp_path)


CASES = {
    "cores": {
        "tasks": [{"id": k, "work": w, "cores": c} for k, w, c in
                  [("a", 4, 2), ("b", 3, 1), ("c", 2, 2), ("d", 3, 1)]],
        "machines": [{"name": "m", "cores": 3}],
    },
    "memory": {
        "tasks": [{"id": k, "work": 3, "memory": c} for k, c in [("a", 4), ("b", 5), ("c", 6)]],
        "machines": [{"name": "m", "cores": 9, "memory": 10}, {"name": "s", "speed": 0.5}],
    },
    "gpus": {
        "tasks": [{"id": k, "work": 3, "gpus": 1} for k in "abc"],
        "machines": [{"name": "m", "cores": 9, "gpus": 2}],
    },
    "windows": {
        "tasks": [{"id": "a", "work": 3}, {"id": "b", "work": 2}],
        "machines": [{"name": "m", "windows": [{"start": 1, "end": 4}, {"start": 6, "end": 20}]}],
    },
    "options": {
        "tasks": [{"id": k, "options": [{"work": 2, "cost": 5}, {"work": 6, "cost": 1}]}
                  for k in "abc"],
        "machines": [{"name": "m"}, {"name": "n"}],
        "budgets": {"cost": 11},
    },
    "releases": {
        "tasks": [{"id": "a", "work": 3, "release": 2}, {"id": "b", "work": 4, "deadline": 4}],
        "machines": [{"name": "m"}],
    },
    "inputs": {
        "tasks": [{"id": "a", "work": 3}],
        "files": [{"id": "f", "size": 4, "location": "n", "consumers": ["a"]}],
        "machines": [{"name": "m"}, {"name": "n", "speed": 0.5}],
        "bandwidth": 1,
    },
    "infeasible": {
        "tasks": [{"id": k, "work": 3, "deadline": 5} for k in "ab"],
        "machines": [{"name": "m"}],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_constraints(name, tmp_path):
    """A small problem of every constraint has the oracle's optimum."""
    p = problem(**CASES[name])
    result = solved(p)
    expected = oracle(p, tmp_path)
    assert result.status == ("INFEASIBLE" if expected is None else "OPTIMAL")
    assert result.objective == expected
