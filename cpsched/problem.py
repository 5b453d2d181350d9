"""What every problem shares: frozen records, the schema version, and loading from files."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn, Self

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpsched.errors import ProblemError

if TYPE_CHECKING:
    from cpsched.families import Format

#: Integers the solver can add up without overflow; larger input is refused.
LARGEST = 10**12
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]

#: Files larger than this are refused before they are read.
LARGEST_FILE = int(os.environ.get("CPSCHED_MAX_FILE_BYTES", 128 * 2**20))


class Record(BaseModel):
    """A frozen record whose fields are reached by attribute or by key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)

    def __getitem__(self, key: str) -> Any:
        if key in type(self).model_fields:
            return getattr(self, key)
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The field of that name, or the default."""
        return getattr(self, key) if key in type(self).model_fields else default

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible dict, by the names used in files."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def parse(cls, data: Any) -> Self:
        """Validate plain data into this record.

        Raises
        ------
        ProblemError
            Naming the field, its value, the rule and the remedy.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise_as_problem_error(error)
        except RecursionError:
            raise ProblemError(
                "values must not be nested this deeply", remedy="Flatten the file."
            ) from None


class ProblemBase(Record):
    """Base of the six problem types: what all of them carry."""

    #: Fields left out of dumps and of the hash when they have their default.
    omit_defaults: ClassVar[bool] = True

    schema_version: Literal["1"] = "1"
    kind: str
    name: Annotated[str, Field(max_length=1000)] = ""

    def to_dict(self) -> dict[str, Any]:
        """The problem as cpsched JSON, without fields that have their default."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=self.omit_defaults)
        return {"schema_version": self.schema_version, "kind": self.kind} | data

    def to_json(self, indent: int | None = None) -> str:
        """The problem as cpsched JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write the problem as cpsched JSON."""
        Path(path).write_text(self.to_json(indent=1) + "\n")

    def sha256(self) -> str:
        """Hash of the canonical JSON, the name left out."""
        data = {key: value for key, value in self.to_dict().items() if key != "name"}
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def raise_as_problem_error(error: ValidationError) -> NoReturn:
    """Turn the first complaint of pydantic into a `ProblemError`."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    place = ".".join(str(part) for part in first["loc"])
    if isinstance(cause, ProblemError):
        inner = ".".join(part for part in (place, cause.place) if part)
        raise ProblemError(
            cause.rule, place=inner, value=cause.value, remedy=cause.remedy
        ) from None
    rule = first["msg"].removeprefix("Value error, ")
    remedy = {
        "missing": "Add the field.",
        "extra_forbidden": "Remove the field, or correct its name.",
    }.get(first["type"], "Correct the value.")
    value = None if first["type"] == "missing" else first["input"]
    if isinstance(value, dict | list | Record):
        value = type(value).__name__
    raise ProblemError(rule, place=place, value=value, remedy=remedy) from None


def parse_json(text: str | bytes) -> Any:
    """JSON text to plain data; NaN, infinities and deep nesting are refused.

    Raises
    ------
    ProblemError
        Naming the line and column.
    """
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ProblemError(
            f"the text must be JSON: {error}", remedy="Correct the file, or name its format."
        ) from None


def problem_from(data: Any) -> ProblemBase:
    """Build the problem of the right kind from plain cpsched JSON data.

    Raises
    ------
    ProblemError
        When the kind is missing or unknown, or a field is wrong.
    """
    from cpsched.families import KINDS, family

    if not isinstance(data, dict):
        raise ProblemError(
            "a problem must be a JSON object", value=type(data).__name__, remedy="Wrap it in {}."
        )
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ProblemError(
            f"kind must be one of {', '.join(KINDS)}",
            place="kind",
            value=kind,
            remedy="Add or correct the field 'kind'.",
        )
    problem: ProblemBase = family(kind).problem.parse(data)
    return problem


