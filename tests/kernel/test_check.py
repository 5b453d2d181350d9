"""The checker: one feasible and one infeasible schedule per constraint, written by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

import cpsched
from cpsched.families.kernel import flat as flat_module
from cpsched.families.kernel.check import check
from cpsched.families.kernel.flat import peak
from cpsched.families.kernel.problem import KernelSchedule
from cpsched.families.kernel.values import evaluate
from tests.kernel.loops import edge, loop, op, random_loop, schedule


def rules(problem, data) -> set[str]:
    """Names of the violated constraints."""
    return {v.rule for v in check(problem, KernelSchedule.parse(data))}


CHAIN = loop([op("a", 2, "A"), op("b", 1, "A")], [edge("a", "b", 2)])


def test_valid_schedule_passes():
    """A schedule that keeps everything has no violation."""
    assert rules(CHAIN, schedule(2, {"a": 0, "b": 3}, CHAIN)) == set()


def test_every_operation_is_placed_once():
    """A missing, a doubled and an unknown operation are violations."""
    data = schedule(2, {"a": 0, "b": 3}, CHAIN)
    assert rules(CHAIN, data | {"operations": data["operations"][:1]}) == {"operations"}
    assert rules(CHAIN, data | {"operations": data["operations"] * 2}) == {"operations"}
    assert rules(CHAIN, schedule(2, {"a": 0, "b": 3, "z": 0}, CHAIN)) == {"operations"}


def test_dependence_counts_iterations():
    """An edge over one iteration gains one interval, and not two."""
    problem = loop([op("a", 3)], [edge("a", "a", 3, 1)])
    assert rules(problem, schedule(3, {"a": 0}, problem)) == set()
    assert rules(problem, schedule(2, {"a": 0}, problem)) == {"dependence"}


def test_unit_is_counted_modulo_the_interval():
    """Two operations of a unit clash when their slots are equal, in whatever stage."""
    assert rules(CHAIN, schedule(2, {"a": 0, "b": 2}, CHAIN)) == {"unit"}
    problem = loop([op("a", 1, "B"), op("b", 1, "B"), op("c", 1, "B")])
    assert rules(problem, schedule(2, {"a": 0, "b": 2, "c": 1}, problem)) == set()
    assert rules(problem, schedule(2, {"a": 0, "b": 2, "c": 4}, problem)) == {"unit"}


def test_reservation_longer_than_the_interval_meets_itself():
    """A run of 3 cycles at an interval of 2 needs two instances."""
    one, two = loop([op("a", 3, "A", 3)]), loop([op("a", 3, "B", 3)])
    assert rules(one, schedule(2, {"a": 0}, one)) == {"unit"}
    assert rules(two, schedule(2, {"a": 0}, two)) == set()


def test_irregular_table_reserves_later_cycles():
    """A use that begins after the issue reserves exactly there."""
    table = [{"unit": "A", "cycles": 1, "start": 2}]
    problem = loop([{"id": "a", "uses": table}, op("b", 1, "A")])
    assert rules(problem, schedule(3, {"a": 0, "b": 0}, problem)) == set()
    assert rules(problem, schedule(3, {"a": 0, "b": 2}, problem)) == {"unit"}


def test_stage_slot_length_and_stages_are_derived():
    """Wrong derived fields are violations."""
    data = schedule(2, {"a": 0, "b": 3}, CHAIN)
    assert rules(CHAIN, data | {"length": 5}) == {"length"}
    assert rules(CHAIN, data | {"stages": 3}) == {"stages"}
    moved = [data["operations"][0], data["operations"][1] | {"stage": 0}]
    assert rules(CHAIN, data | {"operations": moved}) == {"stages"}


def test_limits_of_interval_and_length():
    """The interval and the length keep their limits."""
    problem = CHAIN.model_copy(update={"max_initiation_interval": 1, "max_length": 3})
    assert rules(problem, schedule(2, {"a": 0, "b": 3}, CHAIN)) == {"initiation_interval", "length"}


def test_buffer_depth_is_the_distance_of_its_edges():
    """A ring of depth 2 lets the writer run two iterations ahead; depth 1 does not."""
    problem = loop(
        [op("w", 1), op("r", 1)],
        [edge("w", "r", 4), edge("r", "w", 2, buffer="ring", kind="anti")],
        buffers=[{"name": "ring", "size": 8, "max_depth": 2}],
    )
    starts = {"w": 0, "r": 4}
    assert rules(problem, schedule(3, starts, problem, depths={"ring": 2})) == set()
    assert rules(problem, schedule(3, starts, problem, depths={"ring": 1})) == {"dependence"}
    assert rules(problem, schedule(3, starts, problem, depths={"ring": 3})) == {"buffer_depth"}
    assert rules(problem, schedule(3, starts, problem)) == {"buffer_depth"}


def test_memory_counts_overlapping_iterations_and_rings():
    """A result live for two intervals holds two copies; rings are held all the time."""
    problem = loop(
        [op("a", smem_bytes=10), op("b")],
        [edge("a", "b", 4)],
        machine={"smem_bytes": 20},
    )
    assert rules(problem, schedule(2, {"a": 0, "b": 4}, problem)) == set()
    assert rules(problem, schedule(2, {"a": 0, "b": 5}, problem)) == {"smem"}
    ring = problem.model_copy(update={"buffers": (_ring(),)})
    assert rules(ring, schedule(2, {"a": 0, "b": 4}, ring, depths={"ring": 1})) == {"smem"}


def _ring():
    from cpsched.families.kernel.problem import Buffer

    return Buffer(name="ring", size=1)


def test_tensor_memory_has_its_own_limit():
    """Columns are counted like bytes, against their own capacity."""
    problem = loop(
        [op("a", tmem_columns=3), op("b")], [edge("a", "b", 4)], machine={"tmem_columns": 3}
    )
    assert rules(problem, schedule(4, {"a": 0, "b": 4}, problem)) == set()
    assert rules(problem, schedule(3, {"a": 0, "b": 4}, problem)) == {"tmem"}


def test_view_keeps_what_it_renames_alive():
    """A result read through a view lives until the view's last use."""
    records = [op("a", smem_bytes=1), op("v", 0, view=True), op("b")]
    edges = [edge("a", "v"), edge("v", "b")]
    problem = loop(records, edges, machine={"smem_bytes": 1})
    assert rules(problem, schedule(4, {"a": 0, "v": 0, "b": 4}, problem)) == set()
    assert rules(problem, schedule(4, {"a": 0, "v": 0, "b": 5}, problem)) == {"smem"}


