"""Readers and writers, on small files written here."""

from __future__ import annotations

import json

import pytest

import cpsched
from cpsched.errors import ProblemError
from cpsched.families.kernel import FAMILY, Loop
from tests.kernel.loops import edge, loop, op, schedule

RAW = {
    "schema_version": "ddg-0.1",
    "kernel": {"name": "toy"},
    "loops": [
        {
            "loop_id": 0,
            "min_ii": 999,
            "ddg": {
                "nodes": [
                    {"id": 0, "op_kind": "load", "pipeline": "TMA", "latency": 20, "occupancy": 6},
                    {"id": 7, "op_kind": "mma", "pipeline": "TC", "latency": 9, "occupancy": 8},
                    {"id": 8, "op_kind": "add", "pipeline": "NONE", "latency": 0, "occupancy": 0},
                ],
                "edges": [
                    {"src": 0, "dst": 7, "distance": 0, "latency": 20, "kind": "data"},
                    {"src": 7, "dst": 7, "distance": 1, "latency": 8, "kind": "loop_carried"},
                    {"src": 7, "dst": 8, "distance": 0, "latency": 9},
                ],
            },
        },
        {
            "loop_id": 3,
            "ddg": {
                "nodes": [{"id": 1, "pipeline": "CUDA", "latency": 4, "occupancy": 4}],
                "edges": [],
            },
        },
    ],
}

CURATED = {
    "schema_version": "curated-ddg-0.2",
    "loops": [
        {
            "loop_id": 0,
            "ddg": {
                "nodes": [
                    {
                        "id": 2,
                        "op_kind": "tt.descriptor_load",
                        "pipeline": "TMA",
                        "latency": 5,
                        "rrt": {"TMA": [1, 1, 0, 0, 0]},
                        "regs": 0,
                        "smem_footprint": 64,
                        "tmem_footprint": 0,
                        "variable_latency": True,
                        "streaming": True,
                        "min_warps": 1,
                        "spill_cost": 0,
                    },
                    {
                        "id": 3,
                        "op_kind": "ttg.local_alloc",
                        "pipeline": "NONE",
                        "latency": 0,
                        "rrt": {},
                        "regs": 0,
                        "smem_footprint": 0,
                        "tmem_footprint": 0,
                        "variable_latency": False,
                        "streaming": False,
                        "min_warps": 1,
                        "spill_cost": 0,
                    },
                    {
                        "id": 4,
                        "op_kind": "math",
                        "pipeline": "SFU",
                        "latency": 6,
                        "rrt": {"SFU": [0, 2, 2, 0, 1, 0]},
                        "regs": 32,
                        "smem_footprint": 0,
                        "tmem_footprint": 0,
                        "variable_latency": False,
                        "streaming": False,
                        "min_warps": 4,
                        "spill_cost": 30,
                    },
                ],
                "edges": [
                    {"src": 2, "dst": 3, "distance": 0, "latency": 5, "blocking": True},
                    {"src": 3, "dst": 4, "distance": 0, "latency": 0, "blocking": False},
                    {"src": 4, "dst": 4, "distance": 1, "latency": 6, "blocking": False},
                ],
            },
        }
    ],
}

RECON = {
    "schema": "recon-0.1",
    "name": "toy",
    "machine": {
        "name": "H100-SXM5",
        "units": {"TC": 1, "TMA": 1},
        "smem_bytes": 1000,
        "regs_per_sm": 4096,
        "max_regs_per_thread": 8,
    },
    "nodes": [
        {
            "id": "load",
            "units": {"TMA": 4},
            "latency": 9,
            "min_warps": 1,
            "regs": 0,
            "smem_bytes": 100,
            "tmem_cols": 0,
            "variable_latency": True,
            "streaming": True,
        },
        {
            "id": "mma",
            "units": {"TC": 5},
            "latency": 7,
            "min_warps": 4,
            "regs": 64,
            "smem_bytes": 0,
            "tmem_cols": 0,
            "variable_latency": False,
            "streaming": False,
        },
    ],
    "edges": [
        {
            "src": "load",
            "dst": "mma",
            "latency": 9,
            "distance": 0,
            "blocking": True,
            "kind": "data",
        },
        {
            "src": "mma",
            "dst": "load",
            "latency": 7,
            "distance": 1,
            "blocking": False,
            "kind": "anti:A",
        },
    ],
}

