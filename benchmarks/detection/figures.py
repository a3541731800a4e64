"""Figures of the record as SVG files that can be read on light and on dark pages.

Shapes: N = samples.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.detection.cells import MadeCell, find_cells
from benchmarks.detection.kept import SampleContents
from benchmarks.detection.tables.ablations import COMPONENTS
from benchmarks.detection.tables.markdown import MAIN_RATE, Row, chosen, grouped, values
from benchmarks.detection.tables.rates import COMPARED
from benchmarks.detection.variants import PAPER_RULE, VARIANTS
from bye_audit.core.bsi import aggregate_entropy
from bye_audit.core.detection import Evidence
from bye_audit.core.detectors import DETECTORS
from bye_audit.pipeline import EMBEDDED_MODEL
from bye_audit.store.evidence import read_evidence

_SHOWN_ATTACKS = ("patch", "blended", "text-prefix", "fluent-caption")
# Of middling lightness: contrast with white and with near-black is about the same.
_INK, _CLEAN, _POISONED = "#7a7f87", "#3f8fd2", "#dd6b3d"
_LINES = {
    PAPER_RULE: ("#7a7f87", "o"),
    "bye": ("#b0892f", "s"),
    "tcap": ("#3f8fd2", "^"),
    "plausibility": ("#9b6dd6", "v"),
    "consensus": ("#dd6b3d", "D"),
}
_MOST_BESIDE = 3  # panels: more would make the text too small on a page
# Any: matplotlib types every key by name, which a shared constant cannot repeat.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bye-audit",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def write_figures(root: Path, rows: Sequence[Row], folder: Path) -> Iterator[Path]:
    """Draw what the record under ``root`` has data for, and give the files."""
    folder.mkdir(parents=True, exist_ok=True)
    own = chosen(rows, model=EMBEDDED_MODEL)
    drawn = {
        "scores": _draw_scores(_cells_to_show(root)),
        "components": _draw_components(own),
        "rates": _draw_rates(own),
    }
    for name, figure in drawn.items():
        if figure is not None:
            path = folder / f"detection-{name}.svg"
            path.write_text(_to_svg(figure, name), encoding="utf-8")
            yield path


def _cells_to_show(root: Path) -> list[MadeCell]:
    """Give the first seed of each attack that is shown, at the paper's rate on our scenes."""
    found: dict[str, MadeCell] = {}
    for made in find_cells(root):
        cell = made.cell
        if (cell.model, cell.data, cell.rate) == (EMBEDDED_MODEL, "scenes", MAIN_RATE):
            found.setdefault(cell.attack, made)
    return [found[attack] for attack in _SHOWN_ATTACKS if attack in found]


def _draw_scores(cells: Sequence[MadeCell]) -> Figure | None:
    """Figure 3: entropy of clean and poisoned samples, and under it the gain in likelihood."""
    if not cells:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.6 * len(cells), 4.6), layout="constrained")
        grid = figure.subplots(2, len(cells), squeeze=False)
        for column, made in enumerate(cells):
            tables = made.audit().tables
            scored = read_evidence(tables)
            row_of = SampleContents(tables).source_row
            rows = np.array([row_of[name] for name in scored.sample_id.to_pylist()])
            truth_N = made.truth(rows)
            entropy_N, where = _entropy_to_show(scored.evidence)
            _histogram(grid[0, column], entropy_N, truth_N, f"entropy, nats\n{where}")
            grid[0, column].set_title(f"{made.cell.attack}, seed {made.cell.seed}")
            logp_N, base_N = scored.evidence.answer_logp_N, scored.evidence.answer_logp_base_N
            if logp_N is not None and base_N is not None:
                _histogram(grid[1, column], logp_N - base_N, truth_N, "gain, nats a token")
        for axes in grid[:, 0]:
            axes.set_ylabel("share of its kind")
        grid[0, 0].legend(fontsize=8, loc="best")
        return figure


def _entropy_to_show(evidence: Evidence) -> tuple[NDArray[np.float64], str]:
    """Mean entropy of the sensitive layers, or where there is none that of the clearest."""
    detector, config = VARIANTS[PAPER_RULE]
    detection = DETECTORS[detector].detect(evidence, config)
    used = list(detection.sensitive_layers)
    if not used:
        best = max(detection.layers, key=lambda profile: profile.bsi)
        return evidence.nats()[:, best.layer], f"layer {best.layer}, BSI {best.bsi:.2f}"
    names = ", ".join(map(str, used))
    return aggregate_entropy(evidence.nats(), used), f"sensitive: layer {names}"


