"""Which detector finds which attack: F1, one row an attack."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.detection.tables.markdown import (
    MAIN_RATE,
    Row,
    chosen,
    count_seeds,
    grouped,
    is_learnt,
    spread,
    table,
)
from benchmarks.detection.variants import PAPER_RULE, TCAP_WITH_WITNESS
from bye_audit.poison.attacks import ATTACKS

_COMPARED = (
    PAPER_RULE,
    "bye",
    "tcap",
    TCAP_WITH_WITNESS,
    "plausibility",
    "consensus",
    "zip",
    "random-drop",
)


def f1_table(rows: Sequence[Row]) -> str:
    """Mean F1 with the range over seeds, at the paper's rate; one row an attack."""
    body = []
    for (data, attack), group in grouped(chosen(rows, rate=MAIN_RATE), "data", "attack"):
        one = chosen(group, variant="consensus")
        f1 = [spread(chosen(group, variant=name), "f1") for name in _COMPARED]
        body.append([data, attack, _kind(attack), spread(one, "asr"), count_seeds(one), *f1])
    return table(["data", "attack", "kind", "ASR", "seeds", *_COMPARED], body)


def precision_recall_table(rows: Sequence[Row]) -> str:
    """Precision and recall of the detectors' defaults at the paper's rate."""
    body = []
    for key, group in grouped(chosen(rows, rate=MAIN_RATE), "data", "attack"):
        for name in ("bye", "tcap", "plausibility", "consensus", "zip"):
            if not (those := chosen(group, variant=name)):
                continue
            figures = [spread(those, figure) for figure in ("precision", "recall")]
            removed = sum(row["false_removals"] for row in those)
            body.append([*key, name, count_seeds(those), *figures, f"{removed:,}"])
    header = ["data", "attack", "detector", "seeds", "precision", "recall"]
    return table([*header, "clean samples removed, all seeds"], body)


def not_learnt_table(rows: Sequence[Row]) -> str:
    """Attacks that the models do not obey: what is not learnt leaves little to find."""
    body = []
    for (data, attack, rate), group in grouped(
        chosen(rows, variant="consensus"), "data", "attack", "rate"
    ):
        if not is_learnt(group):
            figures = [spread(group, "asr"), spread(group, "f1")]
            body.append([data, attack, f"{rate:.1%}", count_seeds(group), *figures])
    header = ["data", "attack", "rate", "seeds", "ASR", "consensus F1"]
    return table(header, body, "None." if rows else "Nothing has been measured yet.")


def _kind(attack: str) -> str:
    return ATTACKS[attack].kind if attack in ATTACKS else "-"
