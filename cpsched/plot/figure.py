"""What a picture of a schedule consists of, independent of any output format."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Bar:
    """A rectangle in a lane: half-open ``[start, end)`` on the x axis.

    ``bottom`` and ``top`` are fractions of the lane's height (offsets in memory, rows of a
    machine with several slots). ``colour`` is a key: equal keys get equal colours. ``tooltip`` is
    shown on hover; ``dashed`` marks waiting, transfers and the like.
    """

    start: float
    end: float
    label: str = ""
    colour: str = ""
    tooltip: str = ""
    bottom: float = 0.0
    top: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Lane:
    """One row of the chart: a machine, a node, a unit, a memory."""

    label: str
    bars: tuple[Bar, ...]
    height: float = 1.0


@dataclass(frozen=True)
class Profile:
    """A step function below the lanes: ``points`` are (x, value), each valid until the next x."""

    label: str
    points: tuple[tuple[float, float], ...]
    capacity: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Arrow:
    """A line from (x, lane index) to (x, lane index): a transfer, a barrier."""

    start: tuple[float, int]
    end: tuple[float, int]
    tooltip: str = ""


@dataclass(frozen=True)
class Curve:
    """A line of points for x-y charts (Pareto fronts, sweeps)."""

    label: str
    points: tuple[tuple[float, float], ...]
    steps: bool = False


@dataclass(frozen=True)
class Figure:
    """A chart: lanes over a common x axis, profiles below, or curves in one x-y frame."""

    title: str
    x_label: str = "time"
    lanes: tuple[Lane, ...] = ()
    profiles: tuple[Profile, ...] = ()
    arrows: tuple[Arrow, ...] = ()
    curves: tuple[Curve, ...] = ()
    marks: tuple[tuple[float, str], ...] = ()
    y_label: str = ""
    notes: tuple[str, ...] = field(default=())
