"""What every family must have: the meta-tests over the registry."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cpsched
from cpsched.families import KINDS, Family, all_formats, family

ROOT = Path(__file__).resolve().parents[1]

#: What a checker may not touch: it is written from the definition, not from the model.
FORBIDDEN = ("cpsched.core", "ortools", "numba")


def shipped(kind: str) -> list[Path]:
    """The shipped cpsched JSON instances of a kind."""
    return sorted((ROOT / "instances" / kind).glob("*.json"))


@pytest.mark.parametrize("kind", KINDS)
def test_family_is_registered(kind):
    """The folder of each kind exports a Family of that kind."""
    found = family(kind)
    assert isinstance(found, Family)
    assert found.kind == kind
    assert found.problem.model_fields["kind"].default == kind


@pytest.mark.parametrize("kind", KINDS)
def test_checker_is_independent(kind):
    """check.py imports neither core, solver nor model, and works without ortools."""
    folder = ROOT / "cpsched" / "families" / kind
    for path in folder.glob("check*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert not name.startswith(FORBIDDEN), f"{path.name} imports {name}"
                assert not name.endswith((".model", ".greedy", ".search")), path.name


@pytest.mark.parametrize("kind", KINDS)
def test_instances_are_shipped_and_round_trip(kind):
    """Each kind ships instances; dumping and loading one gives the same problem."""
    paths = shipped(kind)
    assert paths
    for path in paths:
        problem = cpsched.load(path)
        assert problem.kind == kind
        again = cpsched.loads(problem.to_json())
        assert again == problem
        assert again.sha256() == problem.sha256()


@pytest.mark.parametrize("kind", KINDS)
def test_shortest_call_gives_a_checked_schedule(kind):
    """With 50 milliseconds an instance of each kind still gets a valid schedule."""
    problem = cpsched.load(shipped(kind)[0])
    cpsched.solve(problem, time_limit=0.05)  # imports are not the call's to pay
    result = cpsched.solve(problem, time_limit=0.05, workers=2)
    assert result.schedule is not None
    assert cpsched.validate(problem, result.schedule).valid


@pytest.mark.parametrize("kind", KINDS)
def test_short_call_loads_no_solver(kind):
    """A first call with little time does not import CP-SAT, which takes longer than it has."""
    code = f"""
import sys, cpsched
from cpsched.core import idle
idle.when_idle = lambda delay, action: None
cpsched.solve(cpsched.load({str(shipped(kind)[-1])!r}), time_limit=0.1, workers=2)
print("ortools.sat.python.cp_model" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("kind", KINDS)
def test_result_meets_its_schema(kind):
    """A result's JSON meets the published schema, and its schedule the kind's."""
    jsonschema = pytest.importorskip("jsonschema")
    from cpsched.schema import schema_of

    problem = cpsched.load(shipped(kind)[0])
    data = json.loads(cpsched.solve(problem, time_limit=0.3, workers=1).to_json())
    jsonschema.validate(data, schema_of("result"))
    jsonschema.validate(data["schedule"], schema_of(f"{kind}-schedule"))
    jsonschema.validate(problem.to_dict(), schema_of(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_recomputed(kind):
    """Every bound found without a search is what its argument and data give."""
    from cpsched.bound import recompute

    problem = cpsched.load(shipped(kind)[0])
    for bound in cpsched.bound(problem, time_limit=2.0):
        assert recompute(problem, bound) == pytest.approx(bound.value)


@pytest.mark.parametrize("kind", KINDS)
def test_improve_never_worse(kind):
    """Improving a schedule with no time gives it back."""
    problem = cpsched.load(shipped(kind)[0])
    first = cpsched.solve(problem, time_limit=0.2, workers=1)
    again = cpsched.improve(problem, first, time_limit=0.05, workers=1)
    assert again.initial["valid"]
    assert again.schedule is not None
    values, before = again.objective, again.initial["objective"]
    assert values == before or cpsched.validate(problem, again).valid


@pytest.mark.parametrize("kind", KINDS)
def test_schedules_are_drawn(kind):
    """A schedule of each kind becomes SVG and HTML."""
    from cpsched.plot.html import html
    from cpsched.plot.svg import svg

    problem = cpsched.load(shipped(kind)[0])
    result = cpsched.solve(problem, time_limit=0.2, workers=1)
    figure = family(kind).draw(problem, result.schedule)
    assert svg(figure).startswith("<svg")
    assert "<script>" in html(figure)
    assert "<svg" in result._repr_html_()


@pytest.mark.parametrize("kind", KINDS)
def test_model_and_page_exist(kind):
    """Each kind has a MiniZinc model, its data writer, and a documentation page."""
    assert (ROOT / "models" / f"{kind}.mzn").exists()
    assert (ROOT / "docs" / f"{kind}.md").exists()
    assert "minizinc" in {w.name for w in family(kind).writers}


def test_format_names_are_unique():
    """No two formats share a name."""
    names = [f.name for f in all_formats()]
    assert len(names) == len(set(names))
