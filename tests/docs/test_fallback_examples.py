"""Every example of a host scheduler runs, and cpsched never makes its answer worse."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from cpsched.families import family
from cpsched.solve import objectives_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(ROOT.glob("examples/fallback/*.py"))


def test_there_is_one_per_family():
    """Each family has its example."""
    kinds = {path.stem.partition("_")[0] for path in EXAMPLES}
    assert kinds == {"rcpsp", "workflow", "serving", "pods", "kernel", "memory"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, monkeypatch, capsys):
    """The primary's own answer is valid, and the result is checked and not worse."""
    monkeypatch.chdir(ROOT)
    main = runpy.run_path(str(path))["main"]
    result = main(time_limit=2.0, isolation="none", workers=1)
    chosen = family(result.kind)
    assert result.initial["valid"], result.initial["violations"][:3]
    assert not chosen.check(result.problem, result.schedule)
    before, after = result.initial["objective"], result.objective
    objectives = objectives_of(chosen, result.problem, None)
    listed = [[v] if not isinstance(v, list) else v for v in (before, after)]
    for old, new, objective in zip(*listed, objectives, strict=True):
        if old != new:
            assert (new > old) == objective.maximise
            break
    assert capsys.readouterr().out
