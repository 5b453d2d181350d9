"""The named constraints of a workflow problem, and the problem that keeps only some of them."""

from __future__ import annotations

from collections.abc import Iterator

from cpsched.families import NamedConstraint
from cpsched.families.workflow.problem import Budgets, WorkflowProblem

#: Beyond this many edges they are not offered one by one.
MANY_EDGES = 400


def constraints(problem: WorkflowProblem) -> list[NamedConstraint]:
    """Every limit and rule of the problem that a person may want to relax."""
    return [
        NamedConstraint(f"{group}:{name}" if name else group, group, sentence)
        for group, name, sentence in _named(problem)
    ]


def _named(problem: WorkflowProblem) -> Iterator[tuple[str, str, str]]:
    if problem.deadline is not None:
        yield "deadline", "problem", f"All tasks end by {problem.deadline:g}."
    for flow in problem.workflows:
        if flow.deadline is not None:
            yield (
                "deadline",
                f"workflow {flow.id}",
                f"Workflow {flow.id} ends by {flow.deadline:g}.",
            )
        if flow.release:
            yield (
                "release",
                f"workflow {flow.id}",
                f"Workflow {flow.id} starts at {flow.release:g} or later.",
            )
    for task in problem.tasks:
        if task.deadline is not None:
            yield "deadline", f"task {task.id}", f"Task {task.id} ends by {task.deadline:g}."
        if task.release:
            yield (
                "release",
                f"task {task.id}",
                f"Task {task.id} starts at {task.release:g} or later.",
            )
    for resource, value in problem.budgets.to_dict().items():
        if value is not None:
            yield "budgets", resource, f"At most {value:g} of {resource} is spent."
    if problem.min_success is not None:
        yield (
            "min_success",
            "",
            f"All tasks succeed with a probability of at least {problem.min_success:g}.",
        )
    for objective, limit in problem.limits.items():
        least = "least" if objective == "log_success" else "most"
        yield "limits", objective, f"The {objective} is at {least} {limit:g}."
    if problem.fair_share is not None:
        yield (
            "fair_share",
            "",
            f"No workflow ends more than {problem.fair_share:g} after its fair finish.",
        )
    for machine in problem.machines:
        if machine.windows:
            yield "windows", machine.name, f"{machine.name} is available only in its windows."
        if machine.storage is not None:
            yield (
                "storage",
                machine.name,
                f"{machine.name} stores at most {machine.storage:g} bytes.",
            )
    if len(problem.edges) <= MANY_EDGES:
        for edge in problem.edges:
            name = f"{edge.source}->{edge.target}"
            yield "precedence", name, f"Task {edge.target} starts after task {edge.source} ends."


def restrict(problem: WorkflowProblem, names: frozenset[str]) -> WorkflowProblem:
    """The problem without the named constraints that are not in ``names``."""

    def keeps(group: str, name: str = "") -> bool:
        return (f"{group}:{name}" if name else group) in names

    tasks = tuple(
        t
        if (t.deadline is None or keeps("deadline", f"task {t.id}"))
        and (not t.release or keeps("release", f"task {t.id}"))
        else t.model_copy(
            update={
                "deadline": t.deadline if keeps("deadline", f"task {t.id}") else None,
                "release": t.release if keeps("release", f"task {t.id}") else 0.0,
            }
        )
        for t in problem.tasks
    )
    flows = tuple(
        w.model_copy(
            update={
                "deadline": w.deadline if keeps("deadline", f"workflow {w.id}") else None,
                "release": w.release if keeps("release", f"workflow {w.id}") else 0.0,
            }
        )
        for w in problem.workflows
    )
    machines = tuple(
        mc.model_copy(
            update={
                "windows": mc.windows if keeps("windows", mc.name) else (),
                "storage": mc.storage if keeps("storage", mc.name) else None,
            }
        )
        for mc in problem.machines
    )
    edges = problem.edges
    if len(edges) <= MANY_EDGES:
        edges = tuple(e for e in edges if keeps("precedence", f"{e.source}->{e.target}"))
    budgets = {
        key: value
        for key, value in problem.budgets.to_dict().items()
        if value is not None and keeps("budgets", key)
    }
    return problem.model_copy(
        update={
            "tasks": tasks,
            "workflows": flows,
            "machines": machines,
            "edges": edges,
            "deadline": problem.deadline if keeps("deadline", "problem") else None,
            "budgets": Budgets(**budgets),
            "min_success": problem.min_success if keeps("min_success") else None,
            "limits": {k: x for k, x in problem.limits.items() if keeps("limits", k)},
            "fair_share": problem.fair_share if keeps("fair_share") else None,
        }
    )
