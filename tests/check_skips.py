"""Fail when an oracle test was skipped: ``python tests/check_skips.py report.xml``."""

import sys
import xml.etree.ElementTree as ElementTree

skipped = []
for case in ElementTree.parse(sys.argv[1]).getroot().iter("testcase"):
    reason = case.find("skipped")
    if reason is not None:
        skipped.append((f"{case.get('classname')}.{case.get('name')}", reason.get("message") or ""))
for name, message in skipped:
    print(f"skipped: {name}: {message}")
if any("minizinc" in message.lower() for _, message in skipped):
    sys.exit("oracle tests were skipped: install MiniZinc")
