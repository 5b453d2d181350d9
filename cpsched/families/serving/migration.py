"""The exact model of migrations step by step: when each begins, beside where everybody goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cpsched.families.serving.check_static import migration_rounds, residents
from cpsched.families.serving.problem import ServingProblem

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel

#: Most running requests for which the steps are modelled.
LARGEST = 400


class MigrationPlan:
    """Intervals of the migrations in a model that chooses ``where[i][g]``.

    With a network a request is on both instances while it moves, and lines are limited; without
    one the migrations happen one after the other, each in a moment.
    """

    def __init__(self, p: ServingProblem, model: CpModel, where: list[dict[int, Any]]) -> None:
        self.p = p
        running = [(i, r) for i, r in enumerate(p.requests) if r.instance is not None]
        timed = p.network is not None
        rounds = {i: migration_rounds(p, r) if timed else 1 for i, r in running}
        end = sum(rounds.values())
        self.last = model.new_int_var(0, end, "migration_rounds")
        there: dict[int, list[tuple[Any, int]]] = {}
        steps: list[Any] = []
        #: When the migration of a running request begins, if it migrates.
        self.begins: dict[int, Any] = {}
        for i, r in running:
            home = r.instance or 0
            stays = where[i].get(home, 0)
            begin = self.begins[i] = model.new_int_var(0, end, "")
            over = begin + rounds[i]
            goes = model.new_bool_var("")
            model.add(goes + stays == 1)
            model.add(over <= self.last).only_enforce_if(goes)
            steps.append(model.new_optional_fixed_size_interval_var(begin, rounds[i], goes, ""))
            units = r.prompt + r.output
            # At home until the end of the migration, or all the time.
            leaves = over if timed else begin
            until = model.new_int_var(0, 2 * end + 1, "")
            model.add(until == leaves).only_enforce_if(goes)
            model.add(until == 2 * end + 1).only_enforce_if(goes.Not())
            there.setdefault(home, []).append((model.new_interval_var(0, until, until, ""), units))
            for g, literal in where[i].items():
                if g != home:
                    size = model.new_int_var(0, 2 * end + 1, "")
                    stay = model.new_optional_interval_var(begin, size, 2 * end + 1, literal, "")
                    there.setdefault(g, []).append((stay, units))
        for g, uses in there.items():
            room = p.machines[g].capacity
            if room is not None:
                model.add_cumulative([i for i, _ in uses], [u for _, u in uses], room)
        lines = 1 if p.network is None else p.network.transfers
        if lines is not None:
            model.add_cumulative(steps, [1] * len(steps), lines)

    @staticmethod
    def applies(p: ServingProblem) -> bool:
        """Whether the model covers the problem: no shared prefixes, and nobody too full before."""
        now = {r.id: r.instance for r in p.requests if r.instance is not None}
        fits = all(
            m.capacity is None or use <= m.capacity
            for m, use in zip(p.machines, residents(p, now), strict=True)
        )
        return fits and not any(r.prefix for r in p.requests) and len(now) <= LARGEST

    def moves(self, found: list[int], where: list[int]) -> list[dict[str, Any]]:
        """The migrations of a solution, by start."""
        p = self.p
        going = [
            (found[begin.index], i)
            for i, begin in self.begins.items()
            if where[i] != p.requests[i].instance
        ]
        out = []
        for at, i in sorted(going):
            r = p.requests[i]
            move: dict[str, Any] = {"request": r.id, "from": r.instance, "to": where[i]}
            if p.network is not None:
                move |= {"start": at, "end": at + migration_rounds(p, r)}
            out.append(move)
        return out
