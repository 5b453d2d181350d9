"""Small files of every format, as text, and how tests read them."""

from __future__ import annotations

from pathlib import Path

from cpsched.families.rcpsp.formats import FORMATS
from cpsched.families.rcpsp.problem import RcpspProblem

SM = """\
************************************************************************
file with basedata            : written for the tests
************************************************************************
projects                      :  1
jobs (incl. supersource/sink ):  5
horizon                       :  9
RESOURCES
  - renewable                 :  2   R
  - nonrenewable              :  0   N
  - doubly constrained        :  0   D
************************************************************************
PROJECT INFORMATION:
pronr.  #jobs rel.date duedate tardcost  MPM-Time
    1      3      0        6        4        5
************************************************************************
PRECEDENCE RELATIONS:
jobnr.    #modes  #successors   successors
   1        1          2           2   3
   2        1          1           4
   3        1          1           5
   4        1          1           5
   5        1          0
************************************************************************
REQUESTS/DURATIONS:
jobnr. mode duration  R 1  R 2
------------------------------------------------------------------------
  1      1     0       0    0
  2      1     2       1    0
  3      1     4       2    1
  4      1     3       0    2
  5      1     0       0    0
************************************************************************
RESOURCEAVAILABILITIES:
  R 1  R 2
    2    3
************************************************************************
"""

MM = """\
jobs  (incl. supersource/sink ):\t4
RESOURCES
- renewable                 : 1 R
- nonrenewable              : 1 N
- doubly constrained        : 0 D
************************************************************************
PRECEDENCE RELATIONS:
jobnr.    #modes  #successors   successors
1\t1\t2\t\t2 3
2\t2\t1\t\t4
3\t1\t1\t\t4
4\t1\t0
************************************************************************
REQUESTS/DURATIONS:
jobnr.\tmode\tdur\tR1\tN1
------------------------------------------------------------------------
1\t1\t0\t0\t0
2\t1\t2\t3\t5
\t2\t4\t1\t0
3\t1\t3\t2\t1
4\t1\t0\t0\t0
************************************************************************

 RESOURCE AVAILABILITIES
\tR 1\tN 1
\t4\t5

************************************************************************
"""

PATTERSON = """\
5\t2

2\t3
0\t0\t0\t2\t2\t3
2\t1\t0\t1\t4
4\t2\t1\t1
\t5
3\t0\t2\t1\t5
0\t0\t0\t0
"""

CPR = """\
4\t1\t2
3\t7\t0
0\t0\t2\t0\t0\t0\t2\t2\t3
2\t1\t0\t3\t4\t1\t1\t4
4\t2\t1\t0\t0\t2\t1\t4
0\t0\t0\t0\t0\t0\t0
"""

SCH = """\
2\t1\t0\t0
0\t1\t2\t1\t2\t[0]\t[0]
1\t1\t2\t3\t2\t[3]\t[1]
2\t1\t2\t3\t1\t[2]\t[-4]
3\t1\t0
0\t1\t0\t0
1\t1\t3\t1
2\t1\t2\t2
3\t1\t0\t0
2
"""

JSPLIB = """\
# a comment
2 3
0 4 1 3 2 2
2 1 0 5 1 0
"""

FJS = """\
2 2 1.5
2 2 1 5 2 4 1 2 3
1 2 2 6 1 7
"""

OPENSHOP = """\
2 3
4 3 2
1 5 6
"""

# Two instances of three tasks: durations, weights, due dates.
WT = """\
 5 3 2
 1 4 2
 6 5 9
 7 1 1
 2 2 9
 3 4
 8
"""

CSV = """\
id,duration,predecessors,resources,deadline,weight
dig,3,,crew:2,,2
pour,2,dig,crew;mixer,9,
dry,4,pourFS+1..3,,,
[resources]
name,capacity
crew,2
"""

#: Format name to (file name, text).
ALL = {
    "psplib": ("a.mm", MM),
    "patterson": ("a.rcp", PATTERSON),
    "rcpsp-cpr": ("a.rcp", CPR),
    "rcpsp-max": ("PSP1.SCH", SCH),
    "jsplib": ("ft02", JSPLIB),
    "fjsplib": ("a.fjs", FJS),
    "wt": ("wt3.txt", WT),
    "rcpsp-csv": ("plan.csv", CSV),
    "openshop": ("open.txt", OPENSHOP),
}


def detect(file: str, text: str) -> str | None:
    """Name of the first format of the family that takes the file."""
    return next((f.name for f in FORMATS if f.detect(Path(file).name, text[:20_000])), None)


def read(name: str, text: str, file: str = "", **options: str) -> RcpspProblem:
    """Read a text in the named format."""
    chosen = next(f for f in FORMATS if f.name == name)
    problem: RcpspProblem = chosen.read(text, file or ALL[name][0], options)
    return problem
