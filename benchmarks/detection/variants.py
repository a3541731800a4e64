"""What is judged: a detector and its settings, by the name it has in the record."""

from __future__ import annotations

import json
from dataclasses import asdict

from bye_audit.config import DetectConfig, TcapConfig
from bye_audit.core.detection import Evidence
from bye_audit.core.detectors import DETECTORS

Variant = tuple[str, DetectConfig]

PAPER_RULE = "bye-paper"
"""The paper's rule as it is written: one start, a layer is sensitive by its BSI alone, and whoever
is in the low component is removed."""
PAPER_THRESHOLDS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
PAPER_THRESHOLD = 2.0

TCAP_WITH_WITNESS = "tcap+plausibility"


def _paper_rule(
    *,
    tau: float = PAPER_THRESHOLD,
    clustering: str = "gmm",
    layers: str = "sensitive",
    layer_rule: str = "paper",
) -> Variant:
    config = DetectConfig(
        guards=False,
        bsi_threshold=tau,
        clustering=clustering,  # type: ignore[arg-type]
        layers=layers,  # type: ignore[arg-type]
        layer_rule=layer_rule,  # type: ignore[arg-type]
        # The paper's 4.5 nats of the largest entropy that its 576 image tokens allow.
        entropy_threshold="70.8%",
    )
    return "bye", config


DEFAULTS: dict[str, Variant] = {name: (name, DetectConfig()) for name in DETECTORS}
"""Every detector with its default settings, and the baselines."""

ABLATIONS: dict[str, Variant] = {
    PAPER_RULE: _paper_rule(),
    **{
        f"{PAPER_RULE} tau={tau:g}": _paper_rule(tau=tau)
        for tau in PAPER_THRESHOLDS
        if tau != PAPER_THRESHOLD
    },
    f"{PAPER_RULE} kmeans": _paper_rule(clustering="kmeans"),
    f"{PAPER_RULE} threshold": _paper_rule(clustering="threshold"),
    f"{PAPER_RULE} all layers": _paper_rule(layers="all"),
    f"{PAPER_RULE} all layers threshold": _paper_rule(layers="all", clustering="threshold"),
    f"{PAPER_RULE} reference-code": _paper_rule(layer_rule="reference-code"),
    TCAP_WITH_WITNESS: ("tcap", DetectConfig(tcap=TcapConfig(agree_with="plausibility"))),
}

VARIANTS: dict[str, Variant] = {**DEFAULTS, **ABLATIONS}

ON_CLEAN_HALVES = (*DEFAULTS, PAPER_RULE, TCAP_WITH_WITNESS)
"""Variants that random halves of clean data are put before."""


def can_judge(detector: str, evidence: Evidence) -> bool:
    """Whether a detector has its evidence; only that of `zip` may be left out: it costs a pass."""
    return DETECTORS[detector].role != "specialist" or evidence.purified is not None


def changed_settings(config: DetectConfig) -> str:
    """Give the settings that are not the defaults, as JSON."""
    usual, given = asdict(DetectConfig()), asdict(config)
    return json.dumps({name: value for name, value in given.items() if value != usual[name]})
