"""Two groups of scores of which the high one is suspicious: fitted, held against draws, judged.

Shapes: N = samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bye_audit.config import DetectConfig
from bye_audit.core.bsi import bimodal_separation_index
from bye_audit.core.detection import Detection, FloatArray
from bye_audit.core.detectors.judging import judge_mixture, nothing_found, require_enough
from bye_audit.core.mixture import (
    MIN_DELTA_BIC,
    TwoGaussians,
    fit_two_gaussians,
    split_at_emptiest,
)
from bye_audit.core.stability import (
    ResampledMixtures,
    jaccard,
    judged_rows,
    resample_mixtures,
    spread_of,
)


def judge_high_scores(
    detector: str,
    score_N: FloatArray,
    *,
    score_name: str,
    found: str,
    nothing: str,
    suspects: str,
    unit: str,
    config: DetectConfig,
    least_mean: float | None = None,
) -> Detection:
    """Suspect the samples of the high component of two, if there are two beyond doubt.

    Parameters
    ----------
    detector
        Its name.
    score_N
        Higher is more suspicious; NaN where it does not exist.
    score_name
        What a sample without one lacks, as in "a likelihood gain".
    found, nothing
        What the explanation says where there are two groups, up to their means, and where there
        are not, with ``{count}`` for the number of samples.
    suspects
        What the suspects have.
    unit
        Of the scores.
    config
        Least separation of the two components and bounds on what may be removed.
    least_mean
        Mean that the high component must have to be a finding at all. None: any.

    Returns
    -------
    Detection
        The samples of the high component.

    Raises
    ------
    TooFewSamplesError
        If fewer than ``config.min_samples`` samples have a score.

    Notes
    -----
    The high component is suspicious if the two are separated as a sensitive layer's are (Eq. 7) and
    it is a clear minority. Ordinary samples have a long tail of high scores, which the likeliest
    high component would claim, so both are taken afresh from either side of the place where scores
    are rarest. Beyond either mean the posterior is held, so that more is never less suspicious.
    """
    is_evaluated_N = np.isfinite(score_N)
    count = int(is_evaluated_N.sum())
    require_enough(count, config, score_name)
    values = score_N[is_evaluated_N]
    fit = fit_two_gaussians(values, seed=config.seed, tail="high")
    mixture = fit.mixture
    bsi = bimodal_separation_index(mixture)
    numbers: dict[str, Any] = {"sample_bsi": bsi, "sample_delta_bic": fit.delta_bic}
    is_split = fit.has_two_modes and bsi >= config.bsi_threshold
    if is_split:
        mixture = split_at_emptiest(values, mixture)
    if not is_split or (least_mean is not None and mixture.mean_high < least_mean):
        text = nothing.format(count=count)
        return nothing_found(detector, text, is_evaluated_N, [], numbers)
    resampled = resample_mixtures(
        values, num_resamples=config.resamples, seed=config.seed, tail="high"
    )
    numbers["stability"] = {
        "num_resamples": len(resampled),
        "bsi": spread_of(resampled.separations()),
    }
    return judge_mixture(
        detector,
        found=f"{found} {mixture.mean_high:.2f} against {mixture.mean_low:.2f} {unit}, "
        f"BSI {bimodal_separation_index(mixture):.2f})",
        suspects=suspects,
        fit=fit,
        mixture=mixture,
        cut=mixture.cut(),
        suspicious_weight=1.0 - mixture.weight_low,
        score_N=score_N,
        suspicion_N=high_suspicion(mixture, score_N),
        overlap_of=lambda flags_N: _mean_overlap(resampled, score_N, flags_N, config),
        config=config,
        layers=[],
        statistics=numbers,
    )


def _mean_overlap(
    resampled: ResampledMixtures,
    score_N: FloatArray,
    is_suspect_N: NDArray[np.bool_],
    config: DetectConfig,
) -> float:
    """Mean Jaccard index of the suspects and those of the whole rule on resamples."""
    rows = judged_rows(score_N.size, config.seed)
    overlaps = []
    for b in range(len(resampled)):
        mixture = resampled.mixture(b)
        is_separated = (
            resampled.delta_bic_B[b] > MIN_DELTA_BIC
            and bimodal_separation_index(mixture) >= config.bsi_threshold
        )
        suspected = np.zeros(rows.size, dtype=bool)
        if is_separated:
            mixture = split_at_emptiest(
                resampled.values_G, mixture, weights_N=resampled.weights_BG[b]
            )
            suspected = high_suspicion(mixture, score_N[rows]) > 0.5
        overlaps.append(jaccard(is_suspect_N[rows], suspected))
    return float(np.mean(overlaps))


def high_suspicion(mixture: TwoGaussians, score_N: FloatArray) -> FloatArray:
    """Chance of belonging to the high component, held beyond either mean."""
    # np.clip leaves NaN alone.
    held_N = np.clip(score_N, mixture.mean_low, mixture.mean_high)
    return 1.0 - mixture.posterior_low(held_N)
