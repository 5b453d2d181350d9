"""Readers, writers, and what they refuse."""

from __future__ import annotations

import json

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.workflow.formats import from_networkx
from cpsched.families.workflow.writers import write_gantt, write_saga, write_wfformat
from tests.workflow.helpers import CANONICAL, problem, solved

STG = """  3
  0  0  0
  1  4  1  0
  2  5  1  0
  3  2  2  1  2
  4  0  1  3
# a comment
"""
SAGA = {
    "name": "tiny",
    "task_graph": {
        "tasks": [{"name": "a", "cost": 2}, {"name": "b", "cost": 3}],
        "dependencies": [{"source": "a", "target": "b", "size": 4}],
    },
    "network": {
        "nodes": [{"name": "x", "speed": 1}, {"name": "y", "speed": 2}],
        "edges": [
            {"source": "x", "target": "y", "speed": 8}, {"source": "x", "target": "x", "speed": 9},
        ],
    },
}  # fmt: skip


def wfformat(version="1.5"):
    """Two tasks with one file between them and one input file."""
    return {
        "name": "two",
        "schemaVersion": version,
        "workflow": {
            "specification": {
                "tasks": [
                    {"name": "a", "id": "a", "parents": [], "children": ["b"],
                     "inputFiles": ["in"], "outputFiles": ["f", "g"]},
                    {"name": "b", "id": "b", "parents": ["a"], "children": [],
                     "inputFiles": ["f", "g"], "outputFiles": []},
                ],
                "files": [{"id": "in", "sizeInBytes": 100}, {"id": "f", "sizeInBytes": 30},
                          {"id": "g", "sizeInBytes": 10}],
            },
            "execution": {
                "makespanInSeconds": 3,
                "executedAt": "2026-01-01T00:00:00Z",
                "tasks": [
                    {"id": "a", "runtimeInSeconds": 2.5, "coreCount": 2, "memoryInBytes": 5},
                    {"id": "b", "runtimeInSeconds": 0},
                ],
                "machines": [{"nodeName": "n", "cpu": {"coreCount": 4}, "memoryInBytes": 64}],
            },
        },
    }  # fmt: skip


MACHINES = {
    "machines": [{"name": "m0", "speed": 1}, {"name": "m1", "speed": 2}],
    "bandwidth": 10,
}


def load(tmp_path, name, data, **options):
    """A problem read from a file with this content."""
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    if "machines" in options:
        machines = tmp_path / "machines.json"
        machines.write_text(json.dumps(options["machines"]))
        options["machines"] = str(machines)
    return cpsched.load(path, options=options)


@pytest.mark.parametrize("version", ["1.5", "1.6"])
def test_wfformat(tmp_path, version):
    """Runtimes become work, edge bytes are the sum of matching files, cores and memory count."""
    p = load(tmp_path, "w.json", wfformat(version), machines=MACHINES)
    assert [t.work for t in p.tasks] == [2.5, 0.0]
    assert (p.tasks[0].cores, p.tasks[0].memory) == (2.0, 5.0)
    result = solved(p)
    assert result.objective == 1.25
    fast = {t.id: t for t in p.tasks}
    assert set(fast) == {"a", "b"}


def test_wfformat_bytes_are_summed(tmp_path):
    """Between machines the files of one producer for one consumer follow each other."""
    p = load(tmp_path, "w.json", wfformat(), machines=MACHINES)
    placed = {"tasks": [
        {"task": "a", "machine": "m1", "start": 0, "end": 1.25},
        {"task": "b", "machine": "m0", "start": 5.25, "end": 5.25},
    ]}  # fmt: skip
    assert cpsched.validate(p, placed).valid
    placed["tasks"][1] |= {"start": 5.2, "end": 5.2}
    assert [v.rule for v in cpsched.validate(p, placed).violations] == ["transfer"]


def test_wfformat_inputs_option(tmp_path):
    """Files without a producer lie at the machine of the option."""
    p = load(tmp_path, "w.json", wfformat(), machines=MACHINES, inputs="m0")
    assert solved(p).objective == 2.5


