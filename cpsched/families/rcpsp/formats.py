"""The file formats of the `rcpsp` family: what `cpsched.load` reads and ``convert`` writes."""

from __future__ import annotations

from cpsched.families import Format, Writer
from cpsched.families.rcpsp import formats_csv, formats_psplib, formats_rcp, formats_shop, writers
from cpsched.families.rcpsp.minizinc import write_minizinc

FORMATS: tuple[Format, ...] = (
    Format(
        name="psplib",
        kind="rcpsp",
        description="PSPLIB projects: .sm (one mode), .mm (several modes); MMLIB",
        detection="'PRECEDENCE RELATIONS' in the text, else extension .sm or .mm",
        detect=formats_psplib.detect,
        read=formats_psplib.read,
    ),
    Format(
        name="rcpsp-cpr",
        kind="rcpsp",
        description="RCPSP with consumption and production (reservoirs), .rcp",
        detection="extension .rcp and three numbers in the first line",
        detect=formats_rcp.detect_cpr,
        read=formats_rcp.read_cpr,
    ),
    Format(
        name="patterson",
        kind="rcpsp",
        description="Patterson projects, .rcp (also RG300, RG30, ...)",
        detection="extension .rcp",
        detect=formats_rcp.detect_patterson,
        read=formats_rcp.read_patterson,
    ),
    Format(
        name="rcpsp-max",
        kind="rcpsp",
        description="RCPSP/max projects with minimum and maximum time lags, .sch",
        detection="extension .sch, in any case",
        detect=formats_rcp.detect_max,
        read=formats_rcp.read_max,
    ),
    Format(
        name="fjsplib",
        kind="rcpsp",
        description="flexible job shop, .fjs",
        detection="extension .fjs",
        detect=formats_shop.detect_fjsplib,
        read=formats_shop.read_fjsplib,
    ),
    Format(
        name="wt",
        kind="rcpsp",
        description="OR-Library weighted tardiness on one machine: wt40, wt50, wt100",
        detection="a name like wt40 or wt40.txt",
        detect=formats_shop.detect_wt,
        read=formats_shop.read_wt,
        options={
            "index": "which instance of the file, from 0 (default 0)",
            "tasks": "tasks per instance (default: the number in the file's name)",
        },
    ),
    Format(
        name="jsplib",
        kind="rcpsp",
        description="job shop as text: jobs, machines, then a line of pairs per job",
        detection="a line 'jobs machines', then a line of that many pairs",
        detect=formats_shop.detect_jsplib,
        read=formats_shop.read_jsplib,
        options={
            "blocking": "true: a job stays on its machine until the next takes it",
            "swap": "false: jobs that block must not swap machines (default true)",
            "no_wait": "true: a job that has begun never waits",
            "permutation": "true: no job overtakes another; all must have the same route",
            "travel_times": "largest coordinate of jobs at a machine: setups by distance",
            "ragged": "true: jobs may differ in their number of operations",
            "operators": "number of operators, of whom every operation needs one (default: none)",
        },
    ),
    Format(
        name="rcpsp-csv",
        kind="rcpsp",
        description="a planner's CSV of tasks, with sections for resources, calendar, ...",
        detection="columns id and duration, or a first line like [tasks]",
        detect=formats_csv.detect,
        read=formats_csv.read,
        options=formats_csv.OPTIONS,
    ),
    Format(
        name="openshop",
        kind="rcpsp",
        description="open shop as text: jobs, machines, then a line of durations per job",
        detection="never; name it with --format openshop",
        detect=lambda file, head: False,
        read=formats_shop.read_openshop,
    ),
)

WRITERS: tuple[Writer, ...] = (
    Writer(
        name="psplib",
        description="PSPLIB .sm or .mm text (projects without lags, calendars or reservoirs)",
        write=writers.write_psplib,
    ),
    Writer(
        name="csv",
        description="CSV with sections, which reads back as the same problem",
        write=writers.write_csv,
    ),
    Writer(
        name="minizinc",
        description="JSON data of models/rcpsp.mzn",
        write=write_minizinc,
    ),
    Writer(
        name="dates",
        description="CSV of the schedule by start, with dates when the problem has a calendar",
        write=writers.write_dates,
        needs_schedule=True,
    ),
)
