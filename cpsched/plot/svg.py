"""A figure as SVG text, without any dependency."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from html import escape

from cpsched.plot.figure import Bar, Curve, Figure, Lane, Profile

WIDTH = 1000.0
LEFT = 130.0
RIGHT = 20.0
LANE = 26.0
PROFILE = 60.0
FRAME = 360.0

#: Categorical colours with similar lightness; black text stays readable on each.
PALETTE = (
    "#8dd3c7", "#fdb462", "#bebada", "#fb8072", "#80b1d3", "#b3de69",
    "#fccde5", "#d9d9d9", "#bc80bd", "#ccebc5", "#ffed6f", "#a6cee3",
)  # fmt: skip

STYLE = (
    "text{font:11px sans-serif;fill:#222}.t{font-size:14px;font-weight:600}.g{stroke:#ddd}"
    ".b{stroke:#333;stroke-width:.5}.d{stroke-dasharray:3 2;fill-opacity:.35}"
    ".p{fill:#80b1d3;fill-opacity:.6;stroke:#37648b}.c{fill:none;stroke:#b22;stroke-width:1.2}"
    ".a{stroke:#666;fill:none}.m{stroke:#b22;stroke-dasharray:4 3}"
)


def svg(figure: Figure) -> str:
    """The figure as a standalone SVG document."""
    body = list(_curves(figure) if figure.curves else _chart(figure))
    height = figure_height(figure)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" '
        f'width="{WIDTH:g}" height="{height:g}" role="img" aria-label="{escape(figure.title)}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="white"/>'
        f'<text class="t" x="{LEFT:g}" y="18">{escape(figure.title)}</text>'
    )
    return head + "".join(body) + "</svg>\n"


def figure_height(figure: Figure) -> float:
    """Pixel height of the drawing."""
    notes = 15.0 * len(figure.notes)
    if figure.curves:
        return 30.0 + FRAME + 45.0 + notes
    lanes = sum(LANE * lane.height for lane in figure.lanes)
    return 30.0 + lanes + len(figure.profiles) * (PROFILE + 18.0) + 40.0 + notes


def colour(key: str) -> str:
    """The colour of a key: stable between runs."""
    return PALETTE[zlib.crc32(key.encode()) % len(PALETTE)]


def _span(figure: Figure) -> tuple[float, float]:
    values = [0.0]
    for lane in figure.lanes:
        for bar in lane.bars:
            values += [bar.start, bar.end]
    for profile in figure.profiles:
        values += [x for x, _ in profile.points]
    return min(values), max(max(values), min(values) + 1.0)


def ticks(low: float, high: float, count: int = 8) -> list[float]:
    """Round numbers that divide an axis into about ``count`` parts."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _chart(figure: Figure) -> Iterator[str]:
    low, high = _span(figure)
    scale = (WIDTH - LEFT - RIGHT) / (high - low)

    def x(value: float) -> float:
        return LEFT + (value - low) * scale

    bottom = figure_height(figure) - 40.0 - 15.0 * len(figure.notes)
    for tick in ticks(low, high):
        yield f'<line class="g" x1="{x(tick):.2f}" x2="{x(tick):.2f}" y1="26" y2="{bottom:g}"/>'
        yield _text(x(tick), bottom + 13, f"{tick:g}", "middle")
    y, centres = 28.0, []
    for lane in figure.lanes:
        height = LANE * lane.height
        centres.append(y + height / 2)
        yield from _lane(lane, y, height, x)
        y += height
    for arrow in figure.arrows:
        (x1, a), (x2, b) = arrow.start, arrow.end
        yield (
            f'<line class="a" x1="{x(x1):.2f}" y1="{centres[a]:.2f}" x2="{x(x2):.2f}" '
            f'y2="{centres[b]:.2f}"><title>{escape(arrow.tooltip)}</title></line>'
        )
    for profile in figure.profiles:
        y += 18.0
        yield from _profile(profile, y, x, high)
        y += PROFILE
    for at, label in figure.marks:
        yield (
            f'<line class="m" x1="{x(at):.2f}" x2="{x(at):.2f}" y1="26" y2="{bottom:g}">'
            f"<title>{escape(label)}</title></line>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield _text(middle, bottom + 28, figure.x_label, "middle")
    yield from _notes(figure, bottom + 42.0)


def _notes(figure: Figure, y: float) -> Iterator[str]:
    for i, note in enumerate(figure.notes):
        yield _text(LEFT, y + 15.0 * i, note)


def _lane(lane: Lane, y: float, height: float, x: Callable[[float], float]) -> Iterator[str]:
    yield _text(LEFT - 6, y + height / 2 + 4, _short(lane.label, 20), "end")
    for bar in lane.bars:
        yield _bar(bar, y + 1.0, height - 2.0, x)


def _bar(bar: Bar, y: float, height: float, x: Callable[[float], float]) -> str:
    left, right = x(bar.start), x(bar.end)
    width = max(0.6, right - left)
    # Lanes grow upwards: fraction 0 is the lane's bottom.
    top, tall = y + (1.0 - bar.top) * height, max(0.6, (bar.top - bar.bottom) * height)
    tooltip = bar.tooltip or f"{bar.label} [{bar.start:g}, {bar.end:g})"
    out = (
        f'<g><title>{escape(tooltip)}</title><rect class="b{" d" if bar.dashed else ""}" '
        f'x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{tall:.2f}" '
        f'fill="{colour(bar.colour or bar.label)}"/>'
    )
    if bar.label and width > 6.5 * len(bar.label) + 2 and tall >= 10:
        out += _text(left + width / 2, top + tall / 2 + 4, bar.label, "middle")
    return out + "</g>"


def _profile(profile: Profile, y: float, x: Callable[[float], float], end: float) -> Iterator[str]:
    capacity = [v for _, v in profile.capacity]
    highest = max([1e-9, *[v for _, v in profile.points], *capacity])

    def path(points: Sequence[tuple[float, float]]) -> str:
        steps = []
        for i, (at, value) in enumerate(points):
            until = points[i + 1][0] if i + 1 < len(points) else max(end, at)
            level = y + PROFILE * (1.0 - value / highest)
            steps.append(f"{x(at):.2f},{level:.2f} {x(until):.2f},{level:.2f}")
        return " ".join(steps)

    yield _text(LEFT - 6, y + PROFILE / 2, _short(profile.label, 20), "end")
    yield _text(LEFT - 6, y + 8, f"{highest:g}", "end")
    if profile.points:
        floor = y + PROFILE
        first, last = profile.points[0][0], max(end, profile.points[-1][0])
        yield (
            f'<polygon class="p" points="{x(first):.2f},{floor:.2f} {path(profile.points)} '
            f'{x(last):.2f},{floor:.2f}"/>'
        )
    if profile.capacity:
        yield f'<polyline class="c" points="{path(profile.capacity)}"/>'


def _curves(figure: Figure) -> Iterator[str]:
    points = [p for c in figure.curves for p in c.points] or [(0.0, 0.0)]
    x0, x1 = min(p[0] for p in points), max(p[0] for p in points)
    y0, y1 = min(p[1] for p in points), max(p[1] for p in points)
    x1, y1 = (x1 if x1 > x0 else x0 + 1.0), (y1 if y1 > y0 else y0 + 1.0)
    top, bottom = 34.0, 34.0 + FRAME - 30.0

    def place(point: tuple[float, float]) -> tuple[float, float]:
        px = LEFT + (point[0] - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return px, bottom - (point[1] - y0) / (y1 - y0) * (bottom - top)

    for tick in ticks(x0, x1):
        px, _ = place((tick, y0))
        yield f'<line class="g" x1="{px:.2f}" x2="{px:.2f}" y1="{top:g}" y2="{bottom:g}"/>'
        yield _text(px, bottom + 14, f"{tick:g}", "middle")
    for tick in ticks(y0, y1):
        _, py = place((x0, tick))
        yield f'<line class="g" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{py:.2f}" y2="{py:.2f}"/>'
        yield _text(LEFT - 6, py + 4, f"{tick:g}", "end")
    for i, curve in enumerate(figure.curves):
        yield from _curve(curve, i, [place(p) for p in curve.points])
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield _text(middle, bottom + 30, figure.x_label, "middle")
    yield _text(6, top + 4, figure.y_label)
    yield from _notes(figure, bottom + 46.0)


def _curve(curve: Curve, index: int, placed: Sequence[tuple[float, float]]) -> Iterator[str]:
    hue = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")[index % 6]
    route: list[tuple[float, float]] = []
    for px, py in placed:
        if curve.steps and route:
            route.append((px, route[-1][1]))
        route.append((px, py))
    text = " ".join(f"{px:.2f},{py:.2f}" for px, py in route)
    yield f'<polyline fill="none" stroke="{hue}" stroke-width="1.5" points="{text}"/>'
    for (px, py), (vx, vy) in zip(placed, curve.points, strict=True):
        yield (
            f'<circle cx="{px:.2f}" cy="{py:.2f}" r="3" fill="{hue}">'
            f"<title>{escape(curve.label)}: {vx:g}, {vy:g}</title></circle>"
        )
    yield _text(WIDTH - RIGHT, 46.0 + 15.0 * index, curve.label, "end", hue)


def _text(x: float, y: float, content: str, anchor: str = "start", fill: str = "") -> str:
    style = f' style="fill:{fill}"' if fill else ""
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}"{style}>{escape(content)}</text>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
