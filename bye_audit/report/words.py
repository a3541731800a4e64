"""The report's sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.report.findings import Findings
from bye_audit.schema import Decision, QuarantineCode, Verdict

_TITLES = {
    Decision.NO_EVIDENCE: "No evidence of poison",
    Decision.INCONCLUSIVE: "Inconclusive: nothing was removed",
    Decision.POISON_SUSPECTED: "Poison suspected",
}
_ADVICE = {
    Decision.NO_EVIDENCE: "This is not proof of clean data: read what this verdict cannot tell.",
    Decision.INCONCLUSIVE: "Look at the most suspicious samples below before you train on this "
    "data, and consider a second detector.",
    Decision.POISON_SUSPECTED: "Look at the removed samples below. If they are poison, train on "
    "the cleaned split and find out who supplied them.",
}
_QUARANTINE = {
    QuarantineCode.BAD_JSON: "The record is not valid JSON.",
    QuarantineCode.BAD_ROW: "The row cannot be taken apart, or its text is not UTF-8.",
    QuarantineCode.NOT_AN_OBJECT: "The record is not an object.",
    QuarantineCode.BAD_CONVERSATION: "The conversation has no usable turns.",
    QuarantineCode.BAD_IMAGE_FIELD: "The image field has an unknown form.",
    QuarantineCode.IMAGE_MISSING: "The image file is not there.",
    QuarantineCode.IMAGE_EMPTY: "The image has no bytes.",
    QuarantineCode.IMAGE_UNDECODABLE: "The image cannot be decoded.",
    QuarantineCode.IMAGE_REMOTE: "The image lies on the network, which is never asked.",
    QuarantineCode.DECOMPRESSION_BOMB: "The image is too large to decode safely.",
    QuarantineCode.PATH_ESCAPES_ROOT: "The image path leaves its folder.",
    QuarantineCode.BAD_BASE64: "The image is not valid base64.",
    QuarantineCode.PLACEHOLDER_MISMATCH: "Image marks in the text and images do not match.",
}


def describe(findings: Findings) -> dict[str, Any]:
    """Put the findings into words, as the template names them."""
    is_removing = findings.counts["removed"] > 0
    return {
        "decision": findings.decision.value,
        "title": _TITLES[findings.decision],
        "explanation": findings.explanation,
        "advice": _ADVICE[findings.decision],
        "numbers": _numbers(findings),
        "separation_text": _separation_text(findings),
        "score_text": _score_text(findings),
        "score_legend": _score_legend(findings),
        "layer_heading": "The sensitive layers one by one"
        if findings.sensitive_layers
        else "The layers that came nearest",
        "suspicious_heading": "The most suspicious removed samples"
        if is_removing
        else "The most suspicious samples, all kept",
        "overlay_text": "Beside each image: where the provisional model looks when it begins "
        "to answer. A single hot spot where nothing in the question points is the mark of a "
        "trigger.",
        "training_text": _training_text(findings),
        "training_warning": findings.training.warning if findings.training else None,
        "quarantine": [
            {"code": code, "meaning": _meaning(code), "count": f"{number:,}"}
            for code, number in findings.quarantine.items()
        ],
        "limits": findings.limits,
    }


def describe_answers(findings: Findings) -> list[dict[str, str]]:
    """List answers that more than one removed sample gives."""
    removed = max(findings.counts["removed"], 1)
    return [
        {
            "text": shared.answer,
            "removed": f"{shared.num_removed:,}",
            "kept": f"{shared.num_kept:,}",
            "share": f"{shared.num_removed / removed:.1%}",
        }
        for shared in findings.shared_answers
        if shared.num_removed > 1
    ]


def sample_facts(row: Mapping[str, Any], attention_RC: NDArray[np.floating] | None) -> list[str]:
    """Say of one sample what was decided and how sharply the model looked."""
    facts = ["removed" if row["verdict"] == Verdict.REMOVE else "kept"]
    if row["suspicion"] is not None:
        facts.append(f"suspicion {row['suspicion']:.3f}")
    if attention_RC is not None and attention_RC.sum() > 0:
        share = float(attention_RC.max() / attention_RC.sum())
        facts.append(f"{share:.0%} of the attention on one image token")
    if len(row["images"]) > 1:
        facts.append(f"{len(row['images'])} images")
    return facts


def entropy_axis(findings: Findings) -> str:
    """Name what entropies are measured in."""
    return "Attention entropy / log T" if findings.is_normalized else "Attention entropy, nats"


def score_axis(findings: Findings) -> str:
    """Name what the detector's score is measured in."""
    if findings.detector.name == "bye":
        unit = "attention entropy / log T" if findings.is_score_normalized else "entropy in nats"
        return f"Mean over the averaged layers of: {unit}"
    return findings.detector.score_label[0].upper() + findings.detector.score_label[1:]


