"""The planner's CSV, dates, and the writers."""

from __future__ import annotations

import pytest

from cpsched.errors import ProblemError
from cpsched.families.rcpsp import writers
from cpsched.families.rcpsp.dates import date_of, dated, finish_of, time_of
from cpsched.families.rcpsp.draw import draw
from cpsched.families.rcpsp.generate import project, shop
from cpsched.families.rcpsp.problem import Calendar, RcpspProblem, RcpspSchedule
from cpsched.families.rcpsp.profile import capacity_profiles
from tests.rcpsp import texts
from tests.rcpsp.texts import read

EVERYTHING = RcpspProblem.parse(
    {
        "name": "everything",
        "time_unit": "day",
        "horizon": 90,
        "objectives": ["late_tasks", "resource_cost"],
        "calendar": {
            "start": "2026-03-02",
            "weekdays": [0, 1, 2, 3, 4],
            "holidays": ["2026-04-03", "2026-04-06"],
            "resources": ["crew"],
            "length": 400,
            "exceptions": [
                {"resources": ["crane"], "weekdays": [5, 6]},
                {"resources": ["digger"], "holidays": []},
            ],
        },
        "resources": [
            {
                "name": "crew",
                "capacity": 3,
                "unit_cost": 2,
                "capacity_changes": [{"start": 3, "end": 5, "capacity": 1}],
            },
            {"name": "crane"},
            {"name": "digger"},
            {"name": "money", "type": "nonrenewable", "capacity": 50},
            {"name": "tank", "type": "reservoir", "initial": 4, "minimum": -1, "maximum": 9},
        ],
        "tasks": [
            {
                "id": "a",
                "modes": [
                    {"duration": 3, "demands": {"crew": 2, "money": 7}, "cost": 1},
                    {"duration": 5, "demands": {"crew": 1}},
                ],
                "release": 1,
                "deadline": 30,
                "due": 9,
                "weight": 4,
                "earliness_weight": 2,
                "pausable": True,
            },
            {
                "id": "b, the second's",
                "modes": [{"duration": 2}],
                "optional": True,
                "events": [
                    {"resource": "tank", "amount": -3, "at": "start"},
                    {"resource": "tank", "amount": 2, "at": "end"},
                ],
            },
            {"id": "c", "modes": [{"duration": 0}], "optional": True, "weight": 0},
        ],
        "precedences": [
            {"before": "a", "after": "c", "type": "start-end", "min_lag": -4, "max_lag": 20},
            {"before": "c", "after": "a", "min_lag": None, "max_lag": 8},
        ],
        "disjunctive": [{"name": "room", "tasks": ["a", "c"]}],
        "selections": [{"type": "implication", "tasks": ["c"], "condition": "a"}],
    }
)


def renamed(problem):
    """The problem with names that CSV can list."""
    data = problem.to_dict()
    data["tasks"][1]["id"] = "b"
    return RcpspProblem.parse(data)


def test_simple_table():
    """One table of tasks gives tasks, links like FS+1..3, demands, and implied machines."""
    problem = read("rcpsp-csv", texts.CSV)
    assert [(r.name, r.capacity) for r in problem.resources] == [("crew", 2), ("mixer", 1)]
    assert [(p.before, p.after, p.min_lag, p.max_lag) for p in problem.precedences] == [
        ("dig", "pour", 0, None),
        ("pour", "dry", 1, 3),
    ]
    assert [(t.deadline, t.weight) for t in problem.tasks] == [(None, 2), (9, 1), (None, 1)]


@pytest.mark.parametrize(
    ("cell", "link"),
    [
        ("a", ("end-start", 0, None)),
        ("aFS", ("end-start", 0, None)),
        ("a+3", ("end-start", 3, None)),
        ("aSS+2", ("start-start", 2, None)),
        ("a FF - 1", ("end-end", -1, None)),
        ("aSF..4", ("start-end", 0, 4)),
        ("ass-2..+5", ("start-start", -2, 5)),
    ],
)
def test_links(cell, link):
    """Predecessors take the kind of link and the lags that planning tools write."""
    problem = read("rcpsp-csv", f"id,duration,predecessors\na,1,\nb,1,{cell}\n")
    (p,) = problem.precedences
    assert (p.type, p.min_lag, p.max_lag) == link


