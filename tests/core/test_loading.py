"""Loading files: what is not a problem is refused with place, value, rule and remedy."""

from __future__ import annotations

import json

import pytest

import cpsched
from cpsched.errors import ProblemError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"   \n", "empty"),
        (b"\x80\x81\xff", "UTF-8"),
        (b"hello world", "not recognised"),
        (b'{"schema_version": "1", "kind": "rcpsp", ', "JSON"),
        (b'{"schema_version": "1", "kind": "poetry"}', "kind must be one of"),
        (b'{"schema_version": "2", "kind": "rcpsp", "tasks": []}', "schema_version"),
        (b'{"schema_version": "1", "kind": "rcpsp", "tasks": NaN}', "JSON"),
        (b'{"schema_version": "1", "kind": "rcpsp", "tasks": [], "horizon": 1e400}', "."),
        (b'{"schema_version": "1", "kind": "rcpsp", "tasks": [], "colour": 1}', "colour"),
        (b'{"schema_version":"1","kind":"rcpsp","tasks":' + b"[" * 100_000, "."),
    ],
)
def test_bad_files(tmp_path, content, message):
    """Each malformed file gives one ProblemError that names the file."""
    path = tmp_path / "input.json"
    path.write_bytes(content)
    with pytest.raises(ProblemError, match=message) as caught:
        cpsched.load(path)
    assert "input.json" in str(caught.value)


def test_missing_file(tmp_path):
    """A missing file is named."""
    with pytest.raises(ProblemError, match=r"absent\.sm.*cannot be read"):
        cpsched.load(tmp_path / "absent.sm")


def test_folder(tmp_path):
    """A folder is not a file."""
    with pytest.raises(ProblemError, match="folder"):
        cpsched.load(tmp_path)


def test_too_large_a_file(tmp_path, monkeypatch):
    """A file above the limit is refused without being parsed."""
    monkeypatch.setattr("cpsched.problem.LARGEST_FILE", 1000)
    path = tmp_path / "big.json"
    path.write_text(" " * 2000)
    with pytest.raises(ProblemError, match="1,000 bytes"):
        cpsched.load(path)


def test_unknown_format_and_option(tmp_path):
    """Unknown formats and options are named together with the known ones."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"schema_version": "1", "kind": "rcpsp", "tasks": []}))
    with pytest.raises(ProblemError, match="must be one of cpsched"):
        cpsched.load(path, format="excel")
    with pytest.raises(ProblemError, match="has no option 'index'"):
        cpsched.load(path, options={"index": "3"})
