"""Links and storage in the CP-SAT model: transfers that take turns, copies that take room."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from cpsched.families.workflow import terms
from cpsched.families.workflow.extract import needed_data
from cpsched.families.workflow.model import Variables, machines_of
from cpsched.families.workflow.prepare import integers

if TYPE_CHECKING:
    from ortools.sat.python.cp_model import CpModel


def contention(v: Variables) -> None:
    """One transfer per file and destination, alone on its link; consumers wait for it."""
    inst, model = v.inst, v.model
    links: dict[tuple[int, int], list[Any]] = defaultdict(list)
    waits: dict[str, list[tuple[int, int, str | None, float]]] = defaultdict(list)
    for u, home, t, carried in needed_data(inst):
        for file, size in carried:
            waits[file].append((u, t, home, size))
    for file, uses in waits.items():
        v.check()
        u, _, home, size = uses[0]
        sources = [inst.machine_index[home]] if home is not None else machines_of(v, u)
        targets = sorted({q for _, t, _, _ in uses for q in machines_of(v, t)})
        for q in targets:
            senders = [p for p in sources if p != q]
            readers = [t for _, t, _, _ in uses if q in machines_of(v, t)]
            if not senders:
                continue
            sent = model.new_int_var(0, v.horizon, f"sent_{file}_{q}")
            arrived = model.new_int_var(0, v.horizon, f"arrived_{file}_{q}")
            if u >= 0:
                model.add(sent >= v.end[u])
            for p in senders:
                lag = v.coarse(inst.lag(size, p, q))
                origin = 1 if home is not None else v.located(u, p)
                active = model.new_bool_var(f"send_{file}_{p}_{q}")
                for t in readers:
                    # Needed when the producer is on p and a reader on q.
                    model.add(active >= origin + v.located(t, q) - 1)
                    model.add(v.start[t] >= arrived).only_enforce_if(
                        [active, *_literals(model, v, t, q)]
                    )
                model.add(active <= origin)
                model.add(active <= sum(v.located(t, q) for t in readers))
                model.add(arrived == sent + lag).only_enforce_if(active)
                if lag:
                    links[p, q].append(
                        model.new_optional_interval_var(sent, lag, sent + lag, active, "")
                    )
                v.transfers[file, q] = (sent, arrived, active)
    for intervals in links.values():
        model.add_no_overlap(intervals)


def _literals(model: CpModel, v: Variables, t: int, q: int) -> list[Any]:
    """The literal that task ``t`` is on machine ``q``, as an enforcement list."""
    known = v.notes.setdefault("literal_on", {})
    if (t, q) not in known:
        located = v.located(t, q)
        if isinstance(located, int):
            known[t, q] = [] if located == 1 else [model.new_constant(0)]
        elif hasattr(located, "negated"):
            known[t, q] = [located]
        else:
            literal = model.new_bool_var(f"on{t}_{q}")
            model.add(literal == located)
            known[t, q] = [literal]
    out: list[Any] = known[t, q]
    return out


def storage(v: Variables, peak: Any = None) -> None:
    """Copies of files within the storage of their machine; ``peak`` bounds all copies together."""
    inst, model = v.inst, v.model
    problem = inst.problem
    limited = {p for p, mc in enumerate(problem.machines) if mc.storage is not None}
    if not limited and peak is None:
        return
    groups: dict[str, list[tuple[int, int, str | None, float]]] = defaultdict(list)
    for u, home, t, carried in needed_data(inst):
        for file, size in carried:
            groups[file].append((u, t, home, size))
    kept = {f.id for f in problem.files if f.keep}
    for f in problem.files:
        if f.size > 0 and f.id not in groups and (f.producer or f.location):
            u = inst.index[f.producer] if f.producer else -1
            groups[f.id] = [(u, -1, f.location, f.size)]
    sizes = [uses[0][3] for uses in groups.values() if uses[0][3] > 0]
    capacities = [mc.storage for mc in problem.machines if mc.storage is not None]
    scale = storage_scale([*sizes, *capacities])
    v.notes["storage_scale"] = scale
    everything: list[tuple[Any, int]] = []
    held: dict[int, list[tuple[Any, int]]] = defaultdict(list)
    for file, uses in groups.items():
        v.check()
        u, _, home, size = uses[0]
        amount = math.floor(terms.exact(size) * scale)
        if amount == 0:
            continue
        readers = [t for _, t, _, _ in uses if t >= 0]
        sources = [inst.machine_index[home]] if home is not None else machines_of(v, u)
        begin = v.start[u] if u >= 0 else 0
        ready = v.end[u] if u >= 0 else 0
        for p in sources:
            here = [1] if home is not None else _literals(model, v, u, p)
            until = model.new_int_var(0, v.horizon, f"until_{file}_{p}")
            if file in kept:
                model.add(until >= v.makespan)
            model.add(until >= ready)
            for t in readers:
                model.add(until >= v.end[t]).only_enforce_if(_literals(model, v, t, p))
            targets = {q for t in readers for q in machines_of(v, t)} - {p}
            for q in targets:
                lag = v.coarse(inst.lag(size, p, q))
                for t in readers:
                    if q not in machines_of(v, t):
                        continue
                    both = [*([] if home is not None else here), *_literals(model, v, t, q)]
                    arrival = ready + lag
                    if (file, q) in v.transfers:
                        arrival = v.transfers[file, q][1]
                    model.add(until >= arrival).only_enforce_if(both)
            copy = _copy(v, begin, until, [] if home is not None else here)
            held[p].append((copy, amount))
            everything.append((copy, amount))
        for q in {q for t in readers for q in machines_of(v, t)}:
            if sources == [q]:
                continue
            present = model.new_bool_var(f"copy_{file}_{q}")
            origin = 0 if home is not None else v.located(u, q)
            local = [t for t in readers if q in machines_of(v, t)]
            for t in local:
                model.add(present >= v.located(t, q) - origin)
            model.add(present <= sum(v.located(t, q) for t in local))
            model.add(present <= 1 - origin)
            until = model.new_int_var(0, v.horizon, f"until_{file}_at_{q}")
            since = model.new_int_var(0, v.horizon, f"since_{file}_at_{q}")
            for t in local:
                model.add(until >= v.end[t]).only_enforce_if([present, *_literals(model, v, t, q)])
            if (file, q) in v.transfers:
                model.add(since == v.transfers[file, q][0]).only_enforce_if(present)
                model.add(until >= v.transfers[file, q][1]).only_enforce_if(present)
            else:
                model.add(since == ready).only_enforce_if(present)
                for p in sources:
                    if p != q:
                        lag = v.coarse(inst.lag(size, p, q))
                        enforced = [present]
                        if home is None:
                            enforced += _literals(model, v, u, p)
                        model.add(until >= ready + lag).only_enforce_if(enforced)
            copy = _copy(v, since, until, [present])
            held[q].append((copy, amount))
            everything.append((copy, amount))
    for p in limited:
        room = math.floor(terms.exact(problem.machines[p].storage or 0.0) * scale)
        if held[p]:
            model.add_cumulative([c for c, _ in held[p]], [a for _, a in held[p]], room)
    if peak is not None and everything:
        model.add_cumulative([c for c, _ in everything], [a for _, a in everything], peak)


def storage_scale(sizes: Sequence[float]) -> Fraction:
    """Model units per byte for storage levels."""
    if not sizes:
        return Fraction(1)
    return integers(list(sizes))[1]


def _copy(v: Variables, begin: Any, until: Any, present: list[Any]) -> Any:
    size = v.model.new_int_var(0, v.horizon, "")
    if present and not isinstance(present[0], int):
        return v.model.new_optional_interval_var(begin, size, until, present[0], "")
    return v.model.new_interval_var(begin, size, until, "")
