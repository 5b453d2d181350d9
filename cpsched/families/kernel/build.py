"""Building a loop in Python, operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cpsched.families.kernel.machines import load_machine
from cpsched.families.kernel.problem import (
    Buffer,
    Edge,
    KernelProblem,
    Machine,
    Operation,
)


class Loop:
    """A loop body under construction; `problem` gives the finished, validated problem.

    Parameters
    ----------
    name
        Name of the loop.
    machine
        A `Machine`, the name of a shipped one (``h100``, ``b200``) or of a machine file, or a
        mapping from unit names to capacities.

    Examples
    --------
    >>> loop = Loop("sum", {"MEM": 1, "ADD": 1})
    >>> x = loop.operation("load", {"MEM": 1}, latency=4)
    >>> s = loop.operation("add", {"ADD": 1}, latency=3)
    >>> loop.uses(x, s)
    >>> loop.uses(s, s, distance=1)
    >>> loop.problem().operations[1].id
    'add'
    """

    def __init__(self, name: str, machine: str | Machine | Mapping[str, int]) -> None:
        self.name = name
        if isinstance(machine, str):
            machine = load_machine(machine)
        elif not isinstance(machine, Machine):
            units = [{"name": u, "capacity": c} for u, c in machine.items()]
            machine = Machine.parse({"name": name, "units": units})
        self.machine = machine
        self._operations: list[Operation] = []
        self._edges: list[Edge] = []
        self._buffers: list[Buffer] = []

    def operation(self, id: str, units: Mapping[str, int] | None = None, **fields: Any) -> str:
        """Add an operation and return its id.

        Parameters
        ----------
        units
            Cycles for which each unit is reserved from the issue on, at its full capacity; give
            ``uses`` instead for shares and irregular tables.
        fields
            Any further field of an operation (`latency`, `registers`, `asynchronous`, ...).

        Raises
        ------
        ProblemError
            For a wrong field.
        """
        uses = []
        for unit, cycles in (units or {}).items():
            known = self.machine.unit(unit)
            amount = 1 if known is None else known.capacity
            if cycles:
                uses.append({"unit": unit, "cycles": cycles, "amount": amount})
        self._operations.append(Operation.parse({"id": id, "uses": uses} | fields))
        return id

    def uses(
        self,
        source: str,
        target: str,
        *,
        distance: int = 0,
        delay: int | None = None,
        **fields: Any,
    ) -> None:
        """Say that ``target`` uses the result of ``source``, ``distance`` iterations later.

        The delay is the source's latency unless given.
        """
        if delay is None:
            delay = next((o.latency for o in self._operations if o.id == source), 0)
        record = {"source": source, "target": target, "delay": delay, "distance": distance}
        self._edges.append(Edge.parse(record | fields))

    def overwrites(self, writer: str, reader: str, *, delay: int, buffers: int | str = 1) -> None:
        """Say that ``writer`` overwrites what ``reader`` reads.

        It waits ``delay`` cycles after the reader's issue, as many iterations later as there are
        ``buffers`` (or as the ring of that name has slots).
        """
        ring = {"distance": buffers} if isinstance(buffers, int) else {"buffer": buffers}
        record = {"source": reader, "target": writer, "delay": delay, "kind": "anti"} | ring
        self._edges.append(Edge.parse(record))

    def buffer(
        self, name: str, size: int, *, most: int, memory: str = "smem", least: int = 1
    ) -> str:
        """Add a ring whose depth, from ``least`` to ``most``, is a decision; returns its name."""
        record = {"name": name, "memory": memory, "size": size}
        self._buffers.append(Buffer.parse(record | {"min_depth": least, "max_depth": most}))
        return name

    def problem(self, groups: int | None = 0, **fields: Any) -> KernelProblem:
        """The finished problem.

        Parameters
        ----------
        groups
            Warp groups with the producer; 0 for modulo scheduling only, None for the machine's
            limit.

        Raises
        ------
        ProblemError
            When the loop is not well formed.
        """
        record = {
            "name": self.name,
            "operations": self._operations,
            "edges": self._edges,
            "buffers": self._buffers,
            "machine": self.machine,
            "groups": groups,
        }
        return KernelProblem.parse(record | fields)