def grouped(operations, edges=(), groups=3, **machine):
    """A loop with warp groups."""
    return loop(operations, edges, machine=machine, groups=groups)


def test_group_zero_is_for_variable_latency():
    """The producer group holds exactly the variable-latency operations."""
    problem = grouped([op("load", variable_latency=True), op("b")])
    starts = {"load": 0, "b": 0}
    good = schedule(2, starts, problem, groups={"load": 0, "b": 1})
    assert rules(problem, good) == set()
    bad = schedule(2, starts, problem, groups={"load": 1, "b": 0})
    assert rules(problem, bad) == {"producer"}


def test_groups_exist():
    """A group beyond the number available, or none at all, is a violation."""
    problem = grouped([op("a")])
    assert rules(problem, schedule(1, {"a": 0}, problem, groups={"a": 3})) == {"groups"}
    assert rules(problem, schedule(1, {"a": 0}, problem)) == {"groups"}


def test_pinned_operation_stays():
    """A pinned operation is in its group."""
    problem = grouped([op("a", group=2)])
    assert rules(problem, schedule(1, {"a": 0}, problem, groups={"a": 2})) == set()
    assert rules(problem, schedule(1, {"a": 0}, problem, groups={"a": 1})) == {"pinned"}


def test_registers_that_cross_groups_cost_a_spill():
    """The delay grows by the spill cost only when the ends are in different groups."""
    problem = grouped([op("a", registers=4, spill_cost=3), op("b")], [edge("a", "b", 1)])
    starts = {"a": 0, "b": 3}
    together = schedule(5, starts, problem, groups={"a": 1, "b": 1})
    apart = schedule(5, starts, problem, groups={"a": 1, "b": 2})
    assert rules(problem, together) == set()
    assert rules(problem, apart) == {"spill"}


def test_spill_price_of_the_machine():
    """Without a cost of its own a result pays by its size."""
    problem = grouped([op("a", registers=257)], spill_base=10, spill_per_kb=5)
    assert problem.spill_cost(problem.operations[0]) == 20


def test_signal_cost_of_every_crossing():
    """A dependence between groups pays the barrier even without registers."""
    problem = grouped([op("a"), op("b")], [edge("a", "b", 1)], signal_cost=2)
    apart = {"a": 1, "b": 2}
    assert rules(problem, schedule(5, {"a": 0, "b": 3}, problem, groups=apart)) == set()
    assert rules(problem, schedule(5, {"a": 0, "b": 2}, problem, groups=apart)) == {"signal"}


