"""The formats that `cpsched.load` reads as pods problems."""

from __future__ import annotations

from cpsched.families import Format
from cpsched.families.pods import kubectl, openb, roadef, vmjson

FORMATS = (
    Format(
        name="kubectl",
        kind="pods",
        description="kubectl get nodes,pods,... -A -o json",
        detection='a JSON object with "apiVersion" and "items"',
        detect=kubectl.detect,
        read=kubectl.read,
        options=kubectl.OPTIONS,
    ),
    Format(
        name="openb",
        kind="pods",
        description="OpenB pod list (CSV) with its node list",
        detection="a CSV whose first line names cpu_milli, num_gpu and gpu_milli",
        detect=openb.detect,
        read=openb.read,
        options=openb.OPTIONS,
    ),
    Format(
        name="machine-reassignment",
        kind="pods",
        description="machine reassignment (ROADEF/EURO challenge 2012)",
        detection="a file model_*.txt of integers",
        detect=roadef.detect,
        read=roadef.read,
        options=roadef.OPTIONS,
    ),
    Format(
        name="vm-clusters",
        kind="pods",
        description="VM placements on hosts with NUMA nodes (VMR2L clusters)",
        detection='a JSON object with "cluster_list" and "host_info"',
        detect=vmjson.detect,
        read=vmjson.read,
        options=vmjson.OPTIONS,
    ),
)
