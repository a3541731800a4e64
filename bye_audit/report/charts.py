"""The report's charts as inline SVG that follows the page's light or dark colours.

Shapes: N = values, B = histogram bins.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Drawn in colours that occur nowhere else and replaced by the page's own: one chart, two themes.
_INK = "#010203"
_MUTED = "#020304"
_GRID = "#030405"
_BAR = "#040506"
_ALARM = "#050607"
_CALM = "#060708"
_THEME = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _BAR: "var(--bar)",
    _ALARM: "var(--alarm)",
    _CALM: "var(--calm)",
}
# Any: matplotlib types every key by name, which a shared constant cannot repeat.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bye-audit",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "legend.frameon": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How many values lie in each bin; ``edges`` has one number more than ``counts``."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def num_values(self) -> int:
        """Values in all bins."""
        return int(self.counts.sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One normal component of a fitted mixture; weight is its share in [0, 1]."""

    mean: float
    std: float
    weight: float

    def expected_counts(self, histogram: Histogram, points: int = 400) -> tuple[Any, Any]:
        """Values and the counts a bin around them would have if the component were all."""
        edges = histogram.edges
        x = np.linspace(edges[0], edges[-1], points)
        std = max(self.std, 1e-12)
        density = np.exp(-0.5 * ((x - self.mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        return x, density * self.weight * histogram.num_values * (edges[1] - edges[0])


def draw_separation(
    layers: Sequence[int],
    bsi: Sequence[float],
    is_sensitive: Sequence[bool],
    threshold: float,
    *,
    chart_id: str,
) -> str:
    """Draw one bar a layer with the threshold, sensitive layers marked.

    Parameters
    ----------
    layers, bsi, is_sensitive
        One entry a layer.
    threshold
        Least BSI of a sensitive layer.
    chart_id
        Prefix of the ids in the SVG, different for each chart of a page.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _new_figure(7.2, 2.9)
        colors = [_ALARM if sensitive else _BAR for sensitive in is_sensitive]
        axes.bar(list(layers), list(bsi), color=colors, width=0.72)
        axes.axhline(threshold, color=_INK, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.annotate(
            f"threshold {threshold:g}",
            xy=(1, threshold),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            # Readable where the last bar is taller than the threshold.
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )
        axes.set_xlabel("Decoder layer")
        axes.set_ylabel("Bimodal Separation Index")
        axes.set_ylim(0, max([threshold * 1.25, *(value * 1.12 for value in bsi)]) or 1.0)
        axes.set_xticks(list(layers)[:: max(1, -(-len(layers) // 16))])
        axes.yaxis.grid(visible=True, linewidth=0.6)
        axes.set_axisbelow(True)
        return _to_svg(figure, chart_id, "Bimodal Separation Index of each decoder layer")


def draw_mixture(
    histogram: Histogram,
    components: Sequence[Component],
    *,
    chart_id: str,
    label: str,
    cut: float | None = None,
    is_low_suspicious: bool = True,
    size: tuple[float, float] = (7.2, 2.9),
) -> str:
    """Draw a histogram with its fitted components and the cut between them.

    Parameters
    ----------
    histogram
        Of the values the mixture was fitted to.
    components
        Low component first; may be empty.
    chart_id
        Prefix of the ids in the SVG, different for each chart of a page.
    label
        Name and unit of the values.
    cut
        Value on whose suspicious side samples are suspected; None if nothing is.
    is_low_suspicious
        Whether that is the low side.
    size
        Width and height in inches at 72 dots each.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _new_figure(*size)
        edges, counts = histogram.edges, histogram.counts
        centers = (edges[:-1] + edges[1:]) / 2
        if cut is None:
            is_suspicious = np.zeros(len(counts), dtype=bool)
        else:
            is_suspicious = centers < cut if is_low_suspicious else centers > cut
        colors = [_ALARM if suspicious else _BAR for suspicious in is_suspicious]
        axes.bar(centers, counts, width=(edges[1] - edges[0]) * 0.94, color=colors, alpha=0.55)
        for index, component in enumerate(components):
            is_suspect = (index == 0) == is_low_suspicious
            x, expected = component.expected_counts(histogram)
            axes.plot(x, expected, color=_ALARM if is_suspect else _CALM, linewidth=1.6)
        if cut is not None:
            axes.axvline(cut, color=_INK, linewidth=1.2, linestyle=(0, (5, 3)))
            axes.annotate(
                f"cut {cut:.3g}",
                xy=(cut, 1),
                xycoords=("data", "axes fraction"),
                xytext=(4, -2),
                textcoords="offset points",
                va="top",
                fontsize=9,
            )
        # A narrow component's peak may tower over every bin; the bins are the evidence.
        axes.set_ylim(0, max(float(counts.max(initial=0)) * 1.15, 1.0))
        axes.set_xlim(float(edges[0]), float(edges[-1]))
        axes.set_xlabel(label)
        axes.set_ylabel("Samples")
        axes.yaxis.grid(visible=True, linewidth=0.6)
        axes.set_axisbelow(True)
        return _to_svg(figure, chart_id, f"Histogram of {label}")


def draw_training(
    steps: Sequence[int],
    losses: Sequence[float],
    learning_rates: Sequence[float],
    *,
    chart_id: str,
    has_failed: bool = False,
) -> str:
    """Draw the loss and, on an axis of its own, the learning rate over the steps.

    Parameters
    ----------
    steps, losses, learning_rates
        One entry a point.
    chart_id
        Prefix of the ids in the SVG, different for each chart of a page.
    has_failed
        Draw the loss in the colour of alarm.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _new_figure(7.2, 2.9)
        color = _ALARM if has_failed else _CALM
        marker = "o" if len(steps) == 1 else ""
        rates = axes.twinx()
        rates.plot(steps, learning_rates, color=_BAR, linewidth=1.2, linestyle=(0, (5, 3)))
        rates.set_ylabel("Learning rate, dashed")
        rates.set_ylim(0, max([*learning_rates, 1e-12]) * 1.1)
        rates.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        rates.spines["right"].set_visible(True)
        axes.plot(steps, losses, color=color, linewidth=1.6, marker=marker)
        axes.set_zorder(rates.get_zorder() + 1)
        axes.set_xlabel("Optimiser step")
        axes.set_ylabel("Loss, nats a token")
        axes.set_ylim(0, max([*losses, 1e-3]) * 1.08)
        axes.yaxis.grid(visible=True, linewidth=0.6)
        axes.set_axisbelow(True)
        return _to_svg(figure, chart_id, "Loss and learning rate of each training step")


def _new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    # Not pyplot: that keeps every figure of the process and chooses a window system.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _to_svg(figure: Figure, chart_id: str, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Ids are only unique within one chart, and a page has several.
    text = re.sub(r'\bid="', f'id="{chart_id}-', text)
    text = text.replace("url(#", f"url(#{chart_id}-").replace('href="#', f'href="#{chart_id}-')
    # The page sets the width; the viewBox keeps the proportions.
    text = re.sub(r'<svg ([^>]*?)\bheight="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)\bwidth="[^"]*"', r"<svg \1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for color, variable in _THEME.items():
        text = text.replace(color, variable)
    return text
