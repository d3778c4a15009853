"""A drawing as SVG text: boxes, words and arrows in one palette, for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH = 960
RANKS = ("r0", "r1", "r2", "r3")
"""The fills of four ranks."""

_STYLE = """\
    text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
    text { fill: #23221f; text-anchor: middle; }
    .left { text-anchor: start; } .right { text-anchor: end; } .bold { font-weight: 600; }
    .small { font-size: 12px; fill: #6a655c; } .verb { font-size: 13px; font-weight: 600; fill: #2b6a99; }
    .box { fill: #fcfbf8; stroke: #a9a294; stroke-width: 1.5; } .none { fill: none; stroke: #c9c3b6; }
    .frame { fill: none; stroke: #a9a294; stroke-width: 1.5; stroke-dasharray: 4 4; }
    .r0 { fill: #2b6a99; } .r1 { fill: #b54d27; } .r2 { fill: #4d7336; } .r3 { fill: #7a5596; }
    .grey { fill: #5d6b78; } .idle { fill: #e9e5db; } .mark { fill: #fff; }
    .on { fill: #fff; font-size: 12px; }
    .line { fill: none; stroke: #8d867a; stroke-width: 1.5; } .thin { stroke-dasharray: 2 4; }
    .head { fill: #8d867a; }
"""
_DARK = """\
      text { fill: #e6e3dc; } .small { fill: #a8a398; } .verb { fill: #7cbbe4; } .on { fill: #fff; }
      .box { fill: #1f2124; stroke: #66686c; } .frame { stroke: #66686c; } .none { stroke: #4b4d51; }
      .idle { fill: #34363a; } .line { stroke: #85878b; } .head { fill: #85878b; }
"""
_ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path class="head" d="M0 0L8 4L0 8Z"/></marker>'
)


class Canvas:
    """Collects elements; sizes are pixels, ``title`` says the picture in words."""

    def __init__(self, height: int, title: str) -> None:
        self.height = height
        self.title = title
        self._elements: list[str] = []

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str = "box",
        label: str = "",
        note: str = "",
    ) -> None:
        """Draw a rectangle of class ``fill`` with a label, and a smaller note beneath it."""
        self._elements.append(
            f'<rect class="{fill}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            f'rx="{min(5.0, width / 5, height / 5):.3g}"/>'
        )
        ink = "" if fill in ("box", "frame", "none", "idle", "mark") else "on"
        middle = x + width / 2, y + height / 2 + 5
        if note:
            self.text(middle[0], middle[1] - 8, label, ink)
            self.text(middle[0], middle[1] + 9, note, ink or "small")
        elif label:
            self.text(*middle, label, ink)

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Write words with their base line at ``y``; ``kind`` holds classes, e.g. ``small left``."""
        self._elements.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>')

    def arrow(self, *points: tuple[float, float], kind: str = "", both: bool = False) -> None:
        """Draw a line through the points with a head at its end (``both``: also at its beginning)."""
        self._path(points, f"line {kind}".strip(), 'marker-end="url(#arrow)"')
        if both:
            self._path(points[::-1], f"line {kind}".strip(), 'marker-end="url(#arrow)"')

    def line(self, *points: tuple[float, float], kind: str = "") -> None:
        """Draw a line through the points."""
        self._path(points, f"line {kind}".strip(), "")

    def _path(self, points: Sequence[tuple[float, float]], kind: str, end: str) -> None:
        steps = "L".join(f"{x:g} {y:g}" for x, y in points)
        self._elements.append(f'<path class="{kind}" d="M{steps}" {end}/>'.replace(" />", "/>"))

    def svg(self) -> str:
        """Return the file's text."""
        body = "\n  ".join(self._elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-labelledby="title">\n  <title id="title">{escape(self.title)}</title>\n  <style>\n{_STYLE}'
            f"    @media (prefers-color-scheme: dark) {{\n{_DARK}    }}\n  </style>\n"
            f"  <defs>{_ARROW}</defs>\n  {body}\n</svg>\n"
        )
