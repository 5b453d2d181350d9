"""The parts of a machine-reassignment problem (ROADEF/EURO challenge 2012) beyond nodes and pods.

Machines are the problem's nodes and processes its pods, in order; this record holds the rest.
"""

from __future__ import annotations

from cpsched.errors import ProblemError
from cpsched.problem import Count, Record

#: Row of integers, one per resource.
Row = tuple[Count, ...]


class Balance(Record):
    """Balance cost: ``weight * max(0, target * free(first) - free(second))`` per machine."""

    first: Count
    second: Count
    target: Count
    weight: Count


class Reassignment(Record):
    """Costs and constraints of a machine reassignment.

    Attributes
    ----------
    transient
        Per resource: used on the old machine too while (and after) a process moves.
    load_weights
        Per resource: cost of one unit above a machine's safety capacity.
    locations, neighbourhoods
        Per machine.
    capacities, safety
        Per machine, per resource.
    move_costs
        Per machine, per machine: cost of moving a process between them.
    services
        Per process.
    spread_minimum
        Per service: least number of distinct locations.
    dependencies
        Per service: services that must run in every neighbourhood where this one runs.
    requirements, process_move_costs
        Per process (per resource).
    initial
        Per process: its machine now.
    """

    transient: tuple[bool, ...]
    load_weights: Row
    locations: Row
    neighbourhoods: Row
    capacities: tuple[Row, ...]
    safety: tuple[Row, ...]
    move_costs: tuple[Row, ...]
    services: Row
    spread_minimum: Row
    dependencies: tuple[Row, ...]
    requirements: tuple[Row, ...]
    process_move_costs: Row
    balances: tuple[Balance, ...] = ()
    process_move_weight: Count = 0
    service_move_weight: Count = 0
    machine_move_weight: Count = 0
    initial: Row

    def verify(self, machines: int, processes: int) -> None:
        """Check sizes and indices.

        Raises
        ------
        ProblemError
            Naming the field that does not fit.
        """
        resources, services = len(self.transient), len(self.spread_minimum)
        sizes = {
            "load_weights": (len(self.load_weights), resources),
            "locations": (len(self.locations), machines),
            "neighbourhoods": (len(self.neighbourhoods), machines),
            "capacities": (len(self.capacities), machines),
            "safety": (len(self.safety), machines),
            "move_costs": (len(self.move_costs), machines),
            "services": (len(self.services), processes),
            "dependencies": (len(self.dependencies), services),
            "requirements": (len(self.requirements), processes),
            "process_move_costs": (len(self.process_move_costs), processes),
            "initial": (len(self.initial), processes),
        }
        for field, (found, wanted) in sizes.items():
            if found != wanted:
                raise ProblemError(
                    f"there must be {wanted} entries",
                    place=f"reassignment.{field}",
                    value=found,
                    remedy="Correct the list.",
                )
        rows = {
            "capacities": (self.capacities, resources),
            "safety": (self.safety, resources),
            "requirements": (self.requirements, resources),
            "move_costs": (self.move_costs, machines),
        }
        for field, (table, width) in rows.items():
            for i, row in enumerate(table):
                if len(row) != width:
                    raise ProblemError(
                        f"each row must have {width} entries",
                        place=f"reassignment.{field}.{i}",
                        value=len(row),
                        remedy="Correct the row.",
                    )
        limits = {
            "services": (self.services, services),
            "initial": (self.initial, machines),
            "dependencies": ([d for row in self.dependencies for d in row], services),
            "balances": ([r for b in self.balances for r in (b.first, b.second)], resources),
        }
        for field, (values, limit) in limits.items():
            if any(not 0 <= v < limit for v in values):
                raise ProblemError(
                    f"indices must lie below {limit}",
                    place=f"reassignment.{field}",
                    value=max(values),
                    remedy="Correct the index.",
                )