GRAPHML = """<?xml version="1.0"?>
<graphml><graph edgedefault="directed" id="">
<node id="1"><data key="name">x</data><data key="uses_resource">Mult</data></node>
<node id="2"><data key="name">y</data><data key="uses_resource">Wire</data></node>
<edge id="a" source="1" target="2"><data key="distance">0</data><data key="delay">1</data></edge>
<edge id="b" source="2" target="1"><data key="distance">2</data><data key="delay">0</data></edge>
</graph></graphml>
"""
RESOURCES = """<?xml version="1.0"?>
<ModelInformation><Resources>
<Resource blockingTime="2" latency="4" limit="1" name="Mult"/>
<Resource blockingTime="1" latency="1" limit="-1" name="Wire"/>
</Resources></ModelInformation>
"""


def write(path, content):
    """Write text or JSON and return the path."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_raw_graph_is_modulo_only(tmp_path):
    """A compiler's dump has no registers, so it is scheduled without groups; its own interval
    is not read."""
    problem = cpsched.load(write(tmp_path / "toy.ddg.json", RAW))
    assert (problem.kind, problem.name, problem.groups) == ("kernel", "toy", 0)
    assert [o.id for o in problem.operations] == ["0", "7", "8"]
    assert problem.operations[2].uses == ()
    result = cpsched.solve(problem, time_limit=10, workers=1)
    assert result.objective == [8, 30]


def test_option_loop_selects_by_id(tmp_path):
    """Loops are named by their loop_id; an unknown one is refused with the known ones."""
    path = write(tmp_path / "toy.ddg.json", RAW)
    assert len(cpsched.load(path, options={"loop": "3"}).operations) == 1
    with pytest.raises(ProblemError, match="0, 3"):
        cpsched.load(path, options={"loop": "1"})


def test_curated_graph_has_groups_tables_and_views(curated):
    """Registers bring groups; zero runs of a table are left out; an alloc without memory of its
    own is a view; a register value carried over an iteration binds its ends."""
    problem = cpsched.load(curated)
    assert problem.groups == 5
    load, alloc, math = problem.operations
    assert load.variable_latency
    assert load.asynchronous
    assert alloc.view
    machine = problem.machine
    runs = [(machine.unit(u.unit).name, u.start, u.cycles, u.amount) for u in load.uses]
    assert runs == [("TMA", 0, 2, 1)]
    assert problem.edges[2].carried
    assert problem.spill_cost(math) == 30


def test_table_beyond_the_capacity_is_refused(tmp_path):
    """A reservation of 2 on a unit of capacity 1 names the place."""
    path = write(tmp_path / "toy.json", CURATED)
    text = json.loads(path.read_text())
    text["loops"][0]["ddg"]["nodes"][2]["rrt"]["SFU"] = [0, 2, 2]
    with pytest.raises(ProblemError, match=r"operations\.2\.uses\.0\.amount"):
        cpsched.load(write(path, text))


@pytest.fixture
def curated(tmp_path):
    """The curated graph with a table within capacity."""
    text = json.loads(json.dumps(CURATED))
    text["loops"][0]["ddg"]["nodes"][2]["rrt"]["SFU"] = [0, 1, 1, 0, 1, 0]
    return write(tmp_path / "toy.json", text)


def test_runs_of_a_table(curated):
    """Constant runs of a table become uses with their offsets."""
    uses = cpsched.load(curated).operations[2].uses
    assert [(u.start, u.cycles, u.amount) for u in uses] == [(1, 2, 1), (4, 1, 1)]


def test_options_groups_machine_signal(curated):
    """Options change the number of groups, the machine and the price of signalling."""
    assert cpsched.load(curated, options={"groups": "0"}).groups == 0
    assert cpsched.load(curated, options={"machine": "h100"}).machine.name.startswith("H100")
    assert cpsched.load(curated).machine.signal_cost == 0
    assert cpsched.load(curated, options={"signal": "machine"}).machine.signal_cost > 0
    with pytest.raises(ProblemError, match="groups"):
        cpsched.load(curated, options={"groups": "many"})
    with pytest.raises(ProblemError, match="machine"):
        cpsched.load(curated, options={"machine": "no-such-file"})


def test_option_communication(curated):
    """Without communication every register value stays in its group."""
    problem = cpsched.load(curated, options={"communication": "off"})
    assert all(e.carried for e in problem.edges if e.source == "4")


def test_recon_graph(tmp_path):
    """A reconstruction brings its machine; anti dependences keep nothing live."""
    path = write(tmp_path / "toy.json", RECON)
    problem = cpsched.load(path)
    assert problem.machine.registers_per_warp == 32 * 8
    assert [u.name for u in problem.machine.units] == ["TC", "TMA"]
    assert [e.kind for e in problem.edges] == ["true", "anti"]
    result = cpsched.solve(problem, time_limit=10, workers=1, objective="initiation_interval")
    assert result.objective == 16
    free = cpsched.load(path, options={"buffers": "4"})
    assert free.buffers[0].max_depth == 4
    result = cpsched.solve(free, time_limit=10, workers=1, objective="initiation_interval")
    assert result.objective == 5


def test_graphml_with_resources_beside_it(tmp_path):
    """Delays are the source's latency plus the edge's; unlimited resources reserve nothing."""
    for name in ("a_RM.xml", "bRM.xml"):
        write(tmp_path / name, RESOURCES)
    for name in ("a", "b", "a.200MHz"):
        problem = cpsched.load(write(tmp_path / f"{name}.graphml", GRAPHML))
        assert [(e.delay, e.distance) for e in problem.edges] == [(5, 0), (1, 2)]
        assert [len(o.uses) for o in problem.operations] == [1, 0]
        assert cpsched.solve(problem, time_limit=10, workers=1).objective == [3, 6]


def test_graphml_needs_its_resources(tmp_path):
    """Without the resource file the message says where it was looked for."""
    path = write(tmp_path / "a.graphml", GRAPHML)
    with pytest.raises(ProblemError, match=r"a_RM\.xml"):
        cpsched.load(path)
    elsewhere = write(tmp_path / "elsewhere.xml", RESOURCES)
    assert cpsched.load(path, options={"resources": str(elsewhere)}).groups == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('limit="1"', 'limit="0"'), "limit"),
        (('latency="4"', 'latency="x"'), "latency"),
        (('name="Mult"', 'name="Other"'), "Mult"),
        (("</Resources>", ""), "XML"),
    ],
)
def test_bad_resource_file(tmp_path, change, complaint):
    """A malformed resource model is refused with the offending part."""
    write(tmp_path / "a_RM.xml", RESOURCES.replace(*change))
    with pytest.raises(ProblemError, match=complaint):
        cpsched.load(write(tmp_path / "a.graphml", GRAPHML))


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("loops", 0, "ddg", "nodes", 0, "latency"), -3, "latency"),
        (("loops", 0, "ddg", "nodes", 0, "latency"), "long", "latency"),
        (("loops", 0, "ddg", "nodes", 0, "pipeline"), "WARP9", "WARP9"),
        (("loops", 0, "ddg", "nodes", 1, "id"), 0, "distinct"),
        (("loops", 0, "ddg", "edges", 0, "dst"), 99, "99"),
        (("loops", 0, "ddg", "edges", 0, "distance"), -1, "distance"),
        (("loops", 0, "ddg", "edges", 1, "distance"), 0, "7 -> 7"),
        (("loops", 0, "ddg", "nodes"), [], "at least 1"),
        (("loops",), [], "no loop"),
        (("loops", 0), "x", "object"),
    ],
)
def test_bad_graph(tmp_path, path, value, complaint):
    """A malformed graph is refused with place and value, never a traceback."""
    data = json.loads(json.dumps(RAW))
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(ProblemError, match=complaint):
        cpsched.load(write(tmp_path / "bad.ddg.json", data))


def test_zero_distance_cycle_is_named():
    """A cycle of positive delay within one iteration is refused with its operations."""
    with pytest.raises(ProblemError, match="cycle") as caught:
        loop([op("a"), op("b")], [edge("a", "b", 1), edge("b", "a", 0)])
    assert set(caught.value.value.split(" -> ")) == {"a", "b"}


def test_negative_delays_are_legal():
    """A negative delay bounds a difference from above."""
    problem = loop([op("a", 1), op("b", 1)], [edge("a", "b", 2), edge("b", "a", -4)])
    result = cpsched.solve(problem, time_limit=10, workers=1)
    assert result.status == "OPTIMAL"
    start = {p.operation: p.start for p in result.schedule.operations}
    assert 2 <= start["b"] - start["a"] <= 4


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"groups": 1}, "group 0"),
        ({"operations": [{"id": "a", "modes": [{"uses": [{"unit": "Z", "cycles": 1}]}]}]}, "Z"),
        ({"operations": [{"id": "a", "modes": [{"latency": -1}]}]}, "latency"),
        ({"machine": {"units": [{"name": "A", "capacity": 0}]}}, "capacity"),
        ({"machine": {"units": [{"name": "A"}, {"name": "A"}]}}, "distinct"),
        ({"buffers": [{"name": "r", "min_depth": 3, "max_depth": 2}]}, "max_depth"),
        ({"max_initiation_interval": 0}, "max_initiation_interval"),
        ({"color": 1}, "color"),
    ],
)
def test_bad_fields(fields, complaint):
    """Fields out of range, unknown and contradictory ones are refused by name."""
    with pytest.raises(ProblemError, match=complaint):
        loop(fields.pop("operations", [op("a")]), **fields)


def test_unknown_unit_names_the_known_ones():
    """A typing error in a unit lists what the machine has."""
    with pytest.raises(ProblemError, match="A, B"):
        loop([op("a", 1, "C")])


def test_own_json_round_trips():
    """cpsched JSON gives the same problem back."""
    problem = loop([op("a", 2, "A"), op("b")], [edge("a", "b", 2, 1)], groups=3)
    assert cpsched.loads(problem.to_json()) == problem


def test_modes_round_trip_and_are_written():
    """Modes survive cpsched JSON, and the chosen one is in the annotated graph and the programs."""
    problem = loop([{"id": "a", "modes": [{"latency": 1}, {"name": "slow", "latency": 2}]}])
    assert cpsched.loads(problem.to_json()) == problem
    parsed = FAMILY.read_schedule(schedule(2, {"a": 0}, problem, modes={"a": 1}))
    written = {w.name: w.write(problem, parsed) for w in FAMILY.writers if w.needs_schedule}
    assert json.loads(written["annotated-graph"])["nodes"][0]["mode"] == 1
    assert "mode slow" in written["pseudo-code"]


def test_annotated_graph_carries_the_schedule():
    """The written graph has stage, slot, start and group on every node."""
    problem = loop([op("a", 2, "A"), op("b")], [edge("a", "b", 2)])
    parsed = FAMILY.read_schedule(schedule(2, {"a": 0, "b": 3}, problem))
    writer = next(w for w in FAMILY.writers if w.name == "annotated-graph")
    nodes = json.loads(writer.write(problem, parsed))["nodes"]
    assert [(n["id"], n["stage"], n["slot"], n["start"]) for n in nodes] == [
        ("a", 0, 0, 0),
        ("b", 1, 1, 3),
    ]


def test_builder():
    """The builder reserves units at full capacity and takes delays from latencies."""
    build = Loop("sum", {"MEM": 2, "ADD": 1})
    x = build.operation("load", {"MEM": 3}, latency=4)
    s = build.operation("add", {"ADD": 1}, latency=2)
    ring = build.buffer("x", 8, most=3)
    build.uses(x, s)
    build.uses(s, s, distance=1)
    build.overwrites(x, s, delay=1, buffers=ring)
    problem = build.problem()
    assert problem.operations[0].uses[0].amount == 2
    assert [(e.delay, e.distance, e.kind) for e in problem.edges] == [
        (4, 0, "true"),
        (2, 1, "true"),
        (1, 0, "anti"),
    ]
    assert cpsched.solve(problem, time_limit=10, workers=1).objective == [3, 6]


@pytest.mark.parametrize("name", ["h100", "b200"])
def test_every_number_of_a_machine_has_a_source(name):
    """Each field of a shipped machine file names where it comes from, or that it is estimated."""
    from cpsched.families.kernel.machines import load_machine

    machine = load_machine(name)
    stated = {s.field for s in machine.sources}
    fields = set(machine.to_dict()) - {"name", "units", "sources"}
    needed = {f for f in fields if machine.get(f) not in (None, ())}
    assert needed | {f"units.{u.name}" for u in machine.units} == stated
    assert all(s.source for s in machine.sources)


@pytest.mark.parametrize("generator", FAMILY.generators, ids=lambda g: g.name)
def test_generators_repeat(generator):
    """A generator gives the same valid problem for the same options, and refuses bad ones."""
    options = {key: default for key, (default, _) in generator.options.items()}
    assert generator.make(options) == generator.make(options)
    for key in options:
        with pytest.raises(ProblemError, match=key):
            generator.make(options | {key: "nothing"})
