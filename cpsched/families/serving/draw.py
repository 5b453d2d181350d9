"""Pictures of serving schedules: requests in lanes, memory below; GPUs with their loads."""

from __future__ import annotations

import heapq
from itertools import pairwise

from cpsched.families.serving import check_cache, check_static
from cpsched.families.serving.pieces import peaks, used_on
from cpsched.families.serving.problem import ServingProblem, ServingSchedule
from cpsched.plot.figure import Bar, Figure, Lane, Profile

#: Requests drawn as bars; with more only the memory is drawn.
MOST_BARS = 3000


def draw(p: ServingProblem, s: ServingSchedule) -> Figure:
    """The figure of a schedule."""
    title = p.name or f"serving: {p.question}"
    if p.question in ("admission", "capacity"):
        return _admission(p, s, title)
    if p.question == "cache":
        return _cache(p, s, title)
    loads: dict[str, list[tuple[str, float]]] = {}
    if p.question == "placement":
        items = {i.id: i for i in p.items}
        for one in s.placements:
            for gpu in one.gpus:
                loads.setdefault(gpu, []).append((one.item, items[one.item].load / len(one.gpus)))
        order = [g.name for g in p.gpus]
    elif p.question == "routing":
        requests = {r.id: r for r in p.requests}
        for placed in s.requests:
            r = requests[placed.request]
            loads.setdefault(str(placed.instance), []).append((r.id, float(r.prompt + r.output)))
        order = [str(k) for k in range(len(p.machines))]
    else:
        victims = {one.request for one in s.evictions}
        for r in p.requests:
            lane = "evicted" if r.id in victims else "kept"
            loads.setdefault(lane, []).append((r.id, float(check_static.held_units(r))))
        order = ["kept", "evicted"]
    lanes = []
    for name in order:
        at, bars = 0.0, []
        for label, size in sorted(loads.get(name, []), key=lambda x: -x[1]):
            bars.append(Bar(at, at + size, label, label, f"{label}: {size:g}"))
            at += size
        lanes.append(Lane(name, tuple(bars)))
    return Figure(
        title, x_label="load" if p.question != "preemption" else "units", lanes=tuple(lanes)
    )


def _admission(p: ServingProblem, s: ServingSchedule, title: str) -> Figure:
    requests = {r.id: r for r in p.requests}
    machines = p.machines
    lanes, profiles = [], []
    for index in sorted({g for o in s.requests for g in (o.instance, o.decode) if g is not None}):
        mine = sorted((o for o in s.requests if o.instance == index), key=lambda o: o.start)
        if len(s.requests) <= MOST_BARS:
            free: list[tuple[int, int]] = []
            rows: list[list[Bar]] = []
            for one in mine:
                if free and free[0][0] <= one.start:
                    row = heapq.heappop(free)[1]
                else:
                    row = len(rows)
                    rows.append([])
                heapq.heappush(free, (one.end, row))
                r = requests[one.request]
                text = f"request {r.id}: prompt {r.prompt}, output {r.output}, from {one.start}"
                rows[row].append(Bar(one.start, one.end, r.id, r.program or r.id, text))
            lanes += [
                Lane(f"instance {index}" if not k else "", tuple(bars), 0.4)
                for k, bars in enumerate(rows)
            ]
        here = [(requests[o.request], o) for o in s.requests if index in (o.instance, o.decode)]
        times, use = peaks(used_on(p, index, here)["capacity"])
        capacity = machines[index].capacity
        points = tuple((float(t), float(u)) for t, u in zip(times, use, strict=True))
        limit = ((0.0, float(capacity)),) if capacity is not None else ()
        profiles.append(Profile(f"memory of instance {index}", points, limit))
    return Figure(title, x_label="round", lanes=tuple(lanes), profiles=tuple(profiles))


def _cache(p: ServingProblem, s: ServingSchedule, title: str) -> Figure:
    if not check_cache.is_program_cache(p):
        hits = check_cache.hit_blocks(p, s)
        uses = [len(r.prefix) for r in p.requests]
        step = max(1, len(hits) // 500)
        points = tuple(
            (float(k), sum(hits[k : k + step]) / max(1, sum(uses[k : k + step])))
            for k in range(0, len(hits), step)
        )
        profile = Profile("share of prefix blocks that hit", points)
        return Figure(title, x_label="request", profiles=(profile,))
    steps = check_cache.program_steps(p)
    lanes = []
    kept = {(pin.item, pin.from_): pin.place for pin in s.pins}
    for name, calls in list(steps.items())[:200]:
        bars = [
            Bar(r.arrival, check_cache.call_end(r), str(r.step), "call", f"{name} step {r.step}")
            for r in calls
        ]
        bars += [
            Bar(check_cache.call_end(a), b.arrival, "", kept[name, k], "kept", dashed=True)
            for k, (a, b) in enumerate(pairwise(calls))
            if (name, k) in kept
        ]
        lanes.append(Lane(name, tuple(bars), 0.5))
    return Figure(title, x_label="round", lanes=tuple(lanes))
