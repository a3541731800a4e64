"""From a fitted mixture to a decision: the guards that every detector's answer goes through.

Shapes: N = samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import LayerProfile, bimodal_separation_index
from bye_audit.core.detection import Detection, FloatArray
from bye_audit.core.gaussians import sorted_values
from bye_audit.core.mixture import MixtureFit, TwoGaussians
from bye_audit.core.stability import MIN_JACCARD
from bye_audit.core.starts import SortedValues
from bye_audit.core.tails import GroupEvidence, weigh_group
from bye_audit.errors import TooFewSamplesError
from bye_audit.schema import Decision

NO_REMOVAL = "Inconclusive: nothing is removed."


def judge_mixture(
    detector: str,
    *,
    found: str,
    suspects: str,
    doubt: str = "",
    fit: MixtureFit,
    mixture: TwoGaussians | None,
    cut: float | None,
    suspicious_weight: float,
    score_N: FloatArray,
    suspicion_N: FloatArray,
    overlap_of: Callable[[NDArray[np.bool_]], float] | None = None,
    is_confirmed: bool = False,
    config: DetectConfig,
    layers: list[LayerProfile],
    averaged_layers: tuple[int, ...] = (),
    statistics: dict[str, Any],
) -> Detection:
    """Put a split of the samples through the guards.

    Parameters
    ----------
    detector
        Its name.
    found, suspects
        What the explanation says: the finding, and what the suspects have.
    doubt
        Why the suspects are not to be acted upon, as far as the detector itself knows.
    fit
        Two Gaussians fitted to the scores, for what they say of the data as a whole.
    mixture, cut, suspicious_weight
        How the samples are split.
    score_N, suspicion_N
        Of every sample, NaN where it was not evaluated.
    overlap_of
        Mean Jaccard index of the suspects with those that resamples would have; asked only where
        nothing else speaks against removing them. None: not known.
    is_confirmed
        Whether a second witness means the same samples, so that their scores need show no gap.
    config
        ``guards``, and bounds on what may be removed.
    layers, averaged_layers, statistics
        Passed on.

    Returns
    -------
    Detection
        With guards, poison is suspected only if (1) the detector has no doubt; (2) two Gaussians
        describe the scores better than one beyond doubt; (3) the suspects are a minority; (4) they
        are a group and not the tail of the others (:func:`weigh_group`); (5) resamples would
        suspect the same samples (mean Jaccard index at least 0.75). Without, if anyone is.
    """
    is_evaluated_N = np.isfinite(score_N)
    is_flagged_N = is_evaluated_N & (suspicion_N > 0.5)
    num_flagged, num_evaluated = int(is_flagged_N.sum()), int(is_evaluated_N.sum())
    share = num_flagged / num_evaluated
    statistics = {
        **statistics,
        "num_evaluated": num_evaluated,
        "num_in_suspicious_component": num_flagged,
        "suspicious_share": share,
        "suspicious_weight": suspicious_weight,
        "sample_bsi": bimodal_separation_index(fit.mixture),
        "sample_delta_bic": fit.delta_bic,
        "mixture_start": fit.start,
    }
    decision, verdict = Decision.INCONCLUSIVE, ""
    if config.guards:
        verdict = _refuse_share(doubt, fit, max(share, suspicious_weight), config)
        if num_flagged:
            group = _weigh(score_N, is_flagged_N, is_evaluated_N)
            statistics["group"] = group.to_json()
            if not (verdict or is_confirmed or group.is_beyond_doubt):
                verdict = "the suspicious scores may be the tail of the others: no gap shows."
            if not verdict and overlap_of is not None:
                statistics["mean_jaccard"] = overlap_of(is_flagged_N)
                verdict = _refuse_unstable(statistics["mean_jaccard"])
    if verdict:
        verdict = f"but {verdict} {NO_REMOVAL}"
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
        averaged_layers=averaged_layers,
        mixture=mixture,
        cut=cut,
        statistics=statistics,
    )


def _refuse_share(doubt: str, fit: MixtureFit, share: float, config: DetectConfig) -> str:
    """Why the split as a whole is not acted upon; empty if nothing speaks against it."""
    if doubt:
        return f"{doubt}."
    if not fit.has_two_modes:
        return "over all samples one group describes the scores about as well as two."
    if share >= config.max_removed_share:
        return (
            f"the suspicious group holds {share:.1%} of the samples (at most "
            f"{config.max_removed_share:.0%} may be removed): it may as well be the clean part of "
            "the data."
        )
    return ""


def _refuse_unstable(mean_jaccard: float) -> str:
    """Why the suspects are too accidental to act upon; empty if they are not."""
    if mean_jaccard >= MIN_JACCARD:
        return ""
    return (
        "other draws of the same data would suspect other samples (mean Jaccard index "
        f"{mean_jaccard:.2f}, below {MIN_JACCARD:g})."
    )


def _weigh(
    score_N: FloatArray, is_flagged_N: NDArray[np.bool_], is_evaluated_N: NDArray[np.bool_]
) -> GroupEvidence:
    """Hold the suspects' scores against the tail of the others."""
    others = score_N[is_evaluated_N & ~is_flagged_N]
    flagged = score_N[is_flagged_N]
    center = float(np.median(others)) if others.size else float(np.median(flagged))
    is_low = np.median(flagged) < center
    scores = score_N[is_evaluated_N]
    # Copies of one sample have one score and are no group. Zero is where attention can collapse no
    # further, and what many different samples may reach.
    distinct = np.concatenate([np.unique(scores[scores != 0]), scores[scores == 0]])
    return weigh_group(
        SortedValues(*sorted_values(distinct)),
        cut=float(flagged.max() if is_low else flagged.min()),
        center=center,
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
