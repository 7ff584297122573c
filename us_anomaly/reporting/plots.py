"""Plots as SVG: drawn once, coloured by the style of the page they stand in, with the numbers behind them in tooltips.

Everything a reader needs is in the picture itself; `overview.js` only shows the tooltips of the points in `data-points`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from us_anomaly.reporting.axes import Axis, tick_text

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 14, 46
MIN_TICK_GAP_PX = 34


@dataclass(frozen=True, slots=True)
class Point:
    """A point with the text of its tooltip."""

    x: float
    y: float
    text: str


@dataclass(slots=True)
class Plot:
    """A picture with two axes, to which lines and bars are added."""

    title: str
    """What it shows, in a sentence, for those who cannot see it."""
    x: Axis
    y: Axis
    y_is_mirrored: bool = False
    """Numbers below zero of y count downwards: they are shown without sign."""
    _shapes: list[str] = field(default_factory=list)
    _points: list[tuple[float, float, str]] = field(default_factory=list)

    def left_of(self, value: float) -> float:
        """Return the horizontal pixel of a value."""
        return LEFT + self.x.position(value) * (WIDTH - LEFT - RIGHT)

    def top_of(self, value: float) -> float:
        """Return the vertical pixel of a value."""
        return HEIGHT - BOTTOM - self.y.position(value) * (HEIGHT - TOP - BOTTOM)

    def line(self, xs: Iterable[float], ys: Iterable[float], *, kind: str) -> None:
        """Add a line; `kind` is its class in the style sheet."""
        corners = " ".join(f"{self.left_of(x):.1f},{self.top_of(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self._shapes.append(f'<polyline class="line {kind}" points="{corners}"/>')

    def steps(self, xs: list[float], ys: list[float], *, kind: str) -> None:
        """Add a line that keeps each height back to the point before: what lies between is not interpolated."""
        step_xs = [x for before, after in zip(xs[:1] + xs[:-1], xs, strict=True) for x in (before, after)] if xs else []
        self.line(step_xs, [y for y in ys for _ in range(2)], kind=kind)

    def bar(self, start: float, end: float, *, base: float, top: float, kind: str) -> None:
        """Add a bar between two values of x, from `base` to `top` of y."""
        left, right = self.left_of(start), self.left_of(end)
        high, low = sorted((self.top_of(base), self.top_of(top)))
        if low > high:
            self._shapes.append(
                f'<rect class="bar {kind}" x="{left + 0.5:.1f}" y="{high:.1f}" width="{max(right - left - 1, 0.8):.1f}" '
                f'height="{low - high:.1f}"/>'
            )

    def vertical(self, value: float, *, label: str, kind: str) -> None:
        """Add a line at a value of x with a label at its top, on the side where there is room."""
        left = self.left_of(value)
        at_right = left > WIDTH - 130
        anchor, shift = ("end", -5) if at_right else ("start", 5)
        self._shapes.append(
            f'<line class="mark {kind}" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="mark-label" x="{left + shift:.1f}" y="{TOP + 10}" text-anchor="{anchor}">{escape(label)}</text>'
        )

    def dot(self, x: float, y: float, *, kind: str) -> None:
        """Add a dot."""
        self._shapes.append(
            f'<circle class="dot {kind}" cx="{self.left_of(x):.1f}" cy="{self.top_of(y):.1f}" r="4.5"/>'
        )

    def tooltips(self, points: Iterable[Point]) -> None:
        """Let the page show the text of the nearest point."""
        self._points += [(round(self.left_of(p.x), 1), round(self.top_of(p.y), 1), p.text) for p in points]

    def svg(self) -> Markup:
        """Return the picture."""
        points = escape(json.dumps(self._points, separators=(",", ":")))
        return Markup(
            f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}" '
            f'tabindex="0" data-points="{points}">{self._frame()}{"".join(self._shapes)}'
            f'<g class="cursor" hidden=""><line y1="{TOP}" y2="{HEIGHT - BOTTOM}"/><circle r="4"/></g></svg>'
        )

    def _frame(self) -> str:
        """Return grid lines, tick labels and axis labels."""
        bottom, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
        parts, last = [], -MIN_TICK_GAP_PX * 1.0
        for tick in self.x.ticks():
            left = self.left_of(tick)
            parts.append(f'<line class="grid" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{bottom}"/>')
            if left - last >= MIN_TICK_GAP_PX:
                parts.append(
                    f'<text class="tick" x="{left:.1f}" y="{bottom + 16}" text-anchor="middle">{tick_text(tick)}</text>'
                )
                last = left
        for tick in self.y.ticks():
            top = self.top_of(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top:.1f}" y2="{top:.1f}"/>')
            shown = tick_text(abs(tick) if self.y_is_mirrored else tick)
            parts.append(f'<text class="tick" x="{LEFT - 7}" y="{top + 4:.1f}" text-anchor="end">{shown}</text>')
        parts.append(
            f'<text class="axis" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(self.x.label)}</text>'
        )
        center = (TOP + bottom) / 2
        parts.append(
            f'<text class="axis" x="13" y="{center:.0f}" text-anchor="middle" transform="rotate(-90 13 {center:.0f})">'
            f"{escape(self.y.label)}</text>"
        )
        return "".join(parts)
