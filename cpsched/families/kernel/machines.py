"""The machine files shipped with the package, and machine files of the user."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cpsched.errors import ProblemError
from cpsched.families.kernel.problem import Machine
from cpsched.problem import parse_json

#: Names of the shipped machines; their files are ``data/<name>.json`` beside this module.
SHIPPED = ("h100", "b200")


def load_machine(name: str) -> Machine:
    """A shipped machine by name, or the machine of a JSON file.

    Raises
    ------
    ProblemError
        When there is no such file, or it is not a machine.
    """
    if name.lower() in SHIPPED:
        folder = resources.files("cpsched.families.kernel") / "data"
        return Machine.parse(parse_json((folder / f"{name.lower()}.json").read_text("utf-8")))
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ProblemError(
            f"a machine is one of {', '.join(SHIPPED)}, or a readable JSON file",
            place="machine",
            value=name,
            remedy="Correct the name or the path.",
        ) from None
    try:
        return Machine.parse(parse_json(text))
    except ProblemError as error:
        raise error.in_file(name) from None
