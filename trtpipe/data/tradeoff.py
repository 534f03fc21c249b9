"""Draw `tradeoff.svg`: each variant as a point by two figures, the rules that it must keep, and the Pareto front."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from trtpipe.escaping import markup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 800, 520
LEFT, TOP, RIGHT, BOTTOM = 92, 84, 32, 92
INK, QUIET, GRID, BAD, GOOD, BEST = "#1f2430", "#667085", "#e4e7ec", "#d92d20", "#2563c9", "#0b7a3e"
LOG_FROM = 40
"""An axis whose largest value is this many times its least one is logarithmic."""
_FONT = 'font-family="system-ui, \'Segoe UI\', \'DejaVu Sans\', sans-serif" font-size="12" role="img"'
_CHARACTER = 6.7  # pixels of a character at 12 px, a little too wide so that labels never touch

_NEAR = ((13, 4, "start"), (-13, 4, "end"), (0, -14, "middle"), (0, 23, "middle"),
         (11, -10, "start"), (11, 18, "start"), (-11, -10, "end"), (-11, 18, "end"))  # fmt: skip
_FAR = ((6, -26, "start"), (-6, -26, "end"), (6, 34, "start"), (-6, 34, "end"))


class Axis(NamedTuple):
    """A figure: `goal` is `min` or `max`; `limits` are the rules that it must keep, as (operator, value).

    `tie` is (from, to, share): values between the two count as equal, because they are within that share of the best.
    """

    name: str
    goal: str
    limits: tuple[tuple[str, float], ...] = ()
    tie: tuple[float, float, str] | None = None

    def better(self, one: float, other: float) -> bool:
        """Tell whether one value is better than the other."""
        return one < other if self.goal == "min" else one > other


class Point(NamedTuple):
    """A variant: its two figures, its state (`best`, `passed` or `lost`), and a sentence about it."""

    label: str
    x: float
    y: float
    state: str
    why: str


def front(points: Sequence[Point], x: Axis, y: Axis) -> list[Point]:
    """Give the points than which no other is better in one figure and no worse in the other, from left to right."""
    found = [
        p
        for p in points
        if not any(
            (x.better(o.x, p.x) and not y.better(p.y, o.y)) or (y.better(o.y, p.y) and not x.better(p.x, o.x))
            for o in points
        )
    ]
    return sorted(found, key=lambda p: (p.x, p.y, p.label))


class _Scale:
    """Maps an axis' values to pixels, with round numbers for its ticks."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        least, most = min(values), max(values)
        reach = max(most - least, 0.05 * abs(most))
        near = [v for _, v in axis.limits if least - reach <= v <= most + reach]
        least, most = min([least, *near]), max([most, *near])
        self.log = least > 0 and most / least > LOG_FROM
        self._place: Callable[[float], float] = math.log10 if self.log else float
        low, high = self._place(least), self._place(most)
        pad = 0.09 * (high - low) or max(abs(high) * 0.02, 1e-9)
        low, high = low - pad, high + pad
        # What cannot be negative is hardly drawn as if it could be: just so far that no point lies on the axis.
        self.low = max(low, -0.05 * (high - low)) if least >= 0 and not self.log else low
        self.high, self.start, self.end = high, start, end
        self.ticks = self._decades() if self.log else self._round_numbers()

    def __call__(self, value: float) -> float:
        part = (self._place(value) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def inside(self, value: float) -> bool:
        return (value > 0 or not self.log) and self.low <= self._place(value) <= self.high

    def _decades(self) -> list[float]:
        first, last = math.floor(self.low), math.ceil(self.high)
        every = [
            m * 10.0**e for e in range(first, last + 1) for m in ((1, 2, 5) if self.high - self.low < 2.7 else (1,))
        ]
        return [v for v in every if self.low <= math.log10(v) <= self.high]

    def _round_numbers(self) -> list[float]:
        rough = (self.high - self.low) / 6
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)
        first = math.ceil(self.low / step)
        count = math.floor(self.high / step) - first + 1
        return [float(f"{(first + i) * step:.12g}") for i in range(count)]

    def text(self, value: float) -> str:
        """Write a tick with just the digits that tell it from its neighbours."""
        if max(map(abs, self.ticks)) >= 1e4:
            most = abs(value) if self.log else max(map(abs, self.ticks))
            for size, sign in ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, "")):
                if most >= size:
                    return f"{value / size:.6g}{sign}"
        return f"{value:.9g}"


