"""The paper's ablations of its rule, made again: thresholds, clusterings, layers."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detection import paper
from benchmarks.detection.tables.markdown import (
    MAIN_RATE,
    NOT_SAID,
    Row,
    chosen,
    count_seeds,
    grouped,
    percent,
    spread,
    table,
)
from benchmarks.detection.variants import PAPER_RULE, PAPER_THRESHOLD, PAPER_THRESHOLDS

COMPONENTS = {
    "full": PAPER_RULE,
    "w/o GMM": f"{PAPER_RULE} threshold",
    "w/o BSI": f"{PAPER_RULE} all layers",
    "w/o GMM + BSI": f"{PAPER_RULE} all layers threshold",
}
"""Variants of Figure 4, by their names there."""

_FIGURES = ("precision", "recall", "f1")


def threshold_table(rows: Sequence[Row]) -> str:
    """Table 5: the least BSI of a sensitive layer, patch trigger."""
    body = []
    for tau in PAPER_THRESHOLDS:
        figures = paper.BY_THRESHOLD[tau]
        published = ["no sensitive layer", "-", "-"] if figures is None else map(percent, figures)
        body.append([f"{tau:g}", "LLaVA-1.5-7B, ScienceQA", *published, "-", NOT_SAID])
        name = PAPER_RULE if tau == PAPER_THRESHOLD else f"{PAPER_RULE} tau={tau:g}"
        for (data,), those in grouped(_patch(rows, name), "data"):
            layers = [f"{row['num_averaged_layers']}" for row in those]
            figures_here = [spread(those, figure) for figure in _FIGURES]
            used = ", ".join(dict.fromkeys(layers))
            body.append([f"{tau:g}", str(data), *figures_here, used, count_seeds(those)])
    return table(["tau", "data", *_FIGURES, "sensitive layers", "seeds"], body)


def clustering_table(rows: Sequence[Row]) -> str:
    """Table 7: how samples are split by their score, patch trigger."""
    body = [
        [method, f"{model}, {dataset}", percent(f1), NOT_SAID]
        for model, methods in paper.F1_BY_CLUSTERING.items()
        for method, by_dataset in methods.items()
        for dataset, f1 in zip(paper.DATASETS, by_dataset, strict=True)
    ]
    for method in ("threshold", "kmeans", "gmm"):
        name = PAPER_RULE if method == "gmm" else f"{PAPER_RULE} {method}"
        for (data,), those in grouped(_patch(rows, name), "data"):
            body.append([method, f"{data}, here", spread(those, "f1"), count_seeds(those)])
    return table(["clustering", "data", "F1", "seeds"], body)


def component_table(rows: Sequence[Row]) -> str:
    """Figure 4 in numbers, and the layer rule of the paper's released code; every attack."""
    variants = {**COMPONENTS, "the released code's layer rule": f"{PAPER_RULE} reference-code"}
    body = []
    for key, group in grouped(chosen(rows, rate=MAIN_RATE), "data", "attack"):
        f1 = [spread(chosen(group, variant=name), "f1") for name in variants.values()]
        body.append([*key, count_seeds(group), *f1])
    return table(["data", "attack", "seeds", *variants], body)


def _patch(rows: Sequence[Row], variant: str) -> list[Row]:
    return chosen(rows, attack="patch", rate=MAIN_RATE, variant=variant)
