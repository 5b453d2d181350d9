"""The exceptions of cpsched: one small tree."""

from __future__ import annotations

from pathlib import Path


class CpschedError(Exception):
    """Base of every exception that cpsched raises on purpose."""


class ProblemError(CpschedError):
    """An input that cannot be a problem: malformed, contradictory in itself, or too large.

    Parameters
    ----------
    rule
        What must hold, in words ("durations are not negative").
    place
        Field path (``tasks.3.duration``) or line (``line 17``) of the offence.
    value
        The offending value; shortened in the message.
    remedy
        What the user can do about it.
    file
        Name of the file, where one was read.
    """

    def __init__(
        self,
        rule: str,
        *,
        place: str = "",
        value: object = None,
        remedy: str = "",
        file: str = "",
    ) -> None:
        self.rule, self.place, self.value, self.remedy, self.file = rule, place, value, remedy, file
        super().__init__(rule)

    def __str__(self) -> str:
        shown = "" if self.value is None else repr(self.value)
        if len(shown) > 200:
            shown = shown[:197] + "..."
        head = ": ".join(part for part in (self.file, self.place) if part)
        text = f"{head}: {self.rule}" if head else self.rule
        if shown:
            text += f" (found {shown})"
        return f"{text}. {self.remedy}" if self.remedy else text

    def in_file(self, file: str) -> ProblemError:
        """The same error, naming the file it was found in."""
        return ProblemError(
            self.rule,
            place=self.place,
            value=self.value,
            remedy=self.remedy,
            file=self.file or file,
        )


class ModelError(CpschedError):
    """A solver rejected a model that cpsched built: a defect of cpsched, never of the input."""


class SolverContradiction(CpschedError):
    """A solver claim is refuted by a checked schedule (raised only with ``strict=True``)."""

    def __init__(self, message: str, exported: Path | None = None) -> None:
        self.exported = exported
        super().__init__(
            message if exported is None else f"{message} (model exported to {exported})"
        )


class Infeasible(CpschedError):
    """Internal: a proof, found while preparing or bounding, that no schedule exists.

    ``argument`` names the proof; the text says it in words. ``solve`` turns it into a status.
    """

    def __init__(self, message: str, argument: str = "preprocessing") -> None:
        self.argument = argument
        super().__init__(message)


class OutOfTime(CpschedError):
    """Internal: the deadline passed inside a step that cannot give a partial answer."""
