"""A figure as one self-contained HTML page: hover for details, wheel to zoom, drag to move."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from cpsched.plot.figure import Figure
from cpsched.plot.svg import svg

if TYPE_CHECKING:
    from cpsched.result import Result

# Zooming changes the view box, so text and lines stay sharp at any scale.
SCRIPT = """
const s=document.querySelector('svg'),b=s.viewBox.baseVal,h={x:b.x,y:b.y,w:b.width,h:b.height};
s.removeAttribute('width');s.removeAttribute('height');let d=null;
const at=e=>{const r=s.getBoundingClientRect();
return [b.x+(e.clientX-r.left)/r.width*b.width,b.y+(e.clientY-r.top)/r.height*b.height]};
s.addEventListener('wheel',e=>{e.preventDefault();const [x,y]=at(e),f=e.deltaY>0?1.2:1/1.2;
b.width*=f;b.height*=f;b.x=x-(x-b.x)*f;b.y=y-(y-b.y)*f},{passive:false});
s.addEventListener('pointerdown',e=>{d=at(e);s.setPointerCapture(e.pointerId)});
s.addEventListener('pointermove',e=>{if(!d)return;const [x,y]=at(e);b.x-=x-d[0];b.y-=y-d[1]});
s.addEventListener('pointerup',()=>{d=null});
s.addEventListener('dblclick',()=>{b.x=h.x;b.y=h.y;b.width=h.w;b.height=h.h});
"""


def html(figure: Figure) -> str:
    """The figure as a page that needs nothing else. Double click resets the view."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(figure.title)}</title>"
        "<style>body{margin:0}svg{width:100vw;height:98vh;cursor:grab}</style></head>"
        f"<body>{svg(figure)}<script>{SCRIPT}</script></body></html>\n"
    )


def notebook_html(result: Result) -> str:
    """What a notebook shows of a result: one line of facts and the schedule as SVG."""
    facts = (
        f"<b>{escape(result.kind)} {escape(result.problem_name)}</b>: {result.status.value} "
        f"({result.stop_reason.value}), {escape(str(result.objective_name))} "
        f"{result.objective}, bound {result.bound}, {result.wall_time:.2f} s"
    )
    if result.schedule is None:
        return f"<p>{facts}</p>"
    from cpsched.families import family

    drawing = svg(family(result.kind).draw(result.problem, result.schedule))
    return f"<p>{facts}</p>{drawing}"
