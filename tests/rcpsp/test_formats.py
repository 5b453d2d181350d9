"""Readers of project and shop files: what they understand."""

from __future__ import annotations

import pytest

from cpsched.errors import ProblemError
from tests.rcpsp import texts
from tests.rcpsp.texts import read


def links(problem):
    """Precedences as pairs of ids."""
    return [(p.before, p.after) for p in problem.precedences]


def modes(problem, task):
    """Modes of a task as (duration, demands)."""
    chosen = next(t for t in problem.tasks if t.id == task)
    return [(m.duration, m.demands) for m in chosen.modes]


@pytest.mark.parametrize("name", [n for n in texts.ALL if n != "openshop"])
def test_every_format_is_detected(name):
    """Each small file is recognised as its own format."""
    assert texts.detect(*texts.ALL[name]) == name


def test_openshop_is_never_detected():
    """An open shop must be named, as its text says nothing about itself."""
    assert texts.detect(*texts.ALL["openshop"]) is None


def test_content_wins_over_extension():
    """PSPLIB text in a file called .rcp or .txt is still read as PSPLIB."""
    assert texts.detect("a.rcp", texts.SM) == texts.detect("a.txt", texts.SM) == "psplib"


@pytest.mark.parametrize(
    ("file", "head"),
    [
        ("trace.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n"),
        ("A.1048576.csv", "id,lower,upper,size\n0,0,3,4\n"),
        ("pods.csv", "name,cpu_milli,memory_mib,creation_time,deletion_time\n"),
        ("graph.stg", "3\n0 0 0\n1 4 1 0\n"),
        ("wtopt40.txt", " 913\n 1225\n"),
        ("x.json", '{"nodes": []}'),
    ],
)
def test_files_of_others_are_left_alone(file, head):
    """Files of other families are not taken for projects."""
    assert texts.detect(file, head) is None


def test_psplib_single_mode():
    """A .sm file gives job numbers as ids, demands by resource, and its precedences."""
    problem = read("psplib", texts.SM)
    assert [t.id for t in problem.tasks] == ["1", "2", "3", "4", "5"]
    assert modes(problem, "3") == [(4, {"R1": 2, "R2": 1})]
    assert modes(problem, "1") == [(0, {})]
    assert links(problem) == [("1", "2"), ("1", "3"), ("2", "4"), ("3", "5"), ("4", "5")]
    assert [(r.name, r.type, r.capacity) for r in problem.resources] == [
        ("R1", "renewable", 2),
        ("R2", "renewable", 3),
    ]
    assert problem.objectives == ("makespan",)


def test_psplib_due_date():
    """The project's due date and cost of tardiness become those of the last job."""
    last = read("psplib", texts.SM).tasks[-1]
    assert (last.due, last.weight) == (6, 4)


def test_psplib_multi_mode():
    """A .mm file in MMLIB's spelling gives modes in their order and nonrenewable resources."""
    problem = read("psplib", texts.MM)
    assert modes(problem, "2") == [(2, {"R1": 3, "N1": 5}), (4, {"R1": 1})]
    assert [(r.name, r.type, r.capacity) for r in problem.resources] == [
        ("R1", "renewable", 4),
        ("N1", "nonrenewable", 5),
    ]


def test_patterson():
    """Rows may break anywhere and blank lines do not matter."""
    problem = read("patterson", texts.PATTERSON)
    assert links(problem) == [("1", "2"), ("1", "3"), ("2", "4"), ("3", "5"), ("4", "5")]
    assert modes(problem, "3") == [(4, {"R1": 2, "R2": 1})]
    assert [r.capacity for r in problem.resources] == [2, 3]


def test_cpr():
    """Consumption happens at the start, production at the end, and the stock is the level."""
    problem = read("rcpsp-cpr", texts.CPR)
    assert [(r.name, r.type) for r in problem.resources] == [
        ("R1", "renewable"),
        ("Q1", "reservoir"),
        ("Q2", "reservoir"),
    ]
    assert [r.initial for r in problem.resources] == [0, 7, 0]
    assert [(e.resource, e.amount, e.at) for e in problem.tasks[1].events] == [
        ("Q1", 3, "end"),
        ("Q2", -4, "start"),
        ("Q2", 1, "end"),
    ]


def test_cpr_dummies_have_no_events():
    """Quantities of tasks without duration are left out, as in the published results."""
    assert "2" in texts.CPR.splitlines()[2].split()
    assert read("rcpsp-cpr", texts.CPR).tasks[0].events == ()


def test_max_lags():
    """Lags of .sch files are start-to-start, negative ones and cycles included."""
    problem = read("rcpsp-max", texts.SCH)
    assert [t.id for t in problem.tasks] == ["0", "1", "2", "3"]
    assert {p.type for p in problem.precedences} == {"start-start"}
    assert [(p.before, p.after, p.min_lag) for p in problem.precedences] == [
        ("0", "1", 0),
        ("0", "2", 0),
        ("1", "3", 3),
        ("1", "2", 1),
        ("2", "3", 2),
        ("2", "1", -4),
    ]
    assert modes(problem, "2") == [(2, {"R1": 2})]


