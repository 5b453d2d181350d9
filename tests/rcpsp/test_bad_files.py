"""Files that are wrong: each gives one `ProblemError` that names the place, the value, the rule."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.problem import RcpspProblem
from cpsched.problem import parse_json
from tests.rcpsp import texts
from tests.rcpsp.texts import read

PROBLEM = {
    "schema_version": "1",
    "kind": "rcpsp",
    "tasks": [
        {"id": "a", "modes": [{"duration": 2, "demands": {"r": 1}}]},
        {"id": "b", "modes": [{"duration": 2}]},
    ],
    "resources": [{"name": "r", "capacity": 1}],
    "precedences": [{"before": "a", "after": "b"}],
}

DAMAGE = ["", "-1", "0", "99", "1e400", "nan", "*", "[", "]", ";", ",", '"', "\n", "\t", "\0", "x"]
DAMAGE += ["9" * 20, "2026-01-01", "FS+1", "[tasks]", "[resources]", "#", ":", "@", "..", "\u0663"]


def complaint(name, text, **options):
    """The error that reading the text gives."""
    with pytest.raises(ProblemError) as caught:
        read(name, text, **options)
    error = caught.value
    assert error.rule
    assert error.remedy
    return error


def changed(text, old, new):
    """The text with one piece replaced, which must be there once."""
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize("name", [n for n in texts.ALL if n != "rcpsp-csv"])
def test_every_truncation_is_noticed(name):
    """A file that stops after any line but the last one with numbers is a complaint."""
    _, text = texts.ALL[name]
    rows = text.splitlines(keepends=True)
    last = max(i for i, row in enumerate(rows) if any(t.isdigit() for t in row.split()))
    for cut in range(last + 1):
        complaint(name, "".join(rows[:cut]), **({"index": "1"} if name == "wt" else {}))


@pytest.mark.parametrize("name", ["psplib", "patterson", "rcpsp-cpr", "rcpsp-max", "jsplib"])
def test_truncation_names_the_last_line(name):
    """Where half of a file is missing, the message gives the line where it stops."""
    _, text = texts.ALL[name]
    rows = text.splitlines(keepends=True)
    half = "".join(rows[: len(rows) // 2])
    error = complaint(name, half)
    assert "line" in error.place


@pytest.mark.parametrize("name", texts.ALL)
@pytest.mark.parametrize("junk", ["\x00\x01\x02\x7f", "{" * 5000, "-" * 1000, "1e400", "NaN NaN"])
def test_junk(name, junk):
    """Binary junk, deep nesting and numbers that are none are refused."""
    complaint(name, junk)


@pytest.mark.parametrize("name", [n for n in texts.ALL if n != "rcpsp-csv"])
@pytest.mark.parametrize("value", ["nan", "1e400", "-7", "2.5", "99999999999999", "٣", "1_0"])
def test_numbers_that_are_none(name, value):
    """A number replaced by something that is none, negative or huge is a complaint."""
    _, text = texts.ALL[name]
    rows = text.splitlines(keepends=True)
    at = max(i for i, row in enumerate(rows) if any(t.isdigit() for t in row.split()))
    last = next(t for t in reversed(rows[at].split()) if t.isdigit())
    head, _, tail = rows[at].rpartition(last)
    rows[at] = head + value + tail
    options = {"index": "1"} if name == "wt" else {}
    error = complaint(name, "".join(rows), **options)
    assert error.value is not None


def test_negative_duration_names_line_and_value():
    """A negative duration in a .sm file is reported with its line."""
    error = complaint("psplib", changed(texts.SM, "3      1     4 ", "3      1    -4 "))
    assert (error.place, error.value) == ("line 29", -4)
    assert "duration of job 3 must not be negative" in error.rule


def test_unknown_successor():
    """A successor beyond the number of jobs is reported with its line."""
    error = complaint("psplib", changed(texts.SM, "   2   3\n", "   2   9\n"))
    assert (error.place, error.value) == ("line 18", 9)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("psplib", changed(texts.SM, "   4        1          1           5", "   4 1 1 2")),
        ("patterson", changed(texts.PATTERSON, "3\t0\t2\t1\t5", "3\t0\t2\t1\t2")),
        ("rcpsp-csv", changed(texts.CSV, "dig,3,,", "dig,3,dry,")),
    ],
)
def test_cycle_is_spelled_out(name, text):
    """A cycle of precedences is reported as the path it is."""
    error = complaint(name, text)
    assert "cycle" in error.rule
    first, *_, last = str(error.value).split(" -> ")
    assert first == last


def test_long_cycle_is_quick():
    """A cycle through 20,000 tasks is found without a hang and shown shortened."""
    n = 20_000
    rows = [f"1 1 {i % n + 1}" for i in range(1, n + 1)]
    error = complaint("patterson", f"{n} 0\n" + "\n".join(rows))
    assert "..." in str(error.value)


def test_job_numbers_must_be_in_order():
    """A job that is listed twice, or missing, is reported with the number expected."""
    error = complaint(
        "psplib", changed(texts.SM, "   3        1          1 ", "   2        1          1 ")
    )
    assert error.place == "line 20"


def test_wrong_file_with_right_extension():
    """Text of another format in a .sm file says what is missing."""
    error = complaint("psplib", texts.JSPLIB)
    assert "PRECEDENCE RELATIONS" in error.rule


def test_doubly_constrained_resources():
    """Doubly constrained resources are refused with what to do instead."""
    error = complaint(
        "psplib", changed(texts.SM, "doubly constrained        :  0", "doubly constrained : 1")
    )
    assert "doubly" in error.rule


def test_numbers_left_over():
    """Numbers after the announced ones are reported."""
    assert complaint("patterson", texts.PATTERSON + "9 9\n").place == "line 10"


def test_cpr_as_patterson():
    """Reading a reservoir file as Patterson does not succeed silently."""
    complaint("patterson", texts.CPR)


def test_multi_mode_lags():
    """Multi-mode .sch files are refused."""
    assert "modes" in complaint("rcpsp-max", changed(texts.SCH, "0\t1\t2\t1", "0\t2\t2\t1")).rule


def test_machine_out_of_range():
    """A machine number beyond the number of machines is reported with the numbering."""
    error = complaint("jsplib", changed(texts.JSPLIB, "0 4 1 3 2 2", "0 4 1 3 3 2"))
    assert "numbered from 0" in error.remedy
    error = complaint("fjsplib", changed(texts.FJS, "2 2 1 5", "2 2 0 5"))
    assert "numbered from 1" in error.remedy


def test_open_shop_without_its_format():
    """An open shop read as a job shop points to --format openshop."""
    assert "openshop" in complaint("jsplib", "3 3\n1 2 3\n4 5 6\n7 8 9\n").remedy


def test_unequal_jobs():
    """A shortened job line is not taken for a shorter job."""
    assert complaint("jsplib", "2 2\n0 1 1 2\n1 3\n").place == "line 3"


@pytest.mark.parametrize("value", ["2", "-1", "x", "1.5", "9" * 5000])
def test_wt_index_out_of_range(value):
    """An index that is no instance of the file is refused."""
    assert "index" in complaint("wt", texts.WT, index=value).rule


def test_options_of_true_and_false():
    """An option that must be true or false is nothing else."""
    assert "ragged" in complaint("jsplib", texts.JSPLIB, ragged="maybe").rule


@pytest.mark.parametrize(
    ("old", "new", "place", "rule"),
    [
        ("id,duration", "id,length", "line 1", "columns of [tasks]"),
        ("duration,predecessors", "name,predecessors", "line 1", "column duration"),
        ("dig,3", "dig,three", "line 2", "whole number"),
        ("dig,3", "dig,-3", "line 2", "not be negative"),
        ("dig,3", "dig,1e400", "line 2", "whole number"),
        ("pour,2", "dig,2", "line 3", "unique"),
        ("pour,2", ",2", "line 3", "must have an id"),
        ("2,dig,", "2,digg,", "line 3", "predecessor must be the id"),
        ("pourFS+1..3", "pourXX+1", "line 4", "predecessor must be the id"),
        ("crew;mixer", "crew;mixer:2", "line 3", "not listed"),
        ("crew:2", "crew:2:3", "line 2", "demand must be like"),
        ("mixer,9", "mixer,2026-03-06", "line 3", "whole number"),
        ("[resources]", "[resource]", "line 5", "section must be"),
        ("crew,2", "crew,2,3", "line 7", "more than 2 cells"),
        ("crew,2", '"crew,2', "line 7", "must be CSV"),
        ("crew,2", "crew,2\ncrew,3", "line 8", "unique"),
    ],
)
def test_csv_cells(old, new, place, rule):
    """A wrong cell is reported with its line and the rule it breaks."""
    error = complaint("rcpsp-csv", changed(texts.CSV, old, new))
    assert error.place.startswith(place)
    assert rule in error.rule


def test_csv_dates_need_their_calendar():
    """A date before the calendar's start, or in no known form, is refused."""
    text = changed(texts.CSV, "mixer,9", "mixer,2026-03-06")
    assert "before" in complaint("rcpsp-csv", text, start="2026-04-01").rule
    assert "ISO 8601" in complaint("rcpsp-csv", texts.CSV, start="next monday").rule
    assert "start" in complaint("rcpsp-csv", texts.CSV, weekdays="mon-fri").rule