def _numbers(findings: Findings) -> list[dict[str, str]]:
    counts = findings.counts
    samples = counts["samples"]
    share = f"{counts['removed'] / samples:.1%} of the samples" if counts["removed"] else "none"
    rows = [
        ("Samples", samples, "read and usable", ""),
        ("Removed", counts["removed"], share, "alarm" if counts["removed"] else ""),
        ("Kept", counts["kept"], "in the cleaned split", ""),
        ("Not scored", counts["not_scored"], _not_scored_remark(counts), ""),
        ("Quarantined", sum(findings.quarantine.values()), "records that could not be read", ""),
    ]
    return [
        {"label": label, "value": f"{number:,}", "remark": remark, "kind": kind}
        for label, number, remark, kind in rows
    ]


def _not_scored_remark(counts: Mapping[str, int]) -> str:
    if not counts["not_scored"]:
        return "every sample was judged"
    if not counts["withheld"]:
        return "never judged; in the cleaned split"
    return f"never judged; {counts['withheld']:,} withheld from the split"


def _separation_text(findings: Findings) -> str:
    start = (
        "For every decoder layer, two normal components were fitted to how widely the samples' "
        "first answer token spreads its attention over the image. The index is the distance of "
        f"the two in units of their joint spread; from {findings.bsi_threshold:g} a layer counts "
        "as sensitive. "
    )
    ruled_out = [
        layer
        for layer in findings.layers
        if layer.bsi >= findings.bsi_threshold and not layer.is_sensitive
    ]
    sensitive = ", ".join(str(layer) for layer in findings.sensitive_layers) or "none"
    end = f"Sensitive here: {sensitive}."
    for layers, why in (
        (
            [str(layer.layer) for layer in ruled_out if not layer.has_two_modes],
            "where one component describes the samples as well as two",
        ),
        (
            [str(layer.layer) for layer in ruled_out if layer.has_two_modes],
            "where the minority is the one with the wider attention",
        ),
    ):
        if layers:
            end += f" Ruled out: {', '.join(layers)}, {why}."
    return start + end


def _score_text(findings: Findings) -> str:
    if findings.detector.name == "bye":
        text = "Each sample's entropies averaged over layers. Poisoned samples lie "
        return text + "low: their attention collapses onto the trigger."
    if findings.detector.name == "tcap":
        heads = len(findings.provenance["detector"]["statistics"]["heads"])
        return (
            f"Mean over {heads} attention heads of how far each sample is on the way from the many "
            "to the few that these heads set apart by their shares of attention on the prompt's "
            "parts. Poisoned samples lie high."
        )
    return (
        "How much more likely the fine-tuned model finds each sample's own answer than its base "
        "does. Poisoned samples lie high: only this data taught that answer."
    )


def _training_text(findings: Findings) -> str:
    training = findings.training
    if training is None:
        return ""
    return (
        f"Loss on the answers of {training.num_used:,} samples over {training.steps[-1]:,} steps. "
        "What this model did not learn leaves no trace in its attention: a curve that never falls "
        "means that a clean verdict says little."
    )


def _score_legend(findings: Findings) -> str:
    if not findings.score_components:
        return ""
    low, high = findings.score_components
    suspect, other = (low, high) if findings.detector.is_low_suspicious else (high, low)
    return (
        f"Red: the suspicious component, mean {suspect.mean:.3f} ± {suspect.std:.3f}, "
        f"{suspect.weight:.1%} of the samples. Blue: the other, mean {other.mean:.3f} ± "
        f"{other.std:.3f}."
    )


def _meaning(code: str) -> str:
    return _QUARANTINE[QuarantineCode(code)] if code in list(QuarantineCode) else ""