class _Boxes:
    """What is taken on the picture, as (left, top, right, bottom), so that no label hides another."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self._taken = [(x - 9, y - 9, x + 9, y + 9) for x, y in points]

    def place(self, x: float, y: float, text: str, *, bold: bool = False) -> tuple[float, float, str] | None:
        """Give (x, y, anchor) for a label beside a point, or None if there is no room."""
        width = _CHARACTER * len(text) * (1.1 if bold else 1)
        for dx, dy, anchor in (*_NEAR, *(_FAR if bold else ())):
            left = x + dx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            box = (left, y + dy - 11, left + width, y + dy + 3)
            wide = box[0] >= LEFT + 2 and box[2] <= WIDTH - 8
            inside = wide and box[1] >= TOP + 2 and box[3] <= HEIGHT - BOTTOM - 2
            if inside and not any(_touch(box, other) for other in self._taken):
                self._taken.append(box)
                return x + dx, y + dy, anchor
        return None


def _touch(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def svg(title: str, subtitle: str, points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Draw the points (at least one); the same ones give the same text."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    across = _Scale(x, [p.x for p in points], LEFT, right)
    up = _Scale(y, [p.y for p in points], bottom, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {_FONT}>',
        f"<title>{markup(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 32, title, size=17, weight=600),
        _text(LEFT, 54, subtitle, fill=QUIET, size=13),
    ]
    for tick in across.ticks:
        parts.append(_line(across(tick), TOP, across(tick), bottom, GRID))
        parts.append(_text(across(tick), bottom + 19, across.text(tick), anchor="middle", fill=QUIET))
    for tick in up.ticks:
        parts.append(_line(LEFT, up(tick), right, up(tick), GRID))
        parts.append(_text(LEFT - 9, up(tick) + 4, up.text(tick), anchor="end", fill=QUIET))
    places = _Boxes([(across(p.x), up(p.y)) for p in points])
    if x.tie:
        ends = [min(max(across(v), LEFT), right) for v in x.tie[:2]]
        parts.append(_band(min(ends), max(ends), bottom))
    parts += _limits(x, y, across, up, places)
    parts += [_line(LEFT, bottom, right, bottom, QUIET), _line(LEFT, TOP, LEFT, bottom, QUIET)]
    parts.append(_text((LEFT + right) / 2, bottom + 44, _axis_title(x, across), anchor="middle"))
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text transform="translate(24 {middle:.1f}) rotate(-90)" text-anchor="middle" fill="{INK}">'
        f"{markup(_axis_title(y, up))}</text>"
    )
    best_known = front(points, x, y)
    if len(best_known) > 1:
        parts.append(_staircase(best_known, x, across, up))
    order = {"best": 0, "passed": 1, "lost": 2}
    ranked = sorted(points, key=lambda p: (order[p.state], p not in best_known, p.x, p.y, p.label))
    labels = [(p, places.place(across(p.x), up(p.y), p.label, bold=p.state == "best")) for p in ranked]
    for point in reversed(ranked):
        parts += _mark(across(point.x), up(point.y), point.state, f"{point.label}: {point.why}")
    for point, where in labels:
        if where:
            weight = 600 if point.state == "best" else 400
            fill = {"best": BEST, "passed": INK, "lost": QUIET}[point.state]
            parts.append(_text(where[0], where[1], point.label, anchor=where[2], fill=fill, weight=weight, halo=True))
    has_limits = bool(x.limits or y.limits)
    parts += _legend(points, has_front=len(best_known) > 1, has_limits=has_limits, tie=x.tie[2] if x.tie else "")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axis_title(axis: Axis, scale: _Scale) -> str:
    return f"{axis.name} ({'less' if axis.goal == 'min' else 'more'} is better{', logarithmic' if scale.log else ''})"


def _limits(x: Axis, y: Axis, across: _Scale, up: _Scale, places: _Boxes) -> list[str]:
    """Draw where a rule is broken in red, with the rule at its edge."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for operator, value in y.limits:
        if up.inside(value):
            edge = up(value)
            parts += _forbidden(
                [(LEFT, edge, right, bottom)] if ">" in operator else [(LEFT, TOP, right, edge)], operator
            )
            parts.append(_line(LEFT, edge, right, edge, BAD, dash="5 4"))
            text = f"{y.name} {operator} {value:g}"
            where = places.place(right - 4 - 13 - _CHARACTER * len(text), edge - 10, text)
            parts += [_text(where[0], where[1], text, anchor=where[2], fill=BAD)] if where else []
    for operator, value in x.limits:
        if across.inside(value):
            edge = across(value)
            parts += _forbidden(
                [(LEFT, TOP, edge, bottom)] if ">" in operator else [(edge, TOP, right, bottom)], operator
            )
            parts.append(_line(edge, TOP, edge, bottom, BAD, dash="5 4"))
            where = places.place(edge - 6, TOP + 14, f"{x.name} {operator} {value:g}")
            if where:
                parts.append(_text(where[0], where[1], f"{x.name} {operator} {value:g}", anchor=where[2], fill=BAD))
    return parts