def test_csv_hostile_cell_is_quick():
    """A cell of a hundred thousand blanks does not hang the parser of predecessors."""
    cell = "dig" + " " * 100_000 + "x"
    complaint("rcpsp-csv", changed(texts.CSV, "2,dig,", f"2,{cell},"))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"start": "2026-02-30"}, "start"),
        ({"holidays": ["easter"]}, "holidays"),
        ({"weekdays": [7]}, "weekdays"),
        ({"weekdays": []}, "weekdays"),
        ({"hours": [17, 8]}, "hours"),
        ({"start": "2026-03-02T08:30", "unit": "hour"}, "start"),
        ({"resources": ["nobody"]}, "resources"),
        ({"length": 0}, "length"),
        ({"exceptions": [{"resources": ["nobody"]}]}, "exceptions.0.resources"),
        ({"exceptions": [{"resources": ["r"], "weekdays": [9]}]}, "exceptions.0.weekdays"),
        ({"exceptions": [{"resources": ["r", "r"]}]}, "exceptions.1"),
    ],
)
def test_calendar_that_cannot_be(change, place):
    """Dates, days and hours that do not exist are refused when the problem is read."""
    data = PROBLEM | {"calendar": {"start": "2026-03-02"} | change}
    with pytest.raises(ProblemError) as caught:
        RcpspProblem.parse(data)
    assert caught.value.place.startswith(f"calendar.{place}")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('"duration": 2, ', '"duration": -2, ', "tasks.0.modes.0.duration"),
        ('"duration": 2, ', '"duration": 2.5, ', "tasks.0.modes.0.duration"),
        ('"duration": 2, ', '"duration": 1e30, ', "tasks.0.modes.0.duration"),
        ('"id": "b"', '"id": "a"', "tasks.1.id"),
        ('"after": "b"', '"after": "c"', "precedences.0.after"),
        ('{"r": 1}', '{"q": 1}', "tasks.0.modes.0.demands"),
        ('"name": "r"', '"nome": "r"', "resources.0.name"),
        ('"capacity": 1', '"capacity": null', "resources.0.capacity"),
    ],
)
def test_json_fields(old, new, place):
    """A wrong field of cpsched JSON is reported by its path."""
    text = changed(json.dumps(PROBLEM), old, new)
    with pytest.raises(ProblemError) as caught:
        RcpspProblem.parse(parse_json(text))
    assert place in caught.value.place


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_json_numbers_that_are_none(number):
    """NaN, infinity and numbers beyond every limit are refused in JSON."""
    text = changed(json.dumps(PROBLEM), '"duration": 2, ', f'"duration": {number}, ')
    with pytest.raises(ProblemError):
        RcpspProblem.parse(parse_json(text))


