"""Targets of ``cpsched convert --to``: a shell script, the pending report, MiniZinc data."""

from __future__ import annotations

import json
import shlex

import numpy as np

from cpsched.errors import ProblemError
from cpsched.families import Writer
from cpsched.families.pods.describe import describe
from cpsched.families.pods.explain import pending_report
from cpsched.families.pods.problem import PodsProblem, PodsSchedule


def write_kubectl(problem: PodsProblem, schedule: PodsSchedule) -> str:
    """The plan as a shell script: evictions and bindings through the API, in order, one by one.

    Nothing runs until the script is called with ``--yes``. A replica comes back under a new name,
    so bindings of evicted pods pick a pending pod of the same owner.
    """
    if problem.live_migration or problem.reassignment is not None:
        raise ProblemError(
            "only plans of evictions and bindings can be written for kubectl",
            remedy="Use the result JSON.",
        )
    pods = {p.name: p for p in problem.pods}
    evicted = {s.pod for s in schedule.steps if s.action == "evict"}
    lines = [_HEAD]
    for index, step in enumerate(schedule.steps, 1):
        pod = pods[step.pod]
        space, name = pod.namespace, step.pod.rpartition("/")[2]
        # A name from a hostile file must not break out of its comment.
        lines.append(f"# {index}. {step.action} {step.pod!r} at {step.node!r}")
        if step.action == "evict":
            lines.append(shlex.join(["evict", space, name]))
        elif step.pod in evicted:
            kind, owner = pod.owner.partition("/")[0], pod.owner.rpartition("/")[2]
            lines.append(shlex.join(["bind_replica", space, kind, owner, step.node or ""]))
        else:
            lines.append(shlex.join(["bind", space, name, step.node or ""]))
    lines.append(f'echo "done: {len(schedule.steps)} steps"')
    return "\n".join(lines) + "\n"


_HEAD = r"""#!/bin/sh
# A plan by cpsched. Review it, then run it with --yes. Each step waits for the one before it.
# The scheduler must leave the pods alone meanwhile (scheduling gates, or another schedulerName).
set -eu
if [ "${1:-}" != "--yes" ]; then
  echo "This script evicts and binds pods. Review it, then run: $0 --yes" >&2
  exit 2
fi
evict() { # namespace pod
  kubectl create --raw "/api/v1/namespaces/$1/pods/$2/eviction" -f - > /dev/null <<END
{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"$2","namespace":"$1"}}
END
  kubectl -n "$1" wait --for=delete "pod/$2" --timeout=300s
}
bind() { # namespace pod node
  kubectl create --raw "/api/v1/namespaces/$1/pods/$2/binding" -f - > /dev/null <<END
{"apiVersion":"v1","kind":"Binding","metadata":{"name":"$2","namespace":"$1"},
 "target":{"apiVersion":"v1","kind":"Node","name":"$3"}}
END
}
bind_replica() { # namespace owner-kind owner-name node
  for _ in $(seq 60); do
    pod=$(kubectl -n "$1" get pods --field-selector spec.nodeName= --no-headers -o custom-columns=\
NAME:.metadata.name,KIND:.metadata.ownerReferences[0].kind,OWNER:.metadata.ownerReferences[0].name |
      awk -v kind="$2" -v owner="$3" '$2 == kind && $3 == owner { print $1; exit }')
    if [ -n "$pod" ]; then bind "$1" "$pod" "$4"; return; fi
    sleep 1
  done
  echo "no pending replica of $2 $1/$3 appeared" >&2
  exit 1
}
"""


def write_plan(problem: PodsProblem, schedule: PodsSchedule) -> str:
    """The plan in words."""
    return "\n".join(describe(problem, schedule)) + "\n"


def write_pending(problem: PodsProblem, schedule: PodsSchedule | None) -> str:
    """Why each pending pod is pending, per node, and the smallest change."""
    return pending_report(problem, schedule)


def write_minizinc(problem: PodsProblem, schedule: PodsSchedule | None) -> str:
    """Data of models/pods.mzn as JSON: end states of clusters, without their order.

    Raises
    ------
    ProblemError
        When the problem has what the model does not state.
    """
    from cpsched.core.clock import Clock
    from cpsched.core.run import Run
    from cpsched.families import family
    from cpsched.families.pods.prepare import prepare

    unsupported = {
        "cells": any(p.cells for p in problem.pods),
        "gangs": bool(problem.gangs),
        "quotas": bool(problem.quotas),
        "budgets": bool(problem.budgets),
        "pod_affinity": any(p.pod_affinity for p in problem.pods),
        "reassignment": problem.reassignment is not None,
    }
    for field, present in unsupported.items():
        if present:
            raise ProblemError(
                f"models/pods.mzn does not state {field}",
                place=field,
                remedy="Leave it out, or use another target.",
            )
    instance = prepare(problem, Run(problem, family("pods"), (), Clock(None)))
    groups = [instance.classes[c] for c in instance.class_of.tolist()]
    priorities = instance.tiers
    spreads = [
        {
            "members": [int(s.matches[k]) for k in instance.class_of.tolist()],
            "subjects": [int(k == c) for k in instance.class_of.tolist()],
            "domain": (s.eligible + 1).tolist(),
            "domains": s.domains,
            "skew": s.max_skew,
            "floor": int(s.domains >= s.min_domains),
        }
        for c, listed in instance.spreads.items()
        for s in listed
        if s.own
    ]
    # Capacities beyond the sum of all requests bind no one, and overflow the solver.
    total = instance.requests[instance.class_of].sum(axis=0)
    width = max([c.domains for c in instance.conflicts] + [s["domains"] for s in spreads] + [1])
    data = {
        "N": instance.nodes,
        "P": len(problem.pods),
        "R": len(instance.resources),
        "capacity": np.minimum(instance.capacity, total).tolist(),
        "request": instance.requests[instance.class_of].tolist(),
        "allowed": instance.allowed[instance.class_of].astype(int).tolist(),
        "start": (instance.at + 1).tolist(),
        "fixed": [int(g.fixed) for g in groups],
        "weight": [g.weight for g in groups],
        "T": len(priorities),
        "tier": (instance.tier_of[instance.class_of] + 1).tolist(),
        "eviction_weight": problem.eviction_weight,
        "move_weight": problem.move_weight,
        "D": width,
        "C": len(instance.conflicts),
        "holder": [c.holders[instance.class_of].astype(int).tolist() for c in instance.conflicts],
        "match": [c.matches[instance.class_of].astype(int).tolist() for c in instance.conflicts],
        "conflict_domain": [(c.domain + 1).tolist() for c in instance.conflicts],
        "S": len(spreads),
        "member": [s["members"] for s in spreads],
        "subject": [s["subjects"] for s in spreads],
        "spread_domain": [s["domain"] for s in spreads],
        "spread_domains": [s["domains"] for s in spreads],
        "skew": [s["skew"] for s in spreads],
        "has_floor": [s["floor"] for s in spreads],
    }
    return json.dumps(data) + "\n"


WRITERS = (
    Writer("kubectl", "the plan as a shell script to review", write_kubectl, needs_schedule=True),
    Writer("plan", "the plan in words, step by step", write_plan, needs_schedule=True),
    Writer("pending", "per pending pod the reasons and the smallest change", write_pending),
    Writer("minizinc", "data of models/pods.mzn (JSON)", write_minizinc),
)
