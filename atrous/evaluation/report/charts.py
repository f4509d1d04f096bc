"""Small SVG charts for reports: text in, text out, nothing to install and sharp at any size."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from atrous.evaluation.uncertainty import Reliability

COLORS = ("#2563a8", "#d0622b")  # of the first and the second model; told apart by the colour-blind
_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44

Point = tuple[float, float]


class _Frame:
    """Axes with ticks; maps values to places."""

    def __init__(self, x: Point, y: Point) -> None:
        self.x, self.y = x, y

    def place(self, x: float, y: float) -> Point:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    def draw(self, x_label: str, y_label: str) -> Iterator[str]:
        left, bottom = self.place(self.x[0], self.y[0])
        right, top = self.place(self.x[1], self.y[1])
        for tick in ticks(*self.y):
            _, y = self.place(self.x[0], tick)
            yield f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>'
            yield f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>'
        for tick in ticks(*self.x):
            x, _ = self.place(tick, self.y[0])
            yield f'<line x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}" stroke="#888"/>'
            yield f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{tick:g}</text>'
        yield f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="#888"/>'
        middle = (left + right) / 2
        yield f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        turn = f'transform="rotate(-90 13 {(top + bottom) / 2})"'
        yield f'<text x="13" y="{(top + bottom) / 2}" text-anchor="middle" {turn}>'
        yield f"{escape(y_label)}</text>"

    def path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{x},{y}" for x, y in (self.place(*point) for point in points))


def lines(curves: Mapping[str, Mapping[int, float | None]], x_label: str, y_label: str) -> str:
    """Draws one curve for each name; undefined points are left out."""
    points = {
        name: [(float(x), y) for x, y in curve.items() if y is not None]
        for name, curve in curves.items()
    }
    every = [point for curve in points.values() for point in curve]
    if not every:
        return "<p>Nothing to show.</p>"
    xs, ys = zip(*every, strict=True)
    step = ticks(min(ys), max(ys))
    margin = (step[1] - step[0]) if len(step) > 1 else 0.05
    low = math.floor(min(ys) / margin) * margin
    high = math.ceil(max(ys) / margin) * margin
    x_range = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 1, max(xs) + 1)
    frame = _Frame(x_range, (low, high) if low < high else (low - margin, high + margin))
    parts = list(frame.draw(x_label, y_label))
    for color, curve in zip(COLORS, points.values(), strict=False):
        parts.append(f'<path d="{frame.path(curve)}" fill="none" stroke="{color}" ')
        parts.append('stroke-width="2.2"/>')
        for x, y in curve[:: max(1, len(curve) // 8)]:
            across, down = frame.place(x, y)
            parts.append(f'<circle cx="{across}" cy="{down}" r="3" fill="{color}">')
            parts.append(f"<title>{x:g}: {y:.4f}</title></circle>")
    return _svg(parts, list(points), f"{y_label} against {x_label}")


def reliability(models: Mapping[str, Reliability]) -> str:
    """Draws accuracy against confidence; on the diagonal, confidence can be taken at its word."""
    frame = _Frame((0, 1), (0, 1))
    parts = list(frame.draw("confidence", "share right"))
    parts.append(f'<path d="{frame.path([(0, 0), (1, 1)])}" stroke="#999" stroke-dasharray="4"/>')
    for color, found in zip(COLORS, models.values(), strict=False):
        total = max(int(found.pixels.sum()), 1)
        bins = [
            (float(x), float(y), int(n))
            for x, y, n in zip(found.confidence, found.accuracy, found.pixels, strict=True)
            if n
        ]
        path = frame.path([(x, y) for x, y, _ in bins])
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        for x, y, n in bins:
            across, down = frame.place(x, y)
            radius = 2.5 + 9 * math.sqrt(n / total)
            parts.append(f'<circle cx="{across}" cy="{down}" r="{radius:.1f}" fill="{color}" ')
            parts.append(f'fill-opacity=".6"><title>{x:.2f}: {y:.3f}, {n} pixels</title></circle>')
    return _svg(parts, list(models), "share of right pixels against confidence")


def ticks(low: float, high: float) -> list[float]:
    """Returns three to seven round numbers between two."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _svg(parts: Sequence[str], names: Sequence[str], title: str) -> str:
    keys = "".join(
        f'<span><i style="background:{color}"></i>{escape(name)}</span>'
        for color, name in zip(COLORS, names, strict=False)
    )
    legend = f'<p class="key">{keys}</p>' if len(names) > 1 else ""
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>{legend}"
    )
