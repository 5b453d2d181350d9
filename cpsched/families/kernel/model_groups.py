"""Constraints of the model on warp groups: membership, carried values, waits, warps."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpsched.families.kernel.model import KernelModel, Term


def groups(m: KernelModel) -> None:
    """Each operation is in one group; group 0 holds exactly the variable-latency ones."""
    instance, model = m.instance, m.model
    everyone = range(instance.groups)
    pinned = False
    m.v.used = [model.new_bool_var(f"used {g}") for g in everyone]
    for o, operation in enumerate(instance.problem.operations):
        row: list[Term]
        if operation.variable_latency:
            row = [int(g == 0) for g in everyone]
        elif operation.group is not None:
            pinned = True
            row = [int(g == operation.group) for g in everyone]
        else:
            row = [0] + [model.new_bool_var(f"in {o} {g}") for g in everyone[1:]]
            model.add_exactly_one(row[1:])
        m.v.member.append(row)
    for g in everyone:
        literals = [row[g] for row in m.v.member if not isinstance(row[g], int)]
        constant = any(row[g] == 1 for row in m.v.member if isinstance(row[g], int))
        if constant:
            model.add(m.v.used[g] == 1)
        else:
            model.add_max_equality(m.v.used[g], literals or [0])
    _carried(m)
    if not pinned:
        _order(m)


def _carried(m: KernelModel) -> None:
    """A register value carried across iterations stays in its group."""
    for e, edge in enumerate(m.instance.problem.edges):
        if edge.carried:
            m.model.add(m.same(int(m.instance.source[e]), int(m.instance.target[e])) == 1)


def _order(m: KernelModel) -> None:
    """Groups other than the producer are interchangeable: number them by first member."""
    before: list[Any] = []
    for row in m.v.member:
        if isinstance(row[1] if len(row) > 1 else 0, int):
            continue
        for g in range(2, len(row)):
            earlier = [other[g - 1] for other in before]
            m.model.add_bool_or([row[g].negated(), *earlier])
        before.append(row)


def same(m: KernelModel, u: int, w: int) -> Term:
    """Literal: two different operations are in one group."""
    model, a, b = m.model, m.v.member[u], m.v.member[w]
    fixed_a = next((g for g, x in enumerate(a) if isinstance(x, int) and x == 1), None)
    fixed_b = next((g for g, x in enumerate(b) if isinstance(x, int) and x == 1), None)
    if fixed_a is not None and fixed_b is not None:
        return int(fixed_a == fixed_b)
    if fixed_a is not None or fixed_b is not None:
        return b[fixed_a] if fixed_a is not None else a[fixed_b or 0]
    together = model.new_bool_var(f"same {u} {w}")
    for x, y in zip(a[1:], b[1:], strict=True):
        model.add_bool_or([x.negated(), y.negated(), together])
        model.add_bool_or([x.negated(), y, together.negated()])
        model.add_bool_or([y.negated(), x, together.negated()])
    return together


def blocking(m: KernelModel) -> None:
    """While an operation is in its issue window, no wait of its group begins."""
    instance = m.instance
    always: set[int] = set()
    # Literals of which one holds unless the operation waits for registers of another group.
    unless: dict[int, list[list[Term]]] = {}
    for e, edge in enumerate(instance.problem.edges):
        u, w = int(instance.source[e]), int(instance.target[e])
        spills = [c.spill > 0 for c in instance.modes[u]]
        if edge.blocking:
            always.add(w)
        elif edge.kind == "true" and any(spills):
            together = m.same(u, w)
            if isinstance(together, int) and together:
                continue
            for x in m.with_mode(u, spills):
                clause = [together] if not isinstance(together, int) else []
                clause += [x.negated()] if not isinstance(x, int) else []
                if clause:
                    unless.setdefault(w, []).append(clause)
                else:
                    always.add(w)
    for w in sorted(always | set(unless)):
        waiting: Term = 1
        if w not in always:
            waiting = m.model.new_bool_var(f"waits {w}")
            for clause in unless[w]:
                m.model.add_bool_or([*clause, waiting])
        for o in range(instance.n):
            if o == w:
                continue
            for cycles in sorted({c.issue for c in instance.modes[o]} - {0}):
                for x in m.with_mode(o, [c.issue == cycles for c in instance.modes[o]]):
                    _window(m, w, o, cycles, [waiting, x])


def _window(m: KernelModel, w: int, o: int, cycles: int, conditions: list[Term]) -> None:
    """An operation's issue window of some cycles keeps clear of a wait, under literals."""
    together = m.same(w, o)
    if isinstance(together, int) and not together:
        return
    literals = [c for c in (together, *conditions) if not isinstance(c, int)]
    period = m.interval
    if cycles >= period:
        m.model.add_bool_or([c.negated() for c in literals])
        return
    gap = m.v.slot[w] - m.v.slot[o]
    wrapped = m.model.new_bool_var(f"wrap {w} {o}")
    m.model.add_linear_constraint(gap + period * wrapped, cycles, period - 1).only_enforce_if(
        literals
    )


def widths(m: KernelModel) -> list[int]:
    """The numbers of warps that an operation may need, ascending."""
    return sorted({c.warps for modes in m.instance.modes for c in modes})


def wider(m: KernelModel, g: int, width: int) -> list[Term]:
    """Literals of which one holds exactly when group g has an operation of more than some warps;
    the constant 1 among them when it always has."""
    found: list[Term] = []
    for o, modes in enumerate(m.instance.modes):
        for x in m.with_mode(o, [c.warps > width for c in modes]):
            inside = m.both(m.v.member[o][g], x)
            if not isinstance(inside, int) or inside:
                found.append(inside)
    return found


def warps(m: KernelModel) -> None:
    """The groups' warps within the machine's."""
    limit = m.instance.problem.machine.max_warps
    steps = [0, *widths(m)]
    if limit is None or limit >= m.instance.groups * steps[-1]:
        return
    total: list[Term] = []
    for less, width in pairwise(steps):
        for g in range(m.instance.groups):
            literals = wider(m, g, less)
            if any(isinstance(x, int) for x in literals):
                total.append(width - less)
            elif literals:
                reaches = m.model.new_bool_var(f"width {g} {width}")
                for x in literals:
                    m.model.add_implication(x, reaches)
                total.append((width - less) * reaches)
    m.model.add(sum(total) <= limit)
