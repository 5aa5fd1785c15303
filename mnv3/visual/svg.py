"""Numbers -> plots as inline SVG, which follow the page's light and dark: no plotting library, nothing fetched.

Lines differ by colour and by dashes, so that they can be told apart without seeing colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 36  # around the plotted area
LETTER, LINE = 5.9, 13  # width of a letter of 11 px on average, height of a line of text
CSS = """
.mnv3 svg.plot { display: block; width: 100%; max-width: 400px; height: auto; overflow: visible; }
.mnv3 svg.plot text { font-size: 11px; fill: currentColor; }
.mnv3 svg.plot .axis { stroke: currentColor; opacity: .5; } .mnv3 svg.plot .grid { stroke: currentColor; opacity: .13; }
.mnv3 svg.plot .leader { stroke: currentColor; opacity: .5; }
.mnv3 svg polyline, .mnv3 svg .sample { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.mnv3 .line0 { stroke: #d9741a; } .mnv3 .line1 { stroke: #3d7cc9; stroke-dasharray: 7 3; }
.mnv3 .line2 { stroke: #7a7a7a; stroke-dasharray: 2 3; } .mnv3 .band2 { fill: #7a7a7a; opacity: .18; }
.dark .mnv3 .line2 { stroke: #a8a8a8; } .dark .mnv3 .line1 { stroke: #6aa5ea; }
.mnv3 svg circle { fill: #3d7cc9; stroke: var(--body-background-fill); } .mnv3 svg circle.own { fill: #d9741a; }
.mnv3 .legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; }
.mnv3 .legend svg { display: inline-block; vertical-align: middle; margin-right: 4px; }
"""


class Axis(NamedTuple):
    """One axis: from `low` to `high`, with ticks (value, text)."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between low, 0, and high, 1."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Line:
    """One curve; `look` 0, 1 or 2 decides colour and dashes; `band` holds (lowest, highest) of each x."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    look: int
    band: Sequence[tuple[float, float]] | None = None


class Point(NamedTuple):
    """A labelled point of a scatter plot; a visitor's own stands out."""

    x: float
    y: float
    label: str
    own: bool = False


def percent(label: str, low: float = 0.0, high: float = 1.0) -> Axis:
    """An axis for shares, low and high widened to whole ticks."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.25) if (high - low) / s <= 6 or s == 0.25)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return Axis(label, first * step, last * step, [(i * step, f"{i * step:.0%}") for i in range(first, last + 1)])


def numbers(label: str, low: float, high: float) -> Axis:
    """An axis for plain numbers, widened to round ones: at most eight ticks."""
    high = high if high - low > 1e-6 * max(1, abs(low)) else low + 1
    size = 10.0 ** math.floor(math.log10(high - low))
    step = next(s * size for s in (0.1, 0.2, 0.5, 1, 2, 5) if (high - low) / (s * size) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, first * step, last * step, [(i * step, f"{i * step:g}") for i in range(first, last + 1)])


def powers(label: str, low: float, high: float) -> Axis:
    """A logarithmic axis with ticks at 1, 2 and 5 times powers of ten, a third wider than low to high."""
    low, high = low / 1.33, high * 1.33
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
    return Axis(label, low, high, [(v, f"{v:g}") for v in steps if low <= v <= high], log=True)


def _place(x: Axis, y: Axis, at: tuple[float, float]) -> tuple[float, float]:
    """Data -> SVG coordinates."""
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return LEFT + across * x.share(at[0]), TOP + down * (1 - y.share(at[1]))


def lines(title: str, curves: Sequence[Line], x: Axis, y: Axis) -> str:
    """Curves as <svg>; `title` is what a screen reader says instead."""
    drawn = []
    for curve in curves:
        if curve.band:
            low = [_place(x, y, (a, b[0])) for a, b in zip(curve.xs, curve.band, strict=True)]
            high = [_place(x, y, (a, b[1])) for a, b in zip(curve.xs, curve.band, strict=True)]
            drawn.append(f'<polygon class="band{curve.look}" points="{_points(low + high[::-1])}"></polygon>')
    for curve in curves:
        path = [_place(x, y, at) for at in zip(curve.xs, curve.ys, strict=True)]
        drawn.append(f'<polyline class="line{curve.look}" points="{_points(path)}"></polyline>')
    return _svg(title, x, y, drawn)


def legend(curves: Sequence[Line]) -> str:
    """Which line is which: <div>, to stand once beside several plots."""
    spans = [
        '<span><svg width="30" height="8" aria-hidden="true">'
        f'<line class="sample line{curve.look}" x1="0" y1="4" x2="30" y2="4"></line></svg>{escape(curve.name)}</span>'
        for curve in curves
    ]
    return f'<div class="legend">{"".join(spans)}</div>'


def scatter(title: str, points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Labelled points as <svg>; labels keep off each other and off the points."""
    places = [_place(x, y, (p.x, p.y)) for p in points]
    drawn = []
    for point, at, (left, top) in zip(points, places, label_places([p.label for p in points], places), strict=True):
        middle, wide = top + LINE / 2, len(point.label) * LETTER
        near = min(max(at[0], left), left + wide)
        if abs(middle - at[1]) > 4:  # not beside its point: a line leads to it
            drawn.append(
                f'<line class="leader" x1="{at[0]:.1f}" y1="{at[1]:.1f}" x2="{near:.1f}" y2="{middle:.1f}"></line>'
            )
        drawn.append(f'<text x="{left:.1f}" y="{top + LINE - 3:.1f}">{escape(point.label)}</text>')
    for point, (across, down) in zip(points, places, strict=True):
        words = escape(f"{point.label}: {point.y:.1%} at {point.x:,.1f} M")
        own = ' class="own"' if point.own else ""
        drawn.append(f'<circle{own} cx="{across:.1f}" cy="{down:.1f}" r="5"><title>{words}</title></circle>')
    return _svg(title, x, y, drawn)


def label_places(labels: Sequence[str], places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Left and top of each label, inside the plot, over no other label and no point where there is room."""
    taken = [(across - 6, down - 6, across + 6, down + 6) for across, down in places]
    found: dict[int, tuple[float, float]] = {}
    for i in sorted(range(len(labels)), key=lambda i: places[i][1]):
        across, down = places[i]
        wide = len(labels[i]) * LETTER
        sides = [across - 9 - wide, across + 9, across - wide / 2]
        tries = [(side, down - LINE / 2 + shift) for shift in _shifts() for side in sides]
        inside = [(a, b) for a, b in tries if LEFT < a < WIDTH - wide and 0 <= b <= HEIGHT - BOTTOM - LINE]
        boxes = [(a, b, a + wide, b + LINE) for a, b in inside]
        free = [box for box in boxes if not any(_overlap(box, other) for other in taken)]
        box = (free or boxes or [(LEFT, down, LEFT + wide, down + LINE)])[0]
        taken.append(box)
        found[i] = box[:2]
    return [found[i] for i in range(len(labels))]


def _shifts() -> list[float]:
    return [sign * step for step in range(0, HEIGHT, 7) for sign in ((1,) if step == 0 else (-1, 1))]


def _overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in places)


def _svg(title: str, x: Axis, y: Axis, drawn: Sequence[str]) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value, text in y.ticks:
        _, down = _place(x, y, (x.low, value))
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{down:.1f}" x2="{right}" y2="{down:.1f}"></line>')
        parts.append(f'<text x="{LEFT - 5}" y="{down + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in x.ticks:
        across, _ = _place(x, y, (value, y.low))
        parts.append(f'<line class="axis" x1="{across:.1f}" y1="{bottom}" x2="{across:.1f}" y2="{bottom + 4}"></line>')
        parts.append(f'<text x="{across:.1f}" y="{bottom + 15}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"></line>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x.label)}</text>')
    words = escape(title, quote=True)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}">'
        f"{''.join(parts)}{''.join(drawn)}</svg>"
    )