def test_blocking_wait_needs_an_idle_group():
    """A wait may not begin while another operation of the group is in its issue window."""
    problem = grouped([op("a"), op("b"), op("c", 3)], [edge("a", "b", 1, blocking=True)])
    one = {"a": 2, "b": 1, "c": 1}
    assert rules(problem, schedule(6, {"a": 0, "b": 3, "c": 0}, problem, groups=one)) == set()
    assert rules(problem, schedule(6, {"a": 0, "b": 2, "c": 0}, problem, groups=one)) == {
        "blocking"
    }
    other = {"a": 2, "b": 1, "c": 2}
    assert rules(problem, schedule(6, {"a": 0, "b": 2, "c": 0}, problem, groups=other)) == set()


def test_asynchronous_operation_blocks_its_issue_cycle_only():
    """After its issue cycle an asynchronous operation runs on its own."""
    problem = grouped(
        [op("a"), op("b"), op("c", 3, asynchronous=True)], [edge("a", "b", 1, blocking=True)]
    )
    groups = {"a": 2, "b": 1, "c": 1}
    assert rules(problem, schedule(6, {"a": 0, "b": 2, "c": 1}, problem, groups=groups)) == set()
    assert rules(problem, schedule(6, {"a": 0, "b": 2, "c": 2}, problem, groups=groups)) == {
        "blocking"
    }


def test_consumer_of_a_spill_waits_too():
    """Registers from another group arrive through a barrier."""
    problem = grouped([op("a", registers=1, spill_cost=1), op("b"), op("c", 3)], [edge("a", "b")])
    groups = {"a": 2, "b": 1, "c": 1}
    assert rules(problem, schedule(6, {"a": 0, "b": 2, "c": 0}, problem, groups=groups)) == {
        "blocking"
    }


def test_carried_value_stays_in_its_group():
    """A register value carried to the next iteration binds both ends to one group."""
    problem = grouped([op("a"), op("b")], [edge("a", "b", 0, 1, carried=True)])
    starts = {"a": 0, "b": 0}
    assert rules(problem, schedule(2, starts, problem, groups={"a": 1, "b": 1})) == set()
    assert rules(problem, schedule(2, starts, problem, groups={"a": 1, "b": 2})) == {"carried"}


def test_registers_per_group_and_of_all():
    """Live words are limited per group by its width, and over all groups by the file."""
    records = [op("a", registers=5, min_warps=2), op("b", registers=5, min_warps=2), op("c")]
    problem = grouped(records, [edge("a", "c", 1), edge("b", "c", 1)], registers_per_warp=4)
    starts = {"a": 0, "b": 0, "c": 2}
    assert rules(problem, schedule(4, starts, problem, groups={"a": 1, "b": 2, "c": 1})) == set()
    assert rules(problem, schedule(4, starts, problem, groups={"a": 1, "b": 1, "c": 1})) == {
        "registers"
    }
    file = grouped(records, [edge("a", "c", 1), edge("b", "c", 1)], registers=9)
    assert rules(file, schedule(4, starts, file, groups={"a": 1, "b": 2, "c": 1})) == {"registers"}


def test_register_is_free_when_its_last_use_issues():
    """Lifetimes are half-open: a result may take over the registers of its operand."""
    problem = grouped(
        [op("a", registers=4), op("b", registers=4), op("c")],
        [edge("a", "b", 1), edge("b", "c", 1)],
        registers_per_warp=4,
    )
    groups = {"a": 1, "b": 1, "c": 1}
    assert rules(problem, schedule(3, {"a": 0, "b": 1, "c": 2}, problem, groups=groups)) == set()


def test_warp_limit():
    """The widest operation of each group counts towards the machine's warps."""
    problem = grouped([op("a", min_warps=4), op("b", min_warps=4)], max_warps=7)
    starts = {"a": 0, "b": 0}
    assert rules(problem, schedule(1, starts, problem, groups={"a": 1, "b": 1})) == set()
    assert rules(problem, schedule(1, starts, problem, groups={"a": 1, "b": 2})) == {"warps"}


def test_objectives_from_the_definition():
    """Every objective of a small schedule, computed by hand."""
    problem = grouped(
        [op("a", 1, registers=256, smem_bytes=16, spill_cost=0), op("b", 2), op("c", 1)],
        [edge("a", "b", 1), edge("a", "c", 1), edge("c", "b", 0, 1)],
    )
    data = schedule(2, {"a": 0, "b": 3, "c": 1}, problem, groups={"a": 1, "b": 2, "c": 2})
    parsed = KernelSchedule.parse(data)
    assert check(problem, parsed) == []
    names = (
        "initiation_interval",
        "length",
        "groups",
        "communication",
        "recurrence_span",
        "register_pressure",
        "buffer_bytes",
    )
    # One crossing of 1 KiB; live for 3 cycles, two copies; no recurrence.
    assert evaluate(problem, parsed, names) == (2, 5, 2, 2, 0, 256 * 3, 32)


