"""MiniMalloc CSV in and out, and refusals of bad input."""

from __future__ import annotations

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.memory.formats import write_csv
from cpsched.families.memory.problem import MemoryProblem

TEXT = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\n"


@pytest.fixture
def save(tmp_path):
    """Writes a text to a file of a name and returns its path."""

    def write(text, name="case.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_capacity_comes_from_the_file_name(save):
    """NAME.<capacity>.csv gives the capacity; the option overrides it."""
    path = save(TEXT, "case.12.csv")
    assert cpsched.load(path).capacity == 12
    assert cpsched.load(path, options={"capacity": "20"}).capacity == 20
    assert cpsched.load(path, options={"capacity": "none"}).capacity is None


def test_feasibility_is_optimal_without_an_objective(save):
    """Within a capacity any allocation is OPTIMAL with objective null."""
    result = cpsched.solve(cpsched.load(save(TEXT, "case.8.csv")), 5.0, workers=1)
    assert (result.status, result.objective) == ("OPTIMAL", None)


def test_end_column_is_inclusive(save):
    """``end`` names the last time at which a buffer is alive."""
    problem = cpsched.load(save("buffer_id,start,end,size\nx,0,2,4\n"))
    assert (problem.buffers[0].lower, problem.buffers[0].upper) == (0, 3)


def test_lifetimes_option_overrides_the_column(save):
    """The convention can be named where the header misleads."""
    problem = cpsched.load(save(TEXT), options={"lifetimes": "inclusive"})
    assert problem.buffers[0].upper == 4


def test_gaps_alignment_and_offset_are_read(save):
    """Optional columns: alignment, gaps with windows, pinned offsets."""
    text = "id,lower,upper,size,alignment,gaps,offset\nx,0,9,8,4,1-3 5-6@0:2,16\n"
    buffer = cpsched.load(save(text)).buffers[0]
    assert buffer.alignment == 4
    assert buffer.offset == 16
    assert [(g.lower, g.upper, g.window) for g in buffer.gaps] == [(1, 3, None), (5, 6, (0, 2))]


def test_written_csv_reads_back_with_offsets(save):
    """The writer's offsets come back as pins, and the pinned problem is feasible."""
    problem = cpsched.load(save(TEXT))
    result = cpsched.solve(problem, 5.0, workers=1)
    again = cpsched.load(save(write_csv(problem, result.schedule), "again.csv"))
    assert [b.offset for b in again.buffers] == [p.offset for p in result.schedule.buffers]
    assert cpsched.solve(again, 5.0, workers=1).objective == result.objective


BAD = {
    "id,lower,upper\nx,0,1\n": "column size",
    "id,lower,upper,size\nx,3,1,4\n": "end before it starts",
    "id,lower,upper,size\nx,0,1,-4\n": "size must be a whole number",
    "id,lower,upper,size\nx,0,1,4\nx,0,1,4\n": "unique",
    "id,lower,upper,size\nx,0,1\n": "4 fields",
    "id,lower,upper,size\nx,0,1,nan\n": "size must be a whole number",
    "id,lower,upper,size\nx,0,1,99999999999999999999\n": "size must be a whole number",
    "id,lower,upper,size,colour\nx,0,1,4,red\n": "a column must be one of",
    "id,lower,upper,size,gaps\nx,0,9,4,1to2\n": "a gap is written",
    "id,lower,upper,size,gaps\nx,0,9,4,8-12\n": "gaps must lie within",
    "id,lower,upper,size,alignment\nx,0,9,4,0\n": "alignment must be",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_rows_are_refused_with_line_and_rule(save, text):
    """The message names the file, the line and the rule."""
    path = save(text)
    with pytest.raises(ProblemError) as caught:
        cpsched.load(path)
    message = str(caught.value)
    assert BAD[text] in message
    assert "line" in message
    assert str(path) in message


def test_zero_size_is_legal(save):
    """A buffer of size zero is placed and costs nothing."""
    problem = cpsched.load(save("id,lower,upper,size\nx,0,1,0\ny,0,1,3\n"))
    assert cpsched.solve(problem, 5.0, workers=1).objective == 3


def test_buffer_above_the_capacity_is_infeasible(save):
    """It is a well-formed problem without an allocation."""
    result = cpsched.solve(cpsched.load(save(TEXT, "case.3.csv")), 5.0, workers=1)
    assert result.status == "INFEASIBLE"


BAD_PROBLEMS = {
    "names must be unique": {"buffers": [{"id": "a", "size": 1, "lower": 0, "upper": 1}] * 2},
    "must have a lifetime": {"buffers": [{"id": "a", "size": 1}]},
    "aliases must not form a cycle": {
        "buffers": [
            {"id": "a", "size": 1, "lower": 0, "upper": 1, "alias": {"of": "b"}},
            {"id": "b", "size": 1, "lower": 0, "upper": 1, "alias": {"of": "a"}},
        ]
    },
    "the buffer must exist": {
        "buffers": [{"id": "a", "size": 1, "lower": 0, "upper": 1, "in_place": ["z"]}]
    },
    "in a cycle": {
        "buffers": [{"id": "a", "size": 1}, {"id": "b", "size": 1}],
        "operations": [
            {"id": "x", "inputs": ["b"], "outputs": ["a"]},
            {"id": "y", "inputs": ["a"], "outputs": ["b"]},
        ],
    },
    "the space must exist": {
        "buffers": [
            {
                "id": "a",
                "size": 1,
                "lower": 0,
                "upper": 4,
                "uses": [{"start": 0, "end": 1, "benefit": {"faster": 1}}],
            }
        ],
        "spaces": [{"name": "fast", "capacity": 4}],
    },
    "does not belong": {"buffers": [], "objectives": ["peak_memory"]},
}


@pytest.mark.parametrize("rule", BAD_PROBLEMS)
def test_contradictory_problems_are_refused(rule):
    """Each refusal names the rule."""
    with pytest.raises(ProblemError, match=rule):
        MemoryProblem.parse({"kind": "memory"} | BAD_PROBLEMS[rule])


def test_problem_round_trips_as_json():
    """cpsched JSON loses nothing."""
    problem = cpsched.loads(
        '{"kind": "memory", "buffers": [{"id": "a", "size": 3, "lower": 0, "upper": 5,'
        ' "gaps": [{"lower": 1, "upper": 2, "window": [0, 1]}]}]}'
    )
    assert cpsched.loads(problem.to_json()) == problem