def test_wfformat_own_machines(tmp_path):
    """Without the option the file's machines are used."""
    p = load(tmp_path, "w.json", wfformat())
    assert [(m.name, m.cores, m.memory) for m in p.machines] == [("n", 4.0, 64.0)]


def test_wfformat_round_trip(tmp_path):
    """The writer's file is read again with the schedule's runtimes."""
    p = load(tmp_path, "w.json", wfformat(), machines=MACHINES)
    result = solved(p)
    again = load(tmp_path, "again.json", write_wfformat(p, result.schedule))
    assert [t.work for t in again.tasks] == [1.25, 0.0]
    assert [(f.size, f.producer) for f in again.files] == [(30, "a"), (10, "a")]


def test_saga(tmp_path):
    """Task costs over speeds, data over links, the self link dropped."""
    p = load(tmp_path, "s.json", SAGA)
    assert solved(p).objective == 2.5
    assert len(p.links) == 1
    assert json.loads(write_saga(p, None))["network"]["edges"][0]["speed"] == 8


def test_stg(tmp_path):
    """Processors come from the option, dummies are tasks."""
    p = load(tmp_path, "g.stg", STG, processors="2")
    assert len(p.tasks) == 5
    assert solved(p).objective == 7


def test_matrix(tmp_path):
    """The matrix JSON is recognised; its edges carry times."""
    p = load(tmp_path, "m.json", CANONICAL)
    assert (len(p.tasks), len(p.machines), len(p.edges)) == (10, 3, 15)


def test_networkx():
    """Nodes with attributes become tasks, edges carry bytes."""
    networkx = pytest.importorskip("networkx")
    graph = networkx.DiGraph()
    graph.add_node("a", weight=4)
    graph.add_node("b", work=2, deadline=50)
    graph.add_edge("a", "b", size=10)
    p = from_networkx(graph, 2, bandwidth=5)
    assert [t.work for t in p.tasks] == [4, 2]
    assert p.edges[0].size == 10
    assert solved(p).objective == 6


def test_gantt_lists_tasks_and_transfers():
    """The Gantt CSV has a row per task and transfer."""
    p = problem(
        tasks=[{"id": "a", "work": 4, "machines": ["m0"]},
               {"id": "b", "work": 2, "machines": ["m1"]}],
        edges=[{"source": "a", "target": "b", "size": 10}],
        bandwidth=5,
    )  # fmt: skip
    lines = write_gantt(p, solved(p).schedule).splitlines()
    assert lines[0] == "machine,kind,item,from,start,end"
    assert [line.split(",")[1] for line in lines[1:]] == ["task", "transfer", "task"]


def broken(change):
    """The WfFormat example after a change."""
    data = wfformat()
    change(data)
    return data


def _tasks(data):
    return data["workflow"]["specification"]["tasks"]


