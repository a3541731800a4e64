"""From a fitted mixture to a decision: the guards that every detector's answer goes through.

Shapes: N = samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import LayerProfile, bimodal_separation_index
from bye_audit.core.detection import Detection, FloatArray
from bye_audit.core.mixture import MixtureFit, TwoGaussians
from bye_audit.errors import TooFewSamplesError
from bye_audit.schema import Decision


def judge_mixture(
    detector: str,
    *,
    found: str,
    suspects: str,
    doubt: str = "",
    fit: MixtureFit,
    mixture: TwoGaussians,
    suspicious_weight: float,
    score_N: FloatArray,
    suspicion_N: FloatArray,
    config: DetectConfig,
    layers: list[LayerProfile],
    statistics: dict[str, Any],
) -> Detection:
    """Put a sample-level mixture through the guards."""
    is_evaluated_N = np.isfinite(score_N)
    is_flagged_N = is_evaluated_N & (suspicion_N > 0.5)
    num_flagged, num_evaluated = int(is_flagged_N.sum()), int(is_evaluated_N.sum())
    share = num_flagged / num_evaluated
    decision = Decision.INCONCLUSIVE
    if doubt:
        verdict = f"but {doubt}, which may as well be clean. Inconclusive: nothing is removed."
    elif not fit.has_two_modes:
        verdict = (
            "but over all samples one group describes the scores about as well as two. "
            "Inconclusive: nothing is removed."
        )
    elif max(share, suspicious_weight) >= config.max_removed_share:
        verdict = (
            f"but the suspicious group holds {max(share, suspicious_weight):.1%} of the samples "
            f"(at most {config.max_removed_share:.0%} may be removed): it may as well be the clean "
            "part of the data. Inconclusive: nothing is removed."
        )
    elif not num_flagged:
        decision = Decision.NO_EVIDENCE
        verdict = "but no single sample stands out. No evidence of poison."
    else:
        decision = Decision.POISON_SUSPECTED
        verdict = (
            f"and {num_flagged} of {num_evaluated} judged samples ({share:.1%}) form a group "
            f"with {suspects}. Poison is suspected."
        )
    is_removing = decision is Decision.POISON_SUSPECTED
    return Detection(
        detector=detector,
        decision=decision,
        explanation=f"{found}, {verdict}",
        suspicion_N=suspicion_N,
        is_suspicious_N=is_flagged_N if is_removing else np.zeros_like(is_flagged_N),
        is_evaluated_N=is_evaluated_N,
        score_N=score_N,
        layers=layers,
        mixture=mixture,
        cut=mixture.cut(),
        statistics={
            **statistics,
            "num_evaluated": num_evaluated,
            "num_in_suspicious_component": num_flagged,
            "suspicious_share": share,
            "suspicious_weight": suspicious_weight,
            "sample_bsi": bimodal_separation_index(mixture),
            "sample_delta_bic": fit.delta_bic,
            "mixture_start": fit.start,
        },
    )


def nothing_found(
    detector: str,
    explanation: str,
    is_evaluated_N: NDArray[np.bool_],
    layers: list[LayerProfile],
    statistics: dict[str, Any],
) -> Detection:
    """Answer that there is no evidence, before any sample-level mixture was fitted."""
    unknown_N = np.full(is_evaluated_N.shape, np.nan)
    return Detection(
        detector=detector,
        decision=Decision.NO_EVIDENCE,
        explanation=explanation,
        suspicion_N=unknown_N,
        is_suspicious_N=np.zeros(is_evaluated_N.shape, dtype=bool),
        is_evaluated_N=is_evaluated_N,
        score_N=unknown_N.copy(),
        layers=layers,
        statistics={**statistics, "num_evaluated": int(is_evaluated_N.sum())},
    )


def require_enough(num_samples: int, config: DetectConfig, what: str) -> None:
    """Refuse to decide about a dataset on too few samples."""
    if num_samples < config.min_samples:
        raise TooFewSamplesError(
            f"Only {num_samples} samples have {what}; a decision needs at least "
            f"{config.min_samples}.",
            hint="Ingest more samples with images, or see `bye-audit query AUDIT "
            '"SELECT score_status, count(*) FROM samples GROUP BY 1"`.',
        )