def test_ids_win_over_links():
    """An id that looks like a link is that task."""
    text = "id,duration,predecessors\na,1,\naFS+1,1,\nb,1,aFS+1\n"
    assert read("rcpsp-csv", text).precedences[0].before == "aFS+1"


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(separator):
    """Tables with semicolons or tabs are read alike."""
    rows = [["id", "duration", "predecessors"], ["a", "2", ""], ["b", "3.0", "a"]]
    text = "\r\n".join(separator.join(row) for row in rows)
    assert texts.detect("x.txt", text) == "rcpsp-csv"
    problem = read("rcpsp-csv", text)
    assert problem.tasks[1].modes[0].duration == 3
    assert len(problem.precedences) == 1


def test_modes_are_numbered_rows():
    """Rows with the same id and a mode number are modes of one task."""
    text = "id,mode,duration,resources,cost\na,1,2,m1,5\na,2,3,m2,\n"
    (task,) = read("rcpsp-csv", text).tasks
    assert [(m.duration, m.demands, m.cost) for m in task.modes] == [
        (2, {"m1": 1}, 5),
        (3, {"m2": 1}, 0),
    ]


def test_dates_become_times():
    """With a start date, release dates begin a day, deadlines and due dates end one."""
    text = "id,duration,release,deadline,due\na,2,2026-03-04,2026-03-10,2026-03-09\n"
    (task,) = read("rcpsp-csv", text, start="2026-03-02").tasks
    assert (task.release, task.deadline, task.due) == (2, 9, 8)


def test_calendar_binds_tasks_without_resources():
    """With working days, every pausable task keeps to them, whether or not it has a resource."""
    text = "id,duration,resources,pausable\na,2,,\nb,2,crew,\nc,2,,no\n"
    problem = read("rcpsp-csv", text, start="2026-03-02", weekdays="mon-fri")
    assert [set(t.modes[0].demands) for t in problem.tasks] == [{"working time"}, {"crew"}, set()]
    assert problem.calendar.weekdays == (0, 1, 2, 3, 4)


def test_calendar_section():
    """The calendar can be a section of the file."""
    text = (
        "[calendar]\nstart,unit,weekdays,hours,holidays\n2026-03-02,hour,sat-mon;wed,8-17,"
        "2026-04-03;2026-04-06\n[tasks]\nid,duration\na,2\n"
    )
    calendar = read("rcpsp-csv", text).calendar
    assert (calendar.unit, calendar.hours) == ("hour", (8, 17))
    assert calendar.weekdays == (0, 2, 5, 6)
    assert calendar.holidays == ("2026-04-03", "2026-04-06")


def test_calendar_exceptions():
    """Further lines of the calendar are the working times of the resources they name."""
    text = (
        "[calendar]\nstart,weekdays,resources\n2026-03-02,mon-fri,\n,sat;sun,crane\n"
        "[tasks]\nid,duration,resources\na,2,crane\nb,2,crew\n"
    )
    profiles = capacity_profiles(read("rcpsp-csv", text))
    assert profiles["crew"][:2] == [(5, 7, 0), (12, 14, 0)]
    assert profiles["crane"][:2] == [(0, 5, 0), (7, 12, 0)]


@pytest.mark.parametrize(
    "problem",
    [
        renamed(EVERYTHING),
        read("psplib", texts.MM),
        read("rcpsp-cpr", texts.CPR),
        read("rcpsp-max", texts.SCH),
        read("openshop", texts.OPENSHOP),
        read("wt", texts.WT),
        project({"tasks": "30", "modes": "2", "nonrenewable": "1", "due": "0.5"}),
        shop({"jobs": "3", "machines": "2", "shutdowns": "2", "pausable": "true"}),
    ],
    ids=lambda p: p.name,
)
def test_csv_round_trip(problem):
    """A problem written as CSV reads back as the same problem."""
    text = writers.write_csv(problem, None)
    assert texts.detect("x.csv", text) == "rcpsp-csv"
    assert read("rcpsp-csv", text) == problem