BAD = {
    "version": (broken(lambda d: d.update(schemaVersion="1.3")), "schemaVersion"),
    "children": (broken(lambda d: _tasks(d)[0].update(children=[])), "must agree"),
    "parents": (broken(lambda d: _tasks(d)[1].update(parents=["zzz"])), "ids of tasks"),
    "size": (
        broken(lambda d: d["workflow"]["specification"]["files"][0].update(sizeInBytes=-1)),
        "sizeInBytes",
    ),
    "runtime": (
        broken(lambda d: d["workflow"]["execution"]["tasks"].pop()), "runtimeInSeconds",
    ),
    "cycle": (
        broken(lambda d: (_tasks(d)[0].update(parents=["b"]), _tasks(d)[1].update(children=["a"]))),
        "cycle: ",
    ),
    "double": (broken(lambda d: _tasks(d)[1].update(id="a")), "unique"),
    "two sizes": (
        broken(
            lambda d: d["workflow"]["specification"]["files"].append(
                {**d["workflow"]["specification"]["files"][0], "sizeInBytes": 1}
            )
        ),
        "described twice",
    ),
    "no list": (broken(lambda d: _tasks(d)[1].update(parents="a")), "list"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_wfformat(tmp_path, name):
    """Each fault is one message that names the file, the place and the rule."""
    data, text = BAD[name]
    with pytest.raises(ProblemError, match=text) as caught:
        load(tmp_path, "bad.json", data, machines=MACHINES)
    assert "bad.json" in str(caught.value)


BAD_FIELDS = {
    "no place": ({"tasks": [{"id": "a", "work": 1, "labels": ["gpu"]}]}, "fits no machine"),
    "too large": (
        {
            "tasks": [{"id": "a", "work": 1, "memory": 9}],
            "machines": [{"name": "m", "cores": 1, "memory": 4}],
        },
        "fits no machine",
    ),
    "bandwidth": ({"tasks": [], "bandwidth": 0}, "greater than or equal"),
    "negative": ({"tasks": [{"id": "a", "work": -1}]}, "greater than or equal"),
    "cycle": (
        {
            "tasks": [{"id": k, "work": 1} for k in "abc"],
            "edges": [{"source": u, "target": v} for u, v in ("ab", "bc", "ca")],
        },
        "cycle: .*->",
    ),
    "self": (
        {"tasks": [{"id": "a", "work": 1}], "edges": [{"source": "a", "target": "a"}]},
        "wait for itself",
    ),
    "unknown": (
        {"tasks": [{"id": "a", "work": 1}], "edges": [{"source": "a", "target": "z"}]},
        "task of that name",
    ),
    "duplicate": ({"tasks": [{"id": "a", "work": 1}, {"id": "a", "work": 1}]}, "unique"),
    "no duration": ({"tasks": [{"id": "a"}]}, "exactly one of work"),
    "probability": ({"tasks": [{"id": "a", "work": 1, "success": 1.5}]}, "less than or equal"),
    "huge": (
        {
            "tasks": [{"id": str(k), "work": 1e15} for k in range(5)],
            "machines": [{"name": "m", "speed": 1e-9}],
        },
        "larger time unit",
    ),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_problem(name):
    """Contradictory problems are refused with the rule in the message."""
    fields, text = BAD_FIELDS[name]
    with pytest.raises(ProblemError, match=text):
        cpsched.solve(problem(**fields), time_limit=1)


PLACES = {
    "tasks.1.work": {"tasks": [{"id": "a", "work": 1}, {"id": "b"}]},
    "tasks.0.options.1": {"tasks": [{"id": "a", "options": [{"work": 1}, {}]}]},
    "machines.1.windows.0": {
        "tasks": [],
        "machines": [{"name": "m"}, {"name": "n", "windows": [[5, 3]]}],
    },
    "machines.0.prices": {"tasks": [], "machines": [{"name": "m", "prices": [[1, 3]]}]},
}


@pytest.mark.parametrize("place", PLACES)
def test_faults_within_records_have_a_place(place):
    """A fault within a task or a machine names which one."""
    with pytest.raises(ProblemError) as caught:
        problem(**PLACES[place])
    assert caught.value.place == place


def test_bad_machine_file(tmp_path):
    """A fault of the machine file is reported under its name."""
    with pytest.raises(ProblemError, match="speed") as caught:
        load(tmp_path, "a.json", wfformat(), machines={"machines": [{"name": "m", "speed": -1}]})
    assert caught.value.file.endswith("machines.json")


def test_inputs_must_be_a_machine(tmp_path):
    """The option inputs names one of the machines, also when no file lies there."""
    with pytest.raises(ProblemError, match="must name a machine"):
        load(tmp_path, "a.json", wfformat(), machines=MACHINES, inputs="zzz")


@pytest.mark.parametrize("text", ["2\n 0 0 0\n", "x\n", "1\n0 0 0\n1 4 1\n2 0 1 1\n"])
def test_bad_stg(tmp_path, text):
    """Truncated and garbled STG files are refused by line."""
    with pytest.raises(ProblemError, match="line"):
        load(tmp_path, "bad.stg", text)