def test_jsplib():
    """Job shops have ids job-operation from 0, machines from 0, and chains of operations."""
    problem = read("jsplib", texts.JSPLIB)
    assert [t.id for t in problem.tasks] == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    assert modes(problem, "1-0") == [(1, {"M2": 1})]
    assert links(problem) == [("0-0", "0-1"), ("0-1", "0-2"), ("1-0", "1-1"), ("1-1", "1-2")]
    assert [(r.name, r.capacity) for r in problem.resources] == [("M0", 1), ("M1", 1), ("M2", 1)]


def test_job_completion_counts_once():
    """In shops only the last operation of a job has a weight."""
    assert [t.weight for t in read("jsplib", texts.JSPLIB).tasks] == [0, 0, 1, 0, 0, 1]


def test_ragged_jobs_need_the_option():
    """Jobs of different lengths are read only when asked for."""
    problem = read("jsplib", "2 2\n0 1 1 2\n1 3\n", ragged="true")
    assert len(problem.tasks) == 3


def test_operators():
    """With operators, every operation needs one of them besides its machine."""
    problem = read("jsplib", texts.JSPLIB, operators="2")
    assert problem.resources[-1].capacity == 2
    assert modes(problem, "0-1") == [(3, {"M1": 1, "operators": 1})]


def test_fjsplib():
    """Alternatives of an operation are its modes in the order of the file, machines from 1."""
    problem = read("fjsplib", texts.FJS)
    assert [t.id for t in problem.tasks] == ["0-0", "0-1", "1-0"]
    assert modes(problem, "0-0") == [(5, {"M1": 1}), (4, {"M2": 1})]
    assert modes(problem, "1-0") == [(6, {"M2": 1}), (7, {"M1": 1})]


def test_openshop():
    """Operations of an open-shop job are ordered by nothing, and never overlap."""
    problem = read("openshop", texts.OPENSHOP)
    assert modes(problem, "1-2") == [(6, {"M2": 1})]
    assert problem.precedences == ()
    assert [g.tasks for g in problem.disjunctive] == [
        ("0-0", "0-1", "0-2"),
        ("1-0", "1-1", "1-2"),
    ]


def test_wt_index():
    """Option index picks the instance, from 0, whatever the line breaks."""
    problem = read("wt", texts.WT, index="1")
    assert [(t.id, t.modes[0].duration, t.weight, t.due) for t in problem.tasks] == [
        ("0", 7, 2, 3),
        ("1", 1, 2, 4),
        ("2", 1, 9, 8),
    ]
    assert problem.objectives == ("weighted_tardiness",)


def test_wt_size_by_option():
    """Where the name says nothing, option tasks gives the size."""
    assert len(read("wt", texts.WT, "due.txt", tasks="3").tasks) == 3


@pytest.mark.parametrize(
    ("file", "text", "theirs"),
    [
        ("a.sm", texts.SM, "psplib"),
        ("a.rcp", texts.PATTERSON.replace("\t1\n\t5", "\t1\t5"), "patterson"),
        ("a.sch", texts.SCH, "rcpsp_max"),
    ],
)
def test_agrees_with_psplib_package(tmp_path, file, text, theirs):
    """The public package psplib reads the same activities, capacities and successors."""
    psplib = pytest.importorskip("psplib", reason="the package psplib is not installed")
    (tmp_path / file).write_text(text)
    other = psplib.parse(tmp_path / file, theirs)
    problem = read(texts.detect(file, text), text)
    names = [r.name for r in problem.resources]
    assert [r.capacity for r in problem.resources] == [r.capacity for r in other.resources]
    assert [
        [(m.duration, [m.demands.get(name, 0) for name in names]) for m in task.modes]
        for task in problem.tasks
    ] == [[(m.duration, list(m.demands)) for m in a.modes] for a in other.activities]
    index = {task.id: i for i, task in enumerate(problem.tasks)}
    assert sorted((index[p.before], index[p.after]) for p in problem.precedences) == sorted(
        (i, j) for i, a in enumerate(other.activities) for j in a.successors
    )


def test_flow_shop_options():
    """A job shop file read with `permutation` and `no_wait` keeps one order and never waits."""
    problem = read("jsplib", "2 2\n0 1 1 2\n0 3 1 4\n", permutation="true", no_wait="true")
    assert problem.same_sequence[0].lists == (("0-0", "1-0"), ("0-1", "1-1"))
    assert {p.max_lag for p in problem.precedences} == {0}
    with pytest.raises(ProblemError, match="same order"):
        read("jsplib", "2 2\n0 1 1 2\n1 3 0 4\n", permutation="true")


def test_travel_times():
    """The option `travel_times` gives machines symmetric setups, always the same ones."""
    text = "2 2\n0 1 1 2\n1 3 0 4\n"
    rules = read("jsplib", text, travel_times="20").setups
    assert [rule.resource for rule in rules] == ["M0", "M1"]
    assert rules[0].states == {"0-0": 0, "1-1": 1}
    assert rules == read("jsplib", text, travel_times="20").setups
    for rule in rules:
        assert rule.times[0][1] == rule.times[1][0] <= 29
        assert rule.times[0][0] == 0
