"""The shipped instances: each loads, and solving it gives the value in ``bks.csv``."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import cpsched
from cpsched.families.rcpsp.generate import GENERATORS
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.problem import parse_json
from tests.rcpsp import texts

FOLDER = Path(__file__).resolve().parents[2] / "instances" / "rcpsp"
with (FOLDER / "bks.csv").open(newline="") as stream:
    ROWS = list(csv.DictReader(stream))


def load(row):
    """The problem of a row of ``bks.csv``."""
    path = FOLDER / row["instance"]
    if path.suffix == ".json":
        return RcpspProblem.parse(parse_json(path.read_text()))
    options = dict(pair.split("=") for pair in row["options"].split(";") if pair)
    text = path.read_text()
    name = row["format"] or texts.detect(path.name, text)
    return texts.read(name, text, path.name, **options)


def test_every_file_is_listed():
    """Every instance file has a row, and every row a file."""
    files = {p.name for p in FOLDER.iterdir()} - {"bks.csv", "SOURCES.md"}
    assert files == {row["instance"] for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['instance']}-{row['options']}")
def test_best_known_value(row):
    """The instance has the status and value that are written down for it."""
    problem = load(row)
    assert ";".join(problem.objectives) == row["objectives"]
    result = cpsched.solve(problem, time_limit=30.0, workers=2)
    assert result.status.value.lower() == row["status"]
    values = result.objective if isinstance(result.objective, list) else [result.objective]
    assert ";".join("" if v is None else str(v) for v in values) == row["best"]


@pytest.mark.parametrize(
    ("file", "generator", "options"),
    [
        ("constraintbench", "r-constraintbench", {"tasks": "16", "level": "18", "seed": "1"}),
        (
            "modes",
            "project",
            {"tasks": "20", "modes": "2", "nonrenewable": "1", "resources": "2", "seed": "5"},
        ),
    ],
)
def test_generated_instances_are_reproduced(file, generator, options):
    """The generators still give the instances that were made with them."""
    make = next(g.make for g in GENERATORS if g.name == generator)
    shipped = RcpspProblem.parse(parse_json((FOLDER / f"{file}.json").read_text()))
    assert make(options).sha256() == shipped.sha256()