def load(
    path: str | Path, *, format: str | None = None, options: dict[str, str] | None = None
) -> ProblemBase:
    """Read a problem from a file of any supported format.

    Parameters
    ----------
    path
        The file, or ``-`` for standard input.
    format
        Name of the format as ``cpsched formats`` lists it; None detects it from the file's name
        and its first characters.
    options
        Options of the reader, as text (``{"index": "3"}``).

    Raises
    ------
    ProblemError
        When the file cannot be read or is not a well-formed problem; names file, place, value,
        rule and remedy.
    """
    file = str(path)
    options = dict(options or {})
    try:
        chosen = _binary_format(file, format)
        text = ""
        if chosen is None:
            text = _read_text(file)
            chosen = _choose_format(file, text, format)
        for option in options:
            if option not in chosen.options:
                known = ", ".join(chosen.options) or "none"
                raise ProblemError(
                    f"format {chosen.name} has no option {option!r}; it has: {known}",
                    remedy="See `cpsched formats`.",
                )
        problem: ProblemBase = chosen.read(text, file, options)
        if not problem.name and file != "-":
            problem = problem.model_copy(update={"name": Path(file).stem})
        return problem
    except ProblemError as error:
        raise error.in_file("standard input" if file == "-" else file) from None
    except (RecursionError, OverflowError, MemoryError) as error:
        raise ProblemError(
            f"the file is beyond what can be read ({type(error).__name__})",
            file=file,
            remedy="Check that it is the file you meant.",
        ) from None


def _read_text(file: str) -> str:
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(LARGEST_FILE + 1)
        else:
            path = Path(file)
            if path.is_dir():
                raise ProblemError("a file is expected, not a folder", remedy="Name a file in it.")
            with path.open("rb") as stream:
                raw = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ProblemError(
            f"the file cannot be read: {error.strerror}", remedy="Check the path."
        ) from None
    if len(raw) > LARGEST_FILE:
        raise ProblemError(
            f"files of more than {LARGEST_FILE:,} bytes are refused",
            remedy="Check the file; CPSCHED_MAX_FILE_BYTES raises the limit.",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProblemError(
            f"the file must be UTF-8 text: byte {error.start} is not",
            remedy="Decompress it, or convert it to UTF-8.",
        ) from None
    if not text.strip():
        raise ProblemError("the file is empty", remedy="Write the problem into it.")
    return text


#: Suffixes of files that are text for certain.
_TEXT = {
    ".json",
    ".jsonl",
    ".csv",
    ".txt",
    ".sm",
    ".mm",
    ".rcp",
    ".sch",
    ".fjs",
    ".stg",
    ".graphml",
}


def _binary_format(file: str, name: str | None) -> Format | None:
    """The format when it is not text, by its name or the file's."""
    from cpsched.families import all_formats

    if name is None and (file == "-" or Path(file).suffix.lower() in _TEXT):
        return None  # the families need not be imported to know
    for candidate in all_formats():
        if candidate.binary and (
            candidate.name == name or (name is None and candidate.detect(Path(file).name, ""))
        ):
            return candidate
    return None


def _choose_format(file: str, text: str, name: str | None) -> Format:
    from cpsched.families import all_formats

    if name is not None:
        for candidate in all_formats():
            if candidate.name == name:
                return candidate
        known = ", ".join(candidate.name for candidate in all_formats())
        raise ProblemError(
            f"the format must be one of {known}", value=name, remedy="See `cpsched formats`."
        )
    head = text[:20_000]
    # Lists of Kubernetes objects say so: the families before that one need not be imported.
    likely = "pods" if '"apiVersion"' in head else None
    for candidate in all_formats(likely):
        if candidate.detect(Path(file).name, head):
            return candidate
    if '"schema_version"' in head:
        return next(all_formats())  # cpsched JSON whose kind is missing, unknown or far down
    raise ProblemError(
        "the format is not recognised from the file's name and beginning",
        remedy="Pass --format; `cpsched formats` lists the formats.",
    )


def loads(text: str | bytes) -> ProblemBase:
    """Read a problem from cpsched JSON text."""
    return problem_from(parse_json(text))