def test_validate_reports_objectives():
    """The public entry gives the default objectives of a valid schedule."""
    report = cpsched.validate(CHAIN, schedule(2, {"a": 0, "b": 3}, CHAIN))
    assert report.valid
    assert report.objectives == {"initiation_interval": 2, "length": 4}


@pytest.mark.parametrize("seed", range(5))
def test_flat_layout_agrees_with_counting(seed, monkeypatch):
    """The peak of events laid flat, and of whole periods counted at once, is that of every cycle
    counted by hand."""
    rng = random.Random(seed)
    for _ in range(200):
        period = rng.randint(1, 7)
        uses = [(rng.randint(0, 20), rng.randint(0, 15), rng.randint(1, 3)) for _ in range(4)]
        enough = 60
        flat = [0] * (period * enough + 60)
        for begin, length, amount in uses:
            for i in range(enough):
                for t in range(begin + i * period, begin + i * period + length):
                    flat[t] += amount
        rows = np.array(uses, dtype=np.int64).T
        most, cycle = peak(period, *rows)
        assert most == max(flat[: period * enough])
        assert flat[cycle] == most
        monkeypatch.setattr(flat_module, "MOST_EVENTS", 0)
        assert peak(period, *rows)[0] == most
        monkeypatch.undo()


def two_modes(**fields):
    """An operation that is fast on the whole of unit A or slow on one instance of B."""
    fast = {"latency": 2, "uses": [{"unit": "A", "cycles": 2}]} | fields
    slow = {"latency": 5, "uses": [{"unit": "B", "cycles": 5}]}
    return {"id": "m", "modes": [fast, slow]}


def test_mode_exists():
    """A mode that the operation does not have is a violation; without modes there is mode 0."""
    problem = loop([two_modes(), op("b")])
    starts = {"m": 0, "b": 0}
    assert rules(problem, schedule(5, starts, problem, modes={"m": 1})) == set()
    data = schedule(5, starts, problem, modes={"m": 1})
    data["operations"][0]["mode"] = 2
    assert rules(problem, data) == {"mode"}
    data["operations"][0]["mode"] = 0
    data["operations"][1]["mode"] = 1
    assert rules(problem, data) == {"mode"}


def test_mode_decides_units_length_and_delays():
    """The chosen mode's table, latency and extra delay count, and the others' do not."""
    problem = loop([two_modes(), op("b", 1, "A")], [edge("m", "b", 1)])
    fast, slow = {"m": 0}, {"m": 1}
    assert rules(problem, schedule(3, {"m": 0, "b": 3}, problem, modes=fast)) == {"unit"}
    assert rules(problem, schedule(3, {"m": 0, "b": 5}, problem, modes=fast)) == set()
    assert rules(problem, schedule(3, {"m": 0, "b": 6}, problem, modes=slow)) == set()
    assert rules(problem, schedule(3, {"m": 0, "b": 5}, problem, modes=slow)) == {"dependence"}
    assert rules(problem, schedule(2, {"m": 0, "b": 6}, problem, modes=slow)) == {"unit"}
    explicit = loop([two_modes(extra_delay=0), op("b", 1, "A")], [edge("m", "b", 1)])
    assert rules(explicit, schedule(4, {"m": 0, "b": 2}, explicit, modes=fast)) == set()


def test_mode_decides_shares():
    """Shares of a unit in percent add up to 100 at most."""

    def share(percent, cycles):
        use = {"unit": "net", "cycles": cycles, "amount": percent}
        return {"latency": cycles, "uses": [use]}

    records = [{"id": name, "modes": [share(60, 4), share(40, 7)]} for name in "ab"]
    problem = loop(records, machine={"units": [{"name": "net", "capacity": 100}]})
    starts = {"a": 0, "b": 0}
    assert rules(problem, schedule(7, starts, problem, modes={"a": 0, "b": 1})) == set()
    assert rules(problem, schedule(7, starts, problem, modes={"a": 0, "b": 0})) == {"unit"}


