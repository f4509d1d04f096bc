"""Charts of the report, as SVG text that stands inside the page."""

import io
import re
from collections.abc import Mapping

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atrous.evaluation.uncertainty import Reliability

COLORS = ("#2563a8", "#d0622b")  # first and second model; distinguishable for the colour-blind


def lines(curves: Mapping[str, Mapping[int, float | None]], x_label: str, y_label: str) -> str:
    """Draws one curve for each name; undefined points are left out."""
    points = {
        name: [(x, y) for x, y in curve.items() if y is not None] for name, curve in curves.items()
    }
    if not any(points.values()):
        return "<p>Nothing to show.</p>"
    figure, axes = _axes(x_label, y_label)
    for color, (name, curve) in zip(COLORS, points.items(), strict=False):
        axes.plot(*zip(*curve, strict=True), color=color, label=name, marker=".", markevery=5)
    return _svg(figure, axes, f"{y_label} against {x_label}")


def reliability(models: Mapping[str, Reliability]) -> str:
    """Draws the share of right pixels against confidence; on the diagonal, the two agree.

    The area of a dot shows how many pixels have that confidence.
    """
    figure, axes = _axes("confidence", "share right")
    axes.plot((0, 1), (0, 1), color="#999", linestyle="--", linewidth=1)
    for color, (name, found) in zip(COLORS, models.items(), strict=False):
        some = found.pixels > 0
        x, y = found.confidence[some], found.accuracy[some]
        areas = 20 + 350 * found.pixels[some] / max(int(found.pixels.sum()), 1)
        axes.plot(x, y, color=color, linewidth=1.5, label=name)
        axes.scatter(x, y, s=areas, color=color, alpha=0.6)
    return _svg(figure, axes, "share of right pixels against confidence")


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4")
    return figure, axes


def _svg(figure: Figure, axes: Axes, title: str) -> str:
    """Returns the figure as SVG; the same figure gives the same bytes."""
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=False)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
