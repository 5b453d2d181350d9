"""Generators: planted schedules hold, planted contradictions hold, seeds decide everything."""

from __future__ import annotations

import networkx as nx
import pytest

from cpsched.errors import ProblemError
from cpsched.families.rcpsp.check import check
from cpsched.families.rcpsp.generate import GENERATORS, project, shop, total_tardiness
from cpsched.families.rcpsp.generate_constraintbench import constraintbench, planted
from cpsched.families.rcpsp.profile import capacity_profiles

BY_NAME = {g.name: g for g in GENERATORS}
CONTRADICTIONS = ("precedence", "capacity", "disjunctive", "downtime")


def graph(problem):
    """Precedences as a graph."""
    return nx.DiGraph([(p.before, p.after) for p in problem.precedences])


@pytest.mark.parametrize("name", BY_NAME)
def test_seed_decides(name):
    """The same seed gives the same problem, another seed another one."""
    make = BY_NAME[name].make
    assert make({"seed": "3"}) == make({"seed": "3"})
    assert make({"seed": "3"}).sha256() != make({"seed": "4"}).sha256()


@pytest.mark.parametrize("name", BY_NAME)
def test_defaults_are_the_options(name):
    """The listed defaults, passed as options, change nothing."""
    generator = BY_NAME[name]
    defaults = {key: default for key, (default, _) in generator.options.items()}
    assert generator.make(defaults | {"seed": "1"}) == generator.make({"seed": "1"})


@pytest.mark.parametrize("seed", range(30))
def test_planted_schedule_is_valid(seed):
    """The schedule an R-ConstraintBench instance is drawn around passes the checker."""
    problem, schedule = planted({"seed": str(seed), "tasks": "25", "level": str(seed)})
    assert check(problem, schedule) == []


def test_level_counts_precedences_that_do_not_follow():
    """There are exactly as many precedences as the level says, and none follows from others."""
    problem = constraintbench({"tasks": "30", "layers": "6", "level": "40"})
    links = graph(problem)
    assert links.number_of_edges() == len(problem.precedences) == 40
    assert set(nx.transitive_reduction(links).edges) == set(links.edges)


def test_layers_bound_the_longest_chain():
    """A chain of precedences has at most one task per layer."""
    problem = constraintbench({"tasks": "40", "layers": "3", "level": "60"})
    assert nx.dag_longest_path_length(graph(problem)) <= 2


def test_every_axis_can_be_switched_off():
    """With probability 0, there is no downtime, no window and no pair; with 1 all are there."""
    off = constraintbench({"downtime": "0", "windows": "0", "disjunctive": "0"})
    on = constraintbench({"downtime": "1", "windows": "1", "disjunctive": "1"})
    assert not any(r.capacity_changes for r in off.resources)
    assert all(r.capacity_changes for r in on.resources)
    assert not off.disjunctive
    assert on.disjunctive
    assert all(t.deadline is None for t in off.tasks)
    assert all(t.deadline is not None for t in on.tasks)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_planted_contradiction_holds(kind, seed):
    """The planted window is too short for what a single constraint demands within it."""
    problem, schedule = planted(
        {
            "infeasible": kind,
            "seed": str(seed),
            "windows": "0",
            "downtime": "0",
            "disjunctive": "0",
        }
    )
    assert schedule is None
    held = [t for t in problem.tasks if t.deadline is not None]
    window = held[0].deadline - held[0].release
    if kind == "downtime":
        (task,) = held
        need = task.modes[0].demands
        assert any(
            (task.release, task.deadline, 0) in capacity_profiles(problem).get(r, ()) for r in need
        )
        return
    first, second = held
    assert window < first.modes[0].duration + second.modes[0].duration
    pair = {first.id, second.id}
    needs = first.modes[0].demands, second.modes[0].demands
    assert {
        "precedence": any({p.before, p.after} == pair for p in problem.precedences),
        "disjunctive": any(set(g.tasks) == pair for g in problem.disjunctive),
        "capacity": any(needs[0].get(k, 0) + needs[1].get(k, 0) > 4 for k in ("R1", "R2", "R3")),
    }[kind]


def test_too_many_precedences():
    """A level that the graph cannot hold is refused with the largest one reached."""
    with pytest.raises(ProblemError, match="precedences could be placed"):
        constraintbench({"tasks": "4", "layers": "2", "level": "9"})


def test_project_is_acyclic_and_fits():
    """Random projects are acyclic, and every mode fits every capacity."""
    problem = project({"tasks": "400", "modes": "3", "nonrenewable": "2"})
    assert nx.is_directed_acyclic_graph(graph(problem))
    capacity = {r.name: r.capacity for r in problem.resources}
    assert all(
        units <= capacity[name]
        for task in problem.tasks
        for mode in task.modes
        for name, units in mode.demands.items()
    )


def test_project_budget_suffices():
    """The least consumption of every nonrenewable resource stays within its budget."""
    problem = project({"tasks": "200", "modes": "3", "nonrenewable": "1"})
    least = sum(min(m.demands.get("N1", 0) for m in t.modes) for t in problem.tasks)
    assert least <= next(r.capacity for r in problem.resources if r.name == "N1")


def test_project_size_grows_linearly():
    """Twenty times as many tasks give about twenty times as many precedences."""
    small, large = (len(project({"tasks": n}).precedences) for n in ("100", "2000"))
    assert 10 * small < large < 30 * small


def test_shop_orders():
    """Job and flow shops are chains over all machines, open shops disjunctive jobs."""
    size = {"jobs": "4", "machines": "3"}
    flow = shop(size | {"order": "flow"})
    assert [next(iter(t.modes[0].demands)) for t in flow.tasks[:3]] == ["M0", "M1", "M2"]
    assert len(flow.precedences) == 8
    opened = shop(size | {"order": "open"})
    assert opened.precedences == ()
    assert len(opened.disjunctive) == 4


def test_flexible_shop():
    """Alternatives give several modes on different machines."""
    problem = shop({"alternatives": "3"})
    machines = [[next(iter(m.demands)) for m in t.modes] for t in problem.tasks]
    assert all(len(set(row)) == len(row) <= 3 for row in machines)
    assert any(len(row) > 1 for row in machines)


def test_shutdowns():
    """Every machine gets the number of shutdowns asked for."""
    problem = shop({"shutdowns": "2"})
    assert {len(r.capacity_changes) for r in problem.resources} == {2}


def test_total_tardiness_due_dates():
    """Due dates lie in the interval that T and R give."""
    problem = total_tardiness({"n": "200", "T": "0.6", "R": "0.4"})
    total = sum(t.modes[0].duration for t in problem.tasks)
    assert all(int(0.2 * total) <= t.due <= int(0.6 * total) + 1 for t in problem.tasks)
    assert problem.objectives == ("weighted_tardiness",)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("project", "tasks", "0"),
        ("project", "tasks", "many"),
        ("project", "factor", "1.5"),
        ("project", "factor", "nan"),
        ("project", "colour", "red"),
        ("shop", "order", "random walk"),
        ("shop", "pausable", "maybe"),
        ("total-tardiness", "T", "-1"),
        ("total-tardiness", "T", "1e400"),
        ("r-constraintbench", "infeasible", "all"),
        ("r-constraintbench", "seed", "-1"),
        ("r-constraintbench", "tasks", "501"),
    ],
)
def test_wrong_options(name, option, value):
    """A wrong option is refused by its name."""
    with pytest.raises(ProblemError) as caught:
        BY_NAME[name].make({option: value})
    assert caught.value.place == option