def test_json_nested_deeply():
    """JSON that is nested ten thousand deep is refused."""
    text = changed(json.dumps(PROBLEM), '{"r": 1}', "[" * 10_000 + "]" * 10_000)
    with pytest.raises(ProblemError):
        RcpspProblem.parse(parse_json(text))


@pytest.mark.parametrize(
    "text",
    [
        changed(texts.SM, "  3      1     4       2    1", "  3      1     4       9    1"),
        changed(texts.MM, "3\t1\t3\t2\t1", "3\t1\t3\t9\t1"),
    ],
)
def test_demand_above_capacity_is_legal(text):
    """A demand that no capacity meets is a problem without a schedule, not a malformed one."""
    assert read("psplib", text).tasks


def test_deadline_before_release_is_legal():
    """A deadline before the release is a problem without a schedule, not a malformed one."""
    text = "id,duration,release,deadline\na,2,5,3\n"
    task = read("rcpsp-csv", text).tasks[0]
    assert (task.release, task.deadline) == (5, 3)


@pytest.mark.parametrize("name", texts.ALL)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files(name, data):
    """Whatever happens to a file, reading it gives a problem or a `ProblemError`."""
    _, text = texts.ALL[name]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        gone = data.draw(st.sampled_from([0, 1, 5, 20]))
        piece = data.draw(st.sampled_from(DAMAGE))
        text = text[:at] + piece + text[at + gone :]
    with contextlib.suppress(ProblemError):
        assert isinstance(read(name, text), RcpspProblem)