def _histogram(
    axes: Axes, value_N: NDArray[np.floating], truth_N: NDArray[np.bool_], label: str
) -> None:
    bins = np.histogram_bin_edges(value_N[np.isfinite(value_N)], 40).tolist()
    for is_kind_N, color, name in ((~truth_N, _CLEAN, "clean"), (truth_N, _POISONED, "poisoned")):
        kind = value_N[is_kind_N & np.isfinite(value_N)]
        weights = np.full(kind.size, 1 / max(kind.size, 1))
        axes.hist(
            kind,
            bins=bins,
            weights=weights,
            histtype="stepfilled",
            color=color,
            alpha=0.65,
            label=name,
        )
    axes.set_xlabel(label)


def _draw_components(rows: Sequence[Row]) -> Figure | None:
    """Figure 4: F1 of the paper's rule with parts of it left out, patch trigger."""
    patches = chosen(rows, attack="patch", rate=MAIN_RATE)
    groups = [(str(data), group) for (data,), group in grouped(patches, "data")]
    if not groups:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.0), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(groups)
        for index, (data, group) in enumerate(groups):
            places = np.arange(len(COMPONENTS)) + (index - (len(groups) - 1) / 2) * width
            f1 = [values(chosen(group, variant=name), "f1") for name in COMPONENTS.values()]
            means = [float(np.mean(known)) for known in f1]
            color = (_CLEAN, _POISONED)[index % 2]
            axes.bar(places, means, width * 0.92, color=color, alpha=0.75, label=data)
            for place, known, height in zip(places, f1, means, strict=True):
                axes.plot([place, place], [min(known), max(known)], color=_INK, linewidth=1.4)
                axes.annotate(
                    f"{height:.2f}",
                    (place, max(known)),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
        axes.set_xticks(range(len(COMPONENTS)), list(COMPONENTS))
        axes.set_ylim(0, 1.08)
        axes.set_ylabel("F1, patch; line: range over seeds")
        axes.legend(fontsize=8)
        return figure


def _draw_rates(rows: Sequence[Row]) -> Figure | None:
    """F1 against the poison rate, one panel an attack that was planted at several."""
    panels = [
        (f"{data}, {attack}", those)
        for (data, attack), those in grouped(rows, "data", "attack")
        if len({row["rate"] for row in those}) > 1
    ]
    if not panels:
        return None
    with mpl.rc_context(_STYLE):
        num_columns = min(_MOST_BESIDE, len(panels))
        num_lines = -(-len(panels) // num_columns)
        size = (1.4 + 3.0 * num_columns, 2.8 * num_lines)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(num_lines, num_columns, squeeze=False, sharey=True)
        for axes, (title, those) in zip(grid.flat, panels, strict=False):
            _plot_rates(axes, those)
            axes.set_title(title)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("F1; bar: range over seeds")
        # Beside the panels: lines may run anywhere in them.
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside right center"
        )
        return figure


def _plot_rates(axes: Axes, rows: Sequence[Row]) -> None:
    rates = sorted({row["rate"] for row in rows})
    for index, name in enumerate(COMPARED):
        color, marker = _LINES[name]
        f1 = [values(chosen(rows, variant=name, rate=rate), "f1") for rate in rates]
        # Set a little apart, so that bars at one rate do not hide each other.
        x = np.array(rates) * 100 * 1.04 ** (index - len(COMPARED) // 2)
        axes.plot(x, list(map(np.mean, f1)), color=color, marker=marker, markersize=4, label=name)
        axes.vlines(x, list(map(min, f1)), list(map(max, f1)), color=color, linewidth=1, alpha=0.6)
    axes.set_xscale("log")
    axes.set_xticks([rate * 100 for rate in rates], [f"{rate * 100:g}" for rate in rates])
    axes.minorticks_off()
    axes.set_xlabel("poison rate, per cent")
    axes.set_ylim(-0.03, 1.05)


def _to_svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        metadata: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Whatever editor opens it, trailing blanks would only make differences.
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return lines.replace("<svg ", f'<svg role="img" aria-label="detection, {name}" ', 1) + "\n"