def _forbidden(areas: list[tuple[float, float, float, float]], operator: str) -> list[str]:
    if operator == "==":
        return []
    return [
        f'<rect x="{a:.1f}" y="{b:.1f}" width="{c - a:.1f}" height="{d - b:.1f}" fill="{BAD}" fill-opacity="0.06"/>'
        for a, b, c, d in areas
    ]


def _band(left: float, right: float, bottom: float) -> str:
    """Draw where the first figure is as good as the best."""
    return (
        f'<rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{bottom - TOP:.1f}" '
        f'fill="{BEST}" fill-opacity="0.1"/>'
    )


def _staircase(points: Sequence[Point], x: Axis, across: _Scale, up: _Scale) -> str:
    """Draw the front: from each of its points the next one is reached by giving up the one figure for the other."""
    steps = [f"M {across(points[0].x):.1f} {up(points[0].y):.1f}"]
    for one, other in itertools.pairwise(points):
        # Between two points all that is known is what the worse corner promises.
        first_across = x.better(one.x, other.x)
        corner = (other.x, one.y) if first_across else (one.x, other.y)
        steps.append(f"L {across(corner[0]):.1f} {up(corner[1]):.1f} L {across(other.x):.1f} {up(other.y):.1f}")
    return f'<path d="{" ".join(steps)}" fill="none" stroke="{GOOD}" stroke-width="1.5" stroke-opacity="0.45"/>'


def _mark(x: float, y: float, state: str, why: str) -> list[str]:
    """Draw a point: a disc, with a ring around the best; a cross for what broke a rule."""
    hover = f"<title>{markup(why)}</title>"
    if state == "lost":
        cross = f"M {x - 5:.1f} {y - 5:.1f} l 10 10 M {x - 5:.1f} {y + 5:.1f} l 10 -10"
        return [f'<path d="{cross}" stroke="{BAD}" stroke-width="2.2" stroke-linecap="round">{hover}</path>']
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="{BEST}" stroke-width="2"/>'
    colour = BEST if state == "best" else GOOD
    disc = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}">{hover}</circle>'
    return [ring, disc] if state == "best" else [disc]


def _legend(points: Sequence[Point], *, has_front: bool, has_limits: bool, tie: str) -> list[str]:
    parts = []
    x, y = float(LEFT + 6), HEIGHT - 18.0
    states = {p.state for p in points}
    lost = "breaks a rule" if has_limits else "lost"
    for state, text in (("best", "chosen"), ("passed", "keeps every rule"), ("lost", lost)):
        if state in states:
            parts += _mark(x, y - 4, state, text)
            parts.append(_text(x + 14, y, text, fill=QUIET))
            x += 14 + _CHARACTER * len(text) + 26
    if tie:
        words = f"tie within {tie}"
        parts.append(
            f'<rect x="{x - 4:.1f}" y="{y - 10:.1f}" width="12" height="12" fill="{BEST}" fill-opacity="0.2"/>'
        )
        parts.append(_text(x + 14, y, words, fill=QUIET))
        x += 14 + _CHARACTER * len(words) + 26
    if has_front:
        parts.append(
            f'<path d="M {x - 4:.1f} {y - 4:.1f} h 20" stroke="{GOOD}" stroke-width="1.5" stroke-opacity="0.45"/>'
        )
        parts.append(_text(x + 22, y, "Pareto front: no variant is better in both", fill=QUIET))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M {x1:.1f} {y1:.1f} L {x2:.1f} {y2:.1f}" stroke="{colour}"{dashes}/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    size: int = 12,
    weight: int = 400,
    halo: bool = False,
) -> str:
    extra = f' font-size="{size}"' if size != 12 else ""
    extra += f' font-weight="{weight}"' if weight != 400 else ""
    extra += f' text-anchor="{anchor}"' if anchor != "start" else ""
    extra += ' paint-order="stroke" stroke="#ffffff" stroke-width="3"' if halo else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}"{extra}>{markup(text)}</text>'