def test_mode_decides_memory_registers_and_issue():
    """What a result holds, the warps it needs and how long its issue takes follow the mode."""
    small = {"registers": 1, "smem_bytes": 1, "issue": 0}
    large = {"registers": 5, "smem_bytes": 3, "issue": 3, "min_warps": 2}
    problem = grouped(
        [{"id": "a", "modes": [small, large]}, op("b"), op("c")],
        [edge("a", "b", 1), edge("c", "b", blocking=True)],
        registers_per_warp=2,
        smem_bytes=2,
        max_warps=1,
    )
    one = {"a": 1, "b": 1, "c": 2}
    two = problem.model_copy(
        update={"machine": problem.machine.model_copy(update={"max_warps": 2})}
    )
    starts = {"a": 0, "b": 2, "c": 0}
    assert rules(two, schedule(4, starts, two, groups=one, modes={"a": 0})) == set()
    assert rules(problem, schedule(4, starts, problem, groups=one, modes={"a": 1})) == {
        "registers",
        "smem",
        "blocking",
        "warps",
    }


def by_the_cycle(problem, placed):
    """Rules broken on a flat timeline, counted cycle by cycle with dictionaries alone."""
    period, count = placed["initiation_interval"], 30
    start = {p["operation"]: p["start"] for p in placed["operations"]}
    group = {p["operation"]: p["group"] for p in placed["operations"]}
    broken = set()
    spill = {o.id: problem.spill_cost(o) for o in problem.operations}
    waits = set()
    last = dict(start)
    for e in problem.edges:
        crosses = problem.grouped and group[e.source] != group[e.target]
        gap = start[e.target] + e.distance * period - start[e.source]
        spilled = spill[e.source] if crosses and e.kind == "true" else 0
        signal = problem.machine.signal_cost if crosses else 0
        parts = (("dependence", e.delay), ("spill", spilled), ("signal", signal))
        total = 0
        for rule, more in parts:
            total += more
            if gap < total:
                broken.add(rule)
                break
        if e.blocking or spilled:
            waits.add(e.target)
        if e.kind == "true":
            last[e.source] = max(last[e.source], start[e.target] + e.distance * period)
    used, held, words = {}, {}, {}
    for o in problem.operations:
        for i in range(count):
            begin = start[o.id] + i * period
            for use in o.uses:
                for t in range(begin + use.start, begin + use.start + use.cycles):
                    used[use.unit, t] = used.get((use.unit, t), 0) + use.amount
            for t in range(begin, last[o.id] + i * period):
                held[t] = held.get(t, 0) + o.smem_bytes
                words[group[o.id], t] = words.get((group[o.id], t), 0) + o.registers
    if any(n > problem.machine.unit(unit).capacity for (unit, _), n in used.items()):
        broken.add("unit")
    if any(n > problem.machine.smem_bytes for n in held.values()):
        broken.add("smem")
    if any(n > problem.machine.registers_per_warp for n in words.values()):
        broken.add("registers")
    for w in waits:
        for o in problem.operations:
            if o.id != w and group[o.id] == group[w]:
                at = [start[w] + i * period for i in range(count)]
                windows = [start[o.id] + i * period for i in range(count)]
                if any(b <= t < b + o.issue_cycles for t in at for b in windows):
                    broken.add("blocking")
    return broken


@pytest.mark.parametrize("seed", range(60))
def test_flat_check_agrees_with_counting_by_the_cycle(seed):
    """Random schedules, most of them broken, break the rules that a cycle-by-cycle count finds."""
    rng = random.Random(seed)
    problem = random_loop(900 + seed % 12, grouped=True)
    starts = {o.id: rng.randint(0, 9) for o in problem.operations}
    groups = {
        o.id: 0 if o.variable_latency else rng.randint(1, problem.groups - 1)
        for o in problem.operations
    }
    data = schedule(rng.randint(1, 8), starts, problem, groups)
    assert rules(problem, data) - {"deadlock"} == by_the_cycle(problem, data)


def test_moved_operations_are_judged_alike():
    """One operation of an optimal schedule moved by a few cycles: both counts agree again."""
    verdicts = []
    for seed in range(8):
        rng = random.Random(seed)
        problem = random_loop(940 + seed, grouped=True)
        best = cpsched.solve(problem, time_limit=60, workers=1, objective="initiation_interval")
        if best.schedule is None:
            continue
        groups = {p.operation: p.group for p in best.schedule.operations}
        for _ in range(12):
            starts = {p.operation: p.start for p in best.schedule.operations}
            starts[rng.choice(sorted(starts))] += rng.choice([-3, -2, -1, 1, 2, 3])
            lowest = min(starts.values())
            starts = {o: s - lowest for o, s in starts.items()}
            data = schedule(best.schedule.initiation_interval, starts, problem, groups)
            found = rules(problem, data) - {"deadlock"}
            assert found == by_the_cycle(problem, data)
            verdicts.append(bool(found))
    assert 10 < sum(verdicts) < len(verdicts)
