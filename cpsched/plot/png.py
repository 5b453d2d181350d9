"""A figure as PNG, by matplotlib (extra ``plot``)."""

from __future__ import annotations

import io

from cpsched.errors import CpschedError
from cpsched.plot.figure import Figure
from cpsched.plot.svg import colour


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes.

    Raises
    ------
    CpschedError
        When matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise CpschedError(
            "PNG output needs matplotlib: pip install 'cpsched[plot]', or write SVG or HTML"
        ) from None
    rows = len(figure.lanes) + 2 * len(figure.profiles)
    canvas = Canvas(figsize=(11, 4 if figure.curves else max(2.5, 0.32 * rows + 1)), dpi=120)
    ratios = [max(1, len(figure.lanes))] + [2] * len(figure.profiles)
    grid = canvas.subplots(
        len(ratios), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios}
    )[:, 0]
    main = grid[0]
    main.set_title(figure.title, fontsize=10)
    for curve in figure.curves:
        xs, ys = zip(*curve.points, strict=True) if curve.points else ((), ())
        style = "steps-post" if curve.steps else "default"
        main.plot(xs, ys, marker="o", drawstyle=style, label=curve.label)
    if figure.curves:
        main.legend()
        main.set_ylabel(figure.y_label)
    span = max((bar.end for lane in figure.lanes for bar in lane.bars), default=1.0)
    for row, lane in enumerate(figure.lanes):
        for bar in lane.bars:
            main.barh(
                row + 0.4 - 0.8 * bar.top,
                bar.end - bar.start,
                left=bar.start,
                height=0.8 * (bar.top - bar.bottom),
                align="edge",
                color=colour(bar.colour or bar.label),
                edgecolor="#333",
                linewidth=0.4,
                alpha=0.4 if bar.dashed else 1.0,
            )
            if bar.label and bar.end - bar.start > 0.008 * span * (len(bar.label) + 1):
                middle = row + 0.4 - 0.4 * (bar.top + bar.bottom)
                x = (bar.start + bar.end) / 2
                main.text(x, middle, bar.label, ha="center", va="center", fontsize=6, clip_on=True)
    if figure.lanes:
        main.set_yticks(range(len(figure.lanes)), [lane.label for lane in figure.lanes], fontsize=7)
        main.invert_yaxis()
    for axes, profile in zip(grid[1:], figure.profiles, strict=True):
        for points, hue in ((profile.points, "#37648b"), (profile.capacity, "#bb2222")):
            if points:
                xs, ys = zip(*points, strict=True)
                axes.step(xs, ys, where="post", color=hue)
        axes.set_ylabel(profile.label, fontsize=7)
    grid[-1].set_xlabel(figure.x_label)
    canvas.tight_layout()
    out = io.BytesIO()
    canvas.savefig(out, format="png")
    return out.getvalue()
