"""The CP-SAT model of the ordering form: positions of executions, lifetimes of versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cpsched.families.memory.problem import MemoryProblem

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel, IntVar


class OrderingModel:
    """Every operation has one or more executions, each at a position of its own.

    Each execution that reads a tensor chooses the version it reads; a version lives from its
    writing to its last chosen read. Reading the latest version instead never needs more memory, so
    the model's peak is that of the best order.

    Parameters
    ----------
    limit
        Memory that no step may exceed, or None.
    work
        Total duration of the executions, when it is fixed.
    """

    def __init__(self, problem: MemoryProblem, limit: int | None, work: int | None) -> None:
        from ortools.sat.python import cp_model

        self.problem, self.limit, self.work = problem, limit, work
        self.model: CpModel = cp_model.CpModel()
        buffer = {b.id: b for b in problem.buffers}
        self._buffer = buffer
        self._count = [
            problem.executions if o.outputs and all(buffer[x].recompute for x in o.outputs) else 1
            for o in problem.operations
        ]
        self.length = sum(self._count)
        self.at: list[list[IntVar]] = []
        self.runs: list[list[IntVar]] = []

    def build(self, objective: str, hint: Sequence[str] | None) -> CpModel:
        """The model with one objective (none for pure feasibility)."""
        self.positions()
        self.load(objective)
        total = sum(
            o.duration * literal
            for o, literals in zip(self.problem.operations, self.runs, strict=True)
            for literal in literals
        )
        if self.work is not None:
            self.model.add(total <= self.work)
        if objective == "execution_time":
            self.model.minimize(total)
        if hint is not None:
            self._hint(hint)
        return self.model

    def positions(self) -> None:
        """Executions take different positions; later ones of an operation are optional."""
        model = self.model
        for count in self._count:
            at = [model.new_int_var(0, self.length - 1, "") for _ in range(count)]
            runs = [model.new_constant(1)] + [model.new_bool_var("") for _ in range(count - 1)]
            for k in range(1, count):
                model.add(at[k - 1] < at[k])
                model.add_implication(runs[k], runs[k - 1])
            self.at.append(at)
            self.runs.append(runs)
        model.add_all_different([v for at in self.at for v in at])

    def load(self, objective: str) -> None:
        """Precedence, versions and their lifetimes; the peak is their cumulative height."""
        model, problem = self.model, self.problem
        producer = {x: i for i, o in enumerate(problem.operations) for x in o.outputs}
        intervals: list[Any] = []
        demands: list[int] = []
        ends: dict[str, list[IntVar]] = {}
        for b in problem.buffers:
            i = producer.get(b.id)
            starts: list[Any] = [0] if i is None else list(self.at[i])
            present: list[Any] = [True] if i is None else self.runs[i]
            ends[b.id] = []
            for start, literal in zip(starts, present, strict=True):
                end = model.new_int_var(0, self.length, "")
                ends[b.id].append(end)
                length = model.new_int_var(0 if i is None else 1, self.length, "")
                if i is None:
                    model.add(length == end)
                    interval = model.new_interval_var(0, length, end, "")
                else:
                    interval = model.new_optional_interval_var(start, length, end, literal, "")
                if b.size:
                    intervals.append(interval)
                    demands.append(b.size)
            if b.output:
                last = self._one_of(len(starts), present, True)
                for choice, end in zip(last, ends[b.id], strict=True):
                    model.add(end == self.length).only_enforce_if(choice)
        for j, o in enumerate(problem.operations):
            for x in o.inputs:
                i = producer.get(x)
                for at, reads in zip(self.at[j], self.runs[j], strict=True):
                    if i is None:
                        model.add(ends[x][0] >= at + 1).only_enforce_if(reads)
                        continue
                    chosen = self._one_of(len(self.at[i]), self.runs[i], reads)
                    for k, choice in enumerate(chosen):
                        model.add(self.at[i][k] < at).only_enforce_if(choice)
                        model.add(ends[x][k] >= at + 1).only_enforce_if(choice)
        total = sum(b.size * max(1, self.problem.executions) for b in problem.buffers)
        peak = model.new_int_var(0, total if self.limit is None else self.limit, "peak")
        model.add_cumulative(intervals, demands, peak)
        if objective in ("peak_memory", "height"):
            model.minimize(peak)

    def _one_of(self, count: int, present: Sequence[Any], when: Any) -> list[Any]:
        """Literals of which exactly one holds when ``when`` does, each only if present."""
        if count == 1:
            return [when]
        choices = [self.model.new_bool_var("") for _ in range(count)]
        self.model.add(sum(choices) == when)
        for choice, literal in zip(choices, present, strict=True):
            self.model.add_implication(choice, literal)
        return choices

    def _hint(self, order: Sequence[str]) -> None:
        index = {o.id: i for i, o in enumerate(self.problem.operations)}
        seen = [0] * len(index)
        for position, name in enumerate(order):
            i = index[name]
            k = seen[i]
            seen[i] += 1
            self.model.add_hint(self.at[i][k], position)
            if k:
                self.model.add_hint(self.runs[i][k], True)

    def order(self, values: list[int]) -> list[str]:
        """Solver values to the order of the executed operations."""
        rows = [
            (values[at.index], operation.id)
            for operation, ats, runs in zip(
                self.problem.operations, self.at, self.runs, strict=True
            )
            for at, literal in zip(ats, runs, strict=True)
            if values[literal.index]
        ]
        return [name for _, name in sorted(rows)]
