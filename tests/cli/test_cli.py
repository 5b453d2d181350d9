"""The command line: output, exit codes, messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cpsched
from cpsched.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
HOUSE = str(ROOT / "instances" / "rcpsp" / "house.json")
IMPOSSIBLE = str(ROOT / "instances" / "rcpsp" / "no-window.json")


def run(*arguments: str, **options):
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments], **options)


def shell(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "cpsched", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def solved(tmp_path_factory) -> Path:
    """A result file of the house."""
    path = tmp_path_factory.mktemp("cli") / "house.json"
    assert run("solve", HOUSE, "--time-limit", "20", "-o", path).exit_code == 0
    return path


def test_solve_writes_the_result(solved):
    """-o writes the contract's JSON."""
    data = json.loads(solved.read_text())
    assert data["schema_version"] == "1"
    assert data["kind"] == "rcpsp"
    assert data["status"] == "OPTIMAL"
    assert data["objective"] == data["bound"] == 59
    assert data["validation"] == {"valid": True, "violations": []}
    assert data["environment"]["time_limit"] == 20.0


def test_output_leaves_stdout_alone(tmp_path):
    """With -o nothing is printed to stdout."""
    done = run("solve", HOUSE, "-o", tmp_path / "out.json", "--progress", "none")
    assert done.stdout == ""


def test_json_when_stdout_is_no_terminal():
    """Piped output is the result JSON on one line."""
    done = shell("solve", HOUSE, "--time-limit", "20")
    assert json.loads(done.stdout)["objective"] == 59


def test_standard_input():
    """'-' reads the problem from standard input."""
    done = shell("solve", "-", "--time-limit", "20", input=Path(HOUSE).read_text())
    assert json.loads(done.stdout)["objective"] == 59


def test_progress_as_json_lines():
    """--progress jsonl prints each improvement of schedule or bound to stderr."""
    done = shell("solve", HOUSE, "--time-limit", "20", "--progress", "jsonl")
    points = [json.loads(line) for line in done.stderr.splitlines()]
    assert points[-1]["objective"] == 59
    assert {"time", "objective", "bound", "source"} <= points[0].keys()


def test_validate_accepts(solved):
    """validate exits 0 for a valid schedule."""
    assert run("validate", HOUSE, solved).exit_code == 0


def test_validate_rejects_a_mutated_copy(solved, tmp_path):
    """validate exits 5 and names the violation of a mutated schedule."""
    schedule = json.loads(solved.read_text())["schedule"]
    last = max(schedule["tasks"], key=lambda t: t["start"])
    last["start"] -= 1
    last["end"] -= 1
    path = tmp_path / "mutated.json"
    path.write_text(json.dumps(schedule))
    done = run("validate", HOUSE, path, "--json")
    assert done.exit_code == 5
    rules = {v["rule"] for v in json.loads(done.stdout)["violations"]}
    assert "precedence" in rules


def test_infeasible_exits_3_with_the_reason():
    """A proven infeasible problem exits 3 and explains itself."""
    done = shell("solve", IMPOSSIBLE, "--time-limit", "20")
    assert done.returncode == 3
    data = json.loads(done.stdout)
    assert data["status"] == "INFEASIBLE"
    assert data["explanation"]["conflict"]
    assert "cannot hold together" in done.stderr


