"""Where pods are, as arrays: which nodes a class may go to now, for all nodes at once."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from cpsched.families.pods.arrays import Bools, Floats, Ints
from cpsched.families.pods.prepare import Instance

#: One action of a plan by indices: (kind, pod, node, cells), with kind "evict" or "bind".
Action = tuple[str, int, int, tuple[int, ...]]


class Board:
    """The mutable state of the heuristics; every change is a recorded action.

    Attributes
    ----------
    at
        Node of each pod, -1 for none.
    free, cell_free
        What is left per node and per cell.
    actions
        What was done, in order; executable as it stands.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = i = instance
        self.at: Ints = i.at.copy()
        self.cells = dict(enumerate(i.cells_at))
        self.free: Ints = i.capacity.copy()
        self.cell_free: Ints = i.cell_capacity.copy()
        running = np.flatnonzero(self.at >= 0)
        np.subtract.at(self.free, self.at[running], i.requests[i.class_of[running]])
        self.guests: dict[int, set[int]] = defaultdict(set)
        for p in running.tolist():
            self.guests[int(self.at[p])].add(p)
            for cell in self.cells[p]:
                self.cell_free[self.at[p], cell] -= i.cell_requests[i.class_of[p]]
        # Running pods by class: a count looks at its classes only.
        order = running[np.argsort(i.class_of[running], kind="stable")]
        ends = np.cumsum(np.bincount(i.class_of[order], minlength=len(i.classes)))
        self._setup_conflicts(order, ends)
        self._setup_counts(order, ends)
        self.credit = list(i.budget_credit)
        self.quota_used = np.zeros_like(i.quota_limits)
        for p in running.tolist():
            for q in i.classes[i.class_of[p]].quotas:
                self.quota_used[q] += i.requests[i.class_of[p]]
        self.away: set[int] = set()
        self.actions: list[Action] = []

    def _setup_conflicts(self, order: Ints, ends: Ints) -> None:
        i = self.instance
        self.holding: list[Ints] = []
        self.matching: list[Ints] = []
        self._holds: list[list[int]] = [[] for _ in i.classes]
        self._meets: list[list[int]] = [[] for _ in i.classes]
        for k, conflict in enumerate(i.conflicts):
            for mask, counts, lists in (
                (conflict.holders, self.holding, self._holds),
                (conflict.matches, self.matching, self._meets),
            ):
                where = conflict.domain[self.at[_of_classes(order, ends, mask)]]
                counts.append(np.bincount(where[where >= 0], minlength=conflict.domains))
                for c in np.flatnonzero(mask).tolist():
                    lists[c].append(k)

    def _setup_counts(self, order: Ints, ends: Ints) -> None:
        i = self.instance
        self.near: dict[int, list[Ints]] = {}
        self.spread: dict[int, list[Ints]] = {}
        self._seen_by: list[list[tuple[Ints, Ints]]] = [[] for _ in i.classes]
        known: dict[tuple[int, int], Ints] = {}

        def count(matches: Bools, domain: Ints) -> Ints:
            # Classes with the same selector and domains share one count.
            key = (id(matches), id(domain))
            if key not in known:
                where = domain[self.at[_of_classes(order, ends, matches)]]
                size = int(domain.max(initial=-1)) + 1
                known[key] = np.bincount(where[where >= 0], minlength=size)
                for c in np.flatnonzero(matches).tolist():
                    self._seen_by[c].append((domain, known[key]))
            return known[key]

        for c, together in i.together.items():
            self.near[c] = [count(together.matches, domain) for domain in together.domains]
        for c, spreads in i.spreads.items():
            self.spread[c] = [count(s.matches, s.eligible) for s in spreads]

    # ------------------------------------------------------------------ asking

    def mask(self, c: int) -> Bools:
        """Nodes where a pod of the class can be bound now."""
        i = self.instance
        need = i.requests[c]
        wanted = np.flatnonzero(need)
        out: Bools = i.allowed[c] & np.all(self.free[:, wanted] >= need[wanted], axis=1)
        if i.cell_count[c]:
            fits = np.all(self.cell_free >= i.cell_requests[c], axis=2)
            out &= fits.sum(axis=1) >= i.cell_count[c]
        for q in i.classes[c].quotas:
            over = (self.quota_used[q] + need > i.quota_limits[q]) & (need > 0)
            if over.any():
                out[:] = False
        return self._between(c, out)

    def _between(self, c: int, out: Bools) -> Bools:
        i = self.instance
        for lists, counts in ((self._holds, self.matching), (self._meets, self.holding)):
            for k in lists[c]:
                domain = i.conflicts[k].domain
                taken = np.append(counts[k] > 0, False)
                out &= ~taken[domain]
        together = i.together.get(c)
        if together is not None:
            near = np.ones(len(out), dtype=bool)
            labelled = np.ones(len(out), dtype=bool)
            for domain, count in zip(together.domains, self.near[c], strict=True):
                near &= np.append(count > 0, False)[domain]
                labelled &= domain >= 0
            if together.own and not any(count.any() for count in self.near[c]):
                near = labelled
            out &= near
        for s, count in zip(i.spreads.get(c, ()), self.spread.get(c, ()), strict=True):
            lowest = int(count.min(initial=2**40)) if s.domains else 0
            if s.domains < s.min_domains:
                lowest = 0
            fits = np.append(count + s.own - lowest <= s.max_skew, False)
            out &= fits[s.eligible]
        return out

    def can(self, c: int, n: int) -> bool:
        """Whether a pod of the class can be bound to the node now."""
        if np.any(self.free[n] < self.instance.requests[c]):
            need = self.instance.requests[c]
            if np.any((self.free[n] < need) & (need > 0)):
                return False
        return bool(self.mask(c)[n])

    def choose_cells(self, c: int, n: int) -> tuple[int, ...]:
        """The tightest cells of the node for a pod of the class."""
        i = self.instance
        count = int(i.cell_count[c])
        if not count:
            return ()
        fits = np.flatnonzero(np.all(self.cell_free[n] >= i.cell_requests[c], axis=1))
        order = sorted(fits.tolist(), key=lambda k: (self.cell_free[n, k].tolist(), k))
        return tuple(sorted(order[:count]))

    def tightness(self, c: int) -> Floats:
        """What would be left on each node, relative to its capacity: small is a tight fit."""
        i = self.instance
        wanted = np.flatnonzero(i.requests[c][1:]) + 1
        if not len(wanted):
            wanted = np.arange(1)
        capacity = np.maximum(i.capacity[:, wanted], 1)
        left = ((self.free[:, wanted] - i.requests[c][wanted]) / capacity).sum(axis=1)
        if i.cell_count[c]:
            room = np.where(self.cell_free >= i.cell_requests[c], self.cell_free, 2**40)
            left = left + room.min(axis=1).sum(axis=1) / 2.0**20
        out: Floats = left
        return out

    def best_node(self, c: int, avoid: int = -1) -> int:
        """The tightest node that the class may go to, -1 when there is none."""
        mask = self.mask(c)
        if avoid >= 0:
            mask[avoid] = False
        if not mask.any():
            return -1
        left = np.where(mask, self.tightness(c), np.inf)
        spreads = self.instance.spreads.get(c)
        if spreads:
            # Fill the emptiest domains first, so that the skew never blocks a later pod.
            for s, count in zip(spreads, self.spread[c], strict=True):
                left = left + 1e3 * np.append(count, 0)[s.eligible]
        return int(np.argmin(left))

    def may_evict(self, p: int) -> bool:
        """Whether the pod may be evicted now."""
        group = self.instance.classes[self.instance.class_of[p]]
        if group.fixed:
            return False
        limit = self.instance.problem.max_in_flight
        if limit is not None and len(self.away) >= limit and self.instance.at[p] >= 0:
            return False
        return all(self.credit[b] > 0 for b in group.budgets)

    def undone(self) -> bool:
        """Whether affinity or spread of a pod that was bound no longer holds."""
        i = self.instance
        for c, n in {
            (int(i.class_of[p]), n)
            for kind, p, n, _ in self.actions
            if kind == "bind" and self.at[p] == n
        }:
            for s, count in zip(i.spreads.get(c, ()), self.spread.get(c, ()), strict=True):
                few = s.domains < s.min_domains
                lowest = 0 if few else int(count.min(initial=2**40))
                if s.own and count[s.eligible[n]] - lowest > s.max_skew:
                    return True
            together = i.together.get(c)
            if together is not None and not all(
                count[domain[n]] > 0
                for domain, count in zip(together.domains, self.near[c], strict=True)
            ):
                return True
        return False

    # ------------------------------------------------------------------ changing

    def bind(self, p: int, n: int, cells: tuple[int, ...] | None = None) -> None:
        """Put a pod that is nowhere on a node."""
        c = int(self.instance.class_of[p])
        if cells is None:
            cells = self.choose_cells(c, n)
        self._apply(p, c, n, cells, 1)
        self.at[p] = n
        self.cells[p] = cells
        self.guests[n].add(p)
        self.away.discard(p)
        self.actions.append(("bind", p, n, cells))

    def evict(self, p: int) -> None:
        """Take a pod off its node."""
        c, n = int(self.instance.class_of[p]), int(self.at[p])
        cells = self.cells[p]
        self._apply(p, c, n, cells, -1)
        self.at[p] = -1
        self.cells[p] = ()
        self.guests[n].discard(p)
        if self.instance.at[p] >= 0:
            self.away.add(p)
        self.actions.append(("evict", p, n, cells))

    def undo(self, length: int) -> None:
        """Take back the actions after the first ``length``."""
        while len(self.actions) > length:
            kind, p, n, cells = self.actions.pop()
            if kind == "bind":
                self.evict(p)
            else:
                self.bind(p, n, cells)
            self.actions.pop()

    def _apply(self, p: int, c: int, n: int, cells: tuple[int, ...], by: int) -> None:
        i = self.instance
        self.free[n] -= by * i.requests[c]
        for cell in cells:
            self.cell_free[n, cell] -= by * i.cell_requests[c]
        for lists, counts in ((self._holds, self.holding), (self._meets, self.matching)):
            for k in lists[c]:
                domain = i.conflicts[k].domain[n]
                if domain >= 0:
                    counts[k][domain] += by
        for domain_of, count in self._seen_by[c]:
            if domain_of[n] >= 0:
                count[domain_of[n]] += by
        group = i.classes[c]
        for b in group.budgets:
            self.credit[b] += by
        for q in group.quotas:
            self.quota_used[q] += by * i.requests[c]


def _of_classes(order: Ints, ends: Ints, mask: Bools) -> Ints:
    """The pods, listed by class, of some classes; ``ends`` are where the classes' lists end."""
    chosen = np.flatnonzero(mask).tolist()
    if not chosen:
        return order[:0]
    return np.concatenate([order[ends[c - 1] if c else 0 : ends[c]] for c in chosen])
