"""Options of generators, read from text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

from cpsched.errors import ProblemError

#: Option to (default, help).
OptionHelp = dict[str, tuple[str, str]]


class Drawn:
    """The options of a generator, the ones not given by their default.

    Raises
    ------
    ProblemError
        For unknown options, and when asked for an option that is not of the form it must have.
    """

    def __init__(self, options: Mapping[str, str], known: OptionHelp) -> None:
        for key, value in options.items():
            if key not in known and key != "seed":
                raise ProblemError(
                    f"the option must be one of {', '.join(known)} or seed",
                    place=key,
                    value=value,
                    remedy="Correct its name.",
                )
        self._text = {key: default for key, (default, _) in known.items()} | dict(options)
        self._text.setdefault("seed", "0")

    @property
    def seed(self) -> int:
        """The seed of the random numbers."""
        return self.count("seed", 0)

    def count(self, key: str, least: int = 1, most: int = 10_000_000) -> int:
        """An integer in ``[least, most]``."""
        text = self._text[key].strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            self._wrong(key, "a whole number")
        if not least <= int(text) <= most:
            self._wrong(key, f"between {least} and {most}")
        return int(text)

    def number(self, key: str) -> float:
        """A finite number that is not negative."""
        try:
            value = float(self._text[key])
        except ValueError:
            self._wrong(key, "a number")
        if not 0 <= value < math.inf:
            self._wrong(key, "a finite number, not negative")
        return value

    def share(self, key: str) -> float:
        """A number from 0 to 1."""
        value = self.number(key)
        if value > 1:
            self._wrong(key, "between 0 and 1")
        return value

    def choice(self, key: str, among: Sequence[str]) -> str:
        """One of several words."""
        if self._text[key] not in among:
            self._wrong(key, f"one of {', '.join(among)}")
        return self._text[key]

    def flag(self, key: str) -> bool:
        """True or false."""
        return self.choice(key, ("true", "false")) == "true"

    def _wrong(self, key: str, rule: str) -> NoReturn:
        raise ProblemError(
            f"option {key} must be {rule}",
            place=key,
            value=self._text[key],
            remedy=f"Pass --option {key}=VALUE.",
        )