def test_explain_exits_3():
    """explain of an infeasible problem lists the conflict."""
    done = run("explain", IMPOSSIBLE, "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["minimal"] is True


def test_nothing_found_exits_4(tmp_path):
    """A problem that is neither solved nor refuted in the time exits 4."""
    tasks = [
        {
            "id": str(i),
            "modes": [{"duration": 3 + i % 7, "demands": {"r": 2 + i % 3}}],
            "deadline": 61,
        }
        for i in range(40)
    ]
    problem = {"kind": "rcpsp", "tasks": tasks, "resources": [{"name": "r", "capacity": 12}]}
    path = tmp_path / "tight.json"
    path.write_text(json.dumps(problem))
    done = run("solve", path, "--time-limit", "0")
    assert done.exit_code in (0, 3, 4)
    if done.exit_code == 4:
        assert json.loads(done.stdout)["status"] == "UNKNOWN"


def test_improve_certifies(solved):
    """improve says that an optimal schedule is optimal."""
    done = run("improve", HOUSE, solved, "--time-limit", "20", "--json")
    data = json.loads(done.stdout)
    assert data["certified"] is True
    assert data["diff"] == []


def test_bound_lists_arguments():
    """bound names the argument of every bound."""
    data = json.loads(run("bound", HOUSE, "--json").stdout)
    assert all(b["argument"] and b["value"] <= 59 for b in data["bounds"])
    assert data["bounds"]


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<svg"), ("html", b"<!doctype html>")])
def test_plot(solved, tmp_path, ending, start):
    """plot writes the format that the output's name asks for."""
    path = tmp_path / f"house.{ending}"
    assert run("plot", HOUSE, solved, "-o", path).exit_code == 0
    assert path.read_bytes().startswith(start)


def test_plot_png(solved, tmp_path):
    """plot writes PNG with the extra `plot`."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "house.png"
    assert run("plot", HOUSE, solved, "-o", path).exit_code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_convert_round_trip(tmp_path):
    """convert --to cpsched gives the same problem."""
    path = tmp_path / "again.json"
    assert run("convert", HOUSE, "--to", "cpsched", "-o", path).exit_code == 0
    assert cpsched.load(path) == cpsched.load(HOUSE)


def test_convert_unknown_target():
    """An unknown target is refused with the known ones."""
    done = shell("convert", HOUSE, "--to", "excel")
    assert done.returncode == 2
    assert "psplib" in done.stderr


def test_generate_is_deterministic(tmp_path):
    """The same seed gives the same instance, another seed another one."""
    texts = []
    for i, seed in enumerate((3, 3, 4)):
        path = tmp_path / f"{i}.json"
        assert run("generate", "r-constraintbench", "--seed", seed, "-o", path).exit_code == 0
        texts.append(path.read_text())
    assert texts[0] == texts[1] != texts[2]


def test_formats_lists_options():
    """formats shows every format with its options."""
    data = json.loads(run("formats", "--json").stdout)
    names = {f["name"] for f in data}
    assert "cpsched" in names
    assert any("index" in f["options"] for f in data)


def test_schema_is_a_json_schema():
    """schema prints the schema of a kind."""
    data = json.loads(run("schema", "rcpsp").stdout)
    assert data["properties"]["kind"]["const"] == "rcpsp"


def test_replan_after_a_delay(solved, tmp_path):
    """replan keeps what has started and schedules the rest anew."""
    schedule = json.loads(solved.read_text())["schedule"]
    running = next(t for t in schedule["tasks"] if t["start"] < 20 < t["end"])
    events = tmp_path / "events.json"
    events.write_text(json.dumps([{"type": "delay", "time": 20, "id": running["task"], "by": 3}]))
    done = run("replan", HOUSE, solved, "--now", 20, "--events", events, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    again = {t["task"]: t for t in data["schedule"]["tasks"]}
    assert again[running["task"]]["end"] == running["end"] + 3
    for task in schedule["tasks"]:
        if task["end"] <= 20:
            assert again[task["task"]]["start"] == task["start"]


def test_solve_batch_resumes(tmp_path):
    """solve-batch solves a folder once, and only what is missing the second time."""
    (tmp_path / "a.json").write_text(Path(HOUSE).read_text())
    (tmp_path / "b.json").write_text(Path(HOUSE).read_text())
    first = run("solve-batch", tmp_path, "--time-limit", "1", "--pattern", "*.json")
    assert first.exit_code == 0, first.output
    assert "2 solved" in first.output
    again = run("solve-batch", tmp_path, "--time-limit", "1", "--pattern", "*.json")
    assert "0 solved" in again.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["solve", "absent.json"], ["absent.json", "cannot be read"]),
        (["solve", HOUSE, "--objective", "speed"], ["speed", "objective"]),
        (["solve", HOUSE, "--option", "index"], ["KEY=VALUE"]),
        (["solve", HOUSE, "--format", "excel"], ["format"]),
        (["solve", HOUSE, "--progress", "loud"], ["progress"]),
        (["solve", HOUSE, "-o", "/absent/folder/x.json"], ["cannot be written"]),
        (["validate", HOUSE, HOUSE], ["house.json"]),
        (["generate", "poems"], ["generator"]),
        (["schema", "poems"], ["schema"]),
    ],
)
def test_bad_usage(arguments, words):
    """Bad input is one message without a traceback, exit code 2."""
    done = shell(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("cpsched: error:")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in words)


def test_interrupt_returns_the_best_schedule(tmp_path):
    """Ctrl-C during a long solve prints the best schedule and exits 0."""
    instance = tmp_path / "large.json"
    assert run("generate", "project", "--option", "tasks=300", "-o", instance).exit_code == 0
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cpsched",
            "solve",
            str(instance),
            "-t",
            "100",
            "--progress",
            "jsonl",
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()  # the first schedule is there
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    data = json.loads(out)
    assert data["stop_reason"] in ("cancelled", "proved")
    assert data["schedule"] is not None
