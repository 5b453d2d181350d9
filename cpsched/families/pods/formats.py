"""The formats that `cpsched.load` reads as pods problems."""

from __future__ import annotations

from cpsched.families import Format
from cpsched.families.pods import kubectl

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
)
