"""Expansion: prologue, kernel and epilogue, and what each warp group executes.

Iteration ``i`` enters the pipeline in pass ``i``. In pass ``p`` of the steady state (the kernel) an
operation of stage ``s`` works for iteration ``p - s``; the prologue is the passes before the last
stage is filled, the epilogue those after the last iteration has entered. Results that live longer
than an interval need copies: rings indexed by ``iteration mod depth`` in memory, each ring with its
own modulus, and renamed registers (modulo variable expansion) within a group.
"""

from __future__ import annotations

import json
import math
from typing import Any

from cpsched.families.kernel.flat import Layout
from cpsched.families.kernel.problem import KernelProblem, KernelSchedule, Placement
from cpsched.families.kernel.simulate import program_order, ring_depths


def expand(problem: KernelProblem, schedule: KernelSchedule) -> dict[str, Any]:
    """The expanded loop as JSON-compatible data.

    ``kernel`` lists one pass in issue order; ``prologue`` and ``epilogue`` list what runs in each
    of their passes, as (operation, iteration) with iterations counted from the first, and from the
    last one backwards (-1). ``groups`` gives each warp group's program: its operations in order
    with the barriers they wait for and signal. ``rings`` are the memories with their depth,
    ``registers`` the results that need renamed copies, ``unroll`` the unrolling that renames all of
    them statically.
    """
    layout = Layout(problem, schedule)
    rank, _ = program_order(layout)
    placed = sorted(
        schedule.operations, key=lambda p: (p.slot, -p.stage, rank[layout.at[p.operation]])
    )
    last = max(p.stage for p in schedule.operations)
    rings = {layout.operations[k].id: depth for k, depth in ring_depths(layout).items()}
    copies = {
        o.id: alive
        for o, alive in zip(layout.operations, layout.copies.tolist(), strict=True)
        if o.registers and alive > 1 and o.id not in rings
    }
    barriers = _barriers(layout, rings)
    groups = []
    for group in sorted({p.group for p in placed}, key=lambda g: -1 if g is None else g):
        mine = [p for p in placed if p.group == group]
        groups.append(
            {
                "group": group,
                "warps": max(layout.operation(p.operation).min_warps for p in mine),
                "program": [
                    {
                        "operation": p.operation,
                        "label": _label(problem, layout, p),
                        "slot": p.slot,
                        "stage": p.stage,
                        "iteration": "p" if p.stage == 0 else f"p - {p.stage}",
                        "waits": _waits(barriers, p.operation),
                        "signals": list(
                            dict.fromkeys(
                                b["name"] for b in barriers if b["signaller"] == p.operation
                            )
                        ),
                    }
                    for p in mine
                ],
            }
        )
    order = [(p.operation, p.stage) for p in placed]
    return {
        "initiation_interval": schedule.initiation_interval,
        "length": schedule.length,
        "stages": last + 1,
        "prologue": [
            [{"operation": o, "iteration": k - s} for o, s in order if s <= k] for k in range(last)
        ],
        "kernel": [
            {"operation": o, "stage": s, "slot": layout.placed[layout.at[o]].slot} for o, s in order
        ],
        "epilogue": [
            [{"operation": o, "iteration": k - s} for o, s in order if s > k] for k in range(last)
        ],
        "rings": [
            {"ring": name, "depth": depth, "index": f"iteration % {depth}"}
            for name, depth in rings.items()
        ]
        + [
            {"ring": b.name, "depth": layout.depth[b.name], "index": f"iteration % {d}"}
            for b in problem.buffers
            if (d := layout.depth[b.name])
        ],
        "registers": [{"operation": o, "copies": c} for o, c in copies.items()],
        "barriers": _arrivals(barriers),
        "unroll": min(math.lcm(*copies.values()), 10**6) if copies else 1,
        "groups": groups,
    }


def _label(problem: KernelProblem, layout: Layout, placed: Placement) -> str:
    """The operation's label and, when it has several, the name or number of its mode."""
    operation = problem.operations[layout.at[placed.operation]]
    if not operation.modes:
        return operation.label
    mode = f"mode {operation.modes[placed.mode].name or placed.mode}"
    return f"{operation.label}, {mode}" if operation.label else mode


