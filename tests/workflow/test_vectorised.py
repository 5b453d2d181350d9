"""List scheduling in numpy makes the plans of the kernel."""

from __future__ import annotations

import numpy as np
import pytest

from cpsched.core.clock import Clock
from cpsched.errors import OutOfTime
from cpsched.families.workflow import greedy, kernels, vectorised
from cpsched.families.workflow.check import check
from cpsched.families.workflow.extract import schedule_of
from cpsched.families.workflow.generate import layered
from cpsched.families.workflow.prepare import Instance, prepare
from tests.workflow.helpers import problem, random_problem
from tests.workflow.test_features import combined


def by_kernel(inst: Instance, order, fix_row, fix_mach, bias):
    """The kernel's plan as (start, row, machine); None when a task has no place."""
    start, end, cause, row, mach = (np.zeros(inst.n, dtype=np.int64) for _ in range(5))
    times = kernels.Times(start, end, cause)
    placed = kernels.list_schedule(
        order, greedy.graph(inst), fix_row, fix_mach, bias, greedy.unused(inst, 2 * inst.n + 8),
        times, row, mach,
    )  # fmt: skip
    return (start, row, mach) if placed == inst.n else None


def agree(inst: Instance, rng: np.random.Generator) -> None:
    """Compare the plans for a random order, with and without fixed machines and bias."""
    none = np.full(inst.n, -1, dtype=np.int64)
    order = greedy.ready_order(inst, [(float(x), 0.0) for x in rng.random(inst.n)])
    rows = rng.integers(inst.row_ptr[:-1], inst.row_ptr[1:])
    machines = np.where(rng.random(inst.n) < 0.5, rng.integers(inst.m, size=inst.n), -1)
    machines = np.where(inst.dur[rows, machines] < 0, -1, machines)
    bias = rng.integers(0, 3, size=(inst.n, inst.m)) * float(inst.dur.max())
    for fix_row, fix_mach, extra in (
        (none, none, np.zeros((0, 0))),
        (rows, machines, np.zeros((0, 0))),
        (none, none, bias),
    ):
        expected = by_kernel(inst, order, fix_row, fix_mach, extra)
        plan = vectorised.list_plan(inst, order, fix_row, fix_mach, extra, None)
        assert (plan is None) == (expected is None)
        if plan is not None and expected is not None:
            for own, other in zip((plan.start, plan.row, plan.mach), expected, strict=True):
                assert own.tolist() == other.tolist()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("links", [False, True])
def test_plans_are_those_of_the_kernel(seed, links):
    """On graphs with data, over one kind of link and over links of their own."""
    p = layered(40, 5, [0.1, 1.0, 10.0][seed % 3], [0.5, 1.0, 3.0][seed % 3], 2.5, seed)
    if links:
        rng = np.random.default_rng(seed)
        names = [mc.name for mc in p.machines]
        given = p.to_dict() | {
            "links": [
                {"from": a, "to": b, "bandwidth": float(rng.integers(1, 4)), "latency": 1.0}
                for a in names
                for b in names
                if a < b
            ]
        }
        p = type(p).parse(given)
    agree(prepare(p), np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(60))
def test_plans_with_options_windows_and_deadlines_are_those_of_the_kernel(seed):
    """On problems of all features, as far as machines take one task at a time."""
    p = combined(seed) if seed % 2 else random_problem(seed, 7)
    inst = prepare(p)
    inst.unit[:] = True
    inst.cap[:, 0] = 1
    agree(inst, np.random.default_rng(seed))


def test_what_fits_nowhere_has_no_plan():
    """A machine with windows too short for the task."""
    windows = [{"start": 0, "end": 3}]
    p = problem(
        tasks=[{"id": "t", "work": 5}], machines=[{"name": n, "windows": windows} for n in "ab"]
    )
    inst, none = prepare(p), np.array([-1])
    assert vectorised.list_plan(inst, np.array([0]), none, none, np.zeros((0, 0)), None) is None


def test_tasks_alone_on_machines_of_several_cores_are_a_valid_schedule():
    """Where machines take several tasks, one at a time is a plan all the same."""
    p = layered(60, 4, 1.0, 1.0, 2.5, 1)
    given = p.to_dict()
    for machine in given["machines"]:
        machine["cores"] = 4
    p = type(p).parse(given)
    inst = prepare(p)
    plan = greedy.appended(inst, lambda: None)
    assert plan is not None
    assert not check(p, schedule_of(inst, plan))


def test_the_clock_ends_a_plan():
    """Placing thousands of tasks ends when the time is over."""
    inst = prepare(layered(400, 3, 1.0, 1.0, 2.5, 1))
    with pytest.raises(OutOfTime):
        greedy.appended(inst, Clock(0.0).check)