def test_csv_refuses_names_it_cannot_list():
    """A name with a separator in it cannot be written to CSV."""
    with pytest.raises(ProblemError, match="names in CSV"):
        writers.write_csv(EVERYTHING, None)


@pytest.mark.parametrize("text", [texts.SM, texts.MM])
def test_psplib_round_trip(text):
    """A PSPLIB problem written as PSPLIB reads back as the same problem."""
    problem = read("psplib", text)
    assert read("psplib", writers.write_psplib(problem, None)) == problem


def test_psplib_gets_dummies():
    """A project without dummy jobs gets them, linked to its first and last tasks."""
    problem = read("rcpsp-csv", "id,duration,predecessors\na,2,\nb,3,a\nc,1,\n")
    again = read("psplib", writers.write_psplib(problem, None))
    assert [t.modes[0].duration for t in again.tasks] == [0, 2, 3, 1, 0]
    assert sorted((p.before, p.after) for p in again.precedences) == [
        ("1", "2"),
        ("1", "4"),
        ("2", "3"),
        ("3", "5"),
        ("4", "5"),
    ]


def test_psplib_refuses_what_it_cannot_say():
    """Lags, calendars and reservoirs are refused by name instead of being dropped."""
    for problem in (EVERYTHING, read("rcpsp-cpr", texts.CPR), read("rcpsp-max", texts.SCH)):
        with pytest.raises(ProblemError, match="PSPLIB cannot express"):
            writers.write_psplib(problem, None)


SCHEDULE = RcpspSchedule.parse(
    {
        "tasks": [
            {"task": "c", "start": 4, "end": 4},
            {"task": "a", "mode": 1, "start": 1, "end": 4, "resources": ["crew"]},
        ]
    }
)


def test_dates_of_a_schedule():
    """Tasks are listed by start, with the first and the last day they are worked on."""
    rows = dated(EVERYTHING, SCHEDULE)
    assert [(r["task"], r["start_date"], r["finish_date"]) for r in rows] == [
        ("a", "2026-03-03", "2026-03-05"),
        ("c", "2026-03-06", "2026-03-06"),
    ]
    text = writers.write_dates(EVERYTHING, SCHEDULE)
    assert text.splitlines()[0] == "task,mode,start,end,start_date,finish_date,resources"
    assert len(text.splitlines()) == 3


def test_dates_need_a_schedule():
    """Without a schedule there is nothing to list."""
    with pytest.raises(ProblemError, match="schedule"):
        writers.write_dates(EVERYTHING, None)


def test_hours_are_moments():
    """With hours, a time is a moment of the day, and intervals end where they end."""
    calendar = Calendar(start="2026-03-02T08:00", unit="hour")
    assert date_of(calendar, 3) == "2026-03-02T11:00"
    assert finish_of(calendar, 26) == "2026-03-03T10:00"
    assert time_of(calendar, "2026-03-03T10:00", "") == 26


def test_dates_and_times_are_inverse():
    """The time of the date of a time is that time."""
    for unit in ("minute", "hour", "day"):
        calendar = Calendar(start="2026-03-28", unit=unit)
        assert [time_of(calendar, date_of(calendar, t), "") for t in range(90)] == list(range(90))


def test_time_between_units():
    """A date that lies between two time units is refused."""
    with pytest.raises(ProblemError, match="whole number of hours"):
        time_of(Calendar(start="2026-03-02", unit="hour"), "2026-03-02T08:30", "line 3")


def test_time_beyond_the_years():
    """A time beyond the year 9999 is still written, as a sum."""
    assert date_of(Calendar(start="2026-03-02"), 10**9) == "2026-03-02 + 1000000000 days"


def test_pictures_show_dates():
    """With a calendar, tooltips and the makespan's mark carry dates."""
    figure = draw(EVERYTHING, SCHEDULE)
    assert "2026-03-03 to 2026-03-05" in figure.lanes[0].bars[0].tooltip
    assert figure.marks == ((4.0, "makespan 4, 2026-03-05"),)
