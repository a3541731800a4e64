"""Stage 4: how bimodal each decoder layer's attention entropies are.

Reads the columns ``score`` wrote; writes no column, only a row in ``runs``; takes seconds, so it
starts anew whenever it is run.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import LayerProfile, LayerRule, profile_layers
from bye_audit.errors import TooFewSamplesError
from bye_audit.progress import SILENT, Progress

if TYPE_CHECKING:
    from bye_audit.store.tables import AuditTables


def profile_stage(
    tables: AuditTables, config: DetectConfig | None = None, progress: Progress = SILENT
) -> list[LayerProfile]:
    """Fit every layer's entropies and say which layers are sensitive.

    Parameters
    ----------
    tables
        After ``score``.
    config
        Rule, entropy and seed; the paper's when None.
    progress
        Told of each layer.

    Returns
    -------
    list of LayerProfile
        One a layer, in order. That none is sensitive is an answer.

    Raises
    ------
    StageNotRunError
        If there are no scores yet or some samples are still to do.
    TooFewSamplesError
        If fewer than ``config.min_samples`` samples have scores.
    """
    from bye_audit.store.evidence import read_evidence

    config = config or DetectConfig()
    scored = read_evidence(tables, with_image_mass=config.entropy == "literal")
    num_samples = len(scored.sample_id)
    if num_samples < config.min_samples:
        raise TooFewSamplesError(
            f"Only {num_samples} samples of {tables.uri} have scores; a profile needs at least "
            f"{config.min_samples}.",
            hint=f"Ingest more samples with images into {tables.uri} and score them.",
        )
    with progress.task("Profiling layers", scored.num_layers, "layers") as task:
        layers = profile_layers(
            scored.evidence.comparable_entropy(config.entropy),
            LayerRule.of(config),
            config.seed,
            lambda layer: task.advance(note=f"layer {layer}"),
        )
    record = {
        "config": asdict(config),
        "num_samples": num_samples,
        "is_entropy_normalized": scored.evidence.has_varying_tokens,
        "layers": [profile.to_json() for profile in layers],
        "sensitive_layers": [profile.layer for profile in layers if profile.is_sensitive],
    }
    last = tables.latest_run("profile")
    # The same answer again is no news: repeated runs leave no trail of equal rows.
    if last is None or last.record != json.loads(json.dumps(record)):
        tables.record_run("profile", record)
    return layers