def _barriers(layout: Layout, rings: dict[str, int]) -> list[dict[str, Any]]:
    """Full and empty barriers of every result that crosses groups, completion waits of others."""
    out: list[dict[str, Any]] = []
    seen: set[tuple[str, str, str]] = set()

    def add(kind: str, name: str, signaller: str, waiter: str, lag: int, depth: int) -> None:
        if (name, signaller, waiter) not in seen:
            seen.add((name, signaller, waiter))
            out.append(
                {
                    "name": name,
                    "kind": kind,
                    "signaller": signaller,
                    "waiter": waiter,
                    "iterations_back": lag,
                    "depth": depth,
                }
            )

    # An empty barrier completes when every reader of its group has arrived.
    for e, edge in enumerate(layout.problem.edges):
        u, w = edge.source, edge.target
        lag, crosses = int(layout.distance[e]), bool(layout.crosses[e])
        if edge.kind == "true" and crosses:
            g = layout.group[layout.at[w]]
            depth = rings[u]
            add("full", f"full[{u}->g{g}]", u, w, lag, depth)
            add("empty", f"empty[{u}<-g{g}]", w, u, depth - lag, depth)
        elif edge.blocking or crosses:
            add("done", f"done[{u}->{w}]", u, w, lag, 1)
    return out


def _waits(barriers: list[dict[str, Any]], operation: str) -> list[dict[str, Any]]:
    """Barriers an operation waits for, and how many iterations back their phase is."""
    mine = [b for b in barriers if b["waiter"] == operation]
    phases = dict.fromkeys((b["name"], b["iterations_back"]) for b in mine)
    return [{"barrier": name, "iterations_back": back} for name, back in phases]


def _arrivals(barriers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each barrier once: its kind, its ring's depth, and how many arrivals complete a phase."""
    out: dict[str, dict[str, Any]] = {}
    for b in barriers:
        one = out.setdefault(
            b["name"], {"name": b["name"], "kind": b["kind"], "depth": b["depth"], "arrivals": []}
        )
        if b["signaller"] not in one["arrivals"]:
            one["arrivals"].append(b["signaller"])
    return [b | {"arrivals": len(b["arrivals"])} for b in out.values()]


def to_json(problem: KernelProblem, schedule: KernelSchedule) -> str:
    """The expansion as JSON text."""
    return json.dumps(expand(problem, schedule), indent=1) + "\n"


def pseudo_code(problem: KernelProblem, schedule: KernelSchedule) -> str:
    """The expansion as pseudo-code: one program per warp group."""
    data = expand(problem, schedule)
    last = data["stages"] - 1
    lines = [
        f"// {problem.name or 'loop'}: initiation interval {data['initiation_interval']}, length "
        f"{data['length']}, {data['stages']} stages",
        "// pass p works for iteration p - stage; operations of iterations outside [0, N) are "
        "skipped",
        f"// (prologue: passes 0..{last - 1}, epilogue: passes N..N+{last - 1})"
        if last
        else "// (one stage: no prologue and no epilogue)",
    ]
    lines += [f"ring {r['ring']}[{r['depth']}]  // slot = {r['index']}" for r in data["rings"]]
    lines += [
        f"registers {r['operation']} x{r['copies']}  // renamed by iteration"
        for r in data["registers"]
    ]
    for group in data["groups"]:
        title = "loop" if group["group"] is None else f"group {group['group']}"
        role = " (producer)" if group["group"] == 0 else ""
        lines += ["", f"{title}{role}, {group['warps']} warps:", f"  for p in 0 .. N+{last}:"]
        for step in group["program"]:
            name = step["operation"]
            label = f"  // {step['label']}" if step["label"] else ""
            lines.append(f"    # slot {step['slot']}, i = {step['iteration']}")
            for b in step["waits"]:
                lag = b["iterations_back"]
                back = "i" if lag == 0 else f"i - {lag}" if lag > 0 else f"i + {-lag}"
                lines.append(f"    wait {b['barrier']} of {back}")
            slot = f"[i % {rings}]" if (rings := _depth_of(data, name)) else ""
            lines.append(f"    {name}{slot}{label}")
            for signal in step["signals"]:
                lines.append(f"    signal {signal} of i")
    return "\n".join(lines) + "\n"


def _depth_of(data: dict[str, Any], name: str) -> int | None:
    return next((r["depth"] for r in data["rings"] if r["ring"] == name), None)
