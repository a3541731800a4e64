"""The papers' tables made again on this model, with their figures in the first rows."""

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
from benchmarks.detection.variants import PAPER_RULE, TCAP_WITH_WITNESS

_FIGURES = ("precision", "recall", "f1")
_HERE = (PAPER_RULE, "bye", "tcap", "plausibility", "consensus", "zip")
_OURS = "here"


def outcome_table(rows: Sequence[Row]) -> str:
    """Table 1: clean performance and attack success rate after each defence, patch trigger."""
    body = [
        [model, dataset, method, percent(cp), percent(asr), NOT_SAID]
        for model, methods in paper.CP_AND_ASR.items()
        for method, figures in methods.items()
        for dataset, (cp, asr) in zip(paper.DATASETS, figures, strict=True)
    ]
    for data, group in _patches(rows):
        for name in ("none", "random-drop", *_HERE):
            those = [row for row in chosen(group, variant=name) if row["training"] is not None]
            if those:
                figures = [spread(those, "cp_after"), spread(those, "asr_after")]
                body.append([_OURS, data, name, *figures, count_seeds(those)])
    return table(["model", "data", "method", "CP", "ASR", "seeds"], body)


def detection_table(rows: Sequence[Row]) -> str:
    """Table 2: precision, recall and F1, patch trigger."""
    body = [
        [model, dataset, "BYE", *map(percent, figures), NOT_SAID]
        for model, by_dataset in paper.PRECISION_RECALL_F1.items()
        for dataset, figures in zip(paper.DATASETS, by_dataset, strict=True)
    ]
    for data, group in _patches(rows):
        body += [
            [_OURS, data, name, *_figures(those), count_seeds(those)]
            for name in _HERE
            if (those := chosen(group, variant=name))
        ]
    return table(["model", "data", "method", *_FIGURES, "seeds"], body)


def trigger_table(rows: Sequence[Row]) -> str:
    """Tables 3 and 6: several patches at once, and other looks and places of one."""
    body = []
    for attack, (cp, asr, *figures) in paper.BY_TRIGGER.items():
        published = [percent(cp), percent(asr), *map(percent, figures)]
        body.append([attack, "LLaVA-1.5-7B, ScienceQA", "BYE", *published, NOT_SAID])
        for (data,), group in grouped(chosen(rows, attack=attack, rate=MAIN_RATE), "data"):
            for name in (PAPER_RULE, "bye", "consensus"):
                those = chosen(group, variant=name)
                after = [spread(those, "cp_after"), spread(those, "asr_after")]
                body.append([attack, data, name, *after, *_figures(those), count_seeds(those)])
    return table(["trigger", "data", "method", "CP", "ASR", *_FIGURES, "seeds"], body)


def tcap_table(rows: Sequence[Row]) -> str:
    """TCAP's table of F1 by trigger."""
    names = ("bye", PAPER_RULE, "tcap", TCAP_WITH_WITNESS, "consensus")
    header = ["trigger", "data", "BYE, published", "TCAP, published", *names, "ASR", "seeds"]
    body = []
    for attack, (bye, tcap) in paper.TCAP_F1.items():
        published = [attack, "ScienceQA", percent(bye), percent(tcap)]
        body.append([*published, *["-"] * (len(names) + 1), NOT_SAID])
        for (data,), group in grouped(chosen(rows, attack=attack, rate=MAIN_RATE), "data"):
            one = chosen(group, variant="consensus")
            f1 = [spread(chosen(group, variant=name), "f1") for name in names]
            body.append([attack, str(data), "-", "-", *f1, spread(one, "asr"), count_seeds(one)])
    return table(header, body)


def blended_outcome_table(rows: Sequence[Row]) -> str:
    """TCAP's table of clean performance and attack success rate, blended trigger."""
    body = []
    for model, methods in paper.TCAP_BLENDED.items():
        for method, figures in methods.items():
            if figures is not None:
                body.append([model, "ScienceQA", method, *map(percent, figures), NOT_SAID])
    for (data,), group in grouped(chosen(rows, attack="blended", rate=MAIN_RATE), "data"):
        for name in ("none", "random-drop", *_HERE):
            those = [row for row in chosen(group, variant=name) if row["training"] is not None]
            if those:
                after = [spread(those, "cp_after"), spread(those, "asr_after")]
                body.append([_OURS, str(data), name, *after, count_seeds(those)])
    return table(["model", "data", "method", "CP", "ASR", "seeds"], body)


def _patches(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    those = chosen(rows, attack="patch", rate=MAIN_RATE)
    return [(str(data), group) for (data,), group in grouped(those, "data")]


def _figures(rows: Sequence[Row]) -> list[str]:
    return [spread(rows, name) for name in _FIGURES]
