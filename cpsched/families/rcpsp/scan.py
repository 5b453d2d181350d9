"""Reading text formats token by token, so that every complaint names its line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from typing import NoReturn

from cpsched.errors import ProblemError
from cpsched.problem import LARGEST

_WHOLE = re.compile(r"[+-]?[0-9]{1,13}", re.ASCII)


def whole(
    token: str, what: str, line: int, *, least: int = 0, most: int = LARGEST, remedy: str = ""
) -> int:
    """The token as an integer in ``[least, most]``.

    Raises
    ------
    ProblemError
        Naming the line, the token and the rule.
    """
    place = f"line {line}"
    if _WHOLE.fullmatch(token) is None:
        raise ProblemError(
            f"{what} must be a whole number",
            place=place,
            value=token,
            remedy=remedy or "Correct the number; times are whole multiples of the time unit.",
        )
    value = int(token)
    if value < least:
        rule = f"{what} must not be negative" if least == 0 else f"{what} must be at least {least}"
        raise ProblemError(rule, place=place, value=value, remedy=remedy or "Correct the number.")
    if value > most:
        raise ProblemError(
            f"{what} must be at most {most}",
            place=place,
            value=value,
            remedy=remedy or "Correct the number.",
        )
    return value


def number(options: Mapping[str, str], key: str, default: int) -> int:
    """A reader option as a count."""
    text = options.get(key)
    if text is None:
        return default
    if _WHOLE.fullmatch(text) is None or int(text) < 0:
        raise ProblemError(
            f"option {key} must be a whole number, not negative",
            value=text,
            remedy=f"Pass --option {key}=N.",
        )
    return int(text)


def flag(options: Mapping[str, str], key: str, default: bool = False) -> bool:
    """A reader option as true or false."""
    text = options.get(key, str(default)).lower()
    if text not in ("true", "false", "yes", "no", "1", "0"):
        raise ProblemError(
            f"option {key} must be true or false",
            value=text,
            remedy=f"Pass --option {key}=true.",
        )
    return text in ("true", "yes", "1")


class Scanner:
    """The tokens of a text, line by line or one after the other.

    ``line`` is the number of the line that the last token or row came from. Blank lines are
    skipped, and so are lines that start with ``comment``.
    """

    def __init__(self, text: str, comment: str = "") -> None:
        self.line = 0
        self._comment = comment
        self._lines = enumerate(StringIO(text), 1)
        self._rest: list[str] = []

    def row(self) -> list[str] | None:
        """The unread tokens of this line, or else those of the next line that has any."""
        while not self._rest:
            number, text = next(self._lines, (0, ""))
            if number == 0:
                return None
            self.line = number
            if not (self._comment and text.lstrip().startswith(self._comment)):
                self._rest = text.split()[::-1]
        tokens, self._rest = self._rest[::-1], []
        return tokens

    def rows(self) -> Iterator[list[str]]:
        """Every row that is left."""
        while (tokens := self.row()) is not None:
            yield tokens

    def push_back(self, tokens: Sequence[str]) -> None:
        """Make tokens of the current line unread again."""
        self._rest = list(tokens)[::-1] + self._rest

    def token(self, what: str) -> str:
        """The next token, on whatever line it stands."""
        if not self._rest:
            tokens = self.row()
            if tokens is None:
                self.ended(what)
            self._rest = tokens[::-1]
        return self._rest.pop()

    def integer(self, what: str, *, least: int = 0, most: int = LARGEST, remedy: str = "") -> int:
        """The next token as an integer in ``[least, most]``."""
        return whole(self.token(what), what, self.line, least=least, most=most, remedy=remedy)

    def integers(self, count: int, what: str, *, least: int = 0) -> list[int]:
        """The next ``count`` integers."""
        return [self.integer(what, least=least) for _ in range(count)]

    def finish(self, remedy: str) -> None:
        """Complain when anything is left."""
        tokens = self.row()
        if tokens is not None:
            raise ProblemError(
                "the file must end after the announced numbers",
                place=f"line {self.line}",
                value=tokens[0],
                remedy=remedy,
            )

    def ended(self, what: str) -> NoReturn:
        """Complain that the file stops too early."""
        raise ProblemError(
            f"the file ends where {what} is expected",
            place=f"line {self.line}",
            remedy="The file seems to be truncated: complete it.",
        )


def refuse_cycle(
    successors: Sequence[Iterable[int]], ids: Sequence[str], lines: Sequence[int]
) -> None:
    """Complain about a cycle of precedences, naming its tasks and the line of one of them.

    Parameters
    ----------
    successors
        Successors of each task, by index.
    ids, lines
        Name of each task and the line on which its successors stand.
    """
    waiting = [0] * len(successors)
    for row in successors:
        for after in row:
            waiting[after] += 1
    free = [i for i, count in enumerate(waiting) if count == 0]
    done = 0
    while free:
        done += 1
        for after in successors[free.pop()]:
            waiting[after] -= 1
            if waiting[after] == 0:
                free.append(after)
    if done == len(successors):
        return
    # Every task that still waits has a predecessor that waits: walk back until one repeats.
    before: dict[int, int] = {}
    for i, row in enumerate(successors):
        if waiting[i] > 0:
            for after in row:
                before[after] = i
    at = next(i for i, count in enumerate(waiting) if count > 0)
    path: list[int] = []
    seen: set[int] = set()
    while at not in seen:
        seen.add(at)
        path.append(at)
        at = before[at]
    cycle = [at, *reversed(path[path.index(at) :])]
    names = [ids[i] for i in cycle]
    shown = names if len(names) <= 8 else [*names[:6], "...", names[-1]]
    raise ProblemError(
        "precedences must not form a cycle",
        place=f"line {lines[cycle[0]]}",
        value=" -> ".join(shown),
        remedy="Remove one of these precedences.",
    )
